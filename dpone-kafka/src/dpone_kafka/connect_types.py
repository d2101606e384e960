"""Types of Kafka Connect and Debezium, as the JSON converter writes them, as columns.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.formats.types import BadValue
from dpone.model.types import JSON, UUID

_PLACEHOLDER = "__debezium_unavailable_value"
_MAX_DIGITS = 76  # of Arrow's decimal256


def _same(value: Any) -> Any:
    return value


@frozen(eq=False)
class Column:
    """How the JSON values of a column become an array: each by ``value``, then as the types of ``steps`` in turn."""

    type: pa.DataType
    value: Callable[[Any], Any]
    steps: Sequence[pa.DataType] = ()

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Raises BadValue with the place of a value that does not fit."""
        try:
            return self._array(values)
        except _UNFIT:
            for i, value in enumerate(values):
                try:
                    self._array([value])
                except _UNFIT:
                    raise BadValue(i) from None
            raise BadValue(0) from None

    def _array(self, values: Sequence[Any]) -> pa.Array:
        first, *steps = self.steps or (self.type,)
        made = pa.array([None if one is None else self.value(one) for one in values], first)
        for step in steps:
            is_stored = isinstance(step, pa.BaseExtensionType)
            made = pa.ExtensionArray.from_storage(step, made) if is_stored else made.cast(step)
        return made


_UNFIT = (ValueError, TypeError, KeyError, ArithmeticError, pa.ArrowException)


