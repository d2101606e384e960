"""Change readers with one fault each, over the file change log. See ``faulty``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve
from tests.testing.faulty import Mapped, column, fails

from dpone import changes
from dpone.connectors.file.changelog import FileChangeLog
from dpone.errors import ConfigError, Gap, IdentityChanged
from dpone.ids import ulid


class MappedLog(FileChangeLog):
    """``change`` is done to every batch."""

    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @contextmanager
    def read(self, table: str) -> Iterator[Any]:
        with super().read(table) as stream:
            yield Mapped(stream, lambda batch: iter([self.change(batch)]))


@fails("changes_come_in_commit_order")
class NewestFirst(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.take(pa.array(range(batch.num_rows - 1, -1, -1)))


@fails("a_change_window_read_again_is_the_same")
class NamesEventsAnew(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return column(batch, changes.EVENT_ID, lambda c: pa.array([ulid() for _ in c]))


@fails("the_same_values_again_are_other_events")
class NamesEventsByTheirValues(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = [str(row) for row in batch.select([changes.OPERATION, "id", "name"]).to_pylist()]
        return column(batch, changes.EVENT_ID, lambda c: pa.array(names))


@fails("resume_is_strictly_after")
class BeginsAgain(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return super().window(None, limit)


@fails("a_limit_cuts_between_transactions")
class KnowsNoLimit(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return super().window(after, None)


@fails("a_limit_cuts_between_transactions")
class SaysThatItHasCaughtUp(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return evolve(super().window(after, limit), caught_up=True)


@fails("a_limit_cuts_between_transactions")
class NeverCatchesUp(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        return evolve(super().window(after, limit), caught_up=False)


@fails("resume_is_strictly_after")
class AcknowledgesAll(FileChangeLog):
    """Lets go of everything there is by then, not of what was read."""

    gone: Any = None

    def ack(self, position: Any) -> None:
        self.gone = super().window(position, None).position

    def window(self, after: Any, limit: Any) -> Any:
        return super().window(self.gone or after, limit)


@fails("resume_is_strictly_after")
class ForgetsWhereItEnded(FileChangeLog):
    """A window without changes says that it begins nowhere."""

    def window(self, after: Any, limit: Any) -> Any:
        window = super().window(after, limit)
        return window if window.tables else evolve(window, commits=("", window.commits[1]))


@fails("many_tables_share_one_order")
class CountsPerTable(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return column(batch, changes.ORDINAL, lambda c: pa.array(range(1, len(c) + 1), pa.int64()))


@fails("a_changed_key_names_the_row_that_was")
class NamesTheRowThatIs(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = zip(batch.column(changes.KEY).to_pylist(), batch.column("id").to_pylist(), strict=True)
        keys = [key and {"id": key["id"] if now is None else now} for key, now in rows]
        return column(batch, changes.KEY, lambda c: pa.array(keys, c.type))


@fails("a_truncate_is_a_change")
class LeavesOutTruncates(MappedLog):
    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.not_equal(batch.column(changes.OPERATION), changes.TRUNCATE))


@fails("a_value_left_out_is_marked", "a_column_that_comes_is_united")
class MarksNothing(MappedLog):
    """What the log left out becomes NULL."""

    def change(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return column(batch, changes.UNCHANGED, lambda c: pa.nulls(len(c), c.type))


@fails("a_gap_stops", "another_log_is_not_resumed")
class GoesOnRegardless(FileChangeLog):
    def window(self, after: Any, limit: Any) -> Any:
        try:
            return super().window(after, limit)
        except (Gap, IdentityChanged):
            return super().window(None, limit)


@fails("the_stream_begins_where_it_was_created")
class BeginsAtTheBeginning(FileChangeLog):
    """A log knows nothing of when its reader was made."""


class Rereads(FileChangeLog):
    """Refuses what it does not have; a log of a file cannot do more."""

    def resync(self, position: Any, tables: Any) -> Any:
        if unknown := [name for name in tables if name not in ("orders", "lines")]:
            raise ConfigError("resync", f"no table {unknown[0]}", "name another")
        return position


@fails("a_table_is_read_again")
class GoesOnInsteadOfReadingAgain(Rereads):
    """The position is as before, and so is the window."""


@fails("a_table_is_read_again")
class ReadsTheOthersAgainToo(Rereads):
    """From the beginning, and says that it is all the rows."""

    def resync(self, position: Any, tables: Any) -> Any:
        return super().resync(position, tables) and None

    def window(self, after: Any, limit: Any) -> Any:
        window = super().window(after, limit)
        return evolve(window, fresh=frozenset({"orders"})) if after is None else window
