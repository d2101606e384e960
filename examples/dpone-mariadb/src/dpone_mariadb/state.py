"""State backend: positions, their history and the locks of runners, in a MariaDB database."""

from __future__ import annotations

from datetime import datetime

from dpone.pipeline import StateSpec
from dpone.schema import Name
from dpone.sql.dialect import Database
from dpone.sql.state import STATE, SqlState
from dpone_mariadb.connect import place
from dpone_mariadb.database import MariadbDatabase


class MariadbState(SqlState):
    """``contract.StateBackend``."""

    def __init__(self, spec: StateSpec) -> None:
        self._place = place(spec.connection)
        super().__init__(self._place.stable, Name((STATE,)))

    def database(self) -> MariadbDatabase:
        return MariadbDatabase(self._place)

    def now(self, db: Database) -> datetime:
        at: datetime = db.rows("SELECT UTC_TIMESTAMP(6)")[0][0]
        return at
