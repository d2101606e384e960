"""A sink that keeps no journal (``Connector.commit`` none): killed anywhere, every row arrives at least once, with one
id on all its deliveries, and later runs deliver only what is new.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from attrs import evolve
from pyarrow.csv import write_csv
from tests.patience import PATIENCE
from tests.webhook.harness import Receiver, WebhookHarness

from dpone.certify import certification
from dpone.contract import Entry, Versioned
from dpone.engine.recovery import entry_of as kept
from dpone.engine.recovery import journal_of
from dpone.engine.rewind import rewind
from dpone.engine.run import Run
from dpone.model.events import STEPS
from dpone.model.position import Position
from dpone.model.report import StreamReport
from dpone.plugins import discover
from dpone.testing import SinkContract, crash
from dpone.testing.loads import APPEND
from dpone.testing.rows import Row, sample, table

TABLE = "orders"
ROOT = Path(__file__).parents[2]


class TestWebhookSink(SinkContract):
    """The base that every sink has, certified without a journal."""

    @pytest.fixture
    def harness(self, tmp_path: Path, server: Receiver) -> WebhookHarness:
        return WebhookHarness(tmp_path, server)


def rows_of(table: pa.Table) -> list[Row]:
    return [tuple(row.values()) for row in table.to_pylist()]


def delivered(server: Receiver) -> Counter[Row]:
    """How often each row came. No row had two ids, and no two rows one."""
    ids, rows = defaultdict(set), defaultdict(set)
    for id, row in server.deliveries(TABLE):
        ids[row].add(id)
        rows[id].add(row)
    assert [row for row, found in ids.items() if len(found) > 1] == []
    assert [id for id, found in rows.items() if len(found) > 1] == []
    return Counter(row for _, row in server.deliveries(TABLE))


def runs(harness: WebhookHarness) -> crash.Runs:
    """One file is loaded, two more wait; each row is one of its own."""
    run = crash.runs(harness, APPEND, TABLE)
    run.add(sample(1, 5))
    assert run.here().exit_code == 0
    run.add(sample(6, 11))
    run.add(sample(12, 15))
    return run


def between(harness: WebhookHarness, rows: pa.Table) -> None:
    """A file that sorts before those that wait: their parts have other places in the next window."""
    pq.write_table(rows, harness.folder / f"in_{TABLE}" / "0000.parquet")


@pytest.mark.parametrize("grows", [False, True], ids=["same", "grown"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(harness: WebhookHarness, server: Receiver, step: str, grows: bool) -> None:
    """The next run delivers what was not confirmed, also where the source has got more meanwhile; twice is only what
    was confirmed and not saved, and the id is the same."""
    run = runs(harness)
    run.killed(step)
    if grows:
        between(harness, sample(16, 18))
    report = run.here()
    assert report.exit_code == 0, report.streams[0].error
    assert run.here().streams[0].status == "caught_up"
    again = range(6, 16) if step == "committed" else ()
    expected = {row: 2 if row[0] in again else 1 for row in rows_of(sample(1, 18 if grows else 15))}
    assert delivered(server) == expected


@pytest.fixture
def pipeline(tmp_path: Path, server: Receiver) -> Path:
    """A pipeline file over three files of four rows each, delivered in requests of two."""
    (tmp_path / "data").mkdir()
    for n in range(3):
        pq.write_table(sample(4 * n + 1, 4 * n + 4), tmp_path / "data" / f"{n}.parquet")
    text = {
        "pipeline": "p",
        "source": {"type": "file", "path": "data/*.parquet"},
        "sink": {"type": "webhook", "connection": server.url, "table": TABLE, "strategy": {"mode": "append"}},
        "state": {"type": "file", "path": ".dpone/state"},
        "runtime": {"batch_rows": 2, "retries": 0},
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "pipeline.yaml"


def process(pipeline: Path, site: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    command = [sys.executable, "-m", "dpone", "run", str(pipeline), "--format", "json"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("nth", [1, 2, 6])
def test_killed_while_it_delivers(pipeline: Path, server: Receiver, site: Path, nth: int, kept: bool) -> None:
    """SIGKILL before a request is taken, and before it is answered: what was taken comes again with its id."""

    started: Future[subprocess.Popen[str]] = Future()

    def kill(number: int) -> int:
        if number == nth:
            running = started.result(PATIENCE)
            running.kill()
            running.wait()
        return 200 if number != nth or kept else 500

    setattr(server, "after" if kept else "before", kill)
    with process(pipeline, site) as running:
        started.set_result(running)
        running.communicate(timeout=PATIENCE)
    taken = delivered(server)
    assert running.returncode == -9
    assert len(taken) == 2 * (nth if kept else nth - 1)
    server.before = server.after = lambda n: 200
    [report] = run_of(pipeline).execute().streams
    assert report.status == "loaded", report.error
    assert delivered(server) == {row: 1 + taken[row] for row in rows_of(sample(1, 12))}


def run_of(pipeline: Path, **options: Any) -> Run:
    from dpone.config.reader import load_pipeline

    return Run(load_pipeline(pipeline), plugins=discover(), **options)


def loaded(pipeline: Path) -> StreamReport:
    [stream] = run_of(pipeline).execute().streams
    assert stream.error is None
    return stream


def value(pipeline: Path) -> tuple[Path, dict[str, Any]]:
    """The file of the state and what is in it."""
    [path] = (pipeline.parent / ".dpone" / "state").glob("*.json")
    return path, json.loads(path.read_text())


def test_later_runs_deliver_what_is_new(pipeline: Path, server: Receiver) -> None:
    """The state is the journal: nothing stops the second run, and nothing comes twice. The report says what holds."""
    first = loaded(pipeline)
    assert (first.status, first.delivery, first.rows.inserted) == ("loaded", "at least once", 12)
    pq.write_table(sample(20, 21), pipeline.parent / "data" / "9.parquet")
    assert [loaded(pipeline).status for _ in range(2)] == ["loaded", "caught_up"]
    assert delivered(server) == dict.fromkeys([*rows_of(sample(1, 12)), *rows_of(sample(20, 21))], 1)


def test_equal_rows_are_two(pipeline: Path, server: Receiver) -> None:
    """Rows that are alike in every column have an id each, in one file and in two."""
    for path in (pipeline.parent / "data").iterdir():
        pq.write_table(table([(1, "d1", "same", None)] * 2), path)
    loaded(pipeline)
    assert len({id for id, _ in server.deliveries(TABLE)}) == 6


def test_a_state_of_an_earlier_version_is_the_journal(pipeline: Path, server: Receiver) -> None:
    """A state that was saved as a copy has a position to go on from."""
    loaded(pipeline)
    path, document = value(pipeline)
    del document["history"][0]["value"]["journal"]
    path.write_text(json.dumps(document))
    pq.write_table(sample(20, 21), pipeline.parent / "data" / "9.parquet")
    assert loaded(pipeline).status == "loaded"
    assert len(server.deliveries(TABLE)) == 14


@pytest.mark.parametrize("answer", ["before", "after"])
def test_a_refusal_is_no_loss(pipeline: Path, server: Receiver, answer: str) -> None:
    """A request that is refused, or whose answer says so though its rows were taken, fails the run; the state stays,
    and the next run delivers all of it."""
    setattr(server, answer, lambda n: 503 if n == 3 else 200)
    [stream] = run_of(pipeline).execute().streams
    assert stream.error is not None
    assert (stream.status, stream.error.category) == ("failed", "transient")
    assert loaded(pipeline).status == "loaded"
    assert set(delivered(server)) == set(rows_of(sample(1, 12)))


def test_the_cut_of_a_file_changes_no_id(pipeline: Path, server: Receiver) -> None:
    """With runtime.partitions, too: a file that comes along changes how the others would be split."""
    text = yaml.safe_load(pipeline.read_text())
    text["runtime"] = {"partitions": 4, "batch_rows": 100, "retries": 0}
    text["source"] |= {"path": "data/*.csv", "options": {"newlines_in_values": False}}
    pipeline.write_text(yaml.safe_dump(text))
    write_csv(sample(1, 3000), pipeline.parent / "data" / "a.csv")
    server.before = lambda n: 503 if n == 20 else 200
    [stream] = run_of(pipeline).execute().streams
    assert stream.status == "failed"
    write_csv(sample(3001, 9000), pipeline.parent / "data" / "b.csv")
    assert loaded(pipeline).status == "loaded"
    assert len(delivered(server)) == 9000


def test_a_rewind_delivers_again_under_new_ids(pipeline: Path, server: Receiver) -> None:
    """It was asked for: the rows are other deliveries, and the epoch is a new one."""
    loaded(pipeline)
    first = {id for id, _ in server.deliveries(TABLE)}
    rewind(run_of(pipeline).pipeline, TABLE, None, discover())
    report = loaded(pipeline)
    assert report.position_after is not None
    assert (report.rows.inserted, report.position_after["epoch"]) == (12, 1)
    assert len(first | {id for id, _ in server.deliveries(TABLE)}) == 24


def test_a_runner_that_was_overtaken_delivers_nothing(
    pipeline: Path, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state moved on while the load was staged: Conflict before the first request."""
    loaded(pipeline)
    pq.write_table(sample(20, 21), pipeline.parent / "data" / "9.parquet")
    run, real, before = run_of(pipeline), Run.tell, len(server.deliveries(TABLE))

    def tell(self: Run, step: Any, *args: Any, **data: Any) -> None:
        real(self, step, *args, **data)
        if step == "staged":
            overtake(run.pipeline)

    monkeypatch.setattr(Run, "tell", tell)
    [stream] = run.execute().streams
    assert stream.error is not None
    assert (stream.error.kind, len(server.deliveries(TABLE))) == ("Conflict", before)


