"""The PostgreSQL source: one snapshot, exact increments by cursor column, queries and views."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from attrs import evolve as replace
from tests.postgres.server import Server
from tests.postgres.target import Target, read

from dpone.contract import Window, WindowRequest
from dpone.errors import ConfigError, DataError, IdentityChanged, SetBack, SourceError
from dpone.model.pipeline import Incremental
from dpone.model.position import Position

Read = tuple[list[Any], Position]


def by(column: str, **options: Any) -> Incremental:
    return Incremental("cursor", column, **options)


def fetch(target: Target, after: Position | None, cursor: Incremental, mode: str = "merge", **more: Any) -> Read:
    """Keys that a window after ``after`` brings, and its position."""
    with closing(target.source(incremental=cursor, **more)) as source:
        window: Window = source.window(after, WindowRequest(mode=mode))
        return sorted(read(source, window).column("id").to_pylist()), window.position


def make(target: Target, column: str = "ts timestamptz", *values: str) -> None:
    target.run(f"CREATE TABLE orders (id int, {column})")
    for i, value in enumerate(values, 1):
        target.run(f"INSERT INTO orders VALUES ({i}, {value})")


def test_a_table_is_read_as_it_was_when_the_window_was_fixed(target: Target) -> None:
    """Rows committed between window and read are not in it: the snapshot is that of the window."""
    make(target, "v int", "1", "2")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest())
        target.run("INSERT INTO orders VALUES (3, 3)", "DELETE FROM orders WHERE id = 1")
        assert read(source, window).column("id").to_pylist() == [1, 2]


def test_a_query_and_a_view(target: Target) -> None:
    """A query has its columns' exact types, a view is read like a table; both in one snapshot."""
    make(target, "n numeric(10,3)", "1.5", "NULL")
    target.run("CREATE VIEW seen AS SELECT id, n * 2 AS twice FROM orders")
    query = f"SELECT id, n, n::text || '!' AS t FROM {target.schema}.orders WHERE id < 9 ORDER BY id;"
    table = target.read(query=query)
    assert table.schema.types == [pa.int32(), pa.decimal128(10, 3), pa.string()]
    assert [str(v) for v in table.column("t").to_pylist()] == ["1.500!", "None"]
    assert replace(target, table="seen").read().column("twice").to_pylist() == ["3.000", None]


def test_a_query_may_end_with_a_comment(target: Target) -> None:
    """What dpone puts behind a query is not part of its last line's comment."""
    assert target.read(query="SELECT 1 AS a -- one").to_pylist() == [{"a": 1}]


@pytest.mark.parametrize(
    "query", ["", "SELEC 1", "SELECT 1 AS a, 2 AS a", "DELETE FROM pg_class", "SELECT nextval('nothing')"]
)
def test_a_query_that_is_none_is_one_clear_line(target: Target, query: str) -> None:
    """A query that cannot be read stops before anything else, in words of the pipeline file."""
    with pytest.raises((ConfigError, SourceError)) as error:
        target.read(query=query or " ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stray", ["slot", "publication"])
def test_options_of_a_change_stream_are_of_one(target: Target, stray: str) -> None:
    """Elsewhere they would do nothing, which is not what was meant."""
    with pytest.raises(ConfigError, match=f"{stray} given, but this source is not a change stream"):
        target.source(**{stray: "s"})


def test_a_query_cannot_write(target: Target) -> None:
    """Queries run in a READ ONLY transaction: a function that writes is refused by the server."""
    target.run(
        "CREATE TABLE orders (id int)",
        f"CREATE FUNCTION {target.schema}.w() RETURNS int LANGUAGE sql "
        f"AS 'INSERT INTO {target.schema}.orders VALUES (1) RETURNING id'",
    )
    with pytest.raises(SourceError, match="read-only transaction"):
        target.read(query=f"SELECT {target.schema}.w() AS id")
    assert target.rows() == []


