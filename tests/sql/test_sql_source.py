"""What every SQL source has from ``dpone.sql``: here over sqlite3, with as little as a connector can give."""

from __future__ import annotations

import datetime as dt
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.contract import Window, WindowRequest
from dpone.errors import ConfigError, DataError, SourceError
from dpone.model.bounds import Bounds
from dpone.model.pipeline import Incremental, SourceOptions, SourceSpec
from dpone.model.position import Position
from dpone.model.schema import LOAD_ID, Name
from dpone.model.secret import Secret
from dpone.sql.cursor import cursor_column, digest
from dpone.sql.cursored import SqlCursor
from dpone.sql.source import SqlSource, new_rows, what, within, within_project
from dpone.sql.system import SqlSystem

NEW = WindowRequest()


class Cursor(sqlite3.Cursor):
    """By the letter of PEP 249: nothing is fetched after a statement without rows."""

    def fetchall(self) -> list[Any]:
        if self.description is None:
            raise sqlite3.InterfaceError("the statement before has no rows")
        return super().fetchall()

    def __iter__(self) -> Any:
        raise TypeError("PEP 249 need not let a cursor be iterated")


class Strict(sqlite3.Connection):
    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)


class File(SqlSystem):
    dialect, driver = SqliteDialect(), sqlite3

    def __init__(self, connection: Secret | None, base: Path) -> None:
        self.path, self.place = base, str(base)

    def connect(self, *, source: bool) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, factory=Strict)


