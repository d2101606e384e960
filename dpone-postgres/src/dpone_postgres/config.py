"""Options of the PostgreSQL connector."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge

from dpone.pipeline import SinkOptions, SourceOptions, StateOptions


@frozen
class PostgresSourceOptions(SourceOptions):
    """special_values: what Arrow cannot hold (infinite dates, NaN in a numeric, 24:00): ``fail``, or ``text`` to read
    all dates, times and numerics as exact text.

    statement_timeout, lock_timeout: seconds, 0 for none.

    slot, publication: of a change stream (incremental: {by: cdc}), which begins with the rows that are there
    (``initial: snapshot``) or with what comes after the slot (``none``). transport: how a window is read: ``peek``, by
    a function of the server, or ``stream``, by the replication protocol.
    """

    special_values: Literal["fail", "text"] = "fail"
    slot: str = ""
    publication: str = ""
    initial: Literal["snapshot", "none"] = "snapshot"
    transport: Literal["peek", "stream"] = "peek"
    statement_timeout: float = field(default=0.0, validator=ge(0))
    lock_timeout: float = field(default=60.0, validator=ge(0))


@frozen
class PostgresSinkOptions(SinkOptions):
    """full_refresh: how the rows of the target are replaced (docs/postgres.md): ``swap``, ``truncate`` or ``delete``;
    ``auto`` takes the first that what depends on the table allows.

    statement_timeout, lock_timeout: seconds, 0 for none.
    """

    full_refresh: Literal["auto", "swap", "truncate", "delete"] = "auto"
    statement_timeout: float = field(default=0.0, validator=ge(0))
    lock_timeout: float = field(default=60.0, validator=ge(0))


@frozen
class PostgresStateOptions(StateOptions):
    """schema: where the tables of the state are, ``__dpone__state``, ``__dpone__state_history``, ``__dpone__locks``."""

    schema: str = "public"
    lock_timeout: float = field(default=60.0, validator=ge(0))
