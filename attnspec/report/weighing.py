"""Weights beyond softmax in a line, as ``attnspec inspect`` prints it.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { linear elu(x) + 1  divide total  decay -0.5 }")
>>> weighing(spec.weights, 64)
'linear, 64 features (elu(x) + 1), divided by their sum, decaying by -0.5 a step'
"""

from __future__ import annotations

from attnspec.spec.weights import Weights


def weighing(weights: Weights, dim: int) -> str:
    """What pairs weigh for vectors of ``dim`` entries."""
    said = ["softmax"]
    if weights.q is not None and weights.k is not None:
        features = weights.features(dim)
        maps = f"{weights.q}" if weights.q == weights.k else f"q: {weights.q}; k: {weights.k}"
        said = ["linear", f"{features:,} feature{'' if features == 1 else 's'} ({maps})", _divided(weights)]
    said += [f"decaying by {weights.decay} a step"] if weights.decay is not None else []
    said += [f"each value corrected by {weights.delta} times what its key recalls"] if weights.delta is not None else []
    return ", ".join(said)


def _divided(weights: Weights) -> str:
    if weights.divide is None:
        return "not divided"
    if weights.divides_by_total:
        return "divided by their sum"
    if weights.each:
        by = "its sum" if str(weights.divide) == "total" else str(weights.divide)
        return f"each divided by {by}"
    return f"divided by {weights.divide}"
