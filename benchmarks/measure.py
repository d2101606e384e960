"""One measured process: wall and processor seconds from start to end, and its peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

# Python compiles a package when it is installed; an editable one needs leave to keep what it compiled.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_KILOBYTE = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


@frozen
class Leg:
    """wall and cpu in seconds, peak in MB (10**6 bytes)."""

    wall: float
    cpu: float
    peak: float


def run(command: Sequence[str], folder: Path) -> Leg:
    """Run a command in a folder, which gets its output as ``out.log``; a failed one ends the benchmark.

    The kernel counts as a child's peak at least what its parent had when it started it. So the process that calls this
    must stay small: it imports neither pyarrow nor numpy.
    """
    os.sync()  # what others have left to write is not ours to wait for
    with (folder / "out.log").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=ENV, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = (folder / "out.log").read_text(errors="replace").splitlines()[-5:]
        raise SystemExit("\n".join([f"exit code {process.returncode} of: {' '.join(command)}", *tail]))
    return Leg(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _KILOBYTE / 1e6)
