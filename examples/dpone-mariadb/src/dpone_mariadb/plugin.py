"""What the connector is. Imports neither pymysql nor pyarrow: discovery stays light."""

from __future__ import annotations

from dpone.sql.plugin import sql_hooks

_HERE = "dpone_mariadb.connector"

dpone_sources, dpone_sinks, dpone_state_backends = sql_hooks(
    "mariadb",
    source=f"{_HERE}:MariadbSource",
    sink=f"{_HERE}:MariadbSink",
    state=f"{_HERE}:MariadbState",
    errors=f"{_HERE}:CODES",
    harness="dpone_mariadb.testing:MariadbHarness",
    lacks=("replace_columns", "repeatable", "incremental_xmin", "incremental_cdc", "native_stream"),
)
