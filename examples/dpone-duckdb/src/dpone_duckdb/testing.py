"""How the conformance kit reaches DuckDB without the connector: duckdb's own client, on a connection of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from dpone.certify.evidence import Durability
from dpone.testing import SqlHarness
from dpone.testing.harness import synced

_ALONE = "a file of DuckDB that is open in one process cannot be opened by another, so that no other program writes it"


class DuckdbHarness(SqlHarness):
    """One database file. Only this process can have it open, so every call opens it and closes it again."""

    connector = "duckdb"
    product = "DuckDB"
    version = duckdb.__version__
    live = True
    missing = duckdb.CatalogException
    quirks: Mapping[str, str] = {
        "test_who_holds_a_table_loses_no_row_of_others": _ALONE,
        "test_a_table_that_others_write_is_not_taken_out": _ALONE,
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "kit.duckdb"
        self.url = f"duckdb:///{self.path}"
        self.run("SELECT 1")

    def durability(self) -> Durability:
        return synced(self.folder)  # a commit is synced, which no setting changes

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection: what DuckDB calls its cursor has transactions of its own."""
        with closing(duckdb.connect(self.path)) as db:
            db.begin()
            yield db
            db.commit()

    def rows(self, table: str = "orders") -> pa.Table | None:
        """As Arrow, which keeps nanoseconds."""
        if not self._is_there(table):
            return None
        with self.cursor() as db:
            return db.sql(f"FROM {self.at(table)}").to_arrow_table()

    def refer(self, table: str = "orders") -> bool:
        return False  # a foreign key of DuckDB cannot cascade
