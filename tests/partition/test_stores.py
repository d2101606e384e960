"""Stores of partition manifests: durable as a whole, claimed once, taken over once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.partition.stores import KEY, KINDS, manifest, store
from tests.patience import PATIENCE

from dpone.contract import Entry
from dpone.engine.manifest import committed, reconciled, require_same
from dpone.errors import Busy, ConfigError, Conflict, ManifestChanged, SinkError, StateError
from dpone.host import durable
from dpone.model.position import Position
from dpone.model.staged import Staged
from dpone.partition import (
    Partition,
    PartitionManifest,
    PartitionManifestStore,
    owner_of,
)
from dpone.sql.dialect import Database
from dpone.sql.own import Own
from dpone.sql.partitions import SqlPartitionManifestStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifests(kind: str, tmp_path: Path) -> PartitionManifestStore:
    return store(kind, tmp_path)


def loaded(manifests: PartitionManifestStore, key: str = KEY) -> PartitionManifest:
    found = manifests.load(key)
    assert found is not None
    return found


def test_a_manifest_is_kept_whole(manifests: PartitionManifestStore, kind: str, tmp_path: Path) -> None:
    """What was created is there for another process, in its order; another key has none; looking creates nothing."""
    assert manifests.load(KEY) is None
    assert not list(tmp_path.iterdir())
    one = manifest(12)
    manifests.create(one)
    assert loaded(store(kind, tmp_path)) == one
    assert manifests.load("other") is None
    manifests.create(manifest(2, load_id="L2"))
    assert (loaded(manifests).load_id, len(loaded(manifests).partitions)) == ("L2", 2)
    manifests.forget(KEY)
    assert manifests.load(KEY) is None


def test_a_manifest_is_read_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is replaced while another process reads it is the old one or the new one, not half of each."""
    old, new, real = manifest(3), manifest(2, load_id="L2"), Own.rows
    store(kind, tmp_path).create(old)
    replacing = iter([lambda: store(kind, tmp_path).create(new)])

    def select(*args: Any) -> list[tuple[Any, ...]]:
        found = real(*args)
        next(replacing, lambda: None)()
        return found

    monkeypatch.setattr(Own, "rows", select)
    assert store(kind, tmp_path).load(KEY) == (old if kind == "json" else new)  # a file is replaced in one step


def test_the_way_of_a_partition(manifests: PartitionManifestStore) -> None:
    """pending, running, success: with its owner while it runs, and its rows, bytes, file and checksum afterwards."""
    manifests.create(manifest())
    me = owner_of("R")
    running = manifests.claim(KEY, "001", me, 60)
    assert (running.status, running.owner, running.attempts) == ("running", me, 1)
    assert running.expires_at is not None
    assert running.expires_at > time.time() + 50
    manifests.finish(KEY, "001", me, Staged(5, 80, 2, 1, artifact="part-1.parquet", checksum="abc"))
    wanted = Partition(
        "001", running.bounds, "success", 8, 5, 80, "part-1.parquet", "abc", attempts=1
    )  # fmt: skip
    assert [one.status for one in loaded(manifests).partitions] == ["pending", "success", "pending"]
    assert loaded(manifests).partition("001") == wanted


@pytest.mark.parametrize("cut", [0, 1, 0.5, -1], ids=str)
def test_MF_01_a_truncated_manifest_is_refused(tmp_path: Path, cut: float) -> None:
    """Half a file is an error that says what to do; it is never taken for an empty manifest, and the .bak is kept."""
    manifests = store("json", tmp_path)
    manifests.create(manifest())
    before = manifest().to_json()
    manifests.claim(KEY, "000", owner_of("R"), 60)
    [path] = (tmp_path / "manifests").glob("*.json")
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(StateError, match=r"damaged .+ 'dpone partitions retry --from-scratch'"):
        manifests.load(KEY)
    with pytest.raises(StateError, match="damaged"):
        manifests.claim(KEY, "001", owner_of("R"), 60)
    assert PartitionManifest.from_json(json.loads(path.with_suffix(".json.bak").read_bytes())).to_json() == before
    path.unlink()
    with pytest.raises(StateError, match="missing, but its backup"):
        manifests.load(KEY)
    manifests.forget(KEY)
    assert manifests.load(KEY) is None


