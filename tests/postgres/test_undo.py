"""Undo on PostgreSQL beyond the rules of every SQL target, which ``test_strategies`` runs: what a swap keeps and hides,
other programs that write meanwhile, SIGKILL and lost connections."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import yaml
from attrs import evolve as replace
from tests.postgres.proxy import proxy
from tests.postgres.target import Target
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture
from tests.sql.test_undo import APPEND, FULL, MERGE, ON, kept, table, undo
from tests.sqlite.target import KEY, at, evolve, load, rows

from dpone.contract import Part
from dpone.engine.run import run as run_pipeline
from dpone.engine.undo import undo as undo_load
from dpone.errors import DataError, SinkError, UndoRefused
from dpone.model.pipeline import SchemaEvolution, Undo
from dpone.model.strategy import Strategy
from dpone.sql import restore
from dpone.sql.strategies import job
from dpone.sql.strategies.job import is_empty as is_empty_of_finalize
from dpone.sql.undo import Images
from dpone_postgres.database import PostgresDatabase

pytestmark = pytest.mark.postgres

KEYED = Strategy("full_refresh", key="id")
IGNORE = SchemaEvolution(on_missing_column="ignore")
IMAGES = "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename ~ '^__dpone__undo_'"


def names(target: Target) -> list[Any]:
    """Of all tables, indexes and constraints of the target, and what it is made of."""
    return target.query(
        "SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = 'orders' "
        "UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'orders'::regclass AND contype <> 'n' UNION ALL "
        "SELECT attname, attidentity::text, coalesce(obj_description(attrelid, 'pg_class'), '') FROM pg_attribute "
        "WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2",
        target.schema,
    )


# ---- full_refresh in each of its ways

HANGING = {
    "swap": [],
    "truncate": [
        "CREATE INDEX mine ON orders (region)", "CREATE VIEW seen AS SELECT id, region FROM orders",
        "COMMENT ON TABLE orders IS 'kept'", "ALTER TABLE orders ADD CONSTRAINT big CHECK (id > 0)",
    ],
    "delete": [
        "CREATE TABLE items (of bigint REFERENCES orders (id))",
        "CREATE FUNCTION noticed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER noticed AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION noticed()",
    ],
    "identity": [
        "ALTER TABLE orders ALTER id ADD GENERATED ALWAYS AS IDENTITY", "CREATE INDEX mine ON orders (amount)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("way", HANGING)
def test_a_generation_comes_back_in_every_way(target: Target, way: str) -> None:
    """Three generations, the last two taken back: rows, names of indexes and constraints, identity, view, trigger and
    comment are what they were; no index or constraint of what was kept has taken a name away."""
    target.load(table((1, "a", 1.0), (2, "a", None)), KEYED, load_id="A", **ON)
    target.run(*HANGING[way])
    stood, shape = [target.content()], names(target)
    for name in ("B", "C"):
        target.load(table((2, name, 0.5), (3, name, -0.0), (4, None, 1.0)), KEYED, load_id=name, **ON)
        stood.append(target.content())
        assert names(target) == shape
    assert [kept(target, name)[0].kind for name in ("B", "C")] == ["generation"] * 2
    if way == "truncate":
        assert target.query("SELECT count(*) FROM seen") == [(3,)]
    for name, before in (("C", stood[1]), ("B", stood[0])):
        undo(target, name, KEYED)
        assert (target.content(), names(target)) == (before, shape)
    assert target.query(IMAGES, target.schema) == [("__dpone__undo_A",)]
    target.load(table((5, "again", 1.0)), KEYED, load_id="D", **ON)
    assert names(target) == shape


@pytest.mark.parametrize("way", ["swap", "truncate", "delete"])
def test_the_stated_way_is_taken(target: Target, way: str) -> None:
    """``full_refresh: truncate`` and ``delete`` keep a copy and the table, ``swap`` keeps the table itself."""
    target.load(table((1, "a", 1.0)), KEYED, load_id="A", **ON)
    then = target.identity("orders")
    target.load(table((2, "b", 1.0)), KEYED, load_id="B", full_refresh=way, **ON)
    assert (target.identity("__dpone__undo_B") == then) is (way == "swap")
    assert (target.identity("orders")[0][0] == then[0][0]) is (way != "swap")
    undo(target, "B", KEYED)
    assert target.rows("id, region") == [(1, "a")]


@contextmanager
def role(target: Target) -> Iterator[str]:
    name = f"{target.schema}_reader"
    target.run(f"CREATE ROLE {name}", f"GRANT USAGE ON SCHEMA {target.schema} TO {name}")
    try:
        yield name
    finally:
        target.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_grants_stay_with_the_table_and_not_with_what_it_was(target: Target) -> None:
    """Who reads the target reads the new generation and not the one that was kept; what was revoked since the load is
    still revoked when it is taken back, and what was granted since is granted."""
    can = "SELECT has_table_privilege(%s, %s, 'SELECT')"
    with role(target) as one:
        target.load(table((1, "a", 1.0)), KEYED, load_id="A", **ON)
        target.run(f"GRANT SELECT ON orders TO {one}")
        target.load(table((2, "b", 1.0)), KEYED, load_id="B", **ON)
        assert target.query(can, one, "orders") == [(True,)]
        assert target.query(can, one, '"__dpone__undo_B"') == [(False,)]
        target.run(f"REVOKE SELECT ON orders FROM {one}", f"GRANT UPDATE ON orders TO {one}")
        undo(target, "B", KEYED)
        assert target.query(can, one, "orders") == [(False,)]
        assert target.query("SELECT has_table_privilege(%s, 'orders', 'UPDATE')", one) == [(True,)]


# ---- values, names


def test_values_of_every_kind_come_back_to_the_bit(target: Target) -> None:
    """Values that Arrow cannot hold, and columns with types, lengths and collations of their own, are not changed by
    the way through an image."""
    target.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad')", "CREATE DOMAIN small AS int CHECK (VALUE < 10)",
        "CREATE TABLE orders (id bigint PRIMARY KEY, region text, amount float8, n numeric, p numeric(9,3), c char(5), "
        "v varchar(3), t timestamptz, d date, i interval, j json, b jsonb, a int[], m mood, s small, x bit(3), "
        'y bytea, u uuid, r int4range, g text COLLATE "C", twice bigint GENERATED ALWAYS AS (id * 2) STORED)',
    )  # fmt: skip
    target.run(
        "INSERT INTO orders SELECT i, 'a', '-0'::float8, 'NaN', 1.500, 'ab', 'é', 'infinity', '0044-03-15 BC', "
        "'1 mon -1 day', '{\"b\": 1,  \"a\":1, \"a\": 2}', '{\"k\": 1.0}', '{{1,NULL},{3,4}}', 'glad', 9, '101', "
        "'\\x00ff', '00000000-0000-0000-0000-000000000001', '[1,5)', '' FROM generate_series(1, 3) AS i",
    )
    before = target.content()
    schema = pa.schema([("id", pa.int64()), ("region", pa.string())])
    options = {**ON, "schema_evolution": IGNORE, "adopt_existing": True}
    target.load(table((1, "b"), (2, "b"), (9, "b"), schema=schema), MERGE, load_id="B", **options)
    undo(target, "B", MERGE)
    found = [tuple(value for value in row) for row in target.content()]
    lineage = 4  # two columns that the load has added, as texts with their types
    assert [row[:-lineage] for row in found] == before
    assert {row[-lineage::2] for row in found} == {(None, None)}


def test_tables_that_differ_by_case_are_two(target: Target) -> None:
    """A load of "Orders" is not in the way of one of orders."""
    for name, ids in (("orders", "AB"), ("Orders", "CD")):
        one = replace(target, table=name)
        for n, load_id in enumerate(ids):
            with closing(one.sink(MERGE, **ON)) as sink:
                evolve(sink, table().schema, MERGE)  # type: ignore[arg-type]
                writer = sink.open(load(table().schema, MERGE, key=name, load_id=load_id))
                writer.stage(Part("all"), rows(table((1, load_id, 1.0))))
                writer.commit(sink.journal(name), at(n))
    undo(target, "B", MERGE, key="orders")
    assert target.rows("region") == [("A",)]


def test_a_failed_load_keeps_nothing(target: Target) -> None:
    """A commit that fails after the images were taken leaves no table and no line."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.run("ALTER TABLE __dpone__loads ADD CONSTRAINT no CHECK (load_id <> 'B')")
    dump = target.dump()
    with pytest.raises(DataError, match="constraint no"):
        target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    assert target.dump() == dump


