"""The manifest of a target of parts, as bytes and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from dpone.contract import Entry, UndoRecord
from dpone.formats.manifest import AddedColumns, Manifest, PartFile, Replaced, part_name
from dpone.model.position import Position

LOAD = "01JABCDEFGHJKMNPQRSTVWXYZ0"


def entry(held: int | None) -> Entry:
    counts = {"inserted": 1, "updated": 2, "deleted": 3, "unchanged": 4}
    kept = (UndoRecord("t", "generation", "u", 5, 6, {"id": "int64"}, ("id",), "LAST"),)
    at, position = datetime(2026, 1, 2, 3, 4, 5, 6, UTC), Position("files", {"root": "r"}, {"n": 1}, 7)
    return Entry(8, 7, LOAD, "RUN", "TOKEN", position, at, counts, kept, "UNDONE", held)


def test_what_was_added_under_a_key_moves_with_it() -> None:
    """What another key has added stays, and what was added under the new key is forgotten with its journal."""
    added = tuple(AddedColumns(key, f"RUN {key}", ("c",)) for key in ("old", "other", "new"))
    manifest = Manifest((), {"old": entry(None), "new": entry(None)}, None, (), "", added)
    moved = manifest.moved("old", "new", entry(9))
    assert [(one.key, one.run_id) for one in moved.added] == [("new", "RUN old"), ("other", "RUN other")]


@pytest.mark.parametrize("held", [None, 0, 9])
@pytest.mark.parametrize("before", [None, Position("files", {}, {"n": 0}, 7)])
def test_a_manifest_is_read_back_as_it_was(held: int | None, before: Position | None) -> None:
    """Every field of it, the column types of Arrow included. A field that an entry does not know is not written, so
    that a version without it still reads the manifest."""
    schema = pa.schema([pa.field("id", pa.int64(), False), pa.field("at", pa.timestamp("us", "UTC"))])
    counts = {"a": (10, 11), "b": (0, 0)}  # rows and bytes
    old, new = (PartFile(part_name(LOAD, part, ".parquet"), part, *n, "ab", LOAD, "key") for part, n in counts.items())
    undo, added = Replaced(entry(held), "key", (old,), before), AddedColumns("key", "RUN", ("id", "at"), True)
    manifest = Manifest((new,), {"key": entry(held)}, schema, (undo,), "LAST", (added,))
    data = manifest.dumps()
    assert Manifest.loads(data) == manifest
    written = json.loads(data)
    assert {"held" in one for one in (written["journals"]["key"], written["undo"][0]["entry"])} == {held is not None}


def test_a_manifest_has_the_names_it_always_had() -> None:
    """A later version finds what an earlier one wrote; people read the types of the columns beside Arrow's schema."""
    file = PartFile(f"{LOAD}-a-ca978112ca1bbdca.parquet", "a", 10, 11, "ab", LOAD, "key")
    before, added = Position("files", {}, {"n": 0}, 7), AddedColumns("key", "RUN", ("id",), True)
    schema = pa.schema([("id", pa.int64())])
    manifest = Manifest(
        (file,), {"key": entry(9)}, schema, (Replaced(entry(9), "key", (file,), before),), LOAD, (added,)
    )
    found = json.loads(manifest.dumps())
    assert set(found["schema"].pop("arrow")) < {*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="}
    of_file = {
        "name": f"{LOAD}-a-ca978112ca1bbdca.parquet", "part": "a", "rows": 10, "bytes": 11, "sha256": "ab",
        "load_id": LOAD, "key": "key",
    }  # fmt: skip
    of_entry = {
        "seq": 8, "epoch": 7, "load_id": LOAD, "run_id": "RUN", "token": "TOKEN",
        "position": {"format": 1, "kind": "files", "identity": {"root": "r"}, "value": {"n": 1}, "epoch": 7},
        "committed_at": "2026-01-02T03:04:05.000006+00:00",
        "rows": {"inserted": 1, "updated": 2, "deleted": 3, "unchanged": 4},
        "kept": [
            {
                "target": "t", "kind": "generation", "name": "u", "rows": 5, "written": 6, "columns": {"id": "int64"},
                "key": ["id"], "previous": "LAST",
            }
        ],
        "undoes": "UNDONE", "held": 9,
    }  # fmt: skip
    at_start = {"format": 1, "kind": "files", "identity": {}, "value": {"n": 0}, "epoch": 7}
    assert found == {
        "format": 1,
        "journals": {"key": of_entry},
        "files": [of_file],
        "schema": {"columns": {"id": "int64"}},
        "undo": [{"entry": of_entry, "key": "key", "files": [of_file], "before": at_start}],
        "last": LOAD,
        "added": [{"key": "key", "run_id": "RUN", "columns": ["id"], "made": True}],
    }
