"""Types of text: what a pipeline may declare, and what the values of a column were seen to be."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve, field, frozen

from dpone.connectors.file.config import DECIMAL, nearest
from dpone.errors import ConfigError
from dpone.evolution import holds, plain
from dpone.schema import LINEAGE

_NAMED = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float": pa.float32(), "double": pa.float64(), "string": pa.string(), "binary": pa.binary(), "date": pa.date32(),
    "time": pa.time64("us"), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"),
    "timestamp_ns": pa.timestamp("ns"), "json": pa.json_(), "uuid": pa.uuid(),
}  # fmt: skip
_FAR_EXPONENT = re.compile(r"[+-]?[0-9.]+[eE][+-]?[0-9]{18,}")
JSON, UUID = _NAMED["json"], _NAMED["uuid"]


def declared(columns: Mapping[str, str]) -> dict[str, pa.DataType]:
    return {column: parse(name) for column, name in columns.items()}


def parse(name: str) -> pa.DataType:
    """``decimal(18,2)`` -> decimal128(18, 2). The names were checked with the options."""
    if decimal := DECIMAL.fullmatch(name):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return _NAMED[name]


def named(type_: pa.DataType) -> str:
    """The inverse of ``parse``."""
    if pa.types.is_decimal(type_):
        return f"decimal({type_.precision},{type_.scale})"
    return next(name for name, known in _NAMED.items() if known == type_)


def require_declared(columns: Mapping[str, object], names: set[str], where: str, expected: pa.Schema | None) -> None:
    """Each is a column of the files, or of the target: then these files leave it out."""
    names = names if expected is None else names | {*expected.names}
    for column in columns:
        if column not in names:
            todo = f"did you mean {nearest(column, names)!r}? names are matched exactly" if names else "remove it"
            raise ConfigError(f"read columns.{column}", f"{where} has no such column", todo)


def is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def in_text(type_: pa.DataType) -> pa.DataType:
    """The type in which a text reader hands over a column: json and uuid come as text and are ``restored``."""
    return pa.string() if type_ in (JSON, UUID) else type_


def restored(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    """Text -> json or uuid; raises BadValue with the index of the first value that is neither."""
    if type_ == JSON:
        for i, text in enumerate(texts.to_pylist()):
            if text is not None and not _is_json(text):
                raise BadValue(i)
        return pa.ExtensionArray.from_storage(type_, texts)
    values: list[bytes | None] = []
    for i, text in enumerate(texts.to_pylist()):
        try:
            values.append(None if text is None else uuid.UUID(text).bytes)
        except ValueError:
            raise BadValue(i) from None
    return pa.ExtensionArray.from_storage(type_, pa.array(values, pa.binary(16)))


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
    values = values.cast(plain(values.type))
    if is_text(values.type) and type_ in (JSON, UUID):
        return restored(values.cast(pa.string()), type_)
    cast = values.cast(type_)
    if is_text(values.type) and pa.types.is_floating(type_):
        for i, text in enumerate(values.to_pylist()):
            if text is not None and rounds(text):
                raise BadValue(i)
    elif not (is_text(values.type) or is_text(type_) or type_ in (JSON, UUID) or holds(type_, values.type)):
        same = _same(cast.cast(values.type), values)
        if not pc.all(same).as_py():
            raise BadValue(pc.index(same, False).as_py())
    return cast


def _same(left: pa.Array, right: pa.Array) -> pa.Array:
    """True also for two that are not a number; NULL for two NULLs."""
    same = pc.equal(left, right)
    return pc.or_(same, pc.and_(pc.is_nan(left), pc.is_nan(right))) if pa.types.is_floating(left.type) else same


class BadValue(Exception):
    """Value ``index`` of an array does not fit its type."""

    def __init__(self, index: int) -> None:
        super().__init__(f"value {index}")
        self.index = index


def rounds(text: str) -> bool:
    """True if a double would lose digits of this number: more than 17, or an integer it cannot hold; and if it would
    make infinity or zero of it. With an exponent it is no count of things: 1.7976931348623157e308 is what a double
    looks like."""
    if len(text) > 1000:  # of digits that nobody counts one by one; a file may hold millions of them
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
class Seen:
    """What a column of text was seen to hold.

    type     the narrowest type of all its values; null: no value at all
    rounds   a double would lose digits of some value
    fits     the values were tried as the target's type and fit it; None: not tried
    clash    the type for values that have no type in common
    """

    type: pa.DataType
    rounds: bool = False
    fits: bool | None = None
    clash: pa.DataType = field(factory=pa.string)

    def __or__(self, other: Seen) -> Seen:
        """What both hold together, another file or another block."""
        tried = [fits for fits in (self.fits, other.fits) if fits is not None]
        type_ = _join(self.type, other.type) or self.clash
        rounds = self.rounds or other.rounds
        if rounds and pa.types.is_floating(type_):
            type_ = self.clash
        return evolve(self, type=type_, rounds=rounds, fits=all(tried) if tried else None)


def _join(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Of types inferred from text only; None if they do not go together."""
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


def settle(seen: Mapping[str, Seen], columns: Mapping[str, pa.DataType], expected: pa.Schema | None) -> pa.Schema:
    """The schema to read with: as declared, else as the target has it where the values fit, else as seen."""
    fields = []
    for name, what in seen.items():
        type_ = columns.get(name, what.type)
        at = -1 if expected is None or name in columns else expected.get_field_index(name)
        if expected is not None and at >= 0 and (what.fits or pa.types.is_null(type_)):
            type_ = expected.field(at).type
        fields.append(pa.field(name, pa.string() if pa.types.is_null(type_) else type_))
    return pa.schema(fields)


def without_lineage(schema: pa.Schema) -> pa.Schema:
    """Columns that an earlier load added say where a row came from then; each target gets its own."""
    return pa.schema([field for field in schema if field.name not in LINEAGE])
