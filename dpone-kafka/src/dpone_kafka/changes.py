"""A topic as a change stream: keyed rows, where the last record of a key is its row, or the envelopes of a Debezium
connector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, evolve, field, frozen

from dpone.cdc.batch import either, storage_of
from dpone.cdc.spool import Spool
from dpone.contract import BatchStream, ChangeWindow, Finding, Stream, Window, WindowRequest
from dpone.errors import ConfigError, DataError, IdentityChanged, counted
from dpone.model.changes import (
    COMMIT,
    COMMITTED_AT,
    DELETE,
    EVENT_ID,
    INSERT,
    KEY,
    OPERATION,
    ORDINAL,
    ChangeTable,
    batch_schema,
)
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone_kafka.columns import Columns
from dpone_kafka.config import KafkaSourceOptions, Layout, Poison
from dpone_kafka.dead_letters import DeadLetters
from dpone_kafka.debezium import Envelopes
from dpone_kafka.marks import marks, times
from dpone_kafka.position import KIND as KIND_OF_ROWS
from dpone_kafka.records import Records
from dpone_kafka.source import KafkaSource

KIND = "kafka_changes"

# A record that cannot be read stops the stream: a change that is left out leaves a wrong row in the target.
_FIX = "correct the format or the columns; a change stream cannot leave a change out"


class Shapes(Protocol):
    """Turns records into changes. ``key``: the key columns that were seen last; the position keeps them."""

    key: tuple[str, ...]
    skipped: int

    def batches(
        self, records: Records, place: tuple[str, str, int]
    ) -> Iterator[tuple[int, ChangeTable, pa.RecordBatch]]:
        """The changes of records of one partition, cut where their columns change: the offset of the first, the table,
        and the batch without event ids. ``place``: cluster, topic, partition. Raises DataError."""
        ...


class KafkaChanges:
    """``contract.CDCReader`` of one topic. Each record is a change and a commit of its own. Kafka orders the records of
    one partition only, so all records of a key must be in one; a window in which they are not is refused."""

    def __init__(self, spec: SourceSpec) -> None:
        options = spec.options if isinstance(spec.options, KafkaSourceOptions) else KafkaSourceOptions()
        self._topic = spec.topic or ""
        if any(sign in self._topic for sign in ",*?["):
            todo = "name one topic, and write one stream for each"
            raise ConfigError("read source.topic", f"{self._topic!r} is not one topic", todo)
        self._options, self._spec = options, spec
        self._table = str(Name((self._topic,)))
        self._source = self._of_rows(None)
        self._spool: Spool | None = None
        self._shapes((), several=False)  # refuses columns that it cannot read

    def _of_rows(self, limit: int | None) -> KafkaSource:
        """The source that plans windows and reads the records."""
        given: Mapping[str, Any] = {"value": Layout("bytes"), "key": None, "metadata": (), "tombstones": "keep"}
        return KafkaSource(
            evolve(self._spec, options=evolve(self._options, incremental=None, max_records=limit, **given))
        )

    def check(self) -> list[Finding]:
        return self._source.check()

    def setup_plan(self) -> list[str]:
        """Nothing: the program that writes the topic creates it."""
        return []

    def create(self) -> Position:
        """The beginning of the topic. Nothing is created."""
        self._source.schema()  # raises for a topic that is not there
        return Position(KIND, {"cluster": self._source.cluster, "topic": self._topic}, {"topics": {}})

    def window(self, after: Position | None, limit: int | None) -> ChangeWindow:
        before = None if after is None else self._own(after)
        window = self._planned(before, limit)
        if limit is not None and before is not None and _partitions(window.position) - _partitions(before):
            # A key may have moved from an old partition to a new one: what the old one still has is read with it.
            window = self._planned(before, None)
        key = tuple(() if after is None else after.value.get("key", ()))
        filled = self._filled(window, key)
        if filled.ends is not None:
            self._source.ends = filled.ends
            window = self._source.window(before, WindowRequest())
            filled = self._filled(window, key)
        spool = filled.spool
        value = {**window.position.value, **({"key": list(filled.key)} if filled.key else {})}
        position = evolve(window.position, kind=KIND, value=value)
        if window.position == before and after is not None:
            position = after
        left_out = f"; skipped {counted(filled.skipped, 'record')} without a change" if filled.skipped else ""
        caught_up = window.caught_up and not self._source.ends
        return ChangeWindow(
            position,
            ("", filled.mark),
            spool.tables,
            caught_up,
            window.proof + left_out,
            spool.changes,
            warnings=window.warnings,
        )

    def _planned(self, before: Position | None, limit: int | None) -> Window:
        self.close()
        self._source = self._of_rows(limit)
        return self._source.window(before, WindowRequest())

    def _own(self, after: Position) -> Position:
        """The position as one of the source of rows, which has no key."""
        if after.kind != KIND:
            todo = "restore the pipeline, or start over with --full-refresh"
            raise IdentityChanged(f"resume {self._topic}", f"the position belongs to {after.kind}", todo)
        value = {name: one for name, one in after.value.items() if name != "key"}
        return evolve(after, kind=KIND_OF_ROWS, value=value)

    def _filled(self, window: Window, key: tuple[str, ...]) -> _Filled:
        """The window in a new spool, which ends before a record whose columns have no common type with those before."""
        if self._spool is not None:
            self._spool.close()
        cluster = self._source.cluster
        spool = self._spool = Spool(f"kafka:{cluster}/{self._topic}")
        several, mark = len(_partitions(window.position)) > 1, ""
        shapes, keys = self._shapes(key, several), _KeyPlaces(self._topic, len(window.parts) > 1)
        for n, part in enumerate(window.parts):
            partition = part.detail["partition"]
            for records in self._source.records(part):
                for first, table, batch in shapes.batches(records, (cluster, self._topic, partition)):
                    if not spool.add(self._table, table, batch):
                        later = {one.detail["partition"]: one.detail["start"] for one in window.parts[n + 1 :]}
                        return _Filled(spool, shapes.key, mark, shapes.skipped, {**later, partition: first})
                    spool.commit()
                    keys.add(batch, table)
                    mark = batch.column(COMMIT)[-1].as_py()
            keys.end(partition)
        return _Filled(spool, shapes.key, mark, shapes.skipped)

    def _shapes(self, key: tuple[str, ...], several: bool) -> Shapes:
        if self._options.value.format == "debezium":
            return Envelopes(self._options.value, key, several)
        return KeyedRows(self._options)

    @contextmanager
    def read(self, table: str) -> Iterator[Stream]:
        assert self._spool is not None, "window comes first"
        yield _Changes(self._spool, table)

    def ack(self, position: Position) -> None:
        """Kafka keeps records whether they are read or not."""

    def lag(self) -> Mapping[str, Any]:
        """The topic does not record what was read, so this is all that it has."""
        return {"log_records": self._source.size()}

    def drop(self) -> Sequence[str]:
        """Nothing was created, so nothing is dropped."""
        return [f"kept topic {self._topic}: it is not dpone's to remove"]

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._source.close()


@frozen(eq=False)
class _Filled:
    """``mark``: of the last change; ``ends``: where the window has to end instead."""

    spool: Spool
    key: tuple[str, ...]
    mark: str
    skipped: int
    ends: Mapping[int, int] | None = None


def _partitions(position: Position) -> set[str]:
    return {partition for one in position.value["topics"].values() for partition in one["next"]}


class _Changes(BatchStream):
    def __init__(self, spool: Spool, table: str) -> None:
        self._spool, self._table = spool, table
        self.schema = batch_schema(spool.tables[table])

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._spool.read(self._table)


# ---- keys of several partitions


@define
class _KeyPlaces:
    """Refuses a window that has a key in two partitions, since nobody knows which of its records is the later one.
    Memory: 8 bytes for each key of the window, and none for a window of one partition."""

    topic: str
    several: bool
    _here: list[npt.NDArray[np.int64]] = field(factory=list)
    _before: npt.NDArray[np.int64] = field(factory=lambda: np.empty(0, np.int64))

    def add(self, batch: pa.RecordBatch, table: ChangeTable) -> None:
        if not self.several or not table.key:
            return
        # The key before the change if there is one, else that of the row.
        had = dict(zip((f.name for f in batch.schema.field(KEY).type), batch.column(KEY).flatten(), strict=True))
        there = batch.column(KEY).is_valid()
        columns = [_comparable(either(there, had[name], batch.column(name))) for name in table.key]
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        self._here.append(np.fromiter(map(_hashed, rows), np.int64, batch.num_rows))

    def end(self, partition: int) -> None:
        """All changes of a partition were added."""
        if not self._here:
            return
        here, self._here = np.unique(np.concatenate(self._here)), []
        if np.intersect1d(here, self._before, assume_unique=True).size:
            found = f"a key is in partition {partition} and in another one, so the order of its records is unknown"
            todo = "send all records of a key to one partition of a new topic, and read that one with --full-refresh"
            raise DataError(f"read {self.topic}", found, todo)
        self._before = np.union1d(self._before, here)


def _hashed(row: tuple[Any, ...]) -> int:
    """Python gives -1 and -2 one hash."""
    return hash(tuple("-1" if value == -1 else value for value in row))


def _comparable(column: pa.Array) -> pa.Array:
    """Values that Python can hash: times beyond Python's as text."""
    column = storage_of(column)
    return column.cast(pa.string()) if pa.types.is_temporal(column.type) else column


