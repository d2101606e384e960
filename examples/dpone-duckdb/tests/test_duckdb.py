"""What is DuckDB's own, beside what the kit asks of every connector."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from attrs import evolve

from dpone.certify.matrix import ARROW_TYPES
from dpone.contract import TakenBack, WindowRequest
from dpone.engine.run import run
from dpone.errors import Category, ConfigError, DataError, SinkError, SourceError
from dpone.model.pipeline import (
    Incremental,
    Lineage,
    SinkOptions,
    SinkSpec,
    SourceSpec,
)
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing.loads import key, load, new_load, prepare
from dpone.testing.rows import same, sample
from dpone.testing.source import everything
from dpone_duckdb.config import DuckdbSourceOptions
from dpone_duckdb.connect import database_path
from dpone_duckdb.database import Duckdb, DuckdbDatabase
from dpone_duckdb.source import DuckdbSource
from dpone_duckdb.testing import DuckdbHarness
from dpone_duckdb.types import stores

FULL, MERGE = Strategy("full_refresh"), Strategy("merge", key="id")


@pytest.fixture
def harness(tmp_path):
    return DuckdbHarness(tmp_path)


def sql(harness, *statements):
    with closing(duckdb.connect(harness.path)) as db:
        for statement in statements:
            found = db.execute(statement).fetchall()
    return found


def elsewhere(path, how):
    """Open the file in another process; True if it could."""
    code = f"import duckdb; duckdb.connect({str(path)!r}, {how}).execute('SELECT 1')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_types_that_arrow_lacks_are_read_exactly_or_refused(harness):
    """A HUGEINT comes as a decimal if it fits, an enum or a bit string as text; uuid and json keep their types."""
    columns = "42::HUGEINT AS h, 'b'::ENUM('a', 'b') AS e, '101'::BIT AS b, '10:00:00+02'::TIMETZ AS z, \
        '{\"a\": 1}'::JSON AS j, '00000000-0000-0000-0000-000000000001'::UUID AS u, [1, NULL] AS l, true AS t"
    found = everything(harness, harness.source(query=f"SELECT {columns}"))
    assert found.schema.types[4:6] == [pa.json_(), pa.uuid()]
    assert found.schema.types[7] == pa.bool_()
    [row] = found.to_pylist()
    assert (row["h"], row["e"], row["b"], row["z"]) == (Decimal(42), "b", "101", "10:00:00+02")
    assert (row["j"], row["u"].int, row["l"]) == ('{"a": 1}', 1, [1, None])
    with pytest.raises(DataError) as caught:
        everything(harness, harness.source(query="SELECT 170141183460469231731687303715884105727::HUGEINT AS h"))
    assert "1701" not in str(caught.value)


def test_arrow_types_without_a_plain_equal_arrive(harness):
    """uuid, json, a list, a struct and nanoseconds are written as DuckDB's own types."""
    rows = pa.table({
        "u": pa.array([b"\x01" * 16], pa.uuid()), "j": pa.array(['{"a": 1}'], pa.json_()), "l": pa.array([[1, None]]),
        "s": pa.array([{"a": "x"}]), "t": pa.array([1000], pa.timestamp("ns")),
        "d": pa.array(["x"]).dictionary_encode(),
    })  # fmt: skip
    for _ in range(2):
        load(harness, rows, FULL)
    types = sql(harness, "SELECT data_type FROM duckdb_columns() WHERE table_name = 'orders' ORDER BY column_index")
    wanted = ["UUID", "JSON", "BIGINT[]", "STRUCT(a VARCHAR)", "TIMESTAMP_NS", "VARCHAR"]
    assert [type_ for (type_,) in types[:6]] == wanted
    found = everything(harness, harness.source())
    assert found.column_names == rows.column_names
    assert found.to_pylist() == rows.to_pylist()


REFUSED = (pa.float16(), pa.decimal256(76, 20))


def test_every_type_comes_back_as_the_matrix_says(harness):
    """One table with a column of every Arrow type that DuckDB keeps, loaded twice and read again."""
    kept = [type_ for type_ in ARROW_TYPES if type_ not in REFUSED]
    rows = pa.table({f"c{i}": pa.array([None], type_) for i, type_ in enumerate(kept)})
    for _ in range(2):
        load(harness, rows, FULL)
    found = everything(harness, harness.source())
    assert found.schema.types == [stores(type_).arrow for type_ in kept]
    assert found.to_pylist() == rows.to_pylist()


