"""Options of the file connector, checked as far as that goes without looking at a file. Imports no pyarrow."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import field, frozen

from dpone.errors import ConfigError
from dpone.pipeline import SinkOptions, SourceOptions, StateOptions
from dpone.schema import COLUMN_TYPES

SourceFormat = Literal["csv", "json", "jsonl", "parquet"]
SinkFormat = Literal["csv", "jsonl", "parquet"]
Codec = Literal["none", "gzip", "zstd", "snappy"]


def nearest(word: str, words: Iterable[str]) -> str:
    """The likeliest thing meant; empty if there is no word at all."""
    return next(iter(difflib.get_close_matches(word, list(words), 1, 0.0)), "")


def _check_type(column: str, name: str) -> None:
    from dpone.connectors.file.types import declared  # imports pyarrow, which a pipeline of no such option does without

    declared({column: name})


def _one_character(option: str, value: str | None) -> None:
    if value is not None and (len(value) != 1 or ord(value) > 127 or value in "\r\n"):
        raise ConfigError(f"read options.{option}", repr(value), "give one ASCII character, as in ';' or \"\\t\"")


@frozen
class FileSourceOptions(SourceOptions):
    """format       of the files; None: by extension (.csv .tsv .json .jsonl .ndjson .parquet; text also .gz or .zst).
                    json: one array of objects, or one object per line; jsonl: one object per line
    delimiter       CSV; None: tab for .tsv, comma otherwise
    quote           CSV
    escape          CSV: the character before a quote that is part of a value; None: such a quote is written twice
    header          CSV: the first row names the columns
    names           CSV: names of the columns, instead of those in the header
    encoding        of CSV and JSON Lines, as Python spells it
    columns         column -> type, in the words of SQL or of Arrow. Declared columns are read as declared, whatever the
                    data look like
    null_values     CSV: unquoted texts that mean NULL; in columns that are not text, quoted ones too
    quoted_nulls    CSV: quoted ones in columns of text too
    infer           CSV: types from the first block of every file, or from all of it (one more pass)
    block_bytes     text: bytes read at once; the longest row must fit
    newlines_in_values  CSV: a quoted value may hold line ends. False: none does, so that runtime.partitions can split
                    a file that has quotes
    """

    format: SourceFormat | None = None
    delimiter: str | None = None
    quote: str = '"'
    escape: str | None = None
    header: bool = True
    names: tuple[str, ...] = ()
    encoding: str = "utf-8"
    columns: Mapping[str, str] = field(factory=dict, metadata=COLUMN_TYPES)
    null_values: tuple[str, ...] = ("",)
    quoted_nulls: bool = False
    infer: Literal["sample", "full"] = "sample"
    block_bytes: int = 1 << 19
    newlines_in_values: bool = True

    def __attrs_post_init__(self) -> None:
        _one_character("delimiter", self.delimiter)
        _one_character("quote", self.quote)
        _one_character("escape", self.escape)
        if self.escape is not None and self.escape in (self.quote, self.delimiter):
            todo = "leave it out: a quote that is written twice is always read as one"
            raise ConfigError("read options.escape", f"{self.escape!r} is the quote or the delimiter too", todo)
        if not self.header and not self.names:
            raise ConfigError("read options.header", "header: false without names", "give names: [first, second, ...]")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            todo = "use a name Python knows, such as utf-8, latin-1, cp1252 or utf-16"
            raise ConfigError("read options.encoding", repr(self.encoding), todo) from error
        if not 4096 <= self.block_bytes <= 1 << 28:
            raise ConfigError("read options.block_bytes", str(self.block_bytes), "give 4096 to 268435456 bytes")
        if self.incremental is not None and self.incremental.by != "cdc":
            todo = "leave it out: a file source reads each new file once without it"
            raise ConfigError("read options.incremental", f"by: {self.incremental.by}", todo)
        for column, name in self.columns.items():
            _check_type(column, name)


@frozen
class FileSinkOptions(SinkOptions):
    """compression: Parquet zstd (default), snappy, gzip or none; CSV and JSON Lines none (default), gzip or zstd."""

    format: SinkFormat = "parquet"
    compression: Codec | None = None

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.compression == "snappy" and self.format != "parquet":
            raise ConfigError("read options.compression", f"snappy for {self.format}", "use none, gzip or zstd")

    @property
    def codec(self) -> Codec:
        return self.compression or ("zstd" if self.format == "parquet" else "none")


@frozen
class FileStateOptions(StateOptions):
    """Nothing beyond what every state backend takes."""
