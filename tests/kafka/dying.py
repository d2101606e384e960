"""A sink whose process is dead after the n-th thing that its commit asked of Kafka; ``n`` is in a file."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from dpone.contract import Load
from dpone_kafka.sink import KafkaSink
from dpone_kafka.writer import KafkaWriter

FILE = "die_at"


class DyingSink(KafkaSink):
    """The file says ``n after``: the n-th answer has come; or ``n during``: it has just been asked for."""

    def open(self, load: Load) -> KafkaWriter:
        writer, session = super().open(load), self._session
        number, when = (self._base / FILE).read_text().split()
        start, asked = session.start, 0

        def counted(work: Coroutine[Any, Any, Any], limit: float = math.inf) -> Future[Any]:
            nonlocal asked
            asked += 1
            future = start(work, limit)
            if asked == int(number):
                if when == "after":
                    with suppress(Exception):
                        future.result(30)
                os.kill(os.getpid(), signal.SIGKILL)
            return future

        session.start = counted  # type: ignore[method-assign]
        return writer
