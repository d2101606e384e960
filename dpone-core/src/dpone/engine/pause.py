"""Change streams that a person has paused. A pause is a value of the state backend under a key of its own, made of
pipeline and stream alone: it outlives whatever moves the position, and a target or host that gets another name.

It is set and removed under the stream's lock. So once ``pause`` has returned, the stream has no run and gets none.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime

from attrs import asdict, frozen

from dpone.contract import StateBackend, Versioned
from dpone.engine.job import Job
from dpone.engine.lease import renewing
from dpone.errors import Paused
from dpone.model.pipeline import Pipeline, StreamSpec


@frozen
class Pause:
    """``by``: user and host; ``at``: ISO 8601, in UTC."""

    by: str
    at: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"by {self.by} at {self.at}: {self.reason}"


def pause_key(key: str) -> str:
    """Of a stream's key, where its pause is kept."""
    return "|".join(["paused", *key.split("|")[:2]])


def pause_of(state: StateBackend, key: str) -> Pause | None:
    """Why the stream with this key is paused; None: it is not."""
    return _pause(state.load(pause_key(key)))


def require_running(pipeline: Pipeline, spec: StreamSpec, state: StateBackend) -> None:
    """The caller holds the lock of the stream, or starts nothing. Raises Paused."""
    if not spec.source.changes or (pause := pause_of(state, spec.key(pipeline.name))) is None:
        return
    found = f"it was paused {pause}"
    file = shlex.quote(str(pipeline.path or "PIPELINE"))
    todo = f"continue it with 'dpone cdc resume {file} --stream {shlex.quote(spec.name)}'"
    raise Paused(f"run stream {spec.name}", found, todo)


def pause(run: Job, specs: Sequence[StreamSpec], reason: str) -> list[tuple[str, Pause, bool]]:
    """Pause these streams, all or none; one that is paused stays as it is. Names of the streams, their pauses, and
    whether they were set by this call. Raises Busy while one of them has a run."""
    made = Pause(f"{_user()}@{socket.gethostname()}", datetime.now(UTC).isoformat(timespec="seconds"), reason)
    found = []
    with ExitStack() as stack:
        for spec, state, key, saved in _held(run, specs, stack):
            there = _pause(saved)
            if there is None:
                state.save(key, made.to_json(), 0)
            found.append((spec.name, there or made, there is None))
    return found


def resume(run: Job, specs: Sequence[StreamSpec]) -> list[tuple[str, Pause | None]]:
    """End the pauses of these streams: their names, and the pauses that were ended."""
    found = []
    with ExitStack() as stack:
        for spec, state, key, saved in _held(run, specs, stack):
            if saved is not None:
                state.delete(key, saved.version)
            found.append((spec.name, _pause(saved)))
    return found


def move_pause(state: StateBackend, old: str, new: str) -> None:
    """For a key that is renamed. Killed in it, the same call does the rest."""
    was, is_ = pause_key(old), pause_key(new)
    if was == is_ or (saved := state.load(was)) is None:
        return
    if state.load(is_) is None:
        state.save(is_, saved.value, 0)
    state.delete(was, saved.version)


def _held(
    run: Job, specs: Sequence[StreamSpec], stack: ExitStack
) -> list[tuple[StreamSpec, StateBackend, str, Versioned | None]]:
    """The streams, all locked, with what is saved under the keys of their pauses."""
    state: StateBackend = stack.enter_context(closing(run.make("state", run.pipeline.state)))
    ttl = run.pipeline.state.options.lease_seconds
    keys = {spec.name: spec.key(run.pipeline.name) for spec in specs}
    for key in sorted(keys.values()):
        stack.enter_context(renewing(stack.enter_context(state.lock(key, ttl)), ttl))
    kept = [(spec, pause_key(keys[spec.name])) for spec in specs]
    return [(spec, state, key, state.load(key)) for spec, key in kept]


def _pause(saved: Versioned | None) -> Pause | None:
    """One that lacks something, of another version or by a hand, pauses the stream all the same."""
    if saved is None:
        return None
    return Pause(*(str(saved.value.get(name) or "unknown") for name in ("by", "at", "reason")))


def _user() -> str:
    """A container may run as a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
