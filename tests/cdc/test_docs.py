"""The example of docs/cdc.md, run as it stands there."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from dpone.cli import assemble

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cdc.md").read_text(encoding="utf-8")


def fence(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no {language} on the page"
    return found[1]


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
    cells = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if row.startswith("|")]
    [start] = [i for i, row in enumerate(cells) if row[0] == "landing_orders"]
    shown = [["" if cell == "NULL" else cell for cell in row] for row in cells[start + 3 : start + 5]]
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db:
        columns = ", ".join(f'"{name}"' for name in cells[start + 2])
        rows = db.execute(f"SELECT {columns} FROM landing_orders ORDER BY __dpone__commit").fetchall()
        gone = db.execute("SELECT __dpone__op, id FROM landing_customers ORDER BY __dpone__commit").fetchall()
    assert [["" if v is None else str(v) for v in row] for row in rows] == shown
    assert gone == [("insert", 7), ("delete", 7)]
    assert "caught up" in CliRunner().invoke(assemble(), ["run", file]).output
    for command in (["state", "show", file], ["state", "history", file]):
        told = CliRunner().invoke(assemble(), command)
        assert told.exit_code == 0, told.output
