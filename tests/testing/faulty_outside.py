"""Connectors that connect too early, leave something open, wait for ever, or keep an answer. See ``faulty``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
from attrs import evolve
from tests.testing.faulty import ByVersion, FaultySink, FaultyWriter, fails, honest

from dpone.connectors.file.changelog import FileChangeLog
from dpone.connectors.file.source import FileSource
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.connectors.sqlite.source import SqliteSource
from dpone.connectors.sqlite.state import SqliteState
from dpone.contract import Finding, Part, Window
from dpone.errors import Busy, Category, Gap, SinkError, SourceError, StateError
from dpone.host import durable
from dpone.sql.strategies.job import is_empty
from dpone.testing.harness import TABLE
from dpone.testing.state import KEY

CONSTRUCTOR = "the constructor opened a file or a connection"
STILL_OPEN = "still open after close"
AFTER_THE_LIMIT = "it still waits after the limit"
AFTER_A_SIGNAL = "it still waits after a signal"


class LeftOpen:
    """A file that stays open as long as whoever opened it is there."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.number)


# ---- sources


@fails(it_is_made_without_a_connection=CONSTRUCTOR)
class ConnectsWhenMade(SqliteSource):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.rows("SELECT 1")
        self.close()


@fails(a_failed_connection_is_a_finding="a failed connection is a finding, but check raises")
class ChecksByRaising(SqliteSource):
    def check(self) -> list[Finding]:
        self.rows("SELECT 1")
        return super().check()


@fails(a_failed_connection_is_a_finding="check cannot connect, and reports that all is well")
class FindsNothingWrong(SqliteSource):
    """Where it cannot open the file."""

    def check(self) -> list[Finding]:
        return [one if "cannot be opened" not in one.found else Finding("source", True, "") for one in super().check()]


@fails(close_leaves_nothing_open=STILL_OPEN)
class LeavesAFileOpen(SqliteSource):
    def window(self, *args: Any) -> Window:
        self.left = LeftOpen(self._path)
        return super().window(*args)


_ONE_BY_ONE = threading.Lock()  # patches that overlap are undone in the wrong order


def deaf(connect: Callable[[], Any]) -> Any:
    """A connection that waits in SQLite, where nothing interrupts it."""
    module = "dpone.connectors.sqlite.connect"
    with _ONE_BY_ONE, mock.patch(f"{module}._LOCKED", ()), mock.patch(f"{module}.stopping.SLICE", 3600):
        db = connect()
    db.patience = 0
    return db


@fails(a_wait_has_an_end=AFTER_THE_LIMIT)
class ReadsWhenItCan(SqliteSource):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._options = evolve(self._options, busy_timeout=1e9)


@fails(a_wait_has_an_end=AFTER_A_SIGNAL)
class ReadsAndHearsNothing(SqliteSource):
    def connect(self) -> Any:
        return deaf(super().connect)


@fails(a_wait_has_an_end="a timeout must be transient, not")
class TimesOutForGood(SqliteSource):
    """Nobody tries again."""

    def window(self, *args: Any) -> Window:
        try:
            return super().window(*args)
        except SourceError as error:
            error.category = Category.UNKNOWN
            raise


@fails(a_whole_window_has_what_was_read_before="a window of all rows does not say that it is whole")
class ForgetsThatAllIsWanted(FileSource):
    """Once it has read."""

    def window(self, after: Any, request: Any) -> Window:
        return super().window(after, evolve(request, whole=request.whole and after is None))


@fails(a_whole_window_has_what_was_read_before="missing rows: 3")
class TakesTheNewForAll(ForgetsThatAllIsWanted):
    def window(self, after: Any, request: Any) -> Window:
        window = super().window(after, request)
        return evolve(window, whole=request.whole or window.whole)


