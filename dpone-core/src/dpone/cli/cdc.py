"""``dpone cdc`` and ``dpone cdc-plan``: what change streams need at their source."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dpone.cli.output import emit, format_option, interruptible, pipeline_argument, table
from dpone.cli.state import stream_option
from dpone.errors import counted

if TYPE_CHECKING:
    from dpone.ops.cdc import StreamStatus
    from dpone.ops.replay import Replayed, ReplayPlan


@click.command("cdc-plan")
@click.option("--pipeline", type=click.Path(), metavar="PIPELINE", help="Read options not given here from this file.")
@stream_option
@click.option("--backend", metavar="READER", help="Change reader as listed by 'dpone plugins', e.g. postgres_logical.")
@click.option("--schema", metavar="NAME", help="Schema of the tables.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Table name; repeatable.")
@click.option("--slot-name", metavar="NAME", help="Replication slot.")
@click.option("--publication-name", metavar="NAME", help="Publication.")
@click.option("--role", default="", metavar="NAME", help="Database user that reads; default: user of the connection.")
@format_option
def cdc_plan(
    pipeline: str | None,
    stream: str | None,
    backend: str | None,
    schema: str | None,
    tables: tuple[str, ...],
    slot_name: str | None,
    publication_name: str | None,
    role: str,
    format_: str,
) -> None:
    """Print the SQL that prepares a database for change streams.

    A DBA runs it: publication, slot, grants, heartbeat and teardown. Every statement can be run again. Makes no
    connection. Needs --pipeline, or --backend, --schema and --table.
    """
    given = {"slot": slot_name, "publication": publication_name}
    options = {name: value for name, value in given.items() if value}
    needed = {"--backend": backend, "--schema": schema, "--table": tables}
    if pipeline is None and (missing := [name for name, value in needed.items() if not value]):
        raise click.UsageError(f"add {', '.join(missing)}, or --pipeline")
    with interruptible():
        from attrs import evolve

        from dpone.config.reader import load_pipeline
        from dpone.errors import ConfigError
        from dpone.model.schema import Name
        from dpone.ops.cdc import Wanted, setup_plan, wanted

        plans = wanted(load_pipeline(pipeline), stream) if pipeline else [Wanted(backend or "", (), {}, None)]
        found: dict[str, None] = {}
        backends: dict[str, None] = {}
        for plan in plans:
            named = tuple(map(Name.parse, tables)) if pipeline else tuple(Name((table,)) for table in tables)
            names = [Name((schema, name.last)) if schema else name for name in named or plan.tables]
            if not names:
                raise ConfigError("plan a change stream", "the pipeline does not name tables", "name them with --table")
            plan = evolve(plan, backend=backend or plan.backend, options={**plan.options, **options})
            backends[plan.backend] = None
            found |= dict.fromkeys(setup_plan(plan.backend, names, plan.options, role, plan.connection))
    statements = sorted(found, key=lambda text: text.startswith("--"))
    data = {"backend": ", ".join(backends), "statements": statements}
    nothing = f"-- {', '.join(backends)}: there is nothing to prepare"
    emit(format_, data, lambda: "\n\n".join(statements) or nothing)


@click.group()
def cdc() -> None:
    """Inspect, pause and set up change streams."""


@cdc.command()
@pipeline_argument
@stream_option
@click.option("--failover", is_flag=True, help="PostgreSQL 17: a slot that standbys keep a copy of.")
@format_option
def create(pipeline: str, stream: str | None, failover: bool, format_: str) -> None:
    """Create the slot or capture of each change stream.

    Existing slots and captures stay unchanged.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import create as made

        found = made(load_pipeline(pipeline), stream, failover)
    data = [{"stream": name, "position": position.to_json()} for name, position in found]
    emit(format_, data, lambda: table([[name, _json(position.value)] for name, position in found]))


@cdc.command()
@pipeline_argument
@stream_option
@format_option
def lag(pipeline: str, stream: str | None, format_: str) -> None:
    """Show how far each change stream is behind its source."""
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import lag as lags

        found = lags(load_pipeline(pipeline), stream)
    data = [{"stream": name, "lag": dict(behind)} for name, behind in found]
    lines = [[name, *(f"{what} {value}" for what, value in behind.items())] for name, behind in found]
    emit(format_, data, lambda: table(lines))


