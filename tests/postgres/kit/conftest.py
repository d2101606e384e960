"""The Harness of the connector is told of the session's server."""

from __future__ import annotations

import pytest
from tests.postgres.server import Server


@pytest.fixture(autouse=True)
def _address(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPONE_TEST_POSTGRES_URL", postgres.url)
