"""Transactions that may still commit a row at or below the highest cursor value: ``dpone.sql.in_flight.InFlight``.

A transaction that writes rows of a table holds ROW EXCLUSIVE on it to its end (Table-Level Locks), taken before the
first default is computed; ``nextval`` holds the same lock on its sequence. pg_locks shows these to every role,
including those of prepared transactions. ``DEFAULT now()`` is the start of the transaction, which may write its first
row much later: for timestamps, every open transaction counts that began no later than the highest value, unless its
role can write no table. A lock is released only after the commit is visible, so a snapshot taken then sees the rows.

The tables are those on which this statement itself holds a lock: of a partitioned table all partitions, of a view or a
query the tables that it reads. Tables that a function reads are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dpone.errors import DponeError
from dpone.model.schema import PREFIX
from dpone.sql.cursor import Value
from dpone.sql.in_flight import Look, OpenTransaction
from dpone_postgres.errors import sqlstate
from dpone_postgres.session import Session

STARTED = "timestamptz"  # type of a writer's ``lowest``: the start of its transaction
_WRITING = "('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"

# A column without a time zone may hold the local time of any session; the westernmost zone is UTC-12.
WESTMOST = "interval '12 hours'"

# A role that may write no table of this database cannot add a row. Functions that run with the rights of another role
# (SECURITY DEFINER) are not considered (docs/connectors/postgres.md).
_MAY_WRITE = """EXISTS (
    SELECT 1 FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS g
    WHERE c.relkind IN ('r', 'p', 'v', 'f') AND c.oid >= 16384 AND c.relpersistence <> 't'
    AND g.privilege_type IN ('INSERT', 'UPDATE')
    AND CASE g.grantee WHEN 0 THEN true ELSE pg_catalog.pg_has_role(a.usesysid, g.grantee, 'MEMBER') END
) OR EXISTS (
    SELECT 1 FROM pg_catalog.pg_attribute AS c, pg_catalog.aclexplode(c.attacl) AS g
    WHERE c.attacl IS NOT NULL AND c.attrelid >= 16384 AND g.privilege_type IN ('INSERT', 'UPDATE')
    AND CASE g.grantee WHEN 0 THEN true ELSE pg_catalog.pg_has_role(a.usesysid, g.grantee, 'MEMBER') END
) OR pg_catalog.pg_has_role(a.usesysid, pg_catalog.to_regrole('pg_write_all_data'), 'MEMBER')"""

# The type of the highest value is written with modifier -1, so that a cast to it cuts nothing: pg_typeof says
# "character" and "bit", which a cast takes for one character and one bit (format_type in format_type.c).
_SUBSCRIBED = "subscribed"  # in addition to the letters of relkind
_LOOK = f"""
WITH p_high AS MATERIALIZED (
    SELECT (SELECT p_column FROM p_relation AS s WHERE p_column IS NOT NULL ORDER BY p_column DESC LIMIT 1) AS value
), p_end AS MATERIALIZED (
    SELECT value::text AS text, b.oid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) AS is_time,
           CASE WHEN b.oid = 'timestamptz'::regtype THEN interval '0' ELSE {WESTMOST} END AS slack
    FROM p_high JOIN pg_catalog.pg_type AS t ON t.oid = pg_catalog.pg_typeof(value)
    JOIN pg_catalog.pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
), p_locks AS MATERIALIZED (
    SELECT * FROM pg_catalog.pg_locks WHERE granted
), p_read AS MATERIALIZED (
    SELECT DISTINCT c.oid, c.relkind, l.database FROM p_locks AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
    WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid() AND c.oid >= 16384
    AND c.relkind IN ('r', 'p', 'f', 'm')
), p_written AS MATERIALIZED (
    SELECT oid FROM p_read UNION
    SELECT d.objid FROM p_read AS r JOIN pg_catalog.pg_depend AS d ON d.refobjid = r.oid AND d.deptype IN ('a', 'i')
    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.classid = 'pg_catalog.pg_class'::regclass UNION
    SELECT d.refobjid FROM p_read AS r JOIN pg_catalog.pg_attrdef AS f ON f.adrelid = r.oid
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
), p_open AS (
    SELECT l.pid, l.virtualtransaction AS vxid FROM p_locks AS l JOIN p_written AS w ON w.oid = l.relation
    WHERE l.locktype = 'relation' AND l.database IN (SELECT r.database FROM p_read AS r) AND l.mode IN {_WRITING}
    AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() UNION
    SELECT l.pid, l.virtualtransaction FROM p_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
    WHERE (SELECT is_time FROM p_end) AND l.locktype = 'virtualxid' AND l.virtualxid = l.virtualtransaction
    AND l.pid <> pg_catalog.pg_backend_pid() AND a.usesysid IS NOT NULL AND a.datname = current_database()
    AND (a.xact_start IS NULL OR (SELECT a.xact_start - slack <= text::timestamptz FROM p_end WHERE is_time))
    AND (a.backend_xid IS NOT NULL OR {_MAY_WRITE})
), p_left AS (
    SELECT o.pid, coalesce(t.transactionid::text, o.vxid) AS id, g.gid, a.usename::text AS role,
           CASE WHEN e.is_time THEN a.xact_start END AS start,
           extract(epoch FROM pg_catalog.clock_timestamp() - coalesce(a.xact_start, g.prepared))::bigint AS age
    FROM p_end AS e CROSS JOIN p_open AS o LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = o.pid
    LEFT JOIN p_locks AS t ON o.pid IS NULL AND t.locktype = 'transactionid' AND t.virtualtransaction = o.vxid
    LEFT JOIN pg_catalog.pg_prepared_xacts AS g ON g.transaction = t.transactionid
    WHERE e.text IS NOT NULL
    AND (NOT e.is_time OR a.xact_start IS NULL OR a.xact_start - e.slack <= e.text::timestamptz)
)
SELECT e.text, pg_catalog.format_type(pg_catalog.pg_typeof(h.value), -1), pg_catalog.pg_is_in_recovery(),
       pg_catalog.pg_snapshot_xmin(s)::text::bigint, pg_catalog.pg_snapshot_xmax(s)::text::bigint,
       ARRAY(SELECT w.oid FROM p_written AS w),
       ARRAY(SELECT r.relkind::text FROM p_read AS r UNION
             SELECT '{_SUBSCRIBED}' FROM p_read AS r JOIN pg_catalog.pg_subscription_rel AS b ON b.srrelid = r.oid),
       o.pid, o.id, o.gid, o.role, o.start::text, o.age
