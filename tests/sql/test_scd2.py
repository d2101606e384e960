"""scd2 against a plain Python model of versions, and every rule of its intervals."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sqlite.target import MEMORY, START, Target

from dpone.errors import ConfigError, DataError, DeletesRefused
from dpone.model.pipeline import Lineage, SchemaEvolution
from dpone.model.strategy import Strategy

KEY = ("a", "b")
SCHEMA = pa.schema([("a", pa.string()), ("b", pa.string()), ("x", pa.string()), ("y", pa.int64())])
INSTANT = pa.timestamp("us", "UTC")
DATED = SCHEMA.append(pa.field("since", INSTANT))
PLAIN = Lineage(False)
Row = tuple[Any, ...]
SCD2 = Strategy("scd2", key=KEY)
CLOSE = Strategy("scd2", key=KEY, deletes="close", max_delete_share=1.0)
TICK = timedelta(microseconds=1)


def table(rows: Iterable[Row], schema: pa.Schema = SCHEMA) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)


def when(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def text(at: datetime | None) -> str | None:
    return at and at.astimezone(UTC).isoformat(" ", "microseconds")


@define
class Version:
    values: Row
    begin: datetime
    end: datetime | None = None


@define
class Model:
    """What scd2 is meant to do, one row after another."""

    versions: dict[tuple[str, str], list[Version]]

    def current(self, key: Any) -> Version | None:
        last = self.versions.get(key, [None])[-1]
        return last if last is not None and last.end is None else None

    def load(self, rows: Sequence[Row], started: datetime, close: bool) -> None:
        if not rows:
            return
        bounds = [b for vs in self.versions.values() for v in vs for b in (v.begin, v.end) if b is not None]
        at = max([started, *(b + TICK for b in bounds)])
        for key in self.versions:
            if close and key not in {r[:2] for r in rows} and (gone := self.current(key)):
                gone.end = at
        for row in rows:
            now = self.current(row[:2])
            if now is not None and now.values == row[2:]:
                continue
            if now is not None:
                now.end = at
            self.versions.setdefault(row[:2], []).append(Version(row[2:], at))


def found(target: Target, columns: str = "a, b, x, y") -> list[Row]:
    return target.rows(f"{columns}, __dpone__valid_from, __dpone__valid_to", "a, b, __dpone__valid_from")


def by_key(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (r[0], r[1], r[-2]))


def require_history(rows: Sequence[Row]) -> None:
    """One current version per key at most; none is empty; none overlaps another."""
    spans: dict[Any, list[tuple[str, str | None]]] = {}
    for row in rows:
        spans.setdefault(row[:2], []).append(row[-2:])
    for of_key in spans.values():
        assert sum(end is None for _, end in of_key) <= 1
        assert all(end is None or begin < end for begin, end in of_key)
        ordered = sorted(of_key)
        assert all(end is not None and end <= begin for (_, end), (begin, _) in itertools.pairwise(ordered))


# keys that a careless concatenation would confuse: ('a', 'bc') and ('ab', 'c')
keys = st.sampled_from([("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("A", "bc")])
values = st.tuples(st.sampled_from([None, "", "NULL", "a", "A", "a "]), st.sampled_from([None, 0, 1]))
row = st.builds(lambda k, v: (*k, *v), keys, values)
batch = st.lists(row, max_size=5, unique_by=lambda r: r[:2])
loads = st.lists(st.tuples(batch, st.integers(-2, 2)), min_size=1, max_size=6)


@settings(max_examples=100)
@given(loads, st.booleans())
def test_LS_10_versions_are_those_of_the_model(loads: list[tuple[list[Row], int]], close: bool) -> None:
    """Any sequence of loads, at equal and earlier times too, leaves the model's versions and a sound history."""
    model = Model({})
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        closed: set[Row] = set()
        for rows, seconds in loads:
            target.load(table(rows), CLOSE if close else SCD2, started=when(seconds), lineage=PLAIN)
            model.load(rows, when(seconds), close)
            history = found(target)
            assert by_key(history) == by_key(model_rows(model))
            require_history(history)
            assert closed <= set(history), "closed history was touched"
            closed = {r for r in history if r[-1] is not None}


