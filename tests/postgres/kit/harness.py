"""How the kit reaches PostgreSQL without the connector: plain psycopg, over one schema for each case."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from attrs import frozen
from psycopg import sql
from tests.postgres.server import Server

from dpone.pipeline import Incremental, SinkSpec, SourceSpec, StateSpec
from dpone.schema import NATIVE, Name
from dpone.secret import Secret
from dpone.strategy import Strategy
from dpone.testing import Change, Harness
from dpone.testing.rows import Rows

_DECLARED: dict[pa.DataType, LiteralString] = {
    pa.bool_(): "boolean", pa.int64(): "bigint", pa.float64(): "double precision", pa.string(): "text",
    pa.binary(): "bytea",
}  # fmt: skip


class PostgresHarness(Harness):
    """One schema of a database. Every statement is a transaction of its own, on one connection; ``close`` drops the
    schema, and the slot and publication of its name."""

    connector = "postgres"
    product = "PostgreSQL"
    live = True

    def __init__(self, server: Server, schema: str, folder: Path) -> None:
        self.folder, self.schema = folder, schema
        self._url = server.url
        self._db = server.connect(options="-c timezone=UTC")
        self.version = str(self._db.info.parameter_status("server_version")).split()[0]
        self._run("CREATE SCHEMA {}", schema)

    def close(self) -> None:
        self._wait_until_free()
        self._db.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [self.schema]
        )
        self._run("DROP PUBLICATION IF EXISTS {}", self.schema)
        for table in self._tables():  # one by one: a case makes more than one transaction can lock
            self._run("DROP TABLE IF EXISTS {} CASCADE", self._at(table))
        self._run("DROP SCHEMA {} CASCADE", self.schema)
        self._db.close()

    @property
    def _connection(self) -> Secret:
        return Secret(self._url)

    # ---- source

    def source(
        self, table: str = "orders", *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        name = None if query else Name((self.schema, table))
        options = self.options("source", incremental=incremental)
        return SourceSpec(self.connector, self._connection, name, query=query, options=options)

    def seed(self, rows: pa.Table, table: str = "orders") -> None:
        """A page holds a tenth of what it could, so that the few rows of a case lie on several."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(_DECLARED[f.type])) for f in rows.schema
        )
        self._run("CREATE TABLE IF NOT EXISTS {} ({}) WITH (fillfactor = 10)", self._at(table), columns)
        names = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(self._at(table), names)
        with self._db.cursor().copy(statement) as copy:
            for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                copy.write_row(row)

    @contextmanager
    def late(self, rows: pa.Table, table: str = "orders") -> Iterator[None]:
        statement = sql.SQL("INSERT INTO {} VALUES ({})").format(
            self._at(table), sql.SQL(", ").join([sql.Placeholder()] * rows.num_columns)
        )
        with psycopg.connect(self._url) as db:
            db.cursor().executemany(statement, list(zip(*(c.to_pylist() for c in rows.columns), strict=True)))
            yield

    def disturb(self, table: str = "orders") -> None:
        self._run("UPDATE {0} SET name = 'disturbed' WHERE id = (SELECT min(id) FROM {0})", self._at(table))

    def query(self, table: str = "orders") -> str:
        return f"SELECT * FROM {self._at(table).as_string()} -- all of it"

    # ---- sink

    def sink(self, strategy: Strategy, table: str = "orders", **options: Any) -> SinkSpec:
        name = Name((self.schema, table))
        return SinkSpec(self.connector, strategy, self._connection, name, options=self.options("sink", **options))

    def rows(self, table: str = "orders") -> pa.Table | None:
        if table not in self._tables():
            return None
        cursor = self._run("SELECT * FROM {}", self._at(table))
        found = cursor.fetchall()
        return pa.table({c.name: [row[i] for row in found] for i, c in enumerate(cursor.description or ())})

    def refer(self, table: str = "orders") -> bool:
        self._run(
            "CREATE TABLE {} (id bigint REFERENCES {} (id) ON DELETE CASCADE)", self._at("referring"), self._at(table)
        )
        self._run("INSERT INTO {} VALUES (1)", self._at("referring"))
        return True

    def empty(self, table: str = "orders") -> bool:
        self._run("TRUNCATE {}", self._at(table))
        return True

    def native(self, rows: pa.Table) -> tuple[Any, pa.Table]:
        """Binary COPY of a table that this client has made."""
        self.seed(rows, "native")
        fields = [f.with_metadata({NATIVE: _DECLARED[f.type].encode(), b"dpone.postgres": b"yes"}) for f in rows.schema]
        rows = rows.cast(pa.schema(fields))
        with self._db.cursor().copy(sql.SQL("COPY {} TO STDOUT (FORMAT binary)").format(self._at("native"))) as copy:
            return _Copied(rows, copied=b"".join(copy)), rows

    # ---- state

    def state(self) -> StateSpec:
        return StateSpec(self.connector, self._connection, options=self.options("state", schema=self.schema))

    @contextmanager
    def away(self) -> Iterator[None]:
        """The state's schema bears another name."""
        aside = f"{self.schema}_aside"
        self._run("ALTER SCHEMA {} RENAME TO {}", self.schema, aside)
        try:
            yield
        finally:
            self._run("ALTER SCHEMA {} RENAME TO {}", aside, self.schema)

    # ---- change streams

    def change_stream(self) -> SourceSpec:
        """One table; slot and publication are there, as a DBA makes them, and a first run begins with a snapshot."""
        self._make_tables()
        if self.schema not in self._slots():
            self._run("CREATE PUBLICATION {} FOR TABLE {}, {}", self.schema, self._at("orders"), self._at("lines"))
            self._db.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.schema])
        return self._streamed("orders", "snapshot")

    def _streamed(self, table: str, initial: str) -> SourceSpec:
        options = self.options("source", slot=self.schema, publication=self.schema, initial=initial)
        return SourceSpec("postgres", self._connection, Name((self.schema, table)), options=options)

    def change(self, changes: Sequence[Change]) -> None:
        self._make_tables()
        with self._db.transaction():
            for change in changes:
                self._change(change)

    def _make_tables(self) -> None:
        """Texts are neither compressed nor kept in the row once they are long."""
        for table in ("orders", "lines"):
            if table not in self._tables():
                self._run("CREATE TABLE {} (id bigint PRIMARY KEY, name text)", self._at(table))
                self._run("ALTER TABLE {} ALTER name SET STORAGE EXTERNAL", self._at(table))

    def _change(self, change: Change) -> None:
        table = self._at(change.table)
        for name in change.row:
            if name not in self._columns(change.table):
                self._run("ALTER TABLE {} ADD {} text", table, name)
                self._run("ALTER TABLE {} ALTER {} SET STORAGE EXTERNAL", table, name)
        names, values = [sql.Identifier(name) for name in change.row], list(change.row.values())
        if change.operation == "insert":
            holes = sql.SQL(", ").join([sql.Placeholder()] * len(names))
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(table, sql.SQL(", ").join(names), holes)
        elif change.operation == "update":
            sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(name) for name in names)
            statement, values = sql.SQL("UPDATE {} SET {} WHERE id = %s").format(table, sets), [*values, change.key]
        elif change.operation == "delete":
            statement, values = sql.SQL("DELETE FROM {} WHERE id = %s").format(table), [change.key]
        else:
            statement = sql.SQL("TRUNCATE {}").format(table)
        self._db.execute(statement, values or None)

    def lose(self) -> None:
        """The slot passes everything by: as if another reader had taken it."""
        self._wait_until_free()
        self._db.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [self.schema])

    def _wait_until_free(self) -> None:
        """The server lets go of a slot a moment after its reader has hung up."""
        query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
        for _ in range(250):
            if not self._db.execute(query, [self.schema]).fetchall():
                return
            time.sleep(0.02)

    # ---- the client

    def _at(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.schema, table)

    def _tables(self) -> list[str]:
        return self._names("SELECT tablename FROM pg_tables WHERE schemaname = %s", self.schema)

    def _columns(self, table: str) -> list[str]:
        query: LiteralString = (
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        )
        return self._names(query, self.schema, table)

    def _slots(self) -> list[str]:
        return self._names("SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s", self.schema)

    def _names(self, query: LiteralString, *given: str) -> list[str]:
        return [name for (name,) in self._db.execute(query, given)]

    def _run(self, statement: LiteralString, *names: str | sql.Composable) -> psycopg.Cursor[Any]:
        """Names are quoted."""
        parts = [sql.Identifier(name) if isinstance(name, str) else name for name in names]
        return self._db.execute(sql.SQL(statement).format(*parts))


class PostgresLogicalHarness(PostgresHarness):
    """A stream of both tables, which the reader makes itself, without a snapshot."""

    connector = "postgres_logical"
    initial = "none"

    def change_stream(self) -> SourceSpec:
        self._make_tables()
        return self._streamed("*", self.initial)

    def options(self, role: Any, **given: Any) -> Any:
        return super().options("cdc" if role == "source" else role, **given)


@frozen
class _Copied(Rows):
    """Rows as the bytes of a binary COPY, in blocks that end anywhere."""

    native: tuple[str, ...] = ("postgres-binary-copy",)
    copied: bytes = b""

    def open_native(self, format: str) -> Iterator[bytes]:
        assert format in self.native
        yield from (self.copied[at : at + 100] for at in range(0, len(self.copied), 100))
