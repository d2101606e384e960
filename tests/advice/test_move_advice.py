"""What ``dpone state move`` refuses, and a run under a key that was moved: doing what the message says ends in a green
run that loads each row once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from tests.advice.follow import Place, files, pipeline
from tests.cli.conftest import Done, dpone, install  # noqa: F401  # fixtures

Dpone = Callable[..., Done]
Change = Callable[[Path, Dpone], object]
FIXED = """
from attrs import evolve
from dpone.capability import Support
from dpone.connectors.sqlite.plugin import dpone_sinks as of_sqlite
from dpone.hookspecs import hookimpl

@hookimpl
def dpone_sinks():
    [record] = of_sqlite()
    capabilities = {**record.capabilities, "move": Support.NOT_IMPLEMENTED}
    return [evolve(record, name="zz_fixed", capabilities=capabilities)]
"""
MOVE = ("state", "move", "FILE", "OLD", "t", "--yes")
SET = ("state", "set", "FILE", "--stream", "t", "--position", "LAST", "--yes")
AGAIN = (*SET[:5], "--beginning", "--yes")
KEEP = "keep that key and set its position with 'dpone state set'"


def lay(folder: Path, sink: str = "sqlite") -> Path:
    """Of two files in a folder, merged by key."""
    place, path = Place(folder), folder / "pipeline.yaml"
    place.file("a.csv", "id,n\n1,10\n")
    place.file("b.csv", "id,n\n2,20\n")
    to = {"type": sink, "connection": "sqlite:///target.db", "table": "t"}
    path.write_text(yaml.safe_dump(pipeline(files("*.csv"), "merge", to, key=["id"])))
    return path


def shown(dpone: Dpone, path: Path) -> dict[str, object]:  # noqa: F811
    [standing] = dpone("state", "show", path, "--format", "json").json
    return dict(standing)


def renamed(path: Path) -> None:
    path.write_text(path.read_text().replace("pipeline: p\n", "pipeline: q\n"))


def read(dpone: Dpone, path: Path) -> int:  # noqa: F811
    """By a run that is green."""
    done = dpone("run", path, "-q", "--format", "json")
    assert done.exit_code == 0, done.err
    return int(done.json["streams"][0]["rows"]["read"])


def nothing(path: Path, dpone: Dpone) -> None:  # noqa: F811
    """The new name is all that changed."""


def loaded(path: Path, dpone: Dpone) -> None:  # noqa: F811
    """The new key has a journal of its own."""
    assert dpone("run", path, "-q", "--full-refresh").exit_code == 0


def lost(path: Path, dpone: Dpone) -> None:  # noqa: F811
    """And that journal is lost: the state alone is left."""
    loaded(path, dpone)
    with closing(sqlite3.connect(path.parent / "target.db")) as db, db:
        assert db.execute("DELETE FROM __dpone__loads WHERE key LIKE 'q|%'").rowcount == 1


@pytest.mark.parametrize(
    ("sink", "between", "refused", "advice", "followed", "reads"),
    [
        ("sqlite", nothing, MOVE[:-1], "add --yes", MOVE, 1),
        ("sqlite", nothing, (*MOVE[:4], "nobody", "--yes"), "choose one of its streams: t", MOVE, 1),
        ("sqlite", loaded, MOVE, KEEP, SET, 1),
        ("sqlite", loaded, MOVE, KEEP, AGAIN, 3),
        ("sqlite", lost, MOVE, KEEP, SET, 1),
        ("sqlite", lost, MOVE, KEEP, AGAIN, 3),
        ("zz_fixed", nothing, MOVE, "set the position under the new key with 'dpone state set'", SET, 1),
        ("zz_fixed", nothing, MOVE, "set the position under the new key with 'dpone state set'", AGAIN, 3),
    ],
)
def test_OUT_16_what_move_refuses_is_advised_to_a_green_run(
    tmp_path: Path,
    dpone: Dpone,  # noqa: F811
    install: Callable[[str, str], Path],  # noqa: F811
    sink: str,
    between: Change,
    refused: tuple[str, ...],
    advice: str,
    followed: tuple[str, ...],
    reads: int,
) -> None:
    """The command of the message is green; the next run reads from the position that it moved or set, and every row is
    there once."""
    install("zz_fixed", FIXED)
    path = lay(tmp_path, sink)
    assert read(dpone, path) == 2
    before = shown(dpone, path)
    journal = before["journal"]
    assert isinstance(journal, dict)
    given = {"FILE": path, "OLD": before["key"], "LAST": json.dumps(journal["position"])}
    renamed(path)
    between(path, dpone)
    stands = shown(dpone, path)
    done = dpone(*(given.get(word, word) for word in refused))
    assert done.exit_code == 2
    assert advice in done.error
    assert shown(dpone, path) == stands
    done = dpone(*(given.get(word, word) for word in followed))
    assert done.exit_code == 0, done.err
    Place(tmp_path).file("c.csv", "id,n\n3,30\n")
    assert (read(dpone, path), read(dpone, path)) == (reads, 0)
    assert Place(tmp_path).rows() == [{"id": 1, "n": 10}, {"id": 2, "n": 20}, {"id": 3, "n": 30}]


@pytest.mark.parametrize(
    "way",
    [
        "use the pipeline file with the new names",
        "move the key back with 'dpone state move'",
    ],
)
def test_OUT_16_a_run_under_a_key_that_was_moved_is_advised_to_a_green_run(
    tmp_path: Path,
    dpone: Dpone,  # noqa: F811
    way: str,
) -> None:
    """The old pipeline file loads nothing; the new one goes on, and so does the old one once its key is back."""
    path = lay(tmp_path)
    assert read(dpone, path) == 2
    old, text = shown(dpone, path)["key"], path.read_text()
    renamed(path)
    new, now = shown(dpone, path)["key"], path.read_text()
    assert dpone("state", "move", path, old, "t", "--yes").exit_code == 0
    path.write_text(text)
    Place(tmp_path).file("c.csv", "id,n\n3,30\n")
    stopped = dpone("run", path, "-q")
    assert stopped.exit_code == 3
    assert way in stopped.err
    if way.startswith("use"):
        path.write_text(now)
    else:
        assert dpone("state", "move", path, new, "t", "--yes").exit_code == 0
    assert (read(dpone, path), read(dpone, path)) == (1, 0)
    assert Place(tmp_path).rows() == [{"id": 1, "n": 10}, {"id": 2, "n": 20}, {"id": 3, "n": 30}]
