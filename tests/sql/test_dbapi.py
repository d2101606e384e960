"""What every Database over a DB-API driver has from ``dpone.sql``: here over sqlite3, with as little as a connector can
give."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pyarrow as pa
import pytest

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.contract import Load
from dpone.errors import DataError, ErrorCodes, SinkError
from dpone.model.pipeline import SinkSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql import driver_errors as sql
from dpone.sql.catalog import foreign_keys
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Reference, transaction
from dpone.sql.sink import SqlSink
from dpone.sql.system import SqlSystem

T = Name(("t",))
failing = partial(sql.failing, sqlite3, ErrorCodes())


class File(SqlSystem):
    """Of a database that is a file."""

    dialect, driver = SqliteDialect(), sqlite3

    def __init__(self, connection: Secret | None, base: Path) -> None:
        self.path, self.place = base, str(base)

    def connect(self, *, source: bool) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, 0.1, isolation_level=None)
        db.execute("ATTACH ? AS information_schema", (f"{self.path}.views",))
        return db


class Least(DbapiDatabase):
    """The abstract members. Of ``information_schema`` there are as many views as a test makes."""

    home = "'main'"

    def __init__(self, path: Path) -> None:
        super().__init__(File(None, path))
        self.path, self.did, self.refused = path, list[str](), ""

    def connect(self) -> sqlite3.Connection:
        self.did.append("connect")
        db: sqlite3.Connection = super().connect()
        return db

    def start(self, lock: str) -> None:
        self.did.append(f"lock {lock}")
        self.execute(self.refused or "BEGIN")

    def unlock(self) -> None:
        self.did.append("unlock" if self._db is not None else "unlock, closed")

    def hold(self, table: Name) -> None:
        raise NotImplementedError


VIEWS = (
    "columns (table_schema, table_name, column_name, ordinal_position, is_nullable, data_type, column_default, "
    "numeric_precision, numeric_scale)",
    "tables (table_schema, table_name, table_type)",
    "views (table_schema, table_name, view_definition)",
    "table_constraints (constraint_catalog, constraint_schema, constraint_name, table_schema, table_name, "
    "constraint_type)",
    "key_column_usage (constraint_catalog, constraint_schema, constraint_name, table_schema, table_name, column_name, "
    "ordinal_position, position_in_unique_constraint)",
    "referential_constraints (constraint_catalog, constraint_schema, constraint_name, unique_constraint_catalog, "
    "unique_constraint_schema, unique_constraint_name, delete_rule)",
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Least]:
    with closing(Least(tmp_path / "a.db")) as db:
        for view in VIEWS:
            db.execute(f"CREATE TABLE information_schema.{view}")
        db.did.clear()
        yield db


def seen(db: Least, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db.path)) as other:
        return other.execute(sql).fetchall()


# ---- the connection and its transactions


def test_it_is_opened_when_first_used_and_again_after_a_close(tmp_path: Path) -> None:
    """And a close is not asked twice of the driver."""
    with closing(Least(tmp_path / "a.db")) as db:
        assert db.did == []
        assert db.rows("SELECT ?", (1,)) == [(1,)]
        db.close()
        db.close()
        assert db.rows("SELECT 2") == [(2,)]
        assert db.did == ["connect", "connect"]


def test_what_a_statement_found_is_counted(db: Least) -> None:
    """Of a statement that counts nothing, nothing."""
    assert db.execute("CREATE TABLE t (a)") == 0
    assert db.execute("INSERT INTO t VALUES (?), (2)", (1,)) == 2
    assert db.execute("UPDATE t SET a = a") == 2


def test_a_driver_s_error_is_one_of_dpone(db: Least) -> None:
    """With what failed, and where."""
    with pytest.raises(SinkError, match=r"^write .*a\.db: near"):
        db.execute("CREATE nothing")
    with pytest.raises(SinkError, match=r"^read .*a\.db: no such table"):
        db.rows("SELECT * FROM nowhere")


@pytest.mark.parametrize(("end", "kept"), [("commit", 1), ("rollback", 0), ("close", 0)])
def test_each_end_of_a_transaction_lets_go_of_the_lock_once(db: Least, end: str, kept: int) -> None:
    """A commit keeps what was written, the others do not; what ends nothing does nothing."""
    db.execute("CREATE TABLE t (a)")
    db.did.clear()
    db.begin("x")
    db.execute("INSERT INTO t VALUES (1)")
    getattr(db, end)()
    db.rollback()
    db.close()
    assert db.did == ["lock x", "unlock, closed" if end == "close" else "unlock"]
    assert len(seen(db, "SELECT * FROM t")) == kept


def test_a_transaction_that_does_not_begin_holds_nothing(db: Least) -> None:
    """Whatever ``start`` had done when it failed."""
    db.refused = "BEGIN nothing"
    with pytest.raises(SinkError, match="nothing"), transaction(db, "x"):
        raise AssertionError
    assert db.did == ["lock x", "unlock, closed"]
    db.refused = ""
    with transaction(db, "x"):
        db.execute("CREATE TABLE t (a)")
    assert seen(db, "SELECT * FROM t") == []


def test_what_cannot_be_rolled_back_ends_with_its_connection(db: Least) -> None:
    """As after a commit that has ended the transaction, or a server that is gone."""
    db.begin("x")
    db.execute("COMMIT")
    db.rollback()
    assert db.did == ["lock x", "unlock, closed"]


def test_a_connection_that_is_gone_is_closed(db: Least) -> None:
    """Nobody waits for it, and nothing is raised."""

    class Gone:
        def close(self) -> None:
            raise OSError("the server went away")

    db.close()
    db._db = Gone()
    db.close()
    assert db.rows("SELECT 1") == [(1,)]


# ---- a driver without autocommit


class Cursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = ()) -> Cursor:
        if not self.connection.in_transaction:
            super().execute("BEGIN")
        super().execute(sql, parameters)
        return self

    def fetchall(self) -> list[Any]:
        if self.description is None:
            raise sqlite3.InterfaceError("the statement before has no rows")
        return super().fetchall()


class Standard(sqlite3.Connection):
    """By the letter of PEP 249: a transaction begins with the first statement, and nothing is fetched after what has no
    rows."""

    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)


class Unended(Least):
    autocommit = False

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, 0.1, isolation_level=None, factory=Standard)

    def start(self, lock: str) -> None:
        self.rows("DELETE FROM t WHERE a = 0")  # as a lock that has no rows to fetch

    def counted(self, cursor: Any) -> int:
        return super().counted(cursor) * 10


@pytest.fixture
def unended(tmp_path: Path) -> Iterator[Unended]:
    with closing(Unended(tmp_path / "a.db")) as db:
        db.execute("CREATE TABLE t (a)")
        yield db


@pytest.mark.parametrize(("end", "kept"), [("commit", [(1,)]), ("rollback", []), ("close", [])])
def test_a_driver_without_autocommit_ends_its_transactions(unended: Unended, end: str, kept: list[Any]) -> None:
    """By its connection, and each end lets go of the lock; then what stands alone is committed at once."""
    unended.begin("x")
    assert unended.execute("INSERT INTO t VALUES (1)") == 10
    assert unended.rows("SELECT a FROM t") == [(1,)]
    assert seen(unended, "SELECT a FROM t") == []
    getattr(unended, end)()
    assert unended.did == ["unlock, closed" if end == "close" else "unlock"]
    assert seen(unended, "SELECT a FROM t") == kept
    unended.execute("INSERT INTO t VALUES (2)")
    assert seen(unended, "SELECT a FROM t") == [*kept, (2,)]
    assert unended.rows("SELECT COUNT(*) FROM t") == [(len(kept) + 1,)]
    assert not unended.connection().in_transaction  # a look holds nothing either


@pytest.mark.parametrize("ddl_commits", [True, False])
def test_ddl_of_a_driver_without_autocommit_commits_where_it_is_said(unended: Unended, ddl_commits: bool) -> None:
    """With what was open before it; what follows is a transaction again."""
    unended.dialect = Committing() if ddl_commits else SqliteDialect()
    unended.begin("x")
    unended.execute("INSERT INTO t VALUES (1)")
    unended.execute(" create TABLE u (b)")
    unended.execute("INSERT INTO t VALUES (2)")
    unended.rollback()
    assert seen(unended, "SELECT a FROM t") == ([(1,)] if ddl_commits else [])
    assert seen(unended, "SELECT name FROM sqlite_master WHERE name = 'u'") == ([("u",)] if ddl_commits else [])


def test_what_fails_alone_leaves_no_transaction(unended: Unended) -> None:
    """The next statement would be in it, under a lock that nobody has asked for."""
    with pytest.raises(SinkError, match="no such table"):
        unended.execute("INSERT INTO nowhere VALUES (1)")
    assert not unended.connection().in_transaction


# ---- loading

LINEAGE = {"load": "one", "n": 7}


def loaded(db: Least, key: str = "") -> int:
    schema = pa.schema([("id", pa.int64()), ("at", pa.date32())])
    rows = pa.record_batch({"id": [1, 2, 1], "other": ["x", "y", "z"], "at": pa.array([0, None, 1], pa.date32())})
    db.execute(f"CREATE TABLE t (at, id{key}, load, n)")
    return db.load(T, schema, [rows.slice(0, 2), rows.slice(2), rows.slice(0, 0)] * 2, LINEAGE)


def test_rows_are_inserted_by_name_with_what_is_the_same_in_each(db: Least) -> None:
    """Once for each time that they come, where the table has no key."""
    assert loaded(db) == 6
    once = [(1, "1970-01-01", "one", 7), (2, None, "one", 7), (1, "1970-01-02", "one", 7)]
    assert db.rows("SELECT id, at, load, n FROM t") == once * 2


def test_a_driver_is_given_no_empty_list_of_rows(db: Least, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some refuse it in ``executemany``; a batch may have no row."""
    given, insert = [], db.insert

    def noted(cursor: Any, sql: str, rows: list[tuple[Any, ...]]) -> None:
        given.append(len(rows))
        insert(cursor, sql, rows)

    monkeypatch.setattr(db, "insert", noted)
    loaded(db)
    assert given == [2, 1, 2, 1]


