"""The conformance kit against the built-in connectors: green for what they declare, and for nothing else."""

from __future__ import annotations

from dpone.testing import CDCContract, RouteContract, SinkContract, SourceContract, StateContract


class TestSqliteSource(SourceContract):
    connector = "sqlite"


class TestSqliteSink(SinkContract):
    connector = "sqlite"


class TestSqliteState(StateContract):
    connector = "sqlite"


class TestFileSource(SourceContract):
    connector = "file"


class TestFileSink(SinkContract):
    connector = "file"


class TestFileState(StateContract):
    connector = "file"


class TestFileChangeLog(CDCContract):
    connector = "file_changelog"


class TestFileToSqlite(RouteContract):
    ends = ("file", "sqlite")


class TestFileToFile(RouteContract):
    ends = ("file", "file")


class TestSqliteToFile(RouteContract):
    ends = ("sqlite", "file")


class TestSqliteToSqlite(RouteContract):
    ends = ("sqlite", "sqlite")
