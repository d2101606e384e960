"""SinkContract: what a sink that declares a capability must do."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from dpone.contract import (
    Leftover,
    Part,
    Receipt,
    Sink,
    Stream,
    SupportsCompareKeys,
    SupportsManyTables,
    SupportsMove,
    SupportsRefuse,
    SupportsSql,
    SupportsSweep,
    SupportsTakeBack,
    SupportsUndo,
    SupportsVerify,
)
from dpone.errors import ConfigError, Conflict, DataError, DeletesRefused, DponeError, SchemaBreak, Stopped
from dpone.model import changes, evolution, keys
from dpone.model.changes import ChangeTable
from dpone.model.events import STEPS
from dpone.model.evolution import Stored
from dpone.model.pipeline import Lineage, SchemaEvolution, Undo
from dpone.model.schema import (
    DELETED_AT,
    EQUALITY,
    LOAD_ID,
    LOADED_AT,
    VALID_FROM,
    VALID_TO,
)
from dpone.model.strategy import Strategy
from dpone.testing import crash, hostile
from dpone.testing.cases import at_once, case
from dpone.testing.database import DatabaseCases, over_sql, own_tables
from dpone.testing.harness import TABLE, Harness
from dpone.testing.held import holdable, left_out
from dpone.testing.loads import (
    APPEND,
    FULL,
    SINGLE,
    at,
    failed,
    has,
    head,
    key,
    load,
    new_load,
    prepare,
    providing,
    simple,
)
from dpone.testing.models import after
from dpone.testing.outside import found_offline, made_offline, nothing_left, waits_end
from dpone.testing.rows import SHAPE, Broken, Row, Rows, at_least, breaking, own, same, sample, table
from dpone.testing.statements import InterruptedLoads, widened
from dpone.testing.unreachable import offline

_IDS = st.integers(0, 8)
_FOLDED = {EQUALITY: b"collation nocase"}  # as a source says of a column in which a and A are one key


def _rows(day: str | None = None, unique: bool = True) -> st.SearchStrategy[list[Row]]:
    """Rows of one read. Keys and values are few, so that loads meet; texts are hostile, NULL is among them."""
    days = st.sampled_from(["d0", "d1", "d2"]) if day is None else st.just(day)
    name = st.one_of(st.none(), st.sampled_from(["a", "A", ""]), hostile.texts())
    row = st.tuples(_IDS, days, name, st.one_of(st.none(), st.sampled_from([0.5, 1.0, -2.0])))
    return st.lists(row, max_size=6, unique_by=(lambda r: r[0]) if unique else None)


# Two rows that are the same one, and come again.
_TWICE: list[list[Row]] = [[(1, "d0", "a", 0.5), (1, "d0", "a", 0.5)], [(1, "d0", "a", 0.5)], []]
# Three reads that change, add, leave out and bring back, within one partition and in another; tried with random ones.
_ALIKE: list[list[Row]] = [
    [(1, "d0", "a", 0.5), (2, "d1", None, None)],
    [(1, "d0", "b", 1.0), (3, "d0", "", None)],
    [(1, "d0", "a", 0.5)],
    [],
]


def like_model(harness: Harness, strategy: Strategy, rows: st.SearchStrategy[list[Row]]) -> None:
    """Three loads of any rows leave what the model says, however many batches they come in; rows that are the same one
    too, but where a key tells them apart."""
    tables = count()

    @hostile.examples
    @example(_ALIKE)
    @example(_ALIKE if strategy.key else _TWICE)
    @given(st.lists(rows, min_size=1, max_size=3))
    def loads(reads: list[list[Row]]) -> None:
        name = f"{TABLE}{next(tables)}"
        reads = [_held(harness, read) for read in reads]
        for n, read in enumerate(reads):
            load(harness, table(read), strategy, name, n=n)
            same(harness.rows(name), after(strategy, reads[: n + 1]))

    loads()


def _held(harness: Harness, read: list[Row]) -> list[Row]:
    """The rows whose name the system can hold."""
    return [row for row in read if not left_out(harness, pa.string(), row[2])]


def empty_read_keeps(harness: Harness, strategy: Strategy) -> None:
    """No rows read: the target stays, the position is journalled all the same."""
    load(harness, sample(1, 1), FULL if strategy.mode == "full_refresh" else strategy, n=1)
    receipt = load(harness, sample(1, 0), strategy, n=2)
    same(harness.rows(), sample(1, 1))
    assert (receipt.inserted, receipt.updated, receipt.deleted) == (0, 0, 0)
    assert (receipt.entry.seq, receipt.entry.position) == (2, at(2))


def refuses_keys(harness: Harness, strategy: Strategy) -> None:
    """A NULL key, and two rows of one key, are a DataError each; the target stays."""
    load(harness, sample(1, 2), strategy)
    for bad in ([(None, "d1", "x", 1.0)], [(7, "d1", "x", 1.0), (8, "d1", "x", 1.0), (7, "d1", "y", 1.0)]):
        with pytest.raises(DataError):
            load(harness, table(bad), strategy)
        same(harness.rows(), sample(1, 2))


# Texts that a system may take for one: they differ by a blank or a NUL at the end, by case, by a combining character.
_SIMILAR = (("a", "a "), ("a", "a\0"), ("a", "A"), ("a", "a\u0301"), ("\u00e1", "a\u0301"))
_SAID = "rows with similar keys are lost"


def _similar(harness: Harness) -> list[tuple[str, str]]:
    """Those that the system can hold."""
    return [pair for pair in _SIMILAR if not any(left_out(harness, pa.string(), text) for text in pair)]


def tells_apart(harness: Harness, strategy: Strategy) -> None:
    """Rows with similar values of ``name``, the key or partition of the strategy: each row is stored as it was read, or
    the load is refused and the target unchanged."""
    policies: tuple[dict[str, Any], ...] = ({"key": "name"}, {"key": "name", "duplicates": "last", "order_by": "score"})
    for n, (one, other) in enumerate(_similar(harness)):
        first, second, later = (1, "d1", one, 0.5), (2, "d1", other, 1.0), (2, "d1", other, 2.0)
        for m, policy in enumerate(policies if strategy.key else [{"partition": "name"}]):
            reads, by, name = [[first], [first, second], [later]][m:], evolve(strategy, **policy), f"t{n}_{m}"
            for i, read in enumerate(reads):
                done = _done(harness, by, name, partial(load, harness, table(read), by, name, n=i))
                _left(harness, name, after(by, reads[: i + done]), (one, other))
                if not done:
                    break


def _done(harness: Harness, strategy: Strategy, name: str, loads: Callable[[], Any]) -> bool:
    """False if the load is refused, by the sink or, as the engine does it, because the key columns treat different keys
    as equal."""
    try:
        with closing(harness.make("sink", harness.sink(strategy, name))) as sink:
            have, comparing = {f.name: f for f in sink.schema() or ()}, harness.offered(SupportsCompareKeys, sink)
            made = comparing.made if comparing else pa.Field.remove_metadata
            to = {column: have.get(column) or made(SHAPE.field(column)) for column in strategy.key}
            keys.forms(strategy, strategy.mode == "cdc_apply", SHAPE, to, name)
        loads()
    except DponeError:
        return False
    return True


def _left(harness: Harness, name: str, expected: list[Row], similar: tuple[str, str]) -> None:
    try:
        same(harness.rows(name), expected)
    except AssertionError as error:
        raise AssertionError(f"{_SAID}, {similar[0]!a} and {similar[1]!a}: {error}") from None


def _cut_read(n: int) -> list[Row]:
    """Reads that meet, within what each strategy replaces: after the first, each changes a row, adds one and lacks
    one."""
    return [(2, "d1", f"of {n}", float(n)), (3 if n % 2 else 1, "d1", "same", None)]


def _cut_off(harness: Harness) -> Iterator[tuple[Strategy, bool, dict[str, Any]]]:
    """What the sink loads by: strategies, whether the rows are changes, options."""
    for mode, strategy in SINGLE.items():
        if has(harness, mode):
            yield strategy, False, {}
    if has(harness, "cdc_apply"):
        yield _cdc_apply(), True, {}
    for mode in ("full_refresh", "merge"):
        if has(harness, mode) and has(harness, "undo"):
            yield SINGLE[mode], False, {"undo": Undo(loads=1)}


class _Hollow(Rows):
    """A batch without rows. ``to_batches`` of a table gives none."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([], self.schema)


