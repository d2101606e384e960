"""Columns that a source leaves out. What becomes of the rows does not depend on which files are read together: a source
with a schema of its own stops, files give NULL, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.engine.test_fidelity import Project, error, file_sink, file_source, sqlite_sink, sqlite_source

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.model.pipeline import SourceSpec
from dpone.model.report import StreamReport

Row = Mapping[str, Any]
FORMATS = ("csv", "jsonl", "parquet")
KEYED: dict[str, Any] = {"key": ["id"]}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def write(project: Project, name: str, rows: Sequence[Row]) -> None:
    """In the format that the name says; a column that no row has is not in the file."""
    path, columns = project.folder / name, list(dict.fromkeys(column for row in rows for column in row))
    if name.endswith("csv"):
        lines = [",".join(str(row.get(c, "")) for c in columns) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)


def policy(sink: dict[str, Any], **evolution: Any) -> dict[str, Any]:
    return {**sink, "options": {"schema_evolution": evolution}}


WHOLE = [{"id": 1, "v": "a", "w": 7}, {"id": 2, "v": "b", "w": 8}]
LACKING = [{"id": 2, "v": "c"}, {"id": 3, "v": "d"}]


def loaded(project: Project, format: str, sink: dict[str, Any], together: bool) -> list[StreamReport]:
    """Of d1, which has w, and d2, which does not: in one window, or in two."""
    write(project, f"d1.{format}", WHOLE)
    reports = [] if together else [project.load(file_source(f"d*.{format}"), sink)]
    write(project, f"d2.{format}", LACKING)
    return [*reports, project.load(file_source(f"d*.{format}"), sink)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("together", [True, False], ids=["one window", "two windows"])
def test_a_file_that_lacks_a_column_gives_null(project: Project, format: str, together: bool) -> None:
    """The rows are the same whether the files are read together or apart, and the report names column and file."""
    reports = loaded(project, format, sqlite_sink(), together)
    assert [r.status for r in reports] == ["loaded"] * len(reports)
    assert reports[-1].warnings == [f"column w is missing in d2.{format}: its rows get NULL"]
    assert project.sql("t", "SELECT id, v, w FROM t ORDER BY id, v") == [
        (1, "a", 7), (2, "b", 8), (2, "c", None), (3, "d", None),
    ]  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_a_merge_gives_null_in_either_case(project: Project, format: str) -> None:
    """A row that a later file has without the column: a value of before does not stay by chance."""
    found = []
    for n, sink in enumerate([sqlite_sink("a", "merge", **KEYED), sqlite_sink("b", "merge", **KEYED)]):
        if n == 0:
            loaded(project, format, sink, together=False)
        else:  # read together, the later file wins in the same way
            many = {**sink, "strategy": {**sink["strategy"], "duplicates": "last", "order_by": ["v"]}}
            project.load(file_source(f"d*.{format}"), many)
        found.append(project.sql(sink["connection"][10:-3], "SELECT id, v, w FROM t ORDER BY id"))
    assert found[0] == found[1] == [(1, "a", 7), (2, "c", None), (3, "d", None)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("together", [True, False], ids=["one window", "two windows"])
@pytest.mark.parametrize("said", [{"on_missing_column": "fail"}, {"mode": "strict"}], ids=["fail", "strict"])
def test_where_the_pipeline_says_so_it_stops(
    project: Project, format: str, together: bool, said: dict[str, Any]
) -> None:
    """``fail`` and ``strict`` stop for a file as for a table, also where another file of the window has the column."""
    *_, last = loaded(project, format, policy(sqlite_sink(), **said), together)
    assert last.status == "stopped"
    assert "column w (int64) is in the target but not in d2." in error(last).replace("double", "int64")
    assert "on_missing_column: ignore" in error(last)


@pytest.mark.parametrize("together", [True, False], ids=["one window", "two windows"])
def test_ignore_says_nothing(project: Project, together: bool) -> None:
    """It is known; the rows are the same."""
    reports = loaded(project, "csv", policy(sqlite_sink(), on_missing_column="ignore"), together)
    assert [r.warnings for r in reports] == [[]] * len(reports)
    assert project.sql("t", "SELECT count(*), count(w) FROM t") == [(4, 2)]


def test_many_files_are_counted(project: Project) -> None:
    """The report stays short, however many files lack the column."""
    for n in range(1, 5):
        write(project, f"d{n}.csv", WHOLE if n == 2 else LACKING)
    report = project.load(file_source(), sqlite_sink())
    assert report.warnings == ["column w is missing in d1.csv and 2 other files: its rows get NULL"]


def test_a_file_without_a_row_lacks_nothing(project: Project) -> None:
    """An empty JSON Lines file says nothing of columns, and changes nothing of what is known of them."""
    write(project, "d1.jsonl", WHOLE)
    (project.folder / "d2.jsonl").write_text("")
    assert project.load(file_source("d*.jsonl"), sqlite_sink()).warnings == []
    project.sql("t", "ALTER TABLE t ADD COLUMN note")
    (project.folder / "d3.jsonl").write_text("")
    project.load(file_source("d*.jsonl"), sqlite_sink())
    write(project, "d4.jsonl", WHOLE)
    assert all("NULL in these rows" not in text for text in project.run().warnings)


# ---- columns that no file ever had


def test_a_column_of_the_targets_own_is_not_touched(project: Project) -> None:
    """What no file ever had keeps its values where rows are updated; new rows have NULL there, and the report says it;
    a default fills itself and is not worth a word."""
    write(project, "d1.csv", WHOLE)
    project.load(file_source(), sqlite_sink("t", "merge", **KEYED))
    project.sql(
        "t", "ALTER TABLE t ADD COLUMN note", "ALTER TABLE t ADD COLUMN more", "UPDATE t SET note = 'n'",
        "ALTER TABLE t ADD COLUMN made DEFAULT 5",
    )  # fmt: skip
    write(project, "d2.csv", [{"id": 2, "v": "c", "w": 8}, {"id": 3, "v": "d", "w": 9}])
    report = project.run()
    target = report.key.rpartition("|")[2]
    assert report.warnings == [f"columns note, more of {target} missing in the data: new rows get NULL"]
    assert project.sql("t", "SELECT id, v, note, made FROM t ORDER BY id") == [
        (1, "a", "n", 5), (2, "c", "n", 5), (3, "d", None, 5),
    ]  # fmt: skip


def test_a_position_of_an_earlier_version_goes_on(project: Project) -> None:
    """It does not say which columns the files had: what a file lacks is then left as it is, and the report says so."""
    write(project, "d1.csv", WHOLE)
    project.load(file_source(), sqlite_sink())
    [(text,)] = project.sql("t", "SELECT position FROM __dpone__loads")
    position = json.loads(text)
    assert position["value"].pop("columns") == ["id", "v", "w"]
    project.sql("t", f"UPDATE __dpone__loads SET position = '{json.dumps(position, sort_keys=True)}'")
    write(project, "d2.csv", LACKING)
    report = project.run()
    assert report.status == "loaded"
    target = report.key.rpartition("|")[2]
    assert report.warnings == [f"column w of {target} missing in the data: new rows get NULL"]
    assert project.sql("t", "SELECT id, v, w FROM t WHERE v > 'b' ORDER BY id") == [(2, "c", None), (3, "d", None)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.json_(), pa.uuid(), pa.decimal256(50, 2),
        pa.time64("us"), pa.duration("us"), pa.month_day_nano_interval(), pa.timestamp("ns", "UTC"),
        pa.map_(pa.string(), pa.string()),
    ],
    ids=str,
)  # fmt: skip
def test_the_null_is_of_the_targets_type(project: Project, format: str, type_: pa.DataType) -> None:
    """Whatever the target keeps the column as, though the format has no such type."""
    spec = SourceSpec("file", path=f"d*.{format}", options=FileSourceOptions(), base=project.folder)
    write(project, f"d1.{format}", WHOLE)
    before = FileSource(spec).window(None, WindowRequest()).position
    write(project, f"d2.{format}", LACKING)
    source = FileSource(spec)
    target = pa.schema({"id": pa.int64(), "v": pa.string(), "w": type_})
    window = source.window(before, WindowRequest(expected=target))
    [part] = window.parts
    with source.read(part) as stream:
        [batch] = stream.batches()
    assert batch.schema.field("w").type == type_
    assert batch.column("w").null_count == 2


def test_a_declared_column_may_be_left_out_too(project: Project) -> None:
    """``columns`` of a file names a column that the target has and this file has not: NULL, not a misspelt name."""
    source = file_source(columns={"w": "int64"})
    write(project, "d1.csv", WHOLE)
    assert project.load(source, sqlite_sink()).status == "loaded"
    write(project, "d2.csv", LACKING)
    assert project.run().status == "loaded"
    project.pipeline(file_source(columns={"ww": "int64"}), sqlite_sink())
    write(project, "d3.csv", LACKING)
    assert "no such column" in error(project.run())


# ---- what must be there


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("together", [True, False], ids=["one window", "two windows"])
@pytest.mark.parametrize(
    "strategy",
    [
        {"mode": "merge", "key": ["w"]},
        {"mode": "partition_replace", "partition": "w"},
        {"mode": "merge", "key": ["id", "v"], "duplicates": "last", "order_by": ["w"]},
    ],
    ids=["key", "partition", "order_by"],
)
def test_columns_that_the_strategy_names_must_be_in_every_file(
    project: Project, format: str, together: bool, strategy: dict[str, Any]
) -> None:
    """A file without its key is not loaded under a NULL key, whatever is said of missing columns."""
    sink = policy({**sqlite_sink(), "strategy": strategy}, on_missing_column="ignore")
    *_, last = loaded(project, format, sink, together)
    if not together and strategy.get("key") == ["w"]:  # an INTEGER PRIMARY KEY fills itself
        assert "has no column w;" in error(last)
    else:
        assert last.status == "stopped"
        assert f"column w is missing in d2.{format}" in error(last)
    assert project.sql("t", "SELECT name FROM sqlite_master WHERE name = 't'") == ([] if together else [("t",)])


@pytest.mark.parametrize("together", [True, False], ids=["one window", "two windows"])
def test_a_not_null_column_stops(project: Project, together: bool) -> None:
    """Before anything is staged, whether the other rows of the window have it or not."""
    project.sql("t", "CREATE TABLE t (id INTEGER, v TEXT, w INTEGER NOT NULL)")
    *_, last = loaded(project, "csv", sqlite_sink(), together)
    assert last.status == "stopped"
    assert "column w, not null, is in the target but not in d2.csv" in error(last)


def test_a_default_is_never_mixed_with_null(project: Project) -> None:
    """Alone, the rows of a file that lacks the column would get the default; so with others they stop rather than get
    NULL."""
    project.sql("t", "CREATE TABLE t (id INTEGER, v TEXT, w INTEGER DEFAULT 5)")
    *_, last = loaded(project, "csv", sqlite_sink(), together=True)
    assert "column w, nullable, is in the target but not in d2.csv" in error(last)
    (project.folder / "d1.csv").unlink()
    for name, rows in (("d2.csv", LACKING), ("d3.csv", WHOLE), ("d4.csv", [{"id": 9, "v": "z"}])):
        write(project, name, rows)
        assert project.run().status == "loaded"
    assert project.sql("t", "SELECT id, w FROM t ORDER BY id, w") == [(1, 7), (2, 5), (2, 8), (3, 5), (9, 5)]


# ---- renames, and other data


def test_a_possible_rename_of_a_file_is_reported(project: Project) -> None:
    """A column is gone and another is new: dpone does not guess, and says so."""
    write(project, "d1.csv", WHOLE)
    project.load(file_source(), sqlite_sink())
    write(project, "d2.csv", [{"id": 3, "v": "c", "width": 9}])
    report = project.run()
    assert report.status == "loaded"
    assert [text for text in report.warnings if text.startswith("possible rename: w is missing and width is new; ")]


def test_a_possible_rename_of_a_table_stops(project: Project) -> None:
    """The stop names both, and what to do: with the target's column renamed the run goes on, and no value is lost."""
    project.sql("s", "CREATE TABLE t (id INTEGER, v TEXT)", "INSERT INTO t VALUES (1, 'a')")
    sink = sqlite_sink("t", "merge", **KEYED)
    project.load(sqlite_source(), sink)
    project.sql("s", "ALTER TABLE t RENAME COLUMN v TO w", "INSERT INTO t VALUES (2, 'b')")
    said = error(project.run())
    assert "not in the source; possible rename: v is missing and w is new" in said
    assert "rename the column of the target too" in said
    project.sql("t", "ALTER TABLE t RENAME COLUMN v TO w")
    assert project.run().status == "loaded"
    assert project.sql("t", "SELECT id, w FROM t ORDER BY id") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("source", ["table", "query"])
