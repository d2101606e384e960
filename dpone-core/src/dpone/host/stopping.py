"""The time that is left after a signal has asked the process to stop. It is global, because a signal is for the whole
process.

Code that waits for something outside (a server, a lock, another thread) waits in slices of at most a second and calls
``left`` before each. After a signal the answer shrinks to zero: first for the threads that move rows, which will not be
committed, then for the main thread, which rolls back, releases its lease and reports. Waits inside a driver or the
operating system are abandoned when the process ends at ``LAST``.
"""

from __future__ import annotations

import threading
import time

THREADS, MAIN, LAST = 2.0, 6.0, 9.0  # seconds after the signal
SLICE = 1.0

_since: float | None = None


def begin() -> None:
    """Called when a signal arrives. A second call changes nothing."""
    global _since
    if _since is None:
        _since = time.monotonic()


def begun() -> bool:
    return _since is not None


def reset() -> None:
    """Called when the interrupted command has ended."""
    global _since
    _since = None


def left(seconds: float = SLICE) -> float:
    """``seconds``, or less after a signal, depending on the calling thread; 0: give up now."""
    if _since is None:
        return seconds
    grace = MAIN if threading.current_thread() is threading.main_thread() else THREADS
    return max(0.0, min(seconds, _since + grace - time.monotonic()))
