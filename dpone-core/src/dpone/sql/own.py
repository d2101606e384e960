"""A table of dpone's own: the journal, the catalogue of the staging, what a state backend keeps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from dpone.model.schema import Name
from dpone.sql.dialect import Database

_WHOLE = "whole_"
_SHORTENED = re.compile("~[0-9a-f]{64}$")


class Own:
    """Made before it is first written. Every call is part of the caller's transaction.

    Where the texts of a primary key have a limit (``Dialect.max_key``) a longer one stands there as its begin and its
    SHA-256, and once more in the column ``whole_<name>``: it is found by the one, and read from the other.
    """

    def __init__(self, db: Database, name: Name, schema: pa.Schema, key: Sequence[str]) -> None:
        self.name = name
        self._db, self._schema, self._key = db, schema, tuple(key)

    def exists(self) -> bool:
        return self._db.schema(self.name) is not None

    def names(self) -> list[str]:
        """Those of its columns that this version knows and the table has; a version before may have made it."""
        have = self._db.schema(self.name)
        return [] if have is None else [name for name in self._schema.names if name in have.names]

    def create(self) -> None:
        """Nothing if it is there; columns that a later version brought are added."""
        have, wanted = self._db.schema(self.name), pa.schema([*self._schema, *self._whole])
        if have is None:
            self._db.create(self.name, wanted, self._key)
            return
        for field in wanted:
            if field.name not in have.names:
                self._db.execute(self._db.dialect.add_column(self.name, field))

    def rows(
        self, names: Sequence[str], equal: Mapping[str, Any], more: str = "", values: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Of the lines (alias a) that have these values; ``more`` follows the condition, ``values`` are bound in it."""
        where = self._is(equal, "a.") or "1 = 1"
        sql = f"SELECT {self._columns(names)} FROM {self._quoted} AS a WHERE {where}{more}"
        return self._db.rows(sql, (*self._found(equal), *values))

    def distinct(self, name: str) -> list[Any]:
        """By the column alone: not every server compares texts of any length, or what COALESCE makes of them."""
        column = f"a.{self._db.dialect.quote(name)}"
        found = [value for (value,) in self._db.rows(f"SELECT DISTINCT {column} FROM {self._quoted} AS a")]
        return [self._read_whole(name, value) for value in found] if name in self._limits else found

    def _read_whole(self, name: str, value: str) -> str:
        """What stands in the column, or what it was made of, in a line that has it."""
        if not _SHORTENED.search(value):
            return value
        d, bound, first = self._db.dialect, [value], ""
        if len(self._key) == 2:
            [other] = (d.quote(column) for column in self._key if column != name)
            lines = f"SELECT MIN(k.{other}) FROM {self._quoted} AS k WHERE k.{d.quote(name)} = {d.placeholder}"
            first, bound = f" AND a.{other} = ({lines})", [value, value]
        where = f"a.{d.quote(name)} = {d.placeholder}{first}"
        sql = f"SELECT a.{d.quote(_WHOLE + name)} FROM {self._quoted} AS a WHERE {where}"
        whole = next((line[0] for line in self._db.rows(sql, bound)), None)
        return value if whole is None else str(whole)

    def insert(self, *values: Any) -> None:
        """One line, its values in the order of the columns."""
        d, line = self._db.dialect, self._written(dict(zip(self._schema.names, values, strict=True)))
        holes = ", ".join([d.placeholder] * len(line))
        self._db.execute(f"INSERT INTO {self._quoted} ({d.columns(line)}) VALUES ({holes})", (*line.values(),))

    def update(self, values: Mapping[str, Any], equal: Mapping[str, Any]) -> int:
        d, line = self._db.dialect, self._written(values)
        sets = ", ".join(f"{d.quote(name)} = {d.placeholder}" for name in line)
        sql = f"UPDATE {self._quoted} SET {sets} WHERE {self._is(equal)}"
        return self._db.execute(sql, (*line.values(), *self._found(equal)))

    def delete(self, equal: Mapping[str, Any]) -> None:
        self._db.execute(f"DELETE FROM {self._quoted} WHERE {self._is(equal)}", self._found(equal))

    def stored(self, name: str, value: Any) -> Any:
        """The value by which a line is found in the column."""
        most = self._limits.get(name)
        if most is None or self._db.dialect.length(value) <= most:
            return value
        digest = hashlib.sha256(value.encode()).hexdigest()
        begin = value.encode()[: most - len(digest) - 1].decode(errors="ignore")  # in bytes: never fewer than units
        return f"{begin}~{digest}"

    @cached_property
    def _limits(self) -> Mapping[str, int]:
        most = self._db.dialect.key_size(self._schema, self._key)
        texts = (name for name in self._key if pa.types.is_string(self._schema.field(name).type))
        return {} if most is None else dict.fromkeys(texts, most)

    @property
    def _whole(self) -> list[pa.Field]:
        return [pa.field(_WHOLE + name, pa.string()) for name in self._limits]

    @property
    def _quoted(self) -> str:
        return self._db.dialect.name(self.name)

    def _columns(self, names: Iterable[str]) -> str:
        d = self._db.dialect
        bare = {name: f"a.{d.quote(name)}" for name in names}
        whole = {name: f"COALESCE(a.{d.quote(_WHOLE + name)}, {bare[name]})" for name in bare if name in self._limits}
        return ", ".join({**bare, **whole}.values())

    def _is(self, equal: Mapping[str, Any], alias: str = "") -> str:
        d = self._db.dialect
        return " AND ".join(f"{alias}{d.quote(name)} = {d.placeholder}" for name in equal)

    def _found(self, equal: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self.stored(name, value) for name, value in equal.items())

    def _written(self, values: Mapping[str, Any]) -> dict[str, Any]:
        line = {name: self.stored(name, value) for name, value in values.items()}
        long = {name: None if line[name] == values[name] else values[name] for name in self._limits if name in values}
        return line | {_WHOLE + name: value for name, value in long.items()}
