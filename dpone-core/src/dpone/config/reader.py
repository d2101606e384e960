"""YAML to model: read a pipeline file, find every problem at once, and say each in one line.

Form of the file (``${NAME}`` and ``${NAME:-default}`` stand for environment variables in any value, ``$${`` for the
text ``${``; they are filled in after parsing, so a value never changes the structure):

    pipeline: orders                        # required
    labels: {env: dev}
    source: {type, connection, table | query | path | topic, exclude, options}
    sink: {type, connection, table | path | topic, strategy: {mode, key, ...}, options, contract}
    state: {type, connection | path, options}             # default: sqlite:///.dpone/state.db
    runtime: {partitions, workers, batch_rows, retries, resume}
    notify: [{webhook, on, timeout, retries}]             # messages at the end of a run
    connections: {name: URL or mapping}     # or the name of a file that holds such a mapping

For many tables, ``defaults`` and ``streams`` take the place of ``source`` and ``sink``; mappings are merged key by key:

    defaults:
      source: {type: postgres, connection: shop}
      sink: {type: sqlite, connection: "sqlite:///copy.db", table: "{schema}_{table}", strategy: {mode: full_refresh}}
    streams:
      - public.customers                                  # the name of a source table
      - "sales.*"                                         # a glob: one stream for every table that matches,
                                                          # but for those named by source.exclude
      - name: orders
        source: {table: public.orders, options: {incremental: {by: cursor, column: updated_at}}}
        sink: {strategy: {mode: merge, key: [id]}}

``streams`` may also be a mapping of names to such entries. A stream is named by ``name``, else by its source table,
else by its sink table. A single source and sink are a stream named by the sink's table, else by the pipeline.
``{table}`` and ``{schema}`` in the sink's table, path or topic are the parts of the source table's name; a sink of
tables that names none takes the source table's own name, without the schema.

A ``connection`` is a URL, the name of one of ``connections``, or a mapping, which reaches the connector as JSON text.
Relative paths are relative to the folder of the pipeline file, also those that come from a file of connections.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import evolve, frozen

from dpone.capability import INCREMENTAL, WHAT, Connector, Role, Support
from dpone.config.document import (
    REFERENCE,
    Node,
    PipelineErrors,
    Problems,
    filled_in,
    parsed,
    quoted,
    read_yaml,
    repeated,
    value_of,
)
from dpone.config.values import BAD, fields_of, nearest, plain_data, read_mapping, read_record, read_value, shown_value
from dpone.errors import ConfigError, PluginError
from dpone.model.pipeline import Notification, Pipeline, Runtime, SinkSpec, SourceSpec, StateSpec, StreamSpec
from dpone.model.row_contract import RowContract
from dpone.model.schema import Name
from dpone.model.secret import CLEAR, Secret, register, unclear
from dpone.model.strategy import ALIASES, CHANGES, MODES, Strategy
from dpone.plugins import Plugins, discover

KEYS = ("pipeline", "labels", "source", "sink", "state", "runtime", "notify", "connections", "defaults", "streams")
DEFAULT_STATE: Mapping[str, str] = {"type": "sqlite", "connection": "sqlite:///.dpone/state.db"}


def load_pipeline(
    path: str | Path, *, env: Mapping[str, str] | None = None, plugins: Plugins | None = None
) -> Pipeline:
    """Read and check a pipeline file; connects to nothing. ``env`` stands for the environment.

    Streams that select tables by a glob are kept as one, to be opened with ``expand``. Raises PipelineErrors.
    """
    path = Path(path)
    problems = Problems(str(path))
    env = os.environ if env is None else env
    document = read_yaml(path, str(path), problems)
    root = read_mapping(document, KEYS, problems)
    if not isinstance(document.value, Mapping):
        problems.raise_if_any()  # nothing more can be said of it
    connections = root.get("connections")
    filled = {key: filled_in(node, env, problems) for key, node in root.items() if key != "connections"}
    base = Path(os.path.abspath(path)).parent
    named = _connections(connections, path, env, problems) if connections else {}
    start = Node(filled, "", 1, str(path))
    pipeline = _Reader(base, env, plugins or discover(), named, problems).pipeline(start)
    problems.raise_if_any()
    return evolve(pipeline, path=Path(os.path.abspath(path)))


def expand(pipeline: Pipeline, tables_of: Callable[[SourceSpec, str], Sequence[str]]) -> Pipeline:
    """The pipeline with one stream per matched table in place of each stream that selects tables by a glob.

    The new streams are named by their tables, whatever the name of the stream they come from. A change stream of many
    tables stays one stream: its tables are known by its changes, and share one commit.
    ``tables_of(source, glob)`` answers names as ``Source.tables`` does. A table that a stream of its own already
    reads from the same source is left to that stream. Raises ConfigError if a glob matches nothing, or if two streams
    would have one name or two tables one target.
    """
    own = {stream.source.location for stream in pipeline.streams if not stream.tables}
    streams: list[StreamSpec] = []
    for stream in pipeline.streams:
        if not stream.tables or stream.source.changes:
            streams.append(stream)
            continue
        found = tables_of(stream.source, stream.tables)
        tables = [table for table in found if not stream.source.excludes(Name.parse(table))]
        if not tables:
            todo = "fix the glob, or grant the right to see the tables"
            but = f" except {', '.join(found)}, which source.exclude excludes" if found else ""
            raise ConfigError(f"expand stream {stream.name}", f"no table matches {stream.tables}{but}", todo)
        made = [_one_of(stream, Name.parse(table)) for table in tables]
        streams += [one for one in made if one.source.location not in own]
    failed = f"expand the streams of {pipeline.name}"
    for name in repeated([stream.name for stream in streams]):
        raise ConfigError(failed, f"two streams are named {name}", "make the globs match different tables")
    made_now = {stream.sink.location for stream in streams if stream not in pipeline.streams}
    for target in made_now.intersection(repeated([stream.sink.location for stream in streams])):
        todo = "use a different target for each with sink: {table: '{schema}_{table}'} or '{schema}.{table}'"
        raise ConfigError(failed, f"two source tables have the same target {target}", todo)
    return evolve(pipeline, streams=tuple(streams))


def row_contract(text: str, shown: str = "contract") -> RowContract:
    """A row contract from its own text, YAML or JSON. Raises PipelineErrors, whose lines begin with ``shown``."""
    problems = Problems(shown)
    contract = read_value(parsed(text, shown, problems), RowContract, problems)
    problems.raise_if_any()
    return cast(RowContract, contract)


def source_spec(
    node: Node, connections: Node | None, base: Path, problems: Problems, env: Mapping[str, str] | None = None
) -> SourceSpec:
    """A source on its own, ``node`` being what stands below ``source:``. connections: the mapping of that key, if there
    is one. base: the folder of relative paths. Raises PipelineErrors."""
    env = os.environ if env is None else env
    named = connections.items if connections else {}
    spec = _Reader(base, env, discover(), named, problems)._source(filled_in(node, env, problems))
    problems.raise_if_any()
    return cast(SourceSpec, spec)


def sink_spec(node: Node, connections: Node, base: Path, problems: Problems) -> SinkSpec:
    """As ``source_spec``, of what stands below ``sink:``."""
    spec = _Reader(base, os.environ, discover(), connections.items, problems)._sink(
        filled_in(node, os.environ, problems), None
    )
    problems.raise_if_any()
    return cast(SinkSpec, spec)


# --- the pipeline ---


def _connections(node: Node, pipeline: Path, env: Mapping[str, str], problems: Problems) -> Mapping[str, Node]:
    """Connections by name, from the mapping or from the file it names; filled in only when used."""
    if node.is_scalar and not node.is_null:
        name = read_value(filled_in(node, env, problems), str, problems)
        if name is BAD:
            return {}
        path = pipeline.parent / os.path.expanduser(name)
        try:
            node = read_yaml(path, str(path), problems)
        except PipelineErrors:
            return {}  # the problems are noted; go on to find those of the pipeline file
    if not isinstance(node.value, Mapping):
        todo = "write name: URL for each connection, or the name of a file with them"
        problems.add(node, f"found {shown_value(node)}", todo)
    return node.items


@frozen
class _Reader:
    """Reads the parts of a pipeline: what they share is the file, its connections and the plugins."""

    base: Path
    env: Mapping[str, str]
    plugins: Plugins
    connections: Mapping[str, Node]
    problems: Problems

    def pipeline(self, root: Node) -> Pipeline:
        name = self._required(root, "pipeline", "write pipeline: NAME")
        self._check_name(root.at("pipeline"), name)
        streams = tuple(self._streams(root, name))
        state = root.items.get("state") or self._default_state(root)
        return Pipeline(
            name=name,
            streams=streams,
            state=self._state(state),
            labels=self._optional(root, "labels", Mapping[str, str], {}),
            runtime=self._optional(root, "runtime", Runtime, Runtime()),
            notify=self._optional(root, "notify", tuple[Notification, ...], ()),
        )

    # streams

    def _streams(self, root: Node, pipeline: str) -> Iterator[StreamSpec]:
        names: dict[str, Node] = {}
        whole: dict[str, tuple[Node, bool]] = {}
        for entry, given in self._entries(root):
            stream = self._stream(entry, given, pipeline)
            if stream is None:
                continue
            self._check_name(entry, stream.name)
            other = names.setdefault(stream.name, entry)
            if other is not entry:
                found = f"the stream in line {other.line} is also named {stream.name}"
                self.problems.add(entry, found, "rename one of them with name:")
            if not stream.tables:  # those of a glob have their targets after expand
                self._check_target(entry, stream, whole)
            yield stream

    def _entries(self, root: Node) -> Iterator[tuple[Node, Node | None]]:
        """Each stream as a mapping of source and sink, with the node of its name if it has one."""
        items = root.items
        if "streams" not in items:
            if "defaults" in items:
                todo = "add streams:, or write source: and sink: instead"
                self.problems.add(items["defaults"], "there are no streams to apply it to", todo)
            yield evolve(root, value={key: items[key] for key in ("source", "sink") if key in items}), None
            return
        for key in ("source", "sink"):
            if key in items:
                self.problems.add(
                    items[key], "cannot be combined with streams", f"move it to defaults.{key} or into a stream"
                )
        defaults = root.items.get("defaults")
        parts = read_mapping(defaults, ("source", "sink"), self.problems) if defaults else {}
        streams = items["streams"]
        if streams.value is None:
            return
        if not streams.value or streams.is_scalar:
            found = shown_value(streams) if streams.is_scalar else "no streams"
            todo = "write a list, or a mapping of names, with at least one stream"
            self.problems.add(streams, f"found {found}", todo)
            return
        named = streams.items.items() if streams.items else ((None, node) for node in cast(Any, streams.value))
        for name, node in named:
            entry = self._entry(node, name)
            merged = {key: one for key in ("source", "sink") if (one := _merged(parts.get(key), entry, key))}
            yield evolve(entry, value=merged), entry.items.get("name") if name is None else _text_node(name, node)

    def _entry(self, node: Node, name: str | None) -> Node:
        """An entry of streams; text stands for the name of the source table."""
        if node.is_scalar and not node.is_null:
            source = evolve(node, value={"table": node}, plain=False)
            return evolve(node, value={"source": source}, plain=False)
        if name is not None and node.is_null:
            return evolve(node, value={}, plain=False)
        read_mapping(node, ("source", "sink") if name is not None else ("name", "source", "sink"), self.problems)
        return node if node.items else evolve(node, value={}, plain=False)

    def _stream(self, entry: Node, given: Node | None, pipeline: str) -> StreamSpec | None:
        name = read_value(given, str, self.problems) if given else None
        source = sink = BAD
        if "source" in entry.items:
            source = self._source(entry.items["source"])
        else:
            self.problems.add(entry, "missing", "write source: {type: ...}", "source")
        if "sink" in entry.items:
            sink = self._sink(entry.items["sink"], source if source is not BAD else None)
        else:
            self.problems.add(entry, "missing", "write sink: {type: ..., strategy: {mode: ...}}", "sink")
        if source is BAD or sink is BAD or name is BAD:
            return None
        self._check_pair(entry, source, sink)
        glob = _glob(entry.at("source", "table"))
        if name is None:
            name = _own_name(source, sink, glob) if entry.path else (None if glob else _target(sink)) or pipeline
        if name is None:
            self.problems.add(entry, "missing", "give the stream a name", "name")
            return None
        stream = StreamSpec(name, source, sink, glob)
        if glob or source.table is None:
            return stream
        try:
            return evolve(stream, sink=substituted(sink, source.table))
        except ConfigError as error:
            self.problems.add(entry.at("sink"), error.found, error.todo)
            return None

    def _check_name(self, node: Node, name: Any) -> None:
        if isinstance(name, str) and (not name or name != name.strip() or "|" in name or not name.isprintable()):
            todo = "use printable characters, without | and without spaces at the ends"
            self.problems.add(node, f"{quoted(name)} is not a valid name", todo)

    def _check_target(self, entry: Node, stream: StreamSpec, whole: dict[str, tuple[Node, bool]]) -> None:
        """Two streams may load one target, unless one of them replaces all its rows."""
        replaces = stream.sink.strategy.whole and not stream.sink.strategy.where
        other, theirs = whole.setdefault(stream.sink.location, (entry, replaces))
        if other is not entry and (replaces or theirs):
            found = (
                f"it and the stream in line {other.line} load {_target(stream.sink)}, and one of them replaces all rows"
            )
            self.problems.add(entry, found, "give them different targets")

    def _check_changes(self, entry: Node, place: Node, source: SourceSpec, sink: SinkSpec) -> None:
        """A change stream needs a strategy that understands changes, and tables that fit into one commit."""
        if sink.strategy.mode not in ("append", *CHANGES):
            todo = "use cdc_apply for current rows, scd2 for versions of rows, append for every change, "
            todo += "or remove incremental"
            self.problems.add(place, f"{sink.strategy.mode} loads rows, but the source reads a change stream", todo)
        if sink.strategy.mode == "scd2":
            self._check_versions(entry, sink)
        if sink.contract is not None:
            found = "a contract checks rows, but the source reads a change stream"
            self.problems.add(entry.at("sink", "contract"), found, "remove contract")
        if _glob(entry.at("source", "table")) is None:
            return
        if sink.options.undo is not None:
            todo = "remove undo, or use one stream per table, with its name in source.table"
            found = "a load of several tables cannot be taken back"
            self.problems.add(entry.at("sink", "options", "undo"), found, todo)
        record, table = self.plugins.get("sink", sink.type), entry.at("sink", "table")
        if record.capabilities.get("many_tables") is not Support.SUPPORTED:
            todo = "use one stream per table, with its name in source.table"
            self.problems.add(entry.at("sink", "type"), f"{sink.type} commits one table at a time", todo)
        elif sink.table is not None and "{table}" not in sink.table.last:
            todo = "write {table} in the name, as in landing_{table}"
            self.problems.add(table, f"all tables of {source.table} would be loaded into {sink.table}", todo)
        elif sink.table is not None and any("{" in part for part in sink.table.parts[:-1]):
            todo = "write the name of one schema; the stream's journal is stored there"
            self.problems.add(table, f"{sink.table} would put the tables of one commit into different schemas", todo)

    def _check_versions(self, entry: Node, sink: SinkSpec) -> None:
        """scd2 of a change stream: the changes themselves say when versions begin and end."""
        strategy, where = sink.strategy, entry.at("sink", "strategy")
        given = {"deletes": strategy.deletes, "effective_from": strategy.effective_from}
        given["new_columns"] = "version" if strategy.new_columns == "version" else None
        for option in (name for name, value in given.items() if value is not None):
            found = f"{option} applies to rows; the change stream itself says when versions begin and end"
            self.problems.add(where.at(option), found, f"remove {option}")
        if self.plugins.get("sink", sink.type).capabilities.get("cdc_apply") is not Support.SUPPORTED:
            found = f"{sink.type} cannot apply scd2 to a change stream"
            self.problems.add(where.at("mode"), found, "use append, or remove incremental")
        if sink.options.undo is not None:
            found = "versions from a change stream cannot be taken back"
            self.problems.add(entry.at("sink", "options", "undo"), found, "remove undo")

    def _check_pair(self, entry: Node, source: SourceSpec, sink: SinkSpec) -> None:
        incremental, mode = source.options.incremental, sink.strategy.mode
        if sink.strategy.mode == "cdc_apply" and not source.changes:
            todo = "add source.options.incremental: {by: cdc}, or use merge"
            self.problems.add(entry.at("sink", "strategy", "mode"), "cdc_apply takes changes, not rows", todo)
        if sink.strategy.mode == "scd2" and not source.changes:
            if not sink.strategy.key:
                self.problems.add(entry.at("sink", "strategy"), "no key", "name the key columns, as in key: [id]")
            if sink.strategy.truncate != "fail":
                found = "truncate applies to change streams, but this source is not a change stream"
                self.problems.add(entry.at("sink", "strategy", "truncate"), found, "remove truncate")
        if incremental is None:
            return
        place = entry.at("source", "options", "incremental")
        if source.changes:
            self._check_changes(entry, place, source, sink)
            return
        if sink.strategy.whole:
            todo = "remove incremental, or use append or merge"
            self.problems.add(
                place, f"{mode} needs every row, but an incremental read returns only some of the rows", todo
            )
        if mode == "partition_replace":
            todo = "remove incremental and read whole partitions, or use merge"
            self.problems.add(
                place, "an incremental read may return only part of a partition, and the rest would be deleted", todo
            )
        if mode == "append" and incremental.lookback:
            todo = "remove lookback, or use merge"
            self.problems.add(place.at("lookback"), "append would load the rows of the lookback again", todo)

    # source, sink, state

    def _source(self, node: Node) -> Any:
        record = self._connector("source", node)
        spec = self._spec("source", node, SourceSpec, record, {})
        if spec is not BAD and spec.exclude:
            self._check_exclude(node, spec)
        return spec

    def _increment(self, node: Node, record: Connector, options: Any) -> Any:
        """The options, with the reader of ``incremental`` filled in."""
        if options is BAD or options.incremental is None:
            return options
        by, offered = options.incremental.by, self.plugins.increments(record.name)
        if by not in offered:
            others = [one for one in self.plugins.names("source") if by in self.plugins.increments(one)]
            todo = f"use one of {', '.join(offered)}" if offered else "remove incremental"
            elsewhere = f", or use source {' or '.join(others)}, which reads by {by}" if others else ""
            found = f"{record.name} cannot read by {by} ({_support(record, INCREMENTAL + by)})"
            self.problems.add(node.at("options", "incremental", "by"), found, todo + elsewhere)
            return options
        try:
            changes = self.plugins.reader(record.name, by) is not None
            return evolve(options, incremental=options.incremental.read_by(changes))
        except ConfigError as error:
            self.problems.add(node.at("options", "incremental"), error.found, error.todo)
            return BAD

    def _check_exclude(self, node: Node, source: SourceSpec) -> None:
        place = node.at("exclude")
        if (source.table is not None and _glob(node.at("table")) is None) or not (source.table or source.changes):
            todo = "write a glob in source.table, as in 'sales.*', or remove exclude"
            self.problems.add(place, "exclude applies only to several tables", todo)
        for pattern in source.exclude:
            try:
                Name.parse(pattern)
            except ConfigError as error:
                self.problems.add(place, error.found, error.todo)

    def _sink(self, node: Node, source: SourceSpec | None) -> Any:
        record = self._connector("sink", node)
        strategy = self._strategy(node, record)
        from_table = record and "table" in record.takes and source and source.table
        if from_table and not any(key in node.items for key in WHAT):
            node = evolve(node, value={**node.items, "table": _text_node("{table}", node)})
        spec = self._spec("sink", node, SinkSpec, record, {"strategy": strategy})
        if record and spec is not BAD and spec.options.undo is not None:
            self._check_undo(node, record)
        return spec

    def _check_undo(self, node: Node, record: Connector) -> None:
        if record.capabilities.get("undo") is not Support.SUPPORTED:
            found = f"{record.name} cannot take back a load ({_support(record, 'undo')})"
            self.problems.add(node.at("options", "undo"), found, "remove undo")

    def _strategy(self, node: Node, record: Connector | None) -> Any:
        modes = [name for name in MODES if record is None or record.capabilities.get(name) is Support.SUPPORTED]
        if "strategy" not in node.items:
            if isinstance(node.value, Mapping):
                todo = f"there is no default; write strategy: {{mode: ...}} with one of {', '.join(modes)}"
                self.problems.add(node, "missing", todo, "strategy")
            return BAD
        place = node.items["strategy"]
        mode = place.items.get("mode")
        if mode and isinstance(mode.value, str):
            plain_mode = evolve(mode, value=ALIASES.get(mode.value, mode.value))
            place = evolve(place, value={**place.items, "mode": plain_mode})
        strategy = read_value(place, Strategy, self.problems)
        if strategy is not BAD and strategy.mode not in modes and record:
            found = f"{record.name} cannot load by {strategy.mode} ({_support(record, strategy.mode)})"
            self.problems.add(place.at("mode"), found, f"use one of {', '.join(modes)}")
        return strategy

    def _state(self, node: Node) -> Any:
        return self._spec("state", node, StateSpec, self._connector("state", node), {})

    def _default_state(self, root: Node) -> Node:
        items = {key: Node(text, "state", 1, root.file, written=text) for key, text in DEFAULT_STATE.items()}
        return Node(items, "state", 1, root.file)

    def _connector(self, role: Role, node: Node) -> Connector | None:
        name = self._required(node, "type", f"write one of {', '.join(self.plugins.names(role))}")
        if not isinstance(name, str):
            return None
        try:
            record = self.plugins.get(role, name)
        except PluginError as error:
            near = nearest(name, self.plugins.names(role))
            self.problems.add(node.at("type"), f"{error.failed}: {error.found}", near + error.todo)
            return None
        if not record.implemented:
            able = [one for one in self.plugins.names(role) if self.plugins.get(role, one).implemented]
            found = f"{name} is not implemented as a {role} in this version"
            self.problems.add(node.at("type"), found, f"use one of {', '.join(able)}")
            return None
        return record

    def _spec(self, role: Role, node: Node, cls: Any, record: Connector | None, given: Mapping[str, Any]) -> Any:
        values = {**given, "base": self.base, "type": record.name if record else BAD, "options": BAD}
        if "connection" in node.items:
            values["connection"] = self._connection(node.items["connection"])
            values |= self._named(node.items["connection"]) if cls is not StateSpec else {}
        if record:
            options = self._options(role, node, record)
            values["options"] = options = self._increment(node, record, options) if role == "source" else options
            self._check_takes(node, cls, record, self._change_reader(record, options) if role == "source" else None)
        return read_record(node, cls, self.problems, values)

    def _change_reader(self, record: Connector, options: Any) -> Connector | None:
        incremental = options.incremental if options is not BAD else None
        return self.plugins.reader(record.name, incremental.by) if incremental is not None else None

    def _options(self, role: Role, node: Node, record: Connector) -> Any:
        empty = Node({}, f"{node.path}.options", node.line, node.file)
        given = node.items.get("options", empty)
        by = given.items.get("incremental")
        if role == "source" and by and by.items and "by" not in by.items:
            offered = self.plugins.increments(record.name)
            self.problems.add(by, "missing", f"write one of {', '.join(offered)}" if offered else "remove it", "by")
            return BAD
        try:
            return read_value(given, self.plugins.options(role, record.name), self.problems)
        except PluginError as error:
            self.problems.add(node.at("type"), f"{error.failed}: {error.found}", error.todo)
            return BAD

    def _check_takes(self, node: Node, cls: Any, record: Connector, changes: Connector | None = None) -> None:
        """``changes``: the change reader; it reads one table, the tables of a glob, or without a name all tables."""
        record = changes or record
        able = [key for key in WHAT if key in record.takes and key in fields_of(cls)]
        named = [key for key in (*WHAT, "connection") if key in node.items]
        if changes and able != ["table"]:
            able = [key for key in able if key != "table"]
        for key in named:
            if key not in record.takes and key in fields_of(cls):
                todo = f"remove it ({record.name} accepts {', '.join(record.takes) or 'none of these keys'})"
                self.problems.add(node.items[key], f"{record.name} does not accept {key}", todo)
        given = [key for key in able if key in node.items and not node.items[key].is_null]
        if len(able) == 1 and not given:
            self.problems.add(node, "missing", f"add {able[0]}:, which {record.name} requires", able[0])
        elif able and not given:
            self.problems.add(node, "missing", f"write exactly one of {', '.join(able)}")
        elif len(given) > 1:
            self.problems.add(node, f"found {' and '.join(given)}", "keep exactly one of them")
        if "connection" in record.takes and "connection" not in node.items:
            todo = "write a URL, as in ${NAME}, or a name from connections:"
            self.problems.add(node, "missing", todo, "connection")

    def _named(self, node: Node) -> Mapping[str, str]:
        return {"named": node.value} if isinstance(node.value, str) and node.value in self.connections else {}

    def _connection(self, node: Node) -> Any:
        """A Secret; its text is never shown, wherever it came from."""
        if isinstance(node.value, str) and node.value in self.connections:
            node = filled_in(self.connections[node.value], self.env, self.problems)
        if node.value is None:
            return BAD
        todo = "write a URL, as in ${NAME}, or a name from connections:"
        if isinstance(node.value, Mapping):
            return Secret(json.dumps(plain_data(node), ensure_ascii=False)) if _complete(node) else BAD
        if node.is_null or not node.value or not isinstance(node.value, str):
            self.problems.add(node, "no value" if node.is_scalar else "found a list", todo)
            return BAD
        if re.fullmatch(r"[\w-]+", node.value):
            known = ", ".join(self.connections) or "which is empty"
            near = nearest(node.value, self.connections)
            self.problems.add(node, "neither a URL nor the name of a connection", f"{near}{todo} ({known})")
            return BAD
        return Secret(node.value) if self._check_userinfo(node) and self._check_clear(node) else BAD

    def _check_clear(self, node: Node) -> bool:
        found = unclear(cast(str, node.value))
        if found:
            register(cast(str, node.value))
            self.problems.add(node, found, CLEAR)
        return not found

    def _check_userinfo(self, node: Node) -> bool:
        """A variable before the ``@`` of a URL must not contain characters that end the user and password early."""
        before = node.written.rpartition("@")[0]
        for match in REFERENCE.finditer(before if "://" in before else ""):
            if match[1] and re.search(r"[/?#;@]", value_of(match, self.env) or ""):
                todo = "percent-encode it: %40 for @, %2F for /"
                found = f"the value of {match[1]}, used in the user or password of a URL, contains / ? # ; or @"
                self.problems.add(node, found, todo)
                return False
        return True

    # keys of the top level

    def _required(self, node: Node, key: str, todo: str) -> Any:
        if key in node.items:
            return read_value(node.items[key], str, self.problems)
        if isinstance(node.value, Mapping):
            self.problems.add(node, "missing", todo, key)
        return BAD

    def _optional(self, node: Node, key: str, hint: Any, default: Any) -> Any:
        return read_value(node.items[key], hint, self.problems) if key in node.items else default


def _text_node(text: str, place: Node) -> Node:
    return Node(text, place.path, place.line, place.file, written=text)


def _complete(node: Node) -> bool:
    """No value in it failed to be filled in."""
    below = node.value if isinstance(node.value, tuple) else tuple(node.items.values())
    return node.value is not None and all(_complete(child) for child in below)


def _merged(default: Node | None, entry: Node, key: str) -> Node | None:
    """``key`` of a stream over the defaults. Keys that only the defaults have get the stream's line; their values keep
    their own lines."""
    over = entry.items.get(key)
    if default is None or over is None:
        return over or (default and evolve(default, path=f"{entry.path}.{key}", line=entry.line))
    if any(one in over.items for one in WHAT):
        default = evolve(default, value={k: v for k, v in default.items.items() if k not in WHAT})
    return _over(default, over)


def _over(default: Node, over: Node) -> Node:
    if not isinstance(default.value, Mapping) or not isinstance(over.value, Mapping):
        return over
    both = {key: _over(default.value[key], node) if key in default.value else node for key, node in over.value.items()}
    return evolve(over, value={**default.value, **both})


def _support(record: Connector, name: str) -> str:
    return str(record.capabilities.get(name, Support.UNSUPPORTED))


# --- globs and placeholders ---


def _glob(node: Node) -> str | None:
    """The text of a table that has a wildcard outside double quotes."""
    if isinstance(node.value, str) and re.search(r"[*?\[]", re.sub(r'"(?:[^"]|"")*"', "", node.value)):
        return node.value
    return None


def _target(sink: SinkSpec) -> str | None:
    what = sink.table or sink.path or sink.topic
    return str(what) if what else None


def _own_name(source: SourceSpec, sink: SinkSpec, glob: str | None) -> str | None:
    return glob or (str(source.table) if source.table else None) or (str(sink.table) if sink.table else None)


def _one_of(stream: StreamSpec, table: Name) -> StreamSpec:
    source = evolve(stream.source, table=table)
    return StreamSpec(str(table), source, substituted(stream.sink, table))


def substituted(sink: SinkSpec, table: Name) -> SinkSpec:
    """``{table}`` and ``{schema}`` filled in, part by part, so that a dot in a name stays in its part."""

    def fill(text: str) -> str:
        if "{schema}" in text and len(table.parts) < 2:
            todo = "write the name of a schema instead"
            raise ConfigError("fill in the target", f"{{schema}} is used, but table {table} has no schema", todo)
        return re.sub(r"\{(schema|table)\}", lambda match: table.parts[-1 if match[1] == "table" else -2], text)

    return evolve(
        sink,
        table=sink.table and evolve(sink.table, parts=[fill(part) for part in sink.table.parts]),
        path=sink.path and fill(sink.path),
        topic=sink.topic and fill(sink.topic),
    )
