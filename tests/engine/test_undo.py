"""Loads taken back through the engine: rows, position, epoch, state, and SIGKILL on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.engine.project import KILLED, Project, Row, declaring, mark, memory_folder, rows, with_plugins, zygote

from dpone.config.reader import load_pipeline
from dpone.connectors.file.sink import FileSink
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.contract import Load
from dpone.engine.rewind import rewind
from dpone.engine.undo import undo
from dpone.errors import Busy, ConfigError, Conflict, SinkError, StateAhead, UndoRefused
from dpone.model.position import Position

ON = {"undo": {"loads": 5}}
MODES: Mapping[str, Mapping[str, Any]] = {
    "full_refresh": {"mode": "full_refresh"},
    "append": {"mode": "append"},
    "merge": {"mode": "merge", "key": ["id"]},
    "replace": {"mode": "replace", "where": {"day": 1}},
    "partition_replace": {"mode": "partition_replace", "partition": "day"},
    "snapshot_diff": {"mode": "snapshot_diff", "key": ["id"], "max_delete_share": 1.0},
    "scd2": {"mode": "scd2", "key": ["id"]},
}
KINDS = [("sqlite", mode) for mode in MODES] + [("file", mode) for mode in ("full_refresh", "append")]


def named(kind: tuple[str, str]) -> str:
    return "-".join(kind)


def twice(folder: Path, target: str, mode: str) -> tuple[Project, list[Row], list[Row]]:
    """Two loads; the rows with their load ids after each."""
    state = "sqlite" if target == "sqlite" else "file"
    project = Project(folder, MODES[mode], target, state, sink_options=ON).save()
    project.csv("a", rows(1, 120))
    project.load()
    first = project.lineage()
    project.csv("b" if mode == "append" else "a", rows(121, 200) if mode == "append" else rows(50, 160, tag="new"))
    project.load()
    return project, first, project.lineage()


def stripped(found: list[Row], load_id: str) -> list[Row]:
    """Without the ids of one load, which a second load of the same rows does not share."""
    return [(*r[:-1], "B" if r[-1] == load_id else r[-1]) for r in found]


def undone_last(project: Project) -> str:
    head = project.head()
    assert head is not None
    undo(project.pipeline, stream_of(project), head.load_id)
    return head.load_id


def stream_of(project: Project) -> str:
    return "t" if project.target == "sqlite" else "out"


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_the_receipt_says_what_was_taken_out(tmp_path: Path, target: str) -> None:
    """Taking back an append takes out the rows it brought, and says under which entry of the journal."""
    project, _, _ = twice(tmp_path / "p", target, "append")
    before = len(project.rows())
    head = project.head()
    assert head is not None
    receipt = undo(project.pipeline, stream_of(project), head.load_id)
    assert (receipt.deleted, receipt.inserted) == (before - len(project.rows()), 0)
    assert (receipt.updated, receipt.unchanged) == (0, 0)
    assert (receipt.entry.undoes, receipt.entry.seq) == (head.load_id, head.seq + 1)


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_the_next_run_moves_the_rows_again(tmp_path: Path, kind: tuple[str, str]) -> None:
    """After undo the rows are those of the first load, in a new epoch of journal and state; a run loads B again."""
    project, first, second = twice(tmp_path / "p", *kind)
    epoch = project.head().epoch  # type: ignore[union-attr]
    gone = undone_last(project)
    assert project.lineage() == first
    head = project.head()
    assert head is not None
    assert (head.seq, head.epoch) == (3, epoch + 1)
    assert project.state() == head
    again = project.load()
    assert again.status == "loaded"
    assert stripped(project.lineage(), str(again.load_id)) == stripped(second, gone)
    assert project.load().status == "caught_up"


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_all_loads_can_go_one_after_the_other(tmp_path: Path, kind: tuple[str, str]) -> None:
    """B and then A: no row is left, and the stream stands at its beginning; an undone load is refused."""
    project, _, second = twice(tmp_path / "p", *kind)
    journal = project.journal() if kind[0] == "sqlite" else None
    gone = undone_last(project)
    with pytest.raises(UndoRefused, match="it was already undone"):
        undo(project.pipeline, stream_of(project), gone)
    first = journal[0].load_id if journal else project.manifest()["undo"][0]["entry"]["load_id"]
    undo(project.pipeline, stream_of(project), first)
    assert project.rows() == []
    assert project.head().position["kind"] == "start"  # type: ignore[union-attr]
    assert project.load().status == "loaded"
    wanted = {r[0]: r[:-1] for r in second}
    assert {r[0]: r for r in project.rows()}.items() <= wanted.items()


def test_a_load_between_is_in_the_way(tmp_path: Path) -> None:
    """An older load than the newest is refused, with the exit code of a decision; nothing is changed."""
    project, _, second = twice(tmp_path / "p", "sqlite", "merge")
    state, journal = project.state_bytes(), project.journal()
    with pytest.raises(UndoRefused, match="has changed t since") as caught:
        undo(project.pipeline, "t", journal[0].load_id)
    assert caught.value.exit_code == 3
    assert (project.lineage(), project.state_bytes(), project.journal()) == (second, state, journal)


def test_ST_01_nothing_is_taken_back_while_the_state_is_ahead(tmp_path: Path) -> None:
    """The target was restored from a copy: the load that its journal ends with is not the last one, so a person must
    decide first. Exit 3, and nothing is changed."""
    project, _, _ = twice(tmp_path / "p", "sqlite", "append")
    copy = project.folder / "copy.db"
    shutil.copy(project.database, copy)
    project.csv("c", rows(300, 310))
    project.load()
    shutil.copy(copy, project.database)
    before = project.lineage(), project.state_bytes(), project.journal()
    with pytest.raises(StateAhead) as caught:
        undo(project.pipeline, "t", project.journal()[-1].load_id)
    assert caught.value.exit_code == 3
    assert (project.lineage(), project.state_bytes(), project.journal()) == before


def test_a_position_that_was_set_by_hand_is_not_in_the_way(tmp_path: Path) -> None:
    """After 'state set' the last load can still go; the position is that from before it, in a later epoch."""
    project, first, _ = twice(tmp_path / "p", "sqlite", "append")
    a, b = project.journal()
    rewind(load_pipeline(project.pipeline), "t", None)
    undo(project.pipeline, "t", b.load_id)
    head = project.head()
    assert head is not None
    assert (project.lineage(), head.epoch, head.seq) == (first, 2, 4)
    assert head.position["value"] == a.position["value"]


def test_a_lost_answer_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit happened and its answer did not arrive: the journal tells, and the undo is done."""
    project, first, _ = twice(tmp_path / "p", "sqlite", "merge")
    real = SqliteSink.undo

    def cut(sink: Any, *args: Any) -> Any:
        real(sink, *args)
        raise ConnectionError("gone")

    monkeypatch.setattr(SqliteSink, "undo", cut)
    undone_last(project)
    assert (project.lineage(), project.state()) == (first, project.head())


