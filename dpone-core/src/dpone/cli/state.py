"""``dpone state``: show and set the positions of a pipeline's streams."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpone.cli.output import emit, error_text, format_option, interruptible, pipeline_argument, table
from dpone.errors import ConfigError, StateError

if TYPE_CHECKING:
    from dpone.model.position import Position
    from dpone.ops.state import Moved, StreamState

stream_option = click.option("--stream", metavar="STREAM", help="Only this stream.")


@click.group()
def state() -> None:
    """Show, set or move the positions of streams."""


@state.command()
@pipeline_argument
@stream_option
@format_option
def show(pipeline: str, stream: str | None, format_: str) -> None:
    """Show the position of each stream.

    Shows the state, the last journal entry, and whether they agree.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.state import stream_states

        found = stream_states(load_pipeline(pipeline), stream)
    emit(format_, [one.to_json() for one in found], lambda: "\n".join(map(_text, found)))


@state.command()
@pipeline_argument
@stream_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Entries per stream.")
@format_option
def history(pipeline: str, stream: str | None, limit: int, format_: str) -> None:
    """Show earlier states of each stream, newest first."""
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.state import past

        found = past(load_pipeline(pipeline), stream, limit)
    data = [
        {"stream": name, "version": s.version, "saved_at": s.saved_at.isoformat(), "state": dict(s.value)}
        for name, s in found
    ]
    head = ["stream", "version", "saved at", "load", "position"]
    lines = [
        [name, str(s.version), _time(s.saved_at), str(s.value.get("load_id", "-")), _json(s.value.get("position"))]
        for name, s in found
    ]
    emit(format_, data, lambda: table([head, *lines]) if lines else "no saved states")


@state.command("set")
@pipeline_argument
@click.option("--stream", required=True, metavar="STREAM", help="Stream to set.")
@click.option(
    "--position", metavar="JSON", help="Resume after this position, as printed by 'state show --format json'."
)
@click.option("--position-file", metavar="FILE", type=click.Path(), help="Read the position from a file.")
@click.option("--beginning", is_flag=True, help="Read from the beginning; the target keeps its rows.")
@click.option("--yes", is_flag=True, help="Skip the confirmation.")
@format_option
def set_(
    pipeline: str,
    stream: str,
    position: str | None,
    position_file: str | None,
    beginning: bool,
    yes: bool,
    format_: str,
) -> None:
    """Set where the next run of a stream resumes. Starts a new epoch, first in the journal."""
    if [position is not None, position_file is not None, beginning].count(True) != 1:
        raise click.UsageError("use exactly one of --position, --position-file, --beginning")
    wanted = None if beginning else _position(position, position_file)
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.state import reposition, stream_states

        loaded = load_pipeline(pipeline)
        [before] = stream_states(loaded, stream)
        if not yes:
            _confirm(before, wanted)
        reposition(loaded, stream, wanted)
        [after] = stream_states(loaded, stream)
    emit(
        format_,
        {"stream": stream, "before": before.to_json(), "after": after.to_json()},
        lambda: f"before\n{_text(before)}\nafter\n{_text(after)}",
    )


@state.command()
@pipeline_argument
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--dry-run", is_flag=True, help="Show what would be moved; change nothing.")
@click.option("--yes", is_flag=True, help="Skip the confirmation.")
@format_option
def move(pipeline: str, old: str, new: str, dry_run: bool, yes: bool, format_: str) -> None:
    """Rename a key in journal, state and partition manifests.

    Use it after renaming a pipeline, a stream or a host. OLD is the key that 'dpone state show' printed before; NEW is
    the stream's name in PIPELINE now, or its whole key. The target keeps its rows, and the next run continues where the
    last one ended. A run that still uses OLD fails at its commit.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops import state as ops

        loaded = load_pipeline(pipeline)
        found = ops.movable(loaded, old, new)
        if not dry_run:
            if not yes:
                _confirm_move(found)
            found = ops.move(loaded, old, new)
    emit(format_, {"moved": not dry_run, **found.to_json()}, lambda: _moved(found, dry_run))


def _confirm_move(found: Moved) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this renames the key of a stream; add --yes")
    click.echo(_moved(found, dry_run=True), err=True)
    click.confirm(f"move it to {found.new}?", abort=True, err=True)


def _moved(found: Moved, dry_run: bool) -> str:
    what, manifest = found.what, found.what.manifest
    head = f"seq {what.head.seq}, load {what.head.load_id}" if what.head else "-"
    staged = "none"
    if manifest:
        staged = f"load {manifest.load_id}, {len(manifest.of('success'))} of {len(manifest.partitions)} staged"
    rows = [
        ["  from", found.old],
        ["  to", found.new],
        ["  journal", head + (", moved before" if found.begun else "")],
        ["  state", f"version {what.state.version}" if what.state else "none"],
        ["  partitions", staged],
    ]
    return f"{found.stream}: {'would be moved' if dry_run else 'moved'}\n{table(rows)}"


def _position(text: str | None, file: str | None) -> Position:
    from dpone.model.position import Position

    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError("read the position", f"{file}: {error_text(error)}", "give a JSON file") from error
    try:
        return Position.loads(text or "")
    except (StateError, RecursionError) as error:
        found = error.found if isinstance(error, StateError) else "the JSON is nested too deeply"
        todo = "use the form that 'dpone state show --format json' prints: format, kind, epoch, identity, value"
        raise ConfigError("read the position", found, todo) from error


def _confirm(before: StreamState, wanted: Position | None) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this changes where the next run resumes; add --yes")
    click.echo(_text(before), err=True)
    goal = _json(wanted.to_json()) if wanted else "the beginning"
    click.confirm(f"set the position of {before.stream} to {goal}?", abort=True, err=True)


def _text(one: StreamState) -> str:
    saved, head = one.state, one.journal
    rows = [
        ["  key", one.key],
        ["  state", "none"],
        ["  journal", "none"],
        ["  agree", f"{'yes' if one.agree else 'no'}: {one.note}"],
    ]
    if saved is not None:
        where = f"version {saved.version}, {_time(saved.saved_at)}, load {saved.value.get('load_id')}"
        rows[1][1] = f"{where}, {_json(saved.value.get('position'))}"
    if head is not None:
        where = f"seq {head.seq}, {_time(head.committed_at)}, load {head.load_id}"
        rows[2][1] = f"{where}, {_json(head.position.to_json())}"
    return f"{one.stream}\n{table(rows)}"


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")


def _json(value: Any) -> str:
    """Cut to 160 characters for people; --format json prints all of it."""
    import json

    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 160 else text[:157] + "..."


COMMANDS = (state,)
