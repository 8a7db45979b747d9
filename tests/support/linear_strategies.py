"""Hypothesis strategies: patterns of :mod:`tests.support.strategies` with generated lines about weights, as text.

Divisors are of totals that cannot cancel: nothing else bounds what rounding does to them. Steps are of all sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from attnspec.check.check import check_text
from attnspec.spec.feature import size
from attnspec.spec.real import Score
from attnspec.spec.spec import Spec
from attnspec.spec.weights import SOFTMAX
from tests.support.strategies import HEADS, Case, Draw, cases

DIM = 16
_POSITIVE = (
    "linear elu(x) + 1",
    "linear exp(0.5 * x)",
    "linear softmax(x)",
    "linear [softmax(x), softmax(-x)]",
    "linear sigmoid(x)",
    "linear x ** 2 + 0.1",
    "linear softplus(x) * (h + 1)",
    "linear q: softmax(x)  linear k: exp(x)",
    "linear favor(x, features = 12, stable = none)",
    "linear 1",
)
_SIGNED = ("linear x", "linear tanh(x)", "linear unit(x)", "linear q: x  linear k: relu(x)", "linear x * (0.5 + h)")
_DIVISORS = ("divide total", "divide total + 0.5", "divide total + 0.1 * mass", "divide max(total, 0.3)")
_EACH = ("divide each total", "divide each total + 1.0")
_DECAYS = ("decay -0.1 * (h + 1)", "decay gates_[b, h, t]", "decay 0.5 * gates_[b, h, t] - 0.01")
_CHANNELS = ("decay channels_[b, h, t, c]",)
_DELTAS = ("delta betas_[b, h, k]", "delta 0.5")


def steps(random: np.random.Generator, kind: str, shape: Sequence[int]) -> np.ndarray:
    """Logarithms of factors: none, small, strong, very strong, resets, and mixtures of these."""
    drawn = random.random(shape)
    return {
        "none": np.zeros(shape),
        "small": -1e-3 * drawn,
        "usual": -drawn,
        "strong": -8 - 12 * drawn,
        "mixed": np.where(drawn < 0.3, -60.0, 0.0),
        "resets": np.where(drawn < 0.2, -np.inf, -drawn),
    }[kind].astype(np.float32)


def _plain(spec: Spec) -> Spec:
    """The pattern alone."""
    return replace(
        spec,
        score=Score(),
        sink=None,
        scale=None,
        rotations=(),
        normalized=frozenset(),
        detached=False,
        weights=SOFTMAX,
    )


@st.composite
def linear_cases(draw: Draw) -> Case:
    """A pattern with lines about weights, and sizes to try it at: over several tiles where it has no inputs."""
    case = draw(cases(inputs=draw(st.booleans())))
    if not case.inputs:
        n = draw(st.integers(1, 220))
        case = replace(case, n=n, n_q=draw(st.sampled_from([n, n, draw(st.integers(1, 220))])))
    spec = _plain(case.spec())
    return _weighed(draw, replace(case, text=str(spec), params={}), not (spec.mixture or spec.axes or spec.order))


_CUT = (
    "attend causal",
    "attend k < q",
    "attend 0 <= q - k < 2",
    "attend k // {c} <= q // {c}",
    "attend k // {c} < q // {c}",
    "attend causal and k // {c} >= q // {c} - 1",
    "attend causal and k // {c} == q // {c}",
    "attend causal and (k % {c} >= 2 or k // {c} == q // {c})",
    "attend causal and (h % 2 == 0 or q == k)",
    "attend k // (1 + h % 2) < q // (1 + h % 2)",
    "input cu: int[batch, n] offsets  attend causal and cu[b, q] == cu[b, k]",
    "input cu: int[n] offsets  attend k < q and cu[q] == cu[k]",
)


@st.composite
def cut_cases(draw: Draw) -> Case:
    """A pattern that can be cut, with lines about weights, as many queries as keys."""
    pattern = draw(st.sampled_from(_CUT)).format(c=draw(st.integers(3, 5)))
    n, batch = draw(st.integers(8, 40)), draw(st.integers(1, 2))
    inputs = {}
    if "cu:" in pattern:
        over = (batch,) if "batch" in pattern else ()
        ends = [sorted(draw(st.lists(st.integers(0, n), min_size=3, max_size=3))) for _ in range(*over or (1,))]
        inputs["cu"] = np.array([[0, *some, n] for some in ends]).reshape(*over, 5)
    return _weighed(draw, Case(f"attention cut {{ {pattern} }}", {}, n, n, HEADS, batch, inputs), True)


def _weighed(draw: Draw, case: Case, alone: bool) -> Case:
    """A pattern with lines about weights. ``alone``: one that decay and corrections may stand beside."""
    positive = draw(st.booleans())
    lines = [draw(st.sampled_from(_POSITIVE if positive else _SIGNED))]
    if positive and draw(st.integers(0, 3)):
        lines.append(draw(st.sampled_from(draw(st.sampled_from([_DIVISORS, _DIVISORS, _EACH])))))
    if alone and draw(st.booleans()):
        lines.append("within k <= q")
        lines += draw(st.sampled_from([[], [draw(st.sampled_from([*_DECAYS, *_DECAYS, *_CHANNELS]))]]))
        if not any("each" in line for line in lines):
            lines += draw(st.sampled_from([[], [], [draw(st.sampled_from(_DELTAS))]]))
    turns = [] if lines[0] == "linear 1" else [["rotate rope(theta = 50.0)"], ["normalize k"]]
    lines += draw(st.sampled_from([[], ["scale 0.7"], *turns]))
    body = "\n".join(f"    {line}" for line in lines)
    shape = (case.batch, case.heads, case.n)
    count = _features(body)
    shapes = {"gates_": shape, "betas_": shape, "channels_": (*shape, count)}
    sizes = {name: "batch, heads, n" + ", features" * (name == "channels_") for name in shapes}
    declared = "".join(f"    input {name}: float[{sizes[name]}]\n" for name in shapes if name in body)
    text = f"{case.text.rstrip().removesuffix('}')}\n{declared}{body}\n}}\n"
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    kind = draw(st.sampled_from(["none", "small", "usual", "strong", "mixed", "resets"]))
    inputs = dict(case.inputs)
    for name, own in shapes.items():
        if name in body:
            inputs[name] = random.random(own).astype(np.float32) if name == "betas_" else steps(random, kind, own)
    return replace(case, text=text, params={}, inputs=inputs)


def _features(body: str) -> int:
    """How many features the lines give for vectors of DIM entries."""
    weights = check_text("attention a {\n" + body.split("\n")[0] + "\n}").weights
    assert weights.q is not None
    assert weights.k is not None
    return max(size(side, DIM) for side in (weights.q, weights.k))
