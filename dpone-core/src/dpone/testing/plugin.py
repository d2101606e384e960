"""The pytest plugin of the kit: what a plugin declares decides which result is right, and evidence is written.

* A case of a capability that is declared must pass.
* A case of one that is not declared is run as well. That the kit's own assertion fails, or the connector refuses with
  a DponeError, is an expected failure; any other error is one of the connector or of the harness, and stays red. If
  every case of the capability passes, the last one is turned red: declare it.
* Values and names that the Harness says the system cannot hold are left out of the cases, each with its reason.
* ``--dpone-evidence DIR`` writes what was seen for ``dpone certify``. A skipped case does not count as evidence.

It is found through the entry point ``pytest11``, which only pytest reads: an installation without pytest stays whole.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

# These hold the asserts; register them before anything imports them.
_ASSERTING = ("cases", "cdc", "crash", "database", "held", "outside", "rows", "route", "sink", "source", "state")
pytest.register_assert_rewrite(*(f"dpone.testing.{name}" for name in _ASSERTING))

KEY = pytest.StashKey["Recorder"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dpone")
    group.addoption("--dpone-evidence", metavar="DIR", type=Path, help="Write evidence for 'dpone certify' here.")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--dpone-evidence")
    # Of pytest-xdist, "no" without -n and in its workers. Each worker writes what it saw, so that it must see a class
    # as a whole.
    if folder and config.getoption("dist", "no") not in ("no", "loadscope", "loadfile"):
        raise pytest.UsageError("--dpone-evidence with -n needs --dist loadscope, so that each file has every case")
    config.stash[KEY] = Recorder(folder)


@define
class Subject:
    """What one contract class was run against: ``role`` of ``connector``, or a route. ``servers``: of
    ``evidence.Server``."""

    suite: str
    role: str
    names: tuple[str, ...]
    servers: list[Any]
    quirks: dict[str, str]
    cases: dict[str, tuple[str, ...]]
    results: list[dict[str, Any]] = field(factory=list)


@define
class Recorder:
    folder: Path | None
    subjects: dict[tuple[Any, ...], Subject] = field(factory=dict)
    passed: dict[tuple[Any, ...], set[str]] = field(factory=dict)


def _capability(item: pytest.Item) -> str | None:
    from dpone.testing.cases import Contract, capability_of

    cls = getattr(item, "cls", None)
    return capability_of(getattr(item, "function", None)) if cls and issubclass(cls, Contract) else None


def _harnesses(item: Any) -> list[Any]:
    """Of the case; empty if a fixture failed."""
    wanted = ("source", "sink") if item.cls.role == "route" else ("harness",)
    given = getattr(item, "funcargs", {})
    return [given[name] for name in wanted] if all(name in given for name in wanted) else []


def _nameless(harness: Any) -> list[str]:
    """What evidence needs of a Harness, and this one does not say."""
    return [name for name in ("connector", "product", "version", "live") if not hasattr(harness, name)]


def _require_name(harness: Any) -> None:
    from dpone.errors import PluginError

    if lacks := _nameless(harness):
        todo = "set product and version as the server names itself"
        raise PluginError(f"ask {type(harness).__name__} for its server", f"it has no {', '.join(lacks)}", todo)


def _declared(role: str, harnesses: list[Any], capability: str) -> str:
    if role == "route":
        from dpone.testing.route import declared

        return str(declared(harnesses[0].connector, harnesses[1].connector, capability))
    return str(harnesses[0].declared(role, capability))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A quirk of the system is named before the case is run, and the case is left out. What evidence says of servers
    and files is as it was before the first case."""
    if _capability(item) is not None and (harnesses := _harnesses(item)):
        for harness in harnesses:
            _require_name(harness)
        _subject(item.config.stash[KEY], item, harnesses)
        for harness in harnesses:
            if why := harness.quirks.get(item.originalname):  # type: ignore[attr-defined]
                pytest.skip(f"quirk: {why}")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, Any]:
    report = yield
    capability = _capability(item)
    if capability is None or not (harnesses := _harnesses(item)) or any(map(_nameless, harnesses)):
        return report
    if call.when == "teardown" or (call.when == "setup" and report.passed):
        return report
    recorder: Recorder = item.config.stash[KEY]
    subject, of = _subject(recorder, item, harnesses)
    declared = _declared(subject.role, harnesses, capability)
    _record(subject, item.originalname, capability, declared, report, harnesses)
    if declared != "supported" and call.when == "call":
        if report.failed and not _expected(item, call.excinfo.value):
            what = f"{capability} is declared as {declared}, so this case may fail by an assertion of the kit or a "
            what += f"DponeError; {call.excinfo.typename} is neither: fix the connector or the harness"
            report.sections.append(("dpone", what))
            return report
        _turn(recorder, subject, of, item.originalname, capability, declared, report)
    return report


