"""Reads JSON Lines and arrays of objects. The types are only in the data, so a first pass reads all of it; the second
turns blocks into columns.

A block of lines is read by pyarrow where that is exact. If it is not (mixed types, nested values, numbers with many
digits), or if pyarrow rejects the block, the lines are split in Python, which keeps the text of every value and can
name the wrong line.

pyarrow's reader is native code that ends the process on some small inputs (pyarrow 26: a first line ``null``, or 20,000
brackets). So it gets only blocks that were checked first: every line is an object, and none is deeply nested.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import io
import json
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]  # in C, without a type stub

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pjson
from attrs import evolve, frozen

from dpone.errors import counted
from dpone.formats.input import Input
from dpone.formats.json_array import Elements
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
    from_text,
    require_declared,
    restored,
    rounds,
    settle,
)  # fmt: skip
from dpone.model.evolution import holds
from dpone.model.types import JSON, UUID

# With what stands before and after a value in valid JSON: most digits in a text have other neighbours.
_LONG_NUMBER = re.compile(rb"[:,\[\s]-?(?:[0-9][0-9.]{15,}(?:[eE][+-]?[0-9]+)?|[0-9.]+[eE][+-]?[0-9]{3,})[,\]}\s]")
_SPACE = re.compile(r"[ \t\r\n]*")
_BLANK = b" \t\r\n"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPENING = np.frombuffer(b"[{", np.uint8)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEEPEST = 64  # levels that pyarrow is given; its time grows with their square, and its stack ends at some 15,000
_EXACT_IN_DOUBLE = 1 << 53
_LONGEST_LINE = 1 << 26
# Numbers stay text, because only the end of a value is needed: since 3.11 Python refuses to convert more than 4,300
# digits.
_decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


@frozen
class _Block:
    """Whole lines of UTF-8. before: the number of lines before them in the file. unit: line or element, for
    messages."""

    data: bytes
    before: int
    unit: str


class JsonLines:
    """Reads files of one JSON object per line, or of one array of objects. ``columns`` are the declared types. A
    missing key is NULL."""

    def __init__(self, options: ReadOptions, columns: Mapping[str, pa.DataType]) -> None:
        self._options = options
        self._columns = columns
        self.given: Sequence[Collection[str]] = ()

    def schema(self, files: Sequence[Input], expected: pa.Schema | None) -> pa.Schema:
        looks = [united(_seen(file, block) for block in self._blocks(file)) for file in files]
        require_kin(files, looks)
        self.given = looks
        seen = united(looks)
        check_names(files[0], list(seen), "key")
        if seen:
            where = files[0].label if len(files) == 1 else counted(len(files), "file")
            require_declared(self._columns, {*seen}, where, expected)
        elif not self._columns:
            if expected is None or not len(expected):
                found = "it has no object with a key, so its columns are unknown"
                raise files[0].bad(found, "declare them in the source's options, as in columns: {id: int64}")
            return expected
        else:
            seen = {name: SeenValues(pa.null()) for name in self._columns}
        return settled(seen, self._columns, expected)

    def batches(self, file: Input, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for block in self._blocks(file):
            batch = batch_of(block.data, schema)
            yield batch if batch is not None else _slow(file, block, schema)

    def cuts(self, file: Input, pieces: int) -> list[int]:
        """Byte offsets of line starts at which the file can be cut: each line is one object. Empty for an array."""
        if not is_utf8(self._options.encoding) or file.codec or self._is_array(file):
            return []
        size = file.size
        return file.line_starts([size * i // pieces for i in range(1, pieces)])

    def end(self, file: Input) -> int:
        return file.size

    def _blocks(self, file: Input) -> Iterator[_Block]:
        """Blocks of about ``block_bytes`` that end with a line; a longer line is a block of its own."""
        before, rest = 0, list[bytes]()  # pieces of a line that has not ended
        try:
            with file.failing():
                reject_utf16(file, self._options.encoding)
                array = Elements(file) if self._is_array(file) else None
                unit = "element" if array else "line"
                for decoded in self._decoded(file):
                    data = array.lines(decoded) if array else decoded
                    whole, line_end, tail = data.rpartition(b"\n")
                    if line_end:
                        yield _Block(b"".join((*rest, whole, line_end)), before, unit)
                        before += whole.count(b"\n") + 1
                        rest = []
                    rest.append(tail)
                    if sum(map(len, rest)) > _LONGEST_LINE:
                        found = f"{unit} {before + 1} is longer than {_LONGEST_LINE} bytes"
                        raise file.bad(found, f"write one JSON object per {unit}")
                if array:
                    array.require_end()
                if last := b"".join(rest).strip():
                    yield _Block(last, before, unit)
        except UnicodeDecodeError:
            with file.failing():
                raise wrong_encoding(file, self._options.encoding) from None

    def _is_array(self, file: Input) -> bool:
        """Whether the first byte that is not blank is a bracket, which cannot start an object."""
        named = "json" if ".json" in map(str.lower, file.suffixes) else "jsonl"
        if not file.begins or (self._options.format or named) != "json":
            return False
        with closing(self._decoded(file)) as blocks:
            starts = (block.lstrip(_BLANK)[:1] for block in blocks)
            return next(filter(None, starts), b"") == b"["

    def _decoded(self, file: Input) -> Generator[bytes, None, None]:
        """The content as valid UTF-8. Raises UnicodeDecodeError."""
        encoding = "utf-8-sig" if is_utf8(self._options.encoding) else self._options.encoding
        decoder = codecs.getincrementaldecoder(encoding)()
        with file.open() as content:
            while data := bytes(content.read(self._options.block_bytes)):
                yield decoder.decode(data).encode()
        yield decoder.decode(b"", final=True).encode()


def _looked_at(data: bytes) -> int:
    """The number of lines; 0 unless each starts with { and ends with }, and none is deeply nested.

    A JSON string cannot contain a raw line end, and two members are separated by a comma. So if pyarrow then finds as
    many values as lines, each value is the object of its line.
    """
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    last = text[ends - 1]
    last = np.where(last == ord("\r"), text[np.maximum(ends - 2, 0)], last)
    if not ((text[starts] == ord("{")).all() and (last == ord("}")).all()):
        return 0
    opening = (text | 0x20) == ord("{")  # also "[", which differs by this one bit
    most = np.add.reduceat(opening, starts, dtype=np.int32).max()
    return 0 if most > _DEEPEST and _depth(data) > _DEEPEST else len(ends)


def _depth(data: bytes) -> int:
    """The deepest nesting level, if the data is valid JSON."""
    brackets = np.frombuffer(_STRING.sub(b"", data).translate(None, _ALL_BUT_BRACKETS), np.uint8)
    depth = deepest = 0
    for start in range(0, len(brackets), 1 << 20):
        depths = depth + np.cumsum(np.where(np.isin(brackets[start : start + (1 << 20)], _OPENING), 1, -1))
        depth, deepest = int(depths[-1]), max(deepest, int(depths.max()))
    return deepest


def read_lines(data: bytes, options: pjson.ParseOptions | None = None) -> pa.Table | None:
    """Lines read by pyarrow; None if they are not safe for it, it rejects them, or it finds another number of rows."""
    data = data if data.endswith(b"\n") else data + b"\n"
    lines = _looked_at(data)
    if not lines:  # the reason may be just blank lines, or blanks around an object
        data = b"".join(line + b"\n" for line in (line.strip(_BLANK) for line in data.split(b"\n")) if line)
        lines = _looked_at(data) if data else 0
    if not lines:
        return None
    try:
        read = pjson.ReadOptions(use_threads=False, block_size=len(data) + 1)
        table = pjson.read_json(io.BytesIO(data), read_options=read, parse_options=options)
        return table if table.num_rows == lines and len(set(table.schema.names)) == table.num_columns else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None


def _simple(type_: pa.DataType) -> bool:
    """Whether pyarrow reads the type from JSON without loss."""
    numbers = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    return bool(numbers or pa.types.is_boolean(type_) or type_ == pa.string())


def _read_as(type_: pa.DataType) -> pa.DataType | None:
    """The type as which pyarrow reads such values: text for a type that it does not support, so that it never guesses.
    None for json, whose exact text only the line has. A struct is a nested object."""
    if pa.types.is_struct(type_):
        fields = [(f.name, _read_as(f.type)) for f in type_]
        return None if any(read is None for _, read in fields) else pa.struct(fields)
    if _simple(type_):
        return type_
    return None if type_ == JSON else pa.string()


def batch_of(data: bytes, schema: pa.Schema) -> pa.RecordBatch | None:
    """A block read by pyarrow, column by column; None if a value or type needs the line itself. Texts are converted by
    the same function as in ``column_of``, so both give the same values."""
    read = [(f.name, _read_as(f.type)) for f in schema]
    if any(type_ is None for _, type_ in read):
        return None
    table = read_lines(data, pjson.ParseOptions(explicit_schema=pa.schema(read), unexpected_field_behavior="ignore"))
    if table is None:
        return None
    batches = table.select(schema.names).combine_chunks().to_batches()
    if not batches:
        return None
    try:
        columns = [_restored(batches[0].column(f.name), f.type) for f in schema]
    except BadValue:
        return None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _restored(column: pa.Array, type_: pa.DataType) -> pa.Array:
    """Convert a column from the type of ``_read_as`` to its own type. Raises BadValue."""
    if pa.types.is_struct(type_):
        members = [_restored(member, f.type) for member, f in zip(column.flatten(), type_, strict=True)]
        return pa.StructArray.from_arrays(members, fields=list(type_), mask=column.is_null())
    if pa.types.is_floating(type_) and pc.any(pc.is_inf(column)).as_py():
        raise BadValue(0)  # pyarrow turns a number beyond the range of its type into infinity
    if pa.types.is_decimal(type_):
        try:  # pyarrow 26 counts the digits before it adds the zeros of the scale: 12345678 becomes a decimal(9, 2)
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise BadValue(0) from None
    return column if column.type == type_ else _of_texts(column, type_)


def _slow(file: Input, block: _Block, schema: pa.Schema) -> pa.RecordBatch:
    numbers: list[int] = []
    texts: dict[str, list[str | None]] = {name: [] for name in schema.names}
    for number, row in _rows(file, block):
        numbers.append(number)
        for name, column in texts.items():
            column.append(row.get(name))
    columns = []
    for field in schema:
        if not any(texts[field.name]):  # a column without a value may have any type
            columns.append(pa.nulls(len(numbers), field.type))
            continue
        try:
            columns.append(column_of(texts[field.name], field.type))
        except BadValue as error:
            todo = f"fix the {block.unit}, or declare the column, as in columns: {{{field.name}: json}}"
            found = f"{block.unit} {numbers[error.index]}, column {field.name!r} has an invalid {field.type}"
            raise file.bad(found, todo) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _rows(file: Input, block: _Block) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number from 1, and key -> the JSON text of its value."""
    for number, line in enumerate(block.data.decode().split("\n"), block.before + 1):
        if not line.strip(_BLANK.decode()):
            continue
        try:
            yield number, members(line)
        except RecursionError:
            found = f"{block.unit} {number} is nested too deeply"
            raise file.bad(found, "flatten the value, or write it as a JSON string") from None
        except (ValueError, IndexError) as error:
            found = f"{block.unit} {number} {_wrong(error)}"
            todo = "write one JSON object per line, or an array of objects, or set options.format to the file's format"
            if block.unit == "line" and _is_open(line, error):
                found = f"line {number} is not a whole JSON object: the object continues on the next line"
                todo = "write each object on one line, or write an array: [ first, commas between the objects, ] last"
            raise file.bad(found, todo if block.unit == "line" else "write one JSON object per element") from None


