"""Hypothesis strategies: mixtures whose branches have lines of their own or given shares, as text, with a call's sizes.

Clauses are those of :mod:`tests.support.pass_strategies`; ``inputs`` of a case are float32, for heads of 16 dimensions.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.support.pass_strategies import lines_of_pairs
from tests.support.strategies import HEADS, Case, Draw

_SCORES = (
    "score s + bias[h] * (k - q) / 8",
    "score softcap(s, cap)",
    "score if (q + k) % 2 == 0 then s * 2 else s - far[b, h, q]",
    "score max(s, bias[h])",
)
_ROTATIONS = ("rotate rope(dims = 8)", "rotate rope(dims = 8, theta = 50) at (q // 2, k // 2)", "rotate xpos(dims = 8)")
_SHARES = ("bias[h]", "0.5", "if q < 4 then 1.0 else far[b, h, q]", "1.0 - exp(bias[h]) / cap", "-bias[h] * q / n")


@st.composite
def branch_cases(draw: Draw) -> Case:
    """A mixture and sizes to try it at."""

    def some(*lines: str) -> list[str]:
        return [line for line in lines if draw(st.integers(0, 2)) == 0]

    def branch(shared: bool, scaled: bool) -> str:
        own = some(draw(st.sampled_from(_SCORES)), draw(st.sampled_from(_ROTATIONS)), "normalize q", "normalize k")
        own += some("scale 0.4") if not scaled else []
        weight = f"share {draw(st.sampled_from(_SHARES))}" if shared else f"times {draw(st.integers(1, 3))}"
        return f"branch {weight} {{ {'  '.join([*lines_of_pairs(draw, 2), *own])} }}"

    shared, scaled = draw(st.booleans()), draw(st.booleans())
    detached = not shared and draw(st.sampled_from([True, False, False]))
    branches = "\n        ".join(branch(shared, scaled) for _ in range(draw(st.integers(1, 3))))
    lines = [
        "input bias: float[heads]",
        "input far: float[batch, heads, n_q]",
        *some("align start", "score s - 0.25", "rotate rope(start = 8)", "sink bias[h]", "sink far[b, h, q]")[:3],
        f"mix{' weights detached' if detached else ''} {{\n        {branches}\n    }}",
        *(["scale 0.7"] if scaled else []),
    ]
    if len([line for line in lines if line.startswith("sink")]) == 2:
        lines.remove("sink bias[h]")
    body = "\n".join(f"    {line}" for line in lines)
    text = f"attention branches(rates = [1, 2, 4, 3], cap = 2.5) {{\n{body}\n}}\n"
    n, batch = draw(st.integers(1, 60)), draw(st.integers(1, 2))
    n_q = draw(st.sampled_from([n, n, draw(st.integers(1, 60))]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    shapes = {"bias": (HEADS,), "far": (batch, HEADS, n_q)}
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return Case(text, {}, n, n_q, HEADS, batch, inputs)
