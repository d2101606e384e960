"""A SQLite table read in ranges: every row once, all of one snapshot."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpone.connectors.sqlite.config import SqliteSourceOptions
from dpone.connectors.sqlite.source import SqliteSource
from dpone.contract import Part, WindowRequest
from dpone.errors import ConfigError
from dpone.model.pipeline import SourceSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret


def make(path: Path, *statements: str, rows: list[tuple[Any, ...]] | None = None) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)
        if rows:
            db.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)


def source(path: Path, query: str | None = None, **options: Any) -> SqliteSource:
    table = None if query else Name(("t",))
    connection = Secret(f"sqlite:///{path}")
    return SqliteSource(SourceSpec("sqlite", connection, table, query, options=SqliteSourceOptions(**options)))


def parts(reader: SqliteSource, partitions: int, **request: Any) -> list[list[Any]]:
    """Values of the first column, for each part."""
    with closing(reader):
        window = reader.window(None, WindowRequest(partitions=partitions, **request))
        found = []
        for part in window.parts:
            with reader.read(part) as stream:
                found.append([value for batch in stream.batches() for value in batch.column(0).to_pylist()])
        return found


def flat(found: list[list[Any]]) -> list[Any]:
    return sorted((value for part in found for value in part), key=plain)


def plain(value: Any) -> str:
    """-0.0 and 0.0 are one value, and SQLite keeps no sign of it."""
    return repr(0.0 if value == 0 and isinstance(value, float) else value)


KINDS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "integer": ("INTEGER", st.integers(-(2**63), 2**63 - 1)),
    "real": ("REAL", st.floats(allow_nan=False)),
    "text": ("TEXT", st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)),
    "nocase": ("TEXT COLLATE NOCASE", st.text("aAbB", max_size=3)),
    "blob": ("BLOB", st.binary(max_size=4)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(data=st.data(), n=st.integers(2, 7))
def test_every_row_is_in_one_range(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject, n: int
) -> None:
    """Values of any kind, repeated ones and NULL among them: the parts together are the table."""
    declared, values = KINDS[kind]
    given_ = data.draw(st.lists(st.none() | values, max_size=25))
    path = tmp_path_factory.mktemp("ranges") / "a.db"
    make(path, f"CREATE TABLE t (v {declared})", rows=[(value,) for value in given_])
    found = parts(source(path, partition_by="v"), n)
    assert flat(found) == sorted(given_, key=plain)
    assert len(found) <= n + 1


TABLES = [
    "(id INTEGER PRIMARY KEY, v)",
    "(id TEXT PRIMARY KEY, v)",
    "(id TEXT PRIMARY KEY, v) WITHOUT ROWID",
    "(id, v)",
]


@pytest.mark.parametrize("declared", TABLES)
def test_the_key_or_the_rowid_is_split_without_a_word(tmp_path: Path, declared: str) -> None:
    """A primary key of one column, else the rowid."""
    path = tmp_path / "a.db"
    rows = [(f"{i:03d}" if "TEXT" in declared else i, 1) for i in range(100)]
    make(path, f"CREATE TABLE t {declared}", rows=rows)
    found = parts(source(path), 4)
    assert flat(found) == sorted((i for i, _ in rows), key=plain)
    assert sorted(map(len, found), reverse=True)[:4] == [25, 25, 25, 25]


def test_a_query_is_split_by_a_named_column(tmp_path: Path) -> None:
    """Without one it is read as a whole; a column it lacks is an error before anything is read."""
    path = tmp_path / "a.db"
    make(path, "CREATE TABLE t (id INTEGER PRIMARY KEY)", rows=[(i,) for i in range(10)])
    query = "SELECT id * 2 AS twice FROM t"
    assert len(parts(source(path, query), 2)) == 1
    assert [len(part) for part in parts(source(path, query, partition_by="twice"), 2)] == [5, 5, 0]
    with pytest.raises(ConfigError, match="the query has no column rowid"):
        parts(source(path, query, partition_by="rowid"), 2)


def test_MF_05_all_parts_are_of_one_snapshot(tmp_path: Path) -> None:
    """Rows that come, go and move between plan and read are not seen, whichever part is read when."""
    path = tmp_path / "a.db"
    make(path, "PRAGMA journal_mode=WAL", "CREATE TABLE t (id INTEGER PRIMARY KEY)", rows=[(i,) for i in range(100)])
    with closing(source(path)) as reader:
        window = reader.window(None, WindowRequest(partitions=4))
        assert not window.repeatable
        found = []
        for part in window.parts:
            make(path, "DELETE FROM t WHERE id % 2", "UPDATE t SET id = id + 1000", rows=[(5000 + len(found),)])
            with reader.read(part) as stream:
                found += [value for batch in stream.batches() for value in batch.column(0).to_pylist()]
        assert found == list(range(100))


def test_parts_of_a_lost_snapshot_are_read_in_a_new_one(tmp_path: Path) -> None:
    """mixed_snapshots: the same ranges again, and a row that is new by now is in one of them."""
    path = tmp_path / "a.db"
    make(path, "CREATE TABLE t (id INTEGER PRIMARY KEY)", rows=[(i,) for i in range(100)])
    with closing(source(path)) as reader:
        first = reader.window(None, WindowRequest(partitions=4)).parts
    make(path, rows=[(-5,), (900,)])
    again = tuple(Part(part.id, {"bounds": part.detail["bounds"]}) for part in first)
    with closing(source(path)) as reader:
        window = reader.window(None, WindowRequest(partitions=9, parts=again))
        assert window.parts == first
    assert flat(parts(source(path), 9, parts=again)) == sorted([-5, 900, *range(100)], key=repr)
