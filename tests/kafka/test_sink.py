"""What the kit does not ask of the sink: delivery modes, kills within a commit, keys, formats, partitions, limits."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.admin import CreateAclsRequest
from attrs import evolve
from tests.kafka.apache import USERS, Apache
from tests.kafka.dying import FILE

from dpone.contract import Part
from dpone.errors import Category, ConfigError, Conflict, DataError, DponeError, SinkError
from dpone.host import stopping
from dpone.model.events import STEPS
from dpone.model.secret import Secret
from dpone.testing import crash
from dpone.testing.loads import APPEND, at, key, load, new_load, prepare
from dpone.testing.rows import Rows, same, sample, table
from dpone_kafka.sink_options import Create, Key, Partition, Value
from dpone_kafka.testing import KafkaSinkHarness
from dpone_kafka.writer import transactional_id

pytestmark = pytest.mark.kafka


@pytest.fixture
def kafka(everyday: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaSinkHarness]:
    monkeypatch.setenv("DPONE_TEST_KAFKA", everyday)
    with closing(KafkaSinkHarness(tmp_path)) as made:
        yield made


@pytest.fixture
def durable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """On Apache Kafka, or the cluster that DPONE_TEST_KAFKA names."""
    address = os.environ.get("DPONE_TEST_KAFKA") or request.getfixturevalue("apache").servers()
    monkeypatch.setenv("DPONE_TEST_KAFKA", address)
    with closing(KafkaSinkHarness(tmp_path)) as made:
        yield made


def records(kafka: KafkaSinkHarness, name: str = "orders") -> list[Any]:
    return list(kafka.records(kafka.topic(name)) or ())


def ids(found: list[Any]) -> list[bytes]:
    return [dict(record.headers)["dpone.event_id"] for record in found]


# ---- deliveries


@pytest.mark.parametrize("delivery", ["at_least_once", "idempotent", "transactional"])
def test_every_delivery_has_a_journal_and_ids(kafka: KafkaSinkHarness, delivery: str) -> None:
    """Whatever the delivery, rows arrive in order with an id of their own, and the journal has the entry and columns of
    the load, which a stale head cannot follow."""
    first = load(kafka, [sample(1, 5), sample(6, 9)], APPEND, delivery=delivery, n=1)
    found = records(kafka)
    assert [json.loads(record.value)["id"] for record in found] == list(range(1, 10))
    assert len({*ids(found)}) == 9
    [entry] = [json.loads(record.value) for record in kafka.records(kafka.journal) or ()]
    assert (entry["load_id"], entry["seq"], entry["rows"]["inserted"]) == (first.entry.load_id, 1, 9)
    assert entry["columns"] == {"id": "int64", "day": "string", "name": "string", "score": "double"}
    spec = kafka.sink(APPEND, delivery=delivery)
    with closing(kafka.make("sink", spec)) as sink, closing(sink.open(new_load(sample(1, 1).schema, APPEND))) as writer:
        writer.stage(Part("p"), Rows(sample(1, 1)))
        with pytest.raises(Conflict, match="another run loaded this stream"):
            writer.commit(None, at(2), ())
    assert len(records(kafka)) == 9


def _killed(kafka: KafkaSinkHarness, delivery: str, when: str, n: int) -> tuple[bool, str, crash.Runs]:
    """A run that dies in its commit, then one that does not. False: the commit asked for fewer things."""
    name = f"{delivery}_{when}_{n}"
    dying = crash.runs(kafka, APPEND, name)
    stream = dying.pipeline.streams[0]
    options = evolve(stream.sink.options, delivery=delivery, transaction_timeout=5)
    stream = evolve(stream, sink=evolve(stream.sink, options=options))
    run = evolve(dying, pipeline=evolve(dying.pipeline, streams=(stream,)))
    run.add(sample(1, 4))
    run.add(sample(5, 9))
    (kafka.folder / FILE).write_text(f"{n} {when}")
    kafka.implementations = {"sink": "tests.kafka.dying:DyingSink"}
    try:
        code, text = run.apart()
    finally:
        kafka.implementations = {}
    assert code in (0, crash.KILLED), text
    if code == 0:
        return False, name, run
    if delivery == "at_least_once" and n % 2:  # the next run is on another machine
        shutil.rmtree(kafka.folder / ".dpone" / "kafka")
    report = run.here()
    assert report.exit_code == 0, report.streams[0].error
    assert report.streams[0].delivery == ("exactly once" if delivery == "transactional" else "at least once")
    assert run.here().streams[0].status == "caught_up"
    assert run.head().seq == 1
    return True, name, run


@pytest.mark.parametrize("when", ["after", "during"])
def test_KA_04_a_transactional_commit_that_is_killed_anywhere(durable: KafkaSinkHarness, when: str) -> None:
    """SIGKILL after each thing that a commit asks of the brokers, and while it asks: after the next run every row is
    there once under read_committed, and the journal has one entry."""
    for n in range(1, 40):
        died, name, _ = _killed(durable, "transactional", when, n)
        same(durable.rows(name), sample(1, 9))
        if not died:
            break
    assert n > 8, "a commit asks for more than that"


def test_KA_05_redelivered_rows_have_their_ids(durable: KafkaSinkHarness) -> None:
    """SIGKILL anywhere in a commit of at_least_once: every row is there, and a row that came twice has one id, also if
    the staged rows are gone."""
    twice = 0
    for n in range(1, 40):
        died, name, _ = _killed(durable, "at_least_once", "after", n)
        found = records(durable, name)
        rows = Counter(json.loads(record.value)["id"] for record in found)
        assert sorted(rows) == list(range(1, 10)), rows
        pairs = {(json.loads(record.value)["id"], id) for record, id in zip(found, ids(found), strict=True)}
        assert len(pairs) == 9, "a row has two ids, or two rows have one"
        twice += max(rows.values()) > 1
        if not died:
            break
    assert twice, "no kill came after rows were sent"


def test_KA_02_from_topic_to_topic_killed_at_every_step(durable: KafkaSinkHarness) -> None:
    """SIGKILL at every step of a run from one topic to another: the next run leaves every record once."""
    for step in STEPS:
        name = f"to_{step}"
        durable.seed(sample(1, 5), f"from_{step}")
        source, sink = durable.source(f"from_{step}"), durable.sink(APPEND, name)
        run = crash.Runs(durable, crash.pipeline(durable.folder, source, sink, name))
        assert run.here().exit_code == 0
        durable.seed(sample(6, 9), f"from_{step}")
        run.killed(step)
        report = run.here()
        assert report.exit_code == 0, report.streams[0].error
        same(durable.rows(name), sample(1, 9))


def test_a_zombie_is_fenced(durable: KafkaSinkHarness) -> None:
    """A producer that still has a transaction of the stream open loses it to the next commit, and cannot write."""
    load(durable, sample(1, 2), APPEND, n=1)

    async def zombie() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=durable.url, transactional_id=transactional_id(key()))
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(durable.topic(), b'{"id": 99}')
        await asyncio.to_thread(load, durable, sample(3, 4), APPEND, n=2)
        with pytest.raises(Exception, match=r"(?i)fenced|epoch"):
            await producer.send_and_wait(durable.topic(), b'{"id": 98}')
        await producer.stop()

    asyncio.run(zombie())
    same(durable.rows(), sample(1, 4))


def test_open_transactions_of_others_do_not_hide_the_head(durable: KafkaSinkHarness) -> None:
    """While another stream's entry is not committed, the head of a stream before it is found at once; and one that was
    committed after it is waited for."""
    entry = load(durable, sample(1, 2), APPEND, n=1).entry

    async def other() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=durable.url, transactional_id=f"{durable.prefix}other")
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(durable.journal, b"{}", b"another|key")
        with closing(durable.make("sink", durable.sink(APPEND, transaction_timeout=1))) as sink:
            assert await asyncio.to_thread(sink.journal, key()) == entry
        later = (await asyncio.to_thread(load, durable, sample(3, 4), APPEND, n=2)).entry
        asking = asyncio.create_task(asyncio.to_thread(_head, durable))
        await asyncio.sleep(0.3)
        assert not asking.done(), "an entry behind an open transaction was not waited for"
        await producer.commit_transaction()
        assert await asking == later
        await producer.stop()

    asyncio.run(other())


def _head(kafka: KafkaSinkHarness) -> Any:
    with closing(kafka.make("sink", kafka.sink(APPEND))) as sink:
        return sink.journal(key())


def test_a_load_that_does_not_fit_its_transaction_is_refused(kafka: KafkaSinkHarness) -> None:
    """Before the transaction begins, with the option that helps; with it the same load is committed (OUT-16)."""
    load(kafka, sample(1, 1), APPEND, n=1)
    with pytest.raises(SinkError, match=r"transaction_timeout is 2 seconds; set options\.transaction_timeout higher"):
        load(kafka, sample(2, 9), APPEND, n=2, transaction_timeout=2, transaction_rate=50)
    same(kafka.rows(), sample(1, 1))
    load(kafka, sample(2, 9), APPEND, n=2, transaction_timeout=60, transaction_rate=50)
    same(kafka.rows(), sample(1, 9))


def test_records_of_others_stop_nothing(kafka: KafkaSinkHarness) -> None:
    """Foreign records in the topic and under other keys of the journal are none of the sink's; one under its own key
    that is no entry is named by its place."""
    load(kafka, sample(1, 2), APPEND, "before")
    kafka.append(kafka.topic(), [b"not JSON", b""])
    kafka.send(kafka.journal, [(b"another", b"{]", 0), (b"key", b'"x"', 0)])
    with closing(kafka.make("sink", kafka.sink(APPEND))) as sink:
        assert (sink.is_empty(), sink.exists(), sink.journal(key())) == (True, True, None)
    load(kafka, sample(1, 2), APPEND)
    assert len(records(kafka)) == 4
    kafka.damage("sink", "{]")
    with pytest.raises(SinkError, match=rf"the record at offset .* of topic {kafka.journal} is damaged"):
        _head(kafka)


def test_OUT_07_a_topic_that_was_made_again_stops_the_next_run(kafka: KafkaSinkHarness) -> None:
    """A topic that was deleted, or deleted and made again, stops the next run by name, and nothing is loaded."""
    for name, again in (("gone", False), ("again", True)):
        run = crash.runs(kafka, APPEND, name)
        run.add(sample(1, 5))
        assert run.here().exit_code == 0
        kafka.empty(name) if again else kafka.delete(kafka.topic(name))
        run.add(sample(6, 9))
        report = run.here()
        assert report.exit_code == 3
        assert ("ends at offset 0" if again else "does not exist") in str(report.streams[0].error)
        assert not kafka.records(kafka.topic(name))


# ---- keys, values, partitions


KEYED = pa.table(
    {"id": pa.array([1, 2, 10], pa.int64()), "code": ["a", "b", "c"], "raw": pa.array([b"\0x", b"", b"z"])}
)


@pytest.mark.parametrize(
    ("given", "keys", "values"),
    [
        (Key(("id",)), [b'{"id": 1}', b'{"id": 2}', b'{"id": 10}'], None),
        (Key(("code", "id")), [b'{"code": "a", "id": 1}', b'{"code": "b", "id": 2}', b'{"code": "c", "id": 10}'], None),
        (Key(("id",), "text"), [b"1", b"2", b"10"], None),
        (Key(("raw",), "bytes"), [b"\0x", b"", b"z"], None),
        (None, [None] * 3, Value("bytes", "raw")),
        (Key(("code",), "text"), [b"a", b"b", b"c"], Value("text", "code")),
    ],
)
def test_keys_and_values(kafka: KafkaSinkHarness, given: Key | None, keys: list[Any], values: Value | None) -> None:
    """Keys are JSON, text or bytes of the columns; values are all columns as JSON, or one column as it is."""
    load(kafka, KEYED, APPEND, key=given, value=values or Value())
    found = records(kafka)
    assert [record.key for record in found] == keys
    if values is None:
        assert [json.loads(record.value)["id"] for record in found] == [1, 2, 10]
    else:
        column = KEYED[values.column].to_pylist()
        assert [record.value for record in found] == [v if isinstance(v, bytes) else v.encode() for v in column]


def test_a_value_that_is_null_is_a_tombstone(kafka: KafkaSinkHarness) -> None:
    """NULL in the column of a value is a record without a value."""
    rows = pa.table({"id": ["a", "b"], "text": pa.array(["x", None], pa.string())})
    load(kafka, rows, APPEND, key=Key(("id",), "text"), value=Value("text"))
    assert [(record.key, record.value) for record in records(kafka)] == [(b"a", b"x"), (b"b", None)]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"key": Key(("no",))}, ConfigError, "the rows have no column no"),
        ({"key": Key(("score",))}, ConfigError, "column score is double, whose equal values can have different texts"),
        ({"key": Key(("id",), "bytes")}, ConfigError, "column id is int64, but format bytes needs a column of binary"),
        ({"key": Key(("name",), "text")}, DataError, "row 4 of part p0 has NULL in the key column name"),
        ({"value": Value("text")}, ConfigError, "the rows have 4 columns besides the key; set value.column"),
        ({"partition": Partition("column", "day")}, ConfigError, "column day is string; name a column of whole"),
        ({"partition": Partition("column", "id")}, DataError, "row 1 of part p0 has no partition in column id"),
        ({"create": Create(allowed=False)}, ConfigError, "it does not exist; kafka-topics --create --topic"),
        ({"create": Create(config={"no.such.setting": "1"})}, SinkError, "the brokers refuse a setting of the topic"),
    ],
)
def test_what_cannot_be_written_is_refused(
    kafka: KafkaSinkHarness, options: dict[str, Any], error: type[DponeError], says: str
) -> None:
    """By name of option, column and row, without a value of the row, and nothing is in the topic."""
    with pytest.raises(error, match=says):
        load(kafka, sample(1, 5), APPEND, **options)
    assert not kafka.records(kafka.topic())


def test_OUT_10_partitions_are_those_of_the_java_client(kafka: KafkaSinkHarness) -> None:
    """A key goes where aiokafka's own port of murmur2 sends it; without a key records go round, a column decides, and
    the topic has the partitions that it was created with."""
    rows = table([(n, f"d{n % 7}", "x" * (n % 9), n / 2) for n in range(200)])
    made = Create(partitions=7)
    load(kafka, rows, APPEND, "keyed", key=Key(("name", "id")), create=made)
    chosen = DefaultPartitioner()
    for record in records(kafka, "keyed"):
        assert record.partition == chosen(record.key, list(range(7)), list(range(7)))
    load(kafka, rows, APPEND, "turn", create=made)
    assert {*Counter(record.partition for record in records(kafka, "turn")).values()} == {28, 29}
    numbered = rows.append_column("to", pa.array([n % 3 for n in range(200)]))
    load(kafka, numbered, APPEND, "column", create=made, partition=Partition("column", "to"))
    for record in records(kafka, "column"):
        assert record.partition == json.loads(record.value)["to"]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches_are_read_by_others(kafka: KafkaSinkHarness, compression: str) -> None:
    """Many small batches of every codec come back through another client, in order, transactional or not."""
    rows = table([(n, "d", "text " * (n % 50), n / 2) for n in range(400)])
    for delivery in ("transactional", "idempotent"):
        load(kafka, rows, APPEND, delivery, delivery=delivery, compression=compression, batch_bytes=4096)
        assert [json.loads(record.value)["id"] for record in records(kafka, delivery)] == list(range(400))


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_record_that_the_topic_does_not_take(durable: KafkaSinkHarness, compression: str) -> None:
    """It is named by part and row, not by a value; nothing of the load is in the topic, and batches of small rows are
    cut to what the topic takes."""
    small = Create(config={"max.message.bytes": "2000"})
    options: dict[str, Any] = {"create": small, "compression": compression}
    load(durable, table([(n, "d", "x" * 100, None) for n in range(500)]), APPEND, n=1, **options)
    noise = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    rows = table([(n, "d", noise if n == 7 else "y", None) for n in range(1, 10)])
    with pytest.raises(DataError, match=r"row 7 of part p0 has 9,\d\d\d bytes, but the topic takes 2,000"):
        load(durable, rows, APPEND, n=2, **options)
    assert len(records(durable)) == 500


def test_a_journal_that_forgets_is_refused(durable: KafkaSinkHarness) -> None:
    """A journal without compaction would lose heads: it is refused with the command that mends it; the one that the
    sink creates is compacted."""
    load(durable, sample(1, 2), APPEND)
    with closing(durable.make("sink", durable.sink(APPEND))) as sink:
        assert all(finding.ok for finding in sink.check()), sink.check()
    durable.append(durable.topic("plain"), [b"x"])
    spec = durable.sink(APPEND, journal=durable.topic("plain"))
    with closing(durable.make("sink", spec)) as sink:
        assert [finding.ok for finding in sink.check()] == [True, False]
        with pytest.raises(SinkError, match=r"cleanup\.policy=delete; kafka-configs --alter"):
            sink.open(new_load(sample(1, 1).schema, APPEND))


# ---- brokers that fail, security


@pytest.fixture
def on_apache(apache: Apache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaSinkHarness]:
    monkeypatch.setenv("DPONE_TEST_KAFKA", apache.servers())
    with closing(KafkaSinkHarness(tmp_path)) as made:
        yield made


def _with_fault(kafka: KafkaSinkHarness, at_call: int, fault: Callable[[], None], rows: pa.Table) -> Exception | None:
    """A load during whose commit something happens just before the n-th call to Kafka."""
    spec = kafka.sink(APPEND, silence_timeout=2.0, transaction_timeout=10.0)
    with closing(kafka.make("sink", spec)) as sink:
        prepare(sink, spec, rows.schema)
        with closing(sink.open(new_load(rows.schema, APPEND))) as writer:
            writer.stage(Part("p"), Rows(rows))
            head, start, asked = sink.journal(key()), writer.session.start, 0

            def counted(*given: Any) -> Any:
                nonlocal asked
                asked += 1
                if asked == at_call:
                    fault()
                return start(*given)

            writer.session.start = counted
            try:
                writer.commit(head, at(1), ())
            except DponeError as error:
                return error
    return None


@pytest.mark.parametrize("interrupted", [False, True])
def test_OUT_11_a_broker_that_falls_silent_within_a_commit(
    on_apache: KafkaSinkHarness, apache: Apache, interrupted: bool
) -> None:
    """Whatever the commit asks when the broker stops answering: the wait ends, after the limit or soon after a signal;
    the error is transient; and what the journal says afterwards is what the topic has."""
    load(on_apache, sample(1, 2), APPEND)
    expected = [sample(1, 2)]
    [broker] = apache._running.values()

    def silent() -> None:
        broker.send_signal(signal.SIGSTOP)
        if interrupted:
            stopping.begin()

    for n in range(2, 11):
        rows = sample(10 * n, 10 * n + 3)
        try:
            error = _with_fault(on_apache, n, silent, rows)
        finally:
            stopping.reset()
            broker.send_signal(signal.SIGCONT)
        assert isinstance(error, DponeError)
        assert error.category is Category.TRANSIENT, f"call {n}: {error}"
        head = _head(on_apache)
        if head.seq > len(expected):
            expected.append(rows)
        assert head.seq == len(expected)
        same(on_apache.rows(), pa.concat_tables(expected))


def test_a_broker_that_is_killed_within_a_commit(on_apache: KafkaSinkHarness, apache: Apache) -> None:
    """Before the rows, after them, and before the commit: kill -9 of the broker and a restart leave the load whole or
    not there, as the journal says, and the next one is committed."""
    load(on_apache, sample(1, 2), APPEND)
    expected = [sample(1, 2)]
    for n in (7, 9, 10):
        rows = sample(10 * n, 10 * n + 3)
        _with_fault(on_apache, n, apache.kill, rows)
        apache.start(1)
        head = _head(on_apache)
        if head.seq > len(expected):
            expected.append(rows)
        same(on_apache.rows(), pa.concat_tables(expected))
    load(on_apache, sample(3, 4), APPEND)
    same(on_apache.rows(), pa.concat_tables([*expected, sample(3, 4)]))


def _secure(kafka: KafkaSinkHarness, apache: Apache, user: str, **options: Any) -> Any:
    fields = {
        "bootstrap_servers": apache.servers("SASLTLS"), "sasl_username": user, "sasl_password": USERS[user],
        "ssl_cafile": str(apache.authority), "security_protocol": "SASL_SSL",
    }  # fmt: skip
    return evolve(kafka.sink(APPEND, **options), connection=Secret(json.dumps(fields)))


def _load_as(kafka: KafkaSinkHarness, spec: Any, rows: pa.Table) -> None:
    with closing(kafka.make("sink", spec)) as sink:
        prepare(sink, spec, rows.schema)
        with closing(sink.open(new_load(rows.schema, APPEND))) as writer:
            writer.stage(Part("p"), Rows(rows))
            writer.commit(sink.journal(key()), at(1), ())


def test_rows_are_sent_with_tls_and_scram(on_apache: KafkaSinkHarness, apache: Apache) -> None:
    """Every client of the sink uses the connection's security; a wrong password says so, and never shows it."""
    _load_as(on_apache, _secure(on_apache, apache, "alice"), sample(1, 5))
    same(on_apache.rows(), sample(1, 5))
    spec = _secure(on_apache, apache, "alice")
    wrong = evolve(spec, connection=Secret(spec.connection.reveal().replace(USERS["alice"], "not-the-password")))
    with (
        closing(on_apache.make("sink", wrong)) as sink,
        pytest.raises(SinkError, match="refused user or password") as e,
    ):
        sink.journal(key())
    assert "not-the-password" not in str(e.value)


