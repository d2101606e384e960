"""``dpone state``: where streams stand, and setting it by hand."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

Dpone = Callable[..., Any]


@pytest.fixture
def loaded(project: Path, dpone: Dpone) -> Path:
    """A project that has run once."""
    done = dpone("run", project, "-q")
    assert done.exit_code == 0, done.err
    return project


def shown(dpone: Dpone, pipeline: Path) -> dict[str, Any]:
    [one] = dpone("state", "show", pipeline, "--format", "json").json
    assert isinstance(one, dict)
    return one


def rows(pipeline: Path) -> int:
    with closing(sqlite3.connect(pipeline.parent / "warehouse.db")) as db:
        return int(db.execute("SELECT count(*) FROM orders").fetchone()[0])


def test_before_the_first_run_nothing_is_known(project: Path, dpone: Dpone) -> None:
    """No state, no journal, and that agrees; looking creates no warehouse."""
    one = shown(dpone, project)
    assert (one["stream"], one["state"], one["journal"], one["agree"]) == ("orders", None, None, True)
    assert not (project.parent / "warehouse.db").exists()
    assert dpone("state", "history", project, "--format", "json").json == []


def test_after_a_run_state_and_journal_agree(loaded: Path, dpone: Dpone) -> None:
    """Both hold the same load and the same position."""
    one = shown(dpone, loaded)
    assert one["agree"] is True
    assert one["state"]["version"] == 1
    assert one["journal"]["seq"] == one["state"]["seq"] == 1
    assert one["journal"]["load_id"] == one["state"]["load_id"]
    assert one["journal"]["position"] == one["state"]["position"]
    text = dpone("state", "show", loaded).out
    assert one["state"]["load_id"] in text
    assert "agree    yes" in text


def test_lost_state_lags(loaded: Path, dpone: Dpone) -> None:
    """Without the state, the journal leads, and the next run will adopt it."""
    (loaded.parent / ".dpone" / "state.db").unlink()
    one = shown(dpone, loaded)
    assert (one["state"], one["agree"], one["journal"]["seq"]) == (None, False, 1)
    assert "copies the journal" in one["note"]


def test_lost_warehouse_is_a_state_ahead(loaded: Path, dpone: Dpone) -> None:
    """Without the warehouse, the state claims more than the journal holds; the note says how to go on."""
    (loaded.parent / "warehouse.db").unlink()
    one = shown(dpone, loaded)
    assert (one["journal"], one["agree"], one["state"]["seq"]) == (None, False, 1)
    assert "--full-refresh" in one["note"]


def test_history_is_newest_first_and_limited(loaded: Path, dpone: Dpone) -> None:
    """Every state that was saved is there, the latest on top."""
    dpone("state", "set", loaded, "--stream", "orders", "--beginning", "--yes")
    entries = dpone("state", "history", loaded, "--format", "json").json
    assert [(e["stream"], e["version"], e["state"]["position"]["epoch"]) for e in entries] == [
        ("orders", 2, 1),
        ("orders", 1, 0),
    ]
    assert len(dpone("state", "history", loaded, "--limit", "1", "--format", "json").json) == 1
    assert len(dpone("state", "history", loaded).out.splitlines()) == 3


def test_set_to_the_beginning_reads_everything_again(loaded: Path, dpone: Dpone) -> None:
    """A rewind starts a new epoch in journal and state, keeps the rows, and the next run reads all of them."""
    done = dpone("state", "set", loaded, "--stream", "orders", "--beginning", "--yes", "--format", "json")
    assert done.exit_code == 0
    before, after = done.json["before"], done.json["after"]
    assert before["journal"]["position"]["epoch"] == 0
    assert after["journal"]["position"]["epoch"] == after["state"]["position"]["epoch"] == 1
    assert after["agree"] is True
    assert rows(loaded) == 3000
    [stream] = dpone("run", loaded, "-q", "--format", "json").json["streams"]
    assert (stream["rows"]["read"], stream["rows"]["unchanged"], rows(loaded)) == (3000, 3000, 3000)


@pytest.mark.parametrize("way", ["--position", "--position-file"])
def test_set_takes_what_show_prints(way: str, loaded: Path, dpone: Dpone, tmp_path: Path) -> None:
    """A position copied from ``state show`` goes back in, and the next run resumes after it."""
    text = json.dumps(shown(dpone, loaded)["journal"]["position"])
    file = tmp_path / "position.json"
    file.write_text(text)
    given = text if way == "--position" else file
    done = dpone("state", "set", loaded, "--stream", "orders", way, given, "--yes")
    assert done.exit_code == 0, done.err
    assert done.out.startswith("before\norders\n")
    assert shown(dpone, loaded)["journal"]["position"]["epoch"] == 1
    [stream] = dpone("run", loaded, "-q", "--format", "json").json["streams"]
    assert (stream["status"], stream["rows"]["read"]) == ("caught_up", 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--position", "not json"], "not JSON"),
        (["--position", "[1]"], "read the position"),
        (["--position", '{"kind": "files"}'], "read the position: key format is missing; "),
        (["--position", '{"format": 2, "kind": "files", "epoch": 0, "identity": {}, "value": {}}'], "format 2"),
        (["--position", '{"format": 1, "kind": "files", "epoch": -1, "identity": {}, "value": {}}'], "epoch"),
        (["--position", '{"format": 1, "kind": "files", "epoch": 0, "identity": 7, "value": {}}'], "read the position"),
        (["--position", "[" * 100_000], "read the position"),
        (["--position-file", "missing.json"], "no such file"),
        (["--position-file", "."], "is a directory"),
        ([], "exactly one of"),
        (["--beginning", "--position", "{}"], "exactly one of"),
    ],
    ids=str,
)
def test_bad_position_is_one_line_and_changes_nothing(
    given: list[str], says: str, loaded: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with the position: exit 2, one line, state and journal as they were."""
    monkeypatch.chdir(loaded.parent)
    before = shown(dpone, loaded)
    done = dpone("state", "set", loaded, "--stream", "orders", *given, "--yes")
    assert done.exit_code == 2
    assert says in done.error
    assert shown(dpone, loaded) == before


