"""Files that are one JSON array of objects: the rows of the array, exactly, or an error that names the element."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.file.test_file_source import failure, read, source

from dpone.contract import WindowRequest
from dpone.formats.input import Input
from dpone.formats.json_array import Elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=4),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_an_array_is_one_line_per_element_wherever_its_blocks_end(
    rows: list[dict[str, Any]], indent: int | None, ascii_: bool, cuts: list[int]
) -> None:
    """However it is laid out and cut into blocks, the array gives one line for each of its elements."""
    data = f" {json.dumps(rows, indent=indent, ensure_ascii=ascii_)}\n".encode(errors="surrogatepass")
    array, places = (
        Elements(Input.at(Path(), "a.json")),
        [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)],
    )
    lines = b"".join(array.lines(data[a:b]) for a, b in pairwise(places))
    array.require_end()
    assert [json.loads(line) for line in lines.splitlines() if line.strip()] == rows
    assert lines.count(b"\n") == max(1, len(rows))


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}], ids=str)
@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.json.gz", "a.txt"])
def test_an_array_of_objects_is_a_table(tmp_path: Path, layout: dict[str, Any], name: str) -> None:
    """By its name, packed or not, or by options.format; beyond one block, with texts that look like its end."""
    rows = [{"id": i, "t": 'a "quoted\\" ], {x\n, é' + "\\" * (i % 3), "n": {"a": [i, {}]}} for i in range(2_000)]
    data = json.dumps(rows, ensure_ascii=False, **layout).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = read(tmp_path, name, block_bytes=4096, format="json" if name == "a.txt" else None)
    assert [{**row, "n": json.loads(row["n"])} for row in found] == rows


def test_values_of_an_array_are_exact(tmp_path: Path) -> None:
    """Numbers keep their digits and nested values their text; an absent key is NULL."""
    (tmp_path / "a.json").write_text(
        '[{"d": 1.10, "big": 123456789012345678901234567890, "n": {"x": 1.000}},\n {"d": 12345678901234567.89}]'
    )
    assert read(tmp_path, "a.json", columns={"d": "decimal(20,2)"}) == [
        {"d": Decimal("1.10"), "big": "123456789012345678901234567890", "n": '{"x": 1.000}'},
        {"d": Decimal("12345678901234567.89"), "big": None, "n": None},
    ]


def test_an_array_in_another_encoding_is_read(tmp_path: Path) -> None:
    """The array is looked for in the decoded text."""
    (tmp_path / "a.json").write_text('[{"a": "é"}]', encoding="utf-16")
    assert read(tmp_path, "a.json", encoding="utf-16") == [{"a": "é"}]


def test_an_empty_array_is_a_table_without_rows(tmp_path: Path) -> None:
    """Its columns must be declared, as those of any file without an object."""
    (tmp_path / "a.json").write_text("\n[ ]\n")
    assert read(tmp_path, "a.json", columns={"a": "int64"}) == []
    assert "its columns are unknown; declare them" in failure(tmp_path, "a.json")


def test_an_array_is_one_part_and_goes_with_lines(tmp_path: Path) -> None:
    """It is not cut into pieces, and files of lines beside it are read with it."""
    (tmp_path / "a.json").write_text(json.dumps([{"a": i} for i in range(1_000)]))
    (tmp_path / "b.jsonl").write_text('{"a": 1000}\n')
    window = source(tmp_path, "*.json*").window(None, WindowRequest(whole=True, partitions=8))
    assert [part.detail["path"] for part in window.parts] == ["a.json", "b.jsonl"]
    assert read(tmp_path, "*.json*") == [{"a": i} for i in range(1_001)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1}, {"a": 2}', "the JSON array is not closed; write or fetch the file again"),
        ('[{"a": "x', "the JSON array is not closed"),
        ('[{"a": 1}] [{"a": 2}]', "there is data after the JSON array; keep one array"),
        ('[{"a": 1}]' + " " * 9000 + "x", "there is data after the JSON array"),
        ('[{"a": 1}}', "the JSON array is closed with }; close it with ]"),
        ('[{"a": 1},, {"a": 2}]', "element 2 of the JSON array is not an object; fix it, or remove the extra comma"),
        ('[{"a": 1},\n]', "element 2 of the JSON array is not an object"),
        ('[, {"a": 1}]', "element 1 of the JSON array is not an object"),
        ('[{"a": 1}, null]', "element 2 of the JSON array is not an object"),
        ('[{"a": 1}, [2]]', "element 2 is JSON, but not an object; write one JSON object per element"),
        ('[{"a": 1} {"a": 2}]', "element 1 is not JSON"),
        ('[{"a": 1, "a": 2}]', "element 1 has the key 'a' twice"),
        ('[{"a": 1}, {"a": "x\ny"}]', "element 2 is not JSON"),
        ('[{"a": 1}, {"a": 1]]', "element 2 is not JSON"),
        ('[{"a": 1}, {"a": ' + "[" * 200_000 + "]" * 200_000 + "}]", "element 2 is nested too deeply"),
        ('[{"a": 1}, {"A": 1}]', "differ only by case"),
    ],
)
def test_a_bad_array_is_named_by_its_element(tmp_path: Path, text: str, said: str) -> None:
    """What is not an array of objects, whole and alone, is refused by file and element."""
    (tmp_path / "a.json").write_text(text)
    assert said in failure(tmp_path, "a.json", block_bytes=4096)


def test_a_value_of_an_array_that_is_not_what_was_declared_is_named(tmp_path: Path) -> None:
    """Elements are counted from 1, also far down."""
    (tmp_path / "a.json").write_text(json.dumps([{"a": 1}] * 9_000 + [{"a": "x"}], indent=1))
    assert "element 9001, column 'a' has an invalid int64" in failure(tmp_path, "a.json", columns={"a": "int64"})


@pytest.mark.parametrize(("name", "options"), [("a.jsonl", {}), ("a.json", {"format": "jsonl"}), ("a.csv", {})])
def test_an_array_where_none_is_meant_is_named_and_the_advice_works(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """Under a name or format of another kind it is refused; options.format: json reads it."""
    (tmp_path / name).write_text('[{"a": 1}, {"a": 2}]')
    assert "a JSON array; set options.format: json" in failure(tmp_path, name, **options)
    assert read(tmp_path, name, format="json") == [{"a": 1}, {"a": 2}]
