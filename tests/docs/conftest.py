"""The PostgreSQL of tests/postgres, for pages that need one."""

from collections.abc import Iterator
from os import getpid

import pytest
from attrs import evolve
from tests.postgres.conftest import postgres as postgres
from tests.postgres.server import Server


@pytest.fixture
def database(postgres: Server) -> Iterator[Server]:
    """A database of the test's own: the pages name schemas."""
    name = f"dpone_docs_{getpid()}"
    postgres.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}")
    yield evolve(postgres, database=name)
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")
