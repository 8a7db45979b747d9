"""What is computed of a part: its inputs made ready, its vectors rotated by their positions, and the kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import decode, facts
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import Call, Result, check_lists, sizes_of
from attnspec.runtime.parts.where import Asked, part_of
from attnspec.runtime.prepare.inputs import Wanted, read_by_rotations
from attnspec.runtime.prepare.rotate import turned
from attnspec.runtime.targets import Target, target_of
from attnspec.spec.spec import Spec


@dataclass(frozen=True, eq=False)
class _Text:
    """A pattern with what follows from its text: the inputs of its kernel by ``names``, and what is made ready."""

    spec: Spec
    names: tuple[str, ...]
    wanted: Wanted


@functools.lru_cache(maxsize=256)
def _text(program: str) -> _Text:
    """Found once. Raises CallError for a pattern with a computed order."""
    spec = spec_of(decode(program))
    if spec.order is not None:
        raise CallError(
            f"{spec.name}: the order is computed from all queries and keys, so a part of them has none. "
            "Compute the whole, attend(q, k, v)"
        )
    return _Text(spec, tuple(names(spec)), Wanted.of(spec))


@dataclass(frozen=True, eq=False)
class Work:
    """A part as a kernel takes it: ``call`` with rotated vectors, and what these were made from."""

    call: Call
    q: Tensor
    k: Tensor
    inputs: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, tensors: Sequence[Tensor], given: Sequence[str], scale: float | None, program: str, asked: Sequence[int]
    ) -> Work:
        """Of q, k, v and the inputs of the whole, by name. Raises CallError where one does not fit."""
        q, k, v, *rest = tensors
        part = part_of(program, q, k, Asked(*asked))
        inputs = dict(zip(given, rest, strict=True))
        known = facts(decode(program))
        if known.lists:
            check_lists(decode(program), part.heads, part.kv_heads, part.batch)
        if known.bare and not inputs:  # the text need not be read
            call = Call(
                q, k, v, (), None, None, 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale, program, part
            )
            return cls(call, q, k, {})
        text = _text(program)
        spec = text.spec
        if scale is None:
            scale = 1.0 / math.sqrt(q.shape[-1]) if spec.scale is None else spec.scale
        sizes = sizes_of(spec, q, k, part)
        found = text.wanted.at(sizes, wide=max(part.n, part.n_q) > NARROW_LENGTH)(inputs, q.device)
        by_q, by_k = turned(spec, q, k, sizes, found, compiled=True)
        call = Call(by_q, by_k, v, [found[name] for name in text.names], None, None, scale, program, part)
        return cls(call, q, k, found)

    @property
    def spec(self) -> Spec:
        """The pattern."""
        return spec_of(self.call.program)

    @property
    def target(self) -> Target:
        """Where its kernels run."""
        return target_of(self.call.program.target, self.q.device.type)

    def forward(self, keep: bool, into: tuple[Tensor, Tensor] | None = None) -> Result:
        """Output and log-sum-exp, float32, and with ``keep`` what gradients need; or added to what is given."""
        return self.target.forward(self.call, keep, into=into)

    def backward(
        self,
        result: Result,
        dout: Tensor,
        dlse: Tensor | None,
        wanted: Sequence[str],
        into: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Gradients of q, k, v and of the float inputs ``wanted``, float32, from those of the output and log-sum-exp.

        The first three are added to ``into``.
        """
        call, dtype = self.call, self.q.dtype
        read = [name in wanted and self.inputs[name].is_floating_point() for name in names(self.spec)]
        result, dout = result._replace(out=result.out.to(dtype)), dout.to(dtype)
        turns = bool(self.spec.rotations or self.spec.normalized)
        dq, dk, dv, _, dinputs = self.target.backward(call, result, dout, dlse, read, into=None if turns else into)
        found = {name: d for name, d in zip(names(self.spec), dinputs, strict=True) if d is not None}
        if turns:
            dq, dk = self._turned_back(dq, dk, wanted, found)
            if into is not None:
                dq, dk, dv = (old.add_(new) for old, new in zip(into, (dq, dk, dv), strict=True))
        return dq, dk, dv, [found[name] if name in found else self._zeros(name) for name in wanted]

    def _zeros(self, name: str) -> Tensor:
        return torch.zeros(self.inputs[name].shape, dtype=torch.float32, device=self.q.device)

    def _turned_back(
        self, dq: Tensor, dk: Tensor, wanted: Sequence[str], found: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """From gradients of rotated vectors to those of vectors; those of the inputs that rotations read are added."""
        angles = [name for name in wanted if name in read_by_rotations(self.spec)]
        sizes = sizes_of(self.spec, self.q, self.k, self.call.part)
        with torch.inference_mode(False), torch.enable_grad():
            q, k = (t.detach().to(torch.float32, copy=True).requires_grad_() for t in (self.q, self.k))
            inputs = {name: self.inputs[name].detach().clone().requires_grad_() for name in angles}
            made = turned(self.spec, q, k, sizes, {**self.inputs, **inputs})
            by = [dq.to(torch.float32, copy=True), dk.to(torch.float32, copy=True)]
            dq, dk, *more = torch.autograd.grad(made, [q, k, *inputs.values()], by, allow_unused=True)
        for name, d in zip(angles, more, strict=True):
            if d is not None:
                found[name] = found[name] + d.float() if name in found else d.float()
        return dq, dk