def _subject(recorder: Recorder, item: Any, harnesses: list[Any]) -> tuple[Subject, tuple[Any, ...]]:
    names = tuple(h.connector for h in harnesses)
    servers = tuple((h.product, h.version, h.live) for h in harnesses)
    of = (item.cls, names, servers)
    if of not in recorder.subjects:
        quirks = {name: why for h in harnesses for name, why in h.quirks.items()}
        asked = _asked(names, harnesses) if recorder.folder else []
        recorder.subjects[of] = Subject(item.cls.__name__, item.cls.role, names, asked, quirks, dict(item.cls.cases()))
    return recorder.subjects[of], of


def _asked(names: tuple[str, ...], harnesses: list[Any]) -> list[Any]:
    """The servers with their settings. The digests are kept: evidence is of the files that the run began with."""
    from dpone.certify.evidence import CORE, Server, digest

    for name in (CORE, *names):
        digest(name)
    return [Server(h.product, h.version, h.live, h.durability()) for h in harnesses]


def _record(subject: Subject, case: str, capability: str, declared: str, report: Any, harnesses: list[Any]) -> None:
    if report.skipped:
        return
    from dpone.testing.held import noted

    now = datetime.now(UTC).isoformat(timespec="seconds")
    result = {"case": case, "capability": capability, "declared": declared, "result": report.outcome}
    result |= {"left_out": {what: why for harness in harnesses for what, why in noted(harness).items()}}
    subject.results.append({**result, "seconds": round(report.duration, 3), "at": now})


def _expected(item: Any, error: BaseException) -> bool:
    from dpone.errors import DponeError
    from dpone.testing.cases import asserted

    return isinstance(error, DponeError) or asserted(error, item.cls)


def _turn(
    recorder: Recorder, subject: Subject, of: Any, case: str, capability: str, declared: str, report: Any
) -> None:
    """An undeclared capability: its failures are expected, and all of its cases passing is a failure."""
    if report.failed:
        report.outcome, report.wasxfail = "skipped", f"{capability} is {declared}"
        return
    if report.passed:
        passed = recorder.passed.setdefault((of, capability), set())
        passed.add(case)
        wanted = {name for name in subject.cases[capability] if name not in subject.quirks}
        if passed >= wanted:
            report.outcome = "failed"
            report.longrepr = (
                f"capability {capability} of {subject.role} {' -> '.join(subject.names)} is declared as {declared}, "
                f"but all its cases pass: declare it as supported in the plugin"
            )


def pytest_sessionfinish(session: pytest.Session) -> None:
    recorder = session.config.stash[KEY]
    if recorder.folder is None:
        return
    from dpone.certify.evidence import write

    for subject in recorder.subjects.values():
        write(
            recorder.folder,
            subject.role,
            subject.names,
            subject.servers,
            subject.results,
            required=subject.cases,
            quirks=subject.quirks,
            suite=subject.suite,
        )
