"""The sqlite source: one snapshot, exact values, and the cursor that neither loses nor doubles a row."""

from __future__ import annotations

import datetime as dt
import decimal
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sqlite.target import MEMORY, Target

from dpone.connectors.sqlite.config import SqliteSourceOptions
from dpone.connectors.sqlite.source import SqliteSource
from dpone.contract import Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, IdentityChanged, SetBack, SourceError
from dpone.model.pipeline import Incremental, SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql import cursor
from dpone.sql.cursor import digest, earlier, less

Read = tuple[Window, list[tuple[Any, ...]]]


@pytest.fixture
def db(tmp_path: Path) -> Target:
    """The source's file, written through plain sqlite3."""
    return Target(tmp_path / "shop.db")


def source(db: Target, table: str | None = "orders", query: str | None = None, **options: Any) -> SqliteSource:
    connection, name = Secret(f"sqlite:///{db.path}"), Name.parse(table) if table else None
    return SqliteSource(SourceSpec("sqlite", connection, name, query, options=SqliteSourceOptions(**options)))


def drain(reader: SqliteSource, window: Window) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for part in window.parts:
        with reader.read(part) as stream:
            assert stream.schema == window.schema
            for batch in stream.batches():
                assert batch.schema == window.schema
                found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
    return found


def read(reader: SqliteSource, after: Position | None = None, **request: Any) -> Read:
    with closing(reader):
        window = reader.window(after, WindowRequest(**request))
        return window, drain(reader, window)


def by(column: str, **options: Any) -> dict[str, Any]:
    return {"incremental": Incremental("cursor", column, **options)}


# ---- snapshots and values


def test_a_table_is_read_whole_in_one_snapshot(db: Target) -> None:
    """Rows that others write after the window was fixed are not in it."""
    db.run(
        "PRAGMA journal_mode=wal", "CREATE TABLE orders (id INTEGER, name TEXT)", "INSERT INTO orders VALUES (1, 'a')"
    )
    reader = source(db)
    with closing(reader):
        window = reader.window(None, WindowRequest())
        db.run("INSERT INTO orders VALUES (2, 'b')")
        assert drain(reader, window) == [(1, "a")]
    assert (window.repeatable, window.whole, window.caught_up, window.position.kind) == (False, True, True, "snapshot")


