"""Changes whose keys differ by a blank at the end, on a server whose texts are compared with PAD SPACE: here SQLite,
where every text has the collation RTRIM, and a dialect that says how keys are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from tests.sql import stream, test_undo, test_versions
from tests.sql.commits import Commit, when
from tests.sql.stream import Change
from tests.sqlite.target import Target

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.errors import DataError
from dpone.model.changes import ChangeTable
from dpone.model.evolution import Stored
from dpone.model.pipeline import Lineage, Undo
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql import fold
from dpone.sql.dialect import Dialect

ITEMS = ChangeTable(pa.schema([("k", pa.string()), ("x", pa.string()), ("y", pa.int64())]), ("k",))
BARE = Lineage(False)
PADDED = "k TEXT COLLATE RTRIM, x TEXT COLLATE RTRIM, y INTEGER"
LATER = (
    Change("update", ("a ", None, 3), ("a ",), ("x",)),
    Change("update", ("a ", "three", None), ("a ",), ("y",)),
)


@pytest.fixture(autouse=True, params=[200_000, 1], ids=["one chunk", "a chunk a change"])
def padded(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys that differ by a blank are one to the server, and two to the dialect."""
    stores = SqliteDialect.stores

    def padding(self: SqliteDialect, type: pa.DataType) -> Stored:
        return Stored("TEXT COLLATE RTRIM", pa.string()) if type == pa.string() else stores(self, type)

    monkeypatch.setattr(fold, "ROWS", request.param)
    monkeypatch.setattr(SqliteDialect, "stores", padding)
    monkeypatch.setattr(SqliteDialect, "as_key", SqliteDialect.exact)
    monkeypatch.setattr(SqliteDialect, "delete_keys", Dialect.delete_keys)


def insert(k: str, x: str, y: int) -> Change:
    return Change("insert", (k, x, y))


def test_cdc_apply_meets_the_row_of_the_very_key(target: Target) -> None:
    """An insert, updates that leave out a value, and a delete."""
    target.run(f"CREATE TABLE orders ({PADDED})")
    strategy = Strategy("cdc_apply", key="k")

    def deliver(*changes: Change) -> list[tuple[Any, ...]]:
        stream.deliver(target, ITEMS, changes, strategy, lineage=BARE)
        return sorted(target.rows("k, x, y", "k"))

    assert deliver(insert("a", "one", 1)) == [("a", "one", 1)]
    assert deliver(insert("a ", "two", 2)) == [("a", "one", 1), ("a ", "two", 2)]
    assert deliver(*LATER) == [("a", "one", 1), ("a ", "three", 3)]
    assert deliver(Change("update", ("a", None, 5), ("a",), ("x",))) == [("a", "one", 5), ("a ", "three", 3)]
    assert deliver(Change("update", ("b", None, 4), ("a ",), ("x",))) == [("a", "one", 5), ("b", "three", 4)]
    assert deliver(insert("a ", "two", 2), Change("delete", None, ("a ",))) == [("a", "one", 5), ("b", "three", 4)]


@pytest.mark.parametrize("whole", [False, True])
def test_scd2_keeps_the_versions_of_the_very_key(target: Target, whole: bool) -> None:
    """Changes open, change and close versions of their own row alone; so does a window of all there is."""
    target.run(f"CREATE TABLE orders ({PADDED}, __dpone__valid_from TEXT NOT NULL, __dpone__valid_to TEXT)")
    changes = [(insert("a", "one", 1), insert("a ", "two", 2)), *((change,) for change in LATER)]
    log = [Commit(n, when(n), some) for n, some in enumerate(changes, 1)]
    log.append(Commit(8, when(8), (Change("update", ("a", None, 5), ("a",), ("x",)),)))
    log.append(Commit(9, when(9), (Change("delete", None, ("a ",)),)))
    strategy = Strategy("scd2", key="k", truncate="apply")
    for commit in log:
        test_versions.deliver(target, [commit], strategy, ITEMS, lineage=BARE)
    if whole:
        everything = [Commit(1, when(20), (insert("a ", "one", 1),))]
        test_versions.deliver(target, everything, strategy, ITEMS, lineage=BARE, whole=True, started=when(30))
    columns = "k, x, y, __dpone__valid_to IS NULL"
    expected = [
        ("a", "one", 1, 0),
        ("a", "one", 5, int(not whole)),
        ("a ", "three", 3, 0),
        ("a ", "two", 2, 0),
        ("a ", "two", 3, 0),
    ]
    expected += [("a ", "one", 1, 1)] if whole else []
    assert sorted(target.rows(columns, "k")) == sorted(expected)


def test_scd2_completes_no_change_by_that_of_another_key(target: Target) -> None:
    """In a window of all there is, a value that the log left out is not that of a row of before."""
    target.run(f"CREATE TABLE orders ({PADDED}, __dpone__valid_from TEXT NOT NULL, __dpone__valid_to TEXT)")
    strategy = Strategy("scd2", key="k", truncate="apply")
    test_versions.deliver(target, [Commit(1, when(1), (insert("a ", "two", 2),))], strategy, ITEMS, lineage=BARE)
    log = [Commit(2, when(2), (insert("a", "one", 1),)), Commit(3, when(3), LATER[:1])]
    with pytest.raises(DataError, match="no earlier change has the left-out values of 1 update"):
        test_versions.deliver(target, log, strategy, ITEMS, lineage=BARE, whole=True, started=when(30))


def test_an_undo_puts_back_the_version_of_the_very_key(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that the load has closed is found again by its key, whose collation the table of the undo has too."""

    def create_like(self: SqliteDialect, table: Name, like: Name, columns: Sequence[str]) -> str:
        made = ", ".join(f"{self.quote(column)} COLLATE RTRIM" for column in columns)
        return f"CREATE TABLE {self.name(table)} ({made})"

    monkeypatch.setattr(SqliteDialect, "create_like", create_like)
    own = "__dpone__load_id TEXT, __dpone__loaded_at TEXT"
    target.run(f"CREATE TABLE orders ({PADDED}, __dpone__valid_from TEXT NOT NULL, __dpone__valid_to TEXT, {own})")
    strategy = Strategy("scd2", key="k")
    for n, read in enumerate(([("a", "one", 1), ("a ", "two", 2)], [("a", "one", 1), ("a ", "three", 2)])):
        rows = pa.Table.from_pylist([dict(zip(ITEMS.values.names, row, strict=True)) for row in read], ITEMS.values)
        target.load(rows, strategy, load_id=f"L{n}", undo=Undo(loads=5))
    test_undo.undo(target, "L1", strategy)
    assert sorted(target.rows("k, x, __dpone__valid_to", "k")) == [("a", "one", None), ("a ", "two", None)]
