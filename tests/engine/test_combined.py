"""Partitions, row contracts and undo in one pipeline: what each promises holds beside the others."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import ModuleType
from typing import Any

import pytest
from tests.engine.project import KILLED, Project, rows
from tests.engine.test_partitions import at_stage, attempt, files, momentary, partitions, table
from tests.engine.test_row_contracts import bound_by, left_out, numbers, pending

from dpone.connectors.sqlite.sink import SqliteSink
from dpone.engine.undo import undo
from dpone.errors import Conflict, SinkError

OLD = {"on_violation": "quarantine", "ranges": {"id": {"min": 1}}, "quarantine": {"max_share": 1}}
NEW = {**OLD, "ranges": {"id": {"min": 30}}}


def killed(project: Project) -> Project:
    """Killed when two parts were staged."""
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    assert child.returncode == KILLED
    return project


@pytest.mark.parametrize("before", [None, OLD], ids=["none", "another"])
def test_MF_04_mixed_snapshots_is_refused_under_another_contract(project: Project, before: Any) -> None:
    """Parts staged without the rules of today never end in the target: exit 3, sink.contract named. --from-scratch
    helps."""
    project = momentary(project, resume="mixed_snapshots")
    table(project, 1, 100)
    if before:
        bound_by(project, **before)
    killed(project)
    bound_by(project, **NEW)
    error = project.run().streams[0].error
    assert error is not None
    assert (error.kind, error.exit_code) == ("ManifestChanged", 3)
    assert "since then this changed: sink.contract;" in error.message
    assert project.dpone("partitions", "retry", "pipeline.yaml", "--from-scratch").code == 0
    assert project.load().rows.quarantined == 29
    assert project.rows() == rows(30, 100)


def test_a_skip_outlives_no_change_of_the_contract_in_silence(project: Project, faulty: ModuleType) -> None:
    """A partition was skipped, then the contract changes: the run stops rather than forget the skip."""
    files(project)
    bound_by(project, **OLD)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    bad = partitions(project)[1]["id"]
    assert project.dpone("partitions", "skip", "pipeline.yaml", bad, "--reason", "x").code == 0
    bound_by(project, **NEW)
    report = project.run()
    assert report.exit_code == 3
    assert "sink.contract" in str(report.streams[0].error)
    bound_by(project, **OLD)
    assert project.run().streams[0].partitions_skipped == [bad]


def test_a_warning_is_told_once_however_often_the_run_tries(project: Project, faulty: ModuleType) -> None:
    """A transient failure after the skip and the contract were told of: each warning stands in the report once."""
    project = project.but(runtime={"retries": 2})
    files(project)
    bound_by(project, on_violation="warn", ranges={"id": {"min": 2}})
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    bad = partitions(project)[1]["id"]
    assert project.dpone("partitions", "skip", "pipeline.yaml", bad, "--reason", "x").code == 0
    faulty.faults["commit"] = [ConnectionResetError("reset by peer")]
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts) == ("loaded", 2)
    assert len(stream.warnings) == len(set(stream.warnings)) == 2


def test_the_first_of_the_window_stays_though_its_part_was_skipped_for_a_while(
    project: Project, faulty: ModuleType
) -> None:
    """The second of four parts is skipped, the third is staged, the skip is taken back: of a key in both the row of
    the second is loaded, as if nothing had happened."""
    for n in range(4):
        project.csv(f"n{n}", rows(10 * n, 10 * n + 12, tag=str(n)))
    bound_by(project, on_violation="quarantine", unique=["id"], quarantine={"max_share": 1})
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    second = partitions(project)[1]["id"]
    assert project.dpone("partitions", "skip", "pipeline.yaml", second, "--reason", "x").code == 0
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    assert project.dpone("partitions", "retry", "pipeline.yaml", second).code == 0
    stream = project.load()
    assert stream.rows.quarantined == 9
    first = {row[0]: row for n in reversed(range(4)) for row in rows(10 * n, 10 * n + 12, tag=str(n))}
    assert project.rows() == [first[id] for id in sorted(first)]
    assert numbers(project, str(stream.load_id)) == [(n, ["unique.id"]) for _ in range(3) for n in (1, 2, 3)]


def test_what_a_load_left_out_is_shown_though_it_is_taken_back_at_once(project: Project) -> None:
    """Killed after the commit, then undone: the rows it left out are in its folder, none wait to be swept."""
    project = project.but(sink_options={"undo": {"loads": 2}})
    files(project)
    bound_by(project, **NEW)
    with project.child(step="committed") as child:
        child.communicate(timeout=60)
    head = project.head()
    assert head is not None
    undo(project.pipeline, "t", head.load_id)
    assert project.rows() == []
    assert len(left_out(project, head.load_id)) == 29
    assert pending(project) == []
    assert project.load().rows.quarantined == 29


def test_a_runner_that_lost_takes_nothing_from_the_one_that_took_over(project: Project, faulty: ModuleType) -> None:
    """A Conflict ends a run without a trace: the staging and the manifest may be those of the other runner."""
    every = files(project)

    def taken_over(place: str) -> None:
        if place == "commit":
            with closing(sqlite3.connect(project.state_path)) as db, db:
                [(text,)] = db.execute("SELECT manifest FROM __dpone__manifests")
                other = json.dumps({**json.loads(text), "run_id": "01M0000000000000000000000B"})
                db.execute("UPDATE __dpone__manifests SET manifest = ?", (other,))
            raise Conflict("commit", "another runner has taken over", "run again")

    faulty.watch.append(taken_over)
    assert attempt(project, faulty).status == "stopped"
    assert [one["status"] for one in partitions(project)] == ["success"] * 3
    assert "abort" not in faulty.log
    assert project.load().partitions_resumed == 3
    assert project.rows() == every


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_is_told_in_one_line(project: Project, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """No room for the quarantine: SinkError that names its folder and says what to do; nothing is committed."""
    bound_by(project, **NEW)
    files(project)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: bytes) -> int:
            raise full

    class System:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        @contextmanager
        def fdopen(self, *given: Any) -> Iterator[Any]:
            with os.fdopen(*given) as file:
                yield Full(file) if step == "write" else file

        def fsync(self, handle: int) -> None:
            if step == "fsync":
                raise full
            os.fsync(handle)

        def replace(self, *given: Any) -> None:
            if step == "replace":
                raise full
            os.replace(*given)

    monkeypatch.setattr("dpone.quality.quarantine.os", System())
    [stream] = project.run().streams
    assert stream.error is not None
    assert stream.error.kind == "SinkError"
    assert "No space left on device" in stream.error.message
    assert ".dpone/quarantine" in stream.error.message
    assert (project.rows(), project.journal()) == ([], [])


def test_a_quarantine_that_cannot_be_shown_keeps_what_it_holds(project: Project) -> None:
    """The load is committed, and its folder cannot be made: SinkError that says so; the next run shows it."""
    bound_by(project, **NEW)
    files(project)
    folder = project.folder / ".dpone" / "quarantine"
    folder.mkdir(parents=True)
    (folder / "t").write_text("a file")
    [stream] = project.run().streams
    assert stream.error is not None
    assert stream.error.kind == "SinkError"
    assert str(folder) in stream.error.message
    head = project.head()
    assert head is not None
    assert project.state() == head
    (folder / "t").unlink()
    assert project.load().status == "caught_up"
    assert len(left_out(project, head.load_id)) == 29


def test_a_table_that_another_run_has_made_is_not_to_be_dropped(
    project: Project, faulty: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs make the target at once: the later one says to run again, and nothing of dropping."""
    files(project)
    real = SqliteSink.provide

    def late(sink: SqliteSink, load: Any, ddl: Any) -> None:
        sink.apply(ddl)
        real(sink, load, ddl)

    monkeypatch.setattr(SqliteSink, "provide", late)
    stream = attempt(project, faulty)
    assert "already exists; run again" in str(stream.error)
    assert "drop" not in str(stream.error)
    monkeypatch.undo()
    assert project.load().status == "loaded"
