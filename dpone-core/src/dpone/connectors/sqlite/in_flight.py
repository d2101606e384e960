"""Whether another connection writes to a SQLite file: ``dpone.sql.in_flight.InFlight``.

SQLite has one writer at a time, so commits are in sequence. A value that SQLite itself makes (a rowid, a
CURRENT_TIMESTAMP) is made under the write lock, so it is above all committed values. A value that the application made
before it had the lock may be lower. So the snapshot of a read begins while there is no writer: it takes the write lock
for that moment, which changes nothing in the file (https://www.sqlite.org/lang_transaction.html, IMMEDIATE).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from dpone.connectors.sqlite.connect import Connection, connect
from dpone.connectors.sqlite.errors import failing
from dpone.errors import SourceError
from dpone.sql.in_flight import Look, OpenTransaction


class SqliteInFlight:
    """Holds the write lock from the ``look`` that found no writer until ``release``."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._db: Connection | None = None

    def look(self) -> Look:
        """A file that this process may not write is opened for reading only, and then BEGIN IMMEDIATE locks nothing."""
        if not os.access(self._path, os.W_OK):
            return Look(bounded=False, blind="the file is read-only, so open writers cannot be detected")
        writer = OpenTransaction("writer", f"another connection that is writing to {self._path.name}")
        return Look(bounded=False, writers=() if self._take() else (writer,))

    def still(self, writers: Sequence[OpenTransaction]) -> Sequence[OpenTransaction]:
        return () if self._take() else writers

    def _take(self) -> bool:
        with failing(SourceError, f"read {self._path}", self._path):
            if self._db is None:
                self._db = connect(self._path, self._timeout, SourceError, create=False)
                self._db.execute("PRAGMA busy_timeout=0")  # the caller waits, and can be interrupted
                self._db.patience = 0
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                    raise
                return False
            return True

    def release(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
