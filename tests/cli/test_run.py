"""``dpone run`` and ``dpone plan`` as a whole process sees them: exit codes, stdout, signals."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dpone.cli.run import _show
from dpone.model.report import Rows, RunReport, StreamReport

Dpone = Callable[..., Any]
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


def count(pipeline: Path) -> int | None:
    """Rows of the target; None if there is none yet."""
    file = pipeline.parent / "warehouse.db"
    if not file.exists():
        return None
    with closing(sqlite3.connect(file)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
            return None
        return int(db.execute("SELECT count(*) FROM orders").fetchone()[0])


def test_quickstart_runs_from_any_directory(tmp_path: Path, process: Dpone) -> None:
    """The example moves its CSV files into a warehouse beside it, and the second run finds nothing new."""
    shutil.copytree(QUICKSTART, tmp_path / "elsewhere", ignore=shutil.ignore_patterns(".dpone", "warehouse.db*"))
    pipeline = tmp_path / "elsewhere" / "pipeline.yaml"
    first = process("run", pipeline)
    assert first.exit_code == 0, first.err
    assert "3,000 rows read (3,000 inserted)" in first.out
    assert count(pipeline) == 3000
    second = process("run", pipeline, "--format", "json")
    assert second.exit_code == 0
    assert [s["status"] for s in second.json["streams"]] == ["caught_up"]
    assert count(pipeline) == 3000
    assert sorted(f.name for f in tmp_path.iterdir()) == ["elsewhere"]


def test_a_new_file_is_read_alone(project: Path, dpone: Dpone) -> None:
    """As the project's README says: of a third file, known orders are updated and the rest is added."""
    assert dpone("run", project, "-q").exit_code == 0
    lines = (project.parent / "data" / "orders-2026-02.csv").read_text().splitlines()
    known, new = lines[1].replace("shipped", "returned"), lines[2].replace("1502", "3001", 1)
    (project.parent / "data" / "orders-2026-03.csv").write_text("\n".join([lines[0], known, new, ""]))
    [stream] = dpone("run", project, "-q", "--format", "json").json["streams"]
    rows = stream["rows"]
    assert (rows["read"], rows["updated"], rows["inserted"], count(project)) == (2, 1, 1, 3001)


def test_values_arrive_as_they_are(project: Path, dpone: Dpone) -> None:
    """Quotes, commas, line breaks, other scripts and empty notes of the example reach the table unchanged."""
    assert dpone("run", project, "-q").exit_code == 0
    with closing(sqlite3.connect(project.parent / "warehouse.db")) as db:
        row = db.execute("SELECT customer, quantity, note FROM orders WHERE id = 100").fetchone()
        [notes] = db.execute("SELECT count(*) FROM orders WHERE note IS NOT NULL").fetchone()
        customers = {name for (name,) in db.execute("SELECT DISTINCT customer FROM orders")}
    assert row == ("Катерина Ющенко", 5, "leave at the door\nring twice")
    assert notes == 60
    assert {"O'Neill, Ltd.", 'The "Corner" Shop', "Zoë Müller"} <= customers


def test_json_is_alone_on_stdout(project: Path, process: Dpone) -> None:
    """Under --format json stdout is one JSON value, with events as JSON lines on stderr, and --report has the same."""
    report = project.parent / "report.json"
    done = process("run", project, "--format", "json", "--log-format", "json", "--report", report)
    assert done.exit_code == 0, done.err
    assert done.json["status"] == "succeeded"
    steps = [json.loads(line)["step"] for line in done.err.splitlines()]
    assert (steps[0], steps[-1]) == ("run_started", "run_finished")
    assert "committed" in steps
    assert json.loads(report.read_text()) == done.json


def test_plan_changes_nothing(project: Path, dpone: Dpone) -> None:
    """The plan shows the statements of a run and leaves no table, no state and no position."""
    done = dpone("plan", project, "--format", "json")
    assert done.exit_code == 0
    [stream] = done.json["streams"]
    assert stream["status"] == "planned"
    assert any('CREATE TABLE "orders"' in statement for statement in stream["ddl"])
    assert count(project) is None
    assert "would run: CREATE TABLE" in dpone("plan", project).out
    assert dpone("run", project, "--dry-run", "-q", "--format", "json").json["streams"][0]["ddl"] == stream["ddl"]
    assert count(project) is None


