"""Slots and captures of change streams: planned, made, looked at and dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import attrs

from dpone.contract import CDCReader
from dpone.engine import Run
from dpone.errors import ConfigError
from dpone.pipeline import Incremental, Pipeline, SourceSpec
from dpone.plugins import Plugins, discover, resolve
from dpone.position import Position
from dpone.schema import Name


def setup_plan(
    backend: str, schema: str, tables: Sequence[str], options: Mapping[str, str], plugins: Plugins | None = None
) -> list[str]:
    """Idempotent statements for a DBA, comments last. Nothing is connected to. Raises ConfigError, PluginError."""
    plugins = plugins or discover()
    record = plugins.get("cdc", backend)
    source, by = record.serves or (backend, "cdc")
    kind: Any = resolve(record.options)
    known = {f.name for f in attrs.fields(kind)}
    if unknown := sorted(set(options) - known):
        todo = f"options of {source} are {', '.join(sorted(known))}"
        raise ConfigError(f"plan {backend}", f"it has no option {', '.join(unknown)}", todo)
    incremental = Incremental(by=by)  # type: ignore[arg-type]  # a plugin says cdc or change_tracking
    statements: dict[str, None] = {}
    for table in tables:
        spec = SourceSpec(source, table=Name((schema, table)), options=kind(incremental=incremental, **options))
        with closing(plugins.load("cdc", backend)(spec)) as reader:
            statements |= dict.fromkeys(reader.setup_plan())
    return sorted(statements, key=lambda text: text.startswith("--"))


def create(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, Position]]:
    """Make slot or capture of each change stream; what is there stays. Where each begins."""
    return [(name, reader.create()) for name, reader in _readers(pipeline, stream)]


def lag(pipeline: Pipeline, stream: str | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, reader.lag()) for name, reader in _readers(pipeline, stream)]


def drop(pipeline: Pipeline, stream: str | None = None) -> list[str]:
    """Drop slot or capture of each change stream; rows and positions stay. Names of the streams."""
    dropped = []
    for name, reader in _readers(pipeline, stream):
        reader.drop()
        dropped.append(name)
    return dropped


def _readers(pipeline: Pipeline, stream: str | None) -> Iterator[tuple[str, CDCReader]]:
    """Each change stream's reader, closed behind it."""
    run = Run(pipeline, () if stream is None else (stream,))
    found = [spec for spec in run.streams() if spec.source.changes]
    if not found:
        which = f"stream {stream}" if stream else f"pipeline {pipeline.name}"
        todo = "add source.options.incremental: {by: cdc}"
        raise ConfigError("find change streams", f"{which} has none", todo)
    for spec in found:
        assert spec.source.changes is not None
        with closing(run.reader(spec.source, spec.source.changes.by)) as reader:
            yield spec.name, reader
