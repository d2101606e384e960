"""``dpone cdc replay-plan`` and ``replay --execute`` over a change log, which keeps everything."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.schemas import require_valid
from tests.postgres.test_kill_matrix import STEPS, run  # noqa: F401  # a fixture

from dpone.connectors.file.changelog import FileChangeLog

Dpone = Callable[..., Any]
Run = Callable[..., Mapping[str, Any]]
PIPELINE = """\
pipeline: shop
source: {type: file, path: changes.jsonl, table: "*", options: {incremental: {by: cdc, limit: 2}}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: "now_{table}", strategy: STRATEGY}
state: {type: sqlite, connection: "sqlite:///state.db"}
runtime: {retries: 0}
"""
STRATEGIES = {
    "append": "{mode: append}",
    "cdc_apply": "{mode: cdc_apply, truncate: apply}",
    "soft": "{mode: cdc_apply, deletes: soft, truncate: apply}",
    "scd2": "{mode: scd2, truncate: apply}",
}
OWN = {"__dpone__load_id", "__dpone__loaded_at"}


def change(op: str, id: int, table: str = "orders", **values: Any) -> dict[str, Any]:
    return {"op": op, "table": table, "key": {"id": id}, **({"values": {"id": id, **values}} if op != "delete" else {})}


def write(folder: Path, *transactions: list[dict[str, Any]]) -> None:
    log = folder / "changes.jsonl"
    before = log.read_text().count('"op": "commit"') if log.exists() else 0
    with log.open("a") as out:
        for number, transaction in enumerate(transactions, before + 1):
            commit = f"{number:04}"
            for one in [*transaction, {"op": "commit"}]:
                out.write(json.dumps({**one, "commit": commit, "at": f"2026-01-01T00:{number:02}:00Z"}) + "\n")


FIRST = [change("insert", n, item=f"item {n}", n=0) for n in range(1, 5)]
SECOND = (
    [change("update", 1, item="changed", n=1), change("insert", 9, "bills", amount=1)],
    [change("delete", 2), change("insert", 5, item="new", n=0)],
    [{"op": "update", "table": "orders", "key": {"id": 3}, "values": {"n": 7}}],
    [change("insert", 2, item="again", n=2), change("update", 9, "bills", amount=2)],
)


def lay(folder: Path, strategy: str) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder, FIRST, *SECOND)
    path = folder / "pipeline.yaml"
    path.write_text(PIPELINE.replace("STRATEGY", STRATEGIES[strategy]))
    return path


def loaded(folder: Path, strategy: str, dpone: Dpone) -> Path:
    """Each run takes a few changes: the history has several positions."""
    path = lay(folder, strategy)
    for _ in range(10):
        if "caught_up" in str(dpone("run", path, "--format", "json").json["streams"][0]["status"]):
            return path
    raise AssertionError("it does not catch up")


def target(folder: Path) -> dict[str, list[Any]]:
    """Each row of each table, but for the load that wrote it."""
    found = {}
    with closing(sqlite3.connect(folder / "warehouse.db")) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'now_%' ORDER BY name").fetchall():
            columns = [c for _, c, *_ in db.execute(f'PRAGMA table_info("{name}")') if c not in OWN]
            names = ", ".join(f'"{c}"' for c in sorted(columns))
            found[name] = sorted(db.execute(f'SELECT {names} FROM "{name}"').fetchall(), key=repr)
    return found


def everything(folder: Path) -> list[str]:
    found = []
    for name in ("state.db", "warehouse.db"):
        with closing(sqlite3.connect(folder / name)) as db:
            found += list(db.iterdump())
    return found


def plan(dpone: Dpone, path: Path, *options: str, code: int = 0) -> dict[str, Any]:
    done = dpone("cdc", "replay-plan", path, *options, "--format", "json")
    assert done.exit_code == code, (done.out, done.err)
    require_valid("cdc-replay-plan.json", done.json)
    [one] = done.json
    assert one["executable"] is (code == 0)
    return dict(one)


def execute(dpone: Dpone, path: Path, *options: str, code: int = 0) -> dict[str, Any]:
    done = dpone("cdc", "replay", path, "--execute", *options, "--format", "json")
    require_valid("cdc-replay.json", done.json)
    assert done.exit_code == code, (done.out, done.err)
    [one] = done.json
    return dict(one)


def history(dpone: Dpone, path: Path) -> list[dict[str, Any]]:
    return list(dpone("state", "history", path, "--format", "json").json)


def test_a_plan_says_what_would_be_read_and_touches_nothing(tmp_path: Path, dpone: Dpone) -> None:
    """From the earliest position that was saved, or the given one, to the end of the log; changes are counted by hand
    here; neither state, target nor log are written."""
    path = loaded(tmp_path, "append", dpone)
    write(tmp_path, [change("insert", 30, item="x", n=0)])
    before, log = everything(tmp_path), (tmp_path / "changes.jsonl").read_bytes()
    one, saved = plan(dpone, path), history(dpone, path)
    first, last = saved[-1], saved[0]
    assert (one["from"]["load_id"], one["applied"]["load_id"]) == (first["state"]["load_id"], last["state"]["load_id"])
    assert (one["from"]["position"], one["to"]) == (first["state"]["position"], f"byte {len(log)}")
    assert one["events"] == {"total": 8, "applied": 7}  # the first window has the first transaction alone
    begin, end = (s["state"]["position"]["value"]["offset"] for s in (first, last))
    assert one["log_bytes"] == {"total": len(log) - begin, "applied": end - begin}
    for start in (last["state"]["load_id"], json.dumps(last["state"]["position"])):
        assert plan(dpone, path, "--from", start)["events"] == {"total": 1, "applied": 0}
    text = dpone("cdc", "replay-plan", path).out
    for part in ("nothing was changed", f"after load {first['state']['load_id']}", "8, of which the target has 7"):
        assert part in text
    assert (everything(tmp_path), (tmp_path / "changes.jsonl").read_bytes()) == (before, log)
    assert dpone("cdc", "replay", path, "--format", "json").json[0]["run"] is None
    assert everything(tmp_path) == before


def test_a_plan_reads_the_log_once(tmp_path: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many positions were saved: each byte after the earliest of them is read at most once, and the counts are
    those of a plan that begins there."""
    path = loaded(tmp_path, "append", dpone)
    write(tmp_path, [change("insert", 30, item="x", n=0)])
    read, real = [], FileChangeLog._survey

    def survey(self: Any, start: int, mark: str, lines: int, size: int, limit: int | None) -> Any:
        read.append(size - start)
        return real(self, start, mark, lines, size, limit)

    monkeypatch.setattr(FileChangeLog, "_survey", survey)
    one = plan(dpone, path)
    assert len(history(dpone, path)) >= 3
    assert sum(read) == one["log_bytes"]["total"]
    assert one["events"] == {"total": 8, "applied": 7}
    assert plan(dpone, path, "--from", one["from"]["load_id"])["events"] == one["events"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_second_delivery_makes_no_difference(tmp_path: Path, dpone: Dpone, strategy: str) -> None:
    """All changes are read again, twice, and the target has each row as before; then a third time with one that is
    new. Each replay is one load in a new epoch, verified; what was lost of a history comes back."""
    path = loaded(tmp_path, strategy, dpone)
    before, epochs = target(tmp_path), [0]
    for _ in range(2):
        done = execute(dpone, path)
        assert target(tmp_path) == before
        assert done["after"]["agree"]
        epochs.append(done["after"]["journal"]["position"]["epoch"])
        assert done["after"]["journal"]["load_id"] == done["run"]["streams"][0]["load_id"]
    assert epochs == sorted({*epochs})
    if strategy == "append":
        with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db, db:
            db.execute("DELETE FROM now_orders WHERE __dpone__commit > '0001'")
        execute(dpone, path)
        assert target(tmp_path) == before
    write(tmp_path, [change("insert", 77, item="late", n=0)])
    execute(dpone, path)
    shutil.copytree(tmp_path, tmp_path / "other")
    other = tmp_path / "other"
    for name in ("state.db", "warehouse.db"):
        (other / name).unlink()
    while dpone("run", other / "pipeline.yaml", "--format", "json").json["streams"][0]["status"] != "caught_up":
        pass
    assert target(tmp_path) == target(other)
    assert dpone("run", path).exit_code == 0
    assert target(tmp_path) == target(other)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_replay_killed_at_any_step_is_mended(
    run: Run,  # noqa: F811
    tmp_path: Path,
    dpone: Dpone,
    strategy: str,
) -> None:
    """Executed again, or by the next run, in turns: the target of an undisturbed replay, and one journal that the
    state agrees with."""
    start = tmp_path / "start"
    path = loaded(start, strategy, dpone)
    write(start, [change("insert", 77, item="late", n=0)])
    calm = tmp_path / "calm"
    shutil.copytree(start, calm)
    execute(dpone, calm / "pipeline.yaml")
    wanted = target(calm)
    assert wanted != target(start)
    for number, step in enumerate(STEPS, [*STRATEGIES].index(strategy)):
        folder = tmp_path / step
        shutil.copytree(start, folder)
        path = folder / "pipeline.yaml"
        assert run(path, replay={}, step=step)["code"] == -9, step
        if number % 2:
            execute(dpone, path)
        else:
            assert dpone("run", path).exit_code == 0, step
        assert target(folder) == wanted, step
        [state] = dpone("state", "show", path, "--format", "json").json
        assert state["agree"], step


def test_a_restored_target_is_replayed(tmp_path: Path, dpone: Dpone) -> None:
    """A run stops, as the state is ahead of the journal; the plan begins before what the target has, and the replay
    leaves what the target had before it was restored."""
    path = lay(tmp_path, "cdc_apply")
    for _ in range(2):
        assert dpone("run", path).exit_code == 0
    shutil.copy(tmp_path / "warehouse.db", tmp_path / "backup.db")
    while dpone("run", path, "--format", "json").json["streams"][0]["status"] != "caught_up":
        pass
    wanted = target(tmp_path)
    shutil.copy(tmp_path / "backup.db", tmp_path / "warehouse.db")
    assert dpone("run", path).exit_code == 3
    status = dpone("cdc", "status", path, "--format", "json")
    require_valid("cdc-status.json", status.json)
    [advice] = [one["todo"] for one in status.json[0]["findings"] if one["ok"] is False]
    assert (status.exit_code, "was restored from a backup, use 'dpone cdc replay --execute'" in advice) == (1, True)
    one = plan(dpone, path)
    assert "state" in [warning["name"] for warning in one["warnings"]]
    newest = history(dpone, path)[0]["state"]["load_id"]
    after = plan(dpone, path, "--from", newest, code=3)
    assert [blocker["name"] for blocker in after["blockers"]] == ["after_target"]
    assert execute(dpone, path, "--from", newest, code=3)["run"] is None
    execute(dpone, path)
    assert target(tmp_path) == wanted
    assert dpone("run", path).exit_code == 0


MOVED = (
    [{"op": "update", "table": "orders", "key": {"id": 4}, "values": {"id": 100}, "unchanged": ["item", "n"]}],
    [change("insert", 4, item="another row", n=0)],
)


@pytest.mark.parametrize("reused", [True, False])
def test_values_are_never_taken_from_another_row(tmp_path: Path, dpone: Dpone, reused: bool) -> None:
    """A row moved to another key without its values, which now belong to another row, or to none: the replay fails by
    name and changes nothing; a full refresh, as it says, leaves the same rows."""
    path = loaded(tmp_path, "cdc_apply", dpone)
    write(tmp_path, *MOVED[: 1 + reused])
    while dpone("run", path, "--format", "json").json["streams"][0]["status"] != "caught_up":
        pass
    before = target(tmp_path)
    done = execute(dpone, path, code=1)
    message = done["run"]["streams"][0]["error"]["message"]
    assert "1 change of a key left out values, which only the row with the old key had" in message
    assert target(tmp_path) == before
    assert dpone("run", path).exit_code == 0
    assert dpone("run", path, "--full-refresh").exit_code == 0
    assert target(tmp_path) == before


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ("nothing loaded", "not_loaded"), ("target dropped", "state"), ("only one position", "log_gone"),
        ("paused", "paused"),
        ("cut log", "log"), ("lost log", "log"), ("append to files", "no_merge"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_named(tmp_path: Path, dpone: Dpone, broken: str, name: str) -> None:
    """Exit code 3 for the plan and for the execution, which changes nothing."""
    path = lay(tmp_path, "append")
    if broken == "append to files":
        sink = 'sink: {type: file, path: "out", strategy: {mode: append}}'
        text = path.read_text().replace('table: "*"', "table: orders")
        path.write_text("\n".join(sink if line.startswith("sink") else line for line in text.splitlines()))
    runs = {"nothing loaded": 0, "only one position": 1}.get(broken, 3)
    for _ in range(runs):
        assert dpone("run", path).exit_code == 0
    if broken == "paused":
        assert dpone("cdc", "pause", path, "--reason", "r").exit_code == 0
    if broken == "target dropped":
        assert plan(dpone, path)["blockers"] == []
        (tmp_path / "warehouse.db").unlink()
    if broken == "cut log":
        (tmp_path / "changes.jsonl").write_text("{")
    if broken == "lost log":
        (tmp_path / "changes.jsonl").unlink()
    one = plan(dpone, path, code=3)
    assert (one["to"] is None) == (broken in ("nothing loaded", "target dropped", "cut log", "lost log"))
    assert "to byte 0" not in re.sub(" +", " ", dpone("cdc", "replay-plan", path).out)
    assert name in [blocker["name"] for blocker in one["blockers"]]
    assert all(blocker["todo"] for blocker in one["blockers"])
    before = dpone("state", "show", path, "--format", "json").json
    assert execute(dpone, path, code=3)["run"] is None
    assert dpone("state", "show", path, "--format", "json").json == before


def test_a_start_that_is_unknown_is_refused(tmp_path: Path, dpone: Dpone) -> None:
    """Neither JSON nor a load: exit code 2 in one line. A position of another log is a blocker."""
    path = loaded(tmp_path, "append", dpone)
    done = dpone("cdc", "replay-plan", path, "--from", "yesterday")
    assert (done.exit_code, "neither a position nor a load" in done.err, len(done.err.splitlines())) == (2, True, 1)
    oldest = history(dpone, path)[-1]["state"]
    assert plan(dpone, path, "--from", oldest["load_id"])["from"]["position"] == oldest["position"]
    position = oldest["position"]
    one = plan(dpone, path, "--from", json.dumps({**position, "identity": {"path": "other"}}), code=3)
    assert [blocker["name"] for blocker in one["blockers"]] == ["log"]


def test_a_source_with_another_history_is_not_replayed(tmp_path: Path, dpone: Dpone) -> None:
    """The log is as it was up to the start, and another one before what the target has: the replay stops as a run does,
    and changes nothing."""
    path = loaded(tmp_path, "cdc_apply", dpone)
    log = tmp_path / "changes.jsonl"
    log.write_text(log.read_text().replace('"item": "again"', '"item": "other"'))
    plan(dpone, path)
    before = target(tmp_path)
    done = execute(dpone, path, code=3)
    assert done["run"]["streams"][0]["error"]["kind"] == "IdentityChanged"
    assert (target(tmp_path), dpone("run", path).exit_code) == (before, 3)


def test_OUT_16_a_start_needs_one_stream(tmp_path: Path, dpone: Dpone) -> None:
    """Of several streams the one is chosen that --stream names, as the message says."""
    path = loaded(tmp_path, "append", dpone)
    data = yaml.safe_load(path.read_text())
    streams = [
        {"name": name, "source": data["source"], "sink": {**data["sink"], "table": f"{name}_{{table}}"}}
        for name in ("one", "two")
    ]
    path.write_text(yaml.safe_dump({"pipeline": "shop", "streams": streams, "state": data["state"]}))
    for _ in range(2):
        assert dpone("run", path).exit_code == 0
    load = history(dpone, path)[0]["state"]["load_id"]
    done = dpone("cdc", "replay-plan", path, "--from", load)
    assert (done.exit_code, "the pipeline has several: one, two; choose one with --stream" in done.err) == (2, True)
    assert plan(dpone, path, "--from", load, "--stream", "one")["from"]["load_id"] == load
    assert len(dpone("cdc", "replay-plan", path, "--format", "json").json) == 2


def test_a_plan_that_was_overtaken_is_refused(tmp_path: Path, run: Run, dpone: Dpone) -> None:  # noqa: F811
    """Another run loads between plan and lock: Conflict, and nothing was changed."""
    from dpone.config.reader import load_pipeline
    from dpone.ops.replay import replay, replay_plans

    path = loaded(tmp_path, "append", dpone)
    pipeline = load_pipeline(path)
    plans = replay_plans(pipeline)
    write(tmp_path, [change("insert", 30, item="x", n=0)])
    assert dpone("run", path).exit_code == 0
    before = everything(tmp_path)
    [done] = replay(pipeline, plans)
    assert (done.exit_code, done.run.streams[0].error is not None) == (3, True)
    found, before = (
        [line for line in lines if "locks" not in line and "__dpone__runs" not in line]
        for lines in (everything(tmp_path), before)
    )
    assert found == before
