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
from dpone.model.strategy import Strategy
from dpone.plugins import Plugins, discover
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
