"""Schema changes as statements; the same for every SQL sink."""

from __future__ import annotations

from collections.abc import Sequence

from dpone.errors import SinkError
from dpone.evolution import Change
from dpone.schema import Name
from dpone.sql.dialect import Dialect


def statements(dialect: Dialect, target: Name, change: Change, key: Sequence[str] = ()) -> list[str]:
    """Statements that make one change. A table that is created gets ``key`` as its primary key."""
    if change.kind == "create" and change.schema is not None:
        return [dialect.create_table(target, change.schema, key)]
    if change.kind == "add" and change.after is not None:
        return [dialect.add_column(target, change.after)]
    if change.kind == "widen" and change.before is not None and change.after is not None:
        return dialect.widen_column(target, change.before, change.after)
    raise SinkError(f"evolve {target}", f"no statement makes the change '{change}'", "change the table by hand")
