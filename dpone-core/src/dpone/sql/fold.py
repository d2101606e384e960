"""Many changes become one per key: the net effect of a run of changes, found column by column.

A chunk is a run of changes that is folded at once. In it a key occurs once, with what is to become of its row:

    __dpone__op      DELETE      the row goes
                     UPSERT      every value is known
                     UPDATE      values that the mask marks are those of the row that ``from`` names; there must be one
                     INSERT      the same, but without such a row nobody knows them: NULL, or the column's default
                     FRESH       a new row in the place of a deleted one: nobody knows them
                     KEPT        the same as UPDATE, but without such a row there is nothing to do
                     TRUNCATE    the whole table, before the other rows of the chunk
    __dpone__mask    text of 0 and 1, a sign for each column; 1: the log left the value out. NULL: it left out none
    __dpone__from_n  the key of that row, as it was before the chunk: another one if the row has moved

Chunks are numbered in the order of the commits; each is to be applied to what the one before it left.

For ``scd2`` a key occurs once in each commit that touches it, numbered from 0, with the time of that commit: what one
commit does to a row is one change, however often it touches it.

How it is done: every change touches one key, or two where it moves a row. A touch that builds on a row follows the
touch before it on the key that it met; so the touches of a row form a chain, across keys too. A value that a touch
leaves out is that of the nearest touch before it in the chain that has it; where none has, that of the row with which
the chain begins. Chains are walked by doubling, each step as long as all before it, so that a key with a million
changes costs twenty steps and not a million.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, field, frozen

from dpone.errors import ConfigError, DataError, DeletesRefused
from dpone.model import changes as log
from dpone.model.schema import DELETED_AT, PREFIX, VALID_FROM
from dpone.model.strategy import Strategy

CHUNK, OP, MASK, FROM = PREFIX + "chunk", PREFIX + "op", PREFIX + "mask", PREFIX + "from_"
NUMBER, MARK = PREFIX + "number", PREFIX + "mark"
DELETE, UPSERT, UPDATE, INSERT = "delete", "upsert", "update", "insert"
FRESH, KEPT, TRUNCATE = "fresh", "kept", "truncate"

# A chunk has no more changes and no more bytes than this: what is in memory at once.
ROWS, BYTES = 50_000, 16 << 20

INSTANT = pa.timestamp("us", "UTC")
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_LONG_AGO = -(2**62)


def staged_fields(key: Sequence[pa.Field]) -> list[pa.Field]:
    """The columns of a chunk beside those of the target."""
    origin = [pa.field(f"{FROM}{n}", f.type) for n, f in enumerate(key)]
    return [pa.field(CHUNK, pa.int64()), pa.field(OP, pa.string()), pa.field(MASK, pa.string()), *origin]


@define
class Clock:
    """When versions begin: at the time of their commit. Commits follow each other, whatever their clocks say: one that
    is not later than the one before it, or than the table's latest boundary, begins a microsecond after it.

    at     the time of a commit where the log does not say
    last   latest boundary of the table, in microseconds since 1970
    after  mark of the last commit that the table has: it and those before it are left out
    once   all commits happen at this time
    """

    at: datetime
    last: int = _LONG_AGO
    after: str = ""
    once: datetime | None = None
    mark: str = field(default="", init=False)

    def timed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The changes that the table does not have, each with the time of its commit."""
        fresh = batch.filter(pc.greater(batch.column(log.COMMIT), self.after))
        if not fresh.num_rows:
            return fresh
        times = pa.repeat(pa.scalar(self.once, INSTANT), fresh.num_rows) if self.once else self._times(fresh)
        self.mark = fresh.column(log.COMMIT)[-1].as_py()
        place = fresh.schema.get_field_index(log.COMMITTED_AT)
        return fresh.set_column(place, fresh.schema.field(place), times)

    def _times(self, batch: pa.RecordBatch) -> pa.Array:
        commits = pa.concat_arrays([pa.array([self.mark], pa.string()), batch.column(log.COMMIT).cast(pa.string())])
        begins = _bools(pc.not_equal(commits[1:], commits[:-1]))
        said = pc.coalesce(batch.column(log.COMMITTED_AT), pa.scalar(self.at, INSTANT)).cast(pa.int64()).to_numpy()
        steps = np.arange(int(begins.sum()) + 1)
        # each is the greater of its own time and a microsecond after the one before it
        times = np.maximum.accumulate(np.append(self.last, said[begins] - steps[1:])) + steps
        self.last = int(times[-1])
        return pa.array(times[np.cumsum(begins)]).cast(INSTANT)


