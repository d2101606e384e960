"""``dpone init``."""

from __future__ import annotations

from pathlib import Path

import click

from dpone.cli.output import emit, format_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="[DIR]", default=Path())
@click.option("--connector", metavar="NAME", help="A connector in a distribution of its own instead, with its tests.")
@click.option("--sql", is_flag=True, help="With --connector: for a database that speaks SQL.")
@format_option
def init(directory: Path, connector: str | None, sql: bool, format_: str) -> None:
    """Create a working project with data.

    CSV files, merged into a SQLite warehouse. Existing files are never overwritten.
    """
    from dpone.ops import project

    if sql and connector is None:
        raise click.UsageError("--sql is for a connector: give its name with --connector NAME")
    made = project.pipeline() if connector is None else project.connector(connector, sql=sql)
    files = project.create(directory, made)
    there = "" if directory == Path() else f"cd {directory} && "
    then = f"{there}pip install -e '.[testing]' && pytest" if connector else f"dpone run {directory / 'pipeline.yaml'}"
    lines = [*(f"created {file}" for file in files), f"next: {then}"]
    emit(format_, {"created": [str(file) for file in files]}, lambda: "\n".join(lines))


COMMANDS = (init,)
