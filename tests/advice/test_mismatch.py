"""Exit code 2 is for the pipeline file and the command line. What only a system can tell is a stop, and check finds it
first."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tests.advice.follow import Place, files, pipeline, table

from dpone.cli.main import assemble

CURSOR = {"by": "cursor", "column": "n"}
BOUND = pipeline(table())
BOUND["sink"]["contract"] = {"not_null": ["gone"]}
GLOB = {
    "pipeline": "p", "runtime": {"retries": 0},
    "defaults": {
        "source": {"type": "sqlite", "connection": "sqlite:///source.db"},
        "sink": {"type": "sqlite", "connection": "sqlite:///target.db", "strategy": {"mode": "append"}},
    },
    "streams": ["gone_*"],
}  # fmt: skip


def place_of(folder: Path) -> Place:
    place = Place(folder)
    place.sql("source", "CREATE TABLE s (id INTEGER, n INTEGER)", "INSERT INTO s VALUES (1, 10)")
    place.file("a.csv", "id,n\n1,10\n")
    return place


def command(place: Place, data: dict[str, Any], *words: str) -> tuple[int, Any]:
    path = place.folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    done = CliRunner().invoke(assemble(), [words[0], str(path), *words[1:], "--format", "json"], standalone_mode=False)
    code = done.return_value if done.exception is None else getattr(done.exception, "exit_code", 1)
    shown = done.stdout[re.search(r"^(\{|$)", done.stdout, re.M).start() :]  # click before 8.2 adds what went to stderr
    return int(code or 0), json.loads(shown) if done.exception is None else done.exception


@pytest.mark.parametrize(
    ("data", "said", "checked"),
    [
        (pipeline(table(incremental={**CURSOR, "column": "gone"})), "names gone", "no incremental column gone"),
        (pipeline(table(incremental={**CURSOR, "key": ["gone"]})), "names gone", "no incremental column gone"),
        (pipeline(table(), "merge", key=["ID"]), "has no column ID", "the source has no key column ID"),
        (pipeline(table(), "replace", where={"gone": 1}), "has no column gone", "the source has no where column gone"),
        (pipeline(files("a.csv"), "merge", key=["gone"]), "file:a.csv has no column gone", "has no key column gone"),
        (pipeline(table(columns={"gone": "string"})), "unknown columns: gone", "unknown columns: gone"),
        (pipeline({**table(), "table": "s"}, "replace", where={"n": "x"}), "'x' is not a valid int64", ""),
        (BOUND, "the source has no column gone", ""),
    ],
    ids=["cursor", "cursor key", "merge key", "where", "file key", "columns", "value of where", "contract"],
)  # fmt: skip
def test_what_only_a_system_can_tell_is_a_stop(tmp_path: Path, data: Any, said: str, checked: str) -> None:
    """Exit code 3, nothing is made; ``check --connect`` names a column that is not there, before any run."""
    place = place_of(tmp_path)
    if checked:
        code, found = command(place, data, "check", "--connect")
        assert code == 1
        assert checked in json.dumps([finding for finding in found["findings"] if finding["ok"] is False])
    for words in (["plan"], ["run", "--quiet"]):
        code, report = command(place, data, *words)
        error = report["streams"][0]["error"]
        assert (code, report["status"], error["kind"]) == (3, "stopped", "PipelineMismatch")
        assert said in error["message"]
        assert not error["retryable"]
    assert not (tmp_path / "target.db").exists() or place.rows("SELECT name FROM sqlite_master") == []


def test_a_glob_that_matches_no_table_is_a_stop(tmp_path: Path) -> None:
    """The tables are those of the source; a connection in a wrong form is still the file's fault."""
    place = place_of(tmp_path)
    code, error = command(place, GLOB, "run", "--quiet")
    assert (code, type(error).__name__) == (3, "PipelineMismatch")
    assert "no table matches gone_*" in str(error)
    source = {"type": "sqlite", "connection": "sqlite://source.db"}
    wrong = {**GLOB, "defaults": {**GLOB["defaults"], "source": source}}  # type: ignore[dict-item]
    code, error = command(place, wrong, "run", "--quiet")
    assert (code, type(error).__name__) == (2, "ConfigError")


def test_check_is_green_where_the_columns_are_there(tmp_path: Path) -> None:
    """Of a table, and of a file; ``order_by: file`` is the order of files, not a column."""
    place = place_of(tmp_path)
    for source in (table(incremental=CURSOR), files("a.csv")):
        code, found = command(place, pipeline(source, "merge", key=["id"]), "check", "--connect")
        assert (code, [finding for finding in found["findings"] if finding["ok"] is False]) == (0, [])
    by_file = {"key": ["id"], "duplicates": "last", "order_by": "file"}
    assert command(place, pipeline(files("a.csv"), "merge", **by_file), "check", "--connect")[0] == 0
    assert command(place, pipeline(table(), "merge", **by_file), "check", "--connect")[0] == 1


def wide(columns: int) -> str:
    return ",".join(f"c{i}" for i in range(columns)) + "\n" + ",".join(["1"] * columns) + "\n"