FROM p_high AS h CROSS JOIN p_end AS e CROSS JOIN pg_catalog.pg_current_snapshot() AS s LEFT JOIN p_left AS o ON true
ORDER BY o.start NULLS FIRST, o.pid"""

# Sessions first, then prepared transactions: one that is being prepared meanwhile is in both, or in the second.
_STILL = """
SELECT l.virtualtransaction AS id, NULL AS gid, NULL::bigint AS age FROM pg_catalog.pg_locks AS l
WHERE l.locktype = 'virtualxid' AND l.virtualxid = l.virtualtransaction AND l.virtualtransaction = ANY(\0::text[])
UNION ALL
SELECT p.transaction::text, p.gid, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::bigint
FROM pg_catalog.pg_prepared_xacts AS p WHERE EXISTS (
    SELECT 1 FROM pg_catalog.pg_locks AS t JOIN pg_catalog.pg_locks AS r ON r.virtualtransaction = t.virtualtransaction
    WHERE t.locktype = 'transactionid' AND t.transactionid = p.transaction AND r.pid IS NULL AND r.granted
    AND r.locktype = 'relation' AND r.relation = ANY(\0::oid[])
) AND p.database = current_database()"""

_STANDBY = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint"
_BLIND = {
    "f": "transactions of the server behind a foreign table cannot be seen",
    "m": "a materialized view shows its tables as they were when it was refreshed",
    _SUBSCRIBED: "a subscription fills the table, and transactions of its publisher cannot be seen",
}


class PostgresInFlight:
    """relation: the SQL after FROM. column: the cursor column, quoted, of the alias ``s``."""

    def __init__(self, session: Session, relation: str, column: str) -> None:
        words = {"p_column": column, "p_relation": relation}
        # Names that a user's query does not contain: the names of a WITH are visible inside that query, too.
        self._sql = re.sub(r"\bp_([a-z]+)\b", lambda m: words.get(m[0], PREFIX + m[1]), _LOOK)
        self._session, self._tables = session, list[int]()
        self._standby = False

    def look(self) -> Look:
        """The highest value and the open transactions, from one statement: its snapshot is older than what it finds in
        pg_locks. If the role lacks a privilege, the result is marked as failed; if it is the table that cannot be read
        or does not exist, the read itself gives the better error."""
        try:
            found = self._session.rows(self._sql)
        except DponeError as error:
            if (sqlstate(error) or "")[:2] not in ("42", "3F"):
                raise
            return Look(bounded=False, failed=f"open transactions could not be queried ({error.found})")
        text, native, self._standby, xmin, xmax, self._tables, kinds = found[0][:7]
        blind = "; ".join(_BLIND[kind] for kind in sorted(kinds) if kind in _BLIND)
        high = None if text is None else Value(native, text)
        if self._standby:
            said = "; a standby shows transactions of the primary only after their first write"
            return Look(high, _of_primary(xmin, xmax) if high else (), blind=(blind + said).removeprefix("; "))
        return Look(high, tuple(_writer(*row[7:]) for row in found if row[8] is not None), blind=blind)

    def still(self, writers: Sequence[OpenTransaction]) -> Sequence[OpenTransaction]:
        if self._standby:
            [(xmin,)] = self._session.rows(_STANDBY)
            return [one for one in writers if xmin < int(one.id)]
        found = self._session.rows(_STILL, ([one.id for one in writers], self._tables))
        open_, prepared = {id for id, gid, _ in found if gid is None}, {id: more for id, *more in found if more[0]}
        left = [one for one in writers if one.id in open_ or one.id in prepared]
        if all(one in left for one in writers if "/" in one.id):
            return left
        # A session that has ended may have prepared its transaction. Prepared ones count only then, so that the wait is
        # for a fixed number of sessions and the transactions that they prepared.
        known = {one.id for one in left}
        return [
            *(_writer(None, id, gid, None, None, age) for id, (gid, age) in prepared.items() if id not in known),
            *left,
        ]


def _writer(
    pid: int | None, id: str, gid: str | None, role: str | None, start: str | None, age: int | None
) -> OpenTransaction:
    """``id``: the virtual transaction of a session (4/123), or the xid of a prepared transaction."""
    if pid is None:
        since = "" if age is None else f", prepared {age:,} s ago"
        return OpenTransaction(id, f"prepared transaction {gid or id}{since}")
    since = "only pg_read_all_stats sees its age" if age is None else f"open for {age:,} s"
    who = f"process {pid} ({f'role {role}, ' if role else ''}{since})"
    return OpenTransaction(id, who, None if start is None else Value(STARTED, start))


def _of_primary(xmin: int, xmax: int) -> tuple[OpenTransaction, ...]:
    """A standby knows only ids: all below xmin have ended, none from xmax on has been seen."""
    return (
        (OpenTransaction(str(xmax), f"a transaction of the primary with an id from {xmin:,} to {xmax - 1:,}"),)
        if xmin < xmax
        else ()
    )
