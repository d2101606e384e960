"""``dpone ops contract-check``."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpone.cli.output import emit, format_option, interruptible

if TYPE_CHECKING:
    from dpone.model.pipeline import SourceSpec


@click.command("contract-check")
@click.option("--rows-json", metavar="JSON", help="Rows as a JSON array of objects.")
@click.option(
    "--rows",
    metavar="FILE",
    multiple=True,
    callback=lambda _, __, given: _once(given),
    help="CSV, JSON array, JSON Lines or Parquet file, or a glob; '-' reads stdin.",
)
@click.option("--connection", metavar="URL", help="Database of the rows: a URL, '${NAME}', or a name.")
@click.option("--table", metavar="NAME", help="Table of --connection.")
@click.option("--type", "type_", metavar="TYPE", help="Source type of --connection; default: from the URL.")
@click.option(
    "--connections", type=click.Path(path_type=Path), metavar="FILE",
    help="File of named connections, or a pipeline file.",
)  # fmt: skip
@click.option("--source-options", metavar="YAML", help="Options of the source, e.g. '{delimiter: \"|\"}'.")
@click.option("--contract-json", metavar="JSON", help="Contract as text.")
@click.option(
    "--contract", type=click.Path(path_type=Path), metavar="FILE",
    help="Contract as in sink.contract, or an Open Data Contract Standard document.",
)  # fmt: skip
@click.option("--object", "object_", metavar="NAME", help="Object of the Open Data Contract Standard document.")
@click.option("--skip-unsupported", is_flag=True, help="List unsupported rules of the document instead of failing.")
@click.option("--examples", type=click.IntRange(0), default=5, show_default=True, help="Rows to show for each rule.")
@click.option("--values", is_flag=True, help="Show the values of these rows.")
@click.option("--strict", is_flag=True, help="Also fail for rules with the policy warn.")
@format_option
def contract_check(
    rows_json: str | None,
    rows: str | None,
    connection: str | None,
    table: str | None,
    type_: str | None,
    connections: Path | None,
    source_options: str | None,
    contract_json: str | None,
    contract: Path | None,
    object_: str | None,
    skip_unsupported: bool,
    examples: int,
    values: bool,
    strict: bool,
    format_: str,
) -> int:
    """Check rows against a row contract.

    Reads all rows of a file or table once, and changes nothing. Exit code 1 if a rule is violated: its count and its
    first rows are shown, their values only with --values.
    """
    _exactly_one(("--rows-json", rows_json), ("--rows", rows), ("--connection", connection))
    _exactly_one(("--contract-json", contract_json), ("--contract", contract))
    if (connection is None) != (table is None):
        raise click.UsageError("use --connection together with --table")
    if connection is None and (type_ or connections):
        raise click.UsageError("--type and --connections need --connection")
    with interruptible():
        from dpone.config import command_line
        from dpone.ops.contract_check import check_source

        of = (object_, connection is not None, skip_unsupported)
        read = (
            command_line.contract_file(contract, *of)
            if contract is not None
            else command_line.contract_text(contract_json or "", *of)
        )
        given = (rows_json, rows, connection, table, type_, connections, source_options)
        with _typed_here(), _source(*given) as spec:
            found = check_source(spec, read, examples, values, strict)
    emit(format_, found.to_json(), found.to_text)
    return 0 if found.ok else 1


@contextlib.contextmanager
def _typed_here() -> Iterator[None]:
    """A connector advises for a pipeline file: here its ``options.x`` are given by --source-options, and paths are
    relative to the current folder."""
    from dpone.errors import DponeError

    try:
        yield
    except DponeError as error:
        todo, named = re.subn(r"\b(?:source\.)?options\.(?=\w)", "", error.todo)
        todo = todo.replace("relative to the pipeline file", "relative to the current folder")
        if todo == error.todo:
            raise
        here = type(error)(
            error.failed, error.found, f"{todo}; options are given by --source-options" if named else todo
        )
        here.category = error.category
        raise here from error


def _once(given: tuple[str, ...]) -> str | None:
    """Click keeps the last of several values: the rows of the others would not be checked."""
    if len(given) > 1:
        raise click.UsageError(f"the rows are given {len(given)} times; use one glob for several files")
    return given[0] if given else None


def _exactly_one(*options: tuple[str, object]) -> None:
    if sum(value is not None for _, value in options) != 1:
        raise click.UsageError(f"use exactly one of {', '.join(name for name, _ in options)}")


@contextlib.contextmanager
def _source(
    rows_json: str | None, rows: str | None, connection: str | None, table: str | None, type_: str | None,
    connections: Path | None, options: str | None,
) -> Iterator[SourceSpec]:  # fmt: skip
    from dpone.config.command_line import file_source, table_source
    from dpone.ops.contract_check import spooled

    if rows_json is not None:
        with spooled(io.BytesIO(rows_json.encode(errors="surrogateescape")), "--rows-json", options, "json") as spec:
            yield spec
    elif rows == "-":
        with spooled(sys.stdin.buffer, "stdin", options) as spec:
            yield spec
    elif rows is not None:
        yield file_source(rows, options, Path.cwd())
    else:
        yield table_source(connection or "", table or "", type_, options, connections, Path.cwd())


COMMANDS = (contract_check,)
