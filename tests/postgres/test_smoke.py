"""The way a user goes: a pipeline file, ``dpone run``, and rows in another table."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import yaml
from tests.postgres.target import Target

DPONE = Path(sysconfig.get_path("scripts")) / "dpone"


def test_dpone_run_moves_a_table(tmp_path: Path, target: Target) -> None:
    """``dpone run`` loads a table, finds the second run's changes, and keeps state and journal in PostgreSQL."""
    target.run(
        "CREATE TABLE source (id int PRIMARY KEY, at timestamptz, v text)",
        "INSERT INTO source SELECT i, '2024-01-01Z', 'v' || i FROM generate_series(1, 100) AS i",
    )
    url, schema = target.server.url, target.schema
    pipeline = {
        "pipeline": "shop",
        "source": {
            "type": "postgres", "connection": url, "table": f"{schema}.source",
            "options": {"incremental": {"by": "cursor", "column": "at"}},
        },
        "sink": {
            "type": "postgres", "connection": url, "table": f"{schema}.orders",
            "strategy": {"mode": "merge", "key": ["id"]},
        },
        "state": {"type": "postgres", "connection": url, "options": {"schema": schema}},
    }  # fmt: skip
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))

    def run() -> dict[str, int]:
        command = [DPONE, "run", "pipeline.yaml", "--format", "json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows: dict[str, int] = json.loads(done.stdout)["streams"][0]["rows"]
        return rows

    assert run()["inserted"] == 100
    target.run(
        "UPDATE source SET v = 'new', at = '2024-01-02Z' WHERE id <= 3",
        "INSERT INTO source VALUES (101, '2024-01-02Z')",
    )
    rows = run()
    assert (rows["inserted"], rows["updated"]) == (1, 3)
    sql = "SELECT id, at, v FROM {} ORDER BY id"
    assert target.query(sql.format("orders")) == target.query(sql.format("source"))
    assert target.query("SELECT count(*), max(seq) FROM __dpone__loads") == [(2, 2)]
    assert target.query("SELECT version FROM __dpone__state") == [(2,)]
