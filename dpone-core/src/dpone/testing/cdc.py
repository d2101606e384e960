"""CDCContract: what a reader of a change stream that declares a capability must do."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve

from dpone.contract import CDCReader, ChangeWindow, SupportsResync, SupportsStatus
from dpone.errors import ConfigError, DponeError, Gap, IdentityChanged
from dpone.model import changes
from dpone.model.position import Position
from dpone.model.schema import PREFIX, Name
from dpone.testing.cases import RoleContract, at_once, case
from dpone.testing.harness import TABLE, Change, Harness
from dpone.testing.outside import found_offline, made_offline, nothing_left, waits_end
from dpone.testing.rows import Broken
from dpone.testing.unreachable import offline

Found = tuple[Any, ...]


def insert(id: int, name: str | None = "x", table: str = TABLE, **more: Any) -> Change:
    return Change("insert", {"id": id, "name": name, **more}, table=table)


def update(key: int, table: str = TABLE, **row: Any) -> Change:
    return Change("update", row, key, table)


def delete(key: int, table: str = TABLE) -> Change:
    return Change("delete", {}, key, table)


class CDCContract(RoleContract):
    """Subclass it and name the ``connector``. Tables ``orders`` and ``lines`` have ``id`` (int64, key) and
    ``name`` (text); they are empty, and the stream is not created yet.

    What the contract says and no case examines, because it needs a setup that differs from system to system: ``create``
    that would make writes of applications fail, a table that joins the stream later or should be in it and is not, and
    ``drop`` while a run reads.
    """

    role = "cdc"

    @case("insert_update_delete")
    def test_changes_come_in_commit_order(self, harness: Harness) -> None:
        """Every committed change comes once, in order, with its key and values."""
        with _stream(harness) as reader:
            harness.change([insert(1, "a"), insert(2, None)])
            harness.change([update(1, name="b"), delete(2)])
            window = _all(reader, None)
            found = _rows(reader, window)
            assert [(r["op"], r["id"], r["name"], r["key"]) for r in found] == [
                ("insert", 1, "a", None), ("insert", 2, None, None), ("update", 1, "b", 1), ("delete", None, None, 2),
            ]  # fmt: skip
            assert _ordered(found)
            assert len({r["commit"] for r in found}) == 2
            assert window.changes in (None, 4)

    @case("insert_update_delete")
    def test_a_change_window_read_again_is_the_same(self, harness: Harness) -> None:
        """Until it is acknowledged a window can be read again, by another process too, with the same event ids."""
        with _stream(harness) as reader:
            harness.change([insert(1), insert(2)])
            window = _all(reader, None)
            first = _rows(reader, window)
            assert _rows(reader, window) == first
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            again = _all(reader, None)
            assert (_rows(reader, again), again.position) == (first, window.position)
        assert len({row["event_id"] for row in first}) == 2

    @case("insert_update_delete")
    def test_resume_is_strictly_after(self, harness: Harness) -> None:
        """After a position only later commits are returned, including those that existed when it was acknowledged. If
        nothing is new, the window is empty, and the next one begins where it ends, even if others write to the log."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            first = _all(reader, None)
            _rows(reader, first)
            harness.change([insert(2)])
            reader.ack(first.position)
            reader.ack(first.position)
            second = _all(reader, first.position)
            assert [r["id"] for r in _rows(reader, second)] == [2]
            reader.ack(second.position)
            nothing = _all(reader, second.position)
            assert (dict(nothing.tables), nothing.caught_up) == ({}, True)
            harness.change([insert(3)])
            for before in (second, nothing):
                later = _all(reader, before.position)
                assert [r["id"] for r in _rows(reader, later)] == [3]
                assert later.commits[0] == before.commits[1]
            assert (second.commits[0], nothing.commits[0]) == (first.commits[1], second.commits[1])

    @case("insert_update_delete")
    def test_create_again_loses_no_change(self, harness: Harness) -> None:
        """``create`` leaves an existing stream as it is and returns the position at which it began, also in another
        process. ``lag`` consumes nothing."""
        with _stream(harness) as reader:
            first = reader.create()
            harness.change([insert(1), insert(2)])
            with closing(harness.make("cdc", harness.change_stream())) as other:
                assert other.create() == first, "create of an existing stream moved its beginning"
            reader.lag()
            assert [r["id"] for r in _rows(reader, _all(reader, None))] == [1, 2]

    @case("insert_update_delete")
    def test_a_limit_cuts_between_transactions(self, harness: Harness) -> None:
        """A window holds whole transactions, at least one, and says that it has not caught up."""
        with _stream(harness) as reader:
            for n in range(3):
                harness.change([insert(10 * n + i) for i in range(3)])
            position, seen = None, []
            for n in range(3):
                window = reader.window(position, 1)
                found = _rows(reader, window)
                assert len(found) == 3
                assert n == 2 or not window.caught_up
                seen += [row["id"] for row in found]
                position = window.position
            assert seen == [0, 1, 2, 10, 11, 12, 20, 21, 22]
            if not window.caught_up:  # it ended at its limit, and did not look beyond
                window = reader.window(position, 1)
                assert dict(window.tables) == {}
            assert window.caught_up

    @case("insert_update_delete")
    def test_the_same_values_again_are_other_events(self, harness: Harness) -> None:
        """A row set to a, b, a in one transaction is three updates of three event ids."""
        with _stream(harness) as reader:
            harness.change([insert(1, "x"), update(1, name="a"), update(1, name="b"), update(1, name="a")])
            found = _rows(reader, _all(reader, None))
            assert [r["name"] for r in found] == ["x", "a", "b", "a"]
            assert len({r["event_id"] for r in found}) == 4

    @case("insert_update_delete")
    def test_many_tables_share_one_order(self, harness: Harness) -> None:
        """Changes of two tables in one transaction keep their places in it."""
        with _stream(harness) as reader:
            harness.change([insert(1), insert(7, table="lines"), insert(2)])
            window = _all(reader, None)
            orders, lines = _rows(reader, window), _rows(reader, window, "lines")
            assert [r["id"] for r in orders] == [1, 2]
            assert orders[0]["ordinal"] < lines[0]["ordinal"] < orders[1]["ordinal"]
            assert orders[0]["commit"] == lines[0]["commit"]

    @case("insert_update_delete")
    def test_a_plan_runs_nothing(self, harness: Harness) -> None:
        """``setup_plan`` gives statements for a DBA, the same whenever it is asked, or a ConfigError for what cannot be
        planned; neither it nor ``check`` makes anything. ``close`` may be called twice."""
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            before = reader.check()
            plans = [_planned(reader) for _ in range(2)]
            assert plans[0] == plans[1], "setup_plan returns different statements for the same stream"
            with closing(harness.make("cdc", harness.change_stream())) as other:
                assert other.check() == before, "check or setup_plan created something"
            reader.close()

    @case("insert_update_delete")
    def test_it_is_made_without_a_connection(self, harness: Harness) -> None:
        """The constructor and ``setup_plan`` connect to nothing: they succeed, or refuse a plan with a ConfigError,
        while the process cannot open a file or a socket."""
        with closing(made_offline(harness, "cdc", harness.change_stream())) as reader:
            expected = _planned(reader)
            with offline():
                try:
                    plan = _planned(reader)
                except Exception as error:
                    raise AssertionError(f"setup_plan opened a file or a connection: {error!r}") from error
            assert plan == expected

    @case("insert_update_delete")
    def test_a_failed_connection_is_a_finding(self, harness: Harness) -> None:
        """``check`` without a connection raises nothing: it returns a finding that says what to do."""
        with _stream(harness):
            harness.change([insert(1)])
        found_offline(harness, "cdc", harness.change_stream())

    @case("insert_update_delete")
    def test_close_leaves_nothing_open(self, harness: Harness) -> None:
        """After ``close`` there is no connection, thread or spool left, also where a table was not read to its end."""
        with _stream(harness):
            harness.change([insert(1), insert(2)])

        def work() -> Any:
            with closing(harness.make("cdc", harness.change_stream())) as reader:
                window = _all(reader, None)
                _rows(reader, window)
                with pytest.raises(Broken):
                    _read_one(reader, _named(window, TABLE))
                return reader

        nothing_left(work)

    @case("insert_update_delete")
    def test_a_wait_has_an_end(self, harness: Harness) -> None:
        """A window that waits for another client or a silent server ends at its limit, with a transient error, and soon
        after a signal."""
        with _stream(harness):
            harness.change([insert(1)])

        def work(spec: Any) -> None:
            with closing(harness.make("cdc", spec)) as reader:
                _all(reader, None)

        waits_end(harness, "cdc", work)

    @case("insert_update_delete")
    def test_what_is_gone_is_dropped_again(self, harness: Harness) -> None:
        """``drop`` succeeds for an existing stream, for one that was dropped before, and in another process. It returns
        a line per object, or None. ``create`` then makes a working stream, and the rows of the tables stay."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            for _ in range(2):
                _drop(reader)
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            _drop(reader)
            begin = reader.create()
            harness.change([update(1, name="still there"), insert(2)])
            found = [(r["op"], r["key"]) for r in _rows(reader, _all(reader, begin))]
            assert found[-2:] == [("update", 1), ("insert", None)]

    @case("insert_update_delete")
    def test_what_is_acknowledged_stays_so(self, harness: Harness) -> None:
        """``ack`` of a position that the source is beyond already is passed over, also by a reader that has read
        nothing: later changes come, and no earlier one."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            first = _all(reader, None)
            harness.change([insert(2)])
            second = _all(reader, first.position)
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            for position in (second.position, first.position, second.position):
                _acknowledge(reader, position)
        harness.change([insert(3)])
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            assert [r["id"] for r in _rows(reader, _all(reader, second.position))] == [3]

    @case("insert_update_delete")
    def test_a_change_read_that_is_given_up_is_begun_again(self, harness: Harness) -> None:
        """The sink fails at the first batch: its error passes as it is, and the same window is read again, whole, by
        another thread; then another window."""
        with _stream(harness) as reader:
            harness.change([insert(n) for n in range(5)])
            window = _all(reader, None)
            with pytest.raises(Broken):
                _read_one(reader, _named(window, TABLE))
            [found] = at_once([partial(_rows, reader, window)])
            assert [r["id"] for r in found] == [0, 1, 2, 3, 4]
            harness.change([insert(5)])
            assert [r["id"] for r in _rows(reader, _all(reader, window.position))] == [5]

    @case("insert_update_delete")
    def test_tables_are_read_at_once(self, harness: Harness) -> None:
        """Different tables of one window, from a thread each, which holds its table open until all have theirs."""
        with _stream(harness) as reader:
            for n in range(3):
                harness.change([insert(n), insert(10 + n, table="lines")])
            window = _all(reader, None)
            opened = threading.Barrier(2, timeout=20)
            found = at_once([partial(_ids_at_once, reader, _named(window, table), opened) for table in _TABLES])
            refused = [str(answer) for answer in found if isinstance(answer, DponeError)]
            assert refused == [], "a table was refused while another was read"
            assert found == [[0, 1, 2], [10, 11, 12]]

    @case("key_change")
    def test_a_changed_key_names_the_row_that_was(self, harness: Harness) -> None:
        """An update of the key carries the old key and the new one, or is a delete and an insert."""
        with _stream(harness) as reader:
            harness.change([insert(1, "a")])
            harness.change([update(1, id=2, name="a")])
            found = [(r["op"], r["key"], r["id"]) for r in _rows(reader, _all(reader, None))[1:]]
            assert found in ([("update", 1, 2)], [("delete", 1, None), ("insert", None, 2)])

    @case("truncate")
    def test_a_truncate_is_a_change(self, harness: Harness) -> None:
        """A truncated table gives one change without key and values, in its place."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            harness.change([Change("truncate"), insert(2)])
            found = _rows(reader, _all(reader, None))
            assert [(r["op"], r["id"], r["key"]) for r in found] == [
                ("insert", 1, None), ("truncate", None, None), ("insert", 2, None),
            ]  # fmt: skip

    @case("unchanged")
    def test_a_value_left_out_is_marked(self, harness: Harness) -> None:
        """A column that the log left out of an update is marked as unchanged; one that was set to NULL is not."""
        with _stream(harness) as reader:
            harness.change([insert(1, "a" * 10_000, note="b" * 10_000)])
            harness.change([update(1, name=None)])
            row = _rows(reader, _all(reader, None))[-1]
            assert (row["op"], row["name"], row["note"]) == ("update", None, None)
            assert (row["unchanged"]["note"], row["unchanged"]["name"]) == (True, False)

    @case("schema_change")
    def test_a_column_that_comes_is_united(self, harness: Harness) -> None:
        """Rows of both shapes are in one window, or in two; the older ones have the new column marked, not NULL."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            harness.change([insert(2, extra="e"), update(1, name="y", extra=None)])
            position, found = None, []
            for _ in range(3):
                window = _all(reader, position)
                rows = _rows(reader, window) if window.tables else []
                if len(rows) == 3:
                    assert "extra" in window.tables[_named(window, TABLE)].values.names
                    assert rows[0]["unchanged"]["extra"] is True
                found += rows
                position = window.position
            assert [(r["op"], r["id"], r.get("extra")) for r in found] == [
                ("insert", 1, None), ("insert", 2, "e"), ("update", 1, None),
            ]  # fmt: skip

    @case("gap")
    def test_a_gap_stops(self, harness: Harness) -> None:
        """A log that no longer has what follows the position is a Gap, never an empty window."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            first = _all(reader, None)
            harness.change([insert(2)])
            harness.change([insert(3)])
        harness.lose()
        with closing(harness.make("cdc", harness.change_stream())) as reader, pytest.raises(Gap):
            _all(reader, first.position)

    @case("gap")
    def test_another_log_is_not_resumed(self, harness: Harness) -> None:
        """A position of another identity stops."""
        with _stream(harness) as reader:
            harness.change([insert(1)])
            first = _all(reader, None)
            with pytest.raises(IdentityChanged):
                _all(reader, evolve(first.position, identity={"of": "something else"}))

    @case("snapshot_handover")
    def test_the_stream_begins_where_it_was_created(self, harness: Harness) -> None:
        """What was committed before ``create`` is not in the stream; everything after it is."""
        harness.change([insert(1)])
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            begin = reader.create()
            harness.change([insert(2)])
            window = _all(reader, begin)
            assert [r["id"] for r in _rows(reader, window)] == [2]

    @case("resync")
    def test_a_table_is_read_again(self, harness: Harness) -> None:
        """After ``resync`` the window holds all rows of that table as inserts of one commit, and of the other tables
        only what is new; then the stream continues. An unknown table is refused."""
        with _stream(harness) as reader:
            harness.require(SupportsResync, reader)
            harness.change([insert(1, "a"), insert(2, "b"), insert(7, table="lines")])
            first = _all(reader, None)
            harness.change([update(1, name="c"), delete(2), insert(3), insert(8, table="lines")])
            name = _named(first, TABLE)
            with pytest.raises(ConfigError):
                reader.resync(first.position, ["nothing"])
            window = _all(reader, reader.resync(first.position, [name]))
            assert window.fresh == {name}
            rows = _rows(reader, window)
            assert {r["op"] for r in rows} == {"insert"}
            assert (len(rows), {r["id"]: r["name"] for r in rows}) == (2, {1: "c", 3: "x"})
            assert len({r["commit"] for r in rows}) == 1
            assert [r["id"] for r in _rows(reader, window, "lines")] == [8]
            harness.change([update(3, name="y")])
            later = _all(reader, window.position)
            assert [(r["op"], r["key"]) for r in _rows(reader, later)] == [("update", 3)]
            assert not later.fresh

    @case("status")
    def test_a_status_is_that_of_a_position(self, harness: Harness) -> None:
        """Less log is after a later position; a position that ``window`` refuses has a
        finding that is not ok, and no other has. Looking reads nothing away."""
        with _stream(harness) as reader:
            asked = harness.require(SupportsStatus, reader)
            harness.change([insert(1)])
            first = _all(reader, None)
            harness.change([insert(2)])
            second = _all(reader, first.position)
            before = [asked.status(position) for position in (None, first.position, second.position)]
            assert [f for one in before for f in one.findings if f.ok is False] == []
            left = [one.bytes for one in before if one.bytes is not None]
            assert left == sorted(left, reverse=True), "more log is after a later position"
            assert not left or left[0] > left[-1], "as much log is after one position as after another"
            assert [r["id"] for r in _rows(reader, _all(reader, first.position))] == [2]
            strange = evolve(first.position, identity={"of": "something else"})
            assert any(f.ok is False for f in asked.status(strange).findings), "a position of another log is fine"
            harness.change([insert(3)])
        harness.lose()
        with closing(harness.make("cdc", harness.change_stream())) as reader:
            found = harness.require(SupportsStatus, reader).status(second.position).findings
            assert any(f.ok is False for f in found), "what follows the position is gone, and the status is fine"


class _stream:
    """A reader whose stream is created."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    def __enter__(self) -> Any:
        self._reader = self._harness.make("cdc", self._harness.change_stream())
        self._reader.create()
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


