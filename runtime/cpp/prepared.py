"""A kernel with its argument, for calls of one form: what is left to a call are addresses, the scale and the threads.

They are kept by all that decides them: the program, the part that a call holds, element type, shapes and strides. For
few queries, parts and pages that is only what decides on the kernel: lengths, positions and strides come with a call
too, for they are others in every step of a generation.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.cpp.unit import FEW, KernelKey, LinearKey
from attnspec.codegen.expressions.reads import names as names_of
from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.relation.sizes import MOST, Sizes
from attnspec.runtime.core.form import Form, Room, like, room
from attnspec.runtime.core.program import Program, decode, facts, needed, spec
from attnspec.runtime.core.request import Call, Part, solved
from attnspec.runtime.cpp import structures as problem
from attnspec.runtime.cpp.entries import pages_of
from attnspec.runtime.cpp.load import Native, native
from attnspec.runtime.cpp.packed import Packed
from attnspec.runtime.cpp.threads import threads

Turning = tuple[bool, int]
"""Whether neighbours are pairs, and how many dimensions of a query turn."""
_FEW = {getattr(torch, name): most for name, most in FEW.items()}
_WHOLE = (torch.int32, torch.int64)
_NOTHING = 2
"""What a kernel returns that has nothing to write: ``NOTHING`` of the C++ text."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A kernel for calls of one form. ``sizes`` are those without scalars; ``reads``: it reads more than q, k and v.

    ``branches``: how many branches of a mixture keep results of their own, 0: none. ``results`` are what the output,
    the log-sum-exp and the norm are made from, or the gradients of q, k and v. Where sizes come with a call, ``sizes``
    is None; ``aligned`` says that the last query stands at the last key, ``solves`` that there are axes.
    """

    kernel: Native
    program: Program
    sizes: Sizes | None
    reads: bool
    branches: int
    results: tuple[Room, ...]
    argument: Callable[..., bytes]
    aligned: bool = True
    solves: bool = False

    def run(self, call: Call, fields: Sequence[int], tables: Sequence[int] = ()) -> bool:
        """Run it. False where it wrote nothing, for no query of a part sees one of its keys.

        ``fields`` are the addresses of tensors, in the order of the structure; ``tables`` come at its end.

        Where sizes come with a call, strides follow each address, and ``fields`` end with the stride of branches.
        Raises MemoryError where there is not enough for the workspaces, CallError where the call is too long.
        """
        kernel, passes, inputs, pages = self.kernel, 0, 0, 0
        kind = torch.int64 if kernel.wide else torch.int32
        numbers = () if self.sizes is not None else self._numbers(call)
        given, array = call.inputs, None
        if self.reads:
            if kernel.wide or sys.byteorder == "big":
                given = [t.to(kind) if t.dtype in _WHOLE else t for t in given]
            array = _inputs(call.encoded, kernel.wide, tuple([(t.dtype, t.shape, t.stride()) for t in given]))(given)
            inputs = ctypes.addressof(array)
        if not kernel.plain or call.pages is not None:
            passes, pages, _keep = self._beside(call, kind, given, array)
        done = kernel.function(self.argument(*numbers, passes, inputs, pages, *fields, call.scale, threads(), *tables))
        if done not in (0, _NOTHING):
            raise MemoryError("attnspec: not enough memory for the workspace of a kernel")
        return done == 0

    def _beside(self, call: Call, kind: torch.dtype, given: Sequence[Tensor], array: Any) -> tuple[int, int, Any]:
        """Where what passes need beside their loops stands, and where pages are described; and what holds both."""
        sizes = call.sizes if self.sizes is None else self.sizes
        if not self.kernel.plain and (found := call.scalars()):
            sizes = replace(sizes, scalars=found)
        if call.pages is not None:
            held = pages_of(self.program, self.kernel, sizes, call.pages, call.k.shape[2], given, array)
            return 0, ctypes.addressof(held[0]), held
        if self.sizes is None:
            fixed = problem.moving_passes(self.program, sizes, self.kernel.wide)
        else:
            order = None if call.order is None else call.order.to(kind)
            fixed = problem.passes_of(self.program, sizes, self.kernel.wide, order)
        return ctypes.addressof(fixed.passes), 0, fixed

    def _numbers(self, call: Call) -> tuple[int, ...]:
        """The numbers that the structure of sizes begins with."""
        (batch, heads, rows, _), (_, kv_heads, keys, _), part = call.q.shape, call.k.shape, call.part
        n, n_q = (keys, rows) if part is None else (part.n, part.n_q)
        longest = self.kernel.longest
        if call.pages is not None:
            call.check_length(longest)
            n = keys = call.pages.bound  # entries have their own
        elif n > longest or n_q > longest or n > MOST or n_q > MOST:
            call.check_length(longest)
            raise ValueError(f"n and n_q must be at most 2**33, not {n} and {n_q}")
        found = solved(call.encoded, n, n_q) if self.solves and call.pages is None else None
        m = n if found is None else found
        if part is None:
            first = n - n_q if self.aligned else 0
            return n, n_q, heads, kv_heads, batch, m, first, rows, 0, keys, 0, heads, kv_heads, 0, batch
        of_whole = n, n_q, part.heads, part.kv_heads, part.batch, m
        return *of_whole, part.q_start, rows, part.k_start, keys, part.h_start, heads, kv_heads, part.b_start, batch


@functools.lru_cache(maxsize=256)
def _inputs(program: str, wide: bool, forms: tuple[tuple[torch.dtype, Form, Form], ...]) -> problem.Inputs:
    return problem.Inputs(decode(program), wide, forms)


@functools.lru_cache(maxsize=512)
def forward(
    program: str,
    keep: bool,
    dtype: torch.dtype,
    q_shape: Form,
    q_strides: Form,
    k_shape: Form,
    k_strides: Form,
    v_shape: Form,
    v_strides: Form,
    turning: Turning | None,
    tables: tuple[Form, ...],
) -> Prepared:
    """The forward pass of whole calls: of q, k, v, the output, lse and norm, and of cosines and sines.

    ``tables`` are the shapes and strides of both.
    """
    q, k, v = like(q_shape, q_strides, dtype), like(k_shape, k_strides, dtype), like(v_shape, v_strides, dtype)
    call = Call(q, k, v, (), None, None, 0.0, program)
    key, names = _key("forward", call, False), ["q", "k", "v", "out", "lse", "norm", "scale", "threads"]
    if turning is not None:
        key = replace(key, turn=turning[1], pairs=turning[0])
        names += ["cos", "sin"]
    kernel = native_of(call, key)
    branches, sizes = facts(call.program).separate if keep else 0, call.sizes
    out = q.new_empty((*q_shape[:3], v_shape[3]))
    branch = out.numel() if branches else 0
    tensors = map(problem.tensor_of, (q, k, v, out))
    whole = problem.ForwardProblem(problem.sizes_of(sizes), *tensors, 0, 0, branch, 0.0, 0)
    if turning is not None:
        cos, sin = like(tables[0], tables[1]), like(tables[2], tables[3])
        whole.cos, whole.sin = (problem.tensor_of(problem.expanded(t, q)) for t in (cos, sin))
    results = _results(kernel, branches, q_shape[:3], v_shape[3], dtype)
    return Prepared(kernel, call.program, sizes, reads(call.program), branches, results, packed(whole, names))


def is_moving(call: Call) -> bool:
    """Whether sizes come with a forward pass: it has few queries, or it is one of a part or of keys in pages.

    Few queries of a whole call are fewer than keys, for their kernel knows no computed orders: parts and pages have
    none.
    """
    rows = call.q.shape[2]
    few = rows <= _FEW[call.q.dtype] and rows < call.k.shape[2]
    return few or call.part is not None or call.pages is not None


def moving_of(call: Call, keep: bool, into: bool, turning: Turning | None) -> Prepared:
    """The forward pass of such a call, added to what is there (``into``) or not."""
    q, part, pages = call.q, call.part, call.pages
    if part is not None:
        whole, length = part[-3:], max(part.n, part.n_q)
    else:
        whole = q.shape[1], call.k.shape[1], q.shape[0]
        length = max(q.shape[2], call.k.shape[2] if pages is None else pages.bound)
    dims, few, wide = (q.shape[3], call.v.shape[3]), q.shape[2] <= _FEW[q.dtype], length > NARROW_LENGTH
    # Few queries of a part are always added to what is there: so the pieces of a cache have one kernel.
    carry = part is not None and (into or few or q.dtype != torch.float32)
    return moving(call.encoded, whole, q.shape[:3], dims, q.dtype, wide, few, carry, keep, turning)


@functools.lru_cache(maxsize=512)
def moving(
    program: str,
    whole: tuple[int, int, int],
    rows: tuple[int, int, int],
    dims: tuple[int, int],
    dtype: torch.dtype,
    wide: bool,
    few: bool,
    carry: bool,
    keep: bool,
    turning: Turning | None,
) -> Prepared:
    """The forward pass of calls whose sizes come with them.

    ``whole`` are the numbers of query heads, key heads and batch entries that the pattern means, ``rows`` those of the
    queries that are held, and how many these are; ``dims`` are the head sizes of queries and values.
    """
    decoded = decode(program)
    key = KernelKey("decode" if few else "forward", _name(dtype), *dims, wide, carry=carry)
    if turning is not None:
        key = replace(key, turn=turning[1], pairs=turning[0])
    kernel, branches = native(decoded, key, needed(decoded, *whole)), facts(decoded).separate if keep else 0
    known, argument = facts(decoded), problem.packing(problem.ForwardProblem)
    results, solves = _results(kernel, branches, rows, dims[1], dtype), not known.bare and bool(spec(decoded).axes)
    return Prepared(kernel, decoded, None, reads(decoded), branches, results, argument, known.align == "end", solves)


def _results(kernel: Native, branches: int, rows: Form, dim_v: int, dtype: torch.dtype) -> tuple[Room, Room, Room]:
    """What the output, the log-sum-exp and the norm of a forward pass are made from."""
    rows = (branches, *rows) if branches else rows
    norms = (branches, 3, *rows[1:]) if branches else (3, *rows)
    return room((*rows, dim_v), torch.float32 if kernel.carry else dtype), room(rows), room(norms)


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
    return Prepared(kernel, call.program, sizes, reads(call.program), branches, tuple(results), packed(whole, names))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _key(direction: str, call: Call, into: bool) -> KernelKey:
    # Results of parts are float32: those of kernels that add are.
    carry = into or (call.part is not None and call.q.dtype != torch.float32)
    return KernelKey(direction, _name(call.q.dtype), call.q.shape[3], call.v.shape[3], call.wide, carry=carry)


def native_of(call: Call, key: KernelKey | LinearKey) -> Native:
    """The kernel of a call. Raises CallError where the call is longer than its numbers are right for."""
    kernel = native(call.program, key, call.needed)
    call.check_length(kernel.longest)
    return kernel


def reads(program: Program) -> bool:
    """Whether its kernels read more than q, k and v."""
    known = facts(program)
    return bool(known.arguments) or (not known.bare and bool(names_of(spec(program))))


def packed(whole: ctypes.Structure, names: Sequence[str]) -> Packed:
    """The structure of a problem, whose sizes' pointers and fields of these names come with a call."""
    codes = {"scale": "f", "threads": "i"}
    sizes = [(getattr(problem.Sizes, name).offset, "Q") for name in ("passes", "inputs", "pages")]  # at the beginning
    return Packed(whole, sizes + [(getattr(type(whole), name).offset, codes.get(name, "Q")) for name in names])
