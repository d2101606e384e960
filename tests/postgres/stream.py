"""A replication slot and its reader, as the tests of change streams use them; rows are made through plain psycopg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
from attrs import frozen
from tests.patience import until
from tests.postgres.server import Server

from dpone.contract import ChangeWindow
from dpone.model.pipeline import Incremental, SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone_postgres.cdc import PostgresLogicalReader
from dpone_postgres.config import PostgresSourceOptions


@frozen
class ChangeSource:
    """Tables of one schema, with a slot and a publication of the schema's name; windows come by ``transport``."""

    server: Server
    schema: str
    transport: str = "peek"

    @property
    def slot(self) -> str:
        return f"{self.schema}_slot"

    def run(self, *statements: str) -> None:
        with self.server.connect(options=f"-csearch_path={self.schema}") as db:
            for statement in statements:
                db.execute(statement)  # type: ignore[call-overload]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.server.connect(options=f"-csearch_path={self.schema}") as db:
            return db.execute(sql).fetchall()  # type: ignore[call-overload,no-any-return]

    def publish(self, *tables: str, more: str = "", options: str = "") -> None:
        """Publication and slot."""
        named = f"FOR TABLE {', '.join(tables)}{more}"
        self.run(f"CREATE PUBLICATION {self.schema} {named} {options}")
        self.make_slot()

    def make_slot(self, plugin: str = "pgoutput") -> None:
        self.run(f"SELECT pg_create_logical_replication_slot('{self.slot}', '{plugin}')")

    def drop_slot(self) -> None:
        """A server that is busy notices a moment later that the connection which read from the slot is closed."""
        sql = f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{self.slot}'"

        def dropped() -> bool:
            with suppress(psycopg.errors.ObjectInUse):
                self.run(sql)
                return True
            return False

        until(dropped, f"slot {self.slot} is still in use")

    def confirmed(self) -> str:
        sql = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        [(lsn,)] = self.query(sql)
        return str(lsn)

    @contextmanager
    def reader(self, table: str = "*", url: str = "", **options: Any) -> Iterator[PostgresLogicalReader]:
        given = {
            "slot": self.slot,
            "publication": self.schema,
            "initial": "none",
            "transport": self.transport,
            **options,
        }
        spec = SourceSpec(
            "postgres", Secret(url or self.server.url), Name((self.schema, table)),
            options=PostgresSourceOptions(incremental=Incremental(by="cdc"), **given),
        )  # fmt: skip
        with closing(PostgresLogicalReader(spec)) as reader:
            yield reader

    def read(
        self, after: Position | None = None, limit: int | None = None, table: str = "*", **options: Any
    ) -> tuple[ChangeWindow, dict[str, list[dict[str, Any]]]]:
        """A window, and its changes by table."""
        with self.reader(table, **options) as reader:
            window = reader.window(after, limit)
            return window, changes(reader, window)

    def ack(self, position: Position) -> None:
        with self.reader() as reader:
            reader.ack(position)


def changes(reader: PostgresLogicalReader, window: ChangeWindow) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for table in window.tables:
        with reader.read(table) as stream:
            rows: list[dict[str, Any]] = []
            for batch in stream.batches():
                batch.validate(full=True)
                assert batch.schema.equals(stream.schema)
                rows += batch.to_pylist()
        found[table.rpartition(".")[2]] = rows
    return found


def told(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    """Operation, key and columns of each change."""
    return [(r["__dpone__op"], r["__dpone__key"], *(r[c] for c in columns)) for r in rows]


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["__dpone__event_id"] for row in rows]


def then_once(patch: Any, owner: Any, name: str, then: Callable[[], object]) -> None:
    """``then`` happens once, between the next call of ``owner.name`` and its return. Undoes what ``patch`` did."""
    real = getattr(owner, name)

    def late(*given: Any) -> Any:
        found = real(*given)
        patch.undo()
        then()
        return found

    patch.setattr(owner, name, late)
