"""``dpone cdc`` and ``dpone cdc-plan``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.cli.schemas import require_valid

from dpone.plugins import discover

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
    kept = "orders: kept changes.jsonl: a change log is not dpone's to remove\n"
    assert dpone("cdc", "drop", stream, "--stream", "orders", "--yes").out == kept
    assert (stream.parent / "changes.jsonl").read_text() == LINES


def test_status_of_a_change_log(stream: Path, dpone: Dpone) -> None:
    """The lag is what the log has after the position; a state that is ahead of its target, a target and a log out of
    reach are findings, which a run finds as well."""

    def status(code: int) -> tuple[dict[str, Any], list[str]]:
        done = dpone("cdc", "status", stream, "--format", "json")
        assert done.exit_code == code, done.err
        require_valid("cdc-status.json", done.json)
        [one] = done.json
        return one, [finding["name"] for finding in one["findings"] if finding["ok"] is False]

    one, bad = status(0)
    assert (one["position"], one["lag"], one["slot"], bad) == (None, {"bytes": len(LINES), "seconds": None}, None, [])
    assert dpone("run", stream).exit_code == 0
    assert status(0)[0]["lag"] == {"bytes": 0, "seconds": 0}
    log, warehouse = stream.parent / "changes.jsonl", stream.parent / "warehouse.db"
    log.write_text(LINES + LINES.replace('"1"', '"2"'))
    loaded, _ = status(0)
    assert (loaded["lag"], loaded["at"]) == ({"bytes": len(LINES), "seconds": None}, f"byte {len(LINES)}")
    text = dpone("cdc", "status", stream).out
    for part in (f"byte {len(LINES)}, load {loaded['load_id']}", f"{len(LINES)} bytes up to byte", "paused    no"):
        assert part in text
    content = warehouse.read_bytes()
    warehouse.unlink()
    assert status(1)[1] == ["state"]
    warehouse.mkdir()
    one, bad = status(1)
    assert (bad, one["position"], one["load_id"]) == (["target"], loaded["position"], loaded["load_id"])
    warehouse.rmdir()
    warehouse.write_bytes(content)
    log.unlink()
    assert (status(1)[1], dpone("run", stream).exit_code) == (["log"], 3)
    log.write_text("{")
    assert (status(1)[1], dpone("run", stream).exit_code) == (["log"], 3)


def test_a_change_log_has_no_failover_slot(stream: Path, dpone: Dpone) -> None:
    """--failover is refused in one line, and works without, as it says."""
    done = dpone("cdc", "create", stream, "--failover")
    assert (done.exit_code, "source file does not have failover slots; remove --failover" in done.err) == (2, True)
    assert dpone("cdc", "create", stream).exit_code == 0


def test_drop_asks_before_it_lets_go(stream: Path, dpone: Dpone) -> None:
    """Without a terminal to ask and without --yes it is refused."""
    done = dpone("cdc", "drop", stream)
    assert (done.exit_code, "add --yes" in done.err) == (2, True)


def test_a_pipeline_without_change_streams_is_refused(project: Path, dpone: Dpone) -> None:
    """There is nothing to make."""
    done = dpone("cdc", "create", project)
    assert done.exit_code == 2
    assert "has no change stream; add source.options.incremental" in done.err


def test_cdc_plan_prints_statements_for_every_table_once(dpone: Dpone) -> None:
    """Two tables: one slot, one teardown, at the end; nothing is connected to."""
    done = dpone(*PLAN, "--table", "orders", "--table", "bills", "--format", "json")
    require_valid("cdc-plan.json", done.json)
    found = done.json["statements"]
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
        (("--table", "a", "--backend", "file_changelog"), "unknown options: publication, slot"),
    ],
)
def test_cdc_plan_refuses_what_it_cannot_plan(dpone: Dpone, options: tuple[str, ...], found: str) -> None:
    """A pattern, a reader that is not there, and options that the reader does not have: one line, exit code 2."""
    done = dpone(*PLAN, *options)
    assert done.exit_code == 2
    assert found in done.err
    assert len(done.err.splitlines()) == 1


STREAM = """\
pipeline: shop
source: {type: postgres, connection: "postgres://reader@127.0.0.1/shop", table: %s,
         options: {incremental: {by: cdc}, slot: mine, publication: told}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: "landing_{table}", strategy: {mode: cdc_apply}}
