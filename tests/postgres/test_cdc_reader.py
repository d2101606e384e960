"""What the logical decoding reader makes of a stream: operations, keys, values, shapes, order (failures.md 1.2)."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest
from tests.postgres.stream import ChangeSource, changes, ids, told

from dpone.errors import ConfigError, DataError, IdentityChanged
from dpone.model.position import Position
from dpone_postgres.cdc import PostgresLogicalReader

LONG = "repeat(md5(random()::text), 400)"  # 12,800 characters: kept out of line


@pytest.fixture(params=["peek", "stream"])
def transport(request: pytest.FixtureRequest) -> str:
    """Every rule holds for both."""
    return str(request.param)


def orders(source: ChangeSource, *statements: str) -> None:
    source.run("CREATE TABLE orders (id int PRIMARY KEY, item text, note text)", *statements)
    source.publish("orders")


def test_inserts_updates_and_deletes_come_in_commit_order(source: ChangeSource) -> None:
    """Each change has its operation, the key that it met and its values; a delete has the key alone."""
    orders(source)
    source.run(
        "INSERT INTO orders VALUES (1, 'lamp', NULL), (2, 'bulb', '')",
        "UPDATE orders SET item = 'desk lamp' WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
    )
    window, found = source.read()
    assert told(found["orders"], "id", "item", "note") == [
        ("insert", None, 1, "lamp", None),
        ("insert", None, 2, "bulb", ""),
        ("update", {"id": 1}, 1, "desk lamp", None),
        ("delete", {"id": 2}, None, None, None),
    ]
    assert [row["__dpone__ordinal"] for row in found["orders"]] == [1, 2, 1, 1]
    commits = [row["__dpone__commit"] for row in found["orders"]]
    assert commits == sorted(commits)
    assert len(set(commits)) == 3
    assert window.caught_up
    assert window.changes == 4
    assert window.tables[f"{source.schema}.orders"].key == ("id",)
    assert window.commits[0] < commits[0]
    assert commits[-1] <= window.commits[1]


def test_every_type_comes_as_the_source_reads_it(source: ChangeSource) -> None:
    """Values of the stream have the Arrow types of the table source, exact; what Arrow lacks is the server's text."""
    source.run(
        "CREATE TYPE mood AS ENUM ('low', 'high')",
        "CREATE DOMAIN price AS numeric(10,2)",
        "CREATE TABLE every (id bigint PRIMARY KEY, a smallint, b real, c double precision, d numeric(38,10), "
        "e numeric, f boolean, "
        "g timestamptz, h timestamp, i date, j time, k uuid, l bytea, m jsonb, n int[], o inet, p interval,"
        "q mood, r price, s char(4), t oid)",
    )
    source.publish("every")
    row = (
        "-9223372036854775808, -32768, 'NaN', '-Infinity', 1234567890123456789012345678.0123456789, 0.1e-20, true,"
        "'2024-02-29 23:59:59.999999+00', '0001-01-01 00:00:00', '9999-12-31', '23:59:59.999999',"
        "'00112233-4455-6677-8899-aabbccddeeff', '\\x00ff5c', '{\"a\": [1, null]}', '{1,NULL}', '10.0.0.1',"
        "'1 mon 2 days', 'high', 12.50, 'ab', 4294967295"
    )
    source.run(f"INSERT INTO every VALUES ({row})", "INSERT INTO every (id) VALUES (1)")
    _, found = source.read()
    first, second = found["every"]
    assert str(first.pop("b")) == "nan"
    expected: dict[str, Any] = {
        "id": -(2**63), "a": -32768, "c": float("-inf"), "d": Decimal("1234567890123456789012345678.0123456789"),
        "e": "0.000000000000000000001", "f": True, "h": dt.datetime(1, 1, 1), "i": dt.date(9999, 12, 31),
        "j": dt.time(23, 59, 59, 999999), "k": uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"), "l": b"\x00\xff\\",
        "m": '{"a": [1, null]}', "n": "{1,NULL}", "o": "10.0.0.1", "p": "1 mon 2 days", "q": "high",
        "r": Decimal("12.50"), "s": "ab  ", "t": 4294967295,
        "g": dt.datetime(2024, 2, 29, 23, 59, 59, 999999, dt.UTC),
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert {second[name] for name in expected if name != "id"} == {None}


def test_a_snapshot_and_the_stream_tell_a_row_alike(source: ChangeSource) -> None:
    """A row read by the initial snapshot has the columns, types and values that the stream gives the same row."""
    source.run(
        "CREATE TABLE every (id int PRIMARY KEY, a numeric(12,2), b inet, c int[], d timestamptz, e bytea, f char(3),"
        " g uuid, h interval, i numeric)"
    )
    source.publish("every")
    values = "9.5, '10.1.1.1', '{3}', now(), '\\x01', 'x', gen_random_uuid(), '1 day', 1.50"
    source.run(f"INSERT INTO every VALUES (1, {values})")
    streamed, first = source.read()
    snapshot, second = source.read(initial="snapshot")
    name = f"{source.schema}.every"
    assert streamed.tables[name] == snapshot.tables[name]
    columns = streamed.tables[name].values.names
    assert [{c: row[c] for c in columns} for row in first["every"]] == [
        {c: row[c] for c in columns} for row in second["every"]
    ]


def test_a_value_that_Arrow_cannot_hold_is_refused_by_name_or_read_as_text(source: ChangeSource) -> None:
    """Infinity in a timestamp stops the window without showing values; special_values: text reads it."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    source.publish("t")
    source.run("INSERT INTO t VALUES (1, 'infinity')")
    with pytest.raises(DataError, match=r"column at, change \w+-\w+/1: .*special_values: text"):
        source.read()
    _, found = source.read(special_values="text")
    assert [row["at"] for row in found["t"]] == ["infinity"]


def test_PG_03_rows_of_one_LSN_are_told_apart(source: ChangeSource) -> None:
    """Twenty rows of one COPY share an LSN; each has an event id of its own, the same in every reading."""
    orders(source)
    source.run("INSERT INTO orders SELECT i, 'x', '' FROM generate_series(1, 20) AS i")
    (_, first), (_, again) = source.read(), source.read()
    assert len({*ids(first["orders"])}) == 20
    assert ids(first["orders"]) == ids(again["orders"])
    system = source.query("SELECT system_identifier::text, current_database() FROM pg_control_system()")[0]
    assert all(id_.startswith(f"{system[0]}/{system[1]}/") for id_ in ids(first["orders"]))


def test_PG_04_a_commit_that_ends_where_the_next_begins_is_not_read_twice(source: ChangeSource) -> None:
    """One transaction at a time, resumed at each position: every change once, in order."""
    orders(source)
    for i in range(1, 8):
        source.run(f"INSERT INTO orders VALUES ({i})")
    position: Position | None = None
    seen: list[int] = []
    while True:
        window, found = source.read(position, limit=1)
        seen += [row["id"] for row in found.get("orders", [])]
        position = window.position
        if window.caught_up:
            break
        assert len(found["orders"]) == 1
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_PG_05_a_transaction_is_never_split(source: ChangeSource) -> None:
    """A limit inside a transaction of 50 rows takes all of it and nothing of the next."""
    orders(source)
    source.run("INSERT INTO orders SELECT i FROM generate_series(1, 50) AS i", "INSERT INTO orders VALUES (51)")
    window, found = source.read(limit=20)
    assert (len(found["orders"]), window.caught_up) == (50, False)
    rest, more = source.read(window.position, limit=20)
    assert [row["id"] for row in more["orders"]] == [51]
    assert rest.caught_up


def test_PG_06_a_transaction_open_across_runs_comes_when_it_commits(source: ChangeSource) -> None:
    """Rows of a transaction that was open while others committed come whole, at its own commit."""
    orders(source)
    with source.server.connect(options=f"-csearch_path={source.schema}") as one:
        one.execute("BEGIN")
        one.execute("INSERT INTO orders VALUES (1, 'A1')")
        source.run("INSERT INTO orders VALUES (11, 'B1')")
        window, found = source.read()
        assert [row["item"] for row in found["orders"]] == ["B1"]
        source.ack(window.position)
        one.execute("INSERT INTO orders VALUES (2, 'A2')")
        source.run("INSERT INTO orders VALUES (12, 'B2')")
        one.execute("INSERT INTO orders VALUES (3, 'A3')")
        source.run("INSERT INTO orders VALUES (13, 'B3')")
        one.execute("COMMIT")
    _, found = source.read(window.position)
    assert [row["item"] for row in found["orders"]] == ["B2", "B3", "A1", "A2", "A3"]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_PG_09_a_value_kept_out_of_line_is_unchanged_not_NULL(source: ChangeSource, identity: str) -> None:
    """An update that leaves a long value alone marks it unchanged, or, where the old row is logged, has the value."""
    source.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int, long text, longs text[])",
        "ALTER TABLE t ALTER long SET STORAGE EXTERNAL, ALTER longs SET STORAGE EXTERNAL",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
    )
    source.publish("t")
    source.run(
        f"INSERT INTO t VALUES (1, 1, {LONG}, ARRAY[{LONG}])",
        "UPDATE t SET n = 2",
        f"UPDATE t SET n = 3, long = {LONG}",
        "UPDATE t SET n = 4, long = NULL",
    )
    _, found = source.read()
    inserted, kept, given, nulled = found["t"]
    if identity == "FULL":
        assert (kept["long"], kept["longs"]) == (inserted["long"], inserted["longs"])
        assert [row["__dpone__unchanged"] for row in found["t"]] == [None] * 4
        assert kept["__dpone__before"] == {c: inserted[c] for c in ("id", "n", "long", "longs")}
    else:
        assert (kept["long"], kept["longs"]) == (None, None)
        assert kept["__dpone__unchanged"] == {"id": False, "n": False, "long": True, "longs": True}
        assert given["__dpone__unchanged"]["long"] is False
        assert given["long"] not in (None, inserted["long"])
        assert nulled["__dpone__unchanged"]["long"] is False
        assert nulled["long"] is None


@pytest.mark.parametrize(
    ("identity", "key", "met"),
    [("DEFAULT", ("id",), {"id": 1}), ("USING INDEX other", ("code",), {"code": "a"}), ("FULL", ("id",), {"id": 1})],
)
def test_PG_10_PG_11_the_key_that_was_met_is_known(
    source: ChangeSource, identity: str, key: tuple[str, ...], met: dict[str, Any]
) -> None:
    """Under each replica identity, updates, changes of the key and deletes tell the row as it was."""
    source.run(
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, v int)",
        "CREATE UNIQUE INDEX other ON t (code)",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
    )
    source.publish("t")
    source.run(
        "INSERT INTO t VALUES (1, 'a', 1)", "UPDATE t SET v = 2", "UPDATE t SET id = 7, code = 'b'", "DELETE FROM t"
    )
    window, found = source.read()
    assert window.tables[f"{source.schema}.t"].key == key
    last = {"id": 7, "code": "b"}
    assert told(found["t"], "id", "code", "v") == [
        ("insert", None, 1, "a", 1),
        ("update", met, 1, "a", 2),
        ("update", met, 7, "b", 2),
        ("delete", {name: last[name] for name in met}, None, None, None),
    ]


def test_PG_10_without_a_replica_identity_a_table_names_no_key(source: ChangeSource) -> None:
    """REPLICA IDENTITY NOTHING: inserts come, the table has no key, and the check says what to do."""
    source.run("CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t REPLICA IDENTITY NOTHING")
    source.publish("t", options="WITH (publish = 'insert')")
    source.run("INSERT INTO t VALUES (1)", "UPDATE t SET id = 2")
    window, found = source.read(operations=("insert",))
    assert window.tables[f"{source.schema}.t"].key == ()
    assert told(found["t"], "id") == [("insert", None, 1)]
    with source.reader() as reader:
        [finding] = [f for f in reader.check() if f.name == "replica identity"]
    assert finding.ok is None
    default, rest = finding.todo.split(" if it has a primary key, or ")
    assert rest.startswith("REPLICA IDENTITY USING INDEX with a unique index of NOT NULL columns")
    for statement in (default, f"ALTER TABLE {source.schema}.t REPLICA IDENTITY USING INDEX t_pkey"):
        source.run("ALTER TABLE t REPLICA IDENTITY NOTHING", statement)
        with source.reader() as reader:
            assert all(f.ok for f in reader.check() if f.name == "replica identity")


def test_PG_12_a_truncate_of_many_tables_is_one_change_of_each(source: ChangeSource) -> None:
    """TRUNCATE .. CASCADE names several tables; each gets its change, in order with the rows around it."""
    source.run(
        "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY REFERENCES a)",
    )  # fmt: skip
    source.publish("a", "b")
    source.run("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
    source.run("BEGIN; INSERT INTO a VALUES (2); TRUNCATE a CASCADE; INSERT INTO a VALUES (3); COMMIT")
    _, found = source.read()
    assert told(found["a"], "id") == [
        ("insert", None, 1), ("insert", None, 2), ("truncate", None, None), ("insert", None, 3),
    ]  # fmt: skip
    assert told(found["b"], "id") == [("insert", None, 1), ("truncate", None, None)]
    numbers = [row["__dpone__ordinal"] for row in (*found["a"][1:], found["b"][1])]
    assert sorted(numbers) == [1, 2, 3, 4]
    assert len({*ids(found["a"]), *ids(found["b"])}) == 6


def test_PG_18_shapes_that_change_in_the_stream_are_united(source: ChangeSource) -> None:
    """Columns that come and go between and inside transactions: absent ones are marked unchanged, none is lost."""
    orders(source)
    source.run(
        "INSERT INTO orders VALUES (1, 'a', 'n')",
        "ALTER TABLE orders ADD more int",
        "INSERT INTO orders VALUES (2, 'b', 'n', 5)",
        "BEGIN; INSERT INTO orders VALUES (3, 'c', 'n', 6); ALTER TABLE orders DROP note;"
        " INSERT INTO orders VALUES (4, 'd', 7); COMMIT",
        "ALTER TABLE orders DROP more",
        "UPDATE orders SET item = 'z' WHERE id = 4",
    )
    window, found = source.read()
    assert window.tables[f"{source.schema}.orders"].values.names == ["id", "item", "note", "more"]
    rows = [(r["id"], r["item"], r["note"], r["more"]) for r in found["orders"]]
    assert rows == [
        (1, "a", "n", None), (2, "b", "n", 5), (3, "c", "n", 6), (4, "d", None, 7), (4, "z", None, None),
    ]  # fmt: skip
    left_out = [[c for c, on in (r["__dpone__unchanged"] or {}).items() if on] for r in found["orders"]]
    assert left_out == [["more"], [], [], ["note"], ["note", "more"]]


def test_PG_18_a_shape_that_cannot_be_united_ends_the_window(source: ChangeSource) -> None:
    """A column that changes its type to one nothing holds together: the window ends before, the next begins there."""
    orders(source)
    source.run(
        "INSERT INTO orders VALUES (1, '1')",
        "INSERT INTO orders VALUES (2, '2')",
        "ALTER TABLE orders ALTER item TYPE bytea USING item::bytea",
        "INSERT INTO orders VALUES (3, '3')",
    )
    window, found = source.read()
    assert [row["id"] for row in found["orders"]] == [1, 2]
    assert not window.caught_up
    window, found = source.read(window.position)
    assert [row["item"] for row in found["orders"]] == [b"3"]
    assert window.caught_up


def test_PG_19_a_table_made_anew_stops_the_stream(source: ChangeSource) -> None:
    """The same name with another oid, and a known table under another name, are named stops, on every run."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)")
    window, _ = source.read()
    source.run(
        "DROP TABLE orders", "CREATE TABLE orders (id int PRIMARY KEY)",
        f"ALTER PUBLICATION {source.schema} ADD TABLE orders", "INSERT INTO orders VALUES (1)",
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(IdentityChanged, match="dropped and recreated"):
            source.read(window.position)


def test_PG_19_a_table_that_was_renamed_stops_the_stream(source: ChangeSource) -> None:
    """Its changes would go on into another target."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)")
    window, _ = source.read()
    source.run("ALTER TABLE orders RENAME TO sales", "INSERT INTO sales VALUES (2)")
    with pytest.raises(IdentityChanged, match=r"it was renamed to .*\.sales"):
        source.read(window.position)


@pytest.mark.releases
def test_PG_20_a_generated_column_is_left_out_not_nulled(source: ChangeSource) -> None:
    """Stream and snapshot have the same columns: without the generated one, of which the check tells."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    source.publish("t")
    source.run("INSERT INTO t VALUES (1)")
    for initial in ("none", "snapshot"):
        window, _ = source.read(initial=initial)
        assert window.tables[f"{source.schema}.t"].values.names == ["id"]
    with source.reader() as reader:
        assert any("generated columns are not in the stream: twice" in f.found for f in reader.check())


@pytest.mark.parametrize(("by_root", "names"), [("true", ["t"]), ("false", ["t_1", "t_2"])])
def test_PG_21_partitions_are_told_by_root_or_by_leaf(source: ChangeSource, by_root: str, names: list[str]) -> None:
    """publish_via_partition_root decides under which name changes come, in the snapshot too."""
    source.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20)",
    )
    source.publish("t", options=f"WITH (publish_via_partition_root = {by_root})")
    source.run("INSERT INTO t VALUES (1), (11)", "UPDATE t SET id = 12 WHERE id = 1")
    _, found = source.read()
    assert sorted(found) == names
    assert sum(len(rows) for rows in found.values()) == 4  # a row that moves is deleted here and inserted there
    _, found = source.read(initial="snapshot")
    assert sorted(row["id"] for rows in found.values() for row in rows) == [11, 12]


