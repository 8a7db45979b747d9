r"""A decay beside softmax as a score line over sums of its steps, so that kernels of softmax compute it.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { input gate: float[batch, heads, n]  attend causal  decay gate[b, h, t] }")
>>> print(str(scored(spec)).replace("+ (if", "+\n    (if"))
attention a {
    input decay_high: float[batch, heads, n]
    input decay_low: float[batch, heads, n]
    attend k <= q
    score decay_high[b, h, q] - decay_high[b, h, k] +
    (if q == k then 0.0 else decay_low[b, h, q] - decay_low[b, h, k]) + s
}
"""

from __future__ import annotations

from dataclasses import replace

from attnspec.spec import expr as e
from attnspec.spec.parts import Input
from attnspec.spec.real import Choose, Product, Real, RealExpr, RealRead, Total
from attnspec.spec.spec import Spec
from attnspec.spec.weights import SOFTMAX


def decays_scores(spec: Spec) -> bool:
    """Whether a decay is added to the scores, and there is nothing else beyond softmax."""
    weights = spec.weights
    return weights.decay is not None and replace(weights, decay=None) == SOFTMAX and not weights.by_channel


def sum_names(spec: Spec) -> tuple[str, str]:
    """What the inputs of :func:`scored` are called that hold the sums of all steps up to each position."""
    taken, names = {declared.name for declared in spec.inputs} | {name for name, _ in spec.params}, []
    for name in ("decay_high", "decay_low"):
        while name in taken:
            name += "_"
        names.append(name)
    return names[0], names[1]


def scored(spec: Spec) -> Spec:
    """The same weights, of keys that come not after their query, without a ``decay`` line.

    Each sum is that of two inputs of float32. The differences of the high ones come first: where positions are near
    they are exact, so that no digits are lost where the sums are large, and the score is not added to a large number.
    A pair of one position has no step between: in gradients of steps, which are those of the low sums, it would be
    added and taken away, and what is left of that by rounding is more than all else where steps are large.
    """
    high, low = sum_names(spec)
    b, h, q, k = (e.Var(name) for name in "bhqk")

    def between(name: str) -> tuple[RealExpr, RealExpr]:
        return RealRead(name, (b, h, q)), Product(Real(-1.0), RealRead(name, (b, h, k)))

    sizes = (e.Var("batch"), e.Var("heads"), e.Var(length(spec)))
    apart = Choose(e.Cmp("==", q, k), Real(0.0), Total(between(low)))
    made = replace(spec, score=Total((*between(high), apart, spec.score)), weights=SOFTMAX)
    inputs = spec.read_by(*made.roots)
    return replace(made, inputs=(*inputs, Input(high, "float", sizes), Input(low, "float", sizes)))


def length(spec: Spec) -> str:
    """How many positions have sums: all of queries, and of keys all that are not after every query."""
    return "n" if spec.align == "end" else "n_q"
