"""The sqlite sink: what a load leaves at success, failure and crash; values; one clear line for every bad input."""

from __future__ import annotations

import datetime as dt
import decimal
import os
import sqlite3
import threading
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve as replace
from attrs import frozen
from tests.sqlite.target import KEY, START, Rows, Target, at, evolve, load, rows

from dpone.connectors.sqlite import types
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.contract import Part
from dpone.errors import Category, ConfigError, Conflict, DataError, SinkError
from dpone.model.evolution import SchemaChange
from dpone.model.pipeline import Lineage, SchemaEvolution, SinkSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql.dialect import transaction
from dpone.sql.undo import IMAGES
from dpone.sql.writer import Stage, Staging

FULL, APPEND, MERGE = Strategy("full_refresh"), Strategy("append"), Strategy("merge", key="id")
REPLACE = Strategy("replace", where={"name": "a"})
PARTITIONS = Strategy("partition_replace", partition="name")
DIFF, SCD2 = Strategy("snapshot_diff", key="id", max_delete_share=1.0), Strategy("scd2", key="id")
STRATEGIES = [FULL, APPEND, MERGE, REPLACE, PARTITIONS, DIFF, SCD2]
ids = [s.mode for s in STRATEGIES]


def table(*numbers: int | None, name: str = "a") -> pa.Table:
    return pa.table({"id": pa.array(numbers, pa.int64()), "name": pa.array([name] * len(numbers))})


class Broken(RuntimeError):
    """The source fails."""


def fail_at(n: int) -> Any:
    def between(batch: int) -> None:
        if batch == n:
            raise Broken

    return between


# ---- load strategies


@pytest.mark.parametrize("indexed", [False, True], ids=["swap", "in place"])
@pytest.mark.parametrize("broken", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_LS_01_a_reader_never_sees_the_table_empty(target: Target, indexed: bool, broken: bool, journal: str) -> None:
    """A reader that counts all the time sees the old number of rows or the new one, through success and failure."""
    target.load(table(*range(700)), FULL)
    target.run(f"PRAGMA journal_mode={journal}", *(["CREATE INDEX i ON orders (name)"] if indexed else []))
    seen: set[Any] = set()
    done = threading.Event()

    def read() -> None:
        with closing(sqlite3.connect(target.path, timeout=30)) as db:
            while not done.is_set():
                seen.add(db.execute("SELECT COUNT(*), COUNT(DISTINCT __dpone__load_id) FROM orders").fetchone())

    reader = threading.Thread(target=read)
    reader.start()
    sink = target.sink(FULL)
    writer = sink.open(load(table().schema, FULL))
    try:
        writer.stage(Part("a"), rows(table(*range(400)), size=10))
        writer.stage(Part("b"), rows(table(*range(400, 900)), fail_at(25) if broken else lambda n: None, size=10))
        writer.commit(sink.journal(KEY), at(1))
    except Broken:
        writer.abort()
    finally:
        done.set()
        reader.join()
        sink.close()
    assert seen <= {(700, 1), (900, 1)}
    assert target.query("SELECT COUNT(*) FROM orders") == [(700 if broken else 900,)]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=ids)
def test_LS_02_an_empty_load_leaves_the_target(target: Target, strategy: Strategy) -> None:
    """No rows read: the target stays, and the position is journalled all the same."""
    target.load(table(1, 2), strategy)
    before = target.rows()
    receipt = target.load(table(), strategy, n=2)
    assert target.rows() == before
    assert (receipt.inserted, receipt.updated, receipt.deleted, receipt.unchanged) == (0, 0, 0, 0)
    assert receipt.entry.seq == 2
    assert receipt.entry.position == at(2)
    assert not target.stages()


def test_LS_02_allow_empty_empties_what_is_replaced(target: Target) -> None:
    """With allow_empty, an empty full refresh empties the target, and an empty replace the rows of its predicate."""
    target.load(table(1, 2), APPEND)
    target.load(table(3, name="b"), APPEND)
    receipt = target.load(table(), Strategy("replace", where={"name": "a"}, allow_empty=True))
    assert (receipt.deleted, target.rows("id")) == (2, [(3,)])
    assert target.load(table(), Strategy("append", allow_empty=True)).deleted == 0
    assert target.load(table(), Strategy("full_refresh", allow_empty=True)).deleted == 1
    assert target.rows() == []


@pytest.mark.parametrize("indexed", [False, True], ids=["swap", "in place"])
@pytest.mark.parametrize("point", [3, 9, None], ids=["at 30 %", "at 90 %", "after the last row"])
def test_LS_03_an_interrupted_full_refresh_leaves_no_trace(target: Target, indexed: bool, point: int | None) -> None:
    """A runner that vanishes before its commit changes nothing, and the next load has nothing of its rows."""
    target.load(table(*range(5)), FULL)
    target.run(*(["CREATE INDEX i ON orders (name)"] if indexed else []))
    sink = target.sink(FULL)
    writer = sink.open(load(table().schema, FULL))
    if point is None:
        writer.stage(Part("all"), rows(table(*range(100, 130))))
    else:
        with pytest.raises(Broken):
            writer.stage(Part("all"), rows(table(*range(100, 130)), fail_at(point)))
    sink.close()
    assert target.rows("id") == [(i,) for i in range(5)]
    target.load(table(*range(50, 60)), FULL)
    assert target.rows("id") == [(i,) for i in range(50, 60)]
    assert not target.stages()
    assert target.query("SELECT COUNT(*) FROM __dpone__parts") == [(0,)]


