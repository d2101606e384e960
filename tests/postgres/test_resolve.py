"""OUT-11: names of hosts, and name servers that say nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.patience import PATIENCE
from tests.postgres.server import Server

from dpone.errors import Category, SourceError
from dpone_postgres.connect import connect
from dpone_postgres.resolve import addressed

pytestmark = pytest.mark.postgres

# A lookup that neither a signal nor an exception ends, as in the C library: a mutex is locked twice.
DEAF = """
import ctypes, socket, sys
def getaddrinfo(*given, **options):
    print(" asked ", given[0], file=sys.stderr, flush=True)
    mutex, library = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
socket.getaddrinfo = getaddrinfo
sys.argv[0] = "dpone"
from dpone.__main__ import main
main()
"""


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICEFILE", "PGSYSCONFDIR", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def resolver(monkeypatch: pytest.MonkeyPatch, **known: list[str]) -> None:
    """A name server that knows these names, with dots for underscores, and no other."""

    def answer(host: str, port: Any, *more: Any, **options: Any) -> list[Any]:
        if host.replace(".", "_") not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in known[host.replace(".", "_")]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


HOSTS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"host": "a.example"}, {"host": "a.example,a.example", "hostaddr": "10.0.0.1,10.0.0.2"}),
    (
        {"host": "a.example,b.example", "port": "5432,5433"},
        {
            "host": "a.example,a.example,b.example",
            "hostaddr": "10.0.0.1,10.0.0.2,10.0.0.3",
            "port": "5432,5432,5433",
        },
    ),
    (
        {"host": "gone.example,b.example", "port": "5433"},
        {"host": "b.example", "hostaddr": "10.0.0.3", "port": "5433"},
    ),
    ({"host": "10.0.0.9,::1,/run/x"}, {"host": "10.0.0.9,::1,/run/x", "hostaddr": "10.0.0.9,::1,"}),
    ({"host": "a.example", "hostaddr": "10.9.9.9"}, {"host": "a.example", "hostaddr": "10.9.9.9"}),
    ({"host": "a.example,b.example", "port": "1,2,3"}, {"host": "a.example,b.example", "port": "1,2,3"}),
    ({"dbname": "d"}, {"dbname": "d"}),
]


@pytest.mark.parametrize(("given", "wanted"), HOSTS, ids=str)
def test_every_address_of_every_host_is_tried(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], wanted: dict[str, str]
) -> None:
    """In their order, each with its port; addresses and sockets stay, and a name that is not known is left out."""
    resolver(monkeypatch, a_example=["10.0.0.1", "10.0.0.2"], b_example=["10.0.0.3"])
    assert addressed(given, {}) == wanted


def test_a_service_names_a_host_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In libpq's order: the connection, the service, the environment."""
    resolver(monkeypatch, a_example=["10.0.0.1"], b_example=["10.0.0.3"])
    monkeypatch.setenv("PGHOST", "a.example")
    assert addressed({}, {})["hostaddr"] == "10.0.0.1"
    assert addressed({}, {"host": "b.example", "port": "7"}) == {
        "host": "b.example", "hostaddr": "10.0.0.3", "port": "7",
    }  # fmt: skip
    assert addressed({"host": "a.example"}, {"host": "b.example"})["hostaddr"] == "10.0.0.1"


def test_a_name_of_several_addresses_reaches_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch, postgres: Server
) -> None:
    """The first address refuses, the second is the server."""
    resolver(monkeypatch, db_example=["127.0.0.77", postgres.host])
    given = {"host": "db.example", "port": str(postgres.port), "user": postgres.user, "dbname": postgres.database}
    with closing(connect({**given, "password": postgres.password}, SourceError)) as db:
        assert (db.info.host, db.info.hostaddr) == ("db.example", postgres.host)


@pytest.mark.parametrize("host", ["gone.example", "a" * 100 + ".example", "a..b"])
def test_a_name_that_is_not_known_is_named(host: str) -> None:
    """A transient failure: name servers come and go. What cannot be a name is one, too."""
    with pytest.raises(SourceError, match=f"could not resolve host {host}") as caught:
        connect({"host": host, "connect_timeout": "20"}, SourceError)
    assert caught.value.category == Category.TRANSIENT


def test_OUT_11_a_name_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``connect_timeout``, as a transient failure that names the host."""
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **options: [never.wait(600)][1:])
    with pytest.raises(SourceError, match=r"could not resolve host db\.example: no name server answered") as caught:
        connect({"host": "db.example", "connect_timeout": "2"}, SourceError)
    assert caught.value.category == Category.TRANSIENT
    never.set()


@pytest.mark.parametrize("role", ["source", "sink", "state"])
@pytest.mark.parametrize("how", ["url", "environment", "service"])
def test_OUT_11_a_signal_ends_a_run_whose_name_server_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, how: str
) -> None:
    """Wherever the name stands: exit 130, with a whole report, while the lookup goes on."""
    (tmp_path / "services").write_text("[far]\nhost=db.example\nuser=u\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    connection = {"url": "postgres://u@db.example/d", "environment": "dbname=d", "service": "service=far"}[how]
    if how == "environment":
        monkeypatch.setenv("PGHOST", "db.example")
    lite = f"sqlite:///{tmp_path}/lite.db"
    data: dict[str, Any] = {
        "pipeline": "p",
        "source": {"type": "sqlite", "connection": lite, "table": "t"},
        "sink": {"type": "sqlite", "connection": lite, "table": "u", "strategy": {"mode": "append"}},
        "state": {"type": "sqlite", "connection": f"sqlite:///{tmp_path}/state.db"},
    }
    data[role] |= {"type": "postgres", "connection": connection}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-c", DEAF, "run", "pipeline.yaml", "-q", "--format", "json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == " asked  db.example\n"
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=PATIENCE)  # the lookup would take longer
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    # The run log asks a state first, before the stream begins.
    status = "pending" if role == "state" else "interrupted"
    assert [stream["status"] for stream in json.loads(out)["streams"]] == [status]
