"""Harnesses of the built-in connectors: what a third party's routes run against, and an example of a Harness."""

from __future__ import annotations

import fcntl
import json
import platform
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import date
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from dpone.capability import Role
from dpone.certify.evidence import Durability
from dpone.host import durable
from dpone.model.pipeline import SourceSpec, StateSpec
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.testing.harness import TABLE, Change, Harness, synced
from dpone.testing.loads import waiting
from dpone.testing.sql import SqlHarness
from dpone.testing.store import StoreHarness


class SqliteHarness(SqlHarness):
    """One database file, reached with the standard library's sqlite3."""

    connector = "sqlite"
    product = "SQLite"
    version = sqlite3.sqlite_version
    live = True
    types: Mapping[pa.DataType, str] = {**SqlHarness.types, pa.int64(): "INTEGER", pa.float64(): "REAL"}
    missing = sqlite3.OperationalError

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "kit.db"
        self.url = f"sqlite:///{self.path}"
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("PRAGMA journal_mode=wal")  # the kit writes to the source while the connector reads it

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path)

    def natives(self) -> Sequence[tuple[str, str, Any]]:
        return (
            ("TINYINT", "-1", -1), ("INTEGER", "-9223372036854775808", -(2**63)), ("REAL", "0.1", 0.1),
            ("VARCHAR(3)", "'abc'", "abc"), ("BLOB", "x'00ff'", b"\x00\xff"), ("BOOLEAN", "1", True),
            ("DECIMAL_TEXT(4,2)", "'-1.50'", Decimal("-1.50")), ("DATE", "'0001-01-01'", date(1, 1, 1)),
        )  # fmt: skip

    def durability(self) -> Durability:
        """Of the connector's own connection: ``synchronous`` is a setting of each connection by itself."""
        with closing(self.make("sink", self.sink(Strategy("append")))) as sink:
            [(mode,)], [(level,)] = (sink._db.rows(f"PRAGMA {name}") for name in ("journal_mode", "synchronous"))
        name = ("OFF", "NORMAL", "FULL", "EXTRA")[level]
        safe = level >= 2 and mode not in ("off", "memory")
        return synced(self.folder, safe, journal_mode=mode, synchronous=name)

    def state(self) -> StateSpec:
        return StateSpec("sqlite", Secret(f"sqlite:///{self.folder / 'state.db'}"), options=self.options("state"))

    @contextmanager
    def away(self) -> Iterator[None]:
        with _away(self.folder / "state.db", instead=Path.mkdir):
            yield

    def damage(self, role: Role, text: str, table: str = TABLE) -> None:
        with closing(sqlite3.connect(self.folder / "state.db")) as db, db:
            db.execute("UPDATE __dpone__state SET value = ?", (text,))

    @contextmanager
    def stuck(self, role: Role, seconds: float) -> Iterator[Any]:
        """Without WAL a reader waits, too."""
        path = self.folder / "state.db" if role == "state" else self.path
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=delete")
            db.execute("BEGIN EXCLUSIVE")
            yield waiting(self, role, busy_timeout=seconds)


@contextmanager
def _away(path: Path, instead: Callable[[Path], None]) -> Iterator[None]:
    """Moved aside, with something in its place that cannot be used as it."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    instead(path)
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        aside.rename(path)


class FileHarness(StoreHarness):
    """A folder, reached through the file system."""

    connector = "file"
    product = "file system"
    version = platform.release()
    live = True

    def durability(self) -> Durability:
        return synced(self.folder, fsync="on")  # ``dpone.host.durable`` knows no other way

    def put(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def keys(self, prefix: str) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(f"{prefix}*"))

    def delete(self, key: str) -> None:
        (self.folder / key).unlink()

    def query(self, table: str = TABLE) -> str:
        return f"SELECT * FROM {table}"

    def away(self) -> AbstractContextManager[None]:
        return _away(self.folder / "state", instead=Path.touch)

    def unreachable(self, role: Role) -> AbstractContextManager[None]:
        """A folder is reached without opening it: there is another thing in its place."""
        folders: Mapping[Role, str] = {"source": TABLE, "sink": f"out_{TABLE}", "state": "state"}
        return _away(self.folder / folders[role], instead=Path.touch)

    def stuck(self, role: Role, seconds: float) -> AbstractContextManager[Any] | None:
        """Only the state waits, for the locks of its files."""
        return self._locked(seconds) if role == "state" else None

    @contextmanager
    def _locked(self, seconds: float) -> Iterator[StateSpec]:
        with ExitStack() as held:
            for path in (self.folder / "state").glob("*.lock"):
                fcntl.flock(held.enter_context(path.open()), fcntl.LOCK_EX)
            held.enter_context(mock.patch.object(durable, "LONGEST", seconds))
            yield self.state()

    def damage(self, role: Role, text: str, table: str = TABLE) -> None:
        manifest = self.folder / f"out_{table}" / ".dpone" / "manifest.json"
        for path in [manifest] if role == "sink" else (self.folder / "state").glob("*.json"):
            path.write_text(text)

    def change_stream(self) -> SourceSpec:
        return self._log.change_stream()

    def change(self, changes: Sequence[Change]) -> None:
        self._log.change(changes)

    @cached_property
    def _log(self) -> ChangeLogHarness:
        return ChangeLogHarness(self.folder)


class ChangeLogHarness(Harness):
    """A change log in JSON Lines, written line by line: no system behind it, only a file."""

    connector = "file_changelog"
    product = FileHarness.product
    version = FileHarness.version
    live = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "changes.jsonl"
        self.path.touch()
        self._columns: dict[str, set[str]] = {}
        self._commits = 0

    def durability(self) -> Durability:
        return synced(self.folder, fsync="on")

    def change_stream(self) -> SourceSpec:
        return SourceSpec("file", path=self.path.name, options=self.options("cdc"), base=self.folder)

    def change(self, changes: Sequence[Change]) -> None:
        self._commits += 1
        commit = f"{self._commits:06d}"
        lines = [{**self._line(change), "commit": commit} for change in changes]
        with self.path.open("a", encoding="utf-8") as log:
            log.writelines(json.dumps(line) + "\n" for line in [*lines, {"op": "commit", "commit": commit}])

    def _line(self, change: Change) -> dict[str, Any]:
        line: dict[str, Any] = {"table": change.table, "op": change.operation}
        if change.key is not None:
            line["key"] = {"id": change.key}
        if change.operation in ("insert", "update"):
            known = self._columns.setdefault(change.table, {"id", "name"})
            known |= set(change.row)
            line["values"] = {"id": change.key, **change.row}
            line.setdefault("key", {"id": line["values"]["id"]})
            if change.operation == "update":
                line["unchanged"] = sorted(known - set(line["values"]))
        return line

    def lose(self) -> None:
        with self.path.open("r+b") as log:
            log.truncate(1)
