"""Messages of pgoutput as change batches: a column at a time, no Python object per value.

The messages: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html, protocol version 1:
whole transactions in commit order. A commit is marked by the LSN at which its record begins and by its xid. BEGIN has
both, so that a transaction of any size goes straight to the spool. Records do not overlap: a record that begins at or
after a boundary between two records also ends after it. So positions, which are such boundaries, divide commits.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import define, field, frozen

from dpone.cdc.batch import mask_of
from dpone.cdc.spool import Spool
from dpone.errors import DataError, IdentityChanged, SourceError
from dpone.model.changes import (
    BEFORE,
    COMMIT,
    COMMITTED_AT,
    EVENT_ID,
    KEY,
    OPERATION,
    ORDINAL,
    UNCHANGED,
    ChangeTable,
    batch_schema,
)
from dpone.model.schema import Name
from dpone.sql.values import Unstorable
from dpone_postgres import texts
from dpone_postgres.binary import _bytes, _Cells
from dpone_postgres.types import SPECIAL, Column

_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds from 1970-01-01
_BEGIN, _COMMIT, _RELATION, _TRUNCATE, _MESSAGE = b"BCRTM"
_INSERT, _UPDATE, _DELETE = b"IUD"
_TYPE = ord("Y")
_NEW, _KEY, _OLD = b"NKO"  # tuples: the new one, the old one's key, the old one
_TEXT, _UNCHANGED = b"tu"
MARKER = b"message "
_KNOWN = np.frombuffer(b"BCRTIUDYOM", np.uint8)
SPECIAL_TODO = (
    "set source.options.special_values: text, which reads dates, times and numerics as text, "
    "and run once with --full-refresh, which changes the target's columns to text"
)
_TAIL = bytes(64)  # numbers are read by views that reach past the last message
_WORDS = pa.array(["insert", "update", "delete"])
_INDEX = np.zeros(256, np.int64)
_INDEX[_UPDATE], _INDEX[_DELETE] = 1, 2


def lsn_text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def mark(lsn: int) -> str:
    """The LSN as text that sorts in WAL order. The mark of a commit also has its xid, so it sorts after the bare
    LSN."""
    return f"{lsn:016X}"


@frozen
class Relation:
    """A table as the stream describes it. ``types``: type oid and modifier of each column; ``key``: the names of the
    columns of its replica identity."""

    oid: int
    table: str
    identity: str
    names: tuple[str, ...]
    types: tuple[tuple[int, int], ...]
    key: tuple[str, ...]


def relation(message: bytes) -> Relation:
    oid = int.from_bytes(message[1:5], "big")
    schema, rest = message[5:].split(b"\0", 1)
    table, rest = rest.split(b"\0", 1)
    identity, count = chr(rest[0]), int.from_bytes(rest[1:3], "big")
    names, types, key, at = list[str](), list[tuple[int, int]](), list[str](), 3
    for _ in range(count):
        end = rest.index(b"\0", at + 1)
        name = rest[at + 1 : end].decode()
        type_, modifier = struct.unpack("!Ii", rest[end + 1 : end + 9])
        names.append(name)
        types.append((type_, modifier))
        if rest[at] & 1:
            key.append(name)
        at = end + 9
    return Relation(
        oid,
        str(Name((schema.decode() or "pg_catalog", table.decode()))),
        identity,
        tuple(names),
        tuple(types),
        tuple(key),
    )


@frozen
class Shape:
    """How rows of a relation are decoded. ``columns``: name, Arrow type and kind of each."""

    table: str
    change: ChangeTable
    columns: tuple[Column, ...]
    full: bool
    schema: pa.Schema

    @classmethod
    def of(cls, relation: Relation, columns: Sequence[Column], key: Sequence[str], text: bool) -> Shape:
        fields = [c.field(text=text and c.kind in SPECIAL) for c in columns]
        change = ChangeTable(pa.schema(fields), tuple(n for n in relation.names if n in key))
        schema = pa.schema([f for f in batch_schema(change) if f.name != EVENT_ID])
        return cls(relation.table, change, tuple(columns), relation.identity == "f", schema)


@define
class _Transaction:
    """A transaction; one may be open between two blocks of messages. ``seen``: its changes so far."""

    lsn: int
    at: int
    xid: int
    seen: int = 0

    @property
    def mark(self) -> str:
        return f"{mark(self.lsn)}-{self.xid:08X}"

    @property
    def full_mark(self) -> str:
        """The mark with the commit time: after a restore the server may write another commit with the same xid and
        LSN."""
        return f"{self.mark}-{self.at}"


@frozen
class _Block:
    """Joined messages. ``start``: where each begins; ``op``: its first byte; ``number``: its transaction, from 0;
    ``ordinal``: of its last change; ``marks`` and ``times``: by transaction; ``leaves``: message, root and partition
    of changes that are published under the root's name."""

    data: bytes
    start: Any
    op: Any
    number: Any
    ordinal: Any
    marks: pa.Array
    times: pa.Array
    leaves: Sequence[tuple[int, int, int]]

    def view(self, dtype: str) -> Any:
        return np.ndarray((len(self.data) - 31,), dtype, self.data, strides=(1,))

    def message(self, i: int) -> bytes:
        end = self.start[i + 1] if i + 1 < len(self.start) else len(self.data) - len(_TAIL)
        return self.data[self.start[i] : end]