@pytest.mark.parametrize("report", [".", "missing/report.json"])
def test_report_that_cannot_be_written_stops_the_run_before_it_starts(
    report: str, project: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong --report is found before the first row is read."""
    monkeypatch.chdir(project.parent)
    done = dpone("run", project, "--report", report)
    assert done.exit_code == 2
    assert "write the report" in done.error
    assert count(project) is None


KILLING = """
import os, pathlib
from dpone import hookimpl

@hookimpl
def dpone_run_event(event):
    if event.step == "part_staged":
        os.kill(os.getpid(), 9)
"""


def test_a_killed_run_leaves_no_report_of_the_run_before(
    project: Path, process: Dpone, install: Callable[[str, str], Path]
) -> None:
    """The report says ``running`` from the first moment; of a run that did not begin it is empty; a pipe takes one."""
    report = project.parent / "report.json"
    assert process("run", project, "-q", "--report", report).exit_code == 0
    before = json.loads(report.read_text())
    assert process("run", project, "--select", "nothing", "--report", report).exit_code == 2
    assert report.read_text() == ""
    site = install("zz_killing", KILLING)
    more = (project.parent / "data" / "orders-2026-02.csv").read_text()
    (project.parent / "data" / "orders-2026-03.csv").write_text(more)
    done = process("run", project, "-q", "--report", report, PYTHONPATH=str(site))
    assert done.exit_code == -9
    killed = json.loads(report.read_text())
    assert (before["status"], killed["status"], killed["finished_at"]) == ("succeeded", "running", None)
    assert killed["run_id"] != before["run_id"]
    assert process("run", project, "-q", "--report", "/dev/stdout").out.count('"run_id"') == 1


def test_report_that_fails_late_is_still_on_stdout(project: Path, dpone: Dpone) -> None:
    """When the disk fills up under the report, stdout has it whole and the exit code is 1."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    done = dpone("run", project, "-q", "--format", "json", "--report", "/dev/full")
    assert done.exit_code == 1
    assert done.json["status"] == "succeeded"
    assert "no space left" in done.error


@pytest.mark.parametrize(
    ("statuses", "rows", "line"),
    [
        (["loaded"] * 29 + ["failed"], 41_379, "29 loaded, 1 failed, 1.2 M rows, 11.7 s"),
        (["failed", "caught_up", "loaded", "stopped"], 1, "1 loaded, 1 caught up, 1 failed, 1 stopped, 1 row, 11.7 s"),
        (["loaded", "interrupted", "pending"], 999_999, "1 loaded, 1 interrupted, 1 not started, 999,999 rows, 11.7 s"),
        (["loaded"] * 2, 2_600_000_000, "2 loaded, 5.2 G rows, 11.7 s"),
        (["planned"], 5, "1 planned, 0 rows, 11.7 s"),
        ([], 0, "0 rows, 11.7 s"),
    ],
)
def test_the_last_line_sums_up(statuses: list[Any], rows: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Streams by their end, what loaded streams wrote, and the seconds; rows of other streams do not count."""
    start = datetime(2026, 3, 4, tzinfo=UTC)
    streams = [StreamReport("s", "k", status=status, rows=Rows(written=rows)) for status in statuses]
    report = RunReport("RUN", "p", started_at=start, finished_at=start + timedelta(seconds=11.7), streams=streams)
    _show(report, "text")
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_failed_stream_is_exit_1_with_its_report(project: Path, dpone: Dpone) -> None:
    """A failure in a stream is one line on stderr and an error in the report; nothing was loaded."""
    (project.parent / "data" / "orders-2026-01.csv").write_text("id,customer\n1,a\n1,b\n")
    done = dpone("run", project, "-q", "--format", "json")
    assert done.exit_code in (1, 3)
    assert done.error.startswith("error: orders: ")
    assert done.json["streams"][0]["error"]["message"] in done.error
    assert done.json["exit_code"] == done.exit_code
    assert not count(project)


def test_target_of_others_stops_with_exit_3(project: Path, dpone: Dpone) -> None:
    """Rows that no journal explains need a decision: exit 3, and they stay as they are."""
    with closing(sqlite3.connect(project.parent / "warehouse.db")) as db:
        db.execute("CREATE TABLE orders (id INTEGER)")
        db.execute("INSERT INTO orders VALUES (7)")
        db.commit()
    done = dpone("run", project, "-q", "--format", "json")
    assert done.exit_code == 3
    assert done.json["status"] == "stopped"
    assert count(project) == 1


def test_unknown_stream_is_exit_2(project: Path, dpone: Dpone) -> None:
    """--select of a stream the pipeline lacks names those it has."""
    done = dpone("run", project, "-q", "--select", "nosuch")
    assert done.exit_code == 2
    assert "choose from orders" in done.error


SENDER = """
import os, signal
from dpone import hookimpl, plugins

class Sender:
    @hookimpl
    def dpone_run_event(self, event):
        if event.step == os.environ.get("DPONE_TEST_STEP"):
            os.kill(os.getpid(), getattr(signal, os.environ["DPONE_TEST_SIGNAL"]))

@hookimpl
def dpone_commands(cli):
    plugins.discover().manager.register(Sender())  # as the program itself would: the run waits for it
"""


@pytest.mark.parametrize(
    ("signal", "step"),
    [("SIGINT", "load_opened"), ("SIGTERM", "batch"), ("SIGTERM", "staged"), ("SIGINT", "committed")],
)
def test_signals_end_a_run_with_130(
    signal: str, step: str, project: Path, process: Dpone, dpone: Dpone, install: Callable[[str, str], Path]
) -> None:
    """SIGINT and SIGTERM abort cleanly: exit 130, a report that says so, the target as before or fully loaded; the next
    run completes it."""
    site = install("zz_sender", SENDER)
    env = {"PYTHONPATH": str(site), "DPONE_TEST_STEP": step, "DPONE_TEST_SIGNAL": signal}
    done = process("run", project, "--quiet", "--format", "json", **env)
    assert done.exit_code == 130, done.err
    assert done.json["status"] == done.json["streams"][0]["status"] == "interrupted"
    assert "Traceback" not in done.err
    assert count(project) in ((3000,) if step == "committed" else (None, 0))
    again = dpone("run", project, "--quiet")
    assert again.exit_code == 0, again.err
    assert count(project) == 3000
