"""Sink: one table of a SQLite file. Rows, journal and position become durable in one transaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

import pyarrow as pa

from dpone.connectors.sqlite.config import SqliteSinkOptions
from dpone.connectors.sqlite.connect import database_path, table_name
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.contract import Entry, Finding, Load, Receipt, UndoPlan
from dpone.errors import ConfigError, DponeError, SchemaBreak, SinkError
from dpone.evolution import Change, Stored
from dpone.pipeline import SinkSpec
from dpone.position import Position
from dpone.schema import DEFAULT, PREFIX
from dpone.sql import history
from dpone.sql.ddl import statements
from dpone.sql.dialect import Dialect
from dpone.sql.finalize import is_empty, require_columns
from dpone.sql.journal import Journal
from dpone.sql.restore import take_back, undo_plan
from dpone.sql.writer import SqlWriter, lacking_own, open_load, transaction, with_lineage


class SqliteSink:
    """``contract.Sink``. While a load stages or commits, other processes can read only if the database is in WAL mode;
    otherwise they wait. The database's journal mode is left as it is."""

    def __init__(self, spec: SinkSpec) -> None:
        if spec.table is None:
            raise ConfigError("read sink", "no table", "give table: name")
        options = spec.options if isinstance(spec.options, SqliteSinkOptions) else SqliteSinkOptions()
        self._spec, self._options = spec, spec.options
        self._target = table_name(spec.table)
        if self._target.last.startswith((PREFIX, "sqlite_")):
            raise ConfigError("read sink", f"table {self._target} has a reserved prefix", "name another table")
        path = database_path(spec.connection, spec.base)
        self._db = SqliteDatabase(path, options.busy_timeout, options.nan == "null")

    def check(self) -> list[Finding]:
        path = self._db.path
        findings = [Finding("sqlite library", True, sqlite3.sqlite_version)]
        try:
            kind = "exists" if self._exists() and self.schema() is not None else "will be created"
            findings.append(Finding("connection", True, str(path)))
            findings.append(Finding("target", True, f"{self._target} {kind}"))
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

    def schema(self) -> pa.Schema | None:
        return self._db.schema(self._target)

    def is_empty(self) -> bool:
        return self.schema() is None or is_empty(self._db, self._target)

    @property
    def dialect(self) -> Dialect:
        return self._db.dialect

    def stores(self, type: pa.DataType) -> Stored:
        return self._db.dialect.stores(type)

    def ddl(self, changes: Sequence[Change]) -> list[str]:
        if (have := self.schema()) is not None:
            history.require_own(self._spec.strategy, have, self._target)
        return [statement for change in changes for statement in self._statements(change)] + self._own(changes)

    def _own(self, changes: Sequence[Change]) -> list[str]:
        """Columns of dpone that are enabled and that an existing target lacks."""
        have = self.schema()
        if have is None or any(change.kind == "create" for change in changes):
            return []
        lacking = lacking_own(self._spec.strategy, have, self._options.lineage.enabled)
        return [self._db.dialect.add_column(self._target, f) for f in lacking]

    def _statements(self, change: Change) -> list[str]:
        d, strategy = self._db.dialect, self._spec.strategy
        if change.kind == "create" and change.schema is not None:
            require_columns(strategy, change.schema, self._target)
            # Only strict pipelines get NOT NULL columns: the others let a source become nullable.
            strict = self._options.schema_evolution.mode == "strict"
            schema = pa.schema([f if strict else f.with_nullable(True) for f in change.schema])
            schema, key = history.shape(strategy, schema)
            schema = with_lineage(schema) if self._options.lineage.enabled else schema
            return [d.create_table(self._target, schema, key)]
        if change.kind == "widen" and change.before is not None:
            self._require_rebuildable(change.before)
        return statements(d, self._target, change)

    def _require_rebuildable(self, column: pa.Field) -> None:
        """A column is widened by a new one in its place (``SqliteDialect.widen_column``), and ALTER TABLE makes none
        that is a key, NOT NULL or has a default: these must not get lost."""
        if not column.nullable or DEFAULT in (column.metadata or {}):
            found = "it is a key column, NOT NULL, or has a default, and SQLite cannot change the type of such a column"
            todo = "make the table anew with the wider column by hand, or load into a new table; nothing was changed"
            raise SchemaBreak(f"widen column {column.name} of {self._target}", found, todo)

    def apply(self, ddl: Sequence[str]) -> None:
        """In one transaction: all or nothing."""
        with transaction(self._db, str(self._target)):
            for statement in ddl:
                self._apply(statement)

    def _apply(self, statement: str) -> None:
        try:
            self._db.execute(statement)
        except SinkError as error:
            if getattr(error.__cause__, "sqlite_errorname", "") != "SQLITE_ERROR":
                raise
            # SQLite's text names the index, view, trigger or constraint that stands in the way.
            todo = "drop what stands in the way, run again, and make it anew; nothing was changed"
            if str(error.__cause__).endswith("already exists"):  # it may hold what another run has just loaded
                todo = "run again: another program has made it meanwhile; nothing was changed"
            raise SinkError(f"change the columns of {self._target}", str(error.__cause__), todo) from error.__cause__

    def journal(self, key: str) -> Entry | None:
        return Journal(self._db, self._target).head(key)

    def open(self, load: Load) -> SqlWriter:
        anew = load.strategy.mode == "full_refresh" or (load.whole and load.changes)
        if load.schema is not None and (anew or load.strategy.mode == "replace"):
            self._require_no_cascade(every_row=anew)
        return open_load(self._db, self._target, load, self._options.lineage.enabled, self._options.undo)

    def undo_plan(self, key: str, load_id: str) -> UndoPlan:
        plan = undo_plan(self._db, self._target, key, load_id)
        self._require_no_cascade(every_row=False)
        return plan

    def undo(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Receipt:
        self._require_no_cascade(every_row=False)
        return take_back(self._db, self._target, load, load_id, after, position)

    def beside(self, spec: SinkSpec) -> SqliteSink:
        """``contract.ManyTables``."""
        sink = type(self)(spec)
        sink._db = self._db
        return sink

    def close(self) -> None:
        self._db.close()

    def _require_no_cascade(self, every_row: bool) -> None:
        """To replace a row is to delete it for a moment, and rows that refer to it would go with it."""
        others = [n for n in self._db.cascades(self._target) if not every_row or n.lower() != self._target.last.lower()]
        if others and not self.is_empty():
            found = f"{', '.join(others)} refers to it with an ON DELETE action, which would change or delete rows"
            todo = "use strategy merge, or drop the ON DELETE action"
            raise SinkError(f"replace rows of {self._target}", found, todo)
