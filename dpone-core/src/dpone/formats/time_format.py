"""``date_format`` and ``timestamp_format``: the directives of strptime, as a pattern. Imports no pyarrow.

Python's ``%`` directives, and no locale: names of months are English.
"""

from __future__ import annotations

import re
from typing import NoReturn

from dpone.errors import ConfigError

_TOKEN = re.compile(r"%(.?)|([^%]+)", re.DOTALL)
_SHORT = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M"}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_REST = ("uary", "ruary", "ch", "il", "", "e", "y", "ust", "tember", "ober", "ember", "ember")
_ONE_OR_TWO = "mdHIMS"  # of digits
_PATTERNS = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "b": f"(?i:{'|'.join(MONTHS)})",
    "B": f"(?i:{'|'.join(map(str.__add__, MONTHS, _REST))})",
    "p": "(?i:am|pm)",
    "z": "Z|[+-][0-9]{2}:?[0-9]{2}",
    **dict.fromkeys(_ONE_OR_TWO, "[0-9]{1,2}"),
    "f": "[0-9]{1,9}",
}
_TIGHT = {**dict.fromkeys(_ONE_OR_TWO, "[0-9]{2}"), "f": "[0-9]{6}"}
_KNOWN = " ".join(f"%{name}" for name in (*_PATTERNS, *_SHORT, "%"))
_TIME = "HIMSfpz"
# Each of these needs one of those.
_NEEDS = {"p": "I", "I": "p", "M": "HI", "S": "M", "f": "S", "z": "HI"}


def pattern(option: str, format: str) -> str:
    """A pattern of RE2 with a group for each directive. Raises ConfigError, which names the option.

    Where digits follow digits (``%Y%m%d``), each directive takes all that it may have: 1112 is not a date."""
    format = _TOKEN.sub(lambda token: _SHORT.get(token[1], token[0]), format)
    tokens = list(_TOKEN.finditer(format))
    names = [token[1] for token in tokens if token[2] is None and token[1] != "%"]
    _check(option, format, names)
    made = []
    for i, token in enumerate(tokens):
        name, literal = token[1], token[2]
        if literal is not None or name == "%":
            made.append(re.escape(literal or "%"))
            continue
        before, after = tokens[i - 1 : i], tokens[i + 1 : i + 2]
        tight = any(_digits(one[1], (one[2] or "")[-1:]) for one in before)
        tight = tight or any(_digits(one[1], (one[2] or "")[:1]) for one in after)
        made.append(f"(?P<{name}>{(_TIGHT if tight else _PATTERNS).get(name, _PATTERNS[name])})")
    return f"^{''.join(made)}$"


def _digits(directive: str | None, literal: str) -> bool:
    return literal.isdigit() or (directive or "%") in "Yy" + _ONE_OR_TWO + "f"


def _check(option: str, format: str, names: list[str]) -> None:
    def bad(found: str, todo: str) -> NoReturn:
        raise ConfigError(f"read options.{option}", f"{format!r} {found}", todo)

    for name in names:
        if name == "-":
            bad("has %-", "remove the minus: %d and %m accept one digit or two")
        if name not in _PATTERNS:
            bad(f"has %{name}, which is not supported", f"use {_KNOWN}")
        if names.count(name) > 1:
            bad(f"has %{name} twice", "use each directive once")
        if name in _NEEDS and not set(_NEEDS[name]) & set(names):
            bad(f"has %{name} without %{' or %'.join(_NEEDS[name])}", "add it")
    for one in ("Yy", "mbB", "d"):
        if len(set(one) & set(names)) != 1:
            bad(f"needs one of %{', %'.join(one)}", "use a whole date, as in %d.%m.%Y")
    if {"H", "I"} <= set(names):
        bad("has both %H and %I", "use %H for 24 hours, %I and %p for 12")
    if option == "date_format" and set(_TIME) & set(names):
        bad("has a time", "use only date directives, or set options.timestamp_format")