@define
class Decoder:
    """Decodes blocks of messages into the spool.

    after   an LSN; transactions whose commit record begins before it were read by earlier windows
    upto    an LSN, the end of the window; a transaction that ends above it is left to the next window
    limit   the window ends at the first commit after so many changes
    shape   returns a relation's shape, None for a table that is not selected; may query the server
    tables  oids of the stream's tables by name; tables that have changes are added
    truncated  xid of the last TRUNCATE of each table
    leaves  by root, the partitions that had changes, with the xid of one of the changes
    described  by table, the column names that its rows came with, with the xid of the first such row
    commit  the last commit taken, here or in an earlier window; ``reached``: the earlier one was delivered again
    """

    spool: Spool
    after: int
    upto: int
    limit: int | None
    shape: Callable[[Relation], Shape | None]
    tables: dict[str, int]
    commit: str = ""
    reached: bool = False
    end: int | None = None  # LSN of the end of the last commit taken
    changes: int = 0
    over: bool = False  # no more messages are taken
    short: bool = False  # it ended before ``upto``
    truncated: dict[str, int] = field(factory=dict)
    leaves: dict[str, dict[int, int]] = field(factory=dict)
    described: dict[str, dict[tuple[str, ...], int]] = field(factory=dict)
    _last_described: list[int] = field(factory=list)  # oids of the tables that the last messages described, at most two
    _open: _Transaction | None = None
    _relations: dict[int, Relation] = field(factory=dict)
    _shapes: dict[int, Shape | None] = field(factory=dict)

    @property
    def settled(self) -> bool:
        """True if the spool has no part of a transaction that is outside the window."""
        return self._open is None and not self.over

    def feed(self, messages: Sequence[bytes], skip: int) -> None:
        """Take one block of messages; ``skip``: bytes before pgoutput's own message in each."""
        if self.over or not messages:
            return
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        data = b"".join((*messages, _TAIL))
        start = np.cumsum(lengths) - lengths + skip
        self._block(data, start)

    def _block(self, data: bytes, start: Any) -> None:
        op = np.frombuffer(data, np.uint8)[start]
        if (others := op == _MESSAGE).any():
            self._look(data, start[others])
            start, op = start[~others], op[~others]
        if not len(start):
            return
        if not np.isin(op, _KNOWN).all():
            raise SourceError(
                "read the slot", "a message type that pgoutput version 1 does not define", "report it as a bug"
            )
        begins, commits = np.flatnonzero(op == _BEGIN), np.flatnonzero(op == _COMMIT)
        view8 = np.ndarray((len(data) - 31,), ">i8", data, strides=(1,))
        view4 = np.ndarray((len(data) - 31,), ">u4", data, strides=(1,))
        lsns, times = view8[start[begins] + 1].tolist(), view8[start[begins] + 9].tolist()
        xids, ends = view4[start[begins] + 17].tolist(), view8[start[commits] + 10].tolist()
        old = self._open
        transactions = [*([old] if old else []), *map(_Transaction, lsns, times, xids)]
        weight = np.isin(op, np.frombuffer(b"IUD", np.uint8)).astype(np.int64)
        truncates = np.flatnonzero(op == _TRUNCATE)
        weight[truncates] = view4[start[truncates] + 1]
        total = np.cumsum(weight)
        number = np.cumsum(op == _BEGIN) - (0 if old else 1)
        base = np.array([*([-old.seen] if old else []), *total[begins].tolist()], np.int64)
        marks = pa.array([t.mark for t in transactions], pa.string())
        stamps = pa.array(np.array([t.at for t in transactions], np.int64) + _EPOCH).cast(pa.timestamp("us", "UTC"))
        block = _Block(data, start, op, number, total - base[number], marks, stamps, self._leaves(data, start, op))
        last = self._taken(transactions, ends, total[commits] - base[: len(ends)])
        self._take(block, transactions, commits, ends, last)
        if len(ends) < len(transactions):
            transactions[-1].seen = int(block.ordinal[-1])
            self._open = transactions[-1]
        else:
            self._open = None

    def _leaves(self, data: bytes, start: Any, op: Any) -> list[tuple[int, int, int]]:
        """Changes of partitions that are published under the root's name. The server describes the root, then the
        partition, each after the types that it needs, then sends the change (``maybe_send_schema`` of pgoutput.c). It
        describes a relation again only if it was altered, so that this finds the first change of each partition.
        Tables that one TRUNCATE names are described one after the other as well."""
        described = op == _RELATION
        if not self._last_described and not described.any():
            return []
        at = np.flatnonzero(op != _TYPE)
        numbers = np.ndarray((len(data) - 3,), ">u4", data, strides=(1,))[start[at] + 1].astype(np.int64)
        oids = np.concatenate([np.array(self._last_described, np.int64), numbers])
        kinds = np.concatenate([np.full(len(self._last_described), _RELATION, np.uint8), op[at]])
        at = np.concatenate([np.full(len(self._last_described), -1, np.int64), at])
        known = kinds == _RELATION
        row = (kinds == _INSERT) | (kinds == _UPDATE) | (kinds == _DELETE)
        found = 2 + np.flatnonzero(known[:-2] & known[1:-1] & row[2:] & (oids[:-2] == oids[2:]))
        last = oids[-2:][known[-2:]] if known[-1] else oids[:0]
        self._last_described = last.tolist()
        return [(int(at[i]), int(oids[i]), int(oids[i - 1])) for i in found.tolist()]

    def _look(self, data: bytes, starts: Any) -> None:
        """Messages of pg_logical_emit_message contain no change. One of dpone's may be the marker of the position."""
        wanted = self.commit.encode()
        for at in starts.tolist() if wanted.startswith(MARKER) else ():
            content = data.index(b"\0", at + 10) + 5  # kind, flags and LSN; the prefix and NUL; the length
            self.reached = self.reached or data.startswith(wanted, content)

    def _taken(self, transactions: Sequence[_Transaction], ends: Sequence[int], sizes: Any) -> int:
        """The number of whole transactions in the block that belong to the window; sets ``over`` if it ends there."""
        for i, (transaction, end) in enumerate(zip(transactions, ends, strict=False)):
            if end > self.upto:
                self.over = True
                return i
            if transaction.lsn < self.after:
                if end > self.after:
                    found = f"the position {lsn_text(self.after)} is inside a commit: the server was restored"
                    todo = (
                        "load again with 'dpone run --full-refresh', or restore a position from 'dpone state history'"
                    )
                    found += " to an earlier state, or the position was edited"
                    raise IdentityChanged("resume the slot", found, todo)
                self.reached = self.reached or transaction.full_mark == self.commit
                continue
            self.changes += int(sizes[i])
            if self.limit is not None and self.changes >= self.limit:
                self.over = self.short = True
                return i + 1
        return len(ends)

    def _take(
        self, block: _Block, transactions: Sequence[_Transaction], commits: Any, ends: Sequence[int], last: int
    ) -> None:
        """Spool the window's whole transactions, then the part of the open one that has arrived. The messages between
        two boundaries have one shape per table."""
        for low, high, whole in self._runs(block, commits, last):
            if not self._add(block, low, high, transactions):
                self.over = self.short = True
                return
            if whole is not None:
                self.spool.commit()
                if transactions[whole].lsn >= self.after:
                    self.end, self.commit = ends[whole], transactions[whole].full_mark
        if last == len(ends) and not self.over:
            low = int(commits[-1]) + 1 if len(commits) else 0
            for start, stop in self._cut(block, low, len(block.start)):
                if not self._add(block, start, stop, transactions):
                    self.over = self.short = True
                    return

    def _runs(self, block: _Block, commits: Any, last: int) -> Iterator[tuple[int, int, int | None]]:
        """Ranges low to high of messages, and the number of the transaction that ends there, None inside one.
        Transactions are taken together until a table changes its shape; the changes before it are committed first."""
        if not last:
            return
        low, stop = 0, int(commits[last - 1]) + 1
        altered = self._altered(block, 0, stop)
        for number in sorted({int(block.number[i]) for i in altered}):
            begin = int(commits[number - 1]) + 1 if number else 0
            if begin > low:
                yield low, begin, number - 1
            end = int(commits[number]) + 1
            for start, until in self._cut(block, begin, end):
                yield start, until, number if until == end else None
            low = end
        if low < stop:
            yield low, stop, last - 1

    def _cut(self, block: _Block, low: int, high: int) -> Iterator[tuple[int, int]]:
        """One transaction, cut before each description that changes a table's shape."""
        start = low
        for i in self._altered(block, low, high):
            if i > start:
                yield start, i
                start = i
        if start < high:
            yield start, high

    def _altered(self, block: _Block, low: int, high: int) -> list[int]:
        """Where a known table gets a new shape. A new table is registered at once."""
        altered, latest = [], dict(self._relations)
        for i in (low + np.flatnonzero(block.op[low:high] == _RELATION)).tolist():
            new = relation(block.message(i))
            if new.oid not in latest:
                self._know(new)
            elif latest[new.oid] != new:
                altered.append(i)
            latest[new.oid] = new
        return altered

    def _know(self, new: Relation) -> None:
        shape = self.shape(new)
        if shape is not None:
            require_same_table(self.tables, shape.table, new.oid)
        self._relations[new.oid], self._shapes[new.oid] = new, shape

    def _add(self, block: _Block, low: int, high: int, transactions: Sequence[_Transaction]) -> bool:
        """False if the spool is full. Transactions from before the window are skipped."""
        ops = block.op[low:high]
        for i in (low + np.flatnonzero(ops == _RELATION)).tolist():
            self._know(relation(block.message(i)))
        for i, root, leaf in block.leaves:
            transaction = transactions[int(block.number[i])]
            if low <= i < high and transaction.lsn >= self.after and (whole := self._shape(root)) is not None:
                self.leaves.setdefault(whole.table, {})[leaf] = transaction.xid
        rows = low + np.flatnonzero((ops == _INSERT) | (ops == _UPDATE) | (ops == _DELETE))
        truncates = low + np.flatnonzero(ops == _TRUNCATE)
        if any(t.lsn < self.after for t in transactions):
            fresh = np.array([t.lsn >= self.after for t in transactions])
            rows, truncates = rows[fresh[block.number[rows]]], truncates[fresh[block.number[truncates]]]
        oids = block.view(">u4")[block.start[rows] + 1]
        emptied = _truncated(block, truncates)
        for oid in {*np.unique(oids).tolist(), *emptied}:
            shape = self._shape(oid)
            if shape is not None and oid in emptied:
                self.truncated[shape.table] = transactions[int(block.number[emptied[oid][-1][0]])].xid
            if shape is not None:
                self.tables[shape.table] = (
                    oid  # only tables with changes: partitions are described too, next to their root
                )
            if shape is not None and len(mine := rows[oids == oid]):
                xid = transactions[int(block.number[mine[0]])].xid
                self.described.setdefault(shape.table, {}).setdefault(tuple(shape.change.values.names), xid)
            if shape is not None and not self._add_table(block, shape, rows[oids == oid], emptied.get(oid, ())):
                return False
        return True

    def _shape(self, oid: int) -> Shape | None:
        if oid not in self._shapes:
            raise SourceError(
                "read the slot", f"a change of relation {oid}, which was not described", "report it as a bug"
            )
        return self._shapes[oid]

    def _add_table(self, block: _Block, shape: Shape, rows: Any, emptied: Sequence[tuple[int, int]]) -> bool:
        at = 0
        for row, ordinal in emptied:
            stop = int(np.searchsorted(rows, row))
            if stop > at and not self._spool(block, shape, rows[at:stop]):
                return False
            batch = _truncate(shape, block, row, ordinal)
            if not self.spool.add(shape.table, shape.change, batch):
                return False
            at = stop
        return at >= len(rows) or self._spool(block, shape, rows[at:])

    def _spool(self, block: _Block, shape: Shape, rows: Any) -> bool:
        return self.spool.add(shape.table, shape.change, _Rows(block, shape, rows).batch())


