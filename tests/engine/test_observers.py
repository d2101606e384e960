"""What an observer is told, and that it changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from types import ModuleType
from typing import Any

import pytest
from tests.engine.guests import installed
from tests.engine.project import Project, Steps, rows, with_plugins

from dpone.config.reader import load_pipeline
from dpone.engine import observers
from dpone.engine.run import Run, run
from dpone.errors import DataError, Interrupted
from dpone.hookspecs import hookimpl
from dpone.host import stopping
from dpone.model.events import STEPS
from dpone.observe.progress import observer


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        self.calls += 1
        raise self.error


class Blind:
    """A hook may leave out the arguments it has no use for."""

    calls = 0

    @hookimpl
    def dpone_run_event(self) -> None:
        Blind.calls += 1


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(7)], ids=["exception", "exit"])
def test_an_observer_that_raises_is_reported_once_and_changes_nothing(project: Project, error: BaseException) -> None:
    """It raises at every step: one warning in the report, every row in the target, exit code 0."""
    project.csv("a", rows(1, 250))
    observer = Raising(error)
    report = run(project.pipeline, plugins=with_plugins(observer))
    [stream] = report.streams
    assert report.exit_code == 0
    assert observer.calls > 10
    assert stream.warnings == []
    assert len(report.warnings) == 1
    assert "run_started" in report.warnings[0]
    assert project.rows() == rows(1, 250)
    assert project.state() == project.head()


def test_every_observer_is_told_though_one_raises(project: Project) -> None:
    """A broken observer does not stand between the run and the others."""
    project.csv("a", rows(1, 10))
    plugins, steps = with_plugins(Raising(RuntimeError("no"))), Steps()
    plugins.manager.register(steps)
    plugins.manager.register(Blind())
    run(project.pipeline, plugins=plugins)
    assert steps.steps[-1] == "run_finished"
    assert Blind.calls == len(steps.steps)


def test_steps_come_in_their_order(project: Project) -> None:
    """A load of one part tells each step once, in the order of STEPS; a batch each time one is staged."""
    project.csv("a", rows(1, 250))
    steps = Steps()
    run(project.pipeline, plugins=with_plugins(steps))
    assert steps.steps.count("batch") == 3
    assert list(dict.fromkeys(steps.steps)) == list(STEPS)
    assert [step for step in steps.steps if step != "batch"] == [step for step in STEPS if step != "batch"]


def test_every_event_has_the_data_that_observers_rely_on(project: Project) -> None:
    """All of it, by name and value; only what differs from run to run is compared with the report and the target."""
    project.csv("a", [(1, 1, "x", "y"), (2, 1, "x", "y")])
    steps = Steps()
    report = run(project.pipeline, plugins=with_plugins(steps))
    [stream], head = report.streams, project.head()
    assert head is not None
    told = {event.step: dict(event.data) for event in steps.events}
    size, part, owner = told["batch"]["bytes"], told["batch"]["part"], told["locked"]["owner"]
    [(journal_token,)] = project.query("SELECT token FROM __dpone__loads")
    counts = {"inserted": 2, "updated": 0, "deleted": 0, "unchanged": 0}
    columns = [{"name": name, "from": name, "type": "int64"} for name in ("id", "day")]
    columns += [{"name": name, "from": name, "type": "string"} for name in ("name", "note")]
    assert told == {
        "run_started": {"streams": ["t"], "dry_run": False},
        "stream_started": {
            "key": "p|t|file:data/*.csv|sqlite:sqlite:///warehouse.db:t", "strategy": "append",
            "source": {"type": "file", "address": "", "object": "data/*.csv"},
            "sink": {"type": "sqlite", "address": "sqlite:///warehouse.db", "object": "t"},
        },
        "locked": {"owner": owner},
        "recovered": {"adopted": False, "seq": 0, "epoch": 0},
        "window_fixed": {
            "parts": 1, "repeatable": True, "proof": "1 file matching data/*.csv, 1 to read", "position": head.position,
        },
        "schema_applied": {
            "changes": ["create with 4 columns"],
            "tables": [{"target": "t", "source": "data/*.csv", "columns": columns}],
        },
        "load_opened": {"load_id": head.load_id, "token": journal_token},
        "part_started": {"part": part},
        "batch": {"part": part, "rows": 2, "bytes": size},
        "part_staged": {"part": part, "rows": 2, "bytes": size},
        "staged": {"parts": 1, "rows": 2, "bytes": size},
        "commit_started": {"load_id": head.load_id},
        "committed": {"load_id": head.load_id, "seq": 1, "rows": counts},
        "state_saved": {"seq": 1},
        "acknowledged": {},
        "stream_finished": {
            "status": "loaded", "bytes": size, "retries": 0, "durations": stream.durations, "error": None,
            "rows": {"read": 2, "written": 2, "filtered": 0, "quarantined": 0, **counts},
        },
        "run_finished": {"status": "succeeded", "exit_code": 0},
    }  # fmt: skip
    assert size > len(owner) > 0
    assert [*stream.durations] == ["recover", "window", "schema", "stage", "commit", "state"]
    steps.events.clear()
    run(project.pipeline, plugins=with_plugins(steps))
    told = {event.step: dict(event.data) for event in steps.events}
    assert told["recovered"] == {"adopted": False, "seq": 1, "epoch": 0}
    assert told["window_fixed"]["parts"] == 0


def test_a_batch_is_told_after_it_has_reached_the_sink(project: Project) -> None:
    """Rows of the batches of a part sum up to the rows staged, and stand between its start and its end."""
    project.csv("a", rows(1, 250))
    project.csv("b", rows(251, 330))
    steps = Steps()
    run(project.pipeline, plugins=with_plugins(steps))
    told = [(e.step, e.data.get("part"), e.data.get("rows")) for e in steps.events if "part" in e.data]
    parts = list(dict.fromkeys(part for _, part, _ in told))
    assert [(step, count) for step, part, count in told if part == parts[0]] == [
        ("part_started", None), ("batch", 100), ("batch", 100), ("batch", 50), ("part_staged", 250),
    ]  # fmt: skip
    assert [count for step, part, count in told if part == parts[1] and step == "part_staged"] == [80]


def test_events_hold_json_and_no_value_of_a_row(project: Project) -> None:
    """What is told can be logged: it is JSON, and no text of a row is in it."""
    project.csv("a", [(i, 1, f"canary-name-{i}", "canary-note") for i in range(250)])
    project = project.but(strategy={"mode": "merge", "key": ["id"]})
    steps = Steps()
    run(project.pipeline, plugins=with_plugins(steps))
    project.csv("b", [(1, 1, "canary-name-x", "canary-note"), (1, 1, "canary-name-y", "canary-note")])
    run(project.pipeline, plugins=with_plugins(steps))
    text = json.dumps([dict(event.data) for event in steps.events])
    assert "canary" not in text
    assert steps.events[-1].data["status"] == "failed"


def test_every_event_names_its_run(project: Project) -> None:
    """One run id in all of them, the stream in those of a stream, and times that do not go back."""
    project.csv("a", rows(1, 10))
    steps = Steps()
    report = run(project.pipeline, plugins=with_plugins(steps))
    assert {event.run_id for event in steps.events} == {report.run_id}
    of_the_run = {"run_started", "run_finished"}
    assert {event.stream for event in steps.events if event.step not in of_the_run} == {"t"}
    times = [event.at for event in steps.events]
    assert times == sorted(times)


class Clock:
    """Stands still, except where a connector works."""

    def __init__(self) -> None:
        self.spent, self.zero = 0.0, datetime(2026, 3, 4, tzinfo=UTC)

    def now(self, zone: tzinfo) -> datetime:
        return self.zero.astimezone(zone) + timedelta(seconds=self.spent)


def test_every_step_has_its_begin_and_its_end(
    project: Project, faulty: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step spans exactly its own work; only steps that mark a moment have no length."""
    project.csv("a", rows(1, 250))
    clock, steps = Clock(), Steps()
    monkeypatch.setattr("dpone.engine.job.datetime", clock)
    monkeypatch.setattr("time.perf_counter", lambda: clock.spent)
    work = {"window": 1.0, "open": 2.0, "stage": 4.0, "commit": 8.0, "save": 16.0, "ack": 32.0}

    def pass_time(place: str) -> None:
        clock.spent += work.get(place, 0)

    faulty.watch.append(pass_time)
    report = run(project.pipeline, plugins=with_plugins(steps, **faulty.PLUGINS))
    spans = {e.step: tuple((one - clock.zero).total_seconds() for one in (e.began, e.at)) for e in steps.events}
    assert spans == {
        "run_started": (0, 0), "stream_started": (0, 0), "locked": (0, 0), "recovered": (0, 0), "window_fixed": (0, 1),
        "schema_applied": (1, 1), "load_opened": (1, 3), "part_started": (3, 3), "batch": (7, 7),
        "part_staged": (3, 7), "staged": (3, 7), "commit_started": (7, 7), "committed": (7, 15),
        "state_saved": (15, 31), "acknowledged": (31, 63), "stream_finished": (0, 63), "run_finished": (0, 63),
    }  # fmt: skip
    taken = {"window": 1, "stage": 4, "commit": 8, "state": 16, "recover": 0, "schema": 0}
    assert report.streams[0].durations == taken


