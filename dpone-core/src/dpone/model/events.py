"""RunEvent: one step of a run, as passed to ``dpone_run_event``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from attrs import field, frozen

# In the order in which a stream without a failure reports them. ``batch`` comes once per batch that reaches staging.
STEPS = (
    "run_started", "stream_started", "locked", "recovered", "window_fixed", "schema_applied", "load_opened",
    "part_started", "batch", "part_staged", "staged", "commit_started", "committed", "state_saved", "acknowledged",
    "stream_finished", "run_finished",
)  # fmt: skip
Step = Literal[
    "run_started", "stream_started", "locked", "recovered", "window_fixed", "schema_applied", "load_opened",
    "part_started", "batch", "part_staged", "staged", "commit_started", "committed", "state_saved", "acknowledged",
    "retry", "warning", "stream_finished", "run_finished",
]  # fmt: skip


@frozen
class RunEvent:
    """``at`` is the end of the step, ``began`` its start, exact to the microsecond; a step that only marks a moment
    (``batch``, ``warning``, every ``..._started``) has ``seconds`` 0. A ``retry`` covers the failed attempt.

    ``data`` is JSON: rows and bytes of a batch, the part's id, positions, counts of a receipt, the error of a ``retry``
    or a ``stream_finished`` (kind, category, retryable, message, exit_code). Never row values, never a secret."""

    step: Step
    run_id: str
    pipeline: str
    at: datetime
    stream: str | None = None
    data: Mapping[str, Any] = field(factory=dict)
    seconds: float = 0.0

    @property
    def began(self) -> datetime:
        return self.at - timedelta(seconds=self.seconds)
