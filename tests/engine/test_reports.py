"""What a run says of itself."""

from __future__ import annotations

import base64
import json
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from attrs import evolve
from tests.engine.project import Project, Steps, rows, with_plugins

import dpone
from dpone.config.reader import load_pipeline
from dpone.connectors.file.source import FileSource
from dpone.contract import Window, WindowRequest
from dpone.engine.run import Run, run
from dpone.errors import Category, ConfigError, DataError, DponeError, ErrorCodes, PluginError, SinkError, StateAhead
from dpone.hookspecs import hookimpl
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.report import Endpoint, ErrorReport, RunReport
from dpone.model.schema import Name
from dpone.model.secret import Secret


def test_a_load_is_accounted_for(project: Project) -> None:
    """Rows, bytes, positions, proof, parts, durations of each step, ids and versions."""
    project.csv("a", rows(1, 250))
    project.csv("b", rows(251, 300))
    report = project.run()
    [stream] = report.streams
    counts = stream.rows
    assert (counts.read, counts.written, counts.inserted, counts.updated, counts.deleted) == (300, 300, 300, 0, 0)
    assert stream.bytes > 300 * 16
    assert stream.position_before is None
    head = project.head()
    assert head is not None
    assert (stream.position_after, stream.load_id) == (head.position, head.load_id)
    assert (stream.caught_up, stream.partitions, stream.partitions_resumed, stream.attempts) == (True, 2, 0, 1)
    assert set(stream.durations) == {"recover", "window", "schema", "stage", "commit", "state"}
    assert all(seconds >= 0 for seconds in stream.durations.values())
    assert stream.schema_changes == ["create with 4 columns"]
    assert stream.source == Endpoint("file", "", "data/*.csv")
    assert stream.sink == Endpoint("sqlite", "sqlite:///warehouse.db", "t")
    assert (stream.strategy, stream.retries, report.dry_run, report.full_refresh) == ("append", 0, False, False)
    assert report.to_json()["streams"][0]["retries"] == 0
    assert len(report.run_id) == len(head.load_id) == 26
    assert set(report.versions) == {"dpone", "python", "pyarrow"}
    assert report.finished_at is not None
    assert report.started_at <= report.finished_at


def test_OK_01_a_run_without_rows_is_explained(project: Project) -> None:
    """Zero rows come with the positions before and after, and with the proof that there was nothing more."""
    project.csv("a", rows(1, 10))
    project.load()
    stream = project.load()
    assert (stream.status, stream.rows.read, stream.rows.inserted) == ("caught_up", 0, 0)
    assert stream.caught_up is True
    assert "nothing new" in stream.proof
    assert "1 file matching data/*.csv, 0 to read" in stream.proof
    head = project.head()
    assert head is not None
    assert stream.position_before == stream.position_after == head.position


def test_OK_01_a_load_of_an_empty_file_is_explained(project: Project) -> None:
    """An empty file is a load of no rows: the position moves, and the report says so."""
    project.csv("a", rows(1, 10))
    project.load()
    project.csv("b", [])
    stream = project.load()
    assert (stream.status, stream.rows.read) == ("loaded", 0)
    assert stream.position_before != stream.position_after
    assert "1 to read" in stream.proof


def test_a_failed_stream_keeps_its_position(project: Project, faulty: ModuleType) -> None:
    """position_after of a failure is where the stream still stands; the error has kind, category and message."""
    project.csv("a", rows(1, 10))
    project.load()
    project.csv("b", rows(11, 20))
    faulty.faults["commit"] = [DataError("load t", "a bad row", "mend it")]
    report = run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS))
    [stream] = report.streams
    assert (report.status, report.exit_code, stream.status) == ("failed", 1, "failed")
    assert stream.position_before is not None
    assert stream.position_after == stream.position_before
    assert stream.error == ErrorReport("DataError", "data_quality", False, "load t: a bad row; mend it", 1)
    assert (stream.rows.inserted, stream.rows.updated) == (0, 0)


def test_a_report_survives_json(project: Project, faulty: ModuleType) -> None:
    """What to_json gives is JSON, of a success and of a failure."""
    project.csv("a", rows(1, 10))
    faulty.faults["ack"] = [SinkError("a", "b", "c")]
    for report in (run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS)), project.run()):
        text = json.dumps(report.to_json())
        assert json.loads(text) == report.to_json()
        assert json.loads(text)["exit_code"] == report.exit_code


