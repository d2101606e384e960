"""Two runners of one stream: a suspended one that wakes up too late, and one that comes while the other is at work."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.project import Project, mark, rows
from tests.patience import until

SHORT = {"lease_seconds": 0.2}


def suspended(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def suspend() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a run and suspend it at a step."""
    started: list[subprocess.Popen[str]] = []

    def start(project: Project, step: str, nth: int = 1) -> subprocess.Popen[str]:
        process = project.child(step=step, nth=nth, signal="STOP")
        started.append(process)
        until(lambda: suspended(process), f"{step} {nth}")
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def resume(process: subprocess.Popen[str]) -> tuple[int, Any]:
    """Let it go on to its end; answers exit code and the stream's report."""
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert out, err
    return process.returncode, json.loads(out)["report"]["streams"][0]


def load_when_free(project: Project, **options: Any) -> Any:
    """Load as soon as the lease of the suspended runner has ended."""
    found: list[Any] = []

    def loaded() -> bool:
        [stream] = project.run(**options).streams
        if stream.error is not None and stream.error.kind == "Busy":
            return False
        assert stream.error is None, stream.error
        found.append(stream)
        return True

    until(loaded, "the lease did not end")
    return found[0]


def everything(project: Project) -> tuple[Any, ...]:
    return project.state_bytes(), project.journal(), project.lineage(), project.staging()


def prepared(folder: Path, target: str, mode: str) -> Project:
    strategy = {"mode": mode, **({"key": ["id"]} if mode == "merge" else {})}
    state = "sqlite" if target == "sqlite" else "file"
    project = Project(folder, strategy, target, state, state_options=SHORT).save()
    project.csv("a", rows(1, 250))
    project.load()
    project.csv("b", rows(251, 400))
    project.csv("c", rows(401, 600))
    return project


KINDS = [
    *(("sqlite", m) for m in ("append", "merge", "full_refresh")),
    *(("file", m) for m in ("append", "full_refresh")),
]


@pytest.mark.parametrize(("target", "mode"), KINDS)
def test_a_suspended_runner_loses_at_the_fence(
    tmp_path: Path, suspend: Callable[..., Any], target: str, mode: str
) -> None:
    """Suspended after staging, its lease taken over: when it goes on it writes nothing anywhere and says Conflict."""
    project = prepared(tmp_path / "p", target, mode)
    one = suspend(project, "staged")
    other = load_when_free(project)
    before = everything(project)
    code, stream = resume(one)
    assert (code, stream["status"], stream["error"]["kind"]) == (3, "stopped", "Conflict")
    assert stream["attempts"] == 1
    assert everything(project) == before
    assert project.rows() == rows(1, 600)
    assert project.state() == project.head()
    assert mark(project.head()) == (0, 2)
    assert other.rows.inserted == (600 if mode == "full_refresh" else 350)


@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("step", ["locked", "recovered", "window_fixed", "commit_started"])
def test_a_suspended_runner_writes_nothing_wherever_it_slept(
    tmp_path: Path, suspend: Callable[..., Any], target: str, step: str
) -> None:
    """At every step before the commit: the other's rows stand, each once, and the state is the other's."""
    project = prepared(tmp_path / "p", target, "append")
    one = suspend(project, step)
    load_when_free(project)
    before = everything(project)
    code, stream = resume(one)
    # Before it has read the journal, a runner may find that there is nothing left to do.
    assert code in ((0,) if step == "locked" else (3,)), stream
    assert everything(project) == before
    assert project.rows() == rows(1, 600)


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_a_runner_suspended_between_two_parts_writes_nothing(
    tmp_path: Path, suspend: Callable[..., Any], target: str
) -> None:
    """The other runner goes on with the staged part; the first finds its staging gone and fails."""
    project = prepared(tmp_path / "p", target, "append")
    one = suspend(project, "part_staged")
    other = load_when_free(project)
    assert other.partitions_resumed == 1
    before = everything(project)
    code, stream = resume(one)
    assert code in (1, 3), stream
    assert everything(project) == before
    assert project.rows() == rows(1, 600)