def test_LS_04_the_same_generation_twice_keeps_its_rows(target: Target) -> None:
    """A full refresh repeated with the same load id leaves its rows, not nothing."""
    for _ in range(2):
        target.load(table(1, 2), FULL, load_id="SAME")
    assert target.rows("id") == [(1,), (2,)]


def test_LS_05_vanished_staging_stops_the_commit(target: Target) -> None:
    """Staging that somebody dropped is a named error; nothing is written, so nothing can be doubled later."""
    target.load(table(1), APPEND)
    sink = target.sink(APPEND)
    with closing(sink):
        writer = sink.open(load(table().schema, APPEND))
        writer.stage(Part("all"), rows(table(2)))
        target.run(*(f'DROP TABLE "{stage}"' for stage in target.stages()))
        with pytest.raises(SinkError, match=r"staging table .* no longer exists; run again"):
            writer.commit(sink.journal(KEY), at(2))
    assert target.rows("id") == [(1,)]
    assert target.query("SELECT COUNT(*) FROM __dpone__loads") == [(1,)]


def test_LS_06_a_source_that_fails_first_changes_nothing(target: Target) -> None:
    """A failure before the first row leaves target, journal and staging as they were."""
    target.load(table(1), APPEND)
    before = target.dump()
    sink = target.sink(APPEND)
    with closing(sink):
        writer = sink.open(load(table().schema, APPEND))
        with pytest.raises(Broken):
            writer.stage(Part("all"), rows(table(2), fail_at(0)))
        writer.abort()
        writer.abort()
    assert target.dump() == before


def test_LS_12_the_same_load_twice_is_refused_by_the_journal(target: Target) -> None:
    """A load that starts where another one started already is a Conflict; its rows are not appended again."""
    target.load(table(1, 2), APPEND)
    sink = target.sink(APPEND)
    with closing(sink):
        writer = sink.open(load(table().schema, APPEND))
        writer.stage(Part("all"), rows(table(1, 2)))
        with pytest.raises(Conflict):
            writer.commit(None, at(1))
    assert target.rows("id") == [(1,), (2,)]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=ids)
def test_of_two_writers_the_second_commit_writes_nothing(target: Target, strategy: Strategy) -> None:
    """Two loads from one journal head: the first commit wins, the second raises Conflict and leaves all as it was."""
    target.load(table(1), strategy)
    one, two = target.sink(strategy), target.sink(strategy)
    with closing(one), closing(two):
        head = one.journal(KEY)
        first, second = one.open(load(table().schema, strategy)), two.open(load(table().schema, strategy))
        with pytest.raises(SinkError):
            first.stage(Part("all"), rows(table(2)))  # swept by the second: the lock was not its own any more
        second.stage(Part("all"), rows(table(3)))
        second.commit(head, at(2))
        before = target.dump()
        with pytest.raises(Conflict, match="nothing was written"):
            first.commit(head, at(2))
        assert target.dump() == before


def test_the_journal_has_one_line_per_commit(target: Target) -> None:
    """The head is the latest entry with its position, counts and epoch; a key that never loaded has none."""
    sink = target.sink(APPEND)
    with closing(sink):
        assert sink.journal(KEY) is None
        assert not target.path.exists()
        target.load(table(1), APPEND, n=1)
        receipt = target.load(table(2, 3), APPEND, n=2)
        assert sink.journal(KEY) == receipt.entry
        assert sink.journal("other") is None
        assert (receipt.entry.seq, receipt.entry.position, receipt.entry.rows["inserted"]) == (2, at(2), 2)


def test_a_load_without_schema_is_journalled_alone(target: Target) -> None:
    """A rewind: position and epoch are journalled, the target is not touched, and no target is needed."""
    target.load(table(1), APPEND)
    before = target.rows()
    sink = target.sink(APPEND)
    with closing(sink):
        receipt = sink.open(load(None, APPEND)).commit(sink.journal(KEY), at(0, epoch=1))
    assert (receipt.entry.seq, receipt.entry.epoch, target.rows()) == (2, 1, before)
    assert not target.stages()


# ---- resuming


@frozen
class Judged(Rows):
    """As the engine gives the rows of a stream with a contract."""

    quarantined: int = 2
    checks: str = "what was found"


