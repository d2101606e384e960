"""What this distribution brings, as data. Nothing of it is implemented yet; importing this module loads no driver."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl


@hookimpl
def dpone_sources() -> list[Connector]:
    return [
        Connector(
            "mssql",
            "dpone_mssql.source:MssqlSource",
            "dpone.model.pipeline:SourceOptions",
            declare("source"),
            takes=("connection", "table", "query"),
        ),
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            "mssql",
            "dpone_mssql.sink:MssqlSink",
            "dpone.model.pipeline:SinkOptions",
            declare("sink"),
            takes=("connection", "table"),
            commit="transaction",
        ),
    ]


@hookimpl
def dpone_state_backends() -> list[Connector]:
    return [
        Connector(
            "mssql",
            "dpone_mssql.state:MssqlState",
            "dpone.model.pipeline:StateOptions",
            declare("state"),
            takes=("connection",),
        ),
    ]


@hookimpl
def dpone_cdc_readers() -> list[Connector]:
    return [
        Connector(
            "mssql_cdc",
            "dpone_mssql.cdc:MssqlCDCReader",
            "dpone.model.pipeline:SourceOptions",
            declare("cdc"),
            takes=("connection", "table"),
        ),
        Connector(
            "mssql_change_tracking",
            "dpone_mssql.cdc:MssqlChangeTrackingReader",
            "dpone.model.pipeline:SourceOptions",
            declare("cdc"),
            takes=("connection", "table"),
        ),
    ]
