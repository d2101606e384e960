"""A load that does not commit leaves the target as it was (OUT-15): the table it made and the columns it added are
taken back, at once or by the next run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cdc.log import insert, transaction, write
from tests.engine.project import KILLED, ApplyProject, Project, Row, memory_folder, rows, zygote
from tests.sqlite.target import Target, load

from dpone.connectors.sqlite.sink import SqliteSink
from dpone.engine.commit import CommitStep
from dpone.errors import Category, Conflict, DataError, DponeError, SinkError, StateAhead
from dpone.model.events import STEPS
from dpone.model.evolution import SchemaChange
from dpone.model.strategy import Strategy

BEFORE_COMMIT = [
    step for step in STEPS if STEPS.index("schema_applied") <= STEPS.index(step) < STEPS.index("committed")
]
WIDE = ("id", "day", "name", "note", "coupon")


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Mapping[str, Any]]]:
    with zygote() as forked:
        yield forked


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with memory_folder() as made:
        yield made


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A context in which every commit fails, with all that comes before it done."""

    def commit(*given: Any) -> Any:
        raise DataError("load t", "bad rows", "correct them")

    @contextmanager
    def failing() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(CommitStep, "execute", commit)
            yield

    return failing


def wide(rows: list[Row]) -> list[Row]:
    return [(*row, row[0] * 10) for row in rows]


def columns(project: Project) -> list[str] | None:
    """Of the target; None if there is none."""
    if project.target == "sqlite":
        found = [name for (name,) in project.query("SELECT name FROM pragma_table_info(?)", project.table)]
    else:
        schema = (project.manifest() or {"schema": None})["schema"]
        found = list(schema["columns"]) if schema else []
    return found or None


def text(project: Project) -> Any:
    """All that the target's catalogue says of it."""
    return project.query("SELECT type, name, sql FROM sqlite_master WHERE tbl_name = ? ORDER BY name", project.table)


def said(report: Any) -> list[str]:
    return [text for stream in report.streams for text in stream.warnings]


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_case_05_OUT_15_a_first_load_that_fails_leaves_no_table(tmp_path: Path, target: str) -> None:
    """A late row of another type fails the first load; the pipeline with the column declared, as the message says, is
    green, and the column has the declared type."""
    options: dict[str, Any] = {"block_bytes": 4096}
    source = {"type": "file", "path": "data/*.csv", "options": options}
    project = Project(tmp_path, target=target, source=source).save()
    late = [(10000 + i, "10.5") for i in range(600)] + [(10600, "11.0.1")]
    project.csv("d", late, ("code", "ver"))
    assert project.run().exit_code == 1
    assert columns(project) is None
    project = project.but(source={**source, "options": {**options, "columns": {"ver": "string"}}})
    assert project.load().rows.written == 601


