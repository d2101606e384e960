"""Arrow's casts, on which every sink relies where its type holds the source's: exact, or refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import pyarrow as pa
import pytest

from dpone.model.evolution import holds, united

_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_FLOATS = [pa.float16(), pa.float32(), pa.float64()]
_DECIMALS = [pa.decimal128(5, 2), pa.decimal128(20, 0), pa.decimal128(38, 9), pa.decimal256(76, 20)]
_TIMES = [
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.date32(), pa.date64(),
]  # fmt: skip
TYPES = [*_INTEGERS, *_FLOATS, *_DECIMALS, *_TIMES]
_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def edges(type_: pa.DataType) -> list[pa.Scalar]:
    """The ends of a type, and values near the limits of the others."""
    if pa.types.is_integer(type_):
        bits = type_.bit_width - pa.types.is_signed_integer(type_)
        low = -(2**bits) if pa.types.is_signed_integer(type_) else 0
        wanted = [low, 2**bits - 1, 2**53 + 1, 2**24 + 1, 2049, -(2**53) - 1, 0, 1]
        return [pa.scalar(value, type_) for value in wanted if low <= value < 2**bits]
    if pa.types.is_floating(type_):
        return [pa.scalar(value, type_) for value in (0.1, 65504.0, 2049.0, -1.0)]
    if pa.types.is_decimal(type_):
        step = Decimal(1).scaleb(-type_.scale)
        most = Decimal("9" * type_.precision).scaleb(-type_.scale) if type_.precision < 28 else Decimal(10) ** 27
        return [pa.scalar(value, type_) for value in (step, -step, most, Decimal(0))]
    if pa.types.is_time(type_):
        last = 86_400 * _SECOND[type_.unit] - 1
        integer = pa.int32() if type_.bit_width == 32 else pa.int64()
        return [pa.array([value], integer).cast(type_)[0] for value in (0, 1, last)]
    if type_ == pa.date64():
        day = 86_400_000
        return [pa.array([n * day], pa.int64()).cast(type_)[0] for n in (0, -1, 2_932_896, 10**9, -(10**9))]
    if type_ == pa.date32():
        ends = (0, -1, 2_932_896, 106_752, 2**31 - 1, -(2**31))
        return [pa.array([n], pa.int32()).cast(type_)[0] for n in ends]
    ends = (0, 1, -1, 10**9 + 1, 253_402_300_799, 2**62 + 1, -(2**62) - 1)
    return [pa.array([n], pa.int64()).cast(type_)[0] for n in ends]


def exact(value: pa.Scalar) -> Fraction:
    """The number that stands for a value: seconds for times."""
    type_ = value.type
    if pa.types.is_temporal(type_):
        if type_ == pa.date32():
            return Fraction(value.cast(pa.int32()).as_py() * 86_400)
        unit = "ms" if type_ == pa.date64() else type_.unit
        integer = pa.int32() if type_.bit_width == 32 else pa.int64()
        return Fraction(value.cast(integer).as_py(), _SECOND[unit])
    return Fraction(value.as_py())


PAIRS = [(a, b) for a in TYPES for b in TYPES if a != b and (holds(b, a) or united(a, b) == b)]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_a_type_that_holds_another_gets_its_values_or_refuses_them(source: pa.DataType, target: pa.DataType) -> None:
    """No cast between such types wraps around, rounds or cuts without a word."""
    for value in edges(source):
        try:
            cast = pa.repeat(value, 1).cast(target)
        except pa.ArrowException:
            continue
        assert exact(cast[0]) == exact(value), f"{value!r} became {cast[0]!r}"


def test_the_pairs_are_those_that_matter() -> None:
    """Widenings, units, dates to timestamps, whole numbers to doubles."""
    for pair in [
        (pa.int64(), pa.float64()), (pa.date32(), pa.timestamp("ns")), (pa.timestamp("s"), pa.timestamp("ns")),
        (pa.uint32(), pa.int64()), (pa.float16(), pa.float64()), (pa.int64(), pa.decimal128(20, 0)),
    ]:  # fmt: skip
        assert pair in PAIRS
    assert dt.date(9999, 12, 31) == dt.date(1970, 1, 1) + dt.timedelta(2_932_896)
