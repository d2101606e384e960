"""From ``duckdb:///file.db`` to a connection.

One process at a time has a file for writing, or any number for reading
(https://duckdb.org/docs/2.0/connect/concurrency.html). Connections of one process share what is open, and must ask for
it in the same mode.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from dpone.errors import ConfigError
from dpone.model.secret import Secret

_PREFIX = "duckdb:///"


def database_path(connection: Secret | None, base: Path) -> Path:
    """``duckdb:///relative.db`` is relative to ``base``, ``duckdb:////absolute.db`` is not. Raises ConfigError."""
    text = connection.reveal() if connection else ""
    name = text.removeprefix(_PREFIX)
    if not text.startswith(_PREFIX) or name in ("", ":memory:") or "?" in name or "\0" in name:
        todo = "write duckdb:///file.db, relative to the pipeline file, or duckdb:////absolute/file.db"
        raise ConfigError("read connection", "it does not name a DuckDB file", todo)
    return Path(os.path.abspath(base / name))


def prepared(db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    db.execute("SET TimeZone = 'UTC'")  # instants come as UTC
    return db.execute("SET python_enable_replacements = false")  # a table that is not there is no Python variable
