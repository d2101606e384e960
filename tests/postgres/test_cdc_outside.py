"""What changes outside the rows of a stream, between runs: noticed by name, and mended as the message says.

failures.md OUT-01 to OUT-04, OUT-16, PG-18, PG-19, PG-21, PG-22. Whole runs into SQLite; each ends with a target that
equals the source, or with a stop that leaves state and target as they were to the byte.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import define
from tests.patience import until
from tests.postgres.stream import ChangeSource, then_once
from tests.postgres.test_cdc_runs import begin, change, lay, require_equal
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

from dpone.cli.main import main
from dpone.engine.run import run as run_pipeline
from dpone.model.report import RunReport, StreamReport
from dpone_postgres import cdc, outside

pytestmark = pytest.mark.postgres


@define
class Shop:
    """A pipeline of all tables of a schema into a SQLite file, and the schema's server."""

    source: ChangeSource
    folder: Path
    glob: str = "*"
    adopt: bool = False

    @property
    def path(self) -> Path:
        return self.folder / "pipeline.yaml"

    def lay(self, mode: str = "cdc_apply", **options: Any) -> None:
        many = self.glob == "*"
        data = {
            "pipeline": "p",
            "source": {
                "type": "postgres", "connection": self.source.server.url, "table": f"{self.source.schema}.{self.glob}",
                "options": {
                    "incremental": {"by": "cdc", **({"limit": limit} if (limit := options.pop("limit", 0)) else {})},
                    "slot": self.source.slot, "publication": self.source.schema, **options,
                },
            },
            "sink": {
                "type": "sqlite", "connection": f"sqlite:///{self.folder}/warehouse.db",
                "table": "l_{table}" if many else f"l_{self.glob}",
                "strategy": {"mode": mode, **({"truncate": "apply"} if mode != "append" else {})},
                "options": {"schema_evolution": {"on_missing_column": "ignore"}, "adopt_existing": self.adopt},
            },
            "state": {"type": "sqlite", "connection": f"sqlite:///{self.folder}/state.db"},
            "runtime": {"retries": 0},
        }  # fmt: skip
        self.path.write_text(yaml.safe_dump(data))

    def sql(self, *statements: str) -> None:
        self.source.run(*statements)

    def run(self) -> StreamReport:
        report: RunReport = run_pipeline(str(self.path))
        return report.streams[0]

    def loaded(self) -> StreamReport:
        done = self.run()
        assert done.status in ("loaded", "caught_up"), done.error
        return done

    def dpone(self, *words: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as done:
            main([*words])
        code = done.value.code
        assert isinstance(code, int)
        return code, said.getvalue()

    def dump(self) -> list[str]:
        found = []
        for name in ("state.db", "warehouse.db"):
            with closing(sqlite3.connect(self.folder / name)) as db:
                found += [line for line in db.iterdump() if "locks" not in line and "__dpone__runs" not in line]
        return found

    def stopped(self, *said: str) -> str:
        """The message of a stop, which is the same on every run and changes nothing."""
        before = self.dump()
        for _ in range(2):
            done = self.run()
            assert done.error is not None, done
            assert done.status == "stopped", done.error
            assert all(word in done.error.message for word in said), done.error.message
            assert self.dump() == before
        return done.error.message

    def follow(self, message: str) -> None:
        """Do what a message says: its ALTER, and its command."""
        if alter := re.search(r"ALTER PUBLICATION .*?\)", message):
            self.sql(alter[0])
        command = re.search(r"run dpone (cdc resync PIPELINE .*?) and then dpone run ", message)
        assert command is not None, message
        code, said = self.dpone(*shlex.split(command[1].replace("PIPELINE", str(self.path))))
        assert code == 0, said

    def rows(self, table: str, columns: str = "id, v") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "warehouse.db")) as db:
            return db.execute(f"SELECT {columns} FROM l_{table} ORDER BY 1").fetchall()

    def equal(self, *tables: str, columns: str = "id, v") -> None:
        for table in tables or ("t", "u"):
            assert self.rows(table, columns) == self.source.query(f"SELECT {columns} FROM {table} ORDER BY 1"), table

    def position(self) -> dict[str, Any]:
        with closing(sqlite3.connect(self.folder / "state.db")) as db:
            [(text,)] = db.execute("SELECT value FROM __dpone__state").fetchall()
        found: dict[str, Any] = json.loads(text)["position"]
        return found


@pytest.fixture
def shop(source: ChangeSource, tmp_path: Path) -> Shop:
    """Two tables, loaded; ``t`` has two columns of text."""
    source.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text)",
        "CREATE TABLE u (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT i, 'v' || i, 'w' || i FROM generate_series(1, 5) AS i",
        "INSERT INTO u VALUES (1, 'one')",
    )
    source.publish("t", "u", options="WITH (publish_via_partition_root = true)")
    made = Shop(source, tmp_path)
    made.lay()
    made.loaded()
    return made


ROOT = (
    "CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
    "CREATE TABLE r_1 PARTITION OF r FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE r_2 PARTITION OF r FOR VALUES FROM (10) TO (20)",
    "INSERT INTO r VALUES (1, 'one'), (11, 'eleven')",
)


@pytest.fixture
def root(source: ChangeSource, tmp_path: Path) -> Shop:
    """A partitioned table, published by its root, and a plain one, loaded."""
    source.run(*ROOT, "CREATE TABLE u (id int PRIMARY KEY, v text)", "INSERT INTO u VALUES (1, 'one')")
    source.publish("r", "u", options="WITH (publish_via_partition_root = true)")
    made = Shop(source, tmp_path)
    made.lay()
    made.loaded()
    return made


# -- OUT-01, OUT-02: the publication ----------------------------------------------------------------------------


