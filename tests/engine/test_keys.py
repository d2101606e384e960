"""Keys of every type of SQLite and of files through every strategy, and keys that two systems compare differently."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from attrs import frozen
from tests.cdc.log import delete, insert, transaction, update, write

from dpone.engine.run import run as run_pipeline
from dpone.errors import ConfigError
from dpone.model.report import StreamReport

KEYED = ("merge", "snapshot_diff", "scd2")
MODES = (*KEYED, "append", "full_refresh", "replace", "partition_replace")


@frozen
class Bench:
    """A pipeline into the table ``copy`` of a SQLite file, or into a folder."""

    folder: Path
    source: Mapping[str, Any]
    strategy: Mapping[str, Any]
    target: str = "sqlite"
    options: Mapping[str, Any] = {}
    table: str = "copy"

    def run(self, **more: Any) -> StreamReport:
        sqlite = {"type": "sqlite", "connection": "sqlite:///copy.db", "table": self.table}
        sink = sqlite if self.target == "sqlite" else {"type": "file", "path": "out"}
        data = {
            "pipeline": "p",
            "source": dict(self.source),
            "sink": {**sink, "strategy": dict(self.strategy), "options": dict(self.options)},
            "state": {"type": "sqlite", "connection": "sqlite:///state.db"},
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

    def copied(self, columns: str = "n, k", where: str = "") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "copy.db")) as db:
            return db.execute(f"SELECT {columns} FROM copy {where} ORDER BY n").fetchall()


def strategy(mode: str, *key: str) -> dict[str, Any]:
    more: dict[str, Any] = {"key": list(key)} if mode in KEYED else {}
    if mode == "replace":
        more = {"where": {"n": {"from": 0, "to": 1000}}}
    if mode == "partition_replace":
        more = {"partition": "n"}
    return {"mode": mode, **more}


def shop(folder: Path, *statements: str, given: Any = ()) -> None:
    with closing(sqlite3.connect(folder / "shop.db")) as db, db:
        for statement in statements:
            db.execute(statement, given)


U = "00000000-0000-0000-0000-00000000000"
SHOP = {"type": "sqlite", "connection": "sqlite:///shop.db", "table": "things"}
SQLITE: Mapping[str, tuple[Any, ...]] = {
    "INTEGER": (1, 2, 9007199254740993),
    "REAL": (0.1, 2.0, -3.0),
    "TEXT": ("a", "A", "e\u0301 "),
    "BLOB": (b"\0", b"\0\1", b"\xff"),
    "NUMERIC": (1, 2, 3),
    "": ("a", "A", "b"),
    "BOOLEAN": (0, 1, None),
    "DECIMAL_TEXT(9,2)": ("1.00", "2.50", "-3.00"),
    "UUID": (f"{U}1", f"{U}2", f"{U}a"),
    "DATE": ("2026-01-01", "0001-01-01", "1969-12-31"),
    "TIMESTAMP": ("2026-01-01 00:00:00.000001", "2026-01-01 00:00:00.000000", "1969-12-31 23:59:59.999999"),
    "TIMESTAMPTZ": tuple(f"2026-01-01 0{hour}:00:00.000000+00:00" for hour in (0, 2, 4)),
    "TIME": ("01:02:03.000000", "00:00:00.000000", "23:59:59.999999"),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("type_", SQLITE)
def test_OUT_10_keys_of_sqlite_by_every_strategy(tmp_path: Path, type_: str, mode: str) -> None:
    """Rows that were inserted and changed are in the target as SQLite itself has them in the source."""
    one, two, three = SQLITE[type_]
    shop(tmp_path, f"CREATE TABLE things (k {type_} PRIMARY KEY NOT NULL, n INTEGER)")
    for k, n in ((one, 1), (two, 2)):
        shop(tmp_path, "INSERT INTO things VALUES (?, ?)", given=(k, n))
    bench = Bench(tmp_path, SHOP, strategy(mode, "k"))
    bench.load()
    if mode == "append":
        assert bench.copied() == [(1, one), (2, two)]
        return
    shop(tmp_path, "UPDATE things SET n = 10 WHERE n = 1")
    if three is not None:
        shop(tmp_path, "INSERT INTO things VALUES (?, 3)", given=(three,))
    bench.load()
    now = {"scd2": "WHERE __dpone__valid_to IS NULL", "partition_replace": "WHERE n > 1"}.get(mode, "")
    assert bench.copied(where=now) == [(2, two), *([(3, three)] if three is not None else []), (10, one)]


UUIDS = [bytes([0] * 15 + [n]) for n in (1, 2)]
ARROW: Mapping[str, tuple[pa.Array, Any]] = {
    "int8": (pa.array([1, 2], pa.int8()), (1, 2)),
    "uint32": (pa.array([1, 2], pa.uint32()), (1, 2)),
    "double": (pa.array([0.5, 2]), (0.5, 2.0)),
    "string": (pa.array(["a", "A"]), ("a", "A")),
    "dictionary": (pa.array(["a", "A"]).dictionary_encode(), ("a", "A")),
    "bool": (pa.array([False, True]), (0, 1)),
    "decimal": (pa.array([Decimal("1.00"), Decimal("2.50")]), ("1.00", "2.50")),
    "date": (pa.array(["2026-01-01", "0001-01-01"]).cast(pa.date32()), ("2026-01-01", "0001-01-01")),
    "binary": (pa.array([b"\0", b"\0\1"]), (b"\0", b"\0\1")),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array(UUIDS, pa.binary(16))),
        tuple(f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2)),
    ),
    "timestamp": (
        pa.array([1_000, 2_000], pa.timestamp("ns", "UTC")),
        ("1970-01-01 00:00:00.000001+00:00", "1970-01-01 00:00:00.000002+00:00"),
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_OUT_10_keys_of_parquet_by_every_strategy(tmp_path: Path, name: str, mode: str, target: str) -> None:
    """Two files, of which the second changes a row; a folder takes the strategies that it can, and names the others."""
    keys, (one, two) = ARROW[name]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"k": keys, "n": pa.array([1, 2])}), tmp_path / "data" / "a.parquet")
    source = {"type": "file", "path": "data/*.parquet"}
    bench = Bench(tmp_path, source, strategy(mode, "k"), target)
    if target == "file":
        if mode not in ("append", "full_refresh"):
            with pytest.raises(ConfigError, match=f"file cannot load by {mode} .*use one of full_refresh, append"):
                bench.run()
            return
        bench.load()
        [part] = (tmp_path / "out").glob("part-*.parquet")
        table = pq.read_table(part)
        assert table.column("k").combine_chunks().to_pylist() == keys.to_pylist()
        return
    bench.load()
    if mode in ("append", "merge"):
        pq.write_table(pa.table({"k": keys[:1], "n": pa.array([10])}), tmp_path / "data" / "b.parquet")
    else:
        pq.write_table(pa.table({"k": keys, "n": pa.array([10, 2])}), tmp_path / "data" / "a.parquet")
    if mode in ("scd2", "partition_replace"):  # a file that changed stops an increment
        return
    bench.load()
    assert bench.copied() == [*([(1, one)] if mode == "append" else []), (2, two), (10, one)]


@pytest.mark.parametrize("mode", ["cdc_apply", "scd2", "append"])
@pytest.mark.parametrize(
    ("type_", "keys"),
    [
        ("int64", (1, 2, 3)),
        ("string", ("a", "A", "b ")),
        ("uuid", tuple(f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2, 3))),
        ("decimal(9,2)", ("1.00", "2.00", "3.00")),
        ("date", ("2026-01-01", "2026-01-02", "2026-01-03")),
        ("timestamptz", tuple(f"2026-01-0{n} 00:00:00.000000+00:00" for n in (1, 2, 3))),
        ("double", (0.5, 1.5, -2.0)),
    ],
)
def test_OUT_10_keys_of_a_change_log_by_every_strategy(tmp_path: Path, type_: str, keys: Any, mode: str) -> None:
    """An insert, an update, a changed key and a delete, told by keys of each type, in SQLite."""
    one, two, three = keys
    options = {"incremental": {"by": "cdc"}, "columns": {"k": type_}}
    bench = Bench(
        tmp_path, {"type": "file", "path": "log.jsonl", "table": "things", "options": options}, {"mode": mode}
    )
    write(
        tmp_path / "log.jsonl", transaction("01", insert("things", {"k": one}, n=1), insert("things", {"k": two}, n=2))
    )
    bench.load()
    write(
        tmp_path / "log.jsonl",
        transaction("02", update("things", {"k": one}, n=10)),
        transaction("03", update("things", {"k": one}, k=three, n=11), delete("things", {"k": two})),
    )
    bench.load()
    if mode == "append":
        found = bench.copied("__dpone__op, k", "WHERE 1")
        assert sorted(map(str, found)) == sorted(
            map(str, [("insert", one), ("insert", two), ("update", one), ("update", three), ("delete", two)])
        )
        [(old,)] = bench.copied("__dpone__old_key", "WHERE __dpone__old_key IS NOT NULL")
        assert {*json.loads(old)} == {"k"}
        return
    assert bench.copied(where="WHERE __dpone__valid_to IS NULL" if mode == "scd2" else "") == [(11, three)]


# -- equal in one, different in the other -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", KEYED)
@pytest.mark.parametrize(("collation", "other"), [("NOCASE", "aB"), ("RTRIM", "Ab ")])
def test_OUT_10_a_collation_of_the_source(tmp_path: Path, mode: str, collation: str, other: str) -> None:
    """A key that SQLite compares loosely is one row, or refused; with a target that compares alike it arrives."""
    shop(tmp_path, f"CREATE TABLE things (k TEXT COLLATE {collation} PRIMARY KEY NOT NULL, n INTEGER)")
    shop(tmp_path, "INSERT INTO things VALUES ('Ab', 1)")
    bench = Bench(
        tmp_path, SHOP, {**strategy(mode, "k"), **({"max_delete_share": 1.0} if mode == "snapshot_diff" else {})}
    )
    stream = bench.run()
    if mode != "snapshot_diff":
        assert stream.error is not None
        assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
        found = f"the source treats different spellings of a key as equal ({collation.lower()})"
        assert f"by key k: {found}" in stream.error.message
        with closing(sqlite3.connect(tmp_path / "copy.db")) as db:
            assert db.execute("SELECT name FROM sqlite_master WHERE name = 'copy'").fetchall() == []
            if mode == "merge":
                db.execute(f"CREATE TABLE copy (k TEXT COLLATE {collation} PRIMARY KEY NOT NULL, n INTEGER)")
        if mode == "scd2":
            return
        bench.load()
    shop(tmp_path, f"UPDATE things SET k = '{other}', n = 2")
    bench.load()
    assert bench.copied("n") == [(2,)]


def test_OUT_10_a_query_over_a_collation(tmp_path: Path) -> None:
    """A view of the column compares as the column does; an expression does not, and is the way out."""
    shop(tmp_path, "CREATE TABLE things (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, n INTEGER)")
    shop(tmp_path, "INSERT INTO things VALUES ('Ab', 1)")
    source = {"type": "sqlite", "connection": "sqlite:///shop.db"}
    for query, fine in (("SELECT k, n FROM things", False), ("SELECT lower(k) AS k, n FROM things", True)):
        error = Bench(tmp_path, {**source, "query": query}, strategy("merge", "k")).run().error
        assert (error is None) == fine, error


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
def test_OUT_10_a_collation_of_the_target_is_refused(tmp_path: Path, collation: str) -> None:
    """Keys that differ in the source would meet one row."""
    (tmp_path / "data.csv").write_text("k,n\nAb,1\nAB,2\n")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as db:
        db.execute(f"CREATE TABLE copy (k TEXT COLLATE {collation}, n INTEGER)")
    bench = Bench(tmp_path, {"type": "file", "path": "data.csv"}, strategy("merge", "k"))
    for _ in range(2):
        stream = bench.run()
        assert stream.error is not None
        assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
        assert "by key k: keys that differ in the source can be equal in the target" in stream.error.message
    assert bench.copied() == []
    with closing(sqlite3.connect(tmp_path / "copy.db")) as db:
        db.executescript("DROP TABLE copy; CREATE TABLE copy (k TEXT, n INTEGER)")
    bench.load()
    assert bench.copied() == [(1, "Ab"), (2, "AB")]


def test_OUT_10_numbers_without_affinity_written_out(tmp_path: Path) -> None:
    """1 and 1.0 are one key to SQLite, and would be two texts, unless the column gives numbers one form."""
    for type_, fine in (("", False), ("NUMERIC", True)):
        folder = tmp_path / (type_ or "none")
        folder.mkdir()
        shop(
            folder,
            f"CREATE TABLE things (k {type_} PRIMARY KEY NOT NULL, n INTEGER)",
            "INSERT INTO things VALUES (1, 1)",
        )
        bench = Bench(folder, {**SHOP, "options": {"columns": {"k": "string"}}}, strategy("merge", "k"))
        error = bench.run().error
        assert (error is None) == fine, error
        if fine:
            shop(folder, "UPDATE things SET k = 1.0, n = 2")
            bench.load()
            assert bench.copied("n") == [(2,)]


@pytest.mark.parametrize("mode", ["merge", "snapshot_diff", "full_refresh"])
@pytest.mark.parametrize(
    ("type_", "one", "other"),
    [
        ("TIMESTAMPTZ", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"),
        ("UUID", f"{U}a", f"{U}A"),
        ("DECIMAL_TEXT(9,2)", "1.0", "1.00"),
        ("DATE", "2026-01-01", "2026-01-01"),
    ],
)
def test_OUT_10_texts_that_are_one_value(tmp_path: Path, type_: str, one: str, other: str, mode: str) -> None:
    """SQLite keeps them apart as texts, by the declared type they are one: never one row of two in silence."""
    shop(tmp_path, f"CREATE TABLE things (k {type_}, n INTEGER)")
    shop(tmp_path, f"INSERT INTO things VALUES ('{one}', 1), ('{other}', 2)")
    stream = Bench(tmp_path, SHOP, {**strategy(mode, "k"), "key": ["k"]}).run()
    assert stream.error is not None
    assert stream.error.kind == "DataError"
    assert "have the same strategy.key (k): 1 of 2 rows; " in stream.error.message


def test_OUT_10_nanoseconds_are_refused_by_name(tmp_path: Path) -> None:
    """Two instants within a microsecond would be one key."""
    keys = pa.array([1_000, 1_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"k": keys, "n": pa.array([1, 2])}), tmp_path / "a.parquet")
    stream = Bench(tmp_path, {"type": "file", "path": "a.parquet"}, strategy("merge", "k")).run()
    assert stream.error is not None
    assert stream.error.kind == "DataError"
    assert "column k, row 2" in stream.error.message


def test_OUT_10_normal_forms_of_unicode_are_two_keys(tmp_path: Path) -> None:
    """As in the source: two texts, two rows."""
    (tmp_path / "data.csv").write_text("k,n\ne\u0301,1\n\u00e9,2\n")
    bench = Bench(tmp_path, {"type": "file", "path": "data.csv"}, strategy("merge", "k"))
    bench.load()
    assert bench.copied() == [(1, "e\u0301"), (2, "\u00e9")]


@pytest.mark.parametrize("deletes", ["hard", "soft", "ignore"])
def test_OUT_10_minus_zero_is_zero(tmp_path: Path, deletes: str) -> None:
    """A change stream whose key goes from 0 to -0: one row, in one commit and over two."""
    options = {"incremental": {"by": "cdc"}, "columns": {"k": "double"}}
    source = {"type": "file", "path": "log.jsonl", "table": "things", "options": options}
    bench = Bench(tmp_path, source, {"mode": "cdc_apply", "deletes": deletes})
    moves = update("things", {"k": 0.0}, k=-0.0, n=2), update("things", {"k": -0.0}, k=0.0, n=3)
    write(tmp_path / "log.jsonl", transaction("01", insert("things", {"k": 0.0}, n=1), *moves))
    bench.load()
    assert bench.copied("n") == [(3,)]
    write(tmp_path / "log.jsonl", transaction("02", moves[0]))
    bench.load()
    assert bench.copied("n") == [(2,)]


@pytest.mark.parametrize("mode", ["merge", "snapshot_diff"])
def test_OUT_10_json_is_no_key(tmp_path: Path, mode: str) -> None:
    """A value with an inner order has no equality that two systems share."""
    table = pa.table({"k": pa.array([{"a": 1}]), "n": pa.array([1])})
    pq.write_table(table, tmp_path / "a.parquet")
    stream = Bench(tmp_path, {"type": "file", "path": "a.parquet"}, strategy(mode, "k")).run()
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
    assert "choose another key" in stream.error.message


@pytest.mark.parametrize("many", [False, True])
def test_OUT_10_a_table_is_excluded_only_from_a_source_of_many(tmp_path: Path, many: bool) -> None:
    """A change stream of one table whose key is refused cannot go on without it, so only one of many says how."""
    options = {"incremental": {"by": "cdc"}, "columns": {"k": "json"}}
    source = {"type": "file", "path": "log.jsonl", "table": "*" if many else "things", "options": options}
    write(tmp_path / "log.jsonl", transaction("01", insert("things", {"k": "{}"}, n=1)))
    stream = Bench(tmp_path, source, {"mode": "cdc_apply"}, table="copy_{table}" if many else "copy").run()
    assert stream.error is not None
    assert stream.error.kind == "PipelineMismatch"
    assert "change the key of the table" in stream.error.message
    for text in ("table things: ", "exclude the table with source.exclude: [things]"):
        assert (text in stream.error.message) is many
