"""Undo on a SQL target: what a load keeps, and that the target is as before once it is taken back."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from attrs import evolve as replace
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sql.stream import Change, deliver
from tests.sql.test_cdc_apply import INDEXED, TWO, before, drawn, policies
from tests.sqlite.target import KEY, MEMORY, START, Target, at, evolve, load, rows

from dpone.contract import Part, Receipt, UndoRecord
from dpone.errors import ConfigError, Conflict, DataError, SinkError, UndoRefused
from dpone.model.ids import ulid
from dpone.model.pipeline import (
    Lineage,
    SchemaEvolution,
    SinkOptions,
    Undo,
)
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql import fold
from dpone.sql.undo import Images

SCHEMA = pa.schema([("id", pa.int64()), ("region", pa.string()), ("amount", pa.float64())])
STRATEGIES = {
    "full_refresh": Strategy("full_refresh"),
    "full_refresh keyed": Strategy("full_refresh", key="id"),
    "append": Strategy("append"),
    "merge": Strategy("merge", key="id"),
    "replace": Strategy("replace", where={"region": "a"}),
    "partition_replace": Strategy("partition_replace", partition="region"),
    "window": Strategy("partition_replace", partition="id", where={"id": {"from": 0, "to": 4}}),
    "snapshot_diff": Strategy("snapshot_diff", key="id", max_delete_share=1.0),
    "scd2": Strategy("scd2", key="id"),
    "scd2 close": Strategy("scd2", key="id", deletes="close", max_delete_share=1.0),
}
MERGE, FULL, APPEND, SCD2 = (STRATEGIES[n] for n in ("merge", "full_refresh", "append", "scd2"))
ON = {"undo": Undo(loads=10)}
ORDERS = r"(\w+\.)?orders"  # some servers' tables have a schema
Row = tuple[Any, ...]


def table(*given: Row, schema: pa.Schema = SCHEMA) -> pa.Table:
    columns = list(zip(*given, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)


def undo(target: Target, load_id: str, strategy: Strategy, key: str = KEY) -> Receipt:
    with closing(target.sink(strategy, **ON)) as sink:
        plan = sink.undo_plan(key, load_id)
        position = (plan.position or at(-1)).at_epoch(9)
        return sink.undo(load(None, strategy, key=key), load_id, sink.journal(key), position)


def images(target: Target) -> set[str]:
    return {name for name in target.tables() if name.startswith("__dpone__undo_")}


def kept(target: Target, load_id: str) -> tuple[UndoRecord, ...]:
    """The journal's word, read without dpone's journal."""
    [text] = [kept for one, kept in target.query("SELECT load_id, kept FROM __dpone__loads") if one == load_id]
    return tuple(UndoRecord(**one) for one in json.loads(text or "[]"))


# ---- each strategy


region = st.sampled_from([None, "", "a", "A", "b"])
row = st.tuples(st.integers(-2, 5), region, st.one_of(st.none(), st.sampled_from([0.0, 1.5, -0.0])))
batch = st.lists(row, max_size=8, unique_by=lambda r: r[0])
OWN = [
    'CREATE TABLE orders (id INT, region VARCHAR(9) COLLATE NOCASE, amount DOUBLE, "odd ""one" INT DEFAULT 7)',
    "CREATE INDEX i ON orders (id)",
]


def fitting(mode: str, given: list[Row]) -> list[Row]:
    if mode == "replace":
        return [(r[0], "a", r[2]) for r in given]
    return [r for r in given if 0 <= r[0] < 4] if mode == "window" else given


def test_OUT_16_a_column_of_lineage_that_went_under_way_is_made_by_the_next_load(target: Target) -> None:
    """What is kept are the rows that bear the id of another load: without the column nothing is, and nothing changes;
    the same load again, as the message says, is green and can be taken back."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="FIRST", **ON)
    with closing(target.sink(MERGE, **ON)) as sink:
        evolve(sink, SCHEMA, MERGE)
        writer = sink.open(load(SCHEMA, MERGE))
        writer.stage(Part("all"), rows(table((1, "a", 2.0))))
        target.run(f'ALTER TABLE "{target.table}" DROP COLUMN __dpone__load_id')
        with pytest.raises(SinkError, match=r"no column __dpone__load_id, which it had .*; run again, which adds "):
            writer.commit(sink.journal(KEY), at(1))
        writer.abort()
    assert target.rows("id, region, amount") == [(1, "a", 1.0)]
    target.load(table((1, "a", 2.0)), MERGE, n=1, load_id="SECOND", **ON)
    assert target.rows("id, region, amount, __dpone__load_id") == [(1, "a", 2.0, "SECOND")]
    undo(target, "SECOND", MERGE)
    assert target.rows("id, region, amount") == [(1, "a", 1.0)]


