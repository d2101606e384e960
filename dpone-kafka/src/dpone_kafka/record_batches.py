"""Record batches of Kafka (magic 2), encoded in columns: no object for a record, and no loop over them.

A record is: length, attributes, timestamp delta, offset delta, key, value, headers; lengths and deltas are zigzag
varints (KIP-98). Only the offset delta depends on the batch, so records are joined by Arrow's kernels and cut into
batches afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from aiokafka import codec
from aiokafka.record.util import calc_crc32c
from attrs import define, field, frozen

Numbers = npt.NDArray[Any]
HEADER = 61  # bytes of a batch before its records
_CODECS = {
    "none": (0, bytes),
    "gzip": (1, codec.gzip_encode),
    "snappy": (2, codec.snappy_encode),
    "lz4": (3, lambda data: codec.lz4_encode(data, level=1)),  # aiokafka's own is 9, the slowest
    "zstd": (4, codec.zstd_encode),
}
_TRANSACTIONAL = 0x10
_LIMITS = np.array([1 << 7 * n for n in range(1, 5)])


def varints(numbers: Numbers) -> pa.Array:
    """Each number from -1 to 2**31 - 1 as a zigzag varint."""
    zigzag = (numbers.astype(np.int64) << 1) ^ (numbers.astype(np.int64) >> 63)
    sizes = np.searchsorted(_LIMITS, zigzag, side="right").astype(np.int32) + 1
    places = np.arange(5)
    digits = (zigzag[:, None] >> 7 * places) & 0x7F | np.where(places < sizes[:, None] - 1, 0x80, 0)
    offsets = np.zeros(len(numbers) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    data = digits[places < sizes[:, None]].astype(np.uint8)
    return pa.Array.from_buffers(pa.binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _sized(values: pa.Array) -> list[pa.Array]:
    """Length and bytes of each value; NULL has the length -1."""
    lengths = pc.binary_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
    return [varints(lengths), values.fill_null(b"")]


@frozen
class Header:
    """A header of every record: one value for all of them, or one for each."""

    name: str
    value: bytes | pa.Array

    def pieces(self, rows: int) -> list[pa.Array]:
        name = self.name.encode()
        start = varints(np.array([len(name)]))[0].as_py() + name
        if isinstance(self.value, bytes):
            text = start + varints(np.array([len(self.value)]))[0].as_py() + self.value
            return [_repeated(text, rows)]
        return [_repeated(start, rows), *_sized(self.value)]


def _repeated(data: bytes, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(data, pa.binary()), rows)


@frozen
class Records:
    """Records of one partition, without their offset deltas, in order. ``sizes``: the largest that each can be."""

    bodies: pa.Array

    @property
    def sizes(self) -> Numbers:
        # Length and offset delta have five bytes at most, attributes and timestamp delta one each.
        lengths: Numbers = pc.binary_length(self.bodies).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths + 12

    def take(self, rows: Numbers) -> Records:
        return Records(self.bodies.take(pa.array(rows)))

    def cut(self, limit: int) -> list[tuple[int, int]]:
        """Ranges of records that are ``limit`` bytes at most as a batch; a record that is larger is alone."""
        ends, cuts, start = np.cumsum(self.sizes), [], 0
        while start < len(self.bodies):
            before = int(ends[start - 1]) if start else 0
            end = int(np.searchsorted(ends, before + limit - HEADER, side="right"))
            cuts.append((start, max(end, start + 1)))
            start = cuts[-1][1]
        return cuts

    def batches(self, limit: int, compression: str, milliseconds: int, transactional: bool) -> Iterator[Batch]:
        cuts = self.cut(limit)
        deltas = np.concatenate([np.arange(end - start) for start, end in cuts] or [np.zeros(0, np.int64)])
        rest = pc.binary_join_element_wise(
            pa.scalar(b"\0\0"), varints(deltas), self.bodies, pa.scalar(b"")
        )  # attributes and timestamp delta: every record has the time of its batch
        [length, _] = _sized(rest)
        whole = pc.binary_join_element_wise(length, rest, pa.scalar(b""))
        offsets = np.frombuffer(whole.buffers()[1], np.int32, len(whole) + 1, 4 * whole.offset)
        data = memoryview(whole.buffers()[2] or b"")
        for start, end in cuts:
            yield Batch(
                data[offsets[start] : offsets[end]], end - start, start, compression, milliseconds, transactional
            )


def records(keys: pa.Array, values: pa.Array, headers: Sequence[Header]) -> Records:
    """Key, value and headers of each record. A value that is NULL is a tombstone."""
    rows = len(values)
    pieces = [*_sized(keys), *_sized(values), _repeated(varints(np.array([len(headers)]))[0].as_py(), rows)]
    for header in headers:
        pieces += header.pieces(rows)
    return Records(pc.binary_join_element_wise(*pieces, pa.scalar(b"")))


@define
class Batch:
    """What ``AIOKafkaProducer.send_batch`` takes: it has the methods of aiokafka's ``BatchBuilder`` that the producer
    calls. ``first``: the number of its first record among those that it was cut from."""

    records: memoryview
    count: int
    first: int
    compression: str
    milliseconds: int
    transactional: bool
    producer: tuple[int, int, int] = (-1, -1, -1)
    _data: bytes = field(default=b"", init=False)

    def record_count(self) -> int:
        return self.count

    def closed(self) -> bool:
        return True

    def close(self) -> None:
        """It never takes more."""

    def append(self, **_: object) -> None:
        """As of a builder that is full."""

    def size(self) -> int:
        return len(self._data) or HEADER + len(self.records)

    def _set_producer_state(self, producer_id: int, epoch: int, sequence: int) -> None:
        self.producer = producer_id, epoch, sequence

    def _build(self) -> bytes:
        """Once: a batch that is sent again must be the same."""
        if not self._data:
            number, packed = _CODECS[self.compression]
            body = packed(bytes(self.records))
            attributes = number | (_TRANSACTIONAL if self.transactional else 0)
            checked = (
                struct.pack(
                    ">hiqqqhii", attributes, self.count - 1, self.milliseconds, self.milliseconds, *self.producer,
                    self.count,
                )
                + body
            )  # fmt: skip
            head = struct.pack(">qiibI", 0, 9 + len(checked), -1, 2, calc_crc32c(checked))
            self._data, self.records = head + checked, memoryview(b"")
        return self._data
