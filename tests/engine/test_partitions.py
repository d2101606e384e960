"""Runs of several parts: the manifest as it goes, resumes, is refused, retried and skipped."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.engine.project import KILLED, Project, Steps, declaring, rows, with_plugins

from dpone.engine.run import run
from dpone.errors import SinkError, SourceError
from dpone.hookspecs import hookimpl


def partitions(project: Project) -> list[Any]:
    """Rows of the manifest, read with sqlite3 or json."""
    if project.state_type == "file":
        [path] = (project.state_path / "partitions").glob("*.json")
        return [_plain(one) for one in json.loads(path.read_bytes())["partitions"]]
    with closing(sqlite3.connect(project.state_path)) as db:
        db.row_factory = sqlite3.Row
        return [_plain(row) for row in db.execute("SELECT * FROM __dpone__partitions ORDER BY ordinal")]


def _plain(row: Any) -> Mapping[str, Any]:
    return {name: row[name] for name in row.keys()}  # noqa: SIM118  # sqlite3.Row iterates over values


def column(project: Project, name: str) -> list[Any]:
    return [one[name] for one in partitions(project)]


def files(project: Project, count: int = 3) -> list[Any]:
    every = []
    for i in range(count):
        part = rows(100 * i + 1, 100 * i + 50)
        project.csv("abcdefgh"[i], part)
        every += part
    return every


def attempt(project: Project, faulty: ModuleType, observer: Any = None, **options: Any) -> Any:
    [stream] = run(project.pipeline, plugins=with_plugins(observer, **faulty.PLUGINS), **options).streams
    return stream


def at_stage(faulty: ModuleType, *errors: Exception | None) -> None:
    """Raise these, one after the other, where a part is staged; None: that one goes well."""
    waiting = list(errors)

    def look(place: str) -> None:
        if place == "stage" and waiting and (error := waiting.pop(0)):
            raise error

    faulty.watch.append(look)


@pytest.fixture
def project(project: Project, request: pytest.FixtureRequest) -> Project:
    return project.but(state_type=getattr(request, "param", "sqlite"))


BOTH = pytest.mark.parametrize("project", ["sqlite", "file"], indirect=True)  # where the state is kept


@BOTH
@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_a_load_of_several_parts_leaves_its_manifest(project: Project, target: str) -> None:
    """Every part is success with its rows and one attempt; a part that became a file names it with its checksum."""
    project = project.but(target=target)
    every = files(project)
    stream = project.load()
    assert project.rows() == every
    assert column(project, "status") == ["success"] * 3
    assert column(project, "rows_loaded") == column(project, "rows_extracted") == [50, 50, 50]
    assert column(project, "attempts") == [1, 1, 1]
    assert column(project, "owner") == [None] * 3
    if target == "file":
        listed = {file["name"]: file["sha256"] for file in project.manifest()["files"]}
        assert dict(zip(column(project, "artifact"), column(project, "checksum"), strict=True)) == listed
    else:
        assert column(project, "artifact") == [None] * 3
    assert stream.partitions == 3


def test_a_load_of_one_part_keeps_none(project: Project) -> None:
    """One file, one part: there is nothing to resume, and nothing is written for it."""
    files(project, 1)
    project.load()
    with pytest.raises((ValueError, sqlite3.OperationalError)):
        partitions(project)


@BOTH
def test_MF_02_a_part_left_running_is_done_again_and_the_staged_ones_are_not(project: Project) -> None:
    """SIGKILL in the second part: its lease is taken over at once, and counts as an attempt; the first stays."""
    every = files(project)
    with project.child(step="batch", nth=2) as child:
        child.communicate(timeout=60)
    assert child.returncode == KILLED
    assert column(project, "status") == ["success", "running", "pending"]
    seen = Steps()
    [stream] = run(project.pipeline, plugins=with_plugins(seen)).streams
    assert (stream.status, stream.partitions_resumed) == ("loaded", 1)
    assert seen.steps.count("part_started") == 2
    assert column(project, "attempts") == [1, 2, 1]
    assert project.rows() == every


def test_MF_03_a_success_that_is_not_staged_is_done_again(project: Project) -> None:
    """The staging was lost, the manifest says success: the rows come again, for only what is staged counts."""
    every = files(project)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    with closing(sqlite3.connect(project.database)) as db, db:
        [(stage,)] = db.execute("SELECT stage FROM __dpone__staging").fetchall()
        db.execute(f'DROP TABLE "{stage}"')
        db.execute("DELETE FROM __dpone__staging")
        db.execute("DELETE FROM __dpone__parts")
    assert column(project, "status") == ["success", "success", "running"]
    stream = project.load()
    assert stream.partitions_resumed == 0
    assert project.rows() == every


@BOTH
def test_MF_03_a_staged_part_the_manifest_does_not_know_is_not_read_again(project: Project, faulty: ModuleType) -> None:
    """Killed between staging and the manifest: what is staged is success."""
    every = files(project)
    with project.child(step="part_staged", nth=2) as child:
        child.communicate(timeout=60)
    if project.state_type == "sqlite":
        with closing(sqlite3.connect(project.state_path)) as db, db:
            db.execute("UPDATE __dpone__partitions SET status = 'running'")
    else:
        [path] = (project.state_path / "partitions").glob("*.json")
        path.write_text(path.read_text().replace('"success"', '"running"'))
    assert project.load().partitions_resumed == 2
    assert project.rows() == every


def changed(project: Project, what: str) -> Project:
    if what == "sink.options":
        return project.but(sink_options={"lineage": {"enabled": True}, "nan": "null"})
    if what == "source.options":
        return project.but(source={**project.source, "options": {"null_values": ["", "n/a"]}})
    return project.but(strategy={"mode": "merge", "key": ["id"]})


@pytest.mark.parametrize("what", ["source.options", "sink.strategy"])
def test_MF_04_half_a_load_of_another_pipeline_is_refused(project: Project, what: str) -> None:
    """The pipeline changed while parts were staged: exit 3, the change named, nothing touched; put back, it goes on."""
    every = files(project)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    other, staging = changed(project, what), project.staging()
    for _ in range(2):
        report = other.run()
        assert report.exit_code == 3
        error = report.streams[0].error
        assert error is not None
        assert error.kind == "ManifestChanged"
        assert f"since then this changed: {what};" in error.message
        assert "2 of 3 partitions" in error.message
        assert "'dpone partitions retry --from-scratch'" in error.message
        assert project.staging() == staging
    stream = project.save().load()
    assert (stream.partitions_resumed, project.rows()) == (2, every)


@pytest.mark.parametrize("option", ["--from-scratch", "--anew"])
def test_MF_04_the_load_begins_from_scratch_on_request(project: Project, option: str) -> None:
    """After retry --from-scratch, by its former name too, the changed pipeline loads everything once."""
    every = files(project)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    other = changed(project, "source.options")
    assert other.dpone("partitions", "retry", "pipeline.yaml", option).code == 0
    assert other.staging() == []
    stream = other.load()
    assert (stream.partitions_resumed, other.rows()) == (0, every)


@pytest.mark.parametrize("what", ["another file", "another split", "nothing staged"])
def test_MF_04_another_window_is_another_load(project: Project, what: str) -> None:
    """A file more, a split that is another, or nothing staged yet: the load simply begins afresh."""
    every = files(project)
    with project.child(step="part_started", nth=1 if what == "nothing staged" else 3) as child:
        child.communicate(timeout=60)
    if what == "another file":
        project.csv("z", rows(900, 950))
        every += rows(900, 950)
    stream = (changed(project, "sink.options") if what != "another split" else project).load()
    assert stream.partitions_resumed == (2 if what == "another split" else 0)
    assert project.rows() == every


def test_MF_04_a_window_that_begins_elsewhere_is_another_load(project: Project) -> None:
    """Half a load was left, then another load moved the position: a window that ends where the first was to end, but
    begins later, is not that load, so a changed pipeline is no reason to stop."""
    every = files(project)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    for name in ("b.csv", "c.csv"):
        (project.folder / "data" / name).rename(project.folder / name)
    assert project.load().partitions == 1
    for name in ("b.csv", "c.csv"):
        (project.folder / name).rename(project.folder / "data" / name)
    assert changed(project, "sink.options").load().partitions == 2
    assert project.rows() == every


@BOTH
def test_MF_06_a_part_that_fails_leaves_the_others_staged(project: Project, faulty: ModuleType) -> None:
    """A failure that no retry mends: the run fails, the other part and the error are kept; the next does the rest."""
    every = files(project)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    stream = attempt(project, faulty)
    assert stream.status == "failed"
    assert column(project, "status") == ["success", "failed", "pending"]
    assert "bad luck" in column(project, "error")[1]
    assert project.rows() == []
    stream = project.load()
    assert (stream.partitions_resumed, project.rows()) == (1, every)
    assert column(project, "attempts") == [1, 2, 1]
    assert "bad luck" in column(project, "error")[1]
    assert project.staging() == []


@pytest.mark.parametrize("error", [SinkError("write", "bad luck", "wait"), ConnectionError("cut")], ids=["run", "try"])
def test_parts_are_gone_on_with_only_if_the_sink_declares_resume(
    project: Project, faulty: ModuleType, error: Exception
) -> None:
    """A sink that does not declare ``resume`` keeps no staged part, whatever the window is: the next attempt, and the
    next run, stage every part again, and every row arrives once."""
    project = project.but(runtime={"retries": 1 if isinstance(error, ConnectionError) else 0})
    every = files(project)
    at_stage(faulty, None, error)
    seen = Steps()
    plugins = declaring(with_plugins(seen, **faulty.PLUGINS), "sink", "sqlite", without="resume")
    [stream] = run(project.pipeline, plugins=plugins).streams
    if stream.status == "failed":
        assert (project.staging(), column(project, "status")) == ([], ["pending", "failed", "pending"])
        [stream] = run(project.pipeline, plugins=plugins).streams
    assert (stream.status, stream.partitions_resumed) == ("loaded", 0)
    assert seen.steps.count("part_started") == 2 + 3
    assert project.rows() == every


def test_MF_06_a_failed_part_is_retried_in_the_same_run(project: Project, faulty: ModuleType) -> None:
    """A transient failure: the next attempt reads that part again and the staged one not; both attempts are counted."""
    project = project.but(runtime={"retries": 2})
    every = files(project)
    at_stage(faulty, None, ConnectionError("cut"), ConnectionError("cut"))
    seen = Steps()
    stream = attempt(project, faulty, seen)
    assert (stream.status, stream.attempts) == ("loaded", 3)
    assert column(project, "attempts") == [1, 3, 1]
    assert seen.steps.count("part_started") == 5
    assert project.rows() == every


def test_a_failure_before_the_first_part_leaves_nothing(project: Project, faulty: ModuleType) -> None:
    """Nothing is staged, so nothing is kept."""
    files(project)
    faulty.faults["stage"] = [SourceError("read", "no", "wait")]
    assert attempt(project, faulty).status == "failed"
    assert project.staging() == []


def test_a_failed_commit_leaves_no_part_done(project: Project, faulty: ModuleType) -> None:
    """The staging is thrown away with the load, and the manifest says so."""
    files(project)
    faulty.faults["commit"] = [SinkError("commit", "no", "wait")]
    assert attempt(project, faulty).status == "failed"
    assert project.staging() == []
    assert column(project, "status") == ["pending"] * 3


def test_a_skipped_partition_is_left_out_and_everybody_says_so(project: Project, faulty: ModuleType) -> None:
    """The load is committed without it: exit 4, a warning with the reason, its id in the report; then it is over."""
    files(project)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    [bad] = [one["id"] for one in partitions(project) if one["status"] == "failed"]
    done = project.dpone("partitions", "skip", "pipeline.yaml", bad, "--reason", "broken at the vendor")
    assert (done.code, column(project, "status")) == (0, ["success", "skipped", "pending"])
    run_ = project.dpone("run", "pipeline.yaml", "--format", "json")
    assert run_.code == 4
    assert (run_.json["status"], run_.json["exit_code"]) == ("incomplete", 4)
    [stream] = run_.json["streams"]
    assert (stream["status"], stream["partitions_skipped"]) == ("loaded", [bad])
    assert stream["warnings"] == [f"partition {bad} was skipped: broken at the vendor; its rows are not loaded"]
    assert project.rows() == rows(1, 50) + rows(201, 250)
    again = project.dpone("run", "pipeline.yaml", "--format", "json")
    assert (again.code, again.json["streams"][0]["status"]) == (0, "caught_up")
    late = project.dpone("partitions", "skip", "pipeline.yaml", bad, "--reason", "x")
    assert late.code == 2
    assert "is committed; only partitions of an open load can be changed" in late.err


def test_the_number_of_a_partition_names_it(project: Project, faulty: ModuleType) -> None:
    """A part of a file has a digest behind its number; whoever decides about it need not copy that."""
    files(project)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    assert partitions(project)[1]["id"].startswith("00001-")
    assert project.dpone("partitions", "skip", "pipeline.yaml", "00001", "--reason", "x").code == 0
    assert column(project, "status") == ["success", "skipped", "pending"]
    assert project.dpone("partitions", "retry", "pipeline.yaml", "00001").code == 0
    assert column(project, "status") == ["success", "pending", "pending"]
    assert project.dpone("partitions", "retry", "pipeline.yaml", "0000").code == 2


def test_a_skip_is_taken_back(project: Project, faulty: ModuleType) -> None:
    """retry without an id lets the next run do failed and skipped partitions."""
    every = files(project)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    bad = partitions(project)[2]["id"]
    assert project.dpone("partitions", "skip", "pipeline.yaml", bad, "--reason", "x").code == 0
    assert project.dpone("partitions", "retry", "pipeline.yaml").code == 0
    assert column(project, "status") == ["success", "pending", "pending"]
    assert project.load().partitions_skipped == []
    assert project.rows() == every


@pytest.mark.parametrize("mode", ["full_refresh", "snapshot_diff"])
def test_a_partition_is_not_skipped_where_rows_would_be_deleted_for_it(
    project: Project, faulty: ModuleType, mode: str
) -> None:
    """A strategy that deletes what the read lacks would take the partition's rows from the target: refused, exit 2."""
    strategy = {"mode": mode} | ({"key": ["id"]} if mode == "snapshot_diff" else {})
    project = project.but(strategy=strategy)
    files(project)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    attempt(project, faulty)
    bad = partitions(project)[1]["id"]
    done = project.dpone("partitions", "skip", "pipeline.yaml", bad, "--reason", "x")
    assert done.code == 2
    assert f"strategy {mode} would delete" in done.err
    assert column(project, "status")[1] == "failed"


