"""``dpone init``."""

from __future__ import annotations

from pathlib import Path

import click

from dpone.cli.output import emit, format_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="[DIR]", default=Path())
@click.option("--connector", metavar="NAME", help="Create a connector package with tests instead.")
@click.option("--sql", is_flag=True, help="With --connector: for a SQL database.")
@format_option
def init(directory: Path, connector: str | None, sql: bool, format_: str) -> None:
    """Create a working example project.

    It merges CSV files into a SQLite warehouse. Existing files are never overwritten.
    """
    from dpone.ops import project

    if sql and connector is None:
        raise click.UsageError("--sql needs a connector; add --connector NAME")
    made = project.pipeline() if connector is None else project.connector(connector, sql=sql)
    files = project.create(directory, made)
    there = "" if directory == Path() else f"cd {directory} && "
    then = f"{there}pip install -e '.[testing]' && pytest" if connector else f"dpone run {directory / 'pipeline.yaml'}"
    lines = [*(f"created {file}" for file in files), f"next: {then}"]
    emit(format_, {"created": [str(file) for file in files]}, lambda: "\n".join(lines))


COMMANDS = (init,)
