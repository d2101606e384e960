"""``dpone ops``: the group of what operators check and take back by hand. Its commands are in modules of their own."""

from __future__ import annotations

import click

from dpone.cli import certification_run, contract_check, rollback, sweep


@click.group()
def ops() -> None:
    """Check rows and loads by hand, and take loads back."""


for module in (certification_run, contract_check, rollback, sweep):
    for command in module.COMMANDS:
        ops.add_command(command)

COMMANDS = (ops,)
