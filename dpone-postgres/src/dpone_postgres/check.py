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
_CHANGE = ("SELECT", "INSERT", "UPDATE", "DELETE")
# Tables that several roles may share, in the schema of a target; docs/connectors/postgres.md lists them.
OWN = ("__dpone__loads", "__dpone__staging", "__dpone__parts", "__dpone__added", "__dpone__targets")


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
        found += _usage(source.rows, table.parts[0]) + _table(source.rows, table, ("SELECT",))
        found += _identity(source.rows, table)
    if all(f.ok is not False for f in found):
        found += _row_security(lambda: source.rows(f"SELECT 1 FROM {source.relation} AS s LIMIT 0"))
    if all(f.ok is not False for f in found):
        found.append(Finding("source", True, f"{source.name}, {counted(len(source.schema()), 'column')}"))
    return found


def creating(ask: Ask, tables: Sequence[Name]) -> str:
    """What to do about a publication that does not exist: CREATE PUBLICATION needs a right on the database, and the
    ownership of the tables."""
    sql = (
        "SELECT has_database_privilege(current_database(), 'CREATE') AND NOT EXISTS (SELECT 1 "
        "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(\0::text[]) AND c.relname = ANY(\0::text[]) AND NOT pg_has_role(c.relowner, 'USAGE'))"
    )
    [(may,)] = ask(sql, ([name.parts[0] for name in tables], [name.last for name in tables]))
    if may:
        return "create it with 'dpone cdc create'"
    return "let the owner of the tables run what 'dpone cdc-plan --pipeline' prints"


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

    found = [*server(ask, db.where), *_usage(ask, table.parts[0])]
    if any(f.name == "schema" for f in found):
        return found
    create = missing_on_schema(ask, table.parts[0], ("CREATE",))
    found.append(Finding("staging", not create, f"may {'not ' if create else ''}create tables", "; ".join(create)))
    made = "tables that another role made"
    found += [Finding("own tables", False, made, one) for one in missing_on(ask, table.parts[0], OWN)]
    if "{table}" in table.last:  # a stream of many tables, which are not known before their changes arrive
        return [*found, Finding("target", True, f"{table}, for each table of the stream")]
    if db.oid(table) is None:
        return [*found, Finding("target", True, f"{table} will be created")]
    found += _table(ask, table, _CHANGE)
    if all(f.ok is not False for f in found):
        found += _row_security(lambda: ask(f"SELECT 1 FROM {db.dialect.name(table)} AS s LIMIT 0", ()))
    return [*found, _owner(ask, table)]


def _usage(ask: Ask, schema: str) -> list[Finding]:
    if not ask("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = \0", (schema,)):
        return [Finding("schema", False, f"schema {schema} does not exist", f"CREATE SCHEMA {_quoted(schema)};")]
    missing = missing_on_schema(ask, schema, ("USAGE",))
    return [Finding("grants", False, f"no USAGE privilege on schema {schema}", grant) for grant in missing]


def missing_on_schema(ask: Ask, schema: str, wanted: Sequence[str]) -> list[str]:
    """The GRANT that gives the role what it lacks of ``wanted``, if anything. A schema that does not exist lacks
    nothing."""
    sql = (
        "SELECT current_user, ARRAY(SELECT p FROM unnest(\0::text[]) AS p WHERE NOT has_schema_privilege(oid, p)) "
        "FROM pg_catalog.pg_namespace WHERE nspname = \0"
    )
    return [
        f"GRANT {', '.join(missing)} ON SCHEMA {_quoted(schema)} TO {_quoted(user)};"
        for user, missing in ask(sql, (list(wanted), schema))
        if missing
    ]


def missing_on(ask: Ask, schema: str, tables: Sequence[str]) -> list[str]:
    """The GRANT that lets the role read and write those of dpone's own ``tables`` in ``schema`` that
    exist, if it lacks anything. Another role may have made them."""
    sql = (
        "SELECT current_user, c.relname::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
        "ON n.oid = c.relnamespace WHERE n.nspname = \0 AND c.relname = ANY(\0::text[]) AND EXISTS ("
        "SELECT 1 FROM unnest(\0::text[]) AS p WHERE NOT has_table_privilege(c.oid, p)) ORDER BY c.relname"
    )
    found = ask(sql, (schema, list(tables), list(_CHANGE)))
    names = ", ".join(f"{_quoted(schema)}.{_quoted(name)}" for _, name in found)
    return [f"GRANT {', '.join(_CHANGE)} ON {names} TO {_quoted(found[0][0])};"] if found else []


def stream_findings(ask: Ask, tables: Sequence[Name]) -> list[Finding]:
    """The rights of a role that reads a slot, and the rows of ``tables`` when they join the stream."""
    sql = (
        "SELECT current_user, r.rolreplication OR r.rolsuper OR EXISTS (SELECT 1 FROM pg_catalog.pg_roles AS m "
        "WHERE m.rolname = 'rds_replication' AND pg_has_role(m.oid, 'USAGE')) "
        "FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user"
    )  # Amazon RDS gives the right through a role
    [(user, may)] = ask(sql, ())
    todo = "" if may else f"ALTER ROLE {_quoted(user)} REPLICATION;"
    found = [Finding("replication", bool(may), f"{user} may {'' if may else 'not '}read slots", todo)]
    for schema in dict.fromkeys(name.parts[0] for name in tables):
        found += _usage(ask, schema)
    for name in tables:
        found += _table(ask, name, ("SELECT",))
    return found


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
