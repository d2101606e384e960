"""When a change stream stops rather than reads on, and when its slot moves (failures.md 1.2)."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from attrs import evolve
from tests.patience import until
from tests.postgres import server as servers
from tests.postgres.proxy import proxy
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource, told

from dpone.errors import Category, ConfigError, Gap, IdentityChanged, SourceError
from dpone.model.position import Position
from dpone.model.secret import Secret
from dpone_postgres.connect import connect, parameters
from dpone_postgres.pgoutput import lsn_number, lsn_text
from dpone_postgres.waiting import Connection


@pytest.fixture(params=["peek", "stream"])
def transport(request: pytest.FixtureRequest) -> str:
    """Every rule holds for both."""
    return str(request.param)


def orders(source: ChangeSource) -> None:
    source.run("CREATE TABLE orders (id int PRIMARY KEY, item text)")
    source.publish("orders")


def standing(source: ChangeSource) -> Position:
    """One row read and acknowledged."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)")
    window, _ = source.read()
    source.ack(window.position)
    return window.position


@contextmanager
def cluster(postgres: Server, **settings: str) -> Iterator[Server]:
    if postgres.programs is None:
        pytest.skip("needs a server of its own, of the same programs")
    folder = Path(tempfile.mkdtemp(prefix="dpone-postgres-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    folder.chmod(0o755)
    try:
        with servers.running(postgres.programs, folder, **settings) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_PG_01_a_window_moves_nothing_and_ack_moves_just_to_it(source: ChangeSource) -> None:
    """Reading leaves the slot where it is; ack moves it to the position, not beyond, and may be said twice."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)")
    before = source.confirmed()
    window, _ = source.read()
    assert source.confirmed() == before
    source.run("INSERT INTO orders VALUES (2)")
    for _ in range(2):
        source.ack(window.position)
        assert source.confirmed() == window.position.value["lsn"]
    assert told(source.read(window.position)[1]["orders"], "id") == [("insert", None, 2)]


def test_PG_02_a_slot_made_anew_is_a_gap_on_every_run(source: ChangeSource) -> None:
    """What came between is named: from the saved position up to where the new slot begins."""
    position = standing(source)
    source.run("INSERT INTO orders VALUES (2)")
    source.drop_slot()
    with pytest.raises(Gap, match=r"slot .* was dropped"):
        source.read(position)
    source.run("INSERT INTO orders VALUES (3)")
    source.make_slot()
    for _ in range(2):
        with pytest.raises(Gap, match=f"after {position.value['lsn']} up to {source.confirmed()}.*recreated"):
            source.read(position)


def test_PG_02_a_slot_moved_by_someone_else_is_a_gap(source: ChangeSource) -> None:
    """Somebody read from the slot: the changes are gone, and that is said."""
    position = standing(source)
    source.run("INSERT INTO orders VALUES (2)")
    source.run(
        f"SELECT pg_logical_slot_get_binary_changes('{source.slot}', NULL, NULL, 'proto_version', '1', "
        f"'publication_names', '{source.schema}')"
    )
    with pytest.raises(Gap, match="another client moved it"):
        source.read(position)


def test_the_saved_position_counts_not_the_slot_s(source: ChangeSource) -> None:
    """A slot that lags, as after a crash of the server, delivers again what is left out."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)", "INSERT INTO orders VALUES (2)")
    window, _ = source.read(limit=1)
    source.run("INSERT INTO orders VALUES (3)")
    assert told(source.read(window.position)[1]["orders"], "id") == [("insert", None, 2), ("insert", None, 3)]


def test_a_limit_finds_its_way_past_what_was_delivered_before(source: ChangeSource) -> None:
    """However much the slot lags, a limited window brings what is new, and never says that there is nothing."""
    orders(source)
    for i in range(60):
        source.run(f"INSERT INTO orders VALUES ({i})")
    window, _ = source.read()
    source.run("INSERT INTO orders VALUES (100)", "INSERT INTO orders VALUES (101)")
    again, found = source.read(window.position, limit=1)
    assert told(found["orders"], "id") == [("insert", None, 100)]
    assert not again.caught_up


def test_PG_13_an_idle_stream_lets_go_of_WAL(source: ChangeSource) -> None:
    """Where only other tables are written, the position follows the end of the WAL, and the slot after it."""
    position = standing(source)
    source.run("CREATE TABLE other (v text)")
    kept = []
    for _ in range(3):
        source.run("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 2000)", "CHECKPOINT")
        source.run("SELECT pg_logical_emit_message(true, 'test', 'so that the WAL does not end with a page')")
        window, found = source.read(position)
        assert found == {}
        assert lsn_number(window.position.value["lsn"]) > lsn_number(position.value["lsn"])
        source.ack(window.position)
        position = window.position
        with source.reader() as reader:
            kept.append(reader.lag()["kept"])
    assert max(kept) < 2_000_000


def test_a_position_in_the_midst_of_a_commit_is_refused(source: ChangeSource) -> None:
    """Set by hand, it can neither take the transaction nor leave it out."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)")
    window, _ = source.read()
    inside = lsn_text(lsn_number(window.position.value["lsn"]) - 4)
    value = {**window.position.value, "lsn": inside}
    with pytest.raises(IdentityChanged, match="is inside a commit"):
        source.read(evolve(window.position, value=value))


def test_PG_14_a_lost_slot_is_a_gap(postgres: Server) -> None:
    """Its WAL was removed: named, not tried again, and the position still says so on the next run."""
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "wal_keep_size": "0"}
    with cluster(postgres, **settings) as server:
        server.run("CREATE SCHEMA shop")
        source = ChangeSource(server, "shop")
        position = standing(source)
        source.run("CREATE TABLE other (v text)")
        for _ in range(4):
            source.run("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            source.run("SELECT pg_switch_wal()", "CHECKPOINT")
        for _ in range(2):
            with pytest.raises(Gap, match="is lost"):
                source.read(position)
        with source.reader() as reader:
            assert any(f.name == "slot" and f.ok is False and "lost" in f.found for f in reader.check())


def test_PG_14_a_slot_in_use_may_be_tried_again(source: ChangeSource) -> None:
    """The one stop that passes: another reader is named, and the failure is transient."""
    position = standing(source)
    other, active = source.server.connect(replication="database"), f"slot_name = '{source.slot}' AND active"
    try:
        other.pgconn.send_query(
            f"START_REPLICATION SLOT {source.slot} LOGICAL 0/0 (proto_version '1', "
            f"publication_names '{source.schema}')".encode()
        )
        while not source.query(f"SELECT 1 FROM pg_replication_slots WHERE {active}"):
            pass
        with pytest.raises(SourceError, match="in use by process") as stopped:
            source.read(position)
        assert stopped.value.category is Category.TRANSIENT
    finally:
        other.pgconn.finish()
    while source.query(f"SELECT 1 FROM pg_replication_slots WHERE {active}"):
        pass
    assert source.read(position)[0].caught_up


def test_PG_14_another_plugin_and_another_database_are_stops(source: ChangeSource) -> None:
    """A slot of the same name that is not ours is never read."""
    position = standing(source)
    source.drop_slot()
    source.make_slot("test_decoding")
    with pytest.raises(IdentityChanged, match="plugin test_decoding"):
        source.read(position)
    other = f"{source.schema}_other"
    source.run(f"CREATE DATABASE {other}")
    try:
        url = evolve(source.server, database=other).url
        with source.reader(url=url) as reader, pytest.raises(IdentityChanged, match=f"database was .*, is {other}"):
            reader.window(position, None)
        source.drop_slot()
        source.make_slot()
        with source.reader(url=url) as reader, pytest.raises(IdentityChanged, match="belongs to database"):
            reader.window(None, None)
    finally:
        source.run(f"DROP DATABASE {other} WITH (FORCE)")


def test_PG_16_a_transaction_that_stands_in_the_way_is_named(source: ChangeSource) -> None:
    """A slot, and the snapshot of one, wait for whoever writes; the process is named with the timeout."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY)")
    with source.server.connect(options=f"-csearch_path={source.schema}") as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO orders VALUES (1)")
        with source.reader(lock_timeout=0.3) as reader:
            found = f"process {other.info.backend_pid} has had a writing transaction open"
            with pytest.raises(SourceError, match=found):
                reader.create()
        other.execute("COMMIT")
        with source.reader() as reader:
            reader.create()
        other.execute("BEGIN")
        other.execute("INSERT INTO orders VALUES (2)")
        with source.reader(lock_timeout=0.3, initial="snapshot") as reader, pytest.raises(SourceError, match=found):
            reader.window(None, None)