def test_PG_22_column_lists_and_row_filters_hold_in_the_snapshot_too(source: ChangeSource) -> None:
    """What the publication leaves out is in neither."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, secret text, n int)")
    source.publish("t (id, n)", more=" WHERE (id < 10)")
    source.run("INSERT INTO t VALUES (1, 's', 1), (11, 's', 2)")
    for initial in ("none", "snapshot"):
        window, found = source.read(initial=initial)
        assert window.tables[f"{source.schema}.t"].values.names == ["id", "n"]
        assert [row["id"] for row in found["t"]] == [1]


def test_PG_22_a_table_that_is_not_published_is_refused(source: ChangeSource) -> None:
    """A table that the pipeline names and the publication lacks would silently never change."""
    orders(source, "CREATE TABLE other (id int PRIMARY KEY)")
    with pytest.raises(ConfigError, match="has no table") as refused:
        source.read(table="other")
    with source.reader("other") as reader:
        [found] = [f for f in reader.check() if f.name == "publication" and f.ok is False]
    name = source.schema
    assert found.todo == refused.value.todo == f'ALTER PUBLICATION "{name}" ADD TABLE "{name}"."other"'
    source.run(found.todo)
    source.read(table="other")


def test_PG_22_a_publication_without_any_table_of_a_glob_is_one_statement(source: ChangeSource) -> None:
    """Names are quoted, and a glob that fits no table at all is a wrong name."""
    orders(
        source, 'CREATE TABLE "x a" (id int PRIMARY KEY)', 'CREATE TABLE "x""B" (id int PRIMARY KEY)',
        "CREATE TABLE x_keyless (id int)", "INSERT INTO x_keyless VALUES (1)",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="has no table") as refused:
        source.read(table="x*")
    source.run(refused.value.todo)
    source.run('INSERT INTO "x a" VALUES (1)', 'INSERT INTO "x""B" VALUES (1)')
    assert len(source.read(table="x*")[0].tables) == 2
    source.run("UPDATE x_keyless SET id = 2")  # it was left out: nothing identifies its rows
    with pytest.raises(ConfigError, match=r'x_keyless" ADD PRIMARY KEY .*; then ALTER PUBLICATION .*x_keyless"$'):
        source.read(table="x_keyless")
    with pytest.raises(ConfigError, match=r"correct source\.table, or create the table"):
        source.read(table="y*")


def test_tables_that_the_pipeline_does_not_want_are_passed_over(source: ChangeSource) -> None:
    """One table of a publication of two; ordinals count all changes, so that ids do not depend on the choice."""
    source.run("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    source.publish("a", "b")
    source.run("BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); COMMIT")
    _, both = source.read()
    _, one = source.read(table="b")
    assert [*one] == ["b"]
    assert one["b"] == both["b"]
    assert one["b"][0]["__dpone__ordinal"] == 2


def test_blocks_of_messages_may_end_anywhere(source: ChangeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in blocks of three messages, a stream with DDL, truncates and long transactions gives the same changes."""
    orders(source)
    source.run(
        "INSERT INTO orders SELECT i, 'x' || i FROM generate_series(1, 11) AS i",
        "BEGIN; UPDATE orders SET item = 'y' WHERE id < 4; DELETE FROM orders WHERE id = 5; COMMIT",
        "BEGIN; ALTER TABLE orders ADD c int; UPDATE orders SET c = 1 WHERE id = 6; TRUNCATE orders; COMMIT",
        "INSERT INTO orders VALUES (1)",
    )
    window, whole = source.read()
    for rows in (1, 2, 3, 5):
        monkeypatch.setattr("dpone_postgres.cdc._BLOCK_ROWS", rows)
        again, found = source.read()
        assert found == whole
        assert again.position == window.position


