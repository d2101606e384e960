"""The public names of ``dpone.ops``."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import dpone.ops

NAMES = ("CDCConfig", "CDCOffset", "ErrorClassifier", "JsonPartitionManifestStore", "SchemaComparator")


def test_the_names_of_the_page_are_public_and_documented() -> None:
    """Each can be imported, is listed by dir() and help(), and says what it is and what it raises."""
    assert tuple(dpone.ops.__all__) == NAMES
    for name in NAMES:
        made = getattr(dpone.ops, name)
        assert made.__name__ == name
        assert name in dir(dpone.ops)
        assert len(made.__doc__ or "") > 200, name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = dpone.ops.Nothing


def test_importing_the_package_costs_nothing() -> None:
    """No pyarrow is loaded until a name that needs it is used."""
    code = "import sys, dpone.ops; print('pyarrow' in sys.modules, 'dpone.errors' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("CDCConfig", {"backend": "postgres_logical", "slot": "s", "publication": "p", "tables": ["t"]}),
    ("CDCConfig", {"backend": "mssql_cdc", "tables": ["t"]}),
    (
        "CDCOffset",
        {"backend": "mssql_change_tracking", "database_guid": "G", "recovery_fork": "F", "versions": {"t": 1}},
    ),
]


@pytest.mark.parametrize(("name", "data"), KINDS, ids=[f"{name}-{data['backend']}" for name, data in KINDS])
def test_a_shape_is_read_by_whoever_imports_only_the_name(name: str, data: dict[str, Any]) -> None:
    """In a process in which no connector has been used: its class is found by the backend that the JSON names."""
    code = f"from dpone.ops import {name}; print(type({name}.from_json({ {'version': 1, **data}!r})).__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"dpone_{data['backend'].partition('_')[0]}.offsets"]


@pytest.mark.parametrize("backend", ["nowhere", "file_changelog"])
def test_a_backend_that_nobody_has_is_refused(backend: str) -> None:
    """Also one whose connector has no shapes of its own."""
    with pytest.raises(Exception, match=f"backend '{backend}', known here: "):
        dpone.ops.CDCOffset.from_json({"version": 1, "backend": backend})
