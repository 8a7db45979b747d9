"""A step of generation: what a single query sees stands side by side, so it is cut out, and nothing is masked."""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.runtime.huggingface.formulas import CAUSAL
from attnspec.runtime.huggingface.standin import PLACES, Structure, numbers_of

_CAUSAL = {Structure(CAUSAL, shifted=shifted).number for shifted in (False, True)}


def seen(mask: Tensor, batch: int, keys: int) -> slice | None:
    """The keys that the only query of each batch entry sees; None where the stand-in has to say it to a kernel.

    That is where it is not causal, or not alike in all batch entries; and where its numbers are not to be read: on a
    GPU, as they would have to be waited for, and while something traces.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing() or type(mask) is not Tensor or not mask.is_cpu:
        return None
    if mask.shape[1] not in _CAUSAL or mask.shape != (batch, mask.shape[1], keys + 1, len(PLACES)):
        return None
    cut = None
    for query_start, key_start, real_start, real_stop in numbers_of(mask):
        start, stop = max(real_start - key_start, 0), min(real_stop - key_start, query_start + 1 - key_start, keys)
        if start >= stop or (cut is not None and cut != (start, stop)):
            return None
        cut = (start, stop)
    return None if cut is None else slice(*cut)
