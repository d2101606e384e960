"""Sink: one table of a MariaDB database. Rows, journal entry and position become durable in one transaction."""

from __future__ import annotations

from dpone.pipeline import SinkSpec
from dpone.sql.sink import SqlSink, target_of
from dpone_mariadb.connect import place
from dpone_mariadb.database import MariadbDatabase


class MariadbSink(SqlSink):
    """``contract.Sink``."""

    def __init__(self, spec: SinkSpec) -> None:
        super().__init__(spec, target_of(spec), MariadbDatabase(place(spec.connection)))
