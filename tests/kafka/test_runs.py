"""Whole runs from topics into a table: killed at every step, stopped, followed advice."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from tests.kafka.client import transaction
from tests.kafka.reading import Run, as_json, texts

from dpone.cli.main import main
from dpone_kafka.testing import KafkaHarness

pytestmark = pytest.mark.kafka
STEPS = (
    "locked", "recovered", "window_fixed", "schema_applied", "load_opened", "part_started", "batch", "part_staged",
    "staged", "commit_started", "committed", "state_saved", "acknowledged",
)  # fmt: skip
PIPELINE = """
pipeline: p
state: {{type: file, path: state}}
source:
  type: kafka
  connection: "{servers}"
  topic: {topic}
  options: {{value: {value}, metadata: [partition, offset, event_id], poison: {{policy: {poison}}}}}
sink: {{type: sqlite, connection: "sqlite:///t.db", table: t, strategy: {{mode: append}}}}
runtime: {{retries: 0, batch_rows: 10, partitions: 4}}
"""


def lay(harness: KafkaHarness, value: str = "{columns: {id: bigint}}", poison: str = "fail", topic: str = "t") -> Path:
    path = harness.folder / "p.yaml"
    path.write_text(PIPELINE.format(servers=harness.url, topic=harness.topic(topic), value=value, poison=poison))
    return path


def rows(harness: KafkaHarness, columns: str = "id") -> list[Any]:
    with closing(sqlite3.connect(harness.folder / "t.db")) as db:
        return [row[0] if len(row) == 1 else row for row in db.execute(f"SELECT {columns} FROM t ORDER BY 1")]


def ids(first: int, last: int) -> list[str]:
    return as_json(*({"id": n} for n in range(first, last + 1)))


@pytest.mark.parametrize(
    ("step", "infer"), [*((step, False) for step in STEPS), ("batch", True), ("part_staged", True)]
)
def test_KA_02_a_run_killed_at_any_step_loads_every_record_once(
    run: Run, harness: KafkaHarness, step: str, infer: bool
) -> None:
    """Wherever a run is killed, and whatever comes before the next one: every committed record is in the target once,
    and no record of an aborted transaction."""
    topic = harness.topic("t")
    harness.make_topic(topic, 2)
    pipeline = lay(harness, "{infer: true}" if infer else "{columns: {id: bigint}}", "quarantine")
    texts(harness, "t", ids(1, 30))
    assert run(pipeline)["code"] == 0
    texts(harness, "t", ids(31, 60), partition=1)
    transaction(str(harness.url), topic, [b'{"id": -1}'] * 5, commit=False)
    transaction(str(harness.url), topic, [one.encode() for one in ids(61, 70)])
    texts(harness, "t", ["poison"])
    assert run(pipeline, step=step)["code"] == -9, step
    texts(harness, "t", ids(71, 75))
    done = run(pipeline)
    assert done["code"] == 0, done
    assert rows(harness) == list(range(1, 76))
    assert len({*rows(harness, "kafka_event_id")}) == 75
    kept = [path.name for path in harness.folder.rglob("*.json") if "quarantine" in path.parts]
    assert kept == [f"{30 + 5 + 1 + 10 + 1:020d}.json"]


def _ends(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    return int(str(ended.value.code or 0)), "".join(capsys.readouterr())


def _digest(folder: Path) -> dict[str, str]:
    """Of every file but locks and the log of runs, which has a line for a stopped run too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name and "runs" not in path.relative_to(folder).parts
    }


def test_KA_03_OUT_16_a_gap_stops_and_its_advice_is_followed(
    harness: KafkaHarness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap is exit code 3 in every run until a person decides, with state and target as they were; what the message
    names then works: --full-refresh reads what is left."""
    monkeypatch.chdir(harness.folder)
    topic = harness.topic("t")
    harness.make_topic(topic, 1)
    lay(harness)
    texts(harness, "t", ids(1, 5))
    assert _ends("run p.yaml --quiet", capsys)[0] == 0
    texts(harness, "t", ids(6, 9))
    harness.call(lambda admin: admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(7)}))
    before = _digest(harness.folder / "state")
    assert before
    for command in ("run p.yaml --quiet", "plan p.yaml", "run p.yaml --quiet"):
        code, said = _ends(command, capsys)
        assert code == 3, said
        assert "offsets 5 to 6 were removed by retention before they were read" in said
        assert "start over with --full-refresh" in said
        assert _digest(harness.folder / "state") == before
    assert rows(harness) == [1, 2, 3, 4, 5]
    assert _ends("run p.yaml --quiet --full-refresh", capsys)[0] == 0
    assert rows(harness) == [8, 9]
    texts(harness, "t", ids(10, 10))
    assert _ends("run p.yaml --quiet", capsys)[0] == 0
    assert rows(harness) == [8, 9, 10]


def test_KA_06_OUT_16_poison_fails_and_its_advice_is_followed(
    harness: KafkaHarness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that cannot be read fails the run and names its place; with the quarantine that the message names, the
    run is green, and its report counts the record."""
    monkeypatch.chdir(harness.folder)
    harness.make_topic(harness.topic("t"), 1)
    lay(harness)
    texts(harness, "t", [*ids(1, 2), "{", *ids(3, 3)])
    code, said = _ends("run p.yaml --quiet", capsys)
    assert code == 1
    assert f"read {harness.topic('t')}, partition 0, offset 2: the record cannot be read" in said
    advice = re.search(r"set options\.poison: \{policy: (\w+)\}", said)
    assert advice is not None
    lay(harness, poison=advice[1])
    code, said = _ends("run p.yaml --quiet --report report.json", capsys)
    assert code == 0, said
    assert rows(harness) == [1, 2, 3]
    [stream] = json.loads((harness.folder / "report.json").read_text())["streams"]
    assert (stream["rows"]["read"], stream["rows"]["quarantined"]) == (4, 1)


def test_a_pipeline_of_kafka_is_checked(
    harness: KafkaHarness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``check --connect`` names cluster and topics, and fails for one that is not there; a key of options that does not
    exist is refused with its line."""
    monkeypatch.chdir(harness.folder)
    path = lay(harness)
    code, said = _ends("check p.yaml --connect", capsys)
    assert (code, "the topic does not exist, or you may not see it" in said) == (1, True), said
    harness.make_topic(harness.topic("t"), 2)
    code, said = _ends("check p.yaml --connect", capsys)
    assert (code, f"{harness.topic('t')}, 2 partitions, cleanup.policy delete" in said) == (0, True), said
    path.write_text(path.read_text().replace("policy: fail", "polici: fail"))
    code, said = _ends("check p.yaml", capsys)
    assert (code, "polici" in said) == (2, True), said
