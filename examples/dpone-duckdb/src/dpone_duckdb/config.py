"""Options of the connector; the sink has none of its own."""

from __future__ import annotations

from attrs import frozen

from dpone.model.pipeline import SourceOptions


@frozen
class DuckdbSourceOptions(SourceOptions):
    """read_only: other processes may read the file at the same time. Not while this run writes to the same file."""

    read_only: bool = False
