"""What the sqlite connector is. Imports neither sqlite3 nor pyarrow."""

from __future__ import annotations

from dpone.sql.plugin import sql_hooks

_HERE = "dpone.connectors.sqlite"

dpone_sources, dpone_sinks, dpone_state_backends = sql_hooks(
    "sqlite",
    source=f"{_HERE}.source:SqliteSource",
    sink=f"{_HERE}.sink:SqliteSink",
    state=f"{_HERE}.state:SqliteState",
    errors=f"{_HERE}.errors:CODES",
    harness="dpone.testing.builtin:SqliteHarness",
    source_options=f"{_HERE}.config:SqliteSourceOptions",
    sink_options=f"{_HERE}.config:SqliteSinkOptions",
    state_options=f"{_HERE}.config:SqliteStateOptions",
    adds=("late_commits", "partitions", "mixed_snapshots", "many_tables"),
    lacks=(
        "incremental_xmin", "incremental_change_tracking", "incremental_cdc", "repeatable", "native_stream",
    ),
)  # fmt: skip
