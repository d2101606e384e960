"""What a run did, as values: the one object behind ``dpone.run``, ``--format json`` and ``--report``."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from attrs import asdict, define, field

from dpone.errors import Classification, DponeError, Interrupted
from dpone.model.from_json import from_json
from dpone.model.pipeline import SinkSpec, SourceSpec
from dpone.model.secret import redact
from dpone.model.timeline import Timeline

FORMAT = 1
StreamStatus = Literal["pending", "planned", "loaded", "caught_up", "failed", "stopped", "interrupted"]
RunStatus = Literal["running", "succeeded", "incomplete", "failed", "stopped", "interrupted"]
INCOMPLETE = 4  # exit code: done, except for partitions that were skipped on purpose


@define
class ErrorReport:
    """``category`` and ``retryable`` route alerts. An error that a person must decide about (exit codes 2 and 3) is not
    retryable, whatever its cause or its text. The message never contains a secret or a value of a row."""

    kind: str
    category: str
    retryable: bool
    message: str
    exit_code: int = 1

    @classmethod
    def of(cls, error: BaseException, found: Classification) -> ErrorReport:
        text = str(error) if isinstance(error, DponeError) else f"{type(error).__name__}: {error}"
        exit_code = error.exit_code if isinstance(error, DponeError | Interrupted) else 1
        message = redact(" ".join(text.split()))
        retryable = found.retryable and exit_code == 1
        return cls(type(error).__name__, str(found.category), retryable, message, exit_code)


@define
class Rows:
    """Counts of rows. read = written + filtered + quarantined; the others are what the commit did to the target."""

    read: int = 0
    written: int = 0
    filtered: int = 0
    quarantined: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0


@define
class ContractReport:
    """What the row contract found, also if it stopped the load. violations: the count for every rule, including rules
    that hold; 0 or 1 for a rule of the whole load. file: the folder of the rows that the committed load left out."""

    rows_checked: int = 0
    violations: dict[str, int] = field(factory=dict)
    quarantined: int = 0
    file: str | None = None


@define
class Endpoint:
    """One end of a stream, without credentials. type: the connector's. address: where the connection points; empty
    without one. object: the table, path or topic; ``query`` for a query."""

    type: str
    address: str
    object: str

    @classmethod
    def of(cls, spec: SourceSpec | SinkSpec) -> Endpoint:
        return cls(spec.type, redact(spec.connection.location() if spec.connection else ""), redact(spec.what))


@define
class StreamReport:
    """One stream of a run. Positions are the JSON of Position, None before the first load; durations are seconds.
    strategy: the mode that the pipeline names, also with ``--full-refresh``. delivery: ``exactly once`` or ``at least
    once``, by what the sink declares. error: that of the last attempt."""

    stream: str
    key: str
    source: Endpoint | None = None
    sink: Endpoint | None = None
    strategy: str = ""
    status: StreamStatus = "pending"
    delivery: str = ""
    load_id: str | None = None
    attempts: int = 0
    rows: Rows = field(factory=Rows)
    bytes: int = 0
    position_before: dict[str, Any] | None = None
    position_after: dict[str, Any] | None = None
    caught_up: bool | None = None
    proof: str = ""
    sequences: list[str] = field(factory=list)
    schema_changes: list[str] = field(factory=list)
    ddl: list[str] = field(factory=list)
    rewrites: list[str] = field(factory=list)
    partitions: int = 0
    partitions_resumed: int = 0
    partitions_skipped: list[str] = field(factory=list)
    durations: dict[str, float] = field(factory=dict)
    warnings: list[str] = field(factory=list)
    error: ErrorReport | None = None
    contract: ContractReport | None = None
    timeline: Timeline = field(factory=Timeline)

    @property
    def retries(self) -> int:
        """Attempts after the first one."""
        return max(0, self.attempts - 1)


def _versions() -> dict[str, str]:
    return {"dpone": version("dpone-core"), "python": platform.python_version(), "pyarrow": version("pyarrow")}


@define
class RunReport:
    """The whole run. ``exit_code`` is the process's: the most severe of the streams (1, 2, 3, then 4). ``run_id`` is
    also in every event and in the journal entry of every load. ``dry_run``: it planned, and changed nothing.
    warnings: about what observes the run, and not about rows."""

    run_id: str
    pipeline: str
    labels: dict[str, str] = field(factory=dict)
    versions: dict[str, str] = field(factory=_versions)
    started_at: datetime = field(factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    status: RunStatus = "running"
    dry_run: bool = False
    full_refresh: bool = False
    streams: list[StreamReport] = field(factory=list)
    warnings: list[str] = field(factory=list)
    format: int = FORMAT

    @property
    def exit_code(self) -> int:
        if self.status == "interrupted":
            return 130
        codes = {s.error.exit_code for s in self.streams if s.error is not None}
        skipped = any(s.partitions_skipped for s in self.streams if s.status == "loaded")
        return next((code for code in (1, 2, 3) if code in codes), 1 if codes else INCOMPLETE if skipped else 0)

    def finish(self, interrupted: bool = False) -> None:
        """Set the end of the run, and mark unfinished streams as interrupted if it was."""
        for stream in self.streams if interrupted else ():
            if stream.status == "pending" and stream.attempts:
                stream.status = "interrupted"
        self.finished_at = datetime.now(UTC)
        ends: Mapping[int, RunStatus] = {0: "succeeded", 3: "stopped", INCOMPLETE: "incomplete"}
        self.status = "interrupted" if interrupted else ends.get(self.exit_code, "failed")

    def to_json(self) -> dict[str, Any]:
        data = asdict(self, value_serializer=lambda _, __, v: v.isoformat() if isinstance(v, datetime) else v)
        for shown, stream in zip(data["streams"], self.streams, strict=True):
            shown["retries"] = stream.retries
        return {**data, "exit_code": self.exit_code}

    @classmethod
    def from_json(cls, data: Any) -> RunReport:
        """The inverse of ``to_json``, also for reports of earlier versions. Raises ValueError if it is damaged, is not
        a report of a run, or is of a later format."""
        if not isinstance(data, dict) or not {"run_id", "pipeline", "streams", "status"} <= set(data):
            raise ValueError("it is not a report of dpone run")
        if (found := data.get("format")) != FORMAT:
            raise ValueError(f"it has format {found!r}, and this dpone reads {FORMAT}")
        return from_json(cls, data)
