"""The fetched batches of a window whose columns are known only after the last record."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence

from attrs import frozen

from dpone_kafka.cluster import Fetched


@frozen
class _Chunk:
    start: int
    at: int
    size: int
    aborted: Sequence[tuple[int, int]]


class Spool:
    """In one unnamed file, as the broker sent them (compressed batches stay so), so that memory does not grow with the
    window and SIGKILL leaves nothing behind. Written by one thread, then read by several."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="dpone-kafka-")  # noqa: SIM115  # lives as long as the window
        self._end = 0
        self._chunks: dict[tuple[str, int], list[_Chunk]] = {}

    def add(self, topic: str, partition: int, start: int, fetched: Fetched) -> None:
        self._file.write(fetched.data)
        chunk = _Chunk(start, self._end, len(fetched.data), fetched.aborted)
        self._chunks.setdefault((topic, partition), []).append(chunk)
        self._end += chunk.size

    def flush(self) -> None:
        self._file.flush()

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[tuple[int, Fetched]]:
        """Where each fetch began, and what it gave; those that hold offsets from ``start`` to before ``end``."""
        chunks = self._chunks.get((topic, partition), [])
        for n, chunk in enumerate(chunks):
            after = chunks[n + 1].start if n + 1 < len(chunks) else end
            if chunk.start < end and after > start:
                yield chunk.start, Fetched(os.pread(self._file.fileno(), chunk.size, chunk.at), chunk.aborted)

    def close(self) -> None:
        self._file.close()
