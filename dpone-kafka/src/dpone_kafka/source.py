"""The Kafka source: topics up to an end that is fixed before the first record."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fnmatch
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
from attrs import evolve, frozen

from dpone.contract import BatchStream, Finding, Part, Stream, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, Gap, IdentityChanged, SourceError, counted
from dpone.formats.jsonl import settled
from dpone.formats.text import united
from dpone.formats.types import SeenValues, without_lineage
from dpone.model.evolution import has_default
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import ambiguous
from dpone_kafka.check import findings
from dpone_kafka.cluster import EARLIEST, LATEST, READ_COMMITTED, READ_UNCOMMITTED, Fetched, Moved, Topic
from dpone_kafka.columns import Columns
from dpone_kafka.config import KafkaSourceOptions
from dpone_kafka.connect import Client
from dpone_kafka.dead_letters import DeadLetters
from dpone_kafka.position import (
    KIND,
    Log,
    TopicPosition,
    known,
    require_same_mark,
    require_same_topic,
    start_of,
)  # fmt: skip
from dpone_kafka.records import BatchReader, Records, fingerprint
from dpone_kafka.settings import settings
from dpone_kafka.spool import Spool
from dpone_kafka.values import seen

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_AT_ONCE = 32  # questions under way for marks


@frozen
class _Range:
    """Offsets of one partition: from ``start`` to before ``end``."""

    topic: str
    partition: int
    start: int
    end: int

    @property
    def what(self) -> str:
        return f"{self.topic}, partition {self.partition}"


@frozen(eq=False)
class _Fetch:
    """What one fetch from ``start`` on has given. ``fetched``: its bytes, if they are kept."""

    start: int
    fetched: Fetched | None
    records: Records


class KafkaSource:
    """Reads topics by name, list (``a,b``) or glob. The position holds the next offset of every partition."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._options = spec.options if isinstance(spec.options, KafkaSourceOptions) else KafkaSourceOptions()
        self._settings = settings(spec.connection)
        self._topic = spec.topic or ""
        self._names = [one.strip() for one in self._topic.split(",")]
        self._glob = self._topic if re.search(r"[*?\[]", self._topic) else None
        if self._glob is None and (wrong := [one for one in self._names if not _NAME.fullmatch(one)]):
            todo = "write a name, a list such as 'a,b', or a glob such as 'orders-*'"
            raise ConfigError("read source.topic", f"{wrong[0]!r} is not a name of a topic", todo)
        self._columns: Columns | None = None if self._options.value.infer else Columns(self._options)
        self._open: Client | None = None
        self._spool: Spool | None = None
        self._ids: Mapping[str, str] = {}
        self._batch_rows: int | None = None
        # Where a window ends in each partition, if it ends earlier than the log.
        self.ends: Mapping[int, int] = {}

    @property
    def _isolation(self) -> int:
        return READ_COMMITTED if self._options.isolation == "read_committed" else READ_UNCOMMITTED

    @property
    def _client(self) -> Client:
        if self._open is None:
            self._open = Client(self._settings, self._options.silence_timeout)
        return self._open

    # ---- what is there

    def check(self) -> list[Finding]:
        try:
            topics = self._topics()
            client = self._client
            policies = client.call(client.cluster.policies(list(topics)))
        except DponeError as error:
            return [Finding("kafka", False, error.found, error.todo)]
        return findings(client.cluster.id, self._settings, topics, policies)

    def tables(self, pattern: str) -> list[str]:
        return sorted(name for name, topic in self._all().items() if fnmatch.fnmatchcase(name, pattern))

    def schema(self) -> pa.Schema:
        topics = self._topics()
        if self._columns is not None:
            return self._columns.schema
        logs = self._logs(topics)
        ranges = [_Range(log.topic, log.partition, max(log.first, log.end - 1000), log.end) for log in logs]
        return self._infer([one for one in ranges if one.start < one.end], None, {}, spool=False)[0].schema

    def _all(self) -> Mapping[str, Topic]:
        client = self._client
        found = client.call(client.cluster.topics(None))
        return {name: topic for name, topic in sorted(found.items()) if not topic.internal}

    def _topics(self) -> Mapping[str, Topic]:
        """The topics of the stream, sorted. Raises SourceError if one is missing."""
        if self._glob is not None:
            found = {n: t for n, t in self._all().items() if fnmatch.fnmatchcase(n, self._glob)}
            if not found:
                todo = "correct source.topic, or grant Describe on the topics"
                raise SourceError(f"read {self._glob}", "no topic matches", todo)
            client = self._client
            return client.call(client.cluster.topics(list(found)))  # waits for leaders
        client = self._client
        there = client.call(client.cluster.topics(self._names))
        if missing := [name for name in self._names if name not in there]:
            todo = "correct source.topic, create the topic, or grant Describe on it"
            raise SourceError(f"read {missing[0]}", "the topic does not exist, or you may not see it", todo)
        return dict(sorted(there.items()))

    def _logs(self, topics: Mapping[str, Topic]) -> list[Log]:
        every = [(name, p) for name, topic in topics.items() for p in sorted(topic.leaders)]
        cluster, call = self._client.cluster, self._client.call
        # In this order: the end is never before the first offset, and what comes meanwhile is not in the window.
        high = call(cluster.offsets(every, LATEST, READ_UNCOMMITTED))
        end = call(cluster.offsets(every, LATEST, READ_COMMITTED)) if self._isolation == READ_COMMITTED else high
        first = call(cluster.offsets(every, EARLIEST, READ_UNCOMMITTED))
        return [Log(t, p, first[t, p], max(first[t, p], min(end[t, p], high[t, p])), high[t, p]) for t, p in every]

    # ---- the window

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """From the position to the ends as they are now, or whatever is there if it is asked for as a whole."""
        topics, client = self._topics(), self._client
        cluster = client.cluster
        policies = client.call(cluster.policies(list(topics)))
        self._ids = {name: topic.id for name, topic in topics.items()}
        self._batch_rows = request.batch_rows
        identity = {"cluster": cluster.id, "topic": self._topic}
        before = {} if request.whole else known(after, identity, self._topic)
        gone = sorted({*_names(after)} - {*topics})
        warnings = [f"topic {name} was read; now it is gone, or you may not see it any more" for name in gone]
        for name, topic in topics.items():
            if name in before:
                require_same_topic(name, before[name], topic.id, policies[name], len(topic.leaders))
        logs = self._logs(topics)
        ranges = self._ranges(logs, before)
        self._require_same_marks(logs, before, policies)
        ranges, cut = self._limited(ranges, request.whole)
        held = [f"{log.topic}, partition {log.partition}" for log in logs if log.end < log.high]
        if held:
            others = f" and {counted(len(held) - 1, 'other partition')}" if held[1:] else ""
            warnings.append(f"an open transaction holds back {held[0]}{others}")
        wanted = [one for one in ranges if one.start < one.end]
        columns, seen_columns, absent = self._shape(wanted, after, request)
        position = self._position(after, identity, before, topics, policies, ranges, seen_columns)
        if after is not None and not request.whole and not wanted:
            position = after
        until = self._options.until is not None
        ends = f"{counted(len(logs), 'partition')} of {counted(len(topics), 'topic')}"
        return Window(
            position=position,
            parts=tuple(self._parts(wanted, policies, request.partitions, columns.schema)),
            repeatable=all(policy and "compact" not in policy for policy in policies.values()),
            schema=columns.schema,
            whole=not (before or cut or gone),
            caught_up=not (cut or held or until),
            proof=f"ends of {ends}, {counted(sum(one.end - one.start for one in wanted), 'offset')} to read",
            warnings=tuple(warnings),
            own_schema=not self._options.value.infer,
            absent=absent,
        )

    def _ranges(self, logs: Sequence[Log], before: Mapping[str, TopicPosition]) -> list[_Range]:
        """What is new of each partition; an end is never before its start."""
        since = self._at(logs, self._options.since_ms)
        until = self._at(logs, self._options.until_ms)
        found = []
        for log in logs:
            place = (log.topic, log.partition)
            at = before[log.topic].next.get(log.partition) if log.topic in before else None
            start = max(log.first, since.get(place, log.first)) if at is None else start_of(log, at)
            end = min(log.end, until.get(place, log.end), self.ends.get(log.partition, log.end))
            found.append(_Range(log.topic, log.partition, start, max(start, end)))
        return found

    def _at(self, logs: Sequence[Log], moment: int | None) -> dict[tuple[str, int], int]:
        """The first offset of each partition at or after a moment; the end where there is none."""
        if moment is None:
            return {}
        ends = {(log.topic, log.partition): log.end for log in logs}
        found = self._client.call(self._client.cluster.offsets(list(ends), moment, self._isolation))
        return {place: offset if offset >= 0 else ends[place] for place, offset in found.items()}

    def _limited(self, ranges: list[_Range], whole: bool) -> tuple[list[_Range], bool]:
        """At most ``max_records`` offsets, shared among the partitions; and whether something was cut off."""
        left, most = sum(one.end - one.start for one in ranges), self._options.max_records
        if most is None or left <= most:
            return ranges, False
        if whole:
            found = f"the topics have {counted(left, 'offset')}, and the strategy replaces the target by all of them"
            raise ConfigError("read options.max_records", found, "remove max_records, or use append")
        cut = []
        for n, one in enumerate(sorted(ranges, key=lambda one: one.end - one.start)):  # short ones leave more
            size = min(one.end - one.start, -(-most // (len(ranges) - n)))
            most -= size
            cut.append(evolve(one, end=one.start + size))
        return sorted(cut, key=lambda one: (one.topic, one.partition)), True

    def _position(
        self,
        after: Position | None,
        identity: Mapping[str, Any],
        before: Mapping[str, TopicPosition],
        topics: Mapping[str, Topic],
        policies: Mapping[str, str],
        ranges: Sequence[_Range],
        columns: Sequence[str],
    ) -> Position:
        marks = self._marks([(one.topic, one.partition, one.end) for one in ranges if one.start < one.end], policies)
        kept = {name: one.to_json() for name, one in before.items() if name not in topics}
        for name, topic in topics.items():
            old = before.get(name, TopicPosition())
            mine = [one for one in ranges if one.topic == name]
            here = {one.partition: marks.get((name, one.partition), old.marks.get(one.partition, "")) for one in mine}
            ends = {one.partition: one.end for one in mine}
            new = TopicPosition(topic.id, policies[name], ends, {p: mark for p, mark in here.items() if mark})
            kept[name] = new.to_json()
        value = {"topics": kept, **({"columns": list(columns)} if columns else {})}
        return Position(KIND, identity, value, after.epoch if after else 0)

    def _require_same_marks(
        self, logs: Sequence[Log], before: Mapping[str, TopicPosition], policies: Mapping[str, str]
    ) -> None:
        there = {(log.topic, log.partition): log for log in logs}
        marked = {(name, p): mark for name, one in before.items() for p, mark in one.marks.items()}
        places = [
            (name, p, before[name].next[p])
            for name, p in marked
            if (name, p) in there and before[name].next[p] > there[name, p].first
        ]
        now = self._marks(places, policies)
        for name, p, at in places:
            require_same_mark(there[name, p], at, marked[name, p], now.get((name, p), ""))

    def _marks(self, places: Sequence[tuple[str, int, int]], policies: Mapping[str, str]) -> dict[tuple[str, int], str]:
        """The fingerprint of the batch before an offset. None of a topic whose batches are rewritten by compaction."""
        cluster = self._client.cluster

        async def one(topic: str, partition: int, at: int) -> tuple[tuple[str, int], str]:
            with suppress(Moved):
                fetched = await cluster.fetch(topic, partition, at - 1, 1024, READ_UNCOMMITTED)
                return (topic, partition), fingerprint(fetched, at - 1)
            return (topic, partition), ""

        wanted = [place for place in places if place[2] > 0 and policies.get(place[0]) == "delete"]
        found = self._client.call(_few_at_once([partial(one, *place) for place in wanted]))
        return {place: mark for place, mark in found if mark}

    def _parts(
        self, ranges: Sequence[_Range], policies: Mapping[str, str], wanted: int, schema: pa.Schema
    ) -> Iterator[Part]:
        """One part per partition. If more are wanted, large ranges are cut according to their share of the offsets."""
        total = sum(one.end - one.start for one in ranges)
        numbered = 0
        for one in ranges:
            size = one.end - one.start
            pieces = max(1, min(size, round(wanted * size / total))) if wanted > len(ranges) else 1
            cuts = [one.start + size * i // pieces for i in range(pieces + 1)]
            for start, end in pairwise(cuts):
                id, same = self._ids[one.topic], policies[one.topic] == "delete"
                detail = {"topic": one.topic, "partition": one.partition, "start": start, "end": end, "id": id}
                content = f"{self._client.cluster.id} {one.topic} {id} {one.partition} {start} {end}" if same else ""
                yield Part(f"{numbered:05d}-{one.partition}-{start}", detail, content)
                numbered += 1

    # ---- columns that only the data tells

    def _shape(
        self, ranges: Sequence[_Range], after: Position | None, request: WindowRequest
    ) -> tuple[Columns, Sequence[str], Mapping[str, str]]:
        """The columns of the window, the names of those that data has had, and which data lacks one of them."""
        if self._columns is not None and not self._options.value.infer:
            return self._columns, (), {}
        names = () if request.whole or after is None else after.value.get("columns", ())
        expected = without_lineage(request.expected) if request.expected is not None else None
        self._columns, absent = self._infer(ranges, expected, dict.fromkeys(names), spool=True)
        inferred = self._columns.inferred
        return self._columns, [*dict.fromkeys([*names, *(inferred.names if inferred else ())])], absent

    def _infer(
        self, ranges: Sequence[_Range], expected: pa.Schema | None, names: Mapping[str, None], *, spool: bool
    ) -> tuple[Columns, Mapping[str, str]]:
        """Reads the ranges once, into the spool, and looks at every value."""
        self._drop_spool()
        kept = self._spool = Spool() if spool else None
        looks: dict[str, SeenValues] = {}
        lacking: dict[str, str] = {}
        for one in ranges:
            here: dict[str, SeenValues] = {}
            for got in self._fetched(one, spool):
                if kept is not None and got.fetched is not None:
                    kept.add(one.topic, one.partition, got.start, got.fetched)
                here = united([here, seen(got.records.values)])
            for name in [*(n for n in looks if n not in here), *(n for n in here if looks and n not in looks)]:
                lacking.setdefault(name, f"records of {one.what}")
            looks = united([looks, here])
        if kept is not None:
            kept.flush()
        if twice := ambiguous([*looks]):
            found = f"members of the records differ only by case: {twice[0]!r}"
            raise DataError(f"read {self._topic}", found, "declare the columns, as in value: {columns: {id: bigint}}")
        return self._settled(looks, expected, names, lacking, ranges)

    def _settled(
        self,
        looks: Mapping[str, SeenValues],
        expected: pa.Schema | None,
        names: Mapping[str, None],
        lacking: Mapping[str, str],
        ranges: Sequence[_Range],
    ) -> tuple[Columns, Mapping[str, str]]:
        found = settled(looks, {}, expected)
        here = {name.casefold() for name in found.names}
        gone = [f for f in expected or () if f.name in names and f.name.casefold() not in here and not has_default(f)]
        if not len(found) and not gone:
            if expected is not None and len(expected) and not ranges:
                own = {f"kafka_{name}" for name in self._options.extra}
                gone = [f for f in expected if f.name not in own]
            else:
                todo = "declare the columns, as in value: {columns: {id: bigint}}"
                raise SourceError(
                    f"read {self._topic}", "it has no JSON object with a member, so its columns are unknown", todo
                )
        inferred = pa.schema([*found, *(pa.field(f.name, f.type) for f in gone)])
        where = "records of " + ", ".join(dict.fromkeys(one.topic for one in ranges))
        absent = dict(lacking)
        absent |= {f.name: where for f in gone if ranges}
        return Columns(self._options, inferred), absent

    # ---- the read

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        if self._columns is None:
            raise SourceError("read a part", "no window was planned", "plan a window first")
        yield _TopicStream(self, _range_of(part), part.detail["id"], self._columns)

    def records(self, part: Part) -> Iterator[Records]:
        """The records of a part as they are."""
        one = _range_of(part)
        yield from self._records(one)
        self._require_same(one.topic, part.detail["id"])

    @property
    def cluster(self) -> str:
        """Its id; connects."""
        return self._client.cluster.id

    def size(self) -> int:
        """Number of offsets that the topics have now."""
        return sum(log.end - log.first for log in self._logs(self._topics()))

    def _fetched(self, one: _Range, keep: bool = False) -> Iterator[_Fetch]:
        """The records of a range, fetch by fetch; while one is used, the next is fetched and taken apart."""
        ahead: concurrent.futures.Future[_Fetch] | None = None
        at = one.start
        try:
            while at < one.end:
                ahead = ahead or self._client.start(self._fetch(one, at, keep))
                try:
                    got = self._client.wait(ahead)
                except Moved:
                    raise self._moved(one, at) from None
                ahead = None
                if got.records.next <= at:
                    todo = "run again; if it stays, check the log of the broker"
                    raise SourceError(f"read {one.what}", f"the broker gave no whole batch at offset {at}", todo)
                at = got.records.next
                if at < one.end:
                    ahead = self._client.start(self._fetch(one, at, keep))
                yield got
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _fetch(self, one: _Range, at: int, keep: bool) -> _Fetch:
        size = self._options.fetch_bytes
        fetched = await self._client.cluster.fetch(one.topic, one.partition, at, size, self._isolation)
        records = self._reader(one).read(fetched, at)
        return _Fetch(at, fetched if keep else None, records)

    def _records(self, one: _Range) -> Iterator[Records]:
        if self._spool is None:
            yield from (got.records for got in self._fetched(one))
            return
        for start, fetched in self._spool.read(one.topic, one.partition, one.start, one.end):
            yield self._reader(one).read(fetched, max(start, one.start))

    def _reader(self, one: _Range) -> BatchReader:
        return BatchReader(one.what, one.end, self._isolation == READ_COMMITTED)

    def _moved(self, one: _Range, at: int) -> DponeError:
        self._require_same(one.topic, self._ids.get(one.topic, ""))
        found = f"offset {at:,} was removed by retention while the window was read"
        return Gap(f"read {one.what}", found, "raise the topic's retention; nothing was loaded")

    def _require_same(self, topic: str, id: str) -> None:
        """The topic is still the one that the window was planned for. Fetches go by its name."""
        client = self._client
        found = client.call(client.cluster.topics([topic]))
        if topic not in found or (id and found[topic].id != id):
            found_text = "the topic was deleted, or deleted and created again, while it was read"
            raise IdentityChanged(f"read {topic}", found_text, "restore it, or start over with --full-refresh")

    def ack(self, position: Position) -> None:
        """Kafka keeps records whether they are read or not. Offsets are not committed to a consumer group."""

    def close(self) -> None:
        self._drop_spool()
        if self._open is not None:
            self._open.close()
            self._open = None

    def _drop_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None


class _TopicStream(BatchStream):
    """The rows of one part. See ``dpone.contract.Stream``."""

    def __init__(self, source: KafkaSource, one: _Range, id: str, columns: Columns) -> None:
        self.schema = columns.schema
        self._source, self._range, self._id, self._columns = source, one, id, columns
        self._skipped = 0
        place = (source._client.cluster.id, one.topic, one.partition)
        self._letters = DeadLetters(source._spec.base, source._options.poison, place)

    @property
    def filtered(self) -> int:
        return self._skipped

    @property
    def quarantined(self) -> int:
        return self._letters.count

    def batches(self) -> Iterator[pa.RecordBatch]:
        most = self._source._batch_rows
        for records in self._source._records(self._range):
            if not len(records):
                continue
            batch, skipped = self._columns.batch(records, self._letters.place, self._letters)
            self._skipped += skipped
            for start in range(0, batch.num_rows, most or max(batch.num_rows, 1)):
                yield batch.slice(start, most)
        self._source._require_same(self._range.topic, self._id)


def _range_of(part: Part) -> _Range:
    return _Range(*(part.detail[name] for name in ("topic", "partition", "start", "end")))


def _names(after: Position | None) -> Sequence[str]:
    """The topics of a position."""
    return list(after.value["topics"]) if after is not None and after.kind == KIND else []


async def _few_at_once(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Callable[[], Awaitable[Any]]) -> Any:
        async with turns:
            return await call()

    return list(await asyncio.gather(*map(one, calls)))
