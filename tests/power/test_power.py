"""Power cuts at every moment, in every way that POSIX allows: what was promised is there, what is there is whole.

Every image that a cut may leave is looked at in memory; a sample of them (all under the mark ``crash``) is laid on the
disk, where the real next run opens it. DPONE_POWER_SEED repeats a sample.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sqlite3
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engine.project import Project, memory_folder, rows
from tests.partition.stores import KEY, manifest
from tests.power.recorder import Image, Recorder, cuts, restore, tree, whole

from dpone.cdc.spool import Spool
from dpone.certify import evidence
from dpone.connectors.file.partitions import JsonPartitionManifestStore
from dpone.connectors.file.sink import FileSink, FileWriter
from dpone.connectors.file.state import FileState
from dpone.connectors.sqlite.connect import connect
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.connectors.sqlite.state import SqliteState
from dpone.engine.undo import undo
from dpone.errors import StateError
from dpone.host import durable
from dpone.model.pipeline import SinkSpec, StateSpec
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.quality.quarantine import QuarantineFolder

SOME = 40
MANY = pytest.mark.parametrize("most", [SOME, pytest.param(None, marks=pytest.mark.crash)], ids=["some", "all"])
MANIFEST = "out/.dpone/manifest.json"


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("DPONE_POWER_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"DPONE_POWER_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as found:
        yield found


Said = tuple[Hashable, ...]
Act = Callable[[Recorder], None]


def recorded(root: Path, act: Act) -> Recorder:
    """What ``act`` does to a folder; replayed without a cut it is the folder."""
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(root)
        recorder.patch(patch)
        act(recorder)
        recorder.say("end")
    assert whole(recorder) == tree(root)
    return recorder


def survives(
    recorder: Recorder,
    chance: random.Random,
    most: int | None,
    looks: Callable[[Image, Said], None],
    goes_on: Callable[[Said], None],
) -> None:
    """``looks`` at every image; ``goes_on`` with a sample of them, on the disk."""
    found = cuts(recorder, chance)
    assert len(found) > 20
    for image, said in found:
        looks(image, said)
    # A lease in an image is of this very process, which uses none now: it is taken over, as one of a machine that was
    # started again is.
    for image, said in found if most is None or most > len(found) else chance.sample(found, most):
        restore(recorder.root, image)
        goes_on(said)


# -- the file sink, with its undo and its quarantine, and the file state ------------------------------------------


class Lake:
    """A project whose target is a folder. What is recorded is what dpone writes, below ``root``: source and pipeline
    stand beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "p"
        self.project = Project(
            self.root,
            target="file",
            state_type="file",
            source={"type": "file", "path": str(folder / "data" / "*.csv")},
            sink_options={"undo": {"loads": 9}, "format": "csv"},
        ).save()

    def interrupted(self) -> None:
        """A load that dies once it is staged: nothing is cleaned up."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FileWriter, "commit", _dies)
            patch.setattr(FileWriter, "abort", lambda writer: None)
            assert self.project.run().exit_code == 1
        assert self.project.staging()

    def csv(self, name: str, first: int, last: int) -> None:
        Project(self.root.parent).csv(name, rows(first, last))


def _dies(*_: Any) -> None:
    raise RuntimeError("killed")


def parsed(data: bytes | None) -> Any:
    assert data is not None
    return json.loads(data)


def sums(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def require_whole_lake(image: Image, loaded: int) -> None:
    """The manifest is one that was written, every part it names or keeps is whole, marks tell the truth, and neither
    manifest nor state is older than promised; the state is not ahead."""
    seq = 0
    if MANIFEST in image or MANIFEST + ".bak" in image:
        manifest = parsed(image[MANIFEST])
        for file in manifest["files"]:
            assert sums(image[f"out/{file['name']}"] or b"") == (file["bytes"], file["sha256"])
        for file in (file for one in manifest["undo"] for file in one["files"]):
            here = [image[p] for p in (f"out/.dpone/undo/{file['name']}", f"out/{file['name']}") if p in image]
            assert any(sums(data or b"") == (file["bytes"], file["sha256"]) for data in here)
        seq = max((entry["seq"] for entry in manifest["journals"].values()), default=0)
    assert seq >= loaded
    for path, data in image.items():
        if path.endswith(".mark") and (part := image.get(path.removesuffix(".mark"))) is not None:
            file = parsed(data)["file"]
            assert sums(part) == (file["bytes"], file["sha256"])
    states = [parsed(data) for path, data in image.items() if re.fullmatch(r"\.dpone/state/[^/]*\.json", path)]
    saved = max((state["history"][0]["value"]["seq"] for state in states), default=0)
    assert loaded <= saved <= seq


def counted(said: Said, word: str) -> int:
    return sum(1 for one in said if one == word)


@MANY
def test_no_power_cut_breaks_loads_into_a_folder(folder: Path, chance: random.Random, most: int | None) -> None:
    """Two appends, one of which takes over what a killed run staged, and a full refresh that keeps what it replaces:
    the manifest is an old one or the new, its parts are whole by checksum, and after the next run no row is lost or
    doubled."""
    lake = Lake(folder)

    def act(recorder: Recorder) -> None:
        for name, first, options in (("a", 1, {}), ("b", 4, {}), ("c", 7, {"full_refresh": True})):
            lake.csv(name, first, first + 2)
            if name == "b":
                lake.interrupted()
            assert lake.project.load(**options).partitions_resumed == (name == "b")
            recorder.say("loaded")

    def goes_on(said: Said) -> None:
        lake.project.load()
        assert lake.project.rows() == rows(1, 9)
        assert_settled(lake.project)

    recorder = recorded(lake.root, act)
    survives(recorder, chance, most, lambda image, said: require_whole_lake(image, counted(said, "loaded")), goes_on)


def assert_settled(project: Project) -> None:
    """Nothing is left of what was under way, and the state is a copy of the journal's head."""
    head, state = project.head(), project.state()
    assert head is not None
    assert state is not None
    assert (head.seq, head.position, head.load_id) == (state.seq, state.position, state.load_id)


