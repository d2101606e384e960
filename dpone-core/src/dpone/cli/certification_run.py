"""``dpone ops certification-run``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from dpone.cli.output import Duration, emit, format_option, interruptible


@click.command("certification-run")
@click.option("--source", required=True, metavar="NAME", help="Connection, or type of the source.")
@click.option("--sink", required=True, metavar="NAME", help="Connection, or type of the sink.")
@click.option("--strategy", required=True, metavar="MODE", help="Load strategy, as merge.")
@click.option(
    "--rows", type=click.IntRange(10, 1_000_000), default=10_000, show_default=True, help="Rows of the first load."
)
@click.option(
    "--soak", type=Duration("30m"), default="0s", show_default=True, metavar="TIME", help="Go on for so long, as 30m."
)
@click.option("--seed", type=int, help="Repeat the choices of an earlier run. [default: random]")
@click.option("--evidence", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write evidence into.")
@click.option(
    "--pipeline", type=click.Path(path_type=Path), metavar="FILE", help="Pipeline file, or file of connections."
)
@format_option
def certification_run(
    source: str,
    sink: str,
    strategy: str,
    rows: int,
    soak: timedelta,
    seed: int | None,
    evidence: Path | None,
    pipeline: Path | None,
    format_: str,
) -> int:
    """Run a route against real systems, kill it, and compare every row.

    Loads, changes the source, loads again, kills runs at random steps and lets the next run recover. In places of its
    own, which are removed afterwards: no table of yours is touched. Exit code 1 if a row differs.
    """
    from dpone.model.secret import redact
    from dpone.ops import certification as to

    def tell(line: str) -> None:
        if format_ == "text":
            click.echo(redact(line))

    with interruptible():
        done = to.certification_run(source, sink, strategy, rows, soak, seed, evidence, pipeline, tell)
    emit(format_, done.to_json(), done.end)
    return 0 if done.ok else 1


COMMANDS = (certification_run,)
