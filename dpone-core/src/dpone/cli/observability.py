"""``dpone observability``: metrics of finished runs as files."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dpone.cli.output import emit, emit_findings, format_option, interruptible


@click.group()
def observability() -> None:
    """Export the metrics of finished runs, and verify the files."""


def _labels(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise click.BadParameter(f"{one!r} has no value; write name=value, as in env=prod")
        if name in labels:
            raise click.BadParameter(f"{name} is given twice; give it once")
        labels[name] = value
    return labels


@observability.command("metrics-export")
@click.option(
    "--run-report", "files", multiple=True, required=True, metavar="FILE",
    help="Output of 'dpone run --report' or '--format json'; - for stdin; repeatable.",
)  # fmt: skip
@click.option("--output-dir", "folder", required=True, type=click.Path(), metavar="DIR", help="Created if missing.")
@click.option("--label", "labels", multiple=True, callback=_labels, metavar="NAME=VALUE", help="Label of every series.")
@click.option("--run-id", "by_run", is_flag=True, help="Also label every series with its run id.")
@format_option
def metrics_export(files: tuple[str, ...], folder: str, labels: dict[str, str], by_run: bool, format_: str) -> None:
    """Write run reports as Prometheus text, OTLP-JSON, a summary and a Markdown report.

    Needs no collector. Several reports make one export: counters sum them up, gauges are of the last run.
    metrics_index.json has the size and the SHA-256 of each file, and is written last.
    """
    import os

    with interruptible():
        from attrs import asdict

        from dpone.observe.export import export

        done = export(files, folder, labels, os.environ, by_run)
    emit(format_, asdict(done), done.to_text)


@observability.command("metrics-verify")
@click.argument("folder", type=click.Path(), metavar="DIR")
@format_option
def metrics_verify(folder: str, format_: str) -> int:
    """Check that the files of an export are as they were written.

    Exit code 1 if one is missing, was changed or was added.
    """
    with interruptible():
        from dpone.observe.export import verify

        findings = verify(folder)
    return emit_findings(format_, findings, folder=folder)


COMMANDS = (observability,)
