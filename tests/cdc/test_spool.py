"""The spool: uniting of shapes, order, duplicates, and its bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from dpone.cdc.batch import unite
from dpone.cdc.history import _old_keys
from dpone.cdc.spool import Spool, _grows
from dpone.cdc.stream import ChangeStream
from dpone.contract import ChangeWindow, WindowRequest
from dpone.errors import DataError, SchemaBreak, SourceError
from dpone.model.changes import EVENT_ID, ChangeTable, batch_schema
from dpone.model.position import Position


def shape(key: tuple[str, ...] = ("id",), **types: pa.DataType) -> ChangeTable:
    return ChangeTable(pa.schema([pa.field(n, t, nullable=False) for n, t in types.items()]), key)


V1 = shape(id=pa.int32(), a=pa.string())
V2 = shape(id=pa.int64(), a=pa.string(), b=pa.string())


def batch(table: ChangeTable, *rows: Mapping[str, Any]) -> pa.RecordBatch:
    """Rows of op, commit, ordinal and the values that are given."""
    schema = pa.schema([f for f in batch_schema(table) if f.name != EVENT_ID])
    long = {"op": "__dpone__op", "commit": "__dpone__commit", "n": "__dpone__ordinal", "key": "__dpone__key",
            "before": "__dpone__before", "unchanged": "__dpone__unchanged"}  # fmt: skip
    data = [{"__dpone__op": "insert", **{long.get(k, k): v for k, v in row.items()}} for row in rows]
    return pa.RecordBatch.from_pylist(data, schema)


def row(commit: str, n: int, id: int, **more: Any) -> dict[str, Any]:
    return {"commit": commit, "n": n, "id": id, **more}


@pytest.fixture
def spool() -> Iterator[Spool]:
    made = Spool("log", after="2")
    yield made
    made.close()


def read(spool: Spool, table: str = "t") -> list[dict[str, Any]]:
    return [row for part in spool.read(table) for row in part.to_pylist()]


def ids(spool: Spool) -> list[str]:
    return [name for part in spool.read("t") for name in part.column(EVENT_ID).to_pylist()]


def test_shapes_are_united(spool: Spool) -> None:
    """A column that came later is NULL and marked unchanged in older rows; a type that grew is the wider one."""
    assert spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))
    assert spool.add("t", V2, batch(V2, row("4", 1, 2**40, a="y", b="z")))
    assert spool.add("t", V1, batch(V1, row("5", 1, 1, op="delete", key={"id": 1})))
    spool.commit()
    assert spool.tables["t"].values == pa.schema(
        [pa.field("id", pa.int64(), False), pa.field("a", pa.string(), False), pa.field("b", pa.string())]
    )
    old, new, gone = read(spool)
    assert (old["id"], old["b"], old["__dpone__unchanged"]) == (1, None, {"id": False, "a": False, "b": True})
    assert (new["id"], new["b"], new["__dpone__unchanged"]) == (2**40, "z", None)
    assert (gone["__dpone__key"], gone["__dpone__unchanged"]) == ({"id": 1}, None)
    assert spool.changes == 3


def test_a_mask_of_the_source_survives_uniting(spool: Spool) -> None:
    """What the log left out stays marked when the shape grows, and before-images keep their values."""
    given = row("3", 1, 1, op="update", a=None, unchanged={"id": False, "a": True}, before={"id": 1, "a": "old"})
    spool.add("t", V1, batch(V1, given))
    spool.add("t", V2, batch(V2, row("4", 1, 2, a="y", b="z")))
    spool.commit()
    first = read(spool)[0]
    assert first["__dpone__unchanged"] == {"id": False, "a": True, "b": True}
    assert first["__dpone__before"] == {"id": 1, "a": "old", "b": None}


@pytest.mark.parametrize(
    "other",
    [shape(id=pa.int32(), a=pa.int64()), shape(("a",), id=pa.int32(), a=pa.string()), shape((), id=pa.int32())],
    ids=["type", "another key", "no key"],
)
def test_shapes_that_cannot_be_united_end_the_window(spool: Spool, other: ChangeTable) -> None:
    """The window ends with the last commit before the new shape; what came after it is not handed out."""
    assert unite(V1, other) is None
    spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))
    spool.commit()
    spool.add("t", V1, batch(V1, row("4", 1, 2, a="y")))
    assert spool.add("t", other, batch(other, row("4", 2, 3))) is False
    assert ids(spool) == ["log/3/1"]
    assert (spool.tables["t"], spool.changes) == (V1, 1)


def test_a_value_that_the_united_type_does_not_hold_is_named(spool: Spool) -> None:
    """Two units of time are united in the first one. A value with digits beyond it is an error that names the column,
    and not the value."""
    coarse, fine = shape(id=pa.int32(), at=pa.timestamp("s")), shape(id=pa.int32(), at=pa.timestamp("us"))
    assert spool.add("t", coarse, batch(coarse, row("3", 1, 1, at=datetime(2026, 1, 1))))
    assert spool.add("t", fine, batch(fine, row("4", 1, 2, at=datetime(2026, 1, 1, 0, 0, 0, 987654))))
    spool.commit()
    with pytest.raises(
        DataError, match=r"column at has a timestamp\[us\] value that does not fit timestamp\[s\]"
    ) as caught:
        read(spool)
    assert "987654" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_full_disk_is_an_error_of_the_source(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that does not fit on the disk ends with what to do about it; nothing of it is handed out."""

    class Full:
        def seek(self, at: int) -> None: ...

        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(SourceError, match=r"spool a change window: No space left on device; free space in .* TMPDIR"):
        spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))


