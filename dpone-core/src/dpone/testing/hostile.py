"""Names and values that break careless connectors, as hypothesis strategies."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

# Each example is a few loads into a real system: a dozen, the same in every run, and no search for a smaller one.
examples = settings(
    max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,  # raise one error as it is, not a group
)  # fmt: skip

# Every server can have these as the name of a column, if it is quoted; the kit insists on them.
ORDINARY_NAMES = ("select", "group by", "MixedCase", "ä", "a-b", "1st", "from")
HOSTILE_NAMES = (
    'quo"te', "apo'strophe", "semi;colon", "a.b", "per%cent", "back\\slash", "brac]ket", "{brace}", "?", ":name", "%s",
    "tick`", "x" * 63, "--", "/* */", "Robert'); DROP TABLE orders;--", "🦆",
)  # fmt: skip
TEXTS = (
    "", " ", "a ", "NULL", "\\N", "\\", "'", '"', '"";--', "a,b", "a\tb", "a\nb", "a\r\nb", "\x01", "é",
    "e\u0301", "🦆", "0", "01", "1e5", "true", "%s", "{}", "\ufeff", "x" * 300,
)  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """Any text without surrogates and NUL; often one of those that look like something else."""
    anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
    return st.one_of(st.sampled_from(TEXTS), anything)


def names() -> st.SearchStrategy[str]:
    """A name of a column or table that needs quoting."""
    anything = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
    return st.one_of(st.sampled_from((*ORDINARY_NAMES, *HOSTILE_NAMES)), anything).filter(
        lambda name: not name.startswith("__dpone__")
    )


# Type -> values that a column of it can have. ``None`` is added by ``columns``.
VALUES: Mapping[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.decimal128(38, 10): st.decimals(-(10**27), 10**27, places=10).map(lambda d: d.quantize(decimal.Decimal("1e-10"),
        context=decimal.Context(prec=60))),
    pa.string(): texts(),
    pa.binary(): st.binary(max_size=20),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
}  # fmt: skip


def columns(type: pa.DataType, max_size: int = 8) -> st.SearchStrategy[list[Any]]:
    """Values of one column, NULL among them."""
    return st.lists(st.one_of(st.none(), VALUES[type]), min_size=1, max_size=max_size)


def _moments(unit: str) -> tuple[dt.datetime, ...]:
    """What has no smaller part than the unit. Year 1 and year 9999 are as far as Python goes."""
    parts = {"s": 0, "ms": 999_000, "us": 999_999}[unit]
    first, last = dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, parts, tzinfo=dt.UTC)
    return first, dt.datetime(1969, 12, 31, 23, 59, 59, parts, tzinfo=dt.UTC), last


def _decimals(precision: int, scale: int) -> tuple[decimal.Decimal, ...]:
    digits = decimal.Decimal(("9" * (precision - scale)) + ("." + "9" * scale if scale else ""))
    return digits, digits.copy_negate(), decimal.Decimal(0), decimal.Decimal(1).scaleb(-scale)


_SIGNED, _UNSIGNED = (
    (pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
)
# Type -> the least and the greatest values that it has, and some at its seams. Nanoseconds as whole numbers.
EXTREMES: Mapping[pa.DataType, tuple[Any, ...]] = {
    pa.bool_(): (True, False),
    **{t: (0, 1, -(2 ** (t.bit_width - 1)), 2 ** (t.bit_width - 1) - 1) for t in _SIGNED},
    **{t: (0, 2**t.bit_width - 1) for t in _UNSIGNED},
    pa.float32(): (0.0, 0.10000000149011612, 3.4028234663852886e38, 1.1754943508222875e-38),
    pa.float64(): (0.0, 0.1, 1.7976931348623157e308, 2.2250738585072014e-308, 2.0**53 + 2),
    **{t: _decimals(t.precision, t.scale) for t in (pa.decimal128(9, 2), pa.decimal128(38, 9), pa.decimal256(76, 20))},
    pa.string(): ("", " ", "x" * 70_000),
    pa.large_string(): ("", "é🦆"),
    pa.binary(): (b"", bytes(range(256)), b"\0" * 70_000),
    pa.large_binary(): (b"", b"\0"),
    pa.binary(4): (b"\0\0\0\0", b"\xff'\\%"),
    pa.date32(): (dt.date(1, 1, 1), dt.date(1582, 10, 10), dt.date(9999, 12, 31)),
    **{pa.timestamp(unit): tuple(at.replace(tzinfo=None) for at in _moments(unit)) for unit in ("s", "ms", "us")},
    **{pa.timestamp("us", zone): _moments("us") for zone in ("UTC", "Europe/Berlin")},
    pa.timestamp("ns"): (1_000, -1_000, 1, 2**62 + 1),
    pa.timestamp("ns", "UTC"): (1_000, 1),
}  # fmt: skip
