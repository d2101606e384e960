"""Checks rows against a row contract, batch by batch. Pure: Arrow in, Arrow and counts out; no engine and no files.

    rules = bind(contract, schema)                 # ConfigError if contract and columns do not fit
    checked = rules.check(batch, seen)             # the rest of the batch, and which rows were left out and why
    counts.add(checked.counts)                     # of all batches and parts
    broken = rules.verdict(counts)                 # rules that do not hold, with their policy

``check_rows`` does it all for rows in memory.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from attrs import asdict, define, field, frozen

from dpone.errors import ConfigError, counted
from dpone.model.row_contract import (
    Bound,
    Length,
    Policy,
    Range,
    RowContract,
    anchored,
    bound,
    duration,
    type_of,
)
from dpone.model.types import kind
from dpone.quality.unique import Keys, Mask, SeenInMemory, SeenKeys

Violates = Callable[[pa.Array], "pa.Array | None"]


@define
class CheckCounts:
    """What was counted for some rows; as JSON it is stored with a part's mark.

    rows        that were looked at
    loaded      of them, not quarantined
    violations  rows by rule; of ``unique`` only those that were quarantined
    nulls       of the rows loaded, by column
    newest      of the rows loaded, by column of ``freshness``: microseconds since 1970, UTC
    """

    rows: int = 0
    loaded: int = 0
    violations: dict[str, int] = field(factory=dict)
    nulls: dict[str, int] = field(factory=dict)
    newest: dict[str, int] = field(factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckCounts:
        """``newest`` is absent in what an earlier version wrote."""
        return cls(data["rows"], data["loaded"], data["violations"], data["nulls"], data.get("newest", {}))

    def add(self, other: CheckCounts) -> None:
        self.rows += other.rows
        self.loaded += other.loaded
        for mine, theirs in ((self.violations, other.violations), (self.nulls, other.nulls)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        for name, when in other.newest.items():
            self.newest[name] = max(when, self.newest.get(name, when))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@frozen
class BrokenRule:
    """A rule that does not hold. ``text`` names columns and counts, never a value."""

    rule: str
    policy: Policy
    violations: int
    text: str


@frozen
class RejectedRows:
    """Rows left out of a batch: their positions in it, and the rules that each of them breaks."""

    rows: npt.NDArray[np.int64]
    rules: list[list[str]]


@frozen
class Checked:
    """batch: the rows that are loaded. keys: their keys for each ``unique`` rule, without rows that have NULL.
    key_rows: the row of each key in the batch as it came. violating: for each rule, the rows of that batch that
    violate it; for ``unique`` only those left out."""

    batch: pa.RecordBatch
    rejected: RejectedRows | None
    counts: CheckCounts
    keys: Mapping[str, Keys]
    violating: Mapping[str, Mask]
    key_rows: Mapping[str, npt.NDArray[np.int64]]


@frozen
class RowRule:
    label: str
    policy: Policy
    column: int
    violates: Violates


@frozen
class KeyRule:
    label: str
    policy: Policy
    columns: tuple[int, ...]
    exact: bool  # keys of eight bytes, as uint64


@frozen
class AgeRule:
    """most, now: in microseconds, ``now`` since 1970. A value later than ``until`` does not show how old the newest row
    is: it is an error, or a date in the far future that means "none"."""

    label: str
    column: int
    most: int
    now: int

    @property
    def until(self) -> int:
        return self.now + self.most


@frozen
class Rules:
    """A contract bound to the columns of a source."""

    contract: RowContract
    static: tuple[BrokenRule, ...]
    rows: tuple[RowRule, ...]
    keys: tuple[KeyRule, ...]
    nulls: Mapping[str, int]
    ages: Mapping[str, AgeRule]

    @property
    def in_order(self) -> bool:
        """True if the result depends on the order of the rows (which of equal rows is the first), so that parts must be
        read one after the other."""
        return any(rule.policy == "quarantine" for rule in self.keys)

    def check(self, batch: pa.RecordBatch, seen: Mapping[str, SeenKeys]) -> Checked:
        """Rules about single rows are applied to every row, ``unique`` to the remaining rows, in the contract's
        order."""
        counts, reasons, violating = CheckCounts(rows=batch.num_rows), dict[str, Mask](), dict[str, Mask]()
        for rule in self.rows:
            mask = _mask(rule.violates(_decoded(batch.column(rule.column))))
            counts.violations[rule.label] = 0 if mask is None else int(np.count_nonzero(mask))
            if mask is not None:
                violating[rule.label] = mask
            if mask is not None and rule.policy == "quarantine":
                reasons[rule.label] = mask
        rest = _Rest(batch, np.arange(batch.num_rows))
        if reasons:
            rest.drop(np.logical_or.reduce(list(reasons.values())))
        keys, key_rows = {}, {}
        for key in sorted(self.keys, key=lambda one: one.policy != "quarantine"):
            valid, found = _keys(rest.batch, key)
            rows = rest.places[valid]
            if key.policy == "quarantine":
                again = seen[key.label].add(found)
                found = found[~again]
                counts.violations[key.label] = int(np.count_nonzero(again))
                if counts.violations[key.label]:
                    reasons[key.label] = violating[key.label] = _at_places(batch.num_rows, rows[again])
                    rest.drop(_at_places(rest.batch.num_rows, valid[again]))
                    rows = rows[~again]
            keys[key.label], key_rows[key.label] = found, rows
        counts.loaded = rest.batch.num_rows
        counts.nulls = {name: rest.batch.column(at).null_count for name, at in self.nulls.items()}
        for name, age in self.ages.items():
            if (newest := _newest(_decoded(rest.batch.column(age.column)), age.until)) is not None:
                counts.newest[name] = newest
        rejected = _rejected(batch.num_rows, rest.places, reasons)
        return Checked(rest.batch, rejected, counts, keys, violating, key_rows)

    def verdict(self, counts: CheckCounts) -> list[BrokenRule]:
        """Rules that the load violates, those with policy ``fail`` first. ``counts`` must include the repeated keys of
        every ``unique`` rule."""
        found = [*self.static, *self._counted(counts), *self._of_the_load(counts), *self._too_many(counts)]
        return sorted(found, key=lambda broken: ("fail", "quarantine", "warn").index(broken.policy))

    def _counted(self, counts: CheckCounts) -> Iterable[BrokenRule]:
        for label in (rule.label for rules in (self.rows, self.keys) for rule in rules):
            if count := counts.violations.get(label, 0):
                yield BrokenRule(label, self.contract.policy(label), count, f"{label}: {counted(count, 'row')}")

    def _of_the_load(self, counts: CheckCounts) -> Iterable[BrokenRule]:
        wanted, policy = self.contract.row_count, self.contract.policy("row_count")
        if wanted and wanted.min is not None and counts.loaded < wanted.min:
            text = f"row_count: {counted(counts.loaded, 'row')}, at least {wanted.min:,} required"
            yield BrokenRule("row_count", policy, 1, text)
        if wanted and wanted.max is not None and counts.loaded > wanted.max:
            text = f"row_count: {counted(counts.loaded, 'row')}, at most {wanted.max:,} allowed"
            yield BrokenRule("row_count", policy, 1, text)
        for column, ratio in self.contract.max_null_ratio.items():
            nulls, label = counts.nulls.get(column, 0), f"max_null_ratio.{column}"
            if nulls > _exact(ratio) * counts.loaded:
                text = f"{label}: NULL in {nulls:,} of {counted(counts.loaded, 'row')}"
                yield BrokenRule(label, self.contract.policy(label), 1, text)

        for column, age in self.ages.items():
            if (stale := _too_old(age, counts.newest.get(column))) is not None:
                yield BrokenRule(age.label, self.contract.policy(age.label), 1, stale)

    def _too_many(self, counts: CheckCounts) -> Iterable[BrokenRule]:
        left, limit = counts.rows - counts.loaded, self.contract.quarantine
        if left > limit.max_rows or left > _exact(limit.max_share) * counts.rows:
            name = "max_rows" if left > limit.max_rows else "max_share"
            text = f"quarantine.{name}: {left:,} of {counted(counts.rows, 'row')} would be quarantined"
            yield BrokenRule("quarantine", "fail", left, text)

    def violations(self, counts: CheckCounts) -> dict[str, int]:
        """For every rule: the number of rows that violate it, or 0 or 1 for a rule about the whole load."""
        broken = {one.rule: one.violations for one in self.verdict(counts)}
        return {label: broken.get(label, 0) for label in self.contract.labels()}


def _newest(column: pa.Array, until: int) -> int | None:
    """The greatest value up to ``until``, both in microseconds since 1970; without a zone, as UTC."""
    units, per_second = _physical(column), _per_second(column.type)
    least, most = _limits(units.type)
    last = max(least, min(most, until * per_second // 10**6))
    newest = pc.max(units.filter(pc.less_equal(units, pa.scalar(last, units.type)))).as_py()
    return None if newest is None else int(newest * 10**6 // per_second)


def _per_second(type_: pa.DataType) -> Fraction:
    """Units of a column of dates or timestamps in a second."""
    if pa.types.is_timestamp(type_):
        return Fraction(_PER_SECOND[type_.unit])
    return Fraction(1000) if pa.types.is_date64(type_) else Fraction(1, 86_400)


def _too_old(rule: AgeRule, newest: int | None) -> str | None:
    if newest is None:
        return f"{rule.label}: there is no value up to now, one of the last {_shown(rule.most)} required"
    if rule.now - newest <= rule.most:
        return None
    return f"{rule.label}: the newest value is {_shown(rule.now - newest)} old, at most {_shown(rule.most)} allowed"


def _shown(age: int) -> str:
    """Microseconds in words: ``36 hours``, ``2.5 days``."""
    for word, unit in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        number = age // (unit * 10**5) / 10
        if number >= 2 or word == "second":
            return f"{number:,g} {word}{'' if number == 1 else 's'}"
    raise AssertionError("unreachable")


def _exact(share: float) -> Fraction:
    """0.1 as it is written, not the nearest double."""
    return Fraction(str(share))


@define
class _Rest:
    """Rows that no rule has left out so far, and their positions in the original batch."""

    batch: pa.RecordBatch
    places: npt.NDArray[np.int64]

    def drop(self, mask: Mask) -> None:
        self.batch, self.places = self.batch.filter(pa.array(~mask)), self.places[~mask]


def _at_places(rows: int, places: npt.NDArray[np.int64]) -> Mask:
    mask = np.zeros(rows, np.bool_)
    mask[places] = True
    return mask


def _mask(mask: pa.Array | None) -> Mask | None:
    if mask is None:
        return None
    found: Mask = mask.to_numpy(zero_copy_only=False)
    return found if found.any() else None


def _rejected(rows: int, places: npt.NDArray[np.int64], reasons: Mapping[str, Mask]) -> RejectedRows | None:
    if len(places) == rows:
        return None
    where = np.flatnonzero(~_at_places(rows, places))
    return RejectedRows(where, [[label for label, mask in reasons.items() if mask[row]] for row in where])


# -- a contract and the columns of a source -------------------------------------------------------------------------


def bind(contract: RowContract, schema: pa.Schema, now: datetime | None = None) -> Rules:
    """``now``: from when ``freshness`` counts. Raises ConfigError if a rule names a column that does not exist, unless
    ``required_columns`` lists it too, or a column of a type that the rule does not support."""
    static: list[BrokenRule] = []
    for column in contract.required_columns:
        if column not in schema.names:
            label = f"required_columns.{column}"
            static.append(BrokenRule(label, contract.policy(label), 1, f"{label}: the column does not exist"))
    for column, name in contract.types.items():
        label = f"types.{column}"
        type_ = _type(contract, schema, label, column)
        if type_ is not None and not _same(type_, type_of(name), name):
            text = f"{label}: the column is {_called(type_)}, not {name}"
            static.append(BrokenRule(label, contract.policy(label), 1, text))
    for column, logical in contract.logical_types.items():
        label = f"logical_types.{column}"
        type_ = _type(contract, schema, label, column)
        if type_ is not None and not _holds(type_, logical):
            text = f"{label}: the column is {_called(type_)}, not {logical}"
            static.append(BrokenRule(label, contract.policy(label), 1, text))
    nulls = {
        c: i for c in contract.max_null_ratio if (i := _at(contract, schema, f"max_null_ratio.{c}", c)) is not None
    }
    rows, keys = tuple(_row_rules(contract, schema)), tuple(_key_rules(contract, schema))
    return Rules(contract, tuple(static), rows, keys, nulls, dict(_ages(contract, schema, now or datetime.now(UTC))))


def _ages(contract: RowContract, schema: pa.Schema, now: datetime) -> Iterable[tuple[str, AgeRule]]:
    since_1970 = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for column, most in contract.freshness.items():
        label = f"freshness.{column}"
        if (at := _at(contract, schema, label, column)) is None:
            continue
        type_ = _decoded_type(schema.field(at).type)
        if not (pa.types.is_date(type_) or pa.types.is_timestamp(type_)):
            raise _unfit(label, type_, "use freshness only for dates and timestamps")
        yield column, AgeRule(label, at, duration(most) // timedelta(microseconds=1), since_1970)


# ``model.types.kind`` of the columns that hold each. JSON text may be an object or an array.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "string": ("text", "uuid"), "integer": ("integer",), "number": ("integer", "floating", "decimal"),
    "boolean": ("boolean",), "date": ("date",), "time": ("time",), "timestamp": ("timestamp", "instant"),
    "object": ("json",), "array": ("json",),
}  # fmt: skip


def _holds(type_: pa.DataType, logical: str) -> bool:
    if pa.types.is_decimal(type_) and logical == "integer":
        return bool(type_.scale <= 0)
    if pa.types.is_struct(type_) or pa.types.is_map(type_):
        return logical == "object"
    if pa.types.is_nested(type_):
        return logical == "array"
    return kind(type_) in _KINDS[logical]


def _at(contract: RowContract, schema: pa.Schema, label: str, column: str) -> int | None:
    if column in schema.names:
        return int(schema.get_field_index(column))
    if column in contract.required_columns:
        return None
    todo = f"use columns of {', '.join(schema.names)}, or add it to required_columns"
    raise ConfigError(f"bind contract.{label}", f"the source has no column {column}", todo)


def _type(contract: RowContract, schema: pa.Schema, label: str, column: str) -> pa.DataType | None:
    at = _at(contract, schema, label, column)
    return None if at is None else _decoded_type(schema.field(at).type)


def _same(found: pa.DataType, wanted: pa.DataType, name: str) -> bool:
    if pa.types.is_decimal(found) and pa.types.is_decimal(wanted):
        return (found.precision, found.scale) == (wanted.precision, wanted.scale)
    wanted = _decoded_type(wanted)
    if _is_text(found) and _is_text(wanted):
        return True
    if _is_binary(found) and _is_binary(wanted):
        return True
    if "[" not in name:  # SQL's time types have digits; Arrow's have units
        if pa.types.is_timestamp(found) and pa.types.is_timestamp(wanted):
            return (found.tz is None) == (wanted.tz is None)
        if pa.types.is_time(found) and pa.types.is_time(wanted):
            return True
    return bool(found == wanted)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _decoded_type(type_: pa.DataType) -> pa.DataType:
    """The type without an encoding, as ``_decoded`` converts a column."""
    while pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        type_ = type_.value_type
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_decimal32(type_) or pa.types.is_decimal64(type_):
        return pa.decimal128(type_.precision, type_.scale)
    return type_


def _decoded(column: pa.Array) -> pa.Array:
    type_ = _decoded_type(column.type)
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    return column if column.type == type_ else column.cast(type_)


def _row_rules(contract: RowContract, schema: pa.Schema) -> Iterable[RowRule]:
    makers: dict[str, Callable[[str, pa.DataType, str], Violates]] = {
        "not_null": lambda label, type_, column: _is_null,
        "ranges": lambda label, type_, column: _range(label, type_, contract.ranges[column]),
        "lengths": lambda label, type_, column: _length(label, type_, contract.lengths[column]),
        "allowed_values": lambda label, type_, column: _allowed(label, type_, contract.allowed_values[column]),
        "patterns": lambda label, type_, column: _pattern(label, type_, contract.patterns[column]),
    }
    for name, make in makers.items():
        for column in getattr(contract, name):
            label = f"{name}.{column}"
            at = _at(contract, schema, label, column)
            if at is not None:
                violates = make(label, _decoded_type(schema.field(at).type), column)
                yield RowRule(label, contract.policy(label), at, violates)


def _unfit(label: str, type_: pa.DataType, todo: str) -> ConfigError:
    return ConfigError(f"bind contract.{label}", f"the column is {_called(type_)}", todo)


def _called(type_: pa.DataType) -> str:
    """Arrow writes JSON as ``extension<arrow.json>``."""
    return re.sub(r"extension<arrow\.(\w+)>", r"\1", str(type_))


def _is_null(column: pa.Array) -> pa.Array | None:
    return column.is_null() if column.null_count else None


def _nothing(column: pa.Array) -> pa.Array | None:
    return None


def _pattern(label: str, type_: pa.DataType, pattern: str) -> Violates:
    if not _is_text(type_):
        raise _unfit(label, type_, "use patterns only for text columns")
    whole = anchored(pattern)
    return lambda column: pc.invert(pc.match_substring_regex(column, whole)).fill_null(False)


def _length(label: str, type_: pa.DataType, limits: Length) -> Violates:
    if not _is_text(type_):
        raise _unfit(label, type_, "use lengths only for text columns")
    wide = pa.int64() if pa.types.is_large_string(type_) else pa.int32()
    least = limits.min or 0
    most = min(2**31 - 1 if limits.max is None else limits.max, 2**31 - 1)
    low, high = pa.scalar(min(least, 2**31 - 1), wide), pa.scalar(most, wide)

    def violates(column: pa.Array) -> pa.Array | None:
        """A character has one to four bytes, so the number of bytes usually decides."""
        bytes_ = pc.min_max(pc.binary_length(column)).as_py()
        if bytes_["max"] is None or (bytes_["max"] <= most and bytes_["min"] > 4 * (least - 1)):
            return None
        length = pc.utf8_length(column)
        return pc.or_(pc.less(length, low), pc.greater(length, high)).fill_null(False)

    return violates


# -- bounds and values in the terms of a column ---------------------------------------------------------------------

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Python's default context rounds to 28 digits, also in ``scaleb``.
_EXACT = Context(prec=10_000)


def _range(label: str, type_: pa.DataType, limits: Range) -> Violates:
    above, below = limits.above is not None, limits.below is not None
    given = (limits.above if above else limits.min, limits.below if below else limits.max)
    low, high = (None if v is None else bound(v) for v in given)
    if pa.types.is_floating(type_):
        numbers = [None if v is None else float(_number(label, type_, v)) for v in (low, high)]
        compare = (pc.greater if above else pc.greater_equal, pc.less if below else pc.less_equal)
        return _float_range(list(zip(compare, numbers, strict=True)), type_)
    floor = ceiling = None
    if low is not None:
        units = _units(label, type_, low)
        floor = math.floor(units) + 1 if above else math.ceil(units)
    if high is not None:
        units = _units(label, type_, high)
        ceiling = math.ceil(units) - 1 if below else math.floor(units)
    least, most = _limits(type_)
    if (floor is not None and floor > most) or (ceiling is not None and ceiling < least):
        return lambda column: column.is_valid()
    checks: list[tuple[Any, pa.Scalar]] = []
    if floor is not None and floor > least:
        checks.append((pc.less, _scalar(floor, type_)))
    if ceiling is not None and ceiling < most:
        checks.append((pc.greater, _scalar(ceiling, type_)))
    if not checks:
        return _nothing

    def violates(column: pa.Array) -> pa.Array:
        column = _physical(column)
        masks = [outside(column, limit) for outside, limit in checks]
        return (masks[0] if len(masks) == 1 else pc.or_(*masks)).fill_null(False)

    return violates


def _float_range(given: Sequence[tuple[Any, float | None]], type_: pa.DataType) -> Violates:
    """A bound is the nearest number the column can hold. NaN is in no range."""
    # pyarrow 26 has no comparison of float16.
    wide = pa.float32() if pa.types.is_float16(type_) else type_
    inside = [(compare, pa.scalar(limit, wide)) for compare, limit in given if limit is not None]

    def violates(column: pa.Array) -> pa.Array:
        column = column if column.type == wide else column.cast(wide)
        # What is inside, then inverted: every comparison with NaN is false, so NaN is outside.
        masks = [compare(column, limit) for compare, limit in inside]
        return pc.invert(masks[0] if len(masks) == 1 else pc.and_(*masks)).fill_null(False)

    return violates


def _number(label: str, type_: pa.DataType, value: Bound) -> Decimal:
    if not isinstance(value, Decimal):
        raise _unfit(label, type_, "write numbers")
    return value


def _units(label: str, type_: pa.DataType, value: Bound) -> Fraction:
    """A bound in the unit of the column: ones, units of its scale, days, seconds or their fractions."""
    if pa.types.is_integer(type_):
        return Fraction(_number(label, type_, value))
    if pa.types.is_decimal(type_):
        return Fraction(_number(label, type_, value).scaleb(type_.scale, _EXACT))
    if pa.types.is_date(type_):
        if not isinstance(value, date) or isinstance(value, datetime):
            raise _unfit(label, type_, "write dates, as in 2026-01-31")
        return Fraction((value - date(1970, 1, 1)).days) * (86_400_000 if pa.types.is_date64(type_) else 1)
    if pa.types.is_timestamp(type_):
        if not isinstance(value, datetime) or (value.tzinfo is None) != (type_.tz is None):
            ending = "" if type_.tz is None else "Z"
            raise _unfit(label, type_, f"write timestamps, as in 2026-01-31T23:59:59{ending}")
        start = datetime(1970, 1, 1, tzinfo=None if type_.tz is None else UTC)
        return Fraction((value - start) // timedelta(microseconds=1), 10**6) * _PER_SECOND[type_.unit]
    if pa.types.is_time(type_):
        if not isinstance(value, time) or value.tzinfo is not None:
            raise _unfit(label, type_, "write times, as in 23:59:59")
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return (seconds + Fraction(value.microsecond, 10**6)) * _PER_SECOND[type_.unit]
    raise _unfit(label, type_, "use ranges only for numbers, dates, timestamps and times, and a pattern for text")


def _limits(type_: pa.DataType) -> tuple[int, int]:
    """The least and the greatest number of units that a column of the type can hold."""
    if pa.types.is_decimal(type_):
        return 1 - 10**type_.precision, 10**type_.precision - 1
    width = type_.bit_width
    if pa.types.is_unsigned_integer(type_):
        return 0, 2**width - 1
    return -(2 ** (width - 1)), 2 ** (width - 1) - 1


def _scalar(units: int, type_: pa.DataType) -> pa.Scalar:
    if pa.types.is_decimal(type_):
        return pa.scalar(Decimal(units).scaleb(-type_.scale, _EXACT), type_)
    return pa.scalar(units, _physical_type(type_))


def _physical_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(type_):
        return pa.int32() if type_.bit_width == 32 else pa.int64()
    return type_


def _physical(column: pa.Array) -> pa.Array:
    type_ = _physical_type(column.type)
    return column if column.type == type_ else column.view(type_)


def _allowed(label: str, type_: pa.DataType, values: Sequence[Any]) -> Violates:
    if _is_text(type_) or pa.types.is_boolean(type_):
        wanted = str if _is_text(type_) else bool
        if any(not isinstance(value, wanted) for value in values):
            raise _unfit(label, type_, "write the values in quotes" if wanted is str else "write true or false")
        known = pa.array(values, type_)
    elif pa.types.is_floating(type_) and not pa.types.is_float16(type_):
        known = pa.array([float(_number(label, type_, _value(label, type_, v))) for v in values], type_)
    else:
        units = [_units(label, type_, _value(label, type_, value)) for value in values]
        least, most = _limits(type_)
        if any(unit.denominator != 1 or not least <= unit <= most for unit in units):
            raise _unfit(label, type_, "remove the values that this type cannot hold")
        known = pa.array([_scalar(int(unit), type_).as_py() for unit in units], _physical_type(type_))

    def violates(column: pa.Array) -> pa.Array:
        strange = pc.invert(pc.is_in(_physical(column), known))
        return pc.and_(strange, column.is_valid()) if column.null_count else strange

    return violates


def _value(label: str, type_: pa.DataType, value: Any) -> Bound:
    try:
        return bound(value)
    except ValueError as error:
        raise _unfit(label, type_, "write values of this type") from error


# -- unique ---------------------------------------------------------------------------------------------------------


def _key_rules(contract: RowContract, schema: pa.Schema) -> Iterable[KeyRule]:
    for key in contract.keys:
        label = f"unique.{'+'.join(key)}"
        places = [_at(contract, schema, label, column) for column in key]
        if any(at is None for at in places):
            continue
        columns = tuple(at for at in places if at is not None)
        widths = [_width(label, schema.field(at).type) for at in columns]
        yield KeyRule(label, contract.policy(label), columns, exact=sum(widths) == 8)


def _width(label: str, type_: pa.DataType) -> int:
    """Bytes needed to distinguish values of the type; texts are compared by a digest."""
    type_ = _stored_type(type_)
    if pa.types.is_decimal(type_):
        return int(type_.bit_width // 8)
    if _is_text(type_) or _is_binary(type_):
        return 16
    if pa.types.is_fixed_size_binary(type_):
        return int(type_.byte_width)
    if pa.types.is_primitive(type_) and not pa.types.is_interval(type_):
        return 8
    raise _unfit(label, type_, "use other columns; nested values cannot be compared")


def _stored_type(type_: pa.DataType) -> pa.DataType:
    type_ = _decoded_type(type_)
    return _decoded_type(type_.storage_type) if isinstance(type_, pa.BaseExtensionType) else type_


def _keys(batch: pa.RecordBatch, rule: KeyRule) -> tuple[npt.NDArray[np.int64], Keys]:
    """Rows without NULL in the columns, and their keys: equal if and only if the values are (NaN equals NaN, -0.0 is
    0.0). Up to 16 bytes are the key itself, more its BLAKE2b of 128 bits."""
    columns = [batch.column(at) for at in rule.columns]
    valid = np.ones(batch.num_rows, np.bool_)
    for column in columns:
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(valid)
    if len(rows) < batch.num_rows:
        columns = [column.filter(pa.array(valid)) for column in columns]
    parts = [_bytes(column) for column in columns]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if rule.exact:
        return rows, np.ascontiguousarray(whole).view(np.uint64).reshape(-1)
    if whole.shape[1] > 16:
        data = np.ascontiguousarray(whole).view(f"V{whole.shape[1]}").reshape(-1).tolist()
        whole = _digests(data)
    elif whole.shape[1] < 16:
        whole = np.pad(whole, ((0, 0), (0, 16 - whole.shape[1])))
    # numpy ignores trailing zero bytes of S16, which makes no difference between keys of one length.
    return rows, np.ascontiguousarray(whole).view("S16").reshape(-1)


def _digests(values: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    made = b"".join([hashlib.blake2b(value, digest_size=16).digest() for value in values])
    return np.frombuffer(made, np.uint8).reshape(-1, 16)


def _bytes(column: pa.Array) -> npt.NDArray[np.uint8]:
    """One row of bytes per value; ``column`` has no NULL."""
    column = _decoded(column)
    if isinstance(column.type, pa.BaseExtensionType):
        column = _decoded(column.storage)
    type_ = column.type
    if _is_text(type_) or _is_binary(type_):
        binary = (
            pa.large_binary() if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_) else pa.binary()
        )
        return _digests(column.cast(binary).to_pylist())
    if pa.types.is_decimal(type_) or pa.types.is_fixed_size_binary(type_):
        width = type_.bit_width // 8
        data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
        rows: npt.NDArray[np.uint8] = data[column.offset * width : (column.offset + len(column)) * width].reshape(
            -1, width
        )
        return rows
    if pa.types.is_floating(type_):
        # -0.0 + 0.0 is 0.0. NaN has many bit patterns; here it gets one.
        floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0
        floats[np.isnan(floats)] = np.nan
        return np.asarray(floats).view(np.uint8).reshape(-1, 8)
    numbers = _physical(column)
    wide = numbers if pa.types.is_uint64(numbers.type) else numbers.cast(pa.int64())
    return np.ascontiguousarray(wide.to_numpy(zero_copy_only=False)).view(np.uint8).reshape(-1, 8)


def check_rows(contract: RowContract, table: pa.Table) -> tuple[CheckCounts, list[BrokenRule]]:
    """Check rows in memory against a contract; no row is left out. Raises ConfigError as ``bind`` does."""
    rules, counts = bind(contract, table.schema), CheckCounts()
    seen: dict[str, SeenKeys] = {rule.label: SeenInMemory() for rule in rules.keys}
    for batch in table.to_batches():
        checked = rules.check(batch, seen)
        counts.add(checked.counts)
        for rule in rules.keys:
            if rule.policy != "quarantine":
                repeats = int(np.count_nonzero(seen[rule.label].add(checked.keys[rule.label])))
                counts.add(CheckCounts(violations={rule.label: repeats}))
    return counts, rules.verdict(counts)