def test_views_and_queries_are_sources(db: Target) -> None:
    """A view, and a query with expressions, are read like tables; types of expressions are those of their values."""
    db.run("CREATE TABLE t (id INTEGER, name TEXT)", "INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    db.run("CREATE VIEW orders AS SELECT id, name FROM t WHERE id > 1")
    assert read(source(db))[1] == [(2, None)]
    window, rows = read(
        source(db, None, "SELECT id, id * 2 AS twice, id / 2.0 AS half, 'x' || id AS x, NULL AS n FROM t;")
    )
    assert rows == [(1, 2, 0.5, "x1", None), (2, 4, 1.0, "x2", None)]
    assert window.schema.types == [pa.int64(), pa.int64(), pa.float64(), pa.string(), pa.string()]


@pytest.mark.parametrize(
    "query", ["DROP TABLE t", "SELECT 1; DROP TABLE t", "SELECT * FROM nope", "SELECT ?", "SELEC 1"]
)
def test_a_query_only_reads(db: Target, query: str) -> None:
    """Anything but one SELECT is one clear line, and the database is as before."""
    db.run("CREATE TABLE t (id INTEGER)")
    with pytest.raises(ConfigError, match="read the query"):
        read(source(db, None, query))
    assert db.tables() == {"t"}


def test_values_survive_the_way_through_a_file(tmp_path: Path) -> None:
    """What the sink wrote, the source reads back: the same types and values, extremes and NULL included."""
    data = pa.table(
        {
            "i": pa.array([2**63 - 1, None], pa.int64()),
            "b": pa.array([True, None]),
            "f": pa.array([0.1, None]),
            "d": pa.array([decimal.Decimal("-1.0000000001"), None], pa.decimal128(38, 10)),
            "s": pa.array(["a\0 ", ""]),
            "x": pa.array([b"\xff", None]),
            "day": pa.array([dt.date(1, 1, 1), None]),
            "at": pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, 6), None], pa.timestamp("us")),
            "zoned": pa.array([dt.datetime(2024, 1, 2, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
            "clock": pa.array([dt.time(23, 59, 59, 999999), None]),
            "long": pa.array([dt.timedelta(microseconds=-1), None]),
            "u": pa.array([b"0123456789abcdef", None], pa.uuid()),
            "j": pa.array(['{"a": [1]}', None], pa.json_()),
        }
    )
    target = Target(tmp_path / "t.db")
    target.load(data, Strategy("append"))
    with closing(source(target)) as reader:
        window = reader.window(None, WindowRequest())
        with reader.read(window.parts[0]) as stream:
            back = pa.Table.from_batches(stream.batches()).select(data.schema.names)
    assert back.schema == data.schema
    assert back.equals(data)


DECLARED = [
    ("INT", 5, pa.int64(), 5), ("varchar(20)", "x", pa.string(), "x"), ("DOUBLE PRECISION", 1, pa.float64(), 1.0),
    ("BLOB", b"x", pa.binary(), b"x"), ("boolean", 1, pa.bool_(), True),
    ("DATE", "2024-01-02", pa.date32(), dt.date(2024, 1, 2)),
    ("DATETIME", "2024-01-02 03:04", pa.timestamp("us"), dt.datetime(2024, 1, 2, 3, 4)),
    ("DATETIME", "2024-01-02T03:04:05.6", pa.timestamp("us"), dt.datetime(2024, 1, 2, 3, 4, 5, 600000)),
    ("DECIMAL(10, 2)", 12.34, pa.decimal128(10, 2), decimal.Decimal("12.34")),
    ("NUMERIC", 5, pa.int64(), 5), ("NUMERIC", 5.5, pa.float64(), 5.5), ("", "x", pa.string(), "x"),
    ("MONEY", 7, pa.int64(), 7), ("UUID", "12345678-1234-5678-1234-567812345678", pa.uuid(), None),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "type_", "expected"), DECLARED, ids=[f"{d[0]} {d[1]}" for d in DECLARED])
def test_declared_types_are_read(db: Target, declared: str, value: Any, type_: pa.DataType, expected: Any) -> None:
    """A user's declared type is read as the Arrow type it means; where it tells nothing, the values do."""
    db.run(f"CREATE TABLE orders (x {declared})")
    with closing(sqlite3.connect(db.path)) as writer, writer:
        writer.execute("INSERT INTO orders VALUES (?), (NULL)", (value,))
    window, rows = read(source(db))
    assert window.schema.field("x").type == type_
    assert expected is None or rows == [(expected,), (None,)]


MISFITS = [
    ("INTEGER", "'soon'", "a text in a column declared int64"), ("INTEGER", "1.5", "a real in a column declared int64"),
    ("TEXT", "x'ff'", "a blob in a column declared string"), ("BOOLEAN", "2", "a value that is not a valid bool"),
    ("DATE", "'tomorrow'", "a value that is not a valid date32"),
    ("DATE", "20240102", "an integer in a column declared date32"),
    ("TIMESTAMP", "'2024-01-02 03:04:05.1234567'", "a value that is not a valid timestamp"),
    ("DECIMAL(5,2)", "0.125", "a value that is not a valid decimal128"),
    ("REAL", "'pear'", "a text in a column declared double"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "found"), MISFITS, ids=[f"{m[0]} {m[1]}" for m in MISFITS])
def test_a_value_that_does_not_fit_is_named(db: Target, declared: str, value: str, found: str) -> None:
    """A value of another kind than declared is an error with column, row and way out, and without the value."""
    db.run(f"CREATE TABLE orders (id INTEGER, x {declared})", "INSERT INTO orders VALUES (1, NULL), (2, NULL)")
    db.run(f"INSERT INTO orders VALUES (3, {value})")
    with pytest.raises(
        DataError, match=rf"column x, row 3 of the read: {found}.*options.columns: {{x: string}}"
    ) as caught:
        read(source(db))
    assert value.strip("'") not in str(caught.value)


def test_a_column_may_be_read_as_text(db: Target) -> None:
    """With columns: {x: string} integers, reals and texts of one column are all read as text."""
    db.run("CREATE TABLE orders (x)", "INSERT INTO orders VALUES (1), (0.1), ('a'), (NULL)")
    with pytest.raises(DataError, match="values of several kinds"):
        read(source(db))
    assert read(source(db, columns={"x": "string"}))[1] == [("1",), ("0.1",), ("a",), (None,)]


