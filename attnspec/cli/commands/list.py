"""``attnspec list``."""

from __future__ import annotations

import json
import os
import shutil
import sys

import click

from attnspec.cli.options import complete_spec, json_option


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_spec)
@click.option("--filter", "word", default="", metavar="WORD", help="Those with a word in name, group or description.")
@json_option
def command(names: tuple[str, ...], word: str, as_json: bool) -> None:
    """List the shipped specs, a line each; of NAME all: description, parameters, inputs and text."""
    from attnspec.reference import specs

    if names and word:
        raise click.UsageError("--filter chooses from the list; with names there is nothing to choose")
    if names:
        specs.shipped_only(names)
    found = list(names) or [name for group in specs.chosen(word).values() for name in group]
    if not found:
        groups = ", ".join(specs.GROUPS)
        raise click.UsageError(f"no shipped spec has {word!r} in its name, group or description; groups are {groups}")
    if as_json:
        click.echo(json.dumps([specs.to_dict(name) for name in found], indent=2))
        return
    if names:
        click.echo("\n\n".join(map(specs.in_full, names)))
        return
    fixed = sys.stdout.isatty() or "COLUMNS" in os.environ  # in a pipe, for grep, lines are not cut
    click.echo(specs.lines(word, shutil.get_terminal_size().columns if fixed else None))
    click.echo("\nattnspec list NAME shows one in full, --filter WORD a few")
