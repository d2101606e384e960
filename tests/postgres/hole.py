"""A way to the server that goes silent: its connections stay open, new ones are taken, and nothing is forwarded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field
from tests.postgres.proxy import _reset


@define(eq=False)
class _Way:
    """One connection. left: bytes that still pass until it goes silent. asked: what comes next is the answer that
    nobody gets."""

    client: socket.socket
    server: socket.socket
    dark: bool = False
    asked: bool = False
    left: dict[socket.socket, int] = field(factory=dict)


@define(eq=False)
class Hole:
    """Goes silent at the last of ``words``, which must come one after the other; an empty word is the begin of a
    connection. request: the server still gets the last word, and has answered it when the silence begins; answer: bytes
    of its answer that still pass; rows: bytes that still pass to the server from the word on. only: the other
    connections go on, and so do new ones."""

    upstream: tuple[str, int]
    words: list[bytes] = field(factory=list)
    request: bool = False
    answer: int = 0
    rows: int = 0
    only: bool = False
    silent: threading.Event = field(factory=threading.Event)
    _listener: Any = None
    _lock: Any = field(factory=threading.Lock)
    _ways: list[_Way] = field(factory=list)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def arm(self, *words: bytes, request: bool = False, answer: int = 0, rows: int = 0, only: bool = False) -> None:
        self.request, self.answer, self.rows, self.only = request, answer, rows, only
        self.words = [*words]

    def heal(self) -> None:
        """Connections that were silent end, which both sides hear; new ones pass."""
        self.words = []
        self.silent.clear()
        while self._ways:
            way = self._ways.pop()
            _reset(way.client, way.server)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                way = _Way(client, socket.create_connection(self.upstream))
            except OSError:
                _reset(client)
                continue
            self._ways.append(way)
            if self._last_word(b""):
                self._stop(way)
            for ends in ((way.client, way.server), (way.server, way.client)):
                threading.Thread(target=self._pump, args=(way, *ends), daemon=True).start()

    def _pump(self, way: _Way, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while not self._is_dark(way) and (data := source.recv(1 << 16)):
                if source is way.client and self._last_word(data):
                    self._last_bytes(way)
                if source is way.server and way.asked:
                    self._stop(way)
                left = way.left.get(to)
                if self._is_dark(way):
                    return
                if left is not None:
                    data = data[:left]
                    way.left[to] = left - len(data)
                    if left == len(data):
                        self._stop(way)  # before the last bytes: the answer to them would slip through
                to.sendall(data)
        if not self._is_dark(way):
            _reset(way.client, way.server)

    def _last_word(self, data: bytes) -> bool:
        with self._lock:
            if not self.words or (self.words[0] == b"") != (data == b"") or self.words[0] not in data:
                return False
            self.words.pop(0)
            return not self.words

    def _last_bytes(self, way: _Way) -> None:
        if self.answer:
            way.left[way.client] = self.answer
        elif self.request:
            way.asked = True
        else:
            way.left[way.server] = self.rows

    def _stop(self, way: _Way) -> None:
        way.dark = True
        self.silent.set()

    def _is_dark(self, way: _Way) -> bool:
        return way.dark or (self.silent.is_set() and not self.only)


@contextmanager
def hole(upstream: tuple[str, int]) -> Iterator[Hole]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Hole(upstream, listener=listener)
        threading.Thread(target=one._accept, daemon=True).start()
        yield one
        one.heal()
