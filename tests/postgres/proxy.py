"""A way to the server that loses answers and cuts connections, by the count of commits, or other words, that pass."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from attrs import define, field

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"  # a simple query (PostgreSQL documentation, 55.7)


@define
class Proxy:
    """``fault`` befalls the ``nth`` COMMIT, or other ``word``: ``answer``: the server has it and its answer is lost
    (but for its first ``after`` bytes); ``request``: the connection ends before the server has it; ``silence``: the
    connection stays, and nothing comes any more. Once; afterwards everything passes."""

    upstream: tuple[str, int]
    nth: int = 0
    fault: Literal["answer", "request", "silence"] = "answer"
    word: bytes = COMMIT
    after: int = 0
    commits: int = 0
    _listener: Any = None
    _lock: Any = field(factory=threading.Lock)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream)
            except OSError:
                _reset(client)
                continue
            lost = threading.Event()
            for work in (self._up, self._down):
                threading.Thread(target=work, args=(client, server, lost), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self.word in data and self._counts():
                    if self.fault == "request":
                        break
                    lost.set()
                server.sendall(data)
        if not lost.is_set():
            _reset(client, server)

    def _down(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            left = self.after
            while data := server.recv(1 << 16):
                if lost.is_set() and self.fault == "silence":
                    continue
                if lost.is_set():
                    client.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        break
                    continue
                client.sendall(data)
        _reset(client, server)

    def _counts(self) -> bool:
        with self._lock:
            self.commits += 1
            return self.commits == self.nth


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextmanager
def proxy(
    upstream: tuple[str, int], nth: int = 0, fault: Literal["answer", "request", "silence"] = "answer", **more: Any
) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Proxy(upstream, nth, fault, listener=listener, **more)
        threading.Thread(target=one._accept, daemon=True).start()
        yield one
