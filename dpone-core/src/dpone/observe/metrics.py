"""Which metrics the reports of finished runs give: a table, and the values with their labels.

A name and a unit are OpenTelemetry's; ``Metric.prometheus`` is the name that its specification derives for Prometheus.
A counter sums up all reports of an export; a gauge is of the last run. Labels have few values: types of connectors,
strategies, words of dpone; and the names of pipelines and streams, whose number ``MAX_SERIES`` limits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from attrs import define, field, frozen

from dpone.errors import Category, ConfigError, counted
from dpone.model.report import RunReport, StreamReport
from dpone.model.secret import redact

MAX_SERIES = 200_000
MAX_LABELS, MAX_VALUE = 20, 200
# Labels that the reports fill.
OWN = (
    "pipeline", "stream", "source", "sink", "strategy", "run_id", "status", "category", "step", "version", "python",
    "pyarrow", "le", "quantile",
)  # fmt: skip
STEPS = ("recover", "window", "schema", "stage", "contract", "commit", "state")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
# The first variable that is set identifies the run of a scheduler or of a CI system.
CI_RUN_IDS = (
    "AIRFLOW_CTX_DAG_RUN_ID",  # Airflow
    "GITHUB_RUN_ID",  # GitHub Actions, Gitea, Forgejo
    "CI_PIPELINE_ID",  # GitLab
    "BUILD_BUILDID",  # Azure Pipelines
    "BUILD_TAG",  # Jenkins
    "CIRCLE_WORKFLOW_ID",  # CircleCI
    "BUILDKITE_BUILD_ID",  # Buildkite
    "BITBUCKET_BUILD_NUMBER",  # Bitbucket Pipelines
)
ENVIRONMENTS = ("CI_ENVIRONMENT_NAME",)  # GitLab

Labels = Mapping[str, str]
# Values of a metric of one run or stream, by further labels.
Values = Mapping[tuple[tuple[str, str], ...], float]


@frozen
class Metric:
    """One line of the table. values: from a RunReport or a StreamReport. keeps: a gauge of the last report that has a
    value, not of the last report."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    help: str
    values: Callable[[Any], Values]
    keeps: bool = False

    @property
    def prometheus(self) -> str:
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")  # one in braces only says what is counted
        return self.name.replace(".", "_") + unit + ("_total" if self.kind == "counter" else "")


def _one(value: Callable[[Any], float | None]) -> Callable[[Any], Values]:
    """A metric without further labels; none if there is no value."""

    def values(report: Any) -> Values:
        found = value(report)
        return {} if found is None else {(): found}

    return values


def _by(label: str, value: Callable[[Any], Mapping[str, float]]) -> Callable[[Any], Values]:
    return lambda report: {((label, word),): number for word, number in value(report).items()}


def _counter(name: str, help: str, value: Callable[[Any], float], unit: str) -> Metric:
    return Metric(name, "counter", unit, help, _one(value))


def _gauge(name: str, help: str, value: Callable[[Any], float | None], unit: str = "") -> Metric:
    return Metric(name, "gauge", unit, help, _one(value))


def _seconds(report: RunReport) -> float | None:
    end = report.finished_at
    return None if end is None else max(0.0, (end - report.started_at).total_seconds())


