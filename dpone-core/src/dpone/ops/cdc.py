"""Slots and captures of change streams: plan, create, inspect and drop them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import attrs
from attrs import evolve, frozen

from dpone.contract import CDCReader, CDCStatus, Finding, StateBackend, SupportsStatus
from dpone.engine.journal import START
from dpone.engine.key_move import moved_to
from dpone.engine.pause import Pause, pause_of
from dpone.engine.pause import pause as pause_of_engine
from dpone.engine.pause import resume as resume_of_engine
from dpone.engine.recovery import entry_of
from dpone.engine.rewind import resync as resync_of_engine
from dpone.engine.run import Run
from dpone.errors import ConfigError, StateError, connected
from dpone.model.pipeline import (
    Incremental,
    Pipeline,
    SourceSpec,
    StreamSpec,
)
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.ops.check import failure
from dpone.ops.state import BEHIND, StreamState, stream_state
from dpone.plugins import Plugins, discover, resolve

T = TypeVar("T")


def setup_plan(
    backend: str,
    tables: Sequence[Name],
    options: Mapping[str, Any],
    role: str = "",
    connection: Secret | None = None,
    plugins: Plugins | None = None,
) -> list[str]:
    """Idempotent statements for a DBA, comments last; none for a reader of topics. Nothing is connected to.

    ``role``: the role that will read; by default the user of ``connection``. Raises ConfigError, PluginError."""
    plugins = plugins or discover()
    record = plugins.get("cdc", backend)
    if "table" not in record.takes:  # a topic: nothing of it is prepared by a DBA
        return []
    source, by = record.serves or (backend, "cdc")
    kind: Any = resolve(record.options)
    known = {f.name for f in attrs.fields(kind)}
    if unknown := sorted(set(options) - known):
        todo = f"use options of {source}: {', '.join(sorted(known))}"
        raise ConfigError(f"plan {backend}", f"unknown options: {', '.join(unknown)}", todo)
    incremental = Incremental(by=by, of_changes=True)
    statements: dict[str, None] = {}
    for table in tables:
        spec = SourceSpec(source, connection, table, options=kind(incremental=incremental, **options))
        with closing(plugins.load("cdc", backend)(spec)) as reader:
            statements |= dict.fromkeys(_planned(reader, backend, role))
    return sorted(statements, key=lambda text: text.startswith("--"))


def _planned(reader: CDCReader, backend: str, role: str) -> list[str]:
    if not role:
        return reader.setup_plan()
    if not inspect.signature(reader.setup_plan).parameters:
        raise ConfigError(f"plan {backend}", "it does not use a role", "remove --role")
    return reader.setup_plan(role)


@frozen
class Wanted:
    """What to plan for a change stream of a pipeline. ``options``: the source options that are texts or switches."""

    backend: str
    tables: tuple[Name, ...]
    options: Mapping[str, Any]
    connection: Secret | None


def wanted(pipeline: Pipeline, stream: str | None = None) -> list[Wanted]:
    """The plans of all change streams. Connects to nothing."""
    run = Run(pipeline, () if stream is None else (stream,))
    found = []
    for spec in change_streams(run, stream):
        source = spec.source
        record = run.plugins.reader(source.type, source.changes.by) if source.changes else None
        if record is not None:
            given = attrs.asdict(source.options, recurse=False)
            default = attrs.asdict(type(source.options)(), recurse=False)
            options = {n: value for n, value in given.items() if isinstance(value, str | bool) and value != default[n]}
            tables = () if source.table is None else (source.table,)
            found.append(Wanted(record.name, tables, options, source.connection))
    return found


def create(pipeline: Pipeline, stream: str | None = None, failover: bool = False) -> list[tuple[str, Position]]:
    """Create the slot or capture of each change stream; existing ones stay. Returns where each stream begins.
    ``failover``: set the source's option of that name; raises ConfigError for a source without it."""
    if failover:
        pipeline = evolve(pipeline, streams=tuple(map(_failing_over, pipeline.streams)))
    return _asked(pipeline, stream, lambda reader: reader.create())


def _failing_over(spec: StreamSpec) -> StreamSpec:
    source = spec.source
    if not source.changes:
        return spec
    if "failover" not in {f.name for f in attrs.fields(type(source.options))}:
        found = f"source {source.type} does not have failover slots"
        raise ConfigError(f"create stream {spec.name}", found, "remove --failover")
    return evolve(spec, source=evolve(source, options=evolve(source.options, failover=True)))


