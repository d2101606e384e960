"""The contract: what a connector implements and what the engine guarantees in return.

The engine calls in one order, for each stream (docs/architecture.md, laws 1 to 3):

    Sink.journal -> Source.window -> Sink.schema/ddl/provide -> Sink.open -> Writer.stage(part, Source.read(part))...
    -> Writer.commit -> StateBackend.save -> Source.ack

Every attempt creates its own Source, Sink and StateBackend, holds the key's lock from before ``Sink.journal`` until
after ``Source.ack``, and closes them in reverse order. A dry run (``dpone plan``) takes no lock and ends before
``provide``.

Rules for every class here:

* The constructor takes one spec (values from the pipeline file) and does no I/O.
* Calls are synchronous and come from the run's main thread, unless a docstring says otherwise. Other threads of a run:
  one for each part that is being staged (up to ``runtime.workers``), one that reads ahead for each of them, and one
  that renews the lease. The docstring of a method says if several threads may call it at once.
* Other processes run at the same time: other streams that load the same target, or a runner that has lost its lease
  without knowing it. No method may assume that it is alone. The lock of ``StateBackend`` keeps runners of one key
  apart; where it fails, the fence of ``Writer.commit`` decides.
* The docstring of a method says what is durable on return. A crash may undo everything else.
* ``close`` may be called twice, and after any failure. It undoes what is not durable: it aborts an open transaction,
  also one of a log, and never commits it. It must not raise an error that hides an earlier one. Afterwards no
  connection, thread, open file or spool of the object is left.
* Every wait has a time limit, also inside the driver: a peer can keep a connection open and never answer. Wait in
  slices of at most one second and call ``dpone.host.stopping.left`` before each; a timeout is a transient error.
* Raise the exceptions of ``dpone.errors`` where one fits, with the driver's exception as cause; let other driver
  exceptions pass: the connector's ErrorCodes classify them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from attrs import field, frozen

from dpone.capability import Role
from dpone.model.strategy import Strategy

if TYPE_CHECKING:
    import pyarrow as pa

    from dpone.model.changes import ChangeTable
    from dpone.model.evolution import SchemaChange, Stored
    from dpone.model.pipeline import SinkSpec, SourceSpec, StateSpec
    from dpone.model.position import Position
    from dpone.model.run_record import RunRecord
    from dpone.model.schema import Name
    from dpone.model.staged import Staged
    from dpone.partition import PartitionManifestStore


@frozen
class Finding:
    """One line of a check. ``ok`` is None if the check could not decide. ``todo`` is empty if ok."""

    name: str
    ok: bool | None
    found: str
    todo: str = ""


@frozen
class Part:
    """A piece of a window that can be read separately. ``id`` is unique in the window and the same whenever the same
    repeatable window is planned again; ``detail`` is JSON, so that a part can cross a process or a crash. A part that
    is a range of a column's values has it in ``detail["bounds"]`` (``bounds.Bounds.to_json``). If the rows are in files
    that have an order, ``detail["order"]`` is the number of the part's file in that order: a strategy with ``order_by:
    file`` keeps the row of the first or of the last file. ``content`` identifies the rows and their order: it is the
    same in every window that has these rows, and different for any other rows (a file's name and digest, a partition of
    a topic and its first offset). Ids of deliveries are made from it (``dpone.cdc.event_ids``). It is empty if nothing
    identifies the rows, as in a momentary read."""

    id: str
    detail: Mapping[str, Any] = field(factory=dict)
    content: str = ""


@frozen
class WindowRequest:
    """What the engine asks of a window.

    whole       the strategy replaces the target: read everything, whatever ``after`` says
    partitions  how many parts are wanted; a source may give fewer or more
    batch_rows  rows per batch; None leaves it to the source
    expected    columns of the target as they are now, for sources whose data has no types of its own (CSV): if the data
                fits the expected type, that type is used
    mode        the strategy's mode; a source that cannot serve it (append from xmin) raises ConfigError
    parts       the parts of an interrupted load, with their bounds: a source that declares ``mixed_snapshots`` returns
                a window of exactly these parts, in a new snapshot, or raises ConfigError
    to_end      a change stream is read to the end of its log, whatever its limit
    """

    whole: bool = False
    partitions: int = 1
    batch_rows: int | None = None
    expected: pa.Schema | None = None
    mode: str = "append"
    parts: tuple[Part, ...] = ()
    to_end: bool = False


@frozen
class Window:
    """A bounded read, fixed before the first row.

    position    position of the stream after the window is committed
    parts       empty if there is nothing to read
    repeatable  True: reading it again gives the same rows (file digests, offsets, commits). False: momentary, every
                read is a new load
    schema      Arrow schema that every batch of every part has
    whole       True: the window holds the whole source, so rows it lacks are gone from the source
    caught_up   True: the source had nothing after ``position``; ``proof`` says how that is known
    warnings    texts for the report of the run
    own_schema  True: the source has its own schema (a table, a query); a column that is not in it was dropped. False:
                the columns are known only from the data, which may lack a column that other data has. A column that
                the stream had before is then in ``schema`` too, if the target (``WindowRequest.expected``) still has
                it, and is NULL in rows that lack it, whichever data is read together
    absent      columns of ``schema`` that some data of the window lacks, mapped to that data: "b.csv"
    """

    position: Position
    parts: tuple[Part, ...]
    repeatable: bool
    schema: pa.Schema
    whole: bool
    caught_up: bool
    proof: str
    warnings: tuple[str, ...] = ()
    own_schema: bool = True
    absent: Mapping[str, str] = field(factory=dict)


@runtime_checkable
class Stream(Protocol):
    """The rows of one part.

    schema       known before the first batch
    native       names of byte formats this stream can provide instead of batches, best first; usually empty
    filtered     number of rows excluded by the source's documented policy so far
    quarantined  number of rows moved to a quarantine so far, by the source (a dead letter topic) and by the row
                 contract. They were read and are not in the batches
    checks       results of the row contract's checks, as text of the engine; empty in a stream of a source

    A writer reads the last three after the last batch or block of bytes, and stores them with the part's mark
    (``Staged``). ``BatchStream`` has defaults for all but ``schema`` and ``batches``.
    """

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def native(self) -> tuple[str, ...]: ...

    @property
    def filtered(self) -> int: ...

    @property
    def quarantined(self) -> int: ...

    @property
    def checks(self) -> str: ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of ``schema``, each bounded in memory. Called once, or not at all when a native format is taken.
        Iterated in a thread of its own, which is not the one that called ``read``."""
        ...

    def open_native(self, format: str) -> Iterator[bytes]:
        """The bytes of a format named in ``native``. Called once, instead of ``batches``."""
        ...


