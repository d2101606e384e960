"""Every type arrives as it was: through Arrow, as text where Arrow cannot hold it, and by the binary stream."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve as replace
from tests.postgres.target import Target
from tests.sqlite.target import KEY, at, evolve, load

from dpone.contract import WindowRequest
from dpone.errors import DataError
from dpone.model.strategy import Strategy
from dpone_postgres import binary

FULL = Strategy("full_refresh")

# type -> values as SQL; each column also holds a NULL
SPECIMENS: dict[str, tuple[str, ...]] = {
    "boolean": ("true", "false"),
    "smallint": ("-32768", "32767", "0"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
    "real": ("1.5", "-3.4e38", "'NaN'", "'Infinity'", "'-0'", "1e-45"),
    "double precision": ("0.1", "1.7976931348623157e308", "'NaN'", "'-Infinity'", "5e-324", "'-0'"),
    "numeric": ("0", "1e-16383", "12345678901234567890123456789012345678901234567890.5", "'NaN'", "'Infinity'", "1.10"),
    "numeric(12,2)": ("0", "-9999999999.99", "9999999999.99", "0.01", "-0.01", "10000", "12345.6"),
    "numeric(15,0)": ("999999999999999", "-1", "10000"),
    "numeric(18,18)": ("0.999999999999999999", "-0.000000000000000001"),
    "numeric(38,10)": (
        "9999999999999999999999999999.9999999999",
        "-1234567890123456789012345678.0123456789",
        "0.0000000001",
    ),
    "numeric(38,0)": ("99999999999999999999999999999999999999", "-10000000000000000"),
    "numeric(60,20)": (
        "9999999999999999999999999999999999999999.99999999999999999999",
        "-0.00000000000000000001",
        "1e16",
    ),
    "numeric(5,-2)": ("1234500",),
    "numeric(3,5)": ("0.00999",),
    "text": ("''", "' '", "'é😀'", "E'tab\\tnew\\nline \"quote\" \\\\ back'", "'NULL'", "repeat('x', 100000)"),
    "character varying(10)": ("''", "'1234567890'"),
    "character(5)": ("'ab'", "''"),
    '"char"': ("'x'",),
    "name": ("'a name'",),
    "bytea": ("''", "'\\x00ff0a0d'", "'\\xdeadbeef'"),
    "date": ("'2024-02-29'", "'0001-01-01'", "'9999-12-31'", "'4713-01-01 BC'", "'5874897-12-31'", "'0044-03-15 BC'"),
    "time": ("'00:00'", "'23:59:59.999999'"),
    "time with time zone": ("'12:00:00.5+05:30'", "'24:00:00-08'"),
    "timestamp": ("'2024-02-29 12:34:56.789012'", "'4713-01-01 BC'", "'0001-01-01'", "'294246-12-31 23:59:59.999999'"),
    "timestamp(0)": ("'2024-02-29 12:34:56'",),
    "timestamptz": ("'2024-02-29 12:34:56.789012+02'", "'1582-10-04 00:00+00'", "'1900-01-01 00:00:00.000001+00'"),
    "interval": ("'1 year -2 mons +3 days -04:05:06.000007'", "'0'", "'178000000 years'"),
    "uuid": ("'00112233-4455-6677-8899-aabbccddeeff'", "'00000000-0000-0000-0000-000000000000'"),
    "json": ('\'{"b": 1,  "a": [1.10, null], "b": 2}\'', "'null'", "'\"\"'"),
    "jsonb": ('\'{"b": 1, "a": [1.10, null]}\'', "'null'"),
    "integer[]": ("'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:1]={7,8}'"),
    "text[]": ("ARRAY['a,b', NULL, 'NULL', '', '\"']",),
    "int4range": ("'[1,5)'", "'empty'", "'(,5]'"),
    "tstzrange": ("'[2024-01-01 00:00+00,)'",),
    "inet": ("'192.168.0.1/24'", "'::1'"),
    "cidr": ("'10.0.0.0/8'",),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "bit(8)": ("B'10101010'",),
    "bit varying": ("B''", "B'101'"),
    "money": ("'-92233720368547758.08'",),
    "point": ("'(1.5,-2)'",),
    "tsvector": ("'a:1 fat:2 cat:3'",),
    "oid": ("4294967295", "0"),
    "mood": ("'sad'", "'o k'"),
    "mood[]": ("'{sad,\"o k\"}'",),
    "posint": ("1", "2147483647"),
    "shortname": ("'ab'",),
    "pair": ("ROW(1, 'x y')",),
}
SPECIALS = {
    "date": "'infinity'", "timestamp": "'-infinity'", "timestamptz": "'infinity'", "time": "'24:00'",
    "numeric(12,2)": "'NaN'",
}  # fmt: skip


@pytest.fixture
def typed(target: Target) -> Target:
    target.run(
        "CREATE TYPE mood AS ENUM ('sad', 'o k')",
        "CREATE DOMAIN posint AS integer CHECK (VALUE > 0)",
        "CREATE DOMAIN shortest AS varchar(3)",
        "CREATE DOMAIN shortname AS shortest",
        "CREATE TYPE pair AS (a int, b text)",
    )
    return target


def own(type_: str, schema: str) -> str:
    """Types of the test's own, with their schema."""
    word = type_.removesuffix("[]")
    return f"{schema}.{type_}" if word in ("mood", "posint", "shortname", "pair") else type_


