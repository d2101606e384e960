"""Types of files in PostgreSQL: declared lengths, columns that widen where the rows fit, nested values, nanoseconds."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.postgres.target import Target

from dpone.engine.run import run
from dpone.model.report import RunReport
from dpone_postgres.types import reads


def load(target: Target, base: Path, path: str, **options: Any) -> RunReport:
    connection = target.server.url
    sink = {"type": "postgres", "connection": connection, "table": f"{target.schema}.orders"}
    sink |= {"strategy": {"mode": "append"}, "options": options.pop("sink", {})}
    source = {"type": "file", "path": path, "options": options}
    (base / "p.yaml").write_text(json.dumps({"pipeline": "p", "source": source, "sink": sink}))
    return run(base / "p.yaml")


def error(report: RunReport) -> str:
    [stream] = report.streams
    assert stream.error is not None, stream.status
    assert stream.error.kind in ("DataError", "SchemaBreak"), stream.error
    return stream.error.message


def write(base: Path, name: str, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), base / name)


def kind(target: Target, column: str) -> str:
    sql = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = "
    [(found,)] = target.query(f"{sql}'{column}'")
    return str(found)


def test_a_declared_length_is_that_of_the_column(target: Target, tmp_path: Path) -> None:
    """A new table gets it, a longer declaration widens it, and a text that fits keeps its characters."""
    (tmp_path / "a.csv").write_text("id,v,c,n\n1,äöü,abc,1.50\n")
    columns = {"v": "varchar(3)", "c": "char(3)", "n": "numeric(9,2)"}
    assert load(target, tmp_path, "*.csv", columns=columns).exit_code == 0
    assert [kind(target, name) for name in "vcn"] == ["character varying(3)", "character varying(3)", "numeric(9,2)"]
    (tmp_path / "b.csv").write_text("id,v,c,n\n2,abcde,ab,1\n")
    report = load(target, tmp_path, "*.csv", columns=columns | {"v": "varchar(5)"})
    assert report.exit_code == 0, error(report)
    assert kind(target, "v") == "character varying(5)"
    assert target.query("SELECT v, c, n FROM orders ORDER BY id") == [
        ("äöü", "abc", Decimal("1.50")),
        ("abcde", "ab", Decimal("1.00")),
    ]


@pytest.mark.parametrize("more", ["", ", other inet"])
def test_blanks_beyond_the_length_of_a_column_are_not_cut(target: Target, tmp_path: Path, more: str) -> None:
    """PostgreSQL would drop them without a word; by either way of COPY, and also where a domain has the length."""
    target.run(
        "CREATE DOMAIN code AS varchar(3)", f"CREATE TABLE orders (id int, v varchar(3), d code, c char(3){more})"
    )
    for column in ("v", "d"):
        (tmp_path / "a.csv").write_text(f'id,{column}\n1,abc\n2,"abc "\n')
        report = load(target, tmp_path, "a.csv", sink={"schema_evolution": {"on_missing_column": "ignore"}})
        assert f"column {column}, row 2 of the part: a text of more than 3 characters" in error(report)
    assert target.query("SELECT count(*) FROM orders") == [(0,)]


@pytest.mark.parametrize("other", ["", ", other inet"])
@pytest.mark.parametrize("type_", ["timestamp", "timestamptz", "time"])
def test_digits_of_a_second_beyond_those_of_a_column_are_not_rounded(
    target: Target, tmp_path: Path, type_: str, other: str
) -> None:
    """PostgreSQL would round them without a word, 23:59:59.9995 to the next day; by either way of COPY."""
    target.run(f"CREATE TABLE orders (id int, t {type_}(3){other})")
    day, zone = "" if type_ == "time" else "2024-12-31 ", "Z" if type_ == "timestamptz" else ""
    missing = {"schema_evolution": {"on_missing_column": "ignore"}}
    (tmp_path / "a.csv").write_text(f"id,t\n1,{day}23:59:59.123{zone}\n2,{day}23:59:59.999500{zone}\n")
    report = load(target, tmp_path, "a.csv", sink=missing, columns={"t": type_})
    assert f"column t, row 2 of the part: a time that {kind(target, 't')} would round" in error(report)
    (tmp_path / "a.csv").write_text(f"id,t\n1,{day}23:59:59.123{zone}\n")
    report = load(target, tmp_path, "a.csv", sink=missing, columns={"t": type_})
    assert report.exit_code == 0, error(report)
    assert target.query("SELECT id, date_part('milliseconds', t)::int FROM orders") == [(1, 59123)]


def test_fractions_widen_a_bigint_where_its_rows_fit(target: Target, tmp_path: Path) -> None:
    """One row that a double rounds stops the run and nothing changes; without it the column is a double."""
    target.run("CREATE TABLE orders (id bigint, qty bigint)")
    target.run("INSERT INTO orders VALUES (1, 5), (2, NULL), (3, 9007199254740993)")
    (tmp_path / "a.csv").write_text("id,qty\n4,5.5\n")
    adopt = {"adopt_existing": True}
    report = load(target, tmp_path, "a.csv", sink=adopt)
    assert report.exit_code == 3
    assert "1 row has a value in column qty that its new type double would change" in error(report)
    assert kind(target, "qty") == "bigint"
    target.run("UPDATE orders SET qty = -9007199254740992 WHERE id = 3")
    report = load(target, tmp_path, "a.csv", sink=adopt)
    assert report.exit_code == 0, error(report)
    assert report.streams[0].schema_changes[:1] == ["widen qty int64 -> double, if all rows fit"]
    assert kind(target, "qty") == "double precision"
    assert target.query("SELECT qty FROM orders ORDER BY id") == [(5.0,), (None,), (-9007199254740992.0,), (5.5,)]


def test_whole_numbers_go_into_a_double_exactly_or_not_at_all(target: Target, tmp_path: Path) -> None:
    """A Parquet file of int64 fits a column of doubles up to 2**53; beyond, the row is named."""
    target.run("CREATE TABLE orders (qty double precision)")
    write(tmp_path, "a.parquet", qty=pa.array([1, 2**53]))
    report = load(target, tmp_path, "*.parquet")
    assert report.exit_code == 0, error(report)
    write(tmp_path, "b.parquet", qty=pa.array([1, 2**53 + 1]))
    assert "column qty, row 2 of the part: a value of type int64 does not fit double" in error(
        load(target, tmp_path, "*.parquet")
    )
    assert target.query("SELECT qty FROM orders ORDER BY 1") == [(1.0,), (2.0**53,)]


def test_a_date_column_becomes_one_of_timestamps(target: Target, tmp_path: Path) -> None:
    """Stored days are their midnight, and days that come later too."""
    write(tmp_path, "a.parquet", t=pa.array([dt.date(2024, 2, 29)]))
    assert load(target, tmp_path, "*.parquet").exit_code == 0
    assert kind(target, "t") == "date"
    write(tmp_path, "b.parquet", t=pa.array([dt.datetime(2024, 3, 1, 5)]))
    assert load(target, tmp_path, "*.parquet").exit_code == 0
    assert kind(target, "t") == "timestamp without time zone"
    write(tmp_path, "c.parquet", t=pa.array([dt.date(2024, 3, 2)]))
    assert load(target, tmp_path, "*.parquet").exit_code == 0
    days = [dt.datetime(2024, 2, 29), dt.datetime(2024, 3, 1, 5), dt.datetime(2024, 3, 2)]
    assert target.query("SELECT t FROM orders ORDER BY 1") == [(day,) for day in days]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([{"a": Decimal("1.50"), "b": [dt.date(2024, 2, 29)]}]), '{"a": "1.50", "b": ["2024-02-29"]}'),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), '{"k": 1}'),
        (pa.array([[1]]).cast(pa.list_(pa.timestamp("ns"))), '["1970-01-01T00:00:00.000000001"]'),
        (
            pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.int8(), (2,)), pa.array([[1, 2]], pa.list_(pa.int8(), 2))
            ),
            "[1, 2]",
        ),
    ],
)
def test_nested_values_are_json(target: Target, tmp_path: Path, array: pa.Array, text: str) -> None:
    """As text, with all of their digits."""
    write(tmp_path, "a.parquet", odd=array)
    report = load(target, tmp_path, "a.parquet")
    assert report.exit_code == 0, error(report)
    assert target.query("SELECT odd::text FROM orders") == [(text,)]


def test_nested_values_without_json_name_their_column(target: Target, tmp_path: Path) -> None:
    """NaN has no word in JSON."""
    write(tmp_path, "a.parquet", odd=pa.array([[1.0], [float("nan")]]))
    assert "column odd, row 2 of the part: NaN or an infinity" in error(load(target, tmp_path, "a.parquet"))


def test_nanoseconds_are_refused_or_cut(target: Target, tmp_path: Path) -> None:
    """The error names the option, which drops the digits."""
    write(tmp_path, "a.parquet", t=pa.array([1_999, None], pa.int64()).cast(pa.timestamp("ns", "UTC")))
    assert "sink.options.nanoseconds: cut" in error(load(target, tmp_path, "a.parquet"))
    report = load(target, tmp_path, "a.parquet", sink={"nanoseconds": "cut"})
    assert report.exit_code == 0, error(report)
    when = dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)
    assert target.query("SELECT t FROM orders ORDER BY 1") == [(when,), (None,)]


def test_int8_of_a_plan_for_postgresql_has_eight_bytes() -> None:
    """The dialect's own word outweighs Arrow's."""
    assert reads("int8") == pa.int64()