def test_a_table_or_query_that_loses_a_column_stops(project: Project, source: str) -> None:
    """Its schema is its own: a column that it does not have is gone. ``ignore`` lets it go."""
    project.sql("s", "CREATE TABLE t (id INTEGER, v TEXT)", "INSERT INTO t VALUES (1, 'a')")
    given = sqlite_source()
    given |= {"query": "SELECT id, v FROM t"} if source == "query" else {}
    given.pop("table" if source == "query" else "", None)
    assert project.load(given, sqlite_sink("t", "full_refresh")).status == "loaded"
    if source == "query":
        given["query"] = "SELECT id FROM t"
    else:
        project.sql("s", "ALTER TABLE t DROP COLUMN v")
    stopped = project.load(given, sqlite_sink("t", "full_refresh"))
    assert (stopped.status, "column v (string) is in the target but not in" in error(stopped)) == ("stopped", True)
    ignoring = policy(sqlite_sink("t", "full_refresh"), on_missing_column="ignore")
    assert project.load(given, ignoring).status == "loaded"


def test_a_file_that_shares_no_column_with_the_target_stops(project: Project) -> None:
    """Another delimiter, or a file that does not belong here: not rows of NULL beside new columns."""
    write(project, "d1.csv", WHOLE)
    project.load(file_source(), sqlite_sink())
    (project.folder / "d2.csv").write_text("ID;V\n3;c\n")
    assert "options.delimiter" in error(project.run())
    (project.folder / "d2.csv").write_text("p,q\n3,c\n")
    said = error(project.run())
    lost = (("id", "int64"), ("v", "string"), ("w", "int64"))
    assert ", ".join(f"column {name} ({type_}) is in the target but not in d2.csv" for name, type_ in lost) in said
    assert project.sql("t", "SELECT count(*) FROM t") == [(2,)]


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_a_folder_as_target_is_told_the_same(project: Project, format: str) -> None:
    """The rule is the source's, not the sink's."""
    write(project, "d1.csv", WHOLE)
    project.load(file_source(), file_sink(format, mode="append"))
    write(project, "d2.csv", LACKING)
    report = project.run()
    assert report.warnings == ["column w is missing in d2.csv: its rows get NULL"]


