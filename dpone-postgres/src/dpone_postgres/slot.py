"""A replication slot and the server it is on: what they are, and when to stop rather than read on.

Facts: https://www.postgresql.org/docs/current/view-pg-replication-slots.html. A slot whose ``confirmed_flush_lsn`` is
above the position that was saved has passed changes by: PostgreSQL 15 and later say nothing of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from attrs import frozen

from dpone.cdc import PostgresLogicalOffset
from dpone.errors import Category, ConfigError, DponeError, Gap, IdentityChanged, SourceError
from dpone.position import Position
from dpone_postgres.database import TIMELINE, numbered
from dpone_postgres.errors import failing, sqlstate
from dpone_postgres.pgoutput import lsn_number, lsn_text, mark
from dpone_postgres.waiting import asking

KIND = PostgresLogicalOffset.backend
PLUGIN = "pgoutput"
_COMMIT = re.compile("[0-9A-F]{16}-([0-9A-F]{8})-([0-9]+)")  # LSN, xid, time in microseconds from 2000 on
_EPOCH, _MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LONGEST = 30.0  # seconds to wait for a slot that a closed connection of ours still holds
_PATIENT = 0.5  # seconds until a server that is busy with a long transaction must stop sending it
FROM_SCRATCH = (
    "load from scratch with 'dpone cdc drop', 'dpone cdc create' and 'dpone run --full-refresh' "
    "(docs/connectors/postgres-cdc.md)"
)
# Also where nobody knows whether the stream was loaded before: a full refresh of a new stream is its first load.
NO_SLOT = "make it with 'dpone cdc create', then run 'dpone run --full-refresh': nothing kept what came in between"

_SERVER = f"""
SELECT s.system_identifier::text, pg_catalog.current_database()::text, {TIMELINE},
       (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
           ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text,
       pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery()
FROM pg_catalog.pg_control_system() AS s"""
_SLOT = """
SELECT s.plugin::text, s.slot_type, s.database::text, s.active_pid, s.confirmed_flush_lsn::text, s.restart_lsn::text,
       coalesce(s.wal_status, 'lost'), coalesce(j ->> 'invalidation_reason', CASE j ->> 'conflicting'
       WHEN 'true' THEN 'conflict with recovery' END, ''), pg_catalog.pg_postmaster_start_time()::text
FROM pg_catalog.pg_replication_slots AS s, LATERAL (SELECT to_jsonb(s)) AS o(j) WHERE s.slot_name = \0"""
# The xid of a commit, whose upper half is that of the xids of now; and its time, if the server keeps it.
_COMMITTED = """
SELECT pg_catalog.pg_xact_status((x + ((\0::int8 - x + 2147483648) & 4294967295) - 2147483648)::text::xid8),
       CASE WHEN pg_catalog.current_setting('track_commit_timestamp')::bool AND NOT pg_catalog.pg_is_in_recovery()
       THEN pg_catalog.pg_xact_commit_timestamp((\0::int8)::text::xid) END
FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8) AS now(x)"""
_WRITERS = """
SELECT pid, extract(epoch FROM now() - xact_start)::int FROM pg_catalog.pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() ORDER BY xact_start LIMIT 1"""


def rows(db: psycopg.Connection[Any], failed: str, sql: str, given: Sequence[Any] = ()) -> list[Any]:
    """Parameters stand where the text has NUL, as in ``PostgresDatabase``."""
    with failing(SourceError, failed):
        return asking(db, sql).execute(numbered(sql), given or None).fetchall()


@frozen
class Server:
    """``end``: how far its WAL is safe on the disk (of a standby: replayed)."""

    system: str
    database: str
    timeline: int
    end: int
    wal_level: str
    standby: bool

    @classmethod
    def of(cls, db: psycopg.Connection[Any], failed: str) -> Server:
        [(system, database, timeline, end, level, standby)] = rows(db, failed, _SERVER)
        return cls(system, database, timeline, lsn_number(end), level, standby)


@frozen
class Slot:
    """``started``: when the server was, which is another time after a copy of its data was put back."""

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

    @classmethod
    def of(cls, db: psycopg.Connection[Any], name: str, failed: str) -> Slot | None:
        found = rows(db, failed, _SLOT, (name,))
        if not found:
            return None
        plugin, kind, database, active, confirmed, restart, status, invalid, started = found[0]
        # The offset a reader may rely on is its own; a slot that is not logical has none.
        confirmed, restart = (0 if lsn is None else lsn_number(lsn) for lsn in (confirmed, restart))
        return cls(name, plugin or "", kind, database or "", active, confirmed, restart, status, invalid, started)

    def require(self, server: Server, failed: str) -> None:
        """PG-14. Raises IdentityChanged, Gap; SourceError, which may be tried again, if it is in use."""
        if self.kind != "logical" or self.plugin != PLUGIN:
            found = f"slot {self.name} is {self.kind} with plugin {self.plugin or 'none'}, not logical with {PLUGIN}"
            raise IdentityChanged(failed, found, f"name the slot of this stream, or {FROM_SCRATCH}")
        if self.database != server.database:
            found = f"slot {self.name} is of database {self.database}, the connection of {server.database}"
            raise IdentityChanged(failed, found, "connect to the slot's database, or name the slot of this stream")
        if self.wal_status == "lost" or self.invalid:
            found = f"slot {self.name} is lost: {self.invalid or 'its WAL was removed (max_slot_wal_keep_size)'}"
            raise Gap(failed, found, FROM_SCRATCH)
        if self.active is not None:
            found = f"slot {self.name} is in use by process {self.active} of the server"
            error = SourceError(failed, found, "let the other reader end; one slot serves one reader")
            error.category = Category.TRANSIENT
            raise error

    def require_history(self, saved: PostgresLogicalOffset, met: bool, failed: str) -> None:
        """PG-17, OUT-05: a slot that stands before the position gives its last commit once more (``met``). If it does
        not, the server was put back to an earlier moment, whatever it has written since. Only ``ack`` moves the slot,
        and only after this; so the stop lasts as long as position and slot are what they are. A slot that stands at
        the position needs no proof: it was moved there when the commit was known. Raises IdentityChanged."""
        unknown = not saved.exact and saved.commit < mark(self.confirmed)
        if not met and not unknown and self.confirmed != lsn_number(saved.lsn):
            found = f"slot {self.name} does not give the commit that was read last, before {saved.lsn}"
            why = "the server was set back to an earlier moment, or someone moved the slot"
            raise IdentityChanged(failed, f"{found}: {why}", FROM_SCRATCH)


def require_committed(db: psycopg.Connection[Any], slot: Slot, saved: PostgresLogicalOffset, failed: str) -> None:
    """OUT-05: a slot that stands at the position gives no commit that proves the history. A server that was put back,
    and whose slot someone moved there, has another transaction of that number, or none yet. One that waits for a
    synchronous standby may be in the stream before it is done. Raises IdentityChanged."""
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
    found = f"transaction {xid}, which was read last, is {status if status != 'committed' else 'another one'}"
    why = "the server was set back to an earlier moment, and someone moved the slot"
    raise IdentityChanged(failed, f"slot {slot.name} stands at {saved.lsn}, but {found}: {why}", FROM_SCRATCH)


def require_position(
    after: Position, mine: PostgresLogicalOffset, server: Server, failed: str
) -> PostgresLogicalOffset:
    """PG-17: the position is of this very stream. Raises IdentityChanged, Gap."""
    if after.kind != KIND:
        raise IdentityChanged(failed, f"the position is of {after.kind}, not of {KIND}", FROM_SCRATCH)
    was, is_ = after.identity, mine.to_position().identity
    names = [name for name in {**is_, **was} if was.get(name) != is_.get(name)]
    if changed := [f"{name} was {was.get(name)}, is {is_.get(name)}" for name in names]:
        todo = "connect to the server of before; if this one took its place, " + FROM_SCRATCH
        raise IdentityChanged(failed, ", ".join(changed), todo)
    saved = PostgresLogicalOffset.from_position(after)
    if server.end < lsn_number(saved.lsn):
        found = f"the server's WAL ends at {lsn_text(server.end)}, before the position {saved.lsn}: it was set back"
        raise IdentityChanged(failed, found, FROM_SCRATCH)
    return saved


def require_slot(db: psycopg.Connection[Any], name: str, after: Position | None, failed: str) -> Slot:
    found = Slot.of(db, name, failed)
    if found is None and after is None:
        raise ConfigError(failed, f"there is no slot {name}", "make it with 'dpone cdc create'")
    if found is None:
        raise Gap(failed, f"there is no slot {name} any more, and nothing kept what came since", FROM_SCRATCH)
    return found


def require_not_passed(slot: Slot, after: int, failed: str) -> None:
    """PG-02: dropped and made again, or moved by someone else."""
    if slot.confirmed > after:
        gap = f"after {lsn_text(after)} up to {lsn_text(slot.confirmed)}"
        found = f"slot {slot.name} has passed changes by, {gap}: it was made again, or someone else moved it"
        raise Gap(failed, found, FROM_SCRATCH)


def release(db: psycopg.Connection[Any], name: str, pid: int, failed: str) -> None:
    """Wait until a connection of ours, which was closed, has let go of the slot: the server notices when it writes."""
    ended, first = False, time.monotonic()
    while (slot := Slot.of(db, name, failed)) is not None and slot.active == pid:
        if time.monotonic() > first + _PATIENT and not ended:
            rows(db, failed, "SELECT pg_catalog.pg_terminate_backend(\0)", (pid,))
            ended = True
        if time.monotonic() > first + _LONGEST:
            todo = "run again; if it stays, end that process with pg_terminate_backend"
            error = SourceError(failed, f"process {pid} of the server still holds slot {name}", todo)
            error.category = Category.TRANSIENT
            raise error
        time.sleep(0.01)


def writer_in_the_way(db: psycopg.Connection[Any], failed: str) -> str:
    """PG-16: a slot begins where no transaction that writes is open."""
    found = rows(db, failed, _WRITERS)
    return "" if not found else f"; process {found[0][0]} has been in a transaction that writes for {found[0][1]} s"
