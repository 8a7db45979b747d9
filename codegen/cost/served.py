"""Which weights some target has kernels for."""

from __future__ import annotations

from functools import lru_cache

from attnspec.analysis.past import ahead
from attnspec.codegen.expressions.reads import has_kernels
from attnspec.relation.relation import Relation
from attnspec.spec.spec import Spec


@lru_cache(maxsize=64)
def served(relation: Relation) -> bool:
    """Whether some target has kernels for the weights of a pattern; else it is computed as the dense formula."""
    spec = relation.spec
    if spec.softmax_only:
        return True
    if not has_kernels(spec):
        return False
    return not any(decays(one) for one in (spec, *spec.alone)) or ahead(relation) is None


def decays(spec: Spec) -> bool:
    """Whether weights fade with distance, by a line or by a running maximum of features."""
    return spec.weights.decay is not None or any(found.stable == "running" for found in spec.weights.favors)
