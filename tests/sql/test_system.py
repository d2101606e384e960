"""What the parts of a SQL connector share: its system, its hooks, and the catalogue that its source asks too."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dpone.capability import Support
from dpone.connectors.sqlite.database import SqliteDialect
from dpone.errors import Category, ConfigError, DataError, ErrorCodes, PluginError, SinkError, SourceError
from dpone.model.pipeline import SinkSpec, SourceSpec, StateSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Reference
from dpone.sql.plugin import SINK, SOURCE, STATE, sql_hooks
from dpone.sql.sink import SqlSink
from dpone.sql.source import SqlSource
from dpone.sql.state import SqlState
from dpone.sql.system import SqlSystem


class Acme(SqlSystem):
    dialect = SqliteDialect()
    driver = sqlite3
    codes = ErrorCodes(sqlstates={"55P03": Category.TRANSIENT})
    form = "acme://user:password@host:1234/database, with ?ca=FILE where needed"
    aliases = ("acme2",)
    options = ("ca",)

    def connect(self, *, source: bool) -> Any:
        db = sqlite3.connect(self.at.database, isolation_level=None)
        db.execute("ATTACH ? AS information_schema", (f"{self.at.database}.views",))
        return db


class AcmeDatabase(DbapiDatabase):
    system_class = Acme
    home = "'main'"
    writable = "i.generated = 0"

    def start(self, lock: str) -> None:
        self.execute("BEGIN")

    def hold(self, table: Name) -> None:
        raise NotImplementedError

    def references(self, table: Name) -> list[Reference]:
        return []


class AcmeSink(SqlSink):
    database_class = AcmeDatabase


class AcmeState(SqlState):
    database_class = AcmeDatabase


class AcmeSource(SqlSource):
    database_class = AcmeDatabase

    def begin(self, after: Position | None) -> None:
        self.rows("BEGIN")

    def native(self, column: Any) -> str:
        return "bigint" if column[0] == "n" else "text"


T = Name(("t",))


@pytest.fixture
def url(tmp_path: Path) -> Secret:
    """Of a database with a table of a generated column, and what information_schema would say of it."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (n INTEGER, x TEXT, g TEXT AS (x || '!'))")
        db.execute("INSERT INTO t (n, x) VALUES (1, 'a')")
    with closing(sqlite3.connect(f"{path}.views")) as db, db:
        db.execute("CREATE TABLE tables (table_schema, table_name)")
        own = [("main", "__dpone__x"), ("sales", "__dpone__x")]
        named = [("main", "t"), ("sys", "s"), ("sales", "t"), ("sales", "a.b"), ("other", "t"), *own]
        db.executemany("INSERT INTO tables VALUES (?, ?)", named)
        db.execute(
            "CREATE TABLE columns (table_schema, table_name, ordinal_position, column_name, data_type, is_nullable, "
            "column_default, generated, numeric_precision, numeric_scale)"
        )
        rows = [("n", "bigint", 0), ("x", "text", 0), ("g", "text", 1)]
        values = [
            ("main", "t", place, name, native, "YES", None, made, None, None)
            for place, (name, native, made) in enumerate(rows)
        ]
        db.executemany("INSERT INTO columns VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    return Secret(f"acme://u:hunter2@h/{path}")


@pytest.mark.parametrize("text", ["acme://u:hunter2@h/db", "acme2://u:hunter2@h:1234/db?ca=x"])
def test_an_address_is_read_by_its_form(text: str) -> None:
    """Scheme and default port are those of ``form``; user and password are in no place."""
    system = Acme(Secret(text), Path())
    assert (system.at.port, system.at.user, system.at.password.reveal()) == (1234, "u", "hunter2")
    assert system.place == "h:1234/db"


@pytest.mark.parametrize("text", ["", "other://h/db", "acme://h", "acme://h/db?tls=off"])
def test_another_address_is_refused_with_the_form(text: str) -> None:
    """What to write is the form itself."""
    with pytest.raises(ConfigError) as caught:
        Acme(Secret(text) if text else None, Path())
    assert caught.value.todo == f"write {Acme.form}"


@pytest.mark.parametrize(
    ("state", "category"), [("55P03", Category.TRANSIENT), ("08006", Category.TRANSIENT), (None, SinkError.category)]
)
def test_errors_have_the_category_of_their_sqlstate(state: str | None, category: Category) -> None:
    """By ``codes``, then by the class; a driver without SQLSTATEs has none."""
    error = sqlite3.OperationalError("no")
    if state:
        error.sqlstate = state  # type: ignore[attr-defined]
    with pytest.raises(SinkError) as caught, Acme(Secret("acme://h/db"), Path()).failing(SinkError, "load"):
        raise error
    assert caught.value.category is category


def test_a_key_that_exists_is_recognized_by_its_sqlstate() -> None:
    """23505, whatever the class of the error."""
    system, error = Acme(Secret("acme://h/db"), Path()), sqlite3.IntegrityError("no")
    assert not system.repeats(error)
    error.sqlstate = "23505"  # type: ignore[attr-defined]
    assert system.repeats(error)


def test_sink_and_state_are_made_of_a_database(url: Secret) -> None:
    """By the connection that the pipeline names."""
    place = Acme(url, Path()).place
    sink = AcmeSink(SinkSpec("acme", Strategy("append"), url, T))
    assert [field.name for field in sink.schema() or ()] == ["n", "x"]  # rows bring no generated column
    assert AcmeState(StateSpec("acme", url)).database().place == place  # type: ignore[attr-defined]


def read(spec: SourceSpec) -> pa.Schema:
    with closing(AcmeSource(spec)) as source:
        return source.schema()


def test_a_source_asks_the_catalogue_of_its_database(url: Secret) -> None:
    """Generated columns are read too; of a query the cursor says what there is; dpone's own tables are not listed."""
    types = [pa.int64(), pa.string(), pa.string()]
    assert read(SourceSpec("acme", url, T)) == pa.schema(zip("nxg", types, strict=True))
    assert read(SourceSpec("acme", url, None, "SELECT x, n FROM t")) == pa.schema(
        [("x", pa.string()), ("n", pa.int64())]
    )
    with closing(AcmeSource(SourceSpec("acme", url, T))) as source:
        assert source.tables("*") == ["t"]
        assert source.identity() == {"place": source.place, "table": "t"}
    with pytest.raises(SourceError, match="the table does not exist"):
        read(SourceSpec("acme", url, Name(("nowhere",))))


@pytest.mark.parametrize(("pattern", "found"), [
    ("*", ["t"]),
    ("main.*", ["main.t"]),
    ("sales.*", ['sales."a.b"', "sales.t"]),
    ('sales."a.b"', ['sales."a.b"']),
    ("[os]*.t", ["other.t", "sales.t"]),
    ('"a.b"', []),
    ("sys.*", []),
])  # fmt: skip
def test_a_source_lists_the_schema_that_is_named(url: Secret, pattern: str, found: list[str]) -> None:
    """Else the current one alone: a table of another schema is not what its bare name leads to."""
    with closing(AcmeSource(SourceSpec("acme", url, T))) as source:
        assert source.tables(pattern) == found


def test_the_catalogue_of_a_source_ends_no_snapshot(url: Secret) -> None:
    """It goes over the same connection, also of a driver without autocommit, and fails as a source."""
    with closing(AcmeSource(SourceSpec("acme", url, T))) as source:
        source.begin(None)
        asked = source.catalog()
        asked.autocommit = False  # type: ignore[misc]
        asked.rows("SELECT 1")
        assert source.connection().in_transaction
        with pytest.raises(SourceError):
            asked.rows("SELECT * FROM nowhere")
        assert source.connection().in_transaction


def hooks(**more: Any) -> Any:
    given = {"source": "m:S", "sink": "m:K", "state": "m:T", "errors": "m:CODES", "harness": "m:H", **more}
    return [made[0] if (made := hook()) else None for hook in sql_hooks("acme", **given)]


def test_the_hooks_declare_what_the_bases_can_do() -> None:
    """More by ``adds``, never by ``lacks``, each for every role that knows the word."""
    source, sink, state = hooks(adds=("late_commits",), lacks=("native_stream", "refuse"))
    supported = [{n for n, s in one.capabilities.items() if s is Support.SUPPORTED} for one in (source, sink, state)]
    assert supported == [{*SOURCE, "late_commits"}, {*SINK} - {"refuse"}, {*STATE}]
    never = [{n for n, s in one.capabilities.items() if s is Support.UNSUPPORTED} for one in (source, sink, state)]
    assert never == [{"native_stream"}, {"native_stream", "refuse"}, set()]
    assert (sink.commit, source.commit) == ("transaction", None)
    assert [one.takes for one in (source, sink, state)] == [
        ("connection", "table", "query"), ("connection", "table"), ("connection",)
    ]  # fmt: skip
    assert hooks(state="")[2] is None


@pytest.mark.parametrize("which", ["adds", "lacks"])
def test_an_unknown_capability_is_refused(which: str) -> None:
    """A word that no role knows would have no effect."""
    with pytest.raises(PluginError, match="unknown capabilities: refuses"):
        hooks(**{which: ("refuses",)})


def test_a_row_at_fault_is_a_data_error() -> None:
    """Of whichever kind the caller is."""
    with pytest.raises(DataError), Acme(Secret("acme://h/db"), Path()).failing(SourceError, "read"):
        raise sqlite3.IntegrityError("secret")
