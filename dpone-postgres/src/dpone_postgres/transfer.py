"""``COPY .. TO STDOUT`` below psycopg's own iterator, which takes three times as long per row.

Never with a blocking call, which would hold the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import pq

from dpone_postgres.waiting import Connection, wait


def copy_out(db: Connection, sql: str) -> Generator[bytes, None, None]:
    """Rows of binary COPY, without the file's header and trailer. What is not read to its end is closed. Raises
    psycopg.Error."""
    raw, done = db.pgconn, False
    try:
        begin_copy(db, sql)
        get, first = raw.get_copy_data, True
        while True:
            size, message = get(1)
            if size > 0:
                row = bytes(message) if not first else bytes(message)[19:]  # the header comes with the first
                first = False
                if row != b"\xff\xff":
                    yield row
            elif size == 0:
                wait(db)
            else:
                break
        end_copy(db)
        done = True
    finally:
        if not done:
            db.close()


def begin_copy(db: Connection, sql: str) -> None:
    send(db, f"COPY ({sql}) TO STDOUT (FORMAT binary)", pq.ExecStatus.COPY_OUT)


def end_copy(db: Connection) -> None:
    """The command's own result, then the end."""
    _expect(db, pq.ExecStatus.COMMAND_OK)
    while result_of(db) is not None:
        pass


def send(db: Connection, command: str, status: pq.ExecStatus) -> None:
    """Raises psycopg.Error unless the server answers with this status."""
    db.doing = command.partition(" ")[0]
    db.pgconn.send_query(command.encode())
    _expect(db, status)


def _expect(db: Connection, status: pq.ExecStatus) -> None:
    result = result_of(db)
    if result is not None and result.status == status:
        return
    error: psycopg.Error = psycopg.OperationalError("server closed the connection")
    if result is not None:
        error = psycopg.errors.error_from_result(result)
    while db.pgconn.status == pq.ConnStatus.OK and result_of(db) is not None:
        pass
    raise error


def result_of(db: Connection) -> Any:
    raw = db.pgconn
    raw.flush()
    while raw.is_busy():
        wait(db)
    return raw.get_result()
