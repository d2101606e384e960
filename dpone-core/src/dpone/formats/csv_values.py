"""Numbers, dates and times in a notation that pyarrow does not read.

pyarrow knows a decimal mark, and texts for true and false. It does not know a separator of thousands, and
it reads formats with C's strptime: the 31st of February is the 2nd of March, and 24 is the year 24. So numbers with
separators, dates and times in a format come as text and are converted here, column by column, or refused.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from dpone.formats.options import ReadOptions
from dpone.formats.time_format import MONTHS, pattern
from dpone.formats.types import BadValue, from_text, in_text, restored

_HOURS = pa.array([f"{hour or 12:02}{half}" for half in ("am", "pm") for hour in range(12)])


def is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


class Notation:
    """The notation of all files of a source."""

    def __init__(self, options: ReadOptions) -> None:
        self._decimal, self._thousands = options.decimal, options.thousands
        self._number = _number(options.decimal, options.thousands)
        self._date = pattern("date_format", options.date_format) if options.date_format else None
        self._time = pattern("timestamp_format", options.timestamp_format) if options.timestamp_format else None

    def read_as(self, type_: pa.DataType) -> pa.DataType:
        """The type in which pyarrow is to read the column; if it is another one, ``converted`` makes the values."""
        grouped = self._thousands is not None and is_number(type_)
        return pa.string() if grouped or self._format(type_) is not None else in_text(type_)

    def converted(self, texts: pa.Array, type_: pa.DataType) -> pa.Array:
        """Texts -> ``type_``; raises BadValue with the index of the first that is not of it."""
        form = self._format(type_)
        if form is None and not is_number(type_):
            return restored(texts, type_)
        if form is None:
            is_one = pc.match_substring_regex(texts, self._number)
            standard = pc.replace_substring_regex(self.pointed(texts), r"^\+", "")
        else:
            standard = iso(texts, form, pa.types.is_timestamp(type_))
            if self._date is not None and pa.types.is_timestamp(type_) and type_.tz is None:
                standard = pc.coalesce(standard, iso(texts, self._date, True))  # a date is midnight, as in ISO 8601
            is_one = pc.or_(pc.is_valid(standard), pc.is_null(texts))
        if (bad := pc.index(is_one, False).as_py()) >= 0:
            raise BadValue(bad)
        return from_text(standard, type_)

    def pointed(self, texts: pa.Array) -> pa.Array:
        """Numbers with a point, and without separators of thousands."""
        if self._thousands is not None:
            texts = pc.replace_substring(pc.utf8_trim(texts, " \t"), self._thousands, "")
        return texts if self._decimal == "." else pc.replace_substring(texts, self._decimal, ".")

    def standard(self, texts: pa.Array) -> pa.Array | None:
        """Texts as pyarrow would infer their type, if all are dates, times or numbers of these options; else None."""
        for form, type_ in ((self._date, pa.date32()), (self._time, pa.timestamp("s"))):
            if form is None:
                continue
            try:
                times = iso(texts, form, pa.types.is_timestamp(type_))
                whole = pc.replace_substring_regex(times, r"[.].*|([+-][0-9]{2}:?[0-9]{2}|Z)$", "")
                if times.null_count == texts.null_count and whole.cast(type_):
                    return times
            except pa.ArrowException:
                continue
        if self._plain_numbers or not pc.all(pc.match_substring_regex(texts, self._number)).as_py():
            return None
        return self.pointed(texts)

    def writes(self, type_: pa.DataType) -> bool:
        """True if an option sets the notation of the type: then no other notation counts."""
        return self._format(type_) is not None or (not self._plain_numbers and is_number(type_))

    @property
    def _plain_numbers(self) -> bool:
        return self._decimal == "." and self._thousands is None

    def _format(self, type_: pa.DataType) -> str | None:
        if pa.types.is_date(type_):
            return self._date
        return self._time if pa.types.is_timestamp(type_) else None


def _number(decimal: str, thousands: str | None) -> str:
    point = re.escape(decimal)
    whole = "[0-9]+"
    if thousands is not None:
        # No group is filled up with zeros: 0.123 is a fraction, whatever the mark of thousands.
        whole += f"|[1-9][0-9]{{0,2}}(?:{re.escape(thousands)}[0-9]{{3}})+"
    finite = f"(?:(?:{whole})(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    return rf"^[ \t]*[+-]?(?:{finite}|(?i:nan|inf|infinity))[ \t]*$"


def iso(texts: pa.Array, form: str, with_time: bool) -> pa.Array:
    """Dates or times in ISO 8601; NULL for a text of another form. The cast checks that the day exists."""
    found = pc.extract_regex(pc.utf8_trim(texts, " \t"), form)
    parts = {f.name: pc.struct_field(found, f.name) for f in found.type}
    made = pc.binary_join_element_wise(_year(parts), _month(parts), _two(parts["d"]), "-")
    if not with_time:
        return made
    clock = [_hour(parts), *(_two(parts[name]) if name in parts else "00" for name in "MS")]
    made = pc.binary_join_element_wise(made, pc.binary_join_element_wise(*clock, ":"), " ")
    if "f" in parts:
        made = pc.binary_join_element_wise(made, parts["f"], ".")
    return pc.binary_join_element_wise(made, parts["z"], "") if "z" in parts else made


def _two(digits: pa.Array) -> pa.Array:
    return pc.utf8_lpad(digits, 2, "0")


def _year(parts: dict[str, pa.Array]) -> pa.Array:
    """Of two digits as POSIX has it: 1969 to 2068."""
    if "Y" in parts:
        return parts["Y"]
    return pc.binary_join_element_wise(pc.if_else(pc.greater_equal(parts["y"], "69"), "19", "20"), parts["y"], "")


def _month(parts: dict[str, pa.Array]) -> pa.Array:
    if "m" in parts:
        return _two(parts["m"])
    name = pc.utf8_slice_codeunits(pc.utf8_lower(parts.get("b", parts.get("B"))), 0, 3)
    return _two(pc.add(pc.index_in(name, pa.array(MONTHS)), 1).cast(pa.string()))


def _hour(parts: dict[str, pa.Array]) -> pa.Array | str:
    if "I" not in parts:
        return _two(parts["H"]) if "H" in parts else "00"
    of_12 = pc.binary_join_element_wise(_two(parts["I"]), pc.utf8_lower(parts["p"]), "")
    return _two(pc.index_in(of_12, _HOURS).cast(pa.string()))
