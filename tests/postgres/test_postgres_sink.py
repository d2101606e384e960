"""The PostgreSQL sink: how rows are replaced, what the fence keeps out, what happens when a connection ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import psycopg
import pyarrow as pa
import pytest
import yaml
from attrs import evolve as replace
from tests.patience import PATIENCE, until
from tests.postgres.proxy import proxy
from tests.postgres.server import Server
from tests.postgres.target import Target
from tests.sqlite.target import KEY, Rows, at, evolve, load, rows

from dpone.contract import Part
from dpone.engine.run import run
from dpone.errors import ConfigError, Conflict, DataError, SinkError
from dpone.model.pipeline import Lineage, SchemaEvolution
from dpone.model.schema import LINEAGE, Name
from dpone.model.strategy import Strategy

FULL, APPEND = Strategy("full_refresh", key="id"), Strategy("append")
MERGE = Strategy("merge", key="id")


def table(first: int, last: int, value: str = "a") -> pa.Table:
    ids = list(range(first, last + 1))
    return pa.table({"id": pa.array(ids, pa.int64()), "v": [value] * len(ids)})


def staged(sink: Any, data: pa.Table, strategy: Strategy, **more: Any) -> Any:
    evolve(sink, data.schema, strategy)
    writer = sink.open(load(data.schema, strategy, **more))
    writer.stage(Part("all"), rows(data))
    return writer


# ---- full refresh


@pytest.mark.releases
def test_a_plain_table_is_swapped_and_keeps_its_grants(target: Target) -> None:
    """A table that nothing depends on is replaced by the staging; grants, key and column order are as before."""
    target.load(table(1, 3), FULL)
    role = f"reader_{target.schema}"
    target.run(f"CREATE ROLE {role}", f"GRANT SELECT, UPDATE ON orders TO {role}", "GRANT SELECT ON orders TO PUBLIC")
    before = target.query("SELECT 'orders'::regclass::oid")
    receipt = target.load(table(2, 5, "b"), FULL)
    assert (receipt.inserted, receipt.deleted) == (4, 3)
    assert target.query("SELECT 'orders'::regclass::oid") != before
    sql = (
        "SELECT grantee::text, privilege_type::text FROM information_schema.role_table_grants "
        "WHERE table_schema = %s AND table_name = 'orders' AND grantee <> grantor ORDER BY 1, 2"
    )
    assert target.query(sql, target.schema) == [("PUBLIC", "SELECT"), (role, "SELECT"), (role, "UPDATE")]
    names = target.query("SELECT conname::text FROM pg_constraint WHERE conrelid = 'orders'::regclass ORDER BY contype")
    assert names in ([("orders_pkey",)], [("orders_id_not_null",), ("orders_pkey",)])  # PostgreSQL 18 names both
    sql = (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum"
    )
    assert [name for (name,) in target.query(sql)] == ["id", "v", *LINEAGE]
    target.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


DEPENDING = {
    "view": ("CREATE VIEW seen AS SELECT * FROM orders", True),
    "index": ("CREATE INDEX mine ON orders (v)", True),
    "foreign key": ("CREATE TABLE child (id bigint REFERENCES orders)", False),
    "trigger": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'; "
        "CREATE TRIGGER g BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION f()",
        False,
    ),
    "default": ("ALTER TABLE orders ALTER COLUMN v SET DEFAULT 'x'", True),
    "comment": ("COMMENT ON TABLE orders IS 'mine'", True),
    "policy": ("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", True),
    "replica identity": ("ALTER TABLE orders REPLICA IDENTITY FULL", True),
    "statistics target": ("ALTER TABLE orders ALTER COLUMN v SET STATISTICS 500", True),
    "column options": ("ALTER TABLE orders ALTER COLUMN v SET (n_distinct = 3)", True),
    "column storage": ("ALTER TABLE orders ALTER COLUMN v SET STORAGE EXTERNAL", True),
    "toast options": ("ALTER TABLE orders SET (toast.autovacuum_enabled = off)", True),
}


@pytest.mark.parametrize("what", DEPENDING)
def test_what_depends_on_the_target_decides_how_it_is_replaced(target: Target, what: str) -> None:
    """Where a swap would lose something the rows are replaced in place: by TRUNCATE, or by DELETE where a foreign key
    or a trigger looks at each row."""
    target.load(table(1, 3), FULL)
    statement, truncated = DEPENDING[what]
    target.run(statement)
    before = target.query("SELECT 'orders'::regclass::oid, pg_relation_filenode('orders')")
    receipt = target.load(table(2, 5, "b"), FULL)
    assert (receipt.inserted, receipt.deleted) == (4, 3)
    [(oid, file)] = target.query("SELECT 'orders'::regclass::oid, pg_relation_filenode('orders')")
    assert oid == before[0][0]
    assert (file != before[0][1]) is truncated
    assert target.rows("id, v", "id") == [(i, "b") for i in range(2, 6)]
    assert not target.stages()


@pytest.mark.parametrize("way", ["swap", "truncate", "delete"])
def test_the_stated_way_is_taken(target: Target, way: Literal["swap", "truncate", "delete"]) -> None:
    """``options.full_refresh`` names the way, whatever ``auto`` would choose."""
    target.load(table(1, 3), FULL)
    before = target.query("SELECT 'orders'::regclass::oid, pg_relation_filenode('orders')")
    target.load(table(2, 5), FULL, full_refresh=way)
    [(oid, file)] = target.query("SELECT 'orders'::regclass::oid, pg_relation_filenode('orders')")
    assert (oid == before[0][0], file == before[0][1]) == {
        "swap": (False, False),
        "truncate": (True, False),
        "delete": (True, True),
    }[way]


def test_a_target_keeps_its_primary_key_where_rows_of_one_key_are_chosen_from(target: Target) -> None:
    """Also if none repeats, and so nothing is chosen: a stage without the key never takes the target's place."""
    last = Strategy("full_refresh", key="id", duplicates="last", order_by="v")
    for n, end in enumerate([2, 3]):
        target.load(table(1, end), last, n=n)
        keys = target.query(
            "SELECT conname::text FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'p'"
        )
        assert keys == [("orders_pkey",)]
    assert target.rows("id") == [(1,), (2,), (3,)]


