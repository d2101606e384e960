"""Connectors with one fault each, and the cases of the kit that must find it. Each is a built-in connector that lies,
forgets or doubles in one way; the kit would be worth nothing if it let one of them pass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve

from dpone.connectors.file.sink import FileSink
from dpone.connectors.file.source import FileSource
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.connectors.sqlite.source import SqliteSource
from dpone.connectors.sqlite.state import Process, SqliteState
from dpone.contract import Finding, Part, Window
from dpone.errors import ContentChanged, SinkError, SourceError, Stopped
from dpone.ids import ulid
from dpone.testing.loads import at

# connector class -> the cases it must fail
FAULTS: dict[type, tuple[str, ...]] = {}
_C = TypeVar("_C", bound=type)


def fails(*cases: str) -> Callable[[_C], _C]:
    def mark(cls: _C) -> _C:
        FAULTS[cls] = tuple(f"test_{case}" for case in cases)
        return cls

    return mark


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


@fails("every_row_comes_once")
class LosesTheLastRow(MappedSource):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.slice(0, batch.num_rows - 1)


@fails("a_stream_has_what_a_writer_asks_for")
class PutsRowsAsideUnseen(SqliteSource):
    """Its stream does not say what it put aside."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            yield SimpleNamespace(**{n: getattr(stream, n) for n in ("schema", "native", "filtered", "batches")})


@fails("schema_is_that_of_the_window")
class AnotherSchema(SqliteSource):
    def schema(self) -> pa.Schema:
        return pa.schema([field.with_type(pa.string()) for field in super().schema()])


@fails("values_come_as_they_are")
class EmptyIsNull(MappedSource):
    """'' and NULL are one, as in a CSV read carelessly."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == pa.string():
                batch = column(batch, field.name, lambda c: pc.if_else(pc.equal(c, ""), None, c))
        yield batch


@fails("names_are_quoted")
class LowersNames(MappedSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, schema=pa.schema([f.with_name(f.name.lower()) for f in window.schema]))

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.rename_columns([name.lower() for name in batch.schema.names])


@fails("a_column_that_data_leaves_out_is_null")
class SaysNothingOfTheGap(FileSource):
    """NULL in rows that lack a column, and no word of it."""

    def window(self, *args: Any) -> Window:
        return evolve(super().window(*args), absent={})


@fails("a_column_that_data_leaves_out_is_null")
class ForgetsWhatItHad(FileSource):
    """Read alone, rows that lack a column have no such column."""

    def window(self, after: Any, request: Any) -> Window:
        return super().window(after, evolve(request, expected=None))


@fails("the_window_is_bounded", "a_source_that_moved_is_never_mixed", "parts_are_of_one_moment")
class ReadsWhatIsThereNow(SqliteSource):
    """The bound is looked for when the read begins, not before."""

    def window(self, *args: Any) -> Window:
        self.asked = args
        window = super().window(*args)
        self.end()
        return window

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        SqliteSource.window(self, *self.asked)
        with super().read(part) as stream:
            yield stream


@fails("an_empty_source_is_a_window_without_rows")
class NeedsARow(SqliteSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        if not self.rows(f"SELECT 1 FROM {self.relation} LIMIT 1"):
            return evolve(window, schema=pa.schema([]))
        return window


@fails("what_is_not_there_is_one_clear_line")
class ChecksNothing(SqliteSource):
    def check(self) -> list[Finding]:
        return [Finding("connection", True, "fine")]


@fails("another_source_is_not_resumed")
class ForgetsWhoItRead(SqliteSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(None, request)


@fails("ack_and_close_may_come_twice")
class AcksOnce(SqliteSource):
    acked = False

    def ack(self, position: Any) -> None:
        if self.acked:
            raise SourceError("acknowledge", "acknowledged already", "do it once")
        self.acked = True


@fails("a_query_is_read")
class QueriesTheFirstRow(SqliteSource):
    def __init__(self, spec: Any) -> None:
        super().__init__(evolve(spec, query=f"SELECT * FROM ({spec.query}\n) LIMIT 1") if spec.query else spec)


@fails("the_read_is_one_snapshot")
class AsksAgainAndAgain(SqliteSource):
    """Pages through the table, each page as it is by then."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            yield _Pages(stream, self)


