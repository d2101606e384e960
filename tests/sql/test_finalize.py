"""Each strategy against a plain Python model, and the rules its finalizer keeps."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sqlite.target import MEMORY, Target

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.contract import Receipt
from dpone.errors import ConfigError, DataError
from dpone.model.pipeline import Lineage, SchemaEvolution
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql.strategies.job import require_columns

SCHEMA = pa.schema([("id", pa.int64()), ("region", pa.string()), ("amount", pa.float64()), ("seen", pa.int64())])
Row = tuple[Any, ...]
KEYED = ["merge", "full_refresh"]
PLAIN = Lineage(False)


def table(*rows: Row) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * 4
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA)


row = st.tuples(
    st.integers(-3, 6),
    st.sampled_from([None, "", "a", "A", "b "]),
    st.one_of(st.none(), st.sampled_from([0.0, 1.5, -2.25, float("inf")])),
    st.one_of(st.none(), st.integers(0, 3), st.just(2**62 + 1)),
)
keyed = st.lists(row, max_size=12, unique_by=lambda r: r[0])
free = st.lists(row, max_size=12)


def ordered(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=repr)


def after(before: list[Row], new: list[Row], strategy: Strategy, *, existing: bool) -> tuple[list[Row], Receipt]:
    """Rows after loading ``before`` and then ``new``, read plainly; and the receipt of the second load. existing: the
    target is somebody else's table, with an index, so that it must be kept."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        if existing:
            target.run(
                "CREATE TABLE orders (id INT, region VARCHAR(9), amount DOUBLE, seen BIGINT)",
                "CREATE INDEX i ON orders (id)",
            )
        first = Strategy("append", key=strategy.key) if not existing else Strategy("append")
        target.load(table(*before), first, lineage=PLAIN)
        receipt = target.load(table(*new), strategy, lineage=PLAIN)
        return ordered(target.rows()), receipt


@settings(max_examples=40)
@given(free, free, st.booleans())
def test_full_refresh_leaves_the_rows_read(before: list[Row], new: list[Row], existing: bool) -> None:
    """A full refresh leaves exactly the rows read, or the old ones when nothing was read."""
    found, receipt = after(before, new, Strategy("full_refresh"), existing=existing)
    assert found == ordered(new or before)
    assert (receipt.inserted, receipt.deleted) == ((len(new), len(before)) if new else (0, 0))


@settings(max_examples=40)
@given(free, free, st.booleans())
def test_append_adds_the_rows_read(before: list[Row], new: list[Row], existing: bool) -> None:
    """An append leaves the old rows and the rows read, duplicates included."""
    found, receipt = after(before, new, Strategy("append"), existing=existing)
    assert found == ordered([*before, *new])
    assert receipt.inserted == len(new)


@settings(max_examples=60)
@given(keyed, keyed, st.booleans())
def test_merge_is_an_upsert(before: list[Row], new: list[Row], existing: bool) -> None:
    """A merge sets the rows of known keys, adds those of new ones, and counts which were changed and which equal."""
    found, receipt = after(before, new, Strategy("merge", key="id"), existing=existing)
    old = {r[0]: r for r in before}
    assert found == ordered([*({**old, **{r[0]: r for r in new}}).values()])
    assert receipt.inserted == sum(r[0] not in old for r in new)
    assert receipt.updated == sum(r[0] in old and old[r[0]] != r for r in new)
    assert receipt.unchanged == sum(r in before for r in new)


@settings(max_examples=40)
@given(free, free, st.booleans(), st.sampled_from([None, "a", ""]))
def test_replace_replaces_what_meets_the_predicate(
    before: list[Row], new: list[Row], existing: bool, wanted: Any
) -> None:
    """A replace by value leaves the old rows of other values, and the rows read."""
    new = [(r[0], wanted, *r[2:]) for r in new]
    found, receipt = after(before, new, Strategy("replace", where={"region": wanted}), existing=existing)
    gone = [r for r in before if r[1] == wanted]
    assert found == ordered([r for r in before if not new or r[1] != wanted] + new)
    assert (receipt.inserted, receipt.deleted) == (len(new), len(gone) if new else 0)


@settings(max_examples=40)
@given(free, free, st.booleans(), st.integers(-3, 6), st.integers(1, 9))
def test_replace_window_is_half_open(before: list[Row], new: list[Row], existing: bool, low: int, width: int) -> None:
    """A replaced window includes its lower and excludes its upper bound."""
    high = low + width
    new = [r for r in new if low <= r[0] < high]
    where = {"id": {"from": low, "to": high}}
    found, _ = after(before, new, Strategy("replace", where=where), existing=existing)
    assert found == ordered([r for r in before if not new or not low <= r[0] < high] + new)


