"""The Harness of the sink: records of a topic through a consumer of aiokafka, and nothing of the connector.

The address of the brokers comes from DPONE_TEST_KAFKA. The kit certifies ``delivery: transactional``: only that mode
has ``exactly_once``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from attrs import evolve

from dpone.capability import Role
from dpone.certify.evidence import Durability
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import LOAD_ID, LOADED_AT
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing.harness import TABLE, server, unused
from dpone.testing.loads import simple
from dpone.testing.log import LogHarness
from dpone.testing.unreachable import silent

_HEADERS = {"dpone.load_id": LOAD_ID, "dpone.loaded_at": LOADED_AT}


class KafkaSinkHarness(LogHarness):
    connector = "kafka"
    product = "Apache Kafka"
    version = os.environ.get("DPONE_TEST_KAFKA_VERSION", "unknown")
    live = True
    delivery = "transactional"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = server("DPONE_TEST_KAFKA", "the bootstrap servers of a cluster, such as 127.0.0.1:9092")
        self.prefix = f"{unused()}."
        self.journal = f"{self.prefix}loads"

    def durability(self) -> Durability:
        return Durability(True, {"acks": "all"})

    def close(self) -> None:
        asyncio.run(self._remove())

    async def _remove(self) -> None:
        async with _admin(self.url) as admin:
            mine = [name for name in await admin.list_topics() if name.startswith(self.prefix)]
            if mine:
                await admin.delete_topics(mine)

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        return super().sink(strategy, table, **{"delivery": self.delivery, "journal": self.journal, **options})

    def records(self, topic: str) -> Iterable[Any] | None:
        return asyncio.run(_records(self.url, topic))

    def columns(self, topic: str) -> Mapping[str, pa.DataType]:
        """Of the entries of the journal, and of the headers of the records."""
        found: dict[str, pa.DataType] = {}
        for record in asyncio.run(_records(self.url, self.journal)) or ():
            entry = json.loads(record.value)
            if entry["topic"] == topic:
                found |= {
                    name: pa.binary() if "binary" in text else pa.string() for name, text in entry["columns"].items()
                }
        for record in self.records(topic) or ():
            found |= {_HEADERS[name]: pa.string() for name, _ in record.headers if name in _HEADERS}
        return found

    def decode(self, record: Any, columns: Mapping[str, pa.DataType]) -> Mapping[str, Any]:
        row = dict(super().decode(record.value, columns))
        for name, value in record.headers:
            if name == "dpone.load_id":
                row[LOAD_ID] = value.decode()
            if name == "dpone.loaded_at":
                row[LOADED_AT] = datetime.fromisoformat(value.decode())
        return row

    def append(self, topic: str, records: Sequence[Any]) -> None:
        asyncio.run(_append(self.url, topic, records))

    def delete(self, topic: str) -> None:
        async def delete() -> None:
            async with _admin(self.url) as admin:
                await admin.delete_topics([topic])

        asyncio.run(delete())

    def empty(self, table: str = TABLE) -> bool:
        """As an operator would: the topic is deleted and made again. Retention is the topic's own affair."""
        self.delete(self.topic(table))
        asyncio.run(_append(self.url, self.topic(table), ()))
        return True

    def damage(self, role: Role, text: str, table: str = TABLE) -> None:
        keys = {record.key for record in asyncio.run(_records(self.url, self.journal)) or ()}
        asyncio.run(_append(self.url, self.journal, [text.encode()] * len(keys), sorted(keys)))

    @contextmanager
    def stuck(self, role: Role, seconds: float) -> Iterator[Any]:
        """A server that takes the connection and is silent."""
        with silent() as port:
            spec = self.sink(simple(self))
            options = evolve(spec.options, timeout=min(seconds, 3600.0))
            yield evolve(spec, connection=Secret(f"127.0.0.1:{port}"), options=options)


class _admin:
    def __init__(self, url: Any) -> None:
        self._admin_of = url

    async def __aenter__(self) -> AIOKafkaAdminClient:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=self._admin_of)
        await self._admin.start()
        return self._admin

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()


async def _records(url: Any, topic: str) -> list[Any] | None:
    """All committed records, up to the end of each partition."""
    async with _admin(url) as admin:
        if topic not in await admin.list_topics():
            return None
    consumer = AIOKafkaConsumer(
        bootstrap_servers=url, isolation_level="read_committed", auto_offset_reset="earliest", group_id=None,
        enable_auto_commit=False, fetch_max_wait_ms=50,
    )  # fmt: skip
    await consumer.start()
    try:
        found: list[Any] = []
        numbers = None
        while not numbers:
            consumer._client.add_topic(topic)
            await consumer._client.force_metadata_update()
            numbers = consumer.partitions_for_topic(topic)
        places = [TopicPartition(topic, number) for number in sorted(numbers)]
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        while [place for place in places if await consumer.position(place) < ends[place]]:
            for records in (await consumer.getmany(timeout_ms=50)).values():
                found += records
        return found
    finally:
        await consumer.stop()


async def _append(url: Any, topic: str, records: Sequence[Any], keys: Sequence[bytes] = ()) -> None:
    async with _admin(url) as admin:
        for _ in range(100):  # a topic that was deleted may be there for a moment
            answer = await admin.create_topics([NewTopic(topic, 1, 1)])
            if answer.topic_errors[0][1] == 0 or records:
                break
            await asyncio.sleep(0.05)
    producer = AIOKafkaProducer(bootstrap_servers=url, acks="all")
    await producer.start()
    try:
        for record, key in zip_longest(records, keys):
            await producer.send_and_wait(topic, record, key)
    finally:
        await producer.stop()
