"""What holds for every test."""

import os
import shutil
import signal
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.sql.clock import Clock

from dpone.sql import in_flight

# A slow machine is not a failure: neither an example nor the drawing of examples has a limit of time.
settings.register_profile("dpone", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dpone")

GIVEN = "DPONE_TEST_POSTGRES_URL"

# Every step of a run syncs, which takes most of its time on a disk. SIGKILL takes nothing from the system's cache, so
# that a disk would prove no more: temporary files are in memory, also those of the processes that tests start. TMPDIR
# names another folder. What is synced, and when, is the subject of tests/power.
MEMORY = Path("/dev/shm")  # noqa: S108  # pytest and tempfile make private folders in it
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# A shell without job control starts what runs in the background with SIGINT ignored, and so would all of its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    ours = parser.getgroup("dpone")
    ours.addoption("--part", type=part, metavar="N/M", help="only the Nth of M parts, from 0, of the tests")
    ours.addoption(
        "--divide-from", type=int, default=1, metavar="K", help="a test of fewer cases than K is in each part"
    )
    ours.addoption("--skipped", help="file that takes the names of the tests that were skipped")
    ours.addoption("--also", help="file of such names: these tests too, and those marked releases, whatever their part")


def pytest_configure(config: pytest.Config) -> None:
    """The tests of a server wait for all of its transactions, and change its settings and roles."""
    if os.environ.get(GIVEN) and config.getoption("numprocesses", None):
        raise pytest.UsageError(f"{GIVEN} names one server, which the processes of -n would share; leave out -n")


def part(text: str) -> tuple[int, int]:
    number, of = (int(word) for word in text.split("/"))
    if not 0 <= number < of:
        raise ValueError(text)
    return number, of


def pytest_report_header(config: pytest.Config) -> str | None:
    return f"{chosen(config)} repeats it" if config.getoption("--part") else None


def chosen(config: pytest.Config) -> str:
    (number, of), least = config.getoption("--part"), config.getoption("--divide-from")
    words = [f"--part {number}/{of}", *([f"--divide-from {least}"] if least > 1 else [])]
    what = f"of each test of {least} cases or more, and every other test" if least > 1 else "of the tests"
    return f"part {number} of {of} {what}: {' '.join(words)}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--part") is None:
        return
    also = config.getoption("--also")
    names = set(Path(also).read_text(encoding="utf-8").splitlines()) if also else set()
    if also:
        names |= {item.nodeid for item in items if item.get_closest_marker("releases")}
    names |= in_part([item.nodeid for item in items], *config.getoption("--part"), config.getoption("--divide-from"))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in names])
    items[:] = [item for item in items if item.nodeid in names]


def in_part(names: Iterable[str], number: int, of: int, least: int) -> set[str]:
    """Those of the tests ``names`` that are in a part. The cases of a test are dealt out evenly to all parts, in an
    order that follows neither their names nor the order of the tests, which is random."""
    cases: dict[str, list[str]] = {}
    for name in names:
        cases.setdefault(name.partition("[")[0], []).append(name)
    found: set[str] = set()
    for test, its in cases.items():
        dealt = sorted(its, key=lambda name: (zlib.crc32(name.encode()), name))
        found |= set(dealt if len(its) < least else dealt[(number - zlib.crc32(test.encode())) % of :: of])
    return found


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Of all processes of xdist: their reports reach this one."""
    yield
    if terminalreporter.config.getoption("--part"):
        terminalreporter.write_line(
            f"this was {chosen(terminalreporter.config)} repeats it; without them, all tests run"
        )
    if path := terminalreporter.config.getoption("--skipped"):
        names = {report.nodeid for report in terminalreporter.stats.get("skipped", [])}
        Path(path).write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """What a process has once known as a secret it masks for ever, also where it is a file's name here. Not by the
    fixture ``monkeypatch``: it would come before all other fixtures of a test then, and undo its work after theirs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dpone.model.secret._known", set())
        patched.setattr("dpone.model.secret._pattern", None)
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """For waits on open transactions."""
    made = Clock()
    monkeypatch.setattr(in_flight, "time", made)
    return made
