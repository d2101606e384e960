"""Take one load back: rows, journal and position."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from dpone.config.reader import load_pipeline
from dpone.contract import Load, Receipt, Sink, StateBackend, SupportsUndo
from dpone.engine.contract_check import quarantine_folder
from dpone.engine.job import Job
from dpone.engine.journal import START, ask_journal, locked
from dpone.engine.recovery import compare, next_epoch, state_of
from dpone.errors import ConfigError, Stopped
from dpone.model.ids import ulid
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.plugins import Plugins, discover


def undo(pipeline: Pipeline | str | Path, stream: str, load_id: str, plugins: Plugins | None = None) -> Receipt:
    """Take one load back. Target and position are then as they were before it, in a new epoch, so the next run moves
    the same rows again. The load must be the last one that changed its target, and ``sink.options.undo`` must have been
    on for it. Raises UndoRefused, and Busy while the stream runs.

    It is one commit of the sink, with its journal entry; the state is saved after it. If the process is killed in
    between, the next run adopts the journal, as after any load.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = load_pipeline(pipeline)
    run = Job(pipeline, [stream], plugins=plugins or discover())
    [spec] = run.streams()
    with ExitStack() as stack:
        sink: Sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        undoing = _undoing(run, spec, sink)
        state: StateBackend = stack.enter_context(closing(run.make("state", pipeline.state)))
        key, _ = stack.enter_context(locked(run, spec, sink, state))
        head, saved = sink.journal(key), state.load(key)
        compare(head, saved.value if saved else None, spec.sink.location)
        if head is not None and spec.sink.contract is not None:  # it will not be the head any more
            quarantine_folder(spec, key).settle(head.load_id)
        before = undoing.undo_plan(key, load_id).position or START
        position = before.at_epoch(max(1, next_epoch(head, saved)))
        token = hashlib.sha256(f"undo {load_id} {key} {position.dumps()}".encode()).hexdigest()
        load = Load(key, ulid(), run.run_id, token, False, None, spec.sink.strategy, False, datetime.now(UTC))
        try:
            receipt = undoing.undo(load, load_id, head, position)
        except Stopped:
            raise
        except Exception as error:
            receipt = ask_journal(run, spec, key, load.load_id, error)
        state.save(key, state_of(receipt.entry), saved.version if saved else 0)
    return receipt


def _undoing(run: Job, spec: StreamSpec, sink: Sink) -> SupportsUndo:
    undoing = run.offered(SupportsUndo, sink, spec.sink)
    if undoing is None:
        found = f"{spec.sink.type} cannot take back a load"
        raise ConfigError(f"take back a load of {spec.name}", found, "load the rows again after 'dpone state set'")
    return undoing
