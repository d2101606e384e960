"""What MariaDB does otherwise than the systems that dpone brings."""

from __future__ import annotations

import gc
import threading
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from dpone.certify.matrix import ARROW_TYPES
from dpone.contract import WindowRequest
from dpone.errors import Category, ConfigError, DataError, SinkError
from dpone.model.pipeline import Incremental, Lineage
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing.loads import load
from dpone.testing.rows import sample
from dpone.testing.source import everything, read
from dpone_mariadb.connector import Mariadb, MariadbDatabase
from dpone_mariadb.dialect import MariadbDialect

FULL, MERGE = Strategy("full_refresh"), Strategy("merge", key="id")
DDL = ("CREATE", "DROP", "ALTER", "RENAME", "TRUNCATE")


STRATEGIES = {
    "full_refresh": FULL, "append": Strategy("append"), "merge": MERGE,
    "replace": Strategy("replace", where={"day": "d1"}),
    "partition_replace": Strategy("partition_replace", partition="day"),
    "snapshot_diff": Strategy("snapshot_diff", key="id", max_delete_share=1.0),
    "scd2": Strategy("scd2", key="id", deletes="close", max_delete_share=1.0),
}  # fmt: skip


@pytest.mark.parametrize("mode", STRATEGIES)
def test_no_ddl_stands_between_the_first_row_and_the_commit(harness, mode):
    """By the server's own log: in a transaction that writes the journal there is no statement that would commit it."""
    rows = sample(1, 3).set_column(1, "day", pa.array(["d1"] * 3))
    harness.run("SET GLOBAL log_output = 'TABLE'")
    harness.run("TRUNCATE mysql.general_log")
    harness.run("SET GLOBAL general_log = ON")
    try:
        for n in (3, 2):
            load(harness, rows.slice(0, n), STRATEGIES[mode])
    finally:
        harness.run("SET GLOBAL general_log = OFF")
    log = harness.run("SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE command_type = 'Query' "
                      "ORDER BY event_time, thread_id")  # fmt: skip
    inside: list[str] = []
    commits = 0
    for (statement,) in log:
        inside = [] if statement == "START TRANSACTION" else [*inside, statement]
        if statement == "COMMIT" and any("INSERT INTO `__dpone__loads`" in one for one in inside):
            commits += 1
            assert not [one for one in inside if one.lstrip().upper().startswith(DDL)]
            inside = []
    assert commits == 2


def test_every_type_comes_back_as_the_matrix_says(harness):
    """One table with a column of every Arrow type that MariaDB keeps, loaded twice and read again."""
    kept = {f"c{i}": type_ for i, type_ in enumerate(ARROW_TYPES) if is_kept(type_)}
    rows = pa.table({name: pa.array([None], type_) for name, type_ in kept.items()})
    for _ in range(2):
        load(harness, rows, FULL)
    found = everything(harness, harness.source())
    assert len(kept) > 25
    assert found.schema.types == [MariadbDialect().stores(type_).arrow for type_ in kept.values()]
    assert found.to_pylist() == rows.to_pylist()


def is_kept(type_):
    try:
        return bool(MariadbDialect().stores(type_))
    except ConfigError:
        return False


def test_values_of_each_type_arrive_and_come_back(harness):
    """Instants beyond 2038, 38 digits, microseconds, bytes with zeros, and texts that differ by case or a blank."""
    at = datetime(2199, 12, 31, 23, 59, 59, 999999)
    rows = pa.table({
        "t": pa.array([at.replace(tzinfo=UTC)], pa.timestamp("us", "UTC")), "l": pa.array([at], pa.timestamp("us")),
        "d": pa.array([Decimal("9" * 28 + "." + "1" * 10)], pa.decimal128(38, 10)), "b": [b"\x00'\\%s\xff"],
        "s": ["a\\'%s \U0001f986 "], "u": pa.array([b"\x01" * 16], pa.uuid()), "x": pa.array([0.1]), "y": [True],
        "c": pa.array([1], pa.time64("us")),
    })  # fmt: skip
    load(harness, rows, FULL)
    assert everything(harness, harness.source()).to_pylist() == rows.to_pylist()
    keys = pa.table({"id": ["a", "A", "a ", "ä"], "n": [1, 2, 3, 4]})
    for _ in range(2):
        load(harness, keys, MERGE, "keys")
    assert sorted(harness.rows("keys").select(["id", "n"]).to_pylist(), key=str) == sorted(keys.to_pylist(), key=str)


