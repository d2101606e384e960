"""Locks for a server that has no named locks: rows of a table of dpone's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, ClassVar

import pyarrow as pa

from dpone.errors import Category, DataError, DponeError, SinkError
from dpone.model.schema import PREFIX, Name
from dpone.sql.dbapi import DbapiDatabase

_SCHEMA = pa.schema([pa.field("id", pa.string(), False)])


class LockTable(DbapiDatabase):
    """A DbapiDatabase that implements ``start`` and ``unlock``.

    A lock is an INSERT that is never committed: another INSERT of the same key waits until it is rolled back. A second
    connection makes it, so that the lock outlives DDL that commits; the server rolls it back if the process dies. The
    server must let that second INSERT wait, and let others write while the first transaction is open; one with a
    single writer needs no other lock. The wait ends by the limit of the connection (``SqlSystem.connect``): name the
    error in ``SqlSystem.codes`` as transient.

    locks      the table; in the default schema of the connection, where it is created if necessary
    beginning  the statement that begins a transaction; not used if ``autocommit`` is False
    """

    locks: ClassVar[Name] = Name((f"{PREFIX}lock",))
    beginning: ClassVar[str] = "START TRANSACTION"

    _other: Any = None  # the connection that holds the locks
    _held: frozenset[str] = frozenset()

    def start(self, lock: str) -> None:
        self.lock(lock)
        if self.autocommit:
            self.execute(self.beginning)

    def lock(self, text: str) -> None:
        """Take one more lock, until the transaction ends; for ``hold``, too. Does nothing if it is held. Waits for the
        others in the order of the calls, so take several in the same order everywhere."""
        if text in self._held:
            return
        if self._other is None:
            self._other = self.connect()
            self._make_table()
            self._begin()
        marked = f"INSERT INTO {self.dialect.name(self.locks)} VALUES ({self.dialect.placeholder})"
        try:
            self._run(marked, (hashlib.sha256(f"{self.place} {text}".encode()).hexdigest(),))
        except DataError as error:  # the server does not wait, or another program has committed the row
            busy = SinkError("begin a transaction", "another run holds the lock", "let it finish, then run again")
            busy.category = Category.TRANSIENT
            raise busy from error
        self._held |= {text}

    def writes(self, target: Name) -> None:
        """Loads of one target commit one after another. By the last part of the name: two names of one table meet."""
        self.lock(f"table {target.last.lower()}")

    def unlock(self) -> None:
        other, self._other, self._held = self._other, None, frozenset()
        if other is not None:
            with suppress(Exception):  # the server rolls back what a closed connection has open
                other.rollback()
            with suppress(Exception):
                other.close()

    def _begin(self) -> None:
        if self.autocommit:
            self._run(self.beginning)

    def _make_table(self) -> None:
        """Two processes may create it at the same time: one of them fails, and then finds the table."""
        if self._is_there():
            return
        try:
            self._run(self.dialect.create_table(self.locks, _SCHEMA, ("id",)))
            if not self.autocommit:
                self._other.commit()
        except DponeError:
            if not self.autocommit:
                self._other.rollback()
            if not self._is_there():
                raise

    def _is_there(self) -> bool:
        return self.locks.last in {table.last for table in self.tables(self.locks, self.locks.last)}

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        with self.failing(f"lock {self.place}"), closing(self._other.cursor()) as cursor:
            cursor.execute(sql, tuple(parameters))
