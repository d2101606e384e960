"""Files that people could not load elsewhere, through whole runs: the rows, or an error whose advice ends in the rows.

The rules have tests of their own: see the names in parentheses. The cases of servers are with their connectors.
"""

from __future__ import annotations

import gzip
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.file.test_file_types import error, load, rows

from dpone.model.report import RunReport


class Case(NamedTuple):
    """``said``: of the error of a run without options, or None; ``options``: what it says to set; ``rows``: then."""

    files: dict[str, str | bytes]
    said: str | None
    options: dict[str, Any]
    rows: list[tuple[Any, ...]]
    types: str = ""


CASES = {
    "01 quotes that are escaped by a backslash": Case(
        {"d.csv": 'id,txt,n\n1,"{\\"k\\":\\"v\\"}",2\n2,"say \\"hi\\" now",3\n'},
        "d.csv: data row 1, column 'txt' has text after a closing quote",
        {"escape": "\\"}, [(1, '{"k":"v"}', 2), (2, 'say "hi" now', 3)],
    ),
    "03 another delimiter": Case(
        {"d.csv": "sku;price\nA1;12.50\nB2;1234.00\n"}, 'set options.delimiter to the character between columns',
        {"delimiter": ";"}, [("A1", 12.5), ("B2", 1234.0)],
    ),
    "quoted values with blanks between them": Case(
        {"d.csv": '"a" "b c"\n"x" 1\n"y" 2\n'}, 'set options.delimiter, as in delimiter: " ", or double a quote',
        {"delimiter": " "}, [("x", 1), ("y", 2)],
    ),
    "06 numbers and dates of a file that quotes all": Case(
        {"d.csv": '"id","qty","when"\n"1","5","2024-01-01"\n"2","",""\n'}, None,
        {}, [(1, 5, "2024-01-01"), (2, None, None)], "INTEGER INTEGER DATE",
    ),
    "06 the same, declared": Case(
        {"d.csv": '"id","qty","when"\n"1","5","2024-01-01"\n"2","",""\n'}, None,
        {"columns": {"qty": "int64", "when": "date"}}, [(1, 5, "2024-01-01"), (2, None, None)],
        "INTEGER INTEGER DATE",
    ),
    "13 codes that look like powers of ten": Case(
        {"d.csv": "sku,n\n1E5,1\n2E3,2\n12E4,1E3\n"}, None,
        {}, [("12E4", "1E3"), ("1E5", "1"), ("2E3", "2")], "TEXT TEXT",
    ),
    "16 lines above the header, left out by their number": Case(
        {"d.csv": "# exported 2024-05-01\n# source: station 7\nid,name\n1,a\n"},
        "as in line 1: '# exported 2024-05-01'", {"skip_lines": 2}, [(1, "a")],
    ),
    "16 lines above the header, left out by their first character": Case(
        {"d.csv": "# exported 2024-05-01\n# source: station 7\nid,name\n1,a\n"},
        "set options.skip_lines or options.comment", {"comment": "#"}, [(1, "a")],
    ),
    "a header without the column that holds the names of the rows": Case(
        {"d.csv": '"w","f"\n"r1",26.5,1\n"r2",27,\n'}, "or options.names if the header lacks one",
        {"names": ["row", "w", "f"]}, [("r1", 26.5, 1), ("r2", 27.0, None)],
    ),
    "18 an array of JSON": Case({"d.json": '[{"a": 1}, {"a": 2}]'}, None, {}, [(1,), (2,)]),
    "18 an array of JSON with another name": Case(
        {"d.csv": '[{"a": 1}, {"a": 2}]'}, "set options.format: json", {"format": "json"}, [(1,), (2,)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_file_as_people_have_it_is_loaded_or_its_error_says_how(tmp_path: Path, case: Case) -> None:
    """Without a word where nothing is lost; otherwise a stop that names the file, and with what it says all rows."""
    for name, content in case.files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    [path] = case.files
    if case.said is not None:
        message = error(load(tmp_path, path))
        assert case.said in message
        assert path in message
        assert there(tmp_path) == []
    report = load(tmp_path, path, source=case.options)
    assert succeeded(report), error(report)
    assert rows(tmp_path) == case.rows
    if case.types:
        kinds = [kind for name, kind in there(tmp_path) if not name.startswith("__dpone__")]
        assert " ".join(kinds) == case.types


def there(base: Path) -> list[tuple[str, str]]:
    """Names and types of the columns of the target; none if it is not there."""
    db = sqlite3.connect(base / "out.db")
    try:
        return [(name, kind) for _, name, kind, *_ in db.execute("PRAGMA table_info(t)")]
    finally:
        db.close()


def succeeded(report: RunReport) -> bool:
    return report.exit_code == 0


def test_case_04_files_of_a_folder_that_differ_in_their_delimiters(tmp_path: Path) -> None:
    """The file that shares no column with the other is named, and out of the way the other is loaded."""
    (tmp_path / "a.csv").write_text("id,t\n1,5\n")
    (tmp_path / "b.csv").write_text("id;t\n2;6\n")
    message = error(load(tmp_path, "*.csv"))
    assert "b.csv: the header is one column, 'id;t', and contains ';'" in message
    assert there(tmp_path) == []
    (tmp_path / "b.csv").rename(tmp_path / "b.txt")
    assert succeeded(load(tmp_path, "*.csv"))
    assert rows(tmp_path) == [(1, 5)]


def test_case_05_a_first_load_that_failed_is_not_in_the_way_of_its_advice(tmp_path: Path) -> None:
    """Beyond the first block a version number is not a double; declared as the error says, all rows are there."""
    lines = [f"{10000 + n},10.5" for n in range(600)] + ["10600,11.0.1"]
    (tmp_path / "d.csv").write_text("code,ver\n" + "\n".join(lines) + "\n")
    small = {"block_bytes": 4096}
    message = error(load(tmp_path, "d.csv", source=small))
    assert "row 601, column 'ver' has an invalid double" in message
    assert "columns: {ver: string}" in message
    report = load(tmp_path, "d.csv", source=small | {"columns": {"ver": "string"}})
    assert succeeded(report), error(report)
    assert rows(tmp_path) == [(10000 + n, "10.5") for n in range(600)] + [(10600, "11.0.1")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.csv", gzip.compress(b"id,t\n1,a\n", mtime=0), "gzip"),
        ("plain.csv.gz", b"id,t\n1,a\n", "gzip"),
        ("d.zip", b"PK\x03\x04\x14\0a.csv", "a zip archive"),
        ("d.xlsx", b"PK\x03\x04\x14\0[Content_Types].xml", "an Excel workbook"),
        ("d.csv", b"<!DOCTYPE html>\n<html>", "an HTML page"),
    ],
    ids=["gzip", "not gzip", "zip", "Excel", "HTML"],
)
def test_case_18_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """The run says what the file is, in one line, and nothing is made."""
    (tmp_path / name).write_bytes(content)
    message = error(load(tmp_path, name))
    assert name in message
    assert said in message
    assert there(tmp_path) == []


def test_case_23_a_target_whose_names_differ_by_case(tmp_path: Path) -> None:
    """Both spellings are named with the way out, which ends in a green run."""
    (tmp_path / "d.csv").write_text("id,v\n1,a\n")
    db = sqlite3.connect(tmp_path / "out.db")
    db.execute('CREATE TABLE t ("ID" integer, "V" text)')
    db.close()
    message = error(load(tmp_path, "d.csv"))
    assert "ID" in message
    assert "id" in message
    assert "options.names of a CSV file" in message
    report = load(tmp_path, "d.csv", source={"names": ["ID", "V"]})
    assert succeeded(report), error(report)
    assert rows(tmp_path, 'SELECT "ID", "V" FROM t') == [(1, "a")]
