"""The run. Read this file first; everything else serves it.

For each stream, in this order and never another (docs/architecture.md, laws 1 to 3):

    lock the key -> recover from the journal -> fix the window -> evolve the schema -> stage the parts
    -> one fenced commit of rows, journal entry and position -> save the state -> acknowledge the source

A stream has one target, unless it is a change stream of many tables: then each table that changed is a target of the
window, and the one commit takes the rows of all.

The journal in the sink is the truth; the state backend holds a copy of its head. Where a sink cannot keep a journal
(``Connector.commit`` none) the state is the journal, and rows arrive at least once. A crash between any two steps is
mended by the next run: staged parts of a repeatable window are taken up again, a journal ahead of the state is
adopted, and a state ahead of the journal stops the run.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from attrs import define, evolve, field, frozen

from dpone import evolution, keys, stopping
from dpone.cdc import ChangeStream
from dpone.changes import batch_schema
from dpone.config import expand, substituted
from dpone.contract import (
    CDCReader,
    ChangeTable,
    Comparing,
    Entry,
    KeepsPartitions,
    Lease,
    Load,
    ManyTables,
    Moving,
    Part,
    Receipt,
    Refusing,
    Resyncing,
    Sink,
    Source,
    SpeakingSql,
    Staged,
    StateBackend,
    Stream,
    TakenBack,
    TakingBack,
    Undoing,
    Verifying,
    Window,
    WindowRequest,
    Writer,
)
from dpone.errors import (
    ConfigError,
    Conflict,
    Interrupted,
    PluginError,
    SchemaBreak,
    StateAhead,
    StateMissing,
    Stopped,
    connected,
)  # fmt: skip
from dpone.ids import ulid
from dpone.judge import Judge, place_of
from dpone.lease import renewing
from dpone.ledger import Halted, Ledger
from dpone.moving import move, moved_to, require_here
from dpone.nanoseconds import Cut, cut
from dpone.observe.events import RunEvent, Step
from dpone.partition import PartitionManifest, PartitionManifestStore, manifest_of, parts_again, require_same
from dpone.pipeline import Pipeline, SinkSpec, SourceSpec, StateSpec, StreamSpec
from dpone.plugins import Plugins, discover
from dpone.position import Position
from dpone.report import ErrorReport, RunReport, StreamReport
from dpone.schema import LINEAGE, VALIDITY, Name
from dpone.secret import redact
from dpone.standing import compare, journal_of, kept, next_epoch, rewind_token, state_of
from dpone.strategy import CHANGES, ORDER_OF_FILES, Strategy, bounds
from dpone.told import ToldStream

P = TypeVar("P")

# The position of a key that was deliberately set back to its beginning.
START = Position("start", {}, {})


def run(pipeline: Pipeline | str | Path, **options: Any) -> RunReport:
    """Run a pipeline and report what it did. Failures of streams are in the report, not raised.

    Options: ``select`` (names of streams), ``full_refresh``, ``dry_run``, ``workers``. Raises ConfigError or
    PluginError before anything is touched; KeyboardInterrupt and Interrupted pass after a clean abort. It sets no
    signal handlers, and does not keep to the ten seconds in which ``dpone run`` ends (docs/guide/running.md).
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_yaml(pipeline)
    return Run(pipeline, **options).execute()


@define
class Job:
    """What a run, a rewind and an undo have in common: a pipeline, the plugins that do its work, and the observers.
    ``report`` is filled as a run goes on, so that an interrupted run has one too."""

    pipeline: Pipeline
    select: Sequence[str] = ()
    full_refresh: bool = False
    dry_run: bool = False
    workers: int | None = None
    plugins: Plugins = field(factory=discover)
    run_id: str = field(factory=ulid)
    report: RunReport = field(init=False)
    _silenced: set[str] = field(factory=set, init=False)
    _telling: threading.Lock = field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self.report = RunReport(self.run_id, self.pipeline.name, dict(self.pipeline.labels))

    def streams(self) -> list[StreamSpec]:
        """The selected streams. Asks the sources of those that select tables by a glob."""
        for spec in self.pipeline.streams:
            if spec.tables and not spec.source.changes:
                self.make("source", spec.source).close()  # what it refuses is wrong in the file
        with connected():
            expanded = expand(self.pipeline, self._tables_of)
        return _selected(expanded, self.select)

    def tell(self, step: Step, stream: str | None = None, **data: Any) -> None:
        """Tell every observer; one that raises is reported once and never changes the run. A signal that was lost, as
        in a callback of a driver, ends the run here."""
        if step != "run_finished" and stopping.begun() and threading.current_thread() is threading.main_thread():
            raise Interrupted("a signal that was lost")
        event = RunEvent(step, self.run_id, self.pipeline.name, datetime.now(UTC), stream, data)
        with self._telling:
            for hook in self.plugins.manager.hook.dpone_run_event.get_hookimpls():
                try:
                    hook.function(*([event] if hook.argnames else []))
                except (Exception, SystemExit) as error:  # an observer may raise anything
                    self._silence(hook.plugin_name, step, error)

    def _silence(self, observer: str, step: Step, error: BaseException) -> None:
        if observer not in self._silenced:
            self._silenced.add(observer)
            warning = f"observer {observer} failed at {step}: {type(error).__name__}: {error}"
            for report in self.report.streams[:1]:
                report.warnings.append(redact(" ".join(warning.split())))

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
class _Stream:
    """One stream of a run, and its report."""

    run: Job
    spec: StreamSpec
    report: StreamReport

    def tell(self, step: Step, **data: Any) -> None:
        self.run.tell(step, self.spec.name, **data)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = self.report.durations.get(step, 0.0) + time.perf_counter() - start
            self.report.durations[step] = round(spent, 6)


@define
class Run(Job):
    """One run of a pipeline."""

    def execute(self) -> RunReport:
        try:
            streams = self.streams()
            self.report.streams = [StreamReport(s.name, s.key(self.pipeline.name)) for s in streams]
            self.tell("run_started", streams=[s.name for s in streams], dry_run=self.dry_run)
            for spec, report in zip(streams, self.report.streams, strict=True):
                _StreamRun(self, spec, report).execute()
        except (KeyboardInterrupt, Interrupted):
            self.report.finish(interrupted=True)
            self.tell("run_finished", status=self.report.status)
            raise
        self.report.finish()
        self.tell("run_finished", status=self.report.status)
        return self.report


