"""The run. Read this file first; everything else serves it.

For each stream, in this order and never another (docs/architecture.md, laws 1 to 3):

    lock the key -> recover from the journal -> fix the window -> evolve the schema -> stage the parts
    -> one fenced commit of rows, journal entry and position -> save the state -> acknowledge the source

The journal in the sink is the truth; the state backend holds a copy of its head. A crash between any two steps is
mended by the next run: staged parts of a repeatable window are taken up again, a journal ahead of the state is
adopted, and a state ahead of the journal stops the run.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from attrs import define, evolve, field

from dpone import evolution
from dpone.capability import Support
from dpone.config import expand
from dpone.contract import (
    Entry,
    KeepsPartitions,
    Lease,
    Load,
    Part,
    Receipt,
    Sink,
    Source,
    Staged,
    StateBackend,
    Stream,
    Versioned,
    Window,
    WindowRequest,
    Writer,
)
from dpone.errors import (
    ConfigError,
    Conflict,
    Interrupted,
    StateAhead,
    StateError,
    StateMissing,
    Stopped,
)  # fmt: skip
from dpone.ids import ulid
from dpone.observe.events import RunEvent, Step
from dpone.partition import (
    Halted,
    Ledger,
    PartitionManifest,
    PartitionManifestStore,
    manifest_of,
    parts_again,
    require_same,
)  # fmt: skip
from dpone.pipeline import Pipeline, StreamSpec
from dpone.plugins import Plugins, discover
from dpone.position import Position
from dpone.prefetch import prefetch
from dpone.report import ErrorReport, RunReport, StreamReport
from dpone.schema import LINEAGE, VALIDITY
from dpone.secret import redact
from dpone.strategy import Strategy

# The position of a key that was deliberately set back to its beginning.
START = Position("start", {}, {})


def run(pipeline: Pipeline | str | Path, **options: Any) -> RunReport:
    """Run a pipeline and report what it did. Failures of streams are in the report, not raised.

    Options: ``select`` (names of streams), ``full_refresh``, ``dry_run``, ``workers``. Raises ConfigError or
    PluginError before anything is touched; KeyboardInterrupt and Interrupted pass after a clean abort.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_yaml(pipeline)
    return Run(pipeline, **options).execute()


@define
class Run:
    """One run of a pipeline. ``report`` is filled as it goes on, so that an interrupted run has one too."""

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

    def streams(self) -> list[StreamSpec]:
        """The selected streams. Asks the sources of those that select tables by a glob."""
        return _selected(expand(self.pipeline, self._tables_of), self.select)

    def tell(self, step: Step, stream: str | None = None, **data: Any) -> None:
        """Tell every observer; one that raises is reported once and never changes the run."""
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
        with closing(self.make("source", source)) as connected:
            tables: list[str] = connected.tables(pattern)
            return tables

    def make(self, role: Any, spec: Any) -> Any:
        """The connector's class, with its spec; nothing is connected yet."""
        return self.plugins.load(role, spec.type)(spec)


def _selected(pipeline: Pipeline, names: Sequence[str]) -> list[StreamSpec]:
    known = {s.name: s for s in pipeline.streams}
    if unknown := sorted(set(names) - set(known)):
        found = f"no stream {', '.join(unknown)}"
        raise ConfigError("select streams", found, f"choose from {', '.join(known)}")
    return [s for s in pipeline.streams if not names or s.name in names]


