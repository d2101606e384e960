"""A source that was set back: the run stops, and each remedy that it names leads to a green run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Dpone = Callable[..., Any]
PIPELINE = """\
pipeline: p
source:
  type: sqlite
  connection: sqlite:///shop.db
  table: orders
  options: {{incremental: {{by: cursor, column: id{more}}}}}
sink: {{type: sqlite, connection: "sqlite:///out.db", table: orders, strategy: {{mode: {mode}{key}}}}}
"""


def write(folder: Path, mode: str, more: str = "") -> Path:
    key = ", key: [id]" if mode == "merge" else ""
    (folder / "p.yaml").write_text(PIPELINE.format(mode=mode, key=key, more=more))
    return folder / "p.yaml"


def fill(folder: Path, first: int, last: int, word: str, empty: bool = False) -> None:
    with closing(sqlite3.connect(folder / "shop.db")) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, v TEXT)")
        if empty:
            db.execute("DELETE FROM orders")
        db.executemany("INSERT INTO orders VALUES (?, ?)", [(i, word) for i in range(first, last + 1)])


def target(folder: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(folder / "out.db")) as db:
        return db.execute("SELECT id, v FROM orders ORDER BY id").fetchall()


def state(folder: Path) -> list[str]:
    """All but the lock, which every run takes."""
    with closing(sqlite3.connect(folder / ".dpone" / "state.db")) as db:
        return [line for line in db.iterdump() if "lock" not in line]


@pytest.fixture(params=["append", "merge"])
def stopped(request: pytest.FixtureRequest, tmp_path: Path, dpone: Dpone) -> tuple[Path, str]:
    """Fifty rows were loaded, then replaced by twenty with the same ids; the run stopped."""
    fill(tmp_path, 1, 50, "old")
    pipeline = write(tmp_path, request.param)
    assert dpone("run", pipeline, "-q").exit_code == 0
    fill(tmp_path, 1, 20, "new", empty=True)
    before = state(tmp_path)
    for _ in range(2):
        done = dpone("run", pipeline, "-q")
        assert done.exit_code == 3
        assert "no row has id at or above the position" in done.err
        assert "--full-refresh" in done.err
        assert "dpone state set" in done.err
        assert "set_back: report" in done.err
    assert state(tmp_path) == before
    assert target(tmp_path) == [(i, "old") for i in range(1, 51)]
    return pipeline, request.param


def test_OUT_08_full_refresh_goes_on(stopped: tuple[Path, str], dpone: Dpone) -> None:
    """--full-refresh loads what the source has now, and the runs after it are increments again."""
    folder = stopped[0].parent
    assert dpone("run", stopped[0], "-q", "--full-refresh").exit_code == 0
    assert target(folder) == [(i, "new") for i in range(1, 21)]
    fill(folder, 21, 25, "newer")
    assert dpone("run", stopped[0], "-q").exit_code == 0
    assert target(folder) == [(i, "new") for i in range(1, 21)] + [(i, "newer") for i in range(21, 26)]


def test_OUT_08_state_set_goes_on(stopped: tuple[Path, str], dpone: Dpone) -> None:
    """A position at the beginning reads all that the source has now beside the rows that are there."""
    pipeline, mode = stopped
    assert dpone("state", "set", pipeline, "--stream", "orders", "--beginning", "--yes").exit_code == 0
    assert dpone("run", pipeline, "-q").exit_code == 0
    new, old = [(i, "new") for i in range(1, 21)], [(i, "old") for i in range(1, 51)]
    assert sorted(target(pipeline.parent)) == sorted(new + (old if mode == "append" else old[20:]))
    fill(pipeline.parent, 21, 25, "newer")
    assert dpone("run", pipeline, "-q").exit_code == 0
    assert len([row for row in target(pipeline.parent) if row[1] == "newer"]) == 5


def test_OUT_08_report_goes_on(stopped: tuple[Path, str], dpone: Dpone) -> None:
    """set_back: report is for sources whose newest rows are deleted: the position stays, and the report warns."""
    pipeline, mode = stopped
    folder = pipeline.parent
    write(folder, mode, ", set_back: report")
    done = dpone("run", pipeline, "-q", "--format", "json")
    [stream] = done.json["streams"]
    assert (done.exit_code, stream["status"], stream["rows"]["read"]) == (0, "caught_up", 0)
    assert "no row has id at or above the position" in stream["warnings"][0]
    fill(folder, 51, 52, "newer")
    assert dpone("run", pipeline, "-q").exit_code == 0
    assert target(folder)[-2:] == [(51, "newer"), (52, "newer")]


@pytest.mark.parametrize("way", ["allow_empty", "state set"])
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_OUT_08_the_advice_for_an_emptied_source_works(tmp_path: Path, dpone: Dpone, mode: str, way: str) -> None:
    """An empty read empties no target, so that --full-refresh alone would leave the old rows: the message names
    allow_empty, with which they go; a position at the beginning keeps them."""
    fill(tmp_path, 1, 5, "old")
    pipeline = write(tmp_path, mode)
    assert dpone("run", pipeline, "-q").exit_code == 0
    fill(tmp_path, 1, 0, "", empty=True)
    done = dpone("run", pipeline, "-q")
    assert done.exit_code == 3
    assert "to empty the target too, set strategy.allow_empty: true and use --full-refresh, or" in done.err
    old = [(i, "old") for i in range(1, 6)] if way == "state set" else []
    if way == "allow_empty":
        pipeline.write_text(pipeline.read_text().replace(f"mode: {mode}", f"mode: {mode}, allow_empty: true"))
        assert dpone("run", pipeline, "-q", "--full-refresh").exit_code == 0
    else:
        assert dpone("state", "set", pipeline, "--stream", "orders", "--beginning", "--yes").exit_code == 0
    assert dpone("run", pipeline, "-q").exit_code == 0
    assert target(tmp_path) == old
    fill(tmp_path, 1, 2, "new")
    assert dpone("run", pipeline, "-q").exit_code == 0
    kept = old[2:] if mode == "merge" else old
    assert sorted(target(tmp_path)) == sorted([(1, "new"), (2, "new"), *kept])


def test_OUT_09_a_run_that_is_held_back_says_so(tmp_path: Path, dpone: Dpone) -> None:
    """Held back, a run succeeds with nothing read, is not caught up, keeps the state, and warns in the report; a first
    load fails by name. Both go on when the writer has ended."""
    fill(tmp_path, 1, 5, "old")
    pipeline = write(tmp_path, "append", ", in_flight: hold_back")
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as late:
        late.execute("BEGIN IMMEDIATE")
        done = dpone("run", pipeline, "-q")
        assert done.exit_code == 1
        assert "another connection that is writing to shop.db may still commit rows below" in done.err
    assert dpone("run", pipeline, "-q").exit_code == 0
    fill(tmp_path, 7, 7, "new")
    before = state(tmp_path)
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as late:
        late.execute("BEGIN IMMEDIATE")
        late.execute("INSERT INTO orders VALUES (6, 'late')")
        done = dpone("run", pipeline, "-q", "--format", "json")
        [stream] = done.json["streams"]
        assert (done.exit_code, stream["caught_up"], stream["rows"]["read"]) == (0, False, 0)
        assert "held back for another connection that is writing to shop.db" in stream["warnings"][0]
        assert "nothing was read; held back for" in stream["proof"]
        assert state(tmp_path) == before
        late.execute("COMMIT")
    assert dpone("run", pipeline, "-q").exit_code == 0
    assert target(tmp_path)[-2:] == [(6, "late"), (7, "new")]


@pytest.mark.parametrize("option", ["in_flight: wait", "in_flight_timeout: 1", "set_back: report"])
def test_options_of_cursors_are_of_cursors(tmp_path: Path, dpone: Dpone, option: str) -> None:
    """Where no cursor is read they would do nothing, which is not what was meant: exit 2. A default is no mistake."""
    text = (write(tmp_path, "append", f", {option}")).read_text().replace("by: cursor, column: id", "by: cdc")
    (tmp_path / "p.yaml").write_text(text)
    done = dpone("check", tmp_path / "p.yaml")
    assert done.exit_code == 2
    assert ("does not take in_flight" in done.err) is (option != "in_flight: wait")