class _NativeOnly:
    """A stream that must be taken in its native format."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def batches(self) -> Iterator[pa.RecordBatch]:
        raise AssertionError("the sink asked for batches although the stream has a native format")


class SinkContract(DatabaseCases):
    """Subclass it and name the ``connector``, whose plugin names the Harness. Every case starts with an empty place.

    What the contract says and no case examines: field metadata of ``schema``, ``Receipt.sequences`` and
    ``Receipt.warnings`` (they differ from system to system); the ids of rows that a sink of ``commit="none"`` delivers
    again (only the receiver sees them); a kill within ``take_back``, ``undo`` and ``move``; a power cut
    (``Harness.durability`` shows the settings that decide).
    """

    role = "sink"

    # ---- strategies

    @case("full_refresh")
    def test_full_refresh_leaves_the_rows_read(self, harness: Harness) -> None:
        """A full refresh leaves exactly the rows read, duplicates included."""
        like_model(harness, FULL, _rows(unique=False))

    @case("full_refresh")
    def test_full_refresh_keeps_the_target_on_an_empty_read(self, harness: Harness) -> None:
        """An empty read never empties; with allow_empty it does."""
        empty_read_keeps(harness, FULL)
        load(harness, sample(1, 0), Strategy("full_refresh", allow_empty=True))
        same(harness.rows(), sample(1, 0))

    @case("full_refresh")
    def test_full_refresh_tells_similar_keys_apart(self, harness: Harness) -> None:
        """With a key: keys that differ by a trailing blank or NUL, by case, or by a combining character are not
        duplicates, or the load is refused."""
        tells_apart(harness, Strategy("full_refresh", key="name"))

    @case("full_refresh")
    def test_a_first_load_without_rows_makes_the_target(self, harness: Harness) -> None:
        """A source with columns and no rows: after the first and the second run the target exists with these columns
        and no rows. Later rows are loaded, and ``allow_empty`` deletes them again."""
        for allow_empty in (False, True):
            name = f"{TABLE}{int(allow_empty)}"
            strategy = Strategy("full_refresh", allow_empty=allow_empty)
            run = crash.runs(harness, strategy, name)
            run.add(sample(1, 0))
            for _ in range(2):
                report = run.here()
                assert report.exit_code == 0, report.streams[0].error
                found = harness.rows(name)
                assert found is not None, "the run succeeded, but the target does not exist"
                same(found, sample(1, 0))
                with closing(harness.make("sink", harness.sink(strategy, name))) as sink:
                    answers, schema = (sink.exists(), sink.is_empty()), sink.schema()
                assert answers == (True, True), "the target exists without rows, but exists or is_empty is wrong"
                assert schema is None or {*SHAPE.names} <= {*schema.names}, "columns are missing"
            run.add(sample(1, 3))
            report = run.here()
            assert report.exit_code == 0, report.streams[0].error
            same(harness.rows(name), sample(1, 3))

    @case("append")
    def test_append_adds_the_rows_read(self, harness: Harness) -> None:
        """An append adds exactly the rows read, duplicates included, and leaves the others alone."""
        like_model(harness, APPEND, _rows(unique=False))

    @case("merge")
    def test_merge_inserts_and_updates(self, harness: Harness) -> None:
        """New keys are inserted, known ones updated, the others stay."""
        like_model(harness, SINGLE["merge"], _rows())

    @case("merge")
    def test_merge_counts_and_leaves_equal_rows(self, harness: Harness) -> None:
        """The receipt counts inserted, updated and unchanged rows, with and without an index on the key; NULL equals
        NULL. Equal rows keep the id of the load that wrote them."""
        changed = table([(4, "d1", "other", 1.0), *_python(sample(1, 3)), *_python(sample(5, 6))])
        for n, made_by in enumerate((SINGLE["merge"], simple(harness))):
            name = f"{TABLE}{n}"
            first = load(harness, sample(1, 4), made_by, name).entry.load_id
            receipt = load(harness, changed, SINGLE["merge"], name)
            counts = (receipt.inserted, receipt.updated, receipt.deleted, receipt.unchanged)
            assert counts == (2, 1, 0, 3), f"inserted, updated, deleted, unchanged: {counts}"
            found = harness.rows(name)
            assert found is not None
            same(found, [*_python(sample(1, 3)), *_python(changed)[:1], *_python(sample(5, 6))])
            if has(harness, "lineage"):
                old = [
                    id for id, by in zip(*(found[c].to_pylist() for c in ("id", LOAD_ID)), strict=True) if by == first
                ]
                assert sorted(map(int, old)) == [1, 2, 3], "equal rows were written again"

    @case("merge")
    def test_merge_refuses_null_and_duplicate_keys(self, harness: Harness) -> None:
        """A key that is NULL, or there twice in one read, fails the load."""
        refuses_keys(harness, SINGLE["merge"])

    @case("merge")
    def test_merge_tells_similar_keys_apart(self, harness: Harness) -> None:
        """Keys that differ by a blank or NUL at the end, by case, by a combining character: a row for each, or the load
        is refused."""
        tells_apart(harness, SINGLE["merge"])

    @case("merge")
    def test_merge_keeps_the_last_of_duplicates_by_order(self, harness: Harness) -> None:
        """With duplicates: last the row that is last by order_by wins, wherever it stands; a tie fails."""
        strategy = Strategy("merge", key="id", duplicates="last", order_by="score")
        rows = [(1, "d1", "late", 9.0), (1, "d1", "early", 1.0), (2, "d1", "only", 1.0)]
        load(harness, table(rows), strategy)
        same(harness.rows(), [rows[0], rows[2]])
        with pytest.raises(DataError):
            load(harness, table([(1, "d1", "x", 1.0), (1, "d1", "y", 1.0)]), strategy)

    @case("merge")
    def test_merge_keeps_the_row_of_the_last_file(self, harness: Harness) -> None:
        """With order_by: file it is the one whose part has the highest order, whichever was staged last; two rows of
        one file tie."""
        strategy = Strategy("merge", key="id", duplicates="last", order_by="file")
        first, last = [(1, "d1", "late", 1.0), (2, "d1", "only", 1.0)], [(1, "d1", "early", 9.0)]
        load(harness, [table(first), table(last)], strategy, orders=(10, 9))
        same(harness.rows(), first)
        twice = table([(1, "d1", "x", 1.0), (1, "d1", "y", 1.0)])
        with pytest.raises(DataError):
            load(harness, [twice, table(last)], strategy, orders=(2, 1))
        same(harness.rows(), first)

    @case("merge")
    def test_merges_at_once_leave_every_key_once(self, harness: Harness) -> None:
        """Two streams load the same new keys at the same time into a target without a unique index: each key is stored
        once, or one stream is refused."""
        for n in range(3):
            name = f"{TABLE}{n}"
            load(harness, sample(1, 2), APPEND if has(harness, "append") else SINGLE["merge"], name)
            done = _commit_at_once(harness, SINGLE["merge"], name, (sample(2, 5), sample(2, 5)))
            assert done
            same(harness.rows(name), sample(1, 5))

    @case("replace")
    def test_replace_replaces_the_rows_of_its_predicate(self, harness: Harness) -> None:
        """Rows that meet the predicate are replaced by those read, the others stay."""
        load(harness, sample(1, 9), APPEND if has(harness, "append") else SINGLE["merge"])
        read = table([(100 + i, "d1", "new", None) for i in range(4)])
        load(harness, read, SINGLE["replace"])
        kept = [row for row in _python(sample(1, 9)) if row[1] != "d1"]
        same(harness.rows(), kept + _python(read))

    @case("replace")
    def test_replace_keeps_the_target_on_an_empty_read(self, harness: Harness) -> None:
        """An empty read never empties."""
        empty_read_keeps(harness, SINGLE["replace"])

    @case("replace")
    def test_replace_refuses_a_row_outside_its_predicate(self, harness: Harness) -> None:
        """A row that the next replace would not delete fails the load, and nothing is written."""
        load(harness, sample(1, 1), SINGLE["replace"])
        with pytest.raises(DataError):
            load(harness, sample(1, 3), SINGLE["replace"])
        same(harness.rows(), sample(1, 1))

    @case("partition_replace")
    def test_partition_replace_replaces_the_partitions_read(self, harness: Harness) -> None:
        """The partitions that occur in the read are replaced, the others stay."""
        like_model(harness, SINGLE["partition_replace"], _rows(unique=False))

    @case("partition_replace")
    def test_partition_replace_empties_the_window(self, harness: Harness) -> None:
        """With a window, a partition without rows is emptied; all empty leaves the target as it is."""
        load(harness, sample(1, 9), SINGLE["partition_replace"])
        window = Strategy("partition_replace", partition="day", where={"day": {"from": "d1", "to": "d3"}})
        read = table([(50, "d1", "x", None)])
        load(harness, read, window)
        expected = [row for row in _python(sample(1, 9)) if row[1] == "d0"] + _python(read)
        same(harness.rows(), expected)
        load(harness, sample(1, 0), window)
        same(harness.rows(), expected)

    @case("partition_replace")
    def test_partition_replace_tells_similar_partitions_apart(self, harness: Harness) -> None:
        """A partition does not replace another one whose value differs by a trailing blank or NUL, by case, or by a
        combining character; or the load is refused."""
        tells_apart(harness, SINGLE["partition_replace"])

    @case("snapshot_diff")
    def test_snapshot_diff_tells_similar_keys_apart(self, harness: Harness) -> None:
        """Keys that differ by a blank or NUL at the end, by case, by a combining character: a row for each, or the load
        is refused."""
        tells_apart(harness, SINGLE["snapshot_diff"])

    @case("snapshot_diff")
    def test_snapshot_diff_makes_the_target_equal(self, harness: Harness) -> None:
        """After a load the target has the rows read and no other."""
        like_model(harness, SINGLE["snapshot_diff"], _rows())

    @case("snapshot_diff")
    def test_snapshot_diff_counts(self, harness: Harness) -> None:
        """The receipt and its entry count inserted, updated, deleted and unchanged rows."""
        load(harness, sample(1, 5), SINGLE["snapshot_diff"])
        read = table([(5, "d1", "other", 1.0), *_python(sample(1, 2)), *_python(sample(6, 8))])
        receipt = load(harness, read, SINGLE["snapshot_diff"])
        counts = (receipt.inserted, receipt.updated, receipt.deleted, receipt.unchanged)
        assert counts == (3, 1, 2, 2), f"inserted, updated, deleted, unchanged: {counts}"
        assert Receipt.of(receipt.entry) == evolve(receipt, warnings=(), sequences=()), "the entry has other counts"

    @case("snapshot_diff")
    def test_snapshot_diff_keeps_the_target_on_an_empty_read(self, harness: Harness) -> None:
        """An empty read never empties."""
        empty_read_keeps(harness, SINGLE["snapshot_diff"])

    @case("snapshot_diff")
    def test_snapshot_diff_refuses_to_delete_by_mistake(self, harness: Harness) -> None:
        """Deletes above the share, or after a read that is not whole or lost rows to a filter: nothing is written."""
        careful = Strategy("snapshot_diff", key="id")
        load(harness, sample(1, 10), careful)
        with pytest.raises(DeletesRefused):
            load(harness, sample(1, 5), careful)
        with pytest.raises(DeletesRefused):
            load(harness, sample(1, 9), careful, whole=False)
        with pytest.raises(DeletesRefused):
            load(harness, sample(1, 9), careful, stream=Rows(sample(1, 9), filtered=1))
        same(harness.rows(), sample(1, 10))
        load(harness, sample(1, 9), careful)
        same(harness.rows(), sample(1, 9))

    @case("snapshot_diff")
    def test_snapshot_diff_refuses_null_and_duplicate_keys(self, harness: Harness) -> None:
        """A key that is NULL, or there twice in one read, fails the load."""
        refuses_keys(harness, SINGLE["snapshot_diff"])

    @case("scd2")
    def test_scd2_keeps_every_version(self, harness: Harness) -> None:
        """Each change opens a version; what was, stays."""
        like_model(harness, SINGLE["scd2"], _rows())

    @case("scd2")
    def test_scd2_tells_similar_keys_apart(self, harness: Harness) -> None:
        """Keys that differ by a blank or NUL at the end, by case, by a combining character have versions of their own,
        or the load is refused."""
        tells_apart(harness, SINGLE["scd2"])

    @case("scd2")
    def test_scd2_closes_a_version_when_the_next_begins(self, harness: Harness) -> None:
        """The intervals of a key follow one another without gap or overlap; the last is open, unless closed by
        deletes: close."""
        start = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
        strategy = Strategy("scd2", key="id", deletes="close", max_delete_share=1.0)
        for n, name in enumerate("aba"):
            rows = table([(1, "d1", name, None), (2, "d1", "same", None)])
            load(harness, rows, strategy, started_at=start + timedelta(seconds=n))
        load(harness, table([(2, "d1", "same", None)]), strategy, started_at=start + timedelta(seconds=3))
        when = [start + timedelta(seconds=n) for n in range(4)]
        intervals = [(1, when[0], when[1]), (1, when[1], when[2]), (1, when[2], when[3]), (2, when[0], None)]
        assert _intervals(harness.rows()) == intervals

    @case("scd2")
    def test_scd2_refuses_null_and_duplicate_keys(self, harness: Harness) -> None:
        """A key that is NULL, or there twice in one read, fails the load."""
        refuses_keys(harness, SINGLE["scd2"])

    @case("cdc_apply")
    def test_cdc_apply_applies_changes_in_commit_order(self, harness: Harness) -> None:
        """Insert, update with unchanged values, key change and delete: the target has the last state of each row."""
        strategy = _cdc_apply()
        _apply(harness, strategy, [
            ("insert", (1, "d1", "one", 1.0), None, ()),
            ("insert", (2, "d1", "two", 2.0), None, ()),
            ("insert", (3, "d1", "three", 3.0), None, ()),
            ("update", (1, "d1", "uno", None), 1, ("score",)),
        ])  # fmt: skip
        same(harness.rows(), [(1, "d1", "uno", 1.0), (2, "d1", "two", 2.0), (3, "d1", "three", 3.0)])
        _apply(harness, strategy, [
            ("update", (4, "d1", "two", 2.0), 2, ()),
            ("delete", None, 3, ()),
            ("update", (1, "d1", "eins", None), 1, ("score",)),
            ("insert", (3, "d2", "again", None), None, ()),
        ], n=1)  # fmt: skip
        same(harness.rows(), [(1, "d1", "eins", 1.0), (3, "d2", "again", None), (4, "d1", "two", 2.0)])

    @case("cdc_apply")
    def test_cdc_apply_tells_similar_keys_apart(self, harness: Harness) -> None:
        """A change is applied to the row with exactly its key, not to one whose key differs by a trailing blank or NUL,
        by case, or by a combining character; or the load is refused."""
        strategy = Strategy("cdc_apply", key="name")
        for n, (one, other) in enumerate(_similar(harness)):
            first, second = (1, "d1", one, 0.5), (2, "d1", other, 1.0)
            steps: list[tuple[Any, list[Row]]] = [
                (("insert", first, None, ()), [first]),
                (("insert", second, None, ()), [first, second]),
                (("update", (3, "d1", other, None), other, ("score",)), [first, (3, "d1", other, 1.0)]),
                (("delete", None, other, ()), [first]),
            ]
            before: list[Row] = []
            for i, (change, left) in enumerate(steps):
                done = _done(harness, strategy, f"t{n}", partial(_apply, harness, strategy, [change], i, name=f"t{n}"))
                _left(harness, f"t{n}", left if done else before, (one, other))
                if not done:
                    break
                before = left

    @case("cdc_apply")
    def test_cdc_apply_truncates(self, harness: Harness) -> None:
        """A truncate deletes what was there before it, and nothing after it."""
        strategy = _cdc_apply()
        _apply(harness, strategy, [("insert", (1, "d1", "one", 1.0), None, ())])
        _apply(harness, strategy, [("truncate", None, None, ()), ("insert", (2, "d1", "two", None), None, ())], n=1)
        same(harness.rows(), [(2, "d1", "two", None)])

    @case("cdc_apply")
    def test_cdc_apply_deletes_as_was_said(self, harness: Harness) -> None:
        """``deletes``: ``hard`` takes a deleted row out, ``soft`` keeps and marks it, ``ignore`` keeps it as it is.
        ``truncate``: ``fail`` stops the load and the row stays, ``ignore`` passes over it."""
        there: list[Any] = [("insert", (n, "d1", "x", None), None, ()) for n in (1, 2)]
        ways: dict[Any, list[int]] = {"hard": [2], "soft": [1, 2], "ignore": [1, 2]}
        for deletes, left in ways.items():
            strategy = Strategy("cdc_apply", key="id", deletes=deletes)
            _apply(harness, strategy, there, name=deletes)
            _apply(harness, strategy, [("delete", None, 1, ())], n=1, name=deletes)
            found = harness.rows(deletes)
            assert found is not None
            ids = list(map(int, found["id"].to_pylist()))
            assert sorted(ids) == left, f"deletes: {deletes} left rows {sorted(ids)}"
            if deletes == "soft":
                marks = dict(zip(ids, found[DELETED_AT].to_pylist(), strict=True))
                assert (marks[1] is None, marks[2]) == (False, None), "a deleted row is kept without a mark"
        for truncate in ("fail", "ignore"):
            strategy = Strategy("cdc_apply", key="id", truncate=truncate)
            _apply(harness, strategy, there, name=truncate)
            with pytest.raises(DponeError) if truncate == "fail" else nullcontext():
                _apply(harness, strategy, [("truncate", None, None, ())], n=1, name=truncate)
            same(harness.rows(truncate), [row for _, row, *_ in there])

    @case("cdc_apply")
    def test_cdc_apply_of_a_whole_window_replaces(self, harness: Harness) -> None:
        """A change window that is ``whole`` replaces the target: earlier rows that it does not bring are deleted."""
        strategy = _cdc_apply()
        _apply(harness, strategy, [("insert", (n, "d1", "old", None), None, ()) for n in (1, 2)])
        _apply(harness, strategy, [("insert", (2, "d1", "new", None), None, ())], n=1, whole=True)
        same(harness.rows(), [(2, "d1", "new", None)])

    @case("cdc_apply")
    def test_cdc_apply_of_a_replay_leaves_the_same_rows(self, harness: Harness) -> None:
        """Changes that the target has, applied again with a new one: the rows are those of each change once. A row that
        moved has values that only the row under its old key had, which is another one by now: the same, or refused."""
        strategy = _cdc_apply()
        _apply(harness, strategy, [("insert", (n, "d1", "old", n / 2), None, ()) for n in (1, 2)])
        changed: list[Any] = [
            ("update", (1, "d1", "uno", None), 1, ("score",)), ("delete", None, 2, ()),
            ("insert", (3, "d1", "x", 3.0), None, ()),
        ]  # fmt: skip
        _apply(harness, strategy, changed, n=1)
        _apply(harness, strategy, [*changed, ("insert", (5, "d1", "y", 5.0), None, ())], n=2, replayed=True)
        left = [(3, "d1", "x", 3.0), (5, "d1", "y", 5.0)]
        same(harness.rows(), [(1, "d1", "uno", 0.5), *left])
        moved: list[Any] = [
            ("update", (4, "d1", "uno", None), 1, ("score",)), ("insert", (1, "d1", "other", 9.0), None, ()),
        ]  # fmt: skip
        _apply(harness, strategy, moved, n=3)
        with suppress(DponeError):
            _apply(harness, strategy, moved, n=4, replayed=True)
        same(harness.rows(), [(1, "d1", "other", 9.0), (4, "d1", "uno", 0.5), *left])

    @case("refuse")
    def test_rows_that_refer_to_the_target_stay(self, harness: Harness) -> None:
        """Loads that would delete rows of another table by a foreign key are refused, by ``contract.SupportsRefuse``
        too, and nothing changes. ``merge`` deletes no rows and is not refused."""
        modes = [m for m in ("full_refresh", "replace", "partition_replace", "snapshot_diff") if has(harness, m)]
        keyed = Strategy("full_refresh", key="id") if has(harness, "full_refresh") else SINGLE["merge"]
        load(harness, sample(1, 3), keyed)
        if not modes or not harness.refer():
            pytest.skip("there is no strategy that deletes rows, or no way to refer to one")
        for mode in modes:
            with closing(harness.make("sink", harness.sink(SINGLE[mode]))) as sink:
                refusing = harness.require(SupportsRefuse, sink)
                with pytest.raises(DponeError):
                    refusing.refuse(SINGLE[mode])
            with pytest.raises(DponeError):
                load(harness, table([(9, "d1", "x", None)]), SINGLE[mode])
            same(harness.rows(), sample(1, 3))
        found = harness.rows("referring")
        assert found is not None
        assert found.num_rows == 1, "a row of another table is lost"
        if has(harness, "merge"):
            load(harness, sample(2, 4), SINGLE["merge"])
            same(harness.rows(), sample(1, 4))

    # ---- names and values: a case of whatever the sink loads by

    @case("write")
    def test_values_arrive_as_they_are_or_not_at_all(self, harness: Harness) -> None:
        """Every value of every type is stored exactly or fails the load; ordinary texts and numbers are stored."""
        strategy = simple(harness)
        for type_ in hostile.VALUES:
            _values_arrive(harness, strategy, type_)
        texts = holdable(harness, pa.string(), [text for text in hostile.TEXTS if "\x01" not in text])
        words = table([(text,) for text in texts], pa.schema([("x", pa.string())]))
        load(harness, words, strategy, "words")
        same(harness.rows("words"), words)

    @case("write")
    def test_a_type_is_kept_as_it_says(self, harness: Harness) -> None:
        """``Sink.stores``: a type that is kept ``exact`` holds its least and its greatest values, one that is
        ``checked`` holds a value or refuses it; the column reads back as the type that was said."""
        for i, (type_, values) in enumerate(hostile.EXTREMES.items()):
            with closing(harness.make("sink", harness.sink(simple(harness)))) as sink:
                try:
                    stored = sink.stores(type_)
                except DponeError:  # refused before a row is read
                    continue
            if stored.fidelity != "lossy":
                together = [values] if stored.fidelity == "exact" else [(value,) for value in values]
                for n, some in enumerate(together):
                    _keeps(harness, f"t{i}_{n}", pa.array(some, type_), stored)

    @case("write")
    def test_names_are_kept_or_refused(self, harness: Harness) -> None:
        """Reserved words, blanks and capitals are kept; any other name is kept or refused, and nothing else happens."""
        strategy = simple(harness)
        names = holdable(harness, "name", hostile.ORDINARY_NAMES)
        ordinary = pa.table({name: pa.array([1], pa.int64()) for name in names})
        load(harness, ordinary, strategy)
        same(harness.rows(), ordinary)
        for i, name in enumerate(hostile.HOSTILE_NAMES):
            rows = pa.table({name: pa.array([1], pa.int64())})
            try:
                load(harness, rows, strategy, f"n{i}")
            except DponeError:
                assert harness.rows(f"n{i}") is None
            else:
                same(harness.rows(f"n{i}"), rows)
        same(harness.rows(), ordinary)

    @case("write")
    def test_a_target_is_there_once_it_is_loaded(self, harness: Harness) -> None:
        """After a load the target exists, whether its columns are known or not, and can be loaded again."""
        strategy = simple(harness)
        for n in (1, 2):
            load(harness, sample(n, n), strategy, n=n)
            with closing(harness.make("sink", harness.sink(strategy))) as sink:
                assert sink.exists(), "the target was loaded, but exists() returns False"
        same(harness.rows(), sample(1, 2) if strategy.mode != "full_refresh" else sample(2, 2))

    @case("write")
    def test_looking_makes_nothing(self, harness: Harness) -> None:
        """For a target that does not exist, ``check`` reports no failure, ``schema``, ``exists``, ``is_empty`` and
        ``journal`` answer, and nothing is created, not even a table of dpone's own. ``close`` may be called twice."""
        sink = harness.make("sink", harness.sink(simple(harness)))
        wrong = [finding for finding in sink.check() if finding.ok is False]
        assert wrong == [], "check reports a failure for a target that the first load will create"
        sink.exists()
        answers = sink.schema(), sink.is_empty(), sink.journal(key())
        assert harness.rows() is None, "a call that only looks created the target"
        assert answers == (None, True, None), "schema, is_empty or journal report a target that does not exist"
        assert own_tables(sink) == [], "a call that only looks created tables"
        for _ in range(2):
            _close(sink)

    @case("write")
    def test_it_is_made_without_a_connection(self, harness: Harness) -> None:
        """The constructor and ``stores`` do no I/O: they succeed while the process cannot open a file or a socket; so
        does the ``dialect`` of a SQL sink."""
        spec = harness.sink(simple(harness))
        with closing(harness.make("sink", spec)) as earlier:  # a library may ask itself once for each process
            for type_ in hostile.VALUES:
                _answers(earlier.stores, type_)
        with closing(made_offline(harness, "sink", spec)) as sink:
            sql = harness.offered(SupportsSql, sink)
            with offline():
                for type_ in hostile.VALUES:
                    _answers(sink.stores, type_)
                if sql is not None:
                    _answers(sql.dialect.too_long, TABLE)
        load(harness, sample(1, 2), simple(harness))

    @case("write")
    def test_a_failed_connection_is_a_finding(self, harness: Harness) -> None:
        """``check`` without a connection raises nothing: it returns a finding that says what to do. ``journal`` of a
        sink that keeps one raises: None would load everything again."""
        load(harness, sample(1, 2), simple(harness))
        spec = harness.sink(simple(harness))
        found_offline(harness, "sink", spec)
        if has(harness, "exactly_once"):
            with (
                closing(harness.make("sink", spec)) as sink,
                harness.unreachable("sink"),
                pytest.raises(DponeError),
            ):
                sink.journal(key())

    @case("write")
    def test_close_leaves_nothing_open(self, harness: Harness) -> None:
        """After ``close`` there is no connection, thread or spool left: after a commit, an abort, and a load that was
        only staged."""
        strategy = simple(harness)

        def work() -> list[Any]:
            used: list[Any] = []
            for ends in ("commit", "abort", "close"):
                with _open(harness, strategy) as (sink, writer):
                    writer.stage(Part("p"), Rows(sample(1, 3)))
                    if ends == "commit":
                        writer.commit(head(harness, sink, key()), at(1), ())
                        continue
                    if ends == "abort":
                        writer.abort()
                used += [sink, writer]
            return used

        if has(harness, "exactly_once"):
            nothing_left(work)

    @case("write")
    def test_a_wait_has_an_end(self, harness: Harness) -> None:
        """A load that waits for another client or a silent server ends at its limit, with a transient error, and soon
        after a signal. Nothing is loaded, and the next load works."""
        strategy = simple(harness)
        load(harness, sample(1, 2), strategy)

        def work(spec: Any) -> None:
            with closing(harness.make("sink", spec)) as sink:
                prepare(sink, spec, SHAPE)
                with closing(sink.open(new_load(SHAPE, strategy))) as writer:
                    writer.stage(Part("p"), Rows(sample(8, 9)))
                    writer.commit(head(harness, sink, key()), at(1), ())

        waits_end(harness, "sink", work)
        if has(harness, "exactly_once"):
            same(harness.rows(), sample(1, 2))
        load(harness, sample(1, 3), FULL if strategy.mode == "full_refresh" else strategy, n=2)

    @case("write")
    def test_an_answer_is_not_kept(self, harness: Harness) -> None:
        """``schema``, ``exists`` and ``is_empty`` answer for the target as it is now, whatever the same object answered
        before."""
        strategy = simple(harness)
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            sink.schema(), sink.exists(), sink.is_empty()
            load(harness, sample(1, 2), strategy)
            with closing(harness.make("sink", harness.sink(strategy))) as other:
                expected = other.schema(), other.exists(), other.is_empty()
            assert (sink.schema(), sink.exists(), sink.is_empty()) == expected, "the sink returned an earlier answer"

    @case("write")
    def test_a_part_is_staged_once(self, harness: Harness) -> None:
        """``Writer.stage`` of a part that is staged writes nothing, does not read the stream, and returns the mark."""
        with _open(harness, simple(harness)) as (sink, writer):
            staged = writer.stage(Part("p"), Rows(sample(1, 3)))
            again = writer.stage(Part("p"), Rows(sample(7, 9)))
            assert again == staged, "staging a part again returned another mark"
            writer.commit(head(harness, sink, key()), at(1), ())
        same(harness.rows(), sample(1, 3))

    @case("write")
    def test_ddl_is_only_said(self, harness: Harness) -> None:
        """``ddl`` returns statements and runs none, for a missing target and for one that lacks a column; a second call
        returns the same. A sink that cannot add a column raises a DponeError."""
        strategy = simple(harness)
        spec = harness.sink(strategy)
        more = sample(1, 2).append_column("more", pa.array([7, 8], pa.int64()))
        for rows in (sample(1, 2), more):
            before = harness.rows()
            with closing(harness.make("sink", spec)) as sink:
                have = sink.schema()
                bare = None if have is None else pa.schema([f for f in have if f.name in more.column_names])
                plan = evolution.plan(bare, rows.schema, spec.options.schema_evolution, sink.stores)
                with suppress(DponeError) if rows is more else nullcontext():
                    said = [sink.ddl(plan.changes) for _ in range(2)]
                    assert said[0] == said[1], "ddl returns different statements for the same changes"
            found = harness.rows()
            assert before is not None or found is None, "ddl created the target; it must only return statements"
            assert before is None or (found is not None and found.column_names == before.column_names), (
                "columns changed"
            )
            if rows is not more:
                load(harness, rows, strategy)

    @case("write")
    def test_staging_says_what_it_took(self, harness: Harness) -> None:
        """``Staged``: how many rows and bytes of the part, and what its stream said after the last batch; ``staged``
        has the same, part by part."""
        with _open(harness, simple(harness)) as (sink, writer):
            streams = {"a": Rows(sample(1, 7), filtered=2, quarantined=1, checks="kept"), "b": Rows(sample(8, 8))}
            staged = {part: writer.stage(Part(part), stream) for part, stream in streams.items()}
            counts = [(s.rows, s.filtered, s.quarantined, s.checks) for s in staged.values()]
            assert counts == [(7, 2, 1, "kept"), (1, 0, 0, "")], f"rows, filtered, quarantined, checks: {counts}"
            assert all(s.bytes > 0 for s in staged.values()), "no bytes were staged"
            assert dict(writer.staged()) == staged, "staged() returns other parts than were staged"
            receipt = writer.commit(head(harness, sink, key()), at(1), ())
            assert receipt.inserted == 8, f"the receipt counts {receipt.inserted} inserted rows, not 8"
        same(harness.rows(), sample(1, 8))

    @case("write")
    def test_a_load_is_opened_again_after_an_abort(self, harness: Harness) -> None:
        """A load can be opened again by the same sink after ``abort`` and ``close`` of its first writer, as when a row
        contract forbids to continue with staged parts: nothing is staged, and new rows are stored once."""
        strategy, resumes = simple(harness), has(harness, "resume")
        begun, spec = new_load(SHAPE, strategy, repeatable=resumes), harness.sink(strategy)
        with closing(harness.make("sink", spec)) as sink:
            prepare(sink, spec, SHAPE, begun)
            for ends in ("abort", "commit"):
                with closing(_opened(sink, begun)) as writer:
                    assert dict(writer.staged()) == {}, "an aborted load was continued"
                    writer.stage(Part("p"), Rows(sample(1, 3) if ends == "abort" else sample(2, 4)))
                    if ends == "abort":
                        writer.abort()
                    else:
                        writer.commit(head(harness, sink, key()), at(1), ())
        same(harness.rows(), sample(2, 4))

    @case("write")
    def test_a_load_that_is_closed_loads_nothing(self, harness: Harness) -> None:
        """A writer that is closed twice without ``commit`` or ``abort``, as at the end of a process: rows and journal
        are unchanged, and the next load of the key works."""
        strategy = simple(harness)
        load(harness, sample(1, 2), strategy)
        with _open(harness, strategy) as (sink, writer):
            before = sink.journal(key())
            writer.stage(Part("a"), Rows(sample(3, 9)))
            with pytest.raises(Broken):
                writer.stage(Part("b"), Rows(sample(10, 30), between=breaking(2)))
            for _ in range(2):
                _close(writer)
        same(harness.rows(), sample(1, 2))
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            assert sink.journal(key()) == before
        load(harness, sample(3, 3), strategy, n=1)
        same(harness.rows(), sample(3, 3) if strategy.mode == "full_refresh" else sample(1, 3))

    @case("write")
    def test_an_empty_read_writes_nothing(self, harness: Harness) -> None:
        """No row, no batch, or a batch without rows: the target stays, and the receipt has the position."""
        strategy = simple(harness)
        load(harness, sample(1, 2), strategy, n=1)
        for n, stream in enumerate((Rows(sample(1, 0)), _Hollow(sample(1, 0))), 2):
            receipt = load(harness, sample(1, 0), strategy, n=n, stream=stream)
            assert (receipt.entry.position, receipt.inserted, receipt.deleted) == (at(n), 0, 0)
            same(harness.rows(), sample(1, 2))

    @case("write")
    def test_a_strategy_that_it_lacks_is_refused(self, harness: Harness) -> None:
        """Whatever is not declared is refused in one clear line, and the target stays as it is."""
        load(harness, sample(1, 2), simple(harness))
        for mode, strategy in SINGLE.items():
            if not has(harness, mode):
                with pytest.raises(DponeError):
                    load(harness, sample(1, 1), strategy)
                same(harness.rows(), sample(1, 2))

    @case("write")
    def test_no_row_is_lost_by_a_kill(self, harness: Harness) -> None:
        """SIGKILL while a run stages, delivers or saves: after the next run every row is stored at least once."""
        strategy = simple(harness)
        for step in ("part_staged", "commit_started", "committed"):
            name = f"lost_{step}"
            run = crash.runs(harness, strategy, name)
            run.add(sample(1, 5))
            assert run.here().exit_code == 0
            run.add(sample(6, 9))
            run.killed(step)
            report = run.here()
            assert report.exit_code == 0, report.streams[0].error
            assert run.here().streams[0].status == "caught_up"
            at_least(harness.rows(name), sample(1, 9))

    # ---- commits

    @case("exactly_once")
    def test_the_journal_has_an_entry_per_commit(self, harness: Harness) -> None:
        """No entry before the first commit; then the head has position, epoch, ids and counts, key by key."""
        strategy = simple(harness)
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            assert sink.journal(key()) is None
            assert sink.is_empty()
            first = load(harness, sample(1, 2), strategy, n=1)
            second = load(harness, sample(3, 3), strategy, n=2)
            assert sink.journal(key()) == second.entry
            assert sink.journal("another|key|of|it") is None
            assert not sink.is_empty()
        assert (first.entry.seq, second.entry.seq) == (1, 2)
        assert (first.entry.position, second.entry.position) == (at(1), at(2))
        assert second.inserted == second.entry.rows["inserted"] == 1
        assert second.entry.token == "token", "the entry does not have the token of its load"  # noqa: S105  # a digest

    @case("verify")
    def test_a_target_that_somebody_emptied_is_noticed(self, harness: Harness) -> None:
        """``contract.SupportsVerify``: rows that are gone are noticed, and a target as it was left is not."""
        entry = load(harness, sample(1, 2), simple(harness)).entry
        with closing(harness.make("sink", harness.sink(simple(harness)))) as sink:
            harness.require(SupportsVerify, sink)
            assert [sink.lost(entry, count) for count in (False, True)] == ["", ""]
            if not harness.empty():
                pytest.skip("the harness has no way to empty the target")
            assert all(sink.lost(entry, count) for count in (False, True)), "lost() does not detect missing rows"

    @case("verify")
    def test_rows_that_a_load_took_out_are_not_missed(self, harness: Harness) -> None:
        """``contract.SupportsVerify``: fewer rows than the load of an entry left, since that of another stream has
        replaced them, are not lost; what is gone since that one is. ``Entry.held`` has the rows that the target had."""
        if not has(harness, "full_refresh"):
            pytest.skip("there is no strategy that replaces the rows of another stream")
        held = []
        for stream, rows in ((key(), sample(1, 5)), (f"{key()}|other", sample(1, 2))):
            with providing(harness, FULL, rows, key=stream, count=True) as (_, writer):
                writer.stage(Part("p"), Rows(rows))
                held.append(writer.commit(None, at(1), ()).entry)
        with closing(harness.make("sink", harness.sink(FULL))) as sink:
            harness.require(SupportsVerify, sink)
            lost = [sink.lost(entry, count) for entry in held for count in (False, True)]
            assert lost == [""] * 4, f"lost() reports rows that a load deleted: {lost}"
        assert [entry.held for entry in held if entry.held is not None] in ([], [5, 2])

    @case("exactly_once")
    def test_a_commit_after_another_head_writes_nothing(self, harness: Harness) -> None:
        """The fence: a commit that starts from a head that is no longer there is a Conflict."""
        strategy = simple(harness)
        before = load(harness, sample(1, 1), strategy).entry
        load(harness, sample(1, 2), strategy, n=1)
        expected = harness.rows()
        assert expected is not None
        for stale in (None, before):
            with _open(harness, strategy) as (sink, writer):
                head = sink.journal(key())
                writer.stage(Part("p"), Rows(sample(5, 6)))
                with pytest.raises(Conflict):
                    writer.commit(stale, at(9), ())
                writer.abort()
                assert sink.journal(key()) == head
            same(harness.rows(), expected.drop_columns(own(expected)))

    @case("exactly_once")
    def test_of_two_runners_one_commits(self, harness: Harness) -> None:
        """Two loads start from one head: the first commit succeeds, the other one writes nothing, whatever it
        staged."""
        strategy = simple(harness)
        load(harness, sample(1, 1), strategy)
        with _open(harness, strategy) as (one, first), _open(harness, strategy) as (_, second):
            head = one.journal(key())
            second.stage(Part("p"), Rows(sample(1, 3)))
            second.commit(head, at(2), ())
            expected = harness.rows()
            assert expected is not None
            with pytest.raises(DponeError):  # its staging was swept, or the fence holds
                _stage_and_commit(first, sample(7, 8), head)
        same(harness.rows(), expected.drop_columns(own(expected)))

    @case("exactly_once")
    def test_of_a_load_and_a_rewind_at_once_one_commits(self, harness: Harness) -> None:
        """A run and an operator's rewind commit from one head at the same time: one succeeds, the other one writes
        nothing."""
        strategy = simple(harness)
        for n in range(5):
            name = f"{TABLE}{n}"
            head = load(harness, sample(1, 1), strategy, name).entry
            with ExitStack() as opened:
                sink, rewind = opened.enter_context(_open(harness, strategy, name, schema=None))
                _, run = opened.enter_context(_open(harness, strategy, name))
                run.stage(Part("p"), Rows(sample(2, 3)))
                done = _commits_at_once(
                    [partial(rewind.commit, head, at(0, epoch=1)), partial(run.commit, head, at(1))]
                )
                assert len(done) == 1, f"{len(done)} commits followed one head"
                [(which, receipt)] = done.items()
                assert sink.journal(key(name)) == receipt.entry
            expected = sample(1, 3) if strategy.mode != "full_refresh" else sample(2, 3)
            same(harness.rows(name), sample(1, 1) if which == 0 else expected)

    @case("exactly_once")
    def test_a_load_whose_staging_was_swept_commits_no_part_of_it(self, harness: Harness) -> None:
        """If the next load of the key has begun, what was staged before is committed as a whole or refused."""
        strategy = simple(harness)
        before = load(harness, sample(1, 1), strategy).entry
        with _open(harness, strategy) as (sink, first):
            first.stage(Part("p"), Rows(sample(2, 4)))
            with _open(harness, strategy):
                try:
                    receipt = first.commit(before, at(2), ())
                except DponeError:
                    assert sink.journal(key()) == before
                    same(harness.rows(), sample(1, 1))
                else:
                    assert receipt.inserted == 3, "the position was saved, but the rows staged for it are lost"

    @case("exactly_once")
    def test_streams_that_commit_at_once_lose_nothing(self, harness: Harness) -> None:
        """Two streams commit to one target at the same time: each has its rows and its entry, or is refused."""
        strategy = simple(harness)
        for n in range(5):
            name = f"{TABLE}{n}"
            load(harness, sample(1, 1), strategy, name)
            done = _commit_at_once(harness, strategy, name, (sample(2, 3), sample(4, 5)))
            assert done
            with closing(harness.make("sink", harness.sink(strategy, name))) as sink:
                assert [sink.journal(stream) for stream in done] == [receipt.entry for receipt, _ in done.values()]
            news = [rows for _, rows in done.values()]
            if strategy.mode == "append":
                same(harness.rows(name), pa.concat_tables([sample(1, 1), *news]))

    @case("write")
    def test_an_aborted_load_leaves_no_trace(self, harness: Harness) -> None:
        """A stream that fails, then abort, twice: rows and journal are as before, and the next load works."""
        strategy = simple(harness)
        load(harness, sample(1, 2), strategy)
        with _open(harness, strategy) as (sink, writer):
            head = sink.journal(key())
            writer.stage(Part("a"), Rows(sample(3, 9)))
            with pytest.raises(Broken):
                writer.stage(Part("b"), Rows(sample(10, 30), between=breaking(2)))
            same(harness.rows(), sample(1, 2))
            writer.abort()
            writer.abort()
            assert sink.journal(key()) == head
        same(harness.rows(), sample(1, 2))
        load(harness, sample(1, 4), strategy)
        expected = sample(1, 4) if strategy.mode != "append" else pa.concat_tables([sample(1, 2), sample(1, 4)])
        same(harness.rows(), expected)

    @case("exactly_once")
    def test_a_rewind_is_journalled_alone(self, harness: Harness) -> None:
        """A load without schema moves position and epoch; the rows stay."""
        strategy = simple(harness)
        head = load(harness, sample(1, 2), strategy).entry
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            with closing(sink.open(new_load(None, strategy))) as writer:
                receipt = writer.commit(head, at(0, epoch=1), ())
            assert (receipt.entry.seq, receipt.entry.epoch) == (2, 1)
            assert sink.journal(key()) == receipt.entry
        same(harness.rows(), sample(1, 2))

    @case("exactly_once")
    def test_a_lost_answer_is_no_second_load(self, harness: Harness) -> None:
        """The commit succeeded but its answer was lost: the run finds it in the journal, and every row is stored
        once."""
        run = crash.runs(harness, simple(harness))
        run.add(sample(1, 5))
        report = run.here(cut=True)
        assert report.exit_code == 0, report.streams[0].error
        same(harness.rows(), sample(1, 5))
        assert run.here().streams[0].status == "caught_up"
        same(harness.rows(), sample(1, 5))

    @case("exactly_once")
    def test_a_killed_run_is_finished_by_the_next(self, harness: Harness) -> None:
        """SIGKILL at every step of a run: the next run leaves every row once and one journal entry per load."""
        strategy = simple(harness)
        for step in STEPS:
            name = f"killed_{step}"
            run = crash.runs(harness, strategy, name)
            run.add(sample(1, 5))
            assert run.here().exit_code == 0
            run.add(sample(6, 11))
            run.add(sample(12, 15))
            run.killed(step)
            committed = STEPS.index(step) >= STEPS.index("committed")
            same(harness.rows(name), sample(1, 15) if committed else sample(1, 5))
            report = run.here()
            assert report.exit_code == 0, report.streams[0].error
            same(harness.rows(name), sample(1, 15))
            assert run.here().streams[0].status == "caught_up"
            assert run.head().seq == 2

    @case("exactly_once")
    def test_a_commit_cut_off_between_two_statements_is_made_good(self, harness: Harness) -> None:
        """A SQL sink whose process is dead after any statement of a commit, by every strategy: the next run leaves
        every row once, an entry for each load, and no table that was there for a while."""
        if not over_sql(harness):
            return
        for strategy, changed, options in _cut_off(harness):
            name = f"{strategy.mode}_{'kept' if options else 'cut'}"
            loads, model = (
                InterruptedLoads(harness, strategy, name, options, changed),
                SINGLE["merge"] if changed else strategy,
            )
            reads: list[list[Row]] = []
            for last in count():
                reads.append(_cut_read(last))
                rows = _changes(reads) if changed else table(reads[-1])
                whole = loads.run(last, rows, last) if last else True
                assert loads.run(last, rows)
                same(harness.rows(name), after(model, reads))
                with closing(loads.sink()) as sink:
                    head = sink.journal(key(name))
                assert (head and head.seq, head and head.position) == (last + 1, at(last))
                assert loads.left() == set(), f"left after statement {last} of a commit by {strategy.mode}"
                if last and whole:
                    break

    @case("exactly_once")
    def test_a_staging_that_nobody_knows_is_swept(self, harness: Harness) -> None:
        """A staging table without a line (both were interrupted by kills) is dropped by the next load of the key; the
        staging of another stream is kept."""
        if not over_sql(harness):
            return
        strategy = simple(harness)
        loads = InterruptedLoads(harness, strategy, TABLE)
        with _open(harness, strategy, key=f"{key()}|other") as (_, other):
            other.stage(Part("p"), Rows(sample(3, 4)))
            loads.strand(0, sample(1, 2))
            assert loads.left(), "the staging table exists without its line"
            assert loads.run(0, sample(1, 2))
            assert loads.left() == set(), "a staging table without its line is never dropped"
            try:
                other.commit(None, at(0))
            except DponeError as error:
                raise AssertionError("rows staged by another stream are lost") from error
        if strategy.mode != "full_refresh":
            same(harness.rows(), sample(1, 4))

    # ---- lineage, schema, staging

    @case("lineage")
    def test_every_row_names_its_load(self, harness: Harness) -> None:
        """Rows carry the id of the load that wrote them and when it began; with lineage off they do not."""
        strategy = simple(harness)
        start = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
        receipt = load(harness, sample(1, 3), strategy, started_at=start, load_id="01HX0000000000000000000000")
        found = harness.rows()
        assert found is not None
        assert {LOAD_ID, LOADED_AT} <= set(found.column_names)
        assert receipt.entry.load_id == "01HX0000000000000000000000"
        assert found[LOAD_ID].to_pylist() == [receipt.entry.load_id] * 3
        assert found[LOADED_AT].cast(pa.timestamp("us", "UTC")).to_pylist() == [start] * 3
        load(harness, sample(1, 3), strategy, "bare", lineage=Lineage(False))
        bare = harness.rows("bare")
        assert bare is not None
        assert own(bare) == []

    @case("lineage")
    def test_lineage_is_added_to_a_target_without_it(self, harness: Harness) -> None:
        """``Sink.ddl`` adds the lineage columns that an existing target lacks; older rows have NULL in them."""
        strategy = simple(harness)
        load(harness, sample(1, 2), strategy, lineage=Lineage(False))
        load_id = load(harness, sample(3, 4), strategy, n=1).entry.load_id
        found = harness.rows()
        assert found is not None
        assert LOAD_ID in found.column_names, "the target has no lineage column after the load"
        expected = {1: None, 2: None, 3: load_id, 4: load_id} if strategy.mode != "full_refresh" else {}
        named = dict(zip(map(int, found["id"].to_pylist()), found[LOAD_ID].to_pylist(), strict=True))
        assert named == (expected or {3: load_id, 4: load_id})

    @case("schema_evolution")
    def test_a_new_column_is_added(self, harness: Harness) -> None:
        """A column the target lacks is added before staging, whatever its name; older rows have NULL in it."""
        strategy = simple(harness)
        load(harness, sample(1, 2), strategy)
        names = holdable(harness, "name", hostile.ORDINARY_NAMES)
        for i in range(len(names)):
            grown = sample(3 + i, 3 + i)
            for earlier in names[: i + 1]:
                grown = grown.append_column(earlier, pa.array([i], pa.int64()))
            load(harness, grown, strategy)
        found = harness.rows()
        assert found is not None
        kept = [c for c in found.column_names if c not in own(found)]
        assert sorted(kept) == sorted(grown.column_names)
        if strategy.mode in ("append", "merge"):
            first = found[names[0]].cast(pa.int64()).to_pylist()
            assert Counter(first) == Counter([None, None, *range(len(names))])

    @case("schema_evolution")
    def test_a_wider_type_fits_afterwards(self, harness: Harness) -> None:
        """int32 to int64, float32 to float64: old values stay, values that need the room arrive."""
        strategy = simple(harness)
        narrow = pa.table({"i": pa.array([1, None], pa.int32()), "f": pa.array([0.5, None], pa.float32())})
        wide = pa.table({"i": pa.array([2**40], pa.int64()), "f": pa.array([1e300], pa.float64())})
        load(harness, narrow, strategy)
        load(harness, wide, strategy)
        rows = [(2**40, 1e300)] + ([(1, 0.5), (None, None)] if strategy.mode == "append" else [])
        same(harness.rows(), rows, wide.schema)

    @case("schema_evolution")
    def test_a_widening_rounds_nothing(self, harness: Harness) -> None:
        """Whole numbers that meet fractions: the column holds both, or, where a double would round a number that is
        there, the load stops and the target stays."""
        strategy = simple(harness)
        half = pa.table({"i": pa.array([0.5])})
        for name, number in (("fits", 2**53), ("rounds", 2**53 + 1)):
            whole = pa.table({"i": pa.array([number, None], pa.int64())})
            load(harness, whole, strategy, name)
            try:
                load(harness, half, strategy, name)
            except SchemaBreak:
                assert name == "rounds", "every number fits a double"
                same(harness.rows(name), whole)
                continue
            rows = harness.rows(name)
            assert rows is not None
            found = {Fraction(value) for value in rows["i"].to_pylist() if value is not None}
            assert found == ({Fraction(number), Fraction(1, 2)} if strategy.mode == "append" else {Fraction(1, 2)})

    @case("schema_evolution")
    def test_a_widening_cut_off_between_two_statements_keeps_its_column(self, harness: Harness) -> None:
        """A SQL sink whose process is dead after any statement of a widening: the column has its name and its values.
        Where DDL commits, a new column that takes the name of the old one loses both in between."""
        if not over_sql(harness):
            return
        numbers, wide = pa.table({"i": pa.array([1, 2, None], pa.int64())}), pa.field("i", pa.float64())
        for last in count(1):
            load(harness, numbers, simple(harness), f"wide_{last}")
            whole = widened(harness, simple(harness), f"wide_{last}", wide, last)
            rows = harness.rows(f"wide_{last}")
            assert rows is not None
            found = rows["i"].to_pylist() if "i" in rows.column_names else []
            assert {one and float(one) for one in found} == {1.0, 2.0, None}, (
                f"lost after statement {last} of a widening"
            )
            if whole:
                break

    @case("schema_evolution")
    def test_what_is_not_allowed_changes_nothing(self, harness: Harness) -> None:
        """A column that the source lost, and a text where a number was, stop the load; target and journal stay."""
        strategy = simple(harness)
        head = load(harness, sample(1, 2), strategy).entry
        text = sample(3, 3).set_column(3, "score", pa.array(["x"]))
        more = sample(3, 3).append_column("more", pa.array([1], pa.int64()))
        for rows in (sample(3, 3).drop_columns(["name"]), text):
            with pytest.raises(SchemaBreak):
                load(harness, rows, strategy)
        with pytest.raises(SchemaBreak):
            load(harness, more, strategy, schema_evolution=SchemaEvolution("strict"))
        same(harness.rows(), sample(1, 2))
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            assert sink.journal(key()) == head

    @case("take_back")
    def test_a_failed_load_takes_back_what_it_added(self, harness: Harness) -> None:
        """The table it made, the column it added: gone with the next ``take_back``, whether the load was aborted or its
        process died; what a commit has made the target's stays (``contract.SupportsTakeBack``)."""
        strategy = simple(harness)
        more = sample(3, 4).append_column("more", pa.array([7, 8], pa.int64()))
        for dies in (False, True):
            failed(harness, strategy, sample(1, 2), dies)
            assert _taken(harness, strategy) == 1
            assert harness.rows() is None, "the table created by a failed load still exists"
        load(harness, sample(1, 2), strategy)
        before = _names(harness)
        failed(harness, strategy, more, dies=True)
        assert _taken(harness, strategy, run_id="another run") == 0
        assert _taken(harness, strategy) == 1
        assert _names(harness) == before
        with providing(harness, strategy, more) as (sink, writer):
            writer.stage(Part("p"), Rows(more))
            writer.commit(sink.journal(key()), at(1), ())
        assert _taken(harness, strategy) == 0
        assert _names(harness) == sorted([*before, "more"])

    @case("take_back")
    def test_what_others_use_is_not_taken_back(self, harness: Harness) -> None:
        """A table and a column that a failed load has added, and that the load of another stream counts on: they stay,
        and so do the values that it commits."""
        strategy = simple(harness)
        more = sample(3, 4).append_column("more", pa.array([7, 8], pa.int64()))
        for rows in (sample(1, 2), more):
            for when in ("staged", "committed"):
                name = f"{TABLE}_{when}_{rows.num_columns}"
                if rows is more:
                    load(harness, sample(1, 2), strategy, name)
                failed(harness, strategy, rows, dies=True, table=name)
                with providing(harness, strategy, rows, name, key=f"{key(name)}|other") as (_, writer):
                    writer.stage(Part("p"), Rows(rows))
                    if when == "staged":
                        assert _taken(harness, strategy, name) == 0
                    writer.commit(None, at(1), ())
                assert _taken(harness, strategy, name) == 0
                found = harness.rows(name)
                assert found is not None
                if rows is more:
                    assert "more" in found.column_names, "committed values are lost"
                    values = found["more"].cast(pa.int64()).to_pylist()
                    assert [value for value in values if value is not None] == [7, 8]
                else:
                    same(found, rows)

    @case("replace_columns")
    def test_columns_are_replaced_by_the_commit_alone(self, harness: Harness) -> None:
        """``Load.replace_columns``: a column of another type and one that is gone. Until the commit, and after an
        abort, the target is as it was; then it has the new columns and the new rows."""
        load(harness, sample(1, 3), FULL)
        other = sample(2, 4).drop_columns(["name"])
        other = other.set_column(other.column_names.index("score"), "score", pa.array(["x", None, "z"]))
        spec = harness.sink(FULL)
        for ends in ("abort", "commit"):
            with (
                closing(harness.make("sink", spec)) as sink,
                closing(sink.open(new_load(other.schema, FULL, replace_columns=True))) as writer,
            ):
                writer.stage(Part("a"), Rows(other))
                same(harness.rows(), sample(1, 3))
                if ends == "abort":
                    writer.abort()
                else:
                    writer.commit(sink.journal(key()), at(1), ())
            same(harness.rows(), sample(1, 3) if ends == "abort" else other)
        with (
            closing(harness.make("sink", spec)) as sink,
            closing(sink.open(new_load(SHAPE, FULL, replace_columns=True))) as writer,
        ):
            writer.stage(Part("a"), Rows(sample(1, 0)))
            writer.commit(sink.journal(key()), at(2), ())
        same(harness.rows(), other)

    @case("schema_evolution")
    def test_evolution_comes_to_rest(self, harness: Harness) -> None:
        """The schema a target reads back is one for which the same rows ask no further change."""
        rows = pa.table({f"c{i}": pa.array([], type_) for i, type_ in enumerate(hostile.VALUES)})
        spec = harness.sink(simple(harness))
        with closing(harness.make("sink", spec)) as sink:
            assert prepare(sink, spec, rows.schema).changes
            try:
                again = prepare(sink, spec, rows.schema).changes
            except SchemaBreak as error:
                raise AssertionError(f"the same rows no longer fit: {error}") from error
            assert again == ()

    @case("sql")
    def test_the_dialect_is_that_of_the_sink(self, harness: Harness) -> None:
        """``contract.SupportsSql``: unconnected, it keeps types as the sink says, and names the table of ``ddl``."""
        spec = harness.sink(simple(harness))
        with closing(harness.make("sink", spec)) as sink:
            harness.require(SupportsSql, sink)
            for type_ in hostile.VALUES:
                with suppress(DponeError):  # a type that has no home is refused by both
                    assert sink.dialect.stores(type_) == sink.stores(type_)
            plan = evolution.plan(None, SHAPE, spec.options.schema_evolution, sink.stores)
            named = all(sink.dialect.quote(TABLE) in statement for statement in sink.ddl(plan.changes))
            assert named, "a statement of ddl does not quote the table as the dialect does"
            assert sink.dialect.quote('a"b') != sink.dialect.quote("a")

    @case("compare_keys")
    def test_a_key_column_compares_as_was_said(self, harness: Harness) -> None:
        """``contract.SupportsCompareKeys``: a column that ``ddl`` has made takes for equal what ``made`` said of it,
        and texts are found by their pattern, where there are any."""
        strategy = simple(harness)
        rows = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["1.00", "x"], "score": pa.array([0.5, 1.5])})
        for field in rows.schema:  # of another system, in which keys that differ are equal
            rows = rows.cast(rows.schema.set(rows.schema.get_field_index(field.name), field.with_metadata(_FOLDED)))
        spec = harness.sink(strategy)
        with closing(harness.make("sink", spec)) as sink:
            harness.require(SupportsCompareKeys, sink)
            load(harness, rows, strategy)
            have = sink.schema()
            assert have is not None
            for field in rows.schema:
                said = keys.equality(sink.made(field)) == keys.equality(have.field(field.name))
                assert said, f"{field.name} does not compare as made() said"
            found = [sink.holds_like("name", like) for like in ("%.00", "%.5")]
            assert found == [True, False], "holds_like does not find a text by its pattern"

    @case("resume")
    def test_staged_parts_survive(self, harness: Harness) -> None:
        """A repeatable load continues with its staged parts and their marks; no part is staged twice."""
        strategy = simple(harness)
        with _open(harness, strategy, repeatable=True, load_id="01HX0000000000000000000001") as (_, writer):
            staged = writer.stage(Part("one"), Rows(sample(1, 4), filtered=2, quarantined=1, checks="kept"))
            assert (staged.rows, staged.filtered, staged.quarantined, staged.checks) == (4, 2, 1, "kept")
            with pytest.raises(Broken):
                writer.stage(Part("two"), Rows(sample(5, 20), between=breaking(2)))
        with _open(harness, strategy, repeatable=True, load_id="01HX0000000000000000000002") as (sink, writer):
            assert writer.load_id == "01HX0000000000000000000001"
            assert dict(writer.staged()) == {"one": staged}
            assert writer.stage(Part("one"), Rows(sample(90, 99), between=breaking(0))) == staged
            writer.stage(Part("two"), Rows(sample(5, 6)))
            assert writer.commit(sink.journal(key()), at(1), ()).entry.load_id == "01HX0000000000000000000001"
        same(harness.rows(), sample(1, 6))

    @case("resume")
    def test_staging_of_another_load_is_swept(self, harness: Harness) -> None:
        """Parts of another token, or of a momentary load, are never taken up."""
        strategy = simple(harness)
        for later in ({"repeatable": True, "token": "other"}, {"repeatable": False}):
            with _open(harness, strategy, repeatable=True) as (_, writer):
                writer.stage(Part("one"), Rows(sample(1, 4)))
            with _open(harness, strategy, **later) as (_, writer):
                assert dict(writer.staged()) == {}
                writer.abort()
        load(harness, sample(7, 8), strategy)
        same(harness.rows(), sample(7, 8))

    @case("parallel_stage")
    def test_parts_are_staged_at_once(self, harness: Harness) -> None:
        """Four parts from four threads, each of which waits for the others at its second batch. Not tried where it is
        not declared: a driver whose connection several threads use may take the process with it."""
        assert has(harness, "parallel_stage"), "parts are not staged at the same time: parallel_stage is not declared"
        barrier = threading.Barrier(4, timeout=20)

        def stage(writer: Any, n: int) -> None:
            try:
                writer.stage(Part(f"p{n}"), Rows(sample(n * 10 + 1, n * 10 + 10), between=between))
            except threading.BrokenBarrierError:
                raise AssertionError("parts are not staged at the same time: one waits for another") from None
            except Exception as error:  # a connection that several threads use at once breaks in any way
                barrier.abort()
                raise AssertionError(
                    f"parts are not staged at the same time: one failed: {type(error).__name__}"
                ) from error

        def between(batch: int) -> None:
            if batch == 1:
                barrier.wait()

        with _open(harness, simple(harness)) as (sink, writer):
            at_once([partial(stage, writer, n) for n in range(4)])
            writer.commit(sink.journal(key()), at(1), ())
        same(harness.rows(), sample(1, 40))

    @case("native_stream")
    def test_a_native_stream_is_taken(self, harness: Harness) -> None:
        """The bytes of the system's own format arrive as the rows they stand for; no batch is asked for."""
        stream, expected = harness.native(sample(1, 20))
        load(harness, expected, simple(harness), stream=_NativeOnly(stream))
        same(harness.rows(), expected)

    @case("many_tables")
    def test_rows_of_many_tables_are_one_commit(self, harness: Harness) -> None:
        """The writers in ``also`` commit together with the first, or not at all; each leaves its own entry."""
        strategy = simple(harness)
        with _two_tables(harness, strategy, strategy) as (_, _, one, two):
            with pytest.raises(Conflict):
                one.commit(_entry(at(5)), at(1), also=[two])
            two.abort()
            one.abort()
        same(harness.rows("lines"), sample(1, 0))
        with _two_tables(harness, strategy, strategy) as (sink, second, one, two):
            receipt = one.commit(sink.journal(key()), at(1), also=[two])
            companion = second.journal(key("lines"))
            assert companion is not None
            assert (companion.seq, companion.position) == (1, at(1))
            assert sink.journal(key()) == receipt.entry
        same(harness.rows(), sample(1, 3))
        same(harness.rows("lines"), sample(4, 6))

    @case("many_tables")
    def test_where_one_table_fails_all_do(self, harness: Harness) -> None:
        """A commit of two tables, the second of which must refuse its rows: neither has a row, nor an entry."""
        if not has(harness, "replace"):
            pytest.skip("there is no strategy that refuses rows when they are committed")
        with _two_tables(harness, simple(harness), SINGLE["replace"]) as (sink, second, one, two):
            with pytest.raises(DataError):
                one.commit(None, at(1), also=[two])
            two.abort()
            one.abort()
            entries = sink.journal(key()), second.journal(key("lines"))
        same(harness.rows(), sample(1, 0))
        same(harness.rows("lines"), sample(1, 0))
        assert entries == (None, None)

    @case("sweep")
    def test_old_entries_are_swept_and_no_others(self, harness: Harness) -> None:
        """A look changes nothing; the head stays, and so does what an undo needs; no row is touched; once is enough."""
        strategy = simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=1)} if has(harness, "undo") else {}
        heads = [load(harness, sample(n, n + 1), strategy, n=n, **keep).entry for n in (1, 3, 5, 7)]
        expected, now = _python(harness.rows()), datetime.now(UTC)
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsSweep, sink)
            assert list(sink.leftovers(key(), now - timedelta(days=1))) == [], "entries of today are old"
            assert list(sink.leftovers("another", now + timedelta(days=1))) == [], "entries of another key"
            found = list(sink.leftovers(key(), now + timedelta(days=1)))
            wanted = [Leftover("journal", key(), 2 if keep else 3)]
            assert found == wanted, found
            assert list(sink.leftovers(key(), now + timedelta(days=1))) == wanted, "the look changed something"
            assert list(sink.sweep(key(), now + timedelta(days=1))) == wanted
            assert list(sink.leftovers(key(), now + timedelta(days=1))) == []
            assert sink.journal(key()) == heads[-1], "the head is gone"
            if keep:
                assert sink.undo_plan(key(), heads[-1].load_id).position == heads[-2].position, "an undo lost its way"
        assert _python(harness.rows()) == expected
        assert load(harness, sample(9, 9), strategy, n=9, **keep).entry.seq == heads[-1].seq + 1

    @case("move")
    def test_a_key_is_renamed_whole(self, harness: Harness) -> None:
        """The journal continues under the new key, entry by entry, with everything that belongs to it; no row
        changes."""
        strategy = simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=5)} if has(harness, "undo") else {}
        load(harness, sample(1, 2), strategy, n=1, **keep)
        head = load(harness, sample(1, 4), strategy, n=2, **keep).entry
        expected = harness.rows()
        assert expected is not None
        new, gone = f"{key()}-new", _entry(at(0, epoch=1))
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsMove, sink)
            assert sink.journal_keys() == [key()]
            sink.move(key(), head, new, None, gone)
            assert (sink.journal(new), sink.journal(key())) == (head, gone)
            assert sink.journal_keys() == sorted([key(), new])
            same(harness.rows(), expected.drop_columns(own(expected)))
            if keep:
                assert sink.undo_plan(new, head.load_id).position == at(1)
            sink.move(new, head, key(), gone, _entry(at(0, epoch=2)))  # and back, onto the mark it left
            assert sink.journal(key()) == head
            sink.move(key(), head, new, sink.journal(new), gone)
        with _open(harness, strategy, key=new) as (sink, writer):
            writer.stage(Part("p"), Rows(sample(7, 8)))
            assert writer.commit(head, at(3), ()).entry.seq == head.seq + 1

    @case("move")
    def test_who_renames_a_key_is_fenced(self, harness: Harness) -> None:
        """Not after another head, nor onto another one; and a runner of the old key that is still alive loses, whether
        it began before the first load or after it."""
        strategy = simple(harness)
        first = load(harness, sample(1, 1), strategy, n=1).entry
        head = load(harness, sample(1, 2), strategy, n=2).entry
        expected, new, gone = harness.rows(), f"{key()}-new", _entry(at(0, epoch=1))
        assert expected is not None
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            harness.require(SupportsMove, sink)
            for wrong, before in ((first, None), (head, first)):
                with pytest.raises(Conflict):
                    sink.move(key(), wrong, new, before, gone)
                assert (sink.journal(key()), sink.journal(new)) == (head, None)
            with _open(harness, strategy) as (_, late):
                late.stage(Part("p"), Rows(sample(7, 8)))
                sink.move(key(), head, new, None, gone)
                for known in (head, None):
                    with pytest.raises(DponeError):  # its staging was dropped, or the fence holds
                        late.commit(known, at(3), ())
            assert (sink.journal(key()), sink.journal(new)) == (gone, head)
        same(harness.rows(), expected.drop_columns(own(expected)))

    @case("undo")
    def test_a_load_is_taken_back(self, harness: Harness) -> None:
        """The newest load is undone under the fence: rows and their lineage are as before it, once."""
        strategy = SINGLE["merge"] if has(harness, "merge") else simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=5)}
        first = load(harness, sample(1, 4), strategy, n=1, **keep)
        changed = [(i, "d9", "changed", None) for i in (3, 4)] if strategy.mode == "merge" else []
        second = load(harness, table([*changed, *_python(sample(5, 7))]), strategy, n=2, **keep).entry.load_id
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsUndo, sink)
            assert sink.undo_plan(key(), second).position == at(1)
            head = sink.journal(key())
            with pytest.raises(Conflict):
                sink.undo(new_load(None, strategy), second, first.entry, at(1, epoch=1))
            assert sink.journal(key()) == head
            receipt = sink.undo(new_load(None, strategy), second, head, at(1, epoch=1))
            assert (receipt.entry.seq, receipt.entry.position) == (3, at(1, epoch=1))
            assert receipt.entry.undoes == second, "the entry does not name the load that it undoes"
            assert sink.journal(key()) == receipt.entry
            with pytest.raises(Stopped):
                sink.undo(new_load(None, strategy), second, receipt.entry, at(1, epoch=1))
        same(harness.rows(), sample(1, 4))
        found = harness.rows()
        assert found is not None
        assert set(found[LOAD_ID].to_pylist()) == {first.entry.load_id}

    @case("undo")
    def test_only_the_newest_load_is_taken_back(self, harness: Harness) -> None:
        """A load that another one came after is refused, and nothing changes."""
        strategy = simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=5)}
        first = load(harness, sample(1, 2), strategy, n=1, **keep).entry.load_id
        load(harness, sample(3, 4), strategy, n=2, **keep)
        expected = _python(harness.rows())
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsUndo, sink)
            head = sink.journal(key())
            for attempt in (sink.undo_plan, lambda k, i: sink.undo(new_load(None, strategy), i, head, at(0, epoch=1))):
                with pytest.raises(Stopped):
                    attempt(key(), first)
            assert sink.journal(key()) == head
        assert _python(harness.rows()) == expected

    @case("undo")
    def test_a_load_is_found_by_its_id(self, harness: Harness) -> None:
        """Without its key, with the loads that came after it; its rows are counted; an unknown one is not there."""
        strategy = simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=5)}
        ids = [load(harness, sample(n, n + 1), strategy, n=n, **keep).entry.load_id for n in (1, 3)]
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsUndo, sink)
            for begin in (0, 1):
                found = [(k, entry.load_id) for k, entry in sink.loads(ids[begin])]
                assert found == [(key(), one) for one in ids[begin:]], found
            assert list(sink.loads("01JUNKNOWN")) == []
            assert sink.remaining(ids[1]) == 2, "rows that bear the id of the load"
            receipt = sink.undo(new_load(None, strategy), ids[1], sink.journal(key()), at(3, epoch=1))
            assert sink.remaining(ids[1]) == 0
            assert [entry.undoes for _, entry in sink.loads(ids[1])][-1] == ids[1], "the entry that took it back"
            assert receipt.entry == sink.loads(ids[1])[-1][1]

    @case("undo")
    def test_an_undo_is_rehearsed(self, harness: Harness) -> None:
        """The rehearsal changes nothing, and says what the undo then does; it refuses what the undo refuses."""
        strategy = SINGLE["merge"] if has(harness, "merge") else simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=5)}
        first = load(harness, sample(1, 4), strategy, n=1, **keep).entry.load_id
        changed = [(i, "d9", "changed", None) for i in (3, 4)] if strategy.mode == "merge" else []
        second = load(harness, table([*changed, *_python(sample(5, 7))]), strategy, n=2, **keep).entry.load_id
        expected = _python(harness.rows())
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsUndo, sink)
            head, undo = sink.journal(key()), new_load(None, strategy)
            rehearsal = sink.rehearse(undo, second, head, at(1, epoch=1))
            assert (_python(harness.rows()), sink.journal(key())) == (expected, head), "the rehearsal changed something"
            assert rehearsal.statements
            with pytest.raises(Stopped):
                sink.rehearse(undo, first, head, at(0, epoch=1))
            receipt = sink.undo(undo, second, head, at(1, epoch=1))
            assert (receipt.deleted, receipt.inserted) == (rehearsal.deleted, rehearsal.inserted)
            with pytest.raises(Stopped):
                sink.rehearse(undo, second, sink.journal(key()), at(1, epoch=1))
        same(harness.rows(), sample(1, 4))


