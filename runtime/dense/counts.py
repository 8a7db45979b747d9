"""How often each pair counts, in blocks of query rows: the definition of a pattern in bounded memory.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { attend 0 <= q - k < 2 }")
>>> rows = Rows(spec, Sizes(5, 5), {})
>>> rows.counts(0, 0, slice(2, 4))[0].astype(int).tolist()
[[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.relation.sizes import Sizes
from attnspec.spec import contents
from attnspec.spec.evaluate import holds, table
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class Rows:
    """The pairs of a pattern with the inputs of one call.

    ``arrays`` hold all integer and boolean inputs that the pattern reads, with what is derived from them, by name; for
    a pattern with an order, ``slots`` is the position in each slot, (batch, heads, rounds * n), and ``arrays`` has the
    buckets, ``order.bucket``, of the same shape.
    """

    spec: Spec
    sizes: Sizes
    arrays: Mapping[str, NDArray[Any]]
    slots: NDArray[Any] | None = field(default=None)

    def counts(self, h: int, b: int, rows: slice | NDArray[np.int64]) -> list[NDArray[Any]]:
        """For each branch, how often each pair of some rows counts (with ``times``): (rows, n), bool or integers."""
        s = self.sizes
        tables = {table(name): array for name, array in self.arrays.items()}
        env = {**s.parameters(h, b), **tables}
        if self.slots is not None:
            return self._of_slots(env, h, b, rows)
        q = np.arange(s.n_q, dtype=np.int64)[rows, None] + s.first
        k = np.arange(s.n, dtype=np.int64)[None, :]
        found = []
        for branch in self.spec.branches:
            seen = np.broadcast_to(holds(branch.pred, {**env, "q": q, "k": k}), (len(q), s.n))
            found.append(seen if branch.times == 1 else seen * np.int64(branch.times))
        return found

    def _of_slots(self, env: dict[str, Any], h: int, b: int, rows: slice | NDArray[np.int64]) -> list[NDArray[Any]]:
        """A pair counts as often as there are pairs of slots in which it stands."""
        assert self.slots is not None
        order, n = self.slots[b, h].astype(np.int64), self.sizes.n
        rounds = len(order) // n
        at = np.argsort(order, kind="stable").reshape(n, rounds)  # the slots of each position
        mine, every = at[rows].reshape(-1), at.reshape(-1)
        env = {
            **env,
            "q": order[mine][:, None],
            "k": order[every][None, :],
            "q_slot": mine[:, None],
            "k_slot": every[None, :],
        }
        found = []
        for branch in self.spec.branches:
            seen = np.broadcast_to(holds(branch.pred, env), (len(mine), len(every)))
            counted = seen.reshape(-1, rounds, n, rounds).sum((1, 3), dtype=np.int64)
            found.append(counted * branch.times)
        return found

    def reads(self, name: str) -> bool:
        """Whether the pattern reads ``h`` or ``b``: whether heads or batch entries may differ."""
        if self.slots is not None:
            return True
        return any(name in contents.free(branch.pred) for branch in self.spec.branches)