# ---- values


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _real(value: Any) -> float:
    """NaN and the infinities are texts in JSON."""
    if isinstance(value, bool) or (isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity")):
        raise TypeError
    return float(value)


def _bytes(value: Any) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _decimal(value: Any, scale: int) -> Decimal:
    """The two's complement of the digits. The constructor is exact, arithmetic would round to 28 digits."""
    return Decimal(f"{int.from_bytes(_bytes(value), 'big', signed=True)}E{-scale}")


def _number(value: Any) -> Decimal:
    """Of an envelope without schema: a number. A text may be the digits, or base64 of them."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError
    return Decimal(value)


def _variable(value: Any) -> str:
    return format(_decimal(value["value"], _whole(value["scale"])), "f")


_LONG_FRACTION = re.compile(r"\.\d{6}\d*[1-9]")


def _moment(value: Any) -> datetime:
    """Python cuts off what follows the sixth digit."""
    made = datetime.fromisoformat(_text(value))
    if made.tzinfo is None or ((found := _LONG_FRACTION.search(value)) and len(found[0]) > 7):
        raise ValueError
    return made


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=float)


# ---- types of a schema

_US, _NS, _ZONED = pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC")
_I32, _I64 = pa.int32(), pa.int64()
_MS_OF_DAY = Column(pa.time64("us"), _whole, (_I32, pa.time32("ms"), pa.time64("us")))
_MS = Column(_US, _whole, (_I64, pa.timestamp("ms"), _US))
_DATE = Column(pa.date32(), _whole, (_I32, pa.date32()))
_AS_JSON = Column(JSON, _json, (pa.string(), JSON))

_PLAIN: Mapping[str, Column] = {
    "int8": Column(pa.int8(), _whole),
    "int16": Column(pa.int16(), _whole),
    "int32": Column(_I32, _whole),
    "int64": Column(_I64, _whole),
    "float": Column(pa.float32(), _real),
    "float32": Column(pa.float32(), _real),
    "double": Column(pa.float64(), _real),
    "float64": Column(pa.float64(), _real),
    "boolean": Column(pa.bool_(), _truth),
    "string": Column(pa.string(), _text),
    "bytes": Column(pa.binary(), _bytes),
    "array": _AS_JSON,
    "map": _AS_JSON,
    "struct": _AS_JSON,
}
_NAMED: Mapping[str, Column] = {
    "io.debezium.time.Date": _DATE,
    "io.debezium.time.Time": _MS_OF_DAY,
    "io.debezium.time.MicroTime": Column(pa.time64("us"), _whole, (_I64, pa.time64("us"))),
    "io.debezium.time.NanoTime": Column(pa.time64("ns"), _whole, (_I64, pa.time64("ns"))),
    "io.debezium.time.Timestamp": _MS,
    "io.debezium.time.MicroTimestamp": Column(_US, _whole, (_I64, _US)),
    "io.debezium.time.NanoTimestamp": Column(_NS, _whole, (_I64, _NS)),
    "io.debezium.time.ZonedTimestamp": Column(_ZONED, _moment),
    "io.debezium.data.VariableScaleDecimal": Column(pa.string(), _variable),
    "io.debezium.data.Json": Column(JSON, _text, (pa.string(), JSON)),
    "io.debezium.data.Uuid": Column(UUID, lambda value: uuid.UUID(_text(value)).bytes, (pa.binary(16), UUID)),
    "org.apache.kafka.connect.data.Date": _DATE,
    "org.apache.kafka.connect.data.Time": _MS_OF_DAY,
    "org.apache.kafka.connect.data.Timestamp": _MS,
}
_DECIMAL = "org.apache.kafka.connect.data.Decimal"


def column_of(schema: Mapping[str, Any]) -> Column:
    """The column of a field of a Connect schema; an unknown name has its plain type. Raises KeyError, TypeError."""
    name = str(schema.get("name"))
    if name == _DECIMAL:
        given = schema["parameters"]
        return _decimals(int(given["scale"]), int(given.get("connect.decimal.precision", 0)))
    return _NAMED[name] if name in _NAMED else _PLAIN[schema["type"]]


def _decimals(scale: int, precision: int) -> Column:
    """Text where Arrow has no such type."""
    if not 0 < precision <= _MAX_DIGITS or not 0 <= scale <= precision:
        return Column(pa.string(), lambda value: format(_decimal(value, scale), "f"))
    kind = pa.decimal128 if precision <= 38 else pa.decimal256
    return Column(kind(precision, scale), lambda value: _decimal(value, scale))


# ---- declared types of envelopes without schema


def declared_column(type_: pa.DataType) -> Column | None:
    """None for types whose JSON does not say what it means: a time as a number may have any unit."""
    if pa.types.is_integer(type_):
        return Column(type_, _whole)
    if pa.types.is_decimal(type_):
        return Column(type_, _number)
    if pa.types.is_floating(type_):
        return Column(type_, _real)
    if type_ == _ZONED:
        return _NAMED["io.debezium.time.ZonedTimestamp"]
    known = (_PLAIN["boolean"], _PLAIN["string"], _PLAIN["bytes"], _DATE, _NAMED["io.debezium.data.Uuid"], _AS_TEXT)
    return next((one for one in known if one.type == type_), None)


# A column of JSON is a text in the envelope; an array or a struct is itself.
_AS_TEXT = Column(JSON, lambda value: value if isinstance(value, str) else _json(value), (pa.string(), JSON))


# ---- values that did not come


def _named_uuid(text: str) -> str:
    """As Java's UUID.nameUUIDFromBytes."""
    return str(uuid.UUID(bytes=hashlib.md5(text.encode(), usedforsecurity=False).digest(), version=3))


_ABSENT = {
    _PLACEHOLDER,
    base64.b64encode(_PLACEHOLDER.encode()).decode(),
}
_ABSENT_LISTS = ([_PLACEHOLDER], list(_PLACEHOLDER.encode()), [_named_uuid(_PLACEHOLDER)])


def is_absent(value: Any) -> bool:
    """True for what PostgreSQL's connector writes in place of a large value that did not change."""
    if isinstance(value, str):
        return value in _ABSENT
    if isinstance(value, list):
        return value in _ABSENT_LISTS
    return isinstance(value, dict) and value == {_PLACEHOLDER: _PLACEHOLDER}
