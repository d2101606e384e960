"""SourceContract: what a source that declares a capability must do."""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import given

from dpone.contract import Source, Stream, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, Gap, IdentityChanged, SourceError, Stopped
from dpone.model.pipeline import Incremental
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.testing import hostile
from dpone.testing.cases import RoleContract, at_once, case
from dpone.testing.harness import TABLE, Harness
from dpone.testing.held import holdable
from dpone.testing.outside import found_offline, made_offline, nothing_left, waits_end
from dpone.testing.rows import Broken, same
from dpone.testing.sql import SqlHarness

WHOLE, NEW = WindowRequest(whole=True, mode="full_refresh", batch_rows=4), WindowRequest(batch_rows=4)


def drained(stream: Stream, limit: int | None = 4) -> pa.Table:
    """All batches; each has the announced schema and no more rows than were asked for."""
    batches = []
    for batch in stream.batches():
        assert batch.schema.equals(stream.schema), f"a batch of {batch.schema}, announced was {stream.schema}"
        assert limit is None or batch.num_rows <= limit, f"a batch of {batch.num_rows} exceeds {limit}"
        batches.append(batch)
    return pa.Table.from_batches(batches, stream.schema)


def read(source: Source, window: Window) -> pa.Table:
    """All parts of a window, one after another."""
    tables = [window.schema.empty_table()]
    for part in window.parts:
        with source.read(part) as stream:
            assert stream.schema.equals(window.schema), f"part {part.id} has {stream.schema}, not {window.schema}"
            tables.append(drained(stream))
    return pa.concat_tables(tables)


def everything(harness: Harness, spec: Any) -> pa.Table:
    with closing(harness.make("source", spec)) as source:
        return read(source, source.window(None, WHOLE))


def seeded(harness: Harness, *tables: pa.Table, table: str = TABLE) -> pa.Table:
    """Seed these; the answer is what a reader must find."""
    for rows in tables:
        harness.seed(rows, table)
    there = harness.there(table)
    return pa.concat_tables(tables) if there is None else there


