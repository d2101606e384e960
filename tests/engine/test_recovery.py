"""What a run makes of a journal and a state that disagree, of answers that are lost, and of failures half way."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.engine.project import Entry as OnDisk
from tests.engine.project import Project, Steps, mark, rows, with_plugins

from dpone.config.reader import load_pipeline
from dpone.contract import Entry, Versioned
from dpone.engine.recovery import entry_of, journal_of, state_of
from dpone.engine.rewind import rewind
from dpone.engine.run import Run, run
from dpone.errors import Category, Conflict, DataError, Interrupted, SinkError, SourceError, StateError
from dpone.hookspecs import hookimpl
from dpone.model.events import RunEvent
from dpone.model.position import Position


def attempt(project: Project, faulty: ModuleType, **options: Any) -> Any:
    """Run with the faulty connectors; answers the stream's report."""
    [stream] = run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS), **options).streams
    return stream


def loaded(project: Project, **changes: Any) -> Project:
    """With one load done and another file waiting."""
    project = project.but(**changes)
    project.csv("a", rows(1, 250))
    project.load()
    project.csv("b", rows(251, 400))
    return project


def forget_state(project: Project) -> None:
    with closing(sqlite3.connect(project.state_path)) as db, db:
        db.execute("DELETE FROM __dpone__state")


def write_state(project: Project, change: Any) -> None:
    """Replace the state's value by what ``change`` makes of it."""
    with closing(sqlite3.connect(project.state_path)) as db, db:
        [(text,)] = db.execute("SELECT value FROM __dpone__state").fetchall()
        value = change(json.loads(text))
        db.execute("UPDATE __dpone__state SET value = ?", (value if isinstance(value, str) else json.dumps(value),))


def require_same(project: Project, before: tuple[Any, ...]) -> None:
    assert (project.state_bytes(), project.journal(), project.rows()) == before


def snapshot(project: Project) -> tuple[Any, ...]:
    return project.state_bytes(), project.journal(), project.rows()


# -- law 1 --------------------------------------------------------------------------------------------------------


def test_a_state_has_the_names_it_always_had() -> None:
    """A later version goes on from what an earlier one saved: a copy of the journal's head, and with ``journal`` the
    head itself, where the sink keeps none."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    position = Position("files", {"path": "x"}, {"n": 1}, 2)
    entry = Entry(3, 2, "LOAD", "RUN", "TOKEN", position, at, {"inserted": 4})
    saved = {
        "format": 1, "seq": 3, "load_id": "LOAD", "run_id": "RUN",
        "position": {"format": 1, "kind": "files", "epoch": 2, "identity": {"path": "x"}, "value": {"n": 1}},
    }  # fmt: skip
    journal = {"token": "TOKEN", "committed_at": "2026-01-02T03:04:05+00:00", "rows": {"inserted": 4}}
    assert state_of(entry) == saved
    assert journal_of(entry) == {**saved, "journal": journal}
    later = at + timedelta(1)
    assert entry_of(Versioned({**saved, "journal": journal}, 1, later)) == entry
    assert entry_of(Versioned(saved, 1, later)) == Entry(3, 2, "LOAD", "RUN", "", position, later, {})


def test_the_sink_commits_before_the_state_and_the_state_before_the_acknowledgement(
    project: Project, faulty: ModuleType
) -> None:
    """When the state is saved the journal has the load; when the source is told, journal and state both have it."""
    seen: dict[str, tuple[OnDisk | None, OnDisk | None]] = {}
    faulty.watch.append(lambda place: seen.setdefault(place, (project.head(), project.state())))
    project.csv("a", rows(1, 10))
    stream = attempt(project, faulty)
    order = [place for place in faulty.log if place in ("commit", "save", "saved", "ack")]
    assert order == ["commit", "save", "saved", "ack"]
    head = project.head()
    assert seen["commit"] == (None, None)
    assert seen["save"] == (head, None)
    assert seen["ack"] == (head, head)
    assert head is not None
    assert head.load_id == stream.load_id


def test_a_position_that_was_never_acknowledged_is_acknowledged_by_the_next_run(
    project: Project, faulty: ModuleType
) -> None:
    """A run that ends between saving the state and the acknowledgement leaves it to the next, which has no rows."""
    project.csv("a", rows(1, 10))
    faulty.faults["ack"] = [SourceError("acknowledge", "no", "wait")]
    assert attempt(project, faulty).status == "failed"
    faulty.log.clear()
    assert attempt(project, faulty).status == "caught_up"
    assert faulty.log.count("ack") == 1


def test_nothing_is_acknowledged_by_a_run_that_fails_or_plans(project: Project, faulty: ModuleType) -> None:
    """Neither a failed load nor a dry run acknowledges anything."""
    project = loaded(project)
    faulty.faults["stage"] = [SinkError("write", "no", "wait")]
    assert attempt(project, faulty).status == "failed"
    assert attempt(project, faulty, dry_run=True).status == "planned"
    assert "ack" not in faulty.log


# -- journal and state disagree ---------------------------------------------------------------------------------


def test_LS_05_a_journal_ahead_of_the_state_is_adopted(project: Project, faulty: ModuleType) -> None:
    """The save was lost: the next run copies the journal's head and loads nothing again."""
    project.csv("a", rows(1, 250))
    faulty.faults["save"] = [StateError("save", "no", "wait")]
    assert attempt(project, faulty).status == "failed"
    assert project.state() is None
    assert project.rows() == rows(1, 250)
    stream = project.load()
    assert stream.status == "caught_up"
    assert project.state() == project.head()
    assert project.rows() == rows(1, 250)


