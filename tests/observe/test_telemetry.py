"""Traces and metrics by the ``OTEL_*`` variables, received over gRPC and HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import evolve
from tests.engine import faulty as faults
from tests.engine.project import Project, rows
from tests.observe.collector import Collector, attributes, collector

from dpone.config.reader import load_pipeline
from dpone.engine import observers
from dpone.engine.run import Run
from dpone.model.events import RunEvent
from dpone.model.pipeline import Pipeline, SinkSpec, SourceSpec, StateSpec, StreamSpec
from dpone.model.report import RunReport
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.observe import telemetry, trace
from dpone.plugins import discover

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def running() -> Iterator[Collector]:
    with collector() as made:
        yield made


@pytest.fixture
def received(running: Collector, monkeypatch: pytest.MonkeyPatch) -> Collector:
    """A collector that OTEL_EXPORTER_OTLP_ENDPOINT names, over HTTP."""
    running.clear()
    running.refuses = False
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.http)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("TRACEPARENT", raising=False)
    return running


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "p", runtime={"batch_rows": 100, "retries": 1}).save()
    project.csv("a", rows(1, 150))
    project.csv("b", rows(151, 200))
    return project


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """tests.engine.faulty; nothing waits before a retry."""
    monkeypatch.setattr("dpone.engine.run.time.sleep", lambda seconds: None)
    yield faults
    faults.faults.clear()


def load(project: Project, **connectors: str) -> RunReport:
    plugins = discover()
    changed: dict[Any, Any] = dict(plugins.connectors)
    for name, implementation in connectors.items():
        role, _, type_ = name.partition("_")
        changed[role, type_] = evolve(changed[role, type_], implementation=implementation)
    return Run(load_pipeline(project.pipeline), plugins=evolve(plugins, connectors=changed)).execute()


def test_a_run_is_a_trace_of_streams_and_steps(project: Project, received: Collector) -> None:
    """One trace, whose id is the run's: the run, below it each stream, below that each step with its own begin and end,
    and attributes by the conventions of OpenTelemetry."""
    report = load(project)
    assert report.warnings == []
    [run] = [span for span in received.spans if not span.parent_span_id]
    [stream] = [span for span in received.spans if span.parent_span_id == run.span_id]
    steps = [span for span in received.spans if span.parent_span_id == stream.span_id]
    assert len(received.spans) == 2 + len(steps)
    assert {span.trace_id.hex() for span in received.spans} == {trace.trace_id(report.run_id, {})}
    names = [span.name for span in steps]
    assert names == [
        "lock", "recover", "window", "schema", "open", "part", "part", "stage", "commit", "state", "acknowledge",
    ]  # fmt: skip
    assert (run.name, attributes(run)["dpone.run.id"]) == ("run p", report.run_id)
    assert {name: attributes(stream)[name] for name in ("dpone.status", "dpone.rows.read", "dpone.sink")} == {
        "dpone.status": "loaded", "dpone.rows.read": 200, "dpone.sink": "sqlite",
    }  # fmt: skip
    [commit] = [span for span in steps if span.name == "commit"]
    assert {**attributes(commit), "dpone.load_id": ""} == {
        "db.system.name": "sqlite", "db.collection.name": "t", "db.operation.name": "commit", "dpone.load_id": "",
    }  # fmt: skip
    for span in received.spans:
        assert stream.start_time_unix_nano <= span.start_time_unix_nano or span is run
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= run.end_time_unix_nano
    assert sum(span.end_time_unix_nano - span.start_time_unix_nano for span in steps if span.name == "commit") > 0
    assert received.resource["service.name"] == "dpone"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_metrics_have_rows_bytes_and_seconds(
    project: Project, received: Collector, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """Over either protocol, with units of the conventions; a run that fails counts its error."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.grpc if protocol == "grpc" else received.http)
    load(project)
    found = received.metrics
    assert len(received.spans) == 13
    labels = {"pipeline": "p", "stream": "t", "source": "file", "sink": "sqlite", "strategy": "append"}
    for name, unit, value in (
        ("dpone.stream.rows.read", "{row}", 200),
        ("dpone.stream.rows.inserted", "{row}", 200),
        ("dpone.stream.rows.staged", "{row}", 200),
        ("dpone.stream.retries", "{retry}", 0),
    ):
        [point] = found[name].sum.data_points
        assert (found[name].unit, point.as_int, attributes(point)) == (unit, value, labels), name
    assert found["dpone.stream.staged"].unit == "By"
    assert found["dpone.stream.staged"].sum.data_points[0].as_int > 0
    steps = {attributes(point)["step"]: point for point in found["dpone.step.duration"].histogram.data_points}
    assert (found["dpone.step.duration"].unit, steps["part"].count, steps["commit"].count) == ("s", 2, 1)
    assert attributes(found["dpone.runs"].sum.data_points[0]) == {"pipeline": "p", "status": "succeeded"}


