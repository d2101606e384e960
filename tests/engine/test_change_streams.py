"""Runs of change streams: one commit for many tables, the offset's commit gate, and what stops them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import yaml
from attrs import evolve
from tests.cdc.log import delete, events, insert, orders, transaction, update, write
from tests.engine.project import TABLES, ChangeProject, Project, declaring, with_plugins

from dpone.config.document import PipelineErrors
from dpone.config.reader import load_pipeline
from dpone.connectors.file.changelog import FileChangeLog
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.contract import (
    Entry,
    Load,
    Part,
    Receipt,
    Stream,
)
from dpone.engine.rewind import resync
from dpone.engine.run import run
from dpone.errors import ConfigError, SinkError, StateError
from dpone.model.changes import ChangeTable, batch_schema
from dpone.model.position import Position
from dpone.model.staged import Staged
from dpone.model.strategy import Strategy
from dpone.ops.state import reposition
from dpone.plugins import discover

SOURCE = "file_changelog:log.jsonl"


@pytest.fixture
def changes(tmp_path: Path) -> ChangeProject:
    return ChangeProject(tmp_path / "c", {"mode": "append"}).save()


def expected(project: ChangeProject) -> list[tuple[str, str, str]]:
    found = events(project.log.read_text().splitlines(), SOURCE, TABLES)
    return sorted((event, op, table) for table, changes in found.items() for event, op in changes)


def attempt(project: Project, faulty: ModuleType, **options: Any) -> Any:
    [stream] = run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS), **options).streams
    return stream


def stopped(project: ChangeProject, **options: Any) -> Any:
    """A run that must stop with exit code 3 and leave state, journal and rows as they are, however often it is run."""
    before = project.state_bytes(), project.journal(), project.rows()
    for _ in range(2):
        report = project.run(**options)
        assert report.exit_code == 3
        assert (project.state_bytes(), project.journal(), project.rows()) == before
    return report.streams[0].error


# -- one commit -----------------------------------------------------------------------------------------------------


def test_all_tables_are_one_load(changes: ChangeProject) -> None:
    """One journal entry and one load id for the rows of all tables, and one for each table under its own key."""
    write(changes.log, orders(1, 30, "01"), orders(31, 45, "02"))
    stream = changes.load()
    assert changes.rows() == expected(changes)
    assert (stream.rows.read, stream.rows.inserted, stream.partitions) == (60, 60, 2)
    [entry] = changes.journal()
    assert {row[-1] for row in changes.lineage()} == {entry.load_id} == {stream.load_id}
    assert changes.state() == entry
    of_tables = changes.query("SELECT seq, load_id, rows FROM __dpone__loads WHERE key LIKE '%|%|%|%|%' ORDER BY key")
    assert [(seq, load_id, json.loads(rows)["inserted"]) for seq, load_id, rows in of_tables] == [
        (1, entry.load_id, 15),
        (1, entry.load_id, 45),
    ]
    assert len(set(changes.query("SELECT __dpone__loaded_at FROM landing_orders UNION SELECT __dpone__loaded_at FROM "
                                 "landing_customers"))) == 1  # fmt: skip


def test_a_later_window_goes_on(changes: ChangeProject) -> None:
    """Only what came since is read; a table that is new then is made then; nothing new is caught up."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, a="x")))
    changes.load()
    assert "landing_customers" not in changes.tables()
    write(changes.log, transaction("02", update("orders", {"id": 1}, a="y"), insert("customers", {"cid": 1}, c=2)))
    second = changes.load()
    assert (second.rows.read, second.status) == (2, "loaded")
    assert changes.rows() == expected(changes)
    assert changes.load().status == "caught_up"
    assert len(changes.journal()) == 2


