"""Whole runs from a replication slot into SQLite and into PostgreSQL: killed at every step, and stopped by name."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.postgres.stream import ChangeSource
from tests.postgres.test_kill_matrix import STEPS, Run, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.postgres

TABLES = ("bills", "orders")
LONG = "repeat(md5(random()::text), 400)"


def lay(folder: Path, source: ChangeSource, sink: str, **strategy: Any) -> Path:
    """All tables into SQLite; orders alone into the same PostgreSQL."""
    many = sink == "sqlite"
    target = (
        {"type": "sqlite", "connection": "sqlite:///warehouse.db", "table": "landing_{table}"}
        if many
        else {"type": "postgres", "connection": source.server.url, "table": f"{source.schema}.landing_orders"}
    )
    options = {"incremental": {"by": "cdc"}, "slot": source.slot, "publication": source.schema}
    data = {
        "pipeline": "p",
        "source": {
            "type": "postgres", "connection": source.server.url, "options": options,
            "table": f"{source.schema}.{'*' if many else 'orders'}",
        },
        "sink": {**target, "strategy": {"mode": "cdc_apply", "truncate": "apply", **strategy}},
        "state": {"type": "sqlite", "connection": "sqlite:///state.db"},
        "runtime": {"retries": 0},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def begin(source: ChangeSource) -> None:
    """Tables with rows, publication and slot, all made anew."""
    source.drop_slot()
    source.run(
        f"DROP PUBLICATION IF EXISTS {source.schema}",
        "DROP TABLE IF EXISTS orders, bills, landing_orders, __dpone__loads, __dpone__staging, __dpone__parts",
        "DROP TABLE IF EXISTS __dpone__commits",
        "CREATE TABLE orders (id int PRIMARY KEY, n int, long text)",
        "ALTER TABLE orders ALTER long SET STORAGE EXTERNAL",
        "CREATE TABLE bills (id int PRIMARY KEY, amount numeric(12,2))",
        f"INSERT INTO orders SELECT i, i, {LONG} FROM generate_series(1, 30) AS i",
        "INSERT INTO bills SELECT i, i * 1.5 FROM generate_series(1, 5) AS i",
    )
    source.publish("orders", "bills")


def change(source: ChangeSource, more: int = 0) -> None:
    """Inserts, updates that leave a long value alone, deletes and changes of the key, over both tables."""
    source.run(
        f"INSERT INTO orders VALUES ({100 + more}, 1, 'new')",
        "BEGIN; UPDATE orders SET n = n + 1 WHERE id <= 5; DELETE FROM bills WHERE id = 1; COMMIT",
        f"UPDATE orders SET id = {200 + more} WHERE id = {6 + more}",
        f"DELETE FROM orders WHERE id = {8 + more}",
        f"INSERT INTO bills VALUES ({50 + more}, 2)",
    )


def require_equal(source: ChangeSource, folder: Path, sink: str, why: object) -> None:
    if sink == "postgres":
        columns = "id, n, long"
        found = source.query(f"SELECT {columns} FROM landing_orders ORDER BY id")
        assert found == source.query(f"SELECT {columns} FROM orders ORDER BY id"), why
        return
    with closing(sqlite3.connect(folder / "warehouse.db")) as db:
        for table, columns in (("orders", "id, n, long"), ("bills", "id, amount::float8")):
            found = db.execute(f"SELECT {columns.partition('::')[0]} FROM landing_{table} ORDER BY id").fetchall()
            wanted = source.query(f"SELECT {columns} FROM {table} ORDER BY id")
            assert [(*row[:-1], float(row[-1])) if table == "bills" else row for row in found] == wanted, (why, table)


def saved(folder: Path) -> Mapping[str, Any]:
    with closing(sqlite3.connect(folder / "state.db")) as db:
        [(text,)] = db.execute("SELECT value FROM __dpone__state").fetchall()
    position: Mapping[str, Any] = json.loads(text)["position"]
    return position


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
@pytest.mark.parametrize("moment", ["snapshot", "stream"])
def test_PG_01_a_run_killed_at_any_step_is_mended(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
    sink: str,
    moment: str,
    step: str,
) -> None:
    """Wherever the first or the second run is killed, and whatever is written meanwhile, the next leaves the rows of
    the source; the slot never passes the position, and in the end stands at it."""
    begin(source)
    pipeline = lay(tmp_path, source, sink)
    if moment == "stream":
        assert run(pipeline)["code"] == 0
        change(source)
    slot = source.confirmed()
    assert run(pipeline, step=step)["code"] == -9, step
    if step not in ("acknowledged",):
        assert source.confirmed() == slot, step
    change(source, 1)
    done = run(pipeline)
    if source.query("SELECT 1 FROM orders WHERE id = 101"):
        done = run(pipeline) if done["code"] == 0 else done  # the killed load may have been whole already
    assert done["code"] == 0, (step, done)
    require_equal(source, tmp_path, sink, step)
    assert source.confirmed() == saved(tmp_path)["value"]["lsn"], step


@pytest.mark.parametrize("what", ["recreated", "dropped", "moved"])
def test_PG_02_a_stop_leaves_the_state_as_it_was_on_every_run(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
    what: str,
) -> None:
    """Exit code 3, the same bytes in state and target after each run; --full-refresh loads anew, and all is well."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert run(pipeline)["code"] == 0
    change(source)
    if what == "moved":
        source.run(f"SELECT pg_replication_slot_advance('{source.slot}', pg_current_wal_flush_lsn())")
    else:
        source.drop_slot()
    if what == "recreated":
        source.make_slot()
    before = dump(tmp_path)
    for _ in range(2):
        done = run(pipeline)
        assert done["code"] == 3, done
        assert dump(tmp_path) == before
    if what == "dropped":
        source.make_slot()
    assert run(pipeline, options={"full_refresh": True})["code"] == 0
    require_equal(source, tmp_path, "sqlite", what)
    change(source, 1)
    assert run(pipeline)["code"] == 0
    require_equal(source, tmp_path, "sqlite", what)