class BatchStream:
    """Base class of most streams: batches only, no filtered and no quarantined rows, unless a subclass overrides it."""

    @property
    def native(self) -> tuple[str, ...]:
        return ()

    @property
    def filtered(self) -> int:
        return 0

    @property
    def quarantined(self) -> int:
        return 0

    @property
    def checks(self) -> str:
        return ""

    def open_native(self, format: str) -> Iterator[bytes]:
        raise NotImplementedError(format)


@runtime_checkable
class Source(Protocol):
    """Reads one table, query, path or topic."""

    def __init__(self, spec: SourceSpec) -> None: ...

    def check(self) -> list[Finding]:
        """Connect and check, read-only. A failed connection is a Finding, not an exception.

        Called by ``dpone check --connect`` and ``dpone doctor``, once, of an object that does nothing else; never in a
        run."""
        ...

    def tables(self, pattern: str) -> list[str]:
        """Names that match a glob, sorted. Called for ``streams`` that select tables: once when a run or a command
        begins, without a lock, of an object that is closed afterwards. Raises SourceError."""
        ...

    def schema(self) -> pa.Schema:
        """Current columns. Called by ``dpone check --connect``. A run takes the columns from the window. It calls this
        once, before any window, only if it is about to stop because the target has rows that no journal explains: then
        an error of the source is reported first. Raises SourceError."""
        ...

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """Fix the bounds of the next read: strictly after ``after``; None means from the beginning.

        Called once per attempt, before any ``read``, under the key's lock (except in a dry run), and by ``dpone state
        set``, which only asks whether a position can be read from. It holds what the reads need (a snapshot, a spool)
        until ``close``; nothing has to survive a crash. It changes nothing in the source.

        Raises IdentityChanged, Gap or ContentChanged rather than skip or repeat rows (a log that dropped rows before
        they were read raises Gap, also where newer rows have come), ConfigError for a request it cannot serve,
        DataError for rows that cannot be read, SourceError otherwise. With nothing new it returns a window without
        parts whose position equals ``after``.
        """
        ...

    def read(self, part: Part) -> AbstractContextManager[Stream]:
        """Read one part of the latest window. Called once for each part that is not staged yet; with several workers
        from several threads at once, each of which enters and leaves the block of its part. Its stream is iterated in
        yet another thread, which ends before the block does, even if the sink gave up half way.

        Raises SourceError or DataError if the source changed during the read: rows of another state are never mixed in.
        An error that is raised while the stream is iterated reaches the engine through ``Writer.stage``, unchanged.
        """
        ...

    def ack(self, position: Position) -> None:
        """Everything up to ``position`` is durable in the sink and saved in the state; the source may forget it.

        Called at most once per attempt, last of all, by the thread of the run. Idempotent, and may do nothing. If a run
        is killed before it, the next run calls it, without a window if nothing is new. A failure fails the run, but its
        rows stay loaded."""
        ...

    def close(self) -> None:
        """Release connection, snapshot and spool, when no thread reads any more. Acknowledges nothing."""
        ...


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


@frozen
class UndoRecord:
    """What a commit kept of one target, so that its load can be taken back.

    target   name of the table, or of the folder as the pipeline spells it
    kind     ``added``: the load only added rows, nothing had to be kept. ``before_images``: the rows it changed or
             deleted. ``generation``: the whole target as it was
    name     of the table or folder that holds it; empty for ``added``
    rows     how many it holds
    written  rows of the target that carried the load's id when it was committed; None: not counted
    columns  of the target at that time, name -> Arrow type
    key      columns that identify a kept row in the target, for rows that the load changed without setting its own load
             id
    previous the load that had changed the target before, empty if that is not known
    """

    target: str
    kind: Literal["added", "before_images", "generation"]
    name: str = ""
    rows: int = 0
    written: int | None = None
    columns: Mapping[str, str] = field(factory=dict)
    key: tuple[str, ...] = field(default=(), converter=_texts)
    previous: str = ""


