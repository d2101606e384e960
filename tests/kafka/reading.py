"""One window of a source, read to its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
from attrs import evolve, frozen

from dpone.contract import Window, WindowRequest
from dpone.model.position import Position
from dpone_kafka.config import KafkaSourceOptions, Layout
from dpone_kafka.testing import KafkaHarness

Run = Callable[..., Mapping[str, Any]]
TEXT = Layout("text")
WHOLE = WindowRequest(whole=True, mode="full_refresh")
NEW = WindowRequest()


@frozen
class Read:
    window: Window
    rows: list[dict[str, Any]]
    filtered: int
    quarantined: int

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]


def read(
    harness: KafkaHarness, topic: str, after: Position | None = None, request: WindowRequest = NEW, **options: Any
) -> Read:
    """``options``: of KafkaSourceOptions; the value is text and there is no other column unless they say so."""
    made = KafkaSourceOptions(**{"value": TEXT, "metadata": (), **options})
    spec = evolve(harness.source(), topic=f"{harness.prefix}{topic}", options=made)
    with closing(harness.make("source", spec)) as source:
        window = source.window(after, request)
        tables, filtered, quarantined = [window.schema.empty_table()], 0, 0
        for part in window.parts:
            with source.read(part) as stream:
                batches = list(stream.batches())
                tables.append(pa.Table.from_batches(batches, stream.schema))
                filtered, quarantined = filtered + stream.filtered, quarantined + stream.quarantined
    return Read(window, pa.concat_tables(tables).to_pylist(), filtered, quarantined)


def texts(harness: KafkaHarness, topic: str, values: Sequence[str], partition: int = 0, **how: Any) -> None:
    """Send records without keys to one partition."""
    harness.send(f"{harness.prefix}{topic}", [(None, value.encode(), partition) for value in values], **how)


def as_json(*rows: Any) -> list[str]:
    return [json.dumps(row) for row in rows]
