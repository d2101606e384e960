"""``dpone ops certification-run``: a route passes only if every row was seen in its target; a broken end fails it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from jsonschema import Draft202012Validator
from tests.docs.generate import DOCS
from tests.testing.faulty import FaultySink, FaultyWriter, MappedSource, column
from tests.testing.test_bases import FileLog

from dpone.certify.certification import Certification, Status, certify
from dpone.certify.evidence import Durability
from dpone.errors import ConfigError, DponeError, PluginError, SinkError
from dpone.ops import certification
from dpone.ops.certification import CertificationRun, certification_run
from dpone.testing import crash, scenario
from dpone.testing.builtin import FileHarness, SqliteHarness
from dpone.testing.harness import Harness
from dpone.testing.scenario import KILLS

SCHEMA = Draft202012Validator(json.loads((DOCS / "reference" / "certification-run.schema.json").read_text()))
ROWS = 12
STAGED = 2  # a seed whose second kill comes when parts are staged: DoublesOnRecovery then goes on with them


class LosesANewRow(FaultySink):
    """A row that the first load does not have."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.filter(pc.not_equal(batch["id"], ROWS + 1))


class LosesALateRow(FaultySink):
    """Only a soak comes as far."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.filter(pc.not_equal(batch["id"], ROWS + 12))


class WritesAWrongValue(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield column(batch, "score", lambda score: pc.if_else(pc.equal(batch["id"], 9), 0.5, score))


class DoublesOnRecovery(FaultySink):
    """A load that goes on with staged parts leaves one of its rows twice."""

    class writer(FaultyWriter):
        def __init__(self, inner: Any, sink: Any, load: Any) -> None:
            super().__init__(inner, sink, load)
            self._resumed = bool(inner.staged())

        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            receipt = super().commit(after, position, also)
            if self._resumed:
                self._sink.execute("INSERT INTO {target} SELECT * FROM {target} LIMIT 1")
            return receipt


class Refuses(FaultySink):
    def opened(self, load: Any) -> Any:
        raise SinkError("open", "it will not", "nothing helps")


class SkipsARow(MappedSource):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.filter(pc.not_equal(batch["id"], 9))


class RepeatsARow(MappedSource):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch
        yield batch.filter(pc.equal(batch["id"], 9))


@pytest.fixture(scope="module", autouse=True)
def _one_process_for_all() -> Iterator[None]:
    """Runs are forked from one process for the whole module; that each command ends its own has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenario, "end", lambda: None)
        yield


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Another Harness for an end."""

    def put(role: str, base: type[Harness] = SqliteHarness, implementation: type | None = None, **changes: Any) -> None:
        if implementation is not None:
            changes["implementations"] = {role: f"{__name__}:{implementation.__name__}"}
        other, known = type(base.__name__, (base,), changes), certification._harness
        monkeypatch.setattr(certification, "_harness", lambda end: other if end.role == role else known(end))

    return put


def valid(run: CertificationRun) -> CertificationRun:
    SCHEMA.validate(json.loads(json.dumps(run.to_json())))
    return run


def run(tmp_path: Path, source: str, sink: str, strategy: str, **given: Any) -> CertificationRun:
    return valid(
        certification_run(source, sink, strategy, ROWS, evidence=tmp_path / "evidence", **{"seed": 1, **given})
    )


def shown(tmp_path: Path) -> Certification:
    return certify(tmp_path / "evidence")


def status(tmp_path: Path, source: str, sink: str, strategy: str) -> Status:
    [cell] = [r for r in shown(tmp_path).routes if (r.source, r.sink, r.strategy) == (source, sink, strategy)]
    return cell.status


ROUTES = [
    ("file", "sqlite", "merge"), ("file", "sqlite", "cdc_apply"), ("file", "sqlite", "replace"),
    ("sqlite", "sqlite", "snapshot_diff"), ("sqlite", "sqlite", "scd2"),
    ("sqlite", "sqlite", "partition_replace"), ("sqlite", "file", "full_refresh"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "sink", "strategy"), ROUTES)
def test_a_route_that_holds_passes_and_is_certified(tmp_path: Path, source: str, sink: str, strategy: str) -> None:
    """Every load of it is compared, runs are killed and recovered, and ``dpone certify`` shows the route by it, but no
    capability, for which the kit has more cases."""
    lines: list[str] = []
    done = run(tmp_path, source, sink, strategy, tell=lines.append)
    assert (done.ok, done.outcome.failure, done.outcome.wrong) == (True, "", 0)
    names = [step.name for step in done.outcome.steps]
    assert names[:4] == ["seed", "load", "change", "load"]
    assert (names.count("kill"), names.count("recover"), done.outcome.kills) == (KILLS, KILLS, KILLS)
    assert names.count("change") == names.count("recover") + names.count("load") - 1 == done.outcome.loads - 1
    assert lines[0].startswith("live: ")
    assert lines[0].endswith(f"{strategy}, 12 rows, --seed 1")
    assert len(lines) == len(names) + 1
    assert status(tmp_path, source, sink, strategy) is Status.CERTIFIED
    assert {cell.status for cell in shown(tmp_path).cells if cell.evidence} == {Status.DECLARED}
    [gate] = shown(tmp_path).gates
    assert (gate.connector, gate.gate, gate.status) == (sink, "throughput", Status.INSUFFICIENT)


BROKEN = [
    ("sink", LosesANewRow, "append", "load", 3, "1 row missing, such as (13, 'd1', "),
    ("sink", WritesAWrongValue, "append", "load", 1, "1 row missing, such as (9, 'd0', "),
    ("sink", DoublesOnRecovery, "append", "recover", 9, "1 row not expected, such as (1, 'd1', "),
    ("sink", Refuses, "append", "load", 1, "the run ended with exit code 1: "),
    ("source", SkipsARow, "full_refresh", "load", 1, "1 row missing, such as (9, 'd0', "),
    ("source", RepeatsARow, "full_refresh", "load", 1, "1 row not expected, such as (9, 'd0', "),
]


@pytest.mark.parametrize(("role", "broken", "strategy", "step", "number", "said"), BROKEN)
def test_a_broken_end_fails_the_route(
    tmp_path: Path, harness: Any, role: str, broken: type, strategy: str, step: str, number: int, said: str
) -> None:  # fmt: skip
    """The run ends at the step that saw it, and route, capabilities and gate of its evidence are failed."""
    source, sink = ("file", "sqlite") if role == "sink" else ("sqlite", "file")
    harness(role, implementation=broken)
    done = run(tmp_path, source, sink, strategy, seed=STAGED)
    assert not done.ok
    assert [(one.name, one.ok) for one in done.outcome.steps][number:] == [(step, False)]
    assert done.outcome.steps[-1].said.startswith(said)
    assert done.end().startswith(f"FAILED: {step}: {said}")
    assert status(tmp_path, source, sink, strategy) is Status.FAILED
    failed = {(cell.connector, cell.role) for cell in shown(tmp_path).cells if cell.status is Status.FAILED}
    assert failed == {(source, "source"), (sink, "sink")}
    seen = {gate.status for gate in shown(tmp_path).gates}
    assert seen == ({Status.FAILED} if number == 1 and broken is not Refuses else seen - {Status.FAILED})


def test_a_run_that_passes_replaces_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence of the same route, strategy and servers is of the last run."""
    with monkeypatch.context() as patch:
        broken = type("Broken", (SqliteHarness,), {"implementations": {"sink": f"{__name__}:LosesANewRow"}})
        known = certification._harness
        patch.setattr(certification, "_harness", lambda end: broken if end.role == "sink" else known(end))
        assert not run(tmp_path, "file", "sqlite", "append").ok
    assert status(tmp_path, "file", "sqlite", "append") is Status.FAILED
    done = run(tmp_path, "file", "sqlite", "append")
    assert (done.ok, {*done.evidence}) == (True, {*(tmp_path / "evidence").iterdir()})
    assert status(tmp_path, "file", "sqlite", "append") is Status.CERTIFIED
    assert Status.FAILED not in {cell.status for cell in shown(tmp_path).cells}


