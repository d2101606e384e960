"""The tables of a publication: which columns and rows the stream contains, and what identifies their rows."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import psycopg
from attrs import frozen

from dpone.model.schema import Name
from dpone_postgres.database import PostgresDialect
from dpone_postgres.slot import rows
from dpone_postgres.types import Column

_d = PostgresDialect()

# Column lists and row filters exist since PostgreSQL 15; before, the view has no columns for them. Generated columns
# are published, if they are, from PostgreSQL 18 on, though the view names them before.
_TABLES = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relreplident::text,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a
             ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
             WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped AND (j ? 'attnames' IS NOT TRUE OR (j -> 'attnames') ? a.attname::text)
             AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000 AND j ? 'attnames')
             ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped AND a.attgenerated <> ''),
       j ->> 'rowfilter'
FROM pg_catalog.pg_publication_tables AS p JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename,
LATERAL (SELECT to_jsonb(p)) AS o(j)
WHERE p.pubname = \0 ORDER BY 2, 3"""
_TYPES = """
WITH RECURSIVE given AS (SELECT * FROM unnest(\0::int8[], \0::int4[]) WITH ORDINALITY AS g(type, modifier, n)),
base AS (
    SELECT n, type::oid, modifier FROM given
    UNION ALL
    SELECT b.n, t.typbasetype, t.typtypmod FROM base AS b
    JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype = 'd'
)
SELECT g.n, pg_catalog.format_type(g.type::oid, g.modifier), p.proname::text, b.modifier, t.oid < 16384,
    (SELECT l.collname::text FROM pg_catalog.pg_attribute AS a
     JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation AND NOT l.collisdeterministic
     WHERE a.attrelid = \0::int8::oid AND a.attname::text = (\0::text[])[g.n::int])
FROM given AS g JOIN base AS b ON b.n = g.n JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype <> 'd'
LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = t.typreceive"""
_ATTRIBUTES = """
SELECT a.attname::text, a.atttypid::int8, a.atttypmod FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = \0::int8::oid AND a.attname::text = ANY (\0::text[]) ORDER BY a.attnum"""


# The server rejects updates and deletes of a published table without a replica identity (CREATE PUBLICATION, Notes):
# of the table itself, of each partition, and of each table that inherits from it. A deferrable key does not count.
_UNIDENTIFIED = """
WITH RECURSIVE member AS (
    SELECT c.oid, ARRAY[g.schema, g.name] AS given
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    JOIN unnest(\0::text[], \0::text[]) AS g(schema, name) ON g.schema = n.nspname AND g.name = c.relname
    UNION SELECT i.inhrelid, m.given FROM pg_catalog.pg_inherits AS i JOIN member AS m ON m.oid = i.inhparent
)
SELECT n.nspname::text, c.relname::text, bool_or(i.indisprimary), min(x.relname::text),
       bool_or(c.relreplident <> 'd'), min((SELECT k.conname::text FROM pg_catalog.pg_constraint AS k
       WHERE k.conrelid = c.oid AND k.contype = 'p')), array_agg(DISTINCT m.given)
FROM member AS m JOIN pg_catalog.pg_class AS c ON c.oid = m.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
    AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (
        SELECT 1 FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND NOT a.attnotnull
        AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
LEFT JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_index AS r WHERE r.indrelid = c.oid AND r.indisvalid AND r.indimmediate
    AND CASE c.relreplident WHEN 'i' THEN r.indisreplident WHEN 'd' THEN r.indisprimary ELSE false END)
GROUP BY 1, 2 ORDER BY 1, 2"""


@frozen
class Published:
    """A published table. ``kind``: its relkind; ``identity``: its relreplident; ``index``: columns of the identity
    index, or of the primary key if the identity is FULL; ``generated``: columns that cannot be written; ``filter``: row
    filter."""

    oid: int
    name: Name
    kind: str
    identity: str
    index: tuple[str, ...]
    columns: tuple[str, ...]
    generated: tuple[str, ...]
    filter: str | None

    @property
    def key(self) -> tuple[str, ...]:
        return () if self.identity == "n" or not {*self.index} <= {*self.columns} else self.index


