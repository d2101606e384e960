"""scd2: every version of a row, with the half-open interval in which it was valid: valid_from <= time < valid_to.

The valid_to of the current version of a key is NULL. Versions of a key never overlap, none is empty, and a closed one
is never changed. A version begins at the time of the load. If the table already has a boundary as late as that (a
second load at the same time, or a clock that was set back), it begins one microsecond after the latest boundary. So the
order of the intervals is the order of the commits, even if clocks are wrong.

With ``effective_from`` the beginning comes from the rows. It is data and is never adjusted: a change that begins at or
before the version it would end is an error. The only exception is a row that comes back after it was closed: it begins
no earlier than the end of its last version.

NULL is a value of its own and differs from an empty text. A column that the rows lack is not compared, and its value is
copied to the next version. A column that was added after a version was written is not NULL there but unknown: see
``strategy.new_columns``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from dpone.errors import DataError, SchemaBreak, counted
from dpone.model.schema import (
    DELETED_AT,
    LINEAGE,
    VALID_FROM,
    VALID_TO,
    VALIDITY,
    Name,
)
from dpone.model.strategy import Strategy
from dpone.sql.dialect import Database
from dpone.sql.own import Own
from dpone.sql.strategies.job import (
    RowCounts,
    StagedLoad,
    require_deletable,
    unlike,
)
from dpone.sql.strategies.snapshot_diff import lacking

INSTANT = pa.timestamp("us", "UTC")
COLUMNS = "__dpone__columns"
_COLUMNS = pa.schema([("target", pa.string()), ("column", pa.string()), ("since", pa.string())])


def shape(strategy: Strategy, schema: pa.Schema) -> tuple[pa.Schema, tuple[str, ...]]:
    """Columns, without lineage, and primary key of a target that dpone creates."""
    if strategy.mode == "cdc_apply" and strategy.deletes == "soft":
        schema = schema.append(pa.field(DELETED_AT, INSTANT))
    if strategy.mode != "scd2":
        return schema, strategy.key
    fields = pa.field(VALID_FROM, INSTANT, nullable=False), pa.field(VALID_TO, INSTANT)
    key = (*strategy.key, VALID_FROM) if strategy.key else ()  # else the log of the stream names it later
    return pa.schema([*schema, *fields]), key


def create(db: Database, target: Name) -> None:
    """The table of known columns (``_columns_since``); before the transaction of a commit."""
    _own(db, target).create()


def _own(db: Database, target: Name) -> Own:
    return Own(db, target.sibling(COLUMNS), _COLUMNS, ("target", "column"))


def require_own(strategy: Strategy, have: pa.Schema, target: Name, given: Sequence[str] | None = None) -> None:
    """A table with versions is loaded only by scd2, and scd2 loads no other table. ``given``: columns of the rows, if
    known. Rows that have the validity columns themselves, as a copy of such a table, may be loaded by any strategy.
    Raises SchemaBreak."""
    versions = {*VALIDITY} <= {*have.names}
    if strategy.mode == "scd2" and not versions:
        found = f"the table has no columns {VALID_FROM} and {VALID_TO}: scd2 did not create it"
        raise SchemaBreak(f"load {target} by scd2", found, "load into another table; no row was changed")
    if strategy.mode != "scd2" and versions and given is not None and not {*VALIDITY} & {*given}:
        found = "the table has versions with validity intervals, created by scd2"
        todo = "go on with scd2, or load into another table; no row was changed"
        raise SchemaBreak(f"load {target} by {strategy.mode}", found, todo)


def kept_by(strategy: Strategy) -> tuple[str, ...]:
    """The key by which an undo finds changed rows that keep the id of an earlier load; empty if every changed row gets
    the id of the load that changes it."""
    return (*strategy.key, VALID_FROM) if strategy.mode == "scd2" else ()


def scd2(db: Database, job: StagedLoad) -> RowCounts:
    """inserted: versions opened. updated: versions closed by a change, or filled. deleted: versions closed because the
    source lacks the row. unchanged: rows read that equal their current version. ``job`` has one row per key."""
    versions = _Versions(db, job)
    deleted = versions.close_missing() if job.strategy.deletes == "close" else 0
    if not job.rows:
        return RowCounts(deleted=deleted)
    versions.require_later()
    changed = versions.close_changed()
    filled = versions.fill()
    opened = versions.open()
    return RowCounts(opened, changed + filled, deleted, unchanged=max(job.rows - opened - filled, 0))


class _Versions:
    """The statements of one load. In each, ``t`` is the target and ``s`` the rows read."""

    def __init__(self, db: Database, job: StagedLoad) -> None:
        self._db, self._job, self._d = db, job, job.dialect
        effective, own = job.strategy.effective_from, (*job.strategy.key, *LINEAGE)
        self._compared = [n for n in job.schema.names if n not in own and n != effective]
        self._same = self._on("t")
        self._end, self._begin = f"t.{self._d.quote(VALID_TO)}", f"t.{self._d.quote(VALID_FROM)}"
        self._effective = f"s.{self._d.quote(effective)}" if effective is not None else None
        first, last = self._boundaries()
        self._fresh = first is None
        self._at = max([job.at, *(at + timedelta(microseconds=1) for at in (first, last) if at is not None)])
        self._young = self._columns_since(first)

    def _on(self, alias: str) -> str:
        return self._d.same(self._job.schema, self._job.strategy.key, alias)

    def _boundaries(self) -> tuple[datetime | None, datetime | None]:
        sql = f"SELECT MAX({self._begin}), MAX({self._end}) FROM {self._job.table} AS t"
        first, last = (at if at is None else moment(at) for at in self._db.rows(sql)[0])
        return first, last

    def _bound(self, at: datetime) -> Any:
        return self._d.bind(at, INSTANT)

    def close_missing(self) -> int:
        sql = f"SELECT COUNT(*) FROM {self._job.table} AS t WHERE {self._end} IS NULL"
        current = int(self._db.rows(sql)[0][0])
        if not current:
            return 0
        where = f"{self._end} IS NULL AND {lacking(self._db, self._job)}"
        self._keep(where)
        closed = self._db.execute(self._d.update(self._job.target, VALID_TO, where), [self._bound(self._at)])
        require_deletable(self._db, self._job, closed, current)
        return closed

    def require_later(self) -> None:
        """With ``effective_from``: every row has a beginning, and every change begins after the version it ends."""
        if self._effective is None:
            return
        source, name, failed = self._job.source, self._job.strategy.effective_from, f"load {self._job.target} by scd2"
        [(unknown,)] = self._db.rows(f"SELECT COUNT(*) FROM {source} AS s WHERE {self._effective} IS NULL")
        if unknown:
            found = f"{name} is NULL in {counted(unknown, 'row')}, so their versions have no start"
            raise DataError(failed, found, "fill it in the source")
        differs, values = self._differs()
        joined = f"FROM {source} AS s JOIN {self._job.table} AS t ON {self._same}"
        where = f"{self._end} IS NULL AND {self._effective} <= {self._begin} AND ({differs})"
        [(early,)] = self._db.rows(f"SELECT COUNT(*) {joined} WHERE {where}", values)
        if early:
            found = (
                f"{counted(early, 'row')} changed, but their {name} is not later than in the version that they replace"
            )
            raise DataError(failed, found, "set a later time in changed rows of the source; history is not rewritten")

    def _differs(self) -> tuple[str, list[Any]]:
        """NULL in a column that was added after the version is unknown: it counts as equal to any value."""
        terms, values = [], []
        for name in self._compared:
            mine, term = f"t.{self._d.quote(name)}", unlike(self._job, name)
            if name in self._young:
                term = f"({term} AND NOT ({mine} IS NULL AND {self._begin} <= {self._d.placeholder}))"
                values.append(self._bound(self._young[name]))
            terms.append(term)
        return " OR ".join(terms) or "1 = 0", values

    def close_changed(self) -> int:
        if self._fresh:
            return 0
        start = self._effective or self._d.placeholder
        differs, values = self._differs()
        where = f"{self._same} AND {self._end} IS NULL AND ({differs})"
        self._keep(where, values, self._job.source)
        bound = [] if self._effective else [self._bound(self._at)]
        return self._db.execute(
            self._d.update_from(self._job.target, self._job.source, {VALID_TO: start}, where), [*bound, *values]
        )

    def fill(self) -> int:
        """Versions that are still current after ``close_changed`` can differ only in values that were unknown."""
        if not self._young:
            return 0
        differs = " OR ".join(unlike(self._job, name) for name in self._young)
        where = f"{self._same} AND {self._end} IS NULL AND ({differs})"
        self._keep(where, source=self._job.source)
        fresh = {name: f"s.{self._d.quote(name)}" for name in self._young}
        return self._db.execute(self._d.update_from(self._job.target, self._job.source, fresh, where))

    def _keep(self, where: str, values: Sequence[Any] = (), source: str = "") -> None:
        """A version that is closed or filled keeps the id of the load that opened it. No version is changed by two
        statements of a load: the first ones close versions, and the last one fills those that are still open."""
        self._job.keep(where, values, source, kept_by(self._job.strategy))

    def open(self) -> int:
        """Inserts a version for every row whose key has no current version: it is new, changed, or came back."""
        d, job, table = self._d, self._job, self._job.table
        carried = [] if self._fresh else self._carried()
        start, values = d.placeholder, [self._bound(self._at)]
        if self._effective is not None:
            ended = f"(SELECT MAX(o.{d.quote(VALID_TO)}) FROM {table} AS o WHERE {self._on('o')})"
            start, values = f"CASE WHEN {ended} > {self._effective} THEN {ended} ELSE {self._effective} END", []
        picked = ", ".join([d.columns(job.schema.names, "s"), start, *(f"c.{d.quote(n)}" for n in carried)])
        sql = f"INSERT INTO {table} ({d.columns([*job.schema.names, VALID_FROM, *carried])}) SELECT {picked} "
        sql += f"FROM {job.source} AS s"
        if not self._fresh:
            sql += f" LEFT JOIN {table} AS t ON {self._same} AND {self._end} IS NULL"
        if carried:  # their values come from the version that this load closed
            sql += f" LEFT JOIN {table} AS c ON {self._on('c')} AND c.{d.quote(VALID_TO)} = "
            sql += self._effective or d.placeholder
            values *= 2
        if not self._fresh:
            sql += f" WHERE t.{d.quote(job.strategy.key[0])} IS NULL"
        return self._db.execute(sql, values)

    def _carried(self) -> list[str]:
        """Columns of the target that the rows lack."""
        have = self._db.schema(self._job.target)
        assert have is not None
        return [n for n in have.names if n not in (*self._job.schema.names, *VALIDITY, *LINEAGE)]

    def _columns_since(self, newest: datetime | None) -> Mapping[str, datetime]:
        """Columns that were added after the first load, each with the beginning of the newest version without it.

        They are kept in a table next to the target, since a NULL alone does not show whether it was read or is unknown.
        """
        table, target = _own(self._db, self._job.target), self._job.target.last
        if newest is None:  # the table has no rows, so no version lacks a column
            table.delete({"target": target})
        known: dict[str, str | None] = dict(table.rows(_COLUMNS.names[1:], {"target": target}))
        later = newest is not None and known and self._job.strategy.new_columns == "fill"
        for name in (n for n in self._compared if n not in known):
            known[name] = newest.isoformat(timespec="microseconds") if later and newest else None
            table.insert(target, name, known[name])
        since = ((n, known[n]) for n in self._compared)
        return {n: datetime.fromisoformat(at) for n, at in since if at is not None}


def moment(value: Any) -> datetime:
    """An instant as the driver returns it: a datetime, or ISO 8601 text."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
