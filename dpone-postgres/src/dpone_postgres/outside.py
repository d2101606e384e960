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
from dpone.schema import Name
from dpone_postgres.database import PostgresDialect
from dpone_postgres.publication import Published
from dpone_postgres.slot import rows

_XID = (1 << 32) - 1
OPERATIONS = ("insert", "update", "delete", "truncate")
_quote = PostgresDialect()
# xmin has the lower 32 bits of an xid. After 2^32 transactions an old row may be taken for a newer one, which proves
# nothing then; never the other way round.
_NEWER = """((t.xmin::text::int8 - {since}) & 4294967295)
    < pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8 - {since}"""

# A column with a default bears the oid of the default: ALTER TYPE makes another one, and a rewrite of the table for
# another reason (VACUUM FULL), which touches the row of a column that came with a default, does not.
_FACTS = """
WITH RECURSIVE given AS (
    SELECT c.oid, c.relkind, c.relnamespace, c.relfilenode FROM pg_catalog.pg_class AS c
    WHERE c.oid = ANY ((\0::int8[])::oid[])
), tree AS (
    SELECT g.oid AS root, g.oid AS node, NULL::oid AS parent, NULL::text AS link FROM given AS g WHERE g.relkind = 'p'
    UNION ALL
    SELECT t.root, i.inhrelid, i.inhparent, i.xmin::text FROM tree AS t
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = t.node
), nodes AS (
    SELECT t.root, array_agg(ARRAY[t.node::int8, t.parent::int8, k.relfilenode::int8, t.link::int8, k.xmin::text::int8]
        ORDER BY t.node) AS found
    FROM tree AS t JOIN pg_catalog.pg_class AS k ON k.oid = t.node WHERE t.parent IS NOT NULL GROUP BY t.root
)
SELECT g.oid::int8, p.oid::int8, p.xmin::text::int8, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
       p.pubviaroot, o.members, a.names, a.versions, a.filled, g.relfilenode::int8, n.found,
       pg_catalog.pg_snapshot_xmin(s)::text::int8, CASE WHEN pg_catalog.pg_is_in_recovery()
       THEN pg_catalog.pg_snapshot_xmin(s) ELSE pg_catalog.pg_snapshot_xmax(s) END::text::int8,
       ARRAY(SELECT x::text::int8 FROM pg_catalog.pg_snapshot_xip(s) AS x)
FROM pg_catalog.pg_current_snapshot() AS s, given AS g
JOIN pg_catalog.pg_publication AS p ON p.pubname = \0 LEFT JOIN nodes AS n ON n.root = g.oid,
LATERAL (SELECT array_agg(CASE WHEN a.attisdropped THEN '' ELSE a.attname::text END ORDER BY a.attnum) AS names,
        array_agg(coalesce(-d.oid::int8, a.xmin::text::int8) ORDER BY a.attnum) AS versions,
        array_agg(a.atthasdef OR a.attidentity <> '' ORDER BY a.attnum) AS filled
    FROM pg_catalog.pg_attribute AS a
    LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = g.oid AND a.attnum > 0) AS a,
LATERAL (SELECT array_agg(m.oid::int8 ORDER BY m.oid) AS members FROM (
    SELECT r.oid FROM pg_catalog.pg_publication_rel AS r WHERE r.prpubid = p.oid AND r.prrelid IN
        (SELECT g.oid UNION SELECT u.relid FROM pg_catalog.pg_partition_ancestors(g.oid) AS u)
    {schemas}
    UNION ALL SELECT p.oid WHERE p.puballtables) AS m) AS o"""
_SCHEMAS = """
    UNION ALL SELECT s.oid FROM pg_catalog.pg_publication_namespace AS s
        JOIN pg_catalog.pg_class AS k ON k.relnamespace = s.pnnspid WHERE s.pnpubid = p.oid AND k.oid IN
        (SELECT g.oid UNION SELECT u.relid FROM pg_catalog.pg_partition_ancestors(g.oid) AS u)"""