def test_appended_history_says_what_was_left_out(changes: ChangeProject) -> None:
    """Each change is a row: what it is, its values, and which the log left out; a delete names its row."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, a="x", b=None), update("orders", {"id": 1}, a="y"),
                                   delete("orders", {"id": 1}, a="y"), at="2026-01-31T12:00:00Z"))  # fmt: skip
    changes.load()
    columns = "__dpone__op, __dpone__commit, __dpone__ordinal, __dpone__committed_at, id, a, b, __dpone__unchanged"
    time = "2026-01-31 12:00:00.000000+00:00"
    assert changes.query(f"SELECT {columns} FROM landing_orders ORDER BY __dpone__ordinal") == [
        ("insert", "01", 1, time, 1, "x", None, None),
        ("update", "01", 2, time, 1, "y", None, "b"),
        ("delete", "01", 3, time, 1, None, None, None),
    ]


def test_appended_history_says_where_a_row_was(changes: ChangeProject) -> None:
    """An update that changes the key is told from others by the key before it: a text, quoted as JSON quotes."""
    both = {"id": 1, "part": 'é"'}
    write(changes.log, transaction("01", insert("orders", both, a="x"), update("orders", both, a="y"),
                                   update("orders", both, id=2), update("orders", {"id": 2, "part": 'é"'}, part="q"),
                                   delete("orders", {"id": 2, "part": "q"})))  # fmt: skip
    changes.load()
    found = changes.query("SELECT __dpone__op, __dpone__old_key FROM landing_orders ORDER BY __dpone__ordinal")
    assert [(op, old and json.loads(old)) for op, old in found] == [
        ("insert", None),
        ("update", None),
        ("update", both),
        ("update", {"id": 2, "part": 'é"'}),
        ("delete", None),
    ]


def test_a_limit_makes_several_loads(changes: ChangeProject) -> None:
    """A limit ends a window at a commit; the loads together are the log, and only the last says caught up."""
    write(changes.log, *(orders(10 * i + 1, 10 * i + 10, f"{i:02}") for i in range(1, 6)))
    source = {**changes.source, "options": {"incremental": {"by": "cdc", "limit": 20}}}
    changes = changes.but(source=source)
    told = [changes.load().caught_up for _ in range(3)]
    assert changes.rows() == expected(changes)
    assert told == [False, False, True]


def test_a_window_without_changes_moves_the_position(changes: ChangeProject) -> None:
    """Commits that touch none of the tables are passed for good: the journal gets the position, and no target."""
    only = changes.but(source={**changes.source, "table": "other*"})
    write(only.log, orders(1, 3, "01"))
    stream = only.load()
    assert (stream.status, stream.rows.read, only.rows()) == ("loaded", 0, [])
    assert only.state() == only.head()
    assert only.load().status == "caught_up"


def test_an_empty_log_is_begun(changes: ChangeProject) -> None:
    """Nothing is in the log yet: the position is its beginning, and what comes later is loaded."""
    changes.log.touch()
    assert changes.load().rows.read == 0
    write(changes.log, orders(1, 3, "01"))
    changes.load()
    assert changes.rows() == expected(changes)


def test_a_full_refresh_has_no_limit(changes: ChangeProject) -> None:
    """What a limit left for later would be added to the rows of before: a full refresh reads the log to its end."""
    write(changes.log, orders(1, 2, "01"), orders(3, 9, "02"))
    changes.load()
    limited = changes.but(source={**changes.source, "options": {"incremental": {"by": "cdc", "limit": 1}}})
    limited.load(full_refresh=True)
    assert limited.load().status == "caught_up"
    assert changes.rows() == expected(changes)


def test_tables_are_resynced_under_a_new_epoch(changes: ChangeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal and state get the position that the reader makes of theirs, and no row is touched. Refused for a stream
    that is not of changes, a reader that cannot, and a stream that was not loaded yet."""
    plain = Project(changes.folder.parent / "plain").save()
    with pytest.raises(ConfigError, match="resync orders: stream t: it is not a change stream; use 'dpone run --full-"):
        resync(load_pipeline(plain.pipeline), "t", ["orders"])
    pipeline, asked = load_pipeline(changes.pipeline), []
    name = pipeline.streams[0].name
    with pytest.raises(ConfigError, match="its reader cannot read one table again"):
        resync(pipeline, name, ["orders"])

    def without(reader: FileChangeLog, position: Position, tables: Sequence[str]) -> Position:
        asked.append([*tables])
        return position

    monkeypatch.setattr(FileChangeLog, "resync", without, raising=False)
    plugins = declaring(discover(), "cdc", "file_changelog", also="resync")
    with pytest.raises(ConfigError, match="has not been loaded yet"):
        resync(pipeline, name, ["orders"], plugins)
    write(changes.log, orders(1, 3, "01"))
    changes.load()
    before, rows = changes.head(), changes.rows()
    assert before is not None
    set_to = resync(pipeline, name, ["orders", "cust*"], plugins)
    after = changes.head()
    assert after is not None
    assert asked == [["orders", "cust*"]]
    assert (after.seq, after.epoch, set_to.epoch) == (before.seq + 1, before.epoch + 1, before.epoch + 1)
    assert {**after.position, "epoch": 0} == {**before.position, "epoch": 0}
    assert (changes.state(), changes.rows()) == (after, rows)
    assert changes.load().status == "caught_up"


