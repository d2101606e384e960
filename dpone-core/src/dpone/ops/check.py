"""What would prevent a run of a pipeline: implementations that cannot be imported, systems that cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from attrs import evolve

from dpone.contract import Finding, SupportsRefuse
from dpone.engine.run import Run
from dpone.errors import DponeError, counted
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.model.strategy import ORDER_OF_FILES, Strategy
from dpone.plugins import discover


def implementations(pipeline: Pipeline) -> list[Finding]:
    """Check that every connector of the pipeline can be imported and accepts its part of the file; connects to
    nothing."""
    used = dict.fromkeys(("source", s.source.type) for s in pipeline.streams)
    used |= dict.fromkeys(("sink", s.sink.type) for s in pipeline.streams)
    used["state", pipeline.state.type] = None
    count = len(pipeline.streams)
    described = f"{pipeline.name}, {counted(count, 'stream')}"
    loaded = [_implementation(role, name) for role, name in used]
    return [Finding("pipeline", True, described), *loaded, *(_refusals(pipeline) if all(f.ok for f in loaded) else ())]


def _implementation(role: Any, name: str) -> Finding:
    label = f"{role} {name}"
    try:
        found = discover().load(role, name)
    except DponeError as error:
        return failure(label, error)
    return Finding(label, True, f"{found.__module__}:{found.__qualname__}")


def _refusals(pipeline: Pipeline) -> Iterator[Finding]:
    """A constructor does no I/O, so an error in it is a mistake in the pipeline file, such as a malformed
    connection."""
    run = Run(pipeline)
    roles: list[tuple[str, str, Any]] = [("state", "state", pipeline.state)]
    for spec in pipeline.streams:
        roles += [(f"{spec.name}: source", "source", spec.source), (f"{spec.name}: sink", "sink", spec.sink)]
    for label, role, given in roles:
        try:
            run.make(role, given).close()
        except Exception as error:  # a connector may raise anything
            yield failure(label, error)


def connections(pipeline: Pipeline) -> list[Finding]:
    """Check state, sources and sinks over a connection, read-only."""
    run = Run(pipeline)
    findings = _ask(run, "state", "state", pipeline.state)
    try:
        streams = run.streams()
    except Exception as error:  # a driver may raise anything
        return [*findings, failure("streams", error)]
    for spec in streams:
        of_source = _ask(run, f"{spec.name}: source", "source", spec.source)
        if all(finding.ok is not False for finding in of_source):
            of_source += _columns(run, spec)
        findings += of_source
        findings += _ask(run, f"{spec.name}: sink", "sink", spec.sink)
    return findings


def _columns(run: Run, spec: StreamSpec) -> Iterator[Finding]:
    """The columns that the pipeline names and the source lacks. The columns of a change stream are known only when
    changes arrive."""
    incremental = spec.source.options.incremental
    wanted = dict(spec.sink.strategy.columns)
    if incremental is not None:
        wanted["incremental"] = tuple(filter(None, (incremental.column, *incremental.key)))
    if spec.source.changes or not any(wanted.values()):
        return
    try:
        with closing(run.make("source", spec.source)) as source:
            have = source.schema().names
    except Exception as error:  # a driver may raise anything
        yield failure(f"{spec.name}: source columns", error)
        return
    known = {*have}
    if spec.sink.strategy.by_file(known) and spec.source.path is not None:
        known.add(ORDER_OF_FILES)
    for what, columns in wanted.items():
        if missing := [column for column in columns if column not in known]:
            found = f"the source has no {what} column {', '.join(missing)}"
            yield Finding(f"{spec.name}: source columns", False, found, f"use columns of {', '.join(have)}")


def _ask(run: Run, label: str, role: str, spec: Any) -> list[Finding]:
    try:
        with closing(run.make(role, spec)) as connected:
            found = connected.check()
            if role == "sink" and all(f.ok is not False for f in found):
                found = [*found, *_refusal(run.offered(SupportsRefuse, connected, spec), spec.strategy)]
            return [evolve(f, name=f"{label} {f.name}") for f in found]
    except Exception as error:  # a driver may raise anything
        return [failure(label, error)]


def _refusal(sink: SupportsRefuse | None, strategy: Strategy) -> Iterator[Finding]:
    """Whether the target, as it is now, makes the strategy impossible."""
    if sink is not None:
        try:
            sink.refuse(strategy)
        except DponeError as error:
            yield failure("strategy", error)


def failure(name: str, error: Exception) -> Finding:
    if isinstance(error, DponeError):
        return Finding(name, False, f"{error.failed}: {error.found}", error.todo)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Finding(name, False, text, "fix the connection, or report this message to the connector's authors")
