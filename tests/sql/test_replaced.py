"""What may take the place of a target whose columns change, by the rules of the strategy."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from tests.sqlite.target import load

from dpone.errors import DeletesRefused
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql.replace_table import _may_replace

SCHEMA = pa.schema({"id": pa.int64()})


def may_replace(strategy: Strategy, before: int, rows: int, **given: Any) -> bool:
    return _may_replace(Name(("orders",)), load(SCHEMA, strategy, **given), before, rows)


@pytest.mark.parametrize("truncate", ["apply", "ignore", "fail"])
@pytest.mark.parametrize(("before", "rows"), [(0, 0), (0, 2), (3, 0), (3, 1)])
def test_an_empty_source_of_changes_is_as_a_truncate(truncate: Any, before: int, rows: int) -> None:
    """Where the source has no row and the target has, the strategy's truncate decides; else nothing is in the way."""
    strategy = Strategy("cdc_apply", key="id", truncate=truncate)
    if rows or not before or truncate == "apply":
        assert may_replace(strategy, before, rows, changes=True) is True
    elif truncate == "ignore":
        assert may_replace(strategy, before, rows, changes=True) is False
    else:
        with pytest.raises(DeletesRefused, match=r"the target is not; set strategy\.truncate: apply"):
            may_replace(strategy, before, rows, changes=True)


@pytest.mark.parametrize("empty", [False, True])
def test_an_empty_source_empties_nothing_unless_it_may(empty: bool) -> None:
    """Any number of rows is enough to replace a target, none only with ``allow_empty``."""
    strategy = Strategy("full_refresh", allow_empty=empty)
    assert [may_replace(strategy, 100, rows) for rows in (0, 1, 200)] == [empty, True, True]


def test_a_difference_keeps_its_share() -> None:
    """``max_delete_share`` of snapshot_diff holds for the rows that the replaced table lacks."""
    strategy = Strategy("snapshot_diff", key="id", max_delete_share=0.1, allow_empty=True)
    assert [may_replace(strategy, 100, rows) for rows in (0, 90, 200)] == [True, True, True]
    with pytest.raises(DeletesRefused, match=r"the source has 89 rows, the target 100; max_delete_share allows 10\.0%"):
        may_replace(strategy, 100, 89)