"""


def test_cdc_plan_takes_what_is_not_given_from_a_pipeline(tmp_path: Path, dpone: Dpone) -> None:
    """Reader, table, slot, publication and role; each option overrides its own, and nothing else."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(STREAM % "sales.orders")
    text = dpone("cdc-plan", "--pipeline", path).out
    for found in ("pg_create_logical_replication_slot('mine'", 'CREATE PUBLICATION "told" FOR TABLE "sales"."orders"'):
        assert found in text
    assert 'ALTER ROLE "reader" REPLICATION' in text
    more = ("--slot-name", "s", "--publication-name", "p", "--role", "etl", "--schema", "old", "--table", "bills")
    text = dpone("cdc-plan", "--pipeline", path, *more).out
    for found in ("slot('s'", 'CREATE PUBLICATION "p" FOR TABLE "old"."bills"', 'GRANT USAGE ON SCHEMA "old" TO "etl"'):
        assert found in text
    assert "orders" not in text
    assert "mine" not in text


@pytest.mark.parametrize("backend", discover().names("cdc"))
def test_cdc_plan_answers_for_every_reader(backend: str, dpone: Dpone) -> None:
    """Statements, or one line that says why there are none: of a log that needs nothing, and of a reader that this
    version does not have."""
    own = {"postgres_logical": ("--slot-name", "s", "--publication-name", "p")}
    options = ("--backend", backend, "--schema", "shop", "--table", "orders", *own.get(backend, ()))
    done = dpone("cdc-plan", *options, "--format", "json")
    if not discover().get("cdc", backend).implemented:
        assert (done.exit_code, "the connector does not implement it" in done.error) == (2, True)
        return
    require_valid("cdc-plan.json", done.json)
    assert (done.exit_code, done.json["backend"]) == (0, backend)
    assert done.json["statements"] or backend in ("file_changelog", "kafka_changes")
    assert dpone("cdc-plan", *options).out.strip()


def test_cdc_plan_names_a_role_without_a_pipeline(dpone: Dpone) -> None:
    """The role may read; quoted, whatever it is called."""
    text = dpone(*PLAN, "--table", "orders", "--role", 'e"tl').out
    assert 'GRANT SELECT ON "shop"."orders" TO "e""tl"' in text


def test_cdc_plan_works_as_the_production_page_types_it(dpone: Dpone) -> None:
    """The very command of the production readiness page."""
    command = (
        "cdc-plan --backend postgres_logical --schema public --table orders --slot-name dpone_orders "
        "--publication-name dpone_publication"
    )
    done = dpone(*command.split())
    assert done.exit_code == 0
    assert 'CREATE PUBLICATION "dpone_publication" FOR TABLE "public"."orders"' in done.out


@pytest.mark.parametrize(
    ("table", "options", "found"),
    [
        ("'sales.*'", (), "name each table with --table"),
        ("sales.orders", ("--stream", "other"), "stream other has no change stream"),
        ("sales.orders", ("--backend", "file_changelog", "--role", "etl"), "unknown options: publication, slot"),
    ],
)
def test_cdc_plan_of_a_pipeline_says_what_it_lacks(
    tmp_path: Path, dpone: Dpone, table: str, options: tuple[str, ...], found: str
) -> None:
    """One line and exit code 2; a glob is resolved by no server here, and --table does it."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(STREAM % table)
    done = dpone("cdc-plan", "--pipeline", path, *options)
    assert (done.exit_code, len(done.err.splitlines())) == (2, 1)
    assert found in done.err
    assert dpone("cdc-plan", "--pipeline", path, "--table", "sales.orders").exit_code == 0


def test_cdc_plan_without_a_pipeline_asks_for_what_it_needs(dpone: Dpone) -> None:
    """Every option that is missing is named at once."""
    done = dpone("cdc-plan", "--backend", "postgres_logical")
    assert done.exit_code == 2
    assert "add --schema, --table, or --pipeline" in done.err


def test_a_table_that_is_excluded_is_not_loaded(stream: Path, dpone: Dpone) -> None:
    """source.exclude leaves a table out of a change log of all tables; the others arrive."""
    with (stream.parent / "changes.jsonl").open("a") as log:
        log.write(LINES.replace("orders", "audit_1").replace('"1"', '"2"'))
    text = stream.read_text().replace("table: orders, options", "table: '*', exclude: ['audit_*'], options")
    stream.write_text(text.replace("table: orders, strategy", 'table: "now_{table}", strategy'))
    assert dpone("run", stream).exit_code == 0
    with closing(sqlite3.connect(stream.parent / "warehouse.db")) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'now%'")}
    assert tables == {"now_orders"}
    stream.write_text(PIPELINE.replace("table: orders, options", "table: orders, exclude: [a], options"))
    done = dpone("run", stream)
    assert done.exit_code == 2
    assert "exclude applies only to several tables" in done.err
