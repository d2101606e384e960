from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tests.engine import faulty as faults
from tests.engine.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Appends CSV files to a SQLite table."""
    return Project(tmp_path / "p").save()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before retries, in seconds; nobody waits for them."""
    kept: list[float] = []
    stopped = SimpleNamespace(sleep=kept.append, perf_counter=lambda: time.perf_counter())
    monkeypatch.setattr("dpone.engine.run.time", stopped)
    return kept


@pytest.fixture
def faulty(pauses: list[float]) -> Iterator[ModuleType]:
    """tests.engine.faulty, empty; nothing waits before a retry."""
    for kept in (faults.faults, faults.log, faults.watch):
        kept.clear()
    yield faults
    for kept in (faults.faults, faults.log, faults.watch):
        kept.clear()