@settings(max_examples=8)
@given(st.lists(batch, min_size=2, max_size=4), st.booleans(), st.data())
@pytest.mark.parametrize("mode", STRATEGIES)
def test_a_load_that_is_taken_back_was_never_there(
    mode: str, loads: list[list[Row]], own: bool, data: st.DataObject
) -> None:
    """Load A, B, C...; taken back one after the other, the table is byte by byte what it was, lineage included; loaded
    again it is what it had been."""
    strategy = STRATEGIES[mode]
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        options: dict[str, Any] = {**ON, "schema_evolution": SchemaEvolution(on_missing_column="ignore")}
        if own and "scd2" not in mode:  # somebody else's table is not swapped
            target.run(*OWN)
            target.load(table(*data.draw(batch)), APPEND, **options)
        else:
            target.load(table(*fitting(mode, data.draw(batch))), strategy, **options)
        stood, ids, counts = [target.content()], [], []
        for n, new in enumerate(loads):
            receipt = target.load(
                table(*fitting(mode, new)), strategy, n=n, started=START + timedelta(hours=n), **options
            )
            ids.append(receipt.entry.load_id)
            counts.append(receipt.inserted + receipt.updated + receipt.deleted)
            stood.append(target.content())
        changed = [n for n, count in enumerate(counts) if count]
        for n in reversed(changed):
            undone = undo(target, ids[n], strategy)
            assert target.content() == stood[n]
            assert (undone.entry.undoes, undone.entry.epoch) == (ids[n], 9)
        if changed:
            n = changed[0]
            again = fitting(mode, loads[n])
            target.load(table(*again), strategy, load_id=ids[n], started=START + timedelta(hours=n), **options)
            assert target.content() == stood[n + 1]


@pytest.mark.parametrize("indexed", [False, True], ids=["swap", "in place"])
def test_a_generation_is_the_table_itself_where_it_may_be(target: Target, indexed: bool) -> None:
    """A full refresh that swaps keeps the old table by its name, one that may not swap keeps a copy; indexes stay."""
    target.load(table((1, "a", 1.0)), FULL, **ON)
    if indexed:
        target.run("CREATE INDEX mine ON orders (region)")
    before, table_then = target.dump(), target.identity("orders")
    b = target.load(table((2, "b", 2.0), (3, "c", 3.0)), FULL, load_id="B", **ON)
    assert (target.identity("__dpone__undo_B") == table_then) is not indexed
    assert kept(target, "B")[0].kind == "generation"
    assert b.deleted == 1
    undone = undo(target, "B", FULL)
    assert (undone.inserted, undone.deleted) == (1, 2)
    mine = [line for line in before if "orders" in line and "__dpone__" not in line.split("(")[0]]
    assert [line for line in target.dump() if "orders" in line and "__dpone__" not in line.split("(")[0]] == mine
    assert "__dpone__undo_B" not in images(target)


