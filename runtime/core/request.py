"""What a call hands to a kernel, and what follows from its lengths and inputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnspec.codegen.plan.lengths import NARROW_LENGTH
from attnspec.relation.sizes import Scalar
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program, facts, spec


@dataclass(frozen=True)
class Extra:
    """What comes with a call beside q, k and v.

    ``inputs`` are those of the kernel, in its order; ``order`` (batch, heads, rounds * n) the positions of the slots of
    a computed order; ``sink`` (batch, heads) float32 a logit of every row; ``m`` the number that axis lengths are
    solved for (-1: there are no axes).
    """

    inputs: tuple[Tensor, ...] = ()
    order: Tensor | None = None
    sink: Tensor | None = None
    m: int = -1


@dataclass(frozen=True)
class Turn:
    """By which angles a kernel turns queries when it loads them: see :func:`attnspec.runtime.cpp.turn.turn`."""

    cos: Tensor
    sin: Tensor
    pairs: bool


def is_wide(q: Tensor, k: Tensor) -> bool:
    """Whether positions need 64 bits because of the lengths."""
    return max(q.shape[2], k.shape[2]) > NARROW_LENGTH


def scalars_of(program: Program, extra: Extra) -> tuple[Scalar | None, ...]:
    """The inputs that are parameters of the sets, which tables are made from."""
    from attnspec.codegen.expressions.reads import names
    from attnspec.relation.relation import scalar_names, scalars

    own = spec(program)
    places, wanted = names(own), scalar_names(own)
    arrays = {name: extra.inputs[at].numpy(force=True) for name, at in places.items() if name in wanted}
    return scalars(own, arrays)


def check_length(program: Program, longest: int, q: Tensor, k: Tensor) -> None:
    """Raises CallError where a call is longer than a kernel's numbers are right for."""
    length = max(q.shape[2], k.shape[2])
    if length > longest:
        raise CallError(
            f"{facts(program).name}: the pattern multiplies positions; its numbers fit 64 bits up to lengths of "
            f"{longest:,}; this call has {length:,}"
        )
