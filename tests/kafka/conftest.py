"""The brokers of a session: DPONE_TEST_KAFKA, or one of ours. The everyday broker is a small stand-in for Kafka, which
loses data when it is killed and keeps no limits of sizes: what depends on that runs on ``apache``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import dpone
from tests.kafka import apache as brokers_of_apache
from tests.kafka.apache import Apache

from dpone_kafka.testing import KafkaHarness

__all__ = ["dpone"]


@pytest.fixture(scope="session")
def everyday(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker that is there in a moment."""
    if given := os.environ.get("DPONE_TEST_KAFKA"):
        yield given
        return
    stand_in = KafkaHarness.stand_in(tmp_path_factory.mktemp("kafka"))
    assert stand_in is not None
    with stand_in as address:
        yield address


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apache]:
    """Apache Kafka, one broker, with TLS, SASL and ACLs."""
    if brokers_of_apache.jars() is None:
        pytest.skip("Apache Kafka needs java, and mvn to fetch it")
    with brokers_of_apache.running(tmp_path_factory.mktemp("apache"), secure=True) as running:
        yield running


@pytest.fixture
def harness(everyday: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaHarness]:
    """Topics of the test's own on the everyday broker."""
    monkeypatch.setenv("DPONE_TEST_KAFKA", everyday)
    made = KafkaHarness(tmp_path)
    yield made
    made.close()


@pytest.fixture
def on_apache(apache: Apache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaHarness]:
    """The same on Apache Kafka."""
    monkeypatch.setenv("DPONE_TEST_KAFKA", apache.servers())
    made = KafkaHarness(tmp_path)
    yield made
    made.close()
