"""``dpone ops sweep``: what no load needs any more goes, on request; a journal's head and what an undo needs stay."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.docs.generate import DOCS
from tests.engine.project import KILLED, Project, memory_folder, rows, zygote
from tests.engine.test_rollback import disk, execute

from dpone.config.reader import load_pipeline
from dpone.connectors.sqlite.state import SqliteState
from dpone.engine.run import run as run_pipeline
from dpone.ops.sweep import Sweep, sweep

SCHEMA = Draft202012Validator(json.loads((DOCS / "reference" / "sweep.schema.json").read_text()))
NOW = timedelta(0)
ID = "01JABCDEFGHJKMNPQRSTVWXYZ0"
ORPHANS = (
    f"__dpone__undo_{ID}", f"__dpone__stage_{ID}_0123abcd", f"__dpone__anew_{ID}_0123abcd",
    "__dpone__stage_0a1b2c_0123abcd",
)  # fmt: skip
NOT_OURS = (
    "__dpone__mine",
    f"orders_{ID}",
    "__dpone__undo_mine",
    "__dpone__stage_of_orders",
    f"__dpone__undo_{ID}_copy",
)


def old(folder: Path) -> Project:
    """Five loads, of which the newest two can be taken back; tables that nobody knows, and some of the user's own."""
    project = Project(folder, {"mode": "merge", "key": ["id"]}, sink_options={"undo": {"loads": 2}}).save()
    for n in range(5):
        project.csv("a", rows(n, n + 3, tag=str(n)))
        project.load()
    with closing(sqlite3.connect(project.database)) as db, db:
        for name in (*ORPHANS, *NOT_OURS):
            db.execute(f"CREATE TABLE {name} (a)")
    return project


def valid(done: Sweep) -> Sweep:
    SCHEMA.validate(json.loads(json.dumps(done.to_json())))
    return done


def found(done: Sweep) -> set[tuple[str, int]]:
    return {(one.kind if one.kind == "journal" else one.name, one.count) for one in done.found}


ALL = {("journal", 2), *((name, 1) for name in ORPHANS)}


def test_a_dry_run_lists_and_deletes_nothing(tmp_path: Path) -> None:
    """What is old by the given age, and the tables; no byte changes, and the first line says that it was a dry run."""
    project = old(tmp_path / "p")
    before = disk(project)
    shown = valid(sweep(project.pipeline, NOW))
    assert (found(shown), disk(project)) == (ALL, before)
    assert shown.to_text().startswith("dry run, nothing was deleted: add --execute to delete; older than ")
    assert {one.left for one in shown.found} == {True}
    assert found(sweep(project.pipeline, timedelta(days=1))) == ALL - {("journal", 2)}
    assert disk(project) == before


def test_what_was_swept_is_gone_and_nothing_else(tmp_path: Path) -> None:
    """Head, undo and the tables of others stay: both loads can still be taken back, and a run goes on."""
    project = old(tmp_path / "p")
    entries, stood = project.journal(), project.lineage()
    done = valid(sweep(project.pipeline, NOW, execute=True))
    assert (found(done), {one.left for one in done.found}, done.ok) == (ALL, {False}, True)
    assert project.journal() == entries[2:]
    assert project.lineage() == stood
    assert {*ORPHANS} & {*project.tables()} == set()
    assert {*NOT_OURS} <= {*project.tables()}
    assert sweep(project.pipeline, NOW).found == ()
    for entry in reversed(entries[3:]):
        assert execute(project, entry.load_id).ok
    assert project.load().status == "loaded"


def test_a_table_of_an_open_load_is_not_swept(tmp_path: Path) -> None:
    """The registry knows it, whichever key it is of."""
    project = old(tmp_path / "p")
    line = (ORPHANS[1], "another|key|of|all", "01J", "", "2020-01-01T00:00:00.000000+00:00", 0)
    with closing(sqlite3.connect(project.database)) as db, db:
        db.execute('INSERT INTO __dpone__staging (stage, "key", load_id, token, created_at, "unique") '
                   "VALUES (?, ?, ?, ?, ?, ?)", line)  # fmt: skip
    sweep(project.pipeline, NOW, execute=True)
    assert [name for name in ORPHANS if name in project.tables()] == [line[0]]


