"""Reads in parts: by pages, by ranges, by hashes. Every row of one snapshot is in just one part."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pytest
from attrs import evolve as replace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.postgres.proxy import proxy
from tests.postgres.server import Server
from tests.postgres.target import Target

from dpone.contract import Part, WindowRequest
from dpone.errors import ConfigError
from dpone.model.pipeline import Incremental
from dpone_postgres.config import PartitionBy
from dpone_postgres.session import Session
from dpone_postgres.source import PostgresSource

WHOLE = WindowRequest(whole=True, partitions=4)


def keys(source: PostgresSource, parts: Any) -> list[list[int]]:
    """The column ``id`` of each part."""
    found = []
    for part in parts:
        with source.read(part) as stream:
            found.append([i for batch in stream.batches() for i in batch.column("id").to_pylist()])
    return found


def split(target: Target, n: int = 4, **options: Any) -> tuple[list[str], list[list[int]]]:
    """Ids of the parts of a read, and what is in each."""
    by, query = options.pop("by", None), options.pop("query", None)
    wanted = PartitionBy(by, options.pop("column", None)) if by else None
    with closing(target.source(query=query, partition=wanted, **options)) as source:
        window = source.window(None, replace(WHOLE, partitions=n))
        return [part.id for part in window.parts], keys(source, window.parts)


def rows(parts: list[list[int]]) -> list[int]:
    return sorted(i for part in parts for i in part)


def kinds(ids: list[str]) -> set[str]:
    return {"range" if id.isdigit() else id.partition("-")[0] for id in ids}


def test_a_table_is_read_by_pages_and_others_by_ranges(target: Target) -> None:
    """Without options: pages of a table, of a materialized view and of a partitioned table; ranges of the key that a
    simple view shows; one part of any other view and of a query."""
    made = "SELECT i AS id, repeat('x', 100) AS v FROM generate_series(1, 3000) AS i"
    target.run(
        f"CREATE TABLE orders AS {made}", "ALTER TABLE orders ADD PRIMARY KEY (id)",
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders",
        "CREATE VIEW simple AS SELECT v, id FROM orders WHERE id > 0",
        "CREATE VIEW summed AS SELECT max(id) AS id, v FROM orders GROUP BY v",
        "CREATE TABLE split (id int, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (1) TO (2000)",
        "CREATE TABLE split_2 PARTITION OF split DEFAULT", f"INSERT INTO split {made}",
    )  # fmt: skip
    everything = list(range(1, 3001))
    expected = {"orders": "pages", "kept": "pages", "split": "pages", "simple": "range", "summed": "all"}
    for name, kind in expected.items():
        ids, found = split(replace(target, table=name))
        assert kinds(ids) == {kind}, name
        assert kind == "all" or (max(map(len, found)) < 1000 and rows(found) == everything), name
    assert split(target, query=f"SELECT id FROM {target.name}")[0] == ["all"]


def test_an_older_server_reads_ranges_of_the_key(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL 13 scans the whole table for a range of pages, so that an indexed column is taken, and without one
    the table stays whole."""
    monkeypatch.setattr(PostgresSource, "server_version", 130000)
    target.run("CREATE TABLE orders AS SELECT i AS id FROM generate_series(1, 4000) AS i")
    assert split(target)[0] == ["all"]
    target.run("CREATE UNIQUE INDEX ON orders (id)")
    assert kinds(split(target)[0]) == {"range"}


def test_pages_of_a_partitioned_table_are_about_even(target: Target) -> None:
    """Leaves of very different sizes: no part has more than a third of the rows when four are wanted."""
    target.run(
        "CREATE TABLE orders (id int, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE small PARTITION OF orders FOR VALUES FROM (1) TO (500)",
        "CREATE TABLE nested PARTITION OF orders FOR VALUES FROM (500) TO (100000) PARTITION BY RANGE (id)",
        "CREATE TABLE large PARTITION OF nested FOR VALUES FROM (500) TO (7000)",
        "CREATE TABLE other PARTITION OF nested DEFAULT",
        "INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series(1, 9000) AS i",
    )
    _, found = split(target)
    assert rows(found) == list(range(1, 9001))
    assert len(found) == 4
    assert max(map(len, found)) < 3000


