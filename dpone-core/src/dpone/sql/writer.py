"""Staging tables and the Writer of all SQL sinks: rows are staged part by part, then committed in one fenced
transaction.

Three tables of dpone are in the schema of the target: ``__dpone__loads`` (the journal), ``__dpone__staging`` (open
loads) and ``__dpone__parts`` (their staged parts). A staging table is an ordinary table, so that it survives a crash.
``dpone.sql.dialect`` describes which DDL is executed before and after the transaction of a commit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import pyarrow as pa
from attrs import asdict, define, evolve, frozen

from dpone.contract import (
    Entry,
    Load,
    Part,
    Receipt,
    Stream,
    UndoRecord,
    Writer,
)
from dpone.errors import Category, DataError, DponeError, SchemaBreak, SinkError, counted
from dpone.model.evolution import twin
from dpone.model.pipeline import Undo
from dpone.model.position import Position
from dpone.model.schema import (
    DELETED_AT,
    FILE,
    LINEAGE,
    LOAD_ID,
    LOADED_AT,
    PREFIX,
    VALIDITY,
    Name,
)
from dpone.model.staged import Staged
from dpone.model.strategy import MODES, Strategy
from dpone.sql import fold
from dpone.sql.dialect import Database, transaction
from dpone.sql.journal import Journal
from dpone.sql.own import Own
from dpone.sql.provisional import Added
from dpone.sql.replace_table import replaced
from dpone.sql.strategies import cdc_apply, scd2, scd2_changes
from dpone.sql.strategies.finalizers import finalize, indexes
from dpone.sql.strategies.job import (
    RowCounts,
    StagedLoad,
    held,
    is_empty,
    repeated_keys,
    require_columns,
)
from dpone.sql.undo import IMAGES, Images, Targets, images, sweep

LINEAGE_FIELDS = (pa.field(LOAD_ID, pa.string()), pa.field(LOADED_AT, pa.timestamp("us", "UTC")))
_FILE = pa.field(FILE, pa.int64())
STAGE, REPLACEMENT = "__dpone__stage", "__dpone__anew"
_SPENT = "spent"  # the token of a table that no load will continue
STAGES = "__dpone__staging"
_TEXTS, _COUNTS = ("stage", "key", "load_id", "token", "created_at"), ("rows", "bytes", "filtered", "quarantined")
_STAGING = pa.schema([*((name, pa.string()) for name in _TEXTS), ("unique", pa.int64())])
_PARTS = pa.schema(
    [("stage", pa.string()), ("part", pa.string()), *((name, pa.int64()) for name in _COUNTS), ("checks", pa.string())]
)


def stages(db: Database, target: Name) -> Own:
    return Own(db, target.sibling(STAGES), _STAGING, ("stage",))


def with_lineage(schema: pa.Schema) -> pa.Schema:
    """The schema with the lineage columns it lacks."""
    return pa.schema([*schema, *(f for f in LINEAGE_FIELDS if f.name not in schema.names)])


def lacking_own(strategy: Strategy, have: pa.Schema, lineage: bool) -> list[pa.Field]:
    """The columns of dpone that an existing target lacks: lineage, and the mark of deleted rows that are kept (versions
    are not marked)."""
    marked = strategy.deletes == "soft" and not {*VALIDITY} & {*have.names}
    wanted = [pa.field(DELETED_AT, scd2.INSTANT)] if marked else []
    wanted += LINEAGE_FIELDS if lineage else ()
    return [f for f in wanted if f.name not in have.names]


@frozen
class Stage:
    """One staging table. token: empty for a load that cannot be resumed. unique: the key is its primary key.
    created_at: the load time of every row of the load, whichever run staged it."""

    table: Name
    load_id: str
    token: str
    created_at: datetime
    unique: bool

    @classmethod
    def spent(cls, table: Name) -> Stage:
        """A table that no load will continue."""
        return cls(table, "", _SPENT, datetime.now(UTC), False)


class Staging:
    """The registry of open loads, and of tables to drop. Every call is part of the caller's transaction. A table is
    registered before it is created and deregistered after it is dropped: even if DDL commits by itself, a process that
    dies in between leaves no table that is not registered."""

    def __init__(self, db: Database, target: Name) -> None:
        self._db, self._target = db, target
        self._stages = stages(db, target)
        self._parts = Own(db, target.sibling("__dpone__parts"), _PARTS, ("stage", "part"))

    def create(self) -> None:
        self._stages.create()
        self._parts.create()

    def of(self, key: str) -> list[Stage]:
        return [
            Stage(self._target.sibling(stage), load_id, token, datetime.fromisoformat(at), bool(unique))
            for stage, load_id, token, at, unique in self._stages.rows(
                ("stage", "load_id", "token", "created_at", "unique"), {"key": key}
            )
        ]

    def sweep(self, key: str) -> None:
        """Drop the staging of all tables of a change stream, whose keys begin with the key of the stream. It is useless
        after a commit of the stream, and that of a table without further changes would never be dropped."""
        for other in self._tables_of(key):
            for stage in self.of(other):
                self.drop(stage)

    def _tables_of(self, key: str) -> set[str]:
        return {other for other in self._stages.distinct("key") if other.startswith(f"{key}|")}

    def add(self, key: str, stage: Stage) -> None:
        at = stage.created_at.isoformat(timespec="microseconds")
        self._stages.insert(stage.table.last, key, stage.load_id, stage.token, at, int(stage.unique))

    def drop(self, stage: Stage) -> None:
        """Drop the table, if it still exists, and deregister it."""
        self._drop(stage.table)
        self.forget(stage.table)

    def _drop(self, table: Name) -> None:
        if self._db.schema(table) is None:
            return
        if table.last.startswith(IMAGES):
            self._db.drop(table, wipe=True)
        else:
            self._db.drop(table)

    def forget(self, table: Name) -> None:
        """Deregister the table, so that no load drops it."""
        for own in (self._parts, self._stages):
            own.delete({"stage": table.last})

    def spend(self, key: str, *tables: Name) -> None:
        """No load continues with these tables: drop them after the transaction, or in the next load of the key."""
        for table in tables:
            self.forget(table)
            self.add(key, Stage.spent(table))

    def drop_spent(self, key: str) -> None:
        """Drop the spent tables of a key and of the tables of its change stream, in a transaction of its own."""
        if not self._stages.exists():
            return
        if spent := [stage for one in (key, *self._tables_of(key)) for stage in self.of(one) if stage.token == _SPENT]:
            with transaction(self._db, key):
                for stage in spent:
                    self.drop(stage)

    def sweep_unknown(self, key: str) -> None:
        """Tables of this key that have no line."""
        mine = re.compile(rf"(?:{STAGE}|{REPLACEMENT})_.+_{_digest(key)}", re.IGNORECASE | re.DOTALL)
        found = [table for table in self._db.tables(self._target, PREFIX) if mine.fullmatch(table.last)]
        known = {stage.lower() for stage in self._stages.distinct("stage")} if found else {*()}
        for table in found:
            if table.last.lower() not in known:
                self._drop(table)

    def parts(self, stage: Stage) -> dict[str, Staged]:
        rows = self._parts.rows(("part", *_COUNTS, "checks"), {"stage": stage.table.last})
        return {part: Staged(*[*counts, checks or ""]) for part, *counts, checks in rows}

    def replace(self, load: Load, table: Name) -> None:
        """Register a table that will be created and take the target's place, so that a later load can drop it."""
        self.sweep_replacements(load.key)
        self.add(f"{load.key}|{REPLACEMENT}", Stage(table, load.load_id, "", load.started_at.astimezone(UTC), False))

    def sweep_replacements(self, key: str, keep: Name | None = None) -> None:
        for stage in self.of(f"{key}|{REPLACEMENT}"):
            if stage.table != keep:
                self.drop(stage)

    def part(self, stage: Stage, part: str) -> Staged | None:
        return self.parts(stage).get(part)

    def mark(self, stage: Stage, part: str, staged: Staged) -> None:
        counts = (getattr(staged, name) for name in _COUNTS)
        self._parts.insert(stage.table.last, part, *counts, staged.checks)


