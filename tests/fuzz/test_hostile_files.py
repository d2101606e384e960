"""Files that ended the process, hung it or slipped through, each made by code and read in a process of its own."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.engine.project import Project
from tests.fuzz.__main__ import Reader, fuzz
from tests.fuzz.inputs import ENDINGS, TABLE, mutated, valid

from dpone.formats import jsonl
from dpone.formats.input import Input
from dpone.formats.text import check_names

Read = Callable[[str, bytes], Mapping[str, Any]]
OBJECT = b'{"a": 1}\n'
NOT_AN_OBJECT = "is JSON, but not an object; write one JSON object per line"


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    one = Reader(limit=60)
    yield one
    one.close()


@pytest.fixture
def read(reader: Reader, tmp_path: Path) -> Read:
    """The answer of the reader process for the bytes of a file."""

    def answer(kind: str, data: bytes) -> Mapping[str, Any]:
        path = tmp_path / f"x{ENDINGS[kind]}"
        path.write_bytes(data)
        return reader.read(path, kind)

    return answer


@pytest.mark.parametrize("value", [b"null", b"[]", b"[1]", b"1", b'"a"', b"true"])
@pytest.mark.parametrize("before", [0, 1, 9000])
@pytest.mark.parametrize("around", [b"%s\n", b"  %s \r\n", b"%s"])
def test_OUT_13_every_line_is_an_object(read: Read, value: bytes, before: int, around: bytes) -> None:
    """A line that is any other JSON value is refused by file and line, wherever it stands and whatever is around it."""
    found = read("jsonl", OBJECT * before + around % value + OBJECT * (b"\n" in around))
    assert found["result"] == "refused"
    assert found["text"].startswith(f"read x.jsonl: line {before + 1} {NOT_AN_OBJECT}")


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\n\n", b" \t\r\n", b"\n \n"])
def test_OUT_13_what_stands_before_a_line_hides_nothing(read: Read, start: bytes) -> None:
    """A byte order mark and blank lines are skipped, and a null behind them is still refused with its line number."""
    assert read("jsonl", start + OBJECT)["rows"] == 1
    found = read("jsonl", start + b"null\n" + OBJECT)
    assert (found["result"], f"line {start.count(10) + 1} {NOT_AN_OBJECT}" in found["text"]) == ("refused", True)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": {"b": 1}} null\n{"a":\n{"b": 1}}\n',
        b'null {"a": 1}\n{"a": {"b": {}\n}}\n',
        b'{"a": 1} {"a": 2}\n{"a":\n3}\n',
        b'{"a": 1}\rnull\n{"a":\n2}\n',
        b'{"a": 1}\n{"a": [\n{}]}\n',
    ],
)
def test_OUT_13_a_line_is_one_object_also_where_the_numbers_agree(read: Read, data: bytes) -> None:
    """Two values in one line and an object over two lines do not make up for each other."""
    found = read("jsonl", data)
    assert found["result"] == "refused"
    assert re.search(r"line [12] is (not JSON|JSON, but not an object|not a whole JSON object)", found["text"])


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("kind", ["jsonl", "changelog"])
def test_OUT_13_deep_nesting_is_refused(read: Read, kind: str, opening: bytes, closing: bytes, close: bool) -> None:
    """100,000 levels are refused by file and line, within seconds; also behind strings full of closing brackets."""
    deep = b'{"x": "%s", "y": ' % (b"]}" * 100_000) + opening * 100_000 + b"1" + closing * 100_000 * close + b"}\n"
    found = read(kind, OBJECT + deep if kind == "jsonl" else deep)
    assert (found["result"], "line 2" in found["text"] or kind != "jsonl") == ("refused", True)
    assert "nested too deeply" in found["text"]


def test_OUT_13_nesting_that_people_write_is_kept(tmp_path: Path) -> None:
    """Values nested deeper than the native reader is given arrive as the text they are, beside brackets in strings."""
    line = {"a": '[[{{\\"' * 99, "deep": json.loads("[" * 200 + "]" * 200), "wide": [[{}]] * 300}
    project = Project(tmp_path / "p", target="file", source={"type": "file", "path": "data.jsonl"}).save()
    (project.folder / "data.jsonl").write_text(json.dumps(line) + "\n")
    project.load()
    [part] = project.out.glob("part-*.parquet")
    [row] = pq.read_table(part).to_pylist()
    assert [row["a"], json.loads(row["deep"]), json.loads(row["wide"])] == list(line.values())


def test_OUT_13_the_native_reader_never_sees_a_deep_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 levels a block goes to the native reader, of 65 it does not, counted without what stands in strings."""
    seen: list[bytes] = []
    monkeypatch.setattr(jsonl.pjson, "read_json", lambda data, **_: seen.append(data) or pa.table({}))
    for levels in (64, 65):
        line = b'{"s": "]]]]]\\"[[[[[", "wide": [%s0], "deep": ' % (b"[]," * 99)
        line += b"[" * (levels - 1) + b"]" * (levels - 1) + b"}\n"
        jsonl.read_lines(OBJECT + line)
        assert len(seen) == 1


