"""``dpone completion``."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell completion script.

    \b
    bash   dpone completion bash > ~/.local/share/bash-completion/completions/dpone
    zsh    dpone completion zsh > "${fpath[1]}/_dpone"
    fish   dpone completion fish > ~/.config/fish/completions/dpone.fish
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None, "click knows every shell of the choice above"
    click.echo(script(context.find_root().command, {}, "dpone", "_DPONE_COMPLETE").source())


COMMANDS = (completion,)
