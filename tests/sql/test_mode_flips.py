"""LS-13: every strategy after every other on one table."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from tests.sql.test_finalize import Row, ordered, table
from tests.sqlite.target import Target

from dpone.errors import SchemaBreak
from dpone.sql.finalize import FINALIZERS
from dpone.strategy import Strategy

Model = Callable[[list[Row], list[Row]], list[Row]]
OLD: list[Row] = [(1, "a", 1.0, 1), (2, "a", 2.0, None), (3, None, 3.0, 1)]
NEW: list[Row] = [(2, "a", 2.5, None), (3, "a", 3.0, 1), (4, "a", 4.0, 2)]


def upsert(have: list[Row], new: list[Row]) -> list[Row]:
    return [*({r[0]: r for r in [*have, *new]}).values()]


def replaced(have: list[Row], new: list[Row]) -> list[Row]:
    return [r for r in have if r[1] not in {n[1] for n in new}] + new


STRATEGIES: dict[str, tuple[Strategy, Model]] = {
    "full_refresh": (Strategy("full_refresh"), lambda have, new: new),
    "append": (Strategy("append"), lambda have, new: have + new),
    "merge": (Strategy("merge", key="id"), upsert),
    "replace": (Strategy("replace", where={"region": "a"}), lambda have, new: [r for r in have if r[1] != "a"] + new),
    "partition_replace": (Strategy("partition_replace", partition="region"), replaced),
    "snapshot_diff": (Strategy("snapshot_diff", key="id", max_delete_share=1.0), lambda have, new: new),
    "scd2": (Strategy("scd2", key="id"), upsert),
}
# Rows of one key from both loads: the key of the target that the first one made forbids it, and says so.
CLASHES = {("merge", "append"), ("snapshot_diff", "append"), ("merge", "replace"), ("merge", "partition_replace"),
           ("snapshot_diff", "replace"), ("snapshot_diff", "partition_replace")}  # fmt: skip


def test_LS_13_all_strategies_are_here() -> None:
    """A strategy that is added is tried here too."""
    assert set(FINALIZERS) - {"cdc_apply"} == set(STRATEGIES)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(STRATEGIES, repeat=2)])
def test_LS_13_every_strategy_after_every_other(target: Target, first: str, second: str) -> None:
    """The second load does its own to what the first left; versions and other rows are kept apart by name."""
    (one, _), (two, model) = STRATEGIES[first], STRATEGIES[second]
    old = [(r[0], "a", *r[2:]) for r in OLD] if first == "replace" else OLD
    new = [r for r in NEW if r[0] > 3] if (first, second) in CLASHES else NEW
    target.load(table(*old), one, load_id="ONE")
    before = target.dump()
    if (first == "scd2") != (second == "scd2"):
        with pytest.raises(SchemaBreak, match=r"by scd2: .*not made by scd2|the table holds versions"):
            target.load(table(*new), two, load_id="TWO")
        assert target.dump() == before
        return
    target.load(table(*new), two, load_id="TWO")
    current = " WHERE __dpone__valid_to IS NULL" if first == "scd2" else ""
    found = target.query(f"SELECT id, region, amount, seen FROM orders{current}")
    assert ordered(found) == ordered(model(old, new))
    loads = {load for (load,) in target.query("SELECT DISTINCT __dpone__load_id FROM orders")}
    assert "TWO" in loads, "lineage went missing"
