"""snapshot_diff: the target becomes the snapshot, and only rows that differ are written."""

from __future__ import annotations

from attrs import evolve

from dpone.sql.dialect import Database
from dpone.sql.strategies.job import RowCounts, StagedLoad, count_rows, require_deletable, require_single_target, single
from dpone.sql.strategies.merge import upsert


def snapshot_diff(db: Database, job: StagedLoad) -> RowCounts:
    """Make the target equal to the rows read; equal rows are not touched, not even their lineage."""
    job = single(db, job)
    before = count_rows(db, f"SELECT COUNT(*) FROM {job.table} AS t")
    deleted = 0
    if before:
        require_single_target(db, job)
        gone = lacking(db, job)
        job.keep(gone)
        deleted = db.execute(job.dialect.delete_from(job.target, gone))
        require_deletable(db, job, deleted, before)
    return evolve(upsert(db, job), deleted=deleted) if job.rows else RowCounts(deleted=deleted)


def lacking(db: Database, job: StagedLoad) -> str:
    """A condition: the key of the target row was not read. All staged rows count, as ``duplicates`` never removes a
    key."""
    same = job.dialect.same(job.schema, job.strategy.key)
    return f"NOT EXISTS (SELECT 1 FROM {job.dialect.name(job.stage)} AS s WHERE {same})"
