"""The sqlite state backend: compare and set, history, and one runner per key."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.connectors.sqlite.state import SqliteState
from dpone.errors import Busy, Category, Conflict, SinkError, StateError
from dpone.host.process import Process
from dpone.model.pipeline import StateSpec
from dpone.model.secret import Secret


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".dpone" / "state.db"


@pytest.fixture
def state(path: Path) -> SqliteState:
    return make(path)


def make(path: Path) -> SqliteState:
    return SqliteState(StateSpec("sqlite", Secret(f"sqlite:///{path}")))


def test_a_value_is_saved_and_counted(state: SqliteState) -> None:
    """Every save of a key counts its version up by one, and load gives the latest."""
    assert state.load("k") is None
    assert state.save("k", {"a": 1, "é": None}, 0) == 1
    assert state.save("k", {"a": 2}, 1) == 2
    found = state.load("k")
    assert found is not None
    assert (found.value, found.version) == ({"a": 2}, 2)
    assert found.saved_at.tzinfo is not None
    assert state.load("other") is None


@pytest.mark.parametrize("expected", [0, 2, 7])
def test_ST_01_a_save_over_another_version_is_refused(state: SqliteState, expected: int) -> None:
    """Compare and set: with any other version than the current one nothing is written."""
    state.save("k", {"a": 1}, 0)
    with pytest.raises(Conflict, match="nothing was written"):
        state.save("k", {"a": 2}, expected)
    found = state.load("k")
    assert found is not None
    assert (found.value, found.version) == ({"a": 1}, 1)


def test_of_many_savers_one_wins(state: SqliteState) -> None:
    """Of eight threads that save over one version, one succeeds and seven get Conflict."""
    state.save("k", {"by": "nobody"}, 0)
    won: list[int] = []
    lost: list[Conflict] = []

    def save(n: int) -> None:
        try:
            state.save("k", {"by": n}, 1)
            won.append(n)
        except Conflict as error:
            lost.append(error)

    threads = [threading.Thread(target=save, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = state.load("k")
    assert (len(won), len(lost)) == (1, 7)
    assert found is not None
    assert found.value == {"by": won[0]}


def test_delete_forgets_the_value_and_counts_on(state: SqliteState) -> None:
    """After a delete there is no value, the history stays, and the next save has a higher version."""
    state.save("k", {"a": 1}, 0)
    with pytest.raises(Conflict):
        state.delete("k", 5)
    state.delete("k", 1)
    assert state.load("k") is None
    assert state.save("k", {"a": 2}, 0) == 3
    assert [(v.version, v.value) for v in state.history("k")] == [(3, {"a": 2}), (1, {"a": 1})]


def test_history_keeps_the_last_fifty(state: SqliteState) -> None:
    """The history is newest first, of one key only, and ends after fifty."""
    for n in range(55):
        state.save("k", {"n": n}, n)
    state.save("other", {"n": -1}, 0)
    assert [v.value["n"] for v in state.history("k", 100)] == list(range(54, 4, -1))
    assert [v.value["n"] for v in state.history("k", 2)] == [54, 53]
    assert make(Path("/nowhere/state.db")).history("k") == []


def test_ST_02_a_lock_has_one_holder(state: SqliteState, path: Path) -> None:
    """A second runner of the key is told who holds it; another key is free; after the end all are."""
    with state.lock("k", 60), pytest.raises(Busy) as caught, make(path).lock("k", 60):
        pass
    assert f"process {os.getpid()} on " in str(caught.value)
    assert caught.value.category is Category.TRANSIENT
    with state.lock("k", 60), state.lock("other", 60):
        pass
    with state.lock("k", 60):
        pass


def test_ST_02_an_expired_lease_is_taken_over(state: SqliteState) -> None:
    """A lease that was not renewed in time may be taken; its old holder learns it when renewing, and frees nothing."""
    with state.lock("k", 0.05) as old:
        time.sleep(0.1)
        with state.lock("k", 60):
            with pytest.raises(Conflict, match="taken over"):
                old.renew()
            with pytest.raises(Busy), state.lock("k", 60):
                pass
    with state.lock("k", 60):
        pass


def test_ST_02_renewal_keeps_the_lease(state: SqliteState, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewed lease holds for another ttl, and no longer; a thread of its own may renew it."""
    seconds = [1_700_000_000.0]
    monkeypatch.setattr(SqliteState, "now", lambda state, db: datetime.fromtimestamp(seconds[0], UTC))
    with state.lock("k", 60) as lease:
        seconds[0] += 59
        renewer = threading.Thread(target=lease.renew)
        renewer.start()
        renewer.join()
        seconds[0] += 59
        with pytest.raises(Busy), state.lock("k", 1):
            pass
        seconds[0] += 1  # at its end it is over
        with state.lock("k", 1):
            pass


