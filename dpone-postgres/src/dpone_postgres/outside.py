"""What changes outside the rows: all that decides which changes a stream brings, read from the catalogue.

A publication that was altered, a partition that was attached, a column that was rewritten: the log says nothing of them
(failures.md, OUT-01 to OUT-04). So a position keeps these facts of each table, and a window compares them with the
facts of its own beginning. They are read before the bound of the window is fixed. A change after that lies in the next
window, which compares with the same facts: none goes unseen, and a second look at the end would find nothing else.

What stays when nothing changed, on PostgreSQL 15 and 18 alike: ``xmin`` of a catalogue row and the oid of a row change
with every ALTER of what it describes, and neither with VACUUM FREEZE nor with VACUUM FULL of the catalogue.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from attrs import evolve, field, frozen

from dpone.errors import SourceError
from dpone.model.schema import Name
from dpone_postgres.database import PostgresDialect
from dpone_postgres.errors import sqlstate
from dpone_postgres.publication import Published
from dpone_postgres.slot import rows

_XID = (1 << 32) - 1
OPERATIONS = ("insert", "update", "delete", "truncate")
_quote = PostgresDialect()
# xmin has the lower 32 bits of an xid. After 2^32 transactions an old row may be taken for a newer one, which proves
# nothing then; never the other way round.
_NEWER = """((t.xmin::text::int8 - {since}) & 4294967295)
    < pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8 - {since}"""

_TREE = """
WITH RECURSIVE given AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relfilenode, c.reltoastrelid FROM pg_catalog.pg_class AS c
    WHERE c.oid = ANY ('{{{oids}}}'::oid[])
), tree AS (
    SELECT g.oid AS root, g.oid AS node, NULL::oid AS parent, NULL::text AS link FROM given AS g WHERE g.relkind = 'p'
    UNION ALL
    SELECT t.root, i.inhrelid, i.inhparent, i.xmin::text FROM tree AS t
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = t.node
), nodes AS (
    SELECT t.root, array_agg(ARRAY[t.node::int8, t.parent::int8, k.relfilenode::int8, t.link::int8] ORDER BY t.node)
        AS found, array_agg(k.oid::int8) FILTER (WHERE k.relpersistence <> 'p' OR k.relkind = 'f') AS unlogged,
        min(k.oid) FILTER (WHERE k.relkind = 'r') AS oldest
    FROM tree AS t JOIN pg_catalog.pg_class AS k ON k.oid = t.node WHERE t.parent IS NOT NULL GROUP BY t.root
)"""
# A column with a default has the oid of the default: ALTER TYPE makes another one, and a rewrite of the table for
# another reason (VACUUM FULL), which touches the row of a column that came with a default, does not.
# ``oldest``: a partition that knows of values which came with a column, as its root does not.
# ``up``: a table and the roots above it, with the links in between; pg_depend: SET SCHEMA makes that row another one.
# ``types``: what values of a table's columns are made of, as far as it can be altered without touching a row.
_FACTS = (
    _TREE
    + """, types AS (
    SELECT g.oid AS rel, a.atttypid AS type FROM given AS g JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = g.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION
    SELECT t.rel, o.part FROM types AS t JOIN pg_catalog.pg_type AS y ON y.oid = t.type, LATERAL (
        SELECT y.typbasetype UNION ALL SELECT y.typelem
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE r.rngtypid = y.oid {multirange}
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS o(part) WHERE o.part >= 16384
), parts AS (
    SELECT t.rel, jsonb_agg(jsonb_build_array(t.type::int8, n.nspname, y.typname, y.typtype, CASE y.typtype
        WHEN 'e' THEN (SELECT jsonb_agg(jsonb_build_array(e.oid::int8, e.enumlabel) ORDER BY e.oid)
            FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = y.oid)
        ELSE (SELECT jsonb_agg(jsonb_build_array(a.attnum, a.atttypid::int8) ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
        END)) AS found
    FROM types AS t JOIN pg_catalog.pg_type AS y ON y.oid = t.type AND y.typtype IN ('e', 'c')
    JOIN pg_catalog.pg_namespace AS n ON n.oid = y.typnamespace GROUP BY t.rel
)
SELECT g.oid::int8, p.oid::int8, p.xmin::text::int8, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
       p.pubviaroot, o.members, EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r
           WHERE r.prpubid = p.oid AND r.prrelid = g.oid), a.names, a.dropped, a.made, a.versions, a.filled,
       g.relfilenode::int8, g.reltoastrelid::int8, n.found, CASE WHEN g.relpersistence <> 'p' THEN ARRAY[g.oid::int8]
           ELSE n.unlogged END, h.found,
       pg_catalog.pg_snapshot_xmin(s)::text::int8, CASE WHEN pg_catalog.pg_is_in_recovery()
       THEN pg_catalog.pg_snapshot_xmin(s) ELSE pg_catalog.pg_snapshot_xmax(s) END::text::int8,
       ARRAY(SELECT x::text::int8 FROM pg_catalog.pg_snapshot_xip(s) AS x)
FROM pg_catalog.pg_current_snapshot() AS s, given AS g
JOIN pg_catalog.pg_publication AS p ON p.pubname = \0 LEFT JOIN nodes AS n ON n.root = g.oid
LEFT JOIN parts AS h ON h.rel = g.oid,
LATERAL (SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names,
        array_agg(a.attisdropped ORDER BY a.attnum) AS dropped,
        array_agg(a.xmin::text::int8 ORDER BY a.attnum) AS made,
        array_agg(coalesce(-d.oid::int8, a.xmin::text::int8) ORDER BY a.attnum) AS versions,
        array_agg(a.atthasdef OR a.atthasmissing OR a.attidentity <> '' OR t.typdefault IS NOT NULL
            OR coalesce(l.atthasmissing, false) ORDER BY a.attnum) AS filled
    FROM pg_catalog.pg_attribute AS a
    LEFT JOIN pg_catalog.pg_attribute AS l ON l.attrelid = n.oldest AND l.attname = a.attname
    LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = g.oid AND a.attnum > 0) AS a,
LATERAL (WITH up AS (
    SELECT u.relid, coalesce(sum((SELECT i.xmin::text::int8 FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = u.relid
        LIMIT 1)) OVER (ORDER BY u.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::int8 AS tie
    FROM (SELECT g.oid AS relid, 1::int8 AS n UNION SELECT a.relid::oid, a.n
        FROM pg_catalog.pg_partition_ancestors(g.oid) WITH ORDINALITY AS a(relid, n)) AS u
) SELECT array_agg(ARRAY[m.oid::int8, m.tie] ORDER BY m.oid, m.tie) AS members FROM (
    SELECT r.oid, u.tie FROM pg_catalog.pg_publication_rel AS r JOIN up AS u ON u.relid = r.prrelid
        WHERE r.prpubid = p.oid
    {schemas}
    UNION ALL SELECT p.oid, 0 WHERE p.puballtables) AS m) AS o"""
)
_SCHEMAS = """
    UNION ALL SELECT s.oid, u.tie + coalesce((SELECT max(d.xmin::text::int8) FROM pg_catalog.pg_depend AS d
            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = k.oid AND d.objsubid = 0
            AND d.refclassid = 'pg_catalog.pg_namespace'::regclass), 0)
        FROM pg_catalog.pg_publication_namespace AS s JOIN up AS u ON true
        JOIN pg_catalog.pg_class AS k ON k.oid = u.relid AND k.relnamespace = s.pnnspid WHERE s.pnpubid = p.oid"""
# A partition that was made as one has columns as its own CREATE TABLE wrote them; ATTACH writes all of them again.
_BORN = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS s JOIN pg_catalog.pg_attribute AS a ON a.attrelid = s.attrelid
    AND a.attnum > 0 AND a.xmin = s.xmin AND a.cmin::text = s.cmin::text
    WHERE s.attrelid = c.oid AND s.attname = 'ctid')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY ((\0::int8[])::oid[]) ORDER BY 2, 3"""
# TRUNCATE writes the rows of a table's indexes and of its TOAST table too, which GRANT and the like leave alone.
_WRITERS = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, ARRAY(SELECT k.xmin::text::int8 FROM pg_catalog.pg_class AS k
    WHERE k.oid IN (SELECT c.oid UNION SELECT c.reltoastrelid UNION SELECT i.indexrelid FROM pg_catalog.pg_index AS i
        WHERE i.indrelid IN (c.oid, c.reltoastrelid)))
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY ((\0::int8[])::oid[]) ORDER BY 2, 3"""
_NAMES = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY ((\0::int8[])::oid[]) ORDER BY 2, 3"""
_UNPUBLISHED = """
WITH members AS (SELECT c.oid FROM pg_catalog.pg_publication_tables AS p
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = \0)
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_' AND c.relname !~ '^__dpone__'
AND c.oid NOT IN (SELECT oid FROM members)
AND NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) AS t JOIN members AS m ON m.oid = t.relid)
ORDER BY 1, 2"""


@frozen
class ChildPartition:
    """A partition below a root. ``link``: xmin of its row in pg_inherits."""

    oid: int
    parent: int
    file: int
    link: int


@frozen
class Type:
    """A type that values of a table are made of. ``parts``: labels of an enum, attributes of a composite type, oldest
    first. ``grows``: a part more changes no value that is there."""

    name: str
    parts: tuple[Any, ...]
    grows: bool

    def digest(self, count: int) -> int:
        return zlib.crc32(repr(self.parts[:count]).encode())


@frozen
class Facts:
    """Of one table of a publication.

    publication  oid and xmin of its row, and whether it publishes by the root
    operations   what it publishes
    members      oids of what makes the table a member: its own entry, or that of a root, a schema, of all tables;
                 ``ties``: a value for the link to each of them; it differs after the link was removed and made again;
                 ``own``: it has an entry of its own, so that the server keeps it in the log
    filter       digest of the row filter
    columns      names by attribute number, empty for one that is not in the stream; ``dropped``: it is gone;
                 ``versions``: see ``_FACTS``; ``made``: xmin of the column; ``filled``: it came with a value for the
                 rows that were there
    file         the relation's file node; 0 of a root; ``toast``: oid of the table for values out of line, or 0
    nodes        partitions of a root, by oid
    unlogged     those of the table's relations whose changes are not in the log, by oid
    types        by oid
    since        every transaction below this xid had ended when the facts were read
    below        so had those from there to this one, but for the ``running`` (of which a standby says nothing)
    """

    publication: tuple[int, int, bool]
    operations: tuple[str, ...]
    members: tuple[int, ...]
    filter: str
    columns: tuple[str, ...]
    versions: tuple[int, ...]
    file: int
    nodes: Mapping[int, ChildPartition] = field(factory=dict)
    filled: tuple[bool, ...] = ()
    since: int = 0
    below: int = 0
    running: tuple[int, ...] = ()
    ties: tuple[int, ...] = ()
    own: bool = True
    dropped: tuple[bool, ...] = ()
    made: tuple[int, ...] = ()
    toast: int = 0
    unlogged: tuple[int, ...] = ()
    types: Mapping[int, Type] = field(factory=dict)
    oid: int = 0

    def ended(self, xid: int) -> bool:
        """What a transaction did can be seen in these facts: its commit may be in the stream a moment before, and for
        long where it waits for a synchronous standby. ``xid``: the lower 32 bits, as the stream has it."""
        return _before(xid, self.below) and xid not in {one & _XID for one in self.running}

    def lost(self, seen: Mapping[int, int]) -> list[int]:
        """Those of the partitions from which the stream brought rows that are partitions no more."""
        return [oid for oid, xid in seen.items() if oid not in self.nodes and self.ended(xid)]

    def known(self) -> KnownFacts:
        same = len({*self.versions}) == 1
        return KnownFacts(
            self.publication, self.members, self.filter, self.columns, self.versions[:1] if same else self.versions,
            self.file, {n.oid: n.file for n in self.nodes.values()}, _links(self.nodes, self.nodes),
            0 if self.toast else self.since,  # no question needs both; and a window is the same in every reading
            ties=self.ties if any(self.ties) else (), toast=self.toast, known=len(self.columns),
            types={oid: (len(one.parts), one.digest(len(one.parts))) for oid, one in self.types.items()},
        )  # fmt: skip


def _before(xid: int, other: int) -> bool:
    """The one is older, by the lower 32 bits of both."""
    return (other - 1 - xid) & _XID < 1 << 31


def _links(nodes: Mapping[int, ChildPartition], oids: Any) -> int:
    links = sorted((oid, nodes[oid].link) for oid in oids if oid in nodes)
    return zlib.crc32(repr(links).encode()) if links else 0


@frozen
class KnownFacts:
    """The small form of the facts that a position stores. ``links``: digest of the partition tree. ``truncated``: xid
    of the last TRUNCATE of the table in the stream, which changed the files of all partitions. ``seen``: partitions
    that are not among the facts although the stream had rows of them, with the xid of a row. ``known``: number of
    columns when the stream was last read to its end. ``types``: number of parts of each type, and their digest.
    Positions of earlier versions lack some fields; those are not compared."""

    publication: tuple[int, int, bool]
    members: tuple[int, ...]
    filter: str
    columns: tuple[str, ...]
    versions: tuple[int, ...]
    file: int
    files: Mapping[int, int]
    links: int
    since: int
    truncated: int = 0
    seen: Mapping[int, int] = field(factory=dict)
    ties: tuple[int, ...] = ()
    toast: int = 0
    known: int = 0
    types: Mapping[int, tuple[int, int]] = field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "publication": list(self.publication), "members": list(self.members), "filter": self.filter,
            "columns": list(self.columns), "versions": list(self.versions), "file": self.file, "toast": self.toast,
            "partitions": _packed(self.files), "links": self.links, "since": self.since, "truncated": self.truncated,
            "seen": [[oid, self.seen[oid]] for oid in sorted(self.seen)], "ties": list(self.ties),
            "known": self.known if self.known != len(self.columns) else 0,
            "types": [[oid, *self.types[oid]] for oid in sorted(self.types)],
        }  # fmt: skip
        return {name: value for name, value in found.items() if value not in ("", 0, [])}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KnownFacts:
        """Raises LookupError, TypeError or ValueError for data that ``to_json`` did not produce."""
        oid, xmin, root = data["publication"]
        columns = tuple(map(str, data.get("columns", ())))
        return cls(
            (int(oid), int(xmin), bool(root)), tuple(map(int, data.get("members", ()))), str(data.get("filter", "")),
            columns, tuple(map(int, data.get("versions", ()))), int(data.get("file", 0)),
            _unpacked(str(data.get("partitions", ""))), int(data.get("links", 0)), int(data.get("since", 0)),
            int(data.get("truncated", 0)), {int(oid): int(xid) for oid, xid in data.get("seen", ())},
            tuple(map(int, data.get("ties", ()))), int(data.get("toast", 0)), int(data.get("known", len(columns))),
            {int(oid): (int(count), int(digest)) for oid, count, digest in data.get("types", ())},
        )  # fmt: skip

    def version(self, i: int) -> int:
        return self.versions[i if len(self.versions) > 1 else 0]


def kept_after(
    was: KnownFacts | None, now: Facts | None, truncated: int | None, short: bool, seen: Mapping[int, int]
) -> KnownFacts | None:
    """What the position after a window stores. If the window ended ``short``, file nodes stay as before: only a later
    window can see whether the stream explains why they changed. Byte for byte equal to ``was`` if nothing changed."""
    if now is None:
        return was
    known = now.known()
    if was is not None and short:
        files = {oid: was.files.get(oid, _first(oid, file)) for oid, file in known.files.items()}
        known = evolve(known, file=was.file, toast=was.toast, files=files, since=was.since, known=was.known)
    known = evolve(known, seen={oid: xid for oid, xid in seen.items() if oid not in now.nodes})
    known = evolve(known, truncated=truncated or (was.truncated if was else 0))
    return was if was is not None and was == evolve(known, since=was.since) else known


def _first(oid: int, file: int) -> int:
    """The file node that a new relation gets: its oid (``heap_create`` of the server); 0 if it has no file."""
    return oid if file else 0


def _packed(files: Mapping[int, int]) -> str:
    """For each partition in hex: its oid minus the previous oid, and its file node minus its oid."""
    words, last = [], 0
    for oid in sorted(files):
        words.append(f"{oid - last:x}.{files[oid] - oid:x}")
        last = oid
    return " ".join(words)


def _unpacked(text: str) -> dict[int, int]:
    files, oid = {}, 0
    for word in text.split():
        step, file = word.split(".")
        oid += int(step, 16)
        files[oid] = oid + int(file, 16)
    return files


def read(db: psycopg.Connection[Any], publication: str, tables: Sequence[Published], failed: str) -> dict[str, Facts]:
    """The facts of each table, by name, in one query."""
    given, release = {table.oid: table for table in tables}, db.info.server_version
    sql = _FACTS.format(
        oids=",".join(map(str, given)), schemas=_SCHEMAS if release >= 150_000 else "",
        multirange="OR r.rngmultitypid = y.oid" if release >= 140_000 else "",
    )  # fmt: skip
    found = {}
    for (
        oid, pub, xmin, *flags, root, members, own, names, dropped, made, versions, filled, file, toast, nodes,
        unlogged, types, since, below, running,
    ) in rows(db, failed, sql, (publication,)):  # fmt: skip
        table = given[oid]
        columns = tuple(
            name if name in table.columns and not gone else ""
            for name, gone in zip(names or (), dropped or (), strict=True)
        )
        condition = hashlib.sha256(table.filter.encode()).hexdigest()[:12] if table.filter else ""
        operations = tuple(name for name, on in zip(OPERATIONS, flags, strict=True) if on)
        found[str(table.name)] = Facts(
            (pub, xmin, root), operations, tuple(one for one, _ in members or ()), condition, columns,
            tuple(versions or ()), file, _nodes(nodes), tuple(filled or ()), since, below, tuple(running),
            tuple(tie for _, tie in members or ()), own, tuple(dropped or ()), tuple(made or ()), toast,
            tuple(unlogged or ()), {one: _type(*rest) for one, *rest in types or ()}, oid,
        )  # fmt: skip
    return found


def _nodes(found: Sequence[Sequence[int]] | None) -> dict[int, ChildPartition]:
    return {one[0]: ChildPartition(*one) for one in found or ()}


def _type(schema: str, name: str, kind: str, parts: Sequence[Sequence[Any]] | None) -> Type:
    return Type(str(Name((schema, name))), tuple(map(tuple, parts or ())), kind == "e")


def with_partitions(
    reading: psycopg.Connection[Any], tables: Sequence[Published], facts: Mapping[str, Facts], failed: str
) -> dict[str, Facts]:
    """The facts, with those partitions of the tables that the transaction sees: whose rows a snapshot has. By a
    statement without parameters, which the replication protocol does not take."""
    names = {table.oid: str(table.name) for table in tables if str(table.name) in facts}
    sql = _TREE.format(oids=",".join(map(str, names))) + " SELECT root::int8, found FROM nodes"
    trees = {root: _nodes(found) for root, found in (rows(reading, failed, sql) if names else ())}
    return {**facts, **{name: evolve(facts[name], nodes=trees.get(oid, {})) for oid, name in names.items()}}


def unpublished(db: psycopg.Connection[Any], publication: str, failed: str) -> list[Name]:
    """Ordinary tables and partition roots that the publication does not contain."""
    return [Name((schema, table)) for schema, table in rows(db, failed, _UNPUBLISHED, (publication,))]


@frozen
class Unlogged:
    """Relations of ``table`` whose changes are not in the WAL, so no stream contains them. ``names``: unlogged;
    ``foreign``: foreign tables."""

    table: Name
    names: tuple[Name, ...]
    foreign: tuple[Name, ...]

    @property
    def found(self) -> str:
        given = [f"{', '.join(map(str, names))} {'is' if len(names) == 1 else 'are'} {word}" for names, word in
                 ((self.names, "unlogged"), (self.foreign, "foreign")) if names]  # fmt: skip
        return f"table {self.table}: {' and '.join(given)}, so changes are not in the WAL"

    @property
    def todo(self) -> str:
        ways = [f"ALTER TABLE {_quote.name(name)} SET LOGGED" for name in self.names]
        ways += [f"ALTER TABLE {_quote.name(self.table)} DETACH PARTITION {_quote.name(one)}" for one in self.foreign]
        return "; ".join(ways)


def unlogged(
    db: psycopg.Connection[Any], tables: Sequence[Published], facts: Mapping[str, Facts], failed: str
) -> list[Unlogged]:
    given = [(table, facts[str(table.name)].unlogged) for table in tables if str(table.name) in facts]
    oids = [oid for _, some in given for oid in some]
    known = {oid: (Name((schema, name)), kind) for oid, schema, name, kind in
             (rows(db, failed, _NAMES, (oids,)) if oids else ())}  # fmt: skip
    found = []
    for table, some in given:
        relations = [known[oid] for oid in some if oid in known]
        if relations:
            native = tuple(name for name, kind in relations if kind != "f")
            found.append(Unlogged(table.name, native, tuple(name for name, kind in relations if kind == "f")))
    return found


def differences(
    db: psycopg.Connection[Any], table: Name, was: KnownFacts, now: Facts, truncates: Sequence[int] | None, failed: str
) -> list[str]:
    """Reasons why the stream lacks changes since ``was``, for messages; empty if it is complete.

    ``truncates``: xids of the TRUNCATEs in the stream, which also change file nodes; None if the stream was not read up
    to now, so that they are not known yet.
    """
    found = [*_membership(was, now)]
    altered = [*_columns(was, now)]
    found += [*altered, *_types(was, now)]
    rewritten = "" if altered else _rewritten(db, table, was, now, failed)
    if rewritten:
        found.append(f"column {rewritten} was altered, which rewrote the table")
    elif now.nodes or was.files or was.seen:
        found += _partitions(db, table, was, now, truncates, failed)
    elif not found and _rewritten_unseen(db, table, was, now, truncates, failed):
        found.append("it was rewritten and may have been unlogged for a while")
    return found


def _membership(was: KnownFacts, now: Facts) -> Iterator[str]:
    if was.publication[0] != now.publication[0]:
        yield "the publication was dropped and created again"
    elif was.publication[2] != now.publication[2]:
        yield f"publish_via_partition_root is now {str(now.publication[2]).lower()}"
    elif was.publication[1] != now.publication[1]:
        yield "the publication was altered"
    if was.filter != now.filter:
        yield "its row filter in the publication changed"
    elif not {*was.members} & {*now.members}:
        yield "it was removed from the publication and added again, or its column list changed"
    elif was.ties and not {*zip(was.members, was.ties, strict=True)} & {*zip(now.members, now.ties, strict=True)}:
        yield "it was outside its published schema or root table for a while"


def _columns(was: KnownFacts, now: Facts) -> Iterator[str]:
    """The stream itself shows an added or dropped column. It does not show that a column took the name of another."""
    for i, name in enumerate(was.columns):
        if not name or i >= len(now.columns) or now.columns[i] == name:
            continue
        if now.columns[i]:
            yield f"column {name} is now named {now.columns[i]}"
        elif name in now.columns:
            yield f"column {name} was dropped and added again"


def _types(was: KnownFacts, now: Facts) -> Iterator[str]:
    """ALTER TYPE .. RENAME VALUE, ADD ATTRIBUTE and the like: existing rows now read differently."""
    for oid, (count, digest) in was.types.items():
        one = now.types.get(oid)
        if one is not None and (one.digest(count) != digest or (len(one.parts) != count and not one.grows)):
            yield f"type {one.name} was altered, so existing rows now read differently"


def named_otherwise(was: KnownFacts | None, now: Facts, names: Sequence[str], xid: int) -> str:
    """A column that has a different name in the stream's rows, described by ``names`` in transaction ``xid``, than in
    the catalogue now; empty if all match. The stream describes columns in order of their attribute numbers. A column
    from before the window is in every description, an added one in all from the first with it on, a dropped one in
    some."""
    rest, gone, known = [*names], False, 0 if was is None else was.known
    for i, (name, dropped) in enumerate(zip(now.columns, now.dropped, strict=True)):
        before = "" if was is None or i >= len(was.columns) else was.columns[i]
        if name and rest[:1] == [name]:
            del rest[0]
            if i >= known and gone and _before(xid, now.made[i]):
                return name  # of one that was dropped, before this one took its name
        elif name and (before if i < known else rest):
            return name
        elif dropped:
            gone = gone or i >= known
            if rest and rest[0] not in now.columns:
                del rest[0]
    return rest[0] if rest else ""


def _rewritten(db: psycopg.Connection[Any], table: Name, was: KnownFacts, now: Facts, failed: str) -> str:
    """ALTER TABLE .. TYPE .. USING gives the column a new version and the table, or all partitions, new file nodes."""
    changed = [n.oid for n in now.nodes.values() if was.files.get(n.oid, n.file) != n.file]
    if was.file == now.file and not changed:
        return ""
    known = [i for i, name in enumerate(was.columns) if name and i < len(now.columns) and now.columns[i] == name]
    column = next((was.columns[i] for i in known if was.version(i) != now.versions[i]), "")
    if not column or _as_it_was(was, now):
        return ""
    written = [Name((s, t)) for _, s, t, kind in rows(db, failed, _NAMES, (changed,)) if kind != "p"]
    return "" if any(_has_rows(db, one, failed, was.since, table) for one in written or [table]) else column


def _as_it_was(was: KnownFacts, now: Facts) -> bool:
    """VACUUM FULL, CLUSTER and TRUNCATE keep a table's TOAST table; every other rewrite replaces it
    (``swap_toast_by_content`` of the server)."""
    return bool(was.toast) and was.toast == now.toast


def _rewritten_unseen(
    db: psycopg.Connection[Any], table: Name, was: KnownFacts, now: Facts, truncates: Sequence[int] | None, failed: str
) -> bool:
    """Whether the table may have been SET UNLOGGED and then LOGGED again, which the server allows if no publication
    names it: all its rows were rewritten, and no new column explains that."""
    if now.own or was.file == now.file or _as_it_was(was, now) or came_with_values(was, now):
        return False
    if was.toast and now.toast:
        return True
    if truncates is None or not was.since or _has_rows(db, table, failed, was.since):
        return False
    return bool(_not_written_by(db, [now.oid], (*truncates, was.truncated), failed))


def _partitions(
    db: psycopg.Connection[Any], root: Name, was: KnownFacts, now: Facts, truncates: Sequence[int] | None, failed: str
) -> Iterator[str]:
    if gone := len(was.files.keys() - now.nodes.keys()):
        yield f"{gone} of its partitions {'was' if gone == 1 else 'were'} detached or dropped"
    elif _links(now.nodes, was.files) != was.links:
        yield "a partition was detached and attached again"
    yield from came_and_went(now.lost(was.seen))
    new = now.nodes.keys() - was.files.keys()
    if new:
        came = [*_attached(db, now, new, failed)]
        attached = [name for name in came if _has_rows(db, name, failed, root=root) is not False]
        if attached:
            yield f"{_many(attached)} attached with rows"
    if truncates is not None and "truncate" in now.operations:
        files = {**{oid: _first(oid, now.nodes[oid].file) for oid in new}, **was.files}
        emptied = [oid for oid, file in files.items() if oid in now.nodes and now.nodes[oid].file != file]
        names = _not_written_by(db, emptied, (*truncates, was.truncated), failed)
        if names := [name for name in names if not _has_rows(db, name, failed, was.since, root)]:
            yield f"{_many(names)} truncated on its own or rewritten"


def _not_written_by(
    db: psycopg.Connection[Any], oids: Sequence[int], truncates: Sequence[int], failed: str
) -> list[Name]:
    """Those of the tables whose files were not created by one of the TRUNCATEs. A later TRUNCATE of the table alone has
    also written the catalogue rows of its indexes and its TOAST table."""
    found = rows(db, failed, _WRITERS, ([*oids],)) if oids else ()
    return [Name((schema, table)) for _, schema, table, xids in found if not {*xids} & {*truncates}]


def came_and_went(lost: Sequence[int]) -> Iterator[str]:
    if lost:
        were = "was" if len(lost) == 1 else "were"
        yield f"{len(lost)} of its partitions {were} created, filled, then detached or dropped"


def _many(partitions: Sequence[Name]) -> str:
    names = ", ".join(map(str, partitions))
    return f"partition {names} was" if len(partitions) == 1 else f"partitions {names} were"


def _attached(db: psycopg.Connection[Any], now: Facts, new: Any, failed: str) -> Iterator[Name]:
    """Leaf partitions that came by ATTACH, or below a partition that did."""
    found = {oid: (Name((schema, table)), kind, born) for oid, schema, table, kind, born in
             rows(db, failed, _BORN, ([*new],))}  # fmt: skip

    def came(oid: int) -> bool:
        return oid in found and (not found[oid][2] or (oid in now.nodes and came(now.nodes[oid].parent)))

    yield from (name for oid, (name, kind, _) in found.items() if kind != "p" and came(oid))


def _has_rows(
    db: psycopg.Connection[Any], table: Name, failed: str, before: int | None = None, root: Name | None = None
) -> bool | None:
    """Whether the table has rows, or rows older than the xid ``before``: such a row proves that since then the table
    was neither truncated nor rewritten by ALTER TABLE, only compacted (VACUUM FULL and CLUSTER keep xmin). A role that
    may not read the partition may read it through its ``root``. None if that is refused as well."""
    old = "" if before is None else f" AND NOT ({_NEWER.format(since=before)})"
    try:
        [(there,)] = rows(db, failed, f"SELECT EXISTS (SELECT FROM ONLY {_quote.name(table)} AS t WHERE true{old})")
        return bool(there)
    except SourceError as error:
        if root is None or root == table or sqlstate(error) != "42501":  # insufficient_privilege
            return None
    try:
        literal = _quote.literal(_quote.name(table))
        [(bounds,)] = rows(db, failed, f"SELECT pg_catalog.pg_get_partition_constraintdef({literal}::regclass)")
        # With the bounds, so that the planner skips the other partitions.
        mine = f"t.tableoid = {literal}::regclass AND ({bounds or 'true'})"
        [(there,)] = rows(db, failed, f"SELECT EXISTS (SELECT FROM {_quote.name(root)} AS t WHERE {mine}{old})")
        return bool(there)
    except SourceError:
        return None


def came_with_values(was: KnownFacts, now: Facts) -> list[str]:
    """Columns that are new to the stream and may have values in older rows, which the stream does not contain: added
    with a default, or in a table that was rewritten, or formerly generated."""
    rewritten = was.file != now.file or any(was.files.get(n.oid, n.file) != n.file for n in now.nodes.values())
    return [
        name for i, name in enumerate(now.columns)
        if name and (now.filled[i] or rewritten if i >= len(was.columns) else not was.columns[i])
    ]  # fmt: skip
