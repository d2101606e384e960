"""What a load has added and not committed is taken back (OUT-15): what PostgreSQL asks of it. The engine's side is in
``tests/engine/test_taken_back.py``, every step of a crash in ``test_kill_matrix.py``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from attrs import evolve
from tests.patience import PATIENCE
from tests.postgres.target import Target
from tests.sqlite.target import KEY, at, load, rows

from dpone.contract import Part, TakenBack
from dpone.errors import Category, SinkError
from dpone.model import evolution
from dpone.model.strategy import Strategy
from dpone_postgres import database

pytestmark = pytest.mark.postgres

APPEND = Strategy("append")
BARE = pa.table({"id": pa.array([1, 2], pa.int64())})
WIDE = pa.table({"id": pa.array([3], pa.int64()), "coupon": pa.array([7], pa.int64())})
COUPON = "column coupon of {schema}.orders"


@contextmanager
def providing(target: Target, table: pa.Table, key: str = KEY, **options: Any) -> Iterator[Any]:
    """An open load for which the target was made fit, as the engine does it."""
    with closing(target.sink(APPEND, **options)) as sink:
        begun = evolve(load(table.schema, APPEND, parts=1), key=key)
        have = sink.schema()
        bare = None if have is None else pa.schema([f for f in have if not f.name.startswith("__dpone__")])
        plan = evolution.plan(bare, table.schema, sink._spec.options.schema_evolution, sink.stores)
        sink.provide(begun, sink.ddl(plan.changes))
        with closing(sink.open(begun)) as writer:
            writer.stage(Part("all"), rows(table))
            yield writer


def fail(target: Target, table: pa.Table) -> None:
    with providing(target, table) as writer:
        writer.abort()


def role_url(target: Target) -> str:
    return psycopg.conninfo.make_conninfo(target.server.url, user="taken_back", password="x")


def taken(target: Target, key: str = KEY) -> list[TakenBack]:
    with closing(target.sink(APPEND)) as sink:
        return list(sink.take_back(key))


def names(target: Target) -> list[str]:
    sql = "SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped"
    return sorted(name for (name,) in target.query(sql))


COLUMN_TOUCHED = {
    "a value": ("UPDATE orders SET coupon = 1", "it has values"),
    "a view": ("CREATE VIEW v AS SELECT coupon FROM orders", ".v"),
    "an index": ("CREATE INDEX i ON orders (coupon)", ".i"),
    "an expression": ("CREATE INDEX i ON orders ((coupon + 1))", ".i"),
    "a constraint": ("ALTER TABLE orders ADD CONSTRAINT c CHECK (coupon > 0)", "constraint c"),
    "a default": ("ALTER TABLE orders ALTER coupon SET DEFAULT 3", "default value"),
    "a generated column": ("ALTER TABLE orders ADD more bigint GENERATED ALWAYS AS (coupon + 1) STORED", "more"),
    "a comment": ("COMMENT ON COLUMN orders.coupon IS 'mine'", "a comment"),
    "a grant": ("GRANT SELECT (coupon) ON orders TO PUBLIC", "grants"),
    "a type": ("ALTER TABLE orders ALTER coupon TYPE text", "it has changed since then"),
    "another": ("ALTER TABLE orders DROP coupon, ADD coupon bigint", "it has changed since then"),
}


@pytest.mark.parametrize("touched", COLUMN_TOUCHED)
def test_OUT_15_a_column_that_somebody_uses_since_stays(target: Target, touched: str) -> None:
    """Whatever names the column, or fills it: it stays, the reason is named, and it is the target's from then on."""
    target.load(BARE, APPEND)
    fail(target, WIDE)
    statement, why = COLUMN_TOUCHED[touched]
    target.run(statement)
    before = names(target)
    [left] = taken(target)
    assert left.what == COUPON.format(schema=target.schema)
    assert why in left.stays
    assert names(target) == before
    assert taken(target) == []