@MANY
def test_no_power_cut_breaks_an_undo(folder: Path, chance: random.Random, most: int | None) -> None:
    """While a full refresh is taken back: before it or after it, parts whole; one not done yet can be done again, and a
    run then loads every row once."""
    lake = Lake(folder)
    for name, first, options in (("a", 1, {}), ("b", 4, {"full_refresh": True})):
        lake.csv(name, first, first + 2)
        lake.project.load(**options)
    head = lake.project.head()
    assert head is not None
    gone = head.load_id

    def act(recorder: Recorder) -> None:
        undo(lake.project.pipeline, "out", gone)
        recorder.say("loaded")

    def goes_on(said: Said) -> None:
        [entry] = lake.project.manifest()["journals"].values()
        if entry["undoes"] != gone:
            undo(lake.project.pipeline, "out", gone)
        assert lake.project.rows() == rows(1, 3)
        lake.project.load()
        assert lake.project.rows() == rows(1, 6)
        assert_settled(lake.project)

    recorder = recorded(lake.root, act)
    survives(recorder, chance, most, lambda image, said: require_whole_lake(image, 2 + len(said[:1])), goes_on)


@MANY
def test_no_power_cut_loses_a_quarantined_row(folder: Path, chance: random.Random, most: int | None) -> None:
    """Once a load is committed, every row that its contract left out is in its quarantine, whole, after the next run at
    the latest; while it is not, the next run puts the rows aside again."""
    lake = Lake(folder)
    contract = {"on_violation": "quarantine", "not_null": ["note"], "unique": ["id"]}

    def save() -> None:
        lake.project.save()
        data = yaml.safe_load(lake.project.pipeline.read_text())
        data["sink"]["contract"] = {**contract, "quarantine": {"values": True, "max_share": 1}}
        lake.project.pipeline.write_text(yaml.safe_dump(data))

    def act(recorder: Recorder) -> None:
        for name, first in (("a", 1), ("b", 7)):
            lake.csv(name, first, first + 5)
            lake.project.load()
            recorder.say("loaded")

    def left_out(image: Image) -> list[int]:
        shown = [data or b"" for path, data in image.items() if re.fullmatch(r"\.dpone/quarantine/out/.*\.jsonl", path)]
        return sorted(json.loads(line)["values"]["id"] for data in shown for line in data.splitlines())

    def looks(image: Image, said: Said) -> None:
        require_whole_lake(image, counted(said, "loaded"))
        assert left_out(image) in [[], [5], [5, 10]]
        assert len(left_out(image)) >= counted(said, "loaded")

    def goes_on(said: Said) -> None:
        lake.project.load()
        assert lake.project.rows() == [row for row in rows(1, 12) if row[3] is not None]
        assert left_out(tree(lake.root)) == [5, 10]

    save()
    recorder = recorded(lake.root, act)
    survives(recorder, chance, most, looks, goes_on)


