"""Tables of dpone's own where a key has a limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sqlite.target import KEY, Target, at, evolve, load, rows

from dpone.connectors.sqlite.database import SqliteDatabase, SqliteDialect
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.connectors.sqlite.state import SqliteState
from dpone.contract import Part
from dpone.model.pipeline import StateSpec, Undo
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql.dialect import Database
from dpone.sql.own import Own
from dpone.sql.state import _bound
from dpone.sql.writer import own_lock

NAME = Name(("__dpone__kit",))
SCHEMA = pa.schema([("key", pa.string()), ("seq", pa.int64()), ("text", pa.string())])


class ShortDialect(SqliteDialect):
    """Where a text of a key has a length, which the server holds to."""

    max_key: ClassVar[int | None] = 240

    def key_column(self, field: pa.Field, most: int) -> str:
        size = f"length(CAST({self.quote(field.name)} AS BLOB))"
        return f"{self.column(field)} CHECK ({size} <= {most})"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[SqliteDatabase]:
    with closing(SqliteDatabase(tmp_path / "t.db", 5.0)) as db:
        db.dialect = ShortDialect()
        yield db


@pytest.fixture
def own(db: SqliteDatabase) -> Own:
    own = Own(db, NAME, SCHEMA, ("key", "seq"))
    own.create()
    return own


def test_a_long_key_is_found_by_its_digest_and_read_whole(db: SqliteDatabase, own: Own) -> None:
    """Two that differ at their end are two; a short one stands there as it is."""
    long = ["k" * 300 + end for end in "ab"]
    for n, key in enumerate((*long, "short")):
        own.insert(key, n, "x" * 500)
    assert own.rows(["key", "seq"], {"key": long[1]}) == [(long[1], 1)]
    assert sorted(own.distinct("key")) == sorted([*long, "short"])
    [(begin, whole), (short, none)] = db.rows('SELECT key, whole_key FROM "__dpone__kit" WHERE seq > 0 ORDER BY seq')
    assert (len(begin), whole, short, none) == (240 - 32, long[1], "short", None)
    assert begin.startswith("k" * 100)
    assert own.update({"key": long[0] + "c", "text": "y"}, {"key": long[0]}) == 1
    assert own.rows(["key", "text"], {"key": long[0] + "c"}) == [(long[0] + "c", "y")]
    assert own.update({"key": "now short"}, {"key": long[0] + "c"}) == 1
    own.delete({"key": long[1]})
    assert sorted(own.distinct("key")) == ["now short", "short"]
    looks = "x" * 9 + "~" + "0" * 64
    own.insert(looks, 1, None)
    assert sorted(own.distinct("key")) == ["now short", "short", looks]


def test_texts_of_any_length_are_not_compared(db: SqliteDatabase, own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    """DISTINCT meets the column of the key alone: of a long text, or an expression of one, not every server has it."""
    for n in range(3):
        own.insert("k" * 300, n, None)
    ran = list[str]()
    monkeypatch.setattr(db, "rows", lambda sql, values=(): (ran.append(sql), SqliteDatabase.rows(db, sql, values))[1])
    assert own.distinct("key") == ["k" * 300]
    assert [sql for sql in ran if "DISTINCT" in sql] == ['SELECT DISTINCT a."key" FROM "__dpone__kit" AS a']


def test_a_key_without_a_limit_is_stored_as_it_is(tmp_path: Path) -> None:
    """A dialect that does not say ``max_key`` has the columns it had, and any key in them."""
    with closing(SqliteDatabase(tmp_path / "t.db", 5.0)) as db:
        own = Own(db, NAME, SCHEMA, ("key", "seq"))
        own.create()
        own.insert("k" * 5000, 1, None)
        assert db.rows('SELECT * FROM "__dpone__kit"') == [("k" * 5000, 1, None)]


@pytest.mark.parametrize(
    ("key", "most"), [(("key",), 240), (("key", "text"), 120), (("key", "seq"), 208), (("seq",), None), ((), None)]
)
def test_the_texts_of_a_key_share_its_length(key: tuple[str, ...], most: int | None) -> None:
    """Equally, after what other columns take; without a text there is nothing to share."""
    assert ShortDialect().key_size(SCHEMA, key) == most
    sql = ShortDialect().create_table(NAME, SCHEMA, key)
    assert sql.count("CHECK") == sum(name != "seq" for name in key)
    assert most is None or f"<= {most})" in sql


@given(st.text(), st.sampled_from(["bytes", "characters", "UTF-16 units"]))
def test_what_is_stored_has_the_length_that_the_server_counts(text: str, unit: Any) -> None:
    """Whatever it counts in, and whatever the text begins with; what fits is stored as it is."""
    dialect = type("Short", (ShortDialect,), {"unit": unit})()
    db: Any = type("Unconnected", (), {"dialect": dialect})()
    own = Own(db, NAME, SCHEMA, ("key", "seq"))
    for one in (text, text * 50 + "x" * 240):
        stored = own.stored("key", one)
        assert dialect.length(stored) <= 208
        assert (stored == one) == (dialect.length(one) <= 208)
    assert own.stored("text", text * 50) == text * 50


class ShortSink(SqliteSink):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db.dialect = ShortDialect()


class ShortState(SqliteState):
    def database(self) -> SqliteDatabase:
        db = super().database()
        db.dialect = ShortDialect()
        return db


def test_loads_of_long_keys_are_journalled_taken_back_and_renamed(tmp_path: Path) -> None:
    """What a load does with its key: entry, staging, parts, undo and ``state move``, for a key and parts that no index
    of the server takes whole."""
    key, new, part = f"{KEY}|{'k' * 300}", f"{KEY}|{'n' * 300}", "p" * 300
    strategy, data = Strategy("merge", key="id"), pa.table({"id": [1, 2], "n": [1, 2]})
    target = Target(tmp_path / "t.db")
    with closing(ShortSink(target.sink(strategy, undo=Undo(loads=1))._spec)) as sink:
        evolve(sink, data.schema, strategy)
        for n in range(2):
            given = load(data.schema, strategy, key=key, repeatable=True)
            sink.take_back(key)
            sink.provide(given, [])
            writer = sink.open(given)
            writer.stage(Part(part), rows(data.set_column(1, "n", pa.array([n, n]))))
            assert [*writer.staged()] == [part]
            [again] = [*sink.open(given).staged()]
            assert again == part
            head = writer.commit(sink.journal(key), at(n)).entry
        assert sink.journal(key) == head
        assert sink.journal(f"{key}|other") is None
        assert sink.journal_keys() == [key]
        gone = load(None, strategy, key=key).entry(head, at(9), inserted=0)
        sink.move(key, head, new, None, gone)
        assert sorted(sink.journal_keys()) == sorted([key, new])
        sink.undo(load(None, strategy, key=new), head.load_id, sink.journal(new), at(0))
    assert target.rows('"id", "n"', '"id"') == [(1, 0), (2, 0)]


def test_a_state_of_long_keys(tmp_path: Path) -> None:
    """Saved, counted, locked and listed by the whole key."""
    keys = ["k" * 300 + end for end in "ab"]
    state = ShortState(StateSpec("sqlite", Secret(f"sqlite:///{tmp_path / 'state.db'}")))
    for n, key in enumerate(keys):
        with state.lock(key, 60) as lease:
            assert state.save(key, {"n": n}, 0) == 1
            lease.renew()
    assert [found.value for key in keys if (found := state.load(key))] == [{"n": 0}, {"n": 1}]
    assert [one.value for one in state.history(keys[1])] == [{"n": 1}]


def test_tables_of_dpones_own_are_made_by_one_runner_of_a_schema() -> None:
    """Targets of one schema share these tables, so they share the lock; other schemas do not wait."""
    assert own_lock(Name(("a", "t"))) == own_lock(Name(("a", "u"))) != own_lock(Name(("b", "t")))
    assert own_lock(Name(("t",))) == own_lock(Name(("u",)))


@pytest.mark.parametrize(
    ("type_", "bound"),
    [
        (pa.string(), "2026-01-31T10:30:00.000000+00:00"),
        (pa.float64(), 1769855400.0),
        (pa.timestamp("us", "UTC"), "2026-01-31 10:30:00 as timestamp[us, tz=UTC]"),
    ],
)
def test_an_instant_is_bound_as_its_column_keeps_it(type_: pa.DataType, bound: Any) -> None:
    """As a text, as seconds since 1970, or as the dialect binds a timestamp."""
    dialect = SimpleNamespace(bind=lambda value, type_: f"{value:%Y-%m-%d %H:%M:%S} as {type_}")
    db = cast(Database, SimpleNamespace(dialect=dialect))
    assert _bound(db, datetime(2026, 1, 31, 10, 30, tzinfo=UTC), type_) == bound
