"""``dpone runs`` and ``dpone report``: what ran last night."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import yaml
from tests.cli.schemas import require_valid

from dpone.capability import Support
from dpone.config.reader import load_pipeline
from dpone.engine.run import Run, run
from dpone.host.process import Process
from dpone.model.run_record import RunRecord
from dpone.ops.project import create, pipeline
from dpone.plugins import discover

Dpone = Callable[..., Any]


def shown(dpone: Dpone, project: Path, *words: str) -> Any:
    done = dpone("runs", "--config", project, *words, "--format", "json")
    assert done.exit_code == 0, done.err
    require_valid("runs.json", done.json)
    return done.json


def killed(project: Path, run_id: str, ago: timedelta, name: str = "orders") -> None:
    """The record of a run whose process is gone, as a kill leaves it."""
    loaded = load_pipeline(project)
    gone = Process("host-a", Process.this().machine, 2**22 - 1, "1")
    record = RunRecord(run_id, name, datetime.now(UTC) - ago, gone, 4e9, rows_in=7)
    with closing(Run(loaded).make("state", loaded.state)) as state:
        state.run_log().begin(record)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Newest first: a run that failed, one that succeeded, one that was killed yesterday, one of another pipeline."""
    folder = tmp_path_factory.mktemp("past") / "project"
    create(folder, pipeline())
    project = folder / "pipeline.yaml"
    killed(project, "01OTHER", timedelta(days=3), "invoices")
    killed(project, "01KILLED", timedelta(hours=25))
    assert run(project).exit_code == 0
    text = (folder / "data" / "orders-2026-01.csv").read_text(encoding="utf-8").splitlines()
    (folder / "data" / "orders-2026-03.csv").write_text("\n".join([text[0], "x" + text[1]]), encoding="utf-8")
    assert run(project).exit_code in (1, 3)
    return folder


@pytest.fixture
def past(once: Path, tmp_path: Path) -> Path:
    shutil.copytree(once, tmp_path / "past")
    return tmp_path / "past" / "pipeline.yaml"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), ["bad", "succeeded", "crashed", "crashed"]),
        (("--since", "24h"), ["bad", "succeeded"]),
        (("--since", "2d"), ["bad", "succeeded", "crashed"]),
        (("--pipeline", "invoices"), ["crashed"]),
        (("--pipeline", "nobody"), []),
        (("--failed",), ["bad", "crashed", "crashed"]),
        (("--failed", "--pipeline", "orders", "--since", "1d"), ["bad"]),
        (("--limit", "2"), ["bad", "succeeded"]),
        (("--limit", "1", "--failed"), ["bad"]),
    ],
    ids=" ".join,
)
def test_runs_are_listed_newest_first(past: Path, dpone: Dpone, words: tuple[str, ...], wanted: list[str]) -> None:
    """Of every pipeline in the state, or of one; since a moment; only those that have not succeeded; a few."""
    found = shown(dpone, past, *words)
    statuses = ["bad" if one["status"] in ("failed", "stopped") else one["status"] for one in found["runs"]]
    assert statuses == wanted
    assert found["more"] is ("--limit" in words)


def test_a_list_says_what_happened(past: Path, dpone: Dpone) -> None:
    """Status, streams, rows and, below each run that has not succeeded, why."""
    bad, good, crashed, _ = shown(dpone, past)["runs"]
    assert (good["streams"], good["rows_in"], good["rows_out"], good["schema_changes"]) == (
        {"loaded": 1},
        3000,
        3000,
        1,
    )
    assert (crashed["exit_code"], crashed["seconds"], crashed["rows_in"]) == (None, None, 7)
    assert [error["stream"] for error in bad["errors"]] == ["orders"]
    text = dpone("runs", "--config", past).out
    lines = text.splitlines()
    assert [word for word in ("run", "pipeline", "status", "began", "took", "rows in") if word not in lines[0]] == []
    assert next(n for n, line in enumerate(lines) if bad["run_id"] in line) + 1 == lines.index(
        f"  orders: {bad['errors'][0]['message']}"
    )
    assert (
        "  the run has no end: process 4194303 on host-a was killed or lost the state backend; it had 7 rows read"
        in text
    )
    assert "there are more than 1; add --limit or --since" in dpone("runs", "--config", past, "--limit", "1").out