@define
class _StreamRun(_Stream):
    """Attempts until the stream is done, or fails for good."""

    def execute(self) -> None:
        self.tell("stream_started", key=self.report.key)
        retries = self.run.pipeline.runtime.retries
        for attempt in range(1, retries + 2):
            self.report.attempts = attempt
            self.report.error = None
            try:
                _attempt(self, last=attempt > retries)
                break
            except (KeyboardInterrupt, Interrupted):
                self.report.status = "interrupted"
                raise
            except Exception as error:
                if signal := _signal_behind(error):
                    self.report.status = "interrupted"
                    raise signal from None
                if not self._again(error, attempt <= retries):
                    break
                jitter = random.uniform(0.5, 1.0)  # noqa: S311  # spreads retries; guards no secret
                time.sleep(jitter * min(30.0, 0.25 * 2**attempt))
        status, rows = self.report.status, self.report.rows
        self.tell("stream_finished", status=status, rows=rows.read, durations=dict(self.report.durations))

    def _again(self, error: Exception, left: bool) -> bool:
        found = self.run.plugins.classifier().classify(error)
        self.report.error = ErrorReport.of(error, found)
        self.report.status = "stopped" if isinstance(error, Stopped) else "failed"
        if not (self.report.error.retryable and left):
            return False
        self.tell("retry", attempt=self.report.attempts, error=self.report.error.message)
        return True