def lag(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    return _asked(pipeline, stream, lambda reader: reader.lag())


@frozen
class StreamStatus:
    """A change stream: its position, and the state of its source. ``source`` is None if it could not be
    reached, or if its reader reports no status; ``findings`` says what is wrong with journal, state and source."""

    stream: str
    position: Position | None
    load_id: str | None
    committed_at: str | None
    paused: Pause | None
    source: CDCStatus | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok is not False for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        source = self.source
        return {
            "stream": self.stream,
            "ok": self.ok,
            "position": self.position and self.position.to_json(),
            "load_id": self.load_id,
            "committed_at": self.committed_at,
            "at": source and source.at,
            "end": (source and source.end) or None,
            "lag": {"bytes": source and source.bytes, "seconds": source and source.seconds},
            "slot": dict(source.slot) if source and source.slot else None,
            "waiting_for_snapshot": list(source.waiting) if source else [],
            "paused": self.paused and self.paused.to_json(),
            "findings": [attrs.asdict(finding) for finding in self.findings],
        }


def status(pipeline: Pipeline, stream: str | None = None) -> list[StreamStatus]:
    """The status of each change stream; changes nothing. An unreachable source or target is a finding. Raises
    StateError."""
    run = Run(pipeline)
    with closing(run.make("state", pipeline.state)) as state:
        return [_status(run, state, spec) for spec in change_streams(run, stream)]


def _status(run: Run, state: StateBackend, spec: StreamSpec) -> StreamStatus:
    pause, current, head = pause_of(state, spec.key(run.pipeline.name)), None, None
    try:
        current = stream_state(run, state, spec)
        head = current.journal or entry_of(current.state)
    except StateError:
        raise
    except Exception as error:  # a driver may raise anything; the state is a copy of the journal
        found = failure("target", error)
        head = entry_of(state.load(spec.key(run.pipeline.name)))
    position = None if head is None or head.position.kind == START.kind else head.position
    source, more = _source_status(run, spec, position)
    if current is not None:
        there = source is not None and source.place is not None and all(one.ok is not False for one in more)
        found = _agreement(run, spec, current, there)
    load_id, at = (head.load_id, head.committed_at.isoformat()) if head else (None, None)
    return StreamStatus(spec.name, position, load_id, at, pause, source, (found, *more))


def _agreement(run: Run, spec: StreamSpec, current: StreamState, there: bool) -> Finding:
    """``there``: the source still has what follows the journal's position, so that a target that was restored from a
    backup can read it again."""
    if current.agree or current.note == BEHIND:
        return Finding("state", current.agree or None, current.note)
    found, _, todo = current.note.partition("; ")
    can = spec.sink.strategy.mode != "append" or run.plugins.supports("sink", spec.sink.type, "merge")
    head = current.journal
    if head is not None and head.position.kind != START.kind and not moved_to(head) and there and can:
        todo = "if the target was restored from a backup, use 'dpone cdc replay --execute'; else --full-refresh"
    return Finding("state", False, found, todo)


def _source_status(run: Run, spec: StreamSpec, position: Position | None) -> tuple[CDCStatus | None, Sequence[Finding]]:
    assert spec.source.changes is not None
    record = run.plugins.reader(spec.source.type, spec.source.changes.by)
    try:
        with closing(run.reader(spec.source, spec.source.changes.by)) as reader:
            asked = run.plugins.offered(SupportsStatus, reader, record.name) if record else None
            if asked is None:
                return None, [Finding("source", None, "its reader does not report a status")]
            found = asked.status(position)
            return found, found.findings
    except Exception as error:  # a driver may raise anything
        return None, [failure("source", error)]


def resync(pipeline: Pipeline, stream: str | None, tables: Sequence[str]) -> list[tuple[str, Position]]:
    """``engine.resync``, for the named change stream, the only one, or the only one that selects the tables. Returns
    its new position."""
    specs = change_streams(Run(pipeline, () if stream is None else (stream,)), stream)
    if len(specs) > 1:
        specs = [spec for spec in specs if all(_selects(spec.source, table) for table in tables)] or specs
    names = [spec.name for spec in specs]
    if len(names) > 1:
        raise ConfigError(
            "choose a change stream", f"the pipeline has several: {', '.join(names)}", "choose one with --stream"
        )
    return [(name, resync_of_engine(pipeline, name, tables)) for name in names]


def _selects(source: SourceSpec, table: str) -> bool:
    wanted = "*" if source.table is None else str(source.table)
    return table == wanted or (fnmatchcase(table, wanted) and not source.excludes(Name.parse(table)))


def pause(pipeline: Pipeline, stream: str | None, reason: str) -> list[tuple[str, Pause, bool]]:
    """``engine.pause`` of each change stream. Raises ConfigError without a reason."""
    if not (reason := " ".join(reason.split())):
        raise ConfigError("pause a stream", "the reason is empty", "say with --reason why the stream must not run")
    run = Run(pipeline)
    return pause_of_engine(run, change_streams(run, stream), reason)


def resume(pipeline: Pipeline, stream: str | None) -> list[tuple[str, Pause | None]]:
    """End the pause of each change stream; None: it had none."""
    run = Run(pipeline)
    return resume_of_engine(run, change_streams(run, stream))


def drop(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, list[str]]]:
    """Drop what ``create`` made for each change stream; rows and positions stay. Returns the names of the streams, and
    what was dropped or kept."""
    return _asked(pipeline, stream, lambda reader: [*(reader.drop() or ())])


def change_streams(run: Run, stream: str | None) -> list[StreamSpec]:
    """Does not ask any source, because a change stream of many tables stays one stream."""
    select = [spec for spec in run.pipeline.streams if spec.source.changes and stream in (None, spec.name)]
    if not select:
        which = f"stream {stream}" if stream else f"pipeline {run.pipeline.name}"
        todo = "add source.options.incremental: {by: cdc}"
        raise ConfigError("find change streams", f"{which} has no change stream", todo)
    return select


def _asked(pipeline: Pipeline, stream: str | None, ask: Callable[[CDCReader], T]) -> list[tuple[str, T]]:
    """The answer of the reader of each change stream; the reader is closed afterwards."""
    run, found = Run(pipeline, () if stream is None else (stream,)), []
    for spec in change_streams(run, stream):
        assert spec.source.changes is not None
        with closing(run.reader(spec.source, spec.source.changes.by)) as reader, connected():
            found.append((spec.name, ask(reader)))
    return found