@frozen
class Entry:
    """One line of a sink's journal; the one with the highest ``seq`` of a key is its head.

    seq       1, 2, 3... per key
    epoch     as in ``position``
    token     what the load does (see Load)
    rows      inserted, updated, deleted, unchanged
    kept      data kept to take the load back; empty once that data is dropped
    undoes    the load that this entry takes back; empty in the entry of a load
    held      number of rows in the target at the commit: exact if the load says ``count``, else 1 for any number above
              0. An entry that loads no rows copies it from the entry before, in the same epoch. None: not known
    """

    seq: int
    epoch: int
    load_id: str
    run_id: str
    token: str
    position: Position
    committed_at: datetime
    rows: Mapping[str, int] = field(factory=dict)
    kept: tuple[UndoRecord, ...] = ()
    undoes: str = ""
    held: int | None = None


@frozen
class Load:
    """The load of one window into one target.

    key        of state and journal; of the staging too
    load_id    ULID; names the staging and the journal entry
    token      digest of key, epoch, start, end, parts, schema and strategy: loads with equal tokens do the same
    repeatable a later run may continue with the staged parts: the sink declares ``resume``, and the window is
    repeatable or the pipeline says ``mixed_snapshots``. Always False for a sink that does not declare ``resume``
    schema     columns of the target that the rows fill, lineage left out; None: journal only, the target is not
               touched (a rewind)
    whole      as in Window
    changes    the rows are change batches (``dpone.model.changes``), which ``cdc_apply`` folds and applies, and which
               ``scd2`` turns into versions; ``schema`` then has the columns of the target. If the load is also
               ``whole``, the commit empties the target before it applies them (``scd2``: closes the versions of rows
               that they lack)
    parts      number of parts; 0: not known
    count      ``Entry.held`` must be exact
    replace_columns
               only for a sink that declares ``replace_columns``: the commit replaces the target by a table with the
               columns of ``schema``, the sink's own columns, and the rows of the load only. Until then the target stays
               as it is. If the load is empty and must not empty the target, it always stays as it is
    origin     digest of key, epoch, the load before and everything that decides which rows a part has: the same for
               every attempt after that load, also if the source has more rows now
    replayed   the target may have some of the changes already, and later ones. The commit leaves what it would have
               without them, or fails
    """

    key: str
    load_id: str
    run_id: str
    token: str
    repeatable: bool
    schema: pa.Schema | None
    strategy: Strategy
    whole: bool
    started_at: datetime
    changes: bool = False
    parts: int = 0
    count: bool = False
    replace_columns: bool = False
    origin: str = ""
    replayed: bool = False

    def entry(self, after: Entry | None, position: Position, **rows: int) -> Entry:
        """The entry of its commit, for sinks that keep no journal of their own."""
        seq, now = after.seq + 1 if after else 1, datetime.now(UTC)
        return Entry(seq, position.epoch, self.load_id, self.run_id, self.token, position, now, rows)


_COUNTS = ("inserted", "updated", "deleted", "unchanged")


@frozen
class Receipt:
    """What a commit made durable. Counts are rows of the target; 0 if they do not apply to the strategy.

    sequences  a line for each sequence of the target that the commit has set beyond the values of the load, so that the
               next row of an application does not collide with a loaded row
    warnings   texts about this commit, each with what to do; both are in the report of the run
    """

    entry: Entry
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    sequences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Entry) -> Receipt:
        """With the counts of the entry."""
        inserted, updated, deleted, unchanged = (entry.rows.get(name, 0) for name in _COUNTS)
        return cls(entry, inserted, updated, deleted, unchanged)


