"""Sink: one table of a SQLite file. Rows, journal and position become durable in one transaction."""

from __future__ import annotations

import os
import sqlite3

import pyarrow as pa

from dpone.connectors.sqlite.config import SqliteSinkOptions
from dpone.connectors.sqlite.connect import database_path
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.contract import Finding
from dpone.errors import DponeError, SchemaBreak, SinkError
from dpone.model.evolution import SchemaChange
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import DEFAULT
from dpone.sql.sink import SqlSink, target_of


class SqliteSink(SqlSink):
    """``contract.Sink``. While a load stages or commits, other processes can read only if the database is in WAL mode;
    otherwise they wait. The database's journal mode is left as it is."""

    _db: SqliteDatabase

    def __init__(self, spec: SinkSpec) -> None:
        target = target_of(spec, "sqlite_")
        options = spec.options if isinstance(spec.options, SqliteSinkOptions) else SqliteSinkOptions()
        path = database_path(spec.connection, spec.base)
        super().__init__(spec, target, SqliteDatabase(path, options.busy_timeout, options.nan == "null"))

    def check(self) -> list[Finding]:
        path = self._db.path
        findings = [Finding("sqlite library", True, sqlite3.sqlite_version)]
        try:
            kind = " exists" if self._exists() and self.schema() is not None else " will be created"
            if "{table}" in self._target.last:  # a stream of many tables, which are known when their changes come
                kind = ", for each table of the stream"
            findings.append(Finding("connection", True, str(path)))
            findings.append(Finding("target", True, f"{self._target}{kind}"))
        except DponeError as error:
            return [*findings, Finding("connection", False, error.found, error.todo)]
        writable = all(os.access(p, os.W_OK) for p in (path.parent, path) if p.exists())
        todo = "" if writable else f"grant write access to {path} and its folder"
        return [*findings, Finding("write access", writable, "yes" if writable else "no", todo)]

    def _exists(self) -> bool:
        """Looks at the file without creating it."""
        if not self._db.path.parent.is_dir():
            found = f"folder {self._db.path.parent} does not exist"
            raise SinkError(f"open {self._db.path}", found, "create it")
        return self._db.path.exists()

    def _statements(self, change: SchemaChange) -> list[str]:
        if change.kind == "widen" and change.before is not None:
            self._require_rebuildable(change.before)
        return super()._statements(change)

    def _require_rebuildable(self, column: pa.Field) -> None:
        """A column is widened by replacing it with a new one (``SqliteDialect.widen_column``). ALTER TABLE cannot add a
        column that is a key, NOT NULL or has a default, and these properties must not be lost."""
        if not column.nullable or DEFAULT in (column.metadata or {}):
            found = "SQLite cannot change the type of a column that is a key, is NOT NULL, or has a default"
            todo = "recreate the table with the wider column, or load into a new table; nothing was changed"
            raise SchemaBreak(f"widen column {column.name} of {self._target}", found, todo)

    def _apply(self, statement: str) -> None:
        try:
            super()._apply(statement)
        except SinkError as error:
            if getattr(error.__cause__, "sqlite_errorname", "") != "SQLITE_ERROR":
                raise
            # SQLite's message names the index, view, trigger or constraint that uses the column.
            todo = "drop the object in the way, run again, then recreate it; nothing was changed"
            if str(error.__cause__).endswith("already exists"):  # another run may have just loaded it
                todo = "run again: another program created it in the meantime; nothing was changed"
            raise SinkError(f"change the columns of {self._target}", str(error.__cause__), todo) from error.__cause__

    def for_table(self, spec: SinkSpec) -> SqliteSink:
        """``contract.SupportsManyTables``."""
        sink = type(self)(spec)
        sink._db = self._db
        return sink
