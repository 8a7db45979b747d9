"""What a call hands to a target, what comes back, and what follows from the lengths and inputs of a call."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.relation.sizes import Held, Scalar, Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.pages import Pages
from attnspec.runtime.core.program import Needed, Program, decode, facts, needed, spec
from attnspec.spec.heads import uncovered
from attnspec.spec.spec import Spec


class Part(NamedTuple):
    """Where the tensors of a call lie in a larger score matrix, and the sizes of that one.

    Query row r stands at position ``q_start + r``, key r at ``k_start + r``; head h is ``h_start + h`` there, entry b
    of the batch ``b_start + b``. The other numbers are those that the pattern's text means.
    """

    q_start: int
    k_start: int
    h_start: int
    b_start: int
    n: int
    n_q: int
    heads: int
    kv_heads: int
    batch: int

    def sizes(self, q: Tensor, k: Tensor, align: str, m: int | None) -> Sizes:
        """The sizes of the whole, with what these tensors hold of it."""
        (batch, heads, rows, _), (_, kv_heads, keys, _) = q.shape, k.shape
        held = Held(self.q_start, rows, self.k_start, keys, self.h_start, heads, kv_heads, self.b_start, batch)
        return Sizes(self.n, self.n_q, self.heads, self.kv_heads, self.batch, align == "end", m, part=held)


class Call(NamedTuple):
    """One call of a program. Its fields are the arguments of the operators: ``attend(*call.whole, keep)``.

    q is (batch, heads, n_q, dim), k (batch, kv_heads, n, dim), v (batch, kv_heads, n, dim_v), rotated where the pattern
    says so, of one dtype and on one device. ``inputs`` are those of the kernel, in its order; ``order`` (batch, heads,
    rounds * n) the positions of the slots of a computed order; ``sink`` float32 a logit of every row, (batch, heads),
    or one of each, (batch, heads, n_q); ``encoded`` is the program as a string. ``part`` says where
    all this lies in a larger score matrix; without it, it is the whole of one. With ``pages`` k and v are (pages,
    kv_heads, page_size, dim), and ``pages`` says which of them each entry of the batch has.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    inputs: Sequence[Tensor]
    order: Tensor | None
    sink: Tensor | None
    scale: float
    encoded: str
    part: Part | None = None
    pages: Pages | None = None

    @property
    def whole(self) -> tuple[Any, ...]:
        """The fields of a call that holds all of its score matrix."""
        return self[:-2]

    @property
    def program(self) -> Program:
        """The program."""
        return decode(self.encoded)

    @property
    def needed(self) -> Needed:
        """The sizes that the program's kernels are made for."""
        program = self.program
        if not facts(program).needs:
            return ()  # most programs: their calls need not look at shapes
        if self.part is not None:
            return needed(program, self.part.heads, self.part.kv_heads, self.part.batch)
        return needed(program, self.q.shape[1], self.k.shape[1], self.q.shape[0])

    @property
    def wide(self) -> bool:
        """Whether positions need 64 bits because of the lengths."""
        return self.length > NARROW_LENGTH

    @property
    def length(self) -> int:
        """How many keys or queries there are at most."""
        if self.pages is not None:
            return max(self.q.shape[2], self.pages.longest)
        return max(self.q.shape[2], self.k.shape[2]) if self.part is None else max(self.part.n, self.part.n_q)

    @property
    def sizes(self) -> Sizes:
        """The sizes, without scalars; in pages those of the longest entry, axis lengths not solved.

        Raises CallError where no axis lengths fit the tensors.
        """
        known, part = facts(self.program), self.part
        if self.pages is not None:
            (batch, heads, n_q, _), kv_heads = self.q.shape, self.k.shape[1]
            return Sizes(self.pages.longest, n_q, heads, kv_heads, batch, known.align == "end")
        n, n_q = (self.k.shape[2], self.q.shape[2]) if part is None else (part.n, part.n_q)
        return _sizes(self.q, self.k, known.align, solved(self.encoded, n, n_q), part)

    def scalars(self) -> tuple[Scalar | None, ...]:
        """The inputs that are parameters of the sets, which tables are made from. Waits for the device."""
        wanted = _scalars(self.encoded)
        if not wanted:
            return ()
        from attnspec.relation.relation import scalars

        return scalars(spec(self.program), {name: self.inputs[at].tolist() for name, at in wanted})

    def check_length(self, longest: int) -> None:
        """Raises CallError where the call is longer than a kernel's numbers are right for."""
        if self.length > longest:
            raise CallError(
                f"{facts(self.program).name}: the pattern multiplies positions; its numbers fit 64 bits up to lengths "
                f"of {longest:,}; this call has {self.length:,}"
            )


