"""Waiting for an event, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0  # seconds in which it comes about on the slowest of machines; where it never does, the test fails then


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what another process or thread does in its own time; ``what`` says what is wrong where it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)