def test_a_journal_that_is_gone_by_is_durable(folder: Path) -> None:
    """A process may be killed between the rename of a manifest and its sync. Whoever reads that journal saves the state
    and acknowledges by it: so it is durable before it is read, and no cut takes it back."""
    lake = Lake(folder)
    lake.csv("a", 1, 3)
    lake.project.load()
    before = (lake.root / MANIFEST).read_bytes()

    def act(recorder: Recorder) -> None:
        beside = lake.root / "out" / ".dpone" / "x"
        beside.write_bytes(before.replace(b'"last"', b'"last" '))
        durable.sync_file(beside)
        os.replace(beside, lake.root / MANIFEST)
        [key] = json.loads(before)["journals"]
        assert FileSink(SinkSpec("file", Strategy("append"), path="out", base=lake.root)).journal(key) is not None
        recorder.say("read")

    recorder = recorded(lake.root, act)
    for image, said in cuts(recorder, random.Random(1)):
        assert image[MANIFEST] != before or not said


def test_a_quarantine_that_was_moved_is_durable(folder: Path) -> None:
    """A run may be killed right after it gave the quarantine its final name: the next run makes that durable, since it
    sweeps what is pending of earlier loads."""
    place = QuarantineFolder(folder, "q", "s", "k")
    place.pending("L").mkdir(parents=True)
    place.kept("L").parent.mkdir(parents=True)
    (place.pending("L") / "p.jsonl").write_bytes(b"{}")

    def act(recorder: Recorder) -> None:
        os.rename(place.pending("L"), place.kept("L"))
        assert place.settle("L") == str(place.kept("L"))
        recorder.say("settled")

    for image, said in cuts(recorded(folder, act), random.Random(1)):
        assert "q/s/L/p.jsonl" in image or not said


# -- state, manifests of partitions, evidence ---------------------------------------------------------------------


def test_a_state_that_was_saved_outlives_a_power_cut(folder: Path, chance: random.Random) -> None:
    """Saved, saved again, deleted, under one of two keys: each is there on return, and never damaged."""
    spec = StateSpec("file", path="state/deep", base=folder)

    def act(recorder: Recorder) -> None:
        state = FileState(spec)
        with state.lock("k", 60):
            for n in range(3):
                assert state.save("k", {"n": n}, n) == n + 1
                recorder.say("saved")
        state.save("other", {}, 0)
        state.delete("k", 3)
        recorder.say("deleted")

    def goes_on(said: Said) -> None:
        state = FileState(spec)
        found = state.load("k")
        done = counted(said, "saved")
        if "deleted" in said:
            assert found is None
        elif found is not None:
            assert found.value == {"n": found.version - 1}
        known = state.history("k")
        assert [one.version for one in known] == list(range(len(known), 0, -1))
        assert len(known) >= done
        state.save("k", {"n": 9}, found.version if found else 0)

    survives(recorded(folder, act), chance, None, lambda image, said: None, goes_on)


def test_a_partition_manifest_outlives_a_power_cut(folder: Path, chance: random.Random) -> None:
    """Made, changed, forgotten and made again: what a method returned is there, and no cut leaves a damaged one."""

    def act(recorder: Recorder) -> None:
        store = JsonPartitionManifestStore(folder / "state" / "partitions")
        for run in ("one", "two"):
            store.create(manifest(run_id=run))
            recorder.say(f"made {run}")
            store.claim(KEY, "000", "me", 60)
            recorder.say(f"claimed {run}")
            store.forget(KEY)
            recorder.say(f"forgot {run}")

    def goes_on(said: Said) -> None:
        store = JsonPartitionManifestStore(folder / "state" / "partitions")
        found = store.load(KEY)
        last = str(said[-1]) if said else ""
        what, _, run = last.partition(" ")
        if what in ("made", "claimed"):  # later ones may have come through as well
            assert found is None or found.run_id == run
            assert found is not None or what == "claimed"
        if what == "claimed" and found is not None:
            assert found.partitions[0].status == "running"
        if what == "forgot" or last == "end":
            assert found is None or (run == "one" and found.run_id == "two")
        store.create(manifest(run_id="new"))

    survives(recorded(folder, act), chance, None, lambda image, said: None, goes_on)


