"""``dpone init --connector``: a distribution to fill in, whose own tests pass as it is."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Dpone = Callable[..., Any]
SHARED = {".gitignore", "README.md", "pyproject.toml", "tests/test_conformance.py"}
MODULES = {
    (): ("__init__", "place", "plugin", "sink", "source", "testing"),
    ("--sql",): ("__init__", "connector", "plugin", "testing"),
}
# Of the kit, for the time it takes: nox -s example runs all of it. How many cases it is at least.
SOME = {
    (): ("Source or append or full_refresh or swept or at_once or replaced", 18),  # 11 source, 5 sink, 2 routes
    ("--sql",): ("(Source and not values) or merge_changes or comes_to_rest or widened or replaced", 20),
}


@pytest.fixture(params=MODULES, ids=lambda kind: "".join(kind) or "plain")
def kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def made(tmp_path: Path, dpone: Dpone, kind: tuple[str, ...]) -> Path:
    """A scaffold of the connector my_bus."""
    folder = tmp_path / "made"
    assert dpone("init", "--connector", "my_bus", *kind, folder).exit_code == 0
    return folder


def test_the_files_are_named_and_say_the_name(tmp_path: Path, dpone: Dpone, kind: tuple[str, ...]) -> None:
    """Every file is reported, and all of them bear the connector's name instead of the template's."""
    done = dpone("init", "--connector", "my_bus", *kind, tmp_path / "made", "--format", "json")
    files = SHARED | {f"src/dpone_my_bus/{name}.py" for name in MODULES[kind]}
    assert {str(Path(file).relative_to(tmp_path / "made")) for file in done.json["created"]} == files
    texts = [(tmp_path / "made" / name).read_text() for name in files]
    assert "acme" not in "".join(texts).lower()
    assert any("class MyBusSource" in text for text in texts)


def test_the_next_step_is_said(tmp_path: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line can be pasted: it changes the folder only if the project is in another one."""
    monkeypatch.chdir(tmp_path)
    assert dpone("init", "--connector", "my_bus").out.endswith("next: pip install -e '.[testing]' && pytest\n")
    there = dpone("init", "--connector", "my_bus", "made").out
    assert there.endswith("next: cd made && pip install -e '.[testing]' && pytest\n")


def test_the_distribution_names_its_plugin(made: Path) -> None:
    """pyproject.toml is valid; its entry point is a module of the package that the wheel holds."""
    project = tomllib.loads((made / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["dpone"] == {"my_bus": "dpone_my_bus.plugin"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/dpone_my_bus"]


def run(made: Path, tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A module of Python, where the distribution is as if it were installed."""
    info = tmp_path / "site" / "dpone_my_bus-0.1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dpone-my-bus\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[dpone]\nmy_bus = dpone_my_bus.plugin\n")
    path = os.pathsep.join([str(tmp_path / "site"), str(made / "src"), *sys.path])
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=made, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", [("--sql",)], indirect=True)
@pytest.mark.parametrize("declared", ["COLLATE NOCASE", "COLLATE NOCASE NOT NULL PRIMARY KEY"])
def test_a_target_that_takes_two_keys_for_one_loses_none(made: Path, tmp_path: Path, declared: str) -> None:
    """A table of somebody else's has a row for each of two keys that differ by case, or the load is refused."""
    (made / "p.yaml").write_text(
        "pipeline: p\nsource: {type: file, path: '*.csv'}\nsink: {type: my_bus, connection: 'my_bus:///copy.db', "
        "table: copy, strategy: {mode: merge, key: k}, options: {adopt_existing: true}}\n"
    )
    with closing(sqlite3.connect(made / "copy.db")) as db:
        db.execute(f"CREATE TABLE copy (k TEXT {declared}, n BIGINT)")
        for n, (key, refused) in enumerate([("Ab", False), ("AB", "PRIMARY" in declared)]):
            (made / f"{n}.csv").write_text(f"k,n\n{key},{n}\n")
            done = run(made, tmp_path, "dpone", "run", "p.yaml")
            assert (done.returncode != 0) == refused, done.stderr
        assert db.execute("SELECT k, n FROM copy").fetchall() == [("Ab", 0), ("AB", 1)][: 2 - refused]


def test_its_own_tests_pass(made: Path, tmp_path: Path, kind: tuple[str, ...]) -> None:
    """The kit is green for what the scaffold declares."""
    some, least = SOME[kind]
    done = run(made, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "-k", some)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= least


@pytest.mark.parametrize("name", ["my-bus", "class", "My", "1st", "", "a b", "../up", "a__b", "é", "_a", "a.b"])
def test_what_cannot_be_a_name_is_refused(name: str, tmp_path: Path, dpone: Dpone) -> None:
    """One line, exit 2, nothing written."""
    done = dpone("init", "--connector", name, tmp_path / "made")
    assert done.exit_code == 2
    assert repr(name) in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused(tmp_path: Path, dpone: Dpone) -> None:
    """Two plugins of one name would both be broken."""
    done = dpone("init", "--connector", "sqlite", tmp_path / "made")
    assert done.exit_code == 2
    assert "sqlite already" in done.error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, dpone: Dpone) -> None:
    """One file that exists stops it; it is named, kept, and nothing is written beside it."""
    (tmp_path / "README.md").write_text("mine")
    done = dpone("init", "--connector", "my_bus", tmp_path)
    assert done.exit_code == 2
    assert "README.md" in done.error
    assert [(f.name, f.read_text()) for f in tmp_path.rglob("*")] == [("README.md", "mine")]


def test_sql_wants_a_connector(tmp_path: Path, dpone: Dpone) -> None:
    """Of a pipeline it says nothing: exit 2, nothing written."""
    done = dpone("init", "--sql", tmp_path / "made")
    assert done.exit_code == 2
    assert "--connector NAME" in done.error
    assert list(tmp_path.iterdir()) == []
