"""``dpone ops certification-run`` on the command line: what it prints, and what it refuses before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.docs.generate import DOCS

from dpone.ops import certification
from dpone.testing import scenario

SCHEMA = Draft202012Validator(json.loads((DOCS / "reference" / "certification-run.schema.json").read_text()))
ROUTE = ("--source", "file", "--sink", "sqlite", "--strategy", "append")
KNOWN = "choose from file, "


@pytest.fixture(scope="module", autouse=True)
def _one_process_for_all() -> Iterator[None]:
    """Runs are forked from one process for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenario, "end", lambda: None)
        yield


def named(source: str, sink: str, strategy: str) -> tuple[str, ...]:
    return ("--source", source, "--sink", sink, "--strategy", strategy)


def test_it_prints_a_line_for_each_step(dpone: Callable[..., Any], tmp_path: Path) -> None:
    """First what it runs against, last what it comes to; the same as JSON has a documented shape, and nothing else is
    on stdout."""
    words = (*ROUTE, "--rows", "10", "--seed", "1", "--evidence", tmp_path)
    done = dpone("ops", "certification-run", *words)
    first, *steps, last, _, _, _, _ = done.out.splitlines()
    assert (done.exit_code, done.err) == (0, "")
    assert first.startswith("live: file (file system ")
    assert first.endswith("), append, 10 rows, --seed 1")
    assert [line.split()[:3] for line in steps[:4]] == [
        ["ok", "seed", "10"], ["ok", "load", "10"], ["ok", "change", "11"], ["ok", "load", "11"],
    ]  # fmt: skip
    assert all("every row equal" in line for line in steps if line.split()[1] in ("load", "recover"))
    assert last.startswith("passed: ")
    assert [line.partition(f"{tmp_path}/")[0] for line in done.out.splitlines()[-4:]] == ["wrote "] * 4
    printed = dpone("ops", "certification-run", *words, "--format", "json")
    SCHEMA.validate(printed.json)
    assert (printed.exit_code, printed.json["ok"], printed.json["reached"]) == (0, True, "live")
    assert [(one["step"], str(one["rows"])) for one in printed.json["steps"]] == [
        (line.split()[1], line.split()[2]) for line in steps
    ]


def test_a_route_that_fails_ends_with_1(dpone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that saw it says FAIL, and the last line says what was found."""
    broken = type("Broken", (certification._harness(certification.Named("sink", "sqlite")),), {"implementations": {
        "sink": "tests.ops.test_certification_run:WritesAWrongValue"}})  # fmt: skip
    known = certification._harness
    monkeypatch.setattr(certification, "_harness", lambda end: broken if end.role == "sink" else known(end))
    done = dpone("ops", "certification-run", *ROUTE, "--rows", "10")
    assert done.exit_code == 1
    assert [line.split()[:2] for line in done.out.splitlines()[1:3]] == [["ok", "seed"], ["FAIL", "load"]]
    assert done.out.splitlines()[-1].startswith("FAILED: load: 1 row missing, such as (9, ")
    printed = dpone("ops", "certification-run", *ROUTE, "--rows", "10", "--format", "json")
    SCHEMA.validate(printed.json)
    assert (printed.exit_code, printed.json["ok"], printed.json["wrong_rows"]) == (1, False, 2)


REFUSED = [
    (named("postgres", "mssql", "snapshot_diff"), f"certify sink mssql: this version does not implement it; {KNOWN}"),
    (named("mssql", "sqlite", "merge"), f"certify source mssql: this version does not implement it; {KNOWN}"),
    (named("acme", "sqlite", "merge"), "use source acme: the connector is not installed; use one of: file, "),
    (named("file", "file", "merge"),
     "certify file -> file by merge: sink file does not declare merge; choose from full_refresh, append"),
    (named("sqlite", "sqlite", "cdc_apply"),
     "certify sqlite -> sqlite by cdc_apply: source sqlite has no change stream; choose from full_refresh, append, "),
    (named("file", "sqlite", "upsert"), "certify file -> sqlite by upsert: the strategy is unknown; choose from "),
    ((*ROUTE, "--rows", "9"), "invalid value for '--rows': 9 is not in the range 10<=x<=1000000; see "),
    ((*ROUTE, "--soak", "long"),
     "invalid value for '--soak': 'long' is not a duration; write a number and s, m, h or d, as in 30m"),
    ((*ROUTE, "--evidence", __file__), f"write evidence into {__file__}: file exists; name another folder"),
    ((*ROUTE[2:], "--source", "shop", "--pipeline", "p.yaml"), "p.yaml:2: shop: the connection does not begin with "),
    ((*ROUTE, "--sink", "copy", "--pipeline", "p.yaml"), "certify sink mssql: this version does not implement it; "),
    ((*ROUTE[2:], "--source", "shpo", "--pipeline", "p.yaml"),
     "certify source shpo: p.yaml has no connection of this name; use the name of a connection, or one of file, "),
    (("--source", "file", "--sink", "sqlite"), "missing option '--strategy'; see "),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_cannot_be_run_is_refused_in_one_line(
    dpone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    """Exit code 2, before a server is started or a folder is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.mkdtemp", None)
    Path("p.yaml").write_text("# names of systems\nshop: 'acme://shop'\ncopy: 'mssql://copy'\n")
    done = dpone("ops", "certification-run", *words)
    assert (done.exit_code, done.out) == (2, "")
    assert done.error.removeprefix("error: ").startswith(said)
