"""A key that changes: what stood under the old one goes on under the new one, and nobody loads under both."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cdc.log import insert, transaction, update, write
from tests.engine.project import (
    KILLED,
    ApplyProject,
    ChangeProject,
    Project,
    Steps,
    declaring,
    rows,
    with_plugins,
    zygote,
)

from dpone.config.reader import load_pipeline
from dpone.connectors.file.source import FileSource
from dpone.connectors.sqlite.source import SqliteSource
from dpone.contract import WindowRequest
from dpone.engine.rewind import rewind
from dpone.engine.run import Run
from dpone.engine.undo import undo
from dpone.errors import ConfigError, StateAhead, Stopped
from dpone.hookspecs import hookimpl
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.ops import partitions
from dpone.ops.state import movable, move, past, stream_states

KINDS = (("sqlite", "sqlite"), ("file", "file"), ("sqlite", "file"), ("file", "sqlite"))
MOVED = "moved"  # the kind of a position, as it is stored
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(params=KINDS, ids="-".join)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """Reads a table by cursor, from an application's own database."""
    target, state = request.param
    source = {
        "type": "sqlite", "connection": "sqlite:///app.db", "table": "t",
        "options": {"incremental": {"by": "cursor", "column": "id"}},
    }  # fmt: skip
    return Project(tmp_path / "p", target=target, state_type=state, source=source).save()


def add(project: Project, first: int, last: int) -> None:
    with closing(sqlite3.connect(project.folder / "app.db")) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, day INTEGER, name TEXT, note TEXT)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows(first, last))


def rewrite(project: Project, *changes: Change) -> None:
    data = yaml.safe_load(project.pipeline.read_text())
    for change in changes:
        change(data)
    project.pipeline.write_text(yaml.safe_dump(data))


def name_connections(data: dict[str, Any]) -> None:
    """Under ``connections:``; where they point stays as it is."""
    data["connections"] = {}
    for role in ("source", "sink"):
        if "connection" in data[role]:
            data["connections"][f"my-{role}"] = data[role]["connection"]
            data[role]["connection"] = f"my-{role}"


def rename_pipeline(data: dict[str, Any]) -> None:
    data["pipeline"] = "renamed"


def key_of(project: Project) -> str:
    pipeline = load_pipeline(project.pipeline)
    return pipeline.streams[0].key(pipeline.name)


def journals(project: Project) -> dict[str, list[tuple[int, str]]]:
    """Key -> (seq, kind of position); of a folder the head alone."""
    found: dict[str, list[tuple[int, str]]] = {}
    if project.target == "file":
        for key, entry in (project.manifest() or {"journals": {}})["journals"].items():
            found[key] = [(entry["seq"], entry["position"]["kind"])]
        return found
    for key, seq, position in project.query('SELECT key, seq, "position" FROM __dpone__loads ORDER BY key, seq'):
        found.setdefault(key, []).append((seq, json.loads(position)["kind"]))
    return found


def require_moved(project: Project, old: str, new: str, seq: int) -> None:
    """All that there was of the old key is the new one's; a mark is left, and no open load."""
    found = journals(project)
    assert {key: entries[-1] for key, entries in found.items()} == {new: (seq, "cursor"), old: found[old][-1]}
    assert [kind for _, kind in found[old]] == [MOVED]
    if project.target == "sqlite":
        assert [n for n, _ in found[new]] == list(range(1, seq + 1))
    assert saved(project) == {new: seq}
    assert project.staging() == []


def saved(project: Project) -> dict[str, int]:
    """Key -> seq of each state that there is."""
    if project.state_type == "file":
        records = [json.loads(path.read_bytes()) for path in project.state_path.glob("*.json")]
        return {one["key"]: one["history"][0]["value"]["seq"] for one in records if not one["deleted"]}
    with closing(sqlite3.connect(project.state_path)) as db:
        found = db.execute("SELECT key, value FROM __dpone__state WHERE value IS NOT NULL").fetchall()
    return {key: json.loads(value)["seq"] for key, value in found}


