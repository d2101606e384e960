"""The kit can fail: every fault is found by its own case, in the kit's own words, and every case finds a fault."""

from __future__ import annotations

import linecache
import os
import zlib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tests.testing.faulty_cdc  # noqa: F401  # its faults join FAULTS
from tests.engine.project import memory_folder
from tests.testing import ddl_commits, faulty_outside, faulty_sql  # noqa: F401  # their faults join FAULTS
from tests.testing.faulty import FAULTS, HONEST

from dpone.capability import CAPABILITIES, Support
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.plugins import discover
from dpone.testing import CDCContract, Harness, RouteContract, SinkContract, SourceContract, StateContract, outside
from dpone.testing.builtin import ChangeLogHarness, FileHarness, SqliteHarness
from dpone.testing.cases import RoleContract, asserted, places

ROLES: tuple[Any, ...] = (SourceContract, SinkContract, StateContract, CDCContract)
CONTRACTS: tuple[Any, ...] = (*ROLES, RouteContract)
PAIRS = [(fault, case) for fault, found in FAULTS.items() for case in found.cases]


def cases_of(contract: Any) -> set[str]:
    return {case for cases in contract.cases().values() for case in cases}


def contract_of(connector: type, cases: Any = None) -> Any:
    """The one contract that has these cases, or those of the fault; where several have one of the same name, that of
    the connector's role."""
    cases = FAULTS[connector].cases if cases is None else cases
    known = [contract for contract in CONTRACTS if {*cases} <= cases_of(contract)]
    [found] = known if len(known) == 1 else [c for c in known if c.role == role_of(connector)]
    return found


def role_of(connector: type) -> Any:
    """By a member that no other role has."""
    own = {"source": "tables", "sink": "journal", "state": "lock", "cdc": "setup_plan"}
    [role] = [role for role, member in own.items() if hasattr(connector, member)]
    return role


def control_of(connector: type) -> type:
    """The honest connector that a fault is made of."""
    return next(c for c in connector.__mro__[1:] if c in HONEST or c.__module__.startswith("dpone.connectors."))


def harness_of(connector: type, contract: Any, folder: Path) -> Harness:
    """Of the built-in connector that it is made of, with it in its place."""
    folder.mkdir()
    file = any(cls.__module__.startswith("dpone.connectors.file") for cls in connector.__mro__)
    kind: Any = ChangeLogHarness if contract is CDCContract else FileHarness if file else SqliteHarness
    harness: Harness = kind(folder)
    role = "sink" if contract is RouteContract else contract.role
    harness.implementations = {role: f"{connector.__module__}:{connector.__name__}"}
    getattr(connector, "arrange", lambda harness: None)(harness)
    return harness


def run(connector: type, contract: Any, case: str) -> BaseException | None:
    """What the case raises. A fault that waits for ever, or leaves something open, is found sooner."""
    patience = mock.patch.object(outside, "_PATIENCE", 4.0 if connector in FAULTS else outside._PATIENCE)
    with memory_folder() as folder, patience:
        given = {"harness": harness_of(connector, contract, folder / "it")}
        if contract is RouteContract:
            (folder / "source").mkdir()
            given = {"source": FileHarness(folder / "source"), "sink": given["harness"]}
        try:
            getattr(contract(), case)(**given)
        except (Exception, pytest.fail.Exception) as error:  # what turns a run red
            return error
        except pytest.skip.Exception:
            return None
    return None


def words(error: BaseException) -> str:
    """What the kit says: the message, and the lines of the kit that the error came through."""
    lines = [linecache.getline(file, line).strip() for module, file, line in places(error) if "dpone.testing" in module]
    return "\n".join([str(error), *lines])


