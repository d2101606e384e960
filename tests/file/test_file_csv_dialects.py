"""Any table in any dialect: what Python's ``csv`` writes is read as it was, or refused, and never as another table.

A file may be one table in one dialect and another in another: ``'a'`` is three letters where the quote is ``"``. So
what is read with a dialect that is not the writer's may differ only where Python's own strict reader reads the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv as pcsv
import pytest
from attrs import evolve, frozen
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tests.file.test_file_csv import read

from dpone.errors import DponeError
from dpone.formats import csv as csv_format
from dpone.formats import csv_rows
from dpone.formats.csv_rows import Malformed, Rows

CELLS = st.text(st.sampled_from(list("ab,;\"'\\\n\r \t|#é0-")), max_size=8)
TABLES = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=9))
Table = list[list[str]]


@frozen
class Dialect:
    delimiter: str
    quotechar: str
    escapechar: str | None
    quoting: int
    lineterminator: str
    skipinitialspace: bool

    @property
    def of_writer(self) -> dict[str, Any]:
        return {
            "delimiter": self.delimiter, "quotechar": self.quotechar, "escapechar": self.escapechar,
            "doublequote": self.escapechar is None, "quoting": self.quoting, "lineterminator": self.lineterminator,
        }  # fmt: skip

    @property
    def of_reader(self) -> dict[str, Any]:
        """A quote that is written twice is one, with an escape too, and quotes count whatever the writer left out."""
        read = {"skipinitialspace": self.skipinitialspace, "doublequote": True, "quoting": csv.QUOTE_MINIMAL}
        return self.of_writer | read | {"strict": True}

    def options(self, width: int) -> dict[str, Any]:
        return {
            "delimiter": self.delimiter, "quote": self.quotechar, "escape": self.escapechar,
            "trim": self.skipinitialspace, "columns": {f"c{i}": "string" for i in range(width)},
            "null_values": ("never",), "block_bytes": 4096,
        }  # fmt: skip


@st.composite
def dialects(draw: st.DrawFn) -> Dialect:
    escape = draw(st.sampled_from([None, "\\", "#"]))
    unquoted = [] if escape is None else [csv.QUOTE_NONE]
    return Dialect(
        delimiter=draw(st.sampled_from(",;\t|")),
        quotechar=draw(st.sampled_from("\"'")),
        escapechar=escape,
        quoting=draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, *unquoted])),
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        skipinitialspace=draw(st.booleans()),
    )


def written(table: Table, dialect: Dialect) -> str:
    """By Python's writer. Where blanks are to be skipped there is one after each delimiter: it writes none itself."""
    rows = [[f"c{i}" for i in range(len(table[0]))], *table]
    if not dialect.skipinitialspace:
        return one(rows, dialect)
    alone = evolve(dialect, lineterminator="\r\n")
    lines = [[one([[cell]], alone).removesuffix("\r\n") for cell in row] for row in rows]
    return "".join(f"{dialect.delimiter} ".join(line) + dialect.lineterminator for line in lines)


def one(rows: Table, dialect: Dialect) -> str:
    text = io.StringIO(newline="")
    try:
        csv.writer(text, **dialect.of_writer).writerows(rows)
    except csv.Error:  # an empty line without quotes
        assume(False)
    return text.getvalue()


def stripped(table: Any) -> list[tuple[str, ...]]:
    return [tuple(cell.strip(" \t") for cell in row) for row in table]


def sure(table: Table, dialect: Dialect) -> bool:
    """The file says all of the table: Python (3.11) leaves a CR or LF bare that does not end its own rows, and blanks
    at the ends of values that it does not quote."""
    if dialect.quoting in (csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC):
        return True
    cells = [cell for row in table for cell in row]
    bare = any(end in cell for cell in cells for end in {"\r", "\n"} - {*dialect.lineterminator})
    return not bare and not (dialect.skipinitialspace and any(cell != cell.strip(" \t") for cell in cells))


def reads_as_written(base: Path, table: Table, dialect: Dialect) -> None:
    assume(sure(table, dialect))
    try:
        found: Any = read(base, written(table, dialect), **dialect.options(len(table[0])))
    except DponeError as error:
        found = error
    assert found == [tuple(row) for row in table]


