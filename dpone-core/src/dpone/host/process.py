"""Identity of a process that holds a lock or lease, distinct from every other process, and whether it has ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from attrs import frozen


@frozen
class Process:
    """Who holds a lock. machine: one boot of one machine and one PID namespace. started: distinguishes the process from
    a later one with the same PID."""

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        return cls(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "")

    def gone(self) -> bool:
        """True only if the process has certainly ended; on another machine that cannot be known."""
        if self.machine != _machine():
            return False
        try:
            # EPERM means that the process exists and belongs to another user (kill(2)).
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        started = _started(self.pid)
        return started is not None and started != self.started


# Owners of the leases that this process uses now. A fork may inherit some: there the process is another one.
_used: set[str] = set()


@contextmanager
def using(owner: str) -> Iterator[None]:
    """Mark the lease of this owner as used while the block runs. The block must include taking and releasing the
    lease."""
    _used.add(owner)
    try:
        yield
    finally:
        _used.discard(owner)


def abandoned(holder: Process, owner: str) -> bool:
    """True if a lease certainly has no user: its process is gone, or it is this process and no block uses the lease.
    The second case happens if the state backend could not be reached at the release; without this rule the next attempt
    of the same run would wait for itself."""
    return holder.gone() or (holder == Process.this() and owner not in _used)


@lru_cache(maxsize=1)
def _machine() -> str:
    """The boot and the process namespace on Linux; elsewhere the host's name."""
    try:
        # Not the host's name: containers of one image may share it, and a reboot frees every PID. In another PID
        # namespace the same number is another process (pid_namespaces(7)).
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Start time in clock ticks since boot (proc(5), field 22 of stat); None if the system does not provide it. Empty
    for a zombie whose threads have all ended (they remain in a container without an init)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # From the last bracket: the command's name before it may have blanks and brackets (proc(5)).
    state, *more = stat.rpartition(")")[2].split()
    threads, started = int(more[16]), more[18]  # fields 20 and 22
    return "" if state in ("Z", "X") and threads <= 1 else started