@pytest.mark.parametrize("type_", REFUSED, ids=str)
def test_a_type_that_duckdb_lacks_is_refused(harness, type_):
    """Before there is a table."""
    with pytest.raises(ConfigError):
        load(harness, pa.table({"x": pa.array([None], type_)}), FULL)
    assert harness.rows() is None


def test_a_duration_is_an_interval(harness):
    """Arrow has no cast from one to the other; DuckDB has."""
    load(harness, pa.table({"x": pa.array([1_500_000], pa.duration("us"))}), FULL)
    assert everything(harness, harness.source())["x"].to_pylist() == [pa.MonthDayNano([0, 0, 1_500_000_000])]


def test_a_file_that_another_process_has_is_busy(harness):
    """One line, which is worth a retry; nothing is written."""
    code = f"import duckdb, sys; db = duckdb.connect({str(harness.path)!r}); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(SinkError) as caught:
            load(harness, sample(1, 2), FULL)
        with closing(harness.make("source", harness.source())) as source, pytest.raises(SourceError):
            source.schema()
        other.communicate()
    assert caught.value.category is Category.TRANSIENT
    assert "another process has the file open" in str(caught.value)
    assert harness.rows() is None


@pytest.mark.parametrize("read_only", [True, False])
def test_read_only_shares_the_file(harness, read_only):
    """With read_only, another process reads while the snapshot is open; without, it cannot."""
    harness.seed(sample(1, 3))
    spec = SourceSpec("duckdb", Secret(f"duckdb:///{harness.path}"), Name(("orders",)),
                      options=DuckdbSourceOptions(read_only=read_only))  # fmt: skip
    with closing(DuckdbSource(spec)) as source:
        source.window(None, WindowRequest())
        assert elsewhere(harness.path, "read_only=True") is read_only
    assert elsewhere(harness.path, "read_only=False")


def test_source_and_sink_may_be_one_file(harness):
    """A pipeline copies a table to another of the same file, in batches, twice; the second run finds nothing new."""
    rows = sample(1, 500)
    harness.seed(rows)
    (harness.folder / "p.yaml").write_text("""
pipeline: copy
source: {type: duckdb, connection: "duckdb:///kit.duckdb", table: orders,
         options: {incremental: {by: cursor, column: id}}}
sink: {type: duckdb, connection: "duckdb:///kit.duckdb", table: copy, strategy: {mode: append}}
runtime: {batch_rows: 100}
""")
    for status in ("loaded", "caught_up"):
        [stream] = run(harness.folder / "p.yaml").streams
        assert stream.status == status, stream.error
        same(harness.rows("copy"), rows)


@pytest.mark.parametrize(
    ("values", "why"),
    [("'9'), ('11'", "'11' sorts before '9'"), ("'6fa459ea-ee8a-4ca4-894e-db77e160355e'", "which do not increase")],
)
def test_texts_that_do_not_grow_are_no_cursor(harness, values, why):
    """What comes later would be below the position, and lost."""
    sql(harness, f"CREATE TABLE orders AS SELECT * FROM (VALUES ({values})) AS v(name)")
    spec = harness.source(incremental=Incremental("cursor", "name"))
    with closing(harness.make("source", spec)) as source, pytest.raises(DataError, match=why):
        source.window(None, WindowRequest())


