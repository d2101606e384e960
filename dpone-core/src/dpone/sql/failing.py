"""A driver's errors in dpone's words, by the classes that every driver has (PEP 249)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dpone.errors import DataError, DponeError, ErrorCodes


@contextmanager
def failing(driver: Any, codes: ErrorCodes, kind: type[DponeError], failed: str) -> Iterator[None]:
    """Raise ``kind``, with the error of the module ``driver`` as cause; DataError where a row is at fault. Then the
    driver's text is not repeated, since it may show a value. codes: of the connector; those numbers tell a category
    which a driver has as the first argument of its errors, and nowhere else."""
    try:
        yield
    except (driver.DataError, driver.IntegrityError) as error:
        number, _ = _told(error)
        found = f"a value does not fit its column or breaks a constraint ({number or type(error).__name__})"
        raise DataError(failed, found, "correct the rows in the source, or the table") from error
    except driver.Error as error:
        number, text = _told(error)
        found = ": ".join(filter(None, (number, text))) or "the driver gave no reason"
        raised = kind(failed, found, "correct what the text names; nothing was changed")
        if number:
            raised.category = codes.numbers.get(error.args[0], kind.category)
        raise raised from error


def _told(error: Exception) -> tuple[str, str]:
    """The server's number, if the driver gives one, and the first line of its text."""
    numbered = bool(error.args) and isinstance(error.args[0], int)
    text = str((*error.args[1:], "")[0] if numbered else error)
    return f"error {error.args[0]}" if numbered else "", text.strip().partition("\n")[0]
