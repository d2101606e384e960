"""LS-13: every strategy after every other on one table."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pyarrow as pa
import pytest
from tests.sql.stream import Change, deliver
from tests.sql.test_finalize import SCHEMA, Row, ordered, table
from tests.sqlite.target import Target

from dpone.errors import SchemaBreak
from dpone.model.changes import ChangeTable
from dpone.model.schema import VALIDITY, Name
from dpone.model.strategy import Strategy
from dpone.sql.strategies.finalizers import FINALIZERS
from dpone.sql.strategies.scd2 import require_own

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
    "cdc_apply": (Strategy("cdc_apply", key="id"), upsert),
    "cdc_apply, soft": (Strategy("cdc_apply", key="id", deletes="soft"), upsert),
}
KEYED = ("merge", "snapshot_diff", "cdc_apply", "cdc_apply, soft")
# Rows of one key from both loads: the key of the target that the first one made forbids it, and says so.
CLASHES = {*itertools.product(KEYED, ("append", "replace", "partition_replace"))}


def test_LS_13_all_strategies_are_here() -> None:
    """A strategy that is added is tried here too."""
    assert set(FINALIZERS) == {strategy.mode for strategy, _ in STRATEGIES.values()}


def bring(target: Target, rows: list[Row], strategy: Strategy, load_id: str) -> None:
    """Rows, or for cdc_apply the changes that make them, with one that comes and goes."""
    if strategy.mode != "cdc_apply":
        target.load(table(*rows), strategy, load_id=load_id)
        return
    changes = [
        *(Change("insert", row) for row in rows),
        Change("insert", (99, "a", 1.0, 1)),
        Change("delete", None, (99,)),
    ]
    deliver(target, ChangeTable(SCHEMA, ("id",)), changes, strategy, load_id=load_id)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(STRATEGIES, repeat=2)])
def test_LS_13_every_strategy_after_every_other(target: Target, first: str, second: str) -> None:
    """The second load does its own to what the first left; versions and other rows are kept apart by name."""
    (one, _), (two, model) = STRATEGIES[first], STRATEGIES[second]
    old = [(r[0], "a", *r[2:]) for r in OLD] if first == "replace" else OLD
    new = [r for r in NEW if r[0] > 3] if (first, second) in CLASHES else NEW
    bring(target, old, one, "ONE")
    before = target.dump()
    if (first == "scd2") != (second == "scd2"):
        with pytest.raises(SchemaBreak, match=r"by scd2: .*scd2 did not create it|the table has versions"):
            bring(target, new, two, "TWO")
        assert target.dump() == before
        return
    bring(target, new, two, "TWO")
    current = " WHERE __dpone__valid_to IS NULL" if first == "scd2" else ""
    current = " WHERE __dpone__deleted_at IS NULL" if "soft" in first + second else current
    found = target.query(f"SELECT id, region, amount, seen FROM orders{current}")
    assert ordered(found) == ordered(model(old, new))
    loads = {load for (load,) in target.query("SELECT DISTINCT __dpone__load_id FROM orders")}
    assert "TWO" in loads, "lineage went missing"


def test_LS_13_a_table_of_versions_is_known_by_its_interval() -> None:
    """Both columns of it, be there others or not."""
    both = [pa.field(name, pa.timestamp("us", "UTC")) for name in VALIDITY]
    for have in (both, [pa.field("id", pa.int64()), *both]):
        require_own(Strategy("scd2", key="id"), pa.schema(have), Name(("t",)))
        with pytest.raises(SchemaBreak, match="the table has versions"):
            require_own(Strategy("append"), pa.schema(have), Name(("t",)), ["id"])
    require_own(Strategy("append"), pa.schema(both[:1]), Name(("t",)), ["id"])
    with pytest.raises(SchemaBreak, match="scd2 did not create it"):
        require_own(Strategy("scd2", key="id"), pa.schema(both[:1]), Name(("t",)))


@pytest.mark.parametrize("second", [name for name in STRATEGIES if name != "scd2"])
def test_LS_13_a_deleted_row_that_is_loaded_again_lives(target: Target, second: str) -> None:
    """The mark of deletes: soft goes from rows that are brought again, by whatever strategy, and can be set again."""
    table, (soft, _) = ChangeTable(SCHEMA, ("id",)), STRATEGIES["cdc_apply, soft"]
    deliver(target, table, [Change("insert", row) for row in OLD], soft)
    deliver(target, table, [Change("delete", None, (row[0],)) for row in OLD], soft)
    brought = [(5, "a", 3.0, 1)] if ("cdc_apply", second) in CLASHES else [OLD[1]]
    bring(target, brought, STRATEGIES[second][0], "TWO")
    found = dict(target.query("SELECT id, __dpone__deleted_at IS NOT NULL FROM orders"))
    assert found[brought[0][0]] == 0
    deliver(target, table, [Change("delete", None, (brought[0][0],))], soft)
    found = dict(target.query("SELECT id, __dpone__deleted_at IS NOT NULL FROM orders"))
    assert found[brought[0][0]] == 1