def test_a_soak_finds_what_comes_late(tmp_path: Path, harness: Callable[..., None]) -> None:
    """It ends at once, and the gate has failed; the steps before it were right."""
    harness("sink", implementation=LosesALateRow)
    done = run(tmp_path, "file", "sqlite", "append", soak=timedelta(minutes=2))
    assert [(one.name, one.ok) for one in done.outcome.steps][-2:] == [("recover", True), ("soak", False)]
    assert (done.ok, done.outcome.wrong) == (False, 1)
    assert "1 row missing, such as (24, " in done.end()
    gates = {gate.gate: gate.status for gate in shown(tmp_path).gates}
    assert gates == {"throughput": Status.INSUFFICIENT, "soak": Status.FAILED}


def test_a_soak_that_is_short_does_not_count(tmp_path: Path) -> None:
    """It passes, and ``dpone certify`` says how much is lacking."""
    done = run(tmp_path, "file", "sqlite", "merge", soak=timedelta(seconds=0.3))
    assert done.ok
    assert done.to_json()["soak"]["loads"] >= 3
    [gate] = [gate for gate in shown(tmp_path).gates if gate.gate == "soak"]
    assert (gate.status, [why.split()[0] for why in gate.lacking][:2]) == (Status.INSUFFICIENT, ["seconds", "kills"])


