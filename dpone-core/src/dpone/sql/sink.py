"""What the sinks of all SQL systems share. A connector names its Database, and may add checks of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import pyarrow as pa
from attrs import evolve

from dpone.contract import Entry, Finding, Leftover, Load, Receipt, Rehearsal, TakenBack, UndoPlan, Writer
from dpone.errors import ConfigError, DponeError, SchemaBreak, SinkError, counted
from dpone.model.evolution import SchemaChange, Stored, not_kept
from dpone.model.pipeline import SinkSpec
from dpone.model.position import Position
from dpone.model.schema import PREFIX, Name
from dpone.model.strategy import Strategy
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Database, Dialect, is_look, transaction
from dpone.sql.journal import Journal
from dpone.sql.key_move import move
from dpone.sql.provisional import Added
from dpone.sql.references import require_deletable, require_no_action
from dpone.sql.restore import rehearse, remaining, take_back, undo_plan
from dpone.sql.strategies import scd2
from dpone.sql.strategies.job import held, is_empty, require_columns
from dpone.sql.sweep import leftovers, sweep
from dpone.sql.writer import (
    Staging,
    create_own,
    lacking_own,
    open_load,
    own_lock,
    replacement_of,
    with_lineage,
)


def target_of(spec: SinkSpec, *reserved: str) -> Name:
    """The table of the pipeline file. Raises ConfigError if there is none, or if its name is reserved."""
    if spec.table is None:
        raise ConfigError("read sink", "no table", "set table: name")
    if spec.table.last.startswith((PREFIX, *reserved)):
        raise ConfigError("read sink", f"table {spec.table} has a reserved prefix", "name another table")
    return spec.table


class SqlSink:
    """``contract.Sink`` over a Database, and every protocol of ``contract.OPTIONAL`` except ``many_tables``.
    ``replace_columns`` needs this ``open``, or one that uses ``_into`` in the same way.

    database_class  the Database of the connector, unless ``__init__`` is given another one
    """

    database_class: ClassVar[type[DbapiDatabase]]

    def __init__(self, spec: SinkSpec, target: Name | None = None, db: Database | None = None) -> None:
        """``target``: by default the table of the pipeline file. Raises ConfigError."""
        target = target or target_of(spec)
        self._db = db = db or self.database_class.of(spec)
        self._spec, self._target = spec, db.dialect.table_name(target)

    @classmethod
    def missing(cls, capability: str) -> list[str]:
        """For ``plugins.lacking``: members of the Database that a capability needs and that it does not have."""
        of = getattr(cls, "database_class", None)
        if capability != "take_back" or of is None:
            return []
        needs = ["identity", "dependants", *(["alone"] if of.system_class.dialect.ddl_commits else [])]
        dropped = of.take_out is Database.take_out  # its own ``take_out`` may need none of them but identity
        needs = needs if dropped else ["identity"]
        return [f"{of.__name__}.{name}" for name in needs if getattr(of, name) is getattr(Database, name)]

    def check(self) -> list[Finding]:
        """Creates nothing."""
        try:
            kind = "will be created" if self.schema() is None else "exists"
        except DponeError as error:
            return [Finding("target", False, error.found, error.todo)]
        if "{table}" in self._target.last:  # a stream of many tables, known only from its changes
            kind = "for each table of the stream"
        return [Finding("target", True, f"{self._target} {kind}")]

    def schema(self) -> pa.Schema | None:
        return self._db.schema(self._target)

    def exists(self) -> bool:
        return self.schema() is not None

    def is_empty(self) -> bool:
        return not self.exists() or is_empty(self._db, self._target)

    def lost(self, entry: Entry, count: bool) -> str:
        """``contract.SupportsVerify``."""
        if not entry.held or (have := held(self._db, self._target, count)) >= (entry.held if count else 1):
            return ""
        left = Journal(self._db, self._target).held(entry)
        if not left or have >= left:
            return ""
        return (
            f"it has {counted(have, 'row')}, but had {left:,} before" if count else "it is empty, but had rows before"
        )

    def made(self, field: pa.Field) -> pa.Field:
        """``contract.SupportsCompareKeys``."""
        return field.remove_metadata()

    def holds_like(self, column: str, pattern: str) -> bool:
        d = self.dialect
        like = f"SELECT 1 FROM {d.name(self._target)} AS t WHERE t.{d.quote(column)} LIKE {d.literal(pattern)}"
        [(found,)] = self._db.rows(d.exists(like))
        return bool(found)

    @property
    def dialect(self) -> Dialect:
        """``contract.SupportsSql``."""
        return self._db.dialect

    def stores(self, type: pa.DataType) -> Stored:
        return self.dialect.stores(type)

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        have = self.schema()
        if have is not None:
            scd2.require_own(self._spec.strategy, have, self._target)
        made = [statement for change in changes for statement in self._statements(change)]
        if have is None or any(change.kind == "create" for change in changes):
            return made
        lacking = lacking_own(self._spec.strategy, have, self._spec.options.lineage.enabled)
        self._require_room(len(have) + len(lacking) + sum(change.kind == "add" for change in changes))
        return made + [self.dialect.add_column(self._target, f) for f in lacking]

    def _statements(self, change: SchemaChange) -> list[str]:
        if change.kind == "create" and change.schema is not None:
            return [self.dialect.create_table(self._target, *self._shape(self._makeable(change.schema)))]
        if change.kind == "add" and change.after is not None:
            [after] = self._makeable(pa.schema([change.after]))
            change = evolve(change, after=after)
        return self.dialect.statements(self._target, change)

    def _shape(self, schema: pa.Schema) -> tuple[pa.Schema, tuple[str, ...]]:
        """Columns and primary key of a table for rows of ``schema``."""
        strategy, options = self._spec.strategy, self._spec.options
        require_columns(strategy, schema, self._target)
        # Only strict pipelines get NOT NULL columns: the others let a source become nullable.
        strict = options.schema_evolution.mode == "strict"
        schema = pa.schema([f if strict else f.with_nullable(True) for f in schema])
        schema, key = scd2.shape(strategy, schema)
        schema = with_lineage(schema) if options.lineage.enabled else schema
        self._require_room(len(schema))
        return schema, key

    def _require_room(self, columns: int) -> None:
        most = self.dialect.max_columns
        if most is not None and columns > most:
            found = f"{counted(columns, 'column')} including dpone's own, but a table can have at most {most:,}"
            todo = "read fewer columns, as by source.query, or load them into several tables; nothing was changed"
            raise SchemaBreak(f"evolve the schema of {self._target}", found, todo)

    def _makeable(self, schema: pa.Schema) -> pa.Schema:
        """New columns without the native types that this database does not have."""
        return schema

    def apply(self, ddl: Sequence[str]) -> None:
        """In one transaction: all or nothing."""
        with transaction(self._db, str(self._target)):
            self._run(ddl)

    def _run(self, ddl: Sequence[str]) -> None:
        if any(map(is_look, ddl)):
            self._db.hold(self._target)
        for statement in ddl:
            self._apply(statement)

    def _apply(self, statement: str) -> None:
        if not is_look(statement):
            self._db.execute(statement)
            return
        [(column, type_, rows)] = self._db.rows(statement)
        if rows:
            raise not_kept(str(self._target), column, type_, int(rows))

    def provide(self, load: Load, ddl: Sequence[str]) -> None:
        """``contract.SupportsTakeBack``: like ``apply``, and records what is added."""
        added = Added(self._db, self._target)
        if not ddl and not added.lines():
            return
        lock = str(self._target)
        with transaction(self._db, lock):
            added.create()
        with transaction(self._db, lock):
            before = self.schema()
            if ddl and self.dialect.ddl_commits:
                lineage = self._spec.options.lineage.enabled
                own = [] if before is None else lacking_own(self._spec.strategy, before, lineage)
                added.expect(load, before, [field.name for field in own])
            self._run(ddl)
            added.note(load, before)

    def take_back(self, key: str, run_id: str = "") -> Sequence[TakenBack]:
        """``contract.SupportsTakeBack``, in one transaction."""
        added = Added(self._db, self._target)
        Staging(self._db, self._target).drop_spent(key)
        if not added.of(key, run_id):
            return ()
        with transaction(self._db, str(self._target)):
            return tuple(added.take_back(key, run_id))

    def journal(self, key: str) -> Entry | None:
        return Journal(self._db, self._target).head(key)

    def refuse(self, strategy: Strategy, every_row: bool = False) -> None:
        """``contract.SupportsRefuse``."""
        if self.schema() is not None:
            require_deletable(self._db, self._target, strategy, every_row)

    def _refuse(self, load: Load) -> None:
        if load.schema is not None:
            self.refuse(load.strategy, load.replace_columns or (load.whole and load.changes))

    def open(self, load: Load) -> Writer:
        by = {*load.strategy.key, *filter(None, [load.strategy.partition])}
        if unfit := self._db.unfit(self._target, by):
            raise SinkError(f"load {self._target}", *unfit)
        self._refuse(load)
        options = self._spec.options
        with transaction(self._db, own_lock(self._target)):
            create_own(self._db, self._target, load, options.undo)
        return open_load(self._db, self._target, load, options.lineage.enabled, options.undo, self._into(load))

    def _into(self, load: Load) -> Name:
        """The table that the load fills: the target, or an empty one that takes its place in the commit."""
        if not load.replace_columns or load.schema is None:
            return self._target
        if self.dialect.ddl_commits:
            todo = "drop the target, and run again"
            raise SinkError(f"replace the columns of {self._target}", "DDL commits implicitly on this server", todo)
        table, (schema, key) = replacement_of(self._db, self._target, load), self._shape(self._makeable(load.schema))
        with transaction(self._db, load.key):
            Staging(self._db, self._target).replace(load, table)
            self._db.create(table, schema, key)
        return table

    def undo_plan(self, key: str, load_id: str) -> UndoPlan:
        plan = undo_plan(self._db, self._target, key, load_id)
        require_no_action(self._db, self._target, f"take back load {load_id}")
        return plan

    def loads(self, load_id: str) -> Sequence[tuple[str, Entry]]:
        """``contract.SupportsUndo``, as the four that follow."""
        return Journal(self._db, self._target).loads(load_id)

    def remaining(self, load_id: str) -> int:
        return remaining(self._db, self._target, load_id)

    def rehearse(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Rehearsal:
        require_no_action(self._db, self._target, f"take back load {load_id}")
        return rehearse(self._db, self._target, load, load_id, after, position)

    def undo(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Receipt:
        require_no_action(self._db, self._target, f"take back load {load_id}")
        return take_back(self._db, self._target, load, load_id, after, position)

    def leftovers(self, key: str, before: datetime) -> Sequence[Leftover]:
        """``contract.SupportsSweep``, as the next."""
        return leftovers(self._db, self._target, key, before)

    def sweep(self, key: str, before: datetime) -> Sequence[Leftover]:
        return sweep(self._db, self._target, key, before)

    def journal_keys(self) -> Sequence[str]:
        """``contract.SupportsMove``."""
        return Journal(self._db, self._target).keys()

    def move(self, old: str, after: Entry, new: str, before: Entry | None, gone: Entry) -> None:
        move(self._db, self._target, old, after, new, before, gone)

    def close(self) -> None:
        self._db.close()
