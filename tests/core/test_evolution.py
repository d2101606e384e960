"""Schema comparison: what is safe, what is breaking, and what would allow it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dpone.errors import SchemaBreak
from dpone.evolution import Stored, holds, join, plan
from dpone.pipeline import SchemaEvolution


def _as_is(type_: pa.DataType) -> Stored:
    return Stored("t", type_)


def _narrow(type_: pa.DataType) -> Stored:
    """A sink that keeps every integer as int64, as SQLite does."""
    return Stored("INTEGER", pa.int64()) if pa.types.is_integer(type_) else Stored("t", type_)


def _plan(
    target: dict[str, pa.DataType] | None, source: dict[str, pa.DataType], **policy: Any
) -> tuple[list[str], list[str]]:
    key = policy.pop("key", ())
    have = None if target is None else pa.schema(target)
    found = plan(have, pa.schema(source), SchemaEvolution(**policy), _as_is, key)
    return [str(c) for c in found.changes], [str(c) for c in found.breaking]


D = pa.decimal128


@pytest.mark.parametrize(
    ("target", "source", "fits"),
    [
        (pa.int64(), pa.int32(), True), (pa.int32(), pa.int64(), False),
        (pa.int64(), pa.uint32(), True), (pa.int32(), pa.uint32(), False), (pa.uint64(), pa.int8(), False),
        (pa.float64(), pa.int32(), True), (pa.float64(), pa.int64(), False), (pa.float32(), pa.int32(), False),
        (pa.float64(), pa.float32(), True), (pa.float32(), pa.float64(), False),
        (D(19, 0), pa.int64(), True), (D(18, 0), pa.int64(), False), (D(20, 1), pa.int64(), True),
        (D(18, 6), D(10, 2), True), (D(10, 6), D(10, 2), False), (D(12, 1), D(10, 2), False),
        (pa.large_string(), pa.string(), True), (pa.string(), pa.int64(), False), (pa.int64(), pa.string(), False),
        (pa.binary(), pa.binary(16), True), (pa.string(), pa.binary(), False),
        (pa.timestamp("us"), pa.timestamp("ns"), True), (pa.timestamp("us", "UTC"), pa.timestamp("us"), False),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), False), (pa.timestamp("us"), pa.date32(), False),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), True), (pa.int8(), pa.null(), True),
        (pa.int64(), pa.bool_(), False),
    ],
)  # fmt: skip
def test_what_a_type_holds(target: pa.DataType, source: pa.DataType, fits: bool) -> None:
    """A target that can hold every value of the source exactly needs no change, also when it is wider."""
    assert holds(target, source) is fits


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()), (pa.int32(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), D(20, 0)),
        (D(10, 2), D(8, 6), D(14, 6)), (D(38, 0), D(38, 38), None), (pa.int64(), pa.float64(), None),
        (pa.float32(), pa.float64(), pa.float64()), (pa.string(), pa.int64(), None),
        (pa.date32(), pa.timestamp("us"), None),
    ],
)  # fmt: skip
def test_the_join_holds_both(left: pa.DataType, right: pa.DataType, both: pa.DataType | None) -> None:
    """The join is the narrowest type that holds both sides, in either order, or there is none."""
    assert join(left, right) == both
    assert join(right, left) == both


def test_widening_is_the_default() -> None:
    """Additions and widenings are safe by default; narrowing is no change because the target already holds it."""
    assert _plan({"a": pa.int32()}, {"a": pa.int64(), "b": pa.string()}) == (
        ["widen a int32 -> int64", "add b string"],
        [],
    )
    assert _plan({"a": pa.int64()}, {"a": pa.int32()}) == ([], [])


def test_additive_refuses_a_widening() -> None:
    """Under additive only new nullable columns are safe."""
    safe, breaking = _plan({"a": pa.int32()}, {"a": pa.int64(), "b": pa.string()}, mode="additive")
    assert (safe, breaking) == (["add b string"], ["widen a int32 -> int64"])


def test_strict_refuses_any_drift() -> None:
    """Under strict every difference is breaking, also a narrower source and one that may give NULL."""
    assert _plan({"a": pa.int64()}, {"a": pa.int64(), "b": pa.string()}, mode="strict")[1] == ["add b string"]
    assert _plan({"a": pa.int64()}, {"a": pa.int32()}, mode="strict")[1] == ["type a int64 -> int32"]
    target = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    found = plan(target, pa.schema({"a": pa.int64()}), SchemaEvolution(mode="strict"), _as_is)
    assert [c.kind for c in found.breaking] == ["null"]


def test_SE_05_a_rename_is_a_drop_and_an_addition_and_stops() -> None:
    """A renamed column is not guessed: the column that is gone stops the run before anything is added."""
    found = plan(pa.schema({"old": pa.int64()}), pa.schema({"new": pa.int64()}), SchemaEvolution(), _as_is)
    with pytest.raises(
        SchemaBreak, match=r"drop old int64; to allow: schema_evolution.on_missing_column: ignore; nothing was changed"
    ):
        found.require_safe("t")


def test_a_missing_column_can_be_ignored() -> None:
    """on_missing_column: ignore keeps the target's column and asks for nothing."""
    assert _plan({"a": pa.int64(), "b": pa.int64()}, {"a": pa.int64()}, on_missing_column="ignore") == ([], [])