def test_pages_of_a_partition_are_a_tid_range_scan(target: Target) -> None:
    """Each part reads its own pages of every leaf and no others."""
    target.run(
        "CREATE TABLE orders (id int, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE one PARTITION OF orders FOR VALUES FROM (1) TO (500)",
        "CREATE TABLE two PARTITION OF orders DEFAULT",
        "INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series(1, 1000) AS i",
    )
    with closing(target.source()) as source:
        part = source.window(None, WHOLE).parts[1]
        plan = "\n".join(line for (line,) in source.rows("EXPLAIN " + source.select(source._reading.spans[0], part)))  # type: ignore[union-attr]
    assert plan.count("Tid Range Scan") == 2
    assert "Seq Scan" not in plan


TYPES = {
    "int": st.integers(-5, 5) | st.integers(-(2**31), 2**31 - 1),
    "numeric": st.sampled_from(["NaN", "1.0", "1.00", "1e40", "-0.0"]) | st.integers().map(str),
    "float8": st.floats(width=64).map(str),
    "date": st.sampled_from(["infinity", "-infinity", "4000-01-01 BC"]) | st.dates().map(str),
    "timestamptz": st.sampled_from(["infinity", "-infinity"]) | st.datetimes().map(str),
    "uuid": st.uuids().map(str),
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    'text COLLATE "POSIX"': st.sampled_from(["a", "B", "b", "A", "", "é", "zz", "'", "\\"]),
    "varchar(3)": st.text("abAB '\\", max_size=3),
    "char(3)": st.text("ab ", max_size=3),
    "bytea": st.binary(max_size=6).map(lambda value: "\\x" + value.hex()),
    "boolean": st.booleans(),
    "interval": st.sampled_from(["1 day", "24:00", "-1 month", "30 days"]),
    "inet": st.sampled_from(["10.0.0.1", "10.0.0.0/8", "::1", "192.168.0.1/24"]),
    "int[]": st.lists(st.integers(0, 3), max_size=3).map(lambda v: "{" + ",".join(map(str, v)) + "}"),
    "jsonb": st.sampled_from(['{"a": 1}', "[1]", "2", '"x"']),
}


@pytest.mark.parametrize("type_", TYPES)
def test_MF_05_every_row_is_in_one_part(target: Target, type_: str) -> None:
    """Whatever the values of the column (NULL, infinities, NaN, texts under a collation, all alike, none): the parts
    hold each row once, by ranges and by hashes, from a sample and from ANALYZE's statistics."""

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | TYPES[type_], min_size=1, max_size=40), st.integers(2, 5), st.booleans())
    def check(values: list[Any], n: int, analyzed: bool) -> None:
        hold_each_row_once(target, type_, values * 3, n, analyzed)

    check()


@pytest.mark.parametrize("values", [[], [None] * 9, [7] * 9, [None, 7]], ids=["empty", "NULL", "one", "both"])
@pytest.mark.parametrize("analyzed", [False, True])
def test_MF_05_columns_with_nothing_to_split(target: Target, values: list[Any], analyzed: bool) -> None:
    """An empty table, one without values, one with a single value: every row in one part all the same."""
    hold_each_row_once(target, "int", values, 3, analyzed)


def hold_each_row_once(target: Target, type_: str, values: list[Any], n: int, analyzed: bool) -> None:
    texts = [None if value is None else str(value) for value in values]
    with target.connect() as db:
        db.execute("DROP TABLE IF EXISTS orders")
        db.execute(f"CREATE TABLE orders (id int, c {type_})")  # type: ignore[arg-type]
        insert = f"INSERT INTO orders SELECT n - 1, v::{type_} FROM unnest(%s::text[]) WITH ORDINALITY AS t(v, n)"
        db.execute(insert, (texts,))  # type: ignore[arg-type]
        if analyzed:
            db.execute("ANALYZE orders")
    options = {"special_values": "text", "column": "c"}
    for by in ("range", "hash"):
        _, found = split(target, n, by=by, **options)
        assert rows(found) == list(range(len(values))), by
    ids, found = split(target, n, by="range", query=f"SELECT id, c FROM {target.name}", **options)
    assert rows(found) == list(range(len(values)))
    assert len(ids) <= n + 1


@pytest.mark.parametrize("query", [False, True], ids=["statistics", "sample"])
def test_ranges_of_skewed_values_are_about_even(target: Target, query: bool) -> None:
    """Cuts are quantiles, not distances: of values that crowd together each of four parts has about a quarter of the
    rows; rows without a value are a part of their own."""
    target.run(
        "CREATE TABLE orders AS SELECT i AS id, CASE WHEN i % 10 = 0 THEN NULL ELSE (i::numeric ^ 5)::bigint END AS c "
        "FROM generate_series(1, 6000) AS i",
        "ANALYZE orders",
    )
    asked = f"SELECT id, c FROM {target.name}" if query else None
    ids, found = split(target, by="range", column="c", query=asked)
    assert [len(ids), len(found[-1])] == [5, 600]
    assert all(1100 < len(part) < 1600 for part in found[:-1])


