"""What the connector is. Imports neither duckdb nor pyarrow: discovery stays light."""

from __future__ import annotations

from dpone import hookimpl
from dpone.capability import Connector, declare
from dpone.model.strategy import MODES

_ERRORS = "dpone_duckdb.errors:CODES"
_HARNESS = "dpone_duckdb.testing:DuckdbHarness"


@hookimpl
def dpone_sources() -> list[Connector]:
    supported = ("read", "query", "snapshot", "incremental_cursor")
    unsupported = ("repeatable", "incremental_xmin", "incremental_cdc", "incremental_change_tracking", "native_stream")
    return [
        Connector(
            name="duckdb",
            implementation="dpone_duckdb.source:DuckdbSource",
            options="dpone_duckdb.config:DuckdbSourceOptions",
            capabilities=declare("source", supported, unsupported),
            takes=("connection", "table", "query"),
            errors=_ERRORS,
            harness=_HARNESS,
        )
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    loads = ("exactly_once", "schema_evolution", "lineage", "resume", "undo", "move")
    supported = ("write", *MODES, *loads, "take_back", "replace_columns", "verify", "compare_keys", "sql")
    return [
        Connector(
            name="duckdb",
            implementation="dpone_duckdb.sink:DuckdbSink",
            options="dpone.model.pipeline:SinkOptions",
            # No foreign key of DuckDB deletes rows. What would break one is refused when the load begins.
            capabilities=declare("sink", supported, unsupported=("native_stream", "refuse")),
            takes=("connection", "table"),
            errors=_ERRORS,
            harness=_HARNESS,
            commit="transaction",
        )
    ]
