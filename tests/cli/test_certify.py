"""``dpone certify``: nothing is certified without a recorded run of the files that are installed."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.cli.schemas import require_valid

from dpone import plugins
from dpone.capability import CAPABILITIES
from dpone.certify import certification, evidence
from dpone.certify.certification import Level, Status
from dpone.certify.evidence import (
    GATES,
    Durability,
    Measure,
    Server,
    write,
    write_gate,
)
from dpone.cli.main import main
from dpone.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
LIVE, STANDIN = Server("SQLite", "3.40.1", True), Server("Fake", "1", False)
# What sqlite declares, from its plugin file by hand; a case for each.
DECLARED = {
    "source": (
        "read", "query", "snapshot", "incremental_cursor", "late_commits", "partitions", "mixed_snapshots",
    ),
    "sink": (
        "write", "full_refresh", "append", "merge", "replace", "partition_replace", "snapshot_diff", "scd2",
        "cdc_apply",
        "exactly_once", "schema_evolution", "lineage", "resume", "many_tables", "undo", "sweep", "move",
        "take_back", "replace_columns", "refuse", "verify", "compare_keys", "sql",
    ),
    "state": ("compare_and_set", "history", "lock", "partitions", "run_log"),
}  # fmt: skip


def record(
    folder: Path,
    role: str = "state",
    capabilities: Sequence[str] = DECLARED["state"],
    server: Server = LIVE,
    results: Mapping[str, str] | None = None,
    names: Sequence[str] = ("sqlite",),
    suite: str = "Test",
    quirks: Mapping[str, str] | None = None,
    left_out: Mapping[str, Any] | None = None,
) -> Path:
    """Evidence of two cases per capability. ``results``: case -> passed, failed, or skipped."""
    required = {capability: (f"{capability}_1", f"{capability}_2") for capability in capabilities}
    seen = [
        {"case": case, "capability": capability, "declared": "supported", "seconds": 0.1, "at": "2024-05-06T07:08:09",
         "result": (results or {}).get(case, "passed"), "left_out": (left_out or {}).get(case, {})}
        for capability, cases in required.items() for case in cases
        if (results or {}).get(case) != "skipped"
    ]  # fmt: skip
    servers = [server] * len(names)
    return write(folder, role, names, servers, seen, required=required, quirks=quirks, suite=suite)


def status(folder: Path | None, role: str = "state", capability: str = "lock") -> Status:
    found = certification.certify(folder)
    [cell] = [c for c in found.cells if (c.connector, c.role, c.capability) == ("sqlite", role, capability)]
    return cell.status


def everything(folder: Path, server: Server = LIVE) -> None:
    for role, capabilities in DECLARED.items():
        record(folder, role, capabilities, server)


def test_without_evidence_nothing_is_certified() -> None:
    """No evidence: every declared cell says declared, and the first line says so."""
    found = certification.certify()
    statuses = {cell.status for cell in found.cells} | {route.status for route in found.routes}
    assert statuses == {Status.DECLARED, Status.UNSUPPORTED, Status.NOT_IMPLEMENTED}
    assert {connector.level for connector in found.connectors} == {Level.NONE}
    assert certification.said(found).startswith("No evidence was given, so nothing is certified")


def test_evidence_is_read_from_a_folder_only(tmp_path: Path) -> None:
    """A file is there, so the message does not say that it is not."""
    (tmp_path / "file").touch()
    for name, found in (("file", "it is not a folder"), ("none", "the folder does not exist")):
        with pytest.raises(ConfigError, match=f"read evidence {tmp_path / name}: {found}; use the folder that "):
            certification.certify(tmp_path / name)


def test_every_cell_is_there() -> None:
    """The matrix has a cell for each capability of each role of each connector."""
    cells = certification.certify().cells
    mine = [(c.role, c.capability) for c in cells if c.connector == "sqlite"]
    assert mine == [(role, c) for role in ("source", "sink", "state") for c in CAPABILITIES[role]]


def test_a_passed_run_certifies(tmp_path: Path) -> None:
    """Every case passed, live, with the installed files: certified, with the server it was seen on."""
    record(tmp_path)
    [cell] = [c for c in certification.certify(tmp_path).cells if (c.connector, c.capability) == ("sqlite", "lock")]
    assert (cell.status, cell.servers) == (Status.CERTIFIED, ("SQLite 3.40.1",))


def test_what_is_not_declared_stays_so(tmp_path: Path) -> None:
    """Evidence makes no capability of what the plugin does not declare."""
    record(tmp_path, "sink", ("native_stream", "parallel_stage"))
    assert status(tmp_path, "sink", "native_stream") is Status.UNSUPPORTED
    assert status(tmp_path, "sink", "parallel_stage") is Status.NOT_IMPLEMENTED


def test_a_failed_case_fails_the_capability(tmp_path: Path) -> None:
    """One failed case is enough, also beside another suite that passed."""
    record(tmp_path, suite="other")
    record(tmp_path, results={"lock_2": "failed"})
    assert status(tmp_path) is Status.FAILED
    assert status(tmp_path, capability="history") is Status.CERTIFIED


def test_a_skipped_case_leaves_the_capability_declared(tmp_path: Path) -> None:
    """Some of the cases are not all of them."""
    record(tmp_path, results={"lock_2": "skipped"})
    assert status(tmp_path) is Status.DECLARED


def test_a_quirk_is_not_required(tmp_path: Path) -> None:
    """A case that the system cannot have is not missed, and is shown; a capability of quirks alone is not certified."""
    record(tmp_path, results={"lock_2": "skipped"}, quirks={"lock_2": "no clock"})
    [cell] = [c for c in certification.certify(tmp_path).cells if (c.connector, c.capability) == ("sqlite", "lock")]
    assert (cell.status, cell.quirks) == (Status.CERTIFIED, {"lock_2": "no clock"})
    skipped = {"lock_1": "skipped", "lock_2": "skipped"}
    record(tmp_path, results=skipped, quirks=dict.fromkeys(skipped, "no clock"))
    assert status(tmp_path) is Status.DECLARED


def test_a_stand_in_is_simulated(tmp_path: Path) -> None:
    """A stand-in shows that it works, never that it works on the real thing; live evidence beside it does."""
    record(tmp_path, server=STANDIN)
    assert status(tmp_path) is Status.SIMULATED
    record(tmp_path)
    assert status(tmp_path) is Status.CERTIFIED


@pytest.mark.parametrize("changed", ["dpone", "sqlite"])
def test_evidence_of_other_files_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """Where a file of core or of the plugin is another one now, the evidence is stale, passed or failed."""
    record(tmp_path, results={"history_1": "failed"})
    real = evidence.digest
    monkeypatch.setattr(certification, "digest", lambda name: "0" * 64 if name == changed else real(name))
    assert {status(tmp_path), status(tmp_path, capability="history")} == {Status.STALE}


def test_a_changed_file_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest covers names and contents of a package's files, and nothing that Python left there."""
    package = tmp_path / "acme_kit_test"
    (package / "__pycache__").mkdir(parents=True)
    module = package / "__init__.py"
    module.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(evidence, "_packages", lambda plugins, name: {"acme_kit_test"})
    seen = set()
    for text in ("x = 1\n", "x = 2\n"):
        module.write_text(text)
        evidence.digest.cache_clear()
        seen.add(evidence.digest("acme"))
        (package / "__pycache__" / "x.pyc").write_text(text)
        evidence.digest.cache_clear()
        seen.add(evidence.digest("acme"))
    module.rename(package / "other.py")
    evidence.digest.cache_clear()
    assert evidence.digest("acme") not in seen
    assert len(seen) == 2
    evidence.digest.cache_clear()