def resync_todo(tables: Sequence[str]) -> str:
    named = " ".join(f"--table {shlex.quote(table)}" for table in tables)
    # not quoted as a whole, as a glob in it has quotes of its own: it can be copied as it is
    return f"run dpone cdc resync PIPELINE {named} and then dpone run (docs/connectors/postgres-cdc.md)"


def require_same_table(tables: Mapping[str, int], table: str, oid: int) -> None:
    """PG-19: a recreated table is another table, and a renamed one would continue in another target. Raises
    IdentityChanged."""
    todo = resync_todo([table])
    if tables.get(table, oid) != oid:
        found = f"it was dropped and recreated (its oid was {tables[table]}, and is {oid})"
        raise IdentityChanged(f"read changes of table {table}", found, todo)
    if before := [name for name, known in tables.items() if known == oid and name != table]:
        raise IdentityChanged(f"read changes of table {table}", f"it was renamed from {before[0]}", todo)


def _truncated(block: _Block, rows: Any) -> dict[int, list[tuple[int, int]]]:
    """Message number and ordinal of each TRUNCATE, by table; one message may name many tables (PG-12)."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row in rows.tolist():
        message = block.message(row)
        count = int.from_bytes(message[1:5], "big")
        for i, oid in enumerate(struct.unpack(f"!{count}I", message[6 : 6 + 4 * count])):
            found.setdefault(oid, []).append((row, int(block.ordinal[row]) - count + 1 + i))
    return found


def _truncate(shape: Shape, block: _Block, row: int, ordinal: int) -> pa.RecordBatch:
    number = int(block.number[row])
    own = {
        OPERATION: pa.array(["truncate"]),
        COMMIT: block.marks.slice(number, 1),
        ORDINAL: pa.array([ordinal], pa.int64()),
        COMMITTED_AT: block.times.slice(number, 1),
    }
    columns = [own[f.name] if f.name in own else pa.nulls(1, f.type) for f in shape.schema]
    return pa.RecordBatch.from_arrays(columns, schema=shape.schema)


@define
class _Tuple:
    """One column of the rows: kind byte, offset of the value, and its length (-1: no value)."""

    kind: Any
    at: Any
    length: Any

    def over(self, there: Any, other: _Tuple) -> _Tuple:
        """The other's cells where ``there`` is true."""
        return _Tuple(
            np.where(there, other.kind, self.kind), np.where(there, other.at, self.at),
            np.where(there, other.length, self.length),
        )  # fmt: skip


