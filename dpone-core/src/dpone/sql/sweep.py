"""What no load and no undo needs any more: old entries of the journal, and tables that nobody knows.

A table is made and registered in one transaction, or registered first (``dpone.sql.dialect``), and a commit moves it
from the registry into the journal in one step. So one that was there before both were read, and is in neither, is
nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from dpone.contract import Leftover
from dpone.model.schema import PREFIX, Name
from dpone.sql.dialect import Database, transaction
from dpone.sql.journal import Journal
from dpone.sql.undo import IMAGES
from dpone.sql.writer import REPLACEMENT, STAGE, own_lock, stages


def leftovers(db: Database, target: Name, key: str, before: datetime) -> list[Leftover]:
    """``SupportsSweep.leftovers`` of every SQL sink."""
    old = [(one, len(Journal(db, target).old(one, before))) for one in _keys(db, target, key)]
    tables = [Leftover("table", str(table)) for table in _unknown(db, target)]
    return [*(Leftover("journal", one, count) for one, count in old if count), *tables]


def sweep(db: Database, target: Name, key: str, before: datetime) -> list[Leftover]:
    """``SupportsSweep.sweep`` of every SQL sink."""
    journal, done = Journal(db, target), list[Leftover]()
    for one in _keys(db, target, key):
        with transaction(db, key):
            old = journal.old(one, before)
            for seq in old:
                journal.delete(one, seq)
        done += [Leftover("journal", one, len(old))] if old else []
    for table in _unknown(db, target):
        with transaction(db, own_lock(target)):
            db.drop(table, wipe=table.last.startswith(IMAGES))
        done.append(Leftover("table", str(table)))
    return done


def _keys(db: Database, target: Name, key: str) -> Sequence[str]:
    keys = Journal(db, target).keys()
    return [one for one in keys if one == key or one.startswith(f"{key}|")]


# A load's id, or the digest of ``Dialect.fitting``; behind it, of a staging, the digest of the key. Servers fold names.
_MADE = re.compile(
    rf"(?:{IMAGES}|(?:{STAGE}|{REPLACEMENT})_)(?:[0-9a-hjkmnp-tv-z]{{26}}|[0-9a-f]{{6,64}})(?:_[0-9a-f]{{8}})?"
)


def _unknown(db: Database, target: Name) -> list[Name]:
    journal, open_loads = Journal(db, target), stages(db, target)
    if not journal.exists() or not open_loads.exists():
        return []
    tables = [table for table in db.tables(target, PREFIX) if _MADE.fullmatch(table.last.lower())]
    registered = {str(name).lower() for name in open_loads.distinct("stage")}  # after the tables, see above
    named = {name.lower() for name in journal.named()}
    return [table for table in tables if table.last.lower() not in registered | named]
