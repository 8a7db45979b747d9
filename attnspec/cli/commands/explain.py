"""``attnspec explain``."""

from __future__ import annotations

import click

from attnspec.errors.catalogue import CODES, nearest


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [code for code in CODES if code.startswith(incomplete.upper())]


@click.command()
@click.argument("code", required=False, shell_complete=_complete)
def command(code: str | None) -> None:
    """Explain a mistake by its CODE: what it means, an example, how to mend it. Without one, list them."""
    if code is None:
        click.echo("\n".join(f"{name}  {about}" for name, about in CODES.items()))
        return
    from attnspec.reference.mistakes import explain

    if code.upper() not in CODES:
        close = nearest(code.upper(), CODES)
        hint = f"did you mean {close}?" if close else "`attnspec explain` lists them"
        raise click.UsageError(f"there is no code {code!r}; {hint}")
    click.echo(explain(code.upper()))