def test_a_table_stays_plain(target: Target) -> None:
    """After load and undo a full refresh still swaps: nothing was left on the table."""
    for n in range(2):
        target.load(table((n, "a", 1.0)), FULL, load_id=f"L{n}", **ON)
    undo(target, "L1", FULL)
    target.load(table((5, "a", 1.0)), FULL, load_id="L2", **ON)
    with closing(target.sink(FULL)) as sink:
        assert sink._db.is_swappable(sink._target, ())
        assert sink._db.is_swappable(sink._target.sibling("__dpone__undo_L2"), ())


def test_only_what_changes_is_kept(target: Target) -> None:
    """A merge keeps the rows it changes, not those it finds equal or inserts; an append needs no table at all."""
    target.load(table(*((i, "a", 1.0) for i in range(100))), MERGE, load_id="A", **ON)
    assert kept(target, "A")[0].kind == "added"
    target.load(table(*((i, "b" if i < 7 else "a", 1.0) for i in range(200))), MERGE, load_id="B", **ON)
    assert target.query('SELECT id FROM "__dpone__undo_B" ORDER BY 1') == [(i,) for i in range(7)]
    assert kept(target, "B")[0].rows == 7
    target.load(table((999, "a", 1.0)), APPEND, load_id="C", **ON)
    assert kept(target, "C")[0].kind == "added"
    assert images(target) == {"__dpone__undo_B"}


def test_off_keeps_nothing(target: Target) -> None:
    """Without the option there is no table of dpone's beyond those of a load, and the load cannot be taken back."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A")
    target.load(table((1, "b", 1.0)), MERGE, load_id="B")
    assert {"orders", "__dpone__loads", "__dpone__staging", "__dpone__parts"} == target.tables() - {"__dpone__added"}
    with pytest.raises(UndoRefused, match="nothing was kept for an undo"):
        undo(target, "B", MERGE)


def test_a_chunked_load_keeps_the_first_image(target: Target) -> None:
    """A row that one load changes, deletes and inserts again in several statements has one image: that from before."""
    target.load(table((1, "old", 1.0), (2, "old", 1.0), (3, "old", 1.0)), MERGE, load_id="A", **ON)
    before = target.content()
    with closing(target.sink(MERGE)) as sink:
        db, name, d = sink._db, sink._target, sink.dialect
        schema = db.schema(name)
        assert schema is not None
        some, orders = Images(db, name, "B", schema), d.name(name)
        some.create()
        db.begin("x")
        for text in ("one", "two"):
            some.keep(f"t.id = {d.placeholder}", (1,))
            db.execute(f"UPDATE {orders} SET region = '{text}', __dpone__load_id = 'B' WHERE id = 1")
        some.keep("t.id IN (1, 2)")
        db.execute(f"DELETE FROM {orders} WHERE id IN (1, 2)")
        db.execute(f"INSERT INTO {orders} (id, region, __dpone__load_id) VALUES (2, 'again', 'B'), (4, 'new', 'B')")
        some.keep("t.id IN (2, 4)")
        db.execute(f"DELETE FROM {orders} WHERE id = 4")
        assert some.kept(None, "A").rows == 2
        db.commit()
    target.run("DELETE FROM orders WHERE __dpone__load_id = 'B'")
    target.run('INSERT INTO orders SELECT * FROM "__dpone__undo_B"')
    assert target.content() == before


# ---- what is refused


def test_only_the_newest_load_is_taken_back(target: Target) -> None:
    """An older load, an undone one, an undo, an unknown one: each refused by name, and nothing is changed."""
    for name in "ABC":
        target.load(table((1, name, 1.0)), MERGE, load_id=name, **ON)
    done = undo(target, "C", MERGE).entry.load_id
    dump = target.dump()
    for load_id, found in {
        "A": f"load B has changed {ORDERS} since",
        "C": f"it was already undone by load {done}",
        done: "it is itself the undo of load C",
        "D": "the journal of this stream does not have it",
    }.items():
        with pytest.raises(UndoRefused, match=found):
            undo(target, load_id, MERGE)
    assert target.dump() == dump
    undo(target, "B", MERGE)
    undo(target, "A", MERGE)
    assert target.rows() == []


def test_a_name_the_server_takes_for_the_same_table_is_the_same(target: Target) -> None:
    """Another spelling of the target is no other target."""
    require_in_the_way(target, ON, "ORDERS")


@pytest.mark.parametrize("on", [{}, ON], ids=["without undo", "with undo"])
def test_a_later_load_of_another_stream_is_in_the_way(target: Target, on: dict[str, Any]) -> None:
    """Its rows may depend on those of the load before: that one is refused until the later one is taken back."""
    require_in_the_way(target, on, "orders")


def require_in_the_way(target: Target, on: dict[str, Any], name: str) -> None:
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    with closing(replace(target, table=name).sink(MERGE, **on)) as sink:
        writer = sink.open(load(SCHEMA, MERGE, key="other", load_id="C"))
        writer.stage(Part("all"), rows(table((2, "c", 1.0))))
        writer.commit(None, at(1))
    with pytest.raises(UndoRefused, match=f"load C has changed {ORDERS} since"):
        undo(target, "B", MERGE)
    if on:
        undo(replace(target, table=name), "C", MERGE, key="other")
        undo(target, "B", MERGE)
        assert target.rows("id, region") == [(1, "a")]


def test_a_load_of_nothing_is_not_in_the_way(target: Target) -> None:
    """Later loads that changed no row of the target leave the last one that did to be taken back."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", n=7, **ON)
    target.load(table((1, "b", 1.0)), MERGE, load_id="C", n=8, **ON)
    target.load(table(), MERGE, load_id="D", n=9, **ON)
    with pytest.raises(UndoRefused, match="nothing was kept for an undo: it changed no row"):
        undo(target, "C", MERGE)
    assert undo(target, "B", MERGE).entry.position.value == {"n": 0}
    assert target.rows("id, region") == [(1, "a")]