def test_tables_by_glob(target: Target) -> None:
    """Tables and views by schema and name; dpone's own tables and partitions are left out."""
    target.run(
        "CREATE TABLE b (id int)", "CREATE VIEW a AS SELECT 1 AS x", "CREATE TABLE __dpone__loads (id int)",
        "CREATE TABLE p (id int) PARTITION BY RANGE (id)", "CREATE TABLE p1 PARTITION OF p DEFAULT",
    )  # fmt: skip
    with closing(target.source()) as source:
        assert source.tables(f"{target.schema}.*") == [f"{target.schema}.{n}" for n in ("a", "b", "p")]


def test_lineage_of_an_earlier_load_is_left_out(target: Target) -> None:
    """Lineage columns of a table that dpone loaded are not data."""
    target.run("CREATE TABLE orders (id int, __dpone__load_id text, __dpone__loaded_at timestamptz)")
    with closing(target.source()) as source:
        assert source.schema().names == ["id"]


# ---- incremental by cursor


def test_CU_01_a_late_commit_is_read_with_lookback(target: Target) -> None:
    """A row with an earlier time that commits later is below the position; ``lookback`` with merge reads it again."""
    make(target)
    with target.connect() as late:
        late.execute("BEGIN")
        late.execute("INSERT INTO orders VALUES (1, '2024-01-01 00:00:01Z')")
        target.run("INSERT INTO orders VALUES (2, '2024-01-01 00:00:02Z')")
        cursor = by("ts", lookback=60)
        found, position = fetch(target, None, cursor)
        assert found == [2]
        late.execute("COMMIT")
    assert fetch(target, position, cursor)[0] == [1, 2]


def test_CU_02_equal_values_are_neither_lost_nor_doubled(target: Target) -> None:
    """Sixty rows of one millisecond, coming in sevens: append brings each exactly once."""
    make(target)
    position, seen = None, []
    for start in range(0, 60, 7):
        ids = range(start, min(start + 7, 60))
        target.run(*(f"INSERT INTO orders VALUES ({i}, '2024-01-01 00:00:00.123Z')" for i in ids))
        found, position = fetch(target, position, by("ts"), "append")
        seen += found
    assert sorted(seen) == list(range(60))
    assert fetch(target, position, by("ts"), "append")[0] == []


def test_CU_03_highest_value_and_rows_are_of_one_snapshot(target: Target) -> None:
    """A row that commits between the two is in the next window, not lost."""
    make(target, "n bigint", "1", "2")
    with closing(target.source(incremental=by("n"))) as source:
        window = source.window(None, WindowRequest(mode="append"))
        target.run("INSERT INTO orders VALUES (3, 3)")
        assert read(source, window).column("id").to_pylist() == [1, 2]
    assert fetch(target, window.position, by("n"), "append")[0] == [3]


CURSORS = {
    "timestamptz": ("'2024-01-01 00:00:00.123456Z'", "'2024-01-01 00:00:00.123457Z'"),
    "timestamp": ("'2024-01-01 00:00:00.999999'", "'2024-01-01 00:00:01'"),
    "date": ("'2024-02-28'", "'2024-02-29'"),
    "numeric": ("1e-30", "12345678901234567890.0000000001"),
    "numeric(30,10)": ("1.0000000001", "1.0000000002"),
    "double precision": ("0.1", "0.30000000000000004"),
    "text": ("'Z'", "'a'"),
    'text COLLATE "C"': ("'B'", "'a'"),
    "uuid": ("'00000000-0000-7000-8000-000000000001'", "'ff000000-0000-7000-8000-000000000000'"),
    "bigint": ("1", "9223372036854775807"),
}


@pytest.mark.parametrize("type_", CURSORS)
def test_CU_04_a_position_is_exact(target: Target, type_: str) -> None:
    """The saved value is the server's own text: the next highest value the type has is above it, and is read."""
    low, high = CURSORS[type_]
    make(target, f"c {type_}", low)
    _, position = fetch(target, None, by("c"), "append")
    assert fetch(target, position, by("c"), "append")[0] == []
    target.run(f"INSERT INTO orders VALUES (2, {high})")
    found, position = fetch(target, Position.loads(position.dumps()), by("c"), "append")
    assert found == [2]
    assert fetch(target, position, by("c"), "append")[0] == []


