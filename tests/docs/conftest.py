"""The PostgreSQL of tests/postgres and the broker of tests/kafka, for pages that need one."""

from collections.abc import Iterator
from os import getpid
from pathlib import Path

import pytest
from attrs import evolve
from tests.kafka.conftest import everyday as everyday
from tests.postgres.conftest import postgres as postgres
from tests.postgres.server import Server

from dpone_kafka.sink_options import JOURNAL
from dpone_kafka.testing import KafkaHarness


@pytest.fixture
def database(postgres: Server) -> Iterator[Server]:
    """A database of the test's own: the pages name schemas."""
    name = f"dpone_docs_{getpid()}"
    postgres.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}")
    yield evolve(postgres, database=name)
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def topics(everyday: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaHarness]:
    """A broker without the topics that the pages name."""
    monkeypatch.setenv("DPONE_TEST_KAFKA", everyday)
    harness = KafkaHarness(tmp_path)
    yield harness
    for topic in {"orders", "orders_copy", JOURNAL} & {*harness.call(lambda admin: admin.list_topics())}:
        harness.delete(topic)
    harness.close()
