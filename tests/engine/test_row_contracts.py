"""Row contracts in a run: policies, quarantine files, guards of deletes, and what a killed run leaves of them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import yaml
from attrs import evolve
from tests.engine.project import KILLED, Project, Row, Steps, rows, with_plugins, zygote

from dpone.capability import Support
from dpone.cli.main import main
from dpone.config.reader import load_pipeline
from dpone.connectors.file.source import FileSource
from dpone.contract import BatchStream, Part, Stream
from dpone.engine.rewind import rewind
from dpone.engine.run import run as run_pipeline
from dpone.quality.quarantine import Inspection
from dpone.sql.writer import SqlWriter


def bound_by(project: Project, **contract: Any) -> Project:
    """The project with a contract in its pipeline file."""
    data = yaml.safe_load(project.pipeline.read_text())
    data["sink"]["contract"] = contract
    project.pipeline.write_text(yaml.safe_dump(data))
    return project


def shown(project: Project) -> Path:
    """Where the quarantine of the only stream is."""
    return project.folder / ".dpone" / "quarantine" / ("t" if project.target == "sqlite" else "out")


def left_out(project: Project, load_id: str) -> list[dict[str, Any]]:
    """The quarantined rows of a committed load, in the order of parts and rows."""
    folder = shown(project) / load_id
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def numbers(project: Project, load_id: str) -> list[tuple[int, list[str]]]:
    return [(line["row"], line["rules"]) for line in left_out(project, load_id)]


def pending(project: Project) -> list[Path]:
    folder = project.folder / ".dpone" / "quarantine" / ".pending"
    return [path for path in folder.rglob("*") if path.is_file()]


# Rows 1 to 20: every fifth note is NULL, the names are n1 to n20, the id 7 stands twice: in row 7 and in row 21.
DATA = [*rows(1, 20), *rows(7, 7)]
ROW_RULES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "not_null.note": ({"not_null": ["note"]}, [5, 10, 15, 20]),
    "ranges.id": ({"ranges": {"id": {"min": 2, "max": 19}}}, [1, 20]),
    "allowed_values.day": ({"allowed_values": {"id": [*range(3, 30)]}}, [1, 2]),
    "patterns.name": ({"patterns": {"name": "n[0-9],.*"}}, [*range(10, 21)]),
    "lengths.name": ({"lengths": {"name": {"max": 8}}}, [*range(10, 21)]),
    "unique.id": ({"unique": "id"}, [21]),
    "unique.id+day": ({"unique": [["id", "day"]]}, [21]),
}
LOAD_RULES: dict[str, dict[str, Any]] = {
    "required_columns.x": {"required_columns": ["id", "x"]},
    "types.id": {"types": {"id": "text"}},
    "row_count": {"row_count": {"min": 22}},
    "max_null_ratio.note": {"max_null_ratio": {"note": 0.1}},
    "logical_types.name": {"logical_types": {"id": "integer", "name": "timestamp"}},
}


@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("rule", [*ROW_RULES, *LOAD_RULES])
def test_fail_changes_nothing(project: Project, rule: str, target: str) -> None:
    """A broken rule that fails: a DataError that names rule and count, no row, no journal entry, no state, no file."""
    project = project.but(target=target)
    rules, bad = ROW_RULES[rule] if rule in ROW_RULES else (LOAD_RULES[rule], [0])
    bound_by(project, **rules).csv("a", DATA)
    report = project.run()
    [stream] = report.streams
    assert (report.exit_code, stream.status) == (1, "failed")
    assert stream.error is not None
    assert (stream.error.kind, stream.error.category) == ("DataError", "data_quality")
    [label] = [name for name, count in stream.contract.violations.items() if count] if stream.contract else []
    assert stream.contract is not None
    assert stream.contract.violations[label] == len(bad)
    assert label in stream.error.message
    assert "note 5" not in stream.error.message
    assert (project.rows(), project.journal(), project.state(), project.staging()) == ([], [], None, [])
    assert pending(project) == []
    if rule in ("required_columns.x", "types.id"):
        assert "t" not in project.tables()


@pytest.mark.parametrize("rule", [*ROW_RULES, *LOAD_RULES])
def test_warn_loads_and_says_so(project: Project, rule: str) -> None:
    """A broken rule that warns: every row is loaded, and the report has a line with the count."""
    rules, bad = ROW_RULES[rule] if rule in ROW_RULES else (LOAD_RULES[rule], [0])
    bound_by(project, on_violation="warn", **rules).csv("a", DATA)
    stream = project.load()
    assert len(project.rows()) == 21
    [warning] = stream.warnings
    assert warning.startswith("contract: ")
    assert stream.contract is not None
    assert stream.contract.rows_checked == 21
    assert sum(stream.contract.violations.values()) == len(bad)
    assert (stream.contract.quarantined, stream.contract.file, stream.rows.quarantined) == (0, None, 0)
    assert not list(project.folder.rglob("*.jsonl"))


@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("rule", ROW_RULES)
def test_quarantine_leaves_out_the_rows_and_says_why(project: Project, rule: str, target: str) -> None:
    """The rows that break a rule are in the side file with number and rule, the others in the target."""
    project, (rules, bad) = project.but(target=target), ROW_RULES[rule]
    bound_by(project, on_violation="quarantine", quarantine={"max_share": 1}, **rules).csv("a", DATA)
    stream = project.load()
    assert stream.load_id is not None
    assert stream.contract is not None
    found = numbers(project, stream.load_id)
    assert [row for row, _ in found] == bad
    assert all(len(reasons) == 1 for _, reasons in found)
    kept = [row for n, row in enumerate(DATA, 1) if n not in bad]
    assert project.rows() == sorted(kept, key=lambda r: r[0])
    assert (stream.rows.read, stream.rows.written, stream.rows.quarantined) == (21, len(kept), len(bad))
    assert (stream.contract.rows_checked, stream.contract.quarantined) == (21, len(bad))
    assert stream.contract.file == str(shown(project) / stream.load_id)
    assert stream.warnings == []


@pytest.mark.parametrize("rule", LOAD_RULES)
def test_a_rule_of_the_load_fails_where_rows_would_be_quarantined(project: Project, rule: str) -> None:
    """There is no row to blame, so a contract that quarantines fails there."""
    bound_by(project, on_violation="quarantine", **LOAD_RULES[rule]).csv("a", DATA)
    assert project.run().exit_code == 1
    assert project.rows() == []


def test_the_side_file_is_private_and_has_values_only_if_asked(project: Project) -> None:
    """Mode 0600 in folders of 0700; part, row and rules always, values with quarantine.values alone."""
    rules: dict[str, Any] = {"on_violation": "quarantine", "ranges": {"id": {"max": 20}}}
    bound_by(project, **rules).csv("a", rows(1, 21))
    plain = project.load()
    assert plain.contract is not None
    [file] = Path(str(plain.contract.file)).glob("*.jsonl")
    assert [set(json.loads(line)) for line in file.read_text().splitlines()] == [{"part", "row", "rules"}]
    assert "n21" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in list(file.parents)[:3]} == {0o700}
    bound_by(project, **rules, quarantine={"values": True, "max_share": 1}).csv("b", rows(25, 25))
    [line] = left_out(project, str(project.load().load_id))
    assert line["values"] == {"id": 25, "day": 1, "name": 'n25, "" é', "note": None}


def test_values_of_every_type_are_json(project: Project) -> None:
    """What JSON has no word for is text: decimals, times, NaN, bytes."""
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    (project.folder / "data").mkdir()
    table = pa.table({
        "id": [1], "f": [float("nan")], "d": pa.array([Decimal("1.10")]), "b": [b"\x00\xff"],
        "ts": pa.array([1], pa.timestamp("ns", "UTC")), "l": [[1, None]], "t": pa.array([1], pa.time64("ns")),
        "du": pa.array([5], pa.duration("us")), "dt": pa.array([0], pa.date32()), "n": pa.array([None], pa.string()),
    })  # fmt: skip
    pq.write_table(table, project.folder / "data" / "a.parquet")
    project = project.but(target="file", source={"type": "file", "path": "data/*.parquet"})
    bound_by(
        project, on_violation="quarantine", ranges={"id": {"min": 2}}, quarantine={"values": True, "max_share": 1}
    )  # fmt: skip
    [line] = left_out(project, str(project.load().load_id))
    assert line["values"] == {
        "id": 1, "f": "nan", "d": "1.10", "b": "AP8=", "ts": "1970-01-01 00:00:00.000000001Z", "l": "[1, null]",
        "t": "00:00:00.000000001", "du": 5, "dt": "1970-01-01", "n": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_share": 0.2}, ""), ({"max_rows": 4}, ""),
        ({"max_share": 0.19}, "quarantine.max_share: 4 of 20 rows would be quarantined"),
        ({"max_rows": 3}, "quarantine.max_rows: more than 3 rows of part 00000-"),
    ],
)  # fmt: skip
def test_too_many_quarantined_rows_fail_the_load(project: Project, limit: dict[str, Any], said: str) -> None:
    """Four of twenty rows are a fifth: what is above max_share or max_rows fails, and leaves no file."""
    limit = {"max_share": 1, **limit} if "max_rows" in limit else limit
    bound_by(project, on_violation="quarantine", not_null=["note"], quarantine=limit).csv("a", rows(1, 20))
    report = project.run()
    assert report.exit_code == bool(said)
    assert len(project.rows()) == (0 if said else 16)
    if said:
        assert report.streams[0].error is not None
        assert said in report.streams[0].error.message
        assert not list(project.folder.rglob("*.jsonl"))


def test_the_default_limit_is_a_twentieth(project: Project) -> None:
    """Without a word on it, one of twenty rows may be left out, two may not."""
    bound_by(project, on_violation="quarantine", ranges={"id": {"min": 2}}).csv("a", rows(1, 20))
    assert project.load().rows.quarantined == 1
    bound_by(project, on_violation="quarantine", ranges={"id": {"min": 103}}).csv("b", rows(101, 120))
    assert project.run().exit_code == 1


def test_a_quarantine_outside_the_project_is_refused(project: Project, tmp_path: Path) -> None:
    """A link that leads out of the pipeline's folder is not followed."""
    (tmp_path / "elsewhere").mkdir()
    (project.folder / "q").symlink_to(tmp_path / "elsewhere")
    bound_by(project, on_violation="quarantine", unique="id", quarantine={"path": "q/x"}).csv("a", rows(1, 3))
    [stream] = project.run().streams
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert project.rows() == []