class SourceContract(RoleContract):
    """Subclass it and name the ``connector``, whose plugin names the Harness. Every case starts with an empty place.

    What the contract says and no case examines, because only data or DDL of one system shows it:
    ``WindowRequest.expected``, ``Part.detail["bounds"]``, and rows that a source quarantines itself.
    """

    role = "source"

    @case("read")
    def test_every_row_comes_once(self, harness: Harness) -> None:
        """A whole window gives every row once, in batches of the announced schema and size."""
        expected = seeded(harness, harness.sample(1, 7), harness.sample(8, 11))
        same(everything(harness, harness.source()), expected)

    @case("read")
    def test_a_stream_has_what_a_writer_asks_for(self, harness: Harness) -> None:
        """Every member of ``contract.Stream``; nothing is counted as left out or put aside that was never seeded."""
        seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            for part in source.window(None, WHOLE).parts:
                with source.read(part) as stream:
                    lacking = [name for name in vars(Stream) if name[0] != "_" and not hasattr(stream, name)]
                    assert lacking == [], f"the stream lacks {', '.join(lacking)}; derive it from contract.BatchStream"
                    drained(stream)
                    assert (stream.filtered, stream.quarantined, stream.checks) == (0, 0, "")

    @case("read")
    def test_schema_is_that_of_the_window(self, harness: Harness) -> None:
        """``schema`` and the window name the same columns and types, and asking reads nothing away."""
        expected = seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            schema = source.schema()
            window = source.window(None, WHOLE)
            assert schema.equals(window.schema)
            same(read(source, window), expected)

    @case("read")
    def test_values_come_as_they_are(self, harness: Harness) -> None:
        """Texts that look like something else, extremes and NULL come exactly as they were seeded."""
        for type_ in (pa.int64(), pa.float64(), pa.string()):
            _values_come(harness, type_)

    @case("read")
    def test_native_types_come_as_they_are(self, harness: Harness) -> None:
        """Values of the types that a SQL system has for itself (``SqlHarness.natives``) come as the server means them:
        a signed type keeps its sign."""
        natives = harness.natives() if isinstance(harness, SqlHarness) else ()
        for i, (native, literal, expected) in enumerate(natives):
            assert isinstance(harness, SqlHarness)
            table = f"native{i}"
            harness.run(f"CREATE TABLE {harness.at(table)} ({harness.quoted('x')} {native})")
            harness.run(f"INSERT INTO {harness.at(table)} VALUES ({literal})")
            try:
                found = everything(harness, harness.source(table)).column("x").to_pylist()
            except DataError as error:
                raise AssertionError(f"a value of {native} is refused: {error}") from error
            assert found == [expected], f"{literal} of type {native} is read as {found}"

    @case("read")
    def test_names_are_quoted(self, harness: Harness) -> None:
        """Columns of any name that the system can have are read under that name."""
        names = holdable(harness, "name", hostile.ORDINARY_NAMES)
        rows = pa.table({name: pa.array([i], pa.int64()) for i, name in enumerate(names)})
        harness.seed(rows, "ordinary")
        same(everything(harness, harness.source("ordinary")), rows)
        for i, name in enumerate(holdable(harness, "name", hostile.HOSTILE_NAMES)):
            rows = pa.table({name: pa.array([i], pa.int64())})
            harness.seed(rows, f"h{i}")
            same(everything(harness, harness.source(f"h{i}")), rows)

    @case("read")
    def test_the_window_is_bounded(self, harness: Harness) -> None:
        """Rows that come after the window was fixed are not in it; the position is that of the window."""
        expected = seeded(harness, harness.sample(1, 5))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            harness.seed(harness.sample(6, 9))
            same(read(source, window), expected)
        json.dumps([window.position.to_json(), [dict(part.detail) for part in window.parts]], allow_nan=False)
        assert Position.from_json(window.position.to_json()) == window.position

    @case("read")
    def test_a_source_that_moved_is_never_mixed(self, harness: Harness) -> None:
        """If a row changes between window and read, the read returns the old rows or fails; it never mixes states."""
        expected = seeded(harness, harness.sample(1, 5))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            harness.disturb()
            try:
                found = read(source, window)
            except (SourceError, DataError, Stopped):
                return
            same(found, expected)

    @case("read")
    def test_an_empty_source_is_a_window_without_rows(self, harness: Harness) -> None:
        """A table without rows has its columns and no row."""
        expected = seeded(harness, harness.sample(1, 0))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            assert window.schema.names == expected.column_names
            assert read(source, window).num_rows == 0

    @case("read")
    def test_what_is_not_there_is_one_clear_line(self, harness: Harness) -> None:
        """The constructor does no I/O; ``check`` finds that a table is missing; reading it is a DponeError."""
        seeded(harness, harness.sample(1, 1))
        with closing(harness.make("source", harness.source("nowhere"))) as source:
            assert any(finding.ok is False and finding.todo for finding in source.check())
            with pytest.raises(DponeError) as caught:
                source.window(None, WHOLE)
            assert "\n" not in str(caught.value)
            with pytest.raises(DponeError):
                source.schema()
        with closing(harness.make("source", harness.source())) as source:
            assert all(finding.ok is not False for finding in source.check())

    @case("read")
    def test_a_column_that_data_leaves_out_is_null(self, harness: Harness) -> None:
        """Where only the data tells the columns (``Window.own_schema``): rows that lack one have NULL in it, read with
        rows that have it and after them, and the window says which data lacks it."""
        seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            first = source.window(None, NEW)
            if first.own_schema:  # a column that it does not have is gone
                return
            assert dict(first.absent) == {}
            read(source, first)
        lacking = harness.sample(4, 6).drop_columns(["name"])
        harness.seed(lacking)
        expected = lacking.append_column(first.schema.field("name"), pa.nulls(3, first.schema.field("name").type))
        for after, request in ((None, WHOLE), (first.position, evolve(NEW, expected=first.schema))):
            with closing(harness.make("source", harness.source())) as source:
                window = source.window(after, request)
                assert list(window.absent) == ["name"]
                found = read(source, window).select(harness.sample(1, 1).column_names)
            rows = expected.select(found.column_names)
            same(found, pa.concat_tables([harness.sample(1, 3), rows]) if after is None else rows)

    @case("read")
    def test_another_source_is_not_resumed(self, harness: Harness) -> None:
        """A position of another identity stops: it is never read on from."""
        seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, NEW)
            read(source, window)
            other = evolve(window.position, identity={"of": "something else"})
            with pytest.raises(IdentityChanged):
                source.window(other, NEW)

    @case("read")
    def test_ack_and_close_may_come_twice(self, harness: Harness) -> None:
        """``ack`` of what is acknowledged, and ``close`` of what is closed, do no harm; the rows stay in the source."""
        expected = seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            same(read(source, window), expected)
            source.ack(window.position)
            source.ack(window.position)
            source.close()
        same(everything(harness, harness.source()), expected)

    @case("read")
    def test_ack_needs_no_window(self, harness: Harness) -> None:
        """A run that was killed before ``ack`` leaves it to the next run, whose source has planned no window: a new
        object acknowledges the position, twice, and reads as before."""
        expected = seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            same(read(source, window), expected)
        with closing(harness.make("source", harness.source())) as source:
            for _ in range(2):
                _acknowledge(source, window.position)
            same(read(source, source.window(None, WHOLE)), expected)

    @case("read")
    def test_tables_are_found_by_their_pattern(self, harness: Harness) -> None:
        """``tables`` returns the matching names and no others, sorted, each once; an empty list if nothing matches. The
        name of a table may have any characters."""
        named = ["orders", "orders_2", "lines"]
        if isinstance(harness, SqlHarness):  # of another system a table is a plain word
            named += _ODD_NAMES
        spec = harness.source()
        for n, name in enumerate(named):
            harness.seed(harness.sample(n + 1, n + 1), name)
        with closing(harness.make("source", spec)) as source:
            every = source.tables(_pattern(spec, "*"))
            assert every == sorted({*every}), "the names are not sorted, or a name occurs twice"
            for text in ("orders*", "*s", "*_2"):
                pattern = _pattern(spec, text)
                assert source.tables(pattern) == [name for name in every if fnmatchcase(name, pattern)], pattern
            assert [source.tables(escape(name)) for name in every] == [[name] for name in every], (
                "found by its own name"
            )
            assert source.tables(_pattern(spec, "no*thing")) == [], "tables() returns names that do not match"
        if spec.table is not None:
            _require_named(harness, spec, every, named)

    @case("read")
    def test_a_stream_is_read_in_another_thread(self, harness: Harness) -> None:
        """One thread enters and leaves the block of a part, and another iterates its stream."""
        expected = seeded(harness, harness.sample(1, 7))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            found = [window.schema.empty_table()]
            for part in window.parts:
                with source.read(part) as stream:
                    found += _elsewhere(partial(drained, stream))
            same(pa.concat_tables(found), expected)

    @case("read")
    def test_a_read_that_is_given_up_leaves_nothing(self, harness: Harness) -> None:
        """When the sink fails after the first batch, its error passes unchanged. The same object then reads a new
        window with later rows; after another cancelled read and two calls of ``close``, a new object reads them too."""
        seeded(harness, harness.sample(1, 9))
        with closing(harness.make("source", harness.source())) as source:
            _give_up(source)
            harness.seed(harness.sample(10, 12))
            expected = harness.sample(1, 12) if (there := harness.there()) is None else there
            try:
                found = read(source, source.window(None, WHOLE))
            except DponeError as error:
                raise AssertionError(f"nothing can be read after a cancelled read: {error}") from error
            same(found, expected)
            _give_up(source)
            source.close()
        same(everything(harness, harness.source()), expected)

    @case("read")
    def test_a_read_is_bounded_in_memory(self, harness: Harness) -> None:
        """Of 24 MB in wide rows less than half are held at any moment, in Python and in Arrow, from the window on."""
        for n in range(_WIDE):
            ids = range(16 * n, 16 * n + 16)
            texts = [f"{id} ".ljust(1 << 16, "x") for id in ids]
            harness.seed(pa.table({"id": pa.array(ids, pa.int64()), "x": pa.array(texts)}), "wide")
        del texts
        with _held_at_most() as held, closing(harness.make("source", harness.source("wide"))) as source:
            window, rows = source.window(None, WHOLE), 0
            for part in window.parts:
                with source.read(part) as stream:
                    for batch in stream.batches():
                        rows += batch.num_rows
                        held()
        assert rows == 16 * _WIDE

    @case("read")
    def test_it_is_made_without_a_connection(self, harness: Harness) -> None:
        """The constructor does no I/O: it succeeds while the process cannot open a file or a socket."""
        expected = seeded(harness, harness.sample(1, 3))
        with closing(made_offline(harness, "source", harness.source())) as source:
            same(read(source, source.window(None, WHOLE)), expected)

    @case("read")
    def test_a_failed_connection_is_a_finding(self, harness: Harness) -> None:
        """``check`` without a connection raises nothing: it returns a finding that says what to do."""
        seeded(harness, harness.sample(1, 3))
        found_offline(harness, "source", harness.source())

    @case("read")
    def test_close_leaves_nothing_open(self, harness: Harness) -> None:
        """After ``close`` there is no connection, thread or spool left, also where a window was not read to its end."""
        seeded(harness, harness.sample(1, 9))

        def work() -> Any:
            with closing(harness.make("source", harness.source())) as source:
                read(source, source.window(None, WHOLE))
                _give_up(source)
                source.window(None, WHOLE)
                return source

        nothing_left(work)

    @case("read")
    def test_a_wait_has_an_end(self, harness: Harness) -> None:
        """A read that waits for another client or a silent server ends at its limit, with a transient error, and soon
        after a signal."""
        seeded(harness, harness.sample(1, 3))

        def work(spec: Any) -> None:
            with closing(harness.make("source", spec)) as source:
                read(source, source.window(None, WHOLE))

        waits_end(harness, "source", work)

    @case("read")
    def test_a_whole_window_has_what_was_read_before(self, harness: Harness) -> None:
        """``WindowRequest.whole``: every row is returned, whatever the position, and the window is marked as whole."""
        seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            first = source.window(None, NEW)
            read(source, first)
        expected = seeded(harness, harness.sample(4, 6))
        expected = expected if harness.there() is not None else harness.sample(1, 6)
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(first.position, WHOLE)
            assert window.whole, "a window of all rows does not say that it is whole"
            same(read(source, window), expected)

    @case("read")
    def test_parts_have_the_order_of_their_files(self, harness: Harness) -> None:
        """``Part.detail["order"]``: where parts have one, all have one, and it is that of the files they are read
        from."""
        seeded(harness, *(harness.sample(i, i + 2) for i in (1, 4, 7)))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            orders = [part.detail.get("order") for part in window.parts]
            if orders == [None] * len(orders):  # the rows are not in files
                return
            assert None not in orders, "only some parts have an order"
            by_order = sorted(window.parts, key=lambda part: part.detail["order"])
            found = read(source, evolve(window, parts=tuple(by_order)))[harness.key].to_pylist()
            assert found == harness.sample(1, 9)[harness.key].to_pylist(), "the parts are not in the order of the files"

    @case("repeatable")
    def test_what_a_log_forgot_is_a_gap(self, harness: Harness) -> None:
        """``Source.window``: rows that a log dropped before they were read are a Gap, also where newer rows have come;
        they are never skipped silently. Rows that were read before they were dropped are not a gap."""
        seeded(harness, harness.sample(1, 3))
        with closing(harness.make("source", harness.source())) as source:
            first = source.window(None, NEW)
            read(source, first)
        if not harness.expire():  # it keeps rows until somebody deletes them
            return
        harness.seed(harness.sample(4, 6))
        with closing(harness.make("source", harness.source())) as source:
            second = source.window(first.position, NEW)
            same(read(source, second), harness.sample(4, 6))
        harness.seed(harness.sample(7, 9))
        harness.expire()
        for newer in (None, harness.sample(10, 12)):
            if newer is not None:
                harness.seed(newer)
            with closing(harness.make("source", harness.source())) as source, pytest.raises(Gap):
                read(source, source.window(second.position, NEW))

    @case("query")
    def test_a_query_is_read(self, harness: Harness) -> None:
        """The rows of a query are those of the table it reads."""
        expected = seeded(harness, harness.sample(1, 7))
        same(everything(harness, harness.source(query=harness.query())), expected)

    @case("snapshot")
    def test_the_read_is_one_snapshot(self, harness: Harness) -> None:
        """What is written between two batches is in none of them."""
        expected = seeded(harness, harness.sample(1, 12))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            found = [window.schema.empty_table()]
            for n, part in enumerate(window.parts):
                with source.read(part) as stream:
                    for batch in stream.batches():
                        if n == 0 and len(found) == 1:
                            harness.seed(harness.sample(13, 15))
                        found.append(pa.Table.from_batches([batch]))
        same(pa.concat_tables(found), expected)

    @case("repeatable")
    def test_a_window_read_again_is_the_same(self, harness: Harness) -> None:
        """Planned and read again, a window has the same position, parts and rows, also after more has come."""
        expected = seeded(harness, harness.sample(1, 5))
        windows = []
        for _ in range(2):
            with closing(harness.make("source", harness.source())) as source:
                window = source.window(None, NEW)
                windows.append(window)
                for _ in range(2):
                    same(read(source, window), expected)
        assert all(window.repeatable for window in windows)
        assert windows[0].position == windows[1].position
        assert [part.id for part in windows[0].parts] == [part.id for part in windows[1].parts]

    @case("repeatable")
    def test_content_names_the_rows(self, harness: Harness) -> None:
        """``Part.content`` is the same in every window that returns the same rows, and different for other rows.
        Delivery ids are made of it: a receiver drops the second row of an id."""
        seeded(harness, harness.sample(1, 3), harness.sample(4, 6))
        first, position = _contents(harness, None, WHOLE)
        harness.seed(harness.sample(7, 9))
        found = {*first, *_contents(harness, None, WHOLE)[0], *_contents(harness, position, NEW)[0]}
        named = {content for content, _ in found}
        if named == {""}:  # nothing names the rows
            return
        assert "" not in named, "only some parts have a content"
        assert len(named) == len(found), "different rows have the same content: a receiver would drop them"
        assert len({rows for _, rows in found}) == len(found), "the content of the same rows changes"

    @case("repeatable")
    def test_other_content_is_an_error(self, harness: Harness) -> None:
        """A repeatable window whose rows were changed under it is refused, not read."""
        seeded(harness, harness.sample(1, 5))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, NEW)
            assert window.repeatable
            harness.disturb()
            with pytest.raises((SourceError, DataError, Stopped)):
                read(source, window)

    @case("repeatable")
    def test_what_was_read_and_then_changed_stops(self, harness: Harness) -> None:
        """Rows below the position that are not what was read (a rewritten history) stop the next window."""
        seeded(harness, harness.sample(1, 5))
        with closing(harness.make("source", harness.source())) as source:
            first = source.window(None, NEW)
            read(source, first)
        harness.disturb()
        with closing(harness.make("source", harness.source())) as source, pytest.raises(Stopped):
            read(source, source.window(first.position, NEW))

    @case("repeatable")
    def test_only_what_is_new_is_read(self, harness: Harness) -> None:
        """After a position come the rows seeded since; with nothing new there is no part, and no other position."""
        _only_what_is_new(harness, None, repeatable=True)

    @case("incremental_cursor")
    def test_cursor_reads_what_is_new(self, harness: Harness) -> None:
        """After a position come the rows of higher values; with nothing new there is no part."""
        _only_what_is_new(harness, Incremental("cursor", harness.key))

    @case("incremental_cursor")
    def test_cursor_loses_no_equal_value(self, harness: Harness) -> None:
        """A row that comes later with the highest value of the last read is read, the others are not read again."""
        seeded(harness, harness.sample(1, 5))
        spec = harness.source(incremental=Incremental("cursor", harness.key))
        with closing(harness.make("source", spec)) as source:
            first = source.window(None, NEW)
            read(source, first)
        late = _with_key(harness, harness.sample(90, 90), 5)
        harness.seed(late)
        with closing(harness.make("source", spec)) as source:
            same(read(source, source.window(first.position, NEW)), late)

    @case("incremental_cursor")
    def test_cursor_refuses_null(self, harness: Harness) -> None:
        """A row whose cursor is NULL can never be found again: the read fails, unless the pipeline skips them; then the
        stream says how many it left out."""
        seeded(harness, harness.sample(1, 3), _with_key(harness, harness.sample(4, 4), None))
        spec = harness.source(incremental=Incremental("cursor", harness.key))
        with closing(harness.make("source", spec)) as source, pytest.raises(DataError):
            read(source, source.window(None, NEW))
        skipping = Incremental("cursor", harness.key, nulls="skip")
        with closing(harness.make("source", harness.source(incremental=skipping))) as source:
            window = source.window(None, NEW)
            with source.read(window.parts[0]) as stream:
                same(drained(stream), harness.sample(1, 3))
                assert stream.filtered == 1, f"a row was skipped, but filtered is {stream.filtered}"

    @case("incremental_cursor")
    def test_cursor_stops_where_the_source_was_set_back(self, harness: Harness) -> None:
        """Where no row is left at or above the position, rows below it would never be read: a stop, unless the
        pipeline says that its newest rows are deleted; then the position stays."""
        seeded(harness, harness.sample(1, 5))
        seeded(harness, harness.sample(1, 9), table="longer")
        cursor = Incremental("cursor", harness.key)
        positions = []
        for table in ("longer", TABLE):
            with closing(harness.make("source", harness.source(table, incremental=cursor))) as source:
                positions.append(source.window(None, NEW).position)
        ahead = evolve(positions[0], identity=positions[1].identity)
        with closing(harness.make("source", harness.source(incremental=cursor))) as source, pytest.raises(Stopped):
            source.window(ahead, NEW)
        spec = harness.source(incremental=evolve(cursor, set_back="report"))
        with closing(harness.make("source", spec)) as source:
            window = source.window(ahead, NEW)
            assert (window.parts, window.position) == ((), ahead)

    @case("late_commits")
    def test_a_late_commit_is_not_lost(self, harness: Harness) -> None:
        """A transaction that is open while a higher value is read commits later: its row comes, and each once."""
        seeded(harness, harness.sample(1, 5))
        spec = harness.source(incremental=Incremental("cursor", harness.key, in_flight="hold_back"))
        with closing(harness.make("source", spec)) as source:
            position = source.window(None, NEW).position
        harness.seed(harness.sample(7, 7))
        with harness.late(harness.sample(6, 6)), closing(harness.make("source", spec)) as source:
            held = source.window(position, NEW)
            found = [read(source, held)]
            assert not held.caught_up
            assert held.warnings
        with closing(harness.make("source", spec)) as source:
            last = source.window(held.position, NEW)
            found.append(read(source, last))
            assert last.caught_up
        same(pa.concat_tables(found), harness.sample(6, 7))

    @case("incremental_xmin")
    def test_xmin_reads_what_is_new(self, harness: Harness) -> None:
        """After a position come the rows of later transactions; with nothing new there is no part."""
        _only_what_is_new(harness, Incremental("xmin"), mode="merge")
        _append_is_refused(harness, Incremental("xmin"))

    @case("incremental_change_tracking")
    def test_change_tracking_reads_what_is_new(self, harness: Harness) -> None:
        """After a position come the rows of later versions; with nothing new there is no part."""
        _only_what_is_new(harness, Incremental("change_tracking"), mode="merge")
        _append_is_refused(harness, Incremental("change_tracking"))

    @case("incremental_cdc")
    def test_a_change_reader_serves_this_source(self, harness: Harness) -> None:
        """An implemented change reader is chosen by ``incremental: {by: cdc}`` of this type."""
        plugins = harness.plugins
        readers = [plugins.get("cdc", name) for name in plugins.names("cdc")]
        served = [reader.serves for reader in readers if reader.implemented]
        assert (harness.connector, "cdc") in served, "no change reader serves this source"

    @case("partitions")
    def test_parts_hold_every_row_once(self, harness: Harness) -> None:
        """A source that is asked for parts returns several; each row is in exactly one, whatever the order of reads."""
        expected = seeded(harness, *(harness.sample(i * 10, i * 10 + 9) for i in range(4)))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, evolve(WHOLE, partitions=3))
            assert len(window.parts) > 1
            assert len({part.id for part in window.parts}) == len(window.parts)
            json.dumps([dict(part.detail) for part in window.parts], allow_nan=False)
            same(read(source, evolve(window, parts=tuple(reversed(window.parts)))), expected)

    @case("partitions")
    def test_parts_are_of_one_moment(self, harness: Harness) -> None:
        """Rows added after the window was fixed, and between two of its parts, are in none of them."""
        expected = seeded(harness, *(harness.sample(i * 10, i * 10 + 9) for i in range(3)))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, evolve(WHOLE, partitions=3))
            assert len(window.parts) > 1
            found = [window.schema.empty_table()]
            for n, part in enumerate(window.parts):
                harness.seed(harness.sample(100 + n, 100 + n))
                with source.read(part) as stream:
                    found.append(drained(stream))
            same(pa.concat_tables(found), expected)

    @case("partitions")
    def test_parts_are_read_at_once(self, harness: Harness) -> None:
        """Parts that several threads read at the same time give every row once."""
        expected = seeded(harness, *(harness.sample(i * 10, i * 10 + 9) for i in range(3)))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, evolve(WHOLE, partitions=3))
            assert len(window.parts) > 1
            same(pa.concat_tables(_read_at_once(source, window)), expected)

    @case("mixed_snapshots")
    def test_left_over_parts_are_read_in_a_new_snapshot(self, harness: Harness) -> None:
        """The parts of a lost snapshot are given again, the same and no other; each row is in one of them."""
        expected = seeded(harness, *(harness.sample(i * 10, i * 10 + 9) for i in range(4)))
        request = evolve(WHOLE, partitions=3)
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, request)
            assert not window.repeatable  # otherwise it can be planned again as it was
            assert len(window.parts) > 1
            first = read(source, evolve(window, parts=window.parts[:1]))
        with closing(harness.make("source", harness.source())) as source:
            again = source.window(None, evolve(request, parts=window.parts, partitions=2))
            assert [part.id for part in again.parts] == [part.id for part in window.parts]
            left_over = read(source, evolve(again, parts=again.parts[1:]))
            same(pa.concat_tables([first, left_over]), expected)

    @case("native_stream")
    def test_a_native_stream_is_offered(self, harness: Harness) -> None:
        """A stream names its formats, hands out bytes in the first, and says each column's native type."""
        seeded(harness, harness.sample(1, 5))
        with closing(harness.make("source", harness.source())) as source:
            window = source.window(None, WHOLE)
            assert all(b"dpone.native" in (field.metadata or {}) for field in window.schema)
            for part in window.parts:
                with source.read(part) as stream:
                    assert stream.native
                    assert sum(map(len, stream.open_native(stream.native[0]))) > 0


