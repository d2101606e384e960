"""Ranges of a column's values: the bounds of a part, kept exactly as text, and ranges of about the same width.

Pure: nothing here sees rows. A connector that cuts its source into ranges describes each range with ``Bounds``.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, TypeAlias

from attrs import frozen

BOUNDS = "bounds"  # key in ``Part.detail`` of a part that is a range: the result of ``Bounds.to_json``
Bound: TypeAlias = int | float | Decimal | date | datetime | str | uuid.UUID | bytes


def bound_to_json(value: Bound) -> dict[str, str]:
    """The type and text of a value, from which ``bound_from_json`` restores it without loss of a digit, a microsecond
    or a zone. An instant is stored in UTC. Raises TypeError."""
    if isinstance(value, datetime):  # checked before date, because a datetime is a date in Python
        if value.tzinfo is None:
            return {"type": "timestamp", "value": value.isoformat(timespec="microseconds")}
        return {"type": "timestamptz", "value": value.astimezone(UTC).isoformat(timespec="microseconds")}
    texts: dict[type, tuple[str, Callable[[Any], str]]] = {
        int: ("integer", str),
        float: ("float", float.hex),
        Decimal: ("decimal", str),
        date: ("date", date.isoformat),
        str: ("text", str),
        uuid.UUID: ("uuid", str),
        bytes: ("bytes", lambda v: base64.b64encode(v).decode()),
    }
    if type(value) not in texts:
        raise TypeError(f"a {type(value).__name__} is not a bound")
    name, text = texts[type(value)]
    return {"type": name, "value": text(value)}


_READ: Mapping[str, Callable[[str], Bound]] = {
    "integer": int,
    "float": float.fromhex,
    "decimal": Decimal,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "timestamptz": datetime.fromisoformat,
    "text": str,
    "uuid": uuid.UUID,
    "bytes": lambda text: base64.b64decode(text, validate=True),
}


def bound_from_json(data: Mapping[str, str]) -> Bound:
    """Raises KeyError, TypeError, ValueError or ArithmeticError for anything that ``bound_to_json`` does not return."""
    return _READ[data["type"]](data["value"])


@frozen
class Bounds:
    """A range of one column's values: from ``lower`` to ``upper``, the latter in it only with ``upper_inclusive``. None
    is open; NULL is in no range. null: the rows where the column is NULL, and no others."""

    column: str
    lower: Bound | None = None
    upper: Bound | None = None
    upper_inclusive: bool = False
    null: bool = False

    def to_json(self) -> dict[str, Any]:
        ends = {"lower": self.lower, "upper": self.upper}
        typed = {name: None if value is None else bound_to_json(value) for name, value in ends.items()}
        return {"column": self.column, **typed, "upper_inclusive": self.upper_inclusive, "null": self.null}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Bounds:
        lower, upper = (None if data[name] is None else bound_from_json(data[name]) for name in ("lower", "upper"))
        return cls(data["column"], lower, upper, bool(data["upper_inclusive"]), bool(data["null"]))

    def holds(self, value: Any) -> bool:
        """Compares in Python's order; a database may order its values differently."""
        if value is None or self.null:
            return value is None and self.null
        above = self.lower is None or value >= self.lower
        return above and (self.upper is None or value < self.upper or (self.upper_inclusive and value == self.upper))

    def __str__(self) -> str:
        if self.null:
            return f"{self.column} is null"
        left = "(-" if self.lower is None else f"[{self.lower!s}"
        right = "-)" if self.upper is None else f"{self.upper!s}{']' if self.upper_inclusive else ')'}"
        return f"{self.column} {left}, {right}"