# -- a connection gets a name ---------------------------------------------------------------------------------------


def test_a_named_connection_goes_on_where_its_url_ended(project: Project) -> None:
    """The next run moves what stands under the key of earlier versions, says so once, and loads only what is new; then
    the host behind the name may change."""
    add(project, 1, 40)
    old = project.load().key
    rewrite(project, name_connections)
    add(project, 41, 50)
    [before] = stream_states(load_pipeline(project.pipeline))
    assert (before.key, before.agree) == (old, True)
    planned = Run(load_pipeline(project.pipeline), dry_run=True).execute().streams[0]
    assert (planned.key, planned.status, list(journals(project))) == (old, "planned", [old])
    steps = Steps()
    [stream] = project.run(plugins=with_plugins(steps)).streams
    new = key_of(project)
    assert (stream.key, stream.rows.read, stream.status) == (new, 10, "loaded")
    assert [e.data["text"] for e in steps.events if e.step == "warning"] == [
        f"journal and state moved from key {old} to {new}"
    ]
    assert "sqlite:my-source:t" in new
    require_moved(project, old, new, 2)
    assert project.rows() == rows(1, 50)
    if project.target == "sqlite":  # of its source, SQLite's position knows the path
        project.database.rename(project.folder / "moved.db")
        rewrite(project, lambda d: d["connections"].update({"my-sink": "sqlite:///moved.db"}))
    assert project.load().rows.read == 0
    assert key_of(project) == new


def test_a_state_without_its_journal_still_stops_the_run(project: Project) -> None:
    """A target that was lost while its connection got a name is a state ahead, as it was before; --full-refresh and a
    position that is set by hand go on under the new key."""
    add(project, 1, 10)
    project.load()
    lost = project.out if project.target == "file" else project.database
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    rewrite(project, name_connections)
    [stream] = project.run().streams
    assert stream.error is not None
    assert "but the journal is empty" in stream.error.message
    pipeline = load_pipeline(project.pipeline)
    [standing] = stream_states(pipeline)
    assert standing.agree is False
    if project.state_type == "sqlite":
        rewind(pipeline, pipeline.streams[0].name, None)
        assert project.load().rows.read == 10
    else:
        assert project.load(full_refresh=True).rows.read == 10
    assert project.rows() == rows(1, 10)


def test_a_journal_of_the_new_key_goes_on_where_the_state_was_lost(project: Project) -> None:
    """Without a state the former key is asked as well; nothing there changes the key or what is new."""
    rewrite(project, name_connections)
    add(project, 1, 5)
    key = project.load().key
    shutil.rmtree(project.state_path) if project.state_path.is_dir() else project.state_path.unlink()
    add(project, 6, 9)
    stream = project.load()
    assert (stream.key, stream.rows.read) == (key, 4)
    assert list(journals(project)) == [key]
    assert saved(project) == {key: 2}
    assert project.rows() == rows(1, 9)


def test_a_sink_that_cannot_move_its_journal_goes_on_under_the_former_key(project: Project) -> None:
    """Under the new key it would have no position, and load everything again; one that can move does so later."""
    add(project, 1, 5)
    old = project.load().key
    rewrite(project, name_connections)
    bare = declaring(with_plugins(), "sink", project.target, without="move")
    add(project, 6, 9)
    [stream] = project.run(plugins=bare).streams
    assert (stream.key, stream.rows.read, list(journals(project))) == (old, 4, [old])
    assert project.load().rows.read == 0
    require_moved(project, old, key_of(project), 2)
    assert project.rows() == rows(1, 9)


