"""Sink: one table of a PostgreSQL database. Rows, journal and position become durable in one transaction."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
from attrs import evolve

from dpone.contract import (
    Entry,
    Finding,
    Load,
    Part,
    Receipt,
    Stream,
    TakenBack,
    UndoRecord,
)
from dpone.errors import Category, ConfigError, DataError, DponeError, SchemaBreak, SinkError
from dpone.host.prefetch import prefetch
from dpone.model.evolution import SchemaChange
from dpone.model.keys import equality
from dpone.model.pipeline import SinkSpec, Undo
from dpone.model.position import Position
from dpone.model.schema import (
    LINEAGE,
    LOAD_ID,
    LOADED_AT,
    Name,
)
from dpone.model.staged import Staged
from dpone.model.strategy import Strategy
from dpone.sql import provisional
from dpone.sql.dialect import transaction
from dpone.sql.sink import SqlSink, target_of
from dpone.sql.strategies.job import StagedLoad, is_empty, repeated_keys
from dpone.sql.writer import SqlWriter, Stage, create_own, open_stage, own_lock
from dpone_postgres import binary, types
from dpone_postgres.config import PostgresSinkOptions
from dpone_postgres.connect import parameters, table_name
from dpone_postgres.database import PostgresDatabase
from dpone_postgres.errors import RETRIED, sqlstate
from dpone_postgres.sequences import Behind

_TRIES = 6
_JOINED = ("snapshot_diff", "scd2", "partition_replace")  # strategies that join the staging with the target
T = TypeVar("T")


def retried(work: Callable[[], T]) -> T:
    """Run ``work``, which must be a whole transaction, again after a deadlock or a serialization failure: the server
    has rolled everything back."""
    for attempt in range(1, _TRIES):
        try:
            return work()
        except SinkError as error:
            if sqlstate(error) not in RETRIED:
                raise
            time.sleep(random.uniform(0.5, 1.0) * 0.02 * 2**attempt)  # noqa: S311  # spreads retries
    return work()


_RIVAL = "another run changed the table at the same time: {}"


def _rivalled(failed: str, found: str) -> SinkError:
    """Two runs without a common lease collided. Transient: the next attempt sees the result of the other."""
    error = SinkError(failed, found, "run again, and use one state for all runs of a stream: its lease prevents this")
    error.category = Category.TRANSIENT
    return error


class PostgresSink(SqlSink):
    """``contract.Sink``."""

    _db: PostgresDatabase

    def __init__(self, spec: SinkSpec) -> None:
        target = table_name(target_of(spec))
        self._options = spec.options if isinstance(spec.options, PostgresSinkOptions) else PostgresSinkOptions()
        super().__init__(spec, target, PostgresDatabase(parameters(spec.connection), self._options, target))
        self.dialect.name(target)

    def check(self) -> list[Finding]:
        from dpone_postgres.check import sink_findings

        try:
            return sink_findings(self._db, self._target)
        except DponeError as error:
            return [Finding("connection", False, f"{error.failed}: {error.found}", error.todo)]

    def _makeable(self, schema: pa.Schema) -> pa.Schema:
        """The schema as this database can create it: a native type that it lacks (an enum, an extension's) is replaced
        by the type for its Arrow type. Raises ConfigError if a column of the target is generated."""
        made = {c.name for c in self._db.columns(self._target) or () if c.generated}
        if both := sorted(made & {*schema.names}):
            found = f"the target generates the values of {', '.join(both)} (GENERATED ALWAYS AS)"
            todo = "leave the column out in source.query, or drop its expression in the target"
            raise ConfigError(f"write {self._target}", found, todo)
        natives = {native for f in schema if (native := types.native(f)) is not None}
        if not natives:
            return schema
        sql = "SELECT n FROM unnest(\0::text[]) AS n WHERE pg_catalog.to_regtype(n) IS NOT NULL"
        known = {native for (native,) in self._db.rows(sql, (sorted(natives),))}
        return pa.schema([f if types.native(f) in known else f.remove_metadata() for f in schema])

    def made(self, field: pa.Field) -> pa.Field:
        """A native type keeps its own equality; a collation of the source is not copied."""
        known = types.native(field) is not None and not equality(field).startswith("collation ")
        return self._makeable(pa.schema([field])).field(0) if known else field.remove_metadata()

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        statements = super().ddl(changes)
        widened = [c.column for c in changes if c.kind == "widen" and self._statements(c)]
        if widened and (views := self._db.views_on(self._target, widened)):
            found = f"views read column {', '.join(widened)}, and the server cannot change the type of such a column"
            todo = f"save each view's pg_get_viewdef, run {' '.join(views)} then dpone, and create the views again"
            raise SchemaBreak(f"evolve the schema of {self._target}", found, f"{todo}; nothing was changed")
        return statements

    def apply(self, ddl: Sequence[str]) -> None:
        with self._telling_ddl():
            retried(lambda: SqlSink.apply(self, ddl))

    def provide(self, load: Load, ddl: Sequence[str]) -> None:
        """Waits while another load commits to the target: what that load has committed can no longer be taken back."""
        if ddl:
            retried(lambda: self._own_tables(load))
        with self._telling_ddl(), self._db.committing([self._target]):
            retried(lambda: SqlSink.provide(self, load, ddl))

    def take_back(self, key: str, run_id: str = "") -> Sequence[TakenBack]:
        """Also after a commit whose answer was lost: if that is still running, this waits for its end."""
        with self._db.committing([self._target]):
            return retried(lambda: SqlSink.take_back(self, key, run_id))

    @contextmanager
    def _telling_ddl(self) -> Iterator[None]:
        try:
            yield
        except SinkError as error:
            if sqlstate(error) == "0A000" and isinstance(error.__cause__, psycopg.Error):
                # A trigger, policy or generated column uses it. The DETAIL of this error has only object names, no
                # values.
                found = f"{error.found}: {error.__cause__.diag.message_detail or ''}".rstrip(": ")
                todo = "drop the named object, run again, then recreate it; nothing was changed"
                raise SinkError(error.failed, found, todo) from error.__cause__
            if sqlstate(error) not in ("42P07", "42701"):  # duplicate_table, duplicate_column
                raise
            raise _rivalled(error.failed, _RIVAL.format(error.found)) from error.__cause__

    def open(self, load: Load) -> PostgresWriter:
        """The run that created the target may take it back after this load was planned; then this raises a transient
        error."""
        try:
            return self._open(load)
        except SinkError as error:
            if sqlstate(error) != "42P01":  # undefined_table
                raise
            raise _rivalled(error.failed, _RIVAL.format(error.found)) from error.__cause__

    def _open(self, load: Load) -> PostgresWriter:
        self._refuse(load)
        retried(lambda: self._own_tables(load))
        lineage = self._options.lineage.enabled
        into = retried(lambda: self._into(load))
        stage = retried(lambda: open_stage(self._db, into, load, lineage, LINEAGE))
        # A load that cannot be resumed does not need its staging after a server crash, so it is UNLOGGED. A staging
        # that may become the target must be logged.
        self._db.unlogged = not load.repeatable and load.strategy.mode != "full_refresh" and not self.is_empty()
        writer = PostgresWriter(self._db, self._target, load, stage, lineage, self._options.undo, into)
        writer.advances = self._options.sequences == "advance"
        retried(writer.prepare)
        return writer

    def for_table(self, spec: SinkSpec) -> PostgresSink:
        """``contract.SupportsManyTables``."""
        sink = type(self)(spec)
        sink._db = self._db.for_table(sink._target)
        return sink

    def refuse(self, strategy: Strategy, every_row: bool = False) -> None:
        super().refuse(strategy, every_row)
        if strategy.mode == "full_refresh" and self._db.oid(self._target) is not None:
            self._require_way()

    def _require_way(self) -> None:
        """Raises SinkError if the stated full_refresh cannot work: TRUNCATE fails for a table that a foreign key
        references, even if the referencing table is empty."""
        mine = (str(one.table) for one in self._db.references(self._target) if one.table != self._target)
        if self._options.full_refresh == "truncate" and (others := list(dict.fromkeys(mine))):
            found = f"options.full_refresh: truncate, but {', '.join(others)} references the table by a foreign key"
            raise SinkError(f"replace rows of {self._target}", found, "use full_refresh: auto or delete")
        if self._options.full_refresh == "swap" and (attached := self._db.attached(self._target)):
            found = f"options.full_refresh: swap, but the table has {', '.join(attached)}, which a swap would lose"
            raise SinkError(f"replace rows of {self._target}", found, "use full_refresh: auto, truncate or delete")

    def _own_tables(self, load: Load) -> None:
        """Create dpone's own tables, one run at a time: CREATE TABLE IF NOT EXISTS fails with a unique violation if
        another transaction is creating the same table."""
        with transaction(self._db, own_lock(self._target)):
            create_own(self._db, self._target, load, self._options.undo)
            self._create_added()

    def _create_added(self) -> None:
        table = self._target.sibling(provisional.TABLE)
        if self._db.oid(table) is None:
            provisional.Added(self._db, self._target).create()
            self._db.grant_like(table, self._target.sibling("__dpone__loads"))

    def undo(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Receipt:
        with self._db.committing([self._target]):
            return retried(lambda: SqlSink.undo(self, load, load_id, after, position))


class PostgresWriter(SqlWriter):
    """``contract.Writer``: the shared SQL writer, which also accepts the binary stream of another PostgreSQL and
    advances the sequences of its target. Several parts are staged in parallel, each in a transaction on its own
    connection, into one table without an index."""

    _db: PostgresDatabase
    advances = False  # whether to set sequences of the target

    def __init__(
        self,
        db: PostgresDatabase,
        target: Name,
        load: Load,
        stage: Stage | None,
        lineage: bool,
        undo: Undo | None = None,
        into: Name | None = None,
    ) -> None:
        super().__init__(db, target, load, stage, lineage, undo, into)
        # Chunks of changes are numbered in order, so they are staged one after the other.
        self._several = load.parts != 1 and not load.changes
        self.sequences: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Parallel parts do not know which of them is first or last, so key and lineage are removed from the staging
        before all of them and added at the commit."""
        if not self._several or self._stage is None:
            return
        with transaction(self._db, self._load.key):
            if not self._staging.parts(self._stage):
                self._db.make_bare(self._stage.table, self._constants(self._stage))

    def stage(self, part: Part, stream: Stream) -> Staged:
        if not self._several:
            return self._stage_part(part, stream)
        with self._db.another() as db:
            return PostgresWriter(db, self._target, self._load, self._stage, self._lineage)._stage_part(part, stream)

    def _stage_part(self, part: Part, stream: Stream) -> Staged:
        with self._telling_repeated_keys():
            return self._pass_through(part, stream) if self._fits(stream) else super().stage(part, stream)

    @contextmanager
    def _telling_repeated_keys(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            if sqlstate(error) == "23505":
                raise repeated_keys(self._target, self._load.strategy) from error
            raise
        except SinkError as error:
            if sqlstate(error) != "42P01":  # undefined_table
                raise
            found = "the staging no longer exists: another run of the same stream removed it"
            raise _rivalled(f"load {self._target}", found) from error.__cause__

    def _constants(self, stage: Stage) -> dict[str, Any]:
        """Lineage: the same in every row of the load."""
        return {LOAD_ID: self.load_id, LOADED_AT: stage.created_at} if self._lineage else {}

    def _fits(self, stream: Stream) -> bool:
        """True if the stream is binary COPY with exactly the staging's types: the server cannot detect a difference."""
        if binary.FORMAT not in stream.native or self._stage is None:
            return False
        have = {c.name: c.native for c in self._db.columns(self._stage.table) or ()}
        return all(types.native(f) is not None and types.native(f) == have.get(f.name) for f in stream.schema)

    def _pass_through(self, part: Part, stream: Stream) -> Staged:
        stage = self._require_stage()
        if done := self._staging.part(stage, part.id):
            return done
        lineage = self._constants(stage)
        with transaction(self._db, self._load.key):
            with closing(prefetch(stream.open_native(binary.FORMAT), depth=4)) as blocks:
                rows, size = self._db.load_binary(stage.table, stream.schema.names, blocks, lineage)
            staged = Staged(rows, size, stream.filtered)
            self._staging.mark(stage, part.id, staged)
        return staged

    def _job(self, stage: Stage) -> StagedLoad:
        """Called inside the commit, after the fence: another run may have removed the staging before."""
        if self._several:
            self._stage_schema(stage)  # raises if it was removed
            with self._telling_repeated_keys():
                key = self._load.strategy.key if stage.unique else ()
                self._db.complete(stage.table, key, self._constants(stage))
        if self._load.strategy.mode in _JOINED:
            # The planner has no statistics of a new table, and this join needs them.
            self._db.execute(f"ANALYZE {self._db.dialect.name(stage.table)}")
        self._db.set_nondeterministic(self._into)
        job = super()._job(stage)
        if job.swap and is_empty(self._db, self._into):  # and it must stay empty until the staging replaces it
            self._db.hold(self._target)
        return job

    def _apply(self) -> tuple[Mapping[str, int], tuple[UndoRecord, ...]]:
        """Sequences are advanced last: they are not transactional, so they should run ahead of the commit for the
        shortest time."""
        behind = None
        self.sequences, self.warnings = (), ()  # of this attempt
        if self.advances and self._stage is not None:
            behind = Behind(self._db, self._target, self._names(), self._stage.table)
        done = super()._apply()
        if behind is not None:
            self.sequences, self.warnings = behind.advance()
        return done

    def _committed(self, after: Entry | None, position: Position, others: Sequence[SqlWriter]) -> Receipt:
        writers = (self, *others)
        with self._db.committing(writer._target for writer in writers):
            receipt = retried(lambda: SqlWriter._committed(self, after, position, others))
        ours = [writer for writer in writers if isinstance(writer, PostgresWriter)]
        return evolve(
            receipt,
            sequences=tuple(line for writer in ours for line in writer.sequences),
            warnings=tuple(line for writer in ours for line in writer.warnings),
        )