_ODD_NAMES = ["two words", "a.b", "it's", 'say "it"', "[ab]", "Grün"]
_WIDE = 24  # tables of one MB


def _pattern(spec: Any, text: str) -> str:
    """In the schema of the source's table, where it has one."""
    return str(spec.table.sibling(text)) if spec.table is not None and len(spec.table.parts) > 1 else text


def _require_named(harness: Harness, spec: Any, every: Sequence[str], named: Sequence[str]) -> None:
    """Each table is listed by a name that leads to its rows."""
    found = {name: _parsed(name) for name in every}
    for n, table in enumerate(named):
        names = [name for name, parsed in found.items() if parsed.last == table]
        assert names, f"table {table!a} is not among the names"
        expected = harness.sample(n + 1, n + 1)[harness.key].to_pylist()
        rows = everything(harness, evolve(spec, table=spec.table.sibling(found[names[0]].last)))
        assert rows[harness.key].to_pylist() == expected, f"{names[0]!a} is the name of another table"


def _parsed(name: str) -> Name:
    try:
        return Name.parse(name)
    except DponeError as error:
        raise AssertionError(f"{name!a} does not name a table: {error}") from error


def _acknowledge(source: Source, position: Position) -> None:
    try:
        source.ack(position)
    except Exception as error:
        raise AssertionError(f"ack without a window failed: {error!r}") from error


