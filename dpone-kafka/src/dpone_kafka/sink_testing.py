"""The Harness of the sink: the records of a topic, through aiokafka's consumer.

The kit certifies ``delivery: transactional``, since no other mode has ``exactly_once``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import evolve

from dpone.capability import Role
from dpone.certify.evidence import Durability
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import LOAD_ID, LOADED_AT
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing.harness import TABLE
from dpone.testing.loads import simple
from dpone.testing.unreachable import silent
from dpone_kafka.testing import KafkaHarness

_HEADERS = {"dpone.load_id": LOAD_ID, "dpone.loaded_at": LOADED_AT}


class KafkaSinkHarness(KafkaHarness):
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
        return self.consumed(topic)

    def columns(self, topic: str) -> Mapping[str, pa.DataType]:
        """Those of the entries of the journal, and of the headers of the records."""
        found: dict[str, pa.DataType] = {}
        for record in self.records(self.journal) or ():
            entry = json.loads(record.value)
            if entry["topic"] == topic:
                bytes_of = {name: "binary" in type_ for name, type_ in entry["columns"].items()}
                found |= {name: pa.binary() if is_one else pa.string() for name, is_one in bytes_of.items()}
        for record in self.records(topic) or ():
            found |= {_HEADERS[name]: pa.string() for name, _ in record.headers if name in _HEADERS}
        return found

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