def test_a_repeatable_load_goes_on_with_its_staged_parts(target: Target) -> None:
    """After a crash a load of the same token has its parts, with all that was said of them, load id and load time; no
    part is staged twice."""
    sink = target.sink(APPEND)
    with closing(sink):
        evolve(sink, table().schema, APPEND)
        first = sink.open(load(table().schema, APPEND, repeatable=True, load_id="FIRST"))
        staged = first.stage(Part("one"), Judged(table().schema, table(1, 2).to_batches(), filtered=3))
        assert (staged.rows, staged.filtered, staged.quarantined, staged.checks) == (2, 3, 2, "what was found")
        with pytest.raises(Broken):
            first.stage(Part("two"), rows(table(3, 4, 5, 6), fail_at(1)))
    sink = target.sink(APPEND)
    with closing(sink):
        again = sink.open(load(table().schema, APPEND, repeatable=True, load_id="SECOND"))
        assert (again.load_id, again.staged()) == ("FIRST", {"one": staged})
        assert again.stage(Part("one"), rows(table(7), fail_at(0))) == staged
        again.stage(Part("two"), rows(table(3, 4, 5, 6)))
        assert again.commit(None, at(1)).entry.load_id == "FIRST"
    assert target.rows("id, __dpone__load_id") == [(i, "FIRST") for i in range(1, 7)]
    assert len(set(target.rows("__dpone__loaded_at"))) == 1


@pytest.mark.parametrize("changed", [{"token": "other"}, {"repeatable": False}])
def test_staging_of_another_load_is_swept(target: Target, changed: dict[str, Any]) -> None:
    """A load of another token, or a momentary one, begins anew; staging of other keys stays."""
    sink = target.sink(APPEND)
    with closing(sink):
        evolve(sink, table().schema, APPEND)
        given = {"repeatable": True, **changed}
        sink.open(load(table().schema, APPEND, key="other", load_id="OTHER")).stage(Part("p"), rows(table(9)))
        sink.open(load(table().schema, APPEND, repeatable=True, load_id="OLD")).stage(Part("p"), rows(table(1)))
        writer = sink.open(load(table().schema, APPEND, load_id="NEW", **given))
        assert (writer.load_id, writer.staged()) == ("NEW", {})
        left = {name.rpartition("_")[0] for name in target.stages()}
        assert left == {"__dpone__stage_NEW", "__dpone__stage_OTHER"}


