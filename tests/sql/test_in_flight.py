"""Where a read by cursor ends while transactions are open: what ``settle`` makes of what a source sees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from attrs import define, field
from tests.sql.clock import Clock

from dpone.model.pipeline import Incremental
from dpone.model.position import Position
from dpone.sql.cursor import Bound, Value
from dpone.sql.in_flight import Look, OpenTransaction, settle


def at(text: str) -> Value:
    return Value("integer", text)


T1, T2 = OpenTransaction("1", "process 1"), OpenTransaction("2", "process 2", at("5"))
MANY = tuple(OpenTransaction(str(n), f"p{n}", at("5")) for n in range(6))
SAFE = "orders is held back for {}, which may still commit rows below the highest value; {}"
FIRST = "rows from its start on were not read"
NONE = "no new rows were read"
RISK = "orders was read while {} could still commit rows below the position; dpone would not read these"


@define
class Source:
    """Sees ``seen``; of the writers it is asked for the first ends at each look."""

    seen: Look
    asked: list[Sequence[OpenTransaction]] = field(factory=list)

    def look(self) -> Look:
        return self.seen

    def still(self, writers: Sequence[OpenTransaction]) -> Sequence[OpenTransaction]:
        self.asked.append(writers)
        return writers[1:] if len(writers) > 1 else writers


def options(how: Any, limit: float = 60) -> Incremental:
    return Incremental("cursor", "id", in_flight=how, in_flight_timeout=limit)


@pytest.mark.parametrize("how", ["wait", "hold_back", "report"])
@pytest.mark.parametrize(
    ("seen", "bound"),
    [
        (Look(at("9")), Bound(at("9"))),
        (Look(None), Bound(empty=True)),
        (Look(at("9"), bounded=False), Bound()),
        (Look(None, bounded=False, blind="others"), Bound(blind="others")),
        (Look(at("9"), failed="no answer"), Bound(at("9"), warnings=("orders: no answer",))),
    ],
)
def test_where_nobody_writes_the_read_ends_at_the_highest_value(
    clock: Clock, seen: Look, bound: Bound, how: Any
) -> None:
    """Or nowhere, where the snapshot itself decides; a table without a value shows no row. Nobody is waited for."""
    assert settle(Source(seen), options(how), "orders", None) == bound
    assert clock.slept == []


@pytest.mark.parametrize(
    ("how", "writers", "bound"),
    [
        ("hold_back", (T2,), Bound(at("9"), at("5"), held="process 2", warnings=(SAFE.format("process 2", FIRST),))),
        ("hold_back", (T1, T2), Bound(
            at("9"), held="process 1, process 2", nothing=True,
            warnings=(SAFE.format("process 1, process 2", NONE),),
        )),
        ("hold_back", MANY, Bound(
            at("9"), at("5"), held="p0, p1, p2, p3, p4 and 1 more",
            warnings=(SAFE.format("p0, p1, p2, p3, p4 and 1 more", FIRST),),
        )),
        ("hold_back", MANY[:5], Bound(
            at("9"), at("5"), held="p0, p1, p2, p3, p4", warnings=(SAFE.format("p0, p1, p2, p3, p4", FIRST),),
        )),
        ("report", (T1, T2), Bound(at("9"), warnings=(RISK.format("process 1, process 2"),))),
    ],
)  # fmt: skip
def test_OUT_09_the_read_ends_before_what_open_writers_may_bring(
    clock: Clock, how: Any, writers: tuple[OpenTransaction, ...], bound: Bound
) -> None:
    """Held back below the lowest value that one may bring, or altogether where that is not known. ``report`` reads on,
    and warns. Both say for whom, and neither waits."""
    assert settle(Source(Look(at("9"), writers)), options(how), "orders", None) == bound
    assert clock.slept == []


def test_OUT_09_an_idle_table_waits_for_nobody(clock: Clock) -> None:
    """Where the end is that of the read before, nothing is passed over now that was not passed over then."""
    source = Source(Look(at("9"), (T1,)))
    after = Position("cursor", {}, {"hi": "9"})
    assert settle(source, options("wait"), "orders", after) == Bound(at("9"))
    assert settle(source, options("hold_back"), "orders", after.at_epoch(1)) == Bound(at("9"))
    for other in (Position("cursor", {}, {"hi": "8"}), Position("cursor", {}, {}), None):
        assert settle(source, options("hold_back"), "orders", other).nothing


def test_OUT_09_writers_are_waited_for_in_growing_pauses(clock: Clock) -> None:
    """From a fiftieth of a second to a whole one, each half as long again, until the time is up; then for those that
    are left the read is held back. Who has ended is not asked for again."""
    source = Source(Look(at("9"), (T1, T2)))
    bound = settle(source, options("wait", 20), "orders", None)
    assert (bound.below, bound.held) == (at("5"), "process 2")
    assert source.asked[:3] == [(T1, T2), (T2,), (T2,)]
    assert sum(clock.slept) == pytest.approx(20)
    assert clock.slept[0] == pytest.approx(0.02)
    assert max(clock.slept) == pytest.approx(1)
    grown = [later / pause for pause, later in pairwise(clock.slept) if later < 1]
    assert grown[:9] == pytest.approx([1.5] * 9)
    assert settle(Source(Look(at("9"), (T1,))), options("wait", 0), "orders", None).nothing
