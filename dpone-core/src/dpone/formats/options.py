"""The options for reading and writing files, with the checks that need no file.

A connector's options class extends these with its own: where the bytes are. Does not import pyarrow.
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
from dpone.model.schema import COLUMN_TYPES

SourceFormat = Literal["csv", "json", "jsonl", "parquet"]
SinkFormat = Literal["csv", "jsonl", "parquet"]
Codec = Literal["none", "gzip", "zstd", "snappy"]


def _check_type(column: str, name: str) -> None:
    from dpone.formats.types import declared  # imports pyarrow, which a pipeline without columns does not need

    declared({column: name})


def _one_character(option: str, value: str | None) -> None:
    if value is not None and (len(value) != 1 or ord(value) > 127 or value in "\r\n"):
        raise ConfigError(f"read options.{option}", repr(value), "use one ASCII character, such as ';' or \"\\t\"")


# The formats that take an option; those of ``_ALL`` are for all formats, the rest for CSV.
_TEXT, _CSV = ("csv", "json", "jsonl", "changelog"), ("csv",)
_FORMATS: Mapping[str, tuple[str, ...]] = {"block_bytes": _TEXT, "encoding": ("csv", "json", "jsonl")}
_ALL = ("format", "columns")


@frozen(slots=False)  # so that a connector's options can inherit from it and from SourceOptions
class ReadOptions:
    """format       of the files; None: from the extension (.csv .tsv .json .jsonl .ndjson .parquet; text also .gz or
    .zst). json: one array of objects, or one object per line; jsonl: one object per line
    delimiter       CSV; None: from Excel's ``sep=`` line, else tab for .tsv and comma for others
    quote           CSV
    escape          CSV: the character before a quote inside a value; None: such a quote is doubled
    header          CSV: the first row names the columns
    names           CSV: names of the columns, instead of those in the header
    skip_lines      CSV: number of lines to skip before the header, or before the first row
    comment         CSV: lines that start with this character are skipped
    trim            CSV: remove blanks and tabs around values, also around quoted ones
    short_rows      CSV: a row with fewer values than columns: ``fail``, or ``null`` for the missing ones
    trailing_delimiter  CSV: every row ends with a delimiter, after which there is no value
    encoding        of CSV and JSON Lines, by its Python name
    columns         column -> type, by its SQL or Arrow name. The type of a declared column is not inferred
    null_values     CSV: unquoted texts that mean NULL; in columns other than text, quoted ones too
    quoted_nulls    CSV: they mean NULL when quoted in text columns, too
    decimal         CSV: the decimal mark
    thousands       CSV: the character between groups of three digits; None: none
    date_format     CSV: of dates, as in ``%d.%m.%Y``; None: ISO 8601
    timestamp_format  CSV: of timestamps, as in ``%d.%m.%Y %H:%M``; None: ISO 8601
    true_values     CSV: texts that mean true in a bool column
    false_values    CSV: texts that mean false in a bool column
    infer           CSV: infer types from the first block of every file, or from all of it (one more pass)
    block_bytes     CSV, JSON: bytes read at once; the longest row must fit
    newlines_in_values  CSV: quoted values may contain line ends. False: none does, so runtime.partitions can split a
                    file that has quotes
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
            raise ConfigError("read options.header", "header: false without names", "set names: [first, second, ...]")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            todo = "use a Python encoding name, such as utf-8, latin-1, cp1252 or utf-16"
            raise ConfigError("read options.encoding", repr(self.encoding), todo) from error
        if not 4096 <= self.block_bytes <= 1 << 28:
            raise ConfigError("read options.block_bytes", str(self.block_bytes), "use 4096 to 268435456 bytes")
        for column, name in self.columns.items():
            _check_type(column, name)
        if (kind := self._kind()) is not None:
            self.require_taken(kind)

    def _kind(self) -> str | None:
        """The format of all files, if it is known without reading them."""
        return self.format

    def require_taken(self, format: str) -> None:
        """Raises ConfigError for an option that does not apply to the format. ``changelog``: changes in JSON Lines."""
        for one in fields(ReadOptions):
            taken = one.name in _ALL or format in _FORMATS.get(one.name, _CSV)
            if not taken and getattr(self, one.name) != one.default:
                found = f"the option is for {_SHOWN[_FORMATS.get(one.name, _CSV)[0]]}, not for {_SHOWN[format]}"
                todo = "remove it, or set options.format to the format of the files"
                raise ConfigError(f"read options.{one.name}", found, todo)

    def _check_marks(self) -> None:
        """Raises ConfigError unless the characters that structure a row are all different."""
        marks = {"delimiter": self.delimiter, "quote": self.quote, "escape": self.escape, "comment": self.comment}
        before: dict[str, str] = {}
        for name, mark in marks.items():
            _one_character(name, mark)
            if mark is not None and mark in before:
                todo = f"set {name} to a different character"
                if name == "escape":
                    todo = "remove it: a doubled quote is always read as one"
                raise ConfigError(f"read options.{name}", f"{mark!r} is also the {before[mark]}", todo)
            if mark is not None:
                before[mark] = name
        if self.trim and self.delimiter == " ":
            raise ConfigError("read options.trim", "the delimiter is a blank", "remove trim")

    def _check_values(self) -> None:
        if len(self.decimal) != 1 or ord(self.decimal) > 127 or self.decimal.isalnum() or self.decimal in "+-\r\n":
            raise ConfigError("read options.decimal", repr(self.decimal), "use one character, as in decimal: ','")
        if self.thousands is not None:
            if len(self.thousands) != 1 or self.thousands.isalnum() or self.thousands in "+-\r\n":
                todo = "use one character, as in thousands: '.'"
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
            # NULL takes precedence over a default true or false value, so null_values: ["0"] alone is valid.
            if both and not (option == "null_values" and two == getattr(defaults, other).default):
                todo = f"remove it from one of them; {other} is {list(two)}"
                raise ConfigError(f"read options.{other}", f"{min(both)!r} is also in {option}", todo)


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
        """The file extension by which a reader recognises the format; Parquet is compressed inside."""
        packed = "" if self.format == "parquet" else _PACKED[self.codec]
        return f".{self.format}{packed}"
