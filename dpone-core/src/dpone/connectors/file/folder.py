"""A folder of parts, and the manifest in it.

DIR/part-<load id>-<part>.parquet   immutable
DIR/.dpone/manifest.json            the truth; replaced as a whole by each commit
DIR/.dpone/manifest.json.bak        the one before
DIR/.dpone/lock                     held while the manifest is replaced
DIR/.dpone/staging/                 parts on their way
DIR/.dpone/undo/                    parts that were replaced, and are kept so that the load can be taken back
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
from attrs import frozen

from dpone.errors import DponeError, SinkError, UndoRefused
from dpone.formats.manifest import LARGEST, PART, Manifest, PartFile
from dpone.host import durable


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
            raise SinkError(
                f"open {self.label}", found, "replace the link with a folder; dpone does not follow links here"
            )
        durable.private_folder(self.own)
        durable.private_folder(self.staging)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self.create()
        with durable.exclusive(self.own / "lock"):
            yield

    def read(self) -> Manifest | None:
        """The manifest; None before the first load. Raises SinkError if it is damaged; it is never treated as
        missing, nor is one whose folder cannot be reached."""
        for folder in (self.path, self.manifest.parent):
            if folder.exists() and not folder.is_dir():
                found = f"{folder.name} is not a folder"
                raise SinkError(f"read {self.label}", found, "restore the folder, or set path to another one")
        if not self.manifest.exists() and not self.manifest.is_symlink():
            if self.backup.exists():
                # MF-01: as an empty target, the next load would sweep every part of the folder.
                raise self._damaged("it is missing, but its backup exists")
            return None
        if not durable.is_plain_file(self.manifest):
            raise self._damaged("it is not a regular file")
        if self.manifest.stat().st_size > LARGEST:
            raise self._damaged(f"it has more than {LARGEST:,} bytes")
        try:
            return Manifest.loads(self.manifest.read_bytes())
        except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, DponeError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _damaged(self, why: str) -> SinkError:
        name = f"{self.label}/.dpone/manifest.json"
        todo = f"restore {name}.bak, the manifest before the last load; nothing was changed"
        return SinkError(f"read {name}", f"the file is damaged ({why})", todo)

    def write(self, manifest: Manifest) -> None:
        """Replace the manifest, keeping the one before; durable on return. Call under ``lock``."""
        if self.manifest.exists():
            durable.write_whole(self.backup, self.manifest.read_bytes())
        durable.write_whole(self.manifest, manifest.dumps())

    def names(self) -> list[str]:
        """Names of files in the folder that dpone did not write."""
        try:
            return sorted(p.name for p in self.path.iterdir() if p.name != self.own.name)
        except FileNotFoundError:
            return []

    def present(self, manifest: Manifest) -> tuple[PartFile, ...]:
        """The listed files that are there, by name only."""
        there = {*self.names()}
        return tuple(file for file in manifest.files if file.name in there)

    def verify(self, manifest: Manifest) -> None:
        """Check that every listed file exists, is complete and is not a link. Raises SinkError."""
        for file in manifest.files:
            path = self.path / file.name
            if not durable.is_plain_file(path) or path.lstat().st_size != file.bytes:
                found = f"{file.name} is listed in the manifest, but is missing, a link, or has another size"
                todo = "restore the file from a backup, or reload everything with --full-refresh"
                raise SinkError(f"open {self.label}", found, todo)

    def sweep(self, manifest: Manifest) -> None:
        """Remove parts that the manifest does not list. Parts kept for undo are moved to the undo folder; the others
        were replaced, or left by a commit that died between the move and the manifest. Call under ``lock``: without it
        they may belong to a commit in progress."""
        listed, kept = {file.name for file in manifest.files}, manifest.kept
        for name in self.names():
            # OB-03: only names that dpone gives, never a folder and never through a link: other programs may write
            # here.
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
        """Move kept parts back into the folder, complete and durable on return. Until a manifest lists them, the next
        sweep moves them to the undo folder again. Raises UndoRefused. Call under ``lock``."""
        self.require_kept(files)
        for file in files:
            if durable.is_plain_file(self.undo / file.name):
                os.rename(self.undo / file.name, self.path / file.name)
        durable.sync_folder(self.path)

    def require_kept(self, files: Collection[PartFile]) -> None:
        """Raises UndoRefused unless each file exists with the same bytes."""
        for file in files:
            here, aside = self.path / file.name, self.undo / file.name
            found = aside if durable.is_plain_file(aside) else here
            if not durable.is_plain_file(found) or durable.digest(found) != file.sha256:
                why = f"{self.label}/.dpone/undo/{file.name} is missing or was changed"
                raise UndoRefused(
                    f"restore the parts of {self.label}", why, "restore it from a backup; nothing was changed"
                )
