"""The file state backend: compare and set, history, and a lock that survives its holder's death."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dpone.connectors.file.state import FileState
from dpone.errors import Busy, Conflict, StateError
from dpone.model.pipeline import StateSpec

KEY = "pipeline|stream|file:a/*.csv|sqlite:orders"


def state(base: Path) -> FileState:
    return FileState(StateSpec("file", base=base))


def only(base: Path, ending: str) -> Path:
    (path,) = (base / ".dpone" / "state").glob(f"*{ending}")
    return path


def test_a_saved_value_is_loaded_with_its_version(tmp_path: Path) -> None:
    """Versions count from 1, and another process reads what was saved."""
    assert state(tmp_path).load(KEY) is None
    assert state(tmp_path).save(KEY, {"a": 1}, 0) == 1
    assert state(tmp_path).save(KEY, {"a": "é"}, 1) == 2
    saved = state(tmp_path).load(KEY)
    assert saved is not None
    assert (saved.value, saved.version) == ({"a": "é"}, 2)
    assert saved.saved_at.tzinfo is not None


@pytest.mark.parametrize("expected", [0, 2, 7])
def test_a_save_over_another_version_is_a_conflict(tmp_path: Path, expected: int) -> None:
    """Only the version that was read can be replaced; the file stays byte for byte."""
    state(tmp_path).save(KEY, {"a": 1}, 0)
    before = only(tmp_path, ".json").read_bytes()
    with pytest.raises(Conflict):
        state(tmp_path).save(KEY, {"a": 2}, expected)
    assert only(tmp_path, ".json").read_bytes() == before


def test_of_racing_saves_one_wins(tmp_path: Path) -> None:
    """Of many savers of one version exactly one succeeds."""
    won: list[int] = []

    def race(value: int) -> None:
        try:
            state(tmp_path).save(KEY, {"v": value}, 0)
            won.append(value)
        except Conflict:
            pass

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saved = state(tmp_path).load(KEY)
    assert saved is not None
    assert [saved.value["v"]] == won


def test_history_is_newest_first_and_bounded(tmp_path: Path) -> None:
    """The last fifty values stay readable."""
    one = state(tmp_path)
    for i in range(55):
        one.save(KEY, {"i": i}, i)
    assert [old.version for old in one.history(KEY, 3)] == [55, 54, 53]
    assert len(one.history(KEY, 1000)) == 50
    assert one.history("another", 3) == []


def test_delete_forgets_the_value_and_keeps_counting(tmp_path: Path) -> None:
    """After a deletion there is no value, the history stays, and the next version is higher than any before."""
    one = state(tmp_path)
    one.save(KEY, {"a": 1}, 0)
    with pytest.raises(Conflict):
        one.delete(KEY, 5)
    one.delete(KEY, 1)
    assert one.load(KEY) is None
    assert [old.version for old in one.history(KEY)] == [1]
    assert one.save(KEY, {"a": 2}, 0) == 2


def test_keys_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    """Keys that differ in characters no file name holds have files of their own, inside the folder."""
    keys = ["a|b", "a/b", "a b", "../a", "A|B", "x" * 500, ""]
    one = state(tmp_path)
    for key in keys:
        one.save(key, {"key": key}, 0)
    for key in keys:
        saved = one.load(key)
        assert saved is not None
        assert saved.value == {"key": key}
    assert [path.name for path in tmp_path.iterdir()] == [".dpone"]


def test_a_truncated_state_is_refused_by_name(tmp_path: Path) -> None:
    """A damaged file is an error that names it, never a missing state, and nothing is written over it."""
    state(tmp_path).save(KEY, {"a": 1}, 0)
    path = only(tmp_path, ".json")
    whole = path.read_bytes()
    values = [
        json.dumps({**json.loads(whole), "history": [{**json.loads(whole)["history"][0], "value": value}]}).encode()
        for value in (None, [], [["a", 1]], "", 7)
    ]
    for damage in (whole[:-20], b"", b"{}", b"[]", whole.replace(b'"version": 1', b'"version": 9', 1), *values):
        path.write_bytes(damage)
        with pytest.raises(StateError, match=path.name):
            state(tmp_path).load(KEY)
        with pytest.raises(StateError, match="damaged"):
            state(tmp_path).save(KEY, {"a": 2}, 0)
        assert path.read_bytes() == damage


def test_a_crash_between_write_and_rename_keeps_the_old_value(tmp_path: Path) -> None:
    """Until the rename the value before is what is read, and the leftover is no obstacle."""
    one = state(tmp_path)
    one.save(KEY, {"a": 1}, 0)
    only(tmp_path, ".json").with_name(only(tmp_path, ".json").name + ".tmp").write_text("half")
    saved = one.load(KEY)
    assert saved is not None
    assert saved.value == {"a": 1}
    assert one.save(KEY, {"a": 2}, 1) == 2


def test_S_07_the_state_folder_is_private(tmp_path: Path) -> None:
    """The folder is 0700 and every file in it 0600, whatever the umask."""
    old = os.umask(0)
    try:
        one = state(tmp_path)
        one.save(KEY, {"a": 1}, 0)
        with one.lock(KEY, 60):
            files = list((tmp_path / ".dpone" / "state").iterdir())
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    finally:
        os.umask(old)
    assert (tmp_path / ".dpone" / "state").stat().st_mode & 0o777 == 0o700
    assert len(files) == 3


# the lock


def test_ST_02_a_second_runner_is_busy_and_told_who_holds_it(tmp_path: Path) -> None:
    """While one holds the lock another gets Busy with the holder's process and host; then it is free."""
    with state(tmp_path).lock(KEY, 60):
        with pytest.raises(Busy, match=f"process {os.getpid()} on {socket.gethostname()}"):
            state(tmp_path).lock(KEY, 60).__enter__()
        with state(tmp_path).lock("another key", 60):
            pass
    with state(tmp_path).lock(KEY, 60):
        pass