def test_a_transaction_has_the_write_lock_from_its_start(target: Target) -> None:
    """Nobody can write between the look at the journal and the commit: the lock is taken before the first look."""
    target.load(table(1), APPEND)
    seen: list[str] = []

    def write(batch: int) -> None:
        with closing(sqlite3.connect(target.path, timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                seen.append(str(error))

    sink = target.sink(APPEND)
    with closing(sink):
        writer = sink.open(load(table().schema, APPEND))
        writer.stage(Part("all"), rows(table(2), write))
        assert sink._db.rows("PRAGMA synchronous") == [(3,)]  # EXTRA: a commit survives a power cut
    assert seen == ["database is locked"]


# ---- the shape of the target


def test_a_first_load_copies_no_row(target: Target) -> None:
    """Into a target that dpone just made, the staging table itself becomes the target; so too on every full refresh."""
    for strategy in (MERGE, Strategy("full_refresh", key="id")):
        sink = target.sink(strategy)
        with closing(sink):
            evolve(sink, table().schema, strategy)
            writer = sink.open(load(table().schema, strategy))
            writer.stage(Part("all"), rows(table(1, 2)))
            said: list[str] = []
            sink._db.connection().set_trace_callback(said.append)
            writer.commit(sink.journal(KEY), at(1))
        assert any("RENAME TO" in sql for sql in said)
        assert not any(sql.startswith(('INSERT INTO "orders"', 'DELETE FROM "orders"')) for sql in said)
    assert target.rows("id") == [(1,), (2,)]


@pytest.mark.parametrize("strategy", [FULL, APPEND, MERGE], ids=lambda s: s.mode)
def test_a_target_that_is_gone_at_the_commit_is_made_by_the_next_attempt(target: Target, strategy: Strategy) -> None:
    """A run without a common lease has taken back the table it had made: an error that may be tried again."""
    with closing(target.sink(strategy)) as sink:
        evolve(sink, table().schema, strategy)
        writer = sink.open(load(table().schema, strategy))
        writer.stage(Part("all"), rows(table(1, 2)))
        target.run("DROP TABLE orders")
        with pytest.raises(SinkError, match="table orders no longer exists; run again") as raised:
            writer.commit(sink.journal(KEY), at(1))
    assert raised.value.category is Category.TRANSIENT


LAST = Strategy("full_refresh", key="id", duplicates="last", order_by="name")


@pytest.mark.parametrize(
    "strategy", [LAST, replace(LAST, mode="merge"), replace(LAST, mode="snapshot_diff")], ids=lambda s: s.mode
)
def test_a_target_keeps_its_primary_key_where_rows_of_one_key_are_chosen_from(
    target: Target, strategy: Strategy
) -> None:
    """Also if none repeats, and so nothing is chosen: a stage without the key never takes the target's place."""
    for n, ids in enumerate([(1, 2), (1, 2, 3)]):
        target.load(table(*ids), strategy, n=n)
        assert target.query("SELECT name FROM pragma_table_info('orders') WHERE pk") == [("id",)]
        if n == 0:
            target.run("DELETE FROM orders")
    assert target.rows("id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("strategy", "before", "own", "keyed"),
    [
        (FULL, "filled", True, False),
        (Strategy("full_refresh", key="id"), "filled", True, True),
        (Strategy("full_refresh", key="id"), "indexed", False, False),
        (LAST, "filled", False, False),
        (LAST, "empty", False, False),
        (APPEND, "empty", True, False),
        (APPEND, "filled", False, False),
        (MERGE, "empty", True, True),
        (MERGE, "filled", False, False),
        (DIFF, "empty", True, True),
        (DIFF, "filled", False, True),
    ],
)
def test_a_stage_is_of_the_target_s_own_shape_where_it_may_take_its_place(
    target: Target, strategy: Strategy, before: str, own: bool, keyed: bool
) -> None:
    """Of a full refresh, and for an empty target, the stage has the target's NOT NULL columns and primary key, unless
    rows that repeat a key are to be chosen from, or an index hangs on the target. Else it takes any row with a key, and
    has a primary key only for a difference."""
    schema = pa.schema([pa.field("id", pa.int64(), False), pa.field("name", pa.string(), False)])
    strict = SchemaEvolution("strict")  # keeps NOT NULL
    target.load(table(*[1][: before != "empty"]).cast(schema), strategy, schema_evolution=strict)
    if before == "indexed":
        target.run("CREATE INDEX hung ON orders (name)")
    with closing(target.sink(strategy)) as sink:
        sink.open(load(schema, strategy))
        [stage] = target.stages()
    columns = target.query('SELECT name, "notnull", pk FROM pragma_table_info(?)', stage)
    assert columns[:2] == [("id", own or bool(strategy.key), keyed), ("name", own, 0)]


@pytest.mark.parametrize(
    ("extra", "kind", "name"),
    [
        ("CREATE INDEX extra ON orders (name)", "index", "extra"),
        ("CREATE TRIGGER extra AFTER INSERT ON orders BEGIN SELECT 1; END", "trigger", "extra"),
        ("CREATE VIEW extra AS SELECT name FROM orders", "view", "extra"),
        ("CREATE TABLE extra (id REFERENCES orders (id))", "table", "extra"),
        ("ALTER TABLE orders ADD COLUMN extra TEXT DEFAULT 'x' CHECK (extra <> '')", "table", "orders"),
    ],
    ids=["index", "trigger", "view", "foreign key", "check"],
)
def test_a_full_refresh_keeps_what_hangs_on_the_table(target: Target, extra: str, kind: str, name: str) -> None:
    """Indexes, triggers, views, foreign keys and constraints of the target survive a full refresh, text by text."""
    strategy = Strategy("full_refresh", key="id")
    target.load(table(1, 2), strategy)
    target.run(extra)
    sql = "SELECT type, name, sql FROM sqlite_master WHERE name IN ('orders', 'extra') ORDER BY name"
    before = target.query(sql)
    assert (kind, name) in {row[:2] for row in before}
    ignore = SchemaEvolution(on_missing_column="ignore")
    receipt = target.load(table(2, 3, 4), strategy, schema_evolution=ignore)
    assert (receipt.inserted, receipt.deleted) == (3, 2)
    assert target.query(sql) == before
    assert target.rows("id") == [(2,), (3,), (4,)]


def test_a_table_without_lineage_gets_it(target: Target) -> None:
    """Somebody else's table gains the lineage columns with the first load, and its old rows have NULL in them."""
    target.run("CREATE TABLE orders (id INTEGER, name TEXT)", "INSERT INTO orders VALUES (1, 'a')")
    target.load(table(2), APPEND, load_id="L")
    assert target.rows("id, __dpone__load_id, __dpone__loaded_at") == [
        (1, None, None),
        (2, "L", "2024-05-06 07:08:09.123456+00:00"),
    ]


def test_lineage_can_be_off(target: Target) -> None:
    """With lineage off the target has the columns of the rows and no others."""
    target.load(table(1), FULL, lineage=Lineage(False))
    assert target.query("SELECT * FROM orders") == [(1, "a")]
    sink = target.sink(FULL)
    with closing(sink):
        assert sink.schema() == pa.schema([("id", pa.int64()), ("name", pa.string())])


def test_the_key_is_the_primary_key(target: Target) -> None:
    """A target that dpone creates for keyed rows has the key as its primary key."""
    target.load(table(1), Strategy("append", key=("name", "id")))
    found = target.query("SELECT name, pk FROM pragma_table_info('orders') WHERE pk > 0 ORDER BY pk")
    assert found == [("name", 1), ("id", 2)]
    with pytest.raises(DataError, match="UNIQUE constraint failed"):
        target.load(table(1), Strategy("append", key=("name", "id")))


def test_a_broken_constraint_changes_nothing(target: Target) -> None:
    """A row that a constraint of the target refuses is a data error, and the rows of its load are not written."""
    target.run("CREATE TABLE orders (id INTEGER CHECK (id < 10), name TEXT)", "INSERT INTO orders VALUES (1, 'a')")
    with pytest.raises(DataError, match="CHECK constraint failed") as caught:
        target.load(table(2, 30), FULL, lineage=Lineage(False))
    assert caught.value.category is Category.DATA_QUALITY
    assert target.rows() == [(1, "a")]
    assert target.query("SELECT * FROM __dpone__loads") == []


def test_widening_keeps_values_equal(target: Target) -> None:
    """A wider decimal takes the old digits with the zeros of its scale, so that a merge sees no change in them."""
    narrow = pa.table(
        {"id": pa.array([1, 2], pa.int64()), "x": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(5, 2))}
    )
    wide = narrow.set_column(1, "x", narrow["x"].cast(pa.decimal128(20, 6)))
    target.load(narrow, MERGE)
    receipt = target.load(wide, MERGE)
    assert (receipt.updated, receipt.unchanged) == (0, 2)
    assert target.rows("x") == [("1.500000",), (None,)]


def test_schema_changes_are_all_or_nothing(target: Target) -> None:
    """A statement that fails takes the ones before it back."""
    target.load(table(1), APPEND)
    before = target.dump()
    sink = target.sink(APPEND)
    with closing(sink), pytest.raises(SinkError, match="duplicate column"):
        sink.apply([*sink.ddl([SchemaChange("add", "x", after=pa.field("x", pa.int64()))]) * 2])
    assert target.dump() == before


# ---- values

D, T = decimal.Decimal, dt.datetime
VALUES: list[tuple[pa.DataType, list[Any], str, list[Any]]] = [
    (pa.bool_(), [True, False, None], "BOOLEAN", [1, 0, None]),
    (pa.int8(), [-128, None, 127], "INTEGER", [-128, None, 127]),
    (pa.int64(), [2**63 - 1, None, -(2**63), 2**53 + 1], "INTEGER", [2**63 - 1, None, -(2**63), 2**53 + 1]),
    (pa.uint64(), [2**63 - 1, None], "INTEGER", [2**63 - 1, None]),
    (pa.float32(), [0.5, None], "REAL", [0.5, None]),
    (pa.float64(), [0.1, float("inf"), None, 5e-324], "REAL", [0.1, float("inf"), None, 5e-324]),
    (pa.decimal128(38, 10), [D("-1234567890123456789012345678.1234567890"), None, D("0.0000000001")],
     "DECIMAL_TEXT(38,10)", ["-1234567890123456789012345678.1234567890", None, "0.0000000001"]),
    (pa.decimal256(50, 0), [D(10**49)], "DECIMAL_TEXT(50,0)", [str(10**49)]),
    (pa.string(), ["", None, "a ", "a\0b", "🦆é", "'\"--"], "TEXT", ["", None, "a ", "a\0b", "🦆é", "'\"--"]),
    (pa.large_string(), ["x"], "TEXT", ["x"]),
    (pa.dictionary(pa.int8(), pa.string()), ["x", None, "x"], "TEXT", ["x", None, "x"]),
    (pa.binary(), [b"", None, b"\x00\xff"], "BLOB", [b"", None, b"\x00\xff"]),
    (pa.date32(), [dt.date(1, 1, 1), None, dt.date(9999, 12, 31)], "DATE", ["0001-01-01", None, "9999-12-31"]),
    (pa.timestamp("s"), [T(2024, 1, 2, 3, 4, 5), None], "TIMESTAMP", ["2024-01-02 03:04:05.000000", None]),
    (pa.timestamp("us"), [T(1, 1, 1), T(9999, 12, 31, 23, 59, 59, 999999)], "TIMESTAMP",
     ["0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999"]),
    (pa.timestamp("us", "Europe/Berlin"), [T(2024, 1, 1, tzinfo=dt.UTC), None], "TIMESTAMPTZ",
     ["2024-01-01 00:00:00.000000+00:00", None]),
    (pa.time32("s"), [dt.time(23, 59, 59), None], "TIME_TEXT", ["23:59:59.000000", None]),
    (pa.duration("ms"), [dt.timedelta(seconds=-1), None], "DURATION_US", [-1_000_000, None]),
    (pa.uuid(), [uuid.UUID(int=5).bytes, None], "UUID_TEXT", [str(uuid.UUID(int=5)), None]),
    (pa.list_(pa.int64()), [[1, None], None, []], "JSON_TEXT", ["[1, null]", None, "[]"]),
    (pa.map_(pa.string(), pa.int8()), [[("a", 1)], None], "JSON_TEXT", ['{"a": 1}', None]),
    (pa.struct([("a", pa.string())]), [{"a": "é"}], "JSON_TEXT", ['{"a": "é"}']),
    (pa.null(), [None], "TEXT", [None]),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "values", "native", "kept"), VALUES, ids=[str(v[0]) for v in VALUES])
