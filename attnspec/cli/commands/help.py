"""``attnspec help``."""

from __future__ import annotations

import click

from attnspec.errors.catalogue import nearest


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from attnspec.reference.topics import names

    return [name for name in names() if name.startswith(incomplete) and " " not in name]


@click.command()
@click.argument("words", metavar="[TOPIC]", nargs=-1, shell_complete=_complete)
def command(words: tuple[str, ...]) -> None:
    """Explain the language: a TOPIC, a word or sign of it, a pattern, a shipped spec, or `all`."""
    from attnspec.reference.topics import SAID, names, whole
    from attnspec.reference.topics import topic as about

    topic = " ".join(words)
    if not topic:
        width = max(map(len, SAID))
        click.echo("attnspec help TOPIC, where TOPIC is\n")
        click.echo("\n".join(f"  {name:<{width}}  {said}" for name, said in SAID.items()))
        click.echo(
            "\nor any word or sign of the language (attend, sorted, '..'), a pattern of the prelude (window),\n"
            "a shipped spec (longformer), a code (E024), or all."
        )
        return
    if topic == "all":
        click.echo(whole(), nl=False)
        return
    try:
        click.echo(about(topic))
    except KeyError:
        close = nearest(topic, names())
        hint = f"did you mean {close!r}?" if close else f"the topics are {', '.join(SAID)}"
        raise click.UsageError(f"there is no help on {topic!r}; {hint}") from None
