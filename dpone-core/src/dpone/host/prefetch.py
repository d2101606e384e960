"""Read ahead: the source works in its own thread while the sink works on the previous batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import TypeVar

from dpone.errors import Category, SourceError
from dpone.host import stopping

T = TypeVar("T")
_END = object()
LONGEST = 300.0  # seconds to wait for a thread that should end; sources have their own time limits


def prefetch(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, at most ``depth`` of them waiting. An exception of ``items`` is raised here;
    when this iterator is closed early, the thread ends after the item it is at and ``items`` is closed. A thread that
    does not end is abandoned after ``LONGEST``, or sooner after a signal; it does not keep the process alive."""
    ready: queue.Queue[object] = queue.Queue(depth)
    stopped, ended = threading.Event(), threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # passed on: it is raised where the items are used
            put(_Raised(error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            ended.set()

    def take() -> object:
        while True:
            try:
                return ready.get(timeout=stopping.SLICE)
            except queue.Empty:
                if not stopping.left():
                    raise _abandoned("the run was interrupted while it waited for the source") from None

    # A daemon: Python waits at exit for other threads, and this one may hang in a driver.
    thread = threading.Thread(target=work, name="dpone-read", daemon=True)
    try:
        thread.start()
        while (item := take()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]  # the queue holds T, _END and _Raised; the last two are handled above
    finally:
        stopped.set()
        # Not join(): a signal may have cut start() short, and then join() says that the thread never started.
        until = time.monotonic() + LONGEST
        while thread in threading.enumerate() and stopping.left(until - time.monotonic()) > 0:
            ended.wait(0.1)


def _abandoned(found: str) -> SourceError:
    error = SourceError("read ahead", found, "run again")
    error.category = Category.TRANSIENT
    return error


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
