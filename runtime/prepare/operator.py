"""The inputs of a call made ready for kernels, in a form that torch.compile can keep in its graph.

What :func:`attnspec.runtime.prepare.inputs.prepare` and :func:`attnspec.runtime.prepare.order.lsh` do depends on the
contents of tensors: under torch.compile it is one operator without gradients. Float inputs, which have gradients, go
round it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import decode
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.visible import visible
from attnspec.runtime.prepare.inputs import check, prepare, reads, shape_of
from attnspec.runtime.prepare.order import lsh
from attnspec.spec.spec import Spec

ORDER = "order"
BUCKET = "order.bucket"

_LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "ready(Tensor q, Tensor[] given, str[] names, SymInt[] sizes, bool wide, str program) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def ready(
    spec: Spec,
    program: str,
    made: Sequence[str],
    floats: Collection[str],
    sizes: Sizes,
    q: Tensor,
    inputs: Mapping[str, Tensor],
    wide: bool,
) -> dict[str, Tensor]:
    """The tensors that a kernel and what stands around it read, by name; for an order its slots too.

    ``made`` are the names of :func:`made_names`, ``floats`` those of the float inputs. Raises CallError where an input
    does not fit.
    """
    if visible(q, *inputs.values()):
        return _all(spec, sizes, q, inputs, wide)
    if not torch.compiler.is_compiling():
        check(spec, sizes, inputs, q.device)
    found: dict[str, Tensor] = {}
    if made or inputs:
        given = [t.detach() for t in inputs.values()]
        numbers = [sizes.n, sizes.n_q, sizes.heads, sizes.kv_heads, sizes.batch, -1 if sizes.m is None else sizes.m]
        tensors = torch.ops.attnspec.ready.default(q.detach(), given, list(inputs), numbers, wide, program)
        for name, tensor in zip(made, tensors, strict=True):
            found[name] = tensor
    for name, tensor in inputs.items():
        if name in floats:
            found[name] = tensor.float().contiguous()
    return found


def _all(spec: Spec, sizes: Sizes, q: Tensor, inputs: Mapping[str, Tensor], wide: bool) -> dict[str, Tensor]:
    found = prepare(spec, sizes, inputs, wide=wide, device=q.device)
    if spec.order is not None:
        slots = lsh(q, spec.order, inputs.get("buckets"))
        found = {**found, ORDER: slots.order, BUCKET: slots.bucket}
    return found


def made_names(spec: Spec) -> list[str]:
    """What the operator returns: everything but float inputs."""
    floats = {i.name for i in spec.inputs if i.kind == "float"}
    found = {name for name in reads(spec) | {i.name for i in spec.inputs} if name not in floats}
    return sorted(found | ({ORDER, BUCKET} if spec.order is not None else set()))


def _sizes(spec: Spec, numbers: Sequence[int]) -> Sizes:
    n, n_q, heads, kv_heads, batch, m = numbers
    return Sizes(n, n_q, heads, kv_heads, batch, spec.align == "end", None if m < 0 else m)


def _ready(
    q: Tensor, given: Sequence[Tensor], names: Sequence[str], sizes: Sequence[int], wide: bool, program: str
) -> list[Tensor]:
    spec = spec_of(decode(program))
    found = _all(spec, _sizes(spec, sizes), q, dict(zip(names, given, strict=True)), wide)
    return [found[name].clone() if any(found[name] is t for t in given) else found[name] for name in made_names(spec)]


for _device in ("CPU", "CUDA"):  # CUDA serves ROCm too
    _LIBRARY.impl("ready", _ready, _device)  # type: ignore[no-untyped-call]


@torch.library.register_fake("attnspec::ready", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _(
    q: Tensor, given: Sequence[Tensor], names: Sequence[str], sizes: Sequence[int], wide: bool, program: str
) -> list[Tensor]:
    spec = spec_of(decode(program))
    known, numbers = {i.name: i for i in spec.inputs}, _sizes(spec, sizes)
    whole = torch.int64 if wide else torch.int32

    def fake(name: str) -> Tensor:
        if name in (ORDER, BUCKET):
            assert spec.order is not None
            return q.new_empty((q.shape[0], q.shape[1], spec.order.rounds * q.shape[2]), dtype=torch.int32)
        if name == "alibi.slope":
            return q.new_empty((q.shape[1],), dtype=torch.float32)
        declared = known[name.split(".")[0]]
        dtype = torch.uint8 if declared.kind == "bool" else whole
        shape = shape_of(declared, numbers)
        if declared.form == "offsets":  # they are read by position
            shape = (*shape[:-1], numbers.n if numbers.m is None else numbers.m)
        sizes_given = given[names.index(declared.name)].shape if None in shape else ()  # what is drawn has no such size
        return q.new_empty([sizes_given[i] if x is None else x for i, x in enumerate(shape)], dtype=dtype)

    return [fake(name) for name in made_names(spec)]
