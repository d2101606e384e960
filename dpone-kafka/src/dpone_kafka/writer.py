"""One load into a topic: rows are staged on this machine, then sent, and the journal entry with or after them.

A commit takes these steps; each is followed by the next only if it has succeeded:

1. Nothing is sent: the staged files are verified, and what cannot succeed is refused.
2. The transactional id of the stream is initialised: an earlier producer of the id is fenced, its transaction ended.
3. The head of the journal is compared. From here on, only a runner that passes step 2 later can commit, and this one
   cannot after that.
4. at_least_once, idempotent: every row is sent and confirmed.
5. The transaction begins. transactional: every row is sent and confirmed in it.
6. The entry is sent and confirmed, the transaction committed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from attrs import define, evolve, field, frozen

from dpone.contract import Entry, Load, Part, Receipt, Stream, Writer
from dpone.errors import Conflict, DataError, SinkError
from dpone.model.position import Position
from dpone.model.staged import Staged
from dpone_kafka import journal, partitioner
from dpone_kafka.encode import Encoder
from dpone_kafka.journal import Journal, Kept
from dpone_kafka.record_batches import HEADER, Batch, Header, Numbers, records
from dpone_kafka.refusals import transient
from dpone_kafka.session import Session, ended
from dpone_kafka.sink_options import KafkaSinkOptions
from dpone_kafka.staging import Mark, Staging, digest

EVENT_ID, LOAD_ID, LOADED_AT = "dpone.event_id", "dpone.load_id", "dpone.loaded_at"
LARGEST = 1_048_588  # max.message.bytes of a topic that does not say otherwise
_MOMENT = 2.0  # seconds for what ends a transaction or a connection


def transactional_id(key: str) -> str:
    """Of a stream. The prefix is what a broker grants (``--transactional-id dpone. --resource-pattern-type
    prefixed``)."""
    return f"dpone.{digest(key)}"


@frozen
class Place:
    """Where the records of a batch come from, for messages."""

    part: str
    row: int


@define
class KafkaWriter:
    """``contract.Writer``."""

    session: Session
    journal: Journal
    topic: str
    options: KafkaSinkOptions
    load: Load
    staging: Staging
    load_id: str
    _producers: list[AIOKafkaProducer] = field(factory=list)

    @property
    def what(self) -> str:
        return f"commit to topic {self.topic}"

    def staged(self) -> Mapping[str, Staged]:
        return self.staging.staged()

    def stage(self, part: Part, stream: Stream) -> Staged:
        if part.id in self.staging.marks:
            return self.staging.marks[part.id].staged
        encoder = Encoder(self.options, stream.schema, f"topic {self.topic}")
        try:
            return self.staging.write(part, stream, encoder).staged
        except OSError as error:
            raise _disk("stage rows", self.staging, error) from error

    def commit(self, after: Entry | None, position: Position, also: Sequence[Writer] = ()) -> Receipt:
        loads: list[KafkaWriter] = [self]
        for one in also:
            assert isinstance(one, KafkaWriter), "the engine commits writers of one connector"
            loads.append(one)
        try:
            for one in loads:
                one.staging.verify()
                one._require_fit()
            self._require_time(loads)
            entries = self._committed(loads, after, position)
        finally:
            self._end()
        with suppress(OSError):  # committed; the next open of the key can do the rest too
            for one in loads:
                one.staging.remove()
        return Receipt(entries[0], inserted=sum(entry.rows["inserted"] for entry in entries))

    def _committed(self, loads: list[KafkaWriter], after: Entry | None, position: Position) -> list[Entry]:
        fence = self._producer(
            transactional_id=transactional_id(self.load.key),
            transaction_timeout_ms=int(self.options.transaction_timeout * 1000),
            compression_type="gzip",  # of the entry; the batches of rows are complete when the producer gets them
            max_request_size=journal.LARGEST,
        )
        known = [self.journal.head(one.load.key) for one in loads]
        _require_head(known[0].entry if known[0] else None, after, self.what)
        transactional, ends = self.options.delivery == "transactional", []
        if not transactional:
            plain = self._producer(acks="all", enable_idempotence=self.options.delivery == "idempotent")
            ends = [one._deliver(plain, None) for one in loads]
        self.session.call(fence.begin_transaction(), self.what)
        until = time.monotonic() + self.options.transaction_timeout
        try:
            if transactional:
                ends = [one._deliver(fence, until) for one in loads]
            entries = [
                one._entered(fence, before, position, written)
                for one, before, written in zip(loads, known, ends, strict=True)
            ]
        except Conflict as error:
            self.session.last(fence.abort_transaction(), _MOMENT)
            if time.monotonic() < until:
                raise
            raise self._too_slow() from error  # the brokers fence whom they time out
        except BaseException:
            # As far as the brokers answer. Else they do it when its time is over, or the next commit of the key.
            self.session.last(fence.abort_transaction(), _MOMENT)
            raise
        self._commit_transaction(fence)
        return entries

    def _entered(
        self, fence: AIOKafkaProducer, before: Kept | None, position: Position, written: Mapping[int, int]
    ) -> Entry:
        rows = sum(mark.staged.rows for mark in self.staging.marks.values())
        load = evolve(self.load, load_id=self.load_id)
        entry = load.entry(before.entry if before else None, position, inserted=rows, updated=0, deleted=0, unchanged=0)
        # A position set by hand takes the topic as it is.
        ends = {} if load.schema is None else {**(before.ends if before else {}), **written}
        value = journal.dumps(entry, self.topic, load.schema, ends)
        try:
            self.session.call(fence.send_and_wait(self.journal.topic, value, load.key.encode()), self.what)
        except SinkError as error:
            if not isinstance(error.__cause__, MessageSizeTooLargeError):
                raise
            found = f"the journal entry has {len(value):,} bytes, mostly the position, which topic {self.journal.topic}"
            todo = f"set its max.message.bytes to {journal.LARGEST}, or split the stream"
            raise SinkError(self.what, f"{found} does not take", todo) from error
        return entry

    def _commit_transaction(self, fence: AIOKafkaProducer) -> None:
        """What fails here may have succeeded: whether it has, the journal says. So it is never a Conflict, for which
        the engine would not ask."""
        try:
            self.session.call(fence.commit_transaction(), self.what)
        except Conflict as error:
            found = "the answer to the commit was lost, and another run has taken over"
            raise transient(self.what, found, "run again; the journal knows whether the load was committed") from error

    # ---- what is refused before a record is sent

    def _require_fit(self) -> None:
        """Uncompressed records that the topic does not take."""
        if not self.staging.marks or self.options.compression != "none":
            return
        limit = self._largest()
        for mark in self.staging.in_order():
            size, row = mark.largest
            if size > limit - HEADER:
                raise _too_large(self.topic, Place(mark.part, row), size, limit)

    def _largest(self) -> int:
        config = self.session.call(self.session.config(self.topic), self.what)
        return int(config.get("max.message.bytes") or LARGEST)

    def _require_time(self, loads: Sequence[KafkaWriter]) -> None:
        if self.options.delivery != "transactional":
            return
        size = sum(mark.bytes for one in loads for mark in one.staging.marks.values())
        needed, limit = size / self.options.transaction_rate, self.options.transaction_timeout
        if needed > limit:
            found = (
                f"the load has {size / 1e6:,.0f} MB, which take {needed:,.0f} seconds at transaction_rate, "
                f"but transaction_timeout is {limit:g} seconds"
            )
            todo = "set options.transaction_timeout higher, load less at once, or use delivery: idempotent"
            raise SinkError(self.what, found, todo)

    # ---- sending

    def _deliver(self, producer: AIOKafkaProducer, until: float | None) -> dict[int, int]:
        """Every record of the staging, confirmed by the brokers. Returns for each partition the offset after the last
        record. One chunk is encoded while the one before is sent."""
        if not any(mark.staged.rows for mark in self.staging.marks.values()):
            return {}
        topic = self.session.call(self.session.topic(self.topic), self.what)
        if topic is None:
            todo = "restore the topic, or run again: the next load creates it"
            raise SinkError(self.what, "the topic was deleted while the load was staged", todo)
        sending = _Sending(producer, self.topic, self.session.timeout)
        limit = min(self.options.batch_bytes, self._largest())
        before: Future[None] | None = None
        try:
            for chunk in self._chunks(len(topic.leaders), limit, until is not None):
                if until is not None and time.monotonic() > until:
                    raise self._too_slow()
                if before is not None:
                    self.session.wait(before, self.what)
                before = self.session.start(sending.send(chunk))
            if before is not None:
                self.session.wait(before, self.what)
            return self.session.call(sending.confirmed(), self.what, math.inf)
        except SinkError as error:
            if isinstance(error.__cause__, MessageSizeTooLargeError) and sending.refused is not None:
                place, size = sending.refused
                raise _too_large(self.topic, place, size, self._largest()) from error.__cause__
            raise
        finally:
            if before is not None:
                before.cancel()

    def _too_slow(self) -> SinkError:
        found = f"sending took longer than transaction_timeout, {self.options.transaction_timeout:g} seconds"
        todo = "set options.transaction_timeout higher and options.transaction_rate lower; nothing was committed"
        return SinkError(self.what, found, todo)

    def _chunks(self, partitions: int, limit: int, transactional: bool) -> Iterator[list[tuple[int, Batch, Place]]]:
        first = 0
        for mark in self.staging.in_order():
            row = 0
            for batch in self.staging.read(mark):
                rows = batch.num_rows
                if rows:
                    yield list(self._batches(mark, batch, row, first, partitions, limit, transactional))
                row, first = row + rows, first + rows

    def _batches(
        self, mark: Mark, batch: pa.RecordBatch, row: int, first: int, partitions: int, limit: int, transactional: bool
    ) -> Iterator[tuple[int, Batch, Place]]:
        keys, values, ids, places = batch.columns
        to = self._partitions(keys, places, Place(mark.part, row), first, partitions)
        whole = records(keys, values, self._headers(ids))
        now = int(time.time() * 1000)
        for partition in range(partitions):
            rows = np.flatnonzero(to == partition)
            if not len(rows):
                continue
            some = whole if len(rows) == len(to) else whole.take(rows)
            for one in some.batches(limit, self.options.compression, now, transactional):
                yield partition, one, Place(mark.part, row + int(rows[one.first]) + 1)

    def _headers(self, ids: pa.Array) -> list[Header]:
        headers = [Header(EVENT_ID, ids)]
        if self.options.lineage.enabled:
            loaded_at = self.load.started_at.isoformat().encode()
            headers += [Header(LOAD_ID, self.load_id.encode()), Header(LOADED_AT, loaded_at)]
        return headers

    def _partitions(self, keys: pa.Array, places: pa.Array, at: Place, first: int, partitions: int) -> Numbers:
        match self.options.partition.by:
            case "turn":
                return partitioner.in_turn(len(keys), first, partitions)
            case "column":
                numbers = places.fill_null(-1).to_numpy(zero_copy_only=False)
                wrong = np.flatnonzero((numbers < 0) | (numbers >= partitions))
                if len(wrong):
                    column = self.options.partition.column
                    found = f"row {at.row + int(wrong[0]) + 1:,} of part {at.part} has no partition in column {column}"
                    todo = f"use numbers from 0 to {partitions - 1}; topic {self.topic} has so many partitions"
                    raise DataError(self.what, found, todo)
                found_in: Numbers = numbers
                return found_in
            case _:
                return partitioner.by_key(keys, first, partitions)

    # ---- the end

    def _producer(self, **options: Any) -> AIOKafkaProducer:
        made = self.session.call(self.session.producer(**options), self.what)
        self._producers.append(made)
        return made

    def _end(self) -> None:
        while self._producers:
            self.session.last(ended(self._producers.pop()), _MOMENT)

    def abort(self) -> None:
        self._end()
        try:
            self.staging.remove()
        except OSError as error:
            raise _disk("drop the staged rows", self.staging, error) from error

    def close(self) -> None:
        self._end()
        if not self.load.repeatable:
            self.abort()


class _Sending:
    """Batches on their way. Used by coroutines of the session's loop."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, timeout: float) -> None:
        self._producer, self._topic, self._timeout = producer, topic, timeout
        self._sent: list[tuple[asyncio.Future[Any], int, int, Place, int]] = []
        self._ends: dict[int, int] = {}
        self.refused: tuple[Place, int] | None = None

    async def send(self, batches: Sequence[tuple[int, Batch, Place]]) -> None:
        """A batch waits until the one before it in its partition is on its way: a full buffer blocks."""
        await self._collect(wait=False)
        for partition, batch, place in batches:
            size, count = batch.size(), batch.count
            async with asyncio.timeout(self._timeout):
                future = await self._producer.send_batch(batch, self._topic, partition=partition)
            self._sent.append((future, partition, count, place, size))

    async def confirmed(self) -> dict[int, int]:
        await self._collect(wait=True)
        return self._ends

    async def _collect(self, wait: bool) -> None:
        left = []
        for one in self._sent:
            future, partition, count, place, size = one
            if not wait and not future.done():
                left.append(one)
                continue
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await future
            except MessageSizeTooLargeError:
                self.refused = place, size
                raise
            self._ends[partition] = max(answer.offset + count, self._ends.get(partition, 0))
        self._sent = left


def _require_head(head: Entry | None, after: Entry | None, what: str) -> None:
    if _place(head) != _place(after):
        found = f"the last journal entry is {_shown(head)}, not {_shown(after)}"
        raise Conflict(what, found, "another run loaded this stream; run again")


def _place(entry: Entry | None) -> tuple[int, int, str] | None:
    return (entry.epoch, entry.seq, entry.load_id) if entry else None


def _shown(entry: Entry | None) -> str:
    return f"entry {entry.seq} of load {entry.load_id}" if entry else "empty"


def _too_large(topic: str, place: Place, size: int, limit: int) -> DataError:
    found = f"row {place.row:,} of part {place.part} has {size:,} bytes, but the topic takes {limit:,}"
    return DataError(f"write topic {topic}", found, "set max.message.bytes of the topic higher, or shorten the row")


def _disk(step: str, staging: Staging, error: OSError) -> SinkError:
    todo = "free disk space, give the user that runs dpone write access, or set options.spool to another folder"
    return SinkError(f"{step} in {staging.folder.parent}", error.strerror or type(error).__name__, todo)
