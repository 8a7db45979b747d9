"""What is done before a kernel as operators, for torch.compile, torch.export and all else that traces.

Inputs made ready and the tables of rotations depend on what tensors hold, and on numbers where a trace has symbols. So
each is one operator without gradients: a trace sees the shapes of its results. (Float inputs, which have gradients, go
round it.) All take q, k and tensors by name, in one list, for a list without tensors cannot always be passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError, check_tensors
from attnspec.runtime.core.program import decode
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import is_wide, sizes_of
from attnspec.runtime.core.visible import traced, transforming
from attnspec.runtime.prepare.frequencies import rotated_dims
from attnspec.runtime.prepare.inputs import check, prepare, reads
from attnspec.runtime.prepare.order import lsh
from attnspec.runtime.prepare.rotate import rotation_tables
from attnspec.spec import contents, exact
from attnspec.spec import expr as e
from attnspec.spec.axes import solve
from attnspec.spec.parts import Input
from attnspec.spec.spec import Spec

ORDER = "order"
BUCKET = "order.bucket"

LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]
GIVEN = "Tensor[] tensors, str[] names, str program"
"""In schemas: q, k and tensors that go by name, and the program."""


class Given(NamedTuple):
    """What operators take, unpacked."""

    spec: Spec
    q: Tensor
    k: Tensor
    found: dict[str, Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], names: Sequence[str], program: str) -> Given:
        """From the arguments of a schema."""
        q, k, *rest = tensors
        return cls(spec_of(decode(program)), q, k, dict(zip(names, rest, strict=True)))


def define(
    name: str,
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    devices: tuple[str, ...] = ("CPU", "CUDA"),  # CUDA serves ROCm too
) -> None:
    """An operator ``attnspec::name`` for tensors on these devices, and what traces see of its results."""
    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    for device in devices:
        LIBRARY.impl(name, implementation, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"attnspec::{name}", fake, lib=LIBRARY)


def refuse(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    """The backward pass of backward. Raises NotImplementedError."""
    raise NotImplementedError(
        "attnspec has no second derivatives (create_graph=True): there is no backward of the backward kernel. "
        'target="dense" has them'
    )


def in_places(made: Sequence[Tensor], names: Sequence[str], wanted: Sequence[str]) -> list[Tensor | None]:
    """Gradients of q, k, v and of the inputs that are ``wanted``, in the places of all inputs of these names."""
    by_name = dict(zip(wanted, made[3:], strict=True))
    return [*made[:3], *(by_name.get(name) for name in names)]


def ready(
    spec: Spec,
    program: str,
    made: Sequence[str],
    floats: Collection[str],
    q: Tensor,
    k: Tensor,
    inputs: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The tensors that a kernel and what stands around it read, by name; for an order its slots too.

    ``made`` are the names of :func:`made_names`, ``floats`` those of the float inputs that become float32. Raises
    CallError where an input does not fit.
    """
    if not traced(q, *(t for t in inputs.values() if isinstance(t, Tensor))):
        sizes = sizes_of(spec, q, k)
        if not transforming():
            return _all(spec, sizes, q, inputs, is_wide(q, k))
        check(spec, sizes, inputs, q.device)
    check_tensors(spec.name, inputs)
    found: dict[str, Tensor] = {}
    if made or inputs:
        tensors = [t.detach() for t in (q, k, *inputs.values())]
        found = dict(zip(made, ready_operator(tensors, list(inputs), program, _wide(q, k)), strict=False))
    rest = {name: t for name, t in inputs.items() if name not in found}
    return found | {name: t.float().contiguous() if name in floats else t for name, t in rest.items()}


def traced_tables(program: str, q: Tensor, k: Tensor, found: Mapping[str, Tensor]) -> list[Tensor]:
    """What :func:`attnspec.runtime.prepare.rotate.rotation_tables` gives, where tensors are traced."""
    tensors = [q.detach(), k.detach(), *found.values()]
    return angles_operator(tensors, list(found), program)  # type: ignore[no-any-return]


def _all(spec: Spec, sizes: Sizes, q: Tensor, inputs: Mapping[str, Tensor], wide: bool) -> dict[str, Tensor]:
    return with_order(spec, q, inputs, prepare(spec, sizes, inputs, wide=wide, device=q.device))


