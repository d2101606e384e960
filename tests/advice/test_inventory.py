"""No advice without a line in ``ledger.txt``, which names the test that follows it."""

from __future__ import annotations

import re

import pytest
from tests.advice.inventory import ROOT, advice, ledger, renewed

LINES = ledger()
NOT_FOLLOWED = 0  # lower it when a test follows another one
REASONS = 0  # a text that no test can follow says "because" and why


def test_every_advice_is_in_the_ledger() -> None:
    """A new message that names an option, a command or a statement needs a test that does what it says; one that is
    gone leaves the ledger. ``python -m tests.advice.inventory`` writes the lines."""
    known, there = {(module, text) for module, _, text in LINES}, {*advice()}
    assert not there - known, "follow it to a green run in tests/advice, and name that test in ledger.txt"
    assert not known - there, "remove it from ledger.txt"


def test_lines_of_the_ledger_stay_in_their_place() -> None:
    """New advice follows what sorts before it, what is gone goes, and nothing else moves."""
    lines = ["# of advice", "b | t2 | y", "a | t1 | x | z", "c | t3 | gone"]
    there = [("a", "x | z"), ("b", "y"), ("b", "z"), ("a", "w"), ("d", "v")]
    assert renewed(lines, there) == [lines[0], "a | - | w", lines[1], lines[2], "b | - | z", "d | - | v"]


def test_what_is_not_followed_does_not_grow() -> None:
    """A line without a test is a debt."""
    assert len([test for _, test, _ in LINES if test == "-"]) <= NOT_FOLLOWED


def test_reasons_are_few() -> None:
    """Most of them are guards behind an earlier refusal."""
    assert len([test for _, test, _ in LINES if test.startswith("because ")]) <= REASONS


@pytest.mark.parametrize("test", sorted({test for _, test, _ in LINES if not test.startswith("because ")} - {"-"}))
def test_the_tests_of_the_ledger_exist(test: str) -> None:
    """By file and function."""
    file, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
