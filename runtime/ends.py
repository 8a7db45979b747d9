"""Results without a gradient, of tensors that have one: where a gradient reaches one there is an error.

Without it the gradient would be dropped, and what is trained would be something else than what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "refused(Tensor gradient, Tensor source, str what) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)


def ends(result: Tensor, sources: Sequence[Tensor], what: str) -> Tensor:
    """A result that came from ``sources``; a gradient that reaches it is an error that says ``what`` it is."""
    learned: list[Tensor] = []
    for t in sources:
        if t.requires_grad and not any(t is other for other in learned):  # torch.compile wants each of them once
            learned.append(t)
    if not learned or not torch.is_grad_enabled():
        return result
    return _Ends.apply(what, result.detach(), *learned)  # type: ignore[no-any-return, no-untyped-call]


class _Ends(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(what: str, result: Tensor, *sources: Tensor) -> Tensor:
        return result.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.what, _, *sources = inputs
        ctx.save_for_backward(*sources)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        sources = ctx.saved_tensors
        if gradient is None:
            return None, None, *(None for _ in sources)
        if not torch.compiler.is_compiling():
            _refuse(ctx.what)
        # A compiled graph hands zeros to results that nothing depends on.
        return None, None, *(torch.ops.attnspec.refused.default(gradient, source, ctx.what) for source in sources)


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(f'attnspec: {what} have no gradient. Use .detach(), or target="dense", which has it')


def _refused(gradient: Tensor, source: Tensor, what: str) -> Tensor:
    """The gradient of a source."""
    if gradient.any():
        _refuse(what)
    return torch.zeros_like(source)


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("refused", _refused, _device)  # type: ignore[no-untyped-call]
torch.library.register_fake("attnspec::refused", lambda gradient, source, what: torch.empty_like(source), lib=_LIBRARY)
