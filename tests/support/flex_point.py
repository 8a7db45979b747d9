"""What a mask function says of each pair, by calling it on single positions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch

from attnspec import read
from attnspec.flex import Imported, spec_of


def at_each_pair(mask: Callable[..., Any], batch: int, heads: int, n_q: int, n: int) -> np.ndarray[Any, Any]:
    found = np.zeros((batch, heads, n_q, n), dtype=bool)
    for at in product(*map(range, found.shape)):
        found[at] = bool(mask(*map(torch.tensor, at)))
    return found


def meaning(found: Imported, batch: int, heads: int, n_q: int, n: int) -> np.ndarray[Any, Any]:
    """The pairs of an import, from the definition of its spec."""
    inputs = {name: t.detach().numpy() for name, t in found.inputs.items()}
    mask = read(found.text).mask(n=n, n_q=n_q, heads=heads, batch=batch, inputs=inputs)
    return np.broadcast_to(mask, (batch, heads, n_q, n))


def imported_alike(mask: Callable[..., Any], batch: int = 2, heads: int = 2, n_q: int = 8, n: int = 8) -> Imported:
    """The import of a mask, whose pairs are those of the function."""
    found = spec_of(mask, batch, heads, n_q, n)
    wanted = at_each_pair(mask, batch, heads, n_q, n)
    assert np.array_equal(meaning(found, batch, heads, n_q, n), wanted), found.text
    return found
