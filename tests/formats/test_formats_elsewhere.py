"""The formats read and write bytes that are in no file of this machine, as those of a bucket."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attrs import define, evolve, field, frozen

from dpone.errors import DataError, SourceError
from dpone.formats.input import Input
from dpone.formats.options import ReadOptions, WriteOptions
from dpone.formats.reader import Format, format_of, reader, reader_of
from dpone.formats.types import declared
from dpone.formats.write import write
from dpone.model.pipeline import Incremental, SourceOptions

ROWS = [{"id": i, "name": f"name {i} é", "day": date(2024, 1, 1 + i % 28)} for i in range(20_000)]
COLUMNS = {"id": "bigint", "name": "text", "day": "date"}
TABLE = pa.Table.from_pylist(ROWS)


@define
class Bucket:
    """Objects by name. It counts the bytes that are read, and keeps each reader: none is closed for lack of use."""

    objects: dict[str, bytes]
    read: int = 0
    readers: list[io.RawIOBase] = field(factory=list)

    def input(self, name: str) -> Input:
        return Input(name, f"bucket/{name}", lambda: pa.PythonFile(_Reads(self, self.objects[name]), "r"))


class _Reads(io.RawIOBase):
    """An object, read in ranges."""

    def __init__(self, bucket: Bucket, data: bytes) -> None:
        self._bucket, self._data = bucket, io.BytesIO(data)
        bucket.readers.append(self)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._data.seek(offset, whence)

    def tell(self) -> int:
        return self._data.tell()

    def read(self, size: int = -1) -> bytes:
        data = self._data.read(size)
        self._bucket.read += len(data)
        return data


def csv(end: str = "\n") -> bytes:
    return "".join(["id,name,day\n", *(f"{row['id']},{row['name']},{row['day']}{end}" for row in ROWS)]).encode()


def lines() -> list[str]:
    return [json.dumps(row, default=str) for row in ROWS]


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer, row_group_size=1000)
    return buffer.getvalue()


OBJECTS = {
    "a.csv": csv(),
    "a.tsv": csv().replace(b",", b"\t"),
    "a.csv.gz": gzip.compress(csv()),
    "a.jsonl": "\n".join(lines()).encode(),
    "a.ndjson.zst": pa.compress("\n".join(lines()).encode(), codec="zstd", asbytes=True),
    "a.json": f"[{','.join(lines())}]".encode(),
    "a.parquet": parquet(),
}
OPTIONS = ReadOptions(block_bytes=1 << 16)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """Whatever a test opens in it is closed when the test ends."""
    made = Bucket(dict(OBJECTS))
    yield made
    assert [one for one in made.readers if not one.closed] == []


def of(file: Input) -> Format:
    return reader(reader_of(format_of(file, OPTIONS)), OPTIONS, declared(COLUMNS))


def rows(file: Input, schema: pa.Schema) -> list[dict[str, Any]]:
    return [row for batch in of(file).batches(file, schema) for row in batch.to_pylist()]


@pytest.mark.parametrize("name", OBJECTS)
def test_a_format_reads_what_has_no_path(bucket: Bucket, name: str) -> None:
    """Schema and rows are found through nothing but reads at an offset, and each reader is closed."""
    file = bucket.input(name)
    schema = of(file).schema([file], None)
    assert schema.names == TABLE.schema.names
    assert rows(file, schema) == ROWS


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_piece_is_read_without_the_rest(bucket: Bucket, name: str) -> None:
    """The pieces between the cuts have the rows of the whole, and each takes about its share of the bytes."""
    file = bucket.input(name)
    schema, cuts = of(file).schema([file], None), of(file).cuts(file, 10)
    assert len(cuts) == 9
    found = []
    for span in pairwise([0, *cuts, of(file).end(file)]):
        bucket.read = 0
        found += rows(evolve(file, span=span), schema)
        assert bucket.read < file.size // 10 + (3 << 16)
    assert found == ROWS


@pytest.mark.parametrize("name", ["a.csv.gz", "a.parquet"])
def test_a_damaged_object_is_named_as_the_pipeline_spells_it(bucket: Bucket, name: str) -> None:
    """An object that ends too early is an error of the data that names the object, not a shorter one."""
    file = bucket.input(name)
    schema = of(file).schema([file], None)
    bucket.objects[name] = bucket.objects[name][:-100]
    with pytest.raises(DataError, match=f"^read bucket/{name}: "):
        rows(file, schema)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet"])
def test_an_answer_of_the_store_is_passed_on(bucket: Bucket, name: str) -> None:
    """What whoever opens the bytes says of a failure reaches the user as it is."""
    file = bucket.input(name)
    schema = of(file).schema([file], None)

    def gone() -> pa.NativeFile:
        raise SourceError("read bucket", "access denied", "renew the token")

    with pytest.raises(SourceError, match=r"^read bucket: access denied; renew the token$"):
        rows(evolve(file, stored=gone), schema)


@frozen
class _Stream:
    """``contract.Stream``, as far as a writer of parts takes from it."""

    schema: pa.Schema
    native: tuple[str, ...] = ()
    filtered: int = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from TABLE.to_batches(max_chunksize=5000)


@pytest.mark.parametrize(
    "options",
    [
        WriteOptions("parquet"), WriteOptions("parquet", "gzip"), WriteOptions("csv"), WriteOptions("csv", "zstd"),
        WriteOptions("jsonl"), WriteOptions("jsonl", "gzip"),
    ],
    ids=lambda options: f"{options.format} {options.codec}",
)  # fmt: skip
def test_a_part_is_written_to_what_has_no_path(bucket: Bucket, options: WriteOptions) -> None:
    """What is written into memory reads back under its extension, with a constant column filled in."""
    to = pa.BufferOutputStream()
    stream: Any = _Stream(TABLE.schema)
    schema = TABLE.schema.append(pa.field("load", pa.string()))
    count, size = write(to, stream, schema, {"load": "x"}, options)
    assert (count, size > 0) == (len(ROWS), True)
    name = f"part{options.extension}"
    bucket.objects[name] = to.getvalue().to_pybytes()
    file = bucket.input(name)
    assert rows(file, of(file).schema([file], None)) == [{**row, "load": "x"} for row in ROWS]


def test_options_of_reading_extend_those_of_any_source() -> None:
    """A connector's options are those of the formats, those of every source, and its own."""

    @frozen
    class BucketOptions(ReadOptions, SourceOptions):
        region: str = ""

    options = BucketOptions(incremental=Incremental("cursor", "a"), delimiter=";", region="eu")
    assert (options.incremental, options.delimiter, options.region) == (Incremental("cursor", "a"), ";", "eu")
    assert options == evolve(options) != evolve(options, delimiter="|")


def test_to_check_options_loads_no_pyarrow() -> None:
    """A pipeline file is checked without the half a second that pyarrow takes."""
    script = "import sys, dpone.formats.options as o; o.ReadOptions(format='csv', delimiter=';'); o.WriteOptions()"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print('pyarrow' in sys.modules)"],
        check=True, capture_output=True, text=True, cwd=Path.cwd().anchor,
    )  # fmt: skip
    assert done.stdout.strip() == "False"