def test_united_columns_keep_the_metadata_that_both_shapes_have() -> None:
    """What both shapes say of a column (its length in the source) still holds; where they differ, neither does."""

    def said(**lengths: str) -> ChangeTable:
        return ChangeTable(
            pa.schema([pa.field(n, pa.string(), metadata={"length": v}) for n, v in lengths.items()]), ()
        )

    united = unite(said(a="10", b="10"), said(a="10", b="20", c="30"))
    assert united is not None
    assert [field.metadata for field in united.values] == [{b"length": b"10"}, None, {b"length": b"30"}]


OWN = ("op", "event_id", "commit", "ordinal", "committed_at", "key", "unchanged", "before", "old_key")


@pytest.mark.parametrize("name", [f"__dpone__{name}" for name in OWN])
def test_a_column_with_a_name_of_ours_is_refused(spool: Spool, name: str) -> None:
    """It would take the place of what dpone says of a change."""
    taken = shape(id=pa.int32(), **{name: pa.string()})
    with pytest.raises(DataError, match=f"^read changes of table t: a column has the reserved name {name}; rename"):
        spool.add("t", taken, batch(V1, row("3", 1, 1, a="x")))
    assert spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))


def test_two_shapes_in_the_first_transaction_stop(spool: Spool) -> None:
    """A transaction is never split: if it is the first of the window and has two shapes, a person must decide."""
    other = shape(id=pa.int32(), a=pa.int64())
    spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))
    with pytest.raises(SchemaBreak, match="two types that have no common type"):
        spool.add("t", other, batch(other, row("3", 2, 2, a=1)))


def test_rows_after_the_last_commit_are_not_there(spool: Spool) -> None:
    """A table whose only changes are of an unfinished transaction is not in the window."""
    spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))
    spool.commit()
    spool.add("t", V1, batch(V1, row("4", 1, 2, a="y")))
    spool.add("u", V1, batch(V1, row("4", 2, 2, a="y")))
    assert ids(spool) == ["log/3/1"]
    assert list(spool.tables) == ["t"]


def test_changes_up_to_the_position_are_dropped_and_counted(spool: Spool) -> None:
    """What the journal has already is delivered again after a crash of the source; it is filtered, not loaded."""
    spool.add("t", V1, batch(V1, row("1", 1, 1, a="x"), row("2", 9, 2, a="y"), row("3", 1, 3, a="z")))
    spool.commit()
    assert (ids(spool), spool.filtered_of("t"), spool.filtered) == (["log/3/1"], 2, 2)


def test_a_change_above_the_bound_is_an_error() -> None:
    """The end of a window is fixed before it is read."""
    spool = Spool("log", upto="3")
    with pytest.raises(DataError, match=r"^read a change window: a change of table t belongs to a commit after 3, the"):
        spool.add("t", V1, batch(V1, row("3", 1, 1, a="x"), row("4", 1, 2, a="y")))
    spool.close()


@pytest.mark.parametrize("apart", [True, False], ids=["in two batches", "in one batch"])
def test_an_event_delivered_twice_is_dropped(spool: Spool, apart: bool) -> None:
    """The same commit and ordinal with the same content is one change, however many others lie between."""
    rows = [row(c, n, n, a=c) for c in ("3", "4", "5") for n in (1, 2, 3)]
    again = [row("3", 3, 3, a="3"), row("5", 3, 3, a="5"), row("6", 1, 1, a="6")]
    for part in [rows[:4], rows[4:], again] if apart else [rows + again]:
        spool.add("t", V1, batch(V1, *part))
    spool.commit()
    assert ids(spool) == [f"log/{c}/{n}" for c in "345" for n in (1, 2, 3)] + ["log/6/1"]
    assert spool.filtered == 2


