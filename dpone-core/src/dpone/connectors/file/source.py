"""The file source: every file of a glob, each read once, known by the digest of its bytes."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.folder import Folder
from dpone.contract import BatchStream, Finding, Part, Stream, Window, WindowRequest
from dpone.errors import ConfigError, ContentChanged, DponeError, IdentityChanged, SourceError, counted
from dpone.formats.input import Input
from dpone.formats.kinds import require_kind
from dpone.formats.manifest import PART
from dpone.formats.reader import Format, format_of, reader, reader_of
from dpone.formats.text import lacking, several
from dpone.formats.types import declared, without_lineage
from dpone.host import durable
from dpone.model.evolution import has_default
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.types import first_longer, limit_of, limited

KIND = "files"


@frozen
class _Found:
    """A file as it was when it was listed. ``name`` is relative to the pipeline's folder unless the path is not."""

    name: str
    path: Path
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def look(cls, name: str, path: Path) -> _Found:
        status = path.stat()
        return cls(name, path, status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def input(self) -> Input:
        return Input.at(self.path, self.name)

    def require_unchanged(self) -> None:
        try:
            same = _Found.look(self.name, self.path) == self
        except OSError:
            same = False
        if not same:
            found = "the file was changed, replaced or removed while it was read"
            todo = "run again when it is complete; write files elsewhere, then rename them into place"
            raise SourceError(f"read {self.name}", found, todo)


class FileSource:
    """Reads CSV, JSON Lines or Parquet files. The position holds size, time and SHA-256 of every file loaded."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._options = spec.options if isinstance(spec.options, FileSourceOptions) else FileSourceOptions()
        self._columns = declared(self._options.columns)
        self._batch_rows: int | None = None
        self._given: Sequence[Collection[str]] = ()

    @property
    def _pattern(self) -> str:
        return self._spec.path or ""

    def check(self) -> list[Finding]:
        try:
            found = self._list()
            columns = counted(len(self._schema(found[:1], None)), "column")
        except DponeError as error:
            return [Finding("files", False, error.found, error.todo)]
        except OSError as error:
            return [Finding("files", False, error.strerror or type(error).__name__, "check that the files can be read")]
        size = sum(file.size for file in found)
        return [
            Finding(
                "files",
                True,
                f"{counted(len(found), 'file')}, {counted(size, 'byte')}; {columns} in {found[0].name}",
            )
        ]

    def tables(self, pattern: str) -> list[str]:
        """Names of files. The glob is matched against the name in its folder and against the whole relative name."""
        names = [file.name for file in self._list()]
        return sorted(n for n in names if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(Path(n).name, pattern))

    def schema(self) -> pa.Schema:
        return self._schema(self._list(), None)

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        """The files that are new since ``after``, or all of them. Repeatable: the digests say what was read."""
        before = self._before(after)
        found = self._list()
        entries = {file.name: _entry(file, before.get(file.name)) for file in found}
        wanted = [f for f in found if request.whole or _digest(before, f) != _digest(entries, f)]
        if not request.whole and request.mode == "append":
            _reject_changed(wanted, before)
        kept = entries if request.whole else {**before, **{file.name: entries[file.name] for file in wanted}}
        expected = without_lineage(request.expected) if request.expected is not None else None
        known = {} if request.whole or after is None else _columns_of(after)
        absent: Mapping[str, str] = {}
        if wanted:
            schema, absent = self._with_known(wanted, expected, known)
            known |= dict.fromkeys(name for names in self._given for name in names if name in schema.names)
        else:
            schema = expected if expected is not None else self._schema(found[-1:], None)
        value = {"files": kept, **({"columns": list(known)} if known else {})}
        position = Position(KIND, {"path": self._pattern}, value, after.epoch if after else 0)
        self._batch_rows = request.batch_rows
        return Window(
            position=position,
            parts=tuple(self._parts(wanted, entries, schema, request.partitions)),
            repeatable=True,
            schema=schema,
            whole=len(wanted) == len(found),
            caught_up=True,
            proof=f"{counted(len(found), 'file')} matching {self._pattern}, {len(wanted):,} to read",
            own_schema=False,
            absent=absent,
        )

    def _with_known(
        self, files: Sequence[_Found], expected: pa.Schema | None, known: Collection[str]
    ) -> tuple[pa.Schema, Mapping[str, str]]:
        """The columns of the files, and columns that earlier files had and the target still has: they are NULL in these
        rows, as if all files had been read together, unless the column has a default. Also returns the columns that
        files lack."""
        schema = self._schema(files, expected)
        # A name that differs only by case is refused later, together with the name in the files.
        here = {name.casefold() for name in schema.names}
        gone = [f for f in expected or () if f.name in known and f.name.casefold() not in here and not has_default(f)]
        names = [file.name for file in files]
        absent = {name: where for name, where in lacking(names, self._given).items() if name in schema.names}
        absent |= dict.fromkeys((f.name for f in gone), several(names))
        return pa.schema([*schema, *(pa.field(f.name, f.type) for f in gone)]), absent

    def _parts(
        self, files: Sequence[_Found], entries: Mapping[str, Mapping[str, Any]], schema: pa.Schema, wanted: int
    ) -> Iterator[Part]:
        """One part per file. If more parts are wanted, large files are cut into pieces according to their share of the
        bytes."""
        total = sum(file.size for file in files)
        for i, file in enumerate(files):
            part = _part(i, file, entries[file.name], schema)
            pieces = round(wanted * file.size / total) if wanted > len(files) and total else 1
            cuts = self._format(file).cuts(file.input, pieces) if pieces > 1 else []
            if not cuts:
                yield part
                continue
            for j, span in enumerate(pairwise([0, *cuts, None])):
                yield Part(f"{part.id}-{j:04d}", {**part.detail, "span": span}, f"{part.content} {span}")

    @contextlib.contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        """The rows of a file, or of a piece of it. Raises SourceError if the file changed since it was listed, or
        changes during the read."""
        detail = part.detail
        file = _Found(detail["path"], self._path(detail["path"]), detail["size"], detail["mtime_ns"], detail["inode"])
        file.require_unchanged()
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(detail["schema"])))
        span = self._span(file, detail["span"]) if "span" in detail else None
        yield _FileStream(file, schema, self._format(file), self._batch_rows, span)

    def _span(self, file: _Found, span: Sequence[int | None]) -> tuple[int, int]:
        start, end = span
        return start or 0, self._format(file).end(file.input) if end is None else end

    def ack(self, position: Position) -> None:
        """Files are left where they are."""

    def close(self) -> None:
        """Holds nothing open between calls."""

    def _before(self, after: Position | None) -> Mapping[str, Mapping[str, Any]]:
        if after is None:
            return {}
        if after.kind != KIND or after.identity != {"path": self._pattern}:
            found = f"the position belongs to {after.kind} {dict(after.identity)}"
            todo = "restore the path, or start over with --full-refresh"
            raise IdentityChanged(f"resume {self._pattern}", found, todo)
        files: Mapping[str, Mapping[str, Any]] = after.value["files"]
        return files

    def _path(self, name: str) -> Path:
        return self._spec.base / name

    def _list(self) -> list[_Found]:
        """Regular files that match, sorted by name."""
        base = self._spec.base
        if "://" in self._pattern:
            what = (
                f"the path is a {self._pattern.partition('://')[0][:20]} URL, but the file connector reads local files"
            )
            raise ConfigError("read source.path", what, "download the files first, and use their local path")
        pattern = os.path.expanduser(self._pattern)
        literal = base / pattern
        if literal.is_dir():
            todo = f"write a glob of files, such as {self._pattern.rstrip('/')}/*.csv"
            raise SourceError(f"read {self._pattern}", "the path is a directory", todo)
        names = [pattern]
        if not literal.exists():
            names = sorted(glob.glob(pattern, root_dir=base, recursive=True))
        names = [name for name in names if _is_file(base / name)]
        found = [_Found.look(name, base / name) for name in _committed(base, names, self._spec.location)]
        if not found:
            raise SourceError(f"read {self._pattern}", *_nothing(base, pattern))
        return found

    def _schema(self, files: Sequence[_Found], expected: pa.Schema | None) -> pa.Schema:
        inputs = [file.input for file in files]
        formats = [format_of(one, self._options) for one in inputs]
        kinds = {reader_of(one) for one in formats}
        if len(kinds) > 1:
            todo = "use one glob per format, or set options.format"
            found = f"the files have {len(kinds)} formats ({', '.join(sorted(kinds))})"
            raise ConfigError(f"read {self._pattern}", found, todo)
        self._options.require_taken(*kinds)
        for one, kind in zip(inputs, formats, strict=True):
            require_kind(one, kind, self._options.encoding, self._options.header)
        format = reader(formats[0], self._options, self._columns)
        made = without_lineage(format.schema(inputs, expected))
        self._given = format.given
        return pa.schema([limited(field, self._options.columns.get(field.name, "")) for field in made])

    def _format(self, file: _Found) -> Format:
        return reader(format_of(file.input, self._options), self._options, self._columns)


class _FileStream(BatchStream):
    """The rows of one file. See ``dpone.contract.Stream``."""

    def __init__(
        self, file: _Found, schema: pa.Schema, format: Format, batch_rows: int | None, span: tuple[int, int] | None
    ) -> None:
        self.schema = schema
        self._limits = {field.name: most for field in schema if (most := limit_of(field)) is not None}
        self._file, self._format, self._batch_rows = file, format, batch_rows
        label = file.name if span is None or span[0] == 0 else f"{file.name} (the piece from {span[0]:,} on)"
        self._input = Input.at(file.path, label, span)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """At most ``batch_rows`` rows each. The file is looked at again after the last row and after a failure:
        a row that cannot be read may be one that is being written."""
        rows = 0
        try:
            for batch in self._format.batches(self._input, self.schema):
                self._require_lengths(batch, rows)
                rows += batch.num_rows
                for start in range(0, batch.num_rows, self._batch_rows or max(batch.num_rows, 1)):
                    yield batch.slice(start, self._batch_rows)
        except DponeError:
            self._file.require_unchanged()
            raise
        self._file.require_unchanged()

    def _require_lengths(self, batch: pa.RecordBatch, before: int) -> None:
        for name, most in self._limits.items():
            if (row := first_longer(batch.column(name), most)) >= 0:
                place = f"row {before + row + 1} (of the data, from 1), column {name!r}"
                todo = f"declare a longer type, or one without a limit, as in columns: {{{name}: string}}"
                raise self._input.bad(f"{place} has more than {most} characters", todo)


def _committed(base: Path, names: list[str], location: str) -> list[str]:
    """The names without parts of a file sink that no manifest lists: they are not committed yet, or were left by a load
    that died. Parts that were loaded from this same ``location`` are refused."""
    listed: dict[str, set[str] | None] = {}
    for folder in {os.path.dirname(name) for name in names if PART.fullmatch(os.path.basename(name))}:
        manifest = Folder(base / folder, folder or ".").read()
        listed[folder] = {file.name for file in manifest.files} if manifest else None
        # The third part of a journal's key is the source. Each run would read what the last one wrote.
        if manifest and [location.replace("|", "%7C")] in [str(f.key).split("|")[2:3] for f in manifest.files]:
            found = f"it includes folder {folder or '.'}, to which this stream writes"
            todo = f"narrow source.path, or move folder {folder or '.'} out of it and change the sink's path"
            raise ConfigError(f"read {location}", found, todo)
    return [name for name in names if _counts(os.path.basename(name), listed.get(os.path.dirname(name)))]


def _counts(name: str, listed: set[str] | None) -> bool:
    return listed is None or name in listed or not PART.fullmatch(name)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _nothing(base: Path, pattern: str) -> tuple[str, str]:
    """The found and todo of the error if no file matches."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)) or fixed == Path(pattern):
        if fixed == fixed.parent:
            break
        fixed = fixed.parent
    folder = base / fixed
    what = "no file matches" if glob.has_magic(pattern) else "no such file"
    if not folder.is_dir():
        return f"{what}: folder {fixed} does not exist", "check the path; it is relative to the pipeline file"
    count = sum(1 for entry in os.scandir(folder) if not entry.name.startswith("."))
    shown = "its folder" if str(fixed) == "." else f"folder {fixed}"
    return (
        f"{what} in {shown}, which has {counted(count, 'entry', 'entries')}",
        "check the path, and that the files have arrived",
    )


def _entry(file: _Found, before: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Size, time and digest. A file with the same bytes as before has the same entry, whatever its time says:
    positions of equal content are equal."""
    if before is not None and (before["size"], before["mtime_ns"]) == (file.size, file.mtime_ns):
        return before
    with file.input.failing():
        sha256 = durable.digest(file.path)
    file.require_unchanged()
    if before is not None and before["sha256"] == sha256:
        return before
    return {"size": file.size, "mtime_ns": file.mtime_ns, "sha256": sha256}


def _columns_of(position: Position) -> dict[str, None]:
    """Columns of the files that were loaded; positions of earlier versions do not have them."""
    return dict.fromkeys(position.value.get("columns", ()))


def _digest(entries: Mapping[str, Mapping[str, Any]], file: _Found) -> str | None:
    return entries[file.name]["sha256"] if file.name in entries else None


def _reject_changed(files: Sequence[_Found], before: Mapping[str, Mapping[str, Any]]) -> None:
    for file in files:
        if file.name in before:
            found = "its content changed since it was loaded"
            todo = "restore the file, put new rows into a new file, or use strategy merge or full_refresh"
            raise ContentChanged(f"append {file.name}", found, todo)


def _part(i: int, file: _Found, entry: Mapping[str, Any], schema: pa.Schema) -> Part:
    """Everything ``read`` needs, so that a part can be read in another process."""
    detail = {
        "path": file.name,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "inode": file.inode,
        "sha256": entry["sha256"],
        "order": i,
        "schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
    }
    return Part(f"{i:05d}-{entry['sha256'][:8]}", detail, content=f"{file.name} {entry['sha256']}")
