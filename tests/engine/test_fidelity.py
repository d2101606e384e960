"""Values and rows from end to end, with the awkward data of real projects: through a pipeline file in, and back through
sqlite3, pyarrow and json."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import dpone
from dpone.model.report import StreamReport
from dpone.ops.check import implementations

Rows = list[tuple[Any, ...]]


class Project:
    """A folder with one pipeline. Targets and sources are ``NAME.db`` with one table ``t`` each, or folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pipeline(self, source: dict[str, Any], sink: dict[str, Any]) -> None:
        text = {"pipeline": "p", "source": source, "sink": sink, "runtime": {"retries": 0}}
        (self.folder / "p.yaml").write_text(yaml.safe_dump(text))

    def run(self, **options: Any) -> StreamReport:
        [stream] = dpone.run(self.folder / "p.yaml", **options).streams
        return stream

    def load(self, source: dict[str, Any], sink: dict[str, Any], **options: Any) -> StreamReport:
        self.pipeline(source, sink)
        return self.run(**options)

    def csv(self, text: str, name: str = "d.csv") -> None:
        (self.folder / name).write_text(text)

    def sql(self, name: str, *statements: str) -> Rows:
        with closing(sqlite3.connect(self.folder / f"{name}.db", isolation_level=None)) as db:
            found: Rows = []
            for statement in statements:
                found = db.execute(statement).fetchall()
            return found

    def parts(self, folder: str) -> list[Path]:
        manifest = json.loads((self.folder / folder / ".dpone" / "manifest.json").read_text())
        return [self.folder / folder / file["name"] for file in manifest["files"]]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def sqlite_source(name: str = "s", **options: Any) -> dict[str, Any]:
    return {"type": "sqlite", "connection": f"sqlite:///{name}.db", "table": "t", "options": options}


def by(column: str, **options: Any) -> dict[str, Any]:
    return {"incremental": {"by": "cursor", "column": column, **options}}


def file_source(path: str = "d*.csv", **options: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "options": options}


def sqlite_sink(name: str = "t", mode: str = "append", **strategy: Any) -> dict[str, Any]:
    return {
        "type": "sqlite", "connection": f"sqlite:///{name}.db", "table": "t", "strategy": {"mode": mode, **strategy},
    }  # fmt: skip


def file_sink(format: str = "parquet", path: str = "out", mode: str = "full_refresh") -> dict[str, Any]:
    return {"type": "file", "path": path, "strategy": {"mode": mode}, "options": {"format": format}}


def error(stream: StreamReport) -> str:
    assert stream.error is not None
    return stream.error.message


# ---- a target as the next source


@pytest.mark.parametrize(
    "sink",
    [
        sqlite_sink("b", "merge", key=["id"]),
        sqlite_sink("b", "full_refresh"),
        sqlite_sink("b", "append"),
        sqlite_sink("b", "replace", where={"id": {"from": 0}}),
    ],
    ids=["merge", "full_refresh", "append", "replace"],
)
def test_a_target_of_dpone_is_a_source_for_the_next_pipeline(project: Project, sink: dict[str, Any]) -> None:
    """Lineage of the first hop is left out of the second, at the first run and at every later one."""
    project.csv("id,v\n1,a\n2,b\n")
    project.load(file_source(), sqlite_sink("s"))
    assert [project.load(sqlite_source(), sink).status for _ in range(2)] == ["loaded", "loaded"]
    rows = project.sql("b", "SELECT id, v, __dpone__load_id FROM t ORDER BY id")
    first = project.sql("s", "SELECT __dpone__load_id FROM t")[0][0]
    assert {(id_, v) for id_, v, _ in rows} == {(1, "a"), (2, "b")}
    assert first not in {load for _, _, load in rows}


def test_a_target_of_dpone_goes_into_a_folder(project: Project) -> None:
    """A table with lineage columns is read into a file sink, which adds its own."""
    project.csv("id,v\n1,a\n")
    project.load(file_source(), sqlite_sink("s"))
    assert project.load(sqlite_source(), file_sink()).status == "loaded"
    assert pq.read_table(project.parts("out")[0]).select(["id", "v"]).to_pylist() == [{"id": 1, "v": "a"}]


