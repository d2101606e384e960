"""From ``mariadb://user:password@host:3306/database`` to a connection."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
from attrs import frozen
from pymysql.constants import CLIENT

from dpone.errors import ConfigError, DponeError
from dpone.secret import Secret
from dpone_mariadb.errors import failing

# Strict: a value that does not fit is an error, not a warning. SIMULTANEOUS_ASSIGNMENT: SET takes every value from the
# row as it was, as standard SQL does. Waits have limits: for a row, for a table (by default a day), a statement.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO,PIPES_AS_CONCAT,SIMULTANEOUS_ASSIGNMENT', time_zone = '+00:00', "
    "innodb_lock_wait_timeout = 50, lock_wait_timeout = 50, tx_isolation = 'READ-COMMITTED'"
)
_ANSWER = 3600  # seconds that one statement may take to answer


@frozen
class Place:
    host: str
    port: int
    user: str
    password: Secret
    database: str
    tls: dict[str, Any]

    @property
    def stable(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"


def place(connection: Secret | None) -> Place:
    """TLS with a verified name, unless the URL says ``?tls=off``; ``?ca=FILE`` is the authority. Raises ConfigError."""
    url = urlsplit(connection.reveal() if connection else "")
    query, database = parse_qs(url.query), url.path.removeprefix("/")
    if url.scheme not in ("mariadb", "mysql") or not url.hostname or not database or {*query} - {"tls", "ca"}:
        todo = "write mariadb://user:password@host:3306/database, with ?ca=FILE or ?tls=off where needed"
        raise ConfigError("read connection", "it does not name a MariaDB database", todo)
    tls: dict[str, Any] = {"ssl_disabled": True}
    if query.get("tls") != ["off"]:
        tls = {"ssl_verify_cert": True, "ssl_verify_identity": True, "ssl_ca": query.get("ca", [None])[0]}
    password = Secret(unquote(url.password or ""))
    return Place(url.hostname, url.port or 3306, unquote(url.username or ""), password, unquote(database), tls)


def connect(where: Place, kind: type[DponeError], conv: Any) -> pymysql.connections.Connection[Any]:
    """Errors are of ``kind``. UPDATE answers the rows it found, as other servers do, not those it changed."""
    with failing(kind, f"connect to {where.host}:{where.port}"):
        return pymysql.connect(
            host=where.host, port=where.port, user=where.user, password=where.password.reveal(),
            database=where.database, charset="utf8mb4", init_command=_SESSION, client_flag=CLIENT.FOUND_ROWS,
            autocommit=True, conv=conv, connect_timeout=10, read_timeout=_ANSWER, write_timeout=_ANSWER, **where.tls,
        )  # fmt: skip