def test_two_tables_never_share_a_target(changes: ChangeProject) -> None:
    """Tables of two schemas and one name: refused before anything is made."""
    write(changes.log, transaction("01", insert("a.orders", {"id": 1}), insert("b.orders", {"id": 1})))
    report = changes.run()
    assert report.exit_code == 3
    assert "a.orders and b.orders have the same target table" in report.streams[0].error.message
    apart = changes.but(table="{schema}_{table}")
    apart.load()
    assert {"a_orders", "b_orders"} <= {*apart.tables()}


def test_columns_of_dpone_in_the_log(changes: ChangeProject) -> None:
    """Lineage of the source's rows is left out, since the target's rows get their own; other names are refused."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, __dpone__load_id="old", a="x")))
    changes.load()
    assert changes.query("SELECT a FROM landing_orders WHERE __dpone__load_id <> 'old'") == [("x",)]
    write(changes.log, transaction("02", insert("orders", {"id": 2}, __dpone__op="x")))
    assert "the reserved name __dpone__op" in changes.run().streams[0].error.message


def test_a_dry_run_changes_nothing(changes: ChangeProject) -> None:
    """A plan says the DDL of every table and writes nothing."""
    write(changes.log, orders(1, 30, "01"))
    stream = changes.load(dry_run=True)
    assert stream.status == "planned"
    assert [ddl.partition(" (")[0] for ddl in stream.ddl] == [
        'CREATE TABLE "landing_customers"',
        'CREATE TABLE "landing_orders"',
    ]
    assert not changes.database.exists()


# -- the commit gate ------------------------------------------------------------------------------------------------


def test_the_log_is_acknowledged_after_sink_and_state(changes: ChangeProject, faulty: ModuleType) -> None:
    """Commit, state, acknowledgement, in this order; with nothing new the acknowledgement is repeated."""
    write(changes.log, orders(1, 30, "01"))
    attempt(changes, faulty)
    assert [place for place in faulty.log if place in ("commit", "saved", "ack")] == ["commit", "saved", "ack"]
    faulty.log.clear()
    assert attempt(changes, faulty).status == "caught_up"
    assert [place for place in faulty.log if place in ("commit", "saved", "ack")] == ["ack"]


def test_PG_01_a_commit_that_fails_is_not_acknowledged(changes: ChangeProject, faulty: ModuleType) -> None:
    """The sink fails at the commit: no state, no acknowledgement, no row of any table; the next run has all once."""
    write(changes.log, orders(1, 30, "01"))
    changes.load()
    write(changes.log, orders(31, 60, "02"))
    before = changes.state_bytes(), changes.journal(), changes.rows()
    faulty.faults["commit"] = [SinkError("commit", "no", "wait")]
    assert attempt(changes, faulty).status == "failed"
    assert "ack" not in faulty.log
    assert (changes.state_bytes(), changes.journal(), changes.rows()) == before
    assert changes.staging() == []
    changes.load()
    assert changes.rows() == expected(changes)


def test_PG_01_a_state_that_is_not_saved_is_not_acknowledged(changes: ChangeProject, faulty: ModuleType) -> None:
    """The rows are in, the state is not: no acknowledgement; the next run adopts the journal and loads nothing."""
    write(changes.log, orders(1, 30, "01"))
    faulty.faults["save"] = [StateError("save", "no", "wait")]
    assert attempt(changes, faulty).status == "failed"
    assert "ack" not in faulty.log
    assert changes.state_bytes() is None
    assert attempt(changes, faulty).status == "caught_up"
    assert faulty.log.count("ack") == 1
    assert changes.rows() == expected(changes)
    assert changes.state() == changes.head()


def test_a_lost_answer_to_the_commit_is_asked_of_the_journal(changes: ChangeProject, faulty: ModuleType) -> None:
    """The commit happened, its answer got lost: the load is done, once, for every table."""
    write(changes.log, orders(1, 30, "01"))
    faulty.faults["commit answered"] = [ConnectionError("cut")]
    assert attempt(changes, faulty).status == "loaded"
    assert changes.rows() == expected(changes)
    assert len(changes.journal()) == 1


def test_a_retry_goes_on_with_the_tables_that_are_staged(changes: ChangeProject, faulty: ModuleType) -> None:
    """A transient failure in the second table: the next attempt stages only that, under the same load id."""
    write(changes.log, orders(1, 30, "01"))
    changes = changes.but(runtime={"retries": 1})

    def cut_in_the_second(place: str) -> None:
        if place == "stage" and faulty.log.count("stage") == 2:
            faulty.faults["sink batch"] = [ConnectionError("cut")]

    faulty.watch.append(cut_in_the_second)
    stream = attempt(changes, faulty)
    assert (stream.status, stream.attempts, stream.partitions_resumed) == ("loaded", 2, 1)
    assert faulty.log.count("stage") == 3
    assert changes.rows() == expected(changes)
    assert {row[-1] for row in changes.lineage()} == {stream.load_id}


@pytest.mark.parametrize("lost", ["customers", "orders"])
def test_tables_staged_under_different_loads_are_committed_as_one(changes: ChangeProject, lost: str) -> None:
    """Killed before its commit, and the staging of one table lost: what is committed bears one load id, every row once,
    and no staging is left, whichever of the tables had to be staged again."""
    write(changes.log, orders(1, 30, "01"))
    with changes.child(step="commit_started") as child:
        child.communicate(timeout=60)
    with behind_our_back(changes) as db:
        [(stage,)] = db.execute("SELECT stage FROM __dpone__staging WHERE key LIKE ?", (f"%|{lost}",))
        db.execute(f'DROP TABLE "{stage}"')
        for table in ("__dpone__staging", "__dpone__parts"):
            db.execute(f"DELETE FROM {table} WHERE stage = ?", (stage,))
    stream = changes.load()
    assert changes.rows() == expected(changes)
    assert {row[-1] for row in changes.lineage()} == {stream.load_id}
    assert {load_id for (load_id,) in changes.query("SELECT load_id FROM __dpone__loads")} == {stream.load_id}
    assert changes.staging() == []


# -- what was delivered before ----------------------------------------------------------------------------------------


def test_changes_delivered_again_are_filtered_across_runs(changes: ChangeProject) -> None:
    """A writer that repeats what was loaded: the journal knows, and the report counts it."""
    write(changes.log, orders(1, 30, "01"))
    changes.load()
    before = expected(changes)
    write(changes.log, orders(1, 30, "01"), transaction("02", insert("orders", {"id": 99}, name="n", note=None)))
    second = changes.load()
    assert (second.rows.read, second.rows.filtered, second.rows.inserted) == (31, 30, 1)
    assert "skipped 40 changes delivered before" in second.proof
    assert changes.rows() == sorted([*before, (f"{SOURCE}/02/1", "insert", "orders")])


def test_a_log_that_was_rewritten_stops(changes: ChangeProject) -> None:
    """Other bytes where some were loaded: exit 3, nothing changed, on every rerun; --full-refresh reads it anew."""
    write(changes.log, orders(1, 30, "01"))
    changes.load()
    write(changes.log, orders(1, 20, "01"), orders(21, 60, "02"), mode="w")
    assert stopped(changes).kind == "IdentityChanged"
    changes.load(full_refresh=True)
    assert changes.rows() == expected(changes)
    assert [entry.epoch for entry in changes.journal()] == [0, 1]
    assert changes.load().status == "caught_up"


def test_a_log_that_was_cut_off_stops(changes: ChangeProject) -> None:
    """Less than was loaded: a gap by name, and the state byte for byte as it was."""
    write(changes.log, orders(1, 30, "01"), orders(31, 32, "02"))
    changes.load()
    write(changes.log, orders(1, 30, "01"), mode="w")
    assert stopped(changes).kind == "Gap"


def test_a_position_can_be_set(changes: ChangeProject) -> None:
    """'dpone state set' takes a position of the history back; what follows it is loaded again."""
    write(changes.log, orders(1, 3, "01"))
    first = Position.from_json(changes.load().position_after)
    write(changes.log, orders(4, 6, "02"))
    changes.load()
    reposition(load_pipeline(changes.pipeline), "p", first)
    assert changes.load().rows.inserted == 4
    assert len(changes.rows()) == 12


# -- targets ----------------------------------------------------------------------------------------------------------


def test_ST_04_a_table_with_rows_of_somebody_else_stops(changes: ChangeProject) -> None:
    """Per table, also when it comes later: rows that no journal explains are not added to by guess."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, a="x")))
    changes.load()
    with behind_our_back(changes) as db:
        db.execute("CREATE TABLE landing_customers (cid INTEGER, city TEXT)")
        db.execute("INSERT INTO landing_customers VALUES (7, 'Rome')")
    write(changes.log, transaction("02", insert("customers", {"cid": 1}, city="Oslo")))
    changes_after = changes.query("SELECT COUNT(*) FROM landing_customers")
    report = changes.run()
    assert (report.exit_code, report.streams[0].error.kind) == (3, "StateMissing")
    assert changes.query("SELECT COUNT(*) FROM landing_customers") == changes_after
    adopting = changes.but(sink_options={"adopt_existing": True})
    adopting.load()
    assert changes.query("SELECT COUNT(*) FROM landing_customers") == [(2,)]