def test_PG_17_another_cluster_is_another_stream(source: ChangeSource, postgres: Server) -> None:
    """The same names on another server, and a timeline that is not the position's, are stops."""
    position = standing(source)
    with cluster(postgres) as server:
        server.run(f"CREATE SCHEMA {source.schema}")
        other = ChangeSource(server, source.schema)
        orders(other)
        with pytest.raises(IdentityChanged, match="system_identifier was"):
            other.read(position)
    elsewhere = evolve(position, identity={**position.identity, "timeline": 7})
    with pytest.raises(IdentityChanged, match="timeline was 7, is 1"):
        source.read(elsewhere)


def test_PG_17_a_server_that_was_set_back_is_a_stop(source: ChangeSource) -> None:
    """Its WAL ends before the position."""
    position = standing(source)
    ahead = evolve(position, value={**position.value, "lsn": "FF/0"})
    with pytest.raises(IdentityChanged, match="it was restored"):
        source.read(ahead)


def test_PG_07_PG_08_snapshot_and_stream_meet_without_a_gap(source: ChangeSource) -> None:
    """Rows committed before, while and after the snapshot is taken: each is in it or in the stream, none in both."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (0)")
    source.publish("orders")
    source.run("INSERT INTO orders VALUES (1), (2)", "DELETE FROM orders WHERE id = 2")
    stop, written = threading.Event(), [100]

    def write() -> None:
        with source.server.connect(options=f"-csearch_path={source.schema}") as db:
            while not stop.is_set():
                db.execute(f"INSERT INTO orders VALUES ({written[-1]})".encode())
                written.append(written[-1] + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        window, found = source.read(initial="snapshot")
    finally:
        stop.set()
        writer.join()
    begun = [row["id"] for row in found["orders"]]
    _, more = source.read(window.position)
    streamed = [row["id"] for row in more.get("orders", [])]
    assert window.whole
    assert sorted(begun + streamed) == sorted([0, 1, *written[:-1]])
    assert begun[:2] == [0, 1]


def test_PG_07_tables_without_rows_are_in_the_snapshot(source: ChangeSource) -> None:
    """So that what a target holds beside is known to be gone."""
    orders(source)
    window, found = source.read(initial="snapshot")
    assert found == {"orders": []}
    assert [*window.tables] == [f"{source.schema}.orders"]


def test_the_snapshot_leaves_nothing_on_the_server(source: ChangeSource) -> None:
    """No slot and no lock of it stays, and the stream's own slot is where it was."""
    orders(source)
    before = source.confirmed()
    source.read(initial="snapshot")
    assert source.confirmed() == before
    left = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'dpone_snapshot%'"
    until(lambda: not source.query(left), "the slot does not end with its connection")


