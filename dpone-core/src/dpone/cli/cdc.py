"""``dpone cdc`` and ``dpone cdc-plan``: what change streams need at their source."""

from __future__ import annotations

import sys
from typing import Any

import click

from dpone.cli.output import emit, format_option, interruptible, pipeline_argument, table
from dpone.cli.state import stream_option


@click.command("cdc-plan")
@click.option("--backend", required=True, metavar="READER", help="As 'dpone plugins' names it: postgres_logical.")
@click.option("--schema", required=True, metavar="NAME", help="Schema of the tables.")
@click.option("--table", "tables", required=True, multiple=True, metavar="NAME", help="A table; may be repeated.")
@click.option("--slot-name", metavar="NAME", help="The replication slot.")
@click.option("--publication-name", metavar="NAME", help="The publication.")
@format_option
def cdc_plan(
    backend: str,
    schema: str,
    tables: tuple[str, ...],
    slot_name: str | None,
    publication_name: str | None,
    format_: str,
) -> None:
    """Print what a DBA runs before a change stream can be read.

    Publication, slot, grants and heartbeat, and the teardown. Every statement may be run again. Connects to nothing.
    """
    given = {"slot": slot_name, "publication": publication_name}
    with interruptible():
        from dpone.ops.cdc import setup_plan

        found = setup_plan(backend, schema, tables, {name: value for name, value in given.items() if value})
    emit(format_, {"backend": backend, "statements": found}, lambda: "\n\n".join(found))


@click.group()
def cdc() -> None:
    """Make, look at and drop what change streams read from."""


@cdc.command()
@pipeline_argument
@stream_option
@format_option
def create(pipeline: str, stream: str | None, format_: str) -> None:
    """Make the slot or capture of each change stream.

    What is there already stays as it is.
    """
    with interruptible():
        from dpone.ops.cdc import create as made
        from dpone.pipeline import Pipeline

        found = made(Pipeline.from_yaml(pipeline), stream)
    data = [{"stream": name, "position": position.to_json()} for name, position in found]
    emit(format_, data, lambda: table([[name, _json(position.value)] for name, position in found]))


@cdc.command()
@pipeline_argument
@stream_option
@format_option
def lag(pipeline: str, stream: str | None, format_: str) -> None:
    """Show how far each change stream is behind its source."""
    with interruptible():
        from dpone.ops.cdc import lag as lags
        from dpone.pipeline import Pipeline

        found = lags(Pipeline.from_yaml(pipeline), stream)
    data = [{"stream": name, "lag": dict(behind)} for name, behind in found]
    lines = [[name, *(f"{what} {value}" for what, value in behind.items())] for name, behind in found]
    emit(format_, data, lambda: table(lines))


@cdc.command()
@pipeline_argument
@stream_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@format_option
def drop(pipeline: str, stream: str | None, yes: bool, format_: str) -> None:
    """Drop the slot or capture of each change stream.

    Rows and positions stay, but what comes from now on is kept by nobody.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("this lets go of changes that were not read; add --yes")
        click.confirm(f"drop what {stream or 'the change streams of ' + pipeline} reads from?", abort=True, err=True)
    with interruptible():
        from dpone.ops.cdc import drop as dropped
        from dpone.pipeline import Pipeline

        found = dropped(Pipeline.from_yaml(pipeline), stream)
    emit(format_, [{"stream": name} for name in found], lambda: "\n".join(f"{name}: dropped" for name in found))


def _json(value: Any) -> str:
    import json

    return json.dumps(dict(value), sort_keys=True)


COMMANDS = (cdc_plan, cdc)
