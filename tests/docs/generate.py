"""The pages that are made from the code. ``python -m tests.docs.generate`` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from dpone.certify import certification
from dpone.certify.matrix import TypeRow, route_matrix, type_matrix
from dpone.cli.main import assemble

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Connectors of this repository; whatever else is installed here is not on the pages.
OURS = (
    "file", "file_changelog", "sqlite", "kafka", "mssql", "mssql_cdc", "mssql_change_tracking", "objectstore",
    "postgres", "postgres_logical", "s3", "gcs", "azure",
)  # fmt: skip
MATRIX = """# Source to sink matrix

This page is made from the plugins; a test keeps it so. Each cell of the first table leads to a guide for that flow: a
pipeline to copy, what is exact, what to watch, and its runbook.

## Flows

{flows}

The strategies: [load strategies](../guide/load-strategies.md). `dpone routes` prints the same for the connectors that
you have installed.

## What is certified

From here on the page is what `dpone certify --format markdown` prints in a checkout of this repository, where there is
no evidence. The evidence of the version that you install says what is certified: see [certification](certification.md).
How each sink stores each type: [type mapping matrix](type-mapping-matrix.md).

{certified}
"""
TYPES = """# Type mapping matrix

This page is made from the plugins; a test keeps it so. `dpone types` prints the same for the connectors that you have
installed.

A source gives every column an Arrow type. A sink keeps that type as one of its own:

| word | meaning |
|---|---|
| exact | every value of the type comes back as it was |
| checked | a value that the target cannot hold stops the run; all others come back as they were |
| lossy | the sink has no exact form for the type: the run stops, and the message says what to declare instead |
| refused | the sink has no such column; the run stops before it stages a row |

An arrow (→) shows the type that a later read of the target finds, where it is another one.

Which Arrow type a source gives: [PostgreSQL](../connectors/postgres.md#source), [SQLite](../connectors/sqlite.md),
[files](../connectors/files.md). The names of types in a pipeline file:
[names of types](../guide/pipeline.md#names-of-types).
What counts as a wider type: [schema evolution](../guide/schema-evolution.md#what-is-wider-than-what).

{tables}
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Commands of installed third parties are theirs to document; ours come from the package itself."""
    for name, command in sorted(group.commands.items()):
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def cli_page() -> str:
    cli = assemble()
    parts = ["# Command line\n\nThis page is made from the commands themselves; a test keeps it so.\n"]
    for path, command in [("dpone", cli), *commands(cli, "dpone")]:
        # The names of the help option come from the group; without them the page depends on what ran before.
        names = cli.context_settings["help_option_names"]
        context = click.Context(
            command, info_name=path, max_content_width=100, terminal_width=100, help_option_names=names
        )
        parts.append(f"## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def flows() -> dict[tuple[str, str], list[str]]:
    """The strategies that each pair of our source and sink supports; a pair without any is left out."""
    found: dict[tuple[str, str], list[str]] = {}
    for route in route_matrix():
        if route.source in OURS and route.sink in OURS and route.support == "supported":
            found.setdefault((route.source, route.sink), []).append(route.strategy)
    return found


def flow_table() -> str:
    pairs = flows()
    sources, sinks = (list(dict.fromkeys(pair[i] for pair in pairs)) for i in (0, 1))

    def cell(source: str, sink: str) -> str:
        modes = ", ".join(f"`{mode}`" for mode in pairs[source, sink])
        return f"[{source} to {sink}](../connectors/flows/{source}-to-{sink}.md): {modes}"

    return table(["source", *sinks], [[source, *(cell(source, sink) for sink in sinks)] for source in sources])


def matrix_page() -> str:
    known = {cell.connector for cell in certification.certify().cells}
    certified = certification.to_markdown(certification.certify(only=[name for name in OURS if name in known]))
    return MATRIX.format(flows=flow_table(), certified=certified)


def types_page() -> str:
    rows = [row for row in type_matrix() if row.sink.partition(" ")[0] in OURS]
    sinks = dict.fromkeys(row.sink for row in rows)
    parts = []
    for sink in sinks:
        lines = [stored(row) for row in rows if row.sink == sink]
        parts.append(f"## {sink}\n\n{table(['Arrow type', 'is stored as', 'fidelity', 'note'], lines)}")
    return TYPES.format(tables="\n\n".join(parts))


def stored(row: TypeRow) -> list[str]:
    back = "" if row.comes_back_as == row.type else f" → `{row.comes_back_as}`"
    return [f"`{row.type}`", f"`{row.native}`{back}" if row.native else "", row.fidelity, row.note]


PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "reference" / "cli.md": cli_page,
    DOCS / "reference" / "source-to-sink-matrix.md": matrix_page,
    DOCS / "reference" / "type-mapping-matrix.md": types_page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
