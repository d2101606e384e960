"""What holds for every test."""

import pytest
from hypothesis import settings
from tests.sql.clock import Clock

from dpone.sql import in_flight

settings.register_profile("dpone", deadline=None)  # a slow machine is no failure
settings.load_profile("dpone")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """For waits on open transactions."""
    made = Clock()
    monkeypatch.setattr(in_flight, "time", made)
    return made
