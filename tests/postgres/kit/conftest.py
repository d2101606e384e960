"""The Harness of the connector is told of the session's server, and its folder is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.project import memory_folder
from tests.postgres.server import Server


@pytest.fixture(autouse=True)
def _address(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPONE_TEST_POSTGRES_URL", postgres.url)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder
