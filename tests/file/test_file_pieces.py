"""One file read in several parts has the rows it has as a whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.errors import DataError
from dpone.model.pipeline import SourceSpec


def read(base: Path, path: str, partitions: int, **options: Any) -> list[list[dict[str, Any]]]:
    """The rows of each part."""
    source = FileSource(SourceSpec("file", path=path, base=base, options=FileSourceOptions(**options)))
    window = source.window(None, WindowRequest(partitions=partitions))
    assert len({part.id for part in window.parts}) == len(window.parts)
    assert json.loads(json.dumps([dict(part.detail) for part in window.parts]))
    parts = []
    for part in window.parts:
        with source.read(part) as stream:
            parts.append([row for batch in stream.batches() for row in batch.to_pylist()])
    return parts


def joined(parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for part in parts for row in part]


LINES = [f"{i},name {i} é\n" for i in range(1, 1001)]
ROWS = [{"id": i, "name": f"name {i} é"} for i in range(1, 1001)]


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "open"])
def test_csv_without_quotes_is_split_at_its_lines(tmp_path: Path, partitions: int, end: str, last: bool) -> None:
    """Each row is in one piece, whatever ends the lines and whether the last one has an end."""
    text = "".join(["id,name\n", *LINES]).replace("\n", end)
    (tmp_path / "a.csv").write_text(text if last else text.removesuffix(end), encoding="utf-8", newline="")
    parts = read(tmp_path, "a.csv", partitions)
    assert joined(parts) == ROWS
    assert len(parts) == partitions
    assert all(parts)


def test_csv_with_quotes_is_split_only_on_the_readers_word(tmp_path: Path) -> None:
    """A quoted value may hold line ends, so the file is one part, unless the options say that none does."""
    (tmp_path / "a.csv").write_text("id,name\n" + "".join(f'{i},"a\nb"\n' for i in range(200)))
    assert [len(part) for part in read(tmp_path, "a.csv", 4)] == [200]
    (tmp_path / "a.csv").write_text("id,name\n" + "".join(f'{i},"a, ""b"""\n' for i in range(200)))
    assert len(read(tmp_path, "a.csv", 4)) == 1
    parts = read(tmp_path, "a.csv", 4, newlines_in_values=False)
    assert len(parts) == 4
    assert joined(parts) == [{"id": i, "name": 'a, "b"'} for i in range(200)]
    (tmp_path / "a.csv").write_text("id,name\n" + "".join(f'{i},"{"a" * 90}\nb"\n' for i in range(200)))
    with pytest.raises(DataError, match=r"never closed.*remove options\.newlines_in_values: false if a value has"):
        read(tmp_path, "a.csv", 4, newlines_in_values=False)


@pytest.mark.parametrize("how", [{"names": ("x", "y")}, {"names": ("x", "y"), "header": False}], ids=str)
def test_csv_pieces_with_names_of_their_own(tmp_path: Path, how: dict[str, Any]) -> None:
    """Given names count in every piece; a header is left out of the first alone."""
    head = "id,name\n" if how.get("header", True) else ""
    (tmp_path / "a.csv").write_text(head + "".join(LINES), encoding="utf-8")
    found = joined(read(tmp_path, "a.csv", 5, **how))
    assert found == [{"x": row["id"], "y": row["name"]} for row in ROWS]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv"])
def test_what_cannot_be_cut_is_one_part(tmp_path: Path, name: str) -> None:
    """A packed file, and one of another encoding, is read as a whole."""
    text = "".join(["id,name\n", *LINES])
    if name.endswith(".gz"):
        with pa.CompressedOutputStream(str(tmp_path / name), "gzip") as file:
            file.write(text.encode())
        assert read(tmp_path, name, 4) == [ROWS]
    else:
        (tmp_path / name).write_text(text, encoding="utf-16")
        assert read(tmp_path, name, 4, encoding="utf-16") == [ROWS]


def test_an_error_in_a_piece_says_where_the_piece_is(tmp_path: Path) -> None:
    """Rows are counted within the piece, whose place in the file is told."""
    text = ("id,name\n" + "".join(LINES[:-1]) + "no number,x\n").encode()
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(DataError) as caught:
        read(tmp_path, "a.csv", 2, columns={"id": "int64"})
    told = re.fullmatch(r"read a.csv \(the piece from ([\d,]+) on\): data row (\d+), column 'id'.*", str(caught.value))
    assert told is not None
    assert text[int(told[1].replace(",", "")) :].count(b"\n") == int(told[2])


@pytest.mark.parametrize("partitions", [2, 5])
def test_json_lines_are_split_at_their_lines(tmp_path: Path, partitions: int) -> None:
    """Each object is in one piece."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    parts = read(tmp_path, "a.jsonl", partitions)
    assert (len(parts), joined(parts)) == (partitions, ROWS)


@pytest.mark.parametrize(("partitions", "wanted"), [(2, [400, 600]), (4, [200, 200, 200, 400]), (50, [200] * 5)])
def test_parquet_is_split_at_row_groups(tmp_path: Path, partitions: int, wanted: list[int]) -> None:
    """A row group is never cut; there are no more pieces than row groups."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=200)
    parts = read(tmp_path, "a.parquet", partitions)
    assert joined(parts) == ROWS
    assert sorted(map(len, parts)) == sorted(wanted)


def test_large_files_are_cut_and_small_ones_are_not(tmp_path: Path) -> None:
    """Pieces go by the share of the bytes."""
    (tmp_path / "a.csv").write_text("id,name\n" + "".join(LINES), encoding="utf-8")
    (tmp_path / "b.csv").write_text("id,name\n1001,x\n")
    parts = read(tmp_path, "*.csv", 4)
    assert [len(part) for part in parts][-1] == 1
    assert len(parts) == 5
    assert joined(parts) == [*ROWS, {"id": 1001, "name": "x"}]


@given(st.lists(st.text("ab é", min_size=1, max_size=30), min_size=1, max_size=40), st.integers(2, 20))
def test_pieces_have_the_rows_of_the_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str], n: int) -> None:
    """Lines of any length, pieces of any number: the rows in their order, each once."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "a.csv").write_text("t,n\n" + "".join(f"{t},{i}\n" for i, t in enumerate(texts)), encoding="utf-8")
    found = joined(read(folder, "a.csv", n, columns={"t": "string"}))
    assert found == [{"t": t, "n": i} for i, t in enumerate(texts)]
