"""CSV: every value is the one that was written, or the run stops with row and column."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.errors import ConfigError, DataError
from dpone.model.pipeline import SourceSpec


def read(base: Path, content: bytes | str, path: str = "a.csv", **options: Any) -> list[tuple[Any, ...]]:
    (base / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return loaded(base, path, **options)


def loaded(base: Path, path: str, partitions: int = 1, **options: Any) -> list[tuple[Any, ...]]:
    """The rows as tuples, in the order of the parts."""
    source = FileSource(SourceSpec("file", path=path, options=FileSourceOptions(**options), base=base))
    window = source.window(None, WindowRequest(whole=True, partitions=partitions))
    rows: list[tuple[Any, ...]] = []
    for part in window.parts:
        with source.read(part) as stream:
            for batch in stream.batches():
                assert batch.schema.equals(window.schema)
                rows += [tuple(row.values()) for row in batch.to_pylist()]
    return rows


def failure(base: Path, content: bytes | str, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        read(base, content, **options)
    assert raised.value.__cause__ is None
    return str(raised.value)


# what stands around quotes

AFTER = "has text after a closing quote"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('a,b\n1,"{\\"k\\":\\"v\\"}"\n', "data row 1, column 'b'"),
        ('a,b\n1,"say \\"hi\\" now"\n', "data row 1, column 'b'"),
        ('a,b\n1,2\n3,"x" \n', "data row 2, column 'b'"),
        ('a,b\n"x"y,2\n', "data row 1, column 'a'"),
        ('a,b\n1,2\n\n\n3,"a""b"c\n', "data row 2, column 'b'"),
        ('a,b\n1,""x\n', "data row 1, column 'b'"),
        ('"a"x,b\n1,2\n', "the header, column 1,"),
    ],
)
def test_text_after_a_closing_quote_stops_the_run(tmp_path: Path, text: str, place: str) -> None:
    """What follows a closing quote is a delimiter or the end of the row; anything else is named by row and column."""
    said = failure(tmp_path, text)
    assert f"a.csv: {place} {AFTER}" in said
    assert "options.escape" in said


def test_text_after_a_closing_quote_is_found_in_any_block(tmp_path: Path) -> None:
    """Rows are counted over all blocks, and a value that lies across two is looked at as a whole."""
    rows = [f'{i},"a ""{i}"", b"\n' for i in range(5000)]
    good = "id,t\n" + "".join(rows)
    assert read(tmp_path, good, block_bytes=4096) == [(i, f'a "{i}", b') for i in range(5000)]
    rows[3456] = '3456,"a"b\n'
    said = failure(tmp_path, "id,t\n" + "".join(rows), block_bytes=4096)
    assert f"row 3457, column 't' {AFTER}" in said


def test_a_file_that_escapes_its_quotes_is_read_with_the_option(tmp_path: Path) -> None:
    """The advice of the error works: with ``escape`` each value is what was written."""
    text = 'id,txt,n\n1,"{\\"k\\":\\"v\\"}",2\n2,"say \\"hi\\", now",3\n3,a\\,b,4\n4,"c\\\\d",5\n5,"x\\\ny",6\n'
    assert read(tmp_path, text, escape="\\") == [
        (1, '{"k":"v"}', 2), (2, 'say "hi", now', 3), (3, "a,b", 4), (4, "c\\d", 5), (5, "x\ny", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["\\N", '"C:\\temp"', "a\\nb", '"x\\ty"'])
def test_an_escape_before_a_plain_character_stops_the_run(tmp_path: Path, value: str) -> None:
    """Writers mean different things by it: a line end, NULL, a backslash. None of them is guessed."""
    said = failure(tmp_path, f"a,b\n1,z\n2,{value}\n", escape="\\")
    assert "row 2, column 'b' has an escape before a character that must not be escaped" in said


@pytest.mark.parametrize("end", ['"x\\', "x\\", '"x\\"', "x\\\n", "x\\\r", "\\\r\n"])
def test_a_file_that_ends_within_an_escape_is_refused(tmp_path: Path, end: str) -> None:
    """The last row is never read as less, or as more, than it was."""
    assert "row 1" in failure(tmp_path, "a,b\n1," + end, escape="\\")


@pytest.mark.parametrize("escape", ['"', ";", "ab", "\n"])
def test_an_escape_is_one_character_of_its_own(escape: str) -> None:
    """The quote and the delimiter cannot be the escape too."""
    with pytest.raises(ConfigError, match=r"options\.escape"):
        FileSourceOptions(escape=escape, delimiter=";")


def test_a_quote_inside_an_unquoted_value_is_part_of_it(tmp_path: Path) -> None:
    """Inches and apostrophes stand in unquoted values as they are, beside quoted ones."""
    rows = read(tmp_path, 'a,b\n5" pipe,"x, y"\na"b"c,"3"" z"\n "s",2\n')
    assert rows == [('5" pipe', "x, y"), ('a"b"c', '3" z'), (' "s"', "2")]


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    """It stops at the row in which it opens, whatever stands after it."""
    assert "row 2, column 'a' has a quote that is never closed" in failure(tmp_path, 'a,b\n1,"x"\n"3,4\n5,6\n7,8\n')


def test_an_open_quote_is_looked_for_within_a_block(tmp_path: Path) -> None:
    """A quote that stays open is found after ``block_bytes``, not at the end of a large file."""
    assert "or a quote is never closed" in failure(tmp_path, 'a,b\n1,"x\n' + "1,2\n" * 9999, block_bytes=4096)


# line ends


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("block", [4096, 1 << 19])
def test_all_line_ends_are_read(tmp_path: Path, end: str, last: bool, block: int) -> None:
    """LF, CRLF and CR each end a row; a value in quotes keeps the line ends it holds."""
    wanted = [(i, 'a\rb "c"\r\nd\ne' if i % 3 else None) for i in range(900)]
    lines = ["id,t", *(f'{i},"a\rb ""c""\r\nd\ne"' if t else f"{i}," for i, t in wanted)]
    assert read(tmp_path, end.join(lines) + end * last, block_bytes=block) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nx\ry\nz\n", "row 1 ends with CR alone, the rows before it with LF"),
        ("a,b\n1,2\n3,4\r5,6\n", "row 2 ends with CR alone, the rows before it with LF"),
        ("a,b\r\n1,x\r\n2,y\rz\r\n", "row 2 ends with CR alone, the rows before it with LF"),
        ("a\r1\r2\n3\r", "row 2 ends with LF, the rows before it with CR alone"),
        ("a\r\r\n1\r\r\n", "ends with LF, the rows before it with CR alone"),
    ],
)
def test_a_bare_CR_among_other_line_ends_stops_the_run(tmp_path: Path, text: str, said: str) -> None:
    """It may end a row or be part of a value; which of them cannot be told."""
    assert said in failure(tmp_path, text)


def test_a_CR_that_ends_a_block_is_half_of_a_line_end(tmp_path: Path) -> None:
    """CRLF that lies across two blocks is one line end."""
    wanted = [(i, "x" * (i % 7)) for i in range(1, 4000) if i % 7]
    for shift in range(8):
        text = "a" * (shift + 1) + ",b\r\n" + "".join(f"{i},{t}\r\n" for i, t in wanted)
        assert read(tmp_path, text, block_bytes=4096) == wanted


# numbers that are more than a number

CODES = ["007", "-007", "+49", "0x1F", "1E5", "2e3", "12E4", " 007", "00", '"007"']
LOSSY = ["9007199254740993", "0.1234567890123456789", "1e999", "1e-999", "123456789.123456789123", "1e400", "9" * 400]
EXACT = ["1.5e-7", "1e+16", "1.0E5", "1e-05", "0.12345678901234567", "-0.00012345678901234567", "0", "-0", "0.000000",
         " 7", "1.7976931348623157e308", "12345678901234567.0e-1"]  # fmt: skip


@pytest.mark.parametrize("code", CODES)
def test_a_code_makes_its_column_text(tmp_path: Path, code: str) -> None:
    """Leading zeros, a plus sign, a hexadecimal number and digits-E-digits are kept as they stand, unless declared."""
    assert read(tmp_path, f"a,b\n{code},x\n1,y\n") == [(code.strip('"'), "x"), ("1", "y")]


def test_a_declaration_reads_a_code_as_a_number(tmp_path: Path) -> None:
    """What is declared is read as declared, in every block."""
    columns = {"a": "int64", "b": "double"}
    rows = read(tmp_path, "a,b\n" + "1,1.5\n" * 3000 + "007,1E5\n", columns=columns, block_bytes=4096)
    assert rows[-1] == (7, 100000.0)


@pytest.mark.parametrize("first", ["1", "1.5"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("text", [*CODES, *LOSSY])
def test_a_number_that_would_change_after_the_sample_stops_the_run(
    tmp_path: Path, first: str, end: str, place: int, text: str
) -> None:
    """Beyond the first block too, no digit is dropped: the run stops and names row and column."""
    if first == "1" and text == LOSSY[0]:
        text = "9223372036854775808"  # one that an int64 cannot hold
    row = ["x", "y", "z"]
    row[place] = first
    lines = [",".join(row)] * 3000
    row[place] = text
    lines[2500] = ",".join(row)
    said = failure(tmp_path, end.join(["a,b,c", *lines]), block_bytes=4096)
    assert f"row 2501, column {'abc'[place]!r} has" in said
    assert f"columns: {{{'abc'[place]}: string}}" in said


@pytest.mark.parametrize("text", EXACT)
def test_a_number_that_keeps_its_digits_is_read_after_the_sample(tmp_path: Path, text: str) -> None:
    """What a double holds, however a program writes it, does not stop the run."""
    rows = read(tmp_path, "a,b\n" + "1.5,x\n" * 3000 + f"{text},y\n", block_bytes=4096)
    assert rows[-1] == (float(text), "y")


def test_text_that_looks_like_such_numbers_stops_nothing(tmp_path: Path) -> None:
    """Codes, times and long digits in columns of text, dates and times are what they are, quoted or with delimiters."""
    wanted = [(i, f"{i:07}", f"+{i}, 1E5", 0.5) for i in range(3000)]
    text = "a,b,c,d\n" + "".join(f'{i},{b},"{c}",{d}\n\n' for i, b, c, d in wanted)
    assert read(tmp_path, text, block_bytes=4096) == wanted


def test_the_advice_for_a_late_code_works(tmp_path: Path) -> None:
    """Declaring the column, and looking at the whole file, each keep every digit."""
    text = "a\n" + "1\n" * 3000 + "007\n"
    for options in ({"columns": {"a": "string"}}, {"infer": "full"}):
        assert read(tmp_path, text, block_bytes=4096, **options)[-1] == ("007",)


def test_a_late_code_is_found_in_every_piece(tmp_path: Path) -> None:
    """A file read in pieces is looked at in each of them."""
    (tmp_path / "a.csv").write_text("a,b\n" + "1,x\n" * 5000 + "007,x\n" + "1,x\n" * 5000)
    with pytest.raises(DataError, match="column 'a' has a number that int64 cannot hold exactly"):
        loaded(tmp_path, "a.csv", partitions=4, block_bytes=4096)


# another delimiter than the file's


@pytest.mark.parametrize(
    ("name", "text", "delimiter", "rows"),
    [
        ("d.csv", "sku;price\nA1;12.50\nB2;1234.00\n", ";", [("A1", 12.5), ("B2", 1234.0)]),
        ("d.csv", "a\tb\n1\t2\n", "\t", [(1, 2)]),
        ("d.csv", "a|b\n1|2\n", "|", [(1, 2)]),
        ("d.tsv", "a,b\n1,2\n", ",", [(1, 2)]),
    ],
)
def test_a_header_of_one_column_that_holds_a_delimiter_stops_the_run(
    tmp_path: Path, name: str, text: str, delimiter: str, rows: list[tuple[Any, ...]]
) -> None:
    """The message names the option, and with it the file is read."""
    with pytest.raises(DataError, match=r"the header is one column, .*options\.delimiter") as raised:
        read(tmp_path, text, name)
    assert f"delimiter: {json.dumps(delimiter)};" in str(raised.value)
    assert read(tmp_path, text, name, delimiter=delimiter) == rows


def test_a_file_of_one_column_is_read_with_its_delimiter_given(tmp_path: Path) -> None:
    """One column whose name holds a semicolon is what the options say."""
    assert read(tmp_path, "a;b\n1;2\n", delimiter=",") == [("1;2",)]
    assert read(tmp_path, "a;b\n1;2\n", names=("x",)) == [("1;2",)]
    assert read(tmp_path, "a\n1;2\n") == [("1;2",)]


@pytest.mark.parametrize(
    ("texts", "bad"),
    [
        ({"a.csv": "id,t\n1,5\n", "b.csv": "x,y\n2,6\n"}, "b.csv"),
        ({"a.csv": "x,y\n1,5\n", "b.csv": "id,t\n2,6\n", "c.csv": "id,t\n2,6\n"}, "a.csv"),
        ({"a.jsonl": '{"id": 1}\n', "b.jsonl": '{"x": 1}\n'}, "b.jsonl"),
    ],
)
def test_a_file_without_a_column_of_the_others_stops_the_run(tmp_path: Path, texts: dict[str, str], bad: str) -> None:
    """A file that shares no column with any other of the window is named, and nothing is loaded as NULL."""
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"read {bad}: none of its columns \("):
        loaded(tmp_path, "*")


def test_files_with_other_delimiters_in_one_folder_stop_the_run(tmp_path: Path) -> None:
    """A folder in which one file has semicolons is not two tables in one: the file is named."""
    (tmp_path / "a.csv").write_text("id,t\n1,5\n")
    (tmp_path / "b.csv").write_text("id;t\n2;6\n")
    with pytest.raises(DataError, match=r"read b\.csv: .*options\.delimiter"):
        loaded(tmp_path, "*.csv")
    (tmp_path / "b.csv").unlink()
    assert loaded(tmp_path, "*.csv") == [(1, 5)]


def test_files_that_share_a_column_are_one_table(tmp_path: Path) -> None:
    """Columns may differ as long as each file has one of another's."""
    for name, text in {"a.csv": "id,t\n1,5\n", "b.csv": "id,u\n2,6\n", "c.csv": "u,v\n3,4\n"}.items():
        (tmp_path / name).write_text(text)
    assert loaded(tmp_path, "*.csv") == [(1, 5, None, None), (2, None, 6, None), (None, None, 3, 4)]


