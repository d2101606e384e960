"""Options of the PostgreSQL connector."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge

from dpone.errors import ConfigError
from dpone.pipeline import SinkOptions, SourceOptions, StateOptions

SILENCE = 30.0  # seconds


@frozen
class PartitionBy:
    """How a read is split into ``runtime.partitions`` parts.

    by      ``pages`` of a table, ``range`` or ``hash`` of a column's values
    column  for range and hash; left out: the first column of the primary key, or of another index
    """

    by: Literal["pages", "range", "hash"]
    column: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.by == "pages" and self.column is not None:
            raise ConfigError("read options.partition", "by: pages has no column", "remove it, or use by: range")


@frozen
class PostgresSourceOptions(SourceOptions):
    """special_values: what Arrow cannot hold (infinite dates, NaN in a numeric, 24:00): ``fail``, or ``text`` to read
    all dates, times and numerics as exact text.

    statement_timeout, lock_timeout: seconds, 0 for none. silence_timeout: seconds in which the server may say nothing
    until it is asked over a second connection whether it is still working; 0: it is never
    asked (docs/connectors/postgres.md).

    partition: how a read is split; left out: by pages where the server can, else by ranges of an indexed column.

    row_security: ``off``: a read from which a policy hides rows is an error. ``on``: the rows that the role may see are
    read, and never taken for all there are.

    operations: what the publication is expected to publish. on_outside_change: what a run does where the publication,
    the partitions or the columns of a table were changed in a way that the stream says nothing of: ``stop``,
    ``resync`` (read that table again) or ``report`` (go on, with a warning).

    slot, publication: of a change stream (incremental: {by: cdc}), which begins with the rows that are there
    (``initial: snapshot``) or with what comes after the slot (``none``). transport: how a window is read: ``peek``, by
    a function of the server, or ``stream``, by the replication protocol.
    """

    special_values: Literal["fail", "text"] = "fail"
    partition: PartitionBy | None = None
    row_security: Literal["off", "on"] = "off"
    slot: str = ""
    publication: str = ""
    initial: Literal["snapshot", "none"] = "snapshot"
    transport: Literal["peek", "stream"] = "peek"
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
    ``delete``; ``auto`` takes the first that what depends on the table allows.

    sequences: what fills a column of the target by default (serial, identity) is set beyond the values that a load
    brings (``advance``), or left as it is (``leave``).

    row_security: ``off``: a load into a table of which a policy hides rows is an error. ``on``: hidden rows are neither
    met nor replaced.

    statement_timeout, lock_timeout: seconds, 0 for none. silence_timeout: seconds in which the server may say nothing
    until it is asked over a second connection whether it is still working; 0: it is never
    asked (docs/connectors/postgres.md).
    """

    full_refresh: Literal["auto", "swap", "truncate", "delete"] = "auto"
    sequences: Literal["advance", "leave"] = "advance"
    row_security: Literal["off", "on"] = "off"
    statement_timeout: float = field(default=0.0, validator=ge(0))
    lock_timeout: float = field(default=60.0, validator=ge(0))
    silence_timeout: float = field(default=SILENCE, validator=ge(0))


@frozen
class PostgresStateOptions(StateOptions):
    """schema: where the tables of the state are, ``__dpone__state``, ``__dpone__state_history``, ``__dpone__locks``,
    and ``__dpone__manifests`` and ``__dpone__partitions`` of loads in parts. lock_timeout, silence_timeout: as of the
    sink."""

    schema: str = "public"
    lock_timeout: float = field(default=60.0, validator=ge(0))
    silence_timeout: float = field(default=SILENCE, validator=ge(0))
