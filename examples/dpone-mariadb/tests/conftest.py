"""One server for all tests, a database for each."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from harness import MariadbHarness
from server import running

_numbers = itertools.count()


@pytest.fixture(scope="session")
def port():
    with tempfile.TemporaryDirectory(prefix="dpone-mariadb-") as folder, running(Path(folder)) as port:
        yield port


@pytest.fixture
def make(port, tmp_path):
    """Harnesses, each with a database of its own."""

    def made() -> MariadbHarness:
        folder = tmp_path / f"h{next(_numbers)}"
        folder.mkdir()
        return MariadbHarness(folder, port, f"kit{next(_numbers)}")

    return made


@pytest.fixture
def harness(make):
    return make()
