"""``attnspec fmt``."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from pathlib import Path

import click

from attnspec.cli.options import piped


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--check", is_flag=True, help="Change nothing; status 1 if a file is not formatted.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
def command(files: tuple[Path, ...], check: bool, diff: bool) -> None:
    """Format spec FILES in place (- formats standard input to standard output)."""
    from attnspec.language.format import format_source
    from attnspec.language.load import read_text

    changed = False
    for path in files:
        dash = str(path) == "-"
        text = piped() if dash else read_text(str(path))
        wanted = format_source(text, "<stdin>" if dash else str(path))
        changed |= wanted != text
        if diff:
            lines = difflib.unified_diff(text.splitlines(True), wanted.splitlines(True), str(path), str(path))
            click.echo("".join(lines), nl=False)
        elif check:
            if wanted != text:
                click.echo(f"would reformat {path}", err=True)
        elif dash:
            click.echo(wanted, nl=False)
        elif wanted != text:
            _replace(path, wanted)
            click.echo(f"formatted {path}", err=True)
    sys.exit(1 if check and changed else 0)


def _replace(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old text or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(name, path.stat().st_mode & 0o777)
    os.replace(name, path)