# ---- other programs


def refused_write(target: Target, statement: str) -> bool:
    """True if another program cannot write now."""
    with target.connect() as other:
        other.execute("SET lock_timeout = '50ms'")
        try:
            other.execute(statement)  # type: ignore[call-overload]
        except psycopg.errors.LockNotAvailable:
            return True
    return False


def test_a_row_is_kept_as_the_load_meets_it(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the image of a row and its change no other program changes it, so that no change of theirs is lost by
    taking the load back; readers are not kept out."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.run("CREATE INDEX mine ON orders (region)")
    found: list[bool] = []
    real = Images.keep

    def keep(images: Images, *args: Any, **more: Any) -> None:
        real(images, *args, **more)
        found.append(refused_write(target, "UPDATE orders SET region = 'theirs' WHERE id = 1"))
        found.append(target.rows("region") == [("a",)])

    monkeypatch.setattr(Images, "keep", keep)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    assert found == [True, True]


def test_nobody_writes_while_a_load_is_taken_back(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the count of what the load wrote to the commit other programs wait; loads of dpone wait for the lock of the
    target, as they wait for each other."""
    target.load(table((1, "a", 1.0)), MERGE, load_id="A", **ON)
    target.load(table((1, "b", 1.0)), MERGE, load_id="B", **ON)
    found: list[bool] = []
    forget, lock = restore.forget, PostgresDatabase.lock
    locked: list[str] = []

    def spying(*args: Any) -> Any:
        found.append(refused_write(target, "INSERT INTO orders (id) VALUES (9)"))
        return forget(*args)

    monkeypatch.setattr(restore, "forget", spying)
    monkeypatch.setattr(PostgresDatabase, "lock", lambda db, text: (locked.append(text), lock(db, text))[1])
    undo(target, "B", MERGE)
    assert found == [True]
    assert locked[:2] == [KEY, f"target {target.schema}.orders"]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_row_that_comes_before_a_swap_is_not_lost(target: Target, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty target is dropped for the staging: once it was seen to be empty no other program inserts into it."""
    strategy = Strategy(mode, key="id") if mode == "merge" else APPEND  # type: ignore[arg-type]
    with closing(target.sink(strategy)) as sink:
        evolve(sink, table().schema, strategy)  # type: ignore[arg-type]
    real, found = is_empty_of_finalize, []

    def is_empty(db: Any, name: Any) -> bool:
        empty = real(db, name)
        if db._session.locked:
            found.append(refused_write(target, "INSERT INTO orders (id) VALUES (77)"))
        return empty

    monkeypatch.setattr(job, "is_empty", is_empty)
    target.load(table((1, "a", 1.0)), strategy)
    assert found
    assert all(found)


MODES = {
    "full_refresh": Strategy("full_refresh"),
    "replace": Strategy("replace", where={"region": "a"}),
    "partition_replace": Strategy("partition_replace", partition="region"),
}


@pytest.mark.parametrize("mode", MODES)
def test_rows_that_refer_with_an_action_are_not_deleted(target: Target, mode: str) -> None:
    """A load that replaces rows is refused where another table would lose its own with them; a table that refers to
    itself is fine as long as every row is replaced."""
    target.run("CREATE TABLE orders (id bigint PRIMARY KEY, region text, amount float8)")
    target.load(table((1, "a", 1.0)), APPEND, adopt_existing=True)
    items = "CREATE TABLE items (of bigint REFERENCES orders (id) ON DELETE CASCADE)"
    target.run(items, "INSERT INTO items VALUES (1)")
    with pytest.raises(SinkError, match=rf"{target.schema}\.items references it with an ON DELETE action"):
        target.load(table((1, "a", 2.0)), MODES[mode])
    assert target.query("SELECT of FROM items") == [(1,)]
    target.run("DROP TABLE items", "ALTER TABLE orders ADD up bigint REFERENCES orders (id) ON DELETE CASCADE")
    if mode == "full_refresh":
        target.load(table((1, "a", 2.0)), MODES[mode], schema_evolution=IGNORE)
        assert target.rows("amount") == [(2.0,)]


def test_the_first_loads_of_a_schema_make_one_line_each(target: Target) -> None:
    """Six streams of six tables that keep rows for the first time, all at once: each can be taken back."""

    def first(n: int) -> None:
        one = replace(target, table=f"t{n}")
        with closing(one.sink(MERGE, **ON)) as sink:
            evolve(sink, table().schema, MERGE)  # type: ignore[arg-type]
            writer = sink.open(load(table().schema, MERGE, key=f"k{n}", load_id=f"L{n}"))
            writer.stage(Part("all"), rows(table((n, "a", 1.0))))
            writer.commit(None, at())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(first, range(6)))
    assert target.query("SELECT count(*) FROM __dpone__targets") == [(6,)]
    undo(replace(target, table="t3"), "L3", MERGE, key="k3")
    assert target.query("SELECT count(*) FROM t3") == [(0,)]


# ---- through the engine


def lay(folder: Path, target: Target, mode: str, url: str = "") -> Path:
    server, schema = target.server.url, target.schema
    source = {"type": "postgres", "connection": server, "table": f"{schema}.source"}
    sink = {
        "type": "postgres", "connection": url or server, "table": f"{schema}.orders",
        "strategy": {"mode": mode, "key": ["id"]}, "options": {"undo": {"loads": 3}},
    }  # fmt: skip
    data = {
        "pipeline": "p",
        "streams": [{"name": "s", "source": source, "sink": sink}],
        "state": {"type": "postgres", "connection": server, "options": {"schema": schema}},
        "runtime": {"retries": 0},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def loaded_twice(target: Target, pipeline: Path) -> tuple[list[Any], list[Any], str]:
    """The target after each of two loads, and the id of the second."""
    target.run("CREATE TABLE source (id int PRIMARY KEY, v text)")
    target.run("INSERT INTO source SELECT i, 'a' FROM generate_series(1, 20) AS i")
    assert run_pipeline(pipeline).exit_code == 0
    first = target.content()
    target.run("UPDATE source SET v = 'b' WHERE id <= 5", "INSERT INTO source VALUES (30, 'b')")
    [stream] = run_pipeline(pipeline).streams
    return first, target.content(), str(stream.load_id)


def bare(content: list[Any]) -> list[Any]:
    return [row[:4] for row in content]


@pytest.mark.parametrize("mode", ["merge", "full_refresh"])
def test_LS_05_an_undo_that_was_killed(
    run: Run,  # noqa: F811
    tmp_path: Path,
    target: Target,
    mode: str,
) -> None:
    """SIGKILL before statements of an undo: the target is as before it or after it, and so says the journal; tried
    again it is taken back, and the next run loads the same rows once more."""
    pipeline = lay(tmp_path, target, mode)
    first, second, load_id = loaded_twice(target, pipeline)
    count = int(run(pipeline, undo=["s", load_id], execute=10**9)["count"])
    ends = set()
    for n in (2, count // 2, count - 5, count - 1, count):  # the last five drop what was kept
        [stream] = run_pipeline(pipeline).streams
        assert target.query("SELECT count(*) FROM __dpone__staging") == [(0,)]
        assert bare(target.content()) == bare(second)
        second, load_id = target.content(), str(stream.load_id)
        assert run(pipeline, undo=["s", load_id], execute=n)["code"] == -9
        [(done,)] = target.query("SELECT count(*) FROM __dpone__loads WHERE undoes = %s", load_id)
        ends.add(done)
        assert target.content() == (first if done else second)
        if not done:
            undo_load(pipeline, "s", load_id)
        assert target.content() == first
        with pytest.raises(UndoRefused, match="it was already undone"):
            undo_load(pipeline, "s", load_id)
    assert ends == {0, 1}
    assert count > 8


@pytest.mark.parametrize("fault", ["answer", "request"])
def test_an_undo_whose_commit_was_cut(tmp_path: Path, target: Target, fault: Any) -> None:
    """The connection ends at the COMMIT: if the server had it, the journal says so and the undo is done; else it is an
    error, and nothing was taken back."""
    server = target.server
    with proxy((server.host, server.port)) as way:
        pipeline = lay(tmp_path, target, "full_refresh", server.at(way.port))
        first, second, load_id = loaded_twice(target, pipeline)
        way.nth, way.fault = way.commits + 1, fault
        with pytest.raises(SinkError) if fault == "request" else nullcontext():
            undo_load(pipeline, "s", load_id)
    assert target.content() == (second if fault == "request" else first)


def test_what_is_beyond_the_retention_is_dropped(target: Target) -> None:
    """Of five generations that were swapped away, the newest two are there."""
    option = {"undo": Undo(loads=2)}
    for n in range(6):
        target.load(table((n, "a", 1.0)), FULL, load_id=f"L{n}", **option)
    assert sorted(target.query(IMAGES, target.schema)) == [("__dpone__undo_L4",), ("__dpone__undo_L5",)]
