"""Formats as a source uses them: which one a file has, and its reader.

A new format is registered here and in three other places: its name in ``options`` (``SourceFormat``, ``SinkFormat`` and
how messages show it), its first bytes in ``kinds``, its writer in ``write``. ``tests/formats`` compares the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from dpone.errors import ConfigError
from dpone.formats.csv import Csv
from dpone.formats.input import Input
from dpone.formats.jsonl import JsonLines
from dpone.formats.kinds import require_kind
from dpone.formats.options import ReadOptions
from dpone.formats.parquet import Parquet

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}


class Format(Protocol):
    """Reads the files of one format. A piece of a file is an Input with a span.

    given   after ``schema``, the columns that each of the files has
    """

    given: Sequence[Collection[str]]

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        """The columns of all the files together; expected: those of the target."""
        ...

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows of a file, as ``schema`` has them; a column the file lacks is NULL."""
        ...

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """Where the file may be cut into pieces of whole rows; empty if it can only be read as a whole."""
        ...

    def end(self, file: Input) -> int:
        """The end of the last piece, in the unit of ``cuts``."""
        ...


def format_of(file: Input, options: ReadOptions) -> str:
    """``csv``, ``json``, ``jsonl`` or ``parquet``, by option or by the file's extension. Raises ConfigError."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    suffix = next(reversed(suffixes[:-1] if file.codec else suffixes), "")
    kind = options.format or _SUFFIXES.get(suffix)
    if kind is None:
        require_kind(file, "", options.encoding, options.header)
        todo = "set options.format to csv, json, jsonl or parquet"
        found = f"extension {suffix!r} does not identify a format" if suffix else "the name has no extension"
        raise ConfigError(f"read {file.label}", found, todo)
    if kind == "parquet" and file.codec:
        todo = "unpack it first; Parquet is compressed inside"
        raise ConfigError(f"read {file.label}", f"a Parquet file inside {file.suffixes[-1]}", todo)
    return kind


def reader_of(kind: str) -> str:
    """The format whose reader also reads this one: JSON arrays are read as lines."""
    return "jsonl" if kind == "json" else kind


def reader(kind: str, options: ReadOptions, columns: Mapping[str, pa.DataType]) -> Format:
    """columns: the declared types."""
    return _READERS[kind](options, columns)


_READERS: Mapping[str, Callable[[ReadOptions, Mapping[str, pa.DataType]], Format]] = {
    "csv": Csv,
    "json": JsonLines,
    "jsonl": JsonLines,
    "parquet": lambda _, columns: Parquet(columns),  # its types are in the file; it has no options of its own
}
