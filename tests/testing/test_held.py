"""What a Harness says its system cannot hold is left out of the cases, alone and only if it is so."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from attrs import evolve
from tests.testing.faulty import EmptyIsNull, FaultySink, LowersNames, MappedSource, column

from dpone.errors import DataError
from dpone.testing import CannotHold, SinkContract, SourceContract, hostile
from dpone.testing.builtin import SqliteHarness
from dpone.testing.harness import TABLE
from dpone.testing.held import noted

TEXT = pa.string()
INFINITE = CannotHold(pa.float64(), math.inf, "a double is finite", every=math.isinf)
EMPTY = CannotHold(TEXT, "", "an empty text is NULL")
WIDE = CannotHold("name", "🦆", "a name has no character beyond U+FFFF", lambda name: max(name) > "\uffff")


class Narrow(SqliteHarness):
    """A system whose doubles are finite, whose empty texts are NULL, and whose names end at U+FFFF: in ``seed``, which
    stands for its own driver."""

    cannot_hold = (INFINITE, EMPTY, WIDE)

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        for field in rows.schema:
            values = rows[field.name].to_pylist()
            if field.type == pa.float64() and any(value is not None and math.isinf(value) for value in values):
                raise sqlite3.DataError("out of range")
            if max(field.name) > "\uffff":
                raise sqlite3.OperationalError("invalid identifier")
            if field.type == TEXT:
                without = pa.array([value or None for value in values], TEXT)
                rows = rows.set_column(rows.column_names.index(field.name), field, without)
        super().seed(rows, table)


def harness(folder: Path, connector: type | None = None, role: str = "source", **changed: Any) -> SqliteHarness:
    made: SqliteHarness = type("Made", (changed.pop("base", Narrow),), changed)(folder)
    made.implementations = {role: f"{connector.__module__}:{connector.__name__}"} if connector else {}
    return made


VALUES, NAMES = "test_values_come_as_they_are", "test_names_are_quoted"


def run(made: SqliteHarness, case: str, contract: Any = SourceContract) -> None:
    getattr(contract(), case)(made)


def test_only_what_is_named_is_left_out(tmp_path: Path) -> None:
    """The cases pass on the narrow system, and note each value and name that they left out, with the reason."""
    values, names = harness(tmp_path / "values"), harness(tmp_path / "names")
    run(values, VALUES)
    run(names, NAMES)
    assert {"string ''": EMPTY.why}.items() <= noted(values).items()
    assert set(noted(values)) <= {"double inf", "double -inf", "string ''"}
    assert noted(names) == {"name '\\U0001f986'": WIDE.why}


@pytest.mark.parametrize(("case", "claims"), [(VALUES, (INFINITE, WIDE)), (NAMES, (INFINITE, EMPTY))])
def test_what_is_not_named_is_still_examined(tmp_path: Path, case: str, claims: Any) -> None:
    """The same system, of which one claim was forgotten: the case is red."""
    with pytest.raises((AssertionError, sqlite3.OperationalError)):
        run(harness(tmp_path, cannot_hold=claims), case)


class RoundsSmall(MappedSource):
    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == pa.float64():
                batch = column(batch, field.name, lambda c: pc.multiply(pc.round(c, 3), 1.0))
        yield batch


@pytest.mark.parametrize(("connector", "case"), [(RoundsSmall, VALUES), (LowersNames, NAMES)])
def test_a_faulty_connector_is_found_in_spite_of_the_claims(tmp_path: Path, connector: type, case: str) -> None:
    """Claims excuse the values they name and no fault of the connector."""
    with pytest.raises(AssertionError, match=r"missing rows|columns"):
        run(harness(tmp_path, connector), case)


@pytest.mark.parametrize("claim", [INFINITE, EMPTY, WIDE], ids=lambda claim: str(claim.one))
@pytest.mark.parametrize("contract", [SourceContract, SinkContract])
def test_a_claim_that_is_not_needed_is_an_error(tmp_path: Path, contract: Any, claim: CannotHold) -> None:
    """SQLite holds infinities, empty texts and any name: who says otherwise is red, and reads what to do."""
    made = harness(tmp_path, base=SqliteHarness, cannot_hold=(claim,))
    with pytest.raises(AssertionError, match=r"names .+, but the system holds it: remove the claim"):
        run(made, "test_what_it_cannot_hold_is_refused_or_changed", contract)


@pytest.mark.parametrize(
    ("case", "claim"),
    [(VALUES, evolve(EMPTY, every=lambda text: True)), (NAMES, evolve(WIDE, every=lambda name: True))],
)
def test_a_claim_that_covers_too_much_is_an_error(tmp_path: Path, case: str, claim: CannotHold) -> None:
    """Of a claim for many, each value that a case would use is tried: one that the system holds is not left out."""
    with pytest.raises(AssertionError, match="but the system holds it: remove the claim"):
        run(harness(tmp_path, cannot_hold=(INFINITE, claim, WIDE)), case)


def test_a_fault_of_the_connector_proves_no_claim(tmp_path: Path) -> None:
    """A connector that makes NULL of an empty text, and a Harness that calls it the system's: the system is asked
    without the connector."""
    made = harness(tmp_path, EmptyIsNull, base=SqliteHarness, cannot_hold=(EMPTY,))
    for case in (VALUES, "test_what_it_cannot_hold_is_refused_or_changed"):
        with pytest.raises(AssertionError, match="but the system holds it"):
            run(made, case)


def test_a_broken_seed_proves_no_claim(tmp_path: Path) -> None:
    """A Harness that can seed no column of the type has not been refused a value."""
    made = harness(tmp_path, cannot_hold=(CannotHold(pa.date32(), date(1, 1, 1), "dates begin in 1583"),))
    with pytest.raises(KeyError):
        run(made, "test_what_it_cannot_hold_is_refused_or_changed")


def test_what_becomes_of_a_value_must_be_seen(tmp_path: Path) -> None:
    """A system that takes a value, and a Harness that cannot show what it made of it: no claim."""
    made = harness(tmp_path, rows=lambda self, table: None)
    with pytest.raises(AssertionError, match="show the result in there"):
        run(made, "test_what_it_cannot_hold_is_refused_or_changed")


def test_a_claim_names_its_own_example(tmp_path: Path) -> None:
    """``every`` that does not cover ``one`` is a mistake."""
    made = harness(tmp_path, cannot_hold=(evolve(INFINITE, every=lambda value: False),))
    with pytest.raises(AssertionError, match="inf is not one of those"):
        run(made, "test_what_it_cannot_hold_is_refused_or_changed")


class RefusesEmpty(FaultySink):
    """An honest sink of the narrow system: what it cannot hold fails the load."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == TEXT and pc.any(pc.equal(batch[field.name], "")).as_py():
                raise DataError("load a text", "it is empty, which is NULL here", "set a text")
        yield batch