@pytest.mark.parametrize(
    ("target", "strategy"),
    [
        ("sqlite", {"mode": "append"}),
        ("sqlite", {"mode": "merge", "key": ["id"]}),
        ("sqlite", {"mode": "scd2", "key": ["id"]}),
        ("sqlite", {"mode": "full_refresh"}),
        ("file", {"mode": "append"}),
        ("file", {"mode": "full_refresh"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("loaded", [True, False], ids=["column", "table"])
def test_OUT_15_a_failed_load_leaves_the_target_as_it_was(
    tmp_path: Path, fails: Any, target: str, strategy: Mapping[str, Any], loaded: bool
) -> None:
    """The column that it added, or the table that it made, is gone at once, and the report says so; a file without the
    column is loaded as if the other had never been."""
    project = Project(tmp_path, strategy, target).save()
    if loaded:
        project.csv("a", rows(1, 20))
        project.load()
    before = (columns(project), text(project), project.rows() if loaded else [])
    file = project.csv("b", wide(rows(21, 40)), WIDE)
    if strategy["mode"] == "full_refresh":
        project.csv("a", wide(rows(1, 20)), WIDE)
    with fails():
        report = project.run()
    assert report.exit_code == 1
    assert (columns(project), text(project), project.rows() if loaded else []) == before
    assert any("was removed" in text for text in said(report))
    file.unlink()
    project.csv("a", rows(1, 20))
    project.csv("c", rows(41, 60))
    stream = project.load()
    assert stream.warnings == []
    assert [row[0] for row in project.rows()] == [*range(1, 21), *range(41, 61)]
    assert set(WIDE) - set(columns(project) or ()) == {"coupon"}


FIRST = ("table", "column")


def begun(folder: Path, what: str) -> Project:
    """A project whose next load makes the table, or adds a column: ``b`` brings both, ``a`` was loaded before."""
    project = Project(folder).save()
    if what == "column":
        project.csv("a", rows(1, 20))
        project.load()
    project.csv("b", wide(rows(21, 250)), WIDE)
    project.csv("b2", wide(rows(251, 260)), WIDE)
    return project


def other(project: Project) -> None:
    """Files of other columns instead of those that were not committed; ``note`` is a number now if none was."""
    for name in ("b", "b2"):
        (project.folder / "data" / f"{name}.csv").unlink()
    first = not (project.folder / "data" / "a.csv").exists()
    project.csv("c", [(*row[:3], 1.5) if first else row for row in rows(300, 320)])


@pytest.mark.parametrize("what", FIRST)
@pytest.mark.parametrize("step", BEFORE_COMMIT)
def test_OUT_15_the_load_after_a_crash_is_as_if_the_other_had_never_been(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]], what: str, step: str
) -> None:
    """SIGKILL at every step from the DDL to the commit; then other files of other columns: the target is, to the letter
    of its catalogue, that of a project which never saw the first ones."""
    project, calm = begun(tmp_path / "p", what), begun(tmp_path / "calm", what)
    assert run(project, step=step)["code"] == KILLED
    for one in (project, calm):
        other(one)
        assert run(one)["code"] == 0
    assert project.rows() == calm.rows()
    assert text(project) == text(calm)
    assert project.query("SELECT * FROM __dpone__added") == []


def dump(project: Project) -> list[str]:
    with closing(sqlite3.connect(project.database)) as db:
        return list(db.iterdump())


@pytest.mark.parametrize("step", ["schema_applied", "committed"])
def test_a_dry_run_after_a_crash_changes_nothing(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]], step: str
) -> None:
    """It neither takes back what the killed run added nor saves the position that the journal has."""
    project = begun(tmp_path, "column")
    assert run(project, step=step)["code"] == KILLED
    before = dump(project), project.state_bytes()
    assert project.run(dry_run=True).exit_code == 0
    assert (dump(project), project.state_bytes()) == before


def test_OUT_15_a_change_stream_takes_back_what_a_killed_run_added(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]]
) -> None:
    """The column of a table is there until the next run, which loads other changes without it; a dry run leaves it."""
    project = ApplyProject(tmp_path, {"mode": "cdc_apply"}).save()
    first = transaction("01", insert("orders", {"id": 1}, name="a"))
    write(project.log, first)
    project.load()
    calm = dump(project)
    write(project.log, transaction("02", insert("orders", {"id": 2}, coupon="x")))
    assert run(project, step="schema_applied")["code"] == KILLED
    before = dump(project)
    assert before != calm
    write(project.log, first, transaction("02", insert("orders", {"id": 2}, name="b")), mode="w")
    assert project.run(dry_run=True).exit_code == 0
    assert dump(project) == before
    project.load()
    assert project.query("SELECT name FROM pragma_table_info('landing_orders')")[:2] == [("id",), ("name",)]
    assert not any("coupon" in line for line in dump(project))


@pytest.mark.parametrize("what", FIRST)
def test_OUT_15_a_load_that_is_gone_on_with_keeps_its_parts(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]], what: str
) -> None:
    """Killed after its first part, and the same files: the part is not read again, and every row is there once."""
    project = begun(tmp_path, what)
    assert run(project, step="part_staged")["code"] == KILLED
    stream = project.load()
    assert stream.partitions_resumed == 1
    assert [row[0] for row in project.rows()] == [*range(1 if what == "column" else 21, 261)]
    assert set(WIDE) <= set(columns(project) or ())


