"""Are two patterns equal in one call whose inputs are given? Looked at pair by pair, where the contents decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attnspec.analysis.compare import Comparison, Counted, Witness
from attnspec.report.examples import blocks, rows_of
from attnspec.spec.spec import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnspec.relation.sizes import Sizes
    from attnspec.runtime.dense.counts import Rows


def compare_given(
    first: Spec, second: Spec, sizes: Sizes, inputs: Mapping[str, Any]
) -> tuple[Comparison, Counted | None, str]:
    """The first pairs of a call that one allows and not the other, or counts otherwise; and the inputs, in words.

    Each pattern gets the inputs that it declares. Raises CallError where one is missing, unknown to both or does not
    fit, TooMany where there is too much to look at.
    """
    from attnspec.runtime.core.arguments import CallError
    from attnspec.runtime.prepare.given import whole

    declared = [{item.name for item in spec.inputs} | {"buckets"} for spec in (first, second)]
    if unknown := [name for name in inputs if name not in declared[0] | declared[1]]:
        raise CallError(f"neither {first.name} nor {second.name} has an input `{unknown[0]}`")
    own = [{name: value for name, value in inputs.items() if name in names} for names in declared]
    shown = [whole(spec, sizes, values) for spec, values in zip((first, second), own, strict=True)]
    sides = [rows_of(spec, given) for spec, given in zip((first, second), shown, strict=True)]
    only: dict[str, Witness] = {}
    counted: Counted | None = None
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            for block in blocks(sizes, max(spec.order.rounds if spec.order else 1 for spec in (first, second))):
                mine, other = (_counts(side, h, b, block) for side in sides)
                for which, where in (("first", (mine > 0) & (other == 0)), ("second", (other > 0) & (mine == 0))):
                    if which not in only and where.any():
                        only[which] = _witness(where, sizes, h, b, block, which)
                unlike = (mine != other) & (mine > 0) & (other > 0)
                if counted is None and unlike.any():
                    at = _witness(unlike, sizes, h, b, block, "both")
                    place = at.row - block.start, at.k
                    counted = Counted(at, int(mine[place]), int(other[place]))
    words = ", ".join(dict.fromkeys(given.text for given in shown if given.text))
    return Comparison(only.get("first"), only.get("second")), counted, words


def _counts(rows: Rows, h: int, b: int, block: slice) -> NDArray[np.int64]:
    """How often each pair of some rows counts, over all branches."""
    return np.asarray(sum(found.astype(np.int64) for found in rows.counts(h, b, block)))


def _witness(where: NDArray[np.bool_], s: Sizes, h: int, b: int, block: slice, which: str) -> Witness:
    row, k = (int(x) for x in np.argwhere(where)[0])
    return Witness(block.start + row, k, h, b, s.n, s.n_q, s.heads, s.batch, which)
