"""From ``mariadb://user:password@host:3306/database`` to a connection, and the driver's errors in dpone's words."""

from __future__ import annotations

from functools import partial
from typing import Any

import pymysql
from pymysql.constants import CLIENT, CR, ER

from dpone.errors import Category, DponeError, ErrorCodes
from dpone.model.secret import Secret
from dpone.sql import driver_errors as sql
from dpone.sql.address import Server, server

# Strict: a value that does not fit is an error, not a warning. SIMULTANEOUS_ASSIGNMENT: SET takes every value from the
# row as it was, as standard SQL does. Waits have limits: for a row, for a table (by default a day), a statement.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO,PIPES_AS_CONCAT,SIMULTANEOUS_ASSIGNMENT', time_zone = '+00:00', "
    "innodb_lock_wait_timeout = 50, lock_wait_timeout = 50, tx_isolation = 'READ-COMMITTED'"
)
_ANSWER = 3600  # seconds that one statement may take to answer
# Numbers: https://mariadb.com/kb/en/mariadb-error-codes/
_LOST = (CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)
_BUSY = (ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.CON_COUNT_ERROR, ER.SERVER_SHUTDOWN)
_RIGHTS = (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR)
CODES = ErrorCodes(
    numbers=dict.fromkeys((*_LOST, *_BUSY), Category.TRANSIENT) | dict.fromkeys(_RIGHTS, Category.AUTHORIZATION)
)
failing = partial(sql.failing, pymysql, CODES)


def place(connection: Secret | None) -> Server:
    """Raises ConfigError."""
    todo = "write mariadb://user:password@host:3306/database, with ?ca=FILE or ?tls=off where needed"
    return server(connection, ("mariadb", "mysql"), 3306, ("tls", "ca"), todo)


def tls(where: Server) -> dict[str, Any]:
    """With a verified name, unless the URL says ``?tls=off``; ``?ca=FILE`` is the authority."""
    if where.options.get("tls") == "off":
        return {"ssl_disabled": True}
    return {"ssl_verify_cert": True, "ssl_verify_identity": True, "ssl_ca": where.options.get("ca")}


def connect(where: Server, kind: type[DponeError], conv: Any) -> pymysql.connections.Connection[Any]:
    """Errors are of ``kind``. UPDATE answers the rows it found, as other servers do, not those it changed."""
    with failing(kind, f"connect to {where.host}:{where.port}"):
        return pymysql.connect(
            host=where.host, port=where.port, user=where.user, password=where.password.reveal(),
            database=where.database, charset="utf8mb4", init_command=_SESSION, client_flag=CLIENT.FOUND_ROWS,
            autocommit=True, conv=conv, connect_timeout=10, read_timeout=_ANSWER, write_timeout=_ANSWER, **tls(where),
        )  # fmt: skip