class _Four(DponeError):
    exit_code = 4


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([None, None], 0),
        ([None, StateAhead("a", "b", "c")], 3),
        ([StateAhead("a", "b", "c"), DataError("a", "b", "c")], 1),
        ([StateAhead("a", "b", "c"), PluginError("a", "b", "c")], 2),
        ([StateAhead("a", "b", "c"), ConfigError("a", "b", "c")], 3),
        ([PluginError("a", "b", "c"), RuntimeError("x")], 1),
        ([_Four("a", "b", "c"), None], 1),
    ],
    ids=str,
)
def test_the_exit_code_is_that_of_the_gravest_stream(
    project: Project, faulty: ModuleType, errors: list[Any], code: int
) -> None:
    """1 before 2 before 3; an error of a plugin with a code of its own is never taken for success."""
    project.csv("a", rows(1, 10))
    project.two_streams()
    first, second = errors

    def look(place: str) -> None:
        if place == "window":
            error = first if faulty.log.count("window") == 1 else second
            faulty.faults["window"] = [error] if error else []

    faulty.watch.append(look)
    report = run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS))
    assert report.exit_code == code
    assert report.status == {0: "succeeded", 3: "stopped"}.get(code, "failed")
    assert [stream.status == "loaded" for stream in report.streams] == [error is None for error in errors]


def test_a_failed_stream_does_not_stop_the_next(project: Project, faulty: ModuleType) -> None:
    """Streams are independent: the second is loaded though the first failed."""
    project.csv("a", rows(1, 10))
    project.two_streams()
    faulty.faults["stage"] = [DataError("a", "b", "c")]
    report = run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS))
    assert [stream.status for stream in report.streams] == ["failed", "loaded"]
    assert project.query("SELECT COUNT(*) FROM u") == [(10,)]


def test_selected_streams_run_alone(project: Project) -> None:
    """select names streams; an unknown name is an error before anything is touched."""
    project.csv("a", rows(1, 10))
    project.two_streams()
    assert [stream.stream for stream in project.run(select=["u"]).streams] == ["u"]
    assert "t" not in project.tables()
    with pytest.raises(ConfigError, match="unknown streams: v; choose from t, u"):
        project.run(select=["v"])


def test_a_dry_run_changes_nothing(project: Project) -> None:
    """It plans: DDL and the position it would reach; no table, no state, no lock, not even a file."""
    project.csv("a", rows(1, 10))
    before = sorted(path for path in project.folder.rglob("*"))
    [stream] = project.run(dry_run=True).streams
    assert stream.status == "planned"
    assert stream.ddl[0].startswith("CREATE TABLE")
    assert stream.position_after is not None
    assert sorted(path for path in project.folder.rglob("*")) == before
    project.load()
    state = project.state_bytes()
    project.csv("b", rows(11, 20))
    assert project.run(dry_run=True).streams[0].status == "planned"
    assert (project.state_bytes(), project.rows()) == (state, rows(1, 10))


def test_the_package_and_the_pipeline_run_alike(project: Project) -> None:
    """dpone.run takes a path or a Pipeline, and Pipeline.run does the same; each answers a RunReport."""
    project.csv("a", rows(1, 10))
    assert dpone.run(project.pipeline).streams[0].status == "loaded"
    assert dpone.run(str(project.pipeline)).streams[0].status == "caught_up"
    assert isinstance(run(project.pipeline), RunReport)


def test_an_error_table_that_cannot_be_imported_hides_no_error(project: Project, faulty: ModuleType) -> None:
    """The codes of a connector whose driver is missing are left out; the failure at hand is told as it is."""
    project.csv("a", rows(1, 10))
    plugins = with_plugins(**faulty.PLUGINS)
    broken = evolve(plugins.connectors["source", "sqlite"], errors="no_such_driver.codes:CODES")
    plugins = evolve(plugins, connectors={**plugins.connectors, ("source", "sqlite"): broken})
    faulty.faults["window"] = [DataError("read", "a bad row", "mend it")]
    report = run(project.pipeline, plugins=plugins)
    assert report.streams[0].error is not None
    assert report.streams[0].error.kind == "DataError"


# -- secrets ------------------------------------------------------------------------------------------------------

CANARY = "c@nary/pass word+é"


class Leaky(FileSource):
    """Puts its password into every error, as drivers do."""

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        text = f"no route to postgres://me:{quote(CANARY, safe='')}@h/db password={CANARY}"
        basic = base64.b64encode(f"me:{CANARY}".encode()).decode()
        raise RuntimeError(f"{text} Authorization: Basic {basic}")


