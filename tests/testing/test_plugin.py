"""The pytest plugin: which result is right is decided by what the plugin declares, and evidence says what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpone.certify.evidence import checksum
from dpone.testing import plugin

pytest_plugins = ["pytester"]

CONTRACT = """
import pytest
from dpone.capability import Support
from dpone.testing import CannotHold, case
from dpone.testing.builtin import SqliteHarness
from dpone.testing.held import holdable
from dpone.testing.cases import Contract


class Small(Contract):
    role = "state"

    @case("history")
    def test_one(self, harness):
        assert {one}

    @case("history")
    def test_two(self, harness):
        if {two} is None:
            pytest.skip("not today")
        assert {two}

    @case("lock")
    def test_three(self, harness):
        pass

    def test_plain(self, harness):
        pass


class Declares(SqliteHarness):
    quirks = {quirks}
    cannot_hold = (CannotHold("name", "a", "nothing so short"), CannotHold("name", "b", "nor this"))

    def seed(self, rows, table="orders"):
        if rows.column_names == ["a"]:
            raise ValueError("too short")
        super().seed(rows, table)

    def declared(self, role, capability):
        return Support("{support}") if capability == "history" else Support.SUPPORTED


class TestSmall(Small):
    @pytest.fixture
    def harness(self, tmp_path):
        return Declares(tmp_path)
"""


LACKING = """

class Nameless:
    def __init__(self, harness, lacks):
        self._harness, self._lacks = harness, lacks

    def __getattr__(self, name):
        if name == self._lacks:
            raise AttributeError(name)
        return getattr(self._harness, name)


def lacking(harness, lacks):
    return Nameless(harness, lacks)