def test_one_value_that_most_rows_have_is_a_part_of_its_own(target: Target) -> None:
    """What cannot be split is not, and takes no others along."""
    target.run(
        "CREATE TABLE orders AS SELECT i AS id, CASE WHEN i <= 4000 THEN 7 ELSE i END AS c "
        "FROM generate_series(1, 5000) AS i",
        "ANALYZE orders",
    )
    _, found = split(target, by="range", column="c")
    assert max(map(len, found)) == 4000


def test_a_collation_without_an_order_of_bytes(target: Target) -> None:
    """Ranges go by the column's collation, also one under which texts that differ are equal (ICU)."""
    icu = "provider = icu, locale = 'und-u-ks-level2', deterministic = false"
    try:
        target.run(f"CREATE COLLATION {target.schema}.loose ({icu})")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    target.run(
        f"CREATE TABLE orders (id int, c text COLLATE {target.schema}.loose)",
        "INSERT INTO orders SELECT i, chr(65 + i % 26 + 32 * (i % 2)) || chr(97 + i % 7) "
        "FROM generate_series(1, 500) AS i",
    )
    for by in ("range", "hash"):
        ids, found = split(target, by=by, column="c")
        assert len(ids) == 5
        assert rows(found) == list(range(1, 501))


def test_parts_of_an_increment(target: Target) -> None:
    """A first read by cursor column can be split by another column; the rows are those of the increment."""
    target.run("CREATE TABLE orders AS SELECT i AS id, i % 100 AS c FROM generate_series(1, 2000) AS i")
    ids, found = split(target, by="hash", column="c", incremental=Incremental("cursor", "id"))
    assert len(ids) == 5
    assert rows(found) == list(range(1, 2001))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": "range", "column": "j"}, "column j of type json cannot be split into ranges"),
        ({"by": "range", "column": "nothing"}, "no column nothing in"),
        ({"by": "range"}, "no indexed column in"),
        ({"by": "hash"}, "no indexed column in"),
        ({"by": "pages", "column": "id"}, "by: pages takes no column"),
    ],
)
def test_a_column_that_cannot_be_split_is_named(target: Target, options: dict[str, Any], told: str) -> None:
    """A column that does not exist or has no order, and an option that means nothing, are errors of the pipeline."""
    target.run("CREATE TABLE orders AS SELECT i AS id, '1'::json AS j FROM generate_series(1, 20) AS i")
    with pytest.raises(ConfigError, match=told):
        split(target, **options)


def test_what_reads_a_foreign_table_is_one_part(target: Target) -> None:
    """Parts of it would each see the other server at a moment of its own: a table, a partition, a view and a query are
    read whole, and an option that wants parts is refused."""
    try:
        target.run("CREATE EXTENSION IF NOT EXISTS postgres_fdw SCHEMA public")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("the server lacks the contributed extensions")
    given = psycopg.conninfo.conninfo_to_dict(target.server.url)
    place = ", ".join(f"{name} '{given[name]}'" for name in ("host", "port", "dbname"))
    far = f"SERVER {target.schema} OPTIONS (schema_name '{target.schema}', table_name 'near')"
    target.run(
        "CREATE TABLE near AS SELECT i AS id FROM generate_series(1, 3000) AS i",
        f"CREATE SERVER {target.schema} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({place})",
        f"CREATE USER MAPPING FOR current_user SERVER {target.schema} OPTIONS (user '{given['user']}')",
        f"CREATE FOREIGN TABLE orders (id int) {far}",
        "CREATE TABLE split (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (5000) TO (6000)",
        f"CREATE FOREIGN TABLE split_2 PARTITION OF split FOR VALUES FROM (1) TO (5000) {far}",
        "CREATE VIEW seen AS SELECT id FROM orders",
    )
    query = f"SELECT n.id FROM {target.name} AS n JOIN generate_series(1, 3000) AS i ON i = n.id"
    try:
        for one in (replace(target, table=name) for name in ("orders", "split", "seen")):
            assert split(one) == (["all"], [list(range(1, 3001))]), one.table
            with pytest.raises(ConfigError, match="reads a foreign table"):
                split(one, by="range", column="id")
        counted = f"SELECT i AS id, c FROM generate_series(1, 9) AS i, (SELECT count(*) AS c FROM {target.name}) AS n"
        for one in (query, counted):  # the other server counts: the scan is of no one table
            assert split(target, query=one)[0] == ["all"]
            with pytest.raises(ConfigError, match="reads a foreign table"):
                split(target, query=one, by="hash", column="id")
    finally:
        target.run(f"DROP SERVER {target.schema} CASCADE")


