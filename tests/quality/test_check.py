"""Row contracts over Arrow batches, against rules written out by hand and a slow model in plain Python."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpone.errors import ConfigError
from dpone.model.row_contract import (
    Length,
    Quarantine,
    Range,
    RowContract,
    RowCount,
)
from dpone.model.types import JSON
from dpone.quality import unique
from dpone.quality.check import (
    BrokenRule,
    CheckCounts,
    Rules,
    bind,
    check_rows,
)
from dpone.quality.unique import SeenInMemory, SeenOnDisk


def broken(contract: RowContract, **columns: pa.Array) -> dict[str, int]:
    _, found = check_rows(contract, pa.table(columns))
    return {one.rule: one.violations for one in found}


RANGES: list[tuple[Any, pa.DataType, list[Any], list[Any]]] = [
    # bounds, type, values inside, values outside
    ((0, 10), pa.int64(), [0, 5, 10, None], [-1, 11]),
    ((0.5, 9.5), pa.int32(), [1, 9], [0, 10]),
    ((-1, 300), pa.uint8(), [0, 255], []),
    ((1, None), pa.uint8(), [1, 255], [0]),
    ((None, 254), pa.uint8(), [0, 254], [255]),
    ((-127, 126), pa.int8(), [-127, 126], [-128, 127]),
    ((256, None), pa.uint8(), [], [0, 255]),
    ((None, -1), pa.uint64(), [], [0, 2**64 - 1]),
    (("9007199254740993", None), pa.int64(), [2**53 + 1], [2**53]),
    ((0, 1), pa.float64(), [0.0, -0.0, 1.0], [1.0000001, math.nan, math.inf, -math.inf]),
    ((None, 0.1), pa.float64(), [0.1, math.nextafter(0.1, 0)], [math.nextafter(0.1, 1), 0.1000000001]),
    ((-0.1, None), pa.float64(), [-0.1, math.nextafter(-0.1, 0)], [math.nextafter(-0.1, -1), -0.1000000001]),
    ((None, 0.1), pa.float32(), [0.1], [0.10000001, 0.2, math.nan]),
    ((0.1, None), pa.float16(), [np.float16(0.5)], [np.float16(0.0)]),
    (("0.005", "0.015"), pa.decimal128(10, 2), [Decimal("0.01")], [Decimal("0.00"), Decimal("0.02")]),
    (("0.005", "0.015"), pa.decimal32(9, 2), [Decimal("0.01")], [Decimal("0.00"), Decimal("0.02")]),
    (("0.005", "0.015"), pa.decimal64(10, 2), [Decimal("0.01")], [Decimal("0.00"), Decimal("0.02")]),
    (("12345678901234567890.12", None), pa.decimal128(38, 2), [Decimal("12345678901234567890.12")],
     [Decimal("12345678901234567890.11")]),
    ((0, "1e60"), pa.decimal256(70, 0), [Decimal(0), Decimal(10**60)], [Decimal(-1), Decimal(10**60 + 1)]),
    (("2026-01-01", "2026-01-31"), pa.date32(), [date(2026, 1, 1), date(2026, 1, 31)], [date(2025, 12, 31)]),
    (("1600-02-29", None), pa.date64(), [date(1600, 2, 29)], [date(1600, 2, 28)]),
    (("2026-01-01T00:00:00.5", None), pa.timestamp("ms"), [datetime(2026, 1, 1, 0, 0, 1)], [datetime(2026, 1, 1)]),
    (("2026-01-01T00:00:00.5", None), pa.timestamp("s"), [datetime(2026, 1, 1, 0, 0, 1)], [datetime(2026, 1, 1)]),
    ((None, "2026-01-01T01:00:00+01:00"), pa.timestamp("us", "Europe/Berlin"), [datetime(2026, 1, 1, tzinfo=UTC)],
     [datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]),
    (("0001-01-01T00:00:00", None), pa.timestamp("ns"), [datetime(1970, 1, 1)], []),
    (("08:00", "17:30:00"), pa.time64("us"), [time(8), time(17, 30)], [time(7, 59, 59, 999999), time(17, 30, 1)]),
    (("08:00", None), pa.time32("s"), [time(8)], [time(7, 59, 59)]),
    (("08:00:00.25", "08:00:00.5"), pa.time64("us"), [time(8, 0, 0, 250_000), time(8, 0, 0, 500_000)],
     [time(8, 0, 0, 249_999), time(8, 0, 0, 500_001)]),
    (("08:00:00.25", "08:00:00.5"), pa.time32("ms"), [time(8, 0, 0, 250_000)], [time(8, 0, 0, 249_000)]),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "type_", "inside", "outside"), RANGES, ids=[f"{r[1]}-{r[0]}" for r in RANGES])
def test_ranges_are_inclusive_and_exact_in_every_type(
    limits: Any, type_: pa.DataType, inside: list[Any], outside: list[Any]
) -> None:
    """A value equal to a bound is inside, the next one the type can hold is not; NULL is inside, NaN never."""
    contract = RowContract(ranges={"a": Range(*limits)})
    assert broken(contract, a=pa.array(inside, type_)) == {}
    for value in outside:
        assert broken(contract, a=pa.array([*inside, value], type_)) == {"ranges.a": 1}
    encoded = pa.array([*inside, *outside], type_)
    encodable = not (pa.types.is_float16(type_) or pa.types.is_decimal32(type_) or pa.types.is_decimal64(type_))
    if len(encoded) and encodable:
        found = broken(contract, a=encoded.dictionary_encode())
        assert found == ({"ranges.a": len(outside)} if outside else {})


STRICT: list[tuple[Any, pa.DataType, list[Any], list[Any]]] = [
    # above and below, type, values inside, values outside
    ((0, 10), pa.int64(), [1, 9, None], [0, 10]),
    ((0.5, 9.5), pa.int32(), [1, 9], [0, 10]),
    ((-129, 128), pa.int8(), [-128, 127], []),
    ((-128, 127), pa.int8(), [-127, 126], [-128, 127]),
    ((0, 1), pa.float64(), [math.nextafter(0, 1), 0.5], [0.0, -0.0, 1.0, math.nan]),
    (("0.01", None), pa.decimal128(10, 2), [Decimal("0.02")], [Decimal("0.01"), Decimal("0.00")]),
    ((None, "0.015"), pa.decimal128(10, 2), [Decimal("0.01")], [Decimal("0.02")]),
    (("2026-01-01", "2026-01-03"), pa.date32(), [date(2026, 1, 2)], [date(2026, 1, 1), date(2026, 1, 3)]),
    (("2026-01-01T00:00:00", None), pa.timestamp("s"), [datetime(2026, 1, 1, 0, 0, 1)], [datetime(2026, 1, 1)]),
    (("08:00", None), pa.time64("us"), [time(8, 0, 0, 1)], [time(8)]),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "type_", "inside", "outside"), STRICT, ids=[f"{r[1]}-{r[0]}" for r in STRICT])
def test_above_and_below_leave_the_bound_itself_out(
    limits: Any, type_: pa.DataType, inside: list[Any], outside: list[Any]
) -> None:
    """A value equal to such a bound is a violation, the next one the type can hold is not."""
    contract = RowContract(ranges={"a": Range(above=limits[0], below=limits[1])})
    assert broken(contract, a=pa.array(inside, type_)) == {}
    for value in outside:
        assert broken(contract, a=pa.array([*inside, value], type_)) == {"ranges.a": 1}


def test_lengths_are_characters_inclusive() -> None:
    """Code points are counted, not bytes; NULL has no length."""
    texts = pa.array(["", "a", "\u00e4\u00f6", "\U0001f600" * 3, "abcd", None])
    for type_ in (pa.string(), pa.large_string(), pa.string_view()):
        column = texts.cast(type_)
        assert broken(RowContract(lengths={"a": Length(1, 3)}), a=column) == {"lengths.a": 2}
        assert broken(RowContract(lengths={"a": Length(max=2)}), a=column) == {"lengths.a": 2}
        assert broken(RowContract(lengths={"a": Length(min=4)}), a=column) == {"lengths.a": 4}
        assert broken(RowContract(lengths={"a": Length(0, 4)}), a=column) == {}
        wide = pa.array(["\u00e4\u00f6", "\U0001f600"]).cast(type_)  # of four bytes each
        assert broken(RowContract(lengths={"a": Length(2)}), a=wide) == {"lengths.a": 1}
        assert broken(RowContract(lengths={"a": Length(3)}), a=wide) == {"lengths.a": 2}
        assert broken(RowContract(lengths={"a": Length(1, 2)}), a=wide) == {}


LOGICAL: dict[str, list[pa.DataType]] = {
    "string": [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.uuid()],
    "integer": [pa.int8(), pa.uint64(), pa.int64(), pa.decimal128(10, 0)],
    "number": [pa.int8(), pa.uint64(), pa.int64(), pa.decimal128(10, 0), pa.decimal256(50, 2), pa.float32()],
    "boolean": [pa.bool_()],
    "date": [pa.date32(), pa.date64()],
    "time": [pa.time32("s"), pa.time64("ns")],
    "timestamp": [pa.timestamp("s"), pa.timestamp("us", "UTC")],
    "object": [pa.struct([("x", pa.int8())]), pa.map_(pa.string(), pa.int8()), JSON],
    "array": [pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.list_(pa.int8(), 2), JSON],
}
OTHERS = [pa.binary(), pa.duration("s")]


@pytest.mark.parametrize("logical", LOGICAL)
def test_a_logical_type_has_any_width(logical: Any) -> None:
    """Every Arrow type is of the logical types that the table here lists, and of no other."""
    types = {str(one): one for listed in [*LOGICAL.values(), OTHERS] for one in listed}
    schema, contract = pa.schema([*types.items()]), RowContract(logical_types=dict.fromkeys(types, logical))
    fitting = {f"logical_types.{one}" for one in LOGICAL[logical]}
    assert {one.rule for one in bind(contract, schema).static} == {*contract.labels()} - fitting


NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
FRESH: list[tuple[str, pa.DataType, list[Any], str]] = [
    ("24h", pa.timestamp("us", "Europe/Berlin"), [datetime(2026, 6, 14, 12, tzinfo=UTC), None], ""),
    ("24h", pa.timestamp("us"), [datetime(2026, 6, 14, 12)], ""),
    ("24h", pa.timestamp("us"), [datetime(2026, 6, 14, 11, 59, 59, 999_999)],
     "the newest value is 24 hours old, at most 24 hours allowed"),
    ("24h", pa.timestamp("ns"), [datetime(2026, 6, 13, 12)],
     "the newest value is 2 days old, at most 24 hours allowed"),
    ("90s", pa.timestamp("s"), [datetime(1, 1, 1), datetime(2026, 6, 15, 11, 58, 30)], ""),
    ("90s", pa.timestamp("ms"), [datetime(2026, 6, 15, 11, 58, 29)],
     "the newest value is 91 seconds old, at most 90 seconds allowed"),
    ("1.5d", pa.date32(), [date(2026, 6, 14)], ""),
    ("1.5d", pa.date64(), [date(2026, 6, 13)], "the newest value is 2.5 days old, at most 36 hours allowed"),
    ("1h", pa.timestamp("us"), [datetime(2026, 6, 15, 13)], ""),
    ("1h", pa.timestamp("us"), [datetime(2026, 6, 15, 9), datetime(9999, 12, 31)],
     "the newest value is 3 hours old, at most 60 minutes allowed"),
    ("1h", pa.timestamp("us"), [datetime(9999, 12, 31), None],
     "there is no value up to now, one of the last 60 minutes required"),
    ("1h", pa.timestamp("s"), [], "there is no value up to now, one of the last 60 minutes required"),
]  # fmt: skip


@pytest.mark.parametrize(("most", "type_", "values", "found"), FRESH, ids=[f"{f[0]}-{f[1]}-{f[3][:30]}" for f in FRESH])
@pytest.mark.parametrize("cut", [0, 1])
def test_freshness_is_the_age_of_the_newest_value(
    most: str, type_: pa.DataType, values: list[Any], found: str, cut: int
) -> None:
    """However the rows are cut into batches; a value far in the future does not count, and without one it is broken."""
    contract = RowContract(freshness={"a": most})
    rules, counts = bind(contract, pa.schema([("a", type_)]), NOW), CheckCounts()
    for rows in (values[:cut], values[cut:]):
        counts.add(rules.check(pa.record_batch({"a": pa.array(rows, type_)}), {}).counts)
    read_back = CheckCounts.from_json(json.loads(json.dumps(counts.to_json())))
    assert [one.text for one in rules.verdict(read_back)] == ([f"freshness.a: {found}"] if found else [])


@pytest.mark.parametrize(
    ("rows", "left", "limit", "said"),
    [
        (20, 1, Quarantine(), ""),
        (20, 2, Quarantine(), "quarantine.max_share: 2 of 20 rows"),
        (1, 1, Quarantine(max_share=0.5), "quarantine.max_share: 1 of 1 row"),
        (9_000, 4, Quarantine(max_rows=4), ""),
        (9_000, 5, Quarantine(max_rows=4), "quarantine.max_rows: 5 of 9,000 rows"),
        (20, 4, Quarantine(max_rows=4), "quarantine.max_share: 4 of 20 rows"),
    ],
)
def test_a_quarantine_has_two_limits(rows: int, left: int, limit: Quarantine, said: str) -> None:
    """A load may leave out as many rows as both allow and no more; the text names the one that is passed."""
    rules = bind(RowContract(not_null="a", quarantine=limit), pa.schema([("a", pa.int64())]))
    found = rules.verdict(CheckCounts(rows, rows - left))
    assert found == ([BrokenRule("quarantine", "fail", left, f"{said} would be quarantined")] if said else [])


@pytest.mark.parametrize(
    ("loaded", "nulls", "said"),
    [
        (2, 1, []),
        (4, 2, []),
        (1, 0, ["row_count: 1 row, at least 2 required"]),
        (5, 0, ["row_count: 5 rows, at most 4 allowed"]),
        (4, 3, ["max_null_ratio.a: NULL in 3 of 4 rows"]),
    ],
)
def test_rules_of_the_whole_load_hold_up_to_their_bounds(loaded: int, nulls: int, said: list[str]) -> None:
    """Each counts as one violation; the text has what was counted."""
    contract = RowContract(row_count=RowCount(2, 4), max_null_ratio={"a": 0.5}, on_violation="warn")
    rules = bind(contract, pa.schema([("a", pa.int64())]))
    found = rules.verdict(CheckCounts(loaded, loaded, nulls={"a": nulls}))
    assert found == [BrokenRule(text.partition(":")[0], "warn", 1, text) for text in said]


def test_a_mark_of_an_earlier_version_is_read() -> None:
    """What was written of a staged part before there was freshness has no newest values."""
    old = {"rows": 2, "loaded": 1, "violations": {"not_null.a": 1}, "nulls": {}, "files": {}}
    assert CheckCounts.from_json(old) == CheckCounts(2, 1, {"not_null.a": 1})


def test_the_rows_that_violate_a_rule_are_told_from_the_others() -> None:
    """Their places are those in the batch as it came, also of a key after rows were left out."""
    contract = RowContract(
        not_null="a", ranges={"b": Range(0)}, unique=["b", "a"],
        overrides={"not_null": "quarantine", "unique.a": "quarantine"},
    )  # fmt: skip
    batch = pa.record_batch({"a": pa.array([1, None, 2, 2, 3]), "b": pa.array([5, 5, -1, 6, 5])})
    rules = bind(contract, batch.schema)
    checked = rules.check(batch, {rule.label: SeenInMemory() for rule in rules.keys})
    found = {label: np.flatnonzero(mask).tolist() for label, mask in checked.violating.items()}
    assert found == {"not_null.a": [1], "ranges.b": [2], "unique.a": [3]}
    assert {label: rows.tolist() for label, rows in checked.key_rows.items()} == {
        "unique.a": [0, 2, 4], "unique.b": [0, 2, 4],
    }  # fmt: skip


EDGES: list[tuple[pa.DataType, Any, Any, Any]] = [
    # type, its least value, its greatest, and the step between two
    *((getattr(pa, n)(), int(np.iinfo(n).min), int(np.iinfo(n).max), 1) for n in ("int8", "int64", "uint8", "uint64")),
    (pa.decimal128(3, 1), Decimal("-99.9"), Decimal("99.9"), Decimal("0.1")),
    (pa.decimal256(40, 0), Decimal(1 - 10**40), Decimal(10**40 - 1), Decimal(1)),
]


@pytest.mark.parametrize(("type_", "least", "most", "step"), EDGES, ids=[str(e[0]) for e in EDGES])
def test_ranges_at_the_edge_of_a_type_and_beyond(type_: pa.DataType, least: Any, most: Any, step: Any) -> None:
    """A bound that is the last value of the type leaves out the others, one beyond it all or none."""
    with localcontext(prec=99):
        below, above = least - step, most + step
    limits = {
        (least, most): 0, (below, above): 0, (most, None): 1, (None, least): 1, (above, None): 2, (None, below): 2,
    }  # fmt: skip
    for (low, high), outside in limits.items():
        contract = RowContract(ranges={"a": Range(*(v if v is None else str(v) for v in (low, high)))})
        found = broken(contract, a=pa.array([least, most, None], type_))
        assert found == ({"ranges.a": outside} if outside else {}), (low, high)


ALLOWED: list[tuple[pa.DataType, list[Any], list[Any], list[Any]]] = [
    (pa.string(), ["a", "b"], ["a", None, "b"], ["A", "", "ab"]),
    (pa.large_string(), ["a"], ["a"], ["b"]),
    (pa.string_view(), ["a"], ["a"], ["b"]),
    (pa.int16(), [1, 2], [1, None], [3]),
    (pa.decimal128(5, 2), [1.5, "2.25"], [Decimal("1.50"), Decimal("2.25")], [Decimal("1.51")]),
    (pa.decimal32(5, 2), [1.5, "2.25"], [Decimal("1.50"), Decimal("2.25")], [Decimal("1.51")]),
    (pa.decimal64(5, 2), [1.5, "2.25"], [Decimal("1.50"), Decimal("2.25")], [Decimal("1.51")]),
    (pa.float64(), [0.1], [0.1], [0.2, math.nan]),
    (pa.bool_(), [True], [True, None], [False]),
    (pa.date32(), ["2026-01-31"], [date(2026, 1, 31)], [date(2026, 2, 1)]),
    (pa.timestamp("us"), ["2026-01-31T00:00:00"], [datetime(2026, 1, 31)], [datetime(2026, 2, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "values", "inside", "outside"), ALLOWED, ids=[str(a[0]) for a in ALLOWED])
def test_allowed_values_compare_exactly_in_every_type(
    type_: pa.DataType, values: list[Any], inside: list[Any], outside: list[Any]
) -> None:
    """A column holds the listed values and NULL, nothing else."""
    contract = RowContract(allowed_values={"a": tuple(values)})
    assert broken(contract, a=pa.array(inside, type_)) == {}
    assert broken(contract, a=pa.array([*inside, *outside], type_)) == {"allowed_values.a": len(outside)}


def test_patterns_match_the_whole_text() -> None:
    """A pattern is no search: text before or after, a line break too, is a violation."""
    contract = RowContract(patterns={"a": "ab|cd"})
    assert broken(contract, a=pa.array(["ab", "cd", None])) == {}
    assert broken(contract, a=pa.array(["ab\n", "xcd", "abcd", "", "ab"])) == {"patterns.a": 4}


def test_a_pattern_cannot_hang() -> None:
    """The expression that takes a backtracking engine longer than the universe is done at once."""
    text = "a" * 5000
    assert broken(RowContract(patterns={"a": "(a+)+b"}), a=pa.array([text])) == {"patterns.a": 1}


@pytest.mark.parametrize(
    ("columns", "repeats"),
    [
        ({"a": pa.array([1, 2, 1, 1, None, None])}, 2),
        ({"a": pa.array([True, False, True])}, 1),
        ({"a": pa.array(["x", "y", "x", "x\0", None])}, 1),
        ({"a": pa.array([0.0, -0.0, math.nan, math.nan])}, 2),
        ({"a": pa.array(np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64))}, 1),
        ({"a": pa.array([2**64 - 1, 0, 2**64 - 1], pa.uint64())}, 1),
        ({"a": pa.array([b"", b"\0", b""])}, 1),
        ({"a": pa.array([Decimal("1.1"), Decimal("1.2"), Decimal("1.1")], pa.decimal128(38, 1))}, 1),
        ({"a": pa.array([Decimal("1.1"), Decimal("1.2"), Decimal("1.1")], pa.decimal256(40, 1))}, 1),
        ({"a": pa.array([date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 1)])}, 1),
        ({"a": pa.array(["x", "y", "x"]).dictionary_encode()}, 1),
        ({"a": pa.array([b"0" * 16, b"1" * 16, b"0" * 16], pa.binary(16)).cast(pa.binary(16))}, 1),
        ({"a": pa.array([b"01", b"02", b"01", b"0\0", b"\0\0"], pa.binary(2))}, 1),
        ({"a": pa.array(["x", "y", "x"], pa.string_view())}, 1),
        ({"a": pa.array([b"x", b"y", b"x"], pa.binary_view())}, 1),
        ({"a": pa.array([Decimal("1.1"), Decimal("1.2"), Decimal("1.1")], pa.decimal64(10, 1))}, 1),
        ({"a": pa.array([1, 2, 1], pa.int8()), "b": pa.array([1, 1, 1], pa.int16())}, 1),
        ({"a": pa.array(["a", "ab", "a"]), "b": pa.array(["bc", "c", "bc"])}, 1),
        ({"a": pa.array([1, 1, 1, 1]), "b": pa.array([1, 2, None, 2], pa.int8())}, 1),
        ({"a": pa.array([1, 1, 1]), "b": pa.array([1.0, 2.0, 1.0]), "c": pa.array(["x", "x", "x"])}, 1),
    ],
)
def test_unique_counts_the_rows_beyond_the_first(columns: dict[str, pa.Array], repeats: int) -> None:
    """Of equal values all but one are too many; a row with NULL in the key is not looked at, as in SQL."""
    label = f"unique.{'+'.join(columns)}"
    contract = RowContract(unique=(tuple(columns),))
    assert broken(contract, **columns) == {label: repeats}
    sliced = {name: pa.concat_arrays([column[:1], column])[1:] for name, column in columns.items()}
    assert broken(contract, **sliced) == {label: repeats}


TYPES = [
    (pa.int64(), ["bigint", "int64"], ["int", "text"]),
    (pa.string(), ["text", "varchar", "string", "large_string", "string_view"], ["bytea", "binary_view"]),
    (pa.string_view(), ["text", "string_view", "large_string"], ["bytea", "int"]),
    (pa.binary_view(), ["bytea", "binary", "large_binary", "binary_view"], ["text", "string_view"]),
    (pa.decimal64(10, 2), ["numeric(10,2)"], ["numeric(10,3)", "double"]),
    (pa.run_end_encoded(pa.int32(), pa.int64()), ["bigint"], ["int"]),
    (pa.time32("s"), ["time", "time32[s]"], ["time32[ms]", "timestamp"]),
    (pa.large_string(), ["text"], ["int"]),
    (pa.dictionary(pa.int8(), pa.string()), ["text"], ["int"]),
    (pa.decimal128(10, 2), ["numeric(10,2)", "decimal128(10, 2)"], ["numeric(10,3)", "numeric(12,2)"]),
    (pa.timestamp("ns"), ["timestamp", "timestamp[ns]"], ["timestamptz", "timestamp[us]", "date"]),
    (pa.timestamp("us", "Europe/Berlin"), ["timestamptz"], ["timestamp", "timestamp[us]"]),
    (pa.time64("us"), ["time"], ["timestamp"]),
    (pa.float64(), ["double", "float8"], ["real", "numeric(10,2)"]),
    (pa.uuid(), ["uuid"], ["text"]),
]


@pytest.mark.parametrize(("type_", "good", "bad"), TYPES, ids=[str(t[0]) for t in TYPES])
def test_types_go_by_the_names_of_arrow_and_sql(type_: pa.DataType, good: list[str], bad: list[str]) -> None:
    """A type is the one named, not one that would also do; an encoding is no type."""
    schema = pa.schema([("a", type_)])
    for name in good:
        assert bind(RowContract(types={"a": name}), schema).static == ()
    for name in bad:
        [one] = bind(RowContract(types={"a": name}), schema).static
        assert (one.rule, one.policy) == ("types.a", "fail")


def test_a_missing_required_column_is_a_violation() -> None:
    """It is counted, and other rules of that column have nothing to look at."""
    contract = RowContract(required_columns="b", not_null=["b"], unique=["b"], types={"b": "int"})
    assert broken(contract, a=pa.array([1])) == {"required_columns.b": 1}


@pytest.mark.parametrize(
    "contract",
    [
        RowContract(not_null=["b"]),
        RowContract(unique=[["a", "b"]]),
        RowContract(types={"b": "int"}),
        RowContract(max_null_ratio={"b": 0.5}),
        RowContract(ranges={"t": Range(0, 1)}),
        RowContract(ranges={"a": Range("2026-01-01")}),
        RowContract(ranges={"d": Range(1)}),
        RowContract(ranges={"d": Range("2026-01-01T00:00:00")}),
        RowContract(ranges={"ts": Range("2026-01-01")}),
        RowContract(ranges={"ts": Range("2026-01-01T00:00:00Z")}),
        RowContract(ranges={"l": Range(1)}),
        RowContract(ranges={"j": Range(1)}),
        RowContract(ranges={"n": Range("2026-01-01")}),
        RowContract(ranges={"f": Range(None, "2026-01-01")}),
        RowContract(ranges={"m": Range(1)}),
        RowContract(allowed_values={"n": ("0.001",)}),
        RowContract(allowed_values={"f": ("x",)}),
        RowContract(allowed_values={"f": ("2026-01-01",)}),
        RowContract(patterns={"a": "x"}),
        RowContract(lengths={"a": Length(1)}),
        RowContract(freshness={"t": "1h"}),
        RowContract(freshness={"m": "1h"}),
        RowContract(logical_types={"b": "integer"}),
        RowContract(allowed_values={"t": (1,)}),
        RowContract(allowed_values={"a": ("x",)}),
        RowContract(allowed_values={"a": (1.5,)}),
        RowContract(allowed_values={"a": (2**63,)}),
        RowContract(unique=["l"]),
    ],
    ids=repr,
)
def test_a_rule_that_does_not_fit_its_column_is_a_mistake_of_the_file(contract: RowContract) -> None:
    """An unknown column, or a rule that knows nothing of its type, is a ConfigError before any row is read: it names
    the rule, and the type of the column."""
    types = {"a": pa.int64(), "t": pa.string(), "d": pa.date32(), "ts": pa.timestamp("us"), "l": pa.list_(pa.int64())}
    types |= {"n": pa.decimal128(10, 2), "f": pa.float64(), "m": pa.time64("us"), "j": pa.json_()}
    [label] = [one for one in contract.labels() if "." in one]
    column = label.partition(".")[2]
    shown = "json" if column == "j" else types.get(column)
    found = f"the column is {shown};" if column in types else "the source has no column b;"
    with pytest.raises(ConfigError, match=rf"^bind contract\.{re.escape(f'{label}: {found}')}"):
        bind(contract, pa.schema(list(types.items())))


@pytest.mark.parametrize(
    ("key", "number"),
    [(["a"], True), (["f"], True), (["b"], True), (["x"], True), (["t"], False), (["n"], False), (["a", "b"], False)],
    ids=str,
)
def test_a_key_of_eight_bytes_is_kept_as_a_number(key: list[str], number: bool) -> None:
    """Eight bytes a row while keys are looked for, instead of sixteen, where the values have no more."""
    types = {"a": pa.int64(), "b": pa.bool_(), "f": pa.float32(), "x": pa.binary(8), "t": pa.string()}
    schema = pa.schema([*types.items(), ("n", pa.decimal128(10, 2))])
    rules = bind(RowContract(unique=(key,)), schema)
    assert rules.keys[0].exact is number


def test_rules_of_the_whole_load() -> None:
    """Row counts and shares of NULL are bounds inclusive; without a row only the least count can be broken."""
    column = pa.array([1, None, 3, 4, 5, 6, 7, 8, 9, 10])
    assert broken(RowContract(max_null_ratio={"a": 0.1}, row_count=RowCount(10, 10)), a=column) == {}
    assert broken(RowContract(max_null_ratio={"a": 0.09}), a=column) == {"max_null_ratio.a": 1}
    assert broken(RowContract(row_count=RowCount(11)), a=column) == {"row_count": 1}
    assert broken(RowContract(row_count=RowCount(max=9)), a=column) == {"row_count": 1}
    every = RowContract(
        max_null_ratio={"a": 0}, row_count=RowCount(1), not_null=["a"], unique=["a"], ranges={"a": Range(1)}
    )
    assert broken(every, a=column[:0]) == {"row_count": 1}


def test_1_11_every_row_is_looked_at_not_only_the_first() -> None:
    """A fault in the last row of the last batch counts as much as one in the first."""
    contract = RowContract(not_null=["id"], ranges={"id": Range(0)})
    good = pa.table({"id": range(10_000)})
    bad = pa.concat_tables([good, pa.table({"id": pa.array([None, -1], pa.int64())})])
    assert check_rows(contract, good)[1] == []
    assert {one.rule: one.violations for one in check_rows(contract, bad)[1]} == {"not_null.id": 1, "ranges.id": 1}


def test_unique_looks_at_what_is_left() -> None:
    """A row that another rule has put aside, be it a unique rule further down, is no repetition and makes none."""
    contract = RowContract(
        unique=["a", "b"], overrides={"unique.b": "quarantine", "not_null": "quarantine"}, not_null="c"
    )
    table = pa.table({"a": [1, 1, 1], "b": [5, 5, 6], "c": [None, 0, 0]})
    counts, found = check_rows(contract, table)
    assert {one.rule: one.violations for one in found if one.rule != "quarantine"} == {"not_null.c": 1, "unique.a": 1}
    table = pa.table({"a": [1, 1], "b": [5, 5], "c": [0, 0]})
    counts, found = check_rows(contract, table)
    assert {one.rule: one.violations for one in found if one.rule != "quarantine"} == {"unique.b": 1}
    assert (counts.rows, counts.loaded) == (2, 1)


# -- a slow model ---------------------------------------------------------------------------------------------------

SCHEMA = pa.schema([
    ("i", pa.int64()), ("d", pa.decimal128(6, 2)), ("f", pa.float64()), ("t", pa.string()),
    ("ts", pa.timestamp("us", "UTC")), ("n", pa.int32()),
])  # fmt: skip
ROW = st.fixed_dictionaries({
    "i": st.none() | st.integers(-3, 3),
    "d": st.none() | st.integers(-300, 300).map(lambda n: Decimal(n) / 100),
    "f": st.none() | st.sampled_from([0.0, -0.0, 1.5, -1.5, math.nan, math.inf]),
    "t": st.none() | st.sampled_from(["", "a", "b", "ab", "é"]),
    "ts": st.none() | st.integers(0, 3).map(lambda s: datetime(2026, 1, 1, 0, 0, s, tzinfo=UTC)),
})  # fmt: skip
POLICY = st.sampled_from(["fail", "warn", "quarantine"])
LABELS = ["not_null.i", "not_null.t", "ranges.i", "ranges.d", "ranges.f", "ranges.ts", "allowed_values.t"]
LABELS += ["allowed_values.i", "patterns.t", "unique.i", "unique.t", "unique.f", "unique.i+t", "unique.d+ts+t"]

VIOLATES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "not_null.i": lambda r: r["i"] is None,
    "not_null.t": lambda r: r["t"] is None,
    "ranges.i": lambda r: r["i"] is not None and not -1 <= r["i"] <= 2,
    "ranges.d": lambda r: r["d"] is not None and not Decimal("-1.005") <= r["d"] <= Decimal("1.25"),
    "ranges.f": lambda r: r["f"] is not None and not r["f"] <= 1.0,
    "ranges.ts": lambda r: r["ts"] is not None and r["ts"].second < 2,
    "allowed_values.t": lambda r: r["t"] is not None and r["t"] not in ("a", "é"),
    "allowed_values.i": lambda r: r["i"] is not None and r["i"] not in (0, 1, 2),
    "patterns.t": lambda r: r["t"] is not None and not re.fullmatch("a?b?", r["t"]),
}


def contract_of(labels: list[str], policies: dict[str, Any], null_ratio: float, rows: int) -> RowContract:
    columns: dict[str, list[Any]] = {}
    for label in labels:
        columns.setdefault(label.split(".")[0], []).append(label.split(".")[1])
    bounds = {"i": Range(-1, 2), "d": Range("-1.005", "1.25"), "f": Range(max=1), "ts": Range("2026-01-01T00:00:02Z")}
    allowed: dict[str, Any] = {"t": ("a", "é"), "i": (0, 1, 2)}
    return RowContract(
        overrides={label: policies[label] for label in labels},
        not_null=columns.get("not_null", ()),
        ranges={name: bounds[name] for name in columns.get("ranges", ())},
        allowed_values={name: allowed[name] for name in columns.get("allowed_values", ())},
        patterns=dict.fromkeys(columns.get("patterns", ()), "a?b?"),
        unique=tuple(tuple(key.split("+")) for key in columns.get("unique", ())),
        max_null_ratio={"d": null_ratio},
        row_count=RowCount(rows, 2 * rows),
        quarantine=Quarantine(max_share=0.5),
    )


def value_of(value: Any) -> Any:
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def model(contract: RowContract, rows: list[dict[str, Any]], ratio: float, wanted: int) -> Any:
    """Row by row: what is counted, and who is left out why."""
    labels = contract.labels()
    counts = dict.fromkeys(labels, 0)
    policy = {**contract.overrides, "row_count": "fail", "max_null_ratio.d": "fail"}
    unique = {label: label.split(".")[1].split("+") for label in labels if label.startswith("unique.")}
    seen: dict[str, set[Any]] = {label: set() for label in unique}
    kept, left = [], []
    for n, row in enumerate(rows):
        reasons = []
        for label, violates in VIOLATES.items():
            if label in counts and violates(row):
                counts[label] += 1
                reasons += [label] if policy[label] == "quarantine" else []
        for label, key in unique.items():
            values = tuple(value_of(row[name]) for name in key)
            if not reasons and policy[label] == "quarantine" and None not in values:
                if values in seen[label]:
                    counts[label] += 1
                    reasons = [label]
                seen[label].add(values)
        if reasons:
            left.append((n, reasons))
        else:
            kept.append(row)
    for label, key in unique.items():
        if policy[label] != "quarantine":
            keys = [tuple(value_of(row[name]) for name in key) for row in kept if all(row[k] is not None for k in key)]
            counts[label] = len(keys) - len({*keys})
    counts["row_count"] = int(not wanted <= len(kept) <= 2 * wanted)
    counts["max_null_ratio.d"] = int(bool(kept) and sum(r["d"] is None for r in kept) / len(kept) > ratio)
    fails = any(n and policy[label] == "fail" for label, n in counts.items())
    return counts, left, kept, fails or 2 * len(left) > len(rows)


def in_pieces(rules: Rules, rows: list[dict[str, Any]], cuts: list[int]) -> Any:
    counts, left, kept, start = CheckCounts(), [], [], 0
    seen = {rule.label: SeenInMemory() for rule in rules.keys}
    for end in [*sorted(min(cut, len(rows)) for cut in cuts), len(rows)]:
        checked = rules.check(pa.RecordBatch.from_pylist(rows[start:end], SCHEMA), seen)
        if checked.rejected:
            left += [
                (start + n, why) for n, why in zip(checked.rejected.rows.tolist(), checked.rejected.rules, strict=True)
            ]
        for rule in rules.keys:
            if rule.policy != "quarantine":
                repeats = int(seen[rule.label].add(checked.keys[rule.label]).sum())
                counts.add(CheckCounts(violations={rule.label: repeats}))
        counts.add(checked.counts)
        kept += checked.batch.to_pylist()
        start = end
    return counts, left, kept


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(ROW, max_size=30),
    labels=st.lists(st.sampled_from(LABELS), unique=True, max_size=6),
    policies=st.fixed_dictionaries(dict.fromkeys(LABELS, POLICY)),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    ratio=st.sampled_from([0.0, 0.25, 1.0]),
    wanted=st.integers(0, 20),
)
def test_the_checks_equal_a_slow_model(
    rows: list[Any], labels: list[str], policies: dict[str, Any], cuts: list[int], ratio: float, wanted: int
) -> None:
    """However the rows are cut into batches: the same counts, the same rows left out for the same reasons, the same
    verdict as a loop over Python values."""
    contract = contract_of(sorted(labels, key=LABELS.index), policies, ratio, wanted)
    rows = [{**row, "n": n} for n, row in enumerate(rows)]
    expected, left_out, remaining, fails = model(contract, rows, ratio, wanted)
    rules = bind(contract, SCHEMA)
    counts, left, kept = in_pieces(rules, rows, cuts)
    assert rules.violations(counts) == expected
    assert left == left_out
    assert [row["n"] for row in kept] == [row["n"] for row in remaining]
    assert (counts.rows, counts.loaded) == (len(rows), len(remaining))
    assert any(one.policy == "fail" for one in rules.verdict(counts)) == fails


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=12), wide=st.booleans())
def test_keys_seen_on_disk_equal_a_set(batches: list[list[int]], wide: bool, tmp_path_factory: Any) -> None:
    """Whatever went to the disk in between, a key was seen before if and only if a set says so; also among keys that
    begin with the same eight bytes."""
    folder: Path = tmp_path_factory.getbasetemp()
    seen, known = SeenOnDisk(folder), set[int]()
    before, unique.RUN = unique.RUN, 4
    try:
        for batch in batches:
            keys = np.array([b"%08d%08d" % (n % 3, n) for n in batch], "S16") if wide else np.array(batch, np.uint64)
            expected = [n in known or n in batch[:i] for i, n in enumerate(batch)]
            assert seen.add(keys).tolist() == expected
            known |= {*batch}
            assert sum(run.shape[1] for run in seen._recent) < 2 * unique.RUN  # the others are on the disk
    finally:
        unique.RUN = before


def resident() -> int:
    """MB of files, of a file system in memory too, that are mapped into this process and count as its memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssFile:", "RssShmem:"))) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say")
def test_keys_on_disk_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is looked for in every run, and the pages of a run are given back after that."""
    monkeypatch.setattr(unique, "RUN", 1 << 18)
    rng, seen = np.random.default_rng(1), SeenOnDisk(tmp_path)
    seen.add(rng.integers(0, 2**63, 1 << 18, dtype=np.uint64))
    before = resident()
    for _ in range(8):
        seen.add(rng.integers(0, 2**63, 1 << 18, dtype=np.uint64))
    assert sum(run.nbytes for run in seen._runs) == 18 << 20
    assert resident() - before < 8
