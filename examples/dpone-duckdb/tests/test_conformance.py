"""The conformance kit, against DuckDB alone and on routes from and to SQLite."""

from __future__ import annotations

from dpone.testing import RouteContract, SinkContract, SourceContract


class TestDuckdbSource(SourceContract):
    connector = "duckdb"


class TestDuckdbSink(SinkContract):
    connector = "duckdb"


class TestSqliteToDuckdb(RouteContract):
    ends = ("sqlite", "duckdb")


class TestDuckdbToSqlite(RouteContract):
    ends = ("duckdb", "sqlite")
