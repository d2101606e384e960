"""cdc_apply of a window that holds all rows there are: what the target has beside them is gone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sql.stream import deliver
from tests.sql.test_cdc_apply import HARD, ORDERS, chunked, insert  # noqa: F401  # a fixture
from tests.sqlite.target import Target

from dpone.errors import DeletesRefused
from dpone.model.strategy import Strategy

SOFT = Strategy("cdc_apply", ("id",), deletes="soft")
OLD = [(1, "a", 1), (2, "b", 2), (3, "c", 3)]


def filled(target: Target, strategy: Strategy = HARD) -> None:
    deliver(target, ORDERS, [insert(*row) for row in OLD], strategy)


def rows(target: Target, more: str = "") -> list[tuple[Any, ...]]:
    return target.rows("id, x, y" + more, "id")


def test_rows_that_a_whole_window_lacks_are_gone(target: Target, chunked: int) -> None:  # noqa: F811
    """However many chunks it takes, the target has the rows of the window and no others."""
    filled(target)
    deliver(target, ORDERS, [insert(2, "z", 9), insert(7, "n", 0)], HARD, whole=True)
    assert rows(target) == [(2, "z", 9), (7, "n", 0)]


def test_soft_deletes_mark_what_a_whole_window_lacks(target: Target, chunked: int) -> None:  # noqa: F811
    """Rows that are there again live, the others keep their values and are marked."""
    filled(target, SOFT)
    deliver(target, ORDERS, [insert(2, "z", 9)], SOFT, whole=True)
    marked = rows(target, ", __dpone__deleted_at IS NOT NULL")
    assert marked == [(1, "a", 1, 1), (2, "z", 9, 0), (3, "c", 3, 1)]


def test_deletes_ignore_keeps_what_a_whole_window_lacks(target: Target) -> None:
    """The strategy says that no row ever goes."""
    filled(target)
    deliver(target, ORDERS, [insert(2, "z", 9)], Strategy("cdc_apply", ("id",), deletes="ignore"), whole=True)
    assert rows(target) == [(1, "a", 1), (2, "z", 9), (3, "c", 3)]


@pytest.mark.parametrize(("truncate", "left"), [("apply", []), ("ignore", OLD)])
def test_a_whole_window_without_rows_is_as_a_truncate(target: Target, truncate: Any, left: list[Any]) -> None:
    """truncate: apply empties the target, ignore leaves it."""
    filled(target)
    deliver(target, ORDERS, [], Strategy("cdc_apply", ("id",), truncate=truncate), whole=True)
    assert rows(target) == left


def test_a_whole_window_without_rows_is_refused_where_truncates_are(target: Target) -> None:
    """truncate: fail, the default, leaves the rows of the target, and lets an empty target be."""
    deliver(target, ORDERS, [], HARD, whole=True)
    filled(target)
    with pytest.raises(DeletesRefused, match="the source is empty, but the target is not"):
        deliver(target, ORDERS, [], HARD, whole=True)
    assert rows(target) == OLD


def test_a_window_that_is_not_whole_deletes_nothing(target: Target) -> None:
    """Inserts of a stream leave other rows alone."""
    filled(target)
    deliver(target, ORDERS, [insert(7, "n", 0)], HARD)
    assert len(rows(target)) == 4
