"""What this distribution brings, as data. Nothing of it is implemented yet; importing this module loads no driver."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl


@hookimpl
def dpone_sources() -> list[Connector]:
    return [
        Connector(
            "kafka",
            "dpone_kafka.source:KafkaSource",
            "dpone.model.pipeline:SourceOptions",
            declare("source"),
            takes=("connection", "topic"),
        ),
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            "kafka",
            "dpone_kafka.sink:KafkaSink",
            "dpone.model.pipeline:SinkOptions",
            declare("sink"),
            takes=("connection", "topic"),
            commit="log",
        ),
    ]