@pytest.mark.parametrize(
    "changed",
    [{"kind": "cursor"}, {"identity": {"path": "elsewhere"}}, {"value": {}}, {"value": {"files": 7}}],
    ids=str,
)
def test_position_the_source_cannot_resume_from_is_refused(changed: dict[str, Any], loaded: Path, dpone: Dpone) -> None:
    """A position of another kind or source, or with a value that means nothing to it, is refused before a change."""
    before = shown(dpone, loaded)
    position = json.dumps({**before["journal"]["position"], **changed})
    done = dpone("state", "set", loaded, "--stream", "orders", "--position", position, "--yes")
    assert done.exit_code in (1, 2, 3)
    assert done.error
    assert shown(dpone, loaded) == before


@pytest.mark.parametrize("command", [["show"], ["history"], ["set", "--beginning", "--yes"]], ids=lambda c: c[0])
def test_unknown_stream_is_named(command: list[str], loaded: Path, dpone: Dpone) -> None:
    """A stream that the pipeline lacks is one line that names those it has."""
    done = dpone("state", command[0], loaded, "--stream", "nosuch", *command[1:])
    assert done.exit_code == 2
    assert "nosuch" in done.error
    assert "orders" in done.error


def test_set_without_a_terminal_wants_yes(loaded: Path, dpone: Dpone) -> None:
    """A script must say --yes; without it nothing happens."""
    before = shown(dpone, loaded)
    done = dpone("state", "set", loaded, "--stream", "orders", "--beginning")
    assert done.exit_code == 2
    assert "--yes" in done.error
    assert shown(dpone, loaded) == before