@pytest.mark.parametrize("columns", [{"x": "varchr"}, {"nope": "string"}, {"x": "decimal(77,2)"}])
def test_wrong_column_options_are_one_clear_line(db: Target, columns: dict[str, str]) -> None:
    """An unknown type or column in the options is a configuration error."""
    db.run("CREATE TABLE orders (x)")
    with pytest.raises(ConfigError, match=r"read options\.columns"):
        read(source(db, columns=columns))


NAMES = [
    ("integer", 7, 7), ("integer", 2**31, "a value that is not a valid int32"), ("smallint", -7, -7),
    ("tinyint", 256, "a value that is not a valid uint8"), ("bigint", 2**62, 2**62), ("real", 0.5, 0.5),
    ("real", 0.1, "a value that is not a valid float; .*{x: double}"),
    ("real", 2**24 + 1, "a value that is not a valid float"),
    ("double precision", 0.1, 0.1), ("float", 0.1, 0.1), ("double", 2**53 + 1, "a value that is not a valid double"),
    ("numeric(12,2)", "1.5", decimal.Decimal("1.50")), ("decimal(50,2)", 1.5, decimal.Decimal("1.50")),
    ("boolean", 1, True), ("varchar", "x", "x"), ("varchar(3)", "äöü", "äöü"),
    ("char(3)", "äöüx", "more than 3 characters"), ("time", "01:02:03", dt.time(1, 2, 3)),
    ("time(9)", "01:02:03.000001", dt.time(1, 2, 3, 1)), ("bytea", b"x", b"x"), ("large_binary", b"x", b"x"),
    ("timestamp(9)", "9999-01-01 00:00:00", r"a value that is not a valid timestamp\[ns\]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "found"), NAMES)
def test_a_column_is_read_by_any_name_of_a_type_exactly_or_not_at_all(
    db: Target, name: str, value: Any, found: Any
) -> None:
    """Nothing is rounded, cut or wrapped: what the type does not hold is refused with its column and row."""
    db.run("CREATE TABLE orders (x)", "INSERT INTO orders VALUES (NULL)")
    with closing(sqlite3.connect(db.path)) as direct, direct:
        direct.execute("INSERT INTO orders VALUES (?)", (value,))
    if isinstance(found, str) and found != value:
        with pytest.raises(DataError, match=f"column x, row 2 of the read: {found}"):
            read(source(db, columns={"x": name}))
    else:
        assert read(source(db, columns={"x": name}))[1] == [(None,), (found,)]


def test_invalid_text_is_named_without_its_value(db: Target) -> None:
    """Text that is not UTF-8 is one clear line."""
    db.run("CREATE TABLE orders (x TEXT)", "INSERT INTO orders VALUES (CAST(x'736563726574ff' AS TEXT))")
    with pytest.raises(DponeError) as caught:
        read(source(db))
    assert "UTF-8" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "found"),
    [("missing", "the file does not exist"), ("text", "not a SQLite database"), ("table", "no such table")],
)
def test_a_wrong_source_is_one_clear_line(db: Target, kind: str, found: str) -> None:
    """A missing file, a file of another kind and a missing table are one line each, and nothing is created."""
    if kind == "text":
        db.path.write_text("id,name\n1,a\n" * 100)
    elif kind == "table":
        db.run("CREATE TABLE other (id INTEGER)")
    with pytest.raises(SourceError, match=found):
        read(source(db))
    assert [f.ok for f in source(db).check()] == [True, False]
    assert db.path.exists() is (kind != "missing")


def test_tables_are_listed_without_those_of_dpone(db: Target) -> None:
    """A glob selects tables and views of the user's own."""
    db.run(
        "CREATE TABLE b (i INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE __dpone__loads (i)",
        "CREATE VIEW a AS SELECT 1",
    )
    with closing(source(db)) as reader:
        assert reader.tables("*") == ["a", "b"]
        assert reader.tables("b*") == ["b"]


