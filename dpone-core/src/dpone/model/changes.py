"""Change batches: the Arrow schema in which every change stream delivers its rows. Part of the contract.

One row is one change of one row, in commit order; ``truncate`` is a change of the whole table. In addition to the
table's own columns a batch has:

    __dpone__op            ``insert``, ``update``, ``delete``, ``truncate``
    __dpone__event_id      the change, by name: equal in every reading of the log, different for every other change
    __dpone__commit        mark of the commit: text that sorts as the source commits
    __dpone__ordinal       the change's number within its commit, from 1, over all tables
    __dpone__committed_at  when the source committed, UTC; NULL if the log does not contain it
    __dpone__key           struct of the key columns before the change: identifies the changed row. NULL for
                           ``insert``, ``truncate``, and a table without key
    __dpone__unchanged     struct of booleans, one per column of the table. True: the log left the value out, because it
                           did not change or because the row's shape did not have it yet; the column is then NULL here,
                           and must be kept, not nulled. NULL: the log gave every value
    __dpone__before        struct of the table's columns before the change; NULL if the log does not contain it

A ``delete`` has NULL in the table's columns; ``__dpone__key`` identifies its row. An ``update`` whose key columns
differ from ``__dpone__key`` changes the key of the row. (``__dpone__commit``, ``__dpone__ordinal``) orders all changes
of a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    import pyarrow as pa


from typing import TYPE_CHECKING

import pyarrow as pa

from dpone.model.schema import PREFIX

OPERATION = PREFIX + "op"
EVENT_ID = PREFIX + "event_id"
COMMIT = PREFIX + "commit"
ORDINAL = PREFIX + "ordinal"
COMMITTED_AT = PREFIX + "committed_at"
KEY = PREFIX + "key"
UNCHANGED = PREFIX + "unchanged"
BEFORE = PREFIX + "before"

INSERT, UPDATE, DELETE, TRUNCATE = OPERATIONS = ("insert", "update", "delete", "truncate")

# The columns that identify a change; they come before the table's own columns.
IDENTITY = pa.schema(
    [
        pa.field(OPERATION, pa.string(), nullable=False),
        pa.field(EVENT_ID, pa.string(), nullable=False),
        pa.field(COMMIT, pa.string(), nullable=False),
        pa.field(ORDINAL, pa.int64(), nullable=False),
        pa.field(COMMITTED_AT, pa.timestamp("us", "UTC")),
    ]
)


def batch_schema(table: ChangeTable) -> pa.Schema:
    """The schema of every batch that ``CDCReader.read`` returns for this table."""
    values = [f.with_nullable(True) for f in table.values]
    key = pa.struct([f for f in values if f.name in table.key])
    unchanged = pa.struct([pa.field(f.name, pa.bool_()) for f in values])
    structs = [pa.field(KEY, key), pa.field(UNCHANGED, unchanged), pa.field(BEFORE, pa.struct(values))]
    return pa.schema([*IDENTITY, *structs, *values])


@frozen
class ChangeTable:
    """One table of a change window.

    values  columns of its rows, all shapes of the window united; a column that not every shape had is nullable
    key     columns by which the log identifies a row; none: it does not identify rows, so the table can only be
            appended
    """

    values: pa.Schema
    key: tuple[str, ...]