def test_a_key_that_no_index_takes_is_refused(harness):
    """A text of a key has at most 768 characters; a longer one stops the load, and is not shown."""
    load(harness, pa.table({"id": ["a"], "n": [1]}), MERGE)
    with pytest.raises(DataError) as caught:
        load(harness, pa.table({"id": ["secret" * 200], "n": [1]}), MERGE)
    assert "secret" not in str(caught.value)
    assert harness.rows()["id"].to_pylist() == ["a"]


@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_bin", "utf8mb4_general_nopad_ci"])
def test_a_target_that_compares_loosely_is_refused(harness, collation):
    """A collation would hide a change of case, or of blanks at the end, from a merge."""
    harness.run(f"CREATE TABLE orders (id bigint, day longtext, name varchar(20) COLLATE {collation}, score double)")
    with pytest.raises(SinkError, match="collation"):
        load(harness, sample(1, 3), MERGE, lineage=Lineage(False))


@pytest.mark.parametrize(
    ("type_", "value"), [("char(20) COLLATE utf8mb4_nopad_bin", "a "), ("binary(4)", b"a")], ids=["char", "binary"]
)
def test_a_key_that_comes_back_changed_is_refused(harness, type_, value):
    """Such a row would be inserted by every merge; a column that nothing goes by may be of this type."""
    for name in ("orders", "others"):
        harness.run(f"CREATE TABLE {name} (id {type_}, n bigint)")
    rows = pa.table({"id": [value], "n": [1]})
    for strategy in (MERGE, Strategy("partition_replace", partition="id")):
        with pytest.raises(SinkError, match="column id, by which it goes, gives back other values"):
            load(harness, rows, strategy, lineage=Lineage(False))
    load(harness, rows, Strategy("merge", key="n"), "others", lineage=Lineage(False))
    assert harness.rows("others").num_rows == 1


def place(url):
    return Mariadb(Secret(url) if url else None, Path())


def test_writers_of_one_stream_take_turns(harness, monkeypatch):
    """A second transaction of one lock begins when the first has ended; one of another lock begins at once."""
    where = place(harness.url)
    one, two, other, order = *(MariadbDatabase(where) for _ in range(3)), []
    one.begin("a")
    other.begin("b")
    other.rollback()

    def second() -> None:
        two.begin("a")
        order.append("second began")
        two.commit()

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.3)
    order.append("first ends")
    one.rollback()
    thread.join(60)
    assert order == ["first ends", "second began"]
    for db in (one, two, other):
        db.close()


def test_a_connection_that_dies_lets_go_of_everything(harness):
    """The server rolls back what was open and frees the lock: the next run can begin."""
    where = place(harness.url)
    harness.run("CREATE TABLE t (id int)")
    dying, next_ = MariadbDatabase(where), MariadbDatabase(where)
    dying.begin("a")
    dying.execute("INSERT INTO t VALUES (1)")
    harness.run(f"KILL {dying.connection().thread_id()}")
    with pytest.raises(SinkError) as caught:
        dying.commit()
    assert caught.value.category is Category.TRANSIENT
    dying.rollback()
    next_.begin("a")
    assert next_.rows("SELECT count(*) FROM t") == [(0,)]
    next_.rollback()
    for db in (dying, next_):
        db.close()


@pytest.mark.parametrize(
    "text", ["", "sqlite:///a.db", "mariadb://h", "mariadb:///db", "mariadb://h/db?ssl=1", "mariadb://h:x/db"]
)
def test_a_connection_names_a_database(text):
    """Anything else is refused before anything is opened."""
    with pytest.raises(ConfigError):
        place(text)


def test_tls_is_verified_unless_the_address_says_otherwise():
    """Certificate and name; only ``tls=off`` leaves it out."""
    assert place("mariadb://u:p%40@h/db").tls() == {
        "ssl_verify_cert": True, "ssl_verify_identity": True, "ssl_ca": None
    }  # fmt: skip
    assert place("mariadb://h/db?tls=off").tls() == {"ssl_disabled": True}