@pytest.mark.parametrize("what", FIRST)
@pytest.mark.parametrize("steps", [("locked", "recovered"), ("window_fixed", "schema_applied")], ids="-".join)
def test_OUT_15_killed_while_it_adds_or_takes_back(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]], what: str, steps: tuple[str, str]
) -> None:
    """SIGKILL before every statement of both: the next run is green, and nothing is left of the record."""
    since, until = steps
    project, seen = begun(tmp_path / "count", what), 0
    if since == "locked":
        assert run(project, step="load_opened")["code"] == KILLED
        other(project)
    counted = run(project, statement=10**9, since=since, until=until)
    assert counted["code"] == 0
    for n in range(1, counted["count"] + 1):
        project = begun(tmp_path / f"n{n}", what)
        if since == "locked":
            assert run(project, step="load_opened")["code"] == KILLED
            other(project)
        assert run(project, statement=n, since=since, until=until)["code"] == KILLED
        if since != "locked":
            other(project)
        assert run(project)["code"] == 0
        assert "coupon" not in (columns(project) or ())
        assert project.query("SELECT * FROM __dpone__added") == []
        seen += 1
    assert seen > 3


TOUCHED = {
    "values": ("UPDATE t SET coupon = 1 WHERE id = 1", "it has values"),
    "view": ("CREATE VIEW v AS SELECT coupon FROM t", "view v"),
    "index": ("CREATE INDEX i ON t (coupon)", "index i"),
    "constraint": ("CREATE TABLE u (n REFERENCES t (coupon))", "table u"),
    "another table": (
        "ALTER TABLE t RENAME TO gone; CREATE TABLE t (id BIGINT, day BIGINT, name TEXT, note TEXT, "
        "coupon BIGINT CHECK (coupon > 0))",
        "it has changed since then",
    ),
    "trigger": ("CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET coupon = 2; END", "trigger g"),
}


@pytest.mark.parametrize("touched", TOUCHED)
def test_OUT_15_a_column_that_somebody_uses_since_stays(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]], touched: str
) -> None:
    """A value, a view, an index, a trigger: the column of a load that died stays, the next run says why, once, and
    from then on it is like any other."""
    project = begun(tmp_path, "column")
    assert run(project, step="load_opened")["code"] == KILLED
    statement, why = TOUCHED[touched]
    run_sql(project, *(statement.split("; ") if touched == "another table" else [statement]))
    before = text(project)
    other(project)
    report = project.run()
    [left] = [text for text in said(report) if "did not commit" in text]
    assert left.startswith("column coupon of t, added by a load that did not commit, was kept: ")
    assert why in left
    assert text(project) == before
    assert [text for text in said(project.run()) if "did not commit" in text] == []


def test_OUT_15_a_column_that_somebody_has_dropped_keeps_no_other(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]]
) -> None:
    """Of two columns of a load that died one is gone already: the other is taken back all the same."""
    project = begun(tmp_path, "column")
    project.csv("b", [(*row, "z") for row in wide(rows(21, 250))], (*WIDE, "zone"))
    assert run(project, step="load_opened")["code"] == KILLED
    assert {"coupon", "zone"} <= {*(columns(project) or ())}
    run_sql(project, "ALTER TABLE t DROP COLUMN coupon")
    other(project)
    project.load()
    assert not {"coupon", "zone"} & {*(columns(project) or ())}


TABLE_TOUCHED = {
    "rows": ("INSERT INTO t (id) VALUES (1)", "it has rows"),
    "view": ("CREATE VIEW v AS SELECT * FROM t", "view v"),
    "index": ("CREATE INDEX i ON t (id)", "index i"),
    "reference": ("CREATE TABLE u (id INTEGER REFERENCES t (id))", "table u"),
    "column": ("ALTER TABLE t ADD COLUMN mine TEXT", "it has changed since then"),
    "another": ("DROP TABLE t; CREATE TABLE t (id INTEGER CHECK (id > 0))", "it has changed since then"),
}


