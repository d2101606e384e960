"""``dpone certify``: what plugins declare, joined with evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpone.cli.output import emit, table

if TYPE_CHECKING:
    from dpone.certify.certification import Certification, GateCell


@click.command()
@click.option("--evidence", type=click.Path(path_type=Path), metavar="DIR", help="Folder with evidence files.")
@click.option(
    "--require",
    "required",
    type=click.Choice(["tested", "certified", "production-certified"]),
    help="Exit with 1 if a connector is below this level.",
)
@click.option("--connector", "only", multiple=True, metavar="NAME", help="Only this connector; repeatable.")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json", "markdown", "html"]), default="text", show_default=True,
    help="Output format.",
)  # fmt: skip
def certify(evidence: Path | None, required: str | None, only: tuple[str, ...], format_: str) -> None:
    """Show which capabilities and routes of connectors are certified.

    Certified, simulated, insufficient (a gate did not measure enough), failed, stale (the installed files differ from
    the tested ones), declared (no evidence), unsupported or not implemented. Evidence files are written by
    'pytest --dpone-evidence DIR', 'dpone ops certification-run --evidence DIR' and the gates; without them nothing is
    certified.
    """
    from dpone.certify import certification

    found = certification.certify(evidence, only)
    low = found.below(certification.Level(required)) if required else []
    data = {**certification.to_json(found), "required": required, "below": low}
    emit(format_, data, lambda: _shown(found, format_))
    if low:
        click.echo(f"error: require {required}: not reached by {', '.join(low)}; see the table above", err=True)
        sys.exit(1)


def _shown(found: Certification, format_: str) -> str:
    from dpone.certify.certification import to_markdown
    from dpone.observe.certification_page import certification_page

    shown = {"text": _text, "markdown": to_markdown, "html": certification_page}
    return shown[format_](found)


def _text(found: Certification) -> str:
    """What is claimed; what is unsupported or not implemented is in the other formats."""
    from dpone.certify.certification import (
        claimed,
        left_out_rows,
        said,
        server_rows,
        unusable_rows,
    )
    from dpone.certify.evidence import GATES

    connectors = [[c.connector, str(c.level), *(str(c.gates[gate]) for gate in GATES)] for c in found.connectors]
    cells = [[c.connector, c.role, c.capability, str(c.status), ", ".join(c.servers)] for c in claimed(found.cells)]
    routes = [[r.source, r.sink, r.strategy, str(r.status), ", ".join(r.servers)] for r in claimed(found.routes)]
    seen = [*map(_gate, found.gates)]
    seen += [table(rows) for rows in (server_rows(found), left_out_rows(found)) if len(rows) > 1]
    return "\n\n".join(
        [
            said(found),
            table([["connector", "level", *GATES], *connectors]),
            *([table(rows)] if len(rows := unusable_rows(found)) > 1 else []),
            *seen,
            table([["sink", "delivery (commit)"], *map(list, found.delivery.items())]),
            table([["connector", "role", "capability", "status", "run against"], *cells]),
            table([["source", "sink", "strategy", "status", "run against"], *routes]),
        ]
    )


def _gate(gate: GateCell) -> str:
    lines = [f"{gate.connector} {gate.gate}: {gate.status}"]
    lines += [f"  does not count: {'; '.join(gate.lacking)}"] if gate.lacking else []
    lines += [f"  {measure}" for measure in gate.measures]
    return "\n".join([*lines, f"  on {', '.join(gate.servers)}; {gate.ran_on}; {gate.at[:19]}Z"])


COMMANDS = (certify,)
