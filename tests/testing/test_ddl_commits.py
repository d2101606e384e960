"""A SQL system whose DDL commits by itself is certified like any other, and one that keeps to the order of a system
whose DDL has transactions is found, by the one case that is there for it."""

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


class TestDropsBeforeItJournals(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return harness(tmp_path, ddl_commits.DropsBeforeItJournals)

    def test_a_commit_cut_off_between_two_statements_is_made_good(self, harness: Harness) -> None:
        """This one finds it: the rows are there twice."""
        with pytest.raises(AssertionError, match="too many"):
            super().test_a_commit_cut_off_between_two_statements_is_made_good(harness)