def _signal_behind(error: Exception) -> BaseException | None:
    """The signal that was on its way out when ``error`` came up, in a ``close`` for one."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt | Interrupted):
        link = link.__context__
    return link


@define
class _Known:
    """Where a stream stands: the journal's head, the position to go on from, the state's version, the epoch."""

    head: Entry | None
    after: Position | None
    version: int
    epoch: int


@define
class _Target:
    """One table of the sink, and what it takes of the window: all of it, or its table of a change stream. ``strategy``
    has the key by which the log tells rows. ``forms``: of key columns, see ``dpone.keys``. ``writer``: while the load
    is open."""

    spec: SinkSpec
    sink: Sink
    window: Window
    strategy: Strategy
    key: str
    load: Load
    forms: Mapping[str, str]
    writer: Writer | None = None


@frozen
class _Planned:
    """What ``_Plan`` hands on. load: what the journal will hold, that of the only target or of all together. manifest:
    of a window of several parts, ``before`` that of the load that goes on."""

    window: Window
    targets: Sequence[_Target]
    load: Load
    manifest: PartitionManifest | None = None
    before: PartitionManifest | None = None


# What an attempt has added to its targets, and what it was to change in each.
_Added = list[tuple[_Target, evolution.Plan]]


@define
class _Attempt:
    """What every stage of one attempt is given: the stream, and connections of the attempt's own. What a stage learns
    it returns, and the next one takes as an argument. ``last``: no other attempt comes after it."""

    stream: _Stream
    last: bool
    source: Source
    sink: Sink
    state: StateBackend
    judge: Judge

    @property
    def spec(self) -> StreamSpec:
        return self.stream.spec

    @property
    def report(self) -> StreamReport:
        return self.stream.report

    @property
    def _cuts(self) -> bool:
        return bool(self.spec.sink.options.nanoseconds == "cut")

    def _offered(self, protocol: Callable[..., P], sink: Sink) -> P | None:
        return self.stream.run.offered(protocol, sink, self.spec.sink)

    def _refuse(self, sink: Sink, strategy: Strategy, every_row: bool = False) -> None:
        if (refusing := self._offered(Refusing, sink)) is not None:
            refusing.refuse(strategy, every_row)

    def _journal(self, sink: Sink, key: str) -> Entry | None:
        return head_of(self.stream.run, self.spec, sink, self.state, key)

    def _landed(self, head: Entry | None) -> bool:
        """An earlier attempt of this run lost the answer to its commit, or failed after it; the journal has it."""
        return head is not None and head.load_id == self.report.load_id

    def _manifests(self) -> PartitionManifestStore | None:
        return manifests_of(self.stream.run, self.state)

    def _is_retryable(self, error: Exception) -> bool:
        return self.stream.run.plugins.classifier().classify(error).retryable

    def _warn(self, text: str) -> None:
        """Once, however often the run tries."""
        if text not in self.report.warnings:
            self.report.warnings.append(text)


@define
class _Recover(_Attempt):
    """The first stage, and what the others ask of it: what earlier loads have left, in journal, state and target."""

    def take_back(self, sink: Sink, key: str) -> None:
        """Remove what an earlier load of the key added to the target and did not commit. So every attempt plans from
        the same target, and comes to the same plan: parts that are staged still fit it. What nobody can take back, as
        somebody else owns the table now, keeps no load from being tried."""
        try:
            taking = self._offered(TakingBack, sink)
            taken = taking.take_back(key) if taking else ()
        except Exception as error:
            if isinstance(error, Stopped) or self._is_retryable(error):
                raise
            self._warn(f"columns or tables that an earlier failed load added stay for now: {_line(error)}")
            return
        for one in taken:
            if one.stays:
                self._warn(_taken(one))
            else:  # and perhaps made again in a moment
                self.stream.tell("warning", text=_taken(one))

    def take_back_own(self, added: _Added, lease: Lease, error: BaseException) -> None:
        """The same of this attempt, if nobody is to go on with it, and the key is still ours."""
        if not self.last and isinstance(error, Exception) and self._is_retryable(error):
            return
        try:
            if added:
                lease.renew()
            for target, plan in added:
                taking = self._offered(TakingBack, target.sink)
                for one in taking.take_back(target.load.key, self.stream.run.run_id) if taking else ():
                    self._warn(_taken(one))
                name = f"{target.spec.table}: " if self.spec.tables else ""
                wider = [f"{name}{change}" for change in plan.changes if change.kind == "widen"]
                for change in wider:
                    self._warn(f"{change}: kept although the load failed; every value fits the new type")
        except Conflict:  # another runner has the key, and what was added is its own to count on
            pass
        except Exception as failed:
            self._warn(f"the next run removes the columns and tables that this load added: {_line(failed)}")

    def execute(self, dry: bool) -> _Known:
        """Law 1: the journal is the truth, the state a copy. A copy that lags is mended, one that leads stops us."""
        with self.stream.timed("recover"):
            key, target = self.report.key, self.spec.sink.location
            if not dry:
                self.take_back(self.sink, key)
            head, saved = self._journal(self.sink, key), self.state.load(key)
            version, adopted = (saved.version if saved else 0), False
            if self.stream.run.full_refresh and not self._landed(head):
                known = _Known(head, None, version, next_epoch(head, saved))
            else:
                require_here(key, head, target)
                adopted = compare(head, saved.value if saved else None, target)
                if adopted and head is not None and not dry:
                    version = self.state.save(key, state_of(head), version)
                if not self.spec.source.changes:
                    self.require_target(self.spec.sink, self.sink, head, head)
                started = head is not None and head.position.kind != START.kind
                known = _Known(head, head.position if head and started else None, version, head.epoch if head else 0)
        self.report.position_before = head.position.to_json() if head else None
        self.report.position_after = self.report.position_before
        if head is not None and not dry:
            self.judge.settle(head.load_id)
        self.stream.tell("recovered", adopted=adopted, seq=head.seq if head else 0, epoch=known.epoch)
        return known

    def require_target(
        self, spec: SinkSpec, sink: Sink, loaded: Entry | None, head: Entry | None, whole: bool = False
    ) -> None:
        """``loaded``: what the journal knows of this target, ``head`` what of the stream; ``whole``: the window has
        all rows of the table.

        ST-04: rows that no journal and no state explain are never added to by guess. And a journal beside a table that
        was dropped, or that somebody emptied: what it says was loaded is gone, and would stay so (OUT-07). A strategy
        that reads everything loads it again; a position that was set by hand was meant.
        """
        if loaded is None:
            if spec.strategy.mode == "full_refresh" or spec.options.adopt_existing or sink.is_empty():
                return
            self.source.schema()  # a misspelt source has no journal either, and no decision about the target helps it
            found = "the target has rows, but this stream has neither journal nor state"
            todo = "to keep the rows, set sink.options.adopt_existing: true; to replace them, use --full-refresh"
            raise StateMissing(f"load into {spec.location}", found, todo)
        keys = (self.report.key, self.spec.former_key(self.stream.run.pipeline.name))
        by_hand = head is not None and head.token in [rewind_token(key, head.position) for key in keys]
        started = head is not None and head.position.kind != START.kind
        remade = (whole or spec.strategy.whole) and spec.strategy.mode not in (
            "scd2",
            "append",
        )  # no source has history
        if not started or remade or by_hand:
            return
        if not sink.exists():
            found = f"the journal ends with load {loaded.load_id}, but the target does not exist"
            todo = "restore the target, use --full-refresh, or choose a position with 'dpone state set'"
            raise StateAhead(f"load into {spec.location}", found, todo)
        verify = spec.options.verify_target
        verifying = None if verify == "off" else self._offered(Verifying, sink)
        if verifying is not None and (found := verifying.lost(loaded, verify == "count")):
            todo = "restore the rows, use --full-refresh, or choose a position with 'dpone state set'; "
            todo += "if rows are deleted on purpose, set sink.options.verify_target: off"
            found = f"the journal ends with load {loaded.load_id}, but the target has lost rows: {found}"
            raise StateAhead(f"load into {spec.location}", found, todo)


@define
class _Plan(_Attempt):
    """The second stage."""

    def execute(self, known: _Known, recover: _Recover, added: _Added) -> _Planned | None:
        """Fix the window and make its targets fit; None if there is nothing to load. ``added`` is filled with what that
        takes, so that it is known if this fails half way."""
        run, report = self.stream.run, self.report
        if not self.spec.source.changes:
            self._refuse(self.sink, _effective(self.spec.sink.strategy, run))
        with self.stream.timed("window"):
            window = self._window(known)
        report.caught_up, report.proof, report.partitions = window.caught_up, window.proof, len(window.parts)
        for text in window.warnings:
            self._warn(text)
        self.stream.tell(
            "window_fixed", parts=len(window.parts), repeatable=window.repeatable, proof=window.proof,
            position=window.position.to_json(),
        )  # fmt: skip
        if not window.parts and known.after is not None and window.position.dumps() == known.after.dumps():
            self._nothing(window, "nothing new in the source" if window.caught_up else "nothing was read")
            self.judge.warn_of_no_rows()
            return None
        window = self._cut(window)
        self.judge.bind(window.schema)
        planned = [
            self._planned(known, spec, sink, self._cut(share), strategy, key)
            for spec, sink, share, strategy, key in self._targets(known, recover, window)
        ]
        targets = [target for target, _ in planned]
        whole = self._with_manifest(known, window, targets)
        window, load = whole.window, whole.load
        head = known.head
        if head is not None and window.repeatable and head.token == load.token and self.sink.exists():
            self._nothing(window, f"load {head.load_id} had the same content")
            return None
        with self.stream.timed("schema"):
            report.ddl, report.schema_changes, report.rewrites = [], [], []
            for target, plan in planned:
                self._fit(target, plan, added)
        if run.dry_run:
            report.status, report.position_after = "planned", window.position.to_json()
            return None
        self.stream.tell("schema_applied", changes=report.schema_changes)
        return whole

    def _window(self, known: _Known) -> Window:
        run, strategy = self.stream.run, _effective(self.spec.sink.strategy, self.stream.run)
        again = self._interrupted(known) if self._mixed() else None
        request = WindowRequest(
            whole=strategy.whole or run.full_refresh,
            # Pieces of a file are cut by the size of all: their rows would have other ids once there are more files.
            partitions=1 if keeps_journal(run, self.spec) else run.pipeline.runtime.partitions,
            batch_rows=run.pipeline.runtime.batch_rows,
            expected=None if self.spec.source.changes else _without_own(self.sink.schema(), strategy),
            mode=strategy.mode,
            parts=parts_again(again) if again else (),
        )
        window = self.source.window(known.after, request)
        return evolve(window, position=window.position.at_epoch(known.epoch))

    def _targets(
        self, known: _Known, recover: _Recover, window: Window
    ) -> Iterator[tuple[SinkSpec, Sink, Window, Strategy, str]]:
        """Each target with its share of the window, the strategy with its key, and the key of its load."""
        sink, strategy = self.spec.sink, _effective(self.spec.sink.strategy, self.stream.run)
        if not isinstance(self.source, ChangeStream):
            yield sink, self.sink, window, strategy, self.report.key
            return
        if not self.spec.tables:
            self.source.require_one()
        taken: dict[str, str] = {}
        for part in window.parts:
            spec, key = sink, self.report.key
            if self.spec.tables:
                spec = substituted(sink, Name.parse(part.id))
                key += f"|{part.id.replace('|', '%7C')}"
                # some servers take Orders and orders for one table
                if (other := taken.setdefault(spec.location.lower(), part.id)) != part.id:
                    found = f"{other} and {part.id} have the same target table"
                    todo = "use {schema}_{table}, or set source.table to one of them"
                    raise ConfigError(f"load into {spec.location}", found, todo)
            if self.source.bare(part.id) and self._beside(spec).is_empty():
                continue
            if strategy.mode in CHANGES:
                strategy = evolve(strategy, key=self.source.key(part.id, sink.strategy.key))
            target = self._beside(evolve(spec, strategy=strategy))
            if not self.stream.run.dry_run:
                recover.take_back(target, key)
            loaded, share = self._journal(target, key), self.source.share(window, part.id)
            if not self.stream.run.full_refresh:
                recover.require_target(spec, target, loaded, known.head, share.whole)
            adopted = loaded is None or spec.options.adopt_existing or target.is_empty()
            self.source.require_kind(target.schema(), spec.location, loaded=not adopted)
            self._refuse(target, strategy, share.whole)
            yield spec, target, share, strategy, key

    def _cut(self, window: Window) -> Window:
        return evolve(window, schema=cut(window.schema)) if self._cuts else window

    def _beside(self, spec: SinkSpec) -> Sink:
        many = self._offered(ManyTables, self.sink)
        return self.sink if many is None else many.beside(spec)

    def _planned(
        self, known: _Known, spec: SinkSpec, sink: Sink, window: Window, strategy: Strategy, key: str
    ) -> tuple[_Target, evolution.Plan]:
        have = sink.schema()
        plan = self._plan(spec, sink, have, window, strategy)
        if plan.anew:
            self._refuse(sink, strategy, every_row=True)
        forms = self._forms(spec, sink, None if plan.anew else have, window, strategy, key, plan.columns)
        load = evolve(_load(self.stream, known, window, strategy, key, plan.columns), anew=bool(plan.anew))
        return _Target(spec, sink, window, strategy, key, load, forms), plan

    def _forms(
        self,
        spec: SinkSpec,
        sink: Sink,
        target: pa.Schema | None,
        window: Window,
        strategy: Strategy,
        key: str,
        columns: Mapping[str, str],
    ) -> Mapping[str, str]:
        """Of key columns, by their names in the target. Keys that a version without them has loaded are in the forms
        of the source: the journal says nothing of what such a load left."""
        have = {f.name: f for f in target or ()}
        comparing = self._offered(Comparing, sink)
        made = comparing.made if comparing else pa.Field.remove_metadata
        to = {name: have.get(columns[name]) or made(window.schema.field(name)) for name in strategy.key}
        changes, many = bool(self.spec.source.changes), self.spec.tables
        table = window.parts[0].id if changes and many else ""
        forms = keys.forms(strategy, changes, window.schema, to, spec.location, table)
        for name, form in forms.items():
            other = keys.FORMS[form].other
            there = columns[name] in have and not keys.equality(have[columns[name]])
            if not (other and comparing and there) or strategy.mode == "full_refresh":
                continue
            loaded = self._journal(sink, key)
            if (loaded is None or loaded.held is None) and comparing.holds_like(columns[name], other):
                found = (
                    f"column {columns[name]} of the target has keys like 1.00, which the source treats as equal to 1"
                )
                todo = "reload everything with --full-refresh; nothing was changed"
                raise SchemaBreak(f"load {spec.location} by key {columns[name]}", found, todo)
        return {columns[name]: form for name, form in forms.items()}

    def _whole_load(self, known: _Known, window: Window, targets: Sequence[_Target]) -> Load:
        if len(targets) == 1 and targets[0].key == self.report.key:
            return targets[0].load
        loads = {target.key: target.load.token for target in targets}
        return _load(self.stream, known, window, self.spec.sink.strategy, self.report.key, None, loads)

    def _fit(self, target: _Target, plan: evolution.Plan, added: _Added) -> None:
        """Make the safe changes, or only say them; those of a target made anew are part of the commit."""
        ddl = [] if plan.anew else target.sink.ddl(plan.changes)
        if not self.stream.run.dry_run:
            added.append((target, plan))
            if (taking := self._offered(TakingBack, target.sink)) is not None:
                taking.provide(target.load, ddl)
            else:
                target.sink.apply(ddl)
        name = f"{target.spec.table}: " if self.spec.tables else ""
        self.report.ddl += ddl
        self.report.schema_changes += [f"{name}{change}" for change in (*plan.changes, *plan.anew)]
        if (sql := self._offered(SpeakingSql, target.sink)) is not None:
            said = ((change, sql.dialect.rewrites(change)) for change in plan.changes)
            self.report.rewrites += [f"{name}{change}: {what}" for change, what in said if what]

    def _nothing(self, window: Window, why: str) -> None:
        self.report.status, self.report.proof = "caught_up", f"{why}; {window.proof}"

    def _plan(
        self, spec: SinkSpec, sink: Sink, have: pa.Schema | None, window: Window, strategy: Strategy
    ) -> evolution.Plan:
        run = self.stream.run
        known = {*window.schema.names}
        if strategy.by_file(known) and all("order" in part.detail for part in window.parts):
            known.add(ORDER_OF_FILES)
        for what, columns in strategy.columns.items():
            if absent := [f"column {c} is missing in {window.absent[c]}" for c in columns if c in window.absent]:
                found = ", ".join(absent)
                raise SchemaBreak(
                    f"find {what} columns", found, "restore the column, or move that data out of the source"
                )
            if missing := [c for c in columns if c not in known]:
                found = f"{self.spec.source.location} has no column {', '.join(missing)}"
                raise ConfigError(f"find {what} columns", found, f"use columns of {', '.join(window.schema.names)}")
        sql = self._offered(SpeakingSql, sink)
        for column, value in ((c, v) for c, wanted in strategy.where.items() for v in bounds(wanted)):
            if sql is not None and value is not None:  # refused before anything is made, not by the commit
                sql.dialect.bind(value, window.schema.field(column).type)
        target, policy = _without_own(have, strategy), spec.options.schema_evolution
        too_long = sql.dialect.too_long if sql else evolution.any_length
        given = (too_long, window.own_schema, window.absent)
        plan = evolution.plan(target, window.schema, policy, sink.stores, strategy.key, *given)
        if have is None and sink.exists():  # it has no schema: nothing to make, nothing to compare with
            plan = evolve(plan, changes=())
        able = run.plugins.supports("sink", spec.type, "replace_columns")
        keeps = not _effective(strategy, run, True).replaces_all
        if (plan.breaking or any(c.looks for c in plan.changes)) and run.full_refresh and able and not keeps:
            plan = plan.replacing(window.schema)
        plan.require_safe(spec.location, _instead(able, keeps, strategy))
        self._tell_missing(spec, plan, window)
        return plan

    def _tell_missing(self, spec: SinkSpec, plan: evolution.Plan, window: Window) -> None:
        """What rows lack, where only the data tells the columns; unless the pipeline says that it does not matter."""
        if spec.options.schema_evolution.on_missing_column == "auto":
            for name, where in window.absent.items():
                self._warn(f"column {name} is missing in {where}: its rows get NULL")
            if plan.missing:
                names = f"column{'s' if len(plan.missing) > 1 else ''} {', '.join(plan.missing)}"
                self._warn(f"{names} of {spec.location} missing in the data: new rows get NULL")
        if rename := plan.rename(window.absent):
            self._warn(f"{rename}; if the column was renamed, rename it in {spec.location} too, which keeps its values")

    def _mixed(self) -> bool:
        """The pipeline asks for ``mixed_snapshots``; raises ConfigError where the source cannot. An increment begins
        again: its end was that of the snapshot, and rows beyond it would be read twice."""
        incremental = self.spec.source.options.incremental
        if self.stream.run.pipeline.runtime.resume != "mixed_snapshots" or incremental is not None:
            return False
        plugins, source = self.stream.run.plugins, self.spec.source.type
        if plugins.supports("source", source, "mixed_snapshots"):
            if _resumes(self.stream):
                return True
            found = f"sink {self.spec.sink.type} does not keep staged parts for a later run"
        elif plugins.supports("source", source, "repeatable"):
            return False  # nothing is lost there
        else:
            found = f"source {source} cannot continue with the parts of a lost snapshot"
        raise ConfigError("read runtime.resume", found, "use resume: one_snapshot")

    def _interrupted(self, known: _Known) -> PartitionManifest | None:
        """The manifest of a load that was begun after ``known`` and not committed."""
        store = self._manifests()
        found = store.load(self.report.key) if store else None
        ended = found is None or found.epoch != known.epoch or (known.head and known.head.load_id == found.load_id)
        return None if ended else found

    def _with_manifest(self, known: _Known, window: Window, targets: Sequence[_Target]) -> _Planned:
        """A window of several parts keeps a manifest, but for a change stream, whose parts are tables. Raises
        ManifestChanged. With ``mixed_snapshots`` the load goes on under the token and the position of the one that was
        interrupted: nothing after that moment is claimed."""
        runtime = self.stream.run.pipeline.runtime
        if self.spec.source.changes or self._manifests() is None or max(len(window.parts), runtime.partitions) < 2:
            return _Planned(window, targets, self._whole_load(known, window, targets))
        [target] = targets
        mixed, load = self._mixed(), target.load
        load = evolve(load, repeatable=load.repeatable or mixed)
        start = None if load.strategy.whole or known.after is None else known.after.dumps()
        new = manifest_of(load, window, self.spec, start)
        again = self._interrupted(known)
        if again is not None:
            have = _without_own(target.sink.schema(), target.strategy)
            require_same(again, new, {f.name: str(f.type) for f in have or ()})
        if mixed and again is not None and again.position is not None and again.window == new.window:
            window = evolve(window, position=Position.from_json(again.position))
            load = evolve(load, token=again.token)
            new = evolve(new, token=again.token, position=again.position)
        target.load, target.window = load, window
        return _Planned(window, targets, self._whole_load(known, window, targets), new, again)


@define
class _Stage(_Attempt):
    """The third stage: from the source into the sink's staging. ``halted``: a part has failed, the others end."""

    halted: threading.Event = field(factory=threading.Event, init=False)

    def ledger(self, writer: Writer, planned: _Planned) -> Ledger:
        """What is staged decides what is done. With ``mixed_snapshots`` the report says what it holds."""
        store, window = self._manifests(), planned.window
        if planned.manifest is None or store is None:
            return Ledger()
        staged, ttl = writer.staged(), self.stream.run.pipeline.state.options.lease_seconds
        manifest = evolve(planned.manifest, load_id=writer.load_id)
        ledger = Ledger.open(store, manifest, planned.before, staged, ttl)
        if staged and not window.repeatable:
            found = f"partitions from an earlier snapshot than the others: {len(staged)} of {len(window.parts)}"
            self._warn(f"{found} (runtime.resume: mixed_snapshots)")
        self.report.partitions_skipped = [one.id for one in ledger.skipped]
        for one in ledger.skipped:
            self._warn(f"partition {one.id} was skipped: {one.reason}; its rows are not loaded")
        return ledger

    def open(self, stack: ExitStack, planned: _Planned) -> tuple[Writer, list[Writer]]:
        """The writer that holds the journal, and those whose rows its commit takes along. All bear one load id, that of
        the first which goes on with an interrupted load."""
        targets, load = planned.targets, planned.load
        load_id = load.load_id
        for target in targets:
            target.load = evolve(target.load, load_id=load_id, started_at=load.started_at)
            target.writer = self._open_inspected(target, planned.before)
            if target is not targets[0] and target.writer.load_id != load_id:
                target.writer.abort()  # half a load of another id: stage it again
                target.writer = self._open_inspected(target, planned.before)
            stack.enter_context(closing(target.writer))
            load_id = target.writer.load_id
        writers = [target.writer for target in targets if target.writer is not None]
        if len(targets) == 1 and targets[0].key == load.key:
            return writers[0], []
        leader = stack.enter_context(closing(self.sink.open(evolve(load, load_id=load_id))))
        return leader, writers

    def _open_inspected(self, target: _Target, before: PartitionManifest | None) -> Writer:
        """Through the contract, which is told of the parts to come: all but those that are skipped."""
        before = before if before and before.token == target.load.token else None
        skipped = {one.id for one in before.of("skipped")} if before else set()
        parts = [part.id for part in target.window.parts if part.id not in skipped]
        return self.judge.open(target.sink, target.load, parts)

    def give_up(self, load: Load, writers: Sequence[Writer], ledger: Ledger, error: BaseException) -> bool:
        """What is left the next open sweeps; the error to tell is the first. What another runner has taken over it may
        be going on with. True: what is staged is kept, and so is what it needs of the target."""
        if isinstance(error, Conflict) and ledger.taken_over():
            return True
        if self._will_resume(load, ledger, error):
            return True
        for writer in writers:
            with suppress(Exception):
                writer.abort()
        with suppress(Exception):
            ledger.dropped()
        self.judge.discard(error)
        return False

    def _will_resume(self, load: Load, ledger: Ledger, error: BaseException) -> bool:
        """Staged parts are worth keeping if the very next attempt can go on with them, or if a part failed beside
        others that are done: their manifest lets a later run do so."""
        if not load.repeatable or not isinstance(error, Exception):
            return False
        return ledger.half_done or (not self.last and self._is_retryable(error))

    def execute(self, targets: Sequence[_Target], ledger: Ledger) -> dict[str, Staged]:
        """Every part of every target that is not staged yet."""
        staged: dict[str, Staged] = {}
        todo: list[tuple[_Target, Part]] = []
        for target in targets:
            assert target.writer is not None, "opened before"
            staged |= target.writer.staged()
            done = {*staged, *self.report.partitions_skipped}
            todo += [(target, part) for part in target.window.parts if part.id not in done]
        self.report.partitions_resumed = len(staged)
        workers = self.stream.run.workers or self.stream.run.pipeline.runtime.workers
        if self.judge.begin([part.id for target in targets for part in target.window.parts if part.id in staged]):
            workers = 1
        with self.stream.timed("stage"):
            if workers > 1 and len(todo) > 1 and self._parallel():
                staged.update(self._stage_at_once(workers, todo, ledger))
            else:
                staged.update(self._stage_part(target, part, ledger) for target, part in todo)
        rows = self.report.rows
        rows.written = sum(s.rows for s in staged.values())
        rows.filtered = sum(s.filtered for s in staged.values())
        rows.quarantined = sum(s.quarantined for s in staged.values())
        rows.read = rows.written + rows.filtered + rows.quarantined
        self.report.bytes = sum(s.bytes for s in staged.values())
        self.stream.tell("staged", parts=len(staged), rows=rows.written, bytes=self.report.bytes)
        return staged

    def _stage_at_once(
        self, workers: int, todo: Sequence[tuple[_Target, Part]], ledger: Ledger
    ) -> Iterator[tuple[str, Staged]]:
        """In as many threads. The first failure, or a signal, ends the others at their next batch."""
        with ThreadPoolExecutor(workers, "dpone-part") as pool:
            staging = [pool.submit(self._stage_part, target, part, ledger) for target, part in todo]
            try:
                for staged in as_completed(staging):
                    yield staged.result()
            except BaseException:
                self.halted.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _parallel(self) -> bool:
        return self.stream.run.plugins.supports("sink", self.spec.sink.type, "parallel_stage")

    def _stage_part(self, target: _Target, part: Part, ledger: Ledger) -> tuple[str, Staged]:
        tell, writer = self.stream.tell, target.writer
        assert writer is not None, "opened before"

        def after_batch(**data: int) -> None:
            tell("batch", part=part.id, **data)
            if self.halted.is_set():
                found = "another part of the window failed, or the run was interrupted"
                raise Halted(f"read part {part.id}", found, "see the stream's error")

        with ledger.running(part.id) as finish:
            tell("part_started", part=part.id)
            with (
                self.source.read(part) as stream,
                closing(self._told(target, part, stream, after_batch)) as told,
            ):
                staged = writer.stage(part, told)
            finish(staged)
        tell("part_staged", part=part.id, rows=staged.rows, bytes=staged.bytes)
        return part.id, staged

    def _told(self, target: _Target, part: Part, stream: Stream, after_batch: Callable[..., None]) -> ToldStream:
        stream = Cut(stream) if self._cuts else stream
        watched, staged = self.judge.watched(part, stream), _staged_schema(target.load)
        return ToldStream(watched, target.window.schema, staged, after_batch, target.forms)