def replacement_of(db: Database, target: Name, load: Load) -> Name:
    """Of the table that takes the target's place."""
    return _named(db, target, REPLACEMENT, load)


def own_lock(target: Name) -> str:
    """The lock for ``create_own``: one runner at a time."""
    return f"tables of {target.schema}"


def create_own(db: Database, target: Name, load: Load, undo: Undo | None) -> None:
    """Create dpone's own tables that the load will write, in a transaction before all others of the load."""
    Staging(db, target).create()
    Journal(db, target).create()
    if undo is not None:
        Targets(db, target).create()
    if load.strategy.mode == "scd2":
        (scd2_changes if load.changes else scd2).create(db, target)


def make_indexes(db: Database, lock: str, statements: Sequence[str]) -> None:
    """Before the transaction that uses them. An index that cannot be created is skipped: it may exist already, from an
    attempt whose process died, and without it the transaction is slow but correct."""
    for statement in filter(None, statements):
        with suppress(SinkError), transaction(db, lock):
            db.execute(statement)


def open_load(db: Database, target: Name, load: Load, lineage: bool, undo: Undo | None, into: Name | None) -> SqlWriter:
    """``Sink.open`` of every SQL sink, after ``create_own``. The target exists and has every column of ``load.schema``
    and, if enabled, of the lineage (``Sink.ddl``). ``undo``: keep what the load replaces. ``into``: see SqlWriter."""
    return SqlWriter(db, target, load, open_stage(db, into or target, load, lineage), lineage, undo, into)


