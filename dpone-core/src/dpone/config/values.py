"""Values of the model from nodes of a document; every problem is noted, and the reading goes on."""

from __future__ import annotations

import difflib
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

import attrs
from attrs import evolve

from dpone.config.document import Node, Problems, quoted, resolved
from dpone.errors import ConfigError, DponeError, PluginError
from dpone.model.schema import Name
from dpone.model.secret import Secret

BAD: Any = object()  # stands for a value whose problem has been reported


def read_value(node: Node, hint: Any, problems: Problems) -> Any:
    """The node as a value of an annotated type, without conversion: neither "3" nor true is an integer. BAD if it does
    not have the type."""
    if node.value is None:
        return BAD
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return plain_data(node)
    if origin is typing.Annotated:
        return read_value(node, arguments[0], problems)
    if origin in (Union, types.UnionType):
        return _either(node, arguments, hint, problems)
    if origin is Literal:
        return _choice(node, arguments, problems)
    if node.is_null:
        problems.add(node, "no value", f"write {_wanted(hint)}, or remove the key")
        return BAD
    if origin in _LISTS:
        return _list(node, hint, problems)
    if origin in _MAPPINGS:
        return _dict(node, arguments[1], problems)
    if hint not in _LEAVES and attrs.has(hint):
        return read_record(node, hint, problems)
    return _leaf(node, hint, problems)


_LISTS = (tuple, list, Sequence)
_MAPPINGS = (dict, Mapping)
_LEAVES: Mapping[Any, str] = {
    str: "text", int: "an integer", float: "a number", bool: "true or false", Secret: "text", Name: "a table name",
    Path: "a path",
}  # fmt: skip


def _leaf(node: Node, hint: Any, problems: Problems) -> Any:
    if hint not in _LEAVES:
        raise PluginError(f"read {node.path}", f"an option of type {hint}", "use a type that YAML has")
    if not isinstance(node.value, str):
        return _wrong(node, hint, problems)
    value = resolved(node)
    if hint in (int, bool) and type(value) is hint:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, float, bool) or not (isinstance(value, str) or node.filled):
        return _wrong(node, hint, problems)
    return _made(node, (lambda text: text) if hint is str else Name.parse if hint is Name else hint, problems)


def _made(node: Node, make: Callable[[str], Any], problems: Problems) -> Any:
    try:
        return make(cast(str, node.value))
    except ConfigError as error:
        problems.add(node, error.found, error.todo)
        return BAD


def _wrong(node: Node, hint: Any, problems: Problems) -> Any:
    found = shown_value(node) if hint is not Secret else "a value that is not text"
    todo = f"write {_wanted(hint)}"
    if node.is_scalar and hint in (str, Name, Path, Secret):
        todo = "put it in quotes"
    elif isinstance(node.value, str) and not node.plain and not node.filled and hint in (int, float, bool):
        todo += ", without quotes"
    problems.add(node, f"found {found}", todo)
    return BAD


def _either(node: Node, arguments: Sequence[Any], hint: Any, problems: Problems) -> Any:
    rest = [argument for argument in arguments if argument is not type(None)]
    if len(rest) < len(arguments) and node.is_null:
        return None
    if len(rest) == 1:
        return read_value(node, rest[0], problems)
    for argument in rest:
        attempt = Problems()
        value = read_value(node, argument, attempt)
        if not attempt:
            return value
    problems.add(node, f"found {shown_value(node)}", f"write {_wanted(hint)}")
    return BAD


def _choice(node: Node, choices: Sequence[Any], problems: Problems) -> Any:
    if node.is_scalar:
        value = resolved(node)
        for choice in choices:
            if (value == choice and type(value) is type(choice)) or (node.filled and node.value == choice):
                return choice
    near = nearest(str(node.value), [str(choice) for choice in choices]) if node.is_scalar else ""
    problems.add(node, f"found {shown_value(node)}", f"{near}write one of {', '.join(map(str, choices))}")
    return BAD


def _list(node: Node, hint: Any, problems: Problems) -> Any:
    """A list; a single value needs no brackets."""
    item = get_args(hint)[0]
    if isinstance(node.value, Mapping):
        return _wrong(node, hint, problems)
    nodes = node.value if isinstance(node.value, tuple) else (node,)
    values = [read_value(child, item, problems) for child in nodes]
    if any(value is BAD for value in values):
        return BAD
    return values if get_origin(hint) is list else tuple(values)


def _dict(node: Node, hint: Any, problems: Problems) -> Any:
    if not isinstance(node.value, Mapping):
        return _wrong(node, Mapping, problems)
    values = {key: read_value(child, hint, problems) for key, child in node.value.items()}
    return BAD if any(value is BAD for value in values.values()) else values


