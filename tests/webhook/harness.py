"""The receiver: a real server on loopback, which keeps every delivery it was sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import pyarrow as pa
from attrs import evolve

from dpone.capability import Role
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing import Harness
from dpone.testing.unreachable import silent

Look = Callable[[int], int]


class Receiver(ThreadingHTTPServer):
    """``before`` and ``after`` are called with the number of each request (from 1), before and after its rows are kept;
    they answer the status, 200 if all is well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kept: dict[str, list[pa.Table]] = {}
        self.requests = 0
        self.before: Look = lambda n: 200
        self.after: Look = lambda n: 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, table: str, body: bytes) -> int:
        self.requests += 1
        number = self.requests
        if (status := self.before(number)) != 200:
            return status
        self.kept.setdefault(table, []).append(pa.ipc.open_stream(body).read_all())
        return self.after(number)

    def deliveries(self, table: str) -> list[tuple[str, tuple[Any, ...]]]:
        """(id, row) as they came, however often."""
        found = []
        for kept in self.kept.get(table, ()):
            columns = [column.to_pylist() for column in kept.columns]
            found += [(id, row) for id, *row in zip(*columns, strict=True)]
        return [(id, tuple(row)) for id, row in found]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.take(unquote(self.path[1:]), body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class WebhookHarness(Harness):
    """``rows`` are what a receiver has that takes each id once."""

    connector = "webhook"
    product = "webhook"
    version = "1"
    live = True

    def __init__(self, folder: Path, server: Receiver) -> None:
        self.folder, self.server = folder, server

    def sink(self, strategy: Strategy, table: str = "orders", **options: Any) -> SinkSpec:
        options = self.options("sink", **options)
        return SinkSpec("webhook", strategy, Secret(self.server.url), Name((table,)), options=options)

    @contextmanager
    def unreachable(self, role: Role) -> Iterator[None]:
        """The address is not asked before a load."""
        yield

    @contextmanager
    def stuck(self, role: Role, seconds: float) -> Iterator[Any]:
        """The receiver takes the request and does not answer; a limit of two seconds is the longest."""
        with silent() as port, mock.patch("tests.webhook.sink._SECONDS", min(seconds, 2)):
            yield evolve(self.sink(Strategy("append")), connection=Secret(f"http://127.0.0.1:{port}"))

    def rows(self, table: str = "orders") -> pa.Table | None:
        if not (kept := self.server.kept.get(table)):
            return None
        seen: set[str] = set()
        new = []
        for one in kept:
            ids = one.column(0).to_pylist()
            new.append(one.filter(pa.array([id not in seen for id in ids])))
            seen.update(ids)
        new = [one.remove_column(0) for one in new]
        try:
            return pa.concat_tables(new, promote_options="permissive")
        except pa.ArrowInvalid:  # a receiver has no columns: numbers that no type holds together are given as text
            return pa.concat_tables([_as_text(one) for one in new], promote_options="permissive")


def _as_text(table: pa.Table) -> pa.Table:
    numbers = [pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in table.schema]
    fields = [f.with_type(pa.string()) if number else f for f, number in zip(table.schema, numbers, strict=True)]
    return table.cast(pa.schema(fields))
