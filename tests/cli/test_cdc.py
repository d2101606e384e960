"""``dpone cdc`` and ``dpone cdc-plan``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Dpone = Callable[..., Any]
PIPELINE = """\
pipeline: shop
source: {type: file, path: changes.jsonl, table: orders, options: {incremental: {by: cdc}}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: append}}
"""
LINES = """\
{"op": "insert", "table": "orders", "commit": "1", "key": {"id": 1}, "values": {"id": 1}}
{"op": "commit", "commit": "1"}
"""
PLAN = ("cdc-plan", "--backend", "postgres_logical", "--schema", "shop", "--slot-name", "s", "--publication-name", "p")


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    (tmp_path / "changes.jsonl").write_text(LINES)
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    return path


def test_create_lag_and_drop_speak_for_each_change_stream(stream: Path, dpone: Dpone) -> None:
    """A change log needs nothing: it begins at its beginning, its lag is its size, and dropping leaves it there."""
    [created] = dpone("cdc", "create", stream, "--format", "json").json
    assert (created["stream"], created["position"]["value"]["offset"]) == ("orders", 0)
    [lag] = dpone("cdc", "lag", stream, "--format", "json").json
    assert lag == {"stream": "orders", "lag": {"log_bytes": len(LINES)}}
    assert "orders" in dpone("cdc", "lag", stream).out
    assert dpone("cdc", "drop", stream, "--stream", "orders", "--yes").out == "orders: dropped\n"
    assert (stream.parent / "changes.jsonl").read_text() == LINES


def test_drop_asks_before_it_lets_go(stream: Path, dpone: Dpone) -> None:
    """Without a terminal to ask and without --yes it is refused."""
    done = dpone("cdc", "drop", stream)
    assert (done.exit_code, "add --yes" in done.err) == (2, True)


def test_a_pipeline_without_change_streams_is_refused(project: Path, dpone: Dpone) -> None:
    """There is nothing to make."""
    done = dpone("cdc", "create", project)
    assert done.exit_code == 2
    assert "has none; add source.options.incremental" in done.err


def test_cdc_plan_prints_statements_for_every_table_once(dpone: Dpone) -> None:
    """Two tables: one slot, one teardown, at the end; nothing is connected to."""
    found = dpone(*PLAN, "--table", "orders", "--table", "bills", "--format", "json").json["statements"]
    text = "\n".join(found)
    assert text.count("SELECT pg_create_logical_replication_slot('s', 'pgoutput')") == 1
    for table in ("orders", "bills"):
        assert f'ALTER PUBLICATION "p" ADD TABLE "shop"."{table}"' in text
        assert f'GRANT SELECT ON "shop"."{table}"' in text
    assert "DROP PUBLICATION" in found[-1]
    assert found == sorted(found, key=lambda statement: statement.startswith("--"))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--table", "*"), "FOR ALL TABLES"),
        (("--table", "a", "--backend", "nothing"), "nothing"),
        (("--table", "a", "--backend", "file_changelog"), "no option publication, slot"),
    ],
)
def test_cdc_plan_refuses_what_it_cannot_plan(dpone: Dpone, options: tuple[str, ...], found: str) -> None:
    """A pattern, a reader that is not there, and options that the reader does not have: one line, exit code 2."""
    done = dpone(*PLAN, *options)
    assert done.exit_code == 2
    assert found in done.err
    assert len(done.err.splitlines()) == 1