@pytest.mark.parametrize("apart", [True, False], ids=["in two batches", "in one batch"])
@pytest.mark.parametrize("changed", [{"a": "other"}, {"op": "delete", "a": None}, {"a": None}], ids=str)
def test_one_event_with_two_contents_is_an_error(spool: Spool, apart: bool, changed: dict[str, Any]) -> None:
    """An event id is one change: with other content somebody is wrong, and nobody knows who."""
    rows: Sequence[dict[str, Any]] = [
        row("3", 1, 0, a="x"),
        row("4", 1, 2, a="y"),
        row("3", 1, 0, **{"a": "x", **changed}),
    ]
    if apart:
        spool.add("t", V1, batch(V1, *rows[:2]))
        rows = rows[2:]
    with pytest.raises(DataError, match="event log/3/1 was delivered twice, with different content"):
        spool.add("t", V1, batch(V1, *rows))


def test_zero_is_not_nothing_in_a_before_image(spool: Spool) -> None:
    """Two deliveries that differ by 0 and NULL in a before-image differ."""
    number = shape(id=pa.int32(), a=pa.int32())
    zero, nothing = (batch(number, row("3", 1, 1, a=1, before={"id": 1, "a": value})) for value in (0, None))
    spool.add("t", number, zero)
    with pytest.raises(DataError, match="different content"):
        spool.add("t", number, nothing)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"before": {"id": 1, "a": "x", "b": "new"}}, False),
        ({"before": {"id": 1, "a": "y"}}, False),
        ({"before": None}, False),
        ({"unchanged": {"id": False, "a": True, "b": True}}, False),
        ({"unchanged": None}, False),
        ({"b": "new"}, False),
    ],
    ids=str,
)
def test_an_event_is_the_same_under_a_wider_shape(spool: Spool, changed: dict[str, Any], same: bool) -> None:
    """What a shape does not have, NULL and not marked are all one; a value or a mark that differs makes it another."""
    given = {"op": "update", "key": {"id": 1}, "unchanged": {"id": False, "a": True}, "before": {"id": 1, "a": "x"}}
    spool.add("t", V1, batch(V1, row("3", 1, 1, **given)))
    wider = batch(V2, row("3", 1, 1, **(given | {"unchanged": {"id": False, "a": True, "b": False}} | changed)))
    if same:
        assert spool.add("t", V2, wider)
        spool.commit()
        assert (ids(spool), spool.filtered) == (["log/3/1"], 1)
    else:
        with pytest.raises(DataError, match="different content"):
            spool.add("t", V2, wider)


def test_order_never_goes_backwards(spool: Spool) -> None:
    """A change that comes after a later one, and was never seen, is out of order."""
    spool.add("t", V1, batch(V1, row("3", 1, 1, a="x"), row("3", 3, 1, a="x")))
    with pytest.raises(DataError, match="log/3/2 comes after a later one"):
        spool.add("t", V1, batch(V1, row("3", 2, 2, a="y")))


@pytest.mark.parametrize(
    "marks",
    [
        [("4", 1), ("3", 2)], [("4", 2), ("3", 3)], [("3", 2), ("3", 1)], [("3", 1), ("5", 2), ("4", 3)],
        [("5", 1), ("4", 1)],
    ],
)  # fmt: skip
def test_order_never_goes_backwards_within_a_batch(spool: Spool, marks: list[tuple[str, int]]) -> None:
    """Neither from commit to commit, whatever the ordinals are, nor from ordinal to ordinal within one."""
    with pytest.raises(DataError, match="comes after a later one"):
        spool.add("t", V1, batch(V1, *(row(commit, n, i, a="x") for i, (commit, n) in enumerate(marks))))


def test_a_killed_process_leaves_no_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has no name on the disk, so that nothing is left for anybody to sweep."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool("log")
    spool.add("t", V1, batch(V1, row("3", 1, 1, a="x")))
    assert os.listdir(tmp_path) == []
    spool.close()


@pytest.mark.parametrize("wider", [pa.date64(), *map(pa.timestamp, ("s", "ms", "us", "ns"))], ids=str)
def test_a_day_is_the_same_in_a_wider_type(spool: Spool, wider: pa.DataType) -> None:
    """A change that is delivered again after its column became wider is the same content."""
    day, later = (date if pa.types.is_date(wider) else datetime)(2024, 2, 29), datetime(2024, 3, 1)
    table = shape(id=pa.int32(), a=pa.date32())
    spool.add("t", table, batch(table, row("3", 1, 1, a=date(2024, 2, 29))))
    table = shape(id=pa.int32(), a=wider)
    spool.add("t", table, batch(table, row("3", 1, 1, a=day)))
    with pytest.raises(DataError, match="delivered twice, with different content"):
        spool.add("t", table, batch(table, row("3", 1, 1, a=later)))


