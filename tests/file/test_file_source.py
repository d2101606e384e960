"""The file source: windows, types, and the one clear line for every bad file."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import Part, Window, WindowRequest
from dpone.errors import ConfigError, ContentChanged, DataError, DponeError, IdentityChanged, SourceError
from dpone.formats import jsonl
from dpone.formats.jsonl import inexact, members
from dpone.model.pipeline import Incremental, SourceSpec
from dpone.model.position import Position

WHOLE = WindowRequest(whole=True, mode="full_refresh")


def source(base: Path, path: str, **options: Any) -> FileSource:
    return FileSource(SourceSpec("file", path=path, options=FileSourceOptions(**options), base=base))


def rows_of(one: FileSource, window: Window) -> list[dict[str, Any]]:
    rows = []
    for part in window.parts:
        with one.read(part) as stream:
            for batch in stream.batches():
                assert batch.schema.equals(window.schema)
                batch.validate(full=True)
                rows += batch.to_pylist()
    return rows


def read(base: Path, path: str, expected: pa.Schema | None = None, **options: Any) -> list[dict[str, Any]]:
    one = source(base, path, **options)
    return rows_of(one, one.window(None, WindowRequest(whole=True, expected=expected)))


def types(base: Path, path: str, expected: pa.Schema | None = None, **options: Any) -> dict[str, str]:
    window = source(base, path, **options).window(None, WindowRequest(whole=True, expected=expected))
    return {field.name: str(field.type) for field in window.schema}


def failure(base: Path, path: str, **options: Any) -> str:
    with pytest.raises(DponeError) as raised:
        read(base, path, **options)
    text = str(raised.value)
    assert "\n" not in text
    assert str(base) not in text
    return text


# windows and positions


def test_a_window_lists_every_match_sorted_with_size_and_digest(tmp_path: Path) -> None:
    """The position of a window holds size and SHA-256 of the raw bytes of every file, by its relative name."""
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "b.csv").write_bytes(b"a\n2\n")
    (tmp_path / "d" / "deep" / "a.csv").write_bytes(b"a\n1\n")
    window = source(tmp_path, "d/**/*.csv").window(None, WHOLE)
    files = window.position.value["files"]
    assert list(files) == ["d/b.csv", "d/deep/a.csv"]
    assert files["d/b.csv"]["size"] == 4
    assert files["d/b.csv"]["sha256"] == hashlib.sha256(b"a\n2\n").hexdigest()
    assert window.position.identity == {"path": "d/**/*.csv"}
    assert (window.position.kind, window.repeatable, window.whole, window.caught_up) == ("files", True, True, True)
    assert [part.detail["path"] for part in window.parts] == ["d/b.csv", "d/deep/a.csv"]
    assert window.parts[0].id == "00000-" + hashlib.sha256(b"a\n2\n").hexdigest()[:8]


def test_a_second_window_has_only_new_files(tmp_path: Path) -> None:
    """Files that were loaded are not read again, and those that vanished stay in the position."""
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    one = source(tmp_path, "*.csv")
    first = one.window(None, WindowRequest())
    (tmp_path / "a.csv").unlink()
    (tmp_path / "b.csv").write_bytes(b"a\n2\n")
    second = one.window(first.position, WindowRequest())
    assert rows_of(one, second) == [{"a": 2}]
    assert sorted(second.position.value["files"]) == ["a.csv", "b.csv"]


def test_nothing_new_is_no_part_and_the_same_position(tmp_path: Path) -> None:
    """With nothing new the window has no part and the position that was given, its epoch included."""
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    one = source(tmp_path, "*.csv")
    after = one.window(None, WindowRequest()).position.at_epoch(3)
    window = one.window(after, WindowRequest())
    assert (window.parts, window.position, window.whole) == ((), after, False)


def test_a_touched_file_is_nothing_new(tmp_path: Path) -> None:
    """Another time on the same bytes changes neither parts nor position, also when everything is read anew."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    one = source(tmp_path, "a.csv")
    after = one.window(None, WHOLE).position
    os.utime(path, ns=(1, 1))
    assert one.window(after, WindowRequest()).parts == ()
    assert one.window(after, WHOLE).position == after


def test_an_unchanged_file_is_not_hashed_again(tmp_path: Path) -> None:
    """A file of the recorded size and time keeps its recorded digest."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    one = source(tmp_path, "a.csv")
    after = one.window(None, WHOLE).position
    entry = {**after.value["files"]["a.csv"], "sha256": "0" * 64}
    told = Position("files", after.identity, {"files": {"a.csv": entry}})
    assert one.window(told, WHOLE).position.value["files"] == told.value["files"]


def test_LS_12_changed_content_stops_an_append(tmp_path: Path) -> None:
    """A file that was appended and now holds other bytes is a hard error that names it, never a second load."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    one = source(tmp_path, "*.csv")
    after = one.window(None, WindowRequest()).position
    path.write_bytes(b"a\n2\n3\n")
    with pytest.raises(ContentChanged, match=r"a\.csv"):
        one.window(after, WindowRequest(mode="append"))