def edit(base: Path, **changes: Any) -> None:
    path = only(base, ".lease")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_expired_lease_is_taken_over_and_the_old_holder_told(tmp_path: Path) -> None:
    """After the ttl another may take the lock; the first one's renewal is a Conflict and its exit frees nothing."""
    with state(tmp_path).lock(KEY, 60) as old:
        edit(tmp_path, expires_at=0)
        with state(tmp_path).lock(KEY, 60) as new:
            with pytest.raises(Conflict):
                old.renew()
            new.renew()
            assert json.loads(only(tmp_path, ".lease").read_text())["owner"] == new.owner


def test_the_exit_of_a_lost_lease_frees_nothing(tmp_path: Path) -> None:
    """A holder that was replaced leaves the new holder's lease alone."""
    old = state(tmp_path).lock(KEY, 60)
    old.__enter__()
    edit(tmp_path, expires_at=0)
    with state(tmp_path).lock(KEY, 60):
        old.__exit__(None, None, None)
        with pytest.raises(Busy):
            state(tmp_path).lock(KEY, 60).__enter__()


def test_renew_extends_the_lease(tmp_path: Path) -> None:
    """A renewal moves the end of the lease on by the ttl."""
    with state(tmp_path).lock(KEY, 60) as lease:
        first = json.loads(only(tmp_path, ".lease").read_text())["expires_at"]
        edit(tmp_path, expires_at=first - 30)
        lease.renew()
        assert json.loads(only(tmp_path, ".lease").read_text())["expires_at"] >= first


def test_MF_02_a_dead_holder_is_replaced_at_once(tmp_path: Path) -> None:
    """The lease of a process that was killed on this host is taken over without waiting for its end."""
    code = (
        "import os, signal, pathlib, sys\n"
        "from dpone.connectors.file.state import FileState\n"
        "from dpone.model.pipeline import StateSpec\n"
        "held = FileState(StateSpec('file', base=pathlib.Path(sys.argv[1]))).lock(sys.argv[2], 3600)\n"
        "held.__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), KEY], check=False)
    assert only(tmp_path, ".lease").exists()
    with state(tmp_path).lock(KEY, 60):
        pass


def test_a_number_used_again_is_not_the_holder(tmp_path: Path) -> None:
    """A live process with the holder's number but another start is not the holder."""
    with state(tmp_path).lock(KEY, 60):
        edit(tmp_path, since="another")
        with state(tmp_path).lock(KEY, 60):
            pass


def test_a_holder_on_another_host_lives_until_its_lease_ends(tmp_path: Path) -> None:
    """Of another host nothing is known but the lease."""
    with state(tmp_path).lock(KEY, 60):
        edit(tmp_path, host="elsewhere", machine="elsewhere", pid=2**22 + 1)
        with pytest.raises(Busy, match="elsewhere"):
            state(tmp_path).lock(KEY, 60).__enter__()


def test_a_lease_of_an_earlier_version_lives_until_it_ends(tmp_path: Path) -> None:
    """A lease file without the field ``machine`` is respected until it expires, then replaced."""
    held = state(tmp_path).lock(KEY, 60)
    held.__enter__()
    path = only(tmp_path, ".lease")
    old = {"owner": "x", "host": socket.gethostname(), "pid": 2**22 + 1, "started": "boot/1"}
    path.write_text(json.dumps({**old, "expires_at": time.time() + 60}))
    with pytest.raises(Busy, match=f"process {2**22 + 1} on "):
        state(tmp_path).lock(KEY, 60).__enter__()
    path.write_text(json.dumps({**old, "expires_at": 1.0}))
    with state(tmp_path).lock(KEY, 60):
        pass


def test_a_damaged_lease_is_refused_by_name(tmp_path: Path) -> None:
    """A lease that cannot be read is not taken for a free lock."""
    held = state(tmp_path).lock(KEY, 60)
    held.__enter__()
    path = only(tmp_path, ".lease")
    path.write_text("{")
    with pytest.raises(StateError, match=path.name):
        state(tmp_path).lock(KEY, 60).__enter__()


# looking and failing


def test_check_and_load_make_nothing(tmp_path: Path) -> None:
    """Looking at a state that does not exist leaves no file behind."""
    assert state(tmp_path).check()[0].ok is True
    assert state(tmp_path).load(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file in the way of the state folder is named with what to do."""
    (tmp_path / ".dpone").write_text("a file")
    assert state(tmp_path).check()[0].ok is False
    with pytest.raises(StateError, match=r"write to \.dpone/state"):
        state(tmp_path).save(KEY, {"a": 1}, 0)


def test_OUT_11_a_lock_that_nobody_lets_go_of_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended process that holds the lock of the file is Busy, which is tried again, and the file is named."""
    monkeypatch.setattr("dpone.host.durable.LONGEST", 0.1)
    state(tmp_path).save(KEY, {"n": 1}, 0)
    with only(tmp_path, ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another process has held the lock"):
            state(tmp_path).save(KEY, {"n": 2}, 1)
    assert state(tmp_path).save(KEY, {"n": 2}, 1) == 2
