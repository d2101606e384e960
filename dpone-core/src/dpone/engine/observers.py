"""The observers of a run, which never change it.

An observer of an installed plugin has a thread and a queue of its own. The run puts an event there and goes on, so an
observer that hangs holds nothing up; events keep their order. At its end the run waits for the observers, ``LIMIT``
seconds or as long as one asks for (``observer_seconds``), and less after a signal. One that needs longer, or that is
``BACKLOG`` events behind, is abandoned.

An observer that the calling program has registered itself (the progress line, a test) is called at once, in the thread
of the step: it may stop the process exactly there.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from attrs import define, field

from dpone.errors import DponeError, Interrupted, counted
from dpone.host import stopping
from dpone.model.events import RunEvent
from dpone.model.pipeline import Pipeline
from dpone.model.report import RunReport
from dpone.model.secret import redact
from dpone.plugins import Plugins

LIMIT = 5.0  # seconds
BACKLOG = 10_000  # events; a few megabytes

Call = Callable[[RunEvent], object]


@define(eq=False)
class _Listener:
    """An observer with a thread of its own. ``fault``: what is wrong with it, once."""

    name: str
    _make: Callable[[], Any]
    seconds: float = field(factory=lambda: LIMIT)
    fault: str = ""
    _events: SimpleQueue[RunEvent | None] = field(factory=SimpleQueue)
    _idle: threading.Event = field(factory=threading.Event)
    _at: str = "run_started"
    _lost: bool = False

    def start(self) -> None:
        threading.Thread(target=self._listen, name=f"dpone-observer-{self.name}", daemon=True).start()

    def put(self, event: RunEvent) -> None:
        if not self._lost and self._events.qsize() >= BACKLOG:
            self._abandon(f"is {counted(BACKLOG, 'event')} behind at {self._at}")
        if not self._lost:
            self._events.put(event)

    def end(self) -> None:
        self._events.put(None)

    def wait(self, since: float) -> None:
        """Until the last event is taken. since: when the run came to its end, by ``time.monotonic()``."""
        while not self._lost:
            left = stopping.left(min(stopping.SLICE, max(0.0, since + self.seconds - time.monotonic())))
            if not self._idle.wait(left) and not left:
                self._abandon(f"did not return from {self._at} in time")

    def _abandon(self, found: str) -> None:
        if not self._lost:
            self._lost = True
            todo = "check what it connects to; the run itself is not affected"
            self.fault = self.fault or f"{found}, and gets no more events; {todo}"

    def _listen(self) -> None:
        call: Call | None = None
        try:
            call = self._make()
            self.seconds = getattr(call, "observer_seconds", self.seconds)
        except BaseException as error:
            self._failed(error)
        while call is not None and (event := self._next()) is not None:
            self._at = event.step
            try:
                call(event)
            except BaseException as error:
                self._failed(error)
        self._lost = True
        self._idle.set()

    def _next(self) -> RunEvent | None:
        """None at the end, and for one that was abandoned."""
        while not self._lost:
            with suppress(Empty):
                return self._events.get(timeout=stopping.SLICE)
        return None

    def _failed(self, error: BaseException) -> None:
        self.fault = self.fault or _failure(self._at, error)


def _failure(step: str, error: BaseException) -> str:
    return str(error) if isinstance(error, DponeError) else f"failed at {step}: {type(error).__name__}: {error}"


@define(eq=False)
class Observers:
    """Those of one run. pipeline: with the streams that the run has. Faults become warnings of the report."""

    _plugins: Plugins
    _pipeline: Pipeline
    _report: RunReport
    _order: threading.Lock = field(factory=threading.Lock)
    _silenced: set[str] = field(factory=set)
    _installed: frozenset[str] = field(init=False)
    _listeners: list[_Listener] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._installed = frozenset(one.name for one in self._plugins.found)
        self._listeners = list(self._listening())
        for one in self._listeners:
            weakref.finalize(self, one.end)  # a job that tells no end, such as an undo
            one.start()

    def tell(self, event: RunEvent) -> None:
        with self._order:
            for one in self._listeners:
                one.put(event)
            for name, call in self._direct():
                try:
                    call(event)
                except (Exception, SystemExit) as error:  # an observer may raise anything
                    self._warn(name, _failure(event.step, error))
        if event.step == "run_finished":
            self._end()

    def _end(self) -> None:
        """A signal that comes now ends the wait, and not the run: all is done."""
        start = time.monotonic()
        for one in self._listeners:
            one.end()
        with suppress(Interrupted):
            for one in self._listeners:
                one.wait(start)
        for one in self._listeners:
            if one.fault:
                self._warn(one.name, one.fault)

    def _warn(self, name: str, fault: str) -> None:
        if name not in self._silenced:
            self._silenced.add(name)
            self._report.warnings.append(redact(" ".join(f"observer {name}: {fault}".split())))

    def _direct(self) -> Iterator[tuple[str, Call]]:
        for hook in self._plugins.manager.hook.dpone_run_event.get_hookimpls():
            if hook.plugin_name not in self._installed:
                yield hook.plugin_name, _taking(hook)

    def _listening(self) -> Iterator[_Listener]:
        hooks = self._plugins.manager.hook
        given = {"pipeline": self._pipeline, "report": self._report}
        for hook in hooks.dpone_run_event.get_hookimpls():
            if hook.plugin_name in self._installed:
                yield _Listener(hook.plugin_name, partial(_taking, hook))
        for hook in hooks.dpone_observer.get_hookimpls():
            yield _Listener(hook.plugin_name, partial(hook.function, *(given[name] for name in hook.argnames)))


def _taking(hook: Any) -> Call:
    """The function of a hook, which may leave out the argument."""
    return lambda event: hook.function(*([event] if hook.argnames else []))