KINDS = {
    "INTEGER": 2.5, "UTINYINT": 3, "HUGEINT": 3, "DECIMAL(10, 2)": 2.999, "DATE": 3 * 86_400, "TIMESTAMP": 3 * 86_400,
    "TIMESTAMPTZ": 3 * 86_400, "TIMESTAMP_NS": 3 * 86_400,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_lookback_reads_changed_rows_again(harness, kind):
    """A merge with lookback finds a row that was changed below the position, whatever kind of column the cursor is."""
    value = "DATE '2026-01-01' + id::INT" if kind.startswith(("DATE", "TIME")) else "id"
    sql(
        harness, f"CREATE TABLE orders AS SELECT id, CAST({value} AS {kind}) AS at, 'x' AS name FROM range(1, 10) r(id)"
    )
    spec = harness.source(incremental=Incremental("cursor", "at", lookback=KINDS[kind]))
    request = WindowRequest(mode="merge")
    with closing(harness.make("source", spec)) as source:
        first = source.window(None, request)
    with closing(harness.make("source", spec)) as source:
        assert source.window(first.position, request).parts == ()
    sql(harness, "UPDATE orders SET name = 'changed' WHERE id = 7")
    with closing(harness.make("source", spec)) as source:
        again = source.window(first.position, request)
        with source.read(again.parts[0]) as stream:
            found = pa.Table.from_batches(stream.batches())
    assert sorted(found["id"].to_pylist()) == [6, 7, 8, 9]


def test_lookback_stops_at_the_lowest_value(harness):
    """More lookback than an unsigned column has values below is all of them."""
    sql(harness, "CREATE TABLE orders AS SELECT CAST(id AS UTINYINT) AS id FROM range(1, 10) r(id)")
    spec = harness.source(incremental=Incremental("cursor", "id", lookback=100))
    with closing(harness.make("source", spec)) as source:
        first = source.window(None, WindowRequest(mode="merge"))
        sql(harness, "INSERT INTO orders VALUES (3)")
        again = source.window(first.position, WindowRequest(mode="merge"))
        with source.read(again.parts[0]) as stream:
            assert sum(batch.num_rows for batch in stream.batches()) == 10


def test_nanoseconds_do_not_stop_a_cursor(harness):
    """A column that Python has no type for is part of what tells rows of one cursor value apart."""
    sql(harness, "CREATE TABLE orders AS SELECT 1 AS id, make_timestamp_ns(n) AS at FROM range(1, 4) r(n)")
    spec = harness.source(incremental=Incremental("cursor", "id"))
    with closing(harness.make("source", spec)) as source:
        first = source.window(None, WindowRequest())
    sql(harness, "INSERT INTO orders VALUES (1, make_timestamp_ns(1))")
    with closing(harness.make("source", spec)) as source:
        later = source.window(first.position, WindowRequest())
        with source.read(later.parts[0]) as stream:
            assert sum(batch.num_rows for batch in stream.batches()) == 1


ATTACHED = {
    "a default": "ALTER TABLE orders ALTER COLUMN name SET DEFAULT 'x'",
    "an index": "CREATE INDEX mine ON orders (day)",
    "a comment": "COMMENT ON TABLE orders IS 'sold'",
    "a column's comment": "COMMENT ON COLUMN orders.name IS 'who'",
    "a check": "CREATE OR REPLACE TABLE orders (id BIGINT, day VARCHAR, name VARCHAR, score DOUBLE CHECK (score >= 0))",
    "another type": "ALTER TABLE orders ALTER COLUMN day TYPE ENUM ('d0', 'd1', 'd2')",
}


@pytest.mark.parametrize("attached", ATTACHED)
def test_what_hangs_on_a_target_survives_a_full_refresh(harness, attached):
    """A table that is more than dpone would make is emptied and filled, not replaced by another."""
    sql(harness, "CREATE TABLE orders (id BIGINT, day VARCHAR, name VARCHAR, score DOUBLE)", ATTACHED[attached])
    sql(harness, "CREATE VIEW v AS FROM orders")
    asked = "SELECT sql, comment FROM duckdb_tables() WHERE table_name = 'orders' UNION ALL \
        SELECT sql, NULL FROM duckdb_indexes() UNION ALL SELECT comment, NULL FROM duckdb_columns() WHERE NOT internal"
    load(harness, sample(1, 3), FULL, lineage=Lineage(False))
    before = sql(harness, asked)
    load(harness, sample(1, 5), FULL, lineage=Lineage(False))
    same(harness.rows(), sample(1, 5))
    assert sql(harness, asked) == before
    assert sql(harness, "SELECT count(*) FROM v") == [(5,)]


@pytest.mark.parametrize("key", [(), ("id",)])
def test_a_plain_target_is_replaced_by_the_staging(harness, key, monkeypatch):
    """The first load, and every full refresh, renames the staging: no row is copied, and a key stays a key."""
    swapped, swap = [], DuckdbDatabase.swap
    monkeypatch.setattr(DuckdbDatabase, "swap", lambda db, *names: swapped.append(names) or swap(db, *names))
    for n in (3, 5):
        load(harness, sample(1, n), Strategy("full_refresh", key=key))
        same(harness.rows(), sample(1, n))
    assert len(swapped) == 2
    kinds = sql(harness, "SELECT constraint_type FROM duckdb_constraints() WHERE table_name = 'orders'")
    assert (("PRIMARY KEY",) in kinds) is bool(key)


def test_a_collated_column_is_refused(harness):
    """A collation would hide a change of case from a merge."""
    sql(harness, "CREATE TABLE orders (id BIGINT, day VARCHAR, name VARCHAR COLLATE NOCASE, score DOUBLE)")
    with pytest.raises(SinkError, match="collation"):
        load(harness, sample(1, 3), MERGE)


def test_a_name_is_no_python_variable(harness, monkeypatch):
    """DuckDB would look for unknown tables among the variables of the Python code that calls it."""
    monkeypatch.setattr("dpone_duckdb.source.nowhere", pa.table({"x": [1]}), raising=False)
    with pytest.raises(SourceError):
        everything(harness, harness.source("nowhere"))


def test_a_query_writes_nothing(harness):
    """It is read in a read-only transaction."""
    sql(harness, "CREATE SEQUENCE s")
    with pytest.raises(SourceError):
        everything(harness, harness.source(query="SELECT nextval('s') AS x"))


def test_writers_of_one_file_take_turns(harness):
    """A second transaction begins when the first has ended, whichever loads they belong to."""
    system = Duckdb(Secret(harness.url), Path())
    one, two, order = DuckdbDatabase(system), DuckdbDatabase(system), []
    one.begin("a")

    def second() -> None:
        two.begin("b")
        order.append("second began")
        two.commit()

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.1)
    order.append("first ends")
    one.rollback()
    thread.join(60)
    assert order == ["first ends", "second began"]
    one.close()
    two.close()