def test_a_runner_suspended_while_it_writes_a_part_alters_no_file(tmp_path: Path, suspend: Callable[..., Any]) -> None:
    """A file that was open when the runner was suspended is not the one the other runner made a part of the target."""
    project = prepared(tmp_path / "p", "file", "append").but(sink_options={"format": "csv"})
    one = suspend(project, "batch")
    load_when_free(project)
    resume(one)
    for file in project.manifest()["files"]:
        content = (project.out / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file["name"]
    assert project.rows() == rows(1, 600)
    assert project.load().status == "caught_up"


@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("step", ["load_opened", "part_staged"])
def test_a_runner_whose_staging_was_swept_commits_nothing(
    tmp_path: Path, suspend: Callable[..., Any], target: str, step: str
) -> None:
    """A new file arrived, so the other runner's load is another: the first, awake before that one commits, must not
    commit a load whose rows are gone."""
    project = prepared(tmp_path / "p", target, "append")
    one = suspend(project, "staged")
    project.csv("d", rows(601, 700))
    time.sleep(0.2)
    other = suspend(project, step)
    before = project.state_bytes(), project.journal(), project.rows()
    code, stream = resume(one)
    assert code in (1, 3), stream
    assert (project.state_bytes(), project.journal(), project.rows()) == before
    code, stream = resume(other)
    assert code == 0, stream
    assert project.rows() == rows(1, 700)


def test_a_runner_that_wakes_up_while_the_other_stages_does_it_no_harm(
    tmp_path: Path, suspend: Callable[..., Any]
) -> None:
    """Both are between their parts, then the first goes on and fails: the second still ends well."""
    project = prepared(tmp_path / "p", "file", "append")
    one = suspend(project, "part_staged")
    time.sleep(0.2)
    other = suspend(project, "part_staged", 1)
    resume(one)
    code, stream = resume(other)
    assert code == 0, stream
    assert project.rows() == rows(1, 600)
    assert project.state() == project.head()


def test_a_runner_suspended_after_its_commit_takes_nothing_back(tmp_path: Path, suspend: Callable[..., Any]) -> None:
    """Its load counts; the state that another runner saved since stays as it is."""
    project = prepared(tmp_path / "p", "sqlite", "append")
    one = suspend(project, "committed")
    project.csv("d", rows(601, 700))
    other = load_when_free(project)
    assert other.rows.inserted == 100
    before = everything(project)
    code, stream = resume(one)
    assert (code, stream["error"]["kind"]) == (3, "Conflict")
    assert everything(project) == before
    assert project.rows() == rows(1, 700)
    assert mark(project.state()) == (0, 3)


@pytest.mark.parametrize("state", ["sqlite", "file"])
def test_ST_02_a_second_runner_is_told_who_is_at_work(
    tmp_path: Path, suspend: Callable[..., Any], pauses: list[float], state: str
) -> None:
    """Two at once: the second waits for its retries, then fails, naming the process that holds the lock."""
    project = Project(tmp_path / "p", state_type=state, runtime={"retries": 2}).save()
    project.csv("a", rows(1, 250))
    one = suspend(project, "staged")
    report = project.run()
    [stream] = report.streams
    assert report.exit_code == 1
    assert stream.error is not None
    assert (stream.error.kind, stream.error.retryable, stream.attempts) == ("Busy", True, 3)
    assert str(one.pid) in stream.error.message
    assert len(pauses) == 2
    assert project.rows() == []
    code, _ = resume(one)
    assert code == 0
    assert project.rows() == rows(1, 250)


@pytest.mark.parametrize("state", ["sqlite", "file"])
def test_ST_02_the_lock_of_a_dead_runner_is_taken_over_at_once(
    tmp_path: Path, suspend: Callable[..., Any], state: str
) -> None:
    """A process that is gone holds nothing, however long its lease."""
    project = Project(tmp_path / "p", state_type=state, state_options={"lease_seconds": 3600}).save()
    project.csv("a", rows(1, 250))
    one = suspend(project, "staged")
    one.kill()
    one.communicate()
    assert project.load().rows.inserted == 250