def test_OUT_01_operations_that_are_not_published_stop_the_stream(shop: Shop) -> None:
    """publish = 'insert' between two runs: named, until the publication is set right and the tables are read again."""
    shop.sql(f"ALTER PUBLICATION {shop.source.schema} SET (publish = 'insert')", "UPDATE t SET v = 'lost'")
    message = shop.stopped("does not publish update, delete, truncate", "operations: [insert]")
    assert "then run dpone cdc resync PIPELINE --table '*.*' and then dpone run (" in message  # as a shell takes it
    shop.follow(message)
    shop.sql("DELETE FROM t WHERE id = 1")
    shop.loaded()
    shop.equal()


def test_OUT_01_operations_set_back_stop_the_stream(shop: Shop) -> None:
    """What was lost while the publication was another one is not found again because it is as before."""
    name = shop.source.schema
    shop.sql(
        f"ALTER PUBLICATION {name} SET (publish = 'insert')", "UPDATE t SET v = 'lost'",
        f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')", "INSERT INTO t VALUES (9)",
    )  # fmt: skip
    shop.follow(shop.stopped("publication was altered"))
    shop.loaded()
    shop.equal()


def test_OUT_01_operations_that_were_never_published_must_be_meant(source: ChangeSource, tmp_path: Path) -> None:
    """The check fails and the first run is refused, until the pipeline says which operations it expects."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
    source.publish("t", options="WITH (publish = 'insert')")
    shop = Shop(source, tmp_path)
    shop.lay("append")
    code, said = shop.dpone("check", str(shop.path), "--connect")
    assert code == 1
    assert "does not publish update, delete, truncate" in said
    done = shop.run()
    assert done.error is not None
    assert (done.error.exit_code, done.status) == (3, "stopped")
    assert "source.options.operations: [insert]" in done.error.message
    shop.lay("append", operations=["insert"])
    assert shop.dpone("check", str(shop.path), "--connect")[0] == 0
    shop.loaded()
    assert shop.rows("t") == [(1, "a")]


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        ("SET TABLE t WHERE (id < 3), u", "row filter"),
        ("SET TABLE t (id, v), u", "column list changed"),
        ("SET (publish_via_partition_root = false)", "publish_via_partition_root is now false"),
        ("DROP TABLE t; ALTER PUBLICATION {name} ADD TABLE t", "removed from the publication and added again"),
    ],
)
def test_OUT_01_OUT_02_a_membership_that_changed_stops_the_stream(shop: Shop, alter: str, said: str) -> None:
    """Filters, column lists, the root, and a table that was away for a while: by name, then read again."""
    name = shop.source.schema
    before, _, after = alter.partition("; ")
    shop.sql(f"ALTER PUBLICATION {name} {before}", "UPDATE t SET v = 'changed' WHERE id > 3")
    if after:
        shop.sql(after.format(name=name))
    shop.follow(shop.stopped(f"table {name}.t", said))
    shop.sql("INSERT INTO t VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET v = 'x'")
    shop.loaded()
    if "WHERE" in alter:
        assert shop.rows("t") == [(1, "v1"), (2, "x")]
    else:
        shop.equal()


def test_OUT_01_a_publication_made_again_stops_the_stream(shop: Shop) -> None:
    """Under the same name, with the same tables."""
    name = shop.source.schema
    shop.sql(f"DROP PUBLICATION {name}", "UPDATE t SET v = 'lost'", f"CREATE PUBLICATION {name} FOR TABLE t, u")
    shop.follow(shop.stopped("dropped and created again"))
    shop.loaded()
    shop.equal()


def test_OUT_02_a_table_that_left_stops_the_stream_until_it_is_let_go(shop: Shop) -> None:
    """Its target keeps its rows; the other tables go on, and it comes back with all its rows."""
    name = shop.source.schema
    shop.sql("UPDATE t SET v = 'before'", f"ALTER PUBLICATION {name} DROP TABLE t", "INSERT INTO u VALUES (2, 'two')")
    message = shop.stopped(f"table {name}.t: it is no longer in publication {name}")
    shop.follow(message)
    done = shop.loaded()
    assert any(f"table {name}.t is selected, but not in publication" in one for one in done.warnings)
    shop.equal("u")
    assert {v for _, v in shop.rows("t")} == {"v1", "v2", "v3", "v4", "v5"}
    shop.sql(f"ALTER PUBLICATION {name} ADD TABLE t")
    shop.loaded()
    shop.equal()


def test_OUT_02_a_schema_of_the_publication_is_a_membership(source: ChangeSource, tmp_path: Path) -> None:
    """A table that is a member by its schema and by itself stays one when one of the two goes; not when both go."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
    name = source.schema
    source.run(f"CREATE PUBLICATION {name} FOR TABLES IN SCHEMA {name}, TABLE t")
    source.make_slot()
    shop = Shop(source, tmp_path)
    shop.lay()
    shop.loaded()
    shop.sql(f"ALTER PUBLICATION {name} DROP TABLE t", "UPDATE t SET v = 'b'")
    shop.loaded()
    shop.equal("t")
    shop.sql(
        f"ALTER PUBLICATION {name} DROP TABLES IN SCHEMA {name}", "UPDATE t SET v = 'lost'",
        f"ALTER PUBLICATION {name} ADD TABLES IN SCHEMA {name}",
    )  # fmt: skip
    shop.follow(shop.stopped("removed from the publication"))
    shop.loaded()
    shop.equal("t")


# -- OUT-03: new tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["peek", "stream"])
def test_OUT_03_a_table_that_is_new_to_the_stream_comes_with_its_rows(shop: Shop) -> None:
    """Rows from before and after it was published, once each; the other tables go on in the same window."""
    shop.lay(transport=shop.source.transport)
    shop.sql(
        "CREATE TABLE n (id int PRIMARY KEY, v text)", "INSERT INTO n VALUES (5, 'before'), (6, 'before')",
        f"ALTER PUBLICATION {shop.source.schema} ADD TABLE n", "INSERT INTO n VALUES (7, 'after')",
        "UPDATE n SET v = 'updated' WHERE id = 5", "DELETE FROM n WHERE id = 6", "UPDATE t SET v = 'new' WHERE id = 2",
    )  # fmt: skip
    done = shop.loaded()
    assert "all rows of" in done.proof
    shop.equal("t", "u", "n")
    shop.sql("UPDATE n SET v = 'later'", "INSERT INTO n VALUES (8, 'later')")
    assert "all rows of" not in shop.loaded().proof
    shop.equal("t", "u", "n")