@define
class _StreamRun:
    """One stream of a run: attempts until it is done, or fails for good."""

    run: Run
    spec: StreamSpec
    report: StreamReport

    def execute(self) -> None:
        self.tell("stream_started", key=self.report.key)
        retries = self.run.pipeline.runtime.retries
        for attempt in range(1, retries + 2):
            self.report.attempts = attempt
            self.report.error = None
            try:
                _Attempt(self, last=attempt > retries).execute()
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
class _Attempt:
    """One attempt, from lock to acknowledgement, over connections of its own."""

    stream: _StreamRun
    last: bool
    source: Source = field(init=False)
    sink: Sink = field(init=False)
    state: StateBackend = field(init=False)
    halted: threading.Event = field(factory=threading.Event, init=False)
    manifest: PartitionManifest | None = field(default=None, init=False)
    before: PartitionManifest | None = field(default=None, init=False)

    @property
    def spec(self) -> StreamSpec:
        return self.stream.spec

    @property
    def report(self) -> StreamReport:
        return self.stream.report

    def execute(self) -> None:
        run, tell = self.stream.run, self.stream.tell
        with ExitStack() as stack:
            self.source = stack.enter_context(closing(run.make("source", self.spec.source)))
            self.sink = stack.enter_context(closing(run.make("sink", self.spec.sink)))
            self.state = stack.enter_context(closing(run.make("state", run.pipeline.state)))
            if run.dry_run:
                self._prepare(self._recover(dry=True))
                return
            ttl = run.pipeline.state.options.lease_seconds
            lease = stack.enter_context(self.state.lock(self.report.key, ttl))
            stack.enter_context(_renewing(lease, ttl))
            tell("locked", owner=lease.owner)
            known = self._recover(dry=False)
            if known.head is not None and self._landed(known.head):
                self._done(_receipt(known.head))
                self._acknowledge(known.head.position)
            elif prepared := self._prepare(known):
                window, load = prepared
                self._move(known, window, load)
            elif known.head is not None:  # nothing new; the last run may have died before it said so
                self._acknowledge(known.head.position)

    # -- recover ------------------------------------------------------------------------------------------------

    def _recover(self, dry: bool) -> _Known:
        """Law 1: the journal is the truth, the state a copy. A copy that lags is mended, one that leads stops us."""
        with self.stream.timed("recover"):
            key, target = self.report.key, self.spec.sink.location
            head, saved = self.sink.journal(key), self.state.load(key)
            version, adopted = (saved.version if saved else 0), False
            if self.stream.run.full_refresh and not self._landed(head):
                known = _Known(head, None, version, _next_epoch(head, saved))
            else:
                adopted = compare(head, saved.value if saved else None, target)
                if adopted and head is not None and not dry:
                    version = self.state.save(key, _state_of(head), version)
                if head is None:
                    self._require_fresh_target()
                started = head is not None and head.position.kind != START.kind
                if started and head is not None:
                    self._require_target(head)
                known = _Known(head, head.position if head and started else None, version, head.epoch if head else 0)
        self.report.position_before = head.position.to_json() if head else None
        self.report.position_after = self.report.position_before
        self.stream.tell("recovered", adopted=adopted, seq=head.seq if head else 0, epoch=known.epoch)
        return known

    def _require_fresh_target(self) -> None:
        """ST-04: rows that no journal and no state explain are never added to by guess."""
        sink = self.spec.sink
        if sink.strategy.mode == "full_refresh" or sink.options.adopt_existing or self.sink.is_empty():
            return
        found = "it has rows, but neither journal nor state of this stream"
        todo = "set sink.options.adopt_existing: true to load into it, or use --full-refresh to replace it"
        raise StateMissing(f"load into {sink.location}", found, todo)

    def _require_target(self, head: Entry) -> None:
        """A journal beside a table that was dropped: what it says was loaded is gone, and would stay so. A strategy
        that reads everything makes it anew; a position that was set by hand was meant."""
        sink, by_hand = self.spec.sink, head.token == _rewind_token(self.report.key, head.position)
        if sink.strategy.whole or by_hand or self.sink.schema() is not None:
            return
        found = f"the journal ends with load {head.load_id}, but the target does not exist"
        todo = "bring it back, or use --full-refresh, or 'dpone state set' to choose a position"
        raise StateAhead(f"load into {sink.location}", found, todo)

    def _landed(self, head: Entry | None) -> bool:
        """An earlier attempt of this run lost the answer to its commit, or failed after it; the journal has it."""
        return head is not None and head.load_id == self.report.load_id

    # -- prepare ------------------------------------------------------------------------------------------------

    def _prepare(self, known: _Known) -> tuple[Window, Load] | None:
        """Fix the window and make the target fit its schema; None if there is nothing to load."""
        run, report = self.stream.run, self.report
        strategy = _effective(self.spec.sink.strategy, run)
        whole = strategy.whole or run.full_refresh
        target = _without_own(self.sink.schema(), strategy)
        mixed = self._mixed()
        again = self._interrupted(known) if mixed else None
        request = WindowRequest(
            whole=whole,
            partitions=run.pipeline.runtime.partitions,
            batch_rows=run.pipeline.runtime.batch_rows,
            expected=target,
            mode=strategy.mode,
            parts=parts_again(again) if again else (),
        )
        with self.stream.timed("window"):
            window = self.source.window(known.after, request)
            window = evolve(window, position=window.position.at_epoch(known.epoch))
        report.caught_up, report.proof, report.partitions = window.caught_up, window.proof, len(window.parts)
        self.stream.tell(
            "window_fixed", parts=len(window.parts), repeatable=window.repeatable, proof=window.proof,
            position=window.position.to_json(),
        )  # fmt: skip
        if not window.parts and known.after is not None and window.position.dumps() == known.after.dumps():
            self._nothing(window, "nothing new in the source")
            return None
        changes = self._plan(target, window, strategy)
        load = _load(self.stream, known, window, strategy, whole, changes.columns)
        load = evolve(load, repeatable=window.repeatable or mixed)
        window, load = self._keep_manifest(known, target, again, window, load)
        head = known.head
        if head is not None and target is not None and window.repeatable and head.token == load.token:
            self._nothing(window, f"the same content was loaded as {head.load_id}")
            return None
        with self.stream.timed("schema"):
            report.ddl = self.sink.ddl(changes.changes)
            if not run.dry_run:
                self.sink.apply(report.ddl)
        report.schema_changes = [str(c) for c in changes.changes]
        if run.dry_run:
            report.status, report.position_after = "planned", window.position.to_json()
            return None
        self.stream.tell("schema_applied", changes=report.schema_changes)
        return window, load

    def _nothing(self, window: Window, why: str) -> None:
        self.report.status, self.report.proof = "caught_up", f"{why}; {window.proof}"

    def _plan(self, target: pa.Schema | None, window: Window, strategy: Strategy) -> evolution.Plan:
        wanted = {"key": strategy.key, "order_by": strategy.order_by, "where": tuple(strategy.where)}
        wanted |= {"partition": _one(strategy.partition), "effective_from": _one(strategy.effective_from)}
        for what, columns in wanted.items():
            if missing := [c for c in columns if c not in window.schema.names]:
                found = f"no column {', '.join(missing)} in {self.spec.source.location}"
                raise ConfigError(f"find {what} columns", found, f"use columns of {', '.join(window.schema.names)}")
        policy = self.spec.sink.options.schema_evolution
        limit = getattr(getattr(self.sink, "dialect", None), "max_identifier", None)
        plan = evolution.plan(target, window.schema, policy, self.sink.stores, strategy.key, limit)
        plan.require_safe(self.spec.sink.location)
        return plan

    # -- partitions ---------------------------------------------------------------------------------------------

    def _mixed(self) -> bool:
        """The pipeline asks for ``mixed_snapshots``; raises ConfigError where the source cannot."""
        if self.stream.run.pipeline.runtime.resume != "mixed_snapshots":
            return False
        can = self.stream.run.plugins.get("source", self.spec.source.type).capabilities
        if can.get("mixed_snapshots") is Support.SUPPORTED:
            return True
        if can.get("repeatable") is Support.SUPPORTED:
            return False  # nothing is lost there
        found = f"source {self.spec.source.type} cannot go on with the parts of a snapshot that is lost"
        raise ConfigError("read runtime.resume", found, "use resume: one_snapshot")

    def _manifests(self) -> PartitionManifestStore | None:
        record = self.stream.run.plugins.get("state", self.stream.run.pipeline.state.type)
        if record.capabilities.get("partitions") is not Support.SUPPORTED:
            return None
        return cast(KeepsPartitions, self.state).partitions()

    def _interrupted(self, known: _Known) -> PartitionManifest | None:
        """The manifest of a load that was begun after ``known`` and not committed."""
        store = self._manifests()
        found = store.load(self.report.key) if store else None
        ended = found is None or found.epoch != known.epoch or (known.head and known.head.load_id == found.load_id)
        return None if ended else found

    def _keep_manifest(
        self, known: _Known, target: pa.Schema | None, again: PartitionManifest | None, window: Window, load: Load
    ) -> tuple[Window, Load]:
        """A window of several parts keeps a manifest. Raises ManifestChanged. With ``mixed_snapshots`` the load goes on
        under the token and the position of the one that was interrupted: nothing after that moment is claimed."""
        runtime = self.stream.run.pipeline.runtime
        if self._manifests() is None or max(len(window.parts), runtime.partitions) < 2:
            return window, load
        start = None if load.strategy.whole or known.after is None else known.after.dumps()
        new = manifest_of(load, window, self.spec, start)
        self.before = self._interrupted(known)
        if self.before is not None:
            require_same(self.before, new, {f.name: str(f.type) for f in target or ()})
        if again is not None and again.position is not None and again.window == new.window:
            window = evolve(window, position=Position.from_json(again.position))
            load = evolve(load, token=again.token)
            new = evolve(new, token=again.token, position=again.position)
        self.manifest = new
        return window, load

    def _ledger(self, writer: Writer, window: Window) -> Ledger:
        """What is staged decides what is done. With ``mixed_snapshots`` the report says what it holds."""
        store = self._manifests()
        if self.manifest is None or store is None:
            return Ledger()
        staged, ttl = writer.staged(), self.stream.run.pipeline.state.options.lease_seconds
        manifest = evolve(self.manifest, load_id=writer.load_id)
        ledger = Ledger.open(store, manifest, self.before, staged, ttl)
        if staged and not window.repeatable:
            found = f"{len(staged)} of {len(window.parts)} partitions are of an earlier snapshot than the others"
            self.report.warnings.append(f"{found} (runtime.resume: mixed_snapshots)")
        self.report.partitions_skipped = [one.id for one in ledger.skipped]
        for one in ledger.skipped:
            self.report.warnings.append(f"partition {one.id} was skipped: {one.reason}; its rows are not loaded")
        return ledger

    # -- move ---------------------------------------------------------------------------------------------------

    def _move(self, known: _Known, window: Window, load: Load) -> None:
        with closing(self.sink.open(load)) as writer:
            self.report.load_id = writer.load_id
            self.stream.tell("load_opened", load_id=writer.load_id, token=load.token)
            ledger = Ledger()
            try:
                ledger = self._ledger(writer, window)
                with _renewing(ledger, ledger.ttl) if ledger.store else nullcontext():
                    self._stage(writer, window, load, ledger)
                    ledger.save()
                receipt = self._commit(writer, known.head, window.position)
            except BaseException as error:
                with suppress(Exception):  # what is left the next open sweeps; the error to tell is the first
                    if self._will_resume(load, ledger, error):
                        ledger.save()
                    else:
                        writer.abort()
                        ledger.dropped()
                raise
        self._done(receipt, known.version)
        self._acknowledge(receipt.entry.position)

    def _acknowledge(self, position: Position) -> None:
        self.source.ack(position)
        self.stream.tell("acknowledged")

    def _will_resume(self, load: Load, ledger: Ledger, error: BaseException) -> bool:
        """Staged parts are worth keeping if the very next attempt can go on with them, or if a part failed beside
        others that are done: their manifest lets a later run do so."""
        if not load.repeatable or not isinstance(error, Exception):
            return False
        return ledger.half_done or (not self.last and self._is_retryable(error))

    def _is_retryable(self, error: Exception) -> bool:
        return self.stream.run.plugins.classifier().classify(error).retryable

    def _stage(self, writer: Writer, window: Window, load: Load, ledger: Ledger) -> None:
        staged = dict(writer.staged())
        self.report.partitions_resumed = len(staged)
        done = {*staged, *self.report.partitions_skipped}
        todo = [part for part in window.parts if part.id not in done]
        workers = self.stream.run.workers or self.stream.run.pipeline.runtime.workers
        with self.stream.timed("stage"):
            if workers > 1 and len(todo) > 1 and self._parallel():
                staged.update(self._stage_at_once(workers, writer, todo, window, load, ledger))
            else:
                staged.update(self._stage_part(writer, part, window, load, ledger) for part in todo)
        rows = self.report.rows
        rows.written = sum(s.rows for s in staged.values())
        rows.filtered = sum(s.filtered for s in staged.values())
        rows.quarantined = sum(s.quarantined for s in staged.values())
        rows.read = rows.written + rows.filtered + rows.quarantined
        self.report.bytes = sum(s.bytes for s in staged.values())
        self.stream.tell("staged", parts=len(staged), rows=rows.written, bytes=self.report.bytes)

    def _stage_at_once(
        self, workers: int, writer: Writer, todo: Sequence[Part], window: Window, load: Load, ledger: Ledger
    ) -> Iterator[tuple[str, Staged]]:
        """In as many threads. The first failure, or a signal, ends the others at their next batch."""
        with ThreadPoolExecutor(workers, "dpone-part") as pool:
            staging = [pool.submit(self._stage_part, writer, part, window, load, ledger) for part in todo]
            try:
                for staged in as_completed(staging):
                    yield staged.result()
            except BaseException:
                self.halted.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _parallel(self) -> bool:
        record = self.stream.run.plugins.get("sink", self.spec.sink.type)
        return record.capabilities.get("parallel_stage") is Support.SUPPORTED

    def _stage_part(self, writer: Writer, part: Part, window: Window, load: Load, ledger: Ledger) -> tuple[str, Staged]:
        tell = self.stream.tell

        def after_batch(**data: int) -> None:
            tell("batch", part=part.id, **data)
            if self.halted.is_set():
                found = "another part of the window failed, or the run was interrupted"
                raise Halted(f"read part {part.id}", found, "see the error of the stream")

        with ledger.running(part.id) as finish:
            tell("part_started", part=part.id)
            with (
                self.source.read(part) as stream,
                closing(_Told(stream, window.schema, _target_schema(load), after_batch)) as told,
            ):
                staged = writer.stage(part, told)
            finish(staged)
        tell("part_staged", part=part.id, rows=staged.rows, bytes=staged.bytes)
        return part.id, staged

    def _commit(self, writer: Writer, head: Entry | None, position: Position) -> Receipt:
        """If the answer to the commit is lost, the journal knows whether it happened."""
        self.stream.tell("commit_started", load_id=writer.load_id)
        with self.stream.timed("commit"):
            try:
                receipt = writer.commit(head, position)
            except Stopped:
                raise
            except Exception as error:
                receipt = self._ask_journal(writer.load_id, error)
        self.stream.tell("committed", load_id=writer.load_id, seq=receipt.entry.seq, rows=dict(receipt.entry.rows))
        return receipt

    def _ask_journal(self, load_id: str, error: Exception) -> Receipt:
        head = None
        # If it is still out of reach, the next attempt, or the next run, will ask again.
        with suppress(Exception), closing(self.stream.run.make("sink", self.spec.sink)) as sink:
            head = sink.journal(self.report.key)
        if head is None or head.load_id != load_id:
            raise error
        return _receipt(head)

    def _done(self, receipt: Receipt, version: int | None = None) -> None:
        """The rows are durable; copy the position to the state. ``version`` None: recovery has done so already."""
        rows, entry = self.report.rows, receipt.entry
        rows.inserted, rows.updated = receipt.inserted, receipt.updated
        rows.deleted, rows.unchanged = receipt.deleted, receipt.unchanged
        self.report.status, self.report.load_id = "loaded", entry.load_id
        self.report.position_after = entry.position.to_json()
        if version is not None:
            with self.stream.timed("state"):
                self.state.save(self.report.key, _state_of(entry), version)
            self.stream.tell("state_saved", seq=entry.seq)