def test_LS_05_a_lost_state_is_taken_from_the_journal(project: Project) -> None:
    """A state that is gone is no reason to load again what the journal holds."""
    project = loaded(project)
    shutil.rmtree(project.state_path.parent)
    stream = project.load()
    assert stream.rows.inserted == 150
    assert project.rows() == rows(1, 400)
    assert project.state() == project.head()


def restored(project: Project) -> Project:
    """The target was put back to before its second load; the state was not."""
    project = loaded(project)
    copy = project.folder / "copy.db"
    shutil.copy(project.database, copy)
    project.load()
    shutil.copy(copy, project.database)
    return project


def test_ST_01_a_state_ahead_of_the_journal_stops_every_run(project: Project) -> None:
    """A target restored from a copy: exit 3 by name, state and target untouched, however often it is tried."""
    project = restored(project)
    before = snapshot(project)
    for _ in range(3):
        report = project.run()
        [stream] = report.streams
        assert report.exit_code == 3
        assert stream.error is not None
        assert stream.error.kind == "StateAhead"
        assert "--full-refresh" in stream.error.message
        assert stream.attempts == 1
        require_same(project, before)


def test_ST_01_a_target_that_is_gone_stops_the_run(project: Project) -> None:
    """The state says loaded, the target does not exist: nothing is guessed."""
    project = loaded(project)
    before = project.state_bytes()
    project.database.unlink()
    [stream] = project.run().streams
    assert stream.error is not None
    assert stream.error.kind == "StateAhead"
    assert project.state_bytes() == before
    assert project.rows() == []


def test_full_refresh_mends_a_state_ahead_of_the_journal(project: Project) -> None:
    """--full-refresh starts a new epoch above all that state and journal know."""
    project = restored(project)
    stream = project.load(full_refresh=True)
    assert stream.status == "loaded"
    assert project.rows() == rows(1, 400)
    head = project.head()
    assert head is not None
    assert head.epoch == 1
    assert project.state() == head
    assert project.load().status == "caught_up"


def test_a_new_epoch_is_adopted_even_where_the_state_counts_further(project: Project, faulty: ModuleType) -> None:
    """The target was made anew and its save was lost: a newer epoch of the journal counts more than a higher seq."""
    project = loaded(project)
    project.load()
    project.database.unlink()
    faulty.faults["save"] = [StateError("save", "no", "wait")]
    assert attempt(project, faulty, full_refresh=True).status == "failed"
    assert mark(project.head()) == (1, 1)
    assert mark(project.state()) == (0, 2)
    assert project.load().status == "caught_up"
    assert project.state() == project.head()
    assert project.rows() == rows(1, 400)


