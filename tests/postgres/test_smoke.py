"""The way a user goes: a pipeline file, ``dpone run``, and rows in another table."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from tests.postgres.target import Target

from dpone.engine.run import run as run_pipeline

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


@pytest.mark.parametrize("mode", ["append", "full_refresh"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE RULE nothing AS ON INSERT TO orders WHERE new.id % 2 = 0 DO INSTEAD NOTHING",
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; "
        "RETURN NEW; END'; CREATE TRIGGER odd BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION odd()",
    ],
    ids=["rule", "trigger"],
)
def test_rows_that_the_target_leaves_out_are_told(tmp_path: Path, target: Target, mode: str, statement: str) -> None:
    """A trigger or a rule of the target may drop rows or put them elsewhere; the report says how many were not counted,
    and nothing where all were."""
    target.run("CREATE TABLE source AS SELECT i AS id FROM generate_series(1, 9) AS i", "CREATE TABLE orders (id int)")
    url, schema = target.server.url, target.schema
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": url, "table": f"{schema}.source"},
        "sink": {
            "type": "postgres", "connection": url, "table": f"{schema}.orders", "strategy": {"mode": mode},
            "options": {"adopt_existing": True},
        },
        "state": {"type": "sqlite", "connection": f"sqlite:///{tmp_path}/state.db"},
    }  # fmt: skip
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(data))
    [stream] = run_pipeline(tmp_path / "pipeline.yaml").streams
    assert (stream.rows.inserted, stream.warnings) == (9, [])
    target.run("TRUNCATE orders", statement)
    [stream] = run_pipeline(tmp_path / "pipeline.yaml", full_refresh=mode == "append").streams
    assert target.query("SELECT count(*) FROM orders") == [(5,)]
    assert stream.rows.inserted == 5
    assert [w for w in stream.warnings if w.startswith("the target reports 5 inserted rows, but 9 were sent")]


@pytest.mark.parametrize("source", [{"table": "ordres"}, {"query": "SELECT * FROM ordres"}], ids=["table", "query"])
def test_ST_04_a_misspelt_source_is_said_before_the_target(
    tmp_path: Path, target: Target, source: dict[str, str]
) -> None:
    """A table that is not there, and a target with rows of somebody else: the message is of the source, and nothing is
    changed."""
    target.run("CREATE TABLE orders AS SELECT 1 AS id")
    before = target.dump()
    url, schema = target.server.url, target.schema
    named = {"table": f"{schema}.ordres"} if "table" in source else source
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": url, **named},
        "sink": {"type": "postgres", "connection": url, "table": f"{schema}.orders", "strategy": {"mode": "append"}},
        "state": {"type": "sqlite", "connection": f"sqlite:///{tmp_path}/state.db"},
        "runtime": {"retries": 0},
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(data))
    [stream] = run_pipeline(tmp_path / "pipeline.yaml").streams
    assert stream.error is not None
    assert "ordres" in stream.error.message
    assert "adopt_existing" not in stream.error.message
    assert target.dump() == before
