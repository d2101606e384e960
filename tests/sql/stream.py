"""Changes of one table as a change reader hands them over, and their way into a target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from attrs import frozen
from tests.sqlite.target import KEY, START, Rows, Target, at, evolve, load

from dpone.contract import Part, Receipt
from dpone.model.changes import ChangeTable, batch_schema
from dpone.model.strategy import Strategy


@frozen
class Change:
    """``values`` of all columns; those of ``left`` are left out. ``met``: the key before, where there was a row."""

    op: str
    values: tuple[Any, ...] | None = None
    met: tuple[Any, ...] | None = None
    left: tuple[str, ...] = ()
    timed: bool = True


def when(n: int) -> datetime:
    """The commit of the n-th change of a window."""
    return START + timedelta(minutes=1, seconds=n)


def batches(table: ChangeTable, changes: Sequence[Change], sizes: Iterable[int] = ()) -> Rows:
    """Three changes to a commit. ``sizes``: rows of the batches; the last takes the rest."""
    schema = batch_schema(table)
    rows = [_row(table, n, change) for n, change in enumerate(changes)]
    whole = pa.Table.from_arrays([array([r[f.name] for r in rows], f.type) for f in schema], schema=schema)
    pieces, start = [], 0
    for size in (*sizes, len(rows)):
        pieces += whole.slice(start, size).combine_chunks().to_batches()
        start += size
    return Rows(schema, pieces)


def array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """As ``pa.array``, which makes no structs of uuids."""
    if not pa.types.is_struct(type_):
        return pa.array(values, type_)
    columns = [array([v and v[f.name] for v in values], f.type) for f in type_]
    return pa.StructArray.from_arrays(
        columns, fields=list(type_), mask=pa.array([v is None for v in values], pa.bool_())
    )


def _row(table: ChangeTable, n: int, change: Change) -> dict[str, Any]:
    names = table.values.names
    values = dict(zip(names, change.values or (None,) * len(names), strict=True))
    return {
        "__dpone__op": change.op,
        "__dpone__event_id": f"e{n}",
        "__dpone__commit": f"{n // 3:08d}",
        "__dpone__ordinal": n % 3 + 1,
        "__dpone__committed_at": when(n) if change.timed else None,
        "__dpone__key": change.met and dict(zip(table.key, change.met, strict=True)),
        "__dpone__unchanged": {name: name in change.left for name in names} if change.left else None,
        "__dpone__before": None,
        **{name: None if name in change.left else value for name, value in values.items()},
    }


def deliver(
    target: Target,
    table: ChangeTable,
    changes: Sequence[Change],
    strategy: Strategy,
    *,
    sizes: Iterable[int] = (),
    load_id: str = "",
    started: datetime = START,
    whole: bool = False,
    **options: Any,
) -> Receipt:
    """One window of changes, as the engine delivers it: evolve, open, stage, commit."""
    sink = target.sink(strategy, **options)
    with closing(sink):
        evolve(sink, table.values, strategy)
        given = {"changes": True, "repeatable": True, "whole": whole, "started_at": started}
        writer = sink.open(load(table.values, strategy, load_id=load_id, **given))
        try:
            writer.stage(Part(target.table), batches(table, changes, sizes))
            return writer.commit(sink.journal(KEY), at(0))
        except BaseException:
            writer.abort()
            raise