@define
class _Commit(_Attempt):
    """The last stage: the one commit, then the state, then the source."""

    def execute(self, writer: Writer, also: Sequence[Writer], known: _Known, position: Position) -> Receipt:
        self.stream.tell("commit_started", load_id=writer.load_id)
        head = known.head
        with self.stream.timed("commit"):
            try:
                if keeps_journal(self.stream.run, self.spec):
                    self._require_version(writer, known)
                receipt = writer.commit(head, position, also)
            except Stopped:
                raise
            except Exception as error:
                receipt = _asked(self.stream.run, self.spec, self.report.key, writer.load_id, error)
        self.stream.tell("committed", load_id=writer.load_id, seq=receipt.entry.seq, rows=dict(receipt.entry.rows))
        return receipt

    def _require_version(self, writer: Writer, known: _Known) -> None:
        """The fence where the sink has none. A runner that is suspended after it delivers rows once more, and then
        cannot save: its position counts for nothing."""
        saved = self.state.load(self.report.key)
        if (saved.version if saved else 0) != known.version:
            found = "another run loaded the stream or its position was set after this load began"
            raise Conflict(f"commit load {writer.load_id}", found, "nothing was delivered; run again")

    def done(self, receipt: Receipt, version: int | None = None) -> None:
        """The rows are durable; copy the position to the state. ``version`` None: recovery has done so already."""
        rows, entry = self.report.rows, receipt.entry
        rows.inserted, rows.updated = receipt.inserted, receipt.updated
        rows.deleted, rows.unchanged = receipt.deleted, receipt.unchanged
        self.report.status, self.report.load_id = "loaded", entry.load_id
        self.report.position_after = entry.position.to_json()
        if version is not None:
            with self.stream.timed("state"):
                saved = journal_of(entry) if keeps_journal(self.stream.run, self.spec) else state_of(entry)
                self.state.save(self.report.key, saved, version)
            self.stream.tell("state_saved", seq=entry.seq)
        self.judge.settle(entry.load_id)

    def count(self, strategy: Strategy, receipt: Receipt) -> None:
        """Where every staged row is a new one, the target's own count must be the same."""
        written = self.report.rows.written
        if strategy.mode in ("append", "full_refresh") and strategy.duplicates == "fail" and receipt.inserted < written:
            gone = f"the target reports {receipt.inserted:,} inserted rows, but {written:,} were sent"
            self._warn(f"{gone}; check whether a trigger or rule of the table drops or redirects them")

    def acknowledge(self, position: Position) -> None:
        self.source.ack(position)
        self.stream.tell("acknowledged")


