"""Sink: one table of a DuckDB file. Rows, journal entry and position become durable in one transaction.

All that a strategy, the journal, the staging and lineage need is in ``dpone.sql``, over ``DuckdbDatabase``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from dpone.contract import Entry, Finding, Load
from dpone.errors import ConfigError, DponeError, SinkError
from dpone.evolution import Change, Stored
from dpone.pipeline import SinkSpec
from dpone.schema import PREFIX
from dpone.sql import history
from dpone.sql.ddl import statements
from dpone.sql.dialect import Dialect
from dpone.sql.finalize import is_empty, require_columns
from dpone.sql.journal import Journal
from dpone.sql.writer import LINEAGE_FIELDS, SqlWriter, open_load, transaction, with_lineage
from dpone_duckdb.connect import database_path, table_name
from dpone_duckdb.database import DuckdbDatabase


class DuckdbSink:
    """``contract.Sink``."""

    def __init__(self, spec: SinkSpec) -> None:
        if spec.table is None or spec.table.last.startswith(PREFIX):
            raise ConfigError("read sink", f"table {spec.table}", "give table: name; names in __dpone__ are reserved")
        self._options, self._strategy, self._target = spec.options, spec.strategy, table_name(spec.table)
        self._db = DuckdbDatabase(database_path(spec.connection, spec.base))

    def check(self) -> list[Finding]:
        folder, findings = self._db.path.parent, [Finding("duckdb library", True, duckdb.__version__)]
        if not os.access(folder, os.W_OK):
            return [*findings, Finding("folder", False, f"{folder} cannot be written", "create it, or grant access")]
        try:
            kind = "will be created" if self.schema() is None else "exists"
        except DponeError as error:
            return [*findings, Finding("target", False, error.found, error.todo)]
        return [*findings, Finding("target", True, f"{self._target} in {self._db.path} {kind}")]

    def schema(self) -> pa.Schema | None:
        return self._db.schema(self._target)

    def is_empty(self) -> bool:
        return self.schema() is None or is_empty(self._db, self._target)

    @property
    def dialect(self) -> Dialect:
        return self._db.dialect

    def stores(self, type: pa.DataType) -> Stored:
        return self.dialect.stores(type)

    def ddl(self, changes: Sequence[Change]) -> list[str]:
        have = self.schema()
        if have is not None:
            history.require_own(self._strategy, have, self._target)
        made = [statement for change in changes for statement in self._statements(change)]
        if have is None or not self._options.lineage.enabled:
            return made
        return made + [self.dialect.add_column(self._target, f) for f in LINEAGE_FIELDS if f.name not in have.names]

    def _statements(self, change: Change) -> list[str]:
        if change.kind != "create" or change.schema is None:
            return statements(self.dialect, self._target, change)
        require_columns(self._strategy, change.schema, self._target)
        # Only strict pipelines get NOT NULL columns: the others let a source become nullable.
        strict = self._options.schema_evolution.mode == "strict"
        schema = pa.schema([f if strict else f.with_nullable(True) for f in change.schema])
        schema, key = history.shape(self._strategy, schema)
        schema = with_lineage(schema) if self._options.lineage.enabled else schema
        return [self.dialect.create_table(self._target, schema, key)]

    def apply(self, ddl: Sequence[str]) -> None:
        """In one transaction: all or nothing."""
        with transaction(self._db, str(self._target)):
            for statement in ddl:
                self._db.execute(statement)

    def journal(self, key: str) -> Entry | None:
        return Journal(self._db, self._target).head(key)

    def open(self, load: Load) -> SqlWriter:
        if self._db.collated(self._target):  # it would hide a change of case, and nothing switches it off
            found, todo = "a column has a collation", "load into a table without, and make a view with it"
            raise SinkError(f"load {self._target}", found, todo)
        return open_load(self._db, self._target, load, self._options.lineage.enabled)

    def close(self) -> None:
        self._db.close()
