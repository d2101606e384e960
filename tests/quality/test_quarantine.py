"""Where rows that break the contract are kept."""

from __future__ import annotations

import re

import pytest

from dpone.quality.quarantine import _safe


@pytest.mark.parametrize("name", ["load", "a" * 64, "a" * 65, "a" * 66, "/etc", "../up", ".hidden", "a b", "a_b", ""])
def test_any_name_is_a_file_of_its_own(name: str) -> None:
    """No folder, no hidden file, no more than 255 bytes; only a name that needed no change keeps it."""
    safe = _safe(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]{0,80}", safe)
    assert (safe == name) == bool(re.fullmatch(r"[a-z_]{1,64}", name))
    assert len({_safe(other) for other in (name, f"{name}/", f"{name} ", f"{name}_", f"{name}__")}) == 5
