"""CSV rows as bytes: where a block ends, and what pyarrow would read differently than it was written.

pyarrow appends text after a closing quote to the value, drops every escape character, ends a row at a bare CR among
lines that end with LF, and reads a quote that is never closed as a value up to the end of the file. It raises for none
of these, so they are looked for here. Most blocks are cleared by counting bytes and by what stands next to the quotes;
any other block is matched row by row.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from attrs import frozen

_DOUBLED = "double a quote inside a value, or set options.escape if the file escapes it, as in escape: '\\'"
# A line of a piece of a file, where a CR at the end may be half of CRLF; a line of the last piece; the end of a line.
_LINE, _LAST_LINE = re.compile(rb"[^\r\n]*+(?:\r?\n|\r(?!\Z))"), re.compile(rb"[^\r\n]*+(?:\r?\n|\r|\Z)")
_LINE_END = re.compile(rb"\r?\n|\r")
_OPEN_ESCAPE = "ends with an escape", "fix the row; the file may be truncated"
_NO_ESCAPE = "fix the row, or remove options.escape if the file does not use it"


class Malformed(Exception):
    """A row does not follow the CSV dialect of the options. row, blank: number of lines with and without values before
    it in the block. column: from 1; 0: the row as a whole."""

    def __init__(self, row: int, blank: int, column: int, found: str, todo: str) -> None:
        super().__init__(found)
        self.row, self.blank, self.column, self.found, self.todo = row, blank, column, found, todo


class TooLong(Exception):
    """A row is longer than a block, or its quote is not closed within the block."""


class TooFew(Exception):
    """The file has fewer lines than are to be skipped. lines: how many it has."""

    def __init__(self, lines: int) -> None:
        super().__init__(lines)
        self.lines = lines


@frozen
class CsvDialect:
    """The characters that structure rows, one byte each. comment: starts a line that is not a row. trim: blanks around
    a value do not belong to it."""

    delimiter: bytes
    quote: bytes
    escape: bytes | None = None
    comment: bytes | None = None
    trim: bool = False


def below_top(
    texts: Iterable[bytes], skip: int, comment: bytes | None, blank: bool, most: int
) -> tuple[int, Iterator[bytes]]:
    """The number of lines left out at the top, and ``texts`` from the first row on: without a byte order mark, ``skip``
    lines, and then comments and, if ``blank``, empty lines. Raises TooFew, or TooLong for a line longer than ``most``
    bytes."""
    left_out = (comment or b"") + (b"\r\n" if blank else b"")
    data, seen, begun = b"", 0, False
    source = iter(texts)
    for more in chain(source, (None,)):
        line = _LINE if more is not None else _LAST_LINE
        data += more or b""
        if not begun and more is not None and len(data) < len(codecs.BOM_UTF8):
            continue
        data, begun, at = (data if begun else data.removeprefix(codecs.BOM_UTF8)), True, 0
        while at < len(data) and (seen < skip or data[at] in left_out) and (match := line.match(data, at)):
            seen, at = seen + 1, match.end()
        data = data[at:]
        if data and seen >= skip and data[0] not in left_out:
            return seen, chain([data], source)
        if len(data) > most:
            raise TooLong
    if seen < skip:
        raise TooFew(seen)
    return seen, iter(())


class Places:
    """Finds bytes in blocks. Reuses its memory: allocating fresh memory takes longer than searching it."""

    def __init__(self) -> None:
        self._masks = np.empty((2, 0), np.bool_)

    def of(self, text: np.ndarray[tuple[int], np.dtype[np.uint8]], bytes_: bytes) -> np.ndarray[Any, np.dtype[np.intp]]:
        if self._masks.shape[1] < len(text):
            self._masks = np.empty((2, len(text)), np.bool_)
        found, one = self._masks[:, : len(text)]
        np.equal(text, bytes_[0], out=found)
        for byte in bytes_[1:]:
            np.logical_or(found, np.equal(text, byte, out=one), out=found)
        return np.flatnonzero(found)


class Rows:
    """Cuts a file into blocks of whole rows. Use one object per pass over a file: it remembers the kind of line end."""

    def __init__(self, dialect: CsvDialect) -> None:
        self._delimiter, self._quote = dialect.delimiter, dialect.quote
        self._escape, self._comment, self._trim = dialect.escape, dialect.comment, dialect.trim
        self._places = Places()
        self._end: bytes | None = None  # "\n", also after "\r", or "\r"; None: no row yet
        d, q = re.escape(self._delimiter), re.escape(self._quote)
        e, escaped, unit = b"", b"", b""
        if self._escape is not None:
            e = re.escape(self._escape)
            escaped = rb"|%b[%b%b%b\r\n]" % (e, d, q, e)
            unit = rb"(?!%b\r\n)" % e  # outside of quotes: one line end that is escaped, or CR in a value before LF?
        space = b" \t".replace(self._delimiter, b"")
        around = rb"[%b]*+" % space if self._trim else b""
        self._blanks = space
        inside = rb"%b(?:[^%b%b]++|%b%b%b)*+" % (q, q, e, q, q, escaped)
        unquoted = rb"(?!%b)(?:%b(?:[^%b\r\n%b]++%b))*+" % (q, unit, d, e, escaped)
        field = rb"%b(?:%b%b%b|%b)" % (around, inside, q, around, unquoted)
        row = rb"%b(?:%b%b)*+" % (field, d, field)
        line = comment = b""
        if self._comment is not None:
            comment = rb"%b[^\r\n]*+" % re.escape(self._comment)
            row, line = rb"(?!%b)%b" % (re.escape(self._comment), row), b"|" + comment
        self._around, self._inside, self._unquoted, self._field = map(re.compile, (around, inside, unquoted, field))
        self._row = re.compile(rb"%b(\r?\n|\r(?!\Z))" % row)
        # As many lines as there are that end alike; the last line, whatever ends it; rows, and comments, that end.
        self._lines = [re.compile(rb"(?:(?:%b%b)%b)++" % (row, line, end)) for end in (rb"\r?\n", rb"\r(?!\n|\Z)")]
        self._last_line = re.compile(rb"(?:%b%b)(\r?)\Z" % (row, line))
        self._rows, self._comments = (re.compile(rb"(?:%b(?:\r?\n|\r))*+" % one) for one in (row, comment))
        edge = rb"(?=[%b\r\n])" % d
        self._outer = re.compile(rb"(?<![%b])[%b]++%b|(?:\A|(?<=[%b\r\n]))[%b]++" % (space, space, edge, d, space))
        bare = rb"(?!%b)(?:[^%b\r\n%b%b]++|[%b]++(?!%b)%b)*+" % (q, d, e, space, space, edge[3:-1], escaped)
        self._padded = re.compile(rb"(\A|[%b\r\n])%b(%b%b|%b)%b%b" % (d, around, inside, q, bare, around, edge))
        self._before_quote = _table(self._delimiter + self._quote + b"\n")
        self._after_quote = _table(self._delimiter + self._quote + b"\r\n")

    def blocks(self, content: Iterable[bytes], size: int) -> Iterator[bytes]:
        """``content`` in blocks of whole rows, about ``size`` bytes each. Raises Malformed or TooLong."""
        data = b""
        for more in content:
            data += more
            if len(data) < size:
                continue
            end = self.whole(data, final=False)
            if not end:
                raise TooLong
            if block := self.cleaned(data[:end]):
                yield block
            data = data[end:]
        if data:
            self.whole(data, final=True)
            if block := self.cleaned(self._ended(data)):
                yield block

    def first(self, content: Iterable[bytes], size: int) -> bytes:
        """The bytes of the first row, empty if there is none. Raises Malformed or TooLong."""
        data = b""
        for more in content:
            data += more
            if match := self._row.match(data):
                return match[0]
            self._look(data, 0, False)
            if len(data) >= size:
                raise TooLong
        self._matched(data, final=True)
        return self._ended(data) if data else data

    def _ended(self, data: bytes) -> bytes:
        """Adds a line end after the last row if it is missing: pyarrow rejects a header without one."""
        return data if data[-1:] in (b"\n", b"\r") else data + (self._end or b"\n")

    def whole(self, data: bytes, final: bool) -> int:
        """The number of bytes of ``data`` that are whole rows. final: all of them must be."""
        simple = self._end != b"\r" and (self._escape is None or self._escape not in data)
        if not simple or self._has_comment(data) or _bare_return(data, final):
            return self._matched(data, final)
        end = self._after_last_row(data) if self._quote in data else data.rfind(b"\n") + 1
        if end is None or (final and end < len(data)):
            return self._matched(data, final)
        if end:
            self._end = b"\n"
        return end

    def _after_last_row(self, data: bytes) -> int | None:
        """The end of the last row if every quote opens a field, closes one or is doubled; else None.

        The first, third, fifth ... quote opens: it is at the start of a field, or is the second of a doubled one. The
        others close: each is before the end of a field, or is the first of a doubled one."""
        text = np.frombuffer(data, np.uint8)
        quotes = self._places.of(text, self._quote)
        opening, closing = quotes[0::2], quotes[1::2]
        opening = opening[1:] if opening[0] == 0 else opening
        closing = closing[:-1] if len(closing) and closing[-1] == len(data) - 1 else closing
        if not (self._before_quote[text[opening - 1]].all() and self._after_quote[text[closing + 1]].all()):
            return None
        end = data.rfind(b"\n")
        while end >= 0 and (before := int(np.searchsorted(quotes, end))) % 2:  # it is inside a value
            end = data.rfind(b"\n", 0, int(quotes[before - 1]))
        return end + 1

    def _matched(self, data: bytes, final: bool) -> int:
        """The end of the last row, by matching row by row. Raises Malformed."""
        at = 0
        while at < len(data):
            match = self._lines[0].match(data, at) or self._lines[1].match(data, at)
            end = match[0][-1:] if match else b""
            if match is None and final and (match := self._last_line.match(data, at)):
                end = match[1]
                if not end and data[-1:] in _NAMES:  # the line end is escaped, and nothing comes after it
                    raise Malformed(*self._counted(data, at), 0, *_OPEN_ESCAPE)
            if match is None:
                self._look(data, at, final)
                break
            if end and self._end not in (None, end):
                found = f"ends with {_NAMES[end]}, the rows before it with {_NAMES[self._end or end]}"
                todo = "use one kind of line end, and quote a value that contains a line end"
                raise Malformed(*self._counted(data, at), 0, found, todo)
            self._end = end or self._end
            at = match.end()
        return at

    def _counted(self, data: bytes, end: int) -> tuple[int, int]:
        """The number of rows and of empty lines up to ``end``."""
        at = row = blank = 0
        while at < end:
            match = self._row.match(data, at)
            if match is not None:
                blank += match.start(1) == at
                row += match.start(1) != at
            at = (match or _LAST_LINE.match(data, at)).end()  # type: ignore[union-attr]  # there is a line
        return row, blank

    def _look(self, data: bytes, at: int, final: bool) -> None:
        """Raises Malformed if the row at ``at`` is wrong and not just cut off by the end of the block."""
        if self._comment is not None and data.startswith(self._comment, at):
            return
        start, column = at, 0
        found = todo = ""
        while not found:
            column += 1
            at = self._after(self._around, data, at)
            quoted = data.startswith(self._quote, at)
            at = self._after(self._inside if quoted else self._unquoted, data, at)
            if self._escape is not None and data.startswith(self._escape, at):
                if at + 1 < len(data):
                    found, todo = "has an escape before a character that must not be escaped", _NO_ESCAPE
                break
            if quoted and at < len(data):
                at = self._after(self._around, data, at + 1)
                if at < len(data) and not self._after_quote[data[at]]:
                    found, todo = "has text after a closing quote", _DOUBLED
                    if data[at : at + 1] in (b" ", b";", b"\t", b"|") and data.startswith(self._quote, at + 1):
                        todo = f"set options.delimiter, as in delimiter: {json.dumps(chr(data[at]))}, or {_DOUBLED}"
            if not data.startswith(self._delimiter, at):
                break
            at += 1
        if not found and final:
            found, todo = "has a quote that is never closed", "close the quote; the file may be truncated"
            if self._escape is not None and data.endswith(self._escape):
                found, todo = _OPEN_ESCAPE
        if found:
            raise Malformed(*self._counted(data, start), column, found, todo)

    @staticmethod
    def _after(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
        match = pattern.match(data, at)
        return match.end() if match else at

    def _has_comment(self, data: bytes) -> bool:
        """True if there may be a comment: a line, or a line of a quoted value, starts with the mark."""
        mark = self._comment
        if mark is None or mark not in data:  # one byte is found much faster than two
            return False
        return data.startswith(mark) or b"\n" + mark in data or b"\r" + mark in data

    def cleaned(self, data: bytes) -> bytes:
        """Whole rows with comments, and blanks around values, removed as the dialect says."""
        if self._has_comment(data):
            pieces, at = [], 0
            while at < len(data):
                end = self._after(self._rows, data, at)
                pieces.append(data[at:end])
                at = self._after(self._comments, data, end)
            data = b"".join(pieces)
        if not self._trim or not _adjacent(data, self._blanks, self._delimiter + b"\r\n"):
            return data
        if self._quote in data or (self._escape is not None and self._escape in data):
            return self._padded.sub(rb"\1\2", data)
        return self._outer.sub(b"", data)

    def filled(self, data: bytes, width: int, null: bytes) -> bytes:
        """Whole rows; those with fewer than ``width`` values are filled up with ``null``."""
        filler = self._delimiter + null
        quoted = self._quote in data
        escaped = self._escape is not None and self._escape in data
        if escaped or self._end == b"\r" or (quoted and self._after_last_row(data) is None):
            return b"".join(self._filled_row_by_row(data, width, filler))
        text = np.frombuffer(data, np.uint8)
        quotes = self._places.of(text, self._quote) if quoted else np.empty(0, np.intp)
        marks = self._places.of(text, self._delimiter + b"\n")
        marks = marks[np.searchsorted(quotes, marks) % 2 == 0]
        ends = np.flatnonzero(text[marks] == ord("\n"))
        widths, at = np.diff(ends, prepend=-1), marks[ends]
        at = at - (text[at - 1] == ord("\r"))
        missing = np.where((widths < width) & (at > np.append(0, marks[ends[:-1]] + 1)), width - widths, 0)
        values = np.tile(np.frombuffer(filler, np.uint8), int(missing.sum()))
        return bytes(np.insert(text, np.repeat(at, missing * len(filler)), values))

    def _filled_row_by_row(self, data: bytes, width: int, filler: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            start, values = at, 1
            at = self._after(self._field, data, at)
            while data.startswith(self._delimiter, at):
                values, at = values + 1, self._after(self._field, data, at + 1)
            yield data[start:at] + filler * (width - values if at > start else 0)
            start, at = at, self._after(_LINE_END, data, at)
            yield data[start:at]


_NAMES = {b"\n": "LF", b"\r": "CR alone"}  # of line ends


def _table(bytes_: bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A lookup table: byte value -> whether it is one of ``bytes_``."""
    table = np.zeros(256, np.bool_)
    table[list(bytes_)] = True
    return table


def _adjacent(data: bytes, some: bytes, others: bytes) -> bool:
    """Whether one of ``some`` is next to one of ``others``, or is the first byte."""
    text = np.frombuffer(data, np.uint8)
    one, other = (np.logical_or.reduce([text == byte for byte in bytes_]) for bytes_ in (some, others))
    return bool(one[0] or (one[:-1] & other[1:]).any() or (other[:-1] & one[1:]).any())


def _bare_return(data: bytes, final: bool) -> bool:
    """Whether a CR is not followed by LF. The LF of a CR at the end of a block may be in the next block."""
    if b"\r" not in data:
        return False
    text = np.frombuffer(data, np.uint8)
    return bool(((text[:-1] == ord("\r")) & (text[1:] != ord("\n"))).any()) or (final and data.endswith(b"\r"))
