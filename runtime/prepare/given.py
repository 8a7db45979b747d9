"""The inputs of a call that does not run: what a cost, a mask or a picture is asked with.

Values are those of a call (tensors, arrays, lists), or one number that stands everywhere; or examples are drawn, the
same ones whenever the sizes are the same. What they are is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.codegen.cost.counted import Contents, TooMany
from attnspec.relation.relation import inputs_of, scalar_names, scalars
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.prepare.divisors import check_divisors, divisors
from attnspec.runtime.prepare.example import documents, example, example_shape
from attnspec.runtime.prepare.inputs import shape_of
from attnspec.runtime.prepare.order import hash_buckets
from attnspec.spec.arrays import array_of, check_names, derive, drawn_for, slots
from attnspec.spec.parts import Input
from attnspec.spec.spec import Spec

_MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Given:
    """The arrays of a call by name, the sizes with the values of its scalar inputs, and what they are in words."""

    sizes: Sizes
    arrays: Mapping[str, NDArray[Any]]
    text: str


@dataclass(frozen=True)
class Lengths:
    """Documents of a mean length, drawn with a fixed seed: what may stand for an input that is sorted, or offsets."""

    mean: int


def tensors(spec: Spec, sizes: Sizes, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """As :func:`given`, as tensors of a call."""
    return {name: torch.from_numpy(array.copy()) for name, array in given(spec, sizes, inputs).arrays.items()}


def given(spec: Spec, sizes: Sizes, inputs: Mapping[str, Any]) -> Given:
    """Inputs that a caller gives, as arrays of the declared shapes; others may be missing.

    A value is a tensor, an array, a list, or one number for all entries. Raises CallError where one does not fit.
    """
    names = sizes.parameters(0, 0)
    try:
        check_names(spec, inputs)
        arrays = {
            declared.name: array_of(spec, declared, _whole(declared, inputs[declared.name], sizes), names)
            for declared in spec.inputs
            if declared.name in inputs
        }
        if "buckets" in inputs:
            arrays.setdefault("buckets", np.asarray(_plain(inputs["buckets"])))
    except ValueError as error:
        raise CallError(str(error)) from None
    check_divisors(spec.name, divisors(spec.roots), sizes, arrays)
    return _of(spec, sizes, arrays)


def examples(spec: Spec, sizes: Sizes) -> Given:
    """Example inputs, drawn with a fixed seed. Raises TooMany where they would be too large."""
    numbers = sum(int(np.prod([float(x) for x in example_shape(spec, item, sizes)])) for item in spec.inputs)
    if numbers > _MOST_NUMBERS:
        raise TooMany(f"example inputs would hold {numbers:,} numbers")
    tensors = example(spec, sizes, torch.Generator().manual_seed(0))
    found = _of(spec, sizes, {name: tensor.numpy() for name, tensor in tensors.items()})
    return found if spec.inputs or spec.order is None else replace(found, text="random vectors in the order")


def contents_of(spec: Spec, shown: Given) -> Contents | None:
    """What the pattern reads of the inputs; None where some that it reads are missing. Raises CallError.

    An order of which no buckets are given is that of random vectors.
    """
    if missing(spec, shown):
        return None
    s, read = shown.sizes, inputs_of(branch.pred for branch in spec.branches)
    names, arrays = s.parameters(0, 0), dict(shown.arrays)
    if spec.order is not None and "buckets" not in arrays:
        vectors = torch.randn(s.batch, s.heads, s.n, 64, generator=torch.Generator().manual_seed(0))
        arrays["buckets"] = hash_buckets(vectors, spec.order).numpy()
    try:
        found = derive(spec, arrays, names, only=read)
        return Contents(found, None if spec.order is None else slots(spec, arrays, names)[0])
    except ValueError as error:
        raise CallError(str(error)) from None


def missing(spec: Spec, shown: Given) -> str:
    """The inputs that the pairs of a pattern depend on and that are not given, in words; empty if there are none."""
    read = inputs_of(branch.pred for branch in spec.branches)
    names = (i.name for i in spec.inputs if i.name in read and i.name not in shown.arrays and i.random is None)
    return " and ".join(f"`{name}`" for name in names)


def whole(spec: Spec, sizes: Sizes, inputs: Mapping[str, Any]) -> Given:
    """As :func:`given`, of everything that the pairs depend on. Raises CallError where some of that is missing."""
    found = given(spec, sizes, inputs)
    if names := missing(spec, found):
        raise CallError(f"{spec.name}: the pairs depend on {names} too: give it as well")
    return found


def _of(spec: Spec, sizes: Sizes, arrays: Mapping[str, NDArray[Any]]) -> Given:
    """With the values of the scalar inputs; those declared random are drawn where they are not given."""
    names, read = sizes.parameters(0, 0), scalar_names(spec)
    random = {
        declared.name: drawn_for(spec, declared, names)
        for declared in spec.inputs
        if declared.random is not None and declared.name not in arrays and declared.name in read
    }
    words = [
        f"{declared.name} ({_kind(declared, arrays.get(declared.name))})"
        for declared in spec.inputs
        if declared.name in arrays or declared.random is not None
    ]
    words += ["buckets (as given)"] if "buckets" in arrays and spec.order is not None else []
    return Given(replace(sizes, scalars=scalars(spec, {**arrays, **random})), arrays, ", ".join(words))


def _whole(declared: Input, value: Any, sizes: Sizes) -> Any:
    """One number becomes an array of the declared shape (offsets have none: they are given whole)."""
    value = _plain(value)
    if isinstance(value, Lengths):
        if declared.form == "plain":
            raise ValueError(f"lengths are those of documents: `{declared}` is neither sorted nor offsets")
        whole = (*(size or 0 for size in shape_of(declared, sizes)[:-1]), sizes.parameters(0, 0)["m"])
        return documents(declared, whole, value.mean, torch.Generator().manual_seed(0)).numpy()
    if isinstance(value, (bool, int, float)):
        shape = shape_of(declared, sizes)
        known = [size for size in shape if size is not None]
        if len(known) == len(shape):
            return np.full(known, value)
        if declared.form == "plain":
            raise ValueError(f"one number is not enough for `{declared}`, whose sizes are not known: give all of it")
    return value


def _plain(value: Any) -> Any:
    """A tensor as an array."""
    if not isinstance(value, Tensor):
        return value
    return (value.float() if value.is_floating_point() else value).numpy(force=True)


def _kind(item: Input, array: NDArray[Any] | None) -> str:
    if array is None:
        return "drawn from its seed"
    if not array.size:
        return "empty"
    if item.form == "offsets":
        return f"documents of mean length {np.diff(array, axis=-1).mean():.0f}"
    if item.form == "sorted":
        runs = (np.diff(array, axis=-1) != 0).sum() + array.size // max(1, array.shape[-1])
        return f"documents of mean length {array.size / max(1, runs):.0f}"
    if item.kind == "bool":
        return f"true for {array.mean():.0%}"
    if item.kind == "float":
        return f"{array.min():.3g} to {array.max():.3g}"
    low, high = int(array.min()), int(array.max())
    return f"{low:,}" if low == high else f"integers from {low:,} to {high:,}"
