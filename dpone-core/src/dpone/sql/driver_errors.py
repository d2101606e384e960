"""The errors of a driver as errors of dpone: by the classes that every driver has (PEP 249), or by SQLSTATE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from dpone.errors import Category, DataError, DponeError, ErrorCodes
from dpone.model.secret import redact

_OF_ROWS = ("22", "23")  # classes of SQLSTATE (ISO/IEC 9075): data exception, integrity constraint violation
_TRANSIENT = ("08", "40")  # connection exception, transaction rollback
_STATEMENT, _SHOWN = "statement: ", 2_000  # characters


@contextmanager
def failing(
    driver: Any,
    codes: ErrorCodes,
    kind: type[DponeError],
    failed: str,
    sqlstate: Callable[[Any], str | None] | None = None,
) -> Iterator[None]:
    """Raise ``kind``, or DataError if a row is at fault, with the error of the module ``driver`` as cause. A DataError
    does not repeat the driver's text, which may show a value.

    codes     categories by error number (the first argument of the driver's error) and by SQLSTATE
    sqlstate  returns the SQLSTATE of an error, or None. Classes 22 and 23 are the fault of a row; 08 and 40 are
              transient, unless ``codes`` says otherwise
    """
    try:
        yield
    except driver.Error as error:
        state = (sqlstate(error) if sqlstate is not None else None) or ""
        number, text = _number_and_text(error)
        if isinstance(error, (driver.DataError, driver.IntegrityError)) or state[:2] in _OF_ROWS:
            shown = f"SQLSTATE {state}" if state else number or type(error).__name__
            found = f"a value does not fit its column or breaks a constraint ({shown})"
            raise DataError(failed, found, "correct the rows in the source, or the table") from error
        found = ": ".join(filter(None, (number, text))) or "the driver reported no reason"
        raised = kind(failed, found, "fix what the message names; nothing was changed")
        if number:
            raised.category = codes.numbers.get(error.args[0], kind.category)
        if state:
            known = Category.TRANSIENT if state[:2] in _TRANSIENT else raised.category
            raised.category = codes.sqlstates.get(state, codes.sqlstates.get(state[:2], known))
        raise raised from error


@contextmanager
def saying(sql: str) -> Iterator[None]:
    """Adds the statement, without the bound values, to a DponeError of the block as a note (PEP 678)."""
    try:
        yield
    except DponeError as error:
        if not any(note.startswith(_STATEMENT) for note in getattr(error, "__notes__", ())):
            error.add_note(redact(f"{_STATEMENT}{sql if len(sql) <= _SHOWN else sql[:_SHOWN] + '...'}"))
        raise


def _number_and_text(error: Exception) -> tuple[str, str]:
    """The server's error number, if the driver has one, and the first line of its text with its continuation lines,
    which begin with a hyphen: the first line of Firebird is only a title."""
    numbered = bool(error.args) and isinstance(error.args[0], int)
    text = str((*error.args[1:], "")[0] if numbered else error)
    first, *more = text.strip().split("\n")
    continued = takewhile(lambda line: line.startswith("-"), more)
    return f"error {error.args[0]}" if numbered else "", " ".join([first, *continued])