def open_stage(db: Database, target: Name, load: Load, lineage: bool, late: Container[str] = ()) -> Stage | None:
    """The staging of a load, new or resumed; None for a load without rows. Also for a sink with its own writer.
    ``late``: columns that the staging may lack until the commit."""
    schema = None if load.schema is None else _staged_schema(db, target, load, lineage)
    with transaction(db, load.key):
        staging = Staging(db, target)
        staging.sweep_unknown(load.key)
        token = load.token if load.repeatable and schema is not None else ""
        mine: Stage | None = None
        for stage in staging.of(load.key):
            if mine is None and token == stage.token != "" and _fits(db.schema(stage.table), schema, late):
                mine = stage
            else:
                staging.drop(stage)
        staging.sweep_replacements(load.key, keep=target)
        if schema is not None and mine is None:
            mine = _new_stage(db, target, load, token, schema)
    return mine


def _staged_schema(db: Database, target: Name, load: Load, lineage: bool) -> pa.Schema:
    """The load's columns with the target's types, the columns that it leaves NULL, and lineage."""
    assert load.schema is not None
    require_columns(load.strategy, load.schema, target)
    have = db.schema(target)
    if have is not None:
        scd2.require_own(load.strategy, have, target, load.schema.names)
        if load.changes and (other := _other_key(db, target, load)):
            raise other
    wanted = [*load.schema.names, *(LINEAGE if lineage else ())]
    if load.strategy.deletes == "soft":
        wanted.append(DELETED_AT)
    missing = wanted if have is None else [n for n in wanted if n not in have.names]
    if have is None or missing:
        found = "the table does not exist" if have is None else f"the table has no column {', '.join(missing)}"
        lacking = SinkError(f"load {target}", found, "apply the schema changes first ('dpone plan' prints them)")
        lacking.category = Category.TRANSIENT  # another stream took back a column after the plan: plan again
        raise lacking
    names = [n for n in load.schema.names if n not in LINEAGE]
    nulls = [f for f in have if f.nullable and f.name not in names and _left_null(f.name, names)]
    ordered = load.strategy.duplicates != "fail" and load.strategy.by_file(load.schema.names)
    schema = pa.schema([*(have.field(n) for n in names), *nulls, *([_FILE] if ordered else ())])
    schema = with_lineage(schema) if lineage else schema
    if load.strategy.mode == "cdc_apply":
        return cdc_apply.staged_schema(schema, load, target)
    return scd2_changes.staged_schema(schema, have, load, target) if load.strategy.mode == "scd2" else schema


