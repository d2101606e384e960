"""CSV through pyarrow's streaming reader: types are fixed before the first batch, rows never become Python objects."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.text import (
    Input,
    check_names,
    holds_byte,
    is_utf8,
    line_starts,
    reject_utf16,
    united,
    wrong_encoding,
)  # fmt: skip
from dpone.connectors.file.types import (
    JSON,
    UUID,
    BadValue,
    Seen,
    in_text,
    is_text,
    require_declared,
    restored,
    rounds,
    settle,
)  # fmt: skip
from dpone.errors import DataError, DponeError

_ROW = re.compile(r"Row #(\d+)")
_COLUMN = re.compile(r"CSV column #(\d+)")
_WIDTH = re.compile(r"Expected (\d+) columns, got (\d+)")
# A code, a telephone number, a hexadecimal number: pyarrow would take the number and drop the rest.
_NO_NUMBER = r"^\s*([+]|-?0[0-9xX])"
_LONG_EXPONENT = r"[eE][+-]?[0-9]{3,}"
_MICROSECONDS = r"\.\d{7,}"


class Csv:
    """Reads CSV files. ``columns`` are the declared types."""

    def __init__(self, options: FileSourceOptions, columns: Mapping[str, pa.DataType]) -> None:
        self._options = options
        self._columns = columns
        self._encoding = "utf8" if is_utf8(options.encoding) else options.encoding

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        """Columns of all the files. Types as declared; else as the target has them, where the values that were looked
        at fit; else as inferred from these values."""
        seen = united(self._look(file, expected) for file in files)
        require_declared(self._columns, set(seen), files[0].label if len(files) == 1 else f"{len(files)} files")
        return settle(seen, self._columns, expected)

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Batches of ``schema``, about ``block_bytes`` of text each; a column the file lacks is NULL."""
        rows = 0
        types = {field.name: in_text(field.type) for field in schema}
        odd = [i for i, field in enumerate(schema) if types[field.name] != field.type]
        names = self._names(file)
        alone = len(names) == 1
        batch = None
        try:
            with file.failing(), self._open(file, types, schema.names, alone) as reader:
                for batch in reader:
                    yield self._restored(file, batch, schema, odd, rows) if odd else batch
                    rows += batch.num_rows
                if batch is not None and batch.num_rows and names[-1] in types:
                    self._reject_open_quote(file, batch.column(names[-1])[-1].as_py(), rows)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            self._explain(file, error, types)

    def _open(
        self,
        file: Input,
        types: Mapping[str, pa.DataType] | None = None,
        include: Sequence[str] = (),
        alone: bool = False,
    ) -> pcsv.CSVStreamingReader:
        options = self._options
        names = list(options.names) or ([] if file.begins else self._names_unchecked(file.whole))
        naming = {"column_names": names, "skip_rows_after_names": int(options.header and file.begins)}
        return pcsv.open_csv(
            self._content(file),
            pcsv.ReadOptions(
                # One thread: rows are numbered in errors, and memory does not grow with the number of cores. The
                # engine reads ahead while the sink writes, so a second core has its work.
                use_threads=False,
                block_size=options.block_bytes,
                encoding=self._encoding,
                **(naming if names else {}),
            ),
            pcsv.ParseOptions(
                delimiter=options.delimiter or ("\t" if ".tsv" in file.path.suffixes else ","),
                quote_char=options.quote,
                # A line break in a quoted value that lies across two blocks would be misread without this.
                newlines_in_values=options.newlines_in_values,
                # In a file of one column an empty line is a NULL.
                ignore_empty_lines=not alone,
            ),
            pcsv.ConvertOptions(
                column_types=types,
                null_values=list(options.null_values),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                include_columns=list(include),
                include_missing_columns=bool(include),
            ),
        )

    def _content(self, file: Input) -> pa.NativeFile:
        """A header with no line end after it is a whole file to us, and an empty one to pyarrow: end the line."""
        with file.open() as content:
            start = bytes(content.read(self._options.block_bytes))
        one_line = len(start) < self._options.block_bytes and b"\n" not in start and b"\r" not in start
        if start and one_line and "\n".encode(self._encoding) == b"\n":
            return pa.BufferReader(start + b"\n")
        return file.open()

    def _names(self, file: Input) -> list[str]:
        """The columns of a file, checked."""
        try:
            with file.failing():
                reject_utf16(file, self._encoding)
                with self._open(file) as reader:
                    names = list(reader.schema.names)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            self._explain(file, error, {})
        check_names(file, names)
        return names

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """Where the file can be cut into pieces of about equal size: at line ends, each of which ends a row. So it is
        in a file without a quote, or where the options say so."""
        options = self._options
        if self._encoding != "utf8" or file.codec:
            return []
        if options.newlines_in_values and holds_byte(file.path, options.quote.encode()):
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
        texts = dict.fromkeys(names, pa.string())
        alone = len(names) == 1
        seen: dict[str, Seen] = {name: Seen(pa.null()) for name in names}
        try:
            with file.failing(), self._open(file, texts, (), alone) as reader:
                for batch in reader:
                    seen = united((seen, self._seen(batch, expected)))
                    if self._options.infer == "sample":
                        break
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            self._explain(file, error, texts)
        return seen

    def _seen(self, batch: pa.RecordBatch, expected: pa.Schema | None) -> dict[str, Seen]:
        inferred = _convert(batch, None).schema
        seen = {}
        for field, values in zip(inferred, batch.columns, strict=True):
            what = _corrected(field.type, values)
            at = -1 if expected is None or field.name in self._columns else expected.get_field_index(field.name)
            if expected is not None and at >= 0 and not pa.types.is_null(what.type):
                what = Seen(what.type, what.rounds, _fits(field.type, what, values, expected.field(at).type))
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

    def _reject_open_quote(self, file: Input, last: object, row: int) -> None:
        """pyarrow takes a quote that is never closed for a value that reaches to the end of the file."""
        quote = self._options.quote
        if not isinstance(last, str) or (file.codec and "\n" not in last):
            return
        end = (quote + last.replace(quote, 2 * quote))[-4096:].encode(self._options.encoding)
        tail = _tail(file, 2 * len(end))
        if tail.endswith(end) and not tail.endswith(end + quote.encode()):
            raise file.bad(f"{_row(row)} has a quote that is never closed", "mend the row; the file may be truncated")

    def _explain(self, file: Input, error: Exception, types: Mapping[str, pa.DataType]) -> NoReturn:
        """Say what is wrong and where. The driver's text quotes the row, so it is neither shown nor chained."""
        text = str(error)
        with file.failing():
            if isinstance(error, UnicodeDecodeError):
                raise wrong_encoding(file, self._options.encoding) from None
            if "Empty CSV" in text and not self._begins_with_a_row(file):
                raise _empty(file) from None
            if "straddl" in text or "Empty CSV" in text:
                found = f"a row is longer than {self._options.block_bytes} bytes, or a quote is never closed"
                raise file.bad(found, "mend the quote, or give a larger options.block_bytes") from None
            raise self._bad_row(file, text, types) from None

    def _begins_with_a_row(self, file: Input) -> bool:
        """pyarrow says "empty" also where the first row does not end in the first block."""
        with file.open() as content:
            return bool(bytes(content.read(self._options.block_bytes)).removeprefix(codecs.BOM_UTF8).strip(b"\r\n"))

    def _bad_row(self, file: Input, text: str, types: Mapping[str, pa.DataType]) -> DponeError:
        row = -1
        if match := _ROW.search(text):
            row = int(match[1]) - int(self._options.header and file.begins)
        if match := _WIDTH.search(text):
            where = _row(row) if row > 0 else "a row"
            found = f"{where} has {match[2]} values, the file has {match[1]} columns"
            return file.bad(found, "mend the row, or set options.delimiter or options.quote to what the file uses")
        match = _COLUMN.search(text)
        if match is None:
            return file.bad("it cannot be parsed as CSV", "set options.format to what it is, or mend the file")
        names = list(self._options.names) or self._names_unchecked(file)
        name = names[int(match[1])] if int(match[1]) < len(names) else f"#{match[1]}"
        if "UTF8" in text:
            todo = "set options.encoding to what the file is in, such as latin-1 or cp1252"
            return file.bad(f"{_row(row)}, column {name!r} is not utf-8", todo)
        return _bad_value(file, row, name, types.get(name))

    def _names_unchecked(self, file: Input) -> list[str]:
        with self._open(file) as reader:
            return list(reader.schema.names)


