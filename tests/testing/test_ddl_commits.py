"""A SQL system whose DDL commits by itself is certified like any other. One that keeps to the order of a system whose
DDL has transactions is among the faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.testing import ddl_commits

from dpone.testing import Harness, SinkContract
from dpone.testing.builtin import SqliteHarness


def harness(folder: Path, sink: type) -> Harness:
    made = SqliteHarness(folder)
    made.implementations = {"sink": f"{sink.__module__}:{sink.__name__}"}
    return made


class TestCommittingSink(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return harness(tmp_path, ddl_commits.CommittingSink)