def test_evidence_is_whole_or_the_one_before(folder: Path) -> None:
    """A file of evidence is replaced as a whole: each image has the old or the new, and the new one on
    return, as far as its folder is there."""

    def act(recorder: Recorder) -> None:
        for passed in (True, False):
            wrong = evidence.Measure("wrong_rows", 0 if passed else 1, at_most=0)
            evidence.write_gate(folder / "e", "soak", "file", [evidence.Server("x", "1", True)], [wrong], seconds=1)
            recorder.say(passed)

    for image, said in cuts(recorded(folder, act), random.Random(1)):
        files = [parsed(data) for path, data in image.items() if path.endswith(".json")]
        assert all(file["checksum"] == evidence.checksum(file) for file in files)
        assert len(files) <= 1
        assert "failed" in [file["results"][0]["result"] for file in files] or False not in said or not image


# -- what needs no sync, and what syncs by itself -----------------------------------------------------------------


def test_no_truth_depends_on_the_spool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool of a window has no name, so nothing after a cut, or after a kill, could take it for the truth."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def act(recorder: Recorder) -> None:
        with closing(Spool("s")):
            recorder.say("open")

    for image, said in cuts(recorded(folder, act), random.Random(1)):
        assert not image or "open" not in said


def test_sqlite_syncs_at_every_commit_that_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sink and state commit with synchronous=EXTRA, the manifests of partitions too: a commit is durable on return, in
    every journal mode (https://www.sqlite.org/pragma.html#pragma_synchronous), so that none is lost after an ack."""
    path = folder / "x.db"
    seen: list[int] = []
    real = SqliteDatabase.execute

    def execute(db: SqliteDatabase, sql: str, parameters: Any = ()) -> int:
        if sql == "COMMIT":
            seen.append(db.rows("PRAGMA synchronous")[0][0])
        return real(db, sql, parameters)

    monkeypatch.setattr(SqliteDatabase, "execute", execute)
    state = SqliteState(StateSpec("sqlite", connection=Secret(f"sqlite:///{path}"), base=folder))
    store = state.partitions()
    store.create(manifest())
    store.claim(KEY, "000", "me", 60)
    assert seen
    assert set(seen) == {3}
    with closing(connect(path, 1, StateError, create=False)) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (3,)


def test_the_folder_of_a_sqlite_state_is_durable(folder: Path) -> None:
    """The folder ``.dpone`` that the state backend makes is there after a cut, as soon as a state was saved."""

    def act(recorder: Recorder) -> None:
        connection = Secret("sqlite:///.dpone/state.db")
        SqliteState(StateSpec("sqlite", connection=connection, base=folder)).save("k", {}, 0)
        recorder.say("saved")

    for image, said in cuts(recorded(folder, act), random.Random(1)):
        assert ".dpone" in image or "saved" not in said


# -- the recorder itself ------------------------------------------------------------------------------------------


def test_the_recorder_loses_what_posix_may_lose(tmp_path: Path) -> None:
    """A file written and renamed without a sync may be absent, empty, torn or zeros; synced in full it is there."""

    def act(recorder: Recorder) -> None:
        (tmp_path / "a").write_bytes(b"12345678")
        recorder.say("written")
        os.rename(tmp_path / "a", tmp_path / "b")
        recorder.say("renamed")
        durable.sync_file(tmp_path / "b")
        recorder.say("synced")
        durable.sync_folder(tmp_path)
        recorder.say("all")

    found: dict[Hashable, list[Mapping[str, Any]]] = {}
    for image, said in cuts(recorded(tmp_path, act), random.Random(1), more=20):
        found.setdefault(said[-1] if said else None, []).append(image)
    assert {image.get("b") for image in found["renamed"]} == {
        None,
        b"",
        b"1234",
        b"\0" * 8,
        b"1234" + b"\0" * 4,
        b"12345678",
    }
    assert {} in found["synced"]
    assert {"a": b"12345678"} in found["synced"]
    assert found["all"] == [{"b": b"12345678"}]


def test_the_recorder_sees_what_c_code_does(tmp_path: Path) -> None:
    """A file that SQLite makes and writes is recorded, though no function of Python made it; two at once are not passed
    over in silence."""

    def act(recorder: Recorder) -> None:
        with closing(sqlite3.connect(tmp_path / "x.db")) as db:
            db.execute("CREATE TABLE t (a)")

    assert "x.db" in whole(recorded(tmp_path, act))

    def unseen(recorder: Recorder) -> None:
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(b"")

    with pytest.raises(AssertionError, match="several changes between two looks"):
        recorded(tmp_path, unseen)
