"""``python -m benchmarks.kafka_sink SERVERS``: rows of an Arrow file into a topic, against a bare aiokafka producer.

Legs are processes of their own and alternate. Ours stages the rows, as a run does, encodes them as JSON of 200 bytes
and sends them with an id each; the baseline gets the same JSON ready-made and sends it with the same settings (acks,
batch size, transaction), a future for each record. The topics are created before each pair, with four partitions.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

BATCH = 1 << 18
BARS = {"idempotent": 0.8, "transactional": 0.75}  # of the baseline's records a second


def rows(path: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    from dpone.formats.json_text import json_texts

    schema = pa.schema([("id", pa.int64()), ("code", pa.string()), ("note", pa.string()), ("json", pa.binary())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as to:
        for start in range(0, count, 50_000):
            ids = pa.array(range(start, min(start + 50_000, count)), pa.int64())
            code = pc.binary_join_element_wise("c", pc.cast(ids, pa.string()), "")
            note = pa.repeat("x" * 150, len(ids))
            values = [ids, code, note]
            texts = json_texts(pa.StructArray.from_arrays(values, ["id", "code", "note"])).cast(pa.binary())
            to.write_batch(pa.RecordBatch.from_arrays([*values, texts], schema=schema))


def ours(servers: str, delivery: str, folder: Path, topic: str) -> None:
    import pyarrow as pa

    from dpone.contract import BatchStream, Part
    from dpone.model.pipeline import SinkSpec
    from dpone.model.secret import Secret
    from dpone.model.strategy import Strategy
    from dpone.testing.loads import at, new_load
    from dpone_kafka.sink import KafkaSink
    from dpone_kafka.sink_options import KafkaSinkOptions

    class File(BatchStream):
        schema = pa.schema([("id", pa.int64()), ("code", pa.string()), ("note", pa.string())])

        def batches(self):  # type: ignore[no-untyped-def]
            with pa.OSFile(str(folder / "rows.arrow")) as file, pa.ipc.open_file(file) as batches:
                for n in range(batches.num_record_batches):
                    yield batches.get_batch(n).select(["id", "code", "note"])

    options = KafkaSinkOptions(
        delivery=delivery,  # type: ignore[arg-type]  # a choice of the command line
        journal="bench.loads",
        batch_bytes=BATCH,
        transaction_timeout=600.0,
        transaction_rate=1e6,
    )
    spec = SinkSpec("kafka", Strategy("append"), Secret(servers), topic=topic, options=options, base=folder)
    with closing(KafkaSink(spec)) as sink, closing(sink.open(new_load(File.schema, spec.strategy, topic))) as writer:
        writer.stage(Part("p"), File())
        writer.commit(None, at(1), ())


async def theirs(servers: str, delivery: str, folder: Path, topic: str) -> None:
    import pyarrow as pa
    from aiokafka import AIOKafkaProducer

    transactional = {"transactional_id": topic, "transaction_timeout_ms": 600_000}
    given = transactional if delivery == "transactional" else {"enable_idempotence": True}
    async with AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=BATCH, **given) as producer:
        if delivery == "transactional":
            await producer.begin_transaction()
        with pa.OSFile(str(folder / "rows.arrow")) as file, pa.ipc.open_file(file) as batches:
            for n in range(batches.num_record_batches):
                values = batches.get_batch(n).column("json").to_pylist()
                sent = [await producer.send(topic, value) for value in values]
                await asyncio.gather(*sent)
        if delivery == "transactional":
            await producer.commit_transaction()


async def create(servers: str, topics: Sequence[str]) -> None:
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 4, 1) for topic in topics])
    await admin.close()


async def drop(servers: str, topics: Sequence[str]) -> tuple[int, ...]:
    """How many records each had, committed."""
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

    counts = []
    for topic in topics:
        async with AIOKafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed") as consumer:
            places = [TopicPartition(topic, n) for n in range(4)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends, count = await consumer.end_offsets(places), 0
            while [place for place in places if await consumer.position(place) < ends[place]]:
                count += sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
        counts.append(count)
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.delete_topics([*topics])
    await admin.close()
    return tuple(counts)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.kafka_sink", description=__doc__.split("\n\n")[0])
    parser.add_argument("servers")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--delivery", choices=[*BARS], action="append", default=None)
    parser.add_argument("--leg", choices=["ours", "theirs", "rows", "create", "drop"], help=argparse.SUPPRESS)
    parser.add_argument("--topic", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    match given.leg:
        case "ours":
            ours(given.servers, given.delivery[0], given.folder, given.topic[0])
        case "theirs":
            asyncio.run(theirs(given.servers, given.delivery[0], given.folder, given.topic[0]))
        case "rows":
            rows(given.folder / "rows.arrow", given.rows)
        case "create":
            asyncio.run(create(given.servers, given.topic))
        case "drop":
            print(*asyncio.run(drop(given.servers, given.topic)))
        case _:
            return measured(given)
    return 0


def measured(given: argparse.Namespace) -> int:
    """The process that measures imports neither pyarrow nor aiokafka: ``benchmarks.measure`` says why."""
    from benchmarks.measure import run

    missed = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        words = [sys.executable, __file__, given.servers]
        run([*words, "--leg", "rows", "--rows", str(given.rows), "--folder", made], folder)
        for delivery in given.delivery or [*BARS]:
            ratios, legs = [], []
            for n in range(given.pairs):
                topics = [f"bench.{side}.{delivery}.{folder.name}.{n}" for side in ("ours", "theirs")]
                both = [word for topic in topics for word in ("--topic", topic)]
                run([*words, "--leg", "create", *both], folder)
                pair = []
                for side, topic in zip(("ours", "theirs"), topics, strict=True):
                    command = [*words, "--leg", side, "--delivery", delivery, "--topic", topic, "--folder", made]
                    pair.append(run(command, folder))
                run([*words, "--leg", "drop", *both], folder)
                counts = (folder / "out.log").read_text().split()
                if counts != [str(given.rows)] * 2:
                    raise SystemExit(f"the topics have {counts} records, not {given.rows} each")
                ratios.append(pair[1].wall / pair[0].wall)
                legs.append(pair)
            peak = max(mine.peak for mine, _ in legs)
            ok = median(ratios) >= BARS[delivery] and peak <= 250
            missed += not ok
            seconds = [median(one[side].wall for one in legs) for side in (0, 1)]
            print(
                f"{delivery}: ours {given.rows / seconds[0]:,.0f} records/s, baseline {given.rows / seconds[1]:,.0f}; "
                f"ratio {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), bar {BARS[delivery]}; "
                f"peak {peak:.0f} MB; {'ok' if ok else 'MISSED'}",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
