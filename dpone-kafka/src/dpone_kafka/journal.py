"""The journal of the sink: a compacted topic, in which the key of a record is the key of a stream.

The value is one JSON object with what ``contract.Entry`` has, and the target and columns of the load. An entry is
always written in a transaction of the stream's transactional id, whatever the delivery mode: so of two runners of one
stream, one commits. Records under other keys belong to other streams or to somebody else, and are not looked at.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.contract import Entry
from dpone.errors import DponeError, SinkError
from dpone.model.position import Position
from dpone_kafka.cluster import EARLIEST, LATEST, READ_COMMITTED, READ_UNCOMMITTED, Place, Topic
from dpone_kafka.records import BatchReader
from dpone_kafka.refusals import transient
from dpone_kafka.session import Session

FORMAT = 1
LARGEST = 16 << 20  # bytes of an entry: the position of a source of many files is long
# Of a journal that is created. A topic with cleanup.policy=delete would forget the heads.
SETTINGS = {"cleanup.policy": "compact", "max.message.bytes": str(LARGEST)}


@frozen
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@frozen
class Kept:
    """An entry with what the journal has besides."""

    entry: Entry
    topic: str
    columns: Mapping[str, str]
    ends: Mapping[int, int]


def dumps(entry: Entry, topic: str, schema: pa.Schema | None, ends: Mapping[int, int]) -> bytes:
    """``ends``: for each partition that the load wrote to, the offset after its last record."""
    return json.dumps(
        {
            "format": FORMAT,
            "seq": entry.seq,
            "epoch": entry.epoch,
            "load_id": entry.load_id,
            "run_id": entry.run_id,
            "token": entry.token,
            "position": entry.position.to_json(),
            "committed_at": entry.committed_at.isoformat(),
            "rows": dict(entry.rows),
            "topic": topic,
            "columns": {field.name: str(field.type) for field in schema or ()},
            "ends": {str(partition): offset for partition, offset in ends.items()},
        },
        ensure_ascii=False,
    ).encode()


def loads(record: Record) -> Kept:
    """Raises SinkError, which names the record."""
    try:
        data: dict[str, Any] = json.loads(record.value or b"")
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}, this dpone reads {FORMAT}")
        entry = Entry(
            int(data["seq"]), int(data["epoch"]), data["load_id"], data["run_id"], data["token"],
            Position.from_json(data["position"]), datetime.fromisoformat(data["committed_at"]), data["rows"],
        )  # fmt: skip
        ends = {int(partition): int(offset) for partition, offset in data["ends"].items()}
        return Kept(entry, str(data["topic"]), data["columns"], ends)
    except (ValueError, KeyError, TypeError, AttributeError, DponeError) as error:
        place = f"offset {record.offset} of partition {record.partition} of topic {record.topic}"
        found = f"the record at {place} is damaged ({type(error).__name__})"
        todo = "read the record, then write the entry of the last load again, or choose a position by 'dpone state set'"
        raise SinkError("read the journal", found, todo) from error


def later(kept: Kept | None) -> tuple[int, int]:
    return (kept.entry.epoch, kept.entry.seq) if kept else (-1, -1)


class Journal:
    def __init__(self, session: Session, topic: str, patience: float) -> None:
        """``patience``: seconds in which an open transaction ends, whoever began it."""
        self.topic, self._session, self._patience = topic, session, patience

    def head(self, key: str) -> Kept | None:
        """The last committed entry of a key: all that was written when the call began is waited for."""
        return self.heads(key).get(key)

    def heads(self, key: str | None = None) -> Mapping[str, Kept]:
        """Of one key, or of all."""
        return self._session.call(
            self.read(key), f"read the journal {self.topic}", self._session.timeout + self._patience
        )

    async def read(self, key: str | None) -> Mapping[str, Kept]:
        found: dict[str, Kept] = {}
        topic = await self._session.topic(self.topic)
        if topic is None:
            return found
        for record in await self._records(topic, key):
            if record.key is None:
                continue
            name = record.key.decode(errors="replace")
            if key not in (None, name):
                continue
            if record.value is None:  # an operator's tombstone
                found.pop(name, None)
                continue
            if key is None and not _ours(record):
                continue
            kept = loads(record)
            if later(kept) >= later(found.get(name)):
                found[name] = kept
        return found

    async def _records(self, topic: Topic, key: str | None) -> list[Record]:
        """Committed records of the key, or of all keys, partition by partition in the order of their offsets. Of a
        partition in which a transaction is open, what it hides concerns nobody here unless it has the key."""
        wanted, cluster = None if key is None else key.encode(), self._session.cluster
        open_ = [(topic.name, number) for number in topic.leaders]
        at = await cluster.offsets(open_, EARLIEST, READ_UNCOMMITTED)
        ends = await cluster.offsets(open_, LATEST, READ_UNCOMMITTED)
        kept: list[Record] = []
        until = time.monotonic() + self._patience
        while open_:
            stable = await cluster.offsets(open_, LATEST, READ_COMMITTED)
            for place in open_:
                end = min(stable[place], ends[place])
                kept += [one async for one in self._read(place, at[place], end, True) if wanted in (None, one.key)]
                at[place] = max(at[place], end)
            left = [place for place in open_ if at[place] < ends[place]]
            open_ = [place for place in left if wanted is None or await self._hides(place, at[place], ends, wanted)]
            if open_ and time.monotonic() > until:
                found = "a transaction in front of the stream's entry is still open"
                raise transient("read the journal", found, "run again when the brokers have ended it")
            await asyncio.sleep(0.1 if open_ else 0)
        return sorted(kept, key=lambda one: (one.partition, one.offset))

    async def _hides(self, place: Place, start: int, ends: Mapping[Place, int], key: bytes) -> bool:
        """Whether one of the records that are not yet committed has the key."""
        return any([one.key == key async for one in self._read(place, start, ends[place], False)])

    async def _read(self, place: Place, start: int, end: int, committed: bool) -> AsyncIterator[Record]:
        reader = BatchReader(f"partition {place[1]} of {place[0]}", end, committed)
        isolation = READ_COMMITTED if committed else READ_UNCOMMITTED
        while start < end:
            fetched = await self._session.cluster.fetch(*place, start, 1 << 20, isolation)
            found = reader.read(fetched, start)
            for row in found.rows:
                yield Record(*place, row.offset, row.key, row.value)
            start = max(found.next, start + 1)


def _ours(record: Record) -> bool:
    """Whether a record under a key that nobody asked for looks like an entry."""
    try:
        data = json.loads(record.value or b"")
        return isinstance(data, dict) and data.get("format") == FORMAT and "load_id" in data
    except ValueError:
        return False