def test_batches_are_bounded(db: Target) -> None:
    """No batch has more rows than asked for."""
    db.run("CREATE TABLE orders (id INTEGER)")
    insert(db, [(i,) for i in range(1000)])
    with closing(source(db)) as reader:
        window = reader.window(None, WindowRequest(batch_rows=64))
        with reader.read(window.parts[0]) as stream:
            sizes = [batch.num_rows for batch in stream.batches()]
    assert max(sizes) == 64
    assert sum(sizes) == 1000


def test_generated_columns_are_read(db: Target) -> None:
    """A generated column is a column of the source like any other."""
    db.run("CREATE TABLE orders (id INTEGER, twice INTEGER AS (id * 2))", "INSERT INTO orders VALUES (2)")
    assert read(source(db))[1] == [(2, 4)]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_source_and_sink_may_be_one_file(db: Target, journal: str) -> None:
    """A table is copied to another one of its own file, in the state it had when the window was fixed."""
    db.run(f"PRAGMA journal_mode={journal}", "CREATE TABLE orders (id INTEGER, at INTEGER)")
    loaded, copy = Loaded(), Target(db.path, "copy")
    copy.sink(Strategy("append")).close()  # as in a run, the sink is made before the window
    insert(db, [(1, 5), (2, 5)])
    for total in (2, 4):
        reader = source(db, **by("at"))
        with closing(reader):
            window = reader.window(loaded.position, WindowRequest())
            insert(db, [(total + 1, 5), (total + 2, 6)])
            with reader.read(window.parts[0]) as stream:
                copy.load(pa.Table.from_batches(stream.batches(), stream.schema), Strategy("append"), busy_timeout=0.05)
        loaded.position = window.position
        assert [row[0] for row in copy.rows("id")] == list(range(1, total + 1))


# ---- incremental by cursor


class Loaded:
    """A target that appends, or merges by the first column, and the position it stands at."""

    def __init__(self, mode: str = "append") -> None:
        self.mode, self.position, self.rows = mode, None, []  # type: ignore[var-annotated]

    def sync(self, reader: SqliteSource, **request: Any) -> Window:
        window, rows = read(reader, self.position, mode=self.mode, **request)
        if self.mode == "merge":
            rows = list({**{r[0]: r for r in self.rows}, **{r[0]: r for r in rows}}.values())
            self.rows = []
        self.rows += rows
        self.position = Position.loads(window.position.dumps())
        return window


def insert(db: Target, rows: Iterable[tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(db.path)) as writer, writer:
        for row in rows:
            writer.execute(f"INSERT INTO orders VALUES ({', '.join('?' * len(row))})", row)


@pytest.mark.parametrize("mode", ["append", "merge"])
@pytest.mark.parametrize("stop", [1, 6, 7, 8, 21, 59, 60])
def test_CU_02_sixty_rows_of_one_moment(db: Target, mode: str, stop: int) -> None:
    """Rows of one cursor value that come in two goes, read in batches of 7, all arrive exactly once."""
    rows = [(i, "2024-01-01 00:00:00.001") for i in range(60)]
    db.run("CREATE TABLE orders (id INTEGER, at TIMESTAMP)")
    loaded = Loaded(mode)
    insert(db, rows[:stop])
    loaded.sync(source(db, **by("at")), batch_rows=7)
    insert(db, rows[stop:])
    loaded.sync(source(db, **by("at")), batch_rows=7)
    assert sorted(row[0] for row in loaded.rows) == list(range(60))
    assert loaded.sync(source(db, **by("at"))).parts == ()


def test_CU_02_equal_rows_are_told_by_number(db: Target) -> None:
    """Of three equal rows of the last value, one of which was loaded, two are new."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    loaded = Loaded()
    insert(db, [(1, 5)])
    loaded.sync(source(db, **by("at")))
    insert(db, [(1, 5), (1, 5)])
    loaded.sync(source(db, **by("at")))
    assert loaded.rows == [(1, 5)] * 3


def test_CU_02_keys_tell_rows_apart(db: Target) -> None:
    """With incremental.key a row of the last value that was only changed is not appended again."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER, note TEXT)")
    loaded = Loaded()
    insert(db, [(1, 5, "a")])
    loaded.sync(source(db, **by("at", key=("id",))))
    db.run("UPDATE orders SET note = 'b'")
    insert(db, [(2, 5, "c")])
    loaded.sync(source(db, **by("at", key=("id",))))
    assert loaded.rows == [(1, 5, "a"), (2, 5, "c")]