@pytest.mark.parametrize(("fault", "case"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_every_fault_is_found(fault: type, case: str) -> None:
    """A connector with one fault fails the case that is there for it, by an assertion of the kit that says so."""
    contract = contract_of(fault)
    error = run(fault, contract, case)
    assert error is not None, "the fault was not found"
    if not asserted(error, contract):
        raise error  # the fault is broken, not found
    said = FAULTS[fault].cases[case]
    assert said, f"name some of these words in the table: {words(error)}"
    assert said in words(error)


CONTROLS = sorted({(control_of(fault), case) for fault, case in PAIRS}, key=str)


@pytest.mark.parametrize(("control", "case"), CONTROLS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_the_honest_connector_passes(control: type, case: str) -> None:
    """The connector that a fault is made of has no such fault. For a built-in one ``test_kit`` shows it, if the
    capability is declared."""
    contract = contract_of(control, {case})
    if control in HONEST:
        assert run(control, contract, case) is None
    else:
        assert case in declared(contract, control)


def declared(contract: Any, control: type) -> set[str]:
    """Cases of what the plugin declares for a built-in connector. A route's are strategies of its sink."""
    role = "sink" if contract is RouteContract else contract.role
    implementation = f"{control.__module__}:{control.__name__}"
    plugins = discover()
    [plugin] = [p for n in plugins.names(role) if (p := plugins.get(role, n)).implementation == implementation]
    able = {name for name, support in plugin.capabilities.items() if support is Support.SUPPORTED}
    return {case for capability, cases in contract.cases().items() if capability in able for case in cases}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_every_case_has_a_fault_of_its_own(contract: Any) -> None:
    """For each case there is a fault that fails it and no other: without the case nobody would find it."""
    known = cases_of(contract)
    mine = [found for fault, found in FAULTS.items() if contract_of(fault) is contract]
    assert [found for found in mine if not found.also <= known or found.also & {*found.cases}] == []
    own = {case for found in mine if len(found.cases) + len(found.also) == 1 for case in found.cases}
    assert known - own == set()


# Each of these runs a load after every statement, step or value: together half of the time of all cases. They are run
# against the faults that name them, and of the others against one in SHARE. The day chooses, so that SHARE days have
# them all; DPONE_FAULTS_DAY is another number, or ``all``.
DEAR = {
    "test_a_commit_cut_off_between_two_statements_is_made_good",
    "test_a_killed_run_is_finished_by_the_next",
    "test_values_arrive_as_they_are_or_not_at_all",
    "test_values_come_as_they_are",
}
SHARE = 8
DAY = os.environ.get("DPONE_FAULTS_DAY", str(date.today().toordinal()))


def tried(fault: type, contract: Any) -> set[str]:
    """The cases that are run against a fault."""
    named = {*FAULTS[fault].cases} | FAULTS[fault].also

    def is_due(case: str) -> bool:
        return DAY == "all" or (zlib.crc32(f"{fault.__name__} {case}".encode()) + int(DAY)) % SHARE == 0

    return {case for case in cases_of(contract) if case in named or case not in DEAR or is_due(case)}


@cache
def fails_case(connector: type, contract: Any, case: str) -> bool:
    return run(connector, contract, case) is not None


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_fails_no_other_case(fault: type) -> None:
    """What a fault fails is what the table says, but for what the honest connector fails as well."""
    found, contract = FAULTS[fault], contract_of(fault)
    failing = {case for case in tried(fault, contract) if fails_case(fault, contract, case)}
    failing = {case for case in failing if not fails_case(control_of(fault), contract, case)}
    assert failing == {*found.cases} | found.also, f"with DPONE_FAULTS_DAY={DAY}"


def test_each_case_is_due_on_one_of_the_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """SHARE days in a row try every case against every fault; on no day is a case left out that a fault names."""
    for fault, found in FAULTS.items():
        contract, days = contract_of(fault), []
        for day in range(SHARE):
            monkeypatch.setattr(f"{__name__}.DAY", str(day))
            days.append(tried(fault, contract))
        assert set.union(*days) == cases_of(contract)
        assert {*found.cases} | found.also <= set.intersection(*days)


class Opened(SqliteSink):
    """Of a driver that dies where several threads use a connection: the case may not get so far."""

    def open(self, load: Any) -> Any:
        raise RuntimeError("it was opened")


def test_threads_are_for_who_declares_them() -> None:
    """Without ``parallel_stage`` no part is staged, and the kit says so by an assertion of its own."""
    error = run(Opened, SinkContract, "test_parts_are_staged_at_once")
    assert error is not None
    assert asserted(error, SinkContract)
    assert "parallel_stage is not declared" in str(error)


@pytest.mark.parametrize("contract", ROLES, ids=lambda c: c.__name__)
def test_every_capability_has_cases(contract: Any) -> None:
    """What a plugin can declare, the kit can examine."""
    assert set(CAPABILITIES[contract.role]) - set(contract.cases()) == set()


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_every_case_says_its_rule_and_its_capability(contract: Any) -> None:
    """Each test of a contract has a docstring of its own and is marked with a capability."""
    parts = [cls for cls in contract.__mro__ if issubclass(cls, RoleContract) and cls is not RoleContract]
    parts = parts or [contract]  # a route has no role
    named = {name for cls in parts for name in vars(cls) if name.startswith("test_")}
    assert named == cases_of(contract)
    assert [name for name in named if not getattr(contract, name).__doc__] == []
