"""State backend: positions, their history and the locks of runners, in one SQLite file."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from dpone.connectors.sqlite.config import SqliteStateOptions
from dpone.connectors.sqlite.connect import database_path, will_write
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.errors import StateError
from dpone.host import durable
from dpone.model.pipeline import StateSpec
from dpone.sql.dialect import Database
from dpone.sql.state import SqlState


class SqliteState(SqlState):
    """Times are stored as in earlier versions: one as text, one in seconds."""

    saved_at: ClassVar[pa.DataType] = pa.string()
    expires: ClassVar[pa.DataType] = pa.float64()

    def __init__(self, spec: StateSpec) -> None:
        options = spec.options if isinstance(spec.options, SqliteStateOptions) else SqliteStateOptions()
        self._path, self._timeout = database_path(spec.connection, spec.base), options.busy_timeout
        super().__init__(spec, str(self._path))
        will_write(self._path)

    def database(self) -> SqliteDatabase:
        return _Private(self._path, self._timeout)

    def now(self, db: Database) -> datetime:
        """A file is on one machine."""
        return datetime.now(UTC)

    def refused(self, db: Database, known: bool) -> tuple[str, str] | None:
        folder = self._path.parent if self._path.parent.exists() else self._path.parent.parent
        if os.access(self._path if self._path.exists() else folder, os.W_OK):
            return None
        return f"{self._path} is not writable", "grant write access to it and its folder"


class _Private(SqliteDatabase):
    def begin(self, lock: str) -> None:
        _make_private(self.path)
        super().begin(lock)


def _make_private(path: Path) -> None:
    """Positions may name tables and files: only the owner can read the folder ``.dpone`` and the file."""
    if path.exists() or path.is_symlink():
        return
    try:
        if path.parent.name == ".dpone":
            path.parent.mkdir(mode=0o700, exist_ok=True)
            durable.sync_folder(path.parent.parent)
        if path.parent.is_dir():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        todo = "grant write access to the folder, or use another connection for state"
        raise StateError(f"create {path}", error.strerror or str(error), todo) from error
