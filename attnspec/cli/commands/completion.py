"""``attnspec completion``."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script: `eval "$(attnspec completion bash)"` in your shell's start-up file."""
    from click.shell_completion import get_completion_class

    from attnspec.cli import group

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(group, {}, "attnspec", "_ATTNSPEC_COMPLETE").source())