def reads_nothing_else(base: Path, table: Table, dialect: Dialect, other: Dialect) -> None:
    text, width = written(table, dialect), len(table[0])
    try:
        found = read(base, text, **other.options(width))
    except DponeError:
        return
    if found == [tuple(row) for row in table]:
        return
    try:
        end = "\r" if dialect.lineterminator == "\r" else "\n"  # LF ends a line of a file whose rows end in CRLF too
        rows = list(csv.reader([line + end for line in text.split(end)[:-1]], **other.of_reader))
    except csv.Error as error:
        if other.skipinitialspace:  # to Python a blank after a closing quote is an error; options.trim takes it away
            return
        raise AssertionError(f"Python refuses what was read as {found}") from error
    python = [tuple(row or [""]) for row in rows[1:] if row or width == 1]
    assert (stripped(found), stripped(rows[:1])) == (stripped(python), [tuple(f"c{i}" for i in range(width))])
    assert other.skipinitialspace or found == python


SLOW_TO_DRAW = [HealthCheck.filter_too_much, HealthCheck.too_slow]
ANY = settings(max_examples=200, deadline=None, suppress_health_check=SLOW_TO_DRAW)


@ANY
@given(table=TABLES, dialect=dialects())
def test_what_the_csv_module_writes_is_read_with_its_dialect(
    tmp_path_factory: pytest.TempPathFactory, table: Table, dialect: Dialect
) -> None:
    """A table of any texts, written by Python in any dialect, is read as it was with that dialect declared."""
    reads_as_written(tmp_path_factory.mktemp("d"), table, dialect)


@ANY
@given(table=TABLES, dialect=dialects(), other=dialects())
def test_with_another_dialect_a_table_is_never_another(
    tmp_path_factory: pytest.TempPathFactory, table: Table, dialect: Dialect, other: Dialect
) -> None:
    """It is the same, or the run stops, or the file is just as well what was read."""
    reads_nothing_else(tmp_path_factory.mktemp("d"), table, dialect, other)


@ANY
@given(table=TABLES, dialect=dialects(), escape=st.sampled_from([None, "\\", "#"]), trim=st.booleans())
def test_with_another_escape_a_table_is_never_another(
    tmp_path_factory: pytest.TempPathFactory, table: Table, dialect: Dialect, escape: str | None, trim: bool
) -> None:
    """So it is where the header can be read: the delimiter and the quote are those of the writer."""
    other = evolve(dialect, escapechar=escape, skipinitialspace=trim)
    reads_nothing_else(tmp_path_factory.mktemp("d"), table, dialect, other)


# each of these faults is found


def looks_at_nothing(patch: pytest.MonkeyPatch) -> None:
    """pyarrow reads whatever comes."""
    patch.setattr(Rows, "whole", lambda self, data, final: len(data))


def takes_text_after_a_quote(patch: pytest.MonkeyPatch) -> None:
    matched = Rows._matched

    def careless(self: Rows, data: bytes, final: bool) -> int:
        try:
            return matched(self, data, final)
        except Malformed as error:
            if "after a closing quote" in error.found:
                return len(data)
            raise

    patch.setattr(Rows, "_matched", careless)


def takes_a_bare_return(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(csv_rows, "_bare_return", lambda data, final: False)


def drops_an_escape(patch: pytest.MonkeyPatch) -> None:
    parsing = csv_format.Csv._parsing

    def careless(self: csv_format.Csv, *args: Any, **kwargs: Any) -> pcsv.ParseOptions:
        options = parsing(self, *args, **kwargs)
        options.escape_char = False
        return options

    patch.setattr(csv_format.Csv, "_parsing", careless)


def trims_quoted_values(patch: pytest.MonkeyPatch) -> None:
    cleaned = Rows.cleaned
    patch.setattr(Rows, "cleaned", lambda self, data: cleaned(self, data).replace(b'" ', b'"') if self._trim else data)


def loses_an_empty_line(patch: pytest.MonkeyPatch) -> None:
    cleaned = Rows.cleaned
    patch.setattr(Rows, "cleaned", lambda self, data: cleaned(self, data).replace(b"\n\n", b"\n"))


FAULTS = [
    looks_at_nothing, takes_text_after_a_quote, takes_a_bare_return, drops_an_escape, trims_quoted_values,
    loses_an_empty_line,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_faults_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Each fault makes one of the properties above false within the tables that are tried."""
    fault(monkeypatch)

    @settings(ANY, max_examples=5000, derandomize=True, database=None, phases=[Phase.generate])
    @given(table=TABLES, dialect=dialects(), other=dialects())
    def properties(table: Table, dialect: Dialect, other: Dialect) -> None:
        reads_nothing_else(tmp_path, table, dialect, other)
        reads_nothing_else(tmp_path, table, dialect, evolve(dialect, escapechar=other.escapechar))
        reads_as_written(tmp_path, table, dialect)

    with pytest.raises(AssertionError):
        properties()
