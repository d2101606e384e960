"""Rows that go in and rows that come back."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.errors import counted
from dpone.model.schema import PREFIX

SHAPE = pa.schema([("id", pa.int64()), ("day", pa.string()), ("name", pa.string()), ("score", pa.float64())])
Row = tuple[Any, ...]


def table(rows: Iterable[Row], schema: pa.Schema = SHAPE) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)


def sample(first: int, last: int) -> pa.Table:
    """Rows of ``SHAPE``; texts with quotes, commas, and NULL among them."""
    return table((i, f"d{i % 3}", f'n{i}, "é"' if i % 4 else None, i / 4) for i in range(first, last + 1))


@frozen
class Rows:
    """``contract.Stream`` over a table. ``between`` is called with the number of each batch before it is given.
    ``copied``: the rows as bytes of each format in ``native``, which come in blocks that end anywhere."""

    data: pa.Table
    size: int = 3
    between: Callable[[int], None] = lambda n: None
    filtered: int = 0
    native: tuple[str, ...] = ()
    quarantined: int = 0
    checks: str = ""
    copied: bytes = b""

    @property
    def schema(self) -> pa.Schema:
        return self.data.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        for n, batch in enumerate(self.data.to_batches(max_chunksize=self.size)):
            self.between(n)
            yield batch

    def open_native(self, format: str) -> Iterator[bytes]:
        assert format in self.native
        yield from (self.copied[at : at + 100] for at in range(0, len(self.copied), 100))


class Broken(RuntimeError):
    """The stream fails."""


def breaking(at: int) -> Callable[[int], None]:
    """``between`` that fails before batch number ``at``."""

    def between(batch: int) -> None:
        if batch == at:
            raise Broken

    return between


def inferred(values: list[Any]) -> pa.Array:
    """A column of what a client gives; as texts, where Arrow finds no type for all of them, as for whole numbers beyond
    64 bits."""
    try:
        return pa.array(values)
    except (OverflowError, pa.ArrowInvalid):
        return pa.array([None if value is None else str(value) for value in values])


def tabled(rows: Sequence[Mapping[str, Any]], names: Iterable[str] = ()) -> pa.Table:
    """A table of rows, each of which may lack columns. ``names``: columns that exist even if no row has them."""
    found = dict.fromkeys([*names, *(name for row in rows for name in row)])
    return pa.table({name: inferred([row.get(name) for row in rows]) for name in found})


def to_json(row: Mapping[str, Any]) -> bytes:
    """One object, in one line. Refuses NaN and infinities, which JSON cannot write."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=str).encode()


def from_json(data: bytes, binary: Iterable[str] = ()) -> dict[str, Any]:
    """Of one object. A number with a fraction comes as its text, which has all of its digits; base64 of ``binary``
    columns as bytes."""
    row: dict[str, Any] = json.loads(data, parse_float=str)
    undone = {name: base64.b64decode(row[name]) for name in binary if row.get(name) is not None}
    return {**row, **undone}


def declared(schema: pa.Schema) -> dict[str, str]:
    """Its types, as the option ``columns`` has them."""
    return {field.name: str(field.type) for field in schema}


def own(found: pa.Table) -> list[str]:
    """The columns that dpone added."""
    return [name for name in found.column_names if name.startswith(PREFIX)]


def values(found: pa.Table, schema: pa.Schema) -> list[Row]:
    """Rows in the columns and types of ``schema``; what a client gives as text or number is cast."""
    columns = []
    for field in schema:
        column = found.column(field.name)
        try:
            columns.append((column if column.type == field.type else column.cast(field.type)).to_pylist())
        except pa.ArrowInvalid as error:
            raise AssertionError(f"column {field.name} has values that do not fit {field.type}: {error}") from error
    return list(zip(*columns, strict=True)) if columns else [()] * found.num_rows


def same(found: pa.Table | None, expected: pa.Table | Sequence[Row], schema: pa.Schema | None = None) -> None:
    """Assert that ``found`` has exactly these rows, in any order, duplicates counted. dpone's own columns are
    ignored."""
    if isinstance(expected, pa.Table):
        schema = expected.schema
        expected = values(expected, schema)
    schema = SHAPE if schema is None else schema
    if found is None:
        assert not expected, f"there is no table, but {counted(len(expected), 'row')} should be in it"
        return
    if not found.num_columns and not expected:
        return  # a log has no columns but those of its records
    kept = [name for name in found.column_names if name not in own(found)]
    assert sorted(kept) == sorted(schema.names), f"columns {kept}, not {schema.names}"
    lost, added = differences(found, expected, schema)
    said = f"missing rows: {lost.total()}, extra rows: {added.total()}: -{_few(lost)} +{_few(added)}"
    assert lost == added == Counter(), said


def differences(
    found: pa.Table | None, expected: Iterable[Row], schema: pa.Schema, once: bool = True
) -> tuple[Counter[str], Counter[str]]:
    """Rows of ``expected`` that are missing, and others that were found, as texts. Without ``once``, an expected row
    may be there more than once."""
    want = Counter(map(repr, expected))
    have = Counter() if found is None else Counter(map(repr, values(found, schema)))
    if not once:
        have = Counter({row: min(n, want[row]) or n for row, n in have.items()})
    return want - have, have - want


def at_least(found: pa.Table | None, expected: pa.Table) -> None:
    """Assert that ``found`` has each of these rows at least once, and no other row."""
    assert found is not None, "there is no table"
    have, want = (
        Counter(map(repr, values(found, expected.schema))),
        Counter(map(repr, values(expected, expected.schema))),
    )
    lost, strange = want - have, [row for row in have if row not in want]
    assert not lost, f"missing rows: {lost.total()}: {_few(lost)}"
    assert not strange, f"rows that were never sent: {strange[:3]}"


def _few(rows: Mapping[str, int]) -> list[str]:
    return list(rows)[:3]