def test_ST_01_the_same_seq_of_another_load_stops_the_run(project: Project) -> None:
    """Journal and state that name different loads under one number are not of one history."""
    project = loaded(project)
    write_state(project, lambda value: {**value, "load_id": "0" * 26})
    before = snapshot(project)
    report = project.run()
    assert report.exit_code == 3
    assert report.streams[0].error is not None
    assert report.streams[0].error.kind == "StateAhead"
    require_same(project, before)


def _with_position(**changes: Any) -> Any:
    return lambda value: {**value, "position": {**value["position"], **changes}}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param(lambda v: {**v, "format": 2}, "format 2", id="newer format of the state"),
        pytest.param(_with_position(format=2), "format 2", id="newer format of the position"),
        pytest.param(lambda v: {**v, "seq": "one"}, "seq", id="seq is a text"),
        pytest.param(lambda v: {k: x for k, x in v.items() if k != "seq"}, "seq", id="no seq"),
        pytest.param(lambda v: {**v, "position": None}, "position", id="no position"),
        pytest.param(_with_position(epoch=-1), "epoch", id="an epoch below zero"),
        pytest.param(lambda v: "{", "JSON", id="not JSON"),
        pytest.param(lambda v: "[]", "", id="no object"),
    ],
)
def test_ST_03_a_state_that_cannot_be_read_stops_the_run(project: Project, change: Any, word: str) -> None:
    """A damaged state, or one of a newer format, is an error with a way out, never a fresh start."""
    project = loaded(project)
    write_state(project, change)
    before = snapshot(project)
    report = project.run()
    [stream] = report.streams
    assert report.exit_code == 1
    assert stream.error is not None
    assert stream.error.kind == "StateError", stream.error
    assert word in stream.error.message
    assert stream.attempts == 1
    require_same(project, before)


@pytest.mark.parametrize("way", ["rewind", "full_refresh"])
def test_ST_03_a_damaged_position_is_mended_by_a_new_one(project: Project, way: str) -> None:
    """What the error says helps: state set or --full-refresh start a new epoch over a damaged value."""
    project = loaded(project, strategy={"mode": "merge", "key": ["id"]})
    write_state(project, lambda value: {**value, "position": None, "seq": "one"})
    if way == "rewind":
        rewind(load_pipeline(project.pipeline), "t", None)
        project.load()
    else:
        project.load(full_refresh=True)
    assert project.rows() == rows(1, 400)
    assert project.state() == project.head()


def filled(project: Project) -> None:
    """A table with a row of somebody else's."""
    with closing(sqlite3.connect(project.database)) as db, db:
        db.execute("CREATE TABLE t (id INTEGER, day INTEGER, name TEXT, note TEXT)")
        db.execute("INSERT INTO t VALUES (9000, 1, 'theirs', NULL)")


def test_ST_04_rows_that_nothing_explains_stop_the_run(project: Project) -> None:
    """A target with rows, neither journal nor state: a decision is asked for, and nothing is changed."""
    filled(project)
    project.csv("a", rows(1, 10))
    tables = project.tables()
    report = project.run()
    [stream] = report.streams
    assert report.exit_code == 3
    assert stream.error is not None
    assert stream.error.kind == "StateMissing"
    assert "adopt_existing" in stream.error.message
    assert project.query("SELECT * FROM t") == [(9000, 1, "theirs", None)]
    assert project.tables() == tables
    assert project.state() is None


MISSPELT: Mapping[str, Mapping[str, Any]] = {
    "file": {"type": "file", "path": "dat/*.csv"},
    "table": {"type": "sqlite", "connection": "sqlite:///other.db", "table": "ordres"},
    "query": {"type": "sqlite", "connection": "sqlite:///other.db", "query": "SELECT * FROM ordres"},
}