@define
class _Stages:
    """The stages of one attempt, in their order, while the key is locked."""

    recover: _Recover
    plan: _Plan
    stage: _Stage
    commit: _Commit

    def execute(self, added: _Added) -> None:
        known, commit = self.recover.execute(dry=False), self.commit
        if known.head is not None and commit._landed(known.head):
            commit.done(Receipt.of(known.head))
            commit.acknowledge(known.head.position)
        elif planned := self.plan.execute(known, self.recover, added):
            self._move(known, planned, added)
        elif known.head is not None:  # nothing new; the last run may have died before it said so
            commit.acknowledge(known.head.position)

    def _move(self, known: _Known, planned: _Planned, added: _Added) -> None:
        """Stage and commit. If what is staged is kept, so is what was added for it."""
        stage, commit, tracked = self.stage, self.commit, Ledger()
        stream, report, judge = stage.stream, stage.report, stage.judge
        with ExitStack() as stack:
            leader, others = stage.open(stack, planned)
            report.load_id = leader.load_id
            stream.tell("load_opened", load_id=leader.load_id, token=planned.load.token)
            try:
                tracked = stage.ledger(leader, planned)
                with renewing(tracked, tracked.ttl) if tracked.store else nullcontext():
                    staged = stage.execute(planned.targets, tracked)
                    tracked.save()
                with stream.timed("contract") if judge.inspection else nullcontext():
                    judge.conclude(staged)
                receipt = commit.execute(leader, others, known, planned.window.position)
            except BaseException as error:
                if stage.give_up(planned.load, (leader, *others), tracked, error):
                    added.clear()
                raise
        commit.done(receipt, known.version)
        report.sequences = [*receipt.sequences]
        for text in receipt.warnings:
            commit._warn(text)
        commit.count(planned.load.strategy, receipt)
        commit.acknowledge(receipt.entry.position)


