"""The conformance kit against PostgreSQL: green for what the plugin declares, and for nothing else."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from dpone.contract import CDCReader, ChangeWindow
from dpone.model import changes
from dpone.testing import CDCContract, RouteContract, SinkContract, SourceContract, StateContract, case
from dpone.testing.cdc import delete, insert, update
from dpone_postgres.testing import PostgresLogicalHarness


class TestPostgresSource(SourceContract):
    connector = "postgres"


class TestPostgresSink(SinkContract):
    connector = "postgres"


class TestPostgresState(StateContract):
    connector = "postgres"


class TestPostgresLogical(CDCContract):
    connector = "postgres_logical"

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


class TestFileToPostgres(RouteContract):
    ends = ("file", "postgres")


class TestSqliteToPostgres(RouteContract):
    ends = ("sqlite", "postgres")


class TestPostgresToFile(RouteContract):
    ends = ("postgres", "file")


class TestPostgresToSqlite(RouteContract):
    ends = ("postgres", "sqlite")


class TestPostgresToPostgres(RouteContract):
    ends = ("postgres", "postgres")
