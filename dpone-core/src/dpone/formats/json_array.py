"""Turns a file that is one JSON array into JSON Lines: one line per element, with every byte of the element
unchanged."""

from __future__ import annotations

import re
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from dpone.formats.input import Input

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _COMMA, _LINE_END, _BLANK = b'",\n '
_MARKS = np.isin(np.arange(256), list(b'"[]{},\n'))
_Flags = npt.NDArray[np.bool_]


class Elements:
    """Cuts the UTF-8 of one file, block by block. It recognises only brackets and texts: everything between two commas
    is the element, unchanged except that line ends outside texts become blanks."""

    def __init__(self, file: Input) -> None:
        self._file = file
        self._depth = self._count = 0
        self._begun = self._ended = False
        self._in_text = self._escaping = False  # the last block ended in a text; after a backslash
        self._filled = False  # the current element begins as an object or an array does

    def lines(self, data: bytes) -> bytes:
        """The next block as lines; the last element may not have ended. Raises DataError."""
        if self._ended or not data:
            self._require_blank(data)
            return b""
        at, marks = self._marks(data)
        opening, closing = (marks | 0x20) == ord("{"), (marks | 0x20) == ord("}")  # "[" and "]" differ by this one bit
        depth = self._depth + np.cumsum(opening.astype(np.int32) - closing)
        if (ends := np.flatnonzero(closing & (depth == 0))).size:
            self._ended = True
            last = slice(0, int(ends[0]) + 1)
            at, marks, depth, opening = at[last], marks[last], depth[last], opening[last]
        cut = (marks == _COMMA) & (depth == 1)
        cut[-1:] |= self._ended
        self._require_filled(opening & (depth == 2), cut)
        text = np.frombuffer(data, np.uint8).copy()
        text[at[marks == _LINE_END]] = _BLANK
        text[at[cut]] = _LINE_END
        if not self._begun and opening.any():
            text[at[opening.argmax()]] = _BLANK  # the bracket of the array itself
            self._begun = True
        self._depth = int(depth[-1]) if depth.size else self._depth
        return self._last(data, text, int(at[-1])) if self._ended else text.tobytes()

    def _marks(self, data: bytes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]]:
        """Places and bytes of the marks that are not in a text."""
        bare = b"_" + data[1:] if self._escaping else data
        bare = _ESCAPE.sub(b"__", bare) if b"\\" in bare else bare
        self._escaping = bare.endswith(b"\\")
        text = np.frombuffer(bare, np.uint8)
        at = np.flatnonzero(_MARKS[text])
        marks = text[at]
        quotes = marks == _QUOTE
        in_text = (np.cumsum(quotes) + self._in_text) % 2 == 1
        self._in_text = bool(in_text[-1]) if in_text.size else self._in_text
        outside = ~in_text & ~quotes
        return at[outside], marks[outside]

    def _require_filled(self, begins: _Flags, cut: _Flags) -> None:
        """Check that no element is empty (it would look like an empty line), and that none is just a number or text."""
        cuts = cut[begins | cut]
        empty = cuts & np.append(not self._filled, cuts[:-1]) if cuts.size else cuts
        none = self._ended and not self._count and cuts.size == 1  # an array may be empty as a whole
        if empty.any() and not none:
            number = self._count + int(cuts[: empty.argmax() + 1].sum())
            self._fail(f"element {number} of the JSON array is not an object", "fix it, or remove the extra comma")
        self._filled = not cuts[-1] if cuts.size else self._filled
        self._count += int(cuts.sum())

    def _last(self, data: bytes, text: npt.NDArray[np.uint8], end: int) -> bytes:
        if data[end : end + 1] != b"]":
            self._fail("the JSON array is closed with }", "close it with ]")
        self._require_blank(data[end + 1 :])
        return text[: end + 1].tobytes()

    def _require_blank(self, data: bytes) -> None:
        if data.strip(b" \t\r\n"):
            self._fail("there is data after the JSON array", "keep one array in the file")

    def require_end(self) -> None:
        """Raises DataError for a file that ends before its array does."""
        if not self._ended:
            self._fail("the JSON array is not closed", "write or fetch the file again: its end is missing")

    def _fail(self, found: str, todo: str) -> NoReturn:
        raise self._file.bad(found, todo)
