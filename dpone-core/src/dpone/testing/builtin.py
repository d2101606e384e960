"""Harnesses of the built-in connectors: what a third party's routes run against, and an example of a Harness."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dpone.pipeline import Incremental, SinkSpec, SourceSpec, StateSpec
from dpone.schema import Name
from dpone.secret import Secret
from dpone.strategy import Strategy
from dpone.testing.harness import TABLE, Change, Harness

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

    @contextmanager
    def late(self, rows: pa.Table, table: str = TABLE) -> Iterator[None]:
        with closing(sqlite3.connect(self.path)) as db, db:
            values = zip(*(column.to_pylist() for column in rows.columns), strict=True)
            db.executemany(f"INSERT INTO {_quoted(table)} VALUES ({', '.join('?' * rows.num_columns)})", values)
            yield

    def disturb(self, table: str = TABLE) -> None:
        self._run(f"UPDATE {_quoted(table)} SET name = 'disturbed' WHERE rowid = 1")

    def query(self, table: str = TABLE) -> str:
        return f"SELECT * FROM {_quoted(table)} -- all of it"

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

    def empty(self, table: str = TABLE) -> bool:
        self._run(f"DELETE FROM {_quoted(table)}")
        return True

    def refer(self, table: str = TABLE) -> bool:
        self._run(f"CREATE TABLE referring (id REFERENCES {_quoted(table)} (id) ON DELETE CASCADE)")
        self._run("INSERT INTO referring VALUES (1)")
        return True

    def state(self) -> StateSpec:
        return StateSpec("sqlite", Secret(f"sqlite:///{self.folder / 'state.db'}"), options=self.options("state"))

    def away(self) -> AbstractContextManager[None]:
        return _away(self.folder / "state.db", instead=Path.mkdir)

    def _run(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute(sql)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _away(path: Path, instead: Callable[[Path], None]) -> Iterator[None]:
    """Moved aside, with something in its place that cannot be used as it."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    instead(path)
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        aside.rename(path)


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

    def empty(self, table: str = TABLE) -> bool:
        for part in (self.folder / f"out_{table}").glob("part-*"):
            part.unlink()
        return True

    def state(self) -> StateSpec:
        return StateSpec("file", path="state", options=self.options("state"), base=self.folder)

    def away(self) -> AbstractContextManager[None]:
        return _away(self.folder / "state", instead=Path.touch)

    def change_stream(self) -> SourceSpec:
        return self._log.change_stream()

    def change(self, changes: Sequence[Change]) -> None:
        self._log.change(changes)

    @cached_property
    def _log(self) -> ChangeLogHarness:
        return ChangeLogHarness(self.folder)


class ChangeLogHarness(Harness):
    """A change log in JSON Lines, written line by line: no system behind it, only a file."""

    connector = "file_changelog"
    product = FileHarness.product
    version = FileHarness.version
    live = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "changes.jsonl"
        self.path.touch()
        self._columns: dict[str, set[str]] = {}
        self._commits = 0

    def change_stream(self) -> SourceSpec:
        return SourceSpec("file", path=self.path.name, options=self.options("cdc"), base=self.folder)

    def change(self, changes: Sequence[Change]) -> None:
        self._commits += 1
        commit = f"{self._commits:06d}"
        lines = [{**self._line(change), "commit": commit} for change in changes]
        with self.path.open("a", encoding="utf-8") as log:
            log.writelines(json.dumps(line) + "\n" for line in [*lines, {"op": "commit", "commit": commit}])

    def _line(self, change: Change) -> dict[str, Any]:
        line: dict[str, Any] = {"table": change.table, "op": change.operation}
        if change.key is not None:
            line["key"] = {"id": change.key}
        if change.operation in ("insert", "update"):
            known = self._columns.setdefault(change.table, {"id", "name"})
            known |= set(change.row)
            line["values"] = {"id": change.key, **change.row}
            line.setdefault("key", {"id": line["values"]["id"]})
            if change.operation == "update":
                line["unchanged"] = sorted(known - set(line["values"]))
        return line

    def lose(self) -> None:
        with self.path.open("r+b") as log:
            log.truncate(1)