def _elsewhere(call: Callable[[], Any]) -> list[Any]:
    """Run a call in its own thread. An error there is a failure of the case."""

    def called() -> Any:
        try:
            return call()
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"a stream cannot be iterated in another thread: {error!r}") from error

    return at_once([called])


def _give_up(source: Source) -> None:
    """Take one batch of the first part, and fail."""
    window = source.window(None, WHOLE)
    with pytest.raises(Broken):
        _read_one(source, window)


def _read_one(source: Source, window: Window) -> None:
    with source.read(window.parts[0]) as stream:
        batches = iter(stream.batches())
        assert next(batches).num_rows
        if (close := getattr(batches, "close", None)) is not None:  # as the engine does it
            close()
        raise Broken


@contextmanager
def _held_at_most() -> Iterator[Callable[[], None]]:
    """What asserts that half of the rows are never held: by Python at any moment, by Arrow when it is asked."""
    most = _WIDE * (1 << 20) // 2
    gc.collect()
    before = pa.total_allocated_bytes()

    def held() -> None:
        arrow, python = pa.total_allocated_bytes() - before, tracemalloc.get_traced_memory()[1]
        assert max(arrow, python) < most, f"a read holds {max(arrow, python) >> 20} of {2 * most >> 20} MB at once"

    tracemalloc.start()
    try:
        yield held
    finally:
        tracemalloc.stop()


