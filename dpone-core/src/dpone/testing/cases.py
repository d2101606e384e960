"""Cases: test methods that each belong to one capability."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from threading import BrokenBarrierError, Thread
from traceback import walk_tb
from typing import Any, TypeVar, cast

import pytest

from dpone.capability import CAPABILITIES, Role, known
from dpone.errors import DponeError
from dpone.plugins import undeclared
from dpone.testing.harness import Harness, opened
from dpone.testing.held import USED, require

_MARK = "__dpone_capability__"
_F = TypeVar("_F", bound=Callable[..., Any])


def case(capability: str) -> Callable[[_F], _F]:
    """Mark a test method as a case of a capability of its contract's role. A test that is not marked must pass, but is
    not evidence."""

    def mark(function: _F) -> _F:
        setattr(function, _MARK, capability)
        return function

    return mark


def capability_of(function: Any) -> str | None:
    found: str | None = getattr(function, _MARK, None)
    return found


def places(error: BaseException) -> Iterator[tuple[str, str, int]]:
    """Where an error passed, from the case inwards, without pytest's own frames: module, file, line."""
    for frame, line in walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in ("_pytest", "pytest", "pluggy"):
            yield module, frame.f_code.co_filename, line


def asserted(error: BaseException, contract: type) -> bool:
    """True for what the kit itself finds: an assertion, a ``pytest.raises`` that met nothing, a member that the harness
    does not have; raised in a module of the kit or of the contract's classes, and by none that these have called."""
    found = [module for module, _, _ in places(error)]
    ours = {cls.__module__ for cls in contract.__mro__}
    kinds = ("AssertionError", "Failed", "NotImplementedError")  # Failed: of pytest, which this module does without
    return (
        type(error).__name__ in kinds and bool(found) and (found[-1].startswith("dpone.testing") or found[-1] in ours)
    )


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each call in its own thread. Returns what each call returned, or its DponeError, in order. Any other error is
    raised here; one that only says that it waited for another thread in vain comes last."""
    answers: list[Any] = [None] * len(calls)

    def one(n: int) -> None:
        try:
            answers[n] = calls[n]()
        except BaseException as error:
            answers[n] = error

    threads = [Thread(target=one, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    broken = [a for a in answers if isinstance(a, BaseException) and not isinstance(a, DponeError)]
    for error in sorted(broken, key=lambda error: isinstance(error, (BrokenBarrierError, AssertionError))):
        raise error
    return answers


def _vocabulary(role: Any) -> Role:
    """A case of a route is a strategy, as a sink declares it."""
    return "sink" if role == "route" else cast(Role, role)


class Contract:
    """Base class of the contracts. ``role`` is a role of ``dpone.capability``, or ``route`` for whole runs. A subclass
    sets ``connector``, whose plugin names the Harness, or overrides the fixture ``harness``."""

    role: Any = ""
    connector = ""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[Harness]:
        with opened(self.role, self.connector, tmp_path) as harness:
            yield harness

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a case of an unknown capability: it would never count."""
        super().__init_subclass__(**more)
        for name, function in vars(cls).items():
            capability = capability_of(function)
            if cls.role and capability is not None and not known(_vocabulary(cls.role), capability):
                found = (
                    f"no capability {capability} of {cls.role}; use {', '.join(CAPABILITIES[_vocabulary(cls.role)])}"
                )
                raise TypeError(f"{cls.__name__}.{name}: {found}")

    @classmethod
    def cases(cls) -> Mapping[str, tuple[str, ...]]:
        """The cases of each capability, by name, in the order of ``CAPABILITIES``."""
        named = {name: capability_of(getattr(cls, name)) for name in dir(cls) if name.startswith("test_")}
        wanted = dict.fromkeys([*CAPABILITIES[_vocabulary(cls.role)], *(of for of in named.values() if of is not None)])
        cases = {capability: tuple(n for n, of in named.items() if of == capability) for capability in wanted}
        return {capability: names for capability, names in cases.items() if names}


class RoleContract(Contract):
    """Of one role: the fixture ``harness`` has the connector."""

    def test_what_is_offered_is_declared(self, harness: Harness) -> None:
        """The class has every member of the capabilities that its plugin declares, and the plugin says something about
        each optional capability that the class has."""
        plugins, name = harness.plugins, harness.connector
        record, cls = plugins.get(self.role, name), plugins.load(self.role, name)
        silent = undeclared(self.role, cls, record)
        assert not silent, f"{record.implementation} has all of {', '.join(silent)}: declare it, or as unsupported"

    def test_what_it_cannot_hold_is_refused_or_changed(self, harness: Harness) -> None:
        """The system itself, without the connector, refuses or changes every value and name in
        ``Harness.cannot_hold``."""
        for claim in harness.cannot_hold if self.role in ("source", "sink") else ():
            assert claim.covers(claim.of, claim.one), f"cannot_hold: {claim.one!a} is not one of those that it names"
            require(harness, claim, claim.one)

    def test_what_is_left_out_has_a_case(self, harness: Harness) -> None:
        """Every name in ``Harness.quirks`` is the name of a case, and ``cannot_hold`` has only types whose values are
        used in a case. Otherwise an entry would have no effect."""
        known = _every_case()
        for name in harness.quirks:
            near = get_close_matches(name, known, n=1)
            meant = f"is it {near[0]}?" if near else "see the names in 'pytest --collect-only'"
            assert name in known, f"quirks: no case is called {name}; {meant}"
        for claim in harness.cannot_hold:
            found = (
                f"cannot_hold: no case uses values of {claim.of}; those of {', '.join(map(str, USED))} can be left out"
            )
            assert str(claim.of) in map(str, USED), found


def _every_case() -> set[str]:
    """Of the kit's contracts, and of all classes that are made of them."""
    for module in ("cdc", "route", "sink", "source", "state"):
        importlib.import_module(f"dpone.testing.{module}")
    contracts, found = [Contract], set[str]()
    while contracts:
        cls = contracts.pop()
        contracts += cls.__subclasses__()
        found |= {name for names in cls.cases().values() for name in names} if cls.role else set()
    return found
