"""``dpone ops sweep``."""

from __future__ import annotations

from datetime import timedelta

import click

from dpone.cli.output import Duration, emit, format_option, interruptible


@click.command()
@click.option(
    "--config", type=click.Path(), default="pipeline.yaml", show_default=True, metavar="FILE", help="Pipeline."
)
@click.option(
    "--older-than", type=Duration("90d"), default="90d", show_default=True, metavar="TIME", help="As 90d or 12h."
)
@click.option("--execute", is_flag=True, help="Delete. Without it, only show what would be deleted.")
@format_option
def sweep(config: str, older_than: timedelta, execute: bool, format_: str) -> int:
    """Delete what is left of old loads: journal entries, quarantined rows, unknown tables.

    Never the head of a journal, nor what an undo needs. Without --execute nothing is changed. Exit code 1 if something
    could not be deleted, or a stream was running.
    """
    from dpone.ops import sweep as to

    with interruptible():
        done = to.sweep(config, older_than, execute)
    emit(format_, done.to_json(), done.to_text)
    return 0 if done.ok else 1


COMMANDS = (sweep,)