def test_a_dropped_table_stops(changes: ChangeProject) -> None:
    """The journal says it was loaded, and it is gone: what it held would stay lost."""
    write(changes.log, orders(1, 9, "01"))
    changes.load()
    with behind_our_back(changes) as db:
        db.execute("DROP TABLE landing_customers")
    write(changes.log, orders(10, 18, "02"))
    report = changes.run()
    assert (report.exit_code, report.streams[0].error.kind) == (3, "StateAhead")
    assert changes.query("SELECT COUNT(*) FROM landing_orders") == [(9,)]
    changes.load(full_refresh=True)
    assert changes.rows() == expected(changes)


def test_a_new_column_is_added_and_a_type_break_stops(changes: ChangeProject) -> None:
    """Schema evolution per table, before anything is staged; a break in one table stops them all."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, a=1), insert("customers", {"cid": 1}, c=1)))
    changes.load()
    write(changes.log, transaction("02", insert("orders", {"id": 2}, a=2, new="x")))
    assert changes.load().schema_changes == ["landing_orders: add new string"]
    write(changes.log, transaction("03", insert("orders", {"id": 3}, a="text"), insert("customers", {"cid": 2}, c=2)))
    assert stopped(changes).kind == "SchemaBreak"
    routed = changes.but(sink_options={"schema_evolution": {"on_type_change": "new_column"}})
    routed.load()
    assert changes.query("SELECT a, __dpone__nc__a FROM landing_orders WHERE id = 3") == [(None, "text")]
    assert changes.rows() == expected(changes)


def test_one_table_needs_no_name_and_several_do(changes: ChangeProject) -> None:
    """Without a name the log must have one table; with a name the others are left alone."""
    source = {key: value for key, value in changes.source.items() if key != "table"}
    one = changes.but(source=source, table="landing_orders")
    write(one.log, transaction("01", insert("orders", {"id": 1}, a="x")))
    one.load()
    assert one.rows() == expected(one)
    write(one.log, orders(2, 9, "02"))
    report = one.run()
    assert (report.exit_code, report.streams[0].error.kind) == (3, "PipelineMismatch")
    named = one.but(source={**source, "table": "customers"}, table="landing_customers")
    named.load()
    assert len(named.rows()) == 1 + 3


def test_a_sink_of_one_table_takes_a_stream_of_one(changes: ChangeProject) -> None:
    """A folder of files has a commit for one table: a change stream of one table can be appended to it."""
    project = Project(changes.folder, {"mode": "append"}, "file", "file", source={**changes.source, "table": "orders"})
    project.save()
    write(changes.log, orders(1, 30, "01"))
    report = project.run()
    assert report.exit_code == 0
    assert report.streams[0].rows.inserted == 30
    write(changes.log, orders(31, 40, "02"))
    assert project.run().streams[0].rows.inserted == 10
    assert project.run().streams[0].status == "caught_up"


# -- cdc_apply: what the writer is given ------------------------------------------------------------------------------


class Taking(SqliteSink):
    """Keeps what the engine hands to the writers of ``cdc_apply``."""

    loads: ClassVar[list[Load]] = []
    batches: ClassVar[dict[str, list[pa.RecordBatch]]] = {}
    schemas: ClassVar[dict[str, pa.Schema]] = {}

    def ddl(self, changes: Sequence[Any]) -> list[str]:
        return []

    def open(self, load: Load) -> Any:
        type(self).loads.append(load)
        return _Taken(load, str(self._target))


class _Taken:
    def __init__(self, load: Load, table: str) -> None:
        self.load_id, self._load, self._table = load.load_id, load, table

    def staged(self) -> Mapping[str, Staged]:
        return {}

    def stage(self, part: Part, stream: Stream) -> Staged:
        Taking.schemas[self._table] = stream.schema
        Taking.batches[self._table] = list(stream.batches())
        return Staged(sum(batch.num_rows for batch in Taking.batches[self._table]), 0, stream.filtered)

    def commit(self, after: Entry | None, position: Position, also: Sequence[Any] = ()) -> Receipt:
        load = self._load
        return Receipt(Entry(1, 0, load.load_id, load.run_id, load.token, position, load.started_at))

    def abort(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def taking() -> type[Taking]:
    Taking.loads, Taking.batches, Taking.schemas = [], {}, {}
    return Taking


def applied(project: ChangeProject, **options: Any) -> Any:
    """Run with ``cdc_apply``, whatever the sink declares."""
    pipeline = load_pipeline(project.pipeline)
    [stream] = pipeline.streams
    strategy = Strategy("cdc_apply", **options)
    pipeline = evolve(pipeline, streams=(evolve(stream, sink=evolve(stream.sink, strategy=strategy)),))
    report = run(pipeline, plugins=with_plugins(sink_sqlite=f"{__name__}:Taking"))
    return report.streams[0]


def test_cdc_apply_is_given_change_batches(changes: ChangeProject, taking: type[Taking]) -> None:
    """The writer gets batches of the contract's schema, the target's columns, and the key that the log names."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, a="x"), update("orders", {"id": 1}, a="y"),
                                   insert("customers", {"cid": 1}, c=1)))  # fmt: skip
    assert applied(changes).status == "loaded"
    customers, mine, leader = taking.loads
    assert [load.changes for load in (customers, mine, leader)] == [True, True, True]
    assert (mine.strategy.key, customers.strategy.key, leader.schema) == (("id",), ("cid",), None)
    assert mine.schema == pa.schema([("id", pa.int64()), ("a", pa.string())])
    assert taking.schemas["landing_orders"] == batch_schema(ChangeTable(mine.schema, ("id",)))
    for batch in taking.batches["landing_orders"]:
        assert batch.schema == taking.schemas["landing_orders"]
    assert [load.load_id for load in taking.loads] == [leader.load_id] * 3


