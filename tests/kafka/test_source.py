"""What a window of topics holds: its ends, its position, its columns; and what stops it."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from attrs import evolve
from tests.kafka.client import open_transaction, transaction, transactions
from tests.kafka.reading import NEW, TEXT, WHOLE, as_json, read, texts

from dpone.contract import WindowRequest
from dpone.errors import ConfigError, ContentChanged, DataError, Gap, IdentityChanged, SetBack, SourceError
from dpone.model.position import Position
from dpone.model.types import JSON
from dpone_kafka.config import METADATA, KafkaSourceOptions, Layout, Poison
from dpone_kafka.testing import KafkaHarness

pytestmark = pytest.mark.kafka
ORDERS = Layout(columns={"id": "bigint", "name": "varchar(5)"})


def made(harness: KafkaHarness, topic: str = "t", partitions: int = 1, **settings: str) -> str:
    name = f"{harness.prefix}{topic}"
    harness.make_topic(name, partitions, **settings)
    return name


# ---- ends


@pytest.mark.parametrize("last", ["commit marker", "abort marker", "aborted records", "record"])
def test_KA_01_a_window_ends_where_transactions_end(harness: KafkaHarness, last: str) -> None:
    """A topic that ends in a marker of a transaction, or in records that were rolled back, is read to its end: the
    position is after it, with every committed record once, and the next window is empty."""
    topic, servers = made(harness), str(harness.url)
    texts(harness, "t", ["a", "b"])
    transaction(servers, topic, [b"c", b"d"], commit=last in ("commit marker", "record"))
    if last == "record":
        texts(harness, "t", ["e"])
    if last == "aborted records":
        transaction(servers, topic, [b"x"], commit=False)
    wanted = {"commit marker": "abcd", "abort marker": "ab", "aborted records": "ab", "record": "abcde"}[last]
    first = read(harness, "t")
    assert first.column("value") == list(wanted)
    assert first.window.caught_up
    [topics] = first.window.position.value["topics"].values()
    assert topics["next"] == {"0": 5 if last in ("commit marker", "abort marker") else 6 if last == "record" else 7}
    again = read(harness, "t", first.window.position)
    assert (again.window.parts, again.window.position) == ((), first.window.position)


def test_KA_01_an_empty_topic_is_a_window_without_rows(harness: KafkaHarness) -> None:
    """A topic that never had a record, and one whose records are all gone, have no part and a position."""
    name = made(harness, partitions=3)
    assert read(harness, "t").window.parts == ()
    texts(harness, "t", ["a"])
    harness.call(lambda admin: admin.delete_records({TopicPartition(name, 0): RecordsToDelete(-1)}))
    found = read(harness, "t")
    assert (found.rows, found.window.parts) == ([], ())
    assert found.window.position.value["topics"][name]["next"] == {"0": 1, "1": 0, "2": 0}


def test_KA_01_a_topic_that_is_written_without_pause_has_an_end(harness: KafkaHarness) -> None:
    """The end is fixed before the first record: what another program adds meanwhile is in the next window."""
    made(harness)
    texts(harness, "t", ["first"])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            texts(harness, "t", ["later"] * 50)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [read(harness, "t")]
        found.append(read(harness, "t", found[0].window.position))
    finally:
        stop.set()
        writer.join()
    found.append(read(harness, "t", found[1].window.position))
    assert all(one.window.position != two.window.position for one, two in pairwise(found))
    offsets = [one.window.position.value["topics"][f"{harness.prefix}t"]["next"]["0"] for one in found]
    assert [len(one.rows) for one in found] == [offsets[0], offsets[1] - offsets[0], offsets[2] - offsets[1]]


def test_KA_01_transactions_of_one_producer_are_kept_apart(harness: KafkaHarness) -> None:
    """The marker of an aborted transaction ends it: what its producer commits afterwards is read."""
    topic = made(harness)
    transactions(str(harness.url), topic, ([b"x"], False), ([b"a", b"b"], True), ([b"x"], False), ([b"c"], True))
    assert read(harness, "t").column("value") == ["a", "b", "c"]


def test_OUT_09_an_open_transaction_holds_the_window_back(harness: KafkaHarness) -> None:
    """Under read_committed a window ends at the first open transaction and says so: what was committed behind it is
    read when the transaction has ended, each record once. read_uncommitted does not wait."""
    topic = made(harness)
    texts(harness, "t", ["a"])
    with open_transaction(str(harness.url), topic, [b"b"]) as end:
        texts(harness, "t", ["c"])
        held = read(harness, "t")
        assert held.column("value") == ["a"]
        assert not held.window.caught_up
        assert held.window.warnings == (f"an open transaction holds back {topic}, partition 0",)
        assert read(harness, "t", isolation="read_uncommitted").column("value") == ["a", "b", "c"]
        end(True)
    after = read(harness, "t", held.window.position)
    assert (after.column("value"), after.window.caught_up, after.window.warnings) == (["b", "c"], True, ())


# ---- the position


def test_KA_02_KA_07_nothing_is_kept_in_a_consumer_group(harness: KafkaHarness) -> None:
    """The position is the sink's alone: no group is joined, so that nothing is rebalanced, and no offset is committed
    before the rows are."""
    made(harness)
    texts(harness, "t", ["a"])
    before = harness.call(lambda admin: admin.list_consumer_groups())
    read(harness, "t")
    assert harness.call(lambda admin: admin.list_consumer_groups()) == before


def _expired(harness: KafkaHarness, topic: str) -> None:
    texts(harness, "t", ["d", "e"])
    harness.call(lambda admin: admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(4)}))


def _created_again(harness: KafkaHarness, topic: str) -> None:
    harness.delete(topic)
    made(harness, partitions=2)
    texts(harness, "t", ["a", "b", "c", "d"])


def _changed(**change: Any) -> Any:
    def changed(position: Position) -> Position:
        [(name, topic)] = position.value["topics"].items()
        return evolve(position, value={"topics": {name: {**topic, **change}}})

    return changed


def elsewhere(position: Position) -> Position:
    return evolve(position, identity={**position.identity, "cluster": "elsewhere"})


STOPS = {
    "KA-03 retention": (_expired, None, Gap, "offsets 3 to 3 were removed by retention before they were read"),
    "KA-03 beyond the end": (None, _changed(next={"0": 9, "1": 0}), SetBack, "the log ends at offset 3"),
    "KA-03 fewer partitions": (None, _changed(next={"0": 3, "7": 0}), IdentityChanged, "2 partitions, but 8 were read"),
    # This broker shows no ids of topics: the records tell. With ids: test_OUT_02 in test_apache.py.
    "OUT-02 created again": (_created_again, None, ContentChanged, "are not those that were read"),
    "OUT-08 truncated": (None, _changed(marks={"0": "0:00000000"}), ContentChanged, "are not those that were read"),
    "another cluster": (None, elsewhere, IdentityChanged, "cluster elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_KA_03_what_follows_the_position_is_not_there_any_more(harness: KafkaHarness, case: str) -> None:
    """A log that does not go on from the position stops by name, before anything is read."""
    happens, changed, error, found = STOPS[case]
    name = made(harness, partitions=2)
    texts(harness, "t", ["a", "b", "c"])
    position = read(harness, "t").window.position
    if happens is not None:
        happens(harness, name)
    with pytest.raises(error) as caught:
        read(harness, "t", changed(position) if changed is not None else position)
    assert found in caught.value.found
    assert "--full-refresh" in caught.value.todo


def test_OUT_01_compaction_that_was_turned_on_stops(harness: KafkaHarness) -> None:
    """``cleanup.policy`` decides which records arrive: where it has become ``compact``, records may have been removed
    between two runs, and the window stops. A topic that was compacted before is read, and its window is momentary."""
    name = made(harness)
    texts(harness, "t", ["a"])
    first = read(harness, "t")
    assert first.window.repeatable
    compact = ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": "compact"})
    harness.call(lambda admin: admin.alter_configs([compact]))
    with pytest.raises(Gap, match=r"its cleanup\.policy was delete and is compact"):
        read(harness, "t", first.window.position)
    assert not read(harness, "t").window.repeatable


def test_OUT_03_a_new_partition_is_read_from_its_beginning(harness: KafkaHarness) -> None:
    """Partitions that a topic has got since the position are read from their first record."""
    name = made(harness, partitions=1)
    texts(harness, "t", ["a"])
    position = read(harness, "t").window.position
    harness.call(lambda admin: admin.create_partitions({name: NewPartitions(3)}))
    texts(harness, "t", ["b"], partition=2)
    texts(harness, "t", ["c"])
    found = read(harness, "t", position)
    assert sorted(found.column("value")) == ["b", "c"]
    assert found.window.position.value["topics"][name]["next"] == {"0": 2, "1": 0, "2": 1}


def test_OUT_06_a_topic_of_a_pattern_that_is_gone_is_reported(harness: KafkaHarness) -> None:
    """A topic that a glob matched before and does not any more (deleted, or hidden by an ACL) is a warning of every
    window, and the window does not pass for the whole source, so that nothing is deleted for it."""
    for topic in ("one", "two"):
        made(harness, topic)
        texts(harness, topic, [topic])
    first = read(harness, "*")
    assert (sorted(first.column("value")), first.window.whole) == (["one", "two"], True)
    harness.delete(f"{harness.prefix}two")
    texts(harness, "one", ["more"])
    for request in (NEW, WHOLE):
        again = read(harness, "*", first.window.position, request)
        assert again.window.warnings == (
            f"topic {harness.prefix}two was read; now it is gone, or you may not see it any more",
        )
        assert not again.window.whole
        assert f"{harness.prefix}two" in again.window.position.value["topics"] or request is WHOLE


def test_a_list_of_topics_is_one_stream(harness: KafkaHarness) -> None:
    """``a,b`` reads both, each part of one partition; a topic that is not there is named, and is not made."""
    for topic in ("a.b", "c"):
        made(harness, topic, 2)
        texts(harness, topic, [topic], partition=1)
    both = f"a.b,{harness.prefix}c"
    found = read(harness, both, metadata=("topic", "partition"))
    assert sorted(row["kafka_topic"].removeprefix(harness.prefix) for row in found.rows) == ["a.b", "c"]
    assert found.column("kafka_partition") == [1, 1]
    with pytest.raises(SourceError, match="the topic does not exist"):
        read(harness, f"a.b,{harness.prefix}nowhere")
    assert harness.records(f"{harness.prefix}nowhere") is None


# ---- how much is read


def test_since_and_until_bound_a_window_by_time(harness: KafkaHarness) -> None:
    """``since`` is where a partition without a position begins, ``until`` where every partition ends: before its first
    record at that time. The next window goes on from there."""
    name = made(harness)
    for second in range(5):
        harness.send(name, [(None, b"%d" % second, 0)])
    times = read(harness, "t", metadata=("timestamp",)).column("kafka_timestamp")
    assert times == sorted({*times})
    bounds = {"since": times[1].isoformat(), "until": times[3].isoformat()}
    found = read(harness, "t", **bounds)
    assert (found.column("value"), found.window.caught_up) == (["1", "2"], False)
    assert read(harness, "t", found.window.position).column("value") == ["3", "4"]
    late = datetime(2100, 1, 1, tzinfo=UTC).isoformat()
    assert read(harness, "t", since=late).rows == []


def test_max_records_is_shared_among_the_partitions(harness: KafkaHarness) -> None:
    """A run reads at most so many offsets, short partitions whole; the runs together read each record once. A load
    that replaces the target refuses to be cut off."""
    made(harness, partitions=3)
    for partition, count in enumerate((7, 1, 4)):
        texts(harness, "t", [f"{partition}-{n}" for n in range(count)], partition)
    position, found = None, []
    for wanted in (6, 6, 0):
        one = read(harness, "t", position, max_records=6)
        assert len(one.rows) == wanted
        position, found = one.window.position, [*found, *one.column("value")]
    assert one.window.caught_up
    assert sorted(found) == sorted(f"{p}-{n}" for p, count in enumerate((7, 1, 4)) for n in range(count))
    with pytest.raises(ConfigError, match="remove max_records"):
        read(harness, "t", request=WHOLE, max_records=6)


@pytest.mark.parametrize("infer", [False, True])
def test_parts_are_ranges_of_offsets(harness: KafkaHarness, infer: bool) -> None:
    """More parts than partitions are ranges of offsets, cut anywhere in the broker's batches: each record is in one of
    them, whether it comes from the broker or from the spool."""
    made(harness, partitions=2)
    texts(harness, "t", as_json(*({"id": n} for n in range(50))), compression_type="zstd")
    texts(harness, "t", as_json({"id": 50}), 1)
    value = Layout(infer=True) if infer else Layout(columns={"id": "bigint"})
    found = read(harness, "t", request=WindowRequest(partitions=7, batch_rows=3), value=value)
    assert len(found.window.parts) >= 7
    assert len({part.content for part in found.window.parts}) == len(found.window.parts)
    assert sorted(found.column("id")) == list(range(51))


# ---- columns


def test_every_column_of_a_record(harness: KafkaHarness) -> None:
    """Key, value, headers (repeated, empty and without a value too), place, time and its type, and an id that is the
    same whenever the record is read."""
    name = made(harness)
    headers = [("h", b"1"), ("h", b"\xff"), ("", b""), ("none", None)]
    before = datetime.now(UTC)
    harness.call(lambda admin: _send_with_headers(harness, name, headers))
    every = (*METADATA, "timestamp_type", "headers", "event_id")
    key = Layout("bytes")
    [row] = read(harness, "t", metadata=every, key=key).rows
    assert abs((row.pop("kafka_timestamp") - before).total_seconds()) < 60
    event = row.pop("kafka_event_id")
    assert row == {
        "key": b"\x00k",
        "value": "v",
        "kafka_topic": name,
        "kafka_partition": 0,
        "kafka_offset": 0,
        "kafka_timestamp_type": "create",
        "kafka_headers": [{"name": n, "value": v} for n, v in headers],
    }
    cluster, topic, partition, offset = event.split("/")
    assert (bool(cluster), topic, partition, offset) == (True, name, "0", "0")
    texts(harness, "t", ["w"])
    assert read(harness, "t", metadata=every, key=key).rows[0]["kafka_event_id"] == event


async def _send_with_headers(harness: KafkaHarness, name: str, headers: Any) -> None:
    from aiokafka import AIOKafkaProducer

    async with AIOKafkaProducer(bootstrap_servers=harness.url) as producer:
        await producer.send_and_wait(name, b"v", b"\x00k", 0, headers=headers)


@pytest.mark.parametrize(
    ("layout", "sent", "wanted"),
    [
        (Layout("bytes"), [b"\x00\xff", b"", None], [b"\x00\xff", b"", None]),
        (Layout("text", column="text"), ["é".encode(), b"", None], ["é", "", None]),
        (Layout("text", encoding="latin-1"), [b"\xe9"], ["é"]),
        (Layout(), [b'{"a": 1.50}', b"[1]", b" null", None], ['{"a": 1.50}', "[1]", " null", None]),
        (
            Layout(columns={"id": "bigint", "at": "timestamp", "doc": "json"}),
            [b'{"id": 9007199254740993, "at": "2026-01-03 10:00:00", "doc": {"b": [1.10]}}', b"{}", None],
            [(9007199254740993, datetime(2026, 1, 3, 10), '{"b": [1.10]}'), (None,) * 3, (None,) * 3],
        ),
        (Layout(columns={"id": "bigint"}), [b'{"id": 1}', b'{\n"id":\n2}\n', b'{"id":3,"x":4}'], [(1,), (2,), (3,)]),
        (
            Layout("csv", columns={"id": "bigint", "s": "text"}),
            [b'1,"a,""b"""', b"2,\r\n", None],
            [(1, 'a,"b"'), (2, None), (None, None)],
        ),
        (Layout("csv", columns={"a": "decimal(9,2)"}, delimiter=";"), [b"1.50"], [("1.50",)]),
    ],
)  # fmt: skip
def test_values_in_every_format(harness: KafkaHarness, layout: Layout, sent: list[Any], wanted: list[Any]) -> None:
    """Each format gives exact values; a record without a value is NULL in all columns of the value, and rows keep their
    places."""
    name = made(harness)
    harness.send(name, [(b"k", value, 0) for value in sent])
    rows = read(harness, "t", value=layout).rows
    found = [next(iter(row.values())) if len(row) == 1 else tuple(row.values()) for row in rows]
    flat = [one[0] if isinstance(one, tuple) and len(one) == 1 else one for one in wanted]
    assert [str(one) if layout.delimiter == ";" else one for one in found] == flat


