"""SQLite's errors as errors of dpone. Codes: https://www.sqlite.org/rescode.html."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpone.errors import Category, DataError, DponeError, ErrorCodes

CODES = ErrorCodes(
    classes={
        "sqlite3.IntegrityError": Category.DATA_QUALITY,
        "sqlite3.DataError": Category.DATA_QUALITY,
        "sqlite3.InterfaceError": Category.DATA_QUALITY,
    }
)

# result code -> (what was found, what to do, category); an extended code goes by its longest known prefix
_KNOWN: dict[str, tuple[str, str, Category | None]] = {
    "SQLITE_BUSY": (
        "the database is locked by another connection",
        "wait for the other program, or raise options.busy_timeout; "
        "if source and sink are the same file, set PRAGMA journal_mode=WAL on it",
        Category.TRANSIENT,
    ),
    "SQLITE_READONLY": ("the file or its folder is read-only", "grant write access to both", Category.AUTHORIZATION),
    "SQLITE_PERM": ("access is denied", "grant access to the file and its folder", Category.AUTHORIZATION),
    "SQLITE_AUTH": ("access is denied", "grant access to the file and its folder", Category.AUTHORIZATION),
    "SQLITE_CANTOPEN": ("the file cannot be opened", "check the path and its permissions", None),
    "SQLITE_NOTADB": ("the file is not a SQLite database", "use the path of a SQLite file, or of a new file", None),
    "SQLITE_FULL": ("the disk is full", "free disk space and run again; nothing was changed", None),
    "SQLITE_CORRUPT": (
        "the database is damaged",
        "restore it from a backup, or use .recover in the sqlite3 shell",
        None,
    ),
    "SQLITE_IOERR": ("the disk failed to read or write", "check disk, file system and free space", None),
    "SQLITE_TOOBIG": ("a value exceeds SQLite's limit", "exclude it in the source", Category.DATA_QUALITY),
}
_KNOWN["SQLITE_LOCKED"] = _KNOWN["SQLITE_BUSY"]


@contextmanager
def failing(kind: type[DponeError], failed: str, path: Path) -> Iterator[None]:
    """Raise ``kind`` (DataError where the rows are at fault), with the driver's error as cause."""
    try:
        yield
    except sqlite3.Error as error:
        if text := re.match("Could not decode to UTF-8 column '(.*?)' with text", str(error)):
            found = f"a value in column {text[1]} is not UTF-8 text"  # the driver's own message shows the text
            raise DataError(failed, found, "fix it, or use a query with CAST(... AS BLOB) for the column") from None
        raise translate(error, kind, failed, path) from error


def translate(error: sqlite3.Error, kind: type[DponeError], failed: str, path: Path) -> DponeError:
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, sqlite3.IntegrityError):
        return DataError(failed, str(error), "fix the rows in the source, or change the constraint of the table")
    for code, (found, todo, category) in _KNOWN.items():
        if name == code or name.startswith(code + "_"):
            known = kind(failed, f"{found} ({path})", todo)
            known.category = category or kind.category
            return known
    return kind(failed, f"{error} ({path})", "fix what the message names; nothing was changed")