def model_rows(model: Model) -> list[Row]:
    return [(*k, *v.values, text(v.begin), text(v.end)) for k, vs in model.versions.items() for v in vs]


@settings(max_examples=80)
@given(st.lists(st.lists(st.tuples(row, st.integers(0, 6)), max_size=4, unique_by=lambda r: r[0][:2]), max_size=6))
def test_LS_10_effective_from_is_the_begin(batches: list[list[tuple[Row, int]]]) -> None:
    """With effective_from a version begins when its row says; a change that is not later is refused as a whole."""
    versions: dict[Any, list[Version]] = {}
    strategy = Strategy("scd2", key=KEY, effective_from="since")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        for rows in batches:
            last = {r[:2]: versions[r[:2]][-1] for r, _ in rows if r[:2] in versions}
            changed = [(r, n) for r, n in rows if r[:2] in last and last[r[:2]].values != r[2:]]
            data = table([(*r, when(n)) for r, n in rows], DATED)
            if early := sum(when(n) <= last[r[:2]].begin for r, n in changed):
                said = f"{early} row{'s'[: early > 1]} changed, but their since is not later than in the version that "
                with pytest.raises(DataError, match=r"^load \S*orders by scd2: " + said):
                    target.load(data, strategy, lineage=PLAIN)
            else:
                target.load(data, strategy, lineage=PLAIN)
                for r, n in rows:
                    if r[:2] in last and (r, n) not in changed:
                        continue
                    if r[:2] in last:
                        last[r[:2]].end = when(n)
                    versions.setdefault(r[:2], []).append(Version(r[2:], when(n)))
            if target.path.exists() and "orders" in target.tables():
                history = found(target)
                assert by_key(history) == by_key(model_rows(Model(versions)))
                require_history(history)


def test_LS_10_a_revert_is_a_third_version(target: Target) -> None:
    """A, B, A: three versions, each ending where the next begins."""
    for n, x in enumerate("ABA"):
        target.load(table([("k", "", x, 1)]), SCD2, started=when(n), lineage=PLAIN)
    t = [text(when(n)) for n in range(3)]
    assert [r[2:] for r in found(target)] == [("A", 1, t[0], t[1]), ("B", 1, t[1], t[2]), ("A", 1, t[2], None)]


def test_LS_10_a_row_that_comes_back_opens_a_version(target: Target) -> None:
    """Retired and inserted again as it was: the gap stays, the old version is as it was."""
    one, other = ("k", "", "A", 1), ("o", "", "A", 1)
    for n, rows in enumerate([[one, other], [other], [one, other]]):
        target.load(table(rows), CLOSE, started=when(n), lineage=PLAIN)
    t = [text(when(n)) for n in range(3)]
    assert [r[2:] for r in found(target) if r[0] == "k"] == [("A", 1, t[0], t[1]), ("A", 1, t[2], None)]


def test_LS_10_a_row_that_comes_back_does_not_reach_into_its_past(target: Target) -> None:
    """Its effective_from is of the time before it was retired: the version begins where the last one ended."""
    strategy = Strategy("scd2", key=KEY, effective_from="since", deletes="close", max_delete_share=1.0)
    one, other = ("k", "", "A", 1, when(0)), ("o", "", "A", 1, when(0))
    for n, rows in enumerate([[one, other], [other], [one, other]]):
        target.load(table(rows, DATED), strategy, started=when(10 + n), lineage=PLAIN)
    begin, gone = text(when(0)), text(when(11))
    assert [r[4:] for r in found(target) if r[0] == "k"] == [(begin, gone), (gone, None)]


def test_LS_10_two_loads_at_one_instant(target: Target) -> None:
    """The second load begins a microsecond after the first: no version is empty, and the order is that of the loads."""
    for x in "AB":
        target.load(table([("k", "", x, 1)]), SCD2, started=START, lineage=PLAIN)
    a, b = text(START), text(START + TICK)
    assert [r[2:] for r in found(target)] == [("A", 1, a, b), ("B", 1, b, None)]