@pytest.mark.parametrize(
    ("mode", "change", "found"),
    [
        ("merge", "DELETE FROM orders WHERE id = 2", f"of 2 rows that it wrote to {ORDERS}, 1 remain"),
        (
            "append",
            "UPDATE orders SET __dpone__load_id = 'X' WHERE id = 2",
            f"of 2 rows that it wrote to {ORDERS}, 1 remain",
        ),
        ("full_refresh", "INSERT INTO orders (id) VALUES (9)", f"{ORDERS} has 1 row that it did not write"),
        ("full_refresh", "DELETE FROM orders WHERE id = 2", f"of 2 rows that it wrote to {ORDERS}, 1 remain"),
        ("scd2", "DELETE FROM orders WHERE region = 'a'", f"of 1 row that it changed, 0 remain in {ORDERS}"),
        ("merge", 'DROP TABLE "__dpone__undo_B"', "__dpone__undo_B with the replaced rows is missing"),
        ("merge", 'DELETE FROM "__dpone__undo_B"', "__dpone__undo_B has 0 rows, the journal says 1"),
        ("merge", "ALTER TABLE orders DROP COLUMN amount", f"column amount of {ORDERS} was double and is now missing"),
        ("merge", "ALTER TABLE orders ADD COLUMN x INT NOT NULL DEFAULT 1", f"column x of {ORDERS} was added later"),
    ],
)
def test_what_others_changed_is_not_overwritten(target: Target, mode: str, change: str, found: str) -> None:
    """Rows, columns or images that another program changed since: refused by name, and not a byte is changed."""
    strategy = STRATEGIES[mode]
    target.load(table((1, "a", 1.0)), strategy, load_id="A", **ON)
    target.load(table((1, "b", 1.0), (2, "b", 1.0)), strategy, load_id="B", started=START + timedelta(1), **ON)
    target.run(change)
    dump = target.dump()
    with pytest.raises(UndoRefused, match=found):
        undo(target, "B", strategy)
    assert target.dump() == dump


