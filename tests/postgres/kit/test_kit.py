"""The conformance kit against PostgreSQL: green for what the plugin declares, and for nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from typing import Any

import pytest
from tests.engine.project import memory_folder
from tests.postgres.kit.harness import PostgresHarness, PostgresLogicalHarness
from tests.postgres.server import Server

from dpone import changes
from dpone.contract import CDCReader, ChangeWindow
from dpone.testing import CDCContract, Harness, RouteContract, SinkContract, SourceContract, StateContract, case
from dpone.testing.builtin import FileHarness, SqliteHarness
from dpone.testing.cdc import delete, insert, update

Make = Callable[[type[Harness]], Harness]
_numbers = count(1)


@pytest.fixture
def make(postgres: Server) -> Iterator[Make]:
    """Makes Harnesses, each with a place of its own, which is gone afterwards."""
    with ExitStack() as stack:

        def one(cls: type[Harness]) -> Harness:
            folder = stack.enter_context(memory_folder())
            if not issubclass(cls, PostgresHarness):
                return cls(folder)  # type: ignore[call-arg]
            harness = cls(postgres, f"dpone_kit_{os.getpid()}_{next(_numbers)}", folder)
            stack.callback(harness.close)
            return harness

        yield one


class TestPostgresSource(SourceContract):
    @pytest.fixture
    def harness(self, make: Make) -> Harness:
        return make(PostgresHarness)


class TestPostgresSink(SinkContract):
    @pytest.fixture
    def harness(self, make: Make) -> Harness:
        return make(PostgresHarness)


class TestPostgresState(StateContract):
    @pytest.fixture
    def harness(self, make: Make) -> Harness:
        return make(PostgresHarness)


class TestPostgresLogical(CDCContract):
    @pytest.fixture
    def harness(self, make: Make) -> Harness:
        return make(PostgresLogicalHarness)

    @case("snapshot_handover")
    def test_a_snapshot_and_the_stream_meet(self, harness: PostgresLogicalHarness) -> None:
        """A first window holds the rows that are there, whatever the slot has of them; the next one what came after
        it was fixed, once."""
        harness.initial = "snapshot"
        harness.change([insert(1, "before"), insert(2, "before"), insert(3, "gone")])
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            reader.create()
            harness.change([update(2, name="between"), delete(3), insert(4, "between")])
            window = reader.window(None, None)
            harness.change([update(1, name="after"), insert(5, "after")])
            rows = [("insert", 1, "before"), ("insert", 2, "between"), ("insert", 4, "between")]
            assert (sorted(told(reader, window)), window.whole) == (rows, True)
            reader.ack(window.position)
            assert told(reader, reader.window(window.position, None)) == [
                ("update", 1, "after"),
                ("insert", 5, "after"),
            ]


def told(reader: CDCReader, window: ChangeWindow) -> list[tuple[Any, ...]]:
    """Operation, id and name of each change of the table ``orders``."""
    [name] = [name for name in window.tables if name.endswith(".orders")]
    with reader.read(name) as stream:
        rows = [row for batch in stream.batches() for row in batch.to_pylist()]
    return [(row[changes.OPERATION], row["id"], row["name"]) for row in rows]


class _Route(RouteContract):
    ends: tuple[type[Harness], type[Harness]]

    @pytest.fixture
    def source(self, make: Make) -> Harness:
        return make(self.ends[0])

    @pytest.fixture
    def sink(self, make: Make) -> Harness:
        return make(self.ends[1])


class TestFileToPostgres(_Route):
    ends = (FileHarness, PostgresHarness)


class TestSqliteToPostgres(_Route):
    ends = (SqliteHarness, PostgresHarness)


class TestPostgresToFile(_Route):
    ends = (PostgresHarness, FileHarness)


class TestPostgresToSqlite(_Route):
    ends = (PostgresHarness, SqliteHarness)


class TestPostgresToPostgres(_Route):
    ends = (PostgresHarness, PostgresHarness)