# A partition that was made as one has columns as its own CREATE TABLE wrote them; ATTACH writes all of them again.
_BORN = """
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, EXISTS (
    SELECT FROM pg_catalog.pg_attribute AS s JOIN pg_catalog.pg_attribute AS a ON a.attrelid = s.attrelid
    AND a.attnum > 0 AND a.xmin = s.xmin AND a.cmin::text = s.cmin::text
    WHERE s.attrelid = c.oid AND s.attname = 'ctid')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY ((\0::int8[])::oid[]) ORDER BY 2, 3"""
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
class Node:
    """A partition below a root. ``link``, ``made``: xmin of its rows in pg_inherits and pg_class."""

    oid: int
    parent: int
    file: int
    link: int
    made: int


@frozen
class Facts:
    """Of one table of a publication.

    publication  oid and xmin of its row, and whether it publishes by the root
    operations   what it publishes
    members      oids of what makes the table a member: its own entry, or that of a root, a schema, of all tables
    filter       digest of the row filter
    columns      names by attribute number, empty for one that is not in the stream; ``versions``: see ``_FACTS``;
                 ``filled``: it came with a value for the rows that were there
    file         the relation's file node; 0 of a root
    nodes        partitions of a root, by oid
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
    nodes: Mapping[int, Node] = field(factory=dict)
    filled: tuple[bool, ...] = ()
    since: int = 0
    below: int = 0
    running: tuple[int, ...] = ()

    def ended(self, xid: int) -> bool:
        """What a transaction did can be seen in these facts: its commit may be in the stream a moment before, and for
        long where it waits for a synchronous standby. ``xid``: the lower 32 bits, as the stream has it."""
        before = (self.below - 1 - xid) & _XID < 1 << 31
        return before and xid not in {one & _XID for one in self.running}

    def lost(self, seen: Mapping[int, int]) -> list[int]:
        """Those of the partitions from which the stream brought rows that are partitions no more."""
        return [oid for oid, xid in seen.items() if oid not in self.nodes and self.ended(xid)]

    def kept(self) -> Kept:
        same = len({*self.versions}) == 1
        return Kept(
            self.publication, self.members, self.filter, self.columns, self.versions[:1] if same else self.versions,
            self.file, {n.oid: n.file for n in self.nodes.values()}, _links(self.nodes, self.nodes),
            self.since if self.nodes else 0,
        )  # fmt: skip


def _links(nodes: Mapping[int, Node], oids: Any) -> int:
    links = sorted((oid, nodes[oid].link) for oid in oids if oid in nodes)
    return zlib.crc32(repr(links).encode()) if links else 0


@frozen
class Kept:
    """Facts as a position keeps them: small. ``links``: digest of how the partitions hang below the root.
    ``truncated``: xid of the last TRUNCATE of it that the stream brought, which changed the files of all partitions.
    ``seen``: partitions that are not among the facts, but the stream brought rows of them, and the xid of these."""

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

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "publication": list(self.publication), "members": list(self.members), "filter": self.filter,
            "columns": list(self.columns), "versions": list(self.versions), "file": self.file,
        }  # fmt: skip
        if self.files or self.truncated:
            found |= {"partitions": _packed(self.files), "links": self.links, "since": self.since}
            found["truncated"] = self.truncated
        if self.seen:
            found["seen"] = [[oid, self.seen[oid]] for oid in sorted(self.seen)]
        return {name: value for name, value in found.items() if value not in ("", 0)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kept:
        """Raises LookupError, TypeError or ValueError for what ``to_json`` did not make."""
        oid, xmin, root = data["publication"]
        return cls(
            (int(oid), int(xmin), bool(root)), tuple(map(int, data["members"])), str(data.get("filter", "")),
            tuple(map(str, data["columns"])), tuple(map(int, data["versions"])), int(data.get("file", 0)),
            _unpacked(str(data.get("partitions", ""))), int(data.get("links", 0)), int(data.get("since", 0)),
            int(data.get("truncated", 0)), {int(oid): int(xid) for oid, xid in data.get("seen", ())},
        )  # fmt: skip

    def version(self, i: int) -> int:
        return self.versions[i if len(self.versions) > 1 else 0]


def kept_after(
    was: Kept | None, now: Facts | None, truncated: int | None, short: bool, seen: Mapping[int, int]
) -> Kept | None:
    """What the position after a window keeps. File nodes of partitions are those of before where the window ended
    ``short``: whether the stream says why they are others now, only a later one can tell. Equal to ``was``, to the
    byte, if nothing was changed."""
    if now is None:
        return was
    kept = now.kept()
    if was is not None and short:
        files = {oid: was.files.get(oid, _first(oid, file)) for oid, file in kept.files.items()}
        kept = evolve(kept, files=files, since=was.since)
    kept = evolve(kept, seen={oid: xid for oid, xid in seen.items() if oid not in now.nodes})
    kept = evolve(kept, truncated=(truncated or (was.truncated if was else 0)) if kept.files else 0)
    return was if was is not None and was == evolve(kept, since=was.since) else kept


def _first(oid: int, file: int) -> int:
    """The file node that a relation is made with: its oid (``heap_create`` of the server); 0 of one without a file."""
    return oid if file else 0


def _packed(files: Mapping[int, int]) -> str:
    """Of each partition: its oid, as the step from the one before, and its file node, as the step from its oid."""
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
    """Of each table, in one query."""
    given = {table.oid: table for table in tables}
    sql = _FACTS.format(schemas=_SCHEMAS if db.info.server_version >= 150_000 else "")
    found = {}
    for oid, pub, xmin, *flags, root, members, names, versions, filled, file, nodes, since, below, running in rows(
        db, failed, sql, ([*given], publication)
    ):
        table = given[oid]
        columns = tuple(name if name in table.columns else "" for name in names or ())
        condition = hashlib.sha256(table.filter.encode()).hexdigest()[:12] if table.filter else ""
        operations = tuple(name for name, on in zip(OPERATIONS, flags, strict=True) if on)
        found[str(table.name)] = Facts(
            (pub, xmin, root), operations, tuple(members or ()), condition, columns, tuple(versions or ()), file,
            {one[0]: Node(*one) for one in nodes or ()}, tuple(filled or ()), since, below, tuple(running),
        )  # fmt: skip
    return found


def unpublished(db: psycopg.Connection[Any], publication: str, failed: str) -> list[Name]:
    """Ordinary tables and roots that the publication does not have."""
    return [Name((schema, table)) for schema, table in rows(db, failed, _UNPUBLISHED, (publication,))]


def differences(
    db: psycopg.Connection[Any], was: Kept, now: Facts, told: Sequence[int] | None, failed: str
) -> list[str]:
    """Why changes are missing since ``was``, or old rows changed without one; none if the stream is whole.

    ``told``: xids of the TRUNCATEs that the stream brought, which change file nodes of partitions as well; None: that
    cannot be judged yet, as the stream was not read up to now.
    """
    found = [*_membership(was, now)]
    altered = [*_columns(was, now)]
    found += altered
    if not altered and (rewritten := _rewritten(was, now)):
        found.append(f"column {rewritten} was altered and the table rewritten")
    elif now.nodes or was.files or was.seen:
        found += _partitions(db, was, now, told, failed)
    return found


def _membership(was: Kept, now: Facts) -> Iterator[str]:
    if was.publication[0] != now.publication[0]:
        yield "the publication was dropped and created again"
    elif was.publication[2] != now.publication[2]:
        yield f"publish_via_partition_root is now {str(now.publication[2]).lower()}"
    elif was.publication[1] != now.publication[1]:
        yield "the publication was altered"
    if was.filter != now.filter:
        yield "its row filter in the publication was changed"
    elif not {*was.members} & {*now.members}:
        yield "it was removed from the publication and added again, or its column list was changed"


def _columns(was: Kept, now: Facts) -> Iterator[str]:
    """A column that is new or gone is told by the stream itself; one that took the name of another is not."""
    for i, name in enumerate(was.columns):
        if not name or i >= len(now.columns) or now.columns[i] == name:
            continue
        if now.columns[i]:
            yield f"column {name} is now named {now.columns[i]}"
        elif name in now.columns:
            yield f"column {name} was dropped and added again"


def _rewritten(was: Kept, now: Facts) -> str:
    """ALTER TYPE .. USING gives a column another version and the table, or all partitions, other file nodes."""
    files = {n.oid: n.file for n in now.nodes.values()}
    if was.file == now.file and not any(files.get(oid, file) != file for oid, file in was.files.items()):
        return ""
    kept = [i for i, name in enumerate(was.columns) if name and i < len(now.columns) and now.columns[i] == name]
    return next((was.columns[i] for i in kept if was.version(i) != now.versions[i]), "")


def _partitions(
    db: psycopg.Connection[Any], was: Kept, now: Facts, told: Sequence[int] | None, failed: str
) -> Iterator[str]:
    if gone := len(was.files.keys() - now.nodes.keys()):
        yield f"{gone} of its partitions {'was' if gone == 1 else 'were'} detached or dropped"
    elif _links(now.nodes, was.files) != was.links:
        yield "a partition was detached and attached again"
    yield from came_and_went(now.lost(was.seen))
    new = now.nodes.keys() - was.files.keys()
    if new:
        attached = [name for name in _attached(db, now, new, failed) if _has_rows(db, name, failed) is not False]
        if attached:
            yield f"partition {', '.join(map(str, attached))} was attached with rows"
    if told is not None and "truncate" in now.operations:
        files = {**{oid: _first(oid, now.nodes[oid].file) for oid in new}, **was.files}
        emptied = {oid for oid, file in files.items() if oid in now.nodes and now.nodes[oid].file != file}
        emptied = {oid for oid in emptied if now.nodes[oid].made not in (*told, was.truncated)}
        names = [Name((schema, table)) for _, schema, table, *_ in rows(db, failed, _BORN, ([*emptied],))]
        if names := [name for name in names if not _has_rows(db, name, failed, was.since)]:
            yield f"partition {', '.join(map(str, names))} was truncated by itself"


def came_and_went(lost: Sequence[int]) -> Iterator[str]:
    if lost:
        were = "was" if len(lost) == 1 else "were"
        yield f"{len(lost)} of its partitions {were} created, filled, and then detached or dropped"


def _attached(db: psycopg.Connection[Any], now: Facts, new: Any, failed: str) -> Iterator[Name]:
    """Leaves that came by ATTACH, or below a partition that did."""
    found = {oid: (Name((schema, table)), kind, born) for oid, schema, table, kind, born in
             rows(db, failed, _BORN, ([*new],))}  # fmt: skip

    def came(oid: int) -> bool:
        return oid in found and (not found[oid][2] or (oid in now.nodes and came(now.nodes[oid].parent)))

    yield from (name for oid, (name, kind, _) in found.items() if kind != "p" and came(oid))


def _has_rows(db: psycopg.Connection[Any], table: Name, failed: str, before: int | None = None) -> bool | None:
    """Any, or any that is older than the xid ``before``: such a row proves that the table was not truncated since, only
    written anew (VACUUM FULL and CLUSTER keep xmin). None where the reader may not look."""
    old = "" if before is None else f" WHERE NOT ({_NEWER.format(since=before)})"
    try:
        [(there,)] = rows(db, failed, f"SELECT EXISTS (SELECT FROM ONLY {_quote.name(table)} AS t{old})")
    except SourceError:
        return None
    return bool(there)


def came_with_values(was: Kept, now: Facts) -> list[str]:
    """Columns that are new and have values in rows that were there before, of which the stream says nothing."""
    return [
        name for i, name in enumerate(now.columns)
        if name and (i >= len(was.columns)) and now.filled[i]
    ]  # fmt: skip
