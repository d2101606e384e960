"""How the kit reaches DuckDB without the connector: duckdb's own client, on a connection of its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from dpone.pipeline import Incremental, SinkSpec, SourceSpec
from dpone.schema import Name
from dpone.secret import Secret
from dpone.strategy import Strategy
from dpone.testing import Harness


class DuckdbHarness(Harness):
    """One database file. Only this process can have it open, so every call opens it and closes it again."""

    connector = "duckdb"
    product = "DuckDB"
    version = duckdb.__version__
    live = True

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.path = folder, folder / "kit.duckdb"
        self._run("SELECT 1")

    @property
    def _connection(self) -> Secret:
        return Secret(f"duckdb:///{self.path}")

    def source(
        self, table: str = "orders", *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        name, options = None if query else Name((table,)), self.options("source", incremental=incremental)
        return SourceSpec("duckdb", self._connection, name, query=query, options=options)

    def seed(self, rows: pa.Table, table: str = "orders") -> None:
        with closing(duckdb.connect(self.path)) as db:
            db.register("seeded", rows)
            db.execute(f'CREATE TABLE IF NOT EXISTS "{table}" AS FROM seeded LIMIT 0')
            db.execute(f'INSERT INTO "{table}" FROM seeded')

    def disturb(self, table: str = "orders") -> None:
        self._run(f"UPDATE \"{table}\" SET name = 'disturbed' WHERE rowid = 0")

    def query(self, table: str = "orders") -> str:
        return f'SELECT * FROM "{table}" -- all of it'

    def sink(self, strategy: Strategy, table: str = "orders", **options: Any) -> SinkSpec:
        return SinkSpec("duckdb", strategy, self._connection, Name((table,)), options=self.options("sink", **options))

    def rows(self, table: str = "orders") -> pa.Table | None:
        with closing(duckdb.connect(self.path)) as db:
            try:
                return db.sql(f'FROM "{table}"').to_arrow_table()
            except duckdb.CatalogException:
                return None

    def empty(self, table: str = "orders") -> bool:
        self._run(f'DELETE FROM "{table}"')
        return True

    def _run(self, sql: str) -> None:
        with closing(duckdb.connect(self.path)) as db:
            db.execute(sql)
