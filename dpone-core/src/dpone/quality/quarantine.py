"""The stream of a load through its contract, and the files that this writes.

    .dpone/quarantine/.pending/<digest of the key>/<load_id>/<part>.jsonl    rows left out, and why
                                                            <part>.0.keys    keys of the first ``unique`` rule
    .dpone/quarantine/<stream>/<load_id>/<part>.jsonl                        the same, once the load is committed

A part's files are durable before the sink marks the part, and the mark has their sizes (``Staged.checks``). A run that
continues with the part must find both; otherwise the load starts over. Files of a load that was never committed stay
under ``.pending`` until the next load of the stream sweeps them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from attrs import define, field, frozen

from dpone.contract import Stream
from dpone.errors import ConfigError, Conflict, DataError, PluginError, counted
from dpone.formats.json_text import NotJson, has_members, json_texts
from dpone.host import durable
from dpone.model.ids import ulid
from dpone.model.staged import Staged
from dpone.quality.check import BrokenRule, CheckCounts, KeyRule, RejectedRows, Rules
from dpone.quality.files import failing, make_private, writing_into
from dpone.quality.unique import Keys, SeenKeys, SeenOnDisk

CHUNK = 1 << 18  # keys read from a file at a time


@frozen
class QuarantineFolder:
    """Where the files of one stream go. ``base`` is the folder of the pipeline file; nothing is written outside it."""

    base: Path
    path: str
    stream: str
    key: str

    @property
    def root(self) -> Path:
        root = self.base / self.path
        if not root.resolve().is_relative_to(self.base.resolve()):
            todo = "use a folder inside the folder of the pipeline file, without links that lead outside"
            raise ConfigError("read contract.quarantine.path", f"{self.path} is outside {self.base}", todo)
        return root

    def pending(self, load_id: str) -> Path:
        return self._waiting / _safe(load_id)

    def kept(self, load_id: str) -> Path:
        return self.root / _safe(self.stream) / _safe(load_id)

    def committed(self) -> list[Path]:
        """The folders of loads that are committed. Links are not followed."""
        folders = sorted(self.kept("load").parent.glob("*"))
        return [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]

    @property
    def _waiting(self) -> Path:
        return self.root / ".pending" / hashlib.sha256(self.key.encode()).hexdigest()[:16]

    def settle(self, load_id: str) -> str | None:
        """After the commit: rename the quarantine to its final name and delete the keys. Returns the folder, or None if
        the load quarantined nothing. Idempotent."""
        pending, kept = self.pending(load_id), self.kept(load_id)
        if pending.is_dir():
            todo = f"fix the folder and run again to move the files there; load {load_id} is committed"
            with failing(f"move the quarantine to {kept}", todo):
                self._move(pending, kept)
        if not kept.is_dir():
            return None
        with failing(
            f"move the quarantine to {kept}", "give the user that runs dpone read access to the folder, and run again"
        ):
            durable.sync_folder(kept.parent)  # also where a run was killed between the rename and this
        return str(kept)

    @staticmethod
    def _move(pending: Path, kept: Path) -> None:
        for path in pending.iterdir():
            if path.suffix != ".jsonl":
                path.unlink()
        if not any(pending.iterdir()):
            pending.rmdir()
            return
        make_private(kept.parent)
        pending.rename(kept)

    def sweep(self, but: str = "") -> None:
        """Remove what other loads of the key left that were never committed. The caller holds the key's lock."""
        for folder in self._waiting.glob("*"):
            if folder.name != _safe(but):
                shutil.rmtree(folder, ignore_errors=True)


def _safe(name: str) -> str:
    """A file's name for any text; different texts have different names."""
    safe = re.sub(r"[^A-Za-z0-9_.=-]", "_", name)[:64].lstrip(".")
    return safe if safe == name and safe else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@define
class Inspection:
    """Applies the contract to one load: ``watch`` every part, then ``conclude`` before the commit."""

    rules: Rules
    place: QuarantineFolder
    load_id: str
    _seen: dict[str, SeenKeys] = field(factory=dict, init=False)

    @property
    def folder(self) -> Path:
        return self.place.pending(self.load_id)

    def resumable(self, staged: Mapping[str, Staged], parts: Sequence[str]) -> bool:
        """True if all files of the staged ``parts`` exist and, if the order of the parts matters, no part was staged
        before its turn (as happens after a skip that was reverted)."""
        if self.rules.in_order and set(parts[: len(staged)]) != set(staged):
            return False
        return self._complete(staged)

    def _complete(self, staged: Mapping[str, Staged]) -> bool:
        return all(
            path.is_file() and path.stat().st_size == size
            for part in staged.values()
            for path, size in ((self.folder / name, size) for name, size in _noted(part)["files"].items())
        )

    def begin(self, staged: Iterable[str]) -> None:
        """``staged``: parts that are not read again, in the order of the window."""
        for i, rule in enumerate(self.rules.keys):
            if rule.policy == "quarantine":
                seen = self._seen[rule.label] = SeenOnDisk(self.folder)
                for part in staged:
                    for keys in self._read(part, i, rule):
                        seen.add(keys)

    def watch(self, part: str, stream: Stream) -> WatchedStream:
        return WatchedStream(self, part, stream)

    def conclude(self, staged: Mapping[str, Staged]) -> tuple[CheckCounts, list[BrokenRule]]:
        """The result over all parts. ``staged``: every part of the load, as the sink marked it."""
        if not self._complete(staged):
            found = f"files of the load are missing from {self.folder}"
            raise Conflict("check the row contract", found, "run again; another run of the stream removed them")
        counts = CheckCounts()
        for mark in staged.values():
            noted = _noted(mark)
            counts.add(CheckCounts.from_json(noted))
        for i, rule in enumerate(self.rules.keys):
            if rule.policy != "quarantine":  # counted here, so that the order of the parts makes no difference
                seen = SeenOnDisk(self.folder)
                masks = (seen.add(keys) for part in staged for keys in self._read(part, i, rule))
                counts.violations[rule.label] = sum(int(np.count_nonzero(repeated)) for repeated in masks)
        return counts, self.rules.verdict(counts)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, part: str, rule: int, of: KeyRule) -> Iterator[Keys]:
        with open(self.folder / f"{_safe(part)}.{rule}.keys", "rb") as file:
            while len(keys := np.fromfile(file, np.uint64 if of.exact else "S16", CHUNK)):
                yield keys


