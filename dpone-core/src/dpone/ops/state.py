"""Where the streams of a pipeline stand, in the state backend and in the journal of the sink."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from attrs import frozen

from dpone.contract import Entry, StateBackend, Versioned, WindowRequest
from dpone.engine import Run, rewind
from dpone.errors import ConfigError, DponeError, StateAhead, StateError, connected
from dpone.pipeline import Pipeline, StreamSpec
from dpone.position import Position
from dpone.standing import compare


@frozen
class Standing:
    """State and journal of one stream. ``note`` says what the next run makes of a difference."""

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


def standings(pipeline: Pipeline, stream: str | None = None) -> list[Standing]:
    """One for each stream, or for the named one."""
    run = _run(pipeline, stream)
    with closing(run.make("state", pipeline.state)) as state:
        return [_standing(run, state, spec) for spec in run.streams()]


def past(pipeline: Pipeline, stream: str | None, limit: int) -> list[tuple[str, Versioned]]:
    """Names of streams with what was saved for them, newest first for each."""
    run = _run(pipeline, stream)
    with closing(run.make("state", pipeline.state)) as state:
        keys = {spec.name: spec.key(pipeline.name) for spec in run.streams()}
        return [(name, saved) for name, key in keys.items() for saved in state.history(key, limit)]


def reposition(pipeline: Pipeline, stream: str, position: Position | None) -> Position:
    """``engine.rewind``, once the source has said that it can resume there."""
    if position is not None:
        run = _run(pipeline, stream)
        [spec] = run.streams()
        _require_window(run, spec, position)
    return rewind(pipeline, stream, position)


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
            raise ConfigError("use the position", found, "copy one that 'dpone state history' shows") from error


def _run(pipeline: Pipeline, stream: str | None) -> Run:
    return Run(pipeline, () if stream is None else (stream,))


def _standing(run: Run, state: StateBackend, spec: StreamSpec) -> Standing:
    key = spec.key(run.pipeline.name)
    with closing(run.make("sink", spec.sink)) as sink:
        head, saved = sink.journal(key), state.load(key)
    agree, note = _agreement(head, saved, spec.sink.location)
    return Standing(spec.name, key, saved, head, agree, note)


def _agreement(head: Entry | None, saved: Versioned | None, target: str) -> tuple[bool, str]:
    try:
        lags = compare(head, saved.value if saved else None, target)
    except StateAhead as error:
        return False, f"{error.found}; {error.todo}"
    except StateError as error:
        return False, f"the state is damaged ({error.found}); use 'dpone state set' or --full-refresh"
    if lags:
        return False, "the state lags; the next run adopts the journal"
    return True, "both at the same load" if head else "nothing was loaded yet"
