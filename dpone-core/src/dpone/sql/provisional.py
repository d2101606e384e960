"""What loads have added to a target and not committed yet: the table itself, or columns.

The table ``__dpone__added`` next to the target has a line for each of them and each stream whose load uses it. A line
is written in the transaction of the DDL, and deleted in the commit of a load that uses what was added. If DDL commits
by itself, a line with only the name is durable before the DDL (``expect``), and is deleted after a drop. A line that
exists after a load failed, or after its process died, names something that was never committed: the last stream that
uses it takes it back. If it has rows, values or dependants by then, it is left as it is and belongs to the target.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
from attrs import frozen

from dpone.contract import Load, TakenBack
from dpone.model.schema import PREFIX, Name
from dpone.sql.dialect import Database
from dpone.sql.own import Own
from dpone.sql.strategies.job import is_empty

TABLE = "__dpone__added"
_SCHEMA = pa.schema([(name, pa.string()) for name in ("target", "column", "key", "run_id", "made")])


def own(db: Database, target: Name) -> Own:
    return Own(db, target.sibling(TABLE), _SCHEMA, ("target", "column", "key"))


@frozen
class _Line:
    """column: empty for the table itself. made: its identity and columns when the stream began to use it; empty if its
    DDL may not have been executed."""

    column: str
    key: str
    run_id: str
    made: str


class Added:
    """The lines of one target. ``note``, ``confirm`` and ``take_back`` are part of the caller's transaction, which
    excludes every other one that changes the target."""

    def __init__(self, db: Database, target: Name) -> None:
        self._db, self._target, self._table = db, target, own(db, target)
        # on some servers Orders and orders are one table
        self._name = target.last if db.dialect.exact_names else target.last.lower()

    def create(self) -> None:
        self._table.create()

    def lines(self) -> list[_Line]:
        """The line of the table comes before those of its columns. Creates nothing."""
        if not self._table.exists():
            return []
        found = self._table.rows(_SCHEMA.names[1:], {"target": self._name})
        return sorted((_Line(*row) for row in found), key=lambda line: line.column)

    def of(self, key: str, run_id: str = "") -> list[_Line]:
        """The lines of a stream; ``run_id``: of one run of it."""
        return [one for one in self.lines() if one.key == key and run_id in ("", one.run_id)]

    def expect(self, load: Load, before: pa.Schema | None, own: Sequence[str]) -> None:
        """Write lines before DDL that commits by itself. ``own``: columns of dpone's own that it adds."""
        names = [*load.schema.names, *own] if load.schema is not None else [*own]
        new = {""} if before is None else {*names} - {*before.names}
        for line in self.lines():
            if line.column in new or before is None:
                self._forget(line)
        for column in sorted(new):
            self._write(_Line(column, load.key, load.run_id, ""))

    def note(self, load: Load, before: pa.Schema | None) -> None:
        """Write lines for what the load has added, and for what loads of other streams have added and this one uses.
        ``before``: columns before the DDL of the load."""
        now = self._db.schema(self._target)
        if now is None:
            return
        lines = self.lines()
        # without columns that another program added while the DDL waited for its lock
        new = {""} if before is None else {name for name in now.names if name not in before.names and _uses(load, name)}
        for line in lines:  # of an earlier table or column with this name
            if line.column in new or before is None:
                self._forget(line)
        used = {line.column for line in lines if before is not None and _uses(load, line.column)}
        for column in sorted(new | used):
            line = _Line(column, load.key, load.run_id, self._made(now, column))
            self._forget(line)
            self._write(line)

    def confirm(self, load: Load) -> None:
        """The load is committed, and what it uses stays."""
        for line in self.lines():
            if line.key == load.key or _uses(load, line.column):
                self._forget(line)

    def take_back(self, key: str, run_id: str) -> Iterator[TakenBack]:
        """Take back what a stream, or one run of it, has added. Iterate it to the end."""
        mine = self.of(key, run_id)
        if mine and self._db.schema(self._target) is not None:
            self._db.hold(self._target)
        for line in mine:
            now = self._db.schema(self._target)
            shared = any(other.column == line.column and other.key != line.key for other in self.lines())
            if shared or now is None or (line.column and line.column not in now.names):
                self._forget(line)
                continue
            what = f"column {line.column} of {self._target}" if line.column else f"table {self._target}"
            stays = self._drop(line, now)
            self._forget(line)  # after the drop, which may commit
            yield TakenBack(what, stays)

    def _drop(self, line: _Line, now: pa.Schema) -> str:
        """Drop it. Returns why it stays; empty if it was dropped."""
        if line.made and line.made != self._made(now, line.column):
            return "it has changed since then"
        if line.column and self._has_values(line.column):
            return "it has values"
        if not line.column and not is_empty(self._db, self._target):
            return "it has rows"
        return self._db.take_out(self._target, line.column)

    def _has_values(self, column: str) -> bool:
        d = self._db.dialect
        some = f"SELECT 1 FROM {d.name(self._target)} AS t WHERE t.{d.quote(column)} IS NOT NULL"
        return bool(self._db.rows(d.exists(some))[0][0])

    def _made(self, now: pa.Schema, column: str) -> str:
        columns = {f.name: str(f.type) for f in now if column in ("", f.name)}
        return json.dumps([self._db.identity(self._target, column), columns])

    def _write(self, line: _Line) -> None:
        self._table.insert(self._name, line.column, line.key, line.run_id, line.made)

    def _forget(self, line: _Line) -> None:
        if self._table.exists():
            self._table.delete({"target": self._name, "column": line.column, "key": line.key})


def _uses(load: Load, column: str) -> bool:
    """True for the table, for a column that the rows fill, and for a column of dpone's own."""
    return not column or column.startswith(PREFIX) or (load.schema is not None and column in load.schema.names)
