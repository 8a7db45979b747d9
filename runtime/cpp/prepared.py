"""A kernel with its argument, for calls of one form: what is left to a call are addresses, the scale and the threads.

They are kept by all that decides them: the program, the part that a call holds, element type, shapes and strides.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from attnspec.codegen.cpp.unit import FEW, KernelKey, LinearKey
from attnspec.codegen.expressions.reads import names as names_of
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.form import Form, Room, like, room
from attnspec.runtime.core.pages import Pages
from attnspec.runtime.core.program import Program, decode, facts, spec
from attnspec.runtime.core.request import Call, Part
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.entries import pages_of
from attnspec.runtime.cpp.load import Native, native
from attnspec.runtime.cpp.packed import Packed
from attnspec.runtime.cpp.threads import threads

Turning = tuple[bool, Form, Form, Form, Form]
"""Whether neighbours are pairs, and the shapes and strides of the cosines and of the sines that queries turn by."""
_WHOLE = (torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A kernel for calls of one form. ``sizes`` are those without scalars; ``reads``: it reads more than q, k and v.

    ``branches``: how many branches of a mixture keep results of their own, 0: none. ``results`` are what the output,
    the log-sum-exp and the norm are made from, or the gradients of q, k and v.
    """

    kernel: Native
    program: Program
    sizes: Sizes
    reads: bool
    branches: int
    results: tuple[Room, ...]
    argument: Packed

    def run(self, call: Call, addresses: Sequence[int], tables: Sequence[int] = ()) -> None:
        """Run it. ``addresses`` are those of tensors, in the order of the structure; ``tables`` come at its end.

        Raises MemoryError where there is not enough for the workspaces.
        """
        kernel, passes, inputs, pages = self.kernel, 0, 0, 0
        kind, sizes = torch.int64 if kernel.wide else torch.int32, self.sizes
        if not kernel.plain:
            sizes = replace(sizes, scalars=found) if (found := call.scalars()) else sizes
            if call.pages is None:
                order = None if call.order is None else call.order.to(kind)
                fixed = problem.passes_of(self.program, sizes, kernel.wide, order)
                passes = ctypes.addressof(fixed.passes)
        given, array = call.inputs, None
        if self.reads:
            if kernel.wide or sys.byteorder == "big":
                given = [t.to(kind) if t.dtype in _WHOLE else t for t in given]
            array = _inputs(call.encoded, kernel.wide, tuple([(t.dtype, t.shape, t.stride()) for t in given]))(given)
            inputs = ctypes.addressof(array)
        if call.pages is not None:
            call.check_length(kernel.longest)
            held, _keep = pages_of(self.program, kernel, sizes, call.pages, call.k.shape[2], given, array)
            pages = ctypes.addressof(held)
        if kernel.function(self.argument(passes, inputs, pages, *addresses, call.scale, threads(), *tables)):
            raise MemoryError("attnspec: not enough memory for the workspace of a kernel")


@functools.lru_cache(maxsize=256)
def _inputs(program: str, wide: bool, forms: tuple[tuple[torch.dtype, Form, Form], ...]) -> problem.Inputs:
    return problem.Inputs(decode(program), wide, forms)


@functools.lru_cache(maxsize=512)
def forward(
    program: str,
    part: Part | None,
    bound: int | None,
    keep: bool,
    dtype: torch.dtype,
    q_shape: Form,
    q_strides: Form,
    k_shape: Form,
    k_strides: Form,
    v_shape: Form,
    v_strides: Form,
    into: Form | None,
    turning: Turning | None,
) -> Prepared:
    """The forward pass: of q, k, v, the output, lse and norm; ``tables`` are cosines and sines.

    ``bound`` is that of the lengths where keys lie in pages, ``into`` the strides of an output that is
    added to; else it is contiguous.
    """
    q, k, v = like(q_shape, q_strides, dtype), like(k_shape, k_strides, dtype), like(v_shape, v_strides, dtype)
    pages = None if bound is None else Pages(q, (bound,))  # of the table nothing is asked
    call = Call(q, k, v, (), None, None, 0.0, program, part, pages)
    direction = "decode" if _is_few(call) else "forward"
    key, names = _key(direction, call, into is not None), ["q", "k", "v", "out", "lse", "norm", "scale", "threads"]
    if turning is not None:
        key = replace(key, turn=2 * turning[1][-1], pairs=turning[0])
        names += ["cos", "sin"]
    kernel = native_of(call, key)
    branches, sizes = facts(call.program).separate if keep else 0, call.sizes
    out = q.new_empty((*q_shape[:3], v_shape[3]))
    branch = out.numel() if branches else 0
    out = out if into is None else like(out.shape, into)
    tensors = map(problem.tensor_of, (q, k, v, out))
    whole = problem.ForwardProblem(problem.sizes_of(sizes), *tensors, 0, 0, branch, 0.0, 0)
    if turning is not None:
        tables = [problem.expanded(like(*table), q) for table in (turning[1:3], turning[3:])]
        whole.cos, whole.sin = map(problem.tensor_of, tables)
    many = (branches,) if branches else ()
    rows, kind = q_shape[:3], torch.float32 if kernel.carry else dtype
    results = room((*many, *rows, v_shape[3]), kind), room((*many, *rows)), room((*many, 3, *rows))
    return Prepared(kernel, call.program, sizes, reads(call), branches, results, packed(whole, names))