"""


def run(
    pytester: pytest.Pytester, one: Any, two: Any, support: str = "supported", quirks: Any = None
) -> tuple[dict[str, int], str, Any]:
    """Outcomes, what was printed, and the evidence."""
    pytester.makepyfile(CONTRACT.format(one=one, two=two, support=support, quirks=quirks or {}))
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", "--dpone-evidence", "evidence")
    result = pytester.runpytest_inprocess(*options)
    [path] = (pytester.path / "evidence").iterdir()
    return result.parseoutcomes(), result.stdout.str(), json.loads(path.read_text())


def shown(evidence: Any) -> dict[str, str]:
    return {result["case"]: result["result"] for result in evidence["results"]}


def test_a_declared_capability_must_pass(pytester: pytest.Pytester) -> None:
    """Every case of a declared capability passes, and the run is green."""
    outcomes, _, evidence = run(pytester, True, True)
    assert outcomes == {"passed": 4}
    assert shown(evidence) == {"test_one": "passed", "test_two": "passed", "test_three": "passed"}


def test_a_declared_capability_that_fails_is_red(pytester: pytest.Pytester) -> None:
    """One failing case of a declared capability turns the run red, and the evidence says so."""
    outcomes, _, evidence = run(pytester, True, False)
    assert outcomes == {"passed": 3, "failed": 1}
    assert shown(evidence)["test_two"] == "failed"


@pytest.mark.parametrize("support", ["not implemented", "unsupported"])
def test_an_undeclared_capability_that_passes_is_red(pytester: pytest.Pytester, support: str) -> None:
    """When every case of a capability passes that the plugin does not declare, the run is red and says what to do."""
    outcomes, out, _ = run(pytester, True, True, support)
    assert outcomes == {"passed": 3, "failed": 1}
    assert f"capability history of state sqlite is declared as {support}, but all its cases pass" in out


@pytest.mark.parametrize("support", ["not implemented", "unsupported"])
def test_an_undeclared_capability_that_fails_is_expected(pytester: pytest.Pytester, support: str) -> None:
    """A case that fails is what was to be expected; the others of the capability may pass."""
    outcomes, _, evidence = run(pytester, True, False, support)
    assert outcomes == {"passed": 3, "xfailed": 1}
    assert {result["declared"] for result in evidence["results"]} == {support, "supported"}


REFUSES = "(_ for _ in ()).throw(__import__('dpone.errors').errors.ConfigError('load', 'history', 'leave it out'))"


@pytest.mark.parametrize(
    ("two", "counts"),
    [
        ("pytest.fail('no')", True),
        ("harness.change_stream()", True),
        (REFUSES, True),
        ("harness.no_such_member", False),
        ("len(7)", False),
        ("__import__('tests.testing.asserting').testing.asserting.wrong()", False),
    ],
    ids=["pytest.fail", "harness cannot", "refused", "AttributeError", "TypeError", "assert of a connector"],
)
def test_an_expected_failure_is_the_kits_or_a_refusal(pytester: pytest.Pytester, two: str, counts: bool) -> None:
    """An error that neither the kit nor dpone raised on purpose is a fault, whatever is declared."""
    outcomes, out, _ = run(pytester, True, two, "not implemented")
    assert outcomes == {"passed": 3, "xfailed" if counts else "failed": 1}
    assert ("fix the connector or the harness" in out) is not counts


def test_a_skipped_case_is_no_evidence(pytester: pytest.Pytester) -> None:
    """What was skipped is not in the evidence, and stays among what is required."""
    outcomes, _, evidence = run(pytester, True, None)
    assert outcomes == {"passed": 3, "skipped": 1}
    assert "test_two" not in shown(evidence)
    assert evidence["required"]["history"] == ["test_one", "test_two"]


def test_a_quirk_is_left_out_and_named(pytester: pytest.Pytester) -> None:
    """A case that the system cannot have is not run; the evidence names it and why."""
    outcomes, _, evidence = run(pytester, True, False, quirks={"test_two": "no such thing here"})
    assert outcomes == {"passed": 3, "skipped": 1}
    assert evidence["quirks"] == {"test_two": "no such thing here"}


def test_a_quirk_does_not_hide_an_undeclared_capability(pytester: pytest.Pytester) -> None:
    """Where all cases but the quirks pass, the undeclared capability is there."""
    outcomes, _, _ = run(pytester, True, False, "not implemented", quirks={"test_two": "no such thing here"})
    assert outcomes == {"passed": 2, "skipped": 1, "failed": 1}


LEAVES = '[*holdable(harness, "name", [{names}])] == ["c"]'


def test_what_a_case_left_out_is_in_its_evidence(pytester: pytest.Pytester) -> None:
    """With its reason, and of that case alone; a claim that is not needed turns the case red."""
    left, needless = (LEAVES.format(names=names) for names in ('"a", "c"', '"b", "c"'))
    outcomes, out, evidence = run(pytester, left, needless)
    assert outcomes == {"passed": 3, "failed": 1}
    assert "cannot_hold names name 'b', but the system holds it: remove the claim" in out
    found = {result["case"]: result["left_out"] for result in evidence["results"]}
    assert found == {"test_one": {"name 'a'": "nothing so short"}, "test_two": {}, "test_three": {}}


def test_evidence_is_of_the_files_that_the_run_began_with(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is changed during the run does not lend its digest to what was run before."""
    from dpone.certify import evidence

    asked: list[str] = []
    monkeypatch.setattr(evidence, "digest", lambda name: asked.append(name) or "0" * 64)
    monkeypatch.setattr(evidence, "write", lambda *args, **given: asked.append("written"))
    pytester.makepyfile(CONTRACT.format(one=True, two=True, support="supported", quirks={}))
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", "--dpone-evidence", "evidence")
    pytester.runpytest_inprocess(*options).assert_outcomes(passed=4)
    assert asked == ["dpone", "sqlite", "written"]


def test_evidence_says_what_was_run_against_what(pytester: pytest.Pytester) -> None:
    """Role, connector, server, live or not, digests, time and duration stand in the file, under a checksum."""
    import sqlite3

    _, _, evidence = run(pytester, True, True)
    assert evidence["checksum"] == checksum(evidence)
    assert (evidence["role"], evidence["connectors"], evidence["suite"]) == ("state", ["sqlite"], "TestSmall")
    [server] = evidence["servers"]
    settings = server.pop("durability")["settings"]
    assert server == {"product": "SQLite", "version": sqlite3.sqlite_version, "live": True}
    assert (settings["journal_mode"], settings["synchronous"]) == ("wal", "EXTRA")
    assert evidence["machine"]["cpus"] >= 1
    assert set(evidence["digests"]) == {"dpone", "sqlite"}
    assert all(len(digest) == 64 for digest in evidence["digests"].values())
    assert all(result["seconds"] >= 0 and result["at"] for result in evidence["results"])


