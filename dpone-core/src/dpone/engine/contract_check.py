"""The row contract of one attempt: bound to the columns, checked against the rows, decided before the commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress

import pyarrow as pa
from attrs import define, field

from dpone.contract import (
    Load,
    Part,
    Sink,
    Stream,
    Writer,
)
from dpone.errors import Conflict, DataError
from dpone.model.pipeline import StreamSpec
from dpone.model.report import ContractReport, StreamReport
from dpone.model.staged import Staged
from dpone.quality.check import (
    BrokenRule,
    CheckCounts,
    Rules,
)
from dpone.quality.check import (
    bind as bind_of_rowcheck,
)
from dpone.quality.quarantine import Inspection, QuarantineFolder


def quarantine_folder(spec: StreamSpec, key: str) -> QuarantineFolder:
    path = spec.sink.contract.quarantine.path if spec.sink.contract else ""
    return QuarantineFolder(spec.sink.base, path, spec.name, key)


@define
class ContractCheck:
    """Without a contract every method does nothing, so that the run needs no other code."""

    spec: StreamSpec
    report: StreamReport
    rules: Rules | None = field(default=None, init=False)
    inspection: Inspection | None = field(default=None, init=False)

    @property
    def place(self) -> QuarantineFolder:
        return quarantine_folder(self.spec, self.report.key)

    def bind(self, schema: pa.Schema) -> None:
        """Check the columns against the contract, before anything is changed."""
        contract = self.spec.sink.contract
        if contract is not None:
            self.rules = bind_of_rowcheck(contract, schema)
            broken = [one for one in self.rules.static if one.policy == "fail"]
            if broken:
                self._report(self.rules, CheckCounts())
            self._refuse(broken)

    def open(self, sink: Sink, load: Load, parts: Sequence[str]) -> Writer:
        """The sink's writer. Staged parts of an interrupted load are kept only if the files of their checks are there
        too. ``parts``: ids of the parts of the load, in the order of the window."""
        writer = sink.open(load)
        if self.rules is None:
            return writer
        self.inspection = Inspection(self.rules, self.place, writer.load_id)
        if not self.inspection.resumable(writer.staged(), parts):
            with closing(writer):
                writer.abort()
            writer = sink.open(load)
            self.inspection = Inspection(self.rules, self.place, writer.load_id)
        self.place.sweep(but=writer.load_id)
        return writer

    def begin(self, staged: Sequence[str]) -> bool:
        """``staged``: parts that are not read again, in the order of the window. Returns whether the others must be
        read one after the other."""
        if self.inspection is None:
            return False
        self.inspection.begin(staged)
        return self.inspection.rules.in_order

    def watched(self, part: Part, stream: Stream) -> Stream:
        return self.inspection.watch(part.id, stream) if self.inspection else stream

    def conclude(self, staged: Mapping[str, Staged]) -> None:
        """Check all parts of the load before its commit. Raises DataError."""
        if self.inspection is None:
            return
        counts, broken = self.inspection.conclude(staged)
        self._report(self.inspection.rules, counts)
        self._refuse([one for one in broken if one.policy == "fail"])
        said = [warning for warning in self.report.warnings if not warning.startswith("contract: ")]  # in an attempt
        self.report.warnings = said + [f"contract: {one.text}" for one in broken if one.policy == "warn"]

    def discard(self, error: BaseException) -> None:
        """Delete the quarantine of the load, but not after a Conflict: the run that took over may own the files."""
        if self.inspection is not None and not isinstance(error, Conflict):
            with suppress(Exception):  # as for the writers: the first error is the one to report
                self.inspection.discard()

    def settle(self, load_id: str) -> None:
        """After the commit: move the quarantined rows to their final folder. Idempotent."""
        if self.spec.sink.contract is not None:
            file = self.place.settle(load_id)
            if self.report.contract is not None and load_id == self.report.load_id:
                self.report.contract.file = file

    def warn_of_no_rows(self) -> None:
        wanted = self.spec.sink.contract.row_count if self.spec.sink.contract else None
        if wanted is not None and wanted.min:
            text = f"contract: row_count: 0 rows, at least {wanted.min:,} required; the source has nothing new to load"
            self.report.warnings.append(text)

    def _report(self, rules: Rules, counts: CheckCounts) -> None:
        left = counts.rows - counts.loaded
        self.report.contract = ContractReport(counts.rows, rules.violations(counts), left)

    def _refuse(self, broken: Sequence[BrokenRule]) -> None:
        if broken:
            todo = "nothing was changed; correct the rows in the source, or change the contract"
            raise DataError(f"check the contract of {self.spec.name}", ", ".join(one.text for one in broken), todo)