def test_a_swap_that_would_lose_something_is_refused(target: Target) -> None:
    """``full_refresh: swap`` stops, naming what depends on the table, before a row is read."""
    target.load(table(1, 3), FULL)
    target.run("CREATE VIEW seen AS SELECT * FROM orders")
    with pytest.raises(SinkError, match="views or functions"):
        target.load(table(2, 5), FULL, full_refresh="swap")
    assert target.rows("id", "id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("way", ["swap", "truncate", "delete"])
@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_LS_01_readers_see_the_old_rows_or_the_new(target: Target, way: str, fails: bool) -> None:
    """Through a full refresh, also one that fails half way, a READ COMMITTED reader counts the old rows or the new."""
    target.load(table(1, 300), FULL)
    seen: set[int] = set()
    stop = threading.Event()

    def look() -> None:
        with target.connect() as db:
            while not stop.is_set():
                seen.add(db.execute("SELECT count(*) FROM orders").fetchone()[0])  # type: ignore[index]

    reader = threading.Thread(target=look)
    reader.start()
    data = table(1, 500, "b")
    if fails:
        data = pa.concat_tables([data, table(1, 1)])
    try:
        for _ in range(3):
            if fails:
                with pytest.raises(DataError):
                    target.load(data, FULL, full_refresh=way)
            else:
                target.load(data, FULL, full_refresh=way)
    finally:
        stop.set()
        reader.join()
    assert seen <= ({300} if fails else {300, 500})
    assert seen


def test_delete_is_exact_for_a_repeatable_reader(target: Target) -> None:
    """``full_refresh: delete``: a REPEATABLE READ reader that began before goes on seeing the old rows."""
    target.load(table(1, 3), FULL)
    with target.connect() as db:
        db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        db.execute("SELECT 1 FROM pg_class LIMIT 1")
        target.load(table(1, 9), FULL, full_refresh="delete")
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (3,)


# ---- fence and locks


def test_of_two_commits_after_one_entry_one_is_a_conflict(target: Target) -> None:
    """Two runners of one key have seen the same head. While the first is about to commit the second waits, then finds
    the head moved on: a Conflict, and nothing of it written."""
    target.load(table(1, 1), APPEND)
    with closing(target.sink(APPEND)) as one, closing(target.sink(APPEND)) as two:
        head = one.journal(KEY)
        evolve(one, table(1, 1).schema, APPEND)  # type: ignore[arg-type]
        first = one.open(load(table(1, 1).schema, APPEND, key=KEY))
        first.stage(Part("all"), rows(table(2, 2)))
        # A rewind, which writes the journal alone: opening a load would sweep the staging of the first.
        second = two.open(load(None, APPEND, key="other"))
        second._load = replace(second._load, key=KEY)
        about_to_commit, real = threading.Event(), first._db.commit
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

        def commit() -> None:
            first._db.commit = real  # type: ignore[method-assign]
            about_to_commit.set()
            while target.query(waiting) == [(0,)]:
                pass
            real()

        first._db.commit = commit  # type: ignore[method-assign]
        with ThreadPoolExecutor(2) as pool:
            won = pool.submit(first.commit, head, at(2))
            assert about_to_commit.wait(PATIENCE)
            with pytest.raises(Conflict, match="nothing was written"):
                second.commit(head, at(3))
            assert won.result(PATIENCE).inserted == 1
    assert target.query("SELECT count(*) FROM __dpone__loads WHERE key = %s", KEY) == [(2,)]


def test_LS_08_eight_writers_of_one_table(target: Target) -> None:
    """Eight keys merge overlapping rows into one table at once: no deadlock comes through, no update is lost."""
    target.load(table(1, 40), MERGE)

    def write(n: int) -> None:
        data = pa.concat_tables([table(40 * n, 40 * n + 9, f"w{n}"), table(1, 40, f"w{n}")]).combine_chunks()
        order = data.take(pa.array(sorted(range(data.num_rows), key=lambda i: hash((n, i)))))
        with closing(target.sink(MERGE)) as sink:
            writer = staged(sink, order, MERGE, key=f"key {n}")
            writer.commit(sink.journal(f"key {n}"), at())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(2, 10)))
    assert target.query("SELECT count(*), count(DISTINCT id) FROM orders") == [(120, 120)]
    assert target.query("SELECT count(DISTINCT v) FROM orders WHERE id <= 40") == [(1,)]
    assert not target.stages()


