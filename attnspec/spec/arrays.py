"""What the inputs of a spec hold, in numpy: checked, completed, and with what is derived from them.

>>> from attnspec.check.check import check_text
>>> spec = check_text("attention a { input doc: int[n] offsets  attend first(doc, q) <= k and k <= q }")
>>> arrays = derive(spec, {"doc": [0, 2, 5]}, spec.sizes(5))
>>> arrays["doc"].tolist(), arrays["doc.first"].tolist(), arrays["doc.last"].tolist()
([0, 0, 1, 1, 1], [0, 0, 2, 2, 2], [1, 1, 4, 4, 4])
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.errors.catalogue import did_you_mean
from attnspec.spec import exact
from attnspec.spec.parts import Input, Pattern
from attnspec.spec.shapes import Shape, fits, shape_in, written

Array = NDArray[Any]
_KINDS = {"int": ("iu", np.int64, "integers"), "bool": ("b", np.bool_, "booleans"), "float": ("f", np.float64, "reals")}


def derive(
    spec: Pattern, inputs: Mapping[str, Any], sizes: Mapping[str, int], only: Collection[str] | None = None
) -> dict[str, Array]:
    """The arrays under all names that core expressions read, from the arrays of a call; of ``only`` some inputs.

    ``sizes`` are those of :meth:`attnspec.spec.spec.Spec.sizes`. An input declared ``random`` is drawn where it is not
    given. Raises ValueError, with the name and the shapes, where an input is missing, unknown or does not fit.
    """
    check_names(spec, inputs)
    arrays: dict[str, Array] = {"alibi.slope": slopes(sizes["heads"])}
    for declared in spec.inputs:
        if only is not None and declared.name not in only:
            continue
        array = _given(spec, declared, inputs, sizes)
        if declared.form == "offsets":
            array = documents(_name(spec, declared), array, sizes["m"])
        elif declared.form == "sorted" and bool((np.diff(array, axis=-1) < 0).any()):
            raise ValueError(f"{_name(spec, declared)} is declared sorted, but its values decrease somewhere")
        arrays[declared.name] = array
        if declared.form != "plain":
            arrays[f"{declared.name}.first"], arrays[f"{declared.name}.last"] = runs(array)
    if spec.order is not None:
        arrays["order.bucket"] = slots(spec, inputs, sizes)[1]
    return arrays


def _name(spec: Pattern, declared: Input) -> str:
    return f"the input `{declared.name}` of `{spec.name}`"


def check_names(spec: Pattern, inputs: Mapping[str, Any]) -> None:
    """Refuse what a spec has no input for. Raises ValueError."""
    known_names = [declared.name for declared in spec.inputs] + (["buckets"] if spec.order else [])
    for name in inputs:
        if name not in known_names:
            has = "its inputs are " + ", ".join(f"`{x}`" for x in known_names) if known_names else "it has no inputs"
            raise ValueError(f"`{spec.name}` has no input `{name}`: {did_you_mean(name, known_names) or has}")


def _given(spec: Pattern, declared: Input, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> Array:
    """The array of an input, of the declared shape and kind."""
    if declared.name in inputs:
        return array_of(spec, declared, inputs[declared.name], sizes)
    if declared.random is not None:
        return drawn_for(spec, declared, sizes)
    raise ValueError(
        f"{_name(spec, declared)} is missing: `{declared}`, here of the shape "
        f"{written(declared, _shape(spec, declared, sizes))}"
    )


def _shape(spec: Pattern, declared: Input, sizes: Mapping[str, int]) -> Shape:
    try:
        return shape_in(declared, sizes)
    except (exact.Unknown, exact.TooLarge):
        raise ValueError(f"{_name(spec, declared)} has no size in this call: `{declared}`") from None


def drawn_for(spec: Pattern, declared: Input, sizes: Mapping[str, int]) -> Array:
    """What an input declared ``random`` holds where a call does not give it. Raises ValueError for an empty range."""
    assert declared.random is not None
    shape = tuple(size for size in _shape(spec, declared, sizes) if size is not None)  # all of them: they are declared
    low, high = (exact.integer(end, sizes) for end in (declared.random.low, declared.random.high))
    if low >= high and 0 not in shape:
        raise ValueError(f"{_name(spec, declared)} cannot be drawn from the empty range {low}..{high}")
    return drawn(shape, low, high, declared.random.seed)


def array_of(spec: Pattern, declared: Input, value: Any, sizes: Mapping[str, int]) -> Array:
    """What is given for an input, as an array of the declared kind. Raises ValueError where it does not fit."""
    where, shape = _name(spec, declared), _shape(spec, declared, sizes)
    array = np.asarray(value)
    kinds, dtype, word = _KINDS[declared.kind]
    if array.dtype.kind not in kinds:
        raise ValueError(f"{where} holds {word}, but was given {array.dtype}")
    if not fits(shape, array.shape):
        raise ValueError(f"{where} has the shape {written(declared, shape)}: `{declared}`; was given {array.shape}")
    return array.astype(dtype)


def drawn(shape: tuple[int, ...], low: int, high: int, seed: int) -> Array:
    """What an input declared ``random`` holds where the call does not give it: it follows from shape, range and seed.

    >>> drawn((2, 3), 0, 100, seed=1).tolist()
    [[47, 51, 75], [95, 3, 14]]
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.integers(low, high, size=shape) if 0 not in shape else np.empty(shape, dtype=np.int64)


