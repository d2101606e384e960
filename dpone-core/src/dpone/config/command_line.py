"""What a command line gives where there is no pipeline file: a source, and a row contract. Both are read as they would
be in one, with ``${NAME}`` filled in from the environment, and their problems begin with the name of the option."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from attrs import evolve

from dpone.capability import Role
from dpone.config.document import Node, Problems, filled_in, parsed, read_yaml
from dpone.config.odcs import Mapped, is_odcs, mapped
from dpone.config.reader import sink_spec, source_spec
from dpone.config.values import read_value
from dpone.model.pipeline import SinkSpec, SourceSpec
from dpone.model.row_contract import RowContract
from dpone.model.secret import Secret
from dpone.plugins import discover


def file_source(path: str, options: str | None, base: Path, format: str | None = None) -> SourceSpec:
    """Of the file connector. options: YAML or JSON, as below ``source.options``. format: where they name none. Raises
    PipelineErrors."""
    problems = Problems("--rows")
    given = _options(options, problems)
    if format is not None and "format" not in given:
        given["format"] = _text(format, "source.options.format", "--rows")
    items = {
        "type": _text("file", "source.type", "--rows"),
        "path": _text(path.replace("${", "$${"), "source.path", "--rows"),
    }
    return source_spec(_source(items, given, "--rows"), None, base, problems)


def table_source(
    connection: str, table: str, type_: str | None, options: str | None, connections: Path | None, base: Path
) -> SourceSpec:
    """connection: a URL, a name of ``connections`` (a file of them, or a pipeline file), or a mapping in YAML or JSON.
    type_: of the source; left out, what the URL begins with. Raises PipelineErrors."""
    option = "--connection"
    problems = Problems(option)
    known = _connections(connections, problems) if connections is not None else None
    value = _text(connection, "source.connection", option)
    if connection.lstrip().startswith("{") and not connection.lstrip().startswith("${"):
        value = _below(parsed(connection, option, problems), "source.connection")
    found = filled_in((known.items if known else {}).get(connection, value), os.environ, problems)
    items = {"connection": value, "table": _text(table, "source.table", "--table")}
    items["type"] = _text(type_ or _type(found, option, problems), "source.type", option)
    if items["type"].value in {*_databases()} - {*_implemented()}:
        what = f"this version has no source for {items['type'].value}"
        problems.fatal(items["type"], what, f"use a connection of {', '.join(_implemented())}")
    return source_spec(_source(items, _options(options, problems), option), known, base, problems)


def has_pipeline(path: Path) -> bool:
    """A pipeline file, rather than one of connections. Raises PipelineErrors."""
    problems = Problems(str(path))
    root = read_yaml(path, str(path), problems)
    problems.raise_if_any()
    return "pipeline" in root.items


def table_sink(connection: str, table: str, connections: Path) -> SinkSpec | None:
    """A table of a SQL sink. connection: a name of ``connections`` (a file of them, or a pipeline file), None if a
    pipeline file does not have it. Raises PipelineErrors."""
    option = "--sink"
    problems = Problems(option)
    root = read_yaml(connections, str(connections), problems)
    known = root.items.get("connections", root) if "pipeline" in root.items else root
    if connection not in known.items:
        if "pipeline" in root.items:
            return None
        todo = f"use one of {', '.join(known.items) or 'those of another file'}, or a pipeline file"
        problems.fatal(root, f"the file has no connection {connection}", todo)
    found = filled_in(known.items[connection], os.environ, problems)
    scheme = found.value.partition("://")[0].lower() if isinstance(found.value, str) else ""
    names = [name for name in discover().names("sink") if discover().supports("sink", name, "sql")]
    type_ = next((name for name in names if scheme.startswith(name)), None)
    if type_ is None:
        todo = (
            f"use a connection whose URL begins with one of {', '.join(names)}, or a pipeline file that loads the table"
        )
        problems.fatal(found, "the connection does not begin with the type of a SQL sink", todo)
    items = {"type": type_, "connection": connection, "table": table}
    below = {key: _text(str(value), f"sink.{key}", option) for key, value in items.items()}
    mode = Node({"mode": _text("append", "sink.strategy.mode", option)}, "sink.strategy", 1, option)
    base = Path(os.path.abspath(connections)).parent
    return sink_spec(Node({**below, "strategy": mode}, "sink", 1, option), known, base, problems)


def named_connection(role: Role, name: str, file: Path) -> tuple[str, Secret] | None:
    """Type and address of a connection of ``file`` (a pipeline file, or one of connections); None if it has none of
    this name. The type is what the URL begins with. Raises PipelineErrors."""
    problems = Problems(f"--{role}")
    root = read_yaml(file, str(file), problems)
    known = root.items.get("connections", Node({}, "", 0, str(file))) if "pipeline" in root.items else root
    problems.raise_if_any()
    if name not in known.items:
        return None
    found = filled_in(known.items[name], os.environ, problems)
    problems.raise_if_any()
    scheme = found.value.partition("://")[0].lower() if isinstance(found.value, str) else ""
    names = discover().names(role)
    type_ = next((one for one in names if scheme.startswith(one)), None)
    if type_ is None or not isinstance(found.value, str):
        todo = f"use a connection whose URL begins with one of {', '.join(names)}, or name the type itself"
        problems.fatal(found, f"the connection does not begin with the type of a {role}", todo)
    return type_, Secret(found.value)


def contract_file(path: Path, which: str | None = None, physical: bool = False, skip: bool = False) -> Mapped:
    """Our YAML form of ``sink.contract``, or an Open Data Contract Standard document; which, physical, skip: as in
    ``odcs.mapped``. Raises PipelineErrors."""
    problems = Problems(str(path))
    return _contract(read_yaml(path, str(path), problems), problems, which, physical, skip)


def contract_text(text: str, which: str | None = None, physical: bool = False, skip: bool = False) -> Mapped:
    problems = Problems("--contract-json")
    return _contract(parsed(text, "--contract-json", problems), problems, which, physical, skip)


def _contract(node: Node, problems: Problems, which: str | None, physical: bool, skip: bool) -> Mapped:
    if is_odcs(node):
        found = mapped(node, problems, which, physical, skip)
        problems.raise_if_any()
        return cast(Mapped, found)
    if which is not None:
        problems.fatal(node, "a contract of our own form has no objects", "remove --object")
    contract = read_value(filled_in(node, os.environ, problems), RowContract, problems)
    problems.raise_if_any()
    return Mapped(contract, node.file)


def _connections(path: Path, problems: Problems) -> Node:
    root = read_yaml(path, str(path), problems)
    below = root.items.get("connections")
    if "pipeline" not in root.items:
        return root
    if below is None or not below.items:
        todo = "give the file that its connections: names, or another one"
        problems.fatal(below or root, "the pipeline file itself has no mapping of connections", todo)
    return below


def _type(connection: Node, option: str, problems: Problems) -> str:
    """``postgresql://`` is a source of postgres."""
    scheme = connection.value.partition("://")[0].lower() if isinstance(connection.value, str) else ""
    found = next((name for name in _databases() if scheme.startswith(name)), None)
    if found is None:
        todo = f"add --type with one of {', '.join(_implemented())}"
        problems.fatal(connection, "the connection does not begin with the type of a source", todo)
    return found