@functools.cache
def hints_of(cls: type) -> Mapping[str, Any]:
    """The types of an attrs class's fields; raises PluginError when an annotation cannot be evaluated at run time."""
    try:
        return typing.get_type_hints(cls)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise PluginError(f"read the options {cls.__qualname__}", found, "import the types of its fields") from error


def fields_of(cls: Any) -> dict[str, Any]:
    """The fields of an attrs class that a file may set."""
    return {f.name: f for f in attrs.fields(cls) if f.init and not f.metadata.get("internal")}


def read_record(node: Node, cls: Any, problems: Problems, given: Mapping[str, Any] | None = None) -> Any:
    """An object of an attrs class from a mapping; ``given`` are fields that were read elsewhere."""
    fields, hints, values = fields_of(cls), hints_of(cls), dict(given or {})
    for key, child in read_mapping(node, fields, problems).items():
        if key in fields and key not in values:
            values[key] = read_value(child, hints[key], problems)
    if not isinstance(node.value, Mapping):
        return BAD
    for name, one in fields.items():
        if name not in values and one.default is attrs.NOTHING:
            problems.add(node, "missing", f"write {_wanted(hints[name])}", name)
            values[name] = BAD
    for name, value in values.items():
        if not _allowed(node.at(name), fields.get(name), value, problems):
            values[name] = BAD
    if any(value is BAD for value in values.values()):
        return BAD
    try:
        return cls(**{str(attrs.fields_dict(cls)[name].alias): value for name, value in values.items()})
    except DponeError as error:  # it may name the key: "read options.header", "read columns.amount"
        named = error.failed.removeprefix("read ").removeprefix("options.").split(".")
        problems.add(node.at(*named), error.found, error.todo)
    except (ValueError, TypeError) as error:
        problems.add(node, str(error.args[0] if error.args else error), "fix the value")
    return BAD


def _allowed(node: Node, one: Any, value: Any, problems: Problems) -> bool:
    """Ask a field's own validator, so that its problem has the value's line and hides no other."""
    if value is BAD or one is None or one.validator is None or one.converter is not None:
        return True
    try:
        one.validator(None, one, value)
    except DponeError as error:
        problems.add(node, error.found, error.todo)
    except (ValueError, TypeError) as error:
        text = str(error.args[0] if error.args else error)
        if node.filled:
            text = text.replace(repr(value), node.written).replace(str(value), node.written)
        problems.add(node, text, "fix the value")
    except AttributeError:  # it looks at other fields, so it must wait for the whole object
        return True
    else:
        return True
    return False


def read_mapping(node: Node, known: typing.Collection[str], problems: Problems) -> Mapping[str, Node]:
    """The items of a node that must be a mapping of known keys."""
    if node.value is None:
        return {}
    if not isinstance(node.value, Mapping):
        problems.add(node, f"found {shown_value(node)}", f"write a mapping with {', '.join(known)}")
        return {}
    for key, child in node.value.items():
        if key not in known:
            todo = nearest(key, known) or f"use one of {', '.join(known)}"
            problems.add(evolve(node, line=child.line), f"unknown key {quoted(key)}", todo.rstrip(", "))
    return node.value


def plain_data(node: Node) -> Any:
    """A node as JSON data."""
    if isinstance(node.value, Mapping):
        return {key: plain_data(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain_data(child) for child in node.value]
    return None if node.value is None else resolved(node)


def nearest(word: str, known: typing.Collection[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}? " if near else ""


def shown_value(node: Node) -> str:
    """The text in the file, never the value of an environment variable."""
    if isinstance(node.value, Mapping):
        return "a mapping"
    if isinstance(node.value, tuple):
        return "a list"
    if node.is_null:
        return "no value"
    kind = {str: "the text ", int: "the integer ", float: "the number ", bool: ""}[type(resolved(node))]
    if node.filled:
        return f"{kind.replace('the ', 'a ').replace('a integer', 'an integer') or 'true or false '}from {node.written}"
    return kind + (quoted(node.written) if kind == "the text " else node.written)


def _wanted(hint: Any) -> str:
    origin, arguments = get_origin(hint), [a for a in get_args(hint) if a not in (type(None), ...)]
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in _LISTS:
        return "a list" + (" of text" if arguments[:1] == [str] else "")
    if hint not in _LEAVES and attrs.has(hint):
        return f"a mapping with {', '.join(fields_of(hint))}"
    return _LEAVES.get(hint, "a mapping" if origin in _MAPPINGS or hint is Mapping else "a value")