def test_a_server_without_tls_is_refused(harness):
    """It is not spoken to in the clear: nothing falls back, and the password is in no message."""
    password = harness.url.split(":")[2].partition("@")[0]
    address = harness.url.replace(password, "hunter2").partition("?")[0]
    with pytest.raises(SinkError) as caught:
        MariadbDatabase(place(address)).rows("SELECT 1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 65, "blank ", "duck \U0001f986"])
def test_a_name_that_mariadb_lacks_is_refused(name):
    """Before anything is sent: the server would cut it, or take another for it."""
    with pytest.raises(ConfigError):
        MariadbDialect().quote(name)


def test_a_percent_sign_is_no_placeholder():
    """The driver takes % for one, in names and in texts."""
    assert MariadbDialect().quote("a%s`") == "`a%%s```"
    assert MariadbDialect().literal("50%'") == "'50%%'''"


# ---- by cursor

BY_AT, BY_NAME = Incremental("cursor", "at"), Incremental("cursor", "name")
CURSORS = {
    "bigint": ("9007199254740992", "9007199254740993"),  # one double
    "bigint unsigned": ("18446744073709551614", "18446744073709551615"),
    "decimal(38,1)": ("9007199254740992.0", "9007199254740992.1"),
    "float": ("16777214", "16777215"),  # six digits of both are one
    "double": ("0.1", "0.10000000000000002"),
    "date": ("'2026-01-31'", "'2026-02-01'"),
    "datetime(6)": ("'2026-01-31 10:00:00.000001'", "'2026-01-31 10:00:00.000002'"),
    "timestamp(6)": ("'2026-01-31 10:00:00.000001'", "'2026-01-31 10:00:00.000002'"),
    "varchar(20) COLLATE utf8mb4_general_ci": ("'2026-01-A'", "'2026-01-b'"),
    "uuid": ("'01890a5d-ac96-774b-bcce-b302099a8057'", "'01890a5d-ac97-774b-bcce-b302099a8057'"),
}


def windows(harness, incremental, mode, *statements):
    """The rows of a read before the statements and after each of them, as (id, at)."""
    position, found = None, []
    for statement in ("DO 0", *statements):
        harness.run(statement)
        with closing(harness.make("source", harness.source(incremental=incremental))) as source:
            window = source.window(position, WindowRequest(mode=mode))
            found.append(sorted(read(source, window)["id"].to_pylist()))
            position = Position.from_json(window.position.to_json())
    return found


@pytest.mark.parametrize("kind", CURSORS)
def test_a_cursor_is_exact_to_the_last_digit(harness, kind):
    """Values that are next to each other are two: what was read does not come again, and what is new comes once."""
    low, high = CURSORS[kind]
    harness.run(f"CREATE TABLE orders (id int, at {kind})")
    harness.run(f"INSERT INTO orders VALUES (1, {low}), (2, {low})")
    more = [f"INSERT INTO orders VALUES (3, {high})", "DO 0", f"INSERT INTO orders VALUES (4, {high})", "DO 0"]
    assert windows(harness, BY_AT, "append", *more) == [[1, 2], [3], [], [4], []]


LOOKBACKS = {"bigint": ("3", 2), "bigint unsigned": ("1", 5), "decimal(9,2)": ("3", 2.5), "double": ("3", 2.5),
             "date": ("'2026-01-03'", 2 * 86_400), "datetime(6)": ("'2026-01-03'", 2 * 86_400)}  # fmt: skip


@pytest.mark.parametrize("kind", LOOKBACKS)
def test_lookback_reads_late_rows_too(harness, kind):
    """A row that comes below the position is read as long as it is within the lookback, whatever kind the cursor is."""
    high, lookback = LOOKBACKS[kind]
    late = "'2026-01-01'" if high.startswith("'") else "1"
    harness.run(f"CREATE TABLE orders (id int, at {kind})")
    harness.run(f"INSERT INTO orders VALUES (1, {high})")
    merge = Incremental("cursor", "at", lookback=lookback)
    assert windows(harness, merge, "merge", f"INSERT INTO orders VALUES (2, {late})", "DO 0") == [[1], [1, 2], []]


def test_a_cursor_of_texts_of_digits_is_refused(harness):
    """Its order is not that of numbers: '11' is below '9', and would never be read."""
    harness.run("CREATE TABLE orders (id int, name varchar(9))")
    harness.run("INSERT INTO orders VALUES (1, '9'), (2, '11')")
    with pytest.raises(DataError, match="'11' sorts before '9'"):
        windows(harness, BY_NAME, "append")


@pytest.mark.parametrize("kind", ["longblob", "bit(1)"])
def test_a_cursor_without_an_exact_text_is_refused(harness, kind):
    """One line that says what to choose."""
    harness.run(f"CREATE TABLE orders (id int, at {kind})")
    harness.run("INSERT INTO orders VALUES (1, 1)")
    with pytest.raises(ConfigError, match="numbers, times or texts"):
        windows(harness, BY_AT, "append")


def test_a_query_is_read_by_cursor(harness):
    """Its percent signs are its own."""
    harness.run("CREATE TABLE orders (id int, name varchar(9))")
    harness.run("INSERT INTO orders VALUES (1, 'a%s'), (2, 'b')")
    spec = harness.source(
        query="SELECT id, name FROM orders WHERE name LIKE '%s'", incremental=Incremental("cursor", "id")
    )
    with closing(harness.make("source", spec)) as source:
        assert read(source, source.window(None, WindowRequest())).to_pylist() == [{"id": 1, "name": "a%s"}]


def test_a_float_is_read_as_it_is(harness):
    """The server shows six digits of it."""
    harness.run("CREATE TABLE orders (f float)")
    harness.run("INSERT INTO orders VALUES (16777215), (0.1), (NULL)")
    assert everything(harness, harness.source())["f"].to_pylist() == [16777215.0, 0.10000000149011612, None]


def test_an_unsigned_number_is_read_as_what_it_is(harness):
    """Of each width, and with digits of its own."""
    kinds = {
        "tinyint unsigned": pa.uint8(), "bigint(20) unsigned zerofill": pa.uint64(), "float unsigned": pa.float32(),
        "double unsigned": pa.float64(), "decimal(9,2) unsigned": pa.decimal128(9, 2), "mediumint": pa.int32(),
    }  # fmt: skip
    columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(kinds))
    harness.run(f"CREATE TABLE orders ({columns})")
    harness.run(f"INSERT INTO orders VALUES ({', '.join('7' * len(kinds))})")
    assert everything(harness, harness.source()).schema.types == [*kinds.values()]
    target = MariadbDatabase(place(harness.url))
    with closing(target):
        assert target.schema(Name(("orders",))).types == [*kinds.values()]