def test_changed_content_is_read_again_by_a_merge(tmp_path: Path) -> None:
    """A merge takes the new content of a file that was loaded before."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    one = source(tmp_path, "*.csv")
    after = one.window(None, WindowRequest(mode="merge")).position
    path.write_bytes(b"a\n7\n")
    assert rows_of(one, one.window(after, WindowRequest(mode="merge"))) == [{"a": 7}]


def test_a_whole_window_forgets_files_that_are_gone(tmp_path: Path) -> None:
    """Reading everything makes the position hold exactly the files that are there."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"a\n1\n")
    one = source(tmp_path, "*.csv")
    after = one.window(None, WHOLE).position
    (tmp_path / "a.csv").unlink()
    assert list(one.window(after, WHOLE).position.value["files"]) == ["b.csv"]


def test_a_position_of_another_path_is_refused(tmp_path: Path) -> None:
    """A position that was taken of another path is never resumed."""
    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    other = Position("files", {"path": "b.csv"}, {"files": {}})
    with pytest.raises(IdentityChanged):
        source(tmp_path, "a.csv").window(other, WindowRequest())


def test_a_part_crosses_a_process(tmp_path: Path) -> None:
    """A part that went through JSON is read by a source that never planned a window."""
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,x\n")
    part = source(tmp_path, "a.csv").window(None, WHOLE).parts[0]
    copy = Part(part.id, json.loads(json.dumps(dict(part.detail))))
    with source(tmp_path, "a.csv").read(copy) as stream:
        assert [row for batch in stream.batches() for row in batch.to_pylist()] == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_file_that_changes_under_the_read_is_refused(tmp_path: Path, when: str) -> None:
    """A file replaced between listing and the last row is an error: two states are never mixed."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    one = source(tmp_path, "a.csv")
    part = one.window(None, WHOLE).parts[0]

    def replace() -> None:
        (tmp_path / "new").write_bytes(b"a\n2\n")
        (tmp_path / "new").replace(path)

    def run() -> None:
        if when == "before":
            replace()
        with one.read(part) as stream:
            batches = stream.batches()
            next(batches)
            replace()
            list(batches)

    with pytest.raises(SourceError, match=r"a\.csv: the file was changed"):
        run()


def test_batch_rows_bounds_every_batch(tmp_path: Path) -> None:
    """No batch has more rows than asked for, and none is lost by the cut."""
    (tmp_path / "a.csv").write_text("a\n" + "".join(f"{i}\n" for i in range(25)))
    one = source(tmp_path, "a.csv")
    part = one.window(None, WindowRequest(batch_rows=10)).parts[0]
    with one.read(part) as stream:
        assert [batch.num_rows for batch in stream.batches()] == [10, 10, 5]


def test_parts_of_a_file_sink_count_only_when_listed(tmp_path: Path) -> None:
    """A part that no manifest lists is not read: its load is not done."""
    from dpone.connectors.file.folder import Folder
    from dpone.formats.manifest import Manifest

    folder = Folder(tmp_path / "out", "out")
    folder.create()
    folder.write(Manifest())
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out" / f"part-{'0' * 26}-x.parquet")
    assert "no file matches" in failure(tmp_path, "out/*.parquet")


# CSV types


def test_types_of_a_csv_come_from_its_data(tmp_path: Path) -> None:
    """Integers, numbers, truth, dates and times are seen as such; seconds leave room for fractions."""
    (tmp_path / "a.csv").write_text(
        "i,d,b,day,at,zoned,s\n1,1.5,true,2024-02-29,2024-01-01 10:00:00,2024-01-01T10:00:00Z,x\n"
    )
    assert types(tmp_path, "a.csv") == {
        "i": "int64", "d": "double", "b": "bool", "day": "date32[day]", "at": "timestamp[us]",
        "zoned": "timestamp[us, tz=UTC]", "s": "string",
    }  # fmt: skip
    assert read(tmp_path, "a.csv")[0]["zoned"] == dt.datetime(2024, 1, 1, 10, tzinfo=dt.UTC)


def test_null_and_the_empty_text_stay_apart(tmp_path: Path) -> None:
    """An empty field is NULL, a quoted empty one is the empty text."""
    (tmp_path / "a.csv").write_text('a,b\nx,\ny,""\n')
    assert [row["b"] for row in read(tmp_path, "a.csv")] == [None, ""]


def test_null_values_apply_to_unquoted_text_only(tmp_path: Path) -> None:
    """A stated word for NULL counts as such unquoted, and as the word when quoted."""
    (tmp_path / "a.csv").write_text('a,b\nx,NA\ny,"NA"\n')
    assert [row["b"] for row in read(tmp_path, "a.csv", null_values=("NA",))] == [None, "NA"]


@pytest.mark.parametrize("text", ["00123", "-007.5", "99999999999999999999", "0.1234567890123456789"])
def test_numbers_that_would_lose_something_stay_text(tmp_path: Path, text: str) -> None:
    """Leading zeros, integers beyond 64 bits and more digits than a double has are kept as they stand."""
    (tmp_path / "a.csv").write_text(f"a,b\n{text},1\n")
    assert read(tmp_path, "a.csv") == [{"a": text, "b": 1}]


def test_an_integer_among_fractions_keeps_its_digits(tmp_path: Path) -> None:
    """An integer that no double holds keeps a column of fractions from becoming doubles."""
    (tmp_path / "a.csv").write_text("a\n1.5\n9007199254740993\n")
    assert [row["a"] for row in read(tmp_path, "a.csv")] == ["1.5", "9007199254740993"]


def test_integers_of_one_file_and_fractions_of_another_keep_their_digits(tmp_path: Path) -> None:
    """Two files meet in doubles only if no integer among them loses a digit by it."""
    (tmp_path / "1.csv").write_text("a,b\n9007199254740993,1\n")
    (tmp_path / "2.csv").write_text("a,b\n1.5,1.5\n")
    assert types(tmp_path, "*.csv") == {"a": "string", "b": "double"}


def test_the_sample_is_one_block_and_full_is_the_file(tmp_path: Path) -> None:
    """A text after the first block is an error by row when sampled, and a text column when all is looked at."""
    (tmp_path / "a.csv").write_text("a\n" + "1\n" * 5000 + "x\n")
    assert "row 5001, column 'a'" in failure(tmp_path, "a.csv", block_bytes=4096)
    assert read(tmp_path, "a.csv", block_bytes=4096, infer="full")[-1] == {"a": "x"}


def test_declared_columns_win(tmp_path: Path) -> None:
    """A declared type is used whatever the data look like."""
    (tmp_path / "a.csv").write_text(
        'a,m,u,j,t\n1,1.10,12345678-1234-5678-1234-567812345678,"{""k"": 1}",2024-01-01T00:00:00+02:00\n'
    )
    columns = {"a": "string", "m": "decimal(10,2)", "u": "uuid", "j": "json", "t": "timestamptz"}
    assert read(tmp_path, "a.csv", columns=columns) == [
        {
            "a": "1",
            "m": Decimal("1.10"),
            "u": UUID("12345678-1234-5678-1234-567812345678"),
            "j": '{"k": 1}',
            "t": dt.datetime(2023, 12, 31, 22, tzinfo=dt.UTC),
        }
    ]


def test_a_declared_column_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt declared column is one line that says which was meant."""
    (tmp_path / "a.csv").write_text("amount,b\n1,2\n")
    assert "did you mean 'amount'" in failure(tmp_path, "a.csv", columns={"amuont": "int64"})
    assert "did you mean 'amount'" in failure(tmp_path, "a.csv", columns={"AMOUNT": "int64"})


