"""The sink's clients of Kafka, and how its synchronous methods wait for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.metadata import MetadataRequest
from attrs import frozen

from dpone.host import stopping
from dpone_kafka.refusals import refused, silent, stopped
from dpone_kafka.settings import Settings

T = TypeVar("T")
_LAST = 3.0  # seconds for closing what does not answer


@frozen
class Topic:
    """What the brokers say of a topic: the partitions that have a leader, of how many."""

    name: str
    partitions: int
    ready: bool


class Session:
    """One event loop in one thread, which is started by the first call. ``timeout``: seconds that a broker may be
    silent, and the limit of every call that has no other one."""

    def __init__(self, settings: Settings, timeout: float) -> None:
        self.settings, self.timeout = settings, timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, work: Coroutine[Any, Any, T], what: str, limit: float | None = None) -> T:
        """The result of a coroutine, which is cancelled after the limit and after a signal. Raises SinkError."""
        return self.wait(self.start(_within(work, self.timeout if limit is None else limit)), what, limit)

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Let a coroutine run while the caller works; it limits its own waits."""
        return asyncio.run_coroutine_threadsafe(work, self._started())

    def wait(self, future: concurrent.futures.Future[T], what: str, limit: float | None = None) -> T:
        try:
            return self._wait(future)
        except _Stopped:
            raise stopped(what) from None
        except TimeoutError as error:
            raise silent(what, self.settings.where, self.timeout if limit is None else limit) from error
        except (KafkaError, OSError) as error:
            raise refused(what, self.settings.where, error) from error

    def last(self, work: Coroutine[Any, Any, Any], seconds: float) -> None:
        """For what ends something, after a signal too: it has a moment, and an error of its own would hide another."""
        with suppress(Exception):
            self.start(_within(work, seconds)).result(seconds + 0.5)

    def _wait(self, future: concurrent.futures.Future[T]) -> T:
        while left := stopping.left():
            try:
                return future.result(left)
            except TimeoutError:
                if future.done():
                    raise
            except BaseException:
                future.cancel()
                raise
        future.cancel()
        raise _Stopped

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            try:
                for one in socket.socketpair():
                    one.close()  # a loop that cannot have its own sockets warns when it is collected
                self._loop = asyncio.new_event_loop()
            except OSError as error:
                raise refused("start the client", self.settings.where, error) from error
            self._thread = threading.Thread(target=self._loop.run_forever, name="dpone-kafka-sink", daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        """Within seconds, whatever the brokers do."""
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(_ended(), loop).result(_LAST)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_LAST)
        if not thread.is_alive():
            loop.close()

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
    async def client(self) -> AsyncIterator[AIOKafkaClient]:
        client = AIOKafkaClient(**self._common())
        try:
            await client.bootstrap()
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self._common())
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    @asynccontextmanager
    async def consumer(self, isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
        """Belongs to no group, and commits nothing."""
        consumer = AIOKafkaConsumer(
            **self._common(), group_id=None, isolation_level=isolation, auto_offset_reset="earliest",
            enable_auto_commit=False, fetch_max_wait_ms=100,
        )  # fmt: skip
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()

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
        """None if there is no such topic. A broker that creates topics by itself is told not to."""
        async with self.client() as client:
            return await self._topic(client, name)

    async def _topic(self, client: AIOKafkaClient, name: str) -> Topic | None:
        answer = await client.send(client.get_random_node(), MetadataRequest([name], False))
        [found] = answer.to_object()["topics"]
        error = for_code(found["error_code"])
        if error.__name__ == "UnknownTopicOrPartitionError":
            return None
        if error.errno and error.__name__ != "LeaderNotAvailableError":
            raise error(name)
        partitions = found["partitions"]
        ready = bool(partitions) and not error.errno and all(one["leader"] >= 0 for one in partitions)
        return Topic(name, len(partitions), ready)

    async def create(self, name: str, partitions: int, replication: int, config: Mapping[str, str]) -> None:
        """Until all partitions have a leader. Somebody else may create it at the same time. ``replication`` 0: three
        copies, or as many as there are brokers; aiokafka speaks no version that leaves it to the brokers (KIP-464)."""
        async with self.admin() as admin:
            copies = replication or min(3, len((await admin.describe_cluster())["brokers"]))
            answer = await admin.create_topics([NewTopic(name, partitions, copies, topic_configs=dict(config))])
        for _, code, *why in answer.topic_errors:
            error = for_code(code)
            if error.errno and error.__name__ != "TopicAlreadyExistsError":
                raise error(next(filter(None, why), ""))
        async with self.client() as client:
            while (found := await self._topic(client, name)) is None or not found.ready:
                await asyncio.sleep(0.05)

    async def config(self, name: str) -> Mapping[str, str]:
        """Of a topic; empty if the user may not see it."""
        async with self.admin() as admin:
            [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        [(code, _, _, _, entries)] = answer.resources
        return {} if code else {entry[0]: entry[1] for entry in entries}

    async def ends(self, name: str, partitions: int) -> Mapping[int, int]:
        async with self.consumer("read_uncommitted") as consumer:
            found = await consumer.end_offsets([TopicPartition(name, n) for n in range(partitions)])
        return {partition.partition: offset for partition, offset in found.items()}


class _Stopped(Exception):
    """A signal has asked the process to end."""


async def _within(work: Coroutine[Any, Any, T], limit: float) -> T:
    async with asyncio.timeout(None if limit == float("inf") else limit):
        return await work


async def ended(producer: AIOKafkaProducer) -> None:
    """Close a producer without waiting for what it has not sent: its batches fail."""
    sender = producer._sender
    if sender is not None and sender.sender_task is not None and not sender.sender_task.done():
        producer._message_accumulator.fail_all(KafkaError("closed"))
    with suppress(Exception):
        async with asyncio.timeout(_LAST):
            await producer.stop()


async def _ended() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # transports report that they are closed