def _wrong(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    return f"is not JSON (at character {error.pos + 1})" if isinstance(error, JSONDecodeError) else "is not JSON"


def _is_open(line: str, error: Exception) -> bool:
    """True if the line is only the start of an object, as in a pretty-printed file."""
    at_the_end = (
        error.pos >= len(line.rstrip()) if isinstance(error, JSONDecodeError) else isinstance(error, IndexError)
    )
    return at_the_end and line.lstrip(_BLANK.decode()).startswith("{")


class _Refused(ValueError):
    """Valid JSON that is not a row."""


def members(line: str) -> dict[str, str]:
    """The members of one object, with values as JSON text, so that no digit is lost. Raises ValueError, IndexError."""
    at = _skip(line, 0)
    if line[at] != "{":
        _decode(line, at)  # raises if the line is not JSON at all, which is the better message
        raise _Refused("is JSON, but not an object")
    row: dict[str, str] = {}
    at = _skip(line, at + 1)
    while line[at] != "}" or row:
        if line[at] != '"':
            raise JSONDecodeError("expected a key", line, at)
        key, at = scanstring(line, at + 1, True)
        at = _skip(line, at)
        if line[at] != ":":
            raise JSONDecodeError("expected a colon", line, at)
        start = _skip(line, at + 1)
        _, at = _decode(line, start)
        if key in row:
            raise _Refused(f"has the key {key!r} twice")
        if not key.isascii() and not _is_unicode(key):
            raise _Refused(f"has the key {key!a}, which is not valid Unicode")
        row[key] = line[start:at]
        at = _skip(line, at)
        if line[at] == "}":
            break
        if line[at] != ",":
            raise JSONDecodeError("expected a comma", line, at)
        at = _skip(line, at + 1)
    if _skip(line, at + 1) != len(line):
        raise JSONDecodeError("something after the object", line, at + 1)
    return row


def _is_unicode(text: str) -> bool:
    """False for half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _skip(line: str, at: int) -> int:
    match = _SPACE.match(line, at)
    return match.end() if match else at


def _seen(file: Input, block: _Block) -> dict[str, SeenValues]:
    looks = seen_in_lines(block.data)
    if looks is None:
        return united({k: seen_in(v) for k, v in row.items()} for _, row in _rows(file, block))
    return united(looks)


def seen_in_lines(data: bytes, inside: Sequence[str] = ()) -> list[dict[str, SeenValues]] | None:
    """What the members of the lines' objects hold, or those of the objects ``inside`` them, as pyarrow reads them.
    None if that is not exact: then each line must be split."""
    table = read_lines(data)
    if table is None:
        return None
    objects = [_members(table.column(name)) for name in inside if name in table.column_names]
    objects = objects if inside else [dict(zip(table.column_names, table.columns, strict=True))]
    if any(inexact(data, [column.type for column in one.values()]) for one in objects):
        return None
    return [{name: _inferred(column) for name, column in one.items()} for one in objects]


def _members(column: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """The columns of an object; none if it has no member in any line."""
    return (
        {f.name: member for f, member in zip(column.type, column.flatten(), strict=True)}
        if pa.types.is_struct(column.type)
        else {}
    )


def inexact(data: bytes, types: Iterable[pa.DataType]) -> bool:
    """True if the block has a double column and a long number, which may be in that column. Digits inside a string do
    not count."""
    if not any(map(pa.types.is_floating, types)):
        return False
    at = 0
    while found := _LONG_NUMBER.search(data, at):  # each line is checked once, however many it has
        start = data.rfind(b"\n", 0, found.start()) + 1
        at = data.find(b"\n", found.end() - 1) + 1 or len(data)
        if _LONG_NUMBER.search(_STRING.sub(b'""', data[start:at])):
            return True
    return False


def _inferred(column: pa.ChunkedArray) -> SeenValues:
    type_ = column.type
    if pa.types.is_timestamp(type_):  # pyarrow's guess at a text; a JSON string stays text
        return SeenValues(pa.string(), clash=JSON)
    if pa.types.is_nested(type_):
        return SeenValues(JSON, clash=JSON)
    if pa.types.is_integer(type_):
        ends = pc.min_max(column).as_py()
        return SeenValues(type_, any(abs(v) > _EXACT_IN_DOUBLE for v in ends.values() if v is not None), clash=JSON)
    return SeenValues(type_, clash=JSON)


def seen_in(text: str) -> SeenValues:
    """The type of one value by its JSON text."""
    first = text[0]
    if first == "n":
        return SeenValues(pa.null(), clash=JSON)
    if first in "{[":
        return SeenValues(JSON, clash=JSON)
    if first == '"':
        return SeenValues(pa.string(), clash=JSON)
    if first in "tf":
        return SeenValues(pa.bool_(), clash=JSON)
    inexact = rounds(text)
    if text.lstrip("-").isdigit():
        if len(text) <= 20 and -(1 << 63) <= int(text) < 1 << 63:
            return SeenValues(pa.int64(), inexact, clash=JSON)
        return SeenValues(JSON, True, clash=JSON)  # as JSON, so that all digits are kept
    return SeenValues(JSON if inexact else pa.float64(), inexact, clash=JSON)


def settled(
    seen: Mapping[str, SeenValues], columns: Mapping[str, pa.DataType], expected: pa.Schema | None
) -> pa.Schema:
    """The schema to read with: see ``types.settle``."""
    if expected is not None:
        seen = {name: evolve(what, fits=_fits(what, name, expected)) for name, what in seen.items()}
    return settle(seen, columns, expected)


def _fits(what: SeenValues, name: str, expected: pa.Schema) -> bool | None:
    at = expected.get_field_index(name)
    if at < 0 or pa.types.is_null(what.type):
        return None
    wanted = expected.field(at).type
    if wanted == JSON:
        return True  # any value has its JSON text
    if what.type == pa.int64() and wanted == pa.float64():
        return not what.rounds
    return holds(wanted, what.type)


def column_of(values: list[str | None], type_: pa.DataType) -> pa.Array:
    """JSON texts as an array. Raises BadValue with the index of the first text that does not fit."""
    if type_ == JSON:
        return pa.ExtensionArray.from_storage(type_, pa.array([_or_null(v) for v in values], pa.string()))
    if pa.types.is_boolean(type_):
        return pa.array([_boolean(i, v) for i, v in enumerate(values)], type_)
    return _of_texts(pa.array([_text(i, v) for i, v in enumerate(values)], pa.string()), type_)


def _of_texts(texts: pa.Array, type_: pa.DataType) -> pa.Array:
    if type_ == UUID:
        return restored(texts, type_)
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return pa.array([_bytes(i, v) for i, v in enumerate(texts.to_pylist())], type_)
    return from_text(texts, type_)


def _or_null(value: str | None) -> str | None:
    return None if value == "null" else value


def _text(i: int, value: str | None) -> str | None:
    if value is None or value == "null":
        return None
    if value[0] != '"':
        return value
    text = str(json.loads(value))
    if not _is_unicode(text):
        raise BadValue(i)
    return text


def _boolean(i: int, value: str | None) -> bool | None:
    if value not in (None, "null", "true", "false"):
        raise BadValue(i)
    return None if value in (None, "null") else value == "true"


def _bytes(i: int, value: str | None) -> bytes | None:
    try:
        return None if value is None else base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BadValue(i) from None
