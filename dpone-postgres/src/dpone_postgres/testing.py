"""How the conformance kit reaches PostgreSQL without the connector: plain psycopg, over one schema for each case of the
database that DPONE_TEST_POSTGRES_URL names. Needs the extra ``testing``; the connector itself never imports this."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
from attrs import evolve

from dpone.capability import Role
from dpone.certify.evidence import Durability
from dpone.model.pipeline import SourceSpec
from dpone.model.schema import NATIVE
from dpone.model.secret import Secret
from dpone.testing import SqlHarness
from dpone.testing.harness import IN_MEMORY, file_system, server, unused
from dpone.testing.rows import Rows
from dpone.testing.unreachable import silent
from dpone_postgres.embedded import binaries, running


class _Tables(SqlHarness):
    """One schema, which ``close`` drops."""

    connector = "postgres"
    product = "PostgreSQL"
    live = True
    mark = "%s"
    types: Mapping[pa.DataType, str] = {**SqlHarness.types, pa.binary(): "bytea"}
    making = " WITH (fillfactor = 10)"  # so that the few rows of a case lie on several pages
    missing = psycopg.errors.UndefinedTable
    locking = "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", "lock_timeout"
    schema: str
    variable = "DPONE_TEST_POSTGRES_URL"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url, self.schema = server(self.variable, "postgres://..."), unused()
        self.version = self.run("SHOW server_version")[0][0].split()[0]
        self.run(f"CREATE SCHEMA {self.schema}")

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, options="-c timezone=UTC")

    def natives(self) -> Sequence[tuple[str, str, Any]]:
        return (
            ("smallint", "-32768", -(2**15)), ("integer", "-2147483648", -(2**31)), ("real", "0.5", 0.5),
            ("numeric(4,2)", "-1.50", Decimal("-1.50")), ("varchar(3)", "'abc'", "abc"),
            ("bytea", r"'\x00ff'", b"\x00\xff"), ("boolean", "false", False), ("date", "'0001-01-01'", date(1, 1, 1)),
            ("timestamp(6)", "'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),
            ("uuid", "'00000000-0000-0000-0000-0000000000ff'", UUID(int=255)),
        )  # fmt: skip

    def durability(self) -> Durability:
        """Of the server, as a session of this user has them."""
        settings = self.settings("SHOW {}", "fsync", "full_page_writes", "synchronous_commit")
        return Durability("off" not in settings.values(), settings)

    @classmethod
    def stand_in(cls, folder: Path) -> AbstractContextManager[str] | None:
        """In memory it cannot keep what it has confirmed, and does not say that it would."""
        folder.mkdir(parents=True, exist_ok=True)
        return running(folder, synced=file_system(folder) not in IN_MEMORY) if binaries() else None

    def native(self, rows: pa.Table) -> tuple[Rows, pa.Table]:
        """Binary COPY of a table that this client has made."""
        self.seed(rows, "native")
        kinds = [{NATIVE: self.types[f.type].encode(), b"dpone.postgres": b"yes"} for f in rows.schema]
        rows = rows.cast(pa.schema([f.with_metadata(kind) for f, kind in zip(rows.schema, kinds, strict=True)]))
        with self.cursor() as cursor, cursor.copy(f"COPY {self.at('native')} TO STDOUT (FORMAT binary)") as copy:
            return Rows(rows, native=("postgres-binary-copy",), copied=b"".join(copy)), rows

    def shut(self) -> tuple[str, str]:
        """The schema of the state has another name."""
        aside = f"{self.schema}_aside"
        return f"ALTER SCHEMA {self.schema} RENAME TO {aside}", f"ALTER SCHEMA {aside} RENAME TO {self.schema}"

    def close(self) -> None:
        tables = self.run(f"SELECT tablename FROM pg_tables WHERE schemaname = '{self.schema}'")
        with psycopg.connect(self.url, autocommit=True) as db:  # one transaction could not lock so many tables
            for (table,) in tables:
                db.execute(f"DROP TABLE IF EXISTS {self.at(table)} CASCADE")
            db.execute(f"DROP SCHEMA {self.schema} CASCADE")


class PostgresHarness(_Tables):
    """With a change stream of one table. Slot and publication are there, as a DBA makes them, and a first run begins
    with a snapshot."""

    def change_stream(self) -> SourceSpec:
        self.make_streamed()
        if not self.run(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{self.schema}'"):
            self.run(f"CREATE PUBLICATION {self.schema} FOR TABLE {self.at('orders')}, {self.at('lines')}")
            self.run(f"SELECT pg_create_logical_replication_slot('{self.schema}', 'pgoutput')")
        return self._streamed("orders", "snapshot")

    def _streamed(self, table: str, initial: str) -> SourceSpec:
        options = self.options("source", slot=self.schema, publication=self.schema, initial=initial)
        return SourceSpec("postgres", self.connection, self.name(table), options=options)

    def add_text(self, cursor: Any, table: str, name: str) -> None:
        """Neither compressed nor kept in the row once it is long: an update that leaves it alone does not log it."""
        super().add_text(cursor, table, name)
        cursor.execute(f"ALTER TABLE {self.at(table)} ALTER {self.quoted(name)} SET STORAGE EXTERNAL")

    def lose(self) -> None:
        """Moves the slot past everything, as another reader would."""
        self._wait_until_free()
        self.run(f"SELECT pg_replication_slot_advance('{self.schema}', pg_current_wal_flush_lsn())")

    def close(self) -> None:
        self._wait_until_free()
        slots = f"FROM pg_replication_slots WHERE slot_name = '{self.schema}'"
        self.run(f"SELECT pg_drop_replication_slot(slot_name) {slots}")
        self.run(f"DROP PUBLICATION IF EXISTS {self.schema}")
        super().close()

    def _wait_until_free(self) -> None:
        """The server releases a slot a moment after its reader has disconnected."""
        active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{self.schema}' AND active"
        end = time.monotonic() + 60
        while self.run(active):
            assert time.monotonic() < end, f"slot {self.schema} is still in use"
            time.sleep(0.02)


class PostgresLogicalHarness(PostgresHarness):
    """A stream of both tables, which the reader makes itself, without a snapshot."""

    connector = "postgres_logical"
    initial = "none"

    def change_stream(self) -> SourceSpec:
        self.make_streamed()
        return self._streamed("*", self.initial)

    @contextmanager
    def stuck(self, role: Role, seconds: float) -> Iterator[Any]:
        """No lock can block a reader of a slot, so the server is silent."""
        limit = max(2, int(seconds))  # psycopg waits for no less
        with silent() as port:
            url = f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable&connect_timeout={limit}"
            yield evolve(self.change_stream(), connection=Secret(url))

    def options(self, role: Any, **given: Any) -> Any:
        return super().options("cdc" if role == "source" else role, **given)
