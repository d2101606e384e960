"""Texts that would lose something as a number: ``007``, ``+49``, ``0x1F``, ``1E5``, or more digits than a double has.

pyarrow reads each of them as a number and drops the rest. Where types are inferred, such a text makes its column text;
where one comes after the rows that were looked at, the run stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.formats.csv_rows import CsvDialect, Places
from dpone.formats.types import rounds

# A code, a telephone number, a hexadecimal number; and digits, E, digits, as in a stock number. With an exponent,
# programs write a sign or a point (1e+16, 1.0E5).
NO_NUMBER = r"^\s*([+]|-?0[0-9xX]|-?[0-9]+[eE][0-9]+\s*$)"
_WHOLE = r"^\s*-?[0-9]+([.]0*)?\s*$"
_FAR_EXPONENT = r"[eE][+-]?[0-9]{3,}"
_MOST_EXACT = 1 << 53
_LONGEST = 18  # characters of a number that has no more than 17 digits, a point, and neither sign nor exponent
_Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
_Places = np.ndarray[Any, np.dtype[np.intp]]
_AFTER_ZERO, _BEGINS_NO_NUMBER = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
_AFTER_ZERO[list(b"0123456789xX")] = True
_BEGINS_NO_NUMBER[list(b"+ \t\v\f")] = True


def any_changes(texts: pa.Array, type_: pa.DataType) -> int:
    """The index of the first text that would change its value or lose digits as ``type_``; -1 if there is none."""
    codes = pc.index(pc.match_substring_regex(texts, NO_NUMBER), True).as_py()
    if not pa.types.is_floating(type_):
        return int(codes)
    return min((i for i in (codes, first_rounded(texts)) if i >= 0), default=-1)


def first_rounded(texts: pa.Array) -> int:
    """The index of the first number that a double cannot hold exactly; -1 if there is none.

    Up to 15 digits always fit, and a double is written with 17. So only longer numbers, integers, and numbers that may
    be outside the range of a double are checked one by one."""
    length = pc.binary_length(texts)
    digits = pc.replace_substring_regex(texts, r"[eE].*|[^0-9]", "")
    digits = pc.binary_length(pc.utf8_trim(digits, "0"))
    long = pc.or_(pc.greater(digits, 17), pc.or_(pc.match_substring_regex(texts, _WHOLE), pc.greater(length, 300)))
    doubtful = pc.or_(pc.and_(pc.greater(length, 15), long), pc.match_substring_regex(texts, _FAR_EXPONENT))
    for i in pc.indices_nonzero(doubtful).to_pylist():
        if rounds(texts[i].as_py()):
            return int(i)
    return -1


class Watch:
    """A cheap check of a block's bytes for such numbers; it has no false negatives, but True may be wrong. columns:
    name -> index in the file, of the columns that are read as numbers."""

    def __init__(self, dialect: CsvDialect, width: int, columns: Mapping[str, int]) -> None:
        self._separators, self._quote, self._width = dialect.delimiter + b"\n", dialect.quote[0], width
        self._places = Places()
        self._escape = dialect.escape
        self._columns = columns

    def may_change(self, block: bytes, table: pa.Table, heading: bool) -> bool:
        """table: the block as pyarrow read it. heading: the block begins with the header."""
        rows = table.num_rows + heading
        text = np.frombuffer(block, np.uint8)
        found = self._places.of(text, self._separators)
        # Every row has ``width`` values. So if there are no more delimiters and line ends than those between them, none
        # is inside a value, and no line is empty.
        if len(found) != rows * self._width or (self._escape is not None and self._escape in block):
            return True
        ends = found.reshape(rows, self._width)[heading:]
        before = np.append(-1, found[:-1]).reshape(rows, self._width)[heading:]
        starts = before[:, list(self._columns.values())] + 1
        if self._is_code(text, starts.ravel()):
            return True
        floats = [n for n, name in enumerate(self._columns) if pa.types.is_floating(table.column(name).type)]
        names, places = list(self._columns), list(self._columns.values())
        return any(self._is_inexact(text, table.column(names[n]), starts[:, n], ends[:, places[n]]) for n in floats)

    def _is_code(self, text: _Bytes, starts: _Places) -> bool:
        odd = starts[_not_1_to_9(text[starts])]
        for sign in (self._quote, ord("-")):
            odd = odd + (text[odd] == sign)
            odd = odd[_not_1_to_9(text[odd])]
        first = text[odd]
        return bool(_BEGINS_NO_NUMBER[first].any() or _AFTER_ZERO[text[odd[first == ord("0")] + 1]].any())

    def _is_inexact(self, text: _Bytes, values: pa.ChunkedArray, starts: _Places, ends: _Places) -> bool:
        length = ends - starts
        if int(length.max(initial=0)) > _LONGEST:
            first = text[starts]
            length -= 2 * (first == self._quote) + ((first == ord("0")) | (first == ord("-")))
            if int(length.max(initial=0)) > _LONGEST:
                return True
        doubles = values.to_numpy()
        whole = doubles == np.floor(doubles)  # also those beyond any double, which are infinite or 0
        if not whole.any():
            return False
        if float(np.abs(doubles[whole]).max()) >= _MOST_EXACT:
            return True
        return _has_exponent(text, starts[whole], ends[whole])


def _not_1_to_9(bytes_: _Bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return (bytes_ - np.uint8(ord("1"))) > 8


def _has_exponent(text: _Bytes, starts: _Places, ends: _Places) -> bool:
    while len(starts):
        if ((text[starts] | 0x20) == ord("e")).any():
            return True
        inside = starts + 1 < ends
        starts, ends = starts[inside] + 1, ends[inside]
    return False
