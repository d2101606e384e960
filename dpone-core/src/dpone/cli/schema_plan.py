"""``dpone schema-plan``: what schema evolution would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpone.cli.output import emit, format_option

_FILE = click.Path(path_type=Path)


@click.command("schema-plan")
@click.option("--source", type=_FILE, required=True, metavar="FILE", help="JSON file: columns of the source.")
@click.option(
    "--target", type=_FILE, required=True, metavar="FILE", help="JSON file: columns of the target; [] if none."
)
@click.option("--table", required=True, metavar="NAME", help="Name of the target, e.g. dbo.orders.")
@click.option(
    "--mode", type=click.Choice(["strict", "additive", "widening"]), default="widening", show_default=True,
    help="Which changes are allowed.",
)  # fmt: skip
@click.option(
    "--on-type-change", type=click.Choice(["fail", "new_column"]), default="fail", show_default=True,
    help="What to do when a type does not fit.",
)  # fmt: skip
@click.option(
    "--on-missing-column", type=click.Choice(["fail", "ignore"]), default="fail", show_default=True,
    help="What to do when the source lacks a target column.",
)  # fmt: skip
@click.option("--key", multiple=True, metavar="COLUMN", help="Key column, which keeps its type; repeatable.")
@click.option("--dialect", default="sqlite", show_default=True, metavar="SINK", help="SQL sink whose dialect is used.")
@format_option
def schema_plan(
    source: Path, target: Path, table: str, mode: Any, on_type_change: Any, on_missing_column: Any,
    key: tuple[str, ...], dialect: str, format_: str,
) -> int:  # fmt: skip
    """Show what schema evolution would change in a target.

    Compares two lists of columns and prints the DDL, without connecting. Exit code 3 if a change is breaking.
    """
    from dpone.model.pipeline import SchemaEvolution
    from dpone.ops import schema_plan as ops

    policy = SchemaEvolution(mode, on_type_change, on_missing_column)
    found = ops.schema_plan(source, target, table, policy, dialect, key)
    emit(format_, found.to_json(), found.to_text)
    return 3 if found.plan.breaking else 0


COMMANDS = (schema_plan,)
