"""Rows as keys and values of records. A further format is a branch of ``values`` or ``keys``, and a word of the
options."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dpone.errors import ConfigError, DataError
from dpone.formats.json_text import NotJson, has_union, json_texts
from dpone_kafka.sink_options import KafkaSinkOptions

_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def refused(type_: pa.DataType) -> str:
    """Why JSON cannot have a type; empty if it can."""
    if has_union(type_):
        return "JSON has no unions"
    try:
        json_texts(pa.nulls(0, type_))
    except NotJson as error:
        return f"JSON cannot represent {error.reason}"
    except pa.ArrowException:
        return "Arrow cannot write it as text"
    return ""


@frozen
class Encoder:
    """Of the rows of one load. ``what`` for messages: the topic."""

    options: KafkaSinkOptions
    schema: pa.Schema
    what: str

    def check(self) -> None:
        """Raises ConfigError for columns that the options name and the rows do not have, DataError for types that
        cannot be written."""
        key, value, partition = self.options.key, self.options.value, self.options.partition
        for option, names in (("key", key.columns if key else ()), ("partition", (partition.column,))):
            for name in filter(None, names):
                self._require(option, name)
        if key is not None:
            for name in key.columns:
                self._require_exact(name)
            if key.format != "json":
                self._require_type("key", key.columns[0], key.format)
        if value.format != "json":
            self._require_type("value", self._value_column(), value.format)
        else:
            for field in self.schema:
                if why := refused(field.type):
                    found = f"column {field.name} is {field.type}, but {why}"
                    raise DataError(f"write {self.what}", found, "leave it out in the source, or use another type")
            if len({*self.schema.names}) < len(self.schema):
                raise DataError(f"write {self.what}", "two columns with the same name", "rename one in the source")
        if partition.column is not None and not pa.types.is_integer(self.schema.field(partition.column).type):
            found = f"column {partition.column} is {self.schema.field(partition.column).type}"
            raise ConfigError("read options.partition", found, "name a column of whole numbers")

    def _require(self, option: str, name: str) -> None:
        if self.schema.get_field_index(name) < 0:
            found = f"the rows have no column {name}, or several"
            raise ConfigError(f"read options.{option}", found, f"use one of {', '.join(self.schema.names)}")

    def _require_exact(self, name: str) -> None:
        """OUT-10: 0.0 and -0.0 are one number and two texts, so their rows would get different keys."""
        type_ = self.schema.field(name).type
        if pa.types.is_floating(type_) or pa.types.is_nested(type_):
            found = f"column {name} is {type_}, whose equal values can have different texts"
            raise ConfigError("read options.key", found, "use columns of whole numbers, decimals, texts or times")

    def _require_type(self, option: str, name: str, format: str) -> None:
        type_ = self.schema.field(name).type
        if not any(is_one(type_) for is_one in (_BINARY if format == "bytes" else _TEXT)):
            if format == "text" and option == "key" and (pa.types.is_integer(type_) or pa.types.is_boolean(type_)):
                return
            kind = "binary" if format == "bytes" else "text"
            found = f"column {name} is {type_}, but format {format} needs a column of {kind}"
            raise ConfigError(f"read options.{option}", found, "use format: json, or another column")

    def _value_column(self) -> str:
        if (name := self.options.value.column) is not None:
            self._require("value", name)
            return name
        key = self.options.key.columns if self.options.key else ()
        others = [name for name in self.schema.names if name not in key]
        if len(others) != 1:
            found = f"format {self.options.value.format}, but the rows have {len(others)} columns besides the key"
            raise ConfigError("read options.value", found, "set value.column to one of them")
        return str(others[0])

    def values(self, batch: pa.RecordBatch, part: str, first: int) -> pa.Array:
        if self.options.value.format == "json":
            return self._json(batch, part, first)
        return _bytes(batch.column(self._value_column()))

    def keys(self, batch: pa.RecordBatch, part: str, first: int) -> pa.Array:
        key = self.options.key
        if key is None:
            return pa.nulls(batch.num_rows, pa.binary())
        if key.format == "json":
            return self._json(batch.select(list(key.columns)), part, first)
        column = batch.column(key.columns[0])
        if column.null_count:
            row = first + pc.index(column.is_null(), True).as_py() + 1
            found = f"row {row:,} of part {part} has NULL in the key column {key.columns[0]}"
            raise DataError(f"write {self.what}", found, "use key.format: json, or correct the source")
        return _bytes(column if any(is_one(column.type) for is_one in _BINARY) else column.cast(pa.string()))

    def _json(self, batch: pa.RecordBatch, part: str, first: int) -> pa.Array:
        try:
            return json_texts(batch.to_struct_array()).cast(pa.binary())
        except NotJson:
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                try:
                    json_texts(column)
                except NotJson as error:
                    found = f"row {first + error.row + 1:,} of part {part} has {error.reason} in column {name}"
                    todo = "correct the source; JSON cannot represent it"
                    raise DataError(f"write {self.what}", found, todo) from None
            raise


def _bytes(column: pa.Array) -> pa.Array:
    return column.cast(pa.binary())