def test_LS_10_null_empty_and_missing_are_three_things(target: Target) -> None:
    """NULL to '' is a change and back; a column that the rows lack changes nothing and keeps its value."""
    ignore = SchemaEvolution(on_missing_column="ignore")
    for n, x in enumerate([None, "", None]):
        target.load(table([("k", "", x, 1)]), SCD2, started=when(n), lineage=PLAIN)
    assert [r[2] for r in found(target)] == [None, "", None]
    target.load(table([("k", "", "kept", 1)]), SCD2, started=when(3), lineage=PLAIN)
    without = table([("k", "", "kept", 1)]).drop_columns(["x"])
    receipt = target.load(without, SCD2, started=when(4), lineage=PLAIN, schema_evolution=ignore)
    assert (receipt.inserted, receipt.unchanged) == (0, 1)
    changed = table([("k", "", "", 2)]).drop_columns(["x"])
    target.load(changed, SCD2, started=when(5), lineage=PLAIN, schema_evolution=ignore)
    assert [r[2:4] for r in found(target)][-2:] == [("kept", 1), ("kept", 2)]


def test_LS_10_a_new_column_is_filled_not_versioned(target: Target) -> None:
    """A column that comes later: current versions take its value as they are read, at once or later, closed ones and
    those that were not read stay; from then on its changes are changes."""
    old = SCHEMA.remove(3)
    target.load(table([("k", "", "A"), ("l", "", "A"), ("m", "", "A")], old), SCD2, started=when(0), lineage=PLAIN)
    target.load(table([("k", "", "B")], old), SCD2, started=when(1), lineage=PLAIN)
    receipt = target.load(table([("k", "", "B", 7), ("l", "", "A", None)]), SCD2, started=when(2), lineage=PLAIN)
    assert (receipt.inserted, receipt.updated, receipt.unchanged) == (0, 1, 1)
    assert [(r[0], r[2], r[3]) for r in found(target)] == [
        ("k", "A", None), ("k", "B", 7), ("l", "A", None), ("m", "A", None),
    ]  # fmt: skip
    receipt = target.load(table([("m", "", "A", 5), ("n", "", "A", None)]), SCD2, started=when(3), lineage=PLAIN)
    assert (receipt.inserted, receipt.updated) == (1, 1)
    receipt = target.load(table([("m", "", "A", 6), ("n", "", "A", 1)]), SCD2, started=when(4), lineage=PLAIN)
    assert (receipt.inserted, receipt.updated) == (2, 2)
    assert [(r[0], r[3]) for r in found(target) if r[0] in "mn"] == [("m", 5), ("m", 6), ("n", None), ("n", 1)]


def test_LS_10_a_new_column_makes_versions_if_told(target: Target) -> None:
    """new_columns: version takes the value of a new column for a change like others."""
    told = Strategy("scd2", key=KEY, new_columns="version")
    target.load(table([("k", "", "A")], SCHEMA.remove(3)), told, started=when(0), lineage=PLAIN)
    target.load(table([("k", "", "A", 7)]), told, started=when(1), lineage=PLAIN)
    assert [r[3] for r in found(target)] == [None, 7]


def test_LS_10_closed_history_is_not_written(target: Target) -> None:
    """No statement of a load reaches a version that is closed."""
    for n, x in enumerate("ABC"):
        target.load(table([("k", "", x, 1)]), SCD2, started=when(n), lineage=PLAIN)
    target.run(
        "CREATE TRIGGER look BEFORE UPDATE ON orders WHEN old.__dpone__valid_to IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'closed'); END",
        "CREATE TRIGGER kept BEFORE DELETE ON orders BEGIN SELECT RAISE(ABORT, 'deleted'); END",
    )
    target.load(table([("k", "", "A", 1)]), CLOSE, started=when(3), lineage=PLAIN)
    target.load(table([("l", "", "A", 1)]), CLOSE, started=when(4), lineage=PLAIN)
    assert [r[2] for r in found(target)] == ["A", "B", "C", "A", "A"]


