"""Folds a run of changes into one change per key, their net effect, by operations on whole columns.

A chunk is a run of changes that are folded together. Each key occurs in it once, with the operation on its row:

    __dpone__op      DELETE      delete the row
                     UPSERT      every value is known
                     UPDATE      masked values are those of the row that ``from`` names, which must exist
                     INSERT      like UPDATE; if that row does not exist, the values are unknown: NULL or the default
                     FRESH       a new row in place of a deleted one: masked values are unknown
                     KEPT        like UPDATE; if that row does not exist, nothing is done
                     TRUNCATE    delete all rows of the table, before the other rows of the chunk
    __dpone__mask    text with one character per column: 1 if the log left the value out, else 0; NULL: none left out
    __dpone__from_n  key of that row before the chunk; differs from the key of this row if the row has moved

Chunks are numbered in commit order. Each is applied to the state that the one before it left.

For ``scd2`` a key occurs once for each commit that touches it, numbered from 0, with the time of that commit: all that
one commit does to a row is one change.

Algorithm: every change touches one key, or two if it moves a row to another key. A touch that builds on a row is
linked to the touch before it on the key that the row then had. So the touches of a row form a chain, which may cross
keys. If a touch leaves a value out, the value comes from the nearest touch before it in the chain that has it; if none
has, from the row with which the chain begins. Chains are followed by pointer doubling: each round doubles the length of
a step, so that a key with a million changes takes twenty rounds.
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

# Most changes and bytes of a chunk, which is in memory as a whole.
ROWS, BYTES = 50_000, 16 << 20

INSTANT = pa.timestamp("us", "UTC")
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_LONG_AGO = -(2**62)


def staged_fields(key: Sequence[pa.Field]) -> list[pa.Field]:
    """The columns that a chunk has in addition to those of the target."""
    origin = [pa.field(f"{FROM}{n}", f.type) for n, f in enumerate(key)]
    return [pa.field(CHUNK, pa.int64()), pa.field(OP, pa.string()), pa.field(MASK, pa.string()), *origin]


@define
class Clock:
    """When versions begin: at the time of their commit. The times always increase, even if clocks were set back: a
    commit that is not later than the one before it, or than the table's latest boundary, gets that time plus one
    microsecond.

    at     the time of a commit for which the log has none
    last   latest boundary of the table, in microseconds since 1970
    after  mark of the last commit that the table has; this commit and earlier ones are skipped
    once   if set, the time of all commits
    """

    at: datetime
    last: int = _LONG_AGO
    after: str = ""
    once: datetime | None = None
    mark: str = field(default="", init=False)

    def timed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The changes that the table does not have yet, each with the time of its commit."""
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
        logged = pc.coalesce(batch.column(log.COMMITTED_AT), pa.scalar(self.at, INSTANT)).cast(pa.int64()).to_numpy()
        steps = np.arange(int(begins.sum()) + 1)
        # the greater of a commit's own time and one microsecond after the commit before it
        times = np.maximum.accumulate(np.append(self.last, logged[begins] - steps[1:])) + steps
        self.last = int(times[-1])
        return pa.array(times[np.cumsum(begins)]).cast(INSTANT)


