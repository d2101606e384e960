"""DatabaseCases: what the Dialect and the Database of a sink over ``dpone.sql`` must do. Another sink passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from attrs import define, field

from dpone.contract import Sink, SupportsTakeBack, SupportsUndo
from dpone.errors import DponeError, UndoRefused, counted
from dpone.model import evolution
from dpone.model.pipeline import Lineage, Undo
from dpone.model.schema import PREFIX, Name
from dpone.model.strategy import Strategy
from dpone.sql import journal
from dpone.sql.dialect import transaction
from dpone.sql.own import Own
from dpone.sql.sink import SqlSink
from dpone.sql.strategies.scd2 import INSTANT, moment
from dpone.testing.cases import RoleContract, case
from dpone.testing.harness import TABLE, Harness
from dpone.testing.loads import FULL, at, failed, has, key, load, new_load, simple
from dpone.testing.rows import SHAPE, sample, table

_PATIENCE = 0.3  # seconds in which a thread that nobody keeps waiting has long gone on
_SHARED = "the lock of the case"


def over_sql(harness: Harness) -> bool:
    """True for a sink whose statements ``dpone.sql`` makes."""
    with closing(harness.make("sink", harness.sink(simple(harness)))) as sink:
        return isinstance(sink, SqlSink)


def own_tables(sink: Sink) -> list[str]:
    """The tables of dpone's own that exist; an empty list for a sink that is not over ``dpone.sql``."""
    if not isinstance(sink, SqlSink):
        return []
    return [table.last for table in sink._db.tables(sink._target, PREFIX)]


@contextmanager
def _database(harness: Harness, name: str = TABLE, strategy: Strategy | None = None) -> Iterator[tuple[Any, Name]]:
    """The Database of a sink into a table, and the table's name."""
    with closing(harness.make("sink", harness.sink(strategy or simple(harness), name))) as sink:
        yield sink._db, sink._target


@contextmanager
def _own_lines(harness: Harness) -> Iterator[tuple[Any, Own]]:
    """A Database, and a table of dpone's own in it."""
    with _database(harness) as (db, target):
        schema = pa.schema([("key", pa.string()), ("part", pa.string()), ("at", INSTANT)])
        lines = Own(db, target.sibling("__dpone__kit"), schema, ("key", "part"))
        with transaction(db, _SHARED):
            lines.create()
        yield db, lines