def _attempt(stream: _Stream, last: bool) -> None:
    """From lock to acknowledgement, over connections of its own."""
    run, spec, report = stream.run, stream.spec, stream.report
    with ExitStack() as stack:
        source = stack.enter_context(closing(run.make("source", spec.source)))
        sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state = stack.enter_context(closing(run.make("state", run.pipeline.state)))
        stack.enter_context(connected())
        report.delivery = run.plugins.get("sink", spec.sink.type).delivery
        given, added = (stream, last, source, sink, state, Judge(spec, report)), _Added()
        stages = _Stages(_Recover(*given), _Plan(*given), _Stage(*given), _Commit(*given))
        if run.dry_run:
            report.key = key_of(run, spec, sink, state)
            stages.plan.execute(stages.recover.execute(dry=True), stages.recover, added)
            return
        report.key, lease = stack.enter_context(locked(run, spec, sink, state, run.full_refresh))
        stream.tell("locked", owner=lease.owner)
        try:
            stages.execute(added)
        except BaseException as error:
            stages.recover.take_back_own(added, lease, error)
            raise


def _taken(one: TakenBack) -> str:
    added = f"{one.what}, added by a load that did not commit,"
    return f"{added} was kept: {one.stays}" if one.stays else f"{added} was removed"


def _line(error: Exception) -> str:
    return redact(" ".join(str(error).split()))


