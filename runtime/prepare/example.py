"""Plausible inputs, for runs in which nobody gives any."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.relation import inputs_of
from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.runs import numbers
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.evaluate import value_of
from attnspec.spec.parts import Input
from attnspec.spec.real import RealRead
from attnspec.spec.shapes import shape_in
from attnspec.spec.spec import Spec


def example(
    spec: Spec, sizes: Sizes, generator: torch.Generator, vectors: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """Plausible inputs for a spec, as a call would give them; ``random`` inputs are left to be drawn.

    Documents of 500 positions on average, the first one longer than what the pattern counts (a window, say), so that it
    shows; booleans of which one in eight is true; numbers around 0.1, for steps that decay below 0, for corrections
    between 0 and 1. ``vectors`` are the sizes of vectors that inputs are sized by (``dim``). Integers that a
    position, a block or the like is compared with are spread evenly over what that takes on; what is only compared
    with itself gets one of eight values; other integers are between 1 and what they bound, or n, as lengths are.

    Each input has draws of its own, and integers keep their place in their range: the same inputs at twice the length
    are twice as large, whatever else has grown, so that calls of several lengths can be compared.
    """
    found: dict[str, Tensor] = {}
    seeds = torch.randint(0, 1 << 31, (len(spec.inputs),), generator=generator).tolist()
    for declared, seed in zip(spec.inputs, seeds, strict=True):
        if declared.random is not None:
            continue
        generator = torch.Generator().manual_seed(seed)
        shape = example_shape(spec, declared, sizes, vectors)
        if declared.form != "plain":
            found[declared.name] = documents(declared, shape, _DOCUMENT, generator, _longest(spec, shape[-1]))
        elif declared.kind == "bool":
            found[declared.name] = torch.rand(shape, generator=generator) < 0.125
        elif declared.kind == "float":
            found[declared.name] = _reals(spec, declared.name, shape, generator)
        else:
            low, high = _spread(spec, declared.name, sizes)
            place = torch.rand(shape, generator=generator, dtype=torch.float64)
            found[declared.name] = low + (place * max(1, high - low)).long()
    return found


def _reals(spec: Spec, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers that a decay, a correction or another line may read."""
    for line, low in ((spec.weights.decay, -0.1), (spec.weights.delta, 1.0)):
        if line is not None and any(isinstance(node, RealRead) and node.name == name for node in contents.walk(line)):
            return torch.rand(shape, generator=generator) * low
    return torch.randn(shape, generator=generator) * 0.1


def documents(
    declared: Input, shape: tuple[int, ...], mean: int, generator: torch.Generator, longest: int = 0
) -> Tensor:
    """Documents of a mean length over the last dimension: where they begin for ``offsets``, else their numbers.

    The first one has at least ``longest`` positions.
    """
    count = max(1, round((shape[-1] - longest) / mean) + (longest > 0))
    cuts = torch.randint(longest, shape[-1] + 1, (*shape[:-1], count - 1), generator=generator).sort(dim=-1).values
    ends = [cuts.new_zeros((*shape[:-1], 1)), cuts, cuts.new_full((*shape[:-1], 1), shape[-1])]
    offsets = torch.cat(ends, dim=-1)
    return offsets if declared.form == "offsets" else numbers(offsets, shape[-1])


def _longest(spec: Spec, n: int) -> int:
    """Twice the largest number of a pattern that fits, if it takes a long document to show what that does; else 0."""
    nodes = (node for branch in spec.branches for node in contents.walk(branch.pred))
    largest = max((abs(node.value) for node in nodes if isinstance(node, e.Int) and abs(node.value) < n), default=0)
    if 2 * largest <= _DOCUMENT:
        return 0
    return min(2 * largest, n * 3 // 4 if largest < n * 3 // 4 else n)


def example_shape(
    spec: Spec, declared: Input, sizes: Sizes, vectors: Mapping[str, int] | None = None
) -> tuple[int, ...]:
    """The shape of an example: what is whatever comes reaches as far as it is read, lists of what is chosen have 16."""
    shape = shape_in(declared, {**sizes.parameters(0, 0), **(vectors or {})})
    if declared.form != "plain":
        shape = (*shape[:-1], sizes.parameters(0, 0)["m"])
    return tuple(_reach(spec, declared, axis, sizes) if x is None else x for axis, x in enumerate(shape))


_DOCUMENT, _CHOSEN, _FEW, _LOOK, _CHUNK = 500, 16, 8, 256, 256


def _reach(spec: Spec, declared: Input, axis: int, sizes: Sizes) -> int:
    """How many entries of a dimension are read, at least by the positions that are looked at."""
    places = np.unique([*range(_LOOK), *np.linspace(0, max(sizes.n, sizes.n_q) - 1, 3, dtype=np.int64)])
    q, k = sizes.first + places[places < sizes.n_q][:, None], places[places < sizes.n]
    last = sizes.parameters(sizes.heads - 1, sizes.batch - 1)
    env = {**last, "q": q, "k": k, "q_slot": q, "k_slot": k}
    found = []
    for root in spec.roots:
        for node in contents.walk(root):
            if isinstance(node, (e.Read, e.Flag, e.Among, RealRead)) and node.name == declared.name:
                index = node.indices[axis] if axis < len(node.indices) else None
                if index is None:
                    found.append(_CHOSEN)
                elif contents.free(index) <= env.keys() and not inputs_of([index]):
                    found.append(int(np.max(value_of(index, env)[0], initial=0)) + 1)
    return max(found, default=_FEW)


def _spread(spec: Spec, name: str, sizes: Sizes) -> tuple[int, int]:
    """From where to where (excluded) the values of an integer input should lie."""
    ends = product((sizes.first, sizes.n_q - 1 + sizes.first), (0, sizes.n - 1))
    envs = [{**sizes.parameters(0, 0), "q": q, "k": k, "q_slot": q, "k_slot": k} for q, k in ends]
    for root in spec.roots:
        for node in contents.walk(root):
            if isinstance(node, (e.FloorDiv, e.Mod)) and name in inputs_of([node.right]):
                chunk = max(1, min(_CHUNK, sizes.n // 4))  # as it would stand in a spec, whatever the length
                return chunk, chunk + 1
            others: list[e.IntExpr] = []
            bound = False
            if isinstance(node, e.Among) and node.name == name:
                others = [node.item]
            elif isinstance(node, e.Cmp):
                sides, bound = (node.left, node.right), node.op not in ("==", "!=")
                others = [b for a, b in (sides, sides[::-1]) if isinstance(a, e.Read) and a.name == name]
            for other in others:
                if any(isinstance(n, e.Read) for n in contents.walk(other)):
                    if not bound:
                        return 0, 8
                elif contents.free(other) <= envs[0].keys() and (
                    not bound or contents.free(other) & (e.POSITIONS | e.SLOTS)
                ):
                    highest = max(int(value_of(other, env)[0]) for env in envs)
                    return (1, max(1, highest + 1) + 1) if bound else (0, highest + 1)
    return 1, sizes.n + 1