def documents(where: str, offsets: Array, n: int) -> Array:
    """The number of the document at each of n positions, from the offsets (.., documents + 1) at which they begin."""
    if not offsets.shape[-1] or (offsets[..., 0] != 0).any():
        raise ValueError(f"{where} must begin with offset 0")
    if (offsets[..., -1] != n).any():
        raise ValueError(f"{where} must end with offset n, which is {n}")
    if (np.diff(offsets, axis=-1) < 0).any():
        raise ValueError(f"{where} holds offsets that decrease")
    begun = offsets[..., None, 1:-1] <= np.arange(n)[:, None]
    numbers: Array = begun.sum(-1)
    return numbers


def runs(values: Array) -> tuple[Array, Array]:
    """The first and last position of the run of equal values that each position is in, along the last dimension."""
    n = values.shape[-1]
    place = np.broadcast_to(np.arange(n), values.shape)
    if not values.size:
        return place, place
    edge = values[..., 1:] != values[..., :-1]
    ends = np.ones((*values.shape[:-1], 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([ends, edge], -1), place, 0), axis=-1)
    last = np.where(np.concatenate([edge, ends], -1), place, n)[..., ::-1]
    return first, np.minimum.accumulate(last, axis=-1)[..., ::-1]


def slopes(heads: int) -> Array:
    """The slope of each head in ALiBi (Press et al., 2022).

    >>> slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    if heads < 1:
        return np.empty(0)
    whole = 2 ** (heads.bit_length() - 1)
    first = [2.0 ** (-8.0 * (h + 1) / whole) for h in range(whole)]
    between = [2.0 ** (-4.0 * (h + 1) / whole) for h in range(0, 2 * whole, 2)]
    return np.array([*first, *between[: heads - whole]])


def slots(spec: Pattern, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[Array, Array]:
    """The position in each slot of an order, and its bucket, both (batch, heads, rounds * n).

    In each round positions are sorted by (bucket, position). Buckets of different rounds are never equal: those of
    round r are counted from r times the number of buckets.
    """
    assert spec.order is not None
    where = f"the input `buckets` of `{spec.name}`"
    shape = (sizes["batch"], sizes["heads"], spec.order.rounds, sizes["n"])
    if "buckets" not in inputs:
        raise ValueError(f"{where} is missing: the bucket of each position in each round, here of the shape {shape}")
    buckets = np.asarray(inputs["buckets"])
    if buckets.dtype.kind not in "iu":
        raise ValueError(f"{where} holds integers, but was given {buckets.dtype}")
    if buckets.shape != shape:
        raise ValueError(f"{where} has the shape (batch, heads, rounds, n) = {shape}; was given {buckets.shape}")
    total = math.prod(spec.order.buckets)
    if buckets.size and not 0 <= buckets.min() <= buckets.max() < total:
        raise ValueError(f"{where} holds buckets from 0 to {total - 1}, but has {buckets.min()} to {buckets.max()}")
    places = np.argsort(buckets.astype(np.int64), axis=-1, kind="stable")
    sorted_ = np.take_along_axis(buckets.astype(np.int64), places, axis=-1)
    sorted_ += np.arange(spec.order.rounds)[:, None] * total
    flat = (*shape[:2], spec.order.rounds * sizes["n"])
    return places.reshape(flat), sorted_.reshape(flat)
