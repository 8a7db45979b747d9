"""The pairs of keys that a correction of values goes over: those of a pattern of which one comes before the other.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { attend causal  linear elu(x) + 1  divide total  delta 0.5 }")
>>> print(earlier(spec))
attention a {
    attend k <= q
    within k < q
    linear elu(x) + 1
}
"""

from __future__ import annotations

from dataclasses import replace

from attnspec.codegen.expressions.entrywise import in_kernels
from attnspec.spec import expr as e
from attnspec.spec.feature import Vector
from attnspec.spec.parts import Clause
from attnspec.spec.spec import Spec
from attnspec.spec.weights import Weights


def earlier(spec: Spec, mapped: bool = True) -> Spec:
    """A pattern of which keys are queries too, with their features on both sides.

    Kernels work them out where they do so of the keys of the whole, if they are ``mapped``; else ``x`` are features.
    """
    feature = spec.weights.k if mapped and in_kernels(spec.weights)[1] else Vector()
    return replace(
        spec,
        params=(),
        inputs=spec.read_by(*(branch.pred for branch in spec.branches)),
        within=(*spec.within, Clause(e.Cmp("<", e.Var("k"), e.Var("q")), spec.span)),
        weights=Weights(feature, feature),
        rotations=(),
        normalized=frozenset(),
        scale=None,
    )