def test_an_unknown_type_names_the_nearest() -> None:
    """A type that does not exist is refused with the options."""
    with pytest.raises(ConfigError, match="timestamp"):
        FileSourceOptions(columns={"a": "timestmp"})


def test_incremental_is_refused() -> None:
    """Files have no cursor; each is read once without one."""
    with pytest.raises(ConfigError, match="incremental"):
        FileSourceOptions(incremental=Incremental("cursor", "id"))


def test_values_that_fit_the_target_take_its_types(tmp_path: Path) -> None:
    """Where the sample converts without loss the target's type is used, so that daily files change no schema."""
    (tmp_path / "a.csv").write_text("n,day,i,dec,zip,none,small\n5,2024-01-01,1,12,00123,,7\n")
    expected = pa.schema(
        {
            "n": pa.float64(), "day": pa.timestamp("us"), "i": pa.string(), "dec": pa.decimal128(9, 2),
            "zip": pa.string(), "none": pa.date32(), "small": pa.int32(),
        }
    )  # fmt: skip
    assert types(tmp_path, "a.csv", expected) == {field.name: str(field.type) for field in expected}


@pytest.mark.parametrize(
    ("text", "wanted", "seen"),
    [
        ("x", pa.int64(), "string"),
        ("00123", pa.int64(), "string"),
        ("300", pa.int8(), "int64"),
        ("1.5", pa.int64(), "double"),
        ("9007199254740993", pa.float64(), "int64"),
        ("0.5", pa.float32(), "double"),
        ("1.555", pa.decimal128(9, 2), "double"),
        ("2024-01-01 10:00:00", pa.date32(), "timestamp[us]"),
    ],
)
def test_values_that_do_not_fit_keep_the_type_seen(tmp_path: Path, text: str, wanted: pa.DataType, seen: str) -> None:
    """Where the target's type would lose or refuse something, schema evolution is left to decide."""
    (tmp_path / "a.csv").write_text(f"a,b\n{text},1\n")
    assert types(tmp_path, "a.csv", pa.schema({"a": wanted}))["a"] == seen


def test_all_null_is_text_or_what_the_target_has(tmp_path: Path) -> None:
    """A column without a value takes the target's type, and is text where there is none."""
    (tmp_path / "a.csv").write_text("a,b\n,1\n")
    assert types(tmp_path, "a.csv")["a"] == "string"
    assert types(tmp_path, "a.csv", pa.schema({"a": pa.bool_()}))["a"] == "bool"