def _numbers(words: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return found


def _errors(run: RunReport) -> dict[str, float]:
    found = _numbers(_category(s) for s in run.streams if s.error is not None)
    return {**dict.fromkeys(Category, 0), **found}


def _category(stream: StreamReport) -> str:
    """A word that a later version may have is unknown here."""
    category = stream.error.category if stream.error else ""
    return category if category in set(Category) else Category.UNKNOWN


def _steps(stream: StreamReport) -> dict[str, float]:
    known = {step: seconds for step, seconds in stream.durations.items() if step in STEPS}
    other = sum(seconds for step, seconds in stream.durations.items() if step not in STEPS)
    return {**known, "other": other} if other else known


def _info(run: RunReport) -> Values:
    versions = (("version", "dpone"), ("python", "python"), ("pyarrow", "pyarrow"))
    return {tuple((label, text(run.versions[key])) for label, key in versions if key in run.versions): 1}


def _succeeded(stream: StreamReport) -> bool:
    return stream.status in ("loaded", "caught_up")


RUN = (
    Metric("dpone.run.info", "gauge", "", "1, with the versions and the CI run as labels.", _info),
    Metric("dpone.run.status", "gauge", "", "1, with the status of the last run as label.",
           lambda run: {(("status", run.status),): 1}),
    Metric("dpone.runs", "counter", "{run}", "Runs by status.", lambda run: {(("status", run.status),): 1}),
    _gauge("dpone.run.exit_code", "Exit code of the last run; missing while it runs, or if it was killed.",
           lambda run: run.exit_code if run.finished_at else None),
    _gauge("dpone.run.start.timestamp", "When the last run started.", lambda run: run.started_at.timestamp(), "s"),
    _gauge("dpone.run.end.timestamp", "When the last run ended; missing while it runs, or if it was killed.",
           lambda run: run.finished_at.timestamp() if run.finished_at else None, "s"),
    Metric("dpone.run.last_success.timestamp", "gauge", "s", "When the last successful run ended.",
           _one(lambda run: run.finished_at.timestamp() if run.finished_at and run.status == "succeeded" else None),
           keeps=True),
    _gauge("dpone.run.last_duration", "How long the last run took.", _seconds, "s"),
    Metric("dpone.run.streams", "gauge", "{stream}", "Streams of the last run by status.",
           _by("status", lambda run: _numbers(s.status for s in run.streams))),
    Metric("dpone.run.errors", "counter", "{error}", "Streams that ended with an error, by its category.",
           _by("category", _errors)),
    _counter("dpone.run.warnings", "Warnings about what observes the run: notifications, telemetry, plugins.",
             lambda run: len(run.warnings), "{warning}"),
)  # fmt: skip
STREAM = (
    Metric("dpone.stream.status", "gauge", "", "1, with the status of the stream in its last run as label.",
           lambda stream: {(("status", stream.status),): 1}),
    _gauge("dpone.stream.success", "1 if the last run loaded the stream or found nothing new, else 0.",
           lambda stream: int(_succeeded(stream))),
    Metric("dpone.stream.errors", "counter", "{error}", "Runs in which the stream ended with an error, by category.",
           _by("category", lambda stream: {_category(stream): 1} if stream.error else {})),
    _counter("dpone.stream.retries", "Attempts after the first one of a run.",
             lambda stream: stream.retries, "{retry}"),
    _counter("dpone.stream.rows.read", "Rows read from the source.", lambda stream: stream.rows.read, "{row}"),
    _counter("dpone.stream.rows.written", "Rows written to the staging of the sink.",
             lambda stream: stream.rows.written, "{row}"),
    _counter("dpone.stream.rows.filtered", "Rows that the source left out.",
             lambda stream: stream.rows.filtered, "{row}"),
    _counter("dpone.stream.rows.quarantined", "Rows that the row contract left out.",
             lambda stream: stream.rows.quarantined, "{row}"),
    _counter("dpone.stream.rows.inserted", "Rows that commits inserted into the target.",
             lambda stream: stream.rows.inserted, "{row}"),
    _counter("dpone.stream.rows.updated", "Rows that commits updated in the target.",
             lambda stream: stream.rows.updated, "{row}"),
    _counter("dpone.stream.rows.deleted", "Rows that commits deleted from the target.",
             lambda stream: stream.rows.deleted, "{row}"),
    _counter("dpone.stream.rows.unchanged", "Rows that commits found unchanged in the target.",
             lambda stream: stream.rows.unchanged, "{row}"),
    _counter("dpone.stream.staged", "Size of the staged rows in memory.", lambda stream: stream.bytes, "By"),
    Metric("dpone.stream.step.duration", "gauge", "s", "How long each step took in the last run.",
           _by("step", _steps)),
    _gauge("dpone.stream.partitions", "Parts of the last window.", lambda stream: stream.partitions, "{partition}"),
    _gauge("dpone.stream.partitions.resumed", "Parts that an interrupted load had staged.",
           lambda stream: stream.partitions_resumed, "{partition}"),
    _gauge("dpone.stream.partitions.skipped", "Parts that were skipped on purpose.",
           lambda stream: len(stream.partitions_skipped), "{partition}"),
    _counter("dpone.stream.schema_changes", "Changes of the target's schema.",
             lambda stream: len(stream.schema_changes), "{change}"),
    _counter("dpone.stream.warnings", "Warnings.", lambda stream: len(stream.warnings), "{warning}"),
    _gauge("dpone.stream.caught_up", "1 if nothing was left in the source, else 0.",
           lambda stream: None if stream.caught_up is None else int(stream.caught_up)),
    _counter("dpone.stream.contract.rows", "Rows that the row contract checked.",
             lambda stream: stream.contract.rows_checked if stream.contract else 0, "{row}"),
    _counter("dpone.stream.contract.violations", "Violations of the row contract.",
             lambda stream: sum(stream.contract.violations.values()) if stream.contract else 0, "{violation}"),
)  # fmt: skip
METRICS = RUN + STREAM


@define
class Scope:
    """The series of one pipeline or of one of its streams, from the reports that have these labels. start: of the
    first of these runs; end: of the last one."""

    labels: dict[str, str]
    start: datetime
    end: datetime
    values: dict[str, dict[tuple[tuple[str, str], ...], float]] = field(factory=dict)

    @property
    def series(self) -> int:
        return sum(map(len, self.values.values()))

    def add(self, metrics: Sequence[Metric], report: RunReport | StreamReport) -> None:
        for metric in metrics:
            found = metric.values(report)
            if metric.kind == "counter":
                sums = self.values.setdefault(metric.name, {})
                for further, number in found.items():
                    sums[further] = sums.get(further, 0) + number
            elif found or not metric.keeps:
                self.values[metric.name] = dict(found)


def scopes(reports: Sequence[RunReport], given: Labels, environ: Labels, by_run: bool = False) -> tuple[Scope, ...]:
    """The series of all reports, which come the oldest first; sorted by their labels. given: from the command line, as
    ``check`` passed them; by_run: with the run id as a label. Raises ConfigError for too many labels or series."""
    found: dict[tuple[tuple[str, str], ...], Scope] = {}
    for run in reports:
        labels = _labels(run, given, environ, by_run)
        span = run.started_at, max(run.finished_at or run.started_at, run.started_at)
        _scope(found, labels, span).add(RUN, run)
        for stream in run.streams:
            _scope(found, {**labels, **_of_stream(stream)}, span).add(STREAM, stream)
    if (run_id := _first(environ, CI_RUN_IDS)) and "ci_run_id" not in given:
        for scope in found.values():
            _add_ci_run(scope, run_id)
    if (series := sum(scope.series for scope in found.values())) > MAX_SERIES:
        todo = "export fewer reports at once"
        raise ConfigError("export metrics", f"{series:,} series, and at most {MAX_SERIES:,} are allowed", todo)
    return tuple(found[key] for key in sorted(found))


def _scope(
    found: dict[tuple[tuple[str, str], ...], Scope], labels: dict[str, str], span: tuple[datetime, datetime]
) -> Scope:
    start, end = span
    scope = found.setdefault(tuple(sorted(labels.items())), Scope(labels, start, end))
    scope.end = max(scope.end, end)
    return scope


def _add_ci_run(scope: Scope, run_id: str) -> None:
    """To the info alone: as a label of every series it would make new ones of all of them in each run."""
    info = scope.values.get("dpone.run.info", {})
    scope.values["dpone.run.info"] = {(*further, ("ci_run_id", run_id)): 1 for further in info}


def _labels(run: RunReport, given: Labels, environ: Labels, by_run: bool) -> dict[str, str]:
    labels = {"env": _first(environ, ENVIRONMENTS)}
    labels |= {_named(name): text(value) for name, value in run.labels.items()}
    labels |= {name: text(value) for name, value in given.items()}
    labels["pipeline"] = text(run.pipeline)
    if by_run:
        labels["run_id"] = text(run.run_id)
    labels = {name: value for name, value in labels.items() if value}
    if len(labels) > MAX_LABELS:
        found = f"{counted(len(labels), 'label')} for pipeline {run.pipeline}, and at most {MAX_LABELS} are allowed"
        raise ConfigError("export metrics", found, "leave out some labels of the pipeline or of --label")
    return labels


def _of_stream(stream: StreamReport) -> dict[str, str]:
    ends = {"source": stream.source, "sink": stream.sink}
    labels = {"stream": text(stream.stream), **{name: text(end.type) for name, end in ends.items() if end}}
    return {**labels, "strategy": text(stream.strategy)} if stream.strategy else labels


def _first(environ: Labels, names: Sequence[str]) -> str:
    return next((text(environ[name]) for name in names if environ.get(name)), "")


def _named(name: str) -> str:
    """A label of a pipeline as one of a metric."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", redact(name))
    return f"label_{name}" if name in OWN or not _NAME.fullmatch(name) or name.startswith("__") else name


def text(value: str) -> str:
    """A value of a label, without secrets. The end of a long one becomes a digest, so that different values stay
    different."""
    value = redact(value).encode("utf-8", "replace").decode()
    if len(value) <= MAX_VALUE:
        return value
    return f"{value[: MAX_VALUE - 9]}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def check(given: Labels) -> None:
    """Raises ConfigError for a label of the command line that cannot be one."""
    failed = "read --label"
    for name, value in given.items():
        if not _NAME.fullmatch(name) or name.startswith("__"):
            found = f"{name!r} is not a name of a label"
            raise ConfigError(
                failed, found, "use letters, digits and _, and begin with a letter, as in --label env=prod"
            )
        if name in OWN:
            todo = "use another name" if name != "run_id" else "use --run-id"
            raise ConfigError(failed, f"{name} comes from the report", todo)
        if not value.strip():
            raise ConfigError(failed, f"{name} has no value", "give one, as in --label env=prod")