def test_an_unknown_column_is_found_before_anything_is_changed(project: Project) -> None:
    """A rule for a column that the source has not: a stop, also of a plan, and no table is made."""
    bound_by(project, ranges={"idd": {"min": 1}}).csv("a", rows(1, 3))
    for options in ({}, {"dry_run": True}):
        report = project.run(**options)
        assert report.exit_code == 3
        assert report.streams[0].error is not None
        assert "no column idd" in report.streams[0].error.message
    assert project.tables() == []


def test_every_part_and_batch_counts(project: Project) -> None:
    """Violations, repeats across files and row counts are of the load, whatever its parts and batches are."""
    project = project.but(runtime={"batch_rows": 10, "retries": 0, "partitions": 3, "workers": 3}, target="file")
    bound_by(
        project,
        on_violation="warn",
        unique=["id"],
        not_null=["note"],
        max_null_ratio={"note": 0.2},
        row_count={"max": 1},
    )
    project.csv("a", rows(1, 95))
    project.csv("b", rows(91, 195))
    project.csv("c", rows(1, 5))
    stream = project.load()
    assert stream.contract is not None
    assert stream.partitions == 3
    assert stream.contract.rows_checked == 205
    assert stream.contract.violations == {
        "not_null.note": 19 + 21 + 1, "unique.id": 10, "row_count": 1, "max_null_ratio.note": 0,
    }  # fmt: skip