def test_CU_02_merge_sees_a_change_at_the_last_value(db: Target) -> None:
    """With merge a row that changed without moving its cursor off the last value is read again."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER, note TEXT)")
    loaded = Loaded("merge")
    insert(db, [(1, 5, "a")])
    loaded.sync(source(db, **by("at")))
    db.run("UPDATE orders SET note = 'b'")
    loaded.sync(source(db, **by("at")))
    assert loaded.rows == [(1, 5, "b")]


def test_CU_02_a_new_column_does_not_double_the_boundary(db: Target) -> None:
    """A column that the source gained does not make loaded rows of the last value look new."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    loaded = Loaded()
    insert(db, [(1, 5)])
    loaded.sync(source(db, **by("at")))
    db.run("ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'x'")
    insert(db, [(2, 5, "y")])
    loaded.sync(source(db, **by("at")))
    assert [row[0] for row in loaded.rows] == [1, 2]


def test_CU_02_a_column_of_the_boundary_that_is_gone_stops(db: Target) -> None:
    """Loaded rows of the last value are known by their columns: without one of them nothing tells old from new, so the
    run stops and names it."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER, note TEXT)")
    loaded = Loaded()
    insert(db, [(1, 5, "x")])
    loaded.sync(source(db, **by("at")))
    db.run("ALTER TABLE orders DROP COLUMN note")
    insert(db, [(2, 5)])
    with pytest.raises(IdentityChanged, match="the position needs column note, which no longer exists"):
        loaded.sync(source(db, **by("at")))
    assert loaded.rows == [(1, 5, "x")]


def test_CU_02_a_row_that_comes_back_is_not_new(db: Target) -> None:
    """A loaded row of the last value that was deleted, and comes back as it was, is not appended again."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    loaded = Loaded()
    insert(db, [(1, 5)])
    loaded.sync(source(db, **by("at")))
    db.run("DELETE FROM orders")
    insert(db, [(2, 5)])
    loaded.sync(source(db, **by("at")))
    insert(db, [(1, 5)])
    assert loaded.sync(source(db, **by("at"))).parts == ()
    assert loaded.rows == [(1, 5), (2, 5)]


def test_CU_02_a_boundary_too_large_is_named(db: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows at the last value than the position can hold is an error for append, and no matter for merge."""
    monkeypatch.setattr(cursor, "MAX_BOUNDARY", 10)
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(i, 5) for i in range(11)])
    with pytest.raises(DataError, match="more than 10 rows share the highest at"):
        Loaded().sync(source(db, **by("at")))
    loaded = Loaded("merge")
    loaded.sync(source(db, **by("at")))
    assert len(loaded.rows) == 11
    assert loaded.sync(source(db, **by("at"))).parts == ()


@pytest.mark.parametrize(
    ("mode", "range_"), [("append", None), ("merge", "2:87f62d684c7518c9120ffc29")]
)  # fmt: skip
def test_CU_02_a_position_of_an_earlier_version_is_gone_on_from(db: Target, mode: str, range_: str | None) -> None:
    """The text of a position as version 1.0 wrote it: nothing is new at first, and then only what came since."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER, note TEXT)")
    insert(db, [(1, 4, "a"), (2, 5, "b"), (3, 5, None)])
    boundary = {"afdc3116558a984bbe8d7e14": 1, "d819fc51f6ea807d53827e15": 1}
    value = {"boundary": boundary, "column": "at", "hi": "5", "range": range_, "told": ["id", "at", "note"]}
    identity = {"path": str(db.path), "table": "orders"}
    loaded = Loaded(mode)
    loaded.position = Position("cursor", identity, {**value, "type": "integer"}, 0)
    assert loaded.sync(source(db, **by("at"))).parts == ()
    insert(db, [(4, 5, "c")])
    loaded.sync(source(db, **by("at")))
    assert loaded.rows == [(4, 5, "c")] if mode == "append" else loaded.rows == [(2, 5, "b"), (3, 5, None), (4, 5, "c")]


