"""Undo, the taking half: the target as it was before its last load, from what ``dpone.sql.undo`` kept.

A rehearsal goes the same way over a Database that notes what it would execute (``Database.noted``), and counts where an
undo would be answered a number of rows. So a plan has the statements of the undo itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.contract import Entry, Load, Receipt, Rehearsal, UndoPlan, UndoRecord
from dpone.errors import DponeError, UndoRefused, counted
from dpone.model.position import Position
from dpone.model.schema import LOAD_ID, Name
from dpone.model.strategy import Strategy
from dpone.sql.dialect import Database, Dialect, transaction
from dpone.sql.journal import Journal
from dpone.sql.script import written
from dpone.sql.strategies.job import held
from dpone.sql.undo import IMAGES, Targets, forget
from dpone.sql.writer import Stage, Staging

_AGAIN = "load the table with 'dpone run --full-refresh'"


def undo_plan(db: Database, target: Name, key: str, load_id: str) -> UndoPlan:
    """``SupportsUndo.undo_plan`` of every SQL sink."""
    journal = Journal(db, target)
    entry = journal.load(key, load_id)
    if entry is None:
        raise _refused(load_id, "the journal of this stream does not have it", "use the ID of one of its loads")
    if entry.undoes:
        raise _refused(load_id, f"it is itself the undo of load {entry.undoes}", "run the pipeline to load again")
    if undone := journal.undo_entry(key, load_id):
        raise _refused(load_id, f"it was already undone by load {undone.load_id}", "run the pipeline to load again")
    if not entry.kept:
        found = "nothing was kept for an undo: it changed no row, undo was off, or the retention has ended"
        raise _refused(load_id, found, "load its rows again with 'dpone state set' or --full-refresh")
    for kept in entry.kept:
        _Restore(db, kept, load_id).require()
    before = journal.at(key, entry.seq - 1)
    return UndoPlan(entry, before.position if before else None)


def take_back(db: Database, target: Name, load: Load, load_id: str, after: Entry | None, position: Position) -> Receipt:
    """``SupportsUndo.undo`` of every SQL sink: one transaction."""
    with transaction(db, load.key):
        entry, _ = _taken_back(db, target, load, load_id, after, position)
    with suppress(DponeError):  # the undo is durable: what is left is swept by the next load
        Staging(db, target).drop_spent(load.key)
    return Receipt.of(entry)


def rehearse(
    db: Database, target: Name, load: Load, load_id: str, after: Entry | None, position: Position
) -> Rehearsal:
    """``SupportsUndo.rehearse`` of every SQL sink."""
    noted: list[tuple[str, Sequence[Any]]] = [("BEGIN", ())]
    db.noted = noted
    try:
        entry, left = _taken_back(db, target, load, load_id, after, position)
        noted.append(("COMMIT", ()))
        if left:
            noted.append(("BEGIN", ()))
            for table in left:
                Staging(db, target).drop(Stage.spent(table))
            noted.append(("COMMIT", ()))
    finally:
        db.noted = None
    statements = tuple(written(db.dialect, sql, values) for sql, values in noted)
    return Rehearsal(statements, entry.rows["deleted"], entry.rows["inserted"])


def template(d: Dialect, target: Name, load_id: str) -> tuple[str, ...]:
    """What an undo does in this dialect, as far as it can be said without the target: which of the statements, and
    which columns, is known by the journal."""
    images, columns = target.sibling(d.fitting(IMAGES + load_id)), ["<columns of the table>"]
    bound = (load_id,)
    return (
        "BEGIN",
        "-- rows that the load wrote",
        written(d, d.delete_from(target, _written_by(d)), bound),
        "-- rows that it changed or deleted, as they were; for a full refresh, the previous generation",
        _restoring(d, target, images, columns),
        "-- and the entry in the journal, in a new epoch",
        "COMMIT",
        d.drop_table(images),
    )


def _taken_back(
    db: Database, target: Name, load: Load, load_id: str, after: Entry | None, position: Position
) -> tuple[Entry, list[Name]]:
    """Inside the transaction; its entry, and the tables that are to be dropped after it."""
    journal, staging = Journal(db, target), Staging(db, target)
    seq = journal.require(load.key, after, load.load_id)
    undone = undo_plan(db, target, load.key, load_id).entry
    restores = [_Restore(db, kept, load_id) for kept in undone.kept]
    done = [restore.run(load.strategy) for restore in restores]
    rows = {"inserted": sum(d[0] for d in done), "updated": 0, "deleted": sum(d[1] for d in done), "unchanged": 0}
    swapped = {restore.images for restore, d in zip(restores, done, strict=True) if d[2]}
    left = [table for table in forget(db, target, load.key, undone) if table not in swapped]
    staging.spend(load.key, *left)
    now = datetime.now(UTC)
    holds = held(db, target, load.count) if db.noted is None else _would_hold(db, target, load, rows)
    entry = Entry(
        seq, position.epoch, load.load_id, load.run_id, load.token, position, now, rows, undoes=load_id, held=holds
    )
    journal.append(load.key, entry)
    return entry, left


def _would_hold(db: Database, target: Name, load: Load, rows: dict[str, int]) -> int:
    after = held(db, target, True) - rows["deleted"] + rows["inserted"]
    return after if load.count else int(after > 0)


def remaining(db: Database, target: Name, load_id: str) -> int:
    """``SupportsUndo.remaining`` of every SQL sink."""
    schema = db.schema(target)
    if schema is None or LOAD_ID not in schema.names:
        return 0
    return _count(db, target, _written_by(db.dialect), (load_id,))


def _count(db: Database, table: Name, where: str = "1 = 1", values: Sequence[Any] = ()) -> int:
    return int(db.rows(f"SELECT COUNT(*) FROM {db.dialect.name(table)} AS t WHERE {where}", values)[0][0])


def _written_by(d: Dialect) -> str:
    return f"t.{d.quote(LOAD_ID)} = {d.placeholder}"


def _restoring(d: Dialect, target: Name, images: Name, names: Sequence[str]) -> str:
    return f"{d.insert_into(target, names)} SELECT {d.columns(names, 'i')} FROM {d.name(images)} AS i"


@frozen
class _Restore:
    """One target of one load."""

    db: Database
    kept: UndoRecord
    load_id: str

    @property
    def target(self) -> Name:
        return Name.parse(self.kept.target)

    @property
    def images(self) -> Name:
        return self.target.sibling(self.kept.name)

    def require(self) -> None:
        """Raises UndoRefused unless the kept rows exist and fit, and no other load has changed the target since."""
        last = Targets(self.db, self.target).last()
        if last != self.load_id:
            todo = "undo that load first, if it kept what it replaced"
            raise _refused(self.load_id, f"load {last or 'unknown'} has changed {self.target} since then", todo)
        have = self.db.schema(self.target)
        if have is None:
            raise _refused(self.load_id, f"table {self.target} does not exist", _AGAIN)
        if self.kept.kind == "added":
            return
        if self.db.schema(self.images) is None:
            raise _refused(self.load_id, f"{self.images} with the replaced rows is missing", _AGAIN)
        now = {f.name: str(f.type) for f in have}
        for name, type_ in self.kept.columns.items():
            if now.get(name) != type_:
                found = f"column {name} of {self.target} was {type_} and is now {now.get(name, 'missing')}"
                raise _refused(self.load_id, found, f"restore the column's former type, or {_AGAIN}")
        later = [f.name for f in have if f.name not in self.kept.columns and not f.nullable]
        if later:
            found = f"column {', '.join(later)} of {self.target} was added later and cannot be NULL"
            raise _refused(self.load_id, found, f"allow NULL in it, or {_AGAIN}")

    def run(self, strategy: Strategy) -> tuple[int, int, bool]:
        """Rows put back, rows taken out; and whether what was kept has taken the target's place."""
        self.db.hold(self.target)
        if self.kept.kind == "generation":
            deleted, swapped = self._replace_all(strategy)
        else:
            deleted, swapped = self._take_out(strategy), False
        Targets(self.db, self.target).move(self.kept.previous)
        return self.kept.rows, deleted, swapped

    def _replace_all(self, strategy: Strategy) -> tuple[int, bool]:
        if others := self._count(self._others, (self.load_id,)):
            raise self._changed(f"{self.target} has {counted(others, 'row')} that it did not write")
        deleted = self._count(_written_by(self.db.dialect), (self.load_id,))
        self._require_written(deleted)
        if self._fits(strategy):
            self.db.swap(self.images, self.target)
            return deleted, True
        cleared = self.db.clear(self.target)  # see Dialect.holds_new_rows
        if cleared != deleted and self.db.noted is None:
            raise self._changed(f"{self.target} got {counted(cleared - deleted, 'row')} during the undo")
        self._put_back(strategy)
        return deleted, False

    def _fits(self, strategy: Strategy) -> bool:
        """True if the kept table is exactly like the target and nothing depends on either, so that they can be
        swapped."""
        db, key = self.db, strategy.key
        kept, now = db.schema(self.images), db.schema(self.target)
        same = kept is not None and now is not None and kept.equals(now, check_metadata=True)
        return (
            not db.dialect.ddl_commits
            and same
            and db.is_swappable(self.images, key)
            and db.is_swappable(self.target, key)
        )

    def _take_out(self, strategy: Strategy) -> int:
        by_id = _written_by(self.db.dialect)
        deleted = self._delete(by_id, (self.load_id,), by_id)
        self._require_written(deleted)
        if self.kept.kind == "added":
            return deleted
        if self.kept.key:
            deleted += self._take_out_by_key()
        self._put_back(strategy)
        return deleted

    def _take_out_by_key(self) -> int:
        d = self.db.dialect
        exists = f"EXISTS (SELECT 1 FROM {d.name(self.images)} AS i WHERE {self._same(self.kept.key)})"
        found = self._delete(exists, (), f"{exists} AND {self._others}")
        if found != self.kept.rows:
            raise self._changed(
                f"of {counted(self.kept.rows, 'row')} that it changed, {found:,} remain in {self.target}"
            )
        return found

    def _put_back(self, strategy: Strategy) -> None:
        names = list(self.kept.columns)
        put = self.db.execute(_restoring(self.db.dialect, self.target, self.images, names))
        if self.db.noted is not None:
            put = _count(self.db, self.images)
        if put != self.kept.rows:
            raise self._changed(f"{self.images} has {counted(put, 'row')}, the journal says {self.kept.rows:,}")
        key = self.kept.key or strategy.key or self.db.primary_key(self.target)
        if self.db.noted is None and key and {*key} <= {*names}:
            self._require_same(key)

    def _require_same(self, key: Sequence[str]) -> None:
        """Each row that was put back is in the target as it was kept. Without a key only their number is known."""
        d, schema = self.db.dialect, self._schema
        rest = [name for name in schema.names if name in self.kept.columns and name not in key]
        tables = f"{d.name(self.images)} AS i JOIN {d.name(self.target)} AS t ON {self._same(key)}"
        [(same,)] = self.db.rows(
            f"SELECT COUNT(*) FROM {tables}" + (f" WHERE NOT ({d.differ(schema, rest, 't', 'i')})" if rest else "")
        )
        if same < self.kept.rows:
            found = f"{counted(self.kept.rows - same, 'row')} put back into {self.target} differ from those kept"
            raise _refused(self.load_id, found, "disable the triggers that change them, then repeat")

    def _same(self, key: Sequence[str]) -> str:
        """By the image's collation, which is exact."""
        return self.db.dialect.same(self._schema, key, "i", "t")

    def _delete(self, where: str, values: Sequence[Any], counts: str) -> int:
        """``counts``: as ``where``, of the target before any statement of the undo."""
        found = self.db.execute(self.db.dialect.delete_from(self.target, where), values)
        return found if self.db.noted is None else self._count(counts, (self.load_id,))

    def _require_written(self, found: int) -> None:
        if self.kept.written is not None and found != self.kept.written:
            raise self._changed(
                f"of {counted(self.kept.written, 'row')} that it wrote to {self.target}, {found:,} remain"
            )

    def _changed(self, found: str) -> UndoRefused:
        return _refused(self.load_id, f"{found}: another program has changed them", "correct the rows by hand")

    def _count(self, where: str, values: Sequence[Any]) -> int:
        return _count(self.db, self.target, where, values)

    @property
    def _others(self) -> str:
        d = self.db.dialect
        return f"(t.{d.quote(LOAD_ID)} IS NULL OR t.{d.quote(LOAD_ID)} <> {d.placeholder})"

    @property
    def _schema(self) -> pa.Schema:
        schema = self.db.schema(self.target)
        assert schema is not None  # ``require`` has seen it
        return schema


def _refused(load_id: str, found: str, todo: str) -> UndoRefused:
    return UndoRefused(f"take back load {load_id}", found, f"{todo}; nothing was changed")
