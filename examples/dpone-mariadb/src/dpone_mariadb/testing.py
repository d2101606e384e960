"""How the kit reaches MariaDB without the connector: PyMySQL, over a database for each case of the server that
DPONE_TEST_MARIADB_URL names. Its user makes databases and users."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from dpone.certify.evidence import Durability
from dpone.testing import CannotHold, SqlHarness
from dpone.testing.harness import server, unused

_CONV = {**conversions, FIELD_TYPE.BIT: lambda bits: bits == b"\x01"}


class MariadbHarness(SqlHarness):
    """One database, and a user of its name that the connector logs in as; ``close`` drops both."""

    connector = "mariadb"
    product = "MariaDB"
    live = True
    mark = "%s"
    place: str | None = None
    types: Mapping[pa.DataType, str] = {
        pa.bool_(): "bit(1)", pa.int64(): "bigint", pa.float64(): "double", pa.binary(): "longblob",
        pa.string(): "longtext COLLATE utf8mb4_nopad_bin",
    }  # fmt: skip
    missing = pymysql.ProgrammingError
    cannot_hold = (
        CannotHold(pa.float64(), math.inf, "a DOUBLE of MariaDB has no infinities", every=math.isinf),
        CannotHold(pa.float64(), math.nan, "a DOUBLE of MariaDB has no NaN"),
        CannotHold("name", "🦆", "a name in MariaDB has no character beyond U+FFFF", lambda name: max(name) > "\uffff"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        at = urlsplit(server("DPONE_TEST_MARIADB_URL", "mariadb://root:PASSWORD@127.0.0.1:3306/mysql?tls=off"))
        host, port, place, password = at.hostname, at.port or 3306, unused(), secrets.token_hex(16)
        user = {"host": host, "port": port, "user": at.username, "password": unquote(at.password or "")}
        self._user: Mapping[str, Any] = user
        self.run(f"CREATE DATABASE {place}")
        self.run(f"GRANT ALL ON {place}.* TO {place} IDENTIFIED BY '{password}'")
        self.place, self.url = place, f"mariadb://{place}:{password}@{host}:{port}/{place}?{at.query}"
        [(self.version,)] = self.run("SELECT version()")

    def durability(self) -> Durability:
        """With a binary log, a commit that is not in it after a crash is rolled back."""
        names = ("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "log_bin", "sync_binlog")
        commit, twice, log, synced = (found := self.settings("SELECT @@{}", *names)).values()
        return Durability(commit == "1" and twice in ("1", "ON") and (log == "0" or synced == "1"), found)

    def connect(self) -> Any:
        limit = "SET lock_wait_timeout = 60"  # by default a day
        return pymysql.connect(**self._user, database=self.place, conv=_CONV, init_command=limit)

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def shut(self) -> tuple[str, str]:
        return f"ALTER USER {self.place} ACCOUNT LOCK", f"ALTER USER {self.place} ACCOUNT UNLOCK"

    def close(self) -> None:
        self.run(f"DROP USER {self.place}")
        self.run(f"DROP DATABASE {self.place}")  # last: every statement is of a connection to it