@runtime_checkable
class Writer(Protocol):
    """One open load. ``load_id`` is the proposed id, or the id of an interrupted load with the same token whose staged
    parts this writer continues with."""

    load_id: str

    def staged(self) -> Mapping[str, Staged]:
        """Parts already staged, by id. Only a repeatable load can have any at the start. Called by the thread of the
        run, before the first part and after the last one, never while a part is being staged."""
        ...

    def stage(self, part: Part, stream: Stream) -> Staged:
        """Write the rows of a part and the part's mark, durable together on return. Idempotent: a part that is
        marked is not written again. The target is not touched.

        Called once per part: from several threads at once with different parts if the sink declares ``parallel_stage``,
        otherwise from the thread of the run. If the process is killed in it, the part has no mark and is staged again;
        rows that were already written do not count. An error of the stream is passed on unchanged after the part has
        been undone. Raises DataError for rows that the target does not accept, SinkError otherwise. If the sink does
        not declare ``resume``, staged parts need not survive the process."""
        ...

    def commit(self, after: Entry | None, position: Position, also: Sequence[Writer]) -> Receipt:
        """Make rows, journal entry and position durable together, then drop the staging. ``also`` is always given; it
        is empty unless the sink declares ``many_tables``. It has the writers of sinks from
        ``SupportsManyTables.for_table``, whose rows are part of the same commit; the receipt counts all of them. Each
        of them also gets an entry under the key of its own load, which says that the table was loaded and with how many
        rows. Only this writer's key is fenced and resumed.

        Locks the key's journal head first and raises Conflict, with nothing written, unless the head is ``after``.
        An empty load leaves the target as it is, unless the strategy says ``allow_empty``; its position becomes durable
        too. If the answer of the server is lost, raise: the engine asks ``Sink.journal`` whether the commit happened.

        Called once per writer, by the thread of the run, when every part is staged and no thread is staging; not called
        on a writer that is in the ``also`` of another. Other loads may commit to the same target at the same time. If
        the process is killed before the commit is durable, the target has none of it; after that, all of it. Raises
        Conflict, DataError (keys, constraints), DeletesRefused and other Stopped errors for a load that must not
        happen, SinkError otherwise. After each of them the target is as before, unless only the answer was lost.

        A sink of ``commit="none"`` has no journal to lock: it returns once the system has confirmed every row, with
        ``load.entry(after, position)`` in its receipt, which the engine then saves. Until it returns, the same rows may
        have to be delivered again, after a crash or an error; each row then has the same id as before
        (``dpone.cdc.event_ids``).
        """
        ...

    def abort(self) -> None:
        """Drop the staging; the target is as before ``open`` (for schema changes see ``SupportsTakeBack``). Idempotent.

        Called by the thread of the run when the load is given up after a failure, including a failed ``commit``. Its
        own failure is ignored: the next ``Sink.open`` of the key sweeps. After it only ``close`` is called."""
        ...

    def close(self) -> None:
        """Release the writer's resources and abort what is open: a part without a mark, a transaction, also one of a
        log. Staged parts stay for a later run if the sink declares ``resume``. Always called, last."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Writes one target."""

    def __init__(self, spec: SinkSpec) -> None: ...

    def check(self) -> list[Finding]:
        """As ``Source.check``, and whether the target could be written. Creates nothing."""
        ...

    def schema(self) -> pa.Schema | None:
        """Called before and after ``ddl``, any number of times, by the thread of the run. Creates nothing and does not
        cache its answer. Raises SinkError.

        Columns of the target, lineage included. None if the target does not exist, or has no known columns (a topic, a
        folder of JSON): then rows of any columns fit. Field metadata: ``schema.NATIVE`` where
        a length limits the column (``varchar(50)``), ``schema.DEFAULT`` where it has a default or is filled by the
        server,
        ``schema.EQUALITY`` where values that differ can be equal to it."""
        ...

    def exists(self) -> bool:
        """True if the target exists, whether its columns are known or not. A sink that cannot find out (an address that
        only accepts requests) returns True: False means that the rows of earlier loads are lost, and stops the run."""
        ...

    def is_empty(self) -> bool:
        """True if the target does not exist or has no rows, or if the sink cannot find out. Rows without a journal stop
        the first load of a stream."""
        ...

    def stores(self, type: pa.DataType) -> Stored:
        """How this sink stores values of an Arrow type. No I/O; also called on an unconnected sink, by the type
        matrix."""
        ...

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        """Statements that make the changes, with identifiers quoted; nothing is run. ``plan`` prints them too. Also
        adds lineage columns that are enabled and that an existing target lacks. Called once per load that is planned.
        Raises SchemaBreak or ConfigError for a change that this target cannot make, SinkError otherwise."""
        ...

    def apply(self, ddl: Sequence[str]) -> None:
        """Run the statements from ``ddl``; durable on return, all or nothing if the system allows it. Called once per
        load, before ``open``, in a run only of a sink without ``take_back``. If a change ``looks`` at the stored values
        and would alter one of them, it raises SchemaBreak and changes nothing."""
        ...

    def journal(self, key: str) -> Entry | None:
        """The head of a key's journal, None before the first commit. Creates nothing.

        The entry it returns must be durable: based on it, the state is saved and the source acknowledged. Called at the
        beginning of every attempt; without the lock by a dry run and by commands that only show the state; and on a new
        object if the answer to a commit was lost. For a journal that it cannot read it raises SinkError and never
        returns None. Not called on a sink of ``commit="none"``, whose journal is the state; it returns None there."""
        ...

    def open(self, load: Load) -> Writer:
        """Start a load, or continue an interrupted repeatable load of the same token. Sweeps the staging of other loads
        of this key; the caller holds the key's lock.

        Called once per load and target, by the thread of the run. Called once more, after ``abort`` and ``close`` of
        the first writer, if the row contract or the load id of another table in the same commit makes the staged parts
        unusable. If the sink declares ``resume``, the staging is durable on return. Raises what
        ``SupportsRefuse.refuse`` would raise, SinkError otherwise; no target is changed."""
        ...

    def close(self) -> None:
        """Release the connection. Called after ``close`` of its writers, which cannot be used afterwards."""
        ...