def test_rows_that_others_delete_with_it_are_safe(target: Target) -> None:
    """Where another table refers to the target with an ON DELETE action, nothing is taken back."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    target.run("CREATE TABLE items (of INT REFERENCES orders (id) ON DELETE CASCADE)", "INSERT INTO items VALUES (1)")
    with pytest.raises(SinkError, match=r"items references it with an ON DELETE action"):
        undo(target, "B", MERGE)
    assert target.query("SELECT of FROM items") == [(1,)]


def test_a_runner_that_was_faster_wins(target: Target) -> None:
    """The undo is fenced by the journal's head: another entry since it looked is a Conflict, and nothing is written."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    with closing(target.sink(MERGE, **ON)) as sink:
        head = sink.journal(KEY)
        target.load(table(), MERGE, load_id="C", **ON)
        dump = target.dump()
        with pytest.raises(Conflict):
            sink.undo(load(None, MERGE), "B", head, at(0, 1))
    assert target.dump() == dump


# ---- schema


def test_columns_that_the_load_brought_stay(target: Target) -> None:
    """The load's own column is there after its undo and is NULL in the rows put back; older loads go back too."""
    target.load(table((1, "a", 1.0), (2, "a", 1.0)), FULL, load_id="A", **ON)
    target.load(table((3, "a", 1.0)), FULL, load_id="B", **ON)
    wide = table((1, "b", 2.0, "x"), schema=SCHEMA.append(pa.field("more", pa.string())))
    target.load(wide, FULL, load_id="C", **ON)
    undo(target, "C", FULL)
    assert target.rows("id, more") == [(3, None)]
    undo(target, "B", FULL)
    assert target.rows("id, more") == [(1, None), (2, None)]


def test_a_column_that_a_load_of_versions_brought(target: Target) -> None:
    """scd2 fills a new column into current versions; taken back they are as before, and loaded again filled again."""
    target.load(table((1, "a", 1.0)), SCD2, load_id="A", **ON)
    wide = table((1, "a", 1.0, "x"), schema=SCHEMA.append(pa.field("more", pa.string())))
    for _ in range(2):
        target.load(wide, SCD2, load_id="B", started=START + timedelta(1), **ON)
        assert target.rows("id, more, __dpone__load_id") == [(1, "x", "A")]
        if not target.query("SELECT 1 FROM __dpone__loads WHERE undoes = 'B'"):
            undo(target, "B", SCD2)
            assert target.rows("id, more, __dpone__load_id") == [(1, None, "A")]
            target.run("UPDATE __dpone__loads SET load_id = 'B0' WHERE load_id = 'B'")


# ---- retention


@pytest.mark.parametrize("loads", [1, 2, 3])
def test_the_newest_loads_are_kept(target: Target, loads: int) -> None:
    """After every load exactly the newest so many are kept; a load that changed nothing counts for none."""
    option = {"undo": Undo(loads=loads)}
    for n in range(6):
        target.load(table((1, str(n), 1.0)), MERGE, load_id=f"L{n}", **option)
        target.load(table((1, str(n), 1.0)), MERGE, **option)
        wanted = range(max(n - loads + 1, 0), n + 1)
        assert images(target) == {f"__dpone__undo_L{i}" for i in wanted if i}
        assert [bool(kept(target, f"L{i}")) for i in range(n + 1)] == [i in wanted for i in range(n + 1)]


def test_what_is_old_goes_with_the_next_load(target: Target) -> None:
    """With days, loads that were committed longer ago go with the next load, and no other."""
    option = {"undo": Undo(days=7)}
    for n in range(4):
        target.load(table((1, str(n), 1.0)), MERGE, load_id=f"L{n}", **option)
    for n, days in ((1, 8), (2, 6.9)):
        then = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
        target.run(f"UPDATE __dpone__loads SET committed_at = '{then}' WHERE load_id = 'L{n}'")
    target.load(table((1, "x", 1.0)), MERGE, load_id="L4", **option)
    assert images(target) == {"__dpone__undo_L2", "__dpone__undo_L3", "__dpone__undo_L4"}


