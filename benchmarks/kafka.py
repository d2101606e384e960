"""``python -m benchmarks.kafka``: a topic of JSON records into Arrow, against a bare consumer, in alternating pairs.

The source reads every record into typed columns (four declared, with place and time) and throws the batches away. The
baseline is aiokafka's own consumer, which throws the records away as it gets them. Ratios are of records a second;
``--into sqlite`` runs a whole pipeline instead. The broker is the one that DPONE_TEST_KAFKA names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path
from statistics import median

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.cases import DPONE
from benchmarks.measure import Leg, run

PARTITIONS = 4
_OURS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dpone.contract import WindowRequest
from dpone.model.pipeline import SourceSpec
from dpone.model.secret import Secret
from dpone_kafka.config import KafkaSourceOptions, Layout
from dpone_kafka.source import KafkaSource
value = Layout(columns={"id": "bigint", "customer": "text", "amount": "double", "note": "text"})
options = KafkaSourceOptions(value=value, fetch_bytes=int(sys.argv[5]))
spec = SourceSpec("kafka", Secret(sys.argv[1]), topic=sys.argv[2], options=options)
def one(part):
    with source.read(part) as stream:
        return sum(batch.num_rows for batch in stream.batches())
with closing(KafkaSource(spec)) as source, ThreadPoolExecutor(int(sys.argv[4])) as pool:
    rows = sum(pool.map(one, source.window(None, WindowRequest()).parts))
assert rows == int(sys.argv[3]), rows
"""
_BARE = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer
async def main():
    rows = 0
    async with AIOKafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], auto_offset_reset="earliest",
                                isolation_level="read_committed") as consumer:
        while rows < int(sys.argv[3]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                rows += len(records)
    assert rows == int(sys.argv[3]), rows
asyncio.run(main())
"""
_PIPELINE = """\
pipeline: bench
source:
  type: kafka
  connection: "{servers}"
  topic: {topic}
  options: {{value: {{columns: {{id: bigint, customer: text, amount: double, note: text}}}}}}
sink: {{type: sqlite, connection: "sqlite:///t.db", table: t, strategy: {{mode: append}}}}
"""


async def fill(servers: str, topic: str, rows: int) -> None:
    """Records of about 200 bytes."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=servers, linger_ms=20, max_batch_size=1 << 18) as producer:
        for n in range(rows):
            row = {"id": n, "customer": f"customer {n % 1000}", "amount": n / 4, "note": "x" * 130}
            await producer.send(topic, json.dumps(row).encode(), partition=n % PARTITIONS)
            if n % 10_000 == 0:
                await producer.flush()


def leg(code: str, folder: Path, *arguments: object) -> Leg:
    (folder / "leg.py").write_text(code)
    return run([sys.executable, str(folder / "leg.py"), *map(str, arguments)], folder)


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m benchmarks.kafka", description=__doc__)
    asked.add_argument("--rows", type=int, default=1_000_000)
    asked.add_argument("--pairs", type=int, default=5)
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--fetch-bytes", type=int, default=1 << 20)
    asked.add_argument("--into", choices=["arrow", "sqlite"], default="arrow")
    given = asked.parse_args()
    servers, topic = os.environ["DPONE_TEST_KAFKA"], f"bench_{uuid.uuid4().hex[:8]}"
    asyncio.run(fill(servers, topic, given.rows))
    ratios = []
    for _ in range(given.pairs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if given.into == "arrow":
                ours = leg(_OURS, folder, servers, topic, given.rows, given.workers, given.fetch_bytes)
            else:
                (folder / "pipeline.yaml").write_text(_PIPELINE.format(servers=servers, topic=topic))
                ours = run([DPONE, "run", "pipeline.yaml"], folder)
            theirs = leg(_BARE, folder, servers, topic, given.rows)
        ratios.append(theirs.wall / ours.wall)
        shown = [f"{one.wall:.2f} s ({one.cpu:.2f} s of a core, {one.peak:.0f} MB)" for one in (ours, theirs)]
        print(f"{shown[0]} against {shown[1]}: {ratios[-1]:.2f}", flush=True)
    print(f"{given.rows:,} records, {given.workers} workers into {given.into}: {median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