@pytest.mark.parametrize(
    ("damage", "head"),
    [
        ("__dpone__manifests SET manifest = '{\"format\": 1,'", True),
        ("__dpone__manifests SET manifest = '[]'", True),
        ("__dpone__partitions SET bounds = 'from 1' WHERE id = '001'", False),
        ("__dpone__partitions SET expires_at = 'soon' WHERE id = '001'", False),
        ("__dpone__partitions SET status = 'done' WHERE id = '001'", False),
    ],
)
def test_MF_01_a_damaged_table_is_refused(tmp_path: Path, damage: str, head: bool) -> None:
    """What no version writes is an error that says what to do, for whoever reads the manifest or claims the partition;
    it is never taken for a manifest that is missing, and another load may begin in its place."""
    manifests = store("sqlite", tmp_path)
    manifests.create(manifest())
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute(f"UPDATE {damage}")
    with pytest.raises(StateError, match=r"damaged .+ 'dpone partitions retry --from-scratch'"):
        manifests.load(KEY)
    if not head:
        with pytest.raises(StateError, match="damaged"):
            manifests.claim(KEY, "001", owner_of("R"), 60)
    manifests.create(manifest())
    assert loaded(manifests) == manifest()


def test_MF_01_a_manifest_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data reach the disk before the name does, and the folder after it; a write that dies leaves the old manifest."""
    manifests, done = store("json", tmp_path), []
    manifests.create(manifest())
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name, call in real.items():
        monkeypatch.setattr(os, name, lambda *a, _n=name, _c=call: (done.append(_n), _c(*a))[1])
    monkeypatch.setattr(durable, "sync_folder", lambda folder: done.append("folder"))
    manifests.claim(KEY, "000", owner_of("R"), 60)
    assert done == ["replace", "fsync", "replace", "folder"]  # the backup is a second name of the file before

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        manifests.claim(KEY, "001", owner_of("R"), 60)
    assert [one.status for one in loaded(manifests).partitions] == ["running", "pending", "pending"]


@pytest.mark.parametrize("change", [{"format": 2}, {"partitions": None}, {"created_at": "soon"}], ids=str)
def test_MF_01_a_manifest_of_another_format_is_refused(change: dict[str, Any]) -> None:
    """What this version does not know it does not read."""
    with pytest.raises(StateError, match="damaged"):
        PartitionManifest.from_json({**manifest().to_json(), **change})


def gone() -> str:
    """The owner's text of a process that has ended."""
    code = "from dpone.partition import owner_of; print(owner_of('gone'))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("damage", ["status", "twice"])
def test_MF_01_partitions_that_cannot_be_are_refused(damage: str) -> None:
    """A status that no version writes, and a partition listed twice, are damage: named, never worked with."""
    data = manifest().to_json()
    if damage == "status":
        data["partitions"][1]["status"] = "done"
    else:
        data["partitions"][1]["id"] = data["partitions"][0]["id"]
    with pytest.raises(StateError, match=r"damaged .*(status 'done'|a partition is listed twice)"):
        PartitionManifest.from_json(data)


