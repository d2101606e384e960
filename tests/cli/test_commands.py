"""The commands that need no connector, and what all of them share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from tests.cli.schemas import require_valid

from dpone.cli.main import assemble
from dpone.cli.output import table

Dpone = Callable[..., Any]

TELEMETRY = ("prometheus_client", "opentelemetry")
HEAVY = (
    "pyarrow",
    "numpy",
    "rich",
    "yaml",
    "sqlite3",
    "asyncio",
    "ssl",
    "concurrent.futures",
    "dpone.engine",
    "dpone.contract",
    "dpone.model.pipeline",
    "dpone.model.report",
    *TELEMETRY,
)


@pytest.mark.parametrize("args", [["--help"], ["plugins"], ["run", "--help"], ["completion", "zsh"]], ids=" ".join)
def test_light_commands_import_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    """Help and the list of plugins load no driver, no pyarrow and no engine."""
    code = (
        "import sys\nfrom dpone.cli.main import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_run_imports_no_telemetry(project: Path) -> None:
    """Prometheus' client is loaded by the export of metrics alone, OpenTelemetry by its own plugin, if at all."""
    code = (
        "import sys\nfrom dpone.cli.main import main\n"
        f"try:\n    main({['run', str(project)]!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {TELEMETRY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_every_command_explains_itself() -> None:
    """Every command has a help text, and every option of it too."""

    def walk(command: click.Command, path: str) -> None:
        assert command.help, path
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{path} {parameter.name}"
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{path} {name}")

    walk(assemble(), "dpone")


def test_every_command_but_those_that_print_a_file_has_both_formats() -> None:
    """--format text|json works with every command; two print a file of a format of its own."""

    def leaves(group: click.Group) -> list[click.Command]:
        return [
            leaf
            for command in group.commands.values()
            for leaf in (leaves(command) if isinstance(command, click.Group) else [command])
        ]

    without = {c.name for c in leaves(assemble()) if "format_" not in {p.name for p in c.params}}
    assert without == {"completion", "pipeline-schema"}


@pytest.mark.parametrize(
    "args",
    [
        ["nosuch"],
        ["run"],
        ["run", "missing.yaml", "--workers", "none"],
        ["run", "missing.yaml", "--nosuch"],
        ["run", "missing.yaml"],
        ["plan", "missing.yaml"],
        ["check", "missing.yaml"],
        ["doctor", "missing.yaml"],
        ["state", "show", "missing.yaml"],
        ["state", "history", "missing.yaml"],
        ["state", "set", "missing.yaml", "--stream", "s", "--beginning", "--yes"],
        ["state", "set", "missing.yaml", "--stream", "s"],
        ["types", "--sink", "nosuch"],
        ["check", "."],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_2(args: list[str], dpone: Dpone) -> None:
    """A wrong command line or file gives one line and exit 2, and under --format json an object on stdout too."""
    text = dpone(*args)
    assert text.exit_code == 2
    assert text.error
    assert text.out == ""
    as_json = dpone(*args, "--format", "json")
    assert as_json.exit_code == 2
    require_valid("error.json", as_json.json)
    assert as_json.json["error"]["exit_code"] == 2
    assert as_json.err.splitlines() == [f"error: {m}" for m in as_json.json["error"]["messages"]]


def test_group_without_command_gives_its_help(process: Dpone) -> None:
    """``dpone`` alone is answered with the help, not with an error line."""
    done = process()
    assert "Usage:" in done.out + done.err
    assert "error:" not in done.out + done.err


@pytest.mark.parametrize(("shell", "sign"), [("bash", "complete "), ("zsh", "#compdef dpone"), ("fish", "complete ")])
def test_completion_prints_a_script(shell: str, sign: str, dpone: Dpone) -> None:
    """``completion`` prints the script by which the shell asks dpone."""
    done = dpone("completion", shell)
    assert done.exit_code == 0
    assert sign in done.out
    assert f"_DPONE_COMPLETE={shell}_complete" in done.out


def test_shell_asks_for_completions(process: Dpone) -> None:
    """What the script calls answers with the commands."""
    done = process(_DPONE_COMPLETE="bash_complete", COMP_WORDS="dpone st", COMP_CWORD="1")
    assert done.out.splitlines() == ["plain,state"]


def test_unexpected_failure_is_one_line(dpone: Dpone, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is one line too, exit 1, and names the way to the traceback."""

    def broken() -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("dpone.plugins.discover", broken)
    done = dpone("plugins", "--format", "json")
    assert done.exit_code == 1
    assert done.error == "error: RuntimeError: first second; set DPONE_DEBUG=1 for the traceback"
    assert done.json["error"]["kind"] == "RuntimeError"
    monkeypatch.setenv("DPONE_DEBUG", "1")
    assert "Traceback" in dpone("plugins").err


def test_broken_pipe_is_silent(tmp_path: Path) -> None:
    """A reader that goes away early gets no traceback."""
    command = f"{sys.executable} -m dpone plugins --format json | true"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S602
    assert done.stderr == ""


def test_plugins_reports_the_healthy_and_the_broken(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """A plugin that cannot be imported is named with its cause, and the exit code says that one is broken."""
    install("zz_broken", "raise RuntimeError('no driver')\n")
    done = dpone("plugins", "--format", "json")
    rows = {row["name"]: row for row in done.json}
    assert done.exit_code == 1
    assert (rows["zz_broken"]["state"], rows["zz_broken"]["cause"]) == ("broken", "RuntimeError: no driver")
    assert rows["file"]["state"] == "ok"


COMMANDS_PLUGIN = """
import click
import dpone

@dpone.hookimpl
def dpone_commands(cli):
    @cli.command()
    def greet():
        "Say hello."
        click.echo("hello")

    @cli.command()
    def run():
        click.echo("not the real one")

    @cli.group()
    def ops():
        "Not shown: the group is dpone's own."

    @ops.command()
    def vacuum():
        "Reclaim space."
        click.echo("vacuumed")

    @cli.group()
    def state():
        pass

    @state.command()
    def show():
        click.echo("not the real one")
"""


def test_plugin_adds_commands_and_replaces_none(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """A plugin's command is there, also in a group of dpone; one that would hide a command of dpone is left out with a
    warning."""
    install("zz_greeter", COMMANDS_PLUGIN)
    done = dpone("greet")
    assert (done.exit_code, done.out) == (0, "hello\n")
    assert done.err.splitlines() == [
        "warning: plugin zz_greeter: command run already exists; skipped",
        "warning: plugin zz_greeter: command state show already exists; skipped",
    ]
    assert dpone("ops", "vacuum").out == "vacuumed\n"
    assert "Reclaim space." in dpone("ops", "--help").out
    assert "Not shown" not in dpone("ops", "--help").out
    assert "not the real one" not in dpone("run", "--help").out + dpone("state", "show", "--help").out


def test_plugin_that_fails_to_add_commands_is_survived(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """A plugin that raises while it adds commands loses them; every other command works."""
    install("zz_raiser", "import dpone\n@dpone.hookimpl\ndef dpone_commands(cli):\n    raise ValueError('oops')\n")
    done = dpone("routes")
    assert done.exit_code == 0
    assert done.err == "warning: commands of plugin zz_raiser: ValueError: oops\n"


def test_table_aligns_columns() -> None:
    """Cells of a column start at one place; nothing trails."""
    assert table([["a", "long head"], ["bbb", "x"]]) == "a    long head\nbbb  x"


def test_the_program_sets_its_process_and_leaves_what_the_user_has_set(tmp_path: Path) -> None:
    """One thread for linear algebra, Arrow's memory from the system, unless the environment says otherwise."""
    code = (
        "import os, sys\nfrom dpone.__main__ import main\nsys.argv = ['dpone', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['ARROW_DEFAULT_MEMORY_POOL'])\n"
    )
    given = {**os.environ, "OPENBLAS_NUM_THREADS": "3"}
    given.pop("ARROW_DEFAULT_MEMORY_POOL", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=given, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "3 system"
