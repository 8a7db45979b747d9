"""A pattern as a notebook shows it: its text, and beside it the picture of its first head."""

from __future__ import annotations

from html import escape

from attnspec.analysis.extent import telling_length
from attnspec.analysis.figure import LEGEND, MOST, Figure
from attnspec.analysis.picture import cells
from attnspec.analysis.shares import shares
from attnspec.errors.diagnostic import AttnspecError
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import listed_heads, lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.sizes import Sizes, resized
from attnspec.spec.spec import Spec


def page(spec: Spec) -> str:
    """The text of a pattern as HTML, with a picture where the solver knows its pairs without inputs."""
    text = f"<pre>{escape(str(spec))}</pre>"
    heads = listed_heads(spec) or 8
    try:
        sizes = Sizes(1, 1, heads, heads, 1, spec.align == "end")
        sizes = resized(spec, sizes, telling_length(spec))
        relation = lower(spec, heads, heads, 1)
        picture, shown = cells(relation, sizes, most=MOST), shares(relation, sizes, 0, 0, MOST)
    except (AttnspecError, TooHard, TooIrregular, ValueError):  # inputs or an order decide, or it is too irregular
        return text
    title = f"{spec.name}, n = {sizes.n:,}, head 0"
    svg = Figure(picture, title, sizes.first, sizes.n_q, sizes.n, LEGEND, shown).svg()
    small = svg.replace("<svg ", '<svg style="max-width: 30em; height: auto" ', 1)
    return f'<div style="display: flex; flex-wrap: wrap; gap: 2em">{text}<div>{small}</div></div>'
