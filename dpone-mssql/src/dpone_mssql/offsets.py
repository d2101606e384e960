"""Offsets and settings of SQL Server's CDC and change tracking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen
from attrs.validators import deep_mapping, instance_of, matches_re

from dpone.cdc.offsets import OF_SOURCE, CDCConfig, CDCOffset, as_tuple, valid_names, valid_number, valid_text

_binary_lsn: Any = matches_re(r"0x[0-9A-F]{20}")


@frozen
class MssqlCDCOffset(CDCOffset):
    """SC-03, SC-08: ``lsn`` is the last commit LSN read whole (``0x`` and 20 hex digits); ``captures`` has the start
    LSN of each capture instance read, so that a recreated one is detected."""

    backend = "mssql_cdc"
    database_guid: str = field(validator=valid_text, metadata=OF_SOURCE)
    recovery_fork: str = field(validator=valid_text, metadata=OF_SOURCE)
    lsn: str = field(validator=_binary_lsn)
    captures: Mapping[str, str] = field(validator=deep_mapping(valid_text, _binary_lsn, instance_of(dict)))


@frozen
class MssqlChangeTrackingOffset(CDCOffset):
    """CT-05, CT-09: a version for each table, so that a slow one holds no other back. A restored database has another
    recovery fork, and its versions mean something else."""

    backend = "mssql_change_tracking"
    database_guid: str = field(validator=valid_text, metadata=OF_SOURCE)
    recovery_fork: str = field(validator=valid_text, metadata=OF_SOURCE)
    versions: Mapping[str, int] = field(validator=deep_mapping(valid_text, valid_number, instance_of(dict)))


@frozen
class MssqlCDCConfig(CDCConfig):
    """captures: capture instances; empty: the one of each table that fits. SQL Server refuses to truncate such tables
    (SC-15), so there is no policy for it."""

    backend = "mssql_cdc"
    tables: tuple[str, ...] = field(converter=as_tuple, validator=valid_names)
    captures: tuple[str, ...] = field(default=(), converter=as_tuple, validator=valid_names)


@frozen
class MssqlChangeTrackingConfig(CDCConfig):
    """Truncating a table at the source restarts its versions (CT-01), so there is no policy for it."""

    backend = "mssql_change_tracking"
    tables: tuple[str, ...] = field(converter=as_tuple, validator=valid_names)