def test_an_error_is_an_exception_of_its_span(project: Project, received: Collector, faulty: ModuleType) -> None:
    """Of the failed attempt and of the stream, redacted, without a stack trace; stream and run have status error."""
    Secret("postgres://u:kohlrabi7Left@h/d")
    error = "no route to postgres://u:kohlrabi7Left@h/d"
    faulty.faults["stage"] = [ConnectionResetError(error), ConnectionResetError(error)]
    report = load(project, **faulty.PLUGINS)
    assert report.exit_code == 1
    by_name = {span.name: span for span in received.spans}
    for name in ("failed attempt", "stream t"):
        [event] = [one for one in by_name[name].events if one.name == "exception"]
        assert attributes(event)["exception.type"] == "ConnectionResetError"
        assert "no route to postgres://u:***@h/d" in attributes(event)["exception.message"]
        assert "exception.stacktrace" not in attributes(event)
        assert by_name[name].status.code == 2
    assert attributes(by_name["stream t"])["error.type"] == "ConnectionResetError"
    assert by_name["run p"].status.code == 2
    [point] = received.metrics["dpone.stream.errors"].sum.data_points
    assert (point.as_int, attributes(point)["category"]) == (1, "transient")
    assert "kohlrabi" not in received.text()


def test_a_run_joins_the_trace_of_its_scheduler(
    project: Project, received: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TRACEPARENT makes the run a child of that span; log lines have the id of the trace they belong to."""
    from dpone.observe.progress import observer

    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    job = Run(load_pipeline(project.pipeline))
    with observer(job.plugins, "json", quiet=False):
        job.execute()
    assert {span.trace_id.hex() for span in received.spans} == {TRACEPARENT.split("-")[1]}
    [run] = [span for span in received.spans if span.name == "run p"]
    assert run.parent_span_id.hex() == TRACEPARENT.split("-")[2]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {(line["run_id"], line["trace_id"]) for line in lines} == {(job.run_id, TRACEPARENT.split("-")[1])}


@pytest.mark.parametrize(
    ("env", "traces", "metrics"),
    [
        ({}, (), ()),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_HEADERS": "k=v"}, (), ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ("otlp",), ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "True"}, (), ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_METRICS_EXPORTER": "none"}, ("otlp",), ()),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h"}, (), ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp"), ()),
    ],
    ids=str,
)
def test_the_variables_ask_for_telemetry(
    env: Mapping[str, str], traces: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    """By an endpoint or a named exporter and nothing else; OTEL_SDK_DISABLED ends it."""
    found = trace.asked(env)
    assert (found.get("traces", ()), found.get("metrics", ())) == (traces, metrics)


SILENT = """
import sys
from dpone.engine.run import run
assert run(sys.argv[1]).exit_code == 0
print([name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "grpc", "openlineage", "requests")])
"""
WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from dpone.engine.run import run
report = run(sys.argv[1])
print(report.exit_code, report.warnings)
"""


@pytest.mark.parametrize(
    ("code", "env", "said"),
    [
        (SILENT, {}, "[]"),
        (WITHOUT, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
         "0 [\"observer otel: export telemetry: the OTEL_* variables ask for traces and metrics, but OpenTelemetry is "
         "not installed (opentelemetry.sdk); install the extra, as in pip install './dpone-core[otel]', or set "
         "OTEL_SDK_DISABLED=true\"]"),
    ],
    ids=["nothing asked", "not installed"],
)  # fmt: skip
def test_nothing_is_imported_that_nobody_asked_for(
    project: Project, code: str, env: Mapping[str, str], said: str
) -> None:
    """Without OTEL_* a run imports nothing of OpenTelemetry; with them and without the extra, one line says what to
    install."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", code, str(project.pipeline)]
    done = subprocess.run(command, env={**bare, **env}, cwd=project.folder, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (said, "")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("fault", ["refuses", "hangs", "gone"])
def test_a_collector_that_fails_changes_nothing(
    project: Project, received: Collector, monkeypatch: pytest.MonkeyPatch, protocol: str, fault: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One warning says what happened, and nothing else is printed; the run has succeeded."""
    monkeypatch.setattr(telemetry, "PATIENCE", 0.4)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    received.refuses = fault == "refuses"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = f"http://127.0.0.1:{silent.getsockname()[1]}"
        there = received.grpc if protocol == "grpc" else received.http
        url = {"refuses": there, "hangs": hangs, "gone": "http://127.0.0.1:1"}[fault]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        report = load(project)
    assert (report.exit_code, project.rows()) == (0, rows(1, 200))
    [warning] = report.warnings
    assert warning.startswith("observer otel: export telemetry: traces were not sent")
    assert "check the variables OTEL_* and the collector" in warning
    assert capfd.readouterr() == ("", "")