def _instead(able: bool, keeps: bool, strategy: Strategy) -> str:
    """What else gets rows of other columns into the target, besides a policy that allows them."""
    if keeps:
        words = strategy.mode + (f" with deletes: {strategy.deletes}" if strategy.mode == "cdc_apply" else "")
        return f"or load into another table, because {words} keeps existing rows"
    return "or replace the table with --full-refresh" if able else "or drop the table and use --full-refresh"


def _effective(strategy: Strategy, run: Job, full_refresh: bool = False) -> Strategy:
    """--full-refresh replaces the rows of a growing target; other strategies just read everything again."""
    if (run.full_refresh or full_refresh) and strategy.mode in ("append", "merge"):
        return evolve(strategy, mode="full_refresh")
    return strategy


def _resumes(stream: _Stream) -> bool:
    """Parts that the sink has staged survive an interrupted load. Else each load reads all of its window."""
    return stream.run.plugins.supports("sink", stream.spec.sink.type, "resume")


def _without_own(schema: pa.Schema | None, strategy: Strategy) -> pa.Schema | None:
    """The columns that rows of a source fill; the others are dpone's."""
    own = (*LINEAGE, *VALIDITY) if strategy.mode == "scd2" else LINEAGE
    return None if schema is None else pa.schema([f for f in schema if f.name not in own])


def _load(
    stream: _Stream,
    known: _Known,
    window: Window,
    strategy: Strategy,
    key: str,
    columns: Mapping[str, str] | None,
    loads: Mapping[str, str] | None = None,
) -> Load:
    """``columns``: names in the target; None: journal only. ``loads``: keys and tokens of those it takes along."""
    whole, changes = strategy.whole or stream.run.full_refresh, bool(stream.spec.source.changes)
    schema = None if columns is None else pa.schema([f.with_name(columns[f.name]) for f in window.schema])
    start = None if whole or known.after is None else known.after.dumps()
    parts = [part.id for part in window.parts]
    shape = "" if schema is None else schema.to_string()
    work = [key, known.epoch, start, window.position.dumps(), parts, shape, repr(strategy)]
    if stream.spec.sink.contract is not None:  # rows held against another contract are other rows
        work.append(repr(stream.spec.sink.contract))
    return Load(
        key=key,
        load_id=ulid(),
        run_id=stream.run.run_id,
        token=hashlib.sha256(json.dumps([*work, loads] if loads else work).encode()).hexdigest(),
        repeatable=window.repeatable and _resumes(stream),
        schema=schema,
        strategy=strategy,
        whole=window.whole,
        started_at=datetime.now(UTC),
        changes=changes and strategy.mode in CHANGES,
        parts=len(window.parts),
        count=stream.spec.sink.options.verify_target == "count",
        origin=_digest(json.dumps(_origin(stream.spec, known, key, strategy))),
    )


def _origin(spec: StreamSpec, known: _Known, key: str, strategy: Strategy) -> list[Any]:
    """See ``Load``. Options of the source and rules of a contract leave rows out."""
    before = known.head.load_id if known.head else None
    return [key, known.epoch, before, repr(strategy), repr(spec.source.options), repr(spec.sink.contract)]


def _staged_schema(load: Load) -> pa.Schema:
    """Of the batches the writer is given."""
    assert load.schema is not None, "only a rewind has no schema, and it stages nothing"
    return batch_schema(ChangeTable(load.schema, load.strategy.key)) if load.changes else load.schema


# -- journal and state ------------------------------------------------------------------------------------------


def keeps_journal(run: Job, spec: StreamSpec) -> bool:
    """The engine keeps the journal of the stream's sink, as its state: the sink cannot (``Connector.commit``)."""
    return run.plugins.get("sink", spec.sink.type).commit == "none"


def head_of(run: Job, spec: StreamSpec, sink: Sink, state: StateBackend, key: str) -> Entry | None:
    """The head of a key's journal, from whoever keeps it."""
    return kept(state.load(key)) if keeps_journal(run, spec) else sink.journal(key)


def manifests_of(run: Job, state: StateBackend) -> PartitionManifestStore | None:
    keeping = run.offered(KeepsPartitions, state, run.pipeline.state)
    return keeping.partitions() if keeping else None


def key_of(run: Job, spec: StreamSpec, sink: Sink, state: StateBackend) -> str:
    """The key under which a stream stands: the former one, until a run has moved what is there. Changes nothing."""
    key, former = spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)
    if former == key or state.load(key) is not None or head_of(run, spec, sink, state, key) is not None:
        return key
    head = head_of(run, spec, sink, state, former)
    there = state.load(former) is not None if head is None else not moved_to(head)
    return former if there else key


@contextmanager
def locked(
    run: Job, spec: StreamSpec, sink: Sink, state: StateBackend, anew: bool = False
) -> Iterator[tuple[str, Lease]]:
    """A stream's key, and its lease, while its lock is held. What stands under its former key is moved first; a sink
    that cannot do that keeps the former key. ``anew``: whatever the state says, the next load is of a new epoch.

    The first time, the lock of the former key is held as well: a runner of an earlier version asks for that one."""
    key, former = spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)
    ttl = run.pipeline.state.options.lease_seconds
    with ExitStack() as stack:
        lease = stack.enter_context(state.lock(key, ttl))
        stack.enter_context(renewing(lease, ttl))
        if former != key and state.load(key) is None:
            theirs = stack.enter_context(state.lock(former, ttl))
            stack.enter_context(renewing(theirs, ttl))
            if _take_over(run, spec, sink, state, anew):
                key, lease = former, theirs
        yield key, lease


