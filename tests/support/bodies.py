"""Bodies of attentions, and their masks compared pair by pair."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from attnspec.check.check import check_text
from attnspec.spec.spec import Spec


def spec(body: str, **params: Any) -> Spec:
    heading = ", ".join(f"{name} = {value}" for name, value in params.items())
    return check_text(f"attention a({heading}) {{ {body} }}" if heading else f"attention a {{ {body} }}")


def same(found: np.ndarray, want: Any) -> None:
    """Compare a mask with a function of (b, h, row, k)."""
    for place in product(*map(range, found.shape)):
        assert found[place] == want(*place), place
