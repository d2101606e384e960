"""A run as OpenTelemetry's spans and metrics: run > stream > step, with its semantic conventions.

All of it happens in the thread of the observer, exports included: there is no other thread, and nothing waits longer
than ``PATIENCE`` for a collector. A collector that fails is not asked again before the end of the run.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.semconv.attributes import (
    db_attributes,
    error_attributes,
    exception_attributes,
    server_attributes,
    service_attributes,
)
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dpone.errors import DponeError
from dpone.model.events import RunEvent, Step
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.model.report import RunReport, StreamReport
from dpone.model.secret import redact
from dpone.observe.metrics import STREAM
from dpone.observe.trace import own_trace_id

VERSION = version("dpone-core")
PATIENCE = 4.0  # seconds, below those that a run waits for an observer
# As in the specification: of the batch processor (spans, seconds), and of the periodic reader (seconds).
MOST, DELAY, INTERVAL = 512, 5.0, 60.0

# The step that an event ends, and the end of the stream that it works on.
STEPS: Mapping[Step, tuple[str, str]] = {
    "locked": ("lock", ""),
    "recovered": ("recover", "sink"),
    "window_fixed": ("window", "source"),
    "schema_applied": ("schema", "sink"),
    "load_opened": ("open", "sink"),
    "part_staged": ("part", "source"),
    "staged": ("stage", "sink"),
    "committed": ("commit", "sink"),
    "state_saved": ("state", ""),
    "acknowledged": ("acknowledge", "source"),
    "retry": ("failed attempt", ""),
}
# db.system.name and messaging.system of the connectors.
DATABASES = {"postgres": "postgresql", "mssql": "microsoft.sql_server", "mariadb": "mariadb", "sqlite": "sqlite"}
QUEUES = {"kafka": "kafka"}

Attributes = dict[str, Any]
LOGGER = logging.getLogger("opentelemetry")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Telemetry:
    """The observer of one run, made in the thread that gets its events. A dry run has no telemetry."""

    def __init__(self, signals: Mapping[str, Sequence[str]], pipeline: Pipeline, report: RunReport) -> None:
        self._dry, self._heard = report.dry_run, _Heard()
        self._specs = {stream.name: stream for stream in pipeline.streams}
        env = os.environ
        LOGGER.addHandler(self._heard)  # first: an exporter logs a header that it cannot read
        try:
            resource = _resource()
            self._traces = _Traces(report, resource, [*_span_exporters(signals.get("traces", ()), env)], self._heard)
            metrics = [*_metric_exporters(signals.get("metrics", ()), env)]
            self._metrics = _Metrics(report, resource, metrics, self._heard)
        except BaseException:
            LOGGER.removeHandler(self._heard)
            raise
        self._heard.made()

    def __call__(self, event: RunEvent) -> None:
        if self._dry:
            return
        self._traces.take(event, self._specs.get(event.stream or ""))
        self._metrics.take(event)
        last = event.step == "run_finished"
        for one in (self._traces.out, self._metrics):
            one.send(last)
        if last:
            self._end()

    def _end(self) -> None:
        for one in (self._traces.out, self._metrics):
            one.shutdown()
        LOGGER.removeHandler(self._heard)
        if faults := self._heard.faults:
            todo = "check the variables OTEL_* and the collector; the run itself is not affected"
            raise DponeError("export telemetry", "; ".join(faults.values()), todo)


def _resource() -> Resource:
    """``service.name`` is dpone, unless the standard variables name it."""
    found = Resource.create({service_attributes.SERVICE_VERSION: VERSION})
    named = str(found.attributes.get(service_attributes.SERVICE_NAME, ""))
    ours = Resource({service_attributes.SERVICE_NAME: "dpone"})
    return found.merge(ours) if named.startswith("unknown_service") else found


# --- traces ---


class _Traces:
    def __init__(self, report: RunReport, resource: Resource, exporters: Sequence[SpanExporter], heard: _Heard) -> None:
        self._report, self.out = report, _Outbox(exporters, heard)
        provider = TracerProvider(resource=resource, id_generator=_Ids(report.run_id), shutdown_on_exit=False)
        provider.add_span_processor(self.out)
        self._tracer = provider.get_tracer("dpone", VERSION)
        self._run: Any = None
        self._streams: dict[str, Any] = {}

    def take(self, event: RunEvent, spec: StreamSpec | None) -> None:
        if event.step == "run_started":
            self._begin_run(event)
        elif event.step == "stream_started" and self._run:
            self._begin_stream(event, spec)
        elif event.step in STEPS and event.stream in self._streams:
            self._step(event, spec)
        elif event.step == "warning" and event.stream in self._streams:
            text = {"dpone.warning": redact(str(event.data.get("text", "")))}
            self._streams[event.stream].add_event("warning", text, _ns(event.at))
        elif event.step == "stream_finished" and event.stream in self._streams:
            self._end_stream(event)
        elif event.step == "run_finished" and self._run:
            self._end_run(event)

    def _begin_run(self, event: RunEvent) -> None:
        carrier = {name: os.environ.get(name.upper(), "") for name in ("traceparent", "tracestate")}
        above = TraceContextTextMapPropagator().extract(carrier)
        attributes = {"dpone.run.id": event.run_id, "dpone.pipeline": event.pipeline}
        attributes |= {f"dpone.label.{name}": redact(value) for name, value in self._report.labels.items()}
        self._run = self._tracer.start_span(
            f"run {event.pipeline}", above, attributes=attributes, start_time=_ns(self._report.started_at)
        )

    def _begin_stream(self, event: RunEvent, spec: StreamSpec | None) -> None:
        attributes = {"dpone.run.id": event.run_id, "dpone.pipeline": event.pipeline, "dpone.stream": event.stream}
        if spec is not None:
            attributes |= {"dpone.source": spec.source.type, "dpone.sink": spec.sink.type}
            attributes["dpone.strategy"] = spec.sink.strategy.mode
        self._streams[event.stream or ""] = self._tracer.start_span(
            f"stream {event.stream}", set_span_in_context(self._run), attributes=attributes, start_time=_ns(event.at)
        )

    def _step(self, event: RunEvent, spec: StreamSpec | None) -> None:
        name, end = STEPS[event.step]
        attributes = {f"dpone.{key}": event.data[key] for key in ("part", "load_id", "attempt") if key in event.data}
        rows = event.data.get("rows")
        if isinstance(rows, int):
            attributes["dpone.rows"] = rows
        target = {}
        if spec is not None and end:
            target = _target(spec.source if end == "source" else spec.sink, name)
        context = set_span_in_context(self._streams[event.stream or ""])
        span = self._tracer.start_span(
            name,
            context,
            SpanKind.CLIENT if target else SpanKind.INTERNAL,
            attributes={**attributes, **target},
            start_time=_ns(event.began),
        )
        if event.step == "retry":
            _fail(span, event.data["error"], event.at)
        span.end(_ns(event.at))

    def _end_stream(self, event: RunEvent) -> None:
        span = self._streams.pop(event.stream or "")
        span.set_attribute("dpone.status", event.data["status"])
        for name, count in event.data["rows"].items():
            span.set_attribute(f"dpone.rows.{name}", count)
        span.set_attribute("dpone.retries", event.data["retries"])
        if event.data["error"]:
            _fail(span, event.data["error"], event.at)
        span.end(_ns(event.at))

    def _end_run(self, event: RunEvent) -> None:
        self._run.set_attribute("dpone.status", event.data["status"])
        self._run.set_attribute("dpone.exit_code", event.data["exit_code"])
        if event.data["exit_code"] not in (0, 4):
            self._run.set_status(Status(StatusCode.ERROR, event.data["status"]))
        self._run.end(_ns(event.at))


def _fail(span: Any, error: Mapping[str, Any], at: datetime) -> None:
    """The error of a step, as the conventions record exceptions; without a stack trace, whose lines hold anything."""
    message = redact(error["message"])
    attributes = {
        exception_attributes.EXCEPTION_TYPE: error["kind"],
        exception_attributes.EXCEPTION_MESSAGE: message,
        "dpone.error.category": error["category"],
    }
    span.add_event("exception", attributes, _ns(at))
    span.set_attribute(error_attributes.ERROR_TYPE, error["kind"])
    span.set_status(Status(StatusCode.ERROR, message))


def _target(spec: Any, step: str) -> Attributes:
    """What a step works on, by the conventions for databases and messaging; nothing for files."""
    what = str(spec.table or spec.topic or "")
    if queue := QUEUES.get(spec.type):
        kind = "receive" if hasattr(spec, "query") else "send"
        return {
            "messaging.system": queue,
            "messaging.destination.name": redact(what),
            "messaging.operation.type": kind,
            "messaging.operation.name": step,
        }
    if database := DATABASES.get(spec.type):
        found: Attributes = {db_attributes.DB_SYSTEM_NAME: database, db_attributes.DB_OPERATION_NAME: step}
        found |= {db_attributes.DB_COLLECTION_NAME: redact(what)} if what else {}
        return found | _place(spec)
    return {}


def _place(spec: Any) -> Attributes:
    """Server and database, as far as the connection says it safely."""
    shown = spec.connection.location() if spec.connection else ""
    try:
        url = urlsplit(shown)
        host, port = url.hostname, url.port
    except ValueError:  # a list of hosts
        return {}
    pairs = {} if host else dict(pair.partition("=")[::2] for pair in shown.split(",") if "=" in pair)
    host, name = host or pairs.get("host"), url.path.strip("/") if host else pairs.get("dbname", pairs.get("database"))
    found: Attributes = {}
    if host and "*" not in host:
        found[server_attributes.SERVER_ADDRESS] = redact(host)
        if port := port or (int(pairs["port"]) if pairs.get("port", "").isdecimal() else None):
            found[server_attributes.SERVER_PORT] = port
    if name and name != "***":
        found[db_attributes.DB_NAMESPACE] = redact(name)
    return found


class _Ids(RandomIdGenerator):
    """The trace of a run has its id."""

    def __init__(self, run_id: str) -> None:
        self._trace_id = own_trace_id(run_id)

    def generate_trace_id(self) -> int:
        return self._trace_id


class _Outbox(SpanProcessor):
    """Ended spans, on their way to the collector. Those that it has not taken are kept for the last try, up to ten
    exports of them."""

    def __init__(self, exporters: Sequence[SpanExporter], heard: _Heard) -> None:
        self._exporters, self._heard = exporters, heard
        self._ended: list[ReadableSpan] = []
        self._sent, self._failed = time.monotonic(), False

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled and len(self._ended) < 10 * MOST:
            self._ended.append(span)

    def send(self, last: bool = False) -> None:
        due = last or len(self._ended) >= MOST or time.monotonic() - self._sent > DELAY
        if not self._ended or not due or (self._failed and not last):
            return
        self._sent, self._failed = time.monotonic(), False
        while self._ended and not self._failed and time.monotonic() - self._sent < PATIENCE:
            for exporter in self._exporters:
                batch = self._ended[:MOST]
                sent = self._heard.sent("traces", partial(exporter.export, batch), SpanExportResult.SUCCESS)
                self._failed |= not sent
            del self._ended[: 0 if self._failed else MOST]

    def shutdown(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()


# --- metrics ---

STAGED = "dpone.stream.staged"


class _Metrics:
    """Rows and bytes grow as batches are staged; the counters of ``observe.metrics`` come when a stream is finished."""

    def __init__(
        self, report: RunReport, resource: Resource, exporters: Sequence[MetricExporter], heard: _Heard
    ) -> None:
        self._report, self._sent = report, time.monotonic()
        self._readers = [_Reader(one, heard) for one in exporters]
        provider = MeterProvider(self._readers, resource, shutdown_on_exit=False)
        meter = provider.get_meter("dpone", VERSION)
        self._staged = meter.create_counter("dpone.stream.rows.staged", "{row}", "Rows staged, also by failed attempts")
        self._bytes = meter.create_counter(STAGED, "By", "Size of the staged rows in memory")
        self._steps = meter.create_histogram("dpone.step.duration", "s", "How long a step took")
        self._streams = meter.create_histogram("dpone.stream.duration", "s", "How long a stream took")
        self._runs = meter.create_counter("dpone.runs", "{run}", "Runs by status")
        self._duration = meter.create_gauge("dpone.run.duration", "s", "How long the run took")
        self._counters = [
            (meter.create_counter(one.name, "{row}" if ".rows." in one.name else one.unit or "1", one.help), one.values)
            for one in STREAM
            if one.kind == "counter" and one.name != STAGED
        ]

    def take(self, event: RunEvent) -> None:
        found = {"pipeline": event.pipeline}
        if event.step == "run_finished":
            self._runs.add(1, {**found, "status": event.data["status"]})
            self._duration.set(event.seconds, found)
        if stream := next((one for one in self._report.streams if one.stream == event.stream), None):
            self._take(event, stream, {**found, **_labels(stream)})

    def _take(self, event: RunEvent, stream: StreamReport, labels: Attributes) -> None:
        if event.step == "batch":
            self._staged.add(event.data["rows"], labels)
            self._bytes.add(event.data["bytes"], labels)
        elif event.step in STEPS:
            self._steps.record(event.seconds, {**labels, "step": STEPS[event.step][0]})
        elif event.step == "stream_finished":
            self._streams.record(event.seconds, {**labels, "status": stream.status})
            for counter, values in self._counters:
                for further, count in values(stream).items():
                    counter.add(count, {**labels, **dict(further)})

    def send(self, last: bool = False) -> None:
        if last or time.monotonic() - self._sent > INTERVAL:
            self._sent = time.monotonic()
            for reader in self._readers:
                reader.collect(PATIENCE * 1000)

    def shutdown(self) -> None:
        for reader in self._readers:
            reader.shutdown()


class _Reader(MetricReader):
    """Hands what is collected to an exporter, in the calling thread."""

    def __init__(self, exporter: MetricExporter, heard: _Heard) -> None:
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)
        self._exporter, self._heard = exporter, heard

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 0, **given: Any) -> None:
        export = partial(self._exporter.export, metrics_data, timeout_millis)
        self._heard.sent("metrics", export, MetricExportResult.SUCCESS)

    def shutdown(self, timeout_millis: float = 0, **given: Any) -> None:
        self._exporter.shutdown()


def _labels(stream: StreamReport) -> Attributes:
    ends = {"source": stream.source, "sink": stream.sink}
    types = {name: end.type for name, end in ends.items() if end}
    return {"stream": redact(stream.stream), **types, "strategy": stream.strategy}


# --- exporters ---


def _span_exporters(names: Iterable[str], env: Mapping[str, str]) -> Iterator[SpanExporter]:
    for name in names:
        if _is_console("traces", name):
            yield ConsoleSpanExporter(out=sys.stderr)
        elif _protocol("traces", env) == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc

            yield ByGrpc(timeout=_timeout("traces", env))
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp

            yield ByHttp(timeout=_timeout("traces", env))


def _metric_exporters(names: Iterable[str], env: Mapping[str, str]) -> Iterator[MetricExporter]:
    for name in names:
        if _is_console("metrics", name):
            yield ConsoleMetricExporter(out=sys.stderr)
        elif _protocol("metrics", env) == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as ByGrpc

            yield ByGrpc(timeout=_timeout("metrics", env))
        else:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as ByHttp

            yield ByHttp(timeout=_timeout("metrics", env))


def _is_console(signal: str, name: str) -> bool:
    if name not in ("otlp", "console"):
        todo = f"set OTEL_{signal.upper()}_EXPORTER to otlp, console (on stderr) or none"
        raise DponeError("export telemetry", f"there is no exporter {name!r} for {signal}", todo)
    return name == "console"


def _protocol(signal: str, env: Mapping[str, str]) -> str:
    """The specification's default is HTTP."""
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    found = env.get(variable) or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if found not in ("grpc", "http/protobuf"):
        todo = "set OTEL_EXPORTER_OTLP_PROTOCOL to grpc or http/protobuf"
        raise DponeError("export telemetry", f"the protocol {found!r} is not known", todo)
    return found


