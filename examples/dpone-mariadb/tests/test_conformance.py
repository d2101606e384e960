"""The conformance kit, against MariaDB alone and on routes from and to SQLite."""

from __future__ import annotations

import pytest

from dpone.testing import RouteContract, SinkContract, SourceContract, StateContract
from dpone.testing.builtin import SqliteHarness


class TestMariadbSource(SourceContract):
    @pytest.fixture
    def harness(self, make):
        return make()


class TestMariadbSink(SinkContract):
    @pytest.fixture
    def harness(self, make):
        return make()


class TestMariadbState(StateContract):
    @pytest.fixture
    def harness(self, make):
        return make()


def sqlite(folder):
    folder.mkdir()
    return SqliteHarness(folder)


class TestSqliteToMariadb(RouteContract):
    @pytest.fixture
    def source(self, tmp_path):
        return sqlite(tmp_path / "source")

    @pytest.fixture
    def sink(self, make):
        return make()


class TestMariadbToSqlite(RouteContract):
    @pytest.fixture
    def source(self, make):
        return make()

    @pytest.fixture
    def sink(self, tmp_path):
        return sqlite(tmp_path / "sink")
