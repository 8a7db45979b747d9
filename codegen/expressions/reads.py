"""The tensors that expressions read: inputs, and what is derived from them."""

from __future__ import annotations

from attnspec.codegen.expressions.arguments import arguments
from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import no_kernels
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.decayed import decays_scores
from attnspec.spec.feature import is_exponential, parts
from attnspec.spec.real import RealRead
from attnspec.spec.spec import Spec


def reads(*roots: e.Node) -> dict[str, tuple[str, int]]:
    """Each tensor's name with the kind of its elements (int, bool or float) and its dimensions, in order of reading."""
    found: dict[str, tuple[str, int]] = {}
    for root in roots:
        for node in contents.walk(root):
            match node:
                case e.Read(name, indices):
                    found[name] = "int", len(indices)
                case e.Among(_, name, indices):
                    found[name] = "int", len(indices) + 1
                case e.Flag(name, indices):
                    found[name] = "bool", len(indices)
                case RealRead(name, indices):
                    found[name] = "float", len(indices)
    return found


def read_by_kernels(spec: Spec) -> dict[str, tuple[str, int]]:
    """What the predicates and score lines of a spec read."""
    return reads(*(branch.pred for branch in spec.branches), spec.score)


def require_softmax(spec: Spec) -> None:
    """Raise SpecError for weights beyond softmax, for which there are no kernels."""
    if not spec.softmax_only:
        raise SpecError([no_kernels(spec.span, spec.said_weights, _whole_calls(spec))])


def has_kernels(spec: Spec, triton: bool = False) -> bool:
    """Whether there are kernels, of C++ or of Triton, for the weights of each call that a pattern takes."""
    return all(one.softmax_only or scores_decay(one) or (has_linear_kernels(one) and not triton) for one in spec.calls)


def scores_decay(spec: Spec) -> bool:
    """Whether softmax kernels compute a decay, as a score line over sums of steps."""
    return decays_scores(spec) and spec.order is None and not spec.composed


def _whole_calls(spec: Spec) -> str:
    """Which kind of weights have kernels that serve whole calls only, if any."""
    return "softmax" if scores_decay(spec) else "linear" if has_linear_kernels(spec) else ""


def has_linear_kernels(spec: Spec) -> bool:
    """Whether there are kernels, of the C++ target, for weights that are products of features."""
    weights = spec.weights
    plain = not (spec.sink or spec.detached or (weights.each and weights.by_channel))
    if weights.delta is not None:  # values are corrected in the order of positions
        plain = plain and spec.order is None and not (weights.each or weights.by_channel)
    running = [found for found in weights.favors if found.stable == "running"]
    if weights.each and weights.k is not None:  # logarithms of steps, too, would go into those of exponentials
        plain = plain and not running and not (weights.decay and any(map(is_exponential, parts(weights.k))))
    return weights.linear and plain and all(found in (weights.q, weights.k) for found in running)


def names(spec: Spec) -> dict[str, int]:
    """The name of each tensor of a call that kernels read, with its place among the inputs of the call."""
    return {name: place for place, name in enumerate(read_by_kernels(spec))}


def places(spec: Spec) -> dict[str, int]:
    """The same of all that kernels read: after the inputs of a call what follows from real parameters."""
    read = (*read_by_kernels(spec), *(one.name for one in arguments(spec.score).all))
    return {name: place for place, name in enumerate(read)}
