"""The corpus session notices what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb")  # the session's own reader of Parquet; not among the floors

from tests.corpus.__main__ import Table, difference, one

COLUMNS = {"i": "INTEGER", "d": "REAL", "m": "DECIMAL_TEXT(9,2)", "t": "TEXT", "at": "TIMESTAMPTZ", "j": "JSON_TEXT"}
ROW = (7, 0.1, "1.50", "x ", "2024-01-01 00:00:00Z", '{"a": 1.0}')
FILE = {"i": "7", "d": "0.1", "m": "1.5", "t": "x ", "at": "2024-01-01T02:00:00+02:00", "j": {"a": 1}}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("i", 8), ("i", None), ("d", 0.10000000000000002), ("m", "1.51"), ("t", "x"), ("t", None), ("t", b"x "),
        ("at", "2024-01-01 00:00:01Z"), ("at", "no time"), ("j", '{"a": 2}'),
    ],
)  # fmt: skip
def test_a_value_that_is_not_the_files_is_noticed(column: str, value: Any) -> None:
    """Equal values in another form are equal; any other value, one that is missing and a row too many are not."""
    assert difference(Table(COLUMNS, [ROW]), [FILE], text=False) is None
    wrong = tuple(value if name == column else had for name, had in zip(COLUMNS, ROW, strict=True))
    assert f"row 1, column {column!r}" in str(difference(Table(COLUMNS, [wrong]), [FILE], text=False))
    for rows in ([], [ROW, ROW]):
        assert "the file has 1" in str(difference(Table(COLUMNS, rows), [FILE], text=False))


@pytest.mark.parametrize(("kind", "given"), [("INTEGER", "007"), ("INTEGER", "+7"), ("REAL", "1_0")])
def test_a_code_that_was_read_as_a_number_is_noticed(kind: str, given: str) -> None:
    """Its value would be equal, and its zeros gone."""
    stored = 10.0 if kind == "REAL" else 7
    assert "is a code" in str(difference(Table({"c": kind}, [(stored,)]), [{"c": given}], text=True))


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        ('a,b\n1,""\n2,\n', "equal"),
        ("a;b\n1;2\n", "equal as advised"),
        ("a,a\n1,2\n", "equal as advised"),
        ("a,b\n1\n", "equal as advised"),
        ('a,b\n1,"x\n', "refused"),
    ],
)
def test_a_file_is_equal_or_refused(tmp_path: Path, content: str, outcome: str) -> None:
    """What an error says to set is set, and the table is compared then."""
    (tmp_path / "a.csv").write_text(content)
    assert one(tmp_path / "a.csv", "csv", 5, tmp_path)[0] == outcome
