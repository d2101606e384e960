"""Waiting without time: what happens meanwhile is a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen


@frozen
class Clock:
    """Time that passes only while somebody sleeps; what is in ``then`` happens then, one thing a sleep."""

    then: list[Callable[[], Any]] = field(factory=list)
    slept: list[float] = field(factory=list)

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.then:
            self.then.pop(0)()