def _values_arrive(harness: Harness, strategy: Strategy, type_: pa.DataType) -> None:
    tables, schema = count(), pa.schema([("x", type_)])
    label = re.sub(r"\W", "", str(type_))

    @hostile.examples
    @given(hostile.columns(type_))
    def arrives(column: list[Any]) -> None:
        name = f"{label}_{next(tables)}"
        rows = table([(value,) for value in column], schema)
        try:
            load(harness, rows, strategy, name)
        except DataError:
            same(harness.rows(name), rows.slice(0, 0))
        else:
            same(harness.rows(name), rows)

    arrives()


def _answers(ask: Callable[[Any], Any], of: Any) -> None:
    try:
        ask(of)
    except (ConfigError, SchemaBreak, DataError):  # a type that it does not keep
        pass
    except Exception as error:
        raise AssertionError(f"it opens a file or a connection: {error!r}") from error


def _opened(sink: Sink, begun: Any) -> Any:
    try:
        return sink.open(begun)
    except Exception as error:
        raise AssertionError(f"an aborted load cannot be opened again: {error!r}") from error


def _close(one: Any) -> None:
    try:
        one.close()
    except Exception as error:
        raise AssertionError(f"close may be called twice, but raises {error!r}") from error


def _keeps(harness: Harness, name: str, column: pa.Array, stored: Stored) -> None:
    """Values of one type: all of them arrive, or are refused if ``stored`` says that they may be."""
    refused = None
    try:
        load(harness, pa.table({"x": column}), simple(harness), name)
    except DataError as error:
        refused = error
    said = f"a column of {column.type} is {stored.fidelity}, it is said"
    assert refused is None or stored.fidelity == "checked", f"{said}, but a value is refused: {refused}"
    if refused is not None:
        return
    found = harness.rows(name)
    assert found is not None
    assert Counter(_exact(found["x"], column.type)) == Counter(_exact(column, column.type)), f"{said}; values differ"
    with closing(harness.make("sink", harness.sink(simple(harness), name))) as sink:
        schema = sink.schema()
    assert schema is None or schema.field("x").type == stored.arrow, f"it comes back as {stored.arrow}, it is said"


