"""A table to Arrow by columns: the server gathers a range of pages into one row of arrays, and COPY sends that.

COPY sends one message per row, and each message costs a call into libpq and a search for the beginnings of its values.
In a gathered row, a fixed-width column is an array whose values are at equal distances; a text column is one long text
and an array of lengths. All aggregates of one row see its rows in the same order (docs/internals/performance.md has the
figures).

Limits: a gathered value has at most a gigabyte and is held in memory, so tables with values out of line (TOAST) are
read row by row, and ranges become shorter if values in line are long. Each range must be found by its page numbers (a
TID range scan; PostgreSQL 14).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import frozen

from dpone.sql.values import Unstorable
from dpone_postgres import binary, texts, types

MOST = 800  # columns, each at most two of the 1,664 that a SELECT may have
FEW, _MANY = 16, 128  # pages of 8 kB in one message, at first and at most
_BYTES = (
    2 << 20
)  # bytes of a message above which the next ones have fewer pages: values compressed in line can be 100 times as long
_RANGES = 64  # messages of one statement
_TOAST = 1 << 19  # bytes of values out of line that may all come in one message, several times as long there
_BEYOND = "(4294967294,0)"
_NAN = -(2**63)  # of a gathered numeric; no numeric of 18 digits comes near
_INT32 = "int4"

# Pages of a table whose rows are all its own, if it may be gathered.
PAGES = f"""
SELECT pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = \0 AND c.relname = \0 AND c.relkind IN ('r', 'm') AND NOT c.relhassubclass
AND current_setting('server_encoding') = 'UTF8' AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
AND coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0) <= {_TOAST}"""

Field = memoryview | None


@frozen
class _Form:
    """How one column is gathered, and how the answer and the count of rows become an Arrow array."""

    sql: tuple[str, ...]
    array: Callable[[Sequence[Field], int, pa.DataType], pa.Array]


@frozen
class Gathered:
    """The pages of a table to gather: from ``first`` up to ``end``, or to the last page (open)."""

    relation: str
    schema: pa.Schema
    forms: tuple[_Form, ...]
    first: int
    end: int
    open: bool

    def select(self, start: int, step: int = FEW) -> tuple[str, int]:
        """A row for each ``step`` pages, and the page at which the next statement begins; ``end`` means that there is
        none."""
        stop = min(start + _RANGES * step, self.end)
        last = _BEYOND if self.open and stop == self.end else f"({stop},0)"
        aggregates = ", ".join(sql for form in self.forms for sql in form.sql)
        # g.p, since a bare name would first be one of the table's columns.
        upper = f"CASE WHEN g.p + {step} >= {stop} THEN '{last}' ELSE '(' || (g.p + {step}) || ',0)' END"
        sql = (
            f"SELECT a.* FROM pg_catalog.generate_series({start}::bigint, {max(stop - 1, start)}, {step}) AS g(p), "
            f"LATERAL (SELECT pg_catalog.count(*), {aggregates} FROM {self.relation} AS s "
            f"WHERE s.ctid >= ('(' || g.p || ',0)')::tid AND s.ctid < ({upper})::tid) AS a"
        )
        return sql, stop

    def decode(self, message: Any) -> pa.RecordBatch:
        """One gathered row, a message of binary COPY. Raises Refused."""
        count, *fields = _fields(memoryview(message))
        assert count is not None
        rows = int.from_bytes(count, "big")
        arrays = []
        for form, field in zip(self.forms, self.schema, strict=True):
            mine, fields = fields[: len(form.sql)], fields[len(form.sql) :]
            try:
                arrays.append(form.array(mine, rows, field.type) if rows else pa.array([], field.type))
            except Unstorable as error:
                error.column = field.name
                raise
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def forms(
    schema: pa.Schema, columns: Sequence[types.Column], shown: Sequence[str], as_text: Sequence[bool]
) -> tuple[_Form, ...]:
    """shown: the quoted columns; as_text: those that are read as the server's text."""
    return tuple(map(_form, columns, shown, as_text, schema.types))


