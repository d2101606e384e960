"""Load strategies as data. ``dpone.sql.strategies`` has the SQL that each of them runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, le

from dpone.errors import ConfigError

ModeName = Literal[
    "full_refresh", "append", "merge", "replace", "partition_replace", "snapshot_diff", "scd2", "cdc_apply"
]


@frozen
class Mode:
    """needs_key: rows are matched by key. whole: the read must have all rows of the source and is never incremental,
    because rows of the target that it lacks are deleted."""

    summary: str
    needs_key: bool = False
    whole: bool = False


MODES: Mapping[str, Mode] = {
    "full_refresh": Mode("replace all rows of the target with the rows read", whole=True),
    "append": Mode("add the rows read"),
    "merge": Mode("insert new keys, update changed rows, leave equal rows untouched", needs_key=True),
    "replace": Mode("replace the target rows that match a predicate with the rows read", whole=True),
    "partition_replace": Mode("replace the partitions that occur in the rows read"),
    "snapshot_diff": Mode("make the target equal to the rows read, including deletes", needs_key=True, whole=True),
    "scd2": Mode("keep every version of a row with its validity interval", needs_key=True),
    "cdc_apply": Mode("apply change batches in commit order", needs_key=True),
}

# Strategies that work on changes: they take the batches of a change stream, and its key if none is stated.
CHANGES = ("cdc_apply", "scd2")

ALIASES: Mapping[str, str] = {"incremental_append": "append", "incremental_merge": "merge"}


# LS-09: an extract that ends early, or a filter by mistake, looks like so many deletes.
_MAX_DELETE_SHARE = 0.2
ORDER_OF_FILES = "file"

# What ``deletes`` may say, the default first. Modes that are not here do not look at it.
DELETES: Mapping[str, tuple[str, ...]] = {"scd2": ("ignore", "close"), "cdc_apply": ("hard", "soft", "ignore")}


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def bounds(wanted: Any) -> tuple[Any, ...]:
    """The values that ``where`` holds of one column: of a range its ends."""
    return tuple(wanted.values()) if isinstance(wanted, Mapping) else (wanted,)


def _holds_nothing(wanted: Any) -> bool:
    """Known without the column's type: numbers the wrong way round, or one value as both ends of a half-open range."""
    if not isinstance(wanted, Mapping) or len(wanted) < 2:
        return False
    low, high = wanted["from"], wanted["to"]
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return bool(low == high or (numbers and low > high))