@pytest.mark.parametrize("dry_run", [False, True], ids=["run", "plan"])
@pytest.mark.parametrize("source", MISSPELT.values(), ids=MISSPELT)
def test_ST_04_a_misspelt_source_is_said_before_the_target(
    project: Project, source: Mapping[str, Any], dry_run: bool
) -> None:
    """A source that is not there, and a target with rows of somebody else: the message is of the source, since no
    decision about the target would help, and nothing is changed."""
    filled(project)
    project.csv("a", rows(1, 10))
    with closing(sqlite3.connect(project.folder / "other.db")) as db:
        db.execute("CREATE TABLE orders (id INTEGER)")
    tables = project.tables()
    [stream] = project.but(source=source).run(dry_run=dry_run).streams
    assert stream.error is not None
    message = stream.error.message
    assert "dat/*.csv" in message or "ordres" in message
    assert "adopt_existing" not in message
    assert project.query("SELECT * FROM t") == [(9000, 1, "theirs", None)]
    assert project.tables() == tables
    assert project.state() is None


def test_ST_04_adopt_existing_adds_to_what_is_there(project: Project) -> None:
    """The stated decision: the rows stay and ours are added."""
    filled(project)
    project.csv("a", rows(1, 10))
    project = project.but(sink_options={"adopt_existing": True})
    assert project.load().rows.inserted == 10
    assert project.rows() == [*rows(1, 10), (9000, 1, "theirs", None)]


@pytest.mark.parametrize("way", ["option", "strategy"])
def test_ST_04_a_full_refresh_replaces_what_is_there(project: Project, way: str) -> None:
    """--full-refresh and the strategy of that name are decisions, too."""
    filled(project)
    project.csv("a", rows(1, 10))
    project = project.but(strategy={"mode": "full_refresh"} if way == "strategy" else {"mode": "append"})
    project.load(full_refresh=way == "option")
    assert project.rows() == rows(1, 10)


# -- rewinds ----------------------------------------------------------------------------------------------------


def test_rewind_starts_a_new_epoch_in_journal_and_state(project: Project) -> None:
    """`state set` to the beginning: an entry without rows, then every file is read again."""
    project = loaded(project, strategy={"mode": "merge", "key": ["id"]})
    rewind(load_pipeline(project.pipeline), "t", None)
    head = project.head()
    assert mark(head) == (1, 2)
    assert head is not None
    assert head.position["kind"] == "start"  # the word of every version
    assert project.state() == head
    assert project.rows() == rows(1, 250)
    stream = project.load()
    assert (stream.rows.read, stream.rows.inserted, stream.rows.unchanged) == (400, 150, 250)
    assert mark(project.head()) == (1, 3)
    assert project.state() == project.head()


def test_rewind_to_a_position_reads_what_follows_it(project: Project) -> None:
    """After a rewind to the first load, the second file is read again, and only that."""
    project = loaded(project)
    first = project.head()
    assert first is not None
    project.load()
    rewind(load_pipeline(project.pipeline), "t", Position.from_json(first.position))
    stream = project.load()
    assert stream.rows.inserted == 150
    assert project.rows() == sorted(rows(1, 250) + rows(251, 400) * 2, key=lambda r: r[0])


@pytest.mark.parametrize("how", ["rewind", "full_refresh"])
def test_a_runner_from_before_a_rewind_conflicts(project: Project, faulty: ModuleType, how: str) -> None:
    """A run that was under way when the epoch changed commits nothing."""
    project = loaded(project, state_options={"lease_seconds": 0.1})
    faulty.faults["renew"] = [Conflict("renew", "no", "no")]  # it is never renewed, as if the process had slept
    done: list[Any] = []

    def meanwhile(place: str) -> None:
        if place == "commit" and not done:
            done.append(None)
            threading.Event().wait(0.12)
            if how == "rewind":
                rewind(load_pipeline(project.pipeline), "t", None)
            else:
                project.load(full_refresh=True)
            done.append(snapshot(project))

    faulty.watch.append(meanwhile)
    stream = attempt(project, faulty)
    assert stream.status == "stopped"
    assert stream.error is not None
    assert stream.error.kind == "Conflict"
    require_same(project, done[1])


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_full_refresh_of_a_growing_target_leaves_the_source_alone(project: Project, mode: str) -> None:
    """--full-refresh of append and merge replaces the rows: those that the source no longer has are gone."""
    project = project.but(strategy={"mode": mode, **({"key": ["id"]} if mode == "merge" else {})})
    project.csv("a", rows(1, 250))
    project.load()
    project.csv("a", rows(100, 120))
    project.load(full_refresh=True)
    assert project.rows() == rows(100, 120)