def test_equal_rows_are_not_written(target: Target) -> None:
    """A row read as it was keeps load id and begin, and its interval stays open."""
    target.load(table([("k", "", None, 1)]), SCD2, load_id="ONE")
    receipt = target.load(table([("k", "", None, 1)]), SCD2, load_id="TWO", started=when(9))
    assert (receipt.inserted, receipt.updated, receipt.unchanged) == (0, 0, 1)
    assert target.rows("__dpone__load_id, __dpone__valid_from") == [("ONE", text(START))]


def test_LS_10_rows_are_closed_by_a_whole_read_alone(target: Target) -> None:
    """Rows that an increment lacks stay current; to close them is refused, as is too large a share of them."""
    rows = [(k, "", "A", 1) for k in "abcdefghij"]
    target.load(table(rows), SCD2, lineage=PLAIN)
    target.load(table(rows[:2]), SCD2, lineage=PLAIN, whole=False)
    before = target.dump()
    with pytest.raises(DeletesRefused, match="not the whole source"):
        target.load(table(rows[:9]), CLOSE, lineage=PLAIN, whole=False)
    with pytest.raises(DeletesRefused, match=r"3 of 10 rows .* max_delete_share allows 20.0%"):
        target.load(table(rows[:7]), Strategy("scd2", key=KEY, deletes="close"), lineage=PLAIN)
    target.load(table([]), CLOSE, lineage=PLAIN, n=0)
    assert [line for line in target.dump() if "__dpone__loads" not in line] == [
        line for line in before if "__dpone__loads" not in line
    ]
    empty = Strategy("scd2", key=KEY, deletes="close", allow_empty=True)
    assert target.load(table([]), empty, lineage=PLAIN).deleted == 10


def test_the_primary_key_is_key_and_begin(target: Target) -> None:
    """The target that dpone creates has the key and valid_from as its primary key."""
    target.load(table([("k", "", "A", 1)]), SCD2)
    pk = target.query("SELECT name FROM pragma_table_info('orders') WHERE pk > 0 ORDER BY pk")
    assert pk == [("a",), ("b",), ("__dpone__valid_from",)]


@pytest.mark.parametrize(("type_", "said"), [(pa.timestamp("us"), "timestamp"), (pa.string(), "string")])
def test_effective_from_names_an_instant(target: Target, type_: pa.DataType, said: str) -> None:
    """A time without a zone is nobody's time, and a text none at all."""
    schema = SCHEMA.append(pa.field("since", type_))
    with pytest.raises(ConfigError, match=rf"effective_from: since is {said}.*, which has no time zone"):
        target.load(table([], schema), Strategy("scd2", key=KEY, effective_from="since"))


def test_effective_from_is_never_null(target: Target) -> None:
    """A version without a begin is refused, and counted."""
    strategy = Strategy("scd2", key=KEY, effective_from="since")
    with pytest.raises(
        DataError, match="since is NULL in 1 row, so their versions have no start; fill it in the source"
    ):
        target.load(table([("k", "", "A", 1, None), ("l", "", "A", 1, START)], DATED), strategy)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "merge", "deletes": "close"}, "option deletes"),
        ({"mode": "merge", "effective_from": "since"}, "option effective_from"),
        ({"mode": "merge", "new_columns": "version"}, "option new_columns"),
        ({"mode": "scd2", "effective_from": "a"}, "a is a key column"),
        ({"mode": "scd2", "max_delete_share": 0.5}, "option max_delete_share"),
    ],
)
def test_options_belong_to_their_strategy(options: Mapping[str, Any], said: str) -> None:
    """An option that the strategy would not look at is refused."""
    with pytest.raises(ConfigError, match=said):
        Strategy(**{"key": KEY, **options})


def test_the_rows_must_not_bring_validity(target: Target) -> None:
    """A source column with the name of one of ours is refused before a table is made."""
    with pytest.raises(ConfigError, match="the rows have a column __dpone__valid_to"):
        target.load(table([], SCHEMA.append(pa.field("__dpone__valid_to", INSTANT))), SCD2)
    assert not target.path.exists() or not target.tables()
