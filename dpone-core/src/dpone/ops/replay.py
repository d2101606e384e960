"""Changes that were loaded are read once more: what can be, from where to where, and what is in the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from attrs import frozen

from dpone.contract import CDCStatus, Entry, StateBackend, SupportsStatus, Versioned
from dpone.engine.job import Replay
from dpone.engine.journal import START
from dpone.engine.pause import pause_of
from dpone.engine.run import Run
from dpone.errors import ConfigError, StateError, counted
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.model.position import Position
from dpone.model.report import RunReport
from dpone.ops.cdc import change_streams
from dpone.ops.state import BEHIND, StreamState, stream_state

_HISTORY = 50


@frozen
class Remark:
    """A blocker or a warning, by name."""

    name: str
    found: str
    todo: str = ""


@frozen
class Place:
    """A position that is known, the load that ended there, and where it is in the log. ``load_id`` None: it was given
    as it is."""

    position: Position
    load_id: str | None
    source: CDCStatus

    def to_json(self) -> dict[str, Any]:
        return {"position": self.position.to_json(), "load_id": self.load_id, "at": self.source.at}


@frozen
class ReplayPlan:
    """start    changes strictly after it are read again
    applied  the target has all changes up to here, by its journal
    end      the end of the log, up to which they are read
    """

    stream: str
    start: Place | None
    applied: Place | None
    end: str | None
    blockers: tuple[Remark, ...]
    warnings: tuple[Remark, ...]

    @property
    def _bytes(self) -> tuple[int | None, int | None]:
        """Of the log from start to end, and of that part which was applied."""
        if self.start is None or self.applied is None:
            return None, None
        begin, upto = self.start.source.place, self.applied.source.place
        return self.start.source.bytes, None if begin is None or upto is None else max(upto - begin, 0)

    @property
    def _events(self) -> dict[str, int | None]:
        """As far as the source has counted them; without log there is none."""
        (whole, applied), start, then = self._bytes, self.start, self.applied
        total = start.source.changes if start else None
        left = then.source.changes if then else None
        counted = None if total is None or left is None else total - left
        return {"total": 0 if whole == 0 else total, "applied": 0 if applied == 0 else counted}

    def to_json(self) -> dict[str, Any]:
        whole, applied = self._bytes
        return {
            "stream": self.stream,
            "executable": not self.blockers,
            "from": self.start and self.start.to_json(),
            "applied": self.applied and self.applied.to_json(),
            "to": self.end,
            "log_bytes": {"total": whole, "applied": applied},
            "events": self._events,
            "blockers": [_remark(one) for one in self.blockers],
            "warnings": [_remark(one) for one in self.warnings],
        }


def _remark(one: Remark) -> dict[str, str]:
    return {"name": one.name, "found": one.found, "todo": one.todo}


def replay_plans(pipeline: Pipeline, stream: str | None = None, start: str | None = None) -> list[ReplayPlan]:
    """Of each change stream; touches nothing. ``start``: a load of 'dpone state history', or a position as JSON; left
    out, the earliest known position that the source can still be read from. Raises ConfigError for a start that is
    neither, or with several streams; StateError."""
    run = Run(pipeline)
    specs = change_streams(run, stream)
    if start is not None and len(specs) > 1:
        found = f"the pipeline has several: {', '.join(spec.name for spec in specs)}"
        raise ConfigError("choose a change stream", found, "choose one with --stream")
    with closing(run.make("state", pipeline.state)) as state:
        return [_Planner(run, state, spec, start).plan() for spec in specs]


@frozen
class _Known:
    """A position that was saved, and the load that ended there."""

    load_id: str
    position: Position


@frozen
class Replayed:
    """A replay that was executed. ``after``: journal and state of the stream, read again afterwards."""

    plan: ReplayPlan
    run: RunReport
    after: StreamState

    @property
    def exit_code(self) -> int:
        return self.run.exit_code or (0 if self.after.agree else 1)

    def to_json(self) -> dict[str, Any]:
        return {"plan": self.plan.to_json(), "run": self.run.to_json(), "after": self.after.to_json()}


def replay(pipeline: Pipeline, plans: Sequence[ReplayPlan]) -> list[Replayed]:
    """Execute plans without blockers, each in one commit of rows, journal entry and position under a new epoch. Killed
    before that commit, nothing was changed; a replay of what was replayed leaves the target as it is."""
    done = []
    for plan in plans:
        assert plan.start is not None, "a plan without a start has a blocker"
        assert plan.applied is not None
        given = Replay(plan.start.position, plan.applied.load_id or "")
        run = Run(pipeline, (plan.stream,), replay=given)
        run.execute()
        with closing(run.make("state", pipeline.state)) as state:
            [spec] = change_streams(run, plan.stream)
            done.append(Replayed(plan, run.report, stream_state(run, state, spec)))
    return done


class _Planner:
    """The plan of one stream."""

    def __init__(self, run: Run, state: StateBackend, spec: StreamSpec, start: str | None) -> None:
        self._run, self._state, self._spec, self._start = run, state, spec, start
        self._resync = self._again()

    def _again(self) -> str:
        """How rows get to the target where changes do not."""
        source = self._spec.source
        record = self._run.plugins.reader(source.type, source.changes.by) if source.changes else None
        if record is None or not self._run.plugins.supports("cdc", record.name, "resync"):
            return "read all rows with 'dpone run --full-refresh'"
        return f"read tables again with 'dpone cdc resync PIPELINE --stream {self._spec.name} --table NAME', then run"

    def plan(self) -> ReplayPlan:
        current = stream_state(self._run, self._state, self._spec)
        head = current.journal
        if head is None and not current.agree:  # the target was dropped or replaced: a run would stop too
            found, _, todo = current.note.partition("; ")
            return self._blocked(Remark("state", found, todo))
        if head is None or head.position.kind == START.kind:
            return self._blocked(Remark("not_loaded", "nothing was loaded", "use 'dpone run'"))
        changes = self._spec.source.changes
        assert changes is not None
        record = self._run.plugins.reader(self._spec.source.type, changes.by)
        with closing(self._run.reader(self._spec.source, changes.by)) as reader:
            asked = self._run.plugins.offered(SupportsStatus, reader, record.name) if record else None
            if asked is None:
                found = f"source {self._spec.source.type} does not report what it still has"
                return self._blocked(Remark("no_status", found, self._resync))
            return self._planned(asked, current, head)

    def _blocked(self, remark: Remark) -> ReplayPlan:
        return ReplayPlan(self._spec.name, None, None, None, (remark,), ())

    def _planned(self, reader: SupportsStatus, current: StreamState, head: Entry) -> ReplayPlan:
        applied = Place(head.position, head.load_id, reader.status(head.position))
        known = {place.load_id: place for place in map(_place, self._state.history(current.key, _HISTORY)) if place}
        known[head.load_id] = _Known(head.load_id, head.position)
        if self._start is None:
            start = self._earliest(reader, applied, [*known.values()])
        else:
            start = self._given(reader, known)
        blockers, warnings = self._blockers(current, applied, start), self._warnings(current, start)
        end = applied.source.end or None
        return ReplayPlan(self._spec.name, start, applied, end, tuple(blockers), tuple(warnings))

    def _earliest(self, reader: SupportsStatus, applied: Place, known: Sequence[_Known]) -> Place | None:
        """The first of them in the log that the source can still be read from, and not after what was applied."""
        found: list[tuple[int, Place]] = []
        for one in known:
            source = reader.status(one.position)
            fine = all(finding.ok is not False for finding in source.findings)
            if fine and source.place is not None and source.place <= (applied.source.place or 0):
                found.append((source.place, Place(one.position, one.load_id, source)))
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def _given(self, reader: SupportsStatus, known: Mapping[str, _Known]) -> Place:
        assert self._start is not None
        if (one := known.get(self._start)) is not None:
            return Place(one.position, one.load_id, reader.status(one.position))
        try:
            position = Position.loads(self._start)
        except (StateError, RecursionError) as error:
            said = f"{self._start[:60]!r} is neither a position nor a load that was saved"
            todo = "use a load id or a position of 'dpone state history'"
            raise ConfigError("read --from", said, todo) from error
        return Place(position, None, reader.status(position))

    def _blockers(self, current: StreamState, applied: Place, start: Place | None) -> Iterator[Remark]:
        spec = self._spec
        if pause := pause_of(self._state, spec.key(self._run.pipeline.name)):
            yield Remark("paused", f"the stream was paused {pause}", f"use 'dpone cdc resume' for stream {spec.name}")
        strategy, sink = spec.sink.strategy.mode, spec.sink.type
        if strategy == "append" and not self._run.plugins.supports("sink", sink, "merge"):
            found = f"sink {sink} cannot recognise changes that it already has, so append would load them twice"
            yield Remark("no_merge", found, "load into a sink with strategy merge, such as a database")
        ahead = not current.agree and current.note != BEHIND
        begins = start is None or start.position.at_epoch(0) == applied.position.at_epoch(0)
        if begins and self._start is None and not (ahead and start):
            at = applied.source.at or "the position"
            found = f"the source no longer has the changes after {at}"
            if start is not None:
                found = f"no saved position before {at} is one that the source can still read from"
            yield Remark("log_gone", found, self._resync)
        for finding in (applied if start is None else start).source.findings:
            if finding.ok is False:
                yield Remark(finding.name, finding.found, finding.todo)
        place, limit = None if start is None else start.source.place, applied.source.place
        if place is not None and limit is not None and place > limit:
            found = "it starts after the last change in the target: the changes in between would be skipped"
            yield Remark("after_target", found, "choose an earlier load of 'dpone state history'")

    def _warnings(self, current: StreamState, start: Place | None) -> Iterator[Remark]:
        if not current.agree:
            yield Remark("state", current.note)
        if start is None:
            return
        if waiting := start.source.waiting:
            tables = ", ".join(waiting)
            yield Remark("snapshot", f"all rows of {counted(len(waiting), 'table')} are read again: {tables}")
        if start.source.slot.get("active"):
            yield Remark("in_use", "another reader uses the slot", "wait until it ends")


def _place(saved: Versioned) -> _Known | None:
    """None: it is damaged, or the beginning of a stream that was set back."""
    with suppress(StateError, LookupError, TypeError):
        position = Position.from_json(saved.value["position"])
        return None if position.kind == START.kind else _Known(str(saved.value["load_id"]), position)
    return None
