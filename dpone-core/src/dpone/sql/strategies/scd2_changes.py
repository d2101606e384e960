"""scd2 for a change stream: each state that a commit left of a row becomes a version of it.

A version begins at the time of its commit (``fold.Clock``), and ends at the time of the commit that changed, moved,
deleted or truncated its row. All changes of a commit have one time: a row that is inserted and deleted in one commit
gets no version, and a row that a commit leaves as it was keeps its version. So the table as of any time equals the
source as one commit left it.

Changes are staged as chunks with one row for each key and commit (``dpone.sql.fold``) and applied chunk by chunk, as in
``cdc_apply``. A commit may continue in the next chunk: that chunk first takes back what the commit has done to the keys
that it touches again.

The table ``__dpone__commits`` next to the target has the mark and the time of the last commit that each stream has
delivered. Commits that are delivered again, because a position was set back, are skipped: their versions exist.

A whole window over a table that has versions contains the rows that the source has now, without the changes that led to
them. It counts as one commit at the time of the load: rows that differ begin a version, versions of missing rows are
closed, older versions stay.

In the statements ``t`` is the target and ``s`` the staged rows of one chunk, except in ``_carry``, ``_complete`` and
``_merge``, which change the staging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from attrs import define, field

from dpone.contract import Load
from dpone.errors import ConfigError, DeletesRefused, SinkError
from dpone.model.schema import (
    LINEAGE,
    VALID_FROM,
    VALID_TO,
    VALIDITY,
    Name,
)
from dpone.sql import fold
from dpone.sql.dialect import Database, Dialect
from dpone.sql.fold import CHUNK, DELETE, FRESH, INSERT, MARK, MASK, NUMBER, OP, TRUNCATE, UPDATE, UPSERT, Clock
from dpone.sql.own import Own
from dpone.sql.strategies.cdc_apply import Chunk, plus
from dpone.sql.strategies.job import RowCounts, StagedLoad, unlike
from dpone.sql.strategies.scd2 import moment

COMMITS = "__dpone__commits"
_COMMITS = pa.schema([*((name, pa.string()) for name in ("target", "stream", "commit")), ("at", fold.INSTANT)])
_TICK = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SAME = "same"
_VERSIONS = (UPSERT, UPDATE, INSERT, FRESH)


def staged_schema(schema: pa.Schema, have: pa.Schema, load: Load, target: Name) -> pa.Schema:
    """Columns of the staging: those of the target and those of a chunk. Raises ConfigError if there is no key."""
    if not load.strategy.key:
        raise ConfigError(f"load {target} by scd2", "no key", "set the key columns, as in key: [id]")
    if not load.changes:
        return schema
    carried = [f for f in have if f.name not in (*schema.names, *VALIDITY)]
    own = [have.field(VALID_FROM), pa.field(NUMBER, pa.int64()), pa.field(MARK, pa.string())]
    own += fold.staged_fields([schema.field(name) for name in load.strategy.key])
    return pa.schema([f.with_nullable(True) for f in (*schema, *carried, *own)])


def create(db: Database, target: Name) -> None:
    """The table of delivered commits; before the transaction of a commit."""
    own(db, target).create()


def own(db: Database, target: Name) -> Own:
    return Own(db, target.sibling(COMMITS), _COMMITS, ("target", "stream"))


def clock(db: Database, target: Name, load: Load, at: datetime) -> Clock:
    """The clock, by the table as it is when changes are staged. ``versions`` checks that it has not changed since."""
    latest = _latest(db, target)
    if latest is None:  # the table has no rows, so no commit is skipped
        return Clock(at)
    if load.whole:
        return Clock(at, once=max(at, latest + _TICK))
    mark, last = _delivered(db, target, load.key)
    return Clock(at, (max(last or latest, latest) - _EPOCH) // _TICK, mark)


def _latest(db: Database, target: Name) -> datetime | None:
    """The latest boundary of all versions."""
    d = db.dialect
    bounds = ", ".join(f"MAX(t.{d.quote(name)})" for name in VALIDITY)
    [found] = db.rows(f"SELECT {bounds} FROM {d.name(target)} AS t")
    return max((moment(at) for at in found if at is not None), default=None)


def _delivered(db: Database, target: Name, stream: str) -> tuple[str, datetime | None]:
    table = own(db, target)
    if not table.exists():
        return "", None
    found = table.rows(["commit", "at"], {"target": target.last, "stream": stream})
    return (found[0][0], moment(found[0][1])) if found else ("", None)


def _remember(db: Database, job: StagedLoad, mark: str, at: Any) -> None:
    table = own(db, job.target)
    table.delete({"target": job.target.last, "stream": job.stream})
    table.insert(job.target.last, job.stream, mark, at)


@define
class _Staged:
    """A chunk: its number of rows by operation, and the times of its first and last commit."""

    operations: dict[str, int] = field(factory=dict)
    truncated: Any = None
    first: Any = None
    last: Any = None
    mark: str = ""

    def add(self, operation: str, rows: int, first: Any, last: Any, mark: str) -> None:
        self.operations[operation], self.mark = rows, mark
        if operation == TRUNCATE:
            self.truncated = first
        else:
            self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)

    @property
    def begin(self) -> Any:
        return self.first if self.truncated is None else self.truncated


def versions(db: Database, job: StagedLoad) -> RowCounts:
    """inserted: versions opened. updated: versions closed by a change. deleted: versions closed by a delete or a
    truncate."""
    if job.images is not None:
        found = "undo is not possible for versions from a change stream"
        raise ConfigError(f"load {job.target} by scd2", found, "remove sink.options.undo; nothing was changed")
    chunks = _chunks(db, job)
    if not chunks:
        return _close_all(db, job) if job.whole else RowCounts()
    begin, previous, total = next(iter(chunks.values())).begin, None, RowCounts()
    _require_later(db, job, begin)
    for number, chunk in chunks.items():
        again = chunk.first is not None and chunk.first in (previous, chunk.truncated)
        total = plus(total, _Versions(db, job, number, chunk.operations, again).apply())
        previous, mark = chunk.last, chunk.mark
    if job.whole:
        total = plus(total, _close_missing(db, job, begin))
    _remember(db, job, mark, previous)
    return total


def _chunks(db: Database, job: StagedLoad) -> Mapping[int, _Staged]:
    d = job.dialect
    names, at = d.columns([CHUNK, OP], "s"), f"s.{d.quote(VALID_FROM)}"
    sql = f"SELECT {names}, COUNT(*), MIN({at}), MAX({at}), MIN(s.{d.quote(MARK)}) FROM {job.source} AS s"
    chunks: dict[int, _Staged] = {}
    for number, *one in db.rows(f"{sql} GROUP BY {names} ORDER BY {names}"):
        chunks.setdefault(int(number), _Staged()).add(*one)
    return chunks


def indexes(d: Dialect, stage: Name, shape: pa.Schema, load: Load) -> list[str]:
    """Statements for the indexes of the staging, executed before the commit."""
    key = load.strategy.key
    made = [d.create_index(stage, shape, [CHUNK, *key, NUMBER])]
    return [*made, d.create_index(stage, shape, key, "whole")] if load.whole else made


def _require_later(db: Database, job: StagedLoad, begin: Any) -> None:
    latest = _latest(db, job.target)
    if latest is not None and latest >= moment(begin):
        found = "another load changed the table after these changes were staged"
        raise SinkError(f"load {job.target} by scd2", found, "run again; nothing was changed")


def _close_missing(db: Database, job: StagedLoad, begin: Any) -> RowCounts:
    """Closes current versions from before this load whose key the whole window lacks."""
    d = job.dialect
    current = f"t.{d.quote(VALID_TO)} IS NULL AND t.{d.quote(VALID_FROM)} < {d.placeholder}"
    missing = f"NOT EXISTS (SELECT 1 FROM {job.source} AS s WHERE {d.same(job.schema, job.strategy.key)})"
    return RowCounts(deleted=db.execute(d.update(job.target, VALID_TO, f"{current} AND {missing}"), [begin, begin]))


def _close_all(db: Database, job: StagedLoad) -> RowCounts:
    """The whole source was read and is empty: treated like a truncate. Raises DeletesRefused."""
    d, latest = job.dialect, _latest(db, job.target)
    current = f"t.{d.quote(VALID_TO)} IS NULL"
    [(rows,)] = db.rows(f"SELECT COUNT(*) FROM {job.table} AS t WHERE {current}")
    if not rows or latest is None or job.strategy.truncate == "ignore":
        return RowCounts()
    if job.strategy.truncate == "fail":
        todo = "set strategy.truncate: apply to close all versions, or ignore; nothing was changed"
        raise DeletesRefused(f"load {job.target} by scd2", "the source is empty, but the target is not", todo)
    at = d.bind(max(job.at, latest + _TICK), fold.INSTANT)
    return RowCounts(deleted=db.execute(d.update(job.target, VALID_TO, current), [at]))


class _Versions(Chunk):
    """The statements of one chunk, in the order of ``apply``.

    again  the first rows belong to a commit that has already changed the target: in the chunk before, or by the
           truncate of this chunk
    """

    def __init__(self, db: Database, job: StagedLoad, number: int, operations: Mapping[str, int], again: bool) -> None:
        super().__init__(db, job, number, operations)
        self._again = again
        self._begin, self._end = self._d.quote(VALID_FROM), self._d.quote(VALID_TO)

    def apply(self) -> RowCounts:
        deleted = self._truncate() if TRUNCATE in self._has else 0
        self._carry()
        if {UPDATE, INSERT} & {*self._has}:
            self._complete()
            self._require_complete()
        if self._again:
            self._take_back()
        self._merge()
        deleted += self._close(DELETE)
        updated = self._close(*_VERSIONS)
        return RowCounts(self._open(), updated, deleted)

    def _truncate(self) -> int:
        """Closes all current versions. Those that the same commit has opened are deleted instead."""
        d, job, one = self._d, self._job, self._of("s", TRUNCATE)
        at = f"(SELECT s.{self._begin} FROM {job.source} AS s WHERE {one})"
        self._db.execute(d.delete_from(job.target, f"t.{self._end} IS NULL AND t.{self._begin} = {at}"))
        where = f"{one} AND t.{self._end} IS NULL"
        return self._db.execute(d.update_from(job.target, job.source, {VALID_TO: f"s.{self._begin}"}, where))

    def _current(self) -> str:
        """The current version of the row that a staged row (t) builds on; the target is ``s``. In a whole window only
        rows of the window itself count, so an earlier chunk must have the key."""
        d = self._d
        current = f"{self._by_old_key()} AND s.{self._end} IS NULL"
        if not self._job.whole:
            return current
        before = f"{d.same(self._job.schema, self._key, 'e')} AND e.{d.quote(CHUNK)} < {self._number}"
        return f"{current} AND EXISTS (SELECT 1 FROM {self._job.source} AS e WHERE {before})"

    def _write(self, values: Mapping[str, str], where: str) -> None:
        job = self._job
        self._db.execute(self._d.update_from(job.stage, job.table, values, f"{where} AND {self._current()}"))

    def _carry(self) -> None:
        """Columns of the target that the changes lack are copied to the next version."""
        values = {name: f"s.{self._d.quote(name)}" for name in self._carried}
        if values:
            self._write(values, self._of("t", *_VERSIONS))

    @property
    def _carried(self) -> Sequence[str]:
        have = self._db.schema(self._job.target)
        assert have is not None
        return [n for n in have.names if n not in (*self._names, *VALIDITY)]

    def _complete(self) -> None:
        """Values that the log left out are taken from the current version. ``t`` is the staging, ``s`` the target."""
        d = self._d
        values = {}
        for name in (n for n in self._names if n not in (*self._key, *LINEAGE)):
            sign = d.character(f"t.{d.quote(MASK)}", self._place(name))
            values[name] = f"CASE WHEN {sign} = '1' THEN s.{d.quote(name)} ELSE t.{d.quote(name)} END"
        self._write(values | {MASK: "NULL"}, self._masked("t", UPDATE, INSERT))

    def _take_back(self) -> None:
        """Takes back what the commit has done to the keys that it touches again: versions that it opened are deleted,
        versions that it closed become current again. Both are found by the time of the commit, which is unique."""
        d, job = self._d, self._job
        mine = f"{self._of('s', *_VERSIONS, DELETE)} AND s.{d.quote(NUMBER)} = 0"
        touched = f"(SELECT {d.columns([*self._key, VALID_FROM], 's')} FROM {job.source} AS s WHERE {mine})"
        known = job.schema.append(pa.field(VALID_FROM, fold.INSTANT))
        self._db.execute(d.delete_keys(job.target, touched, known, [*self._key, VALID_FROM]))
        closed = f"{self._same} AND t.{self._end} = s.{self._begin}"
        self._db.execute(d.update_from(job.target, touched, {VALID_TO: "NULL"}, closed))

    def _merge(self) -> None:
        """Marks versions that equal the one before them; they are not opened. ``t`` is the staging; ``s`` has the
        version before: in the target, or in the staging for the second and later ones of a key."""
        d, job = self._d, self._job
        own = (*self._key, *LINEAGE)
        differs = [unlike(job, name) for name in self._names if name not in own]
        equal = f"{self._of('t', *_VERSIONS)} AND {self._same} AND NOT ({' OR '.join(differs) or '1 = 0'})"
        values, number = {OP: d.literal(_SAME)}, d.quote(NUMBER)
        first = f"{equal} AND t.{number} = 0 AND s.{self._end} IS NULL"
        self._db.execute(d.update_from(job.stage, job.table, values, first))
        next_ = f"{equal} AND t.{number} = s.{number} + 1 AND {self._of('s', *_VERSIONS, _SAME)}"
        self._db.execute(d.update_from(job.stage, job.source, values, next_))

    def _left(self, *columns: str) -> str:
        """The rows of the chunk that open or close a version: key, operation, beginning, and ``columns``."""
        d = self._d
        names = d.columns([*self._key, OP, VALID_FROM], "s")
        return f"SELECT {', '.join([names, *columns])} FROM {self._job.source} AS s WHERE " + self._of(
            "s", *_VERSIONS, DELETE
        )

    def _of_key(self) -> str:
        keys = ", ".join(self._d.keys(self._job.schema, self._key, "s"))
        return f"OVER (PARTITION BY {keys} ORDER BY s.{self._d.quote(NUMBER)})"

    def _close(self, *operations: str) -> int:
        """Closes the current versions of keys whose first row in the chunk has one of these operations."""
        d, job, rank = self._d, self._job, self._d.quote("__dpone__rank")
        if not {*operations} & {*self._has}:
            return 0
        wanted = ", ".join(map(d.literal, operations))
        ranked = f"({self._left(f'ROW_NUMBER() {self._of_key()} AS {rank}')})"
        first = f"SELECT {d.columns([*self._key, VALID_FROM], 'r')} FROM {ranked} AS r"
        first = f"({first} WHERE r.{rank} = 1 AND r.{d.quote(OP)} IN ({wanted}))"
        where = f"{self._same} AND t.{self._end} IS NULL"
        return self._db.execute(d.update_from(job.target, first, {VALID_TO: f"s.{self._begin}"}, where))

    def _open(self) -> int:
        d, job = self._d, self._job
        names = [*(n for n in self._names if n not in self._key), *self._carried]
        ends = f"LEAD(s.{self._begin}) {self._of_key()} AS {self._end}"
        rows = f"({self._left(d.columns(names, 's'), ends) if names else self._left(ends)})"
        into = [*self._key, *names, *VALIDITY]
        versions = f"SELECT {d.columns(into, 'v')} FROM {rows} AS v WHERE v.{d.quote(OP)} <> {d.literal(DELETE)}"
        return self._db.execute(f"{d.insert_into(job.target, into)} {versions}")