@pytest.mark.parametrize("later", [False, True])
def test_infer_finds_types_in_the_whole_window(harness: KafkaHarness, later: bool) -> None:
    """The columns are those of all records of the window, also of the last: a whole number that is followed by a
    fraction is a double, a late member a column. In a later window a column that no record has is NULL."""
    made(harness, partitions=2)
    texts(harness, "t", as_json(*({"id": n} for n in range(2000)), {"id": 5000.5, "late": "x"}))
    first = read(harness, "t", value=Layout(infer=True))
    assert first.window.schema == pa.schema([("id", pa.float64()), ("late", pa.string())])
    assert (len(first.rows), first.rows[-1]) == (2001, {"id": 5000.5, "late": "x"})
    if later:
        texts(harness, "t", as_json({"id": 7}))
        request = WindowRequest(expected=first.window.schema)
        again = read(harness, "t", first.window.position, request, value=Layout(infer=True))
        assert (again.rows, list(again.window.absent)) == ([{"id": 7.0, "late": None}], ["late"])
        nothing = read(harness, "t", again.window.position, request, value=Layout(infer=True))
        assert (nothing.window.schema, nothing.window.parts) == (first.window.schema, ())


def test_tombstones_are_kept_or_skipped(harness: KafkaHarness) -> None:
    """``keep`` gives a row whose value is NULL, ``skip`` leaves it out and counts it."""
    harness.send(made(harness), [(b"k", b"v", 0), (b"k", None, 0)])
    kept = read(harness, "t", key=Layout("text"))
    assert kept.rows == [{"key": "k", "value": "v"}, {"key": "k", "value": None}]
    skipped = read(harness, "t", key=Layout("text"), tombstones="skip")
    assert (skipped.rows, skipped.filtered) == ([{"key": "k", "value": "v"}], 1)


