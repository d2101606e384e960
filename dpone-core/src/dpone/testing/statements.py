"""Loads into a SQL sink that end between two statements, as if the process had been killed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, cast

import pyarrow as pa
from attrs import field, frozen, mutable

from dpone.contract import Part, Sink, SupportsTakeBack
from dpone.model.evolution import SchemaChange
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql.dialect import transaction
from dpone.sql.sink import SqlSink
from dpone.sql.writer import Staging
from dpone.testing.harness import Harness
from dpone.testing.loads import at, key, new_load, prepare
from dpone.testing.rows import SHAPE, Rows

# Members of ``dpone.sql.dialect.Database`` that change something; ``rows`` too, for a statement other than SELECT.
_CHANGES = ("begin", "commit", "execute", "rows", "load", "upsert", "clear", "create", "create_like", "drop", "swap")
_MOMENTARY = ("__dpone__stage_", "__dpone__anew_", "__dpone__undo_")


class Killed(BaseException):
    """The process is dead: nothing of it runs after this."""


@mutable
class _Watch:
    """Counts statements. ``last``: the one after which the process is dead; none: it lives."""

    last: int | None
    done: int = 0
    made: set[Name] = field(factory=set)
    _new: bool = False

    @property
    def dead(self) -> bool:
        return self.done == self.last

    def call(self, name: str, method: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Count a call. A call within a call is a statement of its own; the outer one counts again if it continues."""
        if self.dead:
            raise Killed
        if name == "rows" and args[0].lstrip().upper().startswith("SELECT"):
            return method(*args, **more)
        if name in ("create", "create_like") and args[0].last.startswith(_MOMENTARY):
            self.made.add(args[0])
        self._new = True
        answer = method(*args, **more)
        self.done += self._new
        self._new = False
        if self.dead:
            raise Killed
        return answer


@contextmanager
def _watched(sink: SqlSink, last: int | None) -> Iterator[_Watch]:
    watch, db = _Watch(last), sink._db
    for name in _CHANGES:
        setattr(db, name, partial(watch.call, name, getattr(db, name)))
    db.rollback = partial(_unless, watch, db.rollback)  # type: ignore[method-assign]
    try:
        yield watch
    except Killed:
        pass
    finally:
        for name in (*_CHANGES, "rollback"):
            delattr(db, name)
        if watch.dead:
            db.close()  # as the system does for a process that is gone; what is open is rolled back


def _unless(watch: _Watch, method: Callable[[], None]) -> None:
    if watch.dead:
        raise Killed
    method()


def widened(harness: Harness, strategy: Strategy, table: str, after: pa.Field, last: int) -> bool:
    """Widen a column of the target. The process is dead after statement ``last``; False if it was."""
    with closing(harness.make("sink", harness.sink(strategy, table))) as sink:
        assert isinstance(sink, SqlSink)
        there = sink.schema()
        assert there is not None
        ddl = sink.ddl([SchemaChange("widen", after.name, there.field(after.name), after)])
        with _watched(sink, last) as watch:
            sink.apply(ddl)
        return not watch.dead


@frozen
class InterruptedLoads:
    """One table and the runs that load it. ``made``: the temporary tables of its loads, until they are seen to be
    gone."""

    harness: Harness
    strategy: Strategy
    table: str
    options: Mapping[str, Any] = {}
    changes: bool = False
    made: set[Name] = field(factory=set)

    def sink(self) -> Sink:
        sink: Sink = self.harness.make("sink", self.harness.sink(self.strategy, self.table, **self.options))
        return sink

    def run(self, n: int, rows: pa.Table, last: int | None = None, whole: bool = False) -> bool:
        """What a run does for the n-th window: take back, read the journal, continue with staged parts. The process is
        dead after statement ``last`` of its commit or, with ``whole``, of all that it does; returns False if it was."""
        with closing(self.sink()) as sink:
            assert isinstance(sink, SqlSink)
            with _watched(sink, last if whole else None) as watch:
                writer, head = self._begin(sink, n, rows)
                if writer is not None and whole:
                    writer.commit(head, at(n), ())
            self.made.update(watch.made)
            if whole or writer is None:
                return not watch.dead
            with _watched(sink, last) as watch:
                writer.commit(head, at(n), ())
            self.made.update(watch.made)
            return not watch.dead

    def strand(self, n: int, rows: pa.Table) -> None:
        """Stage the n-th window, die, and let the line of the staging be lost."""
        with closing(self.sink()) as sink:
            assert isinstance(sink, SqlSink)
            with _watched(sink, None) as watch:
                self._begin(sink, n, rows)
            self.made.update(watch.made)
        with closing(self.sink()) as sink:
            assert isinstance(sink, SqlSink)
            with transaction(sink._db, key(self.table)):
                for table in watch.made:
                    Staging(sink._db, sink._target).forget(table)

    def _begin(self, sink: SqlSink, n: int, rows: pa.Table) -> tuple[Any, Any]:
        if (taking := self.harness.offered(SupportsTakeBack, sink)) is not None:
            taking.take_back(key(self.table))
        head = sink.journal(key(self.table))
        if head is not None and head.position == at(n):
            return None, head
        load = new_load(
            SHAPE,
            self.strategy,
            self.table,
            repeatable=True,
            token=f"window {n}",
            changes=self.changes,
            whole=not self.changes,
        )
        prepare(cast(Sink, sink), sink._spec, SHAPE, load)
        writer = sink.open(load)
        if "p" not in writer.staged():
            writer.stage(Part("p"), Rows(rows))
        return writer, head

    def left(self) -> set[str]:
        """Temporary tables that still exist, except those that the journal keeps for an undo."""
        with closing(self.sink()) as sink:
            assert isinstance(sink, SqlSink)
            head = sink.journal(key(self.table))
            kept = {one.name for one in head.kept} if head else {*()}
        names = {table.last for table in self.made}
        left = {name for name in names - kept if self.harness.rows(name) is not None}
        self.made.difference_update([table for table in self.made if table.last not in left | kept])
        return left
