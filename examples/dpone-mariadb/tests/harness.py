"""How the kit reaches MariaDB without the connector: PyMySQL, on connections of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions

from dpone.evidence import Durability
from dpone.pipeline import Incremental, SinkSpec, SourceSpec, StateSpec
from dpone.schema import Name
from dpone.secret import Secret
from dpone.strategy import Strategy
from dpone.testing import CannotHold, Harness
from dpone.testing.rows import inferred

_TYPES = {
    pa.bool_(): "bit(1)", pa.int64(): "bigint", pa.float64(): "double", pa.binary(): "longblob",
    pa.string(): "longtext COLLATE utf8mb4_nopad_bin",
}  # fmt: skip


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


class MariadbHarness(Harness):
    """One database of a server on the loopback."""

    connector = "mariadb"
    product = "MariaDB"
    live = True
    cannot_hold = (
        CannotHold(pa.float64(), math.inf, "a DOUBLE of MariaDB has no infinities", every=math.isinf),
        CannotHold(pa.float64(), math.nan, "a DOUBLE of MariaDB has no NaN"),
        CannotHold("name", "🦆", "a name in MariaDB has no character beyond U+FFFF", lambda name: max(name) > "\uffff"),
    )

    def __init__(self, folder: Path, port: int, database: str) -> None:
        self.folder, self._port, self._database = folder, port, database
        self.run(f"CREATE DATABASE {database}", database=None)
        [(self.version,)] = self.run("SELECT version()")

    def durability(self) -> Durability:
        """With a binary log, a commit that is not in it after a crash is rolled back."""
        names = ("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "log_bin", "sync_binlog")
        settings = {name: str(self.run(f"SELECT @@{name}")[0][0]) for name in names}
        flushed = settings["innodb_flush_log_at_trx_commit"] == "1" and settings["innodb_doublewrite"] in ("1", "ON")
        return Durability(flushed and (settings["log_bin"] == "0" or settings["sync_binlog"] == "1"), settings)

    @property
    def _connection(self) -> Secret:
        return Secret(f"mariadb://root@127.0.0.1:{self._port}/{self._database}?tls=off")

    def source(
        self, table: str = "orders", *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        name, options = None if query else Name((table,)), self.options("source", incremental=incremental)
        return SourceSpec("mariadb", self._connection, name, query=query, options=options)

    def seed(self, rows: pa.Table, table: str = "orders") -> None:
        columns = ", ".join(f"{_quoted(f.name)} {_TYPES[f.type]}" for f in rows.schema)
        self.run(f"CREATE TABLE IF NOT EXISTS {_quoted(table)} ({columns})")
        with closing(self._open()) as db, db.cursor() as cursor:
            holes = ", ".join(["%s"] * rows.num_columns)
            values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
            cursor.executemany(f"INSERT INTO {_quoted(table).replace('%', '%%')} VALUES ({holes})", values)

    def disturb(self, table: str = "orders") -> None:
        self.run(f"UPDATE {_quoted(table)} SET name = 'disturbed' ORDER BY id LIMIT 1")

    def query(self, table: str = "orders") -> str:
        return f"SELECT * FROM {_quoted(table)} -- all of it"

    def sink(self, strategy: Strategy, table: str = "orders", **options: Any) -> SinkSpec:
        return SinkSpec("mariadb", strategy, self._connection, Name((table,)), options=self.options("sink", **options))

    def rows(self, table: str = "orders") -> pa.Table | None:
        with closing(self._open()) as db, db.cursor() as cursor:
            try:
                cursor.execute(f"SELECT * FROM {_quoted(table)}")
            except pymysql.ProgrammingError:
                return None
            names, found = [column[0] for column in cursor.description], cursor.fetchall()
        return pa.table({name: inferred([row[i] for row in found]) for i, name in enumerate(names)})

    def empty(self, table: str = "orders") -> bool:
        self.run(f"DELETE FROM {_quoted(table)}")
        return True

    def refer(self, table: str = "orders") -> bool:
        self.run("CREATE TABLE referring (id bigint, FOREIGN KEY (id) REFERENCES "
                  f"{_quoted(table)} (id) ON DELETE CASCADE)")  # fmt: skip
        self.run("INSERT INTO referring VALUES (1)")
        return True

    def state(self) -> StateSpec:
        """Under a user of its own, which ``away`` locks out."""
        self.run(f"CREATE USER IF NOT EXISTS {self._database}")
        self.run(f"GRANT ALL ON {self._database}.* TO {self._database}")
        address = self._connection.reveal().replace("root@", f"{self._database}@")
        return StateSpec("mariadb", Secret(address), options=self.options("state"))

    @contextmanager
    def away(self) -> Iterator[None]:
        self.run(f"ALTER USER {self._database} ACCOUNT LOCK")
        try:
            yield
        finally:
            self.run(f"ALTER USER {self._database} ACCOUNT UNLOCK")

    def damage(self, role: str, text: str, table: str = "orders") -> None:
        self.run(f"UPDATE __dpone__state SET value = '{text}'")

    def _open(self, database: str | None = "") -> pymysql.connections.Connection[Any]:
        return pymysql.connect(
            host="127.0.0.1", port=self._port, user="root", database=self._database if database == "" else database,
            charset="utf8mb4", autocommit=True, conv={**conversions, FIELD_TYPE.BIT: lambda bits: bits == b"\x01"},
        )  # fmt: skip

    def run(self, sql: str, database: str | None = "") -> Any:
        with closing(self._open(database)) as db, db.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