def _tail(file: Input, size: int) -> bytes:
    """The last bytes of the content."""
    if file.span is not None:
        start, end = file.span
        file = Input(file.path, file.label, (max(start, end - size), end))
    with file.open() as content:
        if not file.codec and file.span is None:
            content.seek(max(0, content.size() - size))
        tail = b""
        while block := bytes(content.read(1 << 20)):
            tail = (tail + block)[-size:]
        return tail


def _row(row: int) -> str:
    return f"row {row} (of the data, from 1)" if row > 0 else "a row"


def _bad_value(file: Input, row: int, name: str, type_: pa.DataType | None) -> DataError:
    todo = f"mend the row, or declare the column in the source's options, as in columns: {{{name}: string}}"
    return file.bad(f"{_row(row)}, column {name!r} holds no valid {type_}", todo)


def _empty(file: Input) -> DataError:
    size = file.path.stat().st_size
    found = "the file is empty (0 bytes)" if not size else "the file has no header and no row"
    return file.bad(found, "write at least a header line, or remove the file")


def _convert(batch: pa.RecordBatch, type_: pa.DataType | None) -> pa.Table:
    """Texts through the reader's own conversion: to ``type_``, or to what it infers."""
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
            quoted_strings_can_be_null=False,
        ),
    )


def _corrected(type_: pa.DataType, values: pa.Array) -> Seen:
    """What pyarrow inferred, without what would lose something: leading zeros, digits, fractions of a second."""
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        inexact = _rounds(values)
        if _any(values, _NO_NUMBER) or (inexact and pa.types.is_floating(type_)):
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


def _rounds(values: pa.Array) -> bool:
    """Only numbers of 16 characters and more can have more digits than a double, and only an exponent of three digits
    can be beyond it."""
    beyond = pc.match_substring_regex(values, _LONG_EXPONENT)
    long = pc.filter(values, pc.or_(pc.greater(pc.binary_length(values), 15), beyond))
    return any(rounds(text) for text in long.to_pylist() if text is not None)


def _fits(inferred: pa.DataType, what: Seen, values: pa.Array, wanted: pa.DataType) -> bool:
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
        converted = _convert(batch, in_text(wanted)).column(0).combine_chunks()
        if in_text(wanted) != wanted:
            restored(converted, wanted)
    except (pa.ArrowException, BadValue):
        return False
    return True


def _text_may_be(wanted: pa.DataType, inferred: pa.DataType, values: pa.Array) -> bool:
    """Text goes into json and uuid; numbers that are kept as text for their digits into a decimal."""
    number = pa.types.is_integer(inferred) or pa.types.is_floating(inferred)
    return wanted in (JSON, UUID) or (pa.types.is_decimal(wanted) and number and not _any(values, _NO_NUMBER))