# files that quote everything

ALL_QUOTED = '"id","qty","when","t"\n"1","5","2024-01-01","x"\n"2","","",""\n'


@pytest.mark.parametrize("options", [{}, {"columns": {"qty": "int64", "when": "date"}}], ids=["inferred", "declared"])
def test_a_quoted_empty_value_is_NULL_where_the_column_is_not_text(tmp_path: Path, options: dict[str, Any]) -> None:
    """No number and no date is empty, so ``""`` is NULL there; in a column of text it is the empty text."""
    rows = read(tmp_path, ALL_QUOTED, **options)
    assert rows == [(1, 5, dt.date(2024, 1, 1), "x"), (2, None, None, "")]


def test_quoted_texts_are_NULL_in_text_too_where_the_option_says_so(tmp_path: Path) -> None:
    """``quoted_nulls`` takes quoted and unquoted texts alike."""
    assert read(tmp_path, ALL_QUOTED, quoted_nulls=True)[1] == (2, None, None, None)
    rows = read(tmp_path, 'a,b\nx,"NA"\ny,NA\nz,""\n', quoted_nulls=True, null_values=("NA",))
    assert [row[1] for row in rows] == [None, None, ""]


def test_an_empty_value_is_text_where_null_values_do_not_name_it(tmp_path: Path) -> None:
    """With other words for NULL an empty value is a value, and its column is text."""
    assert read(tmp_path, 'a,b\n1,NA\n"",2\n,3\n', null_values=("NA",)) == [("1", None), ("", 2), ("", 3)]