def test_partitions_show(project: Project, faulty: ModuleType) -> None:
    """Text and JSON tell status, rows, attempts and errors, and whether the load is open or committed."""
    nothing = project.dpone("partitions", "show", "pipeline.yaml")
    assert (nothing.code, nothing.out) == (0, "t: no manifest\n")
    files(project)
    at_stage(faulty, None, SinkError("write", "bad luck", "wait"))
    load = attempt(project, faulty).load_id
    text = project.dpone("partitions", "show", "pipeline.yaml").out.splitlines()
    assert text[0] == f"t: load {load} open, 1 of 3 partitions staged"
    assert text[1].split() == ["partition", "status", "rows", "attempts", "bounds", "note"]
    assert text[3].split()[1:4] == ["failed", "0", "1"]
    project.load()
    [shown] = project.dpone("partitions", "show", "pipeline.yaml", "--format", "json").json
    assert shown["load"] == "committed"
    assert [one["status"] for one in shown["manifest"]["partitions"]] == ["success"] * 3


@BOTH
def test_MF_01_a_damaged_manifest_stops_a_run_in_parts_by_name(project: Project, tmp_path: Path) -> None:
    """The run fails in one line that says what to do, and after that goes on."""
    every = files(project)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    if project.state_type == "sqlite":
        with closing(sqlite3.connect(project.state_path)) as db, db:
            db.execute("UPDATE __dpone__manifests SET manifest = substr(manifest, 1, 40)")
    else:
        [path] = (project.state_path / "partitions").glob("*.json")
        path.write_bytes(path.read_bytes()[:100])
    error = project.run().streams[0].error
    assert error is not None
    assert error.kind == "StateError"
    assert "start the load over with 'dpone partitions retry --from-scratch'" in error.message
    assert project.dpone("partitions", "retry", "pipeline.yaml", "--from-scratch").code == 0
    assert project.load().partitions_resumed == 0
    assert project.rows() == every


