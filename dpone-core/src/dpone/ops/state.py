"""The positions of the streams of a pipeline, in the state backend and in the journal of the sink."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

from attrs import evolve, frozen

from dpone.contract import Entry, Sink, StateBackend, SupportsMove, Versioned, WindowRequest
from dpone.engine.journal import head_of, key_of, manifests_of
from dpone.engine.key_move import KeyContents, contents_of, moved_to
from dpone.engine.key_move import move as move_key
from dpone.engine.lease import renewing
from dpone.engine.recovery import compare
from dpone.engine.rewind import rewind
from dpone.engine.run import Run
from dpone.errors import ConfigError, DponeError, StateAhead, StateError, connected
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.model.position import Position

BEHIND = "the state is behind; the next run copies the journal to it"


@frozen
class StreamState:
    """State and journal of one stream. ``note`` says how the next run resolves a difference."""

    stream: str
    key: str
    state: Versioned | None
    journal: Entry | None
    agree: bool
    note: str

    def to_json(self) -> dict[str, Any]:
        state, journal = self.state and _saved(self.state), self.journal and _entry(self.journal)
        common = {"stream": self.stream, "key": self.key, "agree": self.agree, "note": self.note}
        return {**common, "state": state, "journal": journal}


def _saved(saved: Versioned) -> dict[str, Any]:
    return {"version": saved.version, "saved_at": saved.saved_at.isoformat(), **saved.value}


def _entry(head: Entry) -> dict[str, Any]:
    return {
        "seq": head.seq,
        "load_id": head.load_id,
        "run_id": head.run_id,
        "committed_at": head.committed_at.isoformat(),
        "rows": dict(head.rows),
        "position": head.position.to_json(),
    }


def stream_states(pipeline: Pipeline, stream: str | None = None) -> list[StreamState]:
    """One for each stream, or for the named one."""
    run = _run(pipeline, stream)
    with closing(run.make("state", pipeline.state)) as state:
        return [stream_state(run, state, spec) for spec in run.streams()]


def past(pipeline: Pipeline, stream: str | None, limit: int) -> list[tuple[str, Versioned]]:
    """The names of streams with their saved states, newest first for each."""
    run = _run(pipeline, stream)
    with closing(run.make("state", pipeline.state)) as state:
        keys = {spec.name: _key(run, state, spec) for spec in run.streams()}
        return [(name, saved) for name, key in keys.items() for saved in state.history(key, limit)]


def reposition(pipeline: Pipeline, stream: str, position: Position | None) -> Position:
    """``engine.rewind``, after the source has confirmed that it can resume there."""
    if position is not None:
        run = _run(pipeline, stream)
        [spec] = run.streams()
        _require_window(run, spec, position)
    return rewind(pipeline, stream, position)


@frozen
class Moved:
    """What ``move`` found under the old key. ``begun``: an earlier call moved the journal and was interrupted."""

    stream: str
    old: str
    new: str
    what: KeyContents
    begun: bool

    def to_json(self) -> dict[str, Any]:
        what = self.what
        return {
            "stream": self.stream,
            "old": self.old,
            "new": self.new,
            "begun": self.begun,
            "journal": what.head and _entry(what.head),
            "state": what.state and _saved(what.state),
            "partitions": what.manifest and what.manifest.head_to_json(),
        }


def movable(pipeline: Pipeline, old: str, new: str) -> Moved:
    """What ``move`` would move; changes nothing. ``new``: the key of a stream of the pipeline, or its name. Raises
    ConfigError if ``old`` has nothing or ``new`` has something, StateAhead if the state of ``old`` is."""
    run = _run(pipeline, None)
    spec, new = _named(run, old, new)
    with closing(run.make("sink", spec.sink)) as sink, closing(run.make("state", pipeline.state)) as state:
        return _movable(run, spec, sink, state, old, new)


def move(pipeline: Pipeline, old: str, new: str) -> Moved:
    """Rename a key in journal, state and partition manifests. Raises Busy while a run uses either key. If it is killed
    between two steps, the same call does the rest."""
    run = _run(pipeline, None)
    spec, new = _named(run, old, new)
    ttl = pipeline.state.options.lease_seconds
    with ExitStack() as stack:
        sink = stack.enter_context(closing(run.make("sink", spec.sink)))
        state = stack.enter_context(closing(run.make("state", pipeline.state)))
        for key in (new, old):
            stack.enter_context(renewing(stack.enter_context(state.lock(key, ttl)), ttl))
        found = _movable(run, spec, sink, state, old, new)
        move_key(spec, sink, _moving(run, spec, sink), state, manifests_of(run, state), old, new, run.run_id)
    return found


def _named(run: Run, old: str, new: str) -> tuple[StreamSpec, str]:
    """The stream, and its key in full."""
    streams, name = run.streams(), run.pipeline.name
    for spec in streams:
        if new in (spec.name, spec.key(name), spec.former_key(name)):
            key = spec.key(name) if new == spec.name else new
            if key == old:
                raise ConfigError(
                    f"move {old}", "the stream already has this key", "use another key; nothing was changed"
                )
            if not run.plugins.supports("sink", spec.sink.type, "move"):
                found = f"{spec.sink.type} cannot rename a key"
                raise ConfigError(f"move {old}", found, "set the position under the new key with 'dpone state set'")
            return spec, key
    found = f"{name} has no stream with key {new}"
    raise ConfigError(f"move {old}", found, f"choose one of its streams: {', '.join(spec.name for spec in streams)}")


def _movable(run: Run, spec: StreamSpec, sink: Sink, state: StateBackend, old: str, new: str) -> Moved:
    failed, manifests = f"move {old}", manifests_of(run, state)
    what, there = contents_of(sink, state, manifests, old), contents_of(sink, state, None, new)
    begun = moved_to(what.head) == new and there.head is not None and not moved_to(there.head)
    if begun:
        return Moved(spec.name, old, new, evolve(what, head=there.head), True)
    if what.head is None or moved_to(what.head):
        found = f"it was moved to {moved_to(what.head)}" if what.head else "nothing was loaded under this key"
        raise ConfigError(
            failed, f"{found}, according to the journal of {spec.sink.location}", _known(sink, _moving(run, spec, sink))
        )
    if (there.head is not None or there.state is not None) and not moved_to(there.head):
        found = f"{new} already exists"
        found += f": its journal ends with load {there.head.load_id}" if there.head else ": it has a state"
        todo = "keep that key and set its position with 'dpone state set'; two histories cannot be joined"
        raise ConfigError(failed, found, todo)
    compare(what.head, what.state.value if what.state else None, spec.sink.location)
    return Moved(spec.name, old, new, what, False)


def _moving(run: Run, spec: StreamSpec, sink: Sink) -> SupportsMove:
    moving = run.offered(SupportsMove, sink, spec.sink)
    assert moving is not None, "``_named`` has checked it"
    return moving


def _known(sink: Sink, moving: SupportsMove) -> str:
    keys = [key for key in moving.journal_keys() if key.count("|") == 3 and not moved_to(sink.journal(key))]
    return f"use one of its keys: {', '.join(map(repr, keys))}" if keys else "run the pipeline to load all rows"


def _require_window(run: Run, spec: StreamSpec, position: Position) -> None:
    """A position of another kind or another source is refused here, before anything is changed."""
    request = WindowRequest(mode=spec.sink.strategy.mode)
    with closing(run.make("source", spec.source)) as source:
        try:
            with connected():
                source.window(position, request)
        except DponeError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            found = f"{spec.source.location} cannot resume there ({type(error).__name__}: {error})"
            raise ConfigError("use the position", found, "copy a position from 'dpone state history'") from error


def _run(pipeline: Pipeline, stream: str | None) -> Run:
    return Run(pipeline, () if stream is None else (stream,))


def stream_state(run: Run, state: StateBackend, spec: StreamSpec) -> StreamState:
    with closing(run.make("sink", spec.sink)) as sink:
        key = key_of(run, spec, sink, state)
        head, saved = head_of(run, spec, sink, state, key), state.load(key)
    agree, note = _agreement(head, saved, spec.sink.location)
    return StreamState(spec.name, key, saved, head, agree, note)


def _key(run: Run, state: StateBackend, spec: StreamSpec) -> str:
    with closing(run.make("sink", spec.sink)) as sink:
        return key_of(run, spec, sink, state)


def _agreement(head: Entry | None, saved: Versioned | None, target: str) -> tuple[bool, str]:
    if to := moved_to(head):
        return False, f"it was moved to {to}"
    try:
        lags = compare(head, saved.value if saved else None, target)
    except StateAhead as error:
        return False, f"{error.found}; {error.todo}"
    except StateError as error:
        return False, f"the state is damaged ({error.found}); use 'dpone state set' or --full-refresh"
    if lags:
        return False, BEHIND
    return True, "state and journal have the same load" if head else "nothing has been loaded yet"
