"""``dpone partitions``: the status of the parts of a load, and deciding about those that are not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dpone.cli.output import emit, format_option, interruptible, pipeline_argument, table
from dpone.errors import counted

if TYPE_CHECKING:
    from dpone.ops.partitions import LoadParts

stream_option = click.option("--stream", metavar="STREAM", help="Only this stream.")


@click.group()
def partitions() -> None:
    """Show, retry or skip the partitions of a load."""


@partitions.command()
@pipeline_argument
@stream_option
@format_option
def show(pipeline: str, stream: str | None, format_: str) -> None:
    """Show the partitions of each stream's latest load.

    Bounds, status, rows, attempts and last error. A partition is success when staged; the load is done when committed.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.partitions import shown

        found = shown(load_pipeline(pipeline), stream)
    emit(format_, [one.to_json() for one in found], lambda: "\n".join(map(_text, found)))


@partitions.command()
@pipeline_argument
@click.argument("ids", nargs=-1, metavar="[ID]...")
@stream_option
@click.option("--from-scratch", is_flag=True, help="Delete all staged partitions and the manifest.")
@click.option("--anew", "from_scratch", is_flag=True, hidden=True, help="The former name of --from-scratch.")
@format_option
def retry(pipeline: str, ids: tuple[str, ...], stream: str | None, from_scratch: bool, format_: str) -> None:
    """Make the next run retry failed and skipped partitions; without ID all of them."""
    if from_scratch and ids:
        raise click.UsageError("--from-scratch retries all partitions; remove the IDs")
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops import partitions as ops

        loaded = load_pipeline(pipeline)
        found = ops.start_over(loaded, stream) if from_scratch else ops.retry(loaded, stream, ids)
    emit(format_, found.to_json(), lambda: _text(found))


@partitions.command()
@pipeline_argument
@click.argument("id", metavar="ID")
@stream_option
@click.option("--reason", required=True, metavar="TEXT", help="Reason, for the report of the run.")
@format_option
def skip(pipeline: str, id: str, stream: str | None, reason: str, format_: str) -> None:
    """Skip a partition.

    The load is then committed without its rows, and no later run reads them. The run reports the skipped partition and
    ends with exit code 4.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops import partitions as ops

        found = ops.skip(load_pipeline(pipeline), stream, id, reason)
    emit(format_, found.to_json(), lambda: _text(found))


def _text(parts: LoadParts) -> str:
    manifest = parts.manifest
    if manifest is None:
        return f"{parts.stream}: no manifest"
    head = ["partition", "status", "rows", "attempts", "bounds", "note"]
    rows = [
        [one.id, one.status, f"{one.rows_loaded:,}", str(one.attempts), str(one.bounds or "-"), _note(one)]
        for one in manifest.partitions
    ]
    lines = table([head, *rows]).splitlines()
    done = f"{len(manifest.of('success'))} of {counted(len(manifest.partitions), 'partition')} staged"
    return "\n".join(
        [f"{parts.stream}: load {manifest.load_id} {parts.load}, {done}", *(f"  {line}" for line in lines)]
    )


def _note(one: object) -> str:
    from dpone.partition import Partition, shown

    assert isinstance(one, Partition)
    if one.status == "running":
        return shown(one.owner)
    return one.reason or one.error or one.artifact or ""


COMMANDS = (partitions,)
