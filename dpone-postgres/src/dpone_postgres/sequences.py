"""Sequences that fill columns of a target (serial, identity, a default of ``nextval``). A load that brings values for
such a column does not move the sequence, so the next row that an application inserts would collide with a loaded one.

They are advanced inside the transaction of the commit but do not belong to it: ``nextval`` and ``setval`` are never
rolled back (https://www.postgresql.org/docs/current/functions-sequence.html), and are flushed before a later COMMIT.
So a crash leaves at most a gap, which is harmless, and the next run has nothing to repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dpone.errors import SinkError
from dpone.model.schema import Name
from dpone_postgres.database import PostgresDatabase

# Up to this many steps are made by ``nextval``, which can only advance. ``setval`` could move a sequence back behind
# values that other sessions took since it was read; they would have to take more than this in a few microseconds.
FEW = 10_000
_SAVEPOINT = "__dpone__sequence"

# With any other default (nextval('s') * 10, 'A' || nextval('s')) a column's value does not show the sequence's value.
_FILLING = """
WITH filled AS (
    SELECT a.attrelid, a.attnum, a.attname, pg_catalog.pg_get_expr(f.adbin, f.adrelid) AS said, f.oid AS made
    FROM pg_catalog.pg_attribute AS a
    LEFT JOIN pg_catalog.pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = \0 AND NOT a.attisdropped AND a.attname = ANY (\0::text[]) AND a.attgenerated = ''
    AND coalesce(nullif(t.typbasetype, 0), t.oid) = ANY ('{int2,int4,int8,numeric}'::regtype[])
), found AS (
    SELECT d.objid AS sequence, c.* FROM filled AS c JOIN pg_catalog.pg_depend AS d ON d.deptype IN ('a', 'i')
    AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid IN (c.attrelid, pg_catalog.pg_partition_root(c.attrelid))
    JOIN pg_catalog.pg_attribute AS o ON (o.attrelid, o.attnum, o.attname) = (d.refobjid, d.refobjsubid, c.attname)
    WHERE c.said IS NULL
    UNION
    SELECT d.refobjid, c.* FROM filled AS c JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_attrdef'::regclass
    AND d.objid = c.made AND d.refclassid = 'pg_class'::regclass
    WHERE c.said ~ '^nextval\\(''.*''::regclass\\)$'
)
SELECT pg_catalog.format('%I.%I', n.nspname, r.relname), f.attname, q.seqincrement, q.seqmin, q.seqmax, q.seqcycle,
    pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT'),
    pg_catalog.has_sequence_privilege(q.seqrelid, 'USAGE, UPDATE'),
    pg_catalog.has_sequence_privilege(q.seqrelid, 'UPDATE'), EXISTS (SELECT 1 FROM pg_catalog.pg_index AS i
        JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am AS m ON m.oid = x.relam
        WHERE i.indrelid = f.attrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = f.attnum
        AND m.amname = 'btree')
