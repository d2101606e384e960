"""Reads CSV with pyarrow, block by block: types are fixed before the first block, rows never become Python objects."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from dpone.errors import DataError, DponeError, counted
from dpone.formats.csv_numbers import NO_NUMBER, Watch, any_changes, first_rounded
from dpone.formats.csv_rows import CsvDialect, Malformed, Rows, TooFew, TooLong, below_top
from dpone.formats.csv_values import Notation, is_number
from dpone.formats.input import Input
from dpone.formats.options import ReadOptions
from dpone.formats.text import (
    check_names,
    is_utf8,
    reject_utf16,
    require_kin,
    united,
    wrong_encoding,
)  # fmt: skip
from dpone.formats.types import (
    BadValue,
    SeenValues,
    beyond,
    is_text,
    require_declared,
    settle,
)  # fmt: skip
from dpone.model.types import JSON, UUID

_ROW = re.compile(r"Row #(\d+)")
_COLUMN = re.compile(r"CSV column #(\d+)")
_WIDTH = re.compile(r"Expected (\d+) columns, got (\d+)")
_MICROSECONDS = r"\.\d{7,}"


# The first line of a CSV file written by Excel, which names the delimiter.
_SEP = re.compile(rb'"?sep=([^"\r\n])"?(?:\r?\n|\r|\Z)', re.IGNORECASE)
_WRONG = (pa.ArrowInvalid, UnicodeDecodeError, Malformed, TooFew, TooLong)


class Csv:
    """Reads CSV files. ``columns`` are the declared types."""

    def __init__(self, options: ReadOptions, columns: Mapping[str, pa.DataType]) -> None:
        self._options = options
        self._columns = columns
        self.given: Sequence[Collection[str]] = ()
        self._notation = Notation(options)
        self._words = {
            "decimal_point": options.decimal,
            "true_values": options.true_values,
            "false_values": options.false_values,
        }
        self._dialects: dict[str, tuple[CsvDialect, int]] = {}
        self._encoding = "utf8" if is_utf8(options.encoding) else options.encoding

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        """The columns of all files together. Types as declared; else as in ``expected`` (the target) if the inspected
        values fit; else as inferred from these values. Raises DataError, ConfigError."""
        looks = [self._look(file, expected) for file in files]
        require_kin(files, looks)
        self.given = looks
        seen = united(looks)
        where = files[0].label if len(files) == 1 else counted(len(files), "file")
        require_declared(self._columns, {*seen}, where, expected)
        return settle(seen, self._columns, expected)

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Batches of ``schema``, about ``block_bytes`` of text each. A column that the file does not have is NULL.
        Raises DataError with row and column."""
        types = {field.name: self._notation.read_as(field.type) for field in schema}
        odd = [i for i, field in enumerate(schema) if types[field.name] != field.type]
        names = self._names(file)
        watched = self._watched(names, types)
        not_text = [field.name for field in schema if not (is_text(field.type) or pa.types.is_binary(field.type))]
        for before, batch in self._batches(file, names, types, schema.names, watched, not_text):
            yield self._restored(file, batch, schema, odd, before) if odd else batch

    def _batches(
        self,
        file: Input,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        include: Sequence[str] = (),
        watched: Sequence[str] = (),
        not_text: Sequence[str] = (),
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The number of rows before each batch, and the batch with the columns ``include``, or all."""
        watch = self._watch(file, names, watched)
        floats = [n for n in names if n in self._columns and pa.types.is_floating(types.get(n, pa.null()))]
        cut, width, rows = self._rows(file), self._width(names), 0
        heading = self._options.header and file.begins
        try:
            with file.failing():
                for block in cut.blocks(self._content(file), self._options.block_bytes):
                    if width > 1 and block[0] in b"\r\n" and not block.strip(b"\r\n"):
                        continue  # pyarrow would take it for an empty file
                    nulls = self._options.null_values
                    try:
                        table = self._parse(file, block, names, types, include, heading, nulls, not_text)
                    except pa.ArrowInvalid as error:
                        if self._options.short_rows == "fail" or not _is_short(error):
                            raise
                        filler = _unused(block, nulls)
                        block, nulls = cut.filled(block, width, filler.encode()), (*nulls, filler)
                        table = self._parse(file, block, names, types, include, heading, nulls, not_text)
                    if watched and watch.may_change(block, table, heading):
                        kinds = dict.fromkeys(watched, pa.string())
                        texts = self._parse(file, block, names, kinds, watched, heading, nulls)
                        self._reject_changed(file, texts, types, rows)
                    if any(pc.any(pc.is_inf(table.column(name))).as_py() for name in floats):
                        kinds = dict.fromkeys(floats, pa.string())
                        texts = self._parse(file, block, names, kinds, floats, heading, nulls)
                        self._reject_beyond(file, texts, table, rows)
                    for batch in table.to_batches():
                        yield rows, batch
                        rows += batch.num_rows
                    heading = False
        except _WRONG as error:
            self._explain(file, error, types, names, rows, heading)

    def _watched(self, names: Sequence[str], types: Mapping[str, pa.DataType]) -> list[str]:
        """Columns that are numbers in the sample: later rows may have values that a number would change."""
        if self._options.infer != "sample":
            return []
        return [n for n in names if n in types and n not in self._columns and is_number(types[n])]

    def _reject_changed(self, file: Input, texts: pa.Table, types: Mapping[str, pa.DataType], before: int) -> None:
        for name in texts.schema.names:
            at = any_changes(self._notation.pointed(texts.column(name).combine_chunks()), types[name])
            if at >= 0:
                found = f"{_row(before + at + 1)}, column {name!r} has a number that {types[name]} cannot hold exactly"
                todo = f"declare the column in the source's options, as in columns: {{{name}: string}}"
                raise file.bad(found, f"{todo}, or set options.infer: full")

    def _watch(self, file: Input, names: Sequence[str], watched: Sequence[str]) -> Watch:
        places = {name: names.index(name) for name in watched}
        return Watch(self._dialect(file), self._width(names), places)

    def _rows(self, file: Input) -> Rows:
        return Rows(self._dialect(file))

    def _content(self, file: Input) -> Iterator[bytes]:
        """The file as UTF-8, from the first row on: the header, or the first row of data."""
        return self._below_top(file, self._decoded(file))[1] if file.begins else self._decoded(file)

    def _below_top(self, file: Input, texts: Iterator[bytes]) -> tuple[int, Iterator[bytes]]:
        options, (dialect, sep) = self._options, self._of(file)
        skip, most = max(options.skip_lines, sep), options.block_bytes
        return below_top(texts, skip, dialect.comment, options.header, most)

    def _decoded(self, file: Input) -> Iterator[bytes]:
        decoder = None if self._encoding == "utf8" else codecs.getincrementaldecoder(self._encoding)()
        with file.open() as content:
            while data := bytes(content.read(self._options.block_bytes)):
                yield decoder.decode(data).encode() if decoder else data
        if decoder:
            yield decoder.decode(b"", final=True).encode()

    def _dialect(self, file: Input) -> CsvDialect:
        return self._of(file)[0]

    def _of(self, file: Input) -> tuple[CsvDialect, int]:
        """The dialect of a file, and the number of its ``sep=`` lines: 0 or 1."""
        if file.label not in self._dialects:
            options = self._options
            start = next((text for text in self._decoded(file.whole) if text), b"")
            sep = _SEP.match(start.removeprefix(codecs.BOM_UTF8))
            said = sep[1].decode() if sep else None
            if said and not options.skip_lines and options.delimiter not in (None, said):
                found = f"its first line says sep={said}, but options.delimiter is {options.delimiter!r}"
                todo = "remove options.delimiter, or set options.skip_lines: 1 if that line is wrong"
                raise file.bad(found, todo)
            delimiter = options.delimiter or said or ("\t" if ".tsv" in file.suffixes else ",")
            escape, comment = (one.encode() if one else None for one in (options.escape, options.comment))
            dialect = CsvDialect(delimiter.encode(), options.quote.encode(), escape, comment, options.trim)
            self._dialects[file.label] = dialect, int(sep is not None)
        return self._dialects[file.label]

    def _parse(
        self,
        file: Input,
        block: bytes,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        include: Sequence[str],
        heading: bool,
        nulls: Sequence[str],
        not_text: Sequence[str] = (),
    ) -> pa.Table:
        """heading: the block begins with the header. nulls: texts that mean NULL. not_text: columns in which they also
        mean NULL when quoted."""

        width = self._width(names)

        def read(columns: Sequence[str], quoted: bool, nulls: Sequence[str] = nulls) -> pa.Table:
            # Not read_csv, which passes each block to another thread and waits: that takes almost twice the time.
            with pcsv.open_csv(
                pa.BufferReader(block),
                # One thread: pyarrow numbers rows in errors only then, and memory does not grow with the number of
                # cores. The engine reads ahead while the sink writes, which uses a second core.
                pcsv.ReadOptions(
                    use_threads=False,
                    block_size=len(block),
                    column_names=[*names, ""][:width],
                    skip_rows_after_names=int(heading),
                ),
                # In a file of one column an empty line is a NULL.
                self._parsing(file, ignore_empty_lines=width > 1),
                pcsv.ConvertOptions(
                    column_types={**types, "": pa.string()},
                    null_values=list(nulls),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=quoted,
                    include_columns=list(columns),
                    include_missing_columns=True,
                    **self._words,
                ),
            ) as reader:
                return reader.read_all()

        quoted, include = self._options.quoted_nulls, include or names
        if width > len(names):
            _require_nothing(read([""], False, ()).column(0), heading)
        if quoted or not not_text:
            return read(include, quoted)
        texts = [name for name in include if name not in not_text]
        quote, late = self._options.quote, any(is_text(types[name]) for name in not_text)
        # The empty text is not searched for: it is neither a number nor a date, so that pyarrow finds it at no cost.
        if not any((null or late) and f"{quote}{null}{quote}".encode() in block for null in nulls):
            try:
                return read(include, False)
            except pa.ArrowInvalid:
                if 2 * quote.encode() not in block:
                    raise
        others = read(not_text, True)
        table = read(texts, False) if texts else others
        return pa.table({name: (others if name in not_text else table).column(name) for name in include})

    def _width(self, names: Sequence[str]) -> int:
        """The number of values in a row. A trailing delimiter adds one without a name."""
        return len(names) + self._options.trailing_delimiter

    def _parsing(self, file: Input, ignore_empty_lines: bool = True) -> pcsv.ParseOptions:
        return pcsv.ParseOptions(
            delimiter=self._dialect(file).delimiter.decode(),
            quote_char=self._options.quote,
            escape_char=self._options.escape or False,
            newlines_in_values=True,
            ignore_empty_lines=ignore_empty_lines,
        )

    def _names(self, file: Input) -> list[str]:
        """The column names of a file. Raises DataError if they are not usable."""
        try:
            with file.failing():
                reject_utf16(file, self._encoding)
                first = self._rows(file).first(self._content(file.whole), self._options.block_bytes)
                if not first:
                    raise _empty(file)
                names = list(self._options.names) or self._header(file, first)
        except _WRONG as error:
            self._explain(file, error, {}, [], 0, self._options.header)
        check_names(file, names)
        if len(names) == 1 and not self._options.delimiter and not self._options.names:
            _reject_other_delimiter(file, names[0])
        return names

    def _header(self, file: Input, row: bytes) -> list[str]:
        row = self._rows(file).cleaned(row)
        read = pcsv.ReadOptions(use_threads=False, block_size=len(row))
        with pcsv.open_csv(pa.BufferReader(row), read, self._parsing(file)) as reader:
            names = list(reader.schema.names)
        return names[:-1] if self._options.trailing_delimiter and names[-1] == "" else names

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """Byte offsets at which the file can be cut into pieces of about the same size: line ends that are also row
        ends. That holds for a file without quotes, or with ``newlines_in_values: false``. Empty if it cannot be cut."""
        options = self._options
        if self._encoding != "utf8" or file.codec:
            return []
        if options.newlines_in_values and any(
            file.holds(one.encode()) for one in (options.quote, options.escape) if one is not None
        ):
            return []
        size = file.size
        starts = file.line_starts([size * i // pieces for i in range(1, pieces)])
        first = self._beginning(file)
        return [start for start in starts if start > first]

    def end(self, file: Input) -> int:
        return file.size

    def _beginning(self, file: Input) -> int:
        """A byte offset at or after the first row of data: a cut before it would make a piece without rows."""
        read = 0

        def counted() -> Iterator[bytes]:
            nonlocal read
            for text in self._decoded(file):
                read += len(text)
                yield text

        _, content = self._below_top(file, counted())
        top = next(content, b"")
        first = read - len(top)
        if not self._options.header:
            return first
        return first + len(self._rows(file).first(chain([top], content), self._options.block_bytes))

    def _look(self, file: Input, expected: pa.Schema | None) -> dict[str, SeenValues]:
        """What the columns contain, in the part of the file that ``infer`` says to inspect."""
        names = self._names(file)
        seen: dict[str, SeenValues] = {name: SeenValues(pa.null()) for name in names}
        for _, batch in self._batches(file, names, dict.fromkeys(names, pa.string())):
            seen = united((seen, self._seen(batch, expected)))
            if self._options.infer == "sample":
                break
        return seen

    def _seen(self, batch: pa.RecordBatch, expected: pa.Schema | None) -> dict[str, SeenValues]:
        """What a batch of texts contains. A column whose texts all follow the notation of the options (thousands,
        dates) is inferred from their standard form."""
        blank = "" in self._options.null_values  # then a quoted empty text is NULL too, unless the column is text
        given = [pc.if_else(pc.equal(texts, ""), None, texts) if blank else texts for texts in batch.columns]
        standard = [self._notation.standard(texts) for texts in given]
        columns = [v if one is None else one for one, v in zip(standard, batch.columns, strict=True)]
        inferred = self._convert(pa.RecordBatch.from_arrays(columns, batch.schema.names), None, ".").schema
        seen = {}
        for field, texts, one, values in zip(inferred, batch.columns, standard, columns, strict=True):
            what = _corrected(field.type, values)
            if one is None and self._notation.writes(what.type):
                what = SeenValues(pa.string())
            at = -1 if expected is None or field.name in self._columns else expected.get_field_index(field.name)
            if expected is not None and at >= 0 and not pa.types.is_null(what.type):
                fits = self._fits(field.type, what, texts, expected.field(at).type)
                what = SeenValues(what.type, what.rounds, fits)
            seen[field.name] = what
        return seen

    def _fits(self, inferred: pa.DataType, what: SeenValues, texts: pa.Array, wanted: pa.DataType) -> bool:
        """Whether the column can be read as the target's type: all values convert, and none of them is changed."""
        if is_text(wanted):
            return True
        if pa.types.is_floating(wanted):
            return wanted == pa.float64() and what.type in (pa.int64(), pa.float64()) and not what.rounds
        if is_text(what.type) and not _text_may_be(wanted, inferred, self._notation.pointed(texts)):
            return False
        if pa.types.is_nested(wanted) or pa.types.is_dictionary(wanted):
            return False
        read_as = self._notation.read_as(wanted)
        try:
            batch = pa.RecordBatch.from_arrays([texts], ["value"])
            values = self._convert(batch, read_as, self._options.decimal).column(0).combine_chunks()
            if read_as != wanted:
                self._notation.converted(values, wanted)
        except (pa.ArrowException, BadValue):
            return False
        return True

    def _convert(self, batch: pa.RecordBatch, type_: pa.DataType | None, decimal: str) -> pa.Table:
        """Convert texts as the reader would: to ``type_``, or to the type that it infers."""
        buffer = io.BytesIO()
        pcsv.write_csv(batch, buffer)
        return pcsv.read_csv(
            pa.BufferReader(buffer.getvalue()),
            pcsv.ReadOptions(use_threads=False, block_size=max(1 << 20, 2 * buffer.tell())),
            pcsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            pcsv.ConvertOptions(
                column_types=None if type_ is None else dict.fromkeys(batch.schema.names, type_),
                null_values=[""],
                strings_can_be_null=True,
                # If the empty text means NULL, it does so in quotes too, unless the column is text.
                quoted_strings_can_be_null="" in self._options.null_values,
                **{**self._words, "decimal_point": decimal},
            ),
        )

    def _restored(
        self, file: Input, batch: pa.RecordBatch, schema: pa.Schema, odd: Sequence[int], before: int
    ) -> pa.RecordBatch:
        columns = batch.columns
        for i in odd:
            field = schema.field(i)
            if is_number(field.type) and field.name not in self._columns and self._options.infer == "sample":
                self._reject_changed(file, pa.table([columns[i]], [field.name]), {field.name: field.type}, before)
            try:
                columns[i] = self._notation.converted(columns[i], field.type)
            except BadValue as error:
                raise self._bad_value(file, before + error.index + 1, field.name, field.type) from None
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _explain(
        self,
        file: Input,
        error: Exception,
        types: Mapping[str, pa.DataType],
        names: Sequence[str],
        rows: int,
        heading: bool,
    ) -> NoReturn:
        """Raise DataError that says what is wrong and where, ``rows`` rows into the data. heading: the block begins
        with the header. pyarrow's message quotes the row, so it is neither shown nor chained."""
        with file.failing():
            if isinstance(error, UnicodeDecodeError):
                raise wrong_encoding(file, self._options.encoding) from None
            if isinstance(error, TooFew):
                found = f"it has {_many(error.lines, 'line')}, but options.skip_lines is {self._options.skip_lines}"
                raise file.bad(found, "set options.skip_lines to the number of lines before the header") from None
            if isinstance(error, TooLong):
                found = f"a row is longer than {self._options.block_bytes} bytes, or a quote is never closed"
                raise file.bad(found, "close the quote, or raise options.block_bytes") from None
            if isinstance(error, Malformed):
                row = rows + error.row + 1 - heading + (error.blank if len(names) == 1 else 0)
                found, todo = f"{_place(row, error.column, names)} {error.found}", error.todo
                if not self._options.newlines_in_values:
                    todo += "; remove options.newlines_in_values: false if a value has a line end"
                raise file.bad(found, todo) from None
            raise self._bad_row(file, str(error), types, names, rows - heading) from None

    def _bad_row(
        self, file: Input, text: str, types: Mapping[str, pa.DataType], names: Sequence[str], before: int
    ) -> DponeError:
        match = _ROW.search(text)
        row = before + int(match[1]) if match else -1
        if match := _WIDTH.search(text):
            return self._bad_width(file, row, int(match[2]), names)
        match = _COLUMN.search(text)
        if match is None:
            return file.bad("it cannot be parsed as CSV", "set options.format to the file's format, or fix the file")
        name = names[int(match[1])] if int(match[1]) < len(names) else f"#{match[1]}"
        if "UTF8" in text:
            todo = "set options.encoding to the file's encoding, such as latin-1 or cp1252"
            return file.bad(f"{_row(row)}, column {name!r} is not utf-8", todo)
        return self._bad_value(file, row, name, types.get(name))

    def _bad_width(self, file: Input, row: int, values: int, names: Sequence[str]) -> DponeError:
        found = f"{_row(row)} has {_many(values, 'value')}, the file has {_many(len(names), 'column')}"
        if self._options.trailing_delimiter and values <= len(names):
            has = f"{_row(row)} has {_many(values - 1, 'delimiter')}"
            found = f"{has}, options.trailing_delimiter needs {len(names)}"
            return file.bad(found, "fix the row, or remove options.trailing_delimiter")
        todo = "fix the row, or set options.delimiter or options.quote to the file's"
        if values < len(names):
            todo += ", or options.short_rows: null if missing values mean NULL"
        elif values == len(names) + 1:
            todo += ", or options.trailing_delimiter: true if a delimiter ends each row"
            todo += ", or options.names if the header lacks one" if not self._options.names else ""
        if values > len(names) and not self._options.names:
            line = self._below_top(file.whole, self._decoded(file.whole))[0] + 1
            found += f", as in line {line}: {', '.join(names)[:80]!r}"
            todo += "; if that line is not the header, set options.skip_lines or options.comment"
        return file.bad(found, todo)

    def _reject_beyond(self, file: Input, texts: pa.Table, table: pa.Table, before: int) -> None:
        for name in texts.schema.names:
            values = table.column(name).combine_chunks()
            at = beyond(texts.column(name).combine_chunks(), values)
            if at >= 0:
                raise self._bad_value(file, before + at + 1, name, values.type)

    def _bad_value(self, file: Input, row: int, name: str, type_: pa.DataType | None) -> DataError:
        todo = f"fix the row, or declare the column in the source's options, as in columns: {{{name}: string}}"
        hint = next((hint for is_one, hint in _HINTS if type_ is not None and is_one(type_)), "")
        return file.bad(f"{_row(row)}, column {name!r} has an invalid {type_}", todo + hint)


_HINTS = (
    (pa.types.is_floating, "; options.decimal and options.thousands set the notation of numbers"),
    (pa.types.is_decimal, "; options.decimal and options.thousands set the notation of numbers"),
    (pa.types.is_integer, "; options.thousands sets the notation of numbers"),
    (pa.types.is_date, "; options.date_format sets the notation of dates"),
    (pa.types.is_timestamp, "; options.timestamp_format sets the notation of timestamps"),
    (pa.types.is_boolean, "; options.true_values and options.false_values set their notation"),
)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _row(row: int) -> str:
    return f"data row {row}" if row > 0 else "a row"


def _reject_other_delimiter(file: Input, name: str) -> None:
    other = next((character for character in "\t;|," if character in name), None)
    if other is not None:
        found = f"the header is one column, {name[:80]!r}, and contains {other!r}"
        todo = f"set options.delimiter to the character between columns, as in delimiter: {json.dumps(other)}"
        raise file.bad(found, f"{todo}; if the file has one column, set any delimiter that is not in the header")


def _is_short(error: pa.ArrowInvalid) -> bool:
    """True if a row has fewer values than there are columns."""
    match = _WIDTH.search(str(error))
    return match is not None and int(match[2]) < int(match[1])


def _unused(block: bytes, nulls: Sequence[str]) -> str:
    """A text for NULL that does not occur in the block."""
    text = "" if "" in nulls else "\x1a"
    while text and text.encode() in block:
        text += "\x1a"
    return text


def _require_nothing(values: pa.ChunkedArray, heading: bool) -> None:
    """Raises Malformed if a value follows a trailing delimiter."""
    at = pc.index(pc.greater(pc.binary_length(values), 0), True).as_py()
    if at >= 0:
        todo = "fix the row, or remove options.trailing_delimiter"
        raise Malformed(at + heading, 0, 0, "has a value after its last delimiter", todo)


def _place(row: int, column: int, names: Sequence[str]) -> str:
    """column: from 1; 0: the row as a whole."""
    place = _row(row) if row > 0 else "the header"
    if not column:
        return place
    return (
        f"{place}, column {names[column - 1]!r}" if row > 0 and column <= len(names) else f"{place}, column {column},"
    )


def _empty(file: Input) -> DataError:
    size = file.size
    found = "the file is empty (0 bytes)" if not size else "the file has neither a header nor a row"
    return file.bad(found, "write at least a header line, or remove the file")


def _corrected(type_: pa.DataType, values: pa.Array) -> SeenValues:
    """The type that pyarrow inferred, or text if that type would lose leading zeros, digits or fractions of a
    second."""
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        inexact = first_rounded(values) >= 0
        if _any(values, NO_NUMBER) or (inexact and pa.types.is_floating(type_)):
            return SeenValues(pa.string(), inexact)
        return SeenValues(type_, inexact)
    if pa.types.is_timestamp(type_):
        # Later rows may have fractions although the sample has whole seconds.
        return SeenValues(pa.timestamp("ns" if _any(values, _MICROSECONDS) else "us", type_.tz))
    if pa.types.is_time(type_):
        return SeenValues(pa.time64("us"))
    return SeenValues(type_)


def _any(values: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())


def _text_may_be(wanted: pa.DataType, inferred: pa.DataType, values: pa.Array) -> bool:
    """Text can be json or uuid; numbers that are text only because of their digits can be a decimal."""
    number = pa.types.is_integer(inferred) or pa.types.is_floating(inferred)
    return wanted in (JSON, UUID) or (pa.types.is_decimal(wanted) and number and not _any(values, NO_NUMBER))