def test_LS_04_two_full_refreshes_of_one_content_leave_it_once(project: Project) -> None:
    """The same generation twice replaces itself; nothing is wiped and nothing is doubled."""
    project = loaded(project, strategy={"mode": "full_refresh"})
    project.load(full_refresh=True)
    project.load(full_refresh=True)
    assert project.rows() == rows(1, 400)
    assert mark(project.head()) == (2, 3)
    assert {row[-1] for row in project.lineage()} == {project.journal()[-1].load_id}


def test_LS_03_a_full_refresh_that_was_cut_short_mixes_no_generations(project: Project, faulty: ModuleType) -> None:
    """After one part of two: the old rows stay; the next run shows the new ones alone, whatever changed meanwhile."""
    project = loaded(project, strategy={"mode": "full_refresh"})
    faulty.watch.append(lambda place: _fail_at_second(faulty, place))
    assert attempt(project, faulty).status == "failed"
    assert project.rows() == rows(1, 250)
    project.csv("a", rows(1, 30, tag="newer"))
    project.load()
    assert project.rows() == rows(1, 30, tag="newer") + rows(251, 400)
    assert len({row[-1] for row in project.lineage()}) == 1


def _fail_at_second(faulty: ModuleType, place: str) -> None:
    if place == "stage" and faulty.log.count("stage") == 2:
        raise SinkError("write", "the disk is full", "free space")


# -- nothing to read --------------------------------------------------------------------------------------------


def test_LS_06_a_source_that_fails_before_its_first_row_leaves_the_state(project: Project, faulty: ModuleType) -> None:
    """The state is identical to the letter, and so are journal and target."""
    project = loaded(project)
    before = snapshot(project)
    for place in ("window", "read", "source batch"):
        faulty.faults[place] = [SourceError("read", "it is not there", "look")]
        assert attempt(project, faulty).status == "failed"
        require_same(project, before)
        assert project.staging() == []


STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "full_refresh": {"mode": "full_refresh"},
    "append": {"mode": "append"},
    "merge": {"mode": "merge", "key": ["id"]},
    "replace": {"mode": "replace", "where": {"day": 1}},
}


@pytest.mark.parametrize("mode", STRATEGIES)
def test_LS_02_an_empty_file_changes_no_target(project: Project, mode: str) -> None:
    """A file with a header and no row, on every strategy: the rows stay, the position moves."""
    project = loaded(project, strategy=STRATEGIES[mode])
    project.csv("b", [])
    if mode in ("full_refresh", "replace"):  # these read all files
        project.csv("a", [])
    stream = project.load()
    assert stream.rows.read == 0
    assert project.rows() == rows(1, 250)
    assert project.state() == project.head()
    assert mark(project.head()) == (0, 2)
    assert project.load().status == "caught_up"


def test_LS_02_only_allow_empty_empties(project: Project) -> None:
    """full_refresh with allow_empty: an empty read empties the target."""
    project = loaded(project, strategy={"mode": "full_refresh", "allow_empty": True})
    project.csv("a", [])
    project.csv("b", [])
    assert project.load().rows.deleted == 250
    assert project.rows() == []


@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_CU_06_an_empty_window_keeps_state_and_journal(project: Project, mode: str) -> None:
    """With nothing new, neither state nor journal gets a line."""
    project = loaded(project, strategy=STRATEGIES[mode])
    project.load()
    before = snapshot(project)
    for _ in range(2):
        assert project.load().status == "caught_up"
        require_same(project, before)


def test_LS_12_the_same_content_is_loaded_once_and_other_content_refused(project: Project) -> None:
    """append: a file loaded before is skipped whatever its time stamp says; with other rows it stops the run."""
    project = loaded(project)
    project.load()
    before = snapshot(project)
    project.csv("a", rows(1, 250)).touch()
    assert project.load().status == "caught_up"
    require_same(project, before)
    project.csv("a", rows(1, 249))
    report = project.run()
    assert report.exit_code == 3
    assert report.streams[0].error is not None
    assert report.streams[0].error.kind == "ContentChanged"
    require_same(project, before)