EMPTY = torch.empty(0)
"""A result that is not there."""


class Result(NamedTuple):
    """The output (batch, heads, n_q, dim_v) of q's dtype, the log-sum-exp (batch, heads, n_q) float32, norm and parts.

    The last two are needed for gradients only, and :data:`EMPTY` unless ``keep``: what weights are relative to (see
    :mod:`attnspec.runtime.core.norm`), and where the weights of a mixture are detached the outputs of the branches,
    (branches, batch, heads, n_q, dim_v).
    """

    out: Tensor
    lse: Tensor
    norm: Tensor
    parts: Tensor

    def apart(self) -> Result:
        """None of them a tensor that others have too, as operators must return them."""
        return Result(*[t.clone() if t is EMPTY else t for t in self])


class Gradients(NamedTuple):
    """Of q, k and v (contiguous, of their shapes and dtypes), of the sink, and of the inputs that are wanted."""

    q: Tensor
    k: Tensor
    v: Tensor
    sink: Tensor | None
    inputs: list[Tensor | None]


class Turn(NamedTuple):
    """By which angles a kernel turns queries when it loads them: see :func:`attnspec.runtime.cpp.turn.turn`."""

    cos: Tensor
    sin: Tensor
    pairs: bool


@functools.lru_cache(maxsize=256)
def _scalars(program: str) -> tuple[tuple[str, int], ...]:
    """The inputs that are parameters of the sets and that kernels read: names, with their places among the inputs."""
    from attnspec.relation.relation import scalar_names  # here: few calls need the solver

    checked = spec(decode(program))
    wanted = scalar_names(checked)
    return tuple((name, at) for name, at in names(checked).items() if name in wanted)


@functools.lru_cache(maxsize=256)
def check_lists(program: Program, heads: int, kv_heads: int, batch: int) -> None:
    """Raises CallError where a list of reals that is read by head has no entry for one."""
    found = uncovered(spec(program), {"heads": heads, "kv_heads": kv_heads, "batch": batch})
    if found is not None:
        name, (read, head) = facts(program).name, found
        raise CallError(f"{name}: the list in `{read}` has no entry for head {head}; this call has {heads} heads")


@functools.lru_cache(maxsize=256)
def arguments_of(program: Program, device: torch.device) -> Mapping[str, Tensor]:
    """What kernels read beside inputs: real parameters and what follows from them; lists on a device. float32."""
    return {
        name: torch.tensor(value, dtype=torch.float32, device=device if isinstance(value, tuple) else None)
        for name, value in facts(program).arguments
    }


def is_wide(q: Tensor, k: Tensor) -> bool:
    """Whether positions need 64 bits because of the lengths."""
    return max(q.shape[2], k.shape[2]) > NARROW_LENGTH


@functools.lru_cache(maxsize=256)
def solved(program: str, n: int, n_q: int) -> int | None:
    """The number that axis lengths are solved for in calls of these lengths; None without axes. Raises CallError."""
    known = decode(program)
    return None if facts(known).bare else _solved(spec(known), n, n_q)  # the text of most need not be read


def _solved(pattern: Spec, n: int, n_q: int) -> int | None:
    try:
        return pattern.sizes(n, n_q)["m"] if pattern.axes else None
    except ValueError as error:
        raise CallError(f"{pattern.name}: {error}") from None


def sizes_of(pattern: Spec, q: Tensor, k: Tensor, part: Part | None = None) -> Sizes:
    """The sizes of a call, axis lengths solved. Raises CallError where no axis lengths fit the tensors."""
    n, n_q = (k.shape[2], q.shape[2]) if part is None else (part.n, part.n_q)
    return _sizes(q, k, pattern.align, _solved(pattern, n, n_q), part)


def _sizes(q: Tensor, k: Tensor, align: str, m: int | None, part: Part | None) -> Sizes:
    if part is not None:
        return part.sizes(q, k, align, m)
    return Sizes(k.shape[2], q.shape[2], q.shape[1], k.shape[1], q.shape[0], align == "end", m)