def test_the_last_load_is_kept_however_old_it_is(target: Target) -> None:
    """A load that changes nothing does not take away what the last one that did has kept."""
    option = {"undo": Undo(days=1)}
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **option)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **option)
    target.run("UPDATE __dpone__loads SET committed_at = '2020-01-01T00:00:00.000000+00:00'")
    target.load(table((1, "b", 1.0)), MERGE, load_id="C", **option)
    assert images(target) == {"__dpone__undo_B"}
    undo(target, "B", MERGE)
    assert target.rows("region") == [("a",)]


def test_the_sweep_drops_only_its_own(target: Target) -> None:
    """Tables that look alike, those of another stream, and a name that a journal was made to say, are left alone."""
    target.run("CREATE TABLE __dpone__undo_mine (x INT)", "CREATE TABLE precious (x INT)")
    with closing(target.sink(MERGE, **ON)) as sink:
        evolve(sink, SCHEMA, MERGE)
        for name, text in (("T1", "a"), ("T2", "b")):
            writer = sink.open(load(SCHEMA, MERGE, key="theirs", load_id=name))
            writer.stage(Part("all"), rows(table((9, text, 1.0))))
            writer.commit(sink.journal("theirs"), at())
    one = {"undo": Undo(loads=1)}
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **one)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **one)
    target.run("""UPDATE __dpone__loads SET kept = replace(kept, '__dpone__undo_B', 'precious')""")
    target.load(table((1, "c", 1.0)), MERGE, load_id="C", **one)
    assert {"precious", "__dpone__undo_mine", "__dpone__undo_T2"} <= target.tables()


# ---- journal, options


def test_a_row_that_came_between_look_and_delete_stops_the_undo(target: Target) -> None:
    """On a server that cannot keep new rows out of a table that is held, the rows deleted are counted."""
    target.load(table((1, "a", 1.0)), FULL, **ON)
    target.run("CREATE INDEX mine ON orders (region)")  # so that it is emptied and filled, not swapped
    target.load(table((2, "b", 2.0)), FULL, load_id="B", **ON)
    before = target.content()
    with closing(target.sink(FULL, **ON)) as sink:
        clear, head = sink._db.clear, sink.journal(KEY)

        def cleared(name: Name) -> int:
            sink._db.execute(f"INSERT INTO {sink.dialect.name(name)} (id) VALUES (9)")
            return clear(name)

        with (
            patch.object(sink._db, "clear", cleared),
            pytest.raises(UndoRefused, match=r"got 1 row during the undo: another program has"),
        ):
            sink.undo(load(None, FULL), "B", head, at(0, epoch=9))
        assert sink.journal(KEY) == head
    assert target.content() == before