@pytest.mark.parametrize("text", ["", "sqlite:///a.db", "duckdb:///", "duckdb:///:memory:", "duckdb://h/a", "a.duckdb"])
def test_a_connection_names_a_file(text):
    """Anything else is refused before anything is opened."""
    with pytest.raises(ConfigError):
        database_path(Secret(text) if text else None, Path())


def test_looking_creates_nothing(tmp_path):
    """A check, a schema and a journal of a file that is not there leave it so."""
    spec = SinkSpec("duckdb", FULL, Secret("duckdb:///no.db"), Name(("t",)), options=SinkOptions(), base=tmp_path)
    from dpone_duckdb.sink import DuckdbSink

    with closing(DuckdbSink(spec)) as sink:
        assert all(finding.ok for finding in sink.check())
        assert (sink.schema(), sink.journal("key"), sink.is_empty()) == (None, None, True)
    with closing(DuckdbSink(evolve(spec, table=Name(("l_{table}",))))) as sink:
        assert sink.check()[-1].found == "l_{table} for each table of the stream"
    assert list(tmp_path.iterdir()) == []


def test_rows_that_others_refer_to_are_not_replaced(harness):
    """DuckDB puts no check of a foreign key off: what would delete such rows is refused before a row is read."""
    load(harness, sample(1, 3), Strategy("full_refresh", key="id"))
    sql(harness, "CREATE TABLE child (id BIGINT REFERENCES orders (id))", "INSERT INTO child VALUES (1)")
    with closing(harness.make("sink", harness.sink(FULL))) as sink, pytest.raises(SinkError, match="child references"):
        sink.refuse(FULL)
    with pytest.raises(SinkError, match="use strategy snapshot_diff"):
        load(harness, sample(1, 4), FULL)
    load(harness, sample(1, 4), Strategy("snapshot_diff", key="id"))
    same(harness.rows(), sample(1, 4))


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("", ""),
        ("UPDATE orders SET more = 1", "it has values"),
        ("CREATE INDEX i ON orders (more)", "it has index i"),
        ("CREATE VIEW v AS SELECT more FROM orders", "it has view v"),
        ("COMMENT ON COLUMN orders.more IS 'mine'", "it has a comment"),
    ],
)
def test_a_column_of_a_failed_load_is_taken_back_unless_it_is_used(harness, statement, why):
    """It goes, with the next call; what somebody has made of it meanwhile keeps it, and the reason is said."""
    load(harness, sample(1, 2), MERGE)
    more = sample(3, 4).append_column("more", pa.array([1, 2], pa.int64()))
    spec, begun = harness.sink(MERGE), new_load(more.schema, MERGE)
    with closing(harness.make("sink", spec)) as sink:
        prepare(sink, spec, more.schema, begun)
    if statement:
        sql(harness, statement)
    with closing(harness.make("sink", spec)) as sink:
        [taken] = sink.take_back(key())
        assert sink.take_back(key()) == ()
    assert taken == TakenBack("column more of orders", why)
    assert ("more" in harness.rows().column_names) == bool(why)
