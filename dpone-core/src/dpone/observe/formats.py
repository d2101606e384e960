"""How the metrics of an export are written: Prometheus text, OTLP-JSON, a summary as JSON, a report in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import asdict

from dpone.errors import Category
from dpone.model.report import Rows, RunReport, StreamReport
from dpone.model.secret import redact
from dpone.observe.metrics import METRICS, Metric, Scope

CUMULATIVE = 2  # opentelemetry.proto.metrics.v1.AggregationTemporality


def prometheus(scopes: Sequence[Scope]) -> bytes:
    """The text format 0.0.4, without timestamps: a textfile collector refuses them."""
    from prometheus_client.exposition import generate_latest
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector, CollectorRegistry

    class Exported(Collector):
        def collect(self) -> Iterator[Family]:
            for metric in METRICS:
                family = Family(metric.prometheus.removesuffix("_total"), metric.help, metric.kind)
                for scope in scopes:
                    for further, number in scope.values.get(metric.name, {}).items():
                        family.add_sample(metric.prometheus, {**scope.labels, **dict(further)}, number)
                if family.samples:
                    yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exported())
    return generate_latest(registry)


def otlp(scopes: Sequence[Scope], version: str) -> bytes:
    """One ExportMetricsServiceRequest in the JSON of OTLP: times are texts, enums are numbers. A counter is a
    cumulative sum since the first run, at the end of the last one."""
    labelled = [(scope, _attributes(scope.labels)) for scope in scopes]
    metrics = [one for metric in METRICS if (one := _metric(metric, labelled))]
    resource = {"attributes": _attributes({"service.name": "dpone", "service.version": version})}
    scope = {"name": "dpone.observe", "version": version}
    request = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": scope, "metrics": metrics}]}]}
    return json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode()


Attributes = list[dict[str, Any]]


def _metric(metric: Metric, labelled: Sequence[tuple[Scope, Attributes]]) -> dict[str, Any] | None:
    points = [point for scope, attributes in labelled for point in _points(metric, scope, attributes)]
    if not points:
        return None
    data: dict[str, Any] = {"dataPoints": points}
    if metric.kind == "counter":
        data |= {"aggregationTemporality": CUMULATIVE, "isMonotonic": True}
    about = {"name": metric.name, "description": metric.help, "unit": metric.unit}
    return {**about, "sum" if metric.kind == "counter" else "gauge": data}


def _points(metric: Metric, scope: Scope, attributes: Attributes) -> Iterator[dict[str, Any]]:
    for further, number in scope.values.get(metric.name, {}).items():
        point: dict[str, Any] = {"attributes": [*attributes, *_attributes(dict(further))]}
        if metric.kind == "counter":
            point["startTimeUnixNano"] = _nanoseconds(scope.start)
        point["timeUnixNano"] = _nanoseconds(scope.end)
        # Never asInt: as a text, as the JSON of protobuf writes 64 bits, receivers made with opentelemetry-rust (Rotel
        # 0.0.1a15) accept the request and drop the value.
        yield {**point, "asDouble": float(number)}


def _attributes(labels: Mapping[str, str]) -> Attributes:
    return [{"key": name, "value": {"stringValue": value}} for name, value in labels.items()]


def _nanoseconds(at: datetime) -> str:
    return str((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000)


# -- summary and report --------------------------------------------------------------------------------------------


def summary(reports: Sequence[RunReport], labels: Mapping[str, str]) -> dict[str, Any]:
    runs = [_summed(run) for run in reports]
    keys = ("rows", "errors", "streams")
    totals: dict[str, Any] = {key: _added(run[key] for run in runs) for key in keys}
    totals |= {key: sum(run[key] for run in runs) for key in ("bytes", "retries", "warnings", "schema_changes")}
    statuses = _added({run.status: 1} for run in reports)
    totals = {"runs": statuses, **totals}
    return {"format": 1, "kind": "dpone.metrics_summary", "labels": dict(labels), "runs": runs, "totals": totals}


def _summed(run: RunReport) -> dict[str, Any]:
    failed = [stream for stream in run.streams if stream.error]
    return {
        "run_id": run.run_id,
        "pipeline": run.pipeline,
        "labels": run.labels,
        "versions": run.versions,
        "status": run.status,
        "exit_code": run.exit_code if run.finished_at else None,
        "started_at": run.started_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "seconds": seconds(run),
        "streams": _added({stream.status: 1} for stream in run.streams),
        "rows": {**asdict(Rows()), **_added(asdict(stream.rows) for stream in run.streams)},
        "bytes": sum(stream.bytes for stream in run.streams),
        "retries": sum(stream.retries for stream in run.streams),
        "warnings": sum(map(len, (run.warnings, *(stream.warnings for stream in run.streams)))),
        "schema_changes": sum(len(stream.schema_changes) for stream in run.streams),
        "errors": {**dict.fromkeys(map(str, Category), 0), **_added({s.error.category: 1} for s in failed if s.error)},
        "failed": [{"stream": s.stream, "status": s.status, **asdict(s.error)} for s in failed if s.error],
    }


def seconds(run: RunReport) -> float | None:
    end = run.finished_at
    return None if end is None else round(max(0.0, (end - run.started_at).total_seconds()), 6)


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            found[name] = found.get(name, 0) + number
    return found


def markdown(reports: Sequence[RunReport]) -> bytes:
    """For the summary of a CI job. Texts of a report cannot form links, tags or table cells of their own."""
    lines = ["# dpone runs", ""]
    for run in reports:
        took = seconds(run)
        lines += [
            f"## {_cell(run.pipeline)}: {run.status}", "",
            f"Run {_cell(run.run_id)}, started {run.started_at.isoformat(timespec='seconds')}, "
            + ("not finished." if took is None else f"exit code {run.exit_code}, {took:,.1f} s."), "",
            "| stream | status | source | sink | strategy | read | written | retries | seconds | error |",
            "|---|---|---|---|---|--:|--:|--:|--:|---|",
            *map(_row, run.streams), "",
            *(f"* **{_cell(s.stream)}**: {_cell(s.error.message)}" for s in run.streams if s.error),
            *(f"* {_cell(s.stream)}, warning: {_cell(text)}" for s in run.streams for text in s.warnings),
            *(f"* warning: {_cell(text)}" for text in run.warnings), "",
        ]  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip().encode("utf-8", "replace") + b"\n"


def _row(stream: StreamReport) -> str:
    rows, error = stream.rows, stream.error
    cells = (
        _cell(stream.stream), stream.status, _cell(stream.source.type if stream.source else ""),
        _cell(stream.sink.type if stream.sink else ""), _cell(stream.strategy), f"{rows.read:,}", f"{rows.written:,}",
        str(stream.retries), f"{sum(stream.durations.values()):.2f}",
        f"{_cell(error.kind)} ({_cell(error.category)})" if error else "",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", " ".join(redact(text).split()))
