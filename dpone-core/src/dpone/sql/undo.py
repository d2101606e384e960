"""Undo, first half: keeps the rows that a load replaces in a table next to the target, which the journal names.

The table is called ``__dpone__undo_<load id>``: an ordinary table for each load, created before its transaction and
dropped afterwards if nothing was kept. It is filled in the transaction of the load, so that both are committed or
neither. For ``full_refresh`` it has the previous generation: the old table itself, renamed, if the stage takes its
place, else a copy. For other strategies it has the rows that they change or delete, as they were (before images). Rows
that a load wrote are found by its load id and need no image.

``__dpone__targets`` has for each target the load of any stream that changed it last: only that load can be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from attrs import define, field

from dpone.contract import Entry, UndoRecord
from dpone.errors import Category, SinkError
from dpone.model.pipeline import Undo
from dpone.model.schema import LOAD_ID, Name
from dpone.sql.dialect import Database
from dpone.sql.journal import Journal
from dpone.sql.own import Own

TARGETS = "__dpone__targets"
IMAGES = "__dpone__undo_"
_TARGETS = pa.schema([("target", pa.string()), ("load_id", pa.string())])


class Targets:
    """Which load changed a target last. Every call is part of the caller's transaction."""

    def __init__(self, db: Database, target: Name) -> None:
        self._table = Own(db, target.sibling(TARGETS), _TARGETS, ("target",))
        # on some servers Orders and orders are one table
        self._mine = {"target": target.last if db.dialect.exact_names else target.last.lower()}

    def create(self) -> None:
        self._table.create()

    def last(self) -> str:
        """The load id; empty if unknown."""
        if not self._table.exists():
            return ""
        found = self._table.rows(["load_id"], self._mine)
        return found[0][0] if found else ""

    def move(self, load_id: str) -> str:
        """Set the last load and return the one before. The transaction locks the target's row until it ends: another
        load of the target waits, and cannot change rows that this one has kept before it commits. Does nothing if no
        stream of the schema ever kept anything."""
        if not self._table.exists():
            return ""
        if not self._table.update(self._mine, self._mine):
            self._table.insert(self._mine["target"], load_id)
            return ""
        before = self.last()
        self._table.update({"load_id": load_id}, self._mine)
        return before


@define
class Images:
    """What one load keeps of one target. A finalizer calls ``keep`` before each statement that changes or deletes rows
    of the target, with the predicate of that statement, or ``keep_all`` before it replaces every row.

    A load may change a row in several statements (chunks of changes). Only its first image is kept: a row that has the
    id of this load is skipped. A statement that does not set the load id must not change a row that another statement
    of the load has changed; it passes ``key``, by which the row is found again, and so must every other ``keep`` of
    that load.
    """

    db: Database
    target: Name
    load_id: str
    columns: pa.Schema
    kind: str = "added"
    rows: int = 0
    key: tuple[str, ...] = ()
    _used: bool = field(default=False, init=False)

    @property
    def table(self) -> Name:
        return self.target.sibling(self.db.dialect.fitting(IMAGES + self.load_id))

    def keep(self, where: str, values: Sequence[Any] = (), source: str = "", key: Sequence[str] = ()) -> None:
        """Keep the rows of the target (t) for which ``where`` is true. ``source``: a table expression (s) that it
        joins; at most one of its rows matches each row of the target."""
        self._used = True
        self.kind, self.key = "before_images", tuple(key)
        d = self.db.dialect
        mine = f"t.{d.quote(LOAD_ID)}"
        others = f"({mine} IS NULL OR {mine} <> {d.placeholder})"
        tables = f"{source} AS s, {d.name(self.target)} AS t" if source else f"{d.name(self.target)} AS t"
        self.rows += self._copy(f"{tables} WHERE ({where}) AND {others}", (*values, self.load_id))

    def keep_all(self) -> None:
        """Keep a copy of the target."""
        self._used, self.kind = True, "generation"
        self.rows = self._copy(f"{self.db.dialect.name(self.target)} AS t", ())

    def keep_table(self, stage: Name, rows: int) -> None:
        """Keep the target itself, renamed; the stage takes its place."""
        self.db.drop(self.table)
        self.db.swap(stage, self.target, self.table)
        self.kind, self.rows, self._used = "generation", rows, True

    def _copy(self, tables: str, values: Sequence[Any]) -> int:
        d, names = self.db.dialect, self.columns.names
        into = f"INSERT INTO {d.name(self.table)} ({d.columns(names)})"
        return self.db.execute(f"{into} SELECT {d.columns(names, 't')} FROM {tables}", values)

    def create(self, key: Sequence[str] = ()) -> None:
        """Before the transaction of the load. ``key``: the columns by which an undo finds rows."""
        self.db.create_like(self.table, self.target, self.columns.names)
        if key and (index := self.db.dialect.create_index(self.table, self.columns, key)):
            self.db.execute(index)

    def hold(self) -> None:
        """Lock the target, so that a row cannot change between its image and the load's own change."""
        self.db.hold(self.target)
        now = self.db.schema(self.target)
        if now is None or not now.equals(self.columns, check_metadata=True):
            error = SinkError(f"keep rows of {self.target}", "its columns have changed during the load", "run again")
            error.category = Category.TRANSIENT
            raise error

    def kept(self, written: int | None, previous: str) -> UndoRecord:
        if self.kind == "before_images" and not self.rows:
            self._used, self.kind = False, "added"
        return UndoRecord(
            str(self.target),
            self.kind,  # type: ignore[arg-type]
            self.table.last if self._used else "",
            self.rows,
            written,
            {f.name: str(f.type) for f in self.columns},
            self.key,
            previous,
        )


def images(db: Database, target: Name, load_id: str) -> Images:
    """The images of a load; ``create`` creates their table."""
    schema = db.schema(target)
    if schema is None or LOAD_ID not in schema.names:
        found = f"the table has no column {LOAD_ID}, which it had when the load started"
        raise SinkError(f"keep rows of {target}", found, "run again, which adds it; nothing was changed")
    return Images(db, target, load_id, schema)


def sweep(db: Database, target: Name, key: str, undo: Undo) -> list[Name]:
    """End the retention in the journal: what the newest ``loads`` and those of the last ``days`` kept stays. In the
    transaction of a load, which is itself the newest. Returns the tables to drop after it."""
    journal, now, gone = Journal(db, target), datetime.now(UTC), list[Name]()
    for n, entry in enumerate(journal.keeping(key)):
        beyond = undo.loads is not None and n >= undo.loads
        too_old = undo.days is not None and now - entry.committed_at > timedelta(days=undo.days)
        if n and (beyond or too_old):
            gone += forget(db, target, key, entry)
    return gone


def forget(db: Database, target: Name, key: str, entry: Entry) -> list[Name]:
    """Record in the journal that nothing is kept of a load. Returns the tables to drop after the transaction."""
    Journal(db, target).forget(key, entry.load_id)
    named = (Name.parse(kept.target).sibling(kept.name) for kept in entry.kept if kept.name.startswith(IMAGES))
    return [table for table in named if db.schema(table) is not None]
