"""From ``sqlite:///file.db`` to a connection."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Self

from dpone.errors import ConfigError, DponeError
from dpone.host import stopping
from dpone.model.schema import Name
from dpone.model.secret import Secret

# Files that a sink or state backend of this process writes to. A source in such a file must not hold a read lock.
_written: set[Path] = set()
OLDEST = (3, 35, 0)  # UPDATE FROM 3.33, DROP COLUMN 3.35
_PREFIX = "sqlite:///"


def database_path(connection: Secret | None, base: Path) -> Path:
    """``sqlite:///relative.db`` is relative to ``base``, ``sqlite:////abs.db`` and ``sqlite:///~/home.db`` are not.
    Raises ConfigError."""
    todo = "write sqlite:///file.db, relative to the pipeline file, or sqlite:////absolute/file.db"
    text = connection.reveal() if connection else ""
    if not text.startswith("sqlite:"):
        raise ConfigError("read connection", "it does not start with sqlite:", todo)
    if not text.startswith(_PREFIX) or "\0" in text:
        raise ConfigError("read connection", "there is no path after sqlite:", todo)
    name = text.removeprefix(_PREFIX)
    if name in ("", ":memory:"):
        raise ConfigError("read connection", "an in-memory database is lost when the process ends", todo)
    if "?" in name:
        raise ConfigError("read connection", "a sqlite connection takes no parameters after '?'", "use options instead")
    return Path(os.path.abspath(base / os.path.expanduser(name)))


def table_name(name: Name) -> Name:
    """The table's own name; ``main`` is the only schema of a file."""
    if len(name.parts) > 2 or (len(name.parts) == 2 and name.parts[0].lower() != "main"):
        dotted = Name((".".join(name.parts),))
        todo = f"write table: {name.last}; if the dot is part of the name, write table: '{dotted}'; read a table of "
        todo += "another file over its own connection"
        raise ConfigError("read a table name", f"{name} has a schema, but SQLite has no schemas", todo)
    return Name((name.last,))


def will_write(path: Path) -> None:
    _written.add(path.resolve())


def is_written(path: Path) -> bool:
    return path.resolve() in _written


# Where waiting on may help (https://www.sqlite.org/rescode.html); not SQLITE_BUSY_SNAPSHOT.
_LOCKED = ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_TIMEOUT")
_PAUSE = 0.01


class Connection(sqlite3.Connection):
    """Waits for locks in slices of a second, since nothing interrupts SQLite itself while it waits. ``patience``: the
    limit of a whole wait, in seconds."""

    patience = 0.0

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _Cursor)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        made: _Cursor = self.cursor()
        return made.execute(sql, parameters)


class _Cursor(sqlite3.Cursor):
    connection: Connection

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        until = time.monotonic() + self.connection.patience
        while True:
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                name = getattr(error, "sqlite_errorname", "")
                if name not in _LOCKED or not stopping.left(until - time.monotonic()) > 0:
                    raise
            time.sleep(_PAUSE)


def connect(path: Path, timeout: float, kind: type[DponeError], *, create: bool) -> Connection:
    """Connect in autocommit mode: statements begin and end transactions. Errors have the class ``kind``."""
    failed = f"open {path}"
    if sqlite3.sqlite_version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise kind(
            failed, f"SQLite library {sqlite3.sqlite_version}", f"use a Python built with SQLite {wanted} or newer"
        )
    if path.is_dir():
        raise kind(failed, "it is a directory", "use the path of a database file")
    if not path.parent.is_dir():
        raise kind(failed, "its folder does not exist", f"create {path.parent}")
    if not create and not path.exists():
        raise kind(failed, "the file does not exist", "fix the path in the connection")
    uri = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"
    # Not bound to one thread: the engine stages from a worker thread, one call at a time.
    patience = min(timeout, stopping.SLICE)
    db = sqlite3.connect(
        uri, timeout=patience, isolation_level=None, check_same_thread=False, uri=True, factory=Connection
    )
    db.patience = timeout
    try:
        db.execute("PRAGMA schema_version")  # reads the file: only now is it known to be a database
        # EXTRA: after a power cut, a transaction that was reported as committed is not rolled back by its own journal.
        db.execute("PRAGMA synchronous=EXTRA")
        db.execute("PRAGMA foreign_keys=ON")
        db.execute("PRAGMA cache_size=-16384")
    except BaseException:
        db.close()
        raise
    return db
