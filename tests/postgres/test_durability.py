"""Evidence says by which settings the server keeps what it confirms."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.postgres.server import Server

from dpone_postgres.testing import PostgresHarness


@pytest.fixture
def harness(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PostgresHarness:
    monkeypatch.setenv("DPONE_TEST_POSTGRES_URL", postgres.url)
    return PostgresHarness(tmp_path)


def test_the_settings_are_the_servers_own(postgres: Server, harness: PostgresHarness) -> None:
    """As pg_settings has them; the server of the tests does not sync, and is said not to."""
    names = "('fsync', 'full_page_writes', 'synchronous_commit')"
    settings = dict(postgres.query(f"SELECT name, setting FROM pg_settings WHERE name IN {names}"))
    found = harness.durability()
    harness.close()
    assert (found.settings, found.safe) == (settings, "off" not in settings.values())
    if postgres.process is not None:
        assert (found.settings["fsync"], found.safe) == ("off", False)


def test_they_are_those_of_the_user(postgres: Server, harness: PostgresHarness) -> None:
    """What a role or database sets for its sessions counts: the connector's have it too."""
    postgres.run("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        found = harness.durability()
    finally:
        postgres.run("ALTER ROLE CURRENT_USER RESET synchronous_commit")
        harness.close()
    assert (found.settings["synchronous_commit"], found.safe) == ("off", False)