def published(db: psycopg.Connection[Any], publication: str, failed: str) -> list[Published]:
    found = rows(db, failed, _TABLES, (publication,))
    return [
        Published(oid, Name((schema, table)), kind, identity, tuple(key), tuple(names), tuple(generated), condition)
        for oid, schema, table, kind, identity, key, names, generated, condition in found
    ]


@frozen
class Unidentified:
    """A table whose updates and deletes fail once it is published. ``todo``: the statement that prevents this; ``by``:
    the given tables that include it: itself, or its parents."""

    name: Name
    todo: str
    by: tuple[Name, ...]


def unidentified(db: psycopg.Connection[Any], names: Sequence[Name], failed: str) -> list[Unidentified]:
    """Those among the given tables, their partitions and the tables that inherit from them."""
    found = rows(db, failed, _UNIDENTIFIED, ([n.parts[0] for n in names], [n.last for n in names]))
    return [
        Unidentified(name, _identified(name, *how), tuple(Name(tuple(one)) for one in by))
        for name, *how, by in ((Name((schema, table)), *more) for schema, table, *more in found)
    ]


def _identified(name: Name, primary: bool | None, index: str | None, other: bool, deferred: str | None) -> str:
    """other: the identity was set to something other than the primary key; deferred: the name of a deferrable primary
    key, which cannot be an identity and must be dropped first, as a table has only one primary key."""
    table = f"ALTER TABLE {_d.name(name)}"
    if primary:
        return f"{table} REPLICA IDENTITY DEFAULT"
    if index:
        return f"{table} REPLICA IDENTITY USING INDEX {_d.quote(index)}"
    drop = f" DROP CONSTRAINT {_d.quote(deferred)}," if deferred else ""
    default = ", REPLICA IDENTITY DEFAULT" if other else ""
    return f"{table}{drop} ADD PRIMARY KEY (its columns){default}, or for strategy append {table} REPLICA IDENTITY FULL"


def identifying(db: psycopg.Connection[Any], publication: str, failed: str) -> bool:
    """Whether it publishes updates or deletes, so that its tables need a replica identity."""
    sql = "SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = \0 AND (pubupdate OR pubdelete)"
    return bool(rows(db, failed, sql, (publication,)))


def breaking(db: psycopg.Connection[Any], publication: str, failed: str) -> list[Unidentified]:
    """The publication's tables whose updates and deletes the server rejects."""
    if not identifying(db, publication, failed):
        return []
    return unidentified(db, [table.name for table in published(db, publication, failed)], failed)


def comment(slot: str) -> str:
    """The comment that marks a publication as created by dpone, to be dropped with the slot. Existing publications have
    it: do not change the text."""
    return f"made by dpone cdc create for slot {slot}"


def exists(db: psycopg.Connection[Any], publication: str, failed: str) -> bool:
    return bool(rows(db, failed, "SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = \0", (publication,)))


def columns(
    db: psycopg.Connection[Any], relation: int, names: Sequence[str], types: Sequence[tuple[int, int]], failed: str
) -> list[Column]:
    """Columns as the stream describes them, by type oid and modifier. A type that was dropped since is read as text.
    The stream does not contain the collation: it is the current one."""
    given = ([type_ for type_, _ in types], [modifier for _, modifier in types], relation, list(names))
    found = {int(n): rest for n, *rest in rows(db, failed, _TYPES, given)}
    known = []
    for n, name in enumerate(names, 1):
        native, receive, modifier, builtin, nondeterministic = found.get(n, ("text", "textrecv", -1, True, None))
        known.append(
            Column(name, native, receive or "", modifier, False, builtin, nondeterministic=nondeterministic or "")
        )
    return known


def columns_now(db: psycopg.Connection[Any], table: Published, failed: str) -> list[Column]:
    attributes = rows(db, failed, _ATTRIBUTES, (table.oid, list(table.columns)))
    return columns(db, table.oid, [a[0] for a in attributes], [(a[1], a[2]) for a in attributes], failed)


def matches(table: Name, wanted: Name | None) -> bool:
    """``wanted``: a name or a glob; without a schema it means the schema public; None matches all tables."""
    if wanted is None:
        return True
    pattern = wanted.parts if len(wanted.parts) == 2 else ("*" if wanted.last == "*" else "public", wanted.last)
    return all(fnmatchcase(part, want) for part, want in zip(table.parts, pattern, strict=True))
