"""Change readers with one fault each, over the file change log. See ``faulty``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve
from tests.testing.faulty import Mapped, column, fails, honest

from dpone.connectors.file.changelog import FileChangeLog
from dpone.contract import Finding
from dpone.errors import ConfigError, Gap, IdentityChanged, SourceError
from dpone.model import changes
from dpone.model.ids import ulid
from dpone.testing.rows import Rows


class MappedLog(FileChangeLog):
    """``change`` is done to every batch."""

    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @contextmanager
    def read(self, table: str) -> Iterator[Any]:
        with super().read(table) as stream:
            yield Mapped(stream, lambda batch: iter([self.change(batch)]))


@fails(
    changes_come_in_commit_order='assert [(r["op"], r["id"], r["name"], r["key"]) for r in found] == [',
    also=(
        "a_limit_cuts_between_transactions",
        "the_same_values_again_are_other_events",
        "many_tables_share_one_order",
        "a_changed_key_names_the_row_that_was",
        "a_truncate_is_a_change",
        "a_value_left_out_is_marked",
        "a_column_that_comes_is_united",
        "a_change_read_that_is_given_up_is_begun_again",
        "tables_are_read_at_once",
        "create_again_loses_no_change",
    ),
)
class NewestFirst(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.take(pa.array(range(batch.num_rows - 1, -1, -1)))


@fails(changes_come_in_commit_order="assert window.changes in (None, 4)")
class CountsOneTooMany(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        window = super().window(after, limit)
        return evolve(window, changes=window.changes + 1)


@fails(a_change_window_read_again_is_the_same="assert _rows(reader, window) == first")
class NamesEventsAnew(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return column(batch, changes.EVENT_ID, lambda c: pa.array([ulid() for _ in c]))


@fails(the_same_values_again_are_other_events='assert len({r["event_id"] for r in found}) == 4')
class NamesEventsByTheirValues(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = [str(row) for row in batch.select([changes.OPERATION, "id", "name"]).to_pylist()]
        return column(batch, changes.EVENT_ID, lambda c: pa.array(names))


@fails(
    resume_is_strictly_after='assert [r["id"] for r in _rows(reader, second)] == [2]',
    also=(
        "a_limit_cuts_between_transactions",
        "a_column_that_comes_is_united",
        "a_gap_stops",
        "another_log_is_not_resumed",
        "a_change_read_that_is_given_up_is_begun_again",
        "what_is_acknowledged_stays_so",
        "a_status_is_that_of_a_position",
    ),
)
class BeginsAgain(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return super().window(None, limit)


@fails(create_again_loses_no_change="create of an existing stream moved its beginning")
class BeginsElsewhere(FileChangeLog):
    """What is there is made again, at the end of the log."""

    def create(self) -> Any:
        return super().window(None, None).position


@fails(create_again_loses_no_change="the window has changes of no table, not of orders")
class ReadsAwayByLooking(FileChangeLog):
    """What ``lag`` has seen is not read."""

    seen: Any = None

    def lag(self) -> Any:
        self.seen = super().window(None, None).position
        return super().lag()

    def window(self, after: Any, limit: Any) -> Any:
        return super().window(after or self.seen, limit)


@fails(a_limit_cuts_between_transactions="assert len(found) == 3")
class KnowsNoLimit(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return super().window(after, None)


@fails(a_limit_cuts_between_transactions="assert n == 2 or not window.caught_up")
class SaysThatItHasCaughtUp(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return evolve(super().window(after, limit), caught_up=True)


@fails(a_limit_cuts_between_transactions="assert window.caught_up", also=("resume_is_strictly_after",))
class NeverCatchesUp(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return evolve(super().window(after, limit), caught_up=False)


@fails(resume_is_strictly_after="the window has changes of no table, not of orders")
class AcknowledgesAll(FileChangeLog):
    """Lets go of everything there is by then, not of what was read."""

    gone: Any = None

    def ack(self, position: Any) -> None:
        self.gone = super().window(position, None).position

    def window(self, after: Any, limit: Any) -> Any:
        return super().window(self.gone or after, limit)


@fails(
    resume_is_strictly_after="assert (second.commits[0], nothing.commits[0]) == (first.commits[1], second.commits[1])"
)
class ForgetsWhereItEnded(FileChangeLog):
    """A window without changes says that it begins nowhere."""

    def window(self, after: Any, limit: Any) -> Any:
        window = super().window(after, limit)
        return window if window.tables else evolve(window, commits=("", window.commits[1]))


@fails(a_plan_runs_nothing="created something")
class RunsItsPlan(FileChangeLog):
    """What it plans is there afterwards, where it can be made."""

    def setup_plan(self) -> list[str]:
        with suppress(OSError), self._log.path.open("a") as log:
            log.write(
                '{"table": "kept", "op": "insert", "values": {}, "commit": "0"}\n{"op": "commit", "commit": "0"}\n'
            )
        return super().setup_plan()


@fails(
    a_plan_runs_nothing="setup_plan returns different statements for the same stream",
    also=("it_is_made_without_a_connection",),
)
class PlansAnew(FileChangeLog):
    """Names what is to be made by a new word each time."""

    def setup_plan(self) -> list[str]:
        return [f"CREATE SLOT {ulid()}"]


@fails(what_is_gone_is_dropped_again="dropping what no longer exists is not an error")
class DropsOnce(FileChangeLog):
    dropped = False

    def drop(self) -> None:
        if self.dropped:
            raise SourceError("drop the slot", "there is none", "create it")
        self.dropped = True


@fails(what_is_gone_is_dropped_again="the window has changes of no table, not of orders")
class StaysDropped(FileChangeLog):
    """What was dropped once is not made again: its stream begins where a log ends."""

    def drop(self) -> None:
        self._log.path.with_suffix(".dropped").touch()

    def window(self, after: Any, limit: Any) -> Any:
        window = super().window(after, limit)
        gone = self._log.path.with_suffix(".dropped").exists()
        return super().window(window.position, limit) if gone else window


@fails(what_is_acknowledged_stays_so="acknowledging an earlier position again is allowed")
class AcknowledgesForward(FileChangeLog):
    """A position that was passed is refused."""

    highest = ""

    def ack(self, position: Any) -> None:
        if position.value["commit"] < self.highest:
            raise SourceError("acknowledge", "the source is beyond it", "acknowledge a later one")
        self.highest = position.value["commit"]


@fails(a_change_read_that_is_given_up_is_begun_again='assert [r["id"] for r in found] == [0, 1, 2, 3, 4]')
class ForgetsWhatWasGivenUp(FileChangeLog):
    """What one has begun to read is gone for the next."""

    given_up = False

    @contextmanager
    def read(self, table: str) -> Iterator[Any]:
        with super().read(table) as stream:
            again, self.given_up = self.given_up, False
            try:
                yield Mapped(stream, lambda batch: iter([batch.slice(1) if again else batch]))
            except BaseException:
                self.given_up = True
                raise


@fails(tables_are_read_at_once="a second table cannot be read while another one is read")
class OneTableAtATime(FileChangeLog):
    reading = False

    @contextmanager
    def read(self, table: str) -> Iterator[Any]:
        if self.reading:
            raise SourceError("read", "another table is being read", "wait")
        self.reading = True
        try:
            with super().read(table) as stream:
                yield stream
        finally:
            self.reading = False


@fails(many_tables_share_one_order='assert orders[0]["ordinal"] < lines[0]["ordinal"] < orders[1]["ordinal"]')
class CountsPerTable(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return column(batch, changes.ORDINAL, lambda c: pa.array(range(1, len(c) + 1), pa.int64()))


@fails(a_changed_key_names_the_row_that_was='assert found in ([("update", 1, 2)]')
class NamesTheRowThatIs(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = zip(batch.column(changes.KEY).to_pylist(), batch.column("id").to_pylist(), strict=True)
        keys = [key and {"id": key["id"] if now is None else now} for key, now in rows]
        return column(batch, changes.KEY, lambda c: pa.array(keys, c.type))


@fails(a_truncate_is_a_change='assert [(r["op"], r["id"], r["key"]) for r in found] == [')
class LeavesOutTruncates(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.not_equal(batch.column(changes.OPERATION), changes.TRUNCATE))


class MarksNothing(MappedLog):
    """What the log left out of ``column`` becomes NULL."""

    column = ""

    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.column not in batch.schema.names:
            return batch
        return column(batch, changes.UNCHANGED, lambda c: pa.nulls(len(c), c.type))


@fails(a_value_left_out_is_marked='assert (row["unchanged"]["note"], row["unchanged"]["name"]) == (True, False)')
class NullsWhatAnUpdateLeftOut(MarksNothing):
    column = "note"


@fails(a_column_that_comes_is_united='assert rows[0]["unchanged"]["extra"] is True')
class NullsANewColumn(MarksNothing):
    column = "extra"


@fails(a_gap_stops="pytest.raises(Gap)")
class GoesOnBehindAGap(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        try:
            return super().window(after, limit)
        except Gap:
            return super().window(None, limit)


@fails(another_log_is_not_resumed="pytest.raises(IdentityChanged)")
class GoesOnInAnotherLog(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        try:
            return super().window(after, limit)
        except IdentityChanged:
            return super().window(None, limit)


@honest
class BeginsNow(FileChangeLog):
    """Its stream begins where the log ends."""

    def create(self) -> Any:
        return super().window(None, None).position


@fails(the_stream_begins_where_it_was_created='assert [r["id"] for r in _rows(reader, window)] == [2]')
class BeginsAtTheBeginning(BeginsNow):
    def create(self) -> Any:
        return FileChangeLog.create(self)


@honest
class Rereads(FileChangeLog):
    """The rows of a table are what all its changes come to."""

    again: tuple[str, ...] = ()

    def resync(self, position: Any, tables: Any) -> Any:
        if unknown := [name for name in tables if name not in ("orders", "lines")]:
            raise ConfigError("resync", f"no table {unknown[0]}", "name another")
        self.again = tuple(tables)
        return position

    def window(self, after: Any, limit: Any) -> Any:
        rows = {table: self.rows(table) for table in self.again}
        window, self.fresh = super().window(after, limit), rows
        self.again = ()
        return evolve(window, fresh=frozenset(self.fresh))

    def rows(self, table: str) -> list[Any]:
        super().window(None, None)
        found: dict[Any, Any] = {}
        with super().read(table) as stream:
            for row in pa.Table.from_batches(stream.batches(), stream.schema).to_pylist():
                if row[changes.KEY]:
                    before = found.pop(row[changes.KEY]["id"])
                    left_out = [name for name, left in (row[changes.UNCHANGED] or {}).items() if left]
                    row |= {name: before[name] for name in left_out}
                if row[changes.OPERATION] != changes.DELETE:
                    found[row["id"]] = row | {changes.OPERATION: changes.INSERT, changes.KEY: None, changes.COMMIT: "~"}
        return [row | {changes.UNCHANGED: None} for row in found.values()]

    @contextmanager
    def read(self, table: str) -> Iterator[Any]:
        with super().read(table) as stream:
            rows = self.fresh.get(table)
            yield stream if rows is None else Rows(pa.Table.from_pylist(rows, stream.schema))


@fails(a_table_is_read_again="assert window.fresh == {name}")
class GoesOnInsteadOfReadingAgain(Rereads):
    """The position is as before, and so is the window."""

    def window(self, after: Any, limit: Any) -> Any:
        self.again = ()
        return super().window(after, limit)


@fails(a_table_is_read_again='assert [r["id"] for r in _rows(reader, window, "lines")] == [8]')
class ReadsTheOthersAgainToo(Rereads):
    """From the beginning."""

    def resync(self, position: Any, tables: Any) -> Any:
        return super().resync(position, tables) and None


@fails(a_status_is_that_of_a_position="assert [f for one in before for f in one.findings if f.ok is False] == []")
class FindsFaultWithEverything(FileChangeLog):
    def status(self, position: Any) -> Any:
        return evolve(super().status(position), findings=(Finding("log", False, "it is late", "wait"),))


@fails(a_status_is_that_of_a_position="more log is after a later position")
class MeasuresWhatWasRead(FileChangeLog):
    def status(self, position: Any) -> Any:
        found = super().status(position)
        return evolve(found, bytes=self._log.size() - found.bytes)


@fails(a_status_is_that_of_a_position="as much log is after one position as after another")
class MeasuresTheWholeLog(FileChangeLog):
    def status(self, position: Any) -> Any:
        return evolve(super().status(position), bytes=self._log.size())


@fails(a_status_is_that_of_a_position='assert [r["id"] for r in _rows(reader, _all(reader, first.position))] == [2]')
class ReadsAwayByItsStatus(FileChangeLog):
    """The next window begins elsewhere."""

    looked = False

    def status(self, position: Any) -> Any:
        self.looked = True
        return super().status(position)

    def window(self, after: Any, limit: Any) -> Any:
        return super().window(None if self.looked else after, limit)


@fails(a_status_is_that_of_a_position="a position of another log is fine")
class TakesAnyPosition(FileChangeLog):
    def status(self, position: Any) -> Any:
        return super().status(position and evolve(position, identity={"path": self._label}))


@fails(a_status_is_that_of_a_position="what follows the position is gone, and the status is fine")
class SeesNoGap(FileChangeLog):
    def status(self, position: Any) -> Any:
        found = super().status(position)
        gap = self._log.size() < 2
        return evolve(found, findings=()) if gap else found