def test_a_run_whose_kills_did_not_happen_has_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is right, and recovery was not seen often enough."""
    monkeypatch.setattr(scenario, "POINTS", ((("locked", 1),), (("batch", 99),)))
    done = run(tmp_path, "file", "sqlite", "append")
    assert (done.ok, done.outcome.kills, done.outcome.wrong) == (False, 1, 0)
    assert done.end().splitlines()[0] == "FAILED: too few runs could be killed"
    assert "not killed: at batch, number 99 never came, every row equal" in {s.said for s in done.outcome.steps}
    assert status(tmp_path, "file", "sqlite", "append") is Status.FAILED


def test_a_seed_repeats_the_choices(tmp_path: Path) -> None:
    """The same rows change, and the same steps are killed."""
    seen = [[(s.name, s.rows, s.said.split(",")[0]) for s in run(tmp_path, "file", "sqlite", "merge", seed=seed)
             .outcome.steps if s.name in ("kill", "change")] for seed in (5, 5, 6)]  # fmt: skip
    assert seen[0] == seen[1] != seen[2]


def test_a_substitute_is_shown_as_simulated(tmp_path: Path, harness: Callable[..., None]) -> None:
    """In the first line, in the JSON and in the evidence."""
    harness("source", FileHarness, live=False)
    lines: list[str] = []
    done = run(tmp_path, "file", "sqlite", "append", tell=lines.append)
    assert lines[0].startswith("simulated: file (")
    assert [done.to_json()[name]["reached"] for name in ("source", "sink")] == ["simulated", "live"]
    assert done.to_json()["reached"] == "simulated"
    assert status(tmp_path, "file", "sqlite", "append") is Status.SIMULATED


@pytest.mark.parametrize("strategy", ["merge", "scd2", "partition_replace", "full_refresh"])
def test_a_log_that_only_grows_is_read_by_its_increments(
    tmp_path: Path, harness: Callable[..., None], strategy: str
) -> None:
    """There a changed row is one more record, and the strategy makes of it what it says."""
    harness("source", FileLog)
    assert run(tmp_path, "file", "sqlite", strategy).outcome.failure == ""


def test_the_outcome_is_not_lost_with_the_evidence(tmp_path: Path) -> None:
    """A folder that is gone at the end is an error which has the outcome, after it was shown; another one works."""
    folder, lines = tmp_path / "evidence", list[str]()

    def tell(line: str) -> None:
        lines.append(line)
        if folder.is_dir():
            folder.rmdir()
            folder.write_text("")

    with pytest.raises(DponeError, match=r"the run itself passed; .* with --seed 1$"):
        run(tmp_path, "file", "sqlite", "append", tell=tell)
    assert lines[-1].startswith("passed: ")
    assert run(tmp_path / "other", "file", "sqlite", "append").evidence


@pytest.mark.parametrize("strategy", ["snapshot_diff", "replace"])
def test_a_harness_that_cannot_change_its_source_says_so(
    tmp_path: Path, harness: Callable[..., None], strategy: str
) -> None:
    """In one line, and without evidence."""
    harness("source", FileLog)
    lines: list[str] = []
    with pytest.raises(ConfigError) as raised:
        run(tmp_path, "file", "sqlite", strategy, tell=lines.append)
    said = f"certify file -> sqlite by {strategy}: FileLog has no rewrite; choose another source or strategy"
    assert (str(raised.value), lines) == (said, [])
    assert [*(tmp_path / "evidence").iterdir()] == []


def test_a_server_that_nobody_named_is_asked_for(tmp_path: Path, harness: Callable[..., None]) -> None:
    """Neither the environment nor a stand-in has one: the message names the variable."""
    harness("source", FileHarness, variable="DPONE_TEST_OF_NONE")
    with pytest.raises(ConfigError) as raised:
        run(tmp_path, "file", "sqlite", "append")
    assert str(raised.value) == (
        "find a server for source file: DPONE_TEST_OF_NONE is not set; "
        "set DPONE_TEST_OF_NONE to the address of a server"
    )


def test_a_harness_that_cannot_be_imported_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the extra ``testing`` of a connector brings what its Harness imports."""
    gone = PluginError("import it", "ModuleNotFoundError: no module acme", "reinstall the connector")
    monkeypatch.setattr(certification, "resolve", lambda reference: (_ for _ in ()).throw(gone))
    with pytest.raises(PluginError, match=r"ModuleNotFoundError: no module acme; install the extra testing of"):
        certification_run("file", "sqlite", "append")