@settings(max_examples=40)
@given(
    keyed, st.lists(row, max_size=14), st.sampled_from(["first", "last"]), st.sampled_from(["merge", "full_refresh"])
)
def test_duplicates_are_settled_by_order(before: list[Row], new: list[Row], policy: Any, mode: Any) -> None:
    """Of the rows of one key the first or last by order_by counts, NULL before all; a tie at the top is an error."""
    pick, rank = (min if policy == "first" else max), lambda r: (r[3] is not None, r[3] or 0)
    groups = {key: [r for r in new if r[0] == key] for key in {r[0] for r in new}}
    best = {key: pick(group, key=rank) for key, group in groups.items()}
    ties = sum(sum(rank(r) == rank(best[key]) for r in group) > 1 for key, group in groups.items())
    strategy = Strategy(mode, key="id", duplicates=policy, order_by="seen")
    if ties:
        said = rf"{ties} key{'s'[: ties > 1]} with rows that tie in order_by \(seen\)"
        with pytest.raises(DataError, match=said):
            after(before, new, strategy, existing=False)
        return
    found, receipt = after(before, new, strategy, existing=False)
    kept = {r[0]: r for r in before} if mode == "merge" or not new else {}
    assert found == ordered([*({**kept, **best}).values()])
    assert receipt.inserted == sum(key not in kept for key in best)


@pytest.mark.parametrize("mode", ["merge", "full_refresh"])
@pytest.mark.parametrize("known", [False, True])
def test_LS_07_duplicate_keys_fail(target: Target, mode: Any, known: bool) -> None:
    """Two rows of one key are an error that counts and shows no value; target and journal stay."""
    strategy = Strategy(mode, key=("id", "region"))
    if known:
        target.load(table((7, "x", 1.0, 0)), strategy)
    before = target.dump() if known else []
    with pytest.raises(DataError, match=r"have the same strategy.key \(id, region\)") as caught:
        target.load(table((4711, "a", 1.0, 1), (4711, "a", 2.0, 2), (4711, "b", 3.0, 3)), strategy)
    assert "4711" not in str(caught.value)
    assert not known or target.dump() == before


@pytest.mark.parametrize(("policy", "best"), [("last", "new"), ("first", "unknown")])
@pytest.mark.parametrize("habit", ["low", "high"])
def test_LS_07_last_by_order_not_by_arrival(
    target: Target, monkeypatch: pytest.MonkeyPatch, policy: Any, best: str, habit: str
) -> None:
    """The row that is last in order_by counts, not the one that arrived last; NULL is before every value, whether the
    server sorts it below them, as SQLite does, or above, as PostgreSQL does."""
    if habit == "high":
        monkeypatch.setattr(SqliteDialect, "ordered", lambda self, expression, type: f"COALESCE({expression}, 1e999)")
    strategy = Strategy("merge", key="id", duplicates=policy, order_by="seen")
    several = table((1, "new", 100.0, 3), (1, "old", 10.0, 1), (1, "unknown", 1.0, None), (2, "x", 20.0, None))
    target.load(several, strategy, lineage=PLAIN)
    assert target.rows("id, region") == [(1, best), (2, "x")]


@pytest.mark.parametrize("mode", ["merge", "full_refresh", "append"])
def test_LS_07_null_in_a_key_fails(target: Target, mode: Any) -> None:
    """A NULL in a key column is an error that names column and row, and nothing is written."""
    strategy = Strategy(mode, key="id")
    target.load(table((1, "a", 1.0, 1)), strategy)
    before = target.dump()
    with pytest.raises(DataError, match="column id is NULL in row 2 of the part"):
        target.load(table((2, "b", 1.0, 1), (None, "c", 1.0, 1)), strategy)
    assert target.dump() == before


@pytest.mark.parametrize("option", ["key", "order_by", "where", "partition", "effective_from"])
def test_LS_07_missing_column_fails_before_staging(target: Target, option: str) -> None:
    """A column the strategy names and the rows lack is one clear line, and no table is created."""
    strategies = {
        "key": Strategy("merge", key="nope"),
        "order_by": Strategy("merge", key="id", duplicates="last", order_by="nope"),
        "where": Strategy("replace", where={"nope": 1}),
        "partition": Strategy("partition_replace", partition="nope"),
        "effective_from": Strategy("scd2", key="id", effective_from="nope"),
    }
    with pytest.raises(ConfigError, match=f"strategy.{option} names nope, but the rows have id, region, amount, seen"):
        target.load(table((1, "a", 1.0, 1)), strategies[option])
    assert not target.path.exists() or not target.tables()


@pytest.mark.parametrize(("count", "end"), [(20, "c19;"), (21, "c19, ...;")])
def test_LS_07_a_message_has_twenty_columns_at_most(count: int, end: str) -> None:
    """A missing column is named with the first that there are; the line does not grow with the table."""
    schema = pa.schema([(f"c{n}", pa.int64()) for n in range(count)])
    with pytest.raises(ConfigError, match=f"names nope, but the rows have c0, c1, .*c18, {re.escape(end)} correct"):
        require_columns(Strategy("merge", key="nope"), schema, Name(("t",)))


