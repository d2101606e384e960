"""Incremental reading by a cursor column: which rows are new since a position, and the position after them.

A read goes from the last cursor value to the highest one, both included and both seen in one snapshot. Rows with the
last value may have been loaded already, or may have been added since. For ``append`` the position has digests of the
loaded ones (the boundary), which distinguish them. ``merge`` may read loaded rows again, and does so only if a digest
of them all (the range) has changed. So rows with equal values are neither lost nor duplicated, and a table without new
rows gives an empty window.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from attrs import evolve, field, frozen

from dpone.errors import ConfigError, DataError, IdentityChanged, SetBack, SourceError, counted
from dpone.model.pipeline import Incremental
from dpone.model.position import Position

KIND = "cursor"
_AGAIN = "load all rows again with"
MAX_BOUNDARY = 100_000
Row = Sequence[Any]


@frozen
class Value:
    """A cursor value: ``text`` in an exact notation of the source, and its name for the ``type``, so that the value can
    be bound again."""

    type: str
    text: str


@frozen
class Span:
    """Rows whose cursor is from ``low`` to ``high``, both included; ``low`` is excluded with ``above``. None: no limit.
    Without any limit, rows with a NULL cursor are included."""

    low: Value | None = None
    high: Value | None = None
    above: bool = False


@frozen
class Bound:
    """Where a read must end (``sql.in_flight``). A ``Cursored`` that is given a bound returns no row beyond it.

    high     up to this value, included; None: no limit
    below    only below this value; None: no limit
    empty    the table had no value: no row is returned
    held     the transactions for which the read ends before the highest value; empty: none
    nothing  no value is safe: no new row may be read
    blind    what the source cannot see of open transactions
    """

    high: Value | None = None
    below: Value | None = None
    empty: bool = False
    held: str = ""
    nothing: bool = False
    warnings: tuple[str, ...] = ()
    blind: str = ""


class Cursored(Protocol):
    """What a source reads from its table, all in one snapshot. Values are compared by the database."""

    def highest(self) -> Value | None:
        """The highest cursor value; None: no row has one."""
        ...

    def nulls(self) -> int:
        """The number of rows whose cursor is NULL."""
        ...

    def compare(self, value: Value) -> int:
        """Compares the highest value with ``value``: negative if it is lower, zero if equal, positive if higher."""
        ...

    def below(self, value: Value, lookback: float) -> Value:
        """``value`` minus ``lookback``, or lower. Raises ConfigError for a type that has no difference."""
        ...

    def rows(self, span: Span, columns: Sequence[str]) -> Iterator[Row]:
        """The exact values of these columns."""
        ...

    def doubt(self, high: str) -> str:
        """A warning if new values of the column may sort below the position's value ``high`` (``sql.text_order``), else
        empty. Raises DataError if they certainly will."""
        ...


@frozen
class Reading:
    """What to read. spans: none if nothing is new. skip: rows to leave out of the first span: the digest over
    ``row_key``, and how many rows to leave out. nulls: rows left out because their cursor is NULL. caught_up: False if
    there are rows that could not be read yet."""

    position: Position
    spans: tuple[Span, ...] = ()
    proof: str = ""
    skip: Mapping[str, int] = field(factory=dict)
    row_key: tuple[str, ...] = ()
    nulls: int = 0
    warnings: tuple[str, ...] = ()
    caught_up: bool = True


def digest(row: Row) -> str:
    """A digest of the values and their types: ('a', 'bc') differs from ('ab', 'c'), NULL from '', and 1 from '1'."""
    text = hashlib.blake2b(digest_size=12)
    for value in row:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        text.update(f"{type(value).__name__}:{len(data)}:".encode() + data)
    return text.hexdigest()


def unseen(rows: Iterable[Row], places: Sequence[int], skip: Mapping[str, int]) -> Iterator[Row]:
    """The rows that are not skipped; ``skip`` says how many rows of each digest to skip. ``places``: indexes of the
    columns of the digest."""
    left = dict(skip)
    for row in rows:
        mark = digest([row[i] for i in places])
        if left.get(mark, 0):
            left[mark] -= 1
        else:
            yield row


@frozen
class CursorPlan:
    """How one table is read by cursor. ``cursor_column`` has checked the options.

    identity: of the physical source. columns: of the table, in order. name: of the table, for messages.
    """

    table: Cursored
    options: Incremental
    identity: Mapping[str, Any]
    columns: tuple[str, ...]
    mode: str
    name: str

    def reading(self, after: Position | None, *, whole: bool, bound: Bound | None = None) -> Reading:
        """What is new since ``after``; with ``whole``, or without ``after``, everything. bound: that of ``table``.

        Raises IdentityChanged; SetBack; DataError for NULL cursors and for a boundary above MAX_BOUNDARY; SourceError
        if open transactions hold back a read that must be complete.
        """
        bound = bound or Bound()
        found = self._reading(after, whole, bound)
        proof = "; ".join(filter(None, (found.proof, bound.blind)))
        high = found.position.value.get("hi")
        doubt = "" if high is None else self.table.doubt(high)
        warnings = (*bound.warnings, *found.warnings, *filter(None, [doubt]))
        return evolve(found, proof=proof, warnings=warnings, caught_up=not bound.held)

    def _reading(self, after: Position | None, whole: bool, bound: Bound) -> Reading:
        if after is not None and not whole:
            require_same(after, KIND, self.identity, self.name)
            self._require_column(after)
        epoch = after.epoch if after else 0
        if whole or after is None or "hi" not in after.value:
            return self._all(epoch, bound, whole)
        if bound.nothing:
            return Reading(after, proof=f"held back for {bound.held}")
        nulls, high = self._nulls(), self.table.highest()
        low = Value(after.value["type"], after.value["hi"])
        if high is None or self.table.compare(low) < 0:
            return self._below(after, bound, empty=high is None)
        return self._append(after, low, high, nulls) if self.mode == "append" else self._merge(after, low, high, nulls)

    def _all(self, epoch: int, bound: Bound, whole: bool) -> Reading:
        """A first read may end early: the next one continues there. A read of the whole must not, since its rows
        replace others."""
        nulls, high = self._nulls(), None if bound.nothing else self.table.highest()
        if bound.held and (whole or high is None):
            found = f"{bound.held} may still commit rows below the highest {self.options.column}"
            todo = "wait until it ends, end it, or set incremental.in_flight: report to read without those rows"
            raise SourceError(f"read {self.name}", found, todo)
        if high is None:
            nothing = Position(KIND, self.identity, {"column": self.options.column}, epoch)
            return Reading(nothing, proof="no row has a cursor value")
        return Reading(self._position(high, epoch), (Span(None, high),), self._proof(), nulls=nulls)

    def _below(self, after: Position, bound: Bound, *, empty: bool) -> Reading:
        """No row that may be read has the position's value or a higher one: the read is held back, or the source was
        set back. ``empty``: no row has a cursor value at all. A whole read then finds nothing, and such a load empties
        the target only if the strategy allows it."""
        if bound.below is not None:
            return Reading(after, proof=f"held back for {bound.held}")
        column = self.options.column
        found = (
            f"no row has {column} at or above the position: the source was restored, or its newest rows were deleted"
        )
        if self.options.set_back == "stop":
            again = "to empty the target too, set strategy.allow_empty: true and use" if empty else _AGAIN
            todo = (
                f"new rows below the position would never be read: {again} --full-refresh, or "
                "choose a position with 'dpone state set'; if the newest rows of this source are deleted in the "
                "ordinary course, set incremental.set_back: report"
            )
            raise SetBack(f"read {self.name}", found, todo)
        return Reading(after, proof=f"{found}; the position is kept", warnings=(f"{self.name}: {found}",))

    def _require_column(self, after: Position) -> None:
        if (before := after.value["column"]) != self.options.column:
            found = f"the position is for cursor column {before}, but the pipeline now reads by {self.options.column}"
            raise IdentityChanged(
                f"read {self.name}", found, "name that column again, or start again with --full-refresh"
            )

    def _append(self, after: Position, low: Value, high: Value, nulls: int) -> Reading:
        skip, row_key = after.value["boundary"], tuple(after.value["told"])
        if skip is None:
            raise self._crowded()
        if gone := [c for c in row_key if c not in self.columns]:
            found = f"the position needs column {', '.join(gone)}, which no longer exists"
            raise IdentityChanged(f"read {self.name}", found, "add the column again, or run with --full-refresh")
        if self.table.compare(low) > 0:
            spans = (Span(low, low), Span(low, high, above=True))
            return Reading(self._position(high, after.epoch), spans, self._proof(), skip, row_key, nulls)
        if next(unseen(self.table.rows(Span(low, low), row_key), range(len(row_key)), skip), None) is None:
            return Reading(after, proof=self._idle())
        # A loaded row that was deleted stays in the boundary: if it comes back, it is not new.
        known = Counter(skip) if row_key == self._row_key() else None
        return Reading(self._position(high, after.epoch, known), (Span(low, low),), self._proof(), skip, row_key, nulls)

    def _merge(self, after: Position, low: Value, high: Value, nulls: int) -> Reading:
        position = self._position(high, after.epoch)
        if position.value == after.value:
            return Reading(after, proof=self._idle())
        low = self.table.below(low, self.options.lookback) if self.options.lookback else low
        return Reading(position, (Span(low, high),), self._proof(), nulls=nulls)

    def _position(self, high: Value, epoch: int, known: Counter[str] | None = None) -> Position:
        """The position at ``high``. known: rows with this value that were loaded before."""
        marks = self._boundary(high)
        boundary = None if marks is None else dict(sorted((marks | (known or Counter())).items()))
        value: dict[str, Any] = {"column": self.options.column, "type": high.type, "hi": high.text}
        value |= {"told": self._row_key(), "boundary": boundary}
        value |= {"range": None if self.mode == "append" else self._range(high)}
        return Position(KIND, self.identity, value, epoch)

    def _row_key(self) -> tuple[str, ...]:
        """The columns that distinguish rows with the same cursor value."""
        return self.options.key if self.mode == "append" and self.options.key else self.columns

    def _boundary(self, high: Value) -> Counter[str] | None:
        """Digests of the rows with the value ``high``; None: too many, which is an error only for ``append``."""
        marks: Counter[str] = Counter()
        for row in self.table.rows(Span(high, high), self._row_key()):
            marks[digest(row)] += 1
            if len(marks) > MAX_BOUNDARY:
                if self.mode == "append":
                    raise self._crowded()
                return None
        return marks

    def _crowded(self) -> DataError:
        found = f"more than {MAX_BOUNDARY:,} rows share the highest {self.options.column}"
        return DataError(f"read {self.name}", found, "use a cursor column with more distinct values, or strategy merge")

    def _range(self, high: Value) -> str:
        """Number and sum of the digests of the rows from ``lookback`` below ``high``; independent of their order."""
        low = self.table.below(high, self.options.lookback) if self.options.lookback else high
        count = total = 0
        for row in self.table.rows(Span(low, high), self.columns):
            count, total = count + 1, total + int(digest(row), 16)
        return f"{count}:{total % 2**96:x}"

    def _proof(self) -> str:
        return f"read to the highest {self.options.column} of one snapshot"

    def _idle(self) -> str:
        return f"no row with {self.options.column} at or above the position is new"

    def _nulls(self) -> int:
        nulls = self.table.nulls()
        if nulls and self.options.nulls == "fail":
            found = f"cursor column {self.options.column} is NULL in {counted(nulls, 'row')}, which no read would find"
            raise DataError(f"read {self.name}", found, "fill the column, or set incremental.nulls: skip")
        return nulls


def cursor_column(options: Incremental, columns: Sequence[str], mode: str, name: str) -> str:
    """The cursor column. Raises ConfigError if the options do not fit the table or the strategy."""
    assert options.column is not None  # checked when the options were made
    if missing := [c for c in (options.column, *options.key) if c not in columns]:
        found = f"incremental names {', '.join(missing)}, but the columns are {', '.join(columns[:20])}"
        raise ConfigError(f"read {name}", found, "correct incremental.column or key")
    if options.lookback and mode == "append":
        found = f"lookback {options.lookback:g} with append, which would duplicate the rows that are read again"
        raise ConfigError(f"read {name}", found, "use lookback with strategy merge only")
    return options.column


def require_same(after: Position, kind: str, identity: Mapping[str, Any], name: str) -> None:
    """Raises IdentityChanged unless the position belongs to this source and this way of reading."""
    differing = [k for k in {**identity, **after.identity} if identity.get(k) != after.identity.get(k)]
    if after.kind != kind:
        found = f"the position is a {after.kind} position, but the source now reads by {kind}"
    elif differing:
        found = f"the position belongs to another source ({', '.join(sorted(differing))} differs)"
    else:
        return
    todo = "connect to the source of the position, or start again with --full-refresh"
    raise IdentityChanged(f"read {name}", found, todo)


def less(text: str, amount: float) -> str:
    """A number in exact decimal text, minus ``amount``."""
    return format(Decimal(text) - Decimal(str(amount)), "f")


def earlier(text: str, seconds: float) -> str:
    """An ISO date or timestamp minus ``seconds``, in the same notation. Digits beyond the microsecond are cut, so that
    the result is never too late."""
    day = datetime.fromisoformat(text[:10])
    if len(text) == 10:
        return _iso(day, seconds)[:10]
    mark, clock, zone = text[10], text[11:], ""
    for sign in "Z+-":
        if sign in clock:
            clock, zone = clock[: clock.index(sign)], clock[clock.index(sign) :]
    whole, dot, fraction = clock.partition(".")
    moment = datetime.fromisoformat(f"{text[:10]}T{whole}") + timedelta(microseconds=int(fraction[:6].ljust(6, "0")))
    new = _iso(moment, seconds)
    digits = new[20:].ljust(len(fraction), "0")[: len(fraction)]
    return f"{new[:10]}{mark}{new[11 : 11 + len(whole)]}{dot}{digits}{zone}"


def _iso(moment: datetime, seconds: float) -> str:
    try:
        return (moment - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    except OverflowError:
        return datetime.min.isoformat(timespec="microseconds")
