"""What the sqlite connector is. Imports neither sqlite3 nor pyarrow."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl
from dpone.model.strategy import MODES

_HERE = "dpone.connectors.sqlite"
_ERRORS = f"{_HERE}.errors:CODES"
_HARNESS = "dpone.testing.builtin:SqliteHarness"


@hookimpl
def dpone_sources() -> list[Connector]:
    supported = ("read", "query", "snapshot", "incremental_cursor", "late_commits", "partitions", "mixed_snapshots")
    unsupported = ("incremental_xmin", "incremental_change_tracking", "incremental_cdc", "repeatable", "native_stream")
    return [
        Connector(
            name="sqlite",
            implementation=f"{_HERE}.source:SqliteSource",
            options=f"{_HERE}.config:SqliteSourceOptions",
            capabilities=declare("source", supported, unsupported),
            takes=("connection", "table", "query"),
            errors=_ERRORS,
            harness=_HARNESS,
        )
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    loads = ("exactly_once", "schema_evolution", "lineage", "resume", "many_tables", "undo", "move")
    supported = ("write", *MODES, *loads, "take_back", "replace_columns", "refuse", "verify", "compare_keys", "sql")
    return [
        Connector(
            name="sqlite",
            implementation=f"{_HERE}.sink:SqliteSink",
            options=f"{_HERE}.config:SqliteSinkOptions",
            capabilities=declare("sink", supported, ("native_stream",)),
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
            name="sqlite",
            implementation=f"{_HERE}.state:SqliteState",
            options=f"{_HERE}.config:SqliteStateOptions",
            capabilities=declare("state", ("compare_and_set", "history", "lock", "partitions")),
            takes=("connection",),
            errors=_ERRORS,
            harness=_HARNESS,
        )
    ]