class SqlText(Protocol):
    """How a SQL sink writes names, types and statements. No I/O. ``sql.dialect.Dialect`` has all of it."""

    def too_long(self, identifier: str) -> str:
        """The length of a name and the limit, in words; empty if the name is not too long."""
        ...

    def reads(self, native: str) -> pa.DataType | None:
        """The Arrow type for a type name of the server; None for an unknown name."""
        ...

    def bind(self, value: Any, type: pa.DataType) -> Any:
        """A value of the pipeline file, to be compared with a column. Raises ConfigError if it does not fit the
        column."""
        ...

    def rewrites(self, change: SchemaChange) -> str:
        """Which parts of a table the server rewrites for a change; empty: none."""
        ...

    def statements(self, target: Name, change: SchemaChange, key: Sequence[str] = ()) -> list[str]:
        """What makes one change; a table that is created gets ``key`` as its primary key. Raises SinkError for a change
        that no statement makes."""
        ...


class SupportsSql(Protocol):
    """Optional part of a Sink whose plugin declares ``sql``."""

    @property
    def dialect(self) -> SqlText:
        """Works unconnected, for ``dpone schema-plan``."""
        ...


class SupportsCompareKeys(Protocol):
    """Optional part of a Sink whose plugin declares ``compare_keys``: how its key columns compare. Without it, new
    columns compare exactly."""

    def made(self, field: pa.Field) -> pa.Field:
        """The ``schema.EQUALITY`` of the column that ``ddl`` creates for a source's field. The metadata of the field
        itself is the source's."""
        ...

    def holds_like(self, column: str, pattern: str) -> bool:
        """True if the target has a text like the pattern in this column."""
        ...


class SupportsRefuse(Protocol):
    """Optional part of a Sink whose plugin declares ``refuse``: it detects loads that cannot succeed, or would do harm,
    whatever their rows are."""

    def refuse(self, strategy: Strategy, every_row: bool = False) -> None:
        """Raise what ``open`` would raise for such a load, for example because another table refers to rows that it
        would delete.
        ``every_row``: every row of the target is deleted, whatever the strategy (``Load.replace_columns``, a change
        window that is ``whole``). Called before a row is read, also by a dry run. Only reads the target."""
        ...


class SupportsVerify(Protocol):
    """Optional part of a Sink whose plugin declares ``verify``: it detects that the target lost rows. Without it, this
    is not checked."""

    def lost(self, entry: Entry, count: bool) -> str:
        """What the target has lost since the load of ``entry``, in words; empty if nothing. Rows that a later load of
        any stream removed are not lost. ``count``: compare the number of rows; otherwise only check whether there is
        any row, which must be cheap. The target exists."""
        ...


@frozen
class TakenBack:
    """A table or column that a load had added and did not commit, in words (``column coupon of orders``). ``stays``:
    why it is still there; empty if it was dropped."""

    what: str
    stays: str = ""


class SupportsTakeBack(Protocol):
    """Optional part of a Sink whose plugin declares ``take_back``: a load that does not commit leaves the target as it
    was. Without it, tables and columns that ``apply`` added stay.

    The safe DDL of a load comes before its staging. The table or columns that it adds are provisional until a load that
    uses them commits. That commit, of any stream, makes them permanent in the same transaction.
    """

    def provide(self, load: Load, ddl: Sequence[str]) -> None:
        """``Sink.apply`` for this load, together with a record of what it adds (in one transaction, if DDL has
        transactions). Called for every load that has a schema, even if there is nothing to run: the load may depend on
        something that loads of other streams have added and not yet committed."""
        ...

    def take_back(self, key: str, run_id: str = "") -> Sequence[TakenBack]:
        """Drop what loads of this key have added and not committed; ``run_id``: only those of one run. The caller holds
        the key's lock, and no load of the key is open. Called before a load is planned, and when it has failed for
        good. Staged parts of a load that will continue stay: its next ``provide`` adds again what they need.

        These stay, and belong to the target from then on: what loads of other keys depend on (the last of them takes it
        back); a table that has rows; a column that has a value; a table or column that was changed since, or on which
        anything depends (a view, an index, a reference). Nothing else is dropped with it, and a widened type stays. If
        the process is killed in it, the next call does the rest."""
        ...


@frozen
class UndoPlan:
    """A load that can be taken back. ``position``: where its key stood before it; None: at its beginning."""

    entry: Entry
    position: Position | None


@frozen
class Rehearsal:
    """What an undo would do to the target.

    statements  in the order of the undo, with their values: SQL in the target's dialect, or a line for each step of
                another system. Ids and times of the undo itself are those of the rehearsal
    deleted     rows it would take out
    inserted    rows it would put back
    """

    statements: tuple[str, ...]
    deleted: int = 0
    inserted: int = 0


