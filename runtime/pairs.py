"""How many pairs of a query and a key a call has: exactly, for the inputs that it comes with."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.cost.cost import Cost, cost
from attnspec.codegen.cost.counted import Contents, TooMany
from attnspec.codegen.expressions.reads import names
from attnspec.relation.relation import DependsOnInputs
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import Needed, Program, plan, spec
from attnspec.runtime.core.request import Call
from attnspec.runtime.core.visible import visible
from attnspec.spec.arrays import runs


def pairs(call: Call) -> int:
    """The live pairs of a call, over heads and batch entries: each as often as it stands in a branch or a slot.

    Where inputs have no values (fake tensors, the device meta), and where so many tiles would have to be looked at that
    it takes minutes (then there is a warning), it is what is possible whatever the inputs hold: every pair, if even
    that depends on them.
    """
    if (found := cost_of(call)) is not None:
        return found.pairs
    sizes = call.sizes
    return sum(branch.times for branch in spec(call.program).branches) * sizes.batch * sizes.heads * sizes.n_q * sizes.n


def cost_of(call: Call) -> Cost | None:
    """What a call takes; None where not even what is possible is known without the values of its inputs."""
    program, needed, sizes, dims = call.program, call.needed, call.sizes, (call.q.shape[3], call.v.shape[3])
    if visible(*call.inputs):
        sizes = replace(sizes, scalars=call.scalars())
        try:
            if plan(program, needed).relation.exact:
                return _cost(program, needed, sizes, *dims)
            return cost(plan(program, needed), sizes, *dims, 1, _contents(call))
        except TooMany as error:
            warnings.warn(f"{spec(program).name}: {error}; FlopCounterMode counts what is possible", stacklevel=2)
    return _cost(program, needed, sizes, *dims)


def possible(call: Call) -> int | None:
    """How many pairs are possible, whatever inputs hold; None where not even that is known without them."""
    found = _cost(call.program, call.needed, call.sizes, call.q.shape[3], call.v.shape[3])
    return None if found is None else found.pairs


@functools.lru_cache(maxsize=256)
def _cost(program: Program, needed: Needed, sizes: Sizes, dim: int, dim_v: int) -> Cost | None:
    try:
        return cost(plan(program, needed), sizes, dim, dim_v, 1)
    except DependsOnInputs:
        return None


def _contents(call: Call) -> Contents:
    """What the pattern reads of the inputs: kernels have bytes for booleans, and few bits for integers."""
    checked = spec(call.program)
    arrays = {name: _wide(call.inputs[at].numpy(force=True)) for name, at in names(checked).items()}
    for item in checked.inputs:
        if item.form != "plain" and item.name in arrays:
            arrays[f"{item.name}.first"], arrays[f"{item.name}.last"] = runs(arrays[item.name])
    if call.order is None:
        return Contents(arrays)
    slots = call.order.numpy(force=True).astype(np.int64)
    return Contents({"order.bucket": np.zeros_like(slots), **arrays}, slots)  # zeros where nothing reads buckets


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    kinds = {"u": np.dtype(bool), "i": np.dtype(np.int64)}
    return array.astype(kinds.get(array.dtype.kind, array.dtype))
