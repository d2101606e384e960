"""merge: a staged row replaces the row with its key, or is inserted."""

from __future__ import annotations

from dpone.model.schema import LINEAGE
from dpone.sql.dialect import Database
from dpone.sql.strategies.job import RowCounts, StagedLoad, insert_rows, is_empty, single, swap_or_insert, unlike


def merge(db: Database, job: StagedLoad) -> RowCounts:
    """Update rows that differ and insert new ones; equal rows are not touched, not even their lineage."""
    return upsert(db, single(db, job))


def upsert(db: Database, job: StagedLoad) -> RowCounts:
    if is_empty(db, job.target):
        return RowCounts(inserted=swap_or_insert(db, job))
    d, key = job.dialect, job.strategy.key
    same = d.same(job.schema, key)
    values = [n for n in job.schema.names if n not in key]
    compared = [n for n in values if n not in LINEAGE]
    differs = " OR ".join(unlike(job, name) for name in compared)
    where = f"{same} AND ({differs})"
    if compared:
        job.keep(where, source=job.source)
    if d.on_conflict and db.unique(job.target, key):
        matched, written = db.upsert(job.target, job.source, job.schema, key, compared)
        inserted, updated = job.rows - matched, written - (job.rows - matched)
    else:
        staged = {n: f"s.{d.quote(n)}" for n in values}
        updated = db.execute(d.update_from(job.target, job.source, staged, where)) if compared else 0
        # A join instead of NOT EXISTS: for a join SQLite builds an automatic index
        # (https://www.sqlite.org/optoverview.html, "Automatic Query-Time Indexes").
        inserted = insert_rows(db, job, f"LEFT JOIN {job.table} AS t ON {same} WHERE t.{d.quote(key[0])} IS NULL")
    return RowCounts(inserted, updated, unchanged=max(job.rows - inserted - updated, 0))
