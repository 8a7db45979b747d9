"""What can be seen of the weights of an attention: chosen rows, sums over columns, branches of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.runtime import attend as around
from attnspec.runtime import operators as operator
from attnspec.runtime.core.arguments import MAX_DIM, CallError, autocast, check_call, check_derivatives, named
from attnspec.runtime.core.program import Facts, Program, spec
from attnspec.runtime.core.request import Call, sizes_of
from attnspec.runtime.core.visible import array
from attnspec.runtime.dense.rows import Scored
from attnspec.runtime.ends import ends
from attnspec.runtime.mixture import Mixture
from attnspec.runtime.prepare.rotate import turned
from attnspec.spec.spec import Spec

_PAIRS = 1 << 22
"""How many pairs of a head are looked at together where there is no kernel."""


def _numbers(rows: int | slice | Sequence[int] | Tensor, n_q: int, name: str) -> NDArray[np.int64]:
    """The numbers of the rows that are asked for."""
    try:
        return np.arange(n_q)[array(rows) if isinstance(rows, Tensor) else rows].reshape(-1)
    except (IndexError, TypeError) as error:
        raise CallError(f"{name}: rows are numbers of the {n_q} rows of q, or a slice of them: {error}") from None


def _column_sums(
    of: around.Around,
    q: Tensor,
    k: Tensor,
    scale: float | None,
    inputs: Mapping[str, Tensor],
    rows: Tensor | None = None,
) -> Tensor:
    """The sums by kernels: gradients of values are ``P^T dO``, and here ``dO`` says which of its group a head is.

    Each row counts ``rows`` times, (batch, heads, n_q).
    """
    with torch.no_grad():
        call, sizes, found = of.call(q, k, k, scale, inputs)
        turned_q, turned_k = turned(of.spec, q.float(), k.float(), sizes, found)
        group = q.shape[1] // k.shape[1]
        call = Call(turned_q, turned_k, turned_k.new_zeros((*k.shape[:3], group)), *call[3:])
        head = torch.eye(group, device=q.device).repeat(k.shape[1], 1)[None, :, None]
        dout = head.expand(*q.shape[:3], group)
        dout = dout if rows is None else dout * rows[..., None]
        results, wanted = operator.attended(call, True), [False] * len(call.inputs)
        _, _, dv, _, _ = operator.attended_backward(call, results, dout, None, wanted)
        return dv.transpose(2, 3).reshape(q.shape[0], q.shape[1], k.shape[2])


def program_of_branch(program: Program, number: int) -> Program:
    """A branch of a mixture as a program of its own."""
    whole = spec(program)
    text, of = str(whole.parts[number]), f"{whole.name}, branch {number}"
    return Program.of(text, of, None, {}, program.tile, program.layout, program.target)


class Weights:
    """What can be seen of the weights of an attention: the part of :class:`attnspec.Attention` that looks at them."""

    program: Program
    _target: str
    _kinds: tuple[str, ...]
    _encoded: str
    _facts: Facts
    _mixture: Mixture | None

    @cached_property
    def spec(self) -> Spec:
        """The checked pattern."""
        return spec(self.program)

    @_disable_dynamo  # which pairs there are is worked out in Python: torch.compile breaks the graph here
    def weights(
        self,
        q: Tensor,
        k: Tensor,
        *,
        rows: int | slice | Sequence[int] | Tensor,
        scale: float | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor:
        """The weights of chosen rows, (batch, heads, rows, n): what a call multiplies the values by.

        >>> import torch, attnspec
        >>> q, k = torch.randn(2, 1, 4, 100, 16).unbind(0)
        >>> attend = attnspec.compile("window", width=8)
        >>> attend.weights(q, k, rows=[0, -1]).shape
        torch.Size([1, 4, 2, 100])

        ``rows`` says which rows of q, (batch, heads, n_q, dim), as an index does: a number, numbers, a slice or a
        tensor (of numbers, or bool); with fewer queries than keys row 0 is not position 0. Computed in plain PyTorch
        for these rows alone, and differentiable; float32, or float64 for float64 tensors. A row adds up to one; with a
        sink, to less by the sink's share; one that may attend to no key holds zeros. In a mixture, where a pair may
        stand in several branches, and under a computed order, where it may stand in several slots, all of these are
        added up. Everything else as in a call.

        Raises CallError for rows that are not there and tensors that do not fit.
        """
        q, k, given = self._looked_at(q, k, scale, inputs, more)
        scored = Scored.of(self.spec, q, k, scale, given, sizes_of(self.spec, q, k))
        return scored.weights(_numbers(rows, q.shape[2], self._facts.name))

    @_disable_dynamo
    def column_sums(
        self,
        q: Tensor,
        k: Tensor,
        *,
        scale: float | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor:
        """How much attention each key gets from all rows together, (batch, heads, n), float32: sums of the weights.

        >>> import torch, attnspec
        >>> q, k = torch.randn(2, 1, 4, 100, 16).unbind(0)
        >>> sums = attnspec.compile("causal").column_sums(q, k)
        >>> sums.shape, round(float(sums[0, 0].sum()))
        (torch.Size([1, 4, 100]), 100)

        Policies that evict keys from a cache rank them by these (H2O: Zhang et al., 2023, section 4). They are by query
        head; ``sums.unflatten(1, (kv_heads, -1)).sum(2)`` are those of the heads that share keys. Memory is linear in
        the length; it takes the time of a forward and a backward pass, in float32. Rows are as in :meth:`weights`.
        There is no gradient: one that reaches the sums is an error (target "dense" has it). Raises CallError for
        tensors that do not fit, and where more than 256 query heads share a key head.
        """
        q, k, given = self._looked_at(q, k, scale, inputs, more)
        if self._target == "dense":
            scored = Scored.of(self.spec, q, k, scale, given, sizes_of(self.spec, q, k))
            n_q, step = q.shape[2], max(1, _PAIRS // max(1, k.shape[2]))
            parts = [scored.weights(np.arange(at, min(at + step, n_q))).sum(2) for at in range(0, n_q, step)]
            return torch.stack(parts).sum(0) if parts else scored.weights(np.arange(0)).sum(2)
        if q.shape[1] > MAX_DIM * k.shape[1]:
            raise CallError(f"{self._facts.name}: column_sums takes at most {MAX_DIM} query heads for each key head")
        if self._mixture is None:
            sums = _column_sums(around.Around.of(self.spec, self._encoded), q, k, scale, given)
        else:
            sums = self._sums_of_branches(self._mixture, q, k, scale, given)
        return ends(sums, (q, k, *given.values()), "column sums")

    def _sums_of_branches(
        self, mixture: Mixture, q: Tensor, k: Tensor, scale: float | None, given: Mapping[str, Tensor]
    ) -> Tensor:
        """The sums of a mixture that is computed branch by branch: of each branch by its weight in each row."""
        with torch.no_grad():
            call = {"scale": scale, "return_lse": True, "inputs": given}
            lses = [branch(q, k, k, **call)[1] for branch in mixture.branches]
            found = zip(self.branches, mixture.weights(q, k, given, lses), strict=True)
            arounds = ((around.Around.of(branch.spec, branch._encoded), rows) for branch, rows in found)
            return torch.stack([_column_sums(of, q, k, scale, given, rows) for of, rows in arounds]).sum(0)

    @cached_property
    def branches(self) -> tuple[Self, ...]:
        """The branches of a mixture, each an attention of its own; none where there is no mixture.

        >>> import torch, attnspec
        >>> q, k, v = torch.randn(3, 1, 4, 100, 16).unbind(0)
        >>> attend = attnspec.compile("attention a { mix (w, r) in [(8, 1), (32, 4)] { attend dilated(w, r) } }")
        >>> parts = [branch(q, k, v, return_lse=True) for branch in attend.branches]
        >>> torch.allclose(attnspec.merge(parts)[0], attend(q, k, v), atol=1e-5)
        True

        Each gives its own output and log-sum-exp (``times`` included), for looking at their shares or for mixing them
        in another way. They take the inputs of the whole; a sink is the whole's and not theirs, unless branches have
        shares. Where the mixture's weights are detached, ``[(out, lse.detach()) ...]`` merges as it does.
        """
        programs = (program_of_branch(self.program, number) for number in range(len(self.spec.mixture)))
        return tuple(type(self)(own, self._target) for own in programs)  # type: ignore[call-arg]

    def _looked_at(
        self, q: Tensor, k: Tensor, scale: float | None, inputs: Mapping[str, Tensor] | None, more: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The tensors of a call without values, checked."""
        given = self._named(inputs, more)
        q, k = autocast(q, k)
        check_call(self._facts.name, self._target, self._kinds, q, k, k)
        if self._target != "dense":
            check_derivatives(self._facts.name, scale, q, k, *given.values())
        return q, k, given

    def _named(self, inputs: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call: those in a mapping and those by keyword."""
        return named(self._facts.name, inputs, more)