def test_columns_of_many_files_are_united_by_name(tmp_path: Path) -> None:
    """Order does not matter, a missing column is NULL, and types that differ meet in the wider or in text."""
    (tmp_path / "1.csv").write_text("id,n,odd\n1,2,true\n")
    (tmp_path / "2.csv").write_text("n,id,odd,new\n1.5,2,7,x\n")
    assert read(tmp_path, "*.csv") == [
        {"id": 1, "n": 2.0, "odd": "true", "new": None},
        {"id": 2, "n": 1.5, "odd": "7", "new": "x"},
    ]


def test_a_line_break_in_a_quoted_value_is_data(tmp_path: Path) -> None:
    """Quoted line breaks survive, also where one lies across the border of two blocks."""
    value = "x" * 50 + "\n" + "y" * 50
    (tmp_path / "a.csv").write_text("a,b\n" + f'1,"{value}"\n' * 400)
    rows = read(tmp_path, "a.csv", block_bytes=4096)
    assert len(rows) == 400
    assert {row["b"] for row in rows} == {value}


def test_an_empty_line_in_a_file_of_one_column_is_null(tmp_path: Path) -> None:
    """With one column an empty line is how NULL is written; it is not skipped."""
    (tmp_path / "a.csv").write_text("a\n1\n\n2\n")
    assert read(tmp_path, "a.csv") == [{"a": 1}, {"a": None}, {"a": 2}]


@pytest.mark.parametrize("text", ["a,b\n", "a,b", "a,b\n\n"])
def test_a_header_alone_is_zero_rows(tmp_path: Path, text: str) -> None:
    """A file of a header and nothing else has columns and no row, with or without a line end."""
    (tmp_path / "a.csv").write_text(text)
    assert types(tmp_path, "a.csv") == {"a": "string", "b": "string"}
    assert read(tmp_path, "a.csv") == []


def test_names_stand_in_for_a_header(tmp_path: Path) -> None:
    """Stated names name a file without a header, and replace one that is there."""
    (tmp_path / "bare.csv").write_text("1,2\n")
    (tmp_path / "headed.csv").write_text("p,q\n1,2\n")
    assert read(tmp_path, "bare.csv", header=False, names=("x", "y")) == [{"x": 1, "y": 2}]
    assert read(tmp_path, "headed.csv", names=("x", "y")) == [{"x": 1, "y": 2}]


def test_tab_delimiter_and_compression_go_by_extension(tmp_path: Path) -> None:
    """A .tsv is cut at tabs, and .gz and .zst are unpacked."""
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n", mtime=0))
    (tmp_path / "b.csv.zst").write_bytes(pa.compress(b"a,b\n1,2\n", codec="zstd", asbytes=True))
    assert read(tmp_path, "a.tsv.gz") == read(tmp_path, "b.csv.zst") == [{"a": 1, "b": 2}]


def test_encodings_are_decoded(tmp_path: Path) -> None:
    """Latin-1 and UTF-16 are read when said, and a UTF-8 mark is not part of the first name."""
    (tmp_path / "l.csv").write_bytes("a\né\n".encode("latin-1"))
    (tmp_path / "u.csv").write_bytes("a\né\n".encode("utf-16"))
    (tmp_path / "b.csv").write_bytes("a\né\n".encode("utf-8-sig"))
    assert read(tmp_path, "l.csv", encoding="latin-1") == [{"a": "é"}]
    assert read(tmp_path, "u.csv", encoding="utf-16") == [{"a": "é"}]
    assert read(tmp_path, "b.csv") == [{"a": "é"}]


def test_lineage_columns_of_an_earlier_load_are_left_out(tmp_path: Path) -> None:
    """Where a row came from is told by the load that brings it, not by one before."""
    (tmp_path / "a.csv").write_text("a,__dpone__load_id,__dpone__loaded_at\n1,x,2024-01-01 00:00:00\n")
    assert read(tmp_path, "a.csv") == [{"a": 1}]


# bad input: one clear line each


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nope.csv", "no such file in its folder, which has 1 entry"),
        ("data/nope-*.csv", "no file matches in folder data, which has 0 entries"),
        ("gone/*.csv", "no file matches: folder gone does not exist"),
        ("data", "the path is a directory; write a glob of files, such as data/*.csv"),
    ],
)
def test_a_path_without_files(tmp_path: Path, path: str, said: str) -> None:
    """A path that gives no file says which folder was looked in and what was there."""
    (tmp_path / "data").mkdir()
    assert said in failure(tmp_path, path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a.csv: the file is empty (0 bytes)"),
        (b"\n\n", "neither a header nor a row"),
        (b"a,b\n1,2\n3\n", "row 2 has 1 value, the file has 2 columns"),
        (b"a,b\n1,2,3\n", "row 1 has 3 values, the file has 2 columns"),
        (b"a,a\n1,2\n", "two columns are named 'a'"),
        (b"id,ID\n1,2\n", "columns 'id' and 'ID' differ only by case"),
        (b"a,\n1,2\n", "column 2 of the header has no name"),
        (b"a,b\n1,\xff\xfe\n", "row 1, column 'b' is not utf-8"),
        (b"a\xff,b\n1,2\n", "byte 1 (counted from 0) is not utf-8"),
        ("a,b\n1,2\n".encode("utf-16"), "starts with the byte order mark of UTF-16"),
        (b'a,b\n1,"open\n2,x\n', "has a quote that is never closed"),
        (b'a,b\n1,"open', "has a quote that is never closed"),
    ],
)
def test_a_bad_csv(tmp_path: Path, content: bytes, said: str) -> None:
    """Every kind of broken CSV is one line that names the file and the place."""
    (tmp_path / "a.csv").write_bytes(content)
    assert said in failure(tmp_path, "a.csv")


