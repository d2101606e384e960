"""Sink: one table of a DuckDB file. Rows, journal entry and position become durable in one transaction.

All that a strategy, the journal, the staging and lineage need is in ``dpone.sql``, over ``DuckdbDatabase``.
"""

from __future__ import annotations

import os

import duckdb

from dpone.contract import Finding, Load, Writer
from dpone.errors import SinkError
from dpone.pipeline import SinkSpec
from dpone.sql.sink import SqlSink, target_of
from dpone_duckdb.connect import database_path, table_name
from dpone_duckdb.database import DuckdbDatabase


class DuckdbSink(SqlSink):
    """``contract.Sink``."""

    _db: DuckdbDatabase

    def __init__(self, spec: SinkSpec) -> None:
        target = table_name(target_of(spec))
        super().__init__(spec, target, DuckdbDatabase(database_path(spec.connection, spec.base)))

    def check(self) -> list[Finding]:
        folder, findings = self._db.path.parent, [Finding("duckdb library", True, duckdb.__version__)]
        if not os.access(folder, os.W_OK):
            return [*findings, Finding("folder", False, f"{folder} cannot be written", "create it, or grant access")]
        return [*findings, *super().check()]

    def open(self, load: Load) -> Writer:
        if self._db.collated(self._target):  # it would hide a change of case, and nothing switches it off
            found, todo = "a column has a collation", "load into a table without, and make a view with it"
            raise SinkError(f"load {self._target}", found, todo)
        return super().open(load)
