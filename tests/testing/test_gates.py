"""The gates of a connector: what they find, and what they write. How fast or how long is asserted nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.testing.faulty import FaultySink, MappedSource

from dpone.certify import certification
from dpone.certify.certification import Status
from dpone.certify.evidence import Durability
from dpone.errors import SinkError
from dpone.testing import gates
from dpone.testing.builtin import SqliteHarness
from dpone.testing.crash import TIMED, runs
from dpone.testing.harness import Harness, opened
from dpone.testing.loads import SINGLE
from dpone.testing.rows import same, sample


class LosesTheNinth(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.filter(pa.array([number != 9 for number in batch["id"].to_pylist()]))


class DoublesTheNinth(MappedSource):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch
        yield batch.filter(pa.array([number == 9 for number in batch["id"].to_pylist()]))


class Refuses(FaultySink):
    def opened(self, load: Any) -> Any:
        raise SinkError("open", "it will not", "nothing helps")


@pytest.fixture
def with_(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Another class in the place of one of sqlite's, and a system that says it syncs though its folder is in memory."""

    def put(role: str, connector: type | None, synced: bool = True) -> None:
        @contextmanager
        def opened_with(*args: Any) -> Iterator[Harness]:
            with opened(*args) as harness:
                harness.durability = lambda: Durability(synced, {})  # type: ignore[method-assign]
                if connector is not None and harness.connector == "sqlite":
                    harness.implementations = {role: f"{connector.__module__}:{connector.__name__}"}
                yield harness

        monkeypatch.setattr(gates, "opened", opened_with)

    return put


def call(tmp_path: Path, *words: str) -> tuple[int, dict[str, float], Any]:
    """Exit code, figures by name, and how ``dpone certify`` takes it."""
    where = ("--evidence", str(tmp_path / "evidence"), "--folder", str(tmp_path))
    code = gates.main([*words, *where])
    [path] = (tmp_path / "evidence").iterdir()
    [result] = json.loads(path.read_text())["results"]
    [cell] = certification.certify(tmp_path / "evidence").gates
    return code, {one["name"]: one["figure"] for one in result["measures"]}, cell


SOAK = ("soak", "sqlite", "--seed", "1", "--minutes")
LOAD = ("throughput", "sqlite", "--rows", "3000", "--times", "1", "--at-least")


def test_a_short_soak_is_what_it_is(tmp_path: Path, with_: Any) -> None:
    """It passes, is not enough to count, and says how long it was; its files are gone."""
    with_("sink", None)
    code, figures, cell = call(tmp_path, *SOAK, "0.01")
    assert (code, figures["wrong_rows"], figures["stuck_runs"], cell.status) == (0, 0, 0, Status.INSUFFICIENT)
    assert figures["runs"] >= figures["loads"] >= 1
    assert [why.split()[0] for why in cell.lacking] == ["seconds", "kills"]
    assert cell.about["roles"] == ["sink", "source"]
    assert [path.name for path in tmp_path.iterdir()] == ["evidence"]


