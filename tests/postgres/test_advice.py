"""What PostgreSQL refuses, and that doing what the message says ends in a green run."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pyarrow as pa
import pytest
import yaml
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.target import Target
from tests.postgres.test_cdc_outside import ROOT, Shop, shop  # noqa: F401  # a fixture

import dpone
from dpone.config.reader import load_pipeline
from dpone.engine.rewind import rewind
from dpone.errors import PipelineMismatch, SchemaBreak
from dpone.model.evolution import SchemaChange
from dpone.model.position import Position
from dpone.model.report import StreamReport
from dpone.model.strategy import Strategy
from dpone_postgres.pgoutput import lsn_number, lsn_text
from dpone_postgres.source import PostgresSource

pytestmark = pytest.mark.postgres


class Route:
    """From table ``s`` of a schema, or a file, to table ``t`` of it."""

    def __init__(self, folder: Path, target: Target) -> None:
        self.folder, self.target = folder, target
        url = target.server.url
        self.data: dict[str, Any] = {
            "pipeline": "p", "runtime": {"retries": 0},
            "source": {"type": "postgres", "connection": url, "table": f"{target.schema}.s"},
            "sink": {
                "type": "postgres", "connection": url, "table": f"{target.schema}.t",
                "strategy": {"mode": "merge", "key": ["id"]},
            },
        }  # fmt: skip

    def run(self, **options: Any) -> StreamReport:
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(self.data))
        [stream] = dpone.run(path, **options).streams
        return stream

    def stopped(self, kind: str, **options: Any) -> str:
        error = self.run(**options).error
        assert error is not None
        assert error.kind == kind, error.message
        return error.message

    def rows(self, columns: str = "id, n") -> list[tuple[Any, ...]]:
        return self.target.query(f"SELECT {columns} FROM t ORDER BY 1")


@pytest.fixture
def route(tmp_path: Path, target: Target) -> Route:
    target.run("CREATE TABLE s (id int PRIMARY KEY, n int)", "INSERT INTO s VALUES (1, 10)")
    return Route(tmp_path, target)


def test_OUT_16_views_in_the_way_of_a_wider_column_are_dropped_by_the_statements_of_the_message(route: Route) -> None:
    """Also of a view on a view and of a materialized one; a view of other columns stays. A plan says the same, and
    neither changes anything."""
    assert route.run().error is None
    route.target.run(
        'CREATE VIEW "V 1" AS SELECT id, n FROM t', 'CREATE MATERIALIZED VIEW m AS SELECT n FROM "V 1"',
        "CREATE VIEW w AS SELECT n + 1 AS k FROM m", "CREATE VIEW other AS SELECT id FROM t",
        "ALTER TABLE s ALTER COLUMN n TYPE bigint", "UPDATE s SET n = 5000000000",
    )  # fmt: skip
    message = route.stopped("SchemaBreak", dry_run=True)
    assert route.stopped("SchemaBreak") == message
    assert "views read column n" in message
    schema = route.target.schema
    dropped = re.findall(r"DROP [^;]*;", message)
    assert dropped == [f"DROP VIEW {schema}.w;", f"DROP MATERIALIZED VIEW {schema}.m;", f'DROP VIEW {schema}."V 1";']
    [(kept,)] = route.target.query(f"SELECT pg_get_viewdef('{schema}.\"V 1\"'::regclass)")
    route.target.run(*dropped)
    assert route.run().error is None
    assert route.rows() == [(1, 5_000_000_000)]
    route.target.run(f'CREATE VIEW "V 1" AS {kept}')
    assert route.run().error is None


def test_OUT_16_a_trigger_in_the_way_of_a_wider_column_is_named(route: Route) -> None:
    """The server names what stands in the way; without it the run is green."""
    assert route.run().error is None
    route.target.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER watch BEFORE UPDATE OF n ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "ALTER TABLE s ALTER COLUMN n TYPE bigint",
    )
    message = route.stopped("SinkError")
    assert "trigger watch on table" in message
    assert "drop the named object, run again, then recreate it; nothing was changed" in message
    route.target.run("DROP TRIGGER watch ON t")
    assert route.run().error is None


@pytest.mark.parametrize("way", ["rename column ID of the target to id", "give id the name ID in the source"])
def test_OUT_16_case_23_names_by_case_show_both_spellings_and_both_ways_work(route: Route, way: str) -> None:
    """The names in the source are distinct; it is the target that differs."""
    route.target.run('CREATE TABLE t ("ID" int PRIMARY KEY, n int)')
    message = route.stopped("SchemaBreak")
    assert "column id of the source is ID in the target" in message
    assert way in message
    if way.startswith("rename"):
        route.target.run('ALTER TABLE t RENAME COLUMN "ID" TO id')
    else:
        del route.data["source"]["table"]
        route.data["source"]["query"] = f'SELECT id AS "ID", n FROM {route.target.schema}.s'
        route.data["sink"]["strategy"]["key"] = ["ID"]
    assert route.run().error is None
    assert route.rows('"ID", n' if way.startswith("give") else "id, n") == [(1, 10)]


def test_OUT_16_a_name_beyond_the_limit_is_found_before_the_table_is_made(route: Route) -> None:
    """63 bytes; options.names of a CSV file is a way out that works."""
    long = "ä" * 32
    (route.folder / "a.csv").write_text(f"id,{long}\n1,10\n")
    route.data["source"] = {"type": "file", "path": "a.csv"}
    message = route.stopped("SchemaBreak")
    assert (
        f"shorten the name in the source (AS in source.query, options.names of a CSV file): {long} has 64 bytes"
        in message
    )
    assert route.target.query("SELECT to_regclass('t')") == [(None,)]
    route.data["source"]["options"] = {"names": ["id", "n"]}
    assert route.run().error is None
    assert route.rows() == [(1, 10)]


def test_more_columns_than_a_table_can_have_are_counted_with_those_of_dpone(target: Target) -> None:
    """1,600, of which two are lineage."""
    with closing(target.sink(Strategy("append"))) as sink:
        sink.apply(sink.ddl([SchemaChange("create", schema=pa.schema([(f"c{i}", pa.bool_()) for i in range(1_598)]))]))
        for changes in (
            [SchemaChange("add", "d", after=pa.field("d", pa.bool_()))],
            [SchemaChange("create", schema=pa.schema([(f"c{i}", pa.bool_()) for i in range(1_599)]))],
        ):
            with pytest.raises(
                SchemaBreak, match="1,601 columns including dpone's own, but a table can have at most 1,600"
            ):
                sink.ddl(changes)


@pytest.mark.parametrize(
    ("type_", "value", "said"),
    [
        ("text", "9", "numbers of 1 to 2 digits as text"),
        ("varchar(9)", "9", "numbers of 1 to 2 digits as text"),
        ("uuid", "b6f3a2c4-5d1e-4f7a-8b9c-0d1e2f3a4b5c", "uuids of version 4, which do not increase"),
        ("uuid", "01890a5d-ac96-774b-bcce-b302099a8057", ""),
        ("text", "2026-01-31", ""),
    ],
)
def test_a_cursor_that_does_not_grow_is_refused(route: Route, type_: str, value: str, said: str) -> None:
    """'11' sorts before '9', and a random uuid anywhere; uuids of version 7 and texts of times grow."""
    more = ", ('10')" if value == "9" else ""
    route.target.run("DROP TABLE s", f"CREATE TABLE s (id {type_})", f"INSERT INTO s VALUES ('{value}'){more}")
    route.data["source"]["options"] = {"incremental": {"by": "cursor", "column": "id"}}
    if not said:
        done = route.run()
        assert (done.error, done.warnings) == (None, [])
        return
    message = route.stopped("DataError")
    assert said in message
    if way := re.search(r"SELECT (.*) FROM \.\.\. AS t, by column: n, beginning with --full-refresh", message):
        del route.data["source"]["table"]
        route.data["source"]["query"] = f"SELECT {way[1]} FROM {route.target.schema}.s AS t"
        route.data["source"]["options"]["incremental"]["column"] = "n"
        assert route.run(full_refresh=True).error is None
        assert route.rows() == [("10", 10), ("9", 9)]
        route.target.run("INSERT INTO s VALUES ('11')")
        assert route.run().error is None
        assert route.rows() == [("10", 10), ("11", 11), ("9", 9)]


@pytest.fixture
def standby(postgres: Server) -> Iterator[tuple[Server, Server]]:
    """A primary and its standby, which lets nothing wait for a read."""
    if postgres.programs is None:
        pytest.skip("needs the server's programs: it makes clusters of its own")
    folder, programs, running = Path(tempfile.mkdtemp(prefix="dpone-standby-")), postgres.programs, []
    folder.chmod(0o755)
    if servers.owner():
        shutil.chown(folder, servers.USER)
    servers.prepare(programs, folder / "primary")
    try:
        running.append(servers.start(programs, folder / "primary"))
        here = ["-h", "127.0.0.1", "-p", str(running[0].port), "-U", "postgres"]
        command = [programs / "pg_basebackup", "-D", folder / "standby", *here, "-R", "-c", "fast"]
        subprocess.run(command, check=True, cwd="/", capture_output=True, **servers.owner())
        running.append(servers.start(programs, folder / "standby"))
        yield running[0], running[1]
    finally:
        for server in reversed(running):
            servers.stop(server)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.releases
def test_OUT_16_a_read_that_a_standby_ends_is_named_and_the_advice_lets_it_last(
    standby: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that the read still sees are removed on the primary: without hot_standby_feedback the standby ends the read,
    a transient error that names both settings; with it the same read is green."""
    primary, server = standby
    primary.run("CREATE TABLE s (id int, n text)", "INSERT INTO s SELECT i, 'x' FROM generate_series(1, 500) AS i")
    server.run("ALTER SYSTEM SET max_standby_streaming_delay = 0", "SELECT pg_reload_conf()")
    _caught_up(primary, server)
    route = Route(tmp_path, Target(server, "public"))
    route.data["sink"] = {
        "type": "sqlite", "connection": "sqlite:///t.db", "table": "t", "strategy": {"mode": "full_refresh"},
    }  # fmt: skip
    split = PostgresSource._split

    def meanwhile(source: PostgresSource, *given: Any) -> Any:
        """The primary removes what the snapshot of the read still sees."""
        primary.run(
            "DELETE FROM s WHERE id <= 100", "VACUUM s", "INSERT INTO s SELECT i, 'x' FROM generate_series(1, 100) AS i"
        )
        _caught_up(primary, server)
        return split(source, *given)

    monkeypatch.setattr(PostgresSource, "_split", meanwhile)
    done = route.run()
    assert done.error is not None
    assert done.error.category == "transient"
    assert "conflict with recovery (SQLSTATE 40001); set hot_standby_feedback = on" in done.error.message
    assert "raise its max_standby_streaming_delay" in done.error.message
    server.run("ALTER SYSTEM SET hot_standby_feedback = on", "SELECT pg_reload_conf()")
    while primary.query("SELECT count(backend_xmin) FROM pg_stat_replication") == [(0,)]:
        pass
    assert route.run().error is None
    with closing(sqlite3.connect(tmp_path / "t.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM t").fetchone() == (500,)


def _caught_up(primary: Server, standby: Server) -> None:
    [(mark,)] = primary.query("SELECT pg_current_wal_flush_lsn()::text")
    while standby.query("SELECT pg_last_wal_replay_lsn() < %s::pg_lsn", mark) == [(True,)]:
        pass


def put(data: dict[str, Any], where: str, value: Any) -> None:
    *parents, last = where.split(".")
    for name in parents:
        data = data.setdefault(name, {})
    data[last] = value


def query(route: Route, text: str) -> None:
    del route.data["source"]["table"]
    route.data["source"]["query"] = text.replace("FROM s", f"FROM {route.target.schema}.s")


Way = Callable[[Route], object]


@attrs.frozen
class Refused:
    """before: statements; options: of the pipeline; after: statements after a green run without those options. ways:
    words of the message, and what they ask for."""

    kind: str
    before: tuple[str, ...]
    ways: dict[str, Way]
    options: dict[str, Any] = attrs.field(factory=dict)
    after: tuple[str, ...] | None = None


def set_to(where: str, value: Any) -> Way:
    return lambda route: put(route.data, where, value)


REFUSED = {
    "a generated column": Refused(
        "PipelineMismatch", ("CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS (id * 10) STORED)",),
        {
            "leave the column out in source.query": lambda route: query(route, "SELECT id FROM s"),
            "drop its expression": lambda route: route.target.run("ALTER TABLE t ALTER n DROP EXPRESSION"),
        },
    ),
    "truncate of a table that another refers to": Refused(
        "SinkError",
        ("CREATE TABLE t (id int PRIMARY KEY, n int)", "CREATE TABLE c (id int REFERENCES t)"),
        {f"use full_refresh: {way}": set_to("sink.options.full_refresh", way.split()[-1])
         for way in ("auto", "auto or delete")},
        {"sink.options.full_refresh": "truncate", "sink.strategy": {"mode": "full_refresh"}},
    ),
    "swap of a table with a view": Refused(
        "SinkError", (),
        {f"use full_refresh: {way}": set_to("sink.options.full_refresh", way.split()[-1])
         for way in ("auto", "auto, truncate", "auto, truncate or delete")},
        {"sink.options.full_refresh": "swap", "sink.strategy": {"mode": "full_refresh"}},
        ("CREATE VIEW v AS SELECT id FROM t",),
    ),
    "options of streams": Refused(
        "ConfigError", (),
        {"remove these options": lambda route: route.data["source"].pop("options")},
        {"source.options.slot": "a", "source.options.publication": "b"},
    ),
    "a statement that takes too long": Refused(
        "SourceError", (), {"raise options.statement_timeout": set_to("source.options.statement_timeout", 60)},
        {"source.options.statement_timeout": 0.2, "source.table": None,
         "source.query": "SELECT id, n, pg_sleep(1)::text AS z FROM s"},
    ),
    "a cursor without an order": Refused(
        "PipelineMismatch", ("ALTER TABLE s ADD j json",),
        {"name another column in incremental.column": set_to("source.options.incremental.column", "id")},
        {"source.options.incremental": {"by": "cursor", "column": "j"}},
    ),
    "another way to read": Refused(
        "IdentityChanged", (),
        {
            "connect to the source of the position": set_to(
                "source.options.incremental", {"by": "cursor", "column": "id"}
            ),
            "again with --full-refresh": lambda route: {"full_refresh": True},
        },
        {"source.options.incremental": {"by": "xmin"}}, (),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "way"), [(name, way) for name, case in REFUSED.items() for way in case.ways])
def test_OUT_16_what_a_message_says_ends_in_a_green_run(route: Route, name: str, way: str) -> None:
    """Each way out by itself, and green again."""
    case = REFUSED[name]
    route.target.run(*case.before)
    if name == "another way to read":
        put(route.data, "source.options.incremental", {"by": "cursor", "column": "id"})
    if case.after is not None:
        assert route.run().error is None
        route.target.run(*case.after)
    for where, value in case.options.items():
        put(route.data, where, value)
    if route.data["source"].get("query"):
        query(route, route.data["source"]["query"])
    assert way in route.stopped(case.kind)
    options = case.ways[way](route)
    done = route.run(**(options if isinstance(options, dict) and "full_refresh" in options else {}))
    assert done.error is None, done.error
    assert route.rows() == [(1, 10)]
    assert route.run().error is None


def test_OUT_16_a_lock_of_another_session_is_waited_for(route: Route) -> None:
    """Transient, with the view that shows who holds it; once the other has ended the run is green."""
    assert route.run().error is None
    put(route.data, "sink.options.lock_timeout", 0.2)
    route.target.run("INSERT INTO s VALUES (2, 20)")
    with route.target.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE t")
        message = route.stopped("SinkError")
        assert "(see pg_locks), or raise options.lock_timeout" in message
        other.execute("ROLLBACK")
    assert route.run().error is None
    assert route.rows() == [(1, 10), (2, 20)]


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("set options.special_values: text", "infinity"), ("cast the column in a query", "infinity"),
        ("correct the value", "2026-01-31"),
    ],
)  # fmt: skip
def test_OUT_16_a_value_that_arrow_does_not_have(route: Route, way: str, wanted: str) -> None:
    """Infinity on its way to another system."""
    route.target.run(
        "DROP TABLE s", "CREATE TABLE s (id int PRIMARY KEY, n date)", "INSERT INTO s VALUES (1, 'infinity')"
    )
    sink = {"type": "sqlite", "connection": "sqlite:///t.db", "table": "t", "strategy": {"mode": "append"}}
    route.data["sink"] = sink
    assert way in route.stopped("DataError")
    if way.startswith("set"):
        put(route.data, "source.options.special_values", "text")
    elif way.startswith("cast"):
        query(route, "SELECT id, n::text FROM s")
    else:
        route.target.run("UPDATE s SET n = '2026-01-31'")
    assert route.run().error is None
    with closing(sqlite3.connect(route.folder / "t.db")) as db:
        assert db.execute("SELECT n FROM t").fetchall() == [(wanted,)]


