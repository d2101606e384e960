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
