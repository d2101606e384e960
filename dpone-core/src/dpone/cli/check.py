"""``dpone check`` and ``dpone doctor``."""

from __future__ import annotations

import click

from dpone.cli.output import emit_findings, format_option, interruptible, pipeline_argument


@click.command()
@pipeline_argument
@click.option("--connect", is_flag=True, help="Also connect to source, sink and state, read-only.")
@format_option
def check(pipeline: str, connect: bool, format_: str) -> int:
    """Validate a pipeline file without connecting.

    With --connect, also check source, sink and state. Exit code 1 if a finding is not ok.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops import check as ops

        checked = load_pipeline(pipeline)
        findings = ops.implementations(checked)
        if connect:
            findings += ops.connections(checked)
    return emit_findings(format_, findings, pipeline=checked.name)


@click.command()
@click.argument("pipeline", type=click.Path(), metavar="[PIPELINE]", required=False)
@format_option
def doctor(pipeline: str | None, format_: str) -> int:
    """Check this machine and report what to fix.

    Checks Python, plugins, drivers, clock, disk and TLS; with a pipeline also its connections. Exit code 1 if a finding
    is not ok.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.ops.doctor import examine

        findings = examine(load_pipeline(pipeline) if pipeline is not None else None)
    return emit_findings(format_, findings)


COMMANDS = (check, doctor)