def _take_over(run: Job, spec: StreamSpec, sink: Sink, state: StateBackend, anew: bool) -> bool:
    """Move what stands under the former key, or end what a killed run has begun of it. True: it has to stay there."""
    key, former = spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)
    head, there = (head_of(run, spec, sink, state, one) for one in (former, key))
    saved = state.load(former)
    if there is not None and moved_to(head) != key:
        return False
    if there is None and not anew:
        require_here(former, head, spec.sink.location)
        compare(head, saved.value if saved else None, spec.sink.location)
    if head is None or moved_to(there) or moved_to(head) not in ("", key):
        return False
    moving = run.offered(Moving, sink, spec.sink)
    if moving is None:
        return True
    move(spec, sink, moving, state, manifests_of(run, state), former, key, run.run_id)
    run.tell("warning", spec.name, text=f"journal and state moved from key {former} to {key}")
    return False


def rewind(pipeline: Pipeline, stream: str, position: Position | None, plugins: Plugins | None = None) -> Position:
    """Set a stream's position by hand (None: its beginning). Starts a new epoch, in the journal first, so that a
    runner suspended since before can no longer commit. Rows of the target stay. Returns the position as saved."""
    run = Job(pipeline, [stream], plugins=plugins or discover())
    return _rewind(run, lambda _: position or START, rewind_token)


def resync(pipeline: Pipeline, stream: str, tables: Sequence[str], plugins: Plugins | None = None) -> Position:
    """Let the next run of a change stream read all rows of some of its tables again (names or globs); the others go on.
    A rewind to the same position without those tables, and as such a new epoch. Rows of the target stay until then.

    Raises ConfigError for a stream that was not loaded yet, a table it does not have, a reader that cannot do it.
    """
    run = Job(pipeline, [stream], plugins=plugins or discover())
    [spec] = run.streams()
    failed, changes = f"resync {', '.join(tables)}", spec.source.changes
    with ExitStack() as stack:
        reader = stack.enter_context(closing(run.reader(spec.source, changes.by))) if changes else None
        record = run.plugins.reader(spec.source.type, changes.by) if changes else None
        resyncing = run.plugins.offered(Resyncing, reader, record.name) if record else None
        if resyncing is None:
            found = "its reader cannot read one table again" if reader else "it is not a change stream"
            raise ConfigError(failed, f"stream {stream}: {found}", "use 'dpone run --full-refresh'")

        def without(head: Entry | None) -> Position:
            if head is None or head.position.kind == START.kind:
                found = f"stream {stream} has not been loaded yet"
                raise ConfigError(failed, found, "use 'dpone run', which reads all rows of every table")
            return resyncing.resync(head.position, tables)

        return _rewind(run, without, lambda key, wanted: _digest(f"resync {key} {wanted.dumps()}"))


def _rewind(run: Job, wanted: Callable[[Entry | None], Position], token: Callable[[str, Position], str]) -> Position:
    """To what ``wanted`` makes of the journal's head, under the lock."""
    [spec] = run.streams()
    pipeline = run.pipeline
    with ExitStack() as stack:
        sink: Sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state: StateBackend = stack.enter_context(closing(run.make("state", pipeline.state)))
        key, _ = stack.enter_context(locked(run, spec, sink, state, anew=True))
        head, saved = head_of(run, spec, sink, state, key), state.load(key)
        if head is not None and spec.sink.contract is not None:  # it will not be the head any more
            place_of(spec, key).settle(head.load_id)
        position = wanted(head).at_epoch(max(1, next_epoch(head, saved)))
        load = Load(
            key, ulid(), run.run_id, token(key, position), False, None, spec.sink.strategy, False, datetime.now(UTC)
        )  # fmt: skip
        version = saved.version if saved else 0
        if keeps_journal(run, spec):
            state.save(key, journal_of(load.entry(head, position)), version)
            return position
        with closing(sink.open(load)) as writer:
            receipt = writer.commit(head, position, ())
        state.save(key, state_of(receipt.entry), version)
    return position


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def undo(pipeline: Pipeline | str | Path, stream: str, load_id: str, plugins: Plugins | None = None) -> Receipt:
    """Take one load back: the target is as it was before it, and so is the position, in a new epoch, so that the next
    run moves the same rows again. The load must be the last that changed its target, and ``sink.options.undo`` must
    have been on for it. Raises UndoRefused, and Busy while the stream runs.

    In one commit of the sink, journal entry included; the state is saved after it. Killed in between, the next run
    adopts the journal as after any load.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_yaml(pipeline)
    run = Job(pipeline, [stream], plugins=plugins or discover())
    [spec] = run.streams()
    with ExitStack() as stack:
        sink: Sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        undoing = _undoing(run, spec, sink)
        state: StateBackend = stack.enter_context(closing(run.make("state", pipeline.state)))
        key, _ = stack.enter_context(locked(run, spec, sink, state))
        head, saved = sink.journal(key), state.load(key)
        compare(head, saved.value if saved else None, spec.sink.location)
        if head is not None and spec.sink.contract is not None:  # it will not be the head any more
            place_of(spec, key).settle(head.load_id)
        before = undoing.undo_plan(key, load_id).position or START
        position = before.at_epoch(max(1, next_epoch(head, saved)))
        token = hashlib.sha256(f"undo {load_id} {key} {position.dumps()}".encode()).hexdigest()
        load = Load(key, ulid(), run.run_id, token, False, None, spec.sink.strategy, False, datetime.now(UTC))
        try:
            receipt = undoing.undo(load, load_id, head, position)
        except Stopped:
            raise
        except Exception as error:
            receipt = _asked(run, spec, key, load.load_id, error)
        state.save(key, state_of(receipt.entry), saved.version if saved else 0)
    return receipt


def _undoing(run: Job, spec: StreamSpec, sink: Sink) -> Undoing:
    undoing = run.offered(Undoing, sink, spec.sink)
    if undoing is None:
        found = f"{spec.sink.type} cannot take back a load"
        raise ConfigError(f"take back a load of {spec.name}", found, "load the rows again after 'dpone state set'")
    return undoing


def _asked(run: Job, spec: StreamSpec, key: str, load_id: str, error: Exception) -> Receipt:
    """If the answer to a commit is lost, the journal knows whether it happened."""
    head = None
    if keeps_journal(run, spec):
        raise error
    # If it is still out of reach, the next attempt, or the next run, will ask again.
    with suppress(Exception), closing(run.make("sink", spec.sink)) as sink:
        head = sink.journal(key)
    if head is None or head.load_id != load_id:
        raise error
    return Receipt.of(head)
