"""Types that a database has beside the built-in ones, and texts under an ICU collation: read to Arrow, to a file and to
another table, and compared with the text that the server itself writes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from attrs import evolve as replace
from tests.postgres.target import Target
from tests.postgres.test_types import copied, shown

from dpone.engine.run import run
from dpone.errors import DataError
from dpone.model.pipeline import Lineage
from dpone.model.strategy import Strategy

pytestmark = pytest.mark.postgres

# type -> values as SQL; EXTENSIONS and XML are not in every server
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "hstore": ("''", '\'a=>1, "b c"=>NULL, d=>"x\\"y\\\\z"\'', "'é😀=>\"=>\"'"),
    "hstore[]": ("ARRAY['a=>1', NULL]::hstore[]",),
    "citext": ("''", "'MiXed'", "'é😀 \"'"),
    "citext[]": ("ARRAY['A', NULL, 'a,b']::citext[]",),
    "folded": ("'MiXed'",),
}
OWN: dict[str, tuple[str, ...]] = {
    "mood": ("'sad'", "'o \"k'"),
    "place": ("ROW(1, 'x, \"y\"', ARRAY['sad']::mood[], NULL)", "ROW(NULL, '', '{}', ROW(1, 2))"),
    "place[]": ("ARRAY[ROW(1, '', NULL, NULL)::place, NULL]",),
    "mood[]": ("'{sad,NULL}'", "'[2:3]={sad,sad}'"),
    "few": ("'{1,2}'",),
    "int4multirange": ("'{}'", "'{[1,3),[5,)}'"),
    "nummultirange": ("'{(,1.50],[2.10,3)}'",),
    "tstzmultirange": ("'{[2024-01-01 00:00+00,infinity)}'",),
    "numrange": ("'(-infinity,1e-5]'", "'empty'"),
    "daterange": ("'[2024-02-29,infinity]'",),
    "floats": ("'[1.5,2.5)'",),
    "jsonpath": ("'$.a[*] ? (@ > 1)'",),
    "pg_lsn": ("'16/B374D848'",),
    "macaddr8": ("'08:00:2b:01:02:03:04:05'",),
    "tsquery": ("'fat & !cat'",),
    "bit varying(5)[]": ("'{101,NULL}'",),
    "money[]": ("'{1.10,-2}'",),
    "aclitem": ("'postgres=r*w/postgres'",),  # no binary form at all
    "interval[]": ("'{1 day,-00:00:00.000001}'",),
    "numeric[]": ("'{NaN,1.10,1e-50}'",),
    "bytea[]": ("ARRAY['\\x00ff'::bytea, '']",),
    "uuid[]": ("'{00112233-4455-6677-8899-aabbccddeeff}'",),
    "jsonb[]": ("ARRAY['{\"a\": null}', 'null', NULL]::jsonb[]",),
    "timestamptz[]": ("'{infinity,0044-03-15 12:00:00+00 BC}'",),
}
XML: dict[str, tuple[str, ...]] = {
    "xml": ("''", "'<a b=\"1\">é&amp;<c/></a>'", "'text alone'", "'<?xml version=\"1.0\"?><a/>'"),
    "xml[]": ("ARRAY['<a/>', NULL]::xml[]",),
}


@pytest.fixture
def typed(target: Target) -> Target:
    target.run(
        "CREATE TYPE mood AS ENUM ('sad', 'o \"k')",
        "CREATE TYPE pair AS (a int, b int)",
        "CREATE TYPE place AS (n int, t text, m mood[], p pair)",
        "CREATE DOMAIN few AS integer[] CHECK (array_length(VALUE, 1) < 4)",
        "CREATE TYPE floats AS RANGE (subtype = float8)",
    )
    return target


def with_extensions(target: Target) -> Target:
    try:
        for name in ("hstore", "citext"):
            target.run(f"CREATE EXTENSION IF NOT EXISTS {name} SCHEMA public")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("the server lacks the contributed extensions")
    target.run("CREATE DOMAIN folded AS citext")
    return target


def filled(target: Target, type_: str, values: tuple[str, ...]) -> Target:
    target.run(f"CREATE TABLE orders (id int, v {type_})", "INSERT INTO orders VALUES (0, NULL)")
    for i, value in enumerate(values, 1):
        target.run(f"INSERT INTO orders VALUES ({i}, {value})")
    return target


def require_everywhere(folder: Path, target: Target) -> None:
    """The server's text, in Arrow, in a Parquet file, and in a table that was filled either way."""
    wanted = shown(target)
    texts = [text for _, text, _ in wanted]
    read = target.read()
    assert read.schema.field("v").type == pa.string()
    assert read.sort_by("id").column("v").to_pylist() == texts
    assert in_file(folder, target) == texts
    for native in (False, True):
        target.run("DROP TABLE IF EXISTS copy")
        assert shown(copied(target, native=native)) == wanted
    declared = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'v'"
    )
    assert target.query(declared, "copy") == target.query(declared, "orders")


def in_file(folder: Path, target: Target) -> list[Any]:
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": target.server.url, "table": f"{target.schema}.orders"},
        "sink": {"type": "file", "path": "out", "strategy": {"mode": "full_refresh"}},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    report = run(path)
    assert report.exit_code == 0, report.streams[0].error
    found = [pq.ParquetFile(file).read(["id", "v"]) for file in sorted((folder / "out").rglob("*.parquet"))]
    values: list[Any] = pa.concat_tables(found).sort_by("id").column("v").to_pylist()
    return values


@pytest.mark.parametrize("type_", OWN)
def test_types_of_the_database_arrive_as_the_server_writes_them(tmp_path: Path, typed: Target, type_: str) -> None:
    """Enums, composites, domains, arrays, ranges and multiranges: the exact text, and the type itself in PostgreSQL."""
    require_everywhere(tmp_path, filled(typed, type_, OWN[type_]))


