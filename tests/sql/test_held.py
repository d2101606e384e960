"""Rows that a step looks at before it changes them: nobody else writes the table from the look to the commit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve
from tests.sqlite.target import KEY, Target, at, load, rows

from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.contract import Part
from dpone.model.evolution import SchemaChange
from dpone.model.pipeline import Undo
from dpone.model.strategy import Strategy

MERGE = Strategy("merge", key="id")
TABLE = pa.table({"id": [1, 2], "day": pa.array([0, 1], pa.date32())})


def keep(sink: SqliteSink) -> None:
    writer = sink.open(load(TABLE.schema, MERGE))
    writer.stage(Part("all"), rows(TABLE.slice(1)))
    writer.commit(sink.journal(KEY), at(1))


def undo(sink: SqliteSink) -> None:
    head = sink.journal(KEY)
    assert head is not None
    sink.undo(load(None, MERGE), head.load_id, head, at(-1, epoch=1))


def widen(sink: SqliteSink) -> None:
    before = pa.field("day", pa.date32())
    sink.apply(sink.ddl([SchemaChange("widen", "day", before, before.with_type(pa.timestamp("us")))]))


def take_back(sink: SqliteSink) -> None:
    added = load(pa.schema([("id", pa.int64()), ("new", pa.int64())]), MERGE)
    sink.provide(added, sink.ddl([SchemaChange("add", "new", after=pa.field("new", pa.int64()))]))
    assert [one.stays for one in sink.take_back(KEY)] == [""]


def move(sink: SqliteSink) -> None:
    head = sink.journal(KEY)
    assert head is not None
    sink.move(KEY, head, "new", None, evolve(head, seq=head.seq + 1, load_id="GONE"))


@pytest.mark.parametrize("step", [keep, undo, widen, take_back, move])
def test_a_table_is_held_before_its_rows_are_looked_at(
    target: Target, monkeypatch: pytest.MonkeyPatch, step: Callable[[SqliteSink], None]
) -> None:
    """By a load that keeps what it replaces, by its undo, by a type that all rows must fit, and where a column is taken
    back that must be empty; the journal, where a key gets another name. SQLite needs no such lock, so that here only
    the order is seen."""
    target.load(TABLE, MERGE, undo=Undo(loads=2))
    said: list[str] = []

    def spy(name: str, note: Callable[..., None]) -> None:
        real = getattr(SqliteDatabase, name)

        def spied(db: SqliteDatabase, *given: Any) -> Any:
            note(*given)
            return real(db, *given)

        monkeypatch.setattr(SqliteDatabase, name, spied)

    spy("begin", lambda lock: said.append("begin"))
    spy("execute", lambda sql, values=(): said.append(sql))
    spy("rows", lambda sql, values=(): said.append(sql))
    spy("hold", lambda table: said.append(f"hold {table}"))
    with closing(target.sink(MERGE, undo=Undo(loads=2))) as sink:
        step(sink)
    table = "__dpone__loads" if step is move else "orders"
    held = said.index(f"hold {table}")
    begun = max(n for n, sql in enumerate(said[:held]) if sql == "begin")
    looked = [n for n, sql in enumerate(said) if n > begun and f'FROM "{table}"' in sql]
    assert held < min(looked)