# ---- poison


BAD: list[tuple[Layout, bytes, str]] = [
    (ORDERS, b"{", "it is not a JSON object"),
    (ORDERS, b"[1]", "it is not a JSON object"),
    (ORDERS, b"", "it is not a JSON object"),
    (ORDERS, b'{"id": 1}\n{"id": 2}', "it is not a JSON object"),
    (ORDERS, b'{"id": 1, "id": 2}', "it is not a JSON object"),
    (ORDERS, b'{"name": "\xff"}', "it is not UTF-8"),
    (ORDERS, b'{"id": "seven"}', "its member 'id' is not a valid int64"),
    (ORDERS, b'{"name": "longer"}', "'name' has more than 5 characters"),
    (ORDERS, b'{"a":' * 5000 + b"1" + b"}" * 5000, "it is not a JSON object"),
    (Layout(), b"NaN", "it is not valid JSON"),
    (TEXT, b"\xff", "it is not utf-8"),
    (Layout("csv", columns={"a": "bigint", "b": "text"}), b"1", "it has 1 fields, not 2"),
    (Layout("csv", columns={"a": "bigint"}), b"x", "its field 'a' is not a valid int64"),
]


@pytest.mark.parametrize(("layout", "value", "why"), BAD)
def test_KA_06_a_poison_record_fails_or_is_put_aside(
    harness: KafkaHarness, layout: Layout, value: bytes, why: str
) -> None:
    """A record that its format cannot read is never dropped: the read fails and names its place, or puts the record
    aside with its bytes, headers and the reason, counts it, and gives all others, in their order."""
    good = {
        "json": b'{"id": 1}' if layout.columns else b"1",
        "text": b"1",
        "csv": b"1,x"[: 2 * len(layout.columns) - 1],
    }
    name = made(harness)
    fine = good[layout.format]
    harness.send(name, [(b"k", fine, 0), (b"k", value, 0), (b"k", None, 0), (b"k", fine, 0), (b"k", value, 0)])
    with pytest.raises(DataError) as caught:
        read(harness, "t", value=layout)
    assert caught.value.failed == f"read {name}, partition 0, offset 1"
    assert why in caught.value.found
    options = {"value": layout, "metadata": ("offset",), "poison": Poison("quarantine")}
    for _ in range(2):  # a part that is read again puts aside the same
        found = read(harness, "t", **options)
        assert (found.column("kafka_offset"), found.quarantined) == ([0, 2, 3], 2)
    [one, two] = sorted((harness.folder / ".dpone/quarantine/kafka").rglob("*.json"))
    kept = json.loads(one.read_text())
    assert (kept["topic"], kept["partition"], kept["offset"], kept["headers"]) == (name, 0, 1, [])
    assert (base64.b64decode(kept["key"]), base64.b64decode(kept["value"])) == (b"k", value)
    assert why in kept["reason"]
    assert json.loads(two.read_text())["offset"] == 4


