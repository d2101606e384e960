"""Load strategies as data. What each does to a target is SQL and stands in ``dpone.sql.finalize``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

from dpone.errors import ConfigError

ModeName = Literal[
    "full_refresh", "append", "merge", "replace", "partition_replace", "snapshot_diff", "scd2", "cdc_apply"
]


@frozen
class Mode:
    """needs_key: rows are matched by key. whole: the read must hold all that the source has, never an increment, since
    rows of the target that it lacks are deleted."""

    summary: str
    needs_key: bool = False
    whole: bool = False


MODES: Mapping[str, Mode] = {
    "full_refresh": Mode("replace every row of the target by the rows read", whole=True),
    "append": Mode("add the rows read"),
    "merge": Mode("insert new keys, update changed rows, leave equal rows untouched", needs_key=True),
    "replace": Mode("replace the target rows that meet a predicate by the rows read", whole=True),
    "partition_replace": Mode("replace the partitions that occur in the rows read"),
    "snapshot_diff": Mode("make the target equal the rows read, deletes included", needs_key=True, whole=True),
    "scd2": Mode("keep every version of a row with its validity interval", needs_key=True),
    "cdc_apply": Mode("apply change batches in commit order", needs_key=True),
}

ALIASES: Mapping[str, str] = {"incremental_append": "append", "incremental_merge": "merge"}


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@frozen
class Strategy:
    """How staged rows become target rows.

    key         columns that identify a row
    duplicates  two rows of one batch share a key: ``fail``, or keep the ``first`` or ``last`` by ``order_by``
    order_by    the stated order for ``duplicates``; rows that tie in it are an error, never a coin toss
    where       for ``replace``: column -> a value (equal; null means IS NULL) or {from: a, to: b}, half-open
    allow_empty an empty read empties the target instead of leaving it as it is
    """

    mode: ModeName
    key: tuple[str, ...] = field(default=(), converter=_names)
    duplicates: Literal["fail", "first", "last"] = "fail"
    order_by: tuple[str, ...] = field(default=(), converter=_names)
    where: Mapping[str, Any] = field(factory=dict)
    allow_empty: bool = False

    def __attrs_post_init__(self) -> None:
        mode = MODES[self.mode]
        if mode.needs_key and not self.key:
            raise ConfigError(f"read strategy {self.mode}", "no key", "name the key columns, as in key: [id]")
        if self.duplicates != "fail" and not (self.key and self.order_by):
            todo = "name key and order_by, or use duplicates: fail"
            raise ConfigError(f"read strategy {self.mode}", f"duplicates: {self.duplicates} without an order", todo)
        if (self.mode == "replace") != bool(self.where):
            todo = "give replace, and only replace, where: {column: value} or where: {column: {from: a, to: b}}"
            raise ConfigError(f"read strategy {self.mode}", f"where: {dict(self.where)!r}", todo)
        for column, wanted in self.where.items():
            if isinstance(wanted, Mapping) and (set(wanted) - {"from", "to"} or not wanted):
                todo = "write from (inclusive), to (exclusive), or both"
                raise ConfigError(f"read strategy {self.mode}", f"where.{column} has {sorted(wanted)}", todo)