def test_a_route_is_certified_by_its_runs(tmp_path: Path) -> None:
    """Evidence of a route says what was run from which source to which sink, by which strategy."""
    record(tmp_path, "route", ("append",), names=("file", "sqlite"))
    found = {(r.source, r.sink, r.strategy): r.status for r in certification.certify(tmp_path).routes}
    assert found["file", "sqlite", "append"] is Status.CERTIFIED
    assert found["file", "sqlite", "merge"] is Status.DECLARED
    assert found["sqlite", "file", "append"] is Status.DECLARED
    assert found["sqlite", "file", "merge"] is Status.UNSUPPORTED


SAFE = Durability(True, {"fsync": "on"})
SYNCED, STANDIN_SYNCED = evolve(LIVE, durability=SAFE), evolve(STANDIN, durability=SAFE)
# What each gate must have measured, by hand from docs/reference/certification.md.
FIGURES = {
    "throughput": {"rows_per_second": (5e5, 1e5, None), "peak_mb": (200, None, 250), "rows": (1_000_000, None, None)},
    "soak": {"wrong_rows": (0, None, 0), "kills": (100, None, None)},
    "state": {"failures": (0, None, 0)},
    "schema_evolution": {"failures": (0, None, 0)},
}  # fmt: skip
SECONDS = {"soak": 1800.0}


