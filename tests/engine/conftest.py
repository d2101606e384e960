from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.engine import faulty as faults
from tests.engine.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Appends CSV files to a SQLite table."""
    return Project(tmp_path / "p").save()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """tests.engine.faulty, empty; nothing waits before a retry."""
    monkeypatch.setattr("dpone.engine.time.sleep", lambda seconds: None)
    for kept in (faults.faults, faults.log, faults.watch):
        kept.clear()
    yield faults
    for kept in (faults.faults, faults.log, faults.watch):
        kept.clear()
