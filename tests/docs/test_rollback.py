"""The runbook of a wrong load is followed to its end."""

from __future__ import annotations

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.docs.generate import DOCS

from dpone.cli.main import main

PAGE = (DOCS / "guide" / "undo.md").read_text(encoding="utf-8")
ID = "01J9ZC4T2M6Q8R0V3X5Y7A9BDE"


def sql(database: str, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as db, db:
        for statement in statements:
            db.execute(statement)


def loaded() -> tuple[list[tuple[int, str]], str]:
    with closing(sqlite3.connect("warehouse.db")) as db:
        rows = db.execute("SELECT id, name FROM customers ORDER BY id").fetchall()
        [(last,)] = db.execute("SELECT load_id FROM __dpone__loads ORDER BY seq DESC LIMIT 1").fetchall()
    return rows, last


def run(command: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    return int(ended.value.code or 0)


def test_a_wrong_load_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pipeline of the page, a load with wrong rows, and the runbook's commands with its ID: the target is as before
    the load, and after the last command it has the corrected rows."""
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0])
    runbook = PAGE.partition("## Runbook: a load was wrong")[2]
    commands = re.findall(r"^ +(dpone .*)$", runbook, re.MULTILINE)
    assert len(commands) == 4
    sql(
        "shop.db", "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO customers VALUES (1, 'a')"
    )
    assert run("dpone run pipeline.yaml") == 0
    right, _ = loaded()
    sql("shop.db", "UPDATE customers SET name = 'wrong'", "INSERT INTO customers VALUES (2, 'wrong')")
    assert run("dpone run pipeline.yaml") == 0
    wrong, load_id = loaded()
    assert wrong == [(1, "wrong"), (2, "wrong")]
    for command in commands[:3]:
        capsys.readouterr()
        assert run(command.replace(ID, load_id)) == 0
        assert load_id in capsys.readouterr().out
    assert loaded()[0] == right
    sql("shop.db", "UPDATE customers SET name = 'b'")
    assert run(commands[3]) == 0
    assert loaded()[0] == [(1, "b"), (2, "b")]
