"""Record batches and partitions without a broker, against aiokafka's own code for single records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as murmur2_of_one
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from dpone_kafka.partitioner import by_key, murmur2
from dpone_kafka.record_batches import Header, records, varints

BYTES = st.one_of(st.none(), st.binary(max_size=40), st.integers(0, 9000).map(lambda n: b"x" * n))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(BYTES, BYTES, st.binary(max_size=9)), min_size=1, max_size=40), st.integers(200, 9000),
    st.booleans(),
)  # fmt: skip
@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_batches_hold_the_records_in_order(
    compression: str, rows: list[tuple[Any, Any, bytes]], limit: int, transactional: bool
) -> None:
    """Whatever keys, values and sizes: aiokafka reads back every record once, in order, with its headers and the state
    of the producer; a batch is no larger than the limit unless it has one record."""
    keys, values, ids = (pa.array(column, pa.binary()) for column in zip(*rows, strict=True))
    made = records(keys, values, [Header("load", b"L"), Header("id", ids)])
    found = []
    for batch in made.batches(limit, compression, 1_700_000_000_123, transactional):
        assert batch.size() <= limit or batch.count == 1
        batch._set_producer_state(7, 3, 11)
        data = batch._build()
        assert data == batch._build(), "a batch that is sent again is another one"
        read = MemoryRecords(data).next_batch()
        assert read.validate_crc()
        assert (read.is_transactional, read.producer_id, read.producer_epoch) == (transactional, 7, 3)
        found += [(batch.first + one.offset, one.key, one.value, list(one.headers), one.timestamp) for one in read]
    expected = [
        (n, key, value, [("load", b"L"), ("id", id)], 1_700_000_000_123) for n, (key, value, id) in enumerate(rows)
    ]
    assert found == expected


def test_records_are_taken_by_row() -> None:
    """Some rows of a chunk, as of one partition, are the records of these rows."""
    values = pa.array([b"%d" % n for n in range(9)], pa.binary())
    some = records(pa.nulls(9, pa.binary()), values, []).take(np.array([1, 4, 8]))
    [batch] = some.batches(1 << 20, "none", 0, False)
    before = batch.size()
    assert [one.value for one in MemoryRecords(batch._build()).next_batch()] == [b"1", b"4", b"8"]
    assert before == batch.size() == len(batch._build())


def test_varints_are_those_of_the_protocol() -> None:
    """At each length that a varint can have, both ends."""
    numbers = [-1, 0, 63, 64, 8191, 8192, 2**20 - 1, 2**20, 2**27 - 1, 2**27, 2**31 - 1]
    made = varints(np.array(numbers)).to_pylist()
    for number, data in zip(numbers, made, strict=True):
        value = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data))
        assert (value >> 1) ^ -(value & 1) == number
        assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=50), st.integers(1, 12))
def test_OUT_10_a_key_has_the_partition_of_the_java_client(keys: list[bytes], partitions: int) -> None:
    """Keys of any lengths together have the hash that each has alone, and the partition that another producer chooses;
    records without a key go round."""
    column = pa.array(keys, pa.binary())
    assert murmur2(column).tolist() == [murmur2_of_one(key) & 0xFFFFFFFF for key in keys]
    every, one = list(range(partitions)), DefaultPartitioner()
    assert by_key(column, 5, partitions).tolist() == [one(key, every, every) for key in keys]
    bare = pa.nulls(len(keys), pa.binary())
    assert by_key(bare, 5, partitions).tolist() == [(5 + n) % partitions for n in range(len(keys))]