@pytest.mark.parametrize(
    "digits", ["9" * 100_000, "0." + "1" * 1_000_000, "1e99999999999999999999", "-1e-99999999999999999999"]
)
def test_OUT_13_numbers_of_any_size_keep_their_digits(tmp_path: Path, digits: str) -> None:
    """A number that no type holds is neither infinity, nor zero, nor a hang: its text is kept."""
    project = Project(tmp_path / "p", target="file", source={"type": "file", "path": "data.jsonl"}).save()
    (project.folder / "data.jsonl").write_text(f'{{"a": {digits}}}\n')
    project.load()
    [part] = project.out.glob("part-*.parquet")
    assert pq.read_table(part).column("a").to_pylist() == [digits]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"\\ud800": 1}\n', "line 1 has the key '\\ud800', which is not valid Unicode"),
        (b'{"a": "\\ud800"}\n', "line 1, column 'a' has an invalid string"),
        (b'{"a": "\xff"}\n', "byte 7 (counted from 0) is not utf-8"),
        (b'{"a": "\0"}\n', "line 1 is not JSON"),
        (OBJECT + b"\0\n", "line 2 is not JSON"),
        (OBJECT + b"\xc2\xa0\n", "line 2 is not JSON"),
        (OBJECT + b"\x0b\n", "line 2 is not JSON"),
        (b'{"a": 1, "\\u0061": 2}\n', "line 1 has the key 'a' twice"),
        (b'{"a": "' + b"x" * (1 << 26), "line 1 is longer than 67108864 bytes"),
    ],
)
def test_OUT_13_odd_bytes_of_json_lines(read: Read, data: bytes, said: str) -> None:
    """Half a surrogate pair, NUL, bytes that are not UTF-8, other blanks, repeated keys, endless lines: by name."""
    found = read("jsonl", data)
    assert (found["result"], said in found["text"]) == ("refused", True), found


@pytest.mark.parametrize("data", [b"\n", b"\r\n", b"\n\r\n \n", b" "])
def test_OUT_13_blank_lines_alone_are_no_rows(read: Read, data: bytes) -> None:
    """Of nothing but blank lines there is no object, and that is what is said."""
    found = read("jsonl", data)
    assert (found["result"], "no object with a key" in found["text"]) == ("refused", True), found


def test_OUT_13_a_line_longer_than_a_block_is_read(read: Read) -> None:
    """A line may be longer than a block; a null line behind it is found."""
    long = b'{"a": "%s"}\n' % (b"x" * 3_000_000)
    assert read("jsonl", long + OBJECT * 2)["rows"] == 3
    assert f"line 2 {NOT_AN_OBJECT}" in read("jsonl", long + b"null\n")["text"]


@pytest.mark.parametrize("data", [b",".join(b"c%d" % i for i in range(100_000)) + b"\n", b'"' * 600_000])
def test_OUT_13_a_header_longer_than_a_block_says_so(read: Read, data: bytes) -> None:
    """A first row that does not end in the first block is not called an empty file."""
    found = read("csv", data)
    assert "a row is longer than 524288 bytes, or a quote is never closed" in found["text"]


def test_OUT_13_columns_are_looked_up_not_compared_each_with_each(tmp_path: Path) -> None:
    """The check of the names of a wide file compares each name a few times, whatever their number."""
    compared = 0

    class Counted(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names: list[str] = [Counted(f"c{i}") for i in range(2000)]
    check_names(Input.at(tmp_path / "x.csv", "x.csv"), names)
    assert compared < 10 * len(names)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE.select(["name", "price"]), buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name 1, é".encode(), b"name 1, \xff\xfe"),  # a value that is not UTF-8
        ((299).to_bytes(6, "big"), b"\x7f" * 6),  # a decimal of more digits than its type has
        (b"\x18\x04name", b"\x18\x04\xc0ame"),  # the name of a column
    ],
)
def test_OUT_13_parquet_values_are_what_their_type_says(read: Read, old: bytes, new: bytes) -> None:
    """Texts that are not UTF-8, decimals out of their precision and broken names are refused, not handed on."""
    data = _parquet()
    assert old in data
    found = read("parquet", data.replace(old, new))
    assert (found["result"], "Parquet" in found["text"]) == ("refused", True), found


def test_OUT_13_mutations_repeat_by_their_seed() -> None:
    """The seed that a failure names makes the same input again."""
    for kind in ENDINGS:
        one, two = (mutated(kind, valid(kind, r), r) for r in (random.Random(7), random.Random(7)))
        assert one == two


def test_OUT_13_the_fuzzer_sees_crash_hang_memory_and_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that dies, hangs, eats memory or raises is a failure with the input written out; a good one is not."""
    (tmp_path / "sitecustomize.py").write_text(BAD_READER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")
    for how, limit in (("crash", 120), ("hang", 15), ("memory", 120), ("fault", 120)):
        monkeypatch.setenv("BAD_READER", how)
        failures = fuzz(1, 240, ["csv"], tmp_path / "out", limit=limit, memory=64, most=1)
        assert [how in line for line in failures] == [True]
        [kept] = (tmp_path / "out").glob(f"{how}-*.csv")
        assert str(kept) in failures[0]
    monkeypatch.setenv("BAD_READER", "")
    assert fuzz(1, 1, ["csv", "jsonl", "parquet", "changelog"], tmp_path / "out", limit=120) == []


BAD_READER = """
import os, time
if os.environ.get("BAD_READER"):
    import dpone.formats.csv as csv
    real, count = csv.Csv.schema, [0]
    def schema(self, *given):
        count[0] += 1
        how = os.environ["BAD_READER"] if count[0] > 30 else ""
        if how == "crash":
            os.kill(os.getpid(), 11)
        if how == "hang":
            time.sleep(600)
        if how == "memory" and len(count) < 4:  # of the gigabytes that a reader may take
            count.append(b"x" * (128 << 20))
        if how == "fault":
            raise KeyError("x")
        return real(self, *given)
    csv.Csv.schema = schema
"""
