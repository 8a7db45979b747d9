"""What can be seen of the rotations of an attention: rotated queries and keys, and frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.pages import check_lengths, sizes_at
from attnspec.runtime.core.request import sizes_of
from attnspec.runtime.prepare.frequencies import attention_factor, frequencies, rotated_dims
from attnspec.runtime.prepare.inputs import check, prepare
from attnspec.runtime.prepare.rotate import turned
from attnspec.runtime.prepare.steps import check_steps, turned_last
from attnspec.runtime.weights import Weights
from attnspec.spec.parts import Input


class Frequencies(NamedTuple):
    """Of one rotate line: the angle of each pair of dimensions from one position to the next, and the factor of both.

    ``inv_freq`` is float64, (pairs,), or (batch or 1, heads or 1, 1, pairs) where it differs by them; for YaRN, Llama-3
    and the like as it has been stretched. ``attention_factor`` multiplies queries and keys: a float, or a
    tensor that broadcasts like ``inv_freq`` where it reads sizes or inputs.
    """

    inv_freq: Tensor
    attention_factor: float | Tensor


class Rotations(Weights):
    """What can be seen of the rotations: the part of :class:`attnspec.Attention` that looks at them."""

    @_disable_dynamo
    def rotated(
        self,
        q: Tensor,
        k: Tensor,
        *,
        lengths: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys as the kernel sees them: normalized and rotated as the spec says.

        >>> import torch, attnspec
        >>> q, k = torch.randn(2, 1, 4, 100, 16).unbind(0)
        >>> turned_q, turned_k = attnspec.compile("rope").rotated(q, k)
        >>> torch.equal(turned_k[:, :, 0], k[:, :, 0]), torch.equal(turned_k[:, :, 1], k[:, :, 1])
        (True, False)

        q is (batch, heads, n_q, dim) and k (batch, kv_heads, n, dim), with fewer queries than keys the last ones;
        results have their shapes and dtypes, and are differentiable in them and in float inputs that rotations read.
        The pattern's inputs are given as in a call. With ``lengths``, integers (batch,), the rows of q and of k are the
        last of sequences that are so long: what a step of an engine hands to :meth:`paged`, and writes into pages.

        Raises CallError for tensors that do not fit, with ``lengths`` where keys turn otherwise at each length, and
        where branches of a mixture turn them in their own ways.
        """
        q, k, given = self._looked_at(q, k, None, inputs, more)
        if any(branch.rotations or branch.normalized for branch in self.spec.mixture):
            raise CallError(
                f"{self._facts.name}: branches turn vectors in their own ways: attend.branches[i].rotated(...) says how"
            )
        if lengths is not None:
            return self._last_rotated(q, k, lengths, given)
        sizes = sizes_of(self.spec, q, k)
        real = torch.float64 if q.dtype == torch.float64 else torch.float32
        return turned(self.spec, q, k, sizes, prepare(self.spec, sizes, given, real=real, device=q.device))

    def _last_rotated(
        self, q: Tensor, k: Tensor, lengths: Tensor, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        check_steps(self.spec)
        check_lengths(self.spec.name, "lengths", lengths, 1, "(batch,)", q)
        n, end = max(lengths.tolist(), default=0), self.spec.align == "end"
        whole = Sizes(max(0, n), q.shape[2], q.shape[1], k.shape[1], q.shape[0], end)
        sizes = sizes_at(self.spec, whole, whole.n)
        real = torch.float64 if q.dtype == torch.float64 else torch.float32
        found = prepare(self.spec, sizes, given, real=real, device=q.device)
        return turned_last(self.spec, q, k, lengths, sizes, found)

    @_disable_dynamo
    def frequencies(
        self,
        dim: int,
        *,
        n: int = 1,
        heads: int = 1,
        batch: int = 1,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[Frequencies, ...]:
        """The frequencies of each rotate line for a head size, as tables of published models hold them.

        Those of branches of a mixture come after those outside it.

        >>> import attnspec
        >>> (yarn,) = attnspec.compile("yarn", factor=16).frequencies(64)
        >>> yarn.inv_freq.shape, round(yarn.attention_factor, 4)
        (torch.Size([32]), 1.2773)

        ``n`` is the length of the call, for formulas that read it; inputs that they read are given by name or in
        ``inputs``. Raises CallError where one is missing or does not fit, and where the head size does not.
        """
        given, sizes = {**(inputs or {}), **more}, Sizes(n, n, heads, heads, batch)
        check(replace(self.spec, inputs=self._read_by_formulas()), sizes, given, None)
        found = []
        for rotation in self.spec.turns:
            dims = rotated_dims(rotation, dim)
            factor = attention_factor(rotation, dims, sizes, given)
            found.append(Frequencies(frequencies(rotation, dims, sizes, given), factor))
        return tuple(found)

    def _read_by_formulas(self) -> tuple[Input, ...]:
        """The inputs that frequencies and attention factors depend on."""
        return self.spec.read_by(*(node for rotation in self.spec.turns for node in rotation.formulas))
