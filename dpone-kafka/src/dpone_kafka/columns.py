"""The columns of a stream: those of key and value, and what Kafka itself says of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import field, frozen

from dpone.errors import ConfigError
from dpone.model.schema import ambiguous
from dpone.model.types import limit_of, limited
from dpone_kafka.config import KafkaSourceOptions, Layout
from dpone_kafka.dead_letters import DeadLetters, in_text
from dpone_kafka.records import HEADERS, Records, header_array
from dpone_kafka.values import Bytes, Decoded, Decoder, decoder

_TYPES: Mapping[str, pa.DataType] = {
    "topic": pa.string(),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp": pa.timestamp("ms", "UTC"),
    "timestamp_type": pa.string(),
    "headers": HEADERS,
    "event_id": pa.string(),
}
_TIMESTAMP_TYPES = pa.array(["create", "append"])


@frozen
class Columns:
    """``inferred``: the columns of the value, where the window's data tells them. ``limits``: of texts, by column."""

    options: KafkaSourceOptions
    inferred: pa.Schema | None = None
    _key: Decoder | None = field(init=False)
    _value: Decoder = field(init=False)
    schema: pa.Schema = field(init=False)

    @_key.default
    def _of_key(self) -> Decoder | None:
        layout = self.options.key
        return None if layout is None else decoder(layout, "key")

    @_value.default
    def _of_value(self) -> Decoder:
        return decoder(self.options.value, "value", self.inferred)

    @schema.default
    def _all(self) -> pa.Schema:
        key = [] if self._key is None or self.options.key is None else _limited(self._key.schema, self.options.key)
        own = [pa.field(f"kafka_{name}", _TYPES[name]) for name in self.options.extra]
        fields = [*key, *_limited(self._value.schema, self.options.value), *own]
        if twice := ambiguous([one.name for one in fields]):
            found = f"two columns are named {twice[0]!r} (key, value and metadata together, regardless of case)"
            raise ConfigError("read the columns of the topic", found, "leave out or rename one of them, as in column:")
        return pa.schema(fields)

    @property
    def key_names(self) -> list[str]:
        return [] if self._key is None else list(self._key.schema.names)

    def batch(self, records: Records, place: tuple[str, str, int], letters: DeadLetters) -> tuple[pa.RecordBatch, int]:
        """The rows, and how many tombstones were left out. Bad records fail or are put aside."""
        bad: dict[int, str] = {}
        parts: list[Decoded] = []
        for name, one in (("key", self._key), ("value", self._value)):
            if one is not None:
                found = self._decoded(one, records.values if name == "value" else records.keys)
                bad |= {at: f"{name}: {why}" for at, why in found.bad.items()}
                parts.append(found)
        for at in sorted(bad):
            letters.require_room(bad[at], int(records.offsets[at]))
            letters.keep(int(records.offsets[at]), _record(records, at, bad[at]))
        keep = np.ones(len(records), bool)
        keep[list(bad)] = False
        skipped = 0
        if self.options.tombstones == "skip":
            there = np.fromiter((value is not None for value in records.values), bool, len(records))
            skipped = int(np.count_nonzero(keep & ~there))
            keep &= there
        columns = [column for part in parts for column in _kept(part, keep)]
        columns += [_own(name, records, place, keep) for name in self.options.extra]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema), skipped

    def _decoded(self, one: Decoder, values: Bytes) -> Decoded:
        """Also without the records that have a text longer than declared."""
        found = one.decode(values)
        places = (
            np.array([i for i in range(len(values)) if i not in found.bad]) if found.bad else np.arange(len(values))
        )
        longer: dict[int, str] = {}
        for name, column in zip(one.schema.names, found.columns, strict=True):
            if (most := limit_of(self.schema.field(name))) is not None:
                rows = np.flatnonzero(pc.greater(pc.utf8_length(column), most).fill_null(False).to_numpy(False))
                longer |= {int(places[row]): f"{name!r} has more than {most} characters" for row in rows}
        if not longer:
            return found
        stays = pa.array([int(place) not in longer for place in places], pa.bool_())
        return Decoded([column.filter(stays) for column in found.columns], {**found.bad, **longer})


def _limited(schema: pa.Schema, layout: Layout) -> list[pa.Field]:
    return [limited(one, layout.columns.get(one.name, "")) for one in schema]


def _kept(part: Decoded, keep: Any) -> Sequence[pa.Array]:
    """The columns of a part, which lack its own bad records, without all the others that are left out."""
    if part.bad:
        keep = np.delete(keep, list(part.bad))
    return part.columns if keep.all() else [column.filter(pa.array(keep)) for column in part.columns]


def _record(records: Records, at: int, why: str) -> dict[str, Any]:
    row = records.rows[at]
    return {
        "reason": why,
        "timestamp": row.timestamp,
        "timestamp_type": {0: "create", 1: "append"}.get(row.timestamp_type),
        "headers": [[name, in_text(value)] for name, value in row.headers],
        "key": in_text(row.key),
        "value": in_text(row.value),
    }


def _own(name: str, records: Records, place: tuple[str, str, int], keep: Any) -> pa.Array:
    cluster, topic, partition = place
    count = int(np.count_nonzero(keep))
    if name == "topic":
        return pa.repeat(topic, count)
    if name == "partition":
        return pa.repeat(pa.scalar(partition, pa.int32()), count)
    offsets = records.offsets if count == len(keep) else records.offsets[keep]
    if name == "offset":
        return pa.array(offsets)
    if name == "event_id":
        texts = pa.array(offsets).cast(pa.string())
        return pc.binary_join_element_wise(f"{cluster}/{topic}/{partition}", texts, "/")
    if name == "headers":
        return header_array([row.headers for row in records.rows]).filter(pa.array(keep))
    if name == "timestamp":
        given = [row.timestamp for row in records.rows]
        times = np.array([-1 if one is None else one for one in given] if None in given else given, np.int64)[keep]
        return pa.array(times, mask=times < 0).cast(pa.timestamp("ms", "UTC"))
    given = [row.timestamp_type for row in records.rows]
    kinds = np.array([-1 if kind is None else kind for kind in given], np.int64)[keep]
    return _TIMESTAMP_TYPES.take(pa.array(kinds, mask=(kinds < 0) | (kinds > 1)))
