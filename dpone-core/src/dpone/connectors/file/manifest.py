"""The manifest of a folder of parts: which files are the target, and how far each key has loaded it.

DIR/part-<load id>-<part>.parquet   immutable
DIR/.dpone/manifest.json            the truth; replaced as a whole by each commit
DIR/.dpone/manifest.json.bak        the one before
DIR/.dpone/lock                     held while the manifest is replaced
DIR/.dpone/staging/                 parts on their way
DIR/.dpone/undo/                    parts that were replaced, and are kept so that the load can be taken back
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from attrs import asdict, evolve, field, frozen

from dpone import durable
from dpone.contract import Entry, Kept
from dpone.errors import DponeError, SinkError, UndoRefused
from dpone.position import Position

FORMAT = 1
LARGEST = 1 << 28  # bytes of a manifest; about a million parts

# A ULID in the name keeps us from taking the files of another writer (part-00000-...) for our own.
PART = re.compile(r"part-[0-9A-HJKMNP-TV-Z]{26}-[A-Za-z0-9_.=-]{1,96}\.(parquet|csv|jsonl)(\.gz|\.zst)?")


@frozen
class PartFile:
    """One file of the target. ``part`` is the part's id in its load, ``bytes`` the size on disk."""

    name: str
    part: str
    rows: int
    bytes: int
    sha256: str
    load_id: str
    key: str


@frozen
class Replaced:
    """What a load replaced: ``files`` were the target's before it, and its key stood at ``before``."""

    entry: Entry
    key: str
    files: tuple[PartFile, ...]
    before: Position | None


@frozen
class Added:
    """What a run of a stream has added to the columns and not committed. ``made``: there were none before."""

    key: str
    run_id: str
    columns: tuple[str, ...]
    made: bool = False


_Keyed = TypeVar("_Keyed", PartFile, Replaced, Added)


@frozen
class Manifest:
    """schema: columns of the target, lineage included; None until the first load has given them.

    undo  what is kept to take loads back, oldest first
    last  the load that changed the files last, if it is known
    added what no load has committed yet, for each stream whose load counts on it
    """

    files: tuple[PartFile, ...] = ()
    journals: Mapping[str, Entry] = field(factory=dict)
    schema: pa.Schema | None = None
    undo: tuple[Replaced, ...] = ()
    last: str = ""
    added: tuple[Added, ...] = ()

    @property
    def kept(self) -> dict[str, PartFile]:
        """Parts that are not the target's any more, by name."""
        return {file.name: file for one in self.undo for file in one.files}

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def moved(self, old: str, new: str, gone: Entry) -> Manifest:
        """With ``new`` for the key ``old``, under which only ``gone`` is left."""
        journals = {key: entry for key, entry in self.journals.items() if key not in (old, new)}
        return evolve(
            self,
            files=tuple(_of(one, old, new) for one in self.files),
            journals={**journals, new: self.journals[old], old: gone},
            undo=tuple(
                _of(evolve(one, files=tuple(_of(file, old, new) for file in one.files)), old, new) for one in self.undo
            ),
            added=tuple(_of(one, old, new) for one in self.added if one.key != new),
        )

    def dumps(self) -> bytes:
        data = {
            "format": FORMAT,
            "journals": {key: _entry_to_json(entry) for key, entry in self.journals.items()},
            "files": [asdict(file) for file in self.files],
            "schema": None if self.schema is None else schema_to_json(self.schema),
            "undo": [_replaced_to_json(one) for one in self.undo],
            "last": self.last,
            "added": [asdict(one) for one in self.added],
        }
        return json.dumps(data, indent=1, ensure_ascii=False).encode()

    @classmethod
    def loads(cls, data: bytes) -> Manifest:
        """Raises ValueError, KeyError or TypeError on anything but what ``dumps`` writes."""
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r}, this dpone reads {FORMAT}")
        files = tuple(_part_file(item) for item in value["files"])
        if len({file.name for file in files}) != len(files):
            raise ValueError("a file listed twice")
        journals = {str(key): _entry_from_json(item) for key, item in value["journals"].items()}
        schema = None if value["schema"] is None else schema_from_json(value["schema"])
        undo = tuple(_replaced_from_json(item) for item in value.get("undo", ()))
        added = tuple(Added(**{**item, "columns": tuple(item["columns"])}) for item in value.get("added", ()))
        return cls(files, journals, schema, undo, str(value.get("last", "")), added)


def _of(one: _Keyed, old: str, new: str) -> _Keyed:
    return evolve(one, key=new) if one.key == old else one


def _part_file(item: Mapping[str, Any]) -> PartFile:
    """A name is one of our own part names or nothing: no folder, no ``..``, no drive, no other scheme."""
    file = PartFile(**item)
    if not isinstance(file.name, str) or not PART.fullmatch(file.name):
        raise ValueError(f"a file name that is not a part of this folder: {file.name!r}")
    if not isinstance(file.rows, int) or not isinstance(file.bytes, int) or file.rows < 0 or file.bytes < 0:
        raise ValueError(f"rows or bytes of {file.name}")
    return file


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    fields = asdict(entry, recurse=False)
    if entry.held is None:
        del fields["held"]
    return {
        **fields,
        "position": entry.position.to_json(),
        "committed_at": entry.committed_at.isoformat(),
        "rows": dict(entry.rows),
        "kept": [asdict(one) for one in entry.kept],
    }


def _entry_from_json(item: Mapping[str, Any]) -> Entry:
    position, at = Position.from_json(item["position"]), datetime.fromisoformat(item["committed_at"])
    kept = tuple(Kept(**one) for one in item.get("kept", ()))
    return Entry(**{**item, "position": position, "committed_at": at, "kept": kept})


