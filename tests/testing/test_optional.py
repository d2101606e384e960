"""What a connector offers besides the contract: declared by its plugin, promised by a Protocol, held against both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dpone.capability import Support
from dpone.connectors.file.sink import FileSink
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.contract import OPTIONAL, SupportsManyTables, SupportsRefuse
from dpone.errors import PluginError
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.plugins import Plugins, discover, lacking
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Dialect
from dpone.sql.sink import SqlSink
from dpone.sql.system import SqlSystem
from dpone.testing import SinkContract
from dpone.testing.builtin import FileHarness, SqliteHarness

EVERY = [(role, capability) for role, named in OPTIONAL.items() for capability in named]


class DeclaresTooMuch(SqliteSink):
    """Its plugin declares ``verify``, and it cannot."""

    lost = None  # type: ignore[assignment]  # what is taken back of a base class


class DeclaresTooLittle(FileSink):
    """Of refusing its plugin says nothing, so that nobody would ask."""

    def refuse(self, strategy: Strategy, every_row: bool = False) -> None:
        raise NotImplementedError


class _Committing(Dialect):
    ddl_commits = True


class _System(SqlSystem):
    dialect = _Committing()


class WithoutAlone(DbapiDatabase):
    system_class = _System


class DropsAnyTable(SqlSink):
    """Its DDL commits, and nothing keeps others out of a table while it is dropped."""

    database_class = WithoutAlone


class WithItsOwnTakeOut(SqlSink):
    class database_class(WithoutAlone):
        def take_out(self, table: Name, column: str = "") -> str:
            return ""


@pytest.mark.parametrize(("kind", "found"), [(DropsAnyTable, ["WithoutAlone.alone"]), (WithItsOwnTakeOut, [])])
def test_what_take_back_needs_of_the_database_is_found_when_the_plugin_is_loaded(kind: type, found: list[str]) -> None:
    """By its name, and only if the plugin declares it."""
    declared = discover().get("sink", "sqlite")
    without = evolve(declared, capabilities={**declared.capabilities, "take_back": Support.UNSUPPORTED})
    names = [f"{name} (of take_back)" for name in found]
    assert lacking("sink", kind, declared) == [*lacking("sink", kind, without), *names]


@pytest.mark.parametrize(
    ("fault", "harness", "found"),
    [
        (DeclaresTooMuch, SqliteHarness, "lacks lost (of verify); implement every member of dpone.contract (sink)"),
        (DeclaresTooLittle, FileHarness, "has all of refuse: declare it, or as unsupported"),
    ],
    ids=["too much", "too little"],
)
def test_the_kit_holds_what_is_offered_against_what_is_declared(
    fault: type, harness: Any, found: str, tmp_path: Path
) -> None:
    """A declared capability without its Protocol, and a Protocol that is not declared, are red in every kit run; the
    connector without the fault is green."""
    sound, faulty = harness(tmp_path), harness(tmp_path)
    faulty.implementations = {"sink": f"{__name__}:{fault.__name__}"}
    SinkContract().test_what_is_offered_is_declared(sound)
    with pytest.raises((PluginError, AssertionError)) as caught:
        SinkContract().test_what_is_offered_is_declared(faulty)
    assert found in str(caught.value)


@pytest.mark.parametrize(("role", "capability"), EVERY)
def test_what_is_declared_is_offered_and_nothing_else(role: Any, capability: str) -> None:
    """The one look-up goes by the capability of the plugin, whatever members the object has."""
    protocol, made, plugins = OPTIONAL[role][capability], object(), discover()
    for support in Support:
        name = next(iter(plugins.names(role)))
        record = evolve(plugins.get(role, name), capabilities={capability: support})
        changed = evolve(plugins, connectors={**plugins.connectors, (role, name): record})
        expected = made if support is Support.SUPPORTED else None
        assert changed.offered(protocol, made, name) is expected


def test_a_member_of_an_optional_protocol_is_not_asked_for_by_name() -> None:
    """A connector that has the member and does not declare it is used without it."""
    plugins: Plugins = discover()
    assert plugins.offered(SupportsRefuse, FileSink, "file") is None
    assert plugins.offered(SupportsManyTables, FileSink, "file") is None
    assert plugins.offered(SupportsManyTables, SqliteSink, "sqlite") is SqliteSink