def test_a_position_set_by_hand_or_an_undo_takes_the_journal_along(tmp_path: Path) -> None:
    """The first thing after a connection got its name may be ``state set`` or ``undo``: the old key has only a mark."""
    for way in ("set", "undo"):
        project = Project(tmp_path / way, sink_options={"undo": {"loads": 5}}).save()
        project.csv("a", rows(1, 5))
        first = project.load()
        rewrite(project, name_connections)
        if way == "set":
            rewind(load_pipeline(project.pipeline), "t", None)
        else:
            assert first.load_id is not None
            undo(project.pipeline, "t", first.load_id)
            assert project.rows() == []
        found = journals(project)
        assert [kind for _, kind in found[first.key]] == [MOVED]
        assert [kind for _, kind in found[key_of(project)]] == ["files", "start"]
        assert saved(project) == {key_of(project): 2}
        assert past(load_pipeline(project.pipeline), "t", 5) != []


# -- two runners ----------------------------------------------------------------------------------------------------


class At:
    """Does something when a run comes to a step."""

    def __init__(self, step: str, do: Callable[[], None]) -> None:
        self.step, self.do = step, do

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        if event.step == self.step:
            self.do()


@pytest.mark.parametrize(
    ("loads", "lease"), [(0, True), (1, True), (1, False)], ids=["first load", "later load", "lease lost"]
)
def test_of_a_runner_of_the_old_key_and_one_of_the_new_one_loads(project: Project, loads: int, lease: bool) -> None:
    """While a runner of the old key is at work the new one is told so; once its lease is lost the new one goes on, and
    the old one commits nothing more."""
    add(project, 1, 5)
    for _ in range(loads):
        project.load()
    add(project, 6, 9)
    url = project.pipeline.read_text()
    later: list[Any] = []

    def meanwhile() -> None:
        if not lease:
            drop_leases(project)
        rewrite(project, name_connections)
        later.extend(project.run().streams)
        project.pipeline.write_text(url)

    [stream] = project.run(plugins=with_plugins(At("commit_started", meanwhile))).streams
    [other] = later
    if lease:
        assert stream.status == "loaded"
        assert other.error.kind == "Busy"
    else:
        assert (stream.status, other.status) == ("stopped", "loaded")
        assert stream.error is not None
        assert stream.error.kind == "Conflict"
    assert project.rows() == rows(1, 9)


def leases(project: Project) -> list[str]:
    if project.state_type == "file":
        return sorted(path.name for path in project.state_path.glob("*.lease"))
    with closing(sqlite3.connect(project.state_path)) as db:
        return [key for (key,) in db.execute("SELECT key FROM __dpone__locks ORDER BY key")]


def drop_leases(project: Project) -> None:
    if project.state_type == "file":
        for path in project.state_path.glob("*.lease"):
            path.unlink()
        return
    with closing(sqlite3.connect(project.state_path)) as db, db:
        db.execute("DELETE FROM __dpone__locks")


def test_a_run_under_the_old_key_stops_and_says_where_it_went(project: Project) -> None:
    """An old pipeline file loads nothing: exit 3, both keys named. Moved back, it goes on."""
    add(project, 1, 5)
    old, url = project.load().key, project.pipeline.read_text()
    rewrite(project, name_connections)
    project.load()
    new = key_of(project)
    project.pipeline.write_text(url)
    add(project, 6, 9)
    report = project.run()
    [stream] = report.streams
    assert report.exit_code == 3
    assert stream.error is not None
    assert f"key {old} was moved to {new}; use the pipeline file with" in stream.error.message
    move(load_pipeline(project.pipeline), new, old)
    assert project.load().rows.read == 4
    require_moved(project, new, old, 2)
    assert project.rows() == rows(1, 9)