def split(column: str, low: Bound | None, high: Bound | None, n: int, *, nulls: bool = False) -> tuple[Bounds, ...]:
    """At most ``n`` ranges of about equal width that hold every value from ``low`` to ``high`` once: half-open, the
    last with its upper end. ``nulls`` adds the rows without a value; low and high None: no row has one.

    Texts are in the order of their code points, which is that of the C collation and of SQLite's BINARY.
    """
    if low is None or high is None:
        return ranges(column, (), nulls=nulls)
    if n < 1 or low > high:  # type: ignore[operator]  # both ends are values of one column
        raise ValueError("split needs at least one part, and low must not be above high")
    step = _SPLITS.get(type(low), _digits)
    between = {m for m in step(low, high, n) if low < m < high}
    return ranges(column, (low, *sorted(between), high), nulls=nulls)


def ranges(column: str, marks: Sequence[Bound], *, nulls: bool = False) -> tuple[Bounds, ...]:
    """The ranges between ``marks``, which are in the order of the column; one mark is the range of that value."""
    ends = list(pairwise(marks)) or [(mark, mark) for mark in marks]
    last = len(ends) - 1
    found = [Bounds(column, low, high, upper_inclusive=i == last) for i, (low, high) in enumerate(ends)]
    return (*found, *([Bounds(column, null=True)] if nulls else []))


def _integers(low: int, high: int, n: int) -> Iterator[int]:
    return (low + (high - low + 1) * i // n for i in range(1, n))


def _decimals(low: Decimal, high: Decimal, n: int) -> Iterator[Decimal]:
    """In units of the smaller exponent, so that no context rounds."""
    unit = min(int(low.as_tuple().exponent), int(high.as_tuple().exponent), 0)
    ends = [int(_shifted(end, -unit)) for end in (low, high)]
    # One digit more: between 1 and 2 there are decimals, too.
    return (_shifted(Decimal(m), unit - 1) for m in _integers(ends[0] * 10, ends[1] * 10, n))


def _shifted(value: Decimal, places: int) -> Decimal:
    sign, digits, exponent = value.as_tuple()
    return Decimal((sign, digits, int(exponent) + places))


def _floats(low: float, high: float, n: int) -> Iterator[float]:
    half = high / 2 - low / 2  # the whole distance may be beyond a float
    return (low + half * (2 * i / n) for i in range(1, n)) if abs(half) != float("inf") else iter((0.0,)[: n - 1])


def _dates(low: date, high: date, n: int) -> Iterator[date]:
    return (date.fromordinal(m) for m in _integers(low.toordinal(), high.toordinal(), n))


def _moments(low: datetime, high: datetime, n: int) -> Iterator[datetime]:
    width = (high - low) // timedelta(microseconds=1)
    return (low + timedelta(microseconds=m) for m in _integers(0, width, n))


def _uuids(low: uuid.UUID, high: uuid.UUID, n: int) -> Iterator[uuid.UUID]:
    return (uuid.UUID(int=m) for m in _integers(low.int, high.int, n))


def _digits(low: Any, high: Any, n: int) -> Iterator[Any]:
    """Texts and bytes as fractions in base 1,114,112 or 256: the eight digits after what both have in common."""
    base = 256 if isinstance(low, bytes) else 0x110000
    a, b = (list(v) if isinstance(v, bytes) else [ord(c) for c in v] for v in (low, high))
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    ends = []
    for end in (a, b):
        digits = [*end[shared : shared + 8], *[0] * 8][:8]
        ends.append(sum(d * base ** (7 - i) for i, d in enumerate(digits)))
    for middle in _integers(ends[0], ends[1], n):
        digits = [middle // base ** (7 - i) % base for i in range(8)]
        while digits and not digits[-1]:
            digits.pop()
        if base == 256:
            yield low[:shared] + bytes(digits)
        else:
            yield low[:shared] + "".join(map(_character, digits))


def _character(code: int) -> str:
    """A database does not store NUL and halves of surrogate pairs, so the next character is used."""
    return chr(0xE000) if 0xD800 <= code < 0xE000 else chr(code or 1)


_SPLITS: Mapping[type, Callable[[Any, Any, int], Iterator[Any]]] = {
    int: _integers, Decimal: _decimals, float: _floats, date: _dates, datetime: _moments, uuid.UUID: _uuids,
}  # fmt: skip
