"""The tiles that a kernel visits, one by one, and the pairs that it counts there: a plan's meaning, for small sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attnspec.codegen.plan.plan import Pass, Plan
from attnspec.codegen.plan.table import table
from attnspec.relation.sizes import Sizes
from attnspec.spec.evaluate import holds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def visits(
    pass_: Pass, sizes: Sizes, h: int, b: int, c: int, transposed: bool = False
) -> Iterator[tuple[int, int, bool]]:
    """The tiles (i, j) of one residue of one head, and whether each is full; ``maybe`` ones count as partial.

    ``transposed`` walks the loops of the backward pass.
    """
    sweep = pass_.backward if transposed else pass_.forward
    outer, name = (pass_.key_tiles(sizes, c), "j") if transposed else (pass_.query_tiles(sizes, c), "i")
    if sweep.full is None or sweep.maybe is None or sweep.partial is None:
        lists = table(pass_, sizes, h, b, transposed)
        found = ((o, t, full) for row, o in enumerate(outer) for t, full in lists.row(row))
    else:
        kinds = ((sweep.full, True), (sweep.maybe, False), (sweep.partial, False))
        env = {**sizes.parameters(h, b), "c": c, "lo": -(1 << 40), "hi": 1 << 40}
        found = ((o, t, full) for o in outer for loops, full in kinds for t in loops.points({**env, name: o}))
    for o, t, full in found:
        yield (t, o, full) if transposed else (o, t, full)


def counts(
    plan: Plan, sizes: Sizes, transposed: bool = False, inputs: Mapping[str, Any] | None = None
) -> NDArray[np.int64]:
    """How often a kernel counts each pair, (batch, heads, n_q, n): full tiles whole, partial ones by predicate."""
    out = np.zeros((sizes.batch, sizes.heads, sizes.n_q, sizes.n), dtype=np.int64)
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            for pass_ in plan.of_head(h).passes:
                _add(pass_, out[b, h], sizes, h, b, transposed, inputs or {})
    return out


def _add(
    pass_: Pass, out: NDArray[np.int64], sizes: Sizes, h: int, b: int, transposed: bool, inputs: Mapping[str, Any]
) -> None:
    env = {**inputs, **sizes.parameters(h, b)}
    for c in range(pass_.layout.residues):
        for i, j, full in visits(pass_, sizes, h, b, c, transposed):
            q = pass_.layout.query_positions(i, sizes, c, pass_.tile.rows)
            k = pass_.layout.key_positions(j, sizes, c, pass_.tile.columns)
            allowed = full or holds(pass_.pred, {**env, "q": q[:, None], "k": k[None, :]})
            out[(q - sizes.first)[:, None], k[None, :]] += pass_.times * allowed