@pytest.mark.parametrize(
    ("broken", "said"),
    [({"outside": {"t": {}}}, "outside: "), ({"version": 99}, "version 99")],
)
def test_OUT_16_an_offset_that_cannot_be_read_is_copied_from_the_history(
    shop: Shop,  # noqa: F811
    broken: dict[str, Any],
    said: str,
) -> None:
    """What the message says is taken, and the stream goes on from there."""
    name = dpone.run(shop.path).streams[0].stream
    position = shop.position()
    bad = json.dumps({**position, "value": {**position["value"], **broken}})
    code, told = shop.dpone("state", "set", str(shop.path), "--stream", name, "--position", bad, "--yes")
    assert code == 1
    assert said in told
    assert "copy a position from 'dpone state history'" in told
    code, told = shop.dpone("state", "history", str(shop.path), "--format", "json")
    [newest, *_] = json.loads(told)
    copied = json.dumps(newest["state"]["position"])
    code, told = shop.dpone("state", "set", str(shop.path), "--stream", name, "--position", copied, "--yes")
    assert code == 0, told
    shop.sql("INSERT INTO t (id, v) VALUES (77, 'later')")
    shop.loaded()
    shop.equal()


@pytest.mark.parametrize(
    "way", ["load again with 'dpone run --full-refresh'", "restore a position from 'dpone state history'"]
)
def test_OUT_16_a_position_inside_of_a_commit(shop: Shop, way: str) -> None:  # noqa: F811
    """Refused where it is given, and where state and journal have it; on either way out nothing is lost."""
    name, position = dpone.run(shop.path).streams[0].stream, shop.position()
    shop.sql("INSERT INTO t (id, v) VALUES (77, 'later')")
    [(end,)] = shop.source.query("SELECT pg_current_wal_insert_lsn()::text")
    bad = {**position, "value": {**position["value"], "lsn": lsn_text(lsn_number(end) - 4)}}
    set_ = ("state", "set", str(shop.path), "--stream", name, "--yes", "--position")
    code, told = shop.dpone(*set_, json.dumps(bad))
    assert code == 3
    assert way in told
    rewind(load_pipeline(shop.path), name, Position.from_json(bad))  # without a word of the source
    assert way in shop.stopped("is inside a commit")
    if way.startswith("load"):
        assert dpone.run(shop.path, full_refresh=True).exit_code == 0
    else:
        _, told = shop.dpone("state", "history", str(shop.path), "--format", "json")
        shown = [one["state"]["position"] for one in json.loads(told)]
        copied = next(one for one in shown if one["value"] != bad["value"])
        code, told = shop.dpone(*set_, json.dumps(copied))
        assert code == 0, told
    for more in ("DELETE FROM t WHERE id = 77", "UPDATE t SET v = 'last'"):
        shop.loaded()
        shop.equal()
        shop.sql(more)


