"""A plugin of pytest for mutation tests: which test runs which lines, and to run some tests in a given order.

DPONE_MUTATE_RECORD: write there, as JSON, every test with its seconds and its lines, if it passed. DPONE_MUTATE_LINES:
patterns of the files whose lines are wanted; to follow all of them takes longer.
DPONE_MUTATE_PICK: run only the tests that this file names, in its order; the first that fails is written beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

RECORD, PICK = os.environ.get("DPONE_MUTATE_RECORD"), os.environ.get("DPONE_MUTATE_PICK")
seconds: dict[str, float] = {}
failed: set[str] = set()
cover: Any = None
if RECORD:
    import coverage

    wanted = os.environ["DPONE_MUTATE_LINES"].split(os.pathsep)
    cover = coverage.Coverage(include=wanted, data_file=None, config_file=False)
    cover.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if cover:
        cover.switch_context(item.nodeid)
    before = sum(os.times()[:4])  # of the processor, children too: the machine may be busy with something else
    result = yield
    seconds[item.nodeid] = sum(os.times()[:4]) - before
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        failed.add(report.nodeid)
        if PICK:
            Path(PICK + ".failed").write_text(report.nodeid, encoding="utf-8")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PICK:
        wanted = json.loads(Path(PICK).read_text(encoding="utf-8"))
        known = {item.nodeid: item for item in items}
        items[:] = [known[one] for one in wanted if one in known]


def pytest_sessionfinish() -> None:
    if not cover or not RECORD:
        return
    cover.stop()
    data, tests = cover.get_data(), [one for one in seconds if one not in failed]
    place = {one: n for n, one in enumerate(tests)}
    lines = {
        file: {line: [place[c] for c in who if c in place] for line, who in data.contexts_by_lineno(file).items()}
        for file in data.measured_files()
    }
    found = {"tests": [(one, seconds[one]) for one in tests], "failed": sorted(failed), "lines": lines}
    Path(RECORD).write_text(json.dumps(found), encoding="utf-8")