def test_an_exporter_that_hangs_is_left_behind(
    project: Project, received: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What even its own limit does not end, the limit of every observer does."""
    monkeypatch.setattr(observers, "LIMIT", 0.3)
    ends = threading.Event()
    monkeypatch.setattr(telemetry._Outbox, "send", lambda self, last: ends.wait())
    try:
        report = load(project)
    finally:
        ends.set()
    assert report.exit_code == 0
    assert ["did not return from" in warning for warning in report.warnings] == [True]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "there is no exporter 'zipkin' for traces; set OTEL_TRACES_EXPORTER to"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "the protocol 'http/json' is not known; set"),
    ],
)
def test_a_variable_that_cannot_be_followed_is_named(
    project: Project, received: Collector, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], found: str
) -> None:
    """One warning, before anything is sent."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    report = load(project)
    assert [found in warning for warning in report.warnings] == [True]
    assert received.requests == []


@pytest.mark.parametrize("headers", ["hv2Qx8mZp4 no-equals", "api key=hv2Qx8mZp4", "a=b,hv2Qx8mZp4"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_header_that_cannot_be_read_is_not_printed(
    project: Project, received: Collector, monkeypatch: pytest.MonkeyPatch, protocol: str, headers: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The exporter logs it with its value, which is a key; one warning says that it was left out."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.grpc if protocol == "grpc" else received.http)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    report = load(project)
    [warning] = report.warnings
    assert "Header format invalid" in warning
    assert "hv2Qx8mZp4" not in warning
    assert capfd.readouterr() == ("", "")
    assert received.requests


def test_a_plan_sends_nothing(project: Project, received: Collector) -> None:
    """A dry run is not a run that anybody should see in a dashboard."""
    assert Run(load_pipeline(project.pipeline), dry_run=True).execute().exit_code == 0
    assert received.requests == []


AT = datetime(2026, 1, 1, tzinfo=UTC)
POSTGRES = {"db.system.name": "postgresql", "server.address": "db.example", "db.namespace": "shop"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (SourceSpec("postgres", Secret("postgres://u:pw@db.example:5433/shop"), Name.parse("s.t")),
         {**POSTGRES, "server.port": 5433, "db.collection.name": "s.t"}),
        (SourceSpec("postgres", Secret("host=db.example dbname=shop password=pw"), Name.parse("t")),
         {**POSTGRES, "db.collection.name": "t"}),
        (SourceSpec("postgres", Secret("postgres://a:1,b:2/shop"), query="select 'canary'"),
         {"db.system.name": "postgresql"}),
        (SourceSpec("kafka", Secret("broker:9092"), topic="orders"),
         {"messaging.system": "kafka", "messaging.destination.name": "orders", "messaging.operation.type": "receive",
          "messaging.operation.name": "part"}),
        (SourceSpec("file", path="x/*.csv"), {}),
    ],
)  # fmt: skip
def test_a_step_names_what_it_works_on(source: SourceSpec, found: Mapping[str, Any]) -> None:
    """By the conventions for databases and for messaging, without user, password and text of a query."""
    given = telemetry._target(source, "part")
    operation = {"db.operation.name": "part"} if "db.system.name" in found else {}
    assert given == {**found, **operation}


def test_a_long_run_is_exported_as_it_goes(received: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans go out when there are many or some time has passed, and memory stays bounded; metrics once a minute."""
    monkeypatch.setattr(telemetry, "MOST", 5)
    spec = StreamSpec("s", SourceSpec("file", path="x"), SinkSpec("sqlite", Strategy("append"), table=Name.parse("t")))
    pipeline, report = Pipeline("p", (spec,), StateSpec("sqlite")), RunReport("r", "p")
    observer = telemetry.Telemetry({"traces": ("otlp",)}, pipeline, report)
    for step, stream, data in [
        ("run_started", None, {}),
        ("stream_started", "s", {}),
        *[("part_staged", "s", {"part": str(n), "rows": 1, "bytes": 1}) for n in range(12)],
    ]:
        observer(RunEvent(step, "r", "p", AT, stream, data))  # type: ignore[arg-type]
    assert len(received.spans) == 10