def _effective(strategy: Strategy, run: Run) -> Strategy:
    """--full-refresh replaces the rows of a growing target; other strategies just read everything again."""
    if run.full_refresh and strategy.mode in ("append", "merge"):
        return evolve(strategy, mode="full_refresh")
    return strategy


def _without_own(schema: pa.Schema | None, strategy: Strategy) -> pa.Schema | None:
    """The columns that rows of a source fill; the others are dpone's."""
    own = (*LINEAGE, *VALIDITY) if strategy.mode == "scd2" else LINEAGE
    return None if schema is None else pa.schema([f for f in schema if f.name not in own])


def _one(column: str | None) -> tuple[str, ...]:
    return () if column is None else (column,)


def _load(
    stream: _StreamRun, known: _Known, window: Window, strategy: Strategy, whole: bool, columns: Mapping[str, str]
) -> Load:
    schema = pa.schema([f.with_name(columns[f.name]) for f in window.schema])
    start = None if whole or known.after is None else known.after.dumps()
    parts = [part.id for part in window.parts]
    work = [stream.report.key, known.epoch, start, window.position.dumps(), parts, schema.to_string(), repr(strategy)]
    return Load(
        key=stream.report.key,
        load_id=ulid(),
        run_id=stream.run.run_id,
        token=hashlib.sha256(json.dumps(work).encode()).hexdigest(),
        repeatable=window.repeatable,
        schema=schema,
        strategy=strategy,
        whole=window.whole,
        started_at=datetime.now(UTC),
    )


