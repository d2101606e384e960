"""START_REPLICATION on psycopg's libpq connection, as psycopg itself does not support it: reads a slot up to a bound.

The slot does not move: the status messages confirm nothing (a flush position of 0/0 means none).
https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import pq

from dpone_postgres.transfer import result_of, send
from dpone_postgres.waiting import Connection, Patience

HEADER = 25  # of XLogData, before pgoutput's own message
_ASK_AGAIN = 0.05  # seconds
_PAGE = 8192
_STATUS = struct.Struct("!cQQQQB")
_POSITION = struct.Struct("!Q")


def streamed(db: Connection, command: str, upto: int) -> Iterator[bytes]:
    """XLogData messages. Ends when the server reports that it has sent everything up to ``upto``; it is asked whenever
    it has nothing more to send. A bound at the end of a page may lie inside a record that is not fully written yet;
    then it is enough that the server has reached that page and makes no progress. The connection cannot be used
    afterwards. Raises psycopg.Error."""
    raw = db.pgconn
    send(db, command, pq.ExecStatus.COPY_BOTH)
    patience, asked, stood = Patience(db), False, -1
    while True:
        size, message = raw.get_copy_data(1)
        if size < 0:
            _ended(db)
        if size > 0:
            patience.heard()
            data = bytes(message)
            if data[:1] == b"w":
                yield data
                continue
            reached = _POSITION.unpack(data[1:9])[0]
            if reached >= upto or (asked and upto % _PAGE == 0 and reached == stood > upto - _PAGE):
                return
            if data[17]:
                _tell(raw, ask=False)
            stood, asked = (reached, False) if asked else (stood, asked)
            continue
        if not asked and (stood < 0 or not patience.readable(_ASK_AGAIN)):
            _tell(raw, ask=True)
            asked = True
        if asked:
            patience.readable()


def _tell(raw: Any, ask: bool) -> None:
    """Send a standby status update: written, flushed, applied, clock, and whether the server should reply."""
    microseconds = int((time.time() - 946_684_800) * 1_000_000)
    raw.put_copy_data(_STATUS.pack(b"r", 0, 0, 0, microseconds, ask))
    raw.flush()


def _ended(db: Connection) -> None:
    """The server ended the stream, to report an error or because it shuts down. Raises psycopg.Error."""
    result = result_of(db)
    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result)
    raise psycopg.OperationalError("server closed the connection")