def test_an_old_journal_gets_the_new_columns(target: Target) -> None:
    """A journal without the columns of undo is read as it is, and has them after the next load."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A")
    for column in ("kept", "undoes"):
        target.run(f"ALTER TABLE __dpone__loads DROP COLUMN {column}")
    with closing(target.sink(MERGE, **ON)) as sink:
        head = sink.journal(KEY)
        assert head is not None
        assert (head.load_id, head.kept, head.undoes) == ("A", (), "")
        with pytest.raises(UndoRefused, match="nothing was kept for an undo"):
            sink.undo_plan(KEY, "A")
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    undo(target, "B", MERGE)
    assert target.rows("region") == [("a",)]


def test_what_the_journal_says_comes_back(target: Target) -> None:
    """What a commit kept is the same in its receipt and in the journal that is read later."""
    target.load(table((1, "a", 1.0)), SCD2, load_id="A", **ON)
    receipt = target.load(table((1, "b", 1.0)), SCD2, load_id="B", started=START + timedelta(1), **ON)
    with closing(target.sink(SCD2)) as sink:
        assert sink.journal(KEY) == receipt.entry
    [one] = receipt.entry.kept
    assert Name.parse(one.target).last == "orders"
    assert (one.kind, one.rows, one.written, one.previous) == ("before_images", 1, 1, "A")
    assert one.key == ("id", "__dpone__valid_from")


def test_options_that_cannot_be_are_refused() -> None:
    """undo without a retention, with one below one, or without lineage is an error of the pipeline file."""
    with pytest.raises(ConfigError, match="neither loads nor days"):
        Undo()
    with pytest.raises(ValueError, match="loads"):
        Undo(loads=0)
    with pytest.raises(ConfigError, match="lineage is off"):
        SinkOptions(lineage=Lineage(False), undo=Undo(loads=1))


def test_values_come_back_to_the_bit(target: Target) -> None:
    """Values that SQLite keeps in columns of other declared types are not changed by the way through an image."""
    target.load(table((1, "a", 1.0), (2, "a", 1.0)), MERGE, load_id="A", **ON)
    types = ("FLEXIBLE", "DECIMAL(10,2)", "DATE", "BOOLEAN", "VARCHAR(3)", "")
    for n, type_ in enumerate(types):
        target.run(f"ALTER TABLE orders ADD COLUMN c{n} {type_}")
    for id_, value in ((1, "0.1 + 0.2"), (2, "x'00ff'")):
        target.run(f"UPDATE orders SET {', '.join(f'c{n} = {value}' for n in range(len(types)))} WHERE id = {id_}")
    before = target.content()
    ignore = SchemaEvolution(on_missing_column="ignore")
    target.load(table((1, "b", 1.0), (2, "b", 1.0)), MERGE, load_id="B", schema_evolution=ignore, **ON)
    undo(target, "B", MERGE)
    assert target.content() == before


def test_a_row_that_two_keys_meet_is_not_kept_twice(target: Target) -> None:
    """Under a collation that takes two staged keys for one, images would not tell what was there: the load fails."""
    target.run("CREATE TABLE orders (id INT, region TEXT COLLATE NOCASE, amount DOUBLE)")
    strategy = Strategy("merge", key="region")
    target.load(table((1, "x", 1.0)), strategy, **ON)
    dump = target.dump()
    with pytest.raises(SinkError, match="the load replaces 1 row, but 2 were kept"):
        target.load(table((2, "x", 1.0), (3, "X", 1.0)), strategy, **ON)
    assert target.dump() == dump


def test_a_failed_load_keeps_nothing(target: Target) -> None:
    """A commit that fails after the images were taken leaves no table and no line."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.run("CREATE TRIGGER no BEFORE INSERT ON __dpone__loads BEGIN SELECT RAISE(ABORT, 'no'); END")
    dump = target.dump()
    with pytest.raises(DataError, match="no"):
        target.load(table((1, "b", 1.0)), MERGE, load_id=ulid(), **ON)
    assert target.dump() == dump


# ---- change streams


@settings(max_examples=60, deadline=None)
@given(before, st.lists(drawn((), (), ("x",), ("y",)), max_size=12), policies, st.integers(1, 13), st.booleans())
def test_applied_changes_that_are_taken_back_were_never_there(
    have: list[Any], changes: list[Change], strategy: Strategy, chunk: int, own: bool
) -> None:
    """A window of cdc_apply, taken back, leaves the table byte by byte what it was, however many chunks met a row."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, patch.object(fold, "ROWS", chunk):
        target = Target(Path(folder) / "t.db")
        if not own:
            target.run(*INDEXED)
        first = [Change("insert", (*k, *v)) for k, v in have]
        deliver(target, TWO, first, strategy, **ON)
        stood = target.content()
        with suppress(DataError):
            receipt = deliver(target, TWO, changes, strategy, started=START + timedelta(hours=1), **ON)
            if receipt.inserted + receipt.updated + receipt.deleted:
                undo(target, receipt.entry.load_id, strategy)
        assert target.content() == stood