def _target_schema(load: Load) -> pa.Schema:
    assert load.schema is not None, "only a rewind has no schema, and it stages nothing"
    return load.schema


class _Told:
    """A source's stream on its way to the sink: read ahead in a thread, columns under their target names, each batch
    told to the observers. A native stream passes as it is. After ``close`` nothing reads from the source any more, also
    where the sink gave up half way."""

    _ahead: Generator[pa.RecordBatch, None, None] | None = None

    def __init__(self, stream: Stream, source: pa.Schema, target: pa.Schema, after_batch: Callable[..., None]) -> None:
        self._stream, self._after_batch = stream, after_batch
        self.schema = target
        self.native = stream.native if source.names == target.names else ()

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    def batches(self) -> Iterator[pa.RecordBatch]:
        self._ahead = self._read_ahead()
        return self._ahead

    def _read_ahead(self) -> Generator[pa.RecordBatch, None, None]:
        with closing(prefetch(self._stream.batches())) as batches:
            for batch in batches:
                if batch.schema.names != self.schema.names:
                    batch = batch.rename_columns(self.schema.names)
                yield batch
                self._after_batch(rows=batch.num_rows, bytes=batch.nbytes)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def open_native(self, format: str) -> Iterator[bytes]:
        for block in self._stream.open_native(format):
            yield block
            self._after_batch(rows=0, bytes=len(block))