TABLE_TOUCHED = {
    "rows": ("INSERT INTO orders (id) VALUES (1)", "it has rows"),
    "a view": ("CREATE VIEW v AS SELECT * FROM orders", "views or functions"),
    "an index": ("CREATE INDEX i ON orders (id)", "indexes"),
    "a reference": ("ALTER TABLE orders ADD UNIQUE (id)", "constraints"),
    "a publication": ("CREATE PUBLICATION taken_back FOR TABLE orders", "publications"),
    "a policy": ("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "row security"),
    "a column": ("ALTER TABLE orders ADD mine text", "it has changed since then"),
    "a grant": ("GRANT SELECT ON orders TO PUBLIC", "it has changed since then"),
    "another": (
        "CREATE TABLE o (LIKE orders); DROP TABLE orders; ALTER TABLE o RENAME TO orders",
        "it has changed since then",
    ),
}


@pytest.mark.parametrize("touched", TABLE_TOUCHED)
def test_OUT_15_a_table_that_somebody_uses_since_stays(target: Target, touched: str) -> None:
    """The same of a table, and of another one that has its name and its columns."""
    fail(target, WIDE)
    statement, why = TABLE_TOUCHED[touched]
    target.run(*statement.split("; "))
    try:
        [left] = taken(target)
        assert (left.what, why in left.stays) == (f"table {target.schema}.orders", True), left
        assert "orders" in target.tables()
        assert taken(target) == []
    finally:
        target.run("DROP PUBLICATION IF EXISTS taken_back")


def test_OUT_15_a_publication_of_all_tables_keeps_no_table(target: Target) -> None:
    """Nobody has asked for this one."""
    target.run("CREATE PUBLICATION taken_back FOR ALL TABLES")
    try:
        fail(target, WIDE)
        assert [one.stays for one in taken(target)] == [""]
        assert "orders" not in target.tables()
    finally:
        target.run("DROP PUBLICATION taken_back")


def test_OUT_15_a_load_that_fails_for_days_does_not_use_up_the_columns(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a limit the column stays: PostgreSQL counts those that were dropped, and a table has 1,600 at most.
    The next load that fails adds none."""
    monkeypatch.setattr(database, "_COLUMNS_USED", 6)
    target.load(BARE, APPEND)
    stays = []
    for _ in range(6):
        fail(target, WIDE)
        stays += [one.stays for one in taken(target)]
    assert [bool(why) for why in stays] == [False, False, False, True]
    assert "1,600" in stays[-1]
    assert target.query("SELECT max(attnum) FROM pg_attribute WHERE attrelid = 'orders'::regclass") == [(7,)]


def test_OUT_15_a_commit_under_way_is_waited_for(target: Target) -> None:
    """The answer to a commit was lost, and it is still at work: what it makes the target's is not taken back."""
    target.load(BARE, APPEND)
    with closing(target.connect()) as blocker, providing(target, WIDE) as writer:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE orders IN SHARE MODE")
        done: list[Any] = []
        with closing(target.sink(APPEND)) as sink:
            head = sink.journal(KEY)
        commit = threading.Thread(target=lambda: done.append(writer.commit(head, at(1))))
        commit.start()
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%orders%'"
        while not target.query(waiting)[0][0]:
            assert commit.is_alive()
        back = threading.Thread(target=lambda: done.append(taken(target)))
        back.start()
        back.join(0.3)
        assert done == []
        blocker.execute("ROLLBACK")
        commit.join(PATIENCE)
        back.join(PATIENCE)
    assert len(done) == 2
    assert [] in done
    assert target.query("SELECT id, coupon FROM orders ORDER BY 1") == [(1, None), (2, None), (3, 7)]


def test_OUT_15_streams_that_share_a_target_take_back_nothing_of_each_other(target: Target) -> None:
    """Of three that count on one column the last to fail takes it back; readers and views of the table go on."""
    target.load(BARE, APPEND)
    target.run("CREATE VIEW v AS SELECT id FROM orders")
    keys = [KEY, f"{KEY}|2", f"{KEY}|3"]
    for key in keys:
        with providing(target, WIDE, key):
            pass
    assert [len(taken(target, key)) for key in keys] == [0, 0, 1]
    assert "coupon" not in names(target)
    assert target.query("SELECT count(*) FROM v") == [(2,)]


@pytest.mark.parametrize("loaded", [True, False], ids=["column", "table"])
def test_OUT_15_what_is_taken_back_after_another_stream_has_planned_is_planned_again(
    target: Target, loaded: bool
) -> None:
    """The other stream found it there, so that its own DDL lacked it: its error is one that is tried again."""
    if loaded:
        target.load(BARE, APPEND)
    fail(target, WIDE)
    with closing(target.sink(APPEND)) as sink:
        planned = evolve(load(WIDE.schema, APPEND, parts=1), key="other")
        assert [one.stays for one in taken(target)] == [""]
        sink.provide(planned, [])
        with pytest.raises(SinkError, match="no column coupon" if loaded else "the table does not exist") as caught:
            sink.open(planned)
    assert caught.value.category is Category.TRANSIENT
    with providing(target, WIDE, "other") as writer:
        writer.commit(None, at(1))
    assert target.query("SELECT coupon FROM orders WHERE id = 3") == [(7,)]


def test_OUT_15_the_record_has_the_grants_of_the_journal(target: Target) -> None:
    """A role that loads into the schema of another with a version before this one goes on doing so."""
    target.run("DROP ROLE IF EXISTS taken_back", "CREATE ROLE taken_back")
    try:
        target.load(BARE, APPEND)
        target.run("GRANT SELECT, INSERT, UPDATE, DELETE ON __dpone__loads TO taken_back")
        target.run("DROP TABLE IF EXISTS __dpone__added")
        fail(target, WIDE)
        sql = "SELECT has_table_privilege('taken_back', '__dpone__added', %s)"
        assert [target.query(sql, what)[0][0] for what in ("SELECT", "INSERT", "DELETE", "TRUNCATE")] == [
            True, True, True, False,
        ]  # fmt: skip
    finally:
        target.run("DROP OWNED BY taken_back", "DROP ROLE taken_back")


def test_OUT_15_a_column_that_somebody_adds_at_the_same_time_is_not_the_loads(target: Target) -> None:
    """A migration under way holds the table while the load waits for it with its own DDL: what it added stays."""
    target.load(BARE, APPEND)
    done: list[Any] = []
    with closing(target.connect()) as migration:
        migration.execute("BEGIN")
        migration.execute("ALTER TABLE orders ADD mine text")
        failing = threading.Thread(target=lambda: done.append(fail(target, WIDE)))
        failing.start()
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%orders%'"
        while not target.query(waiting)[0][0]:
            assert failing.is_alive()
        migration.execute("COMMIT")
        failing.join(PATIENCE)
    assert done == [None]
    assert [(one.what, one.stays) for one in taken(target)] == [(COUPON.format(schema=target.schema), "")]
    assert "mine" in names(target)


def test_OUT_15_a_column_whose_rows_a_policy_hides_stays(target: Target) -> None:
    """What the role cannot see may have values."""
    target.run("DROP ROLE IF EXISTS taken_back", "CREATE ROLE taken_back LOGIN PASSWORD 'x'")
    try:
        target.load(BARE, APPEND)
        fail(target, WIDE)
        target.run(
            "UPDATE orders SET coupon = 1 WHERE id = 2",
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY few ON orders USING (id < 2)",
            f'GRANT ALL ON SCHEMA "{target.schema}" TO taken_back',
            f'GRANT ALL ON ALL TABLES IN SCHEMA "{target.schema}" TO taken_back',
            "ALTER TABLE orders OWNER TO taken_back",
        )
        with closing(target.sink(APPEND, role_url(target), row_security="on")) as sink:
            [left] = sink.take_back(KEY)
        assert "row security" in left.stays
        assert "coupon" in names(target)
    finally:
        target.run("DROP OWNED BY taken_back CASCADE", "DROP ROLE taken_back")
