"""StoreHarness: what the Harness of every store of objects has in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dpone.model.pipeline import (
    Incremental,
    SinkSpec,
    SourceSpec,
    StateSpec,
)
from dpone.model.strategy import Strategy
from dpone.testing.harness import TABLE, Harness
from dpone.testing.rows import declared, to_json


class StoreHarness(Harness):
    """A store of objects, bytes under keys: a folder, a bucket. Give ``put``, ``get``, ``keys`` and ``delete`` of a
    client, for a state also ``away``; override what your store says otherwise.

    A table of the source are the objects ``TABLE/000.parquet`` and up, one for each call of ``seed``; the target is
    what the manifest ``out_TABLE/.dpone/manifest.json`` (``dpone.formats.manifest``) lists, in Parquet; the state is
    ``state``.

    root    what ``path:`` of this case begins with, such as ``s3://bucket/prefix/``; keys begin after it
    format  of the source's objects: ``parquet``, ``csv`` or ``jsonl``
    """

    root = ""
    format = "parquet"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._seeded: dict[str, pa.Schema] = {}

    def put(self, key: str, data: bytes) -> None:
        """Write an object durably, over an existing one."""
        raise self._lacks("put")

    def get(self, key: str) -> bytes:
        """All of an object; raises KeyError or OSError if there is none."""
        raise self._lacks("get")

    def keys(self, prefix: str) -> Sequence[str]:
        """Of all objects whose key begins so, in order."""
        raise self._lacks("keys")

    def delete(self, key: str) -> None:
        """Delete an existing object."""
        raise self._lacks("delete")

    def reading(self, schema: pa.Schema) -> Mapping[str, Any]:
        """The options of a source that finds these columns in objects of ``format``."""
        if self.format == "parquet":
            return {}
        comma = {"delimiter": ","} if self.format == "csv" else {}  # of one column with a semicolon in its name
        return {"columns": declared(schema), **comma}

    # ---- made of the above

    def source(
        self, table: str = TABLE, *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        reading = self.reading(self._seeded.get(table, self.sample(1, 0).schema))
        options = self.options("source", incremental=incremental, **reading)
        path = None if query else f"{self.root}{table}/*.{self.format}"
        return SourceSpec(self.connector, self.connection, query=query, path=path, options=options, base=self.folder)

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        self._seeded.setdefault(table, rows.schema)
        self.put(f"{table}/{len(self.keys(f'{table}/')):03d}.{self.format}", self.encode(rows))

    def encode(self, rows: pa.Table) -> bytes:
        """An object of ``format``, written by pyarrow, JSON Lines by the standard library."""
        if self.format == "jsonl":
            return b"".join(to_json(row) + b"\n" for row in rows.to_pylist())
        out = pa.BufferOutputStream()
        (pq.write_table if self.format == "parquet" else pyarrow.csv.write_csv)(rows, out)
        data: bytes = out.getvalue().to_pybytes()
        return data

    def disturb(self, table: str = TABLE) -> None:
        """The first object is overwritten with another row."""
        self.put(self.keys(f"{table}/")[0], self.encode(self.sample(1_000, 1_000)))

    def rewrite(self, rows: pa.Table, table: str = TABLE) -> None:
        """The first object is overwritten with all of them, the others are deleted."""
        first, *others = self.keys(f"{table}/")
        self.put(first, self.encode(rows))
        for key in others:
            self.delete(key)

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        given, path = self.options("sink", **options), f"{self.root}out_{table}"
        return SinkSpec(self.connector, strategy, self.connection, path=path, options=given, base=self.folder)

    def rows(self, table: str = TABLE) -> pa.Table | None:
        try:
            said = json.loads(self.get(f"out_{table}/.dpone/manifest.json"))
        except (KeyError, OSError):
            return None
        if said["schema"] is None:
            return None
        empty = pa.table({name: pa.array([], pa.null()) for name in said["schema"]["columns"]})
        parts = (pa.BufferReader(self.get(f"out_{table}/{file['name']}")) for file in said["files"])
        return pa.concat_tables([empty, *map(pq.read_table, parts)], promote_options="permissive")

    def empty(self, table: str = TABLE) -> bool:
        for key in self.keys(f"out_{table}/part-"):
            self.delete(key)
        return True

    def state(self) -> StateSpec:
        path = f"{self.root}state"
        return StateSpec(self.connector, self.connection, path=path, options=self.options("state"), base=self.folder)