def _other_key(db: Database, target: Name, load: Load) -> SchemaBreak | None:
    """An error if the rows fill the target's primary key but have more key columns than it: two different rows could
    then have the same primary key."""
    key = db.primary_key(target)
    mine, was = {*load.strategy.key}, [k for k in key if k not in VALIDITY]
    given = {*load.schema.names} if load.schema and MODES[load.strategy.mode].needs_key else {*()}
    if not was or mine <= {*was} or not {*was} <= given:
        return None
    before, now = ", ".join(was), ", ".join(load.strategy.key)
    found = f"the rows' key is {now}, but the primary key of the target is {before}"
    if load.changes:
        found = f"the source's key is now {now}, but the target was created for key {before}"
    todo = f"drop the target and use --full-refresh, or change its primary key to ({now}); no row was changed"
    return SchemaBreak(f"load {target}", found, todo)


def _left_null(column: str, filled: Container[str]) -> bool:
    """True for the twin of a column that the rows fill, and for the mark of deleted rows: a row that is loaded again is
    no longer deleted."""
    return twin(column) in filled or column == DELETED_AT


def _fits(stage: pa.Schema | None, schema: pa.Schema | None, late: Container[str]) -> bool:
    if stage is None or schema is None:
        return False
    return {n for n in schema.names if n not in late} <= {*stage.names}


def _new_stage(db: Database, target: Name, load: Load, token: str, schema: pa.Schema) -> Stage:
    """A table exactly like the target if it may take the target's place in the commit, else one with bare columns."""
    strategy = load.strategy
    if load.changes:
        return _make_stage(db, target, load, token, schema, ())
    policy_ok = not strategy.key or strategy.duplicates == "fail"
    replaces = strategy.mode == "full_refresh" or is_empty(db, target)
    swaps = policy_ok and replaces and not db.dialect.ddl_commits
    shape = db.schema(target) if swaps and db.is_swappable(target, strategy.key) else None
    # Rows that the read lacks are found by key: a primary key now saves an index that the commit would need.
    diffs = policy_ok and strategy.whole and strategy.mode != "full_refresh"
    key = strategy.key if shape is not None or diffs else ()
    if shape is None:
        shape = pa.schema([f.with_nullable(f.name not in strategy.key) for f in schema])
    return _make_stage(db, target, load, token, shape, key)


def _make_stage(db: Database, target: Name, load: Load, token: str, shape: pa.Schema, key: Sequence[str]) -> Stage:
    table, at = _named(db, target, STAGE, load), load.started_at.astimezone(UTC)
    stage = Stage(table, load.load_id, token, at, unique=bool(key))
    Staging(db, target).add(load.key, stage)
    db.create(table, shape, key)
    return stage


def _named(db: Database, target: Name, what: str, load: Load) -> Name:
    """A name by load and key, since the loads of one commit share their id. ``sweep_unknown`` finds it by its end."""
    end = f"_{_digest(load.key)}"
    return target.sibling(db.dialect.fitting(f"{what}_{load.load_id}{end}", end))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def _same_kind(writer: Writer) -> SqlWriter:
    """Writers of ``SupportsManyTables.for_table`` are SqlWriters; no other can be part of this transaction."""
    if not isinstance(writer, SqlWriter):
        raise TypeError(f"{type(writer).__name__} is not a SqlWriter")
    return writer


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(one[name] for one in counts) for name in counts[0]}


