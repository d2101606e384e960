"""LogHarness: what the Harness of every log of records has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dpone.model.pipeline import Incremental, SinkSpec, SourceSpec
from dpone.model.strategy import Strategy
from dpone.testing.harness import TABLE, Harness
from dpone.testing.rows import declared, from_json, tabled, to_json

_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


class LogHarness(Harness):
    """A log: topics that keep records in the order in which they came, of one partition or of several, until they
    forget the oldest. Give calls of a client, and override what your log says otherwise:

    ======  =======================================
    source  ``append`` ``records`` ``delete``
    sink    ``records`` (``forget``, ``columns``)
    ======  =======================================

    A record is what ``encode`` makes of a row, and what the client takes and gives: bytes of one JSON object, unless
    you override it and ``decode``. Keys, headers and partitions are the client's own affair: ``append`` may spread
    records over partitions as it likes.

    prefix  what the topics of this case begin with
    """

    prefix = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._seeded: dict[str, pa.Schema] = {}

    def append(self, topic: str, records: Sequence[Any]) -> None:
        """Add records at the end of a topic, durably; make the topic if there is none. There may be no records."""
        raise self._lacks("append")

    def records(self, topic: str) -> Iterable[Any] | None:
        """All that a topic still has, and that a reader may see; None if there is no such topic."""
        raise self._lacks("records")

    def delete(self, topic: str) -> None:
        """Delete a topic with all of its records. One of this name that is made afterwards is another."""
        raise self._lacks("delete")

    def forget(self, topic: str) -> bool:
        """Remove all records from a topic, as retention would: the next has the offset that it would have had. False:
        it cannot."""
        return False

    def columns(self, topic: str) -> Mapping[str, pa.DataType]:
        """Columns that the sink stores outside of the record. They exist even if no record has a value, and their types
        tell ``decode`` which values are bytes."""
        return {}

    def encode(self, row: Mapping[str, Any]) -> Any:
        """The record that a producer of this row would send."""
        return to_json(row)

    def decode(self, record: Any, columns: Mapping[str, pa.DataType]) -> Mapping[str, Any]:
        """The row that a record of the sink, or of ``encode``, holds. Bytes come as bytes: base64 is undone."""
        return from_json(record, [name for name, type in columns.items() if any(is_one(type) for is_one in _BYTES)])

    def reading(self, schema: pa.Schema) -> Mapping[str, Any]:
        """The options of a source that finds these columns in the records."""
        return {"columns": declared(schema)}

    # ---- made of the above

    def topic(self, table: str = TABLE) -> str:
        return f"{self.prefix}{table}"

    def source(
        self, table: str = TABLE, *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        reading = self.reading(self._seeded.get(table, self.sample(1, 0).schema))
        options = self.options("source", incremental=incremental, **reading)
        topic = None if query else self.topic(table)
        return SourceSpec(self.connector, self.connection, query=query, topic=topic, options=options, base=self.folder)

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        self._seeded.setdefault(table, rows.schema)
        self.append(self.topic(table), [self.encode(row) for row in rows.to_pylist()])

    def disturb(self, table: str = TABLE) -> None:
        """Records cannot be changed: the topic is deleted and created again with a corrected first record, as an
        operator would do it."""
        first, *others = self.records(self.topic(table)) or ()
        self.delete(self.topic(table))
        self.append(self.topic(table), [self.encode({**self.decode(first, {}), "name": "disturbed"}), *others])

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        given, topic = self.options("sink", **options), self.topic(table)
        return SinkSpec(self.connector, strategy, self.connection, topic=topic, options=given, base=self.folder)

    def rows(self, table: str = TABLE) -> pa.Table | None:
        topic = self.topic(table)
        if (records := self.records(topic)) is None:
            return None
        columns = self.columns(topic)
        return tabled([self.decode(record, columns) for record in records], columns)

    def expire(self, table: str = TABLE) -> bool:
        return self.forget(self.topic(table))

    def empty(self, table: str = TABLE) -> bool:
        return self.forget(self.topic(table))