@cdc.command()
@pipeline_argument
@stream_option
@format_option
def status(pipeline: str, stream: str | None, format_: str) -> int:
    """Show the status of each change stream.

    Position, lag, slot, tables that wait for a snapshot, pause, and what blocks it. Exit code 1 if a
    finding is not ok. Changes nothing and reads no changes.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import status as statuses

        found = statuses(load_pipeline(pipeline), stream)
    emit(format_, [one.to_json() for one in found], lambda: "\n".join(map(_status, found)))
    return 0 if all(one.ok for one in found) else 1


def _status(one: StreamStatus) -> str:
    source = one.source
    load = f"load {one.load_id} at {one.committed_at}" if one.load_id else "nothing was loaded yet"
    rows = [["  position", f"{source.at + ', ' if source and source.at else ''}{load}"]]
    if source is not None:
        lag = "unknown" if source.bytes is None else f"{counted(source.bytes, 'byte')} up to {source.end}"
        rows.append(["  lag", lag + ("" if source.seconds is None else f", at most {source.seconds:,.1f} s")])
        if source.slot:
            rows.append(["  slot", ", ".join(f"{name} {value}" for name, value in source.slot.items())])
        rows.append(["  snapshot", f"waiting: {', '.join(source.waiting)}" if source.waiting else "no table waits"])
    rows.append(["  paused", str(one.paused) if one.paused else "no"])
    words = {True: "ok", False: "FAIL", None: "?"}
    rows += [[f"  {f.name}", f"{words[f.ok]}: {f.found}" + (f"; {f.todo}" if f.todo else "")] for f in one.findings]
    return f"{one.stream}\n{table(rows)}"


@cdc.command()
@pipeline_argument
@stream_option
@click.option("--yes", is_flag=True, help="Skip the confirmation.")
@format_option
def drop(pipeline: str, stream: str | None, yes: bool, format_: str) -> None:
    """Drop the slot or capture of each change stream.

    Rows and positions stay, but later changes are lost.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("unread changes will be lost; add --yes")
        click.confirm(
            f"drop the slot or capture of {stream or 'each change stream of ' + pipeline}?", abort=True, err=True
        )
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import drop as dropped

        found = dropped(load_pipeline(pipeline), stream)
    lines = [f"{name}: {line}" for name, done in found for line in done or ["dropped"]]
    emit(format_, [{"stream": name, "done": done} for name, done in found], lambda: "\n".join(lines))


@cdc.command()
@pipeline_argument
@stream_option
@click.option("--table", "tables", required=True, multiple=True, metavar="NAME", help="Table or glob; repeatable.")
@format_option
def resync(pipeline: str, stream: str | None, tables: tuple[str, ...], format_: str) -> None:
    """Make the next run read all rows of a table again.

    The other tables of the stream continue from their position. Starts a new epoch, first in the journal. The target
    keeps its rows until that run replaces them in one commit.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import resync as resynced

        found = resynced(load_pipeline(pipeline), stream, tables)
    data = [{"stream": name, "tables": list(tables), "position": position.to_json()} for name, position in found]
    emit(format_, data, lambda: "\n".join(f"{name}: the next run reads {', '.join(tables)} again" for name, _ in found))


from_option = click.option(
    "--from",
    "start",
    metavar="POSITION",
    help="Load id or position of 'state history'; default: the earliest possible.",
)


@cdc.command("replay-plan")
@pipeline_argument
@stream_option
@from_option
@format_option
def replay_plan(pipeline: str, stream: str | None, start: str | None, format_: str) -> int:
    """Show which changes a replay would read again.

    Shows the first and last change, what the target already has, and each blocker. Changes nothing. Exit code 3 if
    there are blockers.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.replay import replay_plans

        found = replay_plans(load_pipeline(pipeline), stream, start)
    emit(format_, [one.to_json() for one in found], lambda: "\n".join(map(_plan, found)))
    return 3 if any(one.blockers for one in found) else 0