def fill(target: Target, type_: str, values: tuple[str, ...]) -> None:
    target.run(f"CREATE TABLE orders (id int, v {own(type_, target.schema)})", "INSERT INTO orders VALUES (0, NULL)")
    for i, value in enumerate(values, 1):
        target.run(f"INSERT INTO orders VALUES ({i}, {value})")


def copied(source: Target, *, native: bool, strategy: Strategy = FULL, **options: Any) -> Target:
    """The table, moved as the engine does it."""
    into = replace(source, table="copy")
    with closing(source.source(**options)) as reader, closing(into.sink(strategy)) as sink:
        window = reader.window(None, WindowRequest(whole=True))
        evolve(sink, window.schema, strategy)  # type: ignore[arg-type]
        writer = sink.open(load(window.schema, strategy))
        for part in window.parts:
            with reader.read(part) as stream:
                if not native:
                    stream.native = ()
                writer.stage(part, stream)
        writer.commit(sink.journal(KEY), at())
    return into


def shown(target: Target, columns: str = "id, v::text, pg_typeof(v)::text") -> list[tuple[Any, ...]]:
    return target.query(f'SELECT {columns} FROM "{target.table}" ORDER BY id')


@pytest.mark.parametrize("native", [False, True], ids=["arrow", "binary"])
@pytest.mark.parametrize("type_", SPECIMENS)
def test_a_value_of_every_type_arrives_unharmed(typed: Target, type_: str, native: bool) -> None:
    """From PostgreSQL to PostgreSQL each value, NULL and '' included, has the same text and the same type."""
    fill(typed, type_, SPECIMENS[type_])
    into = copied(typed, native=native)
    assert shown(into) == shown(typed)
    sql = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'v'"
    [[declared], [made]] = [t.query(sql, f'{t.schema}."{t.table}"') for t in (typed, into)]
    assert made == declared


@pytest.mark.parametrize("type_", SPECIALS)
def test_what_arrow_cannot_hold_is_refused_by_name(typed: Target, type_: str) -> None:
    """Infinity, NaN of a numeric and 24:00 stop the read, with the column, the row and the option that reads them."""
    fill(typed, type_, (SPECIMENS[type_][0], SPECIALS[type_]))
    with pytest.raises(DataError, match=r"column v, row 3 of the read.*special_values: text"):
        typed.read()


@pytest.mark.parametrize("type_", SPECIALS)
def test_special_values_as_text(typed: Target, type_: str) -> None:
    """``special_values: text`` reads the whole column as exact text, into a column of texts."""
    fill(typed, type_, (*SPECIMENS[type_], SPECIALS[type_]))
    texts = [(i, text, "text") for i, text, _ in shown(typed)]
    assert shown(copied(typed, native=False, special_values="text")) == texts


@pytest.mark.parametrize("type_", SPECIALS)
def test_the_binary_stream_carries_special_values(typed: Target, type_: str) -> None:
    """Between two PostgreSQL nothing is decoded, so that infinity and NaN pass by default."""
    fill(typed, type_, (SPECIALS[type_],))
    assert shown(copied(typed, native=True)) == shown(typed)


