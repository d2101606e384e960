"""A schema of a PostgreSQL as target: loads go in through the sink's contract, rows come back through plain psycopg."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from attrs import evolve as replace
from attrs import frozen
from tests.postgres.server import Server
from tests.sqlite.target import KEY, START, at, evolve, load, rows

from dpone.contract import Part, Receipt, WindowRequest
from dpone.model.pipeline import SinkSpec, SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone_postgres.config import PostgresSinkOptions, PostgresSourceOptions
from dpone_postgres.sink import PostgresSink
from dpone_postgres.source import PostgresSource


@frozen
class Target:
    """One table of one schema."""

    server: Server
    schema: str
    table: str = "orders"
    path: Path = Path("/")

    @property
    def name(self) -> str:
        return f'"{self.schema}"."{self.table}"'

    def sink(self, strategy: Strategy, url: str = "", **options: Any) -> PostgresSink:
        name, connection = Name((self.schema, self.table)), Secret(url or self.server.url)
        return PostgresSink(SinkSpec("postgres", strategy, connection, name, options=PostgresSinkOptions(**options)))

    def source(self, url: str = "", query: str | None = None, **options: Any) -> PostgresSource:
        name = None if query else Name((self.schema, self.table))
        given = PostgresSourceOptions(**options)
        return PostgresSource(SourceSpec("postgres", Secret(url or self.server.url), name, query=query, options=given))

    def read(self, after: Position | None = None, query: str | None = None, **options: Any) -> pa.Table:
        """What a whole read gives."""
        with closing(self.source(query=query, **options)) as source:
            window = source.window(after, WindowRequest(whole=after is None))
            return read(source, window)

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
        with closing(self.sink(strategy, **options)) as sink:
            evolve(sink, table.schema, strategy)  # type: ignore[arg-type]
            writer = sink.open(load(table.schema, strategy, load_id=load_id, started_at=started, whole=whole, parts=1))
            try:
                writer.stage(Part("all"), replace(rows(table), filtered=filtered))
                return writer.commit(sink.journal(KEY), at(n))
            except BaseException:
                writer.abort()
                raise

    def connect(self) -> psycopg.Connection[Any]:
        return self.server.connect(options=f"-csearch_path={self.schema},public")

    def query(self, sql: str, *given: Any) -> list[tuple[Any, ...]]:
        with self.connect() as db:
            return db.execute(sql, given or None).fetchall()  # type: ignore[call-overload,no-any-return]

    def run(self, *statements: str) -> None:
        with self.connect() as db:
            for statement in statements:
                db.execute(statement)  # type: ignore[call-overload]

    def rows(self, columns: str = "*", order: str = "ctid") -> list[tuple[Any, ...]]:
        table = self.table.replace('"', '""')
        return self.query(f'SELECT {columns} FROM "{table}" ORDER BY {order}')

    def tables(self) -> set[str]:
        sql = "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')"
        return {name for (name,) in self.query(sql, self.schema)}

    def stages(self) -> set[str]:
        return {name for name in self.tables() if name.startswith("__dpone__stage_")}

    def content(self) -> list[tuple[Any, ...]]:
        """All rows, each as the text of its values, which is exact; columns by name."""
        sql = "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
        names = [name for (name,) in self.query(f"{sql} AND NOT attisdropped ORDER BY attnum", f'"{self.table}"')]
        return sorted(self.rows(", ".join(f"{name}::text, pg_typeof({name})::text" for name in names)), key=repr)

    def identity(self, table: str) -> Any:
        """What stays the same when a table is renamed."""
        return self.query("SELECT %s::regclass::oid, pg_relation_filenode(%s)", f'"{table}"', f'"{table}"')

    def dump(self) -> list[str]:
        """All tables with their columns and all rows, as text."""
        found = []
        for name in sorted(self.tables()):
            sql = (
                "SELECT attname, atttypid::regtype::text, attnotnull FROM pg_attribute WHERE attnum > 0 "
                "AND NOT attisdropped AND attrelid = %s::regclass ORDER BY attnum"
            )
            columns = self.query(sql, f'"{name}"')
            found += [f"{name} {columns}", *(f"{name} {row}" for row in self.query(f'TABLE "{name}"'))]
        return found


def read(source: PostgresSource, window: Any) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    for part in window.parts:
        with source.read(part) as stream:
            batches += stream.batches()
    return pa.Table.from_batches(batches, window.schema)


def names(found: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [row[0] for row in found]
