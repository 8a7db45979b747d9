"""``attnspec list``."""

from __future__ import annotations

import json

import click

from attnspec.cli.console import console
from attnspec.cli.options import json_option, signature_of


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the shipped specs with their parameters."""
    from rich.table import Table

    from attnspec.check.parameters import write
    from attnspec.language.load import shipped

    found = [signature_of(name) for name in shipped()]
    if as_json:
        plain = [{"name": s.name, "doc": s.doc, "parameters": {p.name: p.default for p in s.parameters}} for s in found]
        click.echo(json.dumps(plain, indent=2))
        return
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 3, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("parameters")
    table.add_column("what it is")
    for item in found:
        given = (p.name if p.default is None else f"{p.name}={write(p.default)}" for p in item.parameters)
        table.add_row(item.name, " ".join(given), item.doc.strip().split("\n\n")[0].replace("\n", " "))
    console().print(table)