def test_KA_06_lines_inside_a_record_move_no_other(harness: KafkaHarness) -> None:
    """A record of two objects next to one of blanks has as many objects as records: both are bad, and the others keep
    their offsets. An object over several lines is one record."""
    made(harness)
    texts(harness, "t", ['{"id": 0}', '{"id": 1}\n{"id": 9}', " ", '{"id": 3}'])
    options = {"value": Layout(columns={"id": "bigint"}), "metadata": ("offset",), "poison": Poison("quarantine")}
    found = read(harness, "t", **options)
    assert ([(row["id"], row["kafka_offset"]) for row in found.rows], found.quarantined) == ([(0, 0), (3, 3)], 2)


def test_KA_06_a_quarantine_has_a_limit(harness: KafkaHarness, tmp_path: Path) -> None:
    """More bad records in one part than the pipeline allows fail the read, and a folder outside that of the pipeline is
    refused."""
    made(harness)
    texts(harness, "t", ["{"] * 3)
    with pytest.raises(DataError, match="more than 2 records of the part cannot be read"):
        read(harness, "t", value=ORDERS, poison=Poison("quarantine", max_records=2))
    with pytest.raises(ConfigError, match="is outside"):
        read(harness, "t", value=ORDERS, poison=Poison("quarantine", path=str(tmp_path.parent)))