@pytest.mark.parametrize("first", ["0,0,1", ",0,1"])
def test_names_in_place_of_a_header_that_is_data_keep_the_first_row(tmp_path: Path, first: str) -> None:
    """The advice of a header with doubled or missing names works for a file without a header, with every row."""
    (tmp_path / "a.csv").write_text(f"{first}\n5,6,7\n")
    assert "set options.names, with header: false if the first row is data" in failure(tmp_path, "a.csv")
    names = ["x", "y", "z"]
    assert len(read(tmp_path, "a.csv", names=names)) == 1
    assert [row["z"] for row in read(tmp_path, "a.csv", names=names, header=False)] == [1, 7]


@pytest.mark.parametrize("end", [b'""', b'""\n', b'"x"', b'"x""y"', b'""""', b'"a\nb"'])
def test_a_closed_quote_at_the_end_is_fine(tmp_path: Path, end: bytes) -> None:
    """Quotes that are closed by the last byte of a file are not taken for open ones."""
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,z\n1," + end)
    assert len(read(tmp_path, "a.csv")) == 2


def test_a_bad_number_far_down_is_named_by_row_and_column(tmp_path: Path) -> None:
    """A text in row 1,234,567 of a number column is named by file, row, column and type, and its value is not shown."""
    with (tmp_path / "a.csv").open("wb") as file:
        file.write(b"id,price\n" + b"1,2\n" * 1_234_566 + b"1,secret\n1,2\n")
    said = failure(tmp_path, "a.csv")
    assert "a.csv: data row 1234567, column 'price' has an invalid int64" in said
    assert "columns: {price: string}" in said
    assert "secret" not in said


