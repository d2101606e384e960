"""Which columns have a collation under which different texts can be equal (https://www.sqlite.org/datatype3.html,
section 7). No pragma shows the collation of a column, but a comparison does: the columns of a compound SELECT have the
collation of its first SELECT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from dpone.errors import DponeError
from dpone.model.keys import compared
from dpone.sql.dialect import Dialect

_ALL = "SELECT sql FROM sqlite_master UNION ALL SELECT sql FROM sqlite_temp_master"


def any_said(rows: Callable[..., list[Any]]) -> bool:
    """False if nothing in the file has a collation, as is usual."""
    return bool(rows(f"SELECT 1 FROM ({_ALL}) WHERE sql LIKE '%collate%' LIMIT 1"))


def collated(schema: pa.Schema, relation: str, rows: Callable[..., list[Any]], dialect: Dialect) -> pa.Schema:
    """The schema with ``schema.EQUALITY``."""

    def how(name: str) -> str:
        column = dialect.quote(name)
        one = f"SELECT s.{column} FROM {relation} AS s WHERE 0 UNION ALL SELECT 'a'"
        try:
            [(case, blanks)] = rows(f"SELECT r.{column} = 'A', r.{column} = 'a ' FROM ({one}) AS r")
        except DponeError:
            return "a user-defined collation"
        return "nocase" if case else "rtrim" if blanks else ""

    return pa.schema([compared(field, how(field.name)) for field in schema])
