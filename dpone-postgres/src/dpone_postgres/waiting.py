"""Every wait for a server ends, even if the server or the connection to it has become silent.

The keepalives of TCP find a machine that is gone. They do not find a proxy, a tunnel or a balancer that keeps the
connection open and forwards nothing, nor a server that hangs: the system at the other end still answers them. And a
limit for statements would end a merge that really takes an hour. So if a server has sent nothing for a while, dpone
opens a second connection in the same way and looks up its session (pg_stat_activity). It gives the session up if there
is no answer, or if the session is idle or waits for the client. It asks twice, because an answer may be in transit.

``tcp_user_timeout`` is left to users: Linux also ends a connection whose peer is alive but does not read for that long
(tcp(7), RFC 5482), such as a server that is busy with the rows it has.
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

from dpone.host import stopping

_EVENTS = {
    Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT,
}  # fmt: skip
_ASK = 10.0  # seconds for the second connection and its answer; never longer than silence_timeout
_AGAIN = 5.0  # seconds before a server that does not answer, or is idle, is asked once more
_BELIEVED = 3600.0  # seconds for which a server is assumed to be working if it cannot be asked
_CANCEL = 2.0

# libpq's own messages, which are not translated without a locale; any other message comes from a server.
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
    """A session of a server. given: parameters that connect to the same server; limit: seconds of silence before dpone
    asks the server about the session, 0: never; started: start time of the server, which distinguishes servers behind
    one address; since: a moment at which the session existed, which excludes a later one with the same pid."""

    given: Mapping[str, str]
    limit: float
    started: str
    pid: int
    since: str


_left: list[Peer] = []  # sessions that were given up and could not be terminated: they may hold locks
_guard = threading.Lock()


class Connection(psycopg.Connection[Any]):
    """psycopg's Connection with bounded waits. doing: the last request, for messages; until: the time (monotonic) at
    which this connection gives up, whatever the server does."""

    doing = "connecting"
    until: float | None = None
    peer: Peer | None = None

    @classmethod
    def _connect_gen(cls, *args: Any, **more: Any) -> Any:
        """psycopg's steps of a connection. It asks for the next one every 0.1 s, also while the server says nothing: a
        thread that no signal reaches gives up then. psycopg has no public place for this."""
        steps = super()._connect_gen(*args, **more)
        try:
            wanted = next(steps)
            while True:
                if not stopping.left():
                    raise GivenUp("the run was interrupted while the server said nothing (connecting)")
                wanted = steps.send((yield wanted))
        except StopIteration as done:
            return done.value
        finally:
            steps.close()

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Overrides psycopg: all its waits on a connection go through this method."""
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
        """After a signal during a statement: cancel it on the server, so that the connection can still be used for what
        follows (ROLLBACK, removing the staging)."""
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
        """Only if libpq can cancel with a timeout (17 and later)."""
        if not capabilities.has_cancel_safe():
            raise GivenUp("the statement cannot be cancelled")
        self.cancel_safe(timeout=_CANCEL)


class GivenUp(psycopg.OperationalError):
    """dpone has stopped waiting for this connection and closed it."""


@define(init=False)
class Patience:
    """One wait for a server, which starts again with everything that the server sends."""

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
        """What the connection is ready for (psycopg's Ready); NONE after a moment of silence. Raises GivenUp."""
        [*found] = poll.poll(1000 * self._slice())
        if not found:
            self._silent()
            return Ready.NONE
        self.heard()
        [(_, events)] = found
        ready = Ready.R if events & ~select.POLLOUT else Ready.NONE  # also if it is closed: libpq notices by reading
        return ready | Ready.W if events & select.POLLOUT else ready

    def readable(self, seconds: float = stopping.SLICE) -> bool:
        """True if the server has sent something, which libpq has then consumed. Raises GivenUp, psycopg.Error."""
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
    """Wait until the server has sent something, which libpq then consumes. Raises GivenUp, psycopg.Error."""
    patience = Patience(db)
    while not patience.readable():
        pass


Answer = Literal["at work", "not at work", "none", "unknown"]
_FOUND: Mapping[Answer, str] = {
    "not at work": "another connection shows that it is not processing the request: the request or the answer was lost",
    "none": "it does not answer a new connection either",
    "unknown": "another connection could not find out whether it is processing the request",
}


def _asked(peer: Peer) -> Answer:
    """What a second connection finds out about the session: "unknown" if the server rejects the second connection
    (there may be too many), or if a load balancer leads it to another server; "none" if nothing answers."""
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
    given.pop("replication", None)  # the replication protocol takes no query parameters
    db = Connection.connect(**given, autocommit=True, prepare_threshold=None)
    db.doing, db.until = "SELECT", time.monotonic() + seconds
    return db


def _forsake(peer: Peer) -> None:
    """Terminate a session that was given up, as it may hold locks; if that fails now, the next connection retries."""
    with _guard:
        _left.append(peer)
    with suppress(psycopg.Error), closing(_knocking(peer)) as db:
        end_forsaken(db, peer.started)


def end_forsaken(db: Connection, started: str) -> None:
    """Terminate the sessions of this server that were given up. The server allows this for the same role only."""
    with _guard:
        mine = [peer for peer in _left if peer.started == started]
    for peer in mine:
        with suppress(psycopg.errors.InsufficientPrivilege):
            psycopg.RawCursor(db).execute(_END, (peer.pid, peer.since))
        with _guard, suppress(ValueError):
            _left.remove(peer)


def asking(db: psycopg.Connection[Any], sql: str) -> psycopg.Cursor[Any]:
    """A cursor for a statement with numbered parameters."""
    if isinstance(db, Connection):
        db.doing = verb(sql)
    return psycopg.RawCursor(db)


def verb(sql: str) -> str:
    """The keywords that a statement begins with, for messages: what follows may contain names and values of rows."""
    found = re.match(r"[A-Z_]+\b( [A-Z_]+\b)*", sql.lstrip())
    return found[0] if found else "a statement"
