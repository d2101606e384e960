"""Harnesses of the built-in connectors: what a third party's routes run against, and an example of a Harness."""

from __future__ import annotations

import json
import platform
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dpone.pipeline import Incremental, SinkSpec, SourceSpec, StateSpec
from dpone.schema import Name
from dpone.secret import Secret
from dpone.strategy import Strategy
from dpone.testing.harness import TABLE, Harness

_DECLARED = {
    pa.bool_(): "BOOLEAN", pa.int64(): "INTEGER", pa.float64(): "REAL", pa.string(): "TEXT", pa.binary(): "BLOB",
}  # fmt: skip


class SqliteHarness(Harness):
    """One database file, reached with the standard library's sqlite3."""

    connector = "sqlite"
    product = "SQLite"
    version = sqlite3.sqlite_version
    live = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "kit.db"
        self._run("PRAGMA journal_mode=wal")  # the kit writes to the source while the connector reads it

    @property
    def _connection(self) -> Secret:
        return Secret(f"sqlite:///{self.path}")

    def source(
        self, table: str = TABLE, *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        name = None if query else Name((table,))
        return SourceSpec(
            "sqlite", self._connection, name, query=query, options=self.options("source", incremental=incremental)
        )

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        columns = ", ".join(f"{_quoted(f.name)} {_DECLARED[f.type]}" for f in rows.schema)
        holes = ", ".join("?" * rows.num_columns)
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(f"CREATE TABLE IF NOT EXISTS {_quoted(table)} ({columns})")
            values = zip(*(column.to_pylist() for column in rows.columns), strict=True)
            db.executemany(f"INSERT INTO {_quoted(table)} VALUES ({holes})", values)

    def disturb(self, table: str = TABLE) -> None:
        self._run(f"UPDATE {_quoted(table)} SET name = 'disturbed' WHERE rowid = 1")

    def query(self, table: str = TABLE) -> str:
        return f"SELECT * FROM {_quoted(table)}"

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        return SinkSpec("sqlite", strategy, self._connection, Name((table,)), options=self.options("sink", **options))

    def rows(self, table: str = TABLE) -> pa.Table | None:
        with closing(sqlite3.connect(self.path)) as db:
            try:
                cursor = db.execute(f"SELECT * FROM {_quoted(table)}")
            except sqlite3.OperationalError:
                return None
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})

    def state(self) -> StateSpec:
        return StateSpec("sqlite", Secret(f"sqlite:///{self.folder / 'state.db'}"), options=self.options("state"))

    def _run(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute(sql)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class FileHarness(Harness):
    """Folders of Parquet files, written and read with pyarrow; the target is what the manifest lists."""

    connector = "file"
    product = "file system"
    version = platform.release()
    live = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(
        self, table: str = TABLE, *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        options = self.options("source", incremental=incremental)
        path = None if query else f"{table}/*.parquet"
        return SourceSpec("file", query=query, path=path, options=options, base=self.folder)

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        folder = self.folder / table
        folder.mkdir(exist_ok=True)
        pq.write_table(rows, folder / f"{len(list(folder.iterdir())):03d}.parquet")

    def disturb(self, table: str = TABLE) -> None:
        path = self.folder / table / "000.parquet"
        found = pq.read_table(path)
        pq.write_table(found.slice(1), path)

    def query(self, table: str = TABLE) -> str:
        return f"SELECT * FROM {table}"

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        return SinkSpec(
            "file", strategy, path=f"out_{table}", options=self.options("sink", **options), base=self.folder
        )

    def rows(self, table: str = TABLE) -> pa.Table | None:
        folder = self.folder / f"out_{table}"
        manifest = folder / ".dpone" / "manifest.json"
        if not manifest.exists():
            return None
        said = json.loads(manifest.read_text())
        if said["schema"] is None:
            return None
        empty = pa.table({name: pa.array([], pa.null()) for name in said["schema"]["columns"]})
        tables = [pq.read_table(folder / file["name"]) for file in said["files"]]
        return pa.concat_tables([empty, *tables], promote_options="permissive")

    def state(self) -> StateSpec:
        return StateSpec("file", path="state", options=self.options("state"), base=self.folder)
