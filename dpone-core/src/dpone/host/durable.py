"""Files that survive a crash: written whole or not at all, and guarded by one lock per folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dpone.errors import Busy
from dpone.host import stopping

LONGEST = 30.0  # seconds to wait for the lock of a file


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    # fsync of a file does not sync its entry in the folder (fsync(2)): after a power cut a file with durable
    # content could have no name.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: a reader and a crash see the old bytes or the new, never part of it. mode: less
    what the umask takes away."""
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # left by a crash; O_EXCL below then follows no link put in its place
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # After the fsync, never before: where blocks are allocated late, a rename can become durable before the data,
        # and a power cut leaves an empty file under the name (ext4, auto_da_alloc).
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, and every missing parent; durable on return. An existing folder
    keeps its mode, because its owner may want to share it."""
    if path.is_dir():
        return
    missing = [path]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for folder in reversed(missing):
        folder.mkdir(mode=0o700 if folder == path else 0o777, exist_ok=True)
        sync_folder(folder.parent)


def is_plain_file(path: Path) -> bool:
    """A regular file, not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the operating system's lock on ``path``; the lock ends with the process, so a crash leaves none behind. It
    is held only for moments; raises Busy if a suspended process keeps it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    pause, until = 0.001, time.monotonic() + LONGEST
    while True:
        try:
            # flock, not lockf: a process loses its POSIX locks on a file as soon as it closes any descriptor of that
            # file (fcntl(2)). LOCK_NB, because a signal must be able to end the wait.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not (left := stopping.left(until - time.monotonic())) > 0:
                found = f"another process has held the lock for {LONGEST:g} s"
                todo = f"find the process with 'fuser {path}'; wait for it or stop it"
                raise Busy(f"lock {path}", found, todo) from None
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.05)