ARROW: list[tuple[pa.DataType, list[Any], str, list[str | None]]] = [
    (pa.int8(), [-128, None, 127], "smallint", ["-128", None, "127"]),
    (pa.uint16(), [65535], "integer", ["65535"]),
    (pa.uint32(), [2**32 - 1], "bigint", ["4294967295"]),
    (pa.uint64(), [2**64 - 1, 0], "numeric(20,0)", ["18446744073709551615", "0"]),
    (pa.float16(), [1.5], "real", ["1.5"]),
    (pa.decimal128(10, -2), [Decimal("1234500")], "numeric(12,0)", ["1234500"]),
    (pa.decimal128(3, 3), [Decimal("-0.007")], "numeric(3,3)", ["-0.007"]),
    (pa.decimal256(50, 5), [Decimal("1e44"), Decimal("-1e-5")], "numeric(50,5)", [f"1{'0' * 44}.00000", "-0.00001"]),
    (pa.date64(), [dt.date(2024, 2, 29)], "date", ["2024-02-29"]),
    (pa.timestamp("s"), [dt.datetime(2024, 1, 2, 3, 4, 5)], "timestamp without time zone", ["2024-01-02 03:04:05"]),
    (pa.timestamp("ns", "UTC"), [dt.datetime(2024, 1, 2, tzinfo=dt.UTC)], "timestamp with time zone",
     ["2024-01-02 00:00:00+00"]),
    (pa.timestamp("us", "Asia/Kolkata"), [dt.datetime(2024, 1, 2, tzinfo=dt.UTC)], "timestamp with time zone",
     ["2024-01-02 00:00:00+00"]),
    (pa.time32("ms"), [dt.time(1, 2, 3, 4000)], "time without time zone", ["01:02:03.004"]),
    (pa.duration("ms"), [dt.timedelta(days=1, milliseconds=5)], "interval", ["24:00:00.005"]),
    (pa.large_string(), ["", None, "é"], "text", ["", None, "é"]),
    (pa.binary(2), [b"\0\xff"], "bytea", ["\\x00ff"]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"], "text", ["a", None, "a"]),
    (pa.list_(pa.int32()), [[1, None], None], "json", ["[1, null]", None]),
    (pa.struct([("a", pa.decimal128(4, 2))]), [{"a": Decimal("1.10")}], "json", ['{"a": "1.10"}']),
    (pa.null(), [None, None], "text", [None, None]),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "values", "native", "texts"), ARROW, ids=[str(a[0]) for a in ARROW])
def test_arrow_types(target: Target, type_: pa.DataType, values: list[Any], native: str, texts: list[Any]) -> None:
    """An Arrow type gets the column type that holds it, and what PostgreSQL shows is the value."""
    table = pa.table({"id": pa.array(range(len(values)), pa.int32()), "v": pa.array(values, type_)})
    target.load(table, FULL)
    found = target.query("SELECT v::text, format_type(atttypid, atttypmod) FROM orders, pg_attribute "
                         "WHERE attrelid = 'orders'::regclass AND attname = 'v' ORDER BY id")  # fmt: skip
    assert found == [(text, native) for text in texts]


REFUSED = [
    (pa.timestamp("ns"), 1, "does not fit"),
    (pa.time64("ns"), 1, "does not fit"),
    (pa.timestamp("us"), -(2**62), "first day of PostgreSQL"),
    (pa.date32(), -3_000_000, "outside PostgreSQL"),
]