def test_a_read_that_is_given_up_leaves_nothing_behind(harness):
    """Half of a long answer is not waited for, and the next window reads all of it."""
    harness.seed(sample(1, 2000))
    source = harness.make("source", harness.source())
    window = source.window(None, WindowRequest(whole=True, batch_rows=10))
    with source.read(window.parts[0]) as stream:
        batches = stream.batches()
        next(batches)
    source.close()
    del batches, stream
    gc.collect()
    assert everything(harness, harness.source()).num_rows == 2000


def test_a_wrong_value_is_named_by_column_and_row(harness):
    """An old table may hold a day that is none; the value is not shown."""
    harness.run("CREATE TABLE orders (id int, at date)")
    harness.run("SET STATEMENT sql_mode = '' FOR INSERT INTO orders VALUES (1, '2026-01-01'), (2, '0000-00-00')")
    with pytest.raises(DataError, match=r"column at, row 2 of the read: a value that is not a valid date32") as caught:
        everything(harness, harness.source())
    assert "0000" not in str(caught.value)


@pytest.mark.parametrize(("log", "safe"), [(1, True), (2, False), (0, False)])
def test_the_harness_says_how_the_server_syncs(harness, log, safe):
    """As the server has it: a log that is synced once a second loses what was confirmed."""
    harness.run(f"SET GLOBAL innodb_flush_log_at_trx_commit = {log}")
    try:
        found = harness.durability()
    finally:
        harness.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    assert (found.settings["innodb_flush_log_at_trx_commit"], found.safe) == (str(log), safe)
