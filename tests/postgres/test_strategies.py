"""The tests of the shared SQL layer, once more on PostgreSQL: the same functions, with a target of another kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen
from tests.postgres.server import Server
from tests.postgres.target import Target
from tests.sql import test_finalize, test_mode_flips, test_partition_replace, test_scd2, test_snapshot_diff

pytestmark = pytest.mark.postgres
MODULES = (test_finalize, test_mode_flips, test_partition_replace, test_scd2, test_snapshot_diff)

# Tests whose statements are SQLite's own: collations, pragmas, the texts in which it keeps times.
SQLITE_ONLY = {
    "test_merge_sees_a_change_of_case_whatever_the_collation",
}


@frozen
class Here(Target):
    """Takes the words of types that the shared tests use."""

    def run(self, *statements: str) -> None:
        super().run(*(s.replace(" DOUBLE", " double precision").replace(" REAL", " float8") for s in statements))


def here(path: Path) -> Here:
    """A target that a test makes for itself: an emptied schema."""
    server, schema = _SERVER[0], f"dpone_{os.getpid()}_own"
    server.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE", f"CREATE SCHEMA {schema}")
    return Here(server, schema)


_SERVER: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def _on_postgres(postgres: Server) -> Iterator[None]:
    _SERVER[:] = [postgres]
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            if hasattr(module, "Target"):
                patch.setattr(module, "Target", here)
        yield


@pytest.fixture
def target(postgres: Server) -> Target:
    return here(Path())


for module in MODULES:
    for name in dir(module):
        if name.startswith("test_") and name not in SQLITE_ONLY:
            assert name not in globals(), f"two tests are called {name}"
            globals()[name] = getattr(module, name)