class SupportsUndo(Protocol):
    """Optional part of a Sink whose plugin declares ``undo``: its loads keep what they replace for as long as
    ``options.undo`` says, and the newest load of a target can be taken back."""

    def loads(self, load_id: str) -> Sequence[tuple[str, Entry]]:
        """The entry of a load of this target, found by its id, then the entries of any stream that changed the target
        after it, oldest first; each with its key. Entries that take loads back are included. If a journal forgets a
        load that was taken back, only the entry that did so is returned. Empty if the journal has neither. Creates
        nothing."""
        ...

    def remaining(self, load_id: str) -> int:
        """Number of rows of the target that have the id of a load."""
        ...

    def undo_plan(self, key: str, load_id: str) -> UndoPlan:
        """Changes nothing. Raises UndoRefused if the load is not in the journal, was taken back, kept nothing, is not
        the last one that changed its target, or if the kept rows no longer fit the target."""
        ...

    def rehearse(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Rehearsal:
        """What ``undo`` would do with the same arguments, from a look at the target as it is now. Takes no lock and
        changes nothing. Raises what ``undo`` would."""
        ...

    def undo(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Receipt:
        """Make the target as it was before ``load_id``, and the entry of ``load`` (journal only) and ``position``
        durable with it; the kept data is dropped. Fenced as ``Writer.commit``; also raises what ``undo_plan`` raises,
        and UndoRefused, with nothing written, if the restored rows are not the kept ones. In the receipt,
        ``deleted`` counts rows removed, ``inserted`` rows restored. Schema changes stay."""
        ...


@frozen
class Leftover:
    """Data that no load and no undo needs any more.

    kind   ``journal``: old entries of a key. ``table``: a staging, or rows kept for an undo, which neither the journal
           nor an open load refers to
    name   the key, or the table
    count  of entries, or 1
    """

    kind: Literal["journal", "table"]
    name: str
    count: int = 1


class SupportsSweep(Protocol):
    """Optional part of a Sink whose plugin declares ``sweep``: what it keeps of its own can be cleaned up."""

    def leftovers(self, key: str, before: datetime) -> Sequence[Leftover]:
        """Entries of a key, and of the tables of its change stream (``key|``), that were committed before; and tables
        of any key. Never the head of a key, nor an entry that an undo needs: the one with kept data, and the one before
        it, which has the position. Nor the last entry with a number of rows (``Entry.held``). Takes no lock and changes
        nothing."""
        ...

    def sweep(self, key: str, before: datetime) -> Sequence[Leftover]:
        """Delete them; returns what was deleted. The caller holds the key's lock, while loads of other keys continue.
        If the process is killed in it, the next call does the rest."""
        ...


class SupportsMove(Protocol):
    """Optional part of a Sink whose plugin declares ``move``: the journal of a key can continue under another key, for
    a pipeline, a stream or a host that was renamed."""

    def journal_keys(self) -> Sequence[str]:
        """Every key that has an entry in the journal of this target, sorted. Creates nothing."""
        ...

    def move(self, old: str, after: Entry, new: str, before: Entry | None, gone: Entry) -> None:
        """In one commit, the journal of ``old`` becomes that of ``new``, with its entries unchanged. Everything else
        that has the key moves with it (data kept for ``undo``, the record of ``SupportsTakeBack``, keys of tables of a
        change stream, which begin with ``old|``). Afterwards ``gone`` is the only entry of ``old``. Entries of ``new``
        are replaced. Staged parts of ``old`` may be dropped.

        Called by an operator's command or at the beginning of a run, by one thread, while the locks of both keys are
        held. Fenced as ``Writer.commit``, for both keys: raises Conflict, with nothing written, unless ``after`` is the
        head of ``old`` and ``before`` that of ``new``. Afterwards a runner of ``old`` that is still alive finds
        ``gone``. No row of the target is touched. If the answer is lost, raise: the caller asks ``journal`` what
        happened."""
        ...


class SupportsManyTables(Protocol):
    """Optional part of a Sink whose plugin declares ``many_tables``."""

    def for_table(self, spec: SinkSpec) -> Sink:
        """A sink for another table over the same connection, so that one commit includes the rows of both. Closing it
        closes the connection."""
        ...


@frozen
class Versioned:
    """A saved state: ``version`` grows by one with every save of the key; ``saved_at`` is UTC."""

    value: Mapping[str, Any]
    version: int
    saved_at: datetime


@runtime_checkable
class Lease(Protocol):
    """A held lock. ``renew`` is called from a separate thread during the run."""

    owner: str

    def renew(self) -> None:
        """Extend by the ttl. Raises Conflict when another runner has taken the lock over."""
        ...


@runtime_checkable
class StateBackend(Protocol):
    """Stores positions, as a copy of the head of the sink's journal. Values are JSON objects, durable on return."""

    def __init__(self, spec: StateSpec) -> None: ...

    def check(self) -> list[Finding]:
        """As ``Source.check``, and whether a state could be written. Creates nothing."""
        ...

    def load(self, key: str) -> Versioned | None:
        """The newest value; None if there is none, or if it was deleted. Creates nothing. Called at the beginning of an
        attempt, and without the lock by commands that only show the state. Raises StateError if the value is damaged,
        or if the place of the states cannot be reached or is gone: None would mean that everything is read from the
        beginning."""
        ...

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        """Compare and set: writes only if the key's version is ``expected`` (0: there is none), returns the new
        version, raises Conflict otherwise. Atomic against every other process, whether it holds the lock or not.

        Called by the thread of the run after a commit of the sink, and when the journal is ahead. If the process is
        killed in it, the value is the old one or the new one. If the answer is lost, raise: the next attempt uses the
        journal."""
        ...

    def delete(self, key: str, expected: int) -> None:
        """Delete the value; the history stays, and versions continue. Compares, is atomic and durable as ``save``.
        Called by commands, under the key's lock."""
        ...

    def history(self, key: str, limit: int = 20) -> list[Versioned]:
        """Newest first, including values that were replaced or deleted. Called by commands, without the lock."""
        ...

    def lock(self, key: str, ttl: float) -> AbstractContextManager[Lease]:
        """One holder per key, for ``ttl`` seconds from the last renewal. Raises Busy, naming the holder, while the
        lease is valid. Takes it over if it has expired, if its process on this host is gone, or if it belongs to this
        process but no block uses it, because its release failed (``process.using`` and ``process.abandoned`` implement
        that rule). Two threads of one process exclude each other. A failed release is not an error: the work of the
        block is done, and the lease expires.

        Entered and left by the thread of the run. In between, a separate thread calls ``Lease.renew``, also while any
        other method of the same object runs. On entry the lease is durable, and visible to every other runner."""
        ...

    def close(self) -> None:
        """Release the connection. The block of every lock has ended; a lease that was not released expires."""
        ...


class SupportsPartitions(Protocol):
    """Optional part of a StateBackend whose plugin declares ``partitions``."""

    def partitions(self) -> PartitionManifestStore:
        """The store of partition manifests of this backend. Does no I/O."""
        ...


class RunLog(Protocol):
    """A record of each run. It is written when a run begins, renewed while the run lives, and replaced when it ends.
    Information only: no load depends on it, and a failure here never changes the outcome of a run.

    Writing is durable on return. Every method may be called from several threads, and by commands while runs write.
    Reading creates nothing. Raises StateError if the records cannot be reached, or if one is damaged."""

    def begin(self, record: RunRecord) -> None:
        """Add the record of a run that begins. Raises Conflict if there is one of this ``run_id``."""
        ...

    def replace(self, record: RunRecord, report: Mapping[str, Any] | None = None) -> None:
        """Compare and set: replaces the record of this run only if the kept one is ``running``, and raises Conflict
        otherwise, also if there is none. Atomic against every other process. ``report``: the whole report as JSON, kept
        together with the record."""
        ...

    def records(self, pipeline: str | None = None, since: datetime | None = None) -> Iterator[RunRecord]:
        """By ``started_at``, newest first: of one pipeline or of all, of runs that began at ``since`` or later. Reads
        a few hundred records at a time; the caller may stop at any of them."""
        ...

    def report(self, record: RunRecord) -> Mapping[str, Any] | None:
        """The whole report of a run; None if it was never given, or if the record was removed."""
        ...

    def prune(self, pipeline: str, before: datetime, keep: int) -> None:
        """Remove the records of one pipeline, with their reports, that began before ``before``, and all but the
        ``keep`` newest. Reads no record: a damaged one is removed when its time has come."""
        ...


class SupportsRunLog(Protocol):
    """Optional part of a StateBackend whose plugin declares ``run_log``."""

    def run_log(self) -> RunLog:
        """The records of runs that this backend keeps. Does no I/O. Called once by each run, and by ``dpone runs``."""
        ...


@frozen
class ChangeWindow:
    """As Window, for the tables of one change stream; always repeatable.

    commits  marks of the commits it holds: above the first, up to and including the second. A mark is text that sorts
             as the source commits; the first is that of ``after``, or empty for the beginning of the log. A log of
             several partitions has no order among them: its marks sort within a partition, and the first is empty
    tables   those with a change in the window, by the name the stream gives them
    changes  number of changes, None if it is known only after the read
    whole    the changes are inserts of all rows of the tables: other rows of the target no longer exist
    fresh    names of the tables that are ``whole`` if not all are: tables that are new to the stream
    warnings, own_schema  as in Window
    """

    position: Position
    commits: tuple[str, str]
    tables: Mapping[str, ChangeTable]
    caught_up: bool
    proof: str
    changes: int | None = None
    whole: bool = False
    fresh: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    own_schema: bool = True


@runtime_checkable
class CDCReader(Protocol):
    """Owns one slot or capture and reads many tables from it. A window is one load, one sink commit, one ack.

    A position identifies its source. It also stores everything that decides which changes arrive (members, filters, the
    columns of a capture, partitions), by identity and not by name. ``window`` compares this:

    * If changes since the position were lost, or rows were changed without a change record, it raises Gap or
    IdentityChanged on every run until a person decides. The error names the table and the command that reads it again.
    * A table that is new to the stream is read with all its rows, as inserts of one commit, and named in
    ``ChangeWindow.fresh``. The window is read up to the point of that snapshot; changes of the table before it are left
    out.
    * A table that should be in the stream and is not is a warning of every window.
    """

    def __init__(self, spec: SourceSpec) -> None: ...

    def check(self) -> list[Finding]:
        """As ``Source.check``, and also the slot or capture of the stream. Creates nothing."""
        ...

    def setup_plan(self, role: str = "") -> list[str]:
        """Idempotent statements for a DBA; nothing is run. ``role``: the role that will read, if it is not the user of
        the connection; a reader may lack this parameter. Called by ``dpone cdc-plan``, once per table, and connects to
        nothing.
        Raises ConfigError for what cannot be planned (a glob)."""
        ...

    def create(self) -> Position:
        """Create the slot or capture; returns the position at which its stream begins. Raises, without creating
        anything, if it would make writes of the source's applications fail.

        Called by ``dpone cdc create``, without a lock, any number of times: an existing one is not changed, and its
        position is returned. Durable on return. Raises ConfigError, SourceError."""
        ...

    def window(self, after: Position | None, limit: int | None) -> ChangeWindow:
        """Whole transactions strictly after ``after``, None: from where the stream begins. ``limit`` counts changes
        and is checked at commits, so that a window holds at least one transaction.

        The window is read to its end and spooled here, because only then are the columns of the tables known. Raises
        Gap or IdentityChanged rather than skip changes. If shapes cannot be united, the window ends before the
        transaction with the first change of the new shape.

        Called once per attempt, as ``Source.window``; in a replay first for the position that the stream has. The
        source keeps everything: nothing is acknowledged, and the spool need not survive a crash. If a log is read in a
        transaction, that transaction is aborted.
        """
        ...

    def read(self, table: str) -> AbstractContextManager[Stream]:
        """The change batches of one table of the latest window, in commit order: ``changes.batch_schema`` of it. Called
        as ``Source.read``, from several threads at once for different tables where the sink declares
        ``parallel_stage``; reads from the spool. Raises DataError for a change out of order, SourceError otherwise."""
        ...

    def ack(self, position: Position) -> None:
        """Let the source forget everything up to ``position``. Called after sink commit and state save only, as
        ``Source.ack``: at most once per attempt, idempotent, possibly without a window before it. A position that the
        source has already passed is ignored."""
        ...

    def lag(self) -> Mapping[str, Any]:
        """How far the stream is behind, in units of the source. Called by ``dpone cdc lag``, without a lock, also while
        a run reads the same slot. Changes nothing. Raises SourceError."""
        ...

    def drop(self) -> Sequence[str] | None:
        """Drop what ``create`` created, and nothing else. Returns a line for each object that was dropped or kept, and
        why; a reader may return None. Called by ``dpone cdc drop``, without a lock; it is not an error if the object no
        longer exists. Durable on return. Raises SourceError if it cannot be dropped, as while a run reads it."""
        ...

    def close(self) -> None:
        """Release connection and spool; slot or capture stay, with everything that was not acknowledged."""
        ...


class SupportsResync(Protocol):
    """Optional part of a CDCReader whose plugin declares ``resync``."""

    def resync(self, position: Position, tables: Sequence[str]) -> Position:
        """The same position without some of its tables (names or globs). The next windows have all rows of each of them
        as ``ChangeWindow.fresh``; the other tables continue unchanged. A table that the source no longer has leaves the
        stream. Changes nothing itself. Raises ConfigError for a name that neither the source nor the stream has."""
        ...


@frozen
class CDCStatus:
    """A change stream at its source, seen from a position.

    at, end   the position, and up to where the log goes now, in the words of the source (an LSN, a byte). ``end`` is
              empty if it is not known
    place     of the position in the log, as a number: a later position has a greater one; None: it is not of this log
    bytes     how much log is after the position; None: not known
    seconds   since the source committed what was read last: the stream is at most so far behind. 0 if there is nothing
              after the position; None: not known
    changes   number of changes after the position, where few bytes are; None: not counted
    slot      facts of the slot or capture, as the source calls them; empty if it has none
    waiting   tables whose rows the next runs read as a whole
    findings  whether the stream can go on from the position: one with ``ok`` False for all that ``window`` would refuse
              and that can be seen without reading the log
    """

    at: str
    end: str
    place: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    changes: int | None = None
    slot: Mapping[str, Any] = field(factory=dict)
    waiting: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class SupportsStatus(Protocol):
    """Optional part of a CDCReader whose plugin declares ``status``."""

    def status(self, position: Position | None) -> CDCStatus:
        """The state of the source as seen from ``position``; None: from where the stream begins. Called by ``dpone cdc
        status``, and by ``dpone cdc replay-plan`` for positions of the past, without a lock, also while a run reads.
        Changes nothing, reads few changes or none, and does not wait for another reader of the slot. A fault of the
        stream is a finding; raises SourceError if the source cannot be reached."""
        ...


PROTOCOLS: Mapping[Role, type] = {
    "source": Source,
    "sink": Sink,
    "state": StateBackend,
    "cdc": CDCReader,
}

# The optional parts of a connector, role by role: the capability that a plugin declares, and the Protocol that it
# promises. ``Plugins.load`` checks the class against both. ``Plugins.offered`` is the only place that looks them up, so
# no code asks an object for a member by name. A class may inherit more than its plugin declares; what is not declared
# is not used.
OPTIONAL: Mapping[Role, Mapping[str, type]] = {
    "sink": {
        "many_tables": SupportsManyTables,
        "undo": SupportsUndo,
        "sweep": SupportsSweep,
        "move": SupportsMove,
        "take_back": SupportsTakeBack,
        "refuse": SupportsRefuse,
        "verify": SupportsVerify,
        "compare_keys": SupportsCompareKeys,
        "sql": SupportsSql,
    },
    "state": {"partitions": SupportsPartitions, "run_log": SupportsRunLog},
    "cdc": {"resync": SupportsResync, "status": SupportsStatus},
}
