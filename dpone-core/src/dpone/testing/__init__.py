"""The conformance kit: what a connector must do, as test classes that its author subclasses.

    class TestDuckSink(SinkContract):
        connector = "duckdb"  # its plugin names the Harness

Needs the extra ``testing`` (pytest, hypothesis). docs/internals/write-a-connector.md shows the whole of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpone.testing.cases import case
    from dpone.testing.cdc import CDCContract
    from dpone.testing.harness import CannotHold, Change, Harness
    from dpone.testing.log import LogHarness
    from dpone.testing.route import RouteContract
    from dpone.testing.sink import SinkContract
    from dpone.testing.source import SourceContract
    from dpone.testing.sql import SqlHarness
    from dpone.testing.state import StateContract
    from dpone.testing.store import StoreHarness

_MODULES = {
    "CDCContract": "cdc",
    "CannotHold": "harness",
    "Change": "harness",
    "Harness": "harness",
    "LogHarness": "log",
    "RouteContract": "route",
    "SinkContract": "sink",
    "SourceContract": "source",
    "SqlHarness": "sql",
    "StateContract": "state",
    "StoreHarness": "store",
    "case": "cases",
}
__all__ = [
    "CDCContract",
    "CannotHold",
    "Change",
    "Harness",
    "LogHarness",
    "RouteContract",
    "SinkContract",
    "SourceContract",
    "SqlHarness",
    "StateContract",
    "StoreHarness",
    "case",
]


def __getattr__(name: str) -> Any:
    """On first use: pytest imports ``dpone.testing.plugin`` wherever dpone-core is, also where hypothesis is not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """So that ``help(dpone.testing)`` shows them."""
    return [*globals(), *__all__]
