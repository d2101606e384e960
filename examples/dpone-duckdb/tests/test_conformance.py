"""The conformance kit, against DuckDB alone and on routes from and to SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import DuckdbHarness

from dpone.testing import Harness, RouteContract, SinkContract, SourceContract
from dpone.testing.builtin import SqliteHarness


def sqlite(folder: Path) -> Harness:
    folder.mkdir()
    return SqliteHarness(folder)


class TestDuckdbSource(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return DuckdbHarness(tmp_path)


class TestDuckdbSink(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return DuckdbHarness(tmp_path)


class TestSqliteToDuckdb(RouteContract):
    @pytest.fixture
    def source(self, tmp_path):
        return sqlite(tmp_path / "source")

    @pytest.fixture
    def sink(self, tmp_path):
        return DuckdbHarness(tmp_path / "sink")


class TestDuckdbToSqlite(RouteContract):
    @pytest.fixture
    def source(self, tmp_path):
        return DuckdbHarness(tmp_path / "source")

    @pytest.fixture
    def sink(self, tmp_path):
        return sqlite(tmp_path / "sink")