@contextmanager
def _renewing(lease: Lease, ttl: float) -> Iterator[None]:
    """Renew the lease three times per ttl. A lease that is lost ends nothing here: the fence of the commit decides."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(ttl / 3):
            try:
                lease.renew()
            except Conflict:
                return
            except Exception:  # noqa: S112  # the backend is out of reach for now; the next beat tries again
                continue

    thread = threading.Thread(target=renew, name="dpone-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


# -- journal and state ------------------------------------------------------------------------------------------


def _receipt(entry: Entry) -> Receipt:
    """The receipt of a commit whose answer was lost, from its journal entry."""
    return Receipt(entry, **{k: entry.rows.get(k, 0) for k in ("inserted", "updated", "deleted", "unchanged")})


STATE_FORMAT = 1


def _state_of(entry: Entry) -> dict[str, Any]:
    return {
        "format": STATE_FORMAT,
        "seq": entry.seq,
        "load_id": entry.load_id,
        "run_id": entry.run_id,
        "position": entry.position.to_json(),
    }


def _place_in(saved: Mapping[str, Any]) -> tuple[int, int, str]:
    """Epoch, seq and load id of a saved state. Raises StateError."""
    try:
        if saved["format"] != STATE_FORMAT:
            raise ValueError(f"format {saved['format']!r}, this dpone reads {STATE_FORMAT}")
        epoch, seq, load_id = Position.from_json(saved["position"]).epoch, saved["seq"], saved["load_id"]
        if type(seq) is not int or not isinstance(load_id, str):
            raise ValueError("seq must be a number and load_id a text")
        return epoch, seq, load_id
    except (KeyError, TypeError, ValueError, StateError) as error:
        why = f"its position: {error.found}" if isinstance(error, StateError) else f"{type(error).__name__}: {error}"
        todo = "use the dpone that wrote it, or start anew with --full-refresh or 'dpone state set'"
        raise StateError("read the state", why, todo) from error


def compare(head: Entry | None, saved: Mapping[str, Any] | None, target: str) -> bool:
    """True if the state lags and must adopt the journal's head; StateAhead if it claims what the journal lacks.

    A later epoch is ahead whatever its seq: a target that was made anew counts from 1 again.
    """
    if saved is None:
        return head is not None
    epoch, seq, load_id = _place_in(saved)
    failed = f"compare the state with the journal of {target}"
    todo = "the target was restored, dropped or replaced: use --full-refresh, or 'dpone state set' to choose a position"
    if head is None or (head.epoch, head.seq) < (epoch, seq):
        ends = f"at seq {head.seq} of epoch {head.epoch}" if head else "before its first entry"
        found = f"state says load {load_id} (seq {seq}, epoch {epoch}), the journal ends {ends}"
        raise StateAhead(failed, found, todo)
    if (head.epoch, head.seq) == (epoch, seq) and head.load_id != load_id:
        raise StateAhead(failed, f"seq {seq} is load {load_id} in the state and {head.load_id} in the journal", todo)
    return (head.epoch, head.seq) > (epoch, seq)


def rewind(pipeline: Pipeline, stream: str, position: Position | None, plugins: Plugins | None = None) -> Position:
    """Set a stream's position by hand (None: its beginning). Starts a new epoch, in the journal first, so that a
    runner suspended since before can no longer commit. Rows of the target stay. Returns the position as saved."""
    run = Run(pipeline, [stream], plugins=plugins or discover())
    [spec] = run.streams()
    key = spec.key(pipeline.name)
    with ExitStack() as stack:
        sink: Sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state: StateBackend = stack.enter_context(closing(run.make("state", pipeline.state)))
        stack.enter_context(state.lock(key, pipeline.state.options.lease_seconds))
        head, saved = sink.journal(key), state.load(key)
        wanted = (position or START).at_epoch(max(1, _next_epoch(head, saved)))
        token = _rewind_token(key, wanted)
        load = Load(key, ulid(), run.run_id, token, False, None, spec.sink.strategy, False, datetime.now(UTC))
        with closing(sink.open(load)) as writer:
            receipt = writer.commit(head, wanted)
        state.save(key, _state_of(receipt.entry), saved.version if saved else 0)
    return wanted


def _rewind_token(key: str, position: Position) -> str:
    return hashlib.sha256(f"rewind {key} {position.dumps()}".encode()).hexdigest()


def _next_epoch(head: Entry | None, saved: Versioned | None) -> int:
    """The epoch of a deliberate rewind: above all that journal and state know, 0 if they know nothing."""
    known = [head.epoch] if head else []
    if saved is not None:
        with suppress(StateError, LookupError, TypeError):  # a damaged state is just what a rewind mends
            known.append(Position.from_json(saved.value["position"]).epoch)
    return max(known) + 1 if known else 0
