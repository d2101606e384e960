"""A MariaDB server of one's own for the tests, on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pymysql

LIMIT = 60.0  # seconds to start, and to stop


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """The port. Every commit is synced, as by default."""
    install, daemon = shutil.which("mariadb-install-db"), shutil.which("mariadbd")
    if install is None or daemon is None:
        raise RuntimeError("no MariaDB server: install mariadb-server")
    data, user = folder / "data", [f"--user={'mysql' if os.getuid() == 0 else os.environ.get('USER', 'mysql')}"]
    folder.chmod(0o755)
    options = [f"--datadir={data}", "--no-defaults"]
    made = [
        install,
        "--no-defaults",
        f"--datadir={data}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        *user,
    ]
    subprocess.run(made, check=True, capture_output=True, timeout=LIMIT)
    # Bound while the server runs, so that nobody else is given the port; it does not listen, so that the server may.
    free = socket.socket()
    free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    command = [
        daemon,
        "--no-defaults",
        *options[:1],
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={data}/s",
    ]
    command += [f"--pid-file={data}/pid", "--innodb-buffer-pool-size=64M", *user]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + LIMIT
        while True:
            with suppress(pymysql.OperationalError):
                pymysql.connect(host="127.0.0.1", port=port, user="root").close()
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"MariaDB does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(LIMIT)
        free.close()
