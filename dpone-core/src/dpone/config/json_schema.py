"""JSON Schema of the pipeline file, for editors: made from the model and from the options of the discovered plugins.

An editor sees the file before ``${NAME}`` is filled in, so a reference may stand wherever a number or a word of a fixed
set is wanted. The schema is a help while writing; ``dpone check`` decides.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from dpone.capability import WHAT, Connector, Role, Support
from dpone.config.values import fields_of, hints_of
from dpone.errors import PluginError
from dpone.model.pipeline import (
    Notification,
    Runtime,
    SinkSpec,
    SourceSpec,
    StateSpec,
)
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import ALIASES, MODES, Strategy
from dpone.plugins import Plugins

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = {"$ref": "#/$defs/reference"}
SPECS: Mapping[Role, type] = {"source": SourceSpec, "sink": SinkSpec, "state": StateSpec}
TEXT = {"type": "string"}
_SCALARS: Mapping[Any, dict[str, Any]] = {
    str: TEXT,
    Secret: TEXT,
    Name: TEXT,
    Path: TEXT,
    int: {"anyOf": [{"type": "integer"}, REFERENCE]},
    float: {"anyOf": [{"type": "number"}, REFERENCE]},
    bool: {"anyOf": [{"type": "boolean"}, REFERENCE]},
}


def pipeline_schema(plugins: Plugins) -> dict[str, Any]:
    """Draft 2020-12. ``$defs`` holds source, sink and state with the options of every connector found."""
    parts = {role: _part(role, plugins) for role in SPECS}
    stream = {key: {"$ref": f"#/$defs/{key}_over_defaults"} for key in ("source", "sink")}
    table = {**TEXT, "description": "a source table, or a glob"}
    entry = {"anyOf": [table, _object(stream | {"name": TEXT})]}
    properties = {
        "pipeline": {**TEXT, "minLength": 1, "description": "name of the pipeline; part of every state key"},
        "labels": {"type": "object", "additionalProperties": TEXT, "description": "copied into reports and metrics"},
        "source": {"$ref": "#/$defs/source"},
        "sink": {"$ref": "#/$defs/sink"},
        "state": {"$ref": "#/$defs/state"},
        "runtime": _record(Runtime),
        "notify": {"type": "array", "items": _record(Notification), "description": "messages at the end of a run"},
        "connections": {
            "description": "URLs or mappings by name, or the name of a file with them",
            "anyOf": [TEXT, {"type": "object", "additionalProperties": {"type": ["string", "object"]}}],
        },
        "defaults": _object(stream) | {"description": "defaults of every stream"},
        "streams": {
            "anyOf": [
                {"type": "array", "minItems": 1, "items": entry},
                {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": [entry, {"type": "null"}]}},
            ]
        },
    }
    return {
        "$schema": DIALECT,
        "title": "dpone pipeline",
        **_object(properties, required=["pipeline"]),
        "oneOf": [{"required": ["source", "sink"]}, {"required": ["streams"]}],
        "$defs": {
            "reference": {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"},
            **parts,
            "source_over_defaults": _partial(SourceSpec),
            "sink_over_defaults": _partial(SinkSpec),
        },
    }


def _part(role: Role, plugins: Plugins) -> dict[str, Any]:
    """A source, sink or state: one branch per connector has what its ``type`` allows."""
    records = [plugins.get(role, name) for name in plugins.names(role)]
    whole = _partial(SPECS[role])
    whole["properties"]["type"] = {"enum": [record.name for record in records]}
    whole["required"] = ["type", "strategy"] if role == "sink" else ["type"]
    whole["allOf"] = [
        {
            "if": {"properties": {"type": {"const": record.name}}, "required": ["type"]},
            "then": _branch(role, record, plugins),
        }
        for record in records
    ]
    return whole


def _branch(role: Role, record: Connector, plugins: Plugins) -> dict[str, Any]:
    keys = [key for key in (*WHAT, "connection") if key in fields_of(SPECS[role])]
    readers = [
        one for one in plugins.connectors.values() if role == "source" and (one.serves or ("",))[0] == record.name
    ]
    takes = {*record.takes, *(key for reader in readers for key in reader.takes)}
    properties: dict[str, Any] = {key: False for key in keys if key not in takes}
    try:
        properties["options"] = _record(plugins.options(role, record.name))
        if role == "source":
            _name_increments(properties["options"], plugins.increments(record.name))
    except PluginError as error:
        properties["options"] = {"type": "object", "description": f"not available here: {error.found}"}
    if role == "sink":
        modes = [mode for mode in MODES if record.capabilities.get(mode) is Support.SUPPORTED]
        named = [*modes, *(alias for alias, mode in ALIASES.items() if mode in modes)]
        properties["strategy"] = {
            "properties": {"mode": {"anyOf": [{"enum": named}, REFERENCE]}},
            "required": ["mode"],
        }
    branch: dict[str, Any] = {"properties": properties}
    if "connection" in record.takes:
        branch["required"] = ["connection"]
    what = [key for key in WHAT if key in record.takes and key in keys]
    if what and not (role == "sink" and "table" in what):  # a sink's table may come from the source's
        branch["oneOf"] = [{"required": [key]} for key in what]
    return branch


def _name_increments(options: dict[str, Any], offered: Sequence[str]) -> None:
    """What ``incremental.by`` may say with this source; nothing: it has no increments."""
    if not offered:
        options["properties"]["incremental"] = {"type": "null"}
        return
    [one] = [one for one in options["properties"]["incremental"]["anyOf"] if "properties" in one]
    by = one["properties"]["by"]
    one["properties"]["by"] = {"anyOf": [{"enum": list(offered)}, REFERENCE], "description": by["description"]}


def _partial(spec: type) -> dict[str, Any]:
    """A spec of any type, nothing required: a stream may leave all to the defaults."""
    hints = hints_of(spec)
    properties = {name: {"type": "object"} if name == "options" else _value(hints[name]) for name in fields_of(spec)}
    if "connection" in properties:
        text = "a URL, as in ${NAME}, a name from connections, or a mapping for the connector"
        properties["connection"] = {"type": ["string", "object"], "description": text}
    if "strategy" in properties:
        properties["strategy"] = _strategy()
    return _object(properties)


def _strategy() -> dict[str, Any]:
    schema = _record(Strategy)
    modes = [{"const": name, "description": mode.summary} for name, mode in MODES.items()]
    modes += [{"const": alias, "description": f"the same as {mode}"} for alias, mode in ALIASES.items()]
    schema["properties"]["mode"] = {"anyOf": [*modes, REFERENCE]}
    del schema["required"]  # a stream may take the mode from the defaults
    return schema


def _record(cls: Any) -> dict[str, Any]:
    """The mapping of an attrs class, described by its docstring."""
    hints, fields = hints_of(cls), fields_of(cls)
    said = _descriptions(cls)
    properties = {}
    for name, one in fields.items():
        properties[name] = _value(hints[name]) | ({"description": said[name]} if name in said else {})
        if "values" in one.metadata:
            properties[name]["additionalProperties"] = one.metadata["values"]
        if isinstance(one.default, str | int | float):
            properties[name]["default"] = one.default
    required = [name for name, one in fields.items() if one.default is attrs.NOTHING]
    schema = _object(properties, required)
    return schema | ({"description": said[""]} if said.get("") else {})


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return schema | ({"required": list(required)} if required else {})


def _value(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return dict(_SCALARS[hint])
    if origin in (Union, types.UnionType):
        choices = [{"type": "null"} if one is type(None) else _value(one) for one in arguments]
        return {"anyOf": choices}
    if origin is Literal:
        return {"anyOf": [{"enum": list(arguments)}, REFERENCE]}
    if origin in (tuple, list, Sequence):
        item = _value(arguments[0])
        return {"anyOf": [{"type": "array", "items": item}, item]}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _value(arguments[1])}
    if origin is typing.Annotated:
        return _value(arguments[0])
    return _record(hint) if attrs.has(hint) else {}


def _descriptions(cls: type) -> dict[str, str]:
    """Of the class, under "", and of its fields: from its docstring, and those of the classes it extends."""
    said: dict[str, str] = {}
    for one in reversed([one for one in cls.__mro__ if attrs.has(one)]):
        said |= {"": "", **_described(one, fields_of(cls))}
    return {name: text for name, text in said.items() if text}


def _described(cls: type, fields: Iterable[str]) -> dict[str, str]:
    """From ``name   text`` or ``name: text`` in the docstring."""
    doc = "" if (cls.__doc__ or "").startswith("Method generated") else inspect.cleandoc(cls.__doc__ or "")
    first, *rest = re.split(rf"(?:^|\n|(?<=\. ))({'|'.join(fields)})(?::|\s\s+)\s*", doc)
    said = {"": first} | dict(zip(rest[::2], rest[1::2], strict=True))
    return {name: " ".join(text.split("\n\n")[0].split()).replace("``", "") for name, text in said.items()}
