"""The run log as files: one per run, in one folder per pipeline."""

from __future__ import annotations

import contextlib
import heapq
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dpone.connectors.file.partitions import name_of
from dpone.errors import StateError
from dpone.host import durable
from dpone.model.run_record import RunRecord, begun_already, damaged, not_running

_TIME = "%Y%m%dT%H%M%S%f"  # sorts by time as a text


class FileRunLog:
    """``contract.RunLog``, as ``FOLDER/<pipeline>/<time>-<run>.json``: the record is the first line, the report the
    second. A name begins with the time of the run, so that records are found and removed by their names alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, record: RunRecord) -> None:
        with self._exclusive(record) as path:
            if path.exists():
                raise begun_already(record)
            _write(path, record, None)

    def replace(self, record: RunRecord, report: Mapping[str, Any] | None = None) -> None:
        with self._exclusive(record) as path:
            if not path.exists() or _read(path).status != "running":
                raise not_running(record)
            _write(path, record, report)

    def records(self, pipeline: str | None = None, since: datetime | None = None) -> Iterator[RunRecord]:
        every = (path for path in _entries(self._folder) if path.is_dir())  # not a file that somebody put there
        folders = every if pipeline is None else [self._of(pipeline)]
        least = "" if since is None else _stamp(since)
        for path in heapq.merge(*map(_newest_first, folders), key=lambda path: path.name, reverse=True):
            if path.name < least:
                return
            with contextlib.suppress(FileNotFoundError):  # removed by the retention since
                yield _read(path)

    def report(self, record: RunRecord) -> Mapping[str, Any] | None:
        try:
            with self._path(record).open("rb") as file:
                file.readline()
                text = file.readline()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused("read", self._path(record), error) from error
        return _json(text, self._path(record)) if text else None

    def prune(self, pipeline: str, before: datetime, keep: int) -> None:
        least = _stamp(before)
        for place, path in enumerate(_newest_first(self._of(pipeline))):
            if place >= keep or path.name < least:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise _refused("remove", path, error) from error

    def _of(self, pipeline: str) -> Path:
        return self._folder / name_of(pipeline, "")

    def _path(self, record: RunRecord) -> Path:
        return self._of(record.pipeline) / f"{_stamp(record.started_at)}-{name_of(record.run_id, '.json')}"

    @contextlib.contextmanager
    def _exclusive(self, record: RunRecord) -> Iterator[Path]:
        """The path of a record, while no other process writes one of its pipeline."""
        path = self._path(record)
        try:
            for folder in (self._folder.parent, self._folder, path.parent):  # a run may begin before its first state
                durable.private_folder(folder)
            with durable.exclusive(path.parent / "lock"):
                yield path
        except OSError as error:
            raise _refused("write", path, error) from error


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime(_TIME)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in _entries(folder) if path.suffix == ".json"), reverse=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _refused("read", folder, error) from error


def _write(path: Path, record: RunRecord, report: Mapping[str, Any] | None) -> None:
    lines = [record.to_json(), *([] if report is None else [report])]
    durable.write_whole(path, b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines))


def _read(path: Path) -> RunRecord:
    try:
        with path.open("rb") as file:
            line = file.readline()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused("read", path, error) from error
    return RunRecord.from_json(_json(line, path))


def _json(text: bytes, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise damaged(f"{path.name}: {error}", str(path.parent)) from error


def _refused(step: str, path: Path, error: OSError) -> StateError:
    todo = "free disk space, or give the user that runs dpone read and write access to the state folder"
    return StateError(f"{step} {path}", error.strerror or type(error).__name__, todo)
