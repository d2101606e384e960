"""Sequences that fill columns of a target (serial, identity, a default of ``nextval``): a load that brings values for
such a column leaves the sequence behind them, and the next row that an application inserts would meet one.

They are set inside the transaction of the commit, and yet not by it: what ``nextval`` and ``setval`` did is never
rolled back (https://www.postgresql.org/docs/current/functions-sequence.html), and is on the disk before a later COMMIT.
So a crash leaves a gap at most, which is harmless, and nothing for the next run to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dpone.errors import SinkError
from dpone.schema import Name
from dpone_postgres.database import PostgresDatabase

# Steps that are taken by ``nextval``, which can only go on. ``setval`` would undo what others took between the look at
# the sequence and the call: in these microseconds they would have to take more values than this.
FEW = 10_000
_SAVEPOINT = "__dpone__sequence"

# Of a column with another default (nextval('s') * 10, 'A' || nextval('s')) nobody knows which value is which.
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
    """A sequence and the column that it fills. ``name`` is quoted; readable, usable, settable: rights of the role;
    indexed: the server finds the highest value of the column at once."""

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
        """The value that it gives next."""
        return last + self.step if called else last

    def steps(self, first: int, farthest: int) -> int:
        """How many values lie between: from the next one to the last that is not beyond ``farthest``."""
        return max((farthest - first) // self.step + 1, 0)


class Behind:
    """The sequences of the columns that a load fills. ``stage``: its staged rows, which are looked at first; they are
    gone when the sequences are set."""

    def __init__(self, db: PostgresDatabase, target: Name, columns: Sequence[str], stage: Name) -> None:
        self._db, self._target, self._columns = db, target, columns
        loose = [one for one in self._filling() if not one.indexed]
        self._staged = {one: self._farthest(one, stage) for one in loose}

    def advance(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """After the rows are in the target: what was set, and what a person should do, in lines of a report. Fails no
        load."""
        done = [one for filling in self._filling() for one in self._advance(filling)]
        return tuple(text for text, was_set in done if was_set), tuple(text for text, was_set in done if not was_set)

    def _filling(self) -> list[Filling]:
        return [Filling(*row) for row in self._db.rows(_FILLING, (self._db.oid(self._target), list(self._columns)))]

    def _farthest(self, one: Filling, table: Name) -> int | None:
        """Of the values that the sequence can give: no other can be met."""
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
            yield f"{self._of(one)} may give values up to {farthest} again, which are loaded; {self._grant(one)}", False
            return
        [(last, called)] = self._db.rows(f"SELECT last_value, is_called FROM {one.name}")
        first = one.first_of(last, called)
        steps = one.steps(first, farthest)
        if not steps:
            return
        to = first + (steps - 1) * one.step
        behind = f"{self._of(one)} gives {first} next, and values up to {farthest} are loaded"
        value = f"{'greatest' if one.step > 0 else 'least'}(last_value, {to})"
        by_hand = f"SELECT pg_catalog.setval({self._db.dialect.literal(one.name)}, {value}) FROM {one.name}"
        if one.cycles:
            yield f"{behind}; it cycles, so that dpone leaves it; to skip them, run: {by_hand}", False
        elif not (one.settable or (one.usable and steps <= FEW)):
            yield f"{behind}; {self._grant(one)}; or run: {by_hand}", False
        elif failed := self._set(one, steps, to):
            yield f"{behind}, and it could not be set ({failed}); run: {by_hand}", False
        else:
            yield f"{one.name} of column {one.column}: next value {first} -> {to + one.step}", True
            if not one.low <= to + one.step <= one.high:
                yield f"{self._of(one)} has no value left; give it a wider type with ALTER SEQUENCE ... AS", False

    def _set(self, one: Filling, steps: int, to: int) -> str:
        """Never back, whatever others take meanwhile. Answers why not."""
        self._db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            if steps <= FEW:
                self._db.execute("DISCARD SEQUENCES")  # values that this session holds (CACHE) would come first
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
