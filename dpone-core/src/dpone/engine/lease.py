"""A lease that is kept while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dpone.contract import Lease
from dpone.errors import Conflict
from dpone.host import stopping


@contextmanager
def renewing(lease: Lease, ttl: float) -> Iterator[None]:
    """Renew the lease three times per ttl. Losing the lease does not stop the run: the fence of the commit decides."""
    stop = threading.Event()

    def renew() -> None:
        # Three times per ttl: one or two renewals may fail before the lease is lost.
        while not stop.wait(ttl / 3):
            try:
                lease.renew()
            except Conflict:
                return
            except Exception:  # noqa: S112  # the backend is out of reach for now; the next beat tries again
                continue

    thread = threading.Thread(target=renew, name="dpone-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        # With a limit: the thread may hang in a driver. It is a daemon, so it does not keep the process alive.
        thread.join(timeout=stopping.left(5))