def _exact(column: pa.Array | pa.ChunkedArray, type_: pa.DataType) -> list[str]:
    """Values in a type, each as a text; nanoseconds too, for which Python has no type."""
    try:
        if pa.types.is_timestamp(type_):
            finest = pa.timestamp("ns" if type_.unit == "ns" else "us", type_.tz and "UTC")
            return list(map(str, column.cast(finest).cast(pa.int64()).to_pylist()))
        return list(map(repr, column.cast(type_).to_pylist()))
    except pa.ArrowInvalid as error:
        raise AssertionError(f"values do not fit {type_}: {error}") from error


def _python(rows: pa.Table) -> list[Row]:
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _entry(position: Any) -> Any:
    from dpone.contract import Entry

    return Entry(7, 0, "01HX0000000000000000000009", "run", "token", position, datetime.now(UTC))


def _stage_and_commit(writer: Any, rows: pa.Table, head: Any) -> None:
    writer.stage(Part("p"), Rows(rows))
    writer.commit(head, at(3), ())


def _commit_at_once(
    harness: Harness, strategy: Strategy, table: str, reads: Sequence[pa.Table]
) -> dict[str, tuple[Receipt, pa.Table]]:
    """Streams with a read each, from threads that wait for one another before the commit: those that committed."""
    ready = threading.Barrier(len(reads), timeout=20)

    def one(stream: str, rows: pa.Table) -> Receipt:
        try:
            with closing(harness.make("sink", harness.sink(strategy, table))) as sink:
                prepare(sink, harness.sink(strategy, table), rows.schema)
                with closing(sink.open(new_load(rows.schema, strategy, table, key=stream))) as writer:
                    writer.stage(Part("p"), Rows(rows))
                    with suppress(threading.BrokenBarrierError):  # the other was refused before
                        ready.wait()
                    receipt: Receipt = writer.commit(None, at(1), ())
                    return receipt
        except BaseException:
            ready.abort()
            raise

    streams = {f"{key(table)}|{i}": rows for i, rows in enumerate(reads)}
    done = zip(streams.items(), at_once([partial(one, *stream) for stream in streams.items()]), strict=True)
    return {stream: (receipt, rows) for (stream, rows), receipt in done if not isinstance(receipt, DponeError)}