def overtake(pipeline: Any) -> None:
    """Another runner saves, as one does that took the lease over."""
    from contextlib import closing

    run = Run(pipeline, plugins=discover())
    with closing(run.make("state", pipeline.state)) as state:
        [spec] = run.streams()
        saved = state.load(spec.key(pipeline.name))
        state.save(spec.key(pipeline.name), saved.value, saved.version)


def test_a_momentary_read_has_ids_of_its_own() -> None:
    """Where nothing names the rows of a part, no id is used for another row of a later attempt."""
    from dpone.cdc.event_ids import event_ids
    from dpone.contract import Part
    from dpone.testing.loads import new_load
    from dpone.testing.rows import SHAPE

    [batch] = sample(1, 3).to_batches()
    one, two = (new_load(SHAPE, APPEND, origin="same") for _ in range(2))
    assert not {*event_ids(one, Part("p"), batch, 0).to_pylist()} & {*event_ids(two, Part("p"), batch, 0).to_pylist()}
    named = Part("p", content="a.csv 12ab")
    assert event_ids(one, named, batch, 0) == event_ids(two, evolve(named, id="q"), batch, 0)
    assert event_ids(one, named, batch, 3)[0] != event_ids(one, named, batch, 0)[0]


def test_the_state_holds_the_whole_entry() -> None:
    """What a journal would have is there again: token, counts and time too. A damaged state has no entry."""
    position, now = Position("files", {"path": "a"}, {"n": 1}, 2), datetime.now(UTC)
    entry = Entry(3, 2, "load", "run", "token", position, now, {"inserted": 4})
    saved = Versioned(json.loads(json.dumps(journal_of(entry))), 1, now + timedelta(1))
    assert kept(saved) == entry
    assert kept(evolve(saved, value={**saved.value, "position": "?"})) is None
    assert kept(None) is None


def test_the_matrix_says_what_holds() -> None:
    """At least once, and that a journal is what it lacks."""
    found = certification.certify(None, ("webhook",))
    cells: Mapping[str, str] = {c.capability: c.status for c in found.cells}
    assert found.delivery == {"webhook": "at least once (none)"}
    assert (cells["write"], cells["exactly_once"]) == ("declared", "unsupported")
    assert "| delivery (commit) | at least once (none) |" in certification.to_markdown(found)


def test_a_position_set_by_hand_is_kept(pipeline: Path, server: Receiver) -> None:
    """The rewind is the journal's head: a run from there delivers what comes after it."""
    position = loaded(pipeline).position_after
    assert position is not None
    pq.write_table(sample(20, 21), pipeline.parent / "data" / "9.parquet")
    rewind(run_of(pipeline).pipeline, TABLE, Position.from_json(position), discover())
    assert loaded(pipeline).rows.inserted == 2