def test_a_soak_of_enough_counts(tmp_path: Path, with_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rule's own numbers, which are smaller here."""
    monkeypatch.setitem(gates.ENOUGH, "soak", {"seconds": 0.001, "kills": 0})
    with_("sink", None)
    code, figures, cell = call(tmp_path, *SOAK, "0.01")
    assert (code, cell.status, cell.lacking) == (0, Status.CERTIFIED, ())
    assert figures["runs"] >= figures["kills"] + figures["loads"]


def test_a_run_is_ended_wherever_it_is(tmp_path: Path) -> None:
    """Of a run that is given a millisecond nothing is left but what the next one finishes."""
    run = runs(SqliteHarness(tmp_path), SINGLE["append"])
    run.add(sample(1, 3))
    assert run.apart(0.001) == (TIMED, "")
    assert run.apart()[0] == 0
    same(run.harness.rows(), sample(1, 3))


def test_a_soak_changes_role_and_strategy(tmp_path: Path) -> None:
    """Sink and source in turn, and each strategy that the sink has; the state is kept by the connector."""
    ways = [gates._way(SqliteHarness(tmp_path / str(n)), ("sink", "source")[n % 2], n, True) for n in range(10)]
    assert [way.strategy for way in ways[::2]] == ["append", "merge", "snapshot_diff", "scd2", "full_refresh"]
    assert {way.strategy for way in ways[1::2]} == {"append"}
    assert {way.runs.pipeline.state.type for way in ways} == {"sqlite"}
    ends = [(stream.source.type, stream.sink.type) for way in ways[:2] for stream in way.runs.pipeline.streams]
    assert ends == [("file", "sqlite"), ("sqlite", "file")]


@pytest.mark.parametrize(("role", "connector"), [("sink", LosesTheNinth), ("source", DoublesTheNinth)])
def test_a_soak_finds_rows_that_are_wrong(
    tmp_path: Path, with_: Any, capsys: pytest.CaptureFixture[str], role: str, connector: type
) -> None:
    """A row that is lost or doubled ends it at once: failed, exit code 1, and the seed to repeat it with."""
    with_(role, connector)
    code, figures, cell = call(tmp_path, *SOAK, "2")
    assert (code, figures["wrong_rows"], cell.status) == (1, 1, Status.FAILED)
    assert "repeat it with --seed 1" in capsys.readouterr().err


def test_a_soak_finds_runs_that_do_not_come_to_rest(
    tmp_path: Path, with_: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that nobody disturbs and that fails again and again: failed, with what the run said."""
    monkeypatch.setattr(gates, "REST", 0.1)
    with_("sink", Refuses)
    code, figures, cell = call(tmp_path, *SOAK, "2")
    assert (code, figures["stuck_runs"], cell.status) == (1, 1, Status.FAILED)
    assert "it will not" in capsys.readouterr().err


def test_throughput_is_measured_both_ways(tmp_path: Path, with_: Any) -> None:
    """The slower direction counts; too few rows do not, whatever the bar."""
    with_("sink", None)
    code, figures, cell = call(tmp_path, *LOAD, "1")
    assert (code, figures["rows"], figures["wrong_rows"], cell.status) == (0, 3000, 0, Status.INSUFFICIENT)
    assert figures["rows_per_second"] == min(figures["as_sink_rows_per_second"], figures["as_source_rows_per_second"])
    assert 20 < figures["peak_mb"] < 2000
    assert cell.lacking == ("rows 3,000 of 1,000,000",)


def test_a_missed_bar_breaks_no_build(tmp_path: Path, with_: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands in the evidence, and the gate has failed."""
    with_("sink", None)
    code, _, cell = call(tmp_path, *LOAD, "1e12")
    assert (code, cell.status) == (0, Status.FAILED)
    assert "MISSED rows_per_second" in capsys.readouterr().out


@pytest.mark.parametrize(("role", "connector"), [("sink", LosesTheNinth), ("source", DoublesTheNinth)])
def test_a_fast_load_of_wrong_rows_is_not_throughput(tmp_path: Path, with_: Any, role: str, connector: type) -> None:
    """Rows that are lost or doubled fail it, and the command."""
    with_(role, connector)
    code, figures, cell = call(tmp_path, *LOAD, "1")
    assert (code, cell.status) == (1, Status.FAILED)
    assert figures["wrong_rows"] > 0


def test_a_place_that_does_not_sync_does_not_count(tmp_path: Path, with_: Any) -> None:
    """Figures of a system that may lose what it confirmed are shown, and do not count."""
    with_("sink", None, synced=False)
    _, _, cell = call(tmp_path, *LOAD, "1")
    assert cell.lacking == ("rows 3,000 of 1,000,000", "SQLite does not sync writes to disk")


@pytest.mark.parametrize("name", ["file_changelog", "nobody"])
def test_what_has_no_gate_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A change reader, and a connector that is not installed, are refused before anything is run."""
    code = gates.main(["soak", name, "--evidence", str(tmp_path / "evidence")])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name in err
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("soak", "sqlite", "--folder", "nowhere"), "argument --folder: there is no folder nowhere; make it"),
        (
            ("soak", "sqlite", "--evidence", "a file/evidence"),
            "a file is not a folder that can be written; name another",
        ),
        (("soak", "sqlite", "--evidence", "a file"), "a file is not a folder that can be written; name another"),
        (("soak", "sqlite", "--minutes", "-1"), "argument --minutes: -1 is not above 0"),
        (("soak", "sqlite", "--minutes", "some"), "argument --minutes: invalid float value: 'some'"),
        (("throughput", "sqlite", "--at-least", "1", "--rows", "0"), "argument --rows: 0 is not above 0"),
        (("throughput", "sqlite", "--at-least", "1", "--times", "0"), "argument --times: 0 is not above 0"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: Any, said: str
) -> None:
    """Before anything runs, and in one line: half an hour later the evidence would have no place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    monkeypatch.setattr(gates, "Gate", None)
    with pytest.raises(SystemExit, match="2"):
        gates.main(given)
    assert said in capsys.readouterr().err.splitlines()[-1]
