"""The journal of a database: one line per committed load, in the same database and transaction as its rows."""

from __future__ import annotations

import json
from datetime import datetime

import pyarrow as pa

from dpone.contract import Entry
from dpone.errors import Conflict
from dpone.position import Position
from dpone.schema import Name
from dpone.sql.dialect import Database

TABLE = "__dpone__loads"
_TEXT = ("load_id", "run_id", "token", "position", "rows", "committed_at")
SCHEMA = pa.schema(
    [("key", pa.string()), ("seq", pa.int64()), ("epoch", pa.int64()), *((name, pa.string()) for name in _TEXT)]
)


class Journal:
    """``target`` is any table of the schema the journal lives in."""

    def __init__(self, db: Database, target: Name) -> None:
        self._db = db
        self._table = target.sibling(TABLE)

    def create(self) -> None:
        """Inside the caller's transaction; nothing if it is there."""
        if self._db.schema(self._table) is None:
            self._db.execute(self._db.dialect.create_table(self._table, SCHEMA, ("key", "seq")))

    def head(self, key: str) -> Entry | None:
        """The entry with the highest seq. Creates nothing."""
        if self._db.schema(self._table) is None:
            return None
        d = self._db.dialect
        table, seq, mine = d.name(self._table), d.quote("seq"), f"{d.quote('key')} = {d.placeholder}"
        last = f"SELECT MAX(k.{seq}) FROM {table} AS k WHERE k.{mine}"
        sql = f"SELECT {d.columns(SCHEMA.names, 'j')} FROM {table} AS j WHERE j.{mine} AND j.{seq} = ({last})"
        found = self._db.rows(sql, (key, key))
        return _entry(*found[0][1:]) if found else None

    def append(self, key: str, entry: Entry) -> None:
        d = self._db.dialect
        holes = ", ".join([d.placeholder] * len(SCHEMA))
        self._db.execute(
            f"INSERT INTO {d.name(self._table)} ({d.columns(SCHEMA.names)}) VALUES ({holes})",
            (key, entry.seq, entry.epoch, entry.load_id, entry.run_id, entry.token, entry.position.dumps(),
             json.dumps(dict(entry.rows), sort_keys=True), entry.committed_at.isoformat(timespec="microseconds")),
        )  # fmt: skip

    def require(self, key: str, after: Entry | None, load_id: str) -> int:
        """The seq that follows ``after``. Raises Conflict unless ``after`` is the head."""
        head = self.head(key)
        if _mark(head) == _mark(after):
            return (head.seq if head else 0) + 1
        found = f"another runner was faster: the journal is at {_mark(head)}, this load began at {_mark(after)}"
        raise Conflict(f"commit load {load_id}", found, "nothing was written; run again")


def _mark(entry: Entry | None) -> str:
    return f"entry {entry.seq} of load {entry.load_id}" if entry else "its start"


def _entry(
    seq: int, epoch: int, load_id: str, run_id: str, token: str, position: str, rows: str, committed_at: str
) -> Entry:
    at = datetime.fromisoformat(committed_at)
    return Entry(seq, epoch, load_id, run_id, token, Position.loads(position), at, json.loads(rows))
