"""State backend: positions, their history and the leases of runs in a PostgreSQL database. Uses the server's clock."""

from __future__ import annotations

from dpone.errors import ConfigError
from dpone.model.pipeline import StateSpec
from dpone.model.schema import Name
from dpone.sql.dialect import Database
from dpone.sql.state import STATE, SqlState
from dpone_postgres.check import missing_on, missing_on_schema
from dpone_postgres.config import PostgresSinkOptions, PostgresStateOptions
from dpone_postgres.connect import parameters, where
from dpone_postgres.database import PostgresDatabase

TABLES = (STATE, f"{STATE}_history", "__dpone__locks", "__dpone__manifests", "__dpone__partitions")


class PostgresState(SqlState):
    clock = "pg_catalog.clock_timestamp()"  # CURRENT_TIMESTAMP stands still in a transaction

    def __init__(self, spec: StateSpec) -> None:
        options = spec.options if isinstance(spec.options, PostgresStateOptions) else PostgresStateOptions()
        if spec.connection is None:
            raise ConfigError("read state", "no connection", "set state.connection: postgres://...")
        self._given, self._schema = parameters(spec.connection), options.schema
        self._options = PostgresSinkOptions(lock_timeout=options.lock_timeout, silence_timeout=options.silence_timeout)
        super().__init__(spec, where(self._given), Name((options.schema, STATE)))

    def database(self) -> PostgresDatabase:
        return PostgresDatabase(self._given, self._options, self._name)

    def lost(self, db: Database) -> tuple[str, str] | None:
        if db.rows("SELECT 1 FROM pg_namespace WHERE nspname = \0", [self._schema]):
            return None
        return f"schema {self._schema} does not exist", f"CREATE SCHEMA {db.dialect.quote(self._schema)};"

    def refused(self, db: Database, known: bool) -> tuple[str, str] | None:
        if not known and (lost := self.lost(db)) is not None:
            return lost
        missing = missing_on_schema(db.rows, self._schema, ("USAGE",) if known else ("USAGE", "CREATE"))
        missing += missing_on(db.rows, self._schema, TABLES)
        return (f"rights are missing in schema {self._schema}", " ".join(missing)) if missing else None
