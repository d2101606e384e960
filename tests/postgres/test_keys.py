"""Keys of every type through every strategy: equal by an independent reader, or refused by name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from attrs import evolve, frozen
from tests.postgres.stream import ChangeSource

from dpone.engine.run import run as run_pipeline
from dpone.model.report import StreamReport

pytestmark = pytest.mark.postgres


@frozen
class Key:
    """A type, three of its values, and how SQLite is to keep them. ``mirrors``: strategies of SQLite that take it."""

    type: str
    values: tuple[str, str, str]
    kept: tuple[Any, Any, Any] | None = None
    mirrored: bool = True

    @property
    def stored(self) -> tuple[Any, Any, Any]:
        return self.values if self.kept is None else self.kept


def _number(*values: int | float) -> tuple[Any, Any, Any]:
    one, two, three = values
    return one, two, three


U = "00000000-0000-0000-0000-00000000000"
KEYS: Mapping[str, Key] = {
    "int2": Key("smallint", ("1", "2", "-3"), _number(1, 2, -3)),
    "int4": Key("integer", ("1", "2", "-3"), _number(1, 2, -3)),
    "int8": Key("bigint", ("1", "2", "9007199254740993"), _number(1, 2, 9007199254740993)),
    "decimal": Key("numeric(12,2)", ("1.00", "2.50", "-3.00")),
    "numeric": Key("numeric", ("1", "2.5", "1e20"), ("1", "2.5", "100000000000000000000")),
    "float8": Key("double precision", ("0.1", "2", "-3"), _number(0.1, 2.0, -3.0)),
    "text": Key("text", ("a", "A", "é ")),
    "varchar": Key("varchar(9)", ("a", "A", "b ")),
    "char": Key("char(3)", ("a", "B", ""), ("a  ", "B  ", "   ")),
    "citext": Key("public.citext", ("Ab", "cd", "É"), mirrored=False),
    "uuid": Key("uuid", (U + "1", U + "2", U + "a")),
    "bool": Key("boolean", ("true", "false", "true"), _number(1, 0, 1)),
    "date": Key("date", ("2026-01-01", "0001-01-01", "1969-12-31")),
    "timestamp": Key(
        "timestamp",
        ("2026-01-01 00:00:00.000001", "2026-01-01", "1969-12-31 23:59:59.999999"),
        ("2026-01-01 00:00:00.000001", "2026-01-01 00:00:00.000000", "1969-12-31 23:59:59.999999"),
    ),
    "timestamptz": Key(
        "timestamptz",
        ("2026-01-01 02:00:00+02", "2026-01-01 02:00:00+00", "2026-01-01 02:00:00-02"),
        ("2026-01-01 00:00:00.000000+00:00", "2026-01-01 02:00:00.000000+00:00", "2026-01-01 04:00:00.000000+00:00"),
    ),
    "time": Key(
        "time",
        ("01:02:03", "00:00", "23:59:59.999999"),
        ("01:02:03.000000", "00:00:00.000000", "23:59:59.999999"),
    ),
    "bytea": Key("bytea", ("\\x00", "\\x0001", "\\xff"), (b"\0", b"\0\1", b"\xff")),
    "inet": Key("inet", ("10.0.0.1/9", "10.0.0.1/8", "::1/9")),
    "enum": Key("mood", ("sad", "glad", "mad")),
    "domain": Key("email", ("a@b", "A@b", "c@d")),
    "interval": Key("interval", ("1 day", "2 days", "3 days"), mirrored=False),
    "jsonb": Key('jsonb', ('{"a": 1}', "2", '"x"'), mirrored=False),
}  # fmt: skip
KEYED = ("merge", "scd2")  # strategies that keep a row which they do not meet
ROWS = ("merge", "snapshot_diff", "scd2", "replace", "partition_replace", "full_refresh")
CHANGES = ("cdc_apply", "scd2", "append")
SINKS = ("sqlite", "postgres")


@frozen
class Bench:
    """A table ``things`` of a key column (or two) and a number, and a pipeline of it."""

    source: ChangeSource
    folder: Path
    sink: str
    strategy: Mapping[str, Any]
    changes: bool = False
    options: Mapping[str, Any] = {}
    read: Mapping[str, Any] = {}

    def make(self, *columns: str) -> None:
        if any("citext" in column for column in columns):
            if not self.source.query("SELECT 1 FROM pg_available_extensions WHERE name = 'citext'"):
                pytest.skip("this PostgreSQL comes without the extension citext")
            self.source.run("CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public")
        self.source.run(
            "DROP TABLE IF EXISTS things, copy, __dpone__loads, __dpone__staging, __dpone__parts",
            "DROP TABLE IF EXISTS __dpone__columns, __dpone__commits",
            "DROP TYPE IF EXISTS mood", "DROP DOMAIN IF EXISTS email",
            "CREATE TYPE mood AS ENUM ('sad', 'glad', 'mad')", "CREATE DOMAIN email AS text",
            f"CREATE TABLE things ({', '.join(columns)}, n int)",
        )  # fmt: skip

    def publish(self) -> None:
        self.source.drop_slot()
        self.source.run(f"DROP PUBLICATION IF EXISTS {self.source.schema}")
        self.source.publish("things")

    def run(self, **more: Any) -> StreamReport:
        search = f"{self.source.server.url}?options=-csearch_path%3D{self.source.schema},public"
        options: dict[str, Any] = {}
        if self.changes:
            options = {"incremental": {"by": "cdc"}, "slot": self.source.slot, "publication": self.source.schema}
            options |= {"initial": self.read["initial"]} if "initial" in self.read else {}
        table = {"query": self.read["query"]} if "query" in self.read else {"table": f"{self.source.schema}.things"}
        sink = {"connection": f"sqlite:///{self.folder}/copy.db", "table": "copy"}
        if self.sink == "postgres":
            sink = {"connection": search, "table": f"{self.source.schema}.copy"}
        data = {
            "pipeline": self.read.get("pipeline", "p"),
            "source": {"type": "postgres", "connection": search, "options": options, **table},
            "sink": {"type": self.sink, "strategy": dict(self.strategy), "options": dict(self.options), **sink},
            "state": {"type": "sqlite", "connection": f"sqlite:///{self.folder}/state.db"},
            "runtime": {"retries": 0},
        }
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(data))
        [stream] = run_pipeline(path, **more).streams
        return stream

    def load(self, **more: Any) -> StreamReport:
        stream = self.run(**more)
        assert stream.error is None, stream.error
        return stream

    def tables(self) -> list[str]:
        """Of a SQLite target, without dpone's own."""
        with closing(sqlite3.connect(self.folder / "copy.db")) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [name for name in names if not name.startswith("__dpone__")]

    def copied(self, columns: str, where: str = "") -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM copy {where}"
        if self.sink == "postgres":
            return self.source.query(sql)
        with closing(sqlite3.connect(self.folder / "copy.db")) as db:
            return db.execute(sql).fetchall()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def strategy(mode: str, changes: bool, *key: str) -> Mapping[str, Any]:
    more: dict[str, Any] = {}
    if mode == "replace":
        more = {"where": {"n": {"from": 0, "to": 1000}}}
    if mode == "partition_replace":
        more = {"partition": "n"}
    if mode == "snapshot_diff":
        more = {"max_delete_share": 1.0}
    keyed = not changes and mode in ("merge", "snapshot_diff", "scd2")
    return {"mode": mode, **({"key": list(key)} if keyed else {}), **more}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("mode", ROWS)
