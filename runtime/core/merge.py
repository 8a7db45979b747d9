"""Softmaxes over parts of the keys as the softmax over all of them: ``attnspec.merge``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import DTYPES, CallError
from attnspec.runtime.core.visible import visible

_OF_LSE = {torch.float32: DTYPES, torch.float64: (*DTYPES, torch.float64)}
"""The types of outputs that may go with each type of log-sum-exp."""


def merge(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention to all keys, from that to parts of them: pairs of an output and a log-sum-exp, by those of the whole.

    >>> import torch, attnspec
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).unbind(0)
    >>> near, far = (attnspec.compile(f"attention a {{ attend {where} }}") for where in ("window(8)", "q - k >= 8"))
    >>> out, lse = attnspec.merge([near(q, k, v, return_lse=True), far(q, k, v, return_lse=True)])
    >>> torch.allclose(out, attnspec.compile("causal")(q, k, v), atol=1e-5)
    True

    Each output is (batch, heads, n_q, dim_v), or of any other shape, and its log-sum-exp (natural, float32 or float64)
    of the same without the last dimension, as calls with ``return_lse`` give them; so are the results. Outputs share
    one dtype; sums are those of the log-sum-exp. A key that stands in several parts counts several times.
    Differentiable in outputs and log-sum-exps as often as one likes. A part that sees nothing (minus infinity) has no
    effect, whatever its output holds; where no part sees anything the results are zero and minus infinity. A sink is a
    part too: zeros with its logit.

    Raises CallError for parts that do not fit each other, and where there are none.
    """
    outs, lses = _checked(list(parts))
    merged = _at_once(outs, lses)
    return _by_operations(outs, lses) if merged is None else merged


def _by_operations(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The same, differentiable."""
    top = torch.stack(lses).detach().amax(0)
    top = top.masked_fill(torch.isneginf(top), 0.0)
    shares = [torch.exp(lse - top) for lse in lses]
    total = torch.stack(shares).sum(0)
    empty = total == 0.0
    total = total.masked_fill(empty, 1.0)
    merged = torch.zeros_like(outs[0], dtype=total.dtype)
    for out, share in zip(outs, shares, strict=True):
        weight = (share / total)[..., None]
        merged = merged + weight * out.to(total.dtype).masked_fill(weight == 0.0, 0.0)
    return merged.to(outs[0].dtype), (total.log() + top).masked_fill(empty, float("-inf"))


def _at_once(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """The same on the CPU without gradients, where memory takes the time: once through each output that has a weight.

    None where it is not that, and for infinity or NaN: rows without a weight may have brought it in.
    """
    if lses[0].device.type != "cpu" or not visible(*outs, *lses):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*outs, *lses)):
        return None
    weights = torch.stack(lses)
    dtype = weights.dtype
    top = weights.amax(0).clamp_min_(torch.finfo(dtype).min)
    total = weights.sub_(top).exp_().sum(0)
    weights.div_(total.clamp_min(1.0))  # it is at least that, or zero
    merged = None
    for out, weight in zip(outs, weights[..., None], strict=True):
        if weight.any():
            merged = weight * out.to(dtype) if merged is None else merged.addcmul_(weight, out.to(dtype))
    if merged is None:
        merged = torch.zeros_like(outs[0], dtype=dtype)
    elif not merged.sum().isfinite():
        return None
    return merged.to(outs[0].dtype), total.log_().add_(top)


def mixed(
    parts: Sequence[tuple[Tensor, Tensor]],
    shares: Sequence[Tensor] = (),
    sink: Tensor | None = None,
    detached: bool = False,
) -> tuple[Tensor, Tensor]:
    """The output of a mixture, and its log-sum-exp, from those of its branches, each as :func:`merge` takes them.

    With ``shares`` it is the sum of the outputs times these, (batch, heads, n_q or 1) each, and there is no log-sum-exp
    (NaN). Otherwise branches are mixed by their denominators, of which ``sink``, a logit of every row that broadcasts
    to the log-sum-exps, is one more term; where this is ``detached`` no gradient of the output goes through them.
    """
    outs, lses = zip(*parts, strict=True)
    if shares:
        dtype = lses[0].dtype
        terms = [(share.to(dtype)[..., None], out.to(dtype)) for share, out in zip(shares, outs, strict=True)]
        total = terms[0][0] * terms[0][1]
        for share, out in terms[1:]:
            total = torch.addcmul(total, share, out)
        return total.to(outs[0].dtype), torch.full_like(lses[0], torch.nan)
    terms = list(parts)
    if sink is not None:
        terms.append((torch.zeros_like(outs[0]), sink.to(lses[0].dtype).expand(lses[0].shape)))
    merged, lse = merge(terms)
    if detached:
        merged, _ = merge([(out, lse.detach()) for out, lse in terms])
    return merged, lse


def _checked(parts: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    if not parts:
        raise CallError("merge: there are no parts")
    for number, part in enumerate(parts):
        if not isinstance(part, tuple | list) or len(part) != 2 or not all(isinstance(t, Tensor) for t in part):
            raise CallError(f"merge: part {number} must be an output and a log-sum-exp: call with return_lse=True")
        (out, lse), (first, first_lse) = part, parts[0]
        if lse.dtype not in _OF_LSE or out.dtype not in _OF_LSE[lse.dtype]:
            raise CallError(
                f"merge: part {number} has an output of {out.dtype} and a log-sum-exp of {lse.dtype}; the latter must "
                "be float32, or float64, which outputs of float64 need"
            )
        if out.shape[:-1] != lse.shape or not out.dim():
            raise CallError(
                f"merge: part {number} has an output {tuple(out.shape)} and a log-sum-exp {tuple(lse.shape)}; the "
                "latter must have the output's shape without its last dimension"
            )
        if out.shape != first.shape or out.dtype != first.dtype or lse.dtype != first_lse.dtype:
            raise CallError(
                f"merge: parts must have one shape and dtype; part 0 has {tuple(first.shape)}, {first.dtype} and "
                f"{first_lse.dtype}, part {number} {tuple(out.shape)}, {out.dtype} and {lse.dtype}"
            )
        if not first.device == out.device == lse.device:
            raise CallError(f"merge: parts must be on one device; they are on {first.device} and {out.device}")
    outs, lses = zip(*parts, strict=True)
    return list(outs), list(lses)
