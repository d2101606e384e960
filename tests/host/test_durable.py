"""Files of dpone's own: written whole, private, and guarded by one lock."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.sql.clock import Clock

from dpone.errors import Busy
from dpone.host import durable


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """The new bytes, only for the owner, and nothing beside them; also where a crash left a piece of an earlier try."""
    path = tmp_path / "state.json"
    (tmp_path / "state.json.tmp").write_bytes(b"half a")
    for data in (b"one", b"two"):
        durable.write_whole(path, data)
        assert path.read_bytes() == data
        assert mode(path) == 0o600
        assert [one.name for one in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_before_it(tmp_path: Path, monkeypatch: Any, step: str) -> None:
    """On a full disk the old bytes stay, the error passes, and no piece of the new ones is left."""
    path = tmp_path / "state.json"
    durable.write_whole(path, b"one")

    def full(*args: Any) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left"):
        durable.write_whole(path, b"two")
    monkeypatch.undo()
    assert path.read_bytes() == b"one"
    assert [one.name for one in tmp_path.iterdir()] == ["state.json"]


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    """Whoever puts a link where the new file is written does not get his own file overwritten."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "state.json.tmp").symlink_to(victim)
    durable.write_whole(tmp_path / "state.json", b"one")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "state.json").read_bytes() == b"one"


def test_a_private_folder_is_for_its_owner(tmp_path: Path) -> None:
    """Only the folder itself is private: those above it are made as any other. One that exists is left as it is."""
    own = tmp_path / "a" / "b" / ".dpone"
    before = os.umask(0o022)
    try:
        durable.private_folder(own)
    finally:
        os.umask(before)
    assert [mode(one) for one in (own, own.parent, own.parent.parent)] == [0o700, 0o755, 0o755]
    own.chmod(0o750)
    durable.private_folder(own)
    assert mode(own) == 0o750


def test_a_plain_file_is_no_link_and_no_folder(tmp_path: Path) -> None:
    """A link to a file, a folder and nothing at all are not plain files."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    found = {name: durable.is_plain_file(tmp_path / name) for name in ("file", "link", ".", "nothing", "file/below")}
    assert found == {"file": True, "link": False, ".": False, "nothing": False, "file/below": False}


def test_a_digest_is_of_all_bytes(tmp_path: Path) -> None:
    """SHA-256 of the whole file, beyond any block."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 9000)
    assert durable.digest(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 9000).hexdigest()


HOLDER = """
import sys
from pathlib import Path
from dpone.host import durable
with durable.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_and_goes_with_its_process(tmp_path: Path) -> None:
    """While a process holds the lock no other gets it; when it is killed the lock is free. The file is private."""
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert mode(path) == 0o600
    with path.open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.communicate()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_is_let_go_at_the_end_of_the_block(tmp_path: Path) -> None:
    """Also where the block raises."""
    with pytest.raises(KeyError), durable.exclusive(tmp_path / "lock"):
        raise KeyError
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_is_waited_for_in_growing_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a millisecond to fifty, twice as long each time; after thirty seconds it is Busy, with the way to see who
    holds it. One that is let go meanwhile is taken."""
    path, clock = tmp_path / "lock", Clock()
    monkeypatch.setattr(durable, "time", clock)
    with (
        durable.exclusive(path),
        pytest.raises(Busy, match=rf"another process has held the lock for 30 s; find the process with 'fuser {path}'"),
        durable.exclusive(path),
    ):
        raise AssertionError("two hold it")
    assert clock.slept[:8] == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]
    assert sum(clock.slept) == pytest.approx(30)
    held = durable.exclusive(path)
    held.__enter__()
    clock.then.append(lambda: held.__exit__(None, None, None))
    with durable.exclusive(path):
        assert clock.then == []