@pytest.mark.parametrize("name", KEYS)
def test_OUT_10_rows_of_every_key_type_by_every_strategy(
    source: ChangeSource, folder: Path, name: str, mode: str, sink: str
) -> None:
    """Rows that were inserted and changed are in the target as an independent reader has them from the source."""
    key = KEYS[name]
    bench = Bench(source, folder, sink, strategy(mode, False, "k"))
    bench.make(f"k {key.type} PRIMARY KEY")
    one, two, three = key.values
    source.run(f"INSERT INTO things VALUES ('{one}', 1), ('{two}', 2)")
    stream = bench.run()
    refused = mode in (*KEYED, "snapshot_diff") if key.type == "jsonb" else mode in KEYED
    if refused and sink == "sqlite" and not key.mirrored:
        why = "its type is" if key.type == "jsonb" else "the source treats different spellings"
        assert stream.error is not None
        assert stream.error.kind == "PipelineMismatch", stream.error
        assert f"by key k: {why}" in stream.error.message
        assert bench.tables() == []
        return
    assert stream.error is None, stream.error
    more = [f"INSERT INTO things VALUES ('{three}', 3)"] if one != three else []
    source.run("UPDATE things SET n = 10 WHERE n = 1", *more)
    bench.load()
    require_copied(bench, key, mode, {10: 0, 2: 1, **({3: 2} if more else {})})