def test_1_11_zero_rows_never_pass_a_least_count(project: Project) -> None:
    """A file without a row breaks row_count.min; other rules hold; a run with nothing new says what it did not see."""
    project.csv("a", [])
    bound_by(project, not_null=["id"], unique=["id"], required_columns=["id"], max_null_ratio={"id": 0})
    stream = project.load()
    assert stream.contract is not None
    assert (stream.contract.rows_checked, {*stream.contract.violations.values()}) == (0, {0})
    bound_by(project, row_count={"min": 1})
    project.csv("b", [])
    report = project.run()
    assert report.exit_code == 1
    assert report.streams[0].error is not None
    assert "row_count: 0 rows, at least 1 required" in report.streams[0].error.message
    (project.folder / "data" / "b.csv").unlink()
    again = project.load()
    assert again.status == "caught_up"
    assert "row_count: 0 rows, at least 1 required" in again.warnings[0]


def test_another_contract_is_another_load(project: Project) -> None:
    """Content that was loaded under one contract is held against a new one, not taken as known."""
    project = project.but(strategy={"mode": "full_refresh"})
    bound_by(project, ranges={"id": {"min": 1}}).csv("a", rows(1, 9))
    assert project.load().status == "loaded"
    assert project.load().status == "caught_up"
    bound_by(project, ranges={"id": {"min": 2}})
    assert project.run().exit_code == 1
    assert len(project.rows()) == 9


