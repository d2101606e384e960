"""Rows that a policy hides: a partial view never passes for the whole table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from attrs import evolve, frozen
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.target import Target, read

import dpone
from dpone.contract import WindowRequest
from dpone.errors import ConfigError, SinkError, SourceError
from dpone.model.pipeline import Incremental, Lineage, SourceSpec
from dpone.model.report import StreamReport
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone_postgres.cdc import PostgresLogicalReader
from dpone_postgres.config import PostgresSourceOptions


@frozen
class Role:
    name: str
    url: str


@pytest.fixture
def role(postgres: Server, target: Target) -> Iterator[Role]:
    """May read every table of the schema; a policy of ``orders`` shows it the first two of four rows."""
    name = f"seer_{target.schema}"
    postgres.run(f"CREATE ROLE {name} LOGIN", f"GRANT USAGE ON SCHEMA {target.schema} TO {name}")
    target.run(
        "CREATE TABLE orders (id int PRIMARY KEY, v text)",
        "INSERT INTO orders SELECT i, 'v' || i FROM generate_series(1, 4) AS i",
        f"GRANT SELECT ON orders TO {name}",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY few ON orders TO {name} USING (id < 3)",
    )
    yield Role(name, postgres.url.replace("//postgres@", f"//{name}@"))
    postgres.run(f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def ids(target: Target, role: Role, query: str | None = None, parts: int = 1, **options: Any) -> list[int]:
    with closing(target.source(role.url, query, **options)) as source:
        window = source.window(None, WindowRequest(whole=True, partitions=parts, mode="merge"))
        return sorted(read(source, window).column("id").to_pylist())


READS: dict[str, dict[str, Any]] = {
    "table": {},
    "parts": {"parts": 3},
    "query": {"query": "SELECT id, v FROM {}.orders"},
    "query in parts": {"query": "SELECT o.id FROM {}.orders AS o", "parts": 2},
    "cursor": {"incremental": Incremental("cursor", "id")},
    "xmin": {"incremental": Incremental("xmin")},
}


@pytest.mark.parametrize("how", READS)
def test_OUT_06_hidden_rows_are_an_error(target: Target, role: Role, how: str) -> None:
    """Read in any way, a table of which a policy hides rows is an error that names table, role and remedy; both
    remedies work."""
    given = {**READS[how]}
    if "query" in given:
        given["query"] = given["query"].format(target.schema)
    with pytest.raises(SourceError) as caught:
        ids(target, role, **given)
    assert f"row security would hide rows of table orders from role {role.name}" in caught.value.found
    assert "set source.options.row_security: on" in caught.value.todo
    assert ids(target, role, **given, row_security="on") == [1, 2]
    target.run(f"ALTER ROLE {role.name} BYPASSRLS")
    assert ids(target, role, **given) == [1, 2, 3, 4]


def test_OUT_06_a_native_stream_hides_nothing(target: Target, role: Role) -> None:
    """The binary stream from one PostgreSQL to another is read under the same rule."""
    with closing(target.source(role.url)) as source:
        window = source.window(None, WindowRequest(whole=True))
        with source.read(window.parts[0]) as stream, pytest.raises(SourceError, match="row security would hide"):
            b"".join(stream.open_native(stream.native[0]))


@pytest.mark.releases
def test_OUT_06_views(target: Target, role: Role) -> None:
    """A view reads as its owner, whom no policy may concern; with security_invoker it reads as the role."""
    target.run("CREATE VIEW seen AS SELECT * FROM orders", f"GRANT SELECT ON seen TO {role.name}")
    view = evolve(target, table="seen")
    assert ids(view, role) == [1, 2, 3, 4]
    if target.query("SHOW server_version_num")[0][0] >= "150000":
        target.run("ALTER VIEW seen SET (security_invoker = true)")
        with pytest.raises(SourceError, match="row security would hide rows of table orders from role"):
            ids(view, role)
    target.run("ALTER VIEW seen RESET (security_invoker)", f"ALTER VIEW seen OWNER TO {role.name}")
    with pytest.raises(SourceError, match="or from the owner of a view that it reads"):
        ids(view, role)


def test_OUT_06_owner_and_force(target: Target, role: Role) -> None:
    """An owner sees all of the table, unless FORCE ROW LEVEL SECURITY holds the policies against the owner too."""
    target.run(f"GRANT CREATE ON SCHEMA {target.schema} TO {role.name}", f"ALTER TABLE orders OWNER TO {role.name}")
    assert ids(target, role) == [1, 2, 3, 4]
    target.run("ALTER TABLE orders FORCE ROW LEVEL SECURITY")
    with pytest.raises(SourceError, match="row security would hide"):
        ids(target, role)


def test_OUT_06_a_revoked_column_is_an_error(target: Target, role: Role) -> None:
    """A role that lost a column does not read the others as if they were all."""
    target.run("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")
    target.run(f"REVOKE SELECT ON orders FROM {role.name}", f"GRANT SELECT (id) ON orders TO {role.name}")
    with pytest.raises(SourceError, match="permission denied for table orders"):
        ids(target, role)
    assert ids(target, role, f"SELECT id FROM {target.schema}.orders") == [1, 2, 3, 4]


def test_OUT_06_check_finds_it(target: Target, role: Role) -> None:
    """``dpone check --connect`` says before any run that rows are hidden."""
    with closing(target.source(role.url)) as source:
        [found] = [finding for finding in source.check() if finding.ok is False]
    assert found.name == "row security"
    assert ("rows of table orders" in found.found, "BYPASSRLS" in found.todo) == (True, True)
    with closing(target.source(role.url, row_security="on")) as source:
        assert all(finding.ok is not False for finding in source.check())


def run(folder: Path, target: Target, url: str, mode: str, **options: Any) -> StreamReport:
    keyed = {"key": ["id"]} if mode in ("snapshot_diff", "scd2", "merge") else {}
    strategy = {"mode": mode, **keyed, **({"where": {"v": {"from": "v"}}} if mode == "replace" else {})}
    strategy |= {"deletes": "close"} if mode == "scd2" else {}
    strategy |= {"max_delete_share": 1.0} if mode in ("snapshot_diff", "scd2") else {}
    pipeline = {
        "pipeline": "hidden",
        "source": {"type": "postgres", "connection": url, "table": f"{target.schema}.orders", "options": options},
        "sink": {"type": "sqlite", "connection": "sqlite:///out.db", "table": "orders", "strategy": strategy},
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(pipeline))
    [stream] = dpone.run(folder / "p.yaml").streams
    return stream


def loaded(folder: Path, where: str = "1") -> list[int]:
    with closing(sqlite3.connect(folder / "out.db")) as db:
        return [id for (id,) in db.execute(f"SELECT id FROM orders WHERE {where} ORDER BY id")]


@pytest.mark.parametrize("mode", ["snapshot_diff", "scd2"])
def test_OUT_06_nothing_is_deleted_for_being_hidden(target: Target, role: Role, tmp_path: Path, mode: str) -> None:
    """Rights that shrink between two runs stop the load; where hidden rows were asked for, the deletes are refused."""
    current = "__dpone__valid_to IS NULL" if mode == "scd2" else "1"
    target.run(f"ALTER ROLE {role.name} BYPASSRLS")
    assert run(tmp_path, target, role.url, mode).status == "loaded"
    target.run(f"ALTER ROLE {role.name} NOBYPASSRLS")
    failed = run(tmp_path, target, role.url, mode)
    assert (failed.status, failed.error and failed.error.exit_code) == ("failed", 1)
    assert failed.error is not None
    assert "row security would hide rows of table orders" in failed.error.message
    stopped = run(tmp_path, target, role.url, mode, row_security="on")
    assert stopped.error is not None
    assert (stopped.status, stopped.error.kind) == ("stopped", "DeletesRefused")
    assert loaded(tmp_path, current) == [1, 2, 3, 4]
    target.run(f"ALTER ROLE {role.name} BYPASSRLS")
    assert run(tmp_path, target, role.url, mode).status == "loaded"


@pytest.mark.parametrize("mode", ["full_refresh", "replace", "append", "merge"])
def test_OUT_06_what_was_asked_for_is_loaded(target: Target, role: Role, tmp_path: Path, mode: str) -> None:
    """With row_security: on the target holds the rows that the role may see, and the proof says so."""
    report = run(tmp_path, target, role.url, mode, row_security="on")
    assert (report.status, loaded(tmp_path)) == ("loaded", [1, 2])
    assert "rows hidden by row security are not read" in report.proof


def test_OUT_06_the_snapshot_of_a_change_stream(
    postgres: Server, source: ChangeSource, role: Role, target: Target
) -> None:
    """A stream has the changes of every row, so that its first snapshot must have every row too."""
    postgres.run(f"ALTER ROLE {role.name} REPLICATION")
    name = f"{target.schema}_hidden"
    target.run(f"CREATE PUBLICATION {name} FOR TABLE orders")
    target.query(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    try:
        options = PostgresSourceOptions(Incremental("cdc"), slot=name, publication=name)
        spec = SourceSpec("postgres", Secret(role.url), Name((target.schema, "orders")), options=options)
        with closing(PostgresLogicalReader(spec)) as reader:
            with pytest.raises(SourceError, match="row security would hide rows of table orders"):
                reader.window(None, None)
            postgres.run(f"ALTER ROLE {role.name} BYPASSRLS")
            assert len(reader.window(None, None).tables) == 1
        with pytest.raises(ConfigError, match="a change stream contains the changes of all rows"):
            PostgresLogicalReader(evolve(spec, options=evolve(options, row_security="on")))
    finally:
        target.query(f"SELECT pg_drop_replication_slot('{name}')")
        target.run(f"DROP PUBLICATION {name}")


TARGETS: dict[str, Strategy] = {
    "merge": Strategy("merge", key="id"),
    "snapshot_diff": Strategy("snapshot_diff", key="id", max_delete_share=1.0),
    "full_refresh": Strategy("full_refresh"),
    "append": Strategy("append"),
}


@pytest.mark.parametrize("mode", TARGETS)
def test_OUT_06_a_target_with_hidden_rows_is_not_loaded(target: Target, role: Role, mode: str) -> None:
    """A row that the role does not see would stay, or come twice: an error that names table and remedies, of which
    both work. ``check`` finds it."""
    target.run(
        f"GRANT CREATE ON SCHEMA {target.schema} TO {role.name}",
        f"GRANT ALL ON orders TO {role.name}",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
        f"CREATE POLICY every ON orders FOR INSERT TO {role.name} WITH CHECK (true)",
    )
    rows = pa.table({"id": pa.array([1, 4], pa.int32()), "v": ["new", "new"]})
    given: dict[str, Any] = {"url": role.url, "adopt_existing": True, "lineage": Lineage(False)}
    with pytest.raises(SinkError, match=r"row security would hide rows of table orders.*BYPASSRLS, or set sink\.opt"):
        target.load(rows, TARGETS[mode], **given)
    assert target.rows("id, v") == [(i, f"v{i}") for i in range(1, 5)]
    with closing(target.sink(TARGETS[mode], **given)) as sink:
        [found] = [finding for finding in sink.check() if finding.ok is False]
    assert found.name == "row security"
    target.load(rows.slice(0, 1), TARGETS[mode], row_security="on", **given)
    assert (1, "new") in target.rows("id, v")
    assert (4, "v4") in target.rows("id, v") or mode == "full_refresh"  # which truncates
    target.run(f"ALTER ROLE {role.name} BYPASSRLS")
    target.load(rows, TARGETS[mode], n=1, **given)
    assert target.rows("id").count((4,)) == (2 if mode == "append" else 1)
