"""Every wait for a server ends, also where the server or the way to it has gone silent.

The keepalives of TCP find a machine that is gone. They do not find a proxy, a tunnel or a balancer that keeps the
connection open and forwards nothing, nor a server that hangs: the system at the other end still answers them. And a
limit for statements would end an honest merge of an hour. So a server that has said nothing for a while is asked over a
second connection, by the same way, what it makes of ours (pg_stat_activity): it is given up if that is not answered
either, or if the server says that it has nothing to do, or that it waits for us. Asked twice, since an answer may be
just on its way.

``tcp_user_timeout`` is left to users: Linux also ends a connection whose peer is alive and does not read for as long
(tcp(7), RFC 5482), as a server that is busy with the rows it has.
"""

from __future__ import annotations

import re
import select
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any, Literal

import psycopg
from attrs import define, frozen
from psycopg import capabilities
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait

from dpone import stopping

_EVENTS = {
    Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT,
}  # fmt: skip
_ASK = 10.0  # seconds that a second connection may take, and its answer; no longer than the silence that was allowed
_AGAIN = 5.0  # seconds until a server that does not answer, or has nothing to do, is asked once more
_BELIEVED = 3600.0  # seconds for which a server is believed to be at work where it cannot be asked
_CANCEL = 2.0

# libpq's own words, which it does not translate without a locale; whatever else it reports, a server has said.
_UNANSWERED = ("refused", "unreachable", "No route", "closed the connection", "reset by peer", "imed out", "timeout")

_ASKED = """
SELECT pg_catalog.pg_postmaster_start_time()::text, a.state, a.wait_event_type
FROM (VALUES (1)) AS one LEFT JOIN pg_catalog.pg_stat_activity AS a
ON a.pid = $1 AND a.backend_start <= $2::timestamptz"""
_END = """
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid = $1 AND a.backend_start <= $2::timestamptz"""

# What a server says of a session of its own, as columns of a SELECT: see ``Peer``.
WHO = """pg_catalog.pg_postmaster_start_time()::text, pg_catalog.pg_backend_pid(),
    pg_catalog.clock_timestamp()::text"""


@frozen
class Peer:
    """A session of a server. given: how to connect to that very server; limit: seconds of silence until it is asked
    about the session, 0: never; started: tells the server from others, as two behind one address; since: a moment in
    the session's life, which a later one with the same process number does not have."""

    given: Mapping[str, str]
    limit: float
    started: str
    pid: int
    since: str


_left: list[Peer] = []  # sessions that were given up and could not be ended: they may hold locks
_guard = threading.Lock()


class Connection(psycopg.Connection[Any]):
    """psycopg's. doing: what the server was asked last; until: the moment by which this connection gives up, whatever
    the server does."""

    doing = "connecting"
    until: float | None = None
    peer: Peer | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Of psycopg: everything that it waits for on a connection passes here."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return self._follow(gen, Patience(self))
        except Exception:
            raise
        except BaseException:
            self._leave(gen)
            raise

    def _follow(self, gen: Any, patience: Patience) -> Any:
        try:
            wanted = next(gen)
            poll, known = select.poll(), None
            while True:
                if wanted != known:
                    poll.register(self.pgconn.socket, _EVENTS[wanted])
                    known = wanted
                wanted = gen.send(patience.ready(poll))
        except StopIteration as done:
            return done.value

    def _leave(self, gen: Any) -> None:
        """A signal came in the midst of a statement: a server that hears of it ends the statement, so that what
        follows (ROLLBACK, the end of the staging) finds a connection that is of use."""
        if self.closed or self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        try:
            self._cancel()
            self._follow(gen, Patience(self, time.monotonic() + _CANCEL))
        except psycopg.errors.QueryCanceled:
            pass
        except BaseException as error:
            self.close()
            if not isinstance(error, Exception):
                raise

    def _cancel(self) -> None:
        """If libpq can do that without waiting for ever (17)."""
        if not capabilities.has_cancel_safe():
            raise GivenUp("the statement cannot be cancelled")
        self.cancel_safe(timeout=_CANCEL)


class GivenUp(psycopg.OperationalError):
    """A connection that nobody should wait for any longer. It is closed."""


