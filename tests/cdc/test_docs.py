"""The example of docs/guide/cdc-runtime.md, run as it stands there."""

from __future__ import annotations

import itertools
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from dpone.cli.main import assemble

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "cdc-runtime.md").read_text(encoding="utf-8")


def fence(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no {language} on the page"
    return found[1]


def shown(table: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of the page."""
    cells = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in PAGE.splitlines()]
    [start] = [i for i, row in enumerate(cells) if row[:1] == [table]]
    rows = itertools.takewhile(bool, cells[start + 3 :])
    return cells[start + 2], [["" if cell == "NULL" else cell for cell in row] for row in rows]


def test_the_example_of_cdc_apply_loads_what_the_page_shows(tmp_path: Path) -> None:
    """Rows as they are now, the deleted one marked, beside the history that the first example made."""
    (tmp_path / "changes.jsonl").write_text(fence("jsonl"))
    for i, text in enumerate(re.findall(r"^```yaml\n(pipeline: .*?)^```", PAGE, re.MULTILINE | re.DOTALL)):
        (tmp_path / f"{i}.yaml").write_text(text)
        done = CliRunner().invoke(assemble(), ["run", str(tmp_path / f"{i}.yaml")])
        assert done.exit_code == 0, done.output
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db:
        for table in ("now_orders", "now_customers"):
            columns, rows = shown(table)
            names = ", ".join(f'"{name}"' for name in columns)
            found = db.execute(f"SELECT {names} FROM {table}").fetchall()
            assert [["" if v is None else str(v) for v in row] for row in found] == rows


@pytest.mark.parametrize("command", ["check", "plan"])
def test_the_example_is_checked_and_planned(tmp_path: Path, command: str) -> None:
    """Before the first run, the example passes and nothing is made."""
    (tmp_path / "changes.jsonl").write_text(fence("jsonl"))
    (tmp_path / "pipeline.yaml").write_text(fence("yaml"))
    connect = ["--connect"] if command == "check" else []
    done = CliRunner().invoke(assemble(), [command, str(tmp_path / "pipeline.yaml"), *connect])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "warehouse.db").exists()


def test_the_example_loads_what_the_page_shows(tmp_path: Path) -> None:
    """The table on the page is what the run makes; a second run finds nothing new; state shows where it stands."""
    (tmp_path / "changes.jsonl").write_text(fence("jsonl"))
    (tmp_path / "pipeline.yaml").write_text(fence("yaml"))
    file = str(tmp_path / "pipeline.yaml")
    first = CliRunner().invoke(assemble(), ["run", file])
    assert first.exit_code == 0, first.output
    assert "4 rows read" in first.output
    names, history = shown("landing_orders")
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db:
        columns = ", ".join(f'"{name}"' for name in names)
        rows = db.execute(f"SELECT {columns} FROM landing_orders ORDER BY __dpone__commit").fetchall()
        gone = db.execute("SELECT __dpone__op, id FROM landing_customers ORDER BY __dpone__commit").fetchall()
    assert [["" if v is None else str(v) for v in row] for row in rows] == history
    assert gone == [("insert", 7), ("delete", 7)]
    assert "caught up" in CliRunner().invoke(assemble(), ["run", file]).output
    for command in (["state", "show", file], ["state", "history", file]):
        told = CliRunner().invoke(assemble(), command)
        assert told.exit_code == 0, told.output