def test_create_makes_publication_and_slot_once(source: ChangeSource) -> None:
    """What is there stays; the position is where the slot begins, and the stream goes on from it."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY)", "CREATE TABLE bills (id int PRIMARY KEY)")
    with source.reader() as reader:
        first = reader.create()
        assert reader.create() == first
        source.run("INSERT INTO orders VALUES (1)", "INSERT INTO bills VALUES (1)")
    _, found = source.read(first)
    assert sorted(found) == ["bills", "orders"]
    with source.reader() as reader:
        reader.drop()
        reader.drop()
    assert source.query(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{source.slot}'") == []


def test_a_slot_or_publication_that_is_not_there_is_said(source: ChangeSource) -> None:
    """Before anything was read, it is a matter of setting up, not a gap."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY)")
    with pytest.raises(ConfigError, match=r"slot .* does not exist.*dpone cdc create"):
        source.read()
    source.make_slot()
    with pytest.raises(ConfigError, match=r"publication .* does not exist"):
        source.read()


def test_the_setup_plan_may_be_run_twice_and_serves(source: ChangeSource) -> None:
    """Statement by statement, twice; then the stream reads."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY)")
    with source.reader("orders") as reader:
        for _ in range(2):
            source.run(*(text for text in reader.setup_plan() if not text.startswith("--")))
    source.run("INSERT INTO orders VALUES (1)")
    assert told(source.read()[1]["orders"], "id") == [("insert", None, 1)]


def test_the_setup_plan_refuses_what_would_break_the_source(source: ChangeSource) -> None:
    """A table without a key, whose updates would fail, is left alone; FOR ALL TABLES is not planned."""
    source.run("CREATE TABLE keyless (v int)")
    with source.reader("keyless") as reader:
        statements = reader.setup_plan()
    with pytest.raises(psycopg.errors.RaiseException, match="no replica identity"):
        source.run(*statements)
    assert source.query(f"SELECT 1 FROM pg_publication WHERE pubname = '{source.schema}'") == []
    with source.reader("*") as reader, pytest.raises(ConfigError, match="FOR ALL TABLES"):
        reader.setup_plan()


@pytest.mark.usefixtures("answering")
def test_PG_23_a_server_that_says_nothing_is_given_up(source: ChangeSource) -> None:
    """A read whose answer got lost ends as a failure that may be tried again: the server says that it is done."""
    from dpone_postgres.transfer import copy_out

    with proxy((source.server.host, source.server.port), 1, "silence", word=b"COPY") as way:
        db = patient(source, way.port)
        with closing(db), pytest.raises(psycopg.OperationalError, match="that it is not processing the request"):
            list(copy_out(db, "SELECT 1"))
        assert db.closed


@pytest.mark.usefixtures("answering")
def test_PG_23_a_stream_that_says_nothing_is_given_up(source: ChangeSource) -> None:
    """The connection is there and silent: a failure that may be tried again, by the replication protocol too."""
    from dpone_postgres.replication import streamed

    orders(source)
    command = (
        f"START_REPLICATION SLOT {source.slot} LOGICAL 0/0 (proto_version '1', publication_names '{source.schema}')"
    )
    with (
        proxy((source.server.host, source.server.port), 1, "silence", word=b"START_REPLICATION") as way,
        closing(patient(source, way.port, replication="database")) as db,
        pytest.raises(psycopg.OperationalError, match="that it is not processing the request"),
    ):
        list(streamed(db, command, 1 << 60))


def patient(source: ChangeSource, port: int | None = None, **more: str) -> Connection:
    given = parameters(Secret(source.server.at(port or source.server.port))) | more
    return connect(given, SourceError, silence_timeout=1)


def test_a_window_that_ends_before_a_long_transaction_lets_go_of_the_slot(source: ChangeSource) -> None:
    """The server is busy with what comes behind the window; the slot can be moved at once all the same."""
    orders(source)
    source.run("CREATE TABLE other (i int)", "INSERT INTO orders VALUES (0)")
    source.run("INSERT INTO orders SELECT i FROM generate_series(1, 25000) AS i")
    source.run("INSERT INTO other SELECT generate_series(1, 300000)")
    with source.reader() as reader:
        window = reader.window(None, 1)
        reader.ack(window.position)
    assert window.changes == 1
    assert source.confirmed() == window.position.value["lsn"]


def test_a_connection_of_ours_that_keeps_the_slot_is_ended(source: ChangeSource) -> None:
    """A server that does not notice that a reader is gone is told; another's connection is left alone."""
    from dpone_postgres.slot import release

    orders(source)
    active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{source.slot}' AND active"
    command = (
        f"START_REPLICATION SLOT {source.slot} LOGICAL 0/0 (proto_version '1', publication_names '{source.schema}')"
    )
    with source.server.connect() as db, closing(source.server.connect(replication="database")) as other:
        other.pgconn.send_query(command.encode())
        while not source.query(active):
            pass
        release(db, source.slot, other.info.backend_pid + 1, "test")
        assert source.query(active)
        release(db, source.slot, other.info.backend_pid, "test")
        assert not source.query(active)


def test_what_the_server_refuses_is_raised_as_it_says(source: ChangeSource) -> None:
    """Before the first message, by either way, with the server's own code."""
    from dpone_postgres.replication import streamed
    from dpone_postgres.transfer import copy_out

    command = "START_REPLICATION SLOT nowhere LOGICAL 0/0 (proto_version '1', publication_names 'p')"
    with closing(patient(source, replication="database")) as db, pytest.raises(psycopg.errors.UndefinedObject):
        list(streamed(db, command, 1))
    with closing(patient(source)) as db, pytest.raises(psycopg.errors.UndefinedTable):
        list(copy_out(db, "SELECT * FROM nowhere"))
