"""merge: a staged row replaces that of its key, or is added."""

from __future__ import annotations

from dpone.model.schema import LINEAGE
from dpone.sql.dialect import Database
from dpone.sql.strategies.job import Job, RowCounts, insert_rows, is_empty, single, swap_or_insert, unlike


def merge(db: Database, job: Job) -> RowCounts:
    """Change what differs, insert what is new; equal rows are not touched, lineage included."""
    return upsert(db, single(db, job))


def upsert(db: Database, job: Job) -> RowCounts:
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
        # A join, not EXISTS: SQLite makes an index of its own for a join.
        inserted = insert_rows(db, job, f"LEFT JOIN {job.table} AS t ON {same} WHERE t.{d.quote(key[0])} IS NULL")
    return RowCounts(inserted, updated, unchanged=max(job.rows - inserted - updated, 0))