# ---- rows that a strategy would lose


def test_replace_reads_every_file_not_only_the_new_ones(project: Project) -> None:
    """Rows that meet the predicate and are still in the source stay in the target when another file arrives."""
    project.csv("id,v\n1,a\n2,b\n", "d1.csv")
    sink = sqlite_sink("t", "replace", where={"v": {"from": "a"}})
    project.load(file_source(), sink)
    project.csv("id,v\n3,c\n", "d2.csv")
    project.run()
    assert project.sql("t", "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


def test_replace_follows_a_changed_predicate(project: Project) -> None:
    """Another ``where`` over unchanged files is another load."""
    project.csv("id,k\n1,5\n2,6\n")
    project.load(file_source(), sqlite_sink("t", "replace", where={"k": {"from": 5}}))
    project.sql("t", "INSERT INTO t (id, k) VALUES (9, 1)")
    assert project.load(file_source(), sqlite_sink("t", "replace", where={"k": {"from": 0}})).status == "loaded"
    assert project.sql("t", "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_replace_refuses_an_incremental_source(project: Project) -> None:
    """An increment would replace all rows of the predicate by the new ones alone."""
    project.sql("s", "CREATE TABLE t (id INTEGER, k TEXT)", "INSERT INTO t VALUES (1, 'DE')")
    project.pipeline(sqlite_source(**by("id")), sqlite_sink("t", "replace", where={"k": "DE"}))
    with pytest.raises(dpone.errors.ConfigError, match="replace needs every row"):
        project.run()


def test_two_streams_may_replace_different_rows_of_one_table(project: Project) -> None:
    """A predicate leaves the rows of the other stream alone, so the pipeline is valid and both sets are there."""
    project.csv("id,k\n1,DE\n", "de.csv")
    project.csv("id,k\n2,FR\n", "fr.csv")
    sinks = {
        k: sqlite_sink("t", "replace", where={"k": k}) | {"options": {"adopt_existing": True}} for k in ("DE", "FR")
    }
    streams = [{"name": k, "source": {"type": "file", "path": f"{k.lower()}.csv"}, "sink": s} for k, s in sinks.items()]
    (project.folder / "p.yaml").write_text(yaml.safe_dump({"pipeline": "p", "streams": streams}))
    assert dpone.run(project.folder / "p.yaml").exit_code == 0
    assert project.sql("t", "SELECT id, k FROM t ORDER BY id") == [(1, "DE"), (2, "FR")]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_dropped_target_stops_the_run(project: Project, mode: str) -> None:
    """A journal beside a table that is gone claims rows nobody has: neither caught up nor only the new file."""
    project.csv("id,v\n1,a\n", "d1.csv")
    project.load(file_source(), sqlite_sink("t", mode, **({"key": ["id"]} if mode == "merge" else {})))
    project.sql("t", "DROP TABLE t")
    stopped = project.run()
    assert (stopped.status, stopped.error and stopped.error.exit_code) == ("stopped", 3)
    project.csv("id,v\n2,b\n", "d2.csv")
    assert project.run().status == "stopped"
    assert project.run(full_refresh=True).status == "loaded"
    assert project.sql("t", "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize("strategy", [{"mode": "full_refresh"}, {"mode": "replace", "where": {"id": {"from": 0}}}])
def test_a_dropped_target_is_made_anew_by_a_strategy_that_reads_everything(
    project: Project, strategy: dict[str, Any]
) -> None:
    """The same content in the source is no reason to leave a missing table missing."""
    project.csv("id,v\n1,a\n")
    project.load(file_source(), sqlite_sink("t", **strategy))
    project.sql("t", "DROP TABLE t")
    assert project.run().status == "loaded"
    assert project.sql("t", "SELECT id, v FROM t") == [(1, "a")]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
@pytest.mark.parametrize(
    "strategy",
    [
        {"mode": "full_refresh"},
        {"mode": "replace", "where": {"id": {"from": 0}}},
        {"mode": "partition_replace", "partition": "id"},
    ],
)
def test_rows_of_other_tables_never_go_with_replaced_ones(
    project: Project, strategy: dict[str, Any], action: str
) -> None:
    """A reference with an ON DELETE action stops the load, since replacing a row deletes it first."""
    child = f"CREATE TABLE child (t INTEGER REFERENCES t (id) ON DELETE {action})"
    project.sql("t", "CREATE TABLE t (id INTEGER PRIMARY KEY)", child, "INSERT INTO t VALUES (1)")
    project.sql("t", "INSERT INTO child VALUES (1)")
    project.csv("id\n1\n")
    sink = sqlite_sink("t", **strategy) | {"options": {"adopt_existing": True}}
    assert "child references it" in error(project.load(file_source(), sink))
    assert project.sql("t", "SELECT t FROM child") == [(1,)]


def test_full_refresh_of_a_table_that_others_refer_to(project: Project) -> None:
    """References are checked when the new rows are there: kept ones pass, lost ones fail the load."""
    project.sql("t", "CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE child (t INTEGER REFERENCES t (id))")
    project.sql("t", "INSERT INTO t VALUES (1)", "INSERT INTO child VALUES (1)")
    project.csv("id\n1\n2\n")
    assert project.load(file_source(), sqlite_sink("t", "full_refresh")).status == "loaded"
    project.csv("id\n2\n")
    assert "FOREIGN KEY" in error(project.run())
    assert project.sql("t", "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("2024-01-01T11:00:00", "2024-01-01 12:00:00"),
        ("2024-01-01 11:00:00Z", "2024-01-01 11:00:00.5Z"),
        ("2024-01-01 11:00:00+02:00", "2024-01-01 10:00:00Z"),
        ("2024-01-01 23:30:00-02:00", "2024-01-02 01:31:00Z"),
        ("2024-01-01 11:00:00.000", "2024-01-01 11:00:00"),
    ],
)
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_later_time_in_a_lower_notation_is_never_passed_over(
    project: Project, mode: str, first: str, later: str
) -> None:
    """A cursor of times as texts stops where the order of the texts is not that of the times; nothing is skipped."""
    kind = "TIMESTAMPTZ" if first[-1] == "Z" or first[19:20] in ("+", "-") else "TIMESTAMP"
    project.sql("s", f"CREATE TABLE t (id INTEGER, u {kind})", f"INSERT INTO t VALUES (1, '{first}')")
    sink = sqlite_sink("t", mode, **({"key": ["id"]} if mode == "merge" else {}))
    assert project.load(sqlite_source(**by("u")), sink).status == "loaded"
    project.sql("s", f"INSERT INTO t VALUES (2, '{later}')")
    assert "several notations" in error(project.run())
    assert project.sql("t", "SELECT id FROM t") == [(1,)]


def test_times_with_and_without_a_fraction_are_one_notation(project: Project) -> None:
    """What Python writes, with a fraction only where there is one, is in order as text and is read on."""
    project.sql("s", "CREATE TABLE t (id INTEGER, u TIMESTAMP)", "INSERT INTO t VALUES (1, '2024-01-01 11:00:00')")
    project.load(sqlite_source(**by("u")), sqlite_sink())
    project.sql("s", "INSERT INTO t VALUES (2, '2024-01-01 11:00:00.123456'), (3, '2024-01-02 00:00:00')")
    assert project.run().status == "loaded"
    assert project.sql("t", "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


# ---- names and places


@pytest.mark.parametrize("name", ["{x}", "{}", "a{0}b"])
def test_braces_in_the_name_of_a_cursor_column(project: Project, name: str) -> None:
    """A name is data also where SQL is put together: braces are taken literally."""
    project.sql("s", f'CREATE TABLE t (id INTEGER, "{name}" INTEGER)', "INSERT INTO t VALUES (1, 1)")
    project.load(sqlite_source(**by(name)), sqlite_sink())
    project.sql("s", "INSERT INTO t VALUES (2, 2)")
    assert project.run().status == "loaded"
    assert project.sql("t", f'SELECT id, "{name}" FROM t ORDER BY id') == [(1, 1), (2, 2)]


def test_a_project_that_moved_as_a_whole_goes_on(project: Project) -> None:
    """A database inside the project's folder is the same source wherever the folder is."""
    folder = project.folder
    (folder / "here").mkdir()
    before, after = Project(folder / "here"), Project(folder / "there")
    before.sql("s", "CREATE TABLE t (id INTEGER)", "INSERT INTO t VALUES (1)")
    before.load(sqlite_source(**by("id")), sqlite_sink())
    before.folder.rename(after.folder)
    after.sql("s", "INSERT INTO t VALUES (2)")
    assert after.run().status == "loaded"
    assert after.sql("t", "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


# ---- values of text files


@pytest.mark.parametrize("text", ["+491701234567", "0x10", "0XFF", "-0x1", "1e400", "1e-400", "+0"])
def test_csv_text_that_a_number_would_change_stays_text(project: Project, text: str) -> None:
    """A telephone number, a hexadecimal code, a number beyond a double: what is not exact as a number is a text."""
    project.csv(f"id,v\n1,{text}\n")
    project.load(file_source(), sqlite_sink())
    assert project.sql("t", "SELECT v FROM t") == [(text,)]


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl"])
def test_large_doubles_are_doubles(project: Project, name: str) -> None:
    """Numbers as a double is printed, with an exponent, are read as doubles whatever their size."""
    values = [6.02214076e23, 1.7976931348623157e308, 0.30000000000000004]
    lines = [f'{{"v":{v!r}}}' for v in values] if name == "d.jsonl" else ["v", *map(repr, values)]
    project.csv("\n".join(lines) + "\n", name)
    project.load(file_source(name), sqlite_sink())
    assert project.sql("t", "SELECT v, typeof(v) FROM t") == [(v, "real") for v in values]


def test_jsonl_number_below_the_smallest_double_is_kept(project: Project) -> None:
    """1e-400 is not 0."""
    project.csv('{"v":1e-400}\n', "d.jsonl")
    project.load(file_source("d.jsonl"), sqlite_sink())
    assert project.sql("t", "SELECT v FROM t") == [("1e-400",)]


@pytest.mark.parametrize("line", ['{"id":4,"v":"x"}', '{"id":4,"v":7}', '{"id":4,"v":null}', '{"id":4,"v":1.5}'])
def test_a_json_column_takes_any_value_of_a_later_file(project: Project, line: str) -> None:
    """A column whose values have no type in common is JSON, and stays JSON when a later file has one type only."""
    project.csv('{"id":1,"v":1}\n{"id":2,"v":"1"}\n', "d1.jsonl")
    project.load(file_source("d*.jsonl"), sqlite_sink())
    project.csv(line + "\n", "d2.jsonl")
    assert project.run().status == "loaded"
    [(text,)] = project.sql("t", "SELECT v FROM t WHERE id = 4")
    assert (None if text is None else json.loads(text)) == json.loads(line)["v"]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_instants_in_text_files_are_exact_in_any_zone(project: Project, format: str) -> None:
    """An offset of hours and minutes cannot say local mean time, so instants are written in UTC."""
    instants = [dt.datetime(1800, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 3, 31, 1, 30, tzinfo=dt.UTC)]
    table = pa.table({"v": pa.array(instants, pa.timestamp("us", "Europe/Berlin"))})
    pq.write_table(table, project.folder / "d.parquet")
    project.load(file_source("d.parquet"), file_sink(format))
    text = project.parts("out")[0].read_text()
    found = [dt.datetime.fromisoformat(row.split(",")[0]) for row in text.splitlines()[1:]] if format == "csv" else [
        dt.datetime.fromisoformat(json.loads(row)["v"]) for row in text.splitlines()
    ]  # fmt: skip
    assert found == instants


@pytest.mark.parametrize("text", ["nope", "", "{", "[" * 100_000])
def test_a_json_column_of_sqlite_with_other_text_is_refused(project: Project, text: str) -> None:
    """Text that is not JSON would go as it is into a line of JSON; the error names the column, and no file is made."""
    project.sql("s", "CREATE TABLE t (v JSON)", f"INSERT INTO t VALUES ('{text}')")
    assert "column v, row 1" in error(project.load(sqlite_source(), file_sink("jsonl")))


# ---- schema changes


def test_a_key_that_would_have_to_widen_stops_before_anything_is_changed(project: Project) -> None:
    """SQLite cannot widen a key: plan and run say so alike, with exit code 3."""
    for n, precision in enumerate((5, 10)):
        table = pa.table({"id": pa.array([Decimal(n)], pa.decimal128(precision, 0))})
        pq.write_table(table, project.folder / f"d{n}.parquet")
        plan = project.load(file_source("d*.parquet"), sqlite_sink("t", "merge", key=["id"]), dry_run=True)
        report = project.run()
        assert [s.error and s.error.exit_code for s in (plan, report)] == [None, None] if n == 0 else [3, 3]
    assert project.sql("t", "SELECT id FROM t") == [("0",)]


def test_a_routed_value_leaves_no_older_one_beside_it(project: Project) -> None:
    """Where on_type_change routes values to a new column, a merged row has its current value and no other."""
    sink = sqlite_sink("t", "merge", key=["id"])
    sink["options"] = {"schema_evolution": {"on_type_change": "new_column"}}
    project.csv("id,a\n1,5\n", "d1.csv")
    project.load(file_source(), sink)
    project.csv("id,a\n1,x\n", "d2.csv")
    project.run()
    assert project.sql("t", "SELECT a, __dpone__nc__a FROM t") == [(None, "x")]
    project.csv("id,a\n1,8\n", "d3.csv")
    project.run()
    assert project.sql("t", "SELECT a, __dpone__nc__a FROM t") == [(8, None)]


# ---- words


def test_a_refused_value_is_reported_without_the_staging_table(project: Project) -> None:
    """An operator looks for the column and the row, in words that name nothing of dpone's own."""
    pq.write_table(pa.table({"v": [float("nan")]}), project.folder / "d.parquet")
    assert error(project.load(file_source("d.parquet"), sqlite_sink())).startswith(
        "load rows: column v, row 1 of the part"
    )


def test_a_bound_beyond_the_type_is_a_fault_of_the_pipeline_file(project: Project) -> None:
    """A number in ``where`` that no integer of the column can be is a ConfigError."""
    project.csv("id\n1\n")
    stream = project.load(file_source(), sqlite_sink("t", "replace", where={"id": {"from": 10**20}}))
    assert stream.error is not None
    assert stream.error.kind == "PipelineMismatch"


def test_a_pipeline_does_not_feed_on_its_own_target(project: Project) -> None:
    """A glob that takes in the sink's folder stops at what the pipeline itself wrote, instead of loading it again."""
    project.csv("id\n1\n", "d.csv")
    project.load(file_source("**/*.csv"), file_sink("csv", mode="append"))
    assert "narrow source.path" in error(project.run())
    assert sum(len(part.read_text().splitlines()) - 1 for part in project.parts("out")) == 1


@pytest.mark.parametrize("connection", ["t.db", "sqlite://t.db", "sqlite:///:memory:"])
def test_check_refuses_a_connection_that_run_would_refuse(project: Project, connection: str) -> None:
    """What a constructor can tell from the pipeline file alone is found before any run, without a connection."""
    sink = sqlite_sink() | {"connection": "target"}
    text = {"pipeline": "p", "connections": {"target": connection}, "source": file_source(), "sink": sink}
    (project.folder / "p.yaml").write_text(yaml.safe_dump(text))
    findings = implementations(dpone.load_pipeline(project.folder / "p.yaml"))
    assert [f.name for f in findings if not f.ok] == ["t: sink"]
