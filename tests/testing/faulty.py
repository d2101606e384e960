"""Connectors with one fault each, and the cases of the kit that must find it. Each is a built-in connector that lies,
forgets or doubles in one way; the kit would be worth nothing if it let one of them pass.

The table is in the decorators: ``@fails(case="the kit's words")`` names the cases that are there for the fault, and
what the kit says or asserts there; ``also`` those that such a fault cannot but fail too. A fault for a new case is a
subclass of an honest connector that overrides one method. Where no built-in connector has the capability, the honest
one stands here too (``@honest``), and must pass what its faults fail.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve, frozen

from dpone.connectors.file.sink import FileSink
from dpone.connectors.file.source import FileSource
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.connectors.sqlite.source import SqliteSource
from dpone.connectors.sqlite.state import SqliteState
from dpone.contract import Finding, Part, Rehearsal, Window
from dpone.errors import (
    Busy,
    Category,
    ConfigError,
    Conflict,
    ContentChanged,
    DponeError,
    IdentityChanged,
    SinkError,
    SourceError,
    StateError,
    UndoRefused,
)
from dpone.host.process import Process
from dpone.model import changes
from dpone.model.ids import ulid
from dpone.model.pipeline import Incremental
from dpone.sql.dialect import is_look
from dpone.sql.journal import Journal
from dpone.sql.strategies.job import is_empty
from dpone.testing.loads import at
from dpone.testing.loads import key as own_key
from dpone.testing.rows import SHAPE, Rows
from dpone.testing.state import KEY


@frozen
class Found:
    """``cases``: those that must fail, and the kit's words in each. ``also``: others that fail by it."""

    cases: Mapping[str, str]
    also: frozenset[str]


FAULTS: dict[type, Found] = {}
HONEST: list[type] = []
_C = TypeVar("_C", bound=type)


def fails(*bare: str, also: tuple[str, ...] = (), **cases: str) -> Callable[[_C], _C]:
    """``bare``: without words; the test says which there are."""
    cases = dict.fromkeys(bare, "") | cases

    def mark(cls: _C) -> _C:
        FAULTS[cls] = Found(
            {f"test_{case}": words for case, words in cases.items()}, frozenset(f"test_{c}" for c in also)
        )
        return cls

    return mark


def honest(cls: _C) -> _C:
    """A connector that has what no built-in one has."""
    HONEST.append(cls)
    return cls


class Through:
    """A stream, writer or lease with something in front of it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Mapped(Through):
    """A stream whose batches pass through ``change``; what it answers may be no batch, one or several."""

    def __init__(self, inner: Any, change: Callable[[pa.RecordBatch], Iterator[pa.RecordBatch]]) -> None:
        super().__init__(inner)
        self._change = change

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._inner.batches():
            yield from self._change(batch)


def column(batch: pa.RecordBatch, name: str, change: Callable[[pa.Array], pa.Array]) -> pa.RecordBatch:
    return batch.set_column(batch.schema.names.index(name), batch.schema.field(name), change(batch.column(name)))


# ---- sources


class MappedSource(SqliteSource):
    """``change`` is done to every batch."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            yield Mapped(stream, self.change)


@fails(every_row_comes_once="missing rows: 3, extra rows: 0")
class LosesAShortThirdBatch(MappedSource):
    """The end of a read is taken for that of the rows."""

    batches = 0

    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        self.alone = len(window.parts) == 1
        return window

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        self.batches += 1
        if not self.alone or self.batches != 3 or batch.num_rows == 4:
            yield batch


@fails(a_stream_has_what_a_writer_asks_for="derive it from contract.BatchStream")
class PutsRowsAsideUnseen(SqliteSource):
    """Its stream does not say what it put aside."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            yield SimpleNamespace(**{n: getattr(stream, n) for n in ("schema", "native", "filtered", "batches")})


@fails(schema_is_that_of_the_window="assert schema.equals(window.schema)")
class AnotherSchema(SqliteSource):
    def schema(self) -> pa.Schema:
        return pa.schema([field.with_type(pa.string()) for field in super().schema()])


@fails(native_types_come_as_they_are="-1 of type TINYINT is read as [255]")
class ReadsASignedTypeUnsigned(MappedSource):
    """One byte, as SQL Server means it."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if batch.num_columns == 1 and batch.schema.field(0).type == pa.int64():
            low = pc.if_else(pc.equal(batch.column(0), -1), 255, batch.column(0))
            batch = batch.set_column(0, batch.schema.field(0), low)
        yield batch


@fails(values_come_as_they_are="missing rows")
class EmptyIsNull(MappedSource):
    """'' and NULL are one, as in a CSV read carelessly."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == pa.string():
                batch = column(batch, field.name, lambda c: pc.if_else(pc.equal(c, ""), None, c))
        yield batch


@fails(names_are_quoted="columns ['select', 'group by', 'mixedcase'")
class LowersNames(MappedSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, schema=self.lowered(window.schema))

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.rename_columns(self.lowered(batch.schema).names)

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            stream.schema = self.lowered(stream.schema)
            yield stream

    def lowered(self, schema: pa.Schema) -> pa.Schema:
        return pa.schema([f.with_name(f.name.lower()) for f in schema])


@fails(a_column_that_data_leaves_out_is_null='assert list(window.absent) == ["name"]')
class SaysNothingOfTheGap(FileSource):
    """NULL in rows that lack a column, and no word of it."""

    def window(self, *args: Any) -> Window:
        return evolve(super().window(*args), absent={})


@fails(a_column_that_data_leaves_out_is_null='assert list(window.absent) == ["name"]')
class ForgetsWhatItHad(FileSource):
    """Read alone, rows that lack a column have no such column."""

    def window(self, after: Any, request: Any) -> Window:
        return super().window(after, evolve(request, expected=None))


class SeesMore(SqliteSource):
    """``newer``: rows above a key, as they are by now."""

    def now(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self._path)) as db:
            return db.execute(sql).fetchall()

    def highest(self) -> Any:
        """None where there is nothing to see more of."""
        if self._table is None or self._schema is None or "id" not in self._schema.names:
            return None
        [(high,)] = self.now(f"SELECT COALESCE(MAX(id), 0) FROM {self.relation}")
        return high

    def newer(self, above: Any) -> Iterator[pa.RecordBatch]:
        if above is not None and (rows := self.now(f"SELECT * FROM {self.relation} WHERE id > {above}")):
            arrays = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), self._schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)


@fails(the_window_is_bounded="missing rows: 0, extra rows: 4")
class ReadsToTheEnd(SeesMore):
    """The end is looked for when the read begins, not before."""

    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        self.above = self.highest() if window.whole and len(window.parts) == 1 else None
        return window

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        extra = list(self.newer(self.above))
        with super().read(part) as stream:
            yield _Longer(stream, lambda: iter(extra))


@fails(parts_are_of_one_moment="missing rows: 0, extra rows: 3")
class LastPartIsOpen(SeesMore):
    """The last part holds whatever is above the others when it is read."""

    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        self.last, self.above = len(window.parts) > 1 and window.parts[-1].id, None
        self.above = self.highest() if self.last else None
        return window

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        extra = list(self.newer(self.above)) if part.id == self.last else []
        with super().read(part) as stream:
            yield _Longer(stream, lambda: iter(extra))


@fails(the_read_is_one_snapshot="missing rows: 0, extra rows: 3")
class AsksAgainAtTheEnd(SeesMore):
    """What has come while it read is read as well."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        above = self.highest() if self._incremental is None else None
        with super().read(part) as stream:
            yield _Longer(stream, lambda: self.newer(above))


