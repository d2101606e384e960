"""A driver's errors in dpone's words."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from dpone.errors import Category, DataError, DponeError, ErrorCodes, SourceError
from dpone.sql.failing import failing

CODES = ErrorCodes(numbers={1205: Category.TRANSIENT})
RAISED = [
    (sqlite3.OperationalError("no such table: t\nand more"), SourceError, "no such table: t", None),
    (sqlite3.OperationalError(1205, "Lock wait timeout"), SourceError, "error 1205: Lock wait timeout", "TRANSIENT"),
    (sqlite3.OperationalError(9, "odd"), SourceError, "error 9: odd", None),
    (sqlite3.OperationalError(), SourceError, "the driver gave no reason", None),
    (sqlite3.IntegrityError("value 'secret' is there"), DataError, "constraint (IntegrityError)", "DATA_QUALITY"),
    (sqlite3.DataError(1264, "secret"), DataError, "constraint (error 1264)", "DATA_QUALITY"),
]


@pytest.mark.parametrize(("error", "kind", "found", "category"), RAISED, ids=[repr(one[0]) for one in RAISED])
def test_an_error_is_one_line_with_its_cause(
    error: Exception, kind: type[DponeError], found: str, category: str | None
) -> None:
    """Where a row is at fault the driver's text, which may show a value, is left out."""
    with pytest.raises(DponeError) as caught, failing(sqlite3, CODES, SourceError, "read t"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error
    assert caught.value.found.endswith(found)
    assert caught.value.category is (Category[category] if category else None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("ours"), SourceError("read", "no", "do"), KeyboardInterrupt()], ids=repr)
def test_what_is_not_the_driver_s_passes(error: Any) -> None:
    """As it is."""
    with pytest.raises(type(error)) as caught, failing(sqlite3, CODES, SourceError, "read t"):
        raise error
    assert caught.value is error
