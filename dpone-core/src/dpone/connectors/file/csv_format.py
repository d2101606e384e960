"""CSV through pyarrow's reader, block by block: types are fixed before the first, rows never become Python objects."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.csv_numbers import NO_NUMBER, Watch, any_changes, first_rounded
from dpone.connectors.file.csv_rows import Malformed, Rows, TooLong
from dpone.connectors.file.text import (
    Input,
    check_names,
    holds_byte,
    is_utf8,
    line_starts,
    reject_utf16,
    require_kin,
    united,
    wrong_encoding,
)  # fmt: skip
from dpone.connectors.file.types import (
    BadValue,
    Seen,
    beyond,
    in_text,
    is_text,
    require_declared,
    restored,
    settle,
)  # fmt: skip
from dpone.errors import DataError, DponeError
from dpone.sql.types import JSON, UUID

_ROW = re.compile(r"Row #(\d+)")
_COLUMN = re.compile(r"CSV column #(\d+)")
_WIDTH = re.compile(r"Expected (\d+) columns, got (\d+)")
_MICROSECONDS = r"\.\d{7,}"


_WRONG = (pa.ArrowInvalid, UnicodeDecodeError, Malformed, TooLong)


class Csv:
    """Reads CSV files. ``columns`` are the declared types."""

    def __init__(self, options: FileSourceOptions, columns: Mapping[str, pa.DataType]) -> None:
        self._options = options
        self._columns = columns
        self.given: Sequence[Collection[str]] = ()
        self._encoding = "utf8" if is_utf8(options.encoding) else options.encoding

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        """Columns of all the files. Types as declared; else as the target has them, where the values that were looked
        at fit; else as inferred from these values."""
        looks = [self._look(file, expected) for file in files]
        require_kin(files, looks)
        self.given = looks
        seen = united(looks)
        where = files[0].label if len(files) == 1 else f"{len(files)} files"
        require_declared(self._columns, {*seen}, where, expected)
        return settle(seen, self._columns, expected)

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Batches of ``schema``, about ``block_bytes`` of text each; a column the file lacks is NULL."""
        types = {field.name: in_text(field.type) for field in schema}
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
        """How many rows stand before a batch, and the batch: of ``include``, or of all the columns."""
        watch = self._watch(file, names, watched)
        floats = [n for n in names if n in self._columns and pa.types.is_floating(types.get(n, pa.null()))]
        rows = 0
        heading = self._options.header and file.begins
        try:
            with file.failing():
                for block in self._blocks(file):
                    if len(names) > 1 and block[0] in b"\r\n" and not block.strip(b"\r\n"):
                        continue  # to pyarrow it is an empty file
                    table = self._parse(file, block, names, types, include, heading, not_text)
                    if watched and watch.may_change(block, table, heading):
                        texts = self._parse(file, block, names, dict.fromkeys(watched, pa.string()), watched, heading)
                        _reject_changed(file, texts, types, rows)
                    if any(pc.any(pc.is_inf(table.column(name))).as_py() for name in floats):
                        texts = self._parse(file, block, names, dict.fromkeys(floats, pa.string()), floats, heading)
                        _reject_beyond(file, texts, table, rows)
                    for batch in table.to_batches():
                        yield rows, batch
                        rows += batch.num_rows
                    heading = False
        except _WRONG as error:
            self._explain(file, error, types, names, rows, heading)

    def _watched(self, names: Sequence[str], types: Mapping[str, pa.DataType]) -> list[str]:
        """Columns that are numbers as far as the sample goes."""
        if self._options.infer != "sample":
            return []
        return [n for n in names if n in types and n not in self._columns and _is_number(types[n])]

    def _watch(self, file: Input, names: Sequence[str], watched: Sequence[str]) -> Watch:
        options = self._options
        places = {name: names.index(name) for name in watched}
        return Watch(self._delimiter(file), options.quote, options.escape, len(names), places)

    def _blocks(self, file: Input) -> Iterator[bytes]:
        return self._rows(file).blocks(self._content(file), self._options.block_bytes)

    def _rows(self, file: Input) -> Rows:
        return Rows(self._delimiter(file), self._options.quote, self._options.escape)

    def _content(self, file: Input) -> Iterator[bytes]:
        """UTF-8 without a byte order mark, and without empty lines before a header."""
        decoder = None if self._encoding == "utf8" else codecs.getincrementaldecoder(self._encoding)()
        beginning = file.begins
        with file.open() as content:
            while data := bytes(content.read(self._options.block_bytes)):
                text = decoder.decode(data).encode() if decoder else data
                if beginning:
                    text = text.removeprefix(codecs.BOM_UTF8)
                    text = text.lstrip(b"\r\n") if self._options.header else text
                    beginning = not text
                yield text
        if decoder:
            yield decoder.decode(b"", final=True).encode()

    def _delimiter(self, file: Input) -> str:
        return self._options.delimiter or ("\t" if ".tsv" in file.path.suffixes else ",")

    def _parse(
        self,
        file: Input,
        block: bytes,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        include: Sequence[str],
        heading: bool,
        not_text: Sequence[str] = (),
    ) -> pa.Table:
        """heading: the block begins with the header. not_text: columns in which a quoted NULL is one too."""

        def read(columns: Sequence[str], quoted: bool) -> pa.Table:
            # Not read_csv, which hands each block to another thread and waits: almost twice the time.
            with pcsv.open_csv(
                pa.BufferReader(block),
                # One thread: rows are numbered in errors, and memory does not grow with the number of cores. The engine
                # reads ahead while the sink writes, so a second core has its work.
                pcsv.ReadOptions(
                    use_threads=False, block_size=len(block), column_names=names, skip_rows_after_names=int(heading)
                ),
                # In a file of one column an empty line is a NULL.
                self._parsing(file, ignore_empty_lines=len(names) > 1),
                pcsv.ConvertOptions(
                    column_types=types,
                    null_values=list(self._options.null_values),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=quoted,
                    include_columns=list(columns),
                    include_missing_columns=bool(columns),
                ),
            ) as reader:
                return reader.read_all()

        quoted = self._options.quoted_nulls
        if quoted or not not_text or 2 * self._options.quote.encode() not in block:
            return read(include, quoted)
        others = read(not_text, True)
        texts = [name for name in include if name not in not_text]
        table = read(texts, False) if texts else others
        return pa.table({name: (others if name in not_text else table).column(name) for name in include})

    def _parsing(self, file: Input, ignore_empty_lines: bool = True) -> pcsv.ParseOptions:
        return pcsv.ParseOptions(
            delimiter=self._delimiter(file),
            quote_char=self._options.quote,
            escape_char=self._options.escape or False,
            newlines_in_values=True,
            ignore_empty_lines=ignore_empty_lines,
        )

    def _names(self, file: Input) -> list[str]:
        """The columns of a file, checked."""
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
        read = pcsv.ReadOptions(use_threads=False, block_size=len(row))
        with pcsv.open_csv(pa.BufferReader(row), read, self._parsing(file)) as reader:
            return list(reader.schema.names)

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """Where the file can be cut into pieces of about equal size: at line ends, each of which ends a row. So it is
        in a file without a quote, or where the options say so."""
        options = self._options
        if self._encoding != "utf8" or file.codec:
            return []
        if options.newlines_in_values and any(
            holds_byte(file.path, one.encode()) for one in (options.quote, options.escape) if one is not None
        ):
            return []
        size = file.path.stat().st_size
        starts = line_starts(file.path, [size * i // pieces for i in range(1, pieces)])
        # What stands before the first row is no piece of its own.
        with file.path.open("rb") as content:
            first = len(content.readline()) if options.header else 0
        return [start for start in starts if start > first]

    def _look(self, file: Input, expected: pa.Schema | None) -> dict[str, Seen]:
        """What the columns hold, as far as ``infer`` says to look."""
        names = self._names(file)
        seen: dict[str, Seen] = {name: Seen(pa.null()) for name in names}
        for _, batch in self._batches(file, names, dict.fromkeys(names, pa.string())):
            seen = united((seen, self._seen(batch, expected)))
            if self._options.infer == "sample":
                break
        return seen

    def _seen(self, batch: pa.RecordBatch, expected: pa.Schema | None) -> dict[str, Seen]:
        quoted = "" in self._options.null_values
        inferred = _convert(batch, None, quoted).schema
        seen = {}
        for field, values in zip(inferred, batch.columns, strict=True):
            what = _corrected(field.type, values)
            at = -1 if expected is None or field.name in self._columns else expected.get_field_index(field.name)
            if expected is not None and at >= 0 and not pa.types.is_null(what.type):
                what = Seen(what.type, what.rounds, _fits(field.type, what, values, expected.field(at).type, quoted))
            seen[field.name] = what
        return seen

    def _restored(
        self, file: Input, batch: pa.RecordBatch, schema: pa.Schema, odd: Sequence[int], before: int
    ) -> pa.RecordBatch:
        columns = batch.columns
        for i in odd:
            try:
                columns[i] = restored(columns[i], schema.field(i).type)
            except BadValue as error:
                field = schema.field(i)
                raise _bad_value(file, before + error.index + 1, field.name, field.type) from None
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
        """Say what is wrong and where, ``rows`` rows into the data. heading: the block begins with the header. The
        driver's text quotes the row, so it is neither shown nor chained."""
        with file.failing():
            if isinstance(error, UnicodeDecodeError):
                raise wrong_encoding(file, self._options.encoding) from None
            if isinstance(error, TooLong):
                found = f"a row is longer than {self._options.block_bytes} bytes, or a quote is never closed"
                raise file.bad(found, "close the quote, or give a larger options.block_bytes") from None
            if isinstance(error, Malformed):
                row = rows + error.row + 1 - heading + (error.blank if len(names) == 1 else 0)
                found = f"{_place(row, error.column, names)} {error.found}"
                raise file.bad(found, error.todo) from None
            raise self._bad_row(file, str(error), types, names, rows - heading) from None

    def _bad_row(
        self, file: Input, text: str, types: Mapping[str, pa.DataType], names: Sequence[str], before: int
    ) -> DponeError:
        match = _ROW.search(text)
        row = before + int(match[1]) if match else -1
        if match := _WIDTH.search(text):
            where = _row(row) if row > 0 else "a row"
            found = f"{where} has {match[2]} values, the file has {match[1]} columns"
            return file.bad(found, "fix the row, or set options.delimiter or options.quote to what the file uses")
        match = _COLUMN.search(text)
        if match is None:
            return file.bad("it cannot be parsed as CSV", "set options.format to what it is, or fix the file")
        name = names[int(match[1])] if int(match[1]) < len(names) else f"#{match[1]}"
        if "UTF8" in text:
            todo = "set options.encoding to what the file is in, such as latin-1 or cp1252"
            return file.bad(f"{_row(row)}, column {name!r} is not utf-8", todo)
        return _bad_value(file, row, name, types.get(name))


def _row(row: int) -> str:
    return f"row {row} (of the data, from 1)" if row > 0 else "a row"


def _reject_other_delimiter(file: Input, name: str) -> None:
    other = next((character for character in "\t;|," if character in name), None)
    if other is not None:
        found = f"the header is one column, {name[:80]!r}, and holds {other!r}"
        todo = f"set options.delimiter to what separates the columns, as in delimiter: {json.dumps(other)}"
        raise file.bad(found, f"{todo}; if it is one column, give the delimiter that the file would use")


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _reject_changed(file: Input, texts: pa.Table, types: Mapping[str, pa.DataType], before: int) -> None:
    for name in texts.schema.names:
        at = any_changes(texts.column(name).combine_chunks(), types[name])
        if at >= 0:
            found = f"{_row(before + at + 1)}, column {name!r} holds a number that {types[name]} would change"
            todo = f"declare the column in the source's options, as in columns: {{{name}: string}}"
            raise file.bad(found, f"{todo}, or set options.infer: full")


def _reject_beyond(file: Input, texts: pa.Table, table: pa.Table, before: int) -> None:
    for name in texts.schema.names:
        values = table.column(name).combine_chunks()
        at = beyond(texts.column(name).combine_chunks(), values)
        if at >= 0:
            raise _bad_value(file, before + at + 1, name, values.type)


def _place(row: int, column: int, names: Sequence[str]) -> str:
    """column: from 1; 0: none in particular."""
    place = _row(row) if row > 0 else "the header"
    if not column:
        return place
    return (
        f"{place}, column {names[column - 1]!r}" if row > 0 and column <= len(names) else f"{place}, column {column},"
    )


def _bad_value(file: Input, row: int, name: str, type_: pa.DataType | None) -> DataError:
    todo = f"fix the row, or declare the column in the source's options, as in columns: {{{name}: string}}"
    return file.bad(f"{_row(row)}, column {name!r} holds no valid {type_}", todo)


def _empty(file: Input) -> DataError:
    size = file.path.stat().st_size
    found = "the file is empty (0 bytes)" if not size else "the file has no header and no row"
    return file.bad(found, "write at least a header line, or remove the file")


def _convert(batch: pa.RecordBatch, type_: pa.DataType | None, quoted: bool) -> pa.Table:
    """Texts through the reader's own conversion: to ``type_``, or to what it infers. quoted: the empty text is NULL."""
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
            quoted_strings_can_be_null=quoted,
        ),
    )