@define
class _Meanwhile:
    """An action of another client, in its own thread. ``done``: it ended without an error. ``within``: it ended while
    nothing was done in this thread."""

    what: Callable[[], Any]
    done: bool = False
    within: bool = field(default=False, init=False)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._thread.join(_PATIENCE)
        self.within = self.done

    def _run(self) -> None:
        with suppress(Exception):  # it was refused
            self.what()
            self.done = True

    def end(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive(), "a client that waited for the end of a transaction still waits"


class DatabaseCases(RoleContract):
    """Part of SinkContract. What is said of the table of dpone's own is said of every table."""

    @case("exactly_once")
    def test_a_lock_keeps_out_who_asks_for_it(self, harness: Harness) -> None:
        """``Database.begin``: a second transaction of one lock waits, or is refused, until the first has ended by
        ``commit``, ``rollback`` or ``close``; DDL does not release the lock."""
        if not over_sql(harness):
            return

        def other() -> None:
            with _database(harness) as (db, _):
                db.begin(_SHARED)
                began_early.append(not ended)
                db.rollback()

        load(harness, sample(1, 1), simple(harness))
        for end in ("commit", "rollback", "close"):
            ended: list[str] = []
            began_early: list[bool] = []
            with _database(harness) as (db, target):
                db.begin(_SHARED)
                db.create(target.sibling(f"__dpone__kit_{end}"), pa.schema([("x", pa.int64())]))
                meanwhile = _Meanwhile(other)
                ended.append(end)
                getattr(db, end)()
                meanwhile.end()
            assert not any(began_early), "two transactions held the same lock at the same time"

    @case("write")
    def test_rows_of_others_are_seen(self, harness: Harness) -> None:
        """``Sink.is_empty``: a target in which another program has put a row is not empty, though no journal knows of
        it: a first load must stop for it. Without a row it is empty, and it exists."""
        if not over_sql(harness):
            return
        for name, rows in (("theirs", sample(1, 1)), ("bare", sample(1, 0))):
            harness.seed(rows, name)
            with closing(harness.make("sink", harness.sink(simple(harness), name))) as sink:
                answers = sink.exists(), sink.is_empty()
                assert answers == (True, not rows.num_rows), (
                    f"exists and is_empty return {answers} for {counted(rows.num_rows, 'row')}"
                )

    @case("exactly_once")
    def test_what_follows_ddl_is_a_transaction(self, harness: Harness) -> None:
        """``Database.begin``: rows that come after DDL are gone with a ``rollback``, also where the DDL commits."""
        if not over_sql(harness):
            return
        load(harness, sample(1, 1), simple(harness), lineage=Lineage(False))
        with _database(harness) as (db, target):
            db.begin(_SHARED)
            db.create(target.sibling("__dpone__kit"), pa.schema([("x", pa.int64())]))
            db.load(target, SHAPE, iter(sample(2, 3).to_batches()), {})
            db.rollback()
        found = harness.rows()
        assert found is not None
        assert found.num_rows == 1, "rows of a rolled back transaction are in the table"

    @case("exactly_once")
    def test_who_holds_a_table_loses_no_row_of_others(self, harness: Harness) -> None:
        """``Database.hold``: while a transaction holds a table and then empties it, another program that adds or
        changes a row waits, is refused, or makes the transaction fail. A row whose write was confirmed is never
        lost."""
        if not over_sql(harness):
            return
        late = table([(9, "d0", "added", None)])
        with _database(harness) as (db, _):
            holds_new_rows = db.dialect.holds_new_rows
        if holds_new_rows and _written_while_held(harness, "adds", lambda: harness.seed(late, "adds")).done:
            assert 9 in _ids(harness, "adds"), "the table was held, but a row added in that time is lost"
        if _written_while_held(harness, "changes", lambda: harness.disturb("changes")).within:
            assert _ids(harness, "changes"), "the table was held, but a row changed in that time is lost"

    @case("merge")
    def test_unique_claims_no_more_than_holds(self, harness: Harness) -> None:
        """``Database.unique``: False for a key that no unique index on just its columns keeps single: a plain index,
        one on more or on fewer columns, one of some rows alone. Keys would be there twice, or a merge would fail."""
        if not over_sql(harness):
            return
        indexes = {
            "none": "",
            "plain": "CREATE INDEX {index} ON {table} ({id}, {score})",
            "wider": "CREATE UNIQUE INDEX {index} ON {table} ({id}, {score}, {more})",
            "narrower": "CREATE UNIQUE INDEX {index} ON {table} ({id})",
            "partial": "CREATE UNIQUE INDEX {index} ON {table} ({id}, {score}) WHERE {id} > 7",
        }
        rows = sample(1, 3).append_column("more", pa.array([1, 2, 3], pa.int64()))
        for name, statement in indexes.items():
            load(harness, rows, simple(harness), name, lineage=Lineage(False))
            with _database(harness, name) as (db, target):
                names = {column: db.dialect.quote(column) for column in ("id", "score", "more")}
                said = statement.format(index=db.dialect.quote(f"of_{name}"), table=db.dialect.name(target), **names)
                if said and not _made(db, said):
                    continue
                with _transaction(db):
                    claimed = db.unique(target, ("id", "score"))
            assert not claimed, f"unique returns True, but the index is {name}"

    @case("exactly_once")
    def test_execute_counts_the_rows_it_found(self, harness: Harness) -> None:
        """``Database.execute``: the rows that the condition met, also where an UPDATE leaves them as they were; those
        that an INSERT or a DELETE has written or taken out."""
        if not over_sql(harness):
            return
        load(harness, table([(1, "d1", None, 1.0), (2, "d1", "two", None), (3, "d2", "three", 3.0)]), simple(harness))
        with _database(harness) as (db, target):
            d, placed = db.dialect, db.dialect.name(target)
            day, columns = f"t.{d.quote('day')}", d.columns(["id", "day"])
            copies = f"SELECT t.{d.quote('id')} + 10, {day} FROM {placed} AS t WHERE {day} = {d.literal('d1')}"
            db.begin(_SHARED)
            counts = {
                "same values": db.execute(d.update(target, "day", f"{day} = {d.literal('d1')}"), ("d1",)),
                "other values": db.execute(d.update(target, "name", f"{day} = {d.literal('d1')}"), ("new",)),
                "none": db.execute(d.update(target, "name", f"{day} = {d.literal('d7')}"), ("new",)),
                "inserted": db.execute(f"INSERT INTO {placed} ({columns}) {copies}"),
                "deleted": db.execute(d.delete_from(target, f"{day} = {d.literal('d1')}")),
                "cleared": db.clear(target),
            }
            db.rollback()
        expected = {"same values": 2, "other values": 2, "none": 0, "inserted": 2, "deleted": 4, "cleared": 1}
        assert counts == expected, f"counted were {counts}"

    @case("exactly_once")
    def test_instants_come_with_their_zone(self, harness: Harness) -> None:
        """``Database.rows``: an instant that was written is the same one when it is read, by a datetime that knows its
        zone or a text that says it."""
        if not over_sql(harness):
            return
        instant = datetime(2026, 1, 31, 23, 59, 59, 5, UTC)
        with _own_lines(harness) as (db, lines):
            with transaction(db, _SHARED):
                lines.insert("k", "", db.dialect.bind(instant, INSTANT))
            [(found,)] = lines.rows(["at"], {"key": "k"})
            assert moment(found) == instant, "an instant is read without its time zone, or as another instant"

    @case("exactly_once")
    def test_keys_of_any_length_are_told_apart(self, harness: Harness) -> None:
        """Tables of dpone's own: two keys that differ at their very end are two, are found by themselves alone, and are
        read whole. Where a key has a length, ``Dialect.max_key`` says so."""
        if not over_sql(harness):
            return
        keys = ["short", *(f"{'é' * 3000}{end}" for end in "abA")]
        with _own_lines(harness) as (db, lines):
            with transaction(db, _SHARED):
                for one in keys:
                    try:
                        lines.insert(one, one, None)
                    except DponeError as error:
                        raise AssertionError(f"a key of {len(one)} characters cannot be stored: {error}") from error
            for one in keys:
                assert lines.rows(["key", "part"], {"key": one, "part": one}) == [(one, one)], "the key is cut"
            with transaction(db, _SHARED):
                lines.delete({"key": keys[1]})
            assert sorted(lines.distinct("part")) == sorted([keys[0], *keys[2:]]), "another line was deleted, too"

    @case("exactly_once")
    def test_a_journal_that_cannot_be_read_is_an_error(self, harness: Harness) -> None:
        """``Sink.journal`` raises for a damaged head; it returns neither None nor an older entry."""
        if not over_sql(harness):
            _journal_damaged(harness)
            return
        for column in ("position", "rows", "committed_at"):
            for n in (1, 2):
                load(harness, sample(n, n), simple(harness), column, n=n)
            with _database(harness, column) as (db, target):
                d, damaged = db.dialect, target.sibling(journal.TABLE)
                head = f"t.{d.quote('key')} = {d.literal(key(column))} AND t.{d.quote('seq')} = 2"
                with _transaction(db):
                    assert db.execute(d.update(damaged, column, head), ("{",)) == 1
            with (
                closing(harness.make("sink", harness.sink(simple(harness), column))) as sink,
                _refused(f"{column} of the head is damaged, but the journal was read without an error"),
            ):
                sink.journal(key(column))

    @case("full_refresh")
    def test_what_hangs_on_the_target_outlives_a_full_refresh(self, harness: Harness) -> None:
        """``Database.plain``: an index on the target still exists after a full refresh, whether the rows are deleted or
        the table is replaced."""
        if not over_sql(harness):
            return
        load(harness, sample(1, 3), FULL, lineage=Lineage(False))
        with _database(harness, strategy=FULL) as (db, target), _transaction(db):
            d = db.dialect
            db.execute(f"CREATE UNIQUE INDEX {d.quote('only_once')} ON {d.name(target)} ({d.quote('id')})")
        for n in (1, 2):
            load(harness, sample(1, 3 + n), FULL, lineage=Lineage(False), n=n)
        with _database(harness, strategy=FULL) as (db, target):
            d = db.dialect
            db.begin(_SHARED)
            twice = f"INSERT INTO {d.name(target)} ({d.quote('id')}) VALUES (1)"
            with _refused("the target lost its unique index"):
                db.execute(twice)
            db.rollback()

    @case("undo")
    def test_an_undo_loses_no_row_of_others(self, harness: Harness) -> None:
        """``SupportsUndo.undo``: a row that another program has added since the load is still there, whether the load
        is taken back or that is refused."""
        if not over_sql(harness):
            return
        strategy = FULL if has(harness, "full_refresh") else simple(harness)
        keep: dict[str, Any] = {"undo": Undo(loads=5)}
        load(harness, sample(1, 2), strategy, n=1, **keep)
        newest = load(harness, sample(3, 5), strategy, n=2, **keep).entry
        with _database(harness, strategy=strategy) as (db, target), _transaction(db):
            names = db.dialect.columns(["id", "day"])
            db.execute(f"INSERT INTO {db.dialect.name(target)} ({names}) VALUES (9, 'd9')")
        with closing(harness.make("sink", harness.sink(strategy, **keep))) as sink:
            harness.require(SupportsUndo, sink)
            with suppress(UndoRefused):
                sink.undo(new_load(None, strategy), newest.load_id, newest, at(1, epoch=1))
        assert 9 in _ids(harness, TABLE), "a row added by another program after the load is lost"

    @case("take_back")
    def test_what_hangs_on_a_column_is_not_taken_back(self, harness: Harness) -> None:
        """``Database.take_out``: a column added by a failed load stays if it has an index by now, and the reason is
        reported. Nothing is dropped with it."""
        if not over_sql(harness):
            return
        strategy = simple(harness)
        more = sample(3, 4).append_column("more", pa.array([7, 8], pa.int64()))
        load(harness, sample(1, 2), strategy)
        failed(harness, strategy, more, dies=True)
        with _database(harness) as (db, target), _transaction(db):
            d = db.dialect
            db.execute(f"CREATE UNIQUE INDEX {d.quote('of_more')} ON {d.name(target)} ({d.quote('more')})")
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            taken = harness.require(SupportsTakeBack, sink).take_back(key())
        stays = [one.stays for one in taken if one.stays]
        assert stays, "the reason why a column stays is not reported"
        found = harness.rows()
        assert found is not None
        assert "more" in found.column_names, "the column was dropped together with its index"

    @case("take_back")
    def test_a_table_that_was_made_again_is_not_taken_back(self, harness: Harness) -> None:
        """``Database.identity``: a table that a failed load created stays if another program has dropped and created it
        again with the same columns, one of them NOT NULL; the reason is reported."""
        if not over_sql(harness):
            return
        strategy = simple(harness)
        failed(harness, strategy, sample(1, 2), dies=True)
        with _database(harness) as (db, target):
            made = db.schema(target)
            at_day = made.get_field_index("day")
            with _transaction(db):
                db.drop(target)
            with _transaction(db):
                db.create(target, made.set(at_day, made.field(at_day).with_nullable(False)))
        with closing(harness.make("sink", harness.sink(strategy))) as sink:
            taken = harness.require(SupportsTakeBack, sink).take_back(key())
        assert harness.rows() is not None, "a table of the same name, created by another program, was dropped"
        assert [one.stays for one in taken if one.stays], "the table stays, but the reason is not reported"

    @case("take_back")
    def test_a_table_that_others_write_is_not_taken_out(self, harness: Harness) -> None:
        """``Database.take_out``: another program that adds a row between check and drop waits, is refused, or makes the
        drop fail. A row whose write was confirmed is never lost."""
        if not over_sql(harness):
            return
        load(harness, sample(1, 1), simple(harness), lineage=Lineage(False))
        with _database(harness) as (db, target):
            with _transaction(db):
                db.clear(target)
            db.begin(_SHARED)
            db.hold(target)
            assert db.rows(f"SELECT COUNT(*) FROM {db.dialect.name(target)} AS t") == [(0,)]
            meanwhile = _Meanwhile(lambda: harness.seed(sample(2, 2)))
            try:
                db.take_out(target)
                db.commit()
            except DponeError:
                db.rollback()
        meanwhile.end()
        if meanwhile.done:
            found = harness.rows()
            assert found is not None, "a table that holds another program's row was dropped"
            assert found.num_rows == 1

    @case("schema_evolution")
    def test_changes_that_fail_halfway_are_not_made(self, harness: Harness) -> None:
        """``Sink.apply``: where DDL has transactions, a batch whose third statement fails leaves nothing of it."""
        if not over_sql(harness):
            return
        load(harness, sample(1, 2), simple(harness))
        with _halfway(harness) as (sink, before, statements):
            with pytest.raises(DponeError):
                sink.apply(statements)
            if not sink.dialect.ddl_commits:
                assert _columns(sink) == before, "columns of failed changes are in the target"
        load(harness, _more(), simple(harness))
        assert _columns_there(harness) >= {"a", "b", "c"}

    @case("take_back")
    def test_changes_of_a_load_that_fail_halfway_are_not_made(self, harness: Harness) -> None:
        """``SupportsTakeBack.provide``: of a batch whose third statement fails nothing is left, at the latest by
        ``take_back``, where DDL commits by itself."""
        if not over_sql(harness):
            return
        load(harness, sample(1, 2), simple(harness))
        with _halfway(harness) as (sink, before, statements):
            taking = harness.require(SupportsTakeBack, sink)
            with pytest.raises(DponeError):
                taking.provide(new_load(_more().schema, simple(harness)), statements)
            if not sink.dialect.ddl_commits:
                assert _columns(sink) == before, "columns of failed changes are in the target"
            stays = [f"{one.what}: {one.stays}" for one in taking.take_back(key()) if one.stays]
            assert _columns(sink) == before, f"columns of failed changes were not taken back: {stays}"


def _journal_damaged(harness: Harness) -> None:
    """Of a sink that keeps its journal in another way, the whole of it."""
    for n, text in enumerate(("", "{", "[]", "null")):
        for i in (1, 2):
            load(harness, sample(i, i), simple(harness), f"t{n}", n=i)
        harness.damage("sink", text, f"t{n}")
        with (
            closing(harness.make("sink", harness.sink(simple(harness), f"t{n}"))) as sink,
            _refused(f"the journal is damaged, {text!r}, and it is read all the same"),
        ):
            sink.journal(key(f"t{n}"))


def _written_while_held(harness: Harness, name: str, write: Callable[[], Any]) -> _Meanwhile:
    """What another program does to a table while a transaction holds it, looks at it, and then empties it."""
    load(harness, sample(1, 3), simple(harness), name, lineage=Lineage(False))
    with _database(harness, name) as (db, target):
        db.begin(_SHARED)
        db.hold(target)
        assert db.rows(f"SELECT COUNT(*) FROM {db.dialect.name(target)} AS t") == [(3,)]
        meanwhile = _Meanwhile(write)
        try:
            db.clear(target)
            db.commit()
        except DponeError:  # the other one is in its way
            db.rollback()
    meanwhile.end()
    return meanwhile


def _ids(harness: Harness, table: str) -> list[int]:
    found = harness.rows(table)
    assert found is not None
    return [int(id) for id in found["id"].to_pylist()]


@contextmanager
def _transaction(db: Any) -> Iterator[None]:
    db.begin(_SHARED)
    yield
    db.commit()


def _made(db: Any, statement: str) -> bool:
    """False where the system has no such index."""
    try:
        with _transaction(db):
            db.execute(statement)
    except DponeError:
        db.rollback()
        return False
    return True


@contextmanager
def _refused(lost: str) -> Iterator[None]:
    """The block is refused, or ``lost`` is so."""
    try:
        yield
    except DponeError:
        return
    raise AssertionError(lost)


def _more() -> pa.Table:
    rows = sample(3, 4)
    for name in "abc":
        rows = rows.append_column(name, pa.array([7, 8], pa.int64()))
    return rows


@contextmanager
def _halfway(harness: Harness) -> Iterator[tuple[Any, list[str], list[str]]]:
    """A sink, the columns of its target, and statements that add three columns, the third of which no server takes."""
    spec = harness.sink(simple(harness))
    with closing(harness.make("sink", spec)) as sink:
        have = sink.schema()
        bare = pa.schema([f for f in have if f.name in SHAPE.names])
        plan = evolution.plan(bare, _more().schema, spec.options.schema_evolution, sink.stores)
        made = sink.ddl(plan.changes)
        yield sink, _columns(sink), [*made[:2], "NO STATEMENT OF ANY SERVER", *made[2:]]


def _columns(sink: Sink) -> list[str]:
    schema = sink.schema()
    assert schema is not None
    return list(schema.names)


def _columns_there(harness: Harness) -> set[str]:
    found = harness.rows()
    assert found is not None
    return set(found.column_names)