def _timeout(signal: str, env: Mapping[str, str]) -> float:
    """Seconds; exporters try again within it. In Python's exporters the variable has seconds, too."""
    try:
        found = env.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT") or env.get("OTEL_EXPORTER_OTLP_TIMEOUT") or "10"
        return min(PATIENCE / 2, float(found))
    except ValueError:
        return PATIENCE / 2


class _Heard(logging.Handler):
    """Exporters say in the log why they have failed, the first time. What they say in this thread is kept, for the
    fault, and not printed; a program with handlers of its own gets it as well."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.faults: dict[str, str] = {}
        self._said: dict[str, None] = {}
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            text = redact(record.getMessage().strip().split("\n")[0]).rstrip(".")
            self._said[text.partition(", retrying")[0]] = None

    def made(self) -> None:
        """What was said until now is of the variables: part of one could not be followed."""
        if self._said:
            self.faults["variables"] = "; ".join(self._said)
        self._said.clear()

    def sent(self, signal: str, export: Callable[[], Any], success: Any) -> bool:
        """Whether it was exported. Otherwise the signal has a fault, with what was said last of it."""
        try:
            sent = export() is success
        except Exception as error:  # some releases raise what others log
            self._said[redact(" ".join(f"{type(error).__name__}: {error}".split()))] = None
            sent = False
        if sent:
            self.faults.pop(signal, None)
        else:
            said = " (" + "; ".join([*self._said][-2:]) + ")" if self._said else ""
            self.faults.setdefault(signal, f"{signal} were not sent{said}")
        self._said.clear()
        return sent


def _ns(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1) * 1000
