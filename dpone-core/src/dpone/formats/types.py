"""Types of text columns: those a pipeline may declare, and those inferred from values."""

from __future__ import annotations

import difflib
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve, field, frozen

from dpone.errors import ConfigError
from dpone.formats.json_text import NotJson, has_members, json_texts
from dpone.model.evolution import canonical_type, holds
from dpone.model.schema import LINEAGE
from dpone.model.types import (
    JSON,
    UUID,
    instead,
    named,
)

_FAR_EXPONENT = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]{18,}")


def declared(columns: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Raises ConfigError for an unknown name, and for a type that text cannot be read as."""
    types = {column: named(name, f"read columns.{column}") for column, name in columns.items()}
    for column, type_ in types.items():
        if any(is_one(type_) for is_one in _NOT_OF_TEXT):
            raise ConfigError(f"read columns.{column}", f"{columns[column]} is not supported in files", instead(""))
    return types


_NOT_OF_TEXT = (
    pa.types.is_null, pa.types.is_float16, pa.types.is_duration, pa.types.is_interval, pa.types.is_string_view,
    pa.types.is_binary_view,
)  # fmt: skip


def require_declared(columns: Mapping[str, object], names: set[str], where: str, expected: pa.Schema | None) -> None:
    """Check that each declared column is in the files or in the target; these files may leave out a column of the
    target."""
    names = names if expected is None else names | {*expected.names}
    for column in columns:
        if column not in names:
            todo = f"did you mean {_nearest(column, names)!r}? names must match exactly" if names else "remove it"
            raise ConfigError(f"read columns.{column}", f"{where} has no such column", todo)


def _nearest(word: str, words: Iterable[str]) -> str:
    """The closest match; empty if there are no words."""
    words = list(words)
    by_case = [one for one in words if one.casefold() == word.casefold()]
    return next(iter(by_case or difflib.get_close_matches(word, words, 1, 0.0)), "")


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def in_text(type_: pa.DataType) -> pa.DataType:
    """The type that a text reader returns for a column. A type that it does not support comes as text and is
    ``restored``."""
    return pa.string() if type_ in (JSON, UUID) or pa.types.is_decimal256(type_) else type_


def restored(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    """Text -> json, uuid, or what Arrow makes of it; raises BadValue with the index of the first value that is not."""
    if type_ == JSON:
        for i, text in enumerate(texts.to_pylist()):
            if text is not None and not _is_json(text):
                raise BadValue(i)
        return pa.ExtensionArray.from_storage(type_, texts)
    if type_ != UUID:
        return from_text(texts, type_)
    values: list[bytes | None] = []
    for i, text in enumerate(texts.to_pylist()):
        try:
            values.append(None if text is None else uuid.UUID(text).bytes)
        except ValueError:
            raise BadValue(i) from None
    return pa.ExtensionArray.from_storage(type_, pa.array(values, pa.binary(16)))


def from_text(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    """Texts as a type that Arrow reads from text, or as a time, which it does not. Raises BadValue."""
    try:
        values = _parsed(texts, type_)
    except pa.ArrowException:
        low, high = 0, len(texts)
        while high - low > 1:  # the first value that fails, by halving
            middle = (low + high) // 2
            try:
                _parsed(texts.slice(low, middle - low), type_)
                low = middle
            except pa.ArrowException:
                high = middle
        raise BadValue(low) from None
    if (at := beyond(texts, values)) >= 0:
        raise BadValue(at)
    return values


def _parsed(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    if not pa.types.is_time(type_):
        return texts.cast(type_)
    days = pc.binary_join_element_wise("1970-01-01 ", texts.cast(pa.string()), "")
    return days.cast(pa.timestamp(type_.unit)).cast(type_)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def exactly(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """``values`` as ``type_``; raises ArrowException or BadValue where a value would become another one.

    Arrow's own checked cast looks at integers, units and scales. It rounds to a float and from a float to a decimal,
    makes infinity of a number too large, cuts a time to its day, and takes any number but 0 for true (pyarrow 26). So
    what may lose something is cast back and compared; a text has no such way back, and only floats lose its digits.
    """
    if type_ == JSON and has_members(values.type):
        return _as_json(values)
    values = values.cast(canonical_type(values.type))
    if is_text(values.type) and type_ in (JSON, UUID):
        return restored(values.cast(pa.string()), type_)
    if is_text(type_) and (far := first_without_text(values)) >= 0:
        raise BadValue(far)
    cast = from_text(values, type_) if is_text(values.type) else values.cast(type_)
    if is_text(values.type) and pa.types.is_floating(type_):
        for i, text in enumerate(values.to_pylist()):
            if text is not None and rounds(text):
                raise BadValue(i)
    elif not (is_text(values.type) or is_text(type_) or type_ in (JSON, UUID) or holds(type_, values.type)):
        same = _same(cast.cast(values.type), values)
        if not pc.all(same).as_py():
            raise BadValue(pc.index(same, False).as_py())
    return cast


# Days of -32767-01-01 and 32767-12-31, from 1970-01-01. Arrow writes others as "<value out of range: ...>".
_DAYS = (-12_687_428, 11_248_737)
_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}


def first_without_text(values: pa.Array) -> int:
    """The index of the first date or timestamp of a year that Arrow has no text for; -1 if there is none."""
    type_ = canonical_type(values.type)
    if pa.types.is_date(type_):
        numbers, day = values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()), 1
    elif pa.types.is_timestamp(type_) and type_.unit in _PER_DAY:
        numbers, day = values.cast(type_).cast(pa.int64()), _PER_DAY[type_.unit]
    else:
        return -1
    outside = pc.or_(pc.less(numbers, _DAYS[0] * day), pc.greater_equal(numbers, (_DAYS[1] + 1) * day))
    return int(pc.index(outside, True).as_py())


def _as_json(values: pa.Array) -> pa.Array:
    try:
        return pa.ExtensionArray.from_storage(JSON, json_texts(values))
    except NotJson as error:
        raise BadValue(error.row) from None


def _same(left: pa.Array, right: pa.Array) -> pa.Array:
    """Whether two values are equal, with NaN equal to NaN; NULL for two NULLs."""
    same = pc.equal(left, right)
    return pc.or_(same, pc.and_(pc.is_nan(left), pc.is_nan(right))) if pa.types.is_floating(left.type) else same


def beyond(texts: pa.Array, values: pa.Array) -> int:
    """The index of the first number that is too large for its type of float, and so has become infinity; -1: none."""
    if not pa.types.is_floating(values.type):
        return -1
    numbers = pc.match_substring_regex(texts, "[0-9]")  # "inf" is not one
    return int(pc.index(pc.and_(pc.is_inf(values), numbers), True).as_py())


class BadValue(Exception):
    """Value ``index`` of an array does not fit its type."""

    def __init__(self, index: int) -> None:
        super().__init__(f"value {index}")
        self.index = index


def rounds(text: str) -> bool:
    """True if a double would lose digits of this number: more than 17, or an integer it cannot hold; and if it would
    make infinity or zero of it. A number with an exponent may round: 1.7976931348623157e308 is the text of a double."""
    if len(text) > 1000:  # too many digits to check one by one; a file may have millions of them
        return True
    try:
        number = Decimal(text.strip())
    except ArithmeticError:
        return bool(_FAR_EXPONENT.fullmatch(text.strip()))  # a number beyond any double
    if not number.is_finite():
        return False
    if len("".join(map(str, number.as_tuple().digits)).strip("0")) > 17:
        return True
    double = float(number)
    if math.isinf(double) or bool(double) is not bool(number):
        return True
    return "e" not in text.lower() and number == number.to_integral_value() and Decimal(double) != number


@frozen
class SeenValues:
    """What the values of a text column are.

    type     the narrowest type of all its values; null: no value at all
    rounds   a double would lose digits of some value
    fits     the values were tried as the target's type and fit it; None: not tried
    clash    the type for values that have no type in common
    """

    type: pa.DataType
    rounds: bool = False
    fits: bool | None = None
    clash: pa.DataType = field(factory=pa.string)

    def __or__(self, other: SeenValues) -> SeenValues:
        """The values of both together: of two files or of two blocks."""
        tried = [fits for fits in (self.fits, other.fits) if fits is not None]
        type_ = _join(self.type, other.type) or self.clash
        rounds = self.rounds or other.rounds
        if rounds and pa.types.is_floating(type_):
            type_ = self.clash
        return evolve(self, type=type_, rounds=rounds, fits=all(tried) if tried else None)


def _join(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The common type of two types inferred from text; None if there is none."""
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    kinds = {left, right}
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_date32(left) and _naive(right):
        return right
    if pa.types.is_date32(right) and _naive(left):
        return left
    if pa.types.is_timestamp(left) and pa.types.is_timestamp(right) and (left.tz is None) == (right.tz is None):
        return pa.timestamp("ns", left.tz)
    return None


def _naive(type_: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(type_) and type_.tz is None)


def settle(seen: Mapping[str, SeenValues], columns: Mapping[str, pa.DataType], expected: pa.Schema | None) -> pa.Schema:
    """The schema to read with: a column's declared type, else that of the target if the values fit, else the inferred
    one."""
    fields = []
    for name, what in seen.items():
        type_ = columns.get(name, what.type)
        at = -1 if expected is None or name in columns else expected.get_field_index(name)
        if expected is not None and at >= 0 and (what.fits or pa.types.is_null(type_)):
            type_ = expected.field(at).type
        fields.append(pa.field(name, pa.string() if pa.types.is_null(type_) else type_))
    return pa.schema(fields)


def without_lineage(schema: pa.Schema) -> pa.Schema:
    """The schema without lineage columns of an earlier load; each target gets its own."""
    return pa.schema([field for field in schema if field.name not in LINEAGE])