def test_the_end_of_a_stream_tells_its_error(project: Project, faulty: ModuleType) -> None:
    """stream_finished and retry have kind, category and message; a stream that was loaded has no error."""
    project.csv("a", rows(1, 10))
    faulty.faults["window"] = [ConnectionError("gone"), DataError("read", "a bad row", "fix it")]
    steps = Steps()
    plugins = with_plugins(steps, **faulty.PLUGINS)
    report = run(project.but(runtime={"retries": 1}).pipeline, plugins=plugins)
    run(project.pipeline, plugins=plugins)
    [retry] = [event for event in steps.events if event.step == "retry"]
    failed, loaded = [event for event in steps.events if event.step == "stream_finished"]
    assert (retry.data["error"]["kind"], retry.data["error"]["category"]) == ("ConnectionError", "transient")
    assert retry.began < retry.at
    assert failed.data["error"] == {
        "kind": "DataError", "category": "data_quality", "retryable": False, "message": "read: a bad row; fix it",
        "exit_code": 1,
    }  # fmt: skip
    assert (failed.data["status"], failed.data["retries"], report.streams[0].retries) == ("failed", 1, 1)
    assert (loaded.data["status"], loaded.data["error"], loaded.data["rows"]["inserted"]) == ("loaded", None, 10)