def test_OUT_03_a_new_table_without_rows(shop: Shop) -> None:
    """It is in the stream from then on, though it brings nothing."""
    shop.sql("CREATE TABLE n (id int PRIMARY KEY, v text)", f"ALTER PUBLICATION {shop.source.schema} ADD TABLE n")
    shop.loaded()
    shop.sql("INSERT INTO n VALUES (1, 'a')")
    assert "all rows of" not in shop.loaded().proof
    shop.equal("t", "u", "n")


def test_OUT_03_no_change_is_missed_or_doubled_where_snapshot_and_stream_meet(shop: Shop) -> None:
    """A writer goes on all the while: append has every insert of the new table once."""
    shop.lay("append")
    (shop.folder / "warehouse.db").unlink()
    (shop.folder / "state.db").unlink()
    shop.loaded()
    shop.sql("CREATE TABLE n (id int PRIMARY KEY, v text)", f"ALTER PUBLICATION {shop.source.schema} ADD TABLE n")
    over = threading.Event()

    def write() -> None:
        with shop.source.server.connect(options=f"-csearch_path={shop.source.schema}") as db:
            number = 0
            while not over.is_set():
                number += 1
                db.execute("INSERT INTO n VALUES (%s, 'x')", (number,))
                db.execute("INSERT INTO u VALUES (%s, 'x')", (number + 100,))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            shop.loaded()
    finally:
        over.set()
        writer.join()
    shop.loaded()
    for table in ("n", "u"):
        assert shop.rows(table, "id") == shop.source.query(f"SELECT id FROM {table} ORDER BY 1"), table


@pytest.mark.parametrize("transport", ["peek", "stream"])
def test_OUT_03_the_snapshot_waits_until_a_limit_is_worked_off(shop: Shop) -> None:
    """Windows that end before the point of the snapshot leave the new table out; the last has all its rows."""
    shop.lay(limit=2, transport=shop.source.transport)
    shop.sql(
        "CREATE TABLE n (id int PRIMARY KEY, v text)", "INSERT INTO n VALUES (1, 'before')",
        f"ALTER PUBLICATION {shop.source.schema} ADD TABLE n",
        *(f"INSERT INTO u VALUES ({i}, 'x')" for i in range(10, 16)), "UPDATE n SET v = 'after'",
    )  # fmt: skip
    windows = 0
    while "all rows of" not in (done := shop.loaded()).proof:
        assert not done.caught_up
        assert any("read by a later window" in one for one in done.warnings)
        windows += 1
        assert windows < 10
    assert windows >= 3
    shop.equal("t", "u", "n")


@pytest.mark.parametrize("step", ["window_fixed", "part_staged", "commit_started", "committed", "state_saved"])
@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_OUT_03_a_run_killed_while_a_table_joins_is_mended(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
    sink: str,
    step: str,
) -> None:
    """Wherever it is killed, the next run leaves the rows of the source in every table, each once."""
    begin(source)
    source.run(f"ALTER PUBLICATION {source.schema} DROP TABLE orders")
    pipeline = lay(tmp_path, source, "sqlite")
    if sink == "postgres":
        data = yaml.safe_load(pipeline.read_text())
        data["sink"] |= {
            "type": "postgres", "connection": source.server.url, "table": f"{source.schema}_t.landing_{{table}}"
        }  # fmt: skip
        pipeline.write_text(yaml.safe_dump(data))
        source.run(f"CREATE SCHEMA {source.schema}_t")
    assert run(pipeline)["code"] == 0
    source.run(f"ALTER PUBLICATION {source.schema} ADD TABLE orders")
    change(source)
    assert run(pipeline, step=step)["code"] == -9, step
    change(source, 1)
    for _ in range(2):
        assert run(pipeline)["code"] == 0, step
    if sink == "sqlite":
        require_equal(source, tmp_path, sink, step)
        return
    for table, columns in (("orders", "id, n, long"), ("bills", "id, amount")):
        found = source.query(f"SELECT {columns} FROM {source.schema}_t.landing_{table} ORDER BY id")
        assert found == source.query(f"SELECT {columns} FROM {table} ORDER BY id"), (step, table)
    source.run(f"DROP SCHEMA {source.schema}_t CASCADE")