def test_a_load_is_committed_when_the_journal_ends_with_it() -> None:
    """Another load at the end of the journal, or no journal, says nothing of this one."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    mine, other = (Entry(1, 0, load_id, "R1", "T1", Position("k", {}, {}), at) for load_id in ("L1", "L2"))
    assert [committed(manifest(load_id="L1"), head) for head in (mine, other, None)] == [True, False, False]


def test_nothing_is_made_where_there_was_no_manifest(tmp_path: Path) -> None:
    """Whoever forgets or changes a manifest makes no tables: a state that is only read stays as it is."""
    manifests = store("sqlite", tmp_path)
    manifests.forget(KEY)
    with pytest.raises(StateError, match="has no manifest"):
        manifests.change_all(KEY, [("000", lambda one: one)])
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_a_state_out_of_reach_is_an_error_of_the_state(tmp_path: Path) -> None:
    """The store speaks SQL as sinks do, but what fails is the state: its error, and whether to try again."""

    @contextmanager
    def lost() -> Iterator[Database]:
        error = SinkError("connect", "no route to host", "wait")
        error.category = "transient"
        raise error
        yield

    with pytest.raises(StateError, match="write the partition manifest: no route to host; wait") as caught:
        SqlPartitionManifestStore(lost).load(KEY)
    assert caught.value.category == "transient"


def test_MF_02_a_partition_of_a_dead_process_is_taken_over_once(manifests: PartitionManifestStore) -> None:
    """The first to come gets it at once, though the lease has not ended; the second does not."""
    manifests.create(manifest())
    manifests.claim(KEY, "000", gone(), 3600)
    taken = manifests.claim(KEY, "000", owner_of("me"), 60)
    assert (taken.attempts, taken.owner) == (2, owner_of("me"))
    assert taken.error is not None
    assert "stopped, or its lease ended" in taken.error
    with pytest.raises(Busy, match="is processing it"):
        manifests.claim(KEY, "000", owner_of("other"), 60)


def test_MF_02_an_expired_lease_is_taken_over_and_its_holder_cannot_finish(manifests: PartitionManifestStore) -> None:
    """A runner that slept past its lease records nothing any more; one that renews in time keeps it."""
    manifests.create(manifest())
    sleeper, other = owner_of("sleeper"), owner_of("other")
    manifests.claim(KEY, "000", sleeper, 0)
    manifests.claim(KEY, "000", other, 60)
    steps: list[Callable[[], None]] = [
        lambda: manifests.finish(KEY, "000", sleeper, Staged(1, 1)),
        lambda: manifests.fail(KEY, "000", sleeper, "late"),
        lambda: manifests.renew(KEY, "000", sleeper, 60),
    ]
    for step in steps:
        with pytest.raises(Conflict, match="took it over"):
            step()
    manifests.finish(KEY, "000", other, Staged(1, 1))
    manifests.claim(KEY, "001", sleeper, 0)
    manifests.renew(KEY, "001", sleeper, 60)
    with pytest.raises(Busy):
        manifests.claim(KEY, "001", other, 60)


def test_MF_06_retries_keep_attempts_and_the_last_error(manifests: PartitionManifestStore) -> None:
    """Every claim counts; the error of the last failure stays, also once it was done."""
    manifests.create(manifest())
    me = owner_of("R")
    for error in ("timed out", "bad row"):
        manifests.claim(KEY, "000", me, 60)
        manifests.fail(KEY, "000", me, error)
        one = loaded(manifests).partition("000")
        assert one is not None
        assert (one.status, one.error, one.owner) == ("failed", error, None)
    assert manifests.retry(KEY, "000") == evolve(one, status="pending")
    manifests.claim(KEY, "000", me, 60)
    manifests.finish(KEY, "000", me, Staged(1, 1))
    one = loaded(manifests).partition("000")
    assert one is not None
    assert (one.status, one.attempts, one.error) == ("success", 3, "bad row")


def test_skip_and_retry(manifests: PartitionManifestStore) -> None:
    """Skipped is what waits or failed, with its reason, until it is retried; what is staged or at work is not."""
    manifests.create(manifest())
    me = owner_of("R")
    assert manifests.skip(KEY, "000", "broken file").reason == "broken file"
    with pytest.raises(Busy, match="it is skipped"):
        manifests.claim(KEY, "000", me, 60)
    assert manifests.retry(KEY, "000").status == "pending"
    manifests.claim(KEY, "001", me, 60)
    for step in (lambda: manifests.skip(KEY, "001", ""), lambda: manifests.retry(KEY, "001")):
        with pytest.raises(ConfigError, match="is processing it"):
            step()
    manifests.finish(KEY, "001", me, Staged(1, 1))
    for step in (lambda: manifests.skip(KEY, "001", ""), lambda: manifests.retry(KEY, "001")):
        with pytest.raises(ConfigError, match="already staged"):
            step()
    with pytest.raises(ConfigError, match="partition 'nine' does not exist"):
        manifests.retry(KEY, "nine")
    with pytest.raises(StateError, match="other has no manifest"):
        manifests.retry("other", "000")


@pytest.mark.parametrize("count", [40])
def test_MF_07_of_two_processes_each_partition_goes_to_one(kind: str, tmp_path: Path, count: int) -> None:
    """Two processes claim from one manifest at once: every partition is done, and none by both."""
    store(kind, tmp_path).create(manifest(count))
    command = [sys.executable, "-m", "tests.partition.claimer", kind, str(tmp_path), KEY]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    first = [process.stdout.readline().split() for process in both if process.stdout is not None]
    rest = [process.communicate("go on\n", timeout=PATIENCE)[0].split() for process in both]
    got = [claimed + more for claimed, more in zip(first, rest, strict=True)]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(got[0] + got[1]) == [f"{i:03d}" for i in range(count)]
    assert all(first), "one of them had nothing to do: they were not at work at once"
    assert {(one.status, one.attempts) for one in loaded(store(kind, tmp_path)).partitions} == {("success", 1)}


def test_MF_07_a_killed_process_loses_nothing_of_the_manifest(kind: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of claims: the manifest is whole, and another process does the rest."""
    store(kind, tmp_path).create(manifest(40))
    command = [sys.executable, "-m", "tests.partition.claimer", kind, str(tmp_path), KEY]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("go\ngo on\n")
        process.stdin.flush()
        for _ in range(5):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    done = {one.id for one in loaded(store(kind, tmp_path)).of("success")}
    assert len(done) >= 4
    rest = subprocess.run(command, cwd=ROOT, input="go\n", capture_output=True, text=True, check=True).stdout.split()[
        1:
    ]
    assert sorted([*done, *rest]) == [f"{i:03d}" for i in range(40)]