def test_a_deadlock_is_tried_again(target: Target) -> None:
    """An application that locks rows in the other order makes the server end one of the two; if it is ours, the commit
    is run again in a fresh transaction. Ours is the one that closes the circle, since a server looks for one but once,
    ``deadlock_timeout`` after a wait began: it has row 1 and waits for the gate until the other waits for row 1."""
    target.load(table(1, 2), MERGE)
    target.run(
        "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock_shared(TG_RELID::int); RETURN NEW; END'",
        "CREATE TRIGGER gate BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION pass()",
    )
    with target.connect() as other, target.connect() as gate, closing(target.sink(MERGE)) as sink:
        writer = staged(sink, table(1, 2, "ours"), MERGE)
        writer._db.execute("SET deadlock_timeout = '50ms'")
        gate.execute("SELECT pg_advisory_lock('orders'::regclass::int)")
        other.execute("SET deadlock_timeout = '1h'")
        other.execute("BEGIN")
        other.execute("UPDATE orders SET v = 'theirs' WHERE id = 2")
        with ThreadPoolExecutor(2) as pool:
            committed = pool.submit(writer.commit, sink.journal(KEY), at(1))
            wait_for_lock(target, "ON CONFLICT")
            circle = pool.submit(other.execute, "UPDATE orders SET v = 'theirs' WHERE id = 1")
            wait_for_lock(target, "theirs")
            gate.execute("SELECT pg_advisory_unlock('orders'::regclass::int)")
            circle.result(PATIENCE)
            other.execute("COMMIT")
            assert committed.result(PATIENCE).updated == 2
    assert target.rows("v") == [("ours",), ("ours",)]


