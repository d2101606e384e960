"""What each strategy means, in a few lines of Python over lists of rows; the expected values of the sink's cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dpone.model.strategy import Strategy
from dpone.testing.rows import SHAPE, Row

Columns = Sequence[str]
Model = Callable[[list[Row], list[Row], Strategy, Columns], list[Row]]


def _key(row: Row, strategy: Strategy, columns: Columns) -> Row:
    return tuple(row[columns.index(column)] for column in strategy.key)


def _full_refresh(have: list[Row], read: list[Row], strategy: Strategy, columns: Columns) -> list[Row]:
    return read


def _append(have: list[Row], read: list[Row], strategy: Strategy, columns: Columns) -> list[Row]:
    return have + read


def _merge(have: list[Row], read: list[Row], strategy: Strategy, columns: Columns) -> list[Row]:
    return list({_key(row, strategy, columns): row for row in have + read}.values())


def _replace(have: list[Row], read: list[Row], strategy: Strategy, columns: Columns) -> list[Row]:
    [(column, value)] = strategy.where.items()
    return [row for row in have if row[columns.index(column)] != value] + read


def _partition_replace(have: list[Row], read: list[Row], strategy: Strategy, columns: Columns) -> list[Row]:
    at = columns.index(str(strategy.partition))
    partitions = {row[at] for row in read}
    return [row for row in have if row[at] not in partitions] + read


def _scd2(have: list[Row], read: list[Row], strategy: Strategy, columns: Columns) -> list[Row]:
    """Every version that ever was; which of them is current the case looks at itself."""
    latest = {_key(row, strategy, columns): row for row in have}
    return have + [row for row in read if latest.get(_key(row, strategy, columns)) != row]


MODELS: Mapping[str, Model] = {
    "full_refresh": _full_refresh,
    "append": _append,
    "merge": _merge,
    "replace": _replace,
    "partition_replace": _partition_replace,
    "snapshot_diff": _full_refresh,
    "scd2": _scd2,
}


def after(strategy: Strategy, loads: Sequence[list[Row]]) -> list[Row]:
    """The rows of the target after these loads, of the columns of ``SHAPE``."""
    have: list[Row] = []
    for read in loads:
        have = loaded(strategy, have, read, SHAPE.names)
    return have


def loaded(strategy: Strategy, have: list[Row], read: list[Row], columns: Columns) -> list[Row]:
    """The rows of the target after one more load. A load without rows leaves it as it is."""
    return MODELS[strategy.mode](have, read, strategy, columns) if read else have