def test_CU_05_null_cursors_are_a_stated_policy(target: Target) -> None:
    """Rows with NULL could never be found again: an error, or left out and counted."""
    make(target, "n int", "1", "NULL")
    with pytest.raises(DataError, match="cursor column n is NULL in 1 row"):
        fetch(target, None, by("n"))
    assert fetch(target, None, by("n", nulls="skip"))[0] == [1]


def test_CU_05_a_highest_value_that_is_the_end_of_time(target: Target) -> None:
    """Infinity in the cursor column stops the read: nothing would ever be above it."""
    make(target, "ts timestamptz", "'infinity'")
    with pytest.raises(DataError, match="no later value can be above it"):
        fetch(target, None, by("ts"))


def test_CU_06_an_empty_window_keeps_the_position(target: Target) -> None:
    """With nothing new the position is that of before."""
    make(target, "n int", "1")
    _, position = fetch(target, None, by("n"))
    assert fetch(target, position, by("n")) == ([], position)


@pytest.mark.parametrize("change", ["TRUNCATE orders", "UPDATE orders SET n = 0"])
def test_OUT_08_a_source_that_was_set_back_stops(target: Target, change: str) -> None:
    """A table that was emptied, or ends below the position, stops; with set_back: report the position stays."""
    make(target, "n int", "1")
    _, position = fetch(target, None, by("n"))
    target.run(change)
    with pytest.raises(SetBack, match="no row has n at or above the position"):
        fetch(target, position, by("n"))
    assert fetch(target, position, by("n", set_back="report")) == ([], position)


def test_CU_07_several_columns_by_a_query(target: Target) -> None:
    """COALESCE(modified, created) of a query is a cursor like any other."""
    target.run(
        "CREATE TABLE orders (id int, created timestamp, modified timestamp)",
        "INSERT INTO orders VALUES (1, '2024-01-01', NULL), (2, '2024-01-01', '2024-01-03')",
    )
    query = f"SELECT id, COALESCE(modified, created) AS at FROM {target.schema}.orders"
    found, position = fetch(target, None, by("at"), query=query)
    target.run("UPDATE orders SET modified = '2024-01-04' WHERE id = 1")
    again, _ = fetch(target, position, by("at"), query=query)
    assert (found, again) == ([1, 2], [1, 2])  # merge reads the boundary again with what is new


def test_lookback_of_each_kind(target: Target) -> None:
    """Numbers go down by the number, dates and times by seconds."""
    kinds = {
        "int": ("5", "7"), "numeric": ("5.5", "7.5"), "double precision": ("5", "7"),
        "date": ("'2024-01-01'", "'2024-01-03'"),
    }  # fmt: skip
    for n, (type_, values) in enumerate(kinds.items()):
        one = replace(target, table=f"t{n}")
        one.run(f"CREATE TABLE t{n} (id int, c {type_})", f"INSERT INTO t{n} VALUES (1, {values[0]}), (2, {values[1]})")
        lookback = 86_400 * 2 if type_ == "date" else 2
        _, position = fetch(one, None, by("c", lookback=lookback))
        one.run(f"INSERT INTO t{n} VALUES (3, {values[0]})")
        assert fetch(one, position, by("c", lookback=lookback))[0] == [1, 2, 3]


def test_a_position_of_another_source_stops(target: Target) -> None:
    """Another table, another cursor column, another database: IdentityChanged, never a guess."""
    make(target, "n int", "1")
    _, position = fetch(target, None, by("n"))
    with pytest.raises(IdentityChanged, match="the pipeline now reads by id"):
        fetch(target, position, by("id"))
    other = replace(position, identity={**position.identity, "system": "1"})
    with pytest.raises(IdentityChanged, match=r"another source \(system differs\)"):
        fetch(target, other, by("n"))


def test_SE_04_a_column_that_came_with_a_default(target: Target) -> None:
    """ADD COLUMN with a default: old rows have it too, though nothing rewrote them, when the whole is read."""
    make(target, "n int", "1", "2")
    target.run("ALTER TABLE orders ADD COLUMN k int DEFAULT 7")
    assert target.read().column("k").to_pylist() == [7, 7]


# ---- failures