def _commits_at_once(commits: Sequence[Callable[[], Receipt]]) -> dict[int, Receipt]:
    """Begun together: the receipts of those that were not refused, by place."""
    ready = threading.Barrier(len(commits), timeout=20)

    def one(commit: Callable[[], Receipt]) -> Receipt:
        ready.wait()
        return commit()

    answers = at_once([partial(one, commit) for commit in commits])
    return {n: answer for n, answer in enumerate(answers) if not isinstance(answer, DponeError)}


@contextmanager
def _two_tables(harness: Harness, first: Strategy, second: Strategy) -> Iterator[tuple[Sink, Sink, Any, Any]]:
    """Sinks into ``orders`` and ``lines`` over one connection, and their writers, with three rows staged in each."""
    spec, other = harness.sink(first), harness.sink(second, "lines")
    with ExitStack() as opened:
        sink = opened.enter_context(closing(harness.make("sink", spec)))
        companion = opened.enter_context(closing(harness.require(SupportsManyTables, sink).for_table(other)))
        prepare(sink, spec, SHAPE)
        prepare(companion, other, SHAPE)
        one = sink.open(new_load(SHAPE, first))
        two = companion.open(new_load(SHAPE, second, "lines"))
        one.stage(Part("p"), Rows(sample(1, 3)))
        two.stage(Part("p"), Rows(sample(4, 6)))
        yield sink, companion, one, two


