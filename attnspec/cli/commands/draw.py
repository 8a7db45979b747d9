"""``attnspec draw``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attnspec.cli.options import call_sizes, checked, input_option, read_inputs, size_options, spec_argument


@click.command()
@spec_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A .svg or .png file."
)
@click.option("--head", type=click.IntRange(0), default=0, show_default=True, help="Which query head.")
@input_option
@size_options(length=256)
def command(
    spec: str, params: tuple[str, ...], output: Path, head: int, given: tuple[str, ...], **options: Any
) -> None:
    """Draw the mask of one head: dark cells are full, light ones partial, white ones empty."""
    from attnspec.analysis.picture import cells, pixels, svg
    from attnspec.codegen.cost.counted import TooMany
    from attnspec.relation.lower import lower
    from attnspec.report.examples import draw

    if output.suffix.lower() not in (".svg", ".png"):
        raise click.UsageError(f"the output must end in .svg or .png, not {output.name!r}")
    pattern = checked(spec, params)
    sizes = call_sizes(pattern, options)
    if head >= sizes.heads:
        raise click.UsageError(f"there is no head {head}: the call has {sizes.heads}")
    values = read_inputs(given)
    relation, note = lower(pattern, sizes.heads, sizes.kv_heads, sizes.batch), ""
    if relation.exact and not relation.reads_scalars and not values:
        picture = cells(relation, sizes, head, most=256)
    else:
        from attnspec.runtime.prepare.given import examples, whole

        try:
            shown = whole(pattern, sizes, values) if values else examples(pattern, sizes)
            picture = draw(pattern, shown, head, most=256)
        except TooMany as error:
            raise click.UsageError(f"{error}: use a smaller -n") from None
        note = f", with {'' if values else 'example '}inputs: {shown.text}"
    if output.suffix.lower() == ".svg":
        output.write_text(svg(picture, f"{pattern.name}, n = {sizes.n}, head {head}"), encoding="utf-8")
    else:
        from PIL import Image

        Image.fromarray(pixels(picture)).save(output)
    click.echo(f"{output}: {picture.shape[0]} x {picture.shape[1]} cells{note}")
