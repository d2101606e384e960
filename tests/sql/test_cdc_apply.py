"""cdc_apply against a Python model that applies changes one by one to a dict, and every rule by name."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sql.stream import Change, batches, deliver, when
from tests.sqlite.target import KEY, MEMORY, START, Target, at, evolve, load

from dpone.contract import Part, Receipt
from dpone.errors import ConfigError, DataError, DeletesRefused, SchemaBreak
from dpone.model.changes import ChangeTable
from dpone.model.pipeline import Lineage
from dpone.model.strategy import Strategy
from dpone.sql import fold

PLAIN = Lineage(False)
ORDERS = ChangeTable(pa.schema([("id", pa.int64()), ("x", pa.string()), ("y", pa.int64())]), ("id",))
HARD = Strategy("cdc_apply", key="id")
SOFT = Strategy("cdc_apply", key="id", deletes="soft")
IGNORE = Strategy("cdc_apply", key="id", deletes="ignore")
BIG = "9" * 9000


def insert(id_: Any, x: Any = None, y: Any = None, left: tuple[str, ...] = ()) -> Change:
    return Change("insert", (id_, x, y), None, left)


def update(id_: Any, x: Any = None, y: Any = None, left: tuple[str, ...] = (), met: Any = None) -> Change:
    return Change("update", (id_, x, y), (id_ if met is None else met,), left)


def delete(id_: Any, timed: bool = True) -> Change:
    return Change("delete", None, (id_,), (), timed)


TRUNCATE = Change("truncate")


def rows(target: Target, columns: str = "id, x, y") -> list[Any]:
    return target.rows(columns, "id")


def counts(receipt: Receipt) -> tuple[int, int, int, int]:
    return receipt.inserted, receipt.updated, receipt.deleted, receipt.unchanged


def text(n: int) -> str:
    return when(n).isoformat(" ", "microseconds")


@pytest.fixture(params=[200_000, 1, 2], ids=["one chunk", "a chunk a change", "two a chunk"])
def chunked(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """The rule holds wherever a chunk ends."""
    monkeypatch.setattr(fold, "ROWS", request.param)
    return int(request.param)


# ---- the model


UNKNOWN: Any = object()


@define
class Row:
    values: dict[str, Any]
    deleted: Any = None
    moved: bool = False

    @property
    def unknown(self) -> bool:
        return UNKNOWN in self.values.values()


@define
class Model:
    """What cdc_apply is meant to do, one change after another. A value that nobody gave is UNKNOWN."""

    strategy: Strategy
    names: tuple[str, ...]
    rows: dict[Any, Row] = field(factory=dict)
    doubt: bool = False
    failed: bool = False

    def apply(self, n: int, change: Change) -> None:
        at = when(n) if change.timed else START
        if change.op == "truncate":
            self.truncate(at)
        elif change.op == "delete":
            self.delete(change.met, at)
        else:
            self.write(change, at)

    def write(self, change: Change, at: Any) -> None:
        values = dict(zip(self.names, change.values or (), strict=True))
        width = len(self.strategy.key)
        key = tuple(change.values or ())[:width]
        met = self.rows.get(key if change.op == "insert" else change.met)
        if change.op == "insert" and (met is None or met.deleted):
            met = Row(dict.fromkeys(self.names))
        for name in change.left:
            values[name] = UNKNOWN if met is None else met.values[name]
        if change.op == "update" and change.met != key:
            self.delete(change.met, at)
        moved = change.op == "update" and (change.met != key or (met is not None and met.moved))
        self.rows[key] = Row(values, moved=moved)
        self.doubt = self.doubt or self.rows[key].unknown

    def delete(self, key: Any, at: Any) -> None:
        if self.strategy.deletes in (None, "hard"):
            self.rows.pop(key, None)
        elif self.strategy.deletes == "soft" and key in self.rows:
            self.rows[key].deleted = at

    def truncate(self, at: Any) -> None:
        if self.strategy.truncate == "ignore":
            return
        if self.strategy.deletes == "soft":
            self.settle()
            for row in self.rows.values():
                row.deleted = row.deleted or at
        else:
            self.rows.clear()

    def settle(self) -> None:
        """Where a chunk ends: a row of which something is unknown must not be, unless it is deleted anyway."""
        self.rows = {k: r for k, r in self.rows.items() if not (r.deleted and r.unknown and not r.moved)}
        self.failed = self.failed or any(r.unknown for r in self.rows.values())

    def dump(self) -> list[Any]:
        def said(row: Row) -> Any:
            return row.deleted and row.deleted.isoformat(" ", "microseconds")

        return sorted(((*r.values.values(), said(r)) for r in self.rows.values()), key=repr)


TWO = ChangeTable(
    pa.schema([("a", pa.string()), ("b", pa.string()), ("x", pa.string()), ("y", pa.int64())]), ("a", "b")
)
KEYS = [("a", "bc"), ("ab", "c"), ("A", "bc")]  # which a careless concatenation would confuse
keys = st.sampled_from(KEYS)
values = st.tuples(st.sampled_from([None, "", "a", "A"]), st.sampled_from([None, 0, 1]))


def drawn(*lefts: tuple[str, ...]) -> st.SearchStrategy[Change]:
    left, timed = st.sampled_from(lefts), st.booleans()
    same = st.builds(lambda k, v, left, t: Change("update", (*k, *v), k, left, t), keys, values, left, timed)
    moved = st.builds(lambda o, k, v, left, t: Change("update", (*k, *v), o, left, t), keys, keys, values, left, timed)
    return st.one_of(
        st.builds(lambda k, v, left, t: Change("insert", (*k, *v), None, left, t), keys, values, left, timed),
        same,
        moved,
        st.builds(lambda k, t: Change("delete", None, k, (), t), keys, timed),
        st.just(TRUNCATE) if lefts else st.nothing(),
    )


any_change = drawn((), (), ("x",), ("y",), ("x", "y"))
policies = st.sampled_from(
    [
        Strategy("cdc_apply", key=TWO.key, truncate="apply"),
        Strategy("cdc_apply", key=TWO.key, truncate="ignore"),
        Strategy("cdc_apply", key=TWO.key, deletes="soft", truncate="apply"),
        Strategy("cdc_apply", key=TWO.key, deletes="ignore", truncate="ignore"),
    ]
)
before = st.lists(st.tuples(keys, values), max_size=4, unique_by=lambda r: r[0])
INDEXED = ("CREATE TABLE orders (a TEXT, b TEXT, x TEXT, y BIGINT)", "CREATE INDEX i ON orders (y)")


def prepare(target: Target, have: Sequence[Any], strategy: Strategy, *, own: bool) -> Model:
    """Rows that are there already; own: in a table of dpone with its primary key, else in somebody's without one."""
    if not own:
        target.run(*INDEXED)
    model = Model(strategy, tuple(TWO.values.names))
    first = [Change("insert", (*k, *v)) for k, v in have]
    deliver(target, TWO, first, strategy, lineage=PLAIN)
    for n, change in enumerate(first):
        model.apply(n, change)
    return model


