"""The run. Read this file first; everything else serves it.

For each stream, always in this order (docs/architecture.md, laws 1 to 3):

    lock the key -> recover from the journal -> fix the window -> evolve the schema -> stage the parts
    -> one fenced commit of rows, journal entry and position -> save the state -> acknowledge the source

A stream has one target, unless it is a change stream of many tables: then each table that changed is a target of the
window, and the one commit takes the rows of all.

The journal in the sink is the truth; the state backend holds a copy of its head. If a sink cannot keep a journal
(``Connector.commit`` none), the state is the journal, and rows arrive at least once. The next run recovers from a crash
between any two steps: it continues with the staged parts of a repeatable window, adopts a journal that is ahead of the
state, and stops if the state is ahead of the journal.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

from attrs import asdict, define

from dpone.config.reader import load_pipeline
from dpone.contract import Receipt
from dpone.engine.attempt import Added, Planned, Recovered
from dpone.engine.commit import CommitStep
from dpone.engine.contract_check import ContractCheck
from dpone.engine.job import Job, StreamContext
from dpone.engine.journal import key_of, locked
from dpone.engine.lease import renewing
from dpone.engine.manifest_tracker import ManifestTracker
from dpone.engine.pause import require_running
from dpone.engine.plan import PlanStep
from dpone.engine.recover import RecoverStep
from dpone.engine.stage import StageStep
from dpone.errors import Interrupted, Stopped, connected
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.model.report import Endpoint, ErrorReport, RunReport, StreamReport


def run(pipeline: Pipeline | str | Path, **options: Any) -> RunReport:
    """Run a pipeline and report what it did. Failures of streams are in the report, not raised.

    Options: ``select`` (names of streams), ``full_refresh``, ``dry_run``, ``workers``. Raises ConfigError or
    PluginError before anything is touched; KeyboardInterrupt and Interrupted are raised after a clean abort. It sets no
    signal handlers, and does not guarantee the ten seconds within which ``dpone run`` ends (docs/guide/running.md).
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = load_pipeline(pipeline)
    return Run(pipeline, **options).execute()


@define
class Run(Job):
    """One run of a pipeline."""

    def execute(self) -> RunReport:
        start = time.perf_counter()
        try:
            streams = self.streams()
            self.report.streams = [self._reported(s) for s in streams]
            self.tell("run_started", streams=[s.name for s in streams], dry_run=self.dry_run)
            for spec, report in zip(streams, self.report.streams, strict=True):
                _StreamRun(self, spec, report).execute()
        except (KeyboardInterrupt, Interrupted):
            self.report.finish(interrupted=True)
            self._tell_end(start)
            raise
        self.report.finish()
        self._tell_end(start)
        return self.report

    def _reported(self, spec: StreamSpec) -> StreamReport:
        source, sink = Endpoint.of(spec.source), Endpoint.of(spec.sink)
        return StreamReport(spec.name, spec.key(self.pipeline.name), source, sink, spec.sink.strategy.mode)

    def _tell_end(self, since: float) -> None:
        self.tell("run_finished", since=since, status=self.report.status, exit_code=self.report.exit_code)


@define
class _StreamRun(StreamContext):
    """Attempts until the stream is done, or fails for good."""

    def execute(self) -> None:
        report = self.report
        source, sink = (asdict(one) if one else None for one in (report.source, report.sink))
        self.tell("stream_started", key=report.key, source=source, sink=sink, strategy=report.strategy)
        start = time.perf_counter()
        try:
            self._attempts()
        finally:
            self.tell(
                "stream_finished", start, status=report.status, rows=asdict(report.rows), bytes=report.bytes,
                retries=report.retries, durations=dict(report.durations),
                error=asdict(report.error) if report.error else None,
            )  # fmt: skip

    def _attempts(self) -> None:
        retries = self.run.pipeline.runtime.retries
        for attempt in range(1, retries + 2):
            self.report.attempts = attempt
            self.report.error = None
            start = time.perf_counter()
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
                if not self._again(error, attempt <= retries, start):
                    break
                # Random pauses, so that streams that failed together (a server that restarted) do not all come back
                # together.
                jitter = random.uniform(0.5, 1.0)  # noqa: S311  # spreads retries; guards no secret
                time.sleep(jitter * min(30.0, 0.25 * 2**attempt))

    def _again(self, error: Exception, left: bool, since: float) -> bool:
        found = self.run.plugins.classifier().classify(error)
        self.report.error = ErrorReport.of(error, found)
        self.report.status = "stopped" if isinstance(error, Stopped) else "failed"
        if not (self.report.error.retryable and left):
            return False
        self.tell("retry", since, attempt=self.report.attempts, error=asdict(self.report.error))
        return True


