"""Change streams by logical decoding: one slot, one publication, pgoutput. docs/connectors/postgres-cdc.md.

A window is one call of ``pg_logical_slot_peek_binary_changes``, read through binary COPY, or the replication protocol
up to the bound (``transport``). Both are spooled and change nothing on the server: only ``ack`` moves the slot. The
bound is the WAL position that was flushed to disk when the window began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import psycopg
import pyarrow as pa
from attrs import evolve

from dpone.cdc.spool import Spool
from dpone.contract import (
    BatchStream,
    CDCStatus,
    ChangeWindow,
    Finding,
    Stream,
)
from dpone.errors import Category, ConfigError, DponeError, Gap, SourceError, counted
from dpone.model.changes import ChangeTable, batch_schema
from dpone.model.ids import ulid
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone_postgres import handover, outside, publication
from dpone_postgres.check import creating, stream_findings
from dpone_postgres.config import PostgresSourceOptions
from dpone_postgres.connect import connect, parameters, table_name, where
from dpone_postgres.errors import failing, sqlstate
from dpone_postgres.handover import SnapshotTable
from dpone_postgres.offsets import PostgresLogicalOffset
from dpone_postgres.outside import Facts, KnownFacts
from dpone_postgres.pgoutput import MARKER, Decoder, Relation, Shape, lsn_number, lsn_text, mark
from dpone_postgres.publication import Published, Unidentified, columns, columns_now, matches, published
from dpone_postgres.replication import HEADER, streamed
from dpone_postgres.review import (
    Review,
    Reviewer,
    lacking_operations,
    operations_todo,
    require_logged,
    require_operations,
    without,
)  # fmt: skip
from dpone_postgres.setup import HEARTBEAT, adding, plan
from dpone_postgres.slot import (
    FROM_SCRATCH,
    NO_SLOT,
    PLUGIN,
    ServerState,
    Slot,
    read_since,
    release,
    require_committed,
    require_not_passed,
    require_position,
    require_slot,
    rows,
    writer_in_the_way,
)
from dpone_postgres.transfer import copy_out
from dpone_postgres.waiting import Connection

_BLOCK_ROWS, _BLOCK_BYTES = 20_000, 8_000_000
_ROW = 6  # a row of COPY with one column: the count of columns, and the column's length
_MESSAGES = 20_000  # in addition to the changes: begin and commit of each transaction, descriptions of tables
_TRIES = 10
_ADDED = 20  # tables in the statement that a message shows
_WORTH = 1 << 20  # bytes of WAL without a change after which the position moves on: WAL is removed in files of 16 MB
# Flushed to this server's disk when it returns, whatever synchronous_commit the database sets.
_EMIT = (
    "SELECT pg_catalog.set_config('synchronous_commit', 'local', true), "
    "pg_catalog.pg_logical_emit_message(true, 'dpone', \0::text)"
)


class PostgresLogicalReader:
    """``contract.CDCReader``."""

    def __init__(self, spec: SourceSpec) -> None:
        options = spec.options if isinstance(spec.options, PostgresSourceOptions) else PostgresSourceOptions()
        if not options.slot or not options.publication:
            found = "no slot" if not options.slot else "no publication"
            raise ConfigError(
                "read source postgres by cdc", found, "set source.options.slot and source.options.publication"
            )
        if options.row_security == "on":
            found = "row_security: on, but a change stream contains the changes of all rows"
            raise ConfigError(
                "read source postgres by cdc", found, "remove row_security, and read as a role with BYPASSRLS"
            )
        self._options, self._spec, self._wanted = options, spec, spec.table
        self._slot, self._publication = options.slot, options.publication
        self._given = parameters(spec.connection)
        self._failed = f"read slot {self._slot} at {where(self._given)}"
        self._connection: Connection | None = None
        self._spool: Spool | None = None
        self._changed: dict[str, ChangeTable] = {}
        self._started = ""  # the server on which the latest window was checked

    # -- set up -------------------------------------------------------------------------------------------------

    def check(self) -> list[Finding]:
        try:
            return list(self._findings())
        except DponeError as error:
            return [Finding("connection", False, f"{error.failed}: {error.found}", error.todo)]
        finally:
            self.close()

    def _findings(self) -> Iterator[Finding]:
        db = self._db()
        server = ServerState.of(db, self._failed)
        level = server.wal_level == "logical"
        todo = "" if level else "set wal_level = logical and restart the server"
        yield Finding("wal_level", level, server.wal_level, todo)
        slot = Slot.of(db, self._slot, self._failed)
        try:
            if slot is None:
                yield Finding("slot", False, f"slot {self._slot} does not exist", NO_SLOT)
            else:
                slot.require(server, self._failed)
                yield Finding("slot", None if slot.wal_status == "unreserved" else True, self._slot_text(slot, server))
        except DponeError as error:
            yield Finding("slot", False, error.found, error.todo)
        yield _marker(db, server, self._failed)
        ask, chosen = partial(rows, db, self._failed), self._chosen(db)
        yield from stream_findings(ask, chosen)
        if not publication.exists(db, self._publication, self._failed):
            found = f"publication {self._publication} does not exist"
            yield Finding("publication", False, found, creating(ask, chosen))
            return
        tables = self._tables(db)
        text_ = ", ".join(str(t.name) for t in tables) or "none of the pipeline's tables"
        todo = "" if tables else self._adding(db)
        yield Finding("publication", bool(tables), f"{self._publication}: {text_}", todo)
        expected = self._options.operations
        facts = outside.read(db, self._publication, tables, self._failed)
        if lacking := lacking_operations(facts, expected):
            found = f"{self._publication} does not publish {', '.join(lacking)}: such changes are lost"
            yield Finding("operations", False, found, "; ".join(operations_todo(self._publication, expected, lacking)))
        for one in outside.unlogged(db, tables, facts, self._failed):
            yield Finding("log", False, one.found, one.todo)
        for warning in self._unpublished(db):
            yield Finding("publication", None, warning, "")
        broken = publication.breaking(db, self._publication, self._failed)
        yield from (_breaks(self._publication, one) for one in broken)
        yield from (_identity(table) for table in tables if table.name not in {one.name for one in broken})

    def _slot_text(self, slot: Slot, server: ServerState) -> str:
        kept = max(server.end - slot.restart, 0)
        return f"{self._slot}, {slot.wal_status}, retains {counted(kept, 'byte')} of WAL"

    def setup_plan(self, role: str = "") -> list[str]:
        """SQL for a DBA. Needs no server. Raises ConfigError for a glob, whose tables are not known without one."""
        names = [str(self._wanted)] if self._wanted else []
        user = role or str(self._given.get("user", "dpone"))
        return plan(self._slot, self._publication, names, user, self._options.failover)

    def create(self) -> Position:
        """Create the publication, then the slot: decoding fails for commits that are older than the publication.
        Existing ones are not changed. Waits for open writing transactions, up to ``options.lock_timeout``. A
        publication created here is marked by its comment, so that ``drop`` recognises it. On return both are durable;
        the position is where the slot starts."""
        db = self._db()
        server = ServerState.of(db, self._failed)
        if server.wal_level != "logical":
            found = f"wal_level is {server.wal_level}"
            raise SourceError(f"create slot {self._slot}", found, "set wal_level = logical and restart the server")
        slot = Slot.of(db, self._slot, self._failed)
        self._require_failover(db, slot)
        if not publication.exists(db, self._publication, self._failed):
            self._publish(db)
        if slot is None:
            self._make_slot(db)
            slot = require_slot(db, self._slot, None, self._failed)
        slot.require(server, self._failed)
        return self._position(server, slot.confirmed, {}, exact=True).to_position()

    def _require_failover(self, db: psycopg.Connection[Any], slot: Slot | None) -> None:
        """Raises SourceError if the slot is to be one and cannot, ConfigError if it is there and is none."""
        failed = f"create slot {self._slot}"
        if not self._options.failover:
            return
        if db.info.server_version < 170000:
            found = f"PostgreSQL {db.info.server_version // 10000} does not have failover slots, which came with 17"
            raise SourceError(failed, found, "remove --failover and source.options.failover")
        if slot is not None and not slot.failover:
            sql = f"ALTER_REPLICATION_SLOT {handover.DIALECT.quote(self._slot)} (FAILOVER true)"
            found = "the slot exists, but is not a failover slot"
            raise ConfigError(failed, found, f"run over a replication connection (psql 'replication=database'): {sql}")

    def _publish(self, db: psycopg.Connection[Any]) -> None:
        found = rows(db, self._failed, _ORDINARY)
        names = [name for name in map(Name, found) if self._selects(name)]
        failed = f"create publication {self._publication}"
        if not names:
            raise ConfigError(
                failed, f"no table matches {self._wanted or '*'}", "correct source.table, or create the table"
            )
        self._require_identified(failed, publication.unidentified(db, names, self._failed))
        quote, name = handover.DIALECT, handover.DIALECT.quote(self._publication)
        tables = ", ".join(map(quote.name, names))
        sql = f"CREATE PUBLICATION {name} FOR TABLE {tables} WITH (publish_via_partition_root = true)"
        mine = quote.literal(publication.comment(self._slot))
        with failing(SourceError, failed):  # both or none: one message is one transaction
            db.execute(f"{sql}; COMMENT ON PUBLICATION {name} IS {mine}".encode())

    def _require_identified(self, failed: str, broken: Sequence[Unidentified]) -> None:
        """OUT-16, PG-10: create nothing that makes writes of the source's applications fail. Raises ConfigError."""
        if not broken:
            return
        names = ", ".join(str(one.name) for one in broken)
        found = f"updates and deletes would fail in {names}: no replica identity"
        todo = "; ".join(one.todo for one in broken[:3]) + ("; and the same for the others" if len(broken) > 3 else "")
        without = ", ".join(sorted({str(name) for one in broken for name in one.by}))
        raise ConfigError(failed, found, f"exclude them with source.exclude: [{without}], or run: {todo}")

    def _selects(self, table: Name) -> bool:
        return matches(table, self._wanted) and not self._spec.excludes(table)

    def _make_slot(self, db: psycopg.Connection[Any]) -> None:
        failed = f"create slot {self._slot}"
        try:
            more = ", failover => true" if self._options.failover else ""
            sql = f"SELECT pg_catalog.pg_create_logical_replication_slot(\0, \0{more})"
            rows(db, failed, sql, (self._slot, PLUGIN))
        except SourceError as error:
            raise self._waited(error) from error

    def _waited(self, error: SourceError) -> SourceError:
        if sqlstate(error) not in ("55P03", "57014"):
            return error
        why = writer_in_the_way(self._db(), self._failed)
        text_ = SourceError(error.failed, error.found + why, "wait until it ends, or raise source.options.lock_timeout")
        text_.category = error.category
        return text_

    # -- windows ------------------------------------------------------------------------------------------------

    def window(self, after: Position | None, limit: int | None) -> ChangeWindow:
        db = self._db()
        tables, facts = self._catalogue(db)  # before the bound is fixed
        server = ServerState.of(db, self._failed)
        slot = require_slot(db, self._slot, after, self._failed)
        self._started, saved = slot.started, None
        if after is not None:
            saved = require_position(after, self._position(server, 0, {}), server, self._failed)
        slot.require(server, self._failed)
        self._require_published(db, tables)
        require_operations(facts, self._options.operations, self._publication, saved, self._failed)
        unlogged = outside.unlogged(db, tables, facts, self._failed)
        require_logged(unlogged, self._options.on_outside_change, saved, self._failed)
        epoch = after.epoch if after else 0
        if saved is None and self._options.initial == "snapshot":
            return self._snapshot(db, server, tables, facts, epoch)
        start = lsn_number(saved.lsn) if saved else slot.confirmed
        require_not_passed(slot, start, self._failed)
        reviewer = self._reviewer(db, saved, tables, facts)
        review, marker = reviewer.begin(), ""
        if saved is not None and review.reads:
            require_committed(db, slot, saved, self._failed)
        while True:
            # A marker commit before the point identifies the position. A limit would count the marker, and the
            # window would end before the point at every run.
            if review.due and (limit is None or not review.reads):
                marker = marker or self._marked(db, server)
            with self._joined(review.due) as (reading, point):
                bound = server if point is None else evolve(server, end=point)
                decoder = self._read(db, bound, slot, start, limit, saved, review)
                self._require_kept(db, start, server)
                if saved is not None and review.reads:
                    slot.require_history(saved, decoder.reached, self._failed)
                if point is None and _idle(server, start, decoder, saved) and self._marked(db, server):
                    bound = server = ServerState.of(db, self._failed)
                    decoder = self._read(db, bound, slot, start, limit, saved, review)
                    self._require_kept(db, start, server)
                before = review
                review = reviewer.end(review, decoder)
                if review.due != before.due:
                    continue  # more tables must be read whole: this window must leave out their changes
                if reading is not None and point is not None and not decoder.short:
                    reviewer.facts = outside.with_partitions(reading, review.due, reviewer.facts, self._failed)
                    self._spool_rows(db, reading, decoder.spool, review.due, point)
                return self._window(db, bound, start, decoder, saved, epoch, review, reviewer, marker)

    def _marked(self, db: psycopg.Connection[Any], server: ServerState) -> str:
        """Write a commit that the slot will deliver, so that a position can end at it. Returns the content of its
        message, empty if nothing may be written: on a standby, or without the privilege."""
        content = f"{MARKER.decode()}{ulid()}"
        try:
            if not server.standby:
                rows(db, self._failed, _EMIT, (content,))
                return content
        except SourceError as error:
            if sqlstate(error) != "42501":  # insufficient_privilege
                raise
        return ""

    def _reviewer(
        self,
        db: psycopg.Connection[Any],
        saved: PostgresLogicalOffset | None,
        tables: Sequence[Published],
        facts: Mapping[str, Facts],
    ) -> Reviewer:
        def compare(table: Name, was: KnownFacts, now: Facts, truncates: Sequence[int] | None) -> list[str]:
            return outside.differences(db, table, was, now, truncates, self._failed)

        def look(tables: Sequence[Published]) -> Mapping[str, Facts]:
            now = {table.oid: table for table in self._tables(db)}  # with their current columns, too
            asked = [evolve(now.get(table.oid, table), name=table.name) for table in tables]
            return outside.read(db, self._publication, asked, self._failed)

        options, named = self._options, {str(table.name): table for table in tables}
        return Reviewer(
            self._publication, self._selects, options.on_outside_change, options.initial,
            self._failed, saved, named, facts, compare, look,
        )  # fmt: skip

    @contextmanager
    def _joined(self, tables: Sequence[Published]) -> Iterator[tuple[Connection, int] | tuple[None, None]]:
        """A transaction that sees the tables as of an LSN of the stream, and that LSN; None twice if no table is
        given."""
        if not tables:
            yield None, None
            return
        try:
            with handover.at_slot(self._given, tables, self._failed, **self._limits) as joined:
                yield joined
        except SourceError as error:
            raise self._waited(error) from error

    def _spool_rows(
        self,
        db: psycopg.Connection[Any],
        reading: Connection,
        spool: Spool,
        tables: Sequence[Published],
        point: int,
    ) -> None:
        """Spool the existing rows as inserts of one commit."""
        at, ordinal, text = datetime.now(UTC), 0, self._options.special_values == "text"
        for table in tables:
            rows_of = SnapshotTable(table, columns_now(db, table, self._failed), text)
            ordinal = rows_of.spool(reading, spool, point, at, ordinal)
            self._changed[str(table.name)] = rows_of.change
        spool.commit(self._changed)  # not the part of a transaction after the point that may be in the spool

    def _snapshot(
        self,
        db: psycopg.Connection[Any],
        server: ServerState,
        tables: Sequence[Published],
        facts: Mapping[str, Facts],
        epoch: int,
    ) -> ChangeWindow:
        """A window with all rows of all tables, at the start of the stream. The marker is written first: the slot
        returns it again until it is moved to the snapshot's LSN."""
        marker = self._marked(db, server)
        with self._joined(tables) as (reading, point):
            assert reading is not None
            assert point is not None
            facts = outside.with_partitions(reading, tables, facts, self._failed)
            spool = self._new_spool(server, "")
            self._spool_rows(db, reading, spool, tables, point)
        position = evolve(
            self._position(server, point, {str(t.name): t.oid for t in tables}, *self._known_by(db, marker)),
            outside={name: one.known().to_json() for name, one in facts.items()},
        )
        proof = f"snapshot of {counted(len(tables), 'table')} at {lsn_text(point)}; the stream continues there"
        return ChangeWindow(
            position.to_position(epoch), ("", mark(point)), self._changed, True, proof, spool.changes, whole=True,
            warnings=tuple(self._unpublished(db)),
        )  # fmt: skip

    def _read(
        self,
        db: psycopg.Connection[Any],
        server: ServerState,
        slot: Slot,
        start: int,
        limit: int | None,
        saved: PostgresLogicalOffset | None,
        review: Review,
    ) -> Decoder:
        commit = saved.commit if saved else ""

        def shape(relation: Relation) -> Shape | None:
            relation = evolve(relation, table=review.name(relation.oid, relation.table))
            if not self._selects(Name.parse(relation.table)) or not review.takes(relation.table):
                return None
            found = columns(db, relation.oid, relation.names, relation.types, self._failed)
            key = relation.key if relation.identity != "f" else _primary(review.tables.get(relation.oid), relation)
            return Shape.of(relation, found, key, self._options.special_values == "text")

        count = None if limit is None else limit + min(2 * limit, _MESSAGES)
        while True:
            spool = self._new_spool(server, mark(start))
            decoder = Decoder(spool, start, server.end, limit, shape, dict(review.inside), commit)
            fed = self._streamed if self._options.transport == "stream" else self._fed
            whole = server.end <= slot.confirmed or not review.reads or fed(decoder, server.end, count)
            if whole or decoder.over or decoder.end is not None:
                break
            assert count is not None, "the server ends early only at a message count"
            count *= 8  # the slot lags: everything that came had been delivered before
        if not whole:
            decoder.over = decoder.short = True
        if decoder.end is None and decoder.settled:
            spool.commit()
        return decoder

    def _fed(self, decoder: Decoder, upto: int, count: int | None) -> bool:
        """True if everything up to the bound was read. ``count``: the number of messages after which the server
        stops."""
        fed = 0
        with (
            self._another() as reading,
            self._peeking(),
            closing(copy_out(reading, self._peek(upto, count))) as messages,
        ):
            while not decoder.over and (block := _block(messages)):
                decoder.feed(block, _ROW)
                fed += len(block)
        return count is None or fed < count

    def _streamed(self, decoder: Decoder, upto: int, count: int | None) -> bool:
        """The same by the replication protocol, which dpone ends itself, so that ``count`` is not needed. Starts at
        0/0, which means the slot's own position: from a later LSN the server would skip a commit that begins before
        it."""
        command = f"START_REPLICATION SLOT {handover.DIALECT.quote(self._slot)} LOGICAL 0/0"
        command += " (" + ", ".join(f"{name} {value}" for name, value in self._plugin_options().items()) + ")"
        with closing(connect({**self._given, "replication": "database"}, SourceError, **self._limits)) as reading:
            pid = reading.info.backend_pid
            with self._peeking():
                messages = streamed(reading, command, upto)
                while not decoder.over and (block := _block(messages)):
                    decoder.feed(block, HEADER)
        release(self._db(), self._slot, pid, self._failed)
        return True

    def _peek(self, upto: int, count: int | None) -> str:
        """``upto_nchanges`` counts messages and is checked only at the end of a transaction (functions-admin)."""
        options = "".join(f", '{name}', {value}" for name, value in self._plugin_options().items())
        return (
            f"SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes("
            f"{handover.DIALECT.literal(self._slot)}, '{lsn_text(upto)}', {count or 'NULL'}{options})"
        )

    def _plugin_options(self) -> dict[str, str]:
        """With messages, so that a commit with only a marker is delivered: PostgreSQL 15 and later skip empty ones."""
        names = handover.DIALECT.literal(handover.DIALECT.quote(self._publication))
        messages = {"messages": "'true'"} if _gives_messages(self._db()) else {}
        return {"proto_version": "'1'", "publication_names": names, **messages}

    def _known_by(self, db: psycopg.Connection[Any], marker: str) -> tuple[str, bool]:
        """The marker that identifies a position at which no commit ends, and whether the position is exact."""
        exact = bool(marker) and _gives_messages(db)
        return marker if exact else "", exact

    def _window(
        self,
        db: psycopg.Connection[Any],
        server: ServerState,
        start: int,
        decoder: Decoder,
        saved: PostgresLogicalOffset | None,
        epoch: int,
        review: Review,
        reviewer: Reviewer,
        marker: str,
    ) -> ChangeWindow:
        spool, read = decoder.spool, () if decoder.short else review.due
        self._changed = {**spool.tables, **self._changed}
        end, commit, exact = decoder.end, decoder.commit, True
        if read:
            commit, exact = (commit, exact) if end is not None else self._known_by(db, marker)
            end = server.end
        elif end is None or (_still(decoder, saved) and end - start < _WORTH):
            end, commit, exact = start, saved.commit if saved else "", saved is None or saved.exact
        position = evolve(
            self._position(server, end, decoder.tables, commit, exact),
            **reviewer.result(review, decoder.tables, decoder.truncated, decoder.leaves, short=decoder.short),
        )
        proof = f"slot {self._slot} read up to {lsn_text(end)}; the WAL was safe up to {lsn_text(server.end)}"
        if not read and _idle(server, start, decoder, saved):
            proof += "; no marker could be written, so the slot stays there and retains WAL"
            proof += " (docs/connectors/postgres-cdc.md)"
        if spool.filtered:
            proof += f"; {spool.filtered} of its changes had been delivered before"
        names, warnings = [str(table.name) for table in read], [*review.warnings, *self._unpublished(db)]
        if names:
            proof += f"; all rows of {', '.join(names)} as of there"
        elif review.due:
            late = ", ".join(str(table.name) for table in review.due)
            warnings.append(f"the rows of {late} are read by a later window: this one ended at its limit")
        return ChangeWindow(
            position.to_position(epoch), (mark(start), mark(end)), self._changed, not decoder.over, proof,
            spool.changes, fresh=frozenset(names), warnings=tuple(warnings),
        )  # fmt: skip

    @contextmanager
    def read(self, table: str) -> Iterator[Stream]:
        assert self._spool is not None, "window comes first"
        yield _TableStream(self._spool, table, batch_schema(self._changed[table]))

    def _new_spool(self, server: ServerState, after: str) -> Spool:
        if self._spool is not None:
            self._spool.close()
        self._changed = {}
        self._spool = Spool(f"{server.system}/{server.database}", after)
        return self._spool

    def _position(
        self, server: ServerState, lsn: int, tables: Mapping[str, int], commit: str = "", exact: bool = False
    ) -> PostgresLogicalOffset:
        return PostgresLogicalOffset(
            server.system, server.timeline, server.database, self._slot, PLUGIN, self._publication, lsn_text(lsn),
            dict(tables), commit, exact,
        )  # fmt: skip

    # -- stops --------------------------------------------------------------------------------------------------

    def _catalogue(self, db: psycopg.Connection[Any]) -> tuple[list[Published], Mapping[str, Facts]]:
        """Tables and facts as of one moment: a column renamed between the two queries would look unpublished."""
        tables = self._tables(db)
        for _ in range(_TRIES):
            facts = outside.read(db, self._publication, tables, self._failed)
            before, tables = tables, self._tables(db)
            if tables == before:
                return tables, facts
        error = SourceError(self._failed, "its tables keep being altered", "run again")
        error.category = Category.TRANSIENT
        raise error

    def _chosen(self, db: psycopg.Connection[Any]) -> list[Name]:
        """The table that the pipeline names, or those of its glob that are published."""
        return [table.name for table in self._tables(db)] if self._named is None else [self._named]

    @property
    def _named(self) -> Name | None:
        """None: the pipeline has a glob."""
        glob = self._wanted is None or {*"*?["} & {*str(self._wanted)}
        return None if glob or self._wanted is None else table_name(self._wanted)

    def _tables(self, db: psycopg.Connection[Any]) -> list[Published]:
        return [t for t in published(db, self._publication, self._failed) if self._selects(t.name)]

    def _unpublished(self, db: psycopg.Connection[Any]) -> Iterator[str]:
        """OUT-03: warnings for tables that a glob selects and the publication does not contain."""
        if self._named is not None:
            return
        names = [name for name in outside.unpublished(db, self._publication, self._failed) if self._selects(name)]
        identifying = names and publication.identifying(db, self._publication, self._failed)
        broken = publication.unidentified(db, names, self._failed) if identifying else []
        for name in names:
            todo = adding(self._publication, [name])
            if first := [
                one.todo for one in broken if name in one.by
            ]:  # OUT-16: otherwise the application's updates fail
                todo = f"exclude it with source.exclude: [{name}], or run {'; '.join(first)}; then {todo}"
            yield f"table {name} is selected, but not in publication {self._publication}: it is not read; {todo}"

    def _require_published(self, db: psycopg.Connection[Any], tables: Sequence[Published]) -> None:
        """PG-22: the target of an unpublished table would silently never change. Raises ConfigError."""
        if not tables and not publication.exists(db, self._publication, self._failed):
            found = f"publication {self._publication} does not exist"
            raise ConfigError(self._failed, found, "create it with 'dpone cdc create'")
        if not tables:
            found = f"publication {self._publication} has no table that matches {self._wanted or '*'}"
            raise ConfigError(self._failed, found, self._adding(db))

    def _adding(self, db: psycopg.Connection[Any]) -> str:
        """The statement that adds the selected tables to the publication: at most the first 20, warnings name the rest.
        A table whose updates would then fail (OUT-16) is added only after a statement that gives it an identity."""
        names = [name for name in outside.unpublished(db, self._publication, self._failed) if self._selects(name)]
        if not names:
            return "correct source.table, or create the table"
        broken = publication.unidentified(db, names, self._failed)
        if whole := [name for name in names if not any(name in one.by for one in broken)]:
            return adding(self._publication, whole[:_ADDED])
        first = [one.todo for one in broken if names[0] in one.by]
        return "; then ".join([*first, adding(self._publication, names[:1])])

    def _require_kept(self, db: psycopg.Connection[Any], start: int, server: ServerState) -> None:
        """Check that the slot was not moved or dropped while it was read. Raises Gap."""
        slot = Slot.of(db, self._slot, self._failed)
        if slot is None:
            raise Gap(self._failed, f"slot {self._slot} was dropped while it was read", FROM_SCRATCH)
        require_not_passed(slot, start, self._failed)

    @contextmanager
    def _peeking(self) -> Iterator[None]:
        try:
            with failing(SourceError, self._failed):
                yield
        except SourceError as error:
            # 55000 object_not_in_prerequisite_state: "can no longer get changes from replication slot"
            # 42704 undefined_object: changes were written while there was no such publication
            if sqlstate(error) in ("55000", "42704"):
                raise Gap(self._failed, error.found, FROM_SCRATCH) from error
            raise

    # -- after the sink's commit --------------------------------------------------------------------------------

    def ack(self, position: Position) -> None:
        """Move the slot to the position, never beyond. The server must be known to have the position's last commit:
        either a window was checked on it since it was started, or the slot is read again here."""
        if position.kind != PostgresLogicalOffset.backend:
            return
        saved = PostgresLogicalOffset.from_position(position)
        db, failed = self._db(), f"acknowledge {saved.lsn} to slot {self._slot} at {where(self._given)}"
        slot = Slot.of(db, self._slot, failed)
        if slot is not None and slot.confirmed < lsn_number(saved.lsn):
            if slot.started != self._started:
                self._require_history(db, slot, position, failed)
            rows(db, failed, "SELECT pg_catalog.pg_replication_slot_advance(\0, \0::pg_lsn)", (self._slot, saved.lsn))

    def resync(self, position: Position, tables: Sequence[str]) -> Position:
        """``contract.SupportsResync``."""
        if position.kind != PostgresLogicalOffset.backend:
            found = f"the position is a {position.kind} position, not of a change stream"
            raise ConfigError(f"resync {', '.join(tables)}", found, "use 'dpone run --full-refresh'")
        published = [str(table.name) for table in self._tables(self._db())]
        saved = PostgresLogicalOffset.from_position(position)
        return without(saved, tables, published).to_position(position.epoch)

    def _require_history(self, db: psycopg.Connection[Any], slot: Slot, position: Position, failed: str) -> None:
        server = ServerState.of(db, failed)
        saved = require_position(position, self._position(server, 0, {}), server, failed)
        upto = lsn_number(saved.lsn)
        with closing(Spool("")) as nothing:
            decoder = Decoder(nothing, upto, upto, None, lambda relation: None, {}, saved.commit)
            (self._streamed if self._options.transport == "stream" else self._fed)(decoder, upto, None)
        slot.require_history(saved, decoder.reached, failed)

    def lag(self) -> Mapping[str, Any]:
        """In bytes of WAL: ``behind`` is not acknowledged yet, ``kept`` cannot be removed by the server because of the
        slot. Raises ConfigError if the slot does not exist."""
        db = self._db()
        server = ServerState.of(db, self._failed)
        slot = Slot.of(db, self._slot, self._failed)
        if slot is None:  # it is not known here whether there is a position
            raise ConfigError(self._failed, f"slot {self._slot} does not exist", NO_SLOT)
        return {
            "slot": slot.name, "confirmed": lsn_text(slot.confirmed), "end": lsn_text(server.end),
            "behind": max(server.end - slot.confirmed, 0), "kept": max(server.end - slot.restart, 0),
            "wal_status": slot.wal_status, "active": slot.active is not None,
        }  # fmt: skip

    def status(self, position: Position | None) -> CDCStatus:
        """``contract.SupportsStatus``. ``seconds`` is by the clock of the server, whose commits have its times."""
        db = self._db()
        server, slot = ServerState.of(db, self._failed), Slot.of(db, self._slot, self._failed)
        saved: PostgresLogicalOffset | None = None
        findings = [_slot_finding(slot, server, self._failed, position is None)]
        if position is not None:
            try:
                saved = require_position(position, self._position(server, 0, {}), server, self._failed)
                if slot is not None:
                    require_not_passed(slot, lsn_number(saved.lsn), self._failed)
                findings.append(Finding("position", True, f"{saved.lsn} can be resumed"))
            except DponeError as error:
                findings.append(Finding("position", False, error.found, error.todo))
        at = lsn_number(saved.lsn) if saved else slot.confirmed if slot is not None and position is None else None
        behind = None if at is None else max(server.end - at, 0)
        since = read_since(db, saved.commit, self._failed) if saved else None
        facts = {} if slot is None else {**slot.health(), "kept_bytes": max(server.end - slot.restart, 0)}
        return CDCStatus(
            "" if at is None else lsn_text(at), lsn_text(server.end), at, behind, 0.0 if behind == 0 else since, None,
            facts, self._waiting(db, saved, position), tuple(findings),
        )  # fmt: skip

    def _waiting(
        self, db: psycopg.Connection[Any], saved: PostgresLogicalOffset | None, position: Position | None
    ) -> tuple[str, ...]:
        published = {str(table.name) for table in self._tables(db)} if self._options.initial == "snapshot" else set()
        if saved is None:
            return tuple(sorted(published)) if position is None else ()
        return tuple(sorted({*saved.due} | published - {*saved.tables}))

    def drop(self) -> list[str]:
        """Drop the slot, and the publication if ``create`` created it for this slot. Returns one line for each."""
        db, failed = self._db(), f"drop slot {self._slot} at {where(self._given)}"
        text_ = [f"slot {self._slot} did not exist"]
        if Slot.of(db, self._slot, failed) is not None:
            rows(db, failed, "SELECT pg_catalog.pg_drop_replication_slot(\0)", (self._slot,))
            text_ = [f"slot {self._slot} dropped"]
        return text_ + self._drop_publication(db)

    def _drop_publication(self, db: psycopg.Connection[Any]) -> list[str]:
        name, failed = handover.DIALECT.quote(self._publication), f"drop publication {self._publication}"
        sql = "SELECT pg_catalog.obj_description(oid, 'pg_publication') FROM pg_catalog.pg_publication"
        found = rows(db, failed, f"{sql} WHERE pubname = \0", (self._publication,))
        if not found:
            return [f"publication {self._publication} did not exist"]
        if found != [(publication.comment(self._slot),)]:
            why = f"'dpone cdc create' did not create it for this slot; to drop it: DROP PUBLICATION {name};"
            return [f"publication {self._publication} kept: {why}"]
        with failing(SourceError, failed):
            db.execute(f"DROP PUBLICATION {name}".encode())
        return [f"publication {self._publication} dropped"]

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- connections --------------------------------------------------------------------------------------------

    def _db(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        return connect(self._given, SourceError, statement_timeout=self._options.statement_timeout, **self._limits)

    @contextmanager
    def _another(self) -> Iterator[Connection]:
        with closing(self._connect()) as db:
            yield db

    @property
    def _limits(self) -> dict[str, Any]:
        """Without statement_timeout, which the replication protocol does not have."""
        return {"lock_timeout": self._options.lock_timeout, "silence_timeout": self._options.silence_timeout}


_ORDINARY = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n
ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_' AND c.relname !~ '^__dpone__'
ORDER BY 1, 2"""


def _slot_finding(slot: Slot | None, server: ServerState, failed: str, new: bool) -> Finding:
    if slot is None:
        return Finding(
            "slot", False, "the slot does not exist", "create it with 'dpone cdc create'" if new else NO_SLOT
        )
    try:
        evolve(slot, active=None).require(server, failed)  # an active reader is not a fault
    except DponeError as error:
        return Finding("slot", False, error.found, error.todo)
    if slot.wal_status != "unreserved":
        return Finding("slot", True, f"slot {slot.name} is {slot.wal_status}")
    found = f"slot {slot.name} keeps more WAL than max_slot_wal_keep_size: the next checkpoint may remove it"
    return Finding("slot", None, found, "run the pipeline now")


_MAY_EMIT = """
SELECT bool_and(pg_catalog.has_function_privilege(oid, 'EXECUTE')), current_user::text,
       string_agg(oid::regprocedure::text, ', ')
FROM pg_catalog.pg_proc WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace
AND proargtypes[2] = 'text'::regtype"""


def _marker(db: psycopg.Connection[Any], server: ServerState, failed: str) -> Finding:
    """The privilege needed to advance an idle slot. PUBLIC has it unless it was revoked."""
    if server.standby:
        todo = f"run this on the primary every minute: {HEARTBEAT}"
        return Finding("marker", None, "a standby cannot write markers, so an idle slot retains WAL", todo)
    [(may, user, function)] = rows(db, failed, _MAY_EMIT)
    todo = (
        ""
        if may
        else f"GRANT EXECUTE ON FUNCTION {function} TO {handover.DIALECT.quote(user)}; "
        "or run the heartbeat that 'dpone cdc-plan' prints"
    )
    found = f"{user} may {'' if may else 'not '}execute pg_logical_emit_message, which advances an idle slot"
    return Finding("marker", True if may else None, found, todo)


def _gives_messages(db: psycopg.Connection[Any]) -> bool:
    """pgoutput delivers messages from PostgreSQL 14 on; before, it delivers every commit, empty ones too."""
    return db.info.server_version >= 140000


def _still(decoder: Decoder, saved: PostgresLogicalOffset | None) -> bool:
    """The window is empty and the saved position is exact: it stays, so that an idle stream does not write to the
    journal and the state at every run."""
    return not decoder.spool.tables and not decoder.over and (saved is None or saved.exact)


def _idle(server: ServerState, start: int, decoder: Decoder, saved: PostgresLogicalOffset | None) -> bool:
    """The window is empty, and the slot retains WAL that could be removed if there were a commit to advance to."""
    if decoder.spool.tables or decoder.over:
        return False
    end = start if decoder.end is None else decoder.end
    return server.end - end >= _WORTH or (decoder.end is None and not _still(decoder, saved))


def _block(messages: Iterator[bytes]) -> list[bytes]:
    block: list[bytes] = []
    size = 0
    for message in islice(messages, _BLOCK_ROWS):
        block.append(message)
        size += len(message)
        if size >= _BLOCK_BYTES:
            break
    return block


def _primary(table: Published | None, relation: Relation) -> tuple[str, ...]:
    """REPLICA IDENTITY FULL lists every column; the primary key, if there is one, distinguishes rows."""
    return table.key if table is not None and {*table.key} <= {*relation.names} else ()


def _breaks(publication: str, table: Unidentified) -> Finding:
    found = f"{table.name}: the server rejects its updates and deletes while it is in publication {publication}"
    drop = f"ALTER PUBLICATION {handover.DIALECT.quote(publication)} DROP TABLE {handover.DIALECT.name(table.name)}"
    return Finding("replica identity", False, found, f"{table.todo}, or {drop} and add it to source.exclude")


def _identity(table: Published) -> Finding:
    words = {"d": "default (primary key)", "n": "nothing", "f": "full", "i": "index"}
    found = f"{table.name}: {words.get(table.identity, table.identity)}"
    if table.generated and not {*table.generated} <= {*table.columns}:
        found += f"; generated columns are not in the stream: {', '.join(table.generated)}"
    if table.key:
        return Finding("replica identity", True, found)
    todo = (
        f"ALTER TABLE {handover.DIALECT.name(table.name)} REPLICA IDENTITY DEFAULT if it has a primary key, or REPLICA "
    )
    todo += "IDENTITY USING INDEX with a unique index of NOT NULL columns; or use strategy append"
    return Finding("replica identity", None, f"{found}; its rows cannot be identified", todo)


class _TableStream(BatchStream):
    """The changes of one table. See ``dpone.contract.Stream``."""

    def __init__(self, spool: Spool, table: str, schema: pa.Schema) -> None:
        self._spool, self._table, self.schema = spool, table, schema

    @property
    def filtered(self) -> int:
        return self._spool.filtered_of(self._table)

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._table in self._spool.tables:  # a snapshot lists tables without rows, too
            yield from self._spool.read(self._table)