_TABLES = (TABLE, "lines")


def _planned(reader: CDCReader) -> list[str] | str:
    """The plan, or what its ConfigError says."""
    try:
        plan = reader.setup_plan()
    except ConfigError as error:
        return str(error)
    assert all(isinstance(statement, str) for statement in plan), f"a plan is statements: {plan!r}"
    return plan


def _drop(reader: CDCReader) -> None:
    try:
        lines = reader.drop()
    except Exception as error:
        raise AssertionError(f"dropping what no longer exists is not an error, but drop raises {error!r}") from error
    assert lines is None or all(isinstance(line, str) for line in lines), f"drop answers lines or None: {lines!r}"


def _acknowledge(reader: CDCReader, position: Position) -> None:
    try:
        reader.ack(position)
    except Exception as error:
        raise AssertionError(f"acknowledging an earlier position again is allowed, but ack raises {error!r}") from error


def _read_one(reader: CDCReader, name: str) -> None:
    with reader.read(name) as stream:
        batches = iter(stream.batches())
        assert next(batches).num_rows
        if (close := getattr(batches, "close", None)) is not None:  # as the engine does it
            close()
        raise Broken


def _ids_at_once(reader: CDCReader, name: str, opened: threading.Barrier) -> list[int]:
    try:
        with reader.read(name) as stream:
            opened.wait()
            return [id for batch in stream.batches() for id in batch.column("id").to_pylist()]
    except threading.BrokenBarrierError:
        raise AssertionError("a second table cannot be read while another one is read") from None
    except BaseException:
        opened.abort()
        raise