def test_routed_columns_have_their_new_name_in_the_structs_too(changes: ChangeProject, taking: type[Taking]) -> None:
    """Values that go to another column are named so in mask and before-image: the writer knows one name only."""
    with behind_our_back(changes) as db:
        db.execute('CREATE TABLE landing_orders (id INTEGER PRIMARY KEY, "a" INTEGER, "b" TEXT)')
    project = changes.but(sink_options={"schema_evolution": {"on_type_change": "new_column"}})
    write(
        project.log, transaction("01", insert("orders", {"id": 1}, a="text", b="z"), update("orders", {"id": 1}, b="y"))
    )
    assert applied(project).status == "loaded"
    [batch] = taking.batches["landing_orders"]
    assert batch.schema.names[-3:] == ["id", "__dpone__nc__a", "b"]
    assert batch.to_pylist()[1]["__dpone__unchanged"] == {"id": False, "__dpone__nc__a": True, "b": False}


def test_the_key_is_the_logs(changes: ChangeProject, taking: type[Taking]) -> None:
    """A stated key must be the log's; without either there is nothing to apply by; a stated one alone will do."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, a="x")))
    assert applied(changes, key=["id"]).status == "loaded"
    changes.state_path.unlink()  # this sink keeps no journal
    wrong = applied(changes, key=["a"])
    assert "strategy.key is a, but the key in the log is id" in wrong.error.message
    write(changes.log, transaction("01", {"op": "insert", "table": "orders", "values": {"id": 1}}), mode="w")
    assert "the log has no key for it" in applied(changes).error.message
    assert applied(changes, key=["id"]).status == "loaded"
    assert taking.loads[-2].strategy.key == ("id",)


def test_lineage_in_the_log_is_not_applied(changes: ChangeProject, taking: type[Taking]) -> None:
    """The writer of cdc_apply gets neither the column nor its place in the structs."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}, __dpone__load_id="old", a="x")))
    assert applied(changes).status == "loaded"
    [batch] = taking.batches["landing_orders"]
    assert batch.schema == batch_schema(ChangeTable(pa.schema([("id", pa.int64()), ("a", pa.string())]), ("id",)))


