"""The stores, and a manifest to put into them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from dpone.connectors.file.partitions import JsonPartitionManifestStore
from dpone.connectors.sqlite.state import SqliteState
from dpone.model.bounds import Bounds
from dpone.model.pipeline import StateSpec
from dpone.model.secret import Secret
from dpone.partition import Partition, PartitionManifest, PartitionManifestStore

KEY = "p|s|file:in/*.csv|sqlite:t"
KINDS = ("json", "sqlite")


def store(kind: str, folder: Path) -> PartitionManifestStore:
    """``kind``: one of KINDS, or ``postgres URL SCHEMA``."""
    if kind.startswith("postgres "):
        return _postgres(*kind.split()[1:])
    if kind == "json":
        return JsonPartitionManifestStore(folder / "manifests")
    return SqliteState(StateSpec("sqlite", Secret(f"sqlite:///{folder / 'state.db'}"), base=folder)).partitions()


def _postgres(url: str, schema: str) -> PartitionManifestStore:
    from dpone_postgres.config import PostgresStateOptions
    from dpone_postgres.state import PostgresState

    options = PostgresStateOptions(schema=schema)
    return PostgresState(StateSpec("postgres", Secret(url), options=options)).partitions()


def manifest(count: int = 3, **changes: object) -> PartitionManifest:
    partitions = tuple(Partition(f"{i:03d}", Bounds("id", 10 * i, 10 * i + 10)) for i in range(count))
    values: dict[str, object] = {
        "key": KEY,
        "load_id": "L1",
        "run_id": "R1",
        "stream": "s",
        "source": {"path": "in/*.csv"},
        "target": "sqlite:t",
        "epoch": 0,
        "token": "T1",
        "window": "W1",
        "config": {"sink.options": "a", "sink.strategy": "b"},
        "schema": {"id": "int64", "price": "double"},
        "resumable": True,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "partitions": partitions,
    }
    return PartitionManifest(**{**values, **changes})  # type: ignore[arg-type]