def found(target: Target, strategy: Strategy) -> list[Any]:
    mark = "__dpone__deleted_at" if strategy.deletes == "soft" else "NULL"
    return sorted(target.rows(f"a, b, x, y, {mark}"), key=repr)


@settings(max_examples=120, deadline=None)
@given(
    before, st.lists(any_change, max_size=12), policies, st.integers(1, 13), st.lists(st.integers(1, 5)), st.booleans()
)
def test_LS_07_changes_are_those_of_the_model(
    have: list[Any], changes: list[Change], strategy: Strategy, chunk: int, sizes: list[int], own: bool
) -> None:
    """Any interleaving of changes, wherever batches and chunks end, leaves the rows that one change after another
    leaves; a value nobody knows is an error that changes nothing, never a NULL."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, patch.object(fold, "ROWS", chunk):
        target = Target(Path(folder) / "t.db")
        model = prepare(target, have, strategy, own=own)
        start = found(target, strategy)
        for n, change in enumerate(changes):
            model.apply(n, change)
        model.settle()
        try:
            deliver(target, TWO, changes, strategy, sizes=sizes, lineage=PLAIN)
        except DataError:
            assert model.failed or (model.doubt and chunk <= len(changes))
            assert found(target, strategy) == start
            assert not target.stages()
        else:
            assert not model.failed
            assert found(target, strategy) == model.dump()


@settings(max_examples=40, deadline=None)
@given(before, st.lists(drawn(()), max_size=12), policies, st.integers(1, 13))
def test_LS_07_a_window_twice_is_a_window_once(
    have: list[Any], changes: list[Change], strategy: Strategy, chunk: int
) -> None:
    """A window of complete images on top of its own result leaves the table as it is."""
    changes = [Change(c.op, c.values, c.met) for c in changes]
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, patch.object(fold, "ROWS", chunk):
        target = Target(Path(folder) / "t.db")
        prepare(target, have, strategy, own=True)
        deliver(target, TWO, changes, strategy, lineage=PLAIN)
        once = found(target, strategy)
        deliver(target, TWO, changes, strategy, lineage=PLAIN)
        assert found(target, strategy) == once


# ---- rules by name


@pytest.mark.usefixtures("chunked")
def test_LS_07_the_last_state_by_commit_counts(target: Target) -> None:
    """Insert, update and delete of one key in one window leave what the last of them leaves."""
    changes = [insert(1, "10", 1), insert(2, "a", 1), update(1, "100", 2), insert(3), update(2, "20", 3), delete(3)]
    deliver(target, ORDERS, changes, HARD)
    assert rows(target) == [(1, "100", 2), (2, "20", 3)]
    deliver(target, ORDERS, [update(1, "x", 9), delete(1), delete(2), insert(2, "back", 4)], HARD)
    assert rows(target) == [(2, "back", 4)]


def test_LS_07_changes_out_of_order_are_refused(target: Target) -> None:
    """A change that does not come after the one before it is an error, also across batches; nothing is written."""
    deliver(target, ORDERS, [insert(1, "a", 1)], HARD)
    dump = target.dump()
    good = batches(ORDERS, [update(1, "b"), update(1, "c"), update(1, "d"), update(1, "e")])
    whole = pa.Table.from_batches(good.data)
    for order in ([0, 1, 3, 2], [1, 0, 2, 3], [0, 0, 1, 2], [0, 3, 1, 2], [0, 1, 1, 2]):
        pieces = whole.take(order).combine_chunks().to_batches(max_chunksize=2)
        with closing(target.sink(HARD)) as sink:
            writer = sink.open(load(ORDERS.values, HARD, changes=True, whole=False))
            with pytest.raises(DataError, match="a change is out of order"):
                writer.stage(Part("orders"), type(good)(good.schema, pieces))
            writer.abort()
    assert target.dump() == dump


@pytest.mark.usefixtures("chunked")
def test_LS_07_a_delete_of_an_unknown_key_is_nothing(target: Target) -> None:
    """It neither inserts nor fails, whatever becomes of deletes."""
    for strategy in (HARD, IGNORE, SOFT):
        receipt = deliver(target, ORDERS, [insert(1, "a", 1), delete(7)], strategy)
        assert rows(target) == [(1, "a", 1)]
        assert receipt.deleted == 0


def test_LS_07_a_row_that_stays_is_known_or_an_error(target: Target) -> None:
    """Where deletes are ignored a row that moves away leaves one behind; what nobody gave of it is an error, too."""
    deliver(target, ORDERS, [insert(1, "a", 1)], IGNORE)
    away = update(8, "b", 2, met=7)
    deliver(target, ORDERS, [away], IGNORE)
    assert rows(target) == [(1, "a", 1), (8, "b", 2)]
    with pytest.raises(DataError):
        deliver(target, ORDERS, [update(7, None, 3, ("x",)), insert(7, None, 3, ("x",)), away], IGNORE)
    assert rows(target) == [(1, "a", 1), (8, "b", 2)]
    deliver(target, ORDERS, [update(1, None, 5, ("x",)), update(9, "c", 6, met=1)], IGNORE)
    assert rows(target) == [(1, "a", 5), (8, "b", 2), (9, "c", 6)]


@pytest.mark.parametrize("change", [insert(None, "a"), update(None, "a", met=1), Change("delete", None, (None,))])
def test_LS_07_a_null_key_is_refused(target: Target, change: Change) -> None:
    """A NULL in the key of a change is an error, and nothing is written."""
    deliver(target, ORDERS, [insert(1, "a", 1)], HARD)
    dump = target.dump()
    with pytest.raises(DataError, match="key column id is NULL in a change"):
        deliver(target, ORDERS, [insert(2), change], HARD)
    assert target.dump() == dump


def test_LS_07_the_key_is_one_that_the_log_knows(target: Target) -> None:
    """Rows that the log does not tell by the strategy's key are refused; by those that the message asks for it is
    loaded."""
    with pytest.raises(ConfigError, match=r"no __dpone__key.x; set strategy.key to columns that identify"):
        deliver(target, ORDERS, [insert(1, "a", 1)], Strategy("cdc_apply", key=("id", "x")))
    deliver(target, ORDERS, [insert(1, "a", 1)], Strategy("cdc_apply", key=("id",)))
    assert rows(target) == [(1, "a", 1)]


def test_rows_that_are_no_changes_are_refused(target: Target) -> None:
    """cdc_apply of plain rows is an error of the pipeline, not of the data."""
    with pytest.raises(ConfigError, match="the source delivers rows, not changes"):
        target.load(pa.table({"id": [1]}), HARD)


@pytest.mark.parametrize("strategy", [HARD, Strategy("scd2", key="id")], ids=["cdc_apply", "scd2"])
def test_a_chunk_of_deletes_is_not_completed(target: Target, strategy: Strategy) -> None:
    """No value is filled in and no new row is looked for: a statement for that would read the chunk for nothing."""
    if strategy is HARD:
        target.run("CREATE TABLE orders (id BIGINT PRIMARY KEY, x TEXT, y BIGINT DEFAULT 7)")
    deliver(target, ORDERS, [insert(1, "a", 1), insert(2, "b", 2)], strategy, adopt_existing=True)
    with closing(target.sink(strategy)) as sink:
        writer = sink.open(load(ORDERS.values, strategy, changes=True, whole=False))
        writer.stage(Part("orders"), batches(ORDERS, [delete(9), delete(9), delete(9), delete(1)]))
        said: list[str] = []
        sink._db.connection().set_trace_callback(said.append)
        receipt = writer.commit(sink.journal(KEY), at(1))
    assert receipt.deleted == 1
    assert not [sql for sql in said if "SUBSTRING(" in sql or sql.startswith('DELETE FROM "__dpone__stage_')]


@pytest.mark.parametrize(("changes", "indexed"), [(2, False), (3, True)])
def test_only_staging_of_several_chunks_gets_an_index(
    target: Target, monkeypatch: pytest.MonkeyPatch, changes: int, indexed: bool
) -> None:
    """A single chunk is read whole, so an index would only cost time."""
    monkeypatch.setattr(fold, "ROWS", 2)
    deliver(target, ORDERS, [insert(0)], HARD)
    with closing(target.sink(HARD)) as sink:
        writer = sink.open(load(ORDERS.values, HARD, changes=True, whole=False))
        writer.stage(Part("orders"), batches(ORDERS, [insert(n) for n in range(1, changes + 1)]))
        said: list[str] = []
        sink._db.connection().set_trace_callback(said.append)
        writer.commit(sink.journal(KEY), at(1))
    assert any(sql.startswith("CREATE INDEX") for sql in said) == indexed


def test_a_chunk_is_as_large_as_it_may_be() -> None:
    """Rows and bytes up to the limit, and that included; what is larger than a chunk is one alone."""
    run, two = fold._Run(), pa.record_batch({"a": pa.array([1, 2], pa.int64())})
    assert not run.full(two, 1, 1)
    run.add(two.slice(1))
    found = {(rows, size): run.full(two, rows, size) for rows, size in [(3, 24), (2, 24), (3, 23), (9, 99)]}
    assert found == {(3, 24): False, (2, 24): True, (3, 23): True, (9, 99): False}


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("have", [True, False])
def test_PG_09_values_left_out_are_kept(target: Target, have: bool) -> None:
    """Large values that did not change come from an earlier change of the window, or from the target; changes that have
    them and changes that do not are mixed, and a row that comes back has none of its past."""
    first = [insert(n, BIG, n) for n in (1, 2, 3, 4)]
    rest = [
        update(1, None, 11, ("x",)),
        update(2, "new", None, ("y",)),
        update(2, None, 22, ("x",)),
        update(3, "short", 33),
        update(3, None, 34, ("x",)),
        delete(4),
        insert(4, None, 44),
        update(4, None, 45, ("x",)),
    ]
    if have:
        deliver(target, ORDERS, first, HARD)
    deliver(target, ORDERS, rest if have else first + rest, HARD)
    assert rows(target) == [(1, BIG, 11), (2, "new", 22), (3, "short", 34), (4, None, 45)]


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("strategy", [HARD, SOFT, IGNORE])
def test_PG_09_an_unknown_row_is_an_error_never_null(target: Target, strategy: Strategy) -> None:
    """An update that leaves values out of a row that the target lacks stops the load and says what to do."""
    deliver(target, ORDERS, [insert(1, "a", 1)], strategy)
    dump = target.dump()
    for change in (update(2, None, 5, ("x",)), update(3, None, 5, ("x",), met=2)):
        with pytest.raises(DataError, match=r"the target lacks the rows of 1 update.*--full-refresh") as error:
            deliver(target, ORDERS, [update(1, "b", 2), change], strategy)
        assert BIG not in str(error.value)
        assert target.dump() == dump


@pytest.mark.usefixtures("chunked")
def test_PG_09_an_update_of_a_row_deleted_before_is_an_error(target: Target) -> None:
    """The row that it met is gone: the one of the target is another."""
    deliver(target, ORDERS, [insert(1, "a", 1)], HARD)
    with pytest.raises(DataError, match="of 1 update"):
        deliver(target, ORDERS, [delete(1), update(1, None, 5, ("x",))], HARD)
    assert rows(target) == [(1, "a", 1)]


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("strategy", [HARD, SOFT])
def test_PG_09_an_insert_of_an_older_shape(target: Target, strategy: Strategy) -> None:
    """A column that the shape of a new row lacked is NULL, also in the place of a deleted row; a row that is there
    keeps it."""
    deliver(target, ORDERS, [insert(1, "a", 1), insert(2, "b", 2), insert(3, "c", 3)], strategy)
    changes = [
        insert(9, None, 9, ("x",)),
        insert(1, None, 11, ("x",)),
        delete(2),
        insert(2, None, 22, ("x",)),
        delete(3),
    ]
    deliver(target, ORDERS, changes, strategy)
    deliver(target, ORDERS, [insert(3, None, 33, ("x",))], strategy)
    assert rows(target) == [(1, "a", 11), (2, None, 22), (3, None, 33), (9, None, 9)]


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("strategy", [HARD, SOFT])
def test_PG_09_a_new_row_takes_the_default_of_the_target(target: Target, strategy: Strategy) -> None:
    """Where the target gives a column a value, a new row whose shape lacked it has that, and a NULL is a NULL."""
    target.run("CREATE TABLE orders (id BIGINT PRIMARY KEY NOT NULL, x TEXT DEFAULT 'none', y BIGINT DEFAULT 7)")
    changes = [insert(1, None, 1, ("x",)), insert(2, None, None, ("x", "y")), insert(3, None, 3), delete(3)]
    changes += [insert(3, "c", None, ("y",)), insert(4, None, None)]
    receipt = deliver(target, ORDERS, changes, strategy)
    assert rows(target) == [(1, "none", 1), (2, "none", 7), (3, "c", 7), (4, None, None)]
    assert receipt.updated == 0
    deliver(target, ORDERS, [delete(1)], strategy)
    deliver(target, ORDERS, [insert(1, None, 10, ("x",)), update(1, None, 11, ("x",))], strategy)
    assert rows(target)[0] == (1, "none", 11)


@pytest.mark.usefixtures("chunked")
def test_PG_11_a_changed_key_moves_the_row(target: Target) -> None:
    """The old key goes and the new one comes, with the values that the log left out."""
    deliver(target, ORDERS, [insert(1, BIG, 1), insert(2, "b", 2)], HARD)
    receipt = deliver(target, ORDERS, [update(5, None, 50, ("x",), met=1), update(6, "B", 60, met=2)], HARD)
    assert rows(target) == [(5, BIG, 50), (6, "B", 60)]
    assert counts(receipt) == (2, 0, 2, 0)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("left", [(), ("x",)])
def test_PG_11_chains_and_swaps(target: Target, left: tuple[str, ...]) -> None:
    """1 -> 2 -> 3 ends at 3; a swap over a third key swaps; a key that was left is taken by the next row."""
    deliver(target, ORDERS, [insert(n, f"x{n}", n) for n in (1, 10, 20, 31, 32)], HARD)
    moves = [(1, 2), (2, 3), (10, -1), (20, 10), (-1, 20), (32, 33), (31, 32)]
    was = {2: 1, 3: 1, -1: 10, 10: 20, 20: 10, 33: 32, 32: 31}
    changes = [update(new, f"x{was[new]}", 100 + new, left, met=old) for old, new in moves]
    deliver(target, ORDERS, changes, HARD)
    assert rows(target) == [(3, "x1", 103), (10, "x20", 110), (20, "x10", 120), (32, "x31", 132), (33, "x32", 133)]


@pytest.mark.usefixtures("chunked")
def test_PG_11_the_old_key_goes_as_deletes_go(target: Target) -> None:
    """soft marks the row of the old key, ignore lets it stay."""
    for strategy, table in ((SOFT, "soft"), (IGNORE, "kept")):
        one = Target(target.path, table)
        deliver(one, ORDERS, [insert(1, "a", 1)], strategy)
        deliver(one, ORDERS, [update(2, None, 2, ("x",), met=1)], strategy)
        assert rows(one) == [(1, "a", 1), (2, "a", 2)]
    assert Target(target.path, "soft").rows("id, __dpone__deleted_at") == [(1, text(0)), (2, None)]


@pytest.mark.usefixtures("chunked")
def test_PG_12_truncate_by_policy(target: Target) -> None:
    """Rows 1 to 4, a truncate, rows 5 and 6: fail stops and changes nothing, apply leaves the last two, ignore all."""
    changes = [*(insert(n, "a", n) for n in (1, 2, 3, 4)), TRUNCATE, insert(5, "a", 5), insert(6, "a", 6)]
    deliver(target, ORDERS, [insert(0, "a", 0)], HARD)
    dump = target.dump()
    with pytest.raises(DeletesRefused, match=r"truncated in the source; set strategy.truncate: apply"):
        deliver(target, ORDERS, changes, HARD)
    assert target.dump() == dump
    receipt = deliver(target, ORDERS, changes, Strategy("cdc_apply", key="id", truncate="apply"))
    assert [r[0] for r in rows(target)] == [5, 6]
    assert counts(receipt) == (2, 0, 1, 0)
    deliver(target, ORDERS, changes, Strategy("cdc_apply", key="id", truncate="ignore"))
    assert [r[0] for r in rows(target)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("wide", [2, 3])
def test_keys_of_several_columns_are_told_apart(target: Target, wide: int) -> None:
    """Every combination of a few values is a key of its own: changes of one never reach the row of another."""
    names = ["a", "b", "c"][:wide]
    table = ChangeTable(pa.schema([*((name, pa.int64()) for name in names), ("x", pa.int64())]), tuple(names))
    keys = [*itertools.product(range(4), repeat=wide)]
    made = [Change("insert", (*key, n)) for n, key in enumerate(keys)]
    kept = {key: n for n, key in enumerate(keys)}
    changes = list(made)
    for n, key in enumerate(keys):
        if n % 3 == 0:
            changes.append(Change("update", (*key, -n), key))
            kept[key] = -n
        elif n % 3 == 1:
            changes.append(Change("delete", None, key))
            del kept[key]
    deliver(target, table, changes, Strategy("cdc_apply", key=table.key), lineage=PLAIN)
    found = target.query(f"SELECT {', '.join(names)}, x FROM orders")
    assert sorted(found) == sorted((*key, x) for key, x in kept.items())


@pytest.mark.usefixtures("chunked")
def test_PG_12_a_truncate_of_kept_rows_marks_them(target: Target) -> None:
    """With deletes: soft every living row is marked with the time of the truncate, those of the window too; a window
    may end with one, or be nothing else."""
    strategy = Strategy("cdc_apply", key="id", deletes="soft", truncate="apply")
    deliver(target, ORDERS, [insert(1, "a", 1), insert(2, "b", 2), delete(2)], strategy, load_id="ONE")
    receipt = deliver(
        target, ORDERS, [insert(3, "c", 3), TRUNCATE, insert(1, "A", 1), TRUNCATE], strategy, load_id="TWO"
    )
    columns = "id, x, __dpone__deleted_at, __dpone__load_id"
    assert rows(target, columns) == [(1, "A", text(3), "TWO"), (2, "b", text(2), "ONE"), (3, "c", text(1), "TWO")]
    assert receipt.deleted == 3
    hard = Strategy("cdc_apply", key="id", truncate="apply")
    assert counts(deliver(target, ORDERS, [TRUNCATE], hard)) == (0, 0, 3, 0)
    assert rows(target) == []


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize(
    ("windows", "left"),
    [
        ([[insert(1, "a", 1)], [update(1, "b", 2), delete(1)]], [(1, "b", 2, text(1))]),
        ([[insert(1, "a", 1), update(1, "b", 2), delete(1)]], [(1, "b", 2, text(2))]),
        ([[insert(1, "a", 1)], [update(1, None, 2, ("x",)), delete(1)]], [(1, "a", 2, text(1))]),
        ([[insert(1, "a", 1), delete(1)], [insert(1, "c", 3)]], [(1, "c", 3, None)]),
        ([[insert(1, "a", 1), delete(1), insert(1, "c", 3)]], [(1, "c", 3, None)]),
        ([[insert(1, "a", 1)], [delete(1, timed=False)]], [(1, "a", 1, START.isoformat(" ", "microseconds"))]),
    ],
)
def test_Soft_Delete_schedules(target: Target, windows: list[list[Change]], left: list[Any]) -> None:
    """Insert, update and delete, in one window or several: the row stays with its last values and the time of the
    delete, that of the load where the log says none; a row that comes back lives."""
    for window in windows:
        deliver(target, ORDERS, window, SOFT)
    assert rows(target, "id, x, y, __dpone__deleted_at") == left


def test_Soft_Delete_counts(target: Target) -> None:
    """A row that is marked counts as deleted, one that comes back as updated."""
    deliver(target, ORDERS, [insert(n, "a", n) for n in (1, 2, 3)], SOFT)
    receipt = deliver(target, ORDERS, [delete(1), update(2, "b", 2), update(3, "a", 3), insert(4), delete(9)], SOFT)
    assert counts(receipt) == (1, 1, 1, 1)
    assert counts(deliver(target, ORDERS, [insert(1, "a", 1)], SOFT)) == (0, 1, 0, 0)


def test_Soft_Delete_comes_to_a_table_that_is_there(target: Target) -> None:
    """The column is added, as the lineage is; the rows must not bring one of its name."""
    target.run("CREATE TABLE orders (id BIGINT, x TEXT, y BIGINT)", "INSERT INTO orders VALUES (1, 'a', 1)")
    deliver(target, ORDERS, [delete(1)], SOFT)
    assert rows(target, "id, x, __dpone__deleted_at") == [(1, "a", text(0))]
    own = ChangeTable(ORDERS.values.append(pa.field("__dpone__deleted_at", pa.string())), ("id",))
    with pytest.raises(ConfigError, match="the rows have a column __dpone__deleted_at"):
        deliver(Target(target.path, "other"), own, [Change("delete", None, (1,))], SOFT)


def test_counts_are_honest(target: Target) -> None:
    """inserted, updated, deleted and unchanged are rows of the target; equal rows keep their lineage."""
    deliver(target, ORDERS, [insert(n, "a", n) for n in range(1, 7)], HARD, load_id="ONE")
    changes = [update(1, "b", 1), update(2, "a", 2), delete(3), delete(8), insert(9), delete(9), insert(7, "n", 7)]
    changes += [update(4, None, 4, ("x",)), update(5, None, 50, ("x",)), delete(6), insert(6, "a", 6)]
    receipt = deliver(target, ORDERS, changes, HARD, load_id="TWO")
    assert counts(receipt) == (1, 2, 1, 3)
    loads = dict(rows(target, "id, __dpone__load_id"))
    assert loads == {1: "TWO", 2: "ONE", 4: "ONE", 5: "TWO", 6: "ONE", 7: "TWO"}


def test_a_table_that_holds_a_key_twice_is_refused(target: Target) -> None:
    """Which of two rows is meant nobody can tell."""
    target.run(
        "CREATE TABLE orders (id BIGINT, x TEXT, y BIGINT)", "INSERT INTO orders VALUES (1, 'a', 1), (1, 'b', 1)"
    )
    with pytest.raises(DataError, match="by cdc_apply: 1 key with several rows in the target"):
        deliver(target, ORDERS, [update(1, "c", 2)], HARD)


def test_a_staging_is_gone_on_with(target: Target) -> None:
    """A load that died after staging is taken up by its token, its part is not read again, and nothing stays behind."""
    deliver(target, ORDERS, [insert(1, "a", 1)], HARD)
    changes = [update(1, None, 2, ("x",)), insert(2, "b", 2)]
    given: dict[str, Any] = {"changes": True, "whole": False, "repeatable": True, "token": "t"}
    with closing(target.sink(HARD)) as sink:
        first = sink.open(load(ORDERS.values, HARD, load_id="ONE", **given))
        staged = first.stage(Part("orders"), batches(ORDERS, changes))
        first.close()
    with closing(target.sink(HARD)) as sink:
        writer = sink.open(load(ORDERS.values, HARD, load_id="TWO", **given))
        assert (writer.load_id, writer.staged()) == ("ONE", {"orders": staged})
        assert writer.stage(Part("orders"), batches(ORDERS, [delete(1)])) == staged
        receipt = writer.commit(sink.journal(KEY), at(1))
    assert staged.rows == 2
    assert counts(receipt) == (1, 1, 0, 0)
    assert rows(target) == [(1, "a", 2), (2, "b", 2)]
    assert not target.stages()


def test_parts_are_applied_as_they_were_staged(target: Target) -> None:
    """The chunks of a second part come after those of the first."""
    with closing(target.sink(HARD)) as sink:
        evolve(sink, ORDERS.values, HARD)
        writer = sink.open(load(ORDERS.values, HARD, changes=True, whole=False))
        writer.stage(Part("b"), batches(ORDERS, [insert(1, "a", 1)]))
        writer.stage(Part("a"), batches(ORDERS, [update(1, None, 2, ("x",))]))
        writer.commit(None, at(1))
    assert rows(target) == [(1, "a", 2)]


@pytest.mark.usefixtures("chunked")
def test_PG_09_values_left_out_are_kept_in_both_columns(target: Target) -> None:
    """Where the values of a column are routed to one of another type, a row has its value in one of the two: one that
    did not change stays where it is, one that did moves."""
    deliver(target, ORDERS, [insert(1, "a", 1), insert(2, "b", 2), insert(3, "c", 3)], HARD)
    routed = "__dpone__nc__x"
    target.run(f"ALTER TABLE orders ADD COLUMN {routed} INTEGER")
    table = ChangeTable(pa.schema([("id", pa.int64()), ("x", pa.int64()), ("y", pa.int64())]), ("id",))
    changes = [update(1, None, 11, ("x",)), update(2, 22, 2), update(3, 33, 3), update(3, None, 333, ("x",))]
    given = batches(table, changes)
    data = [batch.rename_columns([routed if n == "x" else n for n in batch.schema.names]) for batch in given.data]
    schema = pa.schema([("id", pa.int64()), (routed, pa.int64()), ("y", pa.int64())])
    with closing(target.sink(HARD)) as sink:
        writer = sink.open(load(schema, HARD, changes=True, whole=False))
        writer.stage(Part("orders"), type(given)(data[0].schema, data))
        writer.commit(sink.journal(KEY), at(1))
    found = rows(target, f"id, x, {routed}, y")
    assert found == [(1, "a", None, 11), (2, None, 22, 2), (3, None, 33, 333)]


def test_types_of_keys(target: Target) -> None:
    """Texts, bytes, decimals, dates, instants and uuids tell rows apart as they are."""
    import uuid
    from datetime import date
    from decimal import Decimal

    samples: dict[str, tuple[pa.DataType, Any, Any]] = {
        "text": (pa.string(), "é", "e"),
        "bytes": (pa.binary(), b"\x00", b""),
        "number": (pa.decimal128(20, 2), Decimal("1.10"), Decimal("1.01")),
        "day": (pa.date32(), date(2024, 1, 1), date(1, 1, 1)),
        "instant": (pa.timestamp("us", "UTC"), START, when(0)),
        "uuid": (pa.uuid(), uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes),
    }
    for name, (type_, one, other) in samples.items():
        table = ChangeTable(pa.schema([("k", type_), ("v", pa.string()), ("w", pa.int64())]), ("k",))
        strategy, place = Strategy("cdc_apply", key="k"), Target(target.path, name)
        first = [Change("insert", (k, "v", n)) for n, k in enumerate((one, other))]
        deliver(place, table, first, strategy)
        deliver(
            place, table, [Change("update", (one, None, 5), (one,), ("v",)), Change("delete", None, (other,))], strategy
        )
        assert place.rows("v, w") == [("v", 5)], name


def test_a_hot_key_costs_no_more_than_others() -> None:
    """A run of changes of one key, every value left out but one, is folded in steps that double."""
    n = 50_000
    table = ChangeTable(pa.schema([("id", pa.int64()), ("x", pa.string()), ("y", pa.int64())]), ("id",))
    schema = batches(table, [insert(1)]).schema
    fixed: dict[str, Any] = {"op": ["insert"] + ["update"] * (n - 1), "event_id": [""] * n, "commit": ["c"] * n}
    fixed |= {"ordinal": range(n), "committed_at": [None] * n, "key": [None] + [{"id": 1}] * (n - 1)}
    fixed |= {"unchanged": [None] + [{"id": False, "x": True, "y": False}] * (n - 1), "before": [None] * n}
    data = {f"__dpone__{name}": values for name, values in fixed.items()}
    data |= {"id": [1] * n, "x": ["kept"] + [None] * (n - 1), "y": list(range(n))}
    batch = pa.RecordBatch.from_arrays([pa.array(data[f.name], f.type) for f in schema], schema=schema)
    steps = 0

    def counted(one: Any, other: Any) -> bool:
        nonlocal steps
        steps += 1
        return bool((one == other).all())

    with patch("dpone.sql.fold.np.array_equal", counted):
        (chunk,) = fold.Folding("t", ("id", "x", "y"), HARD, START, 0, False).chunks([batch])
    assert chunk.select(["id", "x", "y"]).to_pylist() == [{"id": 1, "x": "kept", "y": n - 1}]
    assert steps < 60


def test_OUT_06_a_key_that_changed_in_the_source_is_named_before_anything_is_staged(target: Target) -> None:
    """Two rows of the new key can be one to the target's primary key: no change is taken until a person has decided."""
    schema = pa.schema([("tenant", pa.int64()), ("id", pa.int64())])
    deliver(target, ChangeTable(schema, ("id",)), [Change("insert", (1, 1))], Strategy("cdc_apply", key="id"))
    wider, strategy = ChangeTable(schema, ("tenant", "id")), Strategy("cdc_apply", key=("tenant", "id"))
    with pytest.raises(SchemaBreak, match="the source's key is now tenant, id, but the target was created for key id"):
        deliver(target, wider, [Change("insert", (2, 2))], strategy)
    assert target.stages() == set()
    assert target.rows("tenant, id") == [(1, 1)]
