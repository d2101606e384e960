"""A table of dpone's own: the journal, the registry of staging tables, the tables of a state backend."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa

from dpone.errors import SinkError, StateError
from dpone.model.schema import Name
from dpone.sql.dialect import Database

_WHOLE = "whole_"
_SHORTENED = re.compile("~[0-9a-f]{64}$")


@contextmanager
def as_state_errors(failed: str) -> Iterator[None]:
    """Errors of a Database are those of a sink; those of a state backend become StateErrors here."""
    try:
        yield
    except SinkError as error:
        raised = StateError(failed, error.found, error.todo)
        raised.category = error.category
        raise raised from error.__cause__


class Own:
    """Call ``create`` before the first write. Every call is part of the caller's transaction.

    If the length of texts in a primary key is limited (``Dialect.max_key``), a longer text is stored as its beginning
    and its SHA-256, and in full in the column ``whole_<name>``. The first is used to find a row, the second to read it.
    """

    def __init__(self, db: Database, name: Name, schema: pa.Schema, key: Sequence[str]) -> None:
        self.name = name
        self._db, self._schema, self._key = db, schema, tuple(key)

    def exists(self) -> bool:
        return self._db.schema(self.name) is not None

    def names(self) -> list[str]:
        """The columns that both this version and the table have; an earlier version may have created the table."""
        have = self._db.schema(self.name)
        return [] if have is None else [name for name in self._schema.names if name in have.names]

    def create(self) -> None:
        """Does nothing if the table exists, except that columns of a later version are added."""
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
        """Columns of the rows (alias a) that have the values ``equal``. ``more`` follows the condition; ``values`` are
        its parameters."""
        where = self._is(equal, "a.") or "1 = 1"
        sql = f"SELECT {self._columns(names)} FROM {self._quoted} AS a WHERE {where}{more}"
        return self._db.rows(sql, (*self._found(equal), *values))

    def distinct(self, name: str) -> list[Any]:
        """The different values of a column. DISTINCT is applied to the key column alone: some servers cannot compare
        texts of unlimited length, nor a COALESCE with one (Oracle has no DISTINCT of a CLOB)."""
        column = f"a.{self._db.dialect.quote(name)}"
        found = [value for (value,) in self._db.rows(f"SELECT DISTINCT {column} FROM {self._quoted} AS a")]
        return [self._read_whole(name, value) for value in found] if name in self._limits else found

    def _read_whole(self, name: str, value: str) -> str:
        """The full text of a value in the key; the value itself if it was not shortened."""
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
        """Insert one row; its values are in the order of the columns."""
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
        """The value as it is stored in the column, by which a row is found."""
        most = self._limits.get(name)
        if most is None or self._db.dialect.length(value) <= most:
            return value
        digest = hashlib.sha256(value.encode()).hexdigest()
        # Cut in bytes: a text never has fewer bytes than units, so that it fits.
        begin = value.encode()[: most - len(digest) - 1].decode(errors="ignore")
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
