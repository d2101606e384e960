"""Ranges of one column of a table, each read separately in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from attrs import evolve, frozen

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.errors import ConfigError
from dpone.model.bounds import (
    Bound,
    Bounds,
    ranges,
    split,
)
from dpone.model.schema import Name

ROWID = "rowid"


class Asked(Protocol):
    """The queries of ``Ranges`` to a source, in its snapshot."""

    name: str

    @property
    def relation(self) -> str: ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]: ...


@frozen
class Ranges:
    """wanted: ``options.partition_by``."""

    source: Asked
    table: Name | None
    wanted: str | None

    def split(self, n: int) -> tuple[Bounds, ...]:
        """At most ``n`` ranges and the rows without a value; none: the source is read as a whole.

        Whole numbers are split into ranges of equal width, which needs only the lowest and the highest value.
        Everything else is split by rank, so that the order is SQLite's own, whatever kinds of values there are.
        """
        column = self._column()
        if column is None:
            return ()
        low, high = self._ends(column)
        if low is None:
            return ()
        found = split(column, low, high, n) if _whole(low, high) else ranges(column, self._ranks(column, high, n))
        found = (*found[:-1], evolve(found[-1], upper=None, upper_inclusive=False))
        found = (evolve(found[0], lower=None), *found[1:])
        return found if self._is_rowid(column) else (*found, Bounds(column, null=True))

    def _column(self) -> str | None:
        if self.table is None:
            return self._known(self.wanted)
        key = self.source.rows("SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0", (self.table.last,))
        if self.wanted is not None or len(key) == 1:
            return self._known(self.wanted) or str(key[0][0])
        sql = "SELECT type = 'table' AND NOT wr FROM pragma_table_list(?) WHERE schema = 'main'"
        return ROWID if self.source.rows(sql, (self.table.last,)) == [(1,)] else None

    def _known(self, column: str | None) -> str | None:
        """The column as the source spells it. SQLite would take an unknown name for a text or for the rowid."""
        if column is None:
            return None
        place = ("__dpone__query", "temp") if self.table is None else (self.table.last, "main")
        sql = "SELECT name FROM pragma_table_xinfo(?, ?) WHERE name = ? COLLATE NOCASE"
        if not (found := self.source.rows(sql, (*place, column))):
            raise ConfigError(
                "read options.partition_by", f"{self.source.name} has no column {column}", "use the name of a column"
            )
        return str(found[0][0])

    def _is_rowid(self, column: str) -> bool:
        """It is never NULL."""
        if self.table is None:
            return False
        sql = "SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0 AND upper(type) = 'INTEGER'"
        return column == ROWID or self.source.rows(sql, (self.table.last,)) == [(column,)]

    def _ends(self, column: str) -> tuple[Any, Any]:
        c, of = _quoted(column), f"FROM {self.source.relation} AS s"
        return tuple(self.source.rows(f"SELECT (SELECT MIN({c}) {of}), (SELECT MAX({c}) {of})")[0])

    def _ranks(self, column: str, high: Bound, n: int) -> list[Bound]:
        """Values at equal distances in rank, each once, and the highest one."""
        c, of = _quoted(column), f"FROM {self.source.relation} AS s"
        count = self.source.rows(f"SELECT COUNT({c}) {of}")[0][0]
        every = f"SELECT {c} AS v, ROW_NUMBER() OVER (ORDER BY {c}) - 1 AS i {of} WHERE {c} IS NOT NULL"
        rows = self.source.rows(f"SELECT v FROM ({every}) WHERE i % ? = 0 ORDER BY i", (max(1, -(-count // n)),))
        return list(dict.fromkeys([*(value for (value,) in rows), high]))


def _whole(low: Any, high: Any) -> bool:
    return type(low) is int and type(high) is int


def _quoted(column: str) -> str:
    """In the column's own collation, which also ordered the ends of the ranges, so that an index can be used."""
    return f"s.{SqliteDialect().quote(column)}"