@pytest.mark.parametrize(("columns", "mode"), [(1_998, "append"), (1_999, "append"), (1_999, "full_refresh")])
def test_more_columns_than_a_table_can_have_are_counted_before_anything_is_read(
    tmp_path: Path, columns: int, mode: str
) -> None:
    """SQLite has 2,000 a table, two of which are dpone's; that many are loaded, more make nothing."""
    place = Place(tmp_path)
    place.file("a.csv", wide(columns))
    error = place.run(pipeline(files("?.csv"), mode)).error
    if columns == 1_998:
        assert error is None
        assert len(place.rows()[0]) == columns
        place.file("b.csv", wide(columns + 1))
        error = place.run(pipeline(files("?.csv"), mode)).error
    assert error is not None
    assert (error.kind, error.exit_code) == ("SchemaBreak", 3)
    assert (
        "2,001 columns including dpone's own, but a table can have at most 2,000; read fewer columns" in error.message
    )
    assert (
        columns == 1_998 or place.rows("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_\\_%' ESCAPE '\\'") == []
    )


def test_a_name_with_a_dot_is_one_table_where_it_is_quoted(tmp_path: Path) -> None:
    """SQLite has no schemas: a.b is refused with both ways out, and the quoted one works."""
    place = Place(tmp_path)
    place.sql("source", 'CREATE TABLE "a.b" (x INTEGER)', 'INSERT INTO "a.b" VALUES (7)')
    data = pipeline({**table(), "table": "a.b"})
    code, found = command(place, data, "check")
    assert code == 1
    [said] = [finding for finding in found["findings"] if finding["ok"] is False]
    assert said["found"] == "read a table name: a.b has a schema, but SQLite has no schemas"
    assert said["todo"].startswith(
        "write table: b; if the dot is part of the name, write table: '\"a.b\"'; read a table of "
    )
    path = tmp_path / "pipeline.yaml"
    path.write_text(path.read_text().replace("table: a.b", "table: '\"a.b\"'"))
    assert place.run(yaml.safe_load(path.read_text())).error is None
    assert place.rows() == [{"x": 7}]


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source, a sink, a state, a SQLite file and a file of connections; no folder named ~ is made."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "a.csv").write_text("a\n1\n")
    (home / "connections.yaml").write_text("warehouse: sqlite:///~/target.db\n")
    place, state = Place(tmp_path), {"type": "file", "path": "~/state"}
    data = {**pipeline(files("~/a.csv"), sink={"type": "file", "path": "~/out"}), "state": state}
    assert place.run(data).error is None
    sink = {"type": "sqlite", "connection": "warehouse", "table": "t"}
    data = {**pipeline(files("~/a.csv"), sink=sink), "state": state, "connections": "~/connections.yaml"}
    assert place.run(data).error is None
    assert {"out", "state", "target.db"} <= {*os.listdir(home)}
    assert sorted(os.listdir(tmp_path)) == ["home", "pipeline.yaml"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("9", "10"), "numbers of 1 to 2 digits as text"),
        (
            ("b6f3a2c4-5d1e-4f7a-8b9c-0d1e2f3a4b5c",),
            "uuids of version 4, which do not increase; use a column that increases",
        ),
        (("x9", "x11"), "warning"),
        (("00000009", "00000011"), ""),
        (("2026-01-31T10:00:00Z",), ""),
        (("01ARZ3NDEKTSV4RRFFQ69G5FAV",), ""),
        (("01890a5d-ac96-774b-bcce-b302099a8057",), ""),
    ],
)
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_cursor_of_text_that_may_pass_rows_over_is_refused_or_warned_of(
    tmp_path: Path, values: tuple[str, ...], said: str, mode: str
) -> None:
    """'11' sorts before '9': numbers of several lengths and random uuids are refused, other texts reported. Times,
    ULIDs and numbers of one length grow as text does."""
    place = Place(tmp_path)
    place.sql("source", "CREATE TABLE s (c TEXT PRIMARY KEY)", *(f"INSERT INTO s VALUES ('{v}')" for v in values))
    key = {"key": ["c"]} if mode == "merge" else {}
    done = place.run(pipeline(table(incremental={"by": "cursor", "column": "c"}), mode, **key))
    if said == "warning":
        assert done.error is None
        assert "cursor column c is sorted as text: a new 'x11' would be below 'x9'" in done.warnings[0]
    elif said:
        assert done.error is not None
        assert said in done.error.message
    else:
        assert (done.error, done.warnings) == (None, [])


def test_a_cursor_whose_numbers_grow_longer_stops_before_a_row_is_lost(tmp_path: Path) -> None:
    """9 was loaded; 10 comes, which is below it as text."""
    place, data = Place(tmp_path), pipeline(table(incremental={"by": "cursor", "column": "c"}))
    place.sql("source", "CREATE TABLE s (c TEXT)", "INSERT INTO s VALUES ('8'), ('9')")
    assert place.run(data).error is None
    place.sql("source", "INSERT INTO s VALUES ('10')")
    error = place.run(data).error
    assert error is not None
    assert "numbers of 1 to 2 digits as text" in error.message
