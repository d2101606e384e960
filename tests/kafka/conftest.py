"""The brokers of a session: DPONE_TEST_KAFKA, or one of ours. The everyday broker is a small stand-in for Kafka, which
loses data when it is killed and keeps no limits of sizes: what depends on that runs on ``apache``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import dpone
from tests.engine.project import CHILD
from tests.kafka import apache as brokers_of_apache
from tests.kafka.apache import Apache
from tests.kafka.reading import Run

from dpone_kafka.testing import KafkaHarness

__all__ = ["dpone"]
_IMPORTED = (
    "import runpy, sys, dpone_kafka.source; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


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


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs jobs of ``tests.engine.child``, each in a process forked from one that has everything imported."""
    command = [sys.executable, "-c", _IMPORTED, str(CHILD), "--serve"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def one(pipeline: Path, **job: Any) -> Mapping[str, Any]:
            stdin.write(json.dumps({"pipeline": str(pipeline), **job}) + "\n")
            stdin.flush()
            answer: Mapping[str, Any] = json.loads(stdout.readline())
            return answer

        yield one
        stdin.close()
