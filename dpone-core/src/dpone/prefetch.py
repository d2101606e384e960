"""Read ahead: the source works in a thread of its own while the sink works on the batch before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, at most ``depth`` of them waiting. An exception of ``items`` is raised here;
    when this iterator is closed early, the thread ends after the item it is at and ``items`` is closed."""
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
        except BaseException as error:  # handed over: it is raised where the items are used
            put(_Raised(error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            ended.set()

    thread = threading.Thread(target=work, name="dpone-read")
    try:
        thread.start()
        while (item := ready.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]  # the queue holds T, _END and _Raised; the last two are handled above
    finally:
        stopped.set()
        # Not join(): a signal may have cut start() short, and then join() says that the thread never started.
        while thread in threading.enumerate():
            ended.wait(0.1)


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