def _all(reader: CDCReader, after: Position | None) -> ChangeWindow:
    return reader.window(after, None)


def _named(window: ChangeWindow, table: str) -> str:
    """The one name that the stream gives the table, which may say its schema before it."""
    names = [name for name in window.tables if Name.parse(name).last == table]
    assert len(names) == 1, f"the window has changes of {', '.join(window.tables) or 'no table'}, not of {table}"
    return names[0]


def _rows(reader: CDCReader, window: ChangeWindow, table: str = TABLE) -> list[dict[str, Any]]:
    """Changes as dicts: columns under their names, dpone's without their prefix, the key as its ``id``."""
    name = _named(window, table)
    described = window.tables[name]
    schema = changes.batch_schema(described)
    with reader.read(name) as stream:
        assert stream.schema.equals(schema), f"{stream.schema}, not {schema}"
        found: list[dict[str, Any]] = pa.Table.from_batches(stream.batches(), schema).to_pylist()
    for row in found:
        for name in [name for name in row if name.startswith(PREFIX)]:
            row[name.removeprefix(PREFIX)] = row.pop(name)
        row["key"] = row["key"] and row["key"]["id"]
        row["unchanged"] = row["unchanged"] or dict.fromkeys(described.values.names, False)
    return found


def _ordered(found: list[dict[str, Any]]) -> bool:
    places = [(row["commit"], row["ordinal"]) for row in found]
    return places == sorted(set(places))