@pytest.mark.parametrize("touched", TABLE_TOUCHED)
def test_OUT_15_a_table_that_somebody_uses_since_stays(
    tmp_path: Path, run: Callable[..., Mapping[str, Any]], touched: str
) -> None:
    """Rows, a view, an index, a reference, a column of somebody else, another table of the name: it stays, and the next
    run says why."""
    project = begun(tmp_path, "table")
    assert run(project, step="load_opened")["code"] == KILLED
    statement, why = TABLE_TOUCHED[touched]
    run_sql(project, *statement.split("; "))
    before = text(project)
    report = project.run(full_refresh=True)
    [left] = [text for text in said(report) if "did not commit" in text]
    assert left.startswith("table t, added by a load that did not commit, was kept: ")
    assert why in left
    assert [line for line in text(project) if line[0] != "table"] == [line for line in before if line[0] != "table"]


def test_OUT_15_a_half_done_load_keeps_its_columns_until_it_is_given_up(tmp_path: Path) -> None:
    """One part is staged, the other fails: the column stays for the run that goes on with it. Other files instead: the
    column is gone, and they are loaded."""
    source = {"type": "file", "path": "data/*.csv", "options": {"block_bytes": 4096}}
    project = Project(tmp_path, source=source).save()
    project.csv("a", rows(1, 20))
    project.load()
    project.csv("b", wide(rows(21, 40)), WIDE)
    project.csv("b2", [*wide(rows(41, 600)), (601, 1, "n", "note", "x")], WIDE)
    assert project.run().exit_code == 1
    assert "coupon" in (columns(project) or ())
    other(project)
    assert project.load().rows.written == 21
    assert "coupon" not in (columns(project) or ())


def test_OUT_15_a_wider_type_stays_and_is_said(tmp_path: Path, fails: Any) -> None:
    """A widening loses nothing and is not undone; the report of the failed load names it."""
    source = {"type": "file", "path": "data/*.parquet"}
    project = Project(tmp_path, target="file", source=source).save()
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"id": pa.array([1], pa.int32())}), tmp_path / "data" / "a.parquet")
    project.load()
    pq.write_table(pa.table({"id": pa.array([2**40], pa.int64()), "n": [1]}), tmp_path / "data" / "b.parquet")
    with fails():
        report = project.run()
    assert said(report) == [
        "column n of out, added by a load that did not commit, was removed",
        "widen id int32 -> int64: kept although the load failed; every value fits the new type",
    ]
    assert project.manifest()["schema"]["columns"]["id"] == "int64"
    (tmp_path / "data" / "b.parquet").unlink()
    pq.write_table(pa.table({"id": pa.array([3], pa.int32())}), tmp_path / "data" / "c.parquet")
    assert project.load().status == "loaded"


def test_OUT_15_what_another_stream_or_run_has_added_is_its_own(tmp_path: Path) -> None:
    """A stream takes back what it has added itself; at the end of a run, what this run has added."""
    target, merge = Target(tmp_path / "t.db"), Strategy("merge", key="id")
    target.load(pa.table({"id": [1]}), merge)
    new = pa.field("new", pa.int64())
    with closing(target.sink(merge)) as sink:
        added = load(pa.schema([("id", pa.int64()), new]), merge)
        sink.provide(added, sink.ddl([SchemaChange("add", "new", after=new)]))
        assert (*sink.take_back("another"), *sink.take_back(added.key, "another")) == ()
        assert [one.what for one in sink.take_back(added.key, added.run_id)] == ["column new of orders"]
        assert "new" not in (sink.schema() or pa.schema([])).names


def away() -> SinkError:
    error = SinkError("take back", "no connection", "wait")
    error.category = Category.TRANSIENT
    return error


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(
    ("error", "status", "attempts", "warnings"),
    [
        (away(), "loaded", 2, []),
        (StateAhead("take back", "another target", "look"), "stopped", 1, []),
        (
            SinkError("take back", "no right\nto it", "ask"), "loaded", 1,
            ["columns or tables that an earlier failed load added stay for now: take back: no right to it; ask"],
        ),
    ],
    ids=["an outage", "a stop", "a right that lacks"],
)  # fmt: skip
def test_OUT_15_a_load_tries_again_stops_or_goes_on_where_nothing_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: DponeError, status: str, attempts: int, warnings: list[str]
) -> None:
    """What is over in a moment is tried again, what must stop stops; what nobody can take back keeps no load from being
    tried, and is said."""
    errors = [error]

    def take_back(sink: SqliteSink, key: str, run_id: str = "") -> tuple[()]:
        if errors:
            raise errors.pop()
        return ()

    monkeypatch.setattr(SqliteSink, "take_back", take_back)
    project = Project(tmp_path, runtime={"retries": 1}).save()
    project.csv("a", rows(1, 20))
    [stream] = project.run().streams
    assert (stream.status, stream.attempts, stream.warnings) == (status, attempts, warnings)
    assert ("t" in project.tables()) == (status == "loaded")