def test_values_are_kept_exactly(
    target: Target, type_: pa.DataType, values: list[Any], native: str, kept: list[Any]
) -> None:
    """Each Arrow type has its declared type and its exact form; NULL, '' and the extremes stay apart."""
    target.load(pa.table({"x": pa.array(values, type_)}), FULL, lineage=Lineage(False))
    assert target.rows("x") == [(v,) for v in kept]
    assert target.query("SELECT type FROM pragma_table_info('orders')") == [(native,)]
    sink = target.sink(FULL)
    with closing(sink):
        assert sink.schema().field("x").type == sink.stores(type_).arrow


@pytest.mark.parametrize("type_", [v[0] for v in VALUES], ids=str)
def test_a_stored_type_reads_back_as_itself(type_: pa.DataType) -> None:
    """The declared type of a stored type stands for just that type, so that a second load changes no schema."""
    stored = types.stores(type_)
    assert types.writable(stored.native) == stored.arrow
    assert types.stores(stored.arrow).native == stored.native


REFUSED = [
    (pa.array([1.0, float("nan")]), "row 2 of the part: NaN"),
    (pa.array([1, 2**63], pa.uint64()), "row 2 of the part: a value of type uint64 does not fit int64"),
    (pa.array([1000, 1], pa.timestamp("ns")), r"row 2 of the part: a value of type timestamp\[ns\] does not fit"),
    (pa.array([0, 2932897], pa.date32()), "row 2 of the part: a year outside 0001 to 9999"),
    (pa.array([0, -(2**62)], pa.timestamp("us")), "row 2 of the part: a year outside 0001 to 9999"),
    (pa.array([[1.0], [float("nan")]]), "row 2 of the part: NaN or an infinity in a value of list"),
]


