"""State backend: positions, their history and the locks of runners, in a PostgreSQL database, by the server's clock."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
from attrs import frozen

from dpone.contract import Finding, Versioned
from dpone.errors import Busy, ConfigError, Conflict, DponeError, StateError
from dpone.partition import SqlPartitionManifestStore
from dpone.pipeline import StateSpec
from dpone.process import Process, abandoned, using
from dpone.schema import Name
from dpone_postgres.config import PostgresSinkOptions, PostgresStateOptions
from dpone_postgres.connect import connect, parameters, where
from dpone_postgres.database import PostgresDatabase, PostgresDialect, numbered
from dpone_postgres.errors import failing
from dpone_postgres.waiting import Connection, asking

HISTORY = 50
_TABLES = {
    "__dpone__state": "key text PRIMARY KEY, version bigint NOT NULL, value text, saved_at timestamptz NOT NULL",
    "__dpone__state_history": "key text NOT NULL, version bigint NOT NULL, value text NOT NULL, "
    "saved_at timestamptz NOT NULL, PRIMARY KEY (key, version)",
    "__dpone__locks": "key text PRIMARY KEY, owner text NOT NULL, host text NOT NULL, machine text NOT NULL, "
    "pid bigint NOT NULL, started text NOT NULL, expires timestamptz NOT NULL",
}


class PostgresState:
    """``contract.StateBackend``. Every call has a connection of its own: a lease is renewed from another thread."""

    def __init__(self, spec: StateSpec) -> None:
        options = spec.options if isinstance(spec.options, PostgresStateOptions) else PostgresStateOptions()
        if spec.connection is None:
            raise ConfigError("read state", "no connection", "write connection: postgres://...")
        self._given = parameters(spec.connection)
        self._lock_timeout, self._silence_timeout = options.lock_timeout, options.silence_timeout
        self._schema = options.schema
        dialect = PostgresDialect()
        self._names = {name: f"{dialect.quote(options.schema)}.{dialect.quote(name)}" for name in _TABLES}
        self._state, self._history, self._locks = self._names.values()

    def check(self) -> list[Finding]:
        """Creates nothing."""
        try:
            with self._reading("check") as db:
                known = db is not None
            with closing(self._connect()) as db:
                sql = "SELECT current_user, has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = \0"
                found = _rows(db, sql, [self._schema])
        except DponeError as error:
            return [Finding("state", False, f"{error.failed}: {error.found}", error.todo)]
        place = f"{where(self._given)}, schema {self._schema}"
        if not found:
            return [Finding("state", False, f"no schema {self._schema}", f'CREATE SCHEMA "{self._schema}";')]
        user, create = found[0]
        if not (known or create):
            grant = f'GRANT USAGE, CREATE ON SCHEMA "{self._schema}" TO "{user}";'
            return [Finding("state", False, f"{user} may not create tables in schema {self._schema}", grant)]
        return [Finding("state", True, f"{place}{'' if known else ' (will be created)'}")]

    def load(self, key: str) -> Versioned | None:
        with self._reading("load the state") as db:
            row = self._row(db, key) if db else None
        return None if row is None or row[1] is None else _versioned(*row)

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return self._write(key, json.dumps(dict(value), sort_keys=True, allow_nan=False, ensure_ascii=False), expected)

    def delete(self, key: str, expected: int) -> None:
        self._write(key, None, expected)

    def _write(self, key: str, value: str | None, expected: int) -> int:
        with self._writing("save the state", key) as db:
            version, old, _ = self._row(db, key) or (0, None, None)
            current = 0 if old is None else version
            if current != expected:
                found = f"{key} is at version {current}, expected {expected}; another runner was faster"
                raise Conflict("save the state", found, "nothing was written; run again")
            row = [key, version + 1, value]
            sets = "version = excluded.version, value = excluded.value, saved_at = excluded.saved_at"
            insert = f"INSERT INTO {self._state} VALUES (\0, \0, \0, clock_timestamp())"
            _run(db, f"{insert} ON CONFLICT (key) DO UPDATE SET {sets}", row)
            if value is not None:
                _run(db, f"INSERT INTO {self._history} VALUES (\0, \0, \0, clock_timestamp())", row)
            sql = f"DELETE FROM {self._history} WHERE key = \0 AND version <= \0"
            _run(db, sql, [key, version + 1 - HISTORY])
        return version + 1

    def history(self, key: str, limit: int = 20) -> list[Versioned]:
        sql = f"SELECT version, value, saved_at FROM {self._history} WHERE key = \0 ORDER BY version DESC LIMIT \0"
        with self._reading("read the state's history") as db:
            return [_versioned(*row) for row in _rows(db, sql, [key, limit])] if db else []

    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[PostgresLease]:
        lease = PostgresLease(self, key, ttl, secrets.token_hex(8))
        with using(lease.owner):
            try:
                self._take(lease)
            except Busy:
                raise
            except StateError:
                self._release(lease)  # the answer to its COMMIT may be what was lost: our own lease would stay
                raise
            try:
                yield lease
            finally:
                self._release(lease)

    def _take(self, lease: PostgresLease) -> None:
        key = lease.key
        with self._writing("lock the stream", key) as db:
            left = "extract(epoch FROM expires - clock_timestamp())::float8"
            sql = f"SELECT host, machine, pid, started, owner, {left} FROM {self._locks} WHERE key = \0"
            for *process, owner, seconds in _rows(db, sql, [key]):
                holder = Process(*process)
                if seconds > 0 and not abandoned(holder, owner):
                    held = f"process {holder.pid} on {holder.host} holds it for another {seconds:.0f} s at most"
                    raise Busy(f"lock {key}", held, "let that run finish; a dead one is replaced when its lease ends")
            _run(db, f"DELETE FROM {self._locks} WHERE key = \0", [key])
            me, until = Process.this(), "clock_timestamp() + \0 * interval '1 second'"
            row = [key, lease.owner, me.host, me.machine, me.pid, me.started, float(lease.ttl)]
            _run(db, f"INSERT INTO {self._locks} VALUES (\0, \0, \0, \0, \0, \0, {until})", row)

    def _release(self, lease: PostgresLease) -> None:
        """Tried twice, then left: what the run did stands, and the lease ends by itself."""
        for _ in range(2):
            with suppress(StateError):
                with self._writing("release the lock", lease.key) as db:
                    _run(db, f"DELETE FROM {self._locks} WHERE key = \0 AND owner = \0", [lease.key, lease.owner])
                return

    def extend(self, lease: PostgresLease) -> None:
        with self._writing("renew the lease", lease.key) as db:
            until = "clock_timestamp() + \0 * interval '1 second'"
            sql = f"UPDATE {self._locks} SET expires = {until} WHERE key = \0 AND owner = \0"
            if not _run(db, sql, [float(lease.ttl), lease.key, lease.owner]).rowcount:
                found = f"another runner has taken over {lease.key}"
                raise Conflict("renew the lease", found, "nothing to do; this run stops and writes nothing more")

    def partitions(self) -> SqlPartitionManifestStore:
        """In the same schema."""
        heads = Name((self._schema, "__dpone__manifests"))
        options = PostgresSinkOptions(lock_timeout=self._lock_timeout, silence_timeout=self._silence_timeout)
        return SqlPartitionManifestStore(lambda: closing(_Manifests(self._given, options, heads)), heads)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _connect(self) -> Connection:
        return connect(self._given, StateError, lock_timeout=self._lock_timeout, silence_timeout=self._silence_timeout)

    def _known(self, db: Connection) -> bool:
        sql = "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = \0 AND tablename = ANY (\0)"
        return bool(_rows(db, sql, [self._schema, [*_TABLES]])[0][0] == len(_TABLES))

    @contextmanager
    def _reading(self, failed: str) -> Iterator[Connection | None]:
        """None if there is no state yet; looking creates nothing."""
        with failing(StateError, f"{failed} at {where(self._given)}"), closing(self._connect()) as db:
            yield db if self._known(db) else None

    @contextmanager
    def _writing(self, failed: str, key: str) -> Iterator[Connection]:
        """One transaction that holds the key from its start, also where there is no row yet; durable at the end."""
        with failing(StateError, f"{failed} at {where(self._given)}"), closing(self._connect()) as db:
            if not self._known(db):
                self._create(db)
            with db.transaction():
                _lock(db, f"state {key}")
                yield db

    def _create(self, db: Connection) -> None:
        """By one runner at a time: CREATE TABLE IF NOT EXISTS does not see that another transaction is at it."""
        with db.transaction():
            _lock(db, f"tables of state {self._schema}")
            for name, columns in _TABLES.items():
                _run(db, f"CREATE TABLE IF NOT EXISTS {self._names[name]} ({columns})")

    def _row(self, db: Connection, key: str) -> tuple[int, str | None, Any] | None:
        found = _rows(db, f"SELECT version, value, saved_at FROM {self._state} WHERE key = \0", [key])
        return (found[0][0], found[0][1], found[0][2]) if found else None


class _Manifests(PostgresDatabase):
    def begin(self, lock: str) -> None:
        """A lock of its own: a sink in the same database holds that of the key while it stages. Where the tables are
        still to be made, one runner makes them."""
        super().begin(f"partitions {lock}")
        if self.oid(self._target) is None:
            self.lock(f"tables of partitions {self._target.parts[0]}")


@frozen
class PostgresLease:
    """``contract.Lease``."""

    state: PostgresState
    key: str
    ttl: float
    owner: str

    def renew(self) -> None:
        self.state.extend(self)


def _run(db: Connection, sql: str, given: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
    return asking(db, sql).execute(numbered(sql), given or None)


def _rows(db: Connection, sql: str, given: Sequence[Any] = ()) -> list[Any]:
    return _run(db, sql, given).fetchall()


def _lock(db: Connection, text: str) -> None:
    _run(db, "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(\0, 0))", [text])


def _versioned(version: int, value: str | None, saved_at: Any) -> Versioned:
    try:
        return Versioned(json.loads(value or ""), version, saved_at)
    except ValueError as error:
        todo = "restore the table from a backup, or empty it: the position is then taken from the sink's journal"
        raise StateError("load the state", f"version {version} is not JSON ({error})", todo) from error
