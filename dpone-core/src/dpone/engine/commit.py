"""The last stage: one commit, then the state, then the source."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import define

from dpone.contract import Receipt, Writer
from dpone.engine.attempt import Attempt, Recovered
from dpone.engine.journal import ask_journal, keeps_journal
from dpone.engine.recovery import journal_of, state_of
from dpone.errors import Conflict, Stopped
from dpone.model.position import Position
from dpone.model.strategy import Strategy


@define
class CommitStep(Attempt):
    """The last stage: the one commit, then the state, then the source."""

    def execute(self, writer: Writer, also: Sequence[Writer], known: Recovered, position: Position) -> Receipt:
        self.stream.tell("commit_started", load_id=writer.load_id)
        head = known.head
        with self.stream.timed("commit") as start:
            try:
                if keeps_journal(self.stream.run, self.spec):
                    self._require_version(writer, known)
                receipt = writer.commit(head, position, also)
            except Stopped:
                raise
            except Exception as error:
                # A failed call is not a failed commit: the answer may have been lost. Loading again without asking
                # would add the rows of an append twice (LS-05).
                receipt = ask_journal(self.stream.run, self.spec, self.report.key, writer.load_id, error)
        entry = receipt.entry
        self.stream.tell("committed", start, load_id=writer.load_id, seq=entry.seq, rows=dict(entry.rows))
        return receipt

    def _require_version(self, writer: Writer, known: Recovered) -> None:
        """The fence for a sink that has none. A runner that is suspended after this check delivers its rows again, but
        cannot save its position."""
        saved = self.state.load(self.report.key)
        if (saved.version if saved else 0) != known.version:
            found = "another run loaded the stream or its position was set after this load began"
            raise Conflict(f"commit load {writer.load_id}", found, "nothing was delivered; run again")

    def done(self, receipt: Receipt, version: int | None = None) -> None:
        """The rows are durable: copy the position to the state. ``version`` None: recovery has already copied it."""
        rows, entry = self.report.rows, receipt.entry
        rows.inserted, rows.updated = receipt.inserted, receipt.updated
        rows.deleted, rows.unchanged = receipt.deleted, receipt.unchanged
        self.report.status, self.report.load_id = "loaded", entry.load_id
        self.report.position_after = entry.position.to_json()
        if version is not None:
            with self.stream.timed("state") as start:
                saved = journal_of(entry) if keeps_journal(self.stream.run, self.spec) else state_of(entry)
                self.state.save(self.report.key, saved, version)
            self.stream.tell("state_saved", start, seq=entry.seq)
        self.contract_check.settle(entry.load_id)

    def count(self, strategy: Strategy, receipt: Receipt) -> None:
        """If every staged row is a new one, the target's own count must agree."""
        written = self.report.rows.written
        if strategy.mode in ("append", "full_refresh") and strategy.duplicates == "fail" and receipt.inserted < written:
            gone = f"the target reports {receipt.inserted:,} inserted rows, but {written:,} were sent"
            self.warn(f"{gone}; check whether a trigger or rule of the table drops or redirects them")

    def acknowledge(self, position: Position) -> None:
        # Last of all (PG-01). A source that forgets before sink and state are durable loses what a failed commit still
        # needs.
        start = time.perf_counter()
        self.source.ack(position)
        self.stream.tell("acknowledged", start)
