"""Options of the object storage connector."""

from __future__ import annotations

from attrs import frozen


@frozen
class StoreOptions:
    """Options of an object store; it has none yet."""