# ---- a topic of rows


@define
class KeyedRows:
    """The last record of a key is its row, and a tombstone deletes it. A record does not say whether its row existed
    before, so it is an insert, which replaces a row of its key."""

    options: KafkaSourceOptions
    skipped: int = 0
    _columns: Columns = field(init=False)
    key: tuple[str, ...] = field(init=False)

    @_columns.default
    def _of_both(self) -> Columns:
        # All tombstones are read here, and the metadata with the columns of the row.
        options = evolve(self.options, incremental=None, tombstones="keep", metadata=self.options.extra)
        return Columns(evolve(options, poison=Poison()))

    @key.default
    def _of_key(self) -> tuple[str, ...]:
        assert self.options.key is not None
        return tuple(self._columns.key_names)

    def batches(
        self, records: Records, place: tuple[str, str, int]
    ) -> Iterator[tuple[int, ChangeTable, pa.RecordBatch]]:
        if not len(records):
            return
        letters = DeadLetters(Path(), self.options.poison, place, todo=_FIX)
        rows, _ = self._columns.batch(records, place, letters)
        gone = pa.array(np.fromiter((value is None for value in records.values), bool, len(records)))
        self._require_keys(rows, records, letters)
        table = ChangeTable(self._columns.schema, self.key)
        batch = _changes(rows, records, gone, place[2], table)
        if self.options.tombstones == "skip":
            self.skipped += pc.sum(gone).as_py() or 0
            batch = batch.filter(pc.invert(gone))
        if batch.num_rows:
            yield int(records.offsets[0]), table, batch

    def _require_keys(self, rows: pa.RecordBatch, records: Records, letters: DeadLetters) -> None:
        for name in self.key:
            if rows.column(name).null_count:
                at = pc.index(rows.column(name).is_null(), True).as_py()
                letters.require_room(f"key: it has no value for {name!r}", int(records.offsets[at]))


def _changes(
    rows: pa.RecordBatch, records: Records, gone: pa.Array, partition: int, table: ChangeTable
) -> pa.RecordBatch:
    schema = pa.schema([f for f in batch_schema(table) if f.name != EVENT_ID])
    key = schema.field(KEY).type
    given = {
        OPERATION: pc.if_else(gone, DELETE, INSERT),
        COMMIT: marks(partition, records.offsets),
        ORDINAL: pa.repeat(pa.scalar(1, pa.int64()), len(records)),
        COMMITTED_AT: times([row.timestamp for row in records.rows]),
        KEY: pa.StructArray.from_arrays([rows.column(f.name) for f in key], fields=list(key), mask=pc.invert(gone)),
    }
    columns = []
    for one in schema:
        if one.name in given:
            column = given[one.name]
        elif one.name in table.values.names:
            column = rows.column(one.name)
            column = either(gone, pa.nulls(len(column), column.type), column)
        else:  # nothing is left out of a row, and nothing says how it was
            column = pa.nulls(len(records), one.type)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
