"""Partition manifests in two tables of a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa

from dpone.model.schema import Name
from dpone.partition import (
    FIELDS,
    Partition,
    PartitionManifest,
    PartitionManifestStore,
    Steps,
    damaged,
    no_manifest,
    no_partition,
)
from dpone.sql.dialect import Database, transaction
from dpone.sql.own import Own, as_state_errors

_HEADS = Name(("__dpone__manifests",))
_HEAD = pa.schema([("key", pa.string()), ("manifest", pa.string())])
_COUNTS = ("rows_extracted", "rows_loaded", "bytes", "attempts")
_ROW = pa.schema(
    [("key", pa.string()), ("ordinal", pa.int64())]
    + [(name, pa.int64() if name in _COUNTS else pa.string()) for name in FIELDS]
)


class SqlPartitionManifestStore(PartitionManifestStore):
    """In the tables ``__dpone__manifests`` and ``__dpone__partitions`` of any database that has a ``Database``. One row
    per partition, so that a claim changes one row. ``connect`` opens a connection for one call. ``heads`` is the first
    table; the second is in the same schema."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Database]], heads: Name = _HEADS) -> None:
        self._connect, self._names = connect, heads

    def load(self, key: str) -> PartitionManifest | None:
        with self._connected() as db:
            heads, partitions = self._tables(db)
            if not heads.exists():
                return None
            found: list[tuple[Any, ...]] | None = None
            rows: list[tuple[Any, ...]] = []
            while found != (again := heads.rows(["manifest"], {"key": key})):  # else it was replaced between
                found, rows = again, partitions.rows(_ROW.names, {"key": key})
        if not found:
            return None
        try:
            head = json.loads(found[0][0])
            data = [_row_to_json(row) for row in sorted(rows, key=lambda row: int(row[1]))]
            return PartitionManifest.from_json({**head, "partitions": data})
        except (TypeError, ValueError) as error:
            raise damaged(f"{type(error).__name__}: {error}") from error

    def create(self, manifest: PartitionManifest) -> None:
        with self._writing(manifest.key, create=True) as (heads, partitions):
            heads.delete({"key": manifest.key})
            partitions.delete({"key": manifest.key})
            heads.insert(manifest.key, json.dumps(manifest.head_to_json(), sort_keys=True))
            for i, one in enumerate(manifest.partitions):
                partitions.insert(manifest.key, i, *_values(one))

    def forget(self, key: str) -> None:
        with self._writing(key) as tables:
            for table in tables:
                if table.exists():
                    table.delete({"key": key})

    def change_all(self, key: str, steps: Steps) -> list[Partition]:
        with self._writing(key) as (heads, partitions):
            if not partitions.exists() or not heads.rows(["key"], {"key": key}):
                raise no_manifest(key)
            return [self._change(partitions, key, id, step) for id, step in steps]

    def _change(self, partitions: Own, key: str, id: str, step: Callable[[Partition], Partition]) -> Partition:
        found = partitions.rows(_ROW.names, {"key": key, "id": id})
        if not found:
            raise no_partition(id)
        one = step(_partition(found[0]))
        partitions.update(dict(zip(FIELDS, _values(one), strict=True)), {"key": key, "id": id})
        return one

    def _tables(self, db: Database) -> tuple[Own, Own]:
        rows = self._names.sibling("__dpone__partitions")
        return Own(db, self._names, _HEAD, ("key",)), Own(db, rows, _ROW, ("key", "id"))

    @contextmanager
    def _connected(self) -> Iterator[Database]:
        with as_state_errors("write the partition manifest"), self._connect() as db:
            yield db

    @contextmanager
    def _writing(self, key: str, create: bool = False) -> Iterator[tuple[Own, Own]]:
        """A transaction with a lock of its own, since a sink in the same database holds the lock of the key while it
        stages. The tables are created by one runner at a time."""
        with self._connected() as db:
            tables = self._tables(db)
            if create and not tables[0].exists():
                with transaction(db, f"tables of partitions {self._names.schema}"):
                    for table in tables:
                        table.create()
            with transaction(db, f"partitions {key}"):
                yield tables


def _values(one: Partition) -> tuple[Any, ...]:
    data = one.to_json()
    bounds = None if data["bounds"] is None else json.dumps(data["bounds"], sort_keys=True)
    expires = None if one.expires_at is None else repr(one.expires_at)
    return tuple({**data, "bounds": bounds, "expires_at": expires}.values())


def _row_to_json(row: Sequence[Any]) -> dict[str, Any]:
    data = dict(zip(FIELDS, row[2:], strict=True))
    data["bounds"] = None if data["bounds"] is None else json.loads(data["bounds"])
    data["expires_at"] = None if data["expires_at"] is None else float(data["expires_at"])
    return data


def _partition(row: Sequence[Any]) -> Partition:
    try:
        return Partition.from_json(_row_to_json(row))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise damaged(f"{type(error).__name__}: {error}") from error