def test_a_connection_that_ends_half_way_is_an_error(postgres: Server, target: Target) -> None:
    """A backend that is terminated during the read raises a transient error; no short read passes for a whole one."""
    target.run("CREATE TABLE orders AS SELECT i AS id, repeat('x', 1000) AS v FROM generate_series(1, 50000) AS i")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(batch_rows=100))
        with source.read(window.parts[0]) as stream:
            batches: Iterator[Any] = stream.batches()
            next(batches)
            postgres.run(f"SELECT pg_terminate_backend({source._session.connection().info.backend_pid})")
            with pytest.raises(SourceError) as error:
                list(batches)
    assert error.value.category is not None
    assert error.value.category.value == "transient"


def test_a_read_given_up_leaves_a_source_that_works(target: Target) -> None:
    """A sink that stops half way: the next window reads everything."""
    target.run("CREATE TABLE orders AS SELECT i AS id FROM generate_series(1, 50000) AS i")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(batch_rows=10))
        with source.read(window.parts[0]) as stream:
            next(stream.batches())
        assert read(source, source.window(None, WindowRequest())).num_rows == 50_000
        with pytest.raises(SourceError, match="the window's snapshot no longer exists"), source.read(window.parts[0]):
            pass


def test_a_table_that_is_not_there(target: Target) -> None:
    """The message names the table and says that names are case-sensitive."""
    with pytest.raises(SourceError, match="the table or view does not exist"):
        target.read()


def test_findings(target: Target) -> None:
    """check tells version, role, wal_level and replica identity, and counts the columns."""
    make(target, "n int", "1")
    with closing(target.source()) as source:
        found = {f.name: f for f in source.check()}
    assert all(f.ok for f in found.values()), found
    assert "PostgreSQL" in found["server"].found
    assert found["replica identity"].found == "default (primary key)"
    assert found["source"].found.endswith("2 columns")


def test_a_missing_grant_is_told_with_the_statement(postgres: Server, target: Target) -> None:
    """A role that lacks SELECT is told the exact GRANT."""
    make(target, "n int", "1")
    role = f"poor_{target.schema}"
    postgres.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT USAGE ON SCHEMA {target.schema} TO {role}")
    with closing(target.source(postgres.url.replace("postgres://postgres", f"postgres://{role}"))) as source:
        [todo] = [f.todo for f in source.check() if f.ok is False]
    assert todo == f'GRANT SELECT ON "{target.schema}"."orders" TO "{role}";'
    postgres.run(todo)
    with closing(target.source(postgres.url.replace("postgres://postgres", f"postgres://{role}"))) as source:
        assert all(f.ok for f in source.check())
        assert read(source, source.window(None, WindowRequest())).num_rows == 1
    postgres.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# ---- partitions


def test_MF_05_partitions_hold_every_row_once(target: Target) -> None:
    """Ranges of pages, read over connections of their own: every row of the window's snapshot once, whatever is written
    meanwhile; NULLs and empty ranges make no difference."""
    target.run(
        "CREATE TABLE orders AS SELECT NULLIF(i % 7, 0) AS v, i AS id FROM generate_series(1, 20000) AS i",
        "DELETE FROM orders WHERE id BETWEEN 3000 AND 9000",
    )
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(whole=True, partitions=4))
        assert len(window.parts) == 4
        target.run(
            "INSERT INTO orders SELECT 1, i FROM generate_series(90000, 99999) AS i",
            "DELETE FROM orders WHERE id < 100",
        )
        ids = read(source, window).column("id").to_pylist()
    assert sorted(ids) == [*range(1, 3000), *range(9001, 20001)]


def test_parts_are_read_at_once(target: Target) -> None:
    """Each from a thread of its own, and the snapshot ends with the last of them."""
    target.run("CREATE TABLE orders AS SELECT i AS id, repeat('x', 100) AS v FROM generate_series(1, 20000) AS i")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(whole=True, partitions=4))

        def ids(part: Any) -> list[int]:
            with source.read(part) as stream:
                return [i for batch in stream.batches() for i in batch.column("id").to_pylist()]

        with ThreadPoolExecutor(4) as pool:
            found = [i for part in pool.map(ids, window.parts) for i in part]
        assert sorted(found) == list(range(1, 20001))
        assert not source._session.open


