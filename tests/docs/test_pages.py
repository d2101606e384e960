"""What the pages say is held against the code. ``python tests/docs/test_pages.py`` writes docs/cli.md anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dpone import hookspecs
from dpone.cli import assemble
from dpone.pipeline import Pipeline
from dpone.strategy import MODES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*/README.md"), ROOT / "README.md"])


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Commands of installed third parties are theirs to document; ours come from the package itself."""
    for name, command in sorted(group.commands.items()):
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def cli_page() -> str:
    cli = assemble()
    parts = ["# Command line\n\nThis page is made from the commands themselves; a test keeps it so.\n"]
    for path, command in [("dpone", cli), *_commands(cli, "dpone")]:
        # The names of the help option come from the group; without them the page depends on what ran before.
        names = cli.context_settings["help_option_names"]
        context = click.Context(
            command, info_name=path, max_content_width=100, terminal_width=100, help_option_names=names
        )
        parts.append(f"## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


PIPELINES = [(page, text) for page in PAGES for text in _fences(page, "yaml") if text.startswith("pipeline:")]


def test_the_command_line_page_is_what_the_commands_say() -> None:
    """docs/cli.md is the help of every command, word for word."""
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == cli_page()


@pytest.mark.parametrize(("page", "text"), PIPELINES, ids=[f"{p.name}-{i}" for i, (p, _) in enumerate(PIPELINES)])
def test_every_pipeline_on_a_page_is_valid(
    page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline file shown to a reader passes the checks that a reader's own file has to pass."""
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, "sqlite:///example.db")
    file = tmp_path / "pipeline.yaml"
    file.write_text(text, encoding="utf-8")
    assert Pipeline.from_yaml(file).streams


def test_there_are_pipelines_to_check() -> None:
    """The pages do show pipelines, so that the check above checks something."""
    assert len(PIPELINES) >= 4


def test_every_hook_is_documented() -> None:
    """docs/plugins.md names every hook there is."""
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    assert [name for name in vars(hookspecs) if name.startswith("dpone_") and f"`{name}`" not in text] == []


def test_every_strategy_is_documented() -> None:
    """docs/strategies.md names every strategy of the contract."""
    text = (DOCS / "strategies.md").read_text(encoding="utf-8")
    assert [name for name in MODES if f"`{name}`" not in text] == []


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