def _corrected(type_: pa.DataType, values: pa.Array) -> Seen:
    """What pyarrow inferred, without what would lose something: leading zeros, digits, fractions of a second."""
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        inexact = first_rounded(values) >= 0
        if _any(values, NO_NUMBER) or (inexact and pa.types.is_floating(type_)):
            return Seen(pa.string(), inexact)
        return Seen(type_, inexact)
    if pa.types.is_timestamp(type_):
        # Seconds in the sample say nothing of the rows after it.
        return Seen(pa.timestamp("ns" if _any(values, _MICROSECONDS) else "us", type_.tz))
    if pa.types.is_time(type_):
        return Seen(pa.time64("us"))
    return Seen(type_)


def _any(values: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())


def _fits(inferred: pa.DataType, what: Seen, values: pa.Array, wanted: pa.DataType, quoted: bool) -> bool:
    """May the column be read as the target's type? Only if its values convert, and none of them loses anything."""
    if is_text(wanted):
        return True
    if pa.types.is_floating(wanted):
        return wanted == pa.float64() and what.type in (pa.int64(), pa.float64()) and not what.rounds
    if is_text(what.type) and not _text_may_be(wanted, inferred, values):
        return False
    if pa.types.is_nested(wanted) or pa.types.is_dictionary(wanted):
        return False
    try:
        batch = pa.RecordBatch.from_arrays([values], ["value"])
        converted = _convert(batch, in_text(wanted), quoted).column(0).combine_chunks()
        if in_text(wanted) != wanted:
            restored(converted, wanted)
    except (pa.ArrowException, BadValue):
        return False
    return True


def _text_may_be(wanted: pa.DataType, inferred: pa.DataType, values: pa.Array) -> bool:
    """Text goes into json and uuid; numbers that are kept as text for their digits into a decimal."""
    number = pa.types.is_integer(inferred) or pa.types.is_floating(inferred)
    return wanted in (JSON, UUID) or (pa.types.is_decimal(wanted) and number and not _any(values, NO_NUMBER))