def gate(folder: Path, name: Any, server: Server = SYNCED, without: str = "", **changed: Any) -> Path:
    """Evidence that just counts, but for what is changed: figure, at_least, at_most; ``seconds``."""
    seconds = changed.pop("seconds", SECONDS.get(name, 1.0))
    figures = {one: given for one, given in {**FIGURES[name], **changed}.items() if one != without}
    measures = [Measure(one, *given) for one, given in figures.items()]
    return write_gate(folder, name, "sqlite", [server], measures, seconds=seconds)


def _gates(folder: Path) -> dict[str, Status]:
    [found] = [c for c in certification.certify(folder).connectors if c.connector == "sqlite"]
    return dict(found.gates)


@pytest.mark.parametrize("gate_", GATES)
@pytest.mark.parametrize("missing", [True, False])
def test_production_needs_every_gate_live(tmp_path: Path, gate_: Any, missing: bool) -> None:
    """Throughput, state, schema evolution and soak, each by live evidence: none may lack or be simulated."""
    everything(tmp_path)
    for one in GATES:
        if not (missing and one == gate_):
            gate(tmp_path, one, STANDIN_SYNCED if one == gate_ else SYNCED)
    by_kit = missing and gate_ in ("state", "schema_evolution")
    wanted = Level.PRODUCTION if by_kit else Level.CERTIFIED
    assert _level(tmp_path) is wanted


def test_gates_that_just_count_reach_production(tmp_path: Path) -> None:
    """The kit's evidence, and throughput and soak at their bars: production-certified."""
    everything(tmp_path)
    for one in ("throughput", "soak"):
        gate(tmp_path, one)
    assert _gates(tmp_path) == dict.fromkeys(GATES, Status.CERTIFIED)
    assert _level(tmp_path) is Level.PRODUCTION


UNSAFE = evolve(LIVE, durability=Durability(False, {"fsync": "off"}))


@pytest.mark.parametrize(
    ("name", "changed", "status", "but"),
    [
        ("throughput", {"rows_per_second": (99_999, 1e5, None)}, Status.FAILED, ""),
        ("throughput", {"peak_mb": (250.1, None, 250)}, Status.FAILED, ""),
        ("throughput", {"rows": (999_999, None, None)}, Status.INSUFFICIENT, "rows 999,999 of 1,000,000"),
        ("throughput", {"without": "rows"}, Status.INSUFFICIENT, "rows not measured"),
        ("throughput", {"without": "peak_mb"}, Status.INSUFFICIENT, "no limit for peak_mb"),
        ("throughput", {"rows_per_second": (9e9, None, None)}, Status.INSUFFICIENT, "no limit for rows_per_second"),
        ("throughput", {"server": UNSAFE}, Status.INSUFFICIENT, "SQLite does not sync writes to disk"),
        ("throughput", {"server": LIVE}, Status.INSUFFICIENT, "durability of SQLite unknown"),
        ("soak", {"wrong_rows": (1, None, 0)}, Status.FAILED, ""),
        ("soak", {"wrong_rows": (1, None, 5)}, Status.INSUFFICIENT, "no limit for wrong_rows"),
        ("soak", {"without": "wrong_rows", "x": (0, None, 0)}, Status.INSUFFICIENT, "no limit for wrong_rows"),
        ("soak", {"seconds": 1799.9}, Status.INSUFFICIENT, "seconds 1,799.9 of 1,800"),
        ("soak", {"kills": (99, None, None)}, Status.INSUFFICIENT, "kills 99 of 100"),
        ("soak", {"server": UNSAFE}, Status.INSUFFICIENT, "SQLite does not sync writes to disk"),
        ("soak", {"server": UNSAFE, "wrong_rows": (1, None, 0)}, Status.FAILED, "SQLite does not sync writes to disk"),
    ],
)
def test_a_gate_counts_by_what_it_measured(
    tmp_path: Path, name: Any, changed: dict[str, Any], status: Status, but: str
) -> None:
    """A bar that is missed fails it; too few rows, kills or seconds, no bar, a looser one than the rule's, and a server
    that does not sync or was not asked do not count. The command says which."""
    everything(tmp_path)
    for one in ("throughput", "soak"):
        gate(tmp_path, one, **(changed if one == name else {}))
    assert (_gates(tmp_path)[name], _level(tmp_path)) == (status, Level.CERTIFIED)
    [shown] = [one for one in certification.certify(tmp_path).gates if one.gate == name]
    assert (shown.status, "; ".join(shown.lacking)) == (status, but)


