"""How many pairs of a query and a key a call has: exactly, for the inputs that it comes with."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.cost.cost import cost
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
    program, needed, sizes = call.program, call.needed, call.sizes
    checked = spec(program)
    if visible(*call.inputs):
        sizes = replace(sizes, scalars=call.scalars())
        exact = plan(program, needed).relation.exact
        try:
            return _pairs(program, needed, sizes) if exact else _count(program, needed, sizes, _contents(call))
        except TooMany as error:
            warnings.warn(f"{checked.name}: {error}; FlopCounterMode counts what is possible", stacklevel=2)
    try:
        return _pairs(program, needed, sizes)
    except DependsOnInputs:
        return sum(branch.times for branch in checked.branches) * sizes.batch * sizes.heads * sizes.n_q * sizes.n


@functools.lru_cache(maxsize=256)
def _pairs(program: Program, needed: Needed, sizes: Sizes) -> int:
    return _count(program, needed, sizes, None)


def _count(program: Program, needed: Needed, sizes: Sizes, contents: Contents | None) -> int:
    return cost(plan(program, needed), sizes, 1, 1, 1, contents).pairs


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
