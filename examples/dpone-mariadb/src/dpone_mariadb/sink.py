"""Sink: one table of a MariaDB database. Rows, journal entry and position become durable in one transaction."""

from __future__ import annotations

from dpone.contract import Load, Writer
from dpone.errors import SinkError
from dpone.pipeline import SinkSpec
from dpone.sql.sink import SqlSink, target_of
from dpone_mariadb.connect import place, table_name
from dpone_mariadb.database import MariadbDatabase


class MariadbSink(SqlSink):
    """``contract.Sink``."""

    _db: MariadbDatabase

    def __init__(self, spec: SinkSpec) -> None:
        super().__init__(spec, table_name(target_of(spec)), MariadbDatabase(place(spec.connection)))

    def open(self, load: Load) -> Writer:
        if self._db.collated(self._target):  # it would hide a change of case, or of blanks at the end
            found, todo = "a column has a collation that is not exact", "give its texts COLLATE utf8mb4_nopad_bin"
            raise SinkError(f"load {self._target}", found, todo)
        by = {*load.strategy.key, load.strategy.partition}
        if padded := [name for name in self._db.padded(self._target) if name in by]:
            found = f"column {padded[0]}, by which it goes, gives back other values than it was given"
            todo = "make it a varchar or varbinary, which keep blanks and zeros at the end"
            raise SinkError(f"load {self._target}", found, todo)
        return super().open(load)
