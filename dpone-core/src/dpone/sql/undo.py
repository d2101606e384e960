"""Undo, the keeping half: what a load replaces stays in a table next to the target, which the journal names.

Filled in the transaction of the load, so that either both are there or neither. An ordinary table for each load, made
before its transaction and dropped after it where nothing was kept,
``__dpone__undo_<load id>``: for ``full_refresh`` the previous generation (the old table itself, renamed, where the
stage takes its place; a copy otherwise), for the others the rows they change or delete, as they were. Rows that a load
wrote are known by its load id and need no image.

``__dpone__targets`` says for each target which load changed it last, whoever ran it: only that one can be taken back.
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
    """The load that changed a target last. Every call is part of the caller's transaction."""

    def __init__(self, db: Database, target: Name) -> None:
        self._table = Own(db, target.sibling(TARGETS), _TARGETS, ("target",))
        # some servers take Orders and orders for one table
        self._mine = {"target": target.last if db.dialect.exact_names else target.last.lower()}

    def create(self) -> None:
        self._table.create()

    def last(self) -> str:
        """Empty if it is not known."""
        if not self._table.exists():
            return ""
        found = self._table.rows(["load_id"], self._mine)
        return found[0][0] if found else ""

    def move(self, load_id: str) -> str:
        """Answers the one before. From here to its end the transaction holds the target's line: another that changes
        the target waits, so that what one keeps is not changed by the other before it commits. Does nothing where no
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
    of the target, with the statement's own predicate, or ``keep_all`` before it replaces every row.

    The image of a row is the first one: a row that this load has written already carries its load id and is passed
    over, so that one load may change a row in several statements (chunks of changes). A statement that leaves a row its
    old load id must meet it only once in a load; it names ``key``, by which the row is found again, and so must every
    other ``keep`` of that load.
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
        """The rows of the target (t) that meet ``where``; ``source`` is a table expression (s) that ``where`` joins, of
        which at most one row meets each row of the target."""
        self._used = True
        self.kind, self.key = "before_images", tuple(key)
        d = self.db.dialect
        mine = f"t.{d.quote(LOAD_ID)}"
        others = f"({mine} IS NULL OR {mine} <> {d.placeholder})"
        tables = f"{source} AS s, {d.name(self.target)} AS t" if source else f"{d.name(self.target)} AS t"
        self.rows += self._copy(f"{tables} WHERE ({where}) AND {others}", (*values, self.load_id))

    def keep_all(self) -> None:
        """A copy of the target."""
        self._used, self.kind = True, "generation"
        self.rows = self._copy(f"{self.db.dialect.name(self.target)} AS t", ())

    def keep_table(self, stage: Name, rows: int) -> None:
        """The target itself, under our name; the stage takes its place."""
        self.db.drop(self.table)
        self.db.swap(stage, self.target, self.table)
        self.kind, self.rows, self._used = "generation", rows, True

    def _copy(self, tables: str, values: Sequence[Any]) -> int:
        d, names = self.db.dialect, self.columns.names
        into = f"INSERT INTO {d.name(self.table)} ({d.columns(names)})"
        return self.db.execute(f"{into} SELECT {d.columns(names, 't')} FROM {tables}", values)

    def create(self, key: Sequence[str] = ()) -> None:
        """Before the transaction of the load. ``key``: by which rows are looked up when the load is taken back."""
        self.db.create_like(self.table, self.target, self.columns.names)
        if key and (index := self.db.dialect.create_index(self.table, self.columns, key)):
            self.db.execute(index)

    def hold(self) -> None:
        """The target is held from here on: what is kept of a row is what the load then changes."""
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
    """Not made yet."""
    schema = db.schema(target)
    if schema is None or LOAD_ID not in schema.names:
        found = f"the table has no column {LOAD_ID}, which it had when the load started"
        raise SinkError(f"keep rows of {target}", found, "run again, which adds it; nothing was changed")
    return Images(db, target, load_id, schema)


def sweep(db: Database, target: Name, key: str, undo: Undo) -> list[Name]:
    """Say in the journal what is beyond the retention: the newest ``loads`` and those of the last ``days`` stay. In the
    transaction of a load, which is the newest itself; answers the tables to drop after it."""
    journal, now, gone = Journal(db, target), datetime.now(UTC), list[Name]()
    for n, entry in enumerate(journal.keeping(key)):
        beyond = undo.loads is not None and n >= undo.loads
        too_old = undo.days is not None and now - entry.committed_at > timedelta(days=undo.days)
        if n and (beyond or too_old):
            gone += forget(db, target, key, entry)
    return gone


def forget(db: Database, target: Name, key: str, entry: Entry) -> list[Name]:
    """Say in the journal that nothing is kept of a load; the tables to drop after the transaction."""
    Journal(db, target).forget(key, entry.load_id)
    named = (Name.parse(kept.target).sibling(kept.name) for kept in entry.kept if kept.name.startswith(IMAGES))
    return [table for table in named if db.schema(table) is not None]
