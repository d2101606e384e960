"""The hooks of a SQL connector. Imports no driver and no pyarrow, so that discovery stays light."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias, get_args

from dpone.capability import Connector, Role, declare, known
from dpone.errors import PluginError
from dpone.hookspecs import hookimpl
from dpone.model.strategy import MODES

Hook: TypeAlias = Callable[[], list[Connector]]

# What SqlSource, SqlSink and SqlState can do on every system.
SOURCE = ("read", "query", "snapshot", "incremental_cursor")
SINK = (
    "write", *MODES, "exactly_once", "schema_evolution", "lineage", "resume", "undo", "sweep", "move", "take_back",
    "replace_columns", "refuse", "verify", "compare_keys", "sql",
)  # fmt: skip
STATE = ("compare_and_set", "history", "lock", "partitions", "run_log")

_OPTIONS = "dpone.model.pipeline"


def sql_hooks(
    name: str,
    *,
    source: str,
    sink: str,
    state: str = "",
    errors: str,
    harness: str,
    adds: Collection[str] = (),
    lacks: Collection[str] = (),
    source_options: str = f"{_OPTIONS}:SourceOptions",
    sink_options: str = f"{_OPTIONS}:SinkOptions",
    state_options: str = f"{_OPTIONS}:StateOptions",
) -> tuple[Hook, Hook, Hook]:
    """The functions ``dpone_sources``, ``dpone_sinks`` and ``dpone_state_backends`` of a plugin module.

    name                     what ``type:`` says in a pipeline
    source, sink, state      ``module:Class`` of each; without a state the third hook returns nothing
    errors, harness          as in ``capability.Connector``
    adds                     capabilities that the connector has beyond SOURCE, SINK and STATE
    lacks                    capabilities that the system cannot have, also of SOURCE and SINK. One of several roles,
                             such as ``native_stream``, is unsupported in all of them
    """
    if unknown := [n for n in (*adds, *lacks) if not any(known(role, n) for role in get_args(Role))]:
        found = f"unknown capabilities: {', '.join(unknown)}"
        raise PluginError(f"read the plugin {name}", found, "use the names of dpone.capability.CAPABILITIES")

    def hook(role: Role, where: str, options: str, base: Collection[str], takes: tuple[str, ...]) -> Hook:
        never = [n for n in lacks if known(role, n)]
        supported = [n for n in (*base, *adds) if known(role, n) and n not in never]

        @hookimpl
        def connectors() -> list[Connector]:
            return [
                Connector(
                    name, where, options, declare(role, supported, never), ("connection", *takes), errors, harness,
                    commit="transaction" if role == "sink" else None,
                )
            ] if where else []  # fmt: skip

        return connectors

    return (
        hook("source", source, source_options, SOURCE, ("table", "query")),
        hook("sink", sink, sink_options, SINK, ("table",)),
        hook("state", state, state_options, STATE, ()),
    )