def test_a_failure_before_the_commit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the sink passes, and target, journal and state are as before."""
    project, _, second = twice(tmp_path / "p", "sqlite", "merge")
    head, state = project.head(), project.state_bytes()
    monkeypatch.setattr("dpone.sql.restore.forget", lambda *_: (_ for _ in ()).throw(SinkError("drop", "no", "wait")))
    with pytest.raises(SinkError, match="drop: no; wait"):
        undone_last(project)
    assert (project.lineage(), project.head(), project.state_bytes()) == (second, head, state)


def test_not_while_the_stream_runs(tmp_path: Path, faulty: ModuleType) -> None:
    """A run holds the key's lock: an undo meanwhile is Busy, and the run goes on."""
    project, _, _ = twice(tmp_path / "p", "sqlite", "merge")
    head = project.head()
    assert head is not None
    project.csv("a", rows(1, 3, tag="third"))
    seen: list[str] = []

    def meanwhile(place: str) -> None:
        if place == "commit":
            with pytest.raises(Busy):
                undo(project.pipeline, "t", head.load_id)
            seen.append(place)

    faulty.watch.append(meanwhile)
    report = project.run(plugins=with_plugins(**faulty.PLUGINS))
    assert (report.exit_code, seen) == (0, ["commit"])


def test_a_sink_without_undo_is_told_at_once(tmp_path: Path) -> None:
    """A connector that does not keep anything refuses the option when the file is read, and the call."""
    project, _, _ = twice(tmp_path / "p", "sqlite", "merge")
    bare = declaring(with_plugins(), "sink", "sqlite", without="undo")
    with pytest.raises(ConfigError, match="sqlite cannot take back a load; load the rows again after 'd"):
        undo(project.pipeline, "t", "X", bare)
    assert project.dpone("state", "set", "pipeline.yaml", "--stream", "t", "--beginning", "--yes").code == 0
    assert project.load().rows.read


# -- files ----------------------------------------------------------------------------------------------------------


