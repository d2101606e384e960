"""Columns, tables and keys as ``information_schema`` has them (ISO/IEC 9075-11): in MySQL, MariaDB, SQL Server,
PostgreSQL, CockroachDB, DuckDB.

Foreign keys are read from it as the standard has them. Override ``references`` where that is not so: in MySQL all
primary keys have the same name, SQL Server does not say which column a key refers to, and in DuckDB and PostgreSQL two
keys of a schema may have the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from dpone.model.schema import DEFAULT, Name
from dpone.sql.dialect import Database, Reference

# Schemas of servers, whose views are of their own tables.
_SERVERS = "'information_schema', 'performance_schema', 'pg_catalog', 'mysql', 'sys'"
_ACTS = ("CASCADE", "SET NULL", "SET DEFAULT")
_JOINED = ("constraint_catalog", "constraint_schema", "constraint_name", "table_schema", "table_name")


class Catalog(Database):
    """The part of a Database that reads the catalogue. A connector writes ``attached`` if it declares ``take_back``.
    For a server without information_schema it overrides ``columns``, ``keys``, ``tables``, ``listed``, ``dependants``,
    ``references`` and ``identity``. The attributes are expressions over a row i of a view:

    home      the schema of a table whose name has one part
    same      the condition that two names are equal
    native    the type of a column, in words that ``Dialect.reads`` knows
    filled    the condition that the server fills a column which a row does not bring
    writable  the condition that a row may bring a value for a column
    """

    home: ClassVar[str] = "CURRENT_SCHEMA"
    same: ClassVar[str] = "{} = {}"
    native: ClassVar[str] = (
        "CASE WHEN lower(i.data_type) IN ('numeric', 'decimal') AND i.numeric_precision IS NOT NULL THEN i.data_type"
        " || '(' || i.numeric_precision || ',' || i.numeric_scale || ')' ELSE i.data_type END"
    )
    filled: ClassVar[str] = "i.column_default IS NOT NULL"
    writable: ClassVar[str] = "1 = 1"

    def attached(self, table: Name, column: str = "") -> list[str]:
        """For ``dependants``: what no standard view has, indexes and triggers."""
        return []

    # ---- the rows of a view that belong to a table

    def within(self, table: Name) -> tuple[str, tuple[str, ...]]:
        """The condition that a row belongs to the table's schema, and its parameters."""
        named = table.parts[-2:-1]
        return self.same.format("i.table_schema", self.dialect.placeholder if named else self.home), named

    def lines(
        self, view: str, columns: str, table: Name, more: str = "", bound: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of a view that belong to the table. ``view`` ends with its alias i or with a join; ``more`` follows
        the condition and has the parameters ``bound``."""
        schema, named = self.within(table)
        where = f"{schema} AND {self.same.format('i.table_name', self.dialect.placeholder)}"
        sql = f"SELECT {columns} FROM information_schema.{view} WHERE {where}{more}"
        return self.rows(sql, (*named, table.last, *bound))

    # ---- of ``Database``

    def columns(self, table: Name) -> list[tuple[Any, ...]]:
        """All columns of a table or view, in their order: name, native type, whether it may be NULL, whether the server
        fills it if a row does not bring it, and whether a row may bring it (not if it is generated)."""
        tests = ("i.is_nullable = 'YES'", self.filled, self.writable)
        names = ", ".join(["i.column_name", self.native, *(f"CASE WHEN {test} THEN 1 ELSE 0 END" for test in tests)])
        return self.lines("columns AS i", names, table, " ORDER BY i.ordinal_position")

    def schema(self, table: Name) -> pa.Schema | None:
        made = [
            pa.field(name, self.dialect.reads(native) or pa.string(), bool(null), {DEFAULT: b"yes"} if own else None)
            for name, native, null, own, writable in self.columns(table)
            if writable
        ]
        return pa.schema(made) if made else None

    def tables(self, sibling_of: Name, prefix: str) -> list[Name]:
        where, named = self.within(sibling_of)
        like = f"i.table_type = 'BASE TABLE' AND i.table_name LIKE {self.dialect.placeholder} ESCAPE '!'"
        sql = f"SELECT i.table_name FROM information_schema.tables AS i WHERE {where} AND {like}"
        return [sibling_of.sibling(name) for (name,) in self.rows(sql, (*named, f"{_literally(prefix)}%"))]

    def listed(self, everywhere: bool) -> list[Name]:
        """For a source: the tables and views of the current schema, by their names alone, dpone's own included.
        ``everywhere``: of every schema that is not the server's, by schema and name."""
        of = f"i.table_schema NOT IN ({_SERVERS})" if everywhere else self.same.format("i.table_schema", self.home)
        found = self.rows(f"SELECT i.table_schema, i.table_name FROM information_schema.tables AS i WHERE {of}")
        return [Name((schema, name) if everywhere else (name,)) for schema, name in found]

    def keys(self, table: Name) -> list[tuple[str, str, bool]]:
        """Each column of each unique key: the name of the key, the column, and whether it is the primary key; in the
        order of the columns in their key."""
        same = " AND ".join(f"k.{name} = i.{name}" for name in _JOINED)
        view = f"table_constraints AS i JOIN information_schema.key_column_usage AS k ON {same}"
        more = " AND i.constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY i.constraint_name, k.ordinal_position"
        found = self.lines(view, "i.constraint_name, k.column_name, i.constraint_type", table, more)
        return [(name, column, kind == "PRIMARY KEY") for name, column, kind in found]

    def primary_key(self, table: Name) -> tuple[str, ...]:
        return tuple(column for _, column, primary in self.keys(table) if primary)

    def unique(self, table: Name, key: Sequence[str]) -> bool:
        found: dict[str, set[str]] = {}
        for name, column, _ in self.keys(table):
            found.setdefault(name, set()).add(column)
        return {*key} in found.values()

    def references(self, table: Name) -> list[Reference]:
        """A key that refers to a unique index which is not a constraint is not found."""
        named = " AND ".join(f"{{0}}.{name} = {{1}}.{name}" for name in ("constraint_catalog", "constraint_schema"))
        view = (
            "key_column_usage AS i JOIN information_schema.referential_constraints AS r"
            " ON r.unique_constraint_catalog = i.constraint_catalog"
            " AND r.unique_constraint_schema = i.constraint_schema AND r.unique_constraint_name = i.constraint_name"
            f" JOIN information_schema.key_column_usage AS f ON {named.format('f', 'r')}"
            " AND f.constraint_name = r.constraint_name AND f.position_in_unique_constraint = i.ordinal_position"
        )
        columns = "f.table_schema, f.table_name, f.constraint_name, r.delete_rule, f.column_name, i.column_name"
        order = " ORDER BY f.table_schema, f.table_name, f.constraint_name, f.ordinal_position"
        return foreign_keys(self.lines(view, columns, table, order))

    def identity(self, table: Name, column: str = "") -> str:
        """The text of its columns and keys. Add what else a server knows of a table, such as comments and checks."""
        columns = f"i.column_name, {self.native}, i.is_nullable, i.column_default"
        found = self.lines("columns AS i", columns, table, " ORDER BY i.ordinal_position")
        return str([line for line in found if line[0] == column] if column else [found, sorted(self.keys(table))])

    def dependants(self, table: Name, column: str = "") -> list[str]:
        """A view is found by its text, which contains the name."""
        like = f"i.table_schema NOT IN ({_SERVERS}) AND i.view_definition LIKE {self.dialect.placeholder} ESCAPE '!'"
        sql = f"SELECT i.table_name FROM information_schema.views AS i WHERE {like}"
        views = [f"view {name}" for (name,) in self.rows(sql, (f"%{_literally(column or table.last)}%",))]
        referring = [f"a reference from {one.table}" for one in self.references(table)]
        return [*views, *referring, *self.attached(table, column)]


def foreign_keys(lines: Iterable[tuple[Any, ...]]) -> list[Reference]:
    """For ``references``, from a row for each column of each key: schema, table, key name, delete rule, column and
    referenced column, in the order of the columns in their key. The result says ``immediate``."""
    found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for *key, column, to in lines:
        found.setdefault(tuple(key), []).append((column, to))
    return [
        Reference(Name((schema, table)), tuple(pairs), rule in _ACTS, immediate=True)
        for (schema, table, _, rule), pairs in found.items()
    ]


def _literally(text: str) -> str:
    """The text escaped for a pattern of LIKE."""
    return "".join(f"!{c}" if c in "!%_" else c for c in text)