def wait_for_lock(target: Target, words: str) -> None:
    sql = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query ~ %s"
    )
    until(lambda: target.query(sql, words), f"nobody waits for a lock with {words}")


# ---- lost connections


def project(folder: Path, target: Target, url: str, mode: str = "append") -> Path:
    """A pipeline from the table ``source`` of the schema to ``orders``, the latter through ``url``."""
    strategy = {"mode": mode, "key": ["id"]}
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": target.server.url, "table": f"{target.schema}.source"},
        "sink": {"type": "postgres", "connection": url, "table": f"{target.schema}.orders", "strategy": strategy},
        "runtime": {"retries": 2},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("fault", ["answer", "request"])
@pytest.mark.parametrize("nth", range(1, 7))
def test_a_connection_lost_at_any_commit(tmp_path: Path, target: Target, nth: int, fault: Any) -> None:
    """Whether the server had the COMMIT or not, at whichever step: after the retries every row is there once, and
    no staging outlives the next load."""
    target.run("CREATE TABLE source AS SELECT i::bigint AS id, 'v' || i AS v FROM generate_series(1, 50) AS i")
    server = target.server
    with proxy((server.host, server.port), nth, fault) as way:
        pipeline = project(tmp_path, target, server.at(way.port))
        report = run(pipeline)
        assert report.exit_code == 0, report.streams[0].error
        assert target.query("SELECT count(*), count(DISTINCT id) FROM orders") == [(50, 50)]
        assert target.query("SELECT max(seq) FROM __dpone__loads") == [(1,)]
        assert way.commits >= min(nth, 5)
        assert len(target.stages()) <= 1
        target.run("UPDATE source SET id = id + 50")
        assert run(pipeline).exit_code == 0
    assert not target.stages()


@pytest.mark.parametrize(("fault", "attempts"), [("answer", 1), ("request", 2)])
def test_a_lost_answer_is_not_a_lost_load(tmp_path: Path, target: Target, fault: Any, attempts: int) -> None:
    """When the answer to the COMMIT of the rows is lost the journal is asked, and nothing is loaded again; if it was
    the COMMIT itself, everything is."""
    target.run("CREATE TABLE source AS SELECT i::bigint AS id FROM generate_series(1, 50) AS i")
    server = target.server
    with proxy((server.host, server.port)) as way:
        run(project(tmp_path, target, server.at(way.port)))
        nth = way.commits - 1  # the last one drops the staging
        target.run("DROP TABLE orders, __dpone__loads, __dpone__staging, __dpone__parts")
    (tmp_path / ".dpone" / "state.db").unlink()
    with proxy((server.host, server.port), nth, fault) as way:
        [stream] = run(project(tmp_path, target, server.at(way.port))).streams
    assert (stream.status, stream.attempts, stream.rows.inserted) == ("loaded", attempts, 50)


# ---- schema, names, messages


def test_evolution_adds_and_widens(target: Target) -> None:
    """New columns and wider types are made before the rows are staged; varchar grows without a rewrite."""
    target.run("CREATE TABLE orders (id integer, v varchar(3), n numeric(5,2))")
    columns = [pa.array([2**40]), pa.array(["abcdef"]), pa.array([1.5]).cast(pa.decimal128(12, 4)), pa.array([True])]
    native = {b"dpone.native": b"varchar(10)"}
    schema = pa.schema(
        [
            ("id", pa.int64()),
            pa.field("v", pa.string(), metadata=native),
            ("n", pa.decimal128(12, 4)),
            ("b", pa.bool_()),
        ]
    )
    target.load(pa.table(columns, schema), APPEND, lineage=Lineage(False))
    sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
    sql += "WHERE attrelid = 'orders'::regclass AND attnum > 0"
    assert target.query(sql) == [
        ("id", "bigint"), ("v", "character varying(10)"), ("n", "numeric(12,4)"), ("b", "boolean"),
    ]  # fmt: skip
    assert [str(n) for row in target.rows("n") for n in row] == ["1.5000"]


