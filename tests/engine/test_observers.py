"""What an observer is told, and that it changes nothing."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from tests.engine.project import Project, Steps, rows, with_plugins

from dpone.engine.run import run
from dpone.errors import Interrupted
from dpone.hookspecs import hookimpl
from dpone.model.events import STEPS


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
    assert len(stream.warnings) == 1
    assert "run_started" in stream.warnings[0]
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


def test_an_interrupted_run_tells_its_end(project: Project, faulty: ModuleType) -> None:
    """Whoever listens learns that the run is over, and that it was interrupted."""
    project.csv("a", rows(1, 10))
    faulty.faults["stage"] = [Interrupted("SIGTERM")]
    steps = Steps()
    with pytest.raises(Interrupted):
        run(project.pipeline, plugins=with_plugins(steps, **faulty.PLUGINS))
    assert (steps.events[-1].step, steps.events[-1].data["status"]) == ("run_finished", "interrupted")
