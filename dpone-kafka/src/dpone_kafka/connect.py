"""A client: one event loop in one thread, which the synchronous contract waits for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from dpone.host import stopping
from dpone_kafka.cluster import Cluster
from dpone_kafka.errors import failed, interrupted
from dpone_kafka.settings import Settings

T = TypeVar("T")


def _new_loop() -> asyncio.AbstractEventLoop:
    """The descriptors that it needs are tried first: a loop that is made by half warns in its destructor."""
    for one in socket.socketpair():
        one.close()
    return asyncio.SelectorEventLoop(selectors.DefaultSelector())


class Client:
    """The thread of the event loop. Its cluster is used by coroutines that run there; other threads call ``call``, or
    ``start`` and ``wait`` to let one request run while they work. Every wait ends: the requests have their limit, and
    after a signal the waiting thread gives up."""

    def __init__(self, given: Settings, silence: float) -> None:
        """Opens no connection, but the event loop; raises SourceError if the system refuses that."""
        context = given.context()
        try:
            self._loop = _new_loop()
        except OSError as error:
            found = (error.strerror or type(error).__name__).lower()
            raise failed(f"connect to {given.where}", found, "free what the message names, then run again") from error
        self.cluster = Cluster(given, context, silence)
        self._thread = threading.Thread(target=self._loop.run_forever, name="dpone-kafka", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return self.wait(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        while left := stopping.left():
            try:
                return future.result(left)
            except TimeoutError:
                if future.done():
                    raise
            except BaseException:
                future.cancel()
                raise
        future.cancel()
        raise interrupted()

    def close(self) -> None:
        """Within seconds, whatever the broker does."""
        if self._loop.is_closed():
            return
        with suppress(Exception):
            self.start(self._end()).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        async with asyncio.timeout(3):
            await self.cluster.close()
        await asyncio.sleep(0)  # transports report that they are closed