class Least(SqlSource):
    """The abstract members, and nothing else."""

    @classmethod
    def system_of(cls, spec: SourceSpec) -> File:
        return File(None, spec.base)

    def __init__(self, path: Path, query: str | None = None, **options: Any) -> None:
        table = None if query else Name(("orders",))
        super().__init__(SourceSpec("least", None, table, query, options=SourceOptions(**options), base=path))
        self.path, self.opened = path, 0

    def connect(self) -> sqlite3.Connection:
        self.opened += 1
        db: sqlite3.Connection = super().connect()
        return db

    def failing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, after: Position | None) -> None:
        self.rows("BEGIN")

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        return pa.schema([("id", pa.int64()), ("name", pa.string())])

    def listed(self, everywhere: bool) -> Iterator[Name]:
        return (Name(found) for found in self.rows("SELECT name FROM sqlite_master"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE orders (id, name)")
        db.executemany("INSERT INTO orders VALUES (?, ?)", [(i, f"n{i}") for i in range(1, 251)])
        db.execute("CREATE TABLE __dpone__loads (x)")
    return tmp_path / "a.db"


def run(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql)


def drained(source: SqlSource, window: Window) -> list[pa.RecordBatch]:
    found = []
    for part in window.parts:
        with source.read(part) as stream:
            found += list(stream.batches())
    return found


def ids(batches: list[pa.RecordBatch]) -> list[int]:
    return [id for batch in batches for id in batch.column("id").to_pylist()]


@pytest.mark.parametrize("query", [None, "SELECT * FROM orders -- all of it"])
def test_six_members_are_a_source(path: Path, query: str | None) -> None:
    """A window of one moment, whole and by cursor; nothing is opened before, and nothing left open."""
    with closing(Least(path, query, incremental=Incremental("cursor", "id"))) as source:
        assert source.opened == 0
        first = source.window(None, WindowRequest(batch_rows=100))
        run(path, "INSERT INTO orders VALUES (251, 'late')")
        batches = drained(source, first)
        assert [batch.num_rows for batch in batches] == [100, 100, 50]
        assert ids(batches) == list(range(1, 251))
        run(path, "INSERT INTO orders VALUES (251, 'late')")
        second = source.window(first.position, NEW)
        assert ids(drained(source, second)) == [251, 251]
        assert source.window(second.position, NEW).parts == ()
        assert source._db is None
    with closing(Least(path, query)) as source:
        window = source.window(None, NEW)
        assert window.whole
        assert len(ids(drained(source, window))) == 252


def test_tables_are_listed_without_dpone_s_own(path: Path) -> None:
    """By a pattern, sorted."""
    run(path, "CREATE TABLE lines (x)")
    with closing(Least(path)) as source:
        assert source.tables("*") == ["lines", "orders"]
        assert source.tables("o*") == ["orders"]


def test_columns_are_described_by_their_native_types(path: Path) -> None:
    """Without those that dpone adds to a target; no column is no table, and a type that nobody knows is no text."""
    with closing(Least(path)) as source:
        found = [("id", "bigint"), ("at", "date"), (LOAD_ID, "text")]
        assert source.described(found) == pa.schema([("id", pa.int64()), ("at", pa.date32())])
        assert source.described(found[2:]) == pa.schema([])
        with pytest.raises(SourceError, match="the table does not exist"):
            source.described([])
        with pytest.raises(SourceError, match="dpone does not support column x of type polygon"):
            source.described([*found, ("x", "polygon")])


class Described(Least):
    as_table = "CREATE TEMP VIEW {} AS {}"

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        found = self.rows(f"SELECT name FROM pragma_table_info('{self.seen.last}')")
        return self.described((name, "bigint") for (name,) in found)


def test_a_query_is_described_by_what_is_made_of_it(path: Path) -> None:
    """Once for each connection, and gone with it; of a table nothing is made."""
    with closing(Described(path, "SELECT id AS other FROM orders -- all of it")) as source:
        for _ in range(2):
            assert source.schema().names == ["other"]
            assert len(drained(source, source.window(None, NEW))) > 0
    with closing(Described(path)) as source:
        assert source.schema().names == ["id", "name"]
        assert source.rows("SELECT name FROM sqlite_temp_master") == []


def test_a_connection_on_which_a_query_cannot_be_described_is_closed(path: Path) -> None:
    """The next question begins from the start."""
    with closing(Described(path, "SELECT FROM orders")) as source:
        for opened in (1, 2):
            with pytest.raises(sqlite3.OperationalError):
                source.rows("SELECT 1")
            assert (source.opened, source._db) == (opened, None)


class Lasting(Least):
    """Its connection outlives the snapshot."""

    def finish(self) -> None:
        if self._db.in_transaction:
            self.rows("ROLLBACK")


@pytest.mark.parametrize("kind", [Least, Lasting])
def test_a_read_without_its_snapshot_is_refused(path: Path, kind: type[Least]) -> None:
    """Once the part was read, the source closed, or the connection lost, its rows are those of another moment."""
    with closing(kind(path)) as source:
        for lose in (source.end, source.close, source.disconnect):
            window = source.window(None, NEW)
            lose()
            with pytest.raises(SourceError, match="window's snapshot no longer exists"):
                drained(source, window)
        window = source.window(None, NEW)
        assert len(ids(drained(source, window))) == 250
        with pytest.raises(SourceError, match="window's snapshot no longer exists"):
            drained(source, window)


def test_a_question_for_columns_leaves_no_snapshot(path: Path) -> None:
    """``schema`` ends what it has opened, as others wait for the snapshot to end."""
    with closing(Described(path)) as source:
        assert source.schema().names == ["id", "name"]
        assert source._db is None


def test_a_wrong_value_is_named_by_column_and_row(path: Path) -> None:
    """The row is that of the read, over all batches; the value is not shown."""
    run(path, "UPDATE orders SET id = 'secret' WHERE id = 230")
    with closing(Least(path)) as source:
        window = source.window(None, WindowRequest(batch_rows=60))
        with pytest.raises(DataError) as caught:
            drained(source, window)
    assert "column id, row 230 of the read" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_batches_are_bounded_by_bytes(path: Path) -> None:
    """Large rows come in small batches, after the first one has shown how large they are."""
    run(path, f"UPDATE orders SET name = '{'x' * 400_000}'")
    with closing(Least(path)) as source:
        sizes = [batch.num_rows for batch in drained(source, source.window(None, NEW))]
    assert sum(sizes) == 250
    assert max(sizes[1:]) <= 20


def test_another_way_of_reading_is_refused_at_once(path: Path) -> None:
    """A SQL source has a cursor and nothing else, unless it says so itself."""
    with pytest.raises(ConfigError, match="the only way that least supports"):
        Least(path, incremental=Incremental("xmin"))


# ---- by cursor

KINDS = (
    2**63 - 1, -1, 0.1, -1e300, "a'b", "", Decimal("9" * 38), Decimal("1E-10"), dt.date(2026, 1, 31),
    dt.datetime(2026, 1, 31, 10, 30), dt.datetime(2026, 1, 31, 10, 30, 0, 5, dt.UTC), uuid.UUID(int=7),
)  # fmt: skip


def column(type_: pa.DataType) -> SqlCursor:
    table = SimpleNamespace(dialect=SqliteDialect(), relation="t", name="t")
    return SqlCursor(cast(SqlSource, table), pa.field("at", type_))


@pytest.mark.parametrize("given", KINDS, ids=repr)
def test_a_position_gives_back_what_the_driver_gave(given: Any) -> None:
    """To the last digit, of the same type: it is compared as that."""
    cursor = column(pa.null())
    value = cursor.value(given)
    assert isinstance(value.text, str)
    _, bound = cursor.bound(value)
    assert (bound.__class__, bound) == (given.__class__, given)


@pytest.mark.parametrize("given", [b"x", True, [1], dt.time(1)], ids=repr)
def test_what_no_position_can_hold_is_refused(given: Any) -> None:
    """One line that says what to choose."""
    with pytest.raises(ConfigError, match="numbers, times or texts"):
        column(pa.null()).value(given)


@pytest.mark.parametrize(
    ("type_", "given", "lookback", "below"),
    [
        (pa.int64(), 10, 2.5, 7),
        (pa.float64(), 10.0, 2.5, 7.5),
        (pa.decimal128(20, 2), Decimal("10.00"), 0.01, Decimal("9.99")),
        (pa.date32(), dt.date(2026, 3, 1), 86_400, dt.date(2026, 2, 28)),
        (pa.timestamp("us"), dt.datetime(2026, 3, 1), 0.5, dt.datetime(2026, 2, 28, 23, 59, 59, 500_000)),
    ],
)
def test_lookback_goes_down_in_the_kind_of_the_column(
    type_: pa.DataType, given: Any, lookback: float, below: Any
) -> None:
    """Never less far than it was asked to."""
    cursor = column(type_)
    assert cursor.bound(cursor.below(cursor.value(given), lookback))[1] == below
    with pytest.raises(ConfigError, match="remove lookback"):
        column(pa.string()).below(cursor.value("x"), 1)


def test_rows_that_were_loaded_are_left_out_once_each() -> None:
    """And what is remembered does not grow with the rows that are new."""
    skip = {digest(("a",)): 2, digest(("b",)): 1}
    assert new_rows([("a",), ("b",), ("c",)], skip).to_pylist() == [False, False, True]
    assert new_rows([("a",), ("a",), ("b",), ("d",)], skip).to_pylist() == [False, True, True, True]
    assert len(skip) == 2


# ---- parts and identity


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds("i", 1, 5), ('s."i" >= ? AND s."i" < ?', (1, 5))),
        (Bounds("i", None, 5, upper_inclusive=True), ('s."i" <= ?', (5,))),
        (Bounds("i"), ('s."i" IS NOT NULL', ())),
        (Bounds('a"b', null=True), ('s."a""b" IS NULL', ())),
    ],
)
def test_a_range_is_a_condition(bounds: Bounds, expected: tuple[str, tuple[Any, ...]]) -> None:
    """NULL is in no range but that of NULL."""
    assert within(SqliteDialect(), bounds) == expected


def test_a_source_is_known_by_its_place(tmp_path: Path) -> None:
    """A project may be moved as a whole; a query is its text, as earlier versions wrote it."""
    assert within_project(tmp_path / "data" / "a.db", tmp_path) == "data/a.db"
    assert within_project(tmp_path / "a.db", tmp_path / "project") == str(tmp_path / "a.db")
    assert what(Name(("s", "t")), "") == {"table": "s.t"}
    assert what(None, "SELECT 1") == {"query": "e004ebd5b5532a4b"}


def test_a_cursor_column_that_is_missing_is_named_with_twenty_others() -> None:
    """The line does not grow with the table."""
    names = [f"c{n}" for n in range(21)]
    with pytest.raises(ConfigError, match=r"^read t: incremental names at, but the columns are c0, .*c18, c19; corr"):
        cursor_column(Incremental("cursor", "at"), names, "append", "t")
