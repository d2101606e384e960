"""Rows as POST requests of Arrow streams, the id of each row in the first column. See ``dpone.contract``."""

from __future__ import annotations

import http.client
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any
from urllib.parse import quote, urlsplit

import pyarrow as pa

from dpone.cdc.event_ids import event_ids
from dpone.contract import (
    Entry,
    Finding,
    Load,
    Part,
    Receipt,
    Stream,
    Writer,
)
from dpone.errors import Category, ConfigError, SinkError
from dpone.model.evolution import SchemaChange, Stored
from dpone.model.pipeline import SinkSpec
from dpone.model.position import Position
from dpone.model.staged import Staged

_SECONDS = 10.0


class WebhookSink:
    """``contract.Sink``."""

    def __init__(self, spec: SinkSpec) -> None:
        assert spec.connection is not None
        assert spec.table is not None
        self._host = urlsplit(spec.connection.reveal()).netloc
        self._path, self._mode = f"/{quote(spec.table.last)}", spec.strategy.mode

    def check(self) -> list[Finding]:
        return [Finding("address", None, "nobody can ask it anything", "run the pipeline")]

    def schema(self) -> pa.Schema | None:
        return None

    def exists(self) -> bool:
        return True

    def is_empty(self) -> bool:
        return True

    def stores(self, type: pa.DataType) -> Stored:
        return Stored(str(type), type)

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        return []

    def apply(self, ddl: Sequence[str]) -> None:
        """There is never anything to run."""

    def journal(self, key: str) -> Entry | None:
        return None

    def open(self, load: Load) -> WebhookWriter:
        if load.strategy.mode != "append":
            raise ConfigError("post rows", f"strategy {load.strategy.mode}", "use append")
        return WebhookWriter(self._host, self._path, load)

    def close(self) -> None:
        """Nothing is held between calls."""


class WebhookWriter:
    """``contract.Writer``. Parts are spooled without a name, so that nothing is posted before the commit."""

    def __init__(self, host: str, path: str, load: Load) -> None:
        self.load_id = load.load_id
        self._host, self._path, self._load = host, path, load
        self._parts: dict[str, tuple[IO[bytes], Staged]] = {}
        self._spooled = ExitStack()

    def staged(self) -> Mapping[str, Staged]:
        return {part: staged for part, (_, staged) in self._parts.items()}

    def stage(self, part: Part, stream: Stream) -> Staged:
        if part.id in self._parts:
            return self._parts[part.id][1]
        file, rows, size = self._spooled.enter_context(tempfile.TemporaryFile()), 0, 0  # noqa: SIM115
        schema = pa.schema([pa.field("id", pa.string()), *stream.schema])
        with pa.ipc.new_stream(file, schema) as out:
            for batch in stream.batches():
                ids = event_ids(self._load, part, batch, rows)
                out.write_batch(pa.RecordBatch.from_arrays([ids, *batch.columns], schema=schema))
                rows, size = rows + batch.num_rows, size + batch.nbytes
        staged = Staged(rows, size, stream.filtered, stream.quarantined, stream.checks)
        self._parts[part.id] = file, staged
        return staged

    def commit(self, after: Entry | None, position: Position, also: Sequence[Writer] = ()) -> Receipt:
        rows = sum(staged.rows for _, staged in self._parts.values())
        for file, _ in self._parts.values():
            file.seek(0)
            with pa.ipc.open_stream(file) as batches:
                for batch in batches:
                    if batch.num_rows:
                        self._post(batch)
        return Receipt(self._load.entry(after, position, inserted=rows), inserted=rows)

    def _post(self, batch: pa.RecordBatch) -> None:
        body = pa.BufferOutputStream()
        with pa.ipc.new_stream(body, batch.schema) as out:
            out.write_batch(batch)
        connection = http.client.HTTPConnection(self._host, timeout=_SECONDS)
        try:
            connection.request("POST", self._path, body.getvalue().to_pybytes())
            status = connection.getresponse().status
        except OSError as error:
            raise _unanswered(type(error).__name__) from error
        finally:
            connection.close()
        if status != 200:
            raise _unanswered(f"status {status}")

    def abort(self) -> None:
        self._spooled.close()
        self._parts.clear()

    def close(self) -> None:
        self.abort()


def _unanswered(found: str) -> SinkError:
    error: Any = SinkError("post rows", found, "run again when the address answers; no row is lost")
    error.category = Category.TRANSIENT
    return error
