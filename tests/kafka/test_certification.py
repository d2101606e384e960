"""``dpone ops certification-run`` over Kafka, on the small broker of the extra ``testing``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpone.certify import certification
from dpone_kafka.testing import KafkaHarness

ROUTES = [
    ("kafka", "sqlite"),
    ("sqlite", "kafka"),
    *(pytest.param(*route, marks=pytest.mark.kafka) for route in (("kafka", "postgres"), ("postgres", "kafka"))),
]


@pytest.mark.parametrize(("source", "sink"), ROUTES)
def test_a_route_is_tried_without_a_broker_of_one_s_own(
    source: str, sink: str, dpone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are loaded, changed, killed and compared; the first line and the evidence say that a stand-in was used, and
    the route is certified as simulated."""
    monkeypatch.delenv("DPONE_TEST_KAFKA", raising=False)
    words = ("--source", source, "--sink", sink, "--strategy", "append", "--rows", "50", "--seed", "3")
    done = dpone("ops", "certification-run", *words, "--evidence", tmp_path)
    assert done.exit_code == 0, done.out
    first, *steps, _, _, _, _, _ = done.out.splitlines()
    assert first.startswith("simulated: ")
    assert "kafka (noida-db 0.2." in first
    assert len([line for line in steps if "every row equal" in line]) == 5
    servers = [one for file in tmp_path.glob("*.json") for one in json.loads(file.read_text())["servers"]]
    assert {one["live"] for one in servers if one["product"] == "noida-db"} == {False}
    [route] = [one for one in certification.certify(tmp_path).routes if one.evidence]
    assert (route.source, route.sink, route.status) == (source, sink, "simulated")


def test_a_stand_in_ends_with_its_block(tmp_path: Path) -> None:
    """Its address is of a simulated server while it runs, and nobody answers there afterwards."""
    stand_in = KafkaHarness.stand_in(tmp_path)
    assert stand_in is not None
    with stand_in as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPONE_TEST_KAFKA", address)
        harness = KafkaHarness(tmp_path)
        assert (harness.live, harness.product) == (False, "noida-db")
        harness.close()
    with pytest.raises(Exception, match="Unable to bootstrap"):
        harness.close()
