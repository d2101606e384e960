"""Undo, second half: restores the target as it was before its last load, from what ``dpone.sql.undo`` kept."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from attrs import frozen

from dpone.contract import Entry, Load, Receipt, UndoPlan, UndoRecord
from dpone.errors import DponeError, UndoRefused, counted
from dpone.model.position import Position
from dpone.model.schema import LOAD_ID, Name
from dpone.model.strategy import Strategy
from dpone.sql.dialect import Database, transaction
from dpone.sql.journal import Journal
from dpone.sql.strategies.job import held
from dpone.sql.undo import Targets, forget
from dpone.sql.writer import Staging


def undo_plan(db: Database, target: Name, key: str, load_id: str) -> UndoPlan:
    """``SupportsUndo.undo_plan`` of every SQL sink."""
    journal = Journal(db, target)
    entry = journal.load(key, load_id)
    if entry is None:
        raise _refused(load_id, "the journal of this stream does not have it", "use the ID of one of its loads")
    if entry.undoes:
        raise _refused(load_id, f"it is itself the undo of load {entry.undoes}", "run the pipeline to load again")
    if undone := journal.undoing(key, load_id):
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
    journal, staging = Journal(db, target), Staging(db, target)
    with transaction(db, load.key):
        seq = journal.require(load.key, after, load.load_id)
        undone = undo_plan(db, target, load.key, load_id).entry
        done = [_Restore(db, kept, load_id).run(load.strategy) for kept in undone.kept]
        rows = {"inserted": sum(d[0] for d in done), "updated": 0, "deleted": sum(d[1] for d in done), "unchanged": 0}
        staging.spend(load.key, *forget(db, target, load.key, undone))
        now = datetime.now(UTC)
        left = held(db, target, load.count)
        entry = Entry(
            seq, position.epoch, load.load_id, load.run_id, load.token, position, now, rows, undoes=load_id, held=left
        )
        journal.append(load.key, entry)
    with suppress(DponeError):  # the undo is durable; the next load drops what is left
        staging.drop_spent(load.key)
    return Receipt.of(entry)


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
            raise _refused(self.load_id, f"table {self.target} does not exist", "load it again")
        if self.kept.kind == "added":
            return
        if self.db.schema(self.images) is None:
            raise _refused(self.load_id, f"{self.images} with the replaced rows is missing", "load the table again")
        now = {f.name: str(f.type) for f in have}
        for name, type_ in self.kept.columns.items():
            if now.get(name) != type_:
                found = f"column {name} of {self.target} was {type_} and is now {now.get(name, 'missing')}"
                raise _refused(self.load_id, found, "restore the column's former type, or load the table again")
        later = [f.name for f in have if f.name not in self.kept.columns and not f.nullable]
        if later:
            found = f"column {', '.join(later)} of {self.target} was added later and cannot be NULL"
            raise _refused(self.load_id, found, "allow NULL in it, or load the table again")

    def run(self, strategy: Strategy) -> tuple[int, int]:
        """Returns how many rows were put back and how many were removed."""
        self.db.hold(self.target)
        deleted = self._replace_all(strategy) if self.kept.kind == "generation" else self._take_out()
        Targets(self.db, self.target).move(self.kept.previous)
        return self.kept.rows, deleted

    def _replace_all(self, strategy: Strategy) -> int:
        others = self._count(f"(t.{self._id} IS NULL OR t.{self._id} <> {self.db.dialect.placeholder})")
        if others:
            raise self._changed(f"{self.target} has {counted(others, 'row')} that it did not write")
        deleted = self._count(f"t.{self._id} = {self.db.dialect.placeholder}")
        self._require_written(deleted)
        if self._fits(strategy):
            self.db.swap(self.images, self.target)
            return deleted
        if (cleared := self.db.clear(self.target)) != deleted:  # see Dialect.holds_new_rows
            raise self._changed(f"{self.target} got {counted(cleared - deleted, 'row')} during the undo")
        self._put_back()
        return deleted

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

    def _take_out(self) -> int:
        d = self.db.dialect
        deleted = self.db.execute(d.delete_from(self.target, f"t.{self._id} = {d.placeholder}"), (self.load_id,))
        self._require_written(deleted)
        if self.kept.kind == "added":
            return deleted
        if self.kept.key:
            deleted += self._take_out_by_key()
        self._put_back()
        return deleted

    def _take_out_by_key(self) -> int:
        d, key = self.db.dialect, self.kept.key
        schema = self.db.schema(self.target)
        assert schema is not None  # ``require`` has seen it
        # The image first: SQLite compares by the collation of the left operand (https://www.sqlite.org/datatype3.html,
        # 7.1), and that of an image is BINARY, since CREATE TABLE AS copies none.
        same = d.same(schema, key, "i", "t")
        found = self.db.execute(
            d.delete_from(self.target, f"EXISTS (SELECT 1 FROM {d.name(self.images)} AS i WHERE {same})")
        )
        if found != self.kept.rows:
            raise self._changed(
                f"of {counted(self.kept.rows, 'row')} that it changed, {found:,} remain in {self.target}"
            )
        return found

    def _put_back(self) -> None:
        d, names = self.db.dialect, list(self.kept.columns)
        rows = f"SELECT {d.columns(names, 'i')} FROM {d.name(self.images)} AS i"
        put = self.db.execute(f"{d.insert_into(self.target, names)} {rows}")
        if put != self.kept.rows:
            raise self._changed(f"{self.images} has {counted(put, 'row')}, the journal says {self.kept.rows:,}")

    def _require_written(self, found: int) -> None:
        if self.kept.written is not None and found != self.kept.written:
            raise self._changed(
                f"of {counted(self.kept.written, 'row')} that it wrote to {self.target}, {found:,} remain"
            )

    def _changed(self, found: str) -> UndoRefused:
        return _refused(self.load_id, f"{found}: another program has changed them", "correct the rows by hand")

    def _count(self, where: str) -> int:
        sql = f"SELECT COUNT(*) FROM {self.db.dialect.name(self.target)} AS t WHERE {where}"
        return int(self.db.rows(sql, (self.load_id,))[0][0])

    @property
    def _id(self) -> str:
        return self.db.dialect.quote(LOAD_ID)


def _refused(load_id: str, found: str, todo: str) -> UndoRefused:
    return UndoRefused(f"take back load {load_id}", found, f"{todo}; nothing was changed")