def test_a_full_refresh_reads_what_there_is(project: Project) -> None:
    """Whole windows know nothing of files that are gone: the target's column stays, and is NULL."""
    write(project, "d1.csv", WHOLE)
    project.load(file_source("d*.csv"), sqlite_sink("t", "full_refresh"))
    write(project, "d1.csv", LACKING)
    report = project.run()
    assert (report.status, len(report.warnings)) == ("loaded", 1)
    assert project.sql("t", "SELECT id, w FROM t ORDER BY id") == [(2, None), (3, None)]


def test_a_change_log_leaves_out_what_it_likes(project: Project) -> None:
    """A log without types never had a column that the target has: the target's stays, and the report says so."""

    def log(commit: int, **values: Any) -> str:
        change = {"table": "t", "op": "insert", "commit": f"{commit}", "key": {"id": values["id"]}, "values": values}
        return json.dumps(change) + "\n" + json.dumps({"op": "commit", "commit": f"{commit}"}) + "\n"

    (project.folder / "log.jsonl").write_text(log(1, id=1, v="a"))
    source = {"type": "file", "path": "log.jsonl", "options": {"incremental": {"by": "cdc"}}}
    sink = sqlite_sink("t", "cdc_apply")
    assert project.load(source, sink).status == "loaded"
    project.sql("t", "ALTER TABLE t ADD COLUMN note")
    with (project.folder / "log.jsonl").open("a") as file:
        file.write(log(2, id=2, v="b"))
    report = project.run()
    assert report.status == "loaded"
    assert ["missing in the data" in text for text in report.warnings] == [True]
    assert project.sql("t", "SELECT id, v, note FROM t ORDER BY id") == [(1, "a", None), (2, "b", None)]
