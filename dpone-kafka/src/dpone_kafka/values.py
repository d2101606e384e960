"""The bytes of keys and values as columns: one class for each format, and ``decoder``, where a further one is added.

A record that its format cannot read is *bad*: it is left out, with the reason, and the caller decides what becomes of
it. A block of records is read as a whole by the kernels of pyarrow and ``dpone.formats``; only where that fails are its
records looked at one by one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from attrs import frozen

from dpone.formats.jsonl import batch_of, column_of, members, read_lines, seen_in, seen_in_lines
from dpone.formats.text import united
from dpone.formats.types import BadValue, SeenValues, declared, from_text
from dpone.model.types import JSON
from dpone_kafka.config import Layout

Bytes = Sequence[bytes | None]


@frozen(eq=False)
class Decoded:
    """``columns`` of the records that could be read, in their order; ``bad``: the others by their place in the block,
    with the reason."""

    columns: Sequence[pa.Array]
    bad: Mapping[int, str]


class Decoder(Protocol):
    """One format of keys or values. ``schema``: its columns. A record without bytes is NULL in all of them."""

    @property
    def schema(self) -> pa.Schema: ...

    def decode(self, values: Bytes) -> Decoded: ...


def decoder(layout: Layout, name: str, schema: pa.Schema | None = None) -> Decoder:
    """``name``: of the one column, if there is one. ``schema``: what ``infer`` has found."""
    if schema is not None:
        return JsonObjects(schema)
    if layout.columns:
        columns = pa.schema(list(declared(layout.columns).items()))
        return JsonObjects(columns) if layout.format == "json" else CsvLines(columns, layout)
    return _WHOLE[layout.format](layout.column or name, layout)


def _readable(values: Bytes, bad: Mapping[int, str]) -> list[bytes | None]:
    return [value for i, value in enumerate(values) if i not in bad] if bad else list(values)


def _spread(columns: Sequence[pa.Array], values: Bytes) -> list[pa.Array]:
    """Columns of the values that are not NULL, with NULL where one is."""
    if None not in values:
        return list(columns)
    there = np.fromiter((value is not None for value in values), bool, len(values))
    places = pa.array(np.cumsum(there) - 1, mask=~there)
    return [column.take(places) for column in columns]


@frozen
class WholeBytes:
    schema: pa.Schema

    def decode(self, values: Bytes) -> Decoded:
        return Decoded([pa.array(values, pa.binary())], {})


@frozen
class WholeText:
    schema: pa.Schema
    encoding: str

    def decode(self, values: Bytes) -> Decoded:
        texts, bad = _texts(values, self.encoding)
        return Decoded([pa.array(texts, pa.string())], bad)


@frozen
class WholeJson:
    """Any JSON value, as it was sent."""

    schema: pa.Schema

    def decode(self, values: Bytes) -> Decoded:
        if (lines := _lines(values)) is None or read_lines(lines) is None:
            texts, bad = _texts(values, "utf-8", json.loads, parse_constant=_refuse)
        else:
            texts, bad = _texts(values, "utf-8")
        return Decoded([pa.ExtensionArray.from_storage(JSON, pa.array(texts, pa.string()))], bad)


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _texts(
    values: Bytes, encoding: str, check: Callable[..., Any] | None = None, **how: Any
) -> tuple[list[str | None], dict[int, str]]:
    """The texts of the good ones, and the reasons of the bad ones."""
    texts: list[str | None] = []
    bad: dict[int, str] = {}
    for i, value in enumerate(values):
        try:
            text = None if value is None else value.decode(encoding)
            if text is not None and check is not None:
                check(text, **how)
        except UnicodeDecodeError:
            bad[i] = f"it is not {encoding}"
        except (ValueError, RecursionError):
            bad[i] = "it is not valid JSON"
        else:
            texts.append(text)
    return texts, bad


def _lines(values: Bytes) -> bytes | None:
    """The values that are not NULL as lines of UTF-8; None if one of them is not one line."""
    there = values if None not in values else [value for value in values if value is not None]
    joined, count = b"\n".join([*there, b""]), len(there)  # type: ignore[list-item]
    if not count or joined.count(b"\n") != count:
        return None
    if not joined.isascii():
        try:
            joined.decode()
        except UnicodeDecodeError:
            return None
    return joined


@frozen
class JsonObjects:
    """One object for each record; a member that it lacks is NULL, and members that the schema lacks are not read."""

    schema: pa.Schema

    def decode(self, values: Bytes) -> Decoded:
        lines = _lines(values)
        batch = None if lines is None else batch_of(lines, self.schema)
        if batch is not None and batch.num_rows == len(values) - values.count(None):
            return Decoded(_spread(batch.columns, values), {})
        return self._one_by_one(values)

    def _one_by_one(self, values: Bytes) -> Decoded:
        rows, bad = _objects(values)
        columns: list[pa.Array] = []
        for field in self.schema:
            texts = [None if row is None else row.get(field.name) for row in rows]
            places = [i for i in range(len(values)) if i not in bad]
            if worse := _misfits(texts, field.type):
                bad |= {places[at]: f"its member {field.name!r} is not a valid {field.type}" for at in worse}
                return self._without(values, bad)
            columns.append(column_of(texts, field.type) if any(texts) else pa.nulls(len(texts), field.type))
        return Decoded(columns, bad)

    def _without(self, values: Bytes, bad: Mapping[int, str]) -> Decoded:
        """Once more without those: each of the others may be bad in another member."""
        places = [i for i in range(len(values)) if i not in bad]
        rest = self.decode([values[i] for i in places])
        return Decoded(rest.columns, {**bad, **{places[i]: why for i, why in rest.bad.items()}})


def _objects(values: Bytes) -> tuple[list[dict[str, str] | None], dict[int, str]]:
    rows: list[dict[str, str] | None] = []
    bad: dict[int, str] = {}
    for i, value in enumerate(values):
        try:
            rows.append(None if value is None else members(value.decode()))
        except UnicodeDecodeError:
            bad[i] = "it is not UTF-8"
        except (ValueError, IndexError, RecursionError):
            bad[i] = "it is not a JSON object"
    return rows, bad


def _misfits(texts: list[str | None], type_: pa.DataType) -> list[int]:
    """Which of the JSON texts do not fit the type; each is tried only if not all fit."""
    try:
        column_of(texts, type_)
    except BadValue:
        return [i for i, text in enumerate(texts) if not _reads([text], type_)]
    return []


def _reads(one: pa.Array | list[str | None], type_: pa.DataType) -> bool:
    try:
        column_of(one, type_) if isinstance(one, list) else from_text(one, type_)
    except BadValue:
        return False
    return True


@frozen
class CsvLines:
    """One line for each record, whose fields are the columns in their order. An empty field is NULL."""

    schema: pa.Schema
    layout: Layout

    def decode(self, values: Bytes) -> Decoded:
        texts, bad = _texts(values, self.layout.encoding)
        places = [i for i in range(len(values)) if i not in bad]
        rows: list[list[str | None] | None] = []
        for place, text in zip(places, texts, strict=True):
            row = None if text is None else self._fields(text)
            if isinstance(row, str):
                bad[place] = row
            else:
                rows.append(row)
        places = [i for i in places if i not in bad]
        columns = []
        for n, field in enumerate(self.schema):
            column = pa.array([None if row is None else row[n] for row in rows], pa.string())
            try:
                columns.append(column if field.type == pa.string() else from_text(column, field.type))
            except BadValue:
                wrong = [i for i in range(len(column)) if not _reads(column.slice(i, 1), field.type)]
                bad |= {places[i]: f"its field {field.name!r} is not a valid {field.type}" for i in wrong}
                return self._without(values, bad)
        return Decoded(columns, bad)

    def _without(self, values: Bytes, bad: Mapping[int, str]) -> Decoded:
        places = [i for i in range(len(values)) if i not in bad]
        rest = self.decode([values[i] for i in places])
        return Decoded(rest.columns, {**bad, **{places[i]: why for i, why in rest.bad.items()}})

    def _fields(self, text: str) -> list[str | None] | str:
        """The fields; or the reason why it is not a line of them."""
        try:
            found = list(csv.reader([text.rstrip("\r\n")], delimiter=self.layout.delimiter, strict=True))
        except csv.Error:
            return "it is not a CSV line"
        if len(found) != 1 or len(found[0]) != len(self.schema):
            return f"it has {len(found[0]) if found else 0} fields, not {len(self.schema)}"
        return [one or None for one in found[0]]


_WHOLE: Mapping[str, Callable[[str, Layout], Decoder]] = {
    "bytes": lambda name, _: WholeBytes(pa.schema([(name, pa.binary())])),
    "text": lambda name, layout: WholeText(pa.schema([(name, pa.string())]), layout.encoding),
    "json": lambda name, _: WholeJson(pa.schema([(name, JSON)])),
}


def seen(values: Bytes) -> dict[str, SeenValues]:
    """The members of JSON objects, with what their values hold. Bad records say nothing."""
    lines = _lines(values)
    looks = None if lines is None else seen_in_lines(lines)
    if looks is not None:
        return united(looks)
    rows, _ = _objects(values)
    return united(_of_rows(rows))


def _of_rows(rows: Sequence[Mapping[str, str] | None]) -> Iterator[dict[str, SeenValues]]:
    for row in rows:
        if row is not None:
            yield {name: seen_in(text) for name, text in row.items()}
