"""What ranks compute and send, as arrays: all that prices and figures need of a schedule, without its lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

KEYS, QUERIES, RESULTS = range(3)
"""What messages hold, as :class:`Message` names it: keys and values, queries, outputs and log-sum-exps of queries."""


@dataclass(frozen=True)
class Loads:
    """Those of the forward pass of one batch entry, over all heads and branches.

    ``pairs`` and ``calls`` are what each rank computes, and in how many kernel calls, shape (steps, ranks). ``step``,
    ``source``, ``target``, ``kind`` and ``rows`` have an entry for each message, in order of steps: ``rows`` counts
    vectors of one head, so that it is positions times key heads for keys, and times query heads for the rest. What
    backward sends follows: each message of keys has one back, with their gradients.
    """

    pairs: Ints
    calls: Ints
    step: Ints
    source: Ints
    target: Ints
    kind: Ints
    rows: Ints

    @property
    def steps(self) -> int:
        """How many steps there are, that of what needs nothing of others among them."""
        return len(self.pairs)

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return int(self.pairs.shape[1])
