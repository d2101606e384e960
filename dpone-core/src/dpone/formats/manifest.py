"""The manifest of a target that consists of part files: which files belong to it, and the journal of each key.

Replacing the manifest is the commit. Where it is stored, in a folder or a bucket, is up to the connector.
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

from dpone.contract import Entry, UndoRecord
from dpone.model.position import Position

FORMAT = 1
LARGEST = 1 << 28  # bytes; about a million parts

# The ULID in the name prevents dpone from taking another writer's files (part-00000-...) for its own.
PART = re.compile(r"part-[0-9A-HJKMNP-TV-Z]{26}-[A-Za-z0-9_.=-]{1,96}\.(parquet|csv|jsonl)(\.gz|\.zst)?")


def part_name(load_id: str, part: str, extension: str) -> str:
    """The file name of a part. Injective: a digest is added if the part's id is long or has characters that are
    replaced."""
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
    """What a load replaced: ``files`` belonged to the target before it, and the position of its key was ``before``."""

    entry: Entry
    key: str
    files: tuple[PartFile, ...]
    before: Position | None


@frozen
class AddedColumns:
    """Columns that a run has added and not committed. ``made``: the target had no columns before."""

    key: str
    run_id: str
    columns: tuple[str, ...]
    made: bool = False


_Keyed = TypeVar("_Keyed", PartFile, Replaced, AddedColumns)


@frozen
class Manifest:
    """schema: columns of the target, including lineage; None before the first load.

    undo  what is kept to take loads back, oldest first
    last  the load that changed the files last, if it is known
    added what no load has committed yet, for each stream whose load counts on it
    """

    files: tuple[PartFile, ...] = ()
    journals: Mapping[str, Entry] = field(factory=dict)
    schema: pa.Schema | None = None
    undo: tuple[Replaced, ...] = ()
    last: str = ""
    added: tuple[AddedColumns, ...] = ()

    @property
    def kept(self) -> dict[str, PartFile]:
        """Files that no longer belong to the target but are kept for undo, by name."""
        return {file.name: file for one in self.undo for file in one.files}

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def moved(self, old: str, new: str, gone: Entry) -> Manifest:
        """A manifest with the key ``old`` renamed to ``new``; only the entry ``gone`` stays under ``old``."""
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
        """Raises ValueError, KeyError or TypeError for data that ``dumps`` did not write."""
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise ValueError(f"format is {value['format']!r}, this dpone version reads {FORMAT}")
        files = tuple(_part_file(item) for item in value["files"])
        if len({file.name for file in files}) != len(files):
            raise ValueError("a file is listed twice")
        journals = {str(key): _entry_from_json(item) for key, item in value["journals"].items()}
        schema = None if value["schema"] is None else schema_from_json(value["schema"])
        undo = tuple(_replaced_from_json(item) for item in value.get("undo", ()))
        added = tuple(AddedColumns(**{**item, "columns": tuple(item["columns"])}) for item in value.get("added", ()))
        return cls(files, journals, schema, undo, str(value.get("last", "")), added)


def _of(one: _Keyed, old: str, new: str) -> _Keyed:
    return evolve(one, key=new) if one.key == old else one


def _part_file(item: Mapping[str, Any]) -> PartFile:
    """Only a part name is accepted, so it cannot contain a folder, ``..``, a drive or a URL. Raises ValueError."""
    file = PartFile(**item)
    if not isinstance(file.name, str) or not PART.fullmatch(file.name):
        raise ValueError(f"{file.name!r} is not the name of a part file")
    if not isinstance(file.rows, int) or not isinstance(file.bytes, int) or file.rows < 0 or file.bytes < 0:
        raise ValueError(f"rows or bytes of {file.name} is not a count")
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
    kept = tuple(UndoRecord(**one) for one in item.get("kept", ()))
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
    """``columns`` is for people to read; ``arrow`` (IPC, base64) is what ``schema_from_json`` reads."""
    columns = {column.name: str(column.type) for column in schema}
    return {"columns": columns, "arrow": base64.b64encode(schema.serialize().to_pybytes()).decode()}


def schema_from_json(item: Mapping[str, Any]) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(item["arrow"], validate=True)))
