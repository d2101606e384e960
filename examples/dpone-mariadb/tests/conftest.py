"""One server for all tests, unless DPONE_TEST_MARIADB_URL names one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from server import running

from dpone.testing.harness import opened

URL = "DPONE_TEST_MARIADB_URL"


@pytest.fixture(scope="session", autouse=True)
def address():
    if os.environ.get(URL):
        yield
        return
    with (
        tempfile.TemporaryDirectory(prefix="dpone-mariadb-") as folder,
        running(Path(folder)) as port,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(URL, f"mariadb://root@127.0.0.1:{port}/mysql?tls=off")
        yield


@pytest.fixture
def harness(tmp_path):
    with opened("sink", "mariadb", tmp_path) as harness:
        yield harness
