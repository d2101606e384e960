"""A table, view or query in parts, each read separately in a shared snapshot: by pages, ranges or hashes."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from dpone.contract import Part
from dpone.errors import ConfigError, SourceError
from dpone.model.bounds import BOUNDS, Bounds
from dpone_postgres import types
from dpone_postgres.config import PartitionBy
from dpone_postgres.errors import sqlstate
from dpone_postgres.session import Asked

ALL = "all"
_CTID = "ctid"
_HASH = "hash"
_SAMPLE = 10_000  # values: with so many, a cut is off by about 1 % of the rows
_WIDEST = 200  # characters or bytes in a bound
_TID_RANGES = 140000  # "Support TID range scans" (release notes of PostgreSQL 14); before, each part scans the table

# The table and everything that inherits from it: a query on a parent reads all of them.
_LEAVES = """
WITH RECURSIVE leaf AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = \0 AND c.relname = \0
    UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN leaf AS l ON l.oid = i.inhparent
)
SELECT c.relkind::text, m.amname::text, pg_catalog.pg_relation_filenode(c.oid)::text,
       pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint
FROM leaf JOIN pg_catalog.pg_class AS c ON c.oid = leaf.oid LEFT JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
WHERE c.relkind <> 'p' ORDER BY c.oid"""

# First columns of btree indexes on the table, or on the table of a simple view; the primary key first.
_INDEXED = """
WITH found AS (
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = \0 AND c.relname = \0
), tables AS (
    SELECT oid FROM found UNION
    SELECT d.refobjid FROM found AS f JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = f.oid
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
    WHERE f.relkind = 'v' AND d.refclassid = 'pg_catalog.pg_class'::regclass
    AND pg_catalog.pg_relation_is_updatable(f.oid, false) <> 0
)
SELECT a.attname::text FROM tables AS t JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am AS m ON m.oid = x.relam AND m.amname = 'btree'
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
WHERE i.indisvalid AND i.indpred IS NULL ORDER BY i.indisprimary DESC, i.indisunique DESC, x.oid"""

# What ANALYZE has collected; ``inherited``: for a parent together with its children.
_STATISTICS = """
SELECT null_frac, most_common_vals::text::text[], most_common_freqs, histogram_bounds::text::text[]
FROM pg_catalog.pg_stats WHERE schemaname = \0 AND tablename = \0 AND attname = \0 ORDER BY inherited DESC LIMIT 1"""


class Parts:
    """wanted: ``options.partition``; None: by pages if the server supports it, else by ranges of an indexed column."""

    def __init__(self, source: Asked, wanted: PartitionBy | None) -> None:
        self._source, self._wanted = source, wanted

    def split(self, n: int) -> tuple[Part, ...]:
        """Parts that together have each row once: at most ``n``, plus one for rows whose column is NULL. Empty: the
        source is read as a whole. Raises ConfigError."""
        if self._foreign():
            if self._wanted is not None:
                found = f"{self._source.name} reads a foreign table, which each part would see at a different moment"
                todo = "remove partition: the source is then read as a whole"
                raise ConfigError("read options.partition", found, todo)
            return ()
        if self._wanted is None:
            fits = self._source.server_version >= _TID_RANGES and self._pages() is not None
            return self._by_pages(n) if fits else self._by_range(n, self._indexed())
        if self._wanted.by == "pages":
            return self._by_pages(n)
        column = self._column(self._wanted)
        return self._by_range(n, column) if self._wanted.by == "range" else self._by_hash(n, column)

    def _foreign(self) -> bool:
        """Whether the source reads a foreign table. Each part would see the remote server at a different moment: an
        exported snapshot covers only this server (postgres_fdw, Transaction Management)."""
        plan = self._source.rows(f"EXPLAIN (COSTS OFF) SELECT * FROM {self._source.relation} AS s")
        nodes = [(line.partition("->")[2] or line).strip().removeprefix("Async ") for (line,) in plan]
        return any(node.startswith("Foreign Scan") for node in nodes)

    def again(self, parts: Sequence[Part]) -> tuple[Part, ...]:
        """Parts of an earlier snapshot, from the ids and bounds in a manifest. Raises ConfigError for page ranges if
        the table was rewritten since."""
        return tuple(map(self._again, parts))

    def where(self, part: Part) -> str:
        """The condition of a part; empty for all rows. COPY takes no parameters, so values are literals."""
        if _HASH in part.detail:
            i, n, name = part.detail[_HASH]
            # COLLATE "C" hashes the bytes of the text; the mask clears the sign bit.
            value = f'pg_catalog.hashtextextended({self._quoted(name)}::text COLLATE "C", 0)'
            return f"({value} & 9223372036854775807) % {n} = {i}"
        return self._within(Bounds.from_json(part.detail[BOUNDS])) if BOUNDS in part.detail else ""

    def pages(self, part: Part) -> tuple[int, int | None] | None:
        """The first page and the page after the last, None for the end of the table. None if the part is not a range of
        pages."""
        if not part.detail:
            return 0, None
        bounds = Bounds.from_json(part.detail[BOUNDS]) if BOUNDS in part.detail else None
        if bounds is None or bounds.column != _CTID:
            return None
        first, end = (None if at is None else int(str(at)[1:].partition(",")[0]) for at in (bounds.lower, bounds.upper))
        return first or 0, end

    def _within(self, bounds: Bounds) -> str:
        quoted = self._quoted(bounds.column)
        if bounds.null:
            return f"{quoted} IS NOT DISTINCT FROM NULL"  # for a composite value IS NULL tests its fields
        ends = [(sign, end) for sign, end in ((">=", bounds.lower), ("<", bounds.upper)) if end is not None]
        type_ = self._type(bounds.column)
        return " AND ".join(f"{quoted} {sign} {self._source.dialect.literal(str(end))}::{type_}" for sign, end in ends)

    def _quoted(self, name: str) -> str:
        return f"s.{self._source.dialect.quote(name)}"

    def _type(self, name: str) -> str:
        return next((c.native for c in self._source.columns_of() if c.name == name), "tid")

    def _again(self, part: Part) -> Part:
        kind, *numbers = part.id.split("-")
        if kind == _HASH and self._wanted is not None:
            return _hashed(int(numbers[0]), int(numbers[2]), self._column(self._wanted).name)
        if kind == "pages":
            found = self._pages()
            if found is None or found[0] != numbers[0]:
                todo = "restart the load with 'dpone partitions retry --from-scratch'"
                moved = "the table was rewritten: its rows are on other pages"
                raise ConfigError(f"resume {self._source.name}", moved, todo)
        return part

    # ---- pages

    def _by_pages(self, n: int) -> tuple[Part, ...]:
        """Ranges of page numbers that apply to the table and all its children at once, with about the same number of
        pages each. The last range has no end, for pages added meanwhile. Raises ConfigError."""
        found = self._pages()
        if found is None:
            why = f"by: pages, but {self._source.name} is not stored in pages"
            raise ConfigError("read options.partition", why, "use by: range or by: hash with a column")
        files, sizes = found

        def below(page: int) -> int:
            return sum(min(size, page) for size in sizes)

        total, last = sum(sizes), max(sizes, default=0)
        cuts = {bisect_left(range(last), total * i // n, key=below) for i in range(1, n)}
        inner = sorted(cut for cut in cuts if 0 < cut < last)
        if not inner:
            return ()
        ends = [None, *(f"({cut},0)" for cut in inner), None]
        return tuple(_range(f"pages-{files}-{i}", Bounds(_CTID, a, b)) for i, (a, b) in enumerate(pairwise(ends)))

    def _pages(self) -> tuple[str, list[int]] | None:
        """A digest of the files with the rows, which a rewrite changes, and the number of pages of each; None if the
        source is not stored in heap files."""
        if self._source.table is None:
            return None
        leaves = self._source.rows(_LEAVES, self._source.table.parts)
        if any(kind not in ("r", "m") or method != "heap" for kind, method, _, _ in leaves):
            return None
        files = hashlib.sha256(" ".join(file or "" for _, _, file, _ in leaves).encode()).hexdigest()[:8]
        return files, [int(size) for *_, size in leaves]

    # ---- columns

    def _column(self, wanted: PartitionBy) -> types.Column:
        if wanted.column is None:
            found = self._indexed()
        else:
            found = next((c for c in self._source.columns_of() if c.name == wanted.column), None)
        if found is None:
            lacking = f"no column {wanted.column}" if wanted.column else "no indexed column"
            todo = "set column of partition to one of its columns"
            raise ConfigError("read options.partition", f"{lacking} in {self._source.name}", todo)
        return found

    def _indexed(self) -> types.Column | None:
        if self._source.table is None:
            return None
        known = {c.name: c for c in self._source.columns_of()}
        names = [name for (name,) in self._source.rows(_INDEXED, self._source.table.parts) if name in known]
        return known[names[0]] if names else None

    def _by_hash(self, n: int, column: types.Column) -> tuple[Part, ...]:
        return (*(_hashed(i, n, column.name) for i in range(n)), *_nulls(column, n))

    def _by_range(self, n: int, column: types.Column | None) -> tuple[Part, ...]:
        """The first and last ranges are open, so that each row is in a part however good the cuts are."""
        cuts = self._cuts(n, column) if column is not None else []
        if column is None or not cuts:
            return ()
        ranges = [Bounds(column.name, a, b) for a, b in pairwise([None, *cuts, None])]
        return (*(_range(f"{i:05d}", one) for i, one in enumerate(ranges)), *_nulls(column, len(ranges)))

    def _cuts(self, n: int, column: types.Column) -> list[str]:
        """Values as the server's text, with about the same number of rows between them, ordered by the same comparison
        that ``where`` uses, so that ranges do not overlap."""
        try:
            weighed = self._weighed(column, self._statistics(column) or self._sample(column))
            cuts = _quantiles(weighed, n)
            marks = self._typed(column, "unnest(\0::text[]) WITH ORDINALITY AS t(v, w)")
            pairs = "FROM m AS a JOIN m AS b ON b.w = a.w + 1 WHERE NOT a.x < b.x"
            [(unordered,)] = self._source.rows(f"WITH m AS ({marks}) SELECT count(*) {pairs}", (cuts,))
        except SourceError as error:
            if sqlstate(error) != "42883":  # undefined function: the type has no such operator
                raise
            _unordered(column, error)
        if unordered:
            _unordered(column, None)
        return cuts

    def _typed(self, column: types.Column, rows: str) -> str:
        """Texts as values with the column's type and collation: a UNION takes the collation that is not the default
        (Collation Support)."""
        like = f"SELECT {self._quoted(column.name)} AS x, 0::float8 AS w FROM {self._source.relation} AS s WHERE false"
        return f"{like} UNION ALL SELECT t.v::{column.native}, t.w FROM {rows}"

    def _weighed(self, column: types.Column, values: tuple[list[str], list[float]]) -> list[tuple[str, float]]:
        """The values in the server's order, with equal ones merged."""
        typed = self._typed(column, "unnest(\0::text[], \0::float8[]) AS t(v, w)")
        groups = f"SELECT x, sum(w) AS w FROM ({typed}) AS u GROUP BY x"
        return [
            (str(x), float(w))
            for x, w in self._source.rows(f"SELECT x::text, w FROM ({groups}) AS g ORDER BY g.x", values)
        ]

    def _statistics(self, column: types.Column) -> tuple[list[str], list[float]] | None:
        """Values and the fraction of rows that each represents: the most common ones, and the histogram bounds of the
        others. None if ANALYZE has collected none."""
        if self._source.table is None or column.native.endswith("]"):
            return None
        found = self._source.rows(_STATISTICS, (*self._source.table.parts, column.name))
        if not found:
            return None
        nulls, common, shares, bounds = found[0]
        common, shares, bounds = common or [], shares or [], bounds or []
        rest = max(0.0, 1.0 - nulls - sum(shares)) / max(len(bounds) - 1, 1)
        return [*common, *bounds], [*map(float, shares), *[rest] * len(bounds)]

    def _sample(self, column: types.Column) -> tuple[list[str], list[float]]:
        """A random sample by a scan; the top-N sort keeps no more rows than it returns."""
        quoted = value = self._quoted(column.name)
        if column.receive in ("textrecv", "varcharrecv", "bpcharrecv", "citextrecv"):
            value = f"left({quoted}::text, {_WIDEST})"
        elif column.receive == "bytearecv":
            value = f"substr({quoted}::bytea, 1, {_WIDEST})"
        rows = self._source.rows(
            f"SELECT {value}::text FROM {self._source.relation} AS s WHERE {quoted} IS NOT NULL "
            f"ORDER BY pg_catalog.random() LIMIT {_SAMPLE}"
        )
        return [text for (text,) in rows], [1.0] * len(rows)


def _range(id: str, bounds: Bounds) -> Part:
    return Part(id, {BOUNDS: bounds.to_json()})


def _hashed(i: int, n: int, column: str) -> Part:
    return Part(f"{_HASH}-{i}-of-{n}", {_HASH: [i, n, column]})


def _nulls(column: types.Column, at: int) -> list[Part]:
    return [] if column.not_null else [_range(f"{at:05d}", Bounds(column.name, null=True))]


def _quantiles(weighed: Sequence[tuple[str, float]], n: int) -> list[str]:
    """At most n - 1 distinct values; about i/n of the weight is below the i-th. Never the lowest value."""
    total, below = sum(weight for _, weight in weighed), 0.0
    cuts: list[str] = []
    for value, weight in weighed:
        if below and below >= total * (len(cuts) + 1) / n - weight / 2 and len(cuts) < n - 1:
            cuts.append(value)
        below += weight
    return cuts


def _unordered(column: types.Column, cause: SourceError | None) -> NoReturn:
    found = f"column {column.name} of type {column.native} cannot be split into ranges: it has no order"
    todo = "set partition.column to another column, or use by: hash"
    raise ConfigError("read options.partition", found, todo) from cause
