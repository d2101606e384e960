"""A CDCReader as the engine's Source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve

from dpone.cdc.batch import cast_column
from dpone.cdc.history import as_history, history_schema
from dpone.contract import BatchStream, CDCReader, Finding, Part, Stream, Window, WindowRequest
from dpone.errors import ConfigError, DataError, SchemaBreak
from dpone.model.changes import DELETE, EVENT_ID, KEY, OPERATION, UPDATE, ChangeTable, batch_schema
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE, Name
from dpone.model.strategy import CHANGES


class ChangeStream:
    """A CDCReader as the engine's Source. Its window has a part for each table that changed; ``ChangeWindow.tables``
    has their columns. A stream of one table reads the one the source names, or the only one in the log."""

    def __init__(self, spec: SourceSpec, reader: CDCReader) -> None:
        self._spec, self._reader = spec, reader
        self._changed: Mapping[str, ChangeTable] = {}
        self._fresh: frozenset[str] = frozenset()
        self._history: bool  # whether the latest window is read as a history

    def check(self) -> list[Finding]:
        return self._reader.check()

    def tables(self, pattern: str) -> list[str]:
        """The tables that changed in the latest window."""
        return list(self._changed)

    def schema(self) -> pa.Schema:
        return pa.schema([])

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        incremental = self._spec.options.incremental
        # A full refresh replaces the tables that it reads. With a limit, the next window would add the rest to them.
        changes = self._reader.window(after, None if request.whole or request.to_end else incremental.limit)
        wanted = {name: table for name, table in changes.tables.items() if not self._spec.excludes(Name.parse(name))}
        self._changed = {name: _without_lineage(table) for name, table in wanted.items()}
        self._history = request.mode not in CHANGES
        self._fresh = changes.fresh
        parts = tuple(map(Part, wanted))
        whole = request.whole or changes.whole
        return Window(
            changes.position, parts, True, pa.schema([]), whole, changes.caught_up, changes.proof, changes.warnings,
            changes.own_schema,
        )  # fmt: skip

    def require_one(self) -> None:
        if len(self._changed) > 1:
            found = f"the log has changes of {', '.join(self._changed)}"
            todo = "set source.table to one of them, or use a glob there and {table} in the sink's table"
            raise ConfigError(f"read {self._spec.location}", found, todo)

    def bare(self, table: str) -> bool:
        """True if only the name of the table is known: it was truncated, and the log has no change of a row."""
        return not self._changed[table].values.names and not self._history

    def require_kind(self, have: pa.Schema | None, target: str, loaded: bool) -> None:
        """Refuse to load changes into a table of rows, or rows into a table of changes. ``have``: the target's columns;
        ``loaded``: this stream has loaded the table before. Raises SchemaBreak."""
        if have is None or self._history == (EVENT_ID in have.names):
            return
        todo = "keep the strategy that filled the table, or load into another table; nothing was changed"
        if not self._history:
            found = "the table holds a history of changes, written by append"
            raise SchemaBreak(f"load changes into {target}", found, todo)
        if loaded:
            raise SchemaBreak(f"append changes to {target}", "the table holds current rows, written by cdc_apply", todo)

    def share(self, window: Window, table: str) -> Window:
        """One table's share of the window, with the schema of the rows that go to the target."""
        changed = self._changed[table]
        schema = history_schema(changed) if self._history else changed.values
        parts = tuple(p for p in window.parts if p.id == table)
        return evolve(window, parts=parts, schema=schema, whole=window.whole or table in self._fresh)

    def key(self, table: str, stated: tuple[str, ...]) -> tuple[str, ...]:
        """The key that identifies rows. Raises ConfigError if there is none, or if it differs from the log's."""
        key = self._changed[table].key
        if not key and not stated:
            todo = "give the table a key in the source and reload it ('dpone cdc resync' or --full-refresh), "
            todo += "set strategy.key, or use strategy append"
            raise ConfigError(f"apply changes of {table}", "the log has no key for it", todo)
        if key and stated and {*key} != {*stated}:
            found = f"strategy.key is {', '.join(stated)}, but the key in the log is {', '.join(key)}"
            raise ConfigError(f"apply changes of {table}", found, "remove strategy.key")
        return key or stated

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        with self._reader.read(part.id) as stream:
            if self._history:
                yield _Shaped(stream, history_schema(self._changed[part.id]), as_history)
            else:
                yield _Shaped(stream, batch_schema(self._changed[part.id]), _with_keys)

    def ack(self, position: Position) -> None:
        self._reader.ack(position)

    def close(self) -> None:
        self._reader.close()


class _Shaped(BatchStream):
    """A stream whose batches are converted by ``shape``."""

    def __init__(self, stream: Stream, schema: pa.Schema, shape: Any) -> None:
        self._stream, self.schema, self._shape = stream, schema, shape

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    @property
    def quarantined(self) -> int:
        return self._stream.quarantined

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._stream.batches():
            yield self._shape(batch, self.schema)


def _with_keys(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """PG-10: an update or delete without a key is an error, never skipped."""
    meets = pc.is_in(batch.column(OPERATION), pa.array([UPDATE, DELETE]))
    lost = pc.and_(meets, batch.column(KEY).is_null())
    if pc.any(lost).as_py():
        event = batch.filter(lost).column(EVENT_ID)[0].as_py()
        todo = "make the source log the key (PostgreSQL: a primary key, or REPLICA IDENTITY USING INDEX)"
        todo += ", or use strategy append"
        raise DataError("apply changes", f"event {event} updates or deletes a row without its key", todo)
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays([cast_column(batch, f) for f in schema], schema=schema)


def _without_lineage(table: ChangeTable) -> ChangeTable:
    """Drops lineage columns of the source: they describe an earlier load, and each target gets its own."""
    return evolve(table, values=pa.schema([f for f in table.values if f.name not in LINEAGE]))
