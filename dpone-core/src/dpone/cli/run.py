"""``dpone run`` and ``dpone plan``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from dpone.cli.output import emit, error_text, format_option, interruptible, pipeline_argument
from dpone.errors import ConfigError, Interrupted, counted

if TYPE_CHECKING:
    from dpone.engine.run import Run
    from dpone.model.report import ContractReport, RunReport, StreamReport


@click.command()
@pipeline_argument
@click.option("--select", multiple=True, metavar="STREAM", help="Only this stream; repeatable.")
@click.option("--full-refresh", is_flag=True, help="Read everything again and start a new epoch.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option("--workers", type=click.IntRange(min=1), help="Parts read in parallel; overrides runtime.workers.")
@click.option("--report", "file", type=click.Path(), metavar="FILE", help="Also write the JSON report here.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of events on stderr.")
@click.option("--quiet", "-q", is_flag=True, help="No events on stderr.")
@format_option
def run(pipeline: str, format_: str, file: str | None, log_format: str, quiet: bool, **options: Any) -> int:
    """Run a pipeline: read, stage, commit, save."""
    job: Run | None = None

    def interrupted() -> None:
        """Report what the run has done so far; it may still be running."""
        if job is not None:
            job.report.finish(interrupted=True)
            tell(job.report)

    def tell(report: RunReport) -> bool:
        written = file is None or _write(report, file)
        _show(report, format_)
        sys.stdout.flush()
        return written

    with interruptible(interrupted):
        from dpone.config.reader import load_pipeline
        from dpone.engine.run import Run
        from dpone.observe.progress import observer

        job = Run(load_pipeline(pipeline), **options)
        if file is not None:
            _begin(job.report, file)
        try:
            with observer(job.plugins, log_format, quiet):
                job.execute()
        except (KeyboardInterrupt, Interrupted):
            interrupted()
            return 130
        except Exception:
            if file is not None:
                _empty(file)
            raise
    written = tell(job.report)
    return job.report.exit_code or (0 if written else 1)


@click.command()
@pipeline_argument
@click.option("--select", multiple=True, metavar="STREAM", help="Only this stream; repeatable.")
@click.option("--full-refresh", is_flag=True, help="Plan a run with --full-refresh.")
@format_option
def plan(pipeline: str, format_: str, **options: Any) -> int:
    """Show what a run would do: positions, parts and schema changes.

    Changes nothing.
    """
    with interruptible():
        from dpone.config.reader import load_pipeline
        from dpone.engine.run import Run

        report = Run(load_pipeline(pipeline), dry_run=True, **options).execute()
    _show(report, format_)
    return report.exit_code


def _begin(report: RunReport, file: str) -> None:
    """Fail before the run if the report file cannot be written. A run that is killed leaves a report that says
    ``running``, never that of the run before."""
    try:
        with open(file, "a", encoding="utf-8"):
            pass
    except OSError as error:
        found = f"{file}: {error_text(error)}"
        raise ConfigError("write the report", found, "give a writable file") from error
    if os.path.isfile(file):  # a pipe takes one report, at the end
        with suppress(OSError):  # the disk may have room again at the end
            _write_to(file, report)


def _empty(file: str) -> None:
    """The run refused to begin, and there is nothing to report."""
    if os.path.isfile(file):
        with suppress(OSError):
            os.truncate(file, 0)


def _write_to(file: str, report: RunReport) -> None:
    import json

    from dpone.model.secret import redacted

    text = json.dumps(redacted(report.to_json()), indent=2)
    with open(file, "wb", buffering=0) as out:  # at once: a signal ends the process between two writes
        out.write(text.encode())


def _write(report: RunReport, file: str) -> bool:
    try:
        _write_to(file, report)
    except OSError as error:  # the run is complete, and its report is on stdout
        click.echo(f"error: write the report {file}: {error_text(error)}; the report on stdout is complete", err=True)
        return False
    return True


def _show(report: RunReport, format_: str) -> None:
    from dpone.model.secret import redact

    for stream in report.streams:
        if stream.error is not None:
            click.echo(redact(f"error: {stream.stream}: {stream.error.message}"), err=True)
    for warning in report.warnings:
        click.echo(redact(f"warning: {warning}"), err=True)
    lines = [*lines_of(report), f"{report.status}: run {report.run_id}", _sum(report)]
    emit(format_, report.to_json(), lambda: "\n".join(lines))


def _sum(report: RunReport) -> str:
    """``29 loaded, 1 failed, 1.2 M rows, 11.7 s``; the rows are those that loaded streams wrote to the target."""
    order = ("loaded", "caught_up", "planned", "failed", "stopped", "interrupted", "pending")
    statuses = [stream.status for stream in report.streams]
    parts = [f"{statuses.count(one)} {_STATUS.get(one, one)}" for one in order if one in statuses]
    rows = sum(stream.rows.written for stream in report.streams if stream.status == "loaded")
    end = report.finished_at or datetime.now(UTC)
    seconds = max(0.0, (end - report.started_at).total_seconds())
    return ", ".join([*parts, _magnitude(rows), f"{seconds:.1f} s"])


_STATUS = {"caught_up": "caught up", "pending": "not started"}


def _magnitude(rows: int) -> str:
    """Exact below a million: ``45,300 rows``, then ``1.2 M rows``."""
    for factor, unit in ((10**12, "T rows"), (10**9, "G rows"), (10**6, "M rows")):
        if rows >= factor:
            return f"{rows / factor:,.1f} {unit}"
    return counted(rows, "row")


def lines_of(report: RunReport) -> Iterator[str]:
    """For each stream what it did."""
    return map(_line, report.streams)


def _line(stream: StreamReport) -> str:
    """One line per stream, then what an operator wants to know next."""
    rows = stream.rows
    counts = ", ".join(
        f"{getattr(rows, name):,} {name}"
        for name in ("inserted", "updated", "deleted", "unchanged", "filtered", "quarantined")
        if getattr(rows, name)
    )
    seconds = sum(stream.durations.values())
    line = f"{stream.stream}: {stream.status.replace('_', ' ')}"
    if stream.status == "loaded":
        line += (
            f", {counted(rows.read, 'row')} read ({counts or 'no change'}) in {seconds:.2f} s, load {stream.load_id}"
        )
    if stream.proof:
        line += f"\n  source: {stream.proof}"
    if stream.status == "loaded" and stream.delivery == "at least once":
        line += "\n  delivery: at least once; after a failure rows may be delivered again, with the same ids"
    for sequence in stream.sequences:
        line += f"\n  sequence: {sequence}"
    for change in stream.schema_changes:
        line += f"\n  schema: {change}"
    for statement in stream.ddl if stream.status == "planned" else ():
        line += f"\n  would run: {statement}"
    for change in stream.rewrites if stream.status == "planned" else ():
        line += f"\n  rewrites the table: {change}"
    if stream.contract is not None:
        line += f"\n  contract: {_checked(stream.contract)}"
    for warning in stream.warnings:
        line += f"\n  warning: {warning}"
    return line


def _checked(contract: ContractReport) -> str:
    broken = [f"{rule} {count:,}" for rule, count in contract.violations.items() if count]
    text = f"{counted(contract.rows_checked, 'row')} checked, {counted(len(contract.violations), 'rule')}"
    text += f", violations: {', '.join(broken)}" if broken else ", no violations"
    return text + (f"; {counted(contract.quarantined, 'row')} in {contract.file}" if contract.file else "")


COMMANDS = (run, plan)
