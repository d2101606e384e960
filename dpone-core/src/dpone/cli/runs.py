"""``dpone runs`` and ``dpone report``: what ran, and the report of a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dpone.cli.output import Duration, emit, error_text, format_option, interruptible, table
from dpone.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from dpone.model.report import RunReport
    from dpone.ops.runs import RecordedRun

config_option = click.option(
    "--config", type=click.Path(), default="pipeline.yaml", show_default=True, metavar="FILE", help="Pipeline."
)


@click.group(invoke_without_command=True)
@config_option
@click.option("--pipeline", metavar="NAME", help="Only runs of this pipeline.")
@click.option("--since", type=Duration("24h"), metavar="TIME", help="Only runs that began no longer ago, as 24h or 7d.")
@click.option("--failed", is_flag=True, help="Only runs that have not succeeded.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most this many runs.")
@format_option
@click.pass_context
def runs(
    context: click.Context,
    config: str,
    pipeline: str | None,
    since: timedelta | None,
    failed: bool,
    limit: int,
    format_: str,
) -> None:
    """Show what ran: when, how long, rows in and out, errors.

    From the run log of the state backend that FILE names, newest first. A run whose process was killed is shown as
    crashed.
    """
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            raise click.UsageError(f"give --{given[0].rstrip('_')} without a command, or after it")
        return
    with interruptible():
        from dpone.ops import runs as ops

        found = list(itertools.islice(ops.runs(config, pipeline, since, failed), limit + 1))
    more, found = len(found) > limit, found[:limit]
    data = {"format": 1, "runs": [one.to_json() for one in found], "more": more}
    emit(format_, data, lambda: _list(found, more, limit))


@runs.command()
@click.argument("run", metavar="RUN")
@config_option
@format_option
def show(run: str, config: str, format_: str) -> None:
    """Show one run with its whole report.

    RUN is its id, or the beginning of it.
    """
    with interruptible():
        from dpone.ops import runs as ops

        found = ops.run(config, run)
    report = found.report and found.report.to_json()
    emit(format_, {"format": 1, "run": found.to_json(), "report": report}, lambda: _text(found))


@click.command()
@click.argument("run", metavar="RUN|FILE")
@config_option
@click.option("--output", type=click.Path(), metavar="FILE", help="Write to this file instead of stdout.")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json", "html"]), default="text", show_default=True,
    help="Output format.",
)  # fmt: skip
def report(run: str, config: str, output: str | None, format_: str) -> None:
    """Show the report of a run as text, JSON or a page.

    FILE is what 'dpone run --report' wrote; RUN is an id from 'dpone runs', or the beginning of it. The page is one
    HTML file that needs no network.
    """
    with interruptible():
        from dpone.ops import runs as ops

        if Path(run).is_file():
            given = ops.report_of(run)
            made = _made(given, given.status, "", format_)
        elif Path(run).suffix or Path(run).name != run:
            todo = "give a file that 'dpone run --report' wrote, or an id from 'dpone runs'"
            raise ConfigError(f"read the report {run}", "the file does not exist", todo)
        else:
            found = ops.run(config, run)
            made = _made(found.report or ops.begun(found), found.status, found.note, format_)
    if output is None:
        click.echo(made, nl=not made.endswith("\n"))
    else:
        write(output, made)


def write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError("write the output", f"{file}: {error_text(error)}", "give a writable file") from error


def _made(report: RunReport, status: str, note: str, format_: str) -> str:
    import json

    if format_ == "json":
        return json.dumps({**report.to_json(), "status": status}, indent=2)
    if format_ == "text":
        return _report(report, status, note)
    from dpone.observe.report_page import report_page

    return report_page(report, status, note)


def _list(found: list[RecordedRun], more: bool, limit: int) -> str:
    if not found:
        return "no runs recorded"
    head = ["run", "pipeline", "status", "began", "took", "streams", "rows in", "rows out", "schema changes"]
    lines = table([head, *map(_line, found)]).splitlines()
    shown = [lines[0]]
    for line, one in zip(lines[1:], found, strict=True):
        record = one.record
        errors = [f"{error.stream}: {error.message}" if error.stream else error.message for error in record.errors]
        shown += [line, *(f"  {text}" for text in [*errors, one.note if one.status == "crashed" else ""] if text)]
    return "\n".join([*shown, *([f"there are more than {limit:,}; add --limit or --since"] if more else [])])


def _line(one: RecordedRun) -> list[str]:
    record = one.record
    streams = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in record.streams.items())
    return [
        record.run_id, record.pipeline, one.status, _time(record.started_at),
        "-" if one.seconds is None else f"{one.seconds:.1f} s", streams or "-", f"{record.rows_in:,}",
        f"{record.rows_out:,}", f"{record.schema_changes:,}",
    ]  # fmt: skip


def _text(one: RecordedRun) -> str:
    record = one.record
    rows = [
        ["run", record.run_id],
        ["pipeline", record.pipeline],
        ["status", one.status],
        ["began", _time(record.started_at)],
    ]
    rows += [["ended", _time(record.finished_at)]] if record.finished_at else []
    rows += [["process", f"{record.process.pid} on {record.process.host}"], ["note", one.note]]
    head = table([row for row in rows if row[1]])
    if one.report is None:
        errors = [f"error: {error.message}" for error in record.errors]
        return "\n".join([head, *errors, "no report: it is kept when a run ends"])
    return f"{head}\n{_report(one.report, one.status, '')}"


def _report(report: RunReport, status: str, note: str) -> str:
    from dpone.cli.run import lines_of

    lines: list[str] = []
    for line, stream in zip(lines_of(report), report.streams, strict=True):
        lines += [line, f"  error: {stream.error.message}"] if stream.error else [line]
    return "\n".join([*lines, f"{status}: run {report.run_id}", *([note] if note else [])])


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")


COMMANDS = (runs, report)