def test_where_nothing_ran_nothing_is_created(project: Path, dpone: Dpone) -> None:
    """Looking creates no state."""
    assert shown(dpone, project) == {"format": 1, "runs": [], "more": False}
    assert dpone("runs", "--config", project).out == "no runs recorded\n"
    assert not (project.parent / ".dpone").exists()


@pytest.mark.parametrize("format_", ["text", "json", "html"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_run_is_shown_whole(past: Path, dpone: Dpone, format_: str, which: int) -> None:
    """By its id or its beginning: the record and the report, which a killed run does not have; as text, as JSON of the
    schema, as a page."""
    one = shown(dpone, past)["runs"][which]
    done = dpone("report", one["run_id"], "--config", past, "--format", format_)
    assert done.exit_code == 0, done.err
    assert one["run_id"] in done.out
    assert one["status"] in done.out
    if format_ == "json":
        require_valid("run-report.json", done.json)
        as_json = dpone("runs", "show", one["run_id"][:24].lower(), "--config", past, "--format", "json").json
        require_valid("runs-show.json", as_json)
        assert (as_json["run"], as_json["report"] is None) == (one, one["status"] == "crashed")
        assert as_json["report"] is None or as_json["report"] == done.json
    elif format_ == "html":
        assert done.out.startswith("<!DOCTYPE html>")
    else:
        text = dpone("runs", "show", one["run_id"], "--config", past).out
        assert f"status    {one['status']}" in text
        assert all(error["message"].split(";")[0][:60] in text for error in one["errors"])


def test_a_report_in_a_file_needs_no_pipeline(project: Path, dpone: Dpone, tmp_path: Path) -> None:
    """What ``run --report`` wrote is shown as ``run`` showed it, and written as a page to another file."""
    done = dpone("run", project, "-q", "--report", tmp_path / "r.json")
    again = dpone("report", tmp_path / "r.json")
    assert again.out.splitlines() == done.out.splitlines()[:-1]
    require_valid("run-report.json", dpone("report", tmp_path / "r.json", "--format", "json").json)
    assert dpone("report", tmp_path / "r.json", "--format", "html", "--output", tmp_path / "r.html").out == ""
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_report_of_an_earlier_version_is_shown(project: Path, dpone: Dpone, tmp_path: Path) -> None:
    """What it lacks is left out of the page; what a later version adds is ignored."""
    data = json.loads(dpone("run", project, "-q", "--format", "json").out)
    [stream] = data["streams"]
    for lacking in ("timeline", "source", "sink", "strategy", "retries"):
        del stream[lacking]
    (tmp_path / "old.json").write_text(json.dumps({**data, "later": [1]}), encoding="utf-8")
    for format_ in ("text", "json", "html"):
        assert dpone("report", tmp_path / "old.json", "--format", format_).exit_code == 0


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (
            ("runs", "--since", "soon"),
            2,
            "invalid value for '--since': 'soon' is not a duration; write a number and s, m",
        ),
        (("runs", "--since", "999999d"), 2, "'999999d' is too long; write less than 36500d, as in 24h"),
        (("runs", "--failed", "show", "01KILLED"), 2, "give --failed without a command, or after it"),
        (("runs", "show", "01NOBODY"), 2, "the run log does not have it; choose one from 'dpone runs'"),
        (("runs", "show", "01"), 2, "4 runs begin with it; choose one from 'dpone runs'"),
        (("runs", "show", ""), 2, "4 runs begin with it"),
        (("report", "nothing"), 2, "the run log does not have it"),
        (("report", "nothing.json"), 2, "read the report nothing.json: the file does not exist; give a file that"),
        (("report", "no/thing"), 2, "read the report no/thing: the file does not exist"),
        (("report", "{folder}/empty"), 2, "not JSON: Expecting value in line 1, column 1; give a file that"),
        (("report", "{folder}/deep"), 2, "deep: nested too deeply; give a file that 'dpone run --report FILE' wrote"),
        (("report", "{folder}/bytes"), 2, "bytes: not UTF-8; give a file that 'dpone run --report FILE' wrote"),
        (("report", "{folder}/nan"), 2, "nan: NaN is not a JSON number; give a file that"),
        (("report", "{folder}/list"), 2, "it is not a report of dpone run"),
        (("report", "{folder}/later"), 2, "it has format 2, and this dpone reads 1"),
        (("report", "{folder}/wrong"), 2, "streams[0].attempts must be a whole number"),
        (("report", "01KILLED", "--output", "{folder}/no/where"), 2, "no such file or directory; give a writable file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line(past: Path, dpone: Dpone, words: Any, exit_code: int, said: str) -> None:
    """What was found, and what to do."""
    least = {"format": 1, "run_id": "r", "pipeline": "p", "status": "failed", "started_at": "2026-01-01T00:00:00+00:00"}
    wrong = {**least, "streams": [{"stream": "s", "key": "k", "attempts": "many"}]}
    for name, text in {
        "empty": "",
        "list": "[]",
        "deep": "[" * 100_000,
        "bytes": "\udcff",
        "nan": "[NaN]",
        "later": json.dumps({**wrong, "format": 2}),
        "wrong": json.dumps(wrong),
    }.items():
        (past.parent / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    words = [word.format(folder=past.parent) for word in words]
    done = dpone(*words, "--config", past) if words[:2] != ["runs", "--failed"] else dpone(*words)
    assert done.exit_code == exit_code
    assert said in done.error


def test_OUT_16_a_run_is_chosen_from_the_list(past: Path, dpone: Dpone) -> None:
    """The advice for an id that is unknown, and for a file that is not there, leads to one that is known."""
    assert "choose one from 'dpone runs'" in dpone("report", "01NOBODY", "--config", past).error
    assert "or an id from 'dpone runs'" in dpone("report", "gone.json", "--config", past).error
    listed = dpone("runs", "--config", past).out.splitlines()
    assert dpone("report", listed[1].split()[0], "--config", past).exit_code == 0


def test_OUT_16_a_state_without_a_run_log_says_so(project: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is named, and where a report can be kept instead."""
    known = discover().get("state", "sqlite").capabilities
    monkeypatch.setitem(known, "run_log", Support.NOT_IMPLEMENTED)  # type: ignore[arg-type]
    assert dpone("run", project, "-q").exit_code == 0
    done = dpone("runs", "--config", project)
    assert (done.exit_code, "state backend sqlite keeps no run log" in done.error) == (2, True)
    assert "or 'dpone run --report FILE'" in done.error
    report = project.parent / "report.json"
    assert dpone("run", project, "-q", "--report", report).exit_code == 0
    assert dpone("report", report, "--config", project).exit_code == 0


CANARY = "cAn4ry p&ss/w0rd"
FORMATS = ("text", "json", "html")


def test_S_08_no_secret_is_in_the_log_or_on_a_page(
    project: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password of a connection that fails is in no record, no list, no report and no page: plain, URL-encoded or as
    base64."""
    monkeypatch.setenv("ENCODED", quote(CANARY, safe=""))
    data = yaml.safe_load(project.read_text(encoding="utf-8"))
    connection = "postgres://anna:${ENCODED}@127.0.0.1:1/db"
    data["sink"] |= {"type": "postgres", "table": "public.orders", "connection": connection}
    project.write_text(yaml.safe_dump({**data, "runtime": {"retries": 0}}), encoding="utf-8")
    done = [dpone("run", project, "-q")]
    assert done[0].exit_code == 1
    [one] = shown(dpone, project)["runs"]
    reports = [("report", one["run_id"], "--format", format_) for format_ in FORMATS]
    for words in (("runs",), ("runs", "show", one["run_id"]), *reports):
        done.append(dpone(*words, "--config", project))
        assert done[-1].exit_code == 0
    said = "".join(f"{each.out}{each.err}" for each in done)
    said += (project.parent / ".dpone" / "state.db").read_bytes().decode("utf-8", "replace")
    assert "127.0.0.1" in said
    encoded = [base64.b64encode(CANARY.encode()).decode(), quote(CANARY), quote(CANARY, safe=""), quote_plus(CANARY)]
    assert [form for form in (CANARY, *encoded) if form in said] == []