class _Longer(Through):
    def __init__(self, inner: Any, more: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        super().__init__(inner)
        self._more = more

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._inner.batches()
        yield from self._more()


@fails(a_source_that_moved_is_never_mixed="missing rows: 1, extra rows: 1")
class LooksNamesUpLater(SeesMore, MappedSource):
    """One column is as it is by now."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if self.highest() is None or "name" not in batch.schema.names:
            yield batch
            return
        names = dict(self.now(f"SELECT id, name FROM {self.relation}"))
        later = [names.get(id) for id in batch.column("id").to_pylist()]
        yield column(batch, "name", lambda c: pa.array(later, c.type))


@fails(an_empty_source_is_a_window_without_rows="assert window.schema.names == expected.column_names")
class NeedsARow(SqliteSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        if not self.rows(f"SELECT 1 FROM {self.relation} LIMIT 1"):
            return evolve(window, schema=pa.schema([]))
        return window


@fails(
    what_is_not_there_is_one_clear_line="assert any(finding.ok is False and finding.todo for finding in",
    also=("a_failed_connection_is_a_finding",),
)
class ChecksNothing(SqliteSource):
    def check(self) -> list[Finding]:
        return [Finding("connection", True, "fine")]


@fails(what_is_not_there_is_one_clear_line="pytest.raises(DponeError)")
class AnswersNoColumns(SqliteSource):
    """Of a table that is missing, unless ``check`` asks."""

    checking = False

    def check(self) -> list[Finding]:
        self.checking = True
        try:
            return super().check()
        finally:
            self.checking = False

    def schema(self) -> pa.Schema:
        try:
            return super().schema()
        except SourceError:
            if self.checking:
                raise
            return pa.schema([])


@fails(ack_needs_no_window="ack without a window failed")
class AcknowledgesItsWindow(SqliteSource):
    def window(self, *args: Any) -> Window:
        self.planned = super().window(*args)
        return self.planned

    def ack(self, position: Any) -> None:
        assert self.planned.position == position


class Renamed(SqliteSource):
    """``named`` is done to the names of tables."""

    def tables(self, pattern: str) -> list[str]:
        return self.named(super().tables(pattern), pattern)

    def named(self, found: list[str], pattern: str) -> list[str]:
        return found


@fails(tables_are_found_by_their_pattern="the names are not sorted, or a name occurs twice")
class ListsViewsTwice(Renamed):
    def named(self, found: list[str], pattern: str) -> list[str]:
        return [*found, *found[-1:]]


@fails(tables_are_found_by_their_pattern="tables() returns names that do not match")
class ListsAllInsteadOfNone(Renamed):
    def named(self, found: list[str], pattern: str) -> list[str]:
        return found or super().tables("*")


@fails(tables_are_found_by_their_pattern="does not name a table")
class NamesWithoutQuotes(SqliteSource):
    """A quote in a name is not doubled, and a dot is one between two names."""

    def tables(self, pattern: str) -> list[str]:
        names = [name.last for name in self.listed(everywhere=False)]
        return sorted(name for name in names if fnmatchcase(name, pattern))


@fails(a_stream_is_read_in_another_thread="a stream cannot be iterated in another thread")
class BelongsToItsThread(SqliteSource):
    """As a driver whose cursor no other thread may use."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        mine = threading.get_ident()

        def checked(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
            if threading.get_ident() != mine:
                raise RuntimeError("another thread")
            yield batch

        with super().read(part) as stream:
            yield Mapped(stream, checked)


@fails(
    a_read_that_is_given_up_leaves_nothing="nothing can be read after a cancelled read",
    also=("close_leaves_nothing_open",),
)
class LeavesItsTransactionOpen(SqliteSource):
    """Where the block of a part ends by an error."""

    given_up = False

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            try:
                yield stream
            except BaseException:
                self.given_up = True
                raise

    def finish(self) -> None:
        if not self.given_up:
            super().finish()


@fails(a_read_that_is_given_up_leaves_nothing="missing rows: 3")
class GoesOnInTheOldSnapshot(LeavesItsTransactionOpen):
    def begin(self, after: Any) -> Any:
        return None if self.given_up else super().begin(after)


@fails(a_read_that_is_given_up_leaves_nothing="pytest.raises(Broken)", also=("close_leaves_nothing_open",))
class SwallowsTheError(SqliteSource):
    """Of whoever reads."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream, suppress(RuntimeError):
            yield stream


@fails(a_read_is_bounded_in_memory="a read holds")
class ReadsEverythingFirst(SqliteSource):
    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            through = Through(stream)
            through.batches = lambda: iter(list(stream.batches()))  # type: ignore[attr-defined]
            yield through


@fails(another_source_is_not_resumed="pytest.raises(IdentityChanged)")
class TakesAnyPositionForItsOwn(SqliteSource):
    def window(self, after: Any, request: Any) -> Window:
        try:
            return super().window(after, request)
        except IdentityChanged:
            own = super().window(None, request).position.identity
            return super().window(evolve(after, identity=own), request)


@fails(ack_and_close_may_come_twice="missing rows: 3, extra rows: 0")
class AckTakesTheRowsAway(SqliteSource):
    """As from a queue; but what it has not read itself stays."""

    planned = False

    def window(self, *args: Any) -> Window:
        self.planned = True
        return super().window(*args)

    def ack(self, position: Any) -> None:
        self.close()
        if not self.planned:
            return
        with closing(sqlite3.connect(self._path)) as db, db:
            db.execute(f"DELETE FROM {self.relation}")


@fails(a_query_is_read="missing rows: 6, extra rows: 0")
class QueriesTheFirstRow(SqliteSource):
    def __init__(self, spec: Any) -> None:
        super().__init__(evolve(spec, query=f"SELECT * FROM ({spec.query}\n) LIMIT 1") if spec.query else spec)


@fails(a_window_read_again_is_the_same="for part in windows[1].parts]")
class NewPartsEveryTime(FileSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, parts=tuple(evolve(part, id=ulid()) for part in window.parts))


@fails(content_names_the_rows="different rows have the same content")
class NamesRowsByTheirPlace(FileSource):
    """In the window."""

    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, parts=tuple(evolve(part, content=f"part {n}") for n, part in enumerate(window.parts)))


@fails(content_names_the_rows="the content of the same rows changes")
class NamesRowsByTheirWindow(FileSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        told = len(window.parts)
        return evolve(window, parts=tuple(evolve(part, content=f"{part.content} of {told}") for part in window.parts))


@fails(other_content_is_an_error="pytest.raises((SourceError, DataError, Stopped))")
class TakesWhateverIsThere(FileSource):
    def window(self, after: Any, request: Any) -> Window:
        self.careful = request.whole
        return super().window(after, request)

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with ExitStack() as looking:
            if not self.careful:
                looking.enter_context(mock.patch("dpone.connectors.file.source._Found.require_unchanged"))
            yield looking.enter_context(super().read(part))


@fails(only_what_is_new_is_read="an incremental window claims to be whole")
class ClaimsTheWhole(FileSource):
    """A window of new files that says it holds every row there is."""

    def window(self, *args: Any) -> Window:
        return evolve(super().window(*args), whole=True)


@fails(what_was_read_and_then_changed_stops="pytest.raises(Stopped)")
class PassesOverOldChanges(FileSource):
    """What was read once is never looked at again."""

    def window(self, after: Any, request: Any) -> Window:
        try:
            return super().window(after, request)
        except ContentChanged:
            return evolve(super().window(None, request), position=after, parts=())


@fails(
    only_what_is_new_is_read="assert (nothing.parts, nothing.position) == ((), first.position)",
    also=(
        "a_column_that_data_leaves_out_is_null",
        "another_source_is_not_resumed",
        "what_was_read_and_then_changed_stops",
    ),
)
class ReadsAllAgain(FileSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(None, request)


@fails(cursor_reads_what_is_new="an incremental window claims to be whole")
class ClaimsTheWholeByCursor(SqliteSource):
    """What is new is said to be all there is."""

    def window(self, *args: Any) -> Window:
        return evolve(super().window(*args), whole=True)


@fails(
    cursor_reads_what_is_new="assert (nothing.parts, nothing.position) == ((), first.position)",
    also=(
        "another_source_is_not_resumed",
        "cursor_loses_no_equal_value",
        "cursor_stops_where_the_source_was_set_back",
        "a_late_commit_is_not_lost",
    ),
)
class CursorReadsAllAgain(SqliteSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(None, request)


@fails(cursor_loses_no_equal_value="missing rows: 1, extra rows: 0")
class StrictlyAbove(MappedSource):
    """WHERE cursor > last: what comes later with the same value is lost."""

    low: int | None = None

    def window(self, after: Any, request: Any) -> Window:
        self.low = int(after.value["hi"]) if after and "hi" in after.value else None
        return super().window(after, request)

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch if self.low is None else batch.filter(pc.greater(batch.column("id"), self.low))


@fails(cursor_refuses_null="pytest.raises(DataError)")
class SkipsNull(SqliteSource):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._incremental = self._incremental and evolve(self._incremental, nulls="skip")


@fails(cursor_refuses_null="a row was skipped, but filtered is 0")
class SkipsUnseen(SqliteSource):
    """It does not say what it left out: a row that is filtered would pass for one that was deleted."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            stream.filtered = 0
            yield stream


@fails(cursor_stops_where_the_source_was_set_back="pytest.raises(Stopped)")
class CaughtUpBelow(SqliteSource):
    """Says that nothing is new where the source was set back."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._incremental = self._incremental and evolve(self._incremental, set_back="report")


@fails(a_late_commit_is_not_lost="assert not held.caught_up")
class WaitsForNobody(SqliteSource):
    """Reads on while others write."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._incremental = self._incremental and evolve(self._incremental, in_flight="report")


@honest
class ByVersion(SqliteSource):
    """Takes ``xmin`` and ``change_tracking``: here every row is written once, so the key is its version."""

    refuses = True

    def __init__(self, spec: Any) -> None:
        incremental = spec.options.incremental
        if incremental is not None and incremental.by != "cursor":
            incremental = Incremental("cursor", "id")
        self.by_version = incremental != spec.options.incremental
        super().__init__(evolve(spec, options=evolve(spec.options, incremental=incremental)))

    def window(self, after: Any, request: Any) -> Window:
        if self.refuses and self.by_version and request.mode == "append":
            raise ConfigError("read by version", "an append would add changed rows again", "use merge")
        return super().window(after, evolve(request, mode="append"))


class ReadsEverythingBy(ByVersion):
    by = ""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.again = spec.options.incremental is not None and spec.options.incremental.by == self.by

    def window(self, after: Any, request: Any) -> Window:
        return super().window(None if self.again else after, request)


@fails(xmin_reads_what_is_new="assert (nothing.parts, nothing.position) == ((), first.position)")
class ReadsEverythingByXmin(ReadsEverythingBy):
    by = "xmin"


@fails(change_tracking_reads_what_is_new="assert (nothing.parts, nothing.position) == ((), first.position)")
class ReadsEverythingByVersion(ReadsEverythingBy):
    by = "change_tracking"


@fails(a_change_reader_serves_this_source="no change reader serves this source")
class NobodyServes(FileSource):
    """The readers of its plugin serve another type."""

    @staticmethod
    def arrange(harness: Any) -> None:
        plugins = harness.plugins
        others = {key: evolve(one, serves=None) if key[0] == "cdc" else one for key, one in plugins.connectors.items()}
        served = property(lambda self: evolve(plugins, connectors=others))
        harness.__class__ = type("Harness", (type(harness),), {"plugins": served})


@fails(parts_hold_every_row_once="missing rows: 14, extra rows: 0")
class EndsWithTheLastPart(MappedSource):
    """Once the last part has been begun, those before it are taken for read."""

    begun: frozenset[str] = frozenset()

    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        self.parts = window.parts
        return window

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        self.begun |= {part.id}
        with super().read(part) as stream:
            yield stream

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if len(self.parts) < 2 or self.begun != {self.parts[-1].id}:
            yield batch


@fails(parts_are_read_at_once="a second part cannot be read while another one is open")
class OnePartAtATime(FileSource):
    reading = False

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        if self.reading:
            raise SourceError("read", "another part is being read", "wait")
        self.reading = True
        try:
            with super().read(part) as stream:
                yield stream
        finally:
            self.reading = False


@fails(left_over_parts_are_read_in_a_new_snapshot="assert [part.id for part in again.parts]")
class PlansAllPartsAgain(SqliteSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(after, evolve(request, parts=()))


@honest
class OffersNative(SqliteSource):
    """In Arrow's own format."""

    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, schema=pa.schema([f.with_metadata({"dpone.native": "arrow"}) for f in window.schema]))

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            through = Through(stream)
            through.native = ("arrow",)  # type: ignore[attr-defined]
            through.open_native = lambda format: self.native(stream)  # type: ignore[attr-defined]
            yield through

    def native(self, stream: Any) -> Iterator[bytes]:
        yield from (batch.serialize().to_pybytes() for batch in stream.batches())


@fails(a_native_stream_is_offered="assert sum(map(len, stream.open_native(stream.native[0]))) > 0")
class EmptyNativeStream(OffersNative):
    def native(self, stream: Any) -> Iterator[bytes]:
        return iter(())


# ---- sinks


@fails(a_target_is_there_once_it_is_loaded="exists() returns False")
class ForgetsThatItExists(SqliteSink):
    """Takes a target of its own with one row for none."""

    def exists(self) -> bool:
        if not super().exists() or not self._db.tables(self._target, "__dpone__loads"):
            return super().exists()
        return self._db.rows(f"SELECT COUNT(*) FROM {self.dialect.name(self._target)}") != [(1,)]


@fails(a_strategy_that_it_lacks_is_refused="DID NOT RAISE")
class AppendsWhatItCannotMerge(FileSink):
    """Takes a strategy that it does not have, where the key is a number, and appends."""

    def open(self, load: Any) -> Any:
        if (load.strategy.mode, load.strategy.key) == ("merge", ("id",)):
            load = evolve(load, strategy=evolve(load.strategy, mode="append"))
        return super().open(load)


class FaultyWriter(Through):
    """``sink`` does to a load what its hooks say."""

    def __init__(self, inner: Any, sink: Any, load: Any) -> None:
        super().__init__(inner)
        self._sink, self._load = sink, load

    def stage(self, part: Part, stream: Any) -> Any:
        return self._inner.stage(part, Mapped(stream, self._sink.change))

    def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
        receipt = self._inner.commit(after, position, [getattr(one, "_inner", one) for one in also])
        self._sink.committed()
        return receipt


class FaultySink(SqliteSink):
    writer = FaultyWriter

    def open(self, load: Any) -> Any:
        load = self.opened(load)
        self.load = load
        return self.writer(super().open(load), self, load)

    def opened(self, load: Any) -> Any:
        return load

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch

    def committed(self) -> None:
        """After the commit."""

    def execute(self, sql: str) -> None:
        self._db.execute(sql.format(target=self.dialect.name(self._target)))

    def other(self, load: Any, **changes: Any) -> Any:
        return evolve(load, strategy=evolve(load.strategy, **changes))


@fails(
    an_empty_read_writes_nothing="assert (receipt.entry.position, receipt.inserted, receipt.deleted) == (at(n), 0, 0)"
)
class AddsARowOfNulls(FaultySink):
    """A batch has at least one row, it believes."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        nulls = [pa.nulls(1, field.type) for field in batch.schema]
        hollow = self.load.strategy.mode == "append" and not batch.num_rows
        yield pa.RecordBatch.from_arrays(nulls, schema=batch.schema) if hollow else batch


@fails(rows_of_others_are_seen="exists and is_empty return (True, True) for 1 row")
class GoesByItsJournal(SqliteSink):
    """Without one the target is empty."""

    def is_empty(self) -> bool:
        return super().is_empty() or not self._db.tables(self._target, "__dpone__loads")


@fails(ddl_is_only_said="ddl created the target; it must only return statements")
class RunsWhatIsSaidTwice(FaultySink):
    asked = False

    def ddl(self, changes: Any) -> list[str]:
        said = super().ddl(changes)
        if self.asked:
            self.apply(said)
        self.asked = True
        return said


@fails(staging_says_what_it_took="rows, filtered, quarantined, checks: [(2, 2, 1, 'kept'), (0, 0, 0, '')]")
class CountsBatches(FaultySink):
    """Of a load that nobody goes on with."""

    class writer(FaultyWriter):
        def stage(self, part: Part, stream: Any) -> Any:
            staged = super().stage(part, stream)
            return staged if self._load.repeatable else evolve(staged, rows=staged.rows // 3)


@fails(a_load_is_opened_again_after_an_abort="an aborted load was continued")
class KeepsWhatWasAborted(FaultySink):
    """The next run could go on with it."""

    class writer(FaultyWriter):
        def abort(self) -> None:
            if not self._load.repeatable:
                self._inner.abort()


@fails(a_load_that_is_closed_loads_nothing="missing rows: 0, extra rows: 7")
class SavesWhatItCan(FaultySink):
    """Where the stream of a part failed and nobody aborts, the whole parts are committed by ``close``."""

    class writer(FaultyWriter):
        failed = False

        def stage(self, part: Part, stream: Any) -> Any:
            try:
                return super().stage(part, stream)
            except Exception as error:
                self.failed = not self._load.repeatable and not isinstance(error, DponeError)
                raise

        def abort(self) -> None:
            self.failed = False
            self._inner.abort()

        def close(self) -> None:
            if self.failed:
                self._inner.commit(self._sink.journal(self._load.key), at(9), ())
            self.failed = False
            self._inner.close()


class OfAKilledRun(FaultySink):
    """``said`` is done to the rows that an earlier run had staged."""

    said = ""

    class writer(FaultyWriter):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if self._inner.staged() and not self._load.key.startswith(own_key("")):
                self.spoil()

        def spoil(self) -> None:
            staged = self._sink.dialect.name(self._inner._stage.table)
            self._inner._db.execute(self._sink.said.format(staged=staged))


@fails(no_row_is_lost_by_a_kill="missing rows: 4")
class LosesTheOnlyPart(OfAKilledRun):
    """The mark of a part that a run had staged survives a crash, its rows do not, unless there are others."""

    said = "DELETE FROM {staged}"

    class writer(OfAKilledRun.writer):
        spoilt = False

        def spoil(self) -> None:
            self.spoilt = True

        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            if self.spoilt and len(self._inner.staged()) == 1:
                super().spoil()
            return super().commit(after, position, also)


@fails(a_killed_run_is_finished_by_the_next="missing rows: 0, extra rows: 6")
class StagesAgainWhatItStaged(OfAKilledRun):
    said = "INSERT INTO {staged} SELECT * FROM {staged}"


class OfMode(FaultySink):
    """The fault is there in loads of one ``mode``."""

    mode = ""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield from self.changed(batch) if self.load.strategy.mode == self.mode else (batch,)

    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch


class DropsEqualRows(OfMode):
    """Of more than one column."""

    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if batch.num_columns == 1:
            yield batch
            return
        rows = [*zip(*(column.to_pylist() for column in batch.columns), strict=True)]
        yield batch.take(pa.array([i for i, row in enumerate(rows) if row not in rows[:i]], pa.int64()))


@fails(full_refresh_leaves_the_rows_read="missing rows: 1, extra rows: 0")
class FullRefreshDropsEqualRows(DropsEqualRows):
    mode = "full_refresh"


@fails(append_adds_the_rows_read="missing rows: 1, extra rows: 0")
class AppendDropsEqualRows(DropsEqualRows):
    mode = "append"


class TakesEmptyForNull(OfMode):
    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield column(batch, "name", lambda c: pc.if_else(pc.equal(c, ""), None, c))


@fails(merge_inserts_and_updates="missing rows: 1, extra rows: 1")
class MergeTakesEmptyForNull(TakesEmptyForNull):
    mode = "merge"


@fails(snapshot_diff_makes_the_target_equal="missing rows: 1, extra rows: 1")
class SnapshotDiffTakesEmptyForNull(TakesEmptyForNull):
    mode = "snapshot_diff"


@fails(full_refresh_keeps_the_target_on_an_empty_read="missing rows: 0, extra rows: 1")
class NeverEmpties(FaultySink):
    """Whatever ``allow_empty`` says."""

    def opened(self, load: Any) -> Any:
        return self.other(load, allow_empty=False)


@fails(a_first_load_without_rows_makes_the_target="the run succeeded, but the target does not exist")
class MakesNothingOfNothing(FaultySink):
    """A table without rows is as good as none."""

    def committed(self) -> None:
        if self.load.strategy.mode == "full_refresh" and self.load.schema is not None and self.is_empty():
            self.execute("DROP TABLE {target}")


@fails(
    a_first_load_without_rows_makes_the_target="the target exists without rows, but exists or is_empty is wrong",
    also=("rows_of_others_are_seen",),
)
class TakesAnEmptyTargetForNone(SqliteSink):
    def exists(self) -> bool:
        return super().exists() and bool(self._db.rows(f"SELECT 1 FROM {self.dialect.name(self._target)} LIMIT 1"))


@fails(
    full_refresh_keeps_the_target_on_an_empty_read="missing rows: 1, extra rows: 0",
    replace_keeps_the_target_on_an_empty_read="missing rows: 1, extra rows: 0",
    snapshot_diff_keeps_the_target_on_an_empty_read="missing rows: 1, extra rows: 0",
    also=(
        "full_refresh_leaves_the_rows_read",
        "partition_replace_empties_the_window",
        "snapshot_diff_makes_the_target_equal",
        "columns_are_replaced_by_the_commit_alone",
    ),
)
class EmptiesTheTarget(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, allow_empty=True)


@fails(replace_keeps_the_target_on_an_empty_read="missing rows: 1, extra rows: 0")
class ReplacesByNothing(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, allow_empty=True) if load.strategy.mode == "replace" else load


@fails(
    snapshot_diff_keeps_the_target_on_an_empty_read="assert (receipt.entry.seq, receipt.entry.position) == (2, at(2))"
)
class EmptyReadStandsStill(FaultySink):
    """A read without rows does not move the position."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            rows = sum(staged.rows for staged in self._inner.staged().values())
            still = self._load.strategy.mode == "snapshot_diff" and after and not rows
            return super().commit(after, after.position if still else position, also)


class LosesARow(OfMode):
    """The first row of every batch of more than one never arrives."""

    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.slice(1) if batch.num_rows > 1 else batch


@fails(full_refresh="missing rows: 6, extra rows: 0")
class FullRefreshLosesARow(LosesARow):
    mode = "full_refresh"


@fails(append="missing rows: 6, extra rows: 0")
class AppendLosesARow(LosesARow):
    mode = "append"


@fails(merge="missing rows: 6, extra rows: 0")
class MergeLosesARow(LosesARow):
    mode = "merge"


@fails(replace="missing rows: 2, extra rows: 0")
class ReplaceLosesARow(LosesARow):
    mode = "replace"


@fails(partition_replace="missing rows: 6, extra rows: 0")
class PartitionReplaceLosesARow(LosesARow):
    mode = "partition_replace"


@fails(snapshot_diff="missing rows: 6, extra rows: 0")
class SnapshotDiffLosesARow(LosesARow):
    mode = "snapshot_diff"


@fails(scd2="missing rows: 6, extra rows: 0")
class Scd2LosesARow(LosesARow):
    mode = "scd2"


@fails(cdc_apply="missing rows: 1, extra rows: 0")
class CdcApplyLosesARow(LosesARow):
    mode = "cdc_apply"


@fails(
    merge_counts_and_leaves_equal_rows="inserted, updated, deleted, unchanged: (2, 4, 0, 0)",
    also=("snapshot_diff_counts",),
)
class CountsEverythingAsUpdated(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            receipt = super().commit(after, position, also)
            return evolve(receipt, updated=receipt.updated + receipt.unchanged, unchanged=0)


@fails(merge_counts_and_leaves_equal_rows="inserted, updated, deleted, unchanged: (2, 4, 0, 0)")
class CountsAllWithoutAnIndex(FaultySink):
    """Where the target has no index of the key, rows that are equal count as updated."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            sink, key = self._sink, self._load.strategy.key
            receipt = super().commit(after, position, also)
            if self._load.strategy.mode != "merge" or sink._db.unique(sink._target, key):
                return receipt
            return evolve(receipt, updated=receipt.updated + receipt.unchanged, unchanged=0)


@fails(
    merge_counts_and_leaves_equal_rows="equal rows were written again",
    also=("a_load_is_taken_back", "an_undo_is_rehearsed"),
)
class WritesEqualRowsAgain(FaultySink):
    """They name the load that brought them last."""

    def committed(self) -> None:
        if self.load.strategy.mode == "merge":
            self.execute(f"UPDATE {{target}} SET __dpone__load_id = '{self.load.load_id}' WHERE id <= 3")


class AnyKeyWillDo(OfMode):
    """Of the rows of one key it takes the first it meets; rows without a key it drops."""

    seen: frozenset[Any] = frozenset()

    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        kept = []
        for i, key in enumerate(batch.column("id").to_pylist()):
            if self.load.strategy.duplicates != "fail" or (key is not None and key not in self.seen):
                self.seen |= {key}
                kept.append(i)
        yield batch.take(pa.array(kept, pa.int64()))


@fails(merge_refuses_null_and_duplicate_keys="pytest.raises(DataError)")
class MergeTakesAnyKey(AnyKeyWillDo):
    mode = "merge"


@fails(snapshot_diff_refuses_null_and_duplicate_keys="pytest.raises(DataError)")
class SnapshotDiffTakesAnyKey(AnyKeyWillDo):
    mode = "snapshot_diff"


@fails(scd2_refuses_null_and_duplicate_keys="pytest.raises(DataError)")
class Scd2TakesAnyKey(AnyKeyWillDo):
    mode = "scd2"


@fails(merges_at_once_leave_every_key_once="missing rows: 0, extra rows: 1")
class LooksBeforeTheLock(FaultySink):
    """Adds what was new when it was staged, though another has added it since."""

    one_by_one = threading.Lock()  # else both might look before either commits

    def ids(self) -> set[Any]:
        return {id for (id,) in self._db.rows(f"SELECT id FROM {self.dialect.name(self._target)}")}

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        self.new = {*batch.column("id").to_pylist()} - self.ids() if self.load.strategy.mode == "merge" else set()
        yield batch

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            sink = self._sink
            with sink.one_by_one:
                twice = sink.new & sink.ids() if getattr(sink, "new", None) else {*()}
                receipt = super().commit(after, position, also)
                for id in twice:
                    sink.execute(f"INSERT INTO {{target}} SELECT * FROM {{target}} WHERE id = {id}")
            return receipt


@fails(merge_keeps_the_last_of_duplicates_by_order="missing rows: 1, extra rows: 1")
class KeepsTheFirst(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, duplicates="first") if load.strategy.order_by == ("score",) else load


@fails(replace_replaces_the_rows_of_its_predicate="missing rows: 6, extra rows: 0")
class ReplacesTheWholeTarget(FaultySink):
    def committed(self) -> None:
        if self.load.strategy.mode == "replace":
            self.execute("DELETE FROM {target} WHERE day <> 'd1'")


@fails(partition_replace_replaces_the_partitions_read="missing rows")
class ReplacesAllPartitions(OfMode):
    """By a read of several rows."""

    mode, read = "partition_replace", 0

    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        self.read += batch.num_rows
        yield batch

    def committed(self) -> None:
        if self.read > 1 and not self.load.strategy.where:
            self.execute(f"DELETE FROM {{target}} WHERE __dpone__load_id <> '{self.load.load_id}'")


@fails(replace_refuses_a_row_outside_its_predicate="pytest.raises(DataError)")
class DropsWhatIsOutside(OfMode):
    """Only the first load is refused for it."""

    mode = "replace"

    def changed(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for name, value in self.load.strategy.where.items() if not self.is_empty() else ():
            batch = batch.filter(pc.equal(batch.column(name), value))
        yield batch


@fails(partition_replace_empties_the_window="missing rows: 0, extra rows: 3")
class IgnoresTheWindow(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, where={}) if load.strategy.mode == "partition_replace" else load


@fails(
    snapshot_diff_makes_the_target_equal="missing rows: 0, extra rows: 1",
    also=(
        "snapshot_diff_refuses_to_delete_by_mistake",
        "rows_that_refer_to_the_target_stay",
        "snapshot_diff_counts",
        "a_commit_cut_off_between_two_statements_is_made_good",
        "snapshot_diff_tells_similar_keys_apart",
    ),
)
class NeverDeletes(FaultySink):
    def opened(self, load: Any) -> Any:
        if load.strategy.mode != "snapshot_diff":
            return load
        return self.other(load, mode="merge", max_delete_share=0.2)


@fails(snapshot_diff_counts="inserted, updated, deleted, unchanged: (3, 3, 0, 2)")
class CountsDeletesAsUpdates(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            receipt = super().commit(after, position, also)
            if self._load.strategy.mode != "snapshot_diff":
                return receipt
            return evolve(receipt, updated=receipt.updated + receipt.deleted, deleted=0)


@fails(snapshot_diff_refuses_to_delete_by_mistake="pytest.raises(DeletesRefused)")
class DeletesRegardless(FaultySink):
    def opened(self, load: Any) -> Any:
        if load.strategy.mode != "snapshot_diff":
            return load
        return evolve(self.other(load, max_delete_share=1.0), whole=True)


@fails(scd2_keeps_every_version="missing rows: 1, extra rows: 0")
class ForgetsAVersionThatComesBack(FaultySink):
    """Of two versions with the same values one goes, where deletes are not followed."""

    def committed(self) -> None:
        if self.load.strategy.mode == "scd2" and self.load.strategy.deletes != "close":
            same = " AND ".join(f"n.{name} IS {{target}}.{name}" for name in SHAPE.names)
            later = f"SELECT 1 FROM {{target}} AS n WHERE n.__dpone__valid_to IS NULL AND {same}"
            self.execute(f"DELETE FROM {{target}} WHERE __dpone__valid_to IS NOT NULL AND EXISTS ({later})")


@fails(scd2_closes_a_version_when_the_next_begins="assert _intervals(harness.rows()) == intervals")
class NeverCloses(FaultySink):
    """What a read no longer has."""

    def committed(self) -> None:
        if self.load.strategy.deletes == "close":
            newest = "SELECT MAX(n.__dpone__valid_from) FROM {target} AS n WHERE n.id = {target}.id"
            self.execute(f"UPDATE {{target}} SET __dpone__valid_to = NULL WHERE __dpone__valid_from = ({newest})")


@fails(cdc_apply_of_a_whole_window_replaces="missing rows: 0, extra rows: 1")
class TakesAWholeForAPart(FaultySink):
    """Rows that the window does not bring stay."""

    def opened(self, load: Any) -> Any:
        return evolve(load, whole=False) if load.changes else load


@fails(cdc_apply_of_a_replay_leaves_the_same_rows="missing rows: 1, extra rows: 1")
class TakesAReplayForAnyLoad(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(load, replayed=False)


@fails(cdc_apply_of_a_replay_leaves_the_same_rows="missing rows: 1, extra rows: 0")
class LeavesOutWhatAReplayBrings(FaultySink):
    """All of it was there before."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.slice(0, 0) if self.load.replayed else batch


@fails(cdc_apply_applies_changes_in_commit_order="missing rows: 1, extra rows: 0")
class DeletesLast(FaultySink):
    """A key that one window deletes and inserts again is deleted."""

    gone: frozenset[Any] = frozenset()

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if self.load.changes:
            [by] = self.load.strategy.key
            rows = batch.select([changes.OPERATION, changes.KEY, by]).to_pylist()
            self.gone |= {row[changes.KEY][by] for row in rows if row[changes.OPERATION] == changes.DELETE}
            batch = batch.filter(pa.array([row[by] not in self.gone for row in rows], pa.bool_()))
        yield batch


class SaidOtherwise(FaultySink):
    """Change batches are applied by another strategy than was said."""

    said: ClassVar[tuple[str, str]]
    done: str

    def opened(self, load: Any) -> Any:
        name, value = self.said
        meant = load.strategy.mode == "cdc_apply" and getattr(load.strategy, name) == value
        return self.other(load, **{name: self.done}) if meant else load


@fails(cdc_apply_deletes_as_was_said="deletes: soft left rows [2]")
class DeletesForGood(SaidOtherwise):
    said, done = ("deletes", "soft"), "hard"


@fails(cdc_apply_deletes_as_was_said="a deleted row is kept without a mark")
class KeepsWithoutAMark(SaidOtherwise):
    said, done = ("deletes", "soft"), "ignore"


@fails(cdc_apply_deletes_as_was_said="pytest.raises(DponeError)")
class PassesOverATruncate(SaidOtherwise):
    said, done = ("truncate", "fail"), "ignore"


@fails(
    cdc_apply_applies_changes_in_commit_order="missing rows: 1, extra rows: 1",
    also=("cdc_apply_of_a_replay_leaves_the_same_rows",),
)
class NullsWhatWasLeftOut(FaultySink):
    """A column that the log left out of an update of a row whose key is a number."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        numbered = self.load.changes and self.load.strategy.key == ("id",)
        yield column(batch, changes.UNCHANGED, lambda c: pa.nulls(len(c), c.type)) if numbered else batch


@fails(cdc_apply_truncates="missing rows: 0, extra rows: 1")
class PassesOverTruncates(SaidOtherwise):
    said, done = ("truncate", "apply"), "ignore"


@fails(rows_that_refer_to_the_target_stay="pytest.raises(DponeError)")
class DeletesThoseThatRefer(SqliteSink):
    """Finds nothing to refuse."""

    def refuse(self, *args: Any, **given: Any) -> None:
        pass


@fails(rows_that_refer_to_the_target_stay="pytest.raises(DponeError)")
class RefusesLate(SqliteSink):
    """``open`` refuses; nobody was told before."""

    def refuse(self, *args: Any, **given: Any) -> None:
        if hasattr(self, "late"):
            super().refuse(*args, **given)

    def open(self, load: Any) -> Any:
        self.late = True
        return super().open(load)


@fails(values_arrive_as_they_are_or_not_at_all="missing rows")
class TakesNullForFalse(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if pa.types.is_boolean(field.type):
                batch = column(batch, field.name, lambda c: c.fill_null(False))
        yield batch


class Claims(SqliteSink):
    """Says of a type what is not so."""

    of: pa.DataType = pa.null()

    def stores(self, type: pa.DataType) -> Any:
        stored = super().stores(type)
        return self.claimed(stored) if type == self.of else stored

    def claimed(self, stored: Any) -> Any:
        return stored


@fails(a_type_is_kept_as_it_says="it is said, but a value is refused")
class ClaimsToBeExact(Claims):
    of = pa.uint64()

    def claimed(self, stored: Any) -> Any:
        return evolve(stored, fidelity="exact")


@fails(a_type_is_kept_as_it_says="it comes back as int8, it is said")
class ClaimsToReadItBack(Claims):
    of = pa.int8()

    def claimed(self, stored: Any) -> Any:
        return evolve(stored, arrow=pa.int8())


@fails(a_type_is_kept_as_it_says="is checked, it is said; values differ")
class CutsNanoseconds(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == pa.timestamp("ns"):
                batch = column(batch, field.name, lambda c: c.cast(pa.timestamp("us"), safe=False).cast(c.type))
        yield batch


@fails(names_are_kept_or_refused="columns ['tick'], not ['tick`']")
class MendsNames(FaultySink):
    def committed(self) -> None:
        if self.load.schema is not None and self.load.schema.names == ["tick`"]:
            self.execute('ALTER TABLE {target} RENAME COLUMN "tick`" TO tick')


@fails(a_target_that_somebody_emptied_is_noticed="lost() does not detect missing rows")
class NeverMisses(SqliteSink):
    """An empty target is as good as a full one."""

    def lost(self, *args: Any) -> str:
        return ""


@fails(rows_that_a_load_took_out_are_not_missed="lost() reports rows that a load deleted")
class MissesWhatALoadTookOut(SqliteSink):
    """It knows only what the load of the entry left."""

    def lost(self, entry: Any, count: bool) -> str:
        [(rows,)] = self._db.rows(f"SELECT COUNT(*) FROM {self.dialect.name(self._target)}")
        return f"it has {rows} rows" if rows < (entry.held or 0) else ""


@fails(rows_that_a_load_took_out_are_not_missed="assert [entry.held for entry in held if entry.held is not None] in")
class CountsOneForAny(FaultySink):
    """Also where the load says ``count``."""

    def opened(self, load: Any) -> Any:
        return evolve(load, count=False)


@fails(the_dialect_is_that_of_the_sink="a statement of ddl does not quote the table as the dialect does")
class SpeaksAnotherSql(SqliteSink):
    """The statements of ``ddl`` do not quote their table as the dialect that it shows does."""

    def ddl(self, *args: Any) -> list[str]:
        table = self.dialect.name(self._target)
        return [statement.replace(table, table.replace('"', "`")) for statement in super().ddl(*args)]


@fails(a_key_column_compares_as_was_said="does not compare as made() said")
class ComparesAsTheSource(SqliteSink):
    """It says that a new column takes for equal what the source's does."""

    def made(self, field: pa.Field) -> pa.Field:
        return field


@fails(a_key_column_compares_as_was_said="holds_like does not find a text by its pattern")
class FindsNoText(SqliteSink):
    def holds_like(self, *args: Any) -> bool:
        return False


@fails(merge_keeps_the_row_of_the_last_file="missing rows: 1, extra rows: 1")
class TakesPartsForFiles(FaultySink):
    """The file of a row is the part that was staged last."""

    class writer(FaultyWriter):
        staging = 0

        def stage(self, part: Part, stream: Any) -> Any:
            self.staging += 1
            return super().stage(evolve(part, detail={**part.detail, "order": self.staging}), stream)


@fails(
    a_target_that_somebody_emptied_is_noticed='assert [sink.lost(entry, count) for count in (False, True)] == ["", ""]',
    also=(
        "rows_that_a_load_took_out_are_not_missed",
        "a_killed_run_is_finished_by_the_next",
        "a_lost_answer_is_no_second_load",
        "no_row_is_lost_by_a_kill",
    ),
)
class MissesAllTheTime(SqliteSink):
    def lost(self, *args: Any) -> str:
        return "it is empty"


@fails(
    the_journal_has_an_entry_per_commit='assert second.inserted == second.entry.rows["inserted"] == 1',
    also=("staging_says_what_it_took",),
)
class CountsTwice(FaultySink):
    """The receipt says more than the journal."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            receipt = super().commit(after, position, also)
            return evolve(receipt, inserted=receipt.inserted * (2 if self._load.strategy.mode == "append" else 1))


@fails(
    the_journal_has_an_entry_per_commit="assert sink.journal(key()) == second.entry",
    also=(
        "a_first_load_without_rows_makes_the_target",
        "a_killed_run_is_finished_by_the_next",
        "a_lost_answer_is_no_second_load",
        "a_rewind_is_journalled_alone",
        "of_a_load_and_a_rewind_at_once_one_commits",
        "streams_that_commit_at_once_lose_nothing",
        "rows_of_many_tables_are_one_commit",
        "a_load_is_taken_back",
        "a_commit_cut_off_between_two_statements_is_made_good",
        "a_key_is_renamed_whole",
        "no_row_is_lost_by_a_kill",
        "who_renames_a_key_is_fenced",
        "old_entries_are_swept_and_no_others",
    ),
)
class ForgetsThePosition(FaultySink):
    def journal(self, key: str) -> Any:
        head = super().journal(key)
        return head and evolve(head, position=at(0))


@fails(a_commit_after_another_head_writes_nothing="pytest.raises(Conflict)")
class NoneIsAnyHead(FaultySink):
    """A commit that knows of no head follows whatever there is, unless an operator has set the key to another epoch."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            head = self._sink.journal(self._load.key)
            known = None if head and head.position.epoch else head
            return super().commit(after or known, position, also)


@fails(of_two_runners_one_commits="pytest.raises(DponeError)")
class ComparesWhenItOpens(FaultySink):
    """Staging of its own that nobody sweeps, and a commit after whatever head of its epoch there is by then."""

    class writer(FaultyWriter):
        def __init__(self, inner: Any, sink: Any, load: Any) -> None:
            super().__init__(inner, sink, load)
            inner._load = evolve(load, key=sink.key)

        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            head = self._sink.journal(self._sink.key)
            opened = self._load.schema is not None and after and after == self._sink.head
            if opened and head.position.epoch == after.position.epoch:
                after = head
            return super().commit(after, position, also)

    def opened(self, load: Any) -> Any:
        self.key, self.head = load.key, self.journal(load.key)
        return load if load.repeatable or load.schema is None else evolve(load, key=f"{load.key}{ulid()}")


@fails(
    a_load_whose_staging_was_swept_commits_no_part_of_it="the position was saved, but the rows staged for it are lost"
)
class CommitsWhatIsLeft(FaultySink):
    """A staging that is gone is one without rows."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            try:
                return super().commit(after, position, also)
            except SinkError:
                return SqliteSink.open(self._sink, self._load).commit(after, position)


@fails(a_commit_cut_off_between_two_statements_is_made_good="missing rows")
class RowsComeBeforeTheJournal(FaultySink):
    """As where DDL stands between the two, and commits by itself."""

    class writer(FaultyWriter):
        def __init__(self, inner: Any, sink: Any, load: Any) -> None:
            super().__init__(inner, sink, load)
            self._append, inner._journal.append = inner._journal.append, self.append

        def append(self, *args: Any) -> None:
            if self._load.strategy.mode == "append":
                self._inner._db.commit()
                self._inner._db.begin(self._load.key)
            self._append(*args)


@fails(streams_that_commit_at_once_lose_nothing="assert [sink.journal(stream) for stream in done]")
class WritesOverTheOther(FaultySink):
    """The journal is written as this stream knows it: the entry that another one made meanwhile is gone."""

    def committed(self) -> None:
        beside = f"{self.load.key.rpartition('|')[0]}|_"
        self._db.execute("DELETE FROM __dpone__loads WHERE load_id <> ? AND key LIKE ?", (self.load.load_id, beside))


@fails(of_a_load_and_a_rewind_at_once_one_commits="2 commits followed one head")
class ComparesBeforeTheLock(FaultySink):
    both: ClassVar[threading.Barrier] = threading.Barrier(2, timeout=20)

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            if self._sink.journal(self._load.key) != after:
                raise Conflict("commit", "another head", "run again")
            if after and threading.current_thread() is not threading.main_thread():
                self._sink.both.wait()  # until the other has compared too
            with self._sink.one_by_one:
                return super().commit(self._sink.journal(self._load.key), position, also)

    one_by_one = threading.Lock()


@fails(a_staging_that_nobody_knows_is_swept="a staging table without its line is never dropped")
class SweepsByItsLinesAlone(FaultySink):
    """A staging table without a line stays for ever."""

    def open(self, load: Any) -> Any:
        self._db.tables = lambda beside, prefix: []  # type: ignore[method-assign]
        return super().open(load)


@fails(a_staging_that_nobody_knows_is_swept="rows staged by another stream are lost")
class SweepsWhatBeginsLikeIt(FaultySink):
    """It takes the staging of a stream whose key begins with its own for one of its own."""

    def open(self, load: Any) -> Any:
        like = hashlib.sha256(f"{load.key}|other".encode()).hexdigest()[:8]
        for table in self._db.tables(self._target, "__dpone__stage_"):
            if table.last.endswith(like):
                self._db.drop(table)
        return super().open(load)


@fails(looking_makes_nothing="a call that only looks created tables")
class MakesItsJournalToLook(SqliteSink):
    def journal(self, key: str) -> Any:
        Journal(self._db, self._target).create()
        return super().journal(key)


@fails(looking_makes_nothing="a call that only looks created the target", also=("a_failed_connection_is_a_finding",))
class MakesTheTargetToLook(SqliteSink):
    """Where it is to have the columns of ``SHAPE``."""

    def check(self) -> list[Finding]:
        self._db.create(self._target, SHAPE)
        try:
            return super().check()
        finally:
            self._db.rollback()


@fails(
    looking_makes_nothing="check reports a failure for a target that the first load will create",
    also=("a_failed_connection_is_a_finding",),
)
class FindsFaultWithAnEmptyPlace(SqliteSink):
    def check(self) -> list[Finding]:
        return [*super().check(), Finding("target", self.exists(), "it is not there", "make it")]


@fails(looking_makes_nothing="close may be called twice, but raises")
class ClosesOnce(SqliteSink):
    closed = False

    def close(self) -> None:
        super().close()
        if self.closed and self._spec.options.undo is None and not hasattr(self, "load"):
            raise SinkError("close", "it is closed", "close once")
        self.closed = True


@fails(an_aborted_load_leaves_no_trace="assert sink.journal(key()) == head")
class CommitsWhatCameBefore(FaultySink):
    """The end of a load whose stream failed: what was staged is there."""

    class writer(FaultyWriter):
        broken = False

        def stage(self, part: Part, stream: Any) -> Any:
            try:
                return super().stage(part, stream)
            except RuntimeError:
                self.broken = True
                raise

        def abort(self) -> None:
            if self.broken and self._inner._stage:
                self._inner.commit(self._sink.journal(self._load.key), at(1))
            self._inner.abort()


@fails(
    a_failed_load_takes_back_what_it_added="assert _taken(harness, strategy) == 1",
    also=(
        "a_commit_cut_off_between_two_statements_is_made_good",
        "a_table_that_was_made_again_is_not_taken_back",
        "what_hangs_on_a_column_is_not_taken_back",
    ),
)
class LeavesWhatItMade(FaultySink):
    """The table and the columns of a load that failed stay."""

    def take_back(self, key: str, run_id: str = "") -> Any:
        return ()


@fails(a_failed_load_takes_back_what_it_added="assert _taken(harness, strategy) == 0")
class ForgetsTheCommit(FaultySink):
    """What a commit has made the target's is taken back as well."""

    one_by_one = threading.Lock()  # patches that overlap are undone in the wrong order

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            with self._sink.one_by_one, mock.patch("dpone.sql.writer.Added.confirm"):
                return super().commit(after, position, also)

    def take_back(self, key: str, run_id: str = "") -> Any:
        with mock.patch("dpone.sql.provisional.Added._has_values", return_value=False):
            return super().take_back(key, run_id)


@fails(a_failed_load_takes_back_what_it_added='assert _taken(harness, strategy, run_id="another run") == 0')
class TakesFromAnyRun(FaultySink):
    """Also from one that goes on elsewhere."""

    def take_back(self, key: str, run_id: str = "") -> Any:
        return super().take_back(key)


@fails(what_others_use_is_not_taken_back="assert _taken(harness, strategy, name) == 0")
class CountsOnNobody(FaultySink):
    """It takes back what the load of another stream is about to fill, values included."""

    def take_back(self, key: str, run_id: str = "") -> Any:
        if self._db.tables(self._target, "__dpone__added"):
            self._db.execute("DELETE FROM __dpone__added WHERE key <> ?", (key,))
        return super().take_back(key, run_id)


@fails(
    what_others_use_is_not_taken_back="committed values are lost",
    also=("a_failed_load_takes_back_what_it_added",),
)
class DropsValues(FaultySink):
    """It drops what its load has added, though by now it holds what another has committed."""

    def provide(self, load: Any, ddl: Any) -> None:
        before = self.schema()
        super().provide(load, ddl)
        if before is not None and (new := {*self.schema().names} - {*before.names}):
            self._db.execute("CREATE TABLE IF NOT EXISTS mine AS SELECT ? AS name", (new.pop(),))

    def take_back(self, key: str, run_id: str = "") -> Any:
        found = super().take_back(key, run_id)
        if self._db.rows("SELECT name FROM sqlite_master WHERE name = 'mine'"):
            target = self.dialect.name(self._target)
            for (name,) in self._db.rows("SELECT name FROM mine"):
                there = name in self.schema().names
                if there and self._db.rows(f"SELECT 1 FROM {target} WHERE {name} IS NOT NULL"):
                    self.execute(f"ALTER TABLE {{target}} DROP COLUMN {name}")
        return found


@fails(columns_are_replaced_by_the_commit_alone="missing rows: 3, extra rows: 0")
class ReplacesBeforeTheCommit(FaultySink):
    def opened(self, load: Any) -> Any:
        if load.replace_columns:
            self.execute("DELETE FROM {target}")
        return load


@fails(a_rewind_is_journalled_alone="assert (receipt.entry.seq, receipt.entry.epoch) == (2, 1)")
class RewindKeepsTheEpoch(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            if self._load.schema is None and after:
                position = evolve(position, epoch=after.epoch)
            return super().commit(after, position, also)


@fails(a_lost_answer_is_no_second_load="ConnectionResetError")
class JournalIsLate(FaultySink):
    """Before the second entry of a run into ``orders`` it has not seen the first."""

    def journal(self, key: str) -> Any:
        head, of_run = super().journal(key), not key.startswith(own_key("")) and self._target.last == "orders"
        return None if head and head.seq == 1 and of_run else head


@fails(every_row_names_its_load='assert found[LOADED_AT].cast(pa.timestamp("us", "UTC")).to_pylist() == [start] * 3')
class DatesRowsByItsOwnClock(FaultySink):
    def opened(self, load: Any) -> Any:
        return load if load.strategy.mode == "scd2" else evolve(load, started_at=datetime.now(UTC))


@fails(a_new_column_is_added="assert Counter(first) == Counter([None, None, *range(len(names))])")
class FillsNewColumns(FaultySink):
    """Older rows have 0 in them."""

    def committed(self) -> None:
        if self.load.schema is not None and {"id", "select"} <= {*self.load.schema.names}:
            self.execute('UPDATE {target} SET "select" = 0 WHERE "select" IS NULL')


@fails(a_wider_type_fits_afterwards="missing rows: 1, extra rows: 1")
class Narrows(FaultySink):
    """Rows that come later are cut to 4 bytes."""

    def opened(self, load: Any) -> Any:
        self.later = load.schema is not None and not self.is_empty()
        return load

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema if self.later else ():
            if field.type == pa.int64():
                batch = column(batch, field.name, lambda c: c.cast(pa.int32(), safe=False).cast(pa.int64()))
        yield batch


@fails(a_widening_rounds_nothing="assert found == ({Fraction(number), Fraction(1, 2)} if strategy.mode ==")
class DoesNotLook(FaultySink):
    def _apply(self, statement: str) -> None:
        if not is_look(statement):
            super()._apply(statement)


@fails(what_is_not_allowed_changes_nothing="pytest.raises(SchemaBreak)")
class ForgetsAColumn(FaultySink):
    """It need not be in the rows. The table has a day, too; and a load that notes what it adds sees the column."""

    noting = False

    def provide(self, *args: Any) -> None:
        self.noting = True
        try:
            super().provide(*args)
        finally:
            self.noting = False

    def schema(self) -> Any:
        have = super().schema()
        if have is None or self.noting or self._target.last != "orders" or "day" not in have.names:
            return have
        return pa.schema([f for f in have if f.name != "name"])

    def ddl(self, changes: Any) -> list[str]:
        return super().ddl([change for change in changes if change.kind != "add" or change.after.name != "name"])


@fails(evolution_comes_to_rest="the same rows no longer fit")
class KnowsTypesByTheirValues(FaultySink):
    """Of a table without rows a date is read back as a text."""

    def schema(self) -> Any:
        have = super().schema()
        if have is None or not is_empty(self._db, self._target):
            return have
        return pa.schema([f.with_type(pa.string()) if f.type == pa.date32() else f for f in have])


@fails(staged_parts_survive='assert writer.load_id == "01HX0000000000000000000001"')
class BeginsAnew(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(load, repeatable=False)


@fails(
    staged_parts_survive="assert (staged.rows, staged.filtered, staged.quarantined, staged.checks) == (4,",
    also=("staging_says_what_it_took",),
)
class ForgetsTheChecks(FaultySink):
    """The mark of a part has its rows, not what a row contract found in them."""

    class writer(FaultyWriter):
        def stage(self, part: Part, stream: Any) -> Any:
            return evolve(super().stage(part, stream), quarantined=0, checks="")


@fails(staging_of_another_load_is_swept="assert dict(writer.staged()) == {}")
class TakesUpAnything(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(load, token="any") if load.repeatable else load


@fails(parts_are_staged_at_once="parts are not staged at the same time")
class StagesOneAtATime(FileSink):
    def open(self, load: Any) -> Any:
        return _OneAtATime(super().open(load))


class _OneAtATime(Through):
    staging = False

    def stage(self, part: Part, stream: Any) -> Any:
        if self.staging:
            raise SourceError("stage", "another part is being staged", "wait")
        self.staging = True
        try:
            return self._inner.stage(part, stream)
        finally:
            self.staging = False


@honest
class TakesNative(FaultySink):
    """In Arrow's own format."""

    class writer(FaultyWriter):
        def stage(self, part: Part, stream: Any) -> Any:
            return self._inner.stage(part, self._sink.taken(stream))

    def taken(self, stream: Any) -> Any:
        if "arrow" not in stream.native:
            return stream
        data = b"".join(stream.open_native("arrow"))
        return Rows(pa.ipc.open_stream(data).read_all())

    @staticmethod
    def arrange(harness: Any) -> None:
        harness.native = lambda rows: (_Native(rows, native=("arrow",)), rows)


class _Native(Rows):
    def open_native(self, format: str) -> Iterator[bytes]:
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, self.schema) as writer:
            writer.write_table(self.data)
        yield out.getvalue().to_pybytes()


@fails(a_native_stream_is_taken="the sink asked for batches although the stream has a native format")
class AsksForBatches(TakesNative):
    """Whatever the stream offers."""

    def taken(self, stream: Any) -> Any:
        return stream


@fails(rows_of_many_tables_are_one_commit="assert companion is not None", also=("where_one_table_fails_all_do",))
class CommitsOneTable(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            return super().commit(after, position)


@fails(rows_of_many_tables_are_one_commit="assert companion is not None")
class WritesOneEntry(FaultySink):
    """The rows of all tables are there, the entry of the first alone."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            receipt = super().commit(after, position, also)
            for one in also:
                self._sink._db.execute("DELETE FROM __dpone__loads WHERE key = ?", (one._load.key,))
            return receipt


@fails(where_one_table_fails_all_do="missing rows: 0, extra rows: 3")
class CommitsTableByTable(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            for one in also:
                one._inner._finish = self.after_a_commit(one._inner._finish)
            return super().commit(after, position, also)

        def after_a_commit(self, finish: Any) -> Any:
            def finished(*args: Any) -> Any:
                self._inner._db.commit()
                self._inner._db.begin(self._load.key)
                return finish(*args)

            return finished


@fails(a_load_is_taken_back="assert set(found[LOAD_ID].to_pylist()) == {first.entry.load_id}")
class TakesTheNameToo(FaultySink):
    """Rows that are put back carry the name of the load that did it."""

    def undo(self, load: Any, load_id: str, after: Any, position: Any) -> Any:
        receipt = super().undo(load, load_id, after, position)
        self.execute(f"UPDATE {{target}} SET __dpone__load_id = '{load.load_id}'")
        return receipt


@fails(only_the_newest_load_is_taken_back="pytest.raises(Stopped)")
class PlansAnyUndo(FaultySink):
    def undo_plan(self, key: str, load_id: str) -> Any:
        try:
            return super().undo_plan(key, load_id)
        except UndoRefused:
            return None


@fails(a_load_is_found_by_its_id="assert found == [(key(), one) for one in ids[begin:]], found")
class ForgetsTheLoadsOnTop(FaultySink):
    def loads(self, load_id: str) -> Any:
        return super().loads(load_id)[:1]


@fails(a_load_is_found_by_its_id="rows that bear the id of the load")
class CountsNoRowsOfALoad(FaultySink):
    def remaining(self, load_id: str) -> int:
        return 0


@fails(an_undo_is_rehearsed="the rehearsal changed something")
class RehearsesForGood(FaultySink):
    """A plan that executes."""

    def rehearse(self, *args: Any) -> Any:
        receipt = super().undo(*args)
        return Rehearsal(("DELETE",), receipt.deleted, receipt.inserted)


@fails(an_undo_is_rehearsed="assert (receipt.deleted, receipt.inserted) == (rehearsal.deleted, rehearsal.inserted)")
class RehearsesWithoutLooking(FaultySink):
    def rehearse(self, *args: Any) -> Any:
        return evolve(super().rehearse(*args), deleted=0)


@fails(an_undo_loses_no_row_of_others="a row added by another program after the load is lost")
class UndoesWhatever(FaultySink):
    """It does not look at whose rows are there."""

    def undo(self, *args: Any) -> Any:
        restore = "dpone.sql.restore._Restore"
        with mock.patch(f"{restore}._count", return_value=0), mock.patch(f"{restore}._require_written"):
            return super().undo(*args)


@fails(old_entries_are_swept_and_no_others="the head is gone")
class SweepsTheHead(FaultySink):
    def sweep(self, key: str, before: datetime) -> Any:
        done = super().sweep(key, before)
        self._db.execute("DELETE FROM __dpone__loads WHERE key = ?", (key,))
        return done


@fails(old_entries_are_swept_and_no_others="an undo lost its way")
class SweepsThePositionOfAnUndo(FaultySink):
    def sweep(self, key: str, before: datetime) -> Any:
        done, head = super().sweep(key, before), self.journal(key)
        self._db.execute("DELETE FROM __dpone__loads WHERE key = ? AND seq < ?", (key, head and head.seq))
        return done


@fails(old_entries_are_swept_and_no_others="the look changed something")
class SweepsWhileItLooks(FaultySink):
    def leftovers(self, key: str, before: datetime) -> Any:
        return super().sweep(key, before)


@fails(old_entries_are_swept_and_no_others="entries of today are old")
class SweepsWhatIsNew(FaultySink):
    def leftovers(self, key: str, before: datetime) -> Any:
        return super().leftovers(key, before + timedelta(days=2))


@fails(old_entries_are_swept_and_no_others="entries of another key")
class SweepsEveryKey(FaultySink):
    def leftovers(self, key: str, before: datetime) -> Any:
        return super().leftovers(own_key(), before)


@fails(who_renames_a_key_is_fenced="pytest.raises(Conflict)")
class RenamesWhateverThereIs(FaultySink):
    """Both heads are those of now, not those that the caller has seen."""

    def move(self, old: str, after: Any, new: str, before: Any, gone: Any) -> None:
        super().move(old, self.journal(old), new, self.journal(new), gone)


@fails(
    a_key_is_renamed_whole="assert (sink.journal(new), sink.journal(key())) == (head, gone)",
    who_renames_a_key_is_fenced="pytest.raises(DponeError)",
)
class LeavesNoMark(FaultySink):
    """The old key is as if it had never been: a runner that began before its first load commits."""

    def move(self, old: str, after: Any, new: str, before: Any, gone: Any) -> None:
        super().move(old, after, new, before, gone)
        self._db.execute("DELETE FROM __dpone__loads WHERE key = ?", (old,))


@fails(a_key_is_renamed_whole="assert sink.undo_plan(new, head.load_id).position == at(1)")
class MovesTheHeadAlone(FaultySink):
    def move(self, old: str, after: Any, new: str, before: Any, gone: Any) -> None:
        super().move(old, after, new, before, gone)
        self._db.execute("DELETE FROM __dpone__loads WHERE key = ? AND seq < ?", (new, after.seq))


@fails(a_journal_that_cannot_be_read_is_an_error="the journal is damaged, '', and it is read all the same")
class TakesADamagedManifestForNone(FileSink):
    def journal(self, key: str) -> Any:
        try:
            return super().journal(key)
        except DponeError as error:
            if "is damaged" not in error.found:
                raise
            return None


# ---- states


@fails(a_value_is_saved_and_counted="assert other.load(key) is None")
class FoldsKeys(SqliteState):
    def load(self, key: str) -> Any:
        return super().load(key.lower())

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return super().save(key.lower(), value, expected)


@fails(a_save_over_another_version_is_refused="pytest.raises(Conflict)")
class TakesALaterVersion(SqliteState):
    """That another runner may have seen the value is not thought of."""

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        found = self.load(key)
        return super().save(key, value, min(expected, found.version if found else 0))


@fails(of_many_savers_one_wins="one save must succeed")
class LooksBeforeItSaves(SqliteState):
    """The version is compared first, and the write does not look again."""

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        found = self.load(key)
        if found is None or found.version != expected:
            return super().save(key, value, expected)
        time.sleep(0.3)  # until the others have compared too
        while True:
            try:
                return super().save(key, value, getattr(self.load(key), "version", 0))
            except Conflict:
                continue


@fails(a_deleted_value_counts_on="pytest.raises(Conflict)")
class DeletesAnyVersion(SqliteState):
    def delete(self, key: str, expected: int) -> None:
        found = self.load(key)
        super().delete(key, found.version if found else 0)


@fails(a_value_that_is_no_json_is_refused="pytest.raises((ValueError, TypeError))")
class TakesNan(SqliteState):
    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return super().save(key, json.loads(json.dumps(value).replace("NaN", "null")), expected)


@fails(a_state_out_of_reach_is_an_error="out of reach, but history succeeds")
class HasNoHistoryWhereItCannotLook(SqliteState):
    def history(self, key: str, limit: int = 20) -> Any:
        with suppress(StateError):
            return super().history(key, limit)
        return []


@fails(a_state_out_of_reach_is_an_error="a failed connection is a finding, but check raises")
class ChecksByRaising(SqliteState):
    def check(self) -> list[Finding]:
        self.load(KEY)
        return super().check()


@fails(a_damaged_state_is_an_error="damaged, {, but load succeeds")
class TakesDamageForNone(SqliteState):
    def load(self, key: str) -> Any:
        try:
            return super().load(key)
        except StateError as error:
            if "is not JSON" in error.found:
                return None
            raise


@fails(a_damaged_state_is_an_error="damaged, {, but save overwrites it")
class SavesOverDamage(SqliteState):
    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        try:
            found = self.load(key)
        except StateError as error:
            if "is not JSON" not in error.found:
                raise
            return super().save(key, value, int(error.found.split()[1]))
        del found
        return super().save(key, value, expected)


@fails(earlier_values_stay_readable='assert [old.value["n"] for old in state.history(KEY)] == [4, 3, 2, 1, 0]')
class OldestFirst(SqliteState):
    def history(self, key: str, limit: int = 20) -> Any:
        return super().history(key, limit)[::-1]


@fails(
    a_lock_has_one_holder="pytest.raises(Busy)",
    also=(
        "an_expired_lease_is_taken_over",
        "the_end_of_a_lost_lease_frees_nothing",
        "renewal_keeps_the_lease",
        "OUT_12_a_release_that_failed_does_not_lock_the_process_out",
    ),
)
class LocksNothing(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key + ulid(), ttl) as lease:
            yield lease


@fails(a_lock_has_one_holder="assert caught.value.category is Category.TRANSIENT")
class BusyForGood(SqliteState):
    """Nobody tries again."""

    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        try:
            with super().lock(key, ttl) as lease:
                yield lease
        except Busy as error:
            error.category = Category.UNKNOWN
            raise


@fails(an_expired_lease_is_taken_over="pytest.raises(Conflict)")
class RenewsInSilence(SqliteState):
    """That the lease is lost."""

    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            through = Through(lease)
            through.renew = lambda: self.quiet(lease)  # type: ignore[attr-defined]
            yield through

    def quiet(self, lease: Any) -> None:
        with suppress(Conflict):
            lease.renew()


@fails(the_end_of_a_lost_lease_frees_nothing="pytest.raises(Busy)")
class FreesWhoeverHolds(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            yield lease
        with suppress(StateError), self._writing("free the lock", key) as tables:
            tables.locks.delete({"key": key})


@fails(renewal_keeps_the_lease="the lease was renewed, but another runner took it")
class RenewsForATenth(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            through = Through(lease)
            through.renew = evolve(lease, ttl=lease.ttl / 10).renew  # type: ignore[attr-defined]
            yield through


@fails(a_lease_is_renewed_beside_other_calls="two threads used one object")
class HasOneConnection(SqliteState):
    """A driver that no two threads may use at once."""

    used = False

    @contextmanager
    def _connected(self, failed: str) -> Iterator[Any]:
        if self.used:
            raise StateError(failed, "the connection is in use", "wait")
        self.used = True
        try:
            with super()._connected(failed) as db:
                time.sleep(0.001)
                yield db
        finally:
            self.used = False


@fails(a_dead_holder_is_taken_over="the lock should be free")
class NobodyIsEverGone(SqliteState):
    def _take(self, lease: Any) -> None:
        with mock.patch.object(Process, "gone", return_value=False):
            super()._take(lease)


@fails(OUT_12_a_release_that_failed_does_not_lock_the_process_out="the lock should be free")
class DoesNotKnowItsOwnLease(SqliteState):
    def _take(self, lease: Any) -> None:
        with mock.patch("dpone.sql.state.abandoned", lambda holder, owner: holder.gone()):
            super()._take(lease)


@fails(
    a_lock_has_one_holder="pytest.raises(Busy)",
    OUT_12_a_release_that_failed_does_not_lock_the_process_out="pytest.raises(Busy)",
    also=("an_expired_lease_is_taken_over", "the_end_of_a_lost_lease_frees_nothing", "renewal_keeps_the_lease"),
)
class TakesEveryLeaseOfItsProcess(SqliteState):
    def _take(self, lease: Any) -> None:
        with mock.patch("dpone.sql.state.abandoned", return_value=True):
            super()._take(lease)


class _OfAnybody(Through):
    """``method`` does not ask whose the partition is."""

    def __init__(self, inner: Any, method: str) -> None:
        super().__init__(inner)
        setattr(
            self, method, lambda key, id, owner, *more: getattr(inner, method)(key, id, self._owner(key, id), *more)
        )

    def _owner(self, key: str, id: str) -> Any:
        return self._inner.load(key).partition(id).owner


@fails(a_partition_has_one_runner="pytest.raises(Conflict)")
class AnybodyFinishes(SqliteState):
    def partitions(self) -> Any:
        return _OfAnybody(SqliteState.partitions(self), "finish")


@fails(a_lost_partition_is_taken_over="pytest.raises(Conflict)")
class AnybodyRenews(SqliteState):
    def partitions(self) -> Any:
        return _OfAnybody(SqliteState.partitions(self), "renew")


class _Forgetful(Through):
    def forget(self, key: str) -> None:
        """Not yet."""


@fails(a_manifest_is_kept_whole="assert theirs.load(KEY) is None")
class ForgetsNothing(SqliteState):
    def partitions(self) -> Any:
        return _Forgetful(SqliteState.partitions(self))


class _FaultyLog(Through):
    """The run log of a state, where a fault has replaced a method."""

    def __init__(self, inner: Any, **methods: Callable[..., Any]) -> None:
        super().__init__(inner)
        for name, method in methods.items():
            setattr(self, name, partial(method, inner))


def _write_over(log: Any, record: Any, report: Any = None) -> None:
    with log._writing(record) as table:
        text = None if report is None else json.dumps(report)
        table.update({"record": json.dumps(record.to_json()), "report": text}, {"run_id": record.run_id})


def _begin_over(log: Any, record: Any) -> None:
    try:
        log.begin(record)
    except Conflict:
        _write_over(log, record)


@fails(a_run_is_recorded_once="pytest.raises(Conflict)")
class BeginsARunTwice(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), begin=_begin_over)


@fails(a_run_is_recorded_once="theirs.report(ended)")
class LosesTheReport(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), replace=lambda log, record, report=None: log.replace(record))


def _look_then_write(log: Any, record: Any, report: Any = None) -> None:
    kept = [one for one in log.records(record.pipeline) if one.run_id == record.run_id]
    if [one.status for one in kept] != ["running"]:
        raise Conflict("write the run log", "the run has ended", "no action is needed")
    time.sleep(0.3)
    _write_over(log, record, report)


@fails(of_many_ends_one_wins="one end must succeed")
class LooksBeforeItEndsARun(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), replace=_look_then_write)


@fails(runs_come_newest_first="assert [*log.records()] == newest", also=("old_runs_are_removed",))
class OldestRunFirst(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), records=lambda log, *of, **since: reversed([*log.records(*of, **since)]))


@fails(runs_come_newest_first="records[3].started_at")
class ListsRunsOfAllTimes(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), records=lambda log, pipeline=None, since=None: log.records(pipeline))


@fails(old_runs_are_removed="those that are too many go")
class KeepsAnyNumberOfRuns(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), prune=lambda log, pipeline, before, keep: log.prune(pipeline, before, 99))


@fails(old_runs_are_removed="another pipeline keeps its runs")
class RemovesRunsOfAll(SqliteState):
    def run_log(self) -> Any:
        return _FaultyLog(super().run_log(), prune=_prune_all)


def _prune_all(log: Any, pipeline: str, before: datetime, keep: int) -> None:
    for one in {record.pipeline for record in log.records()}:
        log.prune(one, before, keep)