def test_readers_of_the_folder_see_one_generation(tmp_path: Path) -> None:
    """Kept parts are not in the folder, so that a reader who knows nothing of dpone counts no row twice."""
    project, first, second = twice(tmp_path / "p", "file", "full_refresh")
    assert pq.read_table(project.out).num_rows == len(second)
    assert len(list((project.out / ".dpone" / "undo").iterdir())) == 1
    undone_last(project)
    assert pq.read_table(project.out).num_rows == len(first)
    assert list((project.out / ".dpone" / "undo").iterdir()) == []


@pytest.mark.parametrize("keep", [1, 2])
def test_files_beyond_the_retention_go(tmp_path: Path, keep: int) -> None:
    """Of six generations the newest so many are kept, and all other parts are gone."""
    options = {"undo": {"loads": keep}}
    project = Project(tmp_path / "p", MODES["full_refresh"], "file", "file", sink_options=options).save()
    for n in range(6):
        project.csv("a", rows(n, n + 3))
        project.load()
    assert len(project.manifest()["undo"]) == keep
    assert len(list((project.out / ".dpone" / "undo").glob("*.parquet"))) == keep
    assert len(list(project.out.glob("*.parquet"))) == 1


def test_a_kept_part_that_was_altered_is_not_brought_back(tmp_path: Path) -> None:
    """A kept file that is gone or holds other bytes: refused by name, the target as it was."""
    project, _, second = twice(tmp_path / "p", "file", "full_refresh")
    [part] = (project.out / ".dpone" / "undo").iterdir()
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(UndoRefused, match="is missing or was changed"):
        undone_last(project)
    part.unlink()
    with pytest.raises(UndoRefused, match="is missing"):
        undone_last(project)
    assert project.lineage() == second


def test_a_runner_that_was_faster_wins_in_a_folder_too(tmp_path: Path) -> None:
    """The undo of a folder is fenced by its journal's head: with another head it is a Conflict, and nothing is done."""
    project, _, second = twice(tmp_path / "p", "file", "full_refresh")
    head = project.head()
    assert head is not None
    [spec] = load_pipeline(project.pipeline).streams
    sink = FileSink(spec.sink)
    load = Load(spec.key("p"), "X", "R", "token", False, None, spec.sink.strategy, False, datetime.now(UTC))
    with pytest.raises(Conflict):
        sink.undo(load, head.load_id, None, Position("start", {}, {}, 1))
    assert (project.lineage(), project.head()) == (second, head)


def test_a_load_of_another_stream_is_in_the_way_in_a_folder_too(tmp_path: Path) -> None:
    """Two pipelines append to one folder: the earlier load can go only after the later one."""
    project, _, second = twice(tmp_path / "p", "file", "append")
    head = project.head()
    assert head is not None
    other = project.but(sink_options={**ON, "adopt_existing": True})
    other.pipeline.write_text(other.pipeline.read_text().replace("pipeline: p", "pipeline: q"))
    later = other.load().load_id
    with pytest.raises(UndoRefused, match=f"load {later} has changed out since"):
        undo(project.save().pipeline, "out", head.load_id)
    assert len(project.lineage()) == 2 * len(second)


def test_a_manifest_of_before_is_read(tmp_path: Path) -> None:
    """A manifest without what undo added is a manifest: the next load goes on with it."""
    project, _, second = twice(tmp_path / "p", "file", "append")
    path = project.out / ".dpone" / "manifest.json"
    data = project.manifest()
    del data["undo"], data["last"]
    for entry in data["journals"].values():
        del entry["kept"], entry["undoes"]
    path.write_text(json.dumps(data))
    project.csv("c", rows(300, 310))
    project.load()
    assert len(project.lineage()) == len(second) + 11
    undone_last(project)
    assert project.lineage() == second


# -- SIGKILL --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Mapping[str, Any]]]:
    with zygote() as forked:
        yield forked


def require_swept(project: Project) -> None:
    """At once in a database; in a folder by the next load that has something to do."""
    if project.target == "file":
        project.csv("z", rows(900, 901))
        project.load()
        assert len(list((project.out / ".dpone" / "undo").glob("*"))) == len(kept_files(project))
    assert project.staging() == []


def kept_files(project: Project) -> set[str]:
    return {file["name"] for one in project.manifest()["undo"] for file in one["files"]} - {
        file["name"] for file in project.manifest()["files"]
    }


