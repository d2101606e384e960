"""What all finalizers use. A finalizer writes the rows of a StagedLoad to the target, by set-based statements in the
caller's transaction, and returns RowCounts. It begins and commits nothing. In every statement ``t`` is the target and
``s`` the staged rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from attrs import evolve, frozen

from dpone.errors import ConfigError, DataError, DeletesRefused, counted
from dpone.model.schema import DELETED_AT, FILE, VALIDITY, Name
from dpone.model.strategy import ORDER_OF_FILES, Strategy
from dpone.sql.dialect import Database, Dialect
from dpone.sql.undo import Images

_RANK = "__dpone__rank"


@frozen
class RowCounts:
    """How many rows of the target a load has inserted, updated, deleted and left unchanged."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0


@frozen
class StagedLoad:
    """One staged load.

    schema  staged columns with the target's types, lineage included
    rows    how many rows are staged
    unique  the staging's primary key has kept every key single
    swap    the stage may take the target's place: same shape, and nothing hangs on the target
    source  table expression of the rows to write: the stage, or those left of it after ``duplicates``
    whole   as in Load
    read    how many rows the source gave, those included that were filtered or quarantined on their way
    at      the time of the load
    filled  columns of the target that the rows fill, lineage left out
    images  keeps rows before they are changed; None: nothing is kept
    changes as in Load
    stream  key of the load: state and journal go by it
    replayed  as in Load
    """

    dialect: Dialect
    target: Name
    stage: Name
    schema: pa.Schema
    strategy: Strategy
    rows: int
    unique: bool
    swap: bool
    whole: bool
    read: int
    at: datetime
    filled: tuple[str, ...]
    changes: bool
    stream: str
    replayed: bool
    source: str = ""
    images: Images | None = None

    def __attrs_post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", self.dialect.name(self.stage))

    @property
    def table(self) -> str:
        return self.dialect.name(self.target)

    def keep(self, where: str, values: Sequence[Any] = (), source: str = "", key: Sequence[str] = ()) -> None:
        """Before a statement that changes rows: ``Images.keep``."""
        if self.images is not None:
            self.images.keep(where, values, source, key)


def delete_all(db: Database, job: StagedLoad) -> int:
    if job.images is not None:
        job.images.keep_all()
    return db.clear(job.target)


def require_deletable(db: Database, job: StagedLoad, deleted: int, before: int) -> None:
    """Raise DeletesRefused, and so roll back, if rows may be missing for another reason than a delete in the source.
    Called after the delete: counting the rows first would take as long as deleting them."""
    if not deleted:
        return
    mode, share = job.strategy.mode, job.strategy.max_delete_share
    gone = f"{deleted:,} of {counted(before, 'row')} of the target are not in the rows read"
    staged = count_rows(db, f"SELECT COUNT(*) FROM {job.dialect.name(job.stage)} AS s")
    if not job.whole:
        found, todo = f"{gone}, but the read was not the whole source", "read the whole source, or use merge"
    elif staged != job.read:
        found = f"{gone}, but only {staged:,} of {counted(job.read, 'row')} reached the staging"
        todo = "make the source deliver all rows, or use merge"
    elif job.rows and deleted > share * before:
        found = f"{gone} ({deleted / before:.1%}), max_delete_share allows {share:.1%}"
        todo = "check that the source is complete; if it is, raise strategy.max_delete_share (1.0 allows all)"
    else:
        return
    raise DeletesRefused(f"load {job.target} by {mode}", found, f"{todo}; nothing was changed")


def require_single_target(db: Database, job: StagedLoad) -> None:
    """Raises DataError if a key has several rows in the target: they cannot all equal the one row that was read."""
    key = job.strategy.key
    if db.unique(job.target, key):
        return
    if twice := _groups(db, job, f"FROM {job.table} AS t", "t", "HAVING COUNT(*) > 1"):
        found = f"{counted(twice, 'key')} with several rows in the target (strategy.key: {', '.join(key)})"
        todo = "load by full_refresh once, or correct the key"
        raise DataError(f"load {job.target} by {job.strategy.mode}", found, todo)


def _groups(db: Database, job: StagedLoad, rows: str, alias: str, having: str = "") -> int:
    """How many keys the rows have; ``having``: counts only keys that meet it."""
    keys = ", ".join(job.dialect.keys(job.schema, job.strategy.key, alias))
    counted = f"SELECT COUNT(*) AS {job.dialect.quote(_RANK)} {rows} GROUP BY {keys} {having}"
    return count_rows(db, f"SELECT COUNT(*) FROM ({counted}) AS d")


def unlike(job: StagedLoad, column: str) -> str:
    """A condition: the column differs between target and staged row."""
    name = job.dialect.quote(column)
    return job.dialect.differs(f"t.{name}", f"s.{name}", job.schema.field(column).type)


def is_empty(db: Database, table: Name) -> bool:
    return not count_rows(db, db.dialect.exists(f"SELECT 1 FROM {db.dialect.name(table)}"))


