"""Slots and captures of change streams: plan, make, inspect and drop them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import attrs
from attrs import frozen

from dpone.contract import CDCReader
from dpone.engine.pause import Pause
from dpone.engine.pause import pause as pause_of_engine
from dpone.engine.pause import resume as resume_of_engine
from dpone.engine.rewind import resync as resync_of_engine
from dpone.engine.run import Run
from dpone.errors import ConfigError, connected
from dpone.model.pipeline import (
    Incremental,
    Pipeline,
    SourceSpec,
    StreamSpec,
)
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.plugins import Plugins, discover, resolve

T = TypeVar("T")


def setup_plan(
    backend: str,
    tables: Sequence[Name],
    options: Mapping[str, str],
    role: str = "",
    connection: Secret | None = None,
    plugins: Plugins | None = None,
) -> list[str]:
    """Idempotent statements for a DBA, comments last. Nothing is connected to. ``role``: who will read; left out, the
    user of ``connection``. Raises ConfigError, PluginError."""
    plugins = plugins or discover()
    record = plugins.get("cdc", backend)
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
    """What is to be planned, as a change stream of a pipeline says it. ``options``: texts among the source's own."""

    backend: str
    tables: tuple[Name, ...]
    options: Mapping[str, str]
    connection: Secret | None


def wanted(pipeline: Pipeline, stream: str | None = None) -> list[Wanted]:
    """Of each change stream. Connects to nothing."""
    run = Run(pipeline, () if stream is None else (stream,))
    found = []
    for spec in _change_streams(run, stream):
        source = spec.source
        record = run.plugins.reader(source.type, source.changes.by) if source.changes else None
        if record is not None:
            given = attrs.asdict(source.options, recurse=False)
            default = attrs.asdict(type(source.options)(), recurse=False)
            options = {n: value for n, value in given.items() if isinstance(value, str) and value != default[n]}
            tables = () if source.table is None else (source.table,)
            found.append(Wanted(record.name, tables, options, source.connection))
    return found


def create(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, Position]]:
    """Make slot or capture of each change stream; what is there stays. Where each begins."""
    return _asked(pipeline, stream, lambda reader: reader.create())


def lag(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    return _asked(pipeline, stream, lambda reader: reader.lag())


def resync(pipeline: Pipeline, stream: str | None, tables: Sequence[str]) -> list[tuple[str, Position]]:
    """``engine.resync``, for the named change stream, the only one, or the only one that selects the tables; where it
    stands then."""
    specs = _change_streams(Run(pipeline, () if stream is None else (stream,)), stream)
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
    return pause_of_engine(run, _change_streams(run, stream), reason)


def resume(pipeline: Pipeline, stream: str | None) -> list[tuple[str, Pause | None]]:
    """End the pause of each change stream; None: it had none."""
    run = Run(pipeline)
    return resume_of_engine(run, _change_streams(run, stream))


def drop(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, list[str]]]:
    """Drop what ``create`` made for each change stream; rows and positions stay. Names of the streams, and what was
    dropped or stays."""
    return _asked(pipeline, stream, lambda reader: [*(reader.drop() or ())])


def _change_streams(run: Run, stream: str | None) -> list[StreamSpec]:
    """Asks no source: a change stream of many tables stays one."""
    select = [spec for spec in run.pipeline.streams if spec.source.changes and stream in (None, spec.name)]
    if not select:
        which = f"stream {stream}" if stream else f"pipeline {run.pipeline.name}"
        todo = "add source.options.incremental: {by: cdc}"
        raise ConfigError("find change streams", f"{which} has no change stream", todo)
    return select


def _asked(pipeline: Pipeline, stream: str | None, ask: Callable[[CDCReader], T]) -> list[tuple[str, T]]:
    """What the reader of each change stream answers; it is closed behind it."""
    run, found = Run(pipeline, () if stream is None else (stream,)), []
    for spec in _change_streams(run, stream):
        assert spec.source.changes is not None
        with closing(run.reader(spec.source, spec.source.changes.by)) as reader, connected():
            found.append((spec.name, ask(reader)))
    return found
