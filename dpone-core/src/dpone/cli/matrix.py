"""``dpone types`` and ``dpone routes``: what the installed connectors can do."""

from __future__ import annotations

import click

from dpone.cli.output import emit, format_option, table


@click.command()
@click.option("--sink", "only", metavar="NAME", help="Only this sink.")
@format_option
def types(only: str | None, format_: str) -> None:
    """Show how each sink stores each Arrow type.

    exact; checked: a value that does not fit stops the load; lossy: only if an option allows it; refused: the sink has
    no column type for it.
    """
    from attrs import asdict

    from dpone.certify.matrix import type_matrix

    rows = type_matrix(only)
    head = ["sink", "arrow type", "fidelity", "native type", "comes back as", "note"]
    lines = [
        [r.sink, r.type, r.fidelity, r.native, "same" if r.comes_back_as == r.type else r.comes_back_as, r.note]
        for r in rows
    ]
    emit(format_, [asdict(r) for r in rows], lambda: table([head, *lines]))


@click.command()
@format_option
def routes(format_: str) -> None:
    """Show the supported combinations of source, sink and strategy.

    supported; unsupported: the system cannot do it; not implemented: this version of dpone cannot.
    """
    from attrs import asdict

    from dpone.certify.matrix import route_matrix
    from dpone.model.strategy import MODES

    rows = route_matrix()
    pairs = dict.fromkeys((r.source, r.sink) for r in rows)
    cells = {(r.source, r.sink, r.strategy): str(r.support) for r in rows}
    lines = [[source, sink, *(cells[source, sink, mode] for mode in MODES)] for source, sink in pairs]
    emit(format_, [asdict(r) for r in rows], lambda: table([["source", "sink", *MODES], *lines]))


COMMANDS = (types, routes)