@functools.lru_cache(maxsize=512)
def backward(
    program: str,
    part: Part | None,
    dtype: torch.dtype,
    q_shape: Form,
    q_strides: Form,
    k_shape: Form,
    k_strides: Form,
    v_shape: Form,
    v_strides: Form,
    out_strides: Form,
    dout_strides: Form,
    into: tuple[Form, Form, Form] | None,
) -> Prepared:
    """The backward pass: of q, k, v, out, dout, dq, dk, dv, lse, norm, dlse and gradients of inputs.

    ``into`` are the strides of dq, dk and dv that are added to; else they are contiguous.
    """
    q, k, v = like(q_shape, q_strides, dtype), like(k_shape, k_strides, dtype), like(v_shape, v_strides, dtype)
    call = Call(q, k, v, (), None, None, 0.0, program, part)
    kernel, branches, sizes = (
        native_of(call, _key("backward", call, into is not None)),
        facts(call.program).separate,
        call.sizes,
    )
    shape = (*q_shape[:3], v_shape[3])
    out, dout = like(shape, out_strides[-4:]), like(shape, dout_strides)
    results = [room(t.shape, torch.float32 if kernel.carry else dtype) for t in (q, k, v)]
    gradients = [like(*result[:2]) for result in results]
    if into is not None:
        gradients = [like(t.shape, strides) for t, strides in zip(gradients, into, strict=True)]
    tensors = map(problem.tensor_of, (q, k, v, out, dout, *gradients))
    branch = out_strides[0] if branches else 0
    whole = problem.BackwardProblem(problem.sizes_of(sizes), *tensors, 0, 0, 0, 0, branch, 0.0, 0)
    names = ["q", "k", "v", "out", "dout", "dq", "dk", "dv", "lse", "norm", "dlse", "gradients", "scale", "threads"]
    return Prepared(kernel, call.program, sizes, reads(call), branches, tuple(results), packed(whole, names))


def _is_few(call: Call) -> bool:
    """Whether a forward pass is by the kernel for few queries. They are fewer than keys: a computed order has none."""
    queries, keys = call.q.shape[2], call.k.shape[2] if call.pages is None else call.pages.longest
    return queries < keys and queries <= FEW[_dtype(call)]


def _dtype(call: Call) -> str:
    return str(call.q.dtype).removeprefix("torch.")


def _key(direction: str, call: Call, into: bool) -> KernelKey:
    dtype = _dtype(call)
    # Results of parts are float32: those of kernels that add are.
    carry = into or (call.part is not None and call.q.dtype != torch.float32)
    return KernelKey(direction, dtype, call.q.shape[3], call.v.shape[3], call.wide, carry=carry)


def native_of(call: Call, key: KernelKey | LinearKey) -> Native:
    """The kernel of a call. Raises CallError where the call is longer than its numbers are right for."""
    kernel = native(call.program, key, call.needed)
    if call.pages is None:
        call.check_length(kernel.longest)
    return kernel


def reads(call: Call) -> bool:
    """Whether its kernel reads more than q, k and v."""
    known = facts(call.program)
    return bool(known.arguments) or (not known.bare and bool(names_of(spec(call.program))))


def packed(whole: ctypes.Structure, names: Sequence[str]) -> Packed:
    """The structure of a problem, whose sizes' pointers and fields of these names come with a call."""
    codes = {"scale": "f", "threads": "i"}
    sizes = [(getattr(problem.Sizes, name).offset, "Q") for name in ("passes", "inputs", "pages")]  # at the beginning
    return Packed(whole, sizes + [(getattr(type(whole), name).offset, codes.get(name, "Q")) for name in names])