@pytest.mark.parametrize(("answer", "epoch", "exit_code"), [("y\n", 1, 0), ("n\n", 0, 130), ("", 0, 130)])
def test_set_on_a_terminal_asks(
    answer: str, epoch: int, exit_code: int, loaded: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the change is shown and asked for, on stderr, so that stdout stays JSON."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    done = dpone("state", "set", loaded, "--stream", "orders", "--beginning", "--format", "json")
    assert done.exit_code == exit_code
    assert "set the position of orders to the beginning?" in done.err
    assert done.json
    assert shown(dpone, loaded)["journal"]["position"]["epoch"] == epoch


# -- move -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def renamed(loaded: Path, dpone: Dpone) -> tuple[Path, str]:
    """A pipeline that has run once and has another name now, and its key before."""
    old = shown(dpone, loaded)["key"]
    text = loaded.read_text()
    name = old.split("|")[0]
    assert f"pipeline: {name}" in text
    loaded.write_text(text.replace(f"pipeline: {name}", "pipeline: another"))
    return loaded, old


def before_the_rename(text: str) -> str:
    return text.split("load ")[1].split()[0]


def test_show_prints_the_key(loaded: Path, dpone: Dpone) -> None:
    """What ``move`` wants as OLD is there to be copied."""
    assert f"  key      {shown(dpone, loaded)['key']}\n" in dpone("state", "show", loaded).out


def test_move_renames_the_key_and_says_what_it_moved(renamed: tuple[Path, str], dpone: Dpone) -> None:
    """A dry run prints what would be moved; the move prints what was; the next run has nothing to do."""
    pipeline, old = renamed
    assert dpone("run", pipeline, "-q").exit_code == 3
    before = shown(dpone, pipeline)
    planned = dpone("state", "move", pipeline, old, "orders", "--dry-run")
    assert planned.exit_code == 0
    assert planned.out.startswith("orders: would be moved\n")
    assert shown(dpone, pipeline) == before
    done = dpone("state", "move", pipeline, old, "orders", "--yes")
    assert done.exit_code == 0, done.err
    new = before["key"]
    lines = done.out.splitlines()
    assert lines[:3] == ["orders: moved", f"  from        {old}", f"  to          {new}"]
    assert lines[3].startswith("  journal     seq 1, load ")
    load_id = before_the_rename(planned.out)
    assert lines[4:] == ["  state       version 1", f"  partitions  load {load_id}, 2 of 2 staged"]
    after = shown(dpone, pipeline)
    assert (after["key"], after["agree"], after["journal"]["seq"], after["state"]["seq"]) == (new, True, 1, 1)
    [stream] = dpone("run", pipeline, "-q", "--format", "json").json["streams"]
    assert (stream["status"], stream["rows"]["read"], rows(pipeline)) == ("caught_up", 0, 3000)
    told = dpone("state", "move", pipeline, old, "orders", "--yes", "--format", "json").json
    assert (told["moved"], told["begun"], told["old"], told["new"], told["journal"]["seq"]) == (True, True, old, new, 1)


def test_what_move_refuses_is_one_line_and_changes_nothing(renamed: tuple[Path, str], dpone: Dpone) -> None:
    """No --yes, a key that is not there, a stream that is not there, a new key that exists: exit 2, journal and state
    as they were."""
    pipeline, old = renamed
    before = shown(dpone, pipeline)
    for given, says in (
        ((old, "orders"), "add --yes"),
        (("p|no|such|key", "orders", "--yes"), "move p|no|such|key: nothing was loaded under this key"),
        (("p|no|such|key", "orders", "--yes"), f"use one of its keys: '{old}'"),
        ((old, "nosuch", "--yes"), "another has no stream with key nosuch; choose one of its streams: orders"),
        ((before["key"], "orders", "--yes"), "the stream already has this key; use another key; nothing was changed"),
    ):
        done = dpone("state", "move", pipeline, *given)
        assert done.exit_code == 2
        assert says in done.error
        assert shown(dpone, pipeline) == before
    assert dpone("run", pipeline, "--full-refresh", "-q").exit_code == 0
    before = shown(dpone, pipeline)
    done = dpone("state", "move", pipeline, old, "orders", "--yes")
    assert done.exit_code == 2
    assert f"{before['key']} already exists: its journal ends with load {before['journal']['load_id']}; " in done.error
    assert shown(dpone, pipeline) == before
