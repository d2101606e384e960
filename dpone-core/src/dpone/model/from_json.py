"""A class of values from its JSON, checked by the types of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from attrs import NOTHING, fields, has

T = TypeVar("T")
BIGGEST = 2**63 - 1


def from_json(cls: type[T], data: Any, at: str = "") -> T:
    """An instance of an attrs class. A missing key takes the default of its field; an unknown key is left out, so that
    a report of a later version can be read. Numbers must be 0 or more, times have a zone. Raises ValueError, which
    names the place: ``streams[2].rows.read must be a whole number of 0 or more``."""
    _require(isinstance(data, dict), at, "an object")
    known: dict[str, Any] = {}
    hints = _hints(cls)  # type: ignore[arg-type]  # a class can be hashed
    for one in fields(cls):  # type: ignore[arg-type]
        where = f"{at}.{one.name}" if at else one.name
        if one.name in data:
            known[one.name] = _value(hints[one.name], data[one.name], where)
        elif one.default is NOTHING:
            raise ValueError(f"{where} is missing")
    return cls(**known)


@cache
def _hints(cls: Any) -> Mapping[str, Any]:
    return get_type_hints(cls)


def _value(hint: Any, value: Any, at: str) -> Any:
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        [inner] = [arg for arg in args if arg is not NoneType]
        return None if value is None else _value(inner, value, at)
    if kind is Literal:
        _require(value in args, at, f"one of {', '.join(args)}")
        return value
    if kind is list:
        _require(isinstance(value, list), at, "a list")
        return [_value(args[0], one, f"{at}[{i}]") for i, one in enumerate(value)]
    if kind is dict:
        _require(isinstance(value, dict), at, "an object")
        return {name: _value(args[1], one, f"{at}.{name}") for name, one in value.items()}
    if has(hint):
        return from_json(hint, value, at)
    return _scalar(hint, value, at)


def _scalar(hint: Any, value: Any, at: str) -> Any:
    if hint is datetime:
        return _time(value, at)
    if hint is int:
        _require(type(value) is int and 0 <= value <= BIGGEST, at, "a whole number of 0 or more")
    elif hint is float:
        _require(type(value) in (int, float) and 0 <= value <= BIGGEST, at, "a number of 0 or more")
    elif hint is bool:
        _require(type(value) is bool, at, "true or false")
    elif hint is str:
        _require(isinstance(value, str), at, "a text")
    return value


def _time(value: Any, at: str) -> datetime:
    found = None
    if isinstance(value, str):
        with suppress(ValueError):
            found = datetime.fromisoformat(value)
    _require(found is not None and found.tzinfo is not None and found.year > 1970, at, "a time with its zone")
    assert found is not None, "required above"
    return found


def _require(holds: bool, at: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{at or 'it'} must be {what}")
