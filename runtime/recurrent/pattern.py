"""The mask of a segment: whether a model's own attention has it already, and attention that has it if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnspec.analysis.causal import why_not_causal
from attnspec.relation.lower import sizes_needed
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import decode
from attnspec.runtime.cpp.merge import merge
from attnspec.spec.axes import lengths, sizes
from attnspec.spec.real import Score

_NUMBERS = count(1)
_PATTERNS: WeakValueDictionary[int, Pattern] = WeakValueDictionary()


class Pattern:
    """Which positions of a segment see which: of a spec with axes, for segments of any length.

    ``rows`` are the axes that a model runs over, in their order.
    """

    def __init__(self, attend: Attention) -> None:
        self.attend, self.spec = attend, attend.spec
        self.rows = tuple(axis.name for axis in self.spec.axes if axis.queries)
        self.number = next(_NUMBERS)
        _PATTERNS[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:  # a copy has a number of its own
        return _made, (self.attend.program.encoded, self.attend.program.target)

    def sizes(self, length: int) -> dict[str, int]:
        """The size of each axis beside so many tokens."""
        return sizes(self.spec.axes, length)

    @property
    def plain(self) -> bool:
        """Whether it is a mask and no more."""
        spec = self.spec
        beside = (spec.mixture, spec.inputs, spec.order, spec.turns, spec.sink, spec.normalized)
        return spec.softmax_only and spec.scale is None and spec.score == Score() and not any(beside)

    @cached_property
    def why_not_causal(self) -> str:
        """Why a model's own causal attention does not serve; empty where it is proven to have the mask.

        Memory that layers keep stands before all rows there, and each row sees itself and all before it. So it remains
        where the first positions of axes are not there.
        """
        axes = self.spec.axes
        kept = [axis for axis in axes if not axis.queries]
        if any(not axis.keys for axis in axes) or list(axes[: len(kept)]) != kept:
            return "rows that are no keys, or keys that are no rows, stand elsewhere than before all others"
        if sizes_needed(self.spec):
            return "heads are told apart"
        return why_not_causal(self.attend.relation)

    def bind(self, length: int, missing: Mapping[str, int]) -> Bound:
        """The pattern of one run: so many tokens, the first positions of some axes not there."""
        return Bound(self, length, tuple(missing.get(axis.name, 0) for axis in self.spec.axes))


def _made(encoded: str, target: str) -> Pattern:
    return Pattern(Attention(decode(encoded), target))


@dataclass(frozen=True)
class Bound:
    """The pattern of one run of a model over some tokens: attention that has it, and numbers that stand for it.

    ``missing`` says how many of each axis' first positions are not there.
    """

    pattern: Pattern
    length: int
    missing: tuple[int, ...]

    @property
    def mask(self) -> Tensor:
        """What stands for it where a model hands a mask of 4 dimensions to its layers: (1, 1, 1, numbers)."""
        return torch.tensor([self.pattern.number, self.length, *self.missing])[None, None, None]

    @classmethod
    def of(cls, mask: Tensor) -> Bound:
        """What such numbers stand for. Raises CallError where that is gone."""
        number, length, *missing = mask.flatten().tolist()
        if number not in _PATTERNS:
            raise CallError("attnspec.recurrent: a model's layers are run again after its wrapper is gone: keep that")
        return cls(_PATTERNS[number], length, tuple(missing))

    @cached_property
    def _places(self) -> tuple[list[slice], list[slice], list[slice], int]:
        """Where in the whole the rows and keys are that are here, where the keys are among those given; how many."""
        every = self.pattern.sizes(self.length)
        rows: list[slice] = []
        keys: list[slice] = []
        held: list[slice] = []
        row = key = at = 0
        for axis, gone in zip(self.pattern.spec.axes, self.missing, strict=True):
            size = every[axis.name]
            if axis.queries:
                rows.append(slice(row + gone, row + size))
                row += size
            if axis.keys:
                keys.append(slice(key + gone, key + size))
                held.append(slice(at, at + size - gone))
                key += size
            at += size - gone
        return rows, keys, held, at

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        """Attention of q (batch, heads, rows, dim) to k and v, (batch, kv_heads, all positions, dim): as q.

        All positions are those of the axes in the order of the spec, as many as are there.
        """
        attend, spec = self.pattern.attend, self.pattern.spec
        rows, keys, held, positions = self._places
        wanted = sum(at.stop - at.start for at in rows)
        if (q.shape[2], k.shape[2]) != (wanted, positions):
            raise CallError(
                f"{spec.name}: a layer gives {q.shape[2]} queries and {k.shape[2]} keys; this run has {wanted} and "
                f"{positions}"
            )
        if any(not axis.keys for axis in spec.axes):
            k, v = (torch.cat([t[:, :, at] for at in held], 2) for t in (k, v))
        if not any(self.missing):
            return attend(q, k, v, scale=scale)
        n, n_q = lengths(spec.axes, self.length)
        if attend.program.target == "dense":
            mask = torch.from_numpy(spec.mask(n, n_q, q.shape[1], q.shape[0], k.shape[1])).to(q.device)
            mask = mask[:, :, _indices(rows)][..., _indices(keys)]
            return scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
        out = []
        for here, own in _runs(rows):
            parts = [
                attend.part(
                    q[:, :, own], k[:, :, at], v[:, :, at], q_start=here, k_start=there, n=n, n_q=n_q, scale=scale
                )
                for there, at in _runs(keys)
            ]
            out.append((merge(parts)[0] if len(parts) > 1 else parts[0][0]).to(q.dtype))
        return torch.cat(out, 2)


def _indices(places: Sequence[slice]) -> Tensor:
    return torch.cat([torch.arange(at.start, at.stop) for at in places])


def _runs(places: Sequence[slice]) -> list[tuple[int, slice]]:
    """Where runs of positions without a gap begin in the whole, and where they are among those that are here."""
    found: list[list[int]] = []
    for at in places:
        if at.start == at.stop:
            continue
        if found and found[-1][1] == at.start:
            found[-1][1] = at.stop
        else:
            found.append([at.start, at.stop])
    ends = [0]
    for start, stop in found:
        ends.append(ends[-1] + stop - start)
    return [(start, slice(a, b)) for (start, _), (a, b) in zip(found, pairwise(ends), strict=True)]