def require_copied(bench: Bench, key: Key, mode: str, wanted: Mapping[int, int]) -> None:
    """``wanted``: n -> which of the key's values."""
    now = "WHERE __dpone__valid_to IS NULL" if mode == "scd2" else ""
    if mode == "partition_replace":  # the old partition of a row that moved is not in the rows read
        now = "WHERE n <> 1"
    if bench.sink == "postgres":
        rows = bench.source.query("SELECT n, k::text FROM things")
        assert sorted(bench.copied("n, k::text", now)) == sorted(rows)
        assert {n for n, _ in rows} == {*wanted}
        return
    stored = key.stored if key.mirrored else key.values
    assert dict(bench.copied("n, k", now)) == {n: stored[at] for n, at in wanted.items()}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("mode", CHANGES)
@pytest.mark.parametrize("name", KEYS)
def test_OUT_10_changes_of_every_key_type_by_every_strategy(
    source: ChangeSource, folder: Path, name: str, mode: str, sink: str
) -> None:
    """A snapshot, then an update, a change of the key and a delete: the target has each, told by the key."""
    key = KEYS[name]
    bench = Bench(source, folder, sink, strategy(mode, True), changes=True)
    bench.make(f"k {key.type} PRIMARY KEY")
    one, two, three = key.values
    source.run(f"INSERT INTO things VALUES ('{one}', 1), ('{two}', 2)")
    bench.publish()
    stream = bench.run()
    why = "its type is" if key.type == "jsonb" and sink == "sqlite" and mode != "append" else ""
    if mode == "scd2" and sink == "postgres" and not key.mirrored:
        why = "the source can change the spelling of a key"
    if why:
        assert stream.error is not None
        assert stream.error.kind == "PipelineMismatch"
        assert f"by key k: {why}" in stream.error.message
        return
    assert stream.error is None, stream.error
    moves = [f"UPDATE things SET k = '{three}' WHERE n = 10"] if one != three else []
    source.run("UPDATE things SET n = 10 WHERE n = 1", *moves, "DELETE FROM things WHERE n = 2")
    bench.load()
    if mode != "append":
        require_copied(bench, key, mode, {10: 2})
        return
    text = "k::text" if sink == "postgres" else "k"
    found = bench.copied(f"__dpone__op, {text}", "ORDER BY __dpone__commit, __dpone__ordinal")
    written = [one, two, one, *([three] if moves else []), two]
    if sink == "postgres":
        [written] = [[source.query(f"SELECT '{v}'::{key.type}::text")[0][0] for v in written]]
    else:
        kept = dict(zip(key.values, key.stored, strict=True))
        written = [kept[v] for v in written]
    assert [v for _, v in found] == written
    assert [op for op, _ in found] == ["insert", "insert", "update", *(["update"] if moves else []), "delete"]
    assert sum(old is not None for (old,) in bench.copied("__dpone__old_key")) == len(moves)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(("mode", "changes"), [(m, False) for m in ROWS] + [(m, True) for m in CHANGES])
def test_OUT_10_composite_keys(source: ChangeSource, folder: Path, mode: str, changes: bool, sink: str) -> None:
    """Rows are told by both columns of a key, of which one is an extension type to Arrow."""
    bench = Bench(source, folder, sink, strategy(mode, changes, "k", "l"), changes)
    bench.make("k uuid", "l text", "PRIMARY KEY (k, l)")
    source.run(f"INSERT INTO things VALUES ('{U}1', 'a', 1), ('{U}1', 'b', 2)")
    if changes:
        bench.publish()
    bench.load()
    source.run("UPDATE things SET n = 10 WHERE l = 'a'", f"INSERT INTO things VALUES ('{U}2', 'a', 3)")
    bench.load()
    if mode == "append":
        assert sorted(bench.copied("n, l")) == [(1, "a"), (2, "b"), (3, "a"), (10, "a")]
        return
    now = "WHERE __dpone__valid_to IS NULL" if mode == "scd2" else "WHERE n <> 1"
    text = "k::text" if sink == "postgres" else "k"
    assert sorted(bench.copied(f"n, {text}, l", now)) == [(2, U + "1", "b"), (3, U + "2", "a"), (10, U + "1", "a")]