def test_LS_12_a_whole_window_of_the_same_content_is_not_loaded_again(project: Project) -> None:
    """full_refresh over unchanged files names the load that has them and writes nothing."""
    project = loaded(project, strategy={"mode": "full_refresh"})
    first = project.load()
    before = snapshot(project)
    stream = project.load()
    assert stream.status == "caught_up"
    assert str(first.load_id) in stream.proof
    require_same(project, before)


# -- answers that are lost ----------------------------------------------------------------------------------------


def test_a_commit_whose_answer_is_lost_is_loaded_once(project: Project, faulty: ModuleType) -> None:
    """The commit happened, its answer did not arrive: the journal tells, and nothing is tried again."""
    project = loaded(project).but(runtime={"retries": 3})
    faulty.faults["commit answered"] = [ConnectionError("gone")]
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts, stream.rows.inserted) == ("loaded", 1, 150)
    assert faulty.log.count("commit") == 1
    assert project.rows() == rows(1, 400)
    assert project.state() == project.head()


@pytest.mark.parametrize("full_refresh", [False, True])
def test_a_lost_answer_is_found_by_the_next_attempt(project: Project, faulty: ModuleType, full_refresh: bool) -> None:
    """Answer lost and journal out of reach: the second attempt recovers, saves the state and only then tells the
    source."""
    project = loaded(project).but(runtime={"retries": 3})
    seen: list[tuple[OnDisk | None, OnDisk | None]] = []

    def look(place: str) -> None:
        if place == "ack":
            seen.append((project.state(), project.head()))
        if place == "commit answered":
            faulty.faults["journal"] = [ConnectionError("gone")]

    faulty.watch.append(look)
    faulty.faults["commit answered"] = [ConnectionError("gone")]
    stream = attempt(project, faulty, full_refresh=full_refresh)
    assert (stream.status, stream.attempts) == ("loaded", 2)
    assert stream.rows.inserted == (400 if full_refresh else 150)
    assert project.rows() == rows(1, 400)
    assert len(project.journal()) == 2
    assert seen == [(project.head(), project.head())]


@pytest.mark.parametrize("full_refresh", [False, True])
def test_a_save_that_fails_is_mended_by_the_next_attempt(
    project: Project, faulty: ModuleType, full_refresh: bool
) -> None:
    """A transient failure of the state backend costs an attempt, no second load."""
    project = loaded(project).but(runtime={"retries": 3})
    faulty.faults["save"] = [ConnectionError("gone")]
    stream = attempt(project, faulty, full_refresh=full_refresh)
    assert (stream.status, stream.attempts) == ("loaded", 2)
    assert project.state() == project.head()
    assert len(project.journal()) == 2
    assert project.rows() == rows(1, 400)


def test_a_commit_that_fails_is_tried_again(project: Project, faulty: ModuleType) -> None:
    """A transient failure before anything was written: the staged parts are taken up again, the rows are there once."""
    project = loaded(project).but(runtime={"retries": 3})
    faulty.faults["commit"] = [ConnectionError("gone"), TimeoutError("slow")]
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts, stream.partitions_resumed) == ("loaded", 3, 1)
    assert project.rows() == rows(1, 400)
    assert len(project.journal()) == 2
    assert project.staging() == []


def test_the_cause_of_a_lost_commit_is_kept(project: Project, faulty: ModuleType) -> None:
    """An error that only its cause shows to be transient is retried, also when the journal cannot be asked."""
    project = loaded(project).but(runtime={"retries": 1})
    error = SinkError("commit", "something went wrong", "see the cause")
    error.__cause__ = ConnectionResetError(104, "peer")

    def look(place: str) -> None:
        if place == "commit":
            faulty.faults["journal"] = [SinkError("read the journal", "no", "wait")]

    faulty.watch.append(look)
    faulty.faults["commit"] = [error]
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts) == ("loaded", 2)
    assert isinstance(error.__cause__, ConnectionResetError)