def with_order(spec: Spec, q: Tensor, inputs: Mapping[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that are made ready, and what stands in each slot of an order."""
    if spec.order is not None:
        slots = lsh(q, spec.order, inputs.get("buckets"))
        found |= {ORDER: slots.order, BUCKET: slots.bucket}
    return found


def made_names(spec: Spec) -> list[str]:
    """What the operator returns: everything but float inputs."""
    floats = {i.name for i in spec.inputs if i.kind == "float"}
    found = {name for name in reads(spec) | {i.name for i in spec.inputs} if name not in floats}
    return sorted(found | ({ORDER, BUCKET} if spec.order is not None else set()))


def _wide(q: Tensor, k: Tensor) -> bool:
    """Whether positions need 64 bits. Not in what is exported: asking would bound a length that may vary."""
    return not torch.compiler.is_exporting() and is_wide(q, k)


def _ready(tensors: Sequence[Tensor], names: Sequence[str], program: str, wide: bool) -> list[Tensor]:
    spec, q, k, inputs = Given.of(tensors, names, program)
    if is_wide(q, k) and not wide:
        length = max(q.shape[2], k.shape[2])
        raise CallError(
            f"{spec.name}: an exported call has at most {NARROW_LENGTH:,} positions; this one has {length:,}"
        )
    found = _all(spec, sizes_of(spec, q, k), q, inputs, wide)
    made = [found[name] for name in made_names(spec)]
    # Results must not be arguments. One without results could not be saved (torch.export).
    return [t.clone() if any(t is given for given in tensors) else t for t in made] or [q.new_empty(0)]


def _fake_ready(tensors: Sequence[Tensor], names: Sequence[str], program: str, wide: bool) -> list[Tensor]:
    spec, q, k, inputs = Given.of(tensors, names, program)
    fixed = all(isinstance(size, int) for t in tensors for size in t.shape)
    check(spec, sizes_of(spec, q, k) if fixed else None, inputs, q.device)
    known = {i.name: i for i in spec.inputs}
    shapes = _Shapes(spec, q, k, inputs)
    whole = torch.int64 if wide else torch.int32

    def fake(name: str) -> Tensor:
        if name in (ORDER, BUCKET):
            assert spec.order is not None
            return q.new_empty((q.shape[0], q.shape[1], spec.order.rounds * q.shape[2]), dtype=torch.int32)
        if name == "alibi.slope":
            return q.new_empty((q.shape[1],), dtype=torch.float32)
        declared = known[name.split(".")[0]]
        return q.new_empty(shapes.of(declared), dtype=torch.uint8 if declared.kind == "bool" else whole)

    return [fake(name) for name in made_names(spec)] or [q.new_empty(0)]


class _Shapes:
    """The shapes of inputs made ready, in sizes that may be symbols. Nothing is compared: the operator does that."""

    def __init__(self, spec: Spec, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> None:
        self.spec, self.inputs = spec, inputs
        (batch, heads, n_q, _), (_, kv_heads, n, _) = q.shape, k.shape
        self.env: dict[str, Any] = {"n": n, "n_q": n_q, "heads": heads, "kv_heads": kv_heads, "batch": batch}
        if not spec.axes:
            self.env["m"] = n

    def of(self, declared: Input) -> tuple[Any, ...]:
        """The shape of an input: that of what is given, where its entries stay what they are."""
        given = self.inputs.get(declared.name)
        if given is None:
            return tuple(self._size(size) for size in declared.sizes)
        return (*given.shape[:-1], self._size(e.Var("m"))) if declared.form == "offsets" else tuple(given.shape)

    def _size(self, size: e.IntExpr) -> Any:
        if "m" in contents.free(size) and "m" not in self.env:
            n, n_q = self.env["n"], self.env["n_q"]
            fixed = isinstance(n, int) and isinstance(n_q, int)
            self.env["m"] = solve(self.spec.axes, n, n_q) if fixed else torch.library.get_ctx().new_dynamic_size()
        return exact.integer(size, self.env)


def _angles(tensors: Sequence[Tensor], names: Sequence[str], program: str) -> list[Tensor]:
    spec, q, k, found = Given.of(tensors, names, program)
    made = rotation_tables(spec, q, k, sizes_of(spec, q, k), found)
    shapes = [fake.shape for fake in _fake_angles(tensors, names, program)]
    # Copies, because those that are kept must not be written over, and of these the memory is used again.
    return [t.expand(shape).clone() for t, shape in zip(made, shapes, strict=True)]


def _fake_angles(tensors: Sequence[Tensor], names: Sequence[str], program: str) -> list[Tensor]:
    spec, q, k, _ = Given.of(tensors, names, program)
    tables: list[Tensor] = []
    for rotation in spec.rotations:
        for expr, side, x in ((rotation.q, "q", q), (rotation.k, "k", k)):
            free = frozenset().union(*(contents.free(node) for node in (expr, *rotation.formulas)))
            lead = (q.shape[0] if "b" in free else 1, q.shape[1] if "h" in free else 1)
            same = rotation.constant and expr == e.Var(side)
            shape = (*(() if same else lead), x.shape[2], rotated_dims(rotation, x.shape[3]) // 2)
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            tables += [x.new_empty(shape, dtype=dtype) for _ in range(2)]
    return tables


def _angles_backward(
    gradients: Sequence[Tensor], tensors: Sequence[Tensor], names: Sequence[str], program: str
) -> list[Tensor]:
    """Gradients of the float inputs that rotations read, in their order."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(i > 1 and t.is_floating_point()) for i, t in enumerate(tensors)]
        made = _angles(leaves, names, program)
        floats = [t for t in leaves if t.requires_grad]
        pairs = [(t, by) for t, by in zip(made, gradients, strict=True) if t.requires_grad]
        found = torch.autograd.grad([t for t, _ in pairs], floats, [by for _, by in pairs], allow_unused=True)
    return [torch.zeros_like(t) if d is None else d for t, d in zip(floats, found, strict=True)]


def _fake_angles_backward(
    gradients: Sequence[Tensor], tensors: Sequence[Tensor], names: Sequence[str], program: str
) -> list[Tensor]:
    return [torch.empty_like(t) for t in tensors[2:] if t.is_floating_point()]


def _keep_angles(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, ctx.names, ctx.program = inputs
    ctx.save_for_backward(*tensors)


def _gradients_of_angles(ctx: Any, gradients: Sequence[Tensor]) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    floats = iter(torch.ops.attnspec.angles_backward.default(list(gradients), tensors, ctx.names, ctx.program))
    return [next(floats) if i > 1 and t.is_floating_point() else None for i, t in enumerate(tensors)], None, None


define("ready", f"({GIVEN}, bool wide) -> Tensor[]", _ready, _fake_ready)
ready_operator = torch.ops.attnspec.ready.default
define("angles", f"({GIVEN}) -> Tensor[]", _angles, _fake_angles)
define("angles_backward", f"(Tensor[] gradients, {GIVEN}) -> Tensor[]", _angles_backward, _fake_angles_backward)
torch.library.register_autograd("attnspec::angles", _gradients_of_angles, setup_context=_keep_angles, lib=LIBRARY)
angles_operator = torch.ops.attnspec.angles.default