def test_CU_02_the_largest_boundary_is_kept(db: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows at the last value as the position can hold are no error: those that come later are told apart."""
    monkeypatch.setattr(cursor, "MAX_BOUNDARY", 10)
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(i, 5) for i in range(10)])
    loaded = Loaded()
    loaded.sync(source(db, **by("at")))
    insert(db, [(10, 6)])
    loaded.sync(source(db, **by("at")))
    assert [row[0] for row in loaded.rows] == list(range(11))


def test_LS_13_merge_to_append_at_a_position_without_a_boundary(db: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position that merge left without a boundary does not say which rows of the last value were loaded: append
    stops by name rather than load them twice, whether or not rows have come since."""
    monkeypatch.setattr(cursor, "MAX_BOUNDARY", 10)
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(i, 5) for i in range(11)])
    loaded = Loaded("merge")
    loaded.sync(source(db, **by("at")))
    loaded.mode = "append"
    for row in ([], [(11, 5)], [(12, 6)]):
        insert(db, row)
        with pytest.raises(DataError, match="more than 10 rows share the highest at"):
            loaded.sync(source(db, **by("at")))
    assert len(loaded.rows) == 11


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=5), st.sampled_from(["append", "merge"]))
def test_CU_02_growing_tables_arrive_once(goes: list[list[int]], mode: str) -> None:
    """However equal values are spread over the runs, as long as none comes late, every row arrives exactly once."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        db = Target(Path(folder) / "s.db")
        db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
        loaded, total, now = Loaded(mode), 0, 0
        for go in goes:
            for step in sorted(go):
                insert(db, [(total, now + step)])
                total += 1
            now += max(go, default=0)
            loaded.sync(source(db, **by("at")))
            assert sorted(row[0] for row in loaded.rows) == list(range(total))


def test_CU_03_bound_and_rows_are_of_one_snapshot(db: Target) -> None:
    """A row with a higher cursor that arrives between bound and read belongs to the next window."""
    db.run("PRAGMA journal_mode=wal", "CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(1, 1), (2, 2)])
    reader = source(db, **by("at"))
    with closing(reader):
        window = reader.window(None, WindowRequest())
        insert(db, [(3, 2), (4, 3)])
        assert drain(reader, window) == [(1, 1), (2, 2)]
    assert read(source(db, **by("at")), window.position)[1] == [(3, 2), (4, 3)]


@pytest.mark.parametrize(
    ("declared", "first", "second"),
    [
        ("TEXT", "2024-01-01 00:00:00.1234567", "2024-01-01 00:00:00.1234568"),
        ("REAL", 0.1 + 0.2, 0.30000000000000010),
        ("INTEGER", 2**53, 2**53 + 1),
        ("DECIMAL_TEXT(38,0)", str(10**37), str(10**37 + 1)),
    ],
)
def test_CU_04_the_position_has_the_source_s_precision(db: Target, declared: str, first: Any, second: Any) -> None:
    """Values that differ in the last digit only are told apart, and none is read twice."""
    first, second = sorted((first, second))
    db.run(f"CREATE TABLE orders (id INTEGER, at {declared})")
    loaded = Loaded()
    insert(db, [(1, first)])
    loaded.sync(source(db, **by("at")))
    assert loaded.position is not None
    assert loaded.position.value["hi"] in (str(first), repr(first))
    insert(db, [(2, second)])
    loaded.sync(source(db, **by("at")))
    assert [row[0] for row in loaded.rows] == [1, 2]


def test_CU_05_null_cursors_fail_or_are_skipped(db: Target) -> None:
    """Rows without a cursor are counted in an error, or left out and counted as filtered."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(1, 1), (2, None), (3, None)])
    with pytest.raises(DataError, match=r"^read orders: cursor column at is NULL in 2 rows, which no read would find"):
        read(source(db, **by("at")))
    with closing(source(db, **by("at", nulls="skip"))) as reader:
        window = reader.window(None, WindowRequest())
        with reader.read(window.parts[0]) as stream:
            assert sum(batch.num_rows for batch in stream.batches()) == 1
            assert stream.filtered == 2


def test_CU_05_text_cursors_follow_the_column_s_order(db: Target) -> None:
    """Under COLLATE NOCASE 'b' comes after 'A' and is 'B': the database's order decides, not Python's."""
    db.run("CREATE TABLE orders (id INTEGER, at TEXT COLLATE NOCASE)")
    loaded = Loaded()
    insert(db, [(1, "a"), (2, "B")])
    loaded.sync(source(db, **by("at")))
    insert(db, [(3, "b"), (4, "C")])
    loaded.sync(source(db, **by("at")))
    assert [row[0] for row in loaded.rows] == [1, 2, 3, 4]


