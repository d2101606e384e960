"""``dpone ops rollback-plan`` and ``dpone ops rollback``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dpone.cli.output import emit, format_option, interruptible


def _of_a_load(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--sink", required=True, metavar="NAME", help="Connection, or type of the sink."),
        click.option("--target", required=True, metavar="NAME", help="Table or folder, as the pipeline names it."),
        click.option("--load-id", required=True, metavar="ID", help="The load, as a run reports it."),
        click.option(
            "--config",
            type=click.Path(),
            metavar="FILE",
            help="Pipeline file that loaded it; for a plan, also a file of connections.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("rollback-plan")
@_of_a_load
@format_option
def rollback_plan(sink: str, target: str, load_id: str, config: str | None, format_: str) -> int:
    """Show what taking a load back would do; change nothing.

    Prints the statements and the loads on top of it; if it cannot be taken back, the reason, with exit code 3. Without
    --config no journal is read, and the statements are a template.
    """
    from dpone.ops import rollback as to

    with interruptible():
        planned = to.rollback_plan(sink, target, load_id, config)
    emit(format_, planned.to_json(), planned.to_text)
    return 0 if planned.ok else 3


@click.command()
@_of_a_load
@click.option("--execute", is_flag=True, help="Take the load back. Without it, only the plan is shown.")
@format_option
def rollback(sink: str, target: str, load_id: str, config: str | None, execute: bool, format_: str) -> int:
    """Take a load back: rows and position are as before it.

    In one transaction and a new epoch, so that no older run can commit. Then the target, the journal and the state are
    read again; exit code 1 if they are not as they should be. The next run loads the same rows again.
    """
    from dpone.ops import rollback as to

    with interruptible():
        done = (to.rollback if execute else to.rollback_plan)(sink, target, load_id, config)
    emit(format_, done.to_json(), done.to_text)
    return 0 if done.ok else (1 if execute else 3)


COMMANDS = (rollback_plan, rollback)
