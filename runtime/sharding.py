"""Calls of distributed tensors: every process computes its batch entries and heads, without talking to the others.

>>> from torch.distributed.tensor import distribute_tensor, Shard  # doctest: +SKIP
>>> q, k, v = (distribute_tensor(t, mesh, [Shard(0), Shard(1)]) for t in (q, k, v))  # doctest: +SKIP
>>> attnspec.compile("causal")(q, k, v).placements  # doctest: +SKIP
(Shard(dim=0), Shard(dim=1))

Where q is sharded by the batch (``Shard(0)``) or by heads (``Shard(1)``), so are k, v and the inputs that have such a
dimension, and the results; other inputs are whole, and their gradients sums over the processes. Where that would change
what is computed, tensors are made whole along that dimension of the mesh, as DTensor does for operations that it cannot
share out, and every process computes all: a sharded sequence (``Shard(2)``) or head size, a pattern in which batch
entries or heads know of each other (see :mod:`attnspec.spec.split`), sizes that do not divide evenly, fewer key heads
than processes.

This is done to whole calls and not by ``register_sharding`` of the operators: what is prepared for a kernel (inputs,
rotations, orders, sinks) would be left outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.spec.spec import Spec
from attnspec.spec.split import apart, own_dims

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement


def distributed(*tensors: Tensor) -> bool:
    """Whether there is a DTensor among them. (Asked without importing torch.distributed, which takes long.)"""
    return any(type(t).__name__ == "DTensor" for t in tensors)


def call(
    attend: Callable[..., Any],
    spec: Spec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    **options: Any,
) -> Any:
    """A call of distributed tensors whose global shapes fit: ``attend`` of what is here, and its results put together.

    Raises CallError where some of them are not distributed, or over different meshes.
    """
    from torch.distributed.tensor import DTensor

    tensors = {"q": q, "k": k, "v": v, **{f"input `{name}`": t for name, t in inputs.items()}}
    for name, t in tensors.items():
        if not isinstance(t, DTensor):
            raise CallError(
                f"{spec.name}: {name} is a plain tensor and others are DTensors: distribute it over their mesh too, "
                "distribute_tensor(..., mesh, [Replicate()]) where it is the same in all processes"
            )
    spread = cast("dict[str, DTensor]", tensors)
    mesh = spread["q"].device_mesh
    for name, t in spread.items():
        if t.device_mesh != mesh:
            raise CallError(f"{spec.name}: {name} is distributed over {t.device_mesh}, q over {mesh}")
    cuts = _cuts(spec, spread["q"], spread["k"], inputs)
    own, of_inputs = {"b": 0, "h": 1}, {by: own_dims(spec, by) for by in "bh"}
    ours = [_local(spread[name], cuts, own) for name in "qkv"]
    given = {
        name: _local(spread[f"input `{name}`"], cuts, {by: of_inputs[by].get(name) for by in "bh"}) for name in inputs
    }
    results, where = attend(*ours, inputs=given, **options), _placements(cuts, own)
    if isinstance(results, Tensor):
        return DTensor.from_local(results, mesh, where, run_check=False)
    return tuple(DTensor.from_local(t, mesh, where, run_check=False) for t in results)


def _cuts(spec: Spec, q: DTensor, k: DTensor, inputs: Mapping[str, Tensor]) -> list[str]:
    """By what each dimension of the mesh cuts a call: ``"b"``, ``"h"``, or ``""`` where every process computes all."""
    from torch.distributed.tensor import Shard

    left = {"b": (q.shape[0],), "h": (q.shape[1], k.shape[1])}
    by_dim = {0: "b", 1: "h"}
    found = []
    for dim, placement in enumerate(q.placements):
        by, size = by_dim.get(placement.dim, "") if type(placement) is Shard else "", q.device_mesh.size(dim)
        if not by or any(number % size for number in left[by]) or not apart(spec, by, inputs.keys()):
            found.append("")
            continue
        left[by] = tuple(number // size for number in left[by])
        found.append(by)
    return found


def _placements(cuts: list[str], dims: Mapping[str, int | None]) -> list[Placement]:
    """Those of a tensor that has batch entries and heads in these dimensions."""
    from torch.distributed.tensor import Replicate, Shard

    places = [dims[by] if by else None for by in cuts]
    return [Replicate() if dim is None else Shard(dim) for dim in places]


def _local(t: DTensor, cuts: list[str], dims: Mapping[str, int | None]) -> Tensor:
    """What is here of a tensor. The gradient of what all processes have is the sum of what each computes of it."""
    from torch.distributed.tensor import Partial

    places = _placements(cuts, dims)
    sums = [Partial() if by and dims[by] is None else place for by, place in zip(cuts, places, strict=True)]
    return t.redistribute(placements=places).to_local(grad_placements=sums)