def test_PG_10_a_delete_without_its_key_is_an_error(changes: ChangeProject, taking: type[Taking]) -> None:
    """A change of a row that does not say which row is never passed over, and append, which needs no key, loads it."""
    write(changes.log, transaction("01", insert("orders", {"id": 1}), {"op": "delete", "table": "orders"}))
    message = applied(changes).error.message
    assert "updates or deletes a row without its key" in message
    assert message.endswith("REPLICA IDENTITY USING INDEX), or use strategy append")


# -- configuration ----------------------------------------------------------------------------------------------------


def refusals(project: Project, **sink: Any) -> str:
    data = yaml.safe_load(project.pipeline.read_text())
    data["sink"] |= sink
    project.pipeline.write_text(yaml.safe_dump(data))
    with pytest.raises(PipelineErrors) as caught:
        load_pipeline(project.pipeline)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["full_refresh", "merge", "snapshot_diff"])
def test_other_strategies_take_rows(changes: ChangeProject, mode: str) -> None:
    """Only append and cdc_apply know what a change is."""
    key = {} if mode == "full_refresh" else {"key": ["id"]}
    assert f"{mode} loads rows, but the source reads a change stream" in refusals(
        changes, strategy={"mode": mode, **key}
    )


def test_a_contract_is_about_rows(changes: ChangeProject) -> None:
    """Changes are not held against a contract of rows; to leave it out in silence would be to pass it."""
    found = refusals(changes, contract={"required_columns": ["id"]})
    assert "a contract checks rows, but the source reads a change stream" in found


