"""What every command shares: the format option, JSON on stdout and nothing else, findings, signals as exceptions."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dpone.errors import Interrupted

if TYPE_CHECKING:
    from dpone.contract import Finding

format_option = click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print."
)
pipeline_argument = click.argument("pipeline", type=click.Path(), metavar="PIPELINE")


def emit(format_: str, data: Any, text: Callable[[], str]) -> None:
    """Print ``data`` as JSON, or what ``text`` gives; known secrets are masked in both. The last act of a command:
    a failure after it would put a second object on stdout."""
    import json

    from dpone.secret import redact, redacted

    click.echo(json.dumps(redacted(data), indent=2) if format_ == "json" else redact(text()))


def emit_findings(format_: str, findings: Sequence[Finding], **more: Any) -> int:
    """Print findings and answer the exit code: 1 if one is not ok."""
    from attrs import asdict

    ok = all(f.ok is not False for f in findings)
    data = {**more, "ok": ok, "findings": [asdict(f) for f in findings]}
    words = {True: "ok", False: "FAIL", None: "?"}
    rows = [[words[f.ok], f.name, f.found + (f"; {f.todo}" if f.todo else "")] for f in findings]
    emit(format_, data, lambda: table(rows))
    return 0 if ok else 1


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread; a second one does what it always did."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        raise Interrupted(signal.Signals(number).name)

    before: dict[int, Any] = {
        int(number): signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def error_text(error: OSError | ValueError) -> str:
    """What the system says, without the number and the path."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with two blanks between them; the last one is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)
