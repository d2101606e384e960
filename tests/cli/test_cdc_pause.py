"""``dpone cdc pause`` and ``resume``: a paused stream stops, and nothing else changes."""

from __future__ import annotations

import getpass
import json
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.cli.schemas import require_valid

from dpone.config.reader import load_pipeline
from dpone.engine.pause import move_pause, pause_key, pause_of
from dpone.engine.run import Run

Dpone = Callable[..., Any]
STATES = {"file": "{type: file, path: state}", "sqlite": '{type: sqlite, connection: "sqlite:///state.db"}'}
PIPELINE = """\
pipeline: shop
streams:
  - name: orders
    source: {type: file, path: orders.jsonl, options: {incremental: {by: cdc}}}
    sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: cdc_apply}}
  - name: bills
    source: {type: file, path: bills.jsonl, options: {incremental: {by: cdc}}}
    sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: bills, strategy: {mode: cdc_apply}}
  - name: cities
    source: {type: file, path: cities.csv}
    sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: cities, strategy: {mode: full_refresh}}
state: STATE
"""
LINE = """\
pipeline: shop
source: {type: file, options: {incremental: {by: cdc}}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", strategy: {mode: cdc_apply}}
streams:
  - name: orders
    source: {path: orders.jsonl}
    sink: {table: orders}
  - name: bills
    source: {path: bills.jsonl}
    sink: {table: bills}
  - name: cities
    source: {path: cities.csv, options: {incremental: null}}
    sink: {table: cities, strategy: {mode: full_refresh}}
state: STATE
"""
LINE = '{"op": "insert", "table": "%s", "commit": "%d", "key": {"id": %d}, "values": {"id": %d}}\n'


def add(folder: Path, number: int) -> None:
    """A transaction in each log."""
    for table in ("orders", "bills"):
        with (folder / f"{table}.jsonl").open("a") as log:
            log.write(LINE % (table, number, number, number) + f'{{"op": "commit", "commit": "{number}"}}\n')


def lay(folder: Path, state: str) -> Path:
    (folder / "cities.csv").write_text("id\n1\n")
    add(folder, 1)
    path = folder / "pipe line.yaml"
    path.write_text(PIPELINE.replace("STATE", STATES[state]))
    return path


def states(folder: Path) -> Any:
    """Files to the byte; a database as its statements, as pages that are free again differ. Without the run log."""
    if (state := folder / "state").is_dir():
        kept = [path for path in sorted(state.rglob("*")) if path.is_file() and state / "runs" not in path.parents]
        return {path.name: path.read_bytes() for path in kept}
    with closing(sqlite3.connect(folder / "state.db")) as db:
        return sorted(line for line in db.iterdump() if "__dpone__runs" not in line)