def _contents(
    harness: Harness, after: Position | None, request: WindowRequest
) -> tuple[set[tuple[str, tuple[Any, ...]]], Position]:
    """``content`` of each part of a window, and the keys of its rows in their order; the position of the window."""
    found = set()
    with closing(harness.make("source", harness.source())) as source:
        window = source.window(after, request)
        for part in window.parts:
            with source.read(part) as stream:
                found.add((part.content, tuple(drained(stream)[harness.key].to_pylist())))
    return found, window.position


def _values_come(harness: Harness, type_: pa.DataType) -> None:
    tables = count()

    @hostile.examples
    @given(hostile.columns(type_))
    def comes(column: list[Any]) -> None:
        name, column = f"v_{type_}_{next(tables)}", holdable(harness, type_, column)
        rows = pa.table({"id": pa.array(range(len(column)), pa.int64()), "x": pa.array(column, type_)})
        harness.seed(rows, name)
        same(everything(harness, harness.source(name)), rows)

    comes()


def _only_what_is_new(
    harness: Harness, incremental: Incremental | None, mode: str = "append", repeatable: bool = False
) -> None:
    spec, request = harness.source(incremental=incremental), evolve(NEW, mode=mode)
    expected = seeded(harness, harness.sample(1, 5))
    with closing(harness.make("source", spec)) as source:
        first = source.window(None, request)
        assert first.repeatable or not repeatable
        same(read(source, first), expected)
    with closing(harness.make("source", spec)) as source:
        nothing = source.window(first.position, request)
        assert (nothing.parts, nothing.position) == ((), first.position)
    harness.seed(harness.sample(6, 8))
    with closing(harness.make("source", spec)) as source:
        later = source.window(first.position, request)
        new = read(source, later)
        assert later.position != first.position
        assert not later.whole, "an incremental window claims to be whole: rows would be deleted"
    assert new.num_rows == 3
    there = harness.there()
    same(
        pa.concat_tables([expected, new]),
        pa.concat_tables([expected, harness.sample(6, 8)]) if there is None else there,
    )


