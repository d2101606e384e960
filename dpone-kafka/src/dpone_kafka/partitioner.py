"""Which partition a record goes to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[Any]
_M, _SEED = np.uint32(0x5BD1E995), 0x9747B28C


def murmur2(keys: pa.Array) -> Numbers:
    """The hash of each key as the Java client's ``Utils.murmur2`` has it, unsigned. Keys of one length are hashed
    together; none is NULL."""
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    lengths = pc.binary_length(keys).to_numpy(zero_copy_only=False)
    hashes = np.zeros(len(keys), np.uint32)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        same = keys.take(pa.array(rows))
        start = np.frombuffer(same.buffers()[1], np.int32, 1, 4 * same.offset)[0]
        data = np.frombuffer(same.buffers()[2] or b"", np.uint8)[start : start + length * len(rows)]
        hashes[rows] = _hashed(data.reshape(len(rows), length), int(length))
    return hashes


def _hashed(data: Numbers, length: int) -> Numbers:
    with np.errstate(over="ignore"):
        hashes = np.full(len(data), (_SEED ^ length) & 0xFFFFFFFF, np.uint32)
        whole = length // 4
        words = np.ascontiguousarray(data[:, : whole * 4]).view("<u4") if whole else np.zeros((len(data), 0), "<u4")
        for n in range(whole):
            word = words[:, n].astype(np.uint32) * _M
            word ^= word >> np.uint32(24)
            hashes = (hashes * _M) ^ (word * _M)
        rest = data[:, whole * 4 :].astype(np.uint32)
        if rest.shape[1]:
            for n in range(rest.shape[1]):
                hashes ^= rest[:, n] << np.uint32(8 * n)
            hashes *= _M
        hashes ^= hashes >> np.uint32(13)
        hashes *= _M
        hashes ^= hashes >> np.uint32(15)
    return hashes


def by_key(keys: pa.Array, first: int, partitions: int) -> Numbers:
    """As the Java client's default: the positive hash modulo the number of partitions. Records without a key go round,
    by their number in the load."""
    numbers = (np.arange(first, first + len(keys)) % partitions).astype(np.int64)
    keyed = keys.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(keyed)
    if len(rows):
        numbers[rows] = (murmur2(keys.take(pa.array(rows))) & np.uint32(0x7FFFFFFF)) % partitions
    return numbers


def in_turn(rows: int, first: int, partitions: int) -> Numbers:
    return np.arange(first, first + rows, dtype=np.int64) % partitions