def test_quarantined_rows_go_by_their_age(tmp_path: Path) -> None:
    """Folders of committed loads that are older; what a link leads to is not touched."""
    project = Project(tmp_path / "p", {"mode": "append"}).save()
    data = yaml.safe_load(project.pipeline.read_text())
    data["sink"]["contract"] = {
        "ranges": {"id": {"min": 1}},
        "on_violation": "quarantine",
        "quarantine": {"max_share": 1},
    }
    project.pipeline.write_text(yaml.safe_dump(data))
    for n in range(2):
        project.csv(str(n), rows(-1 - n, n + 5))
        project.load()
    place = project.folder / ".dpone" / "quarantine" / "t"
    first, second = sorted(place.iterdir(), key=lambda path: path.name)
    os.utime(first, (0, 0))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    (place / "link").symlink_to(outside)
    os.utime(outside, (0, 0))
    age = timedelta(days=1)
    assert [one.name for one in valid(sweep(project.pipeline, age)).found] == [str(first)]
    done = sweep(project.pipeline, age, execute=True)
    assert (done.ok, first.exists(), second.exists(), (outside / "file").exists()) == (True, False, True, True)


def test_a_stream_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Its lock is held: it is skipped by name, and the exit code tells."""
    project = old(tmp_path / "p")
    pipeline = load_pipeline(project.pipeline)
    key = pipeline.streams[0].key(pipeline.name)
    with closing(SqliteState(pipeline.state)) as state, state.lock(key, 60):
        done = valid(sweep(project.pipeline, NOW, execute=True))
    assert (done.found, done.ok, [name for name, _ in done.skipped]) == ((), False, ["t"])
    assert len(project.journal()) == 5


def test_what_could_not_be_deleted_is_not_reported_as_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at again after the sweep."""
    project = old(tmp_path / "p")
    monkeypatch.setattr("dpone.connectors.sqlite.database.SqliteDatabase.drop", lambda *_, **__: None)
    done = sweep(project.pipeline, NOW, execute=True)
    assert {one.name for one in done.found if one.left} == {*ORPHANS}
    assert (done.ok, f"STILL THERE  t: table {ORPHANS[0]}" in done.to_text()) == (False, True)


def test_a_sink_with_nothing_to_sweep_says_so(tmp_path: Path) -> None:
    """A folder of files: its manifest has the heads alone."""
    project = Project(tmp_path / "p", target="file", state_type="file").save()
    project.csv("a", rows(1, 3))
    project.load()
    done = valid(sweep(project.pipeline, NOW, execute=True))
    assert (done.ok, done.found) == (True, ())
    assert done.skipped == (("out", "file keeps no old journal entries and no tables"),)


def test_the_command(tmp_path: Path) -> None:
    """The pipeline of the folder by default; a dry run without --execute; an age that is none is a usage error."""
    project = old(tmp_path / "p")
    shown = project.dpone("ops", "sweep", "--older-than", "0s", "--format", "json")
    assert (shown.code, shown.json["executed"], len(shown.json["found"])) == (0, False, len(ALL))
    SCHEMA.validate(shown.json)
    for age, said in (
        ("soon", "is not a duration; write a number and s, m, h or d, as in 90d"),
        ("36500d", "is too long;"),
    ):
        bad = project.dpone("ops", "sweep", "--older-than", age)
        assert (bad.code, f"invalid value for '--older-than': '{age}' {said}" in bad.err) == (2, True)
    done = project.dpone("ops", "sweep", "--older-than", "0s", "--execute")
    assert (done.code, done.out.splitlines()[0].startswith("swept; older than ")) == (0, True)
    assert len(project.journal()) == 3


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Mapping[str, Any]]]:
    with zygote() as forked:
        yield forked


def test_a_sweep_that_was_killed_is_repeated(run: Callable[..., Any]) -> None:
    """SIGKILL before statements of it: rows and head are as they were, and the next call does the rest."""
    with memory_folder() as folder:
        start = old(folder / "start")
        stood, head = start.lineage(), start.head()

        def fresh(name: str) -> Project:
            shutil.copytree(start.folder, folder / name)
            return start.but(folder=folder / name)

        count = int(run(fresh("free"), sweep=True, statement=10**9)["count"])
        for n in range(1, count + 1, max(1, count // 12)):
            project = fresh(str(n))
            assert run(project, sweep=True, statement=n)["code"] == KILLED
            assert sweep(project.pipeline, NOW, execute=True).ok
            assert (project.lineage(), project.head(), len(project.journal())) == (stood, head, 3)
            assert {*ORPHANS} & {*project.tables()} == set()
            assert run_pipeline(project.pipeline).exit_code == 0
