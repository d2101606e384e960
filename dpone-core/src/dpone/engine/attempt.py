"""What the stages of an attempt share: the stream, connections of the attempt's own, and the results that one stage
passes to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from attrs import define, evolve, frozen

from dpone.contract import Entry, Load, Sink, Source, StateBackend, SupportsRefuse, Window, Writer
from dpone.engine.contract_check import ContractCheck
from dpone.engine.job import Job, P, StreamContext
from dpone.engine.journal import head_of, manifests_of
from dpone.model import evolution
from dpone.model.changes import EVENT_ID
from dpone.model.pipeline import SinkSpec, StreamSpec
from dpone.model.position import Position
from dpone.model.report import StreamReport
from dpone.model.schema import LINEAGE, VALIDITY
from dpone.model.secret import redact
from dpone.model.strategy import Strategy
from dpone.partition import PartitionManifest, PartitionManifestStore


@define
class Recovered:
    """Where a stream stands: the journal's head, the position to continue from, the state's version, the epoch.
    latest: in a replay, the position that the stream has."""

    head: Entry | None
    after: Position | None
    version: int
    epoch: int
    latest: Position | None = None

    @property
    def again(self) -> bool:
        """Some of the changes are in the target already."""
        if self.latest is None or self.head is None or self.after is None:
            return False
        return self.head.position.at_epoch(0) != self.after.at_epoch(0)


@define
class Target:
    """One table of the sink, and what it takes of the window: all of it, or one table of a change stream. ``strategy``
    has the key by which the log identifies rows. ``forms``: those of the key columns, see ``dpone.model.keys``.
    ``writer`` is set while the load is open."""

    spec: SinkSpec
    sink: Sink
    window: Window
    strategy: Strategy
    key: str
    load: Load
    forms: Mapping[str, str]
    writer: Writer | None = None


@frozen
class Planned:
    """The result of ``PlanStep``. load: what the journal will hold, for the only target or for all together. manifest:
    that of a window of several parts; ``before``: that of the interrupted load that continues."""

    window: Window
    targets: Sequence[Target]
    load: Load
    manifest: PartitionManifest | None = None
    before: PartitionManifest | None = None


# What an attempt has added to its targets, and the changes it had planned for each.
Added = list[tuple[Target, evolution.Plan]]


@define
class Attempt:
    """What every stage of one attempt uses: the stream, and the attempt's own connections. A stage returns what it
    finds out, and the next stage takes it as an argument. ``last``: no attempt follows."""

    stream: StreamContext
    last: bool
    source: Source
    sink: Sink
    state: StateBackend
    contract_check: ContractCheck

    @property
    def spec(self) -> StreamSpec:
        return self.stream.spec

    @property
    def report(self) -> StreamReport:
        return self.stream.report

    @property
    def _cuts(self) -> bool:
        return bool(self.spec.sink.options.nanoseconds == "cut")

    def _offered(self, protocol: Callable[..., P], sink: Sink) -> P | None:
        return self.stream.run.offered(protocol, sink, self.spec.sink)

    def _refuse(self, sink: Sink, strategy: Strategy, every_row: bool = False) -> None:
        if (refusing := self._offered(SupportsRefuse, sink)) is not None:
            refusing.refuse(strategy, every_row)

    def _journal(self, sink: Sink, key: str) -> Entry | None:
        return head_of(self.stream.run, self.spec, sink, self.state, key)

    def landed(self, head: Entry | None) -> bool:
        """An earlier attempt of this run lost the answer to its commit, or failed after it; the journal has it."""
        return head is not None and head.load_id == self.report.load_id

    def _manifests(self) -> PartitionManifestStore | None:
        return manifests_of(self.stream.run, self.state)

    def _is_retryable(self, error: Exception) -> bool:
        return self.stream.run.plugins.classifier().classify(error).retryable

    def warn(self, text: str) -> None:
        """Once, however often the run tries."""
        if text not in self.report.warnings:
            self.report.warnings.append(text)


def one_line(error: Exception) -> str:
    return redact(" ".join(str(error).split()))


def effective(strategy: Strategy, run: Job, full_refresh: bool = False) -> Strategy:
    """With --full-refresh, a strategy that adds rows replaces them all; other strategies only read everything again. In
    a replay, changes are appended by their ids: one that the target has is not added again."""
    if run.replay is not None and strategy.mode == "append":
        return evolve(strategy, mode="merge", key=(EVENT_ID,))
    if (run.full_refresh or full_refresh) and strategy.mode in ("append", "merge"):
        return evolve(strategy, mode="full_refresh")
    return strategy


def resumes(stream: StreamContext) -> bool:
    """Whether staged parts survive an interrupted load. If not, each load reads all of its window."""
    return stream.run.plugins.supports("sink", stream.spec.sink.type, "resume")


def without_own(schema: pa.Schema | None, strategy: Strategy) -> pa.Schema | None:
    """The columns that rows of a source fill; the others are dpone's."""
    own = (*LINEAGE, *VALIDITY) if strategy.mode == "scd2" else LINEAGE
    return None if schema is None else pa.schema([f for f in schema if f.name not in own])
