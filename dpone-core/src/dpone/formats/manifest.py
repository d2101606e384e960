"""The manifest of a target of parts: which files are the target, and how far each key has loaded it.

It is the one thing that a commit replaces. Where it is kept, a folder or a bucket, the connector knows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa
from attrs import asdict, evolve, field, frozen

from dpone.contract import Entry, Kept
from dpone.position import Position

FORMAT = 1
LARGEST = 1 << 28  # bytes; about a million parts

# A ULID in the name keeps us from taking the files of another writer (part-00000-...) for our own.
PART = re.compile(r"part-[0-9A-HJKMNP-TV-Z]{26}-[A-Za-z0-9_.=-]{1,96}\.(parquet|csv|jsonl)(\.gz|\.zst)?")


def part_name(load_id: str, part: str, extension: str) -> str:
    """Injective: a part's id with other characters than file names keep, or a long one, carries its digest."""
    safe = re.sub(r"[^A-Za-z0-9_.=-]", "_", part)[:64]
    if safe != part or not safe:
        safe = f"{safe}-{hashlib.sha256(part.encode()).hexdigest()[:16]}"
    if not re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", load_id):
        load_id = hashlib.sha256(load_id.encode()).hexdigest()[:26].upper()
    return f"part-{load_id}-{safe}{extension}"


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
