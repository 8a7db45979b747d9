"""A decay beside softmax: the sums of its steps are inputs of a pattern that kernels of softmax compute."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.analysis.past import ahead
from attnspec.runtime.core.arguments import CallError, check_tensors
from attnspec.runtime.core.program import Needed, Program, decode, needed, relation
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import sizes_of
from attnspec.runtime.core.visible import array, traced, transforming
from attnspec.runtime.linear.decay import logarithms
from attnspec.runtime.prepare.inputs import check, prepare
from attnspec.runtime.prepare.operator import GIVEN, LIBRARY, Given, define
from attnspec.spec.decayed import length, scored, sum_names
from attnspec.spec.spec import Spec


def program_of_scores(program: Program) -> Program:
    """The program of what :func:`attnspec.spec.decayed.scored` makes of a pattern."""
    checked = spec_of(program)
    text, of = str(scored(checked)), f"{checked.name}, decay as a score"
    return Program.of(text, of, None, {}, program.tile, program.layout, program.target)


@dataclass(frozen=True, eq=False)
class Decayed:
    """A pattern whose scores decay, with what follows from its text, found once: torch.compile need not trace how.

    ``attend`` takes the sums of steps as two inputs, of the ``names``, beside those that it ``reads`` itself.
    """

    spec: Spec
    program: str
    names: tuple[str, str]
    reads: frozenset[str]
    attend: Callable[..., Any]

    @classmethod
    def of(cls, spec: Spec, program: str, attend: Callable[..., Any]) -> Decayed:
        """Of a checked pattern, and its :func:`program_of_scores` compiled."""
        names = sum_names(spec)
        reads = frozenset(declared.name for declared in scored(spec).inputs) - {*names}
        return cls(spec, program, names, reads, attend)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, inputs: Mapping[str, Tensor], return_max: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Output, log-sum-exp and, if asked for, the largest scores of rows.

        Raises CallError for inputs that do not fit, and where a query may see a later key.
        """
        check_tensors(self.spec.name, inputs)
        if traced(q, *inputs.values()):
            sums = decay_sums([q.detach(), k.detach(), *inputs.values()], list(inputs), self.program)
        else:
            if transforming():
                inputs = {n: t if t.is_floating_point() else torch.from_numpy(array(t)) for n, t in inputs.items()}
            sums = _sums(self.spec, self.program, q, k, inputs)
        # In two numbers of float32: what the first leaves out of float64 is in the second, and so is the gradient.
        high = sums.detach().float()
        low = (sums - high.double()).float()
        own = {name: t for name, t in inputs.items() if name in self.reads}
        own |= {self.names[0]: high, self.names[1]: low}
        found = self.attend(q, k, v, scale=scale, return_lse=True, return_max=return_max, inputs=own)
        return found if return_max else (*found, None)


@functools.lru_cache(maxsize=256)
def _check_past(program: Program, sizes: Needed) -> None:
    """Raises CallError where a query may see a later key: then what decays is no difference of sums."""
    found = ahead(relation(program, sizes))
    if found is not None:
        raise CallError(
            f"{spec_of(program).name}: kernels serve `decay` beside softmax for keys that are never later than their "
            f"query; here query {found.q} may see key {found.k} (n = {found.n}). Restrict the pattern (`within k <= "
            'q`), or use target="dense"'
        )


def _sums(spec: Spec, program: str, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The sums of the logarithms of all steps up to each position, (batch, heads, positions), float64."""
    whole = decode(program)
    _check_past(whole, needed(whole, q.shape[1], k.shape[1], q.shape[0]))
    sizes = sizes_of(spec, q, k)
    found = prepare(spec, sizes, inputs, real=torch.float64, device=q.device)
    logs = logarithms(spec, found, sizes, np.arange(sizes.parameters(0, 0)[length(spec)]), q.device)
    assert logs is not None
    return logs.cumsum(2)


def _operator(tensors: Sequence[Tensor], names: Sequence[str], program: str) -> Tensor:
    spec, q, k, inputs = Given.of(tensors, names, program)
    return _sums(spec, program, q, k, inputs)


def _fake(tensors: Sequence[Tensor], names: Sequence[str], program: str) -> Tensor:
    spec, q, k, inputs = Given.of(tensors, names, program)
    check(spec, None, inputs, q.device)
    positions = (k if length(spec) == "n" else q).shape[2]
    return q.new_empty((q.shape[0], q.shape[1], positions), dtype=torch.float64)


def _backward(gradient: Tensor, tensors: Sequence[Tensor], names: Sequence[str], program: str) -> list[Tensor]:
    """Gradients of the float inputs, in their order."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(i > 1 and t.is_floating_point()) for i, t in enumerate(tensors)]
        floats, sums = [t for t in leaves if t.requires_grad], _operator(leaves, names, program)
        found: Sequence[Tensor | None] = [None] * len(floats)
        if sums.requires_grad:
            found = torch.autograd.grad(sums, floats, gradient, allow_unused=True)
    return [torch.zeros_like(t) if d is None else d for t, d in zip(floats, found, strict=True)]


def _fake_backward(gradient: Tensor, tensors: Sequence[Tensor], names: Sequence[str], program: str) -> list[Tensor]:
    return [torch.empty_like(t) for t in tensors[2:] if t.is_floating_point()]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.names, ctx.program = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    floats = iter(torch.ops.attnspec.decay_sums_backward.default(gradient, tensors, ctx.names, ctx.program))
    return [next(floats) if i > 1 and t.is_floating_point() else None for i, t in enumerate(tensors)], None, None


define("decay_sums", f"({GIVEN}) -> Tensor", _operator, _fake)
define("decay_sums_backward", f"(Tensor gradient, {GIVEN}) -> Tensor[]", _backward, _fake_backward)
torch.library.register_autograd("attnspec::decay_sums", _gradients, setup_context=_keep, lib=LIBRARY)
decay_sums = torch.ops.attnspec.decay_sums.default