_OPERATIONS = {"Read": 3, "Write": 4, "Describe": 8, "DescribeConfigs": 10}


def _granted(kafka: KafkaSinkHarness, command: str) -> None:
    """What ``kafka-acls --add`` does for bob: the jars of a broker do not have it."""
    words = command.split()
    kind, name = next(
        (number, words[words.index(option) + 1])
        for option, number in (("--topic", 2), ("--transactional-id", 5))
        if option in words
    )
    pattern = 4 if "prefixed" in words else 3

    async def grant(admin: Any) -> None:
        for operation in [words[n + 1] for n, word in enumerate(words) if word == "--operation"]:
            request = CreateAclsRequest(kind, name, pattern, "User:bob", "*", _OPERATIONS[operation], 3)
            answer = await admin._client.send(admin._client.get_random_node(), request)
            assert [code for code, _ in answer.creation_responses] == [0], answer

    kafka.call(grant)


def test_OUT_06_the_rights_of_the_page_are_enough(on_apache: KafkaSinkHarness, apache: Apache) -> None:
    """A user without rights is refused with what to grant; with the rights that the page lists, and no other, every
    delivery works on topics that exist."""
    load(on_apache, sample(1, 1), APPEND)
    with pytest.raises(DponeError) as refused:
        _load_as(on_apache, _secure(on_apache, apache, "bob"), sample(2, 2))
    assert refused.value.category is Category.AUTHORIZATION, refused.value
    page = (Path(__file__).parents[2] / "docs" / "connectors" / "kafka.md").read_text(encoding="utf-8")
    commands = [
        line for line in page.partition("### Rights of the sink")[2].splitlines() if line.startswith("kafka-acls")
    ]
    assert len(commands) >= 3
    for command in commands[:3]:
        _granted(on_apache, command.replace("orders", on_apache.topic()).replace("__dpone.loads", on_apache.journal))
    for n, delivery in enumerate(("transactional", "idempotent", "at_least_once"), 2):
        _load_as(on_apache, _secure(on_apache, apache, "bob", delivery=delivery), sample(n, n))
    same(on_apache.rows(), sample(1, 4))
