"""What a system can hold: the values and names that a case may use."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, TypeVar

import pyarrow as pa

from dpone.testing.harness import CannotHold, Harness
from dpone.testing.rows import same

T = TypeVar("T")
Of = Any  # a pa.DataType, or "name"
_numbers = count()
USED: tuple[Of, ...] = ("name", pa.int64(), pa.float64(), pa.string())  # of which cases ask what can be held


def holdable(harness: Harness, of: Of, given: Iterable[T]) -> list[T]:
    """The values that the system can hold. Each other one is verified, and noted for the evidence."""
    return [value for value in given if not left_out(harness, of, value)]


def left_out(harness: Harness, of: Of, value: Any) -> bool:
    assert of in USED, f"name {of} in USED"
    claim = next((claim for claim in harness.cannot_hold if claim.covers(of, value)), None)
    if claim is None:
        return False
    what = said(of, value)
    if what not in noted(harness):
        require(harness, claim, value)
        noted(harness)[what] = claim.why
    return True


def noted(harness: Harness) -> dict[str, str]:
    """What the case of this Harness left out, and why."""
    found: dict[str, str] = vars(harness).setdefault("_left_out", {})
    return found


def said(of: Of, value: Any) -> str:
    return f"{of} {value!a}"


def require(harness: Harness, claim: CannotHold, value: Any) -> None:
    """Assert that the system does not hold the value: ``seed`` takes a harmless row like it and not this one, or what
    the independent client finds is not what was given."""
    name = claim.of == "name"
    harmless, rows = (_named("x"), _named(value)) if name else (_valued(claim.of, None), _valued(claim.of, value))
    harness.seed(harmless, f"held{next(_numbers)}")
    table = f"held{next(_numbers)}"
    try:
        harness.seed(rows, table)
    except Exception:  # whatever the driver of the system raises
        return
    found, what = _found(harness, table), f"cannot_hold names {said(claim.of, value)}"
    assert found is not None, f"{what}, but seed accepts it: show the result in there, or remove the claim"
    assert not _equal(found, rows), f"{what}, but the system holds it: remove the claim"


def _found(harness: Harness, table: str) -> pa.Table | None:
    there = harness.there(table)
    try:
        return harness.rows(table) if there is None else there
    except NotImplementedError:  # of a source alone
        return None


def _equal(found: pa.Table, rows: pa.Table) -> bool:
    try:
        same(found, rows)
    except AssertionError:
        return False
    return True


def _named(name: str) -> pa.Table:
    return pa.table({name: pa.array([1], pa.int64())})


def _valued(type_: Any, value: Any) -> pa.Table:
    return pa.table({"id": pa.array([1], pa.int64()), "x": pa.array([value], type_)})