# -- retries ------------------------------------------------------------------------------------------------------


def test_only_transient_errors_are_retried(project: Project, faulty: ModuleType) -> None:
    """A transient error is tried again as often as the pipeline says; another one ends the stream at once."""
    project = loaded(project).but(runtime={"retries": 2})
    faulty.faults["stage"] = [ConnectionError("gone")] * 5
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts) == ("failed", 3)
    assert stream.error.retryable
    faulty.faults["stage"] = [DataError("load", "a bad row", "mend it")]
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts) == ("failed", 1)
    assert project.rows() == rows(1, 250)
    assert project.staging() == []


def test_a_stop_is_never_retried(project: Project, faulty: ModuleType) -> None:
    """What a person must decide is asked once, whatever its cause or its words look like."""
    project = loaded(project).but(runtime={"retries": 2})
    stop = Conflict("commit", "the timeout column: connection refused", "decide")
    stop.__cause__ = ConnectionError("gone")
    faulty.faults["commit"] = [stop]
    stream = attempt(project, faulty)
    assert (stream.status, stream.attempts, stream.error.retryable) == ("stopped", 1, False)


def test_the_pauses_grow_and_differ(project: Project, faulty: ModuleType, pauses: list[float]) -> None:
    """Backoff doubles, with jitter of up to a half, and stays under half a minute."""
    project = loaded(project).but(runtime={"retries": 9})
    faulty.faults["window"] = [ConnectionError("gone")] * 9
    assert attempt(project, faulty).attempts == 10
    whole = [min(30.0, 0.5 * 2**n) for n in range(9)]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, whole, strict=True))


def test_a_retry_is_told(project: Project, faulty: ModuleType) -> None:
    """Observers hear of every further attempt and its cause."""
    project = loaded(project).but(runtime={"retries": 2})
    faulty.faults["window"] = [ConnectionError("gone")]
    steps = Steps()
    run(project.pipeline, plugins=with_plugins(steps, **faulty.PLUGINS))
    [retry] = [event for event in steps.events if event.step == "retry"]
    assert retry.data["attempt"] == 1
    assert retry.data["error"]["category"] == "transient"
    assert "gone" in retry.data["error"]["message"]


# -- failures on the way out ----------------------------------------------------------------------------------------


def test_an_abort_that_fails_does_not_hide_the_error(project: Project, faulty: ModuleType) -> None:
    """The report names what went wrong, not what went wrong while cleaning up; the next run sweeps."""
    project = loaded(project).but(runtime={"retries": 2})
    faulty.faults["stage"] = [DataError("load", "a bad row", "mend it")]
    faulty.faults["abort"] = [ConnectionError("gone")]
    stream = attempt(project, faulty)
    assert (stream.error.kind, stream.attempts) == ("DataError", 1)
    project.load()
    assert project.rows() == rows(1, 400)
    assert project.staging() == []


@pytest.mark.parametrize("place", ["stage", "sink batch", "commit", "commit answered", "save", "ack"])
def test_an_interrupt_ends_the_run_whatever_the_cleaning_up_does(
    project: Project, faulty: ModuleType, place: str
) -> None:
    """Interrupted passes through every failure on the way out; nothing is retried."""
    project = loaded(project).but(runtime={"retries": 2})
    faulty.faults[place] = [Interrupted("SIGTERM")]
    faulty.faults["abort"] = [ConnectionError("gone")]
    if place in ("stage", "sink batch"):
        faulty.faults["read ended"] = [ConnectionError("gone")]
    with pytest.raises(Interrupted):
        attempt(project, faulty)
    assert faulty.log.count("window") == 1
    assert mark(project.state()) <= mark(project.head())
    project.load()
    assert project.rows() == rows(1, 400)
    assert project.state() == project.head()