@cdc.command()
@pipeline_argument
@stream_option
@from_option
@click.option("--execute", is_flag=True, help="Read the changes again; without it, only the plan is shown.")
@format_option
def replay(pipeline: str, stream: str | None, start: str | None, execute: bool, format_: str) -> int:
    """Read changes again that were loaded before.

    One commit under a new epoch, up to the end of the log. Changes that the target already has are not applied twice.
    With blockers, nothing is executed: exit code 3.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops import replay as ops

        loaded = load_pipeline(pipeline)
        plans = ops.replay_plans(loaded, stream, start)
        blocked = any(plan.blockers for plan in plans)
        done = ops.replay(loaded, plans) if execute and not blocked else []
    data = [one.to_json() for one in done] or [{"plan": p.to_json(), "run": None, "after": None} for p in plans]
    if execute and blocked:
        click.echo("error: replay the changes: the plan has blockers; nothing was changed", err=True)
    emit(format_, data, lambda: "\n".join(map(_replayed, done) if done else map(_plan, plans)))
    return max((one.exit_code for one in done), default=3 if blocked else 0)


def _replayed(one: Replayed) -> str:
    [stream] = one.run.streams
    rows, after = stream.rows, one.after
    if stream.error is not None:
        return f"{stream.stream}: {stream.status}: {stream.error.message}"
    counts = f"{rows.inserted:,} inserted, {rows.updated:,} updated, {rows.deleted:,} deleted"
    epoch = after.journal.epoch if after.journal else 0
    text = f"{stream.stream}: replayed, {counted(rows.read, 'change')} read ({counts}), epoch {epoch}"
    return "\n".join([text, f"  verified: {after.note}", *(f"  warning: {text}" for text in stream.warnings)])


def _plan(one: ReplayPlan) -> str:
    data = one.to_json()
    rows = [["  plan", "nothing was changed"]]
    for label, place in (("  from", one.start), ("  applied", one.applied)):
        if place is not None:
            rows.append([label, place.source.at + (f", after load {place.load_id}" if place.load_id else "")])
    if one.end is not None:
        rows.append(["  to", one.end])
    for label, what in (("  log", "log_bytes"), ("  events", "events")):
        total, applied = ("unknown" if n is None else f"{n:,}" for n in data[what].values())
        unit = " bytes" if what == "log_bytes" else ""
        rows.append([label, f"{total}{unit}, of which the target has {applied}"])
    for label, remarks in (("  blocker", one.blockers), ("  warning", one.warnings)):
        rows += [[label, f"{r.name}: {r.found}" + (f"; {r.todo}" if r.todo else "")] for r in remarks]
    return f"{one.stream}\n{table(rows)}"


@cdc.command()
@pipeline_argument
@stream_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; each refused run shows it.")
@format_option
def pause(pipeline: str, stream: str | None, reason: str, format_: str) -> None:
    """Make runs of each change stream stop with exit code 3.

    Needs neither source nor sink. Fails while a run of one of the streams is working. The position stays, and the
    source keeps all changes until the stream has been resumed and run.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import pause as paused

        found = paused(load_pipeline(pipeline), stream, reason)
    data = [{"stream": name, "changed": new, "paused": why.to_json()} for name, why, new in found]
    lines = [f"{name}: {'paused' if new else 'was already paused'} {why}" for name, why, new in found]
    emit(format_, data, lambda: "\n".join(lines))


@cdc.command()
@pipeline_argument
@stream_option
@format_option
def resume(pipeline: str, stream: str | None, format_: str) -> None:
    """Let runs of each paused change stream start again."""
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.cdc import resume as resumed

        found = resumed(load_pipeline(pipeline), stream)
    data = [{"stream": name, "changed": was is not None, "was_paused": was and was.to_json()} for name, was in found]
    lines = [f"{name}: {f'resumed; paused {was}' if was else 'was not paused'}" for name, was in found]
    emit(format_, data, lambda: "\n".join(lines))


def _json(value: Any) -> str:
    import json

    return json.dumps(dict(value), sort_keys=True)


COMMANDS = (cdc_plan, cdc)
