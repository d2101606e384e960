"""A lease that is kept while a block runs. Nothing here waits for a clock: each step waits for the one before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dpone.engine.lease import renewing
from dpone.errors import Conflict, StateError

TTL = 0.003  # so that the next beat comes at once


class Lease:
    """Raises these, one after the other, and is renewed from then on."""

    owner = "me"

    def __init__(self, *errors: Exception) -> None:
        self.errors: Iterator[Exception] = iter(errors)
        self.renewed, self.calls = threading.Event(), 0

    def renew(self) -> None:
        self.calls += 1
        if error := next(self.errors, None):
            raise error
        self.renewed.set()


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "dpone-lease"]


def test_a_lease_is_renewed_while_the_block_runs_and_not_after() -> None:
    """The thread that renews ends with the block, also where that raises."""
    lease = Lease()
    with suppress(KeyError), renewing(lease, TTL):
        assert lease.renewed.wait(60)
        assert len(threads()) == 1
        raise KeyError
    assert threads() == []


def test_a_lease_is_renewed_again_after_an_outage() -> None:
    """A state out of reach, or any other error, does not end the renewals: the next beat tries again."""
    lease = Lease(StateError("renew", "no connection", "wait"), OSError("no route"), RuntimeError("odd"))
    with renewing(lease, TTL):
        assert lease.renewed.wait(60)
    assert lease.calls >= 4


def test_a_lost_lease_is_not_asked_for_again() -> None:
    """Who took it over has it; the block goes on, and the fence of the commit decides."""
    lease = Lease(Conflict("renew", "another runner has it", "wait"))
    with renewing(lease, TTL):
        [thread] = threads() or [None]
        if thread is not None:
            thread.join(60)
    assert lease.calls == 1
    assert not lease.renewed.is_set()


def test_a_lease_is_renewed_three_times_per_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two renewals in a row may fail before it ends."""
    waits: list[float | None] = []
    real = threading.Event.wait
    monkeypatch.setattr(
        threading.Event, "wait", lambda self, timeout=None: waits.append(timeout) or real(self, timeout)
    )
    with renewing(Lease(), 60):
        pass
    assert 20 in waits