def _databases() -> list[str]:
    """Sources with tables; some may be declared only."""
    return [name for name in discover().names("source") if "table" in discover().get("source", name).takes]


def _implemented() -> list[str]:
    return [name for name in _databases() if discover().get("source", name).implemented]


def _options(text: str | None, problems: Problems) -> dict[str, Node]:
    if text is None:
        return {}
    node = _below(parsed(text, "--source-options", problems), "source.options")
    if not isinstance(node.value, Mapping):
        problems.fatal(node, "found no mapping", "write a mapping, as in '{delimiter: ;}'")
    return {**node.items}


def _source(items: Mapping[str, Node], options: Mapping[str, Node], file: str) -> Node:
    below = {"options": Node({**options}, "source.options", 1, "--source-options")} if options else {}
    return Node({**items, **below}, "source", 1, file)


def _text(text: str, path: str, file: str) -> Node:
    return Node(text, path, 1, file, written=text)


def _below(node: Node, path: str) -> Node:
    """The node, with ``path`` put before its path and the paths of its children."""
    value = node.value
    if isinstance(value, Mapping):
        value = {key: _below(child, path) for key, child in value.items()}
    elif isinstance(value, tuple):
        value = tuple(_below(child, path) for child in value)
    return evolve(node, value=value, path=".".join(filter(None, (path, node.path))))
