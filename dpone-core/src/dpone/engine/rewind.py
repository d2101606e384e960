"""Positions that a person sets: a rewind, and a resync of some tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime

from dpone.contract import Entry, Load, Sink, StateBackend, SupportsResync
from dpone.engine.contract_check import quarantine_folder
from dpone.engine.job import Job
from dpone.engine.journal import START, digest, head_of, keeps_journal, locked
from dpone.engine.recovery import journal_of, next_epoch, rewind_token, state_of
from dpone.errors import ConfigError
from dpone.model.ids import ulid
from dpone.model.pipeline import Pipeline
from dpone.model.position import Position
from dpone.plugins import Plugins, discover


def rewind(pipeline: Pipeline, stream: str, position: Position | None, plugins: Plugins | None = None) -> Position:
    """Set a stream's position (None: its beginning). Starts a new epoch, in the journal first, so that a runner that
    was suspended before can no longer commit. Rows of the target stay. Returns the position as saved."""
    run = Job(pipeline, [stream], plugins=plugins or discover())
    return _rewind(run, lambda _: position or START, rewind_token)


def resync(pipeline: Pipeline, stream: str, tables: Sequence[str], plugins: Plugins | None = None) -> Position:
    """Make the next run of a change stream read all rows of some of its tables again (names or globs). The other tables
    continue. This is a rewind to the same position without those tables, so it starts a new epoch. Rows of the target
    stay until that run.

    Raises ConfigError for a stream that was not loaded yet, for a table it does not have, and for a reader without
    ``resync``.
    """
    run = Job(pipeline, [stream], plugins=plugins or discover())
    [spec] = run.streams()
    failed, changes = f"resync {', '.join(tables)}", spec.source.changes
    with ExitStack() as stack:
        reader = stack.enter_context(closing(run.reader(spec.source, changes.by))) if changes else None
        record = run.plugins.reader(spec.source.type, changes.by) if changes else None
        resyncing = run.plugins.offered(SupportsResync, reader, record.name) if record else None
        if resyncing is None:
            found = "its reader cannot read one table again" if reader else "it is not a change stream"
            raise ConfigError(failed, f"stream {stream}: {found}", "use 'dpone run --full-refresh'")

        def without(head: Entry | None) -> Position:
            if head is None or head.position.kind == START.kind:
                found = f"stream {stream} has not been loaded yet"
                raise ConfigError(failed, found, "use 'dpone run', which reads all rows of every table")
            return resyncing.resync(head.position, tables)

        return _rewind(run, without, lambda key, wanted: digest(f"resync {key} {wanted.dumps()}"))


def _rewind(run: Job, wanted: Callable[[Entry | None], Position], token: Callable[[str, Position], str]) -> Position:
    """Set the position that ``wanted`` makes from the journal's head, under the lock."""
    [spec] = run.streams()
    pipeline = run.pipeline
    with ExitStack() as stack:
        sink: Sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state: StateBackend = stack.enter_context(closing(run.make("state", pipeline.state)))
        key, _ = stack.enter_context(locked(run, spec, sink, state, new_epoch=True))
        head, saved = head_of(run, spec, sink, state, key), state.load(key)
        if head is not None and spec.sink.contract is not None:  # it will not be the head any more
            quarantine_folder(spec, key).settle(head.load_id)
        position = wanted(head).at_epoch(max(1, next_epoch(head, saved)))
        load = Load(
            key, ulid(), run.run_id, token(key, position), False, None, spec.sink.strategy, False, datetime.now(UTC)
        )  # fmt: skip
        version = saved.version if saved else 0
        if keeps_journal(run, spec):
            state.save(key, journal_of(load.entry(head, position)), version)
            return position
        with closing(sink.open(load)) as writer:
            receipt = writer.commit(head, position, ())
        state.save(key, state_of(receipt.entry), version)
    return position