def test_a_gate_without_a_bar_is_not_written(tmp_path: Path) -> None:
    """A figure alone says nothing, and NaN would be below no bar."""
    with pytest.raises(ConfigError, match="none of the measures has a limit"):
        write_gate(tmp_path, "throughput", "sqlite", [SYNCED], [Measure("rows", 5)], seconds=1)
    with pytest.raises(ConfigError, match="not a number: rows"):
        write_gate(tmp_path, "throughput", "sqlite", [SYNCED], [Measure("rows", float("nan"), at_least=1)], seconds=1)
    assert list(tmp_path.iterdir()) == []


def test_what_a_gate_says_of_itself_is_not_believed(tmp_path: Path) -> None:
    """A result that says passed without figures, as an earlier version wrote it, does not count."""
    everything(tmp_path)
    for one in ("throughput", "soak"):
        said = {"case": one, "capability": one, "declared": "supported", "result": "passed", "seconds": 9e9, "at": ""}
        write(tmp_path, "gate", ["sqlite"], [SYNCED], [said], required={one: (one,)}, suite=one)
    assert {_gates(tmp_path)[one] for one in ("throughput", "soak")} == {Status.INSUFFICIENT}


@pytest.mark.parametrize("changed", ["dpone", "sqlite"])
def test_a_gate_of_other_files_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """A gate that another version has passed does not count, nor does one that it has failed."""
    everything(tmp_path)
    gate(tmp_path, "throughput")
    gate(tmp_path, "soak", wrong_rows=(1, None, 0))
    real = evidence.digest
    monkeypatch.setattr(certification, "digest", lambda name: "0" * 64 if name == changed else real(name))
    assert {_gates(tmp_path)[one] for one in ("throughput", "soak")} == {Status.STALE}


def test_a_failed_gate_is_not_healed(tmp_path: Path) -> None:
    """A gate that ran and failed counts, though the cases of the kit passed, or it passed on another server."""
    everything(tmp_path)
    for one in GATES:
        gate(tmp_path, one, **({"failures": (1, None, 0)} if one == "state" else {}))
    assert _level(tmp_path) is Level.CERTIFIED
    gate(tmp_path, "state")
    assert _level(tmp_path) is Level.PRODUCTION
    gate(tmp_path, "soak", evolve(SYNCED, version="3.50"), wrong_rows=(2, None, 0))
    assert (_gates(tmp_path)["soak"], _level(tmp_path)) == (Status.FAILED, Level.CERTIFIED)


def test_a_gate_that_does_not_count_takes_nothing_from_one_that_does(tmp_path: Path) -> None:
    """A short soak on another server beside a long one: the long one counts."""
    gate(tmp_path, "soak")
    gate(tmp_path, "soak", evolve(SYNCED, version="3.50"), seconds=60.0)
    assert _gates(tmp_path)["soak"] is Status.CERTIFIED


