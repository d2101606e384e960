"""The journal of a database: one line per committed load, in the same database and transaction as its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pyarrow as pa
from attrs import asdict

from dpone.contract import Entry, UndoRecord
from dpone.errors import Conflict, DponeError, SinkError
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.sql.dialect import Database
from dpone.sql.own import Own

TABLE = "__dpone__loads"
_TEXT = ("load_id", "run_id", "token", "position", "rows", "committed_at")
_UNDO = ("kept", "undoes")  # a journal older than undo gets them with the next load
_HELD, _TARGET = "held", "target"  # stored with the counts; missing in entries of older versions
SCHEMA = pa.schema(
    [("key", pa.string()), ("seq", pa.int64()), ("epoch", pa.int64()), *((name, pa.string()) for name in _TEXT + _UNDO)]
)


def own(db: Database, target: Name) -> Own:
    return Own(db, target.sibling(TABLE), SCHEMA, ("key", "seq"))


class Journal:
    """The journal, in the schema of ``target``. New entries are about this table."""

    def __init__(self, db: Database, target: Name) -> None:
        self._db = db
        # on some servers Orders and orders are one table
        self._target = target.last if db.dialect.exact_names else target.last.lower()
        self._table = own(db, target)

    def create(self) -> None:
        """Before the transaction that appends; does nothing if it exists."""
        self._table.create()

    def head(self, key: str) -> Entry | None:
        """The entry with the highest seq. Creates nothing."""
        d, table, seq = self._db.dialect, self._db.dialect.name(self._table.name), self._db.dialect.quote("seq")
        last = f"SELECT MAX(k.{seq}) FROM {table} AS k WHERE k.{d.quote('key')} = {d.placeholder}"
        return self._first(key, {}, f" AND a.{seq} = ({last})", (self._table.stored("key", key),))

    def keys(self) -> list[str]:
        """All keys, with those of the tables of change streams, sorted."""
        return sorted(self._table.distinct("key")) if self._table.exists() else []

    def load(self, key: str, load_id: str) -> Entry | None:
        return self._first(key, {"load_id": load_id})

    def loads(self, load_id: str) -> list[tuple[str, Entry]]:
        """``SupportsUndo.loads``: of this table, whatever their keys."""
        first = self._of_table({"load_id": load_id})
        if not first:
            return []
        d, at = self._db.dialect, min(entry.committed_at for _, entry in first)
        later = f" AND a.{d.quote('committed_at')} >= {d.placeholder}"
        others = self._of_table({}, later, (at.isoformat(timespec="microseconds"),))
        after = (one for one in others if one[1].load_id != load_id and _changes(one[1]))
        return [*first, *sorted(after, key=lambda one: one[1].committed_at)]

    def _of_table(
        self, equal: Mapping[str, Any], more: str = "", values: Sequence[Any] = ()
    ) -> list[tuple[str, Entry]]:
        if not (names := self._table.names()):
            return []
        with self._reading("a load"):
            rows = self._table.rows(names, equal, more, values)
            found = [(str(row[0]), _entry(*row[1:]), json.loads(row[names.index("rows")])) for row in rows]
        return [(key, entry) for key, entry, counts in found if self._is_mine(key, entry, counts)]

    def _is_mine(self, key: str, entry: Entry, counts: Mapping[str, Any]) -> bool:
        """Entries of older versions name no table but in what they kept, and in their key."""
        tables = [counts[_TARGET]] if _TARGET in counts else [Name.parse(kept.target).last for kept in entry.kept]
        named = [key.lower().endswith(self._target.lower())] if not tables else ()
        return any(named) or any(table.lower() == self._target.lower() for table in tables)

    def undo_entry(self, key: str, load_id: str) -> Entry | None:
        """The entry that undid a load."""
        return self._first(key, {"undoes": load_id}) if self._has("undoes") else None

    def at(self, key: str, seq: int) -> Entry | None:
        return self._first(key, {"seq": seq})

    def keeping(self, key: str) -> list[Entry]:
        """The entries with kept rows, newest first."""
        kept = f" AND a.{self._db.dialect.quote('kept')} IS NOT NULL"
        return self._select(key, {}, kept) if self._has("kept") else []

    def named(self) -> set[str]:
        """The tables in which something is kept for an undo, of all keys."""
        if not self._has("kept"):
            return set()
        kept = self._table.rows(["kept"], {}, f" AND a.{self._db.dialect.quote('kept')} IS NOT NULL")
        with self._reading("what is kept"):
            return {str(one["name"]) for (text,) in kept for one in json.loads(text)}

    def old(self, key: str, before: datetime) -> list[int]:
        """``SupportsSweep``: the seqs of entries that can go."""
        entries = self._select(key, {})
        needed = {entry.seq - back for entry in entries if entry.kept for back in (0, 1)}
        needed |= {entry.seq for entry in entries[:1]}
        needed |= {next((entry.seq for entry in entries if entry.held is not None), 0)}
        return [entry.seq for entry in entries if entry.committed_at < before and entry.seq not in needed]

    def delete(self, key: str, seq: int) -> None:
        self._table.delete({"key": key, "seq": seq})

    def exists(self) -> bool:
        return self._table.exists()

    def held(self, entry: Entry) -> int | None:
        """How many rows the table had after its last load: that of ``entry``, or a later one of another stream."""
        d, at, held = self._db.dialect, entry.committed_at.isoformat(timespec="microseconds"), entry.held
        committed_at = f"a.{d.quote('committed_at')}"
        later = f" AND {committed_at} > {d.placeholder} ORDER BY {committed_at}"
        for (text,) in self._table.rows(["rows"], {}, later, (at,)):
            rows = json.loads(text)
            if rows.get(_TARGET) == self._target:
                held = rows.get(_HELD)
        return held

    def append(self, key: str, entry: Entry) -> None:
        rows = dict(entry.rows) if entry.held is None else {**entry.rows, _HELD: entry.held, _TARGET: self._target}
        kept = json.dumps([asdict(one) for one in entry.kept], sort_keys=True) if entry.kept else None
        self._table.insert(
            key, entry.seq, entry.epoch, entry.load_id, entry.run_id, entry.token, entry.position.dumps(),
            json.dumps(rows, sort_keys=True), entry.committed_at.isoformat(timespec="microseconds"),
            kept, entry.undoes or None,
        )  # fmt: skip

    def forget(self, key: str, load_id: str) -> None:
        """Record that nothing is kept of a load any more."""
        self._table.update({"kept": None}, {"key": key, "load_id": load_id})

    def require(self, key: str, after: Entry | None, load_id: str) -> int:
        """The seq that follows ``after``. Raises Conflict unless ``after`` is the head."""
        head = self.head(key)
        if _mark(head) == _mark(after):
            return (head.seq if head else 0) + 1
        found = f"another run was faster: the journal is at {_mark(head)}, this load began at {_mark(after)}"
        raise Conflict(f"commit load {load_id}", found, "nothing was written; run again")

    def _has(self, column: str) -> bool:
        return column in self._table.names()

    def _first(self, key: str, equal: Mapping[str, Any], more: str = "", values: Sequence[Any] = ()) -> Entry | None:
        found = self._select(key, equal, more, values)
        return found[0] if found else None

    def _select(self, key: str, equal: Mapping[str, Any], more: str = "", values: Sequence[Any] = ()) -> list[Entry]:
        """Newest first; empty if the journal does not exist."""
        names = self._table.names()
        if not names:
            return []
        order = f"{more} ORDER BY a.{self._db.dialect.quote('seq')} DESC"
        rows = self._table.rows(names, {"key": key, **equal}, order, values)
        with self._reading(f"an entry of key {key}"):
            return [_entry(*row[1:]) for row in rows]

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except (DponeError, ValueError, TypeError, AttributeError) as error:
            found = f"{what} is damaged: {error}"
            raise SinkError(f"read {self._table.name}", found, "restore the entry from a backup") from error


def _changes(entry: Entry) -> bool:
    return bool(entry.undoes) or any(entry.rows.get(name) for name in ("inserted", "updated", "deleted"))


def _mark(entry: Entry | None) -> str:
    return f"entry {entry.seq} of load {entry.load_id}" if entry else "its start"


def _entry(
    seq: int, epoch: int, load_id: str, run_id: str, token: str, position: str, rows: str, committed_at: str,
    kept: str | None = None, undoes: str | None = None,
) -> Entry:  # fmt: skip
    at = datetime.fromisoformat(committed_at)
    images = tuple(UndoRecord(**one) for one in json.loads(kept or "[]"))
    counts = json.loads(rows)
    held = counts.pop(_HELD, None)
    counts.pop(_TARGET, None)
    return Entry(seq, epoch, load_id, run_id, token, Position.loads(position), at, counts, images, undoes or "", held)