def test_CU_05_decimals_are_ordered_as_numbers(db: Target) -> None:
    """Of the texts '9.50' and '10.50' the second is the later one."""
    db.run("CREATE TABLE orders (id INTEGER, at DECIMAL_TEXT(6,2))")
    loaded = Loaded()
    insert(db, [(1, "9.50")])
    loaded.sync(source(db, **by("at")))
    insert(db, [(2, "10.50")])
    loaded.sync(source(db, **by("at")))
    assert [row[0] for row in loaded.rows] == [1, 2]


def test_CU_05_a_cursor_of_two_kinds_is_an_error(db: Target) -> None:
    """Numbers beside texts have no common order that could be trusted."""
    db.run("CREATE TABLE orders (id INTEGER, at TIMESTAMP)")
    insert(db, [(1, "2024-01-01"), (2, 1704067200)])
    with pytest.raises(DataError, match="both numbers and text"):
        read(source(db, **by("at")))


@pytest.mark.parametrize(("mode", "lookback"), [("append", 0), ("merge", 0), ("merge", 2)])
def test_CU_06_an_idle_table_gives_an_empty_window(db: Target, mode: str, lookback: int) -> None:
    """Nothing new: no parts, the position unchanged, and a proof of it."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(1, 1), (2, 2), (3, 2)])
    loaded = Loaded(mode)
    first = loaded.sync(source(db, **by("at", lookback=lookback)))
    for _ in range(2):
        window = loaded.sync(source(db, **by("at", lookback=lookback)))
        assert (window.parts, window.position, window.caught_up) == ((), first.position, True)
        assert "new" in window.proof


def test_CU_06_a_table_that_starts_empty_is_read_from_its_beginning(db: Target) -> None:
    """A first run that finds no row does not hide the rows that come later."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    loaded = Loaded()
    assert loaded.sync(source(db, **by("at"))).parts == ()
    insert(db, [(1, -5)])
    loaded.sync(source(db, **by("at")))
    assert loaded.rows == [(1, -5)]


@pytest.mark.parametrize("mode", ["append", "merge"])
@pytest.mark.parametrize("left", ["at < 9", "0"])
def test_OUT_08_a_source_that_was_set_back_stops(db: Target, mode: str, left: str) -> None:
    """Where no row is left at or above the position, what comes below it would never be read: SetBack. With
    ``set_back: report`` nothing is read, the position stays, and the report warns."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(1, 1), (2, 9)])
    loaded = Loaded(mode)
    first = loaded.sync(source(db, **by("at")))
    db.run(f"DELETE FROM orders WHERE NOT ({left})")
    with pytest.raises(SetBack, match="no row has at at or above the position"):
        loaded.sync(source(db, **by("at")))
    window = loaded.sync(source(db, **by("at", set_back="report")))
    assert (window.parts, window.position) == ((), first.position)
    assert "no row has at at or above the position" in window.warnings[0]
    insert(db, [(3, 10)])
    loaded.sync(source(db, **by("at")))
    assert loaded.rows[-1] == (3, 10)


def test_lookback_finds_late_rows_with_merge(db: Target) -> None:
    """A row that came late, within the lookback, is read; one below it is not."""
    db.run("CREATE TABLE orders (id INTEGER, at TIMESTAMP)")
    loaded = Loaded("merge")
    insert(db, [(1, "2024-01-01 00:01:00")])
    loaded.sync(source(db, **by("at", lookback=30)))
    insert(db, [(2, "2024-01-01 00:00:30"), (3, "2024-01-01 00:00:29")])
    loaded.sync(source(db, **by("at", lookback=30)))
    assert [row[0] for row in loaded.rows] == [1, 2]


@pytest.mark.parametrize("options", [{}, by("at")], ids=["snapshot", "cursor"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("filled", [False, True])
def test_an_epoch_is_that_of_the_position_before(
    db: Target, options: dict[str, Any], whole: bool, filled: bool
) -> None:
    """The first position of a stream is of epoch 0, every other of the epoch of the one it was read after."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    if filled:
        insert(db, [(1, 1)])
    first, _ = read(source(db, **options), whole=whole)
    again, _ = read(source(db, **options), first.position.at_epoch(3), whole=whole)
    assert (first.position.epoch, again.position.epoch) == (0, 3)