def test_the_command_shows_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures with their bars, what lacks, the machine, the settings of the server, and what cases left out."""
    record(tmp_path, server=UNSAFE, left_out={"lock_1": {"double inf": "has no infinities"}})
    gate(tmp_path, "soak", UNSAFE, seconds=60.0)
    options = ("--evidence", str(tmp_path), "--connector", "sqlite")
    for form in ("text", "markdown"):
        _, text, _ = call(capsys, *options, "--format", form)
        for said in (
            "wrong_rows 0 (at most 0)", "seconds 60 of 1,800", "SQLite does not sync writes", "insufficient",
            "fsync off",
            "double inf", "has no infinities", f"python {platform.python_version()}",
        ):  # fmt: skip
            assert said in text
    _, out, _ = call(capsys, *options, "--format", "json")
    data = json.loads(out)
    assert data["servers"] == [
        {"product": "SQLite", "version": "3.40.1", "live": True,
         "durability": {"safe": False, "settings": {"fsync": "off"}}}
    ]  # fmt: skip
    assert data["gates"][0]["machine"]["cpus"] >= 1
    [cell] = [c for c in data["capabilities"] if (c["role"], c["capability"]) == ("state", "lock")]
    assert cell["left_out"] == {"lock_1": {"double inf": "has no infinities"}}


def _level(folder: Path) -> Level:
    [found] = [c for c in certification.certify(folder).connectors if c.connector == "sqlite"]
    return found.level


def test_levels_go_up_with_the_evidence(tmp_path: Path) -> None:
    """Some capabilities: none. All of them on a stand-in: tested. All of them live: certified."""
    record(tmp_path)
    assert _level(tmp_path) is Level.NONE
    everything(tmp_path / "simulated", STANDIN)
    assert _level(tmp_path / "simulated") is Level.TESTED
    everything(tmp_path)
    assert _level(tmp_path) is Level.CERTIFIED


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: text.replace('"passed"', '"failed"', 1), "the checksum does not match the content"),
        (lambda text: text.replace('"live": true', '"live": false'), "the checksum does not match the content"),
        (lambda text: text[:-20], "the file is damaged: it is not JSON"),
        (lambda text: "{}", "the file is damaged: 'checksum' is missing"),
        (lambda text: "[]", "the file is damaged: "),
        (lambda text: "", "the file is damaged: it is not JSON"),
        (lambda text: "\0" + text, "the file is damaged: it is not JSON"),
        (lambda text: "\udcff" + text, "the file is damaged: it is not JSON"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Any, found: str) -> None:
    """A file that is not as it was written stops the command, in one line with its name, and in plain words."""
    path = record(tmp_path)
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    with pytest.raises(ConfigError) as caught:
        certification.certify(tmp_path)
    assert str(caught.value).startswith(f"read evidence {path}: {found}")
    assert str(caught.value).endswith("; delete the file and run its tests again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("only", "found"), [(["nope"], "unknown connector: nope"), (["b", "file", "a"], "unknown connectors: a, b")]
)
def test_a_connector_that_nobody_has_is_refused(only: list[str], found: str) -> None:
    """By its name, with the command that lists those that there are."""
    with pytest.raises(ConfigError) as caught:
        certification.certify(None, only)
    assert str(caught.value) == f"select connectors: {found}; choose from 'dpone plugins'"


def test_evidence_of_a_later_format_is_refused(tmp_path: Path) -> None:
    """A format that this dpone does not know is not guessed at."""
    path = record(tmp_path)
    document = json.loads(path.read_text()) | {"format": 3}
    document["checksum"] = evidence.checksum(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="format 3, this dpone reads 1 and 2"):
        certification.certify(tmp_path)


def test_evidence_of_the_first_format_is_read(tmp_path: Path) -> None:
    """It had no machine, no durability and no values left out."""
    path = record(tmp_path)
    document = json.loads(path.read_text()) | {"format": 1}
    del document["machine"]
    for server in document["servers"]:
        del server["durability"]
    for result in document["results"]:
        del result["left_out"]
    document["checksum"] = evidence.checksum(document)
    path.write_text(json.dumps(document))
    assert status(tmp_path) is Status.CERTIFIED


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["certify", *args])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_the_command_prints_three_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, JSON and Markdown say the same of a cell."""
    record(tmp_path)
    options = ("--evidence", str(tmp_path), "--connector", "sqlite")
    code, text, _ = call(capsys, *options)
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert ["sqlite", "state", "lock", "certified", "SQLite", "3.40.1"] in lines
    assert ["sqlite", "state", "history", "certified", "SQLite", "3.40.1"] in lines
    assert ["sqlite", "sink", "append", "declared"] in lines
    _, out, _ = call(capsys, *options, "--format", "json")
    cells = json.loads(out)["capabilities"]
    assert [c["status"] for c in cells if (c["role"], c["capability"]) == ("state", "lock")] == ["certified"]
    _, page, _ = call(capsys, *options, "--format", "markdown")
    assert "| lock | certified |" in page