def test_SE_01_a_type_change_stops_before_the_load() -> None:
    """An incompatible type is found by comparing schemas, not by a value that fails half way."""
    assert _plan({"a": pa.int64()}, {"a": pa.string()}) == ([], ["type a int64 -> string"])


def test_SE_02_a_decimal_grows_without_losing_digits() -> None:
    """numeric(10,2) meets numeric(9,6): the target becomes numeric(14,6), which holds both."""
    assert _plan({"a": D(10, 2)}, {"a": D(9, 6)})[0] == ["widen a decimal128(10, 2) -> decimal128(14, 6)"]


def test_SE_03_names_that_differ_by_case_are_refused() -> None:
    """Two source columns, or a source and a target column, that fold together stop the run."""
    assert _plan(None, {"id": pa.int64(), "ID": pa.int64()})[1] == ["case ID"]
    assert _plan({"id": pa.int64()}, {"Id": pa.int64()})[1] == ["case Id"]


def test_SE_07_a_type_change_is_routed_to_a_column_of_its_own() -> None:
    """new_column adds __dpone__nc__<column> once, uses it from then on, and stops at a third type."""
    policy = SchemaEvolution(on_type_change="new_column")
    target = pa.schema({"a": pa.int64()})
    first = plan(target, pa.schema({"a": pa.string()}), policy, _as_is)
    assert [str(c) for c in first.changes] == ["add __dpone__nc__a string"]
    assert first.columns == {"a": "__dpone__nc__a"}
    target = target.append(pa.field("__dpone__nc__a", pa.string()))
    again = plan(target, pa.schema({"a": pa.string()}), policy, _as_is)
    assert (again.changes, again.breaking, again.columns) == ((), (), {"a": "__dpone__nc__a"})
    third = plan(target, pa.schema({"a": pa.bool_()}), policy, _as_is)
    assert [c.kind for c in third.breaking] == ["type"]


def test_a_key_column_is_never_routed() -> None:
    """A key column whose type changed stops the run whatever on_type_change says."""
    _, breaking = _plan({"a": pa.int64()}, {"a": pa.string()}, on_type_change="new_column", key=("a",))
    assert breaking == ["type a int64 -> string"]


def test_what_the_sink_keeps_decides() -> None:
    """An int32 that the sink keeps as int64 is no change on the second run."""
    found = plan(pa.schema({"a": pa.int64()}), pa.schema({"a": pa.int32()}), SchemaEvolution(mode="strict"), _narrow)
    assert (found.changes, found.breaking) == ((), ())
