"""Rows of CSV as bytes: where a block ends, and what is written another way than pyarrow would read it.

pyarrow appends text after a closing quote to the value, drops every escape character, ends a row at a bare CR among
lines that end with LF, and reads a quote that is never closed as a value up to the end of the file. It raises for none
of these, so they are looked for here. Most blocks are cleared by counting bytes and by what stands next to the quotes;
any other block is matched row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_DOUBLED = "write a quote inside a value twice, or set options.escape if the file escapes it, as in escape: '\\'"
_NO_ESCAPE = "fix the row, or leave out options.escape if the file escapes nothing"


class Malformed(Exception):
    """A row is not CSV as the options have it. row, blank: lines with values and lines without before it, in the block.
    column: from 1; 0: the row as a whole."""

    def __init__(self, row: int, blank: int, column: int, found: str, todo: str) -> None:
        super().__init__(found)
        self.row, self.blank, self.column, self.found, self.todo = row, blank, column, found, todo


class TooLong(Exception):
    """A row does not fit a block, or a quote is not closed within it."""


class Places:
    """Finds bytes in blocks. It uses its memory again: to get fresh memory takes longer than to search it."""

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
    """Cuts a file into blocks of whole rows. One per reading of a file: it remembers how rows end."""

    def __init__(self, delimiter: str, quote: str, escape: str | None) -> None:
        self._delimiter, self._quote = delimiter.encode(), quote.encode()
        self._escape = escape.encode() if escape is not None else None
        self._places = Places()
        self._end: bytes | None = None  # "\n", also after "\r", or "\r"; None: no row yet
        d, q = re.escape(self._delimiter), re.escape(self._quote)
        e, escaped = b"", b""
        if self._escape is not None:
            e = re.escape(self._escape)
            escaped = rb"|%b[%b%b%b\r\n]" % (e, d, q, e)
        inside = rb"%b(?:[^%b%b]++|%b%b%b)*+" % (q, q, e, q, q, escaped)
        plain = rb"(?!%b)(?:[^%b\r\n%b]++%b)*+" % (q, d, e, escaped)
        field = rb"(?:%b%b|%b)" % (inside, q, plain)
        self._inside, self._plain, self._quoted = map(re.compile, (inside, plain, inside + q))
        row = rb"%b(?:%b%b)*+" % (field, d, field)
        self._row = re.compile(rb"%b(\r?\n|\r(?!\Z))" % row)
        self._last_row = re.compile(rb"%b(\r?\n|\r|\Z)" % row)
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
            yield data[:end]
            data = data[end:]
        if data:
            self.whole(data, final=True)
            yield self._ended(data)

    def first(self, content: Iterable[bytes], size: int) -> bytes:
        """The first row, empty if there is none. Raises as ``blocks``."""
        data = b""
        for more in content:
            data += more
            if match := self._row.match(data):
                return match[0]
            self._look(data, 0, False, 0, 0)
            if len(data) >= size:
                raise TooLong
        self._matched(data, final=True)
        return self._ended(data) if data else data

    def _ended(self, data: bytes) -> bytes:
        """With an end of the last row, where the file lacks it: pyarrow does not take a header without one."""
        return data if data[-1:] in (b"\n", b"\r") else data + (self._end or b"\n")

    def whole(self, data: bytes, final: bool) -> int:
        """How many bytes of ``data`` are whole rows. final: all of them have to be."""
        simple = self._end != b"\r" and (self._escape is None or self._escape not in data)
        if not simple or _bare_return(data, final):
            return self._matched(data, final)
        end = self._after_last_row(data) if self._quote in data else data.rfind(b"\n") + 1
        if end is None or (final and end < len(data)):
            return self._matched(data, final)
        if end:
            self._end = b"\n"
        return end

    def _after_last_row(self, data: bytes) -> int | None:
        """The end of the last row if every quote opens a field, closes one or is doubled; else None.

        The first, third, fifth quote opens: it stands where a field begins, or is the second of a doubled one. The
        others close: each stands before what ends a field, or is the first of a doubled one."""
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
        """The end of the last row, by matching each of them."""
        at = row = blank = 0
        pattern = self._last_row if final else self._row
        while at < len(data):
            match = pattern.match(data, at)
            if match is None:
                self._look(data, at, final, row, blank)
                break
            end = match[1][-1:]
            if end and self._end not in (None, end):
                found = f"ends with {_NAMES[end]}, the rows before it with {_NAMES[self._end or end]}"
                raise Malformed(row, blank, 0, found, "end all rows alike, and quote a value that holds a line end")
            self._end = end or self._end
            if match.start(1) == at:
                blank += 1
            else:
                row += 1
            at = match.end()
        return at

    def _look(self, data: bytes, at: int, final: bool, row: int, blank: int) -> None:
        """Raises Malformed if the row at ``at`` is wrong, and not only cut short by the end of the block."""
        column = 0
        found = todo = ""
        while not found:
            column += 1
            quoted = data.startswith(self._quote, at)
            match = (self._inside if quoted else self._plain).match(data, at)
            at = match.end() if match else at
            if self._escape is not None and data.startswith(self._escape, at):
                if at + 1 < len(data):
                    found, todo = "has an escape before a character that needs none", _NO_ESCAPE
                break
            if quoted and at < len(data):
                at += 1
                if at < len(data) and not self._after_quote[data[at]]:
                    found, todo = "has text after a closing quote", _DOUBLED
            if not data.startswith(self._delimiter, at):
                break
            at += 1
        if not found and final:
            found, todo = "has a quote that is never closed", "close the quote; the file may be truncated"
            if self._escape is not None and data.endswith(self._escape):
                found, todo = "ends with an escape", "fix the row; the file may be truncated"
        if found:
            raise Malformed(row, blank, column, found, todo)


_NAMES = {b"\n": "LF", b"\r": "CR alone"}


def _table(bytes_: bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """byte -> is it one of these?"""
    table = np.zeros(256, np.bool_)
    table[list(bytes_)] = True
    return table


def _bare_return(data: bytes, final: bool) -> bool:
    """Is there a CR without an LF after it? One that ends a block may have its LF in the next."""
    if b"\r" not in data:
        return False
    text = np.frombuffer(data, np.uint8)
    return bool(((text[:-1] == ord("\r")) & (text[1:] != ord("\n"))).any()) or (final and data.endswith(b"\r"))
