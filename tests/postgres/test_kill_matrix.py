"""SIGKILL at every step of a run from PostgreSQL to PostgreSQL; the next run mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engine.project import CHILD
from tests.postgres.target import Target

pytestmark = pytest.mark.postgres

STEPS = (
    "locked", "recovered", "window_fixed", "schema_applied", "load_opened", "part_started", "part_staged", "staged",
    "commit_started", "committed", "state_saved", "acknowledged",
)  # fmt: skip
CURSOR = {"incremental": {"by": "cursor", "column": "at"}}
STRATEGIES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full_refresh": ({"key": ["id"]}, {}),
    "append": ({}, CURSOR),
    "merge": ({"key": ["id"]}, CURSOR),
    "merge by xmin": ({"key": ["id"]}, {"incremental": {"by": "xmin"}}),
    "replace": ({"where": {"day": 1}}, {}),
    "partition_replace": ({"partition": "day"}, {}),
    "snapshot_diff": ({"key": ["id"], "max_delete_share": 1.0}, {}),
    "scd2": ({"key": ["id"]}, {}),
}
Run = Callable[..., Mapping[str, Any]]
_IMPORTED = (
    "import runpy, sys, dpone_postgres.sink, dpone_postgres.source, dpone_postgres.state; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs jobs of ``tests.engine.child``, each in a process forked from one that has everything imported."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _IMPORTED, str(CHILD), "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def one(pipeline: Path, **job: Any) -> Mapping[str, Any]:
        stdin.write(json.dumps({"pipeline": str(pipeline), **job}) + "\n")
        stdin.flush()
        answer: Mapping[str, Any] = json.loads(stdout.readline())
        return answer

    yield one
    stdin.close()
    process.wait(60)
    stdout.close()


def lay(folder: Path, target: Target, name: str) -> Path:
    strategy, options = STRATEGIES[name]
    connection, schema = target.server.url, target.schema
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": connection, "table": f"{schema}.source", "options": options},
        "sink": {
            "type": "postgres", "connection": connection, "table": f"{schema}.orders",
            "strategy": {"mode": name.partition(" ")[0], **strategy},
        },
        "state": {"type": "postgres", "connection": connection, "options": {"schema": schema}},
        "runtime": {"retries": 0, "batch_rows": 10},
    }  # fmt: skip
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def change(target: Target, name: str) -> None:
    target.run("INSERT INTO source SELECT i, 1, 'new', '2024-01-02Z' FROM generate_series(31, 40) AS i")
    if name != "append":
        target.run("UPDATE source SET v = 'changed', at = '2024-01-02Z' WHERE id <= 5")


@pytest.mark.parametrize("step", [*STEPS, "batch"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_killed_at_any_step_is_mended(run: Run, tmp_path: Path, target: Target, name: str, step: str) -> None:
    """Wherever the second load is killed, the run after it leaves the rows of the source, each once, and one journal
    entry for the second load; nothing is left of the staging."""
    pipeline = lay(tmp_path, target, name)
    current = " WHERE __dpone__valid_to IS NULL" if name == "scd2" else ""
    target.run(
        "CREATE TABLE source (id int, day int, v text, at timestamptz)",
        "INSERT INTO source SELECT i, 1, 'v' || i, '2024-01-01Z' FROM generate_series(1, 30) AS i",
    )
    assert run(pipeline)["code"] == 0
    change(target, name)
    assert run(pipeline, step=step)["code"] == -9, step
    done = run(pipeline)
    assert done["code"] == 0, (step, done)
    columns = "id, day, v, at"
    found = target.query(f"SELECT {columns} FROM orders{current} ORDER BY id")
    assert found == target.query(f"SELECT {columns} FROM source ORDER BY id"), step
    assert target.query("SELECT count(DISTINCT __dpone__load_id) FROM orders")[0][0] <= 2
    if name in ("append", "merge", "merge by xmin"):
        assert target.query("SELECT max(seq) FROM __dpone__loads") == [(2,)], step
    if step != "acknowledged":
        assert not target.stages(), step


NARROW = "INSERT INTO source (id, day, v, at) SELECT i, 1, 'late', '2024-01-04Z' FROM generate_series(51, 60) AS i"


@pytest.mark.parametrize("step", STEPS[STEPS.index("schema_applied") : STEPS.index("committed")])
@pytest.mark.parametrize("name", ["full_refresh", "append", "merge", "scd2"])
@pytest.mark.parametrize("earlier", [True, False], ids=["column", "table"])
def test_OUT_15_the_load_after_a_crash_is_as_if_the_other_had_never_been(
    run: Run, tmp_path: Path, target: Target, name: str, earlier: bool, step: str
) -> None:
    """Killed between the DDL and the commit, wherever: the source then has other columns, and the next run is green and
    leaves the columns that its rows have."""
    pipeline = lay(tmp_path, target, name)
    target.run(
        "CREATE TABLE source (id int, day int, v text, at timestamptz)",
        "INSERT INTO source SELECT i, 1, 'v' || i, '2024-01-01Z' FROM generate_series(1, 30) AS i",
    )
    if earlier:
        assert run(pipeline)["code"] == 0
    target.run("ALTER TABLE source ADD coupon int", "ALTER TABLE source ALTER v TYPE varchar(50)")
    target.run("INSERT INTO source SELECT i, 1, 'new', '2024-01-02Z', i FROM generate_series(31, 40) AS i")
    assert run(pipeline, step=step)["code"] == -9, step
    target.run("ALTER TABLE source DROP coupon", "ALTER TABLE source ALTER v TYPE text")
    target.run("DELETE FROM source WHERE id > 30", NARROW)
    done = run(pipeline)
    assert done["code"] == 0, (step, done)
    found = target.query("SELECT id, day, v, at FROM orders ORDER BY id")
    assert found == target.query("SELECT id, day, v, at FROM source ORDER BY id"), step
    sql = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped "
        "AND attrelid = %s::regclass AND attname NOT LIKE '\\_\\_dpone%%' ORDER BY 1"
    )
    assert target.query(sql, "orders") == target.query(sql, "source"), step
    assert target.query("TABLE __dpone__added") == []
    assert not target.stages(), step
