"""A topic as a change stream: keyed rows with tombstones, and envelopes of Debezium."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from attrs import evolve, frozen
from tests.kafka.reading import Run
from tests.kafka.test_runs import STEPS

from dpone.contract import ChangeWindow
from dpone.errors import ConfigError, DataError, Gap, IdentityChanged
from dpone.model.pipeline import Incremental
from dpone.model.position import Position
from dpone_kafka.changes import KafkaChanges
from dpone_kafka.config import KafkaSourceOptions, Layout, Poison
from dpone_kafka.testing import KafkaHarness

CDC = Incremental("cdc").read_by(True)
KEY = Layout(columns={"id": "bigint"})
ROWS: Mapping[str, Any] = {"key": KEY, "value": Layout(columns={"name": "text"}), "tombstones": "delete"}
DEBEZIUM: Mapping[str, Any] = {"value": Layout("debezium")}
PIPELINE = """
pipeline: p
state: {{type: file, path: state}}
source: {{type: kafka, connection: "{servers}", topic: {topic}, options: {{incremental: {{by: cdc}}, {options}}}}}
sink: {{type: sqlite, connection: "sqlite:///t.db", table: t, strategy: {{mode: cdc_apply{strategy}}}}}
runtime: {{retries: 0, batch_rows: 10}}
"""
OF_ROWS = "key: {columns: {id: bigint}}, value: {columns: {name: text}}, tombstones: delete"


@frozen
class Changes:
    window: ChangeWindow
    rows: list[dict[str, Any]]

    def short(self, *names: str) -> list[tuple[Any, ...]]:
        """Operation, key, and the values of some columns."""
        return [
            (r["__dpone__op"], (r["__dpone__key"] or {}).get("id"), *(r.get(name) for name in names)) for r in self.rows
        ]


def reader(harness: KafkaHarness, topic: str = "t", **options: Any) -> KafkaChanges:
    made = KafkaSourceOptions(incremental=CDC, **(options or ROWS))
    return KafkaChanges(evolve(harness.source(), topic=harness.topic(topic), options=made))


def changes(harness: KafkaHarness, after: Position | None = None, limit: int | None = None, **options: Any) -> Changes:
    with closing(reader(harness, **options)) as one:
        window = one.window(after, limit)
        found: list[dict[str, Any]] = []
        for table in window.tables:
            with one.read(table) as stream:
                found += [row for batch in stream.batches() for row in batch.to_pylist()]
        return Changes(window, found)


def topic(harness: KafkaHarness, partitions: int = 1, name: str = "t") -> str:
    harness.make_topic(made := harness.topic(name), partitions)
    return made


def put(harness: KafkaHarness, *rows: tuple[int, str | None], partition: int = 0) -> None:
    """Records of keyed rows; None: a tombstone."""
    send(harness, *(({"id": id}, None if name is None else {"name": name}) for id, name in rows), partition=partition)


def send(harness: KafkaHarness, *records: tuple[Any, Any], partition: int = 0) -> None:
    as_bytes = [tuple(None if one is None else json.dumps(one).encode() for one in record) for record in records]
    harness.send(harness.topic("t"), [(key, value, partition) for key, value in as_bytes])


# ---- keyed rows


def test_a_tombstone_deletes_the_row_of_its_key(harness: KafkaHarness) -> None:
    """Records are changes in the order of their offsets: a value replaces the row of its key, a tombstone deletes it;
    the next window begins where this one ended."""
    topic(harness)
    put(harness, (1, "a"), (2, "b"), (1, "c"), (2, None))
    found = changes(harness)
    assert found.short("id", "name") == [
        ("insert", None, 1, "a"), ("insert", None, 2, "b"), ("insert", None, 1, "c"), ("delete", 2, None, None),
    ]  # fmt: skip
    assert found.window.caught_up
    assert [row["__dpone__event_id"].rsplit("/", 2)[1] for row in found.rows] == [
        f"0000000000-{n:019d}" for n in range(4)
    ]
    assert changes(harness, found.window.position).window.tables == {}
    put(harness, (3, "d"))
    assert changes(harness, found.window.position).short("id") == [("insert", None, 3)]
    skipped = changes(harness, **{**ROWS, "tombstones": "skip"})
    assert [one[0] for one in skipped.short()] == ["insert"] * 4
    assert "skipped 1 record without a change" in skipped.window.proof


def test_a_limit_ends_a_window_early(harness: KafkaHarness) -> None:
    """So many records, and the rest in later windows; each record comes once."""
    topic(harness, 2)
    put(harness, (1, "a"), (2, "b"), (3, "c"))
    put(harness, (4, "d"), (5, "e"), partition=1)
    seen, position = [], None
    for _ in range(3):
        found = changes(harness, position, 2)
        seen += [row["id"] for row in found.rows]
        position = found.window.position
    assert (sorted(seen), found.window.caught_up) == ([1, 2, 3, 4, 5], True)


def test_a_key_of_two_partitions_is_refused(harness: KafkaHarness) -> None:
    """Nobody knows which of its records is the later one: also where one is a tombstone, and where the texts of the
    keys differ. Different keys in different partitions are fine."""
    name = topic(harness, 3)
    put(harness, (1, "a"), (-1, "c"))
    put(harness, (2, "b"), (-2, "d"), partition=1)
    assert len(changes(harness).rows) == 4
    harness.send(name, [(b'{ "id": 1 }', None, 2)])
    with pytest.raises(DataError, match="a key is in partition 2 and in another one"):
        changes(harness)


def test_partitions_that_are_added_are_read_with_all_others(harness: KafkaHarness) -> None:
    """A key may have moved to a new partition, so a limit does not hold back what the old one still has."""
    name = topic(harness)
    put(harness, (1, "a"))
    position = changes(harness).window.position
    put(harness, (2, "b"), (3, "c"), (4, "d"))
    harness.call(lambda admin: admin.create_partitions({name: NewPartitions(2)}))
    put(harness, (5, "e"), partition=1)
    found = changes(harness, position, 1)
    assert ([row["id"] for row in found.rows], found.window.caught_up) == ([2, 3, 4, 5], True)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ((None, b"{}"), "key: it has no value for 'id'"),
        ((b'{"no": 1}', None), "key: it has no value for 'id'"),
        ((b'{"id": "x"}', b"{}"), "key: its member 'id' is not a valid int64"),
        ((b'{"id": 1}', b"{"), "value: it is not a JSON object"),
    ],
)
def test_a_record_that_cannot_be_read_stops_the_stream(
    harness: KafkaHarness, record: tuple[bytes | None, bytes | None], found: str
) -> None:
    """With its place and the reason; the error does not advise to leave it out, since the row would be wrong."""
    name = topic(harness)
    put(harness, (1, "a"))
    harness.send(name, [(*record, 0)])
    with pytest.raises(DataError, match=found) as caught:
        changes(harness)
    assert "offset 1" in caught.value.failed
    assert "quarantine" not in caught.value.todo


def test_gaps_and_positions_of_others_stop_the_stream(harness: KafkaHarness) -> None:
    """A change that retention removed is a Gap; a position of the source of rows, or of another topic, is refused."""
    name = topic(harness)
    put(harness, (1, "a"), (2, "b"))
    first = changes(harness, None, 1).window.position
    for other in (evolve(first, kind="kafka"), evolve(first, identity={"of": "something else"})):
        with pytest.raises(IdentityChanged):
            changes(harness, other)
    put(harness, (3, "c"))
    harness.call(lambda admin: admin.delete_records({TopicPartition(name, 0): RecordsToDelete(2)}))
    with pytest.raises(Gap, match="were removed by retention before they were read"):
        changes(harness, first)


def test_create_makes_nothing_and_drop_drops_nothing(harness: KafkaHarness) -> None:
    """A topic is there or not: its stream begins at its first record, whatever was read; close may be called twice."""
    topic(harness)
    put(harness, (1, "a"))
    with closing(reader(harness)) as one:
        begin = one.create()
        assert (one.lag(), one.setup_plan()) == ({"log_records": 1}, [])
        assert [finding.ok for finding in one.check()] == [True] * len(one.check())
        assert "kept topic" in one.drop()[0]
        one.close()
    assert changes(harness, begin).short("id") == [("insert", None, 1)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"tombstones": "delete"}, "delete without a change stream"),
        ({"value": Layout("debezium")}, "debezium without a change stream"),
        ({"key": Layout("debezium")}, "debezium is a format of values"),
        ({"incremental": Incremental("cursor", "id")}, "by: cursor"),
        ({"incremental": CDC, "tombstones": "delete"}, "needs the key"),
        ({"incremental": CDC, "key": KEY}, "cannot keep them as rows"),
        ({"incremental": CDC, **ROWS, "poison": Poison("quarantine")}, "leaves a wrong row"),
        ({"incremental": CDC, **ROWS, "max_records": 1}, "by: cdc"),
        ({"incremental": CDC, **ROWS, "value": Layout(infer=True)}, "infer is not supported"),
        ({"incremental": CDC, **DEBEZIUM, "key": KEY}, "has the columns of the table"),
        ({"incremental": CDC, **DEBEZIUM, "metadata": ("offset",)}, "has the columns of the table"),
        ({"incremental": CDC, **DEBEZIUM, "tombstones": "delete"}, "delete with format debezium"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: Mapping[str, Any], found: str) -> None:
    """Each by its name, before anything is connected."""
    with pytest.raises(ConfigError, match=found):
        KafkaSourceOptions(**options)


# ---- whole runs


def lay(harness: KafkaHarness, options: str = OF_ROWS, strategy: str = "") -> Path:
    path = harness.folder / "p.yaml"
    given = {"servers": harness.url, "topic": harness.topic("t"), "options": options, "strategy": strategy}
    path.write_text(PIPELINE.format(**given))
    return path


def table(harness: KafkaHarness, columns: str = "id, name") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(harness.folder / "t.db")) as db:
        return db.execute(f"SELECT {columns} FROM t ORDER BY 1").fetchall()


@pytest.mark.kafka
@pytest.mark.parametrize("step", STEPS)
def test_KA_02_a_change_stream_killed_at_any_step_is_applied_once(run: Run, harness: KafkaHarness, step: str) -> None:
    """Wherever a run is killed, and whatever comes before the next one: the target has the last record of each key of
    two partitions, and no row whose last record is a tombstone."""
    topic(harness, 2)
    pipeline = lay(harness)
    put(harness, *((n, "first") for n in range(30)))
    assert run(pipeline)["code"] == 0
    put(harness, *((n, "second") for n in range(10, 25)), *((n, None) for n in range(20, 30)))
    put(harness, *((n, "other") for n in range(100, 120)), (100, None), partition=1)
    assert run(pipeline, step=step)["code"] == -9, step
    put(harness, (20, "again"), (0, None))
    put(harness, (101, None), partition=1)
    done = run(pipeline)
    assert done["code"] == 0, done
    wanted = dict.fromkeys(range(1, 10), "first") | dict.fromkeys(range(10, 20), "second") | {20: "again"}
    assert table(harness) == [*wanted.items(), *((n, "other") for n in range(102, 120))]


def test_a_full_refresh_applies_the_whole_topic(run: Run, harness: KafkaHarness) -> None:
    """The rows are the result of all records on an empty table; without a change a run does nothing."""
    topic(harness)
    pipeline = lay(harness, strategy=", deletes: soft")
    put(harness, (1, "a"), (2, "b"), (1, None))
    assert run(pipeline)["code"] == 0
    assert run(pipeline)["code"] == 0
    assert [row[:1] for row in table(harness, "id, __dpone__deleted_at IS NULL") if row[1]] == [(2,)]
    put(harness, (1, "c"))
    assert run(pipeline, options={"full_refresh": True})["code"] == 0
    assert table(harness, "id, name, __dpone__deleted_at") == [(1, "c", None), (2, "b", None)]


def test_metadata_are_columns_of_the_rows(harness: KafkaHarness) -> None:
    """If they are asked for; a change stream has none by default."""
    topic(harness)
    put(harness, (1, "a"), (1, None))
    found = changes(harness, **ROWS, metadata=("offset",))
    assert found.short("kafka_offset") == [("insert", None, 0), ("delete", 1, None)]
    assert "kafka_offset" not in changes(harness).rows[0]
