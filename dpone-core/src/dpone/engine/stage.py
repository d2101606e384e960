"""The third stage: every part from the source into the sink's staging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress

import pyarrow as pa
from attrs import define, evolve, field

from dpone.contract import Load, Part, Stream, Writer
from dpone.engine.attempt import Attempt, Planned, Target
from dpone.engine.manifest_tracker import Halted, ManifestTracker
from dpone.engine.staged_stream import StagedStream
from dpone.errors import Conflict
from dpone.formats.nanoseconds import Cut
from dpone.model.changes import ChangeTable, batch_schema
from dpone.model.staged import Staged
from dpone.partition import PartitionManifest


@define
class StageStep(Attempt):
    """The third stage: from the source into the sink's staging. ``halted``: a part has failed, and the others must
    stop."""

    halted: threading.Event = field(factory=threading.Event, init=False)

    def tracker(self, writer: Writer, planned: Planned) -> ManifestTracker:
        """The staging decides which parts are done. With ``mixed_snapshots`` the report says which parts are from which
        snapshot."""
        store, window = self._manifests(), planned.window
        if planned.manifest is None or store is None:
            return ManifestTracker()
        staged, ttl = writer.staged(), self.stream.run.pipeline.state.options.lease_seconds
        manifest = evolve(planned.manifest, load_id=writer.load_id)
        tracker = ManifestTracker.open(store, manifest, planned.before, staged, ttl)
        if staged and not window.repeatable:
            found = f"partitions from an earlier snapshot than the others: {len(staged)} of {len(window.parts)}"
            self.warn(f"{found} (runtime.resume: mixed_snapshots)")
        self.report.partitions_skipped = [one.id for one in tracker.skipped]
        for one in tracker.skipped:
            self.warn(f"partition {one.id} was skipped: {one.reason}; its rows are not loaded")
        return tracker

    def open(self, stack: ExitStack, planned: Planned) -> tuple[Writer, list[Writer]]:
        """The writer that holds the journal, and the writers whose rows its commit includes. All have one load id: that
        of the first one that continues an interrupted load."""
        targets, load = planned.targets, planned.load
        load_id = load.load_id
        for target in targets:
            target.load = evolve(target.load, load_id=load_id, started_at=load.started_at)
            target.writer = self._open_inspected(target, planned.before)
            if target is not targets[0] and target.writer.load_id != load_id:
                target.writer.abort()  # it was staged under another load id: stage it again
                target.writer = self._open_inspected(target, planned.before)
            stack.enter_context(closing(target.writer))
            load_id = target.writer.load_id
        writers = [target.writer for target in targets if target.writer is not None]
        if len(targets) == 1 and targets[0].key == load.key:
            return writers[0], []
        leader = stack.enter_context(closing(self.sink.open(evolve(load, load_id=load_id))))
        return leader, writers

    def _open_inspected(self, target: Target, before: PartitionManifest | None) -> Writer:
        """Open through the contract, which needs the list of parts: all except the skipped ones."""
        before = before if before and before.token == target.load.token else None
        skipped = {one.id for one in before.of("skipped")} if before else set()
        parts = [part.id for part in target.window.parts if part.id not in skipped]
        return self.contract_check.open(target.sink, target.load, parts)

    def give_up(self, load: Load, writers: Sequence[Writer], tracker: ManifestTracker, error: BaseException) -> bool:
        """The next ``open`` sweeps what stays; the first error is the one to report. Another runner may be using what
        it has taken over. True: staged parts are kept, and so are the columns they need in the target."""
        if isinstance(error, Conflict) and tracker.taken_over():
            return True
        if self._will_resume(load, tracker, error):
            return True
        for writer in writers:
            with suppress(Exception):
                writer.abort()
        with suppress(Exception):
            tracker.dropped()
        self.contract_check.discard(error)
        return False

    def _will_resume(self, load: Load, tracker: ManifestTracker, error: BaseException) -> bool:
        """Whether to keep staged parts: the next attempt can continue with them, or one part failed while others are
        done, so that a later run can continue by their manifest."""
        if not load.repeatable or not isinstance(error, Exception):
            return False
        return tracker.half_done or (not self.last and self._is_retryable(error))

    def execute(self, targets: Sequence[Target], tracker: ManifestTracker) -> dict[str, Staged]:
        """Stage every part of every target that is not staged yet."""
        staged: dict[str, Staged] = {}
        todo: list[tuple[Target, Part]] = []
        for target in targets:
            assert target.writer is not None, "opened before"
            staged |= target.writer.staged()
            done = {*staged, *self.report.partitions_skipped}
            todo += [(target, part) for part in target.window.parts if part.id not in done]
        self.report.partitions_resumed = len(staged)
        workers = self.stream.run.workers or self.stream.run.pipeline.runtime.workers
        if self.contract_check.begin(
            [part.id for target in targets for part in target.window.parts if part.id in staged]
        ):
            workers = 1
        with self.stream.timed("stage") as start:
            if workers > 1 and len(todo) > 1 and self._parallel():
                staged.update(self._stage_at_once(workers, todo, tracker))
            else:
                staged.update(self._stage_part(target, part, tracker) for target, part in todo)
        rows = self.report.rows
        rows.written = sum(s.rows for s in staged.values())
        rows.filtered = sum(s.filtered for s in staged.values())
        rows.quarantined = sum(s.quarantined for s in staged.values())
        rows.read = rows.written + rows.filtered + rows.quarantined
        self.report.bytes = sum(s.bytes for s in staged.values())
        self.stream.tell("staged", start, parts=len(staged), rows=rows.written, bytes=self.report.bytes)
        return staged

    def _stage_at_once(
        self, workers: int, todo: Sequence[tuple[Target, Part]], tracker: ManifestTracker
    ) -> Iterator[tuple[str, Staged]]:
        """Stage with several threads. After the first failure or a signal, the others stop at their next batch."""
        with ThreadPoolExecutor(workers, "dpone-part") as pool:
            staging = [pool.submit(self._stage_part, target, part, tracker) for target, part in todo]
            try:
                for staged in as_completed(staging):
                    yield staged.result()
            except BaseException:
                self.halted.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _parallel(self) -> bool:
        return self.stream.run.plugins.supports("sink", self.spec.sink.type, "parallel_stage")

    def _stage_part(self, target: Target, part: Part, tracker: ManifestTracker) -> tuple[str, Staged]:
        tell, writer = self.stream.tell, target.writer
        assert writer is not None, "opened before"

        def after_batch(**data: int) -> None:
            tell("batch", part=part.id, **data)
            if self.halted.is_set():
                found = "another part of the window failed, or the run was interrupted"
                raise Halted(f"read part {part.id}", found, "see the stream's error")

        with tracker.running(part.id) as finish:
            tell("part_started", part=part.id)
            start = time.perf_counter()
            with (
                self.source.read(part) as stream,
                closing(self._staged_stream(target, part, stream, after_batch)) as staged_stream,
            ):
                staged = writer.stage(part, staged_stream)
            finish(staged)
        tell("part_staged", start, part=part.id, rows=staged.rows, bytes=staged.bytes)
        return part.id, staged

    def _staged_stream(
        self, target: Target, part: Part, stream: Stream, after_batch: Callable[..., None]
    ) -> StagedStream:
        stream = Cut(stream) if self._cuts else stream
        watched, staged = self.contract_check.watched(part, stream), _staged_schema(target.load)
        return StagedStream(watched, target.window.schema, staged, after_batch, target.forms)


def _staged_schema(load: Load) -> pa.Schema:
    """The schema of the batches that the writer gets."""
    assert load.schema is not None, "only a rewind has no schema, and it stages nothing"
    return batch_schema(ChangeTable(load.schema, load.strategy.key)) if load.changes else load.schema