@pytest.mark.parametrize(("column", "found"), REFUSED, ids=[str(c.type) for c, _ in REFUSED])
def test_values_without_a_place_are_refused(target: Target, column: pa.Array, found: str) -> None:
    """A value SQLite cannot keep stops the load, named by column and row, and nothing is written."""
    with pytest.raises(DataError, match=f"column x, {found}"):
        target.load(pa.table({"x": column}), FULL)
    assert target.rows() == []


def test_nan_may_become_null_by_option(target: Target) -> None:
    """With nan: null a NaN is stored as NULL, as SQLite would have it."""
    target.load(pa.table({"x": [1.0, float("nan")]}), FULL, nan="null")
    assert target.rows("x") == [(1.0,), (None,)]


def test_any_number_of_rows_and_columns(target: Target) -> None:
    """Batches of every length around the rows of one statement arrive whole, narrow and wide."""
    for width in (1, 7, 300):
        for length in (0, 1, 2, 35, 36, 250, 251, 501):
            wide = Target(target.path, f"t{width}_{length}")
            data = pa.table({f"c{i}": pa.array(range(length), pa.int64()) for i in range(width)})
            sink = wide.sink(APPEND, lineage=Lineage(False))
            with closing(sink):
                evolve(sink, data.schema, APPEND)
                writer = sink.open(load(data.schema, APPEND))
                assert writer.stage(Part("all"), rows(data, size=400)).rows == length
                writer.commit(None if width == 1 and length == 0 else sink.journal(KEY), at())
            assert wide.rows() == [(i,) * width for i in range(length)]


@pytest.mark.parametrize(
    ("column", "where", "expected"),
    [
        (pa.array([D("9.50"), D("10.50")], pa.decimal128(6, 2)), {"x": {"from": "9.6", "to": 20}}, [("9.50",)]),
        (pa.array([T(2024, 1, 1), T(2024, 1, 2)]), {"x": {"from": "2024-01-02"}}, [("2024-01-01 00:00:00.000000",)]),
        (pa.array([dt.date(2024, 1, 1), dt.date(2024, 1, 2)]), {"x": dt.date(2024, 1, 1)}, [("2024-01-02",)]),
        (pa.array([True, False]), {"x": True}, [(0,)]),
        (pa.array([1, None], pa.int64()), {"x": None}, [(1,)]),
    ],
    ids=["decimal", "timestamp", "date", "bool", "null"],
)
def test_replace_compares_values_not_texts(target: Target, column: pa.Array, where: Any, expected: Any) -> None:
    """Bounds of a replace compare as numbers, times and booleans, whatever form SQLite keeps them in."""
    data = pa.table({"x": column})
    target.load(data, APPEND, lineage=Lineage(False))
    target.load(data.slice(0, 0), Strategy("replace", where=where, allow_empty=True), lineage=Lineage(False))
    assert target.rows() == expected


def test_a_bound_of_the_wrong_type_is_one_clear_line(target: Target) -> None:
    """A predicate whose value the column cannot have is a configuration error."""
    target.load(table(1), APPEND)
    with pytest.raises(ConfigError, match=r"read strategy\.where: 'soon' is not a valid int64"):
        target.load(table(1), Strategy("replace", where={"id": "soon"}))


# ---- bad inputs


def spec(connection: str, name: str = "orders", base: Path = Path()) -> SinkSpec:
    return SinkSpec("sqlite", APPEND, Secret(connection), Name.parse(name), base=base)