def pages(before: int, largest: int) -> int:
    """The pages per message from now on, if ``before`` pages made at most ``largest`` bytes."""
    return max(1, min(_MANY, 8 * before, before * _BYTES // max(largest, 1)))


def _fields(message: memoryview) -> list[Field]:
    found: list[Field] = []
    at = 2
    while at < len(message):
        size = int.from_bytes(message[at : at + 4], "big", signed=True)
        at += 4
        found.append(None if size < 0 else message[at : at + size])
        at += max(size, 0)
    return found


def _form(column: types.Column, shown: str, as_text: bool, type: pa.DataType) -> _Form:
    kind = column.kind
    if column.receive == "bpcharrecv" and not as_text:  # a cast to text would cut the blanks at its end
        return _text_form(f"pg_catalog.textin(pg_catalog.bpcharout({shown}))")
    if as_text or kind in ("text", "json", "jsonb"):
        return _text_form(column.text(shown))
    if kind == "bytea":
        return _text_form(f"{shown}::bytea", "''::bytea")
    if kind == "numeric":
        return _number_form(shown, type)
    assert kind is not None
    return _Form((f"pg_catalog.array_agg({shown})",), lambda found, rows, type: _array(found[0], rows, type, kind))


def _array(image: Field, rows: int, type: pa.DataType, kind: str) -> pa.Array:
    assert image is not None, "array_agg of rows is an array"
    return binary.array(image, rows, type, kind)


def _text_form(shown: str, nothing: str = "''") -> _Form:
    lengths = f"pg_catalog.array_agg(coalesce(pg_catalog.octet_length({shown}), -1))"
    return _Form((f"pg_catalog.string_agg({shown}, {nothing})", lengths), _texts)


def _texts(found: Sequence[Field], rows: int, type: pa.DataType) -> pa.Array:
    """string_agg leaves NULLs out, and is NULL if it finds nothing else."""
    text, sizes = found[0] or b"", _array(found[1], rows, pa.int32(), _INT32)
    length: Any = np.asarray(sizes)
    valid = length >= 0
    bounds = np.zeros(rows + 1, np.int32)
    np.cumsum(np.maximum(length, 0), out=bounds[1:])
    if bounds[-1] != len(text):
        raise Unstorable("texts that are not as long as the server says", 0)
    mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    storage = type.storage_type if isinstance(type, pa.BaseExtensionType) else type
    array = pa.Array.from_buffers(storage, rows, [mask, pa.py_buffer(bounds), pa.py_buffer(text)])
    return array if storage is type else pa.ExtensionArray.from_storage(type, array)


def _number_form(shown: str, type: pa.DataType) -> _Form:
    """Up to 18 digits as an integer, exact since the column has no more decimals than its type says; else as text."""
    if type.precision > 18:
        form = _text_form(f"{shown}::text")
        return _Form(form.sql, lambda found, rows, type: texts.parse(_texts(found, rows, pa.string()), type, "numeric"))
    scaled = f"({shown} * {10**type.scale})::bigint" if type.scale else f"{shown}::bigint"
    whole = f"CASE WHEN {shown} = 'NaN'::numeric THEN ({_NAN})::bigint ELSE {scaled} END"
    return _Form((f"pg_catalog.array_agg({whole})",), _decimals)


def _decimals(found: Sequence[Field], rows: int, type: pa.DataType) -> pa.Array:
    integers = _array(found[0], rows, pa.int64(), "int8")
    values = np.frombuffer(integers.buffers()[1], np.int64, rows)
    bad: Any = values == _NAN
    if bad.any():
        raise Unstorable("NaN or infinity, which an Arrow decimal cannot hold", int(bad.argmax()))
    both = np.empty((rows, 2), np.int64)
    both[:, 0], both[:, 1] = values, values >> 63
    return pa.Array.from_buffers(type, rows, [integers.buffers()[0], pa.py_buffer(both)])
