"""The first stage: what earlier loads left in journal, state and target."""

from __future__ import annotations

from attrs import define

from dpone.contract import Entry, Lease, Sink, SupportsTakeBack, SupportsVerify, TakenBack, Versioned
from dpone.engine.attempt import Added, Attempt, Recovered, one_line
from dpone.engine.job import Replay
from dpone.engine.journal import START
from dpone.engine.key_move import require_here
from dpone.engine.recovery import compare, entry_of, next_epoch, rewind_token, state_of
from dpone.errors import Conflict, StateAhead, StateMissing, Stopped
from dpone.model.pipeline import SinkSpec


@define
class RecoverStep(Attempt):
    """The first stage, and the checks that later stages use: what earlier loads left in journal, state and target."""

    def take_back(self, sink: Sink, key: str) -> None:
        """Remove what an earlier load of the key added to the target and did not commit. So every attempt starts from
        the same target and makes the same plan, and staged parts still fit. If something cannot be removed, for example
        because another role owns the table now, the load is tried all the same."""
        try:
            taking = self._offered(SupportsTakeBack, sink)
            taken = taking.take_back(key) if taking else ()
        except Exception as error:
            if isinstance(error, Stopped) or self._is_retryable(error):
                raise
            self.warn(f"columns or tables that an earlier failed load added stay for now: {one_line(error)}")
            return
        for one in taken:
            if one.stays:
                self.warn(_taken(one))
            else:  # and perhaps created again in a moment
                self.stream.tell("warning", text=_taken(one))

    def take_back_own(self, added: Added, lease: Lease, error: BaseException) -> None:
        """The same for this attempt, if no run will continue it and the key is still ours."""
        if not self.last and isinstance(error, Exception) and self._is_retryable(error):
            return
        try:
            if added:
                lease.renew()
            for target, plan in added:
                taking = self._offered(SupportsTakeBack, target.sink)
                for one in taking.take_back(target.load.key, self.stream.run.run_id) if taking else ():
                    self.warn(_taken(one))
                name = f"{target.spec.table}: " if self.spec.tables else ""
                wider = [f"{name}{change}" for change in plan.changes if change.kind == "widen"]
                for change in wider:
                    self.warn(f"{change}: kept although the load failed; every value fits the new type")
        except Conflict:  # another runner has the key now and may use what was added
            pass
        except Exception as failed:
            self.warn(f"the next run removes the columns and tables that this load added: {one_line(failed)}")

    def execute(self, dry: bool) -> Recovered:
        """Law 1: the journal is the truth, the state is a copy. A state that is behind is corrected; one that is ahead
        stops the run."""
        with self.stream.timed("recover") as start:
            key, target = self.report.key, self.spec.sink.location
            if not dry:
                self.take_back(self.sink, key)
            head, saved = self._journal(self.sink, key), self.state.load(key)
            version, adopted = (saved.version if saved else 0), False
            if self.stream.run.full_refresh and not self.landed(head):
                known = Recovered(head, None, version, next_epoch(head, saved))
            elif (replay := self.stream.run.replay) is not None and not self.landed(head):
                known = self._replayed(replay, head, saved)
            else:
                require_here(key, head, target)
                adopted = compare(head, saved.value if saved else None, target)
                if adopted and head is not None and not dry:
                    version = self.state.save(key, state_of(head), version)
                if not self.spec.source.changes:
                    self.require_target(self.spec.sink, self.sink, head, head)
                started = head is not None and head.position.kind != START.kind
                known = Recovered(head, head.position if head and started else None, version, head.epoch if head else 0)
        self.report.position_before = head.position.to_json() if head else None
        self.report.position_after = self.report.position_before
        if head is not None and not dry:
            self.contract_check.settle(head.load_id)
        self.stream.tell("recovered", start, adopted=adopted, seq=head.seq if head else 0, epoch=known.epoch)
        return known

    def _replayed(self, replay: Replay, head: Entry | None, saved: Versioned | None) -> Recovered:
        """From an earlier position, in a new epoch. A state that is ahead of the journal is that of a target which was
        restored: the changes that are in neither come with the replay, if the source has not gone back as well."""
        require_here(self.report.key, head, self.spec.sink.location)
        if head is None or head.load_id != replay.applied:
            found = "another run loaded the stream after the replay was planned"
            raise Conflict(f"replay {self.spec.name}", found, "plan it again; nothing was changed")
        ahead, version = entry_of(saved), saved.version if saved else 0
        latest = max((one for one in (head, ahead) if one is not None), key=lambda one: (one.epoch, one.seq))
        return Recovered(head, replay.start, version, next_epoch(head, saved), latest.position)

    def require_target(
        self, spec: SinkSpec, sink: Sink, loaded: Entry | None, head: Entry | None, whole: bool = False
    ) -> None:
        """``loaded``: the journal entry of this target; ``head``: that of the stream; ``whole``: the window has all
        rows of the table.

        ST-04: a target with rows that neither journal nor state explains is never added to by guess. OUT-07: if there
        is a journal but the table was dropped or emptied, the loaded rows are gone and no later load would bring them
        back. A strategy that reads everything loads them again. After ``dpone state set`` the target is taken as it is.
        """
        if loaded is None:
            if spec.strategy.mode == "full_refresh" or spec.options.adopt_existing or sink.is_empty():
                return
            self.source.schema()  # a misspelt source has no journal either, and no decision about the target would help
            found = "the target has rows, but this stream has neither journal nor state"
            todo = "to keep the rows, set sink.options.adopt_existing: true; to replace them, use --full-refresh"
            raise StateMissing(f"load into {spec.location}", found, todo)
        keys = (self.report.key, self.spec.former_key(self.stream.run.pipeline.name))
        # The entry of ``dpone state set`` has no rows; its token says so, also under the former key.
        by_hand = head is not None and head.token in [rewind_token(key, head.position) for key in keys]
        started = head is not None and head.position.kind != START.kind
        remade = (whole or spec.strategy.whole) and spec.strategy.mode not in (
            "scd2",
            "append",
        )  # no source has history
        if not started or remade or by_hand:
            return
        if not sink.exists():
            found = f"the journal ends with load {loaded.load_id}, but the target does not exist"
            todo = "restore the target, use --full-refresh, or choose a position with 'dpone state set'"
            raise StateAhead(f"load into {spec.location}", found, todo)
        verify = spec.options.verify_target
        verifying = None if verify == "off" else self._offered(SupportsVerify, sink)
        if verifying is not None and (found := verifying.lost(loaded, verify == "count")):
            todo = "restore the rows, use --full-refresh, or choose a position with 'dpone state set'; "
            todo += "if rows are deleted on purpose, set sink.options.verify_target: off"
            found = f"the journal ends with load {loaded.load_id}, but the target has lost rows: {found}"
            raise StateAhead(f"load into {spec.location}", found, todo)


def _taken(one: TakenBack) -> str:
    added = f"{one.what}, added by a load that did not commit,"
    return f"{added} was kept: {one.stays}" if one.stays else f"{added} was removed"
