"""A sink that reads every row and keeps none: what a run costs without one. A plugin of its own module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dpone.capability import Connector, declare
from dpone.contract import Entry, Finding, Load, Part, Receipt, Stream, Writer
from dpone.hookspecs import hookimpl
from dpone.model.evolution import SchemaChange, Stored
from dpone.model.pipeline import SinkSpec
from dpone.model.position import Position
from dpone.model.staged import Staged


@hookimpl
def dpone_sinks() -> list[Connector]:
    of = ("benchmarks.null_sink:NullSink", "dpone.model.pipeline:SinkOptions")
    return [Connector("null", *of, declare("sink", ("write", "append")), takes=("path",), commit="none")]


class NullSink:
    def __init__(self, spec: SinkSpec) -> None:
        """It has nothing to connect to."""

    def check(self) -> list[Finding]:
        return []

    def schema(self) -> pa.Schema | None:
        return None

    def exists(self) -> bool:
        return True

    def is_empty(self) -> bool:
        return True

    def stores(self, type: pa.DataType) -> Stored:
        return Stored(str(type), type, "exact")

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        return []

    def apply(self, ddl: Sequence[str]) -> None: ...

    def journal(self, key: str) -> Entry | None:
        return None

    def open(self, load: Load) -> Writer:
        return NullWriter(load)

    def close(self) -> None: ...


class NullWriter:
    def __init__(self, load: Load) -> None:
        self.load, self.load_id = load, load.load_id
        self._staged: dict[str, Staged] = {}

    def staged(self) -> Mapping[str, Staged]:
        return dict(self._staged)

    def stage(self, part: Part, stream: Stream) -> Staged:
        rows = size = 0
        for batch in stream.batches():
            rows, size = rows + batch.num_rows, size + batch.nbytes
        self._staged[part.id] = Staged(rows, size)
        return self._staged[part.id]

    def commit(self, after: Entry | None, position: Position, also: Sequence[Any]) -> Receipt:
        rows = sum(staged.rows for staged in self._staged.values())
        return Receipt.of(self.load.entry(after, position, inserted=rows))

    def abort(self) -> None: ...

    def close(self) -> None: ...