def held(db: Database, table: Name, count: bool) -> int:
    """How many rows a table has; without ``count``, 1 if it has any."""
    return (
        count_rows(db, f"SELECT COUNT(*) FROM {db.dialect.name(table)} AS t") if count else int(not is_empty(db, table))
    )


def require_columns(strategy: Strategy, schema: pa.Schema, target: Name) -> None:
    """Raises ConfigError unless the rows have every column that the strategy names."""
    known = {*schema.names, *([ORDER_OF_FILES] if strategy.by_file(schema.names) else ())}
    for option, columns in strategy.columns.items():
        if missing := [c for c in columns if c not in known]:
            shown = ", ".join(schema.names[:20]) + (", ..." if len(schema.names) > 20 else "")
            found = f"strategy.{option} names {', '.join(missing)}, but the rows have {shown}"
            raise ConfigError(f"load {target}", found, f"correct strategy.{option}; names are case-sensitive")
    reserved = {"scd2": VALIDITY, "cdc_apply": (DELETED_AT,)}.get(strategy.mode, ())
    if own := [n for n in reserved if n in schema.names]:
        found = f"the rows have a column {', '.join(own)}, a name that dpone uses itself"
        raise ConfigError(f"load {target}", found, "rename it in the source")
    if strategy.effective_from is not None:
        type_ = schema.field(strategy.effective_from).type
        if not pa.types.is_timestamp(type_) or type_.tz is None:
            found = f"strategy.effective_from: {strategy.effective_from} is {type_}, which has no time zone"
            raise ConfigError(f"load {target}", found, "change the column to timestamptz in the source")


def count_rows(db: Database, sql: str, values: tuple[Any, ...] = ()) -> int:
    return int(db.rows(sql, values)[0][0])


def insert_rows(db: Database, job: StagedLoad, tail: str = "") -> int:
    d, names = job.dialect, job.schema.names
    return db.execute(
        f"{d.insert_into(job.target, names)} SELECT {d.columns(names, 's')} FROM {job.source} AS s {tail}"
    )


def swap_or_insert(db: Database, job: StagedLoad) -> int:
    """If the target is empty and ``job.swap`` is set, the stage takes its place, so that no row is copied."""
    if job.swap and is_empty(db, job.target):
        db.swap(job.stage, job.target)
        return job.rows
    return insert_rows(db, job)


def single(db: Database, job: StagedLoad) -> StagedLoad:
    """The job with one row per key, by ``strategy.duplicates``."""
    d, key = job.dialect, job.strategy.key
    if not key or job.unique:
        return job
    staged, keys = f"FROM {job.source} AS s", ", ".join(d.keys(job.schema, key, "s"))
    twice = _groups(db, job, staged, "s", "HAVING COUNT(*) > 1")
    if not twice:
        return job
    if job.strategy.duplicates == "fail":
        raise repeated_keys(job.target, job.strategy, counted(twice, "key"))
    ranked, rank = f"OVER (PARTITION BY {keys} ORDER BY {_ranking(job)})", d.quote(_RANK)
    best = f"(SELECT {d.columns(key, 's')}, RANK() {ranked} AS {rank} {staged})"
    if ties := _groups(db, job, f"FROM {best} AS r WHERE r.{rank} = 1", "r", "HAVING COUNT(*) > 1"):
        found = f"{counted(ties, 'key')} with rows that tie in order_by ({', '.join(job.strategy.order_by)})"
        raise DataError(f"load {job.target}", found, "add a column to order_by that distinguishes them")
    names = job.schema.names
    numbered = f"SELECT {d.columns(names, 's')}, ROW_NUMBER() {ranked} AS {rank} {staged}"
    best = f"(SELECT {d.columns(names, 'r')} FROM ({numbered}) AS r WHERE r.{rank} = 1)"
    return evolve(job, source=best, rows=_groups(db, job, staged, "s"), swap=False)


def _ranking(job: StagedLoad) -> str:
    """The best row first. NULL ranks below every value; servers differ in how they sort it."""
    d = job.dialect
    way = "DESC" if job.strategy.duplicates == "last" else "ASC"
    terms: list[str] = []
    for name in job.strategy.order_by:
        of_file = name not in job.schema.names
        column = f"s.{d.quote(FILE if of_file else name)}"
        terms.append(f"CASE WHEN {column} IS NULL THEN 0 ELSE 1 END {way}")
        terms.append(f"{d.ordered(column, pa.int64() if of_file else job.schema.field(name).type)} {way}")
    return ", ".join(terms)


def repeated_keys(target: Name, strategy: Strategy, how_many: str = "") -> DataError:
    found = f"several rows have the same strategy.key ({', '.join(strategy.key)}){how_many and f': {how_many}'}"
    todo = "make the key unique in the source, or set duplicates: first or last with order_by (file: by file name)"
    return DataError(f"load {target}", found, todo)
