"""Renames a key in every table that dpone keeps for a target. Touches no row of the target, and runs no DDL."""

from __future__ import annotations

from dpone.contract import Entry
from dpone.model.schema import Name
from dpone.sql import journal, provisional
from dpone.sql.dialect import Database, transaction
from dpone.sql.own import Own
from dpone.sql.strategies import scd2_changes
from dpone.sql.writer import stages

# Staged parts keep the token of the old key: a load that resumes a partition manifest uses them, others drop them.
_KEYED = ((journal.own, "key"), (provisional.own, "key"), (stages, "key"), (scd2_changes.own, "stream"))


def move(db: Database, target: Name, old: str, after: Entry, new: str, before: Entry | None, gone: Entry) -> None:
    """``contract.SupportsMove.move``. The whole journal is locked, so that neither key gets an entry while it runs."""
    entries = journal.Journal(db, target)
    with transaction(db, old):
        db.hold(target.sibling(journal.TABLE))
        entries.require(old, after, gone.load_id)
        entries.require(new, before, gone.load_id)
        for own, column in _KEYED:
            _rename(own(db, target), column, old, new)
        entries.append(old, gone)


def _rename(table: Own, column: str, old: str, new: str) -> None:
    keys = table.distinct(column) if table.exists() else []
    for one in keys:
        if one == new or one.startswith(f"{new}|"):
            table.delete({column: one})
    for one in keys:
        if one == old or one.startswith(f"{old}|"):
            table.update({column: new + one.removeprefix(old)}, {column: one})
