"""Rows of a load that are not yet sent: durable files in a folder of this machine, as records already encoded.

SPOOL/<digest of the key>-<writer>/load.json           what load it is
SPOOL/<digest of the key>-<writer>/<part>.arrow        keys, values, event ids and partitions, an Arrow IPC file
SPOOL/<digest of the key>-<writer>/<part>.arrow.mark   makes the part count

A folder belongs to one writer. A writer that continues an interrupted load first renames the folder, so a suspended
writer of the same key can no longer commit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import asdict, define, evolve, field, frozen

from dpone.cdc.event_ids import event_ids
from dpone.contract import Load, Part, Stream
from dpone.errors import Conflict, SinkError
from dpone.host import durable
from dpone.model.ids import ulid
from dpone.model.staged import Staged
from dpone_kafka.encode import Encoder

SCHEMA = pa.schema([("key", pa.binary()), ("value", pa.binary()), ("id", pa.binary()), ("to", pa.int64())])
SLICE_BYTES = 8 << 20  # Arrow bytes that are encoded at once


@frozen
class Mark:
    """number: order of the parts. bytes: of keys and values. largest: bytes of the largest record, and its row."""

    number: int
    part: str
    name: str
    size: int
    bytes: int
    largest: tuple[int, int]
    staged: Staged


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@define
class Staging:
    """The staging of one writer."""

    folder: Path
    load: Load
    load_id: str
    what: str
    marks: dict[str, Mark] = field(factory=dict)
    _written: set[str] = field(factory=set)
    _lock: Any = field(factory=threading.Lock)
    _next: int = 0

    @classmethod
    def opened(cls, root: Path, load: Load, what: str) -> Staging:
        """Continues an interrupted load if it is the same, and removes every other staging of the key."""
        mine = digest(load.key)
        staging = cls(root / f"{mine}-{ulid()}", load, load.load_id, what)
        for old in sorted(root.glob(f"{mine}-*")):
            if not (load.repeatable and load.schema is not None and staging._take_over(old)):
                removed(old)
        if load.schema is not None and not staging.folder.is_dir():
            durable.private_folder(staging.folder)
            head = {"load_id": load.load_id, "token": load.token, "key": load.key}
            durable.write_whole(staging.folder / "load.json", json.dumps(head).encode())
        staging.marks = {mark.part: mark for mark in staging._found()}
        staging._next = max((mark.number for mark in staging.marks.values()), default=0)
        return staging

    def _take_over(self, old: Path) -> bool:
        if self.folder.exists() or old.is_symlink():
            return False
        try:
            head = json.loads((old / "load.json").read_bytes())
        except (OSError, ValueError):
            return False
        same = isinstance(head, dict) and (head.get("token"), head.get("key")) == (self.load.token, self.load.key)
        if not same or not isinstance(head.get("load_id"), str):
            return False
        old.rename(self.folder)
        self.load_id = head["load_id"]
        return True

    def _found(self) -> Iterator[Mark]:
        """Parts whose file is what the mark says; any other is staged again."""
        for path in sorted(self.folder.glob("*.mark")):
            try:
                data = json.loads(path.read_bytes())
                mark = Mark(**{**data, "staged": Staged(**data["staged"]), "largest": tuple(data["largest"])})
            except (OSError, ValueError, KeyError, TypeError):
                continue
            part = self.folder / path.name.removesuffix(".mark")
            if durable.is_plain_file(part) and part.lstat().st_size == mark.size and part.name == mark.name:
                yield mark

    def write(self, part: Part, stream: Stream, encoder: Encoder) -> Mark:
        """The part's file is durable before its mark."""
        with self._lock:
            self._next += 1
            number = self._next
        name = f"{digest(part.id)}.arrow"
        path = self.folder / name
        temporary = path.with_name(f"{name}.tmp")
        try:
            with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, SCHEMA) as to:
                rows, size, sent, largest = self._encoded(part, stream, encoder, to)
            durable.sync_file(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        found = stream.filtered, stream.quarantined, stream.checks
        staged = Staged(rows, size, *found, artifact=name, checksum=durable.digest(path))
        mark = Mark(number, part.id, name, path.stat().st_size, sent, largest, staged)
        durable.write_whole(self.folder / f"{name}.mark", json.dumps(asdict(mark)).encode())
        with self._lock:
            self.marks[part.id] = mark
            self._written.add(name)
        return mark

    def _encoded(
        self, part: Part, stream: Stream, encoder: Encoder, to: pa.RecordBatchWriter
    ) -> tuple[int, int, int, tuple[int, int]]:

        rows = size = sent = 0
        largest = (0, 0)
        named = self.load if self.load.load_id == self.load_id else evolve(self.load, load_id=self.load_id)
        column = encoder.options.partition.column
        for batch in stream.batches():
            for piece in _slices(batch):
                keys, values = encoder.keys(piece, part.id, rows), encoder.values(piece, part.id, rows)
                ids = event_ids(named, part, piece, rows).cast(pa.binary())
                places = piece.column(column).cast(pa.int64()) if column else pa.nulls(piece.num_rows, pa.int64())
                to.write_batch(pa.RecordBatch.from_arrays([keys, values, ids, places], schema=SCHEMA))
                lengths = sum(
                    pc.binary_length(one).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
                    for one in (keys, values, ids)
                )
                if len(lengths):
                    row = int(np.argmax(lengths))
                    largest = max(largest, (int(lengths[row]), -(rows + row + 1)))
                    sent += int(lengths.sum())
                rows += piece.num_rows
            size += batch.nbytes
        return rows, size, sent, (largest[0], -largest[1])

    def in_order(self) -> list[Mark]:
        return sorted(self.marks.values(), key=lambda mark: mark.number)

    def verify(self) -> None:
        """Before the first record is sent. Parts that an earlier process staged are hashed again."""
        if self.load.schema is not None and not self.folder.is_dir():
            found = "another run of the stream took over or removed the staged rows"
            raise Conflict(f"commit to {self.what}", found, "nothing was written; run again")
        for mark in self.marks.values():
            path = self.folder / mark.name
            if not durable.is_plain_file(path):
                found = "another run of the stream took over or removed the staged rows"
                raise Conflict(f"commit to {self.what}", found, "nothing was written; run again")
            if mark.name not in self._written and durable.digest(path) != mark.staged.checksum:
                todo = f"delete {self.folder} and run again; the topic was not changed"
                raise SinkError(f"commit to {self.what}", f"the staged file {mark.name} was changed", todo)

    def read(self, mark: Mark) -> Iterator[pa.RecordBatch]:
        """Not mapped: pages of a file would count as memory of the process."""
        with pa.OSFile(str(self.folder / mark.name)) as file, pa.ipc.open_file(file) as batches:
            for number in range(batches.num_record_batches):
                yield batches.get_batch(number)

    def staged(self) -> Mapping[str, Staged]:
        return {part: mark.staged for part, mark in self.marks.items()}

    def remove(self) -> None:
        removed(self.folder)


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Also the values of a long text in many rows fit Arrow's 2 GB of one column."""
    rows = max(1, batch.num_rows * SLICE_BYTES // max(batch.nbytes, 1))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def removed(folder: Path) -> None:
    """A staging folder; a link in its place is removed, never followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
