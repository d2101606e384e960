"""cdc_apply: changes are staged as folded chunks (``dpone.sql.fold``) and applied chunk by chunk, each by a few
set-based statements, all in the transaction of the commit. Each chunk is applied to the result of the one before it, so
that left-out values, moved rows and truncates see the state that earlier changes produced.

In the statements ``t`` is the target and ``s`` the staged rows of one chunk, except in ``_complete``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property

import pyarrow as pa
from attrs import evolve

from dpone.contract import Load, Stream
from dpone.errors import ConfigError, DataError, DeletesRefused, counted
from dpone.model.evolution import twin
from dpone.model.schema import (
    DEFAULT,
    DELETED_AT,
    LINEAGE,
    Name,
)
from dpone.sql import fold
from dpone.sql.dialect import Database
from dpone.sql.fold import CHUNK, DELETE, FRESH, FROM, INSERT, KEPT, MASK, OP, TRUNCATE, UPDATE, UPSERT
from dpone.sql.strategies.job import (
    RowCounts,
    StagedLoad,
    is_empty,
    require_single_target,
)
from dpone.sql.strategies.merge import upsert


def staged_schema(schema: pa.Schema, load: Load, target: Name) -> pa.Schema:
    """Columns of the staging: those of the target and those of a chunk. Raises ConfigError if the source delivers rows
    instead of changes."""
    if not load.changes:
        todo = "read a change stream, or use strategy merge"
        raise ConfigError(f"load {target} by cdc_apply", "the source delivers rows, not changes", todo)
    own = fold.staged_fields([schema.field(name) for name in load.strategy.key])
    return pa.schema([f.with_nullable(True) for f in (*schema, *own)])


class Incoming:
    """The changes of a part on their way to the staging. Counts them; ``staged`` counts the rows after the fold."""

    def __init__(self, stream: Stream, folding: fold.Folding) -> None:
        self._stream, self._folding = stream, folding
        self.rows = self.bytes = self.staged = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        for chunk in self._folding.chunks(self._counted()):
            self.staged += chunk.num_rows
            yield chunk

    def _counted(self) -> Iterator[pa.RecordBatch]:
        fold.require_schema(self._folding, self._stream.schema)
        for batch in self._stream.batches():
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
            yield batch
        if not self.rows and self._folding.whole:  # of an empty table: an empty batch has its columns
            schema = self._stream.schema
            yield pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)


def next_chunk(db: Database, stage: Name) -> int:
    d = db.dialect
    [(last,)] = db.rows(f"SELECT MAX(s.{d.quote(CHUNK)}) FROM {d.name(stage)} AS s")
    return 0 if last is None else int(last) + 1


def cdc_apply(db: Database, job: StagedLoad) -> RowCounts:
    """Counts are summed over the chunks: a row that one chunk inserts and the next updates is counted twice."""
    require_single_target(db, job)
    chunks, total = _operations(db, job), RowCounts()
    if job.whole and [{TRUNCATE}] == [{*operations} for operations in chunks.values()] and not _may_empty(db, job):
        return total
    truncated = [number for number, operations in chunks.items() if TRUNCATE in operations]
    if truncated and job.strategy.deletes != "soft":  # it deletes what earlier chunks wrote
        chunks = {number: operations for number, operations in chunks.items() if number >= truncated[-1]}
    for number, operations in chunks.items():
        total = plus(total, Chunk(db, job, number, operations).apply())
    return total


def _may_empty(db: Database, job: StagedLoad) -> bool:
    """The whole source was read and is empty: treated like a truncate. Raises DeletesRefused."""
    if job.strategy.truncate == "fail" and not is_empty(db, job.target):
        todo = "set strategy.truncate: apply to delete all rows, or ignore; nothing was changed"
        raise DeletesRefused(f"load {job.target} by cdc_apply", "the source is empty, but the target is not", todo)
    return job.strategy.truncate != "ignore"


def _operations(db: Database, job: StagedLoad) -> Mapping[int, Mapping[str, int]]:
    """The number of rows of each chunk by operation, in the order of the chunks."""
    d = job.dialect
    columns = d.columns([CHUNK, OP], "s")
    found = db.rows(f"SELECT {columns}, COUNT(*) FROM {job.source} AS s GROUP BY {columns} ORDER BY {columns}")
    chunks: dict[int, dict[str, int]] = defaultdict(dict)
    for number, operation, rows in found:
        chunks[int(number)][operation] = int(rows)
    return chunks


def plus(one: RowCounts, other: RowCounts) -> RowCounts:
    return RowCounts(
        one.inserted + other.inserted,
        one.updated + other.updated,
        one.deleted + other.deleted,
        one.unchanged + other.unchanged,
    )


class Chunk:
    """The statements of one chunk, in the order of ``apply``."""

    def __init__(self, db: Database, job: StagedLoad, number: int, operations: Mapping[str, int]) -> None:
        self._db, self._job, self._d, self._has = db, job, job.dialect, operations
        self._names, self._key = job.schema.names, job.strategy.key
        self._number = number
        self._soft = job.strategy.deletes == "soft"

    def apply(self) -> RowCounts:
        deleted = self._truncate() if TRUNCATE in self._has else 0
        if {UPDATE, INSERT, KEPT} & {*self._has}:
            self._require_rows_in_place()
            self._complete()
            self._require_complete()
        deleted += self._delete()
        inserted = self._insert_with_defaults()
        marked = self._count_marked() if self._soft else 0
        return plus(self._upsert(), RowCounts(inserted, -marked, deleted + marked))

    def _of(self, alias: str, *operations: str) -> str:
        """Staged rows of this chunk with these operations."""
        d = self._d
        wanted = ", ".join(map(d.literal, operations))
        return f"{alias}.{d.quote(CHUNK)} = {self._number} AND {alias}.{d.quote(OP)} IN ({wanted})"

    def _masked(self, alias: str, *operations: str) -> str:
        """Those of them that have left-out values."""
        return f"{self._of(alias, *operations)} AND {alias}.{self._d.quote(MASK)} IS NOT NULL"

    def _truncate(self) -> int:
        d, job = self._d, self._job
        if not self._soft:
            job.keep("1 = 1")
            return self._db.execute(f"DELETE FROM {job.table}")
        columns = [n for n in (DELETED_AT, *LINEAGE) if n in self._names]
        where = f"{self._of('s', TRUNCATE)} AND t.{d.quote(DELETED_AT)} IS NULL"
        values = {n: f"s.{d.quote(n)}" for n in columns}
        job.keep(where, source=job.source)
        return self._db.execute(d.update_from(job.target, job.source, values, where))

    def _require_rows_in_place(self) -> None:
        """In a replay the row with an old key is gone, or another one has taken the key since. Raises DataError."""
        if not self._job.replayed:
            return
        d, schema = self._d, self._job.schema
        pairs = ((f"t.{d.quote(k)}", f"t.{d.quote(f'{FROM}{n}')}", k) for n, k in enumerate(self._key))
        stayed = " AND ".join(d.equal(now, was, schema.field(k).type) for now, was, k in pairs)
        where = f"{self._masked('t', UPDATE, INSERT, KEPT)} AND NOT ({stayed})"
        [(moved,)] = self._db.rows(f"SELECT COUNT(*) FROM {d.name(self._job.stage)} AS t WHERE {where}")
        if moved:
            found = f"{counted(moved, 'change')} of a key left out values, which only the row with the old key had"
            todo = "read the table again with 'dpone cdc resync' or --full-refresh; nothing was changed"
            raise DataError(f"replay changes of {self._job.target}", found, todo)

    def _complete(self) -> None:
        """Values that the log left out are taken from the existing row. Here ``t`` is the staging and ``s`` the target.
        A new row takes no values from a row that was deleted and kept."""
        d, job = self._d, self._job
        values = {}
        for name in (n for n in self._names if n not in (*self._key, *LINEAGE, DELETED_AT)):
            sign = d.character(f"t.{d.quote(MASK)}", self._place(name))
            values[name] = f"CASE WHEN {sign} = '1' THEN s.{d.quote(name)} ELSE t.{d.quote(name)} END"
        where = f"{self._masked('t', UPDATE, INSERT, KEPT)} AND {self._by_old_key()}"
        if INSERT in self._has and DELETED_AT in self._names:
            gone = f"s.{d.quote(DELETED_AT)} IS NOT NULL"
            where += f" AND NOT (t.{d.quote(OP)} = {d.literal(INSERT)} AND {gone})"
        self._db.execute(d.update_from(job.stage, job.table, values | {MASK: "NULL"}, where))

    def _by_old_key(self) -> str:
        """A condition: the row of the target (s) is the one that a staged row (t) changes, found by its old key."""
        d, schema = self._d, self._job.schema
        pairs = ((f"s.{d.quote(k)}", f"t.{d.quote(f'{FROM}{n}')}", k) for n, k in enumerate(self._key))
        return " AND ".join(d.equal(mine, was, schema.field(k).type) for mine, was, k in pairs)

    def _place(self, name: str) -> int:
        """The place of a column in the mask, from 1; values that were routed to a column of another type share it."""
        filled = self._job.filled
        return 1 + (filled.index(name) if name in filled else filled.index(twin(name)))

    def _require_complete(self) -> None:
        sql = f"SELECT COUNT(*) FROM {self._job.source} AS s WHERE {self._masked('s', UPDATE)}"
        [(unknown,)] = self._db.rows(sql)
        if unknown:
            found = f"the target lacks the rows of {counted(unknown, 'update')} with left-out values"
            todo = "load the table again with --full-refresh, or make the source log all values; nothing was changed"
            if self._job.whole:
                found = f"no earlier change has the left-out values of {counted(unknown, 'update')}"
                todo = "start the log with an insert of each existing row, or make the source log all values"
            raise DataError(f"load {self._job.target} by {self._job.strategy.mode}", found, todo)

    def _delete(self) -> int:
        """Deletes rows, and also rows that a new one replaces if its left-out values get defaults."""
        if not {DELETE, INSERT, FRESH} & {*self._has}:
            return 0
        d, job = self._d, self._job
        where = self._of("s", DELETE)
        if self._defaults:
            where = f"({where}) OR ({self._masked('s', INSERT, FRESH)})"
        elif DELETE not in self._has:
            return 0
        source = f"(SELECT {d.columns(self._key, 's')} FROM {job.source} AS s WHERE {where})"
        job.keep(self._same, source=source)
        return self._db.execute(d.delete_keys(job.target, source, job.schema, self._key))

    @cached_property
    def _defaults(self) -> list[str]:
        """Columns of the target with a default, if there are new rows that may lack a value for them."""
        have = self._db.schema(self._job.target) if {INSERT, FRESH} & {*self._has} else None
        names = {*self._names} - {*self._key}
        return [f.name for f in have or () if f.name in names and DEFAULT in (f.metadata or {})]

    def _insert_with_defaults(self) -> int:
        """Inserts new rows that lack values, by one statement for each set of columns that they lack."""
        if not self._defaults:
            return 0
        d, job, new = self._d, self._job, self._masked("s", INSERT, FRESH)
        mask, inserted = d.quote(MASK), 0
        for (signs,) in self._db.rows(f"SELECT DISTINCT s.{mask} FROM {job.source} AS s WHERE {new}"):
            names = [n for n in self._names if n not in self._defaults or signs[self._place(n) - 1] == "0"]
            rows = f"SELECT {d.columns(names, 's')} FROM {job.source} AS s WHERE {new} AND s.{mask} = {d.placeholder}"
            inserted += self._db.execute(f"INSERT INTO {job.table} ({d.columns(names)}) {rows}", [signs])
        self._db.execute(d.delete_from(job.stage, self._masked("t", INSERT, FRESH)))
        return inserted

    def _rows(self) -> str:
        """The rows that are left to write, all values known."""
        d = self._d
        unmatched = f"{d.quote(OP)} = {d.literal(KEPT)} AND s.{d.quote(MASK)} IS NOT NULL"
        where = f"{self._of('s', UPSERT, UPDATE, INSERT, FRESH, KEPT)} AND NOT (s.{unmatched})"
        return f"(SELECT {d.columns(self._names, 's')} FROM {self._job.source} AS s WHERE {where})"

    @property
    def _same(self) -> str:
        return self._d.same(self._job.schema, self._key)

    def _count_marked(self) -> int:
        """The number of rows of the target that will be marked as deleted and are not yet."""
        mark = self._d.quote(DELETED_AT)
        joined = f"{self._rows()} AS s JOIN {self._job.table} AS t ON {self._same}"
        [(rows,)] = self._db.rows(f"SELECT COUNT(*) FROM {joined} WHERE s.{mark} IS NOT NULL AND t.{mark} IS NULL")
        return int(rows)

    def _upsert(self) -> RowCounts:
        source = self._rows()
        [(rows,)] = self._db.rows(f"SELECT COUNT(*) FROM {source} AS s")
        return upsert(self._db, evolve(self._job, source=source, rows=int(rows), swap=False)) if rows else RowCounts()