@pytest.mark.parametrize("incremental", [None, {"by": "cursor", "column": "id"}], ids=["all", "cursor"])
def test_no_source_takes_the_position_of_a_mark(tmp_path: Path, incremental: Any) -> None:
    """A dpone that knows no moves reads nothing after a mark: every source refuses the position."""
    mark, asked = Position(MOVED, {}, {"to": "k"}, 1), WindowRequest()
    (tmp_path / "a.csv").write_text("id\n1\n")
    with closing(sqlite3.connect(tmp_path / "app.db")) as db, db:
        db.execute("CREATE TABLE t (id INTEGER)")
    options = {"incremental": incremental} if incremental else {}
    source = {"type": "sqlite", "connection": "sqlite:///app.db", "table": "t", "options": options}
    project = Project(tmp_path, source=source).save()
    [spec] = load_pipeline(project.pipeline).streams
    sources = [SqliteSource(spec.source), FileSource(SourceSpec("file", path="*.csv", base=tmp_path))]
    for source in sources:
        with closing(source), pytest.raises((Stopped, ConfigError)):
            source.window(mark, asked)


# -- dpone state move -----------------------------------------------------------------------------------------------


def test_a_renamed_pipeline_goes_on(project: Project) -> None:
    """Journal, state and partition manifest get the new key; what is moved is told, and a plan changes nothing."""
    add(project, 1, 40)
    old = project.load().key
    rewrite(project, rename_pipeline)
    [refused] = project.run().streams
    assert refused.error is not None
    assert refused.error.kind == "StateMissing"
    pipeline, new = load_pipeline(project.pipeline), key_of(project)
    before = journals(project), saved(project)
    planned = movable(pipeline, old, pipeline.streams[0].name)
    assert (journals(project), saved(project)) == before
    done = move(pipeline, old, new)
    assert done == planned
    assert (done.old, done.new, done.begun, done.what.head and done.what.head.seq) == (old, new, False, 1)
    require_moved(project, old, new, 1)
    assert journals(project)[old] == [(2, MOVED)]  # newer than what a runner still alive has read
    add(project, 41, 50)
    assert project.load().rows.read == 10
    assert project.rows() == rows(1, 50)
    again = move(pipeline, old, new)
    assert again.begun
    require_moved(project, old, new, 2)


def test_what_cannot_be_moved_is_refused_and_nothing_changes(project: Project) -> None:
    """A key without a journal, a new one that has one, a stream that is not there, a state ahead: each is an error with
    the way out, and journal and state stay as they are."""
    add(project, 1, 10)
    old = project.load().key
    rewrite(project, rename_pipeline)
    pipeline, new = load_pipeline(project.pipeline), key_of(project)
    before = journals(project), saved(project)
    loaded_by = f"according to the journal of .*; use one of its keys: '{re.escape(old)}'"
    for given, says in (
        (("p|other|a|b", new), f"nothing was loaded under this key, {loaded_by}"),
        ((old, "nobody"), "renamed has no stream with key nobody; choose one of its streams"),
        ((new, new), "the stream already has this key"),
    ):
        with pytest.raises(ConfigError, match=says):
            move(pipeline, *given)
        assert (journals(project), saved(project)) == before
    project.load(full_refresh=True)
    before = journals(project), saved(project)
    with pytest.raises(ConfigError, match="already exists: its journal ends with load"):
        move(pipeline, old, new)
    assert (journals(project), saved(project)) == before
    rewrite(project, lambda d: d.update(pipeline="third"))
    forge_ahead(project, old)
    before = journals(project), saved(project)
    with pytest.raises(StateAhead):
        move(load_pipeline(project.pipeline), old, key_of(project))
    assert (journals(project), saved(project)) == before


def forge_ahead(project: Project, key: str) -> None:
    """The state of the key says more than its journal."""
    if project.state_type == "file":
        for path in project.state_path.glob("*.json"):
            record = json.loads(path.read_bytes())
            if record["key"] == key:
                record["history"][0]["value"]["seq"] = 99
                path.write_text(json.dumps(record))
        return
    with closing(sqlite3.connect(project.state_path)) as db, db:
        [(text,)] = db.execute("SELECT value FROM __dpone__state WHERE key = ?", (key,)).fetchall()
        db.execute(
            "UPDATE __dpone__state SET value = ? WHERE key = ?", (json.dumps({**json.loads(text), "seq": 99}), key)
        )


# -- what else bears the key ----------------------------------------------------------------------------------------