def test_a_lost_snapshot_stops_the_other_parts(postgres: Server, target: Target) -> None:
    """When the connection that holds the snapshot is gone, no part is read in another one."""
    target.run("CREATE TABLE orders AS SELECT i AS id, repeat('x', 100) AS v FROM generate_series(1, 20000) AS i")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(whole=True, partitions=2))
        postgres.run(f"SELECT pg_terminate_backend({source._session.connection().info.backend_pid}, 5000)")
        with pytest.raises(SourceError, match="window's snapshot no longer exists"), source.read(window.parts[1]):
            pass


def test_views_queries_and_small_tables_are_one_part(target: Target) -> None:
    """Where there are no pages to divide the window has one part."""
    make(target, "v int", "1")
    target.run("CREATE VIEW seen AS SELECT * FROM orders")
    for one, query in ((target, None), (replace(target, table="seen"), None), (target, "SELECT 1 AS id")):
        with closing(one.source(query=query)) as source:
            assert [p.id for p in source.window(None, WindowRequest(whole=True, partitions=4)).parts] == ["all"]


def test_MF_08_a_cursor_on_a_table_without_index_is_read_without_a_sort(target: Target) -> None:
    """An increment is a filter, not an ORDER BY over the table: its plan has no sort."""
    target.run("CREATE TABLE orders AS SELECT i AS id, i AS n FROM generate_series(1, 1000) AS i")
    with closing(target.source(incremental=by("n"))) as source:
        window = source.window(None, WindowRequest(mode="append"))
        plan = source.rows(f"EXPLAIN {source.select(source._reading.spans[0], window.parts[0])}")  # type: ignore[union-attr]
    assert not [line for (line,) in plan if "Sort" in line]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("batch_rows", [1, 2, 3])
def test_batches_hold_each_row_once(target: Target, rows: int, batch_rows: int) -> None:
    """Whatever falls on the edge of a batch, header and trailer of the stream included: every row once, no other."""
    target.run(f"CREATE TABLE orders AS SELECT i AS id FROM generate_series(1, {rows}) AS i")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(batch_rows=batch_rows))
        found = read(source, window).column("id")
    assert found.to_pylist() == list(range(1, rows + 1))
    assert all(len(chunk) <= batch_rows for chunk in found.chunks)


def test_a_table_without_columns(target: Target) -> None:
    """Rows without a value are refused in one line, not miscounted."""
    target.run("CREATE TABLE orders ()", "INSERT INTO orders DEFAULT VALUES")
    with pytest.raises(SourceError, match="it has no column"):
        target.read()


def test_the_table_cannot_be_emptied_or_altered_under_a_read(target: Target) -> None:
    """TRUNCATE shows through snapshots, so the table is locked from before the snapshot to the end of the read."""
    make(target, "v int", "1")
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest())
        with target.connect() as other:
            other.execute("SET lock_timeout = '50ms'")
            for statement in ("TRUNCATE orders", "ALTER TABLE orders DROP COLUMN v", "DROP TABLE orders"):
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(statement)  # type: ignore[call-overload]
            assert read(source, window).num_rows == 1
            other.execute("TRUNCATE orders")


def test_a_materialized_view_is_read_like_a_table(target: Target) -> None:
    """What LOCK TABLE does not take is read all the same."""
    make(target, "v int", "1")
    target.run("CREATE MATERIALIZED VIEW seen AS SELECT * FROM orders")
    assert replace(target, table="seen").read().num_rows == 1


def test_rows_left_out_are_counted_once(target: Target) -> None:
    """NULL cursors that the policy skips count in one part of the window only."""
    target.run("CREATE TABLE orders AS SELECT i AS id, NULLIF(i, 7) AS n FROM generate_series(1, 20000) AS i")
    with closing(target.source(incremental=by("n", nulls="skip"))) as source:
        window = source.window(None, WindowRequest(whole=True, partitions=3))
        filtered, rows = 0, 0
        for part in window.parts:
            with source.read(part) as stream:
                rows += sum(batch.num_rows for batch in stream.batches())
                filtered += stream.filtered
    assert (len(window.parts), rows, filtered) == (3, 19_999, 1)
