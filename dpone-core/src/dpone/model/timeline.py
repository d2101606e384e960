"""When a stream did what, as its report keeps it. Bounded, however long the run is."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from attrs import define, field

_PARTS = 200
_POINTS = 200


@define
class Timeline:
    """All times are seconds since the run began.

    steps  step -> when it began, and how long it took; of the last attempt
    parts  the id of a part -> when it began, how long it took, and its rows; the first 200
    rows   moments, each with the rows staged until then; a further attempt begins at 0 again
    """

    steps: dict[str, list[float]] = field(factory=dict)
    parts: dict[str, list[float]] = field(factory=dict)
    rows: list[list[float]] = field(factory=list)

    def note(self, step: str, began: float, seconds: float | None, data: Mapping[str, Any]) -> None:
        """``seconds``: None for a step that only marks a moment."""
        end = began + (seconds or 0.0)
        if step == "part_staged" and seconds is not None:
            if len(self.parts) < _PARTS:
                self.parts[data["part"]] = [round(began, 6), round(seconds, 6), data["rows"]]
            counted = self.rows[-1][1] if self.rows else 0
            staged = sum(rows for _, _, rows in self.parts.values())
            if counted < staged:  # the batches of a native stream have no number of rows
                self._add(end, int(staged - counted))
        elif seconds is not None:
            self.steps[step] = [round(began, 6), round(seconds, 6)]
        if step == "load_opened":
            self.rows.append([round(end, 6), 0])
            self.parts = {}
        elif step == "batch" and data["rows"]:
            self._add(end, data["rows"])

    def _add(self, at: float, rows: int) -> None:
        self.rows.append([round(at, 6), (self.rows[-1][1] if self.rows else 0) + rows])
        if len(self.rows) > _POINTS:
            # A point stays if the next one is farther than the gap from the last that stays: at most half of them do,
            # and none is farther from the one before than the gap, or than it was.
            gap, thin = 4 * (at - self.rows[0][0]) / _POINTS, self.rows[:1]
            for one, after in pairwise(self.rows[1:]):
                if after[0] - thin[-1][0] > gap:
                    thin.append(one)
            self.rows = [*thin, self.rows[-1]]