def _written(counts: RowCounts, strategy: Strategy) -> int | None:
    """How many rows have the load's id after the load. Versions that scd2 closes or fills keep their id. None for
    cdc_apply, whose chunks may count a row twice."""
    if strategy.mode == "cdc_apply":
        return None
    return counts.inserted + (0 if strategy.mode == "scd2" else counts.updated)


@define
class _Counted:
    """Batches on their way to the staging. Counts rows and bytes, and refuses NULL in NOT NULL columns. order: that of
    the part's file, if the staging has a column for it."""

    stream: Stream
    required: tuple[str, ...]
    target: Name
    order: int | None
    rows: int = 0
    bytes: int = 0

    @property
    def staged(self) -> int:
        return self.rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self.stream.batches():
            for name in self.required:
                if batch.column(name).null_count:
                    self._refuse(name, batch.column(name))
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
            if self.order is not None:
                batch = batch.append_column(_FILE, pa.repeat(pa.scalar(self.order, _FILE.type), batch.num_rows))
            yield batch

    def _refuse(self, name: str, column: pa.Array) -> None:
        row = self.rows + column.is_null().index(True).as_py() + 1
        found = f"column {name} is NULL in row {row:,} of the part, but it is a key or NOT NULL column"
        raise DataError(f"load {self.target}", found, "exclude such rows in the source, or use another key")