class NullsEmpty(FaultySink):
    """Another, which changes it silently."""

    def change(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            if field.type == TEXT:
                batch = column(batch, field.name, lambda c: pc.if_else(pc.equal(c, ""), None, c))
        yield batch


ARRIVE = "test_values_arrive_as_they_are_or_not_at_all"


@pytest.mark.parametrize("case", [ARRIVE, "test_append_adds_the_rows_read", "test_merge_inserts_and_updates"])
def test_a_sink_is_given_what_the_system_holds(tmp_path: Path, case: str) -> None:
    """Where rows must arrive, those that cannot are left out; without the claim the same sink is red."""
    run(harness(tmp_path / "a", RefusesEmpty, "sink"), case, SinkContract)
    with pytest.raises(DataError):
        run(harness(tmp_path / "b", RefusesEmpty, "sink", cannot_hold=()), case, SinkContract)


def test_a_sink_must_refuse_what_the_system_cannot_hold(tmp_path: Path) -> None:
    """A claim does not let a sink change a value silently."""
    with pytest.raises(AssertionError, match="missing rows"):
        run(harness(tmp_path, NullsEmpty, "sink"), ARRIVE, SinkContract)


def test_every_example_of_ours_is_among_the_kits_values() -> None:
    """What these tests rest on: the kit does use an empty text and a name beyond U+FFFF."""
    assert "" in hostile.TEXTS
    assert [name for name in hostile.HOSTILE_NAMES if WIDE.covers("name", name)] == ["🦆"]


LEFT_OUT = "test_what_is_left_out_has_a_case"


@pytest.mark.parametrize("contract", [SourceContract, SinkContract])
def test_a_quirk_that_names_no_case_is_an_error(tmp_path: Path, contract: Any) -> None:
    """A misspelt quirk leaves nothing out: it is red and says what was meant; one of another contract is none."""
    for name in ("test_an_expired_lease_is_taken_over", "test_names_are_quoted", "test_full_refresh"):
        run(harness(tmp_path, cannot_hold=(), quirks={name: "no such thing"}), LEFT_OUT, contract)
    for name, meant in (
        ("test_names_are_qouted", "is it test_names_are_quoted"),
        ("test_what_is_offered_is_declared", "is it test_"),
        ("zzz", "see the names"),
    ):
        with pytest.raises(AssertionError, match=f"no case is called {name}; {meant}"):
            run(harness(tmp_path, cannot_hold=(), quirks={name: "no such thing"}), LEFT_OUT, contract)


@pytest.mark.parametrize("of", [pa.date32(), "names"])
def test_a_claim_of_which_no_case_uses_a_value_is_an_error(tmp_path: Path, of: Any) -> None:
    """What can be left out are values of the types that cases ask about, and names."""
    run(harness(tmp_path), LEFT_OUT)
    with pytest.raises(AssertionError, match=f"no case uses values of {of if of == 'names' else 'date32'}"):
        run(harness(tmp_path, cannot_hold=(CannotHold(of, "x", "no such thing"),)), LEFT_OUT)
