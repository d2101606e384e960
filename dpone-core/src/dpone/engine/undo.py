"""Take one load back: find it by its id, plan, undo."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from dpone.config.reader import load_pipeline
from dpone.contract import Entry, Load, Receipt, Rehearsal, Sink, StateBackend, SupportsUndo, Versioned
from dpone.engine.contract_check import quarantine_folder
from dpone.engine.job import Job
from dpone.engine.journal import START, ask_journal, key_of, locked
from dpone.engine.recovery import compare, next_epoch, state_of
from dpone.errors import ConfigError, Stopped
from dpone.model.ids import ulid
from dpone.model.pipeline import Pipeline, SinkSpec, StreamSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.plugins import Plugins, discover


def undo(
    pipeline: Pipeline | str | Path,
    stream: str = "",
    load_id: str = "",
    plugins: Plugins | None = None,
    *,
    sink: str = "",
    target: str = "",
) -> Receipt:
    """Take one load back. Target and position are then as they were before it, in a new epoch, so the next run moves
    the same rows again. The load must be the last one that changed its target, and ``sink.options.undo`` must have been
    on for it. Raises UndoRefused, and Busy while the stream runs.

    The stream is named, or found by ``sink`` (a connection, or a type) and ``target``, as ``dpone ops rollback`` does.

    It is one commit of the sink, with its journal entry; the state is saved after it. If the process is killed in
    between, the next run adopts the journal, as after any load.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = load_pipeline(pipeline)
    plugins = plugins or discover()
    if not stream:
        stream = require_own(find(Job(pipeline, plugins=plugins), sink, target, load_id)).spec.name
    run = Job(pipeline, [stream], plugins=plugins)
    [spec] = run.streams()
    with ExitStack() as stack:
        undo_sink: Any = _undo_sink(run, spec.sink, stack.enter_context(closing(run.make("sink", spec.sink))))
        state: StateBackend = stack.enter_context(closing(run.make("state", pipeline.state)))
        key, _ = stack.enter_context(locked(run, spec, undo_sink, state))
        head, saved = undo_sink.journal(key), state.load(key)
        compare(head, saved.value if saved else None, spec.sink.location)
        if head is not None and spec.sink.contract is not None:  # it will not be the head any more
            quarantine_folder(spec, key).settle(head.load_id)
        load, position = _undo_load(run, spec, key, undo_sink, load_id, head, saved)
        try:
            receipt: Receipt = undo_sink.undo(load, load_id, head, position)
        except Stopped:
            raise
        except Exception as error:
            receipt = ask_journal(run, spec, key, load.load_id, error)
        state.save(key, state_of(receipt.entry), saved.version if saved else 0)
    return receipt


@frozen
class FoundLoad:
    """A load in the journal of a stream's sink. entry: None where a journal of files has only ``undone``, the entry
    that took it back. later: loads that changed the target since and were not taken back, with their keys. own: the
    stream is one of the pipeline; else only its name is known, from the key, and its state is not."""

    spec: StreamSpec
    key: str
    load_id: str
    entry: Entry | None
    later: tuple[tuple[str, Entry], ...]
    undone: Entry | None
    own: bool


def find(run: Job, sink: str, target: str, load_id: str) -> FoundLoad:
    """The stream that has loaded this, by the journal of a sink of ``run``. ``sink``: the name of a connection, or a
    type. Changes nothing. Raises ConfigError."""
    failed, streams = f"find load {load_id}", run.streams()
    able = [spec for spec in streams if sink in (spec.sink.named, spec.sink.type) and names(spec.sink, target)]
    if not able:
        known = sorted({f"{spec.sink.named or spec.sink.type} {_what(spec.sink)}" for spec in streams})
        found = f"no stream of {run.pipeline.name} loads {target} in {sink}"
        raise ConfigError(failed, found, f"use --sink and --target of one of: {', '.join(known)}")
    other: FoundLoad | None = None
    for spec in able:
        with closing(run.make("sink", spec.sink)) as made:
            listed = _undo_sink(run, spec.sink, made).loads(load_id)
        for key, entry in listed:
            if load_id not in (entry.load_id, entry.undoes):
                break
            if key in (spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)):
                return _found(spec, key, load_id, listed, own=True)
            other = other or _found(_stream_of(spec, key), key, load_id, listed, own=False)
    if other is not None:
        return other
    found = f"the journal of {able[0].sink.location} does not have it"
    todo = "use a load ID of 'dpone state history'; if that lists it, the target was dropped or replaced since"
    raise ConfigError(failed, found, todo)


