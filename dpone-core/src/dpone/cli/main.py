"""The command line: parse, call, print. No logic, and nothing heavy imported before a command needs it."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Iterator, Sequence

import click

from dpone import __version__
from dpone.cli.output import fail
from dpone.errors import DponeError, Interrupted


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dpone")
def cli() -> None:
    """Move tables, topics and change streams, and prove afterwards what was moved.

    Exit codes: 0 done, 1 failed, 2 usage or configuration error, 3 stopped for a decision, 4 done with skipped
    partitions, 130 interrupted.
    """


@functools.cache
def assemble() -> click.Group:
    from dpone.cli import (
        cdc,
        certify,
        check,
        completion,
        init,
        matrix,
        observability,
        ops,
        partitions,
        plugins,
        run,
        runs,
        schema_plan,
        state,
    )

    for module in (
        cdc,
        certify,
        check,
        completion,
        init,
        matrix,
        observability,
        ops,
        partitions,
        plugins,
        run,
        runs,
        schema_plan,
        state,
    ):
        for command in module.COMMANDS:
            cli.add_command(command)
    _add_commands_of_plugins()
    return cli


def _add_commands_of_plugins() -> None:
    """A plugin that fails here, or uses a name that is taken, loses only its commands."""
    from dpone.plugins import discover

    for hook in discover().manager.hook.dpone_commands.get_hookimpls():
        theirs = click.Group()
        try:
            hook.function(*([theirs] if hook.argnames else []))
        except Exception as error:  # a plugin may raise anything
            click.echo(f"warning: commands of plugin {hook.plugin_name}: {_one_line(error)}", err=True)
        for name in _added(cli, theirs):
            click.echo(f"warning: plugin {hook.plugin_name}: command {name} already exists; skipped", err=True)


def _added(ours: click.Group, theirs: click.Group, above: str = "") -> Iterator[str]:
    """Add the commands of a plugin's group, also to our groups of the same name. Yields the names that were taken."""
    for name, command in theirs.commands.items():
        there = ours.commands.get(name)
        if there is None:
            ours.add_command(command, name)
        elif isinstance(there, click.Group) and isinstance(command, click.Group):
            yield from _added(there, command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def main(args: Sequence[str] | None = None) -> None:
    """The ``dpone`` program. Prints each failure as one line on stderr, and with ``--format json`` as an object on
    stdout; ``DPONE_DEBUG=1`` shows tracebacks. Ends the process with the exit code."""
    args = sys.argv[1:] if args is None else list(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files and columns may hold anything
    try:
        sys.exit(assemble().main(args, prog_name="dpone", standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        _usage(error, args)
    except (KeyboardInterrupt, click.Abort, Interrupted) as error:
        fail(type(error).__name__, ["interrupted"], 130, args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # a connector may raise anything; the operator gets one line
        _debug()
        if isinstance(error, DponeError):
            fail(type(error).__name__, str(error).splitlines(), error.exit_code, args)
        fail(type(error).__name__, [f"{_one_line(error)}; set DPONE_DEBUG=1 for the traceback"], 1, args)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _usage(error: click.ClickException, args: Sequence[str]) -> None:
    message = error.format_message()
    if "\n" in message:  # a group without a command: click gives its help
        error.show()
        sys.exit(2)
    context = getattr(error, "ctx", None)
    program = context.command_path if context else "dpone"
    line = f"{message[:1].lower()}{message[1:].rstrip('.')}; see '{program} --help'"
    fail(type(error).__name__, [line], 2, args)


def _debug() -> None:
    if os.environ.get("DPONE_DEBUG"):
        import traceback

        from dpone.model.secret import redact

        click.echo(redact(traceback.format_exc()), err=True)