def count(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / "warehouse.db")) as db:
        [(found,)] = db.execute(f"SELECT count(*) FROM {table}")
        return int(found)


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("state", STATES)
def test_a_paused_stream_stops_and_the_others_run(tmp_path: Path, dpone: Dpone, state: str, loaded: bool) -> None:
    """Exit code 3, by whom, when, why, and the command that continues it, which works as it is printed; state and
    target of the stream stay as they are, whatever the run was to do, before the first load as well."""
    path = lay(tmp_path, state)
    if loaded:
        assert dpone("run", path).exit_code == 0
        add(tmp_path, 2)
    found = dpone(
        "cdc", "pause", path, "--stream", "orders", "--reason", "the  target is\nrestored", "--format", "json"
    )
    require_valid("cdc-pause.json", found.json)
    [one] = found.json
    assert (one["stream"], one["changed"], one["paused"]["reason"]) == ("orders", True, "the target is restored")
    assert one["paused"]["by"].startswith(f"{getpass.getuser()}@")
    if state == "sqlite":  # a later version finds it there
        with closing(sqlite3.connect(tmp_path / "state.db")) as db:
            found = db.execute("SELECT value FROM __dpone__state WHERE key = 'paused|shop|orders'").fetchall()
        assert [json.loads(value) for (value,) in found] == [one["paused"]]
        assert [*one["paused"]] == ["by", "at", "reason"]
    before = states(tmp_path)
    for options in ((), ("--full-refresh",), ("--dry-run",)):
        done = dpone("run", path, "--select", "orders", *options)
        assert done.exit_code == 3, done.err
        assert states(tmp_path) == before, options
    said = [line for line in done.err.splitlines() if line.startswith("error:")]
    why = f"paused by {one['paused']['by']} at {one['paused']['at']}: the target is restored"
    assert said == [f"error: orders: run stream orders: it was {why}; continue it with "
                    f"'dpone cdc resume {shlex.quote(str(path))} --stream orders'"]  # fmt: skip
    assert dpone("run", path).exit_code == 3
    assert count(tmp_path, "bills") == (2 if loaded else 1)
    assert count(tmp_path, "cities") == 1
    if loaded:
        assert count(tmp_path, "orders") == 1
    command = shlex.split(said[0].partition("'dpone ")[2].removesuffix("'"))
    assert dpone(*command).out == f"orders: resumed; paused by {why.partition(' by ')[2]}\n"
    assert dpone("run", path).exit_code == 0
    assert count(tmp_path, "orders") == (2 if loaded else 1)


def test_pause_and_resume_can_be_repeated(tmp_path: Path, dpone: Dpone) -> None:
    """The first pause stays, with its reason; a stream that is not paused is not an error. All change streams are
    meant if none is named, and no other."""
    path = lay(tmp_path, "file")
    first = dpone("cdc", "pause", path, "--stream", "bills", "--reason", "first", "--format", "json").json
    both = dpone("cdc", "pause", path, "--reason", "second", "--format", "json").json
    require_valid("cdc-pause.json", both)
    assert [(one["stream"], one["changed"], one["paused"]["reason"]) for one in both] == [
        ("orders", True, "second"), ("bills", False, "first"),
    ]  # fmt: skip
    assert both[1]["paused"] == first[0]["paused"]
    ended = dpone("cdc", "resume", path, "--format", "json").json
    require_valid("cdc-resume.json", ended)
    assert [one["was_paused"] for one in ended] == [one["paused"] for one in both]
    again = dpone("cdc", "resume", path, "--format", "json").json
    require_valid("cdc-resume.json", again)
    assert [(one["changed"], one["was_paused"]) for one in again] == [(False, None)] * 2
    assert "bills: was not paused" in dpone("cdc", "resume", path).out


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--reason", " \n"), "the reason is empty"),
        ((), "--reason"),
        (("--stream", "cities", "--reason", "r"), "stream cities has no change stream"),
        (("--stream", "none", "--reason", "r"), "stream none has no change stream"),
    ],
)
def test_a_pause_without_a_reason_or_a_stream_is_refused(
    tmp_path: Path, dpone: Dpone, options: tuple[str, ...], found: str
) -> None:
    """One line, exit code 2, and nothing is saved; with a reason and a stream it works."""
    path = lay(tmp_path, "file")
    done = dpone("cdc", "pause", path, *options)
    assert (done.exit_code, found in done.err) == (2, True), done.err
    assert not (tmp_path / "state").exists()
    assert dpone("cdc", "pause", path, "--stream", "orders", "--reason", "r").exit_code == 0


def test_no_stream_is_paused_while_one_of_them_runs(tmp_path: Path, dpone: Dpone) -> None:
    """All or none: the lock of the second is held by a run, so that the first is not paused either."""
    path = lay(tmp_path, "file")
    run = Run(load_pipeline(path))
    state = run.make("state", run.pipeline.state)
    orders, bills, _ = run.pipeline.streams
    for spec in (orders, bills):
        with state.lock(spec.key("shop"), 60):
            done = dpone("cdc", "pause", path, "--reason", "r")
            assert (done.exit_code, "held by process" in done.err) == (1, True), done.err
        assert [pause_of(state, one.key("shop")) for one in (orders, bills)] == [None, None]


