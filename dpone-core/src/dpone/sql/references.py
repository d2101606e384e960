"""Refuses loads because of foreign keys that refer to the target: loads that would delete or change rows of another
table, and loads that could never delete the rows that they replace.

Violations that depend on the rows of a load are detected by the server in the commit, which then fails as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dpone.errors import SinkError
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql.dialect import Database, Reference
from dpone.sql.strategies.job import is_empty
from dpone.sql.strategies.replace import predicate

Deleted = Literal["every", "replaced", "gone"]

_BY_HAND = "or drop the foreign key and recreate it after the load"


def require_deletable(db: Database, target: Name, strategy: Strategy, every_row: bool) -> None:
    """``SupportsRefuse.refuse`` of every SQL sink, for a target that exists. Raises SinkError."""
    deleted = _deleted(strategy, every_row)
    references = db.references(target) if deleted else []
    if deleted is None or not references or is_empty(db, target):
        return
    failed = f"delete rows of {target}" if deleted == "gone" else f"replace rows of {target}"
    # A reference of the table to itself does no harm if all rows are deleted together, or if the rows that are left
    # are then made equal to the rows read.
    others = [one for one in references if deleted == "replaced" or not _same(one.table, target)]
    _refuse_actions(failed, others, strategy)
    if deleted == "gone":
        return
    if refer := [one for one in others if one.immediate and _refers(db, target, one, strategy, deleted)]:
        found = f"{_names(refer)} references its rows, so they cannot be deleted, not even to insert them again"
        raise SinkError(failed, found, f"{_instead(strategy)}, {_BY_HAND}")


def require_no_action(db: Database, target: Name, failed: str) -> None:
    """Before single rows are deleted. Raises SinkError."""
    _refuse_actions(failed, db.references(target), None)


def _deleted(strategy: Strategy, every_row: bool) -> Deleted | None:
    """Which rows of the target a load deletes: every row, those that it replaces, or those that the source no longer
    has. ``scd2``, ``append`` and ``merge`` delete none."""
    keeps = strategy.mode == "cdc_apply" and strategy.deletes in ("soft", "ignore")
    if strategy.mode == "full_refresh" or (every_row and strategy.replaces_all):
        return "every"
    if strategy.mode in ("replace", "partition_replace"):
        return "replaced"
    return "gone" if strategy.mode in ("snapshot_diff", "cdc_apply") and not keeps else None


def _refuse_actions(failed: str, references: Sequence[Reference], strategy: Strategy | None) -> None:
    if acting := [one for one in references if one.acts]:
        found = f"{_names(acting)} references it with an ON DELETE action, which would change or delete rows"
        todo = "drop the ON DELETE action"
        if strategy is not None:
            changes = strategy.mode == "cdc_apply"
            appended = " without --full-refresh" if strategy.mode == "full_refresh" else ""
            todo = (
                f"{'set strategy.deletes: soft or ignore' if changes else f'use strategy merge{appended}'}, or {todo}"
            )
        raise SinkError(failed, found, todo)


def _refers(db: Database, target: Name, one: Reference, strategy: Strategy, deleted: Deleted) -> bool:
    """True if a row of another table refers to a row that would be deleted. False if only the commit can show it."""
    schema, where, values = db.schema(target), "", ()
    if not one.readable or schema is None or _same(one.table, target):
        return False
    if deleted == "replaced":
        if not strategy.where or not {*strategy.where} <= {*schema.names}:
            return False
        where, values = predicate(db.dialect, strategy, schema, "t")
    d = db.dialect
    same = " AND ".join(f"r.{d.quote(column)} = t.{d.quote(to)}" for column, to in one.columns)
    sql = f"SELECT 1 FROM {d.name(one.table)} AS r JOIN {d.name(target)} AS t ON {same}"
    sql += f" WHERE {where}" if where else ""
    [(found,)] = db.rows(d.exists(sql), values)
    return bool(found)


def _instead(strategy: Strategy) -> str:
    if strategy.mode == "full_refresh":
        gone = "snapshot_diff, which deletes only missing rows"
        return f"use strategy {gone}, or merge, each without --full-refresh"
    return "set strategy.deletes: soft" if strategy.mode == "cdc_apply" else "use strategy merge"


def _names(references: Sequence[Reference]) -> str:
    return ", ".join(dict.fromkeys(str(one.table) for one in references))


def _same(one: Name, other: Name) -> bool:
    return str(one).lower() == str(other).lower()
