"""A key is renamed in every table that dpone keeps for a target. No row of the target is touched, no DDL is run."""

from __future__ import annotations

from dpone.contract import Entry
from dpone.schema import Name
from dpone.sql import added, journal, versions
from dpone.sql.dialect import Database
from dpone.sql.writer import STAGES, transaction

# Staged parts keep the token of the old key: they go on where a manifest of partitions names it, or are swept.
_KEYED = ((journal.TABLE, "key"), (added.TABLE, "key"), (STAGES, "key"), (versions.COMMITS, "stream"))


def move(db: Database, target: Name, old: str, after: Entry, new: str, before: Entry | None, gone: Entry) -> None:
    """``contract.Moving.move``. The journal is held as a whole, so that neither key gets an entry meanwhile."""
    entries = journal.Journal(db, target)
    with transaction(db, old):
        db.hold(target.sibling(journal.TABLE))
        entries.require(old, after, gone.load_id)
        entries.require(new, before, gone.load_id)
        for table, column in _KEYED:
            _rename(db, target.sibling(table), column, old, new)
        entries.append(old, gone)


def _rename(db: Database, table: Name, column: str, old: str, new: str) -> None:
    if db.schema(table) is None:
        return
    d, key = db.dialect, db.dialect.quote(column)
    keys = [one for (one,) in db.rows(f"SELECT DISTINCT a.{key} FROM {d.name(table)} AS a")]
    for one in keys:
        if one == new or one.startswith(f"{new}|"):
            db.execute(f"DELETE FROM {d.name(table)} WHERE {key} = {d.placeholder}", (one,))
    for one in keys:
        if one == old or one.startswith(f"{old}|"):
            sql = f"UPDATE {d.name(table)} SET {key} = {d.placeholder} WHERE {key} = {d.placeholder}"
            db.execute(sql, (new + one.removeprefix(old), one))
