"""Partition manifests as JSON files, one per key: for runs on one machine, such as local and CI ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve

from dpone.errors import StateError
from dpone.host import durable
from dpone.partition import (
    Partition,
    PartitionManifest,
    PartitionManifestStore,
    Steps,
    damaged,
    no_manifest,
    no_partition,
)  # fmt: skip


class JsonPartitionManifestStore(PartitionManifestStore):
    """Keeps manifests of partitioned loads in a private folder, for runs on one machine. Every method is durable on
    return. A file is replaced as a whole, and ``.bak`` is the one before; the system's lock on a lock file lets one
    process at a time change it. Each change writes the whole manifest: for thousands of partitions a database is
    the better place; the stores of SQL backends keep the same shape.

    A manifest is ``PartitionManifest.to_json``: key, load_id, token, window and so on, and ``partitions``, each with
    its ``id``, ``bounds`` (with ``upper_inclusive``), ``status`` (pending, running, success, failed or skipped),
    ``rows_extracted``, ``rows_loaded``, ``bytes``, ``artifact``, ``checksum``, ``attempts``, ``error`` and ``reason``.

    ``load`` answers None where there is no manifest, and raises StateError for a damaged one: it is never taken for a
    missing one. ``claim`` raises Busy for a partition that is held or done, ``renew``, ``finish`` and ``fail`` raise
    Conflict where another process took it over, ``skip`` and ``retry`` ConfigError where the status does not allow it.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def load(self, key: str) -> PartitionManifest | None:
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if self._path(key, ".json.bak").exists():
                raise damaged("it is missing, but its backup exists", path.name) from None
            return None
        except OSError as error:
            raise _refused("read", path, error) from error
        try:
            manifest = PartitionManifest.from_json(json.loads(data))
        except ValueError as error:
            raise damaged(f"{type(error).__name__}: {error}", path.name) from error
        if manifest.key != key:
            raise damaged("it belongs to another key", path.name)
        return manifest

    def create(self, manifest: PartitionManifest) -> None:
        with self._exclusive(manifest.key):
            self._write(manifest)

    def forget(self, key: str) -> None:
        with self._exclusive(key):
            for ending in (".json.bak", ".json"):  # in this order: a backup alone would mean that the file was lost
                self._path(key, ending).unlink(missing_ok=True)
                durable.sync_folder(self._folder)

    def change_all(self, key: str, steps: Steps) -> list[Partition]:
        with self._exclusive(key):
            manifest = self.load(key)
            if manifest is None:
                raise no_manifest(key)
            known = {one.id: one for one in manifest.partitions}
            for id, step in steps:
                if id not in known:
                    raise no_partition(id)
                known[id] = step(known[id])
            self._write(evolve(manifest, partitions=tuple(known.values())))
        return [known[id] for id, _ in steps]

    def _write(self, manifest: PartitionManifest) -> None:
        # MF-01: a whole file under a new name, synced, and the one before is kept.
        path, backup = self._path(manifest.key), self._path(manifest.key, ".json.bak")
        data = json.dumps(manifest.to_json(), indent=1, sort_keys=True).encode()
        if path.exists():  # a hard link to the file; the new manifest is a new file, so the backup does not change
            temporary = backup.with_name(backup.name + ".tmp")
            temporary.unlink(missing_ok=True)
            os.link(path, temporary)
            os.replace(temporary, backup)
        durable.write_whole(path, data)

    def _path(self, key: str, ending: str = ".json") -> Path:
        return self._folder / name_of(key, ending)

    @contextlib.contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        try:
            durable.private_folder(self._folder)
            with durable.exclusive(self._path(key, ".lock")):
                yield
        except OSError as error:
            raise _refused("write", self._folder, error) from error


def name_of(key: str, ending: str) -> str:
    """A file name for a key: a readable beginning, and a digest of the whole key, because two keys may begin alike."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", key)[:40].strip("-")
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:20]}{ending}"


def _refused(step: str, path: Path, error: OSError) -> StateError:
    todo = "free disk space, or give the user that runs dpone read and write access"
    return StateError(f"{step} {path.name}", error.strerror or type(error).__name__, todo)
