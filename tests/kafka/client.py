"""What another program does to a broker: aiokafka's own clients, one event loop for each call."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient


def brokers(servers: str) -> list[int]:
    """The nodes that the cluster shows."""

    async def asked() -> list[int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=2000)
        await admin.start()
        try:
            return [one["node_id"] for one in (await admin.describe_cluster())["brokers"]]
        finally:
            await admin.close()

    return asyncio.run(asked())


def transaction(servers: str, topic: str, values: Sequence[bytes], commit: bool = True, partition: int = 0) -> None:
    """One whole transaction, committed or aborted."""
    with open_transaction(servers, topic, values, partition) as end:
        end(commit)


def transactions(servers: str, topic: str, *several: tuple[Sequence[bytes], bool]) -> None:
    """Of one producer, one after another: values, and whether they are committed."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=servers, transactional_id=uuid.uuid4().hex) as producer:
            for values, commit in several:
                await producer.begin_transaction()
                for value in values:
                    await producer.send_and_wait(topic, value, partition=0)
                await (producer.commit_transaction() if commit else producer.abort_transaction())

    asyncio.run(send())


@contextmanager
def open_transaction(servers: str, topic: str, values: Sequence[bytes], partition: int = 0) -> Iterator[Any]:
    """Yields what ends the transaction: it is open, and its records are written, until that is called. Each has a
    producer of its own: the everyday broker names aborted transactions also after their end, which hides later ones of
    the same producer."""
    loop = asyncio.new_event_loop()

    async def begin() -> AIOKafkaProducer:
        producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=uuid.uuid4().hex)
        await producer.start()
        await producer.begin_transaction()
        for value in values:
            await producer.send_and_wait(topic, value, partition=partition)
        return producer

    producer = loop.run_until_complete(begin())

    def end(commit: bool) -> None:
        loop.run_until_complete(producer.commit_transaction() if commit else producer.abort_transaction())

    try:
        yield end
    finally:
        loop.run_until_complete(producer.stop())
        loop.close()