@pytest.mark.parametrize(
    ("connection", "found"),
    [
        ("sqlite://", "no path after sqlite:"),
        ("sqlite:///", "an in-memory database is lost"),
        ("sqlite:///:memory:", "an in-memory database is lost"),
        ("sqlite:///a.db?mode=ro", "takes no parameters"),
        ("warehouse.db", "does not start with sqlite:"),
        ("postgres://db/shop", "does not start with sqlite:"),
    ],
)
def test_a_wrong_connection_is_one_clear_line(connection: str, found: str) -> None:
    """A connection that names no file is a configuration error before any I/O."""
    with pytest.raises(ConfigError, match=found):
        SqliteSink(spec(connection))


@pytest.mark.parametrize("name", ["sales.orders", "__dpone__loads", "sqlite_master"])
def test_a_table_that_cannot_be_is_one_clear_line(name: str) -> None:
    """A schema, or a name reserved by dpone or SQLite, is a configuration error."""
    with pytest.raises(ConfigError):
        SqliteSink(spec("sqlite:///a.db", name))


def test_a_relative_path_is_relative_to_the_pipeline(tmp_path: Path) -> None:
    """Three slashes: beside the pipeline file; four: an absolute path; main.orders is orders."""
    sink = SqliteSink(spec("sqlite:///a.db", "main.orders", tmp_path))
    with closing(sink):
        evolve(sink, table().schema, APPEND)
    assert Target(tmp_path / "a.db").tables() == {"orders"}
    other = tmp_path / "b.db"
    sink = SqliteSink(spec(f"sqlite:///{other}", base=Path("/nowhere")))
    with closing(sink):
        evolve(sink, table().schema, APPEND)
    assert Target(other).tables() == {"orders"}


def make(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "not a database":
        path.write_bytes(b"id,name\n1,a\n" * 100)
    elif kind == "view":
        Target(path).run("CREATE VIEW orders AS SELECT 1 AS id, 'a' AS name")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("directory", "it is a directory"),
        ("not a database", "the file is not a SQLite database"),
        ("view", "the sink's target is a view"),
    ],
)
def test_a_wrong_target_is_one_clear_line(target: Target, kind: str, found: str) -> None:
    """A target that is no table of a database is one line, from a load and from check."""
    make(target.path, kind)
    with pytest.raises(SinkError, match=found) as caught:
        target.load(table(1), APPEND)
    assert "\n" not in str(caught.value)
    sink = target.sink(APPEND)
    with closing(sink):
        assert any(not f.ok and found in f.found and f.todo for f in sink.check())


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    """The folder of the database must exist; it is not created."""
    target = Target(tmp_path / "no" / "such" / "t.db")
    with pytest.raises(SinkError, match="its folder does not exist; create"):
        target.load(table(1), APPEND)
    assert not (tmp_path / "no").exists()


