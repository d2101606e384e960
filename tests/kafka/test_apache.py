"""What only Apache Kafka itself shows: ids of topics, compaction, sizes of fetches, a broker that dies or is silent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve
from tests.kafka import apache as stand
from tests.kafka.apache import Apache
from tests.kafka.client import transactions
from tests.kafka.reading import TEXT, read, texts
from tests.patience import until

from dpone.contract import WindowRequest
from dpone.errors import Category, DponeError, Gap, IdentityChanged, SourceError
from dpone_kafka.config import KafkaSourceOptions
from dpone_kafka.testing import KafkaHarness

pytestmark = pytest.mark.kafka


def made(harness: KafkaHarness, topic: str = "t", partitions: int = 1, **settings: str) -> str:
    name = f"{harness.prefix}{topic}"
    harness.make_topic(name, partitions, **settings)
    return name


def test_OUT_02_a_topic_that_was_created_again_is_another(on_apache: KafkaHarness) -> None:
    """By its id, also if it has the same records; and if that happens between the window and the end of the read."""
    name = made(on_apache)
    texts(on_apache, "t", ["a", "b"])
    position = read(on_apache, "t").window.position
    assert position.value["topics"][name]["id"]
    spec = evolve(on_apache.source(), topic=name, options=KafkaSourceOptions(value=TEXT))
    with closing(on_apache.make("source", spec)) as source:
        window = source.window(None, WindowRequest())
        on_apache.delete(name)
        made(on_apache)
        texts(on_apache, "t", ["a", "b"])
        with pytest.raises(IdentityChanged, match="while it was read"), source.read(window.parts[0]) as stream:
            list(stream.batches())
    with pytest.raises(IdentityChanged, match="it was deleted and created again"):
        read(on_apache, "t", position)


def test_KA_01_a_compacted_topic_is_read_to_its_end(on_apache: KafkaHarness) -> None:
    """Offsets that compaction removed, in the middle and before the end, hold nothing up: the last record of each key
    comes once, and the position is the end of the log."""
    compact = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    name = made(on_apache, **compact, **{"min.compaction.lag.ms": "0", "max.compaction.lag.ms": "100"})
    for n in range(5):
        on_apache.send(name, [(b"k%d" % (i % 7), b"%d-%d" % (n, i), 0) for i in range(70)])
        time.sleep(0.15)
    on_apache.send(name, [(b"last", b"last", 0)])
    until(lambda: len(read(on_apache, "t").rows) < 200, "the broker does not compact")
    found = read(on_apache, "t", metadata=("offset",))
    assert found.window.position.value["topics"][name]["next"] == {"0": 351}
    assert found.column("value")[-8:] == [*(f"4-{i}" for i in range(63, 70)), "last"]
    assert found.column("kafka_offset") == sorted({*found.column("kafka_offset")})
    again = read(on_apache, "t", found.window.position)
    assert again.window.parts == ()


def test_a_part_that_retention_takes_while_it_is_read_is_a_gap(on_apache: KafkaHarness) -> None:
    """Records that are removed between the window and the read are missing by name, and never skipped."""
    name = made(on_apache, partitions=2)
    texts(on_apache, "t", ["a", "b"])
    spec = evolve(on_apache.source(), topic=name, options=KafkaSourceOptions(value=TEXT))
    with closing(on_apache.make("source", spec)) as source:
        window = source.window(None, WindowRequest())
        on_apache.forget(name)
        texts(on_apache, "t", ["c"])
        with pytest.raises(Gap, match="offset 0 was removed by retention"), source.read(window.parts[0]) as stream:
            list(stream.batches())


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_and_records_larger_than_a_fetch(on_apache: KafkaHarness, codec: str) -> None:
    """Batches of every codec are read, a record that is larger than ``fetch_bytes`` too, transactions across fetches
    keep their records apart, and each record comes once."""
    name = made(on_apache, **{"max.message.bytes": str(1 << 23)})
    how = {} if codec == "none" else {"compression_type": codec}
    texts(on_apache, "t", [f"{n} ".ljust(300, "x") for n in range(100)], **how)
    large = os.urandom(1 << 20).hex()
    texts(on_apache, "t", [large], **how)
    gone, kept = ([b"gone"] * 20, False), ([b"kept"] * 20, True)
    transactions(on_apache.url or "", name, gone, kept, gone, gone, kept)
    for size in (1024, 1 << 22):
        found = read(on_apache, "t", fetch_bytes=size, request=WindowRequest(partitions=5)).column("value")
        assert [text.split()[0] for text in found[:100]] == [str(n) for n in range(100)]
        assert found[100:] == [large, *["kept"] * 40]


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Apache, KafkaHarness]]:
    """A broker of the test's own, which may be killed."""
    if stand.jars() is None:
        pytest.skip("Apache Kafka needs java, and mvn to fetch it")
    with stand.running(tmp_path / "broker") as running:
        monkeypatch.setenv("DPONE_TEST_KAFKA", running.servers())
        yield running, KafkaHarness(tmp_path / "harness")


def test_OUT_11_a_broker_that_dies_or_falls_silent_delays_a_read(mortal: tuple[Apache, KafkaHarness]) -> None:
    """A broker that is killed in the middle of a read and started again delays it: every record comes, once. One that
    keeps its connections and answers nothing ends the read at ``silence_timeout``, with a transient error that names
    the place."""
    broker, harness = mortal
    name = made(harness)
    wanted = [str(n) for n in range(3000)]
    for start in range(0, 3000, 100):
        texts(harness, "t", wanted[start : start + 100])
    options = KafkaSourceOptions(value=TEXT, metadata=(), fetch_bytes=1024)
    spec = evolve(harness.source(), topic=name, options=options)
    with closing(harness.make("source", spec)) as source:
        [part] = source.window(None, WindowRequest()).parts
        with source.read(part) as stream:
            batches = stream.batches()
            found = next(batches).column(0).to_pylist()
            broker.kill()
            again = threading.Timer(1, broker.start)
            again.start()
            for batch in batches:
                found += batch.column(0).to_pylist()
            again.join()
    assert found == wanted
    spec = evolve(spec, options=evolve(options, silence_timeout=1.5))
    process = broker._running[1]
    with closing(harness.make("source", spec)) as source:
        [part] = source.window(None, WindowRequest()).parts
        with source.read(part) as stream:
            batches = stream.batches()
            next(batches)
            process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(SourceError) as caught:
                    list(batches)
            finally:
                process.send_signal(signal.SIGCONT)
    assert caught.value.category is Category.TRANSIENT
    assert caught.value.failed.startswith(f"read {name}, partition 0, offset ")
    assert "nothing came for 1.5 s" in caught.value.found
    assert isinstance(caught.value, DponeError)
