"""The commands of the production readiness page, each as it stands there, in a fresh folder.

``readiness-commands.txt`` has them, in the order of the page: first those of its list, then those that its text names.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Done
from tests.cli.schemas import require_valid

from dpone.plugins import discover

COMMANDS = Path(__file__).with_name("readiness-commands.txt").read_text(encoding="utf-8").splitlines()
PAGE = Path(__file__).resolve().parents[3] / "shared" / "production-readiness.txt"
FILES = {
    "source-columns.json": '[{"name": "id", "type": "bigint"}, {"name": "note", "type": "varchar(50)"}]',
    "target-columns.json": '[{"name": "id", "type": "int"}]',
}


def doctor(done: Done) -> None:
    require_valid("doctor.json", done.json)
    found = {one["name"]: one for one in done.json["findings"]}
    assert {"python", "dpone", "driver pyarrow", "driver psycopg", "clock", "disk", "tls"} <= {*found}
    assert {f"plugin {one.name}" for one in discover().found} <= {*found}
    assert done.exit_code == (0 if done.json["ok"] else 1)


def certify(done: Done) -> None:
    require_valid("certify.json", done.json)
    assert (done.exit_code, done.json["evidence_files"]) == (0, 0)
    assert {one["level"] for one in done.json["connectors"]} == {"none"}
    statuses = {one["status"] for one in (*done.json["capabilities"], *done.json["routes"])}
    assert statuses == {"declared", "unsupported", "not implemented"}


def schema_plan(done: Done) -> None:
    require_valid("schema-plan.json", done.json)
    assert (done.exit_code, done.json["compatible"], done.json["table"]) == (0, True, "dbo.orders")
    assert [(one["kind"], one["column"]) for one in done.json["changes"]] == [("widen", "id"), ("add", "note")]
    assert done.json["ddl"] == ['ALTER TABLE "dbo"."orders" ADD COLUMN "note" TEXT']


def cdc_plan(done: Done) -> None:
    assert done.exit_code == 0
    for part in (
        'CREATE PUBLICATION "dpone_publication" FOR TABLE "public"."orders"',
        "pg_create_logical_replication_slot('dpone_orders', 'pgoutput')",
    ):
        assert part in done.out


def contract_check(done: Done) -> None:
    said = "--rows-json: 1 row checked, 1 rule, all hold\n  ok    required_columns.id\n"
    assert (done.exit_code, done.out) == (0, said)


def without_mssql(done: Done) -> None:
    """SQL Server has no sink in this version."""
    refused(done, "mssql")


def refused(done: Done, found: str) -> None:
    """One line, exit code 2, nothing on stdout."""
    assert (done.exit_code, done.out) == (2, "")
    assert found in done.error
    assert "no such command" not in done.error


def run(done: Done) -> None:
    require_valid("error.json", done.json)
    assert (done.exit_code, done.json["error"]["exit_code"]) == (2, 2)
    assert "missing argument 'PIPELINE'" in done.error


def needs(what: str) -> Callable[[Done], None]:
    """The page names the command without what it works on: the answer is what is missing."""
    return lambda done: refused(done, f"missing {what}")


ANSWERS: dict[str, Callable[[Done], None]] = {
    "doctor": doctor,
    "certify": certify,
    "schema-plan": schema_plan,
    "cdc-plan": cdc_plan,
    "ops certification-run": without_mssql,
    "ops contract-check": contract_check,
    "ops rollback-plan": without_mssql,
    "observability metrics-export": needs("option '--run-report'"),
    "run": run,
    "cdc replay-plan": needs("argument 'PIPELINE'"),
}


def test_the_list_is_the_pages() -> None:
    """Line by line the list of the page, and each command that its text names; a page is not part of a checkout."""
    if not PAGE.is_file():
        pytest.skip(f"{PAGE} is not there to compare with")
    page = PAGE.read_text(encoding="utf-8")
    listed = [line for line in page.partition("There is no separate")[0].splitlines() if line.startswith("dpone ")]
    assert COMMANDS[: len(listed)] == listed
    assert [one for one in COMMANDS[len(listed) :] if one not in page] == []


def test_every_command_of_the_list_has_its_answer() -> None:
    """So that a line which is added is tried."""
    assert [next(name for name in ANSWERS if one.startswith(f"dpone {name} ") or one == f"dpone {name}")
            for one in COMMANDS] == [*ANSWERS]  # fmt: skip


@pytest.mark.parametrize(("command", "answers"), [*zip(COMMANDS, ANSWERS.values(), strict=True)], ids=ANSWERS)
def test_a_command_of_the_page_answers(command: str, answers: Callable[[Done], None], tmp_path: Path) -> None:
    """Typed literally: no traceback, nothing written, and the answer that the table above says."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = typed(command, tmp_path)
    assert "Traceback" not in done.err
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == FILES
    answers(done)


def typed(command: str, folder: Path) -> Done:
    program, *args = shlex.split(command)
    script = Path(sys.executable).with_name(program)
    begin = [str(script)] if script.is_file() else [sys.executable, "-m", program]
    env = {**os.environ, "HOME": str(folder)}
    done = subprocess.run([*begin, *args], cwd=folder, env=env, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)
