"""Record batches, as a broker sends them, to columns. aiokafka's compiled reader takes the batches apart; what a window
needs of the records is collected column by column, without an object of ours for each record.

https://kafka.apache.org/documentation/#messageformat
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from attrs import frozen

from dpone.errors import DataError
from dpone_kafka.cluster import Fetched

HEADERS = pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())]))


@frozen(eq=False)
class Records:
    """Records of one partition. ``rows``: of aiokafka's compiled class; what few windows need of them is collected only
    where it is asked for. ``next``: the offset to read on from; it is past the last record where markers of
    transactions or removed records follow."""

    rows: Sequence[Any]
    offsets: npt.NDArray[np.int64]
    values: Sequence[bytes | None]
    next: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[bytes | None]:
        return [row.key for row in self.rows]


class BatchReader:
    """Reads what fetches of a partition have given. ``place``: topic and partition, for messages. ``end``: records from
    there on are left out."""

    def __init__(self, place: str, end: int, committed: bool) -> None:
        self._place, self._end, self._committed = place, end, committed

    def read(self, fetched: Fetched, start: int) -> Records:
        """The records from ``start`` on. Raises DataError for a batch that is damaged."""
        rows: list[Any] = []
        offsets, at = [np.empty(0, np.int64)], start
        for batch in _live(fetched, self._place, self._committed):
            first, end = batch.base_offset, batch.next_offset
            if first >= self._end:
                at = self._end
                break
            at = max(at, end)
            some = [] if isinstance(batch, _Skipped) else list(batch)
            if first >= start and end <= self._end and len(some) == end - first:
                offsets.append(np.arange(first, end, dtype=np.int64))
            else:  # a piece of the batch, or one that compaction has thinned
                some = [row for row in some if start <= row.offset < self._end]
                offsets.append(np.fromiter((row.offset for row in some), np.int64, len(some)))
            rows += some
        return Records(rows, np.concatenate(offsets), [row.value for row in rows], min(at, self._end))


@frozen
class _Skipped:
    """A batch without records for us: of an aborted transaction, or of markers."""

    base_offset: int
    next_offset: int


def _live(fetched: Fetched, place: str, committed: bool) -> Iterator[Any]:
    """The batches, with those of aborted transactions and the markers as _Skipped. The first record of an aborted
    transaction is in ``aborted``; its marker ends it."""
    starting = sorted(fetched.aborted, key=lambda one: one[1])
    aborted: set[int] = set()
    batches = MemoryRecords(fetched.data)
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.validate_crc():
            found = f"the batch at offset {batch.base_offset} does not match its checksum"
            todo = "run again; if it stays, restore the partition from a replica (unclean disk or network)"
            raise DataError(f"read {place}", found, todo)
        if batch.producer_id is None:  # a message format before 2: no transactions
            yield batch
            continue
        while starting and starting[0][1] <= batch.base_offset:
            aborted.add(starting.pop(0)[0])
        if batch.is_control_batch:
            if next((ControlRecord.parse(row.key) == ABORT_MARKER for row in batch), False):
                aborted.discard(batch.producer_id)
            yield _Skipped(batch.base_offset, batch.next_offset)
        elif committed and batch.is_transactional and batch.producer_id in aborted:
            yield _Skipped(batch.base_offset, batch.next_offset)
        else:
            yield batch


def fingerprint(fetched: Fetched, offset: int) -> str:
    """What names the batch that has this offset, as long as nobody rewrites it: its first offset and its checksum,
    which covers timestamps, keys, values and producer. Empty if the batch is not there any more."""
    batches = MemoryRecords(fetched.data)
    while batches.has_next():
        batch = batches.next_batch()
        if batch.base_offset <= offset < batch.next_offset:
            crc = getattr(batch, "crc", None)
            return "" if crc is None else f"{batch.base_offset}:{crc:08x}"
    return ""


def header_array(headers: Sequence[Any]) -> pa.Array:
    return pa.array([[{"name": name, "value": value} for name, value in one] for one in headers], HEADERS)
