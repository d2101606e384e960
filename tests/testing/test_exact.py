"""What the kit makes of values that it reads back."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from dpone.testing.sink import _exact


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("10000-01-01 00:59:59.999999+0100", pa.timestamp("us", "Europe/Berlin")),
        ("10000-01-01", pa.date32()),
        ("1.5", pa.int64()),
    ],
)
def test_a_value_that_does_not_read_back_is_an_assertion(text: str, type_: pa.DataType) -> None:
    """What a sink has written and nobody can read as the column's type is a finding of the kit: it names type and
    value, and is not an error of the kit itself."""
    with pytest.raises(AssertionError, match=re.escape(f"values do not fit {type_}") + ".*" + re.escape(text)):
        _exact(pa.array([text]), type_)
