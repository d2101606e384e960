"""The Harness of the connector reaches Apache Kafka; without Java and Maven, or where DPONE_TEST_KAFKA names another
broker, the everyday one."""

from __future__ import annotations

import os

import pytest
from tests.kafka.apache import jars


@pytest.fixture(autouse=True)
def _address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("DPONE_TEST_KAFKA") or jars() is None:
        address = request.getfixturevalue("everyday")
    else:
        address = request.getfixturevalue("apache").servers()
    monkeypatch.setenv("DPONE_TEST_KAFKA", address)
