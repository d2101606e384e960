"""What holds for every test."""

import signal

import pytest
from hypothesis import HealthCheck, settings
from tests.sql.clock import Clock

from dpone.sql import in_flight

# A slow machine is not a failure: neither an example nor the drawing of examples has a limit of time.
settings.register_profile("dpone", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dpone")

# A shell without job control starts what runs in the background with SIGINT ignored, and so would all of its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """For waits on open transactions."""
    made = Clock()
    monkeypatch.setattr(in_flight, "time", made)
    return made