def _noted(staged: Staged) -> Any:
    if not staged.checks:
        found, todo = (
            "a part was staged without the results of the contract's checks",
            "use a sink that stores Staged.checks",
        )
        raise PluginError("check the row contract", found, todo)
    return json.loads(staged.checks)


class WatchedStream:
    """A source's stream without the rows that the row contract quarantines; ``left`` counts them. After the last batch,
    ``checks`` has the results, and the files that it names are durable."""

    native: tuple[str, ...] = ()  # bytes cannot be checked

    def __init__(self, inspection: Inspection, part: str, stream: Stream) -> None:
        self._inspection, self._part, self._stream = inspection, part, stream
        self.schema = stream.schema
        self.left, self.checks = 0, ""

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    @property
    def quarantined(self) -> int:
        return self._stream.quarantined + self.left

    def open_native(self, format: str) -> Iterator[bytes]:
        raise NotImplementedError(format)

    def batches(self) -> Generator[pa.RecordBatch, None, None]:
        rules, seen = self._inspection.rules, self._inspection._seen
        counts = CheckCounts()
        with _PartFiles(self._inspection.folder, self._part, rules) as files:
            for batch in self._stream.batches():
                checked = rules.check(batch, seen)
                if checked.rejected is not None:
                    files.leave(batch, counts.rows, checked.rejected)
                files.keep(checked.keys)
                counts.add(checked.counts)
                self.left = counts.rows - counts.loaded
                self._require_room()
                if checked.batch.num_rows or not batch.num_rows:
                    yield checked.batch
            self.checks = json.dumps({**counts.to_json(), "files": files.finish()})

    def _require_room(self) -> None:
        """Stop as soon as it is certain that the load fails, before the file fills the disk."""
        limit = self._inspection.rules.contract.quarantine.max_rows
        if self.left > limit:
            found = f"quarantine.max_rows: more than {counted(limit, 'row')} of part {self._part} would be quarantined"
            raise DataError("check the row contract", found, "correct the rows in the source, or change the contract")


class _PartFiles:
    """The files of one part. Until ``finish`` they have temporary names, so that files of a killed run, or of a
    suspended run that still writes, are never taken for complete ones."""

    def __init__(self, folder: Path, part: str, rules: Rules) -> None:
        self._folder, self._part, self._name, self._rules = folder, part, _safe(part), rules
        self._open: dict[str, IO[bytes]] = {}
        self._stack, self._ending = ExitStack(), f"{ulid()}.tmp"

    def __enter__(self) -> _PartFiles:
        for i in range(len(self._rules.keys)):
            self._file(f"{self._name}.{i}.keys")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # complete files are closed by then; the first error is reported
            self._stack.close()

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._open:
            with writing_into(self._folder):
                make_private(self._folder)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
                handle = os.open(self._folder / f"{name}.{self._ending}", flags, 0o600)
            self._open[name] = self._stack.enter_context(os.fdopen(handle, "wb"))
        return self._open[name]

    def leave(self, batch: pa.RecordBatch, before: int, left: RejectedRows) -> None:
        """A line for every row left out: part, row (from 1), the rules it breaks, and its values if they are wanted."""
        values: Iterable[dict[str, Any] | None] = [None] * len(left.rows)
        if self._rules.contract.quarantine.values:
            values = row_values(batch.take(pa.array(left.rows)))
        out = self._file(f"{self._name}.jsonl")
        for row, rules, shown in zip(left.rows.tolist(), left.rules, values, strict=True):
            line: dict[str, Any] = {"part": self._part, "row": before + row + 1, "rules": rules}
            if shown is not None:
                line["values"] = shown
            with writing_into(self._folder):
                out.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def keep(self, keys: Mapping[str, Keys]) -> None:
        for i, rule in enumerate(self._rules.keys):
            with writing_into(self._folder):
                self._open[f"{self._name}.{i}.keys"].write(keys[rule.label].tobytes())

    def finish(self) -> dict[str, int]:
        """Sizes by name. The files are durable under these names on return."""
        with writing_into(self._folder):
            return self._finish()

    def _finish(self) -> dict[str, int]:
        sizes = {}
        for name, file in self._open.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
        for name in sizes:
            os.replace(self._folder / f"{name}.{self._ending}", self._folder / name)
        if sizes:
            durable.sync_folder(self._folder)
        return sizes


def row_values(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as JSON can hold them."""
    columns = [_json(column) for column in rows.columns]
    return [dict(zip(rows.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _json(column: pa.Array) -> list[Any]:
    """Values that JSON can hold: other values as text, bytes as base64, nested values as JSON text."""
    if has_members(column.type):
        try:
            return list(json_texts(column).to_pylist())
        except NotJson as error:
            return [f"{error.reason}, which cannot be written as JSON"] * len(column)
    if pa.types.is_decimal(column.type) or (
        pa.types.is_temporal(column.type) and not pa.types.is_interval(column.type)
    ):
        column = column.cast(pa.int64() if pa.types.is_duration(column.type) else pa.string())
    return [_json_value(value) for value in column.to_pylist()]


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
