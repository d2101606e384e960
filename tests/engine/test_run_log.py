"""The run log: what a run records of itself, and that a log that fails changes nothing of the run."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from tests.engine.project import Project, Steps, rows, with_plugins

from dpone.config.reader import load_pipeline
from dpone.connectors.sqlite.state import SqliteState
from dpone.engine.run import Run
from dpone.errors import ConfigError, Interrupted, StateError
from dpone.hookspecs import hookimpl
from dpone.host.process import Process
from dpone.model.run_record import RunRecord

AWAY = StateError("write the run log", "the server is away", "start it")


def log_of(project: Project) -> Any:
    pipeline = load_pipeline(project.pipeline)
    with closing(Run(pipeline).make("state", pipeline.state)) as state:
        return state.run_log()


def recorded(project: Project) -> list[RunRecord]:
    return [*log_of(project).records()]


class At:
    """An observer that makes a call at a step."""

    def __init__(self, step: str, call: Callable[[], Any]) -> None:
        self.step, self.call = step, call

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        if event.step == self.step:
            self.call()


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def test_a_file_of_others_beside_the_folders_is_not_read(project: Project) -> None:
    """Such as one of a desktop or of a backup; a log that is not a folder is still an error."""
    project = project.but(state_type="file")
    project.csv("a", rows(1, 5))
    report = project.run()
    [folder] = project.folder.rglob("runs")
    (folder / ".DS_Store").write_bytes(b"\0")
    assert [record.run_id for record in recorded(project)] == [report.run_id]
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(StateError, match="Not a directory"):
        recorded(project)


@pytest.mark.parametrize("state_type", ["sqlite", "file"])
def test_a_run_is_recorded_from_its_begin_to_its_end(project: Project, state_type: str) -> None:
    """While the streams run, the record says so; afterwards it has the counts of the report, and the report itself. A
    dry run leaves no record."""
    project = project.but(state_type=state_type)
    project.csv("a", rows(1, 250))
    during: list[RunRecord] = []
    report = project.run(plugins=with_plugins(At("committed", lambda: during.extend(recorded(project)))))
    project.run(dry_run=True)
    [record] = recorded(project)
    assert [(one.run_id, one.shown(time.time()), one.finished_at) for one in during] == [
        (report.run_id, "running", None)
    ]
    assert (record.status, record.exit_code, record.streams, record.errors) == ("succeeded", 0, {"loaded": 1}, ())
    assert (record.rows_in, record.rows_out, record.schema_changes) == (250, 250, 1)
    assert (record.started_at, record.finished_at) == (report.started_at, report.finished_at)
    kept = log_of(project).report(record)
    assert (kept["run_id"], kept["streams"][0]["rows"]["inserted"]) == (report.run_id, 250)


def test_a_run_that_fails_is_recorded_with_its_errors(project: Project, monkeypatch: Any) -> None:
    """The message of a stream is cut, without a value of a row; a run that failed before its streams were known has the
    error alone; a mistake on the command line leaves no record."""
    project = project.but(strategy={"mode": "merge", "key": ["id"]})
    project.csv("a", [(1, 1, "canary-name", "x"), (1, 1, "canary-other", "y")])
    assert project.run().exit_code == 1
    with pytest.raises(ConfigError, match="unknown streams"):
        project.run(select=["nothing"])
    monkeypatch.setattr(Run, "streams", raising(StateError("list tables", "x" * 400, "wait")))
    with pytest.raises(StateError):
        project.run()
    before, failed = recorded(project)
    assert [(one.status, one.exit_code, one.streams) for one in (failed, before)] == [
        ("failed", 1, {"failed": 1}), ("failed", 1, {}),
    ]  # fmt: skip
    assert [(e.stream, e.kind, e.category) for e in failed.errors] == [("t", "DataError", "data_quality")]
    assert [(e.stream, e.kind, len(e.message)) for e in before.errors] == [(None, "StateError", 300)]
    assert log_of(project).report(before) is None
    assert "canary" not in json.dumps([failed.to_json(), log_of(project).report(failed)])


def test_an_interrupted_run_is_recorded(project: Project, faulty: Any) -> None:
    """As interrupted, with its exit code and the report of what it had done."""
    project.csv("a", rows(1, 10))
    faulty.faults["stage"] = [Interrupted("SIGTERM")]
    with pytest.raises(Interrupted):
        project.run(plugins=with_plugins(None, **faulty.PLUGINS))
    [record] = recorded(project)
    assert (record.status, record.exit_code, record.streams) == ("interrupted", 130, {"interrupted": 1})
    assert log_of(project).report(record)["status"] == "interrupted"


@pytest.mark.parametrize("state_type", ["sqlite", "file"])
def test_a_killed_run_is_seen_to_have_crashed(project: Project, state_type: str) -> None:
    """After SIGKILL the record has no end. It is shown as crashed at once, because its process is gone; on a host that
    cannot see the process, as soon as its renewals have stopped for the lease. The next run has a record of its own."""
    project = project.but(state_type=state_type)
    project.csv("a", rows(1, 250))
    with project.child(step="part_staged", nth=1, signal="KILL") as child:
        child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    [record] = recorded(project)
    assert (record.status, record.finished_at) == ("running", None)
    assert record.shown(time.time()) == "crashed"
    elsewhere = evolve(record, process=evolve(record.process, machine="another"))
    assert elsewhere.shown(record.expires_at - 1) == "running"
    assert elsewhere.shown(record.expires_at + 1) == "crashed"
    assert project.run().exit_code == 0
    assert [one.shown(time.time()) for one in recorded(project)] == ["succeeded", "crashed"]


def test_a_long_run_renews_its_record(project: Project) -> None:
    """Three times within the lease, with what it has loaded so far."""
    project = project.but(state_options={"lease_seconds": 0.3})
    project.two_streams()
    project.csv("a", rows(1, 250))
    seen: list[RunRecord] = []

    def wait() -> None:
        begun = time.time()
        while not seen or not seen[-1].rows_in or seen[-1].expires_at < begun + 0.5:
            assert time.time() < begun + 30, "the record was not renewed"
            time.sleep(0.05)
            seen[:] = recorded(project)

    observer = At("acknowledged", lambda: seen or wait())
    project.run(plugins=with_plugins(observer))
    assert [(one.status, one.rows_in) for one in seen] == [("running", 250)]


class Broken(SqliteState):
    """``begin``, ``end`` or ``run_log`` fails."""

    at = ""
    calls = 0

    def run_log(self) -> Any:
        Broken.calls += 1
        log = super().run_log()
        if self.at == "run_log":
            raise RuntimeError("a plugin may raise anything")
        for method in {"begin": ("begin",), "end": ("replace", "prune"), "all": ("begin", "replace", "prune")}[self.at]:
            setattr(log, method, raising(AWAY))
        return log


@pytest.mark.parametrize("at", ["begin", "end", "all", "run_log"])
def test_a_log_that_fails_changes_nothing_of_a_run(project: Project, monkeypatch: Any, at: str) -> None:
    """The run succeeds, and says once, in the report and as an event, that its log was not written. A log that comes
    back has the whole record at the end."""
    monkeypatch.setattr(Broken, "at", at)
    monkeypatch.setattr(Broken, "calls", 0)
    project.csv("a", rows(1, 250))
    steps = Steps()
    plugins = with_plugins(steps, state_sqlite=f"{__name__}:Broken")
    report = project.run(plugins=plugins)
    assert (report.exit_code, project.rows()) == (0, rows(1, 250))
    [warning] = report.warnings
    assert warning.startswith("the run log was not written: ")
    assert [event.data["text"] for event in steps.events if event.step == "warning"] == [warning]
    assert (Broken.calls > 0, steps.steps[-1]) == (True, "run_finished")


def test_a_log_that_comes_back_has_the_whole_run(project: Project, monkeypatch: Any) -> None:
    """Its begin could not be written; its end is."""
    begin, failing = SqliteState.run_log, [AWAY]

    def flaky(state: Any) -> Any:
        if failing:
            raise failing.pop()
        return begin(state)

    monkeypatch.setattr(SqliteState, "run_log", flaky)
    project.csv("a", rows(1, 10))
    project.run()
    [record] = recorded(project)
    assert (record.status, record.rows_out, record.warnings) == ("succeeded", 10, 1)


@pytest.mark.parametrize("state_type", ["sqlite", "file"])
def test_the_log_is_bounded_by_count_and_age(project: Project, state_type: str) -> None:
    """Of the pipeline's runs as many stay as ``run_log.runs`` says, none older than ``run_log.days``; ``enabled:
    false`` records nothing."""
    project.csv("a", rows(1, 10))
    project = project.but(state_type=state_type, state_options={"run_log": {"runs": 3, "days": 30}})
    old = RunRecord("old", "p", datetime.now(UTC) - timedelta(days=31), Process.this(), 0.0)
    others = evolve(old, run_id="theirs", pipeline="q")
    for record in (old, others):
        log_of(project).begin(record)
    ids = [project.run().run_id for _ in range(2)]
    assert [one.run_id for one in recorded(project)] == [*reversed(ids), "theirs"]
    ids += [project.run().run_id for _ in range(2)]
    assert [one.run_id for one in recorded(project)] == [*reversed(ids[1:]), "theirs"]
    project.but(state_options={"run_log": {"enabled": False}}).run()
    assert len(recorded(project)) == 4


def test_a_long_position_is_left_to_the_state(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position that lists many files is not kept with each run: a log of a thousand runs stays small."""
    for n in range(40):
        project.csv(f"file-{n}", rows(n, n))
    report = project.run()
    [record] = recorded(project)
    kept = log_of(project).report(record)["streams"][0]["position_after"]
    whole = report.streams[0].position_after
    assert whole is not None
    size = len(json.dumps(whole))
    assert (kept["kind"], kept["value"]) == (whole["kind"], {"left_out": f"{size:,} characters"})
    assert len(whole["value"]["files"]) == 40
    monkeypatch.setattr("dpone.engine.run_log._LONGEST_POSITION", size)
    again = project.run()
    record = next(one for one in recorded(project) if one.run_id == again.run_id)
    assert log_of(project).report(record)["streams"][0]["position_after"] == whole
