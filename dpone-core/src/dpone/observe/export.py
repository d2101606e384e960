"""``dpone observability``: reports in, a folder of artifacts out; and whether such a folder is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from dpone.config.document import repeated, strict_json
from dpone.contract import Finding
from dpone.errors import ConfigError, counted
from dpone.host.durable import digest, is_plain_file, write_whole
from dpone.model.report import RunReport
from dpone.model.secret import redacted
from dpone.observe import formats
from dpone.observe.metrics import check, scopes, text

FORMAT = 1
MAX_REPORT = 1 << 30  # bytes; positions name every file that was read, so a report has no small limit
INDEX = "metrics_index.json"
FILES = ("metrics.prom", "metrics.otlp.json", "summary.json", "report.md")


@frozen
class Exported:
    """What an export wrote. files: with their sizes and digests, as in the index."""

    folder: str
    runs: int
    streams: int
    series: int
    files: Sequence[Mapping[str, Any]]

    def to_text(self) -> str:
        what = ", ".join(
            (counted(self.runs, "run"), counted(self.streams, "stream"), counted(self.series, "series", "series"))
        )
        return "\n".join([*(f"{self.folder}/{one['name']}" for one in self.files), f"{self.folder}/{INDEX}", what])


def export(
    files: Sequence[str], folder: str, labels: Mapping[str, str], environ: Mapping[str, str], by_run: bool = False
) -> Exported:
    """Write the artifacts of the reports in ``files`` (``-`` is stdin) to ``folder``, the index last. Raises
    ConfigError before anything is written."""
    check(labels)
    reports = _read_all(files)
    found = scopes(reports, labels, environ, by_run)
    version = text(reports[-1].versions.get("dpone", ""))
    artifacts = dict(zip(FILES, (
        formats.prometheus(found), formats.otlp(found, version), _json(formats.summary(reports, labels)),
        formats.markdown(reports),
    ), strict=True))  # fmt: skip
    listed = [{"name": name, "size": len(data), "sha256": _sha256(data)} for name, data in artifacts.items()]
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        others = sorted(set(os.listdir(target)) - {*FILES, INDEX})
        (target / INDEX).unlink(missing_ok=True)  # until the new one is there, the folder is not an export
        for name, data in artifacts.items():
            write_whole(target / name, data, 0o666)
        index = {"format": FORMAT, "kind": "dpone.metrics_index", "files": listed, "others": others}
        write_whole(target / INDEX, _json(index), 0o666)
    except OSError as error:
        found_ = f"{error.filename2 or error.filename or folder}: {(error.strerror or str(error)).lower()}"
        raise ConfigError("write the metrics", found_, "give a writable folder as --output-dir") from error
    streams, series = sum(len(run.streams) for run in reports), sum(scope.series for scope in found)
    return Exported(folder, len(reports), streams, series, listed)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(data: Any) -> bytes:
    return (json.dumps(redacted(data), indent=2) + "\n").encode()


def _read_all(files: Sequence[str]) -> list[RunReport]:
    """Every report, the oldest first; no run twice."""
    reports: dict[str, tuple[str, RunReport]] = {}
    for file in files:
        run = _read(file)
        if (other := reports.setdefault(run.run_id, (file, run)))[0] != file or other[1] is not run:
            todo = "give the report of each run once"
            raise ConfigError("read the reports", f"run {run.run_id} is in {other[0]} and in {file}", todo)
    return sorted((run for _, run in reports.values()), key=lambda run: (run.started_at, run.run_id))


def _read(file: str) -> RunReport:
    failed, path = f"read the report {file}", Path("/dev/stdin" if file == "-" else file)
    todo = "give a file of 'dpone run --report', written by this version or an earlier one"
    if path.is_file() and not path.stat().st_size:
        raise ConfigError(failed, "it is empty: the run did not begin", "leave it out, and read the error of the run")
    try:
        run = RunReport.from_json(strict_json(path, f"the report {file}", MAX_REPORT))
    except ValueError as error:
        raise ConfigError(failed, str(error), todo) from error
    for name in repeated([text(stream.stream) for stream in run.streams]):
        raise ConfigError(failed, f"two streams are named {name}", todo)
    if run.dry_run or any(stream.status == "planned" for stream in run.streams):
        raise ConfigError(failed, "it is of a dry run, which loads nothing", "give the report of a run")
    return run


# -- verify ----------------------------------------------------------------------------------------------------------


def verify(folder: str) -> list[Finding]:
    """One finding for each file of an export, and for each file that was added to it. Raises ConfigError if there is
    no such folder, or if a later version wrote it."""
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError("verify the metrics", f"{folder} is not a folder", "give the --output-dir of an export")
    todo = "export the metrics again"
    if not is_plain_file(root / INDEX):
        return [Finding(INDEX, False, "missing", todo)]
    try:
        index = strict_json(root / INDEX)
    except ConfigError as error:
        return [Finding(INDEX, False, f"changed: {error.found}", todo)]
    if isinstance(index, dict) and type(later := index.get("format")) is int and later > FORMAT:
        found = f"{INDEX} has format {later}, and this dpone reads {FORMAT}"
        raise ConfigError("verify the metrics", found, "use the dpone version that wrote it")
    if not _is_index(index):
        return [Finding(INDEX, False, "changed: it is not the index of an export", todo)]
    files = [_compared(root, one, todo) for one in index["files"]]
    added = sorted(set(os.listdir(root)) - {INDEX, *FILES, *index["others"]})
    return [*files, *(Finding(name, False, "added", "remove it, or move it elsewhere") for name in added)]


def _is_index(data: Any) -> bool:
    """Names are those of an export, never paths."""
    try:
        files, names = data["files"], [one["name"] for one in data["files"]]
        if (data["format"], data["kind"], sorted(names)) != (FORMAT, "dpone.metrics_index", sorted(FILES)):
            return False
        digests = all(type(one["size"]) is int and re.fullmatch("[0-9a-f]{64}", one["sha256"]) for one in files)
        return digests and all(isinstance(name, str) for name in data["others"])
    except (KeyError, TypeError):
        return False


def _compared(root: Path, entry: Mapping[str, Any], todo: str) -> Finding:
    path = root / entry["name"]
    if not os.path.lexists(path):
        return Finding(entry["name"], False, "missing", todo)
    if not is_plain_file(path):
        return Finding(entry["name"], False, "changed: it is not a regular file", todo)
    size = path.stat().st_size
    if size != entry["size"]:
        return Finding(entry["name"], False, f"changed: {counted(size, 'byte')}, not {entry['size']:,}", todo)
    if digest(path) != entry["sha256"]:
        return Finding(entry["name"], False, "changed: another SHA-256", todo)
    return Finding(entry["name"], True, counted(size, "byte"))
