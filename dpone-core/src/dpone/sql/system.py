"""What source, sink and state of one SQL system share: the address, the connection, the dialect and the errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from dpone.errors import DponeError, ErrorCodes
from dpone.model.secret import Secret
from dpone.sql import driver_errors
from dpone.sql.address import server
from dpone.sql.dialect import Dialect


class SqlSystem(ABC):
    """One database, reached through a DB-API driver (PEP 249). A connector derives one class, sets the attributes and
    implements ``connect``; ``SqlSource`` and ``DbapiDatabase`` do the rest. Making one connects to nothing.

    dialect  the SQL of the system
    driver   the driver's module, whose ``Error``, ``DataError`` and ``IntegrityError`` are caught
    codes    which of the driver's errors are transient, or a matter of rights; the plugin names the same object
    form     how a user writes the address, with the default port: ``acme://user:password@host:1234/database``
    aliases  other schemes that are accepted
    options  the options that an address may have after ``?``
    at       the address in parts (``sql.address.ServerAddress``)
    place    host, port and database, for messages and for the identity of a source; never user or password
    """

    dialect: ClassVar[Dialect]
    driver: Any  # a module: mypy takes its assignment for that of an instance variable
    codes: ClassVar[ErrorCodes] = ErrorCodes()
    form: ClassVar[str]
    aliases: ClassVar[Sequence[str]] = ()
    options: ClassVar[Sequence[str]] = ()
    place: str = ""

    def __init__(self, connection: Secret | None, base: Path) -> None:
        """``base``: the folder of the pipeline file. Override it for a database that is a file, and set ``place``.
        Raises ConfigError."""
        url = urlsplit(self.form)
        self.at = server(connection, (url.scheme, *self.aliases), url.port or 0, self.options, f"write {self.form}")
        self.place = self.at.stable

    @abstractmethod
    def connect(self, *, source: bool) -> Any:
        """A new connection of the driver: for a source, or for a sink or state. Every wait has a limit: connecting,
        each answer, each lock. Strict: a value that does not fit is an error. The driver's errors may pass."""

    def sqlstate(self, error: Any) -> str | None:
        """The SQLSTATE of the driver's error, or None if it has none."""
        found = getattr(error, "sqlstate", None)
        return found if isinstance(found, str) else None

    def repeats(self, error: Any) -> bool:
        """True for an INSERT that failed because its primary key exists, and left the transaction as it was. Only asked
        where ``Dialect.skip_existing`` is empty."""
        return self.sqlstate(error) == "23505"  # unique violation, in most servers that have SQLSTATEs

    def failing(self, kind: type[DponeError], failed: str) -> AbstractContextManager[None]:
        """A block in which the driver's errors become ``kind``, or DataError where a row is at fault. Override it for
        a driver whose errors ``sql.driver_errors`` does not understand."""
        return driver_errors.failing(self.driver, self.codes, kind, failed, self.sqlstate)
