"""Canonical forms of keys, and which key goes into which target."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpone.errors import ConfigError
from dpone.model.keys import (
    FORMS,
    canonical,
    compared,
    forms,
)
from dpone.model.strategy import Strategy
from dpone.model.types import JSON

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=None).filter(lambda d: abs(d.adjusted()) < 40)


def plain(number: Decimal) -> str:
    """As a server writes it: no exponent, no sign of zero."""
    text = format(number, "f")
    return text.removeprefix("-") if number == 0 else text


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 5)), max_size=20))
def test_OUT_10_numbers_that_are_equal_have_one_text(numbers: list[tuple[Decimal, int]]) -> None:
    """Whatever zeros they end with; the text is that number, and the pattern finds those that are no such text."""
    texts = []
    for number, zeros in numbers:
        text = plain(number)
        texts.append(text + ("." if zeros and "." not in text else "") + "0" * zeros)
    made = FORMS["numeric"].make(pa.array(texts, pa.string())).to_pylist()
    assert [Decimal(text) for text in made] == [Decimal(text) for text in texts]
    by_value: dict[Decimal, set[str]] = {}
    for text in made:
        by_value.setdefault(Decimal(text), set()).add(text)
    assert all(len(one) == 1 for one in by_value.values())
    like = re.compile(FORMS["numeric"].other.replace(".", r"\.").replace("%", ".*"))
    assert [bool(like.fullmatch(text)) for text in texts] == [was != now for was, now in zip(texts, made, strict=True)]


def test_OUT_10_what_is_no_number_stays() -> None:
    """NaN, infinity and NULL have one form."""
    texts = ["NaN", "Infinity", "-Infinity", None, "100", "0"]
    assert FORMS["numeric"].make(pa.array(texts, pa.string())).to_pylist() == texts


def test_OUT_10_keys_of_changes_take_their_form_in_both_places() -> None:
    """The column and the key that the log names, and nothing else; a row without a key stays without one."""
    key = pa.StructArray.from_arrays(
        [pa.array(["1.0", None]), pa.array(["x.0", None])], names=["k", "v"], mask=pa.array([False, True])
    )
    batch = pa.record_batch({"k": ["1.00", "2.50"], "v": ["3.00", "x.0"], "__dpone__key": key})
    made = canonical(batch, {"k": "numeric"})
    assert made.to_pylist() == [
        {"k": "1", "v": "3.00", "__dpone__key": {"k": "1", "v": "x.0"}},
        {"k": "2.5", "v": "x.0", "__dpone__key": None},
    ]


def decided(mode: str, here: str, there: str, changes: bool = False, type: Any = None, **more: Any) -> str | None:
    """The form, or None for a refusal."""
    field = pa.field("k", type or pa.string())
    wanted = Strategy(mode, key="k", **more)  # type: ignore[arg-type]
    try:
        found = forms(wanted, changes, pa.schema([compared(field, here)]), {"k": compared(field, there)}, "t")
    except ConfigError:
        return None
    return found.get("k", "")


@pytest.mark.parametrize(
    ("mode", "here", "there", "form"),
    [
        ("merge", "", "", ""),
        ("merge", "numeric", "numeric", ""),
        ("merge", "numeric", "", "numeric"),
        ("merge", "padded", "", ""),
        ("merge", "padded", "padded", ""),
        ("merge", "rounded to 3 digits", "", ""),
        ("merge", "citext", "citext", ""),
        ("merge", "citext", "", None),
        ("scd2", "citext", "", None),
        ("snapshot_diff", "citext", "", ""),
        ("snapshot_diff", "numeric", "", "numeric"),
        ("merge", "", "nocase", None),
        ("snapshot_diff", "", "nocase", None),
        ("merge", "citext", "nocase", None),
        ("merge", "rounded to 3 digits", "rounded to 0 digits", None),
        ("full_refresh", "citext", "", ""),
        ("full_refresh", "", "nocase", ""),
        ("merge", "none", "none", None),
        ("merge", "none", "", None),
        ("snapshot_diff", "", "none", None),
        ("full_refresh", "none", "none", ""),
    ],
)
def test_OUT_10_rows(mode: str, here: str, there: str, form: str | None) -> None:
    """Refused where a strategy would keep two rows of one key, or one of two, and only there."""
    assert decided(mode, here, there) == form


@pytest.mark.parametrize(
    ("mode", "deletes", "here", "there", "form"),
    [
        ("cdc_apply", "hard", "citext", "", ""),
        ("cdc_apply", "hard", "citext", "citext", ""),
        ("cdc_apply", "soft", "citext", "", ""),
        ("cdc_apply", "soft", "citext", "citext", None),
        ("cdc_apply", "ignore", "citext", "", None),
        ("cdc_apply", "soft", "numeric", "numeric", "numeric"),
        ("cdc_apply", "hard", "numeric", "", "numeric"),
        ("scd2", None, "citext", "", ""),
        ("scd2", None, "citext", "citext", None),
        ("scd2", None, "numeric", "numeric", "numeric"),
        ("cdc_apply", "hard", "", "citext", None),
    ],
)
def test_OUT_10_changes(mode: str, deletes: Any, here: str, there: str, form: str | None) -> None:
    """A key that is spelled differently is a key that changed: the old row goes, unless the strategy keeps it."""
    assert decided(mode, here, there, changes=True, deletes=deletes) == form


NESTED = [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), *([JSON] if pa.string() != JSON else [])]


@pytest.mark.parametrize("type_", NESTED)
def test_OUT_10_nested_keys(type_: pa.DataType) -> None:
    """No key, but where both columns say that they compare alike."""
    assert decided("merge", "", "", type=type_) is None
    assert decided("append", "", "", type=type_) == ""
    assert decided("merge", "jsonb", "jsonb", type=type_) == ""