def killed_anywhere(folder: Path, run: Callable[..., Any], kind: tuple[str, str], most: int) -> int:
    """SIGKILL before every statement, or rename and fsync, of an undo, or before ``most`` of them. Answers how many."""
    start, first, second = twice(folder / "start", *kind)
    head = start.head()
    assert head is not None
    what, job = ("statement" if kind[0] == "sqlite" else "call"), [stream_of(start), head.load_id]

    def fresh(name: str) -> Project:
        shutil.copytree(start.folder, folder / name)
        return start.but(folder=folder / name)

    count = int(run(fresh("free"), undo=job, **{what: 10**9})["count"])
    ends = set()
    for n in sorted({*range(1, count + 1, max(1, count // most)), count}):  # the last is after the commit
        project = fresh(str(n))
        assert run(project, undo=job, **{what: n})["code"] == KILLED
        assert project.lineage() in (first, second)
        assert mark(project.state()) <= mark(project.head())
        done = project.lineage() == first
        assert done == (mark(project.head())[0] > mark(head)[0]), "rows and journal tell two stories"
        ends.add(done)
        if n % 2:  # the operator tries again
            with pytest.raises(UndoRefused, match="already undone") if done else nullcontext():
                undo(project.pipeline, *job)
            assert project.lineage() == first
        stream = project.load()
        assert stripped(project.lineage(), str(stream.load_id or head.load_id)) == stripped(second, head.load_id)
        assert project.state() == project.head()
        require_swept(project)
        shutil.rmtree(project.folder)
    assert ends == {False, True}
    return count


@pytest.mark.parametrize("kind", [("sqlite", "merge"), ("sqlite", "full_refresh"), ("file", "full_refresh")], ids=named)
def test_LS_05_an_undo_that_was_killed(run: Callable[..., Any], kind: tuple[str, str]) -> None:
    """SIGKILL on the way of an undo: the target is as before it or after it, and so says the journal."""
    with memory_folder() as folder:
        assert killed_anywhere(folder, run, kind, 6) > 10


@pytest.mark.crash
@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_LS_05_an_undo_that_was_killed_anywhere(run: Callable[..., Any], kind: tuple[str, str]) -> None:
    """SIGKILL before every single statement, or rename and fsync, of an undo, for every sink and strategy."""
    with memory_folder() as folder:
        assert killed_anywhere(folder, run, kind, 10**6) > 10


def load_killed_anywhere(folder: Path, run: Callable[..., Any], kind: tuple[str, str], most: int) -> int:
    """SIGKILL before every statement, or rename and fsync, of the commit of a load that keeps what it replaces."""
    target, mode = kind
    start = Project(folder / "start", MODES[mode], target, "file", sink_options=ON).save()
    start.csv("a", rows(1, 120))
    start.load()
    first = start.lineage()
    start.csv("b" if mode == "append" else "a", rows(121, 200) if mode == "append" else rows(50, 160, tag="new"))
    what = "statement" if target == "sqlite" else "call"

    def fresh(name: str) -> Project:
        shutil.copytree(start.folder, folder / name)
        return start.but(folder=folder / name)

    count = int(run(fresh("free"), **{what: 10**9})["count"])
    for n in range(1, count + 1, max(1, count // most)):
        project = fresh(str(n))
        assert run(project, **{what: n})["code"] == KILLED
        project.load()
        assert sorted(project.rows()) == sorted(start.but(folder=folder / "free").rows())
        head = project.head()
        assert head is not None
        kept = [name for name in project.tables() if name.startswith("__dpone__undo_")]
        assert kept in ([], [f"__dpone__undo_{head.load_id}"]) or mode == "full_refresh"
        undo(project.pipeline, stream_of(project), head.load_id)
        assert project.lineage() == first
        require_swept(project)
        shutil.rmtree(project.folder)
    return count


@pytest.mark.parametrize("kind", [("sqlite", "merge"), ("file", "full_refresh")], ids=named)
def test_LS_05_a_killed_load_can_be_taken_back(run: Callable[..., Any], kind: tuple[str, str]) -> None:
    """SIGKILL inside a commit that keeps what it replaces: once the next run has mended it, the load can be undone."""
    with memory_folder() as folder:
        assert load_killed_anywhere(folder, run, kind, 4) > 5


@pytest.mark.crash
@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_LS_05_a_load_killed_anywhere_can_be_taken_back(run: Callable[..., Any], kind: tuple[str, str]) -> None:
    """SIGKILL before every statement, or rename and fsync, of such a commit, for every sink and strategy."""
    with memory_folder() as folder:
        assert load_killed_anywhere(folder, run, kind, 10**6) > 5
