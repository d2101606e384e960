"""A replication slot and its server: their facts, and the checks that stop a stream before it could lose changes.

Facts: https://www.postgresql.org/docs/current/view-pg-replication-slots.html. If ``confirmed_flush_lsn`` is above the
saved position, the slot has skipped changes. The server does not report that: it simply starts there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from attrs import frozen

from dpone.errors import Category, ConfigError, DponeError, Gap, IdentityChanged, SourceError
from dpone.model.ids import ulid_time
from dpone.model.position import Position
from dpone_postgres.database import TIMELINE, numbered
from dpone_postgres.errors import failing, sqlstate
from dpone_postgres.offsets import PostgresLogicalOffset
from dpone_postgres.pgoutput import lsn_number, lsn_text, mark
from dpone_postgres.waiting import asking

KIND = PostgresLogicalOffset.backend
PLUGIN = "pgoutput"
_COMMIT = re.compile("[0-9A-F]{16}-([0-9A-F]{8})-([0-9]+)")  # LSN, xid, time in microseconds from 2000 on
_EPOCH, _MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LONGEST = 30.0  # seconds to wait for a slot that a closed connection of ours still holds
_PATIENT = 0.5  # seconds before the process is terminated: decoding a long transaction, it may not write for long
FROM_SCRATCH = (
    "load from scratch with 'dpone cdc drop', 'dpone cdc create' and 'dpone run --full-refresh' "
    "(docs/connectors/postgres-cdc.md)"
)
# Also used if it is not known whether the stream was loaded before: a full refresh of a new stream is its first load.
NO_SLOT = "create it with 'dpone cdc create', then run 'dpone run --full-refresh': changes in between were not retained"

_SERVER = f"""
SELECT s.system_identifier::text, pg_catalog.current_database()::text, {TIMELINE},
       (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
           ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text,
       pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery()
FROM pg_catalog.pg_control_system() AS s"""
_SLOT = """
SELECT s.plugin::text, s.slot_type, s.database::text, s.active_pid, s.confirmed_flush_lsn::text, s.restart_lsn::text,
       coalesce(s.wal_status, 'lost'), coalesce(j ->> 'invalidation_reason', CASE j ->> 'conflicting'
       WHEN 'true' THEN 'conflict with recovery' END, ''), pg_catalog.pg_postmaster_start_time()::text,
       (j ->> 'failover')::bool
FROM pg_catalog.pg_replication_slots AS s, LATERAL (SELECT to_jsonb(s)) AS o(j) WHERE s.slot_name = \0"""
# The xid of a commit, with the upper half of the current xids; and its time, if the server keeps it.
_COMMITTED = """
SELECT pg_catalog.pg_xact_status((x + ((\0::int8 - x + 2147483648) & 4294967295) - 2147483648)::text::xid8),
       CASE WHEN pg_catalog.current_setting('track_commit_timestamp')::bool AND NOT pg_catalog.pg_is_in_recovery()
       THEN pg_catalog.pg_xact_commit_timestamp((\0::int8)::text::xid) END
FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8) AS now(x)"""
_WRITERS = """
SELECT pid, extract(epoch FROM now() - xact_start)::int FROM pg_catalog.pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() ORDER BY xact_start LIMIT 1"""


def rows(db: psycopg.Connection[Any], failed: str, sql: str, given: Sequence[Any] = ()) -> list[Any]:
    """All rows of a query. NUL characters in the text mark the parameters, as in ``PostgresDatabase``."""
    with failing(SourceError, failed):
        return asking(db, sql).execute(numbered(sql), given or None).fetchall()


@frozen
class ServerState:
    """``end``: the LSN up to which its WAL is flushed to disk (on a standby: replayed)."""

    system: str
    database: str
    timeline: int
    end: int
    wal_level: str
    standby: bool

    @classmethod
    def of(cls, db: psycopg.Connection[Any], failed: str) -> ServerState:
        [(system, database, timeline, end, level, standby)] = rows(db, failed, _SERVER)
        return cls(system, database, timeline, lsn_number(end), level, standby)


@frozen
class Slot:
    """``confirmed``, ``restart``: LSNs, 0 if not set. ``started``: when the server was started; it differs after a
    backup was restored."""

    name: str
    plugin: str
    kind: str
    database: str
    active: int | None
    confirmed: int
    restart: int
    wal_status: str
    invalid: str
    started: str
    failover: bool | None = None  # since PostgreSQL 17: standbys may keep a copy

    @classmethod
    def of(cls, db: psycopg.Connection[Any], name: str, failed: str) -> Slot | None:
        found = rows(db, failed, _SLOT, (name,))
        if not found:
            return None
        plugin, kind, database, active, confirmed, restart, status, invalid, started, failover = found[0]
        # A physical slot has no confirmed LSN.
        confirmed, restart = (0 if lsn is None else lsn_number(lsn) for lsn in (confirmed, restart))
        return cls(
            name, plugin or "", kind, database or "", active, confirmed, restart, status, invalid, started, failover
        )  # fmt: skip

    def health(self) -> dict[str, Any]:
        return {
            "name": self.name, "active": self.active is not None, "wal_status": self.wal_status,
            "invalidation_reason": self.invalid or None, "confirmed": lsn_text(self.confirmed),
            "failover": self.failover,
        }  # fmt: skip

    def require(self, server: ServerState, failed: str) -> None:
        """PG-14: the slot can be read from this connection. Raises IdentityChanged, Gap; a transient SourceError if
        another process uses it."""
        if self.kind != "logical" or self.plugin != PLUGIN:
            found = f"slot {self.name} is {self.kind} with plugin {self.plugin or 'none'}, not logical with {PLUGIN}"
            raise IdentityChanged(failed, found, f"set slot to this stream's slot, or {FROM_SCRATCH}")
        if self.database != server.database:
            found = f"slot {self.name} belongs to database {self.database}, the connection uses {server.database}"
            raise IdentityChanged(failed, found, "connect to the slot's database, or set slot to this stream's slot")
        if self.wal_status == "lost" or self.invalid:
            found = f"slot {self.name} is lost: {self.invalid or 'its WAL was removed (max_slot_wal_keep_size)'}"
            raise Gap(failed, found, FROM_SCRATCH)
        if self.active is not None:
            found = f"slot {self.name} is in use by process {self.active} of the server"
            error = SourceError(failed, found, "wait until the other reader ends: a slot serves one reader at a time")
            error.category = Category.TRANSIENT
            raise error

    def require_history(self, saved: PostgresLogicalOffset, reached: bool, failed: str) -> None:
        """PG-17, OUT-05: a slot before the position must return the position's last commit again (``reached``). If it
        does not, the server was restored to an earlier state, whatever it has written since. Only ``ack`` moves the
        slot, and only after this check, so the error repeats until position or slot change. A slot exactly at the
        position needs no proof: ``ack`` moved it there when the commit was known. Raises IdentityChanged."""
        unknown = not saved.exact and saved.commit < mark(self.confirmed)
        if not reached and not unknown and self.confirmed != lsn_number(saved.lsn):
            found = f"slot {self.name} does not return the last commit that was read, before {saved.lsn}"
            why = "the server was restored to an earlier state, or the slot was moved"
            raise IdentityChanged(failed, f"{found}: {why}", FROM_SCRATCH)


def require_committed(db: psycopg.Connection[Any], slot: Slot, saved: PostgresLogicalOffset, failed: str) -> None:
    """OUT-05: a slot exactly at the position returns no commit that proves the history. On a server that was restored,
    and whose slot was then moved there, the xid belongs to another transaction or was not assigned yet. A transaction
    that waits for a synchronous standby is in the stream before it is visible as committed. Raises IdentityChanged."""
    if slot.confirmed != lsn_number(saved.lsn) or not (commit := _COMMIT.fullmatch(saved.commit)):
        return
    xid, at = int(commit[1], 16), int(commit[2])
    try:
        [(status, done)] = rows(db, failed, _COMMITTED, (xid, xid))
    except DponeError as error:
        if sqlstate(error) != "22023":  # invalid parameter value: the xid is in the future, or negative
            raise
        status, done = "not known", None
    if status in ("committed", "in progress", None) and (done is None or (done - _EPOCH) // _MICROSECOND == at):
        return
    found = f"the last transaction read, {xid}, is {status if status != 'committed' else 'a different one'}"
    why = "the server was restored to an earlier state and the slot was moved"
    raise IdentityChanged(failed, f"slot {slot.name} is at {saved.lsn}, but {found}: {why}", FROM_SCRATCH)


def read_since(db: psycopg.Connection[Any], commit: str, failed: str) -> float | None:
    """Seconds since the commit that a position names, or its marker was written; None: the position names none."""
    found = _COMMIT.fullmatch(commit)
    at = _EPOCH + int(found[2]) * _MICROSECOND if found else ulid_time(commit[-26:])
    if at is None:
        return None
    [(now,)] = rows(db, failed, "SELECT pg_catalog.clock_timestamp()")
    seconds: float = (now - at).total_seconds()
    return max(seconds, 0.0)


def require_position(
    after: Position, mine: PostgresLogicalOffset, server: ServerState, failed: str
) -> PostgresLogicalOffset:
    """PG-17: the position belongs to this stream: same server, database, slot and publication. Raises
    IdentityChanged."""
    if after.kind != KIND:
        raise IdentityChanged(failed, f"the position is a {after.kind} position, not {KIND}", FROM_SCRATCH)
    was, is_ = after.identity, mine.to_position().identity
    names = [name for name in {**is_, **was} if was.get(name) != is_.get(name)]
    if changed := [f"{name} was {was.get(name)}, is {is_.get(name)}" for name in names]:
        todo = "connect to the original server; if this one replaced it, " + FROM_SCRATCH
        raise IdentityChanged(failed, ", ".join(changed), todo)
    saved = PostgresLogicalOffset.from_position(after)
    if server.end < lsn_number(saved.lsn):
        ends = f"the server's WAL ends at {lsn_text(server.end)}, before the position {saved.lsn}"
        found = f"{ends}: it was restored to an earlier state"
        raise IdentityChanged(failed, found, FROM_SCRATCH)
    return saved


def require_slot(db: psycopg.Connection[Any], name: str, after: Position | None, failed: str) -> Slot:
    found = Slot.of(db, name, failed)
    if found is None and after is None:
        raise ConfigError(failed, f"slot {name} does not exist", "create it with 'dpone cdc create'")
    if found is None:
        raise Gap(failed, f"slot {name} was dropped, so the changes since then were not retained", FROM_SCRATCH)
    return found


def require_not_passed(slot: Slot, after: int, failed: str) -> None:
    """PG-02: a slot that was recreated, or moved by another client, is above the position. Raises Gap."""
    if slot.confirmed > after:
        gap = f"after {lsn_text(after)} up to {lsn_text(slot.confirmed)}"
        found = f"slot {slot.name} has skipped changes {gap}: it was recreated, or another client moved it"
        raise Gap(failed, found, FROM_SCRATCH)


def release(db: psycopg.Connection[Any], name: str, pid: int, failed: str) -> None:
    """Wait until the server has released the slot of a connection that dpone closed: it notices only when it next
    writes to it. Raises a transient SourceError after 30 seconds."""
    ended, first = False, time.monotonic()
    while (slot := Slot.of(db, name, failed)) is not None and slot.active == pid:
        if time.monotonic() > first + _PATIENT and not ended:
            rows(db, failed, "SELECT pg_catalog.pg_terminate_backend(\0)", (pid,))
            ended = True
        if time.monotonic() > first + _LONGEST:
            todo = "run again; if the process stays, end it with pg_terminate_backend"
            error = SourceError(failed, f"server process {pid} still holds slot {name}", todo)
            error.category = Category.TRANSIENT
            raise error
        time.sleep(0.01)


def writer_in_the_way(db: psycopg.Connection[Any], failed: str) -> str:
    """For a message: the oldest open transaction that has written. Creating a slot waits for all of these to end
    (PG-16)."""
    found = rows(db, failed, _WRITERS)
    return "" if not found else f"; process {found[0][0]} has had a writing transaction open for {found[0][1]} s"
