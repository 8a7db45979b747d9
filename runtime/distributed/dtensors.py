"""Calls over many ranks of DTensors: the rows that are here go in, and results have the placements of q.

>>> q, k, v = (DTensor.from_local(t, mesh, [Shard(0), Shard(2), Shard(1)]) for t in (q, k, v))  # doctest: +SKIP
>>> far(q, k, v).placements  # mesh: ("dp", "cp", "tp"); far is over mesh["cp"]  # doctest: +SKIP
(Shard(dim=0), Shard(dim=2), Shard(dim=1))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.distributed.transport import Transport
from attnspec.spec.spec import Spec
from attnspec.spec.split import apart, own_dims

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement

ROWS = 2
"""The dimension of q, k and v that is dealt out to the ranks."""


def call(
    far: Callable[..., Any],
    spec: Spec,
    transport: Transport,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    **options: Any,
) -> Any:
    """``far`` of what is here of q, k, v and the inputs; ``transport`` is that of its group.

    q, k and v are sharded alike: ``Shard(2)`` along the dimension of the mesh that is far's group, where the rows of
    each process are those that ``far.shard`` gives it, and along other dimensions ``Shard(0)``, ``Shard(1)`` or
    ``Replicate()``. Where heads are sharded far is planned for those that are here. Inputs come whole along far's
    group, and cut as q is along others; plain tensors where q is not cut.

    Raises CallError where placements are others, where the pattern tells cut heads or batch entries apart, and where
    some tensors are not distributed.
    """
    from torch.distributed.tensor import DTensor

    for label, t in (("q", q), ("k", k), ("v", v)):
        if not isinstance(t, DTensor):
            raise CallError(f"{spec.name}: {label} is a plain tensor and others are DTensors")
    mesh, places = cast("DTensor", q).device_mesh, cast("DTensor", q).placements
    for label, t in (("k", k), ("v", v)):
        other = cast("DTensor", t)
        if other.device_mesh != mesh or other.placements != places:
            raise CallError(
                f"{spec.name}: {label} is placed as {_said(other)}, and q as {_said(cast('DTensor', q))}: q, k and v "
                "are sharded alike"
            )
    cuts = _cuts(spec, cast("DTensor", q), cast("DTensor", k), transport, inputs)
    ours = [cast("DTensor", t).to_local() for t in (q, k, v)]
    given = {name: _input(spec, name, t, mesh, cuts) for name, t in inputs.items()}
    results = far(*ours, inputs=given, **options)
    if isinstance(results, Tensor):
        return DTensor.from_local(results, mesh, places, run_check=False)
    return tuple(DTensor.from_local(t, mesh, places, run_check=False) for t in results)


def _said(t: DTensor) -> str:
    names = t.device_mesh.mesh_dim_names or [str(dim) for dim in range(t.device_mesh.ndim)]
    return "(" + ", ".join(f"{name}: {place}" for name, place in zip(names, t.placements, strict=True)) + ")"


def _cuts(spec: Spec, q: DTensor, k: DTensor, transport: Transport, inputs: Mapping[str, Tensor]) -> list[str]:
    """What each dimension of the mesh cuts: ``"n"`` rows, ``"b"`` batch entries, ``"h"`` heads, ``""`` nothing."""
    from torch.distributed.tensor import Replicate, Shard

    found, left = [], {"b": [q.shape[0]], "h": [q.shape[1], k.shape[1]]}
    for dim, place in enumerate(q.placements):
        if type(place) is Replicate:
            found.append("")
            continue
        by = {0: "b", 1: "h", ROWS: "n"}.get(place.dim, "") if type(place) is Shard else ""
        if not by:
            raise CallError(
                f"{spec.name}: q is placed as {_said(q)}; of q, k and v batch entries, heads or rows may be sharded, "
                "and nothing else"
            )
        if by == "n" and not _is_group(q.device_mesh, dim, transport):
            raise CallError(
                f"{spec.name}: the rows of q are sharded as {_said(q)}, not over the ranks of this attention"
            )
        if by != "n":
            size = q.device_mesh.size(dim)
            if any(number % size for number in left[by]):
                what = (
                    f"{left[by][0]} batch entries" if by == "b" else f"{left[by][0]} heads and {left[by][1]} key heads"
                )
                raise CallError(f"{spec.name}: {what} cannot be dealt out evenly to {size} processes")
            if not apart(spec, by, inputs.keys()):
                what = "batch entries" if by == "b" else "heads"
                raise CallError(
                    f"{spec.name} tells {what} apart by number, and q is placed as {_said(q)}: keep them whole"
                )
            left[by] = [number // size for number in left[by]]
        found.append(by)
    if found.count("n") != 1:
        raise CallError(
            f"{spec.name}: q is placed as {_said(q)}: Shard({ROWS}) along one dimension of the mesh, far's, is wanted"
        )
    return found


def _is_group(mesh: DeviceMesh, dim: int, transport: Transport) -> bool:
    """Whether a dimension of a mesh has the processes of a transport."""
    from torch.distributed import get_process_group_ranks

    group = getattr(transport, "parent", None)
    return group is not None and get_process_group_ranks(mesh.get_group(dim)) == get_process_group_ranks(group)


def _input(spec: Spec, name: str, t: Tensor, mesh: DeviceMesh, cuts: list[str]) -> Tensor:
    """What is here of an input; the gradient of what all have is the sum of what each computes of it."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    if not isinstance(t, DTensor):
        if any(by in ("b", "h") for by in cuts):
            raise CallError(
                f"{spec.name}: input `{name}` is a plain tensor, and batch entries or heads of q are sharded: "
                "distribute it over their mesh too, with Replicate() where it is the same everywhere"
            )
        return t
    if t.device_mesh != mesh:
        raise CallError(f"{spec.name}: input `{name}` is distributed over {t.device_mesh}, q over {mesh}")
    dims = {by: own_dims(spec, by).get(name) for by in "bh"}
    places: list[Placement] = []
    sums: list[Placement] = []
    for by in cuts:
        dim = dims.get(by)
        places.append(Replicate() if dim is None else Shard(dim))
        sums.append(Partial() if by in dims and dim is None else places[-1])
    return t.redistribute(placements=places).to_local(grad_placements=sums)
