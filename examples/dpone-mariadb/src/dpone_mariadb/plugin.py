"""What the connector is. Imports neither pymysql nor pyarrow: discovery stays light."""

from __future__ import annotations

from dpone import hookimpl
from dpone.capability import Connector, declare
from dpone.model.strategy import MODES

_ERRORS = "dpone_mariadb.connect:CODES"
_HARNESS = "dpone_mariadb.testing:MariadbHarness"


@hookimpl
def dpone_sources() -> list[Connector]:
    supported = ("read", "query", "snapshot", "incremental_cursor")
    unsupported = ("repeatable", "incremental_xmin", "incremental_cdc", "native_stream")
    return [
        Connector(
            name="mariadb",
            implementation="dpone_mariadb.source:MariadbSource",
            options="dpone.model.pipeline:SourceOptions",
            capabilities=declare("source", supported, unsupported),
            takes=("connection", "table", "query"),
            errors=_ERRORS,
            harness=_HARNESS,
        )
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    loads = ("exactly_once", "schema_evolution", "lineage", "resume", "undo", "move")
    supported = ("write", *MODES, *loads, "take_back", "refuse", "verify", "compare_keys", "sql")
    return [
        Connector(
            name="mariadb",
            implementation="dpone_mariadb.sink:MariadbSink",
            options="dpone.model.pipeline:SinkOptions",
            capabilities=declare("sink", supported, unsupported=("native_stream", "replace_columns")),
            takes=("connection", "table"),
            errors=_ERRORS,
            harness=_HARNESS,
            commit="transaction",
        )
    ]


@hookimpl
def dpone_state_backends() -> list[Connector]:
    return [
        Connector(
            name="mariadb",
            implementation="dpone_mariadb.sink:MariadbState",
            options="dpone.model.pipeline:StateOptions",
            capabilities=declare("state", ("compare_and_set", "history", "lock", "partitions")),
            takes=("connection",),
            errors=_ERRORS,
            harness=_HARNESS,
        )
    ]