def test_ST_02_the_lock_of_a_dead_process_is_taken_over_at_once(state: SqliteState, path: Path) -> None:
    """A holder of this machine whose process is gone does not block until its lease ends."""
    code = (
        "import os, sys; from dpone.model.pipeline import StateSpec; from dpone.model.secret import Secret\n"
        "from dpone.connectors.sqlite.state import SqliteState\n"
        "held = SqliteState(StateSpec('sqlite', Secret('sqlite:///' + sys.argv[1]))).lock('k', 3600)\n"
        "held.__enter__()\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    with state.lock("k", 60):
        pass


@pytest.mark.parametrize("lost", ["COMMIT", "BEGIN IMMEDIATE"])
def test_ST_02_a_lock_whose_answer_was_lost_is_let_go_of(
    state: SqliteState, path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """It may have been taken: then nobody is kept out by it. One that was certainly not taken costs no further wait."""
    state.save("k", {}, 0)
    real, said = SqliteDatabase.execute, list[str]()

    def execute(db: SqliteDatabase, sql: str, parameters: Any = ()) -> int:
        said.append(sql)
        done = real(db, sql, parameters)
        if sql == lost and said.count(lost) == 1:
            raise SinkError("commit", "the answer was lost", "run again")
        return done

    monkeypatch.setattr(SqliteDatabase, "execute", execute)
    with pytest.raises(StateError, match="the answer was lost"), state.lock("k", 3600):
        pass
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT owner FROM __dpone__locks").fetchall() == []
    assert said.count("BEGIN IMMEDIATE") == (2 if lost == "COMMIT" else 1)


def test_ST_02_a_reused_process_number_is_another_process() -> None:
    """A process that began at another time than the holder is not the holder."""
    me = Process.this()
    assert not me.gone()
    assert Process(me.host, me.machine, me.pid, me.started + "0").gone() or not me.started
    assert not Process(me.host, "another machine", 2**22 + 1, "1").gone()


class Failing(SqliteState):
    """Its database is out of reach for the first calls after ``fails`` is set."""

    fails: int | None = None
    calls = 0

    def database(self) -> SqliteDatabase:
        if self.fails is not None:
            self.calls += 1
            if self.calls <= self.fails:
                raise SinkError("connect", "the disk is away", "attach it")
        return super().database()


@pytest.mark.parametrize(("fails", "calls", "left"), [(0, 1, 0), (1, 2, 0), (2, 2, 1), (9, 2, 1)])
def test_a_lock_is_released_at_the_second_try_or_expires(path: Path, fails: int, calls: int, left: int) -> None:
    """What the run did is valid, so a lock that cannot be released in two tries is left, and nothing is raised."""
    state = Failing(StateSpec("sqlite", Secret(f"sqlite:///{path}")))
    with state.lock("k", 60):
        state.fails = fails
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM __dpone__locks").fetchall() == [(left,)]
    assert state.calls == calls


def test_S_07_folder_and_file_are_private(state: SqliteState, path: Path) -> None:
    """The folder .dpone is created for its owner alone, and so is the file, whatever the umask."""
    old = os.umask(0)
    try:
        state.save("k", {}, 0)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_looking_creates_nothing(state: SqliteState, path: Path) -> None:
    """Load, history and check leave no file behind."""
    assert (state.load("k"), state.history("k"), [f.ok for f in state.check()]) == (None, [], [True])
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("kind", "found"),
    [("folder", "its folder does not exist"), ("text", "not a SQLite database"), ("directory", "directory")],
)
def test_a_wrong_state_is_one_clear_line(tmp_path: Path, kind: str, found: str) -> None:
    """A state that cannot be kept is one line."""
    path = tmp_path / ("no" if kind == "folder" else ".") / "state.db"
    if kind == "text":
        path.write_text("{}" * 600)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(StateError, match=found):
        make(path).save("k", {}, 0)


def test_a_locked_state_is_transient(state: SqliteState, path: Path) -> None:
    """A state file that another program holds is a transient error."""
    state.save("k", {}, 0)
    from dpone.connectors.sqlite.config import SqliteStateOptions

    hasty = SqliteState(StateSpec("sqlite", Secret(f"sqlite:///{path}"), options=SqliteStateOptions(busy_timeout=0.05)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateError, match="locked by another connection") as caught:
            hasty.save("k", {}, 1)
    assert caught.value.category is Category.TRANSIENT


_BEFORE = (  # as versions before SqlState made them
    """CREATE TABLE "__dpone__state"
    (key TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL, value TEXT, saved_at TEXT NOT NULL)""",
    """CREATE TABLE "__dpone__state_history"
    (key TEXT NOT NULL, version INTEGER NOT NULL, value TEXT NOT NULL, saved_at TEXT NOT NULL,
    PRIMARY KEY (key, version))""",
    """CREATE TABLE "__dpone__locks"
    (key TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL, host TEXT NOT NULL, machine TEXT NOT NULL,
    pid INTEGER NOT NULL, started TEXT NOT NULL, expires REAL NOT NULL)""",
    """INSERT INTO "__dpone__state" VALUES ('k', 7, '{"a": 1}', '2026-01-31T12:00:00.000005+00:00')""",
    """INSERT INTO "__dpone__state_history" VALUES ('k', 7, '{"a": 1}', '2026-01-31T12:00:00.000005+00:00')""",
    """INSERT INTO "__dpone__locks" VALUES ('k', 'old', 'elsewhere', 'another machine', 1, '1', 4102444800.5)""",
)


@pytest.mark.parametrize("before", [True, False])
def test_ST_03_a_state_of_earlier_versions_goes_on(tmp_path: Path, before: bool) -> None:
    """Its values, history and leases count, and what is written has the columns and the form that they read; so has a
    state that is new."""
    path = tmp_path / "state.db"
    state, columns = make(path), "version, typeof(version), typeof(value), saved_at"
    if before:
        with closing(sqlite3.connect(path, isolation_level=None)) as old:
            for statement in _BEFORE:
                old.execute(statement)
        assert [(v.version, v.value, v.saved_at.microsecond) for v in state.history("k")] == [(7, {"a": 1}, 5)]
        with pytest.raises(Busy, match="process 1 on elsewhere"), state.lock("k", 60):
            pass
    version = 7 if before else 0
    with state.lock("other", 60):
        assert state.save("k", {"é": 2}, version) == version + 1
        with closing(sqlite3.connect(path)) as db:
            [(n, *types, at)] = db.execute(f"SELECT {columns} FROM __dpone__state WHERE key = 'k'").fetchall()
            assert (n, types) == (version + 1, ["integer", "text"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", at)
            held = "typeof(pid), typeof(expires), expires > strftime('%s', 'now') + 50"
            assert db.execute(f"SELECT {held} FROM __dpone__locks WHERE key = 'other'").fetchall() == [
                ("integer", "real", 1)
            ]
            for table, made in zip(("state", "state_history", "locks"), _BEFORE, strict=False):
                with closing(sqlite3.connect(":memory:")) as other:
                    other.execute(made)
                    sql = "SELECT name, type, \"notnull\", pk FROM pragma_table_info('__dpone__{}')"
                    assert db.execute(sql.format(table)).fetchall() == other.execute(sql.format(table)).fetchall()


def test_ST_03_a_damaged_value_is_one_clear_line(state: SqliteState, path: Path) -> None:
    """A value that is no JSON, or no object, is an error that says what to do, never an empty state."""
    state.save("k", {"a": 1}, 0)
    for damage in ("{", "", "null", "[]", "7"):
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE __dpone__state SET value = ?", (damage,))
        with pytest.raises(StateError, match="version 1 is not JSON"):
            state.load("k")


def test_the_value_must_be_json(state: SqliteState) -> None:
    """A value JSON cannot hold is refused before anything is written."""
    bad: Any = {"a": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        state.save("k", bad, 0)
    assert state.load("k") is None