@pytest.fixture
def far(source: ChangeSource) -> Iterator[str]:
    """The statement for a partition of ``r`` whose rows are on another server."""
    near = f"{source.schema}_near"
    try:
        source.run("CREATE EXTENSION IF NOT EXISTS postgres_fdw SCHEMA public")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("the server lacks the contributed extensions")
    given = psycopg.conninfo.conninfo_to_dict(source.server.url)
    place = ", ".join(f"{name} '{given[name]}'" for name in ("host", "port", "dbname"))
    source.run(
        f"CREATE SCHEMA {near}", f"CREATE TABLE {near}.r AS SELECT 25 AS id, 'far' AS v",
        f"CREATE SERVER {near} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({place})",
        f"CREATE USER MAPPING FOR current_user SERVER {near} OPTIONS (user '{given['user']}')",
    )  # fmt: skip
    yield (
        'CREATE FOREIGN TABLE "r 3" PARTITION OF r FOR VALUES FROM (20) TO (30) '
        f"SERVER {near} OPTIONS (schema_name '{near}', table_name 'r')"
    )
    source.run(f"DROP SCHEMA {near} CASCADE", f"DROP SERVER {near} CASCADE")


@pytest.mark.parametrize("way", ["run ALTER TABLE", "or leave it out with source.exclude"])
@pytest.mark.parametrize("begun", [False, True])
def test_OUT_16_a_foreign_partition_is_detached(
    source: ChangeSource, tmp_path: Path, far: str, begun: bool, way: str
) -> None:
    """Its changes are in no log of this server: the statement of the message, and, of a stream that has begun, its
    command. Or the stream goes on without the table."""
    source.run(
        *(statement.replace(" PRIMARY KEY", "") for statement in ROOT),  # a unique index lets no foreign one in
        *(f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in ("r", "r_1", "r_2")),
        "CREATE TABLE u (id int PRIMARY KEY, v text)", "INSERT INTO u VALUES (1, 'one')",
    )  # fmt: skip
    source.publish("r", "u", options="WITH (publish_via_partition_root = true)")
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    data = yaml.safe_load(shop.path.read_text())
    put(data, "sink.strategy.key", ["id"])
    shop.path.write_text(yaml.safe_dump(data))
    if begun:
        shop.loaded()
    source.run(far)
    assert source.query("SELECT count(*) FROM r") == [(3,)]
    shop.run()  # the first one makes the tables of the state
    message = shop.stopped(f"{source.schema}.r 3 is foreign", way)
    if way.startswith("run"):
        statement = re.search(r"run (ALTER TABLE [^;]* DETACH PARTITION [^;]*);", message)
        assert statement is not None, message
        source.run(statement[1])
        if begun:
            shop.follow(message)
    else:
        edited(shop, exclude=yaml.safe_load(message.partition("source.exclude: ")[2]))
    for id_ in (12, 13):
        shop.loaded()
        shop.equal("u", *(["r"] if way.startswith("run") else []))
        source.run(f"INSERT INTO r VALUES ({id_}, 'new')", f"INSERT INTO u VALUES ({id_}, 'new')")


