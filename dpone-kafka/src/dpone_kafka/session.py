"""The sink's clients of Kafka, and how its synchronous methods wait for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from dpone.errors import SinkError, SourceError
from dpone_kafka.cluster import EARLIEST, LATEST, READ_UNCOMMITTED, Cluster, Topic
from dpone_kafka.connect import Client
from dpone_kafka.refusals import refused, silent, transient
from dpone_kafka.settings import Settings

T = TypeVar("T")
_LAST = 3.0  # seconds for closing what does not answer


class Session:
    """The client of a sink, which is started by the first call. ``timeout``: seconds that a broker may be
    silent, and the limit of every call that has no other one."""

    def __init__(self, settings: Settings, timeout: float) -> None:
        self.settings, self.timeout = settings, timeout
        self._client: Client | None = None

    def _started(self) -> Client:
        if self._client is None:
            with _of_a_sink():
                self._client = Client(self.settings, self.timeout)
        return self._client

    @property
    def cluster(self) -> Cluster:
        """For coroutines."""
        return self._started().cluster

    def call(self, work: Coroutine[Any, Any, T], what: str, limit: float | None = None) -> T:
        """The result of a coroutine, which is cancelled after the limit and after a signal. Raises SinkError."""
        limit = self.timeout if limit is None else limit
        return self.wait(self.start(work, limit), what, limit)

    def start(self, work: Coroutine[Any, Any, T], limit: float = math.inf) -> concurrent.futures.Future[T]:
        """Let a coroutine run while the caller works; without a limit it limits its own waits."""
        try:
            return self._started().start(_within(work, limit))
        except BaseException:
            work.close()
            raise

    def wait(self, future: concurrent.futures.Future[T], what: str, limit: float | None = None) -> T:
        try:
            with _of_a_sink():
                return self._started().wait(future)
        except concurrent.futures.CancelledError as error:
            raise transient(what, "the client gave up", "run again") from error
        except TimeoutError as error:
            raise silent(what, self.settings.where, self.timeout if limit is None else limit) from error
        except (KafkaError, OSError) as error:
            raise refused(what, self.settings.where, error) from error

    def last(self, work: Coroutine[Any, Any, Any], seconds: float) -> None:
        """For what ends something, after a signal too: it has a moment, and an error of its own would hide another."""
        with suppress(Exception):
            self.start(work, seconds).result(seconds + 0.5)

    def close(self) -> None:
        """Within seconds, whatever the brokers do."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # ---- clients, for coroutines

    def _common(self) -> dict[str, Any]:
        given, milliseconds = self.settings, max(1, int(self.timeout * 1000))
        return {
            "bootstrap_servers": [f"{host}:{port}" for host, port in given.servers],
            "security_protocol": given.protocol,
            "ssl_context": given.context(),
            "sasl_mechanism": given.mechanism,
            "sasl_plain_username": given.user or None,
            "sasl_plain_password": given.password or None,
            "request_timeout_ms": milliseconds,
            "client_id": "dpone",
        }

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._common())
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    async def producer(self, **options: Any) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(**self._common(), **options)
        try:
            await producer.start()
        except BaseException:
            await ended(producer)
            raise
        return producer

    # ---- topics

    async def topic(self, name: str) -> Topic | None:
        """None if there is no such topic; asking creates none."""
        return (await self.cluster.topics([name])).get(name)

    async def create(self, name: str, partitions: int, replication: int, config: Mapping[str, str]) -> None:
        """Until all partitions have a leader. Somebody else may create it at the same time. ``replication`` 0: three
        copies, or as many as there are brokers; aiokafka speaks no version that leaves it to the brokers (KIP-464)."""
        async with self.admin() as admin:
            copies = replication or min(3, len((await admin.describe_cluster())["brokers"]))
            answer = await admin.create_topics([NewTopic(name, partitions, copies, topic_configs=dict(config))])
        for _, code, *why in answer.topic_errors:
            error = for_code(code)
            if error.errno and error is not TopicAlreadyExistsError:
                raise error(next(filter(None, why), ""))
        while (found := await self.topic(name)) is None or len(found.leaders) < partitions:
            await asyncio.sleep(0.05)

    async def config(self, name: str) -> Mapping[str, str]:
        """Of a topic; empty if the user may not see it."""
        async with self.admin() as admin:
            [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        [(code, _, _, _, entries)] = answer.resources
        return {} if code else {entry[0]: entry[1] for entry in entries}

    async def bounds(self, topic: Topic) -> Mapping[int, tuple[int, int]]:
        """Of each partition: the first offset, and the one after the last record, committed or not."""
        places = [(topic.name, partition) for partition in topic.leaders]
        first = await self.cluster.offsets(places, EARLIEST, READ_UNCOMMITTED)
        ends = await self.cluster.offsets(places, LATEST, READ_UNCOMMITTED)
        return {place[1]: (first[place], ends[place]) for place in places}


@contextmanager
def _of_a_sink() -> Iterator[None]:
    """The errors of what source and sink share, as those of a sink."""
    try:
        yield
    except SourceError as error:
        raised = SinkError(error.failed, error.found, error.todo)
        raised.category = error.category
        raise raised from error


async def _within(work: Coroutine[Any, Any, T], limit: float) -> T:
    async with asyncio.timeout(None if limit == math.inf else limit):
        return await work


async def ended(producer: AIOKafkaProducer) -> None:
    """Close a producer without waiting for what it has not sent: its batches fail."""
    sender = producer._sender
    if sender is not None and sender.sender_task is not None and not sender.sender_task.done():
        producer._message_accumulator.fail_all(KafkaError("closed"))
    with suppress(Exception):
        async with asyncio.timeout(_LAST):
            await producer.stop()
