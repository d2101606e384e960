"""Sink: one table of a DuckDB file. Rows, journal entry and position become durable in one transaction.

All that a strategy, the journal, the staging and lineage need is in ``dpone.sql``, over ``DuckdbDatabase``.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from dpone.contract import Finding
from dpone.sql.sink import SqlSink
from dpone_duckdb.database import DuckdbDatabase


class DuckdbSink(SqlSink):
    """``contract.Sink``."""

    database_class = DuckdbDatabase

    def check(self) -> list[Finding]:
        assert isinstance(self._db, DuckdbDatabase)
        folder, findings = Path(self._db.place).parent, [Finding("duckdb library", True, duckdb.__version__)]
        if not os.access(folder, os.W_OK):
            return [*findings, Finding("folder", False, f"{folder} cannot be written", "create it, or grant access")]
        return [*findings, *super().check()]
