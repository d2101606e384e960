"""Statements for people to read: the values that are bound, written in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from dpone.sql.dialect import Dialect


def written(dialect: Dialect, sql: str, values: Sequence[Any]) -> str:
    """The statement with its values in place of the placeholders. A placeholder inside quotes is text."""
    hole, given = re.escape(dialect.placeholder), iter(values)
    left, right = map(re.escape, dialect.quotes)
    quoted = rf"{left}(?:[^{right}]|{right}{right})*{right}|'(?:[^']|'')*'"
    return "".join(_pieces(dialect, re.split(rf"({quoted}|{hole})", sql), given)).strip()


def _pieces(dialect: Dialect, pieces: Sequence[str], values: Iterator[Any]) -> Iterator[str]:
    for piece in pieces:
        text = _literal(dialect, next(values)) if piece == dialect.placeholder else piece
        yield text.replace("%%", "%") if dialect.placeholder == "%s" else text


def _literal(dialect: Dialect, value: Any) -> str:
    if value is None:
        return "NULL"
    return str(int(value)) if isinstance(value, int) else dialect.literal(str(value))