def edited(shop: Shop, **source: Any) -> dict[str, Any]:  # noqa: F811
    """The pipeline file with other words under source; the whole of it as it was."""
    data = yaml.safe_load(shop.path.read_text())
    changed = {**data, "source": {**data["source"], **source}}
    shop.path.write_text(yaml.safe_dump(changed))
    return dict(data)


def test_OUT_16_what_a_stream_needs_is_advised_to_a_green_run(shop: Shop) -> None:  # noqa: F811
    """No slot in the file, no such table, no publication: the words of each message, then the run."""
    path, schema = str(shop.path), shop.source.schema
    options = yaml.safe_load(shop.path.read_text())["source"]["options"]
    whole = edited(shop, options={"incremental": {"by": "cdc"}})
    code, said = shop.dpone("run", path)
    assert code in (2, 3)
    assert "set source.options.slot and source.options.publication" in said
    shop.path.write_text(yaml.safe_dump(whole))
    shop.loaded()
    shop.sql(f"DROP PUBLICATION {schema}")
    shop.source.drop_slot()
    edited(shop, table=f"{schema}.nothing", options=options)
    code, said = shop.dpone("cdc", "create", path)
    assert code in (2, 3)
    assert "correct source.table, or create the table" in said
    shop.path.write_text(yaml.safe_dump(whole))
    shop.source.make_slot()
    code, said = shop.dpone("check", "--connect", path)
    assert code == 1
    assert re.search("publication .* does not exist", said)
    assert "create it with 'dpone cdc create'" in said
    assert shop.dpone("cdc", "create", path)[0] == 0
    assert dpone.run(shop.path, full_refresh=True).exit_code == 0
    shop.loaded()
    shop.equal()


