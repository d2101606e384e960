"""How a running load is shown: a progress line on a terminal, one line per event on a pipe, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dpone.errors import counted
from dpone.hookspecs import hookimpl
from dpone.model.events import RunEvent
from dpone.model.secret import redact, redacted
from dpone.observe.trace import log_fields
from dpone.plugins import Plugins

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextlib.contextmanager
def observer(plugins: Plugins, log_format: str, quiet: bool) -> Iterator[None]:
    """Watch the runs inside the with-block, on stderr."""
    if quiet:
        yield
        return
    watch: Any = JsonLines() if log_format == "json" else Terminal() if sys.stderr.isatty() else TextLines()
    plugins.manager.register(watch)
    try:
        yield
    finally:
        plugins.manager.unregister(watch)
        if isinstance(watch, Terminal):
            watch.close()


class JsonLines:
    """Every event as one JSON object per line, with the id of its trace if there is one."""

    @hookimpl
    def dpone_run_event(self, event: RunEvent) -> None:
        line = {
            "at": event.at.isoformat(), "step": event.step, "run_id": event.run_id, "pipeline": event.pipeline,
            **log_fields(event.run_id, os.environ), "stream": event.stream,
            **({"seconds": event.seconds} if event.seconds else {}), **_shown(event),
        }  # fmt: skip
        print(json.dumps(redacted(line), default=str), file=sys.stderr, flush=True)


class TextLines:
    """Every event but the batches as one line; batches are summed up every ten seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self._every, self._said, self._rows = every, time.monotonic(), 0

    @hookimpl
    def dpone_run_event(self, event: RunEvent) -> None:
        data = _shown(event)
        if event.step == "batch":
            self._rows += data["rows"]
            if time.monotonic() - self._said < self._every:
                return
            data = {"rows": self._rows}
        self._said = time.monotonic()
        if event.step == "load_opened":
            self._rows = 0
        if event.seconds:
            data["seconds"] = event.seconds
        if event.step == "run_started":
            data |= log_fields(event.run_id, os.environ)
        words = " ".join(f"{k}={_short(v)}" for k, v in data.items())
        where = f" {event.stream}" if event.stream else ""
        line = f"{event.at:%H:%M:%S} {event.run_id} {event.step}{where} {words}"
        print(redact(line.rstrip()), file=sys.stderr, flush=True)


def _shown(event: RunEvent) -> dict[str, Any]:
    """Without the columns of every table, which are for observers."""
    return {name: value for name, value in event.data.items() if name != "tables"}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 160 else text[:157] + "..."


class Terminal:
    """One live line per stream: the step it is at, rows, rows per second, bytes."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        name, shown = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[shown]}", markup=False)
        columns = (SpinnerColumn(), name, shown, TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        self._tasks: dict[str, TaskID] = {}
        self._sums: dict[str, tuple[float, int, int]] = {}

    @hookimpl
    def dpone_run_event(self, event: RunEvent) -> None:
        if event.stream is None:
            return
        if event.stream not in self._tasks:
            self._tasks[event.stream] = self._progress.add_task(event.stream, total=None, shown="")
        start, rows, size = self._sums.get(event.stream, (time.monotonic(), 0, 0))
        if event.step in ("load_opened", "batch"):
            fresh = event.step == "load_opened"
            start, rows, size = (time.monotonic(), 0, 0) if fresh else (start, rows, size)
            rows, size = rows + event.data.get("rows", 0), size + event.data.get("bytes", 0)
            self._sums[event.stream] = (start, rows, size)
        speed = rows / max(time.monotonic() - start, 0.001)
        shown = f"{event.step.replace('_', ' ')}  {counted(rows, 'row')}  {speed:,.0f} rows/s  {size / 1e6:,.1f} MB"
        self._progress.update(self._tasks[event.stream], shown=shown)
        if event.step == "stream_finished":
            self._progress.remove_task(self._tasks.pop(event.stream))

    def close(self) -> None:
        self._progress.stop()
