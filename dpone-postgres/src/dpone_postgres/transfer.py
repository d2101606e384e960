"""``COPY .. TO STDOUT`` below psycopg's own iterator, which takes three times as long per row."""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import pq


def copy_out(db: psycopg.Connection[Any], sql: str, patience: float = 0) -> Generator[bytes, None, None]:
    """Rows of binary COPY, without the file's header and trailer. Never with a blocking call, which would hold the
    interpreter's lock. ``patience``: seconds in which the server must say something, 0 for ever; a connection can be
    dead without a word (PG-23). What is not read to its end is closed. Raises psycopg.Error."""
    raw, done = db.pgconn, False
    try:
        raw.send_query(f"COPY ({sql}) TO STDOUT (FORMAT binary)".encode())
        expect(raw, pq.ExecStatus.COPY_OUT, patience)
        get, first = raw.get_copy_data, True
        while True:
            size, message = get(1)
            if size > 0:
                row = bytes(message) if not first else bytes(message)[19:]  # the header comes with the first
                first = False
                if row != b"\xff\xff":
                    yield row
            elif size == 0:
                _wait(raw, patience)
            else:
                break
        expect(raw, pq.ExecStatus.COMMAND_OK, patience)
        while result_of(raw, patience) is not None:
            pass
        done = True
    finally:
        if not done:
            db.close()


def expect(raw: Any, status: pq.ExecStatus, patience: float) -> None:
    result = result_of(raw, patience)
    if result is None:
        raise psycopg.OperationalError("server closed the connection")
    if result.status != status:
        raise psycopg.errors.error_from_result(result)


def result_of(raw: Any, patience: float) -> Any:
    raw.flush()
    while raw.is_busy():
        _wait(raw, patience)
    return raw.get_result()


def _wait(raw: Any, patience: float) -> None:
    last = time.monotonic() + patience
    while not wait(raw, 1.0):
        if patience and time.monotonic() > last:
            raise psycopg.OperationalError(f"timeout: the server said nothing for {patience:g} s")


def wait(raw: Any, seconds: float) -> bool:
    """True if the server has said something meanwhile."""
    said = bool(select.select([raw.socket], [], [], seconds)[0])
    if said:
        raw.consume_input()
    return said
