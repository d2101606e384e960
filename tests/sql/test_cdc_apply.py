"""cdc_apply against a Python model that applies changes one by one to a dict, and every rule by name."""

from __future__ import annotations

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

from dpone.contract import ChangeTable, Part, Receipt
from dpone.errors import ConfigError, DataError, DeletesRefused
from dpone.pipeline import Lineage
from dpone.sql import fold
from dpone.strategy import Strategy

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
            return self.truncate(at)
        if change.op == "delete":
            return self.delete(change.met, at)
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
        self.rows[key] = Row(values)
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
        self.rows = {k: r for k, r in self.rows.items() if not (r.deleted and r.unknown)}
        self.failed = self.failed or any(r.unknown for r in self.rows.values())

    def dump(self) -> list[Any]:
        def said(row: Row) -> Any:
            return row.deleted and row.deleted.isoformat(" ", "microseconds")

        return sorted(((*r.values.values(), said(r)) for r in self.rows.values()), key=repr)


TWO = ChangeTable(pa.schema([("a", pa.string()), ("b", pa.string()), ("x", pa.string()), ("y", pa.int64())]), ("a", "b"))
KEYS = [("a", "bc"), ("ab", "c"), ("", "abc"), ("A", "bc")]  # which a careless concatenation would confuse
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
@given(before, st.lists(any_change, max_size=12), policies, st.integers(1, 13), st.lists(st.integers(1, 5)), st.booleans())
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
