"""From ``postgres://`` (a URL, fields, or libpq's ``key=value``) to a connection."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from dpone.errors import ConfigError, DponeError, counted
from dpone.host import stopping
from dpone.model.schema import Name
from dpone.model.secret import CLEAR, Secret, unclear
from dpone_postgres.config import SILENCE
from dpone_postgres.errors import failing
from dpone_postgres.resolve import addressed
from dpone_postgres.waiting import WHO, Connection, GivenUp, Peer, end_forsaken

OLDEST = 130000  # oldest release tested: 15; oldest with the functions used (pg_snapshot, ADD COLUMN with default): 13
_ALIASES = {"database": "dbname", "username": "user"}
_FORMS = "write postgres://user@host:5432/database, fields (host, port, dbname, user, password) or libpq's key=value"

# With these keepalives the client notices a dead server within a minute, the server a dead client within two
# minutes. ``waiting`` deals with a server that is up and does not answer.
_DEFAULTS = {
    "application_name": "dpone", "connect_timeout": "10", "keepalives": "1", "keepalives_idle": "30",
    "keepalives_interval": "10", "keepalives_count": "3",
}  # fmt: skip

# The SQL and the values of dpone rely on these, whatever the role's or the database's own settings are
# (runtime-config-client in the PostgreSQL documentation).
_SETTINGS = {
    "standard_conforming_strings": "on", "TimeZone": "UTC", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres",
    "extra_float_digits": "1", "bytea_output": "hex", "xmloption": "content",
    "idle_in_transaction_session_timeout": "0", "default_transaction_isolation": "read committed",
    "tcp_keepalives_idle": "60", "tcp_keepalives_interval": "15", "tcp_keepalives_count": "4",
}  # fmt: skip

# With synchronous_commit = off the server may lose a commit in a crash although it answered COMMIT. dpone saves the
# state and acknowledges the source after that answer, so it needs at least 'local' (runtime-config-wal). Settings that
# wait for more, for standbys, stay as they are.
_DURABLE = (
    "set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local' "
    "ELSE current_setting('synchronous_commit') END, false)"
)


def parameters(connection: Secret | None) -> dict[str, str]:
    """libpq's parameters. Unless they set sslmode, every host but this one needs a verified TLS connection. Does no I/O
    except reading a service file. Raises ConfigError, which never contains a value."""
    given = _given(connection.reveal() if connection else "")
    service = _service(given.get("service") or os.environ.get("PGSERVICE", ""))
    if "sslmode" not in given and "PGSSLMODE" not in os.environ:
        hosts = [given.get(name) or service.get(name) or os.environ.get(f"PG{name.upper()}", "") for name in _HOSTS]
        if "sslmode" not in service and not all(map(is_local, ",".join(filter(None, hosts)).split(","))):
            given["sslmode"] = "verify-full"
            if not _knows_authority({**service, **given}):
                given["sslrootcert"] = "system"
    ours = {k: v for k, v in _DEFAULTS.items() if k not in service and _from_environment(k) is None}
    return {**ours, **given, "client_encoding": "UTF8"}


_HOSTS = ("host", "hostaddr")


def _from_environment(name: str) -> str | None:
    return os.environ.get({"application_name": "PGAPPNAME", "connect_timeout": "PGCONNECT_TIMEOUT"}.get(name, "-"))


def _given(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError:
            raise ConfigError("read connection", "it starts like a JSON object but is not valid JSON", _FORMS) from None
        given = {_ALIASES.get(name, name): str(value) for name, value in fields.items() if value is not None}
        if unknown := sorted(set(given) - known_parameters()):
            raise ConfigError(
                "read connection", f"unknown field {', '.join(unknown)}", f"{_FORMS}; other fields are libpq's"
            )
        return given
    if found := unclear(text):  # libpq might read part of the password as the host, which every error prints
        raise ConfigError("read connection", found, CLEAR)
    try:
        return {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except psycopg.Error:  # its text may contain part of the password
        raise ConfigError("read connection", "libpq cannot parse it", _FORMS) from None


@lru_cache(maxsize=1)
def known_parameters() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def is_local(host: str) -> bool:
    """True for a Unix socket, ``localhost`` or a loopback address."""
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _service(name: str) -> Mapping[str, str]:
    """The entry of a service file, only to know whether it sets sslmode; libpq reads the file itself (libpq, "The
    Connection Service File")."""
    if not name:
        return {}
    for path in _service_files():
        entry = dict(_entry(path, name))
        if entry:
            return entry
    return {}


def _service_files() -> Iterator[Path]:
    if own := os.environ.get("PGSERVICEFILE"):
        yield Path(own)
    elif sys.platform != "win32":
        yield Path.home() / ".pg_service.conf"
    if shared := os.environ.get("PGSYSCONFDIR"):
        yield Path(shared) / "pg_service.conf"


def _entry(path: Path, name: str) -> Iterator[tuple[str, str]]:
    inside = False
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            text = line.strip()
            if text.startswith("["):
                inside = text == f"[{name}]"
            elif inside and "=" in text and not text.startswith("#"):
                key, _, value = text.partition("=")
                yield key.strip(), value.strip()


def _knows_authority(given: Mapping[str, str]) -> bool:
    """True if libpq has a CA certificate to verify the server with. If not, dpone sets ``sslrootcert=system``, which
    libpq 16 and later know."""
    if "sslrootcert" in given or "PGSSLROOTCERT" in os.environ or pq.version() < 160000:
        return True
    return (Path.home() / ".postgresql" / "root.crt").exists()


def table_name(name: Name) -> Name:
    """``schema.table``; a bare name means the schema public, whatever the search_path is. Raises ConfigError."""
    if len(name.parts) > 2:
        found = f"{name} has {counted(len(name.parts), 'part')}"
        raise ConfigError("read a table name", found, "write schema.table; the database is part of the connection")
    return name if len(name.parts) == 2 else Name(("public", name.last))


def where(given: Mapping[str, str]) -> str:
    """For messages: ``db.example:5432/shop``, without credentials."""
    host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST", "local")
    if service := given.get("service"):
        host = f"service {service}"
    port, database = given.get("port"), given.get("dbname")
    return f"{host}{':' + port if port else ''}{'/' + database if database else ''}"


def connect(
    given: Mapping[str, str],
    kind: type[DponeError],
    *,
    lock_timeout: float = 0,
    statement_timeout: float = 0,
    silence_timeout: float = SILENCE,
    row_security: str | None = None,
) -> Connection:
    """Open a connection in autocommit mode: statements begin and end transactions. Errors are of class ``kind``.

    Timeouts are in seconds, 0 for no limit. row_security: ``off`` makes it an error if a policy would hide rows from a
    query (runtime-config-client); None keeps the server's setting.
    """
    with failing(kind, f"connect to {where(given)}"):
        reached = addressed(_in_haste(given), _service(given.get("service") or os.environ.get("PGSERVICE", "")))
        db = Connection.connect(**reached, autocommit=True, prepare_threshold=None)  # type: ignore[arg-type]
    try:
        if db.info.server_version < OLDEST:
            found = f"PostgreSQL {db.info.parameter_status('server_version')}"
            raise kind(f"connect to {where(given)}", found, f"use PostgreSQL {OLDEST // 10000} or newer")
        timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        settings = {**_SETTINGS, **{name: str(int(seconds * 1000)) for name, seconds in timeouts.items()}}
        settings |= {"row_security": row_security} if row_security else {}
        with failing(kind, f"connect to {where(given)}"):
            one = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
            db.until = time.monotonic() + SILENCE
            [(started, pid, since, *_)] = db.execute(f"SELECT {WHO}, {one}, {_DURABLE}".encode()).fetchall()
            db.until, db.peer = None, Peer(same_server(given, db), silence_timeout, started, pid, since)
            end_forsaken(db, started)
    except BaseException:
        db.close()
        raise
    return db


def _in_haste(given: Mapping[str, str]) -> Mapping[str, str]:
    """After a signal the connection must be made in the time that is left; psycopg waits for at least two seconds."""
    left = stopping.left(math.inf)
    if not left:
        raise GivenUp("the run was interrupted")
    return given if left == math.inf else {**given, "connect_timeout": str(max(2, int(left)))}


def same_server(given: Mapping[str, str], db: psycopg.Connection[Any]) -> dict[str, str]:
    """Parameters that connect to the same server as ``db``, also where several hosts, or several addresses of one host
    name, were given."""
    info = db.info
    here = {"host": info.host, "hostaddr": info.hostaddr, "port": str(info.port)}
    return {**given, **{name: value for name, value in here.items() if value}}
