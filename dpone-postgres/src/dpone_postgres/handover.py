"""The existing rows when a stream starts, without a gap to its changes: read in the snapshot of a slot's creation.

A temporary slot is created with USE_SNAPSHOT: the transaction sees what was committed before the slot's consistent
point, and nothing else. The stream continues after that point, from the permanent slot that was created before. The
temporary slot ends with its connection, so that an interrupted run can simply repeat this.
https://www.postgresql.org/docs/current/protocol-replication.html (CREATE_REPLICATION_SLOT)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice

import pyarrow as pa

from dpone.cdc.spool import Spool
from dpone.errors import DataError, SourceError
from dpone.model.changes import (
    COMMIT,
    COMMITTED_AT,
    EVENT_ID,
    OPERATION,
    ORDINAL,
    ChangeTable,
    batch_schema,
)
from dpone.model.ids import ulid
from dpone.sql.values import Unstorable
from dpone_postgres import binary
from dpone_postgres.connect import connect
from dpone_postgres.database import PostgresDialect
from dpone_postgres.errors import failing
from dpone_postgres.pgoutput import SPECIAL_TODO, lsn_number, mark
from dpone_postgres.publication import Published
from dpone_postgres.transfer import copy_out
from dpone_postgres.types import SPECIAL, Column
from dpone_postgres.waiting import Connection

_BATCH_ROWS = 10_000
DIALECT = PostgresDialect()


@contextmanager
def at_slot(
    given: Mapping[str, str], tables: Sequence[Published], failed: str, **limits: float
) -> Iterator[tuple[Connection, int]]:
    """A transaction that sees what was committed before the LSN, and nothing else. Waits for open writing transactions,
    up to ``lock_timeout`` seconds. The tables are locked before the snapshot is taken: to an older snapshot, a table
    looks empty after TRUNCATE or after an ALTER that rewrites it (MVCC Caveats)."""
    db = connect({**given, "replication": "database"}, SourceError, row_security="off", **limits)
    try:
        name = f"dpone_snapshot_{ulid().lower()}"
        with failing(SourceError, failed):
            db.doing = "CREATE_REPLICATION_SLOT"
            db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            locked = ", ".join(f"{'' if t.kind == 'p' else 'ONLY '}{DIALECT.name(t.name)}" for t in tables)
            db.execute(f"LOCK TABLE {locked} IN ACCESS SHARE MODE".encode())
            sql = f"CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT"
            [(_, point, *_)] = db.execute(sql.encode()).fetchall()
        yield db, lsn_number(point)
    finally:
        db.close()


class SnapshotTable:
    """Reads every row of a table as an insert. ``text``: dates, times and numerics are read as text."""

    def __init__(self, table: Published, columns: Sequence[Column], text: bool) -> None:
        self._table, self._columns = table, columns
        self._as_text = [c.as_text or (text and c.kind in SPECIAL) for c in columns]
        fields = [c.field(text=text and c.kind in SPECIAL) for c in columns]
        self.change = ChangeTable(pa.schema(fields), tuple(n for n in table.columns if n in table.key))

    def spool(self, db: Connection, spool: Spool, point: int, at: datetime, ordinal: int) -> int:
        """Spool the rows as changes of the commit at ``point``, numbered after ``ordinal``. Returns the last ordinal.
        Raises SourceError, DataError."""
        failed, name = f"read table {self._table.name}", str(self._table.name)
        pairs = zip(self._columns, self._as_text, strict=True)
        kinds = ["text" if as_text else c.kind or "text" for c, as_text in pairs]
        rows = copy_out(db, self._select())
        while True:
            with failing(SourceError, failed):
                chunk = list(islice(rows, _BATCH_ROWS))
            if not chunk:
                return ordinal
            try:
                values = binary.decode(chunk, self.change.values, kinds)
            except Unstorable as error:
                found = f"column {error.column}, row {error.row + 1:,} of a block: {error.reason}"
                raise DataError(failed, found, SPECIAL_TODO) from None
            spool.add(name, self.change, _inserts(values, self.change, point, at, ordinal))
            ordinal += values.num_rows

    def _select(self) -> str:
        """Selects the rows as the stream would deliver them: its columns, its filter, texts by the type's output
        function (a cast to text may differ: inet). IS DISTINCT FROM, because a composite value with a NULL field is not
        NULL itself (functions-comparison). ONLY, because a publication takes an ordinary table without its children."""
        words = []
        for column, text in zip(self._columns, self._as_text, strict=True):
            quoted = DIALECT.quote(column.name)
            shown = f"CASE WHEN {quoted} IS DISTINCT FROM NULL THEN format('%s', {quoted}) END"
            words.append(shown if text else quoted)
        only = "" if self._table.kind == "p" else "ONLY "
        condition = f" WHERE {self._table.filter}" if self._table.filter else ""
        return f"SELECT {', '.join(words)} FROM {only}{DIALECT.name(self._table.name)}{condition}"


def _inserts(values: pa.RecordBatch, change: ChangeTable, point: int, at: datetime, ordinal: int) -> pa.RecordBatch:
    rows = values.num_rows
    schema = pa.schema([f for f in batch_schema(change) if f.name != EVENT_ID])
    own = {
        OPERATION: pa.repeat("insert", rows), COMMIT: pa.repeat(mark(point), rows),
        ORDINAL: pa.array(range(ordinal + 1, ordinal + 1 + rows), pa.int64()),
        COMMITTED_AT: pa.repeat(pa.scalar(at, pa.timestamp("us", "UTC")), rows),
        **dict(zip(values.schema.names, values.columns, strict=True)),
    }  # fmt: skip
    columns = [own[f.name] if f.name in own else pa.nulls(rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