# ---- options


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda: Layout("text", infer=True), "infer with format text"),
        (lambda: Layout("bytes", columns={"a": "int"}), "columns with format bytes"),
        (lambda: Layout("csv"), "a CSV line has no names of columns"),
        (lambda: Layout(infer=True, columns={"a": "int"}), "columns are declared too"),
        (lambda: Layout(infer=True, column="a"), "the value becomes several columns"),
        (lambda: Layout("text", encoding="nothing"), "'nothing'"),
        (lambda: Layout("csv", columns={"a": "int"}, delimiter="ab"), "'ab'"),
        (lambda: KafkaSourceOptions(since="2026-01-01"), "has no time zone"),
        (lambda: KafkaSourceOptions(since="yesterday"), "is not a timestamp"),
        (lambda: KafkaSourceOptions(since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z"), "is not after since"),
        (lambda: KafkaSourceOptions(key=Layout(infer=True)), "infer is for values"),
        (lambda: KafkaSourceOptions(metadata=("topic", "topic")), "a column occurs twice"),
    ],
)
def test_wrong_options_are_refused(build: Any, found: str) -> None:
    """Options that mean nothing together are refused before anything is read, with what was found."""
    with pytest.raises(ConfigError) as caught:
        build()
    assert found in caught.value.found
    assert caught.value.todo


def test_names_that_meet_are_refused(harness: KafkaHarness) -> None:
    """A column of the key with the name of one of the value, regardless of case, is refused; so is a name that no
    topic can have."""
    with pytest.raises(ConfigError, match="two columns are named 'ID'"):
        read(harness, "t", value=Layout(columns={"ID": "int"}), key=Layout(columns={"id": "int"}))
    with pytest.raises(ConfigError, match="is not a name of a topic"):
        read(harness, "a b")


def test_what_is_declared_as_json_stays_json(harness: KafkaHarness) -> None:
    """The one column of a JSON value has the type json in the target."""
    made(harness)
    with closing(
        harness.make("source", evolve(harness.source("t"), options=KafkaSourceOptions(metadata=())))
    ) as source:
        assert source.schema() == pa.schema([("value", JSON)])