def test_a_quoted_empty_value_after_the_sample_is_NULL(tmp_path: Path) -> None:
    """So it is in every block, also beside columns that the file lacks or that are read as json and uuid."""
    (tmp_path / "b.csv").write_text("extra,n\n1,1\n")
    (tmp_path / "a.csv").write_text("n,j,t\n" + '1,1,"a ""b"""\n' * 900 + '"","",""\n')
    rows = loaded(tmp_path, "*.csv", block_bytes=4096, columns={"j": "json"})
    assert rows[899:901] == [(1, "1", 'a "b"', None), (None, None, "", None)]


# blocks


def test_blocks_of_any_size_have_the_same_rows(tmp_path: Path) -> None:
    """Where a block ends changes nothing: quotes, line ends and long values lie across its ends in every way."""
    chance = random.Random(20)
    cells = ["", "x", '"', "a,b", "l\nm", "\r\n", "é" * 40, '""', "y" * 300]
    table = [[chance.choice(cells) for _ in range(3)] for _ in range(3000)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["a", "b", "c"], *table])
    for block in (4096, 4099, 5000, 8191, 1 << 17):
        found = read(tmp_path, text.getvalue(), block_bytes=block, null_values=("never",))
        assert found == [tuple(row) for row in table]


def test_a_quoted_word_for_NULL_is_NULL_in_any_block(tmp_path: Path) -> None:
    """Whatever else its block holds: a number written as a word for NULL is not a value, quoted or not."""
    text = "n,t\n" + "1,x\n" * 2000 + '"-999","-999"\n' + "1,x\n" * 2000
    for columns in ({"n": "int64"}, {"n": "double"}, {"n": "json"}):
        rows = read(tmp_path, text, null_values=("-999",), columns=columns, block_bytes=4096)
        assert [row for row in rows if row[1] != "x"] == [(None, "-999")]
