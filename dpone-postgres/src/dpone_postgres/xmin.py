"""Incremental reading by transaction id: rows written by transactions that had not ended when the last read began.

The system column xmin has 32 bits and wraps around. The position has 64 bits: ``pg_snapshot_xmin`` of the read's own
snapshot, the oldest transaction then in progress. The next read takes rows whose xmin is that or later. Some of them
may have been read before, so only strategy ``merge`` is possible. Deletes are not visible: a deleted row stays in the
target. A frozen row keeps its old xmin. After a wraparound that may look like a future one, and the row is skipped, or
like a new one, and the row is read again. A new row is never skipped (docs/connectors/postgres.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from dpone.errors import ConfigError
from dpone.model.position import Position
from dpone.sql.cursor import Reading, Span, require_same
from dpone_postgres.database import TIMELINE
from dpone_postgres.session import Asked

KIND = "xmin"
_HALF = 2**31  # farther apart, the order of two 32-bit ids is reversed (Preventing Transaction ID Wraparound Failures)
_MARGIN = 2**24
_STALE = 2**28  # the position of an idle table is renewed before it is this old

_SEEN = f"""
SELECT pg_catalog.pg_snapshot_xmin(s)::text::bigint, pg_catalog.pg_snapshot_xmax(s)::text::bigint, c.oid::bigint,
       pg_catalog.pg_relation_filenode(c.oid)::bigint, c.relkind::text, pg_catalog.pg_is_in_recovery(), {TIMELINE}
FROM pg_catalog.pg_current_snapshot() AS s, pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = \0 AND c.relname = \0"""


@frozen
class Xmin:
    """The 64-bit transaction id at which a read starts; None: the whole table."""

    low: int | None = None

    def where(self, span: Span) -> str:
        """``age`` counts back from the next id, modulo 2 ** 32. A negative age means that the row was frozen long
        ago."""
        if self.low is None:
            return ""
        return f"age(s.xmin) > 0 AND age(s.xmin) <= age('{self.low % 2**32}'::xid)"


def reading(
    source: Asked, after: Position | None, identity: Mapping[str, Any], *, whole: bool, mode: str
) -> tuple[Xmin, Reading]:
    """A read of the rows that are new since ``after``. Raises ConfigError if the source's rows have no meaningful xmin,
    IdentityChanged for a position of another source."""
    if mode == "append":
        found = "incremental.by: xmin with strategy append, which would duplicate rows that are read again"
        raise ConfigError(f"read {source.name}", found, "use strategy merge")
    if source.table is None:
        found = "incremental.by: xmin needs a table, not a query"
        raise ConfigError(f"read {source.name}", found, "set table instead of query, or use by: cursor")
    [(now, end, oid, file, kind, standby, timeline)] = source.rows(_SEEN, source.table.parts)
    if kind != "r" or standby:
        what = {"p": "a partitioned table", "v": "a view", "m": "a materialized view"}.get(kind, "a foreign table")
        found = f"incremental.by: xmin does not work on {'a standby' if standby else what}"
        raise ConfigError(f"read {source.name}", found, "read the base tables on the primary, or use by: cursor")
    table = {"oid": oid, "file": file, "timeline": timeline, "columns": _fingerprint(source)}
    position = Position(KIND, identity, {"xmin": now, **table}, after.epoch if after else 0)
    held = f"{end - now:,} transactions were in flight or later" if end > now else "none was in flight"
    proof = f"read to transaction {now - 1:,}, {held}; deletes are not seen"
    if after is None or whole:
        return Xmin(), Reading(position, (Span(),), proof)
    require_same(after, KIND, identity, source.name)
    if why := _reset_reason(after.value, position.value):
        return Xmin(), Reading(position, (Span(),), f"{proof}; whole table read again: {why}")
    low = Xmin(int(after.value["xmin"]))
    new = f"SELECT EXISTS (SELECT 1 FROM {source.relation} AS s WHERE {low.where(Span())})"
    if source.rows(new) == [(True,)] or now - int(after.value["xmin"]) > _STALE:
        return low, Reading(position, (Span(),), proof)
    return low, Reading(
        after, proof=f"no row was written since transaction {after.value['xmin']:,}; deletes are not seen"
    )


def _fingerprint(source: Asked) -> str:
    """A digest of column names and types: ADD COLUMN with a constant default gives existing rows a value without
    changing their xmin."""
    text = "\n".join(f"{c.name} {c.native}" for c in source.columns_of())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reset_reason(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why the position's transaction id cannot be compared with the current rows; else None."""
    for name, why in (
        ("oid", "it was dropped and recreated"),
        ("file", "it was rewritten"),
        ("timeline", "the server was restored or promoted"),
        ("columns", "its columns have changed"),
    ):
        if before.get(name) != now[name]:
            return why
    passed = int(now["xmin"]) - int(before["xmin"])
    if passed < 0:
        return "the server's transaction ids went backwards"
    return "half of all transaction ids have passed" if passed >= _HALF - _MARGIN else None
