"""What the SQL sink refuses rather than guess: each is one clear error, and the target stays as it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from tests.sqlite.target import KEY, Target, at, evolve, load, rows

from dpone.connectors.sqlite.database import SqliteDatabase, SqliteDialect
from dpone.contract import Part
from dpone.errors import ConfigError, SinkError, UndoRefused
from dpone.model.evolution import SchemaChange
from dpone.model.pipeline import Lineage, Undo
from dpone.model.schema import Name
from dpone.model.strategy import Strategy

APPEND = Strategy("append")
ROWS = pa.table({"id": pa.array([1, 2, 3])})


def test_a_sink_without_a_table_is_refused(target: Target) -> None:
    """The pipeline file must name the table."""
    spec = target.sink(APPEND)._spec
    object.__setattr__(spec, "table", None)
    with pytest.raises(ConfigError, match="no table; set table: name"):
        type(target.sink(APPEND))(spec)


def test_a_change_without_a_statement_is_refused() -> None:
    """A change of a column that no statement makes is named; nothing is left out in silence."""
    lost = SchemaChange("drop", "a", pa.field("a", pa.int64()), None)
    with pytest.raises(SinkError, match="the database cannot make the change"):
        SqliteDialect().statements(Name(("t",)), lost)


def test_rows_after_the_end_of_a_load_are_refused(target: Target) -> None:
    """A writer that has committed, or was aborted, takes no more rows."""
    for end in ("commit", "abort"):
        with closing(target.sink(APPEND)) as sink:
            evolve(sink, ROWS.schema, APPEND)
            writer = sink.open(load(ROWS.schema, APPEND))
            writer.stage(Part("a"), rows(ROWS))
            if end == "commit":
                writer.commit(sink.journal(KEY), at(1))
            else:
                writer.abort()
            with pytest.raises(SinkError, match="the load has ended or has no rows; start a new load"):
                writer.stage(Part("b"), rows(ROWS))
    assert target.rows("id") == [(1,), (2,), (3,)]


def test_a_writer_of_another_sink_is_not_part_of_a_commit(target: Target, tmp_path: Path) -> None:
    """Only writers over one connection can be one transaction; another is a mistake of the code that calls."""
    with closing(target.sink(APPEND)) as sink:
        evolve(sink, ROWS.schema, APPEND)
        writer = sink.open(load(ROWS.schema, APPEND))
        writer.stage(Part("a"), rows(ROWS))
        with pytest.raises(TypeError, match="object is not a SqlWriter"):
            writer.commit(None, at(1), [object()])  # type: ignore[list-item]
    assert target.rows("id") == []


def test_a_row_can_only_be_kept_where_its_load_is_known(target: Target) -> None:
    """Undo tells rows by the load that wrote them: without lineage it is refused, before a row is changed."""
    options: dict[str, Any] = {"undo": Undo(loads=1), "lineage": Lineage(False)}
    with pytest.raises((SinkError, ConfigError), match="lineage"):
        target.load(ROWS, Strategy("merge", key="id"), **options)
    assert not target.path.exists() or "orders" not in target.tables() or target.rows("id") == []


def test_a_target_is_held_before_its_rows_are_kept(target: Target) -> None:
    """What is kept of a row is what the load then changes: nobody may change the table in between, so one that cannot
    be held keeps nothing and stays as it was."""
    target.load(ROWS, APPEND, undo=Undo(loads=1))
    held: list[Name] = []

    def refuse(db: SqliteDatabase, table: Name) -> None:
        held.append(table)
        raise SinkError("hold the table", "somebody writes it", "wait")

    with patch.object(SqliteDatabase, "hold", refuse), pytest.raises(SinkError, match="somebody writes it"):
        target.load(pa.table({"id": pa.array([4])}), APPEND, undo=Undo(loads=1))
    assert [str(one) for one in held] == ["orders"]
    assert target.rows("id") == [(1,), (2,), (3,)]


def test_a_load_of_a_table_that_is_gone_is_not_taken_back(target: Target) -> None:
    """Somebody dropped the table: there is nothing to take the load out of."""
    on = {"undo": Undo(loads=1)}
    load_id = target.load(ROWS, APPEND, **on).entry.load_id
    target.run("DROP TABLE orders")
    with closing(target.sink(APPEND, **on)) as sink, pytest.raises(UndoRefused, match="table orders does not exist"):
        sink.undo_plan(KEY, load_id)
