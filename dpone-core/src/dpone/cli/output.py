"""What every command shares: the format option, JSON on stdout and nothing else, findings, signals as exceptions."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dpone.errors import Interrupted
from dpone.host import stopping

if TYPE_CHECKING:
    from datetime import timedelta

    from dpone.contract import Finding

format_option = click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)
pipeline_argument = click.argument("pipeline", type=click.Path(), metavar="PIPELINE")


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in later releases of click only
    """``example`` is for the message about a value that is none."""

    name = "time"
    most = 36_500  # days; a time that is longer ago may be before the first date that Python knows

    def __init__(self, example: str) -> None:
        self.example = example

    def convert(self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from dpone.model.row_contract import duration

        if not isinstance(value, str):
            return value
        try:
            found = duration(value)
        except ValueError as error:
            self.fail(f"{error}; write a number and s, m, h or d, as in {self.example}", param, ctx)
        if found.days >= self.most:
            self.fail(f"{value!r} is too long; write less than {self.most}d, as in {self.example}", param, ctx)
        return found


def emit(format_: str, data: Any, text: Callable[[], str]) -> None:
    """Print ``data`` as JSON, or the result of ``text``; known secrets are masked in both. Must be the last step of a
    command: a failure after it would print a second object on stdout."""
    import json

    from dpone.model.secret import redact, redacted

    click.echo(json.dumps(redacted(data), indent=2) if format_ == "json" else redact(text()))


def emit_findings(format_: str, findings: Sequence[Finding], **more: Any) -> int:
    """Print findings and return the exit code: 1 if one is not ok."""
    from attrs import asdict

    ok = all(f.ok is not False for f in findings)
    data = {**more, "ok": ok, "findings": [asdict(f) for f in findings]}
    words = {True: "ok", False: "FAIL", None: "?"}
    rows = [[words[f.ok], f.name, f.found + (f"; {f.todo}" if f.todo else "")] for f in findings]
    emit(format_, data, lambda: table(rows))
    return 0 if ok else 1


@contextlib.contextmanager
def interruptible(last_words: Callable[[], None] | None = None) -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread, which then has ``stopping.LAST`` seconds to clean up. A
    second signal, or the end of that time, prints ``last_words`` and ends the process like SIGKILL; every step of a run
    survives that. A signal that was ignored when the process started stays ignored (POSIX shells ignore SIGINT for
    background jobs).

    A separate thread receives the signal, because the main thread may be in a call that does not return.
    """

    signalled = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            raise Interrupted(signal.Signals(number).name)

    read, write = os.pipe()
    os.set_blocking(write, False)
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    woken = signal.set_wakeup_fd(write)
    watch = threading.Thread(target=_watch, args=(read, last_words), name="dpone-signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(write, _DONE)
        watch.join(stopping.SLICE)
        stopping.reset()
        os.close(write)


_DONE = b"\0"  # no signal has this number


def _watch(read: int, last_words: Callable[[], None] | None) -> None:
    """Python writes the number of each signal it handles to the pipe (``signal.set_wakeup_fd``)."""
    until: float | None = None
    while True:
        wait = None if until is None else max(0.0, until - time.monotonic())
        came = os.read(read, 1) if select.select([read], [], [], wait)[0] else b""
        if came == _DONE:
            os.close(read)
            return
        if came and came[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        if until is not None:
            _leave(last_words)
        stopping.begin()
        until = time.monotonic() + stopping.LAST


def _leave(last_words: Callable[[], None] | None) -> None:
    """Waits at most half a second for the output: the reader may be gone, or the main thread may hold the lock of
    stdout."""
    words = threading.Thread(target=last_words or _interrupted, daemon=True)
    words.start()
    words.join(0.5)
    os._exit(130)


def _interrupted() -> None:
    with contextlib.suppress(SystemExit):
        fail("Interrupted", ["interrupted"], 130, sys.argv[1:])
    sys.stdout.flush()


def error_text(error: OSError | ValueError) -> str:
    """The message of an operating system error, without its number and path."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, columns aligned and separated by two spaces; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def fail(kind: str, lines: list[str], exit_code: int, args: Sequence[str]) -> None:
    """Print a failure. A command prints its JSON last of all, so nothing is on stdout yet."""
    import json

    from dpone.model.secret import redact

    lines = [redact(line) for line in lines]
    for line in lines:
        click.echo(f"error: {line}", err=True)
    if "--format=json" in args or ("--format", "json") in itertools.pairwise(args):
        click.echo(json.dumps({"error": {"kind": kind, "exit_code": exit_code, "messages": lines}}, indent=2))
    sys.exit(exit_code)