@fails(parts_have_the_order_of_their_files="the parts are not in the order of the files")
class NumbersPartsFromTheEnd(FileSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        last = len(window.parts)
        parts = [evolve(p, detail={**p.detail, "order": last - n}) for n, p in enumerate(window.parts)]
        return evolve(window, parts=tuple(parts))


@fails(parts_have_the_order_of_their_files="only some parts have an order")
class NumbersTheFirstPartAlone(FileSource):
    def window(self, *args: Any) -> Window:
        window = super().window(*args)
        bare = [evolve(p, detail={k: v for k, v in p.detail.items() if k != "order"}) for p in window.parts[1:]]
        return evolve(window, parts=(*window.parts[:1], *bare))


@honest
class KeepsNamesOfOldFiles(FileSource):
    """A log whose files are dropped, but for an empty one at its end; the names of those that are gone are known."""

    def window(self, after: Any, request: Any) -> Window:
        gone = self._spec.base / f"{TABLE}.gone"
        names = gone.read_text().split() if after is not None and gone.exists() else []
        if unread := [name for name in names if name not in {Path(file).name for file in after.value["files"]}]:
            raise Gap("read the log", f"{unread[0]} was dropped before it was read", "read everything again")
        return super().window(after, request)

    @staticmethod
    def arrange(harness: Any) -> None:
        numbers = count()

        def seed(rows: pa.Table, table: str = TABLE) -> None:
            harness.put(f"{table}/{next(numbers):03d}.parquet", harness.encode(rows))

        def expire(table: str = TABLE) -> bool:
            for key in harness.keys(f"{table}/"):
                with (harness.folder / f"{table}.gone").open("a") as gone:
                    gone.write(f"{Path(key).name}\n")
                harness.delete(key)
            seed(harness.sample(1, 0), table)
            return True

        harness.seed, harness.expire = seed, expire


@fails(what_a_log_forgot_is_a_gap="pytest.raises(Gap)")
class SkipsWhatWasForgotten(KeepsNamesOfOldFiles):
    def window(self, after: Any, request: Any) -> Window:
        return FileSource.window(self, after, request)


@fails(
    xmin_reads_what_is_new="pytest.raises(ConfigError)", change_tracking_reads_what_is_new="pytest.raises(ConfigError)"
)
class AppendsWhatComesAgain(ByVersion):
    refuses = False


# ---- sinks


@fails(it_is_made_without_a_connection=CONSTRUCTOR)
class ConnectsToBeMade(SqliteSink):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db.rows("SELECT 1")
        self._db.close()


@fails(it_is_made_without_a_connection="it opens a file or a connection")
class AsksTheServerForTypes(SqliteSink):
    def stores(self, type: pa.DataType) -> Any:
        self._db.rows("SELECT 1")
        return super().stores(type)


@fails(a_failed_connection_is_a_finding="a failed connection is a finding, but check raises")
class ChecksTheTargetByRaising(SqliteSink):
    def check(self) -> list[Finding]:
        self._db.rows("SELECT 1")
        return super().check()


@fails(a_failed_connection_is_a_finding="DID NOT RAISE")
class TakesAFileItCannotOpenForNone(SqliteSink):
    def journal(self, key: str) -> Any:
        try:
            return super().journal(key)
        except SinkError as error:
            if "cannot be opened" in error.found:
                return None
            raise


@fails(close_leaves_nothing_open=STILL_OPEN)
class LeavesTheDatabaseOpen(FaultySink):
    def opened(self, load: Any) -> Any:
        self.left = LeftOpen(self._db.path)
        return load


@fails(a_wait_has_an_end=AFTER_THE_LIMIT)
class LoadsWhenItCan(FaultySink):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db._timeout = 1e9


@fails(a_wait_has_an_end=AFTER_A_SIGNAL)
class LoadsAndHearsNothing(FaultySink):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        deafened(self._db)


def deafened(db: Any) -> Any:
    connection = db.connection
    db.connection = lambda: deaf(connection) if db._db is None else db._db
    return db


@fails(an_answer_is_not_kept="the sink returned an earlier answer")
class RemembersThatItIsNotThere(SqliteSink):
    """``exists`` asks once."""

    there: bool | None = None

    def exists(self) -> bool:
        self.there = super().exists() if self.there is None else self.there
        return self.there

    def is_empty(self) -> bool:
        return self.schema() is None or is_empty(self._db, self._target)


@fails(a_part_is_staged_once="missing rows: 0, extra rows: 3")
class StagesAPartAgain(FaultySink):
    """Where nobody goes on with the load."""

    class writer(FaultyWriter):
        def stage(self, part: Part, stream: Any) -> Any:
            before = self._inner.staged().get(part.id)
            if before is None or self._load.repeatable:
                return super().stage(part, stream)
            super().stage(Part(f"{part.id} again"), stream)
            return before


@fails(the_journal_has_an_entry_per_commit="the entry does not have the token of its load")
class NamesTheLoadOtherwise(FaultySink):
    def opened(self, load: Any) -> Any:
        return load if load.repeatable else evolve(load, token=f"{load.token} otherwise")


@fails(lineage_is_added_to_a_target_without_it="assert named ==")
class NamesRowsOfBefore(FaultySink):
    """They name the load that has added the column."""

    added = False

    def ddl(self, changes: Any) -> list[str]:
        said = super().ddl(changes)
        self.added = self.exists() and any("__dpone__load_id" in statement for statement in said)
        return said

    def committed(self) -> None:
        if self.added:
            self.execute(f"UPDATE {{target}} SET __dpone__load_id = '{self.load.load_id}'")


@fails(a_load_is_taken_back="the entry does not name the load that it undoes", also=("a_load_is_found_by_its_id",))
class ForgetsWhatItTookBack(FaultySink):
    def undo(self, *args: Any) -> Any:
        receipt = super().undo(*args)
        return evolve(receipt, entry=evolve(receipt.entry, undoes=""))


@fails(columns_are_replaced_by_the_commit_alone="columns ['id', 'day', 'name', 'score'], not ['id', 'day', 'score']")
class ReplacesColumnsByNothing(FaultySink):
    def opened(self, load: Any) -> Any:
        return self.other(load, allow_empty=True) if load.replace_columns else load


# ---- states


@fails(it_is_made_without_a_connection=CONSTRUCTOR)
class LooksWhenMade(SqliteState):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.load(KEY)


@fails(it_is_made_without_a_connection="partitions opened a file or a connection")
class LooksForPartitions(SqliteState):
    def partitions(self) -> Any:
        self.load(KEY)
        return super().partitions()


@fails(close_leaves_nothing_open=STILL_OPEN)
class LeavesItsFileOpen(SqliteState):
    @contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Any]:
        with super().lock(key, ttl) as lease:
            self.left = LeftOpen(self._path)
            yield lease


