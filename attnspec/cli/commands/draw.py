"""``attnspec draw``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.options import call_sizes, checked, input_option, read_inputs, size_options, spec_argument

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnspec.relation.sizes import Sizes
    from attnspec.runtime.prepare.given import Given
    from attnspec.spec.spec import Spec


@click.command()
@spec_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A .svg or .png file."
)
@click.option("--head", type=click.IntRange(0), default=0, show_default=True, help="Which query head.")
@click.option("--tiles", is_flag=True, help="What a kernel does: tiles that are full, partial or skipped.")
@input_option
@size_options(length=None)
def command(
    spec: str, params: tuple[str, ...], output: Path, head: int, tiles: bool, given: tuple[str, ...], **options: Any
) -> None:
    """Draw the mask of one head: which cells are full, partial or empty; with --tiles which tiles are visited.

    The length is chosen by the numbers of the pattern, so that its windows and blocks can be seen.
    """
    from attnspec.analysis.extent import telling_length
    from attnspec.analysis.figure import LEGEND, TILES, Figure
    from attnspec.codegen.cost.counted import TooMany

    if output.suffix.lower() not in (".svg", ".png"):
        raise click.UsageError(f"the output must end in .svg or .png, not {output.name!r}")
    pattern = checked(spec, params)
    values, chosen = read_inputs(given), options["length"] is None
    options["length"] = options["length"] or telling_length(pattern)
    while True:
        sizes = call_sizes(pattern, options)
        if head >= sizes.heads:
            raise click.UsageError(f"there is no head {head}: the call has {sizes.heads}")
        try:
            shown, cells, shares = _cells(pattern, sizes, head, values, tiles)
            break
        except TooMany as error:
            if not chosen or options["length"] < 64:
                raise click.UsageError(f"{error}: use a smaller -n") from None
            options["length"] //= 2
    queries = "" if sizes.n_q == sizes.n else f", n_q = {sizes.n_q:,}"
    title = f"{pattern.name}, n = {sizes.n:,}{queries}, head {head}" + (", as a kernel visits it" if tiles else "")
    figure = Figure(cells, title, sizes.first, sizes.n_q, sizes.n, TILES if tiles else LEGEND, shares)
    if output.suffix.lower() == ".svg":
        output.write_text(figure.svg(), encoding="utf-8")
    else:
        figure.image().save(output)
    assumed = f", with {'' if given else 'example '}inputs: {shown.text}" if shown and shown.text else ""
    click.echo(f"{output}: {title}, {cells.shape[0]} x {cells.shape[1]} cells{assumed}")


def _cells(
    pattern: Spec, sizes: Sizes, head: int, values: dict[str, Any], tiles: bool
) -> tuple[Given | None, NDArray[np.uint8], NDArray[np.float32] | None]:
    """The inputs that the picture is made with, its cells, and the shares of their pairs where these are known."""
    from attnspec.analysis.figure import MOST
    from attnspec.analysis.picture import cells
    from attnspec.analysis.shares import shares
    from attnspec.relation.count import TooIrregular
    from attnspec.relation.lower import lower
    from attnspec.relation.presburger import TooHard
    from attnspec.report.examples import draw, drawn_tiles
    from attnspec.runtime.prepare.given import examples, whole

    relation = lower(pattern, sizes.heads, sizes.kv_heads, sizes.batch)
    if not tiles and relation.exact and not relation.reads_scalars and not values:
        try:
            return None, cells(relation, sizes, head, most=MOST), shares(relation, sizes, head, 0, MOST)
        except (TooHard, TooIrregular):
            pass  # beyond the solver: pair by pair, as where inputs decide
    shown = whole(pattern, sizes, values) if values else examples(pattern, sizes)
    found = drawn_tiles(relation, shown, head, MOST) if tiles else draw(pattern, shown, head, MOST)
    return shown, found, None