def test_changes_delivered_again_are_left_out(source: ChangeSource) -> None:
    """The slot was not moved on: what the position covers is dropped, and a second window has nothing."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1)")
    window, _ = source.read()
    source.run("INSERT INTO orders VALUES (2)")
    again, found = source.read(window.position)
    assert [row["id"] for row in found["orders"]] == [2]
    assert source.read(again.position)[1] == {}


def test_a_window_is_the_same_in_every_reading(source: ChangeSource) -> None:
    """Repeatable: read twice, it has the same changes, whatever came since."""
    orders(source)
    source.run("INSERT INTO orders VALUES (1), (2)")
    with source.reader() as reader:
        window = reader.window(None, 2)
        first = changes(reader, window)
        source.run("INSERT INTO orders VALUES (3)")
        again = reader.window(None, 2)
        assert changes(reader, again) == first
        assert again.position == window.position


@pytest.mark.parametrize("joins", [False, True])
def test_a_transaction_that_commits_behind_the_bound_is_left_for_the_next_window(
    source: ChangeSource, monkeypatch: pytest.MonkeyPatch, joins: bool
) -> None:
    """The server may have sent many blocks of it by then; nothing of them is in this window, and all in the next, also
    where a table joins the stream at that bound."""
    orders(source)
    window, _ = source.read(initial="snapshot")
    if joins:
        source.run(
            "CREATE TABLE n (id int PRIMARY KEY)", "INSERT INTO n VALUES (1)",
            f"ALTER PUBLICATION {source.schema} ADD TABLE n",
        )  # fmt: skip
    monkeypatch.setattr("dpone_postgres.cdc._BLOCK_ROWS", 3)
    read = PostgresLogicalReader._read

    def late(*given: Any) -> Any:
        monkeypatch.setattr(PostgresLogicalReader, "_read", read)
        source.run("INSERT INTO orders SELECT i FROM generate_series(1, 50) AS i")
        return read(*given)

    monkeypatch.setattr(PostgresLogicalReader, "_read", late)
    window, found = source.read(window.position, initial="snapshot")
    assert {name: len(rows) for name, rows in found.items()} == ({"n": 1} if joins else {})
    _, found = source.read(window.position, initial="snapshot")
    assert {name: len(rows) for name, rows in found.items()} == {"orders": 50}


def test_PG_24_both_transports_read_the_same(source: ChangeSource) -> None:
    """Changes, event ids and position of a window do not depend on how it came."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY, item text)")
    source.publish("orders")
    source.run("INSERT INTO orders SELECT i, repeat('x', i) FROM generate_series(1, 300) AS i")
    source.run("UPDATE orders SET item = 'y' WHERE id < 9", "DELETE FROM orders WHERE id = 5", "TRUNCATE orders")
    (one, rows), (other, same) = (source.read(transport=name) for name in ("peek", "stream"))
    assert rows == same
    assert len(rows["orders"]) == 310
    assert one.position == other.position
    assert one.caught_up
    assert other.caught_up