class Chatty:
    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        raise RuntimeError(f"cannot post to https://me:{CANARY}@metrics")


def forms(secret: str) -> list[str]:
    encoded = base64.b64encode(secret.encode()).decode()
    return [secret, quote(secret), quote(secret, safe=""), encoded, repr(secret)[1:-1]]


def test_S_02_no_secret_in_events_reports_and_errors(project: Project) -> None:
    """A driver that quotes the password: neither the report nor an event nor a warning shows it, in any form."""
    project.csv("a", rows(1, 10))
    Secret(f"postgres://me:{quote(CANARY, safe='')}@h/db")
    plugins, steps = with_plugins(Chatty(), source_file=f"{__name__}:Leaky"), Steps()
    plugins.manager.register(steps)
    job = Run(load_pipeline(project.but(runtime={"retries": 0}).pipeline), plugins=plugins)
    report = job.execute()
    assert report.streams[0].error is not None
    assert "no route to" in report.streams[0].error.message
    assert report.warnings
    shown = json.dumps([report.to_json(), [dict(e.data) for e in steps.events]], ensure_ascii=False) + repr(report)
    for form in forms(CANARY):
        assert form not in shown


PLUGIN = """
from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl


@hookimpl
def dpone_sources():
    able, takes = declare("source", ("read",)), ("connection", "table")
    return [Connector("leaky", "leaky:Leaky", "dpone.model.pipeline:SourceOptions", able, takes)]


class Leaky:
    def __init__(self, spec):
        self.spec = spec

    def window(self, after, request):
        import base64
        secret = self.spec.connection.reveal()
        basic = base64.b64encode(secret.encode()).decode()
        raise RuntimeError(f"cannot open {secret} for {self.spec!r} ({basic})")

    def _none(self, *args):
        return None

    check = tables = schema = read = ack = close = _none
"""


def test_S_02_the_ends_of_a_stream_are_named_without_credentials() -> None:
    """The address has host and database; user, password and parameters are left out."""
    text = f"postgres://me:{quote(CANARY, safe='')}@db.example:5432/shop?sslmode=require"
    spec = SourceSpec("postgres", Secret(text), table=Name.parse("public.orders"))
    assert Endpoint.of(spec) == Endpoint("postgres", "postgres://db.example:5432/shop", "public.orders")
    path = SourceSpec("file", path=f"https://me:{quote(CANARY, safe='')}@h/orders.csv")
    assert Endpoint.of(path).object == "https://me:***@h/orders.csv"


@pytest.mark.parametrize("log", ["text", "json"])
def test_S_02_no_secret_of_a_failed_run_at_debug_level(project: Project, log: str) -> None:
    """`dpone run` with DPONE_DEBUG: stdout, stderr, events, report file and state hold no form of the password."""
    canary = "cAnArY-5f3e-pass"
    project.plugin("leaky", PLUGIN)
    connection = f"postgres://me:{canary}@h/db"
    project = project.but(source={"type": "leaky", "connection": "${LEAKY}", "table": "x"}, runtime={"retries": 1})
    args = ("run", "pipeline.yaml", "--log-format", log, "--report", "report.json", "--format", "json")
    done = project.dpone(*args, LEAKY=connection, DPONE_DEBUG="1")
    assert done.code == 1
    assert "cannot open" in done.json["streams"][0]["error"]["message"]
    written = [path.read_bytes() for path in project.folder.rglob("*") if path.is_file() and "site" not in path.parts]
    everything = done.out.encode() + done.err.encode() + b"".join(written)
    for form in (*forms(canary), base64.b64encode(connection.encode()).decode()):
        assert form.encode() not in everything


def test_declared_error_codes_route_the_retry(project: Project, faulty: ModuleType) -> None:
    """The engine asks the connectors' tables of codes: a driver's number decides what is tried again."""
    project.csv("a", rows(1, 10))
    plugins = with_plugins(**faulty.PLUGINS)
    table = evolve(plugins.connectors["sink", "sqlite"], errors=f"{__name__}:CODES")
    plugins = evolve(plugins, connectors={**plugins.connectors, ("sink", "sqlite"): table})
    deadlock = RuntimeError("something")
    deadlock.number = 1205  # type: ignore[attr-defined]
    faulty.faults["commit"] = [deadlock]
    [stream] = run(project.but(runtime={"retries": 1}).pipeline, plugins=plugins).streams
    assert (stream.status, stream.attempts) == ("loaded", 2)


CODES = ErrorCodes(numbers={1205: Category.TRANSIENT})
