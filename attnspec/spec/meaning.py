"""The mask of a spec, pair by pair: what all the rest is held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.errors.diagnostic import SpecError
from attnspec.errors.relations import bad_divisor
from attnspec.errors.values import ranges_too_large
from attnspec.spec import expr as e
from attnspec.spec.arrays import derive, slots
from attnspec.spec.bind import BadDivisor, LargeRange
from attnspec.spec.bounds import fits
from attnspec.spec.contents import walk
from attnspec.spec.evaluate import holds, table
from attnspec.spec.parts import Branch, Pattern
from attnspec.spec.rewrite import replace
from attnspec.spec.unroll import require_ranges

Array = NDArray[Any]


def mask(spec: Pattern, sizes: Mapping[str, int], inputs: Mapping[str, Any]) -> Array:
    """Which query row may attend to which key (and how often), (batch, heads, n_q, n)."""
    kinds = (e.Read, e.Flag, e.Among)
    nodes = (node for branch in spec.branches for node in walk(branch.pred))
    read = {node.name.partition(".")[0] for node in nodes if isinstance(node, kinds)}
    arrays = derive(spec, inputs, sizes, only=read | inputs.keys())  # not those that only scores read
    if spec.order is not None and sizes["n"] != sizes["n_q"]:
        raise ValueError(f"`{spec.name}` orders positions: n_q must be n, {sizes['n']}, not {sizes['n_q']}")
    counted = bool(spec.mixture) or spec.order is not None
    order = slots(spec, inputs, sizes)[0] if spec.order is not None else None
    out = np.zeros((sizes["batch"], sizes["heads"], sizes["n_q"], sizes["n"]), dtype=np.int64 if counted else bool)
    for branch in spec.branches:
        kind = np.int64 if _fits(branch.pred, sizes, arrays) else object
        tables = {table(name): a.astype(object) if kind is object else a for name, a in arrays.items()}
        for b in range(sizes["batch"]):
            for h in range(sizes["heads"]):
                env = {**sizes, **tables, "b": b, "h": h}
                if order is None:
                    env["q"] = (np.arange(sizes["n_q"]) + spec.offset(sizes["n"], sizes["n_q"])).astype(kind)[:, None]
                    env["k"] = np.arange(sizes["n"]).astype(kind)[None, :]
                    seen = _holds(spec, branch, env)
                    if counted:
                        out[b, h] += seen * branch.times
                    else:
                        out[b, h] |= seen
                else:
                    _count(spec, branch, env, order[b, h], out[b, h])
    return out


def _count(spec: Pattern, branch: Branch, env: dict[str, Any], order: Array, out: Array) -> None:
    """Count the pairs of slots, each at the pair of positions that stand in them."""
    places = np.arange(len(order))
    env |= {"q": order[:, None], "k": order[None, :], "q_slot": places[:, None], "k_slot": places[None, :]}
    seen = np.broadcast_to(_holds(spec, branch, env), (len(order), len(order)))
    q, k = seen.nonzero()
    np.add.at(out, (order[q], order[k]), branch.times)


def _holds(spec: Pattern, branch: Branch, env: Mapping[str, Any]) -> Array:
    try:
        require_ranges(branch.pred, {name: env[name] for name in e.CONSTANTS})
        return np.asarray(holds(branch.pred, env))
    except BadDivisor as error:
        raise SpecError([bad_divisor(spec.span, error.args[0], env["h"])]) from None
    except LargeRange as error:
        raise SpecError([ranges_too_large(spec.span, error.args[0])]) from None


def _fits(pred: e.Pred, sizes: Mapping[str, int], arrays: Mapping[str, Array]) -> bool:
    """Whether 64 bits hold every value (Python's integers are slow, and always right)."""
    most = [abs(int(end)) for a in arrays.values() if a.size and a.dtype.kind == "i" for end in (a.min(), a.max())]
    names = [e.Var(name) for name in ("m", *e.SLOTS)]
    reads = [node for node in walk(pred) if isinstance(node, e.Read)]
    small: dict[e.Node, e.Node] = {node: e.Var("q") for node in (*reads, *names)}
    length = max(sizes["n"], sizes["n_q"], sizes["m"], *most, *(a.shape[-1] for a in arrays.values() if a.ndim))
    return fits(replace(pred, small), length, 64)
