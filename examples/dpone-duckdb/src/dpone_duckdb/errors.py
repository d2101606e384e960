"""DuckDB's failures in dpone's words. DuckDB has no error codes, but a class for each kind of failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from dpone.errors import Category, DataError, DponeError, ErrorCodes

# Their texts show values, so they are not repeated.
_DATA = (duckdb.DataError, duckdb.IntegrityError, pa.ArrowInvalid)
_BUSY = "Could not set lock on file"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


CODES = ErrorCodes(
    classes={
        **{_name(cls): Category.DATA_QUALITY for cls in _DATA},
        _name(duckdb.TransactionException): Category.TRANSIENT,  # two connections of this process met in one row
        _name(duckdb.PermissionException): Category.AUTHORIZATION,
    }
)


@contextmanager
def failing(kind: type[DponeError], failed: str) -> Iterator[None]:
    """Raise ``kind`` (DataError where the rows are at fault), with the driver's error as cause."""
    try:
        yield
    except _DATA as error:
        found = f"a value does not fit its column or breaks a constraint ({type(error).__name__})"
        raise DataError(failed, found, "correct the rows in the source, or the table") from error
    except duckdb.Error as error:
        if _BUSY in str(error):
            todo = "let it finish; DuckDB lets one process write, or several read (source option read_only)"
            busy = kind(failed, "another process has the file open", todo)
            busy.category = Category.TRANSIENT
            raise busy from error
        raise kind(failed, str(error).partition("\n")[0], "fix what the message names; nothing was changed") from error