@contextmanager
def _open(
    harness: Harness, strategy: Strategy, table: str = TABLE, schema: pa.Schema | None = SHAPE, **given: Any
) -> Iterator[tuple[Sink, Any]]:
    """A sink and an open load of rows of ``SHAPE``, or with ``schema`` None a rewind."""
    spec = harness.sink(strategy, table)
    with closing(harness.make("sink", spec)) as sink:
        if schema is not None:
            prepare(sink, spec, schema)
        with closing(sink.open(new_load(schema, strategy, table, **given))) as writer:
            yield sink, writer


def _taken(harness: Harness, strategy: Strategy, table: str = TABLE, run_id: str = "") -> int:
    """How many things a new sink takes back."""
    with closing(harness.make("sink", harness.sink(strategy, table))) as sink:
        taken = harness.require(SupportsTakeBack, sink).take_back(key(table), run_id)
    assert [one.stays for one in taken if one.stays] == []
    return len(taken)


def _names(harness: Harness) -> list[str]:
    """Columns of the target, sorted, without dpone's own."""
    found = harness.rows()
    assert found is not None
    return sorted(set(found.column_names) - set(own(found)))


def _cdc_apply() -> Strategy:
    """With the policy that a truncation in the source is one in the target."""
    return Strategy("cdc_apply", key="id", truncate="apply")


