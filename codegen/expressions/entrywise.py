"""Features that kernels work out themselves, entry by entry of the vectors that they load.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a(slope = 2.0) { linear q: elu(x * slope) + 1  linear k: softmax(x) }")
>>> print(entrywise(spec.weights.q))
if s * 2.0 > 0.0 then 1.0 + s * 2.0 else exp(s * 2.0)
>>> entrywise(spec.weights.k)
"""

from __future__ import annotations

from typing import Any

from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec import feature as f
from attnspec.spec import real as r
from attnspec.spec.weights import Weights

_ONE, _NONE = r.Real(1.0), r.Real(0.0)


def entrywise(feature: r.RealExpr) -> r.RealExpr | None:
    """A feature as an expression over ``s``, an entry of the vector; None where it is more than that.

    Such a one has no inputs, no functions of whole vectors, and is not the same for all vectors. Sigmoid and softplus
    are left out: what stands for them in kernels has no digits where they are small.
    """
    parts = list(contents.walk(feature))
    plain = all(isinstance(part, _PLAIN) and getattr(part, "function", "") not in _OTHERS for part in parts)
    if not plain or contents.free(feature) or f.is_constant(feature):
        return None
    return _written(feature)  # type: ignore[no-any-return]


def in_kernels(weights: Weights) -> tuple[str, str]:
    """Which of the sides ``"q"`` and ``"k"`` kernels map to features; ``""`` in place of one that they take as it is.

    They map none where one side cannot be, or where the divisor reads the features of queries.
    """
    made = [None if side is None or weights.reads_mass else entrywise(side) for side in (weights.q, weights.k)]
    q, k = ("" if None in made or entry == r.Score() else side for side, entry in zip("qk", made, strict=True))
    return q, k


_PLAIN = (f.Vector, r.Real, r.Parameter, r.Cast, e.Int, r.Total, r.Product, r.Quotient, r.Apply)
_OTHERS = ("sigmoid", "softplus")


def _written(node: e.Node) -> Any:
    match node:
        case f.Vector():
            return r.Score()
        case r.Parameter(_, value):
            return r.Real(value)
        case r.Cast(e.Int(value)):
            return r.Real(float(value))
        case r.Total((r.Apply("elu", arg), one)) | r.Total((one, r.Apply("elu", arg))) if _written(one) == _ONE:
            x = _written(arg)  # by branches: elu(x) + 1 loses what is small
            return r.Choose(r.Order(">", x, _NONE), r.Total((_ONE, x)), r.Apply("exp", x))
        case r.Apply("elu", arg):
            x = _written(arg)
            return r.Choose(r.Order(">", x, _NONE), x, r.Total((r.Apply("exp", x), r.Real(-1.0))))
        case r.Apply("relu", arg):
            x = _written(arg)
            return r.Choose(r.Order(">", x, _NONE), x, _NONE)
    return node.map(_written) if isinstance(node, r.RealExpr) else node