def test_a_row_that_repeats_a_key_is_left_out(db: Least) -> None:
    """Those that were there do not count."""
    key = "information_schema.key_column_usage VALUES ('c', 's', 'k', 'main', 't', 'id', 1, NULL)"
    for line in (key, "information_schema.table_constraints VALUES ('c', 's', 'k', 'main', 't', 'PRIMARY KEY')"):
        db.execute(f"INSERT INTO {line}")
    assert loaded(db, " PRIMARY KEY") == 2
    assert db.rows("SELECT id, at FROM t") == [(1, "1970-01-01"), (2, None)]


@pytest.mark.parametrize("known", [True, False])
def test_without_words_for_a_key_that_exists_such_a_row_is_skipped(
    db: Least, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """It fails alone and is not counted; any other failure stops the load."""
    monkeypatch.setattr(db, "primary_key", lambda table: ("id",))
    monkeypatch.setattr(db.dialect, "skip_existing", lambda key: "", raising=False)
    monkeypatch.setattr(db.system, "repeats", lambda error: known, raising=False)
    if not known:
        with pytest.raises(DataError, match="load t"):
            loaded(db, " PRIMARY KEY")
        return
    assert loaded(db, " PRIMARY KEY") == 2
    assert db.rows("SELECT id, at FROM t") == [(1, "1970-01-01"), (2, None)]


def test_a_value_that_is_refused_is_named_by_its_column(db: Least) -> None:
    """It may be a secret, so it is not shown."""
    db.execute("CREATE TABLE t (id)")
    rows = pa.record_batch({"id": ["secret"]})
    with pytest.raises(DataError, match="load rows: column id: ") as caught:
        db.load(T, pa.schema([("id", pa.int64())]), [rows], {})
    assert "secret" not in str(caught.value)


# ---- the catalogue


def lines(db: Least, view: str, *values: tuple[Any, ...]) -> None:
    holes = ", ".join("?" * len(values[0]))
    for one in values:
        db.execute(f"INSERT INTO information_schema.{view} VALUES ({holes})", one)


def test_columns_are_those_of_the_schema_that_is_meant(db: Least) -> None:
    """In their order, with what may be NULL and what has a default; a type that nobody knows is a text, a decimal has
    its digits, and an integer of one byte has room for those with a sign and those without."""
    lines(
        db, "columns",
        ("main", "t", "b", 2, "YES", "numeric(9,2)", None, 9, 2), ("main", "t", "a", 1, "NO", "bigint", "7", 64, 0),
        ("main", "t", "c", 3, "YES", "polygon", None, None, None), ("main", "t", "d", 4, "NO", "DECIMAL", None, 12, 0),
        ("main", "t", "e", 5, "NO", "tinyint", None, 8, 0), ("main", "t", "f", 6, "NO", "numeric", None, None, None),
        ("other", "t", "z", 1, "NO", "date", None, None, None), ("main", "u", "y", 1, "NO", "date", None, None, None),
    )  # fmt: skip
    found = db.schema(T)
    assert found is not None
    assert [(f.name, f.type, f.nullable, bool(f.metadata)) for f in found] == [
        ("a", pa.int64(), False, True), ("b", pa.decimal128(9, 2), True, False), ("c", pa.string(), True, False),
        ("d", pa.decimal128(12, 0), False, False), ("e", pa.int16(), False, False), ("f", pa.string(), False, False),
    ]  # fmt: skip
    other = db.schema(Name(("other", "t")))
    assert other is not None
    assert other.names == ["z"]
    assert db.schema(Name(("other", "u"))) is None


def test_tables_are_found_by_what_their_names_begin_with(db: Least) -> None:
    """Letter for letter: what stands for any letter in a pattern stands for itself."""
    names = ("__dpone__a", "xxdponexxb", "!a", "%b", "orders")
    lines(db, "tables", *(("main", name, "BASE TABLE") for name in names), ("main", "__dpone__v", "VIEW"))
    lines(db, "tables", ("other", "__dpone__z", "BASE TABLE"))
    assert db.tables(T, "__dpone__") == [Name(("__dpone__a",))]
    assert db.tables(T, "!") == [Name(("!a",))]
    assert db.tables(T, "%") == [Name(("%b",))]
    assert db.tables(Name(("other", "t")), "__") == [Name(("other", "__dpone__z"))]


def test_keys_are_what_the_server_calls_primary_or_unique(db: Least) -> None:
    """Of this table alone, though another has a key of the same name."""
    rules = (("pk", "PRIMARY KEY"), ("u", "UNIQUE"), ("f", "FOREIGN KEY"))
    lines(db, "table_constraints", *(("c", "s", name, "main", "t", kind) for name, kind in rules))
    lines(db, "table_constraints", ("c", "s", "pk", "main", "other", "PRIMARY KEY"))
    columns = (("pk", "day", 2), ("pk", "id", 1), ("u", "name", 1), ("f", "of", 1))
    lines(db, "key_column_usage", *(("c", "s", key, "main", "t", name, at, None) for key, name, at in columns))
    lines(db, "key_column_usage", ("c", "s", "pk", "main", "other", "x", 1, None))
    assert db.primary_key(T) == ("id", "day")
    wanted = (("id", "day"), ("name",), ("id",), ("of",), ("id", "day", "name"))
    assert [key for key in wanted if db.unique(T, key)] == [("id", "day"), ("name",)]
    assert db.primary_key(Name(("nowhere",))) == ()
    assert not db.unique(Name(("nowhere",)), ())


def test_a_server_may_have_a_catalogue_of_its_own(db: Least, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its columns and keys the rest is made, and information_schema is not asked."""
    db.execute("DROP TABLE information_schema.columns")
    db.execute("DROP TABLE information_schema.table_constraints")
    own = {T: [("a", "bigint", False, True, True), ("b", "polygon", 1, 0, 1), ("c", "bigint", 1, 1, 0)]}
    monkeypatch.setattr(db, "columns", lambda table: own.get(table, []))
    monkeypatch.setattr(db, "keys", lambda table: [("k", "b", True), ("k", "a", True), ("u", "b", False)])
    found = db.schema(T)
    assert found is not None
    assert [(f.name, f.type, f.nullable, bool(f.metadata)) for f in found] == [
        ("a", pa.int64(), False, True), ("b", pa.string(), True, False)
    ]  # fmt: skip
    assert db.schema(Name(("nowhere",))) is None
    assert db.primary_key(T) == ("b", "a")
    assert [key for key in (("a", "b"), ("b",), ("a",)) if db.unique(T, key)] == [("a", "b"), ("b",)]


def test_what_depends_on_a_table_is_found(db: Least, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views by their text, but for those of the server; keys that refer to it; and what the connector finds."""
    monkeypatch.setattr(db, "references", lambda table: [Reference(Name(("s", "r")))])
    monkeypatch.setattr(db, "attached", lambda table, column: [f"index of {column}"])
    lines(db, "views", ("main", "v", "SELECT a_b FROM t"), ("sys", "w", "SELECT a_b FROM t"), ("main", "x", "axb"))
    assert db.dependants(T, "a_b") == ["view v", "a reference from s.r", "index of a_b"]


def test_keys_that_refer_to_a_table_are_found(db: Least) -> None:
    """By the place of each column in the key that is referred to, in the order of the key that refers; a key of another
    table or schema that has the same name is another."""
    lines(
        db, "key_column_usage",
        ("c", "s", "pk", "main", "t", "id", 1, None), ("c", "s", "pk", "main", "t", "day", 2, None),
        ("c", "s", "f", "main", "r", "of_day", 1, 2), ("c", "s", "f", "main", "r", "of_id", 2, 1),
        ("c", "z", "pk", "other", "t", "x", 1, None), ("c", "s", "g", "main", "q", "x", 1, 1),
    )  # fmt: skip
    lines(
        db, "referential_constraints",
        ("c", "s", "f", "c", "s", "pk", "CASCADE"), ("c", "s", "g", "c", "s", "another", "NO ACTION"),
    )  # fmt: skip
    columns = (("of_day", "day"), ("of_id", "id"))
    assert db.references(T) == [Reference(Name(("main", "r")), columns, acts=True, immediate=True)]
    assert db.references(Name(("other", "t"))) == []


def test_a_table_is_the_same_while_columns_and_keys_are(db: Least) -> None:
    """``identity``: whatever the catalogue says of them; of a column, its own line alone."""
    line = ("main", "t", "a", 1, "NO", "bigint", None, 64, 0)
    lines(db, "columns", line, ("main", "t", "b", 2, "NO", "date", None, None, None))
    whole, of_a = db.identity(T), db.identity(T, "a")
    assert whole
    assert of_a
    assert (whole, of_a) == (db.identity(T), db.identity(T, "a"))
    for change in ("is_nullable = 'YES'", "data_type = 'smallint'", "column_default = '1'"):
        db.execute(f"UPDATE information_schema.columns SET {change} WHERE column_name = 'b'")
        assert db.identity(T) != whole
        assert db.identity(T, "a") == of_a
        db.execute("DELETE FROM information_schema.columns WHERE column_name = 'b'")
        lines(db, "columns", ("main", "t", "b", 2, "NO", "date", None, None, None))
        assert db.identity(T) == whole
    lines(db, "table_constraints", ("c", "s", "pk", "main", "t", "PRIMARY KEY"))
    lines(db, "key_column_usage", ("c", "s", "pk", "main", "t", "a", 1, None))
    assert db.identity(T) != whole


def test_a_foreign_key_is_made_of_its_lines() -> None:
    """One for each name of a table, its columns in their order; the rule says whether a deleted row takes others
    along."""
    lines = [
        ("s", "a", "f", "CASCADE", "x", "id"), ("s", "a", "f", "CASCADE", "y", "day"),
        ("s", "a", "g", "NO ACTION", "z", "id"), ("s", "b", "f", "SET NULL", "x", "id"),
    ]  # fmt: skip
    a, b = Name(("s", "a")), Name(("s", "b"))
    assert foreign_keys(lines) == [
        Reference(a, (("x", "id"), ("y", "day")), acts=True, immediate=True),
        Reference(a, (("z", "id"),), acts=False, immediate=True), Reference(b, (("x", "id"),), True, True),
    ]  # fmt: skip


# ---- what a server whose DDL commits does besides


class Committing(SqliteDialect):
    ddl_commits: ClassVar[bool] = True


def test_a_table_is_dropped_while_nobody_can_write_it(db: Least, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others wrote meanwhile is seen once they are kept out, and kept."""
    db.dialect = Committing()
    db.execute("CREATE TABLE t (a, b)")
    during: list[str] = []

    @contextmanager
    def alone(table: Name) -> Iterator[None]:
        for statement in during:
            db.execute(statement)
        yield
        db.did.append(f"{table} is let go of")

    monkeypatch.setattr(db, "alone", alone)
    during.append("INSERT INTO t (a) VALUES (1)")
    assert db.take_out(T) == "another program has written to it"
    assert db.take_out(T, "a") == "another program has written to it"
    assert len(db.rows("SELECT a FROM t")) == 2
    during.clear()
    assert db.take_out(T, "b") == ""
    db.execute("DELETE FROM t")
    assert db.take_out(T) == ""
    assert db.did.count("t is let go of") == 4
    with pytest.raises(SinkError, match="no such table"):
        db.rows("SELECT 1 FROM t")


def test_a_target_that_the_database_calls_unfit_is_not_loaded(db: Least, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made; the database is asked with the columns of the key and of the partition."""
    monkeypatch.setattr(db, "unfit", lambda table, by: (f"{table} is loose in {sorted(by)}", "make it tight"))
    sink = SqlSink(cast(SinkSpec, SimpleNamespace()), T, db)
    for strategy, by in ((Strategy("merge", key="a"), "a"), (Strategy("partition_replace", partition="b"), "b")):
        with pytest.raises(SinkError, match=rf"load t: t is loose in \['{by}'\]; make it tight"):
            sink.open(cast(Load, SimpleNamespace(strategy=strategy)))
    assert db.did == []
