"""append: the staged rows are added."""

from __future__ import annotations

from dpone.sql.dialect import Database
from dpone.sql.strategies.job import RowCounts, StagedLoad, swap_or_insert


def append(db: Database, job: StagedLoad) -> RowCounts:
    return RowCounts(inserted=swap_or_insert(db, job))
