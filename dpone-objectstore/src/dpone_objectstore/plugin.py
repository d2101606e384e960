"""What this distribution brings, as data. Nothing of it is implemented yet; importing this module loads no driver."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl


@hookimpl
def dpone_sources() -> list[Connector]:
    return [
        Connector(
            "objectstore",
            "dpone_objectstore.source:ObjectStoreSource",
            "dpone.model.pipeline:SourceOptions",
            declare("source"),
            takes=("path",),
        ),
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            "objectstore",
            "dpone_objectstore.sink:ObjectStoreSink",
            "dpone.model.pipeline:SinkOptions",
            declare("sink"),
            takes=("path",),
            commit="manifest",
        ),
    ]