class Served(SqliteHarness):
    """Its server is a file that a variable names."""

    variable = "DPONE_TEST_SERVED"
    asked: list[str] = []  # noqa: RUF012  # one list for all

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked.append(os.environ[self.variable])

    def durability(self) -> Durability:
        return Durability(True)


def test_a_connection_names_the_server(tmp_path: Path, harness: Callable[..., None]) -> None:
    """By its name in a pipeline file; its address stands for the variable while the Harness is made, and only then."""
    (tmp_path / "p.yaml").write_text("shop: 'sqlite:///shop.db'\n")
    harness("sink", Served)
    Served.asked.clear()
    assert run(tmp_path, "file", "shop", "append", pipeline=tmp_path / "p.yaml").sink.reached == "live"
    assert Served.asked == ["sqlite:///shop.db"]
    assert "DPONE_TEST_SERVED" not in os.environ
    assert not (tmp_path / "shop.db").exists()


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder nor a process, after a run that passed."""
    monkeypatch.setattr(scenario, "end", crash.end)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert run(tmp_path, "sqlite", "file", "append").ok
    assert [*(tmp_path / "temporary").iterdir()] == []
    assert crash._processes == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    """After SIGTERM in a soak: exit code 130, no folder, no process, no evidence."""
    words: tuple[str, ...] = (
        "--source",
        "sqlite",
        "--sink",
        "sqlite",
        "--strategy",
        "merge",
        "--rows",
        "12",
        "--soak",
        "10m",
    )
    command = [
        sys.executable,
        "-m",
        "dpone",
        "ops",
        "certification-run",
        *words,
        "--evidence",
        str(tmp_path / "evidence"),
    ]
    (tmp_path / "temporary").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "recover" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "error: interrupted\n")
    assert "passed" not in out
    assert [*(tmp_path / "temporary").iterdir()] == []
    assert [*(tmp_path / "evidence").iterdir()] == []
    assert len(children) == 1
    until = time.monotonic() + 60
    while Path(f"/proc/{children[0]}").exists():
        assert time.monotonic() < until


def test_it_needs_nothing_of_the_extra_testing() -> None:
    """An installation without pytest and hypothesis runs the routes of the built-in connectors."""
    code = "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None; " \
           "import dpone.ops.certification, dpone.testing.builtin"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