def test_parts_are_read_from_the_host_that_has_the_snapshot(
    target: Target, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several hosts in a connection the parts take the one the window took: the others do not know its snapshot."""
    target.run("CREATE TABLE orders AS SELECT i AS id FROM generate_series(1, 20000) AS i")
    ports, join = [], Session.join

    def joined(session: Session, snapshot: str) -> None:
        join(session, snapshot)
        ports.append(session.connection().info.port)

    monkeypatch.setattr(Session, "join", joined)
    with proxy((postgres.host, postgres.port)) as other:
        near = psycopg.conninfo.conninfo_to_dict(postgres.url)
        hosts = f"{near['host']},{near['host']}"
        both = {**near, "host": hosts, "port": f"{postgres.port},{other.port}", "load_balance_hosts": "random"}
        url = psycopg.conninfo.make_conninfo(**both)
        with closing(target.source(url, partition=PartitionBy("range", "id"))) as source:
            window = source.window(None, replace(WHOLE, partitions=10))
            assert rows(keys(source, window.parts)) == list(range(1, 20001))
            assert len(ports) == len(window.parts) > 8
            assert set(ports) == {source._session.connection().info.port}


def test_a_view_has_no_pages(target: Target) -> None:
    """``by: pages`` of what has none is refused, not read as a whole."""
    target.run("CREATE VIEW orders AS SELECT 1 AS id")
    with pytest.raises(ConfigError, match="is not stored in pages"):
        split(target, by="pages")


@pytest.mark.parametrize("by", ["pages", "range", "hash"])
def test_parts_that_are_left_over_are_read_in_another_snapshot(target: Target, by: Any) -> None:
    """A manifest keeps ids and bounds; from these the same parts come again, whatever number is asked for."""
    target.run(
        "CREATE TABLE orders AS SELECT i AS id, repeat('x', 50) AS v FROM generate_series(1, 3000) AS i",
        "ALTER TABLE orders ADD PRIMARY KEY (id)",
    )
    wanted = PartitionBy(by)
    with closing(target.source(partition=wanted)) as source:
        window = source.window(None, WHOLE)
        first = keys(source, window.parts[:1])
    known = tuple(Part(p.id, {"bounds": p.detail["bounds"]} if "bounds" in p.detail else {}) for p in window.parts)
    with closing(target.source(partition=wanted)) as source:
        again = source.window(None, replace(WHOLE, partitions=2, parts=known))
        assert [part.id for part in again.parts] == [part.id for part in window.parts]
        rest = keys(source, again.parts[1:])
    assert rows(first + rest) == list(range(1, 3001))


def test_pages_of_a_table_that_was_rewritten_are_not_gone_on_with(target: Target) -> None:
    """After a VACUUM FULL the rows are elsewhere: what is left over of the old pages would be other rows."""
    target.run("CREATE TABLE orders AS SELECT i AS id, repeat('x', 50) AS v FROM generate_series(1, 3000) AS i")
    with closing(target.source()) as source:
        parts = source.window(None, WHOLE).parts
    target.run("VACUUM FULL orders")
    with closing(target.source()) as source, pytest.raises(ConfigError, match="on other pages"):
        source.window(None, replace(WHOLE, parts=parts))


@pytest.mark.parametrize("by", ["hash", "range"])
def test_a_composite_value_whose_fields_are_NULL_is_in_one_part(target: Target, by: str) -> None:
    """It is not NULL itself, and so in the part of its value and not in that of NULL."""
    target.run(
        "CREATE TYPE pair AS (a int, b int)",
        "CREATE TABLE orders AS SELECT i AS id, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN ROW(NULL, NULL)::pair "
        "ELSE ROW(i, i)::pair END AS p FROM generate_series(1, 40) AS i",
        "ANALYZE orders",
    )  # fmt: skip
    ids, found = split(target, by=by, column="p")
    assert len(ids) > 1
    assert rows(found) == [*range(1, 41)]
