"""A SQL system whose DDL commits by itself is certified like any other. One that keeps to the order of a system whose
DDL has transactions is among the faults."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from attrs import evolve

from dpone.capability import Support
from dpone.plugins import Plugins
from dpone.testing import Harness, SinkContract
from dpone.testing.builtin import SqliteHarness


class CommittingHarness(SqliteHarness):
    implementations: ClassVar[dict[str, str]] = {
        "sink": "tests.testing.ddl_commits:CommittingSink",
    }

    @property
    def plugins(self) -> Plugins:
        """Nothing is swapped in a commit, so that the columns cannot be replaced by one."""
        found, place = super().plugins, ("sink", self.connector)
        of = found.connectors[place]
        declared = {**of.capabilities, "replace_columns": Support.UNSUPPORTED}
        return evolve(found, connectors={**found.connectors, place: evolve(of, capabilities=declared)})


class TestCommittingSink(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return CommittingHarness(tmp_path)