def test_one_run_id_from_the_log_to_the_journal(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line of either log, the report, the journal entry and the state name the same run."""
    for number, log in enumerate(("text", "json")):
        project.csv(f"a{number}", rows(number * 10 + 1, number * 10 + 10))
        job = Run(load_pipeline(project.pipeline))
        with observer(job.plugins, log, quiet=False):
            job.execute()
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) > 10
        assert all(job.report.run_id in line for line in lines), lines
        [(journal,)] = project.query("SELECT run_id FROM __dpone__loads WHERE seq = ?", number + 1)
        state = (project.state_bytes() or b"").decode()
        assert (journal, job.report.to_json()["run_id"]) == (job.report.run_id, job.report.run_id)
        assert f'"run_id": "{job.report.run_id}"' in state


def test_an_interrupted_run_tells_its_end(project: Project, faulty: ModuleType) -> None:
    """Whoever listens learns that the run is over, and that it was interrupted."""
    project.csv("a", rows(1, 10))
    faulty.faults["stage"] = [Interrupted("SIGTERM")]
    steps = Steps()
    with pytest.raises(Interrupted):
        run(project.pipeline, plugins=with_plugins(steps, **faulty.PLUGINS))
    ends = [(event.step, event.data["status"]) for event in steps.events[-2:]]
    assert ends == [("stream_finished", "interrupted"), ("run_finished", "interrupted")]


# --- observers of installed plugins ---


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What a hanging observer waits for; the run waits a moment for it."""
    monkeypatch.setattr(observers, "LIMIT", 0.05)
    ends = threading.Event()
    yield ends
    ends.set()


@pytest.mark.parametrize("fault", ["hang", "raise"])
@pytest.mark.parametrize("step", [*STEPS, "retry"])
def test_a_run_ends_as_without_the_observer(
    project: Project, faulty: ModuleType, forever: threading.Event, step: str, fault: str
) -> None:
    """It hangs, or it raises, in each step: the same rows, state and exit code, and one warning that names the step."""
    project = project.but(runtime={"batch_rows": 100, "retries": 1})
    project.csv("a", rows(1, 150))
    faulty.faults["stage"] = [ConnectionResetError("gone")] if step == "retry" else []
    seen: list[str] = []

    def observe(event: Any) -> None:
        seen.append(event.step)
        if event.step == step:
            if fault == "raise":
                raise SystemExit("no")
            forever.wait()

    hook: Any = {"dpone_run_event": observe} if fault == "raise" else {"dpone_observer": lambda pipeline: observe}
    report = run(project.pipeline, plugins=installed(**hook, **faulty.PLUGINS))
    assert (report.exit_code, report.streams[0].warnings) == (0, [])
    assert project.rows() == rows(1, 150)
    assert project.state() == project.head()
    [warning] = report.warnings
    assert warning.startswith(f"observer guest: {'failed at' if fault == 'raise' else 'did not return from'} {step}")
    assert seen[-1] == ("run_finished" if fault == "raise" else step)


def test_an_observer_gets_its_run(project: Project) -> None:
    """It is made once a run, with the streams of the run, and has the finished report at the last event; every event
    comes in its order, and in one thread that is not the run's."""
    project.csv("a", rows(1, 250))
    steps, threads, ends = Steps(), set[str](), list[Any]()

    def observer(report: Any, pipeline: Any) -> Callable[[Any], None]:
        def observe(event: Any) -> None:
            steps.dpone_run_event(event)
            threads.add(threading.current_thread().name)
            if event.step == "run_finished":
                ends.append((report.status, report.streams[0].rows.read, [one.name for one in pipeline.streams]))

        return observe

    run(project.pipeline, plugins=installed(dpone_observer=observer))
    assert ends == [("succeeded", 250, ["t"])]
    assert [one for one in steps.steps if one != "batch"] == [one for one in STEPS if one != "batch"]
    assert threads == {"dpone-observer-guest"}


@pytest.mark.parametrize("answer", [None, RuntimeError("no"), "hang"])
def test_an_observer_that_is_not_made(project: Project, forever: threading.Event, answer: Any) -> None:
    """A plugin may decline to observe a run; one that fails or hangs before the first event changes nothing."""
    project.csv("a", rows(1, 10))

    def observer() -> None:
        if answer == "hang":
            forever.wait()
        if isinstance(answer, Exception):
            raise answer

    report = run(project.pipeline, plugins=installed(dpone_observer=observer))
    assert (report.exit_code, len(report.warnings)) == (0, 0 if answer is None else 1)
    assert project.rows() == rows(1, 10)


def test_an_observer_that_asks_for_more_time_gets_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits ``observer_seconds`` for it instead of the five seconds of everyone."""
    monkeypatch.setattr(observers, "LIMIT", 0.0)
    project.csv("a", rows(1, 10))
    done: list[str] = []

    class Slow:
        observer_seconds = 60.0

        def __call__(self, event: Any) -> None:
            if event.step == "run_finished":
                time.sleep(0.2)
                done.append(event.step)

    report = run(project.pipeline, plugins=installed(dpone_observer=lambda: Slow()))
    assert (done, report.warnings) == (["run_finished"], [])


def test_an_observer_far_behind_is_left_behind(
    project: Project, forever: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for an observer is bounded: one that hangs at the start of a long run keeps no million events."""
    monkeypatch.setattr(observers, "BACKLOG", 5)
    project.csv("a", rows(1, 250))
    report = run(project.pipeline, plugins=installed(dpone_run_event=lambda event: forever.wait()))
    todo = "check what it connects to; the run itself is not affected"
    assert report.warnings == [f"observer guest: is 5 events behind at run_started, and gets no more events; {todo}"]
    assert project.rows() == rows(1, 250)


@pytest.mark.parametrize("at", ["stage", "end"])
def test_a_signal_does_not_wait_for_an_observer(
    project: Project, faulty: ModuleType, forever: threading.Event, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A run that is stopped while an observer hangs ends at once, as interrupted; one whose work is done when the
    signal comes has succeeded."""
    monkeypatch.setattr(observers, "LIMIT", 600.0)
    monkeypatch.setattr(stopping, "MAIN", 0.0)
    project.csv("a", rows(1, 10))

    def signalled(place: str) -> None:
        if place == "stage":
            stopping.begin()
            raise Interrupted("SIGTERM")

    def heard(number: int, frame: Any) -> None:
        stopping.begin()
        raise Interrupted("SIGUSR1")

    def late() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, heard)
    faulty.watch[:] = [signalled] if at == "stage" else []
    timer = threading.Timer(0.2, late)

    def hang(event: Any) -> None:
        if event.step == "run_finished" and at == "end":
            timer.start()
        if event.step == ("stream_started" if at == "stage" else "run_finished"):
            forever.wait()

    try:
        plugins = installed(dpone_run_event=hang, **faulty.PLUGINS)
        if at == "stage":
            with pytest.raises(Interrupted):
                run(project.pipeline, plugins=plugins)
            assert project.rows() == []
        else:
            assert run(project.pipeline, plugins=plugins).status == "succeeded"
            assert project.rows() == rows(1, 10)
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)
        stopping.reset()
