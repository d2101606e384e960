"""What this distribution brings, as data. Nothing of it is implemented yet; importing this module loads no driver."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl


@hookimpl
def dpone_sources() -> list[Connector]:
    return [
        Connector(
            "postgres",
            "dpone_postgres.source:PostgresSource",
            "dpone.pipeline:SourceOptions",
            declare("source"),
            takes=("connection", "table", "query"),
        ),
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            "postgres",
            "dpone_postgres.sink:PostgresSink",
            "dpone.pipeline:SinkOptions",
            declare("sink"),
            takes=("connection", "table"),
            commit="transaction",
        ),
    ]


@hookimpl
def dpone_state_backends() -> list[Connector]:
    return [
        Connector(
            "postgres",
            "dpone_postgres.state:PostgresState",
            "dpone.pipeline:StateOptions",
            declare("state"),
            takes=("connection",),
        ),
    ]


@hookimpl
def dpone_cdc_readers() -> list[Connector]:
    return [
        Connector(
            "postgres_logical",
            "dpone_postgres.cdc:PostgresLogicalReader",
            "dpone.pipeline:SourceOptions",
            declare("cdc"),
            takes=("connection", "table"),
        ),
    ]