def test_SE_06_a_value_that_an_enum_lacks_is_refused_and_then_taken(target: Target) -> None:
    """A value the target's enum does not have stops the load without showing it; after ADD VALUE it is loaded."""
    target.run("CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE orders (id bigint, m mood)")
    data = pa.table({"id": pa.array([1], pa.int64()), "m": ["happy"]})
    with pytest.raises(DataError, match="SQLSTATE 22P02") as error:
        target.load(data, APPEND)
    assert "happy" not in str(error.value)
    target.run("ALTER TYPE mood ADD VALUE 'happy'")
    target.load(data, APPEND)
    assert target.rows("m::text") == [("happy",)]


def test_a_repeated_key_never_shows_its_value(target: Target) -> None:
    """A key that repeats in the rows is an error that names the key columns, not the key."""
    data = pa.table({"id": pa.array([77123, 77123], pa.int64()), "v": ["a", "b"]})
    with pytest.raises(DataError, match=r"have the same strategy.key \(id\)") as error:
        target.load(data, FULL)
    assert "77123" not in str(error.value)


def test_a_view_is_no_target(target: Target) -> None:
    """A view in place of the table is named."""
    target.run("CREATE VIEW orders AS SELECT 1 AS id")
    with pytest.raises(SinkError, match="it is a view"):
        target.load(table(1, 1), APPEND)


def test_generated_and_identity_columns(target: Target) -> None:
    """A generated column is left to the server, and an identity that the rows bring is taken."""
    target.run(
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, "
        "w text GENERATED ALWAYS AS (v || '!') STORED)"
    )
    target.load(table(5, 6, "first"), APPEND, lineage=Lineage(False))
    target.load(table(6, 7, "second"), MERGE, lineage=Lineage(False))
    assert target.rows("id, v, w", "id") == [(5, "first", "first!"), (6, "second", "second!"), (7, "second", "second!")]
    target.load(table(8, 8, "third"), FULL, lineage=Lineage(False))
    assert target.rows("id, w", "id") == [(8, "third!")]


def test_a_generated_column_of_the_target_cannot_be_filled(target: Target) -> None:
    """The column is named, before anything changes; nobody else was at the table."""
    target.run("CREATE TABLE orders (id bigint PRIMARY KEY, v text GENERATED ALWAYS AS ('x' || id::text) STORED)")
    with pytest.raises(ConfigError, match="the target generates the values of v"):
        target.load(table(1, 2), APPEND, lineage=Lineage(False))
    assert target.rows("id", "id") == []


def test_S_01_names_of_every_kind(target: Target) -> None:
    """Quotes, dots, semicolons, percent signs, blanks and a NUL-free 63 bytes are names like any other."""
    odd = replace(target, table='a"b.c;-- %s 😀')
    names = ['x"y', "a.b", "select", "%s", "100%", " ", "é" * 31, "$1", "A", "b"]
    data = pa.table([pa.array([1, 2]) for _ in names], names)
    for strategy in (
        Strategy("merge", key=names[0]),
        Strategy("full_refresh", key=names[0]),
        Strategy("merge", key=names[0]),
    ):
        odd.load(data, strategy)
    assert odd.tables() >= {odd.table}
    assert sorted(odd.rows('"100%"', '"100%"')) == [(1,), (2,)]
    with pytest.raises(ConfigError, match="64 bytes, the limit is 63"):
        replace(target, table="x" * 64).sink(APPEND)