RESPELLED: Mapping[str, tuple[str, str, str]] = {  # a type, a value, and one that is equal to it in PostgreSQL
    "numeric": ("numeric", "1.00", "1.0"),
    "decimal": ("numeric(9,3)", "1.0", "1.000"),
    "negative": ("numeric", "-10", "-10.000"),
    "float8": ("double precision", "0", "-0"),
    "float4": ("real", "0", "-0"),
    "char": ("char(4)", "a", "a "),
    "bpchar": ("bpchar", "a", "a "),
    "citext": ("public.citext", "Ab", "aB"),
    "collation": ("text COLLATE loose", "Ab", "aB"),
    "timestamptz": ("timestamptz", "2026-01-01 00:00:00+00", "2026-01-01 01:00:00+01"),
    "interval": ("interval", "1 day", "24:00:00"),
    "jsonb": ("jsonb", "1.0", "1.00"),
    "numrange": ("numrange", "[1.0,2)", "[1.00,2)"),
}
LOOSELY = ("bpchar", "citext", "collation", "interval", "jsonb", "numrange")  # types that are refused somewhere
LOOSE = "CREATE COLLATION IF NOT EXISTS loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(
    "how", ["merge", "snapshot_diff", "scd2", "cdc_apply", "cdc_apply soft", "cdc_apply ignore", "scd2 changes"]
)
@pytest.mark.parametrize("name", RESPELLED)
def test_OUT_10_a_key_spelled_differently_is_one_row(
    source: ChangeSource, folder: Path, name: str, how: str, sink: str
) -> None:
    """A key that the source spells differently, and takes for equal, stays one row of the target; or the pipeline is
    refused before anything is written."""
    type_, one, other = RESPELLED[name]
    mode, _, more = how.partition(" ")
    changes = mode == "cdc_apply" or more == "changes"
    wanted = {**strategy(mode, changes, "k"), **({"deletes": more} if more in ("soft", "ignore") else {})}
    bench = Bench(source, folder, sink, wanted, changes)
    if name == "collation":
        try:
            source.run(LOOSE)
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL was built without ICU")
    bench.make(f"k {type_} PRIMARY KEY")
    source.run(f"INSERT INTO things VALUES ('{one}', 1)")
    if changes:
        bench.publish()
    first = bench.run()
    if first.error is not None:
        assert first.error.kind == "PipelineMismatch", first.error
        assert "by key k" in first.error.message
        assert sink == "postgres" or bench.tables() == []
        assert name in LOOSELY, first.error
        return
    now = "WHERE __dpone__valid_to IS NULL" if mode == "scd2" else ""
    now = "WHERE __dpone__deleted_at IS NULL" if more == "soft" else now
    source.run(f"UPDATE things SET k = '{other}', n = 2")
    bench.load()
    assert bench.copied("n", now) == [(2,)]
    source.run(f"UPDATE things SET k = '{one}', n = 3")
    bench.load()
    assert bench.copied("n", now) == [(3,)]


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("mode", ["merge", "snapshot_diff", "scd2"])
def test_OUT_10_json_is_no_key(source: ChangeSource, folder: Path, mode: str, sink: str) -> None:
    """json has no equality in PostgreSQL itself: refused by name, before anything is made."""
    bench = Bench(source, folder, sink, strategy(mode, False, "k"))
    bench.make("k json NOT NULL")
    source.run("INSERT INTO things VALUES ('{}', 1)")
    stream = bench.run()
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
    assert "choose another key" in stream.error.message
    assert source.query("SELECT 1 FROM pg_tables WHERE tablename = 'copy' AND schemaname = current_schema()") == []


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("mode", ["merge", "snapshot_diff", "scd2"])
@pytest.mark.parametrize("type_", ["xml", "point", "xid", "jsonpath", "xml[]", "shape"])
def test_OUT_10_a_type_without_an_order_is_no_key(
    source: ChangeSource, folder: Path, type_: str, mode: str, sink: str
) -> None:
    """PostgreSQL has no index for it: refused by name, with the type, before anything is made; also under a domain."""
    bench = Bench(source, folder, sink, strategy(mode, False, "k"))
    source.run("DROP DOMAIN IF EXISTS shape CASCADE", "CREATE DOMAIN shape AS box")
    bench.make(f"k {type_}")
    stream = bench.run()
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
    assert f"by key k: its type is {type_}, whose values have no order; choose another key" in stream.error.message
    assert source.query("SELECT 1 FROM pg_tables WHERE tablename = 'copy' AND schemaname = current_schema()") == []
    assert sink == "postgres" or not (folder / "copy.db").exists() or bench.tables() == []


