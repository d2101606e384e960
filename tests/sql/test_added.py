"""What is written before DDL that commits by itself: by names alone, and durable before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from tests.sqlite.target import Target, load
from tests.testing.ddl_commits import CommittingSink

from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.model.evolution import SchemaChange
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql.provisional import Added

ONE, TWO = (pa.schema([pa.field(name, pa.int64()) for name in names]) for names in (["id"], ["id", "x"]))


@pytest.fixture
def added(tmp_path: Path) -> Iterator[Added]:
    with closing(SqliteDatabase(tmp_path / "t.db", 5.0)) as db:
        one = Added(db, Name(("orders",)))
        one.create()
        yield one


def lines(added: Added) -> list[tuple[str, str]]:
    return [(line.column, line.key) for line in added.lines()]


def test_a_name_is_written_before_its_column_is_made(added: Added) -> None:
    """What another stream added under the name is gone from the target, or it would not be made again; its line goes.
    Lines of columns that are there stay."""
    added.expect(load(TWO, Strategy("append"), key="old"), ONE, ["own"])
    assert lines(added) == [("own", "old"), ("x", "old")]
    added.expect(load(TWO, Strategy("append"), key="new"), ONE, [])
    assert lines(added) == [("own", "old"), ("x", "new")]


def test_a_table_that_is_made_has_no_other_lines(added: Added) -> None:
    """Whatever was added to an earlier table of the name went with it."""
    added.expect(load(TWO, Strategy("append"), key="old"), ONE, ["own"])
    added.expect(load(TWO, Strategy("append"), key="new"), None, [])
    assert lines(added) == [("", "new")]


def test_OUT_15_a_run_without_ddl_takes_back_nothing(tmp_path: Path) -> None:
    """Where DDL commits by itself, a line is written for a run only if the run has DDL: a table that somebody else
    creates after such a run is not dropped, even if it is empty."""
    target, append = Target(tmp_path / "t.db"), Strategy("append")
    with closing(target.sink(append)) as plain, closing(CommittingSink(plain._spec)) as sink:
        sink.provide(load(ONE, append, key="other"), sink.ddl([SchemaChange("create", schema=ONE)]))
        target.run("DROP TABLE orders")
        sink.provide(load(ONE, append, key="late"), [])
        target.run("CREATE TABLE orders (id BIGINT)")
        assert sink.take_back("late") == ()
    assert "orders" in target.tables()