def test_MF_03_success_counts_only_if_it_is_staged() -> None:
    """What the sink has staged decides: a success it lacks waits again, what was left running too."""
    old = manifest(5)
    states = ("success", "success", "running", "failed", "skipped")
    done = [evolve(p, status=s, attempts=2, error="e") for p, s in zip(old.partitions, states, strict=True)]
    old = evolve(old, partitions=tuple(done))
    found = reconciled(manifest(5), old, {"001": Staged(7, 70), "002": Staged(8, 80)})
    assert [p.status for p in found.partitions] == ["pending", "success", "success", "pending", "skipped"]
    assert [p.rows_loaded for p in found.partitions] == [0, 7, 8, 0, 0]
    assert {(p.attempts, p.error) for p in found.partitions} == {(2, "e")}
    other = reconciled(manifest(5, token="T2"), old, {})
    assert [p.status for p in other.partitions] == ["pending"] * 5


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"schema": {"id": "int64", "price": "decimal128(9, 2)"}}, "column price (was double, is decimal128(9, 2))"),
    ({"schema": {"id": "int64"}}, "column price (was double, is missing)"),
    ({"schema": {"id": "int64", "price": "double", "b": "string"}}, "column b (was missing, is string)"),
    ({"config": {"sink.options": "a", "sink.strategy": "c"}}, "sink.strategy"),
]


def half() -> PartitionManifest:
    [first, *rest] = manifest().partitions
    return manifest(partitions=(first.staged(Staged(1, 1)), *rest))


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=lambda v: v if isinstance(v, str) else "")
def test_MF_04_a_changed_fingerprint_is_named(change: dict[str, Any], told: str) -> None:
    """What changed since the parts were staged stands in the message, by column or by name in the pipeline."""
    with pytest.raises(ManifestChanged) as caught:
        require_same(half(), manifest(**change), {})
    assert caught.value.found == f"load L1 has staged 1 of 3 partitions; since then this changed: {told}"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("old", "change", "target"),
    [
        (half(), {}, {}),
        (half(), {"token": "T2"}, {}),
        (half(), {**CHANGES[3][0], "window": "W2"}, {}),
        (half(), {**CHANGES[3][0], "epoch": 1}, {}),
        (manifest(), CHANGES[3][0], {}),
        (evolve(half(), resumable=False), CHANGES[3][0], {}),
        (half(), CHANGES[0][0], {"price": "decimal128(9, 2)"}),
    ],
)
def test_MF_04_what_is_no_change(old: PartitionManifest, change: dict[str, Any], target: dict[str, str]) -> None:
    """Another window or epoch, nothing staged, nothing to go on with, a type that the target brought: no refusal."""
    require_same(old, manifest(**change), target)
