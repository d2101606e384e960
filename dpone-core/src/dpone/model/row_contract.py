"""Row contracts as data: the rules that the rows of a load must keep, and what happens if they do not.

This is ``sink.contract`` of the pipeline file. ``dpone.quality.check`` checks rows against it. Not to be confused with
``dpone.contract``, the contract of connectors.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import PurePath
from typing import Any, Literal

from attrs import field, fields, frozen
from attrs.validators import and_, ge, le, optional

from dpone.errors import ConfigError
from dpone.model.schema import COLUMN_TYPES

Policy = Literal["fail", "warn", "quarantine"]
LogicalType = Literal["string", "integer", "number", "boolean", "date", "time", "timestamp", "object", "array"]
Bound = Decimal | date | datetime | time

# Rules that no single row breaks.
OF_THE_LOAD = ("required_columns", "types", "logical_types", "row_count", "max_null_ratio", "freshness")
OF_A_ROW = ("not_null", "ranges", "lengths", "allowed_values", "patterns", "unique")

# Fields that came with a later version. Tokens of half-done loads are made of the repr, which must stay what it was for
# a contract that does not use them.
LATER = {"later": True}


def _without_defaults(self: Any) -> str:
    """As attrs writes it, without the ``LATER`` fields that are not set."""
    shown = [
        f"{one.name}={getattr(self, one.name)!r}"
        for one in fields(type(self))
        if "later" not in one.metadata or getattr(self, one.name) != _default(one)
    ]
    return f"{type(self).__name__}({', '.join(shown)})"


def _default(one: Any) -> Any:
    made = one.default
    return made.factory() if hasattr(made, "factory") else made


def bound(value: Any) -> Bound:
    """A bound as the file gives it: a number, or the text of a number, date, timestamp or time. Raises ValueError.

    Texts are exact. A number in the file was read as a double, which keeps 15 digits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError("neither a number nor a text")
    if isinstance(value, str):
        return _from_text(value.strip())
    number = _sane(Decimal(str(value)))
    if isinstance(value, float) and len(number.normalize().as_tuple().digits) > 15:
        raise ValueError("a number of more than 15 digits, which must be in quotes")
    return number


def _sane(number: Decimal) -> Decimal:
    """Exact arithmetic needs memory for every digit, so the exponent is limited."""
    if not number.is_finite() or abs(number.adjusted()) > 400 or len(number.as_tuple().digits) > 400:
        raise ValueError("infinite, or beyond 400 digits")
    return number


def _from_text(text: str) -> Bound:
    try:
        return _sane(Decimal(text))
    except InvalidOperation:
        pass
    if re.search(r"[.,]\d{7}", text):
        raise ValueError("finer than a microsecond")
    for kind, form in ((date, r"\d{4}-\d\d-\d\d"), (datetime, r"\d{4}-\d\d-\d\d[T ].+"), (time, r"\d\d:\d\d.*")):
        if re.fullmatch(form, text):
            made: Bound = kind.fromisoformat(text)
            return made
    raise ValueError("neither a number nor a date, timestamp or time")


def _bound(name: str, value: Any) -> Bound | None:
    try:
        return None if value is None else bound(value)
    except ValueError as error:
        todo = "write a number, or in quotes a long number, 2026-01-31, 2026-01-31T12:00:00 or 12:00:00"
        raise ConfigError(f"read {name}", f"the bound is {error}", todo) from error


@frozen
class Range:
    """Bounds of a column. NULL is in every range, NaN in none.

    min: the least value allowed
    max: the greatest value allowed
    above: every value is greater than this
    below: every value is less than this
    """

    min: Any = None
    max: Any = None
    above: Any = field(default=None, metadata=LATER)
    below: Any = field(default=None, metadata=LATER)

    __repr__ = _without_defaults

    def __attrs_post_init__(self) -> None:
        given = {name: _bound(name, getattr(self, name)) for name in ("min", "above", "max", "below")}
        for one, other in (("min", "above"), ("max", "below")):
            if given[one] is not None and given[other] is not None:
                raise ConfigError("read range", f"both {one} and {other} are set", "keep one of them")
        low = given["min"] if given["above"] is None else given["above"]
        high = given["max"] if given["below"] is None else given["below"]
        if low is None and high is None:
            raise ConfigError("read range", "neither min nor max is set", "set min, max, above or below")
        if low is None or high is None:
            return
        try:
            wrong = type(low) is not type(high) or low > high  # type: ignore[operator]  # of one type
        except TypeError:  # with and without a time zone
            wrong = True
        if wrong:
            found = "min is greater than max, or has another type"
            raise ConfigError("read range", found, "write min <= max, or above < below")


