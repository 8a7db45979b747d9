"""Is a mask plain causal? Then the attention of any decoder serves, whatever the axes are called.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> print(why_not_causal(lower(check_text('''attention a(slots = 2) {
...     axis token[n]
...     axis written[slots]
...     token -> token: causal
...     written -> token: true
...     written -> written: true
... }'''))))
position 0 of `written` sees position 1 of `written`, which comes after it
"""

from __future__ import annotations

from collections.abc import Mapping

from attnspec.analysis.compare import Witness, compare
from attnspec.check.check import check_text
from attnspec.relation.lower import lower
from attnspec.relation.presburger import TooHard
from attnspec.relation.relation import NoAnswer, Relation
from attnspec.spec.axes import slices, solve
from attnspec.spec.real import Score
from attnspec.spec.spec import Spec

CAUSAL = "attention causal { attend k <= q }"


def why_not_causal(relation: Relation) -> str:
    """Why the mask is not plain causal in every call; empty where it is proven to be.

    Plain causal: query row i sees the keys up to ``i + n - n_q``, as in a decoder with a cache of keys. Where each call
    is a segment, so is every segment with less carried to it: what is not there yet is left out of rows and columns.
    """
    if lines := _beyond_the_mask(relation.spec):
        return f"{lines} is no part of plain attention"
    try:
        found = compare(relation, lower(check_text(CAUSAL)))
    except NoAnswer:
        return "inputs decide what is seen"
    except TooHard:
        return "too irregular for the solver"
    if found.first_only is not None:
        row, key = _named(relation.spec, found.first_only)
        return f"{row} sees {key}, which comes after it"
    if found.second_only is not None:
        row, key = _named(relation.spec, found.second_only)
        return f"{row} does not see {key}, which does not come after it"
    return ""


def _beyond_the_mask(spec: Spec) -> str:
    """The first kind of line that changes more than which pairs there are."""
    lines: Mapping[str, bool] = {
        "a mixture": bool(spec.mixture),
        "weights beyond softmax": not spec.softmax_only,
        "`score`": spec.score != Score(),
        "`sink`": spec.sink is not None,
        "`rotate`": bool(spec.rotations),
        "`normalize`": bool(spec.normalized),
        "`scale`": spec.scale is not None,
    }
    return next((name for name, there in lines.items() if there), "")


def _named(spec: Spec, at: Witness) -> tuple[str, str]:
    """The row and the key of a witness in words."""
    if not spec.axes:
        return f"query row {at.row}", f"key {at.k}"
    places = slices(spec.axes, solve(spec.axes, at.n, at.n_q))

    def said(place: int, side: int) -> str:
        for name, both in places.items():
            part = both[side]
            if part is not None and part.start <= place < part.stop:
                return f"position {place - part.start} of `{name}`"
        raise AssertionError(place)

    return said(at.row, 0), said(at.k, 1)