class _Pages(Through):
    def __init__(self, inner: Any, source: SqliteSource) -> None:
        super().__init__(inner)
        self._source = source

    def batches(self) -> Iterator[pa.RecordBatch]:
        self._source.end()
        offset = 0
        while rows := self._source.rows(f"SELECT * FROM {self._source.relation} LIMIT 4 OFFSET {offset}"):
            columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), self.schema, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
            offset += len(rows)


@fails("a_window_read_again_is_the_same")
class NewPartsEveryTime(FileSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, parts=tuple(evolve(part, id=ulid()) for part in window.parts))


@fails("other_content_is_an_error")
class TakesWhateverIsThere(FileSource):
    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with mock.patch("dpone.connectors.file.source._Found.require_unchanged"), super().read(part) as stream:
            yield stream


@fails("only_what_is_new_is_read")
class ClaimsTheWhole(FileSource):
    """A window of new files that says it holds every row there is."""

    def window(self, *args: Any) -> Window:
        return evolve(super().window(*args), whole=True)


@fails("what_was_read_and_then_changed_stops")
class PassesOverOldChanges(FileSource):
    """What was read once is never looked at again."""

    def window(self, after: Any, request: Any) -> Window:
        try:
            return super().window(after, request)
        except ContentChanged:
            return evolve(super().window(None, request), position=after, parts=())


