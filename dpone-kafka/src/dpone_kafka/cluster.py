"""What a source asks of the brokers, as coroutines. Every request is repeated, at the new leader if there is one, until
it is answered or nothing has been heard for ``silence`` seconds: a slow broker or a fail-over delays a read, and never
makes it skip an offset."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import errors as kafka
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from attrs import frozen

from dpone.errors import Category, DponeError, SourceError
from dpone_kafka.errors import FINAL, answered, failed, unreachable
from dpone_kafka.metadata import NO_ID, TopicsRequest
from dpone_kafka.settings import Settings

T = TypeVar("T")
Place = tuple[str, int]  # topic and partition
EARLIEST, LATEST = -2, -1
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
_TOPIC = 2  # ConfigResource type
_DESCRIBE_CONFIGS, _READ = 10, 3  # bits of AclOperation


@frozen
class Topic:
    """id          empty if the broker has none (before Apache Kafka 2.8)
    leaders     partition -> node
    operations  bits of what the user may do; None: not shown
    """

    name: str
    id: str
    leaders: Mapping[int, int]
    operations: int | None = None
    internal: bool = False

    def may(self, operation: int) -> bool | None:
        return None if self.operations is None else bool(self.operations >> operation & 1)

    @property
    def may_read(self) -> bool | None:
        return self.may(_READ)

    @property
    def may_see_settings(self) -> bool | None:
        return self.may(_DESCRIBE_CONFIGS)


@frozen
class Fetched:
    """data     whole record batches, the first of which has the offset that was asked for, or the next one there is
    aborted  producer and first offset of the aborted transactions among them
    """

    data: bytes
    aborted: Sequence[tuple[int, int]]


class Moved(Exception):
    """The partition begins after the offset that was asked for, or ends before it."""


class Cluster:
    """The connections to the brokers of one cluster, one for each. Used by coroutines of one loop alone."""

    def __init__(self, given: Settings, context: ssl.SSLContext | None, silence: float) -> None:
        self._given, self._context, self.silence = given, context, silence
        self._patience = min(0.8 * silence, 30.0)  # for one answer; then the connection is made again
        self._connections: dict[int, AIOKafkaConnection] = {}
        self._opening: defaultdict[int | None, asyncio.Lock] = defaultdict(asyncio.Lock)  # one broker delays no other
        self._brokers: dict[int, tuple[str, int]] = {}
        self._leaders: dict[tuple[str, int], int] = {}
        self.id = ""

    # ---- connections

    async def _open(self, host: str, port: int, seconds: float) -> AIOKafkaConnection:
        given = self._given
        sasl = given.protocol.startswith("SASL")
        try:
            async with asyncio.timeout(seconds):
                return await create_conn(
                    host,
                    port,
                    client_id="dpone",
                    request_timeout_ms=int(self._patience * 1000),
                    ssl_context=self._context,
                    security_protocol=given.protocol,
                    sasl_mechanism=given.mechanism if sasl else None,
                    sasl_plain_username=given.user or None,
                    sasl_plain_password=given.password or None,
                )
        except (OSError, ssl.SSLError, kafka.KafkaError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise await unreachable(error, host, port, given.protocol, given.mechanism) from error

    async def _any(self) -> AIOKafkaConnection:
        """A connection to a broker that is known, or to the first bootstrap server that answers."""
        for connection in self._connections.values():
            if connection.connected():
                return connection
        places = {place: node for node, place in self._brokers.items()}
        wrong: list[DponeError] = []
        every = dict.fromkeys([*self._given.servers, *places])
        for host, port in every:
            try:
                connection = await self._open(host, port, max(self._patience / len(every), min(self._patience, 5.0)))
            except DponeError as error:
                wrong.append(error)
                continue
            self._connections[places.get((host, port), -1)] = connection
            return connection
        # One that refused the user says more than another that is down.
        raise next((error for error in wrong if error.category is not Category.TRANSIENT), wrong[0])

    async def _node(self, node: int) -> AIOKafkaConnection:
        async with self._opening[node]:
            connection = self._connections.get(node)
            if connection is None or not connection.connected():
                if node not in self._brokers:
                    raise kafka.StaleMetadata(node)
                connection = self._connections[node] = await self._open(*self._brokers[node], self._patience)
            return connection

    async def _send(self, request: Any, node: int | None = None) -> Any:
        if node is None:
            async with self._opening[None]:
                connection = await self._any()
        else:
            connection = await self._node(node)
        try:
            return await connection.send(request)
        except (kafka.KafkaError, OSError, TimeoutError):
            connection.close()
            raise

    async def close(self) -> None:
        closing = [closed for one in self._connections.values() if (closed := one.close()) is not None]
        self._connections.clear()
        await asyncio.gather(*closing, return_exceptions=True)

    # ---- repeated requests

    async def _until_heard(self, what: str, topic: str, ask: Callable[[], Awaitable[T | None]]) -> T:
        """``ask`` gives None for what may be answered later. A first connection that fails is not repeated here: the
        run is tried again."""
        pause, until, last = 0.05, time.monotonic() + self.silence, None
        while True:
            error: Exception | None = None
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0.01)):
                    if (found := await ask()) is not None:
                        return found
            except FINAL as found_error:
                raise answered(found_error, what, topic, self._given.user) from found_error
            except DponeError as found_error:
                if not self._brokers or found_error.category is not Category.TRANSIENT:
                    raise
                error = found_error
            except (kafka.KafkaError, OSError, TimeoutError) as found_error:
                error = found_error
            last = error or last
            if time.monotonic() + pause >= until:
                said = f" (last: {_said(last)})" if last is not None else ""
                found_text = f"nothing came for {f'{self.silence:g} s'}{said}"
                todo = "check that the partition has a leader, or raise options.silence_timeout"
                raise failed(what, found_text, todo, Category.TRANSIENT) from last
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
            if error is not None:
                self._leaders.clear()

    # ---- questions

    async def topics(self, names: Sequence[str] | None) -> Mapping[str, Topic]:
        """Those of ``names`` that exist, or all. Takes notes of brokers and leaders."""
        return await self._until_heard("ask for topics", ", ".join(names or ["*"]), lambda: self._topics(names))

    async def _topics(self, names: Sequence[str] | None) -> Mapping[str, Topic] | None:
        answer = await self._send(TopicsRequest(None if names is None else list(names)))
        self._brokers = {node: (host, port) for node, host, port, *_ in answer.brokers}
        self.id = getattr(answer, "cluster_id", None) or ""
        found, later = {}, False
        for one in answer.topics:
            topic, error = _topic(one), kafka.for_code(one[0])
            if error is kafka.NoError:
                found[topic.name] = topic
                known = {(topic.name, p): leader for p, leader in topic.leaders.items() if leader >= 0}
                self._leaders |= known
                later = later or len(known) < len(topic.leaders)  # between two leaders
            elif names is not None and issubclass(error, FINAL):
                raise answered(error(), f"read topic {topic.name}", topic.name, self._given.user)
            elif error is not kafka.UnknownTopicOrPartitionError:
                later = True
        return None if later and names is not None else found

    async def _leader(self, topic: str, partition: int) -> int:
        if (topic, partition) not in self._leaders:
            await self._topics([topic])
        try:
            return self._leaders[topic, partition]
        except KeyError:
            raise kafka.UnknownTopicOrPartitionError(topic, partition) from None

    async def offsets(
        self, partitions: Sequence[tuple[str, int]], at: int, isolation: int
    ) -> dict[tuple[str, int], int]:
        """EARLIEST, LATEST or milliseconds: the first offset, the one after the last, or the first at that time (-1:
        there is none)."""
        found: dict[Place, int] = {}

        async def ask() -> bool | None:
            by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
            for topic, partition in partitions:
                if (topic, partition) not in found:
                    mine = by_node.setdefault(await self._leader(topic, partition), {})
                    mine.setdefault(topic, []).append((partition, at))
            for node, topics in by_node.items():
                answer = await self._send(OffsetRequest(-1, isolation, list(topics.items())), node)
                for topic, ones in answer.topics:
                    for partition, code, _, offset in ones:
                        _require(code)
                        found[topic, partition] = offset
            return True if len(found) == len({*partitions}) else None

        await self._until_heard("ask for offsets", _names(partitions), ask)
        return found

    async def fetch(self, topic: str, partition: int, offset: int, size: int, isolation: int) -> Fetched:
        """The batches from ``offset`` on; the caller knows that there are some. Raises Moved if there are no more."""

        async def ask() -> Fetched | None:
            node = await self._leader(topic, partition)
            wanted = [(topic, [(partition, offset, size)])]
            answer = await self._send(FetchRequest(500, 1, max(size, 1 << 20), isolation, wanted), node)
            [(_, [one])] = answer.topics
            if kafka.for_code(one[1]) is kafka.OffsetOutOfRangeError:
                raise Moved
            _require(one[1])
            aborted = next((item for item in one[4:-1] if isinstance(item, list)), None)
            return Fetched(one[-1], tuple(aborted or ())) if one[-1] else None

        return await self._until_heard(f"read {topic}, partition {partition}, offset {offset}", topic, ask)

    async def policies(self, names: Sequence[str]) -> Mapping[str, str]:
        """``cleanup.policy`` of each topic; empty if the user may not see it."""

        async def ask() -> dict[str, str] | None:
            request = DescribeConfigsRequest(resources=[(_TOPIC, name, ["cleanup.policy"]) for name in names])
            answer = await self._send(request)
            found = dict.fromkeys(names, "")
            for code, _, _, name, entries in answer.resources:
                error = kafka.for_code(code)
                if error is kafka.TopicAuthorizationFailedError:
                    continue
                _require(code)
                for entry in entries:
                    if entry[0] == "cleanup.policy":
                        found[name] = ",".join(sorted(str(entry[1]).split(",")))
            return found

        return await self._until_heard("ask for settings of topics", ", ".join(names), ask)


def _require(code: int) -> None:
    error = kafka.for_code(code)
    if error is not kafka.NoError:
        raise error()


def _topic(one: Sequence[Any]) -> Topic:
    if isinstance(one[2], bytes):  # version 10
        _, name, id, internal, partitions, operations, _ = one
        shown = base64.urlsafe_b64encode(id).rstrip(b"=").decode() if id != NO_ID else ""
        known = None if operations == -(1 << 31) else operations
        return Topic(name, shown, {p[1]: p[2] for p in partitions}, known, internal)
    _, name, internal, partitions = one
    return Topic(name, "", {p[1]: p[2] for p in partitions}, None, internal)


def _names(partitions: Sequence[tuple[str, int]]) -> str:
    return ", ".join(dict.fromkeys(topic for topic, _ in partitions))


def _said(error: Exception) -> str:
    return error.found if isinstance(error, SourceError) else type(error).__name__