@fails(a_wait_has_an_end=AFTER_THE_LIMIT)
class SavesWhenItCan(SqliteState):
    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        self._timeout = 1e9
        return super().save(key, value, expected)


@fails(a_wait_has_an_end=AFTER_A_SIGNAL)
class SavesAndHearsNothing(SqliteState):
    def database(self) -> Any:
        return deafened(super().database())


@fails(it_is_made_without_a_connection="run_log opened a file or a connection")
class LooksForRuns(SqliteState):
    def run_log(self) -> Any:
        self.load(KEY)
        return super().run_log()


@fails(looking_makes_nothing="the run log created something")
class MakesItsTablesToListRuns(SqliteState):
    def run_log(self) -> Any:
        with suppress(StateError), self._writing("look", "runs"):
            pass
        return super().run_log()


@fails(looking_makes_nothing="load, history or the run log created something")
class MakesItsTablesToLook(SqliteState):
    def load(self, key: str) -> Any:
        with suppress(StateError), self._writing("look", key):
            pass
        return super().load(key)


# ---- change readers


@fails(it_is_made_without_a_connection=CONSTRUCTOR)
class ReadsItsLogWhenMade(FileChangeLog):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._log.path.read_bytes()


@fails(it_is_made_without_a_connection="setup_plan opened a file or a connection")
class LooksToPlan(FileChangeLog):
    def setup_plan(self) -> list[str]:
        self._log.path.read_bytes()
        return super().setup_plan()


@fails(a_failed_connection_is_a_finding="a failed connection is a finding, but check raises")
class ChecksItsLogByRaising(FileChangeLog):
    def check(self) -> list[Finding]:
        self._log.path.read_bytes()
        return super().check()


@fails(close_leaves_nothing_open=STILL_OPEN)
class LeavesItsLogOpen(FileChangeLog):
    def window(self, *args: Any) -> Any:
        self.left = LeftOpen(self._log.path)
        return super().window(*args)


@honest
class LocksItsLog(FileChangeLog):
    """While it plans a window."""

    def window(self, *args: Any) -> Any:
        with durable.exclusive(self.lock_of(self._log.path)):
            return super().window(*args)

    @staticmethod
    def lock_of(path: Path) -> Path:
        return path.with_suffix(".lock")

    @classmethod
    def arrange(cls, harness: Any) -> None:
        @contextmanager
        def stuck(role: Any, seconds: float) -> Iterator[Any]:
            with durable.exclusive(cls.lock_of(harness.path)), mock.patch.object(durable, "LONGEST", seconds):
                yield harness.change_stream()

        harness.stuck = stuck


@fails(a_wait_has_an_end=AFTER_THE_LIMIT)
class LocksItsLogWhenItCan(LocksItsLog):
    def window(self, *args: Any) -> Any:
        while True:
            with suppress(Busy):
                return super().window(*args)


@fails(a_wait_has_an_end=AFTER_A_SIGNAL)
class LocksItsLogAndHearsNothing(LocksItsLog):
    """However long the limit is."""

    def window(self, *args: Any) -> Any:
        while True:
            try:
                return super().window(*args)
            except Busy:
                if durable.LONGEST < 1:
                    raise
