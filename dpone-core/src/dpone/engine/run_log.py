"""The record of a run in the run log of the state backend.

A log that cannot be written is reported once, as a warning, and never changes the outcome of the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, evolve, field

from dpone.contract import RunLog, SupportsRunLog
from dpone.engine.job import Job
from dpone.engine.lease import renewing
from dpone.errors import Conflict
from dpone.host import stopping
from dpone.host.process import Process
from dpone.model.report import ErrorReport, RunReport
from dpone.model.run_record import RunError, RunRecord, short
from dpone.model.secret import redact, redacted

_LONGEST_POSITION = 2000  # characters of its JSON


@define
class RunRecorder:
    """Writes the record of one run: ``begun`` while the streams run, then ``finish``. A dry run has no record."""

    run: Job
    _record: RunRecord = field(init=False)
    _begun: bool = field(default=False, init=False)
    _warned: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        report = self.run.report
        self._record = RunRecord(self.run.run_id, report.pipeline, report.started_at, Process.this(), 0.0)

    @contextmanager
    def begun(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._keep(lambda log: self._begin(log, stack))
            yield

    def finish(self) -> None:
        """The report is finished. Removes records that are too old or too many."""
        self._keep(lambda log: self._end(log, self._record.of(self.run.report)))

    def failed(self, error: Exception) -> None:
        """The run failed before its streams were known. A mistake in a file or on the command line is not recorded."""
        found = ErrorReport.of(error, self.run.plugins.classifier().classify(error))
        if found.exit_code != 2:
            one = RunError(None, found.kind, found.category, short(found.message))
            ended = evolve(
                self._record, status="failed", finished_at=datetime.now(UTC), exit_code=found.exit_code, errors=(one,)
            )
            self._keep(lambda log: self._end(log, ended))

    def _begin(self, log: RunLog, stack: ExitStack) -> None:
        ttl = self.run.pipeline.state.options.lease_seconds
        log.begin(self._alive(ttl))
        self._begun = True
        stack.enter_context(renewing(_Renewal(self, ttl), ttl))

    def _end(self, log: RunLog, record: RunRecord) -> None:
        if not self._begun:
            with suppress(Conflict):  # only the answer was lost
                log.begin(self._record)
        log.replace(record, None if self.run.report.finished_at is None else _report(self.run.report))
        options = self.run.pipeline.state.options.run_log
        log.prune(record.pipeline, datetime.now(UTC) - timedelta(days=options.days), options.runs)

    def _alive(self, ttl: float) -> RunRecord:
        return evolve(self._record.of(self.run.report), expires_at=time.time() + ttl)

    def renew(self, ttl: float) -> None:
        with self._log() as log:
            if log is not None:
                log.replace(self._alive(ttl))

    @contextmanager
    def _log(self) -> Iterator[RunLog | None]:
        run, spec = self.run, self.run.pipeline.state
        if run.dry_run or not spec.options.run_log.enabled:
            yield None
            return
        with closing(run.make("state", spec)) as state:
            keeping = run.offered(SupportsRunLog, state, spec)
            yield None if keeping is None else keeping.run_log()

    def _keep(self, write: Callable[[RunLog], None]) -> None:
        try:
            with self._log() as log:
                if log is not None:
                    write(log)
        except Exception as error:  # a state backend may raise anything
            self._warn(redact(" ".join(f"the run log was not written: {error}".split())))

    def _warn(self, text: str) -> None:
        if self._warned:
            return
        self._warned = True
        self.run.report.warnings.append(text)
        if not stopping.begun():  # an event would raise the signal once more
            self.run.tell("warning", text=text)


def _report(report: RunReport) -> dict[str, Any]:
    """The whole report. Of a position that lists a thousand files only what it is stays: the state has it."""
    data: dict[str, Any] = redacted(report.to_json())
    for stream in data["streams"]:
        for name in ("position_before", "position_after"):
            if (size := len(json.dumps(stream[name]))) > _LONGEST_POSITION:
                stream[name] = {**stream[name], "value": {"left_out": f"{size:,} characters"}}
    return data


@define
class _Renewal:
    """``contract.Lease``, for ``renewing``."""

    recorder: RunRecorder
    ttl: float
    owner: str = ""

    def renew(self) -> None:
        self.recorder.renew(self.ttl)
