"""Reads the files that its input names, one a line, and answers with one line of JSON for each: ``result`` is ``read``,
``refused`` (a DponeError), or ``fault`` (any other exception). Whoever started it sees signals and silence."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from attrs import evolve

from dpone.connectors.file.changelog import FileChangeLog
from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.errors import DponeError
from dpone.model.pipeline import Incremental, SourceSpec

# Of CSV, read once with them and once without. What they are, the tokens of ``inputs`` know.
OPTIONS: dict[str, Any] = {
    "comment": "#", "escape": "\\", "trim": True, "short_rows": "null", "decimal": ",", "thousands": ".",
    "date_format": "%d.%m.%Y", "timestamp_format": "%d.%m.%Y %I:%M:%S.%f %p", "true_values": ("J",),
    "false_values": ("N",), "quoted_nulls": True,
}  # fmt: skip
MEMORY = 3 << 30  # of addresses; libraries and stacks of threads take more than half a gigabyte of them


def read(path: Path, kind: Any) -> int:
    """Rows. The types are inferred, the file is read whole and in pieces, and every value is looked at."""
    if kind == "changelog":
        return _changes(path)
    if kind == "csv":
        with contextlib.suppress(DponeError):
            _in_pieces(path, FileSourceOptions(format=kind, **OPTIONS))
    return _in_pieces(path, FileSourceOptions(format=kind))


def _in_pieces(path: Path, options: FileSourceOptions) -> int:
    whole = _rows(path, options, 1)
    try:
        pieces = _rows(path, evolve(options, block_bytes=4096), 3)
    except DponeError:  # a row longer than a small block, or a value that disagrees with a small sample
        return whole
    if pieces != whole:
        raise AssertionError(f"{whole} rows as a whole, {pieces} in pieces")
    return whole


def _rows(path: Path, options: FileSourceOptions, pieces: int) -> int:
    source = FileSource(SourceSpec("file", path=path.name, options=options, base=path.parent))
    source.check()
    window = source.window(None, WindowRequest(whole=True, partitions=pieces))
    rows = 0
    for part in window.parts:
        with source.read(part) as stream:
            for batch in stream.batches():
                batch.validate(full=True)
                rows += batch.num_rows
    return rows


def _changes(path: Path) -> int:
    options = FileSourceOptions(incremental=Incremental(by="cdc"))
    log = FileChangeLog(SourceSpec("file", path=path.name, options=options, base=path.parent, table="*"))
    rows = 0
    try:
        for table in log.window(None, None).tables:
            with log.read(table) as stream:
                for batch in stream.batches():
                    batch.validate(full=True)
                    rows += batch.num_rows
    finally:
        log.close()
    return rows


def answer(path: Path, kind: str) -> dict[str, Any]:
    try:
        return {"result": "read", "rows": read(path, kind)}
    except DponeError as error:
        text = str(error)
        wrong = "\n" in text or str(path.parent) in text or not (error.found and error.todo)
        return {"result": "fault" if wrong else "refused", "text": text}
    except BaseException:
        return {"result": "fault", "text": traceback.format_exc()}


def _peak() -> int:
    """Bytes that this process had at most. On Linux ru_maxrss begins with what the parent had when it forked."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        found = answer(Path(job["path"]), job["kind"])
        print(json.dumps({**found, "peak": _peak()}), flush=True)


if __name__ == "__main__":
    main()
