"""The conformance kit against the built-in connectors: green for what they declare, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpone.testing import CDCContract, Harness, RouteContract, SinkContract, SourceContract, StateContract
from dpone.testing.builtin import ChangeLogHarness, FileHarness, SqliteHarness


class TestSqliteSource(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return SqliteHarness(tmp_path)


class TestSqliteSink(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return SqliteHarness(tmp_path)


class TestSqliteState(StateContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return SqliteHarness(tmp_path)


class TestFileSource(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return FileHarness(tmp_path)


class TestFileSink(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return FileHarness(tmp_path)


class TestFileState(StateContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return FileHarness(tmp_path)


class TestFileChangeLog(CDCContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return ChangeLogHarness(tmp_path)


class _Route(RouteContract):
    ends: tuple[type, type]

    @pytest.fixture
    def source(self, tmp_path: Path) -> Harness:
        return self.make(0, tmp_path / "source")

    @pytest.fixture
    def sink(self, tmp_path: Path) -> Harness:
        return self.make(1, tmp_path / "sink")

    def make(self, end: int, folder: Path) -> Harness:
        folder.mkdir()
        harness: Harness = self.ends[end](folder)
        return harness


class TestFileToSqlite(_Route):
    ends = (FileHarness, SqliteHarness)


class TestFileToFile(_Route):
    ends = (FileHarness, FileHarness)


class TestSqliteToFile(_Route):
    ends = (SqliteHarness, FileHarness)


class TestSqliteToSqlite(_Route):
    ends = (SqliteHarness, SqliteHarness)