def test_what_was_put_aside_is_found_after_the_move(tmp_path: Path) -> None:
    """Quarantined rows of a load whose run died before it could move them get their final name."""
    contract = {"ranges": {"id": {"min": 3}}, "on_violation": "quarantine", "quarantine": {"max_share": 1}}
    project = Project(tmp_path / "p").save()
    rewrite(project, lambda d: d["sink"].update(contract=contract))
    project.csv("a", rows(1, 9))
    child = project.child(step="committed")
    child.communicate(timeout=60)
    assert child.returncode == KILLED
    rewrite(project, name_connections)
    project.load()
    [kept] = (project.folder / ".dpone" / "quarantine" / "t").glob("*/*.jsonl")
    assert len(kept.read_text().splitlines()) == 2
    assert list((project.folder / ".dpone" / "quarantine" / ".pending").glob("*/*")) == []


def test_what_a_load_that_was_never_committed_put_aside_goes_with_the_move(tmp_path: Path) -> None:
    """Nobody loads under the old key again, so the move removes its quarantine that no load committed; what was
    committed stays."""
    contract = {"ranges": {"id": {"min": 3, "max": 11}}, "on_violation": "quarantine", "quarantine": {"max_share": 1}}
    project = Project(tmp_path / "p").save()
    rewrite(project, lambda d: d["sink"].update(contract=contract))
    project.csv("a", rows(1, 9))
    old = project.load().key
    project.csv("b", rows(10, 14))
    child = project.child(step="part_staged")
    child.communicate(timeout=60)
    assert child.returncode == KILLED
    aside = project.folder / ".dpone" / "quarantine"
    assert len([*(aside / ".pending").glob("*/*/*.jsonl")]) == 1
    rewrite(project, rename_pipeline)
    move(load_pipeline(project.pipeline), old, key_of(project))
    assert [*(aside / ".pending").glob("*/*")] == []
    assert [len(one.read_text().splitlines()) for one in (aside / "t").glob("*/*.jsonl")] == [2]
    project.load()
    assert project.rows() == rows(3, 11)
    assert sorted(len(one.read_text().splitlines()) for one in (aside / "t").glob("*/*.jsonl")) == [2, 3]


@pytest.mark.parametrize(("target", "state"), KINDS)
def test_the_manifest_of_a_load_half_done_goes_along(target: str, state: str, tmp_path: Path) -> None:
    """Partitions are shown before the move and after it, and the next run does those that are left, each row once."""
    runtime = {"batch_rows": 100, "retries": 0, "partitions": 3}
    project = Project(tmp_path / "p", target=target, state_type=state, runtime=runtime).save()
    for i, name in enumerate("abc"):
        project.csv(name, rows(10 * i + 1, 10 * i + 10))
    project.load()
    for i, name in enumerate("def", 3):
        project.csv(name, rows(10 * i + 1, 10 * i + 10))
    child = project.child(step="part_staged", nth=2)
    child.communicate(timeout=60)
    assert child.returncode == KILLED
    [before] = partitions.shown(load_pipeline(project.pipeline))
    rewrite(project, name_connections if target == "sqlite" else rename_pipeline)
    pipeline = load_pipeline(project.pipeline)
    assert (before.load, before.manifest is None) == ("open", False)
    if target == "sqlite":  # the name alone is no reason to lose sight of it
        assert partitions.shown(pipeline) == [before]
    move(pipeline, before.key, key_of(project))
    [after] = partitions.shown(pipeline)
    assert (after.key, after.load) == (key_of(project), "open")
    assert after.manifest is not None
    assert before.manifest is not None
    assert after.manifest.partitions == before.manifest.partitions
    project.load()
    assert project.rows() == rows(1, 60)
    assert project.staging() == []


