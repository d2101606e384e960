"""What ran: the records of the run log, and the reports of runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen

from dpone.config.document import strict_json
from dpone.config.reader import load_pipeline
from dpone.contract import RunLog, SupportsRunLog
from dpone.engine.job import Job
from dpone.errors import ConfigError, counted
from dpone.model.report import RunReport
from dpone.model.run_record import RunRecord, Shown
from dpone.model.secret import redacted
from dpone.plugins import Plugins, discover

FINE = ("succeeded", "running")
_WRITTEN = "give a file that 'dpone run --report FILE' wrote"


@frozen
class RecordedRun:
    """One run. status: as ``RunRecord.shown`` when it was read. report: None for a run without an end, and where only
    the record was read."""

    record: RunRecord
    status: Shown
    report: RunReport | None = None

    @property
    def seconds(self) -> float | None:
        """None until the run has ended."""
        end = self.record.finished_at
        return None if end is None else max(0.0, (end - self.record.started_at).total_seconds())

    @property
    def note(self) -> str:
        """Of a run that has no end."""
        who = self.record.process
        where = f"process {who.pid} on {who.host}"
        if self.status == "crashed":
            return f"the run has no end: {where} was killed or lost the state backend; it had {self._seen}"
        return f"{where} is working; it has {self._seen}" if self.status == "running" else ""

    @property
    def _seen(self) -> str:
        """As the record was renewed the last time."""
        record = self.record
        streams = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in record.streams.items())
        return f"{counted(record.rows_in, 'row')} read" + (f" (streams: {streams})" if streams else "")

    def to_json(self) -> dict[str, Any]:
        """docs/reference/schemas/run.json."""
        data = self.record.to_json()
        del data["format"], data["expires_at"], data["process"]
        process = {"host": self.record.process.host, "pid": self.record.process.pid}
        return redacted({**data, "status": self.status, "seconds": self.seconds, **process})  # type: ignore[no-any-return]


def runs(
    config: str | Path, pipeline: str | None = None, since: timedelta | None = None, failed: bool = False,
    plugins: Plugins | None = None,
) -> Iterator[RecordedRun]:  # fmt: skip
    """The runs in the log of the state backend that a pipeline file names, newest first: of every pipeline, or of the
    named one. ``failed``: those that have not succeeded and do not run. Raises ConfigError, StateError."""
    begun = None if since is None else datetime.now(UTC) - since
    with _log(config, plugins) as log:
        for record in log.records(pipeline, begun):
            one = RecordedRun(record, record.shown(time.time()))
            if not failed or one.status not in FINE:
                yield one


def run(config: str | Path, run_id: str, plugins: Plugins | None = None) -> RecordedRun:
    """One run, by its id or the beginning of it, with its report. Raises ConfigError if there is none, or several."""
    with _log(config, plugins) as log:
        found = [record for record in log.records() if record.run_id.startswith(run_id.upper())]
        if len(found) != 1:
            several = f"{counted(len(found), 'run')} begin with it" if found else "the run log does not have it"
            raise ConfigError(f"find run {run_id}", several, "choose one from 'dpone runs'")
        [record] = found
        report = log.report(record)
    return RecordedRun(
        record, record.shown(time.time()), None if report is None else _report(report, f"of run {run_id}")
    )


def report_of(file: str | Path) -> RunReport:
    """A report that ``dpone run --report`` or ``--format json`` wrote. Raises ConfigError."""
    try:
        data = strict_json(Path(file).read_text(encoding="utf-8-sig"))
    except ConfigError as error:
        raise ConfigError(f"read the report {file}", error.found, _WRITTEN) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"read the report {file}", "not UTF-8", _WRITTEN) from error
    except OSError as error:
        raise ConfigError(f"read the report {file}", (error.strerror or str(error)).lower(), _WRITTEN) from error
    return _report(data, str(file))


def _report(data: Any, where: str) -> RunReport:
    try:
        return RunReport.from_json(redacted(data))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"read the report {where}", str(error), _WRITTEN) from error


def begun(one: RecordedRun) -> RunReport:
    """What is known of a run without a report, as one."""
    record = one.record
    return RunReport(record.run_id, record.pipeline, versions={}, started_at=record.started_at)


@contextmanager
def _log(config: str | Path, plugins: Plugins | None) -> Iterator[RunLog]:
    plugins = plugins or discover()
    pipeline = load_pipeline(config, plugins=plugins)
    job, spec = Job(pipeline, plugins=plugins), pipeline.state
    with closing(job.make("state", spec)) as state:
        keeping = job.offered(SupportsRunLog, state, spec)
        if keeping is None:
            todo = "use a state backend that keeps one, such as sqlite, or 'dpone run --report FILE'"
            raise ConfigError("read the run log", f"state backend {spec.type} keeps no run log", todo)
        yield keeping.run_log()
