"""Names of types, as catalogues and people write them: every word, and what is refused rather than guessed."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dpone.sql.types import arrow, standard

WORDS: dict[pa.DataType, str] = {
    pa.bool_(): "boolean, bool, bit",
    pa.uint8(): "tinyint",
    pa.int16(): "smallint, int2",
    pa.int32(): "int, integer, int4",
    pa.int64(): "bigint",
    pa.float32(): "real, float4, float(1), float(24)",
    pa.float64(): "float, float8, double, double precision, float(25), float(53)",
    pa.decimal128(19, 4): "money",
    pa.decimal128(10, 4): "smallmoney",
    pa.string(): "text, ntext, clob, xml, char, character, nchar, varchar, nvarchar, character varying, char varying, "
    "bpchar, varchar(50), nvarchar(max), CHARACTER  VARYING ( 7 )",
    pa.binary(): "blob, bytea, image, binary, varbinary, binary varying, varbinary(max), binary(16)",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp, timestamp without time zone, datetime, smalldatetime, datetime2, timestamp(6), "
    "timestamp(0) without time zone",
    pa.timestamp("ns"): "timestamp(7), datetime2(7), timestamp(9)",
    pa.timestamp("us", "UTC"): "timestamptz, timestamp with time zone, datetimeoffset, timestamp(3) with time zone",
    pa.timestamp("ns", "UTC"): "datetimeoffset(7), timestamptz(9)",
    pa.time64("us"): "time, time without time zone, time(6)",
    pa.time64("ns"): "time(7)",
    pa.json_(): "json, jsonb",
    pa.uuid(): "uuid, uniqueidentifier",
    pa.decimal128(10, 2): "numeric(10,2), decimal(10, 2), dec(10,2), NUMERIC ( 10 , 2 )",
    pa.decimal128(38, 38): "numeric(38,38)",
    pa.decimal128(1, 0): "numeric(1)",
    pa.decimal256(39, 0): "numeric(39)",
    pa.decimal256(76, 76): "decimal(76,76)",
}


def split(words: str) -> list[str]:
    """At commas outside of brackets."""
    return [one.replace(";", ",") for one in "".join(_guarded(words)).split(", ")]


def _guarded(words: str) -> list[str]:
    depth, out = 0, []
    for letter in words:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        out.append(";" if letter == "," and depth else letter)
    return out


@pytest.mark.parametrize(("type_", "words"), WORDS.items(), ids=[str(one) for one in WORDS])
def test_every_word_of_sql_is_one_type(type_: pa.DataType, words: str) -> None:
    """In small and capital letters alike."""
    for word in split(words):
        assert standard(word) == type_, word
        assert standard(word.upper()) == type_, word


@pytest.mark.parametrize(
    "word",
    ["", "int(4)", "bigint(max)", "numeric", "decimal", "numeric(0)", "numeric(77)", "numeric(5,6)", "numeric(max)",
     "varchar(5,2)", "timestamp(10)", "time(10)", "timestamp(max)", "time with time zone", "int with time zone",
     "point", "numeric(10,2", "a b c", "float(max)", "date with time zone", "timestamp(1,2)"],
)  # fmt: skip
def test_a_word_that_says_too_little_is_no_type(word: str) -> None:
    """Servers mean different things by it, or it is none of SQL: nothing is guessed."""
    assert standard(word) is None


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("int64", pa.int64()), ("halffloat", pa.float16()), ("extension<arrow.json>", pa.json_()),
        ("extension<arrow.uuid>", pa.uuid()), ("decimal128(10, 2)", pa.decimal128(10, 2)),
        ("decimal128(38,0)", pa.decimal128(38, 0)), ("decimal128(39, 0)", None), ("decimal128(5, 6)", None),
        ("decimal256(10, 2)", pa.decimal256(10, 2)), ("decimal256(76, 0)", pa.decimal256(76, 0)),
        ("decimal256(77, 0)", None), ("timestamp[us, tz=UTC]", pa.timestamp("us", "UTC")),
        ("timestamp[ns, Europe/Berlin]", pa.timestamp("ns", "Europe/Berlin")), ("timestamp[s]", pa.timestamp("s")),
        ("list<int64>", None), ("nothing", None),
    ],
)  # fmt: skip
def test_types_by_the_names_of_arrow(text: str, type_: pa.DataType | None) -> None:
    """A scalar type comes back as Arrow prints it; anything else is none."""
    assert arrow(text) == type_
