"""Replaces the columns of a target: in the commit a table with other columns and the rows of one load takes its place.

If nothing depends on the target that would be lost, the new table gets its name. Otherwise the target is emptied, and
gets the columns and rows of the new table. Either way readers see the old rows until the commit.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from attrs import evolve

from dpone.contract import Load
from dpone.errors import DeletesRefused, SinkError, counted
from dpone.model.schema import NATIVE, Name
from dpone.sql.dialect import Database, Dialect
from dpone.sql.strategies.job import RowCounts


def replaced(db: Database, target: Name, new: Name, load: Load, counts: RowCounts) -> RowCounts:
    """Part of the caller's transaction. ``new`` may still exist afterwards. Raises DeletesRefused, SinkError."""
    before, rows = _count(db, target), _count(db, new)
    if not _may_replace(target, load, before, rows):
        return RowCounts()
    try:
        if db.is_swappable(target, load.strategy.key):
            db.swap(new, target)
        else:
            _refill(db, target, new)
    except SinkError as error:
        todo = "drop what depends on the table, or the table itself, and run again with --full-refresh"
        raise SinkError(f"replace table {target} by one with other columns", error.found, todo) from error.__cause__
    return evolve(counts, deleted=before)


def _may_replace(target: Name, load: Load, before: int, rows: int) -> bool:
    """By the rules of the strategy for rows that the source no longer has."""
    failed, strategy = f"replace table {target}", load.strategy
    if load.changes:
        if rows or not before or strategy.truncate == "apply":
            return True
        if strategy.truncate == "ignore":
            return False
        todo = "set strategy.truncate: apply to delete all rows, or ignore; nothing was changed"
        raise DeletesRefused(failed, "the source is empty, but the target is not", todo)
    share = strategy.max_delete_share if strategy.mode == "snapshot_diff" else 1.0
    if rows and before - rows > share * before:
        found = (
            f"the source has {counted(rows, 'row')}, the target {before:,}; max_delete_share allows {share:.1%} fewer"
        )
        todo = "check that the source is complete; if it is, raise strategy.max_delete_share (1.0 allows all)"
        raise DeletesRefused(failed, found, todo)
    return bool(rows) or strategy.allow_empty


def _refill(db: Database, target: Name, new: Name) -> None:
    d, have, wanted = db.dialect, db.schema(target), db.schema(new)
    assert have is not None, "a target that does not exist is created, not replaced"
    assert wanted is not None, "it was made when the load was opened"
    db.clear(target)
    for statement in _reshape(d, target, have, wanted):
        db.execute(statement)
    db.execute(f"{d.insert_into(target, wanted.names)} SELECT {d.columns(wanted.names, 's')} FROM {d.name(new)} AS s")


def _reshape(d: Dialect, target: Name, have: pa.Schema, wanted: pa.Schema) -> Iterator[str]:
    yield from (d.drop_column(target, name) for name in have.names if name not in wanted.names)
    for column in wanted:
        at = have.get_field_index(column.name)
        if at < 0:
            yield d.add_column(target, column)
        elif _word(have.field(at)) != _word(column):
            yield from d.retype_column(target, column)


def _word(column: pa.Field) -> tuple[pa.DataType, bytes | None]:
    return column.type, (column.metadata or {}).get(NATIVE)


def _count(db: Database, table: Name) -> int:
    [(rows,)] = db.rows(f"SELECT COUNT(*) FROM {db.dialect.name(table)} AS t")
    return int(rows)