def require_schema(folding: Folding, schema: pa.Schema) -> None:
    """Raises ConfigError unless the batches have every column that the fold reads."""
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
    """How the changes of one table are folded.

    target    for messages
    names     columns of the target that the changes fill; the mask has one character for each
    strategy  its key, and how it handles deletes and truncates
    at        the time of a delete for which the log has none
    first     number of the first chunk
    whole     the changes are inserts of all existing rows; the rows of the table are removed first
    rows      most changes of a chunk
    bytes     most bytes of a chunk that has more than one change
    clock     for ``scd2``
    """

    target: str
    names: tuple[str, ...]
    strategy: Strategy
    at: datetime
    first: int
    whole: bool
    rows: int = field(factory=lambda: ROWS)
    bytes: int = field(factory=lambda: BYTES)
    clock: Clock | None = None

    @property
    def columns(self) -> set[str]:
        """Names of the columns of a chunk."""
        own = {CHUNK, OP, MASK, *(f"{FROM}{n}" for n in range(len(self.strategy.key)))}
        return {*self.names, DELETED_AT, *own, *((VALID_FROM, NUMBER, MARK) if self.clock else ())}

    def chunks(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Takes batches of ``changes.batch_schema`` and returns folded chunks. Raises DataError for invalid changes,
        and DeletesRefused if the table was truncated and ``strategy.truncate`` is ``fail``."""
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
        """The columns that the fold reads, in pieces that fit into a chunk; a truncate is a piece of its own."""
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
        logged = piece.column(log.COMMITTED_AT)[:1] if piece.num_rows else pa.nulls(1, INSTANT)
        at = pc.coalesce(logged, pa.scalar(self.at, INSTANT))
        origin = {f"{FROM}{n}": values[name] for n, name in enumerate(self.strategy.key)}
        texts = {OP: pa.array([TRUNCATE]), MASK: pa.nulls(1, pa.string())}
        if self.clock is not None:
            texts |= {VALID_FROM: at, NUMBER: pa.array([0]), MARK: pa.array([self.clock.mark])}
        return pa.RecordBatch.from_pydict(values | {DELETED_AT: at, CHUNK: pa.array([number]), **texts} | origin)


class _Run:
    """Changes that will be folded together."""

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
    """Checks that changes are in order of commit and ordinal: otherwise the last state of a row cannot be known."""

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
    """One run of n changes. A touch is a number: i < n means that change i writes a row, n + i that it takes a row
    away from its key (a delete, or the old key of a row that moves)."""

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
        """For all changes the key of the row that is written, followed by the key that the row had before."""
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
        """Finds the last touch of every key, and for every touch the one before it on the same key, or -1. If deletes
        are ignored, a row that is taken away stays as it was, which does not count as a touch."""
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
        """Finds the touch that each touch builds on; itself at the beginning of a chain."""
        n, taken = self._n, self._taken
        known = self._before >= 0
        # An update continues a deleted row that is kept; an insert begins another row.
        ended = (self._before >= n) & (self._insert | self._hard)
        self._fresh, self._lost = ended & self._insert, ended & ~self._insert
        self._builds = np.where(known & ~ended & ~(taken & self._hard), self._before, self._itself)

    def chunk(self, number: int) -> pa.RecordBatch:
        last, n = self._last, self._n
        names = self._folding.names
        left_out = dict.fromkeys(names, self._taken)
        for name, mask in self._masks.items():
            left_out[name] = np.concatenate([mask, self._taken[n:]])
        nearest = self._nearest(self._taken)
        values, unknown = {}, np.zeros((len(last), len(names)), bool)
        for column, name in enumerate(names):
            if name in self._keys:
                values[name] = self._keys[name].take(pa.array(last))
                continue
            source = self._nearest(left_out[name]) if name in self._masks else nearest
            unknown[:, column] = left_out[name][source]
            values[name] = _one(self._changes[name]).take(pa.array(source % n, mask=unknown[:, column]))
        return pa.RecordBatch.from_pydict(values | self._own(unknown, number))

    def _nearest(self, left_out: _Bools) -> _Ints:
        """For the last touch of each key, the nearest touch of its chain that has the value, or the first touch of the
        chain."""
        nearest: _Ints = _ends(np.where(left_out, self._builds, self._itself))[self._last]
        return nearest

    def _own(self, unknown: _Bools, number: int) -> dict[str, pa.Array]:
        """The columns that a chunk has in addition to those of the target."""
        last, n, taken = self._last, self._n, self._taken[self._last]
        begin = _ends(self._builds)[last]
        masked = unknown.any(axis=1) & ~(taken & self._hard)
        # A row that came from another key may have replaced an existing one, so it is never KEPT.
        stayed = self._code[last] == self._code[n + begin % n]
        kinds = [taken & self._hard, ~masked, self._fresh[begin], self._insert[begin], taken & stayed]
        op = np.select(kinds, [DELETE, UPSERT, FRESH, INSERT, KEPT], UPDATE)
        no_origin = self._lost[begin] | (self._fresh[begin] | taken if self._folding.clock else ~masked)
        old_key = pa.array(n + begin % n, mask=no_origin)
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
    """The mask as text of 0 and 1 for each masked row, NULL for the others."""
    if not masked.any():
        return pa.nulls(len(masked), pa.string())
    signs = np.where(unknown[masked], b"1", b"0").view(f"S{unknown.shape[1]}")[:, 0]
    return pa.array(signs, pa.binary()).cast(pa.string()).take(pa.array(np.cumsum(masked) - 1, mask=~masked))


def _counted(keys: _Ints) -> _Ints:
    """The number of each key in its run of equal keys, from 0."""
    begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    runs = np.diff(np.append(begins, len(keys)))
    numbers: _Ints = np.arange(len(keys)) - np.repeat(begins, runs)
    return numbers


def _ends(steps: _Ints) -> _Ints:
    """Where each chain of steps ends. Every round doubles the length of the steps."""
    while True:
        further: _Ints = steps[steps]
        if np.array_equal(further, steps):
            return steps
        steps = further


def _codes(keys: Sequence[pa.Array]) -> _Ints:
    """A number for each key; equal keys have the same number."""
    code = np.zeros(len(keys[0]), np.int64)
    for column in keys:
        one = column.dictionary_encode()
        mixed = code * max(len(one.dictionary), 1) + one.indices.to_numpy()
        code = pa.array(mixed).dictionary_encode().indices.to_numpy().astype(np.int64)
    return code


def _renamed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The masks under the current names of the columns: values may have been routed to other columns on the way. The
    order is the same."""
    masks, place = batch.column(log.UNCHANGED), batch.schema.get_field_index(log.UNCHANGED)
    head = (*log.IDENTITY.names, log.KEY, log.UNCHANGED, log.BEFORE)
    names = [name for name in batch.schema.names if name not in head]
    if names == [f.name for f in masks.type]:
        return batch
    renamed = pa.StructArray.from_arrays(masks.flatten(), names=names, mask=masks.is_null())
    return batch.set_column(place, log.UNCHANGED, renamed)


def _masks(changes: pa.Table, names: Sequence[str]) -> dict[str, _Bools]:
    """For each column that some change left out, which changes did."""
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
    """NULL counts as False."""
    bools: _Bools = _one(values).fill_null(False).to_numpy(zero_copy_only=False)
    return bools


def _where(values: pa.Array) -> _Ints:
    return np.flatnonzero(_bools(values))
