"""State backend: positions, their history and the locks of runners, in one SQLite file."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from dpone import durable
from dpone.connectors.sqlite.config import SqliteStateOptions
from dpone.connectors.sqlite.connect import connect, database_path, will_write
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.connectors.sqlite.errors import failing
from dpone.contract import Finding, Versioned
from dpone.errors import Busy, Conflict, DponeError, StateError
from dpone.partition import SqlPartitionManifestStore
from dpone.pipeline import StateSpec
from dpone.process import Process, abandoned, using

HISTORY = 50
_TABLES = (
    """CREATE TABLE IF NOT EXISTS "__dpone__state"
    (key TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, value TEXT, saved_at TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS "__dpone__state_history"
    (key TEXT NOT NULL, version INTEGER NOT NULL, value TEXT NOT NULL, saved_at TEXT NOT NULL,
    PRIMARY KEY (key, version))""",
    """CREATE TABLE IF NOT EXISTS "__dpone__locks"
    (key TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, host TEXT NOT NULL, machine TEXT NOT NULL,
    pid INTEGER NOT NULL, started TEXT NOT NULL, expires REAL NOT NULL)""",
)
_HISTORY = 'SELECT {} FROM "__dpone__state_history" WHERE key = ? ORDER BY version DESC LIMIT ?'


class SqliteState:
    """``contract.StateBackend``. Every call has a connection of its own: a lease is renewed from another thread."""

    def __init__(self, spec: StateSpec) -> None:
        options = spec.options if isinstance(spec.options, SqliteStateOptions) else SqliteStateOptions()
        self._path = database_path(spec.connection, spec.base)
        self._timeout = options.busy_timeout
        will_write(self._path)

    def check(self) -> list[Finding]:
        """Creates nothing."""
        try:
            if self._path.exists():
                with self._reading("check"):
                    pass
        except DponeError as error:
            return [Finding("state", False, error.found, error.todo)]
        folder = self._path.parent if self._path.parent.exists() else self._path.parent.parent
        if not os.access(self._path if self._path.exists() else folder, os.W_OK):
            return [Finding("state", False, f"{self._path} is not writable", "grant write access to it and its folder")]
        return [Finding("state", True, f"{self._path}{'' if self._path.exists() else ' (will be created)'}")]

    def load(self, key: str) -> Versioned | None:
        with self._reading("load the state") as db:
            row = _row(db, key) if db else None
        return None if row is None or row[1] is None else _versioned(*row)

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return self._write(key, json.dumps(dict(value), sort_keys=True, allow_nan=False, ensure_ascii=False), expected)

    def delete(self, key: str, expected: int) -> None:
        self._write(key, None, expected)

    def _write(self, key: str, value: str | None, expected: int) -> int:
        with self._writing("save the state") as db:
            version, old, _ = _row(db, key) or (0, None, "")
            current = 0 if old is None else version
            if current != expected:
                found = f"{key} is at version {current}, expected {expected}; another runner was faster"
                raise Conflict("save the state", found, "nothing was written; run again")
            row = (key, version + 1, value, datetime.now(UTC).isoformat(timespec="microseconds"))
            db.execute('INSERT OR REPLACE INTO "__dpone__state" VALUES (?, ?, ?, ?)', row)
            if value is not None:
                db.execute('INSERT INTO "__dpone__state_history" VALUES (?, ?, ?, ?)', row)
            old_ones = (
                'SELECT version FROM "__dpone__state_history" WHERE key = ? ORDER BY version DESC LIMIT -1 OFFSET ?'
            )
            sql = f'DELETE FROM "__dpone__state_history" WHERE key = ? AND version IN ({old_ones})'
            db.execute(sql, (key, key, HISTORY))
        return version + 1

    def history(self, key: str, limit: int = 20) -> list[Versioned]:
        sql = (
            'SELECT version, value, saved_at FROM "__dpone__state_history" WHERE key = ? ORDER BY version DESC LIMIT ?'
        )
        with self._reading("read the state's history") as db:
            return [_versioned(*row) for row in db.execute(sql, (key, limit))] if db else []

    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[SqliteLease]:
        lease = SqliteLease(self, key, ttl, secrets.token_hex(8))
        with using(lease.owner):
            self._take(lease)
            try:
                yield lease
            finally:
                # Suppressed: what the run did stands, and the lease ends by itself.
                with suppress(StateError), self._writing("release the lock") as db:
                    db.execute('DELETE FROM "__dpone__locks" WHERE key = ? AND owner = ?', (key, lease.owner))

    def _take(self, lease: SqliteLease) -> None:
        with self._writing("lock the stream") as db:
            me, now = Process.this(), time.time()
            sql = 'SELECT host, machine, pid, started, owner, expires FROM "__dpone__locks" WHERE key = ?'
            if found := db.execute(sql, (lease.key,)).fetchone():
                holder, owner, expires = Process(*found[:4]), found[4], found[5]
                if expires > now and not abandoned(holder, owner):
                    held = f"process {holder.pid} on {holder.host} holds it for another {expires - now:.0f} s at most"
                    todo = "let that run finish; a dead one is replaced when its lease ends"
                    raise Busy(f"lock {lease.key}", held, todo)
            row = (lease.key, lease.owner, me.host, me.machine, me.pid, me.started, now + lease.ttl)
            db.execute('INSERT OR REPLACE INTO "__dpone__locks" VALUES (?, ?, ?, ?, ?, ?, ?)', row)

    def extend(self, lease: SqliteLease) -> None:
        with self._writing("renew the lease") as db:
            sql = 'UPDATE "__dpone__locks" SET expires = ? WHERE key = ? AND owner = ?'
            if not db.execute(sql, (time.time() + lease.ttl, lease.key, lease.owner)).rowcount:
                found = f"another runner has taken over {lease.key}"
                raise Conflict("renew the lease", found, "nothing to do; this run stops and writes nothing more")

    def partitions(self) -> SqlPartitionManifestStore:
        """In the same file."""
        return SqlPartitionManifestStore(self._database)

    @contextmanager
    def _database(self) -> Iterator[_Private]:
        with closing(_Private(self._path, self._timeout)) as db:
            yield db

    def close(self) -> None:
        """Nothing is held between calls."""

    @contextmanager
    def _reading(self, failed: str) -> Iterator[sqlite3.Connection | None]:
        """None if there is no state yet; looking creates nothing."""
        if not self._path.exists():
            yield None
            return
        with failing(StateError, failed, self._path), closing(self._open(create=False)) as db:
            known = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = '__dpone__state'").fetchone()[0]
            yield db if known else None

    @contextmanager
    def _writing(self, failed: str) -> Iterator[sqlite3.Connection]:
        """One transaction that has the write lock from its start; committed, hence durable, at the end of the block."""
        with failing(StateError, failed, self._path):
            _make_private(self._path)
            with closing(self._open(create=True)) as db:
                db.execute("BEGIN IMMEDIATE")
                for table in _TABLES:
                    db.execute(table)
                yield db
                db.execute("COMMIT")

    def _open(self, *, create: bool) -> sqlite3.Connection:
        return connect(self._path, self._timeout, StateError, create=create)


class _Private(SqliteDatabase):
    def begin(self, lock: str) -> None:
        _make_private(self.path)
        super().begin(lock)


@frozen
class SqliteLease:
    """``contract.Lease``."""

    state: SqliteState
    key: str
    ttl: float
    owner: str

    def renew(self) -> None:
        self.state.extend(self)


def _row(db: sqlite3.Connection, key: str) -> tuple[int, str | None, str] | None:
    found = db.execute('SELECT version, value, saved_at FROM "__dpone__state" WHERE key = ?', (key,)).fetchone()
    return None if found is None else (found[0], found[1], found[2])


def _versioned(version: int, value: str | None, saved_at: str) -> Versioned:
    try:
        return Versioned(json.loads(value or ""), version, datetime.fromisoformat(saved_at))
    except ValueError as error:
        todo = "restore the file from a backup, or move it away: the position is then taken from the sink's journal"
        raise StateError("load the state", f"version {version} is not JSON ({error})", todo) from error


def _make_private(path: Path) -> None:
    """Positions may name tables and files: the folder ``.dpone`` and the file are the owner's alone."""
    if path.exists() or path.is_symlink():
        return
    try:
        if path.parent.name == ".dpone":
            path.parent.mkdir(mode=0o700, exist_ok=True)
            durable.sync_folder(path.parent.parent)
        if path.parent.is_dir():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        todo = "grant write access to the folder, or name another connection for state"
        raise StateError(f"create {path}", error.strerror or str(error), todo) from error