def test_a_pause_outlives_a_rewind_and_a_new_name_of_the_target(tmp_path: Path, dpone: Dpone) -> None:
    """It belongs to pipeline and stream, not to position or key: only ``resume`` ends it."""
    path = lay(tmp_path, "sqlite")
    assert dpone("run", path).exit_code == 0
    dpone("cdc", "pause", path, "--stream", "orders", "--reason", "r")
    assert dpone("state", "set", path, "--stream", "orders", "--beginning", "--yes").exit_code == 0
    assert dpone("run", path, "--select", "orders").exit_code == 3
    path.write_text(path.read_text().replace("table: orders,", "table: renamed,"))
    assert dpone("run", path, "--select", "orders").exit_code == 3
    assert "resumed" in dpone("cdc", "resume", path, "--stream", "orders").out
    assert dpone("run", path, "--select", "orders").exit_code == 0


def test_a_pause_moves_with_its_key(tmp_path: Path, dpone: Dpone) -> None:
    """A pipeline that is renamed, and its keys with it, stays paused; nothing is left under the old name."""
    path = lay(tmp_path, "file")
    assert dpone("run", path).exit_code == 0
    dpone("cdc", "pause", path, "--stream", "orders", "--reason", "r")
    old = load_pipeline(path).streams[0].key("shop")
    path.write_text(path.read_text().replace("pipeline: shop", "pipeline: store"))
    assert dpone("state", "move", path, old, "orders", "--yes").exit_code == 0
    done = dpone("run", path, "--select", "orders")
    assert (done.exit_code, "it was paused by" in done.err) == (3, True)
    run = Run(load_pipeline(path))
    state = run.make("state", run.pipeline.state)
    assert state.load(pause_key(old)) is None


def test_a_pause_that_was_moved_half_way_is_moved_whole(tmp_path: Path) -> None:
    """Killed after the new one was saved: the old one goes, the new one stays as it is."""
    run = Run(load_pipeline(lay(tmp_path, "file")))
    state = run.make("state", run.pipeline.state)
    value = {"by": "a", "at": "2026-01-01T00:00:00+00:00", "reason": "r"}
    for key in ("paused|p|s", "paused|q|s"):
        state.save(key, value, 0)
    move_pause(state, "p|s|source|sink", "q|s|source|sink")
    assert (state.load("paused|p|s"), state.load("paused|q|s").value) == (None, value)


def test_a_pause_that_cannot_be_read_pauses(tmp_path: Path, dpone: Dpone) -> None:
    """One of another version, or made by a hand: stop rather than guess; ``resume`` ends it."""
    path = lay(tmp_path, "file")
    run = Run(load_pipeline(path))
    state = run.make("state", run.pipeline.state)
    state.save("paused|shop|orders", {"who": 7}, 0)
    done = dpone("run", path, "--select", "orders")
    assert (done.exit_code, "paused by unknown at unknown: unknown" in done.err) == (3, True)
    assert "resumed" in dpone("cdc", "resume", path, "--stream", "orders").out
    assert dpone("run", path, "--select", "orders").exit_code == 0


def test_a_pause_needs_neither_source_nor_target(tmp_path: Path, dpone: Dpone) -> None:
    """Both may be what is broken."""
    path = lay(tmp_path, "file")
    (tmp_path / "orders.jsonl").unlink()
    (tmp_path / "warehouse.db").mkdir()
    assert dpone("cdc", "pause", path, "--stream", "orders", "--reason", "r").exit_code == 0
    assert dpone("run", path, "--select", "orders").exit_code == 3
    assert dpone("cdc", "resume", path, "--stream", "orders").exit_code == 0
