"""What of a call has no part in anything: keys that no row sees and no state keeps, and rows that see no key.

Their vectors may be anything, and zero times what is made of them no number: others take their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import decode
from attnspec.runtime.dense.linear import clean
from attnspec.runtime.dense.softmax import without
from attnspec.runtime.states.core import CoreSums
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Seen:
    """Which rows and keys have a part, each (batch or 1, heads or 1, tokens); None: all, or kernels leave them out."""

    rows: Tensor | None
    keys: Tensor | None

    @classmethod
    def of(
        cls,
        program: str,
        sizes: Sizes,
        inputs: Mapping[str, Tensor],
        resumes: bool,
        before: Tensor | None,
        kept: Tensor | None,
        itself: Tensor | None,
        vectors: Sequence[Tensor] = (),
    ) -> Seen:
        """Of a call. ``before`` says which rows see the state, None where all do, if it ``resumes`` from one.

        ``kept`` says which keys the new state keeps, None where all; ``itself`` whether a token that comes alone sees
        itself, None where it does. ``vectors`` are looked at where kernels are asked: most calls have numbers alone.
        """
        if sizes.n == 1:
            if itself is None:
                return cls(None, None)
            rows = keys = itself
        elif decode(program).target == "dense":
            pairs = CoreSums.of(program, 0).counts(sizes, inputs) > 0
            rows, keys = pairs.any(-1), pairs.any(-2)
        elif vectors and not all(bool(x.sum().isfinite()) for x in vectors):
            rows, keys = _by_kernels(program, sizes, inputs, vectors[0].device)
        else:
            return cls(None, None)
        if resumes and before is not None:
            rows = rows.to(before.device) | before
        return cls(None if resumes and before is None else rows, None if kept is None else keys.to(kept.device) | kept)

    def of_queries(self, spec: Spec, q: Tensor) -> Tensor:
        """Queries with others in place of those of rows that see nothing, of which all maps have features."""
        return q if self.rows is None else clean(spec, q, self.rows.to(q.device))

    def of_keys(self, spec: Spec, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with others in place of those that nothing sees."""
        if self.keys is None:
            return k, v
        keys = self.keys
        if keys.shape[1] not in (1, k.shape[1]):  # by query head, where those that share keys see alike
            keys = keys.reshape(keys.shape[0], k.shape[1], -1, keys.shape[2]).any(2)
        keys = keys.to(k.device)
        return clean(spec, k, keys), without(v, keys)


def _by_kernels(
    program: str, sizes: Sizes, inputs: Mapping[str, Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which rows see keys, and which keys rows see: sums of ones, and the gradients of these."""
    with torch.inference_mode(False), torch.enable_grad():
        rows = torch.ones((sizes.batch, sizes.heads, sizes.n_q, 1), device=device)
        keys = torch.ones((sizes.batch, sizes.heads, sizes.n, 1), device=device, requires_grad=True)
        found = CoreSums.of(program, 0)(rows, keys, keys.detach(), None, inputs)
        (by_key,) = torch.autograd.grad(found.sum(), keys)
    return found.detach()[..., 0] > 0, by_key[..., 0] > 0
