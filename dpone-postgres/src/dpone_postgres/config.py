"""Options of the PostgreSQL connector."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge

from dpone.errors import ConfigError
from dpone.model.pipeline import SinkOptions, SourceOptions, StateOptions

SILENCE = 30.0  # seconds


@frozen
class PartitionBy:
    """How a read is split into ``runtime.partitions`` parts.

    by      ``pages`` of a table, ``range`` or ``hash`` of a column's values
    column  for range and hash; default: the first column of the primary key, or else of another index
    """

    by: Literal["pages", "range", "hash"]
    column: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.by == "pages" and self.column is not None:
            raise ConfigError("read options.partition", "by: pages takes no column", "remove column, or use by: range")


@frozen
class PostgresSourceOptions(SourceOptions):
    """special_values: values that Arrow cannot hold (infinite dates, NaN in a numeric, 24:00): ``fail``, or ``text`` to
    read all dates, times and numerics as exact text.

    statement_timeout, lock_timeout: seconds, 0 for no limit. silence_timeout: after so many seconds without an answer
    dpone checks over a second connection whether the server is still working (docs/connectors/postgres.md); 0: never.

    partition: how a read is split; default: by pages if the server supports it, else by ranges of an indexed column.

    row_security: ``off``: it is an error if a policy hides rows from the read. ``on``: only the rows that the role may
    see are read, and the read never counts as complete.

    operations: what the publication must publish. on_outside_change: what a run does if the publication, the partitions
    or the columns of a table were changed in a way that the stream does not contain: ``stop``, ``resync`` (read that
    table again) or ``report`` (go on, with a warning).

    slot, publication: of a change stream (incremental: {by: cdc}). initial: the stream starts with the existing rows
    (``snapshot``) or with the first change after the slot was created (``none``). transport: how a window is read:
    ``peek``, by a function of the server, or ``stream``, by the replication protocol. failover: ``create`` makes a slot
    that standbys keep a copy of (PostgreSQL 17).
    """

    special_values: Literal["fail", "text"] = "fail"
    partition: PartitionBy | None = None
    row_security: Literal["off", "on"] = "off"
    slot: str = ""
    publication: str = ""
    initial: Literal["snapshot", "none"] = "snapshot"
    transport: Literal["peek", "stream"] = "peek"
    failover: bool = False
    operations: tuple[Literal["insert", "update", "delete", "truncate"], ...] = (
        "insert", "update", "delete", "truncate",
    )  # fmt: skip
    on_outside_change: Literal["stop", "resync", "report"] = "stop"
    statement_timeout: float = field(default=0.0, validator=ge(0))
    lock_timeout: float = field(default=60.0, validator=ge(0))
    silence_timeout: float = field(default=SILENCE, validator=ge(0))


@frozen
class PostgresSinkOptions(SinkOptions):
    """full_refresh: how the rows of the target are replaced (docs/connectors/postgres.md): ``swap``, ``truncate`` or
    ``delete``; ``auto`` uses the first of them that the table's dependent objects allow.

    sequences: a sequence that fills a column of the target by default (serial, identity) is set past the loaded values
    (``advance``), or not changed (``leave``).

    row_security: ``off``: it is an error if a policy hides rows of the target. ``on``: hidden rows are neither matched
    nor replaced.

    statement_timeout, lock_timeout: seconds, 0 for no limit. silence_timeout: after so many seconds without an answer
    dpone checks over a second connection whether the server is still working (docs/connectors/postgres.md); 0: never.
    """

    full_refresh: Literal["auto", "swap", "truncate", "delete"] = "auto"
    sequences: Literal["advance", "leave"] = "advance"
    row_security: Literal["off", "on"] = "off"
    statement_timeout: float = field(default=0.0, validator=ge(0))
    lock_timeout: float = field(default=60.0, validator=ge(0))
    silence_timeout: float = field(default=SILENCE, validator=ge(0))


@frozen
class PostgresStateOptions(StateOptions):
    """schema: holds the tables of the state: ``__dpone__state``, ``__dpone__state_history``, ``__dpone__locks``, and
    for loads in parts ``__dpone__manifests`` and ``__dpone__partitions``. lock_timeout, silence_timeout: as for the
    sink."""

    schema: str = "public"
    lock_timeout: float = field(default=60.0, validator=ge(0))
    silence_timeout: float = field(default=SILENCE, validator=ge(0))
