"""Schema changes as statements; the same for every SQL sink."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dpone.errors import SinkError
from dpone.evolution import Change
from dpone.schema import Name
from dpone.sql.dialect import Dialect


def statements(dialect: Dialect, target: Name, change: Change, key: Sequence[str] = ()) -> list[str]:
    """Statements that make one change. A table that is created gets ``key`` as its primary key. A SELECT among them
    (``is_look``) gives a column, its new type, and how many rows hold a value that the change would not keep: it must
    be 0."""
    if change.kind == "create" and change.schema is not None:
        return [dialect.create_table(target, change.schema, key)]
    if change.kind == "add" and change.after is not None:
        return [dialect.add_column(target, change.after)]
    if change.kind == "widen" and change.before is not None and change.after is not None:
        made = dialect.widen_column(target, change.before, change.after)
        return [*_look(dialect, target, change.before, change.after), *made] if made else []
    raise SinkError(f"evolve {target}", f"the database cannot make the change '{change}'", "alter the table by hand")


def _look(dialect: Dialect, target: Name, before: pa.Field, after: pa.Field) -> list[str]:
    lost = dialect.lost(f"t.{dialect.quote(before.name)}", before.type, after.type)
    what = f"{dialect.literal(before.name)}, {dialect.literal(str(after.type))}"
    return [f"SELECT {what}, COUNT(*) FROM {dialect.name(target)} AS t WHERE {lost}"] if lost else []


def is_look(statement: str) -> bool:
    return statement.startswith("SELECT ")