def test_replace_refuses_rows_outside_the_predicate(target: Target) -> None:
    """A row the predicate does not match, or cannot be told to match, is refused: it would double next time."""
    strategy = Strategy("replace", where={"region": "a"})
    target.load(table((1, "a", 1.0, 1)), strategy)
    before = target.dump()
    with pytest.raises(DataError, match=r"2 of 3 rows do not match strategy.where \(region\)"):
        target.load(table((1, "a", 1.0, 1), (2, "b", 1.0, 1), (3, None, 1.0, 1)), strategy)
    assert target.dump() == before


def test_equal_rows_keep_their_lineage(target: Target) -> None:
    """A merge gives a new load id to inserted and changed rows alone."""
    strategy = Strategy("merge", key="id")
    target.load(table((1, "a", 1.0, 1), (2, "b", 2.0, 1)), strategy, load_id="FIRST")
    target.load(table((1, "a", 1.0, 1), (2, "B", 2.0, 1), (3, None, None, None)), strategy, load_id="SECOND")
    assert target.rows("id, __dpone__load_id") == [(1, "FIRST"), (2, "SECOND"), (3, "SECOND")]


def test_null_differs_from_every_value(target: Target) -> None:
    """A value that becomes NULL, and a NULL that becomes '', are changes."""
    strategy = Strategy("merge", key="id")
    target.load(table((1, "", 1.0, 1), (2, None, 1.0, 1), (3, None, None, None)), strategy, lineage=PLAIN)
    receipt = target.load(table((1, None, 1.0, 1), (2, "", 1.0, 1), (3, None, None, None)), strategy, lineage=PLAIN)
    assert (receipt.updated, receipt.unchanged) == (2, 1)
    assert target.rows("region") == [(None,), ("",), (None,)]


def test_a_change_of_case_is_a_change_under_any_collation(target: Target) -> None:
    """A column with COLLATE NOCASE still takes 'A' for 'a'."""
    target.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, region TEXT COLLATE NOCASE, amount REAL, seen INTEGER)")
    strategy = Strategy("merge", key="id")
    target.load(table((1, "a", 1.0, 1)), strategy, lineage=PLAIN)
    assert target.load(table((1, "A", 1.0, 1)), strategy, lineage=PLAIN).updated == 1
    assert target.rows("region") == [("A",)]


@pytest.mark.parametrize("other", ["a ", "A"])
@pytest.mark.parametrize(
    "strategy",
    [
        Strategy("merge", key="region"),
        Strategy("merge", key="region", duplicates="last", order_by="amount"),
        Strategy("snapshot_diff", key="region", max_delete_share=1.0),
        Strategy("scd2", key="region"),
    ],
    ids=lambda strategy: f"{strategy.mode}-{strategy.duplicates}",
)
def test_keys_are_exact_where_the_dialect_says_how(
    target: Target, strategy: Strategy, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the column takes two keys for one (COLLATE RTRIM, NOCASE), and ``Dialect.as_key`` does not, each has a row
    of its own."""
    monkeypatch.setattr(SqliteDialect, "as_key", SqliteDialect.exact)
    collation = "RTRIM" if other == "a " else "NOCASE"
    own = ", __dpone__valid_from TEXT NOT NULL, __dpone__valid_to TEXT" if strategy.mode == "scd2" else ""
    target.run(f"CREATE TABLE orders (id INTEGER, region TEXT COLLATE {collation}, amount REAL, seen INTEGER{own})")
    target.load(table((1, "a", 1.0, 1)), strategy, lineage=PLAIN)
    target.load(table((1, "a", 1.0, 1), (2, other, 2.0, 1)), strategy, lineage=PLAIN)
    assert target.rows("id, region") == [(1, "a"), (2, other)]
    target.load(table((3, other, 3.0, 1)), strategy, lineage=PLAIN)
    left = {"snapshot_diff": [3], "scd2": [1, 2, 3]}.get(strategy.mode, [1, 3])
    assert [id for (id,) in target.rows("id")] == left


def test_merge_of_a_table_that_is_all_key(target: Target) -> None:
    """Where every column is key, a merge inserts the new ones and changes nothing."""
    strategy = Strategy("merge", key=("id", "region", "amount", "seen"))
    target.load(table((1, "a", 1.0, 1)), strategy)
    receipt = target.load(table((1, "a", 1.0, 1), (1, "b", 1.0, 1)), strategy)
    assert (receipt.inserted, receipt.updated, receipt.unchanged) == (1, 0, 1)


def test_merge_leaves_columns_the_rows_lack(target: Target) -> None:
    """A column of the target that the load does not fill keeps its value on update and is NULL on insert."""
    strategy = Strategy("merge", key="id")
    target.load(table((1, "a", 1.0, 1)), strategy, lineage=PLAIN)
    part = pa.table({"seen": pa.array([9, 8], pa.int64()), "id": pa.array([1, 2], pa.int64())})
    ignore = SchemaEvolution(on_missing_column="ignore")
    target.load(part, strategy, lineage=PLAIN, schema_evolution=ignore)
    assert target.rows() == [(1, "a", 1.0, 9), (2, None, None, 8)]
