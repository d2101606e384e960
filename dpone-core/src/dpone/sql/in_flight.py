"""Late commits: where a read by cursor must end while open transactions may still commit rows below its end.

Example: T1 takes id 1 and stays open, T2 takes id 2 and commits. A read up to 2 that saved this position would never
see id 1. So the end of a read is fixed first. Then the open transactions that may still write at or below it are
listed. Either dpone waits until they have ended, or the read ends before the values that they may commit. Its snapshot
begins after that, and is read only up to the fixed end: transactions that begin later write higher values, so dpone
never waits for them.

A risk remains where a source cannot see enough (docs/guide/pipeline.md, "Late commits"): values that the application
created before its transaction wrote them, clocks of several machines, sequences that give each session a range of its
own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from dpone.model.pipeline import Incremental
from dpone.model.position import Position
from dpone.sql.cursor import Bound, Value

_FIRST, _LONGEST = 0.02, 1.0  # seconds between two calls of ``still``


@frozen
class OpenTransaction:
    """An open transaction that may still commit a row at or below the end of the read.

    id      by which ``still`` finds it again
    who     for messages: process or name, and its age if known; never its statement
    lowest  no value that it may write is lower; None: not known
    """

    id: str
    who: str
    lowest: Value | None = None


@frozen
class Look:
    """The result of ``InFlight.look``.

    high     the highest committed value, read before the writers were listed; None: there is none
    writers  in the order of ``lowest``, those without it first
    bounded  False: ignore ``high``, because the snapshot itself begins while no transaction is writing
    blind    what this source cannot see, for the report; empty if it sees every writer
    failed   why writers could not be listed; empty if they could
    """

    high: Value | None = None
    writers: tuple[OpenTransaction, ...] = ()
    bounded: bool = True
    blind: str = ""
    failed: str = ""


class InFlight(Protocol):
    """Implemented, in addition to ``Cursored``, by a source that can list open transactions. Called before the snapshot
    of the read begins. A source without it reads up to the highest committed value."""

    def look(self) -> Look:
        """The highest value, and the transactions that may still commit one at or below it. A transaction that is not
        visible must never count as absent: ``blind`` and ``failed`` report what the source cannot see."""
        ...

    def still(self, writers: Sequence[OpenTransaction]) -> Sequence[OpenTransaction]:
        """Those of ``writers`` that have not ended, in the same order, and prepared transactions (two-phase commit)
        that they have become. Never one that began later."""
        ...


def settle(source: InFlight, options: Incremental, name: str, after: Position | None) -> Bound:
    """Fix the end of the read, then handle open transactions by ``options.in_flight``. If the highest value is still
    that of the read before, they are ignored: this read passes over no more rows than that one."""
    seen = source.look()
    high = seen.high if seen.bounded else None
    empty = seen.bounded and high is None
    idle = high is not None and after is not None and after.value.get("hi") == high.text
    left: Sequence[OpenTransaction] = () if idle else seen.writers
    if options.in_flight == "wait":
        left = _wait(source, left, options.in_flight_timeout)
    if not left:
        warnings = (f"{name}: {seen.failed}",) if seen.failed else ()
        return Bound(high, empty=empty, warnings=warnings, blind=seen.blind)
    who = _names(left)
    if options.in_flight == "report":
        warning = f"{name} was read while {who} could still commit rows below the position; dpone would not read these"
        return Bound(high, empty=empty, warnings=(warning,), blind=seen.blind)
    lowest = left[0].lowest
    what = "no new rows were read" if lowest is None else "rows from its start on were not read"
    warning = f"{name} is held back for {who}, which may still commit rows below the highest value; {what}"
    return Bound(high, lowest, empty, who, lowest is None, (warning,), seen.blind)


def _wait(source: InFlight, writers: Sequence[OpenTransaction], limit: float) -> Sequence[OpenTransaction]:
    """Wait until they have ended; returns those that are left after ``limit`` seconds. A signal interrupts the wait."""
    end, pause = time.monotonic() + limit, _FIRST
    while writers and (left := end - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST)
        writers = source.still(writers)
    return writers


def _names(writers: Sequence[OpenTransaction]) -> str:
    shown = ", ".join(writer.who for writer in writers[:5])
    return f"{shown} and {len(writers) - 5:,} more" if len(writers) > 5 else shown
