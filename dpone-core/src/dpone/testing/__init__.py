"""The conformance kit: what a connector must do, as test classes that its author subclasses.

    class TestDuckSink(SinkContract):
        @pytest.fixture
        def harness(self, tmp_path):
            return DuckHarness(tmp_path)

Needs the extra ``testing`` (pytest, hypothesis). docs/write-a-connector.md shows the whole of it.
"""

from dpone.testing.cases import case
from dpone.testing.cdc import CDCContract, Change
from dpone.testing.harness import Harness
from dpone.testing.route import RouteContract
from dpone.testing.sink import SinkContract
from dpone.testing.source import SourceContract
from dpone.testing.state import StateContract

__all__ = [
    "CDCContract",
    "Change",
    "Harness",
    "RouteContract",
    "SinkContract",
    "SourceContract",
    "StateContract",
    "case",
]