def test_a_whole_window_reads_everything_and_moves_the_position(db: Target) -> None:
    """When the target is to be replaced, the position does not limit the read, and is set to the snapshot's end."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    insert(db, [(1, 1), (2, 2)])
    window, _ = read(source(db, **by("at")))
    insert(db, [(3, 3)])
    whole, rows = read(source(db, **by("at")), window.position, whole=True, mode="full_refresh")
    assert (rows, whole.whole, whole.position.value["hi"]) == ([(1, 1), (2, 2), (3, 3)], True, "3")
    assert read(source(db, **by("at")), whole.position, mode="append")[1] == []


@pytest.mark.parametrize("change", ["file", "table", "column", "kind"])
def test_another_source_stops_the_run(db: Target, tmp_path: Path, change: str) -> None:
    """A position of another file, table, column or way of reading is never resumed."""
    for path in (db.path, tmp_path / "other.db"):
        Target(path).run("CREATE TABLE orders (id INTEGER, at INTEGER)", "INSERT INTO orders VALUES (1, 1)")
    db.run("CREATE TABLE other AS SELECT * FROM orders")
    window, _ = read(source(db, **by("at")))
    readers = {
        "file": lambda: source(Target(tmp_path / "other.db"), **by("at")),
        "table": lambda: source(db, "other", **by("at")),
        "column": lambda: source(db, **by("id")),
        "kind": lambda: source(db),
    }
    with pytest.raises(IdentityChanged, match="--full-refresh"):
        read(readers[change](), window.position)


@pytest.mark.parametrize(
    "options",
    [by("nope"), by("at", key=("nope",)), by("at", lookback=5)],
)
def test_wrong_incremental_options_are_one_clear_line(db: Target, options: dict[str, Any]) -> None:
    """A missing column, or a lookback with append, is a configuration error."""
    db.run("CREATE TABLE orders (id INTEGER, at INTEGER)")
    with pytest.raises(ConfigError):
        read(source(db, **options))


def test_sqlite_has_no_xmin(db: Target) -> None:
    """A way of reading that SQLite lacks is refused at once."""
    with pytest.raises(ConfigError, match="use by: cursor"):
        source(db, incremental=Incremental("xmin"))


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("2024-01-02", 86400, "2024-01-01"),
        ("2024-01-02 00:00:00", 1, "2024-01-01 23:59:59"),
        ("2024-01-02T00:00", 60, "2024-01-01T23:59"),
        ("2024-01-01 00:00:00.1234567", 0.1, "2024-01-01 00:00:00.0234560"),
        ("2024-01-01 00:00:00.5+00:00", 1, "2023-12-31 23:59:59.5+00:00"),
        ("0001-01-01 00:00:00", 1, "0001-01-01 00:00:00"),
    ],
)
def test_times_are_moved_in_their_own_notation(text: str, seconds: float, expected: str) -> None:
    """A lookback keeps the notation of the value, so that texts still compare, and is never shorter than asked."""
    assert earlier(text, seconds) == expected


def test_numbers_are_moved_exactly() -> None:
    """A lookback on a number is exact decimal arithmetic."""
    assert less("12345678901234567890.5", 0.5) == "12345678901234567890.0"


def test_digests_are_those_of_earlier_versions() -> None:
    """Positions hold them: a digest that changes would make every loaded row of the last value look new. (The value is
    that of ``printf int:1:1str:1:aNoneType:4:Nonebytes:2:xyfloat:3:2.5 | b2sum -l 96``.)"""
    assert digest((1, "a", None, b"xy", 2.5)) == "7323c8964bd5896714504b7d"


def test_digests_tell_rows_apart() -> None:
    """Where values end, their kinds and NULL are all part of the digest."""
    rows = [
        ("a", "bc"),
        ("ab", "c"),
        ("a", None),
        ("a", ""),
        (1, "1"),
        ("1", 1),
        (1.0, "1"),
        (b"a", "bc"),
        ("a", "bc", None),
    ]
    assert len({digest(row) for row in rows}) == len(rows)