@define(init=False)
class Patience:
    """One wait for a server, which begins again with everything it says."""

    _db: Connection
    _until: float | None
    _asks: float | None
    _began: float
    _doubted: bool

    def __init__(self, db: Connection, until: float | None = None) -> None:
        self._db, self._until = db, db.until if until is None else until
        self.heard()

    def heard(self) -> None:
        self._began, self._doubted = time.monotonic(), False
        self._asks = self._began + peer.limit if (peer := self._db.peer) and peer.limit else None

    def ready(self, poll: select.poll) -> int:
        """What the connection is ready for (psycopg's Ready); nothing after a moment of silence. Raises GivenUp."""
        [*found] = poll.poll(1000 * self._slice())
        if not found:
            self._silent()
            return Ready.NONE
        self.heard()
        [(_, events)] = found
        ready = Ready.R if events & ~select.POLLOUT else Ready.NONE  # also what is closed: libpq finds out by reading
        return ready | Ready.W if events & select.POLLOUT else ready

    def readable(self, seconds: float = stopping.SLICE) -> bool:
        """True if the server has said something meanwhile, and this was taken in. Raises GivenUp, psycopg.Error."""
        raw = self._db.pgconn
        if not select.select([raw.socket], [], [], min(seconds, self._slice()))[0]:
            self._silent()
            return False
        self.heard()
        raw.consume_input()
        return True

    def _slice(self) -> float:
        ends = [end - time.monotonic() for end in (self._until, self._asks) if end is not None]
        return max(0.0, stopping.left(min([stopping.SLICE, *ends])))

    def _silent(self) -> None:
        now, peer = time.monotonic(), self._db.peer
        silence = f"timeout: the server said nothing for {now - self._began:.0f} s"
        if not stopping.left():
            self._give_up("the run was interrupted while the server said nothing")
        if self._until is not None and now >= self._until:
            self._give_up(silence)
        if peer is None or self._asks is None or now < self._asks:
            return
        answer = _asked(peer)
        if answer == "at work" or (answer == "unknown" and now < self._began + _BELIEVED):
            self._asks, self._doubted = time.monotonic() + peer.limit, False
        elif not self._doubted:
            self._asks, self._doubted = time.monotonic() + min(_AGAIN, peer.limit), True
        elif not select.select([self._db.pgconn.socket], [], [], 0)[0]:
            _forsake(peer)
            self._give_up(f"{silence}, and {_FOUND[answer]}")

    def _give_up(self, found: str) -> None:
        doing = self._db.doing
        self._db.close()
        raise GivenUp(f"{found} (waited for the answer to {doing})")


def wait(db: Connection) -> None:
    """Until the server has said something, which is taken in. Raises GivenUp, psycopg.Error."""
    patience = Patience(db)
    while not patience.readable():
        pass


Answer = Literal["at work", "not at work", "none", "unknown"]
_FOUND: Mapping[Answer, str] = {
    "not at work": "another connection shows that it is not working on this: request or answer was lost on the way",
    "none": "it does not answer a new connection either",
    "unknown": "another connection could not tell whether it is working on this",
}


def _asked(peer: Peer) -> Answer:
    """What a second connection finds out about the session. It counts as "unknown" where the server refuses the second
    connection (there may be too many), or where a balancer leads it to another server."""
    try:
        with closing(_knocking(peer)) as db:
            [(started, state, waits)] = psycopg.RawCursor(db).execute(_ASKED, (peer.pid, peer.since)).fetchall()
    except psycopg.Error as error:
        unanswered = isinstance(error, GivenUp) or any(words in str(error) for words in _UNANSWERED)
        return "none" if unanswered else "unknown"
    if started != peer.started or state == "disabled":  # by track_activities
        return "unknown"
    return "at work" if state == "active" and waits != "Client" else "not at work"


def _knocking(peer: Peer) -> Connection:
    seconds = max(2.0, min(_ASK, peer.limit))
    given: Any = {**peer.given, "connect_timeout": str(int(seconds))}
    given.pop("replication", None)  # whose protocol takes no parameters
    db = Connection.connect(**given, autocommit=True, prepare_threshold=None)
    db.doing, db.until = "SELECT", time.monotonic() + seconds
    return db


def _forsake(peer: Peer) -> None:
    """End a session that was given up, which may hold locks; if that cannot be done now, with the next connection."""
    with _guard:
        _left.append(peer)
    with suppress(psycopg.Error), closing(_knocking(peer)) as db:
        end_forsaken(db, peer.started)


def end_forsaken(db: Connection, started: str) -> None:
    """End the sessions of this server that were given up. Only those of the same role, as the server allows."""
    with _guard:
        mine = [peer for peer in _left if peer.started == started]
    for peer in mine:
        with suppress(psycopg.errors.InsufficientPrivilege):
            psycopg.RawCursor(db).execute(_END, (peer.pid, peer.since))
        with _guard, suppress(ValueError):
            _left.remove(peer)


def asking(db: psycopg.Connection[Any], sql: str) -> psycopg.Cursor[Any]:
    """A cursor for the statement, whose parameters are numbered."""
    if isinstance(db, Connection):
        db.doing = verb(sql)
    return psycopg.RawCursor(db)


def verb(sql: str) -> str:
    """The words that a statement begins with; what follows may be names, and values of rows."""
    found = re.match(r"[A-Z_]+\b( [A-Z_]+\b)*", sql.lstrip())
    return found[0] if found else "a statement"
