"""Findings of ``dpone check --connect`` and ``dpone doctor`` for PostgreSQL: version, TLS, missing grants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from dpone.contract import Finding
from dpone.errors import DponeError, counted
from dpone.model.schema import Name
from dpone_postgres.database import PostgresDatabase
from dpone_postgres.errors import hidden
from dpone_postgres.session import Asked

Ask = Callable[[str, Sequence[Any]], list[Any]]


def server(ask: Ask, where: str) -> list[Finding]:
    sql = (
        "SELECT current_setting('server_version'), current_user, current_setting('wal_level'), pg_is_in_recovery(), "
        "(SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), "
        "(SELECT count(*) FROM pg_catalog.pg_replication_slots)"
    )
    [(version, user, wal, standby, tls, slots)] = ask(sql, ())
    role = "standby, read-only" if standby else "primary"
    many = counted(slots, "replication slot")
    return [
        Finding("connection", True, f"{where} as {user}, {'TLS' if tls else 'without TLS'}"),
        Finding("server", True, f"PostgreSQL {version}, {role}, wal_level {wal}, {many}"),
    ]


def source_findings(source: Asked) -> list[Finding]:
    found = server(source.rows, source.where)
    table = source.table
    if table is not None:
        found += _usage(source.rows, table) + _table(source.rows, table, ("SELECT",))
        found += _identity(source.rows, table)
    if all(f.ok is not False for f in found):
        found += _row_security(lambda: source.rows(f"SELECT 1 FROM {source.relation} AS s LIMIT 0"))
    if all(f.ok is not False for f in found):
        found.append(Finding("source", True, f"{source.name}, {counted(len(source.schema()), 'column')}"))
    return found


def _row_security(ask: Callable[[], Any]) -> list[Finding]:
    """Plan a query: the planner applies the policies of all tables that it reads."""
    try:
        ask()
    except DponeError as error:
        if not isinstance(error.__cause__, psycopg.Error) or hidden(error.__cause__) is None:
            raise
        return [Finding("row security", False, error.found, error.todo)]
    return []


def sink_findings(db: PostgresDatabase, table: Name) -> list[Finding]:
    def ask(sql: str, given: Sequence[Any]) -> list[Any]:
        return db.rows(sql, given)

    found = [*server(ask, db.where), *_usage(ask, table)]
    if any(f.ok is False for f in found):
        return found
    schema = db.dialect.quote(table.parts[0])
    [(user, create)] = ask("SELECT current_user, has_schema_privilege(\0, 'CREATE')", (table.parts[0],))
    grant = f"GRANT CREATE ON SCHEMA {schema} TO {db.dialect.quote(user)};"
    may = "may create tables" if create else "may not create tables"
    found.append(Finding("staging", bool(create), may, "" if create else grant))
    if "{table}" in table.last:  # a stream of many tables, which are not known before their changes arrive
        return [*found, Finding("target", True, f"{table}, for each table of the stream")]
    if db.oid(table) is None:
        return [*found, Finding("target", True, f"{table} will be created")]
    found += _table(ask, table, ("SELECT", "INSERT", "UPDATE", "DELETE"))
    if all(f.ok is not False for f in found):
        found += _row_security(lambda: ask(f"SELECT 1 FROM {db.dialect.name(table)} AS s LIMIT 0", ()))
    return [*found, _owner(ask, table)]


def _usage(ask: Ask, table: Name) -> list[Finding]:
    schema = table.parts[0]
    sql = "SELECT current_user, has_schema_privilege(oid, 'USAGE') FROM pg_catalog.pg_namespace WHERE nspname = \0"
    found = ask(sql, (schema,))
    if not found:
        return [Finding("schema", False, f"schema {schema} does not exist", f"CREATE SCHEMA {_quoted(schema)};")]
    user, usage = found[0]
    if usage:
        return []
    grant = f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {_quoted(user)};"
    return [Finding("grants", False, f"no USAGE privilege on schema {schema}", grant)]


def _table(ask: Ask, table: Name, wanted: Sequence[str]) -> list[Finding]:
    sql = (
        "SELECT current_user, ARRAY(SELECT p FROM unnest(\0::text[]) AS p WHERE NOT has_table_privilege(c.oid, p)) "
        "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = \0 AND c.relname = \0"
    )
    found = ask(sql, (list(wanted), *table.parts))
    if not found:
        return [Finding("table", False, f"table or view {table} does not exist", "correct the name, or create it")]
    user, missing = found[0]
    if not missing:
        return [Finding("grants", True, f"{', '.join(wanted)} on {table}")]
    words = ", ".join(missing)
    grant = f"GRANT {words} ON {'.'.join(map(_quoted, table.parts))} TO {_quoted(user)};"
    return [Finding("grants", False, f"no {words} privilege on {table}", grant)]


def _owner(ask: Ask, table: Name) -> Finding:
    """Only the owner may alter or replace a table (ALTER TABLE, DROP TABLE)."""
    sql = (
        "SELECT pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), current_user "
        "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = \0 AND c.relname = \0"
    )
    [(owner, mine, user)] = ask(sql, table.parts)
    todo = "" if mine else f"GRANT {_quoted(owner)} TO {_quoted(user)}, if dpone should change the schema"
    found = owner if mine else f"{owner}: the table cannot be altered or swapped"
    return Finding("owner", True if mine else None, found, todo)


def _identity(ask: Ask, table: Name) -> list[Finding]:
    sql = (
        "SELECT c.relreplident::text, c.relkind::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
        "ON n.oid = c.relnamespace WHERE n.nspname = \0 AND c.relname = \0"
    )
    words = {"d": "default (primary key)", "n": "nothing", "f": "full", "i": "index"}
    return [
        Finding("replica identity", True, words.get(identity, identity))
        for identity, kind in ask(sql, table.parts)
        if kind in "rp"
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
