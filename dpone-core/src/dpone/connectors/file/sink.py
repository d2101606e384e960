"""The file sink: immutable parts, then one atomic manifest that holds files, journal and position."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from attrs import asdict, evolve, frozen

from dpone.connectors.file.config import FileSinkOptions
from dpone.connectors.file.folder import Folder
from dpone.contract import (
    Entry,
    Finding,
    Load,
    Part,
    Receipt,
    Rehearsal,
    Stream,
    TakenBack,
    UndoPlan,
    UndoRecord,
    Writer,
)
from dpone.errors import ConfigError, Conflict, DataError, SinkError, UndoRefused, counted
from dpone.formats.input import Input
from dpone.formats.json_text import has_members
from dpone.formats.manifest import PART, AddedColumns, Manifest, PartFile, Replaced, part_name
from dpone.formats.options import WriteOptions
from dpone.formats.parquet import beyond_double
from dpone.formats.write import refused, write
from dpone.host import durable
from dpone.model.evolution import SchemaChange, Stored, not_kept
from dpone.model.ids import ulid
from dpone.model.pipeline import SinkSpec
from dpone.model.position import Position
from dpone.model.schema import LINEAGE, LOAD_ID, LOADED_AT
from dpone.model.staged import Staged

LINEAGE_FIELDS = (pa.field(LOAD_ID, pa.string()), pa.field(LOADED_AT, pa.timestamp("us", "UTC")))


class FileSink:
    """A folder of parts. Strategies: full_refresh and append."""

    def __init__(self, spec: SinkSpec) -> None:
        options = spec.options
        self.options = (
            options
            if isinstance(options, FileSinkOptions)
            else FileSinkOptions(
                options.schema_evolution, options.lineage, options.adopt_existing, options.undo, options.verify_target
            )
        )
        self.strategy = spec.strategy
        self.folder = Folder(spec.base / os.path.expanduser(spec.path or "."), spec.path or ".")

    def check(self) -> list[Finding]:
        label, path = self.folder.label, self.folder.path
        above = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not above.is_dir():
            return [Finding("target", False, f"{label} is a file", "give the path of a folder")]
        if not os.access(above, os.W_OK | os.X_OK):
            return [Finding("target", False, f"{label} is read-only", "give the user that runs dpone write access")]
        try:
            manifest = self.folder.read()
        except SinkError as error:
            return [Finding("manifest", False, error.found, error.todo)]
        if manifest is None:
            return [Finding("target", True, f"{label} will be created by the first load")]
        return [
            Finding("target", True, f"{label}: {counted(len(manifest.files), 'part')}, {counted(manifest.rows, 'row')}")
        ]

    def schema(self) -> pa.Schema | None:
        """Without the metadata of the source's columns: no length limits a file's."""
        manifest = self.folder.read()
        if manifest is None or manifest.schema is None:
            return None
        return pa.schema([field.remove_metadata() for field in manifest.schema])

    def exists(self) -> bool:
        return self.schema() is not None

    def is_empty(self) -> bool:
        """Without a manifest any file counts as rows, because its content is not known."""
        manifest = self.folder.read()
        return manifest.rows == 0 if manifest else not self.folder.names()

    def lost(self, entry: Entry, count: bool) -> str:
        """``contract.SupportsVerify``: the manifest lists every file there should be."""
        manifest = self.folder.read() or Manifest()
        missing = len(manifest.files) - len(self.folder.present(manifest))
        listed = counted(len(manifest.files), "file")
        return f"of {listed} in its manifest {missing:,} {'is' if missing == 1 else 'are'} missing" if missing else ""

    def stores(self, type: pa.DataType) -> Stored:
        """Parquet stores every type that it has; text files store what can be read back from text."""
        if refused(self.options.format, type):
            return Stored(str(type), type, "lossy")
        # JSON does not have NaN and infinities: they are refused.
        checked = self.options.format == "jsonl" and pa.types.is_floating(type)
        return Stored(str(type), type, "checked" if checked else "exact")

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        """Parts are immutable, so a change affects only the columns in the manifest; each statement is a JSON
        object."""
        for change in changes:
            self._require_columns([*(change.schema or ()), *([change.after] if change.after is not None else ())])
        return [json.dumps(_statement(change), ensure_ascii=False) for change in changes]

    def apply(self, ddl: Sequence[str]) -> None:
        """One replacement of the manifest: all of them or none."""
        if not ddl:
            return
        with self._failing("change the columns"), self.folder.lock():
            manifest = self.folder.read() or Manifest()
            self.folder.write(evolve(manifest, schema=self._after(manifest, ddl)))

    def _after(self, manifest: Manifest, ddl: Sequence[str]) -> pa.Schema | None:
        schema = manifest.schema
        for text in ddl:
            statement = json.loads(text)
            for column, type_ in statement.get("looks_at", {}).items():
                self._require_kept(manifest, column, type_)
            schema = _changed(schema, statement, self._lineage())
        return schema

    def provide(self, load: Load, ddl: Sequence[str]) -> None:
        """``contract.SupportsTakeBack``: as ``apply``, with the record in the same manifest."""
        if not ddl and not (self.folder.read() or Manifest()).added:
            return
        with self._failing("change the columns"), self.folder.lock():
            manifest = self.folder.read() or Manifest()
            before, now = manifest.schema, self._after(manifest, ddl)
            new, given = {*_names(now)} - {*_names(before)}, {*_names(load.schema)}
            shared = {name for one in manifest.added for name in one.columns if name in given or name in LINEAGE}
            made = now is not None and (before is None or any(one.made for one in manifest.added))
            mine = AddedColumns(load.key, load.run_id, tuple(sorted(new | shared)), made)
            others = tuple(one for one in manifest.added if one.key != load.key)
            added = (*others, mine) if mine.columns or mine.made else others
            self.folder.write(evolve(manifest, schema=now, added=added))

    def take_back(self, key: str, run_id: str = "") -> Sequence[TakenBack]:
        """``contract.SupportsTakeBack``: columns that no load has committed are in no file."""
        if not _of((self.folder.read() or Manifest()).added, key, run_id):
            return ()
        with self._failing("change the columns"), self.folder.lock():
            manifest = self.folder.read() or Manifest()
            mine = _of(manifest.added, key, run_id)
            others = tuple(one for one in manifest.added if one not in mine)
            gone = {name for one in mine for name in one.columns} - {name for one in others for name in one.columns}
            made = any(one.made for one in mine) and not any(one.made for one in others)
            schema, taken = manifest.schema, [TakenBack(f"the column list of {self.folder.label}")] if made else []
            if made or schema is None:
                schema = None
            else:
                taken += [TakenBack(f"column {f.name} of {self.folder.label}") for f in schema if f.name in gone]
                schema = pa.schema([f for f in schema if f.name not in gone])
            self.folder.write(evolve(manifest, schema=schema, added=others))
        return taken

    def _require_kept(self, manifest: Manifest, column: str, type_: str) -> None:
        """Existing parts do not change, but readers now take the column as doubles. Text files keep their digits."""
        names = [file.name for file in manifest.files if file.name.endswith(".parquet")]
        parts = [Input.at(self.folder.path / name, name) for name in names]
        if lost := sum(beyond_double(part, column) for part in parts):
            raise not_kept(self.folder.label, column, type_, lost)

    def journal(self, key: str) -> Entry | None:
        """A run that was killed between the rename of its manifest and the sync leaves a manifest that a power cut
        would revert. State and acknowledgement are based on it, so it is synced first."""
        if self.folder.own.is_dir():
            durable.sync_folder(self.folder.own)
        manifest = self.folder.read()
        return manifest.journals.get(key) if manifest else None

    def open(self, load: Load) -> FileWriter:
        if load.schema is not None and load.strategy.mode not in ("full_refresh", "append"):
            todo = "use full_refresh or append; dpone does not change rows in files"
            raise ConfigError(f"write {self.folder.label}", f"strategy {load.strategy.mode}", todo)
        self._require_columns(load.schema or ())
        with self._failing("open"), self.folder.lock():
            manifest = self.folder.read()
            if manifest:
                if (
                    load.schema is not None and load.strategy.mode != "full_refresh"
                ):  # a full refresh does not need the current files
                    self.folder.verify(manifest)
                self.folder.sweep(manifest)
        with self._failing("open"):
            return FileWriter(self, load)

    def _require_columns(self, columns: Iterable[pa.Field]) -> None:
        for field in columns:
            if field.name in LINEAGE:
                raise DataError(
                    f"write {self.folder.label}", f"the column name {field.name} is reserved", "rename it in the source"
                )
            if why := refused(self.options.format, field.type):
                found = f"column {field.name} is {field.type}, but {why}"
                todo = "use format: parquet, or another type in the source"
                if has_members(field.type):
                    todo = f"declare it in the source, as in columns: {{{field.name}: json}}, or use format: parquet"
                raise DataError(f"write {self.folder.label}", found, todo)

    def undo_plan(self, key: str, load_id: str) -> UndoPlan:
        replaced = self._replaced(self.folder.read(), key, load_id)
        return UndoPlan(replaced.entry, replaced.before)

    def loads(self, load_id: str) -> Sequence[tuple[str, Entry]]:
        """``contract.SupportsUndo``. The manifest has the head of each key, and those earlier loads that are kept."""
        manifest = self.folder.read() or Manifest()
        known = [(one.key, one.entry) for one in manifest.undo]
        known += [one for one in manifest.journals.items() if one not in known]
        mine = [(key, entry) for key, entry in known if load_id in (entry.load_id, entry.undoes)]
        if not mine:
            return []
        since = min(entry.committed_at for _, entry in mine)
        later = [
            (key, entry) for key, entry in known
            if load_id not in (entry.load_id, entry.undoes) and entry.committed_at >= since and any(entry.rows.values())
        ]  # fmt: skip
        return [*mine, *sorted(later, key=lambda one: one[1].committed_at)]

    def remaining(self, load_id: str) -> int:
        return sum(file.rows for file in (self.folder.read() or Manifest()).files if file.load_id == load_id)

    def rehearse(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Rehearsal:
        manifest = self.folder.read() or Manifest()
        _require_head(manifest, load.key, after, self.folder.label)
        replaced = self._replaced(manifest, load.key, load_id)
        self.folder.require_kept(replaced.files)
        added = [file for file in manifest.files if file.load_id == load_id]
        steps = [f"move .dpone/undo/{file.name} to {file.name}" for file in replaced.files]
        steps += ["replace .dpone/manifest.json"] + [f"delete {file.name}" for file in added]
        put_back, taken_out = (sum(file.rows for file in files) for files in (replaced.files, added))
        return Rehearsal(tuple(steps), taken_out, put_back)

    def undo(self, load: Load, load_id: str, after: Entry | None, position: Position) -> Receipt:
        """One replacement of the manifest. If the process is killed before it, the next sweep moves the parts back to
        the undo folder."""
        with self._failing("take back a load of"), self.folder.lock():
            manifest = self.folder.read() or Manifest()
            _require_head(manifest, load.key, after, self.folder.label)
            replaced = self._replaced(manifest, load.key, load_id)
            self.folder.bring_back(replaced.files)
            added = [file for file in manifest.files if file.load_id == load_id]
            put_back, taken_out = (sum(file.rows for file in files) for files in (replaced.files, added))
            rows = {"inserted": put_back, "updated": 0, "deleted": taken_out, "unchanged": 0}
            seq, now = after.seq + 1 if after else 1, datetime.now(UTC)
            entry = Entry(
                seq, position.epoch, load.load_id, load.run_id, load.token, position, now, rows, undoes=load_id
            )
            after_it = evolve(
                manifest,
                files=replaced.files + tuple(file for file in manifest.files if file.load_id != load_id),
                journals={**manifest.journals, load.key: entry},
                undo=tuple(one for one in manifest.undo if one is not replaced),
                last=replaced.entry.kept[0].previous,
            )
            self.folder.write(after_it)
            with contextlib.suppress(OSError):  # committed; the next open can do the rest too
                self.folder.sweep(after_it)
        return Receipt.of(entry)

    def _replaced(self, manifest: Manifest | None, key: str, load_id: str) -> Replaced:
        """The parts that a load replaced, if it can be taken back. Raises UndoRefused."""
        failed, head = f"take back load {load_id}", manifest.journals.get(key) if manifest else None
        if head is not None and head.undoes == load_id:
            todo = "run the pipeline to load again; nothing was changed"
            raise UndoRefused(failed, f"it was already undone by load {head.load_id}", todo)
        undo = manifest.undo if manifest else ()
        mine = [one for one in undo if (one.key, one.entry.load_id) == (key, load_id)]
        if not mine or manifest is None:
            found = "nothing was kept to take it back: it changed no row, undo was off, or the retention is over"
            todo = "choose a load of this stream that was kept, or reload with --full-refresh; nothing was changed"
            raise UndoRefused(failed, found, todo)
        if manifest.last != load_id:
            todo = "take back that load first, if it can be; nothing was changed"
            raise UndoRefused(failed, f"load {manifest.last or 'unknown'} has changed {self.folder.label} since", todo)
        return mine[0]

    def journal_keys(self) -> Sequence[str]:
        """``contract.SupportsMove``."""
        return sorted((self.folder.read() or Manifest()).journals)

    def move(self, old: str, after: Entry, new: str, before: Entry | None, gone: Entry) -> None:
        """One replacement of the manifest. The staging of the old key is removed before it, because no later load would
        sweep it."""
        with self._failing("rename a key of"), self.folder.lock():
            manifest = self.folder.read()
            _require_head(manifest, old, after, self.folder.label)
            _require_head(manifest, new, before, self.folder.label)
            assert manifest is not None, "the new key already has a journal"
            for staging in sorted(self.folder.staging.glob(f"{_digest(old)}-*")):
                _remove(staging)
            self.folder.write(manifest.moved(old, new, gone))

    def close(self) -> None:
        """Holds nothing open between calls."""

    def _lineage(self) -> tuple[pa.Field, ...]:
        return LINEAGE_FIELDS if self.options.lineage.enabled else ()

    def _columns(self, load: Load) -> pa.Schema:
        return pa.schema([*(load.schema or ()), *self._lineage()])

    @contextlib.contextmanager
    def _failing(self, step: str) -> Iterator[None]:
        """Turns errors of the operating system into ours: read-only, full disk, not a folder."""
        try:
            yield
        except OSError as error:
            todo = "free disk space, give the user that runs dpone write access, or choose another path"
            raise SinkError(f"{step} {self.folder.label}", error.strerror or type(error).__name__, todo) from error


class FileWriter:
    """One load's staging: ``.dpone/staging/<key>-<writer>/`` with a file and a mark for each part.

    A folder belongs to one writer. A writer that continues an interrupted load first renames the folder. So a suspended
    writer can no longer reach these files, and cannot commit, because its parts are gone.
    """

    def __init__(self, sink: FileSink, load: Load) -> None:
        self._sink, self._load, self._folder = sink, load, sink.folder
        self.load_id = load.load_id
        mine = _digest(load.key)
        self._staging = self._folder.staging / f"{mine}-{ulid()}"
        self._written: set[str] = set()
        for old in sorted(self._folder.staging.glob(f"{mine}-*")):
            if load.repeatable and load.schema is not None and self._take_over(old):
                continue
            _remove(old)
        if load.schema is not None and not self._staging.is_dir():
            durable.private_folder(self._staging)
            head = {"load_id": load.load_id, "token": load.token, "key": load.key}
            durable.write_whole(self._staging / "load.json", json.dumps(head).encode())
        self._parts = {mark.file.part: mark for mark in self._marks()}

    def _take_over(self, old: Path) -> bool:
        """Continue an interrupted load, if it is the same load and this writer has none yet."""
        going_on = self._interrupted(old)
        if going_on is None or self._staging.exists():
            return False
        old.rename(self._staging)
        for temporary in self._staging.glob("*.tmp"):
            temporary.unlink()
        self.load_id = going_on
        return True

    def _interrupted(self, staging: Path) -> str | None:
        """The id of the load that began a staging; None if it belongs to another load or cannot be trusted."""
        if staging.is_symlink():
            return None
        try:
            head = json.loads((staging / "load.json").read_bytes())
        except (OSError, ValueError):
            return None
        same = isinstance(head, dict) and (head.get("token"), head.get("key")) == (self._load.token, self._load.key)
        return head["load_id"] if same and isinstance(head.get("load_id"), str) else None

    def staged(self) -> Mapping[str, Staged]:
        return {part: mark.staged for part, mark in self._parts.items()}

    def stage(self, part: Part, stream: Stream) -> Staged:
        """The content of the part's file is durable before its mark; the mark makes the part count, and the sync of
        their folder covers both names. Thread-safe, because every part has its own files."""
        if part.id in self._parts:
            return self._parts[part.id].staged
        name = part_name(self.load_id, part.id, self._sink.options.extension)
        path = self._staging / name
        with self._sink._failing("write"):
            rows, size, sha256 = write_part(
                path, stream, self._sink._columns(self._load), self._constants(), self._sink.options
            )
            found = stream.filtered, stream.quarantined, stream.checks
            staged = Staged(rows, size, *found, artifact=name, checksum=sha256)
            file = PartFile(name, part.id, rows, path.stat().st_size, sha256, self.load_id, self._load.key)
            mark = _Mark(file, staged)
            durable.write_whole(self._staging / f"{name}.mark", json.dumps(asdict(mark)).encode())
        self._written.add(name)
        self._parts[part.id] = mark
        return staged

    def commit(self, after: Entry | None, position: Position, also: Sequence[Writer] = ()) -> Receipt:
        if also:
            raise SinkError(
                "commit a load",
                "the load has several tables, but a manifest covers one folder",
                "use one stream per table",
            )
        with self._sink._failing("commit to"), self._folder.lock():
            manifest = self._folder.read()
            _require_head(manifest, self._load.key, after, self._folder.label)
            if manifest is None:
                # From here on, a part that no manifest lists is an orphan, even before the first load is done.
                manifest = Manifest()
                self._folder.write(manifest)
            parts = [self._parts[part].file for part in sorted(self._parts) if self._parts[part].file.rows]
            self._verify(parts)
            receipt, after_it = self._planned(manifest, parts, after, position)
            for part in parts:
                # Parts first: a manifest never lists a file that a power cut could still take back.
                os.rename(self._staging / part.name, self._folder.path / part.name)
            if parts:
                durable.sync_folder(self._folder.path)
            self._folder.write(after_it)
            # Committed. The next open can do the rest too.
            with contextlib.suppress(OSError):
                self._folder.sweep(after_it)
                _remove(self._staging)
        return receipt

    def abort(self) -> None:
        with self._sink._failing("abort the load of"):
            _remove(self._staging)

    def close(self) -> None:
        """Holds nothing open between calls."""

    def _planned(
        self, before: Manifest, parts: list[PartFile], after: Entry | None, position: Position
    ) -> tuple[Receipt, Manifest]:
        strategy, load = self._load.strategy, self._load
        replaces = load.schema is not None and strategy.mode == "full_refresh" and (bool(parts) or strategy.allow_empty)
        rows = {
            "inserted": sum(part.rows for part in parts),
            "updated": 0,
            "deleted": before.rows if replaces else 0,
            "unchanged": 0,
        }
        seq = after.seq + 1 if after else 1
        now = datetime.now(UTC)
        entry = Entry(seq, position.epoch, self.load_id, load.run_id, load.token, position, now, rows)
        schema = before.schema
        if load.schema is not None and not load.replace_columns:
            schema = _united(before.schema, self._sink._columns(load))
        elif replaces:
            schema = self._sink._columns(load)
        # A position set by hand takes the target as it is.
        there = before.files if load.schema is not None else self._folder.present(before)
        files = (() if replaces else there) + tuple(parts)
        replaced = before.files if replaces else ()
        undo = before.undo
        if (replaces or parts) and not load.replace_columns:  # parts with other columns cannot be restored
            entry, undo = self._kept(before, entry, replaced, after)
        journals = {**before.journals, load.key: entry}
        last = self.load_id if replaces or parts else before.last
        added = before.added if load.schema is None else _left(before.added, load)
        return Receipt.of(entry), Manifest(files, journals, schema, undo, last, added)

    def _kept(
        self, before: Manifest, entry: Entry, replaced: tuple[PartFile, ...], after: Entry | None
    ) -> tuple[Entry, tuple[Replaced, ...]]:
        """The entry with its undo record, and all undo records that the retention still keeps."""
        options, key = self._sink.options.undo, self._load.key
        if options is None:
            return entry, before.undo
        label, rows = self._folder.label, sum(file.rows for file in replaced)
        kind: Literal["generation", "added"] = "generation" if replaced else "added"
        kept = UndoRecord(
            label, kind, ".dpone/undo" if replaced else "", rows, entry.rows["inserted"], previous=before.last
        )
        entry = evolve(entry, kept=(kept,))
        undo = (*before.undo, Replaced(entry, key, replaced, after.position if after else None))
        mine = [one.entry for one in undo if one.key == key]
        inside = {one.load_id for one in (mine[-options.loads :] if options.loads else mine)}
        if options.days is not None:
            oldest = entry.committed_at - timedelta(days=options.days)
            inside = {one.load_id for one in mine if one.load_id in inside and one.committed_at >= oldest}
        return entry, tuple(one for one in undo if one.key != key or one.entry.load_id in inside)

    def _verify(self, parts: list[PartFile]) -> None:
        """Parts that an earlier process staged are hashed again."""
        if self._load.schema is not None and not self._staging.is_dir():
            found = "another run of the stream took over or removed the staged parts"
            raise Conflict(f"commit to {self._folder.label}", found, "nothing was written; run again")
        for part in parts:
            path = self._staging / part.name
            # OB-01: a staged file may have been truncated, replaced or damaged since another process wrote it.
            if part.name not in self._written and durable.digest(path) != part.sha256:
                todo = f"delete {self._folder.label}/.dpone/staging and run again; the target was not changed"
                raise SinkError(f"commit to {self._folder.label}", f"staged part {part.name} was changed", todo)

    def _marks(self) -> list[_Mark]:
        found = (self._mark(path) for path in sorted(self._staging.glob("part-*.mark")))
        return [mark for mark in found if mark is not None]

    def _mark(self, path: Path) -> _Mark | None:
        """None if the part is not marked, or its file is not what the mark says: then it is staged again."""
        try:
            data = json.loads(path.read_bytes())
            mark = _Mark(PartFile(**data["file"]), Staged(**data["staged"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        name = path.name.removesuffix(".mark")
        part = self._staging / name
        whole = durable.is_plain_file(part) and part.lstat().st_size == mark.file.bytes
        return mark if whole and mark.file.name == name and PART.fullmatch(name) else None

    def _constants(self) -> dict[str, Any]:
        """Values of the lineage columns, the same in every row of a load."""
        return {LOAD_ID: self.load_id, LOADED_AT: self._load.started_at}


@frozen
class _Mark:
    file: PartFile
    staged: Staged


def _require_head(manifest: Manifest | None, key: str, after: Entry | None, label: str) -> None:
    head = manifest.journals.get(key) if manifest else None
    if _place(head) != _place(after):
        found = f"the last journal entry is {_shown_entry(head)}, not {_shown_entry(after)}"
        raise Conflict(f"commit to {label}", found, "another run loaded this stream; run again")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _names(schema: pa.Schema | None) -> list[str]:
    return [] if schema is None else list(schema.names)


def _of(added: Sequence[AddedColumns], key: str, run_id: str) -> tuple[AddedColumns, ...]:
    return tuple(one for one in added if one.key == key and run_id in ("", one.run_id))


def _left(added: Sequence[AddedColumns], load: Load) -> tuple[AddedColumns, ...]:
    """The additions that are still provisional after the commit of ``load``, which makes the ones it uses permanent."""
    used = {*_names(load.schema), *LINEAGE}
    others = (evolve(one, columns=tuple(c for c in one.columns if c not in used), made=False) for one in added)
    return tuple(one for one in others if one.key != load.key and one.columns)


def _place(entry: Entry | None) -> tuple[int, str] | None:
    return (entry.seq, entry.load_id) if entry else None


def _shown_entry(entry: Entry | None) -> str:
    return f"entry {entry.seq} of load {entry.load_id}" if entry else "empty"


def write_part(
    path: Path, stream: Stream, schema: pa.Schema, constants: Mapping[str, Any], options: WriteOptions
) -> tuple[int, int, str]:
    """Rows, Arrow bytes and SHA-256 of the file, which is complete and synced under its name on return."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as to:
            rows, size = write(to, stream, schema, constants, options)
        durable.sync_file(temporary)
        # Of the bytes in the file, not of what was passed to pyarrow: this is what a later run can compare.
        sha256 = durable.digest(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return rows, size, sha256


def _remove(staging: Path) -> None:
    """A staging folder of ours; a link in its place is removed, never followed."""
    if staging.is_symlink():
        staging.unlink()
    elif staging.exists():
        shutil.rmtree(staging)


def _united(before: pa.Schema | None, given: pa.Schema) -> pa.Schema:
    """The target's columns, followed by the new columns of the load."""
    if before is None:
        return given
    return pa.schema([*before, *(field for field in given if before.get_field_index(field.name) < 0)])


def _statement(change: SchemaChange) -> dict[str, Any]:
    if change.kind == "create" and change.schema is not None:
        columns = {field.name: str(field.type) for field in change.schema}
        return {"create": columns, "arrow": _packed(change.schema)}
    if change.kind in ("add", "widen") and change.after is not None:
        after = change.after
        looks = {"looks_at": {after.name: str(after.type)}} if change.looks else {}
        return {change.kind: {after.name: str(after.type)}, "arrow": _packed(pa.schema([after])), **looks}
    raise SinkError(
        f"plan {change}",
        "the manifest cannot record this change",
        "change schema_evolution in the pipeline, or the columns of the source",
    )


def _packed(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _changed(schema: pa.Schema | None, statement: Mapping[str, Any], lineage: Sequence[pa.Field]) -> pa.Schema:
    given = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(statement["arrow"])))
    if schema is None:
        return pa.schema([*given, *lineage])
    for field in given:
        at = schema.get_field_index(field.name)
        schema = schema.append(field) if at < 0 else schema.set(at, field)
    return schema