@pytest.mark.parametrize(("type_", "number", "why"), REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_a_value_without_a_place_is_refused(target: Target, type_: pa.DataType, number: int, why: str) -> None:
    """What PostgreSQL cannot hold exactly stops the load with column and row, and never shows the value."""
    width = pa.int32() if type_ == pa.date32() else pa.int64()
    table = pa.table({"v": pa.array([None, None, number], width).cast(type_)})
    with pytest.raises(DataError, match=rf"column v, row 3 of the part: .*{why}") as error:
        target.load(table, FULL)
    assert str(number) not in str(error.value)


def test_a_text_with_nul_is_refused(target: Target) -> None:
    """PostgreSQL's texts hold no NUL; the message names the column and not the text."""
    with pytest.raises(DataError, match="SQLSTATE 22021") as error:
        target.load(pa.table({"v": ["secret\0value"]}), FULL)
    assert "secret" not in str(error.value)


def test_a_type_the_target_lacks_becomes_text(typed: Target) -> None:
    """An enum of the source that the target does not have arrives as text."""
    fill(typed, "mood", ("'sad'",))
    table = typed.read()
    typed.run("DROP TABLE orders", "DROP TYPE mood")
    replace(typed, table="copy").load(table, FULL)
    assert typed.query("SELECT v, pg_typeof(v)::text FROM copy ORDER BY id") == [(None, "text"), ("sad", "text")]


def test_the_schema_of_a_source(typed: Target) -> None:
    """Arrow types by column, and the native ones beside them."""
    typed.run(
        f"CREATE TABLE orders (a numeric(38,4), b numeric, c varchar(7), d {typed.schema}.posint, e inet NOT NULL)"
    )
    with closing(typed.source()) as source:
        schema = source.schema()
    assert schema.types == [pa.decimal128(38, 4), pa.string(), pa.string(), pa.int32(), pa.string()]
    natives = [f.metadata[b"dpone.native"].decode() for f in schema]
    assert natives == ["numeric(38,4)", "numeric", "character varying(7)", f"{typed.schema}.posint", "inet"]
    assert [f.nullable for f in schema] == [True, True, True, True, False]


def test_a_block_is_decoded_as_it_was_encoded() -> None:
    """Binary COPY there and back, with NULLs at every place, over slices that begin inside a buffer."""
    columns = {
        "int4": pa.array([1, None, -3, 4], pa.int32()),
        "text": pa.array(["", None, "é" * 9, "z"]),
        "numeric": pa.array([Decimal("1.10"), Decimal("-99999.99"), None, Decimal("0.00")], pa.decimal128(7, 2)),
        "bool": pa.array([True, None, False, True]),
        "uuid": pa.array([b"\1" * 16, None, b"\2" * 16, b"\3" * 16], pa.binary(16)).cast(pa.uuid()),
        "float8": pa.array([1.5, None, float("inf"), -0.0]),
    }
    for start in range(4):
        arrays = [column.slice(start) for column in columns.values()]
        schema = pa.schema([(kind, a.type) for kind, a in zip(columns, arrays, strict=True)])
        data = bytes(binary.encode(arrays, [*columns], [*columns]))
        rows = list(_split(data, len(columns)))
        assert binary.decode(rows, schema, [*columns]).columns == arrays


def _split(data: bytes, width: int) -> Any:
    at = 0
    while at < len(data):
        start, at = at, at + 2
        for _ in range(width):
            size = int.from_bytes(data[at : at + 4], "big", signed=True)
            at += 4 + max(size, 0)
        yield data[start:at]


def test_types_of_the_users_own_do_not_pass_as_binary(typed: Target) -> None:
    """An array or a composite of user-defined types holds their oids in its binary form, which another database does
    not know: such a table goes through Arrow, and a plain enum may pass."""
    fill(typed, "mood[]", ("'{sad}'",))
    typed.run(f"CREATE TABLE plain (id int, v {typed.schema}.mood)")
    for name, passes in (("orders", False), ("plain", True)):
        with closing(replace(typed, table=name).source()) as source:
            window = source.window(None, WindowRequest(whole=True))
            with source.read(window.parts[0]) as stream:
                assert bool(stream.native) is passes


def test_beside_a_type_without_a_binary_form_nothing_changes(typed: Target) -> None:
    """One ``inet`` makes the rows go as CSV: every other type arrives as before, NULL and '' stay apart."""
    columns = [t for t in SPECIMENS if t not in ("date", "timestamp", "timestamptz")]
    names = [f"c{i}" for i in range(len(columns))]
    made = ", ".join(f"{n} {own(t, typed.schema)}" for n, t in zip(names, columns, strict=True))
    typed.run(
        f"CREATE TABLE orders (id int, {made}, d date, t timestamp, z timestamptz)", "INSERT INTO orders VALUES (0)"
    )
    for i in range(6):
        values = [SPECIMENS[t][i % len(SPECIMENS[t])] for t in columns]
        moments = "'2024-02-29', '2024-02-29 12:34:56.789012', '9999-12-31 23:59:59.999999Z'"
        typed.run(f"INSERT INTO orders VALUES ({i + 1}, {', '.join(values)}, {moments})")
    into = copied(typed, native=False)
    mine = ", ".join(["id", "d", "t", "z", *(f"{n}::text" for n in names)])
    assert shown(into, mine) == shown(typed, mine)


def test_a_time_before_the_year_one_does_not_go_as_text(typed: Target) -> None:
    """Arrow and PostgreSQL write such years differently: refused by name rather than taken for another year."""
    typed.run("CREATE TABLE orders (id int, d date, n inet)", "INSERT INTO orders VALUES (1, '0044-03-15 BC', '::1')")
    with pytest.raises(DataError, match=r"column d, .*before the year 1"):
        copied(typed, native=False)
