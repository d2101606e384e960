"""The rules of a partition, each for every state that one can be in."""

from __future__ import annotations

import re
from typing import Any

import pytest
from attrs import evolve

from dpone.errors import Busy, ConfigError, Conflict
from dpone.partition import Partition, claimed, held, mine, owner_of, shown, skipped, waiting

NOW = 1000.0
AT_WORK, STAGED = "someone is processing it", "it is already staged"


def one(status: Any, expires: float | None = None, owner: str | None = None) -> Partition:
    return Partition("7", status=status, attempts=2, error="before", reason="why", owner=owner, expires_at=expires)


# state, then what keeps it from being claimed and from being skipped or done again; None: nothing
STATES: dict[str, tuple[Partition, str | None, str | None]] = {
    "pending": (one("pending"), None, None),
    "failed": (one("failed"), None, None),
    "success": (one("success"), "it is success", STAGED),
    "skipped": (one("skipped"), "it is skipped", None),
    "at work": (one("running", NOW + 0.5, "someone"), AT_WORK, AT_WORK),
    "lease over": (one("running", NOW, "someone"), None, None),
    "no lease": (one("running", None, "someone"), None, None),
}


@pytest.mark.parametrize("state", STATES)
def test_what_may_be_done_with_a_partition(state: str) -> None:
    """Claimed is what waits, or was left by a runner that is gone; what is staged or at work is neither skipped nor
    done again."""
    part, busy, refused = STATES[state]
    assert held(part, NOW) is (state == "at work")
    if busy:
        with pytest.raises(Busy, match=f"^claim partition 7: {busy}; process another partition"):
            claimed(part, "me", 60.0, NOW)
    else:
        error = "someone stopped, or its lease ended" if part.status == "running" else "before"
        wanted = evolve(part, status="running", owner="me", expires_at=NOW + 60, attempts=3, error=error)
        assert claimed(part, "me", 60.0, NOW) == wanted
    if refused:
        with pytest.raises(ConfigError, match=f"^skip partition 7: {refused}; skip only pending or failed partitions"):
            skipped(part, "new", NOW)
        with pytest.raises(
            ConfigError, match=f"^retry partition 7: {refused}; retry only failed or skipped partitions"
        ):
            waiting(part, NOW)
    else:
        free = evolve(part, owner=None, expires_at=None)
        assert skipped(part, "new", NOW) == evolve(free, status="skipped", reason="new")
        assert waiting(part, NOW) == evolve(free, status="pending", reason=None)


@pytest.mark.parametrize("state", STATES)
def test_only_its_holder_ends_a_partition(state: str) -> None:
    """Also where the lease is over, as long as nobody else has taken it; the others are told who has, or what it is."""
    part, *_ = STATES[state]
    if part.status == "running":
        assert mine(part, "someone", "finish") is part
    found = "someone took it over" if part.status == "running" else f"it is now {part.status}"
    with pytest.raises(Conflict, match=f"^finish partition 7: {found}; let the other run finish; nothing was recorded"):
        mine(part, "me", "finish")


def test_an_owner_is_this_process_in_this_run() -> None:
    """Shown by its number and host; a text of another form is shown as it is."""
    me = owner_of("R1")
    assert me == owner_of("R1") != owner_of("R2")
    assert re.fullmatch(r"process \d+ on \S+", shown(me))
    assert [shown(text) for text in ("someone", "{}", "[1]", None)] == ["someone", "{}", "[1]", "None"]
    assert held(one("running", NOW + 1, me), NOW)