@pytest.mark.parametrize(
    ("error", "warnings"),
    [
        (away(), ["the next run removes the columns and tables that this load added: take back: no connection; wait"]),
        (Conflict("take back", "another runner has the key", "wait"), []),
    ],
    ids=["an outage", "another runner"],
)
def test_OUT_15_what_a_failed_load_cannot_take_back_the_next_one_does(
    tmp_path: Path, fails: Any, monkeypatch: pytest.MonkeyPatch, error: DponeError, warnings: list[str]
) -> None:
    """The report says so, unless another runner has the key by then: what was added is its own to count on."""
    project = begun(tmp_path, "column")
    real = SqliteSink.take_back

    def take_back(sink: SqliteSink, key: str, run_id: str = "") -> Any:
        if run_id:
            raise error
        return real(sink, key)

    with fails(), monkeypatch.context() as patched:
        patched.setattr(SqliteSink, "take_back", take_back)
        assert said(project.run()) == warnings
    assert set(columns(project) or ()) >= {"coupon"}
    other(project)
    project.load()
    assert "coupon" not in (columns(project) or ())


@pytest.mark.parametrize("end", ["", " STRICT", ", CHECK (id > 0)", ", PRIMARY KEY (id)"])
def test_OUT_15_several_columns_are_all_taken_back(tmp_path: Path, fails: Any, end: str) -> None:
    """Each is known though the others, which stood before or after it, are gone already."""
    project = Project(tmp_path).save()
    table = "CREATE TABLE t (id INTEGER, day INTEGER, name TEXT, note TEXT"
    run_sql(project, f"{table}){end}" if end == " STRICT" else f"{table}{end})")
    before = columns(project)
    project.csv("a", [(*row, 1.5, "x", 2) for row in rows(1, 20)], (*WIDE[:4], "zz", "aa", "mm"))
    with fails():
        assert project.run().exit_code == 1
    assert columns(project) == before


def test_OUT_15_lineage_columns_of_a_users_table_are_taken_back(tmp_path: Path, fails: Any) -> None:
    """They came with the DDL of the load like any other column."""
    project = Project(tmp_path).save()
    run_sql(project, "CREATE TABLE t (id BIGINT, day BIGINT, name TEXT, note TEXT)")
    before = text(project)
    project.csv("a", rows(1, 20))
    with fails():
        assert project.run().exit_code == 1
    assert text(project) == before
    assert project.load().rows.written == 20


def run_sql(project: Project, *statements: str) -> None:
    with closing(sqlite3.connect(project.database, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def test_OUT_15_tables_of_a_change_stream_are_left_as_they_were(tmp_path: Path, fails: Any) -> None:
    """A window that is not committed brings a column to one table and makes another: both are taken back, the position
    stays, and the next run applies the same changes."""
    project = ApplyProject(tmp_path, {"mode": "cdc_apply"}).save()
    write(project.log, transaction("01", insert("orders", {"id": 1}, name="a")))
    project.load()
    before = project.tables(), project.query("SELECT * FROM pragma_table_info('landing_orders')"), project.head()
    write(project.log, transaction("02", insert("orders", {"id": 2}, coupon="x"), insert("customers", {"cid": 1})))
    with fails():
        report = project.run()
    assert sorted(said(report)) == [
        "column coupon of landing_orders, added by a load that did not commit, was removed",
        "table landing_customers, added by a load that did not commit, was removed",
    ]
    after = project.tables(), project.query("SELECT * FROM pragma_table_info('landing_orders')"), project.head()
    assert after == before
    assert project.load().warnings == []
    assert project.query("SELECT id, coupon FROM landing_orders ORDER BY id") == [(1, None), (2, "x")]
    assert project.query("SELECT cid FROM landing_customers") == [(1,)]
