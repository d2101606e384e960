"""Two tests of dpone.engine.lease for test_mutants.py: the first runs code and looks at nothing, the second looks."""

from __future__ import annotations

import threading

from dpone.engine.lease import renewing


class Lease:
    owner = "me"

    def __init__(self) -> None:
        self.renewed = threading.Event()

    def renew(self) -> None:
        self.renewed.set()


def test_without_teeth() -> None:
    with renewing(Lease(), 60):
        pass


def test_with_teeth() -> None:
    lease = Lease()
    with renewing(lease, 0.01):
        assert lease.renewed.wait(10)
