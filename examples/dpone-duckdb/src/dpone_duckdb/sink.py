"""Sink: one table of a DuckDB file. Rows, journal entry and position become durable in one transaction.

All that a strategy, the journal, the staging and lineage need is in ``dpone.sql``, over ``DuckdbDatabase``.
"""

from __future__ import annotations

import os

import duckdb

from dpone.contract import Finding
from dpone.model.pipeline import SinkSpec
from dpone.sql.sink import SqlSink, target_of
from dpone_duckdb.connect import database_path
from dpone_duckdb.database import DuckdbDatabase


class DuckdbSink(SqlSink):
    """``contract.Sink``."""

    _db: DuckdbDatabase

    def __init__(self, spec: SinkSpec) -> None:
        super().__init__(spec, target_of(spec), DuckdbDatabase(database_path(spec.connection, spec.base)))

    def check(self) -> list[Finding]:
        folder, findings = self._db.path.parent, [Finding("duckdb library", True, duckdb.__version__)]
        if not os.access(folder, os.W_OK):
            return [*findings, Finding("folder", False, f"{folder} cannot be written", "create it, or grant access")]
        return [*findings, *super().check()]