def test_OUT_03_without_a_snapshot_the_report_says_what_is_missing(source: ChangeSource, tmp_path: Path) -> None:
    """initial: none: a new table begins with what comes, and a command loads the rest."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    source.publish("t")
    shop = Shop(source, tmp_path)
    shop.lay(initial="none")
    shop.sql("INSERT INTO t VALUES (1, 'a')")
    assert not shop.loaded().warnings
    shop.sql(
        "CREATE TABLE n (id int PRIMARY KEY, v text)", "INSERT INTO n VALUES (1, 'before')",
        f"ALTER PUBLICATION {source.schema} ADD TABLE n", "INSERT INTO n VALUES (2, 'after')",
    )  # fmt: skip
    [warning] = shop.loaded().warnings
    assert f"table {source.schema}.n is new to the stream: its existing rows are not loaded" in warning
    assert shop.rows("n") == [(2, "after")]
    shop.follow(warning)
    shop.loaded()
    shop.equal("t", "n")


def test_OUT_03_a_table_that_a_glob_selects_is_reported_until_it_is_published(shop: Shop) -> None:
    """On every run, also on one with nothing new; following the report ends it."""
    shop.sql("CREATE TABLE n (id int PRIMARY KEY, v text)", "INSERT INTO n VALUES (1, 'a')")
    for _ in range(2):
        [warning] = shop.loaded().warnings
        assert "is selected, but not in publication" in warning
    shop.sql(warning[warning.index("ALTER PUBLICATION") :])
    assert not shop.loaded().warnings
    shop.equal("t", "u", "n")


def test_OUT_03_a_target_with_rows_of_another_way_is_not_added_to(shop: Shop) -> None:
    """As for every table that the journal knows nothing of; adopt_existing replaces them."""
    with closing(sqlite3.connect(shop.folder / "warehouse.db")) as db:
        db.execute("CREATE TABLE l_n (id bigint PRIMARY KEY, v text)")
        db.execute("INSERT INTO l_n VALUES (9, 'mine')")
        db.commit()
    shop.sql(
        "CREATE TABLE n (id int PRIMARY KEY, v text)", "INSERT INTO n VALUES (1, 'a')",
        f"ALTER PUBLICATION {shop.source.schema} ADD TABLE n",
    )  # fmt: skip
    shop.stopped("neither journal nor state", "adopt_existing")
    shop.adopt = True
    shop.lay()
    shop.loaded()
    shop.equal("t", "u", "n")


# -- OUT-04: changes that send no event -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["ALTER TABLE t ALTER v TYPE text USING upper(v)"], "column v was altered, which rewrote the table"),
        (
            ["ALTER TABLE t RENAME v TO x", "ALTER TABLE t RENAME w TO v", "ALTER TABLE t RENAME x TO w"],
            "column v is now named w",
        ),
        (["ALTER TABLE t DROP v", "ALTER TABLE t ADD v text"], "column v was dropped and added again"),
        (["ALTER TABLE t RENAME w TO x"], "column w is now named x"),
    ],
)
def test_OUT_04_old_rows_that_changed_without_an_event_stop_the_stream(
    shop: Shop, statements: list[str], said: str
) -> None:
    """A column that was rewritten, renamed or made again; with and without a change of a row after it."""
    shop.sql(*statements)
    message = shop.stopped(f"table {shop.source.schema}.t", said)
    shop.sql("INSERT INTO t (id, v) VALUES (9, 'new')", "INSERT INTO u VALUES (2, 'two')")
    assert shop.stopped(said) == message
    shop.follow(message)
    shop.loaded()
    shop.equal("t", "u")
    assert ("on_missing_column" in message) is ("x" in said)
    if "x" not in said:
        shop.equal("t", columns="id, v, w")
    shop.sql("UPDATE t SET v = 'again'")
    shop.loaded()
    shop.equal()


@pytest.mark.parametrize("way", ["ignore", "--full-refresh"])
@pytest.mark.parametrize(
    "statement", ["ALTER TABLE t RENAME w TO x", "ALTER PUBLICATION {name} SET TABLE t (id, v), u"]
)
def test_OUT_16_the_advice_for_a_column_that_left_the_stream_works(shop: Shop, statement: str, way: str) -> None:
    """The target still has the column: one message names all there is to do, so that no second stop follows."""
    ignore = shop.path.read_text()
    shop.path.write_text(ignore.replace("on_missing_column: ignore", "on_missing_column: fail"))
    shop.sql(statement.format(name=shop.source.schema), "INSERT INTO t (id, v) VALUES (9, 'new')")
    message = shop.stopped("the target then needs sink.options.schema_evolution.on_missing_column: ignore for column w")
    if way == "ignore":
        shop.path.write_text(ignore)
        shop.follow(message)
    else:
        assert "or use --full-refresh instead" in message
        done = shop.dpone("run", str(shop.path), "--full-refresh")
        assert done[0] == 0, done
    shop.loaded()
    shop.equal()
    shop.sql("UPDATE t SET v = 'again'")
    shop.loaded()
    shop.equal()


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["TRUNCATE r_1"], "r_1 was truncated"),
        (["TRUNCATE r", "INSERT INTO r VALUES (2, 'x'), (12, 'y')", "TRUNCATE r_2"], "r_2 was truncated"),
        (
            ["CREATE TABLE r_3 (LIKE r INCLUDING ALL)", "INSERT INTO r_3 VALUES (25, 'x')",
             "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30)"],
            "r_3 was attached with rows",
        ),
        (
            ["BEGIN; CREATE TABLE r_3 (LIKE r INCLUDING ALL); INSERT INTO r_3 VALUES (25, 'x'); "
             "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30); COMMIT"],
            "r_3 was attached with rows",
        ),
        (
            ["CREATE TABLE m (LIKE r INCLUDING ALL) PARTITION BY RANGE (id)",
             "CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (20) TO (25)", "INSERT INTO m VALUES (21, 'x')",
             "ALTER TABLE r ATTACH PARTITION m FOR VALUES FROM (20) TO (30)"],
            "m_1 was attached with rows",
        ),
        (["ALTER TABLE r DETACH PARTITION r_2"], "1 of its partitions was detached or dropped"),
        (["DROP TABLE r_2"], "1 of its partitions was detached or dropped"),
        (
            ["ALTER TABLE r DETACH PARTITION r_2", "INSERT INTO r_2 VALUES (12, 'x')",
             "ALTER TABLE r ATTACH PARTITION r_2 FOR VALUES FROM (10) TO (20)"],
            "detached and attached again",
        ),
        (["ALTER TABLE r ALTER v TYPE text USING upper(v)"], "column v was altered, which rewrote the table"),
    ],
)  # fmt: skip
def test_OUT_04_PG_21_partitions_that_changed_without_an_event_stop_the_stream(
    root: Shop, statements: list[str], said: str
) -> None:
    """Under the root's name nothing is said of them; reading the root again makes the target equal."""
    root.sql(*statements, "INSERT INTO u VALUES (2, 'two')")
    root.follow(root.stopped(f"table {root.source.schema}.r", said))
    root.sql("INSERT INTO r VALUES (3, 'three')")
    root.loaded()
    root.equal("r", "u")
    root.sql("UPDATE r SET v = 'again' WHERE id = 3")
    root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize(
    "statements",
    [
        ["VACUUM FULL t"],
        ["VACUUM (FREEZE) t", "ANALYZE t", "VACUUM FULL pg_attribute", "VACUUM FULL pg_publication_rel",
         "VACUUM FULL pg_publication", "VACUUM FULL pg_class", "VACUUM (FREEZE) pg_attribute"],
        ["CLUSTER t USING t_pkey"],
        ["ALTER TABLE t ADD x int", "INSERT INTO t VALUES (9, 'v', 'w', 1)"],
        ["ALTER TABLE t ADD x int DEFAULT 7", "VACUUM FULL t", "ALTER TABLE t DROP x", "VACUUM FULL t"],
        ["ALTER TABLE t DROP w", "UPDATE t SET v = 'x'"],
        ["TRUNCATE t", "INSERT INTO t VALUES (9, 'v', 'w')"],
        ["GRANT SELECT (v) ON t TO public", "ALTER TABLE t ALTER v SET STATISTICS 50", "ALTER TABLE t ALTER v SET "
         "NOT NULL", "COMMENT ON COLUMN t.v IS 'x'", "CREATE INDEX ON t (v)", "ALTER TABLE t SET (fillfactor = 50)"],
        ["ALTER TABLE t ALTER v TYPE varchar", "ALTER TABLE t REPLICA IDENTITY FULL", "DELETE FROM t WHERE id = 1"],
        ["ALTER PUBLICATION {name} SET TABLE t, u"],
    ],
)  # fmt: skip
def test_OUT_04_what_loses_no_change_stops_nothing(shop: Shop, statements: list[str]) -> None:
    """Upkeep of the table and the catalogue, columns that come and go, what the stream itself says: run after run."""
    for statement in statements:
        shop.sql(statement.format(name=shop.source.schema))
        shop.loaded()
    shop.sql("UPDATE t SET v = 'z' WHERE id = 2")
    shop.loaded()
    shop.equal()