def _signal_behind(error: Exception) -> BaseException | None:
    """The signal that was being raised when ``error`` occurred, for example in a ``close``."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt | Interrupted):
        link = link.__context__
    return link


@define
class Steps:
    """The stages of one attempt, in their order, while the key is locked."""

    recover: RecoverStep
    plan: PlanStep
    stage: StageStep
    commit: CommitStep

    def execute(self, added: Added) -> None:
        known, commit = self.recover.execute(dry=False), self.commit
        if known.head is not None and commit.landed(known.head):
            commit.done(Receipt.of(known.head))
            commit.acknowledge(known.head.position)
        elif planned := self.plan.execute(known, self.recover, added):
            self._move(known, planned, added)
        # PG-01: only the position of the journal is acknowledged, never that of the window that was just read.
        elif known.head is not None:  # nothing new; the last run may have died before it acknowledged
            commit.acknowledge(known.head.position)

    def _move(self, known: Recovered, planned: Planned, added: Added) -> None:
        """Stage and commit. If staged parts are kept, so are the columns that were added for them."""
        stage, commit, tracked = self.stage, self.commit, ManifestTracker()
        stream, report, contract_check = stage.stream, stage.report, stage.contract_check
        with ExitStack() as stack:
            start = time.perf_counter()
            leader, others = stage.open(stack, planned)
            report.load_id = leader.load_id
            stream.tell("load_opened", start, load_id=leader.load_id, token=planned.load.token)
            try:
                tracked = stage.tracker(leader, planned)
                with renewing(tracked, tracked.ttl) if tracked.store else nullcontext():
                    staged = stage.execute(planned.targets, tracked)
                    tracked.save()
                with stream.timed("contract") if contract_check.inspection else nullcontext():
                    contract_check.conclude(staged)
                receipt = commit.execute(leader, others, known, planned.window.position)
            except BaseException as error:
                if stage.give_up(planned.load, (leader, *others), tracked, error):
                    added.clear()
                raise
        commit.done(receipt, known.version)
        report.sequences = [*receipt.sequences]
        for text in receipt.warnings:
            commit.warn(text)
        commit.count(planned.load.strategy, receipt)
        commit.acknowledge(receipt.entry.position)


def _attempt(stream: StreamContext, last: bool) -> None:
    """One attempt, from lock to acknowledgement, over its own connections."""
    run, spec, report = stream.run, stream.spec, stream.report
    start = time.perf_counter()
    with ExitStack() as stack:
        source = stack.enter_context(closing(run.make("source", spec.source)))
        sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state = stack.enter_context(closing(run.make("state", run.pipeline.state)))
        stack.enter_context(connected())
        report.delivery = run.plugins.get("sink", spec.sink.type).delivers(spec.sink.options)
        given, added = (stream, last, source, sink, state, ContractCheck(spec, report)), Added()
        stages = Steps(RecoverStep(*given), PlanStep(*given), StageStep(*given), CommitStep(*given))
        if run.dry_run:
            require_running(run.pipeline, spec, state)
            report.key = key_of(run, spec, sink, state)
            stages.plan.execute(stages.recover.execute(dry=True), stages.recover, added)
            return
        report.key, lease = stack.enter_context(locked(run, spec, sink, state, run.full_refresh, to_load=True))
        stream.tell("locked", start, owner=lease.owner)
        try:
            stages.execute(added)
        except BaseException as error:
            stages.recover.take_back_own(added, lease, error)
            raise
