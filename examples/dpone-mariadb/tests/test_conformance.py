"""The conformance kit, against MariaDB alone and on routes from and to SQLite."""

from __future__ import annotations

from dpone.testing import RouteContract, SinkContract, SourceContract, StateContract


class TestMariadbSource(SourceContract):
    connector = "mariadb"


class TestMariadbSink(SinkContract):
    connector = "mariadb"


class TestMariadbState(StateContract):
    connector = "mariadb"


class TestSqliteToMariadb(RouteContract):
    ends = ("sqlite", "mariadb")


class TestMariadbToSqlite(RouteContract):
    ends = ("mariadb", "sqlite")
