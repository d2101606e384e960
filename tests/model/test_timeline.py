"""When a stream did what: what its report keeps of it, and that it stays small."""

from __future__ import annotations

import itertools

from dpone.model.timeline import Timeline


def test_steps_parts_and_rows_are_kept() -> None:
    """A step with its begin and length, the last attempt's; a part with its rows; the sum of rows after each batch."""
    found = Timeline()
    for step, began, seconds, data in [
        ("locked", 0.0, 0.5, {}), ("batch", 0.6, None, {"part": "a", "rows": 9}), ("locked", 1.0, 0.25, {}),
        ("load_opened", 2.0, 0.5, {}), ("part_started", 2.5, None, {"part": "a"}),
        ("batch", 3.0, None, {"part": "a", "rows": 100}), ("batch", 4.0, None, {"part": "a", "rows": 50}),
        ("part_staged", 2.5, 1.75, {"part": "a", "rows": 150}),
    ]:  # fmt: skip
        found.note(step, began, seconds, data)
    assert found.steps == {"locked": [1.0, 0.25], "load_opened": [2.0, 0.5]}
    assert found.parts == {"a": [2.5, 1.75, 150]}
    assert found.rows == [[0.6, 9], [2.5, 0], [3.0, 100], [4.0, 150]]


def test_a_native_stream_counts_when_its_part_is_staged() -> None:
    """Its batches are bytes without a number of rows."""
    found = Timeline()
    found.note("load_opened", 0.0, 1.0, {})
    found.note("batch", 2.0, None, {"part": "a", "rows": 0})
    found.note("part_staged", 1.0, 2.0, {"part": "a", "rows": 70})
    found.note("part_staged", 1.0, 3.0, {"part": "b", "rows": 30})
    assert found.rows == [[1.0, 0], [3.0, 70], [4.0, 100]]
    found.note("load_opened", 5.0, 1.0, {})
    found.note("part_staged", 6.0, 1.0, {"part": "a", "rows": 70})
    assert found.rows[2:] == [[4.0, 100], [6.0, 0], [7.0, 70]]


def test_a_long_run_stays_small() -> None:
    """Whatever the number of batches and parts: the last point is exact, times and rows only grow, and the points are
    spread over the whole run."""
    found = Timeline()
    for n in range(100_000):
        found.note("batch", float(n), None, {"part": "a", "rows": 2})
    for n in range(1000):
        found.note("part_staged", float(n), 1.0, {"part": str(n), "rows": 2})
    assert (len(found.rows) <= 200, len(found.parts)) == (True, 200)
    assert found.rows[-1] == [99_999.0, 200_000]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(found.rows))
    assert all(b[0] - a[0] <= 2_001 for a, b in itertools.pairwise(found.rows))
