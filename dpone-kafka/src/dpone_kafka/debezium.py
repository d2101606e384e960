"""Envelopes of Debezium connectors, written by Kafka Connect's JSON converter with or without schemas.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-change-events-value
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import define, field, frozen

from dpone.cdc.batch import mask_of
from dpone.errors import ConfigError, DataError
from dpone.formats.types import BadValue, declared
from dpone.model.changes import (
    COMMIT,
    COMMITTED_AT,
    DELETE,
    EVENT_ID,
    INSERT,
    KEY,
    OPERATION,
    ORDINAL,
    TRUNCATE,
    UNCHANGED,
    UPDATE,
    ChangeTable,
    batch_schema,
)
from dpone.model.schema import ambiguous
from dpone_kafka.config import Layout
from dpone_kafka.connect_types import Column, column_of, declared_column, is_absent
from dpone_kafka.marks import marks, times
from dpone_kafka.records import Records

_OPERATIONS = {"c": INSERT, "r": INSERT, "u": UPDATE, "d": DELETE, "t": TRUNCATE}
_MESSAGE = "m"  # pg_logical_emit_message: not a change of a row
_FIX = "check that a Debezium connector writes this topic with the JSON converter"


@frozen(eq=False)
class _Change:
    """``row``: the values of an insert or update."""

    offset: int
    operation: str
    key: Mapping[str, Any] | None
    row: Mapping[str, Any] | None
    at: int | None


@frozen(eq=False)
class _Shape:
    """Columns of a table, and its key."""

    columns: Mapping[str, Column]
    key: tuple[str, ...]


@define
class Envelopes:
    """``changes.Shapes`` of a topic that a Debezium connector fills. ``several``: it has more than one partition."""

    layout: Layout
    key: tuple[str, ...]
    several: bool
    skipped: int = 0
    _declared: Mapping[str, Column] = field(init=False)
    _schema: Any = None  # the latest, and its columns: a topic has few, one after another
    _columns: Mapping[str, Column] = field(factory=dict)

    @_declared.default
    def _of_layout(self) -> Mapping[str, Column]:
        found = {}
        for name, type_ in declared(self.layout.columns).items():
            if (column := declared_column(type_)) is None:
                todo = "declare it as bigint or text, or set value.converter.schemas.enable=true in the connector"
                raise ConfigError(
                    f"read options.value.columns.{name}", f"an envelope without schema has no {type_}", todo
                )
            found[name] = column
        return found

    def batches(
        self, records: Records, place: tuple[str, str, int]
    ) -> Iterator[tuple[int, ChangeTable, pa.RecordBatch]]:
        run: list[_Change] = []
        shape: _Shape | None = None
        for at, row in enumerate(records.rows):
            offset = int(records.offsets[at])
            where = _Place(f"read {place[1]}, partition {place[2]}, offset {offset}", place)
            if (found := self._change(offset, row.key, row.value, where)) is None:
                self.skipped += 1
                continue
            change, mine = found
            if shape is not None and (mine.columns is not shape.columns or mine.key != shape.key):
                yield _batch(run, shape, place)
                run = []
            shape = mine
            run.append(change)
        if shape is not None and run:
            yield _batch(run, shape, place)

    def _change(
        self, offset: int, key: bytes | None, value: bytes | None, where: _Place
    ) -> tuple[_Change, _Shape] | None:
        """None for what changes no row: a tombstone, a message."""
        schema, envelope = self._parsed(value, "value", where)
        if envelope is None:
            return None
        operation, source = envelope.get("op"), envelope.get("source")
        if operation == _MESSAGE:
            return None
        if operation not in _OPERATIONS:
            raise where.bad("the value has no op of c, r, u, d or t", _FIX)
        _, names = self._parsed(key, "key", where)
        columns = self._of_schema(schema, where)
        at = source.get("ts_ms") if isinstance(source, dict) else None
        kind = _OPERATIONS[operation]
        if kind == TRUNCATE:
            names = None
            self._require_order(where)
        elif names is not None:
            self.key = tuple(names)
        shape = _Shape(columns, self.key if kind == TRUNCATE or names is not None else ())
        if unknown := [name for name in shape.key if name not in columns]:
            todo = "declare it under value.columns, or let the connector include it in the table"
            raise where.bad(f"key column {unknown[0]!r} is not a column of the table", todo)
        row = envelope.get("after") if kind in (INSERT, UPDATE) else None
        if kind in (INSERT, UPDATE) and not isinstance(row, dict):
            raise where.bad(f"op {operation} has no 'after'", _FIX)
        if kind == INSERT and row is not None:
            self._require_whole(row, columns, where)
        when = at if type(at) is int else None
        return _Change(offset, kind, names if kind != INSERT else None, row, when), shape

    def _require_order(self, where: _Place) -> None:
        if self.several:
            found = "it truncates the table, and the topic has several partitions, whose order is unknown"
            raise where.bad(found, "let the connector leave truncates out (skipped.operations=t), or use one partition")

    def _require_whole(self, row: Mapping[str, Any], columns: Mapping[str, Column], where: _Place) -> None:
        """A row whose key changed comes as a delete and an insert, and the insert lacks large values that did not
        change: nothing has them any more."""
        if absent := [name for name in columns if is_absent(row.get(name))]:
            todo = "set REPLICA IDENTITY FULL for the table, and load the topic after a new snapshot of the connector"
            raise where.bad(f"a new row lacks the value of column {absent[0]!r}", todo)

    def _parsed(self, data: bytes | None, what: str, where: _Place) -> tuple[Any, dict[str, Any] | None]:
        """The schema, if there is one, and the payload."""
        if data is None:
            return None, None
        try:
            found = json.loads(data, parse_float=Decimal if self._declared else None, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise where.bad(f"the {what} is not valid JSON", _FIX) from None
        schema = None
        if isinstance(found, dict) and found.keys() == {"schema", "payload"}:
            schema, found = found["schema"], found["payload"]
        if found is not None and not isinstance(found, dict):
            raise where.bad(f"the {what} is not a JSON object", _FIX)
        return schema, found

    def _of_schema(self, schema: Any, where: _Place) -> Mapping[str, Column]:
        if schema is None:
            if not self._declared:
                todo = "declare them, as in value: {format: debezium, columns: {id: bigint}}, or set "
                todo += "value.converter.schemas.enable=true in the connector"
                raise where.bad("the envelope has no schema, so the types of its columns are unknown", todo)
            return self._declared
        if schema != self._schema:
            self._columns = _columns_of(schema, where)
            self._schema = schema
        return self._columns


def _refuse(name: str) -> Any:
    raise ValueError(name)


@frozen
class _Place:
    what: str
    of: tuple[str, str, int]

    def bad(self, found: str, todo: str) -> DataError:
        return DataError(self.what, found, todo)


def _columns_of(schema: Any, where: _Place) -> Mapping[str, Column]:
    try:
        members = {one["field"]: one for one in schema["fields"]}
        given = (members.get("after") or members["before"])["fields"]
        found = {one["field"]: column_of(one) for one in given}
    except (KeyError, TypeError, ValueError):
        raise where.bad("the schema of the envelope has no columns, or a type that is not known", _FIX) from None
    if twice := ambiguous([*found]):
        raise where.bad(f"columns differ only by case: {twice[0]!r}", "rename one of them in the source")
    return found


Rows = Sequence[Mapping[str, Any] | None]


def _batch(
    run: Sequence[_Change], shape: _Shape, place: tuple[str, str, int]
) -> tuple[int, ChangeTable, pa.RecordBatch]:
    table = ChangeTable(pa.schema([(name, one.type) for name, one in shape.columns.items()]), shape.key)
    rows = [change.row for change in run]
    keys = [change.key for change in run]
    schema = pa.schema([f for f in batch_schema(table) if f.name != EVENT_ID])
    key = schema.field(KEY).type
    of_key = [_column(run, place, f.name, shape, keys) for f in key]
    lacking = pa.array([one is None for one in keys])
    given: dict[str, Any] = {
        OPERATION: pa.array([change.operation for change in run]),
        COMMIT: marks(place[2], np.array([change.offset for change in run], np.int64)),
        ORDINAL: pa.repeat(pa.scalar(1, pa.int64()), len(run)),
        COMMITTED_AT: times([change.at for change in run]),
        KEY: pa.StructArray.from_arrays(of_key, fields=list(key), mask=lacking) if len(key) else None,
        UNCHANGED: _unchanged(rows, shape),
        **{name: _column(run, place, name, shape, rows) for name in shape.columns},
    }
    # Not 'before': with PostgreSQL's default replica identity its columns outside the key are made up.
    columns = [pa.nulls(len(run), f.type) if given.get(f.name) is None else given[f.name] for f in schema]
    return run[0].offset, table, pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(
    run: Sequence[_Change],
    place: tuple[str, str, int],
    name: str,
    shape: _Shape,
    rows: Sequence[Mapping[str, Any] | None],
) -> pa.Array:
    values = [None if row is None else row.get(name) for row in rows]
    values = [None if is_absent(value) else value for value in values]
    try:
        return shape.columns[name].array(values)
    except BadValue as error:
        what = f"read {place[1]}, partition {place[2]}, offset {run[error.index].offset}"
        found = f"column {name!r} is not a valid {shape.columns[name].type}"
        todo = "correct value.columns, or the converter of the connector"
        raise DataError(what, found, todo) from None


def _unchanged(rows: Rows, shape: _Shape) -> pa.StructArray:
    """Columns that did not come: a large value that did not change, and a member that the object lacks."""
    masks = [
        pa.array([row is not None and (name not in row or is_absent(row[name])) for row in rows], pa.bool_())
        for name in shape.columns
    ]
    return mask_of(list(shape.columns), masks, len(rows))
