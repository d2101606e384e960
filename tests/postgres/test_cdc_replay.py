"""Replay of a replication slot: what was loaded and not acknowledged can be read again, and nothing before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import dpone as dpone
from tests.cli.schemas import require_valid
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import begin, lay, require_equal
from tests.postgres.test_kill_matrix import STEPS, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.postgres
Dpone = Callable[..., Any]
Run = Callable[..., Mapping[str, Any]]


def change(source: ChangeSource) -> None:
    """Inserts, updates that leave a long value alone, deletes, over both tables."""
    source.run(
        "INSERT INTO orders VALUES (100, 1, 'new')",
        "BEGIN; UPDATE orders SET n = n + 1 WHERE id <= 5; DELETE FROM bills WHERE id = 1; COMMIT",
        "DELETE FROM orders WHERE id = 8",
        "INSERT INTO bills VALUES (50, 2)",
        "UPDATE orders SET n = n + 1 WHERE id <= 2",
    )


def unacknowledged(
    source: ChangeSource, run: Run, folder: Path, sink: str, mode: str = "cdc_apply"  # noqa: F811
) -> Path:  # fmt: skip
    """A load that was killed before the slot was moved."""
    begin(source)
    pipeline = lay(folder, source, sink)
    if mode == "append":
        data = yaml.safe_load(pipeline.read_text())
        data["sink"]["strategy"] = {"mode": "append"}
        pipeline.write_text(yaml.safe_dump(data))
    assert run(pipeline)["code"] == 0
    change(source)
    assert run(pipeline, step="state_saved")["code"] == -9
    return pipeline


def plan(dpone: Dpone, pipeline: Path, code: int = 0) -> dict[str, Any]:
    done = dpone("cdc", "replay-plan", pipeline, "--format", "json")
    assert done.exit_code == code, (done.out, done.err)
    require_valid("cdc-replay-plan.json", done.json)
    [one] = done.json
    return dict(one)


def test_what_was_acknowledged_is_gone(tmp_path: Path, source: ChangeSource, run: Run, dpone: Dpone) -> None:  # noqa: F811
    """log_gone names the position; the command it names, with a table, and a run leave the rows of the source. The
    slot is not moved by a plan."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert run(pipeline)["code"] == 0
    change(source)
    assert run(pipeline)["code"] == 0
    before = source.confirmed()
    one = plan(dpone, pipeline, 3)
    [blocker] = one["blockers"]
    assert (blocker["name"], before in blocker["found"]) == ("log_gone", True)
    assert dpone("cdc", "replay", pipeline, "--execute").exit_code == 3
    assert source.confirmed() == before
    assert f"dpone cdc resync PIPELINE --stream {one['stream']} --table NAME" in blocker["todo"]
    table = f"{source.schema}.orders"
    assert dpone("cdc", "resync", pipeline, "--stream", one["stream"], "--table", table).exit_code == 0
    assert run(pipeline)["code"] == 0
    require_equal(source, tmp_path, "sqlite", "afterwards")