@frozen
class Strategy:
    """How staged rows become target rows.

    key         columns that identify a row; a change stream by ``cdc_apply`` or ``scd2`` may leave it to the log
    duplicates  two rows of one batch share a key: ``fail``, or keep the ``first`` or ``last`` by ``order_by``
    order_by    the stated order for ``duplicates``; rows that tie in it are an error, because any choice would be a
                guess. ``file``, if no column has that name, is the order of the source's files, by name
    where       for ``replace``: column -> a value (equal; null means IS NULL) or {from: a, to: b}, half-open; for
                ``partition_replace``: the window of the partition column, so that partitions it lacks are emptied
    allow_empty an empty read empties the target instead of leaving it as it is
    partition   for ``partition_replace``: the column whose values are the partitions; NULL is one of them
    max_delete_share  for ``snapshot_diff``, and ``scd2`` with deletes: close: the share of the target's (current) rows
                that one load may delete (close); above it the load stops
    deletes     for ``scd2``: current rows that a whole read lacks: ``ignore`` (default), or ``close``. For
                ``cdc_apply``, deleted rows: ``hard`` (default) deletes them, ``soft`` keeps them with the time in
                ``__dpone__deleted_at``, ``ignore`` keeps them as they are
    truncate    for ``cdc_apply``, and ``scd2`` of a change stream, a truncated table: ``fail``, ``apply`` (every row is
                deleted, as ``deletes`` says; every version is closed), or ``ignore``
    effective_from  for ``scd2``: the column that says when a version begins; none: the time of the load
    new_columns for ``scd2``: a column that came later is filled into the current versions that never had it (``fill``),
                or its values are changes like others (``version``)
    """

    mode: ModeName
    key: tuple[str, ...] = field(default=(), converter=_names)
    duplicates: Literal["fail", "first", "last"] = "fail"
    order_by: tuple[str, ...] = field(default=(), converter=_names)
    where: Mapping[str, Any] = field(factory=dict)
    allow_empty: bool = False
    partition: str | None = None
    max_delete_share: float = field(default=_MAX_DELETE_SHARE, validator=and_(ge(0), le(1)))
    deletes: Literal["ignore", "close", "hard", "soft"] | None = None
    truncate: Literal["fail", "apply", "ignore"] = "fail"
    effective_from: str | None = None
    new_columns: Literal["fill", "version"] = "fill"

    @property
    def replaces_all(self) -> bool:
        """True if after a whole read the target contains only the rows read."""
        return self.mode in ("full_refresh", "snapshot_diff") or (
            self.mode == "cdc_apply" and self.deletes in (None, "hard")
        )

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """The columns that each option names, which the source must have."""
        named = {"key": self.key, "order_by": self.order_by, "where": tuple(self.where)}
        one = {"partition": self.partition, "effective_from": self.effective_from}
        return named | {option: () if column is None else (column,) for option, column in one.items()}

    @property
    def whole(self) -> bool:
        """The read must hold the whole source: rows it lacks are gone. A window of partitions is emptied where the
        read has nothing, so an increment would empty what earlier ones brought."""
        windowed = self.mode == "partition_replace" and bool(self.where)
        return MODES[self.mode].whole or windowed or self.deletes == "close"

    def by_file(self, columns: Collection[str]) -> bool:
        """``order_by`` means the files of the source, not a column of these."""
        return ORDER_OF_FILES in self.order_by and ORDER_OF_FILES not in columns

    def __attrs_post_init__(self) -> None:
        mode = MODES[self.mode]
        if mode.needs_key and not self.key and self.mode not in CHANGES:
            raise ConfigError(f"read strategy {self.mode}", "no key", "name the key columns, as in key: [id]")
        for column in {c for c in self.key if self.key.count(c) > 1}:
            raise ConfigError(f"read strategy {self.mode}", f"key lists {column} twice", "list each key column once")
        if self.duplicates != "fail" and not (self.key and self.order_by):
            todo = "set key and order_by, or use duplicates: fail"
            raise ConfigError(f"read strategy {self.mode}", f"duplicates: {self.duplicates} needs an order", todo)
        self._check_where()
        self._check_options()

    def _check_where(self) -> None:
        if (self.mode == "partition_replace") != bool(self.partition):
            todo = "set partition: column for partition_replace, and for no other mode"
            raise ConfigError(f"read strategy {self.mode}", f"partition: {self.partition!r}", todo)
        windowed = self.mode == "partition_replace" and set(self.where) == {self.partition}
        if (self.mode == "replace") != bool(self.where) and not windowed:
            todo = "set where: {column: value} or where: {column: {from: a, to: b}} for replace, and for no other mode"
            if self.mode == "partition_replace":
                todo = f"write where: {{{self.partition}: {{from: a, to: b}}}}, or remove where"
            raise ConfigError(f"read strategy {self.mode}", f"where: {dict(self.where)!r}", todo)
        for column, wanted in self.where.items():
            if isinstance(wanted, Mapping) and (set(wanted) - {"from", "to"} or not wanted):
                todo = "write from (inclusive), to (exclusive), or both"
                raise ConfigError(f"read strategy {self.mode}", f"where.{column} has the keys {sorted(wanted)}", todo)
            if any(isinstance(value, (list, Mapping)) for value in bounds(wanted)):
                todo = "write one value, or a range {from: a, to: b}"
                raise ConfigError(f"read strategy {self.mode}", f"where.{column} must be a single value", todo)
            if _holds_nothing(wanted):
                todo = "write a from that is less than to; to is not part of the range"
                raise ConfigError(f"read strategy {self.mode}", f"where.{column} is an empty range", todo)

    def _check_options(self) -> None:
        """An option that another strategy would not look at is a mistake, not a wish."""
        owners = {"effective_from": ("scd2",), "new_columns": ("scd2",), "truncate": CHANGES}
        defaults = {"effective_from": None, "new_columns": "fill", "truncate": "fail"}
        given = [name for name in owners if self.mode not in owners[name] and getattr(self, name) != defaults[name]]
        if self.deletes is not None and self.mode not in DELETES:
            given.insert(0, "deletes")
        guarded = self.mode == "snapshot_diff" or self.deletes == "close"
        if self.max_delete_share != _MAX_DELETE_SHARE and not guarded:
            given.append("max_delete_share")
        if given:
            todo = "remove it; deletes is for scd2 and cdc_apply, effective_from and new_columns for scd2, "
            todo += "truncate for cdc_apply and scd2, max_delete_share for snapshot_diff"
            raise ConfigError(
                f"read strategy {self.mode}", f"option {', '.join(given)} does not belong to this mode", todo
            )
        self._check_deletes()
        if self.effective_from in self.key and self.effective_from is not None:
            found, todo = (
                f"effective_from: {self.effective_from} is a key column",
                "remove it from key, or choose another column",
            )
            raise ConfigError(f"read strategy {self.mode}", found, todo)

    def _check_deletes(self) -> None:
        if self.deletes is not None and self.deletes not in DELETES[self.mode]:
            todo = f"write one of {', '.join(DELETES[self.mode])}"
            raise ConfigError(f"read strategy {self.mode}", f"deletes: {self.deletes}", todo)
        if self.deletes == "ignore" and self.truncate == "apply":
            found = "deletes: ignore keeps every row, but truncate: apply deletes all rows"
            raise ConfigError(f"read strategy {self.mode}", found, "write truncate: ignore, or deletes: hard or soft")
