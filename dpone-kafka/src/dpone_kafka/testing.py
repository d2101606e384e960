"""KafkaHarness: how the conformance kit reaches a broker, by aiokafka's own producer and consumer."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, for_code
from attrs import evolve

from dpone.capability import Role
from dpone.certify.evidence import Durability
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import LOAD_ID, LOADED_AT
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing.harness import TABLE, CannotHold, server, unused
from dpone.testing.loads import simple
from dpone.testing.log import LogHarness
from dpone.testing.rows import declared, tabled
from dpone.testing.unreachable import silent

PARTITIONS = 2
SMALL = "noida-db"  # the broker of the extra ``testing``; it loses what it has confirmed when it is killed
PATIENCE = 30.0  # seconds in which it starts or stops

_small: set[str] = set()  # the addresses of those that this process has started


class KafkaHarness(LogHarness):
    """Topics of a random prefix on the broker that DPONE_TEST_KAFKA names: ``host:port``, without TLS and SASL."""

    connector = "kafka"
    variable = "DPONE_TEST_KAFKA"
    cannot_hold = (
        CannotHold(pa.float64(), math.inf, "a record is JSON, which has no infinities", every=math.isinf),
        CannotHold(pa.float64(), math.nan, "a record is JSON, which has no NaN", every=math.isnan),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = server(self.variable, "the address of a broker, as in localhost:9092")
        self.prefix = f"{unused()}."
        self.live = self.url not in _small
        self.product, self.version = self.call(_product) if self.live else (SMALL, version(SMALL))

    @classmethod
    def stand_in(cls, folder: Path) -> AbstractContextManager[str] | None:
        """A small broker: what it shows is simulated."""
        return _running(folder) if find_spec("noida_db") else None

    def call(self, use: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
        async def called() -> Any:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.url)
            await admin.start()
            try:
                return await use(admin)
            finally:
                await admin.close()

        return asyncio.run(called())

    def close(self) -> None:
        async def drop(admin: AIOKafkaAdminClient) -> None:
            if names := [name for name in await admin.list_topics() if name.startswith(self.prefix)]:
                await admin.delete_topics(names)

        self.call(drop)

    def make_topic(self, topic: str, partitions: int = PARTITIONS, again: bool = False, **settings: str) -> None:
        async def make(admin: AIOKafkaAdminClient) -> None:
            for _ in range(100):  # a deleted topic of this name may be there for a moment
                answer = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=settings)])
                error = for_code(answer.topic_errors[0][1])
                if error.errno == 0 or (error.errno == 36 and not again):  # TOPIC_ALREADY_EXISTS
                    return
                await asyncio.sleep(0.1)
            raise error(topic)

        self.call(make)

    def append(self, topic: str, records: Sequence[Any]) -> None:
        self.make_topic(topic)
        self.send(topic, [(None, record, n % PARTITIONS) for n, record in enumerate(records)])

    def send(self, topic: str, records: Sequence[tuple[Any, Any, int]], **how: Any) -> None:
        """Key, value and partition of each record."""

        async def produce() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.url, max_request_size=1 << 26, **{"acks": "all", **how})
            async with producer:
                sent = [await producer.send(topic, value, key, partition) for key, value, partition in records]
                await asyncio.gather(*sent)

        if records:
            asyncio.run(produce())

    def records(self, topic: str) -> Any:
        [found] = self.consumed(topic)
        return None if found is None else [record.value for record in found]

    def consumed(self, *topics: str) -> list[list[ConsumerRecord] | None]:
        """All committed records of each topic, with keys, headers and places; None if there is no such topic."""

        async def consume() -> list[list[ConsumerRecord] | None]:
            given: dict[str, Any] = {"isolation_level": "read_committed", "fetch_max_wait_ms": 20}
            async with AIOKafkaConsumer(bootstrap_servers=self.url, **given) as consumer:
                there = await consumer._client.fetch_all_metadata()  # to ask for one topic may create it
                found: dict[str, list[ConsumerRecord]] = {topic: [] for topic in {*topics} & there.topics()}
                places = [TopicPartition(topic, n) for topic in found for n in there.partitions_for_topic(topic)]
                if places:
                    consumer.assign(places)
                    first, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
                    for place in places:
                        consumer.seek(place, first[place])
                    while any([await consumer.position(place) < ends[place] for place in places]):
                        for place, some in (await consumer.getmany(timeout_ms=50)).items():
                            found[place.topic] += some
                return [found.get(topic) for topic in topics]

        return asyncio.run(consume())

    def delete(self, topic: str) -> None:
        self.call(lambda admin: admin.delete_topics([topic]))

    def forget(self, topic: str) -> bool:
        async def forget(admin: AIOKafkaAdminClient) -> None:
            places = {TopicPartition(topic, p): RecordsToDelete(-1) for p in range(PARTITIONS)}
            await admin.delete_records(places)

        self.call(forget)
        return True

    def reading(self, schema: pa.Schema) -> Mapping[str, Any]:
        layout = self.layout(format="json", columns=declared(schema))
        return {"value": layout, "metadata": ()}

    @staticmethod
    def layout(**given: Any) -> Any:
        from dpone_kafka.config import Layout

        return Layout(**given)

    @contextmanager
    def stuck(self, role: Any, seconds: float) -> Any:
        """A broker that takes the connection and says nothing."""
        with silent() as port:
            spec = self.source()
            options = evolve(spec.options, silence_timeout=seconds)
            yield evolve(spec, connection=Secret(f"127.0.0.1:{port}"), options=options)


@contextmanager
def _running(folder: Path) -> Iterator[str]:
    spec = find_spec("noida_db")
    assert spec is not None
    # Not the script of that name: it starts this program, and leaves it behind when it is ended itself.
    program = Path(str(spec.origin)).with_name(SMALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(program), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(folder)]
    address, silent = f"127.0.0.1:{port}", subprocess.DEVNULL
    # In a group of its own: a terminal's signal is not for it.
    process = subprocess.Popen(words, stdout=silent, stderr=silent, process_group=0)  # noqa: S603  # of the wheel
    try:
        _answering(address, process)
        _small.add(address)
        yield address
    finally:
        _small.discard(address)
        process.terminate()
        process.wait(PATIENCE)


def _answering(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")

    async def connect() -> None:
        socket.create_connection((host, int(port)), PATIENCE).close()  # aiokafka would log that nobody listens yet
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        try:
            await admin.start()
        finally:
            await admin.close()

    until = time.monotonic() + PATIENCE
    while True:
        try:
            return asyncio.run(connect())
        except (KafkaError, OSError) as error:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{SMALL} does not answer at {address}") from error
            time.sleep(0.05)


async def _product(admin: AIOKafkaAdminClient) -> tuple[str, str]:
    """A broker does not say its release, but which requests it knows: those of Apache Kafka 4.0 have Fetch up to 17."""
    await admin.describe_cluster()
    highest = max(one._versions[1][1] for one in admin._client._conns.values())
    return "Kafka", f"Fetch version {highest}"


_HEADERS = {"dpone.load_id": LOAD_ID, "dpone.loaded_at": LOADED_AT}


class KafkaSinkHarness(KafkaHarness):
    """Of the sink. The kit certifies ``delivery: transactional``, since no other mode has ``exactly_once``."""

    delivery = "transactional"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.journal = f"{self.prefix}loads"

    def durability(self) -> Durability:
        return Durability(True, {"acks": "all"})

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        return super().sink(strategy, table, **{"delivery": self.delivery, "journal": self.journal, **options})

    def records(self, topic: str) -> Any:
        """With keys, headers and places."""
        return self.consumed(topic)[0]

    def rows(self, table: str = TABLE) -> pa.Table | None:
        """The columns are those of the journal's entries, and of the headers of the records."""
        topic = self.topic(table)
        records, entries = self.consumed(topic, self.journal)
        if records is None:
            return None
        columns: dict[str, pa.DataType] = {}
        for entry in (json.loads(record.value) for record in entries or ()):
            if entry["topic"] == topic:
                bytes_of = {name: "binary" in type_ for name, type_ in entry["columns"].items()}
                columns |= {name: pa.binary() if is_one else pa.string() for name, is_one in bytes_of.items()}
        for record in records:
            columns |= {_HEADERS[name]: pa.string() for name, _ in record.headers if name in _HEADERS}
        return tabled([self.decode(record, columns) for record in records], columns)

    def decode(self, record: Any, columns: Mapping[str, pa.DataType]) -> Mapping[str, Any]:
        row, headers = dict(super().decode(record.value, columns)), dict(record.headers)
        if "dpone.load_id" in headers:
            row[LOAD_ID] = headers["dpone.load_id"].decode()
            row[LOADED_AT] = datetime.fromisoformat(headers["dpone.loaded_at"].decode())
        return row

    def empty(self, table: str = TABLE) -> bool:
        """As an operator would: the topic is deleted and made again. Retention is the topic's own affair."""
        self.delete(self.topic(table))
        self.make_topic(self.topic(table), again=True)
        return True

    def damage(self, role: Role, text: str, table: str = TABLE) -> None:
        keys: Iterable[Any] = {record.key for record in self.records(self.journal) or ()}
        self.send(self.journal, [(key, text.encode(), 0) for key in sorted(keys)])

    @contextmanager
    def stuck(self, role: Role, seconds: float) -> Iterator[Any]:
        """A server that takes the connection and is silent."""
        with silent() as port:
            spec = self.sink(simple(self))
            options = evolve(spec.options, silence_timeout=seconds)
            yield evolve(spec, connection=Secret(f"127.0.0.1:{port}"), options=options)
