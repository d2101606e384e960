"""What the PostgreSQL connector is. Imports neither psycopg nor pyarrow."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl
from dpone.sql.plugin import sql_hooks

_HERE = "dpone_postgres"
_ERRORS = f"{_HERE}.errors:CODES"
_HARNESS = f"{_HERE}.testing:PostgresHarness"


dpone_sources, dpone_sinks, dpone_state_backends = sql_hooks(
    "postgres",
    source=f"{_HERE}.source:PostgresSource",
    sink=f"{_HERE}.sink:PostgresSink",
    state=f"{_HERE}.state:PostgresState",
    errors=_ERRORS,
    harness=_HARNESS,
    source_options=f"{_HERE}.config:PostgresSourceOptions",
    sink_options=f"{_HERE}.config:PostgresSinkOptions",
    state_options=f"{_HERE}.config:PostgresStateOptions",
    adds=(
        "late_commits", "incremental_xmin", "incremental_cdc", "partitions", "mixed_snapshots", "native_stream",
        "many_tables", "parallel_stage",
    ),
    lacks=("repeatable", "incremental_change_tracking"),
)  # fmt: skip


@hookimpl
def dpone_cdc_readers() -> list[Connector]:
    changes = ("insert_update_delete", "key_change", "truncate", "unchanged", "schema_change")
    supported = (*changes, "gap", "snapshot_handover", "resync", "status")
    return [
        Connector(
            "postgres_logical",
            f"{_HERE}.cdc:PostgresLogicalReader",
            f"{_HERE}.config:PostgresSourceOptions",
            declare("cdc", supported),
            takes=("connection", "table"),
            errors=_ERRORS,
            harness=f"{_HERE}.testing:PostgresLogicalHarness",
            serves=("postgres", "cdc"),
        ),
    ]
