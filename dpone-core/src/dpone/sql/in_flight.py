"""Late commits: how far a read by cursor may go while open transactions may still bring rows below its end.

T1 takes id 1 and stays open, T2 takes id 2 and commits. A read that went to 2 and saved that position would never see
id 1. So the end of a read is fixed first. Then come the transactions that are open and may still write at or below it.
They end, or the read ends before what they may bring. The rows are read in a snapshot that begins after all of that,
and only up to the end that was fixed: transactions that begin later bring higher values, and are never waited for.

What a source cannot see stays a risk (docs/guide/pipeline.md, "Late commits"): values that the application made
before its transaction wrote, clocks of several machines, sequences that hand each session a range of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from dpone.model.pipeline import Incremental
from dpone.model.position import Position
from dpone.sql.cursor import Bound, Value

_FIRST, _LONGEST = 0.02, 1.0  # seconds between two looks


@frozen
class Writer:
    """An open transaction that may still bring a row at or below the end of the read.

    id      by which ``still`` finds it again
    who     for people: process or name, and its age if that can be seen; never the statement it runs
    lowest  every value that it may bring is this or higher; None: not known
    """

    id: str
    who: str
    lowest: Value | None = None


@frozen
class Look:
    """What one look found.

    high     the highest committed value, seen before the writers were looked for; None: there was none
    writers  those whose ``lowest`` is not known first, then the lowest first
    bounded  False: ``high`` says nothing, since the snapshot itself begins while nobody writes
    blind    what this source cannot see, for the report; empty if it sees every writer
    failed   why nothing could be looked for at all; empty if it could
    """

    high: Value | None = None
    writers: tuple[Writer, ...] = ()
    bounded: bool = True
    blind: str = ""
    failed: str = ""


class InFlight(Protocol):
    """What a source that knows its writers has besides ``Cursored``. Asked before the snapshot of the read begins. A
    source without it reads to the highest value that is committed."""

    def look(self) -> Look:
        """The highest value, and who may still bring one at or below it. "Not visible" is never taken for "nobody"."""
        ...

    def still(self, writers: Sequence[Writer]) -> Sequence[Writer]:
        """Those of these that have not ended, in the same order, and what they have turned into (a transaction that
        was prepared). Never one that began later."""
        ...


def settle(source: InFlight, options: Incremental, name: str, after: Position | None) -> Bound:
    """Fix the end of the read, then do with open transactions what ``options.in_flight`` says. Where the end is that
    of the read before, nothing is passed over that was not passed over then."""
    seen = source.look()
    high = seen.high if seen.bounded else None
    empty = seen.bounded and high is None
    idle = high is not None and after is not None and after.value.get("hi") == high.text
    left: Sequence[Writer] = () if idle else seen.writers
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


def _wait(source: InFlight, writers: Sequence[Writer], limit: float) -> Sequence[Writer]:
    """Those that are left when the time is up. A signal ends the sleep."""
    end, pause = time.monotonic() + limit, _FIRST
    while writers and (left := end - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST)
        writers = source.still(writers)
    return writers


def _names(writers: Sequence[Writer]) -> str:
    shown = ", ".join(writer.who for writer in writers[:5])
    return f"{shown} and {len(writers) - 5:,} more" if len(writers) > 5 else shown
