"""``dpone ops sweep``: what is left of loads that ended long ago, and what of it was deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from dpone.config.reader import load_pipeline
from dpone.contract import Leftover, SupportsSweep
from dpone.engine.contract_check import quarantine_folder
from dpone.engine.job import Job
from dpone.engine.journal import key_of, locked
from dpone.errors import Busy, counted
from dpone.model.pipeline import StreamSpec
from dpone.plugins import Plugins, discover

DAYS = 90


@frozen
class SweepItem:
    """kind: as in ``contract.Leftover``, or ``quarantine``, a folder of rows of one load. left: it is there, also after
    a sweep."""

    stream: str
    kind: Literal["journal", "table", "quarantine"]
    name: str
    count: int
    left: bool = True

    def __str__(self) -> str:
        if self.kind == "journal":
            return f"{counted(self.count, 'journal entry', 'journal entries')} of key {self.name}"
        return f"table {self.name}" if self.kind == "table" else f"{counted(self.count, 'file')} of {self.name}"


@frozen
class Sweep:
    """JSON: docs/reference/sweep.schema.json. before: what is older can go. skipped: streams that are running now, and
    those whose sink cannot be swept, with the reason."""

    before: datetime
    executed: bool
    found: tuple[SweepItem, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    busy: bool = False

    @property
    def ok(self) -> bool:
        return not self.busy and not (self.executed and any(one.left for one in self.found))

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "executed": self.executed,
            "before": self.before.isoformat(),
            "found": [
                {"stream": one.stream, "kind": one.kind, "name": one.name, "count": one.count, "left": one.left}
                for one in self.found
            ],
            "skipped": [{"stream": stream, "reason": reason} for stream, reason in self.skipped],
        }

    def to_text(self) -> str:
        before = self.before.isoformat(sep=" ", timespec="seconds")
        title = "swept" if self.executed else "dry run, nothing was deleted: add --execute to delete"
        words = {True: "STILL THERE" if self.executed else "would delete", False: "deleted"}
        lines = [f"{words[one.left]}  {one.stream}: {one}" for one in self.found] or ["nothing to delete"]
        return "\n".join(
            [f"{title}; older than {before}", *lines, *(f"skipped  {name}: {why}" for name, why in self.skipped)]
        )


def sweep(
    config: str | Path, older_than: timedelta = timedelta(days=DAYS), execute: bool = False,
    plugins: Plugins | None = None,
) -> Sweep:  # fmt: skip
    """Journal entries and quarantined rows that are older, of the streams of a pipeline, and tables that no journal and
    no open load knows. Without ``execute`` nothing is changed. Each stream under its lock; then it is looked at again.
    Raises ConfigError, SinkError."""
    plugins = plugins or discover()
    pipeline = load_pipeline(config, plugins=plugins)
    run, before = Job(pipeline, plugins=plugins), datetime.now(UTC) - older_than
    done = Sweep(before, execute)
    for spec in run.streams():
        try:
            found = _stream(run, spec, before, execute)
        except Busy as error:
            done = evolve(done, skipped=(*done.skipped, (spec.name, error.found)), busy=True)
            continue
        known = {(one.kind, one.name) for one in done.found}  # tables of a schema are those of all its streams
        done = evolve(done, found=(*done.found, *(one for one in found if (one.kind, one.name) not in known)))
        if not plugins.supports("sink", spec.sink.type, "sweep"):
            why = f"{spec.sink.type} keeps no old journal entries and no tables"
            done = evolve(done, skipped=(*done.skipped, (spec.name, why)))
    return done


def _stream(run: Job, spec: StreamSpec, before: datetime, execute: bool) -> list[SweepItem]:
    with ExitStack() as stack:
        sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state = stack.enter_context(closing(run.make("state", run.pipeline.state)))
        sweeping = run.offered(SupportsSweep, sink, spec.sink)
        if not execute:
            key = key_of(run, spec, sink, state)
            rows = list(sweeping.leftovers(key, before)) if sweeping else []
            return [*_found(spec, rows), *_quarantined(spec, key, before)]
        key, _ = stack.enter_context(locked(run, spec, sink, state))
        rows, folders = list(sweeping.sweep(key, before)) if sweeping else [], list(_quarantined(spec, key, before))
        for folder in folders:
            shutil.rmtree(folder.name)
        left = {(one.kind, one.name) for one in (sweeping.leftovers(key, before) if sweeping else ())}
        left |= {(one.kind, one.name) for one in _quarantined(spec, key, before)}  # type: ignore[misc]
    return [evolve(one, left=(one.kind, one.name) in left) for one in (*_found(spec, rows), *folders)]


def _found(spec: StreamSpec, rows: list[Leftover]) -> Iterator[SweepItem]:
    return (SweepItem(spec.name, one.kind, one.name, one.count) for one in rows)


def _quarantined(spec: StreamSpec, key: str, before: datetime) -> Iterator[SweepItem]:
    """Of loads that are committed; what others left, the next run deletes."""
    if spec.sink.contract is None:
        return
    for folder in quarantine_folder(spec, key).committed():
        if datetime.fromtimestamp(folder.stat().st_mtime, UTC) < before:
            yield SweepItem(spec.name, "quarantine", str(folder), sum(1 for _ in folder.iterdir()))
