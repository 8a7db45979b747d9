"""``attnspec check``."""

from __future__ import annotations

import json
import sys

import click

from attnspec.cli.options import complete_spec, json_option, piped


@click.command()
@click.argument("files", nargs=-1, required=True, shell_complete=complete_spec)
@json_option
def command(files: tuple[str, ...], as_json: bool) -> None:
    """Check spec FILES (or shipped names; - is standard input): print all their errors, or nothing.

    Status 2 if there are any.
    """
    from attnspec.check.check import attention_of, problems_of
    from attnspec.errors.diagnostic import Diagnostic, SpecError
    from attnspec.errors.source import Source
    from attnspec.language.load import load
    from attnspec.language.parse import parse

    found: list[Diagnostic] = []
    unreadable: list[str] = []
    for file in files:
        try:
            text, filename, name = (piped(), "<stdin>", None) if file == "-" else load(file)
        except FileNotFoundError as error:
            unreadable.append(str(error))
            continue
        source = Source(filename, text)
        problems = problems_of(source)
        if name is not None and not problems:
            try:
                attention_of(parse(source), name)
            except SpecError as error:
                problems = error.diagnostics
        found += problems
    if as_json:
        click.echo(
            json.dumps({"errors": [*({"title": u} for u in unreadable), *(d.to_dict() for d in found)]}, indent=2)
        )
    for message in () if as_json else unreadable:
        click.echo(f"error: {message}", err=True)
    if found and not as_json:
        raise SpecError(found)
    sys.exit(2 if found or unreadable else 0)
