"""What the PostgreSQL connector is. Imports neither psycopg nor pyarrow."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl
from dpone.model.strategy import MODES

_HERE = "dpone_postgres"
_ERRORS = f"{_HERE}.errors:CODES"
_HARNESS = f"{_HERE}.testing:PostgresHarness"


@hookimpl
def dpone_sources() -> list[Connector]:
    incremental = ("incremental_cursor", "late_commits", "incremental_xmin", "incremental_cdc")
    supported = ("read", "query", "snapshot", *incremental, "partitions", "mixed_snapshots", "native_stream")
    return [
        Connector(
            "postgres",
            f"{_HERE}.source:PostgresSource",
            f"{_HERE}.config:PostgresSourceOptions",
            declare("source", supported, ("repeatable", "incremental_change_tracking")),
            takes=("connection", "table", "query"),
            errors=_ERRORS,
            harness=_HARNESS,
        ),
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    rows = ("write", "exactly_once", "schema_evolution", "lineage", "native_stream", "undo", "move")
    loads = ("resume", "many_tables", "parallel_stage")
    target = ("take_back", "replace_columns", "refuse", "verify", "compare_keys", "sql")
    supported = (*MODES, *rows, *loads, *target)
    return [
        Connector(
            "postgres",
            f"{_HERE}.sink:PostgresSink",
            f"{_HERE}.config:PostgresSinkOptions",
            declare("sink", supported),
            takes=("connection", "table"),
            errors=_ERRORS,
            harness=_HARNESS,
            commit="transaction",
        ),
    ]


@hookimpl
def dpone_state_backends() -> list[Connector]:
    return [
        Connector(
            "postgres",
            f"{_HERE}.state:PostgresState",
            f"{_HERE}.config:PostgresStateOptions",
            declare("state", ("compare_and_set", "history", "lock", "partitions")),
            takes=("connection",),
            errors=_ERRORS,
            harness=_HARNESS,
        ),
    ]


@hookimpl
def dpone_cdc_readers() -> list[Connector]:
    changes = ("insert_update_delete", "key_change", "truncate", "unchanged", "schema_change")
    supported = (*changes, "gap", "snapshot_handover", "resync")
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