def _check_counts(failed: str, least: int | None, most: int | None) -> None:
    if least is None and most is None:
        raise ConfigError(failed, "neither min nor max is set", "set min, max or both")
    if least is not None and most is not None and least > most:
        raise ConfigError(failed, "min is greater than max", "write min <= max")


@frozen
class RowCount:
    """How many rows a load may bring to the target.

    min: at least so many
    max: at most so many
    """

    min: int | None = field(default=None, validator=optional(ge(0)))
    max: int | None = field(default=None, validator=optional(ge(0)))

    def __attrs_post_init__(self) -> None:
        _check_counts("read row_count", self.min, self.max)


@frozen
class Length:
    """How many characters (code points) a text may have.

    min: at least so many
    max: at most so many
    """

    min: int | None = field(default=None, validator=optional(ge(0)))
    max: int | None = field(default=None, validator=optional(ge(0)))

    def __attrs_post_init__(self) -> None:
        _check_counts("read length", self.min, self.max)


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(text: str) -> timedelta:
    """``90s``, ``30m`` (minutes), ``24h``, ``7d``. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([smhd])", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a duration")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


@frozen
class Quarantine:
    """Where rows go that ``on_violation: quarantine`` leaves out, and how many may.

    path        a folder in that of the pipeline file
    values      write the values of the rows too, not only their numbers
    max_share   more than this share of the rows read: the load fails
    max_rows    more rows than this: the load fails
    """

    path: str = ".dpone/quarantine"
    values: bool = False
    max_share: float = field(default=0.05, validator=and_(ge(0), le(1)))
    max_rows: int = field(default=100_000, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        path = PurePath(self.path)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in self.path:
            raise ConfigError(
                "read path", "the folder is not inside the folder of the pipeline file", "write a relative path"
            )


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _keys(value: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(map(_texts, (value,) if isinstance(value, str) else value))


@frozen
class RowContract:
    """Rules for the rows of a load; checked before its commit. Columns go by their names in the source.

    on_violation      fail (nothing changes), warn, or quarantine (leave the rows out, into a side file)
    overrides         other policies for a rule (ranges) or for one column of it (ranges.amount)
    required_columns  columns that the source must have
    types             columns and their types, by Arrow's names or SQL's (without lengths of texts)
    logical_types     columns and what they hold, whatever its width: any integer, any number, and so on
    not_null          columns without NULL
    unique            columns whose values never repeat in a load; a list of columns within the list: together
    ranges            columns and their bounds
    lengths           columns of text and how many characters they may have
    allowed_values    columns and all values they may have
    patterns          columns and a regular expression (RE2) that the whole text must match
    row_count         how many rows a load may bring
    max_null_ratio    columns and the share of NULL that their rows may have
    freshness         columns of dates or timestamps, and how old the newest value may be: 90s, 30m, 24h, 7d
    quarantine        where quarantined rows go, and how many may
    """

    on_violation: Policy = "fail"
    overrides: Mapping[str, Policy] = field(factory=dict)
    required_columns: tuple[str, ...] = field(default=(), converter=_texts)
    types: Mapping[str, str] = field(factory=dict, metadata=COLUMN_TYPES)
    not_null: tuple[str, ...] = field(default=(), converter=_texts)
    unique: tuple[str | tuple[str, ...], ...] = field(default=(), converter=_keys)
    ranges: Mapping[str, Range] = field(factory=dict)
    allowed_values: Mapping[str, tuple[Any, ...]] = field(factory=dict)
    patterns: Mapping[str, str] = field(factory=dict)
    row_count: RowCount | None = None
    max_null_ratio: Mapping[str, float] = field(factory=dict)
    quarantine: Quarantine = field(factory=Quarantine)
    logical_types: Mapping[str, LogicalType] = field(factory=dict, metadata=LATER)
    lengths: Mapping[str, Length] = field(factory=dict, metadata=LATER)
    freshness: Mapping[str, str] = field(factory=dict, metadata=LATER)

    __repr__ = _without_defaults

    def __attrs_post_init__(self) -> None:
        for name, age in self.freshness.items():
            _check_age(name, age)
        for name, type_ in self.types.items():
            _check_type(name, type_)
        for name, pattern in self.patterns.items():
            _check_pattern(name, pattern)
        for name, values in self.allowed_values.items():
            if not values or any(not isinstance(v, str | int | float | Decimal) for v in values):
                todo = "write a list of texts, numbers or booleans; NULL is always allowed, see not_null"
                raise ConfigError(f"read allowed_values.{name}", "the value is not a list of single values", todo)
        for name, ratio in self.max_null_ratio.items():
            if not 0 <= ratio <= 1:
                raise ConfigError(
                    f"read max_null_ratio.{name}",
                    f"{ratio} is not a fraction between 0 and 1",
                    "write 0 to 1, as in 0.25",
                )
        self._check_unique()
        if not self.labels():
            raise ConfigError("read contract", "it has no rules", "add a rule, or remove the contract")
        self._check_overrides()

    def _check_unique(self) -> None:
        for key in self.keys:
            if not key or len({*key}) < len(key):
                raise ConfigError("read unique", "the list is empty, or names a column twice", "list each column once")
        if len({*self.keys}) < len(self.keys):
            raise ConfigError("read unique", "it lists the same columns twice", "remove one of them")

    def _check_overrides(self) -> None:
        known = [*{label.partition(".")[0]: 1 for label in self.labels()}, *self.labels()]
        for rule, policy in self.overrides.items():
            if rule not in known:
                near = difflib.get_close_matches(rule, known, 1)
                todo = f"did you mean {near[0]}?" if near else f"use one of {', '.join(dict.fromkeys(known))}"
                raise ConfigError(f"read overrides.{rule}", f"the contract has no rule {rule!r}", todo)
            if policy == "quarantine" and rule.partition(".")[0] in OF_THE_LOAD:
                found = f"{rule} checks the whole load and cannot quarantine rows"
                raise ConfigError(f"read overrides.{rule}", found, "use fail or warn")

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        return tuple(map(_texts, self.unique))

    def labels(self) -> list[str]:
        """Every rule by its name, in the order they are applied: ``ranges.amount``, ``unique.customer+day``."""
        return list(self._labels())

    def _labels(self) -> Iterator[str]:
        for kind in ("required_columns", "types", "logical_types", *OF_A_ROW[:-1]):
            yield from (f"{kind}.{column}" for column in getattr(self, kind))
        yield from (f"unique.{'+'.join(key)}" for key in self.keys)
        yield from ("row_count",) if self.row_count else ()
        yield from (f"max_null_ratio.{column}" for column in self.max_null_ratio)
        yield from (f"freshness.{column}" for column in self.freshness)

    def policy(self, label: str) -> Policy:
        """The policy of one rule. With ``quarantine``, a rule that no single row breaks fails the load."""
        kind = label.partition(".")[0]
        policy = self.overrides.get(label) or self.overrides.get(kind) or self.on_violation
        return "fail" if policy == "quarantine" and kind in OF_THE_LOAD else policy


def _check_age(column: str, text: str) -> None:
    try:
        duration(text)
    except ValueError as error:
        todo = "write a number and its unit, as in 90s, 30m, 24h or 7d"
        raise ConfigError(f"read freshness.{column}", str(error), todo) from error


def _check_type(column: str, name: str) -> None:
    if type_of(name) is None:
        from dpone.model.types import instead, limit

        todo = "remove the length; check the length of text with patterns" if limit(name) is not None else instead(name)
        raise ConfigError(f"read types.{column}", f"unknown type {name!r}", todo)


def type_of(name: str) -> Any:
    """The Arrow type of a name; None if it is unknown. A length is refused, because Arrow's texts have no length to
    compare."""
    from dpone.model.types import arrow, standard

    type_ = standard(name) or arrow(name)
    sized = type_ is not None and str(type_) in ("string", "binary") and "(" in name
    return None if sized else type_


def anchored(pattern: str) -> str:
    """RE2 for: the whole text matches."""
    return rf"\A(?:{pattern})\z"


def _check_pattern(column: str, pattern: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        for text in (pattern, anchored(pattern)):  # on its own too: a)|(b is valid inside added brackets only
            pc.match_substring_regex(pa.array([""]), text)
    except (pa.ArrowException, UnicodeError) as error:
        todo = "write an RE2 expression, without look-around and back references"
        raise ConfigError(f"read patterns.{column}", "the pattern is not a valid RE2 expression", todo) from error