def test_MF_07_two_runs_at_once_load_each_partition_once(project: Project) -> None:
    """Two processes run one pipeline at once: the rows are there once, and each part was started once."""
    project = project.but(runtime={"retries": 8, "workers": 2})
    every = files(project, 8)
    both = [project.start("run", "pipeline.yaml", "--log-format", "json", "--format", "json") for _ in range(2)]
    ended = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    events = [json.loads(line) for _, err in ended for line in err.splitlines()]
    assert sum(event["step"] == "part_started" for event in events) == 8
    assert project.rows() == every
    assert column(project, "attempts") == [1] * 8


class AtStaged:
    """Calls ``then`` when a run has staged every part and has not committed yet."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        if event.step == "staged":
            self.then()


def test_MF_07_a_runner_that_lost_leaves_the_staging_to_the_other(project: Project) -> None:
    """A runner loses its lock when every part is staged, and another goes on with them: the first ends with Conflict
    and throws nothing away, so that what the other had is there for whoever finishes the load."""
    every = files(project)
    taken: list[Any] = []

    def take_over() -> None:
        with closing(sqlite3.connect(project.state_path)) as db, db:
            db.execute("DELETE FROM __dpone__locks")
        with project.child(step="commit_started") as other:
            other.communicate(timeout=60)
        assert other.returncode == KILLED
        taken.extend(project.staging())

    [stream] = run(project.pipeline, plugins=with_plugins(AtStaged(take_over))).streams
    assert stream.error is not None
    assert stream.error.kind == "Conflict"
    assert taken
    assert project.staging() == taken
    assert column(project, "status") == ["success"] * 3
    assert project.load().partitions_resumed == 3
    assert project.rows() == every


# -- a source of one moment -------------------------------------------------------------------------------------------


def table(project: Project, first: int, last: int) -> None:
    with closing(sqlite3.connect(project.folder / "shop.db")) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, day INTEGER, name TEXT, note TEXT)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows(first, last))


def momentary(project: Project, **runtime: Any) -> Project:
    source = {"type": "sqlite", "connection": "sqlite:///shop.db", "table": "t"}
    return project.but(source=source, runtime={"partitions": 4, "retries": 0, "batch_rows": 10, **runtime})


def test_parts_of_a_snapshot_that_is_gone_begin_again(project: Project) -> None:
    """Killed with two of four parts staged: rows of two moments are not mixed, so all parts are read anew."""
    project = momentary(project)
    table(project, 1, 100)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    table(project, 101, 120)
    stream = project.load()
    assert (stream.partitions_resumed, stream.warnings) == (0, [])
    assert project.rows() == rows(1, 120)
    assert all(json.loads(bounds)["column"] == "id" for bounds in column(project, "bounds"))


def test_mixed_snapshots_keeps_what_is_staged_and_says_so(project: Project) -> None:
    """With resume: mixed_snapshots the staged parts stay, the others see rows that came since, and a warning tells."""
    project = momentary(project, resume="mixed_snapshots")
    table(project, 1, 100)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    first = json.loads(_head(project))["position"]
    table(project, 101, 120)
    stream = project.load()
    assert stream.partitions_resumed == 2
    told = "partitions from an earlier snapshot than the others: 2 of 4 (runtime.resume: mixed_snapshots)"
    assert stream.warnings == [told]
    assert project.rows() == rows(1, 120)
    assert stream.position_after == first
    assert project.load().warnings == []  # the next load is a new one


def _head(project: Project) -> str:
    with closing(sqlite3.connect(project.state_path)) as db:
        [(text,)] = db.execute("SELECT manifest FROM __dpone__manifests").fetchall()
    return str(text)


@pytest.mark.parametrize(
    ("role", "without", "found"),
    [
        ("sink", "resume", "sink sqlite does not keep staged parts for a later run"),
        ("source", "mixed_snapshots", "source sqlite cannot continue with the parts of a lost snapshot"),
    ],
)
def test_OUT_16_mixed_snapshots_need_two_ends_that_can(project: Project, role: str, without: str, found: str) -> None:
    """A sink that keeps no staged parts, or a source that reads none in a later snapshot: named, and nothing is read;
    with the word of the message every row is."""
    project = momentary(project, resume="mixed_snapshots")
    table(project, 1, 100)
    seen = Steps()
    plugins = declaring(with_plugins(seen), role, "sqlite", without=without)
    report = run(project.pipeline, plugins=plugins)
    assert report.exit_code == 3
    [stream] = report.streams
    assert stream.error is not None
    assert f"{found}; use resume: one_snapshot" in stream.error.message
    assert "window_fixed" not in seen.steps
    text = project.pipeline.read_text()
    assert "mixed_snapshots" in text
    project.pipeline.write_text(text.replace("mixed_snapshots", "one_snapshot"))
    assert run(project.pipeline, plugins=plugins).exit_code == 0
    assert project.rows() == rows(1, 100)


def test_mixed_snapshots_do_not_mix_increments(project: Project) -> None:
    """An increment ends where its snapshot ended: a load of a later snapshot under the position of the first would be
    read again in part, so it begins anew."""
    project = momentary(project, resume="mixed_snapshots")
    source = {**project.source, "options": {"incremental": {"by": "cursor", "column": "id"}}}
    project = project.but(source=source)
    table(project, 1, 100)
    with project.child(step="part_started", nth=1) as child:
        child.communicate(timeout=60)
    table(project, 101, 120)
    stream = project.load()
    assert (stream.partitions_resumed, stream.warnings) == (0, [])
    table(project, 121, 130)
    project.load()
    assert project.rows() == rows(1, 130)


def test_mixed_snapshots_of_a_source_that_was_one_part(project: Project) -> None:
    """A table without a key to split by was read whole; killed, it is read whole again."""
    project = momentary(project, resume="mixed_snapshots")
    with closing(sqlite3.connect(project.folder / "shop.db")) as db, db:
        db.execute(
            "CREATE TABLE t (id INTEGER, day INTEGER, name TEXT, note TEXT, PRIMARY KEY (id, day)) WITHOUT ROWID"
        )
    table(project, 1, 100)
    with project.child(step="part_staged", nth=1) as child:
        child.communicate(timeout=60)
    assert project.load().partitions_resumed == 1
    assert project.rows() == rows(1, 100)


def test_MF_04_mixed_snapshots_is_refused_after_a_change_of_the_table(project: Project) -> None:
    """The source's table has another column now: what is staged lacks it, so the run stops and names it."""
    project = momentary(project, resume="mixed_snapshots")
    table(project, 1, 100)
    with project.child(step="part_started", nth=3) as child:
        child.communicate(timeout=60)
    with closing(sqlite3.connect(project.folder / "shop.db")) as db, db:
        db.execute("ALTER TABLE t ADD COLUMN extra INTEGER")
    error = project.run().streams[0].error
    assert error is not None
    assert error.kind == "ManifestChanged"
    assert "column extra (was missing, is int64)" in error.message


def test_a_source_of_files_needs_no_mixed_snapshots(project: Project) -> None:
    """Nothing is lost where a window is repeatable: the option changes nothing."""
    project = project.but(runtime={"resume": "mixed_snapshots", "retries": 0})
    every = files(project)
    assert project.load().warnings == []
    assert project.rows() == every


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_ranges_are_read_by_several_workers(project: Project, target: str) -> None:
    """Two workers share the snapshot: every row once."""
    project = momentary(project.but(target=target, strategy={"mode": "full_refresh"}), workers=2)
    table(project, 1, 500)
    assert project.load().partitions == 4
    assert project.rows() == rows(1, 500)