def dump(folder: Path) -> list[str]:
    """State and target; leases, times of attempts and the run log apart."""
    found = []
    for name in ("state.db", "warehouse.db"):
        with closing(sqlite3.connect(folder / name)) as db:
            found += [line for line in db.iterdump() if "locks" not in line and "__dpone__runs" not in line]
    return found


def test_PG_12_a_truncate_stops_or_empties_as_the_strategy_says(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """truncate: fail stops with everything as it was; apply leaves the rows that came after."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite", truncate="fail")
    assert run(pipeline)["code"] == 0
    source.run("TRUNCATE orders", "INSERT INTO orders VALUES (1, 1, 'after')")
    before = dump(tmp_path)
    for _ in range(2):
        assert run(pipeline)["code"] == 3
        assert dump(tmp_path) == before
    assert run(lay(tmp_path, source, "sqlite"))["code"] == 0
    require_equal(source, tmp_path, "sqlite", "after the truncate")


def test_a_full_refresh_empties_what_the_source_has_emptied(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """Rows that went while nothing was kept of it are gone from the target after a new snapshot, of all tables."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert run(pipeline)["code"] == 0
    source.drop_slot()
    source.run("DELETE FROM bills", "DELETE FROM orders WHERE id > 3", "UPDATE orders SET n = -1")
    source.make_slot()
    assert run(pipeline, options={"full_refresh": True})["code"] == 0
    require_equal(source, tmp_path, "sqlite", "full refresh")
    refusing = lay(tmp_path, source, "sqlite", truncate="fail")
    source.run("DELETE FROM orders")
    shutil.copy(tmp_path / "warehouse.db", tmp_path / "before.db")
    assert run(refusing, options={"full_refresh": True})["code"] == 3


def test_append_keeps_every_change(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """The snapshot as inserts, then a row for each change, each with an event id of its own."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    data = yaml.safe_load(pipeline.read_text())
    data["sink"]["strategy"] = {"mode": "append"}
    pipeline.write_text(yaml.safe_dump(data))
    assert run(pipeline)["code"] == 0
    change(source)
    assert run(pipeline)["code"] == 0
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db:
        sql = (
            "SELECT __dpone__op, count(*), count(DISTINCT __dpone__event_id) FROM landing_orders GROUP BY 1 ORDER BY 1"
        )
        assert db.execute(sql).fetchall() == [("delete", 1, 1), ("insert", 31, 31), ("update", 6, 6)]


def test_LS_11_changes_into_a_partitioned_table(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """A row whose key changes moves to the partition of the new one; long values that a change left out are kept."""
    begin(source)
    source.run("CREATE TABLE landing_orders (id int PRIMARY KEY, n int, long text) PARTITION BY HASH (id)")
    for i in range(3):
        bounds = f"FOR VALUES WITH (MODULUS 3, REMAINDER {i})"
        source.run(f"CREATE TABLE landing_orders_{i} PARTITION OF landing_orders {bounds}")
    pipeline = lay(tmp_path, source, "postgres")
    data = yaml.safe_load(pipeline.read_text())
    data["sink"]["options"] = {"adopt_existing": True}
    pipeline.write_text(yaml.safe_dump(data))
    assert run(pipeline)["code"] == 0
    for more in range(2):
        change(source, more)
        assert run(pipeline)["code"] == 0
        require_equal(source, tmp_path, "postgres", more)
    source.run("TRUNCATE orders", "INSERT INTO orders VALUES (1, 1, 'after')")
    assert run(pipeline)["code"] == 0
    require_equal(source, tmp_path, "postgres", "after the truncate")
    assert source.query("SELECT relkind::text FROM pg_class WHERE oid = 'landing_orders'::regclass") == [("p",)]


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_scd2_makes_versions_of_a_stream_and_a_killed_run_is_mended(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
    sink: str,
) -> None:
    """What an audit table of the source kept of every state of a row is in the target, once, with TOAST values, in the
    order of the commits; wherever the second run was killed."""
    for step in ("staged", "committed"):
        folder = tmp_path / step
        begin(source)
        source.run(*AUDIT)
        pipeline = lay(folder, source, sink, mode="scd2", **({} if sink == "sqlite" else {"key": ["id"]}))
        if sink == "sqlite":
            pipeline.write_text(pipeline.read_text().replace("slot:", "transport: stream\n    slot:"))
        assert run(pipeline)["code"] == 0
        change(source)
        assert run(pipeline, step=step)["code"] == -9, step
        source.run("UPDATE orders SET n = 7 WHERE id = 3", "DELETE FROM orders WHERE id = 3")
        for _ in range(2):
            assert run(pipeline)["code"] == 0, step
        sql = (
            "SELECT id, n, long, __dpone__valid_to IS NULL FROM {0}landing_orders "
            "ORDER BY id, __dpone__valid_from, __dpone__valid_to"
        )
        if sink == "postgres":
            found = source.query(sql.format(""))
        else:
            with closing(sqlite3.connect(folder / "warehouse.db")) as db:
                found = [(*row[:3], bool(row[3])) for row in db.execute(sql.format(""))]
        live = {row[0]: row for row in source.query("SELECT id, n, long FROM orders")}
        states = source.query("SELECT id, n, long FROM audit ORDER BY id, seq")
        assert [row[:3] for row in found] == states, step
        assert {row[0]: row[:3] for row in found if row[3]} == live, step


AUDIT = (
    "DROP TABLE IF EXISTS audit",
    "CREATE TABLE audit (seq int GENERATED ALWAYS AS IDENTITY, id int, n int, long text)",
    "INSERT INTO audit (id, n, long) SELECT id, n, long FROM orders ORDER BY id",
    "CREATE OR REPLACE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS "
    "$$BEGIN EXECUTE format('INSERT INTO %I.audit (id, n, long) VALUES ($1, $2, $3)', TG_TABLE_SCHEMA) "
    "USING NEW.id, NEW.n, NEW.long; RETURN NULL; END$$",
    "CREATE TRIGGER kept AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION kept()",
)


def test_PG_15_a_transaction_of_a_million_rows_takes_bounded_memory(tmp_path: Path, source: ChangeSource) -> None:
    """Read, staged and applied by one run: every row arrives, and the process stays below 250 MB."""
    source.run("CREATE TABLE orders (id bigint PRIMARY KEY, n int, at timestamptz, v text, w text)")
    source.publish("orders")
    source.run(
        "INSERT INTO orders SELECT i, i, timestamptz '2024-01-01Z' + i * interval '1 s', md5(i::text), 'row ' || i "
        "FROM generate_series(1, 1000000) AS i"
    )
    pipeline = lay(tmp_path, source, "postgres")
    pipeline.write_text(pipeline.read_text().replace("slot:", "initial: none\n    slot:"))
    dpone = Path(sysconfig.get_path("scripts")) / "dpone"
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", script, str(dpone), "run", str(pipeline)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    code, peak = map(int, done.stdout.split())
    assert code == 0, done.stderr
    assert source.query("SELECT count(*), sum(n) FROM landing_orders") == [(1_000_000, 500_000_500_000)]
    assert peak < 250
