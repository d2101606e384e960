"""State backend over a SQL database: positions, their history and the locks of runners, in three tables of dpone's own.

A connector names its Database and its clock, and says what may prevent a state from being written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pyarrow as pa
from attrs import frozen

from dpone.contract import Finding, Versioned
from dpone.errors import Busy, Conflict, DponeError, StateError
from dpone.host.process import Process, abandoned, using
from dpone.model.pipeline import StateSpec
from dpone.model.schema import PREFIX, Name
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Database, transaction
from dpone.sql.own import Own, as_state_errors
from dpone.sql.partitions import SqlPartitionManifestStore
from dpone.sql.run_log import SqlRunLog
from dpone.sql.strategies.scd2 import INSTANT, moment

STATE = "__dpone__state"
_KEPT = 50  # values of each key in the history


class SqlState:
    """``contract.StateBackend``, ``contract.SupportsPartitions`` and ``contract.SupportsRunLog``. Every call opens its
    own connection, since a lease is renewed from another thread.

    database_class     the Database of the connector, unless ``database`` is overridden
    clock              an expression: the server's time when it is evaluated, not when the transaction began; returned
                       by ``Database.rows`` as any instant. Not needed where ``now`` is overridden
    saved_at, expires  types of the columns that hold these times
    """

    database_class: ClassVar[type[DbapiDatabase]]
    clock: ClassVar[str]
    saved_at: ClassVar[pa.DataType] = INSTANT
    expires: ClassVar[pa.DataType] = INSTANT

    def __init__(self, spec: StateSpec, where: str = "", state: Name = Name((STATE,))) -> None:  # noqa: B008 - a value
        """``where``: for messages, by default the place of ``database_class``. ``state``: the table of the states; the
        other tables are in the same schema."""
        self._spec, self._name = spec, state
        self._where = where or self.database_class.of(spec).place

    def database(self) -> Database:
        """A Database that opens its own connection when first used. Its locks do not collide with those of a sink:
        ``SqlState`` prefixes each."""
        return self.database_class.of(self._spec)

    def now(self, db: Database) -> datetime:
        """The time by a clock that all runs share: the server's, if there is a server."""
        [(at,)] = db.rows(f"SELECT {self.clock}")
        return moment(at)

    def lost(self, db: Database) -> tuple[str, str] | None:
        """Why the tables cannot exist, such as a missing schema, and what to do; None if nothing was saved yet."""
        return None

    def refused(self, db: Database, known: bool) -> tuple[str, str] | None:
        """Why a state could not be written, and what to do. ``known``: the tables exist. Creates nothing."""
        return None

    def check(self) -> list[Finding]:
        try:
            with self._connected("check") as db:
                known = self._tables(db).exist()
                refused = self.refused(db, known)
        except DponeError as error:
            return [Finding("state", False, f"{error.failed}: {error.found}", error.todo)]
        if refused is not None:
            return [Finding("state", False, *refused)]
        return [Finding("state", True, f"{self._where}{'' if known else ' (will be created)'}")]

    def load(self, key: str) -> Versioned | None:
        with self._connected("load the state") as db:
            tables = self._tables(db)
            found = tables.state.rows(_VERSION, {"key": key}) if self._are_there(tables) else []
        return _versioned(*found[0]) if found and found[0][1] is not None else None

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return self._write(key, json.dumps(dict(value), sort_keys=True, allow_nan=False, ensure_ascii=False), expected)

    def delete(self, key: str, expected: int) -> None:
        self._write(key, None, expected)

    def _write(self, key: str, value: str | None, expected: int) -> int:
        with self._writing("save the state", key) as tables:
            found = tables.state.rows(_VERSION, {"key": key})
            version, old, _ = found[0] if found else (0, None, None)
            current = 0 if old is None else version
            if current != expected:
                what = f"{key} is at version {current}, expected {expected}: another run was faster"
                raise Conflict("save the state", what, "nothing was written; run again")
            at = _bound(tables.db, self.now(tables.db), self.saved_at)
            line = {"version": version + 1, "value": value, "saved_at": at}
            if found:
                tables.state.update(line, {"key": key})
            else:
                tables.state.insert(key, *line.values())
            if value is not None:
                tables.history.insert(key, *line.values())
            for beyond in sorted(n for (n,) in tables.history.rows(["version"], {"key": key}))[:-_KEPT]:
                tables.history.delete({"key": key, "version": beyond})
        return int(version) + 1

    def history(self, key: str, limit: int = 20) -> list[Versioned]:
        with self._connected("read the state's history") as db:
            tables = self._tables(db)
            found = tables.history.rows(_VERSION, {"key": key}) if self._are_there(tables) else []
        newest = sorted(found, key=lambda line: int(line[0]), reverse=True)
        return [_versioned(*line) for line in newest[:limit]]

    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[SqlLease]:
        lease = SqlLease(self, key, ttl, secrets.token_hex(8))
        with using(lease.owner):
            self._take(lease)
            try:
                yield lease
            finally:
                self._release(lease)

    def _take(self, lease: SqlLease) -> None:
        key, asked = lease.key, False
        try:
            with self._writing("lock the stream", key) as tables:
                now, me = self.now(tables.db), Process.this()
                self._require_free(tables.locks, key, now)
                tables.locks.delete({"key": key})
                asked = True
                until = _bound(tables.db, now + timedelta(seconds=lease.ttl), self.expires)
                tables.locks.insert(key, lease.owner, me.host, me.machine, me.pid, me.started, until)
        except StateError:
            if asked:  # maybe only the answer to the COMMIT was lost: then our own lease would stay
                self._release(lease)
            raise

    def _require_free(self, locks: Own, key: str, now: datetime) -> None:
        for host, machine, pid, started, owner, expires in locks.rows(_HOLDER, {"key": key}):
            holder, left = Process(host, machine, int(pid), started), (_moment(expires) - now).total_seconds()
            if left > 0 and not abandoned(holder, owner):
                held = f"process {holder.pid} on {holder.host} holds it for at most {left:.0f} s more"
                raise Busy(f"lock {key}", held, "wait until that run ends; the lease of a dead one expires by itself")

    def _release(self, lease: SqlLease) -> None:
        """Tries twice and then gives up: what the run did is valid, and the lease expires by itself."""
        for _ in range(2):
            with suppress(StateError):
                with self._writing("release the lock", lease.key) as tables:
                    tables.locks.delete({"key": lease.key, "owner": lease.owner})
                return

    def extend(self, lease: SqlLease) -> None:
        with self._writing("renew the lease", lease.key) as tables:
            until = _bound(tables.db, self.now(tables.db) + timedelta(seconds=lease.ttl), self.expires)
            if not tables.locks.update({"expires": until}, {"key": lease.key, "owner": lease.owner}):
                found = f"another run has taken over {lease.key}"
                raise Conflict("renew the lease", found, "no action is needed: this run stops and writes nothing more")

    def partitions(self) -> SqlPartitionManifestStore:
        heads = self._name.sibling("__dpone__manifests")
        return SqlPartitionManifestStore(lambda: closing(self.database()), heads)

    def run_log(self) -> SqlRunLog:
        return SqlRunLog(lambda: closing(self.database()), self._name.sibling("__dpone__runs"))

    def close(self) -> None:  # nothing to do, and nothing to add
        """Nothing is held between calls."""

    def _tables(self, db: Database) -> _Tables:
        text, number = pa.string(), pa.int64()
        saved: list[tuple[str, pa.DataType]] = [("version", number), ("value", text), ("saved_at", self.saved_at)]
        held = [(name, number if name == "pid" else text) for name in ("owner", "host", "machine", "pid", "started")]
        return _Tables(
            db,
            _own(db, self._name, ("key",), saved, nullable="value"),
            _own(db, self._name.sibling(f"{STATE}_history"), ("key", "version"), saved),
            _own(db, self._name.sibling("__dpone__locks"), ("key",), [*held, ("expires", self.expires)]),
        )

    def _are_there(self, tables: _Tables) -> bool:
        """Raises StateError if the tables cannot exist: whether a state was saved is then unknown."""
        if tables.exist():
            return True
        if (lost := self.lost(tables.db)) is not None:
            raise StateError(f"load the state at {self._where}", *lost)
        return False

    @contextmanager
    def _connected(self, failed: str) -> Iterator[Database]:
        with as_state_errors(f"{failed} at {self._where}"), closing(self.database()) as db:
            yield db

    @contextmanager
    def _writing(self, failed: str, key: str) -> Iterator[_Tables]:
        """One transaction that locks the key from its start, even if it has no row yet; durable at the end. The tables
        are created by one runner at a time."""
        with self._connected(failed) as db:
            tables = self._tables(db)
            if not tables.exist():
                with transaction(db, f"tables of state {self._name.schema}"):
                    tables.create()
            with transaction(db, f"state {key}"):
                yield tables


