"""What a run, a rewind and an undo have in common: a pipeline, the plugins that do its work, the observers, and its
streams."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from attrs import define, evolve, field, frozen

from dpone.cdc.stream import ChangeStream
from dpone.config.reader import expand
from dpone.contract import CDCReader
from dpone.engine.observers import Observers
from dpone.errors import ConfigError, Interrupted, PluginError, connected
from dpone.host import stopping
from dpone.model.events import RunEvent, Step
from dpone.model.ids import ulid
from dpone.model.pipeline import Pipeline, SinkSpec, SourceSpec, StateSpec, StreamSpec
from dpone.model.position import Position
from dpone.model.report import RunReport, StreamReport
from dpone.plugins import Plugins, discover

P = TypeVar("P")


@frozen
class Replay:
    """Changes strictly after ``start`` are read once more. ``applied``: the load with which the journal ended when this
    was decided."""

    start: Position
    applied: str


@define
class Job:
    """What a run, a rewind and an undo have in common: a pipeline, the plugins that do its work, and the observers.
    ``report`` is filled as a run goes on, so that an interrupted run has one too."""

    pipeline: Pipeline
    select: Sequence[str] = ()
    full_refresh: bool = False
    dry_run: bool = False
    workers: int | None = None
    replay: Replay | None = None
    plugins: Plugins = field(factory=discover)
    run_id: str = field(factory=ulid)
    report: RunReport = field(init=False)
    _running: Pipeline | None = field(default=None, init=False)
    _observers: Observers | None = field(default=None, init=False)
    _noting: threading.Lock = field(factory=threading.Lock, init=False)
    _began: float = field(factory=time.perf_counter, init=False)

    def __attrs_post_init__(self) -> None:
        self.report = RunReport(self.run_id, self.pipeline.name, dict(self.pipeline.labels))
        self.report.dry_run, self.report.full_refresh = self.dry_run, self.full_refresh

    def streams(self) -> list[StreamSpec]:
        """The selected streams. Asks the sources of those that select tables by a glob."""
        for spec in self.pipeline.streams:
            if spec.tables and not spec.source.changes:
                self.make("source", spec.source).close()  # what a constructor refuses is a mistake in the file
        with connected():
            expanded = expand(self.pipeline, self._tables_of)
        selected = _selected(expanded, self.select)
        self._running = evolve(self.pipeline, streams=tuple(selected))
        return selected

    def tell(self, step: Step, stream: str | None = None, since: float | None = None, **data: Any) -> None:
        """Report to every observer. One that raises is reported once and never changes the run. A signal that was lost,
        for example in a driver's callback, ends the run here. since: ``time.perf_counter()`` when the step began; the
        wall clock may be set back in between."""
        obeyed = step == "run_finished" or isinstance(sys.exception(), KeyboardInterrupt | Interrupted)
        if stopping.begun() and not obeyed and threading.current_thread() is threading.main_thread():
            raise Interrupted("a signal that was lost")
        seconds = 0.0 if since is None else round(time.perf_counter() - since, 6)
        event = RunEvent(step, self.run_id, self.pipeline.name, datetime.now(UTC), stream, data, seconds)
        if self._observers is None:
            self._observers = Observers(self.plugins, self._running or self.pipeline, self.report)
        self._observers.tell(event)

    def note(self, report: StreamReport, step: Step, since: float | None, data: Mapping[str, Any]) -> None:
        """Keep in the report of a stream when a step began and ended. Called from several threads."""
        now = time.perf_counter()
        began = now if since is None else since
        with self._noting:
            report.timeline.note(step, began - self._began, None if since is None else now - since, data)

    def _tables_of(self, source: Any, pattern: str) -> list[str]:
        with closing(self.make("source", source)) as asked:
            tables: list[str] = asked.tables(pattern)
            return tables

    def offered(self, protocol: Callable[..., P], made: object, spec: SinkSpec | StateSpec) -> P | None:
        """``made`` of a spec as one of ``contract.OPTIONAL``, if its plugin declares it."""
        return self.plugins.offered(protocol, made, spec.type)

    def make(self, role: Any, spec: Any) -> Any:
        """The connector's class, with its spec; nothing is connected yet. A change stream looks like any source."""
        if role == "source" and (changes := spec.changes):
            return self._change_stream(spec, changes.by)
        return self.plugins.load(role, spec.type)(spec)

    def _change_stream(self, spec: SourceSpec, by: str) -> ChangeStream:
        return ChangeStream(spec, self.reader(spec, by))

    def reader(self, spec: SourceSpec, by: str) -> CDCReader:
        record = self.plugins.reader(spec.type, by)
        if record is None:
            found = f"source {spec.type} cannot be read by {by}"
            raise PluginError(f"use source {spec.type}", found, "choose a change reader from 'dpone plugins'")
        made: CDCReader = self.plugins.load("cdc", record.name)(spec)
        return made


def _selected(pipeline: Pipeline, names: Sequence[str]) -> list[StreamSpec]:
    known = {s.name: s for s in pipeline.streams}
    if unknown := sorted(set(names) - set(known)):
        found = f"unknown streams: {', '.join(unknown)}"
        raise ConfigError("select streams", found, f"choose from {', '.join(known)}")
    return [s for s in pipeline.streams if not names or s.name in names]


@define
class StreamContext:
    """One stream of a run, and its report."""

    run: Job
    spec: StreamSpec
    report: StreamReport

    def tell(self, step: Step, since: float | None = None, **data: Any) -> None:
        self.run.note(self.report, step, since, data)
        self.run.tell(step, self.spec.name, since, **data)

    @contextmanager
    def timed(self, step: str) -> Iterator[float]:
        """Adds to the durations of the report. Yields the start, for ``tell``."""
        start = time.perf_counter()
        try:
            yield start
        finally:
            spent = self.report.durations.get(step, 0.0) + time.perf_counter() - start
            self.report.durations[step] = round(spent, 6)
