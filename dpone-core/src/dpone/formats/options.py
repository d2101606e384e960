"""How files are read and written, as a pipeline says it, checked as far as that goes without looking at a file.

A connector's own options class extends these and adds what is its own: where the bytes are. Imports no pyarrow.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from itertools import combinations
from typing import Literal

from attrs import field, fields, frozen
from attrs.validators import ge

from dpone.errors import ConfigError
from dpone.formats.time_format import pattern
from dpone.schema import COLUMN_TYPES

SourceFormat = Literal["csv", "json", "jsonl", "parquet"]
SinkFormat = Literal["csv", "jsonl", "parquet"]
Codec = Literal["none", "gzip", "zstd", "snappy"]


def _check_type(column: str, name: str) -> None:
    from dpone.formats.types import declared  # imports pyarrow, which a pipeline of no such option does without

    declared({column: name})


def _one_character(option: str, value: str | None) -> None:
    if value is not None and (len(value) != 1 or ord(value) > 127 or value in "\r\n"):
        raise ConfigError(f"read options.{option}", repr(value), "give one ASCII character, as in ';' or \"\\t\"")


# The formats that take an option; those of ``_ALL`` are for all formats, the rest for CSV.
_TEXT, _CSV = ("csv", "json", "jsonl", "changelog"), ("csv",)
_FORMATS: Mapping[str, tuple[str, ...]] = {"block_bytes": _TEXT, "encoding": ("csv", "json", "jsonl")}
_ALL = ("format", "columns")


@frozen(slots=False)  # so that a connector's options can extend it beside those that every source takes
class ReadOptions:
    """format       of the files; None: by extension (.csv .tsv .json .jsonl .ndjson .parquet; text also .gz or .zst).
                    json: one array of objects, or one object per line; jsonl: one object per line
    delimiter       CSV; None: as Excel's ``sep=`` line says, else tab for .tsv and comma for others
    quote           CSV
    escape          CSV: the character before a quote that is part of a value; None: such a quote is written twice
    header          CSV: the first row names the columns
    names           CSV: names of the columns, instead of those in the header
    skip_lines      CSV: lines before the header, or before the first row, that are left out
    comment         CSV: a line that begins with this character is left out
    trim            CSV: blanks and tabs around values, quoted ones too, are not part of them
    short_rows      CSV: a row with fewer values than columns: ``fail``, or ``null`` for those it lacks
    trailing_delimiter  CSV: every row ends with a delimiter, after which there is no value
    encoding        of CSV and JSON Lines, as Python spells it
    columns         column -> type, in the words of SQL or of Arrow. Declared columns are read as declared, whatever the
                    data look like
    null_values     CSV: unquoted texts that mean NULL; in columns that are not text, quoted ones too
    quoted_nulls    CSV: quoted ones in columns of text too
    decimal         CSV: the character before the fraction of a number
    thousands       CSV: the character between groups of three digits; None: there is none
    date_format     CSV: of dates, as in ``%d.%m.%Y``; None: ISO 8601
    timestamp_format  CSV: of timestamps, as in ``%d.%m.%Y %H:%M``; None: ISO 8601
    true_values     CSV: texts that mean true in a column of bool
    false_values    CSV: texts that mean false in a column of bool
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
    skip_lines: int = field(default=0, validator=ge(0))
    comment: str | None = None
    trim: bool = False
    short_rows: Literal["fail", "null"] | None = "fail"  # None: null, as YAML reads it
    trailing_delimiter: bool = False
    encoding: str = "utf-8"
    columns: Mapping[str, str] = field(factory=dict, metadata=COLUMN_TYPES)
    null_values: tuple[str, ...] = ("",)
    quoted_nulls: bool = False
    decimal: str = "."
    thousands: str | None = None
    date_format: str | None = None
    timestamp_format: str | None = None
    true_values: tuple[str, ...] = ("1", "true", "True", "TRUE")
    false_values: tuple[str, ...] = ("0", "false", "False", "FALSE")
    infer: Literal["sample", "full"] = "sample"
    block_bytes: int = 1 << 19
    newlines_in_values: bool = True

    def __attrs_post_init__(self) -> None:
        self._check_marks()
        self._check_values()
        if not self.header and not self.names:
            raise ConfigError("read options.header", "header: false without names", "give names: [first, second, ...]")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            todo = "use a name Python knows, such as utf-8, latin-1, cp1252 or utf-16"
            raise ConfigError("read options.encoding", repr(self.encoding), todo) from error
        if not 4096 <= self.block_bytes <= 1 << 28:
            raise ConfigError("read options.block_bytes", str(self.block_bytes), "give 4096 to 268435456 bytes")
        for column, name in self.columns.items():
            _check_type(column, name)
        if (kind := self._kind()) is not None:
            self.require_taken(kind)

    def _kind(self) -> str | None:
        """The format of all the files, where that is known without looking at them."""
        return self.format

    def require_taken(self, format: str) -> None:
        """Each option that is given is one that the format takes. ``changelog``: changes in JSON Lines."""
        for one in fields(ReadOptions):
            taken = one.name in _ALL or format in _FORMATS.get(one.name, _CSV)
            if not taken and getattr(self, one.name) != one.default:
                found = f"{_SHOWN[format]} takes no such option; it is for {_SHOWN[_FORMATS.get(one.name, _CSV)[0]]}"
                todo = "leave it out, or set options.format to what the files are"
                raise ConfigError(f"read options.{one.name}", found, todo)

    def _check_marks(self) -> None:
        """The characters that a row is made of differ from each other."""
        marks = {"delimiter": self.delimiter, "quote": self.quote, "escape": self.escape, "comment": self.comment}
        before: dict[str, str] = {}
        for name, mark in marks.items():
            _one_character(name, mark)
            if mark is not None and mark in before:
                todo = f"give {name} a character of its own"
                if name == "escape":
                    todo = "leave it out: a quote that is written twice is always read as one"
                raise ConfigError(f"read options.{name}", f"{mark!r} is the {before[mark]} too", todo)
            if mark is not None:
                before[mark] = name
        if self.trim and self.delimiter == " ":
            raise ConfigError("read options.trim", "the delimiter is a blank", "leave trim out")

    def _check_values(self) -> None:
        if len(self.decimal) != 1 or ord(self.decimal) > 127 or self.decimal.isalnum() or self.decimal in "+-\r\n":
            raise ConfigError("read options.decimal", repr(self.decimal), "give one character, as in decimal: ','")
        if self.thousands is not None:
            if len(self.thousands) != 1 or self.thousands.isalnum() or self.thousands in "+-\r\n":
                todo = "give one character, as in thousands: '.'"
                raise ConfigError("read options.thousands", repr(self.thousands), todo)
            if self.thousands == self.decimal:
                todo = f"set options.decimal too, as in decimal: {',' if self.decimal == '.' else '.'!r}"
                raise ConfigError("read options.thousands", f"{self.thousands!r} is the decimal mark", todo)
        for option in ("date_format", "timestamp_format"):
            if (format := getattr(self, option)) is not None:
                pattern(option, format)
        defaults = fields(ReadOptions)
        meanings = {"null_values": self.null_values, "true_values": self.true_values, "false_values": self.false_values}
        for (option, one), (other, two) in combinations(meanings.items(), 2):
            both = set(one) & set(two)
            # A NULL goes before a value of the defaults: null_values: ["0"] alone says enough.
            if both and not (option == "null_values" and two == getattr(defaults, other).default):
                todo = f"leave it out of one of them; {other} is {list(two)}"
                raise ConfigError(f"read options.{other}", f"{min(both)!r} is one of {option} too", todo)


_SHOWN = {"csv": "CSV", "json": "JSON", "jsonl": "JSON Lines", "parquet": "Parquet", "changelog": "a change log"}


_PACKED = {"none": "", "gzip": ".gz", "zstd": ".zst"}


@frozen(slots=False)
class WriteOptions:
    """compression: Parquet zstd (default), snappy, gzip or none; CSV and JSON Lines none (default), gzip or zstd."""

    format: SinkFormat = "parquet"
    compression: Codec | None = None

    def __attrs_post_init__(self) -> None:
        if self.compression == "snappy" and self.format != "parquet":
            raise ConfigError("read options.compression", f"snappy for {self.format}", "use none, gzip or zstd")

    @property
    def codec(self) -> Codec:
        return self.compression or ("zstd" if self.format == "parquet" else "none")

    @property
    def extension(self) -> str:
        """Of the files, as a reader knows them by it; Parquet is compressed inside."""
        packed = "" if self.format == "parquet" else _PACKED[self.codec]
        return f".{self.format}{packed}"