def test_a_restored_target_that_the_slot_is_beyond_is_not_replayed(
    tmp_path: Path, source: ChangeSource, run: Run, dpone: Dpone  # noqa: F811
) -> None:  # fmt: skip
    """Later positions can be read from, but would leave out what the restored target lacks: log_gone, and a run stops
    as well; all tables read again are what helps."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert run(pipeline)["code"] == 0
    backup = (tmp_path / "warehouse.db").read_bytes()
    change(source)
    assert run(pipeline)["code"] == 0
    (tmp_path / "warehouse.db").write_bytes(backup)
    assert run(pipeline)["code"] == 3
    one = plan(dpone, pipeline, 3)
    assert (one["from"], {blocker["name"] for blocker in one["blockers"]}) == (None, {"log_gone", "position"})
    assert run(pipeline, options={"full_refresh": True})["code"] == 0
    require_equal(source, tmp_path, "sqlite", "read again")


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_a_second_delivery_makes_no_difference(
    tmp_path: Path, source: ChangeSource, run: Run, dpone: Dpone, sink: str  # noqa: F811
) -> None:  # fmt: skip
    """The window that was not acknowledged is read again twice, with a change that came since; each time the target
    has the rows of the source, in a new epoch; then it is acknowledged, and gone."""
    pipeline = unacknowledged(source, run, tmp_path, sink)
    one = plan(dpone, pipeline)
    assert one["from"]["at"] == source.confirmed()
    assert one["from"]["load_id"] != one["applied"]["load_id"]
    assert one["log_bytes"]["total"] >= one["log_bytes"]["applied"] > 0
    assert one["events"] == {"total": None, "applied": None}
    for _ in range(2):
        assert run(pipeline, replay={}, step="state_saved")["code"] == -9
        require_equal(source, tmp_path, sink, "replayed")
        source.run("UPDATE orders SET n = n + 1 WHERE id = 3")
    done = dpone("cdc", "replay", pipeline, "--execute", "--format", "json")
    assert done.exit_code == 0, (done.out, done.err)
    require_valid("cdc-replay.json", done.json)
    [found] = done.json
    assert (found["after"]["agree"], found["after"]["journal"]["position"]["epoch"]) == (True, 3)
    require_equal(source, tmp_path, sink, "and once more")
    assert found["after"]["journal"]["position"]["value"]["lsn"] == source.confirmed()
    assert [blocker["name"] for blocker in plan(dpone, pipeline, 3)["blockers"]] == ["log_gone"]


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_a_replay_killed_at_any_step_is_mended(
    tmp_path: Path, source: ChangeSource, run: Run, dpone: Dpone, sink: str  # noqa: F811
) -> None:  # fmt: skip
    """Executed again where the source still has the changes, else by the next run: the rows of the source; the slot
    never passes the position."""
    for step in STEPS:
        folder = tmp_path / step
        pipeline = unacknowledged(source, run, folder, sink)
        slot = source.confirmed()
        assert run(pipeline, replay={}, step=step)["code"] == -9, step
        if step == "acknowledged":
            assert plan(dpone, pipeline, 3)["blockers"][0]["name"] == "log_gone"
            assert run(pipeline)["code"] == 0
        else:
            assert source.confirmed() == slot, step
            done = dpone("cdc", "replay", pipeline, "--execute")
            assert done.exit_code == 0, (step, done.out, done.err)
        require_equal(source, folder, sink, step)
        assert run(pipeline)["code"] == 0
        require_equal(source, folder, sink, step)


def test_a_history_gets_each_change_once(tmp_path: Path, source: ChangeSource, run: Run, dpone: Dpone) -> None:  # noqa: F811
    """append: a change that the target has is not added again, one that was deleted there comes back."""
    pipeline = unacknowledged(source, run, tmp_path, "postgres", "append")
    names = "__dpone__event_id, __dpone__op, id, n, long"
    before = source.query(f"SELECT {names} FROM landing_orders ORDER BY 1")
    source.run("DELETE FROM landing_orders WHERE id = 100")
    done = dpone("cdc", "replay", pipeline, "--execute")
    assert done.exit_code == 0, (done.out, done.err)
    assert source.query(f"SELECT {names} FROM landing_orders ORDER BY 1") == before
    assert "1 inserted, 0 updated" in done.out


def test_values_are_never_taken_from_another_row(tmp_path: Path, source: ChangeSource, run: Run, dpone: Dpone) -> None:  # noqa: F811
    """A key that changed, with a long value that the log left out: the row that had it is another one now. The replay
    fails by name, and resync, as it says, leaves the rows of the source."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert run(pipeline)["code"] == 0
    source.run("UPDATE orders SET id = 200 WHERE id = 6", "INSERT INTO orders VALUES (6, 6, 'another')")
    assert run(pipeline, step="state_saved")["code"] == -9
    require_equal(source, tmp_path, "sqlite", "loaded")
    done = dpone("cdc", "replay", pipeline, "--execute")
    assert (done.exit_code, "of a key left out values" in done.out) == (1, True), (done.out, done.err)
    require_equal(source, tmp_path, "sqlite", "nothing was changed")
    assert dpone("cdc", "resync", pipeline, "--table", f"{source.schema}.orders").exit_code == 0
    assert run(pipeline)["code"] == 0
    require_equal(source, tmp_path, "sqlite", "resynced")
