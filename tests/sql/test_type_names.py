"""Names of types, as catalogues and people write them: every word, and what is refused rather than guessed."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from dpone.errors import ConfigError
from dpone.model.schema import TYPE_NAMES
from dpone.model.types import (
    JSON,
    UUID,
    arrow,
    kind,
    limit,
    named,
    standard,
)

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
    pa.string(): "string, string(5), text, ntext, clob, xml, char, character, nchar, varchar, nvarchar, "
    "character varying, char varying, "
    "bpchar, character large object, CHARACTER LARGE OBJECT(10), char large object, "
    "varchar(50), nvarchar(max), CHARACTER  VARYING ( 7 )",
    pa.binary(): "blob, bytea, bytes, image, binary, varbinary, binary varying, varbinary(max), binary(16), "
    "binary large object, binary large object(5)",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp, timestamp without time zone, datetime, smalldatetime, datetime2, timestamp(6), "
    "timestamp(0) without time zone",
    pa.timestamp("ns"): "timestamp_ns, timestamp(7), datetime2(7), timestamp(9)",
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


def test_the_table_of_the_docs_is_the_code() -> None:
    """docs/guide/pipeline.md has every word that is accepted, with its type, and no other."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "pipeline.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| name \| values \| Arrow \|\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines()]
    shown = {type_: {name for name in names if "(" not in name} for *names, type_ in rows}
    words = {str(type_): {one for one in split(text) if "(" not in one} for type_, text in WORDS.items()}
    assert {type_: names for type_, names in shown.items() if names} == {t: n for t, n in words.items() if n}
    for *names, type_ in rows:
        assert {str(standard(name)) for name in names} == {type_}


def test_names_that_are_offered_are_names() -> None:
    """Those of error messages and of the JSON Schema."""
    assert len({str(named(name, "try")) for name in TYPE_NAMES}) >= len(TYPE_NAMES) - 1


@pytest.mark.parametrize(
    ("text", "todo"),
    [
        ("integre", "write integer, or another of boolean,"), ("numeric", r"write its digits, as in numeric\(18,2\)"),
        ("decimal(77,2)", "write its digits"), ("varchr(20)", "write varchar, or"), ("varchar(0)", "write varchar, or"),
        ("bigitn", "write bigint"), ("pear", "or another of boolean"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_nearest(text: str, todo: str) -> None:
    """One line that says what to write instead."""
    with pytest.raises(ConfigError, match=f"read columns.a: unknown type {re.escape(repr(text))}; .*{todo}") as raised:
        named(text, "read columns.a")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "most"),
    [("varchar(20)", 20), ("CHAR ( 3 )", 3), ("character varying(5)", 5), ("string(7)", 7), ("varchar", None),
     ("nvarchar(max)", None), ("numeric(9,2)", None), ("varbinary(9)", None), ("interval(3)", None)],
)  # fmt: skip
def test_the_length_of_a_text(text: str, most: int | None) -> None:
    """Only a text has one."""
    assert limit(text) == most


KINDS = {
    "boolean": [pa.bool_()], "integer": [pa.int8(), pa.uint64()], "floating": [pa.float16(), pa.float64()],
    "decimal": [pa.decimal128(5, 2), pa.decimal256(50, 2)], "date": [pa.date32(), pa.date64()],
    "timestamp": [pa.timestamp("s"), pa.timestamp("ns")], "instant": [pa.timestamp("us", "Europe/Berlin")],
    "time": [pa.time32("s"), pa.time64("ns")], "duration": [pa.duration("us")], "uuid": [UUID],
    "json": [JSON, pa.list_(pa.int8()), pa.struct([("a", pa.int8())])],
    "text": [pa.string(), pa.large_string(), pa.string_view(), pa.null()],
    "binary": [pa.binary(), pa.binary(4), pa.large_binary(), pa.binary_view()],
    "": [pa.month_day_nano_interval(), pa.dictionary(pa.int8(), pa.string())],
}  # fmt: skip


@pytest.mark.parametrize(("word", "type_"), [(word, type_) for word, types in KINDS.items() for type_ in types])
def test_a_type_is_of_one_kind(word: str, type_: pa.DataType) -> None:
    """Whatever its width, unit or layout."""
    assert kind(type_) == word
