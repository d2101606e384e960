"""The spool that every reader of a change stream reads a window into.

All changes pass through the spool on their way to the sink, so the rules of ``contract.ChangeWindow`` and of
``dpone.model.changes`` are enforced here and nowhere else:

* A change at or below the position after which the window begins was delivered again: it is dropped and counted. A
  change above the window's end is an error.
* (commit, ordinal) grows within a table. A change that does not come after the last one was delivered twice: the same
  content is dropped and counted, different content under one event id is a DataError. All earlier changes are on the
  disk in that order, so one lookup decides, and no list of ids is kept in memory.
* Shapes of a table are united; what cannot be united ends the window before it.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, field, frozen

from dpone.cdc.batch import conformed, unite
from dpone.cdc.history import OLD_KEY
from dpone.errors import DataError, SchemaBreak, SourceError
from dpone.model.changes import (
    BEFORE,
    COMMIT,
    EVENT_ID,
    IDENTITY,
    KEY,
    ORDINAL,
    UNCHANGED,
    ChangeTable,
    batch_schema,
)

# -- the spool --------------------------------------------------------------------------------------------------


@frozen
class _Block:
    """A batch on the disk. ``first``: commit and ordinal of its first row."""

    at: int
    size: int
    rows: int
    first: tuple[str, int]
    shape: ChangeTable


@define
class _Table:
    """The blocks of a table, in order. ``whole``: the shape, the number of blocks, the last row and the dropped changes
    as of the last commit."""

    shape: ChangeTable
    blocks: list[_Block] = field(factory=list)
    last: tuple[str, int] | None = None
    filtered: int = 0
    whole: tuple[ChangeTable, int, tuple[str, int] | None, int] | None = None


_RESERVED = {*IDENTITY.names, KEY, UNCHANGED, BEFORE, OLD_KEY}


class Spool:
    """The changes of one window on the disk, in one unnamed file, which no crash leaves behind. Memory holds one batch,
    and about a hundred bytes for each batch written, whatever the size of a transaction.

    source  names the source in event ids: ``source/commit/ordinal``
    after   mark of the commit the window begins after; empty for the beginning
    upto    mark of the last commit of the window; None if it is known only after the read
    """

    def __init__(self, source: str, after: str = "", upto: str | None = None) -> None:
        self._source, self._after, self._upto = source, after, upto
        # On the disk, because a transaction may be larger than memory and is never split (PG-15). The file has no name
        # (on Linux, TemporaryFile uses O_TMPFILE or unlinks it), so that SIGKILL leaves nothing behind.
        self._file = tempfile.TemporaryFile(prefix="dpone-cdc-")  # noqa: SIM115  # lives as long as the window
        self._end = 0
        self._tables: dict[str, _Table] = {}
        self._committed = False

    @property
    def tables(self) -> Mapping[str, ChangeTable]:
        """The tables with a change in a whole transaction, with all their shapes united. Sorted by name."""
        whole = {name: table.whole for name, table in sorted(self._tables.items())}
        return {name: state[0] for name, state in whole.items() if state is not None and state[1]}

    @property
    def changes(self) -> int:
        return sum(block.rows for name in self.tables for block in self._blocks(name))

    @property
    def filtered(self) -> int:
        return sum(self.filtered_of(name) for name in self._tables)

    def filtered_of(self, table: str) -> int:
        """Number of changes that were dropped because they had been delivered before."""
        state = self._tables[table].whole if table in self._tables else None
        return state[3] if state else 0

    def add(self, table: str, shape: ChangeTable, batch: pa.RecordBatch) -> bool:
        """Changes of one table in the order of their commits: ``batch_schema(shape)`` without the event id.

        False: the shape cannot be united with those before it. Then the window ends with the last ``commit``, and
        nothing more may be added. Raises DataError; SchemaBreak if that transaction is the first of the window.
        """
        if taken := [name for name in shape.values.names if name in _RESERVED]:
            todo = "rename the column in the source, or leave it out"
            raise DataError(f"read changes of table {table}", f"a column has the reserved name {taken[0]}", todo)
        known = self._tables.setdefault(table, _Table(shape))
        united = shape if not known.blocks else unite(known.shape, shape)
        if united is None:
            return self._end_window(table)
        batch = self._new(known, self._named(batch, shape), table)
        known.shape = united if batch.num_rows or known.blocks else known.shape
        if batch.num_rows:
            self._write(known, shape, batch)
        return True

    def _end_window(self, table: str) -> bool:
        if self._committed:
            return False
        found = f"one transaction changes table {table} with columns of two types that have no common type"
        raise SchemaBreak(
            "read a change window", found, "declare the types of the columns, or resume after the transaction"
        )

    def commit(self, tables: Collection[str] | None = None) -> None:
        """Everything added so far, or added to these tables, consists of whole transactions."""
        self._committed = self._committed or self._end > 0
        for table in (table for name, table in self._tables.items() if tables is None or name in tables):
            table.whole = (table.shape, len(table.blocks), table.last, table.filtered)

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """The changes of a table under its united schema, event ids filled in. May be called from several threads."""
        wanted = self.tables[table]
        for block in self._blocks(table):
            yield conformed(self._load(block), block.shape, wanted)

    def close(self) -> None:
        self._file.close()

    def _blocks(self, table: str) -> Sequence[_Block]:
        known = self._tables[table]
        return known.blocks[: known.whole[1]] if known.whole else ()

    def _named(self, batch: pa.RecordBatch, shape: ChangeTable) -> pa.RecordBatch:
        """Add event ids, made of commit and ordinal: two changes have the same id only if they have the same commit and
        ordinal."""
        source = pa.scalar(self._source)
        ordinals = batch.column(ORDINAL).cast(pa.string())
        # PG-03: the position in the log is not enough. All rows of one COPY have one LSN (PostgreSQL 15.18), and
        # changes of one SQL Server transaction have one commit LSN.
        ids = pc.binary_join_element_wise(source, batch.column(COMMIT), ordinals, "/")
        schema = batch_schema(shape)
        columns = [ids if f.name == EVENT_ID else batch.column(f.name) for f in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _new(self, known: _Table, batch: pa.RecordBatch, table: str) -> pa.RecordBatch:
        """The changes that were not delivered before."""
        commits = batch.column(COMMIT)
        if self._upto is not None and pc.any(pc.greater(commits, self._upto)).as_py():
            found = f"a change of table {table} belongs to a commit after {self._upto}, the end of the window"
            raise DataError("read a change window", found, "this is a bug in the change reader; report it")
        # PG-05: a slot that went back (a crash of the server, a stop in the middle of a transaction) delivers whole
        # transactions again.
        fresh = batch.filter(pc.greater(commits, self._after))
        known.filtered += batch.num_rows - fresh.num_rows
        if fresh.num_rows and not _grows(fresh, known.last):
            fresh = self._without_repeated(known, fresh, table)
        if fresh.num_rows:
            known.last = _mark(fresh, fresh.num_rows - 1)
        return fresh

    def _without_repeated(self, known: _Table, batch: pa.RecordBatch, table: str) -> pa.RecordBatch:
        """Row by row; only called if something was delivered twice."""
        last, kept, places = known.last, [], dict[tuple[str, int], int]()
        for i in range(batch.num_rows):
            mark = _mark(batch, i)
            if last is None or mark > last:
                last, places[mark] = mark, i
                kept.append(i)
                continue
            before = _row(batch, places[mark]) if mark in places else self._find(known, mark)
            _require_same(_row(batch, i), before, table)
            known.filtered += 1
        return batch.take(pa.array(kept, pa.int64()))

    def _find(self, known: _Table, mark: tuple[str, int]) -> Mapping[str, Any] | None:
        """The row of a commit and ordinal that is on the disk."""
        at = bisect_right(known.blocks, mark, key=lambda block: block.first) - 1
        if at < 0:
            return None
        batch = self._load(known.blocks[at])
        same = pc.and_(pc.equal(batch.column(COMMIT), mark[0]), pc.equal(batch.column(ORDINAL), mark[1]))
        at = pc.index(same, True).as_py()
        return _row(batch, at) if at >= 0 else None

    def _write(self, known: _Table, shape: ChangeTable, batch: pa.RecordBatch) -> None:
        data = batch.serialize()
        try:
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            todo = f"free space in {tempfile.gettempdir()}, or set TMPDIR to another folder"
            raise SourceError("spool a change window", error.strerror or "the disk write failed", todo) from error
        known.blocks.append(_Block(self._end, data.size, batch.num_rows, _mark(batch, 0), shape))
        self._end += data.size

    def _load(self, block: _Block) -> pa.RecordBatch:
        # pread has an offset of its own, so several threads can read the file at once (pread(2)).
        data = os.pread(self._file.fileno(), block.size, block.at)
        return pa.ipc.read_record_batch(pa.py_buffer(data), batch_schema(block.shape))


def _mark(batch: pa.RecordBatch, i: int) -> tuple[str, int]:
    return batch.column(COMMIT)[i].as_py(), batch.column(ORDINAL)[i].as_py()


def _grows(batch: pa.RecordBatch, last: tuple[str, int] | None) -> bool:
    """True if (commit, ordinal) grows from row to row, and above ``last``."""
    if last is not None and _mark(batch, 0) <= last:
        return False
    n = batch.num_rows - 1
    commits, ordinals = batch.column(COMMIT), batch.column(ORDINAL)
    later = pc.greater(commits.slice(1), commits.slice(0, n))
    within = pc.and_(
        pc.equal(commits.slice(1), commits.slice(0, n)), pc.greater(ordinals.slice(1), ordinals.slice(0, n))
    )
    return bool(n == 0 or pc.all(pc.or_(later, within)).as_py())


_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}


def _row(batch: pa.RecordBatch, i: int) -> dict[str, Any]:
    """A row as values that can be compared: each equals itself (NaN does not), and Python can hold each."""
    return {name: _comparable(batch.column(name)[i]) for name in batch.schema.names}


def _comparable(value: pa.Scalar) -> Any:
    """Times as a count: Python's datetime ends with the year 9999 and has no nanoseconds."""
    type_ = value.type
    if not value.is_valid:
        return None
    if pa.types.is_timestamp(type_) or pa.types.is_time(type_) or pa.types.is_duration(type_):
        return value.value * _NANOSECONDS[type_.unit]
    if pa.types.is_date(type_):
        return value.value * (_NANOSECONDS["ms"] if pa.types.is_date64(type_) else 86_400 * 10**9)
    if isinstance(value, pa.ExtensionScalar):
        return _comparable(value.value)
    if isinstance(value, pa.StructScalar):
        return {name: _comparable(member) for name, member in value.items()}
    if isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return [_comparable(one) for one in value.values]
    made = value.as_py()
    # NaN is not equal to itself: the same change delivered twice would look like two contents.
    return "NaN" if made != made else made


def _require_same(row: Mapping[str, Any], before: Mapping[str, Any] | None, table: str) -> None:
    failed = f"read changes of table {table}"
    if before is None:
        found = f"change {row[EVENT_ID]} comes after a later one"
        raise DataError(failed, found, "check that the log is in commit order")
    columns = {*row, *before}
    if any(_given(row, c) != _given(before, c) for c in columns):
        found = f"event {row[EVENT_ID]} was delivered twice, with different content"
        raise DataError(
            failed, found, "check the program that writes the log: commit and ordinal must identify one change"
        )


def _given(row: Mapping[str, Any], column: str) -> Any:
    """The value to compare: structs without their empty members, so that the shape of the batch does not matter."""
    value = row.get(column)
    if isinstance(value, Mapping):
        left_out = (None, False) if column == UNCHANGED else (None,)
        value = {k: v for k, v in value.items() if not any(v is one for one in left_out)} or None
    return value