_VERSION = ("version", "value", "saved_at")
_HOLDER = ("host", "machine", "pid", "started", "owner", "expires")


@frozen
class SqlLease:
    """``contract.Lease``."""

    state: SqlState
    key: str
    ttl: float
    owner: str

    def renew(self) -> None:
        self.state.extend(self)


@frozen
class _Tables:
    db: Database
    state: Own
    history: Own
    locks: Own

    def exist(self) -> bool:
        there = {table.last for table in self.db.tables(self.state.name, PREFIX)}
        return {own.name.last for own in (self.state, self.history, self.locks)} <= there

    def create(self) -> None:
        for own in (self.state, self.history, self.locks):
            own.create()


_Columns = Sequence[tuple[str, pa.DataType]]


def _own(db: Database, name: Name, key: tuple[str, ...], columns: _Columns, nullable: str = "") -> Own:
    fields = [pa.field(column, type_, column == nullable) for column, type_ in (("key", pa.string()), *columns)]
    return Own(db, name, pa.schema(fields), key)


def _bound(db: Database, at: datetime, type: pa.DataType) -> Any:
    """The parameter for a column of instants, of ISO 8601 texts or of seconds since 1970."""
    if pa.types.is_string(type):
        return at.isoformat(timespec="microseconds")
    return at.timestamp() if pa.types.is_floating(type) else db.dialect.bind(at, type)


def _moment(value: Any) -> datetime:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float) else moment(value)


def _versioned(version: int, value: str | None, saved_at: Any) -> Versioned:
    try:
        found = json.loads(value or "")
        if not isinstance(found, dict):  # null would count as no state
            raise ValueError("it is not an object")
        return Versioned(found, int(version), moment(saved_at))
    except ValueError as error:
        todo = "restore it from a backup, or delete its tables: the position is then taken from the sink's journal"
        raise StateError("load the state", f"version {version} is not JSON of a state ({error})", todo) from error