FROM found AS f JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = f.sequence
JOIN pg_catalog.pg_class AS r ON r.oid = q.seqrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
ORDER BY 1, 2"""


@frozen
class Filling:
    """A sequence and the column that it fills. ``name`` is quoted; readable, usable, settable: privileges of the role;
    indexed: an index makes the highest value of the column cheap to find."""

    name: str
    column: str
    step: int
    low: int
    high: int
    cycles: bool
    readable: bool
    usable: bool
    settable: bool
    indexed: bool

    def first_of(self, last: int, called: bool) -> int:
        """The value that it returns next."""
        return last + self.step if called else last

    def steps(self, first: int, farthest: int) -> int:
        """How many values it returns up to and including ``farthest``, starting at ``first``."""
        return max((farthest - first) // self.step + 1, 0)


class Behind:
    """Advances the sequences of the columns that a load fills. ``stage``: the staged rows. They are read here, for
    columns without an index, because they no longer exist when ``advance`` is called."""

    def __init__(self, db: PostgresDatabase, target: Name, columns: Sequence[str], stage: Name) -> None:
        self._db, self._target, self._columns = db, target, columns
        unindexed = [one for one in self._filling() if not one.indexed]
        self._staged = {one: self._farthest(one, stage) for one in unindexed}

    def advance(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Call when the rows are in the target. Returns the lines of the report: sequences that were advanced, and
        warnings with what a person should do. A sequence that cannot be advanced does not fail the load."""
        done = [one for filling in self._filling() for one in self._advance(filling)]
        return tuple(text for text, was_set in done if was_set), tuple(text for text, was_set in done if not was_set)

    def _filling(self) -> list[Filling]:
        return [Filling(*row) for row in self._db.rows(_FILLING, (self._db.oid(self._target), list(self._columns)))]

    def _farthest(self, one: Filling, table: Name) -> int | None:
        """The last of the column's values that the sequence can return; others cannot collide."""
        column, end = f"t.{self._db.dialect.quote(one.column)}", "ceil" if one.step > 0 else "floor"
        most = f"{'max' if one.step > 0 else 'min'}({column})::numeric"
        sql = f"SELECT {end}({most})::bigint FROM {self._db.dialect.name(table)} AS t"
        [(found,)] = self._db.rows(f"{sql} WHERE {column} BETWEEN {one.low} AND {one.high}")
        return None if found is None else int(found)

    def _advance(self, one: Filling) -> Iterator[tuple[str, bool]]:
        """A line, and whether the sequence was set."""
        farthest = self._farthest(one, self._target) if one.indexed else self._staged.get(one)
        if farthest is None:
            return
        if not one.readable:
            yield f"{self._of(one)} may return loaded values again, up to {farthest}; {self._grant(one)}", False
            return
        [(last, called)] = self._db.rows(f"SELECT last_value, is_called FROM {one.name}")
        first = one.first_of(last, called)
        steps = one.steps(first, farthest)
        if not steps:
            return
        to = first + (steps - 1) * one.step
        behind = f"{self._of(one)} returns {first} next, but values up to {farthest} are loaded"
        value = f"{'greatest' if one.step > 0 else 'least'}(last_value, {to})"
        by_hand = f"SELECT pg_catalog.setval({self._db.dialect.literal(one.name)}, {value}) FROM {one.name}"
        if one.cycles:
            yield f"{behind}; it cycles, so dpone does not change it; to skip them, run: {by_hand}", False
        elif not (one.settable or (one.usable and steps <= FEW)):
            yield f"{behind}; {self._grant(one)}; or run: {by_hand}", False
        elif failed := self._set(one, steps, to):
            yield f"{behind}, and it could not be set ({failed}); run: {by_hand}", False
        else:
            yield f"{one.name} of column {one.column}: next value {first} -> {to + one.step}", True
            if not one.low <= to + one.step <= one.high:
                yield f"{self._of(one)} has no value left; give it a wider type with ALTER SEQUENCE ... AS", False

    def _set(self, one: Filling, steps: int, to: int) -> str:
        """Advance the sequence, never back, whatever other sessions take meanwhile. Returns why it failed, else ''."""
        self._db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            if steps <= FEW:
                # Otherwise nextval would first return values that this session has cached (CACHE).
                self._db.execute("DISCARD SEQUENCES")
                steps_taken = "pg_catalog.count(pg_catalog.nextval(\0::regclass))"
                self._db.rows(f"SELECT {steps_taken} FROM pg_catalog.generate_series(1, \0::int)", (one.name, steps))
            else:
                behind = f"s.last_value {'<' if one.step > 0 else '>'} {to}"
                sql = f"SELECT pg_catalog.setval(\0::regclass, \0::bigint) FROM {one.name} AS s WHERE {behind}"
                self._db.rows(sql, (one.name, to))
        except SinkError as error:
            self._db.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            return error.found
        self._db.execute(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        return ""

    def _of(self, one: Filling) -> str:
        return f"sequence {one.name} of column {one.column} of {self._target}"

    def _grant(self, one: Filling) -> str:
        [(user,)] = self._db.rows("SELECT current_user::text")
        return f"GRANT SELECT, UPDATE ON SEQUENCE {one.name} TO {self._db.dialect.quote(user)}"