@pytest.mark.parametrize("mode", ["append", "cdc_apply", "scd2"])
def test_every_table_of_a_change_stream_goes_along(mode: str, tmp_path: Path) -> None:
    """The keys of its tables change with its own, and so does what scd2 knows of the last commit: a later window leaves
    what it leaves where nothing was moved."""
    found = []
    for moved in (False, True):
        kind = ChangeProject if mode == "append" else ApplyProject
        project = kind(tmp_path / str(moved), {"mode": mode}).save()
        first = insert("orders", {"id": 1}, name="a"), insert("orders", {"id": 2}, name="b")
        write(project.log, transaction("1", *first, at="2026-01-01T00:00:00Z"))
        old = project.load().key
        if moved:
            rewrite(project, name_connections)
        write(project.log, transaction("2", update("orders", {"id": 1}, name="c"), at="2026-01-02T00:00:00Z"))
        project.load()
        found.append([row[:-1] for row in project.lineage()])
        if moved:
            keys = {key for (key,) in project.query("SELECT key FROM __dpone__loads")}
            assert keys == {old, key_of(project), f"{key_of(project)}|orders"}
            if mode == "scd2":
                assert project.query("SELECT stream FROM __dpone__commits") == [(f"{key_of(project)}|orders",)]
    assert found[0] == found[1]


def test_a_load_can_be_taken_back_under_the_new_key(tmp_path: Path) -> None:
    """What undo kept goes along, for a table and for a folder."""
    for target in ("sqlite", "file"):
        project = Project(tmp_path / target, target=target, sink_options={"undo": {"loads": 5}}).save()
        project.csv("a", rows(1, 5))
        project.load()
        project.csv("b", rows(6, 9))
        second = project.load().load_id
        rewrite(project, rename_pipeline)
        pipeline = load_pipeline(project.pipeline)
        old = next(key for key in journals(project))
        move(pipeline, old, key_of(project))
        assert second is not None
        undo(project.pipeline, pipeline.streams[0].name, second)
        assert project.rows() == rows(1, 5)
        project.load()
        assert project.rows() == rows(1, 9)


# -- kills ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fork() -> Iterator[Any]:
    with zygote() as run:
        yield run


@pytest.mark.parametrize("way", ["run", "move"])
@pytest.mark.parametrize("kind", [("sqlite", "sqlite", "statement"), ("file", "file", "call")], ids=["sqlite", "file"])
def test_killed_before_any_of_its_steps_the_move_is_completed(
    kind: tuple[str, str, str], way: str, tmp_path: Path, fork: Any
) -> None:
    """SIGKILL before each SQL statement that writes, or each call that changes the disk, of a run that moves and of
    ``state move``: doing it again does the rest, and every row is there once."""
    target, state, unit = kind
    source = {"type": "sqlite", "connection": "sqlite:///app.db", "table": "t",
              "options": {"incremental": {"by": "cursor", "column": "id"}}}  # fmt: skip
    start = Project(tmp_path / "start", target=target, state_type=state, source=source).save()
    add(start, 1, 5)
    old = start.load().key
    rewrite(start, name_connections if way == "run" else rename_pipeline)
    add(start, 6, 9)
    new = key_of(start)
    job: Mapping[str, Any] = {"since": "stream_started", "until": "recovered"} if way == "run" else {"move": [old, new]}
    kills, seen = 0, []
    for n in range(1, 1000):
        project = Project(tmp_path / "copy", target=target, state_type=state, source=source)
        shutil.copytree(start.folder, project.folder)
        done = fork(project, **job, **{unit: n}, only=["BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"])
        if done["code"] == 0:
            break
        assert done["code"] == KILLED, done
        kills += 1
        left = journals(project), saved(project), leases(project)
        if left not in seen:  # of the many statements between two commits one is enough
            seen.append(left)
            if way == "move":
                move(load_pipeline(project.pipeline), old, new)
                require_moved(project, old, new, 1)
            project.load()
            require_moved(project, old, new, 2)
            assert project.rows() == rows(1, 9), n
        shutil.rmtree(project.folder)
    assert kills > 10
    assert len(seen) > 4