def test_cdc_apply_needs_a_change_stream(project: Project) -> None:
    """Rows are not changes."""
    assert "cdc_apply takes changes, not rows" in refusals(project, strategy={"mode": "cdc_apply"})


def test_many_tables_need_places_of_their_own(changes: ChangeProject) -> None:
    """A glob needs {table} in the target, and a sink that commits many tables at once."""
    assert "all tables of * would be loaded into all" in refusals(changes, table="all")
    folder = Project(changes.folder, {"mode": "append"}, "file", "file", source=changes.source).save()
    assert "file commits one table at a time" in refusals(folder)
    undo = refusals(changes, table="all_{table}", options={"undo": {"loads": 1}})
    assert "a load of several tables cannot be taken back" in undo


def test_options_of_a_change_stream_are_checked(changes: ChangeProject) -> None:
    """A limit belongs to a change stream, a cursor column does not."""
    for incremental, found in (
        ({"by": "cdc", "column": "a"}, "by: cdc takes neither column"),
        ({"by": "cdc", "key": ["a"]}, "by: cdc takes neither key"),
        ({"by": "cdc", "limit": 0}, "limit"),
        ({"by": "xmin"}, "file"),
    ):
        source = {**changes.source, "options": {"incremental": incremental}}
        with pytest.raises(PipelineErrors, match=found):
            load_pipeline(changes.but(source=source).pipeline)


@contextmanager
def behind_our_back(project: Project) -> Iterator[sqlite3.Connection]:
    """The target, changed by somebody else."""
    with closing(sqlite3.connect(project.database)) as db, db:
        yield db
