"""The file state backend: one JSON file and one lease file per key, in a private folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from dpone.connectors.file.partitions import JsonPartitionManifestStore, name_of
from dpone.connectors.file.run_log import FileRunLog
from dpone.contract import Finding, Lease, Versioned
from dpone.errors import Busy, Conflict, StateError, counted
from dpone.host import durable
from dpone.host.process import Process, abandoned, using
from dpone.model.ids import ulid
from dpone.model.pipeline import StateSpec

FORMAT = 1
HISTORY = 50
DEFAULT = ".dpone/state"


class FileState:
    """Stores states under ``path`` (default: ``.dpone/state`` next to the pipeline file); folder 0700, files 0600."""

    def __init__(self, spec: StateSpec) -> None:
        self._label = spec.path or DEFAULT
        self._folder = spec.base / os.path.expanduser(self._label)

    def check(self) -> list[Finding]:
        above = next(p for p in (self._folder, *self._folder.absolute().parents) if p.exists())
        if not above.is_dir():
            return [Finding("state", False, f"{self._label} is a file", "give the path of a folder")]
        if not os.access(above, os.W_OK | os.X_OK):
            return [
                Finding("state", False, f"{self._label} is read-only", "give the user that runs dpone write access")
            ]
        count = len(list(self._folder.glob("*.json"))) if self._folder.is_dir() else 0
        return [Finding("state", True, f"{self._label}: {counted(count, 'key')}")]

    def load(self, key: str) -> Versioned | None:
        record = self._read(key)
        return record.head if record else None

    def save(self, key: str, value: Mapping[str, Any], expected: int) -> int:
        with self._exclusive(key):
            record = self._expect(key, expected)
            copy = json.loads(json.dumps(dict(value), allow_nan=False))
            head = Versioned(copy, record.version + 1, datetime.now(UTC))
            self._write(_Record(key, head.version, head, (head, *record.history)[:HISTORY]))
            return head.version

    def delete(self, key: str, expected: int) -> None:
        with self._exclusive(key):
            record = self._expect(key, expected)
            if record.head is not None:
                self._write(_Record(key, record.version, None, record.history))

    def history(self, key: str, limit: int = 20) -> list[Versioned]:
        record = self._read(key)
        return list(record.history[:limit]) if record else []

    @contextlib.contextmanager
    def lock(self, key: str, ttl: float) -> Iterator[Lease]:
        lease = _FileLease(self, key, ttl)
        with using(lease.owner):
            lease.take()
            try:
                yield lease
            finally:
                lease.release()

    def partitions(self) -> JsonPartitionManifestStore:
        """In a folder of its own below that of the states."""
        return JsonPartitionManifestStore(self._folder / "partitions")

    def run_log(self) -> FileRunLog:
        """In another folder of its own."""
        return FileRunLog(self._folder / "runs")

    def close(self) -> None:
        """Holds nothing open between calls."""

    def _expect(self, key: str, expected: int) -> _Record:
        """The record as it is, if its version is the expected one; 0 also means a deleted value."""
        record = self._read(key) or _Record(key, 0, None, ())
        version = record.head.version if record.head else 0
        if version != expected:
            found = (
                f"version {version} instead of {expected}"
                if version
                else f"no saved value instead of version {expected}"
            )
            raise Conflict(f"save the state of {key}", found, "another run saved it first; run again")
        return record

    def _read(self, key: str) -> _Record | None:
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            todo = "give the user that runs dpone read and write access to the state folder"
            raise StateError(f"read {self._shown(path)}", error.strerror or "it cannot be read", todo) from error
        try:
            return _Record.loads(data, key)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found = f"the file is damaged ({type(error).__name__}: {error})"
            todo = (
                "restore the file from a backup, or move it away and run again: "
                "the position is then taken from the sink's journal"
            )
            raise StateError(f"read {self._shown(path)}", found, todo) from error

    def _write(self, record: _Record) -> None:
        durable.write_whole(self._path(record.key), record.dumps())

    def _path(self, key: str, ending: str = ".json") -> Path:
        return self._folder / name_of(key, ending)

    def _shown(self, path: Path) -> str:
        return f"{self._label}/{path.name}"

    @contextlib.contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        """One process at a time per key, for the moment of a compare and set."""
        try:
            durable.private_folder(self._folder)
            with durable.exclusive(self._path(key, ".lock")):
                yield
        except OSError as error:
            todo = "free disk space, or give the user that runs dpone write access to the state folder"
            raise StateError(f"write to {self._label}", error.strerror or type(error).__name__, todo) from error


@frozen
class _Record:
    """What the file of a key holds. ``version`` continues after a deletion, when ``head`` is None."""

    key: str
    version: int
    head: Versioned | None
    history: tuple[Versioned, ...]

    def dumps(self) -> bytes:
        data = {
            "format": FORMAT,
            "key": self.key,
            "version": self.version,
            "deleted": self.head is None,
            "history": [
                {"version": old.version, "saved_at": old.saved_at.isoformat(), "value": old.value}
                for old in self.history
            ],
        }
        return json.dumps(data, indent=1, ensure_ascii=False).encode()

    @classmethod
    def loads(cls, data: bytes, key: str) -> _Record:
        record = json.loads(data)
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, this dpone reads {FORMAT}")
        if record["key"] != key:
            raise ValueError("it belongs to another key")
        if not all(isinstance(one["value"], dict) for one in record["history"]):
            raise ValueError("a value is not an object")
        history = tuple(
            Versioned(one["value"], int(one["version"]), datetime.fromisoformat(one["saved_at"]))
            for one in record["history"]
        )
        if not history or history[0].version != record["version"]:
            raise ValueError("version and history differ")
        return cls(key, record["version"], None if record["deleted"] else history[0], history)


class _FileLease:
    """A lease file. The holder is the one whose ``owner`` it contains."""

    def __init__(self, state: FileState, key: str, ttl: float) -> None:
        self._state, self._key, self._ttl = state, key, ttl
        self._path = state._path(key, ".lease")
        self.owner = ulid()

    def take(self) -> None:
        with self._state._exclusive(self._key):
            holder = self._holder()
            if holder is not None and _alive(holder):
                ends = datetime.fromtimestamp(holder["expires_at"], UTC).isoformat(timespec="seconds")
                found = f"held by process {holder['pid']} on {holder['host']} until {ends} unless renewed"
                raise Busy(
                    f"lock {self._key}", found, "wait for that run to end, or stop it and wait until its lease ends"
                )
            self._write()

    def renew(self) -> None:
        with self._state._exclusive(self._key):
            holder = self._holder()
            if holder is None or holder["owner"] != self.owner:
                found = f"process {holder['pid']} on {holder['host']} holds it" if holder else "the lease was removed"
                raise Conflict(f"renew the lock of {self._key}", found, "another run took over; let it finish")
            self._write()

    def release(self) -> None:
        # A lease that cannot be released expires; the error must not hide how the run ended.
        with contextlib.suppress(StateError), self._state._exclusive(self._key):
            holder = self._holder()
            if holder is not None and holder["owner"] == self.owner:
                self._path.unlink()

    def _holder(self) -> dict[str, Any] | None:
        try:
            holder = json.loads(self._path.read_bytes())
            float(holder["expires_at"]), int(holder["pid"]), str(holder["host"]), str(holder["owner"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            found = f"the file is damaged ({type(error).__name__})"
            todo = "check that no run of this pipeline is active, then delete the file"
            raise StateError(f"read {self._state._shown(self._path)}", found, todo) from error
        return dict(holder)

    def _write(self) -> None:
        me = Process.this()
        who = {"host": me.host, "machine": me.machine, "pid": me.pid, "since": me.started}
        lease = {"owner": self.owner, **who, "expires_at": time.time() + self._ttl}
        durable.write_whole(self._path, json.dumps(lease).encode())


def _alive(holder: Mapping[str, Any]) -> bool:
    """False only when it is certain. A lease file without ``machine``, of an earlier version, is left to expire."""
    process = Process(holder["host"], holder.get("machine", ""), int(holder["pid"]), holder.get("since", ""))
    return time.time() < holder["expires_at"] and not abandoned(process, holder["owner"])
