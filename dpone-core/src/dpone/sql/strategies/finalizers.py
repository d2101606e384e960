"""The finalizer of each strategy, which writes staged rows to the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from dpone.contract import Load
from dpone.model.schema import Name
from dpone.sql.dialect import Database
from dpone.sql.fold import CHUNK
from dpone.sql.strategies.append import append
from dpone.sql.strategies.cdc_apply import cdc_apply, next_chunk
from dpone.sql.strategies.full_refresh import full_refresh
from dpone.sql.strategies.job import (
    RowCounts,
    StagedLoad,
    delete_all,
    is_empty,
    single,
)
from dpone.sql.strategies.merge import merge
from dpone.sql.strategies.replace import delete_replaced, partition_replace, replace
from dpone.sql.strategies.scd2 import scd2
from dpone.sql.strategies.scd2_changes import indexes as versions_indexes
from dpone.sql.strategies.scd2_changes import versions
from dpone.sql.strategies.snapshot_diff import snapshot_diff

FINALIZERS: Mapping[str, Callable[[Database, StagedLoad], RowCounts]] = {
    "full_refresh": full_refresh,
    "append": append,
    "merge": merge,
    "replace": replace,
    "partition_replace": partition_replace,
    "snapshot_diff": snapshot_diff,
    "scd2": lambda db, job: versions(db, job) if job.changes else scd2(db, single(db, job)),
    "cdc_apply": cdc_apply,
}


def indexes(db: Database, target: Name, stage: Name, shape: pa.Schema, load: Load, unique: bool) -> list[str]:
    """Statements for the indexes that the finalizer needs on the staging to be fast; executed before the transaction of
    the commit. ``shape``: the columns of the staging. ``unique``: as in StagedLoad."""
    d, strategy = db.dialect, load.strategy
    if load.changes and strategy.mode == "scd2":
        return versions_indexes(d, stage, shape, load)
    if load.changes:
        return [d.create_index(stage, shape, [CHUNK])] if next_chunk(db, stage) > 1 else []
    by_key = strategy.mode == "snapshot_diff" or (strategy.mode == "scd2" and strategy.deletes == "close")
    wanted = by_key and not unique and not is_empty(db, target)
    return [d.create_index(stage, shape, strategy.key)] if wanted else []


def finalize(db: Database, job: StagedLoad) -> RowCounts:
    """Run the finalizer. An empty load leaves the target as it is, unless ``strategy.allow_empty`` is set."""
    mode, allowed = job.strategy.mode, job.strategy.allow_empty
    whole_changes = job.changes and job.whole  # ``strategy.truncate`` decides if the source is empty
    if job.rows or whole_changes or (allowed and mode in ("snapshot_diff", "scd2")):
        return FINALIZERS[mode](db, job)
    if allowed and mode == "full_refresh":
        return RowCounts(deleted=delete_all(db, job))
    if allowed and job.strategy.where:
        return RowCounts(deleted=delete_replaced(db, job))
    return RowCounts()
