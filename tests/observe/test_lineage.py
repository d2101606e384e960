"""OpenLineage events, by the transports of its client."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engine.project import Project, rows
from tests.observe.test_notify import Inbox, inbox

from dpone.config.reader import load_pipeline
from dpone.engine import observers
from dpone.engine.run import Run
from dpone.engine.stage import StageStep
from dpone.errors import DataError, Interrupted, Stopped
from dpone.model.ids import number
from dpone.model.pipeline import SinkSpec, SourceSpec, StreamSpec
from dpone.model.report import RunReport
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.observe import lineage, openlineage

Events = Callable[[], list[dict[str, Any]]]
PARENT = "0199c0de-0000-7000-8000-000000000000"


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Events:
    """The client writes to a file; returns what is in it."""
    file = tmp_path / "events.jsonl"
    transport = {"TYPE": "file", "LOG_FILE_PATH": str(file), "APPEND": "true"}
    for name, value in transport.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    return lambda: [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "p").save()
    project.csv("a", rows(1, 150))
    return project


def load(project: Project, **options: Any) -> RunReport:
    return Run(load_pipeline(project.pipeline), **options).execute()


def test_a_run_is_a_job_above_those_of_its_streams(
    project: Project, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """START and COMPLETE of both; a stream has its run as parent, and a run that of its scheduler, whose names have
    slashes; ids are those of the run."""
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"airflow/dag/task/{PARENT}")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "shop")
    report = load(project)
    assert report.warnings == []
    found = events()
    run_id = str(uuid.UUID(int=number(report.run_id) or 0))
    assert [(one["eventType"], one["job"]["name"]) for one in found] == [
        ("START", "p"), ("START", "p.t"), ("COMPLETE", "p.t"), ("COMPLETE", "p"),
    ]  # fmt: skip
    assert {one["job"]["namespace"] for one in found} == {"shop"}
    assert [one["run"]["runId"] == run_id for one in found] == [True, False, False, True]
    assert found[1]["run"]["runId"] == found[2]["run"]["runId"]
    parent = found[2]["run"]["facets"]["parent"]
    assert (parent["run"]["runId"], parent["job"]["namespace"], parent["job"]["name"]) == (run_id, "shop", "p")
    above = found[3]["run"]["facets"]["parent"]
    assert (above["run"]["runId"], above["job"]["namespace"], above["job"]["name"]) == (PARENT, "airflow", "dag/task")


def test_datasets_have_schema_counts_and_column_lineage(project: Project, events: Events) -> None:
    """The folder of files and the table, with their columns, the rows, and for each column the one it comes from, also
    where a changed type has sent its values to another column."""
    project = project.but(sink_options={"schema_evolution": {"on_type_change": "new_column"}})
    load(project)
    project.csv("b", [("x1", 1, "n", "n"), ("x2", 1, "n", "n")])
    report = load(project)
    assert report.exit_code == 0, report.streams[0].error
    complete = [one for one in events() if one["eventType"] == "COMPLETE" and one["job"]["name"] == "p.t"]
    folder, table = ("file", str(project.folder / "data")), (f"sqlite://{project.database}", "t")
    for one, count, to in zip(complete, (150, 2), ("id", "__dpone__nc__id"), strict=True):
        [origin], [target] = one["inputs"], one["outputs"]
        assert [(end["namespace"], end["name"]) for end in (origin, target)] == [folder, table]
        assert origin["inputFacets"]["inputStatistics"]["rowCount"] == count
        assert target["outputFacets"]["outputStatistics"]["rowCount"] == count
        assert [field["name"] for field in origin["facets"]["schema"]["fields"]] == ["id", "day", "name", "note"]
        fields = {field["name"]: field["type"] for field in target["facets"]["schema"]["fields"]}
        assert (list(fields), fields["day"]) == ([to, "day", "name", "note"], "int64")
        [source] = target["facets"]["columnLineage"]["fields"][to]["inputFields"]
        assert (source["namespace"], source["name"], source["field"]) == (*folder, "id")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DataError("stage", "no route to postgres://u:kohlrabi7Left@h/d", "run again"), "FAIL"),
        (Stopped("stage", "kohlrabi7Left", "decide"), "FAIL"),
        (Interrupted("SIGTERM"), "ABORT"),
    ],
    ids=["failed", "stopped", "interrupted"],
)
def test_a_run_that_does_not_complete_says_so(
    project: Project, events: Events, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str
) -> None:
    """FAIL with the redacted message, ABORT if a signal ended it: of the stream and of the run."""
    Secret("postgres://u:kohlrabi7Left@h/d")

    def execute(*given: Any) -> None:
        raise error

    monkeypatch.setattr(StageStep, "execute", execute)
    if state == "ABORT":
        with pytest.raises(Interrupted):
            load(project)
    else:
        assert load(project).exit_code in (1, 3)
    found = events()
    assert [(one["eventType"], one["job"]["name"]) for one in found[2:]] == [(state, "p.t"), (state, "p")]
    assert "kohlrabi" not in json.dumps(found)
    messages = [one["run"]["facets"].get("errorMessage", {}).get("message", "") for one in found[2:]]
    assert ["***" in message for message in messages] == [state == "FAIL"] * 2


def test_nothing_new_is_complete_without_columns(project: Project, events: Events) -> None:
    """A run that finds nothing to load names its datasets and no counts of an earlier one; a plan sends nothing."""
    load(project)
    before = len(events())
    load(project)
    complete = events()[before + 2]
    assert (complete["eventType"], complete["outputs"][0]["name"]) == ("COMPLETE", "t")
    assert complete["outputs"][0]["outputFacets"] == {}
    load(project, dry_run=True)
    assert len(events()) == before + 4


def test_a_change_stream_has_a_dataset_for_each_table(tmp_path: Path) -> None:
    """Each table of the log goes to a table of its own, by name."""
    tables = [
        {"target": f"landing_{name}", "source": name, "columns": [{"name": "id", "from": "id", "type": "int64"}]}
        for name in ("orders", "customers")
    ]
    sink = SinkSpec("sqlite", Strategy("append"), Secret("sqlite:///w.db"), Name.parse("{table}"), base=tmp_path)
    source = SourceSpec("postgres", Secret("postgres://u:pw@h/d"), Name.parse("public.*"))
    inputs, outputs = lineage._datasets(StreamSpec("s", source, sink, "public.*"), tables, None)
    assert [(one.namespace, one.name) for one in inputs] == [
        ("postgres://h:5432", "d.public.orders"), ("postgres://h:5432", "d.public.customers"),
    ]  # fmt: skip
    assert [one.name for one in outputs] == ["landing_orders", "landing_customers"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (SourceSpec("postgres", Secret("postgres://u:pw@DB.example:5433/shop"), Name.parse("sales.orders")),
         ("postgres://db.example:5433", "shop.sales.orders")),
        (SourceSpec("postgres", Secret("host=db dbname=shop password=pw"), Name.parse("orders")),
         ("postgres://db:5432", "shop.public.orders")),
        (SourceSpec("postgres", Secret("postgres://u:pw@a,b/shop"), Name.parse("orders")),
         ("postgres://a:5432", "shop.public.orders")),
        (SourceSpec("postgres", Secret("postgres://u:pw@db/shop"), query="select 1"), None),
        (SourceSpec("postgres", Secret("postgres://u:p@w@db/shop"), Name.parse("t")), None),
        (SourceSpec("mssql", Secret("mssql://sa:pw@db/shop"), Name.parse("orders")),
         ("mssql://db:1433", "shop.dbo.orders")),
        (SourceSpec("mariadb", Secret("mariadb://u:pw@db/shop"), Name.parse("orders")),
         ("mysql://db:3306", "shop.orders")),
        (SourceSpec("kafka", Secret("a:9092,b:9092"), topic="orders"), ("kafka://a:9092", "orders")),
        (SourceSpec("file", path="in/*/day=*/x.csv", base=Path("/data")), ("file", "/data/in")),
        (SourceSpec("file", path="/in/x.csv", base=Path("/data")), ("file", "/in/x.csv")),
        (SourceSpec("objectstore", Secret("s3://bucket/raw"), path="orders/*.parquet"), ("s3://bucket", "raw/orders")),
    ],
)  # fmt: skip
def test_datasets_are_named_by_the_specification(spec: SourceSpec, named: tuple[str, str] | None) -> None:
    """Namespace and name of each kind of system, without user and password; a query is not a dataset."""
    assert lineage.dataset(spec) == named


@pytest.mark.parametrize(
    ("env", "file", "found"),
    [
        ({}, "", ""),
        ({"OPENLINEAGE_NAMESPACE": "x"}, "", ""),
        ({"OPENLINEAGE_URL": "http://h"}, "", "OPENLINEAGE_URL"),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "file"}, "", "OPENLINEAGE__TRANSPORT__TYPE"),
        ({"OPENLINEAGE_URL": "http://h", "OPENLINEAGE_DISABLED": "true"}, "", ""),
        ({}, "openlineage.yml", "openlineage.yml"),
        ({}, "home/.openlineage/openlineage.yml", "home/.openlineage/openlineage.yml"),
    ],
    ids=str,
)
def test_its_own_configuration_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: Mapping[str, str], file: str, found: str
) -> None:
    """A variable or a file of OpenLineage, where its client looks for them; nothing else."""
    monkeypatch.chdir(tmp_path)
    if file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert openlineage.asked({"HOME": "home", **env}) == found


@pytest.fixture(scope="module")
def running() -> Iterator[Inbox]:
    with inbox() as box:
        yield box


@pytest.mark.parametrize("answers", [[], [500] * 9, [0]], ids=["taken", "refused", "silent"])
def test_a_transport_that_fails_changes_nothing(
    project: Project, running: Inbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: list[int]
) -> None:
    """Over HTTP, by openlineage.yml: one warning without the key, and the run has succeeded."""
    key = "kohlrabi7LeftKey"
    transport = {"type": "http", "url": running.url, "retry": {"total": 0}, "auth": {"type": "api_key", "apiKey": key}}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(observers, "LIMIT", 0.5 if 0 in answers else 5.0)
    Path("openlineage.yml").write_text(yaml.safe_dump({"transport": transport}))
    running.got.clear()
    running.answers = [*answers]
    report = load(project)
    running.hang.set()
    assert (report.exit_code, project.rows()) == (0, rows(1, 150))
    assert len(report.warnings) == (1 if answers else 0)
    assert ["observer openlineage: " in warning for warning in report.warnings] == [True] * len(report.warnings)
    assert len(running.got) == (1 if answers else 4)
    assert key not in json.dumps(report.warnings)


@pytest.mark.parametrize(("text", "said"), [("{{{", "Couldn't read content"), ("", "Empty OpenLineage config file")])
def test_a_configuration_that_cannot_be_read_is_a_warning(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    """The client goes on without it, so nothing would arrive and nobody would know."""
    monkeypatch.chdir(tmp_path)
    Path("openlineage.yml").write_text(text)
    report = load(project)
    assert report.exit_code == 0
    [warning] = report.warnings
    assert said in warning
    assert warning.endswith("check the transport of OpenLineage; the run itself is not affected")
