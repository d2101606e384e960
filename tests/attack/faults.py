"""What befalls a run: kills, rivals, restarts of the server, a silent or cut network, a wrong clock, a full disk.

Each fault takes an attack's round and one started process of ``dpone run``, and answers the exit code of that process.
"""

from __future__ import annotations

import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Protocol

from attrs import define, field

# Seconds until a run counts as hung. One takes a second or two; its waits until it gives up, as for the lock of a file
# that a stopped run holds (``dpone.host.durable.LONGEST``), and again as a retry, are less than this together.
LIMIT = 300.0
STOP = 30.0  # from SIGTERM to the end, which takes dpone ten at most; a silent peer would be waited for longer
LEASE = 2.0  # seconds, of every state in an attack


class Hung(AssertionError):
    """A process that had to end did not."""


class Runner(Protocol):
    """The round, as faults see it."""

    rng: Random
    line: Line
    span: float  # seconds that an undisturbed run takes here and now

    def start(self, **more: object) -> subprocess.Popen[str]: ...

    def restart_server(self) -> None: ...


def ended(process: subprocess.Popen[str], limit: float, why: str) -> int:
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Hung(f"{why}: still running after {limit:g} s") from None


def none(run: Runner) -> int:
    return ended(run.start(), LIMIT, "an undisturbed run")


def kill(run: Runner) -> int:
    """SIGKILL at a random moment; the first third of a run is the start of its process."""
    process = run.start()
    with suppress(subprocess.TimeoutExpired):
        return process.wait(run.span * run.rng.uniform(0.3, 1.05))
    process.kill()
    return process.wait()


def rival(run: Runner) -> int:
    """SIGSTOP, a rival run that takes the lease over, SIGCONT: one of the two must lose, and nothing else happens."""
    first = run.start()
    with suppress(subprocess.TimeoutExpired):
        return first.wait(run.span * run.rng.uniform(0.4, 0.95))
    first.send_signal(signal.SIGSTOP)
    try:
        for _ in range(4):
            if ended(run.start(), LIMIT, "a rival of a stopped run") == 0:
                break
            time.sleep(LEASE / 2)
    finally:
        first.send_signal(signal.SIGCONT)
    return ended(first, LIMIT, "a run that was stopped and goes on")


def restart(run: Runner) -> int:
    """The server is stopped at once, as by a crash, and started again."""
    process = run.start()
    time.sleep(run.span * run.rng.uniform(0.3, 0.9))
    run.restart_server()
    return ended(process, LIMIT, "a run whose server restarted")


def cut(run: Runner) -> int:
    """Every connection is reset, once or twice."""
    process = run.start()
    for _ in range(run.rng.randint(1, 2)):
        time.sleep(run.span * run.rng.uniform(0.3, 0.5))
        run.line.cut()
    return ended(process, LIMIT, "a run whose connections were cut")


def silent(run: Runner) -> int:
    """The network keeps its connections and forwards nothing; SIGTERM ends the run all the same."""
    process = run.start()
    time.sleep(run.span * run.rng.uniform(0.3, 0.9))
    run.line.silent.set()
    try:
        time.sleep(run.rng.uniform(0.0, 1.0))
        process.send_signal(signal.SIGTERM)
        return ended(process, STOP, "a run on a silent network, after SIGTERM")
    finally:
        run.line.silent.clear()


def clock(run: Runner) -> int:
    """The runner's clock is up to a day ahead or behind."""
    shift = run.rng.choice([-1, 1]) * run.rng.uniform(1, 86400)
    return ended(run.start(shift=shift), LIMIT, "a run with a wrong clock")


def disk(run: Runner) -> int:
    """No file of the runner may grow beyond a size, as on a full disk: staging, spool, target, state."""
    size = int(run.rng.choice([4, 16, 64, 256]) * 1024 * run.rng.uniform(1, 2))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return ended(run.start(preexec_fn=limit), LIMIT, "a run on a full disk")


# name -> (fault, how often, whether it needs a server)
FAULTS: Mapping[str, tuple[Callable[[Runner], int], int, bool]] = {
    "none": (none, 2, False),
    "kill": (kill, 7, False),
    "rival": (rival, 2, False),
    "restart": (restart, 2, True),
    "cut": (cut, 2, True),
    "silent": (silent, 2, True),
    "clock": (clock, 1, False),
    "disk": (disk, 1, False),
}


@define
class Line:
    """A way to a server that can fall silent and that can be cut. While it is silent, nothing passes, the end of a
    connection included."""

    upstream: tuple[str, int]
    listener: socket.socket = field(factory=lambda: socket.create_server(("127.0.0.1", 0)))
    silent: threading.Event = field(factory=threading.Event)
    _ends: set[socket.socket] = field(factory=set)
    _lock: threading.Lock = field(factory=threading.Lock)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def open(self) -> Line:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def close(self) -> None:
        self.listener.close()
        self.cut()

    def cut(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            _reset(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._wait()
        try:
            server = socket.create_connection(self.upstream, 5)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)  # as long as the connection lasts, a server may take its time
        with self._lock:
            self._ends |= {client, server}
        with suppress(OSError, ValueError):
            self._pump(client, server)
        with self._lock:
            self._ends -= {client, server}
        client.close()
        server.close()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([client, server], [], [], 0.2)
            self._wait()
            for end in ready:
                if not (data := end.recv(1 << 16)):
                    return
                self._wait()
                (server if end is client else client).sendall(data)

    def _wait(self) -> None:
        while self.silent.is_set():
            time.sleep(0.05)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
