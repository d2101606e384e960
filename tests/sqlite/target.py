"""A SQLite file as target: loads go in through the sink's contract, rows come back through plain sqlite3."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import evolve as replace
from attrs import frozen

from dpone.connectors.sqlite.config import SqliteSinkOptions
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.contract import BatchStream, Load, Part, Receipt
from dpone.model import evolution
from dpone.model.ids import ulid
from dpone.model.pipeline import SinkSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE, VALIDITY, Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy

# Hundreds of small databases: nothing to keep on disk.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  (only as the folder of temporary folders)
KEY = "pipeline|stream|source|target"
START = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


@frozen
class Rows(BatchStream):
    """``contract.Stream`` over batches; ``between`` is called before each batch."""

    schema: pa.Schema
    data: Iterable[pa.RecordBatch]
    between: Callable[[int], None] = lambda n: None
    native: tuple[str, ...] = ()
    filtered: int = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        for n, batch in enumerate(self.data):
            self.between(n)
            yield batch


def rows(table: pa.Table, between: Callable[[int], None] = lambda n: None, size: int = 3) -> Rows:
    return Rows(table.schema, table.to_batches(max_chunksize=size), between)


def at(n: int = 0, epoch: int = 0) -> Position:
    return Position("test", {"of": "test"}, {"n": n}, epoch)


@frozen
class Target:
    """One table of one file."""

    path: Path
    table: str = "orders"

    def sink(self, strategy: Strategy, **options: Any) -> SqliteSink:
        connection = Secret(f"sqlite:///{self.path}")
        return SqliteSink(
            SinkSpec("sqlite", strategy, connection, Name((self.table,)), options=SqliteSinkOptions(**options))
        )

    def load(
        self,
        table: pa.Table,
        strategy: Strategy,
        *,
        load_id: str = "",
        n: int = 0,
        started: datetime = START,
        whole: bool = True,
        filtered: int = 0,
        **options: Any,
    ) -> Receipt:
        """One load as the engine does it: evolve, open, stage, commit."""
        sink = self.sink(strategy, **options)
        with closing(sink):
            evolve(sink, table.schema, strategy)
            writer = sink.open(load(table.schema, strategy, load_id=load_id, started_at=started, whole=whole))
            try:
                writer.stage(Part("all"), replace(rows(table), filtered=filtered))
                return writer.commit(sink.journal(KEY), at(n))
            except BaseException:
                writer.abort()
                raise

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(sql, parameters).fetchall()

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)

    def rows(self, columns: str = "*", order: str = "rowid") -> list[tuple[Any, ...]]:
        return self.query(f'SELECT {columns} FROM "{self.table}" ORDER BY {order}')

    def tables(self) -> set[str]:
        return {name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def stages(self) -> set[str]:
        return {name for name in self.tables() if name.startswith("__dpone__stage_")}

    def content(self) -> list[tuple[Any, ...]]:
        """All rows with lineage and the storage class of each value, in an order of their own."""
        names = [name.replace('"', '""') for (name,) in self.query("SELECT name FROM pragma_table_info(?)", self.table)]
        return sorted(self.rows(", ".join(f'"{n}", typeof("{n}")' for n in names)), key=repr)

    def identity(self, table: str) -> Any:
        """What stays the same when a table is renamed."""
        return self.query("SELECT rootpage FROM sqlite_master WHERE name = ?", table)

    def dump(self) -> list[str]:
        """All tables with all rows, as text."""
        with closing(sqlite3.connect(self.path)) as db:
            return list(db.iterdump())


def load(schema: pa.Schema | None, strategy: Strategy, *, load_id: str = "", **changes: Any) -> Load:
    given: Mapping[str, Any] = {"token": "token", "repeatable": False, "whole": not changes.get("changes"), "key": KEY}
    given = {**given, "started_at": START, **changes}
    return Load(load_id=load_id or ulid(), run_id=ulid(), schema=schema, strategy=strategy, **given)


def evolve(sink: SqliteSink, schema: pa.Schema, strategy: Strategy) -> None:
    have = sink.schema()
    own = (*LINEAGE, *VALIDITY) if strategy.mode == "scd2" else LINEAGE
    bare = None if have is None else pa.schema([f for f in have if f.name not in own])
    plan = evolution.plan(bare, schema, sink._spec.options.schema_evolution, sink.stores, strategy.key)
    plan.require_safe("target")
    if statements := sink.ddl(plan.changes):
        sink.apply(statements)