def test_without_the_option_nothing_is_written(pytester: pytest.Pytester) -> None:
    """Evidence is written where it was asked for."""
    pytester.makepyfile(CONTRACT.format(one=True, two=True, support="supported", quirks={}))
    pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider").assert_outcomes(passed=4)
    assert list(pytester.path.glob("**/*.json")) == []


def test_a_fixture_that_fails_is_red(pytester: pytest.Pytester) -> None:
    """A Harness that cannot be made is an error, whatever is declared."""
    text = CONTRACT.format(one=True, two=True, support="not implemented", quirks={})
    pytester.makepyfile(text.replace("return Declares(tmp_path)", "raise OSError('the server is away')"))
    pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider").assert_outcomes(errors=4)


@pytest.mark.parametrize("lacks", ["product", "version"])
@pytest.mark.parametrize("support", ["supported", "not implemented"])
def test_a_harness_that_does_not_name_its_server_is_red(pytester: pytest.Pytester, lacks: str, support: str) -> None:
    """The evidence needs the server's name and version: what is missing is said in one line, and no case passes."""
    text = CONTRACT.format(one=True, two=False, support=support, quirks={})
    pytester.makepyfile(
        text.replace("        return Declares(tmp_path)", f"        return lacking(Declares(tmp_path), {lacks!r})")
        + LACKING
    )
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=3, passed=1)
    assert (
        f"PluginError: ask Nameless for its server: it has no {lacks}; set product and version" in result.stdout.str()
    )


def test_a_case_of_an_unknown_capability_is_refused(pytester: pytest.Pytester) -> None:
    """A capability that is misspelt in ``case`` would count for nothing, and nobody would notice."""
    text = CONTRACT.format(one=True, two=True, support="supported", quirks={})
    pytester.makepyfile(text.replace('@case("lock")', '@case("locks")'))
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    assert "Small.test_three: no capability locks of state; use compare_and_set, history, lock" in result.stdout.str()


def test_a_case_of_an_own_word_of_incremental_is_evidence() -> None:
    """A source may be read by a word of its own, and a case of it is required like those of the kit."""
    from dpone.testing import SourceContract, case

    class Own(SourceContract):
        @case("incremental_acme")
        def test_acme(self) -> None:
            """Reads by acme."""

    assert Own.cases()["incremental_acme"] == ("test_acme",)


def test_the_plugin_needs_no_hypothesis_and_no_connector() -> None:
    """Whoever has pytest and dpone-core alone can still run their tests: the plugin module imports neither."""
    import subprocess
    import sys

    script = "import sys, dpone.testing.plugin; print(*sys.modules)"
    source = Path(__file__).parents[2] / "dpone-core/src"
    assert source.is_dir()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"hypothesis", "pyarrow"} & loaded == set()


@pytest.mark.parametrize("dist", ["load", "loadgroup", "worksteal", "each"])
def test_evidence_is_not_written_where_workers_share_a_class(dist: str) -> None:
    """Each worker would write a file of the cases that it happened to get: refused with the option that helps."""
    config: Any = SimpleNamespace(getoption={"--dpone-evidence": Path("evidence"), "dist": dist}.get, stash={})
    with pytest.raises(pytest.UsageError, match="needs --dist loadscope"):
        plugin.pytest_configure(config)


@pytest.mark.parametrize("dist", ["loadscope", "loadfile"])
def test_evidence_of_several_processes_has_every_case(pytester: pytest.Pytester, dist: str) -> None:
    """Two workers, each with whole classes, write the files that one process writes."""
    second = "\n\nclass TestOther(TestSmall):\n    pass\n"
    text = CONTRACT.format(one=True, two=True, support="supported", quirks={}) + second
    pytester.makepyfile(test_a=text, test_b=text.replace("TestSmall", "TestThird").replace("TestOther", "TestFourth"))
    options = ("-n", "2", "--dist", dist, "-p", "no:randomly", "--dpone-evidence", "evidence")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=16)
    found = [json.loads(path.read_text()) for path in (pytester.path / "evidence").iterdir()]
    assert {one["suite"] for one in found} == {"TestSmall", "TestOther", "TestThird", "TestFourth"}
    assert [sorted(shown(one)) for one in found] == [["test_one", "test_three", "test_two"]] * 4
