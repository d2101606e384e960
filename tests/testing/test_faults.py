"""The kit can fail: every fault is found by its own case, and every case finds a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.testing.faulty import FAULTS, AsksForBatches

from dpone.capability import CAPABILITIES
from dpone.plugins import discover
from dpone.testing import CDCContract, Harness, RouteContract, SinkContract, SourceContract, StateContract
from dpone.testing.builtin import ChangeLogHarness, FileHarness, SqliteHarness
from dpone.testing.rows import Rows

ROLES: tuple[Any, ...] = (SourceContract, SinkContract, StateContract, CDCContract)
CONTRACTS: tuple[Any, ...] = (SourceContract, SinkContract, StateContract, RouteContract)
if "file_changelog" in discover().names("cdc"):
    import tests.testing.faulty_cdc  # noqa: F401  # its faults join FAULTS

    CONTRACTS += (CDCContract,)
PAIRS = [(fault, case) for fault, cases in FAULTS.items() for case in cases]


def contract_of(case: str) -> Any:
    """The one contract that has the case."""
    [found] = [c for c in CONTRACTS if any(case in cases for cases in c.cases().values())]
    return found


def harness_of(fault: type, role: str, folder: Path) -> Harness:
    folder.mkdir()
    if role == "cdc":
        return _faulty(ChangeLogHarness(folder), fault, role)
    file = any(cls.__module__.startswith("dpone.connectors.file") for cls in fault.__mro__)
    harness = _faulty(FileHarness(folder) if file else SqliteHarness(folder), fault, role)
    if fault is AsksForBatches:
        harness.native = lambda rows: (evolve(Rows(rows), native=("copy",)), rows)  # type: ignore[method-assign]
    return harness


def _faulty(harness: Harness, fault: type, role: str) -> Harness:
    harness.implementations = {role: f"{fault.__module__}:{fault.__name__}"}
    return harness


@pytest.mark.parametrize(("fault", "case"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_every_fault_is_found(fault: type, case: str, tmp_path: Path) -> None:
    """A connector with one fault fails the case that is there for it."""
    contract = contract_of(case)
    role = "sink" if contract is RouteContract else contract.role
    given = {"harness": harness_of(fault, role, tmp_path / "faulty")}
    if contract is RouteContract:
        (tmp_path / "source").mkdir()
        given = {"source": FileHarness(tmp_path / "source"), "sink": given["harness"]}
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:  # what turns a run red
        getattr(contract(), case)(**given)
    # A member of the contract that this version lacks, as ``undo``, is no fault of the fault.
    lacks = "has no attribute" in str(caught.value)
    assert lacks or not isinstance(caught.value, (TypeError, AttributeError, NameError)), (
        "the fault is broken, not found"
    )


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.__name__)
def test_every_case_finds_a_fault(contract: Any) -> None:
    """There is no case that no fault fails."""
    found = {case for cases in FAULTS.values() for case in cases}
    assert {case for cases in contract.cases().values() for case in cases} - found == set()


@pytest.mark.parametrize("contract", ROLES, ids=lambda c: c.__name__)
def test_every_capability_has_cases(contract: Any) -> None:
    """What a plugin can declare, the kit can examine."""
    assert set(CAPABILITIES[contract.role]) - set(contract.cases()) == set()


@pytest.mark.parametrize("contract", [*ROLES, RouteContract], ids=lambda c: c.__name__)
def test_every_case_says_its_rule_and_its_capability(contract: Any) -> None:
    """Each test of a contract has a docstring of its own and is marked with a capability."""
    named = {name for name in vars(contract) if name.startswith("test_")}
    assert named == {case for cases in contract.cases().values() for case in cases}
    assert [name for name in named if not getattr(contract, name).__doc__] == []