@pytest.mark.parametrize(("level", "code"), [("tested", 0), ("certified", 0), ("production-certified", 1)])
def test_require_gives_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], level: str, code: int) -> None:
    """A connector below the level: exit code 1, and one line that names it."""
    everything(tmp_path)
    options = ("--evidence", str(tmp_path), "--connector", "sqlite", "--require", level, "--format", "json")
    found, out, err = call(capsys, *options)
    assert found == code
    assert json.loads(out)["below"] == (["sqlite"] if code else [])
    assert err.startswith("error: require production-certified: not reached by sqlite;") if code else err == ""


def test_without_evidence_a_level_is_not_reached(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is green without a recorded run."""
    code, _, err = call(capsys, "--require", "tested")
    below, reached = err.partition("not reached by ")[2], "not reached by " in err
    assert (code, reached) == (1, True)
    assert {"file", "sqlite", "file_changelog"} <= {*below.rpartition(": ")[2].split(", ")}


def test_a_connector_that_cannot_be_used_is_listed_as_such(
    capsys: pytest.CaptureFixture[str], install: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not installed with the command that installs it, not implemented, broken, blocked: each form lists it, none gives
    it a level or a certified cell, and --require is not reached by one that was named."""
    install("zz_broken", "import no_such_driver\n")
    monkeypatch.setenv("DPONE_BLOCK", "sqlite")
    real = plugins.entry_points
    without = lambda group: [one for one in real(group=group) if one.name != "kafka"]  # noqa: E731
    monkeypatch.setattr(plugins, "entry_points", without)
    plugins.discover.cache_clear()
    _, out, _ = call(capsys, "--format", "json")
    data = json.loads(out)
    require_valid("certify.json", data)
    unusable = {one["connector"]: one for one in data["unusable"]}
    whys = {name: unusable[name]["status"] for name in ("kafka", "mssql", "mssql_cdc", "zz_broken", "sqlite")}
    assert whys == {
        "kafka": "not installed", "mssql": "not implemented", "mssql_cdc": "not implemented", "zz_broken": "broken",
        "sqlite": "blocked",
    }  # fmt: skip
    command = shlex.split(unusable["kafka"]["todo"].partition(", in the")[0])
    assert command[:2] == ["pip", "install"]
    assert [Path(one).name for one in command[2:]] == ["dpone-core", "dpone-kafka"]
    assert all((ROOT / one / "pyproject.toml").is_file() for one in command[2:])
    for form in ("text", "markdown"):
        _, text, _ = call(capsys, "--format", form)
        [line] = [line for line in text.splitlines() if "dpone-kafka" in line]
        assert "not installed" in line
    assert not {*whys} & {one["connector"] for one in data["connectors"]}
    assert {c["status"] for c in data["capabilities"] if c["connector"] in whys} <= {"not implemented", "unsupported"}
    for name in ("kafka", "mssql"):
        code, _, err = call(capsys, "--connector", name, "--require", "tested")
        assert (code, f"not reached by {name};" in err) == (1, True)


@pytest.mark.parametrize("options", [("--evidence", "nowhere"), ("--connector", "nobody")])
def test_a_wrong_option_is_one_clear_line(capsys: pytest.CaptureFixture[str], options: tuple[str, str]) -> None:
    """A folder or connector that is not there is exit code 2."""
    code, out, err = call(capsys, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert options[1] in err


def test_evidence_that_requires_nothing_shows_nothing(tmp_path: Path) -> None:
    """A file that does not say which cases a capability has certifies none, whatever passed."""
    seen = [{"case": "x", "capability": "lock", "declared": "supported", "result": "passed", "seconds": 1, "at": ""}]
    write(tmp_path, "state", ["sqlite"], [LIVE], seen, required={})
    assert status(tmp_path) is Status.DECLARED