@pytest.mark.parametrize("type_", EXTENSIONS)
def test_types_of_extensions_arrive_as_the_server_writes_them(tmp_path: Path, target: Target, type_: str) -> None:
    """hstore and citext, arrays of them and a domain over one."""
    require_everywhere(tmp_path, filled(with_extensions(target), type_, EXTENSIONS[type_]))


@pytest.mark.parametrize("type_", XML)
def test_xml_arrives_as_the_server_writes_it(tmp_path: Path, target: Target, type_: str) -> None:
    """Documents and fragments."""
    try:
        target.query("SELECT '<a/>'::xml::text")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("the server was built without libxml")
    require_everywhere(tmp_path, filled(target, type_, XML[type_]))


@pytest.mark.parametrize("native", [False, True], ids=["arrow", "binary"])
def test_generated_and_identity_columns_are_read_as_values(typed: Target, native: bool) -> None:
    """A generated column and an identity of the source are plain columns of a new table, with the values they have."""
    typed.run(
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY (START 7), v text, "
        "w int GENERATED ALWAYS AS (length(v)) STORED)",
        "INSERT INTO orders (v) VALUES ('a'), ('bcd'), (NULL)",
    )
    into = copied(typed, native=native)
    columns = "id, v::text, w"
    assert shown(into, columns) == shown(typed, columns) == [(7, "a", 1), (8, "bcd", 3), (9, None, None)]


# ---- collations


@pytest.fixture
def folding(target: Target) -> Target:
    """A collation that takes 'a' and 'A' for equal: unique indexes do, too (CREATE COLLATION, deterministic)."""
    try:
        target.run("CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("the server was built without ICU")
    return target


def data(**columns: list[Any]) -> pa.Table:
    return pa.table(columns)


BARE = {"lineage": Lineage(False), "adopt_existing": True}
FOLDED = "CREATE TABLE orders (k text COLLATE folding{}, v text)"
KEYED = [pytest.param(" PRIMARY KEY", id="unique"), pytest.param("", id="no index")]


@pytest.mark.parametrize("mode", ["merge", "snapshot_diff", "full_refresh"])
@pytest.mark.parametrize("index", KEYED)
def test_keys_that_the_targets_collation_takes_for_equal_are_one_key(folding: Target, index: str, mode: str) -> None:
    """Both in one load repeat a key: an error that names the column and shows no value, and nothing is written."""
    folding.run(FOLDED.format(index), "INSERT INTO orders VALUES ('b', 'old')")
    with pytest.raises(DataError, match=r"have the same strategy.key \(k\)"):
        folding.load(data(k=["x", "X"], v=["1", "2"]), Strategy(mode, key="k"), **BARE)
    assert folding.rows("k, v") == [("b", "old")]
    assert not folding.stages()


@pytest.mark.parametrize("mode", ["merge", "snapshot_diff"])
@pytest.mark.parametrize("index", KEYED)
def test_a_key_in_another_case_meets_its_row(folding: Target, index: str, mode: str) -> None:
    """'B' updates the row of 'b', which the index of the target allows once only; nothing is doubled or deleted."""
    folding.run(FOLDED.format(index), "INSERT INTO orders VALUES ('b', 'old'), ('c', 'same')")
    receipt = folding.load(data(k=["B", "C", "d"], v=["new", "same", "1"]), Strategy(mode, key="k"), **BARE)
    assert (receipt.inserted, receipt.updated, receipt.deleted, receipt.unchanged) == (1, 1, 0, 1)
    assert sorted(folding.rows("lower(k), v")) == [("b", "new"), ("c", "same"), ("d", "1")]


def test_a_widened_column_keeps_its_collation(folding: Target) -> None:
    """PostgreSQL would give it that of the type if the statement said none."""
    folding.run("CREATE TABLE orders (k varchar(3) COLLATE folding)", "CREATE TABLE source (k varchar(9))")
    with closing(replace(folding, table="source").source()) as source:
        schema = source.schema()
    folding.load(pa.table({"k": ["abcdef"]}).cast(schema), Strategy("append"), **BARE)
    assert folding.rows("k") == [("abcdef",)]
    assert folding.query(
        "SELECT collname::text, format_type(atttypid, atttypmod) FROM pg_attribute AS a JOIN pg_collation AS c "
        "ON c.oid = attcollation WHERE attrelid = 'orders'::regclass AND attname = 'k'"
    ) == [("folding", "character varying(9)")]


def test_a_change_of_case_is_a_change(folding: Target) -> None:
    """Values are compared to the byte, whatever the collation of the column."""
    folding.run(
        "CREATE TABLE orders (id int PRIMARY KEY, v text COLLATE folding)", "INSERT INTO orders VALUES (1, 'a')"
    )
    receipt = folding.load(data(id=[1], v=["A"]), Strategy("merge", key="id"), **BARE)
    assert (receipt.updated, folding.rows("id, v")) == (1, [(1, "A")])


def test_LS_11_partitions_are_told_apart_to_the_byte(folding: Target) -> None:
    """Rows of partition 'A' replace those of 'A' and leave 'a' alone."""
    folding.run("CREATE TABLE orders (p text COLLATE folding, v int)", "INSERT INTO orders VALUES ('a', 1), ('A', 2)")
    table = data(p=["A"], v=pa.array([3], pa.int32()))
    receipt = folding.load(table, Strategy("partition_replace", partition="p"), **BARE)
    assert (receipt.inserted, receipt.deleted) == (1, 1)
    assert sorted(folding.rows("p, v")) == [("A", 3), ("a", 1)]
