"""full_refresh: the staged rows become the target."""

from __future__ import annotations

from dpone.sql.dialect import Database
from dpone.sql.strategies.job import RowCounts, StagedLoad, count_rows, delete_all, insert_rows, single


def full_refresh(db: Database, job: StagedLoad) -> RowCounts:
    """Readers see the old rows until the commit and the new ones after it: the swap is part of the transaction."""
    job = single(db, job)
    if job.swap:
        deleted = count_rows(db, f"SELECT COUNT(*) FROM {job.table} AS t")
        if job.images is None:
            db.swap(job.stage, job.target)
        else:
            job.images.keep_table(job.stage, deleted)
        return RowCounts(inserted=job.rows, deleted=deleted)
    deleted = delete_all(db, job)
    return RowCounts(inserted=insert_rows(db, job), deleted=deleted)