def test_OUT_10_a_key_of_a_target_without_an_order_is_refused(source: ChangeSource, folder: Path) -> None:
    """A text that would be looked for in a column of xml."""
    bench = Bench(source, folder, "postgres", strategy("merge", False, "k"), options={"adopt_existing": True})
    bench.make("k text PRIMARY KEY")
    source.run("CREATE TABLE copy (k xml, n int)", "INSERT INTO things VALUES ('<a/>', 1)")
    stream = bench.run()
    assert stream.error is not None
    assert stream.error.kind == "PipelineMismatch"
    assert "the target column has type xml, whose values have no order" in stream.error.message


@pytest.mark.parametrize("sink", SINKS)
def test_OUT_10_a_key_of_a_table_and_of_its_stream_is_one(source: ChangeSource, folder: Path, sink: str) -> None:
    """A pipeline of the changes meets the rows that another one merged from the table."""
    bench = Bench(source, folder, sink, strategy("merge", False, "k"))
    bench.make("k inet PRIMARY KEY")
    source.run("INSERT INTO things VALUES ('10.0.0.1', 1), ('::1', 2), ('10.0.0.0/8', 3)")
    bench.load()
    bench.publish()
    bench = evolve(
        bench, strategy=strategy("cdc_apply", True), changes=True,
        options={"adopt_existing": True}, read={"initial": "none", "pipeline": "changes"},
    )  # fmt: skip
    bench.load()
    source.run("UPDATE things SET n = n + 10")
    bench.load()
    assert sorted(n for (n,) in bench.copied("n")) == [11, 12, 13]


def test_OUT_10_a_journal_of_an_older_version_beside_a_numeric_column(source: ChangeSource, folder: Path) -> None:
    """The column compares numbers, so that no spelling of an earlier load is in the way."""
    bench = Bench(source, folder, "postgres", {**strategy("cdc_apply", True), "deletes": "soft"}, True)
    bench.make("k numeric PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1.00, 1)")
    bench.publish()
    bench.load()
    source.run(
        "UPDATE __dpone__loads SET rows = (rows::jsonb - 'held' - 'target')::text",
        "UPDATE things SET k = 1.0, n = 2",
    )
    bench.load()
    assert bench.copied("n", "WHERE __dpone__deleted_at IS NULL") == [(2,)]


def test_OUT_10_keys_that_an_older_version_loaded_as_text_are_loaded_again(source: ChangeSource, folder: Path) -> None:
    """A journal that does not say how keys are held, and a key as 1.00 in a column of text: the full refresh that the
    message names leads on."""
    bench = Bench(source, folder, "sqlite", strategy("merge", False, "k"))
    bench.make("k numeric PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1, 1)")
    bench.load()
    with closing(sqlite3.connect(folder / "copy.db")) as db, db:
        db.execute("UPDATE copy SET k = '1.00'")
        db.execute("UPDATE __dpone__loads SET rows = json_remove(rows, '$.held', '$.target')")
    stream = bench.run()
    assert stream.error is not None
    assert "reload everything with --full-refresh" in stream.error.message
    bench.load(full_refresh=True)
    bench.load()


COARSE: Mapping[str, tuple[str, str, str, str, str]] = {  # of source and target; two keys that the target takes for one
    "citext": ("text", "public.citext", "Ab", "aB", "text"),
    "char": ("text", "char(4)", "a", "a ", "text"),
    "numeric": ("text", "numeric", "1.0", "1.00", "text"),
    "timestamp": ("timestamp", "timestamp(0)", "2026-01-01 00:00:00.1", "2026-01-01 00:00:00.2", "timestamp"),
    "time": ("time", "time(3)", "00:00:00.0001", "00:00:00.0002", "time(6)"),
    "collation": ("text", "text COLLATE loose", "Ab", "aB", 'text COLLATE "C"'),
}


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("name", COARSE)
def test_OUT_10_a_target_that_takes_two_keys_for_one_is_refused(
    source: ChangeSource, folder: Path, name: str, changes: bool
) -> None:
    """Before anything is written; with a column that compares exactly, as the message says, both rows arrive."""
    type_, coarse, one, other, exact = COARSE[name]
    wanted = strategy("cdc_apply" if changes else "merge", changes, "k")
    bench = Bench(source, folder, "postgres", wanted, changes)
    if name == "collation":
        try:
            source.run(LOOSE)
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL was built without ICU")
    bench.make(f"k {type_} PRIMARY KEY", f"j {coarse}")
    source.run(
        "ALTER TABLE things DROP j",
        f"CREATE TABLE copy (k {coarse} PRIMARY KEY, n int)",
        f"INSERT INTO things VALUES ('{one}', 1), ('{other}', 2)",
    )
    if changes:
        bench.publish()
    stream = bench.run()
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
    assert "by key k: keys that differ in the source can be equal in the target" in stream.error.message
    assert bench.copied("n") == []
    source.run(f"DROP TABLE copy; CREATE TABLE copy (k {exact} PRIMARY KEY, n int)")
    bench.load()
    assert sorted(bench.copied("n")) == [(1,), (2,)]