def test_OUT_16_a_resync_of_a_stream_that_was_never_loaded(shop: Shop) -> None:  # noqa: F811
    """'dpone run' reads every table, and then a resync is possible."""
    for name in ("warehouse.db", "state.db"):
        (shop.folder / name).unlink()
    again = ("cdc", "resync", str(shop.path), "--table", f"{shop.source.schema}.t")
    code, said = shop.dpone(*again)
    assert code == 2
    assert "use 'dpone run', which reads all rows of every table" in said
    shop.loaded()
    shop.equal()
    assert shop.dpone(*again)[0] == 0
    shop.loaded()
    shop.equal()


@pytest.mark.parametrize("way", ["apply", "ignore"])
@pytest.mark.parametrize(("mode", "altered"), [("cdc_apply", False), ("cdc_apply", True), ("scd2", False)])
def test_OUT_16_a_table_that_is_empty_in_the_source(
    source: ChangeSource, tmp_path: Path, mode: str, altered: bool, way: str
) -> None:
    """Read as a whole without a row: strategy.truncate says what becomes of the target's, also in other columns."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'one')")
    source.publish("t")
    shop = Shop(source, tmp_path, "t")  # noqa: F811
    shop.lay(mode)
    data = yaml.safe_load(shop.path.read_text())
    del data["sink"]["strategy"]["truncate"]
    shop.path.write_text(yaml.safe_dump(data))
    shop.loaded()
    source.run("DELETE FROM t", *(["ALTER TABLE t ALTER v TYPE int USING 1"] if altered else []))
    [stopped] = dpone.run(shop.path, full_refresh=True).streams
    assert stopped.error is not None
    assert stopped.error.kind == "DeletesRefused", stopped.error.message
    assert "set strategy.truncate: apply to " in stopped.error.message
    assert ", or ignore" in stopped.error.message
    assert altered == stopped.error.message.startswith("replace table"), stopped.error.message
    data["sink"]["strategy"]["truncate"] = way
    shop.path.write_text(yaml.safe_dump(data))
    [done] = dpone.run(shop.path, full_refresh=True).streams
    assert done.error is None, done.error
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db:
        [(rows,)] = db.execute("SELECT count(*) FROM l_t").fetchall()
    assert rows == (1 if way == "ignore" or mode == "scd2" else 0)
    shop.loaded()


@pytest.mark.parametrize("way", ["exclude", "run"])
def test_OUT_16_a_selected_table_without_a_key_is_let_in_or_left_out(shop: Shop, way: str) -> None:  # noqa: F811
    """To publish it would make the application's updates fail: the warning names both ways, and each ends it."""
    shop.sql(
        "CREATE TABLE n (id int, v text)", "ALTER TABLE n REPLICA IDENTITY NOTHING", "INSERT INTO n VALUES (1, 'a')"
    )
    [warning] = shop.loaded().warnings
    name = f"{shop.source.schema}.n"
    assert f"exclude it with source.exclude: [{name}], or run " in warning
    if way == "exclude":
        edited(shop, exclude=[name])
    else:
        first, then = warning.partition(", or run ")[2].split("; then ")
        assert "(its columns)" in first
        shop.sql(first.partition(", or for strategy append ")[0].replace("(its columns)", "(id)"), then)
        shop.sql("UPDATE n SET v = 'b'")
    assert not shop.loaded().warnings
    shop.equal("t", "u", *(["n"] if way == "run" else []))


