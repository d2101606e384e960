"""A sink that keeps no journal: it posts rows to an address, and all it learns is that they were taken."""

from __future__ import annotations

from dpone import hookimpl
from dpone.capability import Connector, declare


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            name="webhook",
            implementation="tests.webhook.sink:WebhookSink",
            options="dpone.model.pipeline:SinkOptions",
            capabilities=declare("sink", ("write", "append", "parallel_stage"), ("exactly_once", "undo")),
            takes=("connection", "table"),
            commit="none",
        )
    ]
