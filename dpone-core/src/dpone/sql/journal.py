"""The journal of a database: one line per committed load, in the same database and transaction as its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from attrs import asdict

from dpone.contract import Entry, Kept
from dpone.errors import Conflict, DponeError, SinkError
from dpone.position import Position
from dpone.schema import Name
from dpone.sql.dialect import Database

TABLE = "__dpone__loads"
_TEXT = ("load_id", "run_id", "token", "position", "rows", "committed_at")
_UNDO = ("kept", "undoes")  # a journal that was made before there was undo gets them with the next load
_HELD, _TARGET = "held", "target"  # beside the counts; not in entries of older versions
SCHEMA = pa.schema(
    [("key", pa.string()), ("seq", pa.int64()), ("epoch", pa.int64()), *((name, pa.string()) for name in _TEXT + _UNDO)]
)


class Journal:
    """The journal lives in the schema of ``target``. What an entry says of a table is said of that one."""

    def __init__(self, db: Database, target: Name) -> None:
        self._db = db
        # some servers take Orders and orders for one table
        self._target = target.last if db.dialect.exact_names else target.last.lower()
        self._table = target.sibling(TABLE)

    def create(self) -> None:
        """Before the transaction that appends; nothing if it is there."""
        have = self._db.schema(self._table)
        if have is None:
            self._db.create(self._table, SCHEMA, ("key", "seq"))
            return
        for name in _UNDO:
            if name not in have.names:
                self._db.execute(self._db.dialect.add_column(self._table, SCHEMA.field(name)))

    def head(self, key: str) -> Entry | None:
        """The entry with the highest seq. Creates nothing."""
        d = self._db.dialect
        last = f"SELECT MAX(k.{d.quote('seq')}) FROM {d.name(self._table)} AS k WHERE k.{self._is('key')}"
        found = self._select(key, f"j.{d.quote('seq')} = ({last})", (key,))
        return found[0] if found else None

    def keys(self) -> list[str]:
        """Those of a change stream's tables included, sorted."""
        d = self._db.dialect
        if self._db.schema(self._table) is None:
            return []
        found = self._db.rows(f"SELECT DISTINCT j.{d.quote('key')} FROM {d.name(self._table)} AS j")
        return sorted(key for (key,) in found)

    def load(self, key: str, load_id: str) -> Entry | None:
        found = self._select(key, f"j.{self._is('load_id')}", (load_id,))
        return found[0] if found else None

    def undoing(self, key: str, load_id: str) -> Entry | None:
        """The entry that took a load back."""
        found = self._select(key, f"j.{self._is('undoes')}", (load_id,)) if self._has("undoes") else []
        return found[0] if found else None

    def at(self, key: str, seq: int) -> Entry | None:
        found = self._select(key, f"j.{self._is('seq')}", (seq,))
        return found[0] if found else None

    def keeping(self, key: str) -> list[Entry]:
        """Those of which something is kept, newest first."""
        where = f"j.{self._db.dialect.quote('kept')} IS NOT NULL"
        return self._select(key, where) if self._has("kept") else []

    def held(self, entry: Entry) -> int | None:
        """How many rows the last load of the table left there: that of ``entry``, or of another stream after it."""
        d, at, held = self._db.dialect, entry.committed_at.isoformat(timespec="microseconds"), entry.held
        where = f"j.{d.quote('committed_at')} > {d.placeholder} ORDER BY j.{d.quote('committed_at')}"
        sql = f"SELECT j.{d.quote('rows')} FROM {d.name(self._table)} AS j WHERE {where}"
        for (text,) in self._db.rows(sql, (at,)):
            rows = json.loads(text)
            if rows.get(_TARGET) == self._target:
                held = rows.get(_HELD)
        return held

    def append(self, key: str, entry: Entry) -> None:
        d = self._db.dialect
        rows = dict(entry.rows) if entry.held is None else {**entry.rows, _HELD: entry.held, _TARGET: self._target}
        holes = ", ".join([d.placeholder] * len(SCHEMA))
        kept = json.dumps([asdict(one) for one in entry.kept], sort_keys=True) if entry.kept else None
        self._db.execute(
            f"INSERT INTO {d.name(self._table)} ({d.columns(SCHEMA.names)}) VALUES ({holes})",
            (key, entry.seq, entry.epoch, entry.load_id, entry.run_id, entry.token, entry.position.dumps(),
             json.dumps(rows, sort_keys=True), entry.committed_at.isoformat(timespec="microseconds"),
             kept, entry.undoes or None),
        )  # fmt: skip

    def forget(self, key: str, load_id: str) -> None:
        """What a load kept is gone."""
        d = self._db.dialect
        where = f"{self._is('key')} AND {self._is('load_id')}"
        self._db.execute(f"UPDATE {d.name(self._table)} SET {d.quote('kept')} = NULL WHERE {where}", (key, load_id))

    def require(self, key: str, after: Entry | None, load_id: str) -> int:
        """The seq that follows ``after``. Raises Conflict unless ``after`` is the head."""
        head = self.head(key)
        if _mark(head) == _mark(after):
            return (head.seq if head else 0) + 1
        found = f"another runner was faster: the journal is at {_mark(head)}, this load began at {_mark(after)}"
        raise Conflict(f"commit load {load_id}", found, "nothing was written; run again")

    def _is(self, column: str) -> str:
        return f"{self._db.dialect.quote(column)} = {self._db.dialect.placeholder}"

    def _has(self, column: str) -> bool:
        have = self._db.schema(self._table)
        return have is not None and column in have.names

    def _select(self, key: str, where: str, values: Sequence[Any] = ()) -> list[Entry]:
        """Newest first; nothing from a journal that is not there."""
        d, have = self._db.dialect, self._db.schema(self._table)
        if have is None:
            return []
        names = [n for n in SCHEMA.names if n in have.names or n not in _UNDO]
        sql = f"SELECT {d.columns(names, 'j')} FROM {d.name(self._table)} AS j WHERE j.{self._is('key')} AND {where}"
        rows = self._db.rows(f"{sql} ORDER BY j.{d.quote('seq')} DESC", (key, *values))
        try:
            return [_entry(*row[1:]) for row in rows]
        except (DponeError, ValueError, TypeError, AttributeError) as error:
            damaged = f"an entry of key {key} is damaged: {error}"
            raise SinkError(f"read {self._table}", damaged, "put the entry back, as from a backup") from error


def _mark(entry: Entry | None) -> str:
    return f"entry {entry.seq} of load {entry.load_id}" if entry else "its start"


def _entry(
    seq: int, epoch: int, load_id: str, run_id: str, token: str, position: str, rows: str, committed_at: str,
    kept: str | None = None, undoes: str | None = None,
) -> Entry:  # fmt: skip
    at = datetime.fromisoformat(committed_at)
    images = tuple(Kept(**one) for one in json.loads(kept or "[]"))
    counts = json.loads(rows)
    held = counts.pop(_HELD, None)
    counts.pop(_TARGET, None)
    return Entry(seq, epoch, load_id, run_id, token, Position.loads(position), at, counts, images, undoes or "", held)
