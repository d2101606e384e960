"""Sink, one table of a MariaDB database: rows, journal entry and position become durable in one transaction. And state
backend: positions, their history and the locks of runners."""

from __future__ import annotations

from dpone.model.pipeline import SinkSpec, StateSpec
from dpone.sql.sink import SqlSink, target_of
from dpone.sql.state import SqlState
from dpone_mariadb.connect import place
from dpone_mariadb.database import MariadbDatabase


class MariadbSink(SqlSink):
    """``contract.Sink``."""

    def __init__(self, spec: SinkSpec) -> None:
        super().__init__(spec, target_of(spec), MariadbDatabase(place(spec.connection)))


class MariadbState(SqlState):
    """``contract.StateBackend``."""

    clock = "UTC_TIMESTAMP(6)"

    def __init__(self, spec: StateSpec) -> None:
        self._place = place(spec.connection)
        super().__init__(self._place.stable)

    def database(self) -> MariadbDatabase:
        return MariadbDatabase(self._place)
