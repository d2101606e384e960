"""Offset and settings of PostgreSQL's logical decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import deep_mapping, instance_of, matches_re, optional

from dpone.cdc.offsets import (
    OF_SOURCE,
    CDCConfig,
    CDCOffset,
    Truncate,
    as_tuple,
    valid_facts,
    valid_names,
    valid_number,
    valid_text,
    valid_truncate,
)

_lsn: Any = matches_re(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}")


@frozen
class PostgresLogicalOffset(CDCOffset):
    """PG-17, PG-02: another system, timeline, database or slot is another stream. ``lsn``: the end of the last commit
    (``16/B374D848``); rows of one transaction share an LSN, so nothing finer could be resumed. ``tables``: the oid of
    each table of the stream, so that one that was made again is known (PG-19).

    ``commit``: the last commit read, by LSN, xid and time, or the marker that was written before a snapshot
    (``message ..``); empty before the first. ``exact``: a slot that stands anywhere before ``lsn`` gives ``commit``
    again, so that a server which does not has another history (OUT-05). Positions of earlier versions may end at a
    place in the log that nothing marks, and are not exact.

    ``outside``: what decides which changes of each table arrive (OUT-01 to OUT-04); None: not known, adopted by the
    next window. ``due``: tables whose rows are still to be read as a whole."""

    backend = "postgres_logical"
    system_identifier: str = field(validator=valid_text, metadata=OF_SOURCE)
    timeline: int = field(validator=valid_number, metadata=OF_SOURCE)
    database: str = field(validator=valid_text, metadata=OF_SOURCE)
    slot: str = field(validator=valid_text, metadata=OF_SOURCE)
    plugin: str = field(validator=valid_text, metadata=OF_SOURCE)
    publication: str = field(validator=valid_text, metadata=OF_SOURCE)
    lsn: str = field(validator=_lsn)
    tables: Mapping[str, int] = field(factory=dict, validator=deep_mapping(valid_text, valid_number, instance_of(dict)))
    commit: str = field(default="", validator=instance_of(str))
    exact: bool = field(default=False, validator=instance_of(bool))
    outside: Mapping[str, Any] | None = field(default=None, validator=optional(valid_facts))
    due: tuple[str, ...] = field(default=(), converter=as_tuple, validator=valid_names)


@frozen
class PostgresLogicalConfig(CDCConfig):
    """truncate: what a TRUNCATE in the stream does (PG-12)."""

    backend = "postgres_logical"
    slot: str = field(validator=valid_text)
    publication: str = field(validator=valid_text)
    tables: tuple[str, ...] = field(converter=as_tuple, validator=valid_names)
    plugin: str = field(default="pgoutput", validator=valid_text)
    truncate: Truncate = field(default="fail", validator=valid_truncate)