@pytest.mark.parametrize("apart", [True, False], ids=["in two batches", "in one batch"])
@pytest.mark.parametrize(
    ("type_", "value", "other"),
    [
        (pa.timestamp("ns"), 1, 2),
        (pa.timestamp("us", "UTC"), 10**18, 10**18 + 1),
        (pa.time64("ns"), 1, 2),
        (pa.date32(), 4_000_000, 4_000_001),
        (pa.list_(pa.timestamp("ns")), [1, None], [2, None]),
        (pa.float64(), float("nan"), 1.0),
    ],
    ids=str,
)
def test_what_python_cannot_hold_is_compared_too(
    spool: Spool, apart: bool, type_: pa.DataType, value: Any, other: Any
) -> None:
    """Nanoseconds, years after 9999 and what is no number: the same value is the same content, another one is not."""
    table = shape(id=pa.int32(), a=type_)

    def change(n: int, a: Any) -> pa.RecordBatch:
        """With ``a`` as a value, in the key's row before it, and both as Arrow keeps them."""
        made = batch(table, row("3", n, 1, before={"id": 1}))
        values, id_ = pa.array([a], type_), pa.array([1], pa.int32())
        before = pa.StructArray.from_arrays([id_, values], fields=list(made.schema.field("__dpone__before").type))
        given = {"a": values, "__dpone__before": before}
        return pa.RecordBatch.from_arrays([given.get(n, made[n]) for n in made.schema.names], schema=made.schema)

    first, second = change(1, value), change(2, value)
    both = pa.concat_batches([first, second])
    spool.add("t", table, both)
    again = pa.concat_batches([second, change(3, value), change(3, value)])
    for part in [first, again] if apart else [pa.concat_batches([first, again])]:
        assert spool.add("t", table, part)
    spool.commit()
    assert (ids(spool), spool.filtered) == ([f"log/3/{n}" for n in (1, 2, 3)], 3)
    with pytest.raises(DataError, match="event log/3/1 was delivered twice, with different content"):
        spool.add("t", table, change(1, other))


@pytest.mark.parametrize(
    ("type_", "old", "text"),
    [
        (pa.timestamp("us"), 0, '{"id": "1970-01-01 00:00:00"}'),
        (pa.timestamp("ns"), 1, '{"id": "1970-01-01 00:00:00.000000001"}'),
        (pa.timestamp("ns", "UTC"), 1, '{"id": "1970-01-01 00:00:00.000000001+00:00"}'),
        (pa.date32(), 4_000_000, '{"id": "12921-08-18"}'),
        (pa.date32(), 100_000_000, None),
    ],
    ids=str,
)
def test_an_old_key_that_python_cannot_hold(type_: pa.DataType, old: int, text: str | None) -> None:
    """The key that an update moved its row from has a text, or is refused in words."""
    table = shape(id=type_)
    made = batch(table, {"op": "update", "commit": "3", "n": 1})
    given = {
        "id": pa.array([5], type_),
        "__dpone__key": pa.StructArray.from_arrays(
            [pa.array([old], type_)], fields=list(made.schema.field("__dpone__key").type)
        ),
    }
    columns = [given[n] if n in given else made[n] for n in made.schema.names]
    moved = pa.RecordBatch.from_arrays(columns, schema=made.schema)
    keys = dict(zip(("id",), moved.column("__dpone__key").flatten(), strict=True))
    if text is None:
        with pytest.raises(DataError, match="cannot be written as text"):
            _old_keys(moved, keys)
    else:
        assert _old_keys(moved, keys).to_pylist() == [text]


@pytest.mark.parametrize(
    ("marks", "last", "expected"),
    [
        ([("3", 1)], None, True), ([("3", 1)], ("3", 1), False), ([("3", 2)], ("3", 1), True),
        ([("3", 1), ("3", 2), ("4", 1)], ("2", 9), True), ([("3", 1), ("3", 1)], None, False),
        ([("3", 2), ("3", 1)], None, False), ([("4", 1), ("3", 2)], None, False),
    ],
)  # fmt: skip
def test_only_a_batch_that_repeats_is_looked_at_row_by_row(
    marks: list[tuple[str, int]], last: tuple[str, int] | None, expected: bool
) -> None:
    """Commit and number in it grow from row to row, and beyond what came before: nothing was delivered twice."""
    assert _grows(batch(V1, *(row(commit, n, 1) for commit, n in marks)), last) is expected


def test_a_change_stream_lists_the_tables_that_changed() -> None:
    """Of its latest window, without those that the pipeline excludes."""
    changed = ChangeWindow(Position("log", {}, {}), ("", "3"), {"t": V1, "u": V2, "x": V1}, True, "")
    reader = SimpleNamespace(window=lambda after, limit: changed)
    options = SimpleNamespace(incremental=SimpleNamespace(limit=None))
    spec = SimpleNamespace(options=options, excludes=lambda name: name.last == "x")
    stream = ChangeStream(cast(Any, spec), cast(Any, reader))
    assert stream.tables("*") == []
    stream.window(None, WindowRequest())
    assert stream.tables("*") == ["t", "u"]
