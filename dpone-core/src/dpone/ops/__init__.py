"""Operational controls: one function per command, with a typed result, and the public names that operators use.

    from dpone.ops import CDCConfig, CDCOffset, ErrorClassifier, JsonPartitionManifestStore, SchemaComparator

Each name is imported when it is first used; docs/reference/python.md has an example of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["CDCConfig", "CDCOffset", "ErrorClassifier", "JsonPartitionManifestStore", "SchemaComparator"]

if TYPE_CHECKING:
    from dpone.cdc.offsets import CDCConfig, CDCOffset
    from dpone.connectors.file.partitions import JsonPartitionManifestStore
    from dpone.errors import ErrorClassifier
    from dpone.model.evolution import SchemaComparator

_WHERE = {
    "CDCConfig": "dpone.cdc.offsets",
    "CDCOffset": "dpone.cdc.offsets",
    "ErrorClassifier": "dpone.errors",
    "JsonPartitionManifestStore": "dpone.connectors.file.partitions",
    "SchemaComparator": "dpone.model.evolution",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dpone.ops' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
