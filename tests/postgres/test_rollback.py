"""``dpone ops rollback`` on PostgreSQL, for every strategy: the plan changes nothing, its statements are those of the
undo, and a rollback that was killed is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cdc.log import delete, insert, transaction, update, write
from tests.engine.test_rollback import valid
from tests.postgres.target import Target
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

from dpone.engine.run import run as run_pipeline
from dpone.ops.rollback import Rollback, rollback, rollback_plan

pytestmark = pytest.mark.postgres

MODES: Mapping[str, Mapping[str, Any]] = {
    "full_refresh": {"mode": "full_refresh"},
    "full_refresh keyed": {"mode": "full_refresh", "key": ["id"]},
    "append": {"mode": "append"},
    "merge": {"mode": "merge", "key": ["id"]},
    "replace": {"mode": "replace", "where": {"day": 1}},
    "partition_replace": {"mode": "partition_replace", "partition": "day"},
    "snapshot_diff": {"mode": "snapshot_diff", "key": ["id"], "max_delete_share": 1.0},
    "scd2": {"mode": "scd2", "key": ["id"], "deletes": "close", "max_delete_share": 1.0},
    "cdc_apply": {"mode": "cdc_apply"},
}


def lay(folder: Path, target: Target, mode: str) -> Path:
    server, schema = target.server.url, target.schema
    source: dict[str, Any] = {"type": "postgres", "connection": "here", "table": f"{schema}.source"}
    if mode == "append":
        source["options"] = {"incremental": {"by": "cursor", "column": "id"}}
    if mode == "cdc_apply":
        source = {"type": "file", "path": "log.jsonl", "table": "source", "options": {"incremental": {"by": "cdc"}}}
    sink = {
        "type": "postgres", "connection": "here", "table": f"{schema}.orders", "strategy": MODES[mode],
        "options": {"undo": {"loads": 3}},
    }  # fmt: skip
    data = {
        "pipeline": "p",
        "connections": {"here": server},
        "streams": [{"name": "s", "source": source, "sink": sink}],
        "state": {"type": "postgres", "connection": "here", "options": {"schema": schema}},
        "runtime": {"retries": 0},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def loaded_twice(target: Target, pipeline: Path, mode: str) -> tuple[list[Any], list[Any], str]:
    """The target, row by row as text, after each of two loads; and the id of the second."""
    target.run("CREATE TABLE source (id int PRIMARY KEY, day int, v text)")
    target.run("INSERT INTO source SELECT i, 1, 'v' || i FROM generate_series(1, 39) AS i")
    log = pipeline.parent / "log.jsonl"
    write(log, transaction("01", *(insert("source", {"id": n}, day=1, v=f"v{n}") for n in range(1, 40))))
    assert run_pipeline(pipeline).exit_code == 0
    first = content(target)
    target.run(
        "UPDATE source SET v = 'new' WHERE id <= 9", "DELETE FROM source WHERE id BETWEEN 20 AND 25",
        "INSERT INTO source SELECT i, 1, 'more' FROM generate_series(50, 60) AS i",
    )  # fmt: skip
    changes = [update("source", {"id": n}, v="new") for n in range(1, 10)]
    changes += [delete("source", {"id": n}) for n in range(20, 26)] + [insert("source", {"id": 50}, day=1, v="more")]
    write(log, transaction("02", *changes))
    [stream] = run_pipeline(pipeline).streams
    assert stream.status == "loaded", stream.error
    assert content(target) != first
    return first, content(target), str(stream.load_id)


def content(target: Target, columns: str = "t") -> list[Any]:
    """Of the table, row by row."""
    with target.connect() as db:
        return of(db, columns)


def of(db: Any, columns: str = "t") -> list[Any]:
    return sorted(text for (text,) in db.execute(f"SELECT ({columns})::text FROM orders AS t"))


def named(target: Target, load_id: str, pipeline: Path) -> tuple[str, str, str, Path]:
    return "here", f"{target.schema}.orders", load_id, pipeline


def plan(target: Target, load_id: str, pipeline: Path) -> Rollback:
    return valid(rollback_plan(*named(target, load_id, pipeline)))


def execute(target: Target, load_id: str, pipeline: Path) -> Rollback:
    return valid(rollback(*named(target, load_id, pipeline)))


def writes(target: Target) -> list[Any]:
    """What the server counts as changed in the schema, and its locks."""
    return target.query(
        "SELECT relname, xmin::text, relfilenode, pg_relation_size(oid) FROM pg_class "
        "WHERE relnamespace = %s::regnamespace ORDER BY 1", target.schema,
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_touches_nothing_and_the_rollback_does_what_it_says(tmp_path: Path, target: Target, mode: str) -> None:
    """For every strategy: the plan's statements are those of the undo, since run by hand and rolled back they leave the
    table row by row as before the load; the plan changes nothing, and the rollback does it, with the plan's numbers."""
    pipeline = lay(tmp_path, target, mode)
    first, second, load_id = loaded_twice(target, pipeline, mode)
    values, before = content(target, "t.id, t.day, t.v"), writes(target)
    planned = plan(target, load_id, pipeline)
    assert (planned.status, writes(target), content(target)) == ("plan", before, second)
    assert planned.rehearsal is not None
    statements = planned.rehearsal.statements
    end = statements.index("COMMIT")
    with target.connect() as db:
        for statement in statements[:end]:
            db.execute(statement)  # type: ignore[call-overload]
        assert of(db) == first
        db.execute("ROLLBACK")
    done = execute(target, load_id, pipeline)
    assert done.ok, done.to_text()
    assert done.receipt is not None
    assert (done.receipt.deleted, done.receipt.inserted) == (planned.rehearsal.deleted, planned.rehearsal.inserted)
    assert content(target) == first
    assert target.query("SELECT count(*) FROM __dpone__loads WHERE undoes = %s", load_id) == [(1,)]
    assert execute(target, load_id, pipeline).status == "already_rolled_back"
    assert run_pipeline(pipeline).exit_code == 0
    assert content(target, "t.id, t.day, t.v") == values


@pytest.mark.parametrize("mode", MODES)
def test_LS_05_a_rollback_that_was_killed_is_repeated(
    run: Run,  # noqa: F811
    tmp_path: Path,
    target: Target,
    mode: str,
) -> None:
    """SIGKILL before statements of a rollback: the same command again, and the target is as before the load."""
    pipeline = lay(tmp_path, target, mode)
    first, _, load_id = loaded_twice(target, pipeline, mode)
    job = [*named(target, load_id, pipeline)[:3]]
    count = int(run(pipeline, rollback=job, execute=10**9)["count"])
    assert content(target) == first
    assert count > 8
    ends = set()
    for n in range(2, count, max(1, count // 5)):
        [stream] = run_pipeline(pipeline).streams
        load_id = str(stream.load_id)
        assert run(pipeline, rollback=[*job[:2], load_id], execute=n)["code"] == -9
        ends.add(content(target) == first)
        again = execute(target, load_id, pipeline)
        assert again.ok, again.to_text()
        assert content(target) == first
    assert ends == {False, True}