def _append_is_refused(harness: Harness, incremental: Incremental) -> None:
    """``WindowRequest.mode``: a changed row comes again, which an append would add as another one."""
    with closing(harness.make("source", harness.source(incremental=incremental))) as source, pytest.raises(ConfigError):
        source.window(None, NEW)


def _with_key(harness: Harness, rows: pa.Table, like: int | None) -> pa.Table:
    """The rows with the key of row number ``like``, or NULL in it."""
    field = rows.schema.field(harness.key)
    value = None if like is None else harness.sample(like, like).column(harness.key)[0].as_py()
    return rows.set_column(rows.column_names.index(harness.key), field, pa.array([value], field.type))


def _read_at_once(source: Source, window: Window) -> Sequence[pa.Table]:
    """Every thread holds its part open until all have theirs."""
    opened = threading.Barrier(len(window.parts), timeout=20)

    def one(part: Any) -> pa.Table:
        try:
            with source.read(part) as stream:
                opened.wait()
                return drained(stream)
        except threading.BrokenBarrierError:
            raise AssertionError("a second part cannot be read while another one is open") from None
        except BaseException:
            opened.abort()
            raise

    found = at_once([partial(one, part) for part in window.parts])
    refused = [str(answer) for answer in found if isinstance(answer, DponeError)]
    assert refused == [], "a part was refused while another was open"
    return [window.schema.empty_table(), *found]
