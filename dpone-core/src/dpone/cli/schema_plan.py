"""``dpone schema-plan``: what schema evolution would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpone.cli.output import emit, format_option

_FILE = click.Path(path_type=Path)


@click.command("schema-plan")
@click.option("--source", type=_FILE, required=True, metavar="FILE", help="JSON: columns of the source.")
@click.option("--target", type=_FILE, required=True, metavar="FILE", help="JSON: columns of the target; [] if none.")
@click.option("--table", required=True, metavar="NAME", help="The target's name, as in dbo.orders.")
@click.option(
    "--mode", type=click.Choice(["strict", "additive", "widening"]), default="widening", show_default=True,
    help="Which changes are safe.",
)  # fmt: skip
@click.option(
    "--on-type-change", type=click.Choice(["fail", "new_column"]), default="fail", show_default=True,
    help="What becomes of a type that does not fit.",
)  # fmt: skip
@click.option(
    "--on-missing-column", type=click.Choice(["fail", "ignore"]), default="fail", show_default=True,
    help="What becomes of a target column that the source lacks.",
)  # fmt: skip
@click.option("--key", multiple=True, metavar="COLUMN", help="A key column, which keeps its type; may be repeated.")
@click.option(
    "--dialect", default="sqlite", show_default=True, metavar="SINK", help="A SQL sink, whose words are used."
)
@format_option
def schema_plan(
    source: Path, target: Path, table: str, mode: Any, on_type_change: Any, on_missing_column: Any,
    key: tuple[str, ...], dialect: str, format_: str,
) -> int:  # fmt: skip
    """Show what schema evolution would change in a target.

    Compares two files of columns and prints the DDL; connects to nothing. Exit code 3 if a change is breaking.
    """
    from dpone.ops import schema_plan as ops
    from dpone.pipeline import SchemaEvolution

    policy = SchemaEvolution(mode, on_type_change, on_missing_column)
    found = ops.schema_plan(source, target, table, policy, dialect, key)
    emit(format_, found.to_json(), found.to_text)
    return 3 if found.plan.breaking else 0


COMMANDS = (schema_plan,)
