"""Options of CSV: what a file is made of and how its values are written. Each has an input that it refuses."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import fields
from jsonschema import Draft202012Validator
from tests.file.test_file_csv import failure, loaded, read

from dpone.config.document import PipelineErrors
from dpone.config.json_schema import pipeline_schema
from dpone.config.reader import load_pipeline
from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.errors import ConfigError, DataError
from dpone.model.pipeline import SourceSpec
from dpone.plugins import discover

D = dt.date
T = dt.datetime


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        ("# exported 2024-05-01\n# source: station 7\nid,name\n1,a\n", {"comment": "#"}, [(1, "a")]),
        ("# exported 2024-05-01\n# source: station 7\nid,name\n1,a\n", {"skip_lines": 2}, [(1, "a")]),
        ('top\n\n"open\nid,name\n1,a\n', {"skip_lines": 3}, [(1, "a")]),
        ("\ufefftop\r\n\r\n#x\r\n\r\nid,name\r\n1,a\r\n", {"skip_lines": 1, "comment": "#"}, [(1, "a")]),
        ("top\rid,name\r1,a\r", {"skip_lines": 1}, [(1, "a")]),
        ("top\n1,a\n", {"skip_lines": 1, "header": False, "names": ("id", "name")}, [(1, "a")]),
        ('id,name\n# don\'t "\n1,a\n#\n2,b # kept\n# last', {"comment": "#"}, [(1, "a"), (2, "b # kept")]),
        ('id,name\n1,"x\n# y"\n# z\n2,"#"\n', {"comment": "#"}, [(1, "x\n# y"), (2, "#")]),
        ("id\n1\n#\n\n2\n", {"comment": "#"}, [(1,), (None,), (2,)]),
        ("sep=;\nid;name\n1;a,b\n", {}, [(1, "a,b")]),
        ('\ufeff"sep=\t"\r\nid\tname\r\n1\ta\r\n', {}, [(1, "a")]),
        ("SEP=|\nid|name\n1|a\n", {"delimiter": "|"}, [(1, "a")]),
        ("sep=;\nid,name\n1,a\n", {"skip_lines": 1, "delimiter": ","}, [(1, "a")]),
        ("sep=;\nmore\nid;name\n1;a\n", {"skip_lines": 2}, [(1, "a")]),
        ("sep=;\n1;a\n", {"header": False, "names": ("id", "name")}, [(1, "a")]),
        (' id ,\tname\n 1, "a, b" \n2 ,"  b "\t\n3,  c d  \n', {"trim": True}, [(1, "a, b"), (2, "  b "), (3, "c d")]),
        ("id,name\n1,  \n 2,b\n", {"trim": True}, [(1, None), (2, "b")]),
        ("id\tname\n 1 \t a b \n", {"trim": True, "delimiter": "\t"}, [(1, "a b")]),
        ("id,name\r\n 1, a\\, b \r\n", {"trim": True, "escape": "\\"}, [(1, "a, b")]),
        ("id,name\n1, a\n", {}, [(1, " a")]),
        ("id,name,\n1,a,\n2,,\n", {"trailing_delimiter": True}, [(1, "a"), (2, None)]),
        ("id,name\n1,a,\n2,,\n", {"trailing_delimiter": True}, [(1, "a"), (2, None)]),
        ("id,\n1,\n,\n", {"trailing_delimiter": True}, [(1,), (None,)]),
        ("1,a,\n", {"trailing_delimiter": True, "header": False, "names": ("id", "name")}, [(1, "a")]),
        ("a,b,c\n1,x,\n2\n\n3,y\n", {"short_rows": None}, [(1, "x", None), (2, None, None), (3, "y", None)]),
        ('a,b,c\r\n1,"x,\r\ny"\r\n2,"",3\r\n', {"short_rows": "null"}, [(1, "x,\r\ny", None), (2, "", 3)]),
        ('a,b,c\n1,5" x\n2,"y",3\n', {"short_rows": "null"}, [(1, '5" x', None), (2, "y", 3)]),
        ("a,b,c\r1\r2,y\r", {"short_rows": "null"}, [(1, None, None), (2, "y", None)]),
        ("a,b,c\n1\n2,,\\N\n", {"short_rows": "null", "null_values": ()}, [(1, None, None), (2, "", "\\N")]),
        ("a,b,c,\n1,x,y,\n2\n", {"short_rows": "null", "trailing_delimiter": True}, [(1, "x", "y"), (2, None, None)]),
    ],
)  # fmt: skip
def test_what_a_file_is_made_of(
    tmp_path: Path, text: str, options: dict[str, Any], rows: list[tuple[Any, ...]]
) -> None:
    """Lines that are not rows are left out, blanks and a last delimiter are not values, and missing values are NULL."""
    assert read(tmp_path, text, **options) == rows


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("# exported\n# source: x\nid,name\n1,a\n", {},
         "row 2 has 2 values, the file has 1 column, as in line 1: '# exported'"),
        ("# exported\n# source: x\nid,name\n1,a\n", {}, "set options.skip_lines or options.comment"),
        ("\n\nid\n1,a\n", {}, "as in line 3: 'id'"),
        ("v\n1.1.2024\n", {"timestamp_format": "%d.%m.%Y", "columns": {"v": "timestamptz"}},
         "row 1, column 'v' has an invalid timestamp[us, tz=UTC]"),
        ("v\n1.1.2024 1:00Z\n", {"timestamp_format": "%d.%m.%Y %H:%M%z", "columns": {"v": "timestamp"}},
         "row 1, column 'v' has an invalid timestamp[us]"),
        ("a\nb\n", {"skip_lines": 3}, "it has 2 lines, but options.skip_lines is 3"),
        ("a\nb\n", {"skip_lines": 2}, "the file has neither a header nor a row"),
        ("# a\n# b\n", {"comment": "#"}, "the file has neither a header nor a row"),
        ('id,n\n1,"a\n# b\n', {"comment": "#"},
         "row 1, column 'n' has a quote that is never closed"),
        ('id,n\n1,a\n# x\n\n2,"a"b\n', {"comment": "#"},
         "row 2, column 'n' has text after a closing"),
        ("sep=;\nid,name\n1,a\n", {"delimiter": ","}, "its first line says sep=;, but options.delimiter is ','"),
        ('id,n\n1, "a" b\n', {"trim": True}, "row 1, column 'n' has text after a closing quote"),
        ('id,n\n1,"a" \n', {}, "row 1, column 'n' has text after a closing quote"),
        ("id,n\n1,a,\n2,b,x\n", {"trailing_delimiter": True},
         "row 2 has a value after its last delimiter"),
        ("id,n\n1,a,\n2,b,NA\n", {"trailing_delimiter": True, "null_values": ("NA",)},
         "row 2 has a value after its last delimiter"),
        ("id,n\n1,a,\n2,b\n", {"trailing_delimiter": True},
         "row 2 has 1 delimiter, options.trailing_delimiter needs 2"),
        ("id,n\n1,a,\n", {}, "or options.trailing_delimiter: true if a delimiter ends each row"),
        ("n,v\n1,a,b\n", {}, "or options.names if the header lacks one"),
        ("id,n\n1,a\n2\n", {}, "row 2 has 1 value, the file has 2 columns"),
        ("id,n\n1,a\n2\n", {}, "or options.short_rows: null if missing values mean NULL"),
        ("id,n\n1\n2,b,c\n", {"short_rows": "null"},
         "row 2 has 3 values, the file has 2 columns"),
    ],
)  # fmt: skip
def test_a_file_that_is_made_otherwise_stops_the_run(
    tmp_path: Path, text: str, options: dict[str, Any], said: str
) -> None:
    """Row and column are named, and the option that would help."""
    assert said in failure(tmp_path, text, **options)


GERMAN = {"delimiter": ";", "decimal": ",", "thousands": "."}


@pytest.mark.parametrize(
    ("text", "options", "values"),
    [
        ("1,5\n-0,25\n2\n", {"decimal": ",", "delimiter": ";"}, [1.5, -0.25, 2.0]),
        ("1.234,5\n-12\n1.234.567,25\n", GERMAN, [1234.5, -12.0, 1234567.25]),
        ("1.234\n\n12\n", GERMAN, [1234, None, 12]),
        ('"1,234"\n 7\n', {"thousands": ","}, [1234, 7]),
        ("1 234\n7\n", {"thousands": " "}, [1234, 7]),
        ("1\u00a0234\n7\n", {"thousands": "\u00a0"}, [1234, 7]),
        ("1'234.5\n", {"thousands": "'"}, [1234.5]),
        ("1.234,50\n0,1\n", {**GERMAN, "columns": {"v": "decimal(10,2)"}}, [Decimal("1234.50"), Decimal("0.10")]),
        ("+1.234\n007\n", {**GERMAN, "columns": {"v": "int64"}}, [1234, 7]),
        ("1,5\n", {"decimal": ",", "columns": {"v": "decimal(4,1)"}, "delimiter": ";"}, [Decimal("1.5")]),
        ('"1.234,5"\n""\n', GERMAN, [1234.5, None]),
        ('""\n"1,5"\n', {"decimal": ",", "delimiter": ";"}, [None, 1.5]),
        ('""\n"31.12.2024"\n', {"date_format": "%d.%m.%Y"}, [None, D(2024, 12, 31)]),
        ('""\n"x"\n', GERMAN, ["", "x"]),
        ('""\n"1,5"\n', {**GERMAN, "null_values": ("NA",)}, ["", "1,5"]),
        # Another notation, or a code, is text.
        ("1.5\n2\n", {"decimal": ",", "delimiter": ";"}, ["1.5", "2"]),
        ("12,34\n", {"thousands": ",", "delimiter": ";"}, ["12,34"]),
        ("1.23.456\n", GERMAN, ["1.23.456"]),
        ("007\n1.234\n", GERMAN, ["007", "1.234"]),
        ("0.123\n1.234\n", GERMAN, ["0.123", "1.234"]),
        ("9.007.199.254.740.993,55\n", GERMAN, ["9.007.199.254.740.993,55"]),
        ("31.12.2024\n\n1.2.1999\n", {"date_format": "%d.%m.%Y"}, [D(2024, 12, 31), None, D(1999, 2, 1)]),
        ("20241231\n", {"date_format": "%Y%m%d"}, [D(2024, 12, 31)]),
        ("20241399\n", {"date_format": "%Y%m%d"}, [20241399]),
        ("2024111\n", {"date_format": "%Y%m%d"}, [2024111]),
        ("12/31/24\n01/01/69\n", {"date_format": "%m/%d/%y"}, [D(2024, 12, 31), D(1969, 1, 1)]),
        ("5-Mar-2024\n", {"date_format": "%d-%b-%Y"}, [D(2024, 3, 5)]),
        ("December 5, 2024\n", {"date_format": "%B %d, %Y", "delimiter": ";"}, [D(2024, 12, 5)]),
        ("29.02.2024\n30.02.2024\n", {"date_format": "%d.%m.%Y"}, ["29.02.2024", "30.02.2024"]),
        ("2024-12-31\n", {"date_format": "%d.%m.%Y"}, ["2024-12-31"]),
        ("2024-12-31\n", {"timestamp_format": "%d.%m.%Y"}, [D(2024, 12, 31)]),
        ("31.12.2024 23:59\n", {"timestamp_format": "%d.%m.%Y %H:%M"}, [T(2024, 12, 31, 23, 59)]),
        ("31.12.2024\n", {"timestamp_format": "%d.%m.%Y"}, [T(2024, 12, 31)]),
        ("12/31/2024 12:05:09.25 am\n", {"timestamp_format": "%m/%d/%Y %I:%M:%S.%f %p"},
         [T(2024, 12, 31, 0, 5, 9, 250000)]),
        ("12/31/2024 12 PM\n12/31/2024 1 pm\n", {"timestamp_format": "%m/%d/%Y %I %p"},
         [T(2024, 12, 31, 12), T(2024, 12, 31, 13)]),
        ("31/Dec/2024:23:59:00 +0130\n", {"timestamp_format": "%d/%b/%Y:%H:%M:%S %z"},
         [T(2024, 12, 31, 22, 29, tzinfo=dt.UTC)]),
        ("31/Dec/2024:23:59:00 Z\n", {"timestamp_format": "%d/%b/%Y:%T %z", "columns": {"v": "timestamptz"}},
         [T(2024, 12, 31, 23, 59, tzinfo=dt.UTC)]),
        ("1.1.2024 1:02\n2.1.2024\n",
         {"date_format": "%d.%m.%Y", "timestamp_format": "%d.%m.%Y %H:%M", "columns": {"v": "timestamp"}},
         [T(2024, 1, 1, 1, 2), T(2024, 1, 2)]),
        ("9999-12-31 00:00\n", {"timestamp_format": "%F %R"}, [T(9999, 12, 31)]),
        ("J\nN\n\n", {"true_values": ("J",), "false_values": ("N",)}, [True, False, None]),
        ("yes\n0\n", {"true_values": ("yes",)}, [True, False]),
        ("true\nfalse\n", {"true_values": ("J",), "false_values": ("N",)}, ["true", "false"]),
        ("J\nN\n", {}, ["J", "N"]),
        ('"NA"\nNA\n7\n', {"null_values": ("NA",), "columns": {"v": "string"}}, ["NA", None, "7"]),
        ('"NA"\nNA\n7\n', {"null_values": ("NA",), "columns": {"v": "string"}, "quoted_nulls": True},
         [None, None, "7"]),
        ("0\n7\n", {"null_values": ("0",)}, [None, 7]),
    ],
)  # fmt: skip
def test_how_values_are_written(tmp_path: Path, text: str, options: dict[str, Any], values: list[Any]) -> None:
    """A column whose values are all written as the options say is read so; any other stays text."""
    columns = {"k": "int64", **options.pop("columns", {})}
    delimiter = options.get("delimiter", ",")
    lines = "".join(f"{line}{delimiter}1\n" for line in text.split("\n")[:-1])
    assert read(tmp_path, f"v{delimiter}k\n" + lines, columns=columns, **options) == [(value, 1) for value in values]


@pytest.mark.parametrize(
    ("good", "bad", "options", "said"),
    [
        ("1,5", "1.5", {"decimal": ","}, "has an invalid double; fix"),
        ("1,5", "0,123456789012345678", {"decimal": ","}, "has a number that double cannot hold exactly"),
        ("1.234", "12.34", GERMAN, "has an invalid int64"),
        ("1.234", "1,5", GERMAN, "has an invalid int64"),
        ("1.234", "0.123", {**GERMAN, "columns": {"v": "int64"}}, "has an invalid int64"),
        ("1.234", "000.123", {**GERMAN, "columns": {"v": "double"}}, "has an invalid double"),
        ("1.1.2024 1:02", "31.2.2024",
         {"date_format": "%d.%m.%Y", "timestamp_format": "%d.%m.%Y %H:%M"}, "has an invalid timestamp[us]"),
        ("1.1.2024 1:02 +0100", "1.1.2024",
         {"date_format": "%d.%m.%Y", "timestamp_format": "%d.%m.%Y %H:%M %z"}, "timestamp[us, tz=UTC]"),
        ("1.234", "007", GERMAN, "has a number that int64 cannot hold exactly"),
        ("1.234", "9.223.372.036.854.775.808", GERMAN, "has an invalid int64"),
        ("1.234,5", "9.007.199.254.740.993,0", GERMAN, "has a number that double cannot hold exactly"),
        ("31.12.2024", "2024-12-31", {"date_format": "%d.%m.%Y"}, "has an invalid date32[day]"),
        ("31.12.2024", "31.02.2024", {"date_format": "%d.%m.%Y"}, "options.date_format sets the notation of dates"),
        ("31.12.2024", "31.12.24", {"date_format": "%d.%m.%Y"}, "has an invalid date32[day]"),
        ("31.12.2024", "31.12.2024 10:00", {"date_format": "%d.%m.%Y"}, "has an invalid date32[day]"),
        ("1.1.2024 1:02", "1.1.2024 24:00", {"timestamp_format": "%d.%m.%Y %H:%M"}, "options.timestamp_format sets"),
        ("1.1.2024 1 am", "1.1.2024 13 am", {"timestamp_format": "%d.%m.%Y %I %p"}, "has an invalid timestamp[us]"),
        ("1.1.2024 1:02 +0100", "1.1.2024 1:02", {"timestamp_format": "%d.%m.%Y %H:%M %z"}, "timestamp[us, tz=UTC]"),
        ("J", "j", {"true_values": ("J",), "false_values": ("N",)}, "options.true_values and options.false_values set"),
        ("1", "NA", {"null_values": ("",)}, "has an invalid int64; fix"),
    ],
)  # fmt: skip
def test_a_value_written_otherwise_after_the_sample_stops_the_run(
    tmp_path: Path, good: str, bad: str, options: dict[str, Any], said: str
) -> None:
    """It is named by row and column, with the option that says how such values are written."""
    lines = [f'"{good}";x'] * 3000
    lines[2500] = f'"{bad}";x'
    text = "\n".join(["v;k", *lines])
    found = failure(tmp_path, text, **{"delimiter": ";", "block_bytes": 4096, **options})
    assert "row 2501, column 'v'" in found
    assert said in found.replace(", column 'v' ", " ").replace("int64; ", "int64; ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"skip_lines": -1}, "skip_lines"),
        ({"comment": "##"}, "options.comment: '##'; use one ASCII character"),
        ({"comment": '"'}, "options.comment: '\"' is also the quote"),
        ({"delimiter": "'", "quote": "'"}, "options.quote: \"'\" is also the delimiter"),
        ({"decimal": "0"}, "options.decimal: '0'"),
        ({"decimal": ""}, "options.decimal: ''"),
        ({"thousands": "."}, "options.thousands: '.' is the decimal mark; set options.decimal too, as in decimal: ','"),
        ({"thousands": "12"}, "options.thousands: '12'"),
        ({"date_format": "%d.%m"}, "options.date_format: '%d.%m' needs one of %Y, %y"),
        ({"date_format": "%d.%m.%Y %H:%M"}, "has a time; use only date directives, or set options.timestamp_format"),
        ({"date_format": "dd.mm.yyyy"}, "needs one of %Y, %y; use a whole date, as in %d.%m.%Y"),
        ({"date_format": "%-d.%m.%Y"}, "has %-; remove the minus"),
        ({"date_format": "%d.%m.%Y%"}, "has %, which is not supported; use %Y %y"),
        ({"timestamp_format": "%d.%m.%Y %I:%M"}, "has %I without %p; add it"),
        ({"timestamp_format": "%d.%m.%Y %H %I %p"}, "has both %H and %I"),
        ({"timestamp_format": "%d.%m.%Y %d"}, "has %d twice"),
        ({"timestamp_format": "%s"}, "has %s, which is not supported"),
        ({"true_values": ("x",), "false_values": ("x", "y")}, "options.false_values: 'x' is also in true_values"),
        ({"true_values": ("0",)}, "options.false_values: '0' is also in true_values"),
        ({"null_values": ("-",), "false_values": ("-",)}, "options.false_values: '-' is also in null_values"),
        ({"trim": True, "delimiter": " "}, "options.trim: the delimiter is a blank"),
        ({"format": "parquet", "block_bytes": 5000}, "options.block_bytes: the option is for CSV"),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    """By name, before any file is read."""
    with pytest.raises((ConfigError, ValueError)) as raised:
        FileSourceOptions(**options)
    assert said in str(raised.value)


GIVEN: dict[str, Any] = {
    "delimiter": ";", "quote": "'", "escape": "\\", "header": False, "names": ("a",), "skip_lines": 1, "comment": "#",
    "trim": True, "short_rows": None, "trailing_delimiter": True, "null_values": ("NA",), "quoted_nulls": True,
    "decimal": ",", "thousands": " ", "date_format": "%F", "timestamp_format": "%F %T", "true_values": ("J",),
    "false_values": ("N",), "infer": "full", "newlines_in_values": False, "encoding": "latin-1", "block_bytes": 5000,
}  # fmt: skip


@pytest.mark.parametrize("option", GIVEN)
def test_an_option_of_another_format_is_refused_by_name(tmp_path: Path, option: str) -> None:
    """No option is passed over in silence: JSON Lines, Parquet and change logs name those that they do not take."""
    given = {option: GIVEN[option], **({"names": ("a",)} if option == "header" else {})}
    assert FileSourceOptions(format="csv", **given)
    taken = {"jsonl": ("encoding", "block_bytes"), "parquet": ()}
    for format, its in taken.items():
        if option in its:
            FileSourceOptions(format=format, **given)
            continue
        with pytest.raises(ConfigError, match=rf"options\.{option}: the option is for .*, not for "):
            FileSourceOptions(format=format, **given)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    if option not in taken["jsonl"]:
        with pytest.raises(ConfigError, match=rf"options\.{option}: the option is for .*, not for JSON Lines"):
            loaded(tmp_path, "a.jsonl", **given)


def test_a_file_with_a_preamble_is_read_in_pieces(tmp_path: Path) -> None:
    """No piece begins within the lines before the data, however long they are."""
    preamble = "# long line, of a preamble\n" * 600 + "\n\nid,t\n"
    rows = [(i, f"x{i}") for i in range(700)]
    (tmp_path / "a.csv").write_text(preamble + "".join(f"{i},{t}\n" for i, t in rows))
    for options in ({"comment": "#"}, {"skip_lines": 600}, {"skip_lines": 601}):
        found = loaded(tmp_path, "a.csv", partitions=8, block_bytes=4096, **options)
        assert sorted(found) == rows


def test_blocks_of_any_size_have_the_same_rows_with_every_option(tmp_path: Path) -> None:
    """Comments, blanks and short rows lie across the ends of blocks in every way."""
    chance = random.Random(7)
    cells = ["", "x", '"a, b"', '"l\n# m"', "é" * 40, ' "" ', "  y z ", "#k", '"q""r"', "z" * 300]
    values = [None, "x", "a, b", "l\n# m", "é" * 40, "", "y z", "#k", 'q"r', "z" * 300]
    lines, wanted = ["a,b,c"], []
    for i in range(3000):
        row = [chance.randrange(len(cells)) for _ in range(chance.randint(1, 2))]
        if chance.random() < 0.2:
            lines.append(chance.choice(['# "', "#", "# a,b,c,d", "#" * 50]))
        lines.append(",".join([f" {i} ", *(cells[n] for n in row)]))
        wanted.append((i, *(values[n] for n in row), *[None] * (2 - len(row))))
    text = "\n".join(lines)
    for block in (4096, 4099, 5000, 8191, 1 << 17, 1 << 19):
        found = read(tmp_path, text, block_bytes=block, comment="#", trim=True, short_rows=None)
        assert found == wanted


@pytest.mark.parametrize(
    ("text", "there", "options", "type_"),
    [
        ("31.12.2024", pa.date32(), {"date_format": "%d.%m.%Y"}, pa.date32()),
        ("2024-12-31", pa.date32(), {"date_format": "%d.%m.%Y"}, pa.string()),
        ("31.12.2024", pa.date32(), {}, pa.string()),
        ("31.12.2024", pa.timestamp("us"), {"timestamp_format": "%d.%m.%Y"}, pa.timestamp("us")),
        ("31.12.2024", pa.timestamp("us", "UTC"), {"timestamp_format": "%d.%m.%Y"}, pa.timestamp("us")),
        ("1.234,5", pa.decimal128(9, 2), GERMAN, pa.decimal128(9, 2)),
        ("1.234", pa.int32(), GERMAN, pa.int32()),
        ("1.234", pa.decimal128(9, 2), GERMAN, pa.decimal128(9, 2)),
        ("1.234.567", pa.decimal128(6, 0), GERMAN, pa.int64()),
        ("12.34", pa.decimal128(9, 2), GERMAN, pa.string()),
        ("1,5", pa.decimal128(9, 2), {"decimal": ","}, pa.decimal128(9, 2)),
        ("1.5", pa.decimal128(9, 2), {"decimal": ","}, pa.string()),
        ("J", pa.bool_(), {"true_values": ("J",)}, pa.bool_()),
    ],
)
def test_a_target_decides_the_type_only_where_the_notation_fits(
    tmp_path: Path, text: str, there: pa.DataType, options: dict[str, Any], type_: pa.DataType
) -> None:
    """A column of the target is read as it is there if the values are written as the options say, else as they are."""
    (tmp_path / "a.csv").write_text(f"v;k\n{text};1\n")
    given = FileSourceOptions(**{"delimiter": ";", **options})
    source = FileSource(SourceSpec("file", path="a.csv", options=given, base=tmp_path))
    window = source.window(None, WindowRequest(whole=True, expected=pa.schema([("v", there)])))
    assert window.schema.field("v").type == type_
    with source.read(window.parts[0]) as stream:
        assert [batch.schema for batch in stream.batches()] == [window.schema]


def test_a_comment_with_a_quote_costs_no_more_than_the_block(tmp_path: Path) -> None:
    """A block in which quotes do not close within comments is read row by row, not refused."""
    text = "a,b\n" + "".join(f"# it's \"\n{i},x\n" for i in range(2000))
    assert read(tmp_path, text, comment="#", quote="'") == [(i, "x") for i in range(2000)]


def test_DataError_shows_no_value(tmp_path: Path) -> None:
    """Options that convert texts do not print them when they fail."""
    for options in (GERMAN, {"date_format": "%d.%m.%Y", "columns": {"a": "date"}, "delimiter": ";"}):
        with pytest.raises(DataError) as raised:
            read(tmp_path, "a;b\nsecret;1\n", **{"columns": {"a": "int64"}, **options})
        assert "secret" not in str(raised.value)


def test_a_pipeline_file_names_every_option(tmp_path: Path) -> None:
    """YAML's ``null`` is the word ``null``; the JSON Schema and docs/connectors/files.md know each option."""
    given = {
        **GIVEN,
        "short_rows": None,
        "names": ["a"],
        "null_values": ["NA"],
        "true_values": "J",
        "false_values": ["N"],
    }
    file = {
        "pipeline": "p",
        "source": {"type": "file", "path": "a.csv", "options": given},
        "sink": {"type": "file", "path": "out", "strategy": {"mode": "append"}},
    }
    (tmp_path / "p.yaml").write_text(json.dumps(file))
    options = load_pipeline(tmp_path / "p.yaml").streams[0].source.options
    assert options == FileSourceOptions(**GIVEN)
    assert Draft202012Validator(pipeline_schema(discover())).is_valid(file)
    table = (Path(__file__).parents[2] / "docs" / "connectors" / "files.md").read_text()
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {one.name for one in fields(FileSourceOptions)} - {"incremental"} <= set(
        re.findall(r"`(\w+)`", "".join(rows))
    )


def test_a_misspelt_option_is_answered_with_its_name(tmp_path: Path) -> None:
    """The nearest option is named, and nothing is read."""
    for wrong, right in {"skip_line": "skip_lines", "comments": "comment", "thousand": "thousands"}.items():
        text = f"pipeline: p\nsource: {{type: file, path: a.csv, options: {{{wrong}: x}}}}\n"
        (tmp_path / "p.yaml").write_text(text + "sink: {type: file, path: out, strategy: {mode: append}}\n")
        with pytest.raises(PipelineErrors, match=f"did you mean {right}"):
            load_pipeline(tmp_path / "p.yaml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_the_top_of_a_file_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    """The line that names the delimiter, comments and separators of thousands are characters, not bytes."""
    text = "sep=;\n# é\nid;été\n1;1\u00a0234,5\n2;é\n".encode(encoding)
    rows = read(tmp_path, text, encoding=encoding, comment="#", columns={"été": "string"})
    assert rows == [(1, "1\u00a0234,5"), (2, "é")]
    numbers = "sep=;\nid;été\n1;1\u00a0234,5\n".encode(encoding)
    assert read(tmp_path, numbers, encoding=encoding, thousands="\u00a0", decimal=",") == [(1, 1234.5)]
