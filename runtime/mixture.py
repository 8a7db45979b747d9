"""A mixture that is computed branch by branch: where branches have lines of their own, or given shares.

Each branch is a call of its own, with its own kernels. What stands beside them, a share for each row or the sink of the
whole, is worked out as the sink of a pattern that has nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.attend import Around
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.norm import by_row
from attnspec.runtime.core.program import Facts, Program, facts
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.cpp.merge import mixed
from attnspec.runtime.linear.favor import by_branch
from attnspec.spec.real import RealExpr
from attnspec.spec.spec import Spec


def check_lse(known: Facts, return_lse: bool) -> None:
    """Raises CallError where the log-sum-exp is asked for, and there is none."""
    if return_lse and known.shared:
        raise CallError(
            f"{known.name}: a mixture by given shares has no log-sum-exp; those of its branches come from "
            "attend.branches[i](..., return_lse=True)"
        )


def together(spec: Spec) -> str:
    """How a caller puts together what the branches of such a mixture give, for errors."""
    if spec.shared:
        return "add up their outputs, each times its share"
    return "attnspec.merge" + ", and then attend.add_sink: the sink is the whole's" * (spec.sink is not None)


@dataclass(frozen=True, eq=False)
class OfRows:
    """A number for each row of a call, differentiable in the float inputs that it reads."""

    around: Around

    @classmethod
    def of(cls, spec: Spec, real: RealExpr, program: Program) -> OfRows:
        """Of a formula of a spec's, for the target of its program. Raises SpecError where a number is too large."""
        text = str(Spec(spec.name, (), (), (), spec.align, "", spec.span, inputs=spec.read_by(real), sink=real))
        own = Program.of(text, f"{spec.name}, by row", None, {}, target=program.target)
        facts(own)
        return cls(Around.of(spec_of(own), own.encoded))

    def __call__(self, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """(batch, heads, n_q or 1), float32."""
        names = [declared.name for declared in self.around.spec.inputs]
        found = self.around.of_rows(q, k, {name: inputs[name] for name in names})
        assert found is not None
        return by_row(found)


@dataclass(frozen=True, eq=False)
class Mixture:
    """The branches of a mixture that is computed so, and what puts them together."""

    branches: Sequence[Callable[..., Any]]
    shares: Sequence[OfRows]
    sink: OfRows | None
    detached: bool

    @classmethod
    def of(cls, spec: Spec, program: Program, branches: Sequence[Callable[..., Any]]) -> Mixture:
        """Of a spec and its branches, compiled. Raises SpecError as :meth:`OfRows.of` does."""
        shares = [OfRows.of(spec, branch.share, program) for branch in spec.mixture if branch.share is not None]
        sink = None if shares or spec.sink is None else OfRows.of(spec, spec.sink, program)
        return cls(branches, shares, sink, spec.detached)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, inputs: Mapping[str, Tensor], return_max: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Output, log-sum-exp (NaN where there are shares) and, if asked for, the largest scores of rows."""
        options = {"scale": scale, "return_lse": not self.shares, "return_max": return_max}
        inputs, given = by_branch([branch.spec for branch in self.branches], inputs)  # type: ignore[attr-defined]
        found = [branch(q, k, v, inputs=own, **options) for branch, own in zip(self.branches, given, strict=True)]
        if self.shares:  # whose branches need not have a log-sum-exp
            none = torch.full(q.shape[:3], torch.nan, device=q.device)
            found = [(part[0], none, *part[1:]) if return_max else (part, none) for part in found]
        out, lse = self.put_together(q, k, inputs, [(part[0], part[1]) for part in found])
        return out, lse, torch.stack([part[2] for part in found]).amax(0) if return_max else None

    def weights(self, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor], lses: Sequence[Tensor]) -> list[Tensor]:
        """What the outputs of branches are multiplied by, (batch, heads, n_q): mixed unit vectors show it."""
        unit = torch.eye(len(lses), device=q.device)
        parts = [(unit[i].expand(*lse.shape, len(lses)), lse) for i, lse in enumerate(lses)]
        return list(self.put_together(q, k, inputs, parts)[0].unbind(-1))

    def put_together(
        self, q: Tensor, k: Tensor, inputs: Mapping[str, Tensor], parts: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of the whole from those of the branches."""
        shares = [share(q, k, inputs) for share in self.shares]
        return mixed(parts, shares, None if self.sink is None else self.sink(q, k, inputs), self.detached)
