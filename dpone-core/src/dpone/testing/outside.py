"""What a process holds of the world outside, and how long it waits for it: files, connections, threads."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from dpone.capability import Role
from dpone.contract import Finding
from dpone.errors import Category, DponeError
from dpone.host import stopping
from dpone.testing.harness import Harness
from dpone.testing.held import noted
from dpone.testing.unreachable import offline

_PATIENCE = 10.0  # seconds for what should happen at once
_DESCRIPTORS = Path("/dev/fd")


def made_offline(harness: Harness, role: Role, spec: Any) -> Any:
    """Make the connector while nothing can be opened. It is made once before, because modules may be imported late."""
    harness.make(role, spec).close()
    with offline():
        try:
            return harness.make(role, spec)
        except Exception as error:
            raise AssertionError(f"the constructor opened a file or a connection: {error!r}") from error


def found_offline(harness: Harness, role: Role, spec: Any) -> None:
    """``check`` of an object that cannot connect returns a finding that is not ok, with what to do. The same object
    finds nothing wrong once it can."""
    with closing(harness.make(role, spec)) as one:
        one.check()  # what is imported late is imported now
    with closing(harness.make(role, spec)) as one:
        with harness.unreachable(role):
            findings = _checked(one)
        wrong = [finding for finding in findings if finding.ok is not True]
        assert wrong, "check cannot connect, and reports that all is well"
        assert all(finding.todo for finding in wrong if finding.ok is False), "a finding does not say what to do"
        wrong = [finding for finding in _checked(one) if finding.ok is False]
        assert wrong == [], "check reports a failure after the connection works again"


def _checked(one: Any) -> list[Finding]:
    try:
        findings: list[Finding] = one.check()
    except Exception as error:
        raise AssertionError(f"a failed connection is a finding, but check raises {error!r}") from error
    return findings


def nothing_left(work: Callable[[], Any]) -> None:
    """``work`` uses a connector, closes it and returns it. Afterwards there is no file, connection, thread or temporary
    file that was not there before. It runs twice: the first time may fill caches of the process."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "tempdir", folder):
        kept = [work()]
        before = _held(folder)
        kept.append(work())
        until = time.monotonic() + _PATIENCE  # a server in this process may close its end a moment later
        while (left := _held(folder) - before) and time.monotonic() < until:
            time.sleep(0.01)
        del kept  # until now: what is collected is closed, too
    assert not left, f"still open after close: {', '.join(sorted(left))}"


def _held(folder: str) -> Counter[str]:
    threads = [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
    files = [f"temporary file {path.name}" for path in Path(folder).rglob("*")]
    return Counter([*threads, *files, *_descriptors()])


def _descriptors() -> Iterator[str]:
    """The target of each descriptor. Sockets are listed by kind only, because their numbers differ each time."""
    for name in os.listdir(_DESCRIPTORS) if _DESCRIPTORS.is_dir() else ():
        try:
            yield os.readlink(_DESCRIPTORS / name).partition(":[")[0]
        except OSError:  # that of the listing itself
            continue


def waits_end(harness: Harness, role: Role, work: Callable[[Any], Any]) -> None:
    """With a spec of ``Harness.stuck``, ``work`` ends at its limit with a transient error, and soon after a signal even
    if the limit is long."""
    for seconds, stops in ((0.2, False), (3600.0, True)):
        stuck = harness.stuck(role, seconds)
        if stuck is None:
            noted(harness)["waits"] = "Harness.stuck is not written, or the connector never waits"
            return
        error = _stuck(stuck, work, stops)
        assert error is not None, "the call succeeds although another client holds the lock"
        if not stops:
            assert isinstance(error, DponeError), f"a timeout must raise a DponeError, not {error!r}"
            assert error.category is Category.TRANSIENT, f"a timeout must be transient, not {error.category}: {error}"


def _stuck(stuck: Any, work: Callable[[Any], Any], stops: bool) -> Exception | None:
    """Run ``work`` in its own thread while the connector gets no answer. Returns what it raised."""
    raised: list[Exception] = []

    def call(spec: Any) -> None:
        try:
            work(spec)
        except Exception as error:
            raised.append(error)

    with mock.patch.object(stopping, "THREADS", 0.1):
        with stuck as spec:
            thread = threading.Thread(target=call, args=(spec,))
            thread.start()
            try:
                if stops:
                    thread.join(0.2)
                    stopping.begin()
                thread.join(_PATIENCE)
                ended = not thread.is_alive()
            finally:
                stopping.reset()
        thread.join(_PATIENCE)
    assert ended, "it still waits after a signal" if stops else "it still waits after the limit"
    return raised[0] if raised else None
