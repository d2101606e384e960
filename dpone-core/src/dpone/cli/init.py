"""``dpone init``."""

from __future__ import annotations

from pathlib import Path

import click

from dpone.cli.output import emit, format_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="[DIR]", default=Path())
@format_option
def init(directory: Path, format_: str) -> None:
    """Create a working project with data.

    CSV files, merged into a SQLite warehouse. Existing files are never overwritten.
    """
    from dpone.ops.project import create

    files = create(directory)
    lines = [*(f"created {file}" for file in files), f"next: dpone run {directory / 'pipeline.yaml'}"]
    emit(format_, {"created": [str(file) for file in files]}, lambda: "\n".join(lines))


COMMANDS = (init,)