def test_OUT_16_a_refused_key_is_loaded_by_the_query_that_the_message_shows(source: ChangeSource, folder: Path) -> None:
    """``lower(k::text) AS k`` gives a citext one spelling, and SQLite one row."""
    bench = Bench(source, folder, "sqlite", strategy("merge", False, "k"))
    bench.make("k public.citext PRIMARY KEY")
    source.run("INSERT INTO things VALUES ('Ab', 1)")
    stream = bench.run()
    assert stream.error is not None
    assert "as in lower(k::text) AS k" in stream.error.message
    bench = evolve(bench, read={"query": f"SELECT lower(k::text) AS k, n FROM {source.schema}.things"})
    bench.load()
    source.run("UPDATE things SET k = 'aB', n = 2")
    bench.load()
    assert bench.copied("k, n") == [("ab", 2)]


def test_OUT_10_keys_that_an_older_version_loaded_are_loaded_again(source: ChangeSource, folder: Path) -> None:
    """A target with keys in the source's own spelling stops by name, and a full refresh, as it says, is enough."""
    bench = Bench(source, folder, "sqlite", strategy("merge", False, "k"))
    bench.make("k numeric PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1.00, 1), (2, 2)")
    bench.load()
    assert bench.copied("k") == [("1",), ("2",)]
    with closing(sqlite3.connect(folder / "copy.db")) as db, db:
        db.execute("UPDATE copy SET k = '1.00' WHERE k = '1'")
        [(text,)] = db.execute('SELECT "rows" FROM __dpone__loads').fetchall()
        counts = {name: n for name, n in json.loads(text).items() if name not in ("held", "target")}
        db.execute('UPDATE __dpone__loads SET "rows" = ?', (json.dumps(counts),))
    for _ in range(2):
        stream = bench.run()
        assert stream.error is not None
        assert (stream.error.kind, stream.error.exit_code) == ("SchemaBreak", 3)
        assert "--full-refresh" in stream.error.message
    bench.load(full_refresh=True)
    bench.load()
    assert sorted(bench.copied("k, n")) == [("1", 1), ("2", 2)]


# -- a key that changed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("mode", ["cdc_apply", "scd2"])
def test_OUT_04_another_primary_key_in_the_source_is_named(
    source: ChangeSource, folder: Path, mode: str, sink: str
) -> None:
    """What the key was, what it is now and what to do; the target dropped and loaded again, as it says, goes on."""
    bench = Bench(source, folder, sink, strategy(mode, True), True)
    bench.make("tenant int NOT NULL", "id int PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1, 1, 1)")
    bench.publish()
    bench.load()
    source.run(
        "ALTER TABLE things DROP CONSTRAINT things_pkey, ADD PRIMARY KEY (tenant, id)",
        "INSERT INTO things VALUES (2, 1, 2)",
    )
    for options in ({}, {}, {"full_refresh": True}):
        stream = bench.run(**options)
        assert stream.error is not None
        assert (stream.error.kind, stream.error.exit_code) == ("SchemaBreak", 3), stream.error
        found = "the source's key is now tenant, id, but the target was created for key id; drop the target and use"
        assert found in stream.error.message
        assert bench.copied("tenant, id, n") == [(1, 1, 1)]
    drop(bench)
    bench.load(full_refresh=True)
    source.run("UPDATE things SET n = 3 WHERE tenant = 2")
    bench.load()
    now = "WHERE __dpone__valid_to IS NULL" if mode == "scd2" else ""
    assert sorted(bench.copied("tenant, id, n", now)) == [(1, 1, 1), (2, 1, 3)]


