"""What the discovered connectors can do: the type matrix and the routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_type_hints

import pyarrow as pa
from attrs import fields_dict, frozen

from dpone.capability import Connector, Support
from dpone.contract import Sink
from dpone.errors import DponeError
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import MODES, Strategy
from dpone.plugins import Plugins, discover

ARROW_TYPES: tuple[pa.DataType, ...] = (
    pa.bool_(),
    pa.int8(), pa.int16(), pa.int32(), pa.int64(),
    pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(),
    pa.decimal128(9, 2), pa.decimal128(38, 9), pa.decimal256(76, 20),
    pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(16),
    pa.date32(), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"),
    pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ns", "UTC"),
    pa.duration("us"), pa.month_day_nano_interval(),
    pa.uuid(), pa.json_(),
    pa.list_(pa.int64()), pa.struct({"a": pa.int64()}), pa.map_(pa.string(), pa.int64()),
    pa.dictionary(pa.int32(), pa.string()),
)  # fmt: skip


@frozen
class TypeRow:
    """One sink and one type. ``refused``: the sink takes no such column; ``unknown``: the sink could not be made.
    ``note`` says why."""

    sink: str
    type: str
    fidelity: Literal["exact", "checked", "lossy", "refused", "unknown"]
    native: str = ""
    comes_back_as: str = ""
    note: str = ""


@frozen
class Route:
    source: str
    sink: str
    strategy: str
    support: Support


def type_matrix(only: str | None = None) -> list[TypeRow]:
    """Every implemented sink in each of its formats, with every type of ARROW_TYPES. A sink that cannot be created is
    one row, unless it is the only one that was requested."""
    plugins = discover()
    if only is not None:
        return _types(plugins, only)
    rows: list[TypeRow] = []
    for name in plugins.names("sink"):
        if plugins.get("sink", name).implemented:
            try:
                rows += _types(plugins, name)
            except Exception as error:  # a plugin may raise anything; the others are printed all the same
                note = error.found if isinstance(error, DponeError) else f"{type(error).__name__}: {error}"
                rows.append(TypeRow(name, "*", "unknown", note=" ".join(note.split())))
    return rows


def _types(plugins: Plugins, name: str) -> list[TypeRow]:
    return [_type(label, sink, type_) for label, sink in unconnected(plugins, name) for type_ in ARROW_TYPES]


def unconnected(plugins: Plugins, name: str) -> Iterator[tuple[str, Sink]]:
    """Unconnected sinks of a connector: one, or one for each value of its option ``format``."""
    cls, options = plugins.load("sink", name), plugins.options("sink", name)
    connector = plugins.get("sink", name)
    formats = get_args(get_type_hints(options)["format"]) if "format" in fields_dict(options) else ()
    for format_ in formats:
        yield f"{name} ({format_})", cls(_spec(connector, options(format=format_)))
    if not formats:
        yield name, cls(_spec(connector, options()))


def _spec(connector: Connector, options: Any) -> SinkSpec:
    """A target that is never connected to; complete, for constructors that look at their spec."""
    target: dict[str, Any] = {
        "connection": Secret(connector.example or f"{connector.name}:///types"),
        "table": Name(("types",)),
        "path": "types",
        "topic": "types",
    }
    given = {k: v for k, v in target.items() if k in connector.takes}
    return SinkSpec(connector.name, Strategy("append"), options=options, **given)


def _type(label: str, sink: Sink, type_: pa.DataType) -> TypeRow:
    try:
        stored = sink.stores(type_)
    except (DponeError, pa.ArrowException, NotImplementedError) as error:
        found = error.found if isinstance(error, DponeError) else str(error)
        return TypeRow(label, _name(type_), "refused", note=found)
    return TypeRow(label, _name(type_), stored.fidelity, stored.native, _name(stored.arrow))


def _name(type_: pa.DataType) -> str:
    if isinstance(type_, pa.BaseExtensionType):
        return str(type_.extension_name)
    return f"dictionary<{type_.value_type}>" if pa.types.is_dictionary(type_) else str(type_)


def route_matrix() -> list[Route]:
    """Every source x sink x strategy, from what the connectors declare; nothing is imported."""
    plugins = discover()
    sources = [plugins.get("source", name) for name in plugins.names("source")]
    sinks = [plugins.get("sink", name) for name in plugins.names("sink")]
    return [Route(a.name, b.name, mode, _support(a, b, mode)) for a in sources for b in sinks for mode in MODES]


def _support(source: Connector, sink: Connector, mode: str) -> Support:
    """The weaker of the two ends: ``unsupported`` outweighs ``not implemented``."""
    ends = (source.capabilities["incremental_cdc" if mode == "cdc_apply" else "read"], sink.capabilities[mode])
    for weakest in (Support.UNSUPPORTED, Support.NOT_IMPLEMENTED):
        if weakest in ends:
            return weakest
    return Support.SUPPORTED
