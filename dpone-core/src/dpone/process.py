"""A process, told apart from every other one: who holds a lock or a lease, and whether it certainly is gone."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path

from attrs import frozen


@frozen
class Process:
    """Who holds a lock. machine: one boot of one machine and one space of process numbers. started: tells the process
    from a later one of the same number."""

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        return cls(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "")

    def gone(self) -> bool:
        """True only if it certainly is: on another machine nobody can tell."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        started = _started(self.pid)
        return started is not None and started != self.started


@lru_cache(maxsize=1)
def _machine() -> str:
    """The boot and the process namespace, where Linux tells them; else the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """Start time in clock ticks since boot (proc(5), field 22 of stat); None if the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