def test_OUT_04_another_primary_key_is_named_before_rows_are_in_the_way(source: ChangeSource, folder: Path) -> None:
    """At the first change after it, although the target could still hold both rows."""
    bench = Bench(source, folder, "sqlite", strategy("cdc_apply", True), True)
    bench.make("tenant int NOT NULL", "id int PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1, 1, 1)")
    bench.publish()
    bench.load()
    source.run(
        "ALTER TABLE things DROP CONSTRAINT things_pkey, ADD PRIMARY KEY (tenant, id)",
        "INSERT INTO things VALUES (2, 2, 2)",
    )
    stream = bench.run()
    assert stream.error is not None
    assert "the source's key is now tenant, id, but the target was created for key id" in stream.error.message


@pytest.mark.parametrize("sink", SINKS)
def test_OUT_04_another_key_than_that_of_the_target_is_named(source: ChangeSource, folder: Path, sink: str) -> None:
    """A stated key that the target's primary key does not hold: named where rows are in the way, and only there."""
    bench = Bench(source, folder, sink, strategy("merge", False, "id"))
    bench.make("tenant int", "id int")
    source.run("INSERT INTO things VALUES (1, 1, 1)")
    bench.load()
    bench = evolve(bench, strategy=strategy("merge", False, "tenant", "id"))
    source.run("INSERT INTO things VALUES (2, 2, 2)")
    bench.load()
    source.run("INSERT INTO things VALUES (2, 1, 3)")
    stream = bench.run()
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("SchemaBreak", 3), stream.error
    assert "the rows' key is tenant, id, but the primary key of the target is id" in stream.error.message
    drop(bench)
    bench.load(full_refresh=True)
    assert len(bench.copied("n")) == 3


def drop(bench: Bench) -> None:
    if bench.sink == "postgres":
        bench.source.run("DROP TABLE copy")
        return
    with closing(sqlite3.connect(bench.folder / "copy.db")) as db, db:
        db.execute("DROP TABLE copy")


# -- an emptied target ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("statement", ["TRUNCATE copy", "DELETE FROM copy"])
def test_OUT_07_an_emptied_table_stops_the_run(
    source: ChangeSource, folder: Path, statement: str, changes: bool
) -> None:
    """TRUNCATE and DELETE behind our back: exit 3 until a full refresh loads everything again."""
    wanted = strategy("cdc_apply" if changes else "merge", changes, "k")
    bench = Bench(source, folder, "postgres", wanted, changes)
    bench.make("k int PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1, 1), (2, 2)")
    if changes:
        bench.publish()
    bench.load()
    source.run(statement, "UPDATE things SET n = 3 WHERE k = 1")
    for _ in range(2):
        stream = bench.run()
        assert stream.error is not None
        assert (stream.error.kind, stream.error.exit_code) == ("StateAhead", 3), stream.error
        assert "the target has lost rows: it is empty" in stream.error.message
    bench.load(full_refresh=True)
    bench.load()
    assert sorted(bench.copied("k, n")) == [(1, 3), (2, 2)]


def test_OUT_07_an_idle_stream_does_not_forget_that_its_target_had_rows(source: ChangeSource, folder: Path) -> None:
    """The journal entry of a marker has no rows: the next change still finds that somebody emptied the table."""
    bench = Bench(source, folder, "postgres", strategy("cdc_apply", True, "k"), True)
    bench.make("k int PRIMARY KEY")
    source.run("INSERT INTO things VALUES (1, 1), (2, 2)", "CREATE TABLE noise (v text)")
    bench.publish()
    bench.load()
    source.run("TRUNCATE copy", "INSERT INTO noise SELECT repeat(md5(g::text), 30) FROM generate_series(1, 3000) AS g")
    before = bench.load().position_after
    source.run("INSERT INTO noise SELECT repeat(md5(g::text), 30) FROM generate_series(1, 3000) AS g")
    assert bench.load().position_after != before  # a marker
    source.run("UPDATE things SET n = 3 WHERE k = 1")
    stream = bench.run()
    assert stream.error is not None
    assert "the target has lost rows: it is empty" in stream.error.message
    bench.load(full_refresh=True)
    assert sorted(bench.copied("k, n")) == [(1, 3), (2, 2)]
