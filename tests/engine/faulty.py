"""Connectors that fail where they are told to. Each is the real one with a fault in front of it.

``faults`` maps a place to the exceptions to raise there, first come first served; ``log`` keeps the order of calls;
``watch`` is called at each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dpone.connectors.file.changelog import FileChangeLog
from dpone.connectors.file.source import FileSource
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.connectors.sqlite.state import SqliteState
from dpone.contract import BatchStream, Entry, Load, Part, Receipt, Stream, Window, WindowRequest
from dpone.model.position import Position

faults: dict[str, list[BaseException]] = {}
log: list[str] = []
watch: list[Callable[[str], None]] = []

PLUGINS: Mapping[str, str] = {
    "source_file": f"{__name__}:Source",
    "sink_sqlite": f"{__name__}:Sink",
    "state_sqlite": f"{__name__}:State",
    "cdc_file_changelog": f"{__name__}:Changes",
}


def at(place: str) -> None:
    log.append(place)
    for look in watch:
        look(place)
    if waiting := faults.get(place):
        raise waiting.pop(0)


class Source(FileSource):
    def window(self, after: Position | None, request: WindowRequest) -> Window:
        at("window")
        return super().window(after, request)

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        at("read")
        try:
            with super().read(part) as stream:
                yield _Stream(stream)
        finally:
            at("read ended")

    def ack(self, position: Position) -> None:
        at("ack")


class Changes(FileChangeLog):
    def ack(self, position: Position) -> None:
        at("ack")


class _Stream(BatchStream):
    def __init__(self, stream: Stream) -> None:
        self._stream, self.schema = stream, stream.schema

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    def batches(self) -> Iterator[Any]:
        try:
            for batch in self._stream.batches():
                at("source batch")
                yield batch
        finally:
            at("reader ended")


class Sink(SqliteSink):
    def journal(self, key: str) -> Entry | None:
        at("journal")
        return super().journal(key)

    def open(self, load: Load) -> Any:
        at("open")
        return _Writer(super().open(load))


class _Writer:
    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.load_id = writer.load_id
        self.staged, self.close = writer.staged, writer.close

    def stage(self, part: Part, stream: Stream) -> Any:
        at("stage")
        return self._writer.stage(part, _Taken(stream))

    def commit(self, after: Entry | None, position: Position, also: Sequence[Any] = ()) -> Receipt:
        at("commit")
        receipt: Receipt = self._writer.commit(after, position, [one._writer for one in also])
        at("commit answered")
        return receipt

    def abort(self) -> None:
        at("abort")
        self._writer.abort()


class _Taken:
    """Fails between two batches, as a full disk would."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def batches(self) -> Iterator[Any]:
        for batch in self._stream.batches():
            at("sink batch")
            yield batch


class State(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            yield _Lease(lease)

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        at("save")
        version = super().save(key, value, expected)
        at("saved")
        return version


class _Lease:
    def __init__(self, lease: Any) -> None:
        self._lease, self.owner = lease, lease.owner

    def renew(self) -> None:
        if waiting := faults.get("renew"):
            raise waiting.pop(0)
        self._lease.renew()
