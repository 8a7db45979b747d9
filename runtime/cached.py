"""A cache in place of keys and values, as :class:`attnspec.Attention` sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program, facts


@runtime_checkable
class Cached(Protocol):
    """Keys and values that are kept: :class:`attnspec.Cache`."""

    def serves(self, program: Program) -> None:
        """Raises CallError unless what it keeps is what this program sees."""

    def attend(
        self, q: Tensor, *, scale: float | None, return_lse: Any, inputs: Mapping[str, Tensor] | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of the queries of the last tokens to all of them."""


def by_cache(
    program: Program,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cache: Cached | None,
    return_max: bool,
    scale: float | None,
    return_lse: bool,
    inputs: Mapping[str, Tensor],
) -> Tensor | tuple[Tensor, Tensor]:
    """A call whose keys and values lie in a cache. Raises CallError where it has both or neither, or is of another."""
    name = facts(program).name
    if cache is None or k is not None or v is not None:
        raise CallError(f"{name}: a call takes q with k and v, or with cache=, an attnspec.Cache, and not both")
    if not isinstance(cache, Cached):
        raise CallError(f"{name}: cache must be an attnspec.Cache, not {type(cache).__name__}")
    cache.serves(program)
    if return_max:
        raise CallError(f"{name}: return_max wants k and v: a cache adds up what its pieces give")
    return cache.attend(q, scale=scale, return_lse=return_lse, inputs=inputs)