def test_a_strict_target_keeps_its_schema(target: Target) -> None:
    """Under ``strict`` a column that may not be NULL is made so."""
    schema = pa.schema([pa.field("id", pa.int64(), False), ("v", pa.string())])
    target.load(table(1, 1).cast(schema), APPEND, schema_evolution=SchemaEvolution("strict"))
    assert target.query(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'id'"
    ) == [(True,)]


def test_memory_is_that_of_a_batch(target: Target) -> None:
    """Batches go to the server as they come: the second is asked for only after the first was sent."""
    asked: list[int] = []
    many = [table(i, i).to_batches()[0] for i in range(5)]
    with closing(target.sink(APPEND)) as sink:
        evolve(sink, many[0].schema, APPEND)  # type: ignore[arg-type]
        writer = sink.open(load(many[0].schema, APPEND))
        assert writer.stage(Part("all"), Rows(many[0].schema, many, asked.append)).rows == 5
        writer.commit(None, at())
    assert asked == [0, 1, 2, 3, 4]


def test_a_server_error_has_sqlstate_and_next_step(postgres: Server, target: Target) -> None:
    """A role without grants is told the SQLSTATE and where the grants are listed."""
    role = f"nobody_{target.schema}"
    postgres.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT USAGE ON SCHEMA {target.schema} TO {role}")
    url = postgres.url.replace("postgres://postgres", f"postgres://{role}")
    with (
        closing(target.sink(APPEND, url)) as sink,
        pytest.raises(SinkError, match=r"permission denied.*42501.*postgres.md") as error,
    ):
        evolve(sink, table(1, 1).schema, APPEND)  # type: ignore[arg-type]
    assert isinstance(error.value.__cause__, psycopg.Error)
    with closing(target.sink(APPEND, url)) as sink:
        [grant] = [f.todo for f in sink.check() if f.ok is False]
        assert grant == f'GRANT CREATE ON SCHEMA "{target.schema}" TO "{role}";'
    postgres.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_table_that_is_swapped_while_it_is_looked_at(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its columns are those of the new one, not none."""
    target.run("CREATE TABLE orders (id int)")
    with closing(target.sink(APPEND)) as sink:
        real, seen = sink._db.oid, []

        def oid(name: Name) -> int | None:
            found = real(name)
            if not seen:
                target.run("DROP TABLE orders", "CREATE TABLE orders (id int, v text)")
            seen.append(found)
            return found

        monkeypatch.setattr(sink._db, "oid", oid)
        schema = sink.schema()
    assert schema is not None
    assert schema.names == ["id", "v"]


def test_a_role_that_is_to_read_only_does_not_write(target: Target) -> None:
    """What the server's administrator has said of the role is not overruled; nothing is made."""
    url = target.server.url + "?options=-c%20default_transaction_read_only%3Don"
    with closing(target.sink(APPEND, url)) as sink, pytest.raises(SinkError, match=r"read-only transaction.*25006"):
        evolve(sink, table(1, 1).schema, APPEND)  # type: ignore[arg-type]
    assert target.query("SELECT count(*) FROM pg_class WHERE relnamespace = %s::regnamespace", target.schema) == [(0,)]


def test_staging_that_nobody_goes_on_with_is_not_logged(target: Target) -> None:
    """A momentary merge stages without WAL; a table that takes the target's place is logged, also when the target was
    emptied in between."""
    target.load(table(1, 3), MERGE)
    sql = "SELECT relpersistence::text FROM pg_class WHERE relnamespace = %s::regnamespace AND relname ~ %s"
    with closing(target.sink(MERGE)) as sink:
        writer = staged(sink, table(2, 4, "b"), MERGE)
        assert target.query(sql, target.schema, "^__dpone__stage_.*[A-Z0-9]$") == [("u",)]
        target.run("TRUNCATE orders")
        writer.commit(sink.journal(KEY), at(1))
    assert target.query(sql, target.schema, "^orders$") == [("p",)]
    assert target.rows("id", "id") == [(2,), (3,), (4,)]


def test_a_repeatable_load_is_staged_in_a_logged_table(target: Target) -> None:
    """Staged parts that a later run goes on with survive a crash of the server."""
    target.load(table(1, 3), MERGE)
    sql = "SELECT relpersistence::text FROM pg_class WHERE relnamespace = %s::regnamespace AND relname ~ %s"
    with closing(target.sink(MERGE)) as sink:
        staged(sink, table(2, 4, "b"), MERGE, repeatable=True)
        assert target.query(sql, target.schema, "^__dpone__stage_.*[A-Z0-9]$") == [("p",)]


def test_an_update_and_an_insert_without_a_unique_index_keep_others_out(target: Target) -> None:
    """Without a unique index on the key a merge is two statements: the table is locked against other writers."""
    target.run("CREATE TABLE orders (id bigint, v text)", "INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    target.load(table(2, 3, "c"), MERGE, lineage=Lineage(False))
    assert target.rows("id, v", "id") == [(1, "a"), (2, "c"), (3, "c")]
    with closing(target.sink(MERGE, lineage=Lineage(False))) as sink, sink._db.committing([sink._target]):
        sink._db.begin("x")
        assert not sink._db.unique(sink._target, ["id"])
        held = "SELECT mode FROM pg_locks WHERE relation = 'orders'::regclass AND mode = 'ShareRowExclusiveLock'"
        assert target.query(held)
        sink._db.rollback()


CHANGES = [
    ("double precision", "0", "'-0'", True), ("double precision", "'NaN'", "'NaN'", False),
    ("numeric", "1.0", "1.00", True), ("numeric(5,2)", "1.0", "1.00", False),
    ("json", "'{\"a\":1}'", "'{\"a\": 1}'", True), ("json", "NULL", "'null'", True),
    ("jsonb", "'{\"a\":1}'", "'{\"a\": 1}'", False), ("point", "'(1,2)'", "'(1,3)'", True),
    ("point", "NULL", "NULL", False),
    ("text", "'a'", "'A'", True), ("text", "''", "NULL", True), ("bytea", "'a'", "'b'", True),
    ("char(3)", "'a'", "'a  '", False), ("int[]", "'{1}'", "'{2}'", True),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "old", "new", "changed"), CHANGES, ids=[f"{c[0]} {c[1]} {c[2]}" for c in CHANGES])
def test_a_row_is_written_if_its_values_differ_to_the_byte(
    tmp_path: Path, target: Target, type_: str, old: str, new: str, changed: bool
) -> None:
    """Merge touches a row whose value differs in any way the type can keep, also where the type calls both equal."""
    target.run(
        f"CREATE TABLE source (id bigint PRIMARY KEY, v {type_})", f"INSERT INTO source VALUES (1, {old}), (2, {old})"
    )
    path = project(tmp_path, target, target.server.url, "merge")
    assert run(path).streams[0].rows.inserted == 2
    target.run(f"UPDATE source SET v = {new} WHERE id = 1")
    rows = run(path).streams[0].rows
    assert (rows.updated, rows.unchanged) == ((1, 1) if changed else (0, 2))


def test_a_column_added_behind_the_lineage_keeps_the_table_swappable(target: Target) -> None:
    """Evolution adds columns behind those of the lineage: the staging has that order, and takes the table's place."""
    target.load(table(1, 2), FULL, load_id="ONE")
    wider = table(1, 3).append_column("w", pa.array([1, 2, 3], pa.int64()))
    target.load(wider, FULL, load_id="TWO")
    before = target.query("SELECT 'orders'::regclass::oid")
    target.load(wider, FULL, load_id="THREE")
    assert target.query("SELECT 'orders'::regclass::oid") != before
    assert target.rows("id, w, __dpone__load_id", "id") == [(i, i, "THREE") for i in (1, 2, 3)]
    assert target.query("SELECT count(*) FROM pg_attrdef WHERE adrelid = 'orders'::regclass") == [(0,)]