@pytest.mark.parametrize(
    "strategy", [{"mode": "snapshot_diff", "key": ["id"]}, {"mode": "scd2", "key": ["id"], "deletes": "close"}]
)
def test_quarantined_rows_are_no_deleted_rows(project: Project, strategy: Mapping[str, Any]) -> None:
    """A row that the quarantine left out is not gone from the source: the load deletes nothing and stops."""
    project = project.but(strategy=strategy)
    project.csv("a", rows(1, 40))
    project.load()
    before = project.rows()
    bound_by(project, on_violation="quarantine", ranges={"id": {"max": 39}})
    [stream] = project.run().streams
    assert stream.error is not None
    assert (stream.status, stream.error.kind) == ("stopped", "DeletesRefused")
    assert project.rows() == before
    assert not list(project.folder.rglob("*.jsonl"))


def test_the_command_shows_the_contract(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text report has a line of it, the JSON report a section that reads back."""
    monkeypatch.chdir(project.folder)
    bound_by(project, on_violation="quarantine", ranges={"id": {"min": 2}}, not_null=["id"]).csv("a", rows(1, 20))
    with pytest.raises(SystemExit):
        main(["run", "pipeline.yaml", "-q"])
    text = capsys.readouterr().out
    assert "  contract: 20 rows checked, 2 rules, violations: ranges.id 1; 1 row in " in text
    project.csv("b", rows(30, 33))
    report = project.run()
    contract = report.to_json()["streams"][0]["contract"]
    assert contract == {
        "rows_checked": 4, "violations": {"not_null.id": 0, "ranges.id": 0}, "quarantined": 0, "file": None,
    }  # fmt: skip


def parallel(observer: Any = None) -> Any:
    """The file sink as one that takes several parts at once."""
    plugins = with_plugins(observer)
    sink = plugins.connectors["sink", "file"]
    able = evolve(sink, capabilities={**sink.capabilities, "parallel_stage": Support.SUPPORTED})
    return evolve(plugins, connectors={**plugins.connectors, ("sink", "file"): able})


@pytest.mark.parametrize("policy", ["warn", "quarantine"])
def test_workers_count_like_one(project: Project, policy: str) -> None:
    """Equal rows in parts read at once are counted as often as in one thread; where they are put aside, the parts
    come one after the other, so that the first of the window is the one to stay."""
    project, steps = project.but(target="file"), Steps()
    bound_by(project, on_violation=policy, unique="id", not_null=["note"], quarantine={"max_share": 1})
    for n in range(4):
        project.csv(f"n{n}", rows(1, 300, tag=str(n)))
    [stream] = run_pipeline(project.pipeline, plugins=parallel(steps), workers=4).streams
    assert stream.status == "loaded", stream.error
    assert stream.contract is not None
    assert stream.contract.violations == {
        "warn": {"not_null.note": 240, "unique.id": 900}, "quarantine": {"not_null.note": 240, "unique.id": 720},
    }[policy]  # fmt: skip
    if policy == "quarantine":
        assert project.rows() == [row for row in rows(1, 300, tag="0") if row[3] is not None]
        parts = [step for step in steps.steps if step in ("part_started", "part_staged")]
        assert parts == ["part_started", "part_staged"] * 4


# -- kill and resume ------------------------------------------------------------------------------------------------

CONTRACT: dict[str, Any] = {
    "on_violation": "quarantine",
    "overrides": {"unique.name": "warn", "patterns": "warn"},
    "not_null": ["note"],
    "unique": ["id", "name"],
    "patterns": {"name": "n[0-9]+, .*"},
    "max_null_ratio": {"note": 0},
    "row_count": {"min": 100},
    "quarantine": {"max_share": 0.5},
}
FIRST: list[Row] = rows(1, 250)
SECOND: list[Row] = [*rows(201, 400), *[(1000 + i, 1, f"x{i % 3}", "note") for i in range(10)]]


def in_two_parts(project: Project) -> Project:
    bound_by(project, **CONTRACT)
    project.csv("a", FIRST)
    project.csv("b", SECOND)
    return project


def outcome(project: Project, stream: Mapping[str, Any]) -> Any:
    """What must not depend on kills: rows, counts, warnings and the side files."""
    contract = {k: v for k, v in (stream["contract"] or {}).items() if k != "file"}
    head = project.head()
    assert head is not None
    counts = {k: stream["rows"][k] for k in ("read", "written", "quarantined", "inserted")}
    return project.rows(), counts, contract, stream["warnings"], left_out(project, head.load_id)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Mapping[str, Any]]]:
    with zygote() as forked:
        yield forked


POINTS = [
    ("batch", 2),
    ("part_staged", 1),
    ("part_started", 2),
    ("batch", 4),
    ("part_staged", 2),
    ("commit_started", 1),
]
AFTER = [("committed", 1), ("state_saved", 1)]


def undisturbed(project: Project, folder: Path, run: Callable[..., Mapping[str, Any]]) -> Any:
    shutil.copytree(project.folder, folder)
    copy = in_two_parts(project.but(folder=folder))
    return outcome(copy, run(copy)["report"]["streams"][0])


@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("point", [*POINTS, *AFTER], ids=str)
def test_a_killed_load_comes_to_the_same_verdict(
    project: Project, tmp_path: Path, run: Callable[..., Mapping[str, Any]], point: Any, target: str
) -> None:
    """SIGKILL at a step, and a second run: rows, counts, warnings and quarantine are those of an unkilled run, and
    until the commit there is no quarantine to see."""
    project = in_two_parts(project.but(target=target))
    expected = undisturbed(project, tmp_path / "free", run)
    step, nth = point
    assert run(project, step=step, nth=nth)["code"] == KILLED
    if point in POINTS:
        assert not shown(project).exists()
    again = run(project)
    assert again["code"] == 0
    stream = again["report"]["streams"][0]
    if point in AFTER:  # the load was done; the run that did it took its report along
        assert stream["status"] == "caught_up"
        assert project.rows() == expected[0]
        assert left_out(project, str(project.head() and project.head().load_id)) == expected[4]  # type: ignore[union-attr]
    else:
        assert outcome(project, stream) == expected
        resumed = {("batch", 2): 0, ("part_staged", 2): 2, ("commit_started", 1): 2}.get(point, 1)
        assert stream["partitions_resumed"] == resumed
    assert pending(project) == []


@pytest.mark.parametrize(("newest", "code"), [(1, 0), (3, 1)])
def test_a_killed_load_is_as_fresh_as_it_was(
    project: Project, run: Callable[..., Mapping[str, Any]], newest: int, code: int
) -> None:
    """The newest value is in a part that the killed run staged, and counts though nobody reads that part again."""
    bound_by(project, freshness={"note": "2d"})
    now = datetime.now(UTC)
    at = [(now - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (newest, 30)]
    project.csv("a", [(1, 1, "x", at[0])])
    project.csv("b", [(2, 1, "x", at[1])])
    assert run(project, step="part_staged", nth=1)["code"] == KILLED
    again = run(project)
    assert again["code"] == code
    stream = again["report"]["streams"][0]
    assert stream["partitions_resumed"] == 1
    assert stream["contract"]["violations"] == {"freshness.note": code}


def test_the_unkilled_load_is_what_plain_python_says(
    project: Project, tmp_path: Path, run: Callable[..., Mapping[str, Any]]
) -> None:
    """The outcome that kills are compared with, from the rows of the files alone."""
    kept, seen = [], set[int]()
    for row in [*FIRST, *SECOND]:
        if row[3] is not None and row[0] not in seen:
            kept.append(row)
            seen.add(row[0])
    found, counts, contract, warnings, left = undisturbed(in_two_parts(project), tmp_path / "free", run)
    assert found == sorted(kept, key=lambda r: r[0])
    assert counts["quarantined"] == len(left) == len(FIRST) + len(SECOND) - len(kept)
    assert contract["violations"]["unique.name"] == 7
    assert contract["violations"]["patterns.name"] == 10
    assert [warning.partition(":")[2].strip() for warning in sorted(warnings)] == [
        "patterns.name: 10 rows", "unique.name: 7 rows",
    ]  # fmt: skip


@pytest.mark.crash
@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("steps", [("load_opened", "staged"), ("commit_started", "acknowledged")], ids=str)
def test_kill_between_any_two_writes(
    project: Project, tmp_path: Path, run: Callable[..., Mapping[str, Any]], target: str, steps: Any
) -> None:
    """SIGKILL before every rename, fsync and unlink of staging and commit: the same rows and the same quarantine."""
    project = in_two_parts(project.but(target=target))
    expected = undisturbed(project, tmp_path / "free", run)
    shutil.copytree(project.folder, tmp_path / "count")
    between = {"since": steps[0], "until": steps[1]}
    count = run(in_two_parts(project.but(folder=tmp_path / "count")), call=10**9, **between)["count"]
    assert count > 5
    for n in range(1, count + 1):
        shutil.copytree(project.folder, tmp_path / str(n))
        copy = in_two_parts(project.but(folder=tmp_path / str(n)))
        assert run(copy, call=n, **between)["code"] == KILLED
        stream = run(copy)["report"]["streams"][0]
        assert stream["status"] in ("loaded", "caught_up")
        found = outcome(copy, stream)
        assert (found[0], found[4]) == (expected[0], expected[4])
        assert stream["status"] == "caught_up" or found == expected
        assert pending(copy) == []


def test_staged_parts_without_their_files_are_read_again(
    project: Project, tmp_path: Path, run: Callable[..., Mapping[str, Any]]
) -> None:
    """Another host goes on with the staging but has not the side files: the load starts anew, nothing is missing."""
    project = in_two_parts(project)
    expected = undisturbed(project, tmp_path / "free", run)
    assert run(project, step="part_staged", nth=1)["code"] == KILLED
    shutil.rmtree(project.folder / ".dpone" / "quarantine")
    stream = run(project)["report"]["streams"][0]
    assert stream["partitions_resumed"] == 0
    assert outcome(project, stream) == expected


def test_what_a_load_left_that_never_came_back_is_swept(
    project: Project, run: Callable[..., Mapping[str, Any]]
) -> None:
    """The files changed before the second run: what the killed one wrote of the old ones is shown nowhere."""
    project = in_two_parts(project)
    assert run(project, step="part_staged", nth=2)["code"] == KILLED
    assert pending(project)
    project.csv("a", rows(1, 4))
    project.csv("b", rows(2001, 2300))
    stream = run(project)["report"]["streams"][0]
    assert stream["rows"]["quarantined"] == 60
    assert pending(project) == []
    assert [f.name for f in shown(project).iterdir()] == [stream["load_id"]]


def test_a_retry_in_the_same_run_counts_once(project: Project, faulty: ModuleType) -> None:
    """The second attempt goes on with the parts of the first: every violation is counted once."""
    project = in_two_parts(project.but(runtime={"batch_rows": 100, "retries": 2}))
    faulty.faults["commit"] = [ConnectionResetError("reset by peer")]
    [stream] = run_pipeline(project.pipeline, plugins=with_plugins(**faulty.PLUGINS)).streams
    assert (stream.status, stream.attempts, stream.partitions_resumed) == ("loaded", 2, 2)
    assert stream.contract is not None
    assert stream.contract.violations["unique.name"] == 7
    assert len(stream.warnings) == 2


def test_a_position_set_by_hand_keeps_the_quarantine(project: Project, run: Callable[..., Mapping[str, Any]]) -> None:
    """Killed after the commit, then 'state set': the rows that the committed load left out are still shown."""
    project = in_two_parts(project)
    assert run(project, step="committed")["code"] == KILLED
    head = project.head()
    assert head is not None
    rewind(load_pipeline(project.pipeline), "t", None)
    assert left_out(project, head.load_id)
    assert pending(project) == []


def test_a_sink_that_keeps_no_checks_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checks found must be as durable as the part: without it there is no verdict and no commit."""
    real = SqlWriter.stage
    monkeypatch.setattr(SqlWriter, "stage", lambda *given: evolve(real(*given), checks=""))
    bound_by(project, not_null=["id"]).csv("a", rows(1, 9))
    [stream] = project.run().streams
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PluginError", 2)
    assert (project.rows(), project.journal()) == ([], [])


def test_files_that_vanish_before_the_commit_stop_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load whose rows in quarantine nobody could find any more is not committed."""
    real = Inspection.conclude

    def robbed(inspection: Inspection, staged: Any) -> Any:
        shutil.rmtree(inspection.folder)
        return real(inspection, staged)

    monkeypatch.setattr(Inspection, "conclude", robbed)
    in_two_parts(project)
    [stream] = project.run().streams
    assert stream.error is not None
    assert (stream.status, stream.error.kind) == ("stopped", "Conflict")
    assert (project.rows(), project.journal()) == ([], [])


def test_staging_of_an_earlier_version_gains_the_column(project: Project) -> None:
    """A table of parts that was made before there were row contracts is brought up to date."""
    project.csv("a", rows(1, 9))
    project.load()
    with closing(sqlite3.connect(project.database)) as db, db:
        db.execute("ALTER TABLE __dpone__parts DROP COLUMN checks")
    bound_by(project, unique=["id"]).csv("b", rows(11, 19))
    assert project.load().status == "loaded"
    assert len(project.rows()) == 18


class Aside(FileSource):
    """Puts aside the first row of every batch, as a source of dead letters would."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        with super().read(part) as stream:
            yield _Aside(stream)


class _Aside(BatchStream):
    quarantined = 0

    def __init__(self, stream: Stream) -> None:
        self._stream, self.schema = stream, stream.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._stream.batches():
            self.quarantined += 1
            yield batch.slice(1)


@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("options", [{}, {"nanoseconds": "cut"}], ids=["plain", "cut"])
@pytest.mark.parametrize("bound", [True, False], ids=["contract", "free"])
def test_rows_that_the_source_put_aside_are_counted(
    project: Project, target: str, options: Mapping[str, Any], bound: bool
) -> None:
    """They are read and quarantined, in the report beside those of the contract; the limit of the contract is for its
    own."""
    project = project.but(target=target, sink_options=options, runtime={"batch_rows": 5, "retries": 0})
    if bound:
        bound_by(
            project, on_violation="quarantine", ranges={"id": {"min": 3}}, quarantine={"max_rows": 1, "max_share": 0.1}
        )
    project.csv("a", rows(1, 20))
    plugins = with_plugins(source_file=f"{__name__}:Aside")
    [stream] = run_pipeline(project.pipeline, plugins=plugins).streams
    assert stream.error is None
    found = stream.rows
    assert (found.read, found.written, found.quarantined) == ((20, 15, 5) if bound else (20, 16, 4))
    assert (stream.contract.quarantined if stream.contract else 0) == (1 if bound else 0)
