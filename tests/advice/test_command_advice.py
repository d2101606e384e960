"""What a command refuses, and that the command its message asks for is green."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.advice.follow import Place, files, pipeline
from tests.cdc.log import insert, transaction
from tests.cli.conftest import Done, dpone  # noqa: F401  # a fixture

import dpone as api
from dpone.engine.undo import undo
from dpone.errors import UndoRefused

Dpone = Callable[..., Done]
PLAN = ("cdc-plan", "--backend", "postgres_logical", "--schema", "shop", "--slot-name", "s", "--publication-name", "p")
LOG = {"type": "file", "path": "log.jsonl", "table": "s", "options": {"incremental": {"by": "cdc"}}}
ROWS, ONE = (pipeline(files(path), "merge", key=["id"]) for path in ("*.csv", "a.csv"))


def two() -> dict[str, Any]:
    data = pipeline(files("*.csv"), "merge", key=["id"])
    source, sink = data.pop("source"), data.pop("sink")
    return {**data, "streams": [{"name": name, "source": source, "sink": {**sink, "table": name}} for name in "ab"]}


def path_of(folder: Path, data: Any) -> Path:
    place = Place(folder)
    place.file("a.csv", "id,n\n1,10\n")
    place.file("b.csv", "id,n\n2,20\n")
    place.file("log.jsonl", transaction("01", insert("s", {"id": 1}, n=10)))
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


SET = ("state", "set", "FILE", "--stream", "t")
GLOB = pipeline(
    {"type": "postgres", "connection": "postgres://r@127.0.0.1/shop", "table": "sales.*",
     "options": {"incremental": {"by": "cdc"}, "slot": "s", "publication": "p"}},
    "cdc_apply", {"type": "sqlite", "connection": "sqlite:///w.db", "table": "l_{table}"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "refused", "advice", "followed"),
    [
        (ROWS, SET, "use exactly one of --position, --position-file, --beginning", [(*SET, "--beginning", "--yes")]),
        (ROWS, (*SET, "--beginning"), "add --yes", [(*SET, "--beginning", "--yes")]),
        (
            ROWS, (*SET, "--position", "{}", "--yes"), "that 'dpone state show --format json' prints",
            [(*SET, "--position", "SHOWN", "--yes")],
        ),
        (
            ROWS, (*SET, "--position", "OTHER VALUE", "--yes"), "copy a position from 'dpone state history'",
            [(*SET, "--position", "HISTORY", "--yes")],
        ),
        (
            ROWS, (*SET, "--position", "OTHER PATH", "--yes"), "restore the path",
            [(*SET, "--position", "SHOWN", "--yes")],
        ),
        (
            pipeline(LOG, "cdc_apply"), (*SET, "--position", "OTHER PATH", "--yes"), "restore the path",
            [(*SET, "--position", "SHOWN", "--yes")],
        ),
        (
            pipeline(LOG, "cdc_apply"), ("cdc", "resync", "FILE", "--table", "s"), "use 'dpone run --full-refresh'",
            [("run", "FILE", "--full-refresh")],
        ),
        (pipeline(LOG, "cdc_apply"), ("cdc", "drop", "FILE"), "add --yes", [("cdc", "drop", "FILE", "--yes")]),
        (
            ROWS, ("cdc", "lag", "FILE"), "add source.options.incremental: {by: cdc}",
            [("CDC",), ("cdc", "lag", "FILE")],
        ),
        (GLOB, ("cdc-plan", "--pipeline", "FILE"), "name each table with --table",
         [("cdc-plan", "--pipeline", "FILE", "--table", "sales.orders")]),
        (GLOB, PLAN[:3], "add --schema, --table, or --pipeline",
         [(*PLAN[:5], "--table", "t", *PLAN[5:]), ("cdc-plan", "--pipeline", "FILE", "--table", "sales.orders")]),
        (GLOB, (*PLAN, "--table", "*"), "name each table with --table", [(*PLAN, "--table", "t")]),
        (
            GLOB, ("cdc-plan", "--backend", "file_changelog", "--schema", "a", "--table", "b", "--role", "r"),
            "remove --role", [("cdc-plan", "--backend", "file_changelog", "--schema", "a", "--table", "b")],
        ),
        (
            ROWS, ("partitions", "retry", "FILE", "0", "--from-scratch"), "remove the IDs",
            [("partitions", "retry", "FILE", "--from-scratch")],
        ),
        (ONE, ("partitions", "retry", "FILE", "0"), "see 'dpone partitions show'", [("partitions", "show", "FILE")]),
        (
            two(), ("partitions", "retry", "FILE", "--from-scratch"), "choose one with --stream: a, b",
            [("partitions", "retry", "FILE", "--from-scratch", "--stream", "a")],
        ),
        (ROWS, ("certify", "--evidence", "none"), "use the folder that 'pytest --dpone-evidence DIR' wrote",
         [("certify", "--evidence", "FOLDER")]),
        (
            GLOB, ("init", "FOLDER", "--sql"), "add --connector NAME",
            [("init", "FOLDER", "--sql", "--connector", "acme")],
        ),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else None,
)  # fmt: skip
def test_OUT_16_the_command_of_the_message_is_green(
    tmp_path: Path,
    dpone: Dpone,  # noqa: F811
    data: Any,
    refused: tuple[str, ...],
    advice: str,
    followed: list[tuple[str, ...]],
) -> None:
    """One line that names it; then 0, and where the pipeline can run, a green run."""
    path, runs = path_of(tmp_path, data), data is not GLOB
    if runs:
        assert dpone("run", path, "-q").exit_code == 0

    def filled(words: tuple[str, ...]) -> list[object]:
        given: dict[str, Any] = {"FILE": path, "FOLDER": tmp_path}
        if {"SHOWN", "HISTORY", "OTHER PATH", "OTHER VALUE"} & {*words}:
            [shown] = dpone("state", "show", path, "--format", "json").json
            [saved] = dpone("state", "history", path, "--format", "json").json
            position = shown["journal"]["position"]
            given |= {"SHOWN": json.dumps(position), "HISTORY": json.dumps(saved["state"]["position"])}
            given["OTHER PATH"] = json.dumps({**position, "identity": {"path": "elsewhere"}})
            given["OTHER VALUE"] = json.dumps({**position, "value": {}})
        return [given.get(word, word) for word in words]

    done = dpone(*filled(refused))
    assert done.exit_code in (1, 2, 3), done.err
    assert advice in done.err
    for words in followed:
        if words == ("CDC",):
            data = {**data, "source": LOG, "sink": {**data["sink"], "table": "u", "strategy": {"mode": "cdc_apply"}}}
            path.write_text(yaml.safe_dump(data))
            continue
        done = dpone(*filled(words))
        assert done.exit_code == 0, done.err
    assert not runs or dpone("run", path, "-q").exit_code == 0


@pytest.mark.parametrize("sink", ["sqlite", "file"])
def test_OUT_16_a_load_of_which_nothing_is_kept_is_moved_again(
    tmp_path: Path,
    dpone: Dpone,  # noqa: F811
    sink: str,
) -> None:
    """'dpone state set' or --full-refresh, whichever the message names, moves its rows again."""
    to = {"type": "file", "path": "t"} if sink == "file" else None
    path = path_of(
        tmp_path, pipeline(files("*.csv"), "full_refresh" if to else "merge", to, **({} if to else ROWS_KEY))
    )
    [load] = api.run(path).streams
    with pytest.raises(UndoRefused) as refused:
        undo(path, "t", load.load_id or "")
    message = str(refused.value)
    assert "--full-refresh" in message
    if "'dpone state set'" in message:
        assert dpone("state", "set", path, "--stream", "t", "--beginning", "--yes").exit_code == 0
        [again] = api.run(path).streams
        assert (again.error, again.rows.read) == (None, 2)
    [again] = api.run(path, full_refresh=True).streams
    assert (again.error, again.rows.read) == (None, 2)


ROWS_KEY = {"key": ["id"]}


@pytest.mark.parametrize("way", ["--full-refresh", "state set"])
def test_OUT_16_a_target_that_was_restored_is_advised_to_a_green_run(
    tmp_path: Path,
    dpone: Dpone,  # noqa: F811
    way: str,
) -> None:
    """The journal of a backup ends before the state: both ways of the message load what is lacking."""
    path, target = path_of(tmp_path, ROWS), tmp_path / "target.db"
    (tmp_path / "b.csv").rename(tmp_path / "b.later")
    assert dpone("run", path, "-q").exit_code == 0
    backup = target.read_bytes()
    (tmp_path / "b.later").rename(tmp_path / "b.csv")
    assert dpone("run", path, "-q").exit_code == 0
    target.write_bytes(backup)
    stopped = dpone("run", path, "-q")
    assert stopped.exit_code == 3
    assert (
        "was restored, dropped or replaced, use --full-refresh or set a position with 'dpone state set'" in stopped.err
    )
    if way == "state set":
        assert dpone("state", "set", path, "--stream", "t", "--beginning", "--yes").exit_code == 0
    assert dpone("run", path, "-q", *([way] if way.startswith("--") else [])).exit_code == 0
    assert Place(tmp_path).rows() == [{"id": 1, "n": 10}, {"id": 2, "n": 20}]


def test_OUT_16_a_damaged_position_of_the_journal(tmp_path: Path, dpone: Dpone) -> None:  # noqa: F811
    """The way of the message leads on from a journal whose newest position is not JSON."""
    path = path_of(tmp_path, ROWS)
    assert dpone("run", path, "-q").exit_code == 0
    with closing(sqlite3.connect(tmp_path / "target.db")) as db, db:
        db.execute("UPDATE __dpone__loads SET position = 'x'")
    stopped = dpone("run", path, "-q")
    assert stopped.exit_code == 1
    assert "restore the position that 'dpone state history --format json' shows for its load" in stopped.err
    [saved] = dpone("state", "history", path, "--format", "json").json
    with closing(sqlite3.connect(tmp_path / "target.db")) as db, db:
        where = "UPDATE __dpone__loads SET position = ? WHERE load_id = ?"
        db.execute(where, (json.dumps(saved["state"]["position"]), saved["state"]["load_id"]))
    assert dpone("run", path, "-q").exit_code == 0
    assert Place(tmp_path).rows() == [{"id": 1, "n": 10}, {"id": 2, "n": 20}]


def test_OUT_16_a_connector_that_is_not_installed(tmp_path: Path, dpone: Dpone) -> None:  # noqa: F811
    """One of the names in the message is green."""
    path = path_of(tmp_path, {**ROWS, "sink": {**ROWS["sink"], "type": "sqlit"}})
    refused = dpone("run", path, "-q")
    assert refused.exit_code == 2
    assert "use one of: " in refused.err
    assert "sqlite" in refused.err
    path.write_text(path.read_text().replace("type: sqlit\n", "type: sqlite\n"))
    assert dpone("run", path, "-q").exit_code == 0
