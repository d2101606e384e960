"""What the connector is. Imports neither duckdb nor pyarrow: discovery stays light."""

from __future__ import annotations

from dpone.sql.plugin import sql_hooks

dpone_sources, dpone_sinks, _ = sql_hooks(
    "duckdb",
    source="dpone_duckdb.source:DuckdbSource",
    sink="dpone_duckdb.sink:DuckdbSink",
    errors="dpone_duckdb.errors:CODES",
    harness="dpone_duckdb.testing:DuckdbHarness",
    source_options="dpone_duckdb.config:DuckdbSourceOptions",
    # No foreign key of DuckDB deletes rows. What would break one is refused when the load begins.
    lacks=(
        "refuse", "repeatable", "incremental_xmin", "incremental_cdc", "incremental_change_tracking", "native_stream",
    ),
)  # fmt: skip