class _Rows:
    """Inserts, updates and deletes of one table, in order."""

    def __init__(self, block: _Block, shape: Shape, rows: Any) -> None:
        self._block, self._shape, self._rows = block, shape, rows
        self._bytes, self._sizes = np.frombuffer(block.data, np.uint8), block.view(">i4")
        self._begin = block.start[rows]
        self._op = block.op[rows]
        tag = self._bytes[self._begin + 5]
        self._old = (tag == _KEY) | (tag == _OLD)  # a tuple with the old values comes first
        self._whole_old = tag == _OLD
        width = len(shape.columns)
        self._before, end = self._walk(self._begin + 6, self._old, width)
        at = np.where(self._old, end, self._begin + 5) + 1  # behind the tag N
        self._after, _ = self._walk(at, self._op != _DELETE, width)
        if self._old.any():
            self._after = [self._filled(n) for n in range(width)]

    def _filled(self, n: int) -> _Tuple:
        """PG-09: unchanged TOAST values are missing in the new tuple. The old tuple may have them: those of the key
        always, others only if it is a whole row (REPLICA IDENTITY FULL)."""
        new, old = self._after[n], self._before[n]
        has = self._old if self._shape.columns[n].name in self._shape.change.key else self._whole_old
        return new.over((new.kind == _UNCHANGED) & has & (old.kind != _UNCHANGED), old)

    def _walk(self, at: Any, there: Any, width: int) -> tuple[list[_Tuple], Any]:
        """The columns of a tuple, which begins with their count, and where it ends."""
        columns, every, at = [], bool(there.all()), at + 2
        none = not there.any()
        for _ in range(width):
            if none:
                columns.append(_Tuple(np.zeros(len(at), np.uint8), self._begin, np.full(len(at), -1)))
                continue
            safe = at if every else np.where(there, at, self._begin)
            kind = self._bytes[safe] if every else np.where(there, self._bytes[safe], 0)
            text = kind == _TEXT
            length = np.where(text, self._sizes[safe + 1], -1)
            columns.append(_Tuple(kind, np.where(text, safe + 5, safe), length))
            at = safe + 1 + np.where(text, length + 4, 0)
        return columns, at

    def batch(self) -> pa.RecordBatch:
        block, schema, n = self._block, self._shape.schema, len(self._rows)
        number = pa.array(block.number[self._rows])
        values = [self._array(i, cells) for i, cells in enumerate(self._after)]
        own = {
            OPERATION: _WORDS.take(pa.array(_INDEX[self._op])),
            COMMIT: block.marks.take(number),
            ORDINAL: pa.array(block.ordinal[self._rows]),
            COMMITTED_AT: block.times.take(number),
            KEY: self._key(values, schema.field(KEY).type),
            UNCHANGED: self._unchanged(schema.field(UNCHANGED).type, n),
            BEFORE: self._whole_before(schema.field(BEFORE).type, n),
        }
        columns = [*(own[name] for name in schema.names[: len(own)]), *values]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _array(self, i: int, cells: _Tuple) -> pa.Array:
        column, type_ = self._shape.columns[i], self._shape.change.values.field(i).type
        raw = _bytes(_Cells(self._block.data, cells.at, cells.length), pa.string())
        try:
            return texts.parse(raw, type_, column.kind)
        except Unstorable as error:
            mark = self._block.marks[int(self._block.number[self._rows[error.row]])].as_py()
            ordinal = int(self._block.ordinal[self._rows[error.row]])
            found = f"column {column.name}, change {mark}/{ordinal}: {error.reason}"
            raise DataError(f"read changes of table {self._shape.table}", found, SPECIAL_TODO) from None

    def _key(self, values: Sequence[pa.Array], type_: pa.StructType) -> pa.Array:
        """The key of the changed row before the change: from the old tuple if there is one, else it did not change."""
        if not len(type_):
            return pa.nulls(len(self._rows), type_)
        columns = []
        for i, column in enumerate(self._shape.columns):
            if column.name in self._shape.change.key:
                cells = self._after[i].over(self._old, self._before[i]) if self._old.any() else None
                columns.append(values[i] if cells is None else self._array(i, cells))
        return pa.StructArray.from_arrays(columns, fields=list(type_), mask=pa.array(self._op == _INSERT))

    def _unchanged(self, type_: pa.StructType, n: int) -> pa.Array:
        masks = [(cells.kind == _UNCHANGED) for cells in self._after]
        if not any(mask.any() for mask in masks):
            return pa.nulls(n, type_)
        return mask_of([f.name for f in type_], [pa.array(mask) for mask in masks], n)

    def _whole_before(self, type_: pa.StructType, n: int) -> pa.Array:
        if not self._whole_old.any():
            return pa.nulls(n, type_)
        columns = [self._array(i, cells) for i, cells in enumerate(self._before)]
        return pa.StructArray.from_arrays(columns, fields=list(type_), mask=pa.array(~self._whole_old))
