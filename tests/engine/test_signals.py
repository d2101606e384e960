"""SIGINT and SIGTERM at a running ``dpone run``."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.engine.project import Done, Project, mark, rows

SIGNALS = ["INT", "TERM"]


def waiting(folder: Path, target: str, mode: str) -> Project:
    """With one load done and two files waiting."""
    state = "sqlite" if target == "sqlite" else "file"
    project = Project(folder, {"mode": mode, **({"key": ["id"]} if mode == "merge" else {})}, target, state).save()
    project.csv("a", rows(1, 250))
    project.load()
    project.csv("b", rows(251, 400))
    project.csv("c", rows(401, 600))
    return project


def require_whole(project: Project, done: Done) -> None:
    """Exit 130 in few words, target as before or fully loaded, state not ahead; the next run brings the rest."""
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert project.rows() in (rows(1, 250), rows(1, 600))
    assert mark(project.state()) <= mark(project.head())
    assert project.staging() == [] or project.target == "file"  # the next load sweeps a folder
    if project.load().status == "loaded":
        assert project.staging() == []
    assert project.rows() == rows(1, 600)
    assert project.state() == project.head()
    assert mark(project.head()) == (0, 2)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(
    "trap", [{"step": "recovered"}, {"step": "batch", "nth": 2}, {"step": "part_started", "nth": 2}], ids=str
)
def test_a_signal_before_the_commit_leaves_the_target_as_it_was(
    tmp_path: Path, trap: dict[str, Any], name: str
) -> None:
    """In the middle of staging: exit 130, the rows of before, and nothing of the load is left behind."""
    project = waiting(tmp_path / "p", "sqlite", "append")
    before = project.state_bytes(), project.journal()
    done = project.dpone("run", "pipeline.yaml", "-q", trap={**trap, "signal": name})
    assert project.rows() == rows(1, 250)
    assert (project.state_bytes(), project.journal()) == before
    require_whole(project, done)


@pytest.mark.parametrize(
    ("target", "mode", "n"),
    [
        *(("sqlite", "merge", n) for n in (1, 4, 7)),
        *(("sqlite", "full_refresh", n) for n in (2, 5)),
        *(("file", "append", n) for n in (1, 5, 10)),
    ],
)
def test_a_signal_inside_the_commit_leaves_all_or_nothing(tmp_path: Path, target: str, mode: str, n: int) -> None:
    """Between two statements, or two renames, of the commit: the old rows or the new ones, never some."""
    project = waiting(tmp_path / "p", target, mode)
    what = "execute" if target == "sqlite" else "call"
    done = project.dpone("run", "pipeline.yaml", "-q", trap={what: n, "signal": "TERM"})
    require_whole(project, done)


@pytest.mark.parametrize("step", ["committed", "state_saved", "acknowledged"])
def test_a_signal_after_the_commit_takes_nothing_back(tmp_path: Path, step: str) -> None:
    """The load stands; the next run has at most a position to copy."""
    project = waiting(tmp_path / "p", "sqlite", "append")
    done = project.dpone("run", "pipeline.yaml", "-q", trap={"step": step, "signal": "INT"})
    assert project.rows() == rows(1, 600)
    require_whole(project, done)


def test_an_interrupted_run_says_so_in_one_line(tmp_path: Path) -> None:
    """Without events, an operator reads that the stream was interrupted, and at most one line of errors."""
    project = waiting(tmp_path / "p", "sqlite", "append")
    done = project.dpone("run", "pipeline.yaml", "-q", trap={"step": "batch", "signal": "INT"})
    assert len(done.err.splitlines()) <= 1
    assert "interrupted" in done.out


@pytest.mark.parametrize("name", SIGNALS)
def test_an_interrupted_run_still_reports_json(tmp_path: Path, name: str) -> None:
    """--format json: one valid object on stdout, status interrupted, exit code in it; the same in --report."""
    project = waiting(tmp_path / "p", "sqlite", "append")
    args = ("run", "pipeline.yaml", "--format", "json", "--report", "report.json")
    done = project.dpone(*args, trap={"step": "batch", "signal": name})
    assert done.json["status"] == "interrupted"
    assert done.json["exit_code"] == 130
    assert [stream["status"] for stream in done.json["streams"]] == ["interrupted"]
    assert json.loads((project.folder / "report.json").read_text()) == done.json
    require_whole(project, done)


def test_streams_after_the_interrupted_one_stay_pending(tmp_path: Path) -> None:
    """A signal ends the run, not only the stream it found."""
    project = waiting(tmp_path / "p", "sqlite", "append")
    project.two_streams()
    done = project.dpone("run", "pipeline.yaml", "--format", "json", trap={"step": "batch", "signal": "TERM"})
    assert [stream["status"] for stream in done.json["streams"]] == ["interrupted", "pending"]


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_from_outside_is_obeyed_at_once(tmp_path: Path, name: str) -> None:
    """Sent by another process while a long part is staged, wherever that finds it."""
    project = Project(tmp_path / "p", runtime={"batch_rows": 1000, "retries": 0}).save()
    project.csv("a", rows(1, 250))
    project.load()
    project.csv("b", rows(251, 200_000))
    with project.start("run", "pipeline.yaml") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "part_started" in line:
                process.send_signal(getattr(signal, f"SIG{name}"))
                break
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert project.rows() == rows(1, 250)
    assert project.staging() == []
    assert project.load().rows.inserted == 199_750