class SqlWriter:
    """``contract.Writer`` over a Database. One thread at a time. ``into``: for a load that replaces the columns of the
    target, the table that it fills, which takes the target's place in the commit."""

    def __init__(
        self,
        db: Database,
        target: Name,
        load: Load,
        stage: Stage | None,
        lineage: bool,
        undo: Undo | None = None,
        into: Name | None = None,
    ) -> None:
        self.load_id = stage.load_id if stage else load.load_id
        self._undo, self._into = undo, into or target
        self._images: Images | None = None
        self._db, self._target, self._load, self._stage, self._lineage = db, target, load, stage, lineage
        self._staging = Staging(db, target)
        self._journal = Journal(db, target)

    def staged(self) -> Mapping[str, Staged]:
        return self._staging.parts(self._stage) if self._stage else {}

    def stage(self, part: Part, stream: Stream) -> Staged:
        stage = self._require_stage()
        if done := self._staging.part(stage, part.id):
            return done
        shape, names = self._stage_schema(stage), self._names()
        lineage = {LOAD_ID: self.load_id, LOADED_AT: stage.created_at} if self._lineage else {}
        with transaction(self._db, self._load.key):
            incoming: _Counted | cdc_apply.Incoming
            if self._load.changes:
                folding = self._folding(stage)
                schema = pa.schema([f for f in shape if f.name in folding.columns])
                incoming = cdc_apply.Incoming(stream, folding)
            else:
                schema = pa.schema([f for f in shape if f.name in (*names, FILE)])
                order = part.detail["order"] if FILE in shape.names else None
                incoming = _Counted(stream, tuple(f.name for f in schema if not f.nullable), self._target, order)
            written = self._db.load(stage.table, schema, incoming.batches(), lineage)
            if written != incoming.staged:
                how_many = f"{incoming.staged - written:,} of {counted(incoming.staged, 'row')}"
                raise repeated_keys(self._target, self._load.strategy, how_many)
            staged = Staged(incoming.rows, incoming.bytes, stream.filtered, stream.quarantined, stream.checks)
            self._staging.mark(stage, part.id, staged)
        return staged

    def commit(self, after: Entry | None, position: Position, also: Sequence[Writer] = ()) -> Receipt:
        others = [_same_kind(writer) for writer in also]
        for writer in (self, *others):
            writer._prepare()
        receipt = self._committed(after, position, others)
        with suppress(DponeError):  # the load is durable; the next one drops what is left
            for writer in (self, *others):
                writer._clean()
        return receipt

    def _prepare(self) -> None:
        """DDL before the commit's transaction. Does nothing if another run has dropped the staging: the fence then
        stops this one."""
        stage, db, key = self._stage, self._db, self._load.key
        if stage is None or (shape := db.schema(stage.table)) is None:
            return
        make_indexes(db, key, indexes(db, self._into, stage.table, shape, self._load, stage.unique))
        able = self._undo is not None and self._into == self._target  # rows with other columns cannot be restored
        if able and self._images is None:
            self._images = images(db, self._target, self.load_id)
            with transaction(db, key):
                self._staging.spend(key, self._images.table)
                self._images.create(scd2.kept_by(self._load.strategy))

    def _clean(self) -> None:
        """DDL after the commit's transaction."""
        key = self._load.key
        self._staging.drop_spent(key)
        if self._into != self._target:
            with transaction(self._db, key):
                self._staging.sweep_replacements(key)
        if self._load.schema is None:
            with transaction(self._db, key):
                self._staging.sweep(key)

    def _committed(self, after: Entry | None, position: Position, others: Sequence[SqlWriter]) -> Receipt:
        try:
            return self._commit(after, position, others)
        except DataError as error:  # with a cause: from the server, for a constraint
            found = (_other_key(one._db, one._target, one._load) for one in (self, *others))
            if error.__cause__ is not None and (other := next(filter(None, found), None)):
                raise other from error.__cause__
            raise

    def _commit(self, after: Entry | None, position: Position, others: Sequence[SqlWriter]) -> Receipt:
        load, now = self._load, datetime.now(UTC)
        with transaction(self._db, load.key):
            seq = self._journal.require(load.key, after, self.load_id)
            rows, kept = self._apply()
            added = [writer._finish(position, now) for writer in others]
            held = self._still_held(after, position) if load.schema is None else self._held()
            rows = _sum([rows, *added])
            entry = Entry(
                seq, position.epoch, self.load_id, load.run_id, load.token, position, now, rows, kept, held=held
            )
            self._journal.append(load.key, entry)
            self._sweep()
        for writer in (self, *others):
            writer._stage = None
        return Receipt.of(entry)

    def _finish(self, position: Position, now: datetime) -> Mapping[str, int]:
        """This writer's part of another one's commit: the rows, and a journal entry under its own key."""
        load, head = self._load, self._journal.head(self._load.key)
        seq, (rows, kept), held = (head.seq if head else 0) + 1, self._apply(), self._held()
        entry = Entry(seq, position.epoch, self.load_id, load.run_id, load.token, position, now, rows, kept, held=held)
        self._journal.append(load.key, entry)
        self._sweep()
        return rows

    def _apply(self) -> tuple[Mapping[str, int], tuple[UndoRecord, ...]]:
        """Write the staged rows to the target and mark the staging as spent. Returns the counts, and what was kept of
        the target."""
        if self._stage is None:
            return asdict(RowCounts()), ()
        self._db.writes(self._target)
        counts, kept = self._finalize(self._stage)
        self._staging.spend(self._load.key, self._stage.table)
        if self._into != self._target:
            counts = replaced(self._db, self._target, self._into, self._load, counts)
        Added(self._db, self._target).confirm(self._load)
        return asdict(counts), kept

    def _held(self) -> int | None:
        """``Entry.held`` after this load."""
        return None if self._load.schema is None else held(self._db, self._target, self._load.count)

    def _still_held(self, after: Entry | None, position: Position) -> int | None:
        """``Entry.held`` after a load without rows, as of an idle change stream: that of the last load of the target.
        Not in a new epoch: a position that was set by hand accepts the target as it is."""
        if after is None or after.held is None or after.epoch != position.epoch:
            return None
        return self._journal.held(after)

    def _sweep(self) -> None:
        if self._undo is not None:
            key = self._load.key
            self._staging.spend(key, *sweep(self._db, self._target, key, self._undo))

    def _finalize(self, stage: Stage) -> tuple[RowCounts, tuple[UndoRecord, ...]]:
        """Change the target. Returns the counts, and what was kept of the target."""
        targets = Targets(self._db, self._target)
        previous = targets.move(self.load_id)
        keeping = evolve(self._images) if self._images is not None else None  # a copy for each attempt of the commit
        if keeping is not None:
            keeping.hold()
        job = evolve(self._job(stage), images=keeping)
        counts = finalize(self._db, job)
        if not (counts.inserted or counts.updated or counts.deleted):
            targets.move(previous)
            return counts, ()
        if keeping is None:
            return counts, ()
        written, replaced = _written(counts, job.strategy), counts.updated + counts.deleted
        if written is not None and keeping.rows != replaced:
            found = (
                f"the load replaces {counted(replaced, 'row')}, but {keeping.rows:,} were kept: "
                "a trigger dropped rows, or different keys match the same row"
            )
            todo = (
                "check the target's triggers and the collation of its key columns, or remove sink.options.undo; "
                "nothing was changed"
            )
            raise SinkError(f"keep rows of {self._target}", found, todo)
        kept = keeping.kept(written, previous)
        if kept.name:
            self._staging.forget(keeping.table)
        return counts, (kept,)

    def abort(self) -> None:
        self._db.rollback()
        if self._stage:
            with transaction(self._db, self._load.key):
                self._staging.drop(self._stage)
                if self._into != self._target:
                    self._staging.sweep_replacements(self._load.key)
            self._staging.drop_spent(self._load.key)
            self._stage = None

    def close(self) -> None:
        self._db.rollback()

    def _require_stage(self) -> Stage:
        if self._stage is None:
            raise SinkError(f"stage rows of {self._target}", "the load has ended or has no rows", "start a new load")
        return self._stage

    def _folding(self, stage: Stage) -> fold.Folding:
        first, strategy = cdc_apply.next_chunk(self._db, stage.table), self._load.strategy
        whole = self._load.whole and first == 0
        clock = None
        if strategy.mode == "scd2":
            clock = scd2_changes.clock(self._db, self._target, self._load, stage.created_at)
        return fold.Folding(
            str(self._target), tuple(self._names()), strategy, stage.created_at, first, whole, clock=clock
        )  # fmt: skip

    def _names(self) -> list[str]:
        assert self._load.schema is not None
        return [n for n in self._load.schema.names if n not in LINEAGE]

    def _stage_schema(self, stage: Stage) -> pa.Schema:
        return self._there(stage.table, "staging table")

    def _there(self, table: Name, what: str) -> pa.Schema:
        """The columns of a table. It may be missing if a run without a common lease has dropped the staging, or has
        taken back a target that it had created."""
        schema = self._db.schema(table)
        if schema is None:
            gone = SinkError(f"load {self._target}", f"{what} {table} no longer exists", "run again")
            gone.category = Category.TRANSIENT
            raise gone
        return schema

    def _job(self, stage: Stage) -> StagedLoad:
        shape = self._stage_schema(stage)
        parts = self._staging.parts(stage).values()
        rows = sum(part.rows for part in parts)
        left_out = sum(part.filtered + part.quarantined for part in parts)
        strategy = self._load.strategy
        # A stage without the primary key (``duplicates`` lets it hold equal keys) would leave the target without one.
        keyed = stage.unique or not strategy.key
        same = shape.equals(self._there(self._into, "table"))
        swap = keyed and same and not self._db.dialect.ddl_commits
        swap = swap and self._db.is_swappable(self._into, strategy.key)
        filled = {*self._names(), *(LINEAGE if self._lineage else ())}
        schema = pa.schema([f for f in shape if f.name in filled or _left_null(f.name, filled)])
        return StagedLoad(
            self._db.dialect, self._into, stage.table, schema, strategy, rows, unique=stage.unique, swap=swap,
            whole=self._load.whole, read=rows + left_out, at=stage.created_at, filled=tuple(self._names()),
            changes=self._load.changes, stream=self._load.key, replayed=self._load.replayed,
        )  # fmt: skip