def test_OUT_16_a_resync_of_a_stream_that_was_loaded_by_rows(source: ChangeSource, tmp_path: Path) -> None:
    """Its position says nothing of a slot: 'dpone run --full-refresh' begins the stream."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'one')")
    source.publish("t")
    shop = Shop(source, tmp_path, "t")  # noqa: F811
    shop.lay()
    data = yaml.safe_load(shop.path.read_text())
    rows = {**data["source"], "options": {"incremental": {"by": "cursor", "column": "id"}}}
    merge = {**data["sink"], "strategy": {"mode": "merge", "key": ["id"]}}
    shop.path.write_text(yaml.safe_dump({**data, "source": rows, "sink": merge}))
    shop.loaded()
    shop.path.write_text(yaml.safe_dump(data))
    code, said = shop.dpone("cdc", "resync", str(shop.path), "--table", f"{source.schema}.t")
    assert code == 2
    assert "use 'dpone run --full-refresh'" in said
    assert dpone.run(shop.path, full_refresh=True).exit_code == 0
    source.run("INSERT INTO t VALUES (2, 'two')")
    shop.loaded()
    shop.equal("t")


def test_OUT_16_a_role_that_may_not_alter_the_target(route: Route) -> None:
    """The grant of the check lets it."""
    schema, user = route.target.schema, f"{route.target.schema}_role"
    assert route.run().error is None
    route.target.run(
        f"CREATE ROLE {user} LOGIN PASSWORD 'pw'", f"CREATE ROLE {user}_owner",
        f"GRANT ALL ON SCHEMA {schema} TO {user}, {user}_owner",
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {user}",
        f"ALTER TABLE t OWNER TO {user}_owner",
    )  # fmt: skip
    try:
        server = attrs.evolve(route.target.server, user=user)
        with closing(Target(server, schema, "t").sink(Strategy("append"))) as sink:
            [owner] = [one for one in sink.check() if one.name == "owner"]
        assert owner.ok is None
        assert owner.todo == f'GRANT "{user}_owner" TO "{user}", if dpone should change the schema'
        route.target.run(owner.todo.partition(",")[0])
        with closing(Target(server, schema, "t").sink(Strategy("append"))) as sink:
            assert [one.ok for one in sink.check() if one.name == "owner"] == [True]
    finally:
        route.target.run(f"DROP OWNED BY {user}, {user}_owner CASCADE", f"DROP ROLE {user}, {user}_owner")


@pytest.mark.parametrize("way", ["write as a role with BYPASSRLS", "or set sink.options.row_security: on"])
def test_OUT_16_rows_of_the_target_that_a_policy_hides(route: Route, way: str) -> None:
    """A load that would meet them stops and changes nothing; either way it is green, and the hidden row stays."""
    schema, user, url = route.target.schema, f"{route.target.schema}_role", route.target.server.url
    assert route.run().error is None
    route.target.run(
        "INSERT INTO t (id, n) VALUES (100, 1)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        f"CREATE ROLE {user} LOGIN", f"GRANT ALL ON SCHEMA {schema} TO {user}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {user}",
        f"CREATE POLICY few ON t TO {user} USING (id < 100)",
        "UPDATE s SET n = 11", "INSERT INTO s VALUES (2, 20)",
    )  # fmt: skip
    try:
        put(route.data, "sink.connection", attrs.evolve(route.target.server, user=user).url)
        assert url != route.data["sink"]["connection"]
        for _ in range(2):
            message = route.stopped("SinkError")
            assert "row security would hide rows of table t " in message
            assert way in message
            assert route.rows() == [(1, 10), (100, 1)]
        if way.startswith("write"):
            route.target.run(f"ALTER ROLE {user} BYPASSRLS")
        else:
            put(route.data, "sink.options.row_security", "on")
        for n in (11, 12):
            route.target.run(f"UPDATE s SET n = {n} WHERE id = 1")
            done = route.run()
            assert done.error is None, done.error
            assert route.rows() == [(1, n), (2, 20), (100, 1)]
    finally:
        route.target.run(f"DROP OWNED BY {user} CASCADE", f"DROP ROLE {user}")


def test_OUT_16_two_tables_for_one_target_are_told_apart(route: Route) -> None:
    """A glob and a stream of its own: with the schema in the name of the target both are loaded."""
    schema = route.target.schema
    route.target.run("CREATE TABLE other (id int PRIMARY KEY, n int)", "INSERT INTO other VALUES (2, 20)")
    source, sink = route.data.pop("source"), route.data.pop("sink")
    del source["table"]
    sink = {**sink, "type": "sqlite", "connection": "sqlite:///t.db"}
    del sink["table"]
    one = {"name": "x", "source": {"table": f"{schema}.other"}, "sink": {"table": "s"}}
    route.data |= {"defaults": {"source": source, "sink": sink}, "streams": [f"{schema}.s*", one]}
    with pytest.raises(PipelineMismatch, match="use a different target for each with sink: "):
        route.run()
    sink["table"] = "{schema}_{table}"
    path = route.folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(route.data))
    assert [stream.error for stream in dpone.run(path).streams] == [None, None]
    with closing(sqlite3.connect(route.folder / "t.db")) as db:
        assert db.execute(f"SELECT id, n FROM {schema}_s").fetchall() == [(1, 10)]
        assert db.execute("SELECT id, n FROM s").fetchall() == [(2, 20)]
