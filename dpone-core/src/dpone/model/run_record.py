"""The record of a run in the run log of the state backend (``contract.RunLog``), for ``dpone runs``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias

from attrs import asdict, evolve, fields, frozen

from dpone.errors import Conflict, StateError
from dpone.host.process import Process
from dpone.model.report import RunReport, RunStatus
from dpone.model.secret import redact

FORMAT = 1
Shown: TypeAlias = Literal[RunStatus, "crashed"]
STATUSES = ("running", "succeeded", "incomplete", "failed", "stopped", "interrupted")
_ERRORS = 5  # of a record; the report has all
_LONGEST = 300  # characters of the message of an error


@frozen
class RunError:
    """stream: None if the run failed before its streams were known."""

    stream: str | None
    kind: str
    category: str
    message: str


@frozen
class RunRecord:
    """One run, in short. Never a secret, never a value of a row.

    process          the one that runs it
    expires_at       seconds since 1970: a run that has not renewed its record until then is taken for dead
    streams          status -> number of streams
    rows_in, rows_out  rows read from the sources, and rows written to the sinks
    errors           the first few; each message is cut
    """

    run_id: str
    pipeline: str
    started_at: datetime
    process: Process
    expires_at: float
    status: RunStatus = "running"
    finished_at: datetime | None = None
    exit_code: int | None = None
    streams: Mapping[str, int] = {}
    rows_in: int = 0
    rows_out: int = 0
    schema_changes: int = 0
    warnings: int = 0
    errors: tuple[RunError, ...] = ()

    def of(self, report: RunReport) -> RunRecord:
        """The record with what the report says now; the run may still be running."""
        streams = report.streams
        failed = [(s.stream, s.error) for s in streams if s.error is not None]
        return evolve(
            self,
            status=report.status,
            finished_at=report.finished_at,
            exit_code=None if report.status == "running" else report.exit_code,
            streams=dict(Counter(s.status for s in streams)),
            rows_in=sum(s.rows.read for s in streams),
            rows_out=sum(s.rows.written for s in streams),
            schema_changes=sum(len(s.schema_changes) for s in streams),
            warnings=len(report.warnings) + sum(len(s.warnings) for s in streams),
            errors=tuple(RunError(name, e.kind, e.category, short(e.message)) for name, e in failed[:_ERRORS]),
        )

    def shown(self, now: float) -> Shown:
        """``crashed``: the run has no end, and its process is gone, or has not renewed the record in time."""
        if self.status == "running" and (self.expires_at <= now or self.process.gone()):
            return "crashed"
        return self.status

    def to_json(self) -> dict[str, Any]:
        data = asdict(self, value_serializer=lambda _, __, v: v.isoformat() if isinstance(v, datetime) else v)
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Any) -> RunRecord:
        """Raises StateError if the record is damaged."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this dpone reads {FORMAT}")
            if data["status"] not in STATUSES:
                raise ValueError(f"status {data['status']!r}")
            values = {one.name: data[one.name] for one in fields(cls)}
            begun, ended = values["started_at"], values["finished_at"]
            errors, process = tuple(RunError(**error) for error in values["errors"]), Process(**values["process"])
            times = {
                "started_at": datetime.fromisoformat(begun),
                "finished_at": ended and datetime.fromisoformat(ended),
            }
            return cls(**{**values, **times, "errors": errors, "process": process})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(f"{type(error).__name__}: {error}") from error


def short(message: str) -> str:
    """One line, without secrets, cut for a list."""
    text = redact(" ".join(message.split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def damaged(why: str, where: str = "the run log") -> StateError:
    todo = "remove the record by hand; loads and positions do not depend on it"
    return StateError(f"read {where}", f"a record is damaged ({why})", todo)


def begun_already(record: RunRecord) -> Conflict:
    return Conflict("write the run log", f"run {record.run_id} has a record", "start the run again")


def not_running(record: RunRecord) -> Conflict:
    found = f"run {record.run_id} has ended, or its record was removed by the retention"
    return Conflict("write the run log", found, "no action is needed")