def require_own(found: FoundLoad) -> FoundLoad:
    """A caller that takes a load back must hold the lock of its stream, and set its state. Raises ConfigError."""
    if not found.own:
        where = f"the journal of {found.spec.sink.location} has it under the key {found.key}"
        raise ConfigError(f"roll back load {found.load_id}", where, "use the pipeline file that loaded it")
    return found


def _stream_of(spec: StreamSpec, key: str) -> StreamSpec:
    return evolve(spec, name=[*key.split("|"), ""][1].replace("%7C", "|"))


def _what(sink: SinkSpec) -> str:
    return str(sink.table or sink.path or sink.topic or "")


def names(sink: SinkSpec, target: str) -> bool:
    """A target, with or without its schema."""
    if sink.table is None:
        return target in (sink.path, sink.topic)
    try:
        given = Name.parse(target).parts
    except ConfigError:
        return False
    shared = min(len(given), len(sink.table.parts))
    return given[-shared:] == sink.table.parts[-shared:]


def _found(spec: StreamSpec, key: str, load_id: str, listed: Sequence[tuple[str, Entry]], *, own: bool) -> FoundLoad:
    entry = next((one for k, one in listed if (k, one.load_id) == (key, load_id)), None)
    undone = {one.undoes: one for _, one in listed if one.undoes}
    later = ((k, one) for k, one in listed if one.load_id != load_id and not one.undoes and one.load_id not in undone)
    return FoundLoad(spec, key, load_id, entry, tuple(later), undone.get(load_id), own)


def rehearse(run: Job, found: FoundLoad) -> tuple[Rehearsal, Position]:
    """What ``undo`` would do now, and the position that it would leave. Takes no lock and changes nothing. Raises what
    ``undo`` would."""
    spec, load_id, key, saved = found.spec, found.load_id, found.key, None
    with ExitStack() as stack:
        undo_sink: Any = _undo_sink(run, spec.sink, stack.enter_context(closing(run.make("sink", spec.sink))))
        if found.own:
            state = stack.enter_context(closing(run.make("state", run.pipeline.state)))
            key = key_of(run, spec, undo_sink, state)
            saved = state.load(key)
        head = undo_sink.journal(key)
        if found.own:
            compare(head, saved.value if saved else None, spec.sink.location)
        load, position = _undo_load(run, spec, key, undo_sink, load_id, head, saved)
        rehearsal: Rehearsal = undo_sink.rehearse(load, load_id, head, position)
    return rehearsal, position


def _undo_load(
    run: Job, spec: StreamSpec, key: str, sink: SupportsUndo, load_id: str, head: Entry | None, saved: Versioned | None
) -> tuple[Load, Position]:
    """The load that the undo is, and the position that it leaves: that before the load, in a new epoch."""
    before = sink.undo_plan(key, load_id).position or START
    position = before.at_epoch(max(1, next_epoch(head, saved)))
    token = hashlib.sha256(f"undo {load_id} {key} {position.dumps()}".encode()).hexdigest()
    return Load(key, ulid(), run.run_id, token, False, None, spec.sink.strategy, False, datetime.now(UTC)), position


def _undo_sink(run: Job, spec: SinkSpec, sink: Sink) -> SupportsUndo:
    undo_sink = run.offered(SupportsUndo, sink, spec)
    if undo_sink is None:
        failed, found = f"take back a load of {_what(spec)}", f"{spec.type} cannot take back a load"
        raise ConfigError(failed, found, "load the rows again after 'dpone state set'")
    return undo_sink
