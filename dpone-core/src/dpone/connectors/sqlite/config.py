"""Options of the sqlite connector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from dpone.model.pipeline import SinkOptions, SourceOptions, StateOptions
from dpone.model.schema import COLUMN_TYPES


@frozen
class SqliteSourceOptions(SourceOptions):
    """columns: types of columns whose declared type is not enough: ``columns: {amount: decimal(12,2)}``.

    Types are written as SQL or Arrow types.
    busy_timeout: seconds to wait for another process that holds the database.
    partition_by: with runtime.partitions, the column whose ranges are read on their own. By default a primary key of
    one column, else the rowid; a query has neither.
    """

    columns: Mapping[str, str] = field(factory=dict, metadata=COLUMN_TYPES)
    busy_timeout: float = 30.0
    partition_by: str | None = None


@frozen
class SqliteSinkOptions(SinkOptions):
    """nan: SQLite has no NaN and would keep NULL instead; ``fail``, or ``null`` to have it so."""

    busy_timeout: float = 30.0
    nan: Literal["fail", "null"] = "fail"


@frozen
class SqliteStateOptions(StateOptions):
    busy_timeout: float = 30.0