def test_a_bad_value_is_named_by_its_own_column(tmp_path: Path) -> None:
    """The column named is the file's, also where another file gave the order of the columns."""
    (tmp_path / "1.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "2.csv").write_text("c,a,b\n" + "1,2,3\n" * 1000 + "1,x,3\n")
    assert "2.csv: data row 1001, column 'a'" in failure(tmp_path, "*.csv", block_bytes=4096)


def test_a_bad_row_value_is_not_in_the_chain(tmp_path: Path) -> None:
    """The driver's text quotes the value, so it is no cause of the error either."""
    (tmp_path / "a.csv").write_text("a\nsecret\n")
    with pytest.raises(DataError) as raised:
        read(tmp_path, "a.csv", columns={"a": "int64"})
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(("type_", "text"), [("json", "{"), ("uuid", "12"), ("int64", "1.5"), ("decimal(3,1)", "1.25")])
def test_a_value_that_is_not_what_was_declared(tmp_path: Path, type_: str, text: str) -> None:
    """A declared type is checked in every row, and the row is named."""
    (tmp_path / "a.csv").write_text(f"a,b\n,1\n{text},2\n")
    assert "row 2, column 'a'" in failure(tmp_path, "a.csv", columns={"a": type_})


def test_a_wrong_stated_encoding_names_the_byte(tmp_path: Path) -> None:
    """A file that is not in the stated encoding is named with the offset of the first wrong byte."""
    (tmp_path / "a.csv").write_bytes(b"a\n" + b"x\n" * 4000 + b"\xe9\n")
    assert "byte 8002 (counted from 0) is not ascii" in failure(tmp_path, "a.csv", encoding="ascii")


def test_a_row_longer_than_a_block_says_so(tmp_path: Path) -> None:
    """A row that does not fit a block asks for a larger block, and is read with one."""
    (tmp_path / "a.csv").write_text("a,b\n1," + "x" * 9000 + "\n")
    assert "options.block_bytes" in failure(tmp_path, "a.csv", block_bytes=4096)
    assert len(read(tmp_path, "a.csv", block_bytes=16384)) == 1


def test_truncated_and_damaged_archives(tmp_path: Path) -> None:
    """A compressed file that ends early is named, and so is one that is not compressed; no row of it is a result."""
    packed = gzip.compress(os.urandom(20000).hex().encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[:-500])
    (tmp_path / "b.csv.gz").write_bytes(b"plain text, not gzip")
    assert "the gzip data is truncated or damaged" in failure(tmp_path, "a.csv.gz")
    assert "b.csv.gz: the file is plain text, not gzip; rename it without .gz" in failure(tmp_path, "b.csv.gz")


def test_truncated_parquet(tmp_path: Path) -> None:
    """A Parquet file without its end, an empty one, and one with a damaged page are named."""
    table = pa.table({"a": list(range(100_000))})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-10])
    (tmp_path / "b.parquet").write_bytes(b"")
    (tmp_path / "c.parquet").write_bytes(whole[:1000] + b"\0" * 100_000 + whole[101_000:])
    assert "not a whole Parquet file" in failure(tmp_path, "a.parquet")
    assert "empty (0 bytes)" in failure(tmp_path, "b.parquet")
    assert "truncated or damaged" in failure(tmp_path, "c.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path: Path) -> None:
    """A file without the right to read is named with what to do."""
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.csv").chmod(0)
    assert "permission denied" in failure(tmp_path, "a.csv")


def test_the_refusals_of_the_system_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PermissionError becomes an error that names the file."""
    (tmp_path / "a.csv").write_text("a\n1\n")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dpone.host.durable.digest", refuse)
    assert "read a.csv: permission denied" in failure(tmp_path, "a.csv")


def test_an_unknown_extension_and_mixed_formats(tmp_path: Path) -> None:
    """A file whose name does not identify a format, and a glob over two formats, ask for options.format."""
    (tmp_path / "a.dat").write_text("a\n1\n")
    (tmp_path / "b.csv").write_text("a\n1\n")
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "a").write_text("a\n1\n")
    assert "extension '.dat' does not identify a format; set options.format" in failure(tmp_path, "a.dat")
    assert "the name has no extension; set options.format" in failure(tmp_path, "a")
    assert "the files have 2 formats (csv, jsonl)" in failure(tmp_path, "b.*")
    assert read(tmp_path, "a.dat", format="csv") == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.csv", gzip.compress(b"a\n1\n", mtime=0), "the file is compressed with gzip; rename it to d.csv.gz"),
        ("d.csv.zst", gzip.compress(b"a\n1\n", mtime=0), "the file is compressed with gzip; rename it to d.csv.gz"),
        ("d.csv.gz", b"id,t\n1,a\n", "the file is plain text, not gzip; rename it without .gz"),
        ("d.csv", b"PK\x03\x04\x14\0" + b"[Content_Types].xml", "an Excel workbook (xlsx); save the sheet as CSV"),
        ("d.xlsx", b"PK\x03\x04\x14\0" + b"[Content_Types].xml", "an Excel workbook (xlsx); save the sheet as CSV"),
        ("d.zip", b"PK\x03\x04\x14\0" + b"a.csv", "a zip archive; unpack it first"),
        ("d.csv", b"PK\x03\x04\x14\0" + b"a.csv", "a zip archive; unpack it first"),
        ("d.csv", b"\n<!DOCTYPE html>\n<html>", "an HTML page; fetch the file again"),
        ("d.jsonl", b"<html><body>", "an HTML page; fetch the file again"),
        ("d.csv", b'{"a": 1}\n', "JSON; set options.format: json"),
        ("d.csv", b"PAR1\x15\0", "a Parquet file; set options.format: parquet"),
        ("d.parquet", b"PK\x03\x04\x14\0", "a zip archive; unpack it first"),
        ("d.csv", "a,b\n1,2\n".encode("utf-16-le"), "set options.encoding: utf-16-le"),
        ("d.csv", "a,b\n1,2\n".encode("utf-16-be"), "set options.encoding: utf-16-be"),
        ("d.csv", b"SQLite format 3\0", "read it with source type sqlite"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """The first bytes tell what a file is, whatever its name says, and the message says what to do."""
    (tmp_path / name).write_bytes(content)
    assert said in failure(tmp_path, name)


def test_a_header_that_begins_as_another_kind_is_a_header(tmp_path: Path) -> None:
    """Letters that begin a kind of file are letters in text, and a file named .json of objects is read."""
    (tmp_path / "a.csv").write_text("ORC,BZh\n1,2\n")
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert read(tmp_path, "a.csv") == [{"ORC": 1, "BZh": 2}]
    assert read(tmp_path, "a.json") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("path", ["https://example.org/a.csv", "s3://bucket/a.csv"])
def test_a_url_is_named(tmp_path: Path, path: str) -> None:
    """The connector reads local files and says so."""
    assert "URL, but the file connector reads local files" in failure(tmp_path, path)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is expanded as a shell does it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert read(tmp_path / "elsewhere", "~/*.csv") == [{"a": 1}]


# JSON Lines


def test_jsonl_types_come_from_all_of_the_data(tmp_path: Path) -> None:
    """A key that comes late is a column, an absent one is NULL, and texts stay texts even if they look like times."""
    lines = '{"a": 1, "t": "2024-01-01T00:00:00Z"}\n' * 3000 + '{"a": 2.5, "late": true, "n": null}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    assert types(tmp_path, "a.jsonl", block_bytes=4096) == {"a": "double", "t": "string", "late": "bool", "n": "string"}
    rows = read(tmp_path, "a.jsonl", block_bytes=4096)
    assert len(rows) == 3001
    assert rows[-1] == {"a": 2.5, "t": None, "late": True, "n": None}


def test_jsonl_values_without_a_common_type_stay_json(tmp_path: Path) -> None:
    """Nested values, mixed types and long numbers keep their JSON text, to the last digit."""
    (tmp_path / "a.jsonl").write_text(
        '{"mixed": 1, "nest": {"x": 1.00000000000000000001}, "big": 12345678901234567890123}\n'
        '{"mixed": "1", "nest": null, "big": 1}\n'
    )
    assert read(tmp_path, "a.jsonl") == [
        {"mixed": "1", "nest": '{"x": 1.00000000000000000001}', "big": "12345678901234567890123"},
        {"mixed": '"1"', "nest": None, "big": "1"},
    ]
    assert set(types(tmp_path, "a.jsonl").values()) == {"extension<arrow.json>"}


@pytest.mark.parametrize("block_bytes", [4096, 65536])
def test_jsonl_integers_among_fractions_keep_their_digits(tmp_path: Path, block_bytes: int) -> None:
    """An integer that no double holds keeps its digits, in one block with fractions or in another."""
    (tmp_path / "a.jsonl").write_text('{"a": 9007199254740993}\n' + '{"a": 1}\n' * 1000 + '{"a": 1.5}\n')
    rows = read(tmp_path, "a.jsonl", block_bytes=block_bytes)
    assert (rows[0], rows[-1]) == ({"a": "9007199254740993"}, {"a": "1.5"})


def test_jsonl_declared_types(tmp_path: Path) -> None:
    """Declared columns are converted from the JSON text of their values."""
    (tmp_path / "a.jsonl").write_text(
        '{"at": "2024-01-01T00:00:00Z", "day": "2024-01-01", "u": "12345678-1234-5678-1234-567812345678", '
        '"x": "AQI=", "m": 1.10, "s": 5}\n'
    )
    columns = {"at": "timestamptz", "day": "date", "u": "uuid", "x": "binary", "m": "decimal(9,2)", "s": "string"}
    assert read(tmp_path, "a.jsonl", columns=columns) == [
        {
            "at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "day": dt.date(2024, 1, 1),
            "u": UUID("12345678-1234-5678-1234-567812345678"), "x": b"\x01\x02", "m": Decimal("1.10"), "s": "5",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n\nnot json\n', "line 3 is not JSON (at character 1)"),
        (b'{"a": 1}\n[1]\n', "line 2 is JSON, but not an object"),
        (b'{"a": 1}\n7\n', "line 2 is JSON, but not an object"),
        (b'{"a": 1,}\n', "line 1 is not JSON"),
        (b'{"a": 1', "line 1 is not a whole JSON object"),
        (b'{"a": 1} {"a": 2}\n', "line 1 is not JSON"),
        (b'{"a": 1, "a": 2}\n', "line 1 has the key 'a' twice"),
        (b'{"a": "\xff"}\n', "byte 7 (counted from 0) is not utf-8"),
        (b'{"a": "\\ud800"}\n', "line 1, column 'a'"),
        (b'{"a": 1}\n{"A": 1}\n', "differ only by case"),
        (b"", "it has no object with a key, so its columns are unknown"),
        (b"{}\n{}\n", "it has no object with a key, so its columns are unknown"),
        (b'{"": 1}\n', "an object has an empty key; name every key in the file"),
        (b'{"a": 1}\n{"A": 1}\n', "keys 'a' and 'A' differ only by case; rename one in the file"),
        (b"[" * 200_000, "line 1 is nested too deeply"),
    ],
)
def test_a_bad_jsonl(tmp_path: Path, content: bytes, said: str) -> None:
    """Every kind of broken JSON Lines is one line that names the file and the line."""
    (tmp_path / "a.jsonl").write_bytes(content)
    found = failure(tmp_path, "a.jsonl")
    assert said in found
    assert "header" not in found
    assert "options.names" not in found


BEYOND = [("double", "1e400"), ("double", "-2e308"), ("float32", "1e39"), ("float32", "9" * 60)]


@pytest.mark.parametrize(("type_", "text"), BEYOND)
@pytest.mark.parametrize("place", [0, 8999])
@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_a_number_beyond_a_declared_float_stops_the_run(
    tmp_path: Path, format_: str, place: int, type_: str, text: str
) -> None:
    """It would become infinity, which nobody wrote; infinity itself is read where the format has a word for it."""
    lines = ["1.5"] * 9000
    lines[place] = text
    options: dict[str, Any] = {"columns": {"a": type_}, "block_bytes": 4096}

    def write(lines: list[str]) -> str:
        head = "b,a\n" if format_ == "csv" else ""
        row = "x,{}\n" if format_ == "csv" else '{{"b": "x", "a": {}}}\n'
        (tmp_path / f"a.{format_}").write_text(head + "".join(row.format(line) for line in lines))
        return f"a.{format_}"

    where = f"row {place + 1}" if format_ == "csv" else f"line {place + 1}"
    assert f"{where}, column 'a' has an invalid {type_.removesuffix('32')}" in failure(
        tmp_path, write(lines), **options
    )
    if format_ == "csv":
        lines[place] = "inf"
        assert read(tmp_path, write(lines), **options)[place]["a"] == float("inf")


@pytest.mark.parametrize("layout", [{"indent": 1}, {"indent": "\t"}, {"separators": (",\n", ": ")}])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_object_over_several_lines_is_named_and_the_advice_works(
    tmp_path: Path, layout: dict[str, Any], name: str
) -> None:
    """As files are laid out for people: the line is named, and in an array the objects are read."""
    objects = [{"a": {"b": 1, "c": [2]}, "d": "x"}, {"a": {"b": 2, "c": []}, "d": "y"}]
    texts = [json.dumps(one, **layout) for one in objects]
    (tmp_path / name).write_text("\n".join(texts))
    said = failure(tmp_path, name)
    assert "line 1 is not a whole JSON object: the object continues on the next line" in said
    assert "write each object on one line, or write an array" in said
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, objects)))
    (tmp_path / "c.json").write_text(f"[{','.join(texts)}]")
    for fixed in ("b.jsonl", "c.json"):
        assert [(json.loads(row["a"]), row["d"]) for row in read(tmp_path, fixed)] == [
            (one["a"], one["d"]) for one in objects
        ]


def test_a_jsonl_value_that_is_not_what_was_declared(tmp_path: Path) -> None:
    """The line of the first value that does not fit is named, also far down."""
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 9000 + '{"a": "x"}\n')
    assert "line 9001, column 'a' has an invalid int64" in failure(tmp_path, "a.jsonl", columns={"a": "int64"})


@pytest.mark.parametrize("value", ["12345678", "-12345678.9", "1234567.891"])
def test_a_jsonl_decimal_has_no_more_digits_than_declared(tmp_path: Path, value: str) -> None:
    """Digits before the point count with the scale, as in every other way to a decimal."""
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1.5}}\n{{"a": {value}}}\n')
    said = failure(tmp_path, "a.jsonl", columns={"a": "decimal(9,2)"})
    assert "line 2, column 'a' has an invalid decimal128(9, 2)" in said


@pytest.mark.parametrize(
    "number", ["12345678901234567", "-0.12345678901234567", "1e300", "1.5E-0400", "1234567890123456e1"]
)
@pytest.mark.parametrize("text", ["", " 12345678901234567 ", ",1e300,", '\\\\\\",1e300,', "\\\\"])
@pytest.mark.parametrize("space", ["", " ", "\t"])
def test_a_long_number_is_found_and_a_text_is_not(number: str, text: str, space: str) -> None:
    """Wherever it stands in a block with doubles, however many texts look like one."""
    plain = f'{{"x":{space}0.5{space},"a":{space}"{text}"{space}}}\n'.encode()
    long = f'{{"a":"{text}","n":[{space}{number}{space}],"b":"{text}"}}\n'.encode()
    assert not inexact(plain * 3, [pa.float64()])
    assert inexact(plain * 2 + long + plain, [pa.float64()])
    assert not inexact(long, [pa.int64()])


@pytest.mark.parametrize(
    ("columns", "value", "by_line"),
    [
        ({"a": "date"}, '"2024-02-29"', False),
        ({"a": "timestamp"}, '"2024-02-29 00:00:00"', False),
        ({"a": "uuid"}, '"6ba7b810-9dad-11d1-80b4-00c04fd430c8"', False),
        ({}, '"1e733, 12345678901234567890"', False),
        ({}, "12345678901234567890", True),
        ({}, "1.5e300", True),
        ({"a": "json"}, "1.50", True),
    ],
    ids=str,
)
def test_only_what_needs_its_text_is_split_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, str], value: str, by_line: bool
) -> None:
    """A declared date, time or uuid, and digits in a text, go through whole columns; a number that a double may not
    hold, and json, do not."""
    split = list[str]()

    def counted(line: str) -> dict[str, str]:
        split.append(line)
        return members(line)

    monkeypatch.setattr(jsonl, "members", counted)
    (tmp_path / "a.jsonl").write_text(f'{{"x": 0.5, "a":{value}}}\n' * 3)
    assert len(read(tmp_path, "a.jsonl", columns=columns)) == 3
    assert bool(split) is by_line


# Parquet


def test_parquet_keeps_its_own_types(tmp_path: Path) -> None:
    """Types come from the file, dictionaries are plain values, and files are united by name."""
    first = pa.table({"a": pa.array([1], pa.int32()), "s": pa.array(["x"]).dictionary_encode()})
    pq.write_table(first, tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([2], pa.int64()), "n": [Decimal("1.10")]}), tmp_path / "2.parquet")
    assert types(tmp_path, "*.parquet") == {"a": "int64", "s": "string", "n": "decimal128(3, 2)"}
    assert read(tmp_path, "*.parquet") == [
        {"a": 1, "s": "x", "n": None},
        {"a": 2, "s": None, "n": Decimal("1.10")},
    ]


def test_parquet_types_that_do_not_meet_are_refused(tmp_path: Path) -> None:
    """Two files with types that have none in common are named, not turned into text."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "2.parquet")
    assert "2.parquet: column 'a' is string here and int64 in an earlier file" in failure(tmp_path, "*.parquet")


# looking without reading


def test_tables_are_names_of_files(tmp_path: Path) -> None:
    """A pattern selects files by name."""
    for name in ("b.csv", "a.csv", "c.csv"):
        (tmp_path / name).write_text("a\n1\n")
    assert source(tmp_path, "*.csv").tables("[ab].csv") == ["a.csv", "b.csv"]
