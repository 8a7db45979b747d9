"""What merging parts of the keys means, in operations of tensors, and which parts fit each other."""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.runtime.core.arguments import DTYPES, CallError

_OF_LSE = {torch.float32: DTYPES, torch.float64: (*DTYPES, torch.float64)}
"""The types of outputs that may go with each type of log-sum-exp."""


def checked(parts: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and log-sum-exps by themselves. Raises CallError for parts that do not fit each other."""
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


def by_operations(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exps of parts as those of the whole: see ``attnspec.merge``. Differentiable."""
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
