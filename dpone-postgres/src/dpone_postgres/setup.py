"""The SQL script with which a DBA sets up a change stream. Every statement can be run again."""

from __future__ import annotations

from collections.abc import Sequence

from dpone.errors import ConfigError
from dpone.model.schema import Name
from dpone_postgres.connect import table_name
from dpone_postgres.database import PostgresDialect

_d = PostgresDialect()
HEARTBEAT = "SELECT pg_logical_emit_message(true, 'dpone', 'heartbeat');"


def plan(slot: str, publication: str, tables: Sequence[str], role: str, failover: bool) -> list[str]:
    """Publication, slot, replica identity, grants, heartbeat; the teardown as comments. Raises ConfigError for a glob:
    it would need FOR ALL TABLES, which makes updates and deletes fail in every table without a replica identity
    (CREATE PUBLICATION, Notes)."""
    names = [table_name(Name.parse(table)) for table in tables]
    if not names or any(set("*?[") & {*part} for name in names for part in name.parts):
        found = "no table" if not names else f"a glob: {', '.join(tables)}"
        todo = "name each table with --table: FOR ALL TABLES breaks updates and deletes of tables without a key"
        raise ConfigError("plan a publication", found, todo)
    return [
        *_guard(names), _publication(publication, names), *_members(publication, names),
        _slot(slot, failover),
        *_grants(names, role), _heartbeat(), _teardown(slot, publication),
    ]  # fmt: skip


def _block(body: str) -> str:
    return f"DO $dpone$ BEGIN\n{body}\nEND $dpone$;"


def _guard(names: Sequence[Name]) -> list[str]:
    """Refuses, before anything is changed, a table whose updates would fail from then on, as a whole or in one of its
    partitions or of the tables that inherit from it (``publication.unidentified``)."""
    found = []
    for name in names:
        body = (
            "  FOR broken IN WITH RECURSIVE member AS (\n"
            f"      SELECT {_d.literal(_d.name(name))}::regclass::oid AS oid\n"
            "      UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN member AS m ON m.oid = i.inhparent)\n"
            "    SELECT c.oid::regclass FROM member AS m JOIN pg_class AS c ON c.oid = m.oid\n"
            "    WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (\n"
            "      SELECT 1 FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate\n"
            "      AND CASE c.relreplident WHEN 'i' THEN i.indisreplident\n"
            "          WHEN 'd' THEN i.indisprimary ELSE false END)\n"
            "  LOOP\n"
            "    RAISE EXCEPTION 'table % has no replica identity: its updates and deletes would fail', broken\n"
            "      USING HINT = 'ALTER TABLE .. ADD PRIMARY KEY, or ALTER TABLE .. REPLICA IDENTITY USING INDEX ..';\n"
            "  END LOOP;"
        )
        found.append(f"DO $dpone$ DECLARE broken regclass; BEGIN\n{body}\nEND $dpone$;")
    return found


def _publication(publication: str, names: Sequence[Name]) -> str:
    tables = ", ".join(map(_d.name, names))
    sql = f"CREATE PUBLICATION {_d.quote(publication)} FOR TABLE {tables} WITH (publish_via_partition_root = true)"
    missing = f"NOT EXISTS (SELECT 1 FROM pg_publication WHERE pubname = {_d.literal(publication)})"
    return _block(f"  IF {missing} THEN\n    {sql};\n  END IF;")


def adding(publication: str, names: Sequence[Name]) -> str:
    return f"ALTER PUBLICATION {_d.quote(publication)} ADD TABLE {', '.join(map(_d.name, names))}"


def _members(publication: str, names: Sequence[Name]) -> list[str]:
    found = []
    for name in names:
        schema, table = map(_d.literal, name.parts)
        where = f"pubname = {_d.literal(publication)} AND schemaname = {schema} AND tablename = {table}"
        sql = adding(publication, [name])
        found.append(
            _block(f"  IF NOT EXISTS (SELECT 1 FROM pg_publication_tables WHERE {where}) THEN\n    {sql};\n  END IF;")
        )
    return found


def _slot(slot: str, failover: bool) -> str:
    """In a transaction of its own, and after the publication."""
    name = _d.literal(slot)
    missing = f"NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {name})"
    more = ", failover => true" if failover else ""
    return f"SELECT pg_create_logical_replication_slot({name}, 'pgoutput'{more}) WHERE {missing};"


def _grants(names: Sequence[Name], role: str) -> list[str]:
    to = _d.quote(role)
    schemas = dict.fromkeys(name.parts[0] for name in names)
    missing = f"NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = {_d.literal(role)})"
    return [
        _block(f"  IF {missing} THEN\n    CREATE ROLE {to} LOGIN;\n  END IF;"),
        f"ALTER ROLE {to} REPLICATION;",
        *(f"GRANT USAGE ON SCHEMA {_d.quote(schema)} TO {to};" for schema in schemas),
        f"GRANT SELECT ON {', '.join(map(_d.name, names))} TO {to};",
    ]


def _heartbeat() -> str:
    return (
        "-- heartbeat: run it every minute if the role may not execute pg_logical_emit_message; for a stream of a\n"
        "-- standby, run it on the primary. It lets an idle slot advance, so that the server can remove WAL:\n"
        f"-- {HEARTBEAT}"
    )


def _teardown(slot: str, publication: str) -> str:
    name = _d.literal(slot)
    return (
        "-- teardown; an unread slot retains WAL until the disk is full:\n"
        f"-- SELECT pg_drop_replication_slot({name}) FROM pg_replication_slots WHERE slot_name = {name};\n"
        f"-- DROP PUBLICATION IF EXISTS {_d.quote(publication)};"
    )