@fails("only_what_is_new_is_read")
class ReadsAllAgain(FileSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(None, request)


@fails("cursor_reads_what_is_new")
class CursorReadsAllAgain(SqliteSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(None, request)


@fails("cursor_loses_no_equal_value")
class StrictlyAbove(MappedSource):
    """WHERE cursor > last: what comes later with the same value is lost."""

    low: int | None = None

    def window(self, after: Any, request: Any) -> Window:
        self.low = int(after.value["hi"]) if after else None
        return super().window(after, request)

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch if self.low is None else batch.filter(pc.greater(batch.column("id"), self.low))


@fails("cursor_refuses_null")
class SkipsNull(SqliteSource):
    def __init__(self, spec: Any) -> None:
        incremental = evolve(spec.options.incremental, nulls="skip")
        super().__init__(evolve(spec, options=evolve(spec.options, incremental=incremental)))


@fails("cursor_stops_where_the_source_was_set_back")
class CaughtUpBelow(SqliteSource):
    """Says that nothing is new where the source was set back."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._incremental = self._incremental and evolve(self._incremental, set_back="report")


@fails("a_late_commit_is_not_lost")
class WaitsForNobody(SqliteSource):
    """Reads on while others write."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._incremental = self._incremental and evolve(self._incremental, in_flight="report")


@fails("xmin_reads_what_is_new", "change_tracking_reads_what_is_new")
class PretendsToResume(SqliteSource):
    """Takes ``by: xmin`` and reads everything every time."""

    def __init__(self, spec: Any) -> None:
        super().__init__(evolve(spec, options=evolve(spec.options, incremental=None)))


@fails("a_change_reader_serves_this_source")
class NobodyServes(SqliteSource):
    """No change reader is chosen by its type."""


@fails("parts_hold_every_row_once")
class PartsOverlap(FileSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, parts=(*window.parts, evolve(window.parts[0], id="again")))


@fails("parts_are_read_at_once")
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


@fails("left_over_parts_are_read_in_a_new_snapshot")
class PlansAllPartsAgain(SqliteSource):
    def window(self, after: Any, request: Any) -> Window:
        return super().window(after, evolve(request, parts=()))


@fails("a_native_stream_is_offered")
class EmptyNativeStream(SqliteSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        return evolve(window, schema=pa.schema([f.with_metadata({"dpone.native": "int"}) for f in window.schema]))

    @contextmanager
    def read(self, part: Part) -> Iterator[Any]:
        with super().read(part) as stream:
            through = Through(stream)
            through.native = ("copy",)  # type: ignore[attr-defined]
            through.open_native = lambda format: iter(())  # type: ignore[attr-defined]
            yield through


# ---- sinks


class FaultyWriter(Through):
    """``sink`` does to a load what its hooks say."""

    def __init__(self, inner: Any, sink: Any, load: Any) -> None:
        super().__init__(inner)
        self._sink, self._load = sink, load

    def stage(self, part: Part, stream: Any) -> Any:
        return self._inner.stage(part, Mapped(stream, self._sink.change))

    def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
        receipt = self._inner.commit(after, position)
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


@fails("full_refresh_leaves_the_rows_read", "merge_inserts_and_updates")
class AlwaysAppends(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, mode="append", key=())


@fails(
    "full_refresh_keeps_the_target_on_an_empty_read",
    "replace_keeps_the_target_on_an_empty_read",
    "snapshot_diff_keeps_the_target_on_an_empty_read",
)
class EmptiesTheTarget(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, allow_empty=True)


@fails(
    "append_adds_the_rows_read",
    "full_refresh",
    "append",
    "merge",
    "replace",
    "partition_replace",
    "snapshot_diff",
    "scd2",
)
class LosesARow(FaultySink):
    """The last row of every part of more than one never arrives."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.slice(1) if batch.num_rows > 1 else batch


@fails("merge_counts_and_leaves_equal_rows")
class CountsEverythingAsUpdated(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            receipt = self._inner.commit(after, position)
            return evolve(receipt, updated=receipt.updated + receipt.unchanged, unchanged=0)


@fails(
    "merge_refuses_null_and_duplicate_keys",
    "snapshot_diff_refuses_null_and_duplicate_keys",
    "scd2_refuses_null_and_duplicate_keys",
)
class AnyKeyWillDo(FaultySink):
    """Of the rows of one key it takes the first it meets; rows without a key it drops."""

    seen: frozenset[Any] = frozenset()

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if "id" not in batch.schema.names:
            yield batch
            return
        kept = []
        for i, key in enumerate(batch.column("id").to_pylist()):
            if key is not None and key not in self.seen:
                self.seen |= {key}
                kept.append(i)
        yield batch.take(pa.array(kept, pa.int64()))


@fails("merges_at_once_leave_every_key_once")
class LooksBeforeTheLock(FaultySink):
    """Adds what was new when it was staged."""

    def opened(self, load: Any) -> Any:
        return self.other(load, mode="append", key=()) if load.strategy.mode == "merge" else load

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        sql = f"SELECT id FROM {self.dialect.name(self._target)}"
        known = pa.array([id for (id,) in self._db.rows(sql)], pa.int64())
        yield batch.filter(pc.invert(pc.is_in(batch.column("id"), known)))


@fails("merge_keeps_the_last_of_duplicates_by_order")
class KeepsTheFirst(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, duplicates="first") if load.strategy.duplicates == "last" else load


@fails("replace_replaces_the_rows_of_its_predicate", "partition_replace_replaces_the_partitions_read")
class ReplacesEverything(FaultySink):
    def opened(self, load: Any) -> Any:
        if load.strategy.mode not in ("replace", "partition_replace"):
            return load
        return self.other(load, mode="full_refresh", where={}, partition=None)


@fails("replace_refuses_a_row_outside_its_predicate")
class DropsWhatIsOutside(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for name, value in self.load.strategy.where.items():
            batch = batch.filter(pc.equal(batch.column(name), value))
        yield batch


@fails("partition_replace_empties_the_window")
class IgnoresTheWindow(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, where={})


@fails("snapshot_diff_makes_the_target_equal")
class NeverDeletes(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, mode="merge", max_delete_share=0.2)


@fails("snapshot_diff_refuses_to_delete_by_mistake")
class DeletesRegardless(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(self.other(load, max_delete_share=1.0), whole=True)


@fails("scd2_keeps_every_version")
class ForgetsHistory(FaultySink):
    def committed(self) -> None:
        if self.load.strategy.mode == "scd2":
            self.execute("DELETE FROM {target} WHERE __dpone__valid_to IS NOT NULL")


@fails("scd2_closes_a_version_when_the_next_begins")
class NeverCloses(FaultySink):
    def committed(self) -> None:
        if self.load.strategy.mode == "scd2":
            self.execute("UPDATE {target} SET __dpone__valid_to = NULL")


@fails("cdc_apply_of_a_whole_window_replaces")
class TakesAWholeForAPart(FaultySink):
    """Rows that the window does not bring stay."""

    def opened(self, load: Any) -> Any:
        return evolve(load, whole=False)


@fails("cdc_apply_applies_changes_in_commit_order", "cdc_apply_truncates", "cdc_apply")
class AppendsChanges(FaultySink):
    """Every change is a row of the target."""

    def opened(self, load: Any) -> Any:
        return evolve(self.other(load, mode="append", key=()), changes=False)

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.select([name for name in batch.schema.names if not name.startswith("__dpone__")])


@fails("rows_that_refer_to_the_target_stay")
class DeletesThoseThatRefer(SqliteSink):
    """Finds nothing to refuse."""

    def refuse(self, *args: Any, **given: Any) -> None:
        pass


@fails("rows_that_refer_to_the_target_stay")
class RefusesLate(SqliteSink):
    """``open`` refuses; nobody was told before."""

    def refuse(self, *args: Any, **given: Any) -> None:
        if hasattr(self, "late"):
            super().refuse(*args, **given)

    def open(self, load: Any) -> Any:
        self.late = True
        return super().open(load)


@fails("values_arrive_as_they_are_or_not_at_all")
class TrimsTexts(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == pa.string():
                batch = column(batch, field.name, pc.utf8_trim_whitespace)
        yield batch


@fails("names_are_kept_or_refused")
class MendsNames(FaultySink):
    def committed(self) -> None:
        if "group by" in self.load.schema.names:
            self.execute('ALTER TABLE {target} RENAME COLUMN "group by" TO group_by')


@fails("a_target_that_somebody_emptied_is_noticed")
class NeverMisses(SqliteSink):
    """An empty target is as good as a full one."""

    def lost(self, *args: Any) -> str:
        return ""


@fails("merge_keeps_the_row_of_the_last_file")
class TakesPartsForFiles(FaultySink):
    """The file of a row is the part that was staged last."""

    class writer(FaultyWriter):
        staging = 0

        def stage(self, part: Part, stream: Any) -> Any:
            self.staging += 1
            return super().stage(evolve(part, detail={**part.detail, "order": self.staging}), stream)


@fails("a_target_that_somebody_emptied_is_noticed")
class MissesAllTheTime(SqliteSink):
    def lost(self, *args: Any) -> str:
        return "it is empty"


@fails("the_journal_has_an_entry_per_commit")
class ForgetsThePosition(FaultySink):
    def journal(self, key: str) -> Any:
        head = super().journal(key)
        return head and evolve(head, position=at(0))


@fails("a_commit_after_another_head_writes_nothing", "of_two_runners_one_commits")
class NoFence(FaultySink):
    """Staging of its own that nobody sweeps, and a commit after whatever head there is."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            self._inner._load = evolve(self._load, key=self._sink.key)
            return self._inner.commit(self._sink.journal(self._sink.key), position)

    def opened(self, load: Any) -> Any:
        self.key = load.key
        return evolve(load, key=f"{load.key}{ulid()}")


@fails("a_load_whose_staging_was_swept_commits_no_part_of_it")
class CommitsWhatIsLeft(FaultySink):
    """A staging that is gone is one without rows."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            try:
                return self._inner.commit(after, position)
            except (SinkError, Stopped):
                return SqliteSink.open(self._sink, self._load).commit(after, position)


@fails("streams_that_commit_at_once_lose_nothing")
class WritesOverTheOther(FaultySink):
    """The journal is written as this stream knows it: the entry that another one made meanwhile is gone."""

    def committed(self) -> None:
        self._db.execute("DELETE FROM __dpone__loads WHERE load_id <> ?", (self.load.load_id,))


@fails("of_a_load_and_a_rewind_at_once_one_commits")
class ComparesBeforeTheLock(FaultySink):
    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            if self._sink.journal(self._load.key) != after:
                raise SinkError("commit", "another head", "run again")
            time.sleep(0.5)  # long enough for the other to have compared too, on a busy machine as well
            return self._inner.commit(self._sink.journal(self._load.key), position)


@fails("an_aborted_load_leaves_no_trace")
class AbortCommits(FaultySink):
    class writer(FaultyWriter):
        def abort(self) -> None:
            if self._inner._stage:
                self._inner.commit(self._sink.journal(self._load.key), at(1))


@fails("a_failed_load_takes_back_what_it_added")
class LeavesWhatItMade(FaultySink):
    """The table and the columns of a load that failed stay."""

    def take_back(self, key: str, run_id: str = "") -> Any:
        return ()


@fails("a_failed_load_takes_back_what_it_added")
class ForgetsTheCommit(FaultySink):
    """What a commit has made the target's is taken back as well."""

    class writer(FaultyWriter):
        def commit(self, after: Any, position: Any, also: Any = ()) -> Any:
            with mock.patch("dpone.sql.writer.Added.confirm"):
                return super().commit(after, position, also)

    def take_back(self, key: str, run_id: str = "") -> Any:
        with mock.patch("dpone.sql.added.Added._has_values", return_value=False):
            return super().take_back(key, run_id)


@fails("a_failed_load_takes_back_what_it_added")
class TakesFromAnyRun(FaultySink):
    """Also from one that goes on elsewhere."""

    def take_back(self, key: str, run_id: str = "") -> Any:
        return super().take_back(key)


@fails("what_others_use_is_not_taken_back")
class CountsOnNobody(FaultySink):
    """It takes back what the load of another stream is about to fill, values included."""

    def take_back(self, key: str, run_id: str = "") -> Any:
        self._db.execute("DELETE FROM __dpone__added WHERE key <> ?", (key,))
        return super().take_back(key, run_id)


@fails("what_others_use_is_not_taken_back")
class DropsValues(FaultySink):
    """It drops what its load has added, whatever it holds by now."""

    def provide(self, load: Any, ddl: Any) -> None:
        before = self.schema()
        super().provide(load, ddl)
        if before is not None and (new := {*self.schema().names} - {*before.names}):
            self._db.execute("CREATE TABLE mine AS SELECT ? AS name", (new.pop(),))

    def take_back(self, key: str, run_id: str = "") -> Any:
        found = super().take_back(key, run_id)
        if self._db.rows("SELECT name FROM sqlite_master WHERE name = 'mine'"):
            for (name,) in self._db.rows("SELECT name FROM mine"):
                self.execute(f"ALTER TABLE {{target}} DROP COLUMN {name}")
        return found


@fails("columns_are_replaced_by_the_commit_alone")
class ReplacesBeforeTheCommit(FaultySink):
    def opened(self, load: Any) -> Any:
        if load.anew:
            self.execute("DELETE FROM {target}")
        return load


@fails("a_rewind_is_journalled_alone")
class RewindEmpties(FaultySink):
    def committed(self) -> None:
        if self.load.schema is None:
            self.execute("DELETE FROM {target}")


@fails("a_lost_answer_is_no_second_load", "a_killed_run_is_finished_by_the_next")
class JournalIsLate(FaultySink):
    """Before the second entry it has not seen the first."""

    def journal(self, key: str) -> Any:
        head = super().journal(key)
        return head if head and head.seq > 1 else None


@fails("every_row_names_its_load")
class DatesRowsByItsOwnClock(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(load, started_at=datetime.now(UTC))


@fails("a_new_column_is_added")
class IgnoresNewColumns(FaultySink):
    def ddl(self, changes: Any) -> list[str]:
        return super().ddl([change for change in changes if change.kind != "add"])

    def opened(self, load: Any) -> Any:
        have = self.schema()
        return (
            load if have is None else evolve(load, schema=pa.schema([f for f in load.schema if f.name in have.names]))
        )

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch.select(self.load.schema.names)


@fails("a_wider_type_fits_afterwards")
class Narrows(FaultySink):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == pa.int64():
                batch = column(batch, field.name, lambda c: c.cast(pa.int32(), safe=False).cast(pa.int64()))
        yield batch


@fails("a_widening_rounds_nothing")
class DoesNotLook(FaultySink):
    def ddl(self, changes: Any) -> list[str]:
        return super().ddl([evolve(change, before=None) if change.looks else change for change in changes])


@fails("what_is_not_allowed_changes_nothing")
class SeesNoTarget(FaultySink):
    def schema(self) -> Any:
        return None


@fails("evolution_comes_to_rest")
class ReadsBackTexts(FaultySink):
    def schema(self) -> Any:
        have = super().schema()
        return have and pa.schema([f.with_type(pa.string()) for f in have])


@fails("staged_parts_survive")
class BeginsAnew(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(load, repeatable=False)


@fails("staged_parts_survive")
class ForgetsTheChecks(FaultySink):
    """The mark of a part has its rows, not what a row contract found in them."""

    class writer(FaultyWriter):
        def stage(self, part: Part, stream: Any) -> Any:
            return evolve(super().stage(part, stream), quarantined=0, checks="")


@fails("staging_of_another_load_is_swept")
class TakesUpAnything(FaultySink):
    def opened(self, load: Any) -> Any:
        return evolve(load, repeatable=True, token="any")


@fails("parts_are_staged_at_once")
class StagesOneAtATime(FileSink):
    def open(self, load: Any) -> Any:
        return _OneAtATime(super().open(load))


class _OneAtATime(Through):
    staging = False

    def stage(self, part: Part, stream: Any) -> Any:
        if self.staging:
            raise SourceError("stage", "another part is being staged", "wait")
        self.staging = True
        return self._inner.stage(part, stream)


@fails("a_native_stream_is_taken")
class AsksForBatches(SqliteSink):
    """Takes no native stream, whatever it declares."""


@fails("rows_of_many_tables_are_one_commit")
class CommitsOneTable(FaultySink):
    def beside(self, spec: Any) -> Any:
        return FaultySink(spec)


@fails("a_load_is_taken_back", "only_the_newest_load_is_taken_back")
class SaysItTookBack(FaultySink):
    """Journals that a load was undone, whichever; the rows stay."""

    def undo(self, load: Any, load_id: str, after: Any, position: Any) -> Any:
        return SqliteSink.open(self, load).commit(after, position)


# ---- states


@fails("a_value_is_saved_and_counted")
class FoldsKeys(SqliteState):
    def load(self, key: str) -> Any:
        return super().load(key.lower())

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return super().save(key.lower(), value, expected)


@fails("a_save_over_another_version_is_refused", "of_many_savers_one_wins")
class TheLastWins(SqliteState):
    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        while True:
            found = self.load(key)
            try:
                return super().save(key, value, found.version if found else 0)
            except Stopped:
                continue


@fails("a_deleted_value_counts_on")
class DeletesAnyVersion(SqliteState):
    def delete(self, key: str, expected: int) -> None:
        found = self.load(key)
        super().delete(key, found.version if found else 0)


@fails("a_value_that_is_no_json_is_refused")
class TakesNan(SqliteState):
    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        return super().save(key, json.loads(json.dumps(value).replace("NaN", "null")), expected)


@fails("earlier_values_stay_readable")
class OldestFirst(SqliteState):
    def history(self, key: str, limit: int = 20) -> Any:
        return super().history(key, limit)[::-1]


@fails("a_lock_has_one_holder")
class LocksNothing(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key + ulid(), ttl) as lease:
            yield lease


@fails("an_expired_lease_is_taken_over")
class LeasesNeverEnd(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl * 1000) as lease:
            yield lease


@fails("the_end_of_a_lost_lease_frees_nothing")
class FreesWhoeverHolds(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            yield lease
        with self._writing("free the lock") as db:
            db.execute('DELETE FROM "__dpone__locks" WHERE key = ?', (key,))


@fails("renewal_keeps_the_lease")
class RenewsNothing(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            through = Through(lease)
            through.renew = lambda: None  # type: ignore[attr-defined]
            yield through


@fails("a_dead_holder_is_taken_over")
class NobodyIsEverGone(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with mock.patch.object(Process, "gone", return_value=False), super().lock(key, ttl) as lease:
            yield lease


@fails("OUT_12_a_release_that_failed_does_not_lock_the_process_out")
class DoesNotKnowItsOwnLease(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        only_gone = mock.patch("dpone.connectors.sqlite.state.abandoned", lambda holder, owner: holder.gone())
        with only_gone, super().lock(key, ttl) as lease:
            yield lease


@fails("a_lock_has_one_holder", "OUT_12_a_release_that_failed_does_not_lock_the_process_out")
class TakesEveryLeaseOfItsProcess(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        any_of_ours = mock.patch("dpone.connectors.sqlite.state.abandoned", return_value=True)
        with any_of_ours, super().lock(key, ttl) as lease:
            yield lease


class _FaultyStore(Through):
    """Partition manifests that anybody may work on."""

    def claim(self, key: str, id: str, owner: str, ttl: float) -> Any:
        return self._inner.claim(key, id, "everybody", ttl) if self._free(key, id) else self._inner.load(key)

    def _free(self, key: str, id: str) -> bool:
        return bool(self._inner.load(key).partition(id).status == "pending")

    def finish(self, key: str, id: str, owner: str, staged: Any) -> None:
        self._inner.finish(key, id, "everybody", staged)


@fails("a_partition_has_one_runner", "a_lost_partition_is_taken_over")
class EverybodyWorksOnIt(SqliteState):
    def partitions(self) -> Any:
        return _FaultyStore(SqliteState.partitions(self))


class _Forgetful(Through):
    def forget(self, key: str) -> None:
        """Not yet."""


@fails("a_manifest_is_kept_whole")
class ForgetsNothing(SqliteState):
    def partitions(self) -> Any:
        return _Forgetful(SqliteState.partitions(self))