def _intervals(found: pa.Table | None) -> list[tuple[Any, ...]]:
    assert found is not None
    instant = pa.timestamp("us", "UTC")
    columns = [found["id"], *(found[name].cast(instant) for name in (VALID_FROM, VALID_TO))]
    return sorted(zip(*(c.to_pylist() for c in columns), strict=True), key=lambda row: row[:2])


def _apply(
    harness: Harness, strategy: Strategy, rows: list[Any], n: int = 0, whole: bool = False, name: str = TABLE,
    replayed: bool = False,
) -> None:  # fmt: skip
    """Change batches of ``SHAPE``: (operation, row, key of the row met, columns the log left out)."""
    batches = _records(rows, n, strategy.key[0])
    spec = harness.sink(strategy, name)
    with closing(harness.make("sink", spec)) as sink:
        prepare(sink, spec, SHAPE)
        load = new_load(SHAPE, strategy, name, changes=True, repeatable=True, token=f"t{n}", whole=whole)
        load = evolve(load, replayed=replayed)
        with closing(sink.open(load)) as writer:
            writer.stage(Part("p"), Rows(batches))
            writer.commit(sink.journal(key(name)), at(n), ())


def _changes(reads: Sequence[list[Row]]) -> pa.Table:
    """A change of each row of the last read: those that were there before are updated."""
    known = {row[0] for read in reads[:-1] for row in read}
    given = [("update", row, row[0], ()) if row[0] in known else ("insert", row, None, ()) for row in reads[-1]]
    return _records(given, len(reads) - 1)


def _records(rows: list[Any], n: int, key: str = "id") -> pa.Table:
    schema = changes.batch_schema(ChangeTable(SHAPE, (key,)))
    records = []
    for i, (operation, row, old_key, absent) in enumerate(rows, 1):
        record = dict(zip(SHAPE.names, row or [None] * len(SHAPE), strict=True))
        record |= {changes.OPERATION: operation, changes.EVENT_ID: f"{n}-{i}", changes.COMMIT: f"{n:04d}"}
        record |= {changes.ORDINAL: i, changes.KEY: None if old_key is None else {key: old_key}}
        record |= {changes.UNCHANGED: {name: name in absent for name in SHAPE.names} if absent else None}
        records.append(record)
    return pa.Table.from_pylist(records, schema)
