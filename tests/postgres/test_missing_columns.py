"""A table, a query or a published table that loses a column: its schema is its own, so that the run stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.postgres.target import Target

from dpone.engine.run import run as run_pipeline
from dpone.model.report import StreamReport

pytestmark = pytest.mark.postgres


def run(folder: Path, target: Target, source: dict[str, Any], **evolution: Any) -> StreamReport:
    url, schema = target.server.url, target.schema
    sink = {
        "type": "postgres", "connection": url, "table": f"{schema}.orders",
        "strategy": {"mode": "merge", "key": ["id"]}, "options": {"schema_evolution": evolution},
    }  # fmt: skip
    given = {"pipeline": "p", "source": {"type": "postgres", "connection": url, **source}, "sink": sink}
    (folder / "p.yaml").write_text(yaml.safe_dump(given))
    [stream] = run_pipeline(folder / "p.yaml").streams
    return stream


@pytest.mark.parametrize("kind", ["table", "query"])
def test_a_table_or_query_that_loses_a_column_stops(tmp_path: Path, target: Target, kind: str) -> None:
    """By default; ``ignore`` keeps the target's column, and a value of before where the row is updated."""
    target.run("CREATE TABLE src (id int PRIMARY KEY, v text, w text)", "INSERT INTO src VALUES (1, 'a', 'b')")
    name = f"{target.schema}.src"
    source = {"query": f"SELECT * FROM {name}"} if kind == "query" else {"table": name}
    assert run(tmp_path, target, source).status == "loaded"
    target.run("ALTER TABLE src DROP COLUMN w", "UPDATE src SET v = 'c'", "INSERT INTO src VALUES (2, 'd')")
    stopped = run(tmp_path, target, source)
    assert stopped.status == "stopped"
    assert stopped.error is not None
    assert "not in the source; to allow it, set schema_evolution.on_missing_column: ignore" in stopped.error.message
    assert target.rows("id, v, w", "id") == [(1, "a", "b")]
    assert run(tmp_path, target, source, on_missing_column="ignore").warnings == []
    assert target.rows("id, v, w", "id") == [(1, "c", "b"), (2, "d", None)]