def require_schema(folding: Folding, schema: pa.Schema) -> None:
    """The batches have all that the fold looks at. Raises ConfigError."""
    old_key = [f.name for f in schema.field(log.KEY).type] if log.KEY in schema.names else []
    lacking = [n for n in (*log.IDENTITY.names, log.UNCHANGED, *folding.names) if n not in schema.names]
    lacking += [f"{log.KEY}.{n}" for n in folding.strategy.key if n not in old_key]
    if lacking:
        todo = "set strategy.key to columns that identify rows in the log"
        raise ConfigError(
            f"load {folding.target} by {folding.strategy.mode}", f"the changes have no {', '.join(lacking)}", todo
        )


@frozen
class Folding:
    """What the changes of one table are folded for.

    target    for messages
    names     columns of the target that the changes fill; the mask has a sign for each
    strategy  its key, and what becomes of deletes and truncates
    at        the time of a delete where the log does not say
    first     number of the first chunk
    whole     the changes are inserts of all rows there are: what the table holds before them goes first
    rows      a chunk has no more changes than this, and, if it has more than one, no more than ``bytes``
    clock     for ``scd2``
    """

    target: str
    names: tuple[str, ...]
    strategy: Strategy
    at: datetime
    first: int = 0
    whole: bool = False
    rows: int = field(factory=lambda: ROWS)
    bytes: int = field(factory=lambda: BYTES)
    clock: Clock | None = None

    @property
    def columns(self) -> set[str]:
        """Of the chunks."""
        own = {CHUNK, OP, MASK, *(f"{FROM}{n}" for n in range(len(self.strategy.key)))}
        return {*self.names, DELETED_AT, *own, *((VALID_FROM, NUMBER, MARK) if self.clock else ())}

    def chunks(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of ``changes.batch_schema`` in, folded chunks out. Raises DataError where they are not what they
        should be, DeletesRefused where the table was truncated and the strategy does not say what then."""
        number, begun, run = self.first, False, _Run()
        batches = iter(batches)
        if (
            self.whole
            and not self.clock
            and self.strategy.deletes != "ignore"
            and (head := next(batches, None)) is not None
        ):
            yield self._truncated(_renamed(head), number)
            begun, batches = True, chain([head], batches)
        for piece in self._pieces(batches):
            truncates = pc.equal(piece.column(log.OPERATION), log.TRUNCATE)[0].as_py()
            if (begun and truncates) or run.full(piece, self.rows, self.bytes):
                yield from self._folded(run, number)
                number, run = number + 1, _Run()
            begun = True
            if truncates:
                yield self._truncated(piece, number)
            else:
                run.add(piece)
        yield from self._folded(run, number)

    def _pieces(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What the fold looks at, in pieces that fit a chunk; a truncate is a piece of its own."""
        order = _Order(self.target)
        for batch in batches:
            order.require(batch)
            batch = batch if self.clock is None else self.clock.timed(batch)
            batch = _renamed(batch).select([log.OPERATION, log.COMMITTED_AT, log.KEY, log.UNCHANGED, *self.names])
            if self.strategy.deletes == "ignore":
                batch = batch.filter(pc.not_equal(batch.column(log.OPERATION), log.DELETE))
            truncates = _where(pc.equal(batch.column(log.OPERATION), log.TRUNCATE))
            if len(truncates) and self.strategy.truncate == "fail":
                todo = "set strategy.truncate: apply to delete all rows, or ignore; nothing was changed"
                raise DeletesRefused(
                    f"load {self.target} by {self.strategy.mode}", "the table was truncated in the source", todo
                )
            step = max(1, min(self.rows, self.bytes * batch.num_rows // max(batch.nbytes, 1)))
            at = 0
            for stop in [*truncates.tolist(), batch.num_rows]:
                for start in range(at, stop, step):
                    yield batch.slice(start, min(step, stop - start))
                if stop < batch.num_rows and self.strategy.truncate == "apply":
                    yield batch.slice(stop, 1)
                at = stop + 1

    def _folded(self, run: _Run, number: int) -> Iterator[pa.RecordBatch]:
        if run.batches:
            changes = pa.Table.from_batches(run.batches).combine_chunks()
            run.batches.clear()
            yield _Fold(self, changes).chunk(number)

    def _truncated(self, piece: pa.RecordBatch, number: int) -> pa.RecordBatch:
        values = {name: pa.nulls(1, piece.column(name).type) for name in self.names}
        said = piece.column(log.COMMITTED_AT)[:1] if piece.num_rows else pa.nulls(1, INSTANT)
        at = pc.coalesce(said, pa.scalar(self.at, INSTANT))
        origin = {f"{FROM}{n}": values[name] for n, name in enumerate(self.strategy.key)}
        texts = {OP: pa.array([TRUNCATE]), MASK: pa.nulls(1, pa.string())}
        if self.clock is not None:
            texts |= {VALID_FROM: at, NUMBER: pa.array([0]), MARK: pa.array([self.clock.mark])}
        return pa.RecordBatch.from_pydict(values | {DELETED_AT: at, CHUNK: pa.array([number]), **texts} | origin)


class _Run:
    """Changes that will be folded at once."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def full(self, more: pa.RecordBatch, rows: int, bytes: int) -> bool:
        return self._rows > 0 and (self._rows + more.num_rows > rows or self._bytes + more.nbytes > bytes)

    def add(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes


class _Order:
    """Commit and ordinal of every change come after those of the change before it, or the last state is none."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._last: tuple[pa.Scalar, pa.Scalar] | None = None

    def require(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        marks = [batch.column(log.COMMIT), batch.column(log.ORDINAL)]
        if self._last is not None:
            marks = [pa.concat_arrays([pa.array([last], m.type), m]) for last, m in zip(self._last, marks, strict=True)]
        (commit, then), (ordinal, number) = ((m[:-1], m[1:]) for m in marks)
        later = pc.or_(pc.less(commit, then), pc.and_(pc.equal(commit, then), pc.less(ordinal, number)))
        if not pc.all(later, min_count=0).as_py():
            found = "a change is out of order by commit and ordinal"
            raise DataError(f"load {self._target}", found, "report it to the author of the change reader")
        self._last = marks[0][-1], marks[1][-1]


class _Fold:
    """One run of n changes. A touch is a number: i < n is what change i makes of a row, n + i that it takes a row from
    where it was (a delete, or the old key of a row that moves)."""

    def __init__(self, folding: Folding, changes: pa.Table) -> None:
        self._folding, strategy = folding, folding.strategy
        self._hard, self._stays = strategy.deletes in (None, "hard"), strategy.deletes == "ignore"
        self._changes = changes
        self._n = n = changes.num_rows
        self._itself = np.arange(2 * n)
        self._taken = self._itself >= n
        self._masks = _masks(changes, folding.names)
        insert, delete = (_bools(pc.equal(changes[log.OPERATION], op)) for op in (log.INSERT, log.DELETE))
        self._insert = np.append(insert, np.zeros(n, bool))
        self._keys = {name: self._key(name, insert, delete) for name in strategy.key}
        self._code = code = _codes([_storage(column) for column in self._keys.values()])
        moved = ~delete & (code[:n] != code[n:])
        self._order(np.append(np.flatnonzero(~delete), np.flatnonzero(delete | moved) + n), code)
        self._before[:n][moved] = self._before[n:][moved]
        self._link()

    def _key(self, name: str, insert: _Bools, delete: _Bools) -> pa.Array:
        """The key of the row that a change makes, for all changes; then that of the row it met."""
        column, old_key = _one(self._changes[name]), _one(pc.struct_field(self._changes[log.KEY], [name]))
        made, old_key = _storage(column), _storage(old_key)
        old = pc.if_else(insert, made, old_key.cast(made.type))
        left_out = delete | self._masks[name] if name in self._masks else delete
        keys = pa.concat_arrays([pc.if_else(left_out, old, made), old])
        if keys.null_count:
            found = f"key column {name} is NULL in a change"
            todo = "use a key that is NOT NULL in the source"
            raise DataError(f"load {self._folding.target}", found, todo)
        return keys.cast(column.type)

    def _order(self, touch: _Ints, code: _Ints) -> None:
        """The last touch of every key, and for every touch the one before it on the key that it met, or -1. Where
        deletes are ignored a row that is taken away stays as it was: that is no touch."""
        row, taken = touch % self._n, touch >= self._n
        key = code[np.where(taken, touch, row)]
        order = np.lexsort((row, key))
        touch, key = touch[order], key[order]
        real = (touch < self._n) | (not self._stays)
        latest = np.maximum.accumulate(np.where(real, np.arange(len(touch)), -1))
        before = np.append(-1, latest[:-1])
        known = (before >= 0) & (key[before] == key)
        self._before = np.full(2 * self._n, -1)
        self._before[touch[known]] = touch[before[known]]
        touch, key = touch[real], key[real]
        last = np.append(key[1:] != key[:-1], True)
        if self._folding.clock is not None:
            at = _one(self._changes[log.COMMITTED_AT]).cast(pa.int64()).to_numpy()[touch % self._n]
            last[:-1] |= at[1:] != at[:-1]
            self._numbers = _counted(key[last])
        self._last = touch[last]

    def _link(self) -> None:
        """Which touch each builds on; itself where a chain begins."""
        n, taken = self._n, self._taken
        known = self._before >= 0
        # A deleted row that is kept goes on for an update; for an insert it was another row.
        ended = (self._before >= n) & (self._insert | self._hard)
        self._fresh, self._lost = ended & self._insert, ended & ~self._insert
        self._builds = np.where(known & ~ended & ~(taken & self._hard), self._before, self._itself)

    def chunk(self, number: int) -> pa.RecordBatch:
        last, n = self._last, self._n
        names = self._folding.names
        left_out = dict.fromkeys(names, self._taken)
        for name, mask in self._masks.items():
            left_out[name] = np.concatenate([mask, self._taken[n:]])
        plain = self._nearest(self._taken)
        values, unknown = {}, np.zeros((len(last), len(names)), bool)
        for column, name in enumerate(names):
            if name in self._keys:
                values[name] = self._keys[name].take(pa.array(last))
                continue
            source = self._nearest(left_out[name]) if name in self._masks else plain
            unknown[:, column] = left_out[name][source]
            values[name] = _one(self._changes[name]).take(pa.array(source % n, mask=unknown[:, column]))
        return pa.RecordBatch.from_pydict(values | self._own(unknown, number))

    def _nearest(self, left_out: _Bools) -> _Ints:
        """For the last touch of each key, the nearest of its chain that has the value, or the begin of the chain."""
        nearest: _Ints = _ends(np.where(left_out, self._builds, self._itself))[self._last]
        return nearest

    def _own(self, unknown: _Bools, number: int) -> dict[str, pa.Array]:
        """The columns of a chunk beside those of the target."""
        last, n, taken = self._last, self._n, self._taken[self._last]
        begin = _ends(self._builds)[last]
        masked = unknown.any(axis=1) & ~(taken & self._hard)
        # What came from another key took the place of a row that may be there: that is not nothing.
        stayed = self._code[last] == self._code[n + begin % n]
        kinds = [taken & self._hard, ~masked, self._fresh[begin], self._insert[begin], taken & stayed]
        op = np.select(kinds, [DELETE, UPSERT, FRESH, INSERT, KEPT], UPDATE)
        nobody = self._lost[begin] | (self._fresh[begin] | taken if self._folding.clock else ~masked)
        old_key = pa.array(n + begin % n, mask=nobody)
        origin = {f"{FROM}{i}": keys.take(old_key) for i, keys in enumerate(self._keys.values())}
        at = pc.coalesce(_one(self._changes[log.COMMITTED_AT]), pa.scalar(self._folding.at, INSTANT))
        soft = self._folding.strategy.deletes == "soft"
        deleted = at.take(pa.array(last % n, mask=~taken if soft else np.ones(len(last), bool)))
        numbers, mask = pa.array(np.full(len(last), number)), _signs(unknown, masked)
        versions = {}
        if (clock := self._folding.clock) is not None:
            versions = {VALID_FROM: at.take(pa.array(last % n)), NUMBER: pa.array(self._numbers)}
            versions[MARK] = pa.repeat(clock.mark, len(last))
        return {DELETED_AT: deleted, CHUNK: numbers, OP: pa.array(op), MASK: mask} | versions | origin


def _signs(unknown: _Bools, masked: _Bools) -> pa.Array:
    """A text of 0 and 1 for each row that is masked, NULL for the others."""
    if not masked.any():
        return pa.nulls(len(masked), pa.string())
    signs = np.where(unknown[masked], b"1", b"0").view(f"S{unknown.shape[1]}")[:, 0]
    return pa.array(signs, pa.binary()).cast(pa.string()).take(pa.array(np.cumsum(masked) - 1, mask=~masked))


def _counted(keys: _Ints) -> _Ints:
    """The number of each in its run of equal ones, from 0."""
    begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    runs = np.diff(np.append(begins, len(keys)))
    numbers: _Ints = np.arange(len(keys)) - np.repeat(begins, runs)
    return numbers


def _ends(steps: _Ints) -> _Ints:
    """Where each chain of steps ends: after every round a step is as long as two were."""
    while True:
        further: _Ints = steps[steps]
        if np.array_equal(further, steps):
            return steps
        steps = further


def _codes(keys: Sequence[pa.Array]) -> _Ints:
    """A number for each key; equal keys have the same."""
    code = np.zeros(len(keys[0]), np.int64)
    for column in keys:
        one = column.dictionary_encode()
        mixed = code * max(len(one.dictionary), 1) + one.indices.to_numpy()
        code = pa.array(mixed).dictionary_encode().indices.to_numpy().astype(np.int64)
    return code


def _renamed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The masks under the names of the columns, which may be routed to others on their way; they are in one order."""
    masks, place = batch.column(log.UNCHANGED), batch.schema.get_field_index(log.UNCHANGED)
    head = (*log.IDENTITY.names, log.KEY, log.UNCHANGED, log.BEFORE)
    names = [name for name in batch.schema.names if name not in head]
    if names == [f.name for f in masks.type]:
        return batch
    renamed = pa.StructArray.from_arrays(masks.flatten(), names=names, mask=masks.is_null())
    return batch.set_column(place, log.UNCHANGED, renamed)


def _masks(changes: pa.Table, names: Sequence[str]) -> dict[str, _Bools]:
    """Of the columns that a change left out."""
    given = _one(changes[log.UNCHANGED])
    if given.null_count == len(given):
        return {}
    columns = {name: _bools(pc.struct_field(given, [name])) for name in names}
    return {name: mask for name, mask in columns.items() if mask.any()}


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _bools(values: Any) -> _Bools:
    """NULL is False."""
    bools: _Bools = _one(values).fill_null(False).to_numpy(zero_copy_only=False)
    return bools


def _where(values: pa.Array) -> _Ints:
    return np.flatnonzero(_bools(values))