def test_a_locked_database_is_transient(target: Target) -> None:
    """A database that another process holds is a transient error after the busy timeout."""
    target.load(table(1), APPEND)
    with closing(sqlite3.connect(target.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkError, match="the database is locked by another connection") as caught:
            target.load(table(2), APPEND, busy_timeout=0.05)
    assert caught.value.category is Category.TRANSIENT
    assert target.rows("id") == [(1,)]


@pytest.mark.parametrize("at_commit", [False, True])
def test_a_full_disk_changes_nothing(target: Target, at_commit: bool) -> None:
    """No space left is one clear line, in staging and in the commit; the target stays and the next load works."""
    target.load(table(*range(100)), APPEND)
    before = target.rows()
    sink = target.sink(APPEND)
    with closing(sink):
        writer = sink.open(load(table().schema, APPEND))
        pages = "PRAGMA max_page_count={}"
        full = sink._db.rows("PRAGMA page_count")[0][0] + 2
        if not at_commit:
            sink._db.execute(pages.format(full))
        else:
            writer.stage(Part("all"), rows(table(*range(5000), name="x" * 100), size=1000))
            sink._db.execute(pages.format(sink._db.rows("PRAGMA page_count")[0][0] + 2))
        with pytest.raises(SinkError, match=r"the disk is full .*; free disk space and run again"):  # noqa: PT012
            writer.stage(Part("all"), rows(table(*range(5000), name="x" * 100), size=1000))
            writer.commit(sink.journal(KEY), at(2))
        sink._db.execute(pages.format(2**30))
        writer.abort()
    assert target.rows() == before
    assert not target.stages()
    target.load(table(7), APPEND)


def test_a_read_only_database_is_one_clear_line(target: Target) -> None:
    """A database that may not be written is an authorization error."""
    target.load(table(1), APPEND)
    sink = target.sink(APPEND)
    with closing(sink):
        sink._db.execute("PRAGMA query_only=ON")  # the very error a read-only file gives, also to root
        with pytest.raises(SinkError, match="the file or its folder is read-only") as caught:
            sink.open(load(table().schema, APPEND))
    assert caught.value.category is Category.AUTHORIZATION


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_check_says_that_the_file_is_read_only(target: Target) -> None:
    """The check names a file or folder that may not be written."""
    target.load(table(1), APPEND)
    target.path.chmod(0o400)
    sink = target.sink(APPEND)
    with closing(sink):
        assert [f.ok for f in sink.check() if f.name == "write access"] == [False]


def test_check_speaks_of_the_tables_of_a_stream_and_of_none_named_by_its_pattern(target: Target) -> None:
    """Which tables there are is known when their changes come; none is called after the pattern."""
    with closing(replace(target, table="l_{table}").sink(APPEND)) as sink:
        assert [f.found for f in sink.check() if f.name == "target"] == ["l_{table}, for each table of the stream"]


def test_check_creates_nothing(target: Target) -> None:
    """A check of a database that is not there yet is fine and leaves no file."""
    sink = target.sink(APPEND)
    with closing(sink):
        assert all(f.ok for f in sink.check())
        assert (sink.schema(), sink.is_empty()) == (None, True)
    assert not target.path.exists()


def test_the_journal_mode_stays(target: Target) -> None:
    """The sink leaves the database's journal mode as it is."""
    target.run("PRAGMA journal_mode=wal")
    target.load(table(1), FULL)
    assert target.query("PRAGMA journal_mode") == [("wal",)]


def test_lineage_time_is_the_start_of_the_load(target: Target) -> None:
    """The load time of a row is when its load began, in UTC."""
    target.load(table(1), APPEND)
    assert target.rows("__dpone__loaded_at") == [(START.strftime("%Y-%m-%d %H:%M:%S.%f") + "+00:00",)]


@pytest.mark.parametrize("lineage", [True, False])
def test_a_merge_of_key_columns_alone_counts_what_was_there(target: Target, lineage: bool) -> None:
    """Where a row is nothing but its key, known keys count as unchanged and keep their lineage."""
    target.load(table(1, 2).select(["id"]), MERGE, lineage=Lineage(lineage))
    before = target.rows()
    receipt = target.load(table(2, 3).select(["id"]), MERGE, lineage=Lineage(lineage))
    assert (receipt.inserted, receipt.updated, receipt.unchanged) == (1, 0, 1)
    assert target.rows()[:2] == before
    assert [row[0] for row in target.rows()] == [1, 2, 3]


@pytest.mark.parametrize(("name", "overwritten"), [("__dpone__stage_1", False), (f"{IMAGES}1", True)])
def test_what_left_the_target_is_overwritten(target: Target, name: str, overwritten: bool) -> None:
    """Where SQLite overwrites what is deleted, it does so with rows that a load has replaced, once they are dropped. A
    staging, whose rows are in the target, is dropped at no such cost; what is deleted later is overwritten again."""
    target.load(table(1), MERGE)
    with closing(target.sink(MERGE)) as sink:
        db = sink._db
        db.rows("PRAGMA secure_delete=ON")
        db.execute(f"CREATE TABLE {name} (v)")
        db.execute(f"INSERT INTO {name} SELECT hex(randomblob(9000)) || 'canary' FROM __dpone__loads")
        with transaction(db, KEY):
            Staging(db, Name(("orders",))).drop(Stage(Name((name,)), "", "", START, False))
        assert db.rows("PRAGMA secure_delete") == [(1,)]
        assert name not in target.tables()
    assert (b"canary" not in target.path.read_bytes()) == overwritten


@pytest.mark.parametrize("kind", ["create", "add"])
def test_what_the_database_cannot_make_is_changed_in_tables_and_columns(
    target: Target, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Whether a table is made or a column is added: its type is one that a connector says its database has."""
    monkeypatch.setattr(
        SqliteSink, "_makeable", lambda self, schema: pa.schema([(n, pa.string()) for n in schema.names])
    )
    change = SchemaChange(kind, "x", after=pa.field("x", pa.int64()), schema=pa.schema([("x", pa.int64())]))
    with closing(target.sink(APPEND)) as sink:
        [made] = sink.ddl([change])
    assert '"x" TEXT' in made


def test_the_target_is_announced_before_its_rows_change(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Database.writes`` is called once in the transaction of each commit, and before any statement that writes the
    target."""
    did: list[str] = []
    execute = SqliteDatabase.execute

    def executed(self: SqliteDatabase, sql: str, parameters: Any = ()) -> int:
        did.append("BEGIN" if sql.startswith("BEGIN") else "write" if 'INTO "orders"' in sql else sql)
        return execute(self, sql, parameters)

    monkeypatch.setattr(SqliteDatabase, "execute", executed)
    monkeypatch.setattr(SqliteDatabase, "writes", lambda self, name: did.append(f"writes {name}"))
    target.run("CREATE TABLE orders (id bigint)", "INSERT INTO orders VALUES (0)")  # not empty, so nothing is swapped
    target.load(pa.table({"id": [1]}), Strategy("append"), lineage=Lineage(False), adopt_existing=True)
    assert did.count("writes orders") == 1
    announced = did.index("writes orders")
    before = did[:announced]
    assert "write" not in before
    assert "write" in did[announced:]
    assert [sql for sql in before if sql in ("BEGIN", "COMMIT")][-1] == "BEGIN"