@pytest.mark.parametrize(
    "statements",
    [
        ["TRUNCATE r", "INSERT INTO r VALUES (1, 'new')"],
        ["BEGIN; INSERT INTO r VALUES (2, 'x'); TRUNCATE r; INSERT INTO r VALUES (12, 'y'); COMMIT"],
        ["CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')"],
        ["BEGIN; CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30); INSERT INTO r VALUES (25, 'x'); COMMIT"],
        ["CREATE TABLE m PARTITION OF r FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (id)",
         "CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')"],
        ["ALTER TABLE r ADD x int", "UPDATE r SET v = 'x'", "ANALYZE r", "GRANT SELECT ON r_1 TO public"],
        ["UPDATE r SET id = 15 WHERE id = 1"],
        ["VACUUM FULL r_1", "CLUSTER r_2 USING r_2_pkey", "INSERT INTO r VALUES (2, 'x')"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [False, True])
def test_OUT_04_PG_21_partitions_of_which_the_stream_says_all_stop_nothing(
    root: Shop, statements: list[str], at_once: bool
) -> None:
    """A TRUNCATE of the root, new partitions whose rows came through it: in one run or one by one."""
    for statement in statements:
        root.sql(statement)
        if not at_once:
            root.loaded()
    root.loaded()
    root.equal("r", "u")
    root.sql("TRUNCATE r")
    root.loaded()
    root.equal("r", "u")


def test_OUT_04_the_first_partition_of_a_root(source: ChangeSource, tmp_path: Path) -> None:
    """A root that had none is like any other."""
    source.run("CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    source.publish("r", options="WITH (publish_via_partition_root = true)")
    shop = Shop(source, tmp_path)
    shop.lay()
    shop.loaded()
    shop.sql("CREATE TABLE r_1 PARTITION OF r FOR VALUES FROM (0) TO (10)", "INSERT INTO r VALUES (1, 'a')")
    shop.loaded()
    shop.equal("r")
    shop.sql("TRUNCATE r_1")
    shop.stopped("r_1 was truncated")


def test_OUT_04_a_partition_written_anew_and_then_truncated_is_noticed(root: Shop) -> None:
    """A row that came after it does not stand for those that were there."""
    root.sql("VACUUM FULL r_1", "TRUNCATE r_1", "INSERT INTO r VALUES (2, 'new')", "VACUUM FULL r_1")
    root.follow(root.stopped("r_1 was truncated"))
    root.loaded()
    root.equal("r", "u")


def test_OUT_03_PG_21_partitions_under_their_own_names_are_tables_like_others(
    source: ChangeSource, tmp_path: Path
) -> None:
    """Without publish_via_partition_root: one that was attached with rows is a new table, one that went is named."""
    source.run(*ROOT)
    source.publish("r", options="WITH (publish_via_partition_root = false)")
    shop = Shop(source, tmp_path)
    shop.lay()
    shop.loaded()
    shop.sql(
        "CREATE TABLE r_3 (LIKE r INCLUDING ALL)", "INSERT INTO r_3 VALUES (25, 'x')",
        "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (26, 'y')",
        "TRUNCATE r_1",
    )  # fmt: skip
    assert not shop.loaded().warnings
    shop.equal("r_1", "r_2", "r_3")
    shop.sql("ALTER TABLE r DETACH PARTITION r_2")
    shop.follow(shop.stopped(f"table {source.schema}.r_2: it is no longer in publication"))
    shop.loaded()
    shop.equal("r_1", "r_3")


@pytest.mark.parametrize("limit", [None, 1])
def test_OUT_04_a_partition_that_was_made_and_truncated_between_two_runs(root: Shop, limit: int | None) -> None:
    """Its rows came through the root, and nothing says that they are gone; also where a limit cut the window short."""
    root.lay(**({} if limit is None else {"limit": limit}))
    root.sql(
        "INSERT INTO u VALUES (2, 'x')", "CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)",
        "INSERT INTO r VALUES (25, 'x')", "TRUNCATE r_3",
    )  # fmt: skip
    for _ in range(2 if limit else 0):
        root.loaded()
    root.follow(root.stopped("r_3 was truncated"))
    for _ in range(2):
        root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("went", ["DROP TABLE r_3", "ALTER TABLE r DETACH PARTITION r_3"])
@pytest.mark.parametrize("transport", ["peek", "stream"])
def test_OUT_04_a_partition_that_came_and_went_between_two_runs(
    root: Shop, went: str, limit: int | None, transport: str
) -> None:
    """Its rows came through the root, and no event says that they are gone; also where a limit cut the window short."""
    root.lay(transport=transport, **({} if limit is None else {"limit": limit}))
    root.sql(
        "INSERT INTO u VALUES (2, 'x')", "CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)",
        "INSERT INTO r VALUES (25, 'x')", went, "INSERT INTO u VALUES (3, 'y')",
    )  # fmt: skip
    for _ in range(2 if limit else 0):
        root.loaded()
    root.follow(root.stopped(f"table {root.source.schema}.r: 1 of its partitions was created, filled"))
    for _ in range(3):
        root.loaded()
    root.equal("r", "u")
    root.sql("UPDATE r SET v = 'again' WHERE id = 1")
    root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize("went", ["", "DROP TABLE r_3"])
def test_OUT_04_a_partition_made_while_a_window_is_read(root: Shop, went: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The facts do not have it, and the stream does: it stops nothing while it is there, and is missed once it went."""
    then_once(
        monkeypatch,
        outside,
        "read",
        lambda: root.sql(
            "BEGIN; CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30); "
            "INSERT INTO r VALUES (25, 'x'); COMMIT"
        ),
    )
    root.loaded()
    root.equal("r", "u")
    if went:
        root.sql(went)
        root.follow(root.stopped("1 of its partitions was created, filled"))
    for _ in range(2):
        root.loaded()
    root.equal("r", "u")
    root.sql("TRUNCATE r")
    root.loaded()
    root.equal("r", "u")


def test_OUT_04_what_a_truncate_names_together_is_no_partition(root: Shop) -> None:
    """The stream describes the tables of one TRUNCATE one after the other, as it does a root and its partition."""
    root.sql("INSERT INTO u VALUES (2, 'x')", "TRUNCATE r, u", "INSERT INTO r VALUES (2, 'x')")
    root.loaded()
    root.equal("r", "u")
    root.sql("UPDATE r SET id = 12")
    root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize("policy", ["resync", "report"])
def test_OUT_04_a_partition_that_came_and_went_is_said_once(root: Shop, policy: str) -> None:
    """The table is read again by itself, or its rows stay in the target: the report says which, and only once."""
    root.lay(on_outside_change=policy)
    root.sql(
        "CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')",
        "DROP TABLE r_3",
    )  # fmt: skip
    [warning] = root.loaded().warnings
    assert "1 of its partitions was created, filled" in warning
    assert not root.loaded().warnings
    if policy == "resync":
        root.equal("r", "u")
    else:
        assert root.rows("r") == [(1, "one"), (11, "eleven"), (25, "x")]


@pytest.mark.parametrize("rows", [1, 2, 3, 20_000])
@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TYPE mood AS ENUM ('x')", "ALTER TABLE r ADD m mood", "{made}", "INSERT INTO r VALUES (25, 'x', 'x')"],
        ["INSERT INTO r VALUES (2, 'x')", "{made}", "ALTER TABLE r ADD m int", "UPDATE r SET id = 25 WHERE id = 1"],
        ["CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (id)",
         "CREATE TABLE r_4 PARTITION OF r_3 FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')",
         "DROP TABLE r_4"],
    ],
)  # fmt: skip
def test_OUT_04_a_partition_is_known_in_any_part_of_the_stream(
    root: Shop, statements: list[str], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types described in between, a shape that changes in between, any border of blocks, a partition of a partition."""
    monkeypatch.setattr(cdc, "_BLOCK_ROWS", rows)
    made = "CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)"
    root.sql(*(one.format(made=made) for one in statements))
    root.sql("DROP TABLE r_3")
    root.stopped(f"table {root.source.schema}.r: 1 of its partitions was created, filled")


def test_OUT_04_a_commit_that_cannot_be_seen_yet_stops_nothing(root: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its partition is not missed before the catalogue could show it; the run after that tells."""
    monkeypatch.setattr(outside.Facts, "ended", lambda self, xid: False)
    root.sql(
        "CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')",
        "DROP TABLE r_3",
    )  # fmt: skip
    root.loaded()
    position = root.position()
    root.loaded()
    assert root.position() == position
    monkeypatch.undo()
    root.follow(root.stopped("1 of its partitions was created, filled"))
    root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize(
    ("xid", "ended"),
    [(99, True), (100, False), (101, False), (90, False), (89, True), (2**32 - 5, True), (2**31 + 200, True)],
)
def test_OUT_04_which_transactions_the_facts_show(xid: int, ended: bool) -> None:
    """Those below the bound that were not running, by the lower 32 bits of an xid."""
    bound = 3 * 2**32 + 100
    facts = outside.Facts(
        (1, 1, True), (), (), "", (), (), 0, since=bound - 10, below=bound, running=(bound - 10,)
    )  # fmt: skip
    assert facts.ended(xid) is ended


def test_OUT_04_a_partition_is_no_table_of_a_stream_that_begins_without_a_snapshot(
    source: ChangeSource, tmp_path: Path
) -> None:
    """Its description comes with the root's: it does not leave the publication, in which it never was."""
    source.run(*ROOT[:3])
    source.publish("r", options="WITH (publish_via_partition_root = true)")
    shop = Shop(source, tmp_path)
    shop.lay(initial="none")
    shop.sql("INSERT INTO r VALUES (1, 'one')")
    shop.loaded()
    shop.sql("INSERT INTO r VALUES (2, 'two')")
    shop.loaded()
    shop.equal("r")
    assert [*shop.position()["value"]["tables"]] == [f"{source.schema}.r"]


def test_OUT_04_an_empty_partition_may_be_attached(root: Shop) -> None:
    """It brings nothing, and what comes into it through the root is told."""
    root.sql(
        "CREATE TABLE r_3 (LIKE r INCLUDING ALL)", "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30)"
    )
    root.loaded()
    root.sql("INSERT INTO r VALUES (25, 'x')")
    root.loaded()
    root.equal("r", "u")


def test_OUT_04_a_truncate_that_a_limit_left_for_later_is_not_missed(root: Shop) -> None:
    """The files of the partitions are others already, while its event is still to come."""
    root.lay(limit=1)
    root.sql("INSERT INTO u VALUES (2, 'x')", "INSERT INTO u VALUES (3, 'x')", "TRUNCATE r", "INSERT INTO r VALUES (4)")
    for _ in range(5):
        root.loaded()
    root.equal("r", "u")
    root.sql("INSERT INTO u VALUES (4, 'x')", "INSERT INTO u VALUES (5, 'x')", "TRUNCATE r_1")
    root.loaded()
    root.loaded()
    root.follow(root.stopped("r_1 was truncated"))
    for _ in range(3):
        root.loaded()
    root.equal("r", "u")


def test_OUT_04_what_was_judged_in_a_window_that_was_cut_short_stays_so(root: Shop) -> None:
    """A partition that was attached empty, and filled by the stream while a limit was being worked off."""
    root.lay(limit=1)
    root.sql(
        "CREATE TABLE r_3 (LIKE r INCLUDING ALL)", "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30)",
        "INSERT INTO u VALUES (2, 'x')", "INSERT INTO u VALUES (3, 'x')", "TRUNCATE r",
    )  # fmt: skip
    root.loaded()
    root.sql("INSERT INTO r VALUES (25, 'x')")
    for _ in range(4):
        root.loaded()
    root.equal("r", "u")


def test_SE_04_a_column_that_came_with_a_default_is_reported(shop: Shop) -> None:
    """Rows not changed since lack the value, once said; reading the table again fills it."""
    shop.sql("ALTER TABLE t ADD x int DEFAULT 7", "UPDATE t SET v = 'y' WHERE id = 1")
    [warning] = shop.loaded().warnings
    assert "column x was added with a default" in warning
    assert not shop.loaded().warnings
    assert shop.rows("t", "id, x")[:2] == [(1, 7), (2, None)]
    shop.follow(warning)
    shop.loaded()
    shop.equal("t", columns="id, v, x")


# -- a person decides -------------------------------------------------------------------------------------------


def test_PG_19_a_table_made_again_is_read_again(shop: Shop) -> None:
    """Other rows under the same name: named, and replaced when a person says so."""
    name = shop.source.schema
    shop.sql(
        "DROP TABLE t", "CREATE TABLE t (id int PRIMARY KEY, v text)", f"ALTER PUBLICATION {name} ADD TABLE t",
        "INSERT INTO t VALUES (1, 'other')",
    )  # fmt: skip
    shop.follow(shop.stopped("dropped and recreated"))
    shop.loaded()
    shop.equal()


def test_resync_reads_one_table_again_and_leaves_the_others(shop: Shop) -> None:
    """Rows that someone broke in the target are as in the source; a broken row of the other table stays, so that it was
    not touched. It is a new epoch, and a target that is missing is made again."""
    with closing(sqlite3.connect(shop.folder / "warehouse.db")) as db:
        db.execute("UPDATE l_t SET v = 'broken' WHERE id = 1")
        db.execute("UPDATE l_u SET v = 'broken'")
        db.commit()
    epoch = shop.position()["epoch"]
    code, said = shop.dpone("cdc", "resync", str(shop.path), "--table", f"{shop.source.schema}.t")
    assert code == 0, said
    assert shop.position()["epoch"] == epoch + 1
    assert shop.rows("t")[0] == (1, "broken")
    shop.sql("INSERT INTO u VALUES (2, 'two')", "UPDATE t SET v = 'new' WHERE id = 2")
    shop.loaded()
    shop.equal("t")
    assert shop.rows("u") == [(1, "broken"), (2, "two")]
    with closing(sqlite3.connect(shop.folder / "warehouse.db")) as db:
        db.execute("DROP TABLE l_t")
    shop.dpone("cdc", "resync", str(shop.path), "--table", f"{shop.source.schema}.t")
    shop.loaded()
    shop.equal("t")


def test_resync_of_one_table_hides_nothing_of_the_others(shop: Shop) -> None:
    """A target of another table that was dropped stops the run, as without it."""
    shop.dpone("cdc", "resync", str(shop.path), "--table", f"{shop.source.schema}.t")
    with closing(sqlite3.connect(shop.folder / "warehouse.db")) as db:
        db.execute("DROP TABLE l_u")
    shop.sql("INSERT INTO u VALUES (2, 'two')")
    done = shop.run()
    assert done.error is not None
    assert (done.status, done.error.kind) == ("stopped", "StateAhead")


def test_resync_refuses_what_it_cannot_do(shop: Shop, tmp_path: Path) -> None:
    """A table that the stream does not have, and a stream that was not loaded yet: exit 2, nothing changed."""
    before = shop.dump()
    code, said = shop.dpone("cdc", "resync", str(shop.path), "--table", "nothing")
    assert code == 2
    assert "no table of the stream matches" in said
    assert shop.dump() == before
    (shop.folder / "warehouse.db").unlink()
    (shop.folder / "state.db").unlink()
    code, said = shop.dpone("cdc", "resync", str(shop.path), "--table", "t")
    assert code == 2
    assert "has not been loaded yet" in said


def test_resync_of_a_stream_of_one_table(source: ChangeSource, tmp_path: Path) -> None:
    """The whole stream is then that table."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    source.publish("t")
    shop = Shop(source, tmp_path, "t")
    shop.lay()
    shop.loaded()
    with closing(sqlite3.connect(shop.folder / "warehouse.db")) as db:
        db.execute("DELETE FROM l_t WHERE id = 1")
        db.commit()
    shop.sql("ALTER TABLE t ALTER v TYPE text USING upper(v)", "INSERT INTO t VALUES (3, 'c')")
    shop.follow(shop.stopped("column v was altered"))
    shop.loaded()
    shop.equal("t")
    shop.sql("DELETE FROM t WHERE id = 2")
    shop.loaded()
    shop.equal("t")


def test_resync_with_append_adds_the_rows_as_events_of_their_own(shop: Shop) -> None:
    """The history keeps what it had: each row of the snapshot is one insert more, with an event id of its own."""
    for name in ("warehouse.db", "state.db"):
        (shop.folder / name).unlink()
    shop.lay("append")
    shop.loaded()
    shop.sql("ALTER TABLE t ALTER v TYPE text USING upper(v)")
    shop.follow(shop.stopped("column v was altered"))
    shop.loaded()
    assert shop.rows("t", "count(*), count(DISTINCT __dpone__event_id)") == [(10, 10)]
    assert {v for (v,) in shop.rows("t", "v")} == {*(f"v{i}" for i in range(1, 6)), *(f"V{i}" for i in range(1, 6))}


def test_resync_with_scd2_makes_versions_of_what_differs(shop: Shop) -> None:
    """A row that is as before keeps its version; one that changed without an event gets a new one."""
    for name in ("warehouse.db", "state.db"):
        (shop.folder / name).unlink()
    shop.lay("scd2")
    shop.loaded()
    shop.sql("ALTER TABLE t ALTER v TYPE text USING CASE WHEN id = 1 THEN 'changed' ELSE v END")
    shop.follow(shop.stopped("column v was altered"))
    shop.loaded()
    open_ = shop.rows("t", "id, v, __dpone__valid_to IS NULL")
    assert len(open_) == 6
    assert [row[:2] for row in open_ if row[2]] == shop.source.query("SELECT id, v FROM t ORDER BY id")


def test_on_outside_change_resync_reads_the_table_again_by_itself(root: Shop) -> None:
    """Without a person, and said in the report; what nobody could read again still stops."""
    root.lay(on_outside_change="resync")
    for statements in (
        ["TRUNCATE r_1", "INSERT INTO r VALUES (2, 'two')", "INSERT INTO u VALUES (3, 'x')"],
        ["ALTER TABLE r ALTER v TYPE text USING upper(v)"],
        [f"ALTER PUBLICATION {root.source.schema} SET (publish = 'insert')", "UPDATE r SET v = 'lost'",
         f"ALTER PUBLICATION {root.source.schema} SET (publish = 'insert, update, delete, truncate')"],
    ):  # fmt: skip
        root.sql(*statements)
        warnings = root.loaded().warnings
        assert any("it is read again" in one for one in warnings), warnings
        root.equal("r", "u")
        assert not root.loaded().warnings
    root.sql(f"ALTER PUBLICATION {root.source.schema} DROP TABLE u")
    root.stopped("no longer in publication")


def test_on_outside_change_report_goes_on_with_a_warning(root: Shop) -> None:
    """Once for each; the next run has nothing to say."""
    root.lay(on_outside_change="report")
    root.sql("DROP TABLE r_2", "TRUNCATE r_1", "INSERT INTO r VALUES (2, 'two')")
    warnings = root.loaded().warnings
    assert any("1 of its partitions was detached or dropped" in one for one in warnings)
    assert any("r_1 was truncated" in one for one in warnings)
    assert not root.loaded().warnings
    assert root.rows("r") == [(1, "one"), (2, "two"), (11, "eleven")]


# -- positions --------------------------------------------------------------------------------------------------


def test_a_position_of_before_adopts_what_it_finds(shop: Shop) -> None:
    """Without the fields of today, as an earlier version wrote it: the next window compares from then on."""
    old = shop.position()
    for name in ("outside", "due"):
        del old["value"][name]
    code, said = shop.dpone("state", "set", str(shop.path), "--stream", "p", "--position", json.dumps(old), "--yes")
    assert code == 0, said
    shop.sql("UPDATE t SET v = 'new' WHERE id = 1")
    shop.loaded()
    shop.equal()
    assert {*shop.position()["value"]["outside"]} == {f"{shop.source.schema}.{name}" for name in ("t", "u")}
    shop.sql("ALTER TABLE t ALTER v TYPE text USING upper(v)")
    shop.stopped("column v was altered")


def test_resync_from_a_position_of_before(shop: Shop) -> None:
    """The table's changes up to its snapshot are left out there too: a history has each row of it once more."""
    for name in ("warehouse.db", "state.db"):
        (shop.folder / name).unlink()
    shop.lay("append")
    shop.loaded()
    old = shop.position()
    for name in ("outside", "due"):
        del old["value"][name]
    shop.dpone("state", "set", str(shop.path), "--stream", "p", "--position", json.dumps(old), "--yes")
    shop.dpone("cdc", "resync", str(shop.path), "--table", f"{shop.source.schema}.t")
    shop.sql("UPDATE t SET v = 'new' WHERE id = 1", "INSERT INTO u VALUES (2, 'two')")
    shop.loaded()
    assert shop.rows("t", "__dpone__op") == [("insert",)] * 10
    shop.equal("u")


def test_a_position_stays_as_it_is_while_nothing_changes(shop: Shop) -> None:
    """Upkeep of the server does not change it, so that a window read again is the same."""
    before = shop.position()["value"]["outside"]
    shop.sql("VACUUM (FREEZE) t", "ANALYZE t", "INSERT INTO u VALUES (2, 'two')")
    shop.loaded()
    assert shop.position()["value"]["outside"] == before


@pytest.fixture(autouse=True)
def _no_slots_left(source: ChangeSource) -> Iterator[None]:
    """The snapshot's slot is gone with its connection, as soon as the server notices that."""
    yield
    left = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'dpone_snapshot_%'"
    until(lambda: not source.query(left), "the slot does not end with its connection")