def _replaced_to_json(one: Replaced) -> dict[str, Any]:
    return {
        "entry": _entry_to_json(one.entry),
        "key": one.key,
        "files": [asdict(file) for file in one.files],
        "before": one.before and one.before.to_json(),
    }


def _replaced_from_json(item: Mapping[str, Any]) -> Replaced:
    files = tuple(_part_file(file) for file in item["files"])
    before = item["before"] and Position.from_json(item["before"])
    return Replaced(_entry_from_json(item["entry"]), str(item["key"]), files, before)


def schema_to_json(schema: pa.Schema) -> dict[str, Any]:
    """``columns`` is for people, ``arrow`` (IPC, base64) is what is read back."""
    columns = {column.name: str(column.type) for column in schema}
    return {"columns": columns, "arrow": base64.b64encode(schema.serialize().to_pybytes()).decode()}


def schema_from_json(item: Mapping[str, Any]) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(item["arrow"], validate=True)))


@frozen
class Folder:
    """A target folder. ``label`` is its path as the pipeline spells it, for messages."""

    path: Path
    label: str

    @property
    def own(self) -> Path:
        return self.path / ".dpone"

    @property
    def staging(self) -> Path:
        return self.own / "staging"

    @property
    def undo(self) -> Path:
        return self.own / "undo"

    @property
    def manifest(self) -> Path:
        return self.own / "manifest.json"

    @property
    def backup(self) -> Path:
        return self.own / "manifest.json.bak"

    def create(self) -> None:
        if self.own.is_symlink() or self.staging.is_symlink() or self.undo.is_symlink():
            found = f"{self.label}/.dpone is a symbolic link"
            raise SinkError(f"open {self.label}", found, "replace the link by a folder; links are not followed here")
        durable.private_folder(self.own)
        durable.private_folder(self.staging)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self.create()
        with durable.exclusive(self.own / "lock"):
            yield

    def read(self) -> Manifest | None:
        """None before the first load. A damaged manifest is refused, never taken for a missing one."""
        if not self.manifest.exists() and not self.manifest.is_symlink():
            if self.backup.exists():
                raise self._damaged("it is missing, though there is a backup of it")
            return None
        if not durable.is_plain_file(self.manifest):
            raise self._damaged("it is not a regular file")
        if self.manifest.stat().st_size > LARGEST:
            raise self._damaged(f"more than {LARGEST} bytes")
        try:
            return Manifest.loads(self.manifest.read_bytes())
        except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, DponeError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _damaged(self, why: str) -> SinkError:
        name = f"{self.label}/.dpone/manifest.json"
        todo = (
            f"compare it with {name}.bak, which is the one before the last load, and restore that; nothing was changed"
        )
        return SinkError(f"read {name}", f"damaged ({why})", todo)

    def write(self, manifest: Manifest) -> None:
        """Replace the manifest, keeping the one before; durable on return. Call under ``lock``."""
        if self.manifest.exists():
            durable.write_whole(self.backup, self.manifest.read_bytes())
        durable.write_whole(self.manifest, manifest.dumps())

    def names(self) -> list[str]:
        """What is in the folder beside our own things."""
        try:
            return sorted(p.name for p in self.path.iterdir() if p.name != self.own.name)
        except FileNotFoundError:
            return []

    def present(self, manifest: Manifest) -> tuple[PartFile, ...]:
        """The listed files that are there, by name only."""
        there = {*self.names()}
        return tuple(file for file in manifest.files if file.name in there)

    def verify(self, manifest: Manifest) -> None:
        """Every listed file is there, whole, and no link."""
        for file in manifest.files:
            path = self.path / file.name
            if not durable.is_plain_file(path) or path.lstat().st_size != file.bytes:
                found = f"{file.name} is listed in the manifest and missing, a link, or of another size"
                todo = "restore the file from a backup, or load everything again with --full-refresh"
                raise SinkError(f"open {self.label}", found, todo)

    def sweep(self, manifest: Manifest) -> None:
        """Take out what the manifest does not list: parts that are kept go aside, others are left by a commit that died
        between the move and the manifest, or were replaced. Call under ``lock``: outside it they may belong to a commit
        under way."""
        listed, kept = {file.name for file in manifest.files}, manifest.kept
        for name in self.names():
            if PART.fullmatch(name) and name not in listed and durable.is_plain_file(self.path / name):
                if name in kept:
                    self._put_aside(name)
                else:
                    (self.path / name).unlink()
        for path in sorted(self.undo.glob("part-*")):
            if PART.fullmatch(path.name) and path.name not in kept and durable.is_plain_file(path):
                path.unlink()

    def _put_aside(self, name: str) -> None:
        durable.private_folder(self.undo)
        os.rename(self.path / name, self.undo / name)

    def bring_back(self, files: Collection[PartFile]) -> None:
        """Kept parts into the folder, whole; durable on return. Until a manifest lists them, the next sweep puts them
        aside again. Raises UndoRefused. Call under ``lock``."""
        for file in files:
            here, aside = self.path / file.name, self.undo / file.name
            found = aside if durable.is_plain_file(aside) else here
            if not durable.is_plain_file(found) or durable.digest(found) != file.sha256:
                why = f"{self.label}/.dpone/undo/{file.name} is missing, or is not what was kept"
                raise UndoRefused(f"bring back the parts of {self.label}", why, "restore it; nothing was changed")
        for file in files:
            if durable.is_plain_file(self.undo / file.name):
                os.rename(self.undo / file.name, self.path / file.name)
        durable.sync_folder(self.path)