@pytest.mark.parametrize("error", [SinkError("a", "b", "c"), Interrupted("SIGINT")], ids=["failure", "signal"])
def test_the_reader_has_ended_before_the_source_is_let_go(
    project: Project, faulty: ModuleType, error: BaseException
) -> None:
    """When the sink gives up between two batches, the thread that reads ahead is stopped before the read is closed."""
    project = loaded(project).but(runtime={"batch_rows": 10, "retries": 0})
    faulty.faults["sink batch"] = [error]
    if isinstance(error, Interrupted):
        with pytest.raises(Interrupted):
            attempt(project, faulty)
    else:
        attempt(project, faulty)
    assert faulty.log.index("reader ended") < faulty.log.index("read ended") < faulty.log.index("abort")
    assert not [thread for thread in threading.enumerate() if thread.name == "dpone-read"]


# -- a state backend that is away for a moment ------------------------------------------------------------------


@pytest.mark.parametrize("state_type", ["sqlite", "file"])
def test_OUT_12_an_outage_of_the_state_does_not_lock_the_run_out(
    project: Project, state_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state cannot be reached from the commit until the retry: the lease of the first attempt is never released,
    and the second attempt takes it over and ends the work."""
    project = project.but(state_type=state_type, runtime={"batch_rows": 100, "retries": 1})
    project.csv("a", rows(1, 10))
    aside = project.state_path.with_name("aside")
    tries: list[str] = []

    class Outage:
        @hookimpl
        def dpone_run_event(self, event: RunEvent) -> None:
            if event.step == "committed":
                project.state_path.rename(aside)
                project.state_path.touch() if aside.is_dir() else project.state_path.mkdir()

    def back(seconds: float) -> None:
        tries.append(left_by(aside))
        project.state_path.unlink() if aside.is_dir() else project.state_path.rmdir()
        aside.rename(project.state_path)

    monkeypatch.setattr("dpone.engine.run.time", SimpleNamespace(sleep=back, perf_counter=time.perf_counter))
    for kind in (StateError, SinkError):  # a state over dpone.sql takes the category of its Database's error
        monkeypatch.setattr(kind, "category", Category.TRANSIENT)
    [stream] = run(project.pipeline, plugins=with_plugins(Outage())).streams
    assert len(tries) == 1
    assert tries[0], "the first attempt left its lease"
    assert (stream.status, stream.attempts, stream.error) == ("loaded", 2, None)
    assert project.rows() == rows(1, 10)
    assert project.state() == project.head()
    assert not left_by(project.state_path)


def left_by(state: Path) -> str:
    """The owner of the lease that is there."""
    if state.is_dir():
        return "".join(json.loads(lease.read_text())["owner"] for lease in state.glob("*.lease"))
    with closing(sqlite3.connect(state)) as db:
        return "".join(owner for (owner,) in db.execute("SELECT owner FROM __dpone__locks"))


def test_OUT_12_two_runs_of_one_process_exclude_each_other(project: Project, faulty: ModuleType) -> None:
    """While a run is at work, another run of the stream in the same process is Busy."""
    project.csv("a", rows(1, 10))
    seen: list[Any] = []

    def other(place: str) -> None:
        if place == "commit" and not seen:
            thread = threading.Thread(target=lambda: seen.append(run(project.pipeline).streams[0]))
            thread.start()
            thread.join()

    faulty.watch.append(other)
    assert attempt(project, faulty).status == "loaded"
    assert (seen[0].status, seen[0].error.kind) == ("failed", "Busy")


@pytest.mark.parametrize("signal", [KeyboardInterrupt, Interrupted], ids=["SIGINT", "SIGTERM"])
def test_a_failure_while_a_signal_is_on_its_way_out_hides_it_from_nobody(
    project: Project, faulty: ModuleType, signal: type[BaseException]
) -> None:
    """What ``close`` raises then does not make the run fail: it is interrupted and not tried again."""
    project = loaded(project)
    before = project.state_bytes(), project.journal(), project.rows()
    faulty.faults |= {"source batch": [signal()], "reader ended": [SourceError("close", "the peer is gone", "wait")]}
    one = Run(load_pipeline(project.pipeline), plugins=with_plugins(**faulty.PLUGINS))
    with pytest.raises(signal):
        one.execute()
    assert [(stream.status, stream.attempts, stream.error) for stream in one.report.streams] == [
        ("interrupted", 1, None)
    ]
    require_same(project, before)
