"""Late commits under a cursor of a SQLite file: a writer that is open while the file is read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.sql.clock import Clock
from tests.sqlite.target import Target
from tests.sqlite.test_sqlite_source import by, read, source

from dpone.connectors.sqlite.in_flight import SqliteInFlight
from dpone.contract import WindowRequest
from dpone.errors import SourceError

INSERT = "INSERT INTO orders (id) VALUES (?)"


@pytest.fixture
def db(tmp_path: Path) -> Target:
    return Target(tmp_path / "shop.db")


@pytest.fixture(params=["wal", "delete"])
def late(request: pytest.FixtureRequest, db: Target) -> Iterator[sqlite3.Connection]:
    """A connection whose transaction a test leaves open; row 1 is there."""
    db.run(f"PRAGMA journal_mode={request.param}", "CREATE TABLE orders (id INTEGER PRIMARY KEY, ts TEXT)")
    db.run("INSERT INTO orders (id) VALUES (1)")
    with closing(sqlite3.connect(db.path, timeout=0, isolation_level=None)) as connection:
        yield connection


def ids(found: list[tuple[Any, ...]]) -> list[int]:
    return sorted(row[0] for row in found)


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_OUT_09_an_open_writer_is_waited_for(
    db: Target,
    late: sqlite3.Connection,
    clock: Clock,
    mode: str,
) -> None:
    """A writer that holds a lower id, which its application chose, is waited for, and its row is read."""
    first, _ = read(source(db, **by("id")), mode=mode)
    db.run("INSERT INTO orders (id) VALUES (9)")
    late.execute("BEGIN IMMEDIATE")
    late.execute(INSERT, (5,))
    clock.then.append(lambda: late.execute("COMMIT"))
    window, found = read(source(db, **by("id")), first.position, mode=mode)
    assert {5, 9} <= set(ids(found))
    assert (window.caught_up, window.warnings) == (True, ())
    assert read(source(db, **by("id")), window.position, mode=mode)[0].parts == ()


def test_OUT_09_held_back_for_an_open_writer(db: Target, late: sqlite3.Connection, clock: Clock) -> None:
    """After the wait nothing new is read, the position stays and the report says why; ``report`` reads on."""
    first, _ = read(source(db, **by("id")))
    db.run("INSERT INTO orders (id) VALUES (9)")
    late.execute("BEGIN IMMEDIATE")
    late.execute(INSERT, (5,))
    window, found = read(source(db, **by("id", in_flight_timeout=3)), first.position)
    assert (found, window.position, window.caught_up, sum(clock.slept)) == ([], first.position, False, 3)
    assert "another connection that is writing to shop.db" in window.warnings[0]
    with pytest.raises(SourceError, match=r"another connection that is writing to shop\.db may still commit rows"):
        read(source(db, **by("id", in_flight="hold_back")))
    window, found = read(source(db, **by("id", in_flight="report")), first.position)
    assert (ids(found), len(window.warnings)) == ([9], 1)


def test_OUT_09_values_that_sqlite_makes_are_in_the_order_of_commits(
    db: Target,
    late: sqlite3.Connection,
) -> None:
    """A rowid and a time that SQLite gives are above all that is committed: without a wait none of them is lost."""
    first, _ = read(source(db, **by("id")))
    db.run("INSERT INTO orders (ts) VALUES (CURRENT_TIMESTAMP)")
    late.execute("BEGIN")
    late.execute("INSERT INTO orders (ts) VALUES (CURRENT_TIMESTAMP)")
    window, found = read(source(db, **by("id", in_flight="report")), first.position)
    assert ids(found) == [2]
    late.execute("COMMIT")
    assert ids(read(source(db, **by("id")), window.position)[1]) == [3]


def test_OUT_09_the_lock_is_let_go_before_the_read(db: Target, late: sqlite3.Connection) -> None:
    """While the rows are read, others may write as they could before; so they may after a window that failed."""
    with closing(source(db, **by("id"))) as reader:
        reader.window(None, WindowRequest())
        late.execute("BEGIN IMMEDIATE")
        late.execute("ROLLBACK")
    with closing(source(db, **by("nothing"))) as reader:
        with pytest.raises(Exception, match="nothing"):
            reader.window(None, WindowRequest())
        late.execute("BEGIN IMMEDIATE")
        late.execute("ROLLBACK")


def test_OUT_09_the_snapshot_begins_while_nobody_can_write(db: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for a writer and the begin of the snapshot nobody commits: the lock is held until then."""
    db.run("PRAGMA journal_mode=wal", "CREATE TABLE orders (id INTEGER PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    release = SqliteInFlight.release

    def and_then_another_writes(self: SqliteInFlight) -> None:
        release(self)
        db.run("INSERT INTO orders VALUES (2)")

    monkeypatch.setattr(SqliteInFlight, "release", and_then_another_writes)
    assert ids(read(source(db, **by("id")))[1]) == [1]


def test_OUT_09_a_file_that_cannot_be_written_says_so(
    db: Target,
    late: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who writes to a file that we may only read cannot be seen, and the proof says that."""
    late.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("dpone.connectors.sqlite.in_flight.os.access", lambda path, how: how != os.W_OK)
    window, found = read(source(db, **by("id")))
    assert ids(found) == [1]
    assert "so open writers cannot be detected" in window.proof
