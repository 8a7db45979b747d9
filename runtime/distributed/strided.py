"""Parts whose rows and keys stand at every ``step``-th position: items of residue shards, and of dilated branches.

>>> import attnspec
>>> attend = attnspec.compile("dilated", width=64, rate=16)
>>> q, k, v = torch.randn(3, 1, 2, 400, 16).unbind(0)
>>> at = strided(attend, Run(3, 400, 8), Run(3, 400, 8))
>>> out, _ = at.part(q[:, :, 3::8], k[:, :, 3::8], v[:, :, 3::8], n=400)
>>> torch.allclose(out, attend(q, k, v)[:, :, 3::8], atol=1e-5)
True
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnspec.codegen.ranks.runs import Run
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.program import Program, decode
from attnspec.runtime.core.program import spec as _spec_of
from attnspec.runtime.prepare.runs import numbers, run_ends
from attnspec.spec import strided as of_spec
from attnspec.spec.arrays import drawn_for
from attnspec.spec.spec import Spec

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class WholeInputs:
    """The inputs of a call, whole: what all of its parts share. ``sizes`` are those of :meth:`Spec.sizes`."""

    spec: Spec
    given: Inputs
    sizes: Mapping[str, int]
    device: torch.device

    @classmethod
    def of(cls, spec: Spec, given: Inputs, sizes: Mapping[str, int], device: torch.device) -> WholeInputs:
        """Inputs as they were given, with those that are drawn."""
        given = dict(given)
        for declared in spec.inputs:
            if declared.random is not None and declared.name not in given:
                given[declared.name] = torch.from_numpy(drawn_for(spec, declared, sizes)).to(device)
        return cls(spec, given, sizes, device)

    @cached_property
    def strided(self) -> Inputs:
        """As strided patterns take them: made when there is such a part."""
        made = dict(self.given)
        for declared in self.spec.inputs:
            if declared.form == "offsets":
                made[declared.name] = numbers(self.given[declared.name], self.sizes["m"])
        for end, name in of_spec.ends(self.spec).items():
            base, _, which = end.partition(".")
            made[name] = run_ends(made[base].contiguous(), (which,))[which]
        for length, name in of_spec.lengths(self.spec).items():
            made[name] = torch.tensor(self.sizes[length], device=self.device)
        return made


@dataclass(frozen=True, eq=False)
class Strided:
    """Rows at ``queries`` and keys at ``keys`` of a pattern: what :class:`attnspec.Attention` says of parts, for these.

    Positions are no arguments: they are the runs'. ``inputs`` are :class:`WholeInputs`, or those of the call
    where the pattern reads no lengths and no sorted inputs. Everything else as in a part, n and n_q the whole's.
    """

    attend: Attention
    queries: Run
    keys: Run

    def part(self, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp: :meth:`attnspec.Attention.part`."""
        attend, options = self._options(more, q.device)
        return attend.part(q, k, v, **options)

    def part_backward(self, q: Tensor, k: Tensor, v: Tensor, *result: Tensor, **more: Any) -> tuple[Tensor, ...]:
        """What the part adds to gradients: :meth:`attnspec.Attention.part_backward`."""
        attend, options = self._options(more, q.device)
        return attend.part_backward(q, k, v, *result, **options)

    def add_sink(self, out: Tensor, lse: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        """The rows with their sink: :meth:`attnspec.Attention.add_sink`."""
        attend, options = self._options(more, out.device, sink=True)
        del options["k_start"]
        return attend.add_sink(out, lse, **options)

    def _options(
        self, more: Mapping[str, Any], device: torch.device, sink: bool = False
    ) -> tuple[Attention, dict[str, Any]]:
        inputs = more.get("inputs") or {}
        given = inputs.given if isinstance(inputs, WholeInputs) else inputs
        if self.queries.step == 1 and self.keys.step == 1:
            return self.attend, {
                **more,
                "q_start": self.queries.start,
                "k_start": self.keys.start,
                "inputs": given,
            }
        sides = [of_spec.Stride(run.step, run.start % run.step) for run in (self.queries, self.keys)]
        attend, begun = _compiled(self.attend.program.encoded, self.attend._target, *sides, sink)
        declared = {item.name for item in attend.spec.inputs}
        whole = inputs.strided if isinstance(inputs, WholeInputs) else inputs
        made = {name: t for name, t in whole.items() if name in given or name in declared}
        own = {
            "q_start": self.queries.start // self.queries.step,
            "k_start": self.keys.start // self.keys.step,
            "n": max(0, -(-(more["n"] - sides[1].first) // sides[1].step)),
            "n_q": None,
            "inputs": {**made, **{name: t.to(device) for name, t in begun.items()}},
        }
        return attend, {**more, **own}


def strided(attend: Attention, queries: Run, keys: Run) -> Strided:
    """The part of these rows and keys. Raises ValueError where the pattern cannot be said over every step-th position.

    :func:`attnspec.spec.strided.why_not_strided` says so beforehand.
    """
    if (queries.step > 1 or keys.step > 1) and (why := of_spec.why_not_strided(attend.spec)) is not None:
        raise ValueError(f"{attend.spec.name} cannot be computed over every {queries.step}th position: {why}")
    return Strided(attend, queries, keys)


@functools.lru_cache(maxsize=512)
def _compiled(
    encoded: str, target: str, queries: of_spec.Stride, keys: of_spec.Stride, sink: bool
) -> tuple[Attention, dict[str, Tensor]]:
    """The strided pattern compiled, with the inputs that say where its entries begin."""
    program = decode(encoded)
    spec = _spec_of(program)
    if not sink:  # one by position is added by who holds the rows
        spec = replace(spec, sink=None)
    made = of_spec.strided(spec, queries, keys)
    declared = {item.name for item in made.inputs}
    named = zip(of_spec.firsts(spec), (queries, keys), strict=True)
    begun = {name: torch.tensor(side.first) for name, side in named if name in declared}
    own = Program.of(str(made), f"{spec.name}, strided", None, {}, program.tile, program.layout, target)
    return _attention(own, target), begun


@functools.lru_cache(maxsize=512)
def _attention(program: Program, target: str) -> Attention:
    """One for each text: many residues have the same."""
    return Attention(program, target)
